"""Environments of Gymnasium, whose tasks differ in one number of their physics.

    make = Gymnasium.of("CartPole-v1", "force_mag", -10.0, 10.0)      # with a force below 0, left is right
    environment = make(400)

Any vector environment of Gymnasium whose observations are numbers, and whose actions are a `Box` or `Discrete`, can
stand in the place of our own. `Box` actions are scaled: the policy's [−1, 1] is the range of the environment, and what
is beyond is clipped, as in rllab's `normalize`.

After the end of an episode `autoreset_mode` decides: the environment begins anew in the next step
(NEXT_STEP) or in the same one (SAME_STEP), or waits to be reset (DISABLED), which is done here. A batch is the same in
all of them, since nothing of a trajectory is looked at after its end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ...extras import require

Array = np.ndarray


class Gymnasium:
    """A vector environment of Gymnasium.

    Args:
        inner: `gymnasium.vector.VectorEnv`.
        varied: {attribute: (least, greatest)}: of each environment, in which tasks differ.

    Raises:
        ValueError: its spaces are of another kind, or its environments have no such attribute.
    """

    def __init__(self, inner: Any, varied: Mapping[str, tuple[float, float]]) -> None:
        self.inner, self.varied, self.num_envs = inner, dict(varied), inner.num_envs
        spaces, seen = require("gymnasium.spaces", "rl"), inner.single_observation_space
        if not isinstance(seen, spaces.Box):
            raise ValueError(f"observations are {seen}, wanted a Box")
        self.observation_shape = tuple(seen.shape)
        space = inner.single_action_space
        if isinstance(space, spaces.Discrete):
            self.choices, self._first = int(space.n), int(space.start)
        elif isinstance(space, spaces.Box) and len(space.shape) == 1 and np.isfinite([space.low, space.high]).all():
            self.actions, self._low, self._high = int(space.shape[0]), space.low, space.high
        else:
            raise ValueError(f"actions are {space}, wanted Discrete, or a bounded Box of one axis")
        for name in self.varied:
            try:
                inner.get_attr(name)
            except AttributeError:
                raise ValueError(f"the environments have no attribute {name!r} in which tasks could differ") from None

    @classmethod
    def of(cls, name: str, vary: str, low: float, high: float, **more: Any) -> Callable[[int], Gymnasium]:
        """`make(count)` → so many environments of a registered name, as one vector; `more` is for `gymnasium.make_vec`.

        Raises:
            ImportError: Gymnasium is not installed.   ValueError: it knows no environment of this name.
        """
        gymnasium = require("gymnasium", "rl")

        def make(count: int) -> Gymnasium:
            try:
                inner = gymnasium.make_vec(name, num_envs=count, vectorization_mode="sync", **more)
            except gymnasium.error.Error as cause:
                raise ValueError(f"Gymnasium makes no environment {name!r}: {cause}") from cause
            return cls(inner, {vary: (low, high)})

        return make

    def draw(self, rng: np.random.Generator, tasks: int) -> dict[str, Array]:
        """{attribute: (tasks,)}, each uniform in its range."""
        return {name: rng.uniform(low, high, tasks) for name, (low, high) in self.varied.items()}

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Array, dict]:
        """As Gymnasium's; options that are attributes in which tasks differ are set, a value per environment."""
        options = options or {}
        for name in self.varied.keys() & options.keys():
            self.inner.set_attr(name, np.asarray(options[name]).tolist())
        return self.inner.reset(seed=seed)

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict]:
        """As Gymnasium's, for the actions of a policy."""
        if hasattr(self, "choices"):
            actions = np.asarray(actions) + self._first
        else:
            # [−1, 1] → [low, high]
            shares = (np.clip(actions, -1, 1) + 1) / 2
            actions = (self._low + shares * (self._high - self._low)).astype(self._low.dtype)
        observations, rewards, terminated, truncated, info = self.inner.step(actions)
        ended = np.asarray(terminated) | np.asarray(truncated)
        if ended.any() and self._waits():
            observations, _ = self.inner.reset(options={"reset_mask": ended})
        return observations, rewards, terminated, truncated, info

    def _waits(self) -> bool:
        mode = (self.inner.metadata or {}).get("autoreset_mode")
        return getattr(mode, "name", mode) == "DISABLED"
