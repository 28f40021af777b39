"""Meta-SGD (Li, Zhou, Chen and Li, 2017, arXiv 1707.09835): a rate for every element of θ, learned with it.

    θ₀ = θ,   θₖ₊₁ = θₖ − α ∘ g_s(θₖ),     G = ∂/∂(θ, α) of the mean over tasks of L_q(θ_K)
    K = 1:   ∂L_q/∂α = −g_s ∘ g_q(θ′),   ∂L_q/∂θ = g_q(θ′) − H_s (α ∘ g_q(θ′))

The case's parameters hold θ, and for each name of θ an array "alpha.name" of the same shape, which is α. The answer has
the gradient of each of them. α may be negative. `case.inner_lr` has no part in it.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from ..mistakes.mistake import Free, Mistake
from ..mistakes.updates import MIXED_UP, mixed_up
from .procedure import PLAIN, descend, dot, judged, sloped, support_gradient

FORMULA = "∂L_q(θ_K)/∂(θ, α),   θₖ₊₁ = θₖ − α ∘ g_s(θₖ)"
SETTINGS: dict[str, str] = {}
PREFIX = "alpha."
SWITCHES = {
    "rates": ("right", "not learned", "inner_lr", "times inner_lr", "first of tensor", "mean of tensor", "exponential",
              "softplus", "sigmoid", "squared", "absolute", "clamped at 0", "first step's", "last step's",
              "query at start", "outside of the Hessian", "first order", "after the pullback",
              "of the next gradient", "of the gradient before", "of the first gradient", "of the last gradient",
              "last task's", "first task's", *MIXED_UP),
    "rates' gradient": ("right", "gradient of theta", "negative", "sum over tasks", "mean of tensor", "sum of tensor",
                        "over steps", "by the logarithm", "by the logarithm of its size", "by the root",
                        "by softplus's argument", "by sigmoid's argument"),
    "rates' gradient times": (0.0,),
}  # fmt: skip
AFTERWARDS = ("rates' gradient", "rates' gradient times")


def parted(meta: dict) -> tuple[dict, dict]:
    """(θ, α), both by the names of θ."""
    theta = {n: p for n, p in meta.items() if not n.startswith(PREFIX)}
    return theta, {n: meta[PREFIX + n] for n in theta}


def query_loss(at, meta, support, query):
    theta, alpha = parted(meta)
    rates, of_product, how = _rates(at, alpha), [], at.s["rates"]
    slopes = at.map(lambda a: a - at.hold(a), alpha)
    plain = _plain_gradients(at, theta, alpha, support) if how in OTHER_GRADIENT else []

    def earlier(theta, k):
        """θₖ, that α moves already as it moves θₖ₊₁."""
        g = at.hold(at.loss_and_grad(at.hold(theta), support)[1])
        return at.map(lambda p, da, g: p - da * g, theta, slopes, g)

    def step(k, theta, g):
        if how == "after the pullback":
            return at.map(lambda p, a, g: p - at.hold(a) * g, earlier(theta, k), alpha, g)
        if how in OTHER_GRADIENT:
            other = plain[{"next": k + 1, "before": max(k - 1, 0), "first": 0, "last": -2}[OTHER_GRADIENT[how]]]
            return {n: p - at.hold(alpha[n]) * g[n] - slopes[n] * other[n] for n, p in theta.items()}
        if at.s["rates"] == "outside of the Hessian":  # g has the slope H (α ∘ θₖ′), in the place of H θₖ′
            product = at.map(lambda a, g: a * at.hold(g) + (g - at.hold(g)), rates(k), g)
            return at.map(lambda p, x: p - x, theta, product)
        # θₖ₊₁ = θₖ − α ∘ g_s(θₖ)
        return at.map(lambda p, a, g: p - a * g, theta, rates(k), g)

    if at.s["rates"] == "outside of the Hessian":
        of_product = [lambda theta, k: at.map(lambda p, a: at.hold(p) + at.hold(a) * (p - at.hold(p)), theta, rates(k))]
    of_product = [earlier] if how == "after the pullback" else of_product
    path = descend(at, theta, support, step, *of_product)
    value = judged(at, path, query)
    if at.s["rates"] == "first order":  # ∂/∂α = −Σₖ g_s(θₖ) ∘ g_q(θ_K)
        v, every = at.query_loss_and_grad(path[-1], query)[1], [g for _, g in at.memory["support gradients"]]
        for g in every:
            value = value + sloped(at, value * 0, -dot(alpha, at.hold(at.map(lambda g, v: g * v, g, v))))
    if at.s["rates"] == "query at start":  # ∂/∂α = −g_s(θ) ∘ g_q(θ)
        g, v = support_gradient(at, theta, support), at.query_loss_and_grad(theta, query)[1]
        value = value + sloped(at, value * 0, -dot(alpha, at.hold(at.map(lambda g, v: g * v, g, v))))
    return value, path[-1]


# How α's gradient takes the support gradient of another step than its own.
OTHER_GRADIENT = {"of the next gradient": "next", "of the gradient before": "before",
                  "of the first gradient": "first", "of the last gradient": "last"}  # fmt: skip


def _plain_gradients(at, theta, alpha, support) -> list[dict]:
    """g_s(θ₀) … g_s(θ_K), without derivatives."""
    theta, alpha, out = at.hold(theta), at.hold(alpha), []
    for _ in range(at.steps + 1):
        out.append(at.hold(at.loss_and_grad(theta, support)[1]))
        theta = at.map(lambda p, a, g: p - a * g, theta, alpha, out[-1])
    return out


def _rates(at, alpha):
    """α of step k, as the code at hand has it."""
    how, rate = at.s["rates"], at.number(at.case.inner_lr)
    held, last = at.hold(alpha), at.steps - 1
    changed = {
        "inner_lr": lambda a: a * 0 + rate,
        "times inner_lr": lambda a: a * rate,
        "first of tensor": lambda a: a * 0 + np.ravel(a)[0],
        "mean of tensor": lambda a: a * 0 + np.sum(a) / a.size,
        "exponential": np.exp,
        "softplus": lambda a: np.log(1 + np.exp(a)),
        "sigmoid": lambda a: 1 / (1 + np.exp(-a)),
        "squared": lambda a: a * a,
        "absolute": lambda a: a * np.where(_above(a), 1, -1),
        "clamped at 0": lambda a: a * np.where(_above(a), 1, 0),
    }
    if how in changed:
        alpha = at.map(changed[how], alpha)
    if how in MIXED_UP:
        alpha = mixed_up(alpha, how)
    whose = {"not learned": lambda k: False, "query at start": lambda k: False, "first order": lambda k: False,
             "first step's": lambda k: k == 0, "last step's": lambda k: k == last,
             "first task's": lambda k: at.place == 0, "last task's": lambda k: at.place == at.case.tasks - 1,
             }.get(how, lambda k: True)  # fmt: skip
    return lambda k: alpha if whose(k) else held


def _above(a):
    return np.array([float(np.real(getattr(x, "value", x))) > 0 for x in np.ravel(a)]).reshape(np.shape(a))


def finish(s, case, grads):
    how, out = s["rates' gradient"], dict(grads)
    if times := s["rates' gradient times"]:
        return {n: g * times if n.startswith(PREFIX) else g for n, g in grads.items()}
    for n in parted(grads)[0]:
        g = grads[PREFIX + n]
        out[PREFIX + n] = {
            "right": lambda n, g: g, "gradient of theta": lambda n, g: grads[n], "negative": lambda n, g: -g,
            "sum over tasks": lambda n, g: g * case.tasks, "mean of tensor": lambda n, g: g * 0 + np.sum(g) / g.size,
            "sum of tensor": lambda n, g: g * 0 + np.sum(g), "over steps": lambda n, g: g / case.inner_steps,
            # ± α is a function of what is learned:  ∂/∂ log α = α ∂/∂α, and so on
            "by the logarithm": lambda n, g: g * case.params[PREFIX + n],
            "by the logarithm of its size": lambda n, g: g * np.abs(case.params[PREFIX + n]),
            "by the root": lambda n, g: g * 2 * _signed(case, n, np.sqrt),
            "by softplus's argument": lambda n, g: g * _signed(case, n, lambda a: 1 - np.exp(-a)),
            "by sigmoid's argument": lambda n, g: g * _signed(case, n, lambda a: a * (1 - a)),
        }[how](n, g)  # fmt: skip
    return out


def _signed(case, n: str, of):
    """of(|α|), with the sign of α."""
    alpha = case.params[PREFIX + n]
    return np.sign(alpha) * of(np.abs(alpha))


def posed(case, numbers):
    """α beside θ: about `inner_lr`, the first of each tensor negative, none 0."""
    spread = {PREFIX + n: case.inner_lr * (0.8125 + numbers(p.shape, 0.75, 8)) for n, p in case.params.items()}
    for rates in spread.values():
        rates.flat[0] = -abs(rates.flat[0])
    return dataclasses.replace(case, params=case.params | spread)


def closed_form(case):
    """On quadratics θₖ₊₁ = (I − DA) θₖ + D b, D = diag α:  G = mean (Pᵀ v, −Σₖ gₖ ∘ Pₖᵀ v),  v = g_q(θ_K)."""
    if case.model["layers"][0]["layer"] != "quadratic":
        return None
    theta, alpha = case.params["theta"], case.params[PREFIX + "theta"]
    values, grads = [], []
    for (xs, _), (xq, _) in case.batches():
        (a, b), (aq, bq) = (np.split(np.mean(x, 0), [-1], 1) for x in (xs, xq))
        path = [theta]
        for _ in range(case.inner_steps):
            path.append(path[-1] - alpha * (a @ path[-1] - b[:, 0]))
        values.append(path[-1] @ aq @ path[-1] / 2 - bq[:, 0] @ path[-1])
        v, of_alpha = aq @ path[-1] - bq[:, 0], 0 * alpha
        for way in reversed(path[:-1]):
            of_alpha = of_alpha - (a @ way - b[:, 0]) * v
            v = v - a @ (alpha * v)
        grads.append((v, of_alpha))
    of_theta, of_alpha = (np.mean(g, 0) for g in zip(*grads, strict=True))
    return np.mean(values), {"theta": of_theta, PREFIX + "theta": of_alpha}


def by_algorithms(case):
    from ...algorithms import meta_sgd
    from .rungs import averaged_over_tasks

    theta, alpha = parted(case.params)
    settings = meta_sgd.Settings(inner_steps=case.inner_steps)
    value, g = averaged_over_tasks(case, meta_sgd, {"theta": theta, "alpha": alpha}, settings)
    return value, g["theta"] | {PREFIX + n: a for n, a in g["alpha"].items()}


CASES: dict[str, dict] = {
    "quadratic": dict(kind="quadratic 2", inner_steps=3, tasks=2, inner_lr=0.125, shots=2, queries=2),
    "one-step": dict(fine=True, kind="tanh 1-2-1 mse", inner_steps=1, tasks=3, inner_lr=0.5, shots=3, queries=4),
    "square": dict(kind="square 1-1-1 mse", inner_steps=2, tasks=2, inner_lr=0.125, shots=3, queries=4),
    "softmax": dict(kind="tanh 1-1-3 cross_entropy", inner_steps=3, tasks=2, inner_lr=0.5, shots=3, queries=6),
    "logistic": dict(kind="linear 2-1 binary_cross_entropy", inner_steps=5, tasks=1, inner_lr=0.5, shots=4, queries=2),
}  # fmt: skip
SHARED = PLAIN
MISTAKES = [
    Mistake(
        "alpha_not_learned", "∂/∂α = 0",
        "the learned rates get no gradient: they were detached, or turned into numbers, before the inner step",
        "fast[n] = p - alpha[n] * g[n] with alpha[n] a leaf that requires a gradient; no .item(), .data or .detach()",
        "differentiate with respect to (params, alpha), with argnums=(0, 1) or one tree; no stop_gradient on alpha",
        ({"rates": "not learned"},),
    ),
    Mistake(
        "alpha_gets_theta_gradient", "∂/∂α = ∂L_q/∂θ",
        "the learned rates got the gradient of θ in the place of their own",
        "torch.autograd.grad(loss_q, [*theta, *alpha]): the second half belongs to alpha",
        "g_theta, g_alpha = jax.grad(f, argnums=(0, 1))(theta, alpha)",
        ({"rates' gradient": "gradient of theta"},), "algorithm 1 read as one update of (θ, α)",
    ),
    Mistake(
        "alpha_ignored", "θ − inner_lr g_s(θ), ∂/∂α = 0",
        "the inner step takes the number inner_lr; the learned rates are not used at all",
        "fast[n] = p - alpha[n] * g[n], not lr * g[n]",
        "jax.tree.map(lambda p, a, g: p - a * g, theta, alpha, g)",
        ({"rates": "inner_lr"},),
    ),
    Mistake(
        "alpha_times_inner_lr", "α → inner_lr · α",
        "the learned rate is multiplied by inner_lr: in Meta-SGD α is the whole rate",
        "p - alpha[n] * g[n], without lr",
        "p - a * g, without lr",
        ({"rates": "times inner_lr"},),
    ),
    Mistake(
        "alpha_one_per_tensor", "one rate per tensor",
        "a tensor's elements share one rate, its first or its mean: Meta-SGD has one rate per element",
        "alpha[n] has the shape of p, and is multiplied element by element; no alpha[n][0], no alpha[n].mean()",
        "a has the shape of p; no a.ravel()[0], no jnp.mean(a)",
        ({"rates": "first of tensor"}, {"rates": "mean of tensor"}, {"rates' gradient": "mean of tensor"},
         {"rates' gradient": "sum of tensor"}),
    ),
    Mistake(
        "alpha_exponential", "α → exp α",
        "the learned array is taken for the logarithm of the rate",
        "p - alpha[n] * g[n], without .exp()",
        "p - a * g, without jnp.exp",
        ({"rates": "exponential"},), "re-implementations with log-rates",
    ),
    Mistake(
        "alpha_made_positive", "|α|, or max(α, 0)",
        "negative rates were made positive, or 0: in Meta-SGD α is free, since its sign is learned too",
        "no abs(), clamp(min=0) or relu on alpha",
        "no jnp.abs, jnp.maximum(a, 0) or jax.nn.relu on alpha",
        ({"rates": "absolute"}, {"rates": "clamped at 0"}),
    ),
    Mistake(
        "alpha_gradient_negated", "∂/∂α = +g_s ∘ g_q(θ′)",
        "the gradient of the rates has the wrong sign: θ′ = θ − α ∘ g_s has the derivative −g_s",
        "where it is written by hand: -(g_s * g_q)",
        "where it is written by hand: -(g_s * g_q)",
        ({"rates' gradient": "negative"},),
    ),
    Mistake(
        "alpha_gradient_of_one_step", "∂/∂α of one step's use of α",
        "the rates serve in every inner step, and the gradient counts the first or the last of these only",
        "let autograd differentiate the whole loop; by hand, add −g_s(θₖ) ∘ vₖ over all k",
        "differentiate the whole scan; by hand, add −g_s(θₖ) ∘ vₖ over all k",
        ({"rates": "last step's"}, {"rates": "first step's"}), shows="rates",
    ),
    Mistake(
        "alpha_gradient_at_theta", "∂/∂α = −g_s ∘ g_q(θ)",
        "the gradient of the rates was written by hand, with the query gradient before adaptation, and with one step",
        "−g_s(θ) ∘ g_q(θ′): the query gradient at the adapted weights",
        "−g_s(θ) ∘ g_q(θ′): the query gradient at the adapted weights",
        ({"rates": "query at start"},),
    ),
    Mistake(
        "alpha_gradient_sum_over_tasks", "T ∂/∂α",
        "the gradient of the rates is a sum over tasks, that of θ a mean",
        "divide the loss by the number of tasks once, before the one backward() that serves θ and alpha",
        "one jnp.mean over tasks, differentiated with respect to both",
        ({"rates' gradient": "sum over tasks"},),
    ),
    Mistake(
        "alpha_through_a_function", "α → softplus α, sigmoid α, or α²",
        "the learned array goes through a function that makes it positive: in Meta-SGD it is the rate itself",
        "p - alpha[n] * g[n], without softplus, sigmoid or a square",
        "p - a * g, without jax.nn.softplus, jax.nn.sigmoid or a square",
        ({"rates": "softplus"}, {"rates": "sigmoid"}, {"rates": "squared"}), "learned rates in log or softplus space",
        classic=False,
    ),
    Mistake(
        "alpha_outside_of_the_hessian", "v ← v − α ∘ (H v)",
        "the backward pass by hand multiplies by the rates after the Hessian; the transpose of I − diag(α) H is "
        "I − H diag(α)",
        "v = v - hvp(alpha * v): multiply by alpha before the Hessian-vector product",
        "v - hvp(alpha * v): multiply by alpha before the Hessian-vector product",
        ({"rates": "outside of the Hessian"},), classic=False,
    ),
    Mistake(
        "alpha_gradient_first_order", "∂/∂α = −Σₖ g_s(θₖ) ∘ g_q(θ_K)",
        "the gradient of the rates takes the query gradient at θ_K in every step, where that of θ goes back through "
        "the steps that follow",
        "−g_s(θₖ) ∘ vₖ₊₁, with the v that has gone back through the steps after k",
        "−g_s(θₖ) ∘ vₖ₊₁, with the v that has gone back through the steps after k",
        ({"rates": "first order"},), classic=False,
    ),
    Mistake(
        "alpha_gradient_times_c", "c ∂/∂α",
        "the gradient of the rates is multiplied by a number (c), that of θ is right",
        "one backward() for θ and alpha, and no rate of its own for alpha",
        "one gradient with respect to both, without a factor for alpha",
        ({"rates' gradient times": 0.5},), free=Free("rates' gradient times", "c", (0.5, 2.0, 0.1)), classic=False,
    ),
    Mistake(
        "alpha_gradient_of_what_it_is_made_of", "∂/∂ log α = α ∘ ∂/∂α, 2√α ∘ ∂/∂α, …",
        "the gradient returned for the rates is that of what they are made of, such as their logarithm: ∂/∂α is "
        "multiplied by the derivative of exp, a square, softplus or sigmoid",
        "differentiate with respect to alpha[n] itself, not to alpha[n].log() as a leaf",
        "differentiate with respect to alpha itself, not to jnp.log(alpha)",
        tuple({"rates' gradient": by} for by in ("by the logarithm", "by the logarithm of its size", "by the root",
                                                 "by softplus's argument", "by sigmoid's argument")),
        shows="rates' gradient", classic=False,
    ),
    Mistake(
        "alpha_gradient_after_the_pullback", "∂/∂α = −Σₖ g_s(θₖ) ∘ vₖ, with vₖ for vₖ₊₁",
        "the backward pass by hand takes v through the Hessian first, and the gradient of the rates with the v after "
        "it: one factor too many",
        "of_alpha -= g[k] * v, and only then v = v - hvp(alpha * v)",
        "of_alpha - g * v, and only then v - hvp(alpha * v)",
        ({"rates": "after the pullback"},), classic=False,
    ),
    Mistake(
        "alpha_gradient_with_another_steps_gradient", "∂/∂α = −Σₖ g_s(θₖ₊₁) ∘ vₖ₊₁, or with g_s(θₖ₋₁), g_s(θ₀), …",
        "the gradient of the rates pairs v with the support gradient of another step than the one that made θₖ₊₁: an "
        "index is off by one, or one gradient serves all steps",
        "−g[k] * v with the v of θ[k + 1] and the g of θ[k]",
        "−g * v with the g of the carry before the step",
        tuple({"rates": which} for which in OTHER_GRADIENT), shows="rates", classic=False,
    ),
    Mistake(
        "alpha_of_other_elements", "P α in the place of α, P another order of the elements",
        "the rates are matched with the wrong elements: θ is one vector in the order of its names and α in that of the "
        "sorted names, or the other way round; or one is flattened by rows, and the other by columns",
        "theta[n] - alpha[n] * g[n] name by name, or one order for torch.cat of both",
        "jax.tree.map over θ, α and g, or ravel_pytree for all three: it sorts the names of a dict",
        tuple({"rates": change} for change in MIXED_UP), shows="rates", classic=False,
    ),
    Mistake(
        "alpha_gradient_over_steps", "∂/∂α / K",
        "the gradient of the rates is a mean over the inner steps, where it is a sum",
        "of_alpha -= g[k] * v, without / K", "the sum over k, not jnp.mean",
        ({"rates' gradient": "over steps"},), classic=False,
    ),
    Mistake(
        "alpha_gradient_of_one_task", "∂/∂α of one task alone",
        "the gradient of the rates is that of the first or the last task, over T or not: it is assigned in the loop "
        "over tasks",
        "of_alpha += …, over all tasks", "jnp.mean over all tasks, for alpha too",
        ({"rates": "last task's"}, {"rates": "last task's", "rates' gradient": "sum over tasks"},
         {"rates": "first task's"}, {"rates": "first task's", "rates' gradient": "sum over tasks"}), classic=False,
    ),
]  # fmt: skip
