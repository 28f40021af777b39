"""Control: an environment of Gymnasium, whose physics differ from task to task.

    tinymaml train control                                                          a cart whose motor may be reversed
    tinymaml train control --env Pendulum-v1 --vary g --low 5 --high 15

A task is a number of the physics, and the seed of all that is random in it. The metric is the return. Read next:
`navigation`, whose tasks are of the same kind.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..rl.environments.vector import Gymnasium
from ..runs.settings import option
from .navigation import EnvironmentTasks

defaults: dict[str, Any] = dict(
    algorithm="maml-rl", network="policy", hidden=(64, 64), activation="tanh", inner_lr=0.1, meta_lr=0.005, decay=0,
    tasks=10, iterations=100, save_every=20, validate_every=20, validation_tasks=10,
)  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """Options of control."""

    env: str = option("CartPole-v1", "name of an environment of Gymnasium")
    vary: str = option("force_mag", "attribute of the environment in which tasks differ")
    low: float = option(-10.0, "its least value")
    high: float = option(10.0, "its greatest value")
    trajectories: int = option(10, "trajectories of a task for each gradient", least=1)
    horizon: int = option(100, "most steps of a trajectory", least=1)


def make(settings: Settings) -> EnvironmentTasks:
    """The family with these settings."""
    s = settings
    return EnvironmentTasks(Gymnasium.of(s.env, s.vary, s.low, s.high), s.trajectories, s.horizon)
