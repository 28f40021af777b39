"""The blind set in NumPy. The helpers are honest; a mistake stands in the function that bears its name."""

from __future__ import annotations

import numpy as np

import tinymaml as tm
from tinymaml.oracle import models

from ..entries import correct, wrong
from ..in_numpy import adapt, dot, given, hvp, over_tasks, path, step


def plus(a, b, scale=1.0):
    return {n: a[n] + scale * b[n] for n in a}


def by_products(case, back, path=path):
    """The mean over tasks of back(loss, [θ₀ … θ_K], support, g_q)."""
    loss, params, tasks = given(case)
    total, value = {n: np.zeros_like(p) for n, p in params.items()}, 0.0
    for support, query in tasks:
        thetas = path(case, loss, params, support)
        loss_q, g = tm.value_and_grad(loss)(thetas[-1], *query)
        total = plus(total, back(loss, thetas, support, g), 1 / case.tasks)
        value = value + loss_q / case.tasks
    return {"meta_grad": total, "meta_loss": value}


def through_hessians(case):
    """v ← v − α Hₖ v, from the last step to the first."""

    def back(loss, thetas, support, v):
        for theta in reversed(thetas[:-1]):
            v = plus(v, hvp(loss, theta, support, v), -case.inner_lr)
        return v

    return back


def flat(nest):
    return np.concatenate([np.ravel(a) for a in nest.values()])


def unflat(vector, like):
    out, at = {}, 0
    for n, a in like.items():
        out[n] = np.reshape(vector[at : at + a.size], a.shape)
        at += a.size
    return out


def hessian(loss, params, batch):
    """All of it, column by column."""
    size = flat(params).size
    return np.stack([flat(hvp(loss, params, batch, unflat(e, params))) for e in np.eye(size)], 1)


# ── wrong ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@wrong(
    "The Hessian-vector product is a one-sided finite difference of gradients with the fixed step 0.01, an "
    "approximation "
    "with an error of first order in the step.",
    r"finite[- ]?diff|difference|one-sided|forward diff|approximat|numerical (deriv|diff|Hess)|step size of the diff"
    r"|(ε|eps|epsilon|h) ?= ?0?\.01|truncation|inexact|Hessian-free",
)
def product_by_difference(case):
    epsilon = 1e-2

    def back(loss, thetas, support, v):
        for theta in reversed(thetas[:-1]):
            here = tm.grad(loss)(theta, *support)
            there = tm.grad(loss)(plus(theta, v, epsilon), *support)
            hv = {n: (there[n] - here[n]) / epsilon for n in v}
            v = plus(v, hv, -case.inner_lr)
        return v

    return by_products(case, back)


@wrong(
    "The path holds shallow copies whose arrays are changed in place, so all K Hessians are taken at the last "
    "θ_K instead "
    "of at θ₀ … θ_{K−1}.",
    r"θ_?\{?K\b|θₖ\b.*(all|every|each)|theta_?K|(last|final|adapted|end|latest) (param|point|θ|weight|iterate"
    r"|value)|alias"
    r"|in[- ]place|shallow|overwrit|same (array|point|place|param)|end of the (path|inner|loop)|after adaptation"
    r"|adapted param",
    tells_loss=False,
)
def path_of_copies(case):
    def kept_path(case, loss, params, support):
        fast = {n: np.array(p) for n, p in params.items()}
        thetas = [dict(fast)]
        for _ in range(case.inner_steps):
            grads = tm.grad(loss)(fast, *support)
            for n in fast:
                fast[n][...] = fast[n] - case.inner_lr * grads[n]
            thetas.append(dict(fast))
        return thetas

    return by_products(case, through_hessians(case), kept_path)


@wrong(
    "The fast weights are not set back to θ between tasks, so each task's inner loop starts where the task "
    "before ended.",
    r"(not|never|without) (being )?(reset|set back|restor|re-?initial|re-?start|cop)|reset|previous task|task before"
    r"|(carr|leak|continu|persist|remain|accumul|left ?over).*task|tasks? .*(carr|leak|continu|sequential|start)"
    r"|between tasks|state|from task to task|where the .*(ended|stopped|left)",
)
def one_set_of_fast_weights(case):
    loss, params, tasks = given(case)
    fast = dict(params)
    total, value = {n: np.zeros_like(p) for n, p in params.items()}, 0.0
    for support, query in tasks:
        thetas = path(case, loss, fast, support)
        fast = thetas[-1]
        loss_q, g = tm.value_and_grad(loss)(fast, *query)
        total = plus(total, through_hessians(case)(loss, thetas, support, g), 1 / case.tasks)
        value = value + loss_q / case.tasks
    return {"meta_grad": total, "meta_loss": value}


