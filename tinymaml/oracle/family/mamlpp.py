"""MAML++ (Antoniou, Edwards and Storkey, ICLR 2019, arXiv 1810.09502): a rate per tensor and step, learned; a loss of
every step; batch norm's γ and β per step.

    θₖ₊₁ = θₖ − αₖ g_s(θₖ; γₖ, βₖ),   k = 0 … K − 1,
    F = Σ_{k=1…K} wₖ L_q(θₖ; γ_{k−1}, β_{k−1}),     G = ∂/∂(θ, γ, β, α) of the mean over tasks of F

The case's parameters hold θ; for each tensor that adapts, those of `case.adapt`, "alpha.name" of shape (K,), its rates;
and where the model has batch norm, γ and β with K rows, of shape (K, C), which do not adapt: the gradient of step k
takes row k, and the query loss of θₖ row k − 1, that of the step which made θₖ. The model's loss takes one row:
loss({**fast, "gamma": params["gamma"][k], …}, x, y). Batch norm uses the statistics of the batch at hand. w is
`case.settings["loss_weights"]`, K numbers whose sum is 1. `case.inner_lr` has no part in it.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from ..mistakes.mistake import Mistake
from .procedure import PLAIN, descend, sloped, with_what_is_left

FORMULA = "∂F/∂(θ, γ, β, α),   F = Σₖ wₖ L_q(θₖ; γ_{k−1}, β_{k−1}),   θₖ₊₁ = θₖ − αₖ g_s(θₖ; γₖ, βₖ)"
SETTINGS = {"loss_weights": "w₁ … w_K, of the query losses after each step"}
PREFIX = "alpha."
SWITCHES = {
    "weights": ("right", "uniform", "last only", "ones", "reversed", "a step early", "first only", "over K",
                "rising", "of the next step", "of the step before", "over their largest", "squared", "falling",
                "of the next step, round", "of the step before, round"),
    "losses": ("go back together", "join a step early", "go back at once", "go back at once, to θ alone",
               "first order but the last", "detached but the last"),
    "rows of": ("both", "the first norm", "the second norm"),
    "rates": ("right", "not learned", "next step's", "previous step's", "first step's", "last step's",
              "mean over steps", "first tensor's", "times inner_lr", "inner_lr", "reversed", "last tensor's",
              "next tensor's", "first step's learned", "last step's learned", "next step's, round",
              "previous step's, round"),
    "row in support": ("right", "first", "next", "last", "previous", "reversed", "mean", "next, round",
                       "previous, round"),
    "row in query": ("right", "next", "first", "last", "previous", "reversed", "mean", "next, round",
                     "previous, round"),
    "norm": ("right", "adapted"),
    "not learned": ("nothing", "norm", "rates"),
    "rows' gradient": ("right", "sum of rows", "mean of rows", "in row 0"),
    # the shared ones, which are not meant: the loss has every step's
    "query_decay": (0.0,), "iterates": ("last",), "iterate_decay": (0.0,), "query_before_weight": (0.0,),
    "support_weight": (0.0,), "support_before_weight": (0.0,), "support_way_weight": (0.0,), "judged_share": (0.0,),
    "outer_proximal": (0.0,), "query_start_of": ("nothing",), "query_start_tensor": (0.0,),
}  # fmt: skip
AFTERWARDS = ("not learned", "rows' gradient")


def query_loss(at, meta, support, query):
    case, names, rate = at.case, at.case.adapt, at.number(at.case.inner_lr)
    weights, last = [at.number(w) for w in case.settings["loss_weights"]], case.inner_steps - 1
    theta = {n: p for n, p in meta.items() if not n.startswith(PREFIX)}
    norms = tuple(n for n in theta if n not in names)
    steps, clipped = last + 1, lambda k: min(max(k, 0), last)

    def row(theta, k, own=None):
        """Row k of γ and β; of one of them its own, where the code at hand takes another of the other one alone."""
        which = norms.index if at.s["rows of"] != "both" else None
        place = {"the first norm": 0, "the second norm": 1}.get(at.s["rows of"])
        of = {n: k if own is None or which is None or which(n) == place else own for n in norms}
        return {n: (np.sum(p, 0) / len(p) if of[n] is None else p[clipped(of[n])]) if n in norms else p
                for n, p in theta.items()}  # fmt: skip

    def of_support(theta, k):
        rows = {"first": 0, "next": k + 1, "last": last, "previous": k - 1, "reversed": last - k, "mean": None,
                "next, round": (k + 1) % steps, "previous, round": (k - 1) % steps}  # fmt: skip
        return row(theta, rows.get(at.s["row in support"], k), k)

    def of_query(theta, k):
        rows = {"next": k, "first": 0, "last": last, "previous": k - 2, "reversed": last - k + 1, "mean": None,
                "next, round": k % steps, "previous, round": (k - 2) % steps}  # fmt: skip
        return row(theta, rows.get(at.s["row in query"], k - 1), k - 1)

    def rate_of(n, k):
        of = {"first tensor's": names[0], "last tensor's": names[-1],
              "next tensor's": names[(names.index(n) + 1) % len(names)]}  # fmt: skip
        alpha = meta[PREFIX + of.get(at.s["rates"], n)]
        learned = {"not learned": False, "first step's learned": k == 0, "last step's learned": k == last}
        alpha = alpha if learned.get(at.s["rates"], True) else at.hold(alpha)
        if at.s["rates"] == "mean over steps":
            return np.sum(alpha) / alpha.size
        other = {"next step's": k + 1, "previous step's": k - 1, "first step's": 0, "last step's": last,
                 "reversed": last - k, "next step's, round": (k + 1) % steps,
                 "previous step's, round": (k - 1) % steps}  # fmt: skip
        a = alpha[clipped(other.get(at.s["rates"], k))]
        return {"times inner_lr": a * rate, "inner_lr": a * 0 + rate}.get(at.s["rates"], a)

    def cut(theta, k):
        """θₖ, where the losses so far have gone back to it already; θ has what comes to it, or only the first's."""
        if not at.s["losses"].startswith("go back at once") or k == 0:
            return theta
        to_theta = at.s["losses"] == "go back at once"
        return {n: at.hold(p) + (meta[n] - at.hold(meta[n]) if to_theta else 0) if n in names else p
                for n, p in theta.items()}  # fmt: skip

    def step(k, theta, g):
        theta = cut(theta, k)
        # θₖ₊₁ = θₖ − αₖ g_s(θₖ)
        new = {n: theta[n] - g[n] * rate_of(n, k) if n in names else theta[n] for n in theta}
        if at.s["norm"] == "adapted":
            for n in set(norms) & set(theta):
                new[n] = np.stack([p - rate * g[n] if i == k else p for i, p in enumerate(theta[n])])
        return new

    path = descend(at, theta, support, step, lambda theta, k: of_support(cut(theta, k), k), own=row)
    how = at.s["weights"]

    def judged(k):
        if at.s["losses"].endswith("but the last") and 0 < k < len(path) - 1:
            through = at.s["losses"].startswith("first order")
            return {n: at.hold(p) + (meta[n] - at.hold(meta[n]) if through else 0) if n in names else p
                    for n, p in path[k].items()}  # fmt: skip
        if at.s["losses"] != "join a step early" or k + 1 >= len(path):
            return path[k]
        # ∂L_q at θₖ, taken back through the step behind it, too
        after = path[k + 1]
        return {n: at.hold(p) + (after[n] - at.hold(after[n])) if n in names else p for n, p in path[k].items()}

    changed = {"uniform": [1 / (last + 1)] * (last + 1), "last only": [0] * last + [1], "ones": [1] * (last + 1),
               "reversed": weights[::-1], "first only": [1] + [0] * last,
               "over K": [w / (last + 1) for w in weights], "of the next step": [*weights[1:], weights[-1]],
               "of the step before": [weights[0], *weights[:-1]],
               "of the next step, round": [*weights[1:], weights[0]],
               "of the step before, round": [weights[-1], *weights[:-1]], "squared": [w * w for w in weights],
               "over their largest": [w / max(map(float, weights)) for w in weights],
               "falling": [2 * k / ((last + 1) * (last + 2)) for k in range(last + 1, 0, -1)],
               "rising": [2 * k / ((last + 1) * (last + 2)) for k in range(1, last + 2)]}  # fmt: skip
    points = [k - (how == "a step early") for k in range(1, last + 2)]
    if at.s["query"] == "before adaptation":
        points = [0] * len(points)
    # F = Σₖ wₖ L_q(θₖ)
    losses = [w * at.query_loss_and_grad(of_query(judged(min(k, len(path) - 1)), k), query)[0]
              for w, k in zip(changed.get(how, weights), points, strict=True)]  # fmt: skip
    value = sum(losses[1:], losses[0])
    if at.s["result"] == "accumulated":
        for more in at.memory["support losses"]:
            value = value + sloped(at, value * 0, more)
    return with_what_is_left(at, value), path[-1]


