"""Few-shot regression of lines, y = w·x + b, where the minimiser of the meta-loss is known in closed form.

    family = LineTasks(features=1, shots=5)
    (xs, ys), (xq, yq) = tasks = family.sample(rng, 20, "train")
    family.minimiser                                       # θ* = (w, b) of all tasks that there may be
    minimiser(tasks, inner_lr=0.2, inner_steps=5)          # θ* of these tasks

A task is y = θₜ·x̃ + ε with x̃ = (x, 1), θₜ ~ N(μ, spread² I), ε ~ N(0, noise²), and each x in [−2, 2]. μ is the line
y = 2x + 1 of many tutorials; with more features, each weight is 2 on average.

The meta-loss is quadratic. A loss ‖X̃θ − y‖² / N has the gradient Hθ − c, with H = 2 X̃ᵀX̃ / N and c = 2 X̃ᵀy / N. So K
steps of SGD on the support set (s) are an affine map, and the gradient of the query loss (q) through them is one, too:

    θ_K = Mθ + m,   M = (I − αH_s)ᴷ,   m = α Σ_{k<K} (I − αH_s)ᵏ c_s
    ∇𝓛(θ) = mean_t M (H_q (Mθ + m) − c_q) = Aθ − r,   θ* = A⁻¹ r                         (M is symmetric)

Inputs and noise do not depend on the line, so E[c | X] = H μ, E[m | X] = (I − M) μ, and E[r] = E[A] μ. The minimiser
for all tasks is therefore θ* = μ, whatever α and K are. It is that of FOMAML, Reptile and joint training as well.

The gradient of a few tasks at μ is not 0, but about 1/√tasks. So training tasks come in pairs (antithetic variates,
Hammersley and Morton, 1956): a line θₜ and its mirror image 2μ − θₜ, with the same inputs, and with noise ε and −ε.
Each is distributed as before, but r = Aμ now holds for any batch of pairs. The gradient at μ is 0, and SGD at a
constant rate converges to μ linearly, although no task is seen twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from ..runs.settings import option
from .common import MSE, check_counts, check_draw, check_dtype, regression

WEIGHT, INTERCEPT, X = 2.0, 1.0, (-2.0, 2.0)

defaults: dict[str, Any] = dict(
    network="linear", inner_steps=5, inner_lr=0.2, optimizer="sgd", schedule="constant", meta_lr=0.5, tasks=20,
    iterations=1000, save_every=500, validate_every=250, dtype="float64",
)  # fmt: skip

# With λ = 2 noise² / (shots spread²), the proximal inner problem, L_s + λ/2 ‖θ − μ‖², has the posterior mean as its
# solution. An algorithm whose loss is not quadratic in all that it learns needs smaller outer steps.
defaults_for: dict[str, dict[str, Any]] = {
    "imaml": dict(strength=0.1),
    "proximal": dict(strength=0.1),
    "meta-sgd": dict(inner_lr=0.1, optimizer="adam", meta_lr=0.01),
    "cavia": dict(inner_lr=0.2, optimizer="adam", meta_lr=0.01),
}


@dataclass(frozen=True)
class Settings:
    """Options of lines."""

    features: int = option(1, "numbers per input", least=1, most=10**6)
    shots: int = option(5, "support points of each line", least=1)
    queries: int = option(10, "query points of each line", least=1)
    spread: float = option(1.0, "standard deviation of each weight and of the intercept over tasks", least=0)
    noise: float = option(0.5, "standard deviation of y about the line", least=0)
    pairs: bool = option(True, "training tasks come in mirrored pairs, of which the meta-gradient is 0 at θ*",
                         training=True)  # fmt: skip


def make(settings: Settings) -> LineTasks:
    """The family with these settings."""
    s = settings
    return LineTasks(s.features, s.shots, s.queries, s.spread, s.noise, s.pairs)


def pictures(learned) -> Iterator[tuple[str, Any]]:
    """Test lines, or for more features predictions against targets; and how θ approaches θ* in training."""
    from ..pictures import fits, waves

    family, config = learned.learner.family, learned.config
    if family.features == 1:
        yield "lines", waves.adaptation(learned, lambda rng: line(family.lines(rng, 1)[0]), X)
    else:
        yield "predictions", fits.predictions(learned)
    theta = {"linear0": {"w": family.minimiser[:-1, None], "b": family.minimiser[-1:]}}
    if fits.alike(learned.meta, theta):  # the network is linear, and what is learned is its θ
        training = {"mirrored pairs of tasks": True, "independent tasks": False}
        configs = {label: config.changed(pairs=pairs) for label, pairs in training.items()}
        yield "minimiser", fits.distances(learned, theta, configs)


def line(theta: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """x ↦ wx + b, for θ = (w, b)."""
    return lambda x: theta[0] * x + theta[1]


class LineTasks:
    """Regression from `shots` points of a line to `queries` others.

    The tasks are endless: "train", "val" and "test" are the same distribution, told apart by the generator's seed.

    Attributes:
        minimiser: θ* = μ, (features + 1,), float64: the weights, then the intercept.
    """

    metric = MSE
    outputs = 1
    loss = staticmethod(regression)

    def __init__(
        self, features: int = 1, shots: int = 5, queries: int = 10, spread: float = 1.0, noise: float = 0.5,
        pairs: bool = True, dtype: DTypeLike = np.float64,
    ) -> None:  # fmt: skip
        check_counts(features=features, shots=shots, queries=queries)
        self.features, self.shots, self.queries, self.dtype = features, shots, queries, check_dtype(dtype)
        self.spread, self.noise, self.pairs = spread, noise, pairs
        self.input_shape = (features,)
        self.minimiser = np.array([WEIGHT] * features + [INTERCEPT])

    def sample(self, rng: np.random.Generator, tasks: int, split: str = "train") -> tuple:
        """((xs, ys), (xq, yq)): support x (tasks, shots, features) and y (tasks, shots, 1), and `queries` of each.

        With `pairs`, the mirror images of the first half of the training tasks are the second half. An odd number
        leaves one task without.
        """
        check_draw(tasks, split)
        mirrored = tasks // 2 if self.pairs and split == "train" else 0
        return self.batch(rng, self.lines(rng, tasks - mirrored), mirrored)

    def lines(self, rng: np.random.Generator, tasks: int) -> np.ndarray:
        """Draw the lines of `tasks` tasks: θₜ, (tasks, features + 1)."""
        return self.minimiser + self.spread * rng.standard_normal((tasks, self.features + 1))

    def batch(self, rng: np.random.Generator, lines: np.ndarray, mirrored: int = 0) -> tuple:
        """Points of chosen lines, as `sample` returns them, and of the mirror images of the first `mirrored`."""

        def points(count: int) -> tuple[np.ndarray, np.ndarray]:
            x = rng.uniform(*X, (len(lines), count, self.features))
            noise = self.noise * rng.standard_normal((len(lines), count, 1))
            y = with_one(x) @ lines[:, :, None] + noise
            # (2μ − θₜ)·x̃ − ε = 2 μ·x̃ − y
            image = 2 * with_one(x) @ self.minimiser[:, None] - y
            x, y = (np.concatenate(both)[: len(lines) + mirrored] for both in ((x, x), (y, image)))
            return x.astype(self.dtype), y.astype(self.dtype)

        return points(self.shots), points(self.queries)

    def baselines(self) -> dict[str, Callable]:
        """Of one task. The posterior mean knows the distribution of lines and of noise: nothing has a smaller error."""

        def least_squares(xs, ys, xq):
            return with_one(xq) @ np.linalg.lstsq(with_one(xs), ys, rcond=None)[0]

        def posterior_mean(xs, ys, xq):
            # E[θₜ | X̃, y] = μ + s² X̃ᵀ (s² X̃X̃ᵀ + σ² I)⁻¹ (y − X̃μ), for the spread s and the noise σ
            x, mu = with_one(xs), self.minimiser[:, None]
            covariance = self.spread**2 * x @ x.T + self.noise**2 * np.eye(len(x))
            theta = mu + self.spread**2 * x.T @ np.linalg.pinv(covariance, hermitian=True) @ (ys - x @ mu)
            return with_one(xq) @ theta

        return {"least squares on the support set": least_squares, "posterior mean, the best possible": posterior_mean}


def with_one(x: np.ndarray) -> np.ndarray:
    """x̃ = (x, 1): (…, features + 1)."""
    return np.concatenate([x, np.ones_like(x[..., :1])], -1)


def quadratic(tasks: tuple, inner_lr: float, inner_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """(A, r), of the gradient ∇𝓛(θ) = Aθ − r of MAML's loss on these tasks, θ being (w, b).

    Args:
        tasks: ((xs, ys), (xq, yq)), x (tasks, examples, features) and y (tasks, examples, 1).
        inner_lr, inner_steps: α and K of SGD on the support set.

    Returns:
        A, (features + 1, features + 1), and r, (features + 1,), float64.
    """
    (h_s, c_s), (h_q, c_q) = (_normal(*part) for part in tasks)
    step = np.eye(h_s.shape[-1]) - inner_lr * h_s  # I − αH_s
    M, m = np.broadcast_to(np.eye(h_s.shape[-1]), h_s.shape), np.zeros_like(c_s)
    for _ in range(inner_steps):
        # θₖ₊₁ = (I − αH_s) θₖ + α c_s
        M, m = step @ M, step @ m + inner_lr * c_s
    # A = mean_t M H_q M,   r = mean_t M (c_q − H_q m)
    return (M @ h_q @ M).mean(0), (M @ (c_q - h_q @ m)).mean(0)[:, 0]


def minimiser(tasks: tuple, inner_lr: float, inner_steps: int) -> np.ndarray:
    """θ* = A⁻¹ r, (features + 1,): where MAML's loss on these tasks is least; arguments as of `quadratic`.

    Raises:
        numpy.linalg.LinAlgError: the tasks have too few queries to determine it.

    >>> from tinymaml.families import lines
    >>> x, y = np.random.default_rng(0).normal(size=(2, 8, 10, 1))  # 8 tasks of 10 examples
    >>> tasks = (x[:, :5], y[:, :5]), (x[:, 5:], y[:, 5:])
    >>> loss = lambda theta, x, y: np.mean((theta[0] * x + theta[1] - y) ** 2)
    >>> value, gradient = tm.meta_value_and_grad(loss, inner_lr=0.1)(lines.minimiser(tasks, 0.1, 1), tasks)
    >>> np.allclose(gradient, 0)
    True
    """
    return np.linalg.solve(*quadratic(tasks, inner_lr, inner_steps))


def _normal(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """H = 2 X̃ᵀX̃ / N and c = 2 X̃ᵀy / N of each task: the gradient of its mean squared error is Hθ − c."""
    x = with_one(np.asarray(x, float))
    transposed = 2 / x.shape[1] * x.swapaxes(1, 2)
    return transposed @ x, transposed @ y
