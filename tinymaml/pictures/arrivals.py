"""Ratings of films as they arrive: what was predicted before each, by adapting to all that had arrived already."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..nest import tree_map
from ..runs.adaptation import interval, measured, path
from ..runs.loop import Learned
from . import style
from .style import GREY, SHADES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

USERS, FILMS = 3, 20  # as many as can be read
BIASES, RUN = "biases of film and user", "run"  # what is compared


class Arrivals(NamedTuple):
    """The first ratings of a user, in the order of time, each array (films,).

    Attributes:
        titles: of the films.   ratings: as the user gave them.
        run, biases: what was predicted before each rating arrived, on the scale that is drawn: stars; or of likes, from
            0 to 1, the probability of the run, and the share that the biases predict.
        errors: {RUN, BIASES}: the family's metric of each prediction alone.
    """

    titles: list[str]
    ratings: np.ndarray
    run: np.ndarray
    biases: np.ndarray
    errors: dict[str, np.ndarray]


def arrivals(learned: Learned, user: int, count: int = FILMS) -> Arrivals:
    """Adapt to the first 0, 1, 2, … ratings of a user, each time from what was meta-learned, and predict the next one.

    Args:
        user: the place in `content.users` of the family, which is `ratings`.
    """
    learner, family = learned.learner, learned.learner.family
    films, ratings = (part[:count] for part in family.content.users[user])
    x, y = family.examples(films, user), family.targets(films, ratings, user)
    x, y = tree_map(lambda part: part.astype(learner.dtype) if part.dtype.kind == "f" else part, (x, y))
    predict = family.baselines()[BIASES]
    found: dict[str, list[float]] = {RUN: [], BIASES: []}
    errors: dict[str, list[float]] = {RUN: [], BIASES: []}
    for k in range(len(films)):
        known = slice(0, max(k, 1))  # a set of no ratings is a row that the mask leaves out
        support = tree_map(lambda part: part[known], x), {"y": y[known], "mask": np.full(max(k, 1), k > 0, y.dtype)}  # noqa: B023
        asked = tree_map(lambda part: part[k : k + 1], x)  # noqa: B023
        *_, theta = path(learned, support, learner.steps)
        for name, prediction in ((RUN, learner.predict(theta, asked)), (BIASES, predict(*support, asked))):
            found[name].append(family.shown(np.asarray(prediction, float), films[k : k + 1])[0])
            truth = {"y": y[k : k + 1], "mask": np.ones(1, y.dtype)}
            errors[name].append(float(family.loss(np.asarray(prediction, y.dtype), truth)[1]))
    titles = [family.content.titles[film] for film in films]
    as_arrays = {name: np.array(e) for name, e in errors.items()}
    return Arrivals(titles, ratings, np.array(found[RUN]), np.array(found[BIASES]), as_arrays)


def of_users(learned: Learned, count: int = USERS) -> Figure:
    """The first test users: their first films from top to bottom, with ratings, predictions, and the metric so far."""
    family, metric = learned.learner.family, learned.learner.metric
    users = family.splits["test"][:count]
    drawn = [arrivals(learned, int(user)) for user in users]
    figure = style.new(8, 1 + sum(0.55 + 0.16 * len(one.titles) for one in drawn))
    ratio = [len(one.titles) + 3 for one in drawn]
    grid = figure.subplots(len(users), 2, squeeze=False, gridspec_kw=dict(width_ratios=(3, 1.3), height_ratios=ratio))
    labels = {RUN: f"{learned.config.algorithm.name}: predicted before it arrived", BIASES: BIASES}
    for (ax, beside), user, one in zip(grid, users, drawn, strict=True):
        rows = np.arange(len(one.titles))
        rated = one.ratings if family.target == "rating" else one.ratings >= 4
        for row, pair in enumerate(zip(rated, one.run, strict=True)):
            ax.plot(pair, (row, row), lw=0.8, color=SHADES[1], zorder=1)
        ax.plot(one.biases, rows, "x", ms=4, color=GREY, label=labels[BIASES])
        ax.plot(one.run, rows, "o", ms=4.5, mew=0, color=SHADES[5], label=labels[RUN])
        ax.plot(rated, rows, "D", ms=4.5, mew=0, color="black", label="the user's rating")
        ax.set_yticks(rows, [_short(title) for title in one.titles], fontsize=7)
        ax.set(ylim=(len(rows) - 0.4, -0.6), xlabel="stars" if family.target == "rating" else "like (1) or not (0)")
        ax.set_title(f"user {family.content.names[user]}")
        so_far = {name: metric.scale * np.cumsum(each) / (rows + 1) for name, each in one.errors.items()}
        beside.plot(so_far[BIASES], rows, "--", lw=1.2, color=GREY)
        beside.plot(so_far[RUN], rows, lw=1.6, color=SHADES[5])
        last = f"{so_far[RUN][-1]:.2f}; biases {so_far[BIASES][-1]:.2f}{metric.unit}"
        beside.set(ylim=ax.get_ylim(), yticks=[], xlabel=metric.label)
        beside.set_title(f"so far: {last}", fontsize=8)
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    note = "test users, films in the order of time: each is predicted by adapting to all above it"
    return style.titled(figure, learned, note)


def over_ratings(learned: Learned) -> Figure:
    """The metric over the number of ratings that have arrived, on the same queries of all test users."""
    found: dict[str, list] = {RUN: [], **{label: [] for label in learned.learner.family.baselines()}}
    counts = numbers(learned.learner.family.shots)
    for known in counts:
        values = by_user(learned, known)
        for label, each in values.items():
            found[label].append(interval(learned.learner.metric.scale * each[:, None]))
    figure = style.new(8, 4.4)
    ax, metric, name = figure.subplots(), learned.learner.metric, learned.config.algorithm.name
    (colour,) = style.colours([name])
    for (label, rows), line in zip(found.items(), ("o-", "o:", "o--", "o-."), strict=False):
        mean, ci = (np.concatenate(part) for part in zip(*rows, strict=True))
        called, shade = (name, colour) if label == RUN else (label, GREY)
        if label == RUN:
            ax.fill_between(counts, mean - ci, mean + ci, color=colour, alpha=0.15, lw=0)
        ax.plot(counts, mean, line, ms=3.5, color=shade, label=f"{called}: {mean[0]:.3g} → {mean[-1]:.3g}{metric.unit}")
    unit = f" ({metric.unit.strip()})" if metric.unit.strip() else ""
    ax.set(xlabel="ratings that have arrived", xticks=counts, ylabel=f"query {metric.label}{unit}")
    figure.legend(loc="outside lower center", ncols=2)
    users = len(learned.learner.family.splits["test"])
    gain, half = (x.item() for x in interval(metric.scale * (values[RUN] - values[BIASES])[:, None]))
    after = f"after {style.in_number(counts[-1], 'rating')}, user by user: {gain:+.2g} ± {half:.2g}{metric.unit}"
    note = f"mean over {users} test users, of the same queries; {name} − biases {after}"
    return style.titled(figure, learned, note)


def numbers(most: int) -> list[int]:
    """The numbers of ratings that are drawn: all up to 10, and fewer beyond."""
    return [n for n in range(most + 1) if n <= 10 or n % (10 if most > 30 else 5) == 0 or n == most]


def by_user(learned: Learned, known: int) -> dict[str, np.ndarray]:
    """The metric of the query of each test user after `known` ratings, (users,): of the run, and of each baseline."""
    learner, family = learned.learner, learned.learner.family
    tasks = [family.task(user, known) for user in family.splits["test"]]
    found = {RUN: measured(learned, family.stacked(tasks), learner.steps)[:, -1]}
    for label, predict in family.baselines().items():
        found[label] = np.array([family.loss(predict(*support, xq), yq)[1] for support, (xq, yq) in tasks])
    return found


def _short(title: str, most: int = 44) -> str:
    return title if len(title) <= most else f"{title[: most - 1]}…"
