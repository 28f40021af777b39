"""Policies: a distribution over actions, given an observation.

    policy = Gaussian(inputs=2, actions=2, hidden=(100, 100))
    theta = policy.init(rng, np.float32)
    actions = policy.sample(rng, theta, observations)            (…, M, d) → (…, M, a)
    logp = policy.logp(theta, observations, actions)             (…, M), differentiable
    divergence = policy.kl(policy.outputs(theta, observations), other, observations)         (…, M), of π_θ ‖ π_other

Gaussian     a ~ N(μ_θ(s), diag σ²),  σ = exp(max(log_std, log floor)); log_std is a leaf of θ, the same in all states
Categorical  a ~ softmax(z_θ(s))

μ and z are multilayer perceptrons. θ is {"linear0": {"w", "b"}, …}, and "log_std": (a,) of a Gaussian. Its leaves may
have leading axes (tasks), and then observations begin with the same ones: so all tasks act at once, each with its own
θ. Everything is composed of NumPy functions that the engine differentiates. Read next: `collect`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from .. import nn
from ..nest import Nest

Array = np.ndarray

ACTIVATIONS: dict[str, Callable] = {"relu": nn.relu, "tanh": np.tanh}


@dataclass(frozen=True, eq=False)
class MLP:
    """A multilayer perceptron whose parameters may have leading axes.

    Attributes:
        sizes: of the input, the hidden layers and the output.   activation: "relu" or "tanh", of hidden layers.
    """

    sizes: Sequence[int]
    activation: str = "relu"

    def init(self, rng: np.random.Generator, dtype: DTypeLike) -> dict[str, Any]:
        """Glorot's uniform weights, and biases of 0, as in the published code."""
        return {f"linear{i}": {"w": nn.glorot_uniform(rng, shape, dtype), "b": np.zeros(shape[1], dtype)}
                for i, shape in enumerate(zip(self.sizes, self.sizes[1:], strict=False))}  # fmt: skip

    def __call__(self, theta: Nest, x: Array) -> Array:
        """(…, M, d) → (…, M, outputs). x begins with the leading axes of θ."""
        lead = theta["linear0"]["w"].shape[:-2]
        rows = x.shape[len(lead) : -1]
        h = np.reshape(x, (*lead, math.prod(rows), x.shape[-1]))
        last = len(self.sizes) - 2
        for i in range(last + 1):
            layer = theta[f"linear{i}"]
            width = self.sizes[i + 1]
            h = h @ layer["w"] + (np.reshape(layer["b"], (*lead, 1, width)) if lead else layer["b"])
            h = h if i == last else ACTIVATIONS[self.activation](h)
        return np.reshape(h, (*lead, *rows, self.sizes[-1]))


