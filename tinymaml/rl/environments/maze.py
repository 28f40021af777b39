"""A small maze: which of its cells is the goal, an agent finds out by being there.

    Maze(800)                # 800 agents in the same maze, each with a goal of its own

The observation is the cell, one of 37, as a vector with a single 1. There are four actions: up, down, left, right. Each
step costs 1, into a wall the agent stands still, and the episode ends at the goal: the return is minus the number of
steps. All start in the middle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Array = np.ndarray

MAP = """
.......
.##.##.
.#...#.
...S...
.#...#.
.##.##.
.......
"""
MOVES = np.array([(-1, 0), (1, 0), (0, -1), (0, 1)])  # up, down, left, right


class Maze:
    """`num_envs` agents in the maze of a map: "." is free, "#" is a wall, and S is where all start.

    Attributes:
        cells: (cells, 2), the row and the column of each.   next: (cells, 4), where each action leads to.
    """

    choices = len(MOVES)

    def __init__(self, num_envs: int, map: str = MAP) -> None:
        rows = map.split()
        places = [(r, c) for r, row in enumerate(rows) for c, letter in enumerate(row) if letter != "#"]
        number = {place: i for i, place in enumerate(places)}
        self.cells = np.array(places)
        self.next = np.array([[number.get((r + dr, c + dc), i) for dr, dc in MOVES.tolist()]
                              for i, (r, c) in enumerate(places)])  # fmt: skip
        self.start = next(i for i, (r, c) in enumerate(places) if rows[r][c] == "S")
        self.num_envs, self.observation_shape = num_envs, (len(places),)
        self.goal = self.cell = np.zeros(num_envs, int)

    def draw(self, rng: np.random.Generator, tasks: int) -> dict[str, Array]:
        """{"goal": (tasks,)}: the number of any cell but the start."""
        goals = rng.integers(len(self.cells) - 1, size=tasks)
        return {"goal": goals + (goals >= self.start)}

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Array, dict]:
        """Observations (num_envs, cells), and an empty info. `options["goal"]`, (num_envs,), sets the goals."""
        if options and "goal" in options:
            goal = np.asarray(options["goal"])
            if goal.shape != (self.num_envs,) or goal.dtype.kind not in "iu" or not (goal < len(self.cells)).all():
                seen = f"goal is {goal.dtype} {goal.shape}"
                raise ValueError(f"{seen}, wanted numbers of cells, below {len(self.cells)}, ({self.num_envs},)")
            self.goal = goal
        self.cell = np.full(self.num_envs, self.start)
        return self._seen(), {}

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict]:
        """Observations (num_envs, cells), rewards (num_envs,), terminated, truncated, both (num_envs,) bool, and {}."""
        self.cell = self.next[self.cell, np.asarray(actions)]
        none = np.zeros(self.num_envs, bool)
        return self._seen(), np.full(self.num_envs, -1.0), self.cell == self.goal, none, {}

    def _seen(self) -> Array:
        return np.eye(len(self.cells))[self.cell]