@wrong(
    "The Hessian is taken parameter by parameter with the others held fixed, so its blocks between different "
    "parameters "
    "are missing.",
    r"block|cross|mixed (partial|deriv)|off-diagonal|diagonal|(between|across|other|different) (param|layer|arrays)"
    r"|parameter by parameter|layer by layer|per[- ](param|layer)|each (param|layer|array) (separately|alone|by itself)"
    r"|coupling|separately",
)
def hessian_of_each(case):
    def back(loss, thetas, support, v):
        for theta in reversed(thetas[:-1]):
            hv = {
                n: tm.hvp(lambda p, n=n, theta=theta: loss({**theta, n: p}, *support), (theta[n],), v[n]) for n in theta
            }
            v = plus(v, hv, -case.inner_lr)
        return v

    return by_products(case, back)


@wrong(
    "The Hessian is replaced by the outer product g gᵀ of the support gradient, the empirical Fisher matrix, "
    "which is an "
    "approximation.",
    r"outer[- ]product|Fisher|g ?gᵀ|g ?g\^?T|rank[- ](one|1)|Gauss[- ]?Newton|natural grad|squared gradient"
    r"|product of gradients|approximat",
    tells_loss=False,
)
def curvature_from_gradients(case):
    def back(loss, thetas, support, v):
        for theta in reversed(thetas[:-1]):
            g = tm.grad(loss)(theta, *support)
            v = plus(v, g, -case.inner_lr * dot(g, v))
        return v

    return by_products(case, back)


@wrong(
    "The product of the factors I − αHₖ is replaced by I − α Σ Hₖ, so all terms of second and higher order in α are "
    "lost.",
    r"lineari[sz]|Σ|sum of (the )?(H|Hess)|sum over (the )?steps|(higher|second)[- ]order (terms? )?in (α"
    r"|alpha)|α²|α\^2"
    r"|alpha\^2|alpha²|expan|Neumann|Taylor|first[- ]order in (α|alpha)|cross[- ]terms?|instead of (the|a) product"
    r"|products? of (the )?(H|Hess)|each factor .*same|not chained|compound|independent",
)
def one_correction_for_each_step(case):
    def back(loss, thetas, support, g):
        v = dict(g)
        for theta in reversed(thetas[:-1]):
            v = plus(v, hvp(loss, theta, support, g), -case.inner_lr)
        return v

    return by_products(case, back)


@wrong(
    "The inner rate passes through a name of the run that prints it with two decimals, so that α is rounded: 0.0625 "
    "becomes 0.06.",
    r"round|decimal|(α|alpha|rate|inner_lr) .*(wrong|other|differ|off|inexact|approximate|scaled|factor"
    r"|precision|digits)"
    r"|(wrong|another|different|other|rounded|inexact) .*(α|alpha|inner_lr|rate)|truncat.*(rate|α|alpha)|digits of",
)
def name_of_the_run(case):
    loss, params, tasks = given(case)
    run = f"maml_lr{case.inner_lr:.2f}_k{case.inner_steps}"
    rate = float(run.split("_")[1].removeprefix("lr"))

    def mean_loss(params):
        total = 0.0
        for support, query in tasks:
            fast = params
            for _ in range(case.inner_steps):
                fast = step(fast, tm.grad(loss)(fast, *support), rate)
            total = total + loss(fast, *query)
        return total / len(tasks)

    value, grads = tm.value_and_grad(mean_loss)(params)
    return {"meta_grad": grads, "meta_loss": value}


@wrong(
    "Every entry of the meta-gradient is clipped to [−10, 10], as the first public code of MAML does for its outer "
    "optimiser.",
    r"clip|clamp|[-−±] ?10\b|\b10(\.0)?\b|limit|bounded|saturat|cap(ped|s)?\b|threshold|truncat",
)
def as_the_outer_optimiser_has_it(case):
    out = by_products(case, through_hessians(case))
    return {"meta_grad": {n: np.clip(g, -10, 10) for n, g in out["meta_grad"].items()}, "meta_loss": out["meta_loss"]}


