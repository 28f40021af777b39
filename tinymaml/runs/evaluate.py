"""How well a run adapts to tasks it was never trained on.

    result = evaluate("runs/omniglot")      # the metric after 0 … 10 steps: mean and 95 % interval over 600 tasks
    print(table(result))

The intervals are 1.96 σ / √tasks, as in Finn et al., 2017.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .blas import libraries, one_thread
from .extras import require
from .maml import adapt
from .nest import Nest, tree_map
from .train import TEST, generator, restore


def evaluate(
    path: str | os.PathLike, *, tasks: int = 600, steps: int = 10, split: str = "test", data: str | None = None,
    iteration: int | None = None, progress: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Adapt a run's parameters to `tasks` fresh tasks of `split` and measure the query metric after each step.

    Returns:
        {"metric", "tasks", "steps": [0, …, steps], "mean": […], "ci95": […]}, and what it was measured on.

    Raises:
        ValueError, OSError: no such run, checkpoint or data.
    """
    if tasks < 2 or steps < 0:
        raise ValueError(f"tasks is {tasks} and steps {steps}, wanted at least 2 and 0")
    tqdm = require("tqdm", "train").tqdm
    config, _, family, loss, params, iteration = restore(path, iteration, **({"data": data} if data else {}))
    measured = np.empty((tasks, steps + 1))
    with one_thread(libraries("train")), np.errstate(over="ignore", invalid="ignore"):
        for t in tqdm(range(tasks), unit="task", disable=not progress, dynamic_ncols=True):
            task = tree_map(lambda x: x[0], family.sample(generator(config, TEST, t), 1, split))
            try:
                measured[t] = curve(loss, params, task, config.inner_lr, steps)
            except FloatingPointError as cause:
                raise FloatingPointError(f"{split} task {t}: {cause}") from None
    mean, ci95 = interval(measured)
    return {
        "metric": family.metric.name,
        "tasks": tasks,
        "steps": list(range(steps + 1)),
        "mean": mean.tolist(),
        "ci95": ci95.tolist(),
        "split": split,
        "iteration": iteration,
        "inner_lr": config.inner_lr,
        "ways": config.ways if family.metric.name == "accuracy" else None,
        "shots": config.shots,
        "queries": config.queries,
    }


def curve(loss: Callable, params: Nest, task: tuple, inner_lr: float, steps: int) -> list[float]:
    """The query metric of one task after 0 … `steps` gradient steps on its support set."""
    support, query = task
    metrics = []
    for k, theta in enumerate(thetas(loss, params, support, inner_lr, steps)):
        metrics.append(float(loss(theta, *query)[1]))
        if k and not np.isfinite(metrics[-1]):
            raise FloatingPointError(f"adaptation diverged: the query metric after step {k} is {metrics[-1]}")
    return metrics


def thetas(loss: Callable, params: Nest, support: tuple, inner_lr: float, steps: int) -> Iterator[Nest]:
    """θ₀ … θ_steps of one task, one gradient step at a time."""
    yield params
    for _ in range(steps):
        params = adapt(lambda *args: loss(*args)[0], params, support, inner_lr=inner_lr, inner_steps=1)
        yield params


def interval(measured: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean of (tasks, steps + 1) over tasks, and the half width of its 95 % interval."""
    # 1.96 σ / √tasks
    return measured.mean(0), 1.96 * measured.std(0, ddof=1) / np.sqrt(len(measured))


def table(result: dict[str, Any]) -> str:
    """A result as a person reads it."""
    percent = result["metric"] == "accuracy"
    scale, unit = (100, " %") if percent else (1, "")
    digits = 2 if percent else 3
    what = f"{result['shots']}-shot " + (f"{result['ways']}-way accuracy" if percent else "mean squared error")
    on = f"{result['tasks']} {result['split']} tasks, after {result['iteration']} meta-iterations"
    lines = [f"{what} on {on}", "", f"steps   {result['metric']}"]
    for k, mean, ci in zip(result["steps"], result["mean"], result["ci95"], strict=True):
        lines.append(f"{k:5d}   {mean * scale:7.{digits}f} ± {ci * scale:.{digits}f}{unit}")
    return "\n".join(lines)