def finish(s, case, grads):
    rates = [n for n in grads if n.startswith(PREFIX)]
    norms = [n for n in grads if n not in case.adapt and n not in rates]
    zero = {"norm": norms, "rates": rates}.get(s["not learned"], ())
    grads = {n: g * 0 if n in zero else g for n, g in grads.items()}
    how, first = s["rows' gradient"], np.arange(case.inner_steps)[:, None] == 0
    change = {"sum of rows": lambda g: g * 0 + np.sum(g, 0), "mean of rows": lambda g: g * 0 + np.sum(g, 0) / len(g),
              "in row 0": lambda g: first * np.sum(g, 0), "right": lambda g: g}[how]  # fmt: skip
    return {n: change(g) if n in norms else g for n, g in grads.items()}


def posed(case, numbers):
    """K rows of γ and β, and K rates of each other tensor, about `inner_lr`."""
    steps, out, rates = case.inner_steps, {}, {}
    for n, p in case.params.items():
        if n in ("gamma", "beta"):
            out[n] = np.stack([p + numbers(p.shape, 0.25) for _ in range(steps)])
        else:
            out[n], rates[PREFIX + n] = p, case.inner_lr * (1 + numbers((steps,), 0.5, 8))
    return dataclasses.replace(case, params=out | rates, adapt=tuple(n for n in out if n not in ("gamma", "beta")))


