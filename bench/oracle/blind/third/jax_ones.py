"""MAML in JAX: each mistake stands in the function that bears its name.

Each function is compiled once per model and number of inner steps; the data and the rate are arguments.
"""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from tinymaml.oracle import models

from ..entries import correct, wrong

_compiled = {}

# Honest pieces.


def jitted(case, of, build):
    """`build()`, compiled; `of` is the function that it is made from, whose name is part of the key."""
    key = of.__qualname__, json.dumps(case.model, sort_keys=True), case.inner_steps
    if key not in _compiled:
        options = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
        _compiled[key] = jax.jit(build(), compiler_options=options)  # compiled fast
    return _compiled[key]


def given(case, layers=None):
    """(loss, θ, (support, query)), with other layers if wanted."""
    loss, params, data = case.jax()
    return (loss if layers is None else models.loss_in(layers, case.model)), params, data


def step(params, grads, rate):
    """θ − α g"""
    return jax.tree.map(lambda p, g: p - rate * g, params, grads)


def adapt(loss, steps, rate, params, support):
    """θ_K, by a scan that can be differentiated."""

    def body(theta, _):
        return step(theta, jax.grad(loss)(theta, *support), rate), None

    return jax.lax.scan(body, params, None, length=steps)[0]


def hvp(loss, theta, data, v):
    """∇²L(θ) v, forward over reverse."""
    return jax.jvp(lambda p: jax.grad(loss)(p, *data), (theta,), (v,))[1]


def of_all_tasks(case, total, layers=None):
    """The gradient of total(loss, K, α, θ, support, query), whose data are stacked over tasks."""
    loss, params, (support, query) = given(case, layers)
    steps = case.inner_steps

    def build():
        def f(params, rate, support, query):
            return total(loss, steps, rate, params, support, query)

        return jax.value_and_grad(f)

    value, grad = jitted(case, total, build)(params, case.inner_lr, support, query)
    return {"meta_grad": grad, "meta_loss": value}


def over_tasks(case, one, layers=None, axis_name="task"):
    """The gradient of the mean over tasks of one(loss, K, α, θ, support, query)."""

    def total(loss, steps, rate, params, support, query):
        each = jax.vmap(lambda s, q: one(loss, steps, rate, params, s, q), axis_name=axis_name)
        return jnp.mean(each(support, query))

    total.__qualname__ = one.__qualname__
    return of_all_tasks(case, total, layers)


def plain(case, layers):
    """MAML with other layers."""

    def one(loss, steps, rate, params, support, query):
        return loss(adapt(loss, steps, rate, params, support), *query)

    one.__qualname__ = type(layers).__qualname__
    return over_tasks(case, one, layers)


def by_hand(case, one, layers=None):
    """The mean over tasks of one(loss, K, α, θ, support, query) → (loss, gradient)."""
    loss, params, (support, query) = given(case, layers)
    steps = case.inner_steps

    def build():
        def f(params, rate, support, query):
            each = jax.vmap(lambda s, q: one(loss, steps, rate, params, s, q))(support, query)
            return jax.tree.map(lambda a: jnp.mean(a, 0), each)

        return f

    value, grad = jitted(case, one, build)(params, case.inner_lr, support, query)
    return {"meta_grad": grad, "meta_loss": value}


# The wrong ones.


@jax.custom_vjp
def clip_gradient(x):
    """x, whose gradient is clipped to ±0.5."""
    return x


clip_gradient.defvjp(lambda x: (x, None), lambda _, g: (jnp.clip(g, -0.5, 0.5),))


@wrong(
    "The inner gradients are clipped elementwise to ±0.5 (an identity with a clipping custom_vjp around the parameters "
    "of the support loss); plain MAML has no clipping.",
    r"clip|clamp|saturat|bounded|limited to",
    tells_loss=False,
)
def clipped_inner_gradients(case):
    def one(loss, steps, rate, params, support, query):
        def clipped(p, x, y):
            return loss(jax.tree.map(clip_gradient, p), x, y)

        return loss(adapt(clipped, steps, rate, params, support), *query)

    return over_tasks(case, one)


@wrong(
    "The scan stacks θₖ before the update, and the query loss is taken at the last one stacked: at θ_{K−1}, one inner "
    "step too early.",
    r"one (inner )?step (too )?(few|early|less|short|fewer|missing|before)|θ_\{?K ?[-−] ?1|K ?[-−] ?1|off[- ]by[- ]one|"
    r"before the (last )?(update|step)|last (inner )?(step|update)|fewer (inner )?steps|too few (inner )?steps|"
    r"(a|one) (inner )?step (is |was )?(missing|skipped|omitted)",
)
def scan_stacks_before_the_update(case):
    def one(loss, steps, rate, params, support, query):
        def body(theta, _):
            return step(theta, jax.grad(loss)(theta, *support), rate), theta

        _, thetas = jax.lax.scan(body, params, None, length=steps)
        return loss(jax.tree.map(lambda t: t[-1], thetas), *query)

    return over_tasks(case, one)


