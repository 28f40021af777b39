"""The gain from steps of adaptation: the metric of test tasks over the number of steps, beside baselines and published
values."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from ..extras import require
from ..runs.adaptation import available, interval, on_split
from ..runs.evaluate import of_baselines
from ..runs.loop import Learned
from ..runs.settings import Config, find_member
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
    tasks, baselines = available(learned, "test", tasks), learned.learner.baselines()
    total = tasks * (1 + len(baselines))
    with require("tqdm", "train").tqdm(total=total, desc="test tasks", disable=None, leave=False) as bar:
        found, beside = on_split(learned, "test", tasks, steps, baselines=baselines, each=bar.update)
    mean, ci = interval(metric.scale * found)
    result = f"{mean[-1]:.3g} ± {ci[-1]:.2g}{metric.unit} after {style.in_number(steps, 'step')}"
    top = style.diverged(mean[0]) if metric.better == "lower" else np.inf
    ci[~(mean <= top)] = np.nan
    ax.fill_between(x, mean - ci, mean + ci, color=colour, alpha=0.2, lw=0)
    label = f"{config.algorithm.name}: {result if np.isfinite(mean[-1]) else 'diverges'}"
    ax.plot(x, mean, "o-", ms=3.5, color=colour, label=label)
    draw_published(ax, published(config), metric.scale, steps)
    draw_baselines(ax, of_baselines(beside), metric.scale)
    style.metric_axis(ax, metric, top)
    ax.set(xlabel="adaptation steps", xticks=x)
    figure.legend(loc="outside lower center", ncols=2)
    return style.titled(figure, learned, f"mean over {tasks} test tasks, with 95 % intervals")


def published(config: Config) -> list[tuple[str, dict[int, float]]]:
    """The numbers that papers report for the settings of the family: (label, {step: metric})."""
    member = find_member("family", config.family.name)
    return member.published(config.family.settings) if hasattr(member, "published") else []


def draw_published(ax, rows: list[tuple[str, dict[int, float]]], scale: float, steps: int) -> None:
    """Published values, as diamonds, as far as the picture goes."""
    for i, (label, values) in enumerate(rows):
        shown = {step: scale * value for step, value in values.items() if step <= steps}
        if not shown:
            continue
        ax.plot(shown.keys(), shown.values(), "D", ms=6, mfc="none", color=("black", GREY)[i % 2], label=label)


LINES = ("--", "-.", (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)))  # of baselines, which all are grey


def draw_baselines(ax, rows: list[dict[str, Any]], scale: float) -> None:
    """Baselines, which take no steps, as horizontal lines, each in a faint band of 95 %."""
    for row, line in zip(rows, itertools.cycle(LINES)):  # noqa: B905
        mean, ci = scale * row["mean"], scale * row["ci95"]
        ax.axhspan(mean - ci, mean + ci, color=GREY, alpha=0.12, lw=0)
        ax.axhline(mean, ls=line, lw=1.2, color="#444444", label=row["label"])
