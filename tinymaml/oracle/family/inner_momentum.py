"""MAML whose inner loop is gradient descent with momentum (Polyak, 1964, in PyTorch's form), differentiated through.

    m₀ = 0,   mₖ₊₁ = μ mₖ + g_s(θₖ),   θₖ₊₁ = θₖ − α mₖ₊₁,     G = ∂/∂θ of the mean over tasks of L_q(θ_K)

α is `case.inner_lr`, μ is `case.settings["momentum"]`. The buffer m starts at 0 in every task, and has a derivative.
"""

from __future__ import annotations

import numpy as np

from ..mistakes.mistake import Free, Mistake
from .procedure import PLAIN, descend, judged

FORMULA = "∂L_q(θ_K)/∂θ,   mₖ₊₁ = μ mₖ + g_s(θₖ),   θₖ₊₁ = θₖ − α mₖ₊₁"
SETTINGS = {"momentum": "μ"}
SWITCHES = {
    "buffer": ("right", "detached", "leaked", "leaked, detached", "none", "from first gradient", "used before update",
               "from the start"),
    "dampening": ("none", "always", "after the first step"),
    "average": ("none", "corrected"),
    "nesterov": ("no", "PyTorch's", "at the point ahead"),
    "numbers": ("right", "exchanged", "rate twice"),
    "mu": (0.0,), "decoupled": (0.0,),
    # the backward pass by hand: u ← μ u − α v,  v ← v + Hₖ u
    "adjoint": ("right", "μ (u − αv)", "u − αv", "μ² u − αv", "(1 − μ) u − αv", "μu − v", "μu + αv", "−μu − αv",
                "u without −αv"),
    "momentum": (0.0,), "decay_like": ("in the gradient",),  # the shared ones, which are not meant
}  # fmt: skip


def query_loss(at, theta, support, query):
    rate, mu = at.number(at.case.inner_lr), at.number(at.s["mu"] or at.case.settings["momentum"])
    if at.s["numbers"] == "exchanged":
        rate, mu = mu, rate
    rate = rate * rate if at.s["numbers"] == "rate twice" else rate
    kept, first = at.s["buffer"], theta
    m = at.map(lambda p: at.hold(p) * 0, theta)
    if kept.startswith("leaked"):
        m = at.memory.get("m", m)
        m = at.hold(m) if kept == "leaked, detached" else m

    def step(k, theta, g):
        nonlocal m
        if at.s["decoupled"]:
            decay = at.number(np.float64(at.s["decoupled"]))
            theta = at.map(lambda p: p - rate * decay * p, theta)
        damp = at.s["dampening"] == "always" or at.s["dampening"] == "after the first step" and k > 0
        weight = 1 - mu if damp or at.s["average"] == "corrected" else 1
        before = {"detached": at.hold(m), "none": at.map(lambda m: m * 0, m)}.get(kept, m)
        before = g if kept == "from first gradient" and k == 0 else before
        # mₖ₊₁ = μ mₖ + g_s(θₖ)
        new = at.map(lambda g, m: mu * m + g * weight, g, before)
        m, used = m | new, before if kept == "used before update" else new
        if at.s["nesterov"] == "PyTorch's":
            used = at.map(lambda g, m: g + mu * m, g, new)
        if at.s["average"] == "corrected":
            used = at.map(lambda m: m / (1 - mu ** (k + 1)), new)
        if kept == "from the start":
            # θₖ₊₁ = θₖ − α g + μ (θₖ − θ₀)
            return at.map(lambda p, g, p0: p - rate * g + mu * (p - p0), theta, g, {n: first[n] for n in theta})
        if at.s["adjoint"] != "right":
            m = m | _gone_back(at, mu, before, new, g)
            used = _used(at, rate, mu, before, m)
        # θₖ₊₁ = θₖ − α mₖ₊₁
        return at.map(lambda p, m: p - rate * m, theta, used)

    ahead = lambda theta, k: at.map(lambda p, m: p - rate * mu * m, theta, m)  # noqa: E731
    path = descend(at, theta, support, step, *([ahead] if at.s["nesterov"] == "at the point ahead" else []))
    at.memory["m"] = m
    return judged(at, path, query), path[-1]