_loops = {}


@wrong(
    "The inner loop is cached by the number of steps and closes over the inner rate: all later calls with as many "
    "steps use the rate of the first such call.",
    r"(inner )?(learning )?rate.*(first|former|earlier|another|other|stale|cache|previous|wrong|constant)|stale|cached|"
    r"baked|state (is )?(kept )?between|closure|previous (call|question)|earlier (call|question)",
    tells_loss=False,
)
def rate_baked_into_the_loop(case):
    if case.inner_steps not in _loops:
        baked = case.inner_lr
        _loops[case.inner_steps] = lambda loss, steps, params, support: adapt(loss, steps, baked, params, support)
    loop = _loops[case.inner_steps]

    def one(loss, steps, rate, params, support, query):
        return loss(loop(loss, steps, params, support), *query)

    return over_tasks(case, one)


@wrong(
    "The query sets of all tasks are merged and given to vmap with in_axes=None: each task's adapted parameters are "
    "evaluated on every task's queries.",
    r"quer(y|ies).*(all|every|other|merged|pooled|each)|(all|every|other|pooled|merged).*quer(y|ies)|"
    r"pool|in_axes|evaluated on (all|every|other)|mix",
)
def query_sets_merged(case):
    def total(loss, steps, rate, params, support, query):
        merged = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), query)

        def one(support, query):
            return loss(adapt(loss, steps, rate, params, support), *query)

        return jnp.mean(jax.vmap(one, in_axes=(0, None))(support, merged))

    return of_all_tasks(case, total)


@wrong(
    "The scan over tasks carries the adapted parameters, so that each task starts from the θ_K of the one before "
    "instead of from θ.",
    r"(task|loop).*(starts?|begins?|continu|from).*(before|previous|former|adapted|last|other)|carr(y|ied)|leak|"
    r"not reset|(previous|former) task|from one task to the next|across tasks",
    tells_loss=False,
)
def scan_carries_the_adapted(case):
    def total(loss, steps, rate, params, support, query):
        def body(theta, task):
            (xs, ys), (xq, yq) = task
            theta = adapt(loss, steps, rate, theta, (xs, ys))
            return theta, loss(theta, xq, yq)

        return jnp.mean(jax.lax.scan(body, params, (support, query))[1])

    return of_all_tasks(case, total)


@wrong(
    "Batch normalisation averages its statistics over the mapped axis (pmean, as across devices), which is the axis of "
    "the tasks: mean and variance are those of all tasks together.",
    r"(statistic|mean|varianc|normali).*(tasks|batch of tasks)|pmean|synchroni|across (the )?tasks|all (the )?tasks|"
    r"shared (by|between|over) tasks|other tasks|axis_name",
)
def batch_norm_synchronised(case):
    class Synchronised(models.JAX):
        def batch_norm(self, x, gamma, beta):
            over = tuple(range(x.ndim - 1))
            centred = x - jax.lax.pmean(jnp.mean(x, over), "task")
            var = jax.lax.pmean(jnp.mean(centred * centred, over), "task")
            return centred / jnp.sqrt(var + 2.0**-10) * gamma + beta

    return plain(case, Synchronised())


@wrong(
    "The trajectory is kept in float16 to save memory, so that the Hessians of the backward pass are taken at rounded "
    "θₖ: the gradient has three or four digits.",
    r"float16|half.?precision|precision|imprecis|rounded|digits|rounding|bfloat16|low(er)?[- ]precision",
    tells_loss=False,
)
def trajectory_in_half_precision(case):
    def one(loss, steps, rate, params, support, query):
        def forward(theta, _):
            kept = jax.tree.map(lambda p: p.astype(jnp.float16), theta)
            return step(theta, jax.grad(loss)(theta, *support), rate), kept

        last, thetas = jax.lax.scan(forward, params, None, length=steps)
        value, v = jax.value_and_grad(loss)(last, *query)

        def backward(v, kept):
            theta = jax.tree.map(lambda t, p: t.astype(p.dtype), kept, params)
            return step(v, hvp(loss, theta, support, v), rate), None

        return value, jax.lax.scan(backward, v, thetas, reverse=True)[0]

    return by_hand(case, one)


