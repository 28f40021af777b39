"""How a robot steers: from 10 range readings to 2 wheel speeds, of an unknown robot in an unknown room.

    tasks = RobotTasks(shots=10)                          # simulated, see `rooms`
    tasks = SonarTasks("data/wall_following", shots=10)   # the 24 sonars of a real robot
    (xs, ys), (xq, yq) = tasks.sample(rng, 25, "train")   # x (25, N, sensors), y (25, N, 2)

A task is a robot and its room. Its wheels are small or large, its sensors add a bias to all ranges, and it keeps the
wall at its right or at its left. The support set has what the sensors read at some places of the room, and the speeds
that an expert gives to the wheels there; the expert knows the robot, and the true ranges. x is e^(−reading / 0.4 m),
from 1 at a wall to nearly 0 far away: what is near decides. y is in revolutions per second, of the left and of the
right wheel.

The readings of `SonarTasks` are those of the SCITOS G5 (Freire, Barreto, Veloso and Varela, 2009), while it followed a
wall of one room. It made one of four moves at a time, which `MOVES` translates to wheel speeds. Its unknown robots are
made from it: another wheel, another bias, or all of it mirrored.

Read next: `growth`.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from ..runs.settings import option
from .common import MSE, SPLITS, check_counts, check_draw, check_dtype, digest, regression
from .reading import inflated, open_data
from .rooms import BEAMS, BIAS, CIRCUMFERENCE, FAR, Robots, Rooms

Array = np.ndarray

NEAR = 0.4  # metres from which on a wall counts less and less
SONARS, SONAR_FAR = 24, 5.0  # around the robot, the first in front; farther ones count as 5 m
MOVES = {  # m/s of the left and the right wheel. The data name the moves alone; these speeds are our choice.
    "Move-Forward": (0.4, 0.4), "Slight-Right-Turn": (0.4, 0.2), "Sharp-Right-Turn": (0.2, -0.2),
    "Slight-Left-Turn": (0.2, 0.4),
}  # fmt: skip
GAP = 20  # rows, about 2 seconds: what is nearer in time is nearly the same
SHARES = {"train": 0.6, "val": 0.2, "test": 0.2}  # of the rows, in the order of time
ADVICE = "`tinymaml data wall-following --to DIR` says where the record can be had"
RIDGES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)  # of which the best on training tasks is taken

defaults: dict[str, Any] = dict(
    network="mlp", hidden=(50,), inner_steps=5, inner_lr=0.4, meta_lr=0.01, decay=1500, tasks=25, iterations=4000,
    save_every=1000, validate_every=500,
)  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """Options of robots."""

    data: str = option("", "sensor_readings_24.data.gz or its folder; without it, rooms are simulated", path=True)
    shots: int = option(10, "support readings of each robot", least=1)
    queries: int = option(20, "query readings of each robot", least=1)


def make(settings: Settings) -> RobotTasks | SonarTasks:
    """The family with these settings. Data are read when the first task is drawn."""
    s = settings
    return SonarTasks(s.data, s.shots, s.queries) if s.data else RobotTasks(s.shots, s.queries)


def pictures(learned) -> Iterator[tuple[str, Any]]:
    """Simulated: the paths that test robots drive. Data: wheel speeds over time. Both before and after adaptation."""
    from ..pictures import paths

    if learned.config.family.settings.data:
        yield "speeds", paths.speeds(learned, GAP)
    else:
        yield "paths", paths.paths(learned)


class Scene(NamedTuple):
    """Rooms, the robots in them, and the poses (tasks, shots + queries, 3) at which their sensors are read."""

    rooms: Rooms
    robots: Robots
    poses: Array


class RobotTasks:
    """Regression from `shots` readings of a simulated robot to `queries` others, at random poses in its room.

    The tasks are endless: "train", "val" and "test" are the same distribution, told apart by the generator's seed.
    """

    metric, outputs, input_shape = MSE, 2, (len(BEAMS),)
    loss = staticmethod(regression)

    def __init__(self, shots: int = 10, queries: int = 20, dtype: DTypeLike = np.float32) -> None:
        check_counts(shots=shots, queries=queries)
        self.shots, self.queries, self.dtype = shots, queries, check_dtype(dtype)

    def sample(self, rng: np.random.Generator, tasks: int, split: str = "train") -> tuple:
        """((xs, ys), (xq, yq)): support x (tasks, shots, 10) and y (tasks, shots, 2), and `queries` of each."""
        check_draw(tasks, split)
        return self.batch(self.scene(rng, tasks))

    def scene(self, rng: np.random.Generator, tasks: int) -> Scene:
        """Draw rooms, robots and poses. All randomness is here."""
        rooms, robots = Rooms.drawn(rng, tasks), Robots.drawn(rng, tasks)
        return Scene(rooms, robots, rooms.poses(rng, self.shots + self.queries))

    def batch(self, scene: Scene) -> tuple:
        """The arrays of a chosen scene, as `sample` returns them."""
        ranges = scene.rooms.ranges(scene.poses)
        return support_and_query(self.shots, self.inputs(scene.robots, ranges), scene.robots.expert(ranges), self.dtype)

    def inputs(self, robots: Robots, ranges: Array) -> Array:
        """The inputs of a network, for true ranges of shape (tasks, N, 10), in metres."""
        return closeness(robots.readings(ranges)).astype(self.dtype)

    def baselines(self) -> dict[str, Callable]:
        """Regressions on the support, and two that know how the expert steers, which MAML must find out: one takes an
        average robot, the other the robot whose expert errs least on the support."""
        return {
            **regressions(self.sample(np.random.default_rng(0), 500, "train")),
            "expert of an average robot": average_expert,
            "expert, robot fitted to the support": fitted,
        }


class SonarTasks:
    """Regression from `shots` rows of a robot made from the real one to `queries` others.

    The rows are split in the order of time, with a gap between two splits; so all splits are of one room. Any two rows
    of a task are at least `GAP` rows apart.

    Raises:
        ValueError: a count below 1; when data are read, a file that is broken, or too few rows.
        FileNotFoundError: there are no data when they are read.
    """

    metric, outputs, input_shape = MSE, 2, (SONARS,)
    loss = staticmethod(regression)

    def __init__(self, path: str, shots: int = 10, queries: int = 20, dtype: DTypeLike = np.float32) -> None:
        check_counts(shots=shots, queries=queries)
        self.path, self.shots, self.queries, self.dtype = path, shots, queries, check_dtype(dtype)

    @cached_property
    def rows(self) -> dict[str, tuple[Array, Array]]:
        """Of each split the ranges (rows, 24) in metres, and the wheel speeds (rows, 2) in m/s, in the order of time.

        Raises:
            ValueError: a split has too few rows for a task.
        """
        ranges, speeds = load(self.path)
        ends = np.round(np.cumsum([0, *SHARES.values()]) * len(ranges)).astype(int)
        found = {}
        for split, first, end in zip(SHARES, ends, ends[1:], strict=False):
            first += GAP * (first > 0)
            found[split] = ranges[first:end], speeds[first:end]
            if (end - first) // GAP < self.shots + self.queries:
                few = f"the {max(0, (end - first) // GAP)} rows of {split}, each {GAP} after the last one: {self.path}"
                raise ValueError(f"shots={self.shots} + queries={self.queries} is more than {few}")
        return found

    def sample(self, rng: np.random.Generator, tasks: int, split: str = "train") -> tuple:
        """((xs, ys), (xq, yq)): support x (tasks, shots, 24) and y (tasks, shots, 2), and `queries` of each."""
        check_draw(tasks, split, SPLITS)
        robots, chosen = self.drawn(rng, tasks, split)
        return support_and_query(self.shots, *self.of(robots, split, chosen), self.dtype)

    def drawn(self, rng: np.random.Generator, tasks: int, split: str) -> tuple[Robots, Array]:
        """Draw robots, and the rows of the split that each has: int64 (tasks, shots + queries)."""
        robots, count = Robots.drawn(rng, tasks), len(self.rows[split][0])
        slots = np.argsort(rng.random((tasks, count // GAP)), axis=1)[:, : self.shots + self.queries]
        # every GAP-th row, from a first one that is the task's own
        return robots, rng.integers(0, count - GAP * (count // GAP - 1), (tasks, 1)) + GAP * slots

    def of(self, robots: Robots, split: str, chosen: Array) -> tuple[Array, Array]:
        """x (tasks, N, 24) and y (tasks, N, 2) of chosen rows (tasks, N) of a split, as robots have them."""
        ranges, speeds = (part[chosen] for part in self.rows[split])
        mirrored = robots.side < 0
        # sonar k is k · 15° from the first, which is in front: mirrored, it is sonar −k
        ranges = np.where(mirrored, ranges[..., -np.arange(SONARS)], ranges)
        speeds = np.where(mirrored, speeds[..., ::-1], speeds)
        return closeness(robots.readings(ranges, SONAR_FAR)), speeds / robots.circumference

    def fingerprint(self) -> str:
        return digest(self.rows)

    def baselines(self) -> dict[str, Callable]:
        """Regressions on the support."""
        return regressions(self.sample(np.random.default_rng(0), 500, "train"))


def closeness(readings: Array) -> Array:
    """Readings in metres as a network gets them: e^(−reading / NEAR).

    >>> from tinymaml.families.robot import closeness, metres
    >>> np.allclose(metres(closeness(np.array([0.5, 5.0]))), [0.5, 5.0])
    True
    """
    return np.exp(-readings / NEAR)


def metres(x: Array) -> Array:
    """The readings that a network's x stands for: the inverse of `closeness`."""
    return -NEAR * np.log(x)


