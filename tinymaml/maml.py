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

import functools
import operator
from collections.abc import Callable

import numpy as np

from .engine import Tensor, stop_gradient, value_and_grad
from .inputs import as_tasks, check_arrays, check_converging, check_data, check_settings, rates_like, read_only
from .nest import Nest, tree_map
from .numpy_api import as_array

_quietly = np.errstate(all="ignore")  # what diverges is an error below, and says where


@_quietly
def adapt(
    loss: Callable, params: Nest, support: tuple, *, inner_lr: Nest, inner_steps: int, first_order: bool = False
) -> Nest:
    """θ_K: `inner_steps` gradient steps on one task's support set.

    Args:
        loss: `loss(params, *support)` → a scalar (shape ()).
        params: θ, a nest of floating-point arrays.
        support: what the loss takes beside the parameters: (x, y), each (examples, …).
        inner_lr: α, a number, or a nest of numbers or arrays like `params` (Meta-SGD); differentiable.
        inner_steps: K, at least 0.
        first_order: hold the inner gradients constant in a derivative of the result (FOMAML).

    Returns:
        A nest like `params`.

    Raises:
        TypeError: parameters that are not floating-point.
        ValueError: NaN or infinity in θ, α or the data; an empty support set.
        FloatingPointError: the inner loop diverged. All name what and where.
    """
    check_settings(params, inner_lr, inner_steps)
    check_data("the support set", support)
    adapted = _adapt(loss, params, read_only(support), inner_lr, inner_steps, first_order, where="")
    check_arrays(adapted, f"after {inner_steps} inner steps, params")
    return adapted


def _adapt(loss, params, support, inner_lr, inner_steps, first_order, where):
    params = tree_map(lambda p: p if isinstance(p, Tensor) else np.array(p), params)
    alpha = rates_like(inner_lr, params)
    for k in range(inner_steps):
        params = inner_step(loss, params, support, alpha, first_order, f"{where}inner step {k}")
    return params


def inner_step(loss, params, support, alpha, first_order, where):
    """θₖ₊₁ after θₖ; with `first_order`, the gradient in it is held constant."""
    value, grads = value_and_grad(loss)(params, *support)
    check_converging(value, f"{where}: the support loss")
    if first_order:
        grads = tree_map(stop_gradient, grads)
    # θₖ₊₁ = θₖ − α g_s(θₖ)
    return tree_map(lambda theta, a, g: as_array(theta - a * g), params, alpha, grads)


@_quietly
def meta_loss(
    loss: Callable,
    params: Nest,
    tasks: tuple | list,
    *,
    inner_lr: Nest,
    inner_steps: int = 1,
    first_order: bool = False,
):
    """𝓛(θ) = 1/T Σₜ L_q(θ_K), a scalar to be differentiated with respect to anything: θ, α, the data.

    Arguments and errors as in `meta_value_and_grad`. All tasks are in one graph: memory grows with their number.
    """
    tasks = as_tasks(params, tasks, inner_lr, inner_steps)
    losses = []
    for t, task in enumerate(tasks):
        support, query = read_only(task)
        adapted = _adapt(loss, params, support, inner_lr, inner_steps, first_order, f"task {t}, ")
        losses.append(loss(adapted, *query))
        check_converging(losses[-1], f"task {t}: the query loss")
    # 1/T Σₜ L_q
    return functools.reduce(operator.add, losses) / len(losses)


def meta_value_and_grad(
    loss: Callable,
    *,
    inner_lr: Nest,
    inner_steps: int = 1,
    first_order: bool = False,
    has_aux: bool = False,
    memory: str = "unrolled",
) -> Callable[[Nest, tuple | list], tuple]:
    """A function `(params, tasks)` → (𝓛(θ), ∇𝓛(θ)).

    Args:
        loss, inner_lr, inner_steps, first_order: as in `adapt`.
        has_aux: the loss returns (scalar, aux); the value is then the pair (𝓛, list of each task's aux at the query).
        memory: "unrolled" keeps the graphs of all K inner steps; "flat" keeps log₂ K of the θₖ and makes the
            others again on the way back, one graph at a time: equal to rounding, in memory that hardly grows with K.

    The function takes:
        params: θ, a nest of floating-point arrays.
        tasks: ((xs, ys), (xq, yq)), support and query, every array with the tasks stacked on axis 0; or, for tasks of
            unequal sizes, a list of such pairs, unstacked.

    It returns the mean query loss after adaptation, and a gradient with the nest, shapes and dtypes of `params`.
    The gradient of a mean is the mean of the gradients, so tasks go one at a time: memory is one task's, and the sums
    are the same bits from run to run. `compile` makes it fast.

    Raises:
        What `adapt` raises, with the task named; ValueError for arrays that disagree on the number of tasks.
    """
    if memory not in ("unrolled", "flat"):
        raise ValueError(f'memory is {memory!r}, wanted "unrolled" or "flat"')
    settings = dict(inner_lr=inner_lr, inner_steps=inner_steps, first_order=first_order, has_aux=has_aux, memory=memory)
    of_task = functools.partial(task_value_and_grad, loss, **settings)

    @_quietly
    def meta(params: Nest, tasks: tuple | list):
        tasks = as_tasks(params, tasks, inner_lr, inner_steps)
        values, aux, total = [], [], None
        for t, task in enumerate(tasks):
            support, query = read_only(task)
            value, grads = of_task(params, support, query, where=f"task {t}, ")
            if has_aux:
                value, extra = value
                aux.append(extra)
            check_converging(value, f"task {t}: the query loss")
            check_arrays(grads, f"task {t}: the meta-gradient of params")
            values.append(value)
            total = grads if total is None else tree_map(operator.add, total, grads)

        # 1/T Σₜ
        value = as_array(functools.reduce(operator.add, values) / len(tasks))
        grads = tree_map(lambda g: as_array(g / len(tasks)), total)
        return ((value, aux) if has_aux else value), grads

    meta.of_task = of_task  # what `record` and `compile` take up: one task, run for every task
    return meta


def task_value_and_grad(
    loss, params, support, query, *, inner_lr, inner_steps, first_order, has_aux, memory, where=""
) -> tuple:
    """L_q(θ_K) of one task (with `has_aux`, a pair) and its gradient ∏(I − αHₖ) g_q: a summand of the meta-gradient."""

    @functools.wraps(loss)
    def query_loss(params):
        return loss(_adapt(scalar(loss, has_aux), params, support, inner_lr, inner_steps, first_order, where), *query)

    if memory == "unrolled":
        return value_and_grad(query_loss, has_aux=has_aux)(params)

    from .flat import flat_value_and_grad  # which is made of what is here

    settings = dict(inner_lr=inner_lr, inner_steps=inner_steps, first_order=first_order, has_aux=has_aux, where=where)
    return flat_value_and_grad(loss, params, support, query, **settings)


def scalar(loss: Callable, has_aux: bool) -> Callable:
    """The loss without its aux."""

    @functools.wraps(loss)
    def support_loss(params, *support):
        value = loss(params, *support)
        return value[0] if has_aux else value

    return support_loss
