"""MAML in JAX: scans, vmaps, custom derivatives, flat vectors, jit."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree

from tinymaml.oracle import models

from ..entries import correct, wrong


def given(case, layers=None):
    """(loss, θ, support, query), stacked over tasks, with other layers if wanted."""
    loss, params, (support, query) = case.jax()
    return loss if layers is None else models.loss_in(layers, case.model), params, support, query


def step(params, grads, rate):
    """θ − α g"""
    return jax.tree.map(lambda p, g: p - rate * g, params, grads)


def adapt(case, loss, params, support):
    """θ_K"""

    def body(theta, _):
        return step(theta, jax.grad(loss)(theta, *support), case.inner_lr), None

    return lax.scan(body, params, length=case.inner_steps)[0]


def path(case, loss, params, support):
    """[θ₀, …, θ_K]"""
    thetas = [params]
    for _ in range(case.inner_steps):
        thetas.append(step(thetas[-1], jax.grad(loss)(thetas[-1], *support), case.inner_lr))
    return thetas


def hvp(loss, params, support, v):
    """The Hessian of the loss, times v."""
    return jax.jvp(lambda p: jax.grad(loss)(p, *support), (params,), (v,))[1]


def task(batch, t):
    """One task of a stack."""
    return batch[0][t], batch[1][t]


def answer(meta_loss, params):
    """Value and gradient of meta_loss(θ)."""
    value, grads = jax.jit(jax.value_and_grad(meta_loss))(params)
    return {"meta_grad": grads, "meta_loss": value}


def over_tasks(case, one, layers=None):
    """The gradient of the mean over tasks of one(loss, θ, support, query)."""
    loss, params, support, query = given(case, layers)
    tasks = range(case.tasks)
    return answer(lambda p: sum(one(loss, p, task(support, t), task(query, t)) for t in tasks) / case.tasks, params)


def by_hand(case, one):
    """The means over tasks of one(loss, θ, support, query) → (loss, gradient)."""
    loss, params, support, query = given(case)
    of_task = jax.jit(lambda s, q: one(loss, params, s, q))
    pairs = [of_task(task(support, t), task(query, t)) for t in range(case.tasks)]
    values, grads = zip(*pairs, strict=True)
    return {"meta_grad": jax.tree.map(lambda *g: sum(g) / len(g), *grads), "meta_loss": sum(values) / len(values)}


def plain(case, layers):
    """MAML with other layers."""
    return over_tasks(case, lambda loss, p, s, q: loss(adapt(case, loss, p, s), *q), layers)


# Products of Hessians and vectors


@wrong(
    "The Hessian is taken over the vector of ravel_pytree, which sorts the keys of a dict, and is multiplied with a "
    "vector whose parts stand in the order of insertion: in the second-order term parameters are confused.",
    r"ravel|sort|order of (the )?(param|key|name|array|dict|element|tensor|insertion)|flatten|permut|key|misalign"
    r"|alphabet"
    r"|(param|array|name|key)\w* order|reorder|mixed up|confus|swap|unravel|(wrong|other|another) param|mismatch",
    tells_loss=False,
)
def two_orders_of_raveling(case):
    def one(loss, params, support, query):
        _, unravel = ravel_pytree(params)
        thetas = path(case, loss, params, support)
        value, grads = jax.value_and_grad(loss)(thetas[-1], *query)
        v = jnp.concatenate([grads[name].ravel() for name in params])
        for theta in reversed(thetas[:-1]):
            matrix = jax.hessian(lambda z: loss(unravel(z), *support))(ravel_pytree(theta)[0])
            v = v - case.inner_lr * matrix @ v
        parts, at = {}, 0
        for name, p in params.items():
            parts[name], at = v[at : at + p.size].reshape(p.shape), at + p.size
        return value, parts

    return by_hand(case, one)


@wrong(
    "The Hessian-vector product is the gradient of the sum of the elements of the gradient, multiplied elementwise by "
    "v: (H 1) * v, row sums of the Hessian on a diagonal, in place of H v.",
    r"row.?sum|sum\w* (of|over) (the |its |all )?(row|column|element|component|entr)|ones|element.?wise|hadamard"
    r"|H ?·?@? ?1"
    r"|diagonal|lump|grad\w* of (the )?sum|sum(s|med)? of (the )?(grad|hess)|∘ ?v|⊙|not contracted|contract",
)
def product_with_ones(case):
    def one(loss, params, support, query):
        thetas = path(case, loss, params, support)
        value, v = jax.value_and_grad(loss)(thetas[-1], *query)

        def summed(p):
            return sum(jnp.sum(g) for g in jax.tree.leaves(jax.grad(loss)(p, *support)))

        for theta in reversed(thetas[:-1]):
            product = jax.tree.map(lambda h, u: h * u, jax.grad(summed)(theta), v)
            v = step(v, product, case.inner_lr)
        return value, v

    return by_hand(case, one)


# Scans


@wrong(
    "theta is in the carry of the scan over tasks, so each task starts its inner loop from the adapted parameters of "
    "the task before (right for the first task).",
    r"carr(y|ied)|previous task|(task|one) before|last task|preceding|leak|not reset|reset|warm.?start|continu"
    r"|sequential"
    r"|state (is )?(kept|shared|between|across)|from task to task|(across|between) tasks|anew|prior task"
    r"|starts? (from|at|where)",
)
def parameters_in_the_carry(case):
    loss, params, support, query = given(case)

    def meta_loss(p):
        def body(theta, data):
            s, q = data
            theta = adapt(case, loss, theta, s)
            return theta, loss(theta, *q)

        return jnp.mean(lax.scan(body, p, (support, query))[1])

    return answer(meta_loss, params)


@wrong(
    "The backward scan over the stored parameters runs from the first to the last step (reverse=True is missing): the "
    "factors I - alpha H_k are multiplied in the reverse order (wrong for K >= 2).",
    r"(?<!second.)(?<!first.)(?<!higher.)order|revers|transpos|backwards|commut|first to last|last to first"
    r"|forward(s)? (through|over|from)|ascending"
    r"|(from )?k ?= ?0 (to|…|up)|H_?0 first|(wrong|other) end|H_\{?K-1\}? ?.{0,12}H_?0",
    tells_loss=False,
)
def forgotten_reverse(case):
    def one(loss, params, support, query):
        def forward(theta, _):
            return step(theta, jax.grad(loss)(theta, *support), case.inner_lr), theta

        def backward(v, theta):
            return step(v, hvp(loss, theta, support, v), case.inner_lr), None

        last, thetas = lax.scan(forward, params, length=case.inner_steps)
        value, v = jax.value_and_grad(loss)(last, *query)
        return value, lax.scan(backward, v, thetas)[0]

    return by_hand(case, one)


@wrong(
    "The body of the loop subtracts the step from the outer theta, caught by the closure, and not from the carry: "
    "theta_{k+1} = theta_0 - alpha g(theta_k), so only the last step remains (wrong for K >= 2).",
    r"θ₀ ?[-−]|from (the )?(θ₀|theta_?0|θ_?0|initial|original|outer|start|meta)|closure|not accumul|accumulat"
    r"|only the last (step|update|gradient)|last (step|update) (only|alone|counts|remains)|reset|restart"
    r"|(previous|earlier) (steps|updates) (are )?(lost|forgotten|discard|dropped)|carry|initial (param|weights|θ)"
    r"|base point",
    tells_loss=False,
)
def step_from_the_closure(case):
    def one(loss, params, support, query):
        def body(_, theta):
            return step(params, jax.grad(loss)(theta, *support), case.inner_lr)

        return loss(lax.fori_loop(0, case.inner_steps, body, params), *query)

    return over_tasks(case, one)


# vmap and jit


@wrong(
    "The loss is vmapped over the examples and averaged, so batch normalisation sees sets of one example: its "
    "statistics are those of each example alone and not of the whole set.",
    r"(per|each|single|one|individual)[\s-]?(\w+ )?(example|sample|instance)|instance.?norm|batch of (size )?(one|1)"
    r"|vmap"
    r"|statistics|batch.?norm.{0,60}(mean|variance|over)|(size|sets?) (of )?(one|1)\b|layer.?norm",
)
def loss_of_each_example(case):
    loss, params, support, query = given(case)

    def mean_loss(p, x, y):
        return jnp.mean(jax.vmap(lambda a, b: loss(p, a[None], b[None]))(x, y))

    def meta_loss(p):
        return jnp.mean(jax.vmap(lambda s, q: mean_loss(adapt(case, mean_loss, p, s), *q))(support, query))

    return answer(meta_loss, params)


@wrong(
    "Nested vmaps evaluate the query loss of every task at the adapted parameters of every task, all T x T pairs, and "
    "average them, where each task's own belong together (right for T = 1).",
    r"pair|cross(?!.?entropy)|T ?[x×*²]|T\^?2|every (other )?task|all (the )?(tasks|query|queries)|other tasks?('s"
    r"|s')?|each other"
    r"|another task|outer product|all combin|pooled quer|(union|whole) of (the )?quer|mix\w* (up )?(the )?tasks"
    r"|nested|broadcast",
    tells_loss=False,
)
def all_pairs_of_tasks(case):
    loss, params, support, query = given(case)

    def meta_loss(p):
        adapted = jax.vmap(lambda s: adapt(case, loss, p, s))(support)
        on_all = jax.vmap(loss, in_axes=(None, 0, 0))
        return jnp.mean(jax.vmap(on_all, in_axes=(0, None, None))(adapted, *query))

    return answer(meta_loss, params)


@wrong(
    "The inner gradients are averaged over the tasks (lax.pmean inside of the vmapped inner loop), so all tasks share "
    "one adaptation to the mean support loss.",
    r"pmean|all.?reduce|averag\w*.{0,40}inner|inner.{0,60}averag|share|joint|mean (of the )?(support|inner)"
    r"|same (adapted|θ|theta|adaptation|fast)"
    r"|common|pooled|synchron|mean over (the )?tasks (in|of the (inner|support))|(across|over"
    r"|between) tasks.{0,30}inner"
    r"|inner.{0,60}(across|over|of|between) (all )?(the )?tasks|one adaptation",
)
def inner_gradients_reduced(case):
    loss, params, support, query = given(case)

    def meta_loss(p):
        def one(s, q):
            theta = p
            for _ in range(case.inner_steps):
                grads = lax.pmean(jax.grad(loss)(theta, *s), "task")
                theta = step(theta, grads, case.inner_lr)
            return loss(theta, *q)

        return jnp.mean(jax.vmap(one, axis_name="task")(support, query))

    return answer(meta_loss, params)


class ByShape:
    """A batch that jit may take as a static argument."""

    def __init__(self, batch):
        self.batch = batch

    def __hash__(self):
        return hash(tuple(a.shape for a in self.batch))

    def __eq__(self, other):
        return tuple(a.shape for a in self.batch) == tuple(a.shape for a in other.batch)


@wrong(
    "The support set is a static argument of a jitted function and is hashed and compared by its shapes only: the "
    "compiled program of the first task, with its data baked in, is used for all: every task adapts to the first's.",
    r"first task|task (0|one|1)\b|same support|cache|static|baked|jit|support (set |data )?of (the |one "
    r"|task )?(first|another|other|0|one)"
    r"|index(ed)? (\w+ )?0|one task'?s support|(every|all|each) tasks? (use|adapt|share|get|see)|xs?\[0\]"
    r"|shared support",
)
def static_by_shape(case):
    loss, params, support, query = given(case)

    @functools.partial(jax.jit, static_argnums=1)
    def adapted(p, static):
        return adapt(case, loss, p, static.batch)

    def meta_loss(p):
        tasks = range(case.tasks)
        return sum(loss(adapted(p, ByShape(task(support, t))), *task(query, t)) for t in tasks) / case.tasks

    return answer(meta_loss, params)


@wrong(
    "The tasks are padded to a multiple of four, for devices, by repeating the last one, and the mean is taken over "
    "the padded tasks: the last task weighs more (right for T = 1 and T = 4).",
    r"padd?(ed|ing|s)?\b|repeat|duplicat|last task|weighs|weigh(t?ed|ting)|more weight|weights? of the task"
    r"|multiple of|device|shard|counted (twice|more|several)|unequal|unevenly|more than once"
    r"|replicat",
    tells_loss=False,
)
def padded_for_devices(case):
    loss, params, support, query = given(case)
    missing = -case.tasks % 4

    def padded(a):
        return jnp.pad(a, [(0, missing)] + [(0, 0)] * (a.ndim - 1), mode="edge")

    support, query = jax.tree.map(padded, (support, query))

    def meta_loss(p):
        return jnp.mean(jax.vmap(lambda s, q: loss(adapt(case, loss, p, s), *q))(support, query))

    return answer(meta_loss, params)


# Derivatives that are declared or stopped


@wrong(
    "The custom_vjp of the whole inner loop pulls the cotangent back through one step only, taken at theta_K, as for a "
    "fixed point (one-step differentiation, Jacobian-free): (I - alpha H(theta_K)) g_q in place of all K factors.",
    r"(one|single|1)[\s-](step|factor)|only (one|a single|the last)|fixed.?point|jacobian.?free|(H"
    r"|hess\w*).{0,20}(θ_?K\b|θ_?K\)|theta_?K)|equilibrium"
    r"|truncat|last (step|factor|point|iterate)|adapted (param|point)|final (param|point|iterate)|(other"
    r"|K ?[-−] ?1) factors",
)
def one_step_differentiation(case):
    def one(loss, params, support, query):
        @jax.custom_vjp
        def solve(p):
            return adapt(case, loss, p, support)

        def backward(theta, v):
            one_step = lambda p: step(p, jax.grad(loss)(p, *support), case.inner_lr)  # noqa: E731
            return jax.vjp(one_step, theta)[1](v)

        solve.defvjp(lambda p: (solve(p),) * 2, backward)
        return loss(solve(params), *query)

    return over_tasks(case, one)


@wrong(
    "In the first half of the inner steps (k < K // 2) the gradient is behind stop_gradient, a left-over of "
    "derivative-order annealing: their factors I - alpha H_k are missing (wrong for K >= 2).",
    r"half|early|earlier|first (few|steps|step|inner)|first.?order|anneal|truncat|k ?< ?K|stop.?grad.{0,60}(steps?|k)"
    r"|some (of the )?steps"
    r"|detach|last (few |two )?steps only|only the last|H_?0|H₀",
    tells_loss=False,
)
def annealed_order(case):
    def one(loss, params, support, query):
        theta = params
        for k in range(case.inner_steps):
            grads = jax.grad(loss)(theta, *support)
            if k < case.inner_steps // 2:
                grads = lax.stop_gradient(grads)
            theta = step(theta, grads, case.inner_lr)
        return loss(theta, *query)

    return over_tasks(case, one)


# Precision, layers and losses


@wrong(
    "The inner rate is an array of bfloat16, so alpha is rounded to 8 bits.",
    r"bfloat|bf16|half.?prec|16.?bit|rounded|precision|float.?16|inner (learning )?rate|(value|size) of (α|alpha)"
    r"|α (is|has|was)|cast|8 bits"
    r"|quanti|learning.?rate|(other|another|different|wrong) (α|alpha|rate)",
)
def rate_in_bfloat16(case):
    rate = jnp.asarray(case.inner_lr, jnp.bfloat16)

    def one(loss, params, support, query):
        theta = params
        for _ in range(case.inner_steps):
            theta = step(theta, jax.grad(loss)(theta, *support), rate)
        return loss(theta, *query)

    return over_tasks(case, one)


class SoftmaxOverExamples(models.JAX):
    def cross_entropy(self, o, y):
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(o, axis=0), y[:, None], 1))


@wrong(
    "The log-softmax of the cross-entropy is taken over axis 0, the examples, and not over the classes.",
    r"axis|over (the )?(examples|batch|samples|N\b|rows)|batch dimension|(wrong|other|first) dim|normali[sz]\w* (over"
    r"|across|along)"
    r"|across (the )?(examples|batch|samples)|not (over )?(the )?classes",
    tells_loss=False,
)
def softmax_over_examples(case):
    return plain(case, SoftmaxOverExamples())


# Two at once


class SameLower(models.JAX):
    def conv(self, x, w, stride, padding):
        padding = "SAME_LOWER" if padding == "SAME" else padding
        return super().conv(x, w, stride, padding)


@wrong(
    "The inner rate decays, alpha 0.9^k in step k (wrong for K >= 2); and SAME padding puts the odd row and column of "
    "zeros above and on the left (SAME_LOWER) and not below and on the right.",
    r"decay|schedul|0\.9|anneal|shrink|(rate|α|alpha)\w*.{0,40}(falls|decreas|smaller|each step|per step|every step"
    r"|step by step)|αₖ|α_k"
    r"|geometric",
    r"padd?(ed|ing|s)?\b|SAME_LOWER|\btop\b|above|on the left|zeros",
)
def decaying_rate_and_padding_above(case):
    def one(loss, params, support, query):
        theta = params
        for k in range(case.inner_steps):
            theta = step(theta, jax.grad(loss)(theta, *support), case.inner_lr * 0.9**k)
        return loss(theta, *query)

    return over_tasks(case, one, SameLower())


@wrong(
    "Of jax.jvp of the gradient the primal output is used as the Hessian-vector product, so the support gradient g_k "
    "is subtracted in place of H_k v; and the tasks are summed, not averaged.",
    r"primal|jvp|(support|inner) (loss'?s? )?gradient\w*.{0,60}(in place|instead|subtract|added|for|as|where|rather)"
    r"|g_s.{0,30}(in place|instead|subtract)"
    r"|(in place|instead) of (the )?(H|hess)|θ_?K ?[-−] ?θ|reptile|[-−] ?(α|alpha) ?(Σ|sum).{0,8}(g|∇)",
    r"sum(med|s)?\b[\w ]*(task|batch)|(task|mean)[\w ,]* sum|not (averaged|divided)|not averag|(no|without"
    r"|missing) (the |an )?(averag|mean)|times T\b|factor (of )?T\b|1/T"
    r"|number of tasks|divi(ded|sion|de) by T",
    tells_loss=False,
)
def primal_output_and_sum(case):
    loss, params, support, query = given(case)

    def one(s, q):
        thetas = path(case, loss, params, s)
        value, v = jax.value_and_grad(loss)(thetas[-1], *q)
        for theta in reversed(thetas[:-1]):
            product, _ = jax.jvp(lambda p: jax.grad(loss)(p, *s), (theta,), (v,))
            v = step(v, product, case.inner_lr)
        return value, v

    values, grads = jax.jit(jax.vmap(one))(support, query)
    return {"meta_grad": jax.tree.map(lambda g: jnp.sum(g, 0), grads), "meta_loss": jnp.sum(values)}


@wrong(
    "The query loss is taken at the last of the parameters that the scan stacked before each update, theta_{K-1}: one "
    "inner step too few; and each step sees a mini-batch of two examples of the support set only.",
    r"one (inner )?(step|update|iteration) (too few|less|short|fewer|missing)|K ?[-−] ?1|last (inner )?(step|update)"
    r"|off.?by.?one"
    r"|too few|fewer steps|before the (last )?update|θ_?\{?K[-−]1",
    r"mini.?batch|two examples|subset|batches? of (two|2)|(part|slice|rows|some|few|half) of the (support|examples)"
    r"|fewer examples"
    r"|sub.?sampl|stochastic|not (the )?(whole|full|all)|two (rows|samples)|first (two|few|2) (examples|rows|samples)"
    r"|support.{0,60}(subset|dropped|missing|left out)",
)
def stacked_too_early_and_minibatches(case):
    loss, params, support, query = given(case)

    def meta_loss(p):
        def one(s, q):
            size = min(2, s[0].shape[0])

            def body(theta, k):
                batch = tuple(lax.dynamic_slice_in_dim(a, k * size, size) for a in s)
                return step(theta, jax.grad(loss)(theta, *batch), case.inner_lr), theta

            _, thetas = lax.scan(body, p, jnp.arange(case.inner_steps))
            return loss(jax.tree.map(lambda a: a[-1], thetas), *q)

        return jnp.mean(jax.vmap(one)(support, query))

    return answer(meta_loss, params)


# Right ones


@correct("Forward mode: jacfwd through a while_loop, with the number of steps in the carry.")
def forward_through_while(case):
    loss, params, support, query = given(case)

    def meta_loss(p):
        def one(s, q):
            def body(carry):
                k, theta = carry
                return k + 1, step(theta, jax.grad(loss)(theta, *s), case.inner_lr)

            return loss(lax.while_loop(lambda carry: carry[0] < case.inner_steps, body, (0, p))[1], *q)

        return jnp.mean(jax.vmap(one)(support, query))

    return {"meta_grad": jax.jit(jax.jacfwd(meta_loss))(params), "meta_loss": jax.jit(meta_loss)(params)}


@correct("A custom_vjp of each inner step, its backward a product by hand; the steps in a scan with checkpoints.")
def custom_step_in_a_scan(case):
    loss, params, support, query = given(case)

    @jax.custom_vjp
    def one_step(theta, s):
        return step(theta, jax.grad(loss)(theta, *s), case.inner_lr)

    def backward(saved, v):
        theta, s = saved
        return step(v, hvp(loss, theta, s, v), case.inner_lr), None

    one_step.defvjp(lambda theta, s: (one_step(theta, s), (theta, s)), backward)

    def meta_loss(p):
        def one(data):
            s, q = data
            body = jax.checkpoint(lambda theta, _: (one_step(theta, s), None))
            return loss(lax.scan(body, p, length=case.inner_steps)[0], *q)

        return jnp.mean(lax.map(one, (support, query)))

    return answer(meta_loss, params)


@correct("Flat vectors of ravel_pytree throughout; the inner step is linearised and transposed; losses scaled by 2^10.")
def linearised_and_transposed(case):
    loss, params, support, query = given(case)
    start, unravel = ravel_pytree(params)

    def one(s, q):
        inner = lambda z: z - case.inner_lr * jax.grad(lambda u: loss(unravel(u), *s))(z)  # noqa: E731
        theta, steps = start, []
        for _ in range(case.inner_steps):
            theta, linear = jax.linearize(inner, theta)
            steps.append(linear)
        value, v = jax.value_and_grad(lambda z: 1024 * loss(unravel(z), *q))(theta)
        for linear in reversed(steps):
            (v,) = jax.linear_transpose(linear, start)(v)
        return value / 1024, v / 1024

    of_task = jax.jit(one)
    pairs = [of_task(task(support, t), task(query, t)) for t in reversed(range(case.tasks))]
    values, grads = zip(*pairs, strict=True)
    return {"meta_grad": unravel(sum(grads) / case.tasks), "meta_loss": sum(values) / case.tasks}


@correct("One copy of theta for each task in a stack, the inner gradients of all tasks from one sum of losses.")
def stacked_copies(case):
    loss, params, support, query = given(case)
    of_each = jax.vmap(loss)

    def meta_loss(p):
        copies = jax.tree.map(lambda a: jnp.broadcast_to(a, (case.tasks, *a.shape)), p)
        for _ in range(case.inner_steps):
            copies = step(copies, jax.grad(lambda c: jnp.sum(of_each(c, *support)))(copies), case.inner_lr)
        return jnp.mean(of_each(copies, *query))

    return answer(meta_loss, params)