def support_and_query(shots: int, x: Array, y: Array, dtype: np.dtype) -> tuple:
    """((xs, ys), (xq, yq)) of x and y, (tasks, shots + queries, …)."""
    x, y = x.astype(dtype), y.astype(dtype)
    return (x[:, :shots], y[:, :shots]), (x[:, shots:], y[:, shots:])


# ── baselines, of one task ──────────────────────────────────────────────────────────────────────────────────────────


def regressions(tasks: tuple) -> dict[str, Callable]:
    """Ridge regression, whose ridge is the best of `RIDGES` on these tasks, and the nearest reading."""

    def error(ridge: float) -> float:
        each = zip(*tasks[0], *tasks[1], strict=True)
        return float(np.mean([(linear_regression(xs, ys, xq, ridge) - yq) ** 2 for xs, ys, xq, yq in each]))

    ridge = min(RIDGES, key=error)
    return {
        "ridge regression on the support": partial(linear_regression, ridge=ridge),
        "nearest reading of the support": nearest_reading,
    }


def linear_regression(xs: Array, ys: Array, xq: Array, ridge: float) -> Array:
    """The linear regression with the least Σ ‖y − W x − b‖² + ridge ‖W‖²."""
    mean, x = xs.mean(0), xs - xs.mean(0)
    # W = (xᵀx + ridge I)⁻¹ xᵀy, of x and y without their means
    w = np.linalg.solve(x.T @ x + ridge * np.eye(x.shape[1]), x.T @ (ys - ys.mean(0)))
    return (xq - mean) @ w + ys.mean(0)


