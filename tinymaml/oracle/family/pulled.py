"""The inner loop that is pulled back to θ, which iMAML and Meta-MinibatchProx share, and what goes wrong in it.

This is the loop, and the point that it tends to:

    φ₀ = θ,   φₖ₊₁ = φₖ − α (g_s(φₖ) + λ (φₖ − θ)),     φ* = argmin_φ L_s(φ) + λ/2 ‖φ − θ‖²
"""

from __future__ import annotations

import numpy as np

from ..mistakes.mistake import Free, Mistake
from .procedure import basis, descend, flat, from_vector

SETTINGS = {"strength": "λ, strength of the pull to θ in the inner problem"}
SWITCHES = {
    "pull": ("right", "missing", "once at the end", "doubled", "halved", "to 0", "to the step before", "away",
             "over size", "doubled over size", "over all sizes", "implicit"),
    "end": ("after K steps", "solved"),
    "inner_digits": (0.0,),
    "proximal": (0.0,),  # the pull itself: the shared one is not meant
}  # fmt: skip


def strength(at):
    """λ."""
    return at.number(at.case.settings["strength"])


def descended(at, theta: dict, support: tuple) -> list[dict]:
    """φ₀ … φ_K."""
    how, rate = at.s["pull"], at.number(at.case.inner_lr)
    times = strength(at) * {"missing": 0, "once at the end": 0, "doubled": 2, "away": -1}.get(how, 1)
    times = times / 2 if how == "halved" else times
    if at.s["end"] == "solved":
        return [theta, solved(at, theta, support, times)]
    before, enough = [theta], 0.0 if at.s["inner_digits"] == 0 else 10.0 ** -at.s["inner_digits"]

    def pull(phi):
        """λ (φₖ − θ)"""
        to = {"to 0": at.map(lambda p: p * 0, theta), "to the step before": before[-1]}.get(how, theta)
        before.append(phi)
        if how == "implicit":  # it comes with the step
            return at.map(lambda p: p * 0, phi)
        if "size" in how:
            twice, whole = 2 if how.startswith("doubled") else 1, sum(np.size(p) for p in theta.values())
            over = {n: whole if how == "over all sizes" else np.size(p) for n, p in theta.items()}
            return {n: twice * times * (x - to[n]) / over[n] for n, x in phi.items()}
        return at.map(lambda phi, p: times * (phi - p), phi, to)

    def step(k, phi, g):
        if enough and _length(g) <= enough:
            return phi
        if how == "implicit":
            # φₖ₊₁ = (φₖ − α g_s(φₖ) + αλθ) / (1 + αλ)
            return {n: (p - rate * g[n] + rate * times * theta[n]) / (1 + rate * times) for n, p in phi.items()}
        # φₖ₊₁ = φₖ − α (g_s(φₖ) + λ (φₖ − θ))
        return at.map(lambda phi, g: phi - rate * g, phi, g)

    path = descend(at, theta, support, step, pull=pull)
    if how == "once at the end":
        path.append(at.map(lambda phi, p: phi - rate * strength(at) * (phi - p), path[-1], theta))
    return path


def _length(tree: dict) -> float:
    return float(np.linalg.norm(flat(tree).astype(float)))


def solved(at, theta: dict, support: tuple, times, far: int = 100, most: int = 50) -> dict:
    """φ* to rounding: far down by gradient descent, then by Newton's method,  φ ← φ − (H + λI)⁻¹ (g_s + λ (φ − θ))."""
    phi, size, rate = theta, np.inf, at.number(at.case.inner_lr)
    for k in range(far + most):
        g = at.map(lambda g, phi, p: g + times * (phi - p), at.loss_and_grad(phi, support)[1], phi, theta)
        if k < far:
            phi = at.map(lambda phi, g: phi - rate * g, phi, g)
            continue
        columns = [flat(at.along(phi, support, e)) + times * flat(e) for e in basis(at, theta)]
        move = from_vector(at.solve(columns, flat(g)), theta)
        before, size = size, max(float(np.max(np.abs(m))) for m in move.values())
        if not size < before:  # it no longer converges: what moves is rounding
            break
        phi = at.map(lambda phi, m: phi - m, phi, move)
    return phi


