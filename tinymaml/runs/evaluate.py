"""How well a run adapts to tasks it was never trained on.

    result = evaluate("runs/omniglot")      # the metric after 0 … 10 steps: mean and 95 % interval over 600 tasks
    print(table(result))
    evaluate("runs/joint", tune=True)       # by the inner rate that is best on validation tasks
    evaluate("runs/joint", iteration=0)     # from scratch: the network as it was before training
    evaluate("runs/omniglot", shots=5)      # trained with one shot, say: any option of the family, and inner_lr
    evaluate("runs/omniglot", on="digits", data="mnist")    # tasks of another family

A task adapts as its algorithm adapts, whose state lasts from step to step. The intervals are 1.96 σ / √tasks, as in
Finn et al., 2017. The baselines that the family has are measured on the same tasks.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from ..blas import libraries, one_thread
from ..extras import require
from ..nest import tree_map
from ..networks.network import STATISTICS
from .adaptation import available, check_rate, interval, on_split, rate_of, task, tuned
from .loop import Learned, Measure, restore
from .sizes import check_measured
from .transfer import in_short


def evaluate(
    path: str | os.PathLike, *, tasks: int = 600, steps: int = 10, split: str = "test", data: str | None = None,
    iteration: int | None = None, tune: bool = False, progress: bool = False, on: str | None = None, **changes: Any,
) -> dict[str, Any]:  # fmt: skip
    """Adapt what a run has learned to `tasks` fresh tasks of `split` and measure the query metric after each step.

    Args:
        iteration: which checkpoint, by default the newest; 0: the network before training, for which none is needed.
        tune: the inner rate is the one of `RATES` that is best after `steps` steps on the run's validation tasks; so it
            is always for an algorithm that leaves its rate open (`tuned`: joint training).
        data: where the run's data lies now, if it has moved; or the data of the family `on`.
        on, changes: the tasks to adapt to, as `runs.loop.restore` takes them: a family, options of it, `inner_lr`.

    Returns:
        {"metric", "tasks", "steps": [0, …, steps], "mean": […], "ci95": […], "baselines": [{"label", "mean", "ci95"}]},
        and what it was measured on. A family that has fewer tasks than `tasks` is measured on all.

    Raises:
        ValueError, OSError: no such run, checkpoint or data; there is no rate to tune; a baseline fails; the network
            does not fit the tasks.
        FloatingPointError: every task diverges, within the run's own number of steps; the first is named.

    >>> from tinymaml.runs.evaluate import evaluate
    >>> from tinymaml.runs.loop import train
    >>> from tinymaml.runs.settings import Config
    >>> run = train(Config.default("sinusoid", iterations=1, compile=False), "runs/evaluated", progress=False)
    >>> result = evaluate("runs/evaluated", tasks=10, steps=2)
    >>> result["metric"], result["steps"], len(result["mean"])
    ('mse', [0, 1, 2], 3)
    """
    check_measured(tasks, steps)
    tqdm = require("tqdm", "train").tqdm
    learned = restore(path, iteration, on=on, **({"data": data} if data else {}), **changes)
    config, learner = learned.config, learned.learner
    with one_thread(libraries("train")), np.errstate(over="ignore", invalid="ignore"):
        check_rate(learned)
        rate = (tuned(learned, steps, progress),) if tune else rate_of(learned, steps, progress=progress)
        tasks, baselines = available(learned, split, tasks), learner.baselines()
        with tqdm(total=tasks * (1 + len(baselines)), unit="task", disable=not progress, dynamic_ncols=True) as bar:
            found, beside = on_split(learned, split, tasks, steps, *rate, baselines=baselines, each=bar.update)
        check_adapted(learned, split, found, *rate)
    mean, ci95 = map(for_json, interval(found))
    metric = learner.metric
    return {
        "metric": metric.name,
        "tasks": tasks,
        "steps": list(range(steps + 1)),
        "mean": mean,
        "ci95": ci95,
        "baselines": of_baselines(beside),
        "diverged": np.isnan(found).sum(0).tolist(),
        "split": split,
        "iteration": learned.iteration,
        "inner_lr": rate[0] if rate else config.get("inner_lr"),
        "tuned": bool(rate),
        "ways": config.get("ways"),
        "shots": config.get("shots"),
        "queries": config.get("queries"),
        "family": config.family.name,
        "transfer": in_short(learned.source, config),
        "algorithm": config.algorithm.name,
        "network": config.network.name,
        "statistics": learner.statistics,
        "seconds": learned.seconds,
        "label": metric.label,
        "unit": metric.unit,
        "scale": metric.scale,
        "chance": metric.chance,
    }


def check_adapted(learned: Learned, split: str, found: np.ndarray, *rate: float) -> None:
    """Raises: FloatingPointError: every task diverges, within the run's own number of steps (at least one); the message
    names the first.

    Args:
        found: (tasks, steps + 1), of `on_split`.
    """
    if not np.isnan(found[:, : max(learned.learner.steps, 1) + 1]).any(1).all():
        return
    one = tree_map(lambda x: x[None], task(learned, split, 0))
    try:  # once more, for the error that says where
        f = Measure(learned.learner, tuple(range(found.shape[1])), tuned=bool(rate))
        metrics = f(learned.meta, one, learned.state.norms, *rate)
    except FloatingPointError as cause:
        raise FloatingPointError(f"{split} {cause}") from None
    k = int(np.argmin(np.isfinite(metrics[0])))
    seen = f"the query metric after step {k} is {metrics[0, k]}"
    raise FloatingPointError(f"{split} task 0: adaptation diverged: {seen}")


def of_baselines(beside: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Of each baseline, what a result says: {"label", "mean", "ci95"}."""
    rows = {label: interval(values[:, None]) for label, values in beside.items()}
    return [{"label": label, "mean": float(mean[0]), "ci95": float(ci95[0])} for label, (mean, ci95) in rows.items()]


def for_json(x: Any) -> Any:
    """A nest as JSON has it: lists for arrays, and None for what is not finite."""
    if isinstance(x, dict):
        return {str(key): for_json(value) for key, value in x.items()}
    if isinstance(x, (list, tuple, np.ndarray)):
        return [for_json(value) for value in x]
    if isinstance(x, (float, np.floating)):
        return float(x) if np.isfinite(x) else None
    return x


def in_unit(x: float, result: dict[str, Any]) -> str:
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
        how += f"; chance: {in_unit(result['chance'], result)}{unit}"
    heads = [f"{' '.join(filter(None, parts))} on {on}", how, *filter(None, [result["transfer"]])]
    lines = [*heads, "", f"steps   {result['metric'].replace('_', ' ')}"]
    for k, mean, ci, diverged in zip(*(result[x] for x in ("steps", "mean", "ci95", "diverged")), strict=True):
        shown = f"diverges: {diverged} of {result['tasks']} tasks"
        if mean is not None:
            shown = f"{in_unit(mean, result):>7} ± {in_unit(ci, result)}{unit}"
        lines.append(f"{k:5d}   {shown}")
    return "\n".join([*lines, *baselines(result)])


def baselines(result: dict[str, Any]) -> list[str]:
    """The lines of a table that give the baselines, below it."""
    found = result["baselines"]
    width = max((len(row["label"]) for row in found), default=0)
    rows = [f"{row['label']:{width}}  {in_unit(row['mean'], result):>7} ± {in_unit(row['ci95'], result)}"
            f"{result['unit']}" for row in found]  # fmt: skip
    return ["", "baselines, on the same tasks", *rows] if rows else []
