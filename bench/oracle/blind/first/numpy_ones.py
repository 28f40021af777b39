"""The blind set in NumPy: by hand, with tinymaml's engine, by complex step. The helpers are honest; a mistake stands in
the function that bears its name."""

from __future__ import annotations

import math

import numpy as np

import tinymaml
from tinymaml.oracle import models

from ..entries import correct, wrong
from ..in_numpy import by_hand, given, mean_of, step


def gradient(loss, params, batch):
    return tinymaml.grad(loss)(params, *batch)


def product(loss, params, batch, v):
    """H v, by the engine."""
    return tinymaml.jvp(lambda p: tinymaml.grad(loss)(p, *batch), (params,), (v,))[1]


def path(loss, params, batch, rate, steps):
    thetas = [params]
    for _ in range(steps):
        thetas.append(step(thetas[-1], gradient(loss, thetas[-1], batch), rate))
    return thetas


def with_product(case, times):
    """Plain MAML with times(loss, θ_k, support, v) in the place of v − α H(θ_k) v."""

    def one(loss, params, s, q):
        *thetas, last = path(loss, params, s, case.inner_lr, case.inner_steps)
        value, v = tinymaml.value_and_grad(loss)(last, *q)
        for at in reversed(thetas):
            v = times(loss, at, s, v)
        return value, v

    return by_hand(case, one)


def pack(d):
    return np.concatenate([np.ravel(v) for v in d.values()])


def unpack(flat, like):
    parts = np.split(flat, np.cumsum([np.size(p) for p in like.values()])[:-1])
    return {n: part.reshape(np.shape(p)) for (n, p), part in zip(like.items(), parts, strict=True)}


def hessian(loss, params, batch):
    """[P, P], column by column."""
    eye = np.eye(sum(np.size(p) for p in params.values()))
    return np.stack([pack(product(loss, params, batch, unpack(e, params))) for e in eye], 1)


def with_hessian(case, change):
    """Plain MAML with change(H) in the place of every H."""

    def times(loss, at, s, v):
        return unpack(pack(v) - case.inner_lr * change(hessian(loss, at, s)) @ pack(v), v)

    return with_product(case, times)


def meta_loss(case):
    """θ ↦ 𝓛(θ), on plain numbers."""
    loss, _, tasks = given(case)
    rate, steps = case.inner_lr, case.inner_steps
    return lambda p: sum(loss(path(loss, p, s, rate, steps)[-1], *q) for s, q in tasks) / len(tasks)


# ── wrong: products ─────────────────────────────────────────────────────────────────────────────────────────────────


@wrong("the sign of the Hessian term is wrong: v + α H v", "\\bsigns?\\b|plus|\\+ ?α|minus", tells_loss=False)
def plus_hessian(case):
    def times(loss, at, s, v):
        hv = product(loss, at, s, v)
        return {n: v[n] + case.inner_lr * hv[n] for n in v}

    return with_product(case, times)


@wrong(
    "α is missing before the Hessian: v − H v", "α is|alpha|\\brates?\\b|without α|missing α|step size|inner_lr|i − h"
)
def rate_forgotten(case):
    def times(loss, at, s, v):
        hv = product(loss, at, s, v)
        return {n: v[n] - hv[n] for n in v}

    return with_product(case, times)


@wrong(
    "the Hessians are of the query loss instead of the support loss",
    "query.*hessian|hessian.*query|curvature.*query|query.*curvature",
       tells_loss=False)  # fmt: skip
def hessians_of_query(case):
    def one(loss, params, s, q):
        *thetas, last = path(loss, params, s, case.inner_lr, case.inner_steps)
        value, v = tinymaml.value_and_grad(loss)(last, *q)
        for at in reversed(thetas):
            v = step(v, product(loss, at, q, v), case.inner_lr)
        return value, v

    return by_hand(case, one)


@wrong(
    "the way back ends at step 1: the Hessian of the first step, at θ₀, is missing",
    "first (inner )?step|step 0|θ₀|theta_?0|off by one",
    tells_loss=False,
)
def first_hessian_missing(case):
    def one(loss, params, s, q):
        thetas = path(loss, params, s, case.inner_lr, case.inner_steps)
        value, v = tinymaml.value_and_grad(loss)(thetas[-1], *q)
        for k in range(case.inner_steps - 1, 0, -1):
            v = step(v, product(loss, thetas[k], s, v), case.inner_lr)
        return value, v

    return by_hand(case, one)


