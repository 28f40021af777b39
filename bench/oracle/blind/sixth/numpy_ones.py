"""MAML in NumPy: backward passes and Hessian-vector products by hand, tinymaml's engine as the differentiator."""

from __future__ import annotations

import functools
import math

import numpy as np

import tinymaml as tm
from tinymaml.oracle import models

from .. import in_numpy as np_maml
from ..entries import correct, wrong

adapt, by_hand, dot, given, hvp, over_tasks, path, step = (
    np_maml.adapt, np_maml.by_hand, np_maml.dot, np_maml.given,
    np_maml.hvp, np_maml.over_tasks, np_maml.path, np_maml.step,
)  # fmt: skip


def flat(tree):
    """One vector of all arrays, in their order."""
    return np.concatenate([np.ravel(a) for a in tree.values()])


def unflat(vector, like):
    """The arrays in such a vector."""
    sizes = [int(np.size(a)) for a in like.values()]
    parts = np.split(vector, np.cumsum(sizes)[:-1])
    return {n: part.reshape(np.shape(a)) for (n, a), part in zip(like.items(), parts, strict=True)}


def hessian(loss, params, batch):
    """The matrix, column by column."""
    unit = np.eye(len(flat(params)))
    return np.stack([flat(hvp(loss, params, batch, unflat(row, params))) for row in unit], 1)


def plain(loss, case):
    """`one` of over_tasks, for plain MAML."""
    return lambda _, p, s, q: loss(adapt(case, loss, p, s), *q)


def with_layers(case, layers):
    """Plain MAML with other layers."""
    return over_tasks(case, lambda loss, p, s, q: loss(adapt(case, loss, p, s), *q), layers)


def scaled(tree, factor):
    """The tree times a number."""
    return {n: factor * a for n, a in tree.items()}


# Hessian-vector products


@wrong(
    "The Hessian-vector product is a one-sided (forward) difference of gradients with a step of 1e-4, so the "
    "second-order term has a truncation error of the order of the step.",
    r"one.?sided|forward.?differenc|finite.?differenc|difference of (the )?gradients|differenc\w* quotient|truncation"
    r"|\(g(_s)?\(θ.{0,6} \+ |numerical(ly)? (hessian|hvp|differen)|central",
    tells_loss=False,
)
def one_sided_difference(case):
    def one(loss, params, support, query):
        thetas = path(case, loss, params, support)
        value, v = tm.value_and_grad(loss)(thetas[-1], *query)
        epsilon = 1e-4
        for theta in reversed(thetas[:-1]):
            here = tm.grad(loss)(theta, *support)
            there = tm.grad(loss)(step(theta, v, -epsilon), *support)
            product = {n: (there[n] - here[n]) / epsilon for n in v}
            v = step(v, product, case.inner_lr)
        return value, v

    return by_hand(case, one)


@wrong(
    "The displacement of the central difference is delta / |v|, but the difference is divided by 2 delta: the "
    "Hessian-vector product is too small by the factor |v|, as if v had been normalised and not scaled back.",
    r"(?<!batch.)norm(alis|aliz|s? of)|unit (vector|length|norm|direction)|[‖|]{1,2}v[‖|]{1,2}|rescal|scaled? back"
    r"|length of v"
    r"|v ?/ ?[‖|]|magnitude of v|direction of v",
)
def difference_not_scaled_back(case):
    def one(loss, params, support, query):
        thetas = path(case, loss, params, support)
        value, v = tm.value_and_grad(loss)(thetas[-1], *query)
        delta = 1e-5
        for theta in reversed(thetas[:-1]):
            r = delta / np.sqrt(dot(v, v))
            plus = tm.grad(loss)(step(theta, v, -r), *support)
            minus = tm.grad(loss)(step(theta, v, r), *support)
            product = {n: (plus[n] - minus[n]) / (2 * delta) for n in v}
            v = step(v, product, case.inner_lr)
        return value, v

    return by_hand(case, one)


