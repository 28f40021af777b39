"""A decision process of a few states and actions, of which every trajectory can be written down.

    mdp = MDP(start, transition, reward, horizon=3)       tables; or random(rng, states=2, actions=2)
    values(mdp, theta), expected_return(mdp, theta)       V_t(s) of each step, and J(θ), by Bellman's recursion
    trajectories, chance = every_trajectory(mdp)          a batch of all of them, P(τ) = chance · Π_t π(a_t|s_t)
    returns(mdp, trajectories)                            Σ_t γᵗ r_t of each, so that J(θ) = Σ_τ P(τ) R(τ)
    batch = sample(mdp, rng, theta, count)                some of them, by their probabilities
    env = TabularEnvironment(mdp, num_envs=20)            the same process as an environment, to act in

J is differentiable to any order: tm.grad(lambda theta: expected_return(mdp, theta))(theta). A policy is
`policy(theta, observations, actions)` → log π(a|s), (…, N, H), from one-hot observations (…, N, H, states) and actions
(…, N, H), whose leading axes are those of θ. `log_pi` is the tabular one, `Categorical.logp` of `policies` another.
Read next: `exact`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..engine import stop_gradient
from ..nest import Nest
from . import returns as worth

Policy = Callable[[Nest, np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class MDP:
    """A Markov decision process with a finite horizon.

    Attributes:
        start: (S,) probabilities of the first state.
        transition: (S, A, S) probabilities of the next state, given a state and an action.
        reward: (S, A), of an action in a state.
        horizon: H, the number of actions of a trajectory.
        discount: γ.
        terminal: (S,) booleans: a trajectory that reaches such a state stays there, and is over. None: no state is.

    Raises:
        ValueError: tables whose shapes do not fit, that are not finite, or whose probabilities do not add up to 1.

    >>> from tinymaml.rl.tabular import MDP
    >>> mdp = MDP(start=[1.0, 0.0], transition=[[[0.5, 0.5]], [[0.0, 1.0]]], reward=[[1.0], [0.0]], horizon=10)
    >>> mdp.states, mdp.actions
    (2, 1)
    """

    start: np.ndarray
    transition: np.ndarray
    reward: np.ndarray
    horizon: int = 3
    discount: float = 1.0
    terminal: Any = None

    def __post_init__(self):
        for name in ("start", "transition", "reward"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), float))
        terminal = np.zeros(len(self.start), bool) if self.terminal is None else np.asarray(self.terminal, bool)
        object.__setattr__(self, "terminal", terminal)
        if self.reward.ndim != 2:
            raise ValueError(f"reward has the shape {self.reward.shape}, wanted (states, actions)")
        states, actions = self.reward.shape
        wanted = dict(start=(states,), transition=(states, actions, states), terminal=(states,))
        for name, shape in wanted.items():
            if (seen := np.shape(getattr(self, name))) != shape:
                raise ValueError(f"{name} has the shape {seen}, wanted {shape}: the reward's is {self.reward.shape}")
        if not np.isfinite(self.reward).all():
            raise ValueError(f"the reward is not finite:\n{self.reward}")
        for name in ("start", "transition"):
            p = getattr(self, name)
            if not ((p >= 0).all() and np.allclose(p.sum(-1), 1, rtol=0, atol=1e-9)):
                raise ValueError(f"{name} is no probability, at least 0 and with the sum 1 over the last axis:\n{p}")
        if self.start[self.terminal].any():
            raise ValueError(f"a trajectory may start in a terminal state: start is {self.start}, terminal {terminal}")
        if self.horizon < 1:
            raise ValueError(f"the horizon is {self.horizon}, wanted at least 1")

    @property
    def states(self) -> int:
        return self.reward.shape[0]

    @property
    def actions(self) -> int:
        return self.reward.shape[1]


def random(rng: np.random.Generator, states: int = 2, actions: int = 2, horizon: int = 3, discount: float = 0.9) -> MDP:
    """A process that starts in state 0, with transitions that are uniform on the simplex, and normal rewards.

    >>> from tinymaml.rl import tabular
    >>> mdp = tabular.random(np.random.default_rng(0), states=3, actions=2)
    >>> mdp.transition.shape, np.allclose(mdp.transition.sum(-1), 1)
    ((3, 2, 3), True)
    """
    transition = rng.dirichlet(np.ones(states), (states, actions))
    return MDP(np.eye(states)[0], transition, rng.standard_normal((states, actions)), horizon, discount)


def log_pi(theta, observations, actions):
    """log π(a|s) = θ_sa − log Σ_b exp θ_sb, of logits θ (…, S, A).

    >>> from tinymaml.rl.tabular import log_pi
    >>> theta = np.log([[1.0, 3.0], [1.0, 1.0]])  # logits of two actions in two states
    >>> np.exp(log_pi(theta, np.eye(2)[[0, 1]], np.array([1, 0]))).round(6)
    array([[0.75, 0.5 ]])
    """
    logits = observations @ theta[..., None, :, :]
    logits = logits - stop_gradient(np.max(logits, -1, keepdims=True))  # the shift cancels
    chosen = np.asarray(actions)[..., None] == np.arange(logits.shape[-1])
    return np.sum(chosen * logits, -1) - np.log(np.sum(np.exp(logits), -1))


# ── J, in two ways ──────────────────────────────────────────────────────────────────────────────────────────────────


def values(mdp: MDP, theta: Nest, policy: Policy = log_pi, lead: tuple[int, ...] = ()) -> list:
    """V_0, …, V_{H−1}, each (…, S): what is to come from a state on, at step t. `lead` are the leading axes of θ.

        V_H = 0,     V_t(s) = Σ_a π(a|s) [r(s, a) + γ Σ_s′ P(s′|s, a) V_{t+1}(s′)]                  (Bellman, 1957)

    >>> from tinymaml.rl import tabular
    >>> mdp = tabular.MDP(np.ones(1), np.ones((1, 2, 1)), np.array([[0.0, 1.0]]), horizon=3)  # action 1 pays 1
    >>> [v.tolist() for v in tabular.values(mdp, np.zeros((1, 2)))]
    [[1.5], [1.0], [0.5]]
    """
    states, actions = mdp.reward.shape
    observations = np.broadcast_to(np.eye(states)[:, None], (*lead, states, actions, states))
    pi = np.exp(policy(theta, observations, np.broadcast_to(np.arange(actions), (*lead, states, actions))))
    pi = pi * ~mdp.terminal[:, None]
    found = [np.sum(pi * mdp.reward, -1)]
    for _ in range(mdp.horizon - 1):
        # V_t(s) = Σ_a π(a|s) [r(s, a) + γ Σ_s′ P(s′|s, a) V_{t+1}(s′)]
        after = np.sum(mdp.transition * found[0][..., None, None, :], -1)
        found.insert(0, np.sum(pi * (mdp.reward + mdp.discount * after), -1))
    return found


def expected_return(mdp: MDP, theta: Nest, policy: Policy = log_pi, lead: tuple[int, ...] = ()):
    """J(θ) = E Σ_t γᵗ r_t = Σ_s start(s) V_0(s): a scalar, or of the shape `lead`, the leading axes of θ.

    >>> from tinymaml.rl import tabular
    >>> mdp = tabular.MDP(np.ones(1), np.ones((1, 2, 1)), np.array([[0.0, 1.0]]), horizon=3)  # action 1 pays 1
    >>> tm.value_and_grad(lambda theta: tabular.expected_return(mdp, theta))(np.zeros((1, 2)))
    (array(1.5), array([[-0.75,  0.75]]))
    """
    return np.sum(mdp.start * values(mdp, theta, policy, lead)[0], -1)


def every_trajectory(mdp: MDP, baseline: np.ndarray | None = None) -> tuple[dict, np.ndarray]:
    """All M trajectories that can be, and what the process contributes to the probability of each.

    Args:
        baseline: b(t, s), (H, S), which is subtracted from the returns in `advantages`. None: 0. `values` is the usual
            one, held constant.

    Returns:
        A batch (see `tinymaml.rl`; without `logp`, which is the policy's), and `chance`, (M,): the product of the
        probabilities of the start and of the transitions. The state after the last action is not part of a trajectory.

    >>> from tinymaml.rl import tabular
    >>> mdp = tabular.random(np.random.default_rng(0), states=2, actions=2, horizon=2)
    >>> batch, chance = tabular.every_trajectory(mdp)  # 2 actions, then 2 states, then 2 actions
    >>> theta = np.zeros((2, 2))
    >>> len(chance), np.sum(chance * np.exp(tabular.log_probability(theta, batch))).round(6)
    (8, np.float64(1.0))
    """
    paths: list[tuple[list, list, float]] = [([s], [], p) for s, p in enumerate(mdp.start) if p > 0]
    for t in range(mdp.horizon):
        paths = [([*states, to], [*actions, a], chance * p) for states, actions, chance in paths
                 for a, to, p in _next(mdp, states[-1], t)]  # fmt: skip
    states = np.array([states[:-1] for states, _, _ in paths])
    actions = np.array([actions for _, actions, _ in paths])
    return batch_of(mdp, states, actions, baseline), np.array([chance for _, _, chance in paths])


def _next(mdp: MDP, state: int, t: int):
    """(action, next state, its probability): all that can follow; one of them, when nothing depends on it any more."""
    if mdp.terminal[state]:
        return [(0, state, 1.0)]
    if t == mdp.horizon - 1:
        return [(a, state, 1.0) for a in range(mdp.actions)]
    return [(a, to, p) for a in range(mdp.actions) for to, p in enumerate(mdp.transition[state, a]) if p > 0]


def batch_of(mdp: MDP, states: np.ndarray, actions: np.ndarray, baseline: np.ndarray | None) -> dict:
    mask = 1.0 - mdp.terminal[states]
    rewards = mdp.reward[states, actions] * mask
    baseline = np.zeros((mdp.horizon, mdp.states)) if baseline is None else np.asarray(baseline, float)
    if baseline.shape != (mdp.horizon, mdp.states):
        raise ValueError(f"a baseline of shape {baseline.shape}, wanted (horizon, states), {(mdp.horizon, mdp.states)}")
    values = baseline[np.arange(mdp.horizon), states] * mask
    return dict(
        observations=np.eye(mdp.states)[states], actions=actions, rewards=rewards, mask=mask, values=values,
        advantages=worth.gae(rewards, values, mask, mdp.discount),
    )  # fmt: skip


def log_probability(theta: Nest, batch: dict, policy: Policy = log_pi):
    """Σ_t log π(a_t|s_t) of each trajectory, (…, N).

    >>> from tinymaml.rl import tabular
    >>> mdp = tabular.MDP(np.ones(1), np.ones((1, 2, 1)), np.array([[0.0, 1.0]]), horizon=2)
    >>> np.exp(tabular.log_probability(np.zeros((1, 2)), tabular.every_trajectory(mdp)[0])).round(6)
    array([0.25, 0.25, 0.25, 0.25])
    """
    return np.sum(policy(theta, batch["observations"], batch["actions"]) * batch["mask"], -1)


def returns(mdp: MDP, batch: dict) -> np.ndarray:
    """R = Σ_t γᵗ r_t of each trajectory, (…, N).

    >>> from tinymaml.rl import tabular
    >>> mdp = tabular.MDP(np.ones(1), np.ones((1, 2, 1)), np.array([[0.0, 1.0]]), horizon=2, discount=0.5)
    >>> tabular.returns(mdp, tabular.every_trajectory(mdp)[0])
    array([0. , 0.5, 1. , 1.5])
    """
    return np.sum(mdp.discount ** np.arange(mdp.horizon) * batch["rewards"], -1)


def sample(
    mdp: MDP, rng: np.random.Generator, theta: Nest, count: int | tuple[int, ...], policy: Policy = log_pi,
    baseline: np.ndarray | None = None,
) -> dict:  # fmt: skip
    """A batch of `count` trajectories, drawn from all of them by P(τ); a tuple gives leading axes.

    >>> from tinymaml.rl import tabular
    >>> mdp = tabular.random(np.random.default_rng(0), states=2, actions=2, horizon=3)
    >>> batch = tabular.sample(mdp, np.random.default_rng(1), np.zeros((2, 2)), count=20)
    >>> batch["observations"].shape, batch["logp"].shape
    ((20, 3, 2), (20, 3))
    """
    batch, chance = every_trajectory(mdp, baseline)
    p = chance * np.exp(log_probability(theta, batch, policy))
    drawn = rng.choice(len(p), count, p=p / p.sum())
    batch["logp"] = policy(theta, batch["observations"], batch["actions"])
    return {name: x[drawn] for name, x in batch.items()}


# ── the process as an environment ───────────────────────────────────────────────────────────────────────────────────


class TabularEnvironment:
    """`num_envs` independent runs of a process, with the interface of Gymnasium's vector environments.

    Observations are one-hot, (num_envs, S) floats, actions (num_envs,) integers. The horizon belongs to the process, so
    its end is `terminated`, and never `truncated`. An episode that has ended stays as it is, with rewards of 0, until
    `reset`.

    >>> from tinymaml.rl import tabular
    >>> environment = tabular.TabularEnvironment(tabular.random(np.random.default_rng(0), states=3), num_envs=5)
    >>> observations, _ = environment.reset(seed=0)
    >>> observations, rewards, terminated, truncated, _ = environment.step(np.zeros(5, int))
    >>> observations.shape, rewards.shape, terminated.any()
    ((5, 3), (5,), np.False_)
    """

    def __init__(self, mdp: MDP, num_envs: int = 1, seed: int | None = None):
        if num_envs < 1:
            raise ValueError(f"num_envs is {num_envs}, wanted at least 1")
        self.mdp, self.num_envs, self.rng = mdp, num_envs, np.random.default_rng(seed)
        self.states: Any = None  # (num_envs,) integers, from the first reset on
        self.observation_shape, self.choices = (mdp.states,), mdp.actions  # as `environments` wants them

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        """(observations, {}): all runs begin anew. A seed makes what follows reproducible."""
        if seed is not None:
            self.rng = np.random.default_rng(seed)
        self.states, self.time = self._drawn(np.broadcast_to(self.mdp.start, (self.num_envs, self.mdp.states))), 0
        return self._observed(), {}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict]:
        """(observations, rewards, terminated, truncated, {}), each with the first axis num_envs.

        Raises:
            RuntimeError: before the first reset.   ValueError: actions of another shape, or out of range.
        """
        if self.states is None:
            raise RuntimeError("step was called before reset")
        actions = np.asarray(actions)
        if actions.shape != (self.num_envs,) or actions.dtype.kind not in "iu":
            seen = f"shape {actions.shape} and dtype {actions.dtype}"
            raise ValueError(f"actions have {seen}, wanted ({self.num_envs},) integers")
        if not ((actions >= 0) & (actions < self.mdp.actions)).all():
            raise ValueError(f"actions are {actions}, wanted 0 … {self.mdp.actions - 1}")
        runs = ~self._ended()
        rewards = np.where(runs, self.mdp.reward[self.states, actions], 0.0)
        drawn = self._drawn(self.mdp.transition[self.states, actions])
        self.states, self.time = np.where(runs, drawn, self.states), self.time + 1
        return self._observed(), rewards, self._ended(), np.zeros(self.num_envs, bool), {}

    def _ended(self) -> np.ndarray:
        return self.mdp.terminal[self.states] | (self.time >= self.mdp.horizon)

    def _observed(self) -> np.ndarray:
        return np.eye(self.mdp.states)[self.states]

    def _drawn(self, probabilities: np.ndarray) -> np.ndarray:
        """One state of each row, by its probabilities: the first whose cumulative probability exceeds u ~ U[0, 1)."""
        edges = np.cumsum(probabilities, -1)
        edges /= edges[:, -1:]
        return np.sum(self.rng.random((self.num_envs, 1)) >= edges, -1)
