"""Reptile (Nichol, Achiam and Schulman, 2018, arXiv 1803.02999): θ moves to where the steps on a task lead.

    θ₀ = θ,   θₖ₊₁ = θₖ − α g_s(θₖ),     G = mean over tasks of θ − θ_K = α mean over tasks of Σₖ g_s(θₖ)

α is `case.inner_lr`, K `case.inner_steps`; every inner step is one of plain gradient descent on the whole support set.
G is what an outer optimiser subtracts; it is divided neither by α nor by K, and the outer rate ε is not in it. The
query set has no part in it; `meta_loss`, if it is returned, is the mean of L_q(θ_K).
"""

from __future__ import annotations

import numpy as np

from ..mistakes.mistake import Free, Mistake
from .procedure import descend

FORMULA = "θ − θ_K,   θₖ₊₁ = θₖ − α g_s(θₖ)"
SETTINGS: dict[str, str] = {}
SWITCHES = {
    "gradient": ("θ − θ_K", "over inner rate", "over inner rate and K", "over K", "times outer rate", "last step's",
                 "first step's", "mean of the path", "g_s at the end", "g_q at the end", "g_q through", "direction",
                 "sum of the path", "without the first step", "in the middle",
                 "weights at the end", "mean of the path with θ"),
    "adapts on": ("support", "both"),
    "tasks": ("from θ", "one after the other", "one after the other by ε", "one after the other by 1/T"),
}  # fmt: skip


def gradient(at, theta, support, query):
    if at.s["adapts on"] == "both":
        support = tuple(np.concatenate(pair) for pair in zip(support, query, strict=True))
    start = at.memory.get("moved", theta)
    path = _path(at, start, support)
    value, g = at.query_loss_and_grad(path[-1], query)
    if at.s["tasks"] != "from θ":
        # θ ← θ + ε (θ_K − θ) after each task
        eps = {"ε": at.case.outer_lr, "T": 1 / at.case.tasks}.get(at.s["tasks"][-1], 1.0)
        eps = at.number(np.float64(eps))
        at.memory["moved"] = at.map(lambda p, end: p + eps * (end - p), start, path[-1])
    return value, path[-1], _gradient(at, theta if at.s["tasks"] == "from θ" else start, path, support, g)


def _path(at, theta, support):
    rate = at.number(at.case.inner_lr)
    # θₖ₊₁ = θₖ − α g_s(θₖ)
    return descend(at, theta, support, lambda k, phi, g: at.map(lambda phi, g: phi - rate * g, phi, g))


