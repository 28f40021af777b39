"""Flat memory: the same meta-gradient, one inner step at a time, in memory that hardly grows with their number K.

    meta_value_and_grad(loss, inner_lr=0.01, inner_steps=200, memory="flat")

Unrolled, the graphs of all K steps are kept for the way back. Here, a few of the θₖ are: the others are computed again,
and the graph of one step at a time. Read after `maml`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator

from .engine import hvp, value_and_grad
from .inputs import rates_like
from .maml import inner_step, scalar
from .nest import tree_map


def flat_value_and_grad(
    loss, params, support, query, *, inner_lr, inner_steps, first_order, has_aux, where=""
) -> tuple:
    """As `maml.task_value_and_grad`, to rounding."""
    step, query_value_and_grad, back = flat_parts(loss, inner_lr=inner_lr, has_aux=has_aux)
    thetas, steps = [], 0
    for move in flat_moves(inner_steps, first_order):
        if move == "push":
            thetas.append(params)
        elif move == "pop":
            params = thetas.pop()
        elif move == "step":
            params, steps = step(params, support, f"{where}inner step {steps}"), steps + 1
        elif move == "query":
            value, v = query_value_and_grad(params, query)
        else:
            v = back(params, support, v)
    return value, v


def flat_moves(inner_steps: int, first_order: bool) -> Iterator[str]:
    """In what order the parts are run, "step", "query" and "back"; "push" keeps θ, "pop" takes it up again.

    The second half of the steps is gone back over before the first half, from a θ that is kept between them; each half
    likewise. So log₂ K of the θₖ are kept, and most are computed again: about K/2 · log₂ K steps, instead of K.
    (Griewank, 1992: logarithmic growth of temporal and spatial complexity in reverse automatic differentiation.)
    """

    def moves(first: int, count: int) -> Iterator[str]:
        """Back over `count` steps, from θ_first; the query is the last step of all."""
        if count == 1:
            yield "query" if first == inner_steps else "back"
            return
        half = count // 2
        yield "push"
        yield from ["step"] * half
        yield from moves(first + half, count - half)
        yield "pop"
        yield from moves(first, half)

    return iter(["step"] * inner_steps + ["query"]) if first_order else moves(0, inner_steps + 1)


def flat_parts(loss, *, inner_lr, has_aux) -> tuple[Callable, Callable, Callable]:
    """θₖ ↦ θₖ₊₁;  θ_K ↦ (L_q, g_q);  (θₖ, v) ↦ (I − Hₖα) v."""

    support_loss = scalar(loss, has_aux)

    def step(params, support, where=""):
        return inner_step(support_loss, params, support, rates_like(inner_lr, params), True, where)

    def query_value_and_grad(params, query):
        return value_and_grad(loss, has_aux=has_aux)(params, *query)

    def back(params, support, v):
        # v ← v − Hₖ (α v): from v = g_q(θ_K) back to θ₀ this is the product ∏(I − αHₖ) g_q
        av = tree_map(operator.mul, rates_like(inner_lr, params), v)
        return tree_map(operator.sub, v, hvp(lambda theta: support_loss(theta, *support), (params,), av))

    return step, query_value_and_grad, back
