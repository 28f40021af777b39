"""Collect: policies act in environments, and what happened becomes a batch per task.

    batch = rollout(environment, policy, theta, options, seeds, step=0, trajectories=20, horizon=100)

One environment holds trajectories × tasks, all of which act at once, each task with its own θ. It runs before anything
is differentiated, in NumPy, so that gradients are compiled like those of any algorithm. All that is random comes from
the seed of the task and the number of the step: a task's batch does not depend on the tasks beside it.

An error names the fault of an environment, with task, trajectory and step of the episode. Read next: `environments`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..nest import Nest, tree_leaves
from ..per_task import outlined

Array = np.ndarray


def rollout(
    environment: Any, policy: Any, theta: Nest, options: Mapping[str, Array], seeds: Array, step: int, *,
    trajectories: int, horizon: int,
) -> dict[str, Nest]:  # fmt: skip
    """Let T policies act in N environments each, for at most H steps.

    Args:
        environment: of T × N, see `environments`; the N of a task stand side by side.
        policy: see `policies`.
        theta: its parameters, each with the tasks on axis 0.
        options: what tells tasks apart, each (T, …): the environment's `reset` gets it with a row per environment.
        seeds: (T,) integers, of all that is random of each task.
        step: the number of the inner step, another stream of random numbers of the same task.
        trajectories, horizon: N, H.

    Returns:
        A batch (see the head of the package) with the tasks on axis 0, in the dtype of θ, without advantages and
        values; and "outputs", those of the policy that acted, for its Kullback-Leibler divergence. After the end of an
        episode the mask and the rewards are 0, and the observation is the last one.

    Raises:
        ValueError: the environment returned an array of another shape or kind, a number that is not finite, or an end
            that is no truth value; what was seen, and where.
        FloatingPointError: a policy cannot act: θ is not finite, its std has collapsed, or its action is not finite.

    >>> from tinymaml.rl import collect, environments, policies
    >>> rng, policy = np.random.default_rng(0), policies.Gaussian(inputs=2, actions=2)
    >>> environment = environments.WORLDS["point"](3 * 20)  # 20 for each of 3 tasks
    >>> theta = tm.tree_map(lambda p: np.stack([p] * 3), policy.init(rng, np.float64))
    >>> goals, sizes = environment.draw(rng, 3), dict(trajectories=20, horizon=10)
    >>> batch = collect.rollout(environment, policy, theta, goals, np.arange(3), 0, **sizes)
    >>> batch["observations"].shape, batch["rewards"].shape
    ((3, 20, 10, 2), (3, 20, 10))
    """
    tasks, dtype = len(seeds), tree_leaves(theta)[0].dtype
    if fault := policy.fault(theta):
        (task, *_), why = fault
        raise FloatingPointError(f"task {task}, inner step {step}: {why}")
    generators = [np.random.default_rng([int(seed), step]) for seed in seeds]
    starts = [int(x) for rng in generators for x in rng.integers(2**31, size=trajectories)]
    noise = np.stack([policy.noise(rng, (horizon, trajectories)) for rng in generators], 1)
    noise = noise.astype(dtype)  # (H, T, N, …)
    checked = _Checked(environment, tasks, trajectories)
    rows = {name: np.repeat(np.asarray(x), trajectories, 0) for name, x in options.items()}
    seen = checked.reset(seed=starts, options=rows)
    running = np.ones((tasks, trajectories), bool)
    steps: dict[str, list] = {name: [] for name in ("observations", "actions", "rewards", "mask", "logp", "outputs")}
    for t in range(horizon):
        observations = seen.astype(dtype)
        outputs = policy.outputs(theta, observations)
        actions = policy.act(outputs, noise[t])
        if actions.dtype.kind == "f" and not np.isfinite(actions).all():
            task = np.argwhere(~np.isfinite(actions))[0][0]
            raise FloatingPointError(f"task {task}, inner step {step}: the policy's action at step {t} is not finite")
        for name, x in zip(steps, (observations, actions, None, running, policy.density(outputs, actions), outputs),
                           strict=True):  # fmt: skip
            steps[name].append(x)
        after, rewards, ended = checked.step(actions, running, t)
        steps["rewards"][t] = np.where(running, rewards, 0)
        running = running & ~ended
        seen = np.where(np.reshape(running, (*running.shape, *[1] * (after.ndim - 2))), after, seen)
        if not running.any():
            break
    return {name: _joined(name, parts, horizon, dtype) for name, parts in steps.items()}


def total(batch: Mapping[str, Array]) -> Array:
    """The mean over trajectories of the sum of their rewards, without discount: (…, N, H) → (…)."""
    return np.sum(batch["mask"] * batch["rewards"], (-2, -1)) / batch["rewards"].shape[-2]


def _joined(name: str, parts: list, horizon: int, dtype: np.dtype) -> Nest:
    """(T, N, H, …) of H parts (T, N, …), or fewer if all episodes have ended: the last one stands for what is missing.

    A log std has no trajectories and no steps: it is the same in all.
    """
    if isinstance(parts[0], dict):
        return {key: parts[0][key] if key == "log_std" else _joined(key, [p[key] for p in parts], horizon, dtype)
                for key in parts[0]}  # fmt: skip
    if len(parts) < horizon:
        last = np.zeros_like(parts[-1]) if name in ("rewards", "mask") else parts[-1]
        parts = [*parts, *[last] * (horizon - len(parts))]
    x = np.stack(parts, 2)
    return x if x.dtype.kind == "i" else np.ascontiguousarray(x, dtype)


class _Checked:
    """An environment of T × N whose arrays are looked at; a task and a trajectory are then one row each."""

    def __init__(self, environment: Any, tasks: int, trajectories: int) -> None:
        count = tasks * trajectories
        if environment.num_envs != count:
            raise ValueError(f"the environment has num_envs = {environment.num_envs}, wanted {tasks} × {trajectories}")
        self.environment, self.grid = environment, (tasks, trajectories)
        self.shape = tuple(environment.observation_shape)

    def reset(self, **more: Any) -> Array:
        """The first observations, (T, N, …)."""
        result = self.environment.reset(**more)
        if not isinstance(result, tuple) or len(result) != 2:
            raise ValueError(f"the environment's reset returned {outlined(result)}, wanted (observations, info)")
        return self._array("observation", result[0], "reset", self.shape)

    def step(self, actions: Array, running: Array, t: int) -> tuple[Array, Array, Array]:
        """Observations (T, N, …), rewards (T, N), and which episodes have ended, (T, N) bool."""
        result = self.environment.step(np.reshape(actions, (-1, *actions.shape[2:])))
        if not isinstance(result, tuple) or len(result) != 5:
            wanted = "wanted (observations, rewards, terminated, truncated, info)"
            raise ValueError(f"the environment's step {t} returned {outlined(result)}, {wanted}")
        ends = [self._ends(name, x, t) for name, x in zip(("terminated", "truncated"), result[2:4], strict=True)]
        rewards = self._array("reward", result[1], f"step {t}", (), running)
        return self._array("observation", result[0], f"step {t}", self.shape, running), rewards, ends[0] | ends[1]

    def _array(self, what: str, x: Any, when: str, shape: tuple, running: Array | None = None) -> Array:
        x, wanted = np.asarray(x), (self.grid[0] * self.grid[1], *shape)
        if x.shape != wanted or x.dtype.kind not in "fiub":
            seen = f"the environment's {what}s at {when} are {x.dtype} {x.shape}"
            raise ValueError(f"{seen}, wanted numbers of shape {wanted}: a row per task and trajectory")
        x = np.reshape(x, (*self.grid, *shape))
        bad = ~np.isfinite(x).reshape(*self.grid, -1).all(-1)
        if running is not None:
            bad &= running
        if bad.any():
            task, trajectory = np.argwhere(bad)[0]
            where = f"task {task}, trajectory {trajectory}, {when}"
            raise ValueError(f"{where}: the environment's {what} is {x[task, trajectory]}, wanted finite numbers")
        return x

    def _ends(self, what: str, x: Any, t: int) -> Array:
        x, count = np.asarray(x), self.grid[0] * self.grid[1]
        if x.shape != (count,) or x.dtype != bool:
            seen = f"the environment's {what} at step {t} is {x.dtype} {x.shape}"
            raise ValueError(f"{seen}, wanted bool ({count},): does the episode end here?")
        return np.reshape(x, self.grid)
