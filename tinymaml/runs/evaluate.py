"""How well a run adapts to tasks it was never trained on.

    result = evaluate("runs/omniglot")      # the metric after 0 … 10 steps: mean and 95 % interval over 600 tasks
    print(table(result))
    evaluate("runs/joint", tune=True)       # by the inner rate that is best on validation tasks
    evaluate("runs/joint", iteration=0)     # from scratch: the network as it was before training

A task adapts as its algorithm adapts, whose state lasts from step to step. The intervals are 1.96 σ / √tasks, as in
Finn et al., 2017.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from ..blas import libraries, one_thread
from ..extras import require
from ..nest import tree_map
from ..networks.network import STATISTICS
from .loop import TEST, VALIDATE, Learned, Measure, generator, restore

# Of which one is taken where the inner rate is tuned, as "an automatically tuned step size" in the paper.
RATES = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001, 0.00003, 0.00001)


def evaluate(
    path: str | os.PathLike, *, tasks: int = 600, steps: int = 10, split: str = "test", data: str | None = None,
    iteration: int | None = None, tune: bool = False, progress: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Adapt what a run has learned to `tasks` fresh tasks of `split` and measure the query metric after each step.

    Args:
        iteration: which checkpoint, by default the newest; 0: the network before training, for which none is needed.
        tune: the inner rate is the one of `RATES` that is best after `steps` steps on the run's validation tasks; so it
            is always for an algorithm that leaves its rate open (`tuned`: joint training).
        data: where the run's data lies now, if it has moved.

    Returns:
        {"metric", "tasks", "steps": [0, …, steps], "mean": […], "ci95": […]}, and what it was measured on.

    Raises:
        ValueError, OSError: no such run, checkpoint or data; there is no rate to tune.
        FloatingPointError: a task diverged; it is named.
    """
    if tasks < 2 or steps < 0:
        raise ValueError(f"tasks is {tasks} and steps {steps}, wanted at least 2 and 0")
    tqdm = require("tqdm", "train").tqdm
    learned = restore(path, iteration, **({"data": data} if data else {}))
    config, learner = learned.config, learned.learner
    tune = tune or getattr(learner.algorithm, "tuned", False)
    with one_thread(libraries("train")), np.errstate(over="ignore", invalid="ignore"):
        rate = tuned(learned, steps, progress) if tune else config.get("inner_lr")
        chosen = [task(learned, split, t) for t in range(tasks)]
        with tqdm(total=tasks, unit="task", disable=not progress, dynamic_ncols=True) as bar:
            measured = measure(learned, chosen, steps, *([rate] if tune else []), called=f"{split} ", each=bar.update)
    mean, ci95 = interval(measured)
    metric = learner.metric
    return {
        "metric": metric.name,
        "tasks": tasks,
        "steps": list(range(steps + 1)),
        "mean": mean.tolist(),
        "ci95": ci95.tolist(),
        "split": split,
        "iteration": learned.iteration,
        "inner_lr": rate,
        "tuned": tune,
        "ways": config.get("ways"),
        "shots": config.get("shots"),
        "queries": config.get("queries"),
        "family": config.family.name,
        "algorithm": config.algorithm.name,
        "network": config.network.name,
        "statistics": learner.statistics,
        "seconds": learned.seconds,
        "label": metric.label,
        "unit": metric.unit,
        "scale": metric.scale,
        "chance": metric.chance,
    }


def task(learned: Learned, split: str, t: int) -> tuple:
    """((xs, ys), (xq, yq)): task `t` of a split, always the same."""
    return tree_map(lambda x: x[0], learned.learner.sample(generator(learned.config, TEST, t), 1, split))


def measure(learned: Learned, tasks: list[tuple], steps: int, *rate: float, called: str = "", **more) -> np.ndarray:
    """(tasks, steps + 1): the query metric of each task after 0 … `steps` steps; see `loop.Measure`.

    Raises:
        FloatingPointError: a task diverged; the message names it, after `called`.
    """
    f = Measure(learned.learner, tuple(range(steps + 1)), tuned=bool(rate))
    stacked = tree_map(lambda *xs: np.stack(xs), *tasks)
    try:
        measured = f(learned.meta, stacked, learned.state.norms, *rate, **more)
    except FloatingPointError as cause:
        raise FloatingPointError(f"{called}{cause}") from None
    for t, k in np.argwhere(~np.isfinite(measured[:, 1:])):
        seen = f"the query metric after step {k + 1} is {measured[t, k + 1]}"
        raise FloatingPointError(f"{called}task {t}: adaptation diverged: {seen}")
    return measured


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


def table(result: dict[str, Any]) -> str:
    """A result as a person reads it."""
    scale, unit, digits = result["scale"], result["unit"], 2 if result["scale"] == 100 else 3
    parts = [f"{result['shots']}-shot" if result["shots"] else "", f"{result['ways']}-way" if result["ways"] else "",
             result["label"]]  # fmt: skip
    on = f"{result['tasks']} {result['split']} tasks, after {result['iteration']} meta-iterations"
    how = f"{result['algorithm']}, {result['network']}"
    if statistics := result["statistics"]:
        how += f"; batch norm of queries by {statistics} statistics: {STATISTICS.get(statistics, 'its own')}"
    if result["tuned"]:
        how += f"; inner rate {result['inner_lr']:g}, tuned on validation tasks"
    if result["chance"] is not None:
        how += f"; chance: {result['chance'] * scale:.{digits}f}{unit}"
    lines = [f"{' '.join(filter(None, parts))} on {on}", how, "", f"steps   {result['metric'].replace('_', ' ')}"]
    for k, mean, ci in zip(result["steps"], result["mean"], result["ci95"], strict=True):
        lines.append(f"{k:5d}   {mean * scale:7.{digits}f} ± {ci * scale:.{digits}f}{unit}")
    return "\n".join(lines)

