"""A small simulator of robots on two wheels that follow a wall: rooms, range readings, an expert, and the drive.

    rooms, robots = Rooms.drawn(rng, 25), Robots.drawn(rng, 25)
    poses = rooms.poses(rng, 30)                         # (25, 30, 3): x, y in metres, and the heading in radians
    ranges = rooms.ranges(poses)                         # (25, 30, 10), in metres
    speeds = robots.expert(ranges)                       # (25, 30, 2): revolutions per second, left and right
    ride = drive(rooms, robots, poses[:, 0], robots.expert, steps=300)

Everything is an array over many rooms at once. Walls are parallel to the axes, so that a ray meets a box by the method
of slabs (Kay and Kajiya, 1986). Next: `robot`, the family of tasks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Array = np.ndarray

BEAMS = np.radians(np.linspace(-112.5, 112.5, 10))  # from the heading; to the left is positive
FAR = 3.0  # metres: what a sensor reads where nothing is nearer
RADIUS, AXLE, TICK = 0.2, 0.3, 0.1  # metres of the robot and between its wheels; seconds from one reading to the next
ROOM, BOX, BOXES = (3.0, 6.0), (0.4, 1.6), 3  # metres of a side of the room, and of a box in it; boxes of a room
CIRCUMFERENCE, BIAS = (0.25, 0.75), (-0.2, 0.2)  # metres per revolution of a wheel; metres added to a range
SPEED, TURN, DISTANCE, AHEAD = 0.4, 1.2, 0.5, 0.9  # of the expert: m/s, rad/s, metres to the wall, metres it looks


class Rooms(NamedTuple):
    """Rectangles from the origin to `size` (T, 2), with boxes from `low` to `high` (T, boxes, 2) in them, in metres.

    A box may overlap another, or a wall; it stands for a piece of furniture, or for a wall inside.
    """

    size: Array
    low: Array
    high: Array

    @classmethod
    def drawn(cls, rng: np.random.Generator, count: int) -> Rooms:
        """So many rooms. Sizes, and places of the boxes' centres, are uniform."""
        size = rng.uniform(*ROOM, (count, 2))
        centre = rng.random((count, BOXES, 2)) * size[:, None]
        half = rng.uniform(*BOX, (count, BOXES, 2)) / 2
        return cls(size, np.maximum(centre - half, 0), np.minimum(centre + half, size[:, None]))

    def poses(self, rng: np.random.Generator, count: int, clearance: float = RADIUS) -> Array:
        """Random poses (T, count, 3) whose distance to every wall is at least the clearance; headings are uniform."""
        first = np.array([clearance, clearance, 0])
        scale = np.concatenate([self.size - 2 * clearance, np.full((len(self.size), 1), 2 * np.pi)], 1)
        poses = first + rng.random((len(self.size), count, 3)) * scale[:, None]
        room, place = np.nonzero(self.clearance(poses) < clearance)
        while len(room):  # draw those again
            some = Rooms(*(x[room] for x in self))
            poses[room, place] = first + rng.random((len(room), 3)) * scale[room]
            bad = some.clearance(poses[room, place][:, None])[:, 0] < clearance
            room, place = room[bad], place[bad]
        return poses

    def clearance(self, poses: Array) -> Array:
        """The distance (T, N) of the places of poses (T, N, 2 or 3) to the nearest wall; ≤ 0 beyond or on one."""
        place = poses[..., :2]
        outer = np.minimum(place, self.size[:, None] - place).min(-1)
        place = place[:, :, None]
        # ‖max(low − p, 0, p − high)‖
        gap = np.maximum(np.maximum(self.low[:, None] - place, place - self.high[:, None]), 0)
        return np.minimum(outer, np.sqrt((gap**2).sum(-1)).min(-1, initial=np.inf))

    def ranges(self, poses: Array) -> Array:
        """The ranges (T, N, 10) of sensors without a bias at poses (T, N, 3), in metres, from the robot's centre."""
        angle = poses[..., 2:] + BEAMS
        inverse = [1 / np.where(np.abs(d) < 1e-9, 1e-9, d) for d in (np.cos(angle), np.sin(angle))]

        def crossed(low: Array, high: Array) -> tuple[Array, Array]:
            """How far along each ray a rectangle (T, 2), (T, 2) begins and ends; it begins behind its end if missed."""
            enter, leave = [], []
            for axis in range(2):
                # inside the slab low ≤ p + t d ≤ high: t from (m − p) / d − h / |d| to … + …; middle m, half width h
                middle = (((low + high)[:, axis] / 2)[:, None] - poses[..., axis])[..., None] * inverse[axis]
                half = ((high - low)[:, axis] / 2)[:, None, None] * np.abs(inverse[axis])
                enter.append(middle - half)
                leave.append(middle + half)
            return np.maximum(*enter), np.minimum(*leave)

        nearest = np.minimum(crossed(np.zeros_like(self.size), self.size)[1], FAR)
        for box in range(self.low.shape[1]):
            enter, leave = crossed(self.low[:, box], self.high[:, box])
            nearest = np.where((enter > 0) & (enter <= leave), np.minimum(nearest, enter), nearest)
        return nearest


