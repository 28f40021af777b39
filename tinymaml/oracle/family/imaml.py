"""iMAML (Rajeswaran, Finn, Kakade and Levine, NeurIPS 2019): the implicit gradient at the end of the inner loop.

    φ₀ = θ,   φₖ₊₁ = φₖ − α (g_s(φₖ) + λ (φₖ − θ))
    G = mean over tasks of (I + H/λ)⁻¹ g_q(φ_K) = λ (H + λI)⁻¹ g_q(φ_K),   H = ∇²L_s(φ_K)

λ is case.settings["strength"], α `case.inner_lr`, K `case.inner_steps`. This is lemma 1 at φ_K in the place of
φ* = argmin_φ L_s(φ) + λ/2 ‖φ − θ‖², and the system is solved to rounding. A model has at most five parameters, so that
five steps of conjugate gradients do, and H + λI is positive. In the cases "…-converged" φ_K is φ* to rounding: there
any inner solver gives the answer, and so does going back through the K steps. `meta_loss` is the mean of L_q(φ_K).
"""

from __future__ import annotations

import numpy as np

from ..mistakes.data import first_rows
from ..mistakes.mistake import Free, Mistake
from . import pulled
from .procedure import basis, dot, flat, from_vector
from .pulled import SETTINGS, descended, strength  # noqa: F401

FORMULA = "λ (H + λI)⁻¹ g_q(φ_K),   H = ∇²L_s(φ_K),   φₖ₊₁ = φₖ − α (g_s(φₖ) + λ (φₖ − θ))"
SWITCHES = pulled.SWITCHES | {
    "operator": ("I + H/λ", "H + λI", "I + H", "I + λH", "H/λ", "I − H/λ", "diagonal", "H + 2λI", "I + 2H/λ",
                 "I + H/2λ"),
    "damping": (0.0,), "strength_damping": (0.0,), "system_damping": (0.0,),
    "hessian": ("right", "at theta", "a step early", "of query", "of both", "of query at theta", "of the first task",
                "of the last task", "g gᵀ", "halfway", "of all tasks"),
    "hessian_of_rows": (0.0,),
    "inverse": ("exact", "conjugate gradients", "conjugate gradients from g", "neumann", "unrolled", "multiplied",
                "series in H/λ", "steps down"),
    "solver_steps": (0.0,), "solver_digits": (0.0,),
    "cg": ("right", "residual of another start", "β over the next", "β = 0", "β = 1", "β by p", "p as it was",
           "r as it was", "x − a p", "r + a q", "p − β p", "a = rr/pp", "a by the new residual", "x by r",
           "β of Polak and Ribière without the next", "a of the first step"),
    "right side": ("g_q", "g_q and the pull", "g_q less the pull", "g_q at θ", "g_s", "g_q + g_s", "g_q of all tasks"),
    "solution": ("x", "λ x", "α x", "x + g", "g − x", "H x"),
}  # fmt: skip


def gradient(at, theta, support, query):
    path = descended(at, theta, support)
    phi = path[0] if at.s["query"] == "before adaptation" else path[-1]
    value, g = at.query_loss_and_grad(phi, query)
    if at.s["factors"] == "detached":
        return value, phi, g
    if at.s["inverse"] == "unrolled":
        return value, phi, _unrolled(at, path, support, g)
    point = {"at theta": theta, "of query at theta": theta, "a step early": path[-2:][0]}.get(at.s["hessian"], path[-1])
    if at.s["hessian"] == "halfway":
        point = at.map(lambda p, phi: (p + phi) / 2, theta, path[-1])
    batches = {"of query": [query], "of query at theta": [query], "of both": [support, query]}.get(
        at.s["hessian"], [support])  # fmt: skip
    if at.s["hessian"].endswith("task"):
        batches = [at.tasks[0 if "first" in at.s["hessian"] else -1][0]]
    if n := int(at.s["hessian_of_rows"]):
        batches = [first_rows(batch, n) for batch in batches]

    places = [(point, batch) for batch in batches]
    if at.s["hessian"] == "of all tasks":
        places = [(end, s) for end, (s, _) in _of_all_tasks(at, theta)]

    def times(v):
        if at.s["hessian"] == "g gᵀ":
            slope = at.loss_and_grad(point, support)[1]
            return _operator(at, flat(v), flat(slope) * dot(slope, v))
        products = [at.along(point, batch, v) for point, batch in places]
        over = len(places) if at.s["hessian"] == "of all tasks" else 1
        hv = at.map(lambda *h: sum(h[1:], h[0]) if over == 1 else sum(h[1:], h[0]) / over, *products)
        return _operator(at, flat(v), flat(hv))

    if at.s["right side"] != "g_q":
        g = _right_side(at, theta, path[-1], support, query, g)
    # (I + H/λ) G = g_q(φ_K)
    columns = [times(e) for e in basis(at, theta)]
    if at.s["operator"] == "diagonal":
        columns = [c * flat(e) for c, e in zip(columns, basis(at, theta), strict=True)]
    x, lam, rate = _solution(at, columns, flat(g)), strength(at), at.number(at.case.inner_lr)
    end = {"λ x": lambda: lam * x, "α x": lambda: rate * x, "x + g": lambda: x + flat(g),
           "g − x": lambda: flat(g) - x,
           "H x": lambda: lam * (sum(c * y for c, y in zip(columns, x, strict=True)) - x),
           }.get(at.s["solution"], lambda: x)  # fmt: skip
    return value, phi, from_vector(end(), theta)