def closed_form(case):
    """On quadratics ∂F/∂αₖ = −⟨gₖ, v⟩ with v = ∂F/∂θₖ₊₁, and ∂F/∂θₖ = (I − αₖA) v + wₖ g_q(θₖ)."""
    if case.model["layers"][0]["layer"] != "quadratic":
        return None
    alpha, weights = case.params[PREFIX + "theta"], [0.0, *case.settings["loss_weights"]]
    values, grads = [], []
    for (xs, _), (xq, _) in case.batches():
        (a, b), (aq, bq) = ((m[:, :-1], m[:, -1]) for m in (np.mean(x, 0) for x in (xs, xq)))
        path = [case.params["theta"]]
        for rate in alpha:
            path.append(path[-1] - rate * (a @ path[-1] - b))
        values.append(sum(w * (p @ aq @ p / 2 - bq @ p) for w, p in zip(weights, path, strict=True)))
        v, of_alpha = weights[-1] * (aq @ path[-1] - bq), 0 * alpha
        for k in reversed(range(len(alpha))):
            of_alpha[k] = -(a @ path[k] - b) @ v
            v = v - alpha[k] * a @ v + weights[k] * (aq @ path[k] - bq)
        grads.append((v, of_alpha))
    of_theta, of_alpha = (np.mean(g, 0) for g in zip(*grads, strict=True))
    return np.mean(values), {"theta": of_theta, PREFIX + "theta": of_alpha}