def mistakes(algorithm: str) -> list[Mistake]:
    """The mistakes of this inner loop, for `algorithm`: each needs an id of its own."""
    return [
        Mistake(
            f"{algorithm}_pull_missing", "φₖ₊₁ = φₖ − α g_s(φₖ)",
            "the inner loop descends the support loss alone: the term in λ, which pulls to θ, is not there",
            "loss = loss_s(phi) + lam / 2 * sum(((phi[n] - theta[n].detach()) ** 2).sum() for n in phi)",
            "jax.grad(lambda phi: loss_s(phi) + lam / 2 * sum of (phi − theta)²)(phi)",
            ({"pull": "missing"},), "aravindr93/imaml_dev",
        ),
        Mistake(
            f"{algorithm}_pull_once_at_the_end", "φ = φ_K − αλ (φ_K − θ) after K steps without a pull",
            "the pull to θ is one step of its own after the inner loop, as in iMAML's original code; the inner problem "
            "has it in every step",
            "add lam * (phi[n] - theta[n]) to the gradient in every inner step",
            "add lam * (phi − theta) to the gradient inside the scan, not after it",
            ({"pull": "once at the end"},), "aravindr93/imaml_dev",
        ),
        Mistake(
            f"{algorithm}_pull_of_other_strength", "the pull is 2λ (φ − θ), or λ/2 (φ − θ)",
            "the pull in the inner loop is twice as strong as asked, or half: the penalty is λ/2 ‖φ − θ‖², and its "
            "gradient λ (φ − θ)",
            "lam / 2 * ((phi - theta) ** 2).sum(), a sum and no mean, whose gradient is lam * (phi - theta)",
            "lam / 2 * jnp.sum((phi - theta) ** 2), whose gradient is lam * (phi - theta)",
            ({"pull": "doubled"}, {"pull": "halved"}),
        ),
        Mistake(
            f"{algorithm}_pull_to_another_point", "φₖ₊₁ = φₖ − α (g_s + λ φₖ), or without a pull to θ at all",
            "the pull is to 0 (it is a weight decay), or to the step before (so that it is always 0 at first), not to "
            "the θ where the task began",
            "phi[n] - theta[n] with the task's θ, kept apart from phi; weight_decay=lam pulls to 0",
            "phi − theta with the θ that the scan started from, not the carry of the step before",
            ({"pull": "to 0"}, {"pull": "to the step before"}),
        ),
        Mistake(
            f"{algorithm}_pull_away", "φₖ₊₁ = φₖ − α (g_s(φₖ) − λ (φₖ − θ))",
            "the sign of the pull is wrong: it pushes away from θ",
            "g[n] + lam * (phi[n] - theta[n]): a plus",
            "g + lam * (phi − theta): a plus",
            ({"pull": "away"},),
        ),
        Mistake(
            f"{algorithm}_solved", "φ* in the place of φ_K",
            "the inner problem is solved to rounding, and the case asks for the φ_K after inner_steps steps of "
            "gradient descent; both are the same where these have converged",
            "for _ in range(inner_steps): a step of gradient descent on the support loss with the pull",
            "lax.scan(step, theta, length=inner_steps) with gradient descent",
            ({"end": "solved"},), kind="convention",
        ),
        Mistake(
            f"{algorithm}_inner_tolerance", "φ where ‖g_s(φ) + λ (φ − θ)‖ ≤ 10⁻ᵖ, if it comes before φ_K",
            "the inner loop ended where its gradient was below a tolerance, before inner_steps steps",
            "make all inner_steps steps, or set the tolerance to 0", "make all inner_steps steps, or set the tolerance "
            "to 0", ({"inner_digits": 2},), kind="precision", classic=False,
            free=Free("inner_digits", "p", (2, 3, 4, 5, 6, 8, 10), integer=True),
        ),
        Mistake(
            f"{algorithm}_pull_over_size", "φₖ₊₁ = φₖ − α (g_s(φₖ) + λ (φₖ − θ)/n)",
            "the penalty is a mean over the elements of a tensor, or of all (n), in the place of a sum",
            "lam / 2 * ((phi - theta) ** 2).sum(), not F.mse_loss(phi, theta)",
            "lam / 2 * jnp.sum((phi - theta) ** 2), not jnp.mean",
            ({"pull": "over size"}, {"pull": "doubled over size"}, {"pull": "over all sizes"}), classic=False,
        ),
        Mistake(
            f"{algorithm}_pull_implicit", "φₖ₊₁ = (φₖ − α g_s(φₖ) + αλθ)/(1 + αλ)",
            "the pull is taken at φₖ₊₁: a proximal step of the penalty after a step of the loss; the case has a step "
            "of gradient descent on both",
            "phi[n] - lr * (g[n] + lam * (phi[n] - theta[n]))", "phi - lr * (g + lam * (phi - theta))",
            ({"pull": "implicit"},), classic=False,
        ),
    ]  # fmt: skip
