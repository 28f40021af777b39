"""MAML whose inner loop is Adam (Kingma and Ba, 2015, algorithm 1), differentiated through.

    m₀ = v₀ = 0,   for t = 1 … K, with g = g_s(θ):
    m ← β₁ m + (1 − β₁) g,   v ← β₂ v + (1 − β₂) g²,   m̂ = m / (1 − β₁ᵗ),   v̂ = v / (1 − β₂ᵗ)
    θ ← θ − α m̂ / (√(v̂ + ε_root) + ε),     G = ∂/∂θ of the mean over tasks of L_q(θ_K)

α is `case.inner_lr`; `case.settings` has "beta1", "beta2", "eps" (ε, outside of the root) and "eps_root" (ε_root, under
it, as in optax: without it √v has no derivative at 0). The moments start at 0 in every task; m, v and the root have
derivatives. The first step moves by α g / (√(g² + ε_root) + ε), whose derivative is almost 0: with K = 1 and small ε
the exact gradient is close to FOMAML's, and a case shows it.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from ..arithmetic import side
from ..mistakes.mistake import Free, Mistake
from .procedure import PLAIN, descend, judged

FORMULA = "∂L_q(θ_K)/∂θ,   θₖ₊₁ = θₖ − α m̂ / (√(v̂ + ε_root) + ε)"
SETTINGS = {"beta1": "β₁", "beta2": "β₂", "eps": "ε, outside of the root", "eps_root": "ε_root, under it"}
SWITCHES = {
    "moments": ("right", "detached", "m detached", "v detached", "leaked", "leaked, detached", "leaked with t",
                "anew in each step"),
    "root": ("right", "detached", "missing"), "numerator": ("right", "detached"),
    "shares": ("right", "m without", "v without", "both without", "of the other beta",
               "m of the other beta", "v of the other beta"),
    "used": ("new", "old m", "old v", "both old"),
    "correction": ("right", "none", "of m", "of v", "a step late", "of step K", "with every tensor",
                   "over all tasks", "exchanged", "of step 1", "both by β₁", "both by β₂", "a step early",
                   "of m a step late", "of v a step late", "of m a step early", "of v a step early", "inverted",
                   "plus"),
    "eps": ("outside", "inside", "inside, before correction", "before correction", "missing", "default",
            "squared inside", "exchanged"),
    "eps_root": ("right", "missing", "before correction", "outside"),
    "betas": ("right", "exchanged", "defaults"),
    "variant": ("adam", "amsgrad", "amsgrad, corrected", "sgd", "no m", "nesterov", "adamax", "adabelief"),
    "decoupled": (0.0,),
    # the shared ones, which are not meant: there they change the gradient, before Adam
    "rate": ("right",), "momentum": (0.0,), "decay_like": ("in the gradient",),
    "adaptive_eps": (0.0,), "adam_first": (0.0,), "adam_second": (0.0,), "square_decay": (0.0,),
}  # fmt: skip


def query_loss(at, theta, support, query):
    s, settings = at.s, dict(at.case.settings)
    if s["betas"] != "right":
        b1, b2 = settings["beta1"], settings["beta2"]
        settings |= dict(zip(("beta1", "beta2"), (b2, b1) if s["betas"] == "exchanged" else (0.9, 0.999), strict=True))
    if s["eps"] == "default":
        settings["eps"] = 1e-8
    b1, b2, eps, eps_root = (at.number(settings[n]) for n in ("beta1", "beta2", "eps", "eps_root"))
    eps = eps * 0 if s["eps"] == "missing" else eps
    eps_root = eps_root * 0 if s["eps_root"] == "missing" else eps_root
    if s["variant"] == "no m":
        b1 = b1 * 0
    rate, decoupled = at.number(at.case.inner_lr), at.number(s["decoupled"])
    zero = at.map(lambda p: at.hold(p) * 0, theta)
    m, v, best, before = zero, zero, zero, 0
    if s["moments"].startswith("leaked"):
        m, v, before = at.memory.get("moments", (m, v, before))
        m, v = (m, v) if s["moments"] == "leaked" else (at.hold(m), at.hold(v))
        before = before if s["moments"] == "leaked with t" else 0
    names = list(theta)

    def step(k, theta, g):
        nonlocal m, v, best
        t = before + k + 1
        if s["variant"] == "sgd":
            return at.map(lambda p, g: p - rate * g, theta, g)
        if s["decoupled"]:
            theta = at.map(lambda p: p - rate * decoupled * p, theta)
        m = at.hold(m) if s["moments"] in ("detached", "m detached") else m
        v = at.hold(v) if s["moments"] in ("detached", "v detached") else v
        before_m, before_v = m, v
        if s["moments"] == "anew in each step":
            m, v, t = zero, zero, 1
        # m ← β₁ m + (1 − β₁) g,   v ← β₂ v + (1 − β₂) g²
        used_m = at.map(lambda g, m: b1 * m + (1 - b1) * g, g, m)
        used_v = at.map(lambda g, v: b2 * v + (1 - b2) * g * g, g, v)
        if s["shares"] != "right":
            of_m, of_v = {
                "m without": (1, 1 - b2),
                "v without": (1 - b1, 1),
                "both without": (1, 1),
                "of the other beta": (1 - b2, 1 - b1),
                "m of the other beta": (1 - b2, 1 - b2),
                "v of the other beta": (1 - b1, 1 - b1),
            }[s["shares"]]
            used_m = at.map(lambda g, m: b1 * m + of_m * g, g, m)
            used_v = at.map(lambda g, v: b2 * v + of_v * g * g, g, v)
        if s["variant"] == "adabelief":
            # v ← β₂ v + (1 − β₂) (g − m)²
            used_v = at.map(lambda g, m, v: b2 * v + (1 - b2) * (g - m) * (g - m), g, used_m, v)
        m, v = m | used_m, v | used_v
        if s["variant"] == "nesterov":  # NAdam, without its schedule
            used_m = at.map(lambda g, m: b1 * m + (1 - b1) * g, g, m)
        if s["variant"] == "amsgrad":
            used_v = at.map(lambda v, best: _larger(best, v), used_v, best)
            best = best | used_v
        if s["variant"] == "amsgrad, corrected":  # the largest v̂, not the largest v
            best = best | at.map(lambda v, best: _larger(best, v / (1 - b2**t)), used_v, best)
        if s["variant"] == "adamax":
            # u ← max(β₂ u, |g| + ε),   θ ← θ − α m̂ / u
            best = best | at.map(lambda g, u: _larger(g * side(g) + eps, b2 * u), g, best)
            return at.map(lambda p, m, u: p - rate * (m / (1 - b1**t)) / u, theta, used_m, best)

        def moved(n, p, m, v):
            count = {"a step late": t + 1, "of step K": at.case.inner_steps, "of step 1": 1,
                     "with every tensor": (t - 1) * len(names) + names.index(n) + 1,
                     "over all tasks": at.memory.get("moments", (0, 0, 0))[2] + t}.get(s["correction"], t)  # fmt: skip
            c1, c2 = _corrections(s["correction"], b1, b2, count)
            inside = eps if s["eps"].startswith("inside") else 0
            inside = eps * eps if s["eps"] == "squared inside" else inside
            m = at.hold(m) if s["numerator"] == "detached" else m
            if s["variant"] == "amsgrad, corrected":
                v, c2 = best[n], 1
            late = s["eps"].endswith("before correction")  # θ − α (√c₂ / c₁) m / (√v + ε)
            under = eps if s["eps"] == "exchanged" else eps_root
            under = under * 0 if s["eps_root"] == "outside" else under
            if s["eps_root"] == "before correction":
                root = at.root((v + under + inside) / c2)
            else:
                root = at.root((v if late else v / c2) + under + inside)
            root = at.hold(root) if s["root"] == "detached" else root
            root = v / c2 if s["root"] == "missing" else root
            beside = eps_root if s["eps"] == "exchanged" else eps
            beside = beside + eps_root if s["eps_root"] == "outside" else beside
            below = root + (0 if s["eps"].startswith("inside") or s["eps"] == "squared inside" else beside)
            below = below / (at.root(c2 + 0 * eps) if late else 1)
            # θ ← θ − α m̂ / (√(v̂ + ε_root) + ε)
            return p - rate * (m / c1) / below

        if s["used"] != "new":
            used_m = used_m if s["used"] == "old v" else before_m
            used_v = used_v if s["used"] == "old m" else before_v
        return {n: moved(n, p, used_m[n], used_v[n]) for n, p in theta.items()}

    path = descend(at, theta, support, step)
    before = at.memory.get("moments", (m, v, 0))[2] if s["correction"] == "over all tasks" else before
    at.memory["moments"] = m, v, before + at.steps
    return judged(at, path, query), path[-1]


def _corrections(how: str, b1, b2, t: int) -> tuple:
    """1 − β₁ᵗ and 1 − β₂ᵗ, or what the code at hand has for them."""
    early, late = max(t - 1, 1), t + 1
    one = {"of m a step late": late, "of m a step early": early, "a step early": early}.get(how, t)
    two = {"of v a step late": late, "of v a step early": early, "a step early": early}.get(how, t)
    c1 = 1 if how in ("none", "of v") else 1 - b1**one
    c2 = 1 if how in ("none", "of m") else 1 - b2**two
    others = {"exchanged": lambda: (c2, c1),
              "both by β₁": lambda: (c1, 1 - b1**t), "both by β₂": lambda: (1 - b2**t, c2),
              "inverted": lambda: (1 / c1, 1 / c2), "plus": lambda: (1 + b1**t, 1 + b2**t)}  # fmt: skip
    return others.get(how, lambda: (c1, c2))()


def _larger(a, b):
    """max(a, b), with the derivative of the larger."""
    above = [float(np.real(getattr(x, "value", x))) >= float(np.real(getattr(y, "value", y)))
             for x, y in zip(np.ravel(a), np.ravel(b), strict=True)]  # fmt: skip
    return np.where(np.reshape(above, np.shape(a)), a, b)


def closed_form(case):
    """On quadratics the Jacobians of θ, m and v follow by the rules of a product and a root, with g′ = A J:

    J_m ← β₁ J_m + (1 − β₁) A J,   J_v ← β₂ J_v + 2 (1 − β₂) g A J,   J ← J − α [Ĵ_m / d − m̂ Ĵ_v / (2 d² r)],
    r = √(v̂ + ε_root),   d = r + ε,     G = Jᵀ g_q(θ_K)
    """
    if case.model["layers"][0]["layer"] != "quadratic":
        return None
    b1, b2, eps, eps_root = (case.settings[n] for n in ("beta1", "beta2", "eps", "eps_root"))
    values, grads = [], []
    for (xs, _), (xq, _) in case.batches():
        (a, b), (aq, bq) = ((m[:, :-1], m[:, -1]) for m in (np.mean(x, 0) for x in (xs, xq)))
        theta, j = case.params["theta"], np.eye(len(b))
        m = v = 0 * theta
        jm = jv = 0 * j
        for t in range(1, case.inner_steps + 1):
            g, jg = a @ theta - b, a @ j
            m, jm = b1 * m + (1 - b1) * g, b1 * jm + (1 - b1) * jg
            v, jv = b2 * v + (1 - b2) * g * g, b2 * jv + 2 * (1 - b2) * g[:, None] * jg
            c1, c2 = 1 - b1**t, 1 - b2**t
            r = np.sqrt(v / c2 + eps_root)
            d = r + eps
            theta = theta - case.inner_lr * (m / c1) / d
            j = j - case.inner_lr * (jm / c1 / d[:, None] - (m / c1 / (2 * d * d * r))[:, None] * jv / c2)
        values.append(theta @ aq @ theta / 2 - bq @ theta)
        grads.append(j.T @ (aq @ theta - bq))
    return np.mean(values), {"theta": np.mean(grads, 0)}


def by_algorithms(case):
    from ... import optim
    from ...engine import value_and_grad
    from .rungs import averaged_over_tasks

    s = case.settings
    opt = optim.adam(case.inner_lr, s["beta1"], s["beta2"], s["eps"], s["eps_root"])

    def of_task(loss, theta, support, query, settings):
        def query_loss(theta):
            state = opt.init(theta)
            for _ in range(case.inner_steps):
                g = value_and_grad(lambda theta: loss(theta, *support)[0])(theta)[1]
                theta, state = opt.update(theta, g, state)
            return loss(theta, *query)

        return value_and_grad(query_loss, has_aux=True)(theta)

    return averaged_over_tasks(case, SimpleNamespace(of_task=of_task), case.params, None)


_NUMBERS = {"beta1": 0.75, "beta2": 0.875, "eps": 2.0**-5, "eps_root": 2.0**-7}
CASES: dict[str, dict] = {
    "quadratic": dict(kind="quadratic 2", inner_steps=3, tasks=2, inner_lr=0.25, shots=2, queries=2, settings=_NUMBERS),
    "first-step": dict(fine=True, kind="tanh 1-2-1 mse", inner_steps=1, tasks=2, inner_lr=0.25, shots=3, queries=4,
                       settings=_NUMBERS | {"eps": 2.0**-20, "eps_root": 2.0**-30},
                       comment="one step and a small ε: close to FOMAML"),
    "two-steps": dict(kind="square 1-1-1 mse", inner_steps=2, tasks=2, inner_lr=0.125, shots=3, queries=4,
                      settings=_NUMBERS),
    "tanh": dict(kind="tanh 1-2-1 mse", inner_steps=3, tasks=3, inner_lr=0.125, shots=3, queries=4,
                 settings=_NUMBERS | {"beta1": 0.5}),
    "softmax": dict(kind="tanh 1-1-2 cross_entropy", inner_steps=3, tasks=2, inner_lr=0.25, shots=3, queries=4,
                    settings=_NUMBERS | {"eps": 2.0**-4}),
    "many-steps": dict(kind="linear 2-1 binary_cross_entropy", inner_steps=5, tasks=1, inner_lr=0.125, shots=4,
                       queries=2, settings=_NUMBERS | {"eps_root": 2.0**-10}),
}  # fmt: skip
SHARED = PLAIN
MISTAKES = [
    Mistake(
        "adam_moments_leak", "m₀, v₀ of task t are m_K, v_K of task t − 1",
        "Adam's moments are kept from task to task: one optimiser serves all tasks",
        "start m and v from zeros at the start of every task (a fresh optimiser, or its state reset)",
        "init the optimiser's state inside the function of one task",
        ({"moments": "leaked with t"}, {"moments": "leaked, detached"}, {"moments": "leaked"},
         {"moments": "leaked with t", "factors": "detached"}), "supervised-reptile #11",
    ),
    Mistake(
        "adam_moments_detached", "m and v are constants in the next step",
        "the moments were detached between the steps: the derivative through earlier steps' part is missing",
        "m = b1 * m + (1 - b1) * g, without .detach() or .data; torch.optim.Adam's state has no graph",
        "no stop_gradient on the optimiser's state",
        ({"moments": "detached"}, {"moments": "m detached"}, {"moments": "v detached"}), "torch.optim inside",
    ),
    Mistake(
        "adam_root_detached", "√(v̂ + ε_root) is a constant",
        "the derivative through the denominator is left out: only m is differentiated",
        "denom = (v_hat + eps_root).sqrt() + eps, without .detach() or no_grad",
        "no stop_gradient on jnp.sqrt(v_hat + eps_root)",
        ({"root": "detached"},),
    ),
    Mistake(
        "adam_root_missing", "θ − α m̂ / (v̂ + ε)",
        "the root of the second moment is missing",
        "denom = (v_hat + eps_root).sqrt() + eps",
        "jnp.sqrt(v_hat + eps_root) + eps",
        ({"root": "missing"},),
    ),
    Mistake(
        "adam_eps_inside_root", "√(v̂ + ε)",
        "ε stands under the root: the case has it outside, and ε_root under it",
        "denom = (v_hat + eps_root).sqrt() + eps",
        "jnp.sqrt(v_hat + eps_root) + eps",
        ({"eps": "inside"}, {"eps": "inside, before correction"}), "higher's DifferentiableAdam",
    ),
    Mistake(
        "adam_eps_before_correction", "θ − α (√(1 − β₂ᵗ) / (1 − β₁ᵗ)) m / (√(v + ε_root) + ε)",
        "ε is added before v is corrected: Adam's efficient form, with ε̂ (TensorFlow's)",
        "divide v by 1 - b2**t before the root and before eps",
        "divide v by 1 - b2**t before the root and before eps",
        ({"eps": "before correction"},), "Kingma and Ba, section 2; TensorFlow",
    ),
    Mistake(
        "adam_eps_root_missing", "√v̂ + ε",
        "ε_root is left out of the root",
        "denom = (v_hat + eps_root).sqrt() + eps",
        "optax.adam(..., eps_root=case.settings['eps_root'])",
        ({"eps_root": "missing"},),
    ),
    Mistake(
        "adam_eps_ignored", "ε = 0, or 1e-8",
        "ε is left out, or is the default, whatever the case says",
        "eps = case.settings['eps']",
        "eps = case.settings['eps']",
        ({"eps": "default"}, {"eps": "missing"}),
    ),
    Mistake(
        "adam_no_bias_correction", "m, v in the place of m̂, v̂",
        "the bias correction is missing, of both moments or of one",
        "m_hat = m / (1 - b1**t); v_hat = v / (1 - b2**t)",
        "m_hat = m / (1 - b1**t); v_hat = v / (1 - b2**t)",
        ({"correction": "none"}, {"correction": "of m"}, {"correction": "of v"}),
    ),
    Mistake(
        "adam_bias_correction_of_another_step", "1 − β^(t + 1), or 1 − β^K",
        "the bias correction counts the steps from 2, or takes the number of all steps",
        "t = k + 1 for k = 0, 1, …, counted anew in every task",
        "t = k + 1 for k = 0, 1, …, counted anew in every task",
        ({"correction": "a step late"}, {"correction": "of step K"}),
    ),
    Mistake(
        "adam_betas_exchanged", "β₁ ↔ β₂",
        "β₁ and β₂ have changed places",
        "betas=(beta1, beta2): the first is the gradient's, the second the square's",
        "b1 is the gradient's, b2 the square's",
        ({"betas": "exchanged"},),
    ),
    Mistake(
        "adam_default_betas", "β = (0.9, 0.999)",
        "β₁ and β₂ are the defaults, whatever the case says",
        "betas=(case.settings['beta1'], case.settings['beta2'])",
        "b1=case.settings['beta1'], b2=case.settings['beta2']",
        ({"betas": "defaults"},),
    ),
    Mistake(
        "adam_decoupled_decay", "θ ← θ − αλθ first",
        "this is AdamW: weight decay is taken off θ (0.01 by default); the case has none",
        "torch.optim.Adam's rule, or weight_decay=0",
        "optax.adam, not optax.adamw",
        ({"decoupled": 0.01},), free=Free("decoupled", "λ", (0.01, 1e-4, 0.1)), classic=False,
    ),
    Mistake(
        "adam_amsgrad", "v̂ = max over steps",
        "the denominator takes the largest second moment so far: AMSGrad",
        "amsgrad=False",
        "optax.adam, not optax.amsgrad",
        ({"variant": "amsgrad"},),
    ),
    Mistake(
        "adam_first_moment_missing", "θ − α g / (√(v̂ + ε_root) + ε)",
        "the step takes the gradient itself, and not its average: RMSprop",
        "p - lr * m_hat / denom",
        "p - lr * m_hat / denom",
        ({"variant": "no m"},),
    ),
    Mistake(
        "adam_is_sgd", "θ − α g",
        "the inner loop is plain gradient descent",
        "p - lr * m_hat / ((v_hat + eps_root).sqrt() + eps)",
        "p - lr * m_hat / (jnp.sqrt(v_hat + eps_root) + eps)",
        ({"variant": "sgd"}, {"variant": "sgd", "factors": "detached"}),
    ),
    Mistake(
        "adam_nesterov", "m̂ → β₁ m + (1 − β₁) g, corrected",
        "the step looks ahead: NAdam",
        "torch.optim.Adam's rule, not NAdam's",
        "optax.adam, not optax.nadam",
        ({"variant": "nesterov"},),
    ),
    Mistake(
        "adam_count_rises_with_every_tensor", "1 − βᵗ with t = 1, 2, 3, … from tensor to tensor",
        "the step count of the bias correction rises with every tensor and not with every step: t is too large for all "
        "tensors but the first",
        "t += 1 once per step, outside of the loop over parameters",
        "t + 1 once per step, not inside the function that is mapped over the leaves",
        ({"correction": "with every tensor"}, {"correction": "with every tensor", "factors": "detached"}),
        classic=False,
    ),
    Mistake(
        "adam_count_goes_on_over_tasks", "1 − βᵗ with t from task to task",
        "the step count of the bias correction is not set to 0 at the start of a task, although the moments are",
        "t = 0 at the start of every task, beside m = v = 0",
        "init the optimiser's state, its count too, inside the function of one task",
        ({"correction": "over all tasks"}, {"correction": "over all tasks", "factors": "detached"}), classic=False,
    ),
    Mistake(
        "adam_all_defaults", "β = (0.9, 0.999), ε = 1e-8, ε_root = 0",
        "only the rate is the case's: the betas and both ε are the library's defaults",
        "torch.optim.Adam's rule with the four numbers of case.settings, and not with its defaults",
        "optax.adam(lr, b1, b2, eps, eps_root) with the four numbers of case.settings",
        ({"betas": "defaults", "eps": "default", "eps_root": "missing"},
         {"betas": "defaults", "eps": "default", "eps_root": "missing", "factors": "detached"},
         {"betas": "defaults", "eps": "default"}, {"eps": "default", "eps_root": "missing"},
         {"betas": "defaults", "eps_root": "missing"}), classic=False,
    ),
    Mistake(
        "adam_largest_gradient", "θ − α m̂ / u,   u ← max(β₂ u, |g| + ε)",
        "the denominator is the largest gradient so far, fading: Adamax",
        "torch.optim.Adam's rule, not Adamax's", "optax.adam, not optax.adamax",
        ({"variant": "adamax"}, {"variant": "adamax", "factors": "detached"}), classic=False,
    ),
    Mistake(
        "adam_of_deviations", "v ← β₂ v + (1 − β₂) (g − m)²",
        "the second moment is that of the gradient's deviation from its average: AdaBelief",
        "v = b2 * v + (1 - b2) * g * g", "optax.adam, not optax.adabelief",
        ({"variant": "adabelief"}, {"variant": "adabelief", "factors": "detached"}), classic=False,
    ),
    Mistake(
        "adam_corrections_exchanged", "m / (1 − β₂ᵗ),   v / (1 − β₁ᵗ)",
        "the bias corrections have changed places: m has that of v",
        "m_hat = m / (1 - b1**t); v_hat = v / (1 - b2**t)", "m_hat = m / (1 - b1**t); v_hat = v / (1 - b2**t)",
        ({"correction": "exchanged"}, {"correction": "exchanged", "factors": "detached"}), classic=False,
    ),
    Mistake(
        "adam_correction_without_power", "m / (1 − β₁),   v / (1 − β₂)",
        "the bias correction is that of the first step in every step: its power is missing",
        "m_hat = m / (1 - b1**t), with t = k + 1", "m_hat = m / (1 - b1**t), with t = k + 1",
        ({"correction": "of step 1"}, {"correction": "of step 1", "factors": "detached"}), classic=False,
    ),
    Mistake(
        "adam_amsgrad_corrected", "v̂ ← max(v̂, v / (1 − β₂ᵗ))",
        "the denominator takes the largest corrected second moment so far: AMSGrad, in another form than PyTorch's",
        "amsgrad=False", "optax.adam, not optax.amsgrad",
        ({"variant": "amsgrad, corrected"}, {"variant": "amsgrad, corrected", "factors": "detached"}), classic=False,
    ),
    Mistake(
        "adam_both_corrected_alike", "m / (1 − β₁ᵗ),   v / (1 − β₁ᵗ)",
        "both moments are corrected with the same β, a slip of copying",
        "m_hat = m / (1 - b1**t); v_hat = v / (1 - b2**t)", "m_hat = m / (1 - b1**t); v_hat = v / (1 - b2**t)",
        ({"correction": "both by β₁"}, {"correction": "both by β₂"}, {"correction": "both by β₁", "root": "detached"},
         {"correction": "both by β₁", "factors": "detached"}), shows="correction", classic=False,
    ),
    Mistake(
        "adam_correction_off_by_one", "1 − β^(t − 1), or 1 − β^(t + 1), of one moment or both",
        "the step count of the bias correction is off by one: in both moments, or in one of them",
        "t = k + 1 for k = 0, 1, …, in both corrections", "t = k + 1 for k = 0, 1, …, in both corrections",
        tuple({"correction": how} | cut for how in ("a step early", "of m a step late", "of v a step late",
              "of m a step early", "of v a step early") for cut in ({}, {"factors": "detached"})),
        shows="correction", classic=False,
    ),
    Mistake(
        "adam_correction_inverted", "m (1 − β₁ᵗ), or m / (1 + β₁ᵗ)",
        "the bias correction multiplies where it divides, or has a plus for its minus",
        "m_hat = m / (1 - b1**t); v_hat = v / (1 - b2**t)", "m_hat = m / (1 - b1**t); v_hat = v / (1 - b2**t)",
        ({"correction": "inverted"}, {"correction": "plus"}), shows="correction", classic=False,
    ),
    Mistake(
        "adam_numerator_detached", "m̂ is a constant in the step",
        "the derivative goes through the denominator alone: the numerator was detached",
        "p - lr * m_hat / denom, without .detach()", "no stop_gradient on m_hat",
        ({"numerator": "detached"},), classic=False,
    ),
    Mistake(
        "adam_share_of_the_gradient", "m ← β₁ m + g, or v ← β₂ v + g²",
        "the factor 1 − β in front of the gradient, or of its square, is missing, or is that of the other β",
        "m = b1 * m + (1 - b1) * g; v = b2 * v + (1 - b2) * g * g",
        "m = b1 * m + (1 - b1) * g; v = b2 * v + (1 - b2) * g * g",
        tuple({"shares": how} | cut for how in ("m without", "v without", "both without", "of the other beta",
                                           "m of the other beta", "v of the other beta")
              for cut in ({}, {"factors": "detached"})), shows="shares", classic=False,
    ),
    Mistake(
        "adam_moments_of_the_step_before", "θ − α m̂ₜ₋₁ / (√(v̂ₜ + ε_root) + ε), or with v̂ₜ₋₁",
        "the step takes a moment from before this gradient",
        "update m and v first, then take the step", "update m and v first, then take the step",
        ({"used": "old m"}, {"used": "old v"}, {"used": "both old"}), shows="used", classic=False,
    ),
    Mistake(
        "adam_moments_anew_in_each_step", "m = (1 − β₁) g, v = (1 − β₂) g² and t = 1 in every step",
        "the moments begin anew in every inner step: an optimiser was made inside the loop",
        "make m, v and t before the loop over the inner steps", "carry the optimiser's state through the scan",
        ({"moments": "anew in each step"}, {"moments": "anew in each step", "factors": "detached"}), classic=False,
    ),
    Mistake(
        "adam_eps_elsewhere", "√(v̂ + ε²), √(v̂ + ε) + ε_root, √((v + ε_root)/(1 − β₂ᵗ)) + ε, …",
        "ε or ε_root stands in another place: squared under the root, exchanged with one another, before the bias "
        "correction, or both outside",
        "denom = (v_hat + eps_root).sqrt() + eps", "jnp.sqrt(v_hat + eps_root) + eps",
        ({"eps": "squared inside"}, {"eps": "exchanged"}, {"eps_root": "before correction"},
         {"eps_root": "outside"}, {"eps": "before correction", "eps_root": "missing"},
         {"eps": "inside", "eps_root": "missing"}), classic=False,
    ),
]  # fmt: skip
