"""Navigation: an agent finds a goal that it does not see, from rewards alone (Finn et al., 2017, section 5.3).

    family = make(Settings())
    tasks = family.sample(rng, 40, "train")                    {"goal": (40, 2), "seed": (40,)}
    batch = family.collect(policy, thetas, tasks, step=0)      what 40 policies do, 20 trajectories each: see `rl`

The agent is a point in the plane, or in a maze (`--world maze`). A task is a goal, and the seed of all that is random
in it. The metric is the return: the sum of rewards of an episode, without discount, the mean over the trajectories of a
task. Read next: `rl.environments.point`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import numpy as np

from ..rl.collect import rollout
from ..rl.environments import WORLDS, point
from ..runs.settings import option
from .common import Metric, check_counts, check_draw

POINT = {"world": ("point",)}

defaults: dict[str, Any] = dict(
    algorithm="maml-rl", network="policy", hidden=(100, 100), inner_lr=0.1, meta_lr=0.005, decay=0, tasks=20,
    iterations=200, save_every=20, validate_every=20, validation_tasks=20,
)  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """Options of navigation."""

    world: str = option("point", "where to navigate", choices=tuple(WORLDS))
    trajectories: int = option(20, "trajectories of a task for each gradient", least=1)
    horizon: int = option(100, "steps of a trajectory", least=1)
    goals: str = option("square", "goals in [-0.5, 0.5]², or in one of 4 corners (±2, ±2)", choices=point.GOALS,
                        where=POINT)  # fmt: skip
    actions: str = option("scaled", "a step is the action in [-1, 1], scaled; or the action, clipped",
                          choices=point.ACTIONS, where=POINT)  # fmt: skip
    reward: str = option("distance", "minus the distance, or its square; or sparse: nearness, or progress in corners",
                         choices=point.REWARDS, where=POINT)  # fmt: skip
    radius: float = option(0.5, "distance within which sparse rewards are paid (near), or are not (progress)",
                           least=1e-9, where=POINT)  # fmt: skip


def make(settings: Settings) -> EnvironmentTasks:
    """The family with these settings."""
    own = [f.name for f in fields(settings) if settings.world in f.metadata["where"].get("world", ())]
    world = partial(WORLDS[settings.world], **{name: getattr(settings, name) for name in own})
    return EnvironmentTasks(world, settings.trajectories, settings.horizon)


def pictures(learned) -> Iterator[tuple[str, Any]]:
    """Draw the paths of policies before and after adaptation, if there is a picture of the world."""
    from ..pictures import walks

    if draw := walks.PICTURES.get(learned.config["world"]):
        yield "paths", draw(learned)


class EnvironmentTasks:
    """Tasks of an environment.

    Args:
        world: `world(count)` → an environment of `count`, see `rl.environments`.
        trajectories, horizon: N, H.

    The tasks are endless: "train", "val" and "test" are the same distribution, told apart by the generator's seed.
    """

    metric = Metric("return", better="higher", label="return")

    def __init__(self, world: Callable[[int], Any], trajectories: int = 20, horizon: int = 100) -> None:
        check_counts(trajectories=trajectories, horizon=horizon)
        self.world, self.trajectories, self.horizon = world, trajectories, horizon
        one = world(1)
        self.draw = one.draw
        self.choices = getattr(one, "choices", None)
        self.input_shape, self.outputs = tuple(one.observation_shape), self.choices or one.actions
        self._worlds: dict[int, Any] = {}

    def sample(self, rng: np.random.Generator, tasks: int, split: str = "train") -> dict[str, Any]:
        """{"goal": …, "seed": (tasks,)}: what tells tasks apart, and the seeds of what is random in them."""
        check_draw(tasks, split)
        return {**self.draw(rng, tasks), "seed": rng.integers(2**62, size=tasks)}

    def collect(self, policy: Any, thetas: Any, tasks: dict[str, Any], step: int) -> dict[str, Any]:
        """A batch per task, see `rl.collect.rollout`."""
        options = dict(tasks)
        seeds = options.pop("seed")
        count = len(seeds) * self.trajectories
        if count not in self._worlds:
            self._worlds = {count: self.world(count)}
        sizes = dict(trajectories=self.trajectories, horizon=self.horizon)
        return rollout(self._worlds[count], policy, thetas, options, seeds, step, **sizes)