def by_algorithms(case):
    from ...algorithms import mamlpp
    from .rungs import averaged_over_tasks

    theta = {n: p for n, p in case.params.items() if not n.startswith(PREFIX)}
    rates = {f"['{n}']": case.params[PREFIX + n] for n in case.adapt}
    settings = mamlpp.Settings(inner_steps=case.inner_steps, inner_lr=1.0)
    weights = np.array(case.settings["loss_weights"])
    value, g = averaged_over_tasks(case, mamlpp, {"theta": theta, "rates": rates}, settings, None, weights)
    return value, {n: g["theta"][n] for n in theta} | {PREFIX + n: g["rates"][f"['{n}']"] for n in case.adapt}


CASES: dict[str, dict] = {
    "quadratic": dict(kind="quadratic 2", inner_steps=3, tasks=2, inner_lr=0.125, shots=2, queries=2,
                      settings={"loss_weights": [0.125, 0.25, 0.625]}),
    "batch-norm": dict(kind="batch norm 1", inner_steps=3, tasks=2, inner_lr=0.125, shots=4, queries=3,
                       settings={"loss_weights": [0.25, 0.125, 0.625]}),
    "last-loss": dict(kind="batch norm 1", inner_steps=2, tasks=2, inner_lr=0.25, shots=4, queries=3,
                      settings={"loss_weights": [0.0, 1.0]}, comment="only the last loss counts, as after E epochs"),
    "one-step": dict(fine=True, kind="tanh 1-2-1 mse", inner_steps=1, tasks=3, inner_lr=0.25, shots=3, queries=4,
                     settings={"loss_weights": [1.0]}),
    "softmax": dict(kind="tanh 1-1-2 cross_entropy", inner_steps=2, tasks=2, inner_lr=0.5, shots=3, queries=4,
                    settings={"loss_weights": [0.375, 0.625]}),
    "many-steps": dict(kind="square 1-1-1 mse", inner_steps=5, tasks=1, inner_lr=0.0625, shots=3, queries=4,
                       settings={"loss_weights": [0.0625, 0.125, 0.1875, 0.25, 0.375]}),
}  # fmt: skip
# The number of steps is that of the rates' elements, and the loss has every step's query loss.
SHARED = tuple(n for n in PLAIN if n not in ("one_step_more", "one_step_less", "multi_step_loss"))
MISTAKES = [
    Mistake(
        "mamlpp_uniform_weights", "wₖ = 1/K",
        "every step's query loss has the same weight: the weights of the first epoch",
        "sum(w * loss for w, loss in zip(case.settings['loss_weights'], losses)), of the epoch at hand",
        "jnp.dot(weights, losses), with the weights of the epoch at hand",
        ({"weights": "uniform"},),
    ),
    Mistake(
        "mamlpp_last_loss_only", "F = L_q(θ_K)",
        "only the last query loss counts: the weights after the last epoch of the multi-step loss",
        "compute the query loss after every inner step, and weigh all of them",
        "return every step's query loss from the scan, and weigh all of them",
        ({"weights": "last only"},),
    ),
    Mistake(
        "mamlpp_weights_missing", "F = Σₖ L_q(θₖ)",
        "the query losses are added without weights",
        "multiply each loss by its weight; the weights' sum is 1",
        "jnp.dot(weights, losses), not jnp.sum(losses)",
        ({"weights": "ones"},),
    ),
    Mistake(
        "mamlpp_weights_reversed", "w_K … w₁",
        "the weights are in the reverse order: the first step's loss has the last one's weight",
        "w[k] is the weight of the loss after step k + 1",
        "w[k] is the weight of the loss after step k + 1",
        ({"weights": "reversed"}, {"weights": "first only"}),
    ),
    Mistake(
        "mamlpp_loss_before_step", "F = Σₖ wₖ L_q(θ_{k−1})",
        "each query loss is taken before its step's update: θ₀ is counted, θ_K is not",
        "update the fast weights first, then compute the query loss of this step",
        "update the carry first, then compute the query loss of this step",
        ({"weights": "a step early"},),
    ),
    Mistake(
        "mamlpp_rates_of_another_step", "α_{k+1}, or α_{k−1}, in step k",
        "the rates are those of the next step, or of the step before",
        "alpha[n][k] in step k = 0 … K − 1 (the code's arrays have K + 1 elements)",
        "scan over the K rates from the first",
        ({"rates": "next step's"}, {"rates": "previous step's"}),
    ),
    Mistake(
        "mamlpp_one_rate_for_all_steps", "α₀, α_{K−1} or the mean in all steps",
        "all steps share one rate: the first one's, the last one's, or their mean",
        "alpha[n][k], with the step's index",
        "scan over the rates",
        ({"rates": "first step's"}, {"rates": "last step's"}, {"rates": "mean over steps"}),
    ),
    Mistake(
        "mamlpp_one_rate_for_all_tensors", "the first tensor's αₖ for all",
        "all tensors share the first one's rates: per step, but not per tensor",
        "params['alpha.' + n][k] for the tensor n",
        "params['alpha.' + n][k] for the tensor n",
        ({"rates": "first tensor's"},),
    ),
    Mistake(
        "mamlpp_rates_not_learned", "∂/∂α = 0",
        "the rates get no gradient: they were detached, or turned into numbers, before the inner step",
        "p - alpha[n][k] * g[n], without .item(), .data or .detach()",
        "differentiate with respect to the rates too; no stop_gradient on them",
        ({"rates": "not learned"}, {"not learned": "rates"}),
    ),
    Mistake(
        "mamlpp_rates_ignored", "inner_lr in the place of αₖ, or times it",
        "the inner step takes inner_lr, or multiplies the rates by it: αₖ is the whole rate",
        "p - alpha[n][k] * g[n], without lr",
        "p - alpha[n][k] * g[n], without lr",
        ({"rates": "inner_lr"}, {"rates": "times inner_lr"}),
    ),
    Mistake(
        "mamlpp_norm_row_of_next_step", "γₖ, βₖ in the query loss of θₖ",
        "the query loss takes batch norm's row of the next step; it belongs to the step which made θₖ, and has its row",
        "num_step=k in the query's forward pass after the update of step k, as in the support's",
        "row k in the query loss that follows the update of step k",
        ({"row in query": "next"},),
    ),
    Mistake(
        "mamlpp_norm_row_of_query", "γ₀, β₀ (or the last row) in every query loss",
        "the query's forward pass takes one row of batch norm for all steps, or that of the step before",
        "pass num_step=k to the query's forward pass too",
        "index γ and β by the step in the query loss too",
        ({"row in query": "first"}, {"row in query": "last"}, {"row in query": "previous"}),
    ),
    Mistake(
        "mamlpp_norm_row_of_support", "one row of γ, β in every inner step",
        "the support's forward pass takes one row of batch norm for all steps, or that of the next step",
        "pass num_step=k to the support's forward pass",
        "index γ and β by the step in the support loss",
        ({"row in support": "first"}, {"row in support": "last"}, {"row in support": "next"},
         {"row in support": "first", "row in query": "first"}, {"row in support": "last", "row in query": "last"}),
    ),
    Mistake(
        "mamlpp_norm_adapted", "γ and β adapt with inner_lr",
        "batch norm's γ and β adapt in the inner loop; they are learned in the outer loop only",
        "leave 'gamma' and 'beta' out of the inner update (enable_inner_loop_optimizable_bn_params=False)",
        "update the names in case.adapt alone",
        ({"norm": "adapted"},),
    ),
    Mistake(
        "mamlpp_norm_not_learned", "∂/∂γ = ∂/∂β = 0",
        "batch norm's γ and β get no gradient",
        "the outer gradient is with respect to γ and β too",
        "differentiate with respect to γ and β too",
        ({"not learned": "norm"},),
    ),
    Mistake(
        "mamlpp_norm_rows_added", "the sum, or the mean, over steps in every row",
        "the rows of γ and β share one gradient: they were expanded from one row, or indexed with the wrong axis",
        "γ of shape (K, C), indexed by the step: gamma[k]",
        "γ of shape (K, C), indexed by the step: gamma[k]",
        ({"rows' gradient": "sum of rows"}, {"rows' gradient": "mean of rows"}, {"rows' gradient": "in row 0"}),
    ),
    Mistake(
        "mamlpp_weights_over_steps", "wₖ/K, or wₖ = 2k/(K (K + 1))",
        "the weighted losses are averaged over the steps, although the weights' sum is 1, or the weights are others, "
        "that rise with the step",
        "sum(w * loss for w, loss in zip(weights, losses)), with case.settings['loss_weights'] and without / K",
        "jnp.dot(weights, losses), without / K", ({"weights": "over K"}, {"weights": "rising"}), classic=False,
    ),
    Mistake(
        "mamlpp_rates_reversed", "α_{K−1−k} in step k",
        "the rates are in the reverse order: the first step has the last one's",
        "alpha[n][k] in step k", "scan over the rates from the first",
        ({"rates": "reversed"}, {"rates": "reversed", "factors": "detached"}), classic=False,
    ),
    Mistake(
        "mamlpp_norm_row_one_early", "γ_{k−1}, β_{k−1} in step k",
        "the support's forward pass takes batch norm's row of the step before, or the rows in reverse order",
        "pass num_step=k to the support's forward pass", "index γ and β by the step in the support loss",
        ({"row in support": "previous"}, {"row in support": "previous", "row in query": "previous"},
         {"row in support": "reversed"}), classic=False,
    ),
    Mistake(
        "mamlpp_rates_shifted_round", "α_{k−1} in step k, α_{K−1} in the first; or α_{k+1}, α₀ in the last",
        "the rates are shifted by one step, round the end: index k − 1 is −1 in the first step, which is the last row; "
        "or it is (k + 1) % K",
        "alpha[n][k] in step k = 0 … K − 1; no [k - 1], no torch.roll", "scan over the K rates from the first",
        ({"rates": "previous step's, round"}, {"rates": "next step's, round"}), shows="rates", classic=False,
    ),
    Mistake(
        "mamlpp_norm_rows_shifted_round", "γ_{k−1}, β_{k−1} in step k, the last row in the first; or γ_{k+1}, β_{k+1}",
        "the rows of batch norm's γ and β are shifted by one step, round the end, in the support's forward pass, in "
        "the query's or in both: index −1 is the last row",
        "pass num_step=k to both forward passes", "index γ and β by the step in both losses",
        tuple(dict.fromkeys(rows, f"{which}, round") for which in ("previous", "next")
              for rows in (("row in support",), ("row in query",), ("row in support", "row in query"))), classic=False,
    ),
    Mistake(
        "mamlpp_weights_shifted_round", "w_{k−1} for wₖ, and w_K for w₁; or w_{k+1}, and w₁ for w_K",
        "the weights of the query losses are shifted by one step, round the end: w[k − 1] for the loss after step k, "
        "where k counts from 0",
        "w[k] is the weight of the loss after step k + 1", "w[k] is the weight of the loss after step k + 1",
        ({"weights": "of the step before, round"}, {"weights": "of the next step, round"}),
        shows="weights", classic=False,
    ),
    Mistake(
        "mamlpp_losses_join_a_step_early", "wₖ (I − Hₖ αₖ) g_q(θₖ) in the place of wₖ g_q(θₖ) for k < K",
        "the backward loop by hand adds the query gradient of θₖ before it goes back through step k, and not after it: "
        "every loss but the last has a factor too many",
        "v = v - hvp(alpha[k] * v), and then v = v + w[k] * g_q(theta[k])",
        "v - hvp(alpha[k] * v), and then + w[k] * g_q(theta[k])",
        ({"losses": "join a step early"},), classic=False,
    ),
    Mistake(
        "mamlpp_early_losses_cut", "wₖ g_q(θₖ), or 0, for k < K in the place of wₖ ∂L_q(θₖ)/∂θ",
        "only the last query loss goes back through the inner steps: those before have their first-order gradient, or "
        "none but batch norm's",
        "sum(w * loss for w, loss in zip(weights, losses)) of fast weights that are not detached",
        "no stop_gradient on the fast weights of any step's query loss",
        ({"losses": "first order but the last"}, {"losses": "detached but the last"}), shows="losses", classic=False,
    ),
    Mistake(
        "mamlpp_losses_go_back_at_once", "∂wₖ L_q(θₖ)/∂θₖ₋₁ for each k, with θₖ₋₁ held",
        "each step's loss is sent back at once, and the fast weights are then detached: no loss goes back further than "
        "the step before it, and factors are missing; their gradients are added, or lost but the first",
        "add the weighted losses, and send their sum back once, after the last step",
        "one jax.grad of the sum of all weighted losses; no stop_gradient between the steps",
        ({"losses": "go back at once"}, {"losses": "go back at once, to θ alone"}), shows="losses", classic=False,
    ),
    Mistake(
        "mamlpp_weights_of_another_step", "w₍ₖ₊₁₎, or w₍ₖ₋₁₎, in the place of wₖ",
        "each loss has the weight of the step after or before it, or weights of another shape: squared, over the "
        "largest, or falling from step to step",
        "w[k] is the weight of the loss after step k + 1", "w[k] is the weight of the loss after step k + 1",
        tuple({"weights": how} for how in ("of the next step", "of the step before", "squared", "over their largest",
              "falling")), shows="weights", classic=False,
    ),
    Mistake(
        "mamlpp_rates_of_another_tensor", "αₖ of the last or the next tensor",
        "a tensor has the rates of another one: the order of the names is another, or they are shifted by one",
        "params['alpha.' + n][k] for the tensor n", "params['alpha.' + n][k] for the tensor n",
        ({"rates": "last tensor's"}, {"rates": "next tensor's"}), shows="rates", classic=False,
    ),
    Mistake(
        "mamlpp_rates_learned_in_one_step", "∂/∂αₖ = 0 for all k but one",
        "only the first or the last step's rates get a gradient",
        "no .detach() or .item() on the rates of any step", "no stop_gradient on the rates of any step",
        ({"rates": "first step's learned"}, {"rates": "last step's learned"}), shows="rates", classic=False,
    ),
    Mistake(
        "mamlpp_row_of_one_norm", "γ of its own step, and β of another one; or the other way round",
        "of batch norm's γ and β only one has the row of its step: the other has the first, the last, the next or the "
        "step before's, or the mean of all",
        "gamma[k] and beta[k], both with the step's index", "gamma[k] and beta[k], both with the step's index",
        tuple({"rows of": of, "row in support": row, "row in query": row}
              for of in ("the second norm", "the first norm")
              for row in ("first", "last", "next", "previous", "reversed", "mean")),
        shows="rows of", classic=False,
    ),
    Mistake(
        "mamlpp_norm_rows_of_both_sets", "row k′ in the support's and in the query's forward pass",
        "both forward passes have another row of batch norm's γ and β than the step's, or the mean of the rows",
        "pass num_step=k to both forward passes", "index γ and β by the step in both losses",
        tuple({"row in support": row, "row in query": row} for row in ("next", "reversed", "mean")),
        shows="row in support", classic=False,
    ),
    Mistake(
        "mamlpp_reversed_and_one_norm", "w_K … w₁; and β (or γ) of the first or last step in all",
        "the weights are in the reverse order, and one of γ and β has the same row in every step",
        "w[k] is the weight of the loss after step k + 1; gamma[k] and beta[k]",
        "w[k] is the weight of the loss after step k + 1; gamma[k] and beta[k]",
        tuple({"weights": "reversed", "rows of": of, "row in support": row, "row in query": row}
              for of in ("the second norm", "the first norm") for row in ("first", "last")),
        shows="rows of", classic=False,
    ),
]  # fmt: skip
