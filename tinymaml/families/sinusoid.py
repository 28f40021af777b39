"""Few-shot regression of sine waves (Finn et al., 2017, section 5.1): the task that needs no download.

    tasks = SinusoidTasks(shots=5)
    (xs, ys), (xq, yq) = tasks.sample(rng, 25, "train")

A task is y = A sin(x − φ) with A in [0.1, 5] and φ in [0, π]; x is drawn from [−5, 5].
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from ..runs.settings import option
from .common import MSE, check_counts, check_draw, check_dtype, regression

AMPLITUDE, PHASE, X = (0.1, 5.0), (0.0, np.pi), (-5.0, 5.0)

defaults: dict[str, Any] = dict(
    network="mlp", hidden=(40, 40), inner_lr=0.005, meta_lr=0.006, decay=2000, tasks=25, iterations=6000,
)  # fmt: skip


# Chosen on validation tasks, of few candidates each. A gradient that does not go through the inner steps lets them
# become unstable while training: Reptile, iMAML and Meta-MinibatchProx clip them.
defaults_for: dict[str, dict[str, Any]] = {
    "reptile": dict(inner_steps=10, inner_lr=0.01, inner_clip_norm=30.0),
    "anil": dict(inner_steps=5, inner_lr=0.01),
    "imaml": dict(inner_steps=32, inner_lr=0.003, inner_clip_norm=10.0, strength=10.0, meta_lr=0.001),
    "proximal": dict(inner_lr=0.01, inner_clip_norm=30.0),
}


@dataclass(frozen=True)
class Settings:
    """Options of sine waves."""

    shots: int = option(5, "support points of each wave", least=1)
    queries: int = option(15, "query points of each wave", least=1)


def make(settings: Settings) -> SinusoidTasks:
    """The family with these settings.

    >>> from tinymaml.families import sinusoid
    >>> waves = sinusoid.make(sinusoid.Settings(shots=5, queries=15))
    >>> (xs, ys), (xq, yq) = waves.sample(np.random.default_rng(0), tasks=8)
    >>> xs.shape, yq.shape, xs.dtype
    ((8, 5, 1), (8, 15, 1), dtype('float32'))
    """
    return SinusoidTasks(settings.shots, settings.queries)


def published(settings: Settings) -> list[tuple[str, dict[int, float]]]:
    """Finn et al., 2017, section 5.1: the mean squared error after 1, 5 and 10 steps on 5 points."""
    if settings.shots != 5:
        return []
    return [
        ("MAML, Finn et al., 2017", {1: 0.67, 5: 0.38, 10: 0.35}),
        ("pretrained, Finn et al., 2017", {1: 2.41, 5: 2.23, 10: 2.19}),
    ]


def pictures(learned) -> Iterator[tuple[str, Any]]:
    """Test waves, and what is predicted after 0, 1, 5 and 10 steps."""
    from ..pictures import waves

    yield "adaptation", waves.adaptation(learned, lambda rng: learned.learner.family.waves(rng, 1), X)


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

    metric = MSE
    input_shape = (1,)
    outputs = 1
    loss = staticmethod(regression)

    def __init__(self, shots: int = 5, queries: int = 5, dtype: DTypeLike = np.float32) -> None:
        check_counts(shots=shots, queries=queries)
        self.shots, self.queries, self.dtype = shots, queries, check_dtype(dtype)

    def sample(self, rng: np.random.Generator, tasks: int, split: str = "train") -> tuple:
        """((xs, ys), (xq, yq)): support (tasks, shots, 1) and query (tasks, queries, 1)."""
        check_draw(tasks, split)
        return self.batch(rng, self.waves(rng, tasks))

    def waves(self, rng: np.random.Generator, tasks: int) -> Waves:
        """Draw the functions of `tasks` tasks."""
        return Waves(rng.uniform(*AMPLITUDE, (tasks, 1, 1)), rng.uniform(*PHASE, (tasks, 1, 1)))

    def batch(self, rng: np.random.Generator, waves: Waves) -> tuple:
        """Points of chosen waves, as `sample` returns them."""

        def points(count: int) -> tuple[np.ndarray, np.ndarray]:
            x = rng.uniform(*X, (len(waves.amplitude), count, 1))
            return x.astype(self.dtype), waves(x).astype(self.dtype)

        return points(self.shots), points(self.queries)
