"""iMAML (Rajeswaran, Finn, Kakade and Levine, NeurIPS 2019): the implicit gradient at the end of the inner loop.

    φ₀ = θ,   φₖ₊₁ = φₖ − α (g_s(φₖ) + λ (φₖ − θ))
    G = (I + H/λ)⁻¹ g_q(φ_K) = λ (H + λI)⁻¹ g_q(φ_K),   H = ∇²L_s(φ_K)         (lemma 1, at φ_K in the place of φ*)
"""

from __future__ import annotations

from ..mistake import Mistake
from .procedure import basis, flat, split

FORMULA = "λ (H + λI)⁻¹ g_q(φ_K),   H = ∇²L_s(φ_K),   φₖ₊₁ = φₖ − α (g_s(φₖ) + λ (φₖ − θ))"
SETTINGS = {"strength": "λ, strength of the pull to θ in the inner problem"}
SWITCHES = {
    "pull": ("right", "missing", "once at the end"),
    "operator": ("right", "H + λI", "without the pull", "damped", "of query"),
    "inverse": ("exact", "identity", "one step of conjugate gradients", "unrolled"),
}


def descended(at, theta, support):
    """φ₀ … φ_K."""
    rate, strength = at.number(at.case.inner_lr), at.number(at.case.settings["strength"])
    path = [theta]
    for _ in range(at.steps):
        _, g = at.loss_and_grad(path[-1], support)
        if at.s["pull"] == "right":
            g = at.map(lambda g, phi, p: g + strength * (phi - p), g, path[-1], theta)
        # φₖ₊₁ = φₖ − α (g_s(φₖ) + λ (φₖ − θ))
        path.append(at.map(lambda phi, g: phi - rate * g, path[-1], g))
    return path


def gradient(at, theta, support, query):
    strength = at.number(at.case.settings["strength"])
    phi = descended(at, theta, support)[-1]
    value, g = at.loss_and_grad(phi, query)
    # (I + H/λ) G = g_q(φ_K)
    columns = [flat(at.along(phi, support, e)) / strength + flat(e) for e in basis(at, theta)]
    return value, phi, split(at.solve(columns, flat(g)), theta)


CASES: dict[str, dict] = {}
SHARED = ("one_step_more", "one_step_less", "query_is_support", "support_is_query", "swapped_support_query",
          "sum_over_tasks", "last_task_only", "first_task_only", "doubled_gradient", "negated_gradient")  # fmt: skip
MISTAKES: list[Mistake] = []
