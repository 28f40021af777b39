"""The blind set in PyTorch. The helpers are honest; a mistake stands in the function that bears its name."""

from __future__ import annotations

import torch
from torch.autograd import grad
from torch.nn import functional as F  # noqa: N812
from torch.utils.checkpoint import checkpoint

from tinymaml.oracle import models

from ..entries import correct, wrong
from ..in_torch import adapt, answer, dot, given, grads_of, over_tasks, plain, step


def hvp(loss, params, batch, v):
    """The Hessian of the loss at these parameters, times v."""
    at = {n: p.detach().requires_grad_() for n, p in params.items()}
    return grads_of(dot(grads_of(loss(at, *batch), at), v), at, create_graph=False)


def path(case, loss, params, support):
    """[θ₀, …, θ_K], all constants."""
    thetas = [{n: p.detach().requires_grad_() for n, p in params.items()}]
    for _ in range(case.inner_steps):
        at = thetas[-1]
        new = step(at, grads_of(loss(at, *support), at, False), case.inner_lr)
        thetas.append({n: p.detach().requires_grad_() for n, p in new.items()})
    return thetas


def by_products(case, back, at_query=-1):
    """The mean over tasks of back(loss, [θ₀ … θ_K], support, g_q)."""
    loss, params, tasks = given(case)
    total, value = {n: torch.zeros_like(p) for n, p in params.items()}, 0.0
    for support, query in tasks:
        thetas = path(case, loss, params, support)
        last = thetas[at_query]
        value_q = loss(last, *query)
        v = back(loss, thetas, support, grads_of(value_q, last, False))
        total = {n: total[n] + v[n] / len(tasks) for n in total}
        value = value + value_q.detach() / len(tasks)
    return {"meta_grad": total, "meta_loss": value}


# ── wrong: the inner loop ───────────────────────────────────────────────────────────────────────────────────────────


@wrong(
    "inner gradients are taken without a graph except in the last step: earlier curvature is lost",
    "trunc|last step|last inner step|earlier steps|only the last",
)
def graph_in_last_step(case):
    def one(loss, p, s, q):
        for k in range(case.inner_steps):
            p = step(p, grads_of(loss(p, *s), p, create_graph=k == case.inner_steps - 1), case.inner_lr)
        return loss(p, *q)

    return over_tasks(case, one)


@wrong(
    "only the first inner step has a graph: the Hessians of later steps are missing",
    "first step|first inner step|later steps|only the first|step 0",
    tells_loss=False,
)
def graph_in_first_step(case):
    def one(loss, p, s, q):
        for k in range(case.inner_steps):
            p = step(p, grads_of(loss(p, *s), p, create_graph=not k), case.inner_lr)
        return loss(p, *q)

    return over_tasks(case, one)


class Fast:
    """In the manner of `higher`: a copy of the parameters that follows its optimiser."""

    def __init__(self, loss, params, rate, track=True):
        self.loss, self.params, self.rate, self.track = loss, params, rate, track

    def step(self, batch):
        gs = grads_of(self.loss(self.params, *batch), self.params, create_graph=True)
        self.params = step(self.params, gs if self.track else {n: g.detach() for n, g in gs.items()}, self.rate)


@wrong("the differentiable optimiser does not track higher gradients: first-order MAML", "first.order|fomaml|detach")
def not_tracked(case):
    def one(loss, p, s, q):
        fast = Fast(loss, p, case.inner_lr, track=False)
        for _ in range(case.inner_steps):
            fast.step(s)
        return loss(fast.params, *q)

    return over_tasks(case, one)


@wrong("one inner step too many", "one step (too )?(many|more)|extra (inner )?step|k ?\\+ ?1|more steps")
def closed_range(case):
    def one(loss, p, s, q):
        k = 0
        while k <= case.inner_steps:
            p = step(p, grads_of(loss(p, *s), p), case.inner_lr)
            k += 1
        return loss(p, *q)

    return over_tasks(case, one)


@wrong(
    "the inner gradient accumulates over steps: zero_grad is missing, so each step adds all earlier gradients",
    "accumul|zero_grad|zero grad|not zeroed|momentum 1|sum of (the )?(earlier|all)",
    tells_loss=False,
)
def grads_accumulate(case):
    def one(loss, p, s, q):
        held = {n: 0.0 for n in p}
        for _ in range(case.inner_steps):
            gs = grads_of(loss(p, *s), p)
            held = {n: held[n] + gs[n] for n in gs}
            p = step(p, held, case.inner_lr)
        return loss(p, *q)

    return over_tasks(case, one)


