"""What a run has learned adapts to tasks, as far as it goes: a task that diverges is shown, too.

    for theta in path(learned, support, steps=10): ...       θ₀, θ₁, …, as long as they are finite
    metrics = measured(learned, tasks, steps=10)             (tasks, 11), nan once a task has diverged
    mean, ci95 = interval(metrics)                           1.96 σ / √tasks, as in Finn et al., 2017

Read next: `evaluate`.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator

import numpy as np

from ..extras import require
from ..nest import Nest, tree_leaves, tree_map
from .loop import TEST, VALIDATE, Learned, Measure, generator

# Of which one is taken where the inner rate is tuned, as "an automatically tuned step size" in the paper.
RATES = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001, 0.00003, 0.00001)


def task(learned: Learned, split: str, t: int) -> tuple:
    """((xs, ys), (xq, yq)): task `t` of a split, always the same."""
    return tree_map(lambda x: x[0], learned.learner.sample(generator(learned.config, TEST, t), 1, split))


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


def tuned(learned: Learned, steps: int, progress: bool = False) -> float:
    """The inner rate of `RATES` with the best metric after `steps` steps, on the mean of the run's validation tasks.

    Raises:
        ValueError: the algorithm has no option `inner_lr`, or learns its rates; all of them diverge.
    """
    config, learner = learned.config, learned.learner
    if config.get("inner_lr") is None:
        raise ValueError(f"there is no rate to tune: {config.algorithm.name} has no option inner_lr")
    f = Measure(learner, (steps,), tuned=True)
    tasks = learner.sample(generator(config, VALIDATE), config.outer.validation_tasks, "val")
    found: dict[float, float] = {}
    bar = require("tqdm", "train").tqdm(RATES, desc="tuning the inner rate", disable=not progress, leave=False)
    for rate in bar:
        try:
            mean = float(np.mean(f(learned.meta, tasks, learned.state.norms, rate)))
        except FloatingPointError:  # this rate is too large
            continue
        if np.isfinite(mean):
            found[rate] = mean
    if not found:
        raise ValueError("there is no rate to tune: with each of them, a validation task diverges")
    if steps and len(found) > 1 and len(set(found.values())) == 1:
        raise ValueError(f"there is no rate to tune: {config.algorithm.name} adapts alike whatever inner_lr is")
    return (max if learner.metric.better == "higher" else min)(found, key=lambda rate: found[rate])


def interval(measured: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean of (tasks, steps + 1) over tasks, and the half width of its 95 % interval."""
    # 1.96 σ / √tasks
    return measured.mean(0), 1.96 * measured.std(0, ddof=1) / np.sqrt(len(measured))
