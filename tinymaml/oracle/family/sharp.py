"""Sharp-MAML, its lower level (Abbas et al., ICML 2022): the inner gradient is taken uphill, and gone back through.

    θ₀ = θ,   θₖ₊₁ = θₖ − α g_s(θₖ + ρ g/‖g‖),   g = g_s(θₖ),     G = ∂/∂θ of the mean over tasks of L_q(θ_K)

ρ is case.settings["radius"], α `case.inner_lr`, K `case.inner_steps`. ‖g‖ is the norm over all parameters together,
without an ε (g is never 0 here; the 10⁻¹² of common code costs digits, and the verdict is then IMPRECISE and says so).
The derivative goes through the perturbation and through its norm, as in the authors' code. The perturbation serves the
gradient only: the step starts from θₖ.
`meta_loss` is the mean of L_q(θ_K). (The upper level, G at θ + ρ G/‖G‖, is MAML's gradient at another θ: ask for that.)
"""

from __future__ import annotations

import numpy as np

from ..arithmetic import side
from ..mistakes.mistake import Free, Mistake
from .procedure import descend, dot, judged, support_gradient

FORMULA = "∂L_q(θ_K)/∂θ,   θₖ₊₁ = θₖ − α g_s(θₖ + ρ g/‖g‖),   g = g_s(θₖ)"
SETTINGS = {"radius": "ρ, length of the step uphill to where the inner gradient is taken"}
SWITCHES = {
    "norm": ("of all", "held", "per tensor", "squared", "missing", "largest", "of the sum"),
    "upper level": ("no", "too", "too, downhill"),
    "norm's epsilon": (0.0,), "epsilon in the root": (0.0,),
    "adaptive": ("no", "θ²", "θ², norm of g", "|θ|"), "eta": (0.0,),
    "perturbation": ("right", "held", "kept", "downhill", "missing", "on query", "first step only", "last step only",
                     "step along both", "step along the sum", "at the start", "of the query loss too",
                     "of the query loss too, by support", "of the step before", "twice", "half",
                     "in two ascents"),
    "radius": ("ρ", "missing", "times α", "squared", "over K", "over α", "root", "times ‖θ‖", "over √n", "in step k"),
}  # fmt: skip


def query_loss(at, meta, support, query):
    rate, last = at.number(at.case.inner_lr), at.steps - 1
    how, first = at.s["perturbation"], []

    def uphill(k, theta):
        """θₖ + ρ g/‖g‖, where step k takes its gradient."""
        skipped = {"missing": True, "first step only": k != 0, "last step only": k != last}
        if skipped.get(how):
            return theta
        g = at.loss_and_grad(theta, query if how == "on query" else support)[1]
        if how in ("at the start", "of the step before"):
            first.append(g)
            g = first[0] if how == "at the start" else first[-2:][0]
        e = _perturbation(at, g, theta, k)
        if how == "in two ascents":
            there = at.map(lambda p, e: p + e, theta, e)
            e = at.map(lambda e, d: e + d, e, _perturbation(at, at.loss_and_grad(there, support)[1], there, k))
        if how in ("twice", "half"):
            e = at.map(lambda e: e * 2 if how == "twice" else e / 2, e)
        e = at.hold(e) if how == "held" else e
        return at.map(lambda p, e: p - e if how == "downhill" else p + e, theta, e)

    def step(k, theta, g):
        # θₖ₊₁ = θₖ − α g_s(θₖ + ρ g/‖g‖)
        start = uphill(k, theta) if how == "kept" else theta
        if how in ("step along both", "step along the sum"):
            over = 2 if how == "step along both" else 1
            g = at.map(lambda g, plain: (g + plain) / over, g, support_gradient(at, theta, support, k))
        return at.map(lambda p, g: p - rate * g, start, g)

    path = descend(at, meta, support, step, whole=lambda theta, k: uphill(k, theta))
    judged_at = path
    if how.startswith("of the query loss too"):
        g = at.loss_and_grad(path[-1], support if how.endswith("support") else query)[1]
        judged_at = [*path[:-1], at.map(lambda p, e: p + e, path[-1], _perturbation(at, g, path[-1]))]
    return judged(at, judged_at, query), path[-1]


