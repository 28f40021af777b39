"""Robots: the paths that they drive before and after adaptation, and the wheel speeds of a real one over time.

It is called like this:

    shares(learned, tasks=200)      # {"before adaptation": 0.2, …}: how many drive well, the network at the wheel
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..extras import require
from ..families.rooms import RADIUS, TICK, Ride, Robots, Rooms, drive
from ..nest import Nest, tree_map
from ..per_task import over_tasks
from ..programs import compile
from ..runs.adaptation import path, stacked_tasks, task, tuned
from ..runs.compare import untrained
from ..runs.loop import TEST, Learned, generator
from . import style
from .style import GREY, SHADES, STEPS, WRONG

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TICKS, CLEARANCE = 300, 0.35  # steps of a drive; metres to the walls where it starts
BEFORE, AFTER, SCRATCH, EXPERT = "before adaptation", f"after {STEPS} steps", "from scratch", "expert"
LOOKS = {
    EXPERT: dict(color="black", lw=1, ls=(0, (4, 2))), BEFORE: dict(color=WRONG, lw=1.4),
    AFTER: dict(color=SHADES[10], lw=1.6),
}  # fmt: skip


# ── the network at the wheel ────────────────────────────────────────────────────────────────────────────────────────


class Field(NamedTuple):
    """The robots of test tasks in their rooms, each at the pose (T, 3) where its drive starts."""

    rooms: Rooms
    robots: Robots
    start: np.ndarray


def field(learned: Learned, tasks: int) -> Field:
    """Those of the first test tasks."""
    family, found = learned.learner.family, []
    for t in range(tasks):
        rng = generator(learned.config, TEST, t)
        scene = family.scene(rng, 1)
        found.append(Field(scene.rooms, scene.robots, scene.rooms.poses(rng, 1, CLEARANCE)[:, 0]))
    return tree_map(lambda *xs: np.concatenate(xs), *found)


def rides(learned: Learned, where: Field, ticks: int = TICKS) -> dict[str, Ride]:
    """How the first test robots drive: by the expert, by the network before and after adaptation, and by the network
    that learned each task from scratch: from its state before training, at the rate that is best on validation tasks.
    """
    beginner = untrained(learned.config)
    try:
        rate = [tuned(beginner, STEPS)]
    except ValueError:  # it diverges with all of them
        rate = []
    adapted = {BEFORE: (learned, 0, []), AFTER: (learned, STEPS, []), SCRATCH: (beginner, STEPS, rate)}
    found = {EXPERT: drive(*where, where.robots.expert, ticks)}
    for label, (one, steps, at) in adapted.items():
        found[label] = drive(*where, steering(one, where.robots, steps, *at), ticks)
    return found


def steering(learned: Learned, robots: Robots, steps: int, *rate: float):
    """The policy of the networks that are adapted to the first test robots: ranges (T, 1, 10) → speeds (T, 1, 2)."""
    learner, norms, count = learned.learner, learned.state.norms, len(robots.side)
    support, _ = stacked_tasks(learned, "test", range(count))
    thetas = [last(path(learned, tree_map(lambda x, t=t: x[t], support), steps, *rate)) for t in range(count)]
    thetas = tree_map(lambda *xs: np.stack(xs), *thetas)

    def speeds(meta, given, asked):
        theta, support = given
        x, _ = learner.view(support, (asked[0], None), norms, steps)
        return learner.predict(theta, x)

    each = over_tasks(speeds)
    each = compile(each) if learned.config.outer.compile else each

    def policy(ranges: np.ndarray) -> np.ndarray:
        x = learner.family.inputs(robots, ranges)
        return each(learned.meta, ((thetas, support), (x, x)))

    return policy


def last(thetas: Iterator[Nest]) -> Nest:
    *_, theta = thetas
    return theta


def well(rides: dict[str, Ride]) -> dict[str, np.ndarray]:
    """Of each ride and robot, (T,) bool: it touched no wall, and drove at least half as far as by the expert.

    A robot that turns on the spot touches nothing, and does not drive well.
    """
    return {label: ~ride.touched & (ride.metres >= rides[EXPERT].metres / 2) for label, ride in rides.items()}


def shares(learned: Learned, tasks: int = 200, ticks: int = TICKS) -> dict[str, float]:
    """The share of the first test robots that drive well, by what steers them."""
    return {label: float(found.mean()) for label, found in well(rides(learned, field(learned, tasks), ticks)).items()}


# ── pictures ────────────────────────────────────────────────────────────────────────────────────────────────────────


def paths(learned: Learned, count: int = 8, columns: int = 4, tasks: int = 200) -> Figure:
    """The paths that the first test robots drive in their rooms; a cross is where a robot touches a wall."""
    where = field(learned, tasks)
    driven = rides(learned, where)
    good = {label: f"{100 * found.mean():.0f} %" for label, found in well(driven).items()}
    figure = style.new(8, 1.6 + 2.1 * -(-count // columns))
    for i, ax in enumerate(figure.subplots(-(-count // columns), columns, squeeze=False).ravel()):
        if i >= count:
            ax.set_axis_off()
            continue
        room(ax, Rooms(*(x[i] for x in where.rooms)))
        for label, look in LOOKS.items():
            ride = driven[label]
            ax.plot(*ride.poses[i, :, :2].T, label=label, zorder=3, **look)
            if ride.touched[i]:
                ax.plot(*ride.poses[i, -1, :2], "X", ms=8, mec="white", mew=0.8, color=look["color"], zorder=5)
        x, y, heading = where.start[i]
        ax.annotate("", (x + 0.55 * np.cos(heading), y + 0.55 * np.sin(heading)), (x, y), zorder=4,
                    arrowprops=dict(arrowstyle="-|>", lw=1.4, color="black", shrinkA=0, shrinkB=0))  # fmt: skip
        circle = require("matplotlib.patches", "plot").Circle
        ax.add_patch(circle((x, y), RADIUS, fc="white", ec="black", lw=1.2, zorder=4))
        side = "right" if where.robots.side[i] > 0 else "left"
        bias, wheel = where.robots.bias[i].item(), where.robots.circumference[i].item()
        ax.set_title(f"wall at its {side}, {100 * bias:+.0f} cm,\n{100 * wheel:.0f} cm per revolution", fontsize=8)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    cross = require("matplotlib.lines", "plot").Line2D([], [], ls="", marker="X", ms=8, mew=0, color=GREY)
    figure.legend([*handles, cross], [*labels, "touches a wall"], loc="outside lower center", ncols=4)
    note = (
        f"Share of {tasks} test robots that drive {TICKS * TICK:.0f} s without touching a wall, and at least half as "
        f"far as by the expert: {good[BEFORE]} {BEFORE}, {good[AFTER]} {AFTER}, {good[SCRATCH]} {SCRATCH}, "
        f"{good[EXPERT]} by the expert"
    )
    return style.titled(figure, learned, note)


def room(ax, one: Rooms) -> None:
    """The walls of one room, and its boxes."""
    rectangle = require("matplotlib.patches", "plot").Rectangle
    for low, high in zip(one.low, one.high, strict=True):
        ax.add_patch(rectangle(low, *(high - low), fc="#d9d9d9", ec="none", zorder=1))
    ax.add_patch(rectangle((0, 0), *one.size, fill=False, ec="#444444", lw=2.5, zorder=2))
    middle, half = one.size / 2, max(one.size) / 2 + 0.1
    ax.set(xlim=(middle[0] - half, middle[0] + half), ylim=(middle[1] - half, middle[1] + half), aspect="equal")
    ax.set_axis_off()


def speeds(learned: Learned, gap: int, count: int = 4, rows: int = 240, per_second: float = 9) -> Figure:
    """The wheel speeds of the first test robots over the first rows of the test split, before and after adaptation.

    Args:
        gap: rows that are nearer than so many to a row of the support do not count for the error.
        per_second: rows of a second, as the authors of the data say.
    """
    family, learner = learned.learner.family, learned.learner
    figure = style.new(8, 1.4 + 1.8 * count)
    grid = figure.subplots(count, 2, sharex=True, sharey="row", squeeze=False)
    for i, row in enumerate(grid):
        robots, drawn = family.drawn(generator(learned.config, TEST, i), 1, "test")
        known = drawn[0, : family.shots]
        chosen = np.arange(min(rows, len(family.rows["test"][0])))
        x, y = (part[0].astype(learner.dtype) for part in family.of(robots, "test", chosen[None]))
        unknown = np.abs(chosen[:, None] - known).min(1) >= gap
        support, _ = task(learned, "test", i)
        lines = {"truth": y}
        for k, theta in enumerate(path(learned, support, STEPS)):
            if k in (0, STEPS):
                asked, _ = learner.view(support, (x, None), learned.state.norms, k)
                lines[AFTER if k else BEFORE] = np.asarray(learner.predict(theta, asked))
        looks = {"truth": dict(color="black", lw=1), BEFORE: LOOKS[BEFORE] | dict(lw=1.1), AFTER: LOOKS[AFTER]}
        errors = [f"{np.mean((line - y)[unknown] ** 2):.2g}" for line in list(lines.values())[1:]]
        for wheel, ax in enumerate(row):
            for label, line in lines.items():
                ax.plot(chosen / per_second, line[:, wheel], label=label, **looks[label])
            seen = known[known < len(chosen)]
            ax.plot(seen / per_second, y[seen, wheel], "o", ms=4.5, color="black", mec="white", label="support")
            ax.set(xlabel="seconds", ylabel="revolutions per second")
            ax.label_outer()
        side = "as it is" if robots.side.item() > 0 else "mirrored"
        wheel, bias = 100 * robots.circumference.item(), 100 * robots.bias.item()
        row[0].set_title(f"left wheel; robot {side}, {bias:+.0f} cm, {wheel:.0f} cm per revolution", fontsize=8)
        row[1].set_title(f"right wheel; error of both {' → '.join(errors)}", fontsize=8)
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    note = f"rows of the test split, in the order of time; error: mean squared, of rows at least {gap} from the support"
    return style.titled(figure, learned, note)
