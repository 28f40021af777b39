"""A robot in a room: what its range sensors read, how it drives, and how a driver who knows it follows a wall.

    rooms = Rooms.drawn(rng, 25)                            # 25 rooms, with boxes in them
    poses = rooms.poses(rng, 40)                            # (25, 40, 3): x, y in metres, heading in radians
    d = rooms.ranges(poses)                                 # (25, 40, 10): metres to the wall, of 10 sensors
    v, omega = rules(d, side)                               # metres per second, radians per second
    poses = driven(poses, v, omega, 0.1)                    # after 0.1 s
    way, hit = drive(rooms, size, start, policy)            # 30 s, or until it hits a wall

Everything is vectorised over tasks, one room and one robot each. Read next: `robot`, which makes tasks of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Array = np.ndarray
ANGLES = np.deg2rad(np.linspace(-126, 126, 10))  # of the sensors, from the heading; counter-clockwise, so left is > 0
REACH, RADIUS, AXLE = 3.0, 0.15, 0.3  # metres: of a sensor, of the robot, between its wheels
FRONT, SIDE = np.abs(ANGLES) < 0.8, np.abs(ANGLES) > 0.7  # sensors that look ahead, and to one side


class Rooms(NamedTuple):
    """Rooms with walls along the axes: boxes (tasks, boxes, 4), each (left, bottom, right, top); box 0 is the room."""

    boxes: Array

    @classmethod
    def drawn(cls, rng: np.random.Generator, tasks: int, boxes: int = 2) -> Rooms:
        """Rooms of 4 to 7 metres, each with so many boxes of 0.4 to 1.2 metres, apart from its walls."""
        size = rng.uniform(4, 7, (tasks, 1, 2))
        sides = rng.uniform(0.4, 1.2, (tasks, boxes, 2))
        place = 1 + rng.uniform(0, 1, (tasks, boxes, 2)) * (size - 2 - sides)
        inner = np.concatenate([place, place + sides], 2)
        return cls(np.concatenate([np.concatenate([0 * size, size], 2), inner], 1))

    def ranges(self, poses: Array, reach: float = REACH) -> Array:
        """Metres from poses (tasks, N, 3) to the nearest wall along each sensor, (tasks, N, 10), at most `reach`."""
        angles = poses[..., 2:] + ANGLES
        x, y, _ = np.moveaxis(poses[..., None], 2, 0)
        left, bottom, right, top = self._sides(2)
        with np.errstate(divide="ignore"):
            # the slab method: p + t w crosses the lines of a box at t = (corner − p) / w, per axis
            wx, wy = 1 / np.cos(angles), 1 / np.sin(angles)
            x1, x2, y1, y2 = (left - x) * wx, (right - x) * wx, (bottom - y) * wy, (top - y) * wy
        enter = np.maximum(np.minimum(x1, x2), np.minimum(y1, y2))
        leave = np.minimum(np.maximum(x1, x2), np.maximum(y1, y2))
        # a ray leaves the room, and enters a box if it does so ahead, and before it would leave it
        met = np.where((enter > 0) & (enter < leave), enter, np.inf)
        met[0] = leave[0]
        return np.clip(met.min(0), 0, reach)

    def clearance(self, poses: Array) -> Array:
        """Metres from each position to the nearest wall, (tasks, N); negative outside of the room or in a box."""
        (x, y), (left, bottom, right, top) = np.moveaxis(poses[..., :2], 2, 0), self._sides(1)
        # how far it is within a box along each axis; less than 0: outside
        dx, dy = np.minimum(x - left, right - x), np.minimum(y - bottom, top - y)
        within, outside = np.minimum(dx, dy), np.hypot(np.minimum(dx, 0), np.minimum(dy, 0))
        to_box = np.where(within > 0, -within, outside)
        return np.minimum(within[0], to_box[1:].min(0, initial=np.inf))

    def _sides(self, axes: int) -> Array:
        """left, bottom, right, top: each (boxes, tasks, 1, …), with so many axes of 1."""
        return np.moveaxis(self.boxes, (2, 1), (0, 1)).reshape(4, -1, len(self.boxes), *[1] * axes)

    def poses(self, rng: np.random.Generator, count: int, margin: float = 0.25) -> Array:
        """(tasks, count, 3): positions anywhere, at least `margin` metres from walls, and any headings."""
        tasks, room = len(self.boxes), self.boxes[:, 0, None, 2:]
        drawn = rng.uniform(0, 1, (tasks, 4 * count + 16, 2)) * room
        free = self.clearance(drawn) > margin
        while (free.sum(1) < count).any():  # about half of a room is free
            again = rng.uniform(0, 1, drawn.shape) * room
            drawn, free = np.where(free[..., None], drawn, again), free | (self.clearance(again) > margin)
        first = np.argsort(~free, axis=1, kind="stable")[:, :count]  # free ones come first
        position = np.take_along_axis(drawn, first[..., None], 1)
        return np.concatenate([position, rng.uniform(-np.pi, np.pi, (tasks, count, 1))], 2)


def rules(d: Array, side: Array) -> tuple[Array, Array]:
    """The speed v and the turning rate ω, counter-clockwise, of one who follows the wall on a side.

    Args:
        d: metres to the walls, (…, 10).   side: +1: the wall on the left; −1: on the right; (…).
    """
    front = d[..., FRONT].min(-1)
    left, right = d[..., SIDE & (ANGLES > 0)].min(-1), d[..., SIDE & (ANGLES < 0)].min(-1)
    wall = np.where(side > 0, left, right)
    blocked = np.clip((1.0 - front) / 0.6, 0, 1)
    v = 0.5 * (1 - blocked)
    # towards the wall if it is far, away from it if it is near or if the way is blocked
    omega = side * (1.2 * np.clip(wall - 0.6, -0.5, 0.5) - 2.0 * blocked)
    return v, omega


def wheels(v: Array, omega: Array, size: Array) -> Array:
    """(…, 2): the speeds of the left and the right wheel, whose size is in units of the average wheel's."""
    # v = size (left + right) / 2,   ω = size (right − left) / AXLE
    return np.stack([v - omega * AXLE / 2, v + omega * AXLE / 2], -1) / size[..., None]