def _of_all_tasks(at, theta) -> list[tuple]:
    """(φ_K, (support, query)) of every task; what the task at hand remembers stays as it is."""
    memory = dict(at.memory)
    ends = [(descended(at, theta, task[0])[-1], task) for task in at.tasks]
    at.memory = memory
    return ends


def _right_side(at, theta, phi, support, query, g):
    """What the code at hand has in the place of g_q(φ_K)."""
    how, lam = at.s["right side"], strength(at)
    if how == "g_q of all tasks":
        gs = [at.query_loss_and_grad(end, query)[1] for end, (_, query) in _of_all_tasks(at, theta)]
        return at.map(lambda *g: sum(g[1:], g[0]) / len(g), *gs)
    if how == "g_q at θ":
        return at.query_loss_and_grad(theta, query)[1]
    if how.endswith("pull"):
        sign = -1 if "less" in how else 1
        return at.map(lambda g, phi, p: g + sign * lam * (phi - p), g, phi, theta)
    slope = at.loss_and_grad(phi, support)[1]
    return slope if how == "g_s" else at.map(lambda a, b: a + b, g, slope)


def _operator(at, v, hv):
    """(I + H/λ) v, or what the code at hand has for it."""
    lam = strength(at)
    if at.s["system_damping"]:  # H + (λ + c) I, with the factor λ in front of its inverse, or without
        whole = hv + (lam + at.number(at.s["system_damping"])) * v
        return whole if at.s["operator"] == "H + λI" else whole / lam
    if at.s["damping"] or at.s["strength_damping"]:
        # the original code:  (1 + ξ) v + H v / (λ + δ)
        return v * (1 + at.number(at.s["damping"])) + hv / (lam + at.number(at.s["strength_damping"]))
    return {
        "H + λI": lambda: hv + lam * v, "I + H": lambda: v + hv, "I + λH": lambda: v + lam * hv,
        "H/λ": lambda: hv / lam, "I − H/λ": lambda: v - hv / lam, "H + 2λI": lambda: hv + 2 * lam * v,
        "I + 2H/λ": lambda: v + 2 * hv / lam, "I + H/2λ": lambda: v + hv / (2 * lam),
    }.get(at.s["operator"], lambda: v + hv / lam)()  # fmt: skip