@wrong(
    "In place of the Hessian of the support loss stands the empirical Fisher matrix, the mean of the outer products of "
    "the gradients of single examples.",
    r"fisher|outer.?product|gauss.?newton|g ?gᵀ|g_?i ?g_?iᵀ|g g\^?t|rank.?one|per.?example gradients|squared gradients"
    r"|generali[sz]ed gauss",
)
def natural_curvature(case):
    def one(loss, params, support, query):
        thetas = path(case, loss, params, support)
        value, v = tm.value_and_grad(loss)(thetas[-1], *query)
        x, y = support
        for theta in reversed(thetas[:-1]):
            singles = [tm.grad(loss)(theta, x[i : i + 1], y[i : i + 1]) for i in range(len(x))]
            weights = [dot(g, v) / len(x) for g in singles]
            product = {n: sum(w * g[n] for w, g in zip(weights, singles, strict=True)) for n in v}
            v = step(v, product, case.inner_lr)
        return value, v

    return by_hand(case, one)


@wrong(
    "Hessian-vector products are taken one parameter array at a time, the others held fixed: only the diagonal blocks "
    "of the Hessian are left, the mixed second derivatives between arrays are missing.",
    r"block|mixed (second |partial )?deriv|cross.?(term|deriv|layer|param)|off.?diagonal"
    r"|(between|across|other) (different )?(the )?(param|layer|array|tensor)"
    r"|(per|each|one) (param|layer|tensor|array)[\w ]* (alone|separat|own|at a time)|separately for each (param|array"
    r"|ten)",
    tells_loss=False,
)
def array_by_array(case):
    def one(loss, params, support, query):
        thetas = path(case, loss, params, support)
        value, v = tm.value_and_grad(loss)(thetas[-1], *query)
        for theta in reversed(thetas[:-1]):
            product = {}
            for name in theta:
                alone = lambda a, name=name, theta=theta: loss({**theta, name: a}, *support)  # noqa: E731
                product[name] = tm.hvp(alone, (theta[name],), v[name])
            v = step(v, product, case.inner_lr)
        return value, v

    return by_hand(case, one)


@wrong(
    "The Hessian is completed from its upper triangle as U + U transposed, which counts the diagonal twice.",
    r"diagonal|triang|symmetri[sz]|U ?\+ ?U|H_?ii",
)
def from_upper_triangle(case):
    def one(loss, params, support, query):
        thetas = path(case, loss, params, support)
        value, grads = tm.value_and_grad(loss)(thetas[-1], *query)
        v = flat(grads)
        for theta in reversed(thetas[:-1]):
            upper = np.triu(hessian(loss, theta, support))
            matrix = upper + upper.T
            v = v - case.inner_lr * (matrix @ v)
        return value, unflat(v, params)

    return by_hand(case, one)


# The product of the factors


@wrong(
    "Each factor I - alpha H is replaced by the inverse of I + alpha H, as for an implicit (backward Euler, proximal) "
    "step: a linear system is solved where the matrix should be multiplied.",
    r"implicit|inver(se|t)|solve|linear system|backward euler|\(I ?\+ ?(α|alpha|A|lr)? ?·?\*?\*?H|proximal|⁻¹|\^-1"
    r"|imaml|resolvent|neumann",
    tells_loss=False,
)
def solved_instead(case):
    def one(loss, params, support, query):
        thetas = path(case, loss, params, support)
        value, grads = tm.value_and_grad(loss)(thetas[-1], *query)
        v = flat(grads)
        for theta in reversed(thetas[:-1]):
            matrix = hessian(loss, theta, support)
            v = np.linalg.solve(np.eye(len(v)) + case.inner_lr * matrix, v)
        return value, unflat(v, params)

    return by_hand(case, one)


@wrong(
    "The product of the K factors is taken as the K-th power of the first, I - alpha H at theta_0: the Hessian is not "
    "taken anew along the inner loop (wrong for K >= 2 unless the loss is quadratic).",
    r"power|\)\^K|\)ᴷ|(at|in|of|from) (the )?(θ₀|theta_?0|θ_?0)|initial (param|point|θ|theta|weights)|first (point"
    r"|hessian)"
    r"|H(ess\w*)?.{0,20}(θ₀|theta_?0)|(only|just|always) H(_?0|₀)|H(_?0|₀) (for|in|at|every|each|through)"
    r"|same hessian|hessian .{0,30}(constant|once|frozen|fixed|initial|start)|before adaptation|unadapted",
)
def power_of_the_first(case):
    def one(loss, params, support, query):
        value, grads = tm.value_and_grad(loss)(adapt(case, loss, params, support), *query)
        factor = np.eye(len(flat(params))) - case.inner_lr * hessian(loss, params, support)
        power = np.linalg.matrix_power(factor, case.inner_steps)
        return value, unflat(power @ flat(grads), params)

    return by_hand(case, one)