@wrong(
    "The mean over tasks is a running average, halfway between the old value and the new one, so with three tasks or "
    "more the later ones count more.",
    r"weight|running|moving|exponential|unequal|halfway|halv|(later|last|first|earlier) tasks? .*(more|less"
    r"|most|half|weigh)"
    r"|tasks? .*(unequal|not equal|differently|count|weigh)|uneven|average of averages|not (the|a) mean|EMA\b"
    r"|wrong (mean|average)",
)
def running_mean(case):
    loss, params, tasks = given(case)

    def meta_loss(params):
        average = None
        for support, query in tasks:
            value = loss(adapt(case, loss, params, support), *query)
            average = value if average is None else (average + value) / 2
        return average

    value, grads = tm.value_and_grad(meta_loss)(params)
    return {"meta_grad": grads, "meta_loss": value}


@wrong(
    "Each inner step takes only one example of the support set, the k-th in turn, where the whole set should "
    "be used in "
    "every step.",
    r"mini-?batch|one (support )?(example|sample|row)|single (support )?(example|sample|row)|stochastic|SGD"
    r"|(part|subset|fraction|slice|some|k-th|first|portion) of the (support|set|data|batch|examples)"
    r"|(not|instead of) (all|the (whole|full|entire))|full[- ]batch|whole (support )?set|examples? .*(in turn"
    r"|left out|missing)"
    r"|subset|wrong (examples|rows|data)|other (examples|rows|data)",
    tells_loss=False,
)
def examples_in_turn(case):
    def one(loss, params, support, query):
        xs, ys = support
        for k in range(case.inner_steps):
            at = slice(k % len(xs), k % len(xs) + 1)
            params = step(params, tm.grad(loss)(params, xs[at], ys[at]), case.inner_lr)
        return loss(params, *query)

    return over_tasks(case, one)


class Squeezing(models.NumPy):
    def mse(self, o, y):
        return np.mean((o - np.squeeze(y)) ** 2)

    def half_mse(self, o, y):
        return self.mse(o, y) / 2


@wrong(
    "The targets are squeezed to (N,) while the outputs stay (N, 1), and the difference broadcasts to (N, N): "
    "every output "
    "is compared with every target.",
    r"broadcast|squeez|\(N, ?N\)|N ?× ?N|every (output|target|prediction|example)|all pairs|pairwise|shape|all targets"
    r"|mean (of the )?targets?|each output .*(every|all)|outer diff",
)
def targets_without_an_axis(case):
    def one(loss, params, support, query):
        return loss(adapt(case, loss, params, support), *query)

    return over_tasks(case, one, Squeezing())


@wrong(
    "The query set is that of the next task, because both sets are drawn from one iterator in turn; and the "
    "meta-gradient "
    "is summed over tasks, not averaged.",
    r"(another|other|next|wrong|different|previous|neighbou?r|shifted|mismatched) tasks?|mis-?match|paired|pairing"
    r"|task.*(mixed|shift|permut|roll|off[- ]by|swap|exchang)|(shift|permut|roll|swap|exchang).*task",
    r"\bsum(s|med)?\b|not (averaged|divided)|times T|× ?T|factor T|by T\b|number of tasks|1/T|T times|missing mean",
)
def drawn_in_turn(case):
    loss, params, tasks = given(case)
    supports = [support for support, _ in tasks]
    queries = [query for _, query in tasks]
    total, value = {n: np.zeros_like(p) for n, p in params.items()}, 0.0
    for t, support in enumerate(supports):
        thetas = path(case, loss, params, support)
        loss_q, g = tm.value_and_grad(loss)(thetas[-1], *queries[(t + 1) % len(queries)])
        total = plus(total, through_hessians(case)(loss, thetas, support, g))
        value = value + loss_q
    return {"meta_grad": total, "meta_loss": value}


@wrong(
    "The parameters before each update are stopped, θₖ₊₁ = stop(θₖ) − αg(θₖ), so the identity in I − αHₖ is "
    "missing and only "
    "−αHₖ remains.",
    r"identity|I ?[-−] ?α|[-−] ?α ?H|only the (Hess|second|curv|α|gradient)|(direct|linear|skip|straight|additive) "
    r"(path|term|part|way|dependence)|without (the )?I\b|missing I\b|θₖ .*(detach|stop|constant)"
    r"|(param|weight|θ|copy|copies|clone).*(detach|stop|constant)|(detach|stop)\w* .*(param|weight|θ|fast)",
)
def stopped_before_the_update(case):
    def one(loss, params, support, query):
        for _ in range(case.inner_steps):
            grads = tm.grad(loss)(params, *support)
            params = {n: tm.stop_gradient(p) - case.inner_lr * grads[n] for n, p in params.items()}
        return loss(params, *query)

    return over_tasks(case, one)


