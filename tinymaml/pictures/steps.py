"""What steps of adaptation bring: the metric of test tasks over the number of steps, beside published values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..extras import require
from ..nest import tree_map
from ..runs.adaptation import interval, measured, task
from ..runs.loop import Learned
from ..runs.settings import Config, find
from . import style
from .style import GREY, STEPS

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def after_steps(learned: Learned, tasks: int = 200, steps: int = STEPS) -> Figure:
    """The query metric over the number of steps: its mean over test tasks, in a band of 95 %."""
    config, metric = learned.config, learned.learner.metric
    figure = style.new(8, 4.4)
    ax, x = figure.subplots(), np.arange(steps + 1)
    (colour,) = style.colours([config.algorithm.name])
    chosen = [task(learned, "test", t) for t in range(tasks)]
    stacked = tree_map(lambda *xs: np.stack(xs), *chosen)
    with require("tqdm", "train").tqdm(total=tasks, desc="test tasks", disable=None, leave=False) as bar:
        mean, ci = interval(metric.scale * measured(learned, stacked, steps, each=bar.update))
    result = f"{mean[-1]:.3g} ± {ci[-1]:.2g}{metric.unit} after {style.count(steps, 'step')}"
    top = style.diverged(mean[0]) if metric.better == "lower" else np.inf
    ci[~(mean <= top)] = np.nan
    ax.fill_between(x, mean - ci, mean + ci, color=colour, alpha=0.2, lw=0)
    label = f"{config.algorithm.name}: {result if np.isfinite(mean[-1]) else 'diverges'}"
    ax.plot(x, mean, "o-", ms=3.5, color=colour, label=label)
    draw_published(ax, published(config), metric.scale, steps)
    style.metric_axis(ax, metric, top)
    ax.set(xlabel="adaptation steps", xticks=x)
    figure.legend(loc="outside lower center", ncols=2)
    return style.titled(figure, learned, f"mean over {tasks} test tasks, with 95 % intervals")


def published(config: Config) -> list[tuple[str, dict[int, float]]]:
    """What papers report for the settings of the family: (label, {step: metric})."""
    member = find("family", config.family.name)
    return member.published(config.family.settings) if hasattr(member, "published") else []


def draw_published(ax, rows: list[tuple[str, dict[int, float]]], scale: float, steps: int) -> None:
    """Published values, as diamonds, as far as the picture goes."""
    for i, (label, values) in enumerate(rows):
        shown = {step: scale * value for step, value in values.items() if step <= steps}
        if not shown:
            continue
        ax.plot(shown.keys(), shown.values(), "D", ms=6, mfc="none", color=("black", GREY)[i % 2], label=label)
