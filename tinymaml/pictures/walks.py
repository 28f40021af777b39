"""Navigation: where policies go before and after adaptation, in the plane or in a maze, and the unseen goals."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from ..nest import tree_map
from ..runs.acting import Acting
from ..runs.adaptation import stacked_tasks
from ..runs.loop import Learned
from . import style
from .style import SHADES, WRONG

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = {0: WRONG, 1: SHADES[5], 3: SHADES[10]}  # steps of adaptation, and their colours
PATHS = 2  # of a policy, in a panel


def walks(learned: Learned, count: int = 8, columns: int = 4) -> Figure:
    """The first test tasks: a star is the goal, a dot the start, and there are some paths after 0, 1 and 3 steps."""
    tasks, batches, returns = acted(learned, count)
    figure = style.new(8, 1.2 + 2.1 * -(-count // columns))
    grid = figure.subplots(-(-count // columns), columns, sharex=True, sharey=True, squeeze=False)
    for t, ax in zip(range(count), grid.ravel(), strict=False):
        for steps, colour in SHOWN.items():
            one = tree_map(lambda x, t=t: x[t], batches[steps])
            for n in range(min(PATHS, len(one["mask"]))):
                walked = one["observations"][n][one["mask"][n] > 0]
                label = f"after {style.in_number(steps, 'step')}" if steps else "before adaptation"
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


def in_maze(learned: Learned, count: int = 5) -> Figure:
    """How much of their time the policies of the first test tasks spend in each cell, before and after 3 steps."""
    tasks, batches, returns = acted(learned, count)
    cells = learned.learner.family.world(1).cells
    figure = style.new(8, 4.4)
    for row, (k, when) in zip(figure.subplots(2, count), ((0, "before"), (3, "after 3 steps")), strict=True):
        for t, ax in enumerate(row):
            seen = batches[k]["observations"][t][batches[k]["mask"][t] > 0]
            shares = np.full(cells.max(0) + 1, np.nan)
            shares[tuple(cells.T)] = seen.mean(0)
            ax.imshow(shares, cmap="Blues", vmin=0, vmax=0.2)
            goal, start = cells[tasks["goal"][t]], cells[seen[0].argmax()]
            ax.plot(*goal[::-1], "*", ms=11, mec="white", mew=0.8, color=WRONG, label="goal")
            ax.plot(*start[::-1], "o", ms=4, color="black", label="start")
            ax.set(xticks=[], yticks=[], facecolor="#555555")
            ax.set_title(f"{when}: {returns[k][t]:.0f}", fontsize=8)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    note = "test goals; the darker a cell, the more of the time is spent there (grey: walls); in titles the return"
    return style.titled(figure, learned, note)


def acted(learned: Learned, count: int) -> tuple[dict, list[dict], list[np.ndarray]]:
    """The first test tasks; what the policy did in them after 0 … 3 steps; and the returns, (count,) each."""
    tasks = stacked_tasks(learned, "test", range(count))
    batches = [batch for _, batch in islice(Acting(learned.learner).path(learned.meta, tasks), max(SHOWN) + 1)]
    return tasks, batches, [learned.learner.measure(batch) for batch in batches]


PICTURES = {"point": walks, "maze": in_maze}  # by the world of the family `navigation`


def _zoom(grid: np.ndarray, goals: np.ndarray, batches: list) -> None:
    """A square that holds the goals and nearly all that adapted policies reach; others may leave it."""
    reached = np.abs(np.concatenate([batches[k]["observations"][..., :2][batches[k]["mask"] > 0] for k in SHOWN if k]))
    half = 1.15 * max(np.abs(goals).max(), np.quantile(reached, 0.99))
    grid[0, 0].set(xlim=(-half, half), ylim=(-half, half))
