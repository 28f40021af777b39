"""Refuse arrays that this machine cannot hold, before any memory is asked for.

    check_run(learner)                           the tasks of a meta-iteration and of a validation, and the inner steps
    check_measured(tasks=600, steps=10)          what an evaluation is asked for
    theta = network.init(bounded(rng), dtype)    the weights of a network

Each raises a ValueError that says how many bytes are needed. The count is the least that must be there at once,
so that nothing is refused that would fit.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..files import in_bytes, memory

Learner = Any  # of `learner`, which imports this file

OF_A_STEP = 10_000  # bytes of a record of one inner step, at least
COPIES = 4  # of the weights: θ, its gradient, and what an optimiser keeps of it


def check_run(learner: Learner) -> None:
    """Raises: ValueError: the tasks that are drawn at once, or the records of the inner steps, do not fit."""
    options = learner.config.outer
    check_drawn(learner, "tasks", max(options.tasks, 2))
    check_drawn(learner, "validation tasks", max(options.validation_tasks, 2))
    if isinstance(learner.steps, int):
        _check(f"{figure(learner.steps)} inner steps", learner.steps * OF_A_STEP)


def check_drawn(learner: Learner, called: str, count: int) -> None:
    """Raises: ValueError: so many tasks, drawn at once, do not fit.

    They have the examples that the options `ways`, `shots` and `queries` say; or `trajectories` of a `horizon`.
    """
    ways, shots, more, queries = (_count(learner, name) for name in ("ways", "shots", "train_shots", "queries"))
    acted = _count(learner, "trajectories") * _count(learner, "horizon")
    examples = acted or max(ways, 1) * (max(shots, more, 1) + queries)
    numbers = math.prod(int(n) for n in learner.family.input_shape if isinstance(n, (int, np.integer)))
    what = f"{figure(count)} {called} × {figure(examples)} examples × {figure(numbers)} numbers"
    _check(what, count * examples * numbers * learner.dtype.itemsize)


def check_measured(tasks: int, steps: int) -> None:
    """Raises: ValueError: an evaluation is not of at least 2 tasks and 0 steps, or its results do not fit."""
    if tasks < 2 or steps < 0:
        raise ValueError(f"tasks is {figure(tasks)} and steps {figure(steps)}, wanted at least 2 and 0")
    what = f"{figure(tasks)} tasks after each of {figure(steps)} steps"
    _check(what, (steps + 1) * (8 * tasks + OF_A_STEP))


def figure(n: int) -> str:
    """An integer as a person reads it: 1,000; and from 10¹⁸ on, 1.0e+18.

    >>> from tinymaml.runs.sizes import figure
    >>> figure(12_345), figure(10**100)
    ('12,345', '1.0e+100')
    """
    if abs(n) < 10**18:
        return f"{n:,}"
    exponent = math.log10(abs(n))  # of integers of any size
    return f"{'-' * (n < 0)}{10 ** (exponent % 1):.1f}e+{int(exponent)}"


def _count(learner: Learner, name: str) -> int:
    value = learner.config.get(name)
    return value if isinstance(value, int) else 0


def _check(what: str, needed: int) -> None:
    if needed > memory():
        raise ValueError(f"{what} need {in_bytes(needed)}, and this machine has a memory of {in_bytes(memory())}")


class _Bounded(np.random.Generator):
    """A generator that draws the same numbers, and counts them."""

    drawn = 0

    def _count(self, size: Any) -> None:
        shape = size if isinstance(size, (tuple, list)) else (1 if size is None else size,)
        self.drawn += math.prod(map(int, shape))
        _check(f"{figure(self.drawn)} weights and more", self.drawn * COPIES * 8)

    def standard_normal(self, size=None, *args, **more):
        self._count(size)
        return super().standard_normal(size, *args, **more)

    def normal(self, loc=0.0, scale=1.0, size=None):
        self._count(size)
        return super().normal(loc, scale, size)

    def uniform(self, low=0.0, high=1.0, size=None):
        self._count(size)
        return super().uniform(low, high, size)

    def random(self, size=None, *args, **more):
        self._count(size)
        return super().random(size, *args, **more)


def bounded(rng: np.random.Generator) -> np.random.Generator:
    """The same generator, for the first weights of a network: it refuses to draw more than this machine can hold."""
    return _Bounded(rng.bit_generator)
