"""Driving an unknown robot in an unknown room: from 10 range readings to the speeds of 2 wheels.

    tasks = RobotTasks(shots=10)
    (xs, ys), (xq, yq) = tasks.sample(rng, 25, "train")     # x (25, N, 10) readings, y (25, N, 2) wheel speeds

A task is a room with boxes, and a robot: the size of its wheels, a bias of each sensor, and the side on which it
follows the wall are unknown, and differ from robot to robot. Examples are readings at random places, and what a driver
does there who knows the robot and sees the room (`rooms.rules`). After adaptation to a few of these, the network can
drive: `rooms.drive` lets it, and says who hit a wall.

With `--data`, readings are those of a real robot, SCITOS G5 with 24 sonars (Freire et al., 2009, "Wall-Following Robot
Navigation Data", UCI), which followed walls by four moves; of its record unknown robots are made by the same unknowns.
It was recorded in one go: training is its first 60 %, validation and test are 20 % each, with 60 rows (7 s) between.

Read next: `growth`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from ..runs.settings import option
from . import rooms
from .common import MSE, check_counts, check_draw, check_dtype, regression
from .reading import inflated, opened
from .rooms import REACH, Rooms

SONARS, GAP, SHARES = 24, 60, (0.6, 0.2)  # readings of a row, rows between splits, shares of training and validation
MOVES = {  # wheel speeds, left and right
    "Move-Forward": (1.0, 1.0), "Slight-Left-Turn": (0.5, 1.0), "Slight-Right-Turn": (1.0, 0.5),
    "Sharp-Right-Turn": (1.0, -1.0),
}  # fmt: skip
ADVICE = "`tinymaml data wall-following --to DIR` says where the record can be had"
RIDGES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # of which the baseline takes the best on training tasks

defaults: dict[str, Any] = dict(
    network="mlp", hidden=(50,), inner_steps=5, inner_lr=0.3, meta_lr=0.003, decay=2000, tasks=25, iterations=3000,
    save_every=1000, validate_every=500,
)  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """Options of robots."""

    data: str = option("", "folder or file of the real robot's record; empty: the simulator", path=True)
    shots: int = option(10, "support readings of each robot", least=1)
    queries: int = option(20, "query readings of each robot", least=1)
    bias: float = option(0.2, "largest bias of a sensor, in metres", least=0)
    wheel: float = option(1.5, "largest wheel, in units of the average one; the smallest is its inverse", least=1)


def make(settings: Settings) -> RobotTasks:
    """The family with these settings. A record is read when the first task is drawn."""
    s = settings
    return (RecordTasks if s.data else RobotTasks)(s.shots, s.queries, s.bias, s.wheel, path=s.data)


def pictures(learned) -> Iterator[tuple[str, Any]]:
    """The ways that test robots drive before and after adaptation; or the wheel speeds of the record's last part."""
    from ..pictures import paths

    if learned.config.family.settings.data:
        yield "speeds", paths.speeds(learned)
    else:
        yield "paths", paths.driving(learned)


class Robots(NamedTuple):
    """The unknowns of some robots, one per task: (tasks, 1), but for the bias, (tasks, 1, sensors)."""

    size: np.ndarray  # of the wheels
    bias: np.ndarray  # metres
    side: np.ndarray  # +1: the wall on the left


class RobotTasks:
    """Regression of wheel speeds from readings; rooms and robots are endless.

    "train", "val" and "test" are the same distribution, told apart by the generator's seed.
    """

    input_shape, outputs = (len(rooms.ANGLES),), 2
    metric = MSE
    loss = staticmethod(regression)

    def __init__(
        self, shots: int = 10, queries: int = 20, bias: float = 0.2, wheel: float = 1.5, path: str = "",
        dtype: DTypeLike = np.float32,
    ) -> None:  # fmt: skip
        check_counts(shots=shots, queries=queries)
        self.shots, self.queries, self.bias, self.wheel = shots, queries, bias, wheel
        self.path, self.dtype = path, check_dtype(dtype)

    def robots(self, rng: np.random.Generator, tasks: int) -> Robots:
        """Draw the robots of `tasks` tasks."""
        size = np.exp(rng.uniform(-1, 1, (tasks, 1)) * np.log(self.wheel))
        bias = rng.uniform(-self.bias, self.bias, (tasks, 1, *self.input_shape))
        return Robots(size, bias, rng.choice([-1.0, 1.0], (tasks, 1)))

    def sample(self, rng: np.random.Generator, tasks: int, split: str = "train") -> tuple:
        """((xs, ys), (xq, yq)): xs (tasks, shots, 10), about 0 … 1, near walls high; ys (tasks, shots, 2), in units of
        the average robot's; xq and yq with `queries`."""
        check_draw(tasks, split)
        return self.batch(rng, Rooms.drawn(rng, tasks), self.robots(rng, tasks))

    def batch(self, rng: np.random.Generator, places: Rooms, robots: Robots) -> tuple:
        """Examples of chosen rooms and robots, as `sample` returns them."""
        d = places.ranges(places.poses(rng, self.shots + self.queries))
        x, y = self.readings(d, robots), rooms.wheels(*rooms.rules(d, robots.side), robots.size).astype(self.dtype)
        n = self.shots
        return (x[:, :n], y[:, :n]), (x[:, n:], y[:, n:])

    def readings(self, d: np.ndarray, robots: Robots) -> np.ndarray:
        """What the network gets for distances (tasks, N, sensors): 1 − (distance + bias) / 3 m."""
        return (1 - np.clip(d + robots.bias, 0, REACH) / REACH).astype(self.dtype)

    def baselines(self) -> dict[str, Callable]:
        """Ridge regression of the support; and the rules themselves, which no learner knows, for an unbiased robot,
        whose side and wheels are those that fit the support best."""
        tuning = self.sample(np.random.default_rng(0), 300, "train")
        ridge = min(RIDGES, key=lambda ridge: np.mean((ridged(*tuning[0], tuning[1][0], ridge) - tuning[1][1]) ** 2))
        return {"ridge regression": lambda xs, ys, xq: ridged(xs, ys, xq, ridge), "the rules, fitted": fitted}