def nearest_reading(xs: Array, ys: Array, xq: Array) -> Array:
    """The speeds of the support reading with the least Euclidean distance."""
    return ys[((xq[:, None] - xs) ** 2).sum(-1).argmin(1)]


def average_expert(xs: Array, ys: Array, xq: Array) -> Array:
    """The mean of both sides' experts without a bias, for the mean of 1 / circumference."""
    low, high = CIRCUMFERENCE
    # E[1 / c] = ln(high / low) / (high − low)
    c = (high - low) / np.log(high / low)
    robots = Robots(np.full((2, 1, 1), c), np.zeros((2, 1, 1)), np.array([1.0, -1.0])[:, None, None])
    return robots.expert(metres(xq)[None]).mean(0)


def fitted(xs: Array, ys: Array, xq: Array) -> Array:
    """The expert of the side, the bias (of 41) and the circumference with the least squared error on the support."""
    bias, side = (grid.reshape(-1, 1, 1) for grid in np.meshgrid(np.linspace(*BIAS, 41), [1.0, -1.0]))
    robots = Robots(np.ones_like(bias), bias, side)
    speeds = lambda x: robots.expert(np.clip(metres(x) - bias, 0, FAR))  # noqa: E731
    known = speeds(xs)
    # 1 / c = Σ s y / Σ s², for speeds s in m/s
    per_metre = (known * ys).sum((1, 2), keepdims=True) / np.maximum((known**2).sum((1, 2), keepdims=True), 1e-9)
    best = ((per_metre * known - ys) ** 2).sum((1, 2)).argmin()
    return (per_metre * speeds(xq))[best]


# ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────────────

COLUMNS = [*(f"S{k}" for k in range(1, SONARS + 1)), "OUTPUT"]


def load(path: str) -> tuple[Array, Array]:
    """Read sensor_readings_24.data, or its .gz, or a folder with it: ranges (rows, 24) in metres, and speeds (rows, 2).

    Each line has 24 ranges and a move, with commas between them. There may be a header with the names of the columns.

    Raises:
        FileNotFoundError: there is no such file.   ValueError: it is broken; the message names the line.
    """
    with open_data(path, ADVICE) as source:
        names = [name for name in source.names if PurePosixPath(name).name.startswith("sensor_readings_24.data")]
        names = names or (source.names if len(source.names) == 1 and source.path.is_file() else [])
        if not names:
            seen = f"found {', '.join(source.names[:3])}; wanted sensor_readings_24.data.gz"
            raise FileNotFoundError(f"no readings at {source.path}: {seen}; {ADVICE}")
        called = source.where(names[0])
        return _table(inflated(source.read(names[0]), called), called)


def _table(data: bytes, called: str) -> tuple[Array, Array]:
    try:
        lines = list(csv.reader(data.decode("ascii").splitlines()))
    except (UnicodeDecodeError, csv.Error) as cause:
        raise ValueError(f"{called} is no table of readings: {cause}") from cause
    header = bool(lines) and bool(lines[0]) and lines[0][0].strip() == COLUMNS[0]
    if header and (missing := [name for name in COLUMNS if name not in lines[0]]):
        raise ValueError(f"{called} has no column {', '.join(missing)}")
    ranges, speeds = [], []
    for number, cells in enumerate(lines[header:], 1 + header):
        if not cells:
            continue
        if len(cells) != len(COLUMNS):
            raise ValueError(f"{called}, line {number}: {len(cells)} columns, wanted 24 ranges and a move")
        *numbers, move = cells
        try:
            ranges.append([float(x) for x in numbers])
        except ValueError as cause:
            raise ValueError(f"{called}, line {number}: {cause}") from cause
        if not all(0 <= x < np.inf for x in ranges[-1]):
            raise ValueError(f"{called}, line {number}: a range is no length in metres")
        if move.strip() not in MOVES:
            raise ValueError(f"{called}, line {number}: the move {move.strip()!r}, wanted one of {', '.join(MOVES)}")
        speeds.append(MOVES[move.strip()])
    if not ranges:
        raise ValueError(f"{called} has no readings")
    return np.array(ranges), np.array(speeds)
