"""MAML: learn θ from which a few gradient steps solve a new task (Finn, Abbeel, Levine, 2017).

    adapt(loss, θ, (x, y), ...)               θ′, after a few steps on one task: the inner loop
    meta_loss(loss, θ, tasks, ...)            the mean query loss of θ′ over tasks
    meta_value_and_grad(loss, ...)(θ, tasks)  that and its exact gradient, which differentiates through the inner loop

    θ₀ = θ,   θₖ₊₁ = θₖ − α g_s(θₖ),   𝓛(θ) = 1/T Σₜ L_q(θ_K)
    ∇𝓛(θ) = 1/T Σₜ (I − αH₀) (I − αH₁) ⋯ (I − αH_{K−1}) g_q(θ_K)

g_s and H are gradient and Hessian of the support loss. Nothing below computes a Hessian: an inner step is written with
`value_and_grad`, so it is made of records like any others, and the outer derivative goes back through it. First-order
MAML (FOMAML) leaves the H out. A `loss` is written for one task, in plain NumPy: `loss(params, x, y)` → a scalar.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable

import numpy as np

from . import diagnose, flat, inputs
from .engine import Tensor, stop_gradient, value_and_grad
from .inputs import arguments
from .nest import Nest, tree_map
from .numpy_api import as_array
from .per_task import over

Tasks = tuple | list  # (support, query), stacked; or a list of such pairs: see `inputs.as_tasks`
_quietly = np.errstate(all="ignore")  # what diverges is an error below, and says where


@_quietly
def adapt(
    loss: Callable, params: Nest, support: tuple, *, inner_lr: Nest, inner_steps: int, first_order: bool = False
) -> Nest:
    """θ_K: `inner_steps` gradient steps on one task's support set.

    Args:
        loss: `loss(params, *support)` → a scalar (shape ()).
        params: θ, a nest of floating-point arrays: dicts, lists, tuples and dataclasses.
        support: what the loss takes beside the parameters: (x, y), each (examples, …); or (x, y, mask), (x,), nests
            of arrays, or one dict or dataclass, see `inputs.as_tasks`. Arrays of JAX and PyTorch are taken, too.
        inner_lr: α, a number, or a nest of numbers or arrays like `params` (Meta-SGD); differentiable.
        inner_steps: K, at least 0.
        first_order: hold the inner gradients constant in a derivative of the result (FOMAML).

    Returns:
        A nest like `params`.

    Raises:
        TypeError: parameters that are not floating-point.
        ValueError: NaN or infinity in θ, α or the data; an empty support set.
        FloatingPointError: the inner loop diverged. All name what and where.

    >>> loss = lambda w, x, y: np.mean((w * x - y) ** 2)
    >>> tm.adapt(loss, np.array(0.0), (np.array([1.0]), np.array([2.0])), inner_lr=0.25, inner_steps=2)
    array(1.5)
    """
    inputs.check_settings(inner_lr, inner_steps)
    params, support = inputs.as_learned("params", params), inputs.as_set("the support set", support)
    adapted = _adapt(loss, params, inputs.read_only(support), inner_lr, inner_steps, first_order)
    inputs.check_arrays(adapted, f"after {inner_steps} inner steps, params")
    return adapted


def _adapt(loss, params, support, inner_lr, inner_steps, first_order):
    params = tree_map(lambda p: p if isinstance(p, Tensor) else np.array(p), params)
    alpha = inputs.rates_like(inner_lr, params)
    for k in range(inner_steps):
        params = inner_step(loss, params, support, alpha, first_order, k)
    return params


def inner_step(loss, params, support, alpha, first_order, k):
    """θₖ₊₁ after θₖ; with `first_order`, the gradient in it is held constant."""
    value, grads = value_and_grad(diagnose.looked_at(loss))(params, *arguments(support))
    at = loss, params, *arguments(support)
    inputs.check_converging(value, f"inner step {k}: the support loss", *at)
    inputs.check_arrays(grads, f"inner step {k}: the gradient of the support loss in params", *at)
    if first_order:
        grads = tree_map(stop_gradient, grads)
    # θₖ₊₁ = θₖ − α g_s(θₖ)
    return tree_map(lambda theta, a, g: as_array(theta - a * g), params, alpha, grads)


@_quietly
def meta_loss(
    loss: Callable, params: Nest, tasks: Tasks, *, inner_lr: Nest, inner_steps: int = 1, first_order: bool = False
):
    """𝓛(θ) = 1/T Σₜ L_q(θ_K), a scalar to be differentiated with respect to anything: θ, α, the data.

    Arguments and errors as in `meta_value_and_grad`. All tasks are in one graph: memory grows with their number.

    >>> tasks = (np.array([[2.0]]),), (np.array([[3.0]]),)  # one task: support 2, query 3
    >>> of = lambda lr: tm.meta_loss(lambda w, t: np.mean((w - t) ** 2), np.array(0.0), tasks, inner_lr=lr)
    >>> of(0.25), tm.grad(of)(0.25)  # θ′ = 4α: (4α − 3)² and its slope 8 (4α − 3)
    (np.float64(4.0), array(-16.))
    """
    inputs.check_settings(inner_lr, inner_steps)
    params = inputs.as_learned("params", params)
    losses = []
    for t, (support, query) in enumerate(map(inputs.read_only, inputs.as_tasks(tasks))):
        with inputs.in_task(t):
            adapted = _adapt(loss, params, support, inner_lr, inner_steps, first_order)
            losses.append(diagnose.looked_at(loss)(adapted, *arguments(query)))
            inputs.check_converging(losses[-1], "the query loss")
    # 1/T Σₜ L_q
    return functools.reduce(operator.add, losses) / len(losses)


def meta_value_and_grad(
    loss: Callable, *, inner_lr: Nest, inner_steps: int = 1, first_order: bool = False, has_aux: bool = False,
    memory: str = "unrolled",
) -> Callable[[Nest, Tasks], tuple]:  # fmt: skip
    """A function `(params, tasks)` → (𝓛(θ), ∇𝓛(θ)).

    Args:
        loss, inner_lr, inner_steps, first_order: as in `adapt`.
        has_aux: the loss returns (scalar, aux); the value is then the pair (𝓛, list of each task's aux at the query).
        memory: "unrolled" keeps the graphs of all K inner steps; "flat" keeps log₂ K of the θₖ and makes the
            others again on the way back, one graph at a time: equal to rounding, in memory that hardly grows with K.

    The function takes and returns what every function of `mean_over_tasks` does, with `params`, θ, for `meta`, and
    raises what it and `adapt` raise: the mean query loss after adaptation, and a gradient like θ. The gradient of a
    mean is the mean of the gradients, so each task has one of its own.

    >>> loss, tasks = lambda w, t: np.mean((w - t) ** 2), ((np.array([[2.0]]),), (np.array([[3.0]]),))
    >>> exact, fomaml = (tm.meta_value_and_grad(loss, inner_lr=0.25, first_order=x) for x in (False, True))
    >>> exact(np.array(0.0), tasks), fomaml(np.array(0.0), tasks)  # θ′ = 1: (1 − 2α) · 2 (1 − 3), and 2 (1 − 3)
    ((array(4.), array(-2.)), (array(4.), array(-4.)))
    """
    unrolled = Unrolled(loss, inner_steps, first_order, has_aux)
    return over(flat.per_task(unrolled, inner_step, inner_lr, memory))


@dataclasses.dataclass(frozen=True, eq=False)
class Unrolled:
    """What `meta_value_and_grad` does for one task: its settings; α comes with each call."""

    loss: Callable
    inner_steps: int
    first_order: bool
    has_aux: bool

    def of_task(self, params, support, query, inner_lr):
        """L_q(θ_K) of one task (with `has_aux`, a pair) and its gradient ∏(I − αHₖ) g_q."""
        support_loss = inputs.scalar_of(self.loss, self.has_aux)

        @functools.wraps(self.loss)  # errors give its name
        def query_loss(params):
            adapted = _adapt(support_loss, params, support, inner_lr, self.inner_steps, self.first_order)
            return diagnose.looked_at(self.loss)(adapted, *arguments(query))

        value, grads = value_and_grad(query_loss, has_aux=self.has_aux)(params)
        of = dict(has_aux=self.has_aux)
        inputs.check_converging(value[0] if self.has_aux else value, "the query loss", query_loss, params, **of)
        inputs.check_arrays(grads, "the meta-gradient of params", query_loss, params, **of)
        return value, grads
