"""CAVIA (Zintgraf, Shiarlis, Kurin, Hofmann and Whiteson, ICML 2019, arXiv 1810.03642): only a context adapts.

    φ₀ = 0,   φₖ₊₁ = φₖ − α ∂L_s(φₖ, θ)/∂φ,     G = d/dθ of the mean over tasks of L_q(φ_K, θ), also through φ_K

φ are `case.settings["context"]` further inputs, behind x: the model's layer "context" reads the parameter "context",
which is not among `case.params`. A candidate makes it, of zeros, for each task: loss({**params, "context": φ}, x, y).
It is not learned: the answer has the gradient of θ alone.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from ..mistakes.data import chunks
from ..mistakes.mistake import Free, Mistake
from .procedure import descend, judged, support_gradient, tasks_of

FORMULA = "dL_q(φ_K, θ)/dθ,   φ₀ = 0,   φₖ₊₁ = φₖ − α ∂L_s(φₖ, θ)/∂φ"
SETTINGS = {"context": "how many numbers φ has"}
SWITCHES = {
    "adapts": ("context", "context and theta", "theta"),
    "context from": ("zero", "one"),
    "context is": (0.0,),
    "context drawn": ("never", "default_rng(0)", "default_rng(42)", "RandomState(0)", "RandomState(42)"),
    "between steps": ("right", "detached"),
    "context in query": (
        "adapted",
        "zero",
        "detached",
        "averaged over tasks",
        "summed over tasks",
        "of the first task",
        "of the last task",
        "of the next task",
        "of the task before",
    ),
    "context of": ("its task", "all tasks"),
    "context stands": ("behind", "in front"),
    "contexts": (
        "of the task",
        "of each example",
        "of each example, on its own loss",
        "of each class",
        "of each class, on its own loss",
    ),
    "contexts are": ("averaged", "summed", "the last", "the first"),
    # the shared ones, which are not meant: the context is no tensor of the model
    **dict.fromkeys(
        ("inner_start_of", "query_start_of", "cut_of", "blind_of", "leaves_of", "some_steps_of"), ("nothing",)
    ),
    **dict.fromkeys(("clip_of", "momentum_of"), ("all",)),
}


def query_loss(at, theta, support, query):
    rate, size = at.number(at.case.inner_lr), at.case.settings["context"]
    if at.s["context stands"] == "in front":  # [φ x] w = [x φ] (w with its first rows behind the others)
        first = at.case.model["layers"][1]["params"][0]
        theta = {n: np.concatenate([p[size:], p[:size]]) if n == first else p for n, p in theta.items()}
    whole = lambda fast, k: {**theta, **fast}  # noqa: E731
    start = at.number(np.zeros(size) if at.s["context from"] == "zero" else np.ones(size))
    if at.s["context is"]:
        c = at.number(np.float64(at.s["context is"]))
        start = start * 0 + (
            c if at.s["context drawn"] == "never" else at.number(_drawn(at.s["context drawn"], size)) * c
        )
    start = {"context and theta": {"context": start, **theta}, "theta": theta}.get(at.s["adapts"], {"context": start})
    if at.s["adapts"] == "theta":
        whole = lambda fast, k: {**fast, "context": at.number(np.zeros(size))}  # noqa: E731

    def step(k, fast, g):
        if at.s["context of"] == "all tasks":
            each = [support_gradient(at, whole(fast, k), s, k) for s, _ in tasks_of(at)]
            g = at.map(lambda *gs: sum(gs[1:], gs[0]) / len(gs), *each)
        if at.s["between steps"] == "detached":
            fast = at.hold(fast)
        # φₖ₊₁ = φₖ − α ∂L_s/∂φ
        return {n: p - rate * g[n] for n, p in fast.items()}

    def gone_down(start, support):
        if at.s["contexts"] == "of the task":
            return descend(at, start, support, step, leaf)
        return [start, _together(at, [descend(at, start, part, short(share), leaf)[-1]
                                      for part, share in _parts(at, support)])]  # fmt: skip

    def short(share):
        """The step of a context whose examples are this share of the set."""
        return lambda k, fast, g: step(k, fast, g if share == 1 else at.map(lambda g: g * share, g))

    leaf = (lambda fast, k: whole(at.hold(fast), k)) if at.s["between steps"] == "detached" else whole
    path = gone_down(start, support)
    if "task" in at.s["context in query"]:
        ends = [gone_down(start, s)[-1] for s, _ in tasks_of(at)]
        t, last = at.place, len(ends) - 1
        places = {"of the first task": 0, "of the last task": last, "of the next task": (t + 1) % (last + 1),
                  "of the task before": t - 1}  # fmt: skip
        over = 1 if at.s["context in query"].startswith("summed") else last + 1
        place = places.get(at.s["context in query"])
        path[-1] = at.map(lambda *c: sum(c[1:], c[0]) / over, *ends) if place is None else ends[place]
    changed = {"zero": at.map(lambda p: p * 0, path[-1]), "detached": at.hold(path[-1])}
    path[-1] = changed.get(at.s["context in query"], path[-1])
    return judged(at, path, query, whole), whole(path[-1], at.steps)


def _drawn(how: str, size: int) -> np.ndarray:
    """Standard normal numbers, by one of NumPy's two generators and a usual seed."""
    kind, _, seed = how.rstrip(")").partition("(")
    return getattr(np.random, kind)(int(seed)).standard_normal(size)


