"""Regression of real curves: what a few steps make of a subject's support points, beside a mixed-effects fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..nest import tree_leaves
from ..runs.adaptation import path, task
from ..runs.loop import Learned
from . import style
from .style import GREY, SHADES, STEPS, WRONG

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BASELINE = "mixed effects"


def subjects(learned: Learned, family, most: int = 8, columns: int = 4) -> Figure:
    """The first test subjects: all points of each, and what is predicted before and after adaptation, in real units."""
    learner = learned.learner
    count = min(most, len(tree_leaves(learner.every("test"))[0]))
    figure = style.new(8, 1.2 + 1.9 * -(-count // columns))
    grid = figure.subplots(-(-count // columns), columns, sharex=True, sharey=True, squeeze=False)
    mean_x, deviation_x, mean_y, deviation_y = family.constants
    predict = family.baselines()[BASELINE]
    for i, ax in zip(range(count), grid.ravel(), strict=False):
        (xs, ys), (xq, yq) = task(learned, "test", i)
        real = yq["mask"] > 0
        x, y = (np.concatenate([s[:, 0], q[real, 0]]) for s, q in ((xs, xq), (ys["y"], yq["y"])))
        order = np.argsort(x)
        span = np.linspace(x.min(), x.max(), 100, dtype=learner.dtype)[:, None]
        asked = np.concatenate([span, xq])
        curves = []
        for k, theta in enumerate(path(learned, (xs, ys), STEPS)):
            seen, _ = learner.view((xs, ys), (asked, None), learned.state.norms, k)
            curves.append(np.ravel(learner.predict(theta, seen)))
        mixed = np.ravel(predict(xs, ys, asked))

        def error(curve, real=real, yq=yq):
            return deviation_y * np.sqrt(np.mean((curve[100:][real] - yq["y"][real, 0]) ** 2))

        def draw(values, style="-", x=span[:, 0], **more):
            ax.plot(mean_x + deviation_x * x, mean_y + deviation_y * values, style, **more)  # noqa: B023

        draw(y[order], "o-", x[order], ms=2.5, lw=0.8, color="black", label="the subject's points")
        draw(mixed[:100], "--", lw=1.2, color=GREY, label=BASELINE)
        for k in sorted({0, len(curves) - 1}):
            label = f"after {style.in_number(k, 'step')}" if k else "before adaptation"
            draw(curves[k][:100], lw=1.4, color=SHADES[10 if k else 0], label=label)
        draw(ys["y"][:, 0], "o", xs[:, 0], ms=4.5, mec="white", mew=0.6, color=WRONG, label="support points")
        errors = error(curves[0]), error(curves[-1]), error(mixed)
        ax.set_title(f"{family.splits['test'][i]}: {errors[0]:.3g} → {errors[1]:.3g}; {errors[2]:.3g}", fontsize=8)
        ax.set(xlabel=family.table.x_unit, ylabel=f"{family.table.y} ({family.table.y_unit})")
        ax.label_outer()
    for ax in grid.ravel()[count:]:
        ax.set_axis_off()
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    note = f"error before → after 10 steps; of {BASELINE}: root mean squared, in {family.table.y_unit}"
    return style.titled(figure, learned, note)
