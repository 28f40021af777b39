"""MAML in JAX: mistakes and unusual forms, each with its diagnosis."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from tinymaml.oracle import models

from ..entries import correct, wrong

EPS = 2.0**-10


def given(case, layers=None):
    """(loss, θ, [(support, query), …]), with other layers if wanted."""
    loss, params, ((xs, ys), (xq, yq)) = case.jax()
    loss = loss if layers is None else models.loss_in(layers, case.model)
    return loss, params, [((xs[t], ys[t]), (xq[t], yq[t])) for t in range(case.tasks)]


def step(params, grads, rate):
    """θ − α g"""
    return jax.tree.map(lambda p, g: p - rate * g, params, grads)


def adapt(case, loss, params, support):
    """θ_K"""
    for _ in range(case.inner_steps):
        params = step(params, jax.grad(loss)(params, *support), case.inner_lr)
    return params


def over_tasks(case, one, layers=None):
    """The gradient of the mean over tasks of one(loss, θ, support, query)."""
    loss, params, tasks = given(case, layers)
    value, grads = jax.value_and_grad(lambda p: sum(one(loss, p, s, q) for s, q in tasks) / len(tasks))(params)
    return {"meta_grad": grads, "meta_loss": value}


def by_hand(case, one, layers=None):
    """The means over tasks of one(loss, θ, support, query) → (loss, gradient)."""
    loss, params, tasks = given(case, layers)
    answers = [one(loss, params, s, q) for s, q in tasks]
    value, grads = jax.tree.map(lambda *a: sum(a) / len(a), *answers)
    return {"meta_grad": grads, "meta_loss": value}


# Closures, transformations and loops


@wrong(
    "The jitted inner gradient closes over the loop variable t; it is traced once, with t = 0, so every task adapts "
    "to the support set of the first task.",
    r"first task|one task|same support|other task|another task|stale|closure|traced? once|cache|support (set|data) of|"
    r"wrong (task|support)|task 0",
    tells_loss=False,
)
def traced_for_the_first_task(case):
    loss, params, ((xs, ys), (xq, yq)) = case.jax()

    def total(params):
        inner_grad = jax.jit(jax.grad(lambda p: loss(p, xs[t], ys[t])))
        values = []
        for t in range(case.tasks):
            theta = params
            for _ in range(case.inner_steps):
                theta = step(theta, inner_grad(theta), case.inner_lr)
            values.append(loss(theta, xq[t], yq[t]))
        return sum(values) / len(values)

    value, grads = jax.value_and_grad(total)(params)
    return {"meta_grad": grads, "meta_loss": value}


@wrong(
    "The scan stacks the parameters before each update and the query loss takes the last of the stack, i.e. θ_{K−1} "
    "instead of θ_K: one inner step is lost.",
    r"K ?[-−] ?1|one (inner )?step|before (the|its|each|every) (last |final )?(update|step)|off.?by.?one|last (inner )?"
    r"step|too few|fewer|missing step",
)
def last_of_the_stack(case):
    def one(loss, params, support, query):
        def body(theta, _):
            return step(theta, jax.grad(loss)(theta, *support), case.inner_lr), theta

        _, stack = jax.lax.scan(body, params, None, length=case.inner_steps)
        return loss(jax.tree.map(lambda a: a[-1], stack), *query)

    return over_tasks(case, one)


@wrong(
    "The scan runs over the support set instead of K times over all of it, so the inner loop makes one step for each "
    "example (SGD with batches of one).",
    r"(each|every|one|single|per)[ -](support )?example|stochastic|mini.?batch|batch(es)? of one|sample|scan|N steps|"
    r"number of (inner )?steps|subset|examples? (by|at|after)",
    tells_loss=False,
)
def scan_over_examples(case):
    def one(loss, params, support, query):
        def body(theta, example):
            x, y = example
            return step(theta, jax.grad(loss)(theta, x[None], y[None]), case.inner_lr), None

        theta, _ = jax.lax.scan(body, params, support)
        return loss(theta, *query)

    return over_tasks(case, one)


@wrong(
    "The inner rate follows an optax-like exponential schedule, 0.9 to the power of a step counter, and the counter "
    "is in an optimizer state that is made once and carried from task to task.",
    r"schedul|decay|count|carried|state|(inner )?(rate|step size|lr).*(differ|smaller|chang|shrink)|"
    r"later (steps|tasks)|0\.9",
)
def schedule_goes_on(case):
    loss, params, tasks = given(case)

    def total(params):
        count, values = 0, []
        for support, query in tasks:
            theta = params
            for _ in range(case.inner_steps):
                theta = step(theta, jax.grad(loss)(theta, *support), case.inner_lr * 0.9**count)
                count += 1
            values.append(loss(theta, *query))
        return sum(values) / len(values)

    value, grads = jax.value_and_grad(total)(params)
    return {"meta_grad": grads, "meta_loss": value}


# Derivatives


@wrong(
    "The custom VJP of the inner step saves the new parameters as its residual, so its backward pass takes the "
    "Hessian at θₖ₊₁ instead of at θₖ.",
    r"θₖ₊₁|k ?\+ ?1|after the (step|update)|new param|updated param|behind|one step (later|too late|ahead)|residual|"
    r"(wrong|next|later|following) (point|iterate|param)",
    tells_loss=False,
)
def residual_is_the_new_one(case):
    def one(loss, params, support, query):
        @jax.custom_vjp
        def inner_step(theta):
            return step(theta, jax.grad(loss)(theta, *support), case.inner_lr)

        def forward(theta):
            new = inner_step(theta)
            return new, new

        def backward(theta, v):
            curved = jax.jvp(lambda p: jax.grad(loss)(p, *support), (theta,), (v,))[1]
            return (step(v, curved, case.inner_lr),)

        inner_step.defvjp(forward, backward)
        for _ in range(case.inner_steps):
            params = inner_step(params)
        return loss(params, *query)

    return over_tasks(case, one)


@wrong(
    "jax.hessian gives a dict of dicts, of which only the blocks H[n][n] are used: the second derivatives between "
    "different parameters are left out.",
    r"block|cross|between (different )?(param|layers|weights)|off.?diagonal|mixed|(per|each) parameter|H\[n\]\[n\]|"
    r"separate(ly)?|other parameters",
)
def blocks_of_the_diagonal(case):
    def one(loss, params, support, query):
        thetas = [params]
        for _ in range(case.inner_steps):
            thetas.append(step(thetas[-1], jax.grad(loss)(thetas[-1], *support), case.inner_lr))
        value, v = jax.value_and_grad(loss)(thetas[-1], *query)
        for theta in reversed(thetas[:-1]):
            h = jax.hessian(loss)(theta, *support)
            v = step(v, {n: jnp.tensordot(h[n][n], v[n], v[n].ndim) for n in v}, case.inner_lr)
        return value, v

    return by_hand(case, one)


@wrong(
    "The Hessian is of a vector that concatenates the parameters in the dict's order, but it multiplies a gradient "
    "from ravel_pytree, which sorts the names: rows and columns belong to other parameters.",
    r"sort|order of (the )?(param|names|keys|dict|leaves)|permut|ravel|flatten|mix|pytree|alphabet|swap|layout|"
    r"wrong parameter|another parameter|other parameters",
    tells_loss=False,
)
def names_in_two_orders(case):
    def one(loss, params, support, query):
        names = list(params)

        def unflatten(vector):
            tree, at = {}, 0
            for n in names:
                tree[n] = vector[at : at + params[n].size].reshape(params[n].shape)
                at += params[n].size
            return tree

        thetas = [params]
        for _ in range(case.inner_steps):
            thetas.append(step(thetas[-1], jax.grad(loss)(thetas[-1], *support), case.inner_lr))
        value, g = jax.value_and_grad(loss)(thetas[-1], *query)
        v, unravel = ravel_pytree(g)
        for theta in reversed(thetas[:-1]):
            flat = jnp.concatenate([theta[n].ravel() for n in names])
            v = v - case.inner_lr * jax.hessian(lambda u: loss(unflatten(u), *support))(flat) @ v
        return value, unravel(v)

    return by_hand(case, one)


class StoppedNormaliser(models.JAX):
    def cross_entropy(self, o, y):
        log_p = o - jax.lax.stop_gradient(jax.nn.logsumexp(o, -1, keepdims=True))
        return -jnp.mean(jnp.take_along_axis(log_p, y[:, None], 1))


@wrong(
    "In the softmax the gradient is stopped at the whole log-sum-exp instead of at the maximum that is subtracted, "
    "so the derivative of the cross-entropy lacks the probabilities.",
    r"log.?sum.?exp|normali[sz](er|ation|ing)|softmax|partition|cross.?entropy|probabilit",
)
def normaliser_is_stopped(case):
    return over_tasks(case, lambda loss, p, s, q: loss(adapt(case, loss, p, s), *q), StoppedNormaliser())


@wrong(
    "The inner gradients are computed in float32, parameters and data cast down and the result back, so the answer "
    "has single precision where double is wanted.",
    r"float32|single|precision|digits|round|cast|imprecis",
    tells_loss=False,
)
def inner_loop_in_single(case):
    def one(loss, params, support, query):
        x, y = support
        y = y.astype(jnp.float32) if jnp.issubdtype(y.dtype, jnp.floating) else y
        for _ in range(case.inner_steps):
            low = jax.tree.map(lambda p: p.astype(jnp.float32), params)
            grads = jax.grad(loss)(low, x.astype(jnp.float32), y)
            params = step(params, jax.tree.map(lambda g: g.astype(jnp.float64), grads), case.inner_lr)
        return loss(params, *query)

    return over_tasks(case, one)


# Layers


class Recorded(models.JAX):
    """Batch normalisation that keeps its statistics while it trains, and uses them when it does not."""

    def __init__(self):
        super().__init__()
        self.training, self.kept = True, []

    def batch_norm(self, x, gamma, beta):
        over = tuple(range(x.ndim - 1))
        if self.training:
            mean, var = jnp.mean(x, over), jnp.var(x, over)
            self.kept.append((mean, var))
        else:
            mean, var = self.kept.pop(0)
        return (x - mean) / jnp.sqrt(var + EPS) * gamma + beta


@wrong(
    "The query set is normalised with the batch statistics of the support set, which the state of "
    "transform_with_state hands on with is_training=False, instead of with its own.",
    r"batch.?norm|statistic|normali[sz].*support|support.*(mean|statistic|normali)|is_training|running|eval",
    tells_loss=False,
)
def normalised_by_the_support(case):
    layers = Recorded()

    def one(loss, params, support, query):
        theta = adapt(case, loss, params, support)
        layers.kept = []
        loss(theta, *support)
        layers.training = False
        value = loss(theta, *query)
        layers.training = True
        return value

    return over_tasks(case, one, layers)


# Two at once


@wrong(
    "The loss is vmapped over single examples and averaged, so batch normalisation sees batches of one; and the "
    "adaption is differentiated by jvp with the query gradient as tangent, J v instead of Jᵀ v, which multiplies the "
    "factors in the wrong order.",
    r"batch.?norm|normali[sz]|statistic|(per|each|single|one)[ -]example|batch of one",
    r"order of|(wrong|opposite|other|revers\w*|forward) order|revers|transpos|jvp|J v|forward.mode|k = 0|"
    r"order in which",
)
def examples_alone_and_tangents(case):
    loss, params, tasks = given(case)

    def mean_loss(p, x, y):
        return jnp.mean(jax.vmap(lambda a, b: loss(p, a[None], b[None]))(x, y))

    values, grads = [], []
    for support, query in tasks:
        value, v = jax.value_and_grad(mean_loss)(adapt(case, mean_loss, params, support), *query)
        values.append(value)
        grads.append(jax.jvp(lambda p, s=support: adapt(case, mean_loss, p, s), (params,), (v,))[1])
    return {
        "meta_grad": jax.tree.map(lambda *g: sum(g) / len(g), *grads),
        "meta_loss": sum(values) / len(values),
    }


@wrong(
    "A pmean over the axis of tasks, copied from data-parallel training, averages the inner gradients of all tasks, "
    "so all adapt alike; and the outer loss is a psum, the sum over tasks instead of the mean.",
    r"pmean|averag\w* (the )?inner|inner (gradient|step|update)s?.*(averag|mean|shared|all tasks|pooled|other tasks)|"
    r"(all|other) tasks.*(inner|adapt|support)|adapt\w* .*(all tasks|together|jointly)|pooled",
    r"psum|\bsum\b|summed|added up|not (divided|averaged)|number of tasks|factor (of )?T|× ?T|1/T",
    tells_loss=False,
)
def means_across_devices(case):
    loss, params, (support, query) = case.jax()

    def one(p, s, q):
        for _ in range(case.inner_steps):
            grads = jax.lax.pmean(jax.grad(loss)(p, *s), "tasks")
            p = step(p, grads, case.inner_lr)
        return jax.lax.psum(loss(p, *q), "tasks")

    def total(p):
        return jax.vmap(one, in_axes=(None, 0, 0), axis_name="tasks")(p, support, query)[0]

    value, grads = jax.value_and_grad(total)(params)
    return {"meta_grad": grads, "meta_loss": value}


# Right ones


@correct("vmap over tasks of a rematerialised scan on the raveled vector; the tasks' gradients are averaged last.")
def raveled_scan(case):
    loss, params, (support, query) = case.jax()
    flat, unravel = ravel_pytree(params)

    def one(theta, s, q):
        @jax.checkpoint
        def body(at, _):
            return at - case.inner_lr * jax.grad(lambda u: loss(unravel(u), *s))(at), None

        theta, _ = jax.lax.scan(body, theta, None, length=case.inner_steps)
        return loss(unravel(theta), *q)

    values, grads = jax.vmap(jax.value_and_grad(one), in_axes=(None, 0, 0))(flat, support, query)
    return {"meta_grad": unravel(jnp.mean(grads, 0)), "meta_loss": jnp.mean(values)}


@correct("Forward mode: the inner loop carries the Jacobian ∂θₖ/∂θ by jacfwd, and the query gradient meets it last.")
def jacobian_forwards(case):
    loss, params, tasks = given(case)
    flat, unravel = ravel_pytree(params)

    @jax.jit
    def one(theta, support, query):
        def adapted(u):
            for _ in range(case.inner_steps):
                u = u - case.inner_lr * jax.grad(lambda w: loss(unravel(w), *support))(u)
            return u

        value, g = jax.value_and_grad(lambda w: loss(unravel(w), *query))(adapted(theta))
        return value, g @ jax.jacfwd(adapted)(theta)

    values, grads = zip(*(one(flat, s, q) for s, q in tasks), strict=True)
    return {"meta_grad": unravel(sum(grads) / len(grads)), "meta_loss": sum(values) / len(values)}


@correct("A custom VJP of the whole inner loop, whose fori_loop runs backwards over saved iterates.", tells_loss=False)
def own_vjp_of_the_loop(case):
    loss, params, tasks = given(case)
    flat, unravel = ravel_pytree(params)
    steps = case.inner_steps

    def inner_grad(u, support):
        return jax.grad(lambda w: loss(unravel(w), *support))(u)

    def run(theta, support):
        def body(k, iterates):
            return iterates.at[k + 1].set(iterates[k] - case.inner_lr * inner_grad(iterates[k], support))

        return jax.lax.fori_loop(0, steps, body, jnp.zeros((steps + 1, theta.size)).at[0].set(theta))

    def adapted(support):
        @jax.custom_vjp
        def loop(theta):
            return run(theta, support)[-1]

        def backward(iterates, v):
            def body(i, v):
                at = iterates[steps - 1 - i]
                _, pull = jax.vjp(lambda u: u - case.inner_lr * inner_grad(u, support), at)
                return pull(v)[0]

            return (jax.lax.fori_loop(0, steps, body, v),)

        loop.defvjp(lambda theta: (lambda its: (its[-1], its))(run(theta, support)), backward)
        return loop

    def total(theta):
        return sum(loss(unravel(adapted(s)(theta)), *q) for s, q in tasks) / len(tasks)

    return {"meta_grad": unravel(jax.grad(total)(flat)), "meta_loss": total(flat)}
