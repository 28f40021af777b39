"""MAML in PyTorch: wrong in ways that its authors need not have foreseen, and right in forms that look odd."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from tinymaml.oracle import models

from ..entries import correct, wrong
from ..in_torch import (
    adapt,
    answer,
    dot,
    flatten,
    given,
    grads_of,
    hvp,
    leaves,
    over_tasks,
    path,
    plain,
    step,
    unflatten,
)

LOSSES = ("mse", "half_mse", "cross_entropy", "binary_cross_entropy")


def mean_of(case, one, layers=None):
    """The mean over tasks of one(loss, θ, support, query) → (meta-loss, gradient)."""
    loss, params, tasks = given(case, layers)
    pairs = [one(loss, params, s, q) for s, q in tasks]
    grads = {n: sum(g[n] for _, g in pairs) / len(pairs) for n in params}
    return {"meta_grad": grads, "meta_loss": sum(value for value, _ in pairs) / len(pairs)}


def query_grad(loss, theta, query):
    """L_q(θ) and its gradient, constants."""
    value = loss(theta, *query)
    return value.detach(), grads_of(value, theta, create_graph=False)


def reverse(case, hv):
    """MAML by v ← v − α hv(loss, θ_k, support, v), from the query gradient back to θ₀."""

    def one(loss, params, support, query):
        *before, last = path(case, loss, params, support)
        value, v = query_grad(loss, last, query)
        for at in reversed(before):
            v = step(v, hv(loss, at, support, v), case.inner_lr)
        return value, v

    return mean_of(case, one)


def with_losses(**changed):
    """Layers whose losses are changed(o, y, right)."""
    layers = models.Torch()
    for name, loss in changed.items():
        right = getattr(layers, name)
        setattr(layers, name, lambda o, y, loss=loss, right=right: loss(o, y, right))
    return layers


def padded(x, w, stride, padding, more_after=True):
    """Images as PyTorch has them, (N, C, H, W), with zeros around; of an odd number more go after, or before."""
    around = []
    for n, k in ((x.shape[2], w.shape[1]), (x.shape[1], w.shape[0])):
        if padding == "SAME":
            total = max((-(-n // stride) - 1) * stride + k - n, 0)
            few, many = total // 2, total - total // 2
            around += [few, many] if more_after else [many, few]
        else:
            around += [0, 0] if padding == "VALID" else [padding, padding]
    return F.pad(x.permute(0, 3, 1, 2), around)


# The inner loop.


@wrong(
    "A gradient hook on the meta-parameters, meant to average the outer gradient over the T tasks, fires in the "
    "inner autograd.grad too, so the first inner step is taken with α/T.",
    r"hook|first (inner )?(step|update|gradient)|(rate|gradient|loss|step).{0,60}(divided|/ ?T\b|number of tasks)|"
    r"1/T|α/T",
    tells_loss=False,
)
def hook_fires_inside(case):
    loss, params, tasks = given(case)
    params = leaves(params)
    for p in params.values():
        p.register_hook(lambda g: g / len(tasks))
    total = sum(loss(adapt(case, loss, params, s), *q) for s, q in tasks)
    return {"meta_grad": grads_of(total, params, create_graph=False), "meta_loss": total.detach() / len(tasks)}


@wrong(
    "The tasks are adapted together on stacked copies, but their inner loss is the mean over tasks, so each task's "
    "inner gradient is divided by T: the inner rate is α/T.",
    r"(rate|gradient|loss|step|α).{0,60}(divided|/ ?T\b|number of tasks|over (the )?tasks|mean over)|1/T|α/T",
)
def stacked_with_inner_mean(case):
    loss, params, tasks = given(case)
    fast = {n: p.expand(len(tasks), *p.shape) for n, p in params.items()}

    def mean_loss(fast, which):
        every = [loss({n: p[t] for n, p in fast.items()}, *task[which]) for t, task in enumerate(tasks)]
        return torch.stack(every).mean()

    for _ in range(case.inner_steps):
        fast = step(fast, grads_of(mean_loss(fast, 0), fast), case.inner_lr)
    return answer(mean_loss(fast, 1), params)


@wrong(
    "Within an inner step the parameters are updated one after the other, and the gradient of each is taken after "
    "the earlier ones have already moved (Gauss-Seidel instead of one simultaneous step).",
    r"one (after|at a time|by one)|Gauss|sequential|simultaneous|already (been )?(updated|moved|adapted)|in turn|"
    r"coordinate|updated (values|parameters)",
)
def one_optimizer_per_layer(case):
    def one(loss, params, support, query):
        fast = dict(params)
        for _ in range(case.inner_steps):
            for name in fast:
                at = {n: p.view_as(p) for n, p in fast.items()}  # the gradient stops at these
                g = grads_of(loss(at, *support), {name: at[name]})
                fast[name] = fast[name] - case.inner_lr * g[name]
        return loss(fast, *query)

    return over_tasks(case, one)


@wrong(
    "The query loss is taken at the average of the inner loop's iterates θ₁ … θ_K (as of stochastic weight "
    "averaging), not at θ_K.",
    r"averag|\bmean of (the )?(θ|iterat|param|all|inner|traject)|SWA|Polyak|not (at|the) (θ_K|the last|last)|"
    r"earlier (θ|iterat|param)",
    tells_loss=False,
)
def averaged_weights(case):
    def one(loss, params, support, query):
        total = {n: torch.zeros_like(p) for n, p in params.items()}
        for _ in range(case.inner_steps):
            params = step(params, grads_of(loss(params, *support), params), case.inner_lr)
            total = {n: total[n] + p for n, p in params.items()}
        return loss({n: p / case.inner_steps for n, p in total.items()}, *query)

    return over_tasks(case, one)


@wrong(
    "Each inner step sees only its own minibatch, one of K parts of the support set, instead of the whole set.",
    r"mini-?batch|part of|subset|chunk|half of|whole (support )?set|some (of the )?examples|only .{0,30}examples|"
    r"different (examples|batch)|all (the )?examples",
)
def a_minibatch_per_step(case):
    def one(loss, params, support, query):
        parts = list(zip(*(a.chunk(case.inner_steps) for a in support), strict=True))
        for k in range(case.inner_steps):
            params = step(params, grads_of(loss(params, *parts[k % len(parts)]), params), case.inner_lr)
        return loss(params, *query)

    return over_tasks(case, one)


@wrong(
    "Every inner step starts at θ₀ again: θₖ₊₁ = θ₀ − α ∇L_s(θₖ), so only the last gradient counts as a displacement.",
    r"(from|at|to|of) (θ₀|theta_?0|θ|the (initial|meta|original|first))|initial|only the last (gradient|step)|"
    r"not (accumulate|from θₖ)|instead of (θₖ|the current)",
    tells_loss=False,
)
def subtracts_from_the_initial(case):
    def one(loss, params, support, query):
        fast = params
        for _ in range(case.inner_steps):
            fast = step(params, grads_of(loss(fast, *support), fast), case.inner_lr)
        return loss(fast, *query)

    return over_tasks(case, one)


@wrong(
    "The inner gradient is clipped to the norm 1, which the inner loop of MAML does not do.",
    r"clip|norm|rescal|limit|bounded|shorten",
)
def clips_the_inner_gradient(case):
    def one(loss, params, support, query):
        for _ in range(case.inner_steps):
            g = grads_of(loss(params, *support), params)
            factor = (1 / (flatten(g).detach().norm() + 1e-6)).clamp(max=1)
            params = step(params, {n: a * factor for n, a in g.items()}, case.inner_lr)
        return loss(params, *query)

    return over_tasks(case, one)


@wrong(
    "The query pass takes the biases and other vectors from the module, not from the adapted dict: they adapt in the "
    "inner loop, but the query loss sees them at θ₀.",
    r"bias|vector|1-?D|gamma|(not|un)[- ]?adapted|(θ₀|initial|meta|original|unadapted).{0,60}query|"
    r"query.{0,60}(θ₀|initial|meta|original|unadapted)",
    tells_loss=False,
)
def query_with_old_biases(case):
    def one(loss, params, support, query):
        fast = adapt(case, loss, params, support)
        return loss({n: p if p.ndim < 2 and len(params) > 1 else fast[n] for n, p in params.items()}, *query)

    return over_tasks(case, one)


# The derivative.


@wrong(
    "In the last step's Hessian-vector product the vector, the query gradient, is not detached: it depends on the "
    "parameters too, and its own derivative times the support gradient is added.",
    r"detach|vector.{0,40}(constant|depend|differentiat)|(derivative|differentiat).{0,50}vector|constant|"
    r"also differentiat|product rule|extra term",
)
def hvp_of_a_moving_vector(case):
    def one(loss, params, support, query):
        *before, at, _ = path(case, loss, params, support)
        g = grads_of(loss(at, *support), at)
        last = step(at, g, case.inner_lr)
        value = loss(last, *query)
        v = grads_of(value, last)
        v = step(v, grads_of(dot(g, v), at, create_graph=False), case.inner_lr)
        for at in reversed(before):
            v = step(v, hvp(loss, at, support, v), case.inner_lr)
        return value.detach(), {n: a.detach() for n, a in v.items()}

    return mean_of(case, one)


@wrong(
    "The Jacobian of the inner loop is applied forward (a jvp) instead of transposed (a vjp): the factors I − αHₖ "
    "are multiplied in the wrong order.",
    r"order|transpos|forward|jvp|revers",
    tells_loss=False,
)
def jvp_for_vjp(case):
    def one(loss, params, support, query):
        *before, last = path(case, loss, params, support)
        value, v = query_grad(loss, last, query)
        for at in before:
            v = step(v, hvp(loss, at, support, v), case.inner_lr)
        return value, v

    return mean_of(case, one)


@wrong(
    "The second derivative is taken as the gradient of the gradient's sum, times the vector elementwise: row sums of "
    "the Hessian in place of the Hessian-vector product.",
    r"row[- ]?sum|sum.{0,30}(gradient|Hessian|row|column)|elementwise|element-wise|diagonal|(vector of|all) ones",
)
def grad_of_the_sum(case):
    def row_sums_times(loss, at, support, v):
        at = leaves(at)
        total = sum(g.sum() for g in grads_of(loss(at, *support), at).values())
        second = grads_of(total, at, create_graph=False)
        return {n: second[n] * v[n] for n in v}

    return reverse(case, row_sums_times)


@wrong(
    "Each parameter's second derivative is taken with respect to itself alone: the Hessian is block-diagonal, the "
    "mixed terms between different parameters are missing.",
    r"block|mixed|cross|off-diagonal|between (different )?(parameters|layers)|(own|same) parameter|by itself",
    tells_loss=False,
)
def a_hessian_per_parameter(case):
    def blocks(loss, at, support, v):
        out = {}
        for name in at:
            own = {name: at[name].detach().clone().requires_grad_()}
            g = grads_of(loss({**at, **own}, *support), own)
            out |= grads_of((g[name] * v[name]).sum(), own, create_graph=False) if g[name].requires_grad else g
        return out

    return reverse(case, blocks)


@wrong(
    "The Hessian-vector product is that of the Gauss-Newton matrix JᵀH_oJ: the second derivative of the network's "
    "output is left out.",
    r"Gauss|Newton|Fisher|generali[sz]ed|curvature|second derivative.{0,40}(output|network|model|layer)|linear",
)
def gauss_newton(case):
    class Outputs(models.Torch):
        def __init__(self):
            super().__init__()
            for name in LOSSES:
                setattr(self, name, lambda o, y: o)

    outputs, tail = models.loss_in(Outputs(), case.model), case.model["loss"]

    def product(loss, at, support, v):
        at = leaves(at)
        o = outputs(at, *support)
        u = torch.zeros_like(o, requires_grad=True)
        jv = grads_of(dot(grads_of((o * u).sum(), at), v), {"u": u}, create_graph=False)["u"]
        o2 = {"o": o.detach().requires_grad_()}
        value = o2["o"] if tail == "mean" else getattr(models.Torch(), tail)(o2["o"], support[1])
        g = grads_of(value, o2)["o"]
        hjv = grads_of((g * jv).sum(), o2, create_graph=False)["o"] if g.requires_grad else torch.zeros_like(o)
        return grads_of((o * hjv).sum(), at, create_graph=False)

    return reverse(case, product)


@wrong(
    "The function of the Hessian-vector product is built once, with the first task's support set, and used for all "
    "tasks.",
    r"first task|(another|other|wrong|same|one) task|cache|every task|all tasks",
    tells_loss=False,
)
def hvp_built_once(case):
    _, _, tasks = given(case)
    return reverse(case, lambda loss, at, support, v: hvp(loss, at, tasks[0][0], v))


@wrong(
    "The activations are an autograd.Function that saves its slope in the forward pass, so that the slope is a "
    "constant in the second derivative: the activations' curvature is missing.",
    r"activation|tanh|softplus|nonlinear|slope|curvature|second derivative|double backward|constant",
)
def slope_saved_in_forward(case):
    class Saved(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, kind):
            if kind == "tanh":
                y = torch.tanh(x)
                ctx.slope = 1 - y * y
            else:
                y, ctx.slope = F.softplus(x, threshold=40), torch.sigmoid(x)
            return y

        @staticmethod
        def backward(ctx, g):
            return g * ctx.slope, None

    layers = models.Torch()
    layers.tanh = lambda x: Saved.apply(x, "tanh")
    layers.softplus = lambda x: Saved.apply(x, "softplus")
    return plain(case, layers)


@wrong(
    "The loss is a fused autograd.Function whose gradient is computed in the forward pass and is a constant for the "
    "double backward: the loss's own second derivative with respect to the output is missing.",
    r"loss.{0,60}(second|curvature|Hessian|deriv|constant)|(second|curvature|Hessian|constant).{0,60}(loss|residual|"
    r"error|output|softmax)|fused|double backward|detach",
    tells_loss=False,
)
def fused_loss(case):
    class Fused(torch.autograd.Function):
        @staticmethod
        def forward(ctx, o, y, right):
            with torch.enable_grad():
                at = o.detach().requires_grad_()
                value = right(at, y)
                (ctx.slope,) = torch.autograd.grad(value, at)
            return value.detach()

        @staticmethod
        def backward(ctx, g):
            return g * ctx.slope, None, None

    return plain(case, with_losses(**dict.fromkeys(LOSSES, Fused.apply)))


@wrong(
    "The adapted biases and other vectors are wrapped in a new nn.Parameter, which cuts them from the graph: nothing "
    "flows back through their updates.",
    r"bias|vector|detach|cut|graph|1-?D|one[- ]dim|gamma|some parameters|nn\.Parameter|not differentiated|"
    r"(stop|lost|lose|missing).{0,30}gradient",
    tells_loss=False,
)
def rewraps_the_biases(case):
    def one(loss, params, support, query):
        for _ in range(case.inner_steps):
            new = step(params, grads_of(loss(params, *support), params), case.inner_lr)
            params = {n: torch.nn.Parameter(p) if p.ndim == 1 and len(new) > 1 else p for n, p in new.items()}
        return loss(params, *query)

    return over_tasks(case, one)


@wrong(
    "To save memory the inner loop's parameters are kept in bfloat16 for the backward sweep, so the Hessians are "
    "taken at coarsely rounded points.",
    r"bfloat|half|precision|round|(float|fewer) ?(16|digits|bits)|coarse|imprecise|wrong (point|parameters)",
)
def trajectory_in_bfloat16(case):
    def product(loss, at, support, v):
        kept = {n: p.detach().to(torch.bfloat16).to(p.dtype) for n, p in at.items()}
        return hvp(loss, kept, support, v)

    return reverse(case, product)


@wrong(
    "The Hessian-vector product is a one-sided finite difference of gradients with ε = 10⁻³, not exact.",
    r"finite|difference|one-sided|approximat|truncation",
    tells_loss=False,
)
def one_sided_difference(case):
    def product(loss, at, support, v):
        near = {n: p + 1e-3 * v[n] for n, p in at.items()}
        g0, g1 = (grads_of(loss(p, *support), p, create_graph=False) for p in (leaves(at), leaves(near)))
        return {n: (g1[n] - g0[n]) / 1e-3 for n in at}

    return reverse(case, product)


@wrong(
    "An inner step is an autograd.Function that updates its buffer in place and saves it after the update: its "
    "backward takes the Hessian at θₖ₊₁ instead of θₖ.",
    r"θₖ₊₁|theta_?\(?k ?\+ ?1|k ?\+ ?1|after the (update|step)|(next|updated|new|following|later) (point|parameters|θ|"
    r"theta|step)|off by one|one (step )?(late|too far|further)|wrong point|in.?place",
)
def saves_after_the_update(case):
    class Update(torch.autograd.Function):
        @staticmethod
        def forward(ctx, vector, gradient_at, product_at):
            buffer = vector.detach().clone()
            buffer.sub_(case.inner_lr * gradient_at(buffer))
            ctx.save_for_backward(buffer)
            ctx.product_at = product_at
            return buffer.clone()

        @staticmethod
        def backward(ctx, v):
            (at,) = ctx.saved_tensors
            return v - case.inner_lr * ctx.product_at(at, v), None, None

    def one(loss, params, support, query):
        def gradient_at(vector):
            with torch.enable_grad():
                at = leaves(unflatten(vector, params))
                return flatten(grads_of(loss(at, *support), at, create_graph=False))

        def product_at(vector, v):
            with torch.enable_grad():
                return flatten(hvp(loss, unflatten(vector, params), support, unflatten(v, params)))

        vector = flatten(params)
        for _ in range(case.inner_steps):
            vector = Update.apply(vector, gradient_at, product_at)
        return loss(unflatten(vector, params), *query)

    return over_tasks(case, one)


@wrong(
    "The inner loop runs backward(create_graph=True) and the meta-parameters' .grad is not cleared before the outer "
    "backward: the gradients of the support losses are added to the meta-gradient.",
    r"zero_?grad|accumulat|clear|\.grad|(support|inner).{0,50}(added|gradient|left|too|as well)|(added|plus|sum).{0,50}"
    r"(support|inner)",
)
def inner_backward_is_left_in_grad(case):
    loss, params, tasks = given(case)
    params, total = leaves(params), 0.0
    for support, query in tasks:
        fast = {n: p.clone() for n, p in params.items()}
        for _ in range(case.inner_steps):
            for p in fast.values():
                p.retain_grad()
            loss(fast, *support).backward(create_graph=True)
            fast = {n: p if p.grad is None else p - case.inner_lr * p.grad for n, p in fast.items()}
        total = total + loss(fast, *query) / len(tasks)
    total.backward()
    return {"meta_grad": {n: p.grad.detach().clone() for n, p in params.items()}, "meta_loss": total.detach()}


# Losses.


@wrong(
    "The output is squeezed to (N,) while the targets stay (N, 1): the difference broadcasts to (N, N), every output "
    "against every target.",
    r"broadcast|squeeze|\(N, ?N\)|every (target|output|pair)|all pairs|each target|shape",
)
def squeezed_outputs(case):
    def mse(o, y, right):
        return right(o.squeeze(-1), y)

    return plain(case, with_losses(mse=mse, half_mse=mse))


@wrong(
    "The network ends in softmax (or sigmoid), although the loss expects logits: the probabilities are squashed a "
    "second time.",
    r"softmax|sigmoid|logits|twice|probabilit|second time|double",
    tells_loss=False,
)
def probabilities_for_logits(case):
    return plain(
        case,
        with_losses(
            cross_entropy=lambda o, y, right: right(torch.softmax(o, -1), y),
            binary_cross_entropy=lambda o, y, right: right(torch.sigmoid(o), y),
        ),
    )


@wrong(
    "The cross-entropy is kl_div of one-hot targets with reduction='mean', which divides by the number of classes too.",
    r"kl_?div|batchmean|(number of )?classes|N ?[·*] ?C|1/C|/ ?C\b|over (all )?(elements|entries)|divided",
)
def kl_div_mean(case):
    def cross_entropy(o, y, right):
        one_hot = F.one_hot(y.long(), o.shape[-1]).to(o.dtype)
        return (one_hot * -F.log_softmax(o, -1)).mean()

    return plain(case, with_losses(cross_entropy=cross_entropy))


@wrong(
    "The squared error is replaced by smooth L1 (Huber): residuals beyond 1 count linearly.",
    r"huber|smooth|L1|linear(ly)?|absolute|robust|large (residual|error)",
    tells_loss=False,
)
def smooth_l1(case):
    return plain(
        case,
        with_losses(
            mse=lambda o, y, right: 2 * F.smooth_l1_loss(o, y), half_mse=lambda o, y, right: F.smooth_l1_loss(o, y)
        ),
    )


@wrong(
    "The cross-entropy takes log(p + 10⁻⁵) of the probabilities: an ε inside of the logarithm.",
    r"log ?\(|epsilon|ε|logarithm|1e-0?5|10⁻|inside|eps\b|stabili",
)
def epsilon_in_the_log(case):
    def cross_entropy(o, y, right):
        p = torch.softmax(o, -1).gather(1, y.long()[:, None])
        return -torch.log(p + 1e-5).mean()

    def binary(o, y, right):
        p = torch.sigmoid(o)
        return -(y * torch.log(p + 1e-5) + (1 - y) * torch.log(1 - p + 1e-5)).mean()

    return plain(case, with_losses(cross_entropy=cross_entropy, binary_cross_entropy=binary))


# Layers.


@wrong(
    "An odd number of zeros of the padding SAME is put more above and left, instead of below and right.",
    r"pad|SAME|zeros|(top|above|left)|asymmetr|shift",
)
def same_padding_the_other_way(case):
    class Layers(models.Torch):
        def conv(self, x, w, stride, padding):
            x = padded(x, w, stride, padding, more_after=False)
            return F.conv2d(x, w.permute(3, 2, 0, 1), stride=stride).permute(0, 2, 3, 1)

    return plain(case, Layers())


@wrong(
    "Support and query go through the adapted network in one batch, so batch normalisation of the query set uses the "
    "statistics of both sets.",
    r"both|joint|together|concatenat|one batch|union|transduct|combined|statistic|support.{0,40}normali",
    tells_loss=False,
)
def one_pass_for_both_sets(case):
    n = 0
    layers = with_losses(**dict.fromkeys(LOSSES, lambda o, y, right: right(o[n:], y)))

    def one(loss, params, support, query):
        nonlocal n
        n = 0
        params = adapt(case, loss, params, support)
        if case.model["loss"] == "mean":
            return loss(params, *query)
        n = len(support[0])
        return loss(params, torch.cat([support[0], query[0]]), query[1])

    return over_tasks(case, one, layers)


# The data, the tasks and the way out.


@wrong(
    "As in federated averaging, the adapted parameters are averaged over the tasks, and every query loss is taken at "
    "that average instead of at its own task's θ_K.",
    r"averag|federat|mean of (the )?(adapted|fast|θ_K|param)|"
    r"(own|other|all|every|shared|same|common|joint).{0,40}(task|param|θ)|mix",
)
def federated_average(case):
    loss, params, tasks = given(case)
    every = [adapt(case, loss, params, support) for support, _ in tasks]
    mean = {n: sum(fast[n] for fast in every) / len(every) for n in params}
    return answer(sum(loss(mean, *query) for _, query in tasks) / len(tasks), params)


@wrong(
    "Gradient surgery (PCGrad) is left on: before the mean, each task's meta-gradient loses its component against "
    "those of tasks with which it conflicts.",
    r"surgery|PCGrad|project|conflict|component|orthogonal|(task|outer|mean).{0,60}(weight|combin|reduc|averag)",
    tells_loss=False,
)
def gradient_surgery(case):
    loss, params, tasks = given(case)
    values = [loss(adapt(case, loss, params, s), *q) for s, q in tasks]
    every = [flatten(grads_of(value, params)).detach() for value in values]
    mean = torch.zeros_like(every[0])
    for i, g in enumerate(every):
        for j, other in enumerate(every):
            if j != i and g @ other < 0:
                g = g - (g @ other) / (other @ other) * other
        mean += g / len(every)
    return {"meta_grad": unflatten(mean, params), "meta_loss": sum(values).detach() / len(values)}


@wrong(
    "The query losses are closures made in the loop over tasks and called after it: they all see the last task's "
    "query set.",
    r"last (task|query)|(same|one|another|other|wrong|shared).{0,30}query|query.{0,60}(last|another|other|same|wrong|"
    r"shared|different)|clos|late[- ]binding",
)
def late_binding(case):
    loss, params, tasks = given(case)
    later = []
    for support, query in tasks:
        fast = adapt(case, loss, params, support)
        later.append(lambda fast=fast: loss(fast, *query))  # noqa: B023
    return answer(sum(f() for f in later) / len(later), params)


@wrong(
    "The mean over tasks is run as (mean + new)/2, which weights later tasks more: right for two tasks only.",
    r"running|weight|half|(mean|average).{0,60}(task|new|wrong|not)|last task|later tasks|exponential|unequal|1/2|0\.5",
    tells_loss=False,
)
def halving_mean(case):
    loss, params, tasks = given(case)
    mean = None
    for support, query in tasks:
        value = loss(adapt(case, loss, params, support), *query)
        mean = value if mean is None else (mean + value) / 2
    return answer(mean, params)


@wrong(
    "The linear weights are kept as (out, in), and their meta-gradient is brought back by reshape instead of a "
    "transposition.",
    r"transpos|reshape|\(out, ?in\)|layout|order|permut|row-major|column|entries",
)
def reshaped_not_transposed(case):
    class Layers(models.Torch):
        def linear(self, x, w, b=None):
            return F.linear(x, w, b)

    loss, params, tasks = given(case, Layers())
    weights = {layer["params"][0] for layer in case.model["layers"] if layer["layer"] == "linear"}
    module = leaves({n: p.t() if n in weights else p for n, p in params.items()})
    out = answer(sum(loss(adapt(case, loss, module, s), *q) for s, q in tasks) / len(tasks), module)
    return out | {"meta_grad": {n: g.reshape(params[n].shape) for n, g in out["meta_grad"].items()}}


# Two mistakes at once.


@wrong(
    "The inner optimizer is SGD with momentum 0.9, and its velocity is not reset between tasks.",
    r"momentum|velocity|0\.9|heavy",
    r"reset|carr|between (the )?tasks|previous task|(last|former|first|earlier|other) task|leak|"
    r"across tasks|anew|persist",
    tells_loss=False,
)
def velocity_across_tasks(case):
    loss, params, tasks = given(case)
    velocity = {n: torch.zeros_like(p) for n, p in params.items()}
    total = 0.0
    for support, query in tasks:
        fast = params
        for _ in range(case.inner_steps):
            g = grads_of(loss(fast, *support), fast)
            velocity = {n: 0.9 * velocity[n] + g[n] for n in g}
            fast = step(fast, velocity, case.inner_lr)
        total = total + loss(fast, *query)
    return answer(total / len(tasks), params)


@wrong(
    "state_dict() is kept without a copy, so that loading it restores nothing and each task starts from the weights "
    "that the former one adapted; and the gradient is the query gradient at the adapted weights (FOMAML).",
    r"reset|restor|previous task|former|start|carr|between tasks|chain|(last|other|earlier|first) task|sequential|anew",
    r"first[- ]order|FOMAML|second[- ]order|second derivative|Hessian|create_graph|detach",
)
def state_dict_is_a_view(case):
    loss, params, tasks = given(case)
    module = torch.nn.ParameterDict({n: p.detach().clone() for n, p in params.items()})
    weights, total = module.state_dict(), {n: torch.zeros_like(p) for n, p in params.items()}
    meta_loss = 0.0
    for support, query in tasks:
        module.load_state_dict(weights)
        for _ in range(case.inner_steps):
            g = grads_of(loss(module, *support), module, create_graph=False)
            with torch.no_grad():
                for n, p in module.items():
                    p -= case.inner_lr * g[n]
        value, g = query_grad(loss, dict(module), query)
        total, meta_loss = {n: total[n] + g[n] / len(tasks) for n in g}, meta_loss + value / len(tasks)
    return {"meta_grad": {n: g.detach() for n, g in total.items()}, "meta_loss": meta_loss}


@wrong(
    "The filter's rows and columns are swapped in the conversion to PyTorch's layout, and the meta-gradient is the "
    "sum over tasks instead of their mean.",
    r"transpos|swap|rows? and columns?|height and width|(filter|kernel|conv).{0,60}(order|layout|permut|axes)",
    r"\bsum|mean over tasks|not (averaged|divided)|times T|number of tasks|factor.{0,10}T\b",
    tells_loss=False,
)
def swapped_filter_and_summed(case):
    class Layers(models.Torch):
        def conv(self, x, w, stride, padding):
            x = padded(x, w.transpose(0, 1), stride, padding)
            return F.conv2d(x, w.permute(3, 2, 1, 0), stride=stride).permute(0, 2, 3, 1)

    loss, params, tasks = given(case, Layers())
    return answer(sum(loss(adapt(case, loss, params, s), *q) for s, q in tasks), params)


@wrong(
    "create_graph is True only in the last inner step, so the earlier ones are first-order; and a scheduler "
    "multiplies the inner rate by 0.9 after each step.",
    r"last (inner )?step|earlier steps|truncat|create_graph|first[- ]order|only.{0,30}(last|final)|detach|Hessian",
    r"schedul|decay|0\.9|(rate|α).{0,50}(step|smaller|shrink|multipl|change|differ|wrong|other)",
)
def truncated_and_scheduled(case):
    def one(loss, params, support, query):
        rate = case.inner_lr
        for k in range(case.inner_steps):
            g = grads_of(loss(params, *support), params, create_graph=k == case.inner_steps - 1)
            params, rate = step(params, g, rate), 0.9 * rate
        return loss(params, *query)

    return over_tasks(case, one)


@wrong(
    "The inner rate is warmed up, α (k + 1)/K in step k, and the meta-loss adds the support loss after adaptation to "
    "the query loss.",
    r"warm|ramp|schedul|(rate|α|step).{0,60}(step|grow|increas|smaller|chang|differ|wrong|other|scal)|\(k ?\+ ?1\)/K",
    r"support.{0,60}(loss|set|added|too|plus|query)|(added|plus|sum|both).{0,40}support",
    tells_loss=False,
)
def warm_up_and_both_losses(case):
    def one(loss, params, support, query):
        for k in range(case.inner_steps):
            rate = case.inner_lr * (k + 1) / case.inner_steps
            params = step(params, grads_of(loss(params, *support), params), rate)
        return loss(params, *query) + loss(params, *support)

    return over_tasks(case, one)


@wrong(
    "Batch normalisation takes its statistics under no_grad, so they are not differentiated through, and its "
    "variance is torch.var's unbiased one, divided by n − 1.",
    r"no_grad|detach|(not|un)[- ]?differentiat|constant|through (the|its|mean)|stop",
    r"unbiased|biased|n ?[-−] ?1|Bessel|correction|\bvar",
)
def statistics_like_buffers(case):
    class Layers(models.Torch):
        def batch_norm(self, x, gamma, beta):
            over = tuple(range(x.ndim - 1))
            with torch.no_grad():
                mean, var = x.mean(over), x.var(over)
            return (x - mean) / torch.sqrt(var + models.EPS) * gamma + beta

    return plain(case, Layers())


@wrong(
    "The pre-training's settings are kept: the cross-entropy has a label smoothing of 0.1, and the inner SGD a "
    "weight decay of 5·10⁻⁴.",
    r"smooth|0\.1|soft(ened)? (label|target)",
    r"weight[- ]?decay|L2|regulari[sz]|5e-0?4|penalty|shrink",
)
def settings_of_the_pretraining(case):
    layers = with_losses(cross_entropy=lambda o, y, right: right(o, y, label_smoothing=0.1))

    def one(loss, params, support, query):
        for _ in range(case.inner_steps):
            g = grads_of(loss(params, *support), params)
            params = step(params, {n: g[n] + 5e-4 * p for n, p in params.items()}, case.inner_lr)
        return loss(params, *query)

    return over_tasks(case, one, layers)


# Right ones.


@correct("torch.func: grad_and_value of the mean of a vmap over the stacked tasks.")
def vmap_over_tasks(case):
    loss, params, (support, query) = case.torch()
    params = {n: p.detach() for n, p in params.items()}

    def of_task(p, xs, ys, xq, yq):
        for _ in range(case.inner_steps):
            g = torch.func.grad(loss)(p, xs, ys)
            p = {n: p[n] - case.inner_lr * g[n] for n in p}
        return loss(p, xq, yq)

    def meta(p):
        return torch.vmap(lambda *task: of_task(p, *task))(*support, *query).mean()

    grads, value = torch.func.grad_and_value(meta)(params)
    return {"meta_grad": grads, "meta_loss": value}


@correct("Flat vectors, and Hessian-vector products forward over reverse: a jvp of the gradient.", tells_loss=False)
def forward_over_reverse(case):
    def product(loss, at, support, v):
        at = {n: p.detach() for n, p in at.items()}
        gradient = torch.func.grad(lambda vector: loss(unflatten(vector, at), *support))
        return unflatten(torch.func.jvp(gradient, (flatten(at),), (flatten(v),))[1], at)

    return reverse(case, product)


@correct("An autograd.Function for the inner step, whose backward recomputes the gradient and differentiates it.")
def step_that_recomputes(case):
    class Step(torch.autograd.Function):
        @staticmethod
        def forward(ctx, vector, f):
            ctx.save_for_backward(vector)
            ctx.f = f
            with torch.enable_grad():
                at = vector.detach().requires_grad_()
                return vector - case.inner_lr * torch.autograd.grad(f(at), at)[0]

        @staticmethod
        def backward(ctx, v):
            (vector,) = ctx.saved_tensors
            with torch.enable_grad():
                at = {"": vector.detach().requires_grad_()}
                product = grads_of((grads_of(ctx.f(at[""]), at)[""] * v).sum(), at, create_graph=False)
            return v - case.inner_lr * product[""], None

    def one(loss, params, support, query):
        vector = flatten(params)
        for _ in range(case.inner_steps):
            vector = Step.apply(vector, lambda vector: loss(unflatten(vector, params), *support))
        return loss(unflatten(vector, params), *query)

    return over_tasks(case, one)


@correct(".grad by backward(create_graph=True, inputs=θₖ); each task accumulates into .grad; tasks reversed.")
def backward_and_grad(case):
    loss, params, tasks = given(case)
    total, value = {n: torch.zeros_like(p).detach() for n, p in params.items()}, 0.0
    for support, query in reversed(tasks):
        fast = {n: p.clone() for n, p in params.items()}
        for _ in range(case.inner_steps):
            loss(fast, *support).backward(create_graph=True, inputs=list(fast.values()))
            fast = {n: p - case.inner_lr * p.grad for n, p in fast.items()}
        for p in params.values():
            p.grad = None
        query_loss = loss(fast, *query) / len(tasks)
        query_loss.backward()
        value = value + query_loss.detach()
        for n, p in params.items():
            total[n].add_(p.grad)
            p.grad = None
    return {"meta_grad": total, "meta_loss": value}


@correct("Dense Hessians, and the product of the matrices I − αHₖ before the vector is multiplied.")
def dense_matrices(case):
    def one(loss, params, support, query):
        *before, last = path(case, loss, params, support)
        value, v = query_grad(loss, last, query)
        size = flatten(v).numel()
        product = torch.eye(size, dtype=flatten(v).dtype)
        for at in before:
            rows = []
            g = flatten(grads_of(loss(at, *support), at))
            for i in range(size):
                row = grads_of(g[i], at) if g.requires_grad else {n: torch.zeros_like(p) for n, p in at.items()}
                rows.append(flatten(row).detach())
            product = product @ (torch.eye(size, dtype=product.dtype) - case.inner_lr * torch.stack(rows))
        return value, unflatten(product @ flatten(v), params)

    return mean_of(case, one)


@correct("The gradient of ⟨θ_K, query gradient held constant⟩, all tasks in one surrogate.", tells_loss=False)
def inner_product_surrogate(case):
    loss, params, tasks = given(case)
    surrogate = 0.0
    for support, query in tasks:
        fast = adapt(case, loss, params, support)
        _, v = query_grad(loss, leaves(fast), query)
        surrogate = surrogate + dot(fast, v)
    return {"meta_grad": {n: g / len(tasks) for n, g in grads_of(surrogate, params, create_graph=False).items()}}


@correct("Stacked copies for all tasks, adapted by the sum of the support losses; the copies' gradients are averaged.")
def stacked_copies(case):
    loss, params, tasks = given(case)
    copies = {n: p.detach().expand(len(tasks), *p.shape).clone().requires_grad_() for n, p in params.items()}
    fast = copies

    def losses(fast, which):
        return torch.stack([loss({n: p[t] for n, p in fast.items()}, *task[which]) for t, task in enumerate(tasks)])

    for _ in range(case.inner_steps):
        fast = step(fast, grads_of(losses(fast, 0).sum(), fast), case.inner_lr)
    value = losses(fast, 1)
    each = grads_of(value.sum(), copies, create_graph=False)
    return {"meta_grad": {n: g.mean(0) for n, g in each.items()}, "meta_loss": value.detach().mean()}


@correct("θ + δ with δ = 0 is differentiated by δ; θ_K = θ − α Σ g; log-softmax twice; convolution by unfold.")
def displacement_and_other_layers(case):
    class Layers(models.Torch):
        def conv(self, x, w, stride, padding):
            x = padded(x, w, stride, padding)
            high, wide = ((n - k) // stride + 1 for n, k in zip(x.shape[2:], w.shape[:2], strict=True))
            columns = F.unfold(x, tuple(w.shape[:2]), stride=stride).transpose(1, 2)
            return (columns @ w.permute(2, 0, 1, 3).reshape(-1, w.shape[-1])).reshape(len(x), high, wide, -1)

        def batch_norm(self, x, gamma, beta):
            over = tuple(range(x.ndim - 1))
            return torch.addcmul(beta, x - x.mean(over), gamma * (x.var(over, correction=0) + models.EPS).rsqrt())

    layers = Layers()
    layers.cross_entropy = lambda o, y: F.nll_loss(F.log_softmax(F.log_softmax(o, -1), -1), y.long())
    loss, params, tasks = given(case, layers)
    theta = {n: p.detach() for n, p in params.items()}
    delta = {n: torch.zeros_like(p, requires_grad=True) for n, p in theta.items()}
    total = 0.0
    for support, query in tasks:
        way = {n: torch.zeros_like(p) for n, p in theta.items()}
        for _ in range(case.inner_steps):
            at = {n: (p + delta[n]) - case.inner_lr * way[n] for n, p in theta.items()}
            g = grads_of(loss(at, *support), at)
            way = {n: way[n] + g[n] for n in g}
        total = total + loss({n: (p + delta[n]) - case.inner_lr * way[n] for n, p in theta.items()}, *query)
    return answer(total / len(tasks), delta)
