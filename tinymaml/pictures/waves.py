"""Regression of a function of one number: what a few steps make of its support points."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ..runs.adaptation import path, task
from ..runs.loop import TEST, Learned, generator
from . import style
from .style import SHADES, STEPS, WRONG

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def adaptation(
    learned: Learned, truth: Callable, span: tuple[float, float], count: int = 8, columns: int = 4
) -> Figure:
    """The first test tasks: the function, its support points, and what is predicted after 0, 1, 5 and 10 steps.

    Args:
        truth: `truth(rng)` → the function of the task that the family samples with this generator; it takes and
            returns arrays.
        span: the least and the greatest x.
    """
    figure = style.new(8, 1 + 1.9 * -(-count // columns))
    grid = figure.subplots(-(-count // columns), columns, sharex=True, sharey=True, squeeze=False)
    x, learner = np.linspace(*span, 200, dtype=learned.learner.dtype), learned.learner
    low, high = np.inf, -np.inf
    for i, ax in zip(range(count), grid.ravel(), strict=False):
        y = np.ravel(truth(generator(learned.config, TEST, i))(x.astype(float)))
        low, high = min(low, y.min()), max(high, y.max())
        support, _ = task(learned, "test", i)
        curves = []
        for k, theta in enumerate(path(learned, support, STEPS)):
            asked, _ = learner.view(support, (x[:, None], None), learned.state.norms, k)
            curves.append(np.ravel(learner.predict(theta, asked)))
        errors = [np.mean((curve - y) ** 2) for curve in curves]
        ax.plot(x, y, lw=1.6, color="black", label="truth")
        for steps, curve in enumerate(curves):
            if steps in SHADES:
                label = f"after {style.in_number(steps, 'step')}" if steps else "before adaptation"
                ax.plot(x, np.clip(curve, -1e3, 1e3), lw=1.2, color=SHADES[steps], label=label)
        ax.plot(*map(np.ravel, support), "o", ms=4.5, mec="white", mew=0.6, color=WRONG, label="support points")
        diverged = len(curves) <= STEPS
        ax.set_title(f"error {_short(errors[0])} → {'diverges' if diverged else _short(errors[-1])}", fontsize=8)
        ax.set(xlabel="x", ylabel="y")
        ax.label_outer()
    for ax in grid.ravel()[count:]:
        ax.set_axis_off()
    margin = 0.3 * (high - low) / 2
    grid[0, 0].set_ylim(low - margin, high + margin)
    whole = max(grid.ravel(), key=lambda ax: len(ax.lines))  # where a task diverges, some curves are missing
    figure.legend(*whole.get_legend_handles_labels(), loc="outside lower center", ncols=6)
    return style.titled(figure, learned, "error: mean squared, over the curve, before and after 10 steps")


def _short(x: float) -> str:
    """A number with two digits that count: "0.042", "630"."""
    return f"{float(f'{x:.2g}'):g}"
