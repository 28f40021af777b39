"""The taste of a user never seen, from a few ratings of films: MovieLens (Harper and Konstan, 2015).

    tasks = RatingTasks("data/movielens", shots=10)
    (xs, ys), (xq, yq) = tasks.sample(rng, 32, "train")     # 32 users
    tasks.every("test")                                     # all users that training never sees

A task is a user. Ratings arrive in the order of their time stamps: the support are the first `shots` of a user, and the
query the `queries` that follow the first 10 (or the first `shots`, if these are more), so that the queries are the same
for 0 … 10 ratings. A task of training begins anywhere in a user's history, with any number of ratings up to `shots`;
what is missing is padding, whose mask is 0. 60 % of users are of training, and 20 % each of validation and test.
First ratings are harder to learn from than random ones, so that figures of the latter say nothing of these tasks.

MeLU (Lee et al., 2019) takes users with 13 to 100 ratings, 10 of them for the query and all others for the support, and
adapts its fully connected layers, but not the embedding. Nearest to it is `--shots 90 --algorithm anil`, which adapts
the last layer. Here all of the network adapts.

A target is how much better the user rates a film than it is expected of users of TRAINING,

    y = r − mean − b_film

where b_film, the bias of the film, is how much better they rate it than they rate others (for a training user: without
that user's own rating). So a network that predicts 0 is as good as the film's mean, and what it learns is taste. With
`target` "like", y is 1 if r is at least 4, else 0, and b_film is that of likes.

A film is a row of the embedding, and one for each genre; films that training seldom or never saw share a row. Beside
these stand three numbers of the film: its bias, how many users of training rated it, and whether it has a row of its
own. Read next: `growth`, whose tasks are padded, too.
"""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from .. import nn
from ..nest import tree_map
from ..runs.settings import option
from .common import (
    SPLITS,
    Metric,
    accuracy,
    by_hash,
    check_counts,
    check_draw,
    check_dtype,
    digest,
    masked_mean,
    shared_out,
)
from .reading import inflated, open_data

SCALE, LIKED, FIRST = (0.5, 5.0), 4.0, 10  # of ratings; from where a film is liked; ratings before the query
LENGTH, GENRES = 12, 32  # rows of the embedding that a film has at most, and that genres have
OWN = 0.3  # weight of the film's own row
SHARES = {"train": 0.6, "val": 0.2, "test": 0.2}  # of users
# The constants of a user's bias, of which the baselines take the best on validation users: see `RatingTasks.biases`.
SHRINK, TYPICAL = (1.0, 2.0, 3.0, 5.0, 8.0, 12.0, 20.0, 40.0), (-0.1, -0.05, 0.0, 0.05, 0.1, 0.15)
BIASES = "biases of film and user"
PRIOR = 20.0  # n ratings count as n / (n + PRIOR) of a loss
FILM = 5.0  # so many average ratings are added to those of each film
ADVICE = "`tinymaml data movielens --to DIR` says where MovieLens can be had"

defaults: dict[str, Any] = dict(
    network="embedding", embed=8, hidden=(32,), inner_steps=5, inner_lr=0.015, meta_lr=0.001, decay=300, tasks=32,
    iterations=500, save_every=100, validate_every=100, validation_tasks=134,
)  # fmt: skip
defaults_for: dict[str, dict[str, Any]] = {"anil": dict(inner_lr=0.1)}


@dataclass(frozen=True)
class Settings:
    """Options of ratings."""

    data: str = option("", "folder or archive of ratings.csv and movies.csv", path=True)
    shots: int = option(10, "most support ratings of each user, the first in time; 0: none", least=0)
    queries: int = option(10, "query ratings of each user", least=1)
    target: str = option("rating", "the rating itself; or whether it is at least 4", choices=("rating", "like"))
    vocabulary: int = option(1024, "rows of the embedding, for genres and the films that are rated most", least=64)


def make(settings: Settings) -> RatingTasks:
    """The family with these settings. Its ratings are read when the first task is drawn."""
    s = settings
    if not s.data:
        raise ValueError(f"ratings needs its data: --data PATH; {ADVICE}")
    return RatingTasks(s.data, s.shots, s.queries, s.target, s.vocabulary)


