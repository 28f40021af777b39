"""iMAML (Rajeswaran, Finn, Kakade and Levine, NeurIPS 2019): the gradient at the end of the inner loop, not through it.

    φ* = argmin_φ L_s(φ) + λ/2 ‖φ − θ‖²        (equation 3)
    G = (I + H/λ)⁻¹ g_q(φ*) = λ (H + λI)⁻¹ g_q,   H = ∇²L_s(φ*)        (lemma 1)

G depends on φ* alone, not on the way to it: any inner optimiser will do, and memory does not grow with its steps. G is
exact if ∇L_s(φ) = λ (θ − φ), which enough `inner_steps` bring about, and if I + H/λ is solved for:

    cg        conjugate gradients from g_q: exact after as many steps as there are parameters, for positive H + λI. They
              end at a direction of no positive curvature (λ is then too small), as in Steihaug (1983)
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
    solver_steps: int = option(5, "steps of the solver, each with a product with the Hessian", least=1)


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
    """x ≈ A⁻¹ g for `times(v)` = A v, symmetric and positive (Hestenes and Stiefel, 1952), from x = g.

    >>> from tinymaml.algorithms.imaml import conjugate_gradients
    >>> A, g = np.array([[3.0, 1.0], [1.0, 2.0]]), np.array([4.0, 3.0])  # A (1, 1) = g
    >>> conjugate_gradients(lambda v: A @ v, g, 2).round(6)  # two steps solve two equations
    array([1., 1.])
    """
    x, r, going = g, plus(g, -1, times(g)), True
    p, rr = r, dot(r, r)
    for _ in range(steps):
        q = times(p)
        curvature = dot(p, q)
        going = np.logical_and(going, curvature > 0)  # it is 0 when nothing is left to solve
        a = np.where(going, rr / np.where(going, curvature, 1), 0)
        x, r = plus(x, a, p), plus(r, -a, q)
        rr, before = dot(r, r), rr
        p = plus(r, rr / np.where(before > 0, before, 1), p)
    return x


def neumann(times, g, steps, rate):
    """x ≈ A⁻¹ g for `times(v)` = A v: rate Σⱼ (I − rate A)ʲ g, j < steps. It converges if the rate is below 2 / ‖A‖.

    >>> from tinymaml.algorithms.imaml import neumann
    >>> [float(neumann(lambda v: 4 * v, np.array(1.0), steps, rate=0.125)) for steps in (1, 2, 3)]  # it goes to 1/4
    [0.125, 0.1875, 0.21875]
    """
    x = tree_map(lambda g: rate * g, g)
    for _ in range(steps - 1):
        x = plus(x, rate, plus(g, -1, times(x)))
    return x