def _solution(at, columns, g):
    how, steps = at.s["inverse"], int(at.s["solver_steps"])
    times = lambda v: sum(c * x for c, x in zip(columns, v, strict=True))  # noqa: E731
    if how == "multiplied":
        return times(g)
    if how == "neumann":  # c Σⱼ (I − cA)ʲ g, c = αλ: the last J steps of going back through the inner loop
        c = at.number(at.case.inner_lr) * strength(at)
        x = c * g
        for _ in range(steps - 1):
            x = x + c * (g - times(x))
        return x
    if how == "series in H/λ":  # Σⱼ (−H/λ)ʲ g
        x = term = g
        for _ in range(steps - 1):
            term = term - times(term)
            x = x + term
        return x
    if how == "steps down":  # x ← x − α (A x − g), from 0
        x, c = g * 0, at.number(at.case.inner_lr)
        for _ in range(steps):
            x = x - c * (times(x) - g)
        return x
    if how == "exact":
        if at.s["operator"] == "H/λ":  # H may be singular; conjugate gradients find the shortest solution
            return np.linalg.pinv(np.stack(columns, 1), 1e-9, hermitian=True) @ g
        return at.solve(columns, g)
    x, slip = g if how.endswith("from g") else g * 0, at.s["cg"]
    r = p = g if slip == "residual of another start" else g - times(x)
    first = None
    digits, size = at.s["solver_digits"], float(np.sum(g * g))
    for _ in range(2 * len(g) if digits else steps):  # (Hestenes and Stiefel, 1952)
        rr = np.sum(r * r)
        if float(rr) <= (size * 100.0**-digits if digits else 0):
            break
        q = times(p)
        a = rr / np.sum(p * q)
        if slip != "right":
            first = a if first is None else first
            x, r, p = _slipped(slip, x, r, p, q, rr, first if slip == "a of the first step" else a)
            continue
        x, r = x + a * p, r - a * q
        p = r + (np.sum(r * r) / rr) * p
    return x


def _slipped(slip: str, x, r, p, q, rr, a) -> tuple:
    """x, r and p after a step of conjugate gradients in which a line is another one."""
    a = rr / np.sum(p * p) if slip == "a = rr/pp" else a
    new = r + a * q if slip == "r + a q" else r if slip == "r as it was" else r - a * q
    a = np.sum(new * new) / np.sum(p * q) if slip == "a by the new residual" else a
    x = x - a * p if slip == "x − a p" else x + a * (r if slip == "x by r" else p)
    square = np.sum(new * new)
    beta = {"β over the next": lambda: rr / square, "β = 0": lambda: 0 * square, "β = 1": lambda: 0 * square + 1,
            "β by p": lambda: square / np.sum(p * p),
            "β of Polak and Ribière without the next": lambda: np.sum(r * (r - new)) / rr,
            }.get(slip, lambda: square / rr)()  # fmt: skip
    if slip == "p as it was":
        return x, new, p
    return x, new, new - beta * p if slip == "p − β p" else new + beta * p


def _unrolled(at, path, support, v):
    """∂L_q(φ_K)/∂θ through the inner loop:  vₖ = vₖ₊₁ − α (Hₖ + λ) vₖ₊₁ for each step, and θ gets v₀ + αλ Σₖ vₖ₊₁."""
    rate, lam = at.number(at.case.inner_lr), strength(at)
    of_theta = at.map(lambda v: v * 0, v)
    for phi in reversed(path[:-1]):
        of_theta = at.map(lambda t, v: t + rate * lam * v, of_theta, v)
        v = at.map(lambda v, h: v - rate * (h + lam * v), v, at.along(phi, support, v))
    return at.map(lambda v, t: v + t, v, of_theta)


def closed_form(case):
    """On quadratics φₖ₊₁ = φₖ − α ((A + λI) φₖ − b − λθ), so that φ_K = φ* + (I − α(A + λI))ᴷ (θ − φ*) with
    φ* = (A + λI)⁻¹ (b + λθ), and G = λ (A + λI)⁻¹ g_q(φ_K)."""
    if case.model["layers"][0]["layer"] != "quadratic":
        return None
    theta, lam, values, grads = case.params["theta"], case.settings["strength"], [], []
    for (xs, _), (xq, _) in case.batches():
        (a, b), (aq, bq) = ((np.mean(x, 0)[:, :-1], np.mean(x, 0)[:, -1]) for x in (xs, xq))
        phi = end_on_a_quadratic(case, a, b)
        values.append(phi @ aq @ phi / 2 - bq @ phi)
        grads.append(lam * np.linalg.inv(a + lam * np.eye(len(theta))) @ (aq @ phi - bq))
    return np.mean(values), {"theta": np.mean(grads, 0)}


def end_on_a_quadratic(case, a, b):
    """φ_K of ½ φᵀAφ − bᵀφ."""
    theta, lam = case.params["theta"], case.settings["strength"]
    pulled_to = a + lam * np.eye(len(theta))
    best = np.linalg.inv(pulled_to) @ (b + lam * theta)
    contraction = np.eye(len(theta)) - case.inner_lr * pulled_to
    return best + np.linalg.matrix_power(contraction, case.inner_steps) @ (theta - best)