@wrong("the inner SGD has Nesterov momentum 0.9", "momentum|nesterov")
def nesterov(case):
    def one(loss, p, s, q):
        buf = None
        for _ in range(case.inner_steps):
            gs = grads_of(loss(p, *s), p)
            buf = gs if buf is None else {n: 0.9 * buf[n] + gs[n] for n in gs}
            p = step(p, {n: gs[n] + 0.9 * buf[n] for n in gs}, case.inner_lr)
        return loss(p, *q)

    return over_tasks(case, one)


@wrong("the inner optimiser decays weights with 1e-4", "weight.decay|decay|l2|regulari", tells_loss=False)
def weight_decay(case):
    def one(loss, p, s, q):
        for _ in range(case.inner_steps):
            gs = grads_of(loss(p, *s), p)
            p = step(p, {n: gs[n] + 1e-4 * p[n] for n in gs}, case.inner_lr)
        return loss(p, *q)

    return over_tasks(case, one)


@wrong("inner gradients are clipped to norm 1 (the scale is differentiated, too)", "clip|norm of the (inner )?gradient")
def clipped_inner(case):
    def one(loss, p, s, q):
        for _ in range(case.inner_steps):
            gs = grads_of(loss(p, *s), p)
            norm = sum((g**2).sum() for g in gs.values()) ** 0.5
            scale = torch.clamp(1.0 / (norm + 1e-6), max=1.0)
            p = step(p, {n: g * scale for n, g in gs.items()}, case.inner_lr)
        return loss(p, *q)

    return over_tasks(case, one)


@wrong(
    "the inner rate decays by 0.999 per step",
    "\\brates?\\b|schedule|decay|step size|\\blr\\b|inner_lr",
    tells_loss=False,
)
def rate_decays(case):
    def one(loss, p, s, q):
        rate = case.inner_lr
        for _ in range(case.inner_steps):
            p = step(p, grads_of(loss(p, *s), p), rate)
            rate *= 0.999
        return loss(p, *q)

    return over_tasks(case, one)


@wrong("a proximal term 0.001/2 ‖θ − θ₀‖² is added to the support loss", "proximal|prox|regulari|distance to|imaml")
def proximal(case):
    def one(loss, p0, s, q):
        p = p0
        for _ in range(case.inner_steps):
            near = sum(((p[n] - p0[n]) ** 2).sum() for n in p)
            p = step(p, grads_of(loss(p, *s) + 0.0005 * near, p), case.inner_lr)
        return loss(p, *q)

    return over_tasks(case, one)


@wrong("biases do not adapt in the inner loop", "bias", tells_loss=False)
def weights_only(case):
    def one(loss, p, s, q):
        moving = [n for n in p if not n.startswith("b")]
        for _ in range(case.inner_steps):
            gs = grads_of(loss(p, *s), p)
            p = {n: p[n] - case.inner_lr * gs[n] if n in moving else p[n] for n in p}
        return loss(p, *q)

    return over_tasks(case, one)


@wrong("batch norm's γ and β do not adapt in the inner loop", "gamma|beta|γ|β|batch.?norm|scale and shift")
def norm_parameters_stay(case):
    def one(loss, p, s, q):
        for _ in range(case.inner_steps):
            gs = grads_of(loss(p, *s), p)
            p = {n: p[n] if n.startswith(("gamma", "beta")) else p[n] - case.inner_lr * gs[n] for n in p}
        return loss(p, *q)

    return over_tasks(case, one)