@wrong(
    "The backward pass stores no trajectory but undoes each step as θₖ ≈ θₖ₊₁ + α ∇L_s(θₖ₊₁), with the gradient at "
    "θₖ₊₁ instead of θₖ: the Hessians are taken at points that are not on the trajectory.",
    r"undo|undone|invert|inverse (of the )?step|reversib|reconstruct|recompute|wrong (point|place|θ|theta)|not on the "
    r"trajectory|gradient at (the )?(later|next|θ_?\{?k ?\+ ?1)|Hessian.*(at|point).*(other|wrong|approx|not|inexact)",
)
def steps_undone_backwards(case):
    def one(loss, steps, rate, params, support, query):
        last = adapt(loss, steps, rate, params, support)
        value, v = jax.value_and_grad(loss)(last, *query)

        def backward(carry, _):
            theta, v = carry
            theta = step(theta, jax.grad(loss)(theta, *support), -rate)
            return (theta, step(v, hvp(loss, theta, support, v), rate)), None

        (_, v), _ = jax.lax.scan(backward, (last, v), None, length=steps)
        return value, v

    return by_hand(case, one)


@wrong(
    "The vector-Jacobian product is the gradient of ⟨θ_K, ∇L_q(θ_K)⟩ without stop_gradient on ∇L_q: the product rule "
    "adds the query Hessian times θ_K, pulled back through the inner loop.",
    r"stop.?gradient|detach|product rule|Hessian of the query|query (loss'?s? )?Hessian|H_q|∇²L_q|second derivative of "
    r"the query|extra term|query gradient.*(differentiated|constant)",
    tells_loss=False,
)
def surrogate_not_stopped(case):
    def one(loss, steps, rate, params, support, query):
        def surrogate(params):
            last = adapt(loss, steps, rate, params, support)
            value, v = jax.value_and_grad(loss)(last, *query)
            products = jax.tree.map(lambda a, b: jnp.sum(a * b), last, v)
            return sum(jax.tree.leaves(products)), value

        grad, value = jax.grad(surrogate, has_aux=True)(params)
        return value, grad

    return by_hand(case, one)


@wrong(
    "The inner update is masked to leaves with at least two axes (a mask meant for weight decay): biases, gains of the "
    "normalisation and other vectors do not adapt.",
    r"bias|vectors?|one[- ]dimensional|1-?D\b|not adapt|do(es)? not adapt|mask|frozen|only (the )?(weights|matrices)|"
    r"left out of the inner|some parameters",
    tells_loss=False,
)
def vectors_masked_out(case):
    def one(loss, steps, rate, params, support, query):
        def body(theta, _):
            grads = jax.grad(loss)(theta, *support)
            return jax.tree.map(lambda p, g: p - rate * g if p.ndim > 1 else p, theta, grads), None

        return loss(jax.lax.scan(body, params, None, length=steps)[0], *query)

    return over_tasks(case, one)


@wrong(
    "The tasks are padded to a multiple of four with copies of the last task, as for devices, and the mean is taken "
    "over the padded ones: the last task counts several times.",
    r"pad|last task|weigh|repeat|several times|twice|mean over (the )?tasks|copies|counted",
)
def tasks_padded_for_devices(case):
    def total(loss, steps, rate, params, support, query):
        def padded(a):
            return jnp.pad(a, ((0, -len(a) % 4),) + ((0, 0),) * (a.ndim - 1), mode="edge")

        support, query = jax.tree.map(padded, (support, query))

        def one(support, query):
            return loss(adapt(loss, steps, rate, params, support), *query)

        return jnp.mean(jax.vmap(one)(support, query))

    return of_all_tasks(case, total)


@wrong(
    "Two mistakes in the losses: the softmax of the cross-entropy is over axis 0, which is the batch since the loss "
    "takes whole sets; and the mean squared error is summed over the outputs and averaged over the examples only.",
    r"axis|over the (batch|examples)|softmax|normalis|log_softmax",
    r"sum(med)? over (the )?(outputs|columns|components|last axis|targets|C)|averaged over (the )?examples|number of "
    r"outputs|factor (of )?C|times C|(squared error|mse).*(sum|C\b|outputs)|not divided",
    tells_loss=False,
)
def losses_from_single_examples(case):
    class FromSingleExamples(models.JAX):
        def cross_entropy(self, o, y):
            log_p = jax.nn.log_softmax(o, axis=0)
            return -jnp.mean(jnp.take_along_axis(log_p, y[:, None], 1))

        def mse(self, o, y):
            return jnp.mean(jnp.sum((o - y) ** 2, axis=-1))

    return plain(case, FromSingleExamples())