def _gone_back(at, mu, before, new, g):
    """mₖ₊₁, with the derivative by mₖ that the code at hand has for μ."""
    times = {"u − αv": 1, "μ² u − αv": mu * mu, "(1 − μ) u − αv": 1 - mu, "−μu − αv": -mu}.get(at.s["adjoint"], mu)
    return {n: at.hold(x) + (before[n] - at.hold(before[n])) * times + (g[n] - at.hold(g[n])) for n, x in new.items()}


def _used(at, rate, mu, before, new):
    """mₖ₊₁ in the step, with the derivative by which −αv enters the adjoint of the buffer."""
    if at.s["adjoint"] == "u without −αv":  # what this step's own gradient gives comes a step too late
        return at.map(lambda m, b: at.hold(m) + (b - at.hold(b)) * mu, new, {n: before[n] for n in new})
    times = {"μ (u − αv)": mu, "μu − v": 1 / rate, "μu + αv": -1}.get(at.s["adjoint"])
    return new if times is None else at.map(lambda m: at.hold(m) + (m - at.hold(m)) * times, new)


def closed_form(case):
    """On quadratics (θ, m) ↦ M (θ, m) + c,  M = [I − αA, −αμI; A, μI]:  G = the first rows of (Mᵀ)ᴷ (v, 0)."""
    if case.model["layers"][0]["layer"] != "quadratic":
        return None
    theta, rate, mu = case.params["theta"], case.inner_lr, case.settings["momentum"]
    eye, values, grads = np.eye(len(theta)), [], []
    for (xs, _), (xq, _) in case.batches():
        (a, b), (aq, bq) = ((m[:, :-1], m[:, -1]) for m in (np.mean(x, 0) for x in (xs, xq)))
        m = np.block([[eye - rate * a, -rate * mu * eye], [a, mu * eye]])
        state = np.concatenate([theta, 0 * theta])
        for _ in range(case.inner_steps):
            state = m @ state + np.concatenate([rate * b, -b])
        end = state[: len(theta)]
        values.append(end @ aq @ end / 2 - bq @ end)
        v = np.concatenate([aq @ end - bq, 0 * theta])
        grads.append((np.linalg.matrix_power(m.T, case.inner_steps) @ v)[: len(theta)])
    return np.mean(values), {"theta": np.mean(grads, 0)}


def by_algorithms(case):
    from ...algorithms import maml
    from .rungs import of_theta

    return of_theta(case, maml, inner_optimizer="momentum", inner_momentum=case.settings["momentum"])