@wrong(
    "the support batches drop their incomplete last one (batch size 2, drop_last): an odd set loses an example",
    "drop|last example|example.*(missing|left out|lost|ignored)|fewer examples|part of the support",
)
def drop_last(case):
    def one(loss, p, s, q):
        n = max(len(s[0]) // 2 * 2, 1)
        return loss(adapt(case, loss, p, (s[0][:n], s[1][:n])), *q)

    return over_tasks(case, one)


@wrong(
    "each inner step sees only every other example of the support set: minibatches in turn",
    "mini.?batch|part of the support|half of the support|subset",
    tells_loss=False,
)
def minibatches(case):
    def one(loss, p, s, q):
        for k in range(case.inner_steps):
            part = (s[0], s[1]) if len(s[0]) == 1 else (s[0][k % 2 :: 2], s[1][k % 2 :: 2])
            p = step(p, grads_of(loss(p, *part), p), case.inner_lr)
        return loss(p, *q)

    return over_tasks(case, one)


@wrong(
    "the learner is not reset: a task starts from the parameters that the last task ended with",
    "reset|carr|leak|previous task|starts? (from|at)|sequential",
)
def not_reset(case):
    loss, params, tasks = given(case)
    fast, total = params, 0.0
    for s, q in tasks:
        fast = adapt(case, loss, fast, s)
        total = total + loss(fast, *q) / len(tasks)
    return answer(total, params)


@wrong(
    "the query loss is averaged over all inner steps, as in MAML++ (multi-step loss)",
    "multi.?step|maml\\+\\+|every step|all (inner )?steps|each step",
    tells_loss=False,
)
def multi_step_loss(case):
    def one(loss, p, s, q):
        total = 0.0
        for _ in range(case.inner_steps):
            p = step(p, grads_of(loss(p, *s), p), case.inner_lr)
            total = total + loss(p, *q)
        return total / case.inner_steps

    return over_tasks(case, one)


@wrong(
    "a hundredth of the support loss at θ_K is added to the query loss",
    "support loss.*added|added.*support|extra term|support.*outer",
)
def support_loss_added(case):
    def one(loss, p, s, q):
        p = adapt(case, loss, p, s)
        return loss(p, *q) + 0.01 * loss(p, *s)

    return over_tasks(case, one)


# ── wrong: the derivative through it ────────────────────────────────────────────────────────────────────────────────


@wrong("the Hessian is replaced by its diagonal", "diagonal", tells_loss=False)
def diagonal_hessian(case):
    def back(loss, thetas, s, v):
        for at in reversed(thetas[:-1]):
            gs = grads_of(loss(at, *s), at)
            diagonal = {n: torch.zeros_like(p) for n, p in at.items()}
            for n, g in gs.items():
                for i in range(g.numel()):
                    row = grad(g.reshape(-1)[i], at[n], retain_graph=True, allow_unused=True)[0]
                    if row is not None:
                        diagonal[n].view(-1)[i] = row.reshape(-1)[i]
            v = {n: v[n] - case.inner_lr * diagonal[n] * v[n] for n in v}
        return v

    return by_products(case, back)


@wrong(
    "the Hessian is replaced by the outer product of the gradient with itself (empirical Fisher)",
    "fisher|outer product|gauss.?newton|g ?gᵀ",
    tells_loss=False,
)
def fisher(case):
    def back(loss, thetas, s, v):
        for at in reversed(thetas[:-1]):
            gs = grads_of(loss(at, *s), at, False)
            along = dot(gs, v)
            v = {n: v[n] - case.inner_lr * gs[n] * along for n in v}
        return v

    return by_products(case, back)


@wrong(
    "Hessian-vector products are forward differences with ε = 1e-5: right to five digits only",
    "finite.?diff|difference|imprecise|digits|approximat",
)
def forward_differences(case):
    def back(loss, thetas, s, v):
        for at in reversed(thetas[:-1]):
            there = {n: (p + 1e-5 * v[n]).detach().requires_grad_() for n, p in at.items()}
            a, b = grads_of(loss(at, *s), at, False), grads_of(loss(there, *s), there, False)
            v = {n: v[n] - case.inner_lr * (b[n] - a[n]) / 1e-5 for n in v}
        return v

    return by_products(case, back)


@wrong(
    "Hessian-vector products are central differences with ε = 0.01/‖v‖, as in DARTS",
    "finite.?diff|difference|imprecise|digits|approximat",
    tells_loss=False,
)
def darts_differences(case):
    def back(loss, thetas, s, v):
        for at in reversed(thetas[:-1]):
            eps = 0.01 / (dot(v, v) ** 0.5 + 1e-12)
            g = []
            for sign in (1, -1):
                there = {n: (p + sign * eps * v[n]).detach().requires_grad_() for n, p in at.items()}
                g.append(grads_of(loss(there, *s), there, False))
            v = {n: v[n] - case.inner_lr * (g[0][n] - g[1][n]) / (2 * eps) for n in v}
        return v

    return by_products(case, back)


@wrong(
    "the Hessians are taken after the steps, at θ_{k+1}, instead of before, at θ_k",
    "θ_?\\{?k ?\\+ ?1|after the step|hessian.*(wrong place|wrong point|place|at θ)|shifted",
)
def hessians_after_step(case):
    def back(loss, thetas, s, v):
        for at in reversed(thetas[1:]):
            hv = hvp(loss, at, s, v)
            v = {n: v[n] - case.inner_lr * hv[n] for n in v}
        return v

    return by_products(case, back)


@wrong(
    "the Jacobians are multiplied in the wrong order: forwards over the steps",
    "(wrong|reverse|opposite) order|order of (the )?(product|jacobian|factor|hessian)|reversed",
    tells_loss=False,
)
def forwards_product(case):
    def back(loss, thetas, s, v):
        for at in thetas[:-1]:
            hv = hvp(loss, at, s, v)
            v = {n: v[n] - case.inner_lr * hv[n] for n in v}
        return v

    return by_products(case, back)


@wrong(
    "the products of Hessians are dropped: v − α Σ H_k v, with the same v for every step",
    "products? of (the )?hessian|cross.?term|higher.?order|first order in (α|alpha)|sum of (the )?hessian|α²",
)
def sum_of_hessians(case):
    def back(loss, thetas, s, v):
        out = v
        for at in thetas[:-1]:
            hv = hvp(loss, at, s, v)
            out = {n: out[n] - case.inner_lr * hv[n] for n in v}
        return out

    return by_products(case, back)


@wrong(
    "implicit MAML: the Jacobian is (I + α H(θ_K))⁻¹ per step, as of an implicit step",
    "implicit|imaml|inverse|proximal|solve",
    tells_loss=False,
)
def implicit_jacobian(case):
    def back(loss, thetas, s, v):
        last, names = thetas[-1], list(v)
        flat = lambda d: torch.cat([d[n].reshape(-1) for n in names])  # noqa: E731
        b = flat(v)
        columns, sizes = [], [v[n].numel() for n in names]
        for e in torch.eye(len(b), dtype=b.dtype):
            parts = {n: c.reshape(v[n].shape) for n, c in zip(names, e.split(sizes), strict=True)}
            columns.append(flat(hvp(loss, last, s, parts)))
        x = torch.linalg.solve(torch.eye(len(b), dtype=b.dtype) + case.inner_lr * torch.stack(columns), b)
        return {n: c.reshape(v[n].shape) for n, c in zip(names, x.split(sizes), strict=True)}

    return by_products(case, back)


@wrong(
    "the query gradient is taken one step early, at θ_{K−1}, and pulled back through all K steps",
    "θ_?\\{?k ?[−-] ?1|one step (early|before)|query gradient|before the last",
    tells_loss=False,
)
def query_one_step_early(case):
    def back(loss, thetas, s, v):
        for at in reversed(thetas[:-1]):
            hv = hvp(loss, at, s, v)
            v = {n: v[n] - case.inner_lr * hv[n] for n in v}
        return v

    return by_products(case, back, at_query=-2)


@wrong(
    "the gradient of the support loss at θ_K is pulled back instead of the query loss's",
    "instead of the query|support.*(instead|outer)|not the query|query (set|data|loss).*(unused|not used|ignored)",
    tells_loss=False,
)
def pulled_back_support(case):
    return over_tasks(case, lambda loss, p, s, q: loss(adapt(case, loss, p, s), *s))


# ── wrong: losses and layers ────────────────────────────────────────────────────────────────────────────────────────


class SumSquares(models.Torch):
    def mse(self, o, y):
        return ((o - y) ** 2).sum(-1).mean()


@wrong(
    "the squared error is summed over outputs, and averaged over examples only: differs with several outputs",
    "sum.*output|output|mse|squared error|reduction|dimension",
)
def squares_summed_over_outputs(case):
    return plain(case, SumSquares())


class Broadcast(models.Torch):
    def mse(self, o, y):
        return ((o - y.squeeze(-1)) ** 2).mean() if o.shape[-1] == 1 else ((o - y) ** 2).mean()


@wrong(
    "the targets lost an axis: (n, 1) − (n,) broadcasts to (n, n)", "broadcast|shape of the target|n ?× ?n|\\(n, ?n\\)"
)
def broadcast_targets(case):
    return plain(case, Broadcast())


class Huber(models.Torch):
    def mse(self, o, y):
        return 2 * F.huber_loss(o, y)


@wrong(
    "Huber loss instead of the squared error: errors above 1 count linearly",
    "huber|smooth.?l1|outlier|squared error|mse",
       tells_loss=False)  # fmt: skip
def huber(case):
    return plain(case, Huber())


class Smoothed(models.Torch):
    def __init__(self):
        super().__init__()
        self.cross_entropy = lambda o, y: F.cross_entropy(o, y, label_smoothing=1e-3)


@wrong("the cross-entropy smooths labels by 0.001", "smooth|cross.?entropy|label")
def label_smoothing(case):
    return plain(case, Smoothed())


class TwiceSoftmax(models.Torch):
    def __init__(self):
        super().__init__()
        self.cross_entropy = lambda o, y: F.cross_entropy(o.softmax(-1), y)


@wrong("softmax twice: the network ends with one, and the cross-entropy applies another", "softmax", tells_loss=False)
def softmax_twice(case):
    return plain(case, TwiceSoftmax())


class LogWithEpsilon(models.Torch):
    def __init__(self):
        super().__init__()
        self.cross_entropy = lambda o, y: -torch.log(o.softmax(-1)[torch.arange(len(y)), y] + 1e-8).mean()


@wrong(
    "log(p + 1e-8) in the cross-entropy: right to eight digits",
    "cross.?entropy|epsilon|ε|log\\(|softmax|digits|imprecise",
)
def log_with_epsilon(case):
    return plain(case, LogWithEpsilon())


class TorchNorm(models.Torch):
    def batch_norm(self, x, gamma, beta):
        over = tuple(range(x.ndim - 1))
        return (x - x.mean(over)) / torch.sqrt(x.var(over, unbiased=False) + 1e-5) * gamma + beta


@wrong("batch norm's ε is PyTorch's 1e-5 instead of the model's 2⁻¹⁰", "epsilon|eps|ε|1e-5")
def norm_epsilon(case):
    return plain(case, TorchNorm())


class StdPlusEpsilon(models.Torch):
    def batch_norm(self, x, gamma, beta):
        over = tuple(range(x.ndim - 1))
        return (x - x.mean(over)) / (x.var(over, unbiased=False).sqrt() + models.EPS) * gamma + beta


@wrong("batch norm divides by σ + ε instead of √(σ² + ε)", "epsilon|eps|ε|batch.?norm", tells_loss=False)
def std_plus_epsilon(case):
    return plain(case, StdPlusEpsilon())


class MeanHeld(models.Torch):
    def batch_norm(self, x, gamma, beta):
        over = tuple(range(x.ndim - 1))
        centred = x - x.mean(over).detach()
        return centred / torch.sqrt((centred**2).mean(over) + models.EPS) * gamma + beta


@wrong(
    "batch norm's mean is detached: nothing is differentiated through it",
    "batch.?norm|statistic|mean.*(detach|constant)",
       tells_loss=False)  # fmt: skip
def norm_mean_detached(case):
    return plain(case, MeanHeld())


class SupportStatistics(models.Torch):
    """The query set is normalised with the statistics of the last support batch, as after .eval()."""

    training = True

    def batch_norm(self, x, gamma, beta):
        over = tuple(range(x.ndim - 1))
        if self.training:
            self.mean_, self.var_ = x.mean(over), x.var(over, unbiased=False)
        return (x - self.mean_) / torch.sqrt(self.var_ + models.EPS) * gamma + beta


@wrong("the query set is normalised with the support set's statistics", "statistic|batch.?norm|eval|running")
def support_statistics(case):
    layers = SupportStatistics()

    def one(loss, p, s, q):
        layers.training = True
        p = adapt(case, loss, p, s)
        layers.training = False
        return loss(p, *q)

    return over_tasks(case, one, layers)


class ClampRelu(models.Torch):
    def __init__(self):
        super().__init__()
        self.relu = lambda x: x.clamp(min=0)


@wrong("ReLU by clamp(min=0): its slope at exactly 0 is 1, not 0", "relu|slope|at 0|at zero|kink")
def relu_by_clamp(case):
    return plain(case, ClampRelu())


class Leaky(models.Torch):
    def __init__(self):
        super().__init__()
        self.relu = F.leaky_relu


@wrong("leaky ReLU with slope 0.01 instead of ReLU", "relu|leaky|slope", tells_loss=False)
def leaky(case):
    return plain(case, Leaky())


class MeanOfTies(models.Torch):
    def max_pool(self, x, size):
        n, h, w, c = x.shape
        x = x[:, : h // size * size, : w // size * size]
        return x.reshape(n, h // size, size, w // size, size, c).amax((2, 4))


@wrong("max pooling by amax shares the derivative among ties", "tie|max.?pool|share|split")
def pool_by_amax(case):
    return plain(case, MeanOfTies())


class SwappedFilter(models.Torch):
    def conv(self, x, w, stride, padding):
        return super().conv(x, w.transpose(0, 1), stride, padding)


@wrong(
    "the filters' height and width are swapped when they are ported to PyTorch's layout",
    "transpos|layout|height|swap|conv",
    tells_loss=False,
)
def filters_transposed(case):
    return plain(case, SwappedFilter())


class Dropout(models.Torch):
    def __init__(self):
        super().__init__()
        self.tanh = lambda x: F.dropout(torch.tanh(x), 0.2)


@wrong(
    "dropout after tanh is active, with a seed that is set in every call", "dropout|mask|tanh|random", tells_loss=False
)
def seeded_dropout(case):
    torch.manual_seed(0)
    return plain(case, Dropout())


class Untied(models.Torch):
    """The second time that a weight is used, it is a copy without a graph."""

    def linear(self, x, w, b=None):
        seen, self.seen = getattr(self, "seen", None), w
        return super().linear(x, w.detach() if w is seen else w, b)


@wrong(
    "of a weight used twice only the first use gets a gradient", "tied|twice|shared|use of|first use|last use|one use"
)
def tied_first_use(case):
    class PerLoss:
        """A loss that forgets which weight it saw."""

        def __call__(self, params, x, y):
            return models.loss_in(Untied(), case.model)(params, x, y)

    _, params, tasks = given(case)
    loss = PerLoss()
    return answer(sum(loss(adapt(case, loss, params, s), *q) for s, q in tasks) / len(tasks), params)


class Float32Loss(models.Torch):
    def mse(self, o, y):
        return super().mse(o.float(), y.float()).double()


@wrong("the squared error is computed in float32", "float32|single|precision|imprecise|digits")
def loss_in_float32(case):
    return plain(case, Float32Loss())


# ── wrong: tasks, the outer loop, state ─────────────────────────────────────────────────────────────────────────────


@wrong(
    "only the last task's loss is divided by T: a missing pair of brackets",
    "weight|divid|mean over (the )?tasks|sum(med)? over|averag",
    tells_loss=False,
)
def brackets(case):
    loss, params, tasks = given(case)
    losses = [loss(adapt(case, loss, params, s), *q) for s, q in tasks]
    return answer(sum(losses[:-1]) + losses[-1] / len(tasks), params)


@wrong(
    "tasks are averaged pairwise, (m + g)/2: right for one or two tasks only", "weight|mean over (the )?tasks|averag"
)
def pairwise_mean(case):
    loss, params, tasks = given(case)
    mean = None
    for s, q in tasks:
        value = loss(adapt(case, loss, params, s), *q)
        mean = value if mean is None else (mean + value) / 2
    return answer(mean, params)


@wrong("the meta-gradient is clipped to norm 1", "clip|\\bnorm of")
def clipped_outer(case):
    out = plain(case)
    norm = sum((g**2).sum() for g in out["meta_grad"].values()) ** 0.5
    return {**out, "meta_grad": {n: g * min(1.0, float(1 / (norm + 1e-6))) for n, g in out["meta_grad"].items()}}


_HELD: dict = {}


@wrong(
    "the meta-gradient is accumulated over calls: .grad of the parameters is never set to zero",
    "accumul|two answers|zero_grad|between calls|state|nondetermin",
    tells_loss=False,
)
def grads_of_all_calls(case):
    out = plain(case)
    key = tuple((n, tuple(g.shape)) for n, g in out["meta_grad"].items())
    held = _HELD.get(key, dict.fromkeys(out["meta_grad"], 0.0))
    _HELD[key] = {n: held[n] + g for n, g in out["meta_grad"].items()}
    return {"meta_grad": _HELD[key], "meta_loss": out["meta_loss"]}


@wrong(
    "the learner adapts on the mean of the tasks' support losses: one shared θ_K for all tasks",
    "shared|joint|all tasks|mean of the (tasks|support)|pooled|together",
)
def joint_adaptation(case):
    loss, params, tasks = given(case)
    fast = params
    for _ in range(case.inner_steps):
        fast = step(fast, grads_of(sum(loss(fast, *s) for s, _ in tasks) / len(tasks), fast), case.inner_lr)
    return answer(sum(loss(fast, *q) for _, q in tasks) / len(tasks), params)


# ── wrong in two ways ───────────────────────────────────────────────────────────────────────────────────────────────


@wrong(
    "first-order MAML, and summed over tasks instead of averaged",
    "first.order|fomaml|detach",
    "summed|sum over|sum of (the )?tasks|divided|not averaged|times too|factor",
)
def first_order_sum(case):
    def one(loss, p, s, q):
        for _ in range(case.inner_steps):
            p = step(p, grads_of(loss(p, *s), p, create_graph=False), case.inner_lr)
        return loss(p, *q)

    loss, params, tasks = given(case)
    return answer(sum(one(loss, params, s, q) for s, q in tasks), params)


@wrong(
    "one inner step too few, and labels are smoothed by 0.05",
    "step (too )?few|missing step|k ?[−-] ?1|fewer steps|one step less",
    "smooth|label|cross.?entropy",
    tells_loss=False,
)
def short_and_smooth(case):
    layers = Smoothed()
    layers.cross_entropy = lambda o, y: F.cross_entropy(o, y, label_smoothing=0.05)

    def one(loss, p, s, q):
        for _ in range(1, case.inner_steps):
            p = step(p, grads_of(loss(p, *s), p), case.inner_lr)
        return loss(p, *q)

    return over_tasks(case, one, layers)


@wrong(
    "the inner loss is summed over examples, and only the head adapts (ANIL)",
    "sum|reduction|number of examples",
    "anil|head|last layer",
)
def head_with_sum(case):
    def one(loss, p, s, q):
        head = case.head()
        for _ in range(case.inner_steps):
            gs = grads_of(loss(p, *s) * len(s[0]), p)
            p = {n: p[n] - case.inner_lr * gs[n] if n in head else p[n] for n in p}
        return loss(p, *q)

    return over_tasks(case, one)


@wrong(
    "inner weight decay 0.01, and inner momentum 0.5", "weight.decay|l2|decay|regulari", "momentum", tells_loss=False
)
def decay_and_momentum(case):
    def one(loss, p, s, q):
        buf = {n: 0.0 for n in p}
        for _ in range(case.inner_steps):
            gs = grads_of(loss(p, *s), p)
            buf = {n: 0.5 * buf[n] + gs[n] + 0.01 * p[n] for n in gs}
            p = step(p, buf, case.inner_lr)
        return loss(p, *q)

    return over_tasks(case, one)


class WrongNorm(models.Torch):
    def batch_norm(self, x, gamma, beta):
        over = tuple(range(x.ndim - 1))
        return (x - x.mean(over)) / torch.sqrt(x.var(over) + 1e-5) * gamma + beta


@wrong("batch norm has the unbiased variance and ε = 1e-5", "unbiased|n ?[−-] ?1|bessel", "eps|ε|1e-5")
def norm_with_defaults(case):
    return plain(case, WrongNorm())


@wrong(
    "support and query are swapped, and the tasks are summed",
    "swap|exchang|interchang|adapts? (on|to) the query",
    "summed|sum over|sum of (the )?tasks|divided|not averaged|times too|factor",
    tells_loss=False,
)
def swapped_sum(case):
    loss, params, tasks = given(case)
    return answer(sum(loss(adapt(case, loss, params, q), *s) for s, q in tasks), params)


@wrong(
    "a step through .data on the shared parameters: first-order, and the next task starts where this one ended",
    "first.order|fomaml|detach",
    "reset|carr|leak|previous task|starts? (from|at)|restor",
    tells_loss=False,
)
def data_in_place(case):
    loss, params, tasks = given(case)
    kept = {n: p.detach().clone() for n, p in params.items()}
    total = {n: torch.zeros_like(p) for n, p in params.items()}
    for s, q in tasks:
        for _ in range(case.inner_steps):
            for p, g in zip(params.values(), grads_of(loss(params, *s), params, False).values(), strict=True):
                p.data -= case.inner_lr * g
        gs = grads_of(loss(params, *q), params, False)
        total = {n: total[n] + gs[n] / len(tasks) for n in gs}
    for n, p in params.items():
        p.data.copy_(kept[n])
    return {"meta_grad": total}


# ── correct ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@correct("vmap over tasks of torch.func.grad")
def vmapped(case):
    loss, params, ((xs, ys), (xq, yq)) = case.torch()
    start = {n: p.detach() for n, p in params.items()}

    def one(p, a, b, c, d):
        for _ in range(case.inner_steps):
            p = step(p, torch.func.grad(loss)(p, a, b), case.inner_lr)
        return loss(p, c, d)

    def total(p):
        return torch.func.vmap(one, in_dims=(None, 0, 0, 0, 0))(p, xs, ys, xq, yq).mean()

    gs, value = torch.func.grad_and_value(total)(start)
    return {"meta_grad": gs, "meta_loss": value}


@correct("products by forward over reverse: jvp of the gradient", tells_loss=False)
def forward_over_reverse(case):
    def back(loss, thetas, s, v):
        for at in reversed(thetas[:-1]):
            at = {n: p.detach() for n, p in at.items()}
            hv = torch.func.jvp(torch.func.grad(lambda p: loss(p, *s)), (at,), (v,))[1]  # noqa: B023
            v = {n: v[n] - case.inner_lr * hv[n] for n in v}
        return v

    return by_products(case, back)


@correct("every inner step in a checkpoint, computed again on the way back")
def checkpointed(case):
    def one(loss, p, s, q):
        names = list(p)

        def step_of(*values):
            at = dict(zip(names, values, strict=True))
            return tuple(step(at, grads_of(loss(at, *s), at), case.inner_lr).values())

        for _ in range(case.inner_steps):
            p = dict(zip(names, checkpoint(step_of, *p.values(), use_reentrant=False), strict=True))
        return loss(p, *q)

    return over_tasks(case, one)


@correct("reverse products with the double-backward trick: a dummy cotangent is differentiated", tells_loss=False)
def dummy_cotangent(case):
    def back(loss, thetas, s, v):
        for at in reversed(thetas[:-1]):
            gs = grads_of(loss(at, *s), at)
            pulled = grads_of(dot(gs, {n: x.detach() for n, x in v.items()}), at, False)
            v = {n: torch.add(v[n], pulled[n], alpha=-case.inner_lr) for n in v}
        return v

    return by_products(case, back)


@correct(".backward() on a detached start per task; leaves accumulate, divided at the end", tells_loss=False)
def backward_per_task(case):
    loss, params, tasks = given(case)
    start = {n: p.detach().clone().requires_grad_() for n, p in params.items()}
    for s, q in tasks:
        loss(adapt(case, loss, start, s), *q).backward()
    return {"meta_grad": [p.grad / len(tasks) for p in start.values()]}


@correct("per-example gradients of the support loss, averaged (where a loss is a mean of examples: no batch norm)")
def per_example(case):
    apart = not any(m["layer"] == "batch_norm" for m in case.model["layers"])

    def one(loss, p, s, q):
        for _ in range(case.inner_steps):
            parts = [(s[0][i : i + 1], s[1][i : i + 1]) for i in range(len(s[0]))] if apart else [s]
            gs = [grads_of(loss(p, *part), p) for part in parts]
            p = step(p, {n: torch.stack([g[n] for g in gs]).mean(0) for n in p}, case.inner_lr)
        return loss(p, *q)

    return over_tasks(case, one)


class Im2col(models.Torch):
    """Convolution as one matrix product; the cross-entropy from one-hot targets."""

    def __init__(self):
        super().__init__()
        self.cross_entropy = lambda o, y: (torch.logsumexp(o, 1) - (F.one_hot(y, o.shape[1]).to(o) * o).sum(1)).mean()

    def conv(self, x, w, stride, padding):
        kh, kw, c, out = w.shape
        (top, bottom), (left, right) = (
            models._zeros_around(padding, n, k, stride) for n, k in zip(x.shape[1:3], (kh, kw), strict=True)
        )
        x = F.pad(x, (0, 0, left, right, top, bottom))
        rows, columns = (x.shape[1] - kh) // stride + 1, (x.shape[2] - kw) // stride + 1
        patches = x.unfold(1, kh, stride).unfold(2, kw, stride)  # [n, rows, columns, c, kh, kw]
        flat = patches.permute(0, 1, 2, 4, 5, 3).reshape(len(x), rows, columns, kh * kw * c)
        return flat @ w.reshape(-1, out)


@correct("im2col convolution, one-hot targets")
def im2col(case):
    return plain(case, Im2col())


@correct("all tasks in one graph: tasks in reversed order, stacked and averaged by mean()")
def one_graph(case):
    loss, params, tasks = given(case)
    values = torch.stack([loss(adapt(case, loss, params, s), *q) for s, q in reversed(tasks)])
    return answer(values.mean(), params)


@correct("the whole inner Jacobian by torch.func.jacrev, then one product", tells_loss=False)
def whole_jacobian(case):
    loss, params, tasks = given(case)
    start = {n: p.detach() for n, p in params.items()}
    total = {n: torch.zeros_like(p) for n, p in start.items()}
    for s, q in tasks:

        def adapted(p, s=s):
            for _ in range(case.inner_steps):
                p = step(p, torch.func.grad(loss)(p, *s), case.inner_lr)
            return p

        jacobian, v = torch.func.jacrev(adapted, chunk_size=1)(start), torch.func.grad(loss)(adapted(start), *q)
        for n in total:
            for m in v:
                total[n] += torch.tensordot(v[m], jacobian[m][n], dims=v[m].ndim) / len(tasks)
    return {"meta_grad": total}


@correct("updates in place on clones, out of the graph's way: index_put and sub_ before anything saved them")
def in_place_but_right(case):
    def one(loss, p, s, q):
        for _ in range(case.inner_steps):
            gs = grads_of(loss(p, *s), p)
            p = {n: x.clone().sub_(gs[n].mul(case.inner_lr)) for n, x in p.items()}
        return loss(p, *q)

    return over_tasks(case, one)


@correct("a flat vector of all parameters, and views into it", tells_loss=False)
def flat_vector(case):
    loss, params, tasks = given(case)
    sizes = [p.numel() for p in params.values()]

    def unflat(w):
        return {n: part.reshape(p.shape) for (n, p), part in zip(params.items(), w.split(sizes), strict=True)}

    w0 = torch.cat([p.detach().reshape(-1) for p in params.values()]).requires_grad_()
    total = 0.0
    for s, q in tasks:
        w = w0
        for _ in range(case.inner_steps):
            (g,) = grad(loss(unflat(w), *s), w, create_graph=True)
            w = w - case.inner_lr * g
        total = total + loss(unflat(w), *q)
    (g,) = grad(total / len(tasks), w0)
    return {"meta_grad": unflat(g)}