@dataclass(frozen=True, eq=False)
class Gaussian:
    """Actions (…, a), real numbers.

    Attributes:
        inputs: d, numbers of an observation.   actions: a.   hidden: widths of hidden layers.
        activation: "relu" or "tanh".
        log_std: the logarithm of the standard deviation at the start.
        floor: the least standard deviation. Below it log_std has no gradient: the policy has collapsed, see `fault`.
        adapted: an inner step moves log_std, too.

    >>> from tinymaml.rl.policies import Gaussian
    >>> rng, policy = np.random.default_rng(0), Gaussian(inputs=3, actions=2)
    >>> theta, observations = policy.init(rng, np.float64), np.zeros((20, 3))
    >>> actions = policy.sample(rng, theta, observations)
    >>> actions.shape, policy.logp(theta, observations, actions).shape
    ((20, 2), (20,))
    """

    inputs: int
    actions: int
    hidden: tuple[int, ...] = (100, 100)
    activation: str = "relu"
    log_std: float = 0.0
    floor: float = 1e-6
    adapted: bool = True

    @property
    def fixed(self) -> tuple[str, ...]:
        """The top-level keys of θ that inner steps leave as they are."""
        return () if self.adapted else ("log_std",)

    def init(self, rng: np.random.Generator, dtype: DTypeLike) -> dict[str, Any]:
        return {**self._mean.init(rng, dtype), "log_std": np.full(self.actions, self.log_std, dtype)}

    def outputs(self, theta: Nest, observations: Array) -> dict[str, Array]:
        """{"mean": (…, M, a), "log_std": (…, a)}."""
        # σ = exp(max(log_std, log floor))
        log_std = np.maximum(theta["log_std"], math.log(self.floor))
        return {"mean": self._mean(theta, observations), "log_std": log_std}

    def noise(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
        """The noise of which `act` makes actions: standard normal numbers, for so many actions."""
        return rng.standard_normal((*shape, self.actions))

    def act(self, outputs: Nest, noise: Array) -> Array:
        """μ + σ ε, for noise (…, M, a)."""
        return outputs["mean"] + np.exp(_beside(outputs["log_std"], outputs["mean"])) * noise

    def sample(self, rng: np.random.Generator, theta: Nest, observations: Array) -> Array:
        outputs = self.outputs(theta, observations)
        return self.act(outputs, self.noise(rng, observations.shape[:-1]).astype(outputs["mean"].dtype))

    def logp(self, theta: Nest, observations: Array, actions: Array) -> Array:
        """log π_θ(a|s), (…, M)."""
        return self.density(self.outputs(theta, observations), actions)

    def density(self, outputs: Nest, actions: Array) -> Array:
        """The logarithm of the density at actions (…, M, a): (…, M)."""
        log_std = _beside(outputs["log_std"], outputs["mean"])
        z = (actions - outputs["mean"]) * np.exp(-log_std)
        # log N(a; μ, σ²) = Σ_j −½ z_j² − log σ_j − ½ log 2π,   z = (a − μ) / σ
        return np.sum(-0.5 * z * z - log_std - 0.5 * math.log(2 * math.pi), -1)

    def kl(self, outputs: Nest, theta: Nest, observations: Array) -> Array:
        """KL(π_old ‖ π_θ) in each state, (…, M), where `outputs` are those of the old policy there."""
        new = self.outputs(theta, observations)
        old_log, log = (_beside(x["log_std"], new["mean"]) for x in (outputs, new))
        moved = (outputs["mean"] - new["mean"]) * np.exp(-log)
        # Σ_j log σ_j − log σ°_j + (σ°_j² + (μ°_j − μ_j)²) / 2σ_j² − ½
        return np.sum(log - old_log + 0.5 * (np.exp(2 * (old_log - log)) + moved * moved) - 0.5, -1)

    def fault(self, theta: Nest) -> tuple[tuple[int, ...], str] | None:
        """The policy that cannot act, as an index of the leading axes, and the reason; None: all can act."""
        if found := _not_finite(theta):
            return found
        collapsed = np.argwhere(theta["log_std"] <= math.log(self.floor))
        if not len(collapsed):
            return None
        *lead, action = map(int, collapsed[0])
        std = np.exp(theta["log_std"][tuple(collapsed[0])])
        why = f"the policy's std of action {action} has collapsed: it is {std:.3g}, not above the floor {self.floor:g}"
        return tuple(lead), why

    @property
    def _mean(self) -> MLP:
        return MLP((self.inputs, *self.hidden, self.actions), self.activation)


@dataclass(frozen=True, eq=False)
class Categorical:
    """Actions (…), integers in 0 … choices − 1. Attributes as of `Gaussian`.

    >>> from tinymaml.rl.policies import Categorical
    >>> policy = Categorical(inputs=2, choices=3, hidden=())
    >>> theta = tm.tree_map(np.zeros_like, policy.init(np.random.default_rng(0), np.float64))
    >>> np.exp(policy.logp(theta, np.ones((1, 2)), np.array([0]))).round(6)  # zero logits make all alike
    array([0.333333])
    """

    inputs: int
    choices: int
    hidden: tuple[int, ...] = (100, 100)
    activation: str = "relu"

    fixed = ()

    def init(self, rng: np.random.Generator, dtype: DTypeLike) -> dict[str, Any]:
        return self._logits.init(rng, dtype)

    def outputs(self, theta: Nest, observations: Array) -> Array:
        """The logarithms of the probabilities, (…, M, choices)."""
        z = self._logits(theta, observations)
        z = z - np.max(z, -1, keepdims=True)
        # log softmax z
        return z - np.log(np.sum(np.exp(z), -1, keepdims=True))

    def noise(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
        """The noise of which `act` makes actions: uniform numbers in [0, 1), for so many actions."""
        return rng.random(shape)

    def act(self, outputs: Array, noise: Array) -> Array:
        """The first action up to which the probabilities exceed the noise (…, M)."""
        below = np.cumsum(np.exp(outputs), -1)[..., :-1] <= noise[..., None]
        return np.sum(below, -1)

    def sample(self, rng: np.random.Generator, theta: Nest, observations: Array) -> Array:
        return self.act(self.outputs(theta, observations), self.noise(rng, observations.shape[:-1]))

    def logp(self, theta: Nest, observations: Array, actions: Array) -> Array:
        """log π_θ(a|s), (…, M)."""
        return self.density(self.outputs(theta, observations), actions)

    def density(self, outputs: Array, actions: Array) -> Array:
        chosen = actions[..., None] == np.arange(self.choices)
        return np.sum(np.where(chosen, outputs, 0), -1)

    def kl(self, outputs: Array, theta: Nest, observations: Array) -> Array:
        """KL(π_old ‖ π_θ) = Σ_a p°_a (log p°_a − log p_a) in each state, (…, M)."""
        return np.sum(np.exp(outputs) * (outputs - self.outputs(theta, observations)), -1)

    def fault(self, theta: Nest) -> tuple[tuple[int, ...], str] | None:
        """As of `Gaussian`."""
        return _not_finite(theta)

    @property
    def _logits(self) -> MLP:
        return MLP((self.inputs, *self.hidden, self.choices), self.activation)


def _beside(log_std: Array, mean: Array) -> Array:
    """(*lead, a) → an array that broadcasts against the means (*lead, …, a)."""
    lead = log_std.shape[:-1]
    return np.reshape(log_std, (*lead, *[1] * (mean.ndim - log_std.ndim), log_std.shape[-1])) if lead else log_std


def _not_finite(theta: Nest) -> tuple[tuple[int, ...], str] | None:
    lead = theta["linear0"]["w"].ndim - 2
    for name, part in theta.items():
        for x in part.values() if isinstance(part, dict) else (part,):
            if not np.isfinite(x).all():
                return tuple(map(int, np.argwhere(~np.isfinite(x))[0][:lead])), f"the policy's {name} is not finite"
    return None
