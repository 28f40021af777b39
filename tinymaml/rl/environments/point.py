"""2-D navigation (Finn, Abbeel and Levine, 2017, section 5.3): a point moves to a goal that it does not see.

    Point(800)                                        as in cbfinn/maml_rl: the paper's experiment
    Point(800, actions="clipped")                     as in pytorch-maml-rl and CAVIA
    Point(800, goals="corners", reward="progress")    as in ProMP

The observation is the position p, (2,), and an action a, (2,), moves it: p ← p + d(a). Public code agrees neither on
what an action does, nor on what is paid for it. Both are options, named after what they do:

    goals      "square"     the start is (0, 0), and goals are uniform in [−0.5, 0.5]²; an episode ends within 0.01 of
                            the goal on both axes. A step is r = 0.1 at most on each axis
               "corners"    the start is uniform in [−0.2, 0.2]², and a goal is one of (±2, ±2); r = 0.2; no end
    actions    "scaled"     d = r clip(a / s, −1, 1): a policy with a deviation of s uses all of the range. s is 1 in
                            the square (rllab's `normalize`), and 10 for corners (ProMP's `normalization_scale`)
               "clipped"    d = clip(a, −r, r): a policy with a deviation of 1 moves by ± r nearly always, which makes
                            returns far lower until it has learned a small deviation
    reward     "distance"   −‖p − goal‖, as in all of the code
               "squared"    −‖p − goal‖², as in the paper's text
               "near"       sparse: 1 − ‖p − goal‖ / radius within the radius, and 0 beyond
               "progress"   sparse: by how much the step came nearer to the goal; but 0 within an ℓ1 distance `radius`
                            of the origin, and 0 where another corner is nearer (corners only)

The reward is for the position after the step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Array = np.ndarray

GOALS, ACTIONS, REWARDS = ("square", "corners"), ("scaled", "clipped"), ("distance", "squared", "near", "progress")
SIDE, END = 0.5, 0.01
CORNERS = np.array([(-2.0, -2.0), (2.0, -2.0), (-2.0, 2.0), (2.0, 2.0)])
START = 0.2
REACH = {"square": 0.1, "corners": 0.2}  # of a step, on each axis
SCALE = {"square": 1.0, "corners": 10.0}  # the action that moves so far, if actions are scaled


class Point:
    """`num_envs` points, each with a goal of its own.

    Args:
        goals, actions, reward: see the head of this file.
        radius: of the sparse rewards.

    Raises:
        ValueError: an option has another value; "progress" is asked for without corners.
    """

    observation_shape, actions = (2,), 2

    def __init__(
        self, num_envs: int, *, goals: str = "square", actions: str = "scaled", reward: str = "distance",
        radius: float = 0.5,
    ) -> None:  # fmt: skip
        for what, value, known in (("goals", goals, GOALS), ("actions", actions, ACTIONS), ("reward", reward, REWARDS)):
            if value not in known:
                raise ValueError(f"{what} is {value!r}, wanted one of {', '.join(known)}")
        if reward == "progress" and goals != "corners":
            raise ValueError(f"the reward 'progress' wants goals in corners, and they are {goals!r}")
        self.num_envs, self.goals, self.kind, self.reward, self.radius = num_envs, goals, actions, reward, radius
        self.goal = self.position = np.zeros((num_envs, 2))

    def draw(self, rng: np.random.Generator, tasks: int) -> dict[str, Array]:
        """{"goal": (tasks, 2)}."""
        if self.goals == "square":
            return {"goal": rng.uniform(-SIDE, SIDE, (tasks, 2))}
        return {"goal": CORNERS[rng.integers(4, size=tasks)]}

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Array, dict]:
        """Observations (num_envs, 2), and an empty info. `options["goal"]`, (num_envs, 2), sets the goals.

        Args:
            seed: of all starts; or one per environment, which then is the same whatever stands beside it.
        """
        if options and "goal" in options:
            self.goal = _rows("goal", options["goal"], self.num_envs)
        self.position = np.zeros((self.num_envs, 2))
        if self.goals == "corners":
            self.position = uniform(seed, self.num_envs, START)
        return self.position.copy(), {}

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict]:
        """Observations (num_envs, 2), rewards (num_envs,), terminated, truncated, both (num_envs,) bool, and {}."""
        before, reach = self.position, REACH[self.goals]
        actions = np.asarray(actions, float)
        # d = r clip(a / s, −1, 1), or clip(a, −r, r)
        scaled = reach / SCALE[self.goals] * actions if self.kind == "scaled" else actions
        self.position = before + np.clip(scaled, -reach, reach)
        away = np.abs(self.position - self.goal)
        ended = np.all(away < END, axis=1) if self.goals == "square" else np.zeros(self.num_envs, bool)
        return self.position.copy(), self._rewards(before), ended, np.zeros(self.num_envs, bool), {}

    def _rewards(self, before: Array) -> Array:
        distance = _norm(self.position - self.goal)
        if self.reward == "distance":
            return -distance
        if self.reward == "squared":
            return -(distance**2)
        if self.reward == "near":
            return np.maximum(1 - distance / self.radius, 0)
        nearest = _norm(self.position[:, None] - CORNERS).min(1)
        paid = (np.abs(self.position).sum(1) >= self.radius) & (distance <= nearest)
        return np.where(paid, _norm(before - self.goal) - distance, 0)


def _norm(x: Array) -> Array:
    return np.sqrt(np.sum(x * x, -1))


def _rows(name: str, x: Any, rows: int) -> Array:
    x = np.asarray(x, float)
    if x.shape != (rows, 2):
        raise ValueError(f"{name} has the shape {x.shape}, wanted ({rows}, 2)")
    return x


def uniform(seed: int | Sequence[int] | None, rows: int, most: float) -> Array:
    """(rows, 2) in [−most, most], by one generator, or by one per row."""
    if seed is None or np.ndim(seed) == 0:
        return np.random.default_rng(seed).uniform(-most, most, (rows, 2))
    return np.stack([np.random.default_rng(int(one)).uniform(-most, most, 2) for one in np.ravel(seed)])