def by_algorithms(case):
    from ...algorithms import imaml
    from .rungs import of_theta

    count = sum(p.size for p in case.params.values())
    return of_theta(case, imaml, strength=case.settings["strength"], solver_steps=count + 3)


CASES: dict[str, dict] = {
    "quadratic": dict(kind="quadratic 2", inner_steps=2, tasks=2, inner_lr=0.125, shots=2, queries=2,
                      settings={"strength": 2.0}),
    "one-step": dict(fine=True, kind="tanh 1-1-1 mse", inner_steps=1, tasks=3, inner_lr=0.25, shots=3, queries=4,
                     settings={"strength": 1.0}),
    "square": dict(kind="square 1-1-1 mse", inner_steps=2, tasks=2, inner_lr=0.0625, shots=3, queries=4,
                   settings={"strength": 4.0}),
    "softmax": dict(kind="linear 1-2 cross_entropy", inner_steps=5, tasks=2, inner_lr=0.5, shots=4, queries=6,
                    settings={"strength": 0.5}),
    "logistic": dict(kind="linear 2-1 binary_cross_entropy", inner_steps=2, tasks=1, inner_lr=0.75, shots=4, queries=2,
                     settings={"strength": 0.125}),
    "quadratic-converged": dict(kind="quadratic 3", inner_steps=40, tasks=1, inner_lr=0.15625, shots=2,
                                queries=2, settings={"strength": 4.0}),
    "softmax-converged": dict(kind="linear 1-2 cross_entropy", inner_steps=32, tasks=1, inner_lr=0.375, shots=4,
                              queries=6, settings={"strength": 2.0}),
}  # fmt: skip
SHARED = (
    "fomaml", "query_before_adaptation", "one_step_more", "one_step_less", "stale_gradient", "restarted_steps",
    "inner_ascent", "alpha_times_n", "task_leak", "query_is_support", "support_is_query", "swapped_support_query",
    "sum_over_tasks", "last_task_only", "first_task_only", "doubled_gradient", "negated_gradient",
)  # fmt: skip
_STEPS = Free("solver_steps", "J", (1.0, 2.0, 3.0, 5.0), integer=True)
MISTAKES = [
    *pulled.mistakes("imaml"),
    Mistake(
        "imaml_unrolled", "∂L_q(φ_K)/∂θ through the K steps",
        "the gradient goes back through the inner steps: this is MAML with a pull inside, and equals the implicit "
        "gradient only where the inner loop has converged",
        "detach φ_K, and solve (I + H/λ) G = g_q by conjugate gradients with Hessian-vector products at φ_K",
        "stop_gradient on φ_K, then jax.scipy.sparse.linalg.cg(lambda v: v + hvp(v) / lam, g_q)",
        ({"inverse": "unrolled"},),
    ),
    Mistake(
        "imaml_lambda_outside_missing", "(H + λI)⁻¹ g_q(φ_K)",
        "the system is (H + λI) x = g_q, and the factor λ in front of its solution is missing",
        "cg(lambda v: v + hvp(v) / lam, g_q), or lam * cg(lambda v: hvp(v) + lam * v, g_q)",
        "cg(lambda v: v + hvp(v) / lam, g_q), or lam * cg(lambda v: hvp(v) + lam * v, g_q)",
        ({"operator": "H + λI"},),
    ),
    Mistake(
        "imaml_lambda_in_operator", "(I + H)⁻¹ g_q, or (I + λH)⁻¹ g_q",
        "λ is missing in the operator of the linear system, or multiplies H where it should divide",
        "the operator is v + hvp(v) / lam",
        "the operator is v + hvp(v) / lam",
        ({"operator": "I + H"}, {"operator": "I + λH"}),
    ),
    Mistake(
        "imaml_identity_missing", "(H/λ)⁻¹ g_q(φ_K)",
        "the pull's own curvature is missing in the linear system: its matrix is H/λ, without I",
        "the operator is v + hvp(v) / lam; if hvp is that of the pulled loss, it is hvp(v) / lam",
        "the operator is v + hvp(v) / lam; if hvp is that of the pulled loss, it is hvp(v) / lam",
        ({"operator": "H/λ"},),
    ),
    Mistake(
        "imaml_damped", "((1 + ξ) I + H/λ)⁻¹ g_q(φ_K)",
        "the matrix of the linear system is damped by ξ I: what it solves is another system",
        "the operator is v + hvp(v) / lam, without cg_damping",
        "the operator is v + hvp(v) / lam, without damping",
        ({"damping": 1.0},), free=Free("damping", "ξ", (1.0, 0.1, 0.5, 1e-2, 1e-3)),
    ),
    Mistake(
        "imaml_original_operator", "(2 I + H/(λ + 10))⁻¹ g_q(φ_K)",
        "the linear system is that of iMAML's original code, with cg_damping = 1 and lam_damping = 10",
        "the operator is v + hvp(v) / lam, without both dampings",
        "the operator is v + hvp(v) / lam, without both dampings",
        ({"damping": 1.0, "strength_damping": 10.0},
         {"damping": 1.0, "strength_damping": 10.0, "pull": "once at the end"}), "aravindr93/imaml_dev",
    ),
    Mistake(
        "imaml_hessian_sign", "(I − H/λ)⁻¹ g_q(φ_K)",
        "the sign of the Hessian in the linear system is wrong",
        "the operator is v + hvp(v) / lam: a plus",
        "the operator is v + hvp(v) / lam: a plus",
        ({"operator": "I − H/λ"},),
    ),
    Mistake(
        "imaml_hessian_of_query", "(I + H_q/λ)⁻¹ g_q(φ_K)",
        "the Hessian in the linear system is that of the query loss (or of both losses); it is the support loss that "
        "φ_K minimises",
        "take Hessian-vector products of loss(phi, xs, ys)",
        "take Hessian-vector products of loss(phi, xs, ys)",
        ({"hessian": "of query"}, {"hessian": "of both"}),
    ),
    Mistake(
        "imaml_hessian_at_theta", "(I + H(θ)/λ)⁻¹ g_q(φ_K)",
        "the Hessian in the linear system is taken at θ, not at the end of the inner loop",
        "take Hessian-vector products at phi, after the inner loop",
        "take Hessian-vector products at phi, after the inner loop",
        ({"hessian": "at theta"},),
    ),
    Mistake(
        "imaml_diagonal_hessian", "(I + diag(H)/λ)⁻¹ g_q(φ_K)",
        "the linear system has the diagonal of the Hessian only",
        "solve with Hessian-vector products, not with elementwise second derivatives",
        "solve with jax.jvp(jax.grad(loss_s), (phi,), (v,))[1], not with elementwise second derivatives",
        ({"operator": "diagonal"},),
    ),
    Mistake(
        "imaml_multiplied", "(I + H/λ) g_q(φ_K)",
        "g_q is multiplied by the matrix of the linear system, which is not solved",
        "G solves (I + H/λ) G = g_q: conjugate gradients, or torch.linalg.solve",
        "G solves (I + H/λ) G = g_q: jax.scipy.sparse.linalg.cg, or jnp.linalg.solve",
        ({"inverse": "multiplied"},),
    ),
    Mistake(
        "imaml_solver_stopped", "J steps of conjugate gradients on (I + H/λ) x = g_q",
        "conjugate gradients were stopped before the linear system is solved: they need as many steps as there are "
        "parameters",
        "cg_steps = number of parameters, or until the residual is at rounding",
        "cg(…, tol=0, maxiter=number of parameters)",
        ({"inverse": "conjugate gradients", "solver_steps": 1.0},
         {"inverse": "conjugate gradients from g", "solver_steps": 1.0}), kind="precision", free=_STEPS,
    ),
    Mistake(
        "imaml_solver_tolerance", "conjugate gradients until ‖r‖ ≤ 10⁻ᵖ ‖g_q‖",
        "conjugate gradients ended where the residual was below a tolerance",
        "a tolerance of 0 or of the order of rounding, and as many steps as there are parameters",
        "jax.scipy.sparse.linalg.cg(…, tol=0, maxiter=number of parameters); its default is tol=1e-5",
        ({"inverse": "conjugate gradients", "solver_digits": 1}, {"inverse": "conjugate gradients from g",
                                                                 "solver_digits": 1}),
        kind="precision", classic=False, free=Free("solver_digits", "p", (1, 5, 2, 3, 4, 6, 8, 10), integer=True),
    ),
    Mistake(
        "imaml_neumann", "αλ Σⱼ (I − αλ (I + H/λ))ʲ g_q(φ_K),   j < J",
        "the inverse is a Neumann series that was cut after J terms",
        "sum more terms, or solve by conjugate gradients",
        "sum more terms, or solve by jax.scipy.sparse.linalg.cg",
        ({"inverse": "neumann", "solver_steps": 3.0},), "Lorraine, Vicol and Duvenaud, 2020", kind="precision",
        free=_STEPS._replace(typical=(3.0, 5.0, 10.0, 1.0)),
    ),
    Mistake(
        "imaml_strength_damped", "(I + H/(λ + δ))⁻¹ g_q(φ_K)",
        "the linear system is damped: a number δ is added to the λ that divides the Hessian (lam_damping in iMAML's "
        "original code)",
        "the operator is v + hvp(v) / lam, without lam_damping",
        "the operator is v + hvp(v) / lam, without damping",
        ({"strength_damping": 10.0}, {"strength_damping": 10.0, "pull": "once at the end"}), "aravindr93/imaml_dev",
        free=Free("strength_damping", "δ", (10.0, 1.0, 0.1, 100.0, 1e-2)), classic=False,
    ),
    Mistake(
        "imaml_system_damped", "λ (H + (λ + c) I)⁻¹ g_q(φ_K)",
        "the linear system is damped: c I is added to H + λI, as against a singular matrix, and λ in front of the "
        "inverse is as it was",
        "solve with hvp(v) + lam * v, without damping; it is positive where φ_K is near a minimum",
        "solve with hvp(v) + lam * v, without damping; it is positive where φ_K is near a minimum",
        ({"system_damping": 1e-2}, {"system_damping": 1e-2, "operator": "H + λI"}),
        free=Free("system_damping", "c", (1e-2, 1.0, 0.1, 1e-3, 1e-4, 10.0)), classic=False,
    ),
    Mistake(
        "imaml_both_dampings", "((1 + ξ) I + H/(λ + δ))⁻¹ g_q(φ_K)",
        "the linear system has both dampings of iMAML's original code, ξ (cg_damping) and δ (lam_damping)",
        "the operator is v + hvp(v) / lam, without both dampings",
        "the operator is v + hvp(v) / lam, without both dampings",
        tuple({"damping": 1.0, "strength_damping": delta} for delta in (1.0, 0.1, 100.0, 10.0, 0.01, 0.5, 2.0, 5.0)),
        "aravindr93/imaml_dev", free=Free("damping", "ξ", (1.0, 0.1, 0.5, 0.01, 2.0)), classic=False,
    ),
    Mistake(
        "imaml_lambda_of_another_penalty", "(I + H/2λ)⁻¹ g_q(φ_K), (I + 2H/λ)⁻¹ g_q(φ_K), or (H + 2λI)⁻¹ g_q(φ_K)",
        "the pull's curvature in the linear system is that of a penalty λ ‖φ − θ‖², or λ/4 ‖φ − θ‖², or is counted "
        "twice (the inner loop's pull may be that, too); the case has λ/2 ‖φ − θ‖²",
        "the operator is v + hvp(v) / lam, and the penalty lam / 2 * ((phi - theta) ** 2).sum()",
        "the operator is v + hvp(v) / lam, and the penalty lam / 2 * jnp.sum((phi - theta) ** 2)",
        ({"operator": "I + H/2λ", "pull": "doubled"}, {"operator": "I + H/2λ"}, {"operator": "I + 2H/λ"},
         {"operator": "I + 2H/λ", "pull": "halved"}, {"operator": "H + 2λI"},
         {"operator": "H + 2λI", "pull": "doubled"}),
        shows="operator", classic=False,
    ),
    Mistake(
        "imaml_hessian_a_step_early", "(I + H(φ_{K−1})/λ)⁻¹ g_q(φ_K)",
        "the Hessian in the linear system is that of the last inner gradient's graph, at φ_{K−1}",
        "take Hessian-vector products of a new support loss at phi, after the inner loop",
        "take Hessian-vector products at the scan's last carry",
        ({"hessian": "a step early"},), classic=False,
    ),
    Mistake(
        "imaml_conjugate_gradients_slip", "another line in x ← x + a p, r ← r − a A p, p ← r + β p",
        "conjugate gradients have a slip: the residual is not that of their start, β is upside down, missing or "
        "another one, p or r is not updated, a sign is wrong, or a has another quotient",
        "x, r = x + a * p, r - a * Ap, then p = r + (rr_new / rr) * p; r = p = g - A(x) for the x at the start",
        "jax.scipy.sparse.linalg.cg",
        tuple({"inverse": how, "cg": slip, "solver_steps": 5.0}
              for slip in SWITCHES["cg"][1:] for how in ("conjugate gradients", "conjugate gradients from g")
              if how.endswith("from g") or slip != "residual of another start"),
        shows="cg", classic=False, free=_STEPS._replace(typical=(5.0, 10.0, 3.0, 1.0, 2.0)),
    ),
    Mistake(
        "imaml_solution_changed", "λ x, α x, x + g_q, g_q − x or H x, for x of (I + H/λ) x = g_q",
        "the system is solved, and its solution is then multiplied by λ or α, added to the query gradient, or "
        "subtracted from it",
        "return x, with (I + H/λ) x = g_q", "return x, with (I + H/λ) x = g_q",
        tuple({"solution": how} for how in SWITCHES["solution"][1:]), shows="solution", classic=False,
    ),
    Mistake(
        "imaml_one_system_for_all_tasks", "(I + H̄/λ)⁻¹ ḡ_q, H̄ and ḡ_q means over tasks; or (I + H/λ)⁻¹ ḡ_q",
        "one linear system is solved for all tasks, with the mean of their Hessians and of their query gradients, or "
        "each task's system has the mean of all query gradients: what is averaged is the solutions",
        "solve each task's system with its own support loss, φ_K and query gradient, then take the mean",
        "vmap the solver over tasks, each with its own φ_K, then take the mean",
        ({"hessian": "of all tasks"}, {"right side": "g_q of all tasks"}), classic=False,
    ),
    Mistake(
        "imaml_hessian_elsewhere", "(I + H′/λ)⁻¹ g_q(φ_K) with another H′",
        "the Hessian in the linear system is of another task, of the query loss at θ, of a point between θ and φ_K, or "
        "the product of the support gradient with itself",
        "take Hessian-vector products of loss(phi, xs, ys) of the task at hand",
        "take Hessian-vector products of loss(phi, xs, ys) of the task at hand",
        tuple({"hessian": of} for of in ("of the last task", "of the first task", "of query at theta", "halfway",
                                         "g gᵀ")),
        shows="hessian", classic=False,
    ),
    Mistake(
        "imaml_hessian_of_some_examples", "the Hessian of the first n support examples",
        "the Hessian in the linear system is that of some of the support examples only",
        "take Hessian-vector products on all of (xs, ys)", "take Hessian-vector products on all of (xs, ys)",
        ({"hessian_of_rows": 1},), free=Free("hessian_of_rows", "n", (1.0, 2.0, -1.0), integer=True), classic=False,
    ),
    Mistake(
        "imaml_series", "Σⱼ (−H/λ)ʲ g_q, or J steps of x ← x − α (A x − g_q)",
        "the system is not solved: its inverse is a series in H/λ that was cut, or x took some steps of gradient "
        "descent",
        "sum more terms, or solve by conjugate gradients", "jax.scipy.sparse.linalg.cg",
        ({"inverse": "series in H/λ", "solver_steps": 2.0}, {"inverse": "steps down", "solver_steps": 2.0}),
        kind="precision", free=_STEPS._replace(typical=(2.0, 5.0, 10.0, 1.0, 3.0)), classic=False,
    ),
    Mistake(
        "imaml_other_right_side", "(I + H/λ)⁻¹ (g_q(φ_K) + λ (φ_K − θ)), or of g_q(θ), g_s(φ_K), g_q + g_s",
        "the right side of the linear system is another gradient: that of the query loss with the pull, that at θ, the "
        "support loss's, or the sum of both",
        "g = torch.autograd.grad(loss(phi, xq, yq), phi): the query loss alone, at phi",
        "jax.grad(loss)(phi, xq, yq): the query loss alone, at phi",
        tuple({"right side": of} for of in SWITCHES["right side"][1:] if "tasks" not in of),
        shows="right side", classic=False,
    ),
]  # fmt: skip