CASES: dict[str, dict] = {
    "quadratic": dict(kind="quadratic 2", inner_steps=4, tasks=2, inner_lr=0.0625, shots=2, queries=2,
                      settings={"momentum": 0.75}),
    "one-step": dict(fine=True, kind="tanh 1-2-1 mse", inner_steps=1, tasks=2, inner_lr=0.25, shots=3, queries=4,
                     settings={"momentum": 0.5}),
    "square": dict(kind="square 1-1-1 mse", inner_steps=2, tasks=2, inner_lr=0.0625, shots=3, queries=4,
                   settings={"momentum": 0.5}),
    "tanh": dict(kind="tanh 1-2-1 mse", inner_steps=3, tasks=3, inner_lr=0.125, shots=3, queries=4,
                 settings={"momentum": 0.75}),
    "softmax": dict(kind="tanh 1-2-2 cross_entropy", inner_steps=3, tasks=2, inner_lr=0.5, shots=3, queries=4,
                    settings={"momentum": 0.25}),
    "many-steps": dict(kind="linear 2-1 binary_cross_entropy", inner_steps=5, tasks=1, inner_lr=0.5, shots=4,
                       queries=2, settings={"momentum": 0.625}),
}  # fmt: skip
SHARED = PLAIN
MISTAKES = [
    Mistake(
        "momentum_missing", "θₖ₊₁ = θₖ − α g_s(θₖ)",
        "the inner loop is plain gradient descent: the buffer is made anew in each step, or never used",
        "keep m from step to step, and start it before the loop: m = mu * m + g",
        "carry m in the scan beside the parameters",
        ({"buffer": "none"}, {"buffer": "none", "factors": "detached"}),
    ),
    Mistake(
        "momentum_leaks_between_tasks", "m₀ of task t is m_K of task t − 1",
        "the momentum buffer is kept from task to task: one optimiser serves all tasks",
        "start m from zeros at the start of every task (a fresh optimiser, or its state reset)",
        "init the optimiser's state inside the function of one task",
        ({"buffer": "leaked, detached"}, {"buffer": "leaked"}, {"buffer": "leaked, detached", "factors": "detached"}),
    ),
    Mistake(
        "momentum_detached", "m is a constant in the next step",
        "the buffer was detached between the steps: the derivative through it is missing",
        "m = mu * m + g, without .detach() or .data; torch.optim.SGD's buffer has no graph",
        "no stop_gradient on the optimiser's state",
        ({"buffer": "detached"},), "torch.optim inside",
    ),
    Mistake(
        "momentum_dampened", "m ← μ m + (1 − μ) g",
        "the gradient is multiplied by 1 − μ: the exponential average, and not PyTorch's momentum",
        "dampening=0: m = mu * m + g",
        "optax.trace(decay=mu), not optax.ema: m = mu * m + g",
        ({"dampening": "always"}, {"dampening": "after the first step"}), "TensorFlow, dampening",
    ),
    Mistake(
        "momentum_corrected_average", "m̂ = m / (1 − μᵏ), m ← μ m + (1 − μ) g",
        "the buffer is an average with Adam's bias correction",
        "m = mu * m + g; there is no correction in momentum",
        "optax.trace, not optax.ema(debias=True)",
        ({"average": "corrected"},),
    ),
    Mistake(
        "momentum_nesterov", "θₖ₊₁ = θₖ − α (g + μ m)",
        "this is Nesterov's momentum; the case has Polyak's",
        "nesterov=False: p - lr * m",
        "optax.sgd(lr, momentum=mu, nesterov=False)",
        ({"nesterov": "PyTorch's"}, {"nesterov": "at the point ahead"}),
    ),
    Mistake(
        "momentum_buffer_used_before_update", "θₖ₊₁ = θₖ − α mₖ",
        "the step takes the buffer from before this gradient: the first step does nothing",
        "update m first, then p - lr * m",
        "update m first, then p - lr * m",
        ({"buffer": "used before update"},),
    ),
    Mistake(
        "momentum_first_gradient_twice", "m₁ = (1 + μ) g_s(θ)",
        "the buffer starts as the first gradient, and that gradient is then added to it once more",
        "m = zeros before the loop (or m = g at the first step, without mu * m + g)",
        "m = zeros_like(params) before the loop",
        ({"buffer": "from first gradient"},),
    ),
    Mistake(
        "momentum_default", "μ = 0.9",
        "the momentum is 0.9, whatever the case says",
        "mu = case.settings['momentum']",
        "mu = case.settings['momentum']",
        ({"mu": 0.9},), free=Free("mu", "μ", (0.9, 0.5, 0.99)), classic=False,
    ),
    Mistake(
        "momentum_exchanged_with_rate", "μ ↔ α",
        "momentum and learning rate have changed places",
        "SGD(lr=case.inner_lr, momentum=case.settings['momentum'])",
        "optax.sgd(case.inner_lr, case.settings['momentum'])",
        ({"numbers": "exchanged"},),
    ),
    Mistake(
        "momentum_nesterov_and_decay", "g ← g_s + λθ,   m ← μ m + g,   θ ← θ − α (g + μ m)",
        "the inner optimiser has the options of a training script: Nesterov's momentum, and weight decay (λ)",
        "torch.optim.SGD(…, momentum=mu), without nesterov=True and weight_decay",
        "optax.sgd(lr, momentum=mu), without nesterov=True and optax.add_decayed_weights",
        ({"nesterov": "PyTorch's", "decay": 5e-4}, {"nesterov": "PyTorch's", "decay": 5e-4, "factors": "detached"},
         {"nesterov": "at the point ahead", "decay": 5e-4}),
        free=Free("decay", "λ", (5e-4, 1e-4, 1e-3, 1e-2, 0.1)), classic=False,
    ),
    Mistake(
        "momentum_dampened_and_decay", "g ← g_s + λθ,   m ← μ m + (1 − μ) g",
        "the inner optimiser has weight decay (λ), and its buffer is an average: dampening, or 1 − μ",
        "torch.optim.SGD(…, momentum=mu), without dampening and weight_decay",
        "optax.sgd(lr, momentum=mu), without optax.ema and optax.add_decayed_weights",
        ({"dampening": "after the first step", "decay": 5e-4}, {"dampening": "always", "decay": 5e-4}),
        free=Free("decay", "λ", (5e-4, 1e-4, 1e-3, 1e-2, 0.1)), classic=False,
    ),
    Mistake(
        "momentum_decoupled_decay", "θ ← θ − αλθ first",
        "weight decay (λ) is taken off θ beside the momentum step, as in SGDW",
        "no p.mul_(1 - lr * weight_decay) in the inner step",
        "no optax.add_decayed_weights behind optax.trace in the inner step",
        ({"decoupled": 5e-4}, {"decoupled": 5e-4, "factors": "detached"}),
        free=Free("decoupled", "λ", (5e-4, 1e-4, 1e-3, 1e-2, 0.1)), classic=False,
    ),
    Mistake(
        "momentum_is_adaptive", "θ ← θ − α m̂/(√v̂ + ε), or RMSprop's step",
        "the inner loop is Adam, or RMSprop; the case asks for gradient descent with momentum",
        "torch.optim.SGD(…, momentum=mu) inside, not torch.optim.Adam",
        "optax.sgd(lr, momentum=mu) inside, not optax.adam",
        tuple({"buffer": "none", "inner": inner, "adaptive_eps": 1e-8} | cut for inner in ("adam", "rmsprop")
              for cut in ({}, {"factors": "detached"})),
        free=Free("adaptive_eps", "ε", (1e-8, 1e-7, 1e-5, 1e-3)), classic=False,
    ),
    Mistake(
        "momentum_from_the_start", "θₖ₊₁ = θₖ − α g_s(θₖ) + μ (θₖ − θ₀)",
        "momentum is μ times the way from the point before, and that point stays θ₀: it is not moved on",
        "before, theta = theta, theta - lr * g + mu * (theta - before)",
        "carry the point before in the scan, and move it on",
        ({"buffer": "from the start"}, {"buffer": "from the start", "factors": "detached"}), classic=False,
    ),
    Mistake(
        "momentum_rate_twice", "m ← μ m + α g,   θₖ₊₁ = θₖ − α m",
        "the rate is in the buffer, and again in the step", "m = mu * m + g, then p - lr * m",
        "m = mu * m + g, then p - lr * m",
        ({"numbers": "rate twice"}, {"numbers": "rate twice", "factors": "detached"}), classic=False,
    ),
    Mistake(
        "momentum_adjoint", "u ← μ (u − αv), u ← u − αv, or the like, where the adjoint of the buffer is u ← μu − αv",
        "the backward pass by hand has another adjoint of the buffer: μ multiplies too much or is missing, the rate is "
        "missing, a sign is wrong, or the gradient of a step itself comes too late",
        "u = mu * u - lr * v, then v = v + hvp(u), from the last step to the first",
        "u = mu * u - lr * v, then v + hvp(u), in a reverse scan",
        tuple({"adjoint": how} for how in SWITCHES["adjoint"][1:]), shows="adjoint", classic=False,
    ),
]  # fmt: skip