@wrong(
    "The path is a list of the same dictionary, whose arrays are updated in place, without a copy: every entry is "
    "theta_K, so all Hessians of the backward pass are taken at the adapted parameters.",
    r"alias|in.?place(?! of)|cop(y|ies)|overwrit|mutat|(at|in) (the )?(θ_?K|theta_?K)|H(ess\w*)?.{0,20}θ_?K\b"
    r"|final (param|point|θ|theta|weights|iterate)"
    r"|adapted (param|point|θ|theta|weights)|last (point|iterate|param|θ)|end of the (path|inner|loop|traj)"
    r"|same (array|object|dict|buffer|point)",
    tells_loss=False,
)
def path_of_references(case):
    def one(loss, params, support, query):
        theta = {n: np.array(p) for n, p in params.items()}
        thetas = []
        for _ in range(case.inner_steps):
            thetas.append(theta)
            for name, g in tm.grad(loss)(theta, *support).items():
                theta[name] -= case.inner_lr * g
        value, v = tm.value_and_grad(loss)(theta, *query)
        for at in reversed(thetas):
            v = step(v, hvp(loss, at, support, v), case.inner_lr)
        return value, v

    return by_hand(case, one)


@wrong(
    "In the backward pass each Hessian is multiplied by the query gradient and not by the running vector: the result "
    "is g_q - alpha sum H_k g_q, the product expanded to first order in alpha (wrong for K >= 2).",
    r"first.?order in (α|alpha|the (inner|learning) rate|a\b)|expan(d|sion)|sum of (the )?(hess|H)|Σ.{0,6}H"
    r"|sum.{0,8}H_?k"
    r"|lineari[sz]|higher (powers|order)|H_?[ij] ?·?H|products? of (two |several |the )?(hess|H)|cross.?terms?|taylor"
    r"|running (vector|v)|original (vector|v|query)|α²|alpha\^?2|alpha\*\*2",
)
def always_the_query_gradient(case):
    def one(loss, params, support, query):
        thetas = path(case, loss, params, support)
        value, g_q = tm.value_and_grad(loss)(thetas[-1], *query)
        v = dict(g_q)
        for theta in reversed(thetas[:-1]):
            v = step(v, hvp(loss, theta, support, g_q), case.inner_lr)
        return value, v

    return by_hand(case, one)


# The inner loop


@wrong(
    "The support gradient is computed once, at theta_0, outside of the loop, and used in all K steps: K steps are one "
    "step of K alpha (wrong for K >= 2).",
    r"stale|hoist|\bonce\b|(at|in|of) (the )?(θ₀|theta_?0|θ_?0)|g_s\(θ₀\)|∇L_s\(θ₀\)|g_?0\b|initial (param|point|θ"
    r"|gradient)|same (support )?gradient|recomput|re.?evaluat"
    r"|K ?·? ?\*? ?(α|alpha|lr)|K times|single (large|big|step)|not updated|one (big|large|long) step|anew",
)
def hoisted_gradient(case):
    def one(loss, params, support, query):
        grads = tm.grad(loss)(params, *support)
        theta = params
        for _ in range(case.inner_steps):
            theta = step(theta, grads, case.inner_lr)
        return loss(theta, *query)

    return over_tasks(case, one)


@wrong(
    "The path that the backward pass replays is stored in float16 to save memory, so the Hessians are taken at "
    "parameters rounded to half precision.",
    r"float.?16|half.?precision|precision|rounded (param|θ|theta|to|in|weights|point)|single.?prec|float.?32|16.?bit"
    r"|bfloat"
    r"|lower dtype|cast|fewer digits|mantissa|quanti",
)
def path_in_half_precision(case):
    def one(loss, params, support, query):
        theta = params
        stored = np.empty((case.inner_steps, len(flat(params))), np.float16)
        for k in range(case.inner_steps):
            stored[k] = flat(theta)
            theta = step(theta, tm.grad(loss)(theta, *support), case.inner_lr)
        value, v = tm.value_and_grad(loss)(theta, *query)
        for k in reversed(range(case.inner_steps)):
            at = unflat(stored[k].astype(float), params)
            v = step(v, hvp(loss, at, support, v), case.inner_lr)
        return value, v

    return by_hand(case, one)


