"""Flat memory: the same meta-gradient, one inner step at a time, in memory that hardly grows with their number K.

    meta_value_and_grad(loss, inner_lr=0.01, inner_steps=200, memory="flat")

Unrolled, the graphs of all K steps are kept for the way back. Here a few of the θₖ are kept: the others are computed
again, and the graph of one step at a time. `maml` gives the parts that are run; this file says in which order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from .nest import Nest


class Parts(NamedTuple):
    """step(θₖ, support, k) → θₖ₊₁;  query(θ_K, query) → (L_q, g_q);  back(θₖ, support, v) → (I − Hₖα) v."""

    step: Callable
    query: Callable
    back: Callable


def run(parts: Parts, moves: Iterator[str], params: Nest, support: tuple, query: tuple) -> tuple:
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
