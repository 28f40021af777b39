"""The blind set in JAX. The helpers are honest; a mistake stands in the function that bears its name."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from tinymaml.oracle import models

from ..entries import correct, wrong

tree_map = jax.tree_util.tree_map


def given(case, layers=None):
    """(loss, θ, xs, ys, xq, yq), with other layers if wanted."""
    loss, params, ((xs, ys), (xq, yq)) = case.jax()
    return (loss if layers is None else models.loss_in(layers, case.model)), params, xs, ys, xq, yq


def step(params, grads, rate):
    return tree_map(lambda p, g: p - rate * g, params, grads)


def adapt(case, loss, params, x, y):
    for _ in range(case.inner_steps):
        params = step(params, jax.grad(loss)(params, x, y), case.inner_lr)
    return params


def over_tasks(case, one, layers=None):
    """The gradient of the mean over tasks of one(loss, θ, xs, ys, xq, yq)."""
    loss, params, *data = given(case, layers)
    total = lambda p: sum(one(loss, p, *(d[t] for d in data)) for t in range(case.tasks)) / case.tasks  # noqa: E731
    value, grads = jax.value_and_grad(total)(params)
    return {"meta_grad": grads, "meta_loss": value}


def plain(case, layers=None):
    return over_tasks(case, lambda loss, p, xs, ys, xq, yq: loss(adapt(case, loss, p, xs, ys), xq, yq), layers)


def with_step(case, new, layers=None):
    """Plain MAML with the inner step new(loss, θ, x, y, k)."""

    def one(loss, p, xs, ys, xq, yq):
        for k in range(case.inner_steps):
            p = new(loss, p, xs, ys, k)
        return loss(p, xq, yq)

    return over_tasks(case, one, layers)


# ── wrong: the inner loop and its derivative ────────────────────────────────────────────────────────────────────────


@wrong(
    "stop_gradient stands around the update: first-order MAML in a straight-through form",
    "first.order|fomaml|detach|stop_gradient",
)
def straight_through(case):
    def one(loss, p, xs, ys, xq, yq):
        fast = adapt(case, loss, p, xs, ys)
        return loss(tree_map(lambda a, b: a + jax.lax.stop_gradient(b - a), p, fast), xq, yq)

    return over_tasks(case, one)


@wrong(
    "back-propagation is truncated to the last step: θ_{K−1} is held, as in truncated BPTT",
    "trunc|last step|last inner step|earlier steps|only the last",
    tells_loss=False,
)
def truncated(case):
    def new(loss, p, x, y, k):
        g = jax.grad(loss)(p, x, y)
        return step(p, g if k == case.inner_steps - 1 else jax.lax.stop_gradient(g), case.inner_lr)

    return with_step(case, new)


@wrong(
    "the curvature of the last inner step is missing: stop_gradient on its gradient",
    "last (inner )?step|step k ?[−-] ?1|final step",
)
def last_step_held(case):
    def new(loss, p, x, y, k):
        g = jax.grad(loss)(p, x, y)
        return step(p, jax.lax.stop_gradient(g) if k == case.inner_steps - 1 else g, case.inner_lr)

    return with_step(case, new)


@wrong(
    "block-diagonal Hessian: each parameter's gradient is differentiated in that parameter alone",
    "block|cross.?term|diagonal|between (layers|parameters)|off-diagonal",
    tells_loss=False,
)
def block_diagonal(case):
    def new(loss, p, x, y, k):
        held = jax.lax.stop_gradient(p)
        gs = {n: jax.grad(lambda w, n=n: loss({**held, n: w}, x, y))(p[n]) for n in p}
        return step(p, gs, case.inner_lr)

    return with_step(case, new)


@wrong(
    "parameters are updated one after the other: a gradient sees those before it updated (Gauss–Seidel)",
    "one after|sequential|gauss.?seidel|already updated|in turn|updated before|partly updated",
)
def one_after_the_other(case):
    def new(loss, p, x, y, k):
        p = dict(p)
        for n in p:
            p[n] = p[n] - case.inner_lr * jax.grad(loss)(p, x, y)[n]
        return p

    return with_step(case, new)


@wrong(
    "scan over range(1, K): one inner step too few",
    "step (too )?few|missing step|k ?[−-] ?1|fewer steps|one step less|one (inner )?step (is )?(missing|short)",
    tells_loss=False,
)
def scan_one_short(case):
    def one(loss, p, xs, ys, xq, yq):
        body = lambda p, _: (step(p, jax.grad(loss)(p, xs, ys), case.inner_lr), None)  # noqa: E731
        p, _ = jax.lax.scan(body, p, jnp.arange(1, case.inner_steps))
        return loss(p, xq, yq)

    return over_tasks(case, one)


@wrong("inner gradients are normalised to length 1", "normali[sz]|length|norm of the (inner )?gradient")
def normalised(case):
    def new(loss, p, x, y, k):
        g = jax.grad(loss)(p, x, y)
        norm = jnp.sqrt(sum(jnp.sum(v * v) for v in g.values()) + 1e-12)
        return step(p, tree_map(lambda v: v / norm, g), case.inner_lr)

    return with_step(case, new)


@wrong(
    "inner gradients are clipped to global norm 0.5, with the scale held by stop_gradient",
    "clip|norm of the (inner )?gradient",
    tells_loss=False,
)
def clipped_and_held(case):
    def new(loss, p, x, y, k):
        g = jax.grad(loss)(p, x, y)
        norm = jnp.sqrt(sum(jnp.sum(v * v) for v in g.values()))
        scale = jax.lax.stop_gradient(jnp.minimum(1.0, 0.5 / norm))
        return step(p, tree_map(lambda v: v * scale, g), case.inner_lr)

    return with_step(case, new)


@wrong("each entry of the inner gradient is clipped to ±1: no effect where gradients are small", "clip")
def clipped_by_value(case):
    return with_step(
        case,
        lambda loss, p, x, y, k: step(
            p, tree_map(lambda v: jnp.clip(v, -1, 1), jax.grad(loss)(p, x, y)), case.inner_lr
        ),
    )


@wrong(
    "the inner optimiser is RMSprop-like: gradients are divided by √(g² + ε) with ε = 1",
    "adam|rms|adaptive|optimi[sz]er|precondition",
    tells_loss=False,
)
def rms(case):
    return with_step(
        case,
        lambda loss, p, x, y, k: step(
            p, tree_map(lambda v: v / jnp.sqrt(v * v + 1), jax.grad(loss)(p, x, y)), case.inner_lr
        ),
    )


@wrong(
    "inner gradients below 0.01 are set to 0 (sparsified)", "threshold|small (gradient|entries)|spars|set to (0|zero)"
)
def thresholded(case):
    keep = lambda v: jnp.where(jnp.abs(v) > 1e-2, v, 0.0)  # noqa: E731
    return with_step(case, lambda loss, p, x, y, k: step(p, tree_map(keep, jax.grad(loss)(p, x, y)), case.inner_lr))


@wrong(
    "the query loss is taken at the average of the inner iterates (Polyak)",
    "averages? of|averaged|polyak|mean of the (iterates|θ)|swa\\b",
    tells_loss=False,
)
def averaged_iterates(case):
    def one(loss, p, xs, ys, xq, yq):
        thetas = [p]
        for _ in range(case.inner_steps):
            thetas.append(step(thetas[-1], jax.grad(loss)(thetas[-1], xs, ys), case.inner_lr))
        return loss(tree_map(lambda *v: sum(v[1:]) / case.inner_steps, *thetas), xq, yq)

    return over_tasks(case, one)


@wrong("a small L2 penalty 1e-3 ‖θ_K‖² is added to the query loss", "penalty|regulari|l2|weight.decay|extra term")
def outer_penalty(case):
    def one(loss, p, xs, ys, xq, yq):
        p = adapt(case, loss, p, xs, ys)
        return loss(p, xq, yq) + 1e-3 * sum(jnp.sum(v * v) for v in p.values())

    return over_tasks(case, one)


@wrong("only the last layer adapts: ANIL", "anil|head|last layer", tells_loss=False)
def head_only(case):
    head = set(case.head())

    def new(loss, p, x, y, k):
        g = jax.grad(loss)(p, x, y)
        return {n: p[n] - case.inner_lr * g[n] if n in head else p[n] for n in p}

    return with_step(case, new)


@wrong(
    "every step is linearised at θ₀: the gradient is g₀ + H₀(θ_k − θ₀)",
    "linearis|lineariz|at θ₀|at theta_?0|same (point|hessian)",
    tells_loss=False,
)
def linearised(case):
    def one(loss, p0, xs, ys, xq, yq):
        p = p0
        for _ in range(case.inner_steps):
            away = tree_map(jnp.subtract, p, p0)
            g, hv = jax.jvp(lambda p: jax.grad(loss)(p, xs, ys), (p0,), (away,))
            p = step(p, tree_map(jnp.add, g, hv), case.inner_lr)
        return loss(p, xq, yq)

    return over_tasks(case, one)


# ── wrong: data, tasks, state ───────────────────────────────────────────────────────────────────────────────────────


@wrong(
    "in_axes is None for the support labels: every task learns with the first task's labels",
    "label|target|first task|wrong task",
    tells_loss=False,
)
def labels_of_first_task(case):
    loss, params, xs, ys, xq, yq = given(case)
    one = lambda p, a, b, c, d: loss(adapt(case, loss, p, a, b), c, d)  # noqa: E731
    total = lambda p: jax.vmap(one, (None, 0, None, 0, 0))(p, xs, ys[0], xq, yq).mean()  # noqa: E731
    return {"meta_grad": jax.grad(total)(params), "meta_loss": total(params)}


@wrong(
    "a task's query set is the next task's: the pairing is off by one",
    "pair|another task|next task|off by one|mismatch|wrong task",
)
def query_of_next_task(case):
    loss, params, xs, ys, xq, yq = given(case)

    def total(p):
        values = [loss(adapt(case, loss, p, xs[t], ys[t]), xq[t - 1], yq[t - 1]) for t in range(case.tasks)]
        return sum(values) / case.tasks

    value, grads = jax.value_and_grad(total)(params)
    return {"meta_grad": grads, "meta_loss": value}


@wrong(
    "support inputs are rolled by one against their labels",
    "label|target|align|shift|mismatch|pair|order of the (examples|labels)",
    tells_loss=False,
)
def rolled_inputs(case):
    return over_tasks(case, lambda loss, p, xs, ys, xq, yq: loss(adapt(case, loss, p, jnp.roll(xs, 1, 0), ys), xq, yq))


@wrong(
    "support inputs are standardised (mean 0, variance 1) before the inner loop",
    "standardi|normali[sz]|inputs|preprocess",
)
def standardised(case):
    if case.model["layers"][0]["layer"] not in ("linear", "conv"):
        return plain(case)

    def one(loss, p, xs, ys, xq, yq):
        mean, std = xs.mean(0), xs.std(0) + 1e-5
        return loss(adapt(case, loss, p, (xs - mean) / std, ys), (xq - mean) / std, yq)

    return over_tasks(case, one)


@wrong(
    "the query loss is on support and query examples together",
    "together|concat|both sets|union|support (and|with|in) (the )?query",
    tells_loss=False,
)
def query_with_support(case):
    def one(loss, p, xs, ys, xq, yq):
        return loss(adapt(case, loss, p, xs, ys), jnp.concatenate([xs, xq]), jnp.concatenate([ys, yq]))

    return over_tasks(case, one)


@wrong(
    "flattened with ravel_pytree (names sorted), split in the order of the dict: entries at the wrong parameter",
    "order of (the )?(names|parameters|entries)|another order|sorted|layout|wrong (parameter|name|place)|alphabet",
)
def ravelled_in_other_order(case):
    out = plain(case)
    flat, _ = ravel_pytree(out["meta_grad"])
    gs, at = {}, 0
    for n, p in case.params.items():
        gs[n] = flat[at : at + p.size].reshape(p.shape)
        at += p.size
    return {**out, "meta_grad": gs}


_COMPILED: dict = {}


@wrong(
    "the compiled function is kept per shape, with the first case's K and α baked in: stale for later cases",
    "stale|cache|first case|baked|compiled|jit|another case|number of (inner )?steps",
)
def stale_steps(case):
    loss, params, *data = given(case)
    key = (str(case.model), str(tree_map(jnp.shape, (params, data))))

    def total(p, xs, ys, xq, yq):
        return jax.vmap(lambda a, b, c, d: loss(adapt(case, loss, p, a, b), c, d))(xs, ys, xq, yq).mean()

    function = _COMPILED.setdefault(key, jax.jit(jax.value_and_grad(total)))
    value, grads = function(params, *data)
    return {"meta_grad": grads, "meta_loss": value}


_CLOSED: dict = {}


@wrong(
    "the compiled function closes over the first data of these shapes: later tasks of the same shapes are not seen",
    "stale|cache|first (case|data)|baked|compiled|jit|order of (the )?tasks|data",
    tells_loss=False,
)
def stale_data(case):
    loss, params, xs, ys, xq, yq = given(case)
    key = (case.model["loss"], case.inner_steps, case.inner_lr, str(tree_map(jnp.shape, (params, xs, xq))))

    def total(p):
        return jax.vmap(lambda a, b, c, d: loss(adapt(case, loss, p, a, b), c, d))(xs, ys, xq, yq).mean()

    return {"meta_grad": _CLOSED.setdefault(key, jax.jit(jax.grad(total)))(params)}


@wrong(
    "θ is remembered and moved by an outer step in every call: the second answer is at another θ",
    "state|two answers|nondetermin|outer step|between calls",
    tells_loss=False,
)
def learner_with_memory(case):
    key = str((case.model, {n: p.tobytes() for n, p in case.params.items()}))
    loss, params, *data = given(case)
    params = _LEARNED.get(key, params)
    total = lambda p: sum(  # noqa: E731
        loss(adapt(case, loss, p, data[0][t], data[1][t]), data[2][t], data[3][t]) for t in range(case.tasks)
    ) / case.tasks  # fmt: skip
    grads = jax.grad(total)(params)
    _LEARNED[key] = step(params, grads, 0.001)
    return {"meta_grad": grads}


_LEARNED: dict = {}


# ── wrong: losses, layers, precision ────────────────────────────────────────────────────────────────────────────────


class PerClassMean(models.JAX):
    def cross_entropy(self, o, y):
        return -jnp.mean(jax.nn.one_hot(y, o.shape[1]) * jax.nn.log_softmax(o))


@wrong(
    "the cross-entropy is a mean over examples and classes: C times too small",
    "class|mean over|cross.?entropy|factor|times too small|1/c",
)
def mean_over_classes(case):
    return plain(case, PerClassMean())


class FromOne(models.JAX):
    def cross_entropy(self, o, y):
        return -jnp.mean(jnp.sum(jax.nn.one_hot(y - 1, o.shape[1]) * jax.nn.log_softmax(o), 1))


@wrong(
    "labels are counted from 1 in the one-hot coding: class 0 has no target",
    "label|one.?hot|class|off by one",
    tells_loss=False,
)
def labels_from_one(case):
    return plain(case, FromOne())


class OverExamples(models.JAX):
    def cross_entropy(self, o, y):
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(o, axis=0), y[:, None], 1))


@wrong(
    "log-softmax over the examples instead of the classes", "axis|softmax|cross.?entropy|over (the )?(examples|batch)"
)
def softmax_over_batch(case):
    return plain(case, OverExamples())


class Brier(models.JAX):
    def binary_cross_entropy(self, o, y):
        p = jnp.clip(jax.nn.sigmoid(o), 1e-3, 1 - 1e-3) * (1 - 2e-6) + 1e-6
        return -jnp.mean(y * jnp.log(p) + (1 - y) * jnp.log(1 - p))


@wrong(
    "the binary cross-entropy squeezes probabilities into [1e-6, 1 − 1e-6]: wrong by 1e-6",
    "binary|cross.?entropy|logistic|sigmoid|clip|ε|eps|digits|imprecise",
    tells_loss=False,
)
def squeezed_probabilities(case):
    return plain(case, Brier())


class Maximum(models.JAX):
    def __init__(self):
        super().__init__()
        self.relu = lambda x: jnp.maximum(x, 0)


@wrong("ReLU by jnp.maximum(x, 0): its slope at exactly 0 is ½", "relu|slope|at 0|at zero|½|kink|tie")
def relu_by_maximum(case):
    return plain(case, Maximum())


@jax.custom_vjp
def _tanh(x):
    return jnp.tanh(x)


_tanh.defvjp(lambda x: (jnp.tanh(x), jnp.tanh(x)), lambda y, g: (g * (1 - jax.lax.stop_gradient(y) ** 2),))


class HeldTanh(models.JAX):
    def __init__(self):
        super().__init__()
        self.tanh = _tanh


@wrong(
    "a custom rule of tanh holds what it saved: tanh has no second derivative",
    "tanh|activation|second derivative|custom|saved|once.differentiable",
       tells_loss=False)  # fmt: skip
def tanh_once_differentiable(case):
    return plain(case, HeldTanh())


class FastTanh(models.JAX):
    def __init__(self):
        super().__init__()
        self.tanh = lambda x: (
            x * (135135 + x**2 * (17325 + x**2 * (378 + x**2))) / (135135 + x**2 * (62370 + x**2 * (3150 + 28 * x**2)))
        )


@wrong(
    "tanh is a rational approximation (Lambert's fraction): right near 0, off by 1e-7 to 1e-4 beyond",
    "tanh|activation|approximat|forward",
    tells_loss=False,
)
def fast_tanh(case):
    return plain(case, FastTanh())


class Flipped(models.JAX):
    def conv(self, x, w, stride, padding):
        return super().conv(x, w[::-1, ::-1], stride, padding)


@wrong("a true convolution: filters are flipped, as in scipy", "flip|convolution|cross.?correlation|filter|conv")
def flipped_filters(case):
    return plain(case, Flipped())


class SymmetricPadding(models.JAX):
    def conv(self, x, w, stride, padding):
        kh, kw = w.shape[:2]
        around = ((kh // 2, (kh - 1) // 2), (kw // 2, (kw - 1) // 2))
        return super().conv(x, w, stride, around if padding == "SAME" else padding)


@wrong("SAME padding puts the odd zero first instead of last", "padding|pad|zeros|same|conv", tells_loss=False)
def odd_zero_first(case):
    return plain(case, SymmetricPadding())


@wrong("computed in float32: JAX's default, 64-bit mode is not used", "float32|single|precision|imprecise|digits")
def default_precision(case):
    loss, params, *data = given(case)
    low = lambda x: x.astype(jnp.float32) if jnp.issubdtype(x.dtype, jnp.floating) else x  # noqa: E731
    params, data = tree_map(low, (params, data))
    total = lambda p: sum(  # noqa: E731
        loss(adapt(case, loss, p, data[0][t], data[1][t]), data[2][t], data[3][t]) for t in range(case.tasks)
    ) / case.tasks  # fmt: skip
    value, grads = jax.value_and_grad(total)(params)
    return {"meta_grad": grads, "meta_loss": value}


@wrong(
    "inner gradients pass through float16 (mixed precision)",
    "float16|half|precision|imprecise|digits",
    tells_loss=False,
)
def gradients_in_half(case):
    half = lambda v: v.astype(jnp.float16).astype(v.dtype)  # noqa: E731
    return with_step(case, lambda loss, p, x, y, k: step(p, tree_map(half, jax.grad(loss)(p, x, y)), case.inner_lr))


# ── wrong in two ways ───────────────────────────────────────────────────────────────────────────────────────────────


@wrong(
    "first-order, and support and query are swapped",
    "first.order|fomaml|detach|stop_gradient",
    "swap|exchang|interchang|adapts? (on|to) the query",
)
def first_order_swapped(case):
    def one(loss, p, xs, ys, xq, yq):
        for _ in range(case.inner_steps):
            p = step(p, jax.lax.stop_gradient(jax.grad(loss)(p, xq, yq)), case.inner_lr)
        return loss(p, xs, ys)

    return over_tasks(case, one)


@wrong(
    "only the last layer adapts (ANIL), and one inner step too many",
    "anil|head|last layer",
    "one step (too )?(many|more)|extra (inner )?step|k ?\\+ ?1|more steps",
    tells_loss=False,
)
def head_and_extra_step(case):
    head = set(case.head())

    def one(loss, p, xs, ys, xq, yq):
        for _ in range(case.inner_steps + 1):
            g = jax.grad(loss)(p, xs, ys)
            p = {n: p[n] - case.inner_lr * g[n] if n in head else p[n] for n in p}
        return loss(p, xq, yq)

    return over_tasks(case, one)


@wrong(
    "the last inner step is first-order, and the sign of the answer is that of a descent direction",
    "last (inner )?step|final step",
    "\\bsigns?\\b|negat|minus|descent",
    tells_loss=False,
)
def negative_and_held(case):
    out = last_step_held(case)
    return {**out, "meta_grad": tree_map(jnp.negative, out["meta_grad"])}


@wrong(
    "the squared error has a factor ½, and the meta-gradient is summed over tasks",
    "½|half|factor|mse|squared error",
    "summed|sum over|sum of (the )?tasks|divided|not averaged|times too|factor",
)
def half_and_sum(case):
    class Half(models.JAX):
        def mse(self, o, y):
            return 0.5 * super().mse(o, y)

    return tree_map(lambda v: v * case.tasks, plain(case, Half()))


# ── correct ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@correct("one jitted function: vmap over tasks, scan over steps")
def jit_vmap_scan(case):
    loss, params, *data = given(case)

    def one(p, xs, ys, xq, yq):
        body = lambda p, _: (step(p, jax.grad(loss)(p, xs, ys), case.inner_lr), None)  # noqa: E731
        p, _ = jax.lax.scan(body, p, None, length=case.inner_steps)
        return loss(p, xq, yq)

    total = lambda p: jnp.mean(jax.vmap(functools.partial(one, p))(*data))  # noqa: E731
    value, grads = jax.jit(jax.value_and_grad(total))(params)
    return {"meta_grad": grads, "meta_loss": value}


@correct("the gradient per task, then its mean: vmap of value_and_grad", tells_loss=False)
def gradient_per_task(case):
    loss, params, *data = given(case)
    one = lambda p, a, b, c, d: loss(adapt(case, loss, p, a, b), c, d)  # noqa: E731
    values, grads = jax.vmap(jax.value_and_grad(one), (None, 0, 0, 0, 0))(params, *data)
    return {"meta_grad": tree_map(lambda g: jnp.mean(g, 0), grads), "meta_loss": values.mean()}


def by_products(case, product):
    """Reverse recursion with product(loss, θ_k, x, y, v) = H(θ_k) v."""
    loss, params, xs, ys, xq, yq = given(case)
    out, value = None, 0.0
    for t in range(case.tasks):
        thetas = [params]
        for _ in range(case.inner_steps):
            thetas.append(step(thetas[-1], jax.grad(loss)(thetas[-1], xs[t], ys[t]), case.inner_lr))
        here, v = jax.value_and_grad(loss)(thetas.pop(), xq[t], yq[t])
        while thetas:
            v = step(v, product(loss, thetas.pop(), xs[t], ys[t], v), case.inner_lr)
        out, value = v if out is None else tree_map(jnp.add, out, v), value + here
    return {"meta_grad": tree_map(lambda g: g / case.tasks, out), "meta_loss": value / case.tasks}


@correct("Hessian-vector products by reverse over forward: the gradient of a directional derivative")
def reverse_over_forward(case):
    def product(loss, p, x, y, v):
        return jax.grad(lambda p: jax.jvp(lambda p: loss(p, x, y), (p,), (v,))[1])(p)

    return by_products(case, product)


@correct("Hessian-vector products by forward over reverse, linearised once", tells_loss=False)
def linearize(case):
    return by_products(case, lambda loss, p, x, y, v: jax.linearize(lambda p: jax.grad(loss)(p, x, y), p)[1](v))


@correct("explicit Hessians of jax.hessian on a flat vector", tells_loss=False)
def explicit_hessians(case):
    def product(loss, p, x, y, v):
        flat, unflat = ravel_pytree(p)
        return unflat(jax.hessian(lambda w: loss(unflat(w), x, y))(flat) @ ravel_pytree(v)[0])

    return by_products(case, product)


@correct("rematerialised inner steps (jax.checkpoint)")
def rematerialised(case):
    def one(loss, p, xs, ys, xq, yq):
        once = jax.checkpoint(lambda p: step(p, jax.grad(loss)(p, xs, ys), case.inner_lr))
        for _ in range(case.inner_steps):
            p = once(p)
        return jax.checkpoint(loss)(p, xq, yq)

    return over_tasks(case, one)


@correct("forward mode throughout: the Jacobian of the adapted loss by jacfwd", tells_loss=False)
def forward_mode(case):
    loss, params, *data = given(case)
    total = lambda p: sum(  # noqa: E731
        loss(adapt(case, loss, p, data[0][t], data[1][t]), data[2][t], data[3][t]) for t in range(case.tasks)
    ) / case.tasks  # fmt: skip
    return {"meta_grad": jax.jacfwd(total)(params)}


class OwnLayers(models.JAX):
    """log-sum-exp by hand, patches and einsum for the convolution, softplus by log1p."""

    def __init__(self):
        super().__init__()
        self.softplus = lambda x: jnp.where(x > 0, x, 0) + jnp.log1p(jnp.exp(-jnp.where(x > 0, x, -x)))

    def cross_entropy(self, o, y):
        top = jax.lax.stop_gradient(o.max(1, keepdims=True))
        return jnp.mean(
            jnp.log(jnp.exp(o - top).sum(1)) + top[:, 0] - jnp.einsum("nc,nc->n", o, jax.nn.one_hot(y, o.shape[1]))
        )

    def conv(self, x, w, stride, padding):
        (kh, kw), (top, bottom), (left, right) = (
            w.shape[:2],
            *(models._zeros_around(padding, n, k, stride) for n, k in zip(x.shape[1:3], w.shape[:2], strict=True)),
        )
        x = jnp.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
        m, n = stride * ((x.shape[1] - kh) // stride + 1), stride * ((x.shape[2] - kw) // stride + 1)
        return sum(
            jnp.einsum("nhwi,io->nhwo", x[:, i : i + m : stride, j : j + n : stride], w[i, j])
            for i in range(kh) for j in range(kw)
        )  # fmt: skip


@correct("layers and losses by hand")
def own_layers(case):
    return plain(case, OwnLayers())