# Layers and losses


class TanhWithSavedOutput(models.NumPy):
    def tanh(self, x):
        out = tm.stop_gradient(np.tanh(x))
        slope = tm.stop_gradient(1 - out * out)
        return out + slope * (x - tm.stop_gradient(x))


@wrong(
    "The hand-written backward of tanh multiplies by the saved 1 - y^2 as a constant, so it can be differentiated only "
    "once: the second derivative of tanh is missing from the Hessians.",
    r"(?s)(?=.*(tanh|activation|non-?linearit))(?=.*(second|twice|constant|detach|stop|hess|curvature|slope|σ''|''\W"
    r"|differentiated (only )?once|backward|saved|1 ?[-−] ?y))",
    tells_loss=False,
)
def saved_slope(case):
    return with_layers(case, TanhWithSavedOutput())


class LogOfShifted(models.NumPy):
    def cross_entropy(self, o, y):
        chosen = y[:, None] == np.arange(o.shape[-1])
        p = np.sum(np.where(chosen, np.exp(self.log_softmax(o)), 0.0), -1)
        return -np.mean(np.log(p + 1e-6))


@wrong(
    "The cross-entropy is -log(p + 1e-6), with an epsilon added to the probability before the logarithm.",
    r"\beps|ε|1e-6|log ?\(p|log\(softmax|inside (of )?(the )?log|(added|constant|offset|shift)[\w ]* prob"
    r"|prob[\w ]* (added|clip)"
    r"|clip\w* (the )?prob|clamp",
)
def log_with_epsilon(case):
    return with_layers(case, LogOfShifted())


class SumOverOutputs(models.NumPy):
    def mse(self, o, y):
        return np.mean(np.sum((o - y) ** 2, -1))


@wrong(
    "The squared error is summed over the outputs of an example and averaged over the examples only: C times too large "
    "where there are C >= 2 outputs.",
    r"sum\w* over (the |its |all )?(output|C\b|component|target|last|channel|column|dimension|feature|class)|output dim"
    r"|(number|count) of (outputs|components|columns|targets|channels|classes)|mean over (the )?(examples|N|batch"
    r"|samples) (only|alone)"
    r"|last axis|C times|times C\b|factor (of )?C\b|per.?example sum|divid\w* by N\b|only by N\b|not by N ?·? ?C",
    tells_loss=False,
)
def squared_norm_per_example(case):
    return with_layers(case, SumOverOutputs())


class EpsilonOutside(models.NumPy):
    def batch_norm(self, x, gamma, beta):
        over = tuple(range(x.ndim - 1))
        centred = x - np.mean(x, over)
        return centred / (np.sqrt(np.mean(centred * centred, over)) + 2.0**-10) * gamma + beta


@wrong(
    "Batch normalisation adds its epsilon to the standard deviation, outside of the root, and not to the variance.",
    r"\beps|ε",
)
def epsilon_outside_the_root(case):
    return with_layers(case, EpsilonOutside())


# The outer reduction


@wrong(
    "The mean over tasks is kept as (mean + new) / 2, from the first on: later tasks weigh more (1/4, 1/4, 1/2 for "
    "three), right for T <= 2.",
    r"running (mean|average)|weighs|weigh(t?ed|ting)|more weight|weights? of the task|unequal|moving average"
    r"|exponential|1/4|last task|later task|halv|pairwise"
    r"|mean of means|incremental",
)
def running_mean_by_halves(case):
    loss, params, tasks = given(case)
    value, grads = None, None
    for support, query in tasks:
        new_value, new = tm.value_and_grad(lambda p, s=support, q=query: loss(adapt(case, loss, p, s), *q))(params)
        if grads is None:
            value, grads = new_value, new
        else:
            value = (value + new_value) / 2
            grads = {n: (grads[n] + new[n]) / 2 for n in new}
    return {"meta_grad": grads, "meta_loss": value}


# Two at once


