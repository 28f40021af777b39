"""Plain MAML in PyTorch, as people write it."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812

from tinymaml.oracle import models

from .. import in_torch as pt
from ..entries import correct, wrong


def near(one, other):
    """A regular expression that wants a match of each in the same sentence, in either order."""
    return rf"(?:{one})[^.;]*(?:{other})|(?:{other})[^.;]*(?:{one})"


def mean_over(values):
    """The mean of a list of scalars or dictionaries of tensors."""
    if isinstance(values[0], dict):
        return {n: sum(v[n] for v in values) / len(values) for n in values[0]}
    return sum(values) / len(values)


# Layers with a backward pass of one's own


class SlopeTanh(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        y = torch.tanh(x)
        ctx.slope = 1 - y * y
        return y

    @staticmethod
    def backward(ctx, g):
        return g * ctx.slope


@wrong(
    "Your tanh's backward multiplies by a slope that was stored in forward as a plain number, so the second derivative "
    "of tanh is missing from the Hessians; only the first derivative is right.",
    near(
        r"tanh|activation|non-?linear", r"second|twice|double|hessian|curvature|constant|detach|stored|saved|slope|''"
    ),
)
def fused_tanh(case):
    class Mine(models.Torch):
        def __init__(self):
            super().__init__()
            self.tanh = SlopeTanh.apply

    return pt.plain(case, Mine())


class LeanLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w, b):
        ctx.save_for_backward(x.detach(), w)
        ctx.has_bias = b is not None
        return x @ w if b is None else x @ w + b

    @staticmethod
    def backward(ctx, g):
        x, w = ctx.saved_tensors
        return g @ w.T, x.T @ g, g.sum(0) if ctx.has_bias else None


@wrong(
    "The linear layer saves its input detached, so the weight gradient xᵀg is not differentiated with respect to x: "
    "the "
    "part of the Hessian that couples a layer's weights with the layers below is lost on one side.",
    near(
        r"detach|constant|stop.?grad|held fixed|not differentiat|missing|lost|drop|left out|omit|lacks|block|coupl"
        r"|off-?diagonal",
        r"inputs?\b|activation|between (the )?layers|layers? (below|above|before)|hidden|linear|cross.?(term|block"
        r"|layer|deriv)|block|xᵀ",
    ),
    tells_loss=False,
)
def lean_linear(case):
    class Mine(models.Torch):
        def linear(self, x, w, b=None):
            return LeanLinear.apply(x, w, b)

    return pt.plain(case, Mine())


class OwnLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w, b):
        ctx.save_for_backward(x, w)
        ctx.has_bias = b is not None
        return x @ w if b is None else x @ w + b

    @staticmethod
    def backward(ctx, g):
        x, w = ctx.saved_tensors
        return g @ w.T, x.T @ g, g.mean(0) if ctx.has_bias else None


@wrong(
    "The hand-written backward of the linear layer takes the mean over the batch for the bias where it must take the "
    "sum: every bias gradient is divided by N, in the inner loop and outside.",
    near(r"\bbias(es)?\b|\bb1\b", r"mean|averag|divi|1 ?/ ?N|too small|/ ?N\b|batch|scaled|sum|factor"),
    tells_loss=False,
)
def own_linear(case):
    class Mine(models.Torch):
        def linear(self, x, w, b=None):
            return OwnLinear.apply(x, w, b)

    return pt.plain(case, Mine())


class Residual(torch.autograd.Function):
    @staticmethod
    def forward(ctx, o, y):
        p = torch.softmax(o, -1)
        ctx.save_for_backward(p)
        return (p - F.one_hot(y, o.shape[-1])) / len(o)

    @staticmethod
    def backward(ctx, v):
        (p,) = ctx.saved_tensors
        return p * (1 - p) * v / len(p), None


class OwnCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, o, y):
        ctx.save_for_backward(o, y)
        return F.cross_entropy(o, y)

    @staticmethod
    def backward(ctx, g):
        o, y = ctx.saved_tensors
        return g * Residual.apply(o, y), None


@wrong(
    "The double backward of your cross-entropy takes p(1 − p) for the derivative of the softmax: the off-diagonal "
    "−p_i p_j of diag(p) − ppᵀ is missing from the Hessian.",
    near(
        r"softmax|cross.?entropy|logits|class",
        r"off-?diagonal|diag|second|double|hessian|curvature|1 ?[-−] ?p|p_i|pᵢ|pp ?(ᵀ|\^T|')",
    ),
    tells_loss=False,
)
def own_cross_entropy(case):
    class Mine(models.Torch):
        def __init__(self):
            super().__init__()
            self.cross_entropy = OwnCrossEntropy.apply

    return pt.plain(case, Mine())


class FusedNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, gamma, beta):
        over = tuple(range(x.ndim - 1))
        centred = x - x.mean(over)
        ctx.inv_std = torch.rsqrt((centred * centred).mean(over) + 2.0**-10)
        ctx.x_hat = centred * ctx.inv_std
        ctx.save_for_backward(gamma)
        return ctx.x_hat * gamma + beta

    @staticmethod
    def backward(ctx, g):
        (gamma,) = ctx.saved_tensors
        over, x_hat = tuple(range(g.ndim - 1)), ctx.x_hat
        h = g * gamma
        dx = ctx.inv_std * (h - h.mean(over) - x_hat * (h * x_hat).mean(over))
        return dx, (g * x_hat).sum(over), g.sum(over)


@wrong(
    "The fused batch norm has a right first derivative, but its backward uses x̂ and 1/σ from the forward pass as "
    "constants, so that the second derivative through the normalisation is missing.",
    near(
        r"batch.?norm|normali[sz]|\bbn\b|statistic|x̂|σ",
        r"second|twice|double|hessian|constant|detach|stop|curvature|saved|through",
    ),
    tells_loss=False,
)
def fused_norm(case):
    class Mine(models.Torch):
        def batch_norm(self, x, gamma, beta):
            return FusedNorm.apply(x, gamma, beta)

    return pt.plain(case, Mine())


# The state of modules, and their modes


@wrong(
    "The query set is evaluated in eval mode: batch norm normalises it with running statistics that were gathered on "
    "the support sets, and not with the mean and the variance of the query set itself.",
    near(
        r"batch.?norm|normali[sz]|\bbn\b|statistic",
        r"running|eval|support|moving|inference|(not|instead of|other than)[^.]{0,40}own|quer",
    ),
)
def eval_for_the_query(case):
    class Norm(models.Torch):
        training, momentum, running_mean, running_var = True, 0.1, 0.0, 1.0

        def batch_norm(self, x, gamma, beta):
            over = tuple(range(x.ndim - 1))
            if self.training:
                mean, var = x.mean(over), x.var(over, correction=0)
                kept = 1 - self.momentum
                self.running_mean = kept * self.running_mean + self.momentum * mean.detach()
                self.running_var = kept * self.running_var + self.momentum * x.var(over, correction=1).detach()
            else:
                mean, var = self.running_mean, self.running_var
            return (x - mean) / (var + 2.0**-10) ** 0.5 * gamma + beta

    layers = Norm()

    def one(loss, params, support, query):
        layers.training = True
        adapted = pt.adapt(case, loss, params, support)
        layers.training = False
        return loss(adapted, *query)

    return pt.over_tasks(case, one, layers)


@wrong(
    "Biases and other one-dimensional parameters live in a dictionary that is not reset: each task goes on with those "
    "that the task before has left, instead of starting from θ.",
    r"carr(y|ie)|reset|previous|task before|left ?over|leak|persist|preceding|former task|earlier task|across tasks"
    r"|not restored|one task (to|into) the next|start(s|ed|ing)? (from|at|where)[^.]{0,60}(task|left|end)|sequential"
    r"|(not|never) (start|begin)[^.]{0,20}θ",
    tells_loss=False,
)
def shallow_copy_of_the_state(case):
    loss, params, tasks = pt.given(case)
    state = {"weights": dict(params), "vectors": {n: p for n, p in params.items() if p.ndim == 1}}
    total = 0
    for support, query in tasks:
        fast = {"weights": dict(state["weights"]), "vectors": state["vectors"]}
        for _ in range(case.inner_steps):
            now = {n: fast["vectors"].get(n, fast["weights"][n]) for n in params}
            new = pt.step(now, pt.grads_of(loss(now, *support), now), case.inner_lr)
            fast["weights"].update(new)
            fast["vectors"].update({n: new[n] for n in fast["vectors"]})
        total = total + loss({n: fast["vectors"].get(n, fast["weights"][n]) for n in params}, *query)
    return pt.answer(total / len(tasks), params)


@wrong(
    "The support losses' backward() also accumulates into θ.grad, which is not zeroed before the outer backward: the "
    "gradients of the support losses of all inner steps are added to the meta-gradient.",
    r"accumul|zero.?grad|not zeroed|not cleared|\.grad\b|(added|plus|contains|includes|extra|sum of)[^.]{0,50}(support"
    r"|L_s|g_s)|(support (loss|grad)|L_s|g_s)[^.]{0,60}(added|also|as well|on top|included)|pollut|backward\(",
)
def backward_in_the_inner_loop(case):
    loss, params, tasks = pt.given(case)
    theta, total = pt.leaves(params), 0
    for support, query in tasks:
        fast = {n: p.clone() for n, p in theta.items()}
        for _ in range(case.inner_steps):
            for p in fast.values():
                p.retain_grad()
            loss(fast, *support).backward(create_graph=True)
            fast = {n: p - case.inner_lr * p.grad for n, p in fast.items()}
        outer = loss(fast, *query) / len(tasks)
        outer.backward()
        total = total + outer.detach()
    return {"meta_grad": {n: p.grad.detach() for n, p in theta.items()}, "meta_loss": total}


@wrong(
    "The hook that divides by T is registered anew on θ for every task and never removed, so the t-th task's "
    "gradient is "
    "divided by T^t: the later tasks weigh less and less.",
    r"hook|task[^.;]{0,60}(weighs|weighted|weight of|unequal|less|fraction|share|scaled)|(weighs|weighted"
    r"|unequal)[^.;]{0,60}task|T\^|T\*\*|T²|power of|geometric|later tasks|divided (again|twice|repeated|more)"
    r"|compound",
)
def hook_for_the_mean(case):
    loss, params, tasks = pt.given(case)
    theta, losses = pt.leaves(params), []
    for support, query in tasks:
        for p in theta.values():
            p.register_hook(lambda g: g / len(tasks))
        fast = pt.adapt(case, loss, {n: p.clone() for n, p in theta.items()}, support)
        losses.append(loss(fast, *query))
        losses[-1].backward()
    return {"meta_grad": {n: p.grad for n, p in theta.items()}, "meta_loss": mean_over(losses).detach()}


# Precision and memory


@wrong(
    "The inner gradients are unscaled through .data, which autograd does not see: their values are right, but their "
    "derivative is still that of the scaled loss, so that each Hessian is too great by the loss scale, 128.",
    r"scal(e|ed|ing)\b|unscal|128|hessian[^.]{0,60}(factor|multipl|too (large|great|big))|second.?order[^.]{0,60}(times"
    r"|factor|multipl)",
)
def loss_scale(case):
    scale = 128.0

    def one(loss, params, support, query):
        for _ in range(case.inner_steps):
            grads = pt.grads_of(loss(params, *support) * scale, params)
            grads = {n: g.clone() for n, g in grads.items()}
            for g in grads.values():
                g.data.div_(scale)
            params = pt.step(params, grads, case.inner_lr)
        return loss(params, *query)

    return pt.over_tasks(case, one)


@wrong(
    "The inner rate is held in half precision, so α is rounded to 11 bits before it is used.",
    r"half|float16|fp16|16.?bit|rounded|low(er)? precision"
    r"|(rate|α|alpha|inner_lr|step size)[^.]{0,60}(slightly|differ|not the|inexact|cast|round|precision)"
    r"|(other|different|slightly|inexact|rounded|rounding)[^.]{0,40}(rate|α|alpha|step size)",
    tells_loss=False,
)
def rate_in_half(case):
    rate = torch.tensor(case.inner_lr).half()

    def one(loss, params, support, query):
        for _ in range(case.inner_steps):
            params = pt.step(params, pt.grads_of(loss(params, *support), params), rate.item())
        return loss(params, *query)

    return pt.over_tasks(case, one)


@wrong(
    "The tensors that autograd saves for the backward pass are compressed to float16, so all derivatives, the inner "
    "gradients included, have three digits only.",
    r"half|float16|fp16|16.?bit|rounded|imprecis|precision|(few|three|3|fewer)[^.]{0,20}digits|compress|saved tensor",
)
def compressed_activations(case):
    def pack(t):
        return (t.half() if t.is_floating_point() else t), t.dtype

    def unpack(packed):
        t, dtype = packed
        return t.to(dtype)

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        return pt.plain(case)


class RecomputedStep(torch.autograd.Function):
    @staticmethod
    def forward(ctx, flat, learner):
        ctx.learner = learner
        ctx.save_for_backward(flat)
        with torch.enable_grad():
            at = flat.detach().requires_grad_()
            (g,) = torch.autograd.grad(learner.loss(at), at)
        return flat - learner.rate * g

    @staticmethod
    def backward(ctx, v):
        (flat,) = ctx.saved_tensors
        with torch.enable_grad():
            at = flat.detach().requires_grad_()
            (g,) = torch.autograd.grad(ctx.learner.loss(at), at, create_graph=True)
            (hv,) = torch.autograd.grad(g, at, v, allow_unused=True)
        return v - ctx.learner.rate * hv, None


class Learner:
    """A model with the set that it is shown, for RecomputedStep."""

    def __init__(self, loss, params, rate):
        self.of, self.params, self.rate, self.batch = loss, params, rate, None

    def loss(self, flat):
        return self.of(pt.unflatten(flat, self.params), *self.batch)


@wrong(
    "The checkpointed inner step is recomputed in the backward pass, which runs after the loop over tasks: by then the "
    "learner's batch is the last task's support set, so all tasks get Hessians of the last task's support loss.",
    r"last task('s|s')|of the last task|(other|another|wrong|different|final|same) task|recomput|checkpoint|stale"
    r"|support[^.]{0,50}(last|other|another) task|late.?bind|tasks?[^.]{0,60}(share|mixed|same hessian)",
    tells_loss=False,
)
def checkpointed_steps(case):
    loss, params, tasks = pt.given(case)
    learner, flat, total = Learner(loss, params, case.inner_lr), pt.flatten(params), 0
    for support, query in tasks:
        learner.batch, fast = support, flat
        for _ in range(case.inner_steps):
            fast = RecomputedStep.apply(fast, learner)
        total = total + loss(pt.unflatten(fast, params), *query)
    return pt.answer(total / len(tasks), params)


# Batches


@wrong(
    "The query loss is the mean of the means of minibatches of two, though the last minibatch may be smaller: an odd "
    "example weighs twice as much as the others.",
    r"mini-?batch|chunk|mean of (the )?means|average of (the )?averages|last (example|batch|query)|unequal|weighs"
    r"|weighted|weight of|over-?weight|examples?[^.]{0,60}(twice|more than)",
)
def query_in_minibatches(case):
    def one(loss, params, support, query):
        adapted = pt.adapt(case, loss, params, support)
        batches = list(zip(*(part.split(2) for part in query), strict=True))
        return sum(loss(adapted, *batch) for batch in batches) / len(batches)

    return pt.over_tasks(case, one)


@wrong(
    "Support and query are put together and split again in the middle, not after the N_s support examples: examples "
    "move from one set to the other.",
    r"split|halves|middle|half of|N_s|query[^.]{0,60}(in|into|to|among|with) (the )?support|support[^.]{0,60}(in|into"
    r"|to|among|with) (the )?query|leak|mixed|partition|boundary|equal size|same size",
    tells_loss=False,
)
def one_tensor_per_task(case):
    def one(loss, params, support, query):
        x, y = (torch.cat(pair) for pair in zip(support, query, strict=True))
        shots = len(x) // 2
        return loss(pt.adapt(case, loss, params, (x[:shots], y[:shots])), x[shots:], y[shots:])

    return pt.over_tasks(case, one)


@wrong(
    "With in_dims=(0, None, None) each task's adapted parameters are evaluated on the query sets of all tasks, not "
    "only "
    "on its own.",
    r"all (the )?(queries|query)|all (the )?tasks[^.]{0,20}quer|every (query|task's)|other tasks|own query|each query"
    r"|pairs? of|every pair|cross.?(product|task|evaluat)|in_dims|another task|(all|every)[^.]{0,20}query sets|pooled",
    tells_loss=False,
)
def vmapped_query(case):
    loss, params, ((xs, ys), (xq, yq)) = case.torch()

    def inner(params, x, y):
        for _ in range(case.inner_steps):
            params = pt.step(params, torch.func.grad(loss)(params, x, y), case.inner_lr)
        return params

    adapted = torch.func.vmap(inner, in_dims=(None, 0, 0))(params, xs, ys)
    over_sets = torch.func.vmap(loss, in_dims=(None, 0, 0))
    losses = torch.func.vmap(over_sets, in_dims=(0, None, None))(adapted, xq, yq)
    return pt.answer(losses.mean(), params)


@wrong(
    "The stacked tasks' support losses are averaged before they are differentiated, so each task's inner gradient is "
    "divided by T: the inner rate is α/T.",
    near(
        r"inner|support|\brate|step size|α|alpha",
        r"/ ?T\b|divided by (T|the number)|number of tasks|T times|averag|mean (over|of) (the )?tasks|too small|1/T",
    ),
)
def stacked_tasks(case):
    loss, params, ((xs, ys), (xq, yq)) = case.torch()
    fast = {n: p.expand(case.tasks, *p.shape) for n, p in params.items()}
    each = torch.func.vmap(loss)
    for _ in range(case.inner_steps):
        fast = pt.step(fast, pt.grads_of(each(fast, xs, ys).mean(), fast), case.inner_lr)
    return pt.answer(each(fast, xq, yq).mean(), params)


# Derivatives by hand


@wrong(
    "The reverse sweep takes each Hessian at the parameters after the step, θₖ₊₁, instead of at those before it, θₖ.",
    r"(hessian|curvature|\bH\w?)s?\b[^.;]{0,80}(θ_?\{?(k ?\+ ?1|ₖ₊₁)|after|adapted|updated|\bnew\b|\bnext\b|\blater\b"
    r"|moved|end of)|H_?\{?(k ?\+ ?1|ₖ₊₁)|θₖ₊₁ (in place|instead)|off.?by.?one|one step (late|too late|ahead|further"
    r"|on)",
    tells_loss=False,
)
def reverse_sweep(case):
    loss, params, tasks = pt.given(case)
    grads, losses = [], []
    for support, query in tasks:
        thetas = pt.path(case, loss, params, support)
        losses.append(loss(thetas[-1], *query))
        v = pt.grads_of(losses[-1], thetas[-1], create_graph=False)
        for theta in reversed(thetas[1:]):
            v = pt.step(v, pt.hvp(loss, theta, support, v), case.inner_lr)
        grads.append(v)
    return {"meta_grad": mean_over(grads), "meta_loss": mean_over(losses).detach()}


@wrong(
    "The query gradient is pushed forward through the inner loop as a tangent (jvp), where it must be pulled back "
    "(vjp): "
    "the factors I − αHₖ are applied in the reverse order, without transposing the product.",
    r"(wrong|revers\w*|opposite|forward|backward\w*|inverse) order|order (of|in which) (the )?(factor|product|hessian"
    r"|step|mult)|transpos[^.]{0,40}(product|jacobian|factor)|(product|jacobian|factor)s?[^.]{0,40}(transpos|revers)"
    r"|jvp|vjp|forward.?mode|tangent|pushed|k ?= ?0[^.]{0,12}K",
)
def tangent_of_the_inner_loop(case):
    loss, params, tasks = pt.given(case)
    grads, losses = [], []
    for support, query in tasks:
        adapted = pt.path(case, loss, params, support)[-1]
        losses.append(loss(adapted, *query))
        primal, tangent = pt.leaves(params), pt.grads_of(losses[-1], adapted, create_graph=False)
        for _ in range(case.inner_steps):
            slope = pt.grads_of(loss(primal, *support), primal, create_graph=False)
            tangent = pt.step(tangent, pt.hvp(loss, primal, support, tangent), case.inner_lr)
            primal = pt.leaves(pt.step(primal, slope, case.inner_lr))
        grads.append(tangent)
    return {"meta_grad": mean_over(grads), "meta_loss": mean_over(losses).detach()}


@wrong(
    "In the first Hessian-vector product the vector v = ∇L_q(θ_K) is not detached and still depends on θ_{K−1}: "
    "differentiating ⟨g_s, v⟩ adds a term with the Hessian of the query loss times the support gradient.",
    r"not (been )?(detached|held|a constant|constant|treated)|attached|∂v|(hessian|curvature"
    r"|second derivative)s? of (the )?query|query[^.]{0,20}(hessian|curvature)|H_q|∇²L_q|product rule|extra term"
    r"|inner product|dot product|still depends|missing detach|\bv\b[^.]{0,20}depends",
)
def attached_vector(case):
    loss, params, tasks = pt.given(case)
    grads, losses = [], []
    for support, query in tasks:
        thetas, slopes = [params], []
        for _ in range(case.inner_steps):
            slopes.append(pt.grads_of(loss(thetas[-1], *support), thetas[-1]))
            thetas.append(pt.step(thetas[-1], slopes[-1], case.inner_lr))
        losses.append(loss(thetas[-1], *query))
        v = pt.grads_of(losses[-1], thetas[-1])
        for theta, slope in zip(reversed(thetas[:-1]), reversed(slopes), strict=True):
            hv = pt.grads_of(pt.dot(slope, v), theta)
            v = {n: (v[n] - case.inner_lr * hv[n]).detach() for n in v}
        grads.append(v)
    return {"meta_grad": mean_over(grads), "meta_loss": mean_over(losses).detach()}


@wrong(
    "Each step's factor is (I + αH)⁻¹, as in implicit MAML, instead of I − αH: that is the derivative of an implicit "
    "(proximal) step, not of gradient descent.",
    r"\binvers|implicit|imaml|\bsolve|linear system|⁻¹|\^\{?-1\b|proximal|backward euler|conjugate|neumann"
    r"|higher (order|power)s? (of|in) (α|H)",
    tells_loss=False,
)
def solve_for_each_step(case):
    loss, params, tasks = pt.given(case)
    grads, losses = [], []
    for support, query in tasks:
        thetas = pt.path(case, loss, params, support)
        losses.append(loss(thetas[-1], *query))
        v = pt.flatten(pt.grads_of(losses[-1], thetas[-1], create_graph=False))
        for theta in reversed(thetas[:-1]):
            hessian = torch.autograd.functional.hessian(
                lambda flat, support=support: loss(pt.unflatten(flat, params), *support), pt.flatten(theta).detach()
            )
            v = torch.linalg.solve(torch.eye(len(v), dtype=v.dtype) + case.inner_lr * hessian, v)
        grads.append(pt.unflatten(v, params))
    return {"meta_grad": mean_over(grads), "meta_loss": mean_over(losses).detach()}


@wrong(
    "The Hessian of the support loss is replaced by its Gauss–Newton part JᵀH_L J: the curvature of the model "
    "itself, the "
    "residual times its second derivative, is left out.",
    r"newton|\bGGN|fisher|JᵀH|J\^T|second derivatives? of the (model|network|output)|curvature of the (model|network"
    r"|output)|lineari[sz]",
)
def generalised_newton(case):
    loss, params, tasks = pt.given(case)

    class Outputs(models.Torch):
        def outputs(self, o, y):
            return o

    layers = Outputs()
    forward = models.loss_in(layers, {**case.model, "loss": "outputs"})
    of_outputs = torch.mean if case.model["loss"] == "mean" else getattr(layers, case.model["loss"])

    def product(theta, x, y, v):
        at = pt.leaves(theta)
        o = forward(at, x, y)
        dummy = torch.zeros_like(o, requires_grad=True)
        pulled = pt.grads_of((o * dummy).sum(), at)
        (jv,) = torch.autograd.grad(pt.dot(pulled, v), dummy)
        out = o.detach().requires_grad_()
        value = of_outputs(out) if case.model["loss"] == "mean" else of_outputs(out, y)
        (slope,) = torch.autograd.grad(value, out, create_graph=True)
        if not slope.requires_grad:
            return {n: torch.zeros_like(p) for n, p in at.items()}
        (hjv,) = torch.autograd.grad((slope * jv).sum(), out)
        return pt.grads_of((forward(at, x, y) * hjv).sum(), at, create_graph=False)

    grads, losses = [], []
    for support, query in tasks:
        thetas = pt.path(case, loss, params, support)
        losses.append(loss(thetas[-1], *query))
        v = pt.grads_of(losses[-1], thetas[-1], create_graph=False)
        for theta in reversed(thetas[:-1]):
            v = pt.step(v, product(theta, *support, v), case.inner_lr)
        grads.append(v)
    return {"meta_grad": mean_over(grads), "meta_loss": mean_over(losses).detach()}


# The inner loop


@wrong(
    "The fast weights are p.data − α g: the direct path through θ is cut and only the one through the gradient is "
    "left, "
    "so each factor is −αH instead of I − αH.",
    r"(p|θ\w?|param\w*)\.data\b|direct (path|term|depend|deriv|part)|identity|(only|just)[^.]{0,40}(−|-) ?[αA]H|(θ\w?"
    r"|parameters?|fast weights?)[^.]{0,30}(detached|constant|stop.?grad)|detach[^.]{0,40}(parameters?|fast weights)"
    r"|(lacks|without|missing|lost|drop|left out|omit)[^.]{0,30}\bI\b",
    tells_loss=False,
)
def update_of_the_data(case):
    def one(loss, params, support, query):
        for _ in range(case.inner_steps):
            grads = pt.grads_of(loss(params, *support), params)
            params = {n: p.data - case.inner_lr * grads[n] for n, p in params.items()}
        return loss(params, *query)

    return pt.over_tasks(case, one)


@wrong(
    "The parameters are updated one after another, and each one's gradient is taken after those before it were already "
    "changed: Gauss–Seidel, not a gradient step of all at once.",
    r"seidel|one after (another|the other)|one at a time|already (been )?(updated|changed|adapted)|sequential"
    r"|simultaneous"
    r"|coordinate|all at once|in turn|block|(layer|parameter).?(by|wise)",
)
def parameter_by_parameter(case):
    def one(loss, params, support, query):
        fast = dict(params)
        for _ in range(case.inner_steps):
            for name in fast:
                p = fast[name].clone()
                (g,) = torch.autograd.grad(loss({**fast, name: p}, *support), p, create_graph=True)
                fast[name] = p - case.inner_lr * g
        return loss(fast, *query)

    return pt.over_tasks(case, one)


@wrong(
    "The flat gradient is in the order of sorted names, as JAX's ravel_pytree makes it, but the flat parameters are in "
    "the order of the dictionary: in the inner loop each parameter gets the gradient of another.",
    r"\bsort|(wrong|other|another|different|same|name) order|order of|permut|alphabet|ravel|flat(ten)?\b|(wrong"
    r"|another|other) parameter"
    r"|mix(ed|es)|swap|misalign|mismatch|shuffl",
    tells_loss=False,
)
def ravelled_gradient(case):
    def one(loss, params, support, query):
        flat = pt.flatten(params)
        for _ in range(case.inner_steps):
            now = pt.unflatten(flat, params)
            grads = pt.grads_of(loss(now, *support), now)
            flat = flat - case.inner_lr * torch.cat([grads[n].reshape(-1) for n in sorted(grads)])
        return loss(pt.unflatten(flat, params), *query)

    return pt.over_tasks(case, one)


# Layers and losses, and ports of them


@wrong(
    "The weight matrix is brought to PyTorch's (out, in) by view, not by a transpose, so its elements are scrambled "
    "whenever it is neither a row nor a column.",
    near(
        r"transpos|reshape|\bview\b|scrambl|layout|(row|column)-major|permut",
        r"weight|matri|linear|\bw\b|element",
    ),
)
def weights_for_f_linear(case):
    class Mine(models.Torch):
        def linear(self, x, w, b=None):
            return F.linear(x, w.view(w.shape[1], w.shape[0]), b)

    return pt.plain(case, Mine())


@wrong(
    "F.cross_entropy is given probabilities: softmax is applied to the outputs twice.",
    near(
        r"softmax|probabilit|cross.?entropy|logits",
        r"twice|double|again|probabilit|already|two soft|second soft|of (the )?softmax",
    ),
)
def probabilities(case):
    class Mine(models.Torch):
        def __init__(self):
            super().__init__()
            self.cross_entropy = lambda o, y: F.cross_entropy(torch.softmax(o, -1), y)

    return pt.plain(case, Mine())


@wrong(
    "The targets are squeezed to (N) while the outputs are (N, 1): their difference is broadcast to N × N, and every "
    "output is compared with every target.",
    r"broadcast|squeez|N ?[×x*] ?N|every (target|output|pair)|all (pairs|targets)|outer difference|each (output"
    r"|prediction) with"
    r"|mean (of the )?target",
    tells_loss=False,
)
def squeezed_targets(case):
    class Mine(models.Torch):
        def mse(self, o, y):
            return torch.mean((o - y.squeeze(-1)) ** 2)

    return pt.plain(case, Mine())


# The outer loop


@wrong(
    "The running average over tasks is (average + new)/2, which is the mean for two tasks only: with more, the last "
    "task "
    "weighs ½, the one before ¼, and so on.",
    r"(running|moving|exponential)(ly)?[- ](average|mean|weight)|task[^.;]{0,80}(weighs|weighed|weighted|weight of"
    r"|unequal|½|half|1/2|halv)|(weighs|weighted|unequal|halv)[^.;]{0,80}task|more than two|T ?(≥|>=|>) ?[23]|pairwise"
    r"|last task",
)
def running_average(case):
    loss, params, tasks = pt.given(case)
    average = None
    for support, query in tasks:
        value = loss(pt.adapt(case, loss, params, support), *query)
        average = value if average is None else (average + value) / 2
    return pt.answer(average, params)


@wrong(
    "The outer optimizer steps after every task, so the later tasks' meta-gradients are taken at a θ that has moved "
    "already, not all at the same θ.",
    r"outer (step|update|optimi|rate|lr)|outer_lr|moved|after (each|every) task|online|sequential"
    r"|already (been )?(updated|changed)"
    r"|updated θ|meta.?(update|step|optimi)|same θ|between (the )?tasks|earlier tasks?|previous task",
    tells_loss=False,
)
def step_after_every_task(case):
    loss, params, tasks = pt.given(case)
    theta, losses = pt.leaves(params), []
    optimizer = torch.optim.SGD(theta.values(), lr=case.outer_lr)
    total = {n: torch.zeros_like(p) for n, p in theta.items()}
    for support, query in tasks:
        optimizer.zero_grad()
        losses.append(loss(pt.adapt(case, loss, theta, support), *query))
        losses[-1].backward()
        total = {n: total[n] + p.grad / len(tasks) for n, p in theta.items()}
        optimizer.step()
    return {"meta_grad": total, "meta_loss": mean_over(losses).detach()}


# Two at once


@wrong(
    "The last inner step is taken without create_graph, so that its Hessian is missing; and batch norm divides by the "
    "unbiased variance (torch.var's default, N − 1).",
    r"last (inner )?(step|update|hessian|factor)|final (inner )?(step|update)|H_?\{?K ?[-−] ?1|H_\{?K₋₁"
    r"|θ_?\{?K ?[-−] ?1|create_graph|detach|truncat",
    r"unbiased|bessel|N ?[-−] ?1|correction|varian",
    tells_loss=False,
)
def saves_the_last_graph(case):
    class Mine(models.Torch):
        def batch_norm(self, x, gamma, beta):
            over = tuple(range(x.ndim - 1))
            return (x - x.mean(over)) / torch.sqrt(x.var(over) + 2.0**-10) * gamma + beta

    def one(loss, params, support, query):
        for k in range(case.inner_steps):
            grads = pt.grads_of(loss(params, *support), params, create_graph=k < case.inner_steps - 1)
            params = pt.step(params, grads, case.inner_lr)
        return loss(params, *query)

    return pt.over_tasks(case, one, Mine())


@wrong(
    "The inner rate decays as α/(k + 1) from step to step; and the query set is cut to as many examples as the support "
    "set has.",
    r"decay|schedul|anneal|/ ?\(?k ?\+ ?1|(rate|α|alpha)[^.]{0,60}(shrink|smaller|falls|each step|every step"
    r"|from step)|per.?step|harmonic",
    r"\bcut|truncat|slice|dropped|subset|(first|only|fewer|some|not all|rest|as many|N_s|last)[^.]{0,40}(query|example)"
    r"|query[^.]{0,60}(first|only|fewer|some|ignored|left out|omitted|missing|N_s)|N_q",
    tells_loss=False,
)
def decaying_rate(case):
    def one(loss, params, support, query):
        shots = len(support[0])
        for k in range(case.inner_steps):
            params = pt.step(params, pt.grads_of(loss(params, *support), params), case.inner_lr / (k + 1))
        return loss(params, query[0][:shots], query[1][:shots])

    return pt.over_tasks(case, one)


@wrong(
    "The inner SGD has a weight decay of 0.01, which draws θₖ to 0 in every step; and the tasks are summed, not "
    "averaged.",
    r"weight.?decay|L2|ridge|shrink|regulari[sz]|penalty|decay|αλ",
    r"sum(s|med|ming)?\b|not averaged|1 ?/ ?T|divi|times T|T times|number of tasks|mean over (the )?tasks"
    r"|factor (of )?T",
)
def weight_decay(case):
    loss, params, tasks = pt.given(case)
    total = 0
    for support, query in tasks:
        fast = params
        for _ in range(case.inner_steps):
            grads = pt.grads_of(loss(fast, *support), fast)
            grads = {n: g + 0.01 * fast[n] for n, g in grads.items()}
            fast = pt.step(fast, grads, case.inner_lr)
        total = total + loss(fast, *query)
    return pt.answer(total, params)


@wrong(
    "The names that end in a bias do not match in functional_call, so one-dimensional parameters are not adapted in "
    "the "
    "inner loop; and the cross-entropy smooths its labels by 0.1.",
    r"\bbias(es)?\b|one-?dimensional|1-?d\b|not adapt|(not|n't) (change|update)|frozen|held fixed|only the (weight"
    r"|matri)|partial"
    r"|some parameters|subset|unadapted|skipp",
    r"smooth|soft (target|label)|uniform",
    tells_loss=False,
)
def names_without_a_match(case):
    class Mine(models.Torch):
        def __init__(self):
            super().__init__()
            self.cross_entropy = lambda o, y: F.cross_entropy(o, y, label_smoothing=0.1)

    def one(loss, params, support, query):
        fast = {n: p for n, p in params.items() if p.ndim != 1}
        for _ in range(case.inner_steps):
            now = {**params, **fast}
            grads = pt.grads_of(loss(now, *support), now)
            fast = {n: p - case.inner_lr * grads[n] for n, p in fast.items()}
        return loss({**params, **fast}, *query)

    return pt.over_tasks(case, one, Mine())


@wrong(
    "The inner optimizer has a momentum of 0.5, so that from the second step on the former gradient is added; and "
    "batch "
    "norm has PyTorch's ε of 1e-5, not 2^-10.",
    r"momentum|heavy.?ball|velocity|polyak|nesterov|moving average|(former|previous|past|earlier|accumulated) gradient",
    r"ε|eps|1e-0?5|10\^-5|2\^-10",
)
def sgd_with_momentum(case):
    class Mine(models.Torch):
        def batch_norm(self, x, gamma, beta):
            moved = x.movedim(-1, 1)
            return F.batch_norm(moved, None, None, gamma, beta, training=True).movedim(1, -1)

    def one(loss, params, support, query):
        buffers = {n: torch.zeros_like(p) for n, p in params.items()}
        for _ in range(case.inner_steps):
            grads = pt.grads_of(loss(params, *support), params)
            buffers = {n: 0.5 * buffers[n] + g for n, g in grads.items()}
            params = pt.step(params, buffers, case.inner_lr)
        return loss(params, *query)

    return pt.over_tasks(case, one, Mine())


@wrong(
    "Each step is taken from θ₀ with the gradient at θₖ, θₖ₊₁ = θ₀ − α g(θₖ), instead of from θₖ; and the squared "
    "error is "
    "summed over the outputs and averaged over the examples only.",
    r"θ_?0 ?[-−]|θ₀ ?[-−]|from (θ\b|θ_?0|θ₀|the (initial|start|original|first))|initial|original|not cumul"
    r"|instead of (from )?θ|anchor|restart",
    r"(by|over|factor|times) C\b|N·C|outputs|components|columns|\bsum|per.?example|over N\b|reduction|squared error"
    r"|\bmse\b",
)
def always_from_the_start(case):
    class Mine(models.Torch):
        def mse(self, o, y):
            return ((o - y) ** 2).sum(-1).mean()

    def one(loss, params, support, query):
        fast = params
        for _ in range(case.inner_steps):
            fast = pt.step(params, pt.grads_of(loss(fast, *support), fast), case.inner_lr)
        return loss(fast, *query)

    return pt.over_tasks(case, one, Mine())


@wrong(
    "The outer loss is taken on the support and the query examples together; and the filters are flipped, a true "
    "convolution where a cross-correlation is meant.",
    near(
        r"support",
        r"together|joint|union|concat|both|all (the )?examples|also|as well|plus|added|contain|includ|mixed|outer"
        r"|meta-?loss",
    ),
    r"flip|true convolution|correlation|rotat|mirror|filter|kernel",
)
def examples_of_both_sets(case):
    class Mine(models.Torch):
        def conv(self, x, w, stride, padding):
            return super().conv(x, w.flip(0, 1), stride, padding)

    def one(loss, params, support, query):
        x, y = (torch.cat(pair) for pair in zip(support, query, strict=True))
        return loss(pt.adapt(case, loss, params, support), x, y)

    return pt.over_tasks(case, one, Mine())


@wrong(
    "The inner gradients are clamped to ±0.25 per element; and convolutions of padding SAME put the odd row and column "
    "of zeros above and left, where it belongs below and right.",
    r"clip|clamp|±|bounded|limit|saturat|cut off",
    r"padd|[\"'‘“]SAME|zeros? (row|column|above|around|on|goes|go)|of zeros|shifted|asymmetric|border|\btop\b",
    tells_loss=False,
)
def clipped_inner_gradients(case):
    class Mine(models.Torch):
        def conv(self, x, w, stride, padding):
            around = []
            for n, k in ((x.shape[2], w.shape[1]), (x.shape[1], w.shape[0])):
                zeros = max((-(-n // stride) - 1) * stride + k - n, 0)
                around += [zeros - zeros // 2, zeros // 2]
            x = F.pad(x.permute(0, 3, 1, 2), around)
            return F.conv2d(x, w.permute(3, 2, 0, 1), stride=stride).permute(0, 2, 3, 1)

    def one(loss, params, support, query):
        for _ in range(case.inner_steps):
            grads = pt.grads_of(loss(params, *support), params)
            params = pt.step(params, {n: g.clamp(-0.25, 0.25) for n, g in grads.items()}, case.inner_lr)
        return loss(params, *query)

    return pt.over_tasks(case, one, Mine())


# Right ones


@correct("torch.func throughout: vmap over tasks of grad through the functional inner loop, then the mean over axis 0.")
def functional(case):
    loss, params, ((xs, ys), (xq, yq)) = case.torch()
    params = {n: p.detach() for n, p in params.items()}

    def outer(params, xs, ys, xq, yq):
        for _ in range(case.inner_steps):
            params = pt.step(params, torch.func.grad(loss)(params, xs, ys), case.inner_lr)
        return loss(params, xq, yq)

    each = torch.func.vmap(torch.func.grad_and_value(outer), in_dims=(None, 0, 0, 0, 0))
    grads, losses = each(params, xs, ys, xq, yq)
    return {"meta_grad": {n: g.mean(0) for n, g in grads.items()}, "meta_loss": losses.mean()}


@correct("By hand: a constant path and Hessian-vector products, the tasks in the reverse order, the mean at the end.")
def products_in_reverse(case):
    loss, params, tasks = pt.given(case)
    total, value = {n: torch.zeros_like(p) for n, p in params.items()}, 0
    for support, query in reversed(tasks):
        *before, adapted = pt.path(case, loss, params, support)
        lq = loss(adapted, *query)
        v = pt.grads_of(lq, adapted, create_graph=False)
        while before:
            v = pt.step(v, pt.hvp(loss, before.pop(), support, v), case.inner_lr)
        for n in total:
            total[n] = total[n] + v[n].detach()
        value = value + lq.detach()
    return {"meta_grad": {n: g.detach() / len(tasks) for n, g in total.items()}, "meta_loss": value / len(tasks)}


@correct("Inner steps that are recomputed in an autograd Function's backward, each with its task's own support set.")
def recomputed_steps(case):
    loss, params, tasks = pt.given(case)
    flat, total = pt.flatten(params), 0
    for support, query in tasks:
        learner, fast = Learner(loss, params, case.inner_lr), flat
        learner.batch = support
        for _ in range(case.inner_steps):
            fast = RecomputedStep.apply(fast, learner)
        total = total + loss(pt.unflatten(fast, params), *query)
    return pt.answer(total / len(tasks), params)


@correct(
    "backward() into θ.grad task by task, one hook that divides by T, saved tensors offloaded, scaled by 2¹⁰ and back."
)
def hooks_and_buffers(case):
    loss, params, tasks = pt.given(case)
    theta, value = pt.leaves(params), 0
    for p in theta.values():
        p.register_hook(lambda g: g / len(tasks))
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.clone(), lambda t: t):
        for support, query in tasks:
            fast = {n: p.clone() for n, p in theta.items()}
            for _ in range(case.inner_steps):
                grads = pt.grads_of(loss(fast, *support) * 1024, fast)
                fast = {n: p.sub(grads[n] / 1024, alpha=case.inner_lr) for n, p in fast.items()}
            outer = loss(fast, *query)
            (outer * 1024).backward()
            value += outer.item()
    with torch.no_grad():
        for p in theta.values():
            p.grad.div_(1024)
    return {"meta_grad": {n: p.grad for n, p in theta.items()}, "meta_loss": value / len(tasks)}


@correct("Two backward passes for each Hessian-vector product, as the derivative of a vjp by a dummy cotangent.")
def double_vjp(case):
    loss, params, tasks = pt.given(case)
    grads, losses = [], []
    for support, query in tasks:
        thetas = pt.path(case, loss, params, support)
        losses.append(loss(thetas[-1], *query))
        v = pt.grads_of(losses[-1], thetas[-1], create_graph=False)
        for theta in reversed(thetas[:-1]):
            at = pt.leaves(theta)
            slope = pt.grads_of(loss(at, *support), at)
            dummy = {n: torch.zeros_like(p, requires_grad=True) for n, p in at.items()}
            pulled = pt.grads_of(pt.dot(slope, dummy), at)
            hv = pt.grads_of(pt.dot(pulled, v), dummy, create_graph=False)
            v = pt.step(v, hv, case.inner_lr)
        grads.append(v)
    return {"meta_grad": mean_over(grads), "meta_loss": mean_over(losses).detach()}


@correct("Dense Jacobians of the steps, multiplied up from the left, then transposed onto the query gradient.")
def dense_jacobians(case):
    loss, params, tasks = pt.given(case)
    grads, losses = [], []
    for support, query in tasks:
        flat = pt.flatten(params).detach()
        jacobian = torch.eye(len(flat), dtype=flat.dtype)

        def of_support(flat, support=support):
            return loss(pt.unflatten(flat, params), *support)

        for _ in range(case.inner_steps):
            hessian = torch.autograd.functional.hessian(of_support, flat)
            jacobian = jacobian - case.inner_lr * hessian @ jacobian
            at = flat.clone().requires_grad_()
            flat = flat - case.inner_lr * torch.autograd.grad(of_support(at), at)[0]
        at = flat.clone().requires_grad_()
        losses.append(loss(pt.unflatten(at, params), *query))
        grads.append(pt.unflatten(jacobian.T @ torch.autograd.grad(losses[-1], at)[0], params))
    return {"meta_grad": mean_over(grads), "meta_loss": mean_over(losses).detach()}


class SavedTanh(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        y = torch.tanh(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, g):
        (y,) = ctx.saved_tensors
        return g * (1 - y * y)


@correct(
    "Other forms of the layers: einsum, unfolded convolutions, own tanh, one-hot cross-entropy, the mean as a dot."
)
def other_layers(case):
    class Mine(models.Torch):
        def __init__(self):
            super().__init__()
            self.tanh = SavedTanh.apply

        def linear(self, x, w, b=None):
            y = torch.einsum("na,ab->nb", x, w)
            return y if b is None else y + b

        def conv(self, x, w, stride, padding):
            around = []
            for n, k in ((x.shape[2], w.shape[1]), (x.shape[1], w.shape[0])):
                zeros = max((-(-n // stride) - 1) * stride + k - n, 0)
                around += [zeros // 2, zeros - zeros // 2]
            x = F.pad(x, [0, 0, *around])
            windows = x.unfold(1, w.shape[0], stride).unfold(2, w.shape[1], stride)
            return torch.einsum("nijcpq,pqco->nijo", windows, w)

        def cross_entropy(self, o, y):
            hot = F.one_hot(y, o.shape[-1]).to(o.dtype)
            return (torch.logsumexp(o, -1) - (hot * o).sum(-1)).mean()

        def mse(self, o, y):
            error = (o - y).reshape(-1)
            return error @ error / error.numel()

    layers = Mine()
    layers.cross_entropy = lambda o, y: Mine.cross_entropy(layers, o, y)
    return pt.plain(case, layers)