def _gradient(at, theta, path, support, g):
    how, rate, steps = at.s["gradient"], at.number(at.case.inner_lr), max(len(path) - 1, 1)
    minus = lambda a, b, times=1: at.map(lambda a, b: (a - b) * times, a, b)  # noqa: E731
    if how == "g_s at the end":
        return at.loss_and_grad(path[-1], support)[1]
    if how == "g_q at the end":
        return g
    if how == "g_q through":
        for phi in reversed(path[:-1]):
            g = at.map(lambda v, h: v - rate * h, g, at.along(phi, support, g))
        return g
    if how == "mean of the path":
        return at.map(lambda p, *ends: p - sum(ends[1:], ends[0]) / len(ends), theta, *(path[1:] or path))
    if how == "sum of the path":
        return at.map(lambda p, *ends: sum(p - end for end in ends), theta, *(path[1:] or path))
    if how == "mean of the path with θ":
        return at.map(lambda p, *ends: p - sum(ends[1:], ends[0]) / len(ends), theta, *path)
    if how == "weights at the end":
        return path[-1]
    ends = {
        "last step's": (path[-2:][0], path[-1]),
        "first step's": (theta, path[:2][-1]),
        "without the first step": (path[:2][-1], path[-1]),
        "in the middle": (theta, path[len(path) // 2]),
    }.get(how, (theta, path[-1]))
    # G = θ − θ_K
    out = minus(*ends)
    over = {"over inner rate": rate, "over inner rate and K": rate * steps, "over K": steps}.get(how)
    times = {"direction": -1,
             "times outer rate": at.number(np.float64(at.case.outer_lr))}.get(how, 1)  # fmt: skip
    return at.map(lambda x: x * times if over is None else x / over, out)


def closed_form(case):
    """On quadratics θ_K = A⁻¹b + (I − αA)ᴷ (θ − A⁻¹b)."""
    if case.model["layers"][0]["layer"] != "quadratic":
        return None
    theta, values, grads = case.params["theta"], [], []
    for (xs, _), (xq, _) in case.batches():
        (a, b), (aq, bq) = ((np.mean(x, 0)[:, :-1], np.mean(x, 0)[:, -1]) for x in (xs, xq))
        best, contraction = np.linalg.solve(a, b), np.eye(len(theta)) - case.inner_lr * a
        end = best + np.linalg.matrix_power(contraction, case.inner_steps) @ (theta - best)
        values.append(end @ aq @ end / 2 - bq @ end)
        grads.append(theta - end)
    return np.mean(values), {"theta": np.mean(grads, 0)}


def by_algorithms(case):
    from ...algorithms import reptile
    from .rungs import averaged_over_tasks

    settings = reptile.Settings(inner_steps=case.inner_steps, inner_lr=case.inner_lr)
    return averaged_over_tasks(case, reptile, case.params, settings)


CASES: dict[str, dict] = {
    "quadratic": dict(kind="quadratic 2", inner_steps=3, tasks=2, inner_lr=0.125, shots=2, queries=2),
    "one-step": dict(fine=True, kind="tanh 1-2-1 mse", inner_steps=1, tasks=3, inner_lr=0.25, shots=3, queries=4),
    "square": dict(kind="square 1-1-1 mse", inner_steps=2, tasks=2, inner_lr=0.0625, shots=3, queries=4),
    "softmax": dict(kind="tanh 1-1-3 cross_entropy", inner_steps=4, tasks=2, inner_lr=0.5, shots=3, queries=6),
    "logistic": dict(kind="linear 2-1 binary_cross_entropy", inner_steps=5, tasks=1, inner_lr=0.5, shots=4, queries=2),
    "image": dict(kind="conv tanh 1", inner_steps=3, tasks=2, inner_lr=0.25, shots=4, queries=2),
}  # fmt: skip
SHARED = (
    "one_step_more", "one_step_less", "stale_gradient", "restarted_steps", "inner_ascent", "alpha_times_n",
    "support_is_query", "sum_over_tasks", "last_task_only", "first_task_only", "doubled_gradient", "negated_gradient",
)  # fmt: skip
NAMED_HERE = ("inner_momentum", "momentum_leaks", "inner_weight_decay")
MISTAKES = [
    Mistake(
        "reptile_direction", "θ_K − θ",
        "the sign is wrong: θ_K − θ is the direction in which θ moves, and the gradient, which is subtracted, θ − θ_K",
        "p.grad = theta[n] - fast[n], for an optimiser that subtracts",
        "jax.tree.map(lambda p, w: p - w, theta, adapted), for an optimiser that subtracts",
        ({"gradient": "direction"},),
    ),
    Mistake(
        "reptile_over_inner_rate", "(θ − θ_K)/α, or (θ − θ_K)/αK",
        "θ − θ_K was divided by the inner rate (and by the number of steps), so that it is the sum (or the mean) of "
        "the inner gradients",
        "p.grad = theta[n] - fast[n], without / inner_lr",
        "p - w, without / inner_lr",
        ({"gradient": "over inner rate"}, {"gradient": "over inner rate and K"}, {"gradient": "over K"}),
        "section 3 of the paper", kind="convention",
    ),
    Mistake(
        "reptile_outer_rate_inside", "ε (θ − θ_K)",
        "the outer rate is in the gradient already: the outer optimiser multiplies by it again",
        "return theta[n] - fast[n]; the outer step multiplies by outer_lr",
        "return p - w; the outer step multiplies by outer_lr",
        ({"gradient": "times outer rate"},),
    ),
    Mistake(
        "reptile_last_step_only", "θ_{K−1} − θ_K = α g_s(θ_{K−1})",
        "only the last inner step is in the difference: this is what supervised-reptile calls FOML",
        "keep a copy of θ before the inner loop, not of the weights before the last step",
        "subtract from the θ that the scan started from, not from its last carry but one",
        ({"gradient": "last step's"},), "openai/supervised-reptile, --foml",
    ),
    Mistake(
        "reptile_first_step_only", "θ − θ₁ = α g_s(θ)",
        "only the first inner step is in the difference: this is joint training",
        "subtract the weights after all inner steps",
        "subtract the scan's last carry",
        ({"gradient": "first step's"},),
    ),
    Mistake(
        "reptile_mean_of_path", "θ − mean(θ₁ … θ_K)",
        "the difference is to the mean of the inner steps' weights, not to the last ones",
        "theta[n] - fast[n] after the loop",
        "subtract the scan's last carry, not the mean of what it stacks",
        ({"gradient": "mean of the path"},),
    ),
    Mistake(
        "reptile_gradient_at_end", "g_s(θ_K)",
        "the gradient of the support loss at θ_K came in the place of the difference θ − θ_K",
        "no backward() after the inner loop: theta[n] - fast[n]",
        "no jax.grad after the inner loop: p - w",
        ({"gradient": "g_s at the end"},),
    ),
    Mistake(
        "reptile_query_gradient", "g_q(θ_K), or MAML's gradient",
        "the query loss was differentiated: this is FOMAML, or MAML; Reptile has no query loss",
        "no query loss: theta[n] - fast[n]",
        "no jax.grad of a query loss: p - w",
        ({"gradient": "g_q at the end"}, {"gradient": "g_q through"}),
    ),
    Mistake(
        "reptile_adapts_on_both", "the inner loop's data are support and query together",
        "the query examples are in the inner loop too: it has the support set alone",
        "adapt on (xs, ys)",
        "adapt on (xs, ys)",
        ({"adapts on": "both"},), "the original code, which has no query set",
    ),
    Mistake(
        "reptile_sequential", "each task starts from where the one before has left θ",
        "θ is moved, or not restored, after each task: the case asks for the batched form, in which all tasks start "
        "from θ",
        "load θ again before each task, and step once with the mean of the differences",
        "vmap the adaptation over tasks, all from the same θ",
        ({"tasks": "one after the other"}, {"tasks": "one after the other by ε"}), "algorithm 1, the serial form",
    ),
    Mistake(
        "reptile_inner_momentum", "m ← μ m + g_s(θₖ),   θₖ₊₁ = θₖ − α m",
        "the inner optimiser has momentum; the case asks for plain gradient descent",
        "torch.optim.SGD(fast, lr=inner_lr), without momentum",
        "optax.sgd(inner_lr), without momentum",
        ({"momentum": 0.9},), free=Free("momentum", "μ", (0.9, 0.5, 0.99)),
    ),
    Mistake(
        "reptile_state_leaks", "m goes on from task to task",
        "the inner optimiser's momentum goes on from one task to the next; it starts at zero in each, and the case "
        "asks for none",
        "make a new optimiser for each task",
        "opt.init(theta) for each task",
        ({"momentum": 0.9, "kept": "moments, detached"},), "openai/supervised-reptile #11",
        free=Free("momentum", "μ", (0.9, 0.5, 0.99)),
    ),
    Mistake(
        "reptile_inner_decay", "θₖ₊₁ = θₖ − α (g_s(θₖ) + c θₖ)",
        "the inner optimiser has weight decay; the case asks for none",
        "torch.optim.SGD(fast, lr=inner_lr), without weight_decay",
        "optax.sgd(inner_lr), without add_decayed_weights",
        ({"decay": 0.1},), free=Free("decay", "c", (0.1, 5e-4, 1e-4, 1e-3, 1e-2)),
    ),
    Mistake(
        "reptile_task_after_task", "θ ← θ + (θ_K − θ)/T after each task,   G = θ − θ at the end",
        "θ moves after every task (by 1/T, by ε or all the way), the next task begins from there, and G is how far θ "
        "has come; all tasks ought to begin from the same θ",
        "load θ again before each task, and step once with the mean of the differences",
        "vmap the adaptation over tasks, all from the same θ; no scan over tasks",
        ({"tasks": "one after the other by 1/T"}, {"tasks": "one after the other", "outer": "sum"},
         {"tasks": "one after the other by ε", "outer": "sum", "gradient": "times outer rate"}),
        "algorithm 1, the serial form", classic=False,
    ),
    Mistake(
        "reptile_inner_momentum_of_another_kind", "m ← μ m + g,   θₖ₊₁ = θₖ − α (g + μ m), or m ← μ m + (1 − μ) g",
        "the inner optimiser has Nesterov's momentum, or an averaged one; the case asks for plain gradient descent",
        "torch.optim.SGD(fast, lr=inner_lr), without momentum, nesterov and dampening",
        "optax.sgd(inner_lr), without momentum, nesterov and optax.ema",
        tuple({"momentum": 0.9, "momentum_like": like}
              for like in ("nesterov", "averaged", "dampened after the first")),
        free=Free("momentum", "μ", (0.9, 0.5, 0.99)), classic=False,
    ),
    Mistake(
        "reptile_other_points", "Σₖ (θ − θₖ), θ₁ − θ_K, θ − θ_{K/2}, θ_K, or θ − mean(θ₀ … θ_K)",
        "the difference is not that of θ and θ_K: it is summed over the steps, begins after the first step, ends in "
        "the middle, is the adapted weights themselves, or is to a mean in which θ counts, too",
        "theta[n] - fast[n] after the loop", "subtract the scan's last carry from what it started from",
        tuple({"gradient": how} for how in ("sum of the path", "without the first step", "in the middle",
              "weights at the end", "mean of the path with θ")), shows="gradient", classic=False,
    ),
]  # fmt: skip
