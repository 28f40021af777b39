"""Navigation: the paths of a policy in a plane before and after adaptation, and the goals that it does not see."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from ..nest import tree_map
from ..runs.acting import Acting
from ..runs.adaptation import stacked
from ..runs.loop import Learned
from . import style
from .style import SHADES, WRONG

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = {0: WRONG, 1: SHADES[5], 3: SHADES[10]}  # steps of adaptation, and their colours
PATHS = 2  # of a policy, in a panel


def walks(learned: Learned, count: int = 8, columns: int = 4) -> Figure:
    """The first test tasks: a star is the goal, a dot the start, and there are some paths after 0, 1 and 3 steps."""
    tasks = stacked(learned, "test", range(count))
    acting, learner = Acting(learned.learner, learned.config.outer.compile), learned.learner
    batches = [batch for _, batch in islice(acting.path(learned.meta, tasks), max(SHOWN) + 1)]
    returns = [learner.measure(batch) for batch in batches]
    figure = style.new(8, 1.2 + 2.1 * -(-count // columns))
    grid = figure.subplots(-(-count // columns), columns, sharex=True, sharey=True, squeeze=False)
    for t, ax in zip(range(count), grid.ravel(), strict=False):
        for steps, colour in SHOWN.items():
            one = tree_map(lambda x, t=t: x[t], batches[steps])
            for n in range(min(PATHS, len(one["mask"]))):
                walked = one["observations"][n][one["mask"][n] > 0]
                label = f"after {style.count(steps, 'step')}" if steps else "before adaptation"
                ax.plot(*walked.T[:2], lw=0.9, color=colour, alpha=0.8, label=None if n else label)
        ax.plot(*one["observations"][0, 0, :2], "o", ms=4, color="black", label="start", zorder=4)
        ax.plot(*tasks["goal"][t], "*", ms=11, mec="white", mew=0.8, color="black", label="goal", zorder=5)
        ax.set_title(f"return {' → '.join(f'{returns[k][t]:.0f}' for k in SHOWN)}", fontsize=8)
        ax.set(aspect="equal", xlabel="x", ylabel="y")
        ax.label_outer()
    for ax in grid.ravel()[count:]:
        ax.set_axis_off()
    _zoom(grid, tasks["goal"], batches)
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    note = f"test goals, {PATHS} paths of each policy; return: mean over its trajectories, after 0, 1 and 3 steps"
    return style.titled(figure, learned, note)


def _zoom(grid: np.ndarray, goals: np.ndarray, batches: list) -> None:
    """A square that holds the goals and nearly all that adapted policies reach; others may leave it."""
    reached = np.abs(np.concatenate([batches[k]["observations"][..., :2][batches[k]["mask"] > 0] for k in SHOWN if k]))
    half = 1.15 * max(np.abs(goals).max(), np.quantile(reached, 0.99))
    grid[0, 0].set(xlim=(-half, half), ylim=(-half, half))