def _parts(at, support) -> list[tuple]:
    """The parts of the support set that have a context each, and their shares of the mean loss."""
    if isinstance(support, list):
        raise ValueError("the support set is in pieces; wanted a whole set, whose parts have a context each")
    x, y = support
    if at.s["contexts"].startswith("of each example"):
        parts = chunks(support, 1)
    else:
        labels = np.asarray(y) if np.asarray(y).dtype.kind in "iu" else np.zeros(len(y), int)
        parts = [(x[labels == c], y[labels == c]) for c in np.unique(labels)]
    one = at.number(np.float64(1))
    return [(p, 1 if at.s["contexts"].endswith("own loss") else one * len(p[1]) / len(y)) for p in parts]


def _together(at, contexts: list[dict]) -> dict:
    """The one context that the query has."""
    how = at.s["contexts are"]
    if how.startswith("the "):
        return contexts[-1 if how == "the last" else 0]
    over = len(contexts) if how == "averaged" else 1
    return at.map(lambda *c: sum(c[1:], c[0]) / over, *contexts)


def posed(case, numbers):
    """The context is one more input, or several: the first layer's weight has as many rows more."""
    size, first = case.settings["context"], case.model["layers"][0]["params"][0]
    rows = 0.5 + numbers((size, case.params[first].shape[1]), 0.75)
    params = {n: np.concatenate([p, rows]) if n == first else p for n, p in case.params.items()}
    layers = [{"layer": "context", "params": ["context"]}, *case.model["layers"]]
    return dataclasses.replace(case, params=params, model=dict(case.model, layers=layers))


def closed_form(case):
    """With one linear layer, o = x w + φ u + b, the context's problem is quadratic, H = 2 u uᵀ: with r the mean of
    o − y and c = α vᵀu, going back v ← v − 2c u, and w, u, b have the gradients −2c x̄, −2(c φ + α r v), −2c."""
    if [m["layer"] for m in case.model["layers"]] != ["context", "linear"] or case.model["loss"] != "mse":
        return None
    (weight, b), size = case.params.values(), case.settings["context"]
    w, u = weight[:-size], weight[-size:, 0]
    values, grads = [], []
    for (x, y), (xq, yq) in case.batches():
        off = lambda phi, x=x, y=y: np.mean(x @ w + phi @ u + b - y)  # noqa: E731
        path = [np.zeros(size)]
        for _ in range(case.inner_steps):
            path.append(path[-1] - case.inner_lr * 2 * off(path[-1]) * u)
        r = xq @ w + path[-1] @ u + b - yq
        values.append(np.mean(r * r))
        v, of_w, of_b = 2 * np.mean(r) * u, 2 * xq.T @ r / len(xq), 2 * np.mean(r)
        of_u = 2 * np.mean(r) * path[-1]
        for phi in reversed(path[:-1]):
            c = case.inner_lr * v @ u
            of_w = of_w - 2 * c * np.mean(x, 0)[:, None]
            of_u = of_u - 2 * (c * phi + case.inner_lr * off(phi) * v)
            of_b, v = of_b - 2 * c, v - 2 * c * u
        grads.append((np.concatenate([of_w, of_u[:, None]]), of_b[None]))
    return np.mean(values), dict(zip(case.params, (np.mean(g, 0) for g in zip(*grads, strict=True)), strict=True))