class Robots(NamedTuple):
    """The unknowns of each robot, each of shape (T, 1, 1).

    circumference: metres that a wheel rolls per revolution.   bias: metres that its sensors add to each range.
    side: on which side it keeps the wall, 1 for the right, −1 for the left.
    """

    circumference: Array
    bias: Array
    side: Array

    @classmethod
    def drawn(cls, rng: np.random.Generator, count: int) -> Robots:
        shape = (count, 1, 1)
        return cls(rng.uniform(*CIRCUMFERENCE, shape), rng.uniform(*BIAS, shape), rng.choice([-1.0, 1.0], shape))

    def readings(self, ranges: Array, far: float = FAR) -> Array:
        """The values that its sensors read in the place of ranges (T, N, sensors), in metres."""
        return np.clip(ranges + self.bias, 0, far)

    def expert(self, ranges: Array) -> Array:
        """The wheel speeds (T, N, 2), in revolutions per second, by which an expert follows the wall.

        The expert knows the robot, and the true ranges.
        """
        mirrored = self.side < 0
        speeds = follow_right(np.where(mirrored, ranges[..., ::-1], ranges)) / self.circumference
        return np.where(mirrored, speeds[..., ::-1], speeds)


def follow_right(ranges: Array) -> Array:
    """The speeds (…, 2) of the left and the right wheel, in m/s, that keep a wall at the right at DISTANCE.

    Without a wall at the right, the way is straight on, up to the first wall.
    """
    # of a wall beside the robot, or ahead of it, by the ranges r of some beams: the least r cos(angle)
    wall = (ranges[..., 1:4] * np.cos(BEAMS[1:4] + np.pi / 2)).min(-1)
    front = (ranges[..., 4:6] * np.cos(BEAMS[4:6])).min(-1)
    front = np.minimum(front, ranges[..., 3:7].min(-1))
    seen = np.clip((1.6 - ranges[..., :4].min(-1)) / 0.4, 0, 1)
    free = np.clip((front - 0.3) / (AHEAD - 0.3), 0, 1)
    # to the left where the wall is too near, or something is ahead
    turn = TURN * np.clip(seen * np.clip((DISTANCE - wall) / 0.4, -0.6, 1) + 2 * (1 - free), -1, 1)
    speed = SPEED * np.clip(free, 0.05, 1)
    return np.stack([speed - turn * AXLE / 2, speed + turn * AXLE / 2], -1)


# ── the drive ───────────────────────────────────────────────────────────────────────────────────────────────────────


def moved(poses: Array, speeds: Array, seconds: float) -> Array:
    """Poses (…, 3) after wheels have rolled with speeds (…, 2) in m/s, left and right: along an arc."""
    x, y, heading = np.moveaxis(poses, -1, 0)
    left, right = np.moveaxis(speeds, -1, 0)
    # the angle of the arc φ = (r − l) t / axle, its length s = (l + r) t / 2, its chord s · sin(φ/2) / (φ/2)
    angle = (right - left) * seconds / AXLE
    chord = (left + right) * seconds / 2 * np.sinc(angle / 2 / np.pi)
    middle = heading + angle / 2
    return np.stack([x + chord * np.cos(middle), y + chord * np.sin(middle), heading + angle], -1)


class Ride(NamedTuple):
    """How robots drove. poses: (T, steps + 1, 3), where a robot stays once it has touched a wall; touched: (T,) bool;
    metres: (T,), driven in all."""

    poses: Array
    touched: Array
    metres: Array


def drive(rooms: Rooms, robots: Robots, start: Array, policy: Callable[[Array], Array], steps: int) -> Ride:
    """Let `policy` drive robots from poses (T, 3): from ranges (T, 1, 10) to wheel speeds (T, 1, 2), at each step."""
    poses, touched = [start[:, None]], np.zeros((len(start), 1), bool)
    for _ in range(steps):
        speeds = policy(rooms.ranges(poses[-1])) * robots.circumference
        ahead = moved(poses[-1], np.clip(np.nan_to_num(speeds), -1, 1), TICK)
        poses.append(np.where(touched[..., None], poses[-1], ahead))
        touched |= rooms.clearance(poses[-1]) < RADIUS
    path = np.concatenate(poses, 1)
    return Ride(path, touched[:, 0], np.linalg.norm(np.diff(path[..., :2], axis=1), axis=-1).sum(1))
