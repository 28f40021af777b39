"""Flat memory: the same meta-gradient, one inner step at a time, in memory that hardly grows with their number K.

    meta_value_and_grad(loss, inner_lr=0.01, inner_steps=200, memory="flat")

Unrolled, the graphs of all K steps are kept for the way back. Here a few of the θₖ are kept: the others are computed
again, and the graph of one step at a time. `InParts` has the parts of MAML, and `moves` says in which order they run.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable, Iterator
from typing import NamedTuple

from .engine import hvp, value_and_grad
from .inputs import arguments, check_settings, rates_like, scalar_of
from .nest import Nest, tree_map
from .per_task import PerTask


class Parts(NamedTuple):
    """step(θₖ, support, k) → θₖ₊₁;  query(θ_K, query) → (L_q, g_q);  back(θₖ, support, v) → (I − Hₖα) v."""

    step: Callable
    query: Callable
    back: Callable


def run_parts(parts: Parts, moves: Iterator[str], params: Nest, support: tuple, query: tuple) -> tuple:
    """(L_q(θ_K), ∏(I − αHₖ) g_q): the parts, in the order of `moves`."""
    thetas, k = [], 0
    for move in moves:
        if move == "push":
            thetas.append((params, k))
        elif move == "pop":
            params, k = thetas.pop()
        elif move == "step":
            params, k = parts.step(params, support, k), k + 1
        elif move == "query":
            value, v = parts.query(params, query)
        else:
            v = parts.back(params, support, v)
    return value, v


def moves(inner_steps: int, first_order: bool) -> Iterator[str]:
    """In what order the parts are run, "step", "query" and "back"; "push" keeps θ, "pop" takes it up again.

    The second half of the steps is gone back over before the first half, from a θ that is kept between them; each half
    likewise. So log₂ K of the θₖ are kept, and most are computed again: about K/2 · log₂ K steps, instead of K.
    (Griewank, 1992: logarithmic growth of temporal and spatial complexity in reverse automatic differentiation.)

    >>> from tinymaml.flat import moves
    >>> " ".join(moves(3, first_order=False))
    'push step step push step query pop back pop push step back pop back'
    """

    def back_over(first: int, count: int) -> Iterator[str]:
        """Back over `count` steps, from θ_first; the query is the last step of all."""
        if count == 1:
            yield "query" if first == inner_steps else "back"
            return
        half = count // 2
        yield "push"
        yield from ["step"] * half
        yield from back_over(first + half, count - half)
        yield "pop"
        yield from back_over(first, half)

    return iter(["step"] * inner_steps + ["query"]) if first_order else back_over(0, inner_steps + 1)


def per_task(unrolled, inner_step: Callable, inner_lr: Nest, memory: str) -> PerTask:
    """MAML of one task in this memory, "unrolled" or "flat": for `maml.meta_value_and_grad`, whose arguments these are.

    Raises:
        ValueError: another memory.
    """
    if memory not in ("unrolled", "flat"):
        raise ValueError(f'memory is {memory!r}, wanted "unrolled" or "flat"')
    how = dict(inner_steps=unrolled.inner_steps, first_order=unrolled.first_order, has_aux=unrolled.has_aux)
    in_parts = InParts(inner_step, unrolled.loss, **how)
    maml = in_parts if memory == "flat" else unrolled
    return PerTask(
        maml.of_task, gradient=True, bound=(inner_lr,), written=unrolled.loss, called="params",
        check=functools.partial(check_settings, inner_lr, unrolled.inner_steps),
        cheaper=None if unrolled.first_order else dataclasses.replace(maml, first_order=True).of_task,
        parts=in_parts.parts, moves=in_parts.moves, flat=memory == "flat",
    )  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class InParts:
    """MAML of one task in parts, for `maml.meta_value_and_grad`: an inner step and settings; α comes with each call.

    Attributes:
        inner_step: `maml.inner_step`.
        loss, inner_steps, first_order, has_aux: as `meta_value_and_grad` takes them.
    """

    inner_step: Callable
    loss: Callable
    inner_steps: int
    first_order: bool
    has_aux: bool

    def of_task(self, params: Nest, support: Nest, query: Nest, inner_lr: Nest) -> tuple:
        """L_q(θ_K) of one task (with `has_aux`, a pair) and its gradient ∏(I − αHₖ) g_q."""
        return run_parts(self.parts(inner_lr), self.moves(), params, support, query)

    def parts(self, inner_lr: Nest) -> Parts:
        support_loss = scalar_of(self.loss, self.has_aux)

        def step(params, support, k):
            return self.inner_step(support_loss, params, support, rates_like(inner_lr, params), True, k)

        def query_value_and_grad(params, query):
            return value_and_grad(self.loss, has_aux=self.has_aux)(params, *arguments(query))

        def back(params, support, v):
            # v ← v − Hₖ (α v): from v = g_q(θ_K) back to θ₀ this is the product ∏(I − αHₖ) g_q
            av = tree_map(operator.mul, rates_like(inner_lr, params), v)
            of_params = lambda theta: support_loss(theta, *arguments(support))  # noqa: E731
            return tree_map(operator.sub, v, hvp(of_params, (params,), av))

        return Parts(step, query_value_and_grad, back)

    def moves(self) -> Iterator[str]:
        return moves(self.inner_steps, self.first_order)
