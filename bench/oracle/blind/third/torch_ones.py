"""Implementations of plain MAML in PyTorch: 36 wrong ones and 8 right ones of unusual form."""

from __future__ import annotations

import functools

import torch
from torch.autograd.functional import jacobian
from torch.utils.checkpoint import checkpoint

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

# Honest helpers


def query_grad(loss, params, query):
    """(L_q, ∇L_q)"""
    value = loss(params, *query)
    return value.detach(), grads_of(value, params, create_graph=False)


def mean_over_tasks(case, one, layers=None):
    """The mean of one(loss, θ, support, query) → (loss, gradient)."""
    loss, params, tasks = given(case, layers)
    results = [one(loss, params, s, q) for s, q in tasks]
    grads = {n: sum(g[n] for _, g in results) / len(tasks) for n in params}
    return {"meta_grad": grads, "meta_loss": sum(value for value, _ in results) / len(tasks)}


def outputs(case, layers, params, x):
    """What the last layer gives."""
    for layer in case.model["layers"]:
        settings = {k: v for k, v in layer.items() if k not in ("layer", "params")}
        x = getattr(layers, layer["layer"])(x, *(params[n] for n in layer.get("params", [])), **settings)
    return x


def score(case, layers, o, y):
    """The loss of those outputs."""
    return o.mean() if case.model["loss"] == "mean" else getattr(layers, case.model["loss"])(o, y)


# One mistake each: the derivative


@wrong(
    "The hook on θ that divides the meta-gradient by the number of tasks also fires in the inner autograd.grad at θ_0, "
    "so the first inner step is taken with α/T.",
    r"hook|first (inner )?(step|gradient|update)|divided by (the number of tasks|T)|(α|alpha|rate|lr) ?/ ?T\b",
)
def averaging_hook(case):
    loss, params, tasks = given(case)
    for p in params.values():
        p.register_hook(lambda g: g / len(tasks))
    total = sum(loss(adapt(case, loss, params, s), *q) for s, q in tasks)
    return {"meta_grad": grads_of(total, params, create_graph=False), "meta_loss": total.detach() / len(tasks)}


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w, b):
        ctx.save_for_backward(x)
        ctx.w = w.detach()
        ctx.biased = b is not None
        return x @ w if b is None else x @ w + b

    @staticmethod
    def backward(ctx, gy):
        (x,) = ctx.saved_tensors
        return gy @ ctx.w.T, x.T @ gy, gy.sum(0) if ctx.biased else None


@wrong(
    "The custom linear's backward uses a detached weight, so the double backward lacks the derivative of the input's "
    "gradient with respect to w: Hessian blocks between layers are incomplete.",
    r"custom|linear layer|double.?back|between (the )?layers|block|cross|mixed|off.?diagonal"
    r"|weights?.*(detach|constant)|(detach|constant).*weight|through (the )?weight",
    tells_loss=False,
)
def linear_function(case):
    class Mine(models.Torch):
        def linear(self, x, w, b=None):
            return _Linear.apply(x, w, b)

    return plain(case, Mine())