@wrong(
    "the path holds one array many times (it is updated in place): all Hessians are taken at θ_K",
    "θ_?k|theta_?k|last (point|iterate|parameters|θ)|alias|same (point|place)|final|at the end",
)
def aliased_path(case):
    def one(loss, params, s, q):
        now, thetas = {n: p.copy() for n, p in params.items()}, []
        for _ in range(case.inner_steps):
            thetas.append(now)
            for n, g in gradient(loss, now, s).items():
                now[n] -= case.inner_lr * g
        value, v = tinymaml.value_and_grad(loss)(now, *q)
        for at in reversed(thetas):
            v = step(v, product(loss, at, s, v), case.inner_lr)
        return value, v

    return by_hand(case, one)


@wrong(
    "one Hessian, at θ₀, is used for all steps: (I − α H₀)^K",
    "θ₀|theta_?0|same hessian|first (point|step|hessian)|hessian.*(start|initial)",
       tells_loss=False)  # fmt: skip
def power_of_first(case):
    def one(loss, params, s, q):
        last = path(loss, params, s, case.inner_lr, case.inner_steps)[-1]
        value, v = tinymaml.value_and_grad(loss)(last, *q)
        once = np.eye(pack(params).size) - case.inner_lr * hessian(loss, params, s)
        return value, unpack(np.linalg.matrix_power(once, case.inner_steps) @ pack(v), params)

    return by_hand(case, one)


@wrong(
    "the Jacobian of gradient flow: exp(−α H) instead of I − α H", "exp\\(|exponential|flow|continuous|higher order|α²"
)
def gradient_flow(case):
    def times(loss, at, s, v):
        h = hessian(loss, at, s)
        values, vectors = np.linalg.eigh((h + h.T) / 2)
        return unpack(vectors @ (np.exp(-case.inner_lr * values) * (vectors.T @ pack(v))), v)

    return with_product(case, times)


@wrong(
    "only the Hessian's lower triangle is mirrored, with the diagonal counted twice",
    "diagonal|triang|symmetri",
    tells_loss=False,
)
def mirrored_triangle(case):
    return with_hessian(case, lambda h: np.tril(h) + np.tril(h).T)


@wrong("negative eigenvalues of the Hessian are set to 0", "eigenvalue|positive|semidefinite|negative curvature|clamp")
def positive_part(case):
    def change(h):
        values, vectors = np.linalg.eigh((h + h.T) / 2)
        return (vectors * np.maximum(values, 0)) @ vectors.T

    return with_hessian(case, change)


@wrong("the Hessian is damped: 1e-6 is added to its diagonal", "damp|diagonal|regulari|1e-6|identity", tells_loss=False)
def damped(case):
    return with_hessian(case, lambda h: h + 1e-6 * np.eye(len(h)))


@wrong(
    "the Hessian is of low rank: its smallest eigenvalue is dropped (Lanczos)",
    "\\brank|eigenvalue|lanczos|low-rank|approximat",
)
def low_rank(case):
    def change(h):
        values, vectors = np.linalg.eigh((h + h.T) / 2)
        if len(values) > 1:
            values[np.argmin(np.abs(values))] = 0
        return (vectors * values) @ vectors.T

    return with_hessian(case, change)


@wrong(
    "the recursion skips a product that would change v by less than 10 %",
    "skip|threshold|small (term|product)|toleran|some steps",
    tells_loss=False,
)
def small_products_skipped(case):
    def times(loss, at, s, v):
        hv = product(loss, at, s, v)
        if case.inner_lr * np.linalg.norm(pack(hv)) < 0.1 * np.linalg.norm(pack(v)):
            return v
        return step(v, hv, case.inner_lr)

    return with_product(case, times)


# ── wrong: approximate ──────────────────────────────────────────────────────────────────────────────────────────────


@wrong(
    "the whole meta-gradient by central differences with h = 1e-5",
    "finite.?diff|difference|digits|imprecise|approximat",
)
def central_differences(case):
    f, out = meta_loss(case), {}
    for n, p in case.params.items():
        out[n] = np.zeros(p.shape)
        for i in np.ndindex(p.shape):
            e = np.zeros(p.shape)
            e[i] = 1e-5
            out[n][i] = (f({**case.params, n: p + e}) - f({**case.params, n: p - e})) / 2e-5
    return {"meta_grad": out, "meta_loss": f(case.params)}