def ridged(xs: np.ndarray, ys: np.ndarray, xq: np.ndarray, ridge: float) -> np.ndarray:
    """Linear regression with a ridge, from the means of the support: (…, queries, 2). Of one task, or of many."""
    x0, y0 = xs.mean(-2, keepdims=True, dtype=float), ys.mean(-2, keepdims=True, dtype=float)
    x, y = xs - x0, ys - y0
    # w = (xᵀx + ridge I)⁻¹ xᵀy
    xt = np.swapaxes(x, -1, -2)
    return y0 + (xq - x0) @ np.linalg.solve(xt @ x + ridge * np.eye(x.shape[-1]), xt @ y)


def fitted(xs: np.ndarray, ys: np.ndarray, xq: np.ndarray) -> np.ndarray:
    """The rules for readings taken as distances: for either side the wheel size of least squares; the better side."""
    found = []
    for side in (-1.0, 1.0):
        plain, asked = (rooms.wheels(*rooms.rules(REACH * (1.0 - x), np.full(len(x), side)), np.ones(len(x)))
                        for x in (xs, xq))  # fmt: skip
        # min over 1/size of ‖y − plain / size‖²
        factor = np.sum(plain * ys) / max(np.sum(plain**2), 1e-12)
        found.append((np.sum((ys - factor * plain) ** 2), factor * asked))
    return min(found, key=lambda pair: pair[0])[1]


# ── the record of a real robot ──────────────────────────────────────────────────────────────────────────────────────


class RecordTasks(RobotTasks):
    """Regression of wheel speeds from 24 sonars of a record, of which each task takes rows anywhere in its split.

    An unknown robot has biases, wheels of another size, and perhaps its left for its right.
    """

    input_shape = (SONARS,)

    @cached_property
    def rows(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """(distances (N, 24) in metres, wheel speeds (N, 2)) of each split, in the order of time."""
        d, y = load(self.path)
        first, second = (round(len(d) * share) for share in (SHARES[0], sum(SHARES)))
        parts = {"train": slice(0, first), "val": slice(first + GAP, second), "test": slice(second + GAP, None)}
        return {split: (d[part], y[part]) for split, part in parts.items()}

    def sample(self, rng: np.random.Generator, tasks: int, split: str = "train") -> tuple:
        check_draw(tasks, split)
        d, y = self.rows[split]
        count = self.shots + self.queries
        if count > len(d):
            raise ValueError(f"shots={self.shots} + queries={self.queries} is more than the {len(d)} rows of {split}")
        rows = np.stack([rng.choice(len(d), count, replace=False) for _ in range(tasks)])
        robots = self.robots(rng, tasks)
        return self.of_rows(d[rows], y[rows], robots)

    def of_rows(self, d: np.ndarray, y: np.ndarray, robots: Robots) -> tuple:
        """Rows (tasks, N, …) as examples of chosen robots; the first `shots` are the support."""
        mirrored = robots.side[..., None] < 0  # sonar 1 looks ahead, and the others follow around the robot
        d = np.where(mirrored, d[..., (-np.arange(SONARS)) % SONARS], d)
        y = np.where(mirrored, y[..., ::-1], y) / robots.size[..., None]
        x, y, n = self.readings(d, robots), y.astype(self.dtype), self.shots
        return (x[:, :n], y[:, :n]), (x[:, n:], y[:, n:])

    def baselines(self) -> dict[str, Callable]:
        return {"ridge regression": super().baselines()["ridge regression"]}


def load(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Read sensor_readings_24.data, compressed or not: 24 distances and a move per line; a first line of names may be.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a row has another number of fields, a distance that is none, or an unknown move; the line is named.
    """
    with opened(path, ADVICE) as source:
        found = [name for name in source.names if name.rsplit("/", 1)[-1].startswith("sensor_readings_24")]
        if not found and len(source.names) == 1:
            found = source.names
        if not found:
            seen = ", ".join(source.names[:5])
            raise FileNotFoundError(f"{source.path}: no file sensor_readings_24.data; found {seen}; {ADVICE}")
        where = source.where(found[0])
        text = inflated(source.read(found[0]), where).decode("utf-8", "replace")
    d, y = [], []
    for number, row in enumerate(csv.reader(io.StringIO(text)), 1):
        if not row or (number == 1 and row[-1].strip().upper() == "OUTPUT"):
            continue
        if len(row) != SONARS + 1:
            raise ValueError(f"{where}, line {number}: {len(row)} fields, wanted {SONARS} distances and a move")
        if row[-1].strip() not in MOVES:
            raise ValueError(f"{where}, line {number}: the move is {row[-1]!r}, wanted one of {', '.join(MOVES)}")
        try:
            d.append([float(field) for field in row[:-1]])
        except ValueError as cause:
            raise ValueError(f"{where}, line {number}: a distance is no number: {cause}") from None
        if not np.isfinite(d[-1]).all() or min(d[-1]) < 0:
            raise ValueError(f"{where}, line {number}: a distance is {min(d[-1])}, wanted metres of at least 0")
        y.append(MOVES[row[-1].strip()])
    if len(d) < 10 * GAP:
        raise ValueError(f"{where} has {len(d)} rows, wanted at least {10 * GAP}")
    return np.array(d), np.array(y)