def pictures(learned) -> Iterator[tuple[str, Any]]:
    """Test users: their ratings, and what was predicted before each arrived; and the error over how many arrived."""
    from ..pictures import arrivals

    yield "arrivals", arrivals.of_users(learned)
    yield "ratings", arrivals.over_ratings(learned)


class Content(NamedTuple):
    """The data that were read. titles, genres: of each film; users: per user the films, as places in titles, and their
    ratings, in the order of time; names: of the users."""

    titles: tuple[str, ...]
    genres: tuple[tuple[int, ...], ...]
    users: list[tuple[np.ndarray, np.ndarray]]
    names: tuple[str, ...]


class Films(NamedTuple):
    """Facts about each film, from the ratings of training users.

    Attributes:
        mean: of all ratings.   user: the bias of each user of the data, which is 0 except for users of training.
        total, counts: of each film Σ (r − mean − b_user), and how many ratings it has.
        row: of the embedding; 0: none of its own.
    """

    mean: float
    user: np.ndarray
    total: np.ndarray
    counts: np.ndarray
    row: np.ndarray


class RatingTasks:
    """Predict the ratings of one user per task.

    Raises:
        ValueError: a count that is not allowed; when data are read, what `load` raises.
    """

    input_shape, outputs, features = (LENGTH,), 1, 3

    def __init__(
        self, path: str, shots: int = 10, queries: int = 10, target: str = "rating", vocabulary: int = 1024,
        dtype: DTypeLike = np.float32,
    ) -> None:  # fmt: skip
        check_counts(queries=queries, vocabulary=vocabulary)
        self.path, self.shots, self.queries, self.target = path, shots, queries, target
        self.vocabulary, self.dtype = vocabulary, check_dtype(dtype)
        self.metric = Metric("mae", label="mean absolute error") if target == "rating" else accuracy(2)

    def loss(self, prediction: np.ndarray, y: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Over the n examples whose mask is 1: the mean squared error and the mean absolute one; or, of likes, the
        binary cross-entropy of logits and the share of right ones.

        The loss is n / (n + 20) of the mean, so that one rating moves a network less than ten do. If only a number were
        learned that is added to all predictions, a step of rate 1/2 would make it Σ y / (20 + n), as of the biases.
        """
        target, mask = y["y"], y["mask"]
        sure = np.sum(mask) / (np.sum(mask) + PRIOR)
        if self.target == "rating":
            error = prediction - target
            return sure * masked_mean(error**2, mask), masked_mean(np.abs(error), mask)
        # softplus(z) − z y is the cross-entropy of the logit z
        each = nn.softplus(prediction) - prediction * target
        right = np.where((prediction > 0) == (target > 0.5), 1.0, 0.0)
        return sure * masked_mean(each, mask), masked_mean(right, mask)

    # ── the data ──

    @cached_property
    def content(self) -> Content:
        content = load(self.path)
        for name, (films, _) in zip(content.names, content.users, strict=True):
            if len(films) <= self.queries:
                few = f"the user {name} has {len(films)} ratings"
                raise ValueError(f"{self.path}: {few}; wanted more than queries={self.queries} of each")
        return content

    @cached_property
    def splits(self) -> dict[str, np.ndarray]:
        """The users of each split, as places in `content.users`: in the order of a hash of their names."""
        parts = shared_out(by_hash(self.content.names), SHARES)
        return {split: np.sort(part) for split, part in parts.items()}

    def measured(self, ratings: np.ndarray) -> np.ndarray:
        """The targets of the biases: the ratings; or 1.0 for those of at least 4, and 0.0 for the others."""
        return ratings if self.target == "rating" else (ratings >= LIKED).astype(float)

    def expected(self, films: np.ndarray, user: int = 0, own: np.ndarray | None = None) -> np.ndarray:
        """mean + b_film of films (N,): what `measured` ratings are on average; `own` as `bias` takes it."""
        return self.films.mean + self.bias(films, user, own)

    def targets(self, films: np.ndarray, ratings: np.ndarray, user: int, own: bool = False) -> np.ndarray:
        """y, (N, 1), of films that a user has rated so; `own`: the user is of training."""
        values = self.measured(ratings)
        if self.target == "rating":
            values = values - self.expected(films, user, values if own else None)
        return values.astype(self.dtype)[:, None]

    def shown(self, prediction: np.ndarray, films: np.ndarray) -> np.ndarray:
        """Predictions (N, 1) of films (N,) as a person reads them, (N,): stars, or the probability of a like."""
        if self.target == "rating":
            return self.expected(films) + prediction[:, 0]
        return 1 / (1 + np.exp(-prediction[:, 0]))

    @cached_property
    def films(self) -> Films:
        training, size = self.splits["train"], len(self.content.titles)
        films, ratings = (np.concatenate([self.content.users[u][i] for u in training]) for i in (0, 1))
        ratings = self.measured(ratings)
        user = np.repeat(training, [len(self.content.users[u][0]) for u in training])
        mean, count = float(ratings.mean()), np.bincount(films, minlength=size)
        of_user, of_film, ratings_of = np.zeros(len(self.content.users)), np.zeros(size), np.bincount(user)
        for _ in range(20):
            # b_user = Σ (r − mean − b_film) / (5 + n),   b_film = Σ (r − mean − b_user) / (5 + n), by turns
            sums = np.bincount(user, ratings - mean - of_film[films])
            of_user[training] = (sums / (FILM + ratings_of))[training]
            total = np.bincount(films, ratings - mean - of_user[user], size)
            of_film = total / (FILM + count)
        row, often = np.zeros(size, np.int64), np.argsort(-count, kind="stable")
        often = often[count[often] > 0][: self.vocabulary - GENRES - 1]
        row[often] = GENRES + 1 + np.arange(len(often))
        return Films(mean, of_user, total, count, row)

    def bias(self, films: np.ndarray, user: int, own: np.ndarray | None = None) -> np.ndarray:
        """b_film of each film, for a user; `own`: this user is of training and has rated them so, which is left out."""
        total, count = self.films.total[films], self.films.counts[films]
        if own is not None:
            total, count = total - (own - self.films.mean - self.films.user[user]), count - 1
        return total / (FILM + count)

    def examples(self, films: np.ndarray, user: int = 0, own: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Films (N,) as the network gets them: {"ids", "weights"}, (N, 12), and "features", (N, 3)."""
        ids, weights = self._rows
        count = self.films.counts[films] - (own is not None)
        features = np.stack([self.bias(films, user, own), np.log1p(count) / 4, self.films.row[films] > 0], 1)
        ids, weights = ids[films], weights[films].astype(self.dtype)
        return {"ids": ids, "weights": weights, "features": features.astype(self.dtype)}

    @cached_property
    def _rows(self) -> tuple[np.ndarray, np.ndarray]:
        """The ids and weights of all films: the film's own row, and those of its genres, of the norm 1 together."""
        ids = np.zeros((len(self.content.titles), LENGTH), np.int64)
        weights = np.zeros(ids.shape)
        ids[:, 0], weights[:, 0] = self.films.row, OWN
        for film, genres in enumerate(self.content.genres):
            n = min(len(genres), LENGTH - 1)
            ids[film, 1 : 1 + n], weights[film, 1 : 1 + n] = 1 + np.array(genres[:n], np.int64), max(n, 1) ** -0.5
        return ids, weights

    # ── tasks ──

    def sample(self, rng: np.random.Generator, tasks: int, split: str) -> tuple:
        """((xs, ys), (xq, yq)): xs as `examples` gives them, and ys {"y": (tasks, N, 1), "mask": (tasks, N)}, where N
        is `shots`, at least 1; xq and yq with `queries`."""
        check_draw(tasks, split, SPLITS)
        users = rng.choice(self.splits[split], tasks)
        if split != "train":
            return self.stacked([self.task(user, self.shots) for user in users])
        drawn = []
        for user in users:
            wait, known = self.wait(user), int(rng.integers(0, self.shots + 1))
            first = rng.integers(0, len(self.content.users[user][0]) - wait - self.queries + 1)
            drawn.append(self.task(user, known, int(first), own=True))
        return self.stacked(drawn)

    def every(self, split: str) -> tuple:
        """One task per user of a split, in the order of the data."""
        check_draw(1, split, SPLITS)
        return self.stacked([self.task(user, self.shots, own=split == "train") for user in self.splits[split]])

    def wait(self, user: int) -> int:
        """How many ratings come before the query: 10, or `shots`, if these are more; or all that a user has."""
        return min(max(self.shots, FIRST), len(self.content.users[user][0]) - self.queries)

    def task(self, user: int, known: int, first: int = 0, own: bool = False) -> tuple:
        """The task of a user of whom `known` ratings are known, or as many as there are before the query.

        Args:
            first: the place in the user's history where the task begins.
            own: the user is of training, whose own ratings are left out of what is said of films.

        Returns:
            ((xs, ys), (xq, yq)), as `sample` stacks them.
        """
        films, ratings = self.content.users[user]
        ask = first + self.wait(user)
        support = range(first, min(first + known, ask))
        width = max(self.shots, known, 1)
        rows = np.array([*support, *range(ask, ask + self.queries)])
        films, ratings, n = films[rows], ratings[rows], len(support)
        x = self.examples(films, user, self.measured(ratings) if own else None)
        y = self.targets(films, ratings, user, own)

        def padded(part: np.ndarray) -> np.ndarray:
            return np.concatenate([part[:n], np.zeros((width - n, *part.shape[1:]), part.dtype)])

        mask = (np.arange(width) < n).astype(self.dtype)
        whole = np.ones(self.queries, self.dtype)
        return (tree_map(padded, x), {"y": padded(y), "mask": mask}), (
            tree_map(lambda part: part[n:], x), {"y": y[n:], "mask": whole},
        )  # fmt: skip

    @staticmethod
    def stacked(tasks: list[tuple]) -> tuple:
        return tree_map(lambda *parts: np.stack(parts), *tasks)

    # ── baselines ──

    def biases(self, xs: dict, ys: dict, xq: dict, shrink: float, typical: float = 0.0) -> np.ndarray:
        """The bias of the user for each of the queries, (queries, 1), which n ratings move away from a typical one:

            b_user = (shrink · typical + Σ (r − mean − b_film)) / (shrink + n)

        Of likes it is mean + b_film + b_user − 1/2, so that what is more likely liked has a logit above 0.
        """
        n, expected = ys["mask"].sum(), 0.0
        left = ys["y"][:, 0].astype(float)
        if self.target == "like":  # the first feature is b_film
            left = left - self.films.mean - xs["features"][:, 0]
            expected = self.films.mean + xq["features"][:, :1] - 0.5
        user = (shrink * typical + np.sum(left * ys["mask"])) / (shrink + n)
        return expected + np.full((len(xq["features"]), 1), user)

    @cache  # noqa: B019 (a family lives as long as its run)
    def tuned(self, by: str) -> tuple[float, float]:
        """`shrink` and `typical` with the least loss, or the best metric, on the queries of validation users after
        0, 1, 5 and 10 ratings."""
        tasks = [self.task(user, known) for user in self.splits["val"] for known in (0, 1, 5, 10)]
        sign = -1 if by == "metric" and self.metric.better == "higher" else 1

        def error(choice: tuple[float, float]) -> float:
            found = [self.loss(self.biases(xs, ys, xq, *choice), yq) for (xs, ys), (xq, yq) in tasks]
            return sign * np.mean([pair[by == "metric"] for pair in found])

        return min(itertools.product(SHRINK, TYPICAL), key=error)

    def fingerprint(self) -> str:
        return digest(*self.content)

    def baselines(self) -> dict[str, Callable]:
        """The mean of the film; the biases of film and user, whose two constants have the least squared error, as the
        network is trained for; and with those of the least absolute error, as it is measured. Likes have one kind."""
        found = {"mean of the film": (1e12, 0.0), BIASES: self.tuned("metric")}
        if self.target == "rating":
            found |= {BIASES: self.tuned("loss"), "biases, for the absolute error": found[BIASES]}
        return {label: partial(self.biases, shrink=shrink, typical=at) for label, (shrink, at) in found.items()}


# ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def load(path: str) -> Content:
    """Read ratings.csv (userId, movieId, rating, timestamp) and movies.csv (movieId, title, genres), or either as .gz.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a column is missing, a field is no number, a rating is outside of the scale, a film is unknown or
            rated twice by one user; the file and the line are named.
    """
    with open_data(path, ADVICE) as source:
        films: dict[str, int] = {}
        kinds: dict[str, int] = {}
        genres, titles = [], []
        for where, (film, title, kind) in _rows(source, "movies.csv", ("movieId", "title", "genres")):
            if film in films:
                raise ValueError(f"{where}: the film {film} is there twice")
            films[film] = len(films)
            titles.append(title)
            named = [name for name in kind.split("|") if name and not name.startswith("(no genres")]
            genres.append(tuple(kinds.setdefault(name, len(kinds)) for name in named))
            if len(kinds) > GENRES:
                raise ValueError(f"{where}: the genre {named[-1]} is one more than the {GENRES} that there may be")
        found: dict[str, dict[int, tuple[float, float]]] = {}
        for where, (user, film, rating, stamp) in _rows(
            source, "ratings.csv", ("userId", "movieId", "rating", "timestamp")
        ):
            if film not in films:
                raise ValueError(f"{where}: the film {film} is not in movies.csv")
            try:
                value, time = float(rating), float(stamp)
            except ValueError:
                raise ValueError(f"{where}: rating {rating!r} and timestamp {stamp!r}, wanted numbers") from None
            if not SCALE[0] <= value <= SCALE[1] or not np.isfinite(time):
                seen = f"the rating is {rating}, and the time stamp {stamp}"
                raise ValueError(f"{where}: {seen}; wanted ratings of {SCALE[0]:g} … {SCALE[1]:g}")
            if films[film] in found.setdefault(user, {}):
                raise ValueError(f"{where}: the user {user} rates the film {film} twice")
            found[user][films[film]] = (time, value)
    users = []
    for rated in found.values():
        order = sorted(rated, key=lambda film: (rated[film][0], film))
        users.append((np.array(order, np.int64), np.array([rated[film][1] for film in order])))
    if len(users) < 10:
        raise ValueError(f"{path} has {len(users)} users, wanted at least 10")
    return Content(tuple(titles), tuple(genres), users, tuple(found))


def _rows(source, file: str, columns: tuple[str, ...]) -> Iterator[tuple[str, list[str]]]:
    """(what an error calls a line, its fields in the order of `columns`)."""
    names = [name for name in source.names if PurePosixPath(name).name in (file, f"{file}.gz")]
    if not names:
        raise FileNotFoundError(f"{source.path}: no file {file}; found {', '.join(source.names[:5])}; {ADVICE}")
    where = source.where(names[0])
    try:
        text = inflated(source.read(names[0]), where).decode("utf-8-sig")
    except UnicodeDecodeError as cause:
        raise ValueError(f"{where} is no text in UTF-8: {cause}") from cause
    lines = csv.reader(io.StringIO(text))
    head = _next(lines, where) or []
    if missing := [name for name in columns if name not in head]:
        raise ValueError(f"{where}, line 1: no column {missing[0]}; found {', '.join(head) or 'nothing'}")
    places = [head.index(name) for name in columns]
    while (row := _next(lines, where)) is not None:
        if len(row) != len(head):
            raise ValueError(f"{where}, line {lines.line_num}: {len(row)} fields, wanted {len(head)}")
        yield f"{where}, line {lines.line_num}", [row[place] for place in places]


def _next(lines: Any, where: str) -> list[str] | None:
    """The next row of a CSV; None at its end."""
    try:
        return next(lines, None)
    except csv.Error as cause:
        raise ValueError(f"{where}, line {lines.line_num}: {cause}") from cause
