"""MAML's relatives in NumPy and PyTorch: slips of loops, data, losses and sums, and an algorithm's own."""

from __future__ import annotations

import numpy as np
import torch

import tinymaml as tm
from tinymaml.oracle import models

from .. import in_numpy, in_torch
from ..entries import correct, wrong
from ..in_torch import grads_of, leaves

# Honest pieces that several share.


def with_rates(params):
    """Meta-SGD: (θ, α), both by the names of θ."""
    theta = {n: p for n, p in params.items() if not n.startswith("alpha.")}
    return theta, {n: params[f"alpha.{n}"] for n in theta}


def add(a, b, scale):
    """a + scale b"""
    return {n: p + scale * b[n] for n, p in a.items()}


def mean_in_torch(values, grads):
    """An answer from the losses and the gradients of the tasks."""
    return {"meta_grad": in_numpy.mean_of(grads), "meta_loss": sum(values) / len(values)}


def at_rest(loss, batch):
    """θ → the gradient there as a constant, in PyTorch."""

    def gradient(params):
        at = leaves(params)
        return grads_of(loss(at, *batch), at, create_graph=False)

    return gradient


def pulled(case, gradient, params):
    """φ_K of iMAML's inner loop and of the proximal one's, in either library."""
    phi, strength = params, case.settings["strength"]
    for _ in range(case.inner_steps):
        g = gradient(phi)
        phi = {n: p - case.inner_lr * (g[n] + strength * (p - params[n])) for n, p in phi.items()}
    return phi


def conjugate_gradients(apply, b):
    """apply⁻¹ b for {name: array}s, in NumPy."""
    x, r, p = {n: 0 * v for n, v in b.items()}, b, b
    rr = in_numpy.dot(r, r)
    for _ in range(sum(np.size(v) for v in b.values()) + 1):
        if rr < 1e-40:
            break
        ap = apply(p)
        a = rr / in_numpy.dot(p, ap)
        x, r = add(x, p, a), add(r, ap, -a)
        rr, before = in_numpy.dot(r, r), rr
        p = add(r, p, rr / before)
    return x


def solved(apply, b):
    """apply⁻¹ b for {name: tensor}s, in PyTorch, by the dense matrix."""
    flat = in_torch.flatten(b)
    units = torch.eye(flat.numel(), dtype=flat.dtype)
    matrix = torch.stack([in_torch.flatten(apply(in_torch.unflatten(u, b))) for u in units], 1)
    return in_torch.unflatten(torch.linalg.solve(matrix, flat), b)


def imaml_in_torch(case, layers=None):
    """iMAML with the layers given."""
    loss, params, tasks = in_torch.given(case, layers)
    values, grads, strength = [], [], case.settings["strength"]
    for support, query in tasks:
        phi = leaves(pulled(case, at_rest(loss, support), params))
        value = loss(phi, *query)
        g = grads_of(value, phi, create_graph=False)
        grads.append(solved(lambda v: add(v, in_torch.hvp(loss, phi, support, v), 1 / strength), g))  # noqa: B023
        values.append(value.detach())
    return mean_in_torch(values, grads)


def rows(params, adapted, k):
    """MAML++: all that does not adapt, of γ and β row k."""
    own = {n: p for n, p in params.items() if n not in adapted and not n.startswith("alpha.")}
    return {n: p[k] if n in ("gamma", "beta") else p for n, p in own.items()}


def mamlpp_step(case, loss, params, fast, support, k):
    """MAML++: step k of the tensors that adapt."""
    g = grads_of(loss({**rows(params, case.adapt, k), **fast}, *support), fast)
    return {n: p - params[f"alpha.{n}"][k] * g[n] for n, p in fast.items()}


def box(x):
    """☐(x)"""
    return torch.exp(x - x.detach())


def returns_of(rewards, gamma):
    """Σ_{u≥t} γ^{u−t} r_u"""
    total, out = torch.zeros_like(rewards[:, 0]), []
    for t in reversed(range(rewards.shape[1])):
        total = rewards[:, t] + gamma * total
        out.insert(0, total)
    return torch.stack(out, 1)


def advantages_of(rewards, baseline, gamma):
    """The return without the baseline."""
    return returns_of(rewards, gamma) - baseline


def dice_terms(logs, rewards, baseline):
    """DiCE's term of each step."""
    return rewards * box(torch.cumsum(logs, 1)) + (1 - box(logs)) * baseline


def alive_of(y):
    """1 while the episode runs."""
    return y[..., 2]


def reinforced(case, dice=dice_terms, advantages=advantages_of, alive=alive_of, second=lambda ys, k: ys[:, k]):
    """MAML for reinforcement learning, whose pieces can be given."""
    kind, gamma, decay = (case.settings.get(n) for n in ("surrogate", "discount", "decay"))

    def masked(logs, y):
        runs = alive(y)
        return logs * runs, y[..., 1] * runs, y[..., 3] * runs, gamma ** torch.arange(y.shape[1], dtype=y.dtype) * runs

    def surrogate(logs, y):
        logs, rewards, baseline, weight = masked(logs, y)
        if kind == "dice":
            return (weight * dice(logs, rewards, baseline)).sum(1).mean()
        a = advantages(rewards, baseline, gamma)
        if kind == "lvc":
            terms = box(logs) * a
        elif kind == "loaded-dice":
            w, before = [], torch.zeros_like(logs[:, 0])
            for t in range(logs.shape[1]):
                w.append((decay * before + logs[:, t], decay * before))
                before = w[-1][0]
            terms = torch.stack([box(now) - box(past) for now, past in w], 1) * a
        else:
            terms = logs * a
        return (weight * terms).sum(1).mean()

    def one(loss, params, support, query):
        (xs, ys), (xq, yq) = support, query
        explored = 0.0
        for k in range(case.inner_steps):
            y = second(ys, k)
            logs = loss(params, xs[:, k], y)
            explored = explored + masked(logs, y)[0].sum()
            params = in_torch.step(params, grads_of(surrogate(logs, y), params), -case.inner_lr)
        y = yq[:, 0]
        total = surrogate(loss(params, xq[:, 0], y), y)
        if kind == "e-maml":
            _, rewards, _, weight = masked(y[..., 1], y)
            total = total + explored * (weight * rewards).sum(1).mean()
        return -total

    return in_torch.over_tasks(case, one)