def by_algorithms(case):
    from ...algorithms import cavia
    from .rungs import averaged_over_tasks

    meta = {**case.params, "context": np.zeros(case.settings["context"])}
    settings = cavia.Settings(inner_steps=case.inner_steps, inner_lr=case.inner_lr, context=case.settings["context"])
    value, g = averaged_over_tasks(case, cavia, meta, settings)
    return value, {n: g[n] for n in case.params}


CASES: dict[str, dict] = {
    "quadratic": dict(kind="linear 1-1 mse", inner_steps=2, tasks=2, inner_lr=0.25, shots=3, queries=4,
                      settings={"context": 2}),
    "one-step": dict(fine=True, kind="tanh 1-2-1 mse", inner_steps=1, tasks=3, inner_lr=1.0, shots=3, queries=4,
                     settings={"context": 2}),
    "one-number": dict(kind="square 1-1-1 mse", inner_steps=2, tasks=2, inner_lr=0.125, shots=3, queries=4,
                       settings={"context": 1}),
    "softmax": dict(kind="tanh 1-2-2 cross_entropy", inner_steps=3, tasks=2, inner_lr=1.0, shots=3, queries=4,
                    settings={"context": 3}),
    "many-steps": dict(kind="softplus 1-2-1 mse", inner_steps=5, tasks=1, inner_lr=0.25, shots=3, queries=4,
                       settings={"context": 1}),
}  # fmt: skip
# Without fomaml, which is the context detached, and query_before_adaptation, which is the context 0 in the query.
NOT_HERE = ("one_tensor_after_the_other_and_through_it",)  # the context adapts alone
SHARED = (
    "zero_gradient", "first_step_detached", "last_step_detached", "multi_step_loss", "one_step_more", "one_step_less",
    "stale_gradient", "restarted_steps", "inner_ascent", "alpha_times_n", "query_is_support", "support_is_query",
    "swapped_support_query", "gradients_accumulated", "sum_over_tasks", "last_task_only", "first_task_only",
    "doubled_gradient", "negated_gradient",
)  # fmt: skip
MISTAKES = [
    Mistake(
        "contexts_not_reset", "φ₀ of task t is φ_K of task t − 1",
        "the context is not set to 0 at the start of a task: it goes on from the task before",
        "context = torch.zeros(d, requires_grad=True) at the start of every task (model.reset_context())",
        "start each task's loop with jnp.zeros(d), not with the carry of the task before",
        ({"start": "leaked, detached"}, {"start": "leaked"},
         {"start": "leaked, detached", "factors": "detached"}),
    ),
    Mistake(
        "cavia_context_detached", "∂L_q(φ, θ)/∂θ at φ = φ_K",
        "the context's gradient was detached: θ learns at a given φ_K, not through it (first-order CAVIA)",
        "torch.autograd.grad(loss_s, context, create_graph=True)",
        "no stop_gradient around the context's gradient; differentiate the whole task",
        ({"factors": "detached"}, {"context in query": "detached"}), "cavia --first-order",
    ),
    Mistake(
        "cavia_theta_adapted_too", "θ and φ adapt",
        "the network's parameters adapt in the inner loop beside the context",
        "torch.autograd.grad(loss_s, context): the gradient with respect to the context alone",
        "jax.grad(loss, argnums=…) of the context alone",
        ({"adapts": "context and theta"}, {"adapts": "context and theta", "factors": "detached"}),
    ),
    Mistake(
        "cavia_theta_adapted_instead", "θ adapts, φ stays 0",
        "the network's parameters adapt and the context does not: this is MAML with inputs that are 0",
        "torch.autograd.grad(loss_s, context), and update the context",
        "jax.grad of the context alone, and update the context",
        ({"adapts": "theta"}, {"adapts": "theta", "factors": "detached"}),
    ),
    Mistake(
        "cavia_context_zero_in_query", "∂L_q(0, θ)/∂θ",
        "the query loss does not see the adapted context: the forward pass uses 0, or the one before",
        "loss({**params, 'context': context}, xq, yq) with the adapted context",
        "loss({**params, 'context': context}, xq, yq) with the loop's last context",
        ({"context in query": "zero"},),
    ),
    Mistake(
        "cavia_detached_between_steps", "φₖ is a constant in step k",
        "the context became a new leaf after each step: only the last step's derivative is left",
        "context = context - lr * g, without .detach().requires_grad_() between the steps",
        "no stop_gradient on the carry",
        ({"between steps": "detached"},),
    ),
    Mistake(
        "cavia_context_from_one", "φ₀ = 1",
        "the context starts from ones",
        "torch.zeros(d)",
        "jnp.zeros(d)",
        ({"context from": "one"},),
    ),
    Mistake(
        "cavia_one_context_for_all_tasks", "φ adapts to the mean over tasks of L_s",
        "all tasks share one context, which was adapted to all of them together",
        "a context per task: adapt inside the loop over tasks",
        "vmap over tasks with a context each",
        ({"context of": "all tasks"},),
    ),
    Mistake(
        "cavia_context_in_front", "[φ x] in the place of [x φ]",
        "the context was put in front of the inputs, so that it meets the wrong rows of the first weight",
        "torch.cat([x, context.expand(len(x), -1)], -1)",
        "jnp.concatenate([x, jnp.broadcast_to(context, (len(x), d))], -1)",
        ({"context stands": "in front"},),
    ),
    Mistake(
        "cavia_context_from_a_number", "φ₀ = c",
        "the context starts from a number other than 0",
        "torch.zeros(d)", "jnp.zeros(d)",
        ({"context is": 0.1}, {"context is": 0.1, "factors": "detached"}),
        free=Free("context is", "c", (0.1, 0.01, 0.5, 1.0)), classic=False,
    ),
    Mistake(
        "cavia_context_drawn", "φ₀ = c · standard normal numbers",
        "the context starts from random numbers, as weights do, and not from 0",
        "torch.zeros(d), not torch.randn(d)", "jnp.zeros(d), not jax.random.normal(key, (d,))",
        tuple({"context is": 0.1, "context drawn": by} | cut
              for by in ("default_rng(0)", "default_rng(42)", "RandomState(0)", "RandomState(42)")
              for cut in ({}, {"factors": "detached"})),
        free=Free("context is", "c", (0.1, 0.01, 1.0, 0.5, 0.02)), shows="context drawn", classic=False,
    ),
    Mistake(
        "cavia_context_of_each_part", "φᵢ,ₖ₊₁ = φᵢ,ₖ − α/N ∂Lᵢ(φᵢ,ₖ)/∂φ for each example, φ = mean over i of φᵢ",
        "each support example, or each class, has a context of its own, and the query has their mean or sum: a mean "
        "over the set makes each step N times too short, and later steps are not those of one context",
        "one context per task, of the shape (d,), expanded to the examples inside the model",
        "one context per task, broadcast to the examples inside the model; no vmap over the examples",
        tuple({"contexts": of, "contexts are": are} | cut
              for of in ("of each example", "of each example, on its own loss", "of each class",
                         "of each class, on its own loss")
              for are in ("averaged", "summed", "the last", "the first") for cut in ({}, {"factors": "detached"})),
        shows="contexts", classic=False,
    ),
    Mistake(
        "cavia_context_of_other_tasks", "L_q(φ_K of another task, θ), or of the tasks' mean",
        "the query's context is that of another task, or the mean or the sum of all tasks' contexts",
        "each task's query loss takes the context that adapted to its own support set",
        "vmap over tasks with a context each, and no mean of the contexts",
        tuple({"context in query": which} for which in ("averaged over tasks", "summed over tasks", "of the last task",
              "of the first task", "of the next task", "of the task before")),
        shows="context in query", classic=False,
    ),
]  # fmt: skip
