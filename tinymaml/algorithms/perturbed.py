"""MAML whose inner steps are perturbed: a regulariser, noise, sharpness. For the noise drawn, the gradient is exact.

    θₖ₊₁ = θₖ − α [g(θₖ + σ ξₖ + ρ ĝ) + τ ζₖ],   g = ∇ (L_s(φ) + λ/2 ‖φ − θ‖²),   ĝ = g/‖g‖ at θₖ + σ ξₖ
    F(θ) = L_q(θ_K) + c/2 ‖θ‖²

- Regulariser: λ is the pull of iMAML's inner problem, here gone back through step by step; c is a weight decay outside.
- Noise: ξ, ζ ~ N(0, I), new at each step. `noise` draws them, so that they are data of the task; evaluation has none.
- Label noise (Rajendran, Irpan and Jang, NeurIPS 2020): support and query share it. Numbers get one offset per task and
  output; classes are permuted, with the probability `label_noise`.
- Sharpness inside (Abbas et al., ICML 2022, Sharp-MAML "low"): the derivative goes through ĝ and its norm, as in their
  code. ρ is 5e-4 in its README, .05 by its default. A note on arXiv corrects the published gain from 12 to 3 %.
- Sharpness outside ("up") wants the mean gradient over tasks: `sharpened` wraps the function of the outer loop.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..engine import value_and_grad
from ..nest import tree_map
from ..runs.settings import option
from . import inner
from .inner import descend, dot, init, nth, plus, support_gradient  # noqa: F401
from .proximal import proximal

exact = True


@dataclass(frozen=True)
class Settings(inner.Settings):
    strength: float = option(0.0, "λ, strength of the pull to θ in the inner loss", least=0)
    outer_decay: float = option(0.0, "c of the weight decay c/2 ‖θ‖² outside", least=0)
    parameter_noise: float = option(0.0, "standard deviation of the noise in θₖ where a gradient is taken", least=0)
    gradient_noise: float = option(0.0, "standard deviation of the noise in the inner gradients", least=0)
    label_noise: float = option(0.0, "standard deviation of a task's offset; of classes, how often to permute", least=0)
    inner_sharpness: float = option(0.0, "ρ, length of the step uphill to where the inner gradient is taken", least=0)


def noise(rng, meta, support, query, settings):
    """Draw the noise that `settings` ask for: "parameters", "gradients" (a nest per step), "labels" (of both sets)."""
    normal = lambda p: np.asarray(rng.standard_normal(p.shape), p.dtype)  # noqa: E731
    nests = lambda: [tree_map(normal, meta) for _ in range(settings.inner_steps)]  # noqa: E731
    drawn = {"parameters": nests()} if settings.parameter_noise else {}
    drawn |= {"gradients": nests()} if settings.gradient_noise else {}
    return drawn | ({"labels": label_noise(rng, support[-1], query[-1], settings)} if settings.label_noise else {})


def label_noise(rng, ys, yq, settings):
    """Draw the numbers that are added to the labels ys and yq, each an array of floats, or of integers from 0."""
    if ys.dtype.kind == "f":
        offset = np.asarray(settings.label_noise * rng.standard_normal(ys.shape[1:]), ys.dtype)
        return offset, offset
    classes = np.arange(max(ys.max(), yq.max()) + 1)
    permuted = (rng.permutation(classes) if rng.random() < settings.label_noise else classes).astype(ys.dtype)
    return permuted[ys] - ys, permuted[yq] - yq


def adapt(loss, theta, support, settings, noise=None):
    noise = noise or {}

    def gradient(loss, at, support, k):
        if "parameters" in noise:
            at = plus(at, settings.parameter_noise, noise["parameters"][k])
        if settings.inner_sharpness:
            at = uphill(at, support_gradient(loss, at, support, k), settings.inner_sharpness)
        grads = support_gradient(loss, at, support, k)
        return plus(grads, settings.gradient_noise, noise["gradients"][k]) if "gradients" in noise else grads

    return descend(proximal(loss, theta, settings.strength), theta, support, settings, gradient)


def of_task(loss, theta, support, query, settings, noise=None):
    if noise and "labels" in noise:
        support, query = ((*data[:-1], data[-1] + n) for data, n in zip((support, query), noise["labels"], strict=True))

    def objective(theta):
        value, aux = loss(nth(adapt(loss, theta, support, settings, noise), settings.inner_steps), *query)
        return (value + settings.outer_decay / 2 * dot(theta, theta) if settings.outer_decay else value), aux

    return value_and_grad(objective, has_aux=True)(theta)


def uphill(theta, grads, radius):
    """θ + ρ g/‖g‖; where g is 0, θ, and the derivative is finite.

    >>> from tinymaml.algorithms.perturbed import uphill
    >>> uphill(np.zeros(2), np.array([30.0, 40.0]), 1.0).round(6)
    array([0.6, 0.8])
    """
    return plus(theta, radius / np.sqrt(dot(grads, grads) + 1e-24), grads)


def sharpened(f, radius):
    """`f(meta, tasks, *shared)` → (value, G), with G taken at meta + ρ G/‖G‖, on the same tasks.

    >>> from tinymaml.algorithms.perturbed import sharpened
    >>> square = lambda w, tasks: tm.value_and_grad(lambda w: w * w)(w)
    >>> square(3.0, None), sharpened(square, 0.5)(3.0, None)  # the slope at 3, and at 3 + 0.5
    ((array(9.), array(6.)), (array(9.), array(7.)))
    """

    def g(meta, tasks, *shared):
        value, grads = f(meta, tasks, *shared)
        return value, f(uphill(meta, grads, radius), tasks, *shared)[1]

    return g