@wrong(
    "differences with Richardson's extrapolation: right to some ten digits, not to rounding",
    "finite.?diff|difference|digits|imprecise|approximat|extrapol",
    tells_loss=False,
)
def richardson(case):
    f, out = meta_loss(case), {}
    for n, p in case.params.items():
        out[n] = np.zeros(p.shape)
        for i in np.ndindex(p.shape):
            e = np.zeros(p.shape)
            e[i] = 1.0
            d = [
                (f({**case.params, n: p + h * e}) - f({**case.params, n: p - h * e})) / (2 * h)
                for h in (4e-3, 2e-3, 1e-3)
            ]
            once = [(4 * d[1] - d[0]) / 3, (4 * d[2] - d[1]) / 3]
            out[n][i] = (16 * once[1] - once[0]) / 15
    return {"meta_grad": out}


def complex_product(case, params, batch, v, h):
    at = {n: p + 1j * h * v[n] for n, p in params.items()}
    return {n: np.imag(g) / h for n, g in models.loss_and_grad(case.model, at, *batch)[1].items()}


@wrong(
    "complex step with h = 1e-4, where it is an approximation: the error is of order h²",
    "finite.?diff|complex|difference|digits|imprecise|approximat",
    tells_loss=False,
)
def coarse_complex_step(case):
    return with_product(case, lambda loss, at, s, v: step(v, complex_product(case, at, s, v, 1e-4), case.inner_lr))


@wrong("the answer is rounded to six decimals", "rounded|decimals|digits|imprecise|precision")
def six_decimals(case):
    out = with_product(case, lambda loss, at, s, v: step(v, product(loss, at, s, v), case.inner_lr))
    return {**out, "meta_grad": {n: np.round(g, 6) for n, g in out["meta_grad"].items()}}


@wrong("the mean over tasks is accumulated in float32", "float32|single|precision|imprecise|digits", tells_loss=False)
def accumulated_in_float32(case):
    loss, params, tasks = given(case)
    total = {n: np.zeros(p.shape, np.float32) for n, p in params.items()}
    for s, q in tasks:
        *thetas, last = path(loss, params, s, case.inner_lr, case.inner_steps)
        v = gradient(loss, last, q)
        for at in reversed(thetas):
            v = step(v, product(loss, at, s, v), case.inner_lr)
        for n in total:
            total[n] += (v[n] / len(tasks)).astype(np.float32)
    return {"meta_grad": total}


# ── wrong: tasks, state, what is returned ───────────────────────────────────────────────────────────────────────────


def exact(loss, params, s, q, rate, steps):
    *thetas, last = path(loss, params, s, rate, steps)
    value, v = tinymaml.value_and_grad(loss)(last, *q)
    for at in reversed(thetas):
        v = step(v, product(loss, at, s, v), rate)
    return value, v


@wrong(
    "a shallow copy: the inner loop updates θ itself in place; later tasks start from it, and the input is changed",
    "in.?place|reset|carr|leak|previous task|starts? (from|at)|input.*chang|chang.*input|copy",
)
def shallow_copy(case):
    def one(loss, params, s, q):
        fast, thetas = dict(params), []
        for _ in range(case.inner_steps):
            thetas.append({n: p.copy() for n, p in fast.items()})
            for n, g in gradient(loss, fast, s).items():
                fast[n] -= case.inner_lr * g
        value, v = tinymaml.value_and_grad(loss)(fast, *q)
        for at in reversed(thetas):
            v = step(v, product(loss, at, s, v), case.inner_lr)
        return value, v

    return by_hand(case, one)


@wrong(
    "late binding: the closures made in the loop all see the last task's support set",
    "last task|same (task|support)|support.*(another|other|wrong|last)|wrong task",
       tells_loss=False)  # fmt: skip
def late_binding(case):
    loss, params, tasks = given(case)
    waiting = []
    for s, q in tasks:
        waiting.append((lambda p: path(loss, p, s, case.inner_lr, case.inner_steps), q))  # noqa: B023
    grads = []
    for run, q in waiting:
        *thetas, last = run(params)
        v = gradient(loss, last, q)
        for at in reversed(thetas):
            v = step(v, product(loss, at, s, v), case.inner_lr)
        grads.append(v)
    return {"meta_grad": mean_of(grads)}


@wrong(
    "at most two tasks are used: the rest of a larger meta-batch is left out",
    "(two|2|some|first|last|number of) tasks?|tasks? .*(left|missing|ignored|dropped)|weight",
    tells_loss=False,
)
def two_tasks(case):
    loss, params, tasks = given(case)
    grads = [exact(loss, params, s, q, case.inner_lr, case.inner_steps)[1] for s, q in tasks[:2]]
    return {"meta_grad": mean_of(grads)}


