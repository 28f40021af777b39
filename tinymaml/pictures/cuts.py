"""Binary classification in many dimensions: a plane through the space, and the boundary before and after adaptation."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ..engine import grad
from ..runs.adaptation import path, task
from ..runs.loop import TEST, Learned, generator
from . import style
from .style import PALETTE, STEPS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIDES = PALETTE[-1], PALETTE[0]  # the colours of the labels 0 and 1
SPAN = 3.2


def boundaries(learned: Learned, truth: Callable, count: int = 4) -> Figure:
    """The first test tasks, before adaptation above and after it below.

    The plane goes through a point of the true boundary, along its normal n and along what is orthogonal to n in the
    mean gradient of the adapted network's logit, over the queries. So it shows how far the two differ. All points are
    projected onto the plane; the network is evaluated in it.

    Args:
        truth: `truth(rng)` → (n, the point), of the task that the family samples with this generator.
    """
    figure, learner = style.new(8, 5.2), learned.learner
    grid = figure.subplots(2, count, sharex=True, sharey=True, squeeze=False)
    for i, column in enumerate(grid.T):
        n, point = truth(generator(learned.config, TEST, i))
        support, (xq, yq) = task(learned, "test", i)
        thetas = list(path(learned, support, STEPS))
        last = len(thetas) - 1

        def logits(x, k, support=support, thetas=thetas):
            asked, _ = learner.view(support, (x, None), learned.state.norms, k)
            return learner.predict(thetas[k], asked)

        g = grad(lambda x, logits=logits, last=last: np.sum(logits(x, last)))(xq).mean(0)
        across = g - (g @ n) * n
        axes = np.stack([n, across / max(np.linalg.norm(across), 1e-12)])  # (2, features)
        ticks = np.linspace(-SPAN, SPAN, 81)
        cut = (point + np.stack(np.meshgrid(ticks, ticks), -1).reshape(-1, 2) @ axes).astype(xq.dtype)
        after = f"after {style.in_number(last, 'step')}{'' if last == STEPS else ', where it diverges'}"
        for ax, k, when in zip(column, (0, last), ("before adaptation", after), strict=True):
            height = np.asarray(logits(cut, k)).reshape(81, 81)
            ax.contourf(ticks, ticks, height > 0, levels=[-0.5, 0.5, 1.5], colors=SIDES, alpha=0.15)
            for (x, y), size in (((xq, yq), 3.5), (support, 6)):
                a, b = axes @ (x - point).T
                for label, colour in enumerate(SIDES):
                    chosen = np.ravel(y) == label
                    edge = dict(mec="black", mew=0.9) if size == 6 else dict(mew=0)
                    ax.plot(a[chosen], b[chosen], "o", ms=size, color=colour, **edge)
            ax.axvline(0, lw=1.2, ls="--", color="black")
            right = np.mean((np.asarray(logits(xq, k)) > 0) == (yq > 0.5))
            ax.set_title(f"{when}: {100 * right:.0f} %", fontsize=8)
            ax.set(xlim=(-SPAN, SPAN), ylim=(-SPAN, SPAN), aspect="equal")
            ax.set(xlabel="along the true normal", ylabel="across it, by the gradient")
            ax.label_outer()
    _legend(figure)
    return style.titled(figure, learned, f"the first {count} test tasks; accuracy of the queries")


def _legend(figure: Figure) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    dot = lambda colour, **more: Line2D([], [], ls="", marker="o", color=colour, **more)  # noqa: E731
    handles = {
        "query, 0": dot(SIDES[0], ms=3.5), "query, 1": dot(SIDES[1], ms=3.5),
        "support": dot("white", ms=6, mec="black"), "true boundary": Line2D([], [], ls="--", color="black"),
        "predicted 0": Patch(color=SIDES[0], alpha=0.15), "predicted 1": Patch(color=SIDES[1], alpha=0.15),
    }  # fmt: skip
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=6)
