"""Meta-SGD (Li, Zhou, Chen and Li, 2017, arXiv 1707.09835): a rate for every element of θ, learned with it.

    θₖ₊₁ = θₖ − α ∘ g_s(θₖ),     G = ∂L_q(θ_K)/∂(θ, α)
    K = 1:   ∂L_q/∂α = −g_s ∘ g_q(θ′),   ∂L_q/∂θ = g_q(θ′) − H_s (α ∘ g_q(θ′))

The case's parameters hold θ, and for each name of θ an array "alpha.name" of its shape, which is learned too.
"""

from __future__ import annotations

from ..mistake import Mistake
from .procedure import support_gradient

FORMULA = "∂L_q(θ_K)/∂(θ, α),   θₖ₊₁ = θₖ − α ∘ g_s(θₖ)"
SETTINGS: dict[str, str] = {}
PREFIX = "alpha."
SWITCHES = {
    "rates": ("right", "not learned", "times gradient of theta", "one per tensor", "exponential", "absolute"),
}


def parted(meta: dict) -> tuple[dict, dict]:
    """(θ, α), both by the names of θ."""
    theta = {n: p for n, p in meta.items() if not n.startswith(PREFIX)}
    return theta, {n: meta[PREFIX + n] for n in theta}


def query_loss(at, meta, support, query):
    theta, alpha = parted(meta)
    if at.s["rates"] == "not learned":
        alpha = at.hold(alpha)
    for _ in range(at.steps):
        # θₖ₊₁ = θₖ − α ∘ g_s(θₖ)
        theta = at.map(lambda p, a, g: p - a * g, theta, alpha, support_gradient(at, theta, support))
    return at.loss_and_grad(theta, query)[0], theta


def cases() -> dict[str, dict]:
    """id → arguments of `cases.draw`."""
    return {}


SHARED = ("fomaml", "zero_gradient", "one_step_more", "one_step_less", "query_is_support", "support_is_query",
          "swapped_support_query", "sum_over_tasks", "last_task_only", "first_task_only", "doubled_gradient",
          "negated_gradient")  # fmt: skip
MISTAKES: list[Mistake] = []
