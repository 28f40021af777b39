"""Meta-MinibatchProx (Zhou et al., NeurIPS 2019): θ moves to the proximal points of the tasks.

    φ₀ = θ,   φₖ₊₁ = φₖ − α (g_s(φₖ) + λ (φₖ − θ)),     G = mean over tasks of λ (θ − φ_K)

λ is case.settings["strength"], α `case.inner_lr`, K `case.inner_steps`. No derivative of an inner step is taken, and
the query set has no part in G; `meta_loss`, if it is returned, is the mean of L_q(φ_K). In the case "…-converged" φ_K
is the proximal point w* to rounding, and G the gradient of the Moreau envelope min_w L_s(w) + λ/2 ‖w − θ‖².

MAML whose inner loss has that pull, gone back through step by step, is something else, and is named if it comes.
"""

from __future__ import annotations

import numpy as np

from ..mistakes.mistake import Mistake
from . import pulled
from .imaml import _unrolled, end_on_a_quadratic
from .pulled import SETTINGS, descended, strength  # noqa: F401

FORMULA = "λ (θ − φ_K),   φₖ₊₁ = φₖ − α (g_s(φₖ) + λ (φₖ − θ))"
SWITCHES = pulled.SWITCHES | {
    "gradient": ("λ (θ − φ)", "θ − φ", "φ − θ", "2λ (θ − φ)", "λ/2 (θ − φ)", "(θ − φ) / λ", "times inner rate",
                 "over inner rate", "g_s", "g_q", "through", "direction", "over K", "over αK", "g_s and the pull",
                 "g_s at θ", "sum of the path", "mean of the path", "last step's", "times K", "g_q and the pull"),
}  # fmt: skip


def gradient(at, theta, support, query):
    path = descended(at, theta, support)
    phi, lam, rate, how = path[-1], strength(at), at.number(at.case.inner_lr), at.s["gradient"]
    value, g = at.query_loss_and_grad(phi, query)
    if how == "through":
        return value, phi, _unrolled(at, path, support, g)
    if how in ("g_s", "g_q"):
        return value, phi, g if how == "g_q" else at.loss_and_grad(phi, support)[1]
    if how in ("g_s and the pull", "g_q and the pull"):  # of the whole inner loss; or of L_q with the pull on θ
        of = g if how.startswith("g_q") else at.loss_and_grad(phi, support)[1]
        sign = 1 if how.startswith("g_q") else -1
        return value, phi, at.map(lambda g, p, phi: g + sign * lam * (p - phi), of, theta, phi)
    if how == "g_s at θ":
        return value, phi, at.loss_and_grad(theta, support)[1]
    ends = {"sum of the path": path[1:], "mean of the path": path[1:]}.get(how, [phi])
    if len(ends) > 1:
        over = len(ends) if how.startswith("mean") else 1
        return value, phi, at.map(lambda p, *ends: lam * sum(p - end for end in ends) / over, theta, *ends)
    if how == "last step's":
        theta = path[-2:][0]
    times = {"θ − φ": lambda x: x, "φ − θ": lambda x: -x, "2λ (θ − φ)": lambda x: 2 * lam * x,
             "λ/2 (θ − φ)": lambda x: lam * x / 2, "(θ − φ) / λ": lambda x: x / lam,
             "times inner rate": lambda x: rate * lam * x, "over inner rate": lambda x: x / rate,
             "times K": lambda x: lam * x * at.case.inner_steps,
             "over K": lambda x: lam * x / at.case.inner_steps, "over αK": lambda x: x / (rate * at.case.inner_steps),
             "direction": lambda x: -lam * x}.get(how, lambda x: lam * x)  # fmt: skip
    # G = λ (θ − φ_K)
    return value, phi, at.map(lambda p, phi: times(p - phi), theta, phi)


def closed_form(case):
    """On quadratics φ_K = φ* + (I − α(A + λI))ᴷ (θ − φ*), φ* = (A + λI)⁻¹ (b + λθ)."""
    if case.model["layers"][0]["layer"] != "quadratic":
        return None
    theta, values, grads = case.params["theta"], [], []
    for (xs, _), (xq, _) in case.batches():
        (a, b), (aq, bq) = ((np.mean(x, 0)[:, :-1], np.mean(x, 0)[:, -1]) for x in (xs, xq))
        phi = end_on_a_quadratic(case, a, b)
        values.append(phi @ aq @ phi / 2 - bq @ phi)
        grads.append(case.settings["strength"] * (theta - phi))
    return np.mean(values), {"theta": np.mean(grads, 0)}


def by_algorithms(case):
    from ...algorithms import proximal
    from .rungs import of_theta

    return of_theta(case, proximal, strength=case.settings["strength"])