@wrong(
    "at most three inner steps are taken, whatever K is",
    "steps? (too )?few|fewer steps|(three|3|more|many|number of)( inner)? steps|truncat",
)
def three_steps(case):
    return by_hand(case, lambda loss, p, s, q: exact(loss, p, s, q, case.inner_lr, min(case.inner_steps, 3)))


@wrong("the inner rate is divided by the number of tasks", "\\brates?\\b|α|alpha|\\blr\\b|inner_lr|step size")
def rate_over_tasks(case):
    return by_hand(case, lambda loss, p, s, q: exact(loss, p, s, q, case.inner_lr / case.tasks, case.inner_steps))


@wrong("Reptile: (θ − θ_K)/α, without a query set", "reptile|query|θ ?[−-] ?θ_?k", tells_loss=False)
def reptile(case):
    def one(loss, params, s, q):
        last = path(loss, params, s, case.inner_lr, case.inner_steps)[-1]
        return loss(last, *q), {n: (params[n] - last[n]) / case.inner_lr for n in params}

    return by_hand(case, one)


@wrong(
    "what is returned is the new θ after an outer step, not the gradient",
    "outer step|new parameters|new θ|outer_lr|instead of the gradient",
       tells_loss=False)  # fmt: skip
def new_parameters(case):
    out = by_hand(case, lambda loss, p, s, q: exact(loss, p, s, q, case.inner_lr, case.inner_steps))
    return {"meta_grad": step(case.params, out["meta_grad"], case.outer_lr)}


@wrong(
    "the gradient is right; the loss that is reported is the support loss at θ₀",
    "meta.?loss|loss (is|was) (wrong|not)|reported|returned loss",
)
def loss_before(case):
    loss, params, tasks = given(case)
    out = by_hand(case, lambda loss, p, s, q: exact(loss, p, s, q, case.inner_lr, case.inner_steps))
    return {**out, "meta_loss": sum(loss(params, *s) for s, _ in tasks) / len(tasks)}


@wrong(
    "matrices are ravelled by columns (Fortran's order) and read back by rows",
    "order of (the )?(entries|elements)|layout|transpos|column|fortran|permut",
)
def fortran_order(case):
    out = by_hand(case, lambda loss, p, s, q: exact(loss, p, s, q, case.inner_lr, case.inner_steps))
    grads = {n: np.ravel(g, order="F").reshape(np.shape(g)) for n, g in out["meta_grad"].items()}
    return {**out, "meta_grad": grads}


# ── wrong in two ways ───────────────────────────────────────────────────────────────────────────────────────────────


@wrong(
    "the first step's Hessian is missing, and tasks are summed",
    "first (inner )?step|step 0|θ₀|theta_?0",
    "summed|sum over|sum of (the )?tasks|divided|not averaged|times too|factor",
)
def first_missing_and_sum(case):
    out = first_hessian_missing(case)
    return {
        n: {m: v * case.tasks for m, v in g.items()} if isinstance(g, dict) else g * case.tasks for n, g in out.items()
    }


@wrong(
    "at most three steps, and at most two tasks",
    "steps? (too )?few|fewer steps|(three|3|more|many|number of)( inner)? steps",
    "(two|2|some|first|last|number of) tasks?|tasks? .*(left|missing|ignored|dropped)",
    tells_loss=False,
)
def three_steps_two_tasks(case):
    loss, params, tasks = given(case)
    grads = [exact(loss, params, s, q, case.inner_lr, min(case.inner_steps, 3))[1] for s, q in tasks[:2]]
    return {"meta_grad": mean_of(grads)}


@wrong(
    "one step too few, and all Hessians are taken at θ₀",
    "step (too )?few|missing step|k ?[−-] ?1|fewer steps|one step less",
    "θ₀|theta_?0|same hessian",
)
def short_and_first_hessian(case):
    def one(loss, params, s, q):
        *thetas, last = path(loss, params, s, case.inner_lr, case.inner_steps - 1)
        value, v = tinymaml.value_and_grad(loss)(last, *q)
        for _ in thetas:
            v = step(v, product(loss, params, s, v), case.inner_lr)
        return value, v

    return by_hand(case, one)


@wrong(
    "the Hessian's sign is wrong, and all Hessians are taken at θ_K",
    "\\bsigns?\\b|plus|\\+ ?α|minus", "θ_?k|theta_?k|last (point|iterate|parameters|θ)|alias|final",
       tells_loss=False)  # fmt: skip
