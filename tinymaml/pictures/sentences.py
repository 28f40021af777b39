"""Classification of sentences: what a task is learned from, and what is predicted for its queries."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import numpy as np

from ..runs.adaptation import path, task
from ..runs.loop import TEST, Learned, generator
from . import style
from .style import GREY, RIGHT, STEPS, WRONG

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INTENTS, SHOTS, QUERIES = 8, 2, 2  # as many intents, and sentences of each, as can be read
LINE, LETTERS = 0.17, 72  # a line's height in inches, and the most letters of a sentence
COLUMNS = (0.0, 0.02, 0.53, 0.77)  # of the intent, its sentences, what is predicted before, and after


def predictions(learned: Learned, tasks: int = 2) -> Figure:
    """The first test tasks: the support sentences of each intent, and its first queries with the predicted intents.

    The family has `episodes(rng, tasks, split)`, which draws as `sample` does, and `content.intents`, the names, and
    `content.sentences`, of each intent.
    """
    family = learned.learner.family
    drawn = [family.episodes(generator(learned.config, TEST, i), 1, "test") for i in range(tasks)]
    rows = min(family.ways, INTENTS)
    lines = 0.6 + rows * (1 + min(family.shots, SHOTS) + min(family.queries, QUERIES))
    figure = style.new(8, 1 + tasks * (LINE * lines + 0.3))
    for i, (ax, episodes) in enumerate(zip(figure.subplots(tasks, 1, squeeze=False).ravel(), drawn, strict=True)):
        support, (xq, yq) = task(learned, "test", i)
        guesses = []
        for k, theta in enumerate(path(learned, support, STEPS)):
            asked, _ = learned.learner.view(support, (xq, None), learned.state.norms, k)
            guesses.append(np.asarray(learned.learner.predict(theta, asked)).argmax(1))
        last = style.in_number(len(guesses) - 1, "step") + ("" if len(guesses) > STEPS else ", where it diverges")
        right = [f"{100 * np.mean(guess == yq):.0f} %" for guess in (guesses[0], guesses[-1])]
        shown = f" ({rows} of {family.ways} intents shown)" if rows < family.ways else ""
        ax.set_title(f"Test task {i + 1}{shown}: accuracy {right[0]} before adaptation, {right[1]} after {last}")
        _table(ax, family.content, episodes, guesses[0], guesses[-1], rows)
        ax.set(xlim=(0, 1), ylim=(lines, 0))
        ax.set_axis_off()
    return style.titled(figure, learned, "grey: support sentences; below them queries, with the predicted intents:"
                                         " green is right, red wrong")  # fmt: skip


def _table(ax, content, episodes, before: np.ndarray, after: np.ndarray, rows: int) -> None:
    """A block for each of the first `rows` intents of a task."""
    names = [content.intents[c].replace("_", " ") for c in episodes.classes[0]]
    support, query = (_numbered(content, part) for part in (episodes.support, episodes.query))

    def write(column: int, y: float, text: str, **how) -> None:
        ax.text(COLUMNS[column], y, text, fontsize=7, va="top", parse_math=False, **how)

    for column, head in ((2, "predicted before"), (3, "predicted after")):
        write(column, 0.3, head, weight="bold")
    y = 0.3
    for label in range(rows):
        write(0, y, names[label], weight="bold")
        y += 1
        for _, sentence in support[label][:SHOTS]:
            write(1, y, _shortened(sentence), color=GREY)
            y += 1
        for number, sentence in query[label][:QUERIES]:
            write(1, y, _shortened(sentence))
            for column, guess in ((2, before[number]), (3, after[number])):
                name = names[guess] if guess < len(names) else "none of these"  # of a head for more classes
                write(column, y, name, color=RIGHT if guess == label else WRONG)
            y += 1


def _numbered(content, examples) -> dict[int, list[tuple[int, str]]]:
    """For each label, its examples of the first task: (the row, the sentence)."""
    found: dict[int, list[tuple[int, str]]] = {}
    for row, (c, number, label) in enumerate(zip(*(part[0] for part in examples), strict=True)):
        found.setdefault(int(label), []).append((row, content.sentences[c][number]))
    return found


def _shortened(sentence: str) -> str:
    return textwrap.shorten(sentence, LETTERS, placeholder=" …")