class _Tanh(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        y = torch.tanh(x)
        ctx.slope = 1 - y * y
        return y

    @staticmethod
    def backward(ctx, gy):
        return gy * ctx.slope


@wrong(
    "The custom tanh computes its slope in forward and keeps it as a constant, so its second derivative is zero in the "
    "double backward.",
    r"tanh|activation|non-?linearit|slope",
)
def tanh_function(case):
    class Mine(models.Torch):
        def __init__(self):
            super().__init__()
            self.tanh = _Tanh.apply

    return plain(case, Mine())


@wrong(
    "The inner gradient is clipped to the norm 1 (over all parameters, with a coefficient that is a constant for the "
    "derivative), which plain MAML does not do.",
    r"clip|gradient.?norm|normali[sz]|norm of (the )?(inner )?gradient|max_?norm|rescaled",
    tells_loss=False,
)
def clipped_inner_gradient(case):
    def one(loss, params, support, query):
        fast = params
        for _ in range(case.inner_steps):
            grads = grads_of(loss(fast, *support), fast)
            norm = torch.nn.utils.get_total_norm([g.detach() for g in grads.values()])
            coefficient = torch.clamp(1.0 / (norm + 1e-6), max=1.0)
            fast = step(fast, {n: coefficient * g for n, g in grads.items()}, case.inner_lr)
        return loss(fast, *query)

    return over_tasks(case, one)


@wrong(
    "The inner gradients are not zeroed between the inner steps, so that each step goes along the sum of all gradients "
    "so far.",
    r"accumulat|zero_?grad|zeroed|not (reset|cleared)|momentum"
    r"|sum of (all|the) (previous|earlier|past|inner)?.?gradient",
)
def grad_buffers_kept(case):
    def one(loss, params, support, query):
        buffers = {n: torch.zeros_like(p) for n, p in params.items()}
        fast = params
        for _ in range(case.inner_steps):
            grads = grads_of(loss(fast, *support), fast)
            for n, g in grads.items():
                buffers[n] = buffers[n] + g
            fast = step(fast, buffers, case.inner_lr)
        return loss(fast, *query)

    return over_tasks(case, one)


@wrong(
    "create_graph is off in the last inner step, so the factor (I − αH) of that step is missing; with one step it is "
    "first-order MAML.",
    r"last (inner )?step|final (inner )?step|last factor|create_graph|H_?.?K ?[-−] ?1",
    tells_loss=False,
)
def graph_but_for_the_last(case):
    def one(loss, params, support, query):
        fast = params
        for k in range(case.inner_steps):
            more = k + 1 < case.inner_steps
            grads = grads_of(loss(fast, *support), fast, create_graph=more)
            fast = step(fast, grads, case.inner_lr)
        return loss(fast, *query)

    return over_tasks(case, one)


@wrong(
    "The Hessian-vector product is taken as (row sums of H) times v element by element: autograd.grad(g.sum(), θ) * v "
    "in place of autograd.grad(g, θ, v).",
    r"row.?sum|sum of (each |the )?(row|column|Hessian)|element.?(wise|by)|grad_outputs|H ?·? ?1\b|rows? of H",
)
def summed_hessian(case):
    def one(loss, params, support, query):
        thetas = path(case, loss, params, support)
        value, v = query_grad(loss, thetas[-1], query)
        for theta in reversed(thetas[:-1]):
            grads = grads_of(loss(theta, *support), theta)
            curvature = grads_of(sum(g.sum() for g in grads.values()), theta, create_graph=False)
            v = {n: v[n] - case.inner_lr * curvature[n] * v[n] for n in v}
        return value, v

    return mean_over_tasks(case, one)


@wrong(
    "The Hessian-vector product is computed tensor by tensor, so only the diagonal blocks of the Hessian are there and "
    "the blocks between different parameters are missing.",
    r"block|between (different )?(param|tensor|layer)|off.?diagonal|cross|mixed|per.?(param|tensor|layer)",
    tells_loss=False,
)
def tensor_by_tensor(case):
    def one(loss, params, support, query):
        thetas = path(case, loss, params, support)
        value, v = query_grad(loss, thetas[-1], query)
        for theta in reversed(thetas[:-1]):
            grads, w = grads_of(loss(theta, *support), theta), {}
            for n, p in theta.items():
                (hv,) = torch.autograd.grad(grads[n], p, v[n], retain_graph=True, allow_unused=True)
                w[n] = v[n] if hv is None else v[n] - case.inner_lr * hv
            v = w
        return value, v

    return mean_over_tasks(case, one)


@wrong(
    "The product of the factors (I − αH_k) is replaced by I − αΣH_k: the terms of higher order in α are dropped; wrong "
    "from two steps on.",
    r"lineari|linear in|higher.?order|product of (the )?factors|expan|sum of (the )?Hessians|Σ|truncat|cross.?term"
    r"|α²|alpha\^?2|Neumann|I ?[-−] ?(α|alpha) ?(sum|Σ)",
)
def sum_of_hessians(case):
    def one(loss, params, support, query):
        thetas = path(case, loss, params, support)
        value, v = query_grad(loss, thetas[-1], query)
        corrections = [hvp(loss, theta, support, v) for theta in thetas[:-1]]
        return value, {n: v[n] - case.inner_lr * sum((c[n] for c in corrections), torch.zeros_like(v[n])) for n in v}

    return mean_over_tasks(case, one)


@wrong(
    "The closures of the Hessian-vector products bind theta late, so all Hessians are taken at θ_K, not at θ_0 … "
    "θ_{K-1}.",
    r"late|closure|θ_?\{?K|theta_?\{?K|final (param|point|θ|theta|weight)|adapted (param|point|θ|theta|weight)"
    r"|(Hessian|curvature).*(at|of) (the )?(last|wrong|final|end|adapted|same)|wrong point",
    tells_loss=False,
)
def closures_of_products(case):
    def one(loss, params, support, query):
        products, theta = [], leaves(params)
        for _ in range(case.inner_steps):
            products.append(lambda v: hvp(loss, theta, support, v))  # noqa: B023
            grads = grads_of(loss(theta, *support), theta, create_graph=False)
            theta = leaves(step(theta, grads, case.inner_lr))
        value, v = query_grad(loss, theta, query)
        for product in reversed(products):
            v = step(v, product(v), case.inner_lr)
        return value, v

    return mean_over_tasks(case, one)


@wrong(
    "The lambdas of the inner losses bind the support set late: every task adapts on the support set of the last task.",
    r"last task|another task|other task|wrong task|same support|late|closure|support (set|data) of",
)
def closures_of_tasks(case):
    loss, params, tasks = given(case)
    inner = []
    for support, _ in tasks:
        inner.append(lambda p: loss(p, *support))  # noqa: B023
    total = 0
    for support_loss, (_, query) in zip(inner, tasks, strict=True):
        fast = params
        for _ in range(case.inner_steps):
            fast = step(fast, grads_of(support_loss(fast), fast), case.inner_lr)
        total = total + loss(fast, *query)
    return answer(total / len(tasks), params)


@wrong(
    "The parameters are overwritten through .data while the graphs of the inner gradients are kept: the saved weights "
    "of these graphs are θ_K, the saved activations those of θ_k, and the Hessian products belong to no point.",
    r"in.?place|\.data|overwrit|saved (tensor|weight)|version|wrong point|adapted (param|weight|point)"
    r"|θ_?\{?K|theta_?\{?K|(Hessian|curvature).*(at|of) (the )?(last|wrong|final|end|adapted|other)",
    tells_loss=False,
)
def data_overwritten(case):
    def one(loss, params, support, query):
        theta, kept = leaves(params), []
        for _ in range(case.inner_steps):
            grads = grads_of(loss(theta, *support), theta)
            kept.append(grads)
            for n, p in theta.items():
                p.data.sub_(case.inner_lr * grads[n].detach())
        value, v = query_grad(loss, theta, query)
        for grads in reversed(kept):
            v = step(v, grads_of(dot(grads, v), theta, create_graph=False), case.inner_lr)
        return value, v

    return mean_over_tasks(case, one)


@wrong(
    "The inner step updates one parameter after the other, each with the gradient at the already updated others "
    "(Gauss-Seidel), not all at once.",
    r"Gauss.?Seidel|sequential|one (by|at|after)|already|simultaneous|coordinate|partly updated|in turn",
)
def one_name_after_the_other(case):
    def one(loss, params, support, query):
        fast = dict(params)
        for _ in range(case.inner_steps):
            for n in fast:
                here = {m: p.view_as(p) for m, p in fast.items()}
                fast[n] = fast[n] - case.inner_lr * grads_of(loss(here, *support), {n: here[n]})[n]
        return loss(fast, *query)

    return over_tasks(case, one)


@wrong(
    "The flat vector of parameters is column-major, that of the gradients row-major, so the gradient of each matrix is "
    "applied with its elements in the wrong order.",
    r"transpos|column.?major|row.?major|Fortran|order of (the )?(element|entr|axes)|permut|layout|reshap|shuffl",
)
def fortran_vector(case):
    def pack_columns(tree):
        return torch.cat([p.T.reshape(-1) if p.ndim == 2 else p.reshape(-1) for p in tree.values()])

    def unpack_columns(vector, like):
        tree = unflatten(vector, {n: p.T if p.ndim == 2 else p for n, p in like.items()})
        return {n: p.T if p.ndim == 2 else p for n, p in tree.items()}

    def one(loss, params, support, query):
        theta = pack_columns(params)
        for _ in range(case.inner_steps):
            fast = unpack_columns(theta, params)
            theta = theta - case.inner_lr * flatten(grads_of(loss(fast, *support), fast))
        return loss(unpack_columns(theta, params), *query)

    return over_tasks(case, one)


# One mistake each: tasks and their reduction


@wrong(
    "A nested vmap evaluates every adapted model on the query sets of all tasks, not only on that of its own task.",
    r"(every|each|all).*query|quer.*(of|on) (all|every|the other|other|another|each)|other task|another task|wrong task"
    r"|outer product|nested|task.?pairs|pairs of tasks",
    tells_loss=False,
)
def nested_vmap(case):
    loss, params, ((xs, ys), (xq, yq)) = case.torch()

    def adapted(x, y):
        fast = params
        for _ in range(case.inner_steps):
            fast = step(fast, torch.func.grad(loss)(fast, x, y), case.inner_lr)
        return fast

    fast = torch.func.vmap(adapted)(xs, ys)
    on_tasks = torch.func.vmap(loss, in_dims=(None, 0, 0))
    losses = torch.func.vmap(on_tasks, in_dims=(0, None, None))(fast, xq, yq)
    return answer(losses.mean(), params)


@wrong(
    "The parameters are stacked per task, and of the stacked gradient only that of the first task is returned (divided "
    "by T); those of the other tasks are lost.",
    r"first task|only (one|task 0)|other tasks|single task|task 0|miss(ing|es) task",
)
def stacked_copies(case):
    loss, params, ((xs, ys), (xq, yq)) = case.torch()
    stacked = {n: p.detach().expand(case.tasks, *p.shape).clone().requires_grad_() for n, p in params.items()}

    def one(p, xs, ys, xq, yq):
        for _ in range(case.inner_steps):
            p = step(p, torch.func.grad(loss)(p, xs, ys), case.inner_lr)
        return loss(p, xq, yq)

    total = torch.func.vmap(one)(stacked, xs, ys, xq, yq).mean()
    grads = grads_of(total, stacked, create_graph=False)
    return {"meta_grad": {n: g[0] for n, g in grads.items()}, "meta_loss": total.detach()}


@wrong(
    "The gradients of the tasks are kept in bfloat16 before they are averaged: right to two or three digits only.",
    r"bfloat|half.?prec|float16|precision|imprecise|round|digits|dtype|16.?bit|quanti|\bcast",
    tells_loss=False,
)
def compressed_gradients(case):
    loss, params, tasks = given(case)
    stored, total = [], 0
    for s, q in tasks:
        value = loss(adapt(case, loss, params, s), *q)
        stored.append({n: g.to(torch.bfloat16) for n, g in grads_of(value, params, create_graph=False).items()})
        total += value.detach()
    grads = {n: sum(g[n].to(p.dtype) for g in stored) / len(tasks) for n, p in params.items()}
    return {"meta_grad": grads, "meta_loss": total / len(tasks)}


@wrong(
    "The running mean over tasks counts from zero: the second task replaces the first, so the first task has the "
    "weight 0 and the others 1/(T − 1).",
    r"running (mean|average)|first task|weight(s|ed|ing)?\b.*task|task.*weight|last task|off.?by.?one"
    r"|T ?[-−] ?1|miss(ing|es) task|task.*(ignored|dropped|left out)",
)
def running_mean(case):
    loss, params, tasks = given(case)
    mean = {n: torch.zeros_like(p) for n, p in params.items()}
    total = 0.0
    for t, (s, q) in enumerate(tasks):
        value = loss(adapt(case, loss, params, s), *q)
        grads = grads_of(value, params, create_graph=False)
        for n in mean:
            mean[n] = mean[n] + (grads[n] - mean[n]) / max(t, 1)
        total += value.detach() / len(tasks)
    return {"meta_grad": mean, "meta_loss": total}


# One mistake each: losses and layers


@wrong(
    "The targets are squeezed to (N) but the outputs are (N, 1): the difference is broadcast to (N, N), every output "
    "is compared with every target.",
    r"broadcast|squeez|N ?[x×,] ?N|every (output|target|pair|prediction)|all pairs",
)
def squeezed_targets(case):
    class Mine(models.Torch):
        def mse(self, o, y):
            return torch.mean((o - y.squeeze(-1)) ** 2)

        def half_mse(self, o, y):
            return torch.mean((o - y.squeeze(-1)) ** 2) / 2

    return plain(case, Mine())


@wrong(
    "F.linear is given w as it is whenever its second axis fits the input, so square weights are used transposed "
    "(x wᵀ in place of x w); others are right.",
    r"transpos|square (weight|matri)|w\.T|wᵀ|orientation|\(out, in\)|axes|swapp",
    tells_loss=False,
)
def guessed_orientation(case):
    class Mine(models.Torch):
        def linear(self, x, w, b=None):
            weight = w if w.shape[1] == x.shape[-1] else w.T
            return torch.nn.functional.linear(x, weight, b)

    return plain(case, Mine())


@wrong(
    "The convolution shifts the image with torch.roll, so what leaves it at one edge comes back at the other: circular "
    "padding in place of zeros.",
    r"circular|wrap|roll|periodic|torus|toroidal|comes? back|pad\w* (with|by) (the )?(other|opposite)|not zero",
    tells_loss=False,
)
def rolled_convolution(case):
    class Mine(models.Torch):
        def conv(self, x, w, stride, padding):
            if padding != "SAME":
                return super().conv(x, w, stride, padding)
            before = []
            for size, k in zip(x.shape[1:3], w.shape[:2], strict=True):
                steps = -(-size // stride)
                before.append(max((steps - 1) * stride + k - size, 0) // 2)
            total = 0
            for p in range(w.shape[0]):
                for q in range(w.shape[1]):
                    shifted = torch.roll(x, (before[0] - p, before[1] - q), (1, 2))
                    total = total + shifted[:, ::stride, ::stride] @ w[p, q]
            return total

    return plain(case, Mine())


@wrong(
    "The mean of the batch norm is detached: its gradient does not flow through the mean (the variance's does).",
    r"(mean|statistic|moment).*(detach|constant|differentiat|gradient|stop|fixed|derivative)"
    r"|(detach|constant|differentiat|gradient|stop|through).*(mean|statistic|moment)",
)
def constant_mean(case):
    class Mine(models.Torch):
        def batch_norm(self, x, gamma, beta):
            over = tuple(range(x.ndim - 1))
            centred = x - x.mean(over).detach()
            return centred * torch.rsqrt((centred * centred).mean(over) + 2.0**-10) * gamma + beta

    return plain(case, Mine())


@wrong(
    "Support and query go through the network in one batch, so the batch norm's mean and variance are those of both "
    "sets together.",
    r"(statistic|mean|moment|norm).*(both|together|union|joint|support and query|concat)"
    r"|(both|together|union|joint|support and query|concat).*(statistic|mean|moment|norm)",
    tells_loss=False,
)
def one_forward_for_both(case):
    layers = models.Torch()

    def one(loss, params, support, query):
        (xs, ys), (xq, yq) = support, query
        both = torch.cat([xs, xq])
        fast = params
        for _ in range(case.inner_steps):
            o = outputs(case, layers, fast, both)[: len(xs)]
            fast = step(fast, grads_of(score(case, layers, o, ys), fast), case.inner_lr)
        return score(case, layers, outputs(case, layers, fast, both)[len(xs) :], yq)

    return over_tasks(case, one)


@wrong(
    "The cross-entropy ignores the examples of class 0 (ignore_index=0, as if it were padding) and averages over the "
    "rest.",
    r"ignor|class (0|zero)|label (0|zero)|(example|target|class|label).*(dropp|left out|skipp|mask|exclu)",
)
def padding_class(case):
    class Mine(models.Torch):
        def __init__(self):
            super().__init__()
            self.cross_entropy = lambda o, y: torch.nn.functional.cross_entropy(o, y, ignore_index=0)

    return plain(case, Mine())


# One mistake each: the inner loop


@wrong(
    "The query loss is computed with the adapted weight matrices but the initial biases (and other parameters with "
    "fewer than two axes), whose adaptation is lost.",
    r"bias|fewer than two|1-?D\b|one.?dim|vectors?\b|(some|not all).*param|only the (weight|matri)",
    tells_loss=False,
)
def state_of_weights(case):
    def one(loss, params, support, query):
        fast = adapt(case, loss, params, support)
        weights = {n: p for n, p in fast.items() if p.ndim > 1}
        return loss({**params, **weights}, *query)

    return over_tasks(case, one)


@wrong(
    "The inner gradients of biases, scales and other parameters with fewer than two axes are detached: first-order for "
    "them, second-order for the matrices.",
    r"bias|fewer than two|1-?D\b|one.?dim|vectors? |some (of the )?param|part(ly|ial)",
)
def second_order_for_matrices(case):
    def one(loss, params, support, query):
        fast = params
        for _ in range(case.inner_steps):
            grads = grads_of(loss(fast, *support), fast)
            grads = {n: g if g.ndim > 1 else g.detach() for n, g in grads.items()}
            fast = step(fast, grads, case.inner_lr)
        return loss(fast, *query)

    return over_tasks(case, one)


@wrong(
    "The query loss is taken at the average of the inner iterates θ_1 … θ_K (Polyak averaging), not at θ_K.",
    r"Polyak|SWA|iterates|averag.*(param|θ|theta|weight|step)|mean of (the )?(param|θ|theta|weight)",
)
def averaged_iterates(case):
    def one(loss, params, support, query):
        fast, mean = params, None
        for k in range(case.inner_steps):
            fast = step(fast, grads_of(loss(fast, *support), fast), case.inner_lr)
            mean = fast if mean is None else {n: mean[n] + (fast[n] - mean[n]) / (k + 1) for n in fast}
        return loss(fast if mean is None else mean, *query)

    return over_tasks(case, one)


@wrong(
    "From the second inner step on the gradient is taken on the query set: a copy-paste slip, the query leaks into the "
    "adaptation.",
    r"(step|inner|adapt|loop).*query|query.*(step|inner|adapt|loop|leak)|leak",
    tells_loss=False,
)
def copied_loop(case):
    def one(loss, params, support, query):
        (xs, ys), (xq, yq) = support, query
        fast = params
        if case.inner_steps > 0:
            fast = step(params, grads_of(loss(params, xs, ys), params), case.inner_lr)
        for _ in range(1, case.inner_steps):
            fast = step(fast, grads_of(loss(fast, xq, yq), fast), case.inner_lr)
        return loss(fast, xq, yq)

    return over_tasks(case, one)


@wrong(
    "The curvature is that of Gauss and Newton, Jᵀ H_L J, not the Hessian: the term with the second derivatives of the "
    "network is missing.",
    r"Gauss.?Newton|Fisher|second.?deriv\w* of (the )?(network|model|output)|curvature of the (network|model)|residual",
)
def jacobian_products(case):
    layers = models.Torch()

    def curvature(theta, x, y, v):
        o, u = torch.func.jvp(lambda p: outputs(case, layers, p, x), (theta,), (v,))
        top = o.detach().requires_grad_()
        (g,) = torch.autograd.grad(score(case, layers, top, y), top, create_graph=True)
        if not g.requires_grad:
            return {n: torch.zeros_like(p) for n, p in theta.items()}
        (hu,) = torch.autograd.grad(g, top, u.detach())
        return grads_of((outputs(case, layers, theta, x) * hu).sum(), theta, create_graph=False)

    def one(loss, params, support, query):
        thetas = path(case, loss, params, support)
        value, v = query_grad(loss, thetas[-1], query)
        for theta in reversed(thetas[:-1]):
            v = step(v, curvature(theta, *support, v), case.inner_lr)
        return value, v

    return mean_over_tasks(case, one)


# Two mistakes at once


@wrong(
    "The update in place makes it first-order MAML, and .grad is not cleared before the query's backward, so the "
    "support gradient of the last inner step is added to the meta-gradient.",
    r"first.?order|FOMAML|in.?place|second.?order|Hessian|no (derivative|gradient) through",
    r"zero_?grad|clear|accumulat|support.?(loss|grad)|added|left over|\.grad",
)
def module_grads(case):
    loss, params, tasks = given(case)
    net = torch.nn.ParameterDict({n: torch.nn.Parameter(p.detach().clone()) for n, p in params.items()})
    optimizer = torch.optim.SGD(net.parameters(), lr=case.inner_lr)
    start = {n: p.detach().clone() for n, p in net.items()}
    grads, total = {n: torch.zeros_like(p) for n, p in start.items()}, 0
    for support, query in tasks:
        with torch.no_grad():
            for n, p in net.items():
                p.copy_(start[n])
        for _ in range(case.inner_steps):
            optimizer.zero_grad()
            loss(dict(net.items()), *support).backward()
            optimizer.step()
        value = loss(dict(net.items()), *query)
        value.backward()
        for n, p in net.items():
            grads[n] += p.grad / len(tasks)
        total += value.detach() / len(tasks)
    return {"meta_grad": grads, "meta_loss": total}


@wrong(
    "The fast weights are written into the dict of the parameters: each task starts from the adapted weights of the "
    "one before, and the gradient is taken with respect to the last task's adapted weights, not θ.",
    r"previous task|task before|one before|carr(y|ied)|not (reset|restored)|starts? from|sequential|state",
    r"with respect to|first.?order|last task|adapted (param|weight)|θ_?\{?K|theta_?\{?K|wrong (variable|leaves)",
    tells_loss=False,
)
def dict_of_parameters(case):
    loss, params, tasks = given(case)
    total = 0
    for support, query in tasks:
        for _ in range(case.inner_steps):
            grads = grads_of(loss(params, *support), params)
            for n in params:
                params[n] = params[n] - case.inner_lr * grads[n]
        total = total + loss(params, *query)
    return answer(total / len(tasks), params)


@wrong(
    "The squared error is summed over the outputs of an example and averaged over examples only; and the meta-loss is "
    "the mean of the query loss before and after adaptation.",
    r"summ?\b|summed|number of outputs|mean over|\bC\b|factor|reduc",
    r"before (the )?(adapt|inner|update)|pre.?(adapt|update)|θ_?0|theta_?0|(initial|unadapted) (param|weight|loss)"
    r"|before and after|without adapt|each step|every step|multi.?step",
)
def losses_before_and_after(case):
    class Mine(models.Torch):
        def mse(self, o, y):
            return ((o - y) ** 2).sum(1).mean()

        def half_mse(self, o, y):
            return ((o - y) ** 2).sum(1).mean() / 2

    def one(loss, params, support, query):
        fast = adapt(case, loss, params, support)
        return (loss(params, *query) + loss(fast, *query)) / 2

    return over_tasks(case, one, Mine())


@wrong(
    "Ported from Caffe: vectors (biases) adapt with twice the rate, and the squared error is the Euclidean loss, "
    "1/(2N) times the sum over all elements.",
    r"bias|twice|doubl|2 ?(α|alpha|×)|per.?param",
    r"half|halv|½|1/2|factor|Euclid|summ?\b|summed|scale|0\.5",
    tells_loss=False,
)
def from_caffe(case):
    class Mine(models.Torch):
        def mse(self, o, y):
            return ((o - y) ** 2).sum() / (2 * len(o))

        half_mse = mse

    def one(loss, params, support, query):
        fast = params
        for _ in range(case.inner_steps):
            grads = grads_of(loss(fast, *support), fast)
            fast = {n: p - (2 if p.ndim == 1 else 1) * case.inner_lr * grads[n] for n, p in fast.items()}
        return loss(fast, *query)

    return over_tasks(case, one, Mine())


@wrong(
    "The Hessians are those of the query loss, not of the support loss; and the gradient is divided by the number of "
    "tasks twice.",
    r"(Hessian|curvature|second|product|factor|H_).*query|query.*(Hessian|curvature|second|product|factor)",
    r"twice|squared|T²|T\^2|divid|number of tasks|scaled|factor|1/T",
)
def products_on_query(case):
    loss, params, tasks = given(case)
    grads, total = {n: torch.zeros_like(p) for n, p in params.items()}, 0
    for support, query in tasks:
        thetas = path(case, loss, params, support)
        value = loss(thetas[-1], *query) / len(tasks)
        v = grads_of(value, thetas[-1], create_graph=False)
        for theta in reversed(thetas[:-1]):
            v = step(v, hvp(loss, theta, query, v), case.inner_lr)
        for n in grads:
            grads[n] += v[n]
        total += value.detach()
    return {"meta_grad": {n: g / len(tasks) for n, g in grads.items()}, "meta_loss": total}


@wrong(
    "The inner rate decays by 0.9 after every inner step, and the scheduler is not reset for the next task, which "
    "begins with the rate that the one before ended with.",
    r"decay|schedul|anneal|rate.*(shrink|each step|every step|chang|smaller)",
    r"reset|carr(y|ied)|persist|state|continu|restart|(across|between|from|next|previous|earlier|later) tasks?",
)
def exponential_schedule(case):
    loss, params, tasks = given(case)
    rate, total = case.inner_lr, 0
    for support, query in tasks:
        fast = params
        for _ in range(case.inner_steps):
            fast = step(fast, grads_of(loss(fast, *support), fast), rate)
            rate = rate * 0.9
        total = total + loss(fast, *query)
    return answer(total / len(tasks), params)


@wrong(
    "All inner gradients are averaged over the tasks (all_reduce, one task per worker), and since all_reduce is not "
    "differentiated, it is first-order MAML.",
    r"all.?reduce|(averag|mean|shared|pooled|sum).*(tasks|support)|other tasks?|across tasks|all tasks",
    r"first.?order|FOMAML|detach|second.?order|Hessian|not differentiat|no (gradient|derivative) through",
    tells_loss=False,
)
def data_parallel(case):
    loss, params, tasks = given(case)
    workers = [leaves(params) for _ in tasks]
    for _ in range(case.inner_steps):
        grads = [grads_of(loss(p, *s), p, False) for p, (s, _) in zip(workers, tasks, strict=True)]
        reduced = {n: sum(g[n] for g in grads) / len(tasks) for n in params}
        workers = [leaves(step(p, reduced, case.inner_lr)) for p in workers]
    results = [query_grad(loss, p, q) for p, (_, q) in zip(workers, tasks, strict=True)]
    grads = {n: sum(g[n] for _, g in results) / len(tasks) for n in params}
    return {"meta_grad": grads, "meta_loss": sum(value for value, _ in results) / len(tasks)}


# Right ones


@correct("vmap over tasks of torch.func.grad of the whole task; the stacked gradients are reduced by a binary tree.")
def vmap_and_tree(case):
    loss, params, ((xs, ys), (xq, yq)) = case.torch()
    params = {n: p.detach() for n, p in params.items()}

    def one(p, xs, ys, xq, yq):
        for _ in range(case.inner_steps):
            p = step(p, torch.func.grad(loss)(p, xs, ys), case.inner_lr)
        return loss(p, xq, yq)

    per_task = torch.func.vmap(torch.func.grad_and_value(one), in_dims=(None, 0, 0, 0, 0))
    grads, values = per_task(params, xs, ys, xq, yq)

    def tree(stack):
        pieces = list(stack)
        while len(pieces) > 1:
            pieces = [sum(pieces[i + 1 : i + 2], pieces[i]) for i in range(0, len(pieces), 2)]
        return pieces[0] / len(stack)

    return {"meta_grad": {n: tree(g) for n, g in grads.items()}, "meta_loss": tree(values)}


@correct("The inner loop is one autograd.Function; its backward goes through the kept iterates with H v products.")
def loop_function(case):
    def one(loss, params, support, query):
        class Loop(torch.autograd.Function):
            @staticmethod
            def forward(ctx, vector):
                with torch.enable_grad():
                    ctx.thetas = path(case, loss, unflatten(vector, params), support)
                return flatten(ctx.thetas.pop()).detach()

            @staticmethod
            def backward(ctx, v):
                for theta in reversed(ctx.thetas):
                    with torch.enable_grad():
                        v = v - case.inner_lr * flatten(hvp(loss, theta, support, unflatten(v, params)))
                return v

        return loss(unflatten(Loop.apply(flatten(params)), params), *query)

    return over_tasks(case, one)


@correct("Flat vectors; each H v is a forward derivative (torch.func.jvp) of the gradient, added in place to a buffer.")
def forward_over_reverse(case):
    def one(loss, params, support, query):
        flat = flatten(params).detach()
        gradient = torch.func.grad(lambda z, x, y: loss(unflatten(z, params), x, y))
        points = [flat]
        for _ in range(case.inner_steps):
            points.append(torch.add(points[-1], gradient(points[-1], *support), alpha=-case.inner_lr))
        v = gradient(points.pop(), *query).clone()
        buffer = torch.empty_like(v)
        while points:
            _, hv = torch.func.jvp(lambda z: gradient(z, *support), (points.pop(),), (v,))
            buffer.copy_(hv).mul_(case.inner_lr)
            v.sub_(buffer)
        return torch.zeros((), dtype=v.dtype), {n: g.clone() for n, g in unflatten(v, params).items()}

    return {"meta_grad": mean_over_tasks(case, one)["meta_grad"]}


@correct("The dense Jacobian ∂θ_K/∂θ row by row, transposed and multiplied with the query gradient.")
def dense_jacobian(case):
    def one(loss, params, support, query):
        def adapted(z):
            p = unflatten(z, params)
            for _ in range(case.inner_steps):
                p = step(p, grads_of(loss(p, *support), p), case.inner_lr)
            return flatten(p)

        flat = flatten(params).detach()
        value, g = query_grad(loss, leaves(unflatten(adapted(flat.requires_grad_()), params)), query)
        return value, unflatten(jacobian(adapted, flat).T @ flatten(g), params)

    return mean_over_tasks(case, one)


@correct("An nn.Module with functional_call; tasks backwards, a backward for each, the sums in .grad divided in place.")
def module_and_backward(case):
    loss, params, tasks = given(case)

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            for n, p in params.items():
                self.register_parameter(n, torch.nn.Parameter(p.detach().clone()))

        def forward(self, x, y):
            return loss({n: getattr(self, n) for n in params}, x, y)

    net, total = Net(), 0
    for support, query in reversed(tasks):
        fast = dict(net.named_parameters())
        for _ in range(case.inner_steps):
            fast = step(fast, grads_of(torch.func.functional_call(net, fast, support), fast), case.inner_lr)
        value = torch.func.functional_call(net, fast, query)
        value.backward()
        total += value.detach()
    for p in net.parameters():
        p.grad.div_(len(tasks))
    return {"meta_grad": {n: p.grad for n, p in net.named_parameters()}, "meta_loss": total / len(tasks)}


@correct("Each inner step is a checkpoint: recomputed in the backward pass.")
def checkpointed(case):
    def one(loss, params, support, query):
        def inner(vector):
            fast = unflatten(vector, params)
            return vector - case.inner_lr * flatten(grads_of(loss(fast, *support), fast))

        vector = flatten(params)
        for _ in range(case.inner_steps):
            vector = checkpoint(inner, vector, use_reentrant=False)
        return loss(unflatten(vector, params), *query)

    return over_tasks(case, one)


@correct("The fast vector is θ plus a detached displacement; a hook on each iterate puts the factor (I − αH) in.")
def hooked_factors(case):
    def one(loss, params, support, query):
        @torch.enable_grad()
        def factor(here, v):
            return v - case.inner_lr * flatten(hvp(loss, here, support, unflatten(v, params)))

        z = flatten(params)
        for _ in range(case.inner_steps):
            here = leaves(unflatten(z, params))
            z = z - case.inner_lr * flatten(grads_of(loss(here, *support), here, create_graph=False))
            z.register_hook(functools.partial(factor, here))
        return loss(unflatten(z, params), *query)

    return over_tasks(case, one)


@correct("All tensors saved for the backward pass are moved to NumPy arrays by saved_tensors_hooks and back.")
def saved_as_numpy(case):
    def packed(x):
        return x.detach().numpy().copy()

    with torch.autograd.graph.saved_tensors_hooks(packed, torch.from_numpy):
        return plain(case)
