"""How a run learned: loss and metric of the query examples over the meta-iterations, and their validation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..families.common import Metric
from ..runs.loop import Learned
from . import style
from .style import PALETTE, SHADES

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def learning(learned: Learned, records: list[dict[str, Any]]) -> Figure:
    """Loss and metric of the records of a run's log; one panel, where they are the same."""
    metric = learned.learner.metric
    alike = all(np.isclose(abs(r["loss"]), abs(r[metric.name]), 1e-6, 0) for r in records)  # a return is minus its loss
    panels = [metric] if alike else [Metric("loss", label="loss"), metric]
    figure = style.new(8, 3.6)
    for ax, shown in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        x, y = (np.array([record[key] for record in records]) for key in ("iteration", shown.name))
        window = max(5, len(x) // 50) | 1  # odd
        ax.plot(x, y * shown.scale, ".", ms=4, mew=0, color=SHADES[1], alpha=0.6, label="training, each iteration")
        name = f"training, mean of {window} iterations"
        ax.plot(x, smooth(y, window) * shown.scale, lw=1.3, color=SHADES[10], label=name)
        key = f"validation_{shown.name}"
        if seen := [(r["iteration"], r[key] * shown.scale) for r in records if key in r]:
            tasks = style.in_number(learned.config.outer.validation_tasks, "task")
            name = f"validation, {tasks} after {style.in_number(learned.learner.steps, 'step')}"
            ax.plot(*zip(*seen, strict=True), "o-", ms=3.5, lw=1, color=PALETTE[-1], label=name)
        style.metric_axis(ax, shown, what="query" if shown is metric else "training")
        ax.locator_params(axis="x", integer=True)
        ax.set(xlabel="meta-iteration")
    # of the last panel, which has the metric and its validation
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return style.titled(figure, learned, training=True)


def smooth(y: np.ndarray, window: int) -> np.ndarray:
    """The mean of the `window` values around each; of fewer at the ends."""
    total, i = np.cumsum([0, *y]), np.arange(len(y))
    start, stop = np.maximum(i - window // 2, 0), np.minimum(i + window // 2 + 1, len(y))
    return (total[stop] - total[start]) / (stop - start)
