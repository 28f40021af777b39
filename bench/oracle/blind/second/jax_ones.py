"""The blind set in JAX. The helpers are honest; a mistake stands in the function that bears its name."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree

from tinymaml.oracle import models

from ..entries import correct, wrong

programs: dict = {}


def sgd(params, grads, rate):
    return jax.tree.map(lambda p, g: p - rate * g, params, grads)


def adapt(loss, params, support, rate, steps):
    """K steps of SGD."""
    fast, _ = lax.scan(lambda p, _: (sgd(p, jax.grad(loss)(p, *support), rate), None), params, None, length=steps)
    return fast


def plain(loss, params, support, query, rate, steps):
    """The query loss of one task after the inner loop."""
    return loss(adapt(loss, params, support, rate, steps), *query)


def mean_of_tasks(one):
    def objective(params, loss, support, query, rate, steps):
        return jax.vmap(lambda s, q: one(loss, params, s, q, rate, steps), axis_name="tasks")(support, query).mean()

    return objective


def answer(case, one, objective=mean_of_tasks, library=models.JAX):
    """The gradient of objective(one), compiled once for each model, K and shapes; α is an argument."""
    loss, params, (support, query) = case.jax()
    if library is not models.JAX:
        loss = models.loss_in(library(), case.model)
    steps = case.inner_steps
    key = (one.__qualname__, str(case.model), steps)
    if key not in programs:
        programs[key] = jax.jit(
            jax.value_and_grad(lambda params, s, q, rate: objective(one)(params, loss, s, q, rate, steps))
        )
    value, grads = programs[key](params, support, query, case.inner_lr)
    return {"meta_grad": grads, "meta_loss": value}


def task(batches, t):
    return jax.tree.map(lambda a: a[t], batches)


# ── wrong ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@wrong(
    "The body of the scan differentiates at the outer θ that it closes over and not at its carry, so all K inner "
    "gradients are taken at θ₀.",
    r"θ₀|θ_?0\b|theta_?0|initial (param|weight|point)|starting (param|point)|at the (start|initial)|stale"
    r"|closure|closes? over"
    r"|carry|same gradient|first gradient|gradient .*(reused|repeated)|never re-?computed|not re-?computed|unadapted",
)
def scan_over_a_closure(case):
    def one_closed_over(loss, params, support, query, rate, steps):
        def body(fast, _):
            grads = jax.grad(loss)(params, *support)
            return sgd(fast, grads, rate), None

        fast, _ = lax.scan(body, params, None, length=steps)
        return loss(fast, *query)

    return answer(case, one_closed_over)


@wrong(
    "fori_loop counts from 1, so there is one inner step too few; and psum in the place of pmean makes the "
    "meta-gradient a sum over tasks.",
    r"K ?[-−–] ?1|one (inner )?step (too few|fewer|less|missing)|step .*(missing|too few|fewer|skipped"
    r"|forgotten|left out)"
    r"|(too few|fewer|missing|skips?|omits?|forgets?) .*step|off[- ]by[- ]one|last step",
    r"\bsum(s|med)?\b|not (averaged|divided)|times T|× ?T|factor T|by T\b|number of tasks|psum|1/T|T times",
)
def fori_from_one(case):
    def one_from_one(loss, params, support, query, rate, steps):
        fast = lax.fori_loop(1, steps, lambda _, p: sgd(p, jax.grad(loss)(p, *support), rate), params)
        return loss(fast, *query)

    def over_devices(one):
        def objective(params, loss, support, query, rate, steps):
            def device(s, q):
                return lax.psum(one(loss, params, s, q, rate, steps), "tasks")

            return jax.vmap(device, axis_name="tasks")(support, query)[0]

        return objective

    return answer(case, one_from_one, over_devices)


@wrong(
    "The gradients of the inner loop are averaged over the task axis by pmean, as data-parallel training does, so that "
    "all tasks adapt with the same step.",
    r"(averag|mean|shar|pool|all-?reduc|synchroni|mix|pmean).*tasks?|across tasks|over (the |all )?tasks|between tasks"
    r"|tasks? .*(same|shared|one|joint|common|averag|pool)|other tasks",
)
def gradients_in_step(case):
    def one_in_step(loss, params, support, query, rate, steps):
        fast = params
        for _ in range(steps):
            grads = lax.pmean(jax.grad(loss)(fast, *support), axis_name="tasks")
            fast = sgd(fast, grads, rate)
        return loss(fast, *query)

    return answer(case, one_in_step)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def light_step(loss, params, batch, rate):
    return sgd(params, jax.grad(loss)(params, *batch), rate)


def light_step_forward(loss, params, batch, rate):
    new = light_step(loss, params, batch, rate)
    return new, (new, batch, rate)


def light_step_backward(loss, saved, v):
    params, batch, rate = saved
    _, hv = jax.jvp(lambda p: jax.grad(loss)(p, *batch), (params,), (v,))
    return sgd(v, hv, rate), None, None


light_step.defvjp(light_step_forward, light_step_backward)


@wrong(
    "The step's own backward rule saves the parameters after the step and not those before, so each Hessian "
    "is taken at "
    "θₖ₊₁ where θₖ is right.",
    r"θₖ₊₁|θ_?\{?k ?\+ ?1|theta_?\{?k ?\+ ?1|after (the|each|its|that) (step|update)|one step (too )?(late"
    r"|ahead|later|further)"
    r"|next (param|point|iterate|θ)|(Hessian|curvature).*(wrong|other|updated|new|later|shifted|adapted).*"
    r"(point|param|θ|place|iterate)|off[- ]by[- ]one|updated param|new param|step later",
    tells_loss=False,
)
def light_backward(case):
    def one_light(loss, params, support, query, rate, steps):
        for _ in range(steps):
            params = light_step(loss, params, support, rate)
        return loss(params, *query)

    return answer(case, one_light)


@wrong(
    "The inner gradients are clipped to a global norm of 1, as in a chain with clip_by_global_norm, which the "
    "algorithm does not do.",
    r"clip|norm (is )?(limit|bound|capp)|max(imum|imal)?[ _-]norm|global norm|rescal|cap(ped|s)? ",
)
def chain_of_transforms(case):
    def one_chained(loss, params, support, query, rate, steps):
        for _ in range(steps):
            grads = jax.grad(loss)(params, *support)
            norm = jnp.sqrt(sum(jnp.sum(g * g) for g in jax.tree.leaves(grads)))
            scale = jnp.minimum(1.0, 1.0 / norm)
            params = sgd(params, jax.tree.map(lambda g, scale=scale: g * scale, grads), rate)
        return loss(params, *query)

    return answer(case, one_chained)


@wrong(
    "The inner loop's loss is evaluated in bfloat16, a policy of mixed precision, so that only two or three digits of "
    "the inner gradients are right.",
    r"bf(loat)?16|half[- ]precision|mixed[- ]precision|float16|float32|fp16|fp32|single[- ]precision|precision|digits"
    r"|imprecise|rounding|rounded|\bbits\b|reduced|low(er)?[- ]precision|quanti[sz]",
)
def policy_of_precision(case):
    def compute(tree):
        return jax.tree.map(lambda a: a.astype(jnp.bfloat16) if jnp.issubdtype(a.dtype, jnp.floating) else a, tree)

    def one_with_policy(loss, params, support, query, rate, steps):
        def cheap(p, x, y):
            return loss(compute(p), compute(x), compute(y))

        for _ in range(steps):
            grads = jax.grad(cheap)(params, *support)
            params = sgd(params, grads, rate)
        return loss(params, *query)

    return answer(case, one_with_policy)


kept: dict = {}


@wrong(
    "The compiled function is kept by model and shapes only, but has K and α compiled in, so a later case with another "
    "K or α gets those of the first one.",
    r"cach|compil|jit|stale|(first|earlier|previous|former|another|other|old) (case|call|question|one)|kept from"
    r"|remember|baked|hard-?coded|state between calls|order of the (cases|questions|calls)|depends on .*(asked|before)"
    r"|(K|steps|α|alpha|inner_lr|rate) .*(first|previous|earlier|constant|fixed|ignored|old|not read|other|frozen)"
    r"|(wrong|ignores?|another|fixed|old|previous|earlier) .*(K\b|steps|α|alpha|inner_lr|rate)",
)
def kept_by_shape(case):
    loss, params, (support, query) = case.jax()
    shapes = tuple(a.shape for a in jax.tree.leaves((params, support, query)))
    key = (str(case.model), shapes)
    if key not in kept:
        rate, steps = case.inner_lr, case.inner_steps

        @jax.jit
        @jax.value_and_grad
        def run(params, support, query):
            return jax.vmap(lambda s, q: plain(loss, params, s, q, rate, steps))(support, query).mean()

        kept[key] = run
    value, grads = kept[key](params, support, query)
    return {"meta_grad": grads, "meta_loss": value}


class Background(models.JAX):
    """Class 0 is kept for the background."""

    def cross_entropy(self, o, y):
        log_p = jax.nn.log_softmax(o)
        return -jnp.mean(log_p[jnp.arange(y.shape[0]), y + 1])


@wrong(
    "The labels are shifted by one, y + 1, and JAX clamps the index that falls out of range to the last class "
    "instead of "
    "complaining.",
    r"label|(class|target|index|y) .*(shift|off|plus|\+ ?1|wrong|clamp|clip)|off[- ]by[- ]one|y ?\+ ?1|1-based"
    r"|one-based"
    r"|shifted|out[- ]of[- ](range|bounds)",
)
def class_for_background(case):
    def one_with_background(loss, params, support, query, rate, steps):
        return plain(loss, params, support, query, rate, steps)

    return answer(case, one_with_background, library=Background)


class SamePooling(models.JAX):
    def max_pool(self, x, size):
        window = (1, size, size, 1)
        return lax.reduce_window(x, -jnp.inf, lax.max, window, window, "SAME")


@wrong(
    "Max pooling pads with SAME where VALID is meant, so the rows and columns left over make windows of their own "
    "instead of being dropped.",
    r"pool.*(SAME|pad|left[- ]?over|ceil|partial|incomplete|edge|border|odd|drop|remain|last (row|column))"
    r"|(SAME|pad|left[- ]?over|ceil|partial|incomplete|remain).*pool|max[- _]?pool|ceil_mode",
    tells_loss=False,
)
def pooling_same(case):
    def one_same(loss, params, support, query, rate, steps):
        return plain(loss, params, support, query, rate, steps)

    return answer(case, one_same, library=SamePooling)


@wrong(
    "The loss is vmapped over single examples, so that batch norm takes its mean and variance from one "
    "example at a time "
    "and not from the batch.",
    r"batch[- ]?norm.*(example|sample|instance|one|single|statistic|mean|varianc|each)|instance[- ]?norm|layer[- ]?norm"
    r"|(per|each|single|one|every)[- ](example|sample|instance|image).*(statistic|norm|mean|varianc|batch)"
    r"|statistics .*(example|sample|one|single|instance)",
)
def example_by_example(case):
    def one_by_example(loss, params, support, query, rate, steps):
        def mean_loss(params, xs, ys):
            return jnp.mean(jax.vmap(lambda x, y: loss(params, x[None], y[None]))(xs, ys))

        return plain(mean_loss, params, support, query, rate, steps)

    return answer(case, one_by_example)


@wrong(
    "Only the last inner step is differentiated to second order, all earlier gradients are stopped; and the mean over "
    "tasks is divided by the number of tasks once more.",
    r"last (inner )?step|truncat|earlier (steps?|gradients?)|all but the last|except the last|only the (last|final)"
    r"|final step|anneal|first[- ]order|H_?\{?K ?[-−] ?1|Hₖ₋₁|detach|stop_gradient|cut off",
    r"divided .*(twice|again|once more|T)|twice|1/T|by T\b|T²|T\^2|T\*\*2|factor|number of tasks|normali[sz]ed again"
    r"|scaled|too small by",
)
def annealed_order(case):
    def one_annealed(loss, params, support, query, rate, steps):
        fast = params
        for k in range(steps):
            grads = jax.grad(loss)(fast, *support)
            if k < steps - 1:
                grads = lax.stop_gradient(grads)
            fast = sgd(fast, grads, rate)
        return loss(fast, *query)

    def normalised(one):
        def objective(params, loss, support, query, rate, steps):
            return mean_of_tasks(one)(params, loss, support, query, rate, steps) / support[0].shape[0]

        return objective

    return answer(case, one_annealed, normalised)


@wrong(
    "θ is flattened in the order of its dictionary and the gradient by ravel_pytree in sorted order, so each "
    "inner step "
    "subtracts gradients from the wrong entries.",
    r"order|sorted|sort(s|ing)? |alphabet|(wrong|other|different|another) (param|entr|name|place|key)|mis-?match|permut"
    r"|mix(ed|es)? up|swapp|exchang|mis-?align|zip|paired with",
)
def flat_in_two_orders(case):
    loss, params, (support, query) = case.jax()
    names = list(params)
    shapes = [params[n].shape for n in names]
    ends = [sum(math.prod(s) for s in shapes[: i + 1]) for i in range(len(shapes))]

    def unflatten(flat):
        parts = jnp.split(flat, ends[:-1])
        return {n: part.reshape(s) for n, part, s in zip(names, parts, shapes, strict=True)}

    @jax.jit
    @jax.value_and_grad
    def meta_loss(theta):
        def of_task(s, q):
            fast = theta
            for _ in range(case.inner_steps):
                grads, _ = ravel_pytree(jax.grad(loss)(unflatten(fast), *s))
                fast = fast - case.inner_lr * grads
            return loss(unflatten(fast), *q)

        return jax.vmap(of_task)(support, query).mean()

    value, grad = meta_loss(jnp.concatenate([params[n].ravel() for n in names]))
    return {"meta_grad": unflatten(grad), "meta_loss": value}


@wrong(
    "The inner SGD is masked to matrices, and the mask hands the raw gradients of vectors and scalars through, so that "
    "biases move by + g: uphill, and without the rate.",
    r"mask|bias|vectors?\b|1-?D\b|one-dimensional|ndim|scalars?|non-matri|ascen(t|d)|uphill|raw gradient|group"
    r"|(some|certain|part of the|which) param",
    tells_loss=False,
)
def masked_transform(case):
    def one_masked(loss, params, support, query, rate, steps):
        mask = jax.tree.map(lambda p: p.ndim > 1, params)
        for _ in range(steps):
            grads = jax.grad(loss)(params, *support)
            updates = jax.tree.map(lambda g, at: -rate * g if at else g, grads, mask)
            params = jax.tree.map(jnp.add, params, updates)
        return loss(params, *query)

    return answer(case, one_masked)


@wrong(
    "The inner rate follows a cosine schedule, α (1 + cos πk/K)/2 in step k, where it should be the same in all steps.",
    r"schedul|cosine|decay|anneal|rate .*(chang|fall|shrink|differs?|vari|smaller|each step|per step"
    r"|over the steps|k\b)"
    r"|(different|smaller|varying|other|shrinking) (inner )?(rate|α|alpha|step size)|(α|alpha) .*(each|per"
    r"|later|step k)"
    r"|αₖ|alpha_k|later steps",
)
def scheduled(case):
    def one_scheduled(loss, params, support, query, rate, steps):
        for k in range(steps):
            now = rate * 0.5 * (1 + math.cos(math.pi * k / steps))
            params = sgd(params, jax.grad(loss)(params, *support), now)
        return loss(params, *query)

    return answer(case, one_scheduled)


@wrong(
    "The Jacobian of the inner loop is multiplied with the query gradient without a transposition, so the factors "
    "I − αHₖ stand in the opposite order.",
    r"transpos|order|revers|jvp|jᵀ|J\^?T\b|opposite|forward instead|backwards|wrong way|commut|left to right",
    tells_loss=False,
)
def jacobian_of_the_loop(case):
    loss, params, (support, query) = case.jax()
    theta, unravel = ravel_pytree(params)
    steps = case.inner_steps
    key = ("jacobian", str(case.model), steps, theta.size)
    if key not in programs:

        @jax.jit
        def of_task(theta, s, q, rate):
            def loop(theta):
                return ravel_pytree(adapt(loss, unravel(theta), s, rate, steps))[0]

            value, g = jax.value_and_grad(lambda flat: loss(unravel(flat), *q))(loop(theta))
            return value, jax.jacfwd(loop)(theta) @ g

        programs[key] = of_task
    answers = [programs[key](theta, task(support, t), task(query, t), case.inner_lr) for t in range(case.tasks)]
    values, grads = zip(*answers, strict=True)
    return {"meta_grad": unravel(sum(grads) / case.tasks), "meta_loss": sum(values) / case.tasks}


# ── right ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@correct("Forward mode only: one directional derivative of the meta-loss for each entry of θ, over a flat vector.")
def directions(case):
    loss, params, (support, query) = case.jax()
    theta, unravel = ravel_pytree(params)
    steps = case.inner_steps
    key = ("directions", str(case.model), steps, theta.size)
    if key not in programs:

        @jax.jit
        def run(theta, support, query, rate):
            def meta_loss(theta):
                objective = mean_of_tasks(plain)
                return objective(unravel(theta), loss, support, query, rate, steps)

            one = lambda v: jax.jvp(meta_loss, (theta,), (v,))  # noqa: E731
            values, slopes = jax.vmap(one)(jnp.eye(theta.size, dtype=theta.dtype))
            return values[0], slopes

        programs[key] = run
    value, grad = programs[key](theta, support, query, case.inner_lr)
    return {"meta_grad": unravel(grad), "meta_loss": value}


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def frugal_step(loss, params, batch, rate):
    return sgd(params, jax.grad(loss)(params, *batch), rate)


def frugal_backward(loss, saved, v):
    params, batch, rate = saved
    _, hv = jax.jvp(lambda p: jax.grad(loss)(p, *batch), (params,), (v,))
    return sgd(v, hv, rate), None, None


frugal_step.defvjp(lambda loss, p, batch, rate: (frugal_step(loss, p, batch, rate), (p, batch, rate)), frugal_backward)


@correct("A custom backward rule for each step that saves only θₖ, inside lax.scan, and lax.map over tasks.")
def frugal(case):
    def one_frugal(loss, params, support, query, rate, steps):
        body = lambda p, _: (frugal_step(loss, p, support, rate), None)  # noqa: E731
        fast, _ = lax.scan(body, params, None, length=steps)
        return loss(fast, *query)

    def mapped(one):
        def objective(params, loss, support, query, rate, steps):
            return lax.map(lambda sq: one(loss, params, *sq, rate, steps), (support, query)).mean()

        return objective

    return answer(case, one_frugal, mapped)


@correct("All tasks at once: θ is copied T times, and one gradient of the sum of the support losses serves them all.")
def stacked_copies(case):
    loss, params, (support, query) = case.jax()
    each = jax.vmap(loss)

    @jax.jit
    @jax.value_and_grad
    def meta_loss(params):
        fast = {n: jnp.broadcast_to(p, (case.tasks, *p.shape)) for n, p in params.items()}
        for _ in range(case.inner_steps):
            fast = sgd(fast, jax.grad(lambda f: each(f, *support).sum())(fast), case.inner_lr)
        return each(fast, *query).mean()

    value, grads = meta_loss(params)
    return {"meta_grad": grads, "meta_loss": value}
