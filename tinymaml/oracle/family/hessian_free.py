"""HF-MAML (Fallah, Mokhtari and Ozdaglar, AISTATS 2020, arXiv 1908.10400): differences of gradients for Hessians.

    θ₀ = θ,   θₖ₊₁ = θₖ − α g_s(θₖ),     v = g_q(θ_K)
    for k = K − 1 … 0:     v ← v − α [g_s(θₖ + εv) − g_s(θₖ − εv)] / 2ε,   ε = δ/‖v‖,     G = mean over tasks of v

δ is case.settings["delta"], the length by which θₖ is displaced; α `case.inner_lr`, K `case.inner_steps`. ‖v‖ is the
norm over all parameters together, of the v at hand, so that ε is new in every step. The paper's algorithm 3 has ε = δ,
one inner step, and v = g_q(θ′). δ is not small here: the difference is what is asked for, and not the Hessian, from
which it differs in proportion to δ². `meta_loss` is the mean of L_q(θ_K).
"""

from __future__ import annotations

import numpy as np

from ..arithmetic import side
from ..mistakes.data import pieces
from ..mistakes.mistake import Free, Mistake
from .procedure import descend, dot, support_gradient

FORMULA = "v ← v − α [g_s(θₖ + εv) − g_s(θₖ − εv)] / 2ε,   ε = δ/‖v‖,   k = K − 1 … 0,   from v = g_q(θ_K)"
SETTINGS = {"delta": "δ, the length of the displacement of θₖ in the difference of gradients"}
SWITCHES = {
    "difference": ("central", "forward", "backward", "exact"),
    "displacement": (
        "δ/‖v‖",
        "δ",
        "δ per tensor",
        "fixed at the first",
        "times 1 + ‖θ‖",
        "times ‖θ‖",
        "times max(1, ‖θ‖)",
        "over ‖v‖²",
        "over the largest",
        "over the sum of sizes",
        "over the root mean square",
        "times α",
    ),
    "epsilon": (0.0,),
    "divisor": ("2ε", "ε", "4ε", "2δ", "none"),
    "rate": ("α", "missing", "α²"),
    "sign": ("minus", "plus"),
    "at": ("step", "start", "end", "one step late", "one step early"),
    "of": ("support", "query", "both", "support of the first task", "support of the last task"),
    "direction": ("carried", "not carried", "query at start", "support"),
    "steps gone back": ("all", "last", "first"),
    "order": ("last first", "first first"),
}


def gradient(at, theta, support, query):
    rate = at.number(at.case.inner_lr)
    # θₖ₊₁ = θₖ − α g_s(θₖ)
    path = descend(at, theta, support, lambda k, p, g: at.map(lambda p, g: p - rate * g, p, g))
    end = path[0] if at.s["query"] == "before adaptation" else path[-1]
    value, v = at.query_loss_and_grad(end, query)
    start = {"query at start": lambda: at.query_loss_and_grad(theta, query)[1],
             "support": lambda: support_gradient(at, path[-1], support)}  # fmt: skip
    along = start.get(at.s["direction"], lambda: None)()
    along = v if at.s["direction"] == "not carried" else along
    at.memory.pop("epsilon", None)
    steps = list(range(len(path) - 1))
    steps = {"last": steps[-1:], "first": steps[:1]}.get(at.s["steps gone back"], steps)
    for k in [] if at.s["factors"] == "detached" else steps if at.s["order"] == "first first" else steps[::-1]:
        places = {"start": 0, "end": -1, "one step late": k + 1, "one step early": max(k - 1, 0)}
        point = path[places.get(at.s["at"], k)]
        product = _product(at, point, _batch(at, support, query), v if along is None else along)
        times = {"missing": 1, "α²": rate * rate}.get(at.s["rate"], rate)
        times = -times if at.s["sign"] == "plus" else times
        # v ← v − α [g_s(θₖ + εv) − g_s(θₖ − εv)] / 2ε
        v = at.map(lambda v, h, times=times: v - times * h, v, product)
    return value, path[-1], v


def _batch(at, support, query):
    """The examples whose gradients are subtracted."""
    if at.s["of"].endswith("task"):
        return at.tasks[0 if "first" in at.s["of"] else -1][0]
    return {"query": query, "both": [*pieces(support), *pieces(query)]}.get(at.s["of"], support)


