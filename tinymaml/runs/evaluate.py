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
from .adaptation import interval, measured, rate_of, task, tuned
from .loop import Learned, Measure, restore


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
        FloatingPointError: every task diverges, within the run's own number of steps; the first is named.
    """
    if tasks < 2 or steps < 0:
        raise ValueError(f"tasks is {tasks} and steps {steps}, wanted at least 2 and 0")
    tqdm = require("tqdm", "train").tqdm
    learned = restore(path, iteration, **({"data": data} if data else {}))
    config, learner = learned.config, learned.learner
    with one_thread(libraries("train")), np.errstate(over="ignore", invalid="ignore"):
        rate = (tuned(learned, steps, progress),) if tune else rate_of(learned, steps, progress=progress)
        chosen = [task(learned, split, t) for t in range(tasks)]
        with tqdm(total=tasks, unit="task", disable=not progress, dynamic_ncols=True) as bar:
            found = measure(learned, chosen, steps, *rate, called=f"{split} ", each=bar.update)
    mean, ci95 = map(plain, interval(found))
    metric = learner.metric
    return {
        "metric": metric.name,
        "tasks": tasks,
        "steps": list(range(steps + 1)),
        "mean": mean,
        "ci95": ci95,
        "diverged": np.isnan(found).sum(0).tolist(),
        "split": split,
        "iteration": learned.iteration,
        "inner_lr": rate[0] if rate else config.get("inner_lr"),
        "tuned": bool(rate),
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


def measure(learned: Learned, tasks: list[tuple], steps: int, *rate: float, called: str = "", **more) -> np.ndarray:
    """(tasks, steps + 1): the query metric of each task after 0 … `steps` steps, nan once the task has diverged.

    Raises:
        FloatingPointError: every task diverges, within the run's own number of steps (at least one); the message
            names the first, after `called`.
    """
    stacked = tree_map(lambda *xs: np.stack(xs), *tasks)
    found = measured(learned, stacked, steps, *rate, **more)
    own = max(learned.learner.steps, 1)
    if np.isnan(found[:, : own + 1]).any(1).all():
        one = tree_map(lambda x: x[:1], stacked)
        try:  # once more, for the error that says where
            metrics = Measure(learned.learner, tuple(range(steps + 1)), tuned=bool(rate))(
                learned.meta, one, learned.state.norms, *rate
            )
        except FloatingPointError as cause:
            raise FloatingPointError(f"{called}{cause}") from None
        k = int(np.argmin(np.isfinite(metrics[0])))
        seen = f"the query metric after step {k} is {metrics[0, k]}"
        raise FloatingPointError(f"{called}task 0: adaptation diverged: {seen}")
    return found


def plain(x: Any) -> Any:
    """A nest as JSON has it: lists for arrays, and None for what is not finite."""
    if isinstance(x, dict):
        return {str(key): plain(value) for key, value in x.items()}
    if isinstance(x, (list, tuple, np.ndarray)):
        return [plain(value) for value in x]
    if isinstance(x, (float, np.floating)):
        return float(x) if np.isfinite(x) else None
    return x


def number(x: float, result: dict[str, Any]) -> str:
    """A metric as a table has it, in its unit; what is on its way to infinity is written shortly."""
    x = x * result["scale"]
    return f"{x:.3g}" if abs(x) >= 1e5 else f"{x:.{2 if result['scale'] == 100 else 3}f}"


def table(result: dict[str, Any]) -> str:
    """A result as a person reads it."""
    unit = result["unit"]
    parts = [f"{result['shots']}-shot" if result["shots"] else "", f"{result['ways']}-way" if result["ways"] else "",
             result["label"]]  # fmt: skip
    on = f"{result['tasks']} {result['split']} tasks, after {result['iteration']} meta-iterations"
    how = f"{result['algorithm']}, {result['network']}"
    if statistics := result["statistics"]:
        how += f"; batch norm of queries by {statistics} statistics: {STATISTICS.get(statistics, 'its own')}"
    if result["tuned"]:
        how += f"; inner rate {result['inner_lr']:g}, tuned on validation tasks"
    if result["chance"] is not None:
        how += f"; chance: {number(result['chance'], result)}{unit}"
    lines = [f"{' '.join(filter(None, parts))} on {on}", how, "", f"steps   {result['metric'].replace('_', ' ')}"]
    for k, mean, ci, diverged in zip(*(result[x] for x in ("steps", "mean", "ci95", "diverged")), strict=True):
        shown = f"diverges: {diverged} of {result['tasks']} tasks"
        if mean is not None:
            shown = f"{number(mean, result):>7} ± {number(ci, result)}{unit}"
        lines.append(f"{k:5d}   {shown}")
    return "\n".join(lines)

