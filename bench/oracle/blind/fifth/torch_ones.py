"""MAML in PyTorch."""

from __future__ import annotations

import math
import warnings

import torch
from torch.func import functional_call, grad, jvp, vmap
from torch.utils.checkpoint import checkpoint

from tinymaml.oracle import models

from .. import in_torch as pt
from ..entries import correct, wrong

F = torch.nn.functional


def query_gradient(loss, theta, query):
    """(L_q, its gradient) at these constants."""
    at = pt.leaves(theta)
    value = loss(at, *query)
    return value.detach(), pt.grads_of(value, at, create_graph=False)


def by_hand(case, one, layers=None):
    """The means over tasks of one(loss, θ, support, query) -> (loss, gradient)."""
    loss, params, tasks = pt.given(case, layers)
    values, grads = zip(*(one(loss, params, s, q) for s, q in tasks), strict=True)
    return {
        "meta_grad": {n: sum(g[n] for g in grads) / len(grads) for n in params},
        "meta_loss": sum(values) / len(values),
    }


def sides(n, k, stride):
    """(zeros before, zeros after) of SAME padding."""
    total = max((-(-n // stride) - 1) * stride + k - n, 0)
    return total // 2, total - total // 2


# The inner loop


@wrong(
    "The fast weights after the first inner step are made new leaves and the meta-gradient is taken with respect to "
    "them, theta_1, not theta_0: the factor (I - alpha H_0) of the first step is missing.",
    r"first (inner )?(step|update|iteration)|θ_?[1₁]|theta_?1|H_?\{?[0₀]|step 0|truncat|initial step|"
    r"after (the )?(one|first)|earliest (step|factor)|k ?= ?0 ?(is|missing|left)",
    tells_loss=True,
)
def leaves_after_step_one(case):
    loss, params, tasks = pt.given(case)
    total, sums = 0, {n: torch.zeros_like(p) for n, p in params.items()}
    for s, q in tasks:
        fast = pt.leaves(params)
        fast = pt.leaves(pt.step(fast, pt.grads_of(loss(fast, *s), fast), case.inner_lr))
        learned = fast
        for _ in range(case.inner_steps - 1):
            learned = pt.step(learned, pt.grads_of(loss(learned, *s), learned), case.inner_lr)
        value = loss(learned, *q)
        g = pt.grads_of(value, fast, create_graph=False)
        sums = {n: sums[n] + g[n] for n in sums}
        total = total + value.detach()
    return {"meta_grad": {n: v / len(tasks) for n, v in sums.items()}, "meta_loss": total / len(tasks)}


@wrong(
    "Each inner step starts from p.data: the identity of I - alpha H is lost, and only the path through the inner "
    "gradient, the product of -alpha H_k, is left of the derivative.",
    r"identity|(?-i:\bI\b)(?! ?[-−]).{0,40}(missing|lost|left out|dropp|detach|absent)|direct (path|term|part)|"
    r"(\bp|param\w*|θ\w*|theta\w*|weights?|\bw)\.data|(start|old|previous|current|θ_?k|theta_?k|θₖ|"
    r"\bp\b).{0,40}(detach|stop.?grad|constant)|(detach|stop.?grad)\w*.{0,40}(θ_?k|theta_?k|θₖ|(old|previous|"
    r"current) (weight|param|iterate|value))|(weight|param)\w*,? ((is|are|being|of each step) )?(detach|"
    r"stop.?grad)|only the (hessian|second|path|curvature)|(in place|instead) of \(?I ?[-−]|v ?(←|=|"
    r"<-) ?[-−] ?\S|unit (term|matri)|residual",
    tells_loss=False,
)
def step_from_data(case):
    def one(loss, params, support, query):
        fast = params
        for _ in range(case.inner_steps):
            g = pt.grads_of(loss(fast, *support), fast)
            fast = {n: p.detach() - case.inner_lr * g[n] for n, p in fast.items()}
        return loss(fast, *query)

    return pt.over_tasks(case, one)


@wrong(
    "Only parameters with two or more axes are adapted: biases, batch norm's gamma and beta and other vectors and "
    "scalars keep their initial values in the inner loop.",
    r"(?=[\s\S]*(bias|(?<!-)\bvectors?\b|1-?d\b|one.?dimension|ndim|axes|gamma|scalar|some (of the )?param|"
    r"certain param|only (the )?(weight|matri|kernel)|partial|subset))(?=[\s\S]*(adapt|inner|updat|step|"
    r"fast))(?=[\s\S]*(not|never|n't|only|exclud|left out|frozen|fixed|keep|kept|skip|partial|subset|without|"
    r"un(adapted|changed)))",
    tells_loss=False,
)
def no_step_for_vectors(case):
    def one(loss, params, support, query):
        fast = dict(params)
        for _ in range(case.inner_steps):
            trained = {n: p for n, p in fast.items() if p.ndim > 1}
            if trained:
                g = pt.grads_of(loss(fast, *support), trained)
                fast.update(pt.step(trained, g, case.inner_lr))
        return loss(fast, *query)

    return pt.over_tasks(case, one)


@wrong(
    "Each inner step subtracts the gradient at the current fast weights from the initial parameters: theta_{k+1} = "
    "theta_0 - alpha g(theta_k), so the earlier steps are thrown away.",
    r"from (the )?(initial|original|meta.?(param|weight)|θ_?[0₀]|theta_?0|θ\b|theta\b|start|unadapted)|"
    r"(subtract|appl|add)\w*.{0,40}to (the )?(initial|original|meta.?(param|weight)|θ_?[0₀]|θ\b|theta_?0|"
    r"theta\b|start)|θ_?[0₀] ?[-−]|theta_?0 ?-|θ ?[-−] ?\S{0,3} ?\S{0,8}\(?(θ_?k|θₖ|θ_?\{)|overwr|thrown? away|"
    r"discard|do(es)? not accumulate|not cumulative|(earlier|previous) (step|update)|anchor|last (step|update|"
    r"gradient) only|only the last (step|update|gradient)s?\b|base (weight|param)",
    tells_loss=True,
)
def always_from_the_start(case):
    def one(loss, params, support, query):
        fast = params
        for _ in range(case.inner_steps):
            g = pt.grads_of(loss(fast, *support), fast)
            fast = pt.step(params, g, case.inner_lr)
        return loss(fast, *query)

    return pt.over_tasks(case, one)


@wrong(
    "The inner gradients are not zeroed between inner steps: step k subtracts the sum of all gradients so far, as with "
    "momentum 1.",
    r"(zero_?grad|zeroed|cleared|reset).{0,60}(step|inner)|(step|inner).{0,60}(zero_?grad|zeroed|cleared|reset)|"
    r"accumul\w*.{0,60}(step|inner|gradient)|(inner|step|gradient).{0,60}accumul|momentum|"
    r"sum of (all )?(the )?(past|previous|earlier|gradients|inner grad)|running sum|velocity|cumulat|(earlier|"
    r"previous|past|old) gradient|gradients so far",
    tells_loss=False,
)
def grad_never_zeroed(case):
    def one(loss, params, support, query):
        fast, kept = params, {n: torch.zeros_like(p) for n, p in params.items()}
        for _ in range(case.inner_steps):
            g = pt.grads_of(loss(fast, *support), fast)
            kept = {n: kept[n] + g[n] for n in kept}
            fast = pt.step(fast, kept, case.inner_lr)
        return loss(fast, *query)

    return pt.over_tasks(case, one)


@wrong(
    "The learner is cloned once, before the loop over tasks: each task goes on from the weights that the task before "
    "has adapted, in place of starting from theta.",
    r"previous task|task before|carr(y|ied)|carry.?over|reset|leak|goes on from|continu|start(s|ed|"
    r"ing)? from.{0,40}(adapted|last|task)|clone|shared state|sequential|one task.{0,40}(next|another)|"
    r"from θ anew|anew|order of (the )?tasks|across tasks|between tasks|other tasks' (weight|adapt)|"
    r"task by task|persist",
    tells_loss=True,
)
def learner_cloned_once(case):
    loss, params, tasks = pt.given(case)
    learner, total = {n: p.clone() for n, p in params.items()}, 0
    for support, query in tasks:
        learner = pt.adapt(case, loss, learner, support)
        total = total + loss(learner, *query)
    return pt.answer(total / len(tasks), params)


@wrong(
    "The proximal term of iMAML is left in the inner loop: the inner gradient has lambda (phi - theta) added, with "
    "lambda = 0.1, which begins to tell at the second step.",
    r"proxim|imaml|(λ|lambda) ?[*·]? ?\(.{0,20}[-−]|pull|toward|φ|phi\b|anchor|(regulari|penalt|decay|"
    r"l2)\w*.{0,60}(θ\b|θ_?0|θ₀|theta|initial|start|meta|prox)|distance|[-−] ?(θ|θ₀|theta)\)",
    tells_loss=False,
)
def proximal_left_in(case):
    lamda = 0.1

    def one(loss, params, support, query):
        fast = params
        for _ in range(case.inner_steps):
            away = sum(((fast[n] - params[n]) ** 2).sum() for n in params)
            g = pt.grads_of(loss(fast, *support) + 0.5 * lamda * away, fast)
            fast = pt.step(fast, g, case.inner_lr)
        return loss(fast, *query)

    return pt.over_tasks(case, one)


@wrong(
    "The support loss, already a mean, is divided by the number of support examples once more, so that the inner steps "
    "are N times too short.",
    r"divi\w+.{0,60}((?-i:\bN\b|\bN_)|example|sample|shot|batch|again|twice)|1/ ?N|/ ?N\b|N_s|"
    r"number of (support |the )?(example|sample|shot)|number of shots|twice.{0,30}(mean|averag)|"
    r"averaged? (twice|again)|batch size|(support|effective|inner) (loss|rate|lr|learning).{0,60}((?-i:\bN\b)|"
    r"\bsize\b)|N times",
    tells_loss=True,
)
def support_mean_divided_again(case):
    def one(loss, params, support, query):
        fast = params
        for _ in range(case.inner_steps):
            value = loss(fast, *support) / len(support[0])
            fast = pt.step(fast, pt.grads_of(value, fast), case.inner_lr)
        return loss(fast, *query)

    return pt.over_tasks(case, one)


# The derivative, by hand


@wrong(
    "In the reverse pass the Hessian is replaced by the outer product of the support gradient with itself, g g^T, the "
    "empirical Fisher matrix.",
    r"fisher|outer.?product|gauss.?newton|g ?gᵀ|g ?g\^?T|rank.?(one|1)|natural grad|squared? (of the )?gradient|"
    r"g_s ?g_s|gᵀ ?v|ggn|g ?\(g",
    tells_loss=True,
)
def fisher_for_hessian(case):
    def one(loss, params, support, query):
        thetas = pt.path(case, loss, params, support)
        value, v = query_gradient(loss, thetas[-1], query)
        for theta in reversed(thetas[:-1]):
            g = pt.grads_of(loss(theta, *support), theta, create_graph=False)
            v = pt.step(v, {n: x * pt.dot(g, v) for n, x in g.items()}, case.inner_lr)
        return value, v

    return by_hand(case, one)


@wrong(
    "The stored inner parameters are one and the same tensor, updated in place, so that every Hessian of the reverse "
    "pass is taken at theta_K and not at theta_k.",
    r"(?=[\s\S]*(hess|curv|hvp|second|\bH_?k?\b|factor|linearis|product))[\s\S]*((?-i:θ_?K|theta_?K|θᴷ|"
    r"θ_\{K)(?! ?[-−])|final (param|weight|point|iterate)|(hess|curv|second|H_?k?\b|Hₖ).{0,80}adapted|alias|"
    r"(updat|modif|chang|overwr)\w* in.?place|in.?place (update|modif|chang)|last (point|iterate|param|weight)|"
    r"same (tensor|point|param|θ)|end of the inner|after (the )?(adapt|inner)|(not|without|missing|"
    r"no).{0,20}(clone|cop(y|ied))|(hess|curv)\w*.{0,40}wrong (point|param|place|iterate)|overwritten)",
    tells_loss=True,
)
def path_of_aliases(case):
    def one(loss, params, support, query):
        now, path = pt.leaves(params), []
        for _ in range(case.inner_steps):
            path.append(now)
            g = pt.grads_of(loss(now, *support), now, create_graph=False)
            with torch.no_grad():
                for n, p in now.items():
                    p -= case.inner_lr * g[n]
        value, v = query_gradient(loss, now, query)
        for theta in reversed(path):
            v = pt.step(v, pt.hvp(loss, theta, support, v), case.inner_lr)
        return value, v

    return by_hand(case, one)


@wrong(
    "The query gradient is pushed forward through the inner loop with jvp, where vjp is wanted: J v in place of J^T v, "
    "so that the factors I - alpha H_k act in the opposite order.",
    r"jvp|vjp|transpos\w*.{0,40}(jacob|\bJ\b|product|factor|deriv|order)|(jacob|\bJ\b|product|factor|"
    r"deriv).{0,40}transpos|Jᵀ|J\^T|forward.?mode|push|pull.?back|order of (the )?(factor|product|matri|step|"
    r"hessian|multip)|(opposite|reversed?|wrong|other|backward|forward) order|in the order (k|0|from)|commut|"
    r"\bJ ?v\b|reversed|runs? forward|goes? forward|forwards|first (step )?to (the )?last|from the (first|left)|"
    r"from the wrong end|jacobian.{0,40}(not|forward|instead)|tangent",
    tells_loss=True,
)
def jvp_for_vjp(case):
    def one(loss, params, support, query):
        def adapted(theta):
            for _ in range(case.inner_steps):
                theta = pt.step(theta, grad(loss)(theta, *support), case.inner_lr)
            return theta

        start = {n: p.detach() for n, p in params.items()}
        value, v = query_gradient(loss, adapted(start), query)
        return value, jvp(adapted, (start,), (v,))[1]

    return by_hand(case, one)


@wrong(
    "The Hessian-vector products are all taken of the query gradient itself and summed, G = (I - alpha sum H_k) g: the "
    "products of two and more Hessians are left out.",
    r"cross.?term|higher.?(order|power)|products? of (two|several|hessian|more)|α²|alpha\^?2|alpha squared|"
    r"first.?order in (α|alpha)|linear(i[sz]ed)? in (α|alpha)|sum (of|over) (the )?(hessian|step)|"
    r"[Σ∑] ?_?k? ?(α ?|A ?)?H|sum_?k? ?H|expan|taylor|neumann|(?-i:\bH_?\S{1,4} ?[·*]? ?(α ?|A ?)?H[_₀₁₂ₖ])|"
    r"second.?order in (α|alpha)|v (is )?not updated|g_q itself|(the )?same vector|quadratic in (α|alpha)|"
    r"\(I ?[-−] ?(α|alpha|A) ?([Σ∑]|sum)|\bv\b.{0,30}never updated|original (query )?(gradient|v\b)|mixed (term|"
    r"product)",
    tells_loss=False,
)
def sum_of_hessians(case):
    def one(loss, params, support, query):
        thetas = pt.path(case, loss, params, support)
        value, v = query_gradient(loss, thetas[-1], query)
        total = v
        for theta in thetas[:-1]:
            total = pt.step(total, pt.hvp(loss, theta, support, v), case.inner_lr)
        return value, total

    return by_hand(case, one)


@wrong(
    "The row sums of the Hessian, from grad(g.sum()), are taken for its diagonal and multiplied elementwise with the "
    "vector: H is replaced by diag(H 1).",
    r"(?<!block.)diag|row.?sum|sum(s)? of (the |its |each )?row|element.?wise|g\.sum|H ?1\b|vector of ones|"
    r"ones vector|sum of the grad|hadamard|pointwise|column sum|grad_outputs",
    tells_loss=False,
)
def row_sums_for_diagonal(case):
    def one(loss, params, support, query):
        thetas = pt.path(case, loss, params, support)
        value, v = query_gradient(loss, thetas[-1], query)
        for theta in reversed(thetas[:-1]):
            g = pt.grads_of(loss(theta, *support), theta)
            second = pt.grads_of(sum(x.sum() for x in g.values()), theta, create_graph=False)
            v = {n: v[n] - case.inner_lr * second[n] * v[n] for n in v}
        return value, v

    return by_hand(case, one)


@wrong(
    "The Hessian-vector product by central differences is divided by epsilon and not by 2 epsilon: it is twice as "
    "large as it should be.",
    r"(?=[\s\S]*(hess|curv|hvp|second|\bH_?k?\b|differenc|[εα]|\beps|alpha))[\s\S]*(twice|doubled|double (the|H|"
    r"hess|its|of)|two times|factor (of )?(2|two)|2 ?ε|2 ?eps|2 ?\* ?eps|2 ?(α|alpha)|2 ?H\b|not halved|"
    r"missing.{0,20}(½|1/2|half)|(½|1/2|half).{0,30}missing|by 2\b|times (2|two)|2 ?[·×*] ?(H|hess|α)|"
    r"times too (large|big)|scaled by (2|two))",
    tells_loss=True,
)
def difference_over_one_epsilon(case):
    def one(loss, params, support, query):
        def gradient(theta):
            at = pt.leaves(theta)
            return pt.grads_of(loss(at, *support), at, create_graph=False)

        thetas = pt.path(case, loss, params, support)
        value, v = query_gradient(loss, thetas[-1], query)
        for theta in reversed(thetas[:-1]):
            eps = 1e-4 / pt.dot(v, v).sqrt()
            up, down = gradient(pt.step(theta, v, -eps)), gradient(pt.step(theta, v, eps))
            v = {n: v[n] - case.inner_lr * (up[n] - down[n]) / eps for n in v}
        return value, v

    return by_hand(case, one)


# Layers and losses


@wrong(
    "The learner is put into eval mode for the query set: batch norm normalises it with the running averages that the "
    "inner steps have left, not with the query set's own mean and variance.",
    r"running|eval\b|eval.mode|eval\(|evaluation mode|moving|population|inference|exponential|stored stat|"
    r"(support|inner)\w*('s)?.{0,40}(stat|varian)|norm\w*.{0,60}(support|another)|(stat|mean|"
    r"varian)\S*.{0,50}(another|not of the query|not the query)|not.{0,30}own (stat|mean|batch|varian)",
    tells_loss=True,
)
def eval_mode_for_query(case):
    class Mine(models.Torch):
        training, running, calls = True, None, 0

        def batch_norm(self, x, gamma, beta):
            mean, var = self.running.setdefault(self.calls, (torch.zeros_like(gamma), torch.ones_like(gamma)))
            if self.training:
                over = tuple(range(x.ndim - 1))
                m, u = x.detach().mean(over), x.detach().var(over)
                self.running[self.calls] = 0.9 * mean + 0.1 * m, 0.9 * var + 0.1 * u
                self.calls += 1
                return super().batch_norm(x, gamma, beta)
            self.calls += 1
            return (x - mean) / torch.sqrt(var + 2.0**-10) * gamma + beta

    layers = Mine()

    def one(loss, params, support, query):
        def run(p, batch, training):
            layers.training, layers.calls = training, 0
            return loss(p, *batch)

        layers.running = {}
        fast = params
        for _ in range(case.inner_steps):
            fast = pt.step(fast, pt.grads_of(run(fast, support, True), fast), case.inner_lr)
        return run(fast, query, False)

    return pt.over_tasks(case, one, layers)


@wrong(
    "The inner gradient is the mean of per-example gradients, each with a forward pass of its own, so that batch norm "
    "normalises each support example by itself and not by the statistics of the support set.",
    r"per.?(example|sample|instance)|each (support )?(example|sample|image|instance)|instance|single (example|"
    r"sample)|one (example|sample) at a time|by itself|batch(es)? (of|size) (one|1)|individual|"
    r"example by example|alone|statistics? (of|over|from) (each|one|a single)|separately|N ?= ?1\b|only over (H|"
    r"the spatial)",
    tells_loss=False,
)
def gradient_per_example(case):
    def one(loss, params, support, query):
        x, y = support
        fast = params
        for _ in range(case.inner_steps):
            singles = [pt.grads_of(loss(fast, x[i : i + 1], y[i : i + 1]), fast) for i in range(len(x))]
            mean = {n: torch.stack([g[n] for g in singles]).mean(0) for n in fast}
            fast = pt.step(fast, mean, case.inner_lr)
        return loss(fast, *query)

    return pt.over_tasks(case, one)


@wrong(
    "The outputs are squeezed from (N, 1) to (N) and the targets are not, so that their difference is broadcast to "
    "(N, N): every output is compared with every target.",
    r"squeez|broadcast|\(N,?\).{0,40}\(N, ?1\)|\(N, ?1\).{0,40}\(N,?\)|N ?[×x*] ?N|\(N, ?N\)|every (output|"
    r"prediction|target)|all pairs|pairwise|outer difference|each (output|prediction).{0,30}(every|all|each)|"
    r"shape (mismatch|\(|of the (output|target))|\[N, ?N\]|cross pairs|N²",
    tells_loss=True,
)
def squeezed_output(case):
    class Mine(models.Torch):
        def mse(self, o, y):
            return F.mse_loss(*torch.broadcast_tensors(o.squeeze(-1), y))

    return pt.plain(case, Mine())


@wrong(
    "The cross-entropy is called with ignore_index=0: examples of class 0 are left out of the loss and of its mean.",
    r"ignore|class 0|class zero|first class|label 0|label zero|y ?= ?0|y ?> ?0|target 0|(example|class|label|"
    r"sample|target)\w*.{0,50}(left out|skip|mask|omit|exclud|dropp|ignor)|(left out|skip|mask|omit|exclud|"
    r"dropp|ignor|subset)\w*.{0,40}(example|class|label|sample|target)",
    tells_loss=False,
)
def class_zero_ignored(case):
    class Mine(models.Torch):
        def __init__(self):
            super().__init__()
            self.cross_entropy = lambda o, y: F.cross_entropy(o, y, ignore_index=0)

    return pt.plain(case, Mine())


@wrong(
    "The cross-entropy is -log(p + 1e-6) of the softmax's probability: the constant that guards the logarithm changes "
    "the loss and its derivatives a little.",
    r"(log\b|log\(|logarithm|prob|softmax|entropy).{0,60}(1e-\d|\beps|ε|constant|offset|guard|clamp|clip|10\^|"
    r"10⁻)|(1e-\d|\beps|ε|constant|offset|guard|clamp|clip|10⁻).{0,60}(log\b|log\(|logarithm|prob|softmax|"
    r"entropy)|log ?\(? ?(p|prob|softmax)\w* ?\+",
    tells_loss=True,
)
def guarded_logarithm(case):
    class Mine(models.Torch):
        def __init__(self):
            super().__init__()
            self.cross_entropy = lambda o, y: F.nll_loss(torch.log(torch.softmax(o, -1) + 1e-6), y)

    return pt.plain(case, Mine())


class _Tanh(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        y = torch.tanh(x)
        ctx.slope = 1 - y * y
        return y

    @staticmethod
    def backward(ctx, g):
        return g * ctx.slope


@wrong(
    "tanh is a hand-written autograd function that saves its slope 1 - y^2 in forward: in the second derivative the "
    "slope is a constant, so the term with tanh'' is lost.",
    r"tanh.{0,80}(second|twice|curv|''|″|constant|detach|double|slope|lost|missing|zero|ignored|backward)|"
    r"tanh''|tanh″|(second|curvature|double|slope|1 ?[-−] ?y).{0,80}(tanh|activation|nonlinear)|"
    r"activation.{0,60}(second|curv|detach|constant|slope)",
    tells_loss=True,
)
def slope_saved_in_forward(case):
    class Mine(models.Torch):
        def __init__(self):
            super().__init__()
            self.tanh = _Tanh.apply

    return pt.plain(case, Mine())


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w):
        ctx.x = x.data
        ctx.save_for_backward(w)
        return x @ w

    @staticmethod
    def backward(ctx, g):
        (w,) = ctx.saved_tensors
        return g @ w.t(), ctx.x.t() @ g


@wrong(
    "The linear layer is a hand-written autograd function that keeps its input as x.data, so that in the weight's "
    "gradient x^T g the layer's input is a constant and its derivative is lost in the second backward pass.",
    r"input.{0,70}(detach|constant|\.data|stop.?grad|saved|not (be )?differentiat|ignored|fixed)|(detach|"
    r"constant|\.data|stop.?grad|saved).{0,70}(input|activation|hidden|x\b)|(hidden|"
    r"activation)\S*.{0,60}(detach|constant|stop.?grad|fixed)|linear.{0,80}(second|double|backward|detach)|"
    r"mixed (second|deriv|part|term|hess|block)|cross.?(layer|deriv|block)|cross.?terms?.{0,40}layer|"
    r"between (the )?layers|xᵀ ?g|(?-i:\bx\.?T\b)|asymmetric|not symmetric|weight.?gradient",
    tells_loss=False,
)
def linear_keeps_data(case):
    class Mine(models.Torch):
        def linear(self, x, w, b=None):
            o = _Linear.apply(x, w)
            return o if b is None else o + b

    return pt.plain(case, Mine())


@wrong(
    "The linear layer guesses the layout of its weight from the shape: a square matrix is taken as PyTorch's "
    "(out, in) and used transposed, x w^T in place of x w.",
    r"(weight|matri|linear|\bw\b|square|kernel).{0,50}transpos|transpos.{0,50}(weight|matri|linear|\bw\b|square|"
    r"kernel)|square (matri|weight|w)|wᵀ|w\^?T\b|w\.t|layout|\(out, ?in\)|f\.linear|nn\.linear|out.?features|"
    r"rows? and columns|swap",
    tells_loss=True,
)
def layout_by_shape(case):
    class Mine(models.Torch):
        def linear(self, x, w, b=None):
            return F.linear(x, w if w.shape[1] == x.shape[-1] else w.t(), b)

    return pt.plain(case, Mine())


@wrong(
    "The padding SAME of the convolution puts the odd row and column of zeros above and to the left, where it belongs "
    "below and to the right.",
    r"padd?ing|(?-i:SAME)|zeros.{0,40}(top|left|above|before|side)|top.?left|shifted|off by one (row|col|pixel)|"
    r"(odd|extra) (row|zero|column)|\bpad\b|padded",
    tells_loss=False,
)
def odd_zero_in_front(case):
    class Mine(models.Torch):
        def conv(self, x, w, stride, padding):
            (bottom, top), (right, left) = (sides(n, k, stride) for n, k in zip(x.shape[1:3], w.shape[:2], strict=True))
            x = F.pad(x.permute(0, 3, 1, 2), (left, right, top, bottom))
            return F.conv2d(x, w.permute(3, 2, 0, 1), stride=stride).permute(0, 2, 3, 1)

    return pt.plain(case, Mine())


# Data and tasks


@wrong(
    "The query losses are closures over the loop's variable and are called after the loop: all tasks are evaluated on "
    "the last task's query set.",
    r"last task('s)?\b(?!.{0,20}(half|weigh|count))|closure|late.?bind|lambda.{0,30}(loop|clos|captur|variable|"
    r"bind)|loop variable|same query|one task's query|final task|query (set |data )?(of|from) (the )?(last|"
    r"another|other|wrong|one|task T)|wrong (task|query)|another task|other task|mismatch|"
    r"all tasks.{0,50}(query|last)|task T\b|x_?q\[-1\]|task's query",
    tells_loss=True,
)
def late_bound_query(case):
    loss, params, tasks = pt.given(case)
    learners, evaluate = [], []
    for support, query in tasks:
        learners.append(pt.adapt(case, loss, params, support))
        evaluate.append(lambda p: loss(p, *query))  # noqa: B023
    return pt.answer(sum(f(p) for f, p in zip(evaluate, learners, strict=True)) / len(tasks), params)


@wrong(
    "The fast weights of all tasks are stacked and the inner gradient is that of the mean over tasks of the support "
    "losses: each task's inner step is divided by the number of tasks.",
    r"(?=[\s\S]*(inner|support|adapt|step|\brate|α|alpha))[\s\S]*(1/ ?T|/ ?T\b|divi\w+.{0,60}task|"
    r"number of tasks|(inner|support|step|rate).{0,50}(mean|averag)\w*.{0,40}task|(mean|"
    r"averag)\w*.{0,40}task.{0,60}(inner|support|step|rate)|meta.?batch|(inner|support|rate|step|α|"
    r"alpha).{0,60}(?-i:(?<!\^)\bT\b)|T times (too )?(small|short)|batch of tasks|task count)",
    tells_loss=False,
)
def mean_of_stacked_losses(case):
    loss, params, ((xs, ys), (xq, yq)) = case.torch()
    fast = {n: p.expand(case.tasks, *p.shape) for n, p in params.items()}
    each = vmap(loss)
    for _ in range(case.inner_steps):
        fast = pt.step(fast, pt.grads_of(each(fast, xs, ys).mean(), fast), case.inner_lr)
    return pt.answer(each(fast, xq, yq).mean(), params)


@wrong(
    "As with a DDP wrapper that synchronises in the inner loop, the inner gradients are averaged over the tasks, so "
    "that all tasks take the same steps and share one set of adapted weights.",
    r"(inner|support|step|adapt)\S*( set)?.{0,30}(averag|mean|sum)\w*.{0,40}task|(averag|mean|"
    r"sum)\w*.{0,30}task.{0,40}(inner|support|adapt)|share|all.?reduce|synchron|joint|pooled? (support|task|"
    r"over|the|all)|same (step|adapt|weight|fast|θ|theta)|all tasks.{0,40}(together|at once|support)|"
    r"every task's support|common|one adaptation|not (adapted )?(separately|per task|task.specific)|multi.?task|"
    r"other tasks",
    tells_loss=True,
)
def inner_all_reduce(case):
    loss, params, tasks = pt.given(case)
    fast = [params for _ in tasks]
    for _ in range(case.inner_steps):
        each = [pt.grads_of(loss(p, *s), p) for p, (s, _) in zip(fast, tasks, strict=True)]
        mean = {n: sum(g[n] for g in each) / len(each) for n in params}
        fast = [pt.step(p, mean, case.inner_lr) for p in fast]
    return pt.answer(sum(loss(p, *q) for p, (_, q) in zip(fast, tasks, strict=True)) / len(tasks), params)


@wrong(
    "Each inner step sees a mini-batch: the steps take the first and the second half of the support set in turn, "
    "where each should take all of it.",
    r"mini.?batch|half (of )?(the|its)|halves|(first|second) half|part of the support|subset|"
    r"chunk\w*.{0,40}support|support.{0,40}chunk|stochastic|not (the )?(whole|full|all|entire)|only (some|a few|"
    r"part|the first)|batch_size|dataloader|fraction of the support|some of the (support|examples)|"
    r"different (support )?(examples|data|batch)|portion|slice|in turn|cycl|first example",
    tells_loss=False,
)
def support_in_mini_batches(case):
    def one(loss, params, support, query):
        batches = list(zip(support[0].chunk(2), support[1].chunk(2), strict=True))
        fast = params
        for k in range(case.inner_steps):
            fast = pt.step(fast, pt.grads_of(loss(fast, *batches[k % len(batches)]), fast), case.inner_lr)
        return loss(fast, *query)

    return pt.over_tasks(case, one)


@wrong(
    "The inner gradients are flattened into a vector in the order of the parameters and cut up again in the order of "
    "their sorted names, so that parameters are updated with the gradients of others.",
    r"sort|alphabet|order of (the )?(param|name|leaves|key|dict)|(param|gradient|name|flat)\w*.{0,60}(wrong|"
    r"dict|another|different|name) order|permut|shuffl|mismatch|misalign|(param|gradient)\w*.{0,40}mix(ed)?.?up|"
    r"mix(ed|es)?.?up.{0,40}(param|grad)|scrambl|another('s)? (param|gradient)|(other|wrong) param|swap|flatten|"
    r"vector_to|slice|offset|crossed|flat vector",
    tells_loss=False,
)
def cut_up_by_name(case):
    def one(loss, params, support, query):
        fast = params
        for _ in range(case.inner_steps):
            flat = pt.flatten(pt.grads_of(loss(fast, *support), fast))
            g = pt.unflatten(flat, {n: fast[n] for n in sorted(fast)})
            fast = pt.step(fast, g, case.inner_lr)
        return loss(fast, *query)

    return pt.over_tasks(case, one)


@wrong(
    "The learner's biases and other vectors are copied with .data, cut off from theta: their meta-gradient is zero, "
    "although they adapt as they should.",
    r"(?=[\s\S]*(bias|(?<!-)\bvectors?\b|1-?d\b|one.?dimension|ndim|axes|gamma|scalar|some (of the )?param|"
    r"certain param|only (the )?(weight|matri|kernel)))(?=[\s\S]*(zero|no (meta|grad)|null|\bnone\b|missing|"
    r"cut off|detach|\.data|not connected|disconnect|lost|identity|vanish|absent|= ?0\b|\b0\b))",
    tells_loss=True,
)
def biases_copied_as_data(case):
    def one(loss, params, support, query):
        learner = {n: p.clone() if p.ndim > 1 else p.data.clone().requires_grad_() for n, p in params.items()}
        return loss(pt.adapt(case, loss, learner, support), *query)

    return pt.over_tasks(case, one)


# The outer loop, state, precision


@wrong(
    "The second order is switched on only after the first task, as if task 0 were a warm-up: the first task's inner "
    "gradients are detached, so that its part is FOMAML's.",
    r"first task|task 0|task zero|task 1\b|one of the tasks|for one task|t ?= ?0|t ?> ?0|warm|anneal|some tasks|"
    r"single task|only (for |in )?(the )?(other|later|second|remaining) task|initial task|(part|fraction|"
    r"half) of the tasks|not (for )?(all|every) task|derivative.?order",
    tells_loss=True,
)
def first_task_warms_up(case):
    loss, params, tasks = pt.given(case)
    total = 0
    for t, (support, query) in enumerate(tasks):
        fast = params
        for _ in range(case.inner_steps):
            g = pt.grads_of(loss(fast, *support), fast, create_graph=t > 0)
            fast = pt.step(fast, g, case.inner_lr)
        total = total + loss(fast, *query)
    return pt.answer(total / len(tasks), params)


@wrong(
    "The mean of the losses so far is differentiated after every task and all of these gradients are added up, so that "
    "early tasks count several times.",
    r"several times|more than once|repeat|early tasks|earlier tasks|first tasks?.{0,40}(count|weigh|more|"
    r"several|twice)|inside (of )?the (task )?loop|in the (task )?loop|after (each|every)|"
    r"accumul\w*.{0,60}(loss|mean|sum|loop|prefix|each task|partial)|weight(ed|ing)\b.{0,40}task|"
    r"tasks?.{0,40}weight(ed|ing|s? (differ|un))|unequal|unevenly|losses so far|running mean|cumulative|"
    r"harmonic|1 ?\+ ?1/2|retain|over.?count|partial (mean|sum)|prefix|count(s|ed)? (twice|double)",
    tells_loss=True,
)
def backward_of_losses_so_far(case):
    loss, params, tasks = pt.given(case)
    losses, sums = [], {n: torch.zeros_like(p) for n, p in params.items()}
    for support, query in tasks:
        losses.append(loss(pt.adapt(case, loss, params, support), *query))
        mean = torch.stack(losses).mean()
        gs = torch.autograd.grad(mean, list(params.values()), retain_graph=True, allow_unused=True)
        for n, g in zip(params, gs, strict=True):
            if g is not None:
                sums[n] += g
    return {"meta_grad": sums, "meta_loss": mean.detach()}


@wrong(
    "The inner loop calls backward(create_graph=True), which also adds the support losses' gradients to the initial "
    "parameters' .grad, and this is not zeroed before the outer backward: the meta-gradient has them added.",
    r"(zero_?grad|zeroed|cleared|reset).{0,60}(outer|meta|query)|left.?over|\.grad|(support|"
    r"inner)( set)?('s)? (loss|gradient)\S*.{0,60}(add|includ|accumul|contribut|leak|on top|sum|"
    r"extra).{0,60}(meta|outer|query|result|\bG\b|total|answer|initial)|(meta|outer|\bG\b|answer|result|"
    r"query)\S*.{0,60}(plus|contain|includ|add|\+|contaminat|extra|leak|accumul).{0,60}(support|inner|L_s|g_s)|"
    r"\+ ?.{0,25}(g_s|L_s)|stale|create_graph=True\).{0,60}accumul",
    tells_loss=True,
)
def inner_backward_fills_grad(case):
    loss, params, tasks = pt.given(case)
    theta, total = pt.leaves(params), 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for support, query in tasks:
            fast = {n: p.clone() for n, p in theta.items()}
            for _ in range(case.inner_steps):
                for p in fast.values():
                    p.retain_grad()
                loss(fast, *support).backward(create_graph=True)
                fast = {n: p if p.grad is None else p - case.inner_lr * p.grad for n, p in fast.items()}
            total = total + loss(fast, *query)
        (total / len(tasks)).backward()
    found = {n: torch.zeros_like(p) if p.grad is None else p.grad.detach().clone() for n, p in theta.items()}
    for p in theta.values():
        p.grad = None
    return {"meta_grad": found, "meta_loss": (total / len(tasks)).detach()}


@wrong(
    "Each task's meta-gradient is rounded to bfloat16 before the reduction, as DDP's bf16_compress_hook does: it has "
    "three digits.",
    r"bf16|bfloat|half.?prec|fp16|float16|precision|(gradient|reduc|each task).{0,60}\bround|"
    r"\bround\w*.{0,60}(bit|half|bf|float|digit|gradient|reduc)|digits|compress|quanti[sz]|16.?bit|imprecis|"
    r"mantissa|\bcast\b|dtype|autocast|\bamp\b|8 bits",
    tells_loss=False,
)
def bf16_compressed(case):
    loss, params, tasks = pt.given(case)
    total, sums = 0, {n: torch.zeros_like(p) for n, p in params.items()}
    for support, query in tasks:
        value = loss(pt.adapt(case, loss, params, support), *query)
        g = pt.grads_of(value, params, create_graph=False)
        sums = {n: s + g[n].to(torch.bfloat16).to(s.dtype) / len(tasks) for n, s in sums.items()}
        total = total + value.detach()
    return {"meta_grad": sums, "meta_loss": total / len(tasks)}


@wrong(
    "The tasks are accumulated in chunks of two and each chunk is divided by two, then the chunks are averaged: with "
    "an odd number of tasks the last chunk has one task, which then counts half.",
    r"\bodd\b.{0,40}task|tasks?.{0,40}\bodd\b|chunk|last task\S*.{0,40}(half|less|weigh|count|too)|last (chunk|"
    r"batch|group)|pairs?\b|in twos|groups? of (two|2)|accumulation|remain|unequal|uneven|incomplete|"
    r"partial (chunk|batch)|half.{0,40}weight|weight.{0,40}half|counts? (only )?half|"
    r"\btasks?\b.{0,50}(rounded up|ceil|even)|normali[sz].{0,60}task|(odd|wrong)\W.{0,30}number of tasks|"
    r"number of tasks.{0,40}(odd|wrong|even)|wrong (number|count|divisor)|micro.?batch|weighted",
    tells_loss=False,
)
def chunks_of_two(case):
    loss, params, tasks = pt.given(case)
    size = 2
    chunks = [tasks[i : i + size] for i in range(0, len(tasks), size)]
    total = 0
    for chunk in chunks:
        for support, query in chunk:
            total = total + loss(pt.adapt(case, loss, params, support), *query) / size
    return pt.answer(total / len(chunks), params)


# Two mistakes at once


@wrong(
    "The inner SGD has momentum 0.9, and its buffers are made once for all tasks, so that a task begins with the "
    "momentum that the one before has left.",
    r"momentum|velocity|heavy.?ball|nesterov|0\.9|accumulat\w* (the )?gradient|past gradients|buffer",
    r"previous task|task before|carr(y|ied)|carry|reset|across tasks|between tasks|leak|optimi[sz]er.?state|"
    r"other tasks?|from task to task|last task|persist|left.?over|stale|order of the tasks|shared|once for all|"
    r"one task.{0,40}(next|another)",
    tells_loss=True,
)
def momentum_kept_over_tasks(case):
    loss, params, tasks = pt.given(case)
    total, buffers = 0, {n: torch.zeros_like(p) for n, p in params.items()}
    for support, query in tasks:
        fast = params
        for _ in range(case.inner_steps):
            g = pt.grads_of(loss(fast, *support), fast)
            buffers = {n: 0.9 * buffers[n] + g[n] for n in g}
            fast = pt.step(fast, buffers, case.inner_lr)
        total = total + loss(fast, *query)
    return pt.answer(total / len(tasks), params)


@wrong(
    "A port of Caffe's solver: biases and other vectors have twice the inner rate (lr_mult 2), and the inner step of "
    "the matrices has weight decay 5e-4.",
    r"bias.{0,80}(rate|twice|doubl|2|lr|faster)|(rate|twice|doubl|lr|faster).{0,80}(bias|vector|1-?d\b|gamma)|"
    r"lr_mult|caffe|per.?(param|layer).{0,20}(rate|lr)|different (inner )?(rate|lr|learning)|"
    r"some param.{0,60}(rate|twice|doubl)",
    r"decay|l2|regulari|5e-0?4|0\.0005|ridge|shrink|penalt|λ|lambda|proportional to (the )?(weight|param)",
    tells_loss=False,
)
def port_of_a_caffe_solver(case):
    def one(loss, params, support, query):
        fast = params
        for _ in range(case.inner_steps):
            g = pt.grads_of(loss(fast, *support), fast)
            fast = {
                n: p - case.inner_lr * (g[n] + 5e-4 * p) if p.ndim > 1 else p - 2 * case.inner_lr * g[n]
                for n, p in fast.items()
            }
        return loss(fast, *query)

    return pt.over_tasks(case, one)


@wrong(
    "The graph is not kept in the last inner step (create_graph=k < K - 1), so that the factor of H_{K-1} is missing, "
    "and the query losses are summed over the tasks, not averaged.",
    r"last (inner )?(step|update|iteration)|final (inner )?(step|update|iteration)|H_?\{?\(?K ?[-−] ?1|"
    r"K ?[-−] ?1|H_\{K|create_graph|truncat|last (hessian|factor)|final (hessian|factor)",
    r"summ?(ed|s)?\b.{0,50}task|task.{0,50}sum|not (averaged|divided)|times T|T times|1/ ?T|number of tasks|"
    r"mean over (the )?tasks|factor (of )?T|divi(ded|sion|de) by T|instead of (the |a )?(mean|average)|"
    r"not (the )?(mean|averag)",
    tells_loss=False,
)
def summed_and_cut_at_the_end(case):
    loss, params, tasks = pt.given(case)
    total = 0
    for support, query in tasks:
        fast = params
        for k in range(case.inner_steps):
            g = pt.grads_of(loss(fast, *support), fast, create_graph=k < case.inner_steps - 1)
            fast = pt.step(fast, g, case.inner_lr)
        total = total + loss(fast, *query)
    return pt.answer(total, params)


@wrong(
    "One inner step too many: a step before the loop and K in it, and the query set is the whole task, support "
    "examples included.",
    r"K ?\+ ?1|too many|extra (inner )?(step|update|iteration)|one more|additional (inner )?(step|update)|"
    r"off.?by.?one|one step (more|beyond)|number of (inner )?steps|before the loop|θ_?\{?K ?\+ ?1|"
    r"more (inner )?steps",
    r"support.{0,70}(query|outer|meta.?loss|includ|also|concat|joined|both|union|append)|concat|torch\.cat|"
    r"union|whole task|all (of the )?(task's )?examples|both sets|query.{0,70}support|joined|"
    r"together with the support",
    tells_loss=True,
)
def extra_step_and_whole_task(case):
    def one(loss, params, support, query):
        fast = pt.step(params, pt.grads_of(loss(params, *support), params), case.inner_lr)
        fast = pt.adapt(case, loss, fast, support)
        return loss(fast, torch.cat([support[0], query[0]]), torch.cat([support[1], query[1]]))

    return pt.over_tasks(case, one)


@wrong(
    "Two slips in the losses: the cross-entropy is given probabilities, so that the softmax is applied twice, and the "
    "squared error is summed over the output's columns and averaged over examples only.",
    r"softmax.{0,50}(twice|double|two|already|before|again|on top)|(double|twice|second|two|"
    r"extra).{0,30}softmax|probabilit.{0,60}(logit|cross|as|soft)|(as|for|of|not) logits",
    r"(sum|add)\w*.{0,60}(column|output|class|channel|component|dimension|axis|element|target|\bC\b)|columns?\b|"
    r"over (the )?(examples|N) only|factor (of )?C\b|times C\b|C times|number of (outputs|columns|components|"
    r"channels)|divid.{0,40}\bN\b|per example|reduction|mse.{0,60}(sum|scal|C\b)|not (divided|averaged) (by|"
    r"over) (the )?(C\b|out|col)",
    tells_loss=True,
)
def two_losses_misread(case):
    class Mine(models.Torch):
        def __init__(self):
            super().__init__()
            self.cross_entropy = lambda o, y: F.cross_entropy(torch.softmax(o, -1), y)

        def mse(self, o, y):
            return ((o - y) ** 2).sum(-1).mean()

    return pt.plain(case, Mine())


@wrong(
    "The Hessian-vector products of the reverse pass are taken of the query loss, not of the support loss, and each "
    "parameter is differentiated for itself, so that the blocks between different parameters are left out.",
    r"query.{0,60}(hess|curv|hvp|second.?(order|deriv)|\bH\b)|(hess|curv|hvp|second.?(order|deriv)|\bH_?k?\b|"
    r"matri|factor).{0,60}(query|L_q)|∇² ?L_q|wrong (set|batch|data)|H_q",
    r"block|cross.?(term|block|param|layer|deriv|hess|partial)|off.?diag|between (the )?(different )?(param|"
    r"layer)|each (param|layer|tensor).{0,40}(itself|alone|separate|own)|per.?(param|layer|tensor)|layer.?wise|"
    r"mixed|interaction|coupl|separately",
    tells_loss=False,
)
def blocks_of_the_query_hessian(case):
    def one(loss, params, support, query):
        thetas = pt.path(case, loss, params, support)
        value, v = query_gradient(loss, thetas[-1], query)
        for theta in reversed(thetas[:-1]):
            g = pt.grads_of(loss(theta, *query), theta)
            hv = {}
            for n, p in theta.items():
                product = (g[n] * v[n]).sum()
                hv.update(pt.grads_of(product, {n: p}, True) if product.requires_grad else {n: torch.zeros_like(p)})
            v = {n: (v[n] - case.inner_lr * hv[n]).detach() for n in v}
        return value, v

    return by_hand(case, one)


@wrong(
    "The inner rate is read back from a name with two decimals, so it is rounded, and the mean over tasks is made by "
    "halving the sum with each further task, so that late tasks weigh more.",
    r"\bround|decimal|two digits|(wrong|another|different|slight\w*|other|truncat\w*|inexact|changed|"
    r"not the given|not exactly).{0,40}(rate|lr\b|step size|α|alpha)|(rate|lr\b|step size|α|alpha).{0,50}(wrong|"
    r"\boff\b|slight|differ|chang|approx|not exact|too (large|small)|format|perturb|scal)",
    r"weigh|running|halv|moving|exponential|\bema\b|late(r)? tasks|last tasks?|unequal|uneven|1/4|quarter|"
    r"averag\w* of averag|successive|recursive|geometric|pairwise|not the (plain )?(mean|average)|(mean|"
    r"averag\w*) (over|of) (the )?tasks",
    tells_loss=True,
)
def rate_from_the_name_and_halving(case):
    rate = float(f"{case.inner_lr:.2f}")
    loss, params, tasks = pt.given(case)
    total = None
    for support, query in tasks:
        fast = params
        for _ in range(case.inner_steps):
            fast = pt.step(fast, pt.grads_of(loss(fast, *support), fast), rate)
        value = loss(fast, *query)
        total = value if total is None else (total + value) / 2
    return pt.answer(total, params)


@wrong(
    "Two slips in the layers: the convolution flips its filter, as scipy.signal.convolve does, and batch norm has "
    "PyTorch's default epsilon 1e-5 in place of 2^-10.",
    r"flip|mirror|rotat|180|cross.?correl|true convolution|revers\w* (the )?(filter|kernel)|(filter|"
    r"kernel).{0,30}revers|scipy",
    r"eps|ε|1e-0?5|0\.00001|2\^?[-−⁻]?-?10|10\^?-?5|default.{0,40}(batch|norm)|under the root|10⁻⁵|2⁻¹⁰",
    tells_loss=False,
)
def layers_of_another_library(case):
    class Mine(models.Torch):
        def conv(self, x, w, stride, padding):
            return super().conv(x, w.flip(0, 1), stride, padding)

        def batch_norm(self, x, gamma, beta):
            shape = x.shape
            o = F.batch_norm(x.reshape(-1, shape[-1]), None, None, gamma, beta, training=True)
            return o.reshape(shape)

    return pt.plain(case, Mine())


# Right ones


@correct("All tasks at once: vmap over tasks, torch.func.grad in torch.func.grad.")
def vmapped_func(case):
    loss, params, ((xs, ys), (xq, yq)) = case.torch()
    theta = {n: p.detach() for n, p in params.items()}

    def one(p, support, query):
        for _ in range(case.inner_steps):
            p = pt.step(p, grad(loss)(p, *support), case.inner_lr)
        return loss(p, *query)

    def total(p):
        return vmap(one, in_dims=(None, 0, 0))(p, (xs, ys), (xq, yq)).mean()

    found, value = torch.func.grad_and_value(total)(theta)
    return {"meta_grad": found, "meta_loss": value}


@correct("Every inner step is checkpointed: its graph is built again in the backward pass.")
def checkpointed_steps(case):
    def one(loss, params, support, query):
        def update(*flat):
            p = dict(zip(params, flat, strict=True))
            return tuple(pt.step(p, pt.grads_of(loss(p, *support), p), case.inner_lr).values())

        flat = tuple(params.values())
        for _ in range(case.inner_steps):
            flat = checkpoint(update, *flat, use_reentrant=False)
        return loss(dict(zip(params, flat, strict=True)), *query)

    return pt.over_tasks(case, one)


class _Step(torch.autograd.Function):
    """theta - alpha g as one operation, whose backward is v - alpha H v."""

    @staticmethod
    def forward(ctx, loss, rate, support, names, *flat):
        ctx.rest = loss, rate, support, names
        ctx.save_for_backward(*flat)
        with torch.enable_grad():
            at = {n: p.detach().clone().requires_grad_() for n, p in zip(names, flat, strict=True)}
            g = pt.grads_of(loss(at, *support), at, create_graph=False)
        return tuple(p - rate * g[n] for n, p in zip(names, flat, strict=True))

    @staticmethod
    def backward(ctx, *v):
        loss, rate, support, names = ctx.rest
        v = dict(zip(names, v, strict=True))
        with torch.enable_grad():
            hv = pt.hvp(loss, dict(zip(names, ctx.saved_tensors, strict=True)), support, v)
        return None, None, None, None, *(v[n] - rate * hv[n] for n in names)


@correct("The inner step is an autograd function of its own, with the Hessian-vector product in its backward.")
def step_as_a_function(case):
    def one(loss, params, support, query):
        flat = tuple(params.values())
        for _ in range(case.inner_steps):
            flat = _Step.apply(loss, case.inner_lr, support, tuple(params), *flat)
        return loss(dict(zip(params, flat, strict=True)), *query)

    return pt.over_tasks(case, one)


@correct("Dense Hessians of flat vectors: the product of the matrices I - alpha H_k is formed, then applied to g_q.")
def dense_jacobian(case):
    def one(loss, params, support, query):
        flat = pt.flatten(params).detach()
        jacobian = torch.eye(len(flat), dtype=flat.dtype)
        for _ in range(case.inner_steps):
            at = flat.clone().requires_grad_()
            g = torch.autograd.grad(loss(pt.unflatten(at, params), *support), at, create_graph=True)[0]
            if g.requires_grad:
                rows = [torch.autograd.grad(x, at, retain_graph=True, allow_unused=True)[0] for x in g]
                hessian = torch.stack([torch.zeros_like(flat) if r is None else r for r in rows])
            else:
                hessian = torch.zeros_like(jacobian)
            jacobian = jacobian - case.inner_lr * (hessian @ jacobian)
            flat = flat - case.inner_lr * g.detach()
        value, g = query_gradient(loss, pt.unflatten(flat, params), query)
        return value, pt.unflatten(jacobian.t() @ pt.flatten(g), params)

    return by_hand(case, one)


@correct("The tasks from last to first; Hessian-vector products by jvp of grad, forward over reverse.")
def forward_over_reverse(case):
    loss, params, tasks = pt.given(case)
    theta = {n: p.detach() for n, p in params.items()}
    total, sums = 0, {n: torch.zeros_like(p) for n, p in theta.items()}
    for support, query in reversed(tasks):
        gradient = lambda p, s=support: grad(loss)(p, *s)  # noqa: E731
        thetas = [theta]
        for _ in range(case.inner_steps):
            thetas.append(pt.step(thetas[-1], gradient(thetas[-1]), case.inner_lr))
        v, value = torch.func.grad_and_value(loss)(thetas[-1], *query)
        for at in reversed(thetas[:-1]):
            v = pt.step(v, jvp(gradient, (at,), (v,))[1], case.inner_lr)
        sums = {n: s + v[n] / len(tasks) for n, s in sums.items()}
        total = total + value / len(tasks)
    return {"meta_grad": sums, "meta_loss": total}


@correct("Hooks on the leaves divide by T, .grad adds up over tasks, and theta_K = theta - alpha (sum of the g_k).")
def hooks_divide(case):
    loss, params, tasks = pt.given(case)
    theta, total = pt.leaves(params), 0
    for p in theta.values():
        p.register_hook(lambda g: g / len(tasks))
    for support, query in tasks:
        path = {n: torch.zeros_like(p) for n, p in theta.items()}
        fast = {n: p * 1 for n, p in theta.items()}
        start = fast
        for _ in range(case.inner_steps):
            g = pt.grads_of(loss(fast, *support), fast)
            path = {n: path[n] + g[n] for n in path}
            fast = {n: torch.add(start[n], path[n], alpha=-case.inner_lr) for n in path}
        value = loss(fast, *query)
        value.backward(inputs=list(theta.values()))
        total += value.item()
    return {
        "meta_grad": {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in theta.items()},
        "meta_loss": total / len(tasks),
    }


@correct("No second derivative of the whole: surrogate scalars v . theta_{k+1}(theta_k), differentiated step by step.")
def surrogate_scalars(case):
    def one(loss, params, support, query):
        thetas = pt.path(case, loss, params, support)
        value, v = query_gradient(loss, thetas[-1], query)
        for theta in reversed(thetas[:-1]):
            after = pt.step(theta, pt.grads_of(loss(theta, *support), theta), case.inner_lr)
            v = pt.grads_of(pt.dot(v, after), theta, create_graph=False)
        return value, v

    return by_hand(case, one)


class _Learner(torch.nn.Module):
    def __init__(self, loss, params):
        super().__init__()
        self.loss = loss
        self.names = {n: f"p_{i}" for i, n in enumerate(params)}
        for n, p in params.items():
            self.register_parameter(self.names[n], torch.nn.Parameter(p.detach().clone()))

    def forward(self, x, y):
        return self.loss({n: getattr(self, a) for n, a in self.names.items()}, x, y)


@correct("An nn.Module run by functional_call; the tasks are summed and divided by T at the very end.")
def functional_call_learner(case):
    loss, params, tasks = pt.given(case)
    learner = _Learner(loss, params)
    meta = dict(learner.named_parameters())
    values = []
    for support, query in tasks:
        fast = meta
        for _ in range(case.inner_steps):
            fast = pt.step(fast, pt.grads_of(functional_call(learner, fast, support), fast), case.inner_lr)
        values.append(functional_call(learner, fast, query))
    gs = pt.grads_of(sum(values), meta, create_graph=False)
    found = {n: gs[a] / len(tasks) for n, a in learner.names.items()}
    return {"meta_grad": found, "meta_loss": math.fsum(v.item() for v in values) / len(tasks)}