def _product(at, point, batch, v):
    """[g(θ + εv) − g(θ − εv)] / 2ε, or what the code at hand has for it."""
    if at.s["difference"] == "exact":
        return at.along(point, batch, v)
    delta = at.number(at.case.settings["delta"])
    norms = {n: at.root(np.sum(x * x)) for n, x in v.items()}
    whole = at.root(dot(v, v))
    eps = {n: {"δ": delta, "δ per tensor": delta / norms[n]}.get(at.s["displacement"], delta / whole) for n in v}
    if "‖θ‖" in at.s["displacement"]:
        size = at.root(dot(point, point))
        larger = {"times 1 + ‖θ‖": 1 + size, "times ‖θ‖": size, "times max(1, ‖θ‖)": max(1, size)}
        eps = {n: e * larger[at.s["displacement"]] for n, e in eps.items()}
    if at.s["displacement"] in OTHER_SIZES:
        size = OTHER_SIZES[at.s["displacement"]](at, v)
        eps = {n: delta / size for n in v}
    if at.s["displacement"] == "fixed at the first":
        eps = at.memory.setdefault("epsilon", eps)
    if at.s["epsilon"]:
        eps = dict.fromkeys(v, at.number(np.float64(at.s["epsilon"])))
    gradient = lambda sign: at.loss_and_grad({n: point[n] + sign * eps[n] * v[n] for n in v}, batch)[1]  # noqa: E731
    above, below = {
        "forward": lambda: (gradient(1), gradient(0)), "backward": lambda: (gradient(0), gradient(-1)),
    }.get(at.s["difference"], lambda: (gradient(1), gradient(-1)))()  # fmt: skip
    sides = 2 if at.s["difference"] == "central" else 1
    over = {"ε": lambda e: e if sides == 2 else 2 * e, "4ε": lambda e: 2 * sides * e, "2δ": lambda e: sides * delta,
            "none": lambda e: 1}.get(at.s["divisor"], lambda e: sides * e)  # fmt: skip
    return {n: (above[n] - below[n]) / over(eps[n]) for n in v}


def _sizes(v) -> list:
    return [x * side(x) for part in v.values() for x in np.ravel(part)]


# What stands in the place of ‖v‖.
OTHER_SIZES = {
    "over ‖v‖²": lambda at, v: dot(v, v), "over the largest": lambda at, v: max(_sizes(v)),
    "over the sum of sizes": lambda at, v: sum(_sizes(v)),
    "over the root mean square": lambda at, v: at.root(dot(v, v) / len(_sizes(v))),
    "times α": lambda at, v: at.root(dot(v, v)) / at.number(at.case.inner_lr),
}  # fmt: skip


def closed_form(case):
    """On quadratics the difference is the Hessian, so that G = (I − αA)ᴷ g_q(θ_K), as MAML's."""
    if case.model["layers"][0]["layer"] != "quadratic":
        return None
    theta, values, grads = case.params["theta"], [], []
    for (xs, _), (xq, _) in case.batches():
        (a, b), (aq, bq) = ((np.mean(x, 0)[:, :-1], np.mean(x, 0)[:, -1]) for x in (xs, xq))
        way = np.linalg.matrix_power(np.eye(len(theta)) - case.inner_lr * a, case.inner_steps)
        best = np.linalg.solve(a, b)
        end = best + way @ (theta - best)
        values.append(end @ aq @ end / 2 - bq @ end)
        grads.append(way @ (aq @ end - bq))
    return np.mean(values), {"theta": np.mean(grads, 0)}


def by_algorithms(case):
    from ...algorithms import hessian_free
    from .rungs import of_theta

    return of_theta(case, hessian_free, delta=case.settings["delta"])