@wrong(
    "The backward loop ends before k = 0, so the factor of the first inner step is missing; and the query set is read "
    "in batches of two, of which an incomplete last one is dropped, so an odd number of examples loses the last.",
    r"first (inner )?(step|update|factor)|k ?= ?0|H_?0|H₀|step 0|off.?by.?one|one (factor|step) (too few|less|short)"
    r"|(factor|step) (is )?(missing|left out|skipped|dropped)|truncat",
    r"drop|last (query )?(example|row|sample|datum|point)|incomplete|\bodd\b|part(ial)? (of the )?(batch|query)"
    r"|batches of"
    r"|subset|fewer|(example|sample|row)s? (is |are )?(missing|left out|ignored|omitted)|(all )?but the last"
    r"|without the last",
)
def early_end_and_dropped_rest(case):
    def one(loss, params, support, query):
        thetas = path(case, loss, params, support)
        whole = max(len(query[0]) // 2 * 2, 1)
        value, v = tm.value_and_grad(loss)(thetas[-1], query[0][:whole], query[1][:whole])
        for k in range(case.inner_steps - 1, 0, -1):
            v = step(v, hvp(loss, thetas[k], support, v), case.inner_lr)
        return value, v

    return by_hand(case, one)


@wrong(
    "The inner gradients are clipped to a norm of 0.5 before the step, and the tasks are summed and not averaged.",
    r"clip|normali[sz]\w* (the )?(inner|support|grad)|limit\w* (the )?(norm|length|inner)|bounded|rescaled|max.?norm"
    r"|threshold|norm of (the )?(inner|support)",
    r"sum(med|s)?\b[\w ]*(task|batch)|(task|mean)[\w ,]* sum|not (averaged|divided)|not averag|(no|without"
    r"|missing) (the |an )?(averag|mean)|times T\b|factor (of )?T\b|1/T"
    r"|number of tasks|divi(ded|sion|de) by T",
    tells_loss=False,
)
def clipped_and_summed(case):
    def clipped(grads):
        norm = np.sqrt(dot(grads, grads))
        return scaled(grads, 0.5 / np.maximum(norm, 0.5))

    def total(params, loss, tasks):
        value = 0.0
        for support, query in tasks:
            theta = params
            for _ in range(case.inner_steps):
                theta = step(theta, clipped(tm.grad(loss)(theta, *support)), case.inner_lr)
            value = value + loss(theta, *query)
        return value

    loss, params, tasks = given(case)
    value, grads = tm.value_and_grad(lambda p: total(p, loss, tasks))(params)
    return {"meta_grad": grads, "meta_loss": value}


@wrong(
    "Only arrays of two axes or more are adapted, biases and other vectors keep their values in the inner loop; and "
    "the Hessian of step k is taken after the step, at theta_{k+1}.",
    r"bias|(?<!hessian.)vectors|1-?d\b|one.?dimension|ndim|(only|just) (the )?(matri|weights|kernel)|not adapt"
    r"|partial(ly)? adapt"
    r"|frozen|\bb1\b|axes",
    r"k ?\+ ?1|after (the|each) (step|update)|next (point|iterate|param|θ)|updated (param|θ|point|weights|theta)"
    r"|one step (late|ahead|too)|shifted"
    r"|post.?(step|update)|off.?by.?one|(wrong|other) (point|param\w* of the path|iterate)|hessian.{0,40}(after|next"
    r"|later)",
)
def matrices_only_and_a_step_late(case):
    def only_matrices(tree):
        return {n: a if np.ndim(a) >= 2 else np.zeros_like(a) for n, a in tree.items()}

    def one(loss, params, support, query):
        thetas = [params]
        for _ in range(case.inner_steps):
            thetas.append(step(thetas[-1], only_matrices(tm.grad(loss)(thetas[-1], *support)), case.inner_lr))
        value, v = tm.value_and_grad(loss)(thetas[-1], *query)
        for k in reversed(range(case.inner_steps)):
            v = step(v, hvp(loss, thetas[k + 1], support, only_matrices(v)), case.inner_lr)
        return value, v

    return by_hand(case, one)


@wrong(
    "The inputs of the support set are shuffled and its targets are not, so they no longer belong together; and the "
    "backward pass goes back two steps only (truncated, wrong for K >= 3).",
    r"shuffl|permut|misalign|belong|mismatch|order of the (inputs|targets|labels|examples)|pair(ed|ing|s)|reorder"
    r"|other examples?"
    r"|(targets|labels) of (an)?other|mixed up|\broll",
    r"truncat|two (last )?steps|last two|window|2 steps|last (few|2)|(early|earlier|first) (steps|factors)"
    r"|k ?[<≥>]=? ?K ?[-−] ?2"
    r"|tbptt|cut (off|short)|steps? (are )?(left out|dropped|missing)",
    tells_loss=False,
)
def shuffled_apart_and_truncated(case):
    def one(loss, params, support, query):
        x, y = support
        support = (x[np.random.default_rng(0).permutation(len(x))], y)
        thetas = path(case, loss, params, support)
        value, v = tm.value_and_grad(loss)(thetas[-1], *query)
        for theta in thetas[:-1][:-3:-1]:
            v = step(v, hvp(loss, theta, support, v), case.inner_lr)
        return value, v

    return by_hand(case, one)


# Right ones


@correct("The Jacobian of theta_K is built forwards, as a dense matrix, step by step, and applied at the end.")
def dense_jacobian_forwards(case):
    def one(loss, params, support, query):
        theta, jacobian = params, np.eye(len(flat(params)))
        for _ in range(case.inner_steps):
            jacobian = jacobian - case.inner_lr * (hessian(loss, theta, support) @ jacobian)
            theta = step(theta, tm.grad(loss)(theta, *support), case.inner_lr)
        value, grads = tm.value_and_grad(loss)(theta, *query)
        return value, unflat(jacobian.T @ flat(grads), params)

    return by_hand(case, one)


@correct("No path is stored: theta_k is computed again from theta_0 for each step of the backward pass.")
def recomputed_from_the_start(case):
    def theta_at(k, loss, params, support):
        steps = [case.inner_lr] * k
        return functools.reduce(lambda p, rate: step(p, tm.grad(loss)(p, *support), rate), steps, params)

    def one(loss, params, support, query):
        value, v = tm.value_and_grad(loss)(theta_at(case.inner_steps, loss, params, support), *query)
        for k in range(case.inner_steps, 0, -1):
            v = step(v, hvp(loss, theta_at(k - 1, loss, params, support), support, v), case.inner_lr)
        return value, v

    return by_hand(case, one)


@correct("Tasks in the reverse order, each scaled by a power of two, their gradients added by math.fsum.")
def exact_sum_over_tasks(case):
    loss, params, tasks = given(case)
    values, grads = [], []
    for support, query in reversed(tasks):
        f = lambda p, s=support, q=query: 1024.0 * loss(adapt(case, loss, p, s), *q)  # noqa: E731
        value, g = tm.value_and_grad(f)(params)
        values.append(float(value) / 1024)
        grads.append(flat(g) / 1024)
    total = np.array([math.fsum(column) for column in np.stack(grads, 1)])
    return {"meta_grad": unflat(total / len(tasks), params), "meta_loss": math.fsum(values) / len(tasks)}


@correct("A flat vector is updated in place through views, with copies of it kept; recursion goes back over them.")
def flat_buffer_in_place(case):
    def one(loss, params, support, query):
        buffer = flat(params).copy()
        views = unflat(buffer, params)

        def down(k):
            if k == case.inner_steps:
                value, grads = tm.value_and_grad(loss)(views, *query)
                return value, grads
            kept = buffer.copy()
            buffer[:] -= case.inner_lr * flat(tm.grad(loss)(views, *support))
            value, v = down(k + 1)
            buffer[:] = kept
            return value, step(v, hvp(loss, views, support, v), case.inner_lr)

        return down(0)

    return by_hand(case, one)


@correct("The derivative is taken with respect to a displacement of zero, and one step at a time as a pullback of a "
         "dot product with the vector held fixed.")  # fmt: skip
def displacement_and_pullback(case):
    def one(loss, params, support, query):
        zero = {n: np.zeros_like(p) for n, p in params.items()}
        thetas = path(case, loss, params, support)
        value = loss(thetas[-1], *query)
        v = tm.grad(lambda d: loss(step(thetas[-1], d, -1.0), *query))(zero)
        for theta in reversed(thetas[:-1]):

            def moved(d, theta=theta, v=v):
                at = step(theta, d, -1.0)
                return dot(step(at, tm.grad(loss)(at, *support), case.inner_lr), v)

            v = tm.grad(moved)(zero)
        return value, v

    return by_hand(case, one)
