"""Adaptation of a learned model to tasks, as far as it goes: a task that diverges is shown, too.

    for theta in path(learned, support, steps=10): ...       θ₀, θ₁, …, as long as they are finite
    support, query = task(learned, "test", 3)                always the same
    metrics = measured(learned, tasks, steps=10)             (tasks, 11), nan once a task has diverged
    metrics, beside = on_split(learned, "test", 600, steps=10) of the tasks of a split, with the family's baselines
    mean, ci95 = interval(metrics)                           1.96 σ / √tasks, as in Finn et al., 2017

Read next: `evaluate`.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress

import numpy as np

from ..extras import require
from ..nest import Nest, tree_leaves, tree_map
from .acting import Acting
from .learner import ways
from .loop import AT_ONCE, EVALUATED, Learned, Measure, generator, validation_tasks
from .settings import blaming
from .sizes import check_drawn

# Of which one is taken where the inner rate is tuned, as "an automatically tuned step size" in the paper.
RATES = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001, 0.00003, 0.00001)


# ── the tasks that a run is measured on ─────────────────────────────────────────────────────────────────────────────


def task(learned: Learned, split: str, t: int, seed: int | None = None) -> tuple:
    """((xs, ys), (xq, yq)): task `t` of a split, always the same.

    It is the one at place `t` of `every`, of a family that says which tasks there are; or it is drawn by a generator of
    its own, of this seed or the run's.

    Raises:
        ValueError: the split has no such task.
    """
    every = learned.learner.every(split)
    if every is None:
        config = learned.config if seed is None else learned.config.changed(seed=seed)
        return tree_map(lambda x: x[0], learned.learner.sample(generator(config, EVALUATED[split], t), 1, split))
    if t >= (count := len(tree_leaves(every)[0])):
        raise ValueError(f"the split {split!r} has {count} tasks, and none at place {t}")
    return tree_map(lambda x: x[t], every)


def stacked_tasks(learned: Learned, split: str, numbers: Iterable[int], seed: int | None = None) -> Nest:
    """The tasks of these numbers, stacked on axis 0."""
    return tree_map(lambda *xs: np.stack(xs), *[task(learned, split, t, seed) for t in numbers])


def available(learned: Learned, split: str, tasks: int) -> int:
    """How many tasks a run is measured on, if so many are asked for: a family may have fewer.

    Raises:
        ValueError: less than two, of which there is no interval; or tasks that memory cannot hold.
    """
    every = learned.learner.every(split)
    count = tasks if every is None else min(tasks, len(tree_leaves(every)[0]))
    if count < 2:
        raise ValueError(f"the split {split!r} has {count} task, wanted at least 2")
    check_drawn(learned.learner, "tasks", min(count, AT_ONCE))
    return count


# ── how well it does on them ────────────────────────────────────────────────────────────────────────────────────────


def on_split(
    learned: Learned, split: str, tasks: int, steps: int, *rate: float, baselines: dict[str, Callable] | None = None,
    seed: int | None = None, each: Callable[[int], object] = lambda n: None,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:  # fmt: skip
    """The query metric on the first tasks of a split: of the run after 0 … `steps` steps, and of each baseline.

    Args:
        baselines: those of the learner, `Learner.baselines()`, or some of them.
        rate, each: as `measured` takes them.

    Returns:
        (tasks, steps + 1), nan once the task has diverged; and {label: (tasks,)}.
    """
    measure, found = _measure(learned, steps, *rate), []
    beside: dict[str, list[float]] = {label: [] for label in baselines or {}}
    for first in range(0, tasks, AT_ONCE):
        some = range(first, min(first + AT_ONCE, tasks))
        drawn = stacked_tasks(learned, split, some, seed)
        found.append(measure(drawn, each))
        for label, predict in (baselines or {}).items():
            for i, t in enumerate(some):
                one = tree_map(lambda x, i=i: x[i], drawn)
                beside[label].append(judged(learned, label, predict, one, t, each))
    return np.concatenate(found), {label: np.array(values) for label, values in beside.items()}


def judged(
    learned: Learned, label: str, predict: Callable, task: tuple, t: int, each: Callable[[int], object]
) -> float:
    """The family's metric of a baseline on task `t`, of which it sees all but the targets of the query.

    Raises:
        ValueError: the baseline raised an error, or gave no valid prediction; the message says where.
    """
    family, (support, (xq, yq)) = learned.learner.family, task
    called = f"family {learned.config.family.name}: baseline {label!r}: task {t}"
    with blaming(called):
        prediction = np.asarray(predict(*tree_map(np.array, (*support, xq))))
    rows, outputs = len(tree_leaves(yq)[0]), family.outputs
    columns = (outputs,) if isinstance(outputs, (int, np.integer)) else prediction.shape[1:]
    # a baseline does not know of the further outputs of a network that was trained on more classes
    if prediction.shape != (rows, *columns) and not (prediction.ndim == 2 and ways(learned.learner) > 0):
        raise ValueError(f"{called}: its prediction has the shape {prediction.shape}, wanted {(rows, *columns)}")
    if prediction.dtype.kind not in "fiu" or not np.isfinite(prediction).all():
        raise ValueError(f"{called}: its prediction is not of finite numbers")
    with blaming(f"{called}: loss"):
        metric = float(family.loss(prediction.astype(learned.learner.dtype), yq)[1])
    each(1)
    return metric


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
    return _measure(learned, steps, *rate)(tasks, each)


def _measure(learned: Learned, steps: int, *rate: float) -> Callable[[tuple, Callable], np.ndarray]:
    """`measured` as a function of tasks and `each`, which is compiled once."""
    f = Measure(learned.learner, tuple(range(steps + 1)), tuned=bool(rate))

    def rows(tasks: tuple, each: Callable) -> np.ndarray:
        count = len(tree_leaves(tasks)[0])
        try:
            found = f(learned.meta, tasks, learned.state.norms, *rate)
        except FloatingPointError:
            if count > 1:  # the tasks that diverge are found by halves
                return np.concatenate([rows(tree_map(lambda x, part=part: x[part], tasks), each)
                                       for part in (slice(count // 2), slice(count // 2, None))])  # fmt: skip
            found = _walk(learned, tree_map(lambda x: x[0], tasks), steps, *rate)
        each(count)
        return found

    def finite(tasks: tuple, each: Callable) -> np.ndarray:
        found = rows(tasks, each)
        return np.where(np.logical_and.accumulate(np.isfinite(found), 1), found, np.nan)

    return finite


def _walk(learned: Learned, task: tuple, steps: int, *rate: float) -> np.ndarray:
    """(1, steps + 1), of one task that diverges."""
    found = np.full((1, steps + 1), np.nan)
    if learned.learner.acts:
        one = tree_map(lambda x: x[None], task)
        with suppress(FloatingPointError):
            for k, metric in enumerate(Acting(learned.learner, False).returns(learned.meta, one, steps, *rate)):
                found[0, k] = metric[0]
        return found
    support, query = task
    for k, theta in enumerate(path(learned, support, steps, *rate)):
        found[0, k] = learned.learner.loss(theta, *learned.learner.view(support, query, learned.state.norms, k))[1]
    return found


def check_rate(learned: Learned) -> None:
    """Raises: ValueError: another inner rate than in training is asked for, and would change nothing."""
    config, source = learned.config, learned.source
    if source is None or config.get("inner_lr") == source.get("inner_lr") or learned.learner.acts:
        return
    support, _ = task(learned, "test", 0)
    one, other = (list(path(learned, support, 1, c["inner_lr"]))[-1] for c in (config, source))
    if all(map(np.array_equal, tree_leaves(one), tree_leaves(other))):
        alike = f"{config.algorithm.name} adapts alike whatever it is"
        raise ValueError(f"inner_lr cannot be changed after training: {alike}")


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
    f, tasks = Measure(learner, (steps,), tuned=True), validation_tasks(learner)
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
    """The mean of (tasks, steps + 1) over tasks, and the half width of its 95 % interval.

    >>> from tinymaml.runs.adaptation import interval
    >>> mean, half = interval(np.array([[4.0, 1.0], [6.0, 1.0]]))  # two tasks, before and after one step
    >>> mean, half.round(2)
    (array([5., 1.]), array([1.96, 0.  ]))
    """
    # 1.96 σ / √tasks
    return measured.mean(0), 1.96 * measured.std(0, ddof=1) / np.sqrt(len(measured))
