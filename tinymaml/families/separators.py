"""Few-shot binary classification: on which side of a plane does a point of a space of 10 dimensions lie?

    family = SeparatorTasks(features=10, directions=2, shots=10)
    (xs, ys), (xq, yq) = family.sample(rng, 25, "train")

A task has a random point p ~ N(0, I), through which its boundary goes, and a unit normal n. Points are x = p + z with
z ~ N(0, I), and the label y is 1 where n·z > 0, otherwise 0: either has probability ½.

10 points say little of a normal in 10 dimensions. But the normals of all tasks lie in one subspace of 2 dimensions,
uniformly over its directions; 10 points say much of an angle. The subspace is what there is to learn from other tasks.
With `directions` = `features` there is nothing of this kind.

The network gives logits, and the loss is `nn.binary_cross_entropy`, which takes logits. (A loss that wants
probabilities, as PyTorch's `BCELoss`, would be wrong here.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from ..runs.settings import option
from .common import accuracy, binary_classification, check_counts, check_draw, check_dtype

RIDGES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # of which the baselines take the best on training tasks

defaults: dict[str, Any] = dict(
    network="mlp", hidden=(10,), inner_steps=10, inner_lr=0.4, meta_lr=0.01, decay=1000, tasks=25, iterations=10000,
    save_every=1000, validate_every=500,
)  # fmt: skip

defaults_for: dict[str, dict[str, Any]] = {"imaml": dict(strength=0.1), "proximal": dict(strength=0.1)}


@dataclass(frozen=True)
class Settings:
    """Options of separators."""

    features: int = option(10, "dimensions of a point", least=1, most=10**6)
    directions: int = option(2, "dimensions of the subspace that all normals lie in", least=1)
    shots: int = option(10, "support points of each task, of both sides together", least=1)
    queries: int = option(20, "query points of each task", least=1)
    flips: float = option(0.0, "probability that a label is flipped, in support and query; below 0.5", least=0)


def make(settings: Settings) -> SeparatorTasks:
    """The family with these settings."""
    s = settings
    return SeparatorTasks(s.features, s.directions, s.shots, s.queries, s.flips)


def pictures(learned) -> Iterator[tuple[str, Any]]:
    """Test tasks in a plane through the true normal, with the boundary before and after adaptation."""
    from ..pictures import cuts

    def truth(rng):
        normals, points = learned.learner.family.boundaries(rng, 1)
        return normals[0], points[0]

    yield "separators", cuts.boundaries(learned, truth)


class SeparatorTasks:
    """Binary classification of `queries` points by `shots` others.

    The tasks are endless: "train", "val" and "test" are the same distribution, told apart by the generator's seed.

    Attributes:
        subspace: orthonormal columns (features, directions), which span the normals of all tasks. It depends on these
            two numbers alone, so it is the same in all splits and runs.
    """

    metric = accuracy(2)
    outputs = 1
    loss = staticmethod(binary_classification)

    def __init__(
        self, features: int = 10, directions: int = 2, shots: int = 10, queries: int = 20, flips: float = 0.0,
        dtype: DTypeLike = np.float32,
    ) -> None:  # fmt: skip
        check_counts(features=features, directions=directions, shots=shots, queries=queries)
        if directions > features:
            raise ValueError(f"directions={directions}; wanted at most features={features}")
        if not 0 <= flips < 0.5:
            raise ValueError(f"flips={flips}; wanted a probability below 0.5")
        self.features, self.directions, self.shots, self.queries = features, directions, shots, queries
        self.flips, self.dtype = flips, check_dtype(dtype)
        self.input_shape = (features,)
        self.subspace = np.linalg.qr(np.random.default_rng(0).standard_normal((features, directions)))[0]

    def sample(self, rng: np.random.Generator, tasks: int, split: str = "train") -> tuple:
        """((xs, ys), (xq, yq)): support x (tasks, shots, features) and y (tasks, shots, 1), and `queries` of each.

        y is 0 or 1, of the dtype of x.
        """
        check_draw(tasks, split)
        return self.batch(rng, *self.boundaries(rng, tasks))

    def boundaries(self, rng: np.random.Generator, tasks: int) -> tuple[np.ndarray, np.ndarray]:
        """Draw the boundaries of `tasks` tasks: the unit normal and a point of each, (tasks, features)."""
        normals = rng.standard_normal((tasks, self.directions)) @ self.subspace.T
        points = rng.standard_normal((tasks, self.features))
        return normals / np.linalg.norm(normals, axis=1, keepdims=True), points

    def batch(self, rng: np.random.Generator, normals: np.ndarray, points: np.ndarray) -> tuple:
        """Points about chosen boundaries, as `sample` returns them."""

        def labelled(count: int) -> tuple[np.ndarray, np.ndarray]:
            z = rng.standard_normal((len(normals), count, self.features))
            y = z @ normals[:, :, None] > 0
            y ^= rng.random(y.shape) < self.flips
            return (points[:, None] + z).astype(self.dtype), y.astype(self.dtype)

        return labelled(self.shots), labelled(self.queries)

    def baselines(self) -> dict[str, Callable]:
        """Logistic regression of one task: by its support set alone, and with a prior that training tasks give.

        The prior is w ~ N(0, Σ / ridge), where Σ is the mean of n nᵀ over training tasks, and n the unit normal that
        logistic regression finds on all points of a task. (Without it, Σ = I.) Each ridge is tuned on training tasks.
        That prior is told what MAML must find out: that boundaries are planes, and that normals have something in
        common.
        """
        rng = np.random.default_rng(0)
        (xs, ys), (xq, yq) = self.sample(rng, 1000, "train")
        x, y = (np.concatenate(both, 1).astype(float) for both in ((xs, xq), (ys, yq)))
        normals = logistic(centred(x, x), y, ridge=0.1)[:, :-1, 0]
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        values, vectors = np.linalg.eigh(normals.T @ normals / len(normals))
        # w = Σ^½ v with v ~ N(0, I / ridge): the inputs Σ^½ x, with the plain ridge; Σ is scaled to the norm 1
        roots = {"logistic regression on the support set": np.eye(self.features),
                 "logistic regression, prior learned": vectors * np.sqrt(values / values[-1]) @ vectors.T}  # fmt: skip
        tuning = self.sample(rng, 1000, "train")
        return {label: partial(logits, root=root, ridge=tuned_ridge(tuning, root)) for label, root in roots.items()}


# ── logistic regression, of one task or of many, stacked on the first axis ──────────────────────────────────────────


def logits(xs: np.ndarray, ys: np.ndarray, xq: np.ndarray, root: np.ndarray, ridge: float) -> np.ndarray:
    """The logits (…, queries, 1) of queries by logistic regression of the support set, with the inputs x · root."""
    xs, xq = xs.astype(float) @ root, xq.astype(float) @ root
    return centred(xq, xs) @ logistic(centred(xs, xs), ys, ridge)


def centred(x: np.ndarray, support: np.ndarray) -> np.ndarray:
    """(x − the mean of the support, 1): (…, examples, features + 1). The boundary is likely near that mean."""
    x = x - support.mean(-2, keepdims=True)
    return np.concatenate([x, np.ones_like(x[..., :1])], -1)


def logistic(x: np.ndarray, y: np.ndarray, ridge: float, steps: int = 30) -> np.ndarray:
    """The w (…, features, 1) with the least Σ −y log p − (1 − y) log(1 − p) + ridge/2 ‖w‖², p = sigmoid(x w).

    By Newton's method (iteratively reweighted least squares), from w = 0, until no element moves by more than 1e-8;
    the next step would be of the order of rounding. There are at most `steps`.

    >>> from tinymaml.families.separators import logistic
    >>> x, y = np.ones((4, 1)), np.array([[1.0], [1.0], [1.0], [0.0]])  # three of four are 1
    >>> w = logistic(x, y, ridge=1e-9)
    >>> tm.nn.sigmoid(w).round(6)
    array([[0.75]])
    """
    w, transposed = np.zeros((*x.shape[:-2], x.shape[-1], 1)), x.swapaxes(-1, -2)
    for _ in range(steps):
        # w ← w − H⁻¹ g,   g = xᵀ(p − y) + ridge w,   H = xᵀ diag(p (1 − p)) x + ridge I
        p = 1 / (1 + np.exp(-x @ w))
        gradient = transposed @ (p - y) + ridge * w
        hessian = transposed @ (p * (1 - p) * x) + ridge * np.eye(x.shape[-1])
        step = np.linalg.solve(hessian, gradient)
        w = w - step
        if np.max(np.abs(step), initial=0) < 1e-8:
            break
    return w


def tuned_ridge(tasks: tuple, root: np.ndarray) -> float:
    """Of RIDGES the one with the best accuracy on the queries of these tasks."""
    (xs, ys), (xq, yq) = tasks
    return max(RIDGES, key=lambda ridge: np.mean((logits(xs, ys, xq, root, ridge) > 0) == (yq > 0.5)))
