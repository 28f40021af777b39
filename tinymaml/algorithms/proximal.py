"""Meta-MinibatchProx (Zhou et al., NeurIPS 2019): θ moves to the proximal points of the tasks.

    w* = argmin_w L_s(w) + λ/2 ‖w − θ‖²,    G = λ (θ − w*)            (algorithm 1)

G is the gradient of the Moreau envelope min_w L_s(w) + λ/2 ‖w − θ‖², without second derivatives, and exact if w* is.
Here w* is what `inner_steps` steps from θ reach, so the error of G is λ times that of w*. Without the term in λ inside
and the factor λ this is Reptile. The query set does not enter G: its loss at w* is only reported.

Task-robust weights (TR-MAML: Collins, Mokhtari and Shakkottai, NeurIPS 2020, algorithm 1) serve any algorithm:

    min_θ max_{p ∈ Δ} Σᵢ pᵢ Fᵢ(θ):    p ← Proj_Δ(p + η F),   θ ← θ − β Σᵢ pᵢ ∇Fᵢ

In the paper p belongs to a finite set of tasks, and lasts. If tasks are drawn anew, each p starts from uniform weights.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass

import numpy as np

from ..nest import tree_map
from ..runs.settings import option
from . import inner
from .inner import descend, dot, init, nth, support_gradient  # noqa: F401

defaults = {"inner_steps": 16}


@dataclass(frozen=True)
class Settings(inner.Settings):
    strength: float = option(2.0, "λ, strength of the pull to θ in the inner problem", least=1e-6)
    tolerance: float = option(
        0.0, "inner gradients of at most this norm count as 0: SGD then stands still", least=0, most=1e100
    )


def proximal(loss, theta, strength):
    """The loss φ ↦ L(φ) + λ/2 ‖φ − θ‖²; for λ = 0 the loss itself."""

    def pulled(phi, *data):
        value, aux = loss(phi, *data)
        away = tree_map(operator.sub, phi, theta)
        return value + strength / 2 * dot(away, away), aux

    return pulled if strength else loss


def adapt(loss, theta, support, settings):
    """θ₀ = θ, θ₁, … → w*. The tolerance chooses between values, not between programs, so any program can hold it."""

    def gradient(loss, phi, support, k):
        grads = support_gradient(loss, phi, support, k)
        moving = dot(grads, grads) > settings.tolerance**2
        return tree_map(lambda g: np.where(moving, g, 0), grads) if settings.tolerance else grads

    return descend(proximal(loss, theta, settings.strength), theta, support, settings, gradient)


def of_task(loss, theta, support, query, settings):
    w = nth(adapt(loss, theta, support, settings), settings.inner_steps)
    # G = λ (θ − w*)
    return loss(w, *query), tree_map(lambda p, w: settings.strength * (p - w), theta, w)


def robust_weights(previous: np.ndarray, losses: np.ndarray, eta: float) -> np.ndarray:
    """Proj_Δ(p + η F): the weights of the tasks, (tasks,), after a step towards the greater `losses`, (tasks,).

    They are at least 0 and sum to 1. (The projection: Duchi et al., ICML 2008, figure 1.)

    >>> from tinymaml.algorithms.proximal import robust_weights
    >>> robust_weights(np.full(4, 0.25), np.array([1.0, 1.0, 1.0, 3.0]), eta=0.1).round(3)
    array([0.2, 0.2, 0.2, 0.4])
    """
    raised = previous + eta * np.asarray(losses)
    raised = raised - np.max(raised)  # which the projection undoes
    down = np.sort(raised)[::-1]
    # p = max(raised − τ, 0), with the τ for which Σ p = 1: the mean excess over 1 of the n greatest that stay above 0
    excess = (np.cumsum(down) - 1) / np.arange(1, down.size + 1)
    return np.maximum(raised - excess[down > excess][-1], 0)