def in_twos(loss):
    """The mean over the batches of two examples that a loader gives, the last of which may have one."""
    return lambda p, x, y: sum(loss(p, x[i : i + 2], y[i : i + 2]) for i in range(0, len(x), 2)) / ((len(x) + 1) // 2)


# Meta-SGD


@wrong(
    "The rates are matched with the wrong elements: θ is made one vector in the order of the parameters, α in the "
    "sorted order of the names, as a JAX tree would be, so a tensor moves with another tensor's rates.",
    r"sort|order|permut|match|misalign|(another|other|wrong) (tensor|parameter|rate|element)|swap",
    algorithm="meta-sgd",
)
def rates_in_sorted_order(case):
    def one(loss, params, support, query):
        theta, alpha = with_rates(params)
        flat, rates = in_torch.flatten(theta), in_torch.flatten({n: alpha[n] for n in sorted(alpha)})
        for _ in range(case.inner_steps):
            fast = in_torch.unflatten(flat, theta)
            flat = flat - rates * in_torch.flatten(grads_of(loss(fast, *support), fast))
        return loss(in_torch.unflatten(flat, theta), *query)

    return in_torch.over_tasks(case, one)


@wrong(
    "The gradient of the rates is the one-step formula with the sum of all inner gradients, −Σ g_s(θₖ) ∘ g_q(θ_K): "
    "the factors I − HA of the later steps are missing in it, while the gradient of θ has them.",
    r"(rate|α|alpha).*(first.order|hessian|later|one.step|factor|not.*through|g_q\(θ_K\)|second)"
    r"|(first.order|hessian|later|factor).*(rate|α|alpha)",
    tells_loss=False,
    algorithm="meta-sgd",
)
def rates_by_the_formula_of_one_step(case):
    def one(loss, params, support, query):
        theta, alpha = with_rates(params)
        thetas, steps = [theta], []
        for _ in range(case.inner_steps):
            steps.append(tm.grad(loss)(thetas[-1], *support))
            thetas.append({n: p - alpha[n] * steps[-1][n] for n, p in thetas[-1].items()})
        value, v = tm.value_and_grad(loss)(thetas[-1], *query)
        of_rates = {f"alpha.{n}": -sum(g[n] for g in steps) * v[n] for n in theta}
        for at in reversed(thetas[:-1]):
            v = add(v, in_numpy.hvp(loss, at, support, {n: alpha[n] * v[n] for n in v}), -1.0)
        return value, {**v, **of_rates}

    return in_numpy.by_hand(case, one)


@wrong(
    "The support set goes in batches of two, and the mean of the batches' means counts the single example of a "
    "smaller last batch twice; and the gradient of the rates is summed over the tasks instead of averaged.",
    r"batch|single example|last example|counts? (twice|double)|uneven|mean of means|weigh",
    r"(rate|α|alpha).*(sum|not averag|not divid|times T|number of tasks|T times)"
    r"|(sum|not averag|not divid|number of tasks).*(rate|α|alpha)",
    algorithm="meta-sgd",
)
def small_batch_and_summed_rates(case):
    def one(loss, params, support, query):
        fast, alpha = with_rates(params)
        for _ in range(case.inner_steps):
            g = grads_of(in_twos(loss)(fast, *support), fast)
            fast = {n: p - alpha[n] * g[n] for n, p in fast.items()}
        return loss(fast, *query)

    got = in_torch.over_tasks(case, one)
    got["meta_grad"] = {n: g * case.tasks if n.startswith("alpha.") else g for n, g in got["meta_grad"].items()}
    return got


# ANIL


@wrong(
    "The support's features are computed once and detached after the first inner step (to get rid of the error about "
    "a graph that is gone), so the body's gradient comes through the support of the first step only; right with K = "
    "1.",
    r"detach|feature|constant|stop.gradient|support.*(body|path|way)|body.*(support|first step|first.order)",
    algorithm="anil",
)
def features_detached_after_one_step(case):
    def one(loss, params, support, query):
        body = {n: p for n, p in params.items() if n not in case.adapt}
        head = {n: params[n] for n in case.adapt}
        seen = body
        for _ in range(case.inner_steps):
            head = in_torch.step(head, grads_of(loss({**seen, **head}, *support), head), case.inner_lr)
            seen = {n: p.detach() for n, p in seen.items()}
        return loss({**body, **head}, *query)

    return in_torch.over_tasks(case, one)


@wrong(
    "A closure bound too late: the inner loops of the tasks are made in a loop and called after it, so all of them "
    "adapt on the support set of the last task.",
    r"(last|other|another|wrong|same|next|previous).*(task|support)|bound (too )?late|late.binding|closure"
    r"|clos(es|ed) over",
    tells_loss=False,
    algorithm="anil",
)
def closure_sees_last_support(case):
    loss, params, tasks = in_numpy.given(case)

    def mean(params):
        inner = []
        for support, _ in tasks:

            def adapted(params):
                for _ in range(case.inner_steps):
                    g = tm.grad(loss)(params, *support)  # noqa: B023
                    params = {n: p - case.inner_lr * g[n] if n in case.adapt else p for n, p in params.items()}
                return params

            inner.append(adapted)
        return sum(loss(f(params), *query) for f, (_, query) in zip(inner, tasks, strict=True)) / len(tasks)

    value, grads = tm.value_and_grad(mean)(params)
    return {"meta_grad": grads, "meta_loss": value}


# BOIL


@wrong(
    "The head adapts too in the last inner step, where all parameters are updated; only the body may.",
    r"(head|last layer|all (parameters|tensors|layers)|every (parameter|tensor|layer)).*(adapt|mov|updat|chang|step)"
    r"|(adapt|mov|updat|chang).*(head|all (parameters|tensors|layers)|everything|every (parameter|tensor|layer))",
    algorithm="boil",
)
def head_joins_the_last_step(case):
    def one(loss, params, support, query):
        for k in range(case.inner_steps):
            g = tm.grad(loss)(params, *support)
            moves = case.adapt if k + 1 < case.inner_steps else tuple(params)
            params = {n: p - case.inner_lr * g[n] if n in moves else p for n, p in params.items()}
        return loss(params, *query)

    return in_numpy.over_tasks(case, one)


@wrong(
    "The tensors are updated one after another, each with a gradient that is taken where those before it have "
    "already moved (Gauss-Seidel), instead of all from the gradient at θₖ.",
    r"one after (another|the other)|in turn|gauss|seidel|sequential|already|tensor by tensor|one by one"
    r"|coordinate|layer by layer"
    r"|not (at once|together|simultaneous)",
    tells_loss=False,
    algorithm="boil",
)
def tensor_after_tensor(case):
    def one(loss, params, support, query):
        fast = dict(params)
        for _ in range(case.inner_steps):
            for n in case.adapt:
                g = grads_of(loss(fast, *support), {n: fast[n]})
                fast = {**fast, n: fast[n] - case.inner_lr * g[n]}
        return loss(fast, *query)

    return in_torch.over_tasks(case, one)


# CAVIA


def cavia_in_numpy(case, layers=None, start=np.zeros, of_support=lambda a: a):
    """CAVIA with other layers, another start of the context, or a part of the support set."""

    def one(loss, params, support, query):
        x, y = map(of_support, support)
        phi = start(case.settings["context"])
        for _ in range(case.inner_steps):
            phi = phi - case.inner_lr * tm.grad(lambda c: loss({**params, "context": c}, x, y))(phi)
        return loss({**params, "context": phi}, *query)

    return in_numpy.over_tasks(case, one, layers)


@wrong(
    "The context is put in front of the inputs, [φ x], not behind them, [x φ]: the rows of the first weights belong "
    "to other inputs.",
    r"front|behind|order|position|prepend|append|swap|\[φ x\]|before (the )?(x|input)|rows",
    tells_loss=False,
    algorithm="cavia",
)
def context_in_front(case):
    class Mine(models.NumPy):
        def context(self, x, phi):
            return self.concatenate([self.broadcast_to(phi, (*x.shape[:-1], phi.shape[0])), x], -1)

    return cavia_in_numpy(case, Mine())


@wrong(
    "The context is expanded to the batch before the inner loop, so each support example adapts one of its own; "
    "their mean serves the query, and moves N times too little.",
    r"per.example|each (support )?example|every example|own context|number of (support )?examples|too small"
    r"|N times|1/N|expand",
    algorithm="cavia",
)
def context_of_each_example(case):
    class Mine(models.Torch):
        def context(self, x, phi):
            return torch.cat([x, phi.expand(*x.shape[:-1], phi.shape[-1])], -1)

    def one(loss, params, support, query):
        phi = params["w1"].new_zeros(len(support[0]), case.settings["context"], requires_grad=True)
        for _ in range(case.inner_steps):
            fast = {"context": phi}
            phi = in_torch.step(fast, grads_of(loss({**params, **fast}, *support), fast), case.inner_lr)["context"]
        return loss({**params, "context": phi.mean(0)}, *query)

    return in_torch.over_tasks(case, one, Mine())


@wrong(
    "The loader has batches of two and drop_last, so the last of an odd number of support examples is never seen; "
    "and the context starts at small random numbers, as weights would, instead of at 0.",
    r"drop|last example|example.*(miss|left out|ignor|never)|part of the support|subset|fewer|incomplete",
    r"(start|init|φ₀|phi).*(random|0|zero)|not (0|zero)|nonzero|random",
    algorithm="cavia",
)
def odd_example_dropped_and_random_context(case):
    return cavia_in_numpy(
        case,
        start=lambda d: 0.1 * np.random.default_rng(0).standard_normal(d),
        of_support=lambda a: a[: len(a) - len(a) % 2],
    )


# MAML++


@wrong(
    "The query losses are taken before the steps and not after them: w_k weighs L_q(θ_{k−1}), so θ₀ counts and θ_K "
    "does not.",
    r"before.*(step|update)|shift|off.by.one|θ₀|too early|previous|one step (earlier|less)|θ_\{k|without.*θ_K",
    algorithm="mamlpp",
)
def query_losses_before_steps(case):
    def one(loss, params, support, query):
        fast, total = {n: params[n] for n in case.adapt}, 0.0
        for k, w in enumerate(case.settings["loss_weights"]):
            total = total + w * loss({**rows(params, case.adapt, k), **fast}, *query)
            fast = mamlpp_step(case, loss, params, fast, support, k)
        return total

    return in_torch.over_tasks(case, one)


@wrong(
    "A running mean over the tasks divides by an index that starts at 0, so that the first task is lost and the rest "
    "averaged; and the query losses of the steps before the last have only their first-order gradient.",
    r"first task|task.*(lost|left out|miss|ignor|forgot|drop|skip|without)|(lost|left out|miss|ignor|drop|skip"
    r"|without).*task"
    r"|running mean|index",
    r"first.order|intermediate|before the last|detach|last (loss|step)|earlier (loss|step)|second.order|not.*through",
    tells_loss=False,
    algorithm="mamlpp",
)
def first_task_lost_and_early_losses_first_order(case):
    loss, params, tasks = in_torch.given(case)
    mean = 0.0
    for t, (support, query) in enumerate(tasks):
        fast, total = {n: params[n] for n in case.adapt}, 0.0
        for k, w in enumerate(case.settings["loss_weights"]):
            fast = mamlpp_step(case, loss, params, fast, support, k)
            last = k + 1 == case.inner_steps
            near = fast if last else {n: params[n] + (p - params[n]).detach() for n, p in fast.items()}
            total = total + w * loss({**rows(params, case.adapt, k), **near}, *query)
        mean = mean + (total - mean) / max(t, 1)
    return in_torch.answer(mean, params)


# iMAML


@wrong(
    "The system that is solved is that of the published code with its defaults, (1 + 1) v + H v / (λ + 10): it is "
    "damped twice, and is not I + H/λ.",
    r"damp|regulari[sz]|shift|λ \+|2 ?I|system|identity|scale",
    algorithm="imaml",
)
def damping_of_published_code(case):
    def one(loss, params, support, query, regularisation=1.0, damping=10.0):
        phi = pulled(case, lambda at: tm.grad(loss)(at, *support), params)
        value, g = tm.value_and_grad(loss)(phi, *query)

        def apply(v):
            hv = in_numpy.hvp(loss, phi, support, v)
            return {n: (1 + regularisation) * v[n] + hv[n] / (case.settings["strength"] + damping) for n in v}

        return value, conjugate_gradients(apply, g)

    return in_numpy.by_hand(case, one)


@wrong(
    "One system is solved for all tasks, with the mean of their Hessians and the mean of their query gradients; the "
    "mean has to be taken of the solutions.",
    r"(mean|averag|sum).*([Hh]essian|system|solv)|([Oo]ne|single|common|shared|joint) (system|solve|[Hh]essian)"
    r"|[Hh]essian.*(mean|averag|all tasks|over (the )?tasks)",
    tells_loss=False,
    algorithm="imaml",
)
def one_system_for_all_tasks(case):
    loss, params, tasks = in_numpy.given(case)
    ends = [pulled(case, lambda at, s=s: tm.grad(loss)(at, *s), params) for s, _ in tasks]
    values, grads = zip(*(tm.value_and_grad(loss)(e, *q) for e, (_, q) in zip(ends, tasks, strict=True)), strict=True)

    def apply(v):
        hv = in_numpy.mean_of([in_numpy.hvp(loss, e, s, v) for e, (s, _) in zip(ends, tasks, strict=True)])
        return add(v, hv, 1 / case.settings["strength"])

    return {"meta_grad": conjugate_gradients(apply, in_numpy.mean_of(grads)), "meta_loss": sum(values) / len(values)}


@wrong(
    "The cross-entropies take the logarithm of the probability plus 1e-4, against log 0.",
    r"log.*(eps|ε|1e|10⁻|\+)|eps|ε|clamp|clip|probabilit|softmax",
    algorithm="imaml",
)
def log_of_probability_plus_eps(case):
    class Mine(models.Torch):
        def __init__(self):
            super().__init__()
            self.cross_entropy = self.of_classes

        def of_classes(self, o, y):
            p = torch.softmax(o, -1)
            return -torch.log(p[torch.arange(len(y)), y.long()] + 1e-4).mean()

        def binary_cross_entropy(self, o, y):
            p = torch.sigmoid(o)
            return -(y * torch.log(p + 1e-4) + (1 - y) * torch.log(1 - p + 1e-4)).mean()

    return imaml_in_torch(case, Mine())


@wrong(
    "One function is the loss with the pull everywhere: the Hessian products contain λ already, and λI is added once "
    "more; and the query gradient contains λ (φ_K − θ) too.",
    r"twice|2 ?λ|again|double|once more|already|second time|two times",
    r"(query|outer|g_q).*(pull|penalt|regulari|λ|prox|quadratic)|(pull|penalt|regulari|λ|prox"
    r"|quadratic).*(query|outer|g_q)",
    tells_loss=False,
    algorithm="imaml",
)
def objective_with_pull_everywhere(case):
    loss, params, tasks = in_torch.given(case)
    strength, centre, values, grads = case.settings["strength"], leaves(params), [], []

    def objective(p, x, y):
        away = add(p, centre, -1.0)
        return loss(p, x, y) + strength / 2 * in_torch.dot(away, away)

    for support, query in tasks:
        phi = params
        for _ in range(case.inner_steps):
            phi = in_torch.step(leaves(phi), at_rest(objective, support)(phi), case.inner_lr)
        phi = leaves(phi)
        value = objective(phi, *query)
        g = grads_of(value, phi, create_graph=False)
        grads.append(solved(lambda v: add(v, in_torch.hvp(objective, phi, support, v), 1 / strength), g))  # noqa: B023
        values.append(value.detach())
    return mean_in_torch(values, grads)


# Reptile


@wrong(
    "The parameters are moved by a T-th after each task, and the next task starts from there, as in a serial "
    "Reptile; the tasks of a batch all start from θ.",
    r"serial|sequen|(next|later|second|following) task|from θ|reset|after each task|between (the )?tasks|moved|carr",
    tells_loss=False,
    algorithm="reptile",
)
def moved_after_each_task(case):
    loss, params, tasks = in_numpy.given(case)
    at, values = params, []
    for support, query in tasks:
        end = in_numpy.adapt(case, loss, at, support)
        values.append(loss(end, *query))
        at = add(at, add(end, at, -1.0), 1 / len(tasks))
    return {"meta_grad": add(params, at, -1.0), "meta_loss": sum(values) / len(values)}


@wrong(
    "Each inner step takes a minibatch of one example, number k modulo N, as in the paper's SGD, instead of the "
    "whole support set.",
    r"one example|single example|minibatch|mini-batch|batch|part of the support|whole support|subset|stochastic"
    r"|example",
    algorithm="reptile",
)
def one_example_per_step(case):
    def one(loss, params, support, query):
        at = params
        for k in range(case.inner_steps):
            i = k % len(support[0])
            at = in_numpy.step(at, tm.grad(loss)(at, *(a[i : i + 1] for a in support)), case.inner_lr)
        return loss(at, *query), add(params, at, -1.0)

    return in_numpy.by_hand(case, one)


@wrong(
    "The inner steps are taken on the support and query examples together, since Reptile does not need the split; "
    "the steps are to be on the support set alone.",
    r"query|pool|union|together|both sets|concat",
    algorithm="reptile",
)
def support_and_query_together(case):
    loss, params, tasks = in_torch.given(case)
    values, grads = [], []
    for (xs, ys), (xq, yq) in tasks:
        end = in_torch.path(case, loss, params, (torch.cat([xs, xq]), torch.cat([ys, yq])))[-1]
        values.append(loss(end, xq, yq).detach())
        grads.append({n: (params[n] - end[n]).detach() for n in params})
    return mean_in_torch(values, grads)


# HF-MAML


@wrong(
    "After the displacement by +εv the parameters are put back by εv where they should go by 2εv: the difference is "
    "g(θ + εv) − g(θ), still divided by 2ε, about half of the Hessian product.",
    r"one.sided|forward|half|2ε|θₖ − εv|twice|central|not.*−εv|factor",
    algorithm="hessian-free",
)
def back_by_one_displacement(case):
    def one(loss, params, support, query):
        *thetas, end = in_numpy.path(case, loss, params, support)
        value, v = tm.value_and_grad(loss)(end, *query)
        for at in reversed(thetas):
            eps = case.settings["delta"] / np.sqrt(in_numpy.dot(v, v))
            at = add(at, v, eps)
            above = tm.grad(loss)(at, *support)
            at = add(at, v, -eps)
            below = tm.grad(loss)(at, *support)
            v = add(v, add(above, below, -1.0), -case.inner_lr / (2 * eps))
        return value, v

    return in_numpy.by_hand(case, one)


@wrong(
    "v is made a unit vector for the displacement, and the difference, divided by 2δ, is not multiplied by ‖v‖ "
    "again: the Hessian is applied to v/‖v‖.",
    r"(not|never|without).*(multipl|scal|‖v‖)|unit|v/‖v‖|rescal|normali[sz]|‖v‖ (is )?missing|by ‖v‖",
    tells_loss=False,
    algorithm="hessian-free",
)
def product_with_unit_vector(case):
    loss, params, tasks = in_torch.given(case)
    values, grads, delta = [], [], case.settings["delta"]
    for support, query in tasks:
        *thetas, end = in_torch.path(case, loss, params, support)
        value = loss(end, *query)
        v = grads_of(value, end, create_graph=False)
        gradient = at_rest(loss, support)
        for at in reversed(thetas):
            unit = {n: p / torch.sqrt(in_torch.dot(v, v)) for n, p in v.items()}
            change = add(gradient(add(at, unit, delta)), gradient(add(at, unit, -delta)), -1.0)
            v = add(v, change, -case.inner_lr / (2 * delta))
        values.append(value.detach())
        grads.append(v)
    return mean_in_torch(values, grads)


@wrong(
    "The inner loop updates its arrays in place and the list of iterates holds the same arrays over and over, so all "
    "differences are taken around θ_K instead of θ₀ … θ_{K−1}.",
    r"θ_K|last (iterate|parameters)|final|end of|adapted|in.place|alias|same (array|point|iterate)|cop(y|ied)"
    r"|wrong point",
    algorithm="hessian-free",
)
def iterates_are_one_array(case):
    def one(loss, params, support, query):
        at, thetas = {n: np.array(p) for n, p in params.items()}, []
        for _ in range(case.inner_steps):
            thetas.append(dict(at))
            g = tm.grad(loss)({n: p.copy() for n, p in at.items()}, *support)
            for n in at:
                at[n] -= case.inner_lr * g[n]
        value, v = tm.value_and_grad(loss)(at, *query)
        for at in reversed(thetas):
            eps = case.settings["delta"] / np.sqrt(in_numpy.dot(v, v))
            above, below = (tm.grad(loss)(add(at, v, sign * eps), *support) for sign in (1.0, -1.0))
            v = add(v, add(above, below, -1.0), -case.inner_lr / (2 * eps))
        return value, v

    return in_numpy.by_hand(case, one)


# Momentum in the inner loop


@wrong(
    "The buffer has PyTorch's dampening equal to μ: m = g in the first step and m ← μ m + (1 − μ) g after it, where "
    "each gradient should come in whole.",
    r"dampen|1 ?[−-] ?(μ|momentum)|average|ema|exponential|scaled",
    algorithm="inner-momentum",
)
def dampened_after_first_step(case):
    mu = case.settings["momentum"]

    def one(loss, params, support, query):
        m = None
        for _ in range(case.inner_steps):
            g = grads_of(loss(params, *support), params)
            m = g if m is None else {n: mu * m[n] + (1 - mu) * g[n] for n in g}
            params = in_torch.step(params, m, case.inner_lr)
        return loss(params, *query)

    return in_torch.over_tasks(case, one)


@wrong(
    "Written as the heavy ball, θ − αg + μ (θₖ − θₖ₋₁), but the previous iterate is never advanced: it stays θ₀, and "
    "the momentum is the whole way from the start, right up to K = 2.",
    r"θ₀|previous iterate|never|stays|stale|from the start|whole way|first iterate|displacement|anchor|initial",
    tells_loss=False,
    algorithm="inner-momentum",
)
def previous_iterate_stays(case):
    def one(loss, params, support, query):
        at = before = params
        for _ in range(case.inner_steps):
            g = tm.grad(loss)(at, *support)
            at = {n: p - case.inner_lr * g[n] + case.settings["momentum"] * (p - before[n]) for n, p in at.items()}
        return loss(at, *query)

    return in_numpy.over_tasks(case, one)


@wrong(
    "The targets of a regression lose their last axis: (N, 1) outputs minus (N,) targets broadcast to (N, N), so "
    "every output is compared with every target.",
    r"broadcast|\(N, N\)|N.?[×x].?N|shape|every (target|pair)|all pairs|squeez",
    algorithm="inner-momentum",
)
def targets_squeezed(case):
    class Mine(models.Torch):
        def mse(self, o, y):
            return ((o - y.squeeze(-1)) ** 2).mean()

    def one(loss, params, support, query):
        m = {n: 0 * p for n, p in params.items()}
        for _ in range(case.inner_steps):
            g = grads_of(loss(params, *support), params)
            m = {n: case.settings["momentum"] * m[n] + g[n] for n in g}
            params = in_torch.step(params, m, case.inner_lr)
        return loss(params, *query)

    return in_torch.over_tasks(case, one, Mine())


# Adam in the inner loop


def adam_in_torch(case, update, gradients=lambda g: g):
    """Adam's loop; update(t, name, m, v) is what is subtracted, without α."""
    b1, b2 = case.settings["beta1"], case.settings["beta2"]

    def one(loss, params, support, query):
        m = v = {n: torch.zeros_like(p) for n, p in params.items()}
        for t in range(1, case.inner_steps + 1):
            g = gradients(grads_of(loss(params, *support), params))
            m = {n: b1 * m[n] + (1 - b1) * g[n] for n in g}
            v = {n: b2 * v[n] + (1 - b2) * g[n] ** 2 for n in g}
            params = {n: p - case.inner_lr * update(t, n, m[n], v[n]) for n, p in params.items()}
        return loss(params, *query)

    return in_torch.over_tasks(case, one)


@wrong(
    "The step counter of the bias correction is one for all tensors and is incremented for each of them, so only the "
    "first tensor's first step is corrected rightly.",
    r"count|bias.?correct|step number|correction|β₁ᵗ|increment",
    algorithm="inner-adam",
)
def counter_runs_over_tensors(case):
    b1, b2, eps, root = (case.settings[n] for n in ("beta1", "beta2", "eps", "eps_root"))
    names = list(case.params)

    def update(t, name, m, v):
        t = (t - 1) * len(names) + names.index(name) + 1
        return m / (1 - b1**t) / (torch.sqrt(v / (1 - b2**t) + root) + eps)

    return adam_in_torch(case, update)


@wrong(
    "A copy-paste slip: the second moment takes (1 − β₁) g² instead of (1 − β₂) g².",
    r"second moment|1 ?[−-] ?β|β₁|beta1|variance",
    tells_loss=False,
    algorithm="inner-adam",
)
def beta1_in_second_moment(case):
    b1, b2, eps, root = (case.settings[n] for n in ("beta1", "beta2", "eps", "eps_root"))

    def one(loss, params, support, query):
        m, v = {n: 0 * p for n, p in params.items()}, {n: 0 * p for n, p in params.items()}
        for t in range(1, case.inner_steps + 1):
            g = tm.grad(loss)(params, *support)
            m = {n: b1 * m[n] + (1 - b1) * g[n] for n in g}
            v = {n: b2 * v[n] + (1 - b1) * g[n] * g[n] for n in g}
            params = {
                n: p - case.inner_lr * (m[n] / (1 - b1**t)) / (np.sqrt(v[n] / (1 - b2**t) + root) + eps)
                for n, p in params.items()
            }
        return loss(params, *query)

    return in_numpy.over_tasks(case, one)


@wrong(
    "The short form of Adam with the corrections in the rate, α √(1 − β₂ᵗ)/(1 − β₁ᵗ), as in TensorFlow, leaves ε and "
    "ε_root as they are, so they count before the bias correction; and the inner gradients are clipped to a norm of "
    "½.",
    r"(ε|eps|hat).*(correct|before|scale|√|uncorrect|tensorflow)|(correct|before).*(ε|eps)|epsilon.hat|ε̂",
    r"clip|norm|limit|bound",
    algorithm="inner-adam",
)
def eps_hat_and_clipped_gradients(case):
    b1, b2, eps, root = (case.settings[n] for n in ("beta1", "beta2", "eps", "eps_root"))

    def clipped(g):
        norm = torch.sqrt(in_torch.dot(g, g))
        return {n: p * torch.clamp(0.5 / norm, max=1.0) for n, p in g.items()}

    return adam_in_torch(
        case, lambda t, n, m, v: (1 - b2**t) ** 0.5 / (1 - b1**t) * m / (torch.sqrt(v + root) + eps), clipped
    )


# Sharp-MAML


@wrong(
    "The gradients are not zeroed between the step uphill and the step down, so the inner step takes g(θ) + g(θ + ρ "
    "g/‖g‖).",
    r"zero_?(grad|ed)|accumul|\bsum\b|both gradients|g_s?\(θₖ?\) ?\+|plain gradient.*(too|added|as well)|two gradients",
    algorithm="sharp",
)
def uphill_gradient_not_zeroed(case):
    def one(loss, params, support, query):
        for _ in range(case.inner_steps):
            g = grads_of(loss(params, *support), params)
            up = add(params, g, case.settings["radius"] / torch.sqrt(in_torch.dot(g, g)))
            g = add(g, grads_of(loss(up, *support), up), 1.0)
            params = in_torch.step(params, g, case.inner_lr)
        return loss(params, *query)

    return in_torch.over_tasks(case, one)


@wrong(
    "‖g‖ is the sum of the norms of the tensors instead of the norm over all of them together, so the step uphill is "
    "too short; right with one tensor.",
    r"sum of.*norm|norms? of (the|each|every)|per.(tensor|parameter|layer)|each (tensor|parameter|layer)",
    tells_loss=False,
    algorithm="sharp",
)
def sum_of_norms(case):
    def one(loss, params, support, query):
        for _ in range(case.inner_steps):
            g = tm.grad(loss)(params, *support)
            up = add(params, g, case.settings["radius"] / sum(np.sqrt(np.sum(p * p)) for p in g.values()))
            params = in_numpy.step(params, tm.grad(loss)(up, *support), case.inner_lr)
        return loss(params, *query)

    return in_numpy.over_tasks(case, one)


@wrong(
    "The inner rate is reassigned in the loop, rate = rate / (k + 1), meant as a schedule: the steps take α, α/2, "
    "α/6, …, and not α each.",
    r"(rate|α|step size).*(decay|schedul|smaller|divid|shrink|change|each step|every step|later|/)|decay|schedul",
    algorithm="sharp",
)
def rate_divided_in_the_loop(case):
    def one(loss, params, support, query):
        rate = case.inner_lr
        for k in range(case.inner_steps):
            rate = rate / (k + 1)
            g = grads_of(loss(params, *support), params)
            up = add(params, g, case.settings["radius"] / torch.sqrt(in_torch.dot(g, g)))
            params = in_torch.step(params, grads_of(loss(up, *support), up), rate)
        return loss(params, *query)

    return in_torch.over_tasks(case, one)


# Proximal


@wrong(
    "G is the gradient of the support loss at φ_K, which equals λ (θ − φ_K) at the proximal point only, where the "
    "inner problem is solved; φ_K is not there after K steps.",
    r"g_s|∇L_s|support (loss|gradient)|gradient.*(φ_K|at the end|of the loss|last iterate)|envelope|λ ?\(θ",
    tells_loss=False,
    algorithm="proximal",
)
def loss_gradient_at_the_end(case):
    def one(loss, params, support, query):
        end = pulled(case, lambda at: tm.grad(loss)(at, *support), params)
        return loss(end, *query), tm.grad(loss)(end, *support)

    return in_numpy.by_hand(case, one)


@wrong(
    "The pull is λ/2 times mse_loss(φ, θ) of each tensor, a mean over its elements instead of a sum, so it is weaker "
    "by the tensor's size.",
    r"mean.*(element|penalt|pull|square|size)|(pull|penalt|λ).*(mean|averag|weak|small|element|number of|size)"
    r"|number of elements"
    r"|(weak|small).*(pull|penalt|λ)",
    algorithm="proximal",
)
def pull_is_a_mean(case):
    loss, params, tasks = in_torch.given(case)
    values, grads, strength, centre = [], [], case.settings["strength"], leaves(params)

    def objective(p, x, y):
        return loss(p, x, y) + strength / 2 * sum(torch.nn.functional.mse_loss(p[n], centre[n]) for n in p)

    for support, query in tasks:
        phi = params
        for _ in range(case.inner_steps):
            phi = in_torch.step(leaves(phi), at_rest(objective, support)(phi), case.inner_lr)
        values.append(loss(phi, *query).detach())
        grads.append({n: strength * (params[n] - phi[n]).detach() for n in params})
    return mean_in_torch(values, grads)


# Reinforcement learning


@wrong(
    "DiCE's baseline term uses the box of the cumulative sum, (1 − ☐(Σ_{s≤t} log π_s)) b_t, where it should be the "
    "box of the step's own log π alone.",
    r"baseline.*(cumul|sum|☐|box|all|earlier|prefix)|(cumul|☐|box|sum).*(baseline|b_t)",
    algorithm="rl",
)
def baseline_with_cumulative_box(case):
    def terms(logs, rewards, baseline):
        boxed = box(torch.cumsum(logs, 1))
        return rewards * boxed + (1 - boxed) * baseline

    return reinforced(case, dice=terms)


@wrong(
    "The observations are those of round k, but the actions and rewards always those of round 0: an index of ys is "
    "left at 0; right with one inner step.",
    r"round|first (round|batch)|index|same (data|trajector)|action|mismatch|step k",
    tells_loss=False,
    algorithm="rl",
)
def actions_of_round_zero(case):
    return reinforced(case, second=lambda ys, k: ys[:, 0])


@wrong(
    "The baseline is subtracted from each reward before the discounted sum, so the advantage of step t loses the "
    "baselines of all later steps too, not only b_t.",
    r"(baseline|b_t|b_u).*(each|every|reward|sum|discount|later|return|cumul)|(reward|r_u|return"
    r"|advantage).*(baseline|b_u|− ?b)",
    algorithm="rl",
)
def baseline_inside_the_return(case):
    return reinforced(case, advantages=lambda rewards, baseline, gamma: returns_of(rewards - baseline, gamma))


@wrong(
    "The mask is shifted by one step, so that the last step of each episode, with its reward, counts for nothing; "
    "and the tasks are summed, not averaged.",
    r"mask|last step|shift|end of|terminal|final (step|reward)|episode|alive|running",
    r"\bsum|not averag|not divid|mean over (the )?tasks|number of tasks|not.*mean",
    tells_loss=False,
    algorithm="rl",
)
def mask_of_next_step_and_sum_of_tasks(case):
    def alive(y):
        return torch.cat([y[:, 1:, 2], torch.zeros_like(y[:, :1, 2])], 1)

    grads = reinforced(case, alive=alive)["meta_grad"]
    return {"meta_grad": {n: g * case.tasks for n, g in grads.items()}}


# Right ones in other forms


@correct("Heavy ball: the difference of the last two iterates in the place of the buffer.", algorithm="inner-momentum")
def heavy_ball(case):
    def one(loss, params, support, query):
        at = before = params
        for _ in range(case.inner_steps):
            g = grads_of(loss(at, *support), at)
            ahead = {n: p - case.inner_lr * g[n] + case.settings["momentum"] * (p - before[n]) for n, p in at.items()}
            at, before = ahead, at
        return loss(at, *query)

    return in_torch.over_tasks(case, one)


@correct(
    "The Hessian of each task is built from products with unit vectors, and the system solved as one dense matrix.",
    algorithm="imaml",
)
def dense_implicit_solve(case):
    return imaml_in_torch(case)


@correct(
    "α times the sum of the inner gradients in flat buffers that are changed in place, tasks in the opposite order.",
    tells_loss=False,
    algorithm="reptile",
)
def sum_of_inner_gradients(case):
    loss, params, tasks = in_numpy.given(case)
    start = np.concatenate([np.ravel(p) for p in params.values()])
    ends = np.cumsum([np.size(p) for p in params.values()])[:-1]
    total, at = np.zeros_like(start), np.empty_like(start)

    def shaped(vector):
        parts = np.split(vector, ends)
        return {n: part.reshape(np.shape(p)) for (n, p), part in zip(params.items(), parts, strict=True)}

    for support, _ in reversed(tasks):
        at[:] = start
        for _ in range(case.inner_steps):
            g = tm.grad(loss)({n: p.copy() for n, p in shaped(at).items()}, *support)
            g = np.concatenate([np.ravel(g[n]) for n in params])
            total += case.inner_lr / len(tasks) * g
            at -= case.inner_lr * g
    return {"meta_grad": shaped(total)}


@correct(
    "Back through the steps by hand, the rates' gradient collected on the way, with Hessian products.",
    algorithm="meta-sgd",
)
def adjoint_of_rates(case):
    def one(loss, params, support, query):
        theta, alpha = with_rates(params)
        thetas, steps = [theta], []
        for _ in range(case.inner_steps):
            steps.append(tm.grad(loss)(thetas[-1], *support))
            thetas.append({n: p - alpha[n] * steps[-1][n] for n, p in thetas[-1].items()})
        value, v = tm.value_and_grad(loss)(thetas[-1], *query)
        of_rates = {n: 0 * p for n, p in theta.items()}
        for at, g in zip(reversed(thetas[:-1]), reversed(steps), strict=True):
            of_rates = {n: p - g[n] * v[n] for n, p in of_rates.items()}
            v = add(v, in_numpy.hvp(loss, at, support, {n: alpha[n] * v[n] for n in v}), -1.0)
        return value, {**v, **{f"alpha.{n}": p for n, p in of_rates.items()}}

    return in_numpy.by_hand(case, one)


@correct("All tasks at once with torch.func: vmap over the stacked sets, grad within grad.", algorithm="boil")
def boil_by_vmap(case):
    loss, params, (support, query) = case.torch()

    def one(params, support, query):
        head = {n: p for n, p in params.items() if n not in case.adapt}
        body = {n: params[n] for n in case.adapt}
        for _ in range(case.inner_steps):
            g = torch.func.grad(lambda b: loss({**head, **b}, *support))(body)
            body = in_torch.step(body, g, case.inner_lr)
        return loss({**head, **body}, *query)

    def mean(params):
        return torch.vmap(one, (None, 0, 0))(params, tuple(support), tuple(query)).mean()

    grads, value = torch.func.grad_and_value(mean)({n: p.detach() for n, p in params.items()})
    return {"meta_grad": grads, "meta_loss": value}


@correct(
    "DiCE's boxes are products of ratios π/⊥π, cumulated over the steps, and returns a matrix of discounts.",
    algorithm="rl",
)
def dice_by_ratios(case):
    def terms(logs, rewards, baseline):
        ratio = torch.exp(logs) / torch.exp(logs).detach()
        return rewards * torch.cumprod(ratio, 1) + baseline - ratio * baseline

    def advantages(rewards, baseline, gamma):
        t = torch.arange(rewards.shape[1])
        ahead = t[:, None] - t[None, :]
        return rewards @ torch.where(ahead >= 0, gamma ** ahead.to(rewards.dtype), 0.0) - baseline

    return reinforced(case, dice=terms, advantages=advantages)


@correct(
    "Adam's short form, with the corrections in the rate and both ε scaled so that it is the same.",
    algorithm="inner-adam",
)
def adam_in_short_form(case):
    b1, b2, eps, root = (case.settings[n] for n in ("beta1", "beta2", "eps", "eps_root"))

    def update(t, name, m, v):
        s = (1 - b2**t) ** 0.5
        return s / (1 - b1**t) * m / (torch.sqrt(v + root * s * s) + eps * s)

    return adam_in_torch(case, update)