AFTERWARDS = ("upper level",)


def upper_point(s, case, grads):
    """Where G is taken once more: θ + ρ G/‖G‖, as the upper level of Sharp-MAML has it."""
    size = np.sqrt(np.asarray(dot(grads, grads)))
    rho = case.settings["radius"] * (-1 if s["upper level"].endswith("downhill") else 1)
    return {n: p + rho * grads[n] / size for n, p in case.params.items()}


def _perturbation(at, g, theta, k: int = 0):
    """ρ g/‖g‖, or what the code at hand has for it."""
    if at.s["adaptive"] != "no" or at.s["eta"]:
        return _adaptive(at, g, theta)
    rho, alpha = at.number(at.case.settings["radius"]), at.number(at.case.inner_lr)
    count = sum(int(np.size(x)) for x in g.values())
    rho = {"missing": lambda: 1, "times α": lambda: rho * alpha, "squared": lambda: rho * rho,
           "over α": lambda: rho / alpha, "over K": lambda: rho / at.case.inner_steps,
           "root": lambda: at.root(rho), "in step k": lambda: rho / (k + 1),
           "times ‖θ‖": lambda: rho * at.root(dot(theta, theta)), "over √n": lambda: rho / at.root(rho * 0 + count),
           }.get(at.s["radius"], lambda: rho)()  # fmt: skip
    inside, outside = (at.s[name] for name in ("epsilon in the root", "norm's epsilon"))
    norm = at.root(dot(g, g) + at.number(np.float64(inside)) if inside else dot(g, g))
    norm = norm + at.number(np.float64(outside)) if outside else norm
    norms = {
        "held": lambda: dict.fromkeys(g, at.hold(norm)), "squared": lambda: dict.fromkeys(g, dot(g, g)),
        "missing": lambda: dict.fromkeys(g, 1), "per tensor": lambda: {n: at.root(np.sum(x * x)) for n, x in g.items()},
        "of the sum": lambda: dict.fromkeys(g, sum(at.root(np.sum(x * x)) for x in g.values())),
        "largest": lambda: dict.fromkeys(g, _largest(g)),
    }.get(at.s["norm"], lambda: dict.fromkeys(g, norm))()  # fmt: skip
    return {n: rho * x / norms[n] for n, x in g.items()}


def _adaptive(at, g, theta):
    """ρ t² g/‖t g‖ with t = |θ| + η, as in adaptive SAM (Kwon et al., 2021)."""
    rho, how = at.number(at.case.settings["radius"]), at.s["adaptive"]
    eta = at.number(np.float64(at.s["eta"])) if at.s["eta"] else 0
    size = at.map(lambda p: p * side(p) + eta, theta)
    scaled = at.map(lambda t, g: t * g, size, g)
    norm = at.root(dot(g, g) if how == "θ², norm of g" else dot(scaled, scaled))
    return at.map(lambda t, x: (x if how == "|θ|" else t * x) * (rho / norm), size, scaled)


def _largest(g):
    """max |gᵢ|, with its sign and derivative."""
    every = [x for part in g.values() for x in np.ravel(part)]
    plain = [float(np.real(getattr(x, "value", x))) for x in every]
    k = int(np.argmax(np.abs(plain)))
    return every[k] * (1 if plain[k] > 0 else -1)


def closed_form(case):
    """On quadratics with K = 1:  g = Aθ − b, ĝ = g/‖g‖, θ′ = θ − α (g + ρ A ĝ), and since ∂ĝ/∂θ = (I − ĝĝᵀ) A/‖g‖,
    G = (I − αA)ᵀ v − αρ A (I − ĝĝᵀ) A v / ‖g‖ with v = g_q(θ′)."""
    if case.model["layers"][0]["layer"] != "quadratic" or case.inner_steps != 1:
        return None
    theta, alpha, rho, values, grads = case.params["theta"], case.inner_lr, case.settings["radius"], [], []
    for (xs, _), (xq, _) in case.batches():
        (a, b), (aq, bq) = ((np.mean(x, 0)[:, :-1], np.mean(x, 0)[:, -1]) for x in (xs, xq))
        g = a @ theta - b
        size = np.linalg.norm(g)
        end = theta - alpha * (g + rho * a @ g / size)
        v = aq @ end - bq
        values.append(end @ aq @ end / 2 - bq @ end)
        across = np.eye(len(theta)) - np.outer(g, g) / size**2
        grads.append(v - alpha * a @ v - alpha * rho * a @ across @ a @ v / size)
    return np.mean(values), {"theta": np.mean(grads, 0)}