def plus_and_aliased(case):
    def one(loss, params, s, q):
        *thetas, last = path(loss, params, s, case.inner_lr, case.inner_steps)
        value, v = tinymaml.value_and_grad(loss)(last, *q)
        for _ in thetas:
            v = step(v, product(loss, last, s, v), -case.inner_lr)
        return value, v

    return by_hand(case, one)


# ── correct ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@correct("complex step through backpropagation by hand, h = 1e-30: no subtraction, exact to rounding")
def complex_step(case):
    return with_product(case, lambda loss, at, s, v: step(v, complex_product(case, at, s, v, 1e-30), case.inner_lr))


@correct("forward sensitivities: J ← (I − α H) J beside the inner loop, then Jᵀ g", tells_loss=False)
def forward_sensitivities(case):
    def one(loss, params, s, q):
        at, jacobian = params, np.eye(pack(params).size)
        for _ in range(case.inner_steps):
            jacobian = jacobian - case.inner_lr * (hessian(loss, at, s) @ jacobian)
            at = step(at, gradient(loss, at, s), case.inner_lr)
        value, v = tinymaml.value_and_grad(loss)(at, *q)
        return value, unpack(jacobian.T @ pack(v), params)

    return by_hand(case, one)


@correct("everything in extended precision, by complex step; rounded once at the end")
def extended_precision(case):
    wide = lambda x: x.astype(np.longdouble) if x.dtype.kind == "f" else x  # noqa: E731
    params = {n: wide(p) for n, p in case.params.items()}
    total, value = {n: np.zeros(p.shape, np.longdouble) for n, p in params.items()}, np.longdouble(0)
    h = np.longdouble(1e-30)
    for s, q in zip(case.support, case.query, strict=True):
        s, q = tuple(map(wide, s)), tuple(map(wide, q))
        thetas = [params]
        for _ in range(case.inner_steps):
            g = models.loss_and_grad(case.model, thetas[-1], *s)[1]
            thetas.append(step(thetas[-1], g, case.inner_lr))
        here, v = models.loss_and_grad(case.model, thetas.pop(), *q)
        while thetas:
            at = {n: p + 1j * h * v[n] for n, p in thetas.pop().items()}
            hv = models.loss_and_grad(case.model, at, *s)[1]
            v = {n: v[n] - case.inner_lr * np.imag(hv[n]) / h for n in v}
        total, value = {n: total[n] + v[n] for n in v}, value + here
    return {
        "meta_grad": {n: np.float64(g / case.tasks) for n, g in total.items()},
        "meta_loss": float(value / case.tasks),
    }


@correct("tasks are summed exactly with math.fsum", tells_loss=False)
def exact_sums(case):
    loss, params, tasks = given(case)
    grads = [pack(exact(loss, params, s, q, case.inner_lr, case.inner_steps)[1]) for s, q in tasks]
    return {
        "meta_grad": unpack(np.array([math.fsum(column) / len(tasks) for column in zip(*grads, strict=True)]), params)
    }


@correct("the engine differentiates the whole loop, recursively written")
def recursive(case):
    loss, params, tasks = given(case)

    def after(p, s, q, k):
        return loss(p, *q) if k == 0 else after(step(p, tinymaml.grad(loss)(p, *s), case.inner_lr), s, q, k - 1)

    value, grads = tinymaml.value_and_grad(
        lambda p: sum(after(p, s, q, case.inner_steps) for s, q in tasks) / len(tasks)
    )(params)
    return {"meta_grad": grads, "meta_loss": value}


@correct("the pullback of one inner step, by vjp, applied from the last step to the first", tells_loss=False)
def pullbacks(case):
    def one(loss, params, s, q):
        at, back = params, []
        for _ in range(case.inner_steps):
            at, pull = tinymaml.vjp(lambda p: step(p, tinymaml.grad(loss)(p, *s), case.inner_lr), at)
            back.append(pull)
        value, v = tinymaml.value_and_grad(loss)(at, *q)
        for pull in reversed(back):
            (v,) = pull(v)
        return value, v

    return by_hand(case, one)


@correct("explicit Hessians, multiplied as matrices before the vector", tells_loss=False)
def matrices_first(case):
    def one(loss, params, s, q):
        *thetas, last = path(loss, params, s, case.inner_lr, case.inner_steps)
        value, v = tinymaml.value_and_grad(loss)(last, *q)
        chain = np.eye(pack(params).size)
        for at in thetas:
            chain = chain @ (np.eye(len(chain)) - case.inner_lr * hessian(loss, at, s)).T
        return value, unpack(chain @ pack(v), params)

    return by_hand(case, one)