@wrong(
    "Only the upper triangle of the explicit Hessian is filled, since it is symmetric, and it is never mirrored to the "
    "lower one.",
    r"triang|triu|symmetr|mirror|half of the (Hess|matrix|entries)|upper|lower|below the diagonal|off-diagonal"
    r"|asymmetr",
    tells_loss=False,
)
def half_of_the_matrix(case):
    def back(loss, thetas, support, g):
        v = flat(g)
        for theta in reversed(thetas[:-1]):
            full = np.zeros((v.size, v.size))
            for i in range(v.size):
                row = flat(hvp(loss, theta, support, unflat(np.eye(v.size)[i], theta)))
                full[i, i:] = row[i:]
            v = v - case.inner_lr * (full @ v)
        return unflat(v, g)

    return by_products(case, back)


@wrong(
    "The backward loop ends before k = 0, so the factor of the first inner step is missing; and the query set "
    "holds the "
    "support examples too.",
    r"first (inner )?(step|factor|update|Hess)|k ?= ?0|H_?0\b|H₀|(factor|Hessian|step) .*(missing|left out"
    r"|skipp|omit|forgot)"
    r"|(missing|skips?|omits?|forgets?|lacks?) .*(factor|Hessian|step)|off[- ]by[- ]one|one factor"
    r"|K ?[-−] ?1 (factors|steps)"
    r"|truncat",
    r"support .*(query|too|also|in the meta|outer)|query .*(support|both|union|joined|concat|all)|both sets"
    r"|concat|union"
    r"|joined|all (the )?(data|examples)|wrong (set|data)|contain",
)
def ends_at_one(case):
    loss, params, tasks = given(case)
    total, value = {n: np.zeros_like(p) for n, p in params.items()}, 0.0
    for support, query in tasks:
        thetas = path(case, loss, params, support)
        everything = [np.concatenate([s, q]) for s, q in zip(support, query, strict=True)]
        loss_q, v = tm.value_and_grad(loss)(thetas[-1], *everything)
        for k in range(case.inner_steps - 1, 0, -1):
            v = plus(v, hvp(loss, thetas[k], support, v), -case.inner_lr)
        total = plus(total, v, 1 / case.tasks)
        value = value + loss_q / case.tasks
    return {"meta_grad": total, "meta_loss": value}


# ── right ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@correct("Explicit Hessians, column by column, multiplied to one matrix, which is applied to the query gradient.")
def matrices(case):
    def back(loss, thetas, support, g):
        size = flat(g).size
        product = np.eye(size)
        for theta in thetas[:-1]:
            product = product @ (np.eye(size) - case.inner_lr * hessian(loss, theta, support))
        return unflat(product @ flat(g), g)

    return by_products(case, back)


@correct("Products by tm.jvp of the gradient, with θₖ computed again from θ for every k, so nothing is kept.")
def again_from_the_start(case):
    loss, params, tasks = given(case)

    def until(k, support):
        fast = params
        for _ in range(k):
            fast = step(fast, tm.grad(loss)(fast, *support), case.inner_lr)
        return fast

    total, value = {n: np.zeros_like(p) for n, p in params.items()}, 0.0
    for support, query in tasks:
        loss_q, v = tm.value_and_grad(loss)(until(case.inner_steps, support), *query)
        for k in reversed(range(case.inner_steps)):
            theta = until(k, support)
            slope = lambda p, support=support: tm.grad(loss)(p, *support)  # noqa: E731
            _, hv = tm.jvp(slope, (theta,), (v,))
            v = plus(v, hv, -case.inner_lr)
        total, value = plus(total, v), value + loss_q
    return {"meta_grad": {n: g / case.tasks for n, g in total.items()}, "meta_loss": value / case.tasks}


@correct(
    "Each task differentiates with respect to a copy of θ of its own, in one function; the copies' gradients are added."
)
def copies(case):
    loss, params, tasks = given(case)

    def mean_loss(of_tasks):
        values = [loss(adapt(case, loss, p, s), *q) for p, (s, q) in zip(of_tasks, tasks, strict=True)]
        return sum(values) / len(values)

    value, grads = tm.value_and_grad(mean_loss)([dict(params) for _ in tasks])
    return {"meta_grad": {n: sum(g[n] for g in grads) for n in params}, "meta_loss": value}