def turned(speeds: Array, size: Array) -> tuple[Array, Array]:
    """(v, ω) of wheel speeds (…, 2): the inverse of `wheels`."""
    left, right = speeds[..., 0], speeds[..., 1]
    return size * (left + right) / 2, size * (right - left) / AXLE


def driven(poses: Array, v: Array, omega: Array, seconds: float) -> Array:
    """The poses (…, 3) after so many seconds at constant v and ω: an arc of the radius v / ω."""
    x, y, heading = np.moveaxis(poses, -1, 0)
    angle = omega * seconds
    # the chord of the arc is v t · sin(φ/2)/(φ/2), in the direction heading + φ/2
    chord = v * seconds * np.sinc(angle / (2 * np.pi))
    return np.stack([x + chord * np.cos(heading + angle / 2), y + chord * np.sin(heading + angle / 2),
                     heading + angle], -1)  # fmt: skip


def drive(
    places: Rooms, size: Array, start: Array, policy: Callable[[Array], Array], steps: int = 300, seconds: float = 0.1
) -> tuple[Array, Array]:
    """Let a policy drive one robot per room, until it hits a wall.

    Args:
        size: of the wheels, (tasks, 1).   start: poses (tasks, 3).
        policy: true distances (tasks, 1, 10) → wheel speeds (tasks, 1, 2).

    Returns:
        The poses (tasks, steps + 1, 3), and whether each robot has hit a wall, (tasks,); from there on it stands still.
    """
    poses, hit = [start[:, None]], np.zeros(len(start), bool)
    for _ in range(steps):
        now = poses[-1]
        v, omega = turned(policy(places.ranges(now)), size)
        ahead = driven(now, np.clip(v, -1, 1), np.clip(omega, -4, 4), seconds)  # what motors can do
        hit |= places.clearance(ahead)[:, 0] < RADIUS
        poses.append(np.where(hit[:, None, None], now, ahead))
    return np.concatenate(poses, 1), hit
