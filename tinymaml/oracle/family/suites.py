"""What the algorithms of the family are asked: cases drawn from a seed, those of the core and new ones.

    spec(algorithm)                                 {id: arguments}
    draw(algorithm, name, arguments, seed)          a case, without its answer
    fresh(algorithm, seed, count, dtype)            new ones, with their answers
"""

from __future__ import annotations

import dataclasses
import math
import random

import numpy as np

from .. import cases, references
from ..arithmetic import Uncertain
from . import ALGORITHMS


def draw(algorithm: str, name: str, arguments: dict, seed: int, id: str = "") -> cases.Case:
    """The case `name` of an algorithm. All numbers are exact in float32."""
    module, arguments = ALGORITHMS[algorithm], dict(arguments)
    settings = arguments.pop("settings", {})
    source = random.Random(f"{algorithm} {name} {seed}")

    def numbers(shape, spread=1.0, unit=64):
        """Multiples of 1/unit, about normal."""
        drawn = [sum(source.random() for _ in range(6)) - 3 for _ in range(math.prod(shape))]
        return np.reshape(np.round(np.array(drawn) * 1.4 * spread * unit) / unit, shape)

    case = cases.draw(**arguments, seed=seed, id=id or f"{algorithm}/{name}")
    case = dataclasses.replace(case, algorithm=algorithm, settings=settings, needs=())
    return module.posed(case, numbers) if hasattr(module, "posed") else case


def suitable(case: cases.Case) -> bool:
    """Whether a case with its answer is well conditioned, and sees what it should."""
    return references.healthy(case) and bool(case.dtypes) and case.answer.distance < np.inf


def search(algorithm: str, name: str, first: int = 0, dtype: str = "float64", id: str = "") -> tuple[int, cases.Case]:
    """The first seed that makes a suitable case, and the case.

    Raises:
        RuntimeError: there is none among 200.
    """
    arguments = ALGORITHMS[algorithm].CASES[name]
    for seed in range(first, first + 200):
        try:
            case = references.solve(draw(algorithm, name, arguments, seed, id))
        except (FloatingPointError, Uncertain):
            continue
        if suitable(case) and (dtype in case.dtypes or "float64" in arguments.get("comment", "")):
            return seed, case
    raise RuntimeError(f"no seed makes a suitable case of {algorithm}/{name}")


def fresh(algorithm: str, seed: int, count: int, dtype: str = "float64") -> list[cases.Case]:
    """`count` cases that depend on `seed` alone, with answers computed here."""
    names = list(ALGORITHMS[algorithm].CASES)
    return [search(algorithm, names[i % len(names)], seed * 1000 + i * 200, dtype, f"fresh-{seed}-{i}")[1]
            for i in range(count)]  # fmt: skip
