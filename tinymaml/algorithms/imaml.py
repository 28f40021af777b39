"""iMAML (Rajeswaran, Finn, Kakade and Levine, NeurIPS 2019): the gradient at the end of the inner loop, not through it.

    φ* = argmin_φ L_s(φ) + λ/2 ‖φ − θ‖²        (equation 3)
    G = (I + H/λ)⁻¹ g_q(φ*) = λ (H + λI)⁻¹ g_q,   H = ∇²L_s(φ*)        (lemma 1)

G depends on φ* alone, not on the way to it: any inner optimiser will do, and memory does not grow with its steps. G is
exact if ∇L_s(φ) = λ (θ − φ), which enough `inner_steps` bring about, and if I + H/λ is solved for:

    cg        conjugate gradients, for positive H + λI: exact after as many steps as there are parameters
    neumann   αλ Σⱼ (I − α(H + λI))ʲ g, j < J: what the last J steps of gradient descent at rate α contribute, if one
              goes back through them (Lorraine, Vicol and Duvenaud, AISTATS 2020)

The original code (aravindr93/imaml_dev) differs. It descends on L_s without the term in λ, and only then takes one step
on λ/2 ‖φ − θ‖². Its system is (1 + 1) I + H/(λ + 10), by dampings: for λ = 2 it solves 2 (I + H/24), and Adam outside
hides the factor. One step of its CG stands for FOMAML. This file follows the paper; λ is not learned.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..engine import hvp, value_and_grad
from ..nest import tree_map
from ..runs.settings import option
from . import proximal
from .inner import dot, init, nth, plus  # noqa: F401
from .proximal import adapt, defaults  # noqa: F401


@dataclass(frozen=True)
class Settings(proximal.Settings):
    solver: str = option("cg", "solver of the linear system of the implicit gradient", choices=("cg", "neumann"))
    solver_steps: int = option(5, "products with the Hessian that the solver uses", least=1)


def check(network, settings):
    if settings.inner_decay:
        raise ValueError(f"imaml: inner_decay is {settings.inner_decay}, wanted 0: strength is the only pull on φ*")


def of_task(loss, theta, support, query, settings):
    phi = nth(adapt(loss, theta, support, settings), settings.inner_steps)
    value, g = value_and_grad(loss, has_aux=True)(phi, *query)

    def times(v):
        # (I + H/λ) v
        return plus(v, 1 / settings.strength, hvp(lambda phi: loss(phi, *support)[0], (phi,), v))

    if settings.solver == "cg":
        return value, conjugate_gradients(times, g, settings.solver_steps)
    return value, neumann(times, g, settings.solver_steps, settings.inner_lr * settings.strength)


def conjugate_gradients(times, g, steps):
    """x ≈ A⁻¹ g for `times(v)` = A v, symmetric and positive (Hestenes and Stiefel, 1952)."""
    x, r, p, rr = tree_map(np.zeros_like, g), g, g, dot(g, g)
    for _ in range(steps):
        q = times(p)
        a = ratio(rr, dot(p, q))
        x, r = plus(x, a, p), plus(r, -a, q)
        rr, before = dot(r, r), rr
        p = plus(r, ratio(rr, before), p)
    return x


def ratio(a, b):
    """a / b; 0 where b is 0, as it is when nothing is left to solve."""
    return np.where(b == 0, 0, a / np.where(b == 0, 1, b))


def neumann(times, g, steps, rate):
    """x ≈ A⁻¹ g: rate Σⱼ (I − rate A)ʲ g, j from 0 to `steps` − 1; it converges if the rate is below 2 / ‖A‖."""
    x = tree_map(lambda g: rate * g, g)
    for _ in range(steps - 1):
        x = plus(x, rate, plus(g, -1, times(x)))
    return x
