"""MAML in JAX."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree

from tinymaml.oracle import models

from ..entries import correct, wrong

EPS = 2.0**-10
tree_map = jax.tree_util.tree_map

# ---- honest helpers -------------------------------------------------------------------------------------------------


def given(case, layers=None):
    """(loss, θ, [(support, query), …]), with other layers if wanted."""
    loss, params, ((xs, ys), (xq, yq)) = case.jax()
    loss = loss if layers is None else models.loss_in(layers, case.model)
    return loss, params, [((xs[t], ys[t]), (xq[t], yq[t])) for t in range(case.tasks)]


def step(params, grads, rate):
    """θ − α g"""
    return tree_map(lambda p, g: p - rate * g, params, grads)


def adapt(case, loss, params, support):
    """θ_K"""
    for _ in range(case.inner_steps):
        params = step(params, jax.grad(loss)(params, *support), case.inner_lr)
    return params


def answer(total, params):
    """Value and gradient of a function of the parameters."""
    value, grads = jax.value_and_grad(total)(params)
    return {"meta_grad": grads, "meta_loss": value}


def over_tasks(case, one, layers=None):
    """The gradient of the mean over tasks of one(loss, θ, support, query)."""
    loss, params, tasks = given(case, layers)
    return answer(lambda p: sum(one(loss, p, s, q) for s, q in tasks) / len(tasks), params)


def plain(case, layers):
    """MAML, with other layers."""
    return over_tasks(case, lambda loss, p, s, q: loss(adapt(case, loss, p, s), *q), layers)


# ---- right ones -----------------------------------------------------------------------------------------------------


@correct("Every inner step under jax.checkpoint, so that it is computed again on the way back.")
def steps_under_checkpoint(case):
    def one(loss, params, support, query):
        @jax.checkpoint
        def body(p):
            return step(p, jax.grad(loss)(p, *support), case.inner_lr)

        for _ in range(case.inner_steps):
            params = body(params)
        return loss(params, *query)

    return over_tasks(case, one)


@correct("The inner step is a custom_vjp whose backward pass is v − α H v, with H v by forward over reverse.")
def custom_step(case):
    def one(loss, params, support, query):
        g = jax.grad(lambda p: loss(p, *support))

        @jax.custom_vjp
        def sgd(p):
            return step(p, g(p), case.inner_lr)

        sgd.defvjp(lambda p: (sgd(p), p), lambda p, v: (step(v, jax.jvp(g, (p,), (v,))[1], case.inner_lr),))
        for _ in range(case.inner_steps):
            params = sgd(params)
        return loss(params, *query)

    return over_tasks(case, one)


@correct("One flat vector; every step is linearised as it is taken, and the linear maps are transposed one by one.")
def transposed_linear_maps(case):
    loss, params, tasks = given(case)
    theta, unravel = ravel_pytree(params)

    def flat_loss(p, batch):
        return loss(unravel(p), *batch)

    total, mean = 0.0, jnp.zeros_like(theta)
    for support, query in tasks:
        p, maps = theta, []
        for _ in range(case.inner_steps):
            p, forward = jax.linearize(lambda p, s=support: p - case.inner_lr * jax.grad(flat_loss)(p, s), p)
            maps.append(jax.linear_transpose(forward, theta))
        value, v = jax.value_and_grad(flat_loss)(p, query)
        for back in reversed(maps):
            (v,) = back(v)
        total, mean = total + value / len(tasks), mean + v / len(tasks)
    return {"meta_grad": unravel(mean), "meta_loss": total}


@correct("θ is copied once per task and the gradient of each copy is taken, the copies' gradients are averaged.")
def a_copy_for_each_task(case):
    loss, params, tasks = given(case)
    copies = tree_map(lambda p: jnp.broadcast_to(p, (len(tasks), *p.shape)), params)

    def total(copies):
        return sum(
            loss(adapt(case, loss, tree_map(lambda p, t=t: p[t], copies), s), *q) for t, (s, q) in enumerate(tasks)
        )

    value, grads = jax.value_and_grad(total)(copies)
    return {"meta_grad": tree_map(lambda g: g.mean(0), grads), "meta_loss": value / len(tasks)}


# ---- the inner loop and its derivative ------------------------------------------------------------------------------


@wrong(
    "The outer derivative is truncated to the last inner step: θ_{K−1} is detached from θ (straight through), so the "
    "factors of all the steps before are missing.",
    r"truncat|detach|stop.?grad|straight|constant|only (through )?the last|last (inner )?step (only|alone)"
    r"|all but the last"
    r"|earlier steps|first K ?[-−] ?1|cut|(miss|left out|omit|drop)\w*.{0,40}(factor|step|hessian)"
    r"|H_?\{?K ?[-−] ?1\}? (only|alone)",
    tells_loss=False,
)
def only_the_last_step_is_differentiated(case):
    def one(loss, params, support, query):
        p = params
        for k in range(case.inner_steps):
            if k and k == case.inner_steps - 1:
                p = tree_map(lambda a, b: a + lax.stop_gradient(b - a), params, p)
            p = step(p, jax.grad(loss)(p, *support), case.inner_lr)
        return loss(p, *query)

    return over_tasks(case, one)


@wrong(
    "The inner step works on flat vectors in two orders: θ by ravel_pytree, which sorts the names, the gradient in the "
    "order of the model; the elements of the gradient are subtracted from those of other parameters.",
    r"order of (the )?(param|names|dict|keys|leaves|gradients)|sort|alphabet|permut|flatten|ravel|other param"
    r"|another param"
    r"|wrong param|mismatch|misalign|scrambl|shuffl|pytree|insertion|mixed up|swapp|swap|dict",
)
def vectors_in_two_orders(case):
    def one(loss, params, support, query):
        flat, unravel = ravel_pytree(params)
        for _ in range(case.inner_steps):
            g = jax.grad(loss)(unravel(flat), *support)
            flat = flat - case.inner_lr * jnp.concatenate([jnp.ravel(g[n]) for n in case.params])
        return loss(unravel(flat), *query)

    return over_tasks(case, one)


@wrong(
    "lax.pmean over the tasks' axis stands in the inner loop: the inner gradients are averaged over the tasks, so "
    "that all tasks adapt together to the mean support loss.",
    r"averag\w*.{0,30}task|(gradient|support|inner)\w*.{0,40}mean.{0,20}tasks|pmean|across (the )?tasks"
    r"|other tasks|shared gradient"
    r"|joint|pool(ed|ing) (the )?(tasks|support|gradients)|same (adapted|inner)|adapt\w* together|mean support"
    r"|mix\w* (the )?tasks",
)
def pmean_in_the_inner_loop(case):
    loss, params, tasks = given(case)

    def total(params):
        adapted = [params] * len(tasks)
        for _ in range(case.inner_steps):
            grads = [jax.grad(loss)(p, *s) for p, (s, _) in zip(adapted, tasks, strict=True)]
            pmean = tree_map(lambda *g: sum(g) / len(g), *grads)
            adapted = [step(p, pmean, case.inner_lr) for p in adapted]
        return sum(loss(p, *q) for p, (_, q) in zip(adapted, tasks, strict=True)) / len(tasks)

    return answer(total, params)


@wrong(
    "The tasks are counted from 1 (jnp.arange(1, T + 1)) and JAX clamps the one out of range: the first task is not "
    "used and the last one twice.",
    r"first task|last task|task (0|1|zero|one)\b|clamp|out.of.(range|bound)|off.by.one|index"
    r"|skip\w* (a |one |the )?task"
    r"|task\w* .{0,30}(twice|skipp|missing|left out|ignored|dropp|counted|weigh)|one.based|1.based|duplicat",
)
def tasks_counted_from_one(case):
    loss, params, ((xs, ys), (xq, yq)) = case.jax()

    def total(params):
        values = []
        for t in jnp.arange(1, case.tasks + 1):
            adapted = adapt(case, loss, params, (xs[t], ys[t]))
            values.append(loss(adapted, xq[t], yq[t]))
        return jnp.mean(jnp.stack(values))

    return answer(total, params)


@wrong(
    "The custom_vjp of the inner step saves new parameters as its residual instead of the old ones: each Hessian is "
    "taken at θₖ₊₁ instead of θₖ.",
    r"θ_?\{?k ?\+ ?1|θₖ₊₁|k ?\+ ?1|after the (step|update)|new param|updated param|next (param|θ|point|step|iterate)"
    r"|residual"
    r"|one step (too )?late|shifted|off.by.one|wrong point|wrong (θ|param)|custom.?vjp|H_?1\b|H_?\{?K\}?(?! ?[-−])\b"
    r"|H₁",
    tells_loss=False,
)
def residual_is_the_result(case):
    def one(loss, params, support, query):
        g = jax.grad(lambda p: loss(p, *support))

        @jax.custom_vjp
        def sgd(p):
            return step(p, g(p), case.inner_lr)

        def forward(p):
            new = sgd(p)
            return new, new

        def backward(p, v):
            return (step(v, jax.jvp(g, (p,), (v,))[1], case.inner_lr),)

        sgd.defvjp(forward, backward)
        for _ in range(case.inner_steps):
            params = sgd(params)
        return loss(params, *query)

    return over_tasks(case, one)


@wrong(
    "Batch normalisation keeps the statistics of the last support pass (batch_stats, use_running_average=True) and "
    "normalises the query set with them instead of with its own mean and variance.",
    r"statistic|batch.?stats|running|support.{0,30}(mean|varianc|stat)|(mean|varianc)\w*.{0,30}support"
    r"|normali[sz]\w* .{0,20}query",
)
def query_normalised_as_the_support(case):
    class Wrong(models.JAX):
        kept, seen = None, None

        def batch_norm(self, x, gamma, beta):
            over = tuple(range(x.ndim - 1))
            if self.kept:
                mean, var = self.kept.pop(0)
            else:
                mean = self.mean(x, over)
                var = self.mean((x - mean) ** 2, over)
                self.seen.append((mean, var))
            return (x - mean) / self.sqrt(var + EPS) * gamma + beta

    layers = Wrong()

    def one(loss, params, support, query):
        def with_stats(p, x, y):
            layers.kept, layers.seen = None, []
            return loss(p, x, y), layers.seen

        stats = []
        for _ in range(case.inner_steps):
            grads, stats = jax.grad(with_stats, has_aux=True)(params, *support)
            params = step(params, grads, case.inner_lr)
        layers.kept, layers.seen = list(stats), []
        return loss(params, *query)

    return over_tasks(case, one, layers)


@wrong(
    "The body of the loop uses the outer params instead of using its carry: every inner gradient is taken at θ₀, "
    "so that θ_K = θ − Kα g_s(θ).",
    r"(gradient|g_?s|∇|taken|\bat).{0,40}θ_?[0₀]|K ?[α·*×]|initial (param|point|θ|weights|gradient)"
    r"|clos(ure|es|ed|ing)|same gradient|carry|not recomputed|stale"
    r"|first (step'?s? )?gradient|outer param|one (big|large|long) step|K times|repeat|original param|meta.?param",
)
def closed_over_the_outer_params(case):
    def one(loss, params, support, query):
        def body(carry):
            grads = jax.grad(loss)(params, *support)
            return step(carry, grads, case.inner_lr)

        carry = params
        for _ in range(case.inner_steps):
            carry = body(carry)
        return loss(carry, *query)

    return over_tasks(case, one)


@wrong(
    "The inner step is jitted with the support set as a closure: it is traced with the first task's, which is baked in "
    "as a constant, so that every task adapts to the first task's support set.",
    r"first task|task (0|1|zero|one)\b|stale|trac(e|ed|ing)\b|baked|jit|clos(ure|es|ed|ing)|same (support|task)"
    r"|another task"
    r"|other task|wrong task|constant|one task",
)
def traced_with_the_first_task(case):
    box = {}

    def one(loss, params, support, query):
        box["support"] = support
        if "step" not in box:

            @jax.jit
            def inner(p):
                return step(p, jax.grad(loss)(p, *box["support"]), case.inner_lr)

            box["step"] = inner
        for _ in range(case.inner_steps):
            params = box["step"](params)
        return loss(params, *query)

    return over_tasks(case, one)


@wrong(
    "For H v the code has (H 1) ∘ v: the gradient of the sum of the gradient's elements gives the row sums of the "
    "Hessian, which are multiplied with v element by element.",
    r"row.?sum|sum of (the )?(row|gradient|column|elements)|sums of|H ?[·@]? ?1\b|of ones|element.?(wise|by)"
    r"|diagonal|hadamard"
    r"|entrywise|vector of ones|all.?ones|H𝟏|summed gradient|grad of (the )?sum",
    tells_loss=False,
)
def row_sums_for_the_hessian(case):
    loss, params, tasks = given(case)
    total, parts = 0.0, []
    for support, query in tasks:
        thetas = [params]
        for _ in range(case.inner_steps):
            thetas.append(step(thetas[-1], jax.grad(loss)(thetas[-1], *support), case.inner_lr))
        value, v = jax.value_and_grad(loss)(thetas[-1], *query)

        def summed(p, s=support):
            return sum(jnp.sum(g) for g in jax.tree_util.tree_leaves(jax.grad(loss)(p, *s)))

        for theta in reversed(thetas[:-1]):
            second = jax.grad(summed)(theta)
            v = tree_map(lambda a, h: a - case.inner_lr * h * a, v, second)
        total += value / len(tasks)
        parts.append(v)
    return {"meta_grad": tree_map(lambda *g: sum(g) / len(g), *parts), "meta_loss": total}


@wrong(
    "The inner step updates the parameters one after another and takes the gradient anew for each: the gradient of a "
    "later parameter sees the earlier ones already updated.",
    r"one (after|by) (the )?(other|one|another)|one (param|name|array) (after|at)|param\w* by param"
    r"|already.{0,12}(updat|chang|new)"
    r"|sequential|seidel|in.?place|simultan|same time|coordinate|block|partly updated|partially updated"
    r"|half.?updated"
    r"|dict.{0,20}(mutat|chang|overwrit)|later param|alternat",
)
def names_updated_in_turn(case):
    def one(loss, params, support, query):
        fast = dict(params)
        for _ in range(case.inner_steps):
            for n in case.params:
                fast[n] = fast[n] - case.inner_lr * jax.grad(loss)(fast, *support)[n]
        return loss(fast, *query)

    return over_tasks(case, one)


@wrong(
    "Mixed precision: the inner loss is computed in bfloat16, so that the inner gradients have two or three digits.",
    r"bfloat|bf16|float16|half.?precision|mixed.?precision|low\w* precision|precision|imprecise|digits|dtype|8 bits"
    r"|float32"
    r"|coarse",
    tells_loss=False,
)
def inner_loss_in_bfloat16(case):
    def half(a):
        return a.astype(jnp.bfloat16) if jnp.issubdtype(a.dtype, jnp.floating) else a

    def one(loss, params, support, query):
        x, y = map(half, support)
        for _ in range(case.inner_steps):
            grads = jax.grad(lambda p: loss(tree_map(half, p), x, y).astype(jnp.float64))(params)
            params = step(params, grads, case.inner_lr)
        return loss(params, *query)

    return over_tasks(case, one)


@wrong(
    "Batch normalisation adds ε to the standard deviation, outside of the root, instead of to the variance under it.",
    r"ε|\beps|epsilon|outside|under the root|square root|sqrt|standard dev|\bstd\b",
)
def epsilon_outside_of_the_root(case):
    class Wrong(models.JAX):
        def batch_norm(self, x, gamma, beta):
            over = tuple(range(x.ndim - 1))
            centred = x - self.mean(x, over)
            # a floor far below rounding, lest the root be differentiated at 0
            std = self.sqrt(self.mean(centred * centred, over) + 1e-24)
            return centred / (std + EPS) * gamma + beta

    return plain(case, Wrong())


@wrong(
    "The inner gradient is clipped to a global norm of 1 (optax.clip_by_global_norm), which the inner loop of the spec "
    "does not do.",
    r"clip|norm of (1|one)|global.?norm|bounded|capped|limit\w* (the )?norm|rescal|unit norm|max.?norm"
    r"|normali[sz]\w* grad"
    r"|scaled down|shorter|threshold",
)
def inner_gradient_clipped(case):
    def one(loss, params, support, query):
        for _ in range(case.inner_steps):
            grads = jax.grad(loss)(params, *support)
            norm = jnp.sqrt(sum(jnp.sum(g * g) for g in jax.tree_util.tree_leaves(grads)))
            trigger = jnp.maximum(1.0, norm)
            params = step(params, tree_map(lambda g, t=trigger: g / t, grads), case.inner_lr)
        return loss(params, *query)

    return over_tasks(case, one)


# ---- two at once ----------------------------------------------------------------------------------------------------


@wrong(
    "Two mistakes: vmap has in_axes=None for the query set and is given the first task's, so that every task is judged "
    "by the first task's query set; and the inner rate goes through a softplus, log(1 + e^α), although α is the rate "
    "itself.",
    r"first task|task (0|1|zero|one)\b|same query|in_?axes|vmap|another task|other task|wrong task|one task"
    r"|query (set )?of (the|an)"
    r"|shared query",
    r"softplus|(inner|learning|step).{0,6}(rate|size)|wrong rate|rate.{0,30}(wrong|large|differ|scal)|log ?\(1"
    r"|(step|α) .{0,12}(too )?(large|big|long)"
    r"|α is|factor in α|larger α|scaled step",
)
def first_query_and_softplus_rate(case):
    loss, params, tasks = given(case)
    rate = jnp.logaddexp(jnp.asarray(case.inner_lr, jnp.float64), 0.0)

    def total(params):
        query = tasks[0][1]
        values = []
        for support, _ in tasks:
            p = params
            for _ in range(case.inner_steps):
                p = step(p, jax.grad(loss)(p, *support), rate)
            values.append(loss(p, *query))
        return sum(values) / len(values)

    return answer(total, params)


@wrong(
    "Two mistakes: the cross-entropy is given probabilities, since softmax is applied before it (softmax twice); and "
    "scan's stacked outputs are the parameters before each update, so that the last of them is θ_{K−1}: the last inner "
    "step is lost.",
    r"softmax|probabilit|logit|cross.?entropy",
    r"(query|L_?q|adapted|evaluat|judg).{0,60}K ?[-−] ?1|θ_?\{?K ?[-−] ?1|K ?[-−] ?1 (inner )?(steps|updates)"
    r"|one (inner )?(step|update) (too |less|fewer|short|is|early|miss|few)|last (inner )?(step|update)"
    r"|before the (last|update)|off.by.one|stacked|scan|carry|too few|missing step|fewer",
    tells_loss=False,
)
def softmax_twice_and_stacked_outputs(case):
    class Wrong(models.JAX):
        def cross_entropy(self, o, y):
            return super().cross_entropy(jnp.exp(self.log_softmax(o)), y)

    def one(loss, params, support, query):
        outputs, carry = [], params
        for _ in range(case.inner_steps):
            outputs.append(carry)
            carry = step(carry, jax.grad(loss)(carry, *support), case.inner_lr)
        return loss(outputs[-1] if outputs else carry, *query)

    return over_tasks(case, one, Wrong())


@wrong(
    "Two mistakes: the parameters are partitioned by the first letter of their names, and only those whose name begins "
    "with w adapt in the inner loop, biases and batch norm's stay at θ; and the query loss is taken on support "
    "and query set together.",
    r"bias|only (the )?(weights|w\b|matri)|partition|do(es)? not adapt|not adapt|not updated|frozen|froze|fixed|gamma"
    r"|beta"
    r"|kept at θ|subset of (the )?param|partial adapt|some (of the )?param|stay at|left out of the inner",
    r"support.{0,30}(plus|∪|too\b|also|as well|includ|concat|together)|support (and|\+) query (set|data|loss|ex)"
    r"|concat|union|together|both sets|pooled|joined|all (the )?(examples|data)"
    r"|L_?s ?\+|includ\w* (the )?support|whole (data|set)|merged|evaluat\w*.{0,30}support",
    tells_loss=False,
)
def weights_only_and_both_sets(case):
    def one(loss, params, support, query):
        fast = {n: p for n, p in params.items() if n.startswith("w")}
        rest = {n: p for n, p in params.items() if not n.startswith("w")}
        for _ in range(case.inner_steps):
            fast = step(fast, jax.grad(lambda f: loss({**rest, **f}, *support))(fast), case.inner_lr) if fast else fast
        both = [jnp.concatenate(pair) for pair in zip(support, query, strict=True)]
        return loss({**rest, **fast}, *both)

    return over_tasks(case, one)
