"""Few-shot regression of sine waves (Finn et al., 2017, section 5.1): the task that needs no download.

    tasks = SinusoidTasks(shots=5)
    (xs, ys), (xq, yq) = tasks.sample(rng, 25, "train")

A task is y = A sin(x − φ) with A in [0.1, 5] and φ in [0, π]; x is drawn from [−5, 5].
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike

AMPLITUDE, PHASE, X = (0.1, 5.0), (0.0, np.pi), (-5.0, 5.0)


class Waves(NamedTuple):
    """The functions behind a batch of tasks; each (tasks, 1, 1)."""

    amplitude: np.ndarray
    phase: np.ndarray

    def __call__(self, x: np.ndarray) -> np.ndarray:
        # y = A sin(x − φ)
        return self.amplitude * np.sin(x - self.phase)


class SinusoidTasks:
    """Regression from `shots` points of a wave to `queries` others.

    The tasks are endless: "train", "val" and "test" are the same distribution, told apart by the generator's seed.
    """

    metric = "mse"
    input_shape = (1,)
    outputs = 1

    def __init__(self, shots: int = 5, queries: int = 5, dtype: DTypeLike = np.float32) -> None:
        for name, count in (("shots", shots), ("queries", queries)):
            if not isinstance(count, int | np.integer) or count < 1:
                raise ValueError(f"{name}={count!r}; wanted an integer of at least 1")
        if np.dtype(dtype).kind != "f":
            raise ValueError(f"dtype={np.dtype(dtype)}; wanted a floating type")
        self.shots, self.queries, self.dtype = shots, queries, np.dtype(dtype)

    def sample(self, rng: np.random.Generator, tasks: int, split: str = "train") -> tuple:
        """((xs, ys), (xq, yq)): support (tasks, shots, 1) and query (tasks, queries, 1)."""
        if split not in ("train", "val", "test"):
            raise ValueError(f"unknown split {split!r}; wanted one of train, val, test")
        return self.batch(rng, self.waves(rng, tasks))

    def waves(self, rng: np.random.Generator, tasks: int) -> Waves:
        """Draw the functions of `tasks` tasks."""
        if tasks < 1:
            raise ValueError(f"tasks={tasks}; wanted at least 1")
        return Waves(rng.uniform(*AMPLITUDE, (tasks, 1, 1)), rng.uniform(*PHASE, (tasks, 1, 1)))

    def batch(self, rng: np.random.Generator, waves: Waves) -> tuple:
        """Points of chosen waves, as `sample` returns them."""

        def points(count: int) -> tuple[np.ndarray, np.ndarray]:
            x = rng.uniform(*X, (len(waves.amplitude), count, 1))
            return x.astype(self.dtype), waves(x).astype(self.dtype)

        return points(self.shots), points(self.queries)