CASES: dict[str, dict] = {
    "quadratic": dict(kind="quadratic 2", inner_steps=3, tasks=2, inner_lr=0.125, shots=2, queries=2,
                      settings={"delta": 0.25}),
    "one-step": dict(fine=True, kind="tanh 1-2-1 mse", inner_steps=1, tasks=3, inner_lr=0.5, shots=3, queries=4,
                     settings={"delta": 0.25}),
    "square": dict(kind="square 1-1-1 mse", inner_steps=2, tasks=2, inner_lr=0.125, shots=3, queries=4,
                   settings={"delta": 0.375}),
    "softmax": dict(kind="tanh 1-1-3 cross_entropy", inner_steps=3, tasks=2, inner_lr=0.5, shots=3, queries=6,
                    settings={"delta": 0.5}),
    "logistic": dict(kind="linear 2-1 binary_cross_entropy", inner_steps=2, tasks=1, inner_lr=0.75, shots=4, queries=2,
                     settings={"delta": 0.75}),
    "many-steps": dict(kind="tanh 1-1-1 mse", inner_steps=4, tasks=2, inner_lr=0.5, shots=3, queries=4,
                       settings={"delta": 0.75}),
}  # fmt: skip
SHARED = (
    "fomaml", "query_before_adaptation", "one_step_more", "one_step_less", "stale_gradient", "restarted_steps",
    "inner_ascent", "alpha_times_n", "task_leak", "query_is_support", "support_is_query", "swapped_support_query",
    "sum_over_tasks", "last_task_only", "first_task_only", "doubled_gradient", "negated_gradient",
)  # fmt: skip
_DIFFERENCE = "hv = (g(theta + eps * v) - g(theta - eps * v)) / (2 * eps), with eps = delta / norm(v)"
MISTAKES = [
    Mistake(
        "hf_one_sided", "v − α [g_s(θₖ + εv) − g_s(θₖ)] / ε",
        "the difference of gradients is one-sided, forward or backward: its error falls as δ, not as δ²",
        _DIFFERENCE, _DIFFERENCE, ({"difference": "forward"}, {"difference": "backward"}),
    ),
    Mistake(
        "hf_exact_hessian", "v − α H v",
        "the Hessian-vector product is exact: this is MAML, and the case asks for the difference of gradients",
        _DIFFERENCE, _DIFFERENCE, ({"difference": "exact"},), kind="convention",
    ),
    Mistake(
        "hf_delta_times_v", "ε = δ",
        "v is multiplied by δ, as in the paper; the case asks for a displacement of the length δ, ε = δ/‖v‖",
        "eps = delta / torch.sqrt(sum((x * x).sum() for x in v.values()))",
        "eps = delta / optax.global_norm(v)",
        ({"displacement": "δ"},), "algorithm 3 of the paper", kind="convention",
    ),
    Mistake(
        "hf_fixed_epsilon", "ε is one number everywhere",
        "v is multiplied by a fixed number, which is not δ and does not depend on ‖v‖",
        "eps = delta / norm of v, with case.settings['delta']",
        "eps = delta / optax.global_norm(v), with case.settings['delta']",
        ({"epsilon": 1e-2},), free=Free("epsilon", "ε", (1e-2, 1e-3, 0.1, 1.0)),
    ),
    Mistake(
        "hf_norm_per_tensor", "ε = δ/‖v‖ for each tensor apart",
        "each tensor of v is scaled by its own norm: the displacement has another direction than v",
        "one norm over all tensors: torch.sqrt(sum((x * x).sum() for x in v.values()))",
        "one norm over all leaves: optax.global_norm(v)",
        ({"displacement": "δ per tensor"},),
    ),
    Mistake(
        "hf_norm_of_first_step", "ε = δ/‖g_q(θ_K)‖ in every step",
        "ε is that of the first v, g_q(θ_K), in all steps; v changes from step to step, and so does its norm",
        "compute eps inside the loop over k",
        "compute eps inside the scan",
        ({"displacement": "fixed at the first"},),
    ),
    Mistake(
        "hf_divided_by_delta", "v − α [g_s(θₖ + εv) − g_s(θₖ − εv)] / 2δ",
        "the difference is divided by 2δ, and not by 2ε: the product is one with v/‖v‖, ‖v‖ times too short",
        _DIFFERENCE, _DIFFERENCE, ({"divisor": "2δ"}, {"divisor": "none"}),
    ),
    Mistake(
        "hf_two_missing", "v − α [g_s(θₖ + εv) − g_s(θₖ − εv)] / ε",
        "the divisor does not fit the difference: the 2 of 2ε is missing, or is there twice, or a one-sided difference "
        "(the weights go back by ε, and not by 2ε) is over 2ε; the Hessian term is doubled, or halved",
        _DIFFERENCE, _DIFFERENCE, ({"divisor": "ε"}, {"divisor": "4ε"}, {"difference": "forward", "divisor": "ε"}),
    ),
    Mistake(
        "hf_sign", "v + α [g_s(θₖ + εv) − g_s(θₖ − εv)] / 2ε",
        "the sign of the Hessian term is wrong",
        "v = v - inner_lr * hv", "v = v - inner_lr * hv", ({"sign": "plus"},),
    ),
    Mistake(
        "hf_inner_rate", "v − [g_s(θₖ + εv) − g_s(θₖ − εv)] / 2ε",
        "the inner rate is missing in the Hessian term, or is there twice",
        "v = v - inner_lr * hv", "v = v - inner_lr * hv", ({"rate": "missing"}, {"rate": "α²"}),
    ),
    Mistake(
        "hf_point", "the gradients of all steps around θ, or around θ_K",
        "the differences of gradients are taken around one point for all steps: θ, or the adapted θ_K; that of step k "
        "belongs around θₖ",
        "keep the weights of each inner step, and go back through them",
        "stack the weights of each step in the scan, and go back through them",
        ({"at": "start"}, {"at": "end"}),
    ),
    Mistake(
        "hf_of_query", "v − α [g_q(θₖ + εv) − g_q(θₖ − εv)] / 2ε",
        "the differences are of gradients of the query loss; the inner steps descend the support loss",
        "take gradients of loss(·, xs, ys)", "take gradients of loss(·, xs, ys)", ({"of": "query"},),
    ),
    Mistake(
        "hf_direction", "the product with g_q(θ), or with g_s",
        "the direction of the difference is another vector: the query gradient before adaptation, or the support's",
        "v = the query gradient at the adapted weights", "v = the query gradient at the adapted weights",
        ({"direction": "query at start"}, {"direction": "support"}),
    ),
    Mistake(
        "hf_direction_not_carried", "g_q − α Σₖ Hₖ g_q",
        "every step's product is with g_q(θ_K), where it is with the v that the later steps have left",
        "inside the loop over k: v = v - inner_lr * hv(theta[k], v)",
        "carry v through the scan",
        ({"direction": "not carried"},),
    ),
    Mistake(
        "hf_one_step_back", "one factor of K",
        "only one inner step has a Hessian term, the last or the first",
        "for k in reversed(range(K)): all steps", "lax.scan(…, reverse=True) over all steps",
        ({"steps gone back": "last"}, {"steps gone back": "first"}),
    ),
    Mistake(
        "hf_order", "k = 0 … K − 1",
        "the steps are gone through forwards: going back, the last inner step comes first",
        "for k in reversed(range(K))", "lax.scan(…, reverse=True)", ({"order": "first first"},),
    ),
    Mistake(
        "hf_epsilon_by_size_of_theta", "ε = δ (1 + ‖θₖ‖)/‖v‖, δ ‖θₖ‖/‖v‖, or δ max(1, ‖θₖ‖)/‖v‖",
        "the displacement is relative to the length of θ, as in common code for Hessian-vector products; the case asks "
        "for the length δ itself",
        "eps = delta / torch.sqrt(sum((x * x).sum() for x in v.values()))",
        "eps = delta / optax.global_norm(v)",
        ({"displacement": "times 1 + ‖θ‖"}, {"displacement": "times ‖θ‖"}, {"displacement": "times max(1, ‖θ‖)"}),
        "Andrei, 2009", classic=False,
    ),
    Mistake(
        "hf_point_of_another_step", "v − α [g_s(θₖ₊₁ + εv) − g_s(θₖ₊₁ − εv)] / 2ε, or around θₖ₋₁",
        "the differences of gradients are taken around the weights after the step, or before the one before",
        "the weights from which step k started: keep θ₀ … θ_{K−1}",
        "stack the carry that each step of the scan starts from",
        ({"at": "one step late"}, {"at": "one step early"}), shows="at", classic=False,
    ),
    Mistake(
        "hf_of_another_size", "ε = δ/‖v‖², δ/max |v|, δ/Σ |v|, δ √n/‖v‖, or αδ/‖v‖",
        "the displacement is scaled by another size of v than its Euclidean norm, or by the inner rate, too",
        "eps = delta / torch.sqrt(sum((x * x).sum() for x in v.values()))", "eps = delta / optax.global_norm(v)",
        tuple({"displacement": how} for how in OTHER_SIZES), shows="displacement", classic=False,
    ),
    Mistake(
        "hf_of_other_examples", "differences of gradients on other examples than the task's support set",
        "the differences of gradients are taken on another task's support set, or on both sets of the task",
        "take gradients of loss(·, xs, ys) of the task at hand",
        "take gradients of loss(·, xs, ys) of the task at hand",
        ({"of": "support of the last task"}, {"of": "support of the first task"}, {"of": "both"}), shows="of",
        classic=False,
    ),
]  # fmt: skip
