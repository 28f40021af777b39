"""Adaptation to a task as far as it goes: for pictures and comparisons, where a run that diverges is shown, too.

    for theta in path(learned, support, steps=10): ...       θ₀, θ₁, …, as long as they are finite
    metrics = measured(learned, tasks, steps=10)             (tasks, 11), nan once a task has diverged

`evaluate` raises an error in such a case. Read next: `compare`.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator

import numpy as np

from ..nest import Nest, tree_leaves, tree_map
from .evaluate import tuned
from .loop import Learned, Measure


def path(learned: Learned, support: tuple, steps: int, *rate: float) -> Iterator[Nest]:
    """θ₀ … θ_steps on one task by the algorithm's own `adapt`, or those before it diverges.

    Args:
        rate: the inner rate, in the place of the run's.
    """
    learner = learned.learner
    settings = dataclasses.replace(learner.settings, inner_lr=rate[0]) if rate else learner.settings
    thetas = learner.algorithm.adapt(learner.loss, learned.meta, support, settings)
    try:
        for theta in itertools.islice(thetas, steps + 1):
            if not all(np.isfinite(x).all() for x in tree_leaves(theta)):
                return
            yield theta
    except (FloatingPointError, ValueError):  # a support loss, or an array, is not finite
        return


def measured(
    learned: Learned, tasks: tuple, steps: int, *rate: float, each: Callable[[int], object] = lambda n: None
) -> np.ndarray:
    """(tasks, steps + 1): the query metric of each task after 0 … `steps` steps; nan once the task has diverged.

    Args:
        tasks: ((xs, ys), (xq, yq)), stacked on axis 0.
        rate: the inner rate, in the place of the run's.
        each: called with the number of tasks that have been measured since its last call.
    """
    f = Measure(learned.learner, tuple(range(steps + 1)), tuned=bool(rate))

    def rows(tasks: tuple) -> np.ndarray:
        count = len(tree_leaves(tasks)[0])
        try:
            found = f(learned.meta, tasks, learned.state.norms, *rate)
        except FloatingPointError:
            if count > 1:  # the tasks that diverge are found by halves
                return np.concatenate([rows(tree_map(lambda x, part=part: x[part], tasks))
                                       for part in (slice(count // 2), slice(count // 2, None))])  # fmt: skip
            found = _walk(learned, tree_map(lambda x: x[0], tasks), steps, *rate)
        each(count)
        return found

    found = rows(tasks)
    return np.where(np.logical_and.accumulate(np.isfinite(found), 1), found, np.nan)


def _walk(learned: Learned, task: tuple, steps: int, *rate: float) -> np.ndarray:
    """(1, steps + 1), of one task that diverges."""
    support, query = task
    found = np.full((1, steps + 1), np.nan)
    for k, theta in enumerate(path(learned, support, steps, *rate)):
        found[0, k] = learned.learner.loss(theta, *learned.learner.view(support, query, learned.state.norms, k))[1]
    return found


def rate_of(learned: Learned, steps: int, tune: bool = False, progress: bool = False) -> tuple[float, ...]:
    """(rate,), tuned on validation tasks, if that is asked for or if the algorithm leaves its rate open; else ().

    It is () too where there is no rate to tune: the algorithm learns its rates, or diverges with all of them.
    """
    if not (tune or getattr(learned.learner.algorithm, "tuned", False)):
        return ()
    try:
        return (tuned(learned, steps, progress),)
    except ValueError:
        return ()
