"""Regression of any number of features: predictions against targets, and how θ approaches a minimiser that is known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..nest import Nest, tree_items, tree_leaves
from ..runs.adaptation import path, task
from ..runs.learner import Learner
from ..runs.loop import Learned, initial, make_step
from ..runs.settings import Config
from . import style
from .style import GREY, PALETTE, SHADES, STEPS, WRONG

if TYPE_CHECKING:
    from matplotlib.figure import Figure


LEAST = 1e-17  # a distance of 0, on a logarithmic axis


def predictions(learned: Learned, count: int = 8, columns: int = 4) -> Figure:
    """The first test tasks: what is predicted for each query before and after adaptation, against its target."""
    figure = style.new(8, 1 + 2.1 * -(-count // columns))
    grid = figure.subplots(-(-count // columns), columns, sharex=True, sharey=True, squeeze=False)
    for i, ax in zip(range(count), grid.ravel(), strict=False):
        support, (xq, yq) = task(learned, "test", i)
        errors = []
        for k, theta in enumerate(path(learned, support, STEPS)):
            asked, _ = learned.learner.view(support, (xq, yq), learned.state.norms, k)
            predicted = np.ravel(learned.learner.predict(theta, asked))
            errors.append(np.mean((predicted - np.ravel(yq)) ** 2))
            if k in (0, STEPS):
                label = f"after {style.in_number(k, 'step')}" if k else "before adaptation"
                ax.plot(np.ravel(yq), predicted, "o", ms=4.5, mew=0, color=WRONG if k == 0 else SHADES[10], label=label)
        ax.axline((0, 0), slope=1, lw=0.8, color=GREY, zorder=0)
        last = f"{errors[-1]:.2g}" if len(errors) > STEPS else "diverges"
        ax.set_title(f"error {errors[0]:.2g} → {last}", fontsize=8)
        ax.set(xlabel="target", ylabel="prediction")
        ax.label_outer()
    for ax in grid.ravel()[count:]:
        ax.set_axis_off()
    whole = max(grid.ravel(), key=lambda ax: len(ax.lines))  # where a task diverges, the points after it are missing
    figure.legend(*whole.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return style.titled(figure, learned, "query points; error: mean squared, before and after 10 steps")


def alike(a: Nest, b: Nest) -> bool:
    """Whether two nests have the same leaves, of the same shapes."""
    return [(path, np.shape(x)) for path, x in tree_items(a)] == [(path, np.shape(x)) for path, x in tree_items(b)]


def distances(learned: Learned, minimiser: Nest, configs: dict[str, Config], most: int = 2000) -> Figure:
    """‖θ − θ*‖ over the meta-iterations, of at most the first `most`. For this, each configuration is trained again.

    Args:
        minimiser: θ*, like what the run learned.
        configs: what else to train than the run as it was, by what the legend calls it.
    """
    figure = style.new(8, 4)
    ax = figure.subplots()
    drawn = lambda distance: np.maximum(distance, LEAST)  # noqa: E731
    for colour, (label, config) in zip(PALETTE, configs.items(), strict=False):
        learner = Learner(config)
        state = initial(learner)
        step, found = make_step(learner, state), [distance(state.meta, minimiser)]
        for i in range(min(learned.iteration, most)):
            state = step(i, state)[2]
            found.append(distance(state.meta, minimiser))
        ax.plot(drawn(found), lw=1.3, color=colour, label=label)
    reached = distance(learned.meta, minimiser)
    end: dict[str, Any] = dict(ms=6, color="black", clip_on=False, label=f"this run: {reached:.2g}")
    ax.plot(min(learned.iteration, most), drawn(reached), "o", **end)
    ax.axhline(1e-6, lw=1, ls=":", color=GREY)
    ax.set(xlabel="meta-iteration", ylabel="‖θ − θ*‖", yscale="log")
    figure.legend(loc="outside lower center", ncols=3)
    return style.titled(figure, learned, "θ*: the minimiser of the meta-loss in closed form", training=True)


def distance(theta: Nest, minimiser: Nest) -> float:
    """‖θ − θ*‖ over all leaves of two nests."""
    both = zip(tree_leaves(theta), tree_leaves(minimiser), strict=True)
    return float(np.sqrt(sum(np.sum((np.asarray(a, float) - b) ** 2) for a, b in both)))
