"""MAML (Finn, Abbeel and Levine, 2017, arXiv 1703.03400): the gradient of the query loss through every inner step.

    G = ∇_θ L_q(θ_K),   θₖ₊₁ = θₖ − α ∇L_s(θₖ)            (section 2.2, algorithm 2)

By SGD, G = (I − αH₀) ⋯ (I − αH_{K−1}) g_q(θ_K), and `tinymaml.maml` has it as a function of its own; here the inner
optimiser is a choice. FOMAML (section 5.2) leaves the H out: G = g_q(θ_K). (In the code of Reptile, `--foml` is
something else: the difference that the last inner update made, with Adam's scaling in it.)
"""

from __future__ import annotations

from dataclasses import dataclass

from ..engine import value_and_grad
from ..runs.settings import option
from . import inner
from .inner import descend as adapt
from .inner import init, nth, through  # noqa: F401

exact = True


@dataclass(frozen=True)
class Settings(inner.Settings):
    first_order: bool = option(False, "FOMAML: leave the second derivatives out")


def of_task(loss, theta, support, query, settings):
    if settings.first_order:
        adapted = nth(adapt(loss, theta, support, settings), settings.inner_steps)
        return value_and_grad(loss, has_aux=True)(adapted, *query)
    return through(adapt)(loss, theta, support, query, settings)
