"""The blind set for MAML's relatives. The helpers are honest; a mistake stands in the function that bears its name."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812

import tinymaml as tm
from tinymaml.oracle import models

from ..entries import correct, wrong
from ..in_numpy import given as given_numpy
from ..in_numpy import mean_of
from ..in_torch import answer, given, grads_of, leaves, over_tasks, step

LIBRARY = models.Torch()


def length(tree):
    """The norm over all arrays together."""
    return sum((g * g).sum() for g in tree.values()) ** 0.5


def part_adapts(case, loss, params, support, names):
    """K steps of those tensors alone."""
    fast = {n: params[n] for n in names}
    for _ in range(case.inner_steps):
        grads = grads_of(loss({**params, **fast}, *support), fast)
        fast = step(fast, grads, case.inner_lr)
    return {**params, **fast}


def features(case, params, x):
    """What reaches the last layer."""
    for layer in case.model["layers"][:-1]:
        settings = {k: v for k, v in layer.items() if k not in ("layer", "params")}
        x = getattr(LIBRARY, layer["layer"])(x, *(params[n] for n in layer.get("params", [])), **settings)
    return x


# ── Meta-SGD ────────────────────────────────────────────────────────────────────────────────────────────────────────


@wrong(
    "The learned rates are clamped at zero, so that an element whose α is negative neither moves nor has a gradient.",
    r"(?i)clamp|clip|non-?negative|relu|negative (α|alpha|rate)|(α|alpha|rate)s?\b.{0,20}(negative|< ?0|≥ ?0"
    r"|below (0|zero))|max\((α|0)",
    algorithm="meta-sgd",
)
def clamped_rates(case):
    def one(loss, params, support, query):
        fast = {n: p for n, p in params.items() if not n.startswith("alpha.")}
        for _ in range(case.inner_steps):
            grads = grads_of(loss(fast, *support), fast)
            fast = {n: p - params[f"alpha.{n}"].clamp(min=0) * grads[n] for n, p in fast.items()}
        return loss(fast, *query)

    return over_tasks(case, one)


@wrong(
    "The tensors are updated one after the other, each gradient being taken where those before it have moved already.",
    r"(?i)one after (the |an)?other|one by one|one at a time|sequential|gauss.?seidel|already (been )?(updated"
    r"|moved|changed)|coordinate|in turn|part(ly|ially) updated|tensor by tensor|parameter by parameter"
    r"|simultaneous|at once",
    algorithm="meta-sgd",
    tells_loss=False,
)
def tensor_by_tensor(case):
    def one(loss, params, support, query):
        fast = {n: p for n, p in params.items() if not n.startswith("alpha.")}
        for _ in range(case.inner_steps):
            for n in list(fast):
                (g,) = torch.autograd.grad(loss(fast, *support), fast[n], create_graph=True)
                fast[n] = fast[n] - params[f"alpha.{n}"] * g
        return loss(fast, *query)

    return over_tasks(case, one)


# ── ANIL ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@wrong(
    "The support's features are computed once under no_grad, so that the body's gradient lacks the way through "
    "the adapted head.",
    r"(?i)support.{0,40}(feature|body)|feature.{0,40}(support|detach|no_grad|cache|constant)|body.{0,40}(detach"
    r"|constant|no_grad|frozen|inner loop|stop)|(detach|no_grad|stop).{0,40}body|(h_?K|head).{0,40}depend"
    r"|through the (adapted )?head|through h_?K",
    algorithm="anil",
)
def cached_support_features(case):
    layers = case.model["layers"]
    head_loss = models.loss_in(LIBRARY, {**case.model, "layers": layers[-1:]})

    def one(loss, params, support, query):
        (x, y), head = support, {n: params[n] for n in case.adapt}
        with torch.no_grad():
            z = features(case, params, x)
        for _ in range(case.inner_steps):
            head = step(head, grads_of(head_loss(head, z, y), head), case.inner_lr)
        return head_loss(head, features(case, params, query[0]), query[1])

    return over_tasks(case, one)


@wrong(
    "Only the head's weight adapts and its bias does not, and the task losses are summed instead of averaged.",
    r"(?i)bias|(only|alone).{0,15}\bw[23]\b|\bw[23]\b.{0,6}(only|alone)|(weight|\bw) (only|alone)"
    r"|only the (head.?s )?weight",
    r"(?i)\bsum(med)?\b|[×*] ?T\b|times T\b|\bT times|not (divided|averaged)|mean over (the )?tasks"
    r"|number of tasks|factor T\b|1/T|averag",
    algorithm="anil",
)
def head_weight_alone(case):
    loss, params, tasks = given(case)
    weight = [n for n in case.adapt if params[n].ndim > 1]
    total = 0.0
    for support, query in tasks:
        total = total + loss(part_adapts(case, loss, params, support, weight), *query)
    return answer(total, params)


@wrong(
    "The hand-written inner gradient of the mean squared error lacks its factor 2, so that the head's steps are "
    "half as long there.",
    r"(?i)factor (of )?(2|two|½|1/2|0\.5|a half|half)|half|½|1/2|twice|2 ?×|α ?/ ?2|halv|0\.5|doubl|two times",
    algorithm="anil",
)
def head_gradient_by_hand(case):
    def one(loss, params, support, query):
        y, z = support[1], features(case, params, support[0])
        w, b = (params[n] for n in case.adapt)
        for _ in range(case.inner_steps):
            o = z @ w + b
            if case.model["loss"] == "cross_entropy":
                r = (torch.softmax(o, 1) - F.one_hot(y.long(), o.shape[1])) / len(o)
            else:
                r = (o - y) / o.numel()
            w, b = w - case.inner_lr * z.T @ r, b - case.inner_lr * r.sum(0)
        return loss({**params, **dict(zip(case.adapt, (w, b), strict=True))}, *query)

    return over_tasks(case, one)


# ── BOIL ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@wrong(
    "The head is detached in the inner loop to freeze it, so that its gradient lacks the way through the adapted body.",
    r"(?i)head.{0,40}(detach|constant|frozen|freez|no gradient|stop|inner)|(detach|frozen|freez|stop).{0,40}head"
    r"|through (b_?K|the (adapted )?body)|b_?K.{0,30}depend|direct (part|gradient|term|way)",
    algorithm="boil",
)
def frozen_head(case):
    def one(loss, params, support, query):
        body = {n: params[n] for n in case.adapt}
        head = {n: p.detach() for n, p in params.items() if n not in case.adapt}
        for _ in range(case.inner_steps):
            body = step(body, grads_of(loss({**body, **head}, *support), body), case.inner_lr)
        return loss({**params, **body}, *query)

    return over_tasks(case, one)


@wrong(
    "The mask is the wrong way round: the head adapts and the body does not, which is ANIL.",
    r"(?i)\banil\b|invert|swap|(instead|in (the )?place) of the body|wrong (part|half|parameters|tensors|mask"
    r"|way round)|head (alone |only )?(adapts|is adapted|moves)|adapt(s|ed|ing) the head|complement|opposite"
    r"|revers",
    algorithm="boil",
    tells_loss=False,
)
def zero_rate_for_the_wrong_part(case):
    loss, params, tasks = given(case)
    rates = {n: 0.0 if n in case.adapt else case.inner_lr for n in params}
    total = 0.0
    for support, query in tasks:
        fast = params
        for _ in range(case.inner_steps):
            grads = grads_of(loss(fast, *support), fast)
            fast = {n: p - rates[n] * grads[n] for n, p in fast.items()}
        total = total + loss(fast, *query) / len(tasks)
    return answer(total, params)


# ── CAVIA ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class ContextFirst(models.Torch):
    def context(self, x, phi):
        return torch.cat([phi.expand(*x.shape[:-1], phi.shape[0]), x], -1)


def blank(case, params):
    return torch.zeros(case.settings["context"], dtype=next(iter(params.values())).dtype, requires_grad=True)


@wrong(
    "The context is put in front of the inputs and not behind them, so that each meets the other's rows of the "
    "weights.",
    r"(?i)in front|before (the )?(x|input)|prepend|precede|order of (the )?(input|concat|column)|\[ ?(φ|phi),? ?x"
    r"|concatenat|wrong (columns|rows|end|side)|first (columns|rows|inputs)|layout|behind",
    algorithm="cavia",
)
def context_first(case):
    _, params, tasks = given(case)
    loss = models.loss_in(ContextFirst(), case.model)
    total = 0.0
    for support, query in tasks:
        phi = blank(case, params)
        for _ in range(case.inner_steps):
            (g,) = torch.autograd.grad(loss({**params, "context": phi}, *support), phi, create_graph=True)
            phi = phi - case.inner_lr * g
        total = total + loss({**params, "context": phi}, *query) / len(tasks)
    return answer(total, params)


@wrong(
    "All of θ takes the inner steps together with the context, as it would in MAML.",
    r"(?i)all (of )?(θ|the )?(parameters|weights)?.{0,12}(adapt|move|take|step|updat)|θ.{0,20}(adapts|moves"
    r"|adapted|updated|too)|(as|like) (in )?maml|plain maml|not only (φ|the context)|everything"
    r"|weights? (also )?(adapt|move)|network.{0,20}(adapts|adapted|updated)|also (adapts|updates|moves)",
    algorithm="cavia",
)
def everything_adapts(case):
    def one(loss, params, support, query):
        fast = {**params, "context": blank(case, params)}
        for _ in range(case.inner_steps):
            fast = step(fast, grads_of(loss(fast, *support), fast), case.inner_lr)
        return loss(fast, *query)

    return over_tasks(case, one)


@wrong(
    "The context is made a new leaf before every step, so that the derivative goes back through the last step only.",
    r"(?i)last (inner )?step|truncat|(earlier|previous|former|first) steps|(detach|cut|leaf).{0,30}(each|every"
    r"|between) step|(each|every|between) steps?.{0,30}(detach|cut|leaf)|only one step|a single step",
    algorithm="cavia",
    tells_loss=False,
)
def context_as_a_leaf(case):
    def one(loss, params, support, query):
        phi = blank(case, params)
        for _ in range(case.inner_steps):
            phi = phi.detach().requires_grad_()
            (g,) = torch.autograd.grad(loss({**params, "context": phi}, *support), phi, create_graph=True)
            phi = phi - case.inner_lr * g
        return loss({**params, "context": phi}, *query)

    return over_tasks(case, one)


# ── MAML++ ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def parts(case, params):
    """(what adapts, what has a row for every step)."""
    fast = {n: params[n] for n in case.adapt}
    return fast, {n: p for n, p in params.items() if n not in fast and not n.startswith("alpha.")}


def row(of_steps, k):
    return {n: p[k] for n, p in of_steps.items()}


@wrong(
    "The query loss after a step uses the batch norm parameters of the next step in the place of those of the "
    "step just made: an index one too high.",
    r"(?i)off.by.one|(next|wrong|later|following) (row|step)|one (step|row) (too )?(late|ahead|on|high|far)|(rows?"
    r"|γ|gamma|batch.?norm).{0,40}(row k\b|of the next|shift|index|not k ?− ?1|too (late|high|far)|one step)",
    algorithm="mamlpp",
)
def batch_norm_of_the_next_step(case):
    def one(loss, params, support, query):
        fast, of_steps = parts(case, params)
        last, total = case.inner_steps - 1, 0.0
        for k, w in enumerate(case.settings["loss_weights"]):
            grads = grads_of(loss({**fast, **row(of_steps, k)}, *support), fast)
            fast = {n: p - params[f"alpha.{n}"][k] * grads[n] for n, p in fast.items()}
            total = total + w * loss({**fast, **row(of_steps, min(k + 1, last))}, *query)
        return total

    return over_tasks(case, one)


@wrong(
    "Every inner step uses the rate of the first step, so that the further rates have no gradient.",
    r"(?i)first (step.?s? )?(learned )?(rate|α|alpha|entry|element)|α_?[0₀]|alpha\[0\]|rate of (the )?(first step"
    r"|step (0|1))|(same|one|single|shared) (rate|α|alpha)|index 0|rates? (is|are) shared|(not|never) indexed",
    algorithm="mamlpp",
)
def rate_of_the_first_step(case):
    def one(loss, params, support, query):
        fast, of_steps = parts(case, params)
        rates = {n: params[f"alpha.{n}"][0] for n in fast}
        total = 0.0
        for k, w in enumerate(case.settings["loss_weights"]):
            grads = grads_of(loss({**fast, **row(of_steps, k)}, *support), fast)
            fast = {n: p - rates[n] * grads[n] for n, p in fast.items()}
            total = total + w * loss({**fast, **row(of_steps, k)}, *query)
        return total

    return over_tasks(case, one)


@wrong(
    "The annealing of the first epochs is never left: inner gradients are of first order, and the losses of the "
    "steps have equal weights.",
    r"(?i)first.?order|fomaml|create_graph|second.?order|detach|hessian|second derivative",
    r"(?i)uniform|(equal|same) weight|unweighted|weights? (is|are|were)?.{0,6}(equal|ignored|not used|unused|1/K"
    r"|the same)|1/K\b|mean over (the |all )?steps|loss.?weights.{0,30}(not|ignored|unused|equal|forgotten"
    r"|missing)",
    algorithm="mamlpp",
)
def annealing_never_ends(case):
    epoch, first_order_until, multi_step_until = 0, 50, 15
    second_order = epoch > first_order_until
    weights = case.settings["loss_weights"]
    if epoch < multi_step_until:
        weights = [1 / case.inner_steps] * case.inner_steps

    def one(loss, params, support, query):
        fast, of_steps = parts(case, params)
        total = 0.0
        for k, w in enumerate(weights):
            grads = grads_of(loss({**fast, **row(of_steps, k)}, *support), fast, create_graph=second_order)
            fast = {n: p - params[f"alpha.{n}"][k] * grads[n] for n, p in fast.items()}
            total = total + w * loss({**fast, **row(of_steps, k)}, *query)
        return total

    return over_tasks(case, one)


# ── iMAML ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def pulled(case, loss, params, support):
    """φ_K."""
    strength, phi = case.settings["strength"], leaves(params)
    for _ in range(case.inner_steps):
        grads = grads_of(loss(phi, *support), phi, False)
        phi = leaves({n: p - case.inner_lr * (grads[n] + strength * (p - params[n])) for n, p in phi.items()})
    return phi


def hessian_times(loss, at, batch, v):
    at = leaves(at)
    grads = grads_of(loss(at, *batch), at)
    return grads_of(sum((grads[n] * v[n]).sum() for n in v), at, False)


def dot(a, b):
    return sum(float((a[n] * b[n]).sum()) for n in a)


def conjugate_gradients(matrix, b, iterations=12):
    x = {n: torch.zeros_like(v) for n, v in b.items()}
    r, p, rr, start = b, b, dot(b, b), dot(b, b)
    for _ in range(iterations):
        if rr <= 1e-32 * start:
            break
        image = matrix(p)
        a = rr / dot(p, image)
        x = {n: x[n] + a * p[n] for n in x}
        r = {n: r[n] - a * image[n] for n in r}
        new = dot(r, r)
        p, rr = {n: r[n] + new / rr * p[n] for n in p}, new
    return x


def implicit(case, adapted, matrix):
    """The mean over tasks of matrix⁻¹ g_q(φ_K)."""
    loss, params, tasks = given(case)
    found, value = [], 0.0
    for support, query in tasks:
        phi = adapted(case, loss, params, support)
        at_query = loss(phi, *query)
        value += at_query.item() / len(tasks)
        gradient = grads_of(at_query, phi, False)
        found.append(conjugate_gradients(lambda v: matrix(loss, params, phi, support, v), gradient))  # noqa: B023
    return {"meta_grad": mean_of(found), "meta_loss": value}


@wrong(
    "The linear system is solved with the damping of the authors' code, (I + H/(λ + 10))⁻¹ in the place of (I + "
    "H/λ)⁻¹.",
    r"(?i)damp|λ ?\+ ?(10|\d|c\b|δ)|(larger|greater|bigger|another|different|wrong|other) (λ|strength)|added to λ"
    r"|λ (is )?too (large|big|great)|regulari[sz]ed (solve|system)",
    algorithm="imaml",
)
def damped_system(case, damping=10.0):
    strength = case.settings["strength"]

    def matrix(loss, params, phi, support, v):
        curved = hessian_times(loss, phi, support, v)
        return {n: v[n] + curved[n] / (strength + damping) for n in v}

    return implicit(case, pulled, matrix)


@wrong(
    "The Hessian of the implicit system is taken at the initial θ in the place of the adapted φ_K.",
    r"(?i)(hessian|\bH\b).{0,40}(at|of|in) (the )?(θ|theta|start|initial|φ_?0|φ₀|meta|outer|unadapted)|at θ"
    r"|wrong point|(initial|start)\w* (point|parameters|θ)|before adapt|unadapted|not at φ",
    algorithm="imaml",
)
def hessian_where_it_began(case):
    strength = case.settings["strength"]

    def matrix(loss, params, phi, support, v):
        curved = hessian_times(loss, params, support, v)
        return {n: v[n] + curved[n] / strength for n in v}

    return implicit(case, pulled, matrix)


@wrong(
    "The inner loop pulls to a copy that is renewed in every step, so that the proximal term is zero and φ_K is "
    "plain gradient descent's.",
    r"(?i)(pull|anchor|proximal term|\bλ\b|regulari[sz]\w+|penalty).{0,40}(missing|zero|absent|left out|forgotten"
    r"|omitted|no effect|no part|renew|moves|follows|itself|iterate|lost|ignored)|(without|no) (the |a )?(pull|λ"
    r"|proximal|regulari|penalty)|plain (gradient|sgd|gd|inner)",
    algorithm="imaml",
    tells_loss=False,
)
def anchor_follows(case):
    strength = case.settings["strength"]

    def adapted(case, loss, params, support):
        phi = leaves(params)
        for _ in range(case.inner_steps):
            anchor = {n: p.detach().clone() for n, p in phi.items()}
            gap = sum(((p - anchor[n]) ** 2).sum() for n, p in phi.items())
            grads = grads_of(loss(phi, *support) + strength / 2 * gap, phi, False)
            phi = leaves(step(phi, grads, case.inner_lr))
        return phi

    def matrix(loss, params, phi, support, v):
        curved = hessian_times(loss, phi, support, v)
        return {n: v[n] + curved[n] / strength for n in v}

    return implicit(case, adapted, matrix)


# ── Reptile ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@wrong(
    "The inner loop trains on the support and the query set joined, as Reptile needs no split, and not on the support.",
    r"(?i)query.{0,40}(train|joined|together|inner|concat|too|added|includ|as well)|(both|all) (the )?(sets|data"
    r"|examples)|concat|support and (the )?query|support \+ query|union|merged|split",
    algorithm="reptile",
)
def all_examples_train(case):
    loss, params, tasks = given_numpy(case)
    moves, value = [], 0.0
    for (xs, ys), (xq, yq) in tasks:
        x, y = np.concatenate([xs, xq]), np.concatenate([ys, yq])
        fast = params
        for _ in range(case.inner_steps):
            fast = step(fast, tm.grad(loss)(fast, x, y), case.inner_lr)
        moves.append({n: params[n] - fast[n] for n in params})
        value += float(loss(fast, xq, yq)) / len(tasks)
    return {"meta_grad": mean_of(moves), "meta_loss": value}


@wrong(
    "The inner optimiser is Adam with β₁ = 0, as in the published code, and not gradient descent.",
    r"(?i)\badam\b|rms.?prop|adaptive|sign of|normali[sz]ed (gradient|step)",
    algorithm="reptile",
)
def published_optimiser(case):
    loss, params, tasks = given(case)
    moves, value = [], 0.0
    for support, query in tasks:
        fast = leaves(params)
        optimiser = torch.optim.Adam(fast.values(), lr=case.inner_lr, betas=(0.0, 0.999))
        for _ in range(case.inner_steps):
            optimiser.zero_grad()
            loss(fast, *support).backward()
            optimiser.step()
        moves.append({n: (params[n] - fast[n]).detach() for n in params})
        value += loss(fast, *query).item() / len(tasks)
    return {"meta_grad": mean_of(moves), "meta_loss": value}


@wrong(
    "θ moves after every task, by 1/T of the way, before the next task begins from it; the tasks ought all to "
    "begin from the same θ.",
    r"(?i)serial|sequential|one (task )?after (the |an)?other|(each|every) task.{0,40}(start|begin|from)|(next"
    r"|previous|former|earlier) task|carried|between (the )?tasks|not (reset|restored)|online|from where",
    algorithm="reptile",
    tells_loss=False,
)
def task_after_task(case):
    loss, params, tasks = given_numpy(case)
    theta = params
    for support, _ in tasks:
        fast = theta
        for _ in range(case.inner_steps):
            fast = step(fast, tm.grad(loss)(fast, *support), case.inner_lr)
        theta = {n: p + (fast[n] - p) / len(tasks) for n, p in theta.items()}
    return {"meta_grad": {n: params[n] - theta[n] for n in params}}


# ── Hessian-free MAML ───────────────────────────────────────────────────────────────────────────────────────────────


def way(case, loss, params, support):
    """[θ₀ … θ_K] in NumPy."""
    thetas = [params]
    for _ in range(case.inner_steps):
        thetas.append(step(thetas[-1], tm.grad(loss)(thetas[-1], *support), case.inner_lr))
    return thetas


@wrong(
    "ε is δ over the norm of each tensor of v by itself, in the place of one norm over all parameters together.",
    r"(?i)per.?(tensor|parameter|layer|array)|each (tensor|parameter|array|layer)|norm.{0,40}(separate|own|of each"
    r"|by itself|all parameters)|own (norm|ε|length)|(global|joint|whole|total|common) norm|(tensor|parameter"
    r"|layer).?wise",
    algorithm="hessian-free",
)
def length_of_every_tensor(case):
    loss, params, tasks = given_numpy(case)
    found, value = [], 0.0
    for support, query in tasks:
        thetas = way(case, loss, params, support)
        at_query, v = tm.value_and_grad(loss)(thetas[-1], *query)
        value += float(at_query) / len(tasks)
        for theta in reversed(thetas[:-1]):
            eps = {n: case.settings["delta"] / np.linalg.norm(g) for n, g in v.items()}
            up = tm.grad(loss)({n: p + eps[n] * v[n] for n, p in theta.items()}, *support)
            down = tm.grad(loss)({n: p - eps[n] * v[n] for n, p in theta.items()}, *support)
            v = {n: g - case.inner_lr * (up[n] - down[n]) / (2 * eps[n]) for n, g in v.items()}
        found.append(v)
    return {"meta_grad": mean_of(found), "meta_loss": value}


@wrong(
    "After the step to θ + εv the weights go back by ε and not by 2ε, so that the difference is g(θ + εv) − "
    "g(θ), still over 2ε.",
    r"(?i)one.?sided|forward difference|back (by|to)|half|½|restor|cent(re|er|ral)|one side"
    r"|g_?s?\(θ[ₖk]? ?\+ ?ε ?v\) ?[−-] ?g_?s?\(θ[ₖk]?\)",
    algorithm="hessian-free",
)
def back_by_one_length(case):
    loss, params, tasks = given(case)
    found, value = [], 0.0
    for support, query in tasks:
        thetas = [leaves(params)]
        for _ in range(case.inner_steps):
            grads = grads_of(loss(thetas[-1], *support), thetas[-1], False)
            thetas.append(leaves(step(thetas[-1], grads, case.inner_lr)))
        at_query = loss(thetas[-1], *query)
        value += at_query.item() / len(tasks)
        v = grads_of(at_query, thetas[-1], False)
        for theta in reversed(thetas[:-1]):
            eps = case.settings["delta"] / length(v)
            with torch.no_grad():
                for n, p in theta.items():
                    p.add_(v[n], alpha=eps.item())
            up = grads_of(loss(theta, *support), theta, False)
            with torch.no_grad():
                for n, p in theta.items():
                    p.sub_(v[n], alpha=eps.item())
            down = grads_of(loss(theta, *support), theta, False)
            v = {n: g - case.inner_lr * (up[n] - down[n]) / (2 * eps) for n, g in v.items()}
        found.append(v)
    return {"meta_grad": mean_of(found), "meta_loss": value}


# ── momentum in the inner loop ──────────────────────────────────────────────────────────────────────────────────────


@wrong(
    "The buffer is an average, μ m + (1 − μ) g after the first step, as with the option dampening = μ of "
    "PyTorch's SGD.",
    r"(?i)dampen|1 ?[-−] ?(μ|mu|momentum)|(exponential|moving|running|weighted) (moving )?average|\bema\b"
    r"|averaged gradient",
    algorithm="inner-momentum",
)
def dampened(case):
    mu = case.settings["momentum"]

    def one(loss, params, support, query):
        fast, buffer = params, None
        for _ in range(case.inner_steps):
            grads = grads_of(loss(fast, *support), fast)
            buffer = grads if buffer is None else {n: mu * buffer[n] + (1 - mu) * g for n, g in grads.items()}
            fast = step(fast, buffer, case.inner_lr)
        return loss(fast, *query)

    return over_tasks(case, one)


@wrong(
    "The inner optimiser has the options of a training script: Nesterov's momentum, and a weight decay of 5·10⁻⁴.",
    r"(?i)nesterov|look.?ahead|momentum (applied )?twice",
    r"(?i)weight.?decay|\bdecay|\bl2\b|L₂|regulari[sz]|penalty",
    algorithm="inner-momentum",
)
def options_of_a_training_script(case, weight_decay=5e-4):
    mu = case.settings["momentum"]

    def one(loss, params, support, query):
        fast, buffer = params, {n: torch.zeros_like(p) for n, p in params.items()}
        for _ in range(case.inner_steps):
            grads = grads_of(loss(fast, *support), fast)
            grads = {n: g + weight_decay * fast[n] for n, g in grads.items()}
            buffer = {n: mu * buffer[n] + g for n, g in grads.items()}
            fast = {n: p - case.inner_lr * (grads[n] + mu * buffer[n]) for n, p in fast.items()}
        return loss(fast, *query)

    return over_tasks(case, one)


# ── Adam in the inner loop ──────────────────────────────────────────────────────────────────────────────────────────


def adams_rate(case, m, v, t):
    s = case.settings
    m, v = m / (1 - s["beta1"] ** t), v / (1 - s["beta2"] ** t)
    return m / (torch.sqrt(v + s["eps_root"]) + s["eps"])


def moments(case, m, v, g, h):
    s = case.settings
    return s["beta1"] * m + (1 - s["beta1"]) * g, s["beta2"] * v + (1 - s["beta2"]) * h * h


@wrong(
    "The step count of the bias correction rises with every tensor and not with every step, so t is too large "
    "for all tensors but the first.",
    r"(?i)bias.?correct|counter|step count|count of steps|step (number|index)|\bt\b.{0,30}(too|wrong|rises|grows"
    r"|increment|off)|exponent",
    algorithm="inner-adam",
)
def count_in_the_wrong_loop(case):
    def one(loss, params, support, query):
        fast, t = params, 0
        m = {n: torch.zeros_like(p) for n, p in params.items()}
        v = dict(m)
        for _ in range(case.inner_steps):
            grads = grads_of(loss(fast, *support), fast)
            new = {}
            for n, p in fast.items():
                t += 1
                m[n], v[n] = moments(case, m[n], v[n], grads[n], grads[n])
                new[n] = p - case.inner_lr * adams_rate(case, m[n], v[n], t)
            fast = new
        return loss(fast, *query)

    return over_tasks(case, one)


@wrong(
    "The second moment is made of detached gradients, so that no derivative goes through the denominator.",
    r"(?i)(second moment|\bv\b|v̂|denominator|squared?|root|√).{0,50}(detach|constant|no (derivative|gradient)"
    r"|graph|stop|held|not (be )?differentiated)|(detach|constant|stop|held|no (derivative|gradient)"
    r"|not differentiated).{0,50}(second moment|\bv\b|v̂|denominator|square|root|√)",
    algorithm="inner-adam",
)
def second_moment_as_a_number(case):
    def one(loss, params, support, query):
        fast = params
        m = {n: torch.zeros_like(p) for n, p in params.items()}
        v = dict(m)
        for t in range(1, case.inner_steps + 1):
            grads = grads_of(loss(fast, *support), fast)
            for n, g in grads.items():
                m[n], v[n] = moments(case, m[n], v[n], g, g.detach())
            fast = {n: p - case.inner_lr * adams_rate(case, m[n], v[n], t) for n, p in fast.items()}
        return loss(fast, *query)

    return over_tasks(case, one)


@wrong(
    "The inner optimiser is AdamW, whose default weight decay of 0.01 shrinks the parameters by α/100 in every step.",
    r"(?i)weight.?decay|adamw|decoupled|shr[iau]nk|\bl2\b|0\.01",
    algorithm="inner-adam",
    tells_loss=False,
)
def with_the_default_decay(case, weight_decay=0.01):
    def one(loss, params, support, query):
        fast = params
        m = {n: torch.zeros_like(p) for n, p in params.items()}
        v = dict(m)
        for t in range(1, case.inner_steps + 1):
            grads = grads_of(loss(fast, *support), fast)
            fast = {n: p * (1 - case.inner_lr * weight_decay) for n, p in fast.items()}
            for n, g in grads.items():
                m[n], v[n] = moments(case, m[n], v[n], g, g)
            fast = {n: p - case.inner_lr * adams_rate(case, m[n], v[n], t) for n, p in fast.items()}
        return loss(fast, *query)

    return over_tasks(case, one)


# ── Sharp-MAML ──────────────────────────────────────────────────────────────────────────────────────────────────────


@wrong(
    "The perturbation is that of adaptive SAM, θ² g over the norm of |θ| g, and not g over its norm.",
    r"(?i)adaptive|\basam\b|\|θ\||θ²|(scaled|weighted|multiplied) (by|with) (θ|\|θ|the (size|parameter|weight)"
    r"|its)|element.?wise (scal|size)|relative (to|size)|scale.?invarian",
    algorithm="sharp",
)
def adaptive_is_on(case):
    def one(loss, params, support, query):
        fast = params
        for _ in range(case.inner_steps):
            grads = grads_of(loss(fast, *support), fast)
            scale = case.settings["radius"] / length({n: fast[n].abs() * g for n, g in grads.items()})
            uphill = {n: p + p**2 * grads[n] * scale for n, p in fast.items()}
            fast = step(fast, grads_of(loss(uphill, *support), uphill), case.inner_lr)
        return loss(fast, *query)

    return over_tasks(case, one)


@wrong(
    "The norm in the perturbation is taken out as a number by .item(), so that no derivative goes through it.",
    r"(?i)norm\w*.{0,50}(detach|constant|item|a number|held|no (gradient|derivative)|not differentiated|stop"
    r"|graph)|‖g‖.{0,50}(detach|constant|held|no (gradient|derivative)|not differentiated|stop)|(detach|constant"
    r"|item|held|stop|no (gradient|derivative)|not differentiated).{0,50}(norm|‖g‖|length)",
    algorithm="sharp",
    tells_loss=False,
)
def norm_as_a_number(case):
    def one(loss, params, support, query):
        fast = params
        for _ in range(case.inner_steps):
            grads = grads_of(loss(fast, *support), fast)
            scale = case.settings["radius"] / length(grads).item()
            uphill = {n: p + grads[n] * scale for n, p in fast.items()}
            fast = step(fast, grads_of(loss(uphill, *support), uphill), case.inner_lr)
        return loss(fast, *query)

    return over_tasks(case, one)


# ── proximal ────────────────────────────────────────────────────────────────────────────────────────────────────────


@wrong(
    "The pull is the optimiser's weight decay of λ, which goes to zero and not to θ.",
    r"(?i)weight.?decay|to(ward)?s? (zero|0\b|the origin)|origin|λ ?φ|not to(ward)?s? θ|(pull|anchor|term"
    r"|decay).{0,40}(zero|\b0\b)",
    algorithm="proximal",
)
def weight_decay_for_the_pull(case):
    loss, params, tasks = given(case)
    strength, found, value = case.settings["strength"], [], 0.0
    for support, query in tasks:
        phi = leaves(params)
        optimiser = torch.optim.SGD(phi.values(), lr=case.inner_lr, weight_decay=strength)
        for _ in range(case.inner_steps):
            optimiser.zero_grad()
            loss(phi, *support).backward()
            optimiser.step()
        found.append({n: strength * (params[n] - phi[n]).detach() for n in params})
        value += loss(phi, *query).item() / len(tasks)
    return {"meta_grad": mean_of(found), "meta_loss": value}


@wrong(
    "The penalty is λ‖φ − θ‖² without its ½, so that the pull is twice too strong, and the outer gradient is θ − "
    "φ_K, without λ.",
    r"(?i)½|half|twice|2 ?λ|doubl|factor (of )?(2|two)|1/2",
    r"(?i)reptile|without (the )?(λ|strength)|(?<!λ \()θ ?[−-] ?φ|λ.{0,20}(missing|forgotten|left out|not in"
    r"|absent|dropped)|1/λ|not (multiplied|scaled|times)|(over|divided by) λ|lacks (the )?λ|factor (of )?λ|(other"
    r"|second|outer) λ",
    algorithm="proximal",
)
def whole_square_and_bare_difference(case):
    loss, params, tasks = given_numpy(case)
    strength, found, value = case.settings["strength"], [], 0.0
    for support, query in tasks:

        def inner(phi, x, y):
            return loss(phi, x, y) + strength * sum(((phi[n] - params[n]) ** 2).sum() for n in params)

        phi = params
        for _ in range(case.inner_steps):
            phi = step(phi, tm.grad(inner)(phi, *support), case.inner_lr)
        found.append({n: params[n] - phi[n] for n in params})
        value += float(loss(phi, *query)) / len(tasks)
    return {"meta_grad": mean_of(found), "meta_loss": value}


# ── right, in unusual forms ─────────────────────────────────────────────────────────────────────────────────────────


@correct("iMAML with the dense Hessian of a flat vector and a direct solve", algorithm="imaml")
def dense_solve(case):
    loss, params, tasks = given(case)
    sizes = [p.numel() for p in params.values()]
    theta = torch.cat([p.detach().reshape(-1) for p in params.values()])
    strength = case.settings["strength"]

    def named(flat):
        pieces = flat.split(sizes)
        return {n: piece.reshape(p.shape) for (n, p), piece in zip(params.items(), pieces, strict=True)}

    total, value = torch.zeros_like(theta), 0.0
    for support, query in tasks:

        def of_support(flat):
            return loss(named(flat), *support)  # noqa: B023

        phi = theta
        for _ in range(case.inner_steps):
            phi = phi - case.inner_lr * (torch.func.grad(of_support)(phi) + strength * (phi - theta))
        matrix = torch.func.hessian(of_support)(phi) / strength + torch.eye(len(phi), dtype=phi.dtype)
        gradient, at_query = torch.func.grad_and_value(lambda flat: loss(named(flat), *query))(phi)  # noqa: B023
        total, value = total + torch.linalg.solve(matrix, gradient) / len(tasks), value + at_query.item() / len(tasks)
    return {"meta_grad": named(total), "meta_loss": value}


@correct("Reptile as α times the sum of the gradients that an optimiser accumulated in place", algorithm="reptile")
def gradients_added_up(case):
    loss, params, tasks = given(case)
    sums, value = {n: torch.zeros_like(p) for n, p in params.items()}, 0.0
    for support, query in tasks:
        fast = leaves(params)
        optimiser = torch.optim.SGD(fast.values(), lr=case.inner_lr, foreach=False)
        for _ in range(case.inner_steps):
            optimiser.zero_grad(set_to_none=True)
            loss(fast, *support).backward()
            optimiser.step()
            for n, p in fast.items():
                sums[n] = sums[n] + p.grad
        value += loss(fast, *query).item() / len(tasks)
    return {"meta_grad": {n: case.inner_lr * g / len(tasks) for n, g in sums.items()}, "meta_loss": value}


@correct("momentum without a buffer: μ times the last displacement, Polyak's heavy ball", algorithm="inner-momentum")
def heavy_ball(case):
    def one(loss, params, support, query):
        before, now = params, params
        for _ in range(case.inner_steps):
            grads = grads_of(loss(now, *support), now)
            new = {
                n: p - case.inner_lr * grads[n] + case.settings["momentum"] * (p - before[n]) for n, p in now.items()
            }
            before, now = now, new
        return loss(now, *query)

    return over_tasks(case, one)


@correct("BOIL by forward mode: one derivative of the whole computation per parameter", algorithm="boil")
def forward_mode(case):
    loss, params, tasks = given(case)
    params = {n: p.detach() for n, p in params.items()}

    def mean_loss(params):
        total = 0.0
        for support, query in tasks:
            body, head = {n: params[n] for n in case.adapt}, {n: p for n, p in params.items() if n not in case.adapt}
            for _ in range(case.inner_steps):
                grads = torch.func.grad(lambda body: loss({**head, **body}, *support))(body)  # noqa: B023
                body = step(body, grads, case.inner_lr)
            total = total + loss({**head, **body}, *query)
        return total / len(tasks)

    return {"meta_grad": torch.func.jacfwd(mean_loss)(params), "meta_loss": mean_loss(params)}


@correct("MAML++ with vmap over tasks, the rows and rates of a step picked by one-hot products", algorithm="mamlpp")
def picked_by_products(case):
    loss, params, ((xs, ys), (xq, yq)) = case.torch()
    params = {n: p.detach() for n, p in params.items()}
    dtype = next(iter(params.values())).dtype
    weights = torch.tensor(case.settings["loss_weights"], dtype=dtype)
    picks = torch.eye(case.inner_steps, dtype=dtype)

    def of_task(params, xs, ys, xq, yq):
        fast, of_steps = parts(case, params)
        losses = []
        for pick in picks:
            rows = {n: torch.tensordot(pick, p, 1) for n, p in of_steps.items()}
            grads = torch.func.grad(lambda fast: loss({**fast, **rows}, xs, ys))(fast)  # noqa: B023
            fast = {n: p - (pick @ params[f"alpha.{n}"]) * grads[n] for n, p in fast.items()}
            losses.append(loss({**fast, **rows}, xq, yq))
        return weights @ torch.stack(losses)

    def mean_loss(params):
        return torch.func.vmap(of_task, (None, 0, 0, 0, 0))(params, xs, ys, xq, yq).mean()

    grads, value = torch.func.grad_and_value(mean_loss)(params)
    return {"meta_grad": grads, "meta_loss": value}


@correct("CAVIA with the context folded into the first layer's bias", algorithm="cavia")
def context_as_a_bias(case):
    first = case.model["layers"][1]["params"]
    bare = models.loss_in(LIBRARY, {**case.model, "layers": case.model["layers"][1:]})
    width = case.settings["context"]

    def folded(params, phi):
        w, b = (params[n] for n in first)
        return {**params, first[0]: w[:-width], first[1]: b + phi @ w[-width:]}

    def one(_, params, support, query):
        phi = blank(case, params)
        for _ in range(case.inner_steps):
            (g,) = torch.autograd.grad(bare(folded(params, phi), *support), phi, create_graph=True)
            phi = phi - case.inner_lr * g
        return bare(folded(params, phi), *query)

    return over_tasks(case, one)


@correct("the proximal gradient as a sum of gradients with the weights (1 − αλ)^(K−1−k)", algorithm="proximal")
def fading_sum(case):
    loss, params, tasks = given_numpy(case)
    strength, rate, found, value = case.settings["strength"], case.inner_lr, [], 0.0
    keep = 1 - rate * strength
    for support, query in tasks:
        sums = {n: p * 0 for n, p in params.items()}
        for _ in range(case.inner_steps):
            grads = tm.grad(loss)({n: p - rate * sums[n] for n, p in params.items()}, *support)
            sums = {n: keep * s + grads[n] for n, s in sums.items()}
        found.append({n: rate * strength * s for n, s in sums.items()})
        value += float(loss({n: p - rate * sums[n] for n, p in params.items()}, *query)) / len(tasks)
    return {"meta_grad": mean_of(found), "meta_loss": value}


@correct("Adam with moments as explicit sums over all past gradients, and the corrections moved into α and ε",
         algorithm="inner-adam")  # fmt: skip
def moments_as_sums(case):
    s = case.settings

    def one(loss, params, support, query):
        fast, past = params, []
        for t in range(1, case.inner_steps + 1):
            past.append(grads_of(loss(fast, *support), fast))
            c1, c2 = 1 - s["beta1"] ** t, 1 - s["beta2"] ** t
            new = {}
            for n, p in fast.items():
                m = sum((1 - s["beta1"]) * s["beta1"] ** (t - 1 - i) * g[n] for i, g in enumerate(past))
                v = sum((1 - s["beta2"]) * s["beta2"] ** (t - 1 - i) * g[n].square() for i, g in enumerate(past))
                below = (v + s["eps_root"] * c2).sqrt() + s["eps"] * c2**0.5
                new[n] = p - case.inner_lr * c2**0.5 / c1 * m / below
            fast = new
        return loss(fast, *query)

    return over_tasks(case, one)
