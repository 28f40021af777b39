"""Robots: the ways that they drive before and after adaptation; and the wheel speeds of a record."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..extras import require
from ..families.rooms import RADIUS, Rooms, drive, rules, wheels
from ..nest import tree_map
from ..runs.adaptation import path
from ..runs.loop import TEST, Learned, generator
from . import style
from .style import SHADES, STEPS, WRONG

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARGIN = 0.4  # metres from walls where a robot starts


def driving(learned: Learned, count: int = 6, columns: int = 3, robots: int = 60) -> Figure:
    """Test robots from above: how the driver who knows each of them drives, and the network before and after 10 steps.

    The title has the metres that so many robots drive in 30 seconds, on average, and how many of them hit a wall.
    """
    family, found = learned.learner.family, []
    for t in range(max(robots, count)):
        rng = generator(learned.config, TEST, t)
        place, robot = Rooms.drawn(rng, 1), family.robots(rng, 1)
        support = tree_map(lambda x: x[0], family.batch(rng, place, robot)[0])
        start = place.poses(np.random.default_rng(t), 1, MARGIN)[:, 0]

        def knows(d, robot=robot):
            return wheels(*rules(d, robot.side), robot.size)

        ways = {"knows the robot": drive(place, robot.size, start, knows)}
        thetas = list(path(learned, support, STEPS))
        for k in (0, len(thetas) - 1):
            ways[_after(k)] = drive(place, robot.size, start, _policy(learned, robot, thetas[k], support, k))
        found.append((place, ways))
    figure = style.new(8, 1 + 2.6 * -(-count // columns))
    grid = figure.subplots(-(-count // columns), columns, squeeze=False).ravel()
    for (place, ways), ax in zip(found, grid, strict=False):
        _room(ax, place.boxes[0])
        colours = ("black", SHADES[0], SHADES[max(SHADES)])
        for (label, (poses, hit)), colour, width in zip(ways.items(), colours, (3, 1.4, 1.4), strict=True):
            alpha = 0.25 if width == 3 else 1
            ax.plot(*poses[0, :, :2].T, color=colour, lw=width, alpha=alpha, label=label)
            if hit[0]:
                ax.plot(*poses[0, -1, :2], "x", ms=9, mew=2.2, color=WRONG, label="hits a wall")
        ax.plot(*poses[0, 0, :2], "o", ms=6, color="white", mec="black", label="start")
    for ax in grid:
        ax.set_axis_off()
    handles = {label: line for ax in grid for line, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=5)
    said = []
    for label in ways:
        hits = np.mean([ways[label][1][0] for _, ways in found])
        steps = [np.diff(ways[label][0][0, :, :2], axis=0) for _, ways in found]
        metres = np.mean([np.linalg.norm(step, axis=1).sum() for step in steps])
        said.append(f"{label}: {metres:.1f} m, {100 * hits:.0f} %")
    note = f"metres driven in 30 s, and share of {len(found)} robots that hit a wall: {'; '.join(said)}"
    return style.titled(figure, learned, note)


def _after(k: int) -> str:
    return f"after {style.count(k, 'step')}" if k else "before adaptation"


def _policy(learned: Learned, robot, theta, support: tuple, k: int):
    learner = learned.learner

    def policy(d: np.ndarray) -> np.ndarray:
        asked, _ = learner.view(support, (learner.family.readings(d, robot)[0], None), learned.state.norms, k)
        return np.asarray(learner.predict(theta, asked), float)[None]

    return policy


def _room(ax, boxes: np.ndarray) -> None:
    """The floor of a room, its walls, and the boxes in it."""
    rectangle = require("matplotlib.patches", "plot").Rectangle
    for i, (left, bottom, right, top) in enumerate(boxes):
        face = "0.8" if i else "white"
        ax.add_patch(rectangle((left, bottom), right - left, top - bottom, fc=face, ec="black", lw=1.5, zorder=0))
    margin = RADIUS
    ax.set(xlim=(-margin, boxes[0, 2] + margin), ylim=(-margin, boxes[0, 3] + margin), aspect="equal")


def speeds(learned: Learned, count: int = 3, rows: int = 150) -> Figure:
    """The record's last part as test robots would drive it: wheel speeds over time, true and predicted."""
    family, learner = learned.learner.family, learned.learner
    figure = style.new(8, 1 + 1.9 * count)
    grid = figure.subplots(count, 2, sharex=True, sharey="row", squeeze=False)
    d, y = family.rows["test"]
    for t, axes in enumerate(grid):
        rng = generator(learned.config, TEST, t)
        robot, first = family.robots(rng, 1), int(rng.integers(0, len(d) - rows))
        others = np.setdiff1d(np.arange(len(d)), np.arange(first, first + rows))
        chosen = [*rng.choice(others, family.shots, replace=False), *range(first, first + rows)]
        support, (xq, yq) = tree_map(lambda x: x[0], family.of_rows(d[None, chosen], y[None, chosen], robot))
        outputs = []
        for k, theta in enumerate(path(learned, support, STEPS)):
            asked, _ = learner.view(support, (xq, None), learned.state.norms, k)
            outputs.append(np.asarray(learner.predict(theta, asked)))
        errors = [np.mean((prediction - yq) ** 2) for prediction in (outputs[0], outputs[-1])]
        for wheel, ax in enumerate(axes):
            ax.plot(yq[:, wheel], color="black", lw=1.6, label="truth")
            for k in (0, len(outputs) - 1):
                colour = SHADES[max(SHADES)] if k else SHADES[0]
                ax.plot(np.clip(outputs[k][:, wheel], -5, 5), color=colour, lw=1.1, label=_after(k))
            ax.set_title(f"robot {t + 1}, {('left', 'right')[wheel]} wheel", fontsize=8)
            ax.set(xlabel="row", ylabel="speed" if not wheel else "")
            ax.label_outer()
        axes[1].set_title(f"robot {t + 1}, right wheel; error {errors[0]:.2g} → {errors[1]:.2g}", fontsize=8)
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return style.titled(figure, learned, "wheel speeds over a part of the record that is in no other split")