def by_algorithms(case):
    from ...algorithms import perturbed
    from .rungs import averaged_over_tasks

    settings = perturbed.Settings(
        inner_steps=case.inner_steps, inner_lr=case.inner_lr, inner_sharpness=case.settings["radius"]
    )
    return averaged_over_tasks(case, perturbed, case.params, settings)


CASES: dict[str, dict] = {
    "quadratic": dict(kind="quadratic 2", inner_steps=1, tasks=2, inner_lr=0.125, shots=2, queries=2,
                      settings={"radius": 0.25}),
    "one-step": dict(fine=True, kind="tanh 1-2-1 mse", inner_steps=1, tasks=3, inner_lr=0.25, shots=3, queries=4,
                     settings={"radius": 0.25}),
    "square": dict(kind="square 1-1-1 mse", inner_steps=3, tasks=2, inner_lr=0.0625, shots=3, queries=4,
                   settings={"radius": 0.125}),
    "softmax": dict(kind="tanh 1-1-3 cross_entropy", inner_steps=2, tasks=2, inner_lr=0.5, shots=3, queries=6,
                    settings={"radius": 0.5}),
    "logistic": dict(kind="linear 2-1 binary_cross_entropy", inner_steps=4, tasks=1, inner_lr=0.5, shots=4, queries=2,
                     settings={"radius": 0.375}),
    "published-radius": dict(kind="tanh 1-1-1 mse", inner_steps=5, tasks=2, inner_lr=0.125, shots=3, queries=4,
                             settings={"radius": 0.0625}),
}  # fmt: skip
NOT_HERE = ("one_tensor_after_the_other_and_through_it",)  # its record would grow too fast
SHARED = (
    "fomaml", "zero_gradient", "first_step_detached", "last_step_detached", "query_before_adaptation",
    "multi_step_loss", "one_step_more", "one_step_less", "stale_gradient", "restarted_steps", "inner_ascent",
    "alpha_times_n", "task_leak", "query_is_support", "support_is_query", "swapped_support_query", "sum_over_tasks",
    "last_task_only", "first_task_only", "doubled_gradient", "negated_gradient",
)  # fmt: skip
_STEP = "e = {n: rho * g[n] / norm for n in g};  g = grad(loss(theta + e));  fast = theta - lr * g"
MISTAKES = [
    Mistake(
        "sharp_norm_held", "‖g‖ held constant in the derivative",
        "the derivative goes through g, and not through its norm: the norm was detached, or turned into a number",
        "norm = torch.sqrt(sum((x * x).sum() for x in g.values())), without .item() or .detach()",
        "no stop_gradient on optax.global_norm(g)",
        ({"norm": "held"},),
    ),
    Mistake(
        "sharp_perturbation_held", "ρ g/‖g‖ held constant in the derivative",
        "the derivative does not go through the perturbation at all: it was made under no_grad, or detached",
        "the first gradient too with create_graph=True, and the perturbation not detached",
        "no stop_gradient on the perturbation",
        ({"perturbation": "held"},), "implementations of SAM, where this is right",
    ),
    Mistake(
        "sharp_norm_per_tensor", "ρ g/‖g‖ for each tensor apart",
        "each tensor's gradient is divided by its own norm",
        "one norm over all tensors: torch.sqrt(sum((x * x).sum() for x in g.values()))",
        "optax.global_norm(g), over all leaves",
        ({"norm": "per tensor"},),
    ),
    Mistake(
        "sharp_other_norm", "ρ g/‖g‖², ρ g, or another norm",
        "the gradient is not divided by its Euclidean norm: by the square, by nothing, by the largest element, or by "
        "the sum of the tensors' norms",
        "norm = torch.sqrt(sum((x * x).sum() for x in g.values()))",
        "optax.global_norm(g)",
        ({"norm": "squared"}, {"norm": "missing"}, {"norm": "largest"}, {"norm": "of the sum"}),
    ),
    Mistake(
        "sharp_norm_epsilon", "ρ g/(‖g‖ + ε)",
        "an ε is added to the norm, against a division by 0; the case's formula has none",
        "rho / norm, without + 1e-12: at g = 0 the perturbation has no derivative anyway", "rho / optax.global_norm(g)",
        ({"norm's epsilon": 0.125},), kind="precision",
        free=Free("norm's epsilon", "ε", (0.125, 1e-12, 1e-10, 1e-8, 1e-6, 1e-3, 1e-2)),
    ),
    Mistake(
        "sharp_radius", "1 · g/‖g‖, αρ g/‖g‖, …",
        "the length of the perturbation is not ρ: it is 1, αρ or ρ²",
        _STEP, _STEP, ({"radius": "missing"}, {"radius": "times α"}, {"radius": "squared"}),
    ),
    Mistake(
        "sharp_downhill", "θₖ − ρ g/‖g‖",
        "the perturbation goes downhill: its sign is wrong",
        "theta[n] + rho * g[n] / norm: a plus", "p + rho * g / norm: a plus", ({"perturbation": "downhill"},),
    ),
    Mistake(
        "sharp_perturbation_kept", "θₖ₊₁ = θₖ + ρ g/‖g‖ − α g_s(θₖ + ρ g/‖g‖)",
        "the perturbation is added to θ for good: it was not taken away before the step",
        "fast[n] = theta[n] - lr * g[n], from the θ before the perturbation (in place: sub_ the perturbation first)",
        "subtract from the unperturbed parameters", ({"perturbation": "kept"},), "SAM without its second half",
    ),
    Mistake(
        "sharp_missing", "θₖ₊₁ = θₖ − α g_s(θₖ)",
        "the inner gradient is taken at θₖ itself: this is MAML",
        "take the inner gradient at theta + e", "take the inner gradient at theta + e", ({"perturbation": "missing"},),
    ),
    Mistake(
        "sharp_perturbation_of_query", "ρ g_q/‖g_q‖",
        "the perturbation is made of the query loss's gradient",
        "the perturbation's gradient is that of loss(fast, xs, ys)",
        "the perturbation's gradient is that of loss(fast, xs, ys)", ({"perturbation": "on query"},),
    ),
    Mistake(
        "sharp_some_steps", "a perturbation in one step only",
        "only the first or the last inner step is perturbed",
        "perturb inside the loop over inner steps", "perturb inside the scan",
        ({"perturbation": "first step only"}, {"perturbation": "last step only"}),
    ),
    Mistake(
        "sharp_perturbation_of_start", "ρ g_s(θ)/‖g_s(θ)‖ in every step",
        "every inner step's perturbation is that of the first: it was computed once, before the loop",
        "compute the perturbation inside the loop, at the fast weights", "compute the perturbation inside the scan",
        ({"perturbation": "at the start"},),
    ),
    Mistake(
        "sharp_both_gradients", "θₖ₊₁ = θₖ − α [g_s(θₖ) + g_s(θₖ + ρ g/‖g‖)] / 2",
        "the step is along the mean of the plain and the perturbed gradient",
        "step along the gradient at theta + e alone", "step along the gradient at theta + e alone",
        ({"perturbation": "step along both"},),
    ),
    Mistake(
        "sharp_adaptive", "θₖ + ρ θₖ² g/‖θₖ g‖",
        "the perturbation is that of adaptive SAM: each element of g is multiplied by the size of its parameter",
        "theta[n] + rho * g[n] / norm(g), with adaptive=False",
        "p + rho * g / optax.global_norm(g), without p²",
        ({"adaptive": "θ²"}, {"adaptive": "θ², norm of g"}, {"adaptive": "|θ|"},
         {"adaptive": "θ²", "factors": "detached"}), "davda54/sam, adaptive=True", classic=False,
    ),
    Mistake(
        "sharp_adaptive_with_eta", "θₖ + ρ t² g/‖t g‖,   t = |θₖ| + η",
        "the perturbation is that of adaptive SAM, which scales each element of g by its parameter's size and an η",
        "theta[n] + rho * g[n] / norm(g), not ASAM's",
        "p + rho * g / optax.global_norm(g), not ASAM's",
        ({"eta": 0.01}, {"eta": 0.01, "factors": "detached"}), "SamsungLabs/ASAM",
        free=Free("eta", "η", (0.01, 0.1, 1.0, 1e-3)), classic=False,
    ),
    Mistake(
        "sharp_epsilon_in_the_root", "ρ g/√(‖g‖² + ε)",
        "an ε is added under the root of the norm, against a division by 0; the case's formula has none",
        "rho / norm, without + eps under the root", "rho / optax.global_norm(g)",
        ({"epsilon in the root": 1e-12},), kind="precision", classic=False,
        free=Free("epsilon in the root", "ε", (1e-12, 1e-8, 1e-6, 1e-16, 1e-3, 0.1)),
    ),
    Mistake(
        "sharp_query_perturbed_too", "L_q(θ_K + ρ g/‖g‖)",
        "the query loss is taken uphill, too: that perturbation belongs to the support loss of the inner steps",
        "loss(fast, xq, yq) after the last step, at the fast weights themselves",
        "loss(adapted, xq, yq), at the carry of the scan itself",
        ({"perturbation": "of the query loss too"}, {"perturbation": "of the query loss too, by support"}),
        classic=False,
    ),
    Mistake(
        "sharp_sum_of_gradients", "θₖ₊₁ = θₖ − α [g_s(θₖ) + g_s(θₖ + ρ g/‖g‖)]",
        "the step is along the sum of the plain and the perturbed gradient: .grad was not zeroed between the two",
        "zero_grad() after the perturbation, or torch.autograd.grad", "step along the gradient at theta + e alone",
        ({"perturbation": "step along the sum"}, {"perturbation": "step along the sum", "factors": "detached"}),
        "SAM without zero_grad=True", classic=False,
    ),
    Mistake(
        "sharp_held_and_of_another_norm", "a constant ρ g/‖g‖ for each tensor apart, ρ g, or ρ θ² g/‖θ g‖",
        "the perturbation is held constant in the derivative, and does not have the length ρ, or another direction",
        _STEP, _STEP,
        tuple({"perturbation": "held"} | other for other in (
            {"norm": "per tensor"}, {"norm": "missing"}, {"norm": "squared"}, {"adaptive": "θ²"}, {"radius": "missing"},
            {"radius": "times α"}, {"radius": "squared"})), classic=False,
    ),
    Mistake(
        "sharp_perturbation_of_another_kind", "ρ g_s(θₖ₋₁)/‖g_s(θₖ₋₁)‖, 2ρ g/‖g‖, or two steps uphill",
        "the perturbation of step k is made of the gradient before, is added twice or by half, or is a second one at "
        "the perturbed point",
        _STEP, _STEP,
        tuple({"perturbation": how} for how in ("of the step before", "twice", "half", "in two ascents")),
        shows="perturbation", classic=False,
    ),
    Mistake(
        "sharp_other_radius", "ρ/K, ρ/α, √ρ, ρ ‖θ‖, ρ/√n, or ρ/(k + 1)",
        "the length of the perturbation is ρ times or over something else: the steps, the rate, the size of θ, the "
        "number of parameters; or is its root",
        _STEP, _STEP,
        tuple({"radius": how} for how in ("over K", "over α", "root", "times ‖θ‖", "over √n", "in step k")),
        shows="radius", classic=False,
    ),
    Mistake(
        "sharp_upper_level", "G at θ + ρ G/‖G‖",
        "the meta-gradient itself is taken uphill: this is Sharp-MAML's upper level, beside the lower one or without "
        "it",
        "the gradient of the mean query loss with respect to theta, at theta",
        "jax.grad of the mean query loss at theta",
        ({"upper level": "too"}, {"upper level": "too", "perturbation": "missing"}, {"upper level": "too, downhill"},
         {"upper level": "too", "perturbation": "held"}), "Sharp-MAML, both levels", classic=False,
    ),
]  # fmt: skip