CASES: dict[str, dict] = {
    "quadratic": dict(kind="quadratic 2", inner_steps=3, tasks=2, inner_lr=0.125, shots=2, queries=2,
                      settings={"strength": 3.0}),
    "one-step": dict(fine=True, kind="tanh 1-2-1 mse", inner_steps=1, tasks=3, inner_lr=0.25, shots=3, queries=4,
                     settings={"strength": 1.5}),
    "square": dict(kind="square 1-1-1 mse", inner_steps=2, tasks=2, inner_lr=0.0625, shots=3, queries=4,
                   settings={"strength": 3.0}),
    "softmax": dict(kind="tanh 1-1-3 cross_entropy", inner_steps=5, tasks=2, inner_lr=0.5, shots=3, queries=6,
                    settings={"strength": 0.5}),
    "logistic": dict(kind="linear 2-1 binary_cross_entropy", inner_steps=3, tasks=1, inner_lr=0.5, shots=4, queries=2,
                     settings={"strength": 0.75}),
    "quadratic-converged": dict(kind="quadratic 3", inner_steps=40, tasks=1, inner_lr=0.15625, shots=2,
                                queries=2, settings={"strength": 4.0}),
}  # fmt: skip
SHARED = (
    "one_step_more", "one_step_less", "stale_gradient", "restarted_steps", "inner_ascent", "alpha_times_n", "task_leak",
    "support_is_query", "sum_over_tasks", "last_task_only", "first_task_only", "doubled_gradient", "negated_gradient",
)  # fmt: skip
MISTAKES = [
    *pulled.mistakes("prox"),
    Mistake(
        "prox_factor_missing", "θ − φ_K",
        "the factor λ is missing: this is Reptile's step with a pull inside, not the envelope's gradient",
        "meta_grad[n] = lam * (theta[n] - phi[n])",
        "jax.tree.map(lambda p, w: lam * (p - w), theta, phi)",
        ({"gradient": "θ − φ"},),
    ),
    Mistake(
        "prox_other_factor", "2λ (θ − φ_K), λ/2 (θ − φ_K), or (θ − φ_K)/λ",
        "the gradient of λ/2 ‖w − θ‖² is λ (θ − w): the factor is doubled, halved or inverted",
        "meta_grad[n] = lam * (theta[n] - phi[n])",
        "jax.tree.map(lambda p, w: lam * (p - w), theta, phi)",
        ({"gradient": "λ/2 (θ − φ)"}, {"gradient": "(θ − φ) / λ"}, {"gradient": "2λ (θ − φ)"}),
    ),
    Mistake(
        "prox_sign", "λ (φ_K − θ), or φ_K − θ",
        "the sign is wrong: a gradient is subtracted, so that it is λ (θ − φ_K)",
        "lam * (theta[n] - phi[n]): θ first",
        "lam * (theta - phi): θ first",
        ({"gradient": "direction"}, {"gradient": "φ − θ"}),
    ),
    Mistake(
        "prox_with_inner_rate", "αλ (θ − φ_K), or (θ − φ_K)/α",
        "the inner rate was mixed into the meta-gradient; the factor is λ alone",
        "lam * (theta[n] - phi[n]), without inner_lr",
        "lam * (theta - phi), without inner_lr",
        ({"gradient": "times inner rate"}, {"gradient": "over inner rate"}),
    ),
    Mistake(
        "prox_gone_through", "∂L_q(φ_K)/∂θ through the K steps",
        "the gradient is that of the query loss through the inner loop: MAML with a pull in its inner loss",
        "no query loss, and no create_graph: meta_grad[n] = lam * (theta[n] - phi[n])",
        "no jax.grad of the outer loss: lam * (theta - phi)",
        ({"gradient": "through"},),
    ),
    Mistake(
        "prox_query_gradient", "g_q(φ_K)",
        "the gradient is that of the query loss at φ_K: FOMAML with a pull inside",
        "no query loss: meta_grad[n] = lam * (theta[n] - phi[n])",
        "no jax.grad of the query loss: lam * (theta - phi)",
        ({"gradient": "g_q"},),
    ),
    Mistake(
        "prox_support_gradient", "g_s(φ_K)",
        "the gradient is that of the support loss at φ_K, which equals λ (θ − φ_K) only where the inner problem is "
        "solved",
        "meta_grad[n] = lam * (theta[n] - phi[n])",
        "lam * (theta - phi)",
        ({"gradient": "g_s"},),
    ),
    Mistake(
        "prox_over_steps", "λ (θ − φ_K)/K, or (θ − φ_K)/(αK)",
        "the gradient is divided by the number of inner steps", "lam * (theta[n] - phi[n]), without / K",
        "lam * (theta - phi), without / K", ({"gradient": "over K"}, {"gradient": "over αK"}), classic=False,
    ),
    Mistake(
        "prox_slope_of_another_loss", "g_s(φ_K) + λ (φ_K − θ), g_s(θ), or g_q(φ_K) + λ (θ − φ_K)",
        "the gradient is that of the inner loss with its pull, which goes to 0, of the support loss at θ, or of the "
        "query loss beside the pull",
        "meta_grad[n] = lam * (theta[n] - phi[n])", "lam * (theta - phi)",
        ({"gradient": "g_s and the pull"}, {"gradient": "g_s at θ"}, {"gradient": "g_q and the pull"}),
        shows="gradient", classic=False,
    ),
    Mistake(
        "prox_other_points", "λ Σₖ (θ − φₖ), λ (θ − mean φₖ), λ (φ_{K−1} − φ_K), or λ K (θ − φ_K)",
        "the difference is not that of θ and φ_K: it is summed or averaged over the steps, is the last step alone, or "
        "is multiplied by their number",
        "meta_grad[n] = lam * (theta[n] - phi[n]), with φ after the last step",
        "lam * (theta - phi), with the scan's last carry",
        ({"gradient": "sum of the path"}, {"gradient": "mean of the path"}, {"gradient": "last step's"},
         {"gradient": "times K"}), shows="gradient", classic=False,
    ),
]  # fmt: skip
