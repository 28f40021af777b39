"""Questions to the algorithms of the family: cases drawn from a seed, those of the core and new ones.

These are its functions:

    ids()                                           "algorithm/name" of every case that ships
    draw(algorithm, name, seed)                     a case, without its answer
    rungs(case)                                     by what else its answer is known
    fresh(algorithm, seed, ids, dtype)              new ones, with their answers
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Iterator

import numpy as np

from .. import cases, references
from . import ALGORITHMS, answers


def ids() -> list[str]:
    """ "algorithm/name" of every case that ships."""
    return [f"{algorithm}/{name}" for algorithm, module in ALGORITHMS.items() for name in module.CASES]


def draw(algorithm: str, name: str, seed: int, id: str = "") -> cases.Case:
    """The case `name` of an algorithm. All numbers are exact in float32, but where it says `fine`."""
    module, arguments = ALGORITHMS[algorithm], dict(ALGORITHMS[algorithm].CASES[name])
    settings, fine = arguments.pop("settings", {}), arguments.pop("fine", False)
    source = random.Random(f"{algorithm} {name} {seed}")

    def numbers(shape, spread=1.0, unit=64):
        """Multiples of 1/unit, about normal."""
        drawn = [sum(source.random() for _ in range(6)) - 3 for _ in range(math.prod(shape))]
        return np.reshape(np.round(np.array(drawn) * 1.4 * spread * unit) / unit, shape)

    case = cases.draw(**arguments, seed=seed, id=id or f"{algorithm}/{name}")
    case = dataclasses.replace(case, algorithm=algorithm, settings=settings, needs=())
    case = module.posed(case, numbers) if hasattr(module, "posed") else case
    return _fine(case) if fine else case


def _fine(case: cases.Case) -> cases.Case:
    """The case with θ, α and the data times 0.9: numbers that float32 does not hold, so that rounding to it shows."""
    less = lambda x: x if x.dtype.kind in "iu" else x * 0.9  # noqa: E731
    support, query = ([tuple(map(less, batch)) for batch in sets] for sets in (case.support, case.query))
    params = {n: p * 0.9 for n, p in case.params.items()}
    return dataclasses.replace(case, params=params, support=support, query=query, inner_lr=case.inner_lr * 0.9)


def search(algorithm: str, name: str, first: int = 0, dtype: str = "float64", id: str = "") -> tuple[int, cases.Case]:
    """The first seed that makes a suitable case, and the case.

    Raises:
        RuntimeError: none of 200 is suitable.
    """
    dtype = "float64" if ALGORITHMS[algorithm].CASES[name].get("fine") else dtype
    for seed in range(first, first + 200):
        case = references.solve_if_good(draw(algorithm, name, seed, id), dtype)
        if case is not None:
            return seed, case
    raise RuntimeError(f"no seed makes a suitable case of {algorithm}/{name}")


def rungs(case: cases.Case) -> Iterator[tuple]:
    """By what the answer is confirmed: a name, whether it is exact, and the function of the case."""
    module, layers = ALGORITHMS[case.algorithm], {m["layer"] for m in case.model["layers"]}
    polynomial = layers <= {"linear", "square", "context", "quadratic"} and "cross" not in case.model["loss"]
    if polynomial and case.inner_steps <= 2 and _is_rational(case):
        yield "exact rationals", True, references.exact
    if hasattr(module, "query_loss"):
        yield "differences", True, answers.differences
    yield "complex step", False, references.in_float64
    yield "engine", False, references.by_engine
    if hasattr(module, "closed_form") and module.closed_form(case) is not None:
        yield "closed form", False, module.closed_form
    if hasattr(module, "by_algorithms"):
        yield "tinymaml.algorithms", False, module.by_algorithms


def _is_rational(case: cases.Case) -> bool:
    """Whether the algorithm needs no root of what depends on θ."""
    try:
        references.exact(case)
    except TypeError:
        return False
    return True


def fresh(algorithm: str, seed: int, ids: list[str], dtype: str = "float64") -> list[cases.Case]:
    """Cases of these ids that depend on `seed` alone, with answers computed here."""
    names = [n for n, spec in ALGORITHMS[algorithm].CASES.items() if dtype == "float64" or not spec.get("fine")]
    return [search(algorithm, names[i % len(names)], (seed * 1000 + i) * 1000, dtype, id)[1]
            for i, id in enumerate(ids)]  # fmt: skip
