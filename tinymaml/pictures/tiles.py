"""Classification of images: a task's support images, and what is predicted for its queries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..extras import require
from ..runs.adaptation import available, interval, on_split, path, task, tuned
from ..runs.compare import untrained
from ..runs.loop import TEST, Learned, generator
from . import style
from .style import RIGHT, STEPS, WRONG

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROWS, SHOTS, QUERIES = 10, 3, 5  # as many classes, and images of each, as can be read


def predictions(
    learned: Learned, names: Callable[[np.random.Generator], Sequence[str]], tasks: int = 2, scratch: bool = False,
    shown: Callable[[np.ndarray], np.ndarray] = lambda x: x,
) -> Figure:  # fmt: skip
    """The first test tasks: a row for each class, its support images, and what is predicted for its queries.

    Args:
        names: `names(rng)` → the names of the classes 0, 1, … of the task that the family samples with this generator.
        scratch: beside what the run predicts stands what the same network predicts that learned the task from scratch:
            from its state before training, by gradient descent at the rate that is best on validation tasks.
        shown: examples (N, …) → images (N, height, width, 1 or 3) in [0, 1].
    """
    beginner = untrained(learned.config) if scratch else learned
    rate = (tuned(beginner, STEPS),) if scratch else ()
    drawn = [task(learned, "test", i) for i in range(tasks)]
    (_, ys), (_, yq) = drawn[0]
    every = ways, shots, queries = len(np.unique(yq)), int(np.sum(ys == 0)), int(np.sum(yq == 0))
    rows, shots, queries = np.minimum(every, (ROWS, SHOTS, QUERIES)).tolist()
    left = np.cumsum([3.2, shots + 0.5, queries + 0.5, queries])  # where the three blocks begin, and the last ends
    figure = style.new(8, 0.5 + tasks * (1.4 * rows + 1) * 8 / left[-1])
    for i, ax in enumerate(figure.subplots(tasks, 1, squeeze=False).ravel()):
        called = names(generator(learned.config, TEST, i))
        support, (xq, yq) = drawn[i]
        outputs = _outputs(learned, support, xq)
        after = outputs[-1]
        before = _outputs(beginner, support, xq, *rate)[-1] if scratch else outputs[0]
        last = f"{style.in_number(len(outputs) - 1, 'step')}{'' if len(outputs) > STEPS else ', where it diverges'}"
        first, second = "before adaptation", f"after {last}"
        if scratch:
            first, second = "learned from scratch", f"{learned.config.algorithm.name}, {second}"
        xs, ys = support
        _tiles(ax, left[0], shown(xs), ys, rows, shots)
        _tiles(ax, left[1], shown(xq), yq, rows, queries, before)
        _tiles(ax, left[2], shown(xq), yq, rows, queries, after)
        for row in range(rows):
            ax.text(0, 1.4 * row + 0.5, row, va="center", weight="bold")
            name = style.user_text(called[row])
            ax.text(left[0] - 0.2, 1.4 * row + 0.5, **name, ha="right", va="center", fontsize=7)
        some = _part(queries, every[2])
        heads = f"support{_part(shots, every[1])}", f"queries{some}: {first}", f"queries{some}: {second}"
        for x, head in zip(left, heads, strict=False):
            ax.text(x, -0.2, head, fontsize=8)
        ax.set(xlim=(-0.1, left[-1] + 0.1), ylim=(1.4 * rows, -0.6), aspect="equal")
        ax.set_axis_off()
        accuracy = [f"{100 * np.mean(logits.argmax(1) == yq):.0f} %" for logits in (before, after)]
        title = f"Test task {i + 1}{_part(rows, ways, ' classes shown')}"
        ax.set_title(f"{title}: accuracy {accuracy[0]} {first}, {accuracy[1]} {second}")
    note = "below a query: the predicted class, its probability; green is right, red wrong"
    if scratch:
        many = available(learned, "test", 200)
        by = f"{_over(learned, many)} by {learned.config.algorithm.name}, {_over(beginner, many, *rate)} from scratch"
        note = f"{style.in_number(many, 'test task')}: {by} · {note}"
    return style.titled(figure, learned, note)


def _outputs(learned: Learned, support: tuple, xq: np.ndarray, *rate: float) -> list[np.ndarray]:
    """The logits of the queries after each step of adaptation, as far as it goes."""
    learner, found = learned.learner, []
    for k, theta in enumerate(path(learned, support, STEPS, *rate)):
        asked, _ = learner.view(support, (xq, None), learned.state.norms, k)
        found.append(np.asarray(learner.predict(theta, asked)))
    return found


def _over(learned: Learned, tasks: int, *rate: float) -> str:
    """The accuracy after the last step, over so many test tasks."""
    mean, ci95 = interval(100 * on_split(learned, "test", tasks, STEPS, *rate)[0])
    return f"{mean[-1]:.1f} ± {ci95[-1]:.1f} %"


def _tiles(ax, left: float, images, labels, rows: int, columns: int, logits=None) -> None:
    """Images in the rows of their classes; given logits, framed and captioned by what is predicted."""
    rectangle = require("matplotlib.patches", "plot").Rectangle
    images = np.clip(images[..., 0] if images.shape[-1] == 1 else images, 0, 1)
    for row in range(rows):
        for column, i in enumerate(np.flatnonzero(labels == row)[:columns]):
            x, y = left + column + 0.04, 1.4 * row
            ax.imshow(images[i], cmap="Greys", vmin=0, vmax=1, extent=(x, x + 0.92, y + 0.92, y))
            if logits is not None:
                guess = logits[i].argmax()
                # softmax: eᶻ / Σ eᶻ, at its largest z
                probability = 1 / np.exp(logits[i] - logits[i].max()).sum()
                colour, width = (RIGHT, 1) if guess == row else (WRONG, 2)
                ax.add_patch(rectangle((x, y), 0.92, 0.92, fill=False, ec=colour, lw=width))
                caption = f"{guess}  {100 * probability:.0f} %"
                ax.text(x + 0.46, y + 0.98, caption, color=colour, fontsize=6, ha="center", va="top")


def _part(n: int, of: int, what: str = "") -> str:
    return f" ({n} of {of}{what})" if n < of else ""