@wrong(
    "Two mistakes: the inner optimiser decays its rate, α·0.9^count, where MAML's is constant; and its count is not "
    "reset between tasks, so that later tasks go on with smaller rates.",
    r"decay|schedul|(rate|α).*(smaller|shrink|chang|decreas|0\.9)|(decreasing|changing|varying) (inner )?rate",
    r"reset|carr(y|ied)|across tasks|between tasks|later tasks|next task|from task to task|optimi[sz]er('s)? state|"
    r"(other|second|each) task",
    tells_loss=False,
)
def schedule_not_reset(case):
    def total(loss, steps, rate, params, support, query):
        def update(state, grads):
            return {"count": state["count"] + 1}, jax.tree.map(lambda g: -rate * 0.9 ** state["count"] * g, grads)

        def one_task(state, task):
            support, query = task

            def body(carry, _):
                theta, state = carry
                state, updates = update(state, jax.grad(loss)(theta, *support))
                return (jax.tree.map(jnp.add, theta, updates), state), None

            (theta, state), _ = jax.lax.scan(body, (params, state), None, length=steps)
            return state, loss(theta, *query)

        return jnp.mean(jax.lax.scan(one_task, {"count": jnp.zeros((), jnp.int32)}, (support, query))[1])

    return of_all_tasks(case, total)


@wrong(
    "Two mistakes: only the last inner step is of second order, the gradients of the earlier steps are under "
    "stop_gradient; and the support set is cut to an even number of examples (drop_remainder with batches of two).",
    r"stop.?gradient|detach|first[- ]order|earlier steps|only the last (inner )?step|truncat|constant",
    r"remainder|(last|odd|one) (support )?example|dropped|support (set )?(is )?(cut|truncated|shorter)|examples? "
    r"(is|are) (missing|dropped|left out|ignored)|even number|fewer examples|subset|part of the support",
)
def annealed_without_the_remainder(case):
    def one(loss, steps, rate, params, support, query):
        size = len(support[0]) // 2 * 2 or len(support[0])
        support = jax.tree.map(lambda a: a[:size], support)

        def body(theta, k):
            grads = jax.grad(loss)(theta, *support)
            grads = jax.tree.map(lambda g: jnp.where(k == steps - 1, g, jax.lax.stop_gradient(g)), grads)
            return step(theta, grads, rate), None

        return loss(jax.lax.scan(body, params, jnp.arange(steps))[0], *query)

    return over_tasks(case, one)


# The right ones.


@correct("The whole inner loop is one custom_vjp, whose backward pass is a reverse scan of Hessian-vector products.")
def inner_loop_as_custom_vjp(case):
    def one(loss, steps, rate, params, support, query):
        @jax.custom_vjp
        def adapted(params, rate, support):
            return adapt(loss, steps, rate, params, support)

        def forward(params, rate, support):
            def body(theta, _):
                return step(theta, jax.grad(loss)(theta, *support), rate), theta

            last, thetas = jax.lax.scan(body, params, None, length=steps)
            return last, (thetas, rate, support)

        def backward(kept, v):
            thetas, rate, support = kept

            def body(v, theta):
                return step(v, hvp(loss, theta, support, v), rate), None

            return jax.lax.scan(body, v, thetas, reverse=True)[0], None, None

        adapted.defvjp(forward, backward)
        return loss(adapted(params, rate, support), *query)

    return over_tasks(case, one)


@correct("Flat vectors, inner steps under jax.checkpoint, and lax.map over the tasks in place of vmap.")
def flat_and_checkpointed(case):
    def total(loss, steps, rate, params, support, query):
        vector, unravel = ravel_pytree(params)

        def one(task):
            support, query = task

            @jax.checkpoint
            def body(theta, _):
                return theta - rate * jax.grad(lambda t: loss(unravel(t), *support))(theta), None

            return loss(unravel(jax.lax.scan(body, vector, None, length=steps)[0]), *query)

        return jnp.sum(jax.lax.map(one, (support, query))) / len(support[0])

    return of_all_tasks(case, total)


@correct("Forward mode, jacfwd of the meta-loss, through a while_loop whose number of steps is a traced value.")
def forward_through_a_while_loop(case):
    loss, params, (support, query) = given(case)

    def build():
        def total(params, rate, steps, support, query):
            def one(support, query):
                def body(carry):
                    k, theta = carry
                    return k + 1, step(theta, jax.grad(loss)(theta, *support), rate)

                return loss(jax.lax.while_loop(lambda carry: carry[0] < steps, body, (0, params))[1], *query)

            each = jax.vmap(one)(support, query)
            return jnp.mean(each), jnp.mean(each)

        return jax.jacfwd(total, has_aux=True)

    compiled = jitted(case, forward_through_a_while_loop, build)
    grad, value = compiled(params, case.inner_lr, case.inner_steps, support, query)
    return {"meta_grad": grad, "meta_loss": value}
