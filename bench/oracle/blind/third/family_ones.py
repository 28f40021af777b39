"""MAML's relatives in PyTorch and NumPy, each with the mistake that stands in its function, or with an unusual form."""

from __future__ import annotations

import numpy as np
import torch

import tinymaml as tm
from tinymaml.oracle import models

from ..entries import correct, wrong
from ..in_numpy import dot as dot_numpy
from ..in_numpy import given as given_numpy
from ..in_numpy import over_tasks as over_tasks_numpy
from ..in_torch import answer, dot, flatten, given, grads_of, leaves, over_tasks, step, unflatten

# Honest helpers.


def zeros(params):
    """A zero for each parameter."""
    return {n: np.zeros(np.shape(p)) for n, p in params.items()}


def hess(loss, params, v, support):
    """∇²L_s(θ) v"""
    return tm.hvp(lambda p: loss(p, *support), (params,), v)


def theta_and_rates(params):
    """Meta-SGD's parameters, as (θ, α)."""
    theta = {n: p for n, p in params.items() if not n.startswith("alpha.")}
    return theta, {n: params[f"alpha.{n}"] for n in theta}


def dense_hessian(loss, params, support):
    """∇²L_s as a matrix."""
    where = flatten(params).detach()
    return torch.autograd.functional.hessian(lambda w: loss(unflatten(w, params), *support), where)


# Meta-SGD


@wrong(
    "The rates are kept as their logarithms, and what is returned for α is the gradient by log α: α times too much.",
    r"log|exponent|α ∘|multiplied by (the )?(α|alpha|rate)|times (the )?(α|alpha|rate)|factor (of )?(α|alpha|the rate)",
    tells_loss=False,
    algorithm="meta-sgd",
)
def metasgd_rates_in_logs(case):
    loss, params, tasks = given(case)
    theta, rates = theta_and_rates(params)
    logs = {n: a.detach().abs().log().requires_grad_() for n, a in rates.items()}
    signs = {n: torch.sign(a.detach()) for n, a in rates.items()}
    total = 0.0
    for support, query in tasks:
        fast = theta
        for _ in range(case.inner_steps):
            grads = grads_of(loss(fast, *support), fast)
            fast = {n: w - signs[n] * logs[n].exp() * grads[n] for n, w in fast.items()}
        total = total + loss(fast, *query) / len(tasks)
    of_theta = grads_of(total, theta)
    of_logs = grads_of(total, logs, create_graph=False)
    return {"meta_grad": {**of_theta, **{f"alpha.{n}": g for n, g in of_logs.items()}}, "meta_loss": total.detach()}


@wrong(
    "The gradient of α is assigned in each turn of the backward loop and not added up, so that with several steps only "
    "the contribution of the first inner step (k = 0) is left.",
    r"accumul|add(ed)? up|summed|overwrit|assign|only (the )?(contribution of |part of )?(the )?(first|one|step)|"
    r"first step|"
    r"k = 0|missing (steps|contributions)|later steps|other steps",
    tells_loss=False,
    algorithm="meta-sgd",
)
def metasgd_rates_assigned(case):
    loss, params, tasks = given_numpy(case)
    theta, rates = theta_and_rates(params)
    total, value = zeros(params), 0.0
    for support, query in tasks:
        path, slopes = [theta], []
        for _ in range(case.inner_steps):
            slopes.append(tm.grad(loss)(path[-1], *support))
            path.append({n: w - rates[n] * slopes[-1][n] for n, w in path[-1].items()})
        value += loss(path[-1], *query) / len(tasks)
        v, of_rates = tm.grad(loss)(path[-1], *query), {}
        for k in reversed(range(case.inner_steps)):
            for n in theta:
                of_rates[n] = -slopes[k][n] * v[n]
            h = hess(loss, path[k], {n: rates[n] * v[n] for n in v}, support)
            v = {n: v[n] - h[n] for n in v}
        for n in theta:
            total[n] += v[n] / len(tasks)
            total[f"alpha.{n}"] += of_rates[n] / len(tasks)
    return {"meta_grad": total, "meta_loss": value}


@wrong(
    "In the backward loop v is taken through the Hessian first, and the gradient of α uses the v after it: −g_s ∘ v_k "
    "in place of −g_s ∘ v_{k+1}.",
    r"v_k|already|after (the |its )?(update|hessian|step)|wrong order|stale|wrong (v|cotangent|adjoint)|"
    r"(gradient|derivative) (of|by|for|with respect to) (the )?(α|alpha|rates?).*(wrong|differ|other|θₖ|start|hessian)|"
    r"one factor too many|meta-gradient of θ|uses? the (meta-)?gradient",
    algorithm="meta-sgd",
)
def metasgd_rates_after_the_pullback(case):
    loss, params, tasks = given_numpy(case)
    theta, rates = theta_and_rates(params)
    total, value = zeros(params), 0.0
    for support, query in tasks:
        path, slopes = [theta], []
        for _ in range(case.inner_steps):
            slopes.append(tm.grad(loss)(path[-1], *support))
            path.append({n: w - rates[n] * slopes[-1][n] for n, w in path[-1].items()})
        value += loss(path[-1], *query) / len(tasks)
        v = tm.grad(loss)(path[-1], *query)
        while slopes:
            g = slopes.pop()
            h = hess(loss, path[len(slopes)], {n: rates[n] * v[n] for n in v}, support)
            for n in theta:
                v[n] = v[n] - h[n]
                total[f"alpha.{n}"] -= g[n] * v[n] / len(tasks)
        for n in theta:
            total[n] += v[n] / len(tasks)
    return {"meta_grad": total, "meta_loss": value}


@correct(
    "The rates are constants of the graph; their gradient is collected by hooks on θ₁ … θ_K.", algorithm="meta-sgd"
)
def metasgd_by_hooks(case):
    loss, params, tasks = given(case)
    theta, rates = theta_and_rates(params)
    of_rates = {n: torch.zeros_like(a) for n, a in rates.items()}

    def collect(n, g):
        def hook(v):
            of_rates[n] -= g.detach() * v.detach()

        return hook

    losses, made = [], []
    for support, query in tasks:
        fast = theta
        for _ in range(case.inner_steps):
            grads = grads_of(loss(fast, *support), fast)
            fast = {n: w - rates[n].detach() * grads[n] for n, w in fast.items()}
            made.extend((w, n, grads[n]) for n, w in fast.items())
        losses.append(loss(fast, *query))
    for w, n, g in made:  # only now, for the gradients of the inner loop would call them too
        w.register_hook(collect(n, g))
    total = torch.stack(losses).mean()
    of_theta = grads_of(total, theta, create_graph=False)
    return {"meta_grad": {**of_theta, **{f"alpha.{n}": g for n, g in of_rates.items()}}, "meta_loss": total.detach()}


# ANIL


@wrong(
    "Only the weight matrix of the head adapts in the inner loop; its bias is left as it is.",
    r"bias|b2|b3|only (the )?(weight|matri|w2|w3)",
    tells_loss=False,
    algorithm="anil",
)
def anil_without_the_heads_bias(case):
    def one(loss, params, support, query):
        fast = dict(params)
        head = [n for n in case.adapt if params[n].ndim > 1]
        for _ in range(case.inner_steps):
            value = loss(fast, *support)
            for n, g in zip(head, torch.autograd.grad(value, [fast[n] for n in head], create_graph=True), strict=True):
                fast[n] = fast[n] - case.inner_lr * g
        return loss(fast, *query)

    return over_tasks(case, one)


@wrong(
    "The head is copied out of the graph before it adapts, and the gradient of the adapted copy is returned as the "
    "head's: first order for the head (and exact for the body).",
    r"first.order|FOMAML|second.order|detach|without (the )?(hessian|factors)|copy|adapted head",
    algorithm="anil",
)
def anil_with_a_copied_head(case):
    loss, params, tasks = given(case)
    body = {n: p for n, p in params.items() if n not in case.adapt}
    total, value = {n: torch.zeros_like(p) for n, p in params.items()}, 0.0
    for support, query in tasks:
        head = leaves({n: params[n] for n in case.adapt})
        for _ in range(case.inner_steps):
            head = step(head, grads_of(loss({**body, **head}, *support), head), case.inner_lr)
        of_query = loss({**body, **head}, *query)
        for n, g in grads_of(of_query, {**body, **head}, create_graph=False).items():
            total[n] += g / len(tasks)
        value += of_query.detach() / len(tasks)
    return {"meta_grad": total, "meta_loss": value}


@wrong(
    "The inner loop's backward() leaves the gradients of the support losses in .grad, and nobody zeroes them before "
    "the outer backward(): the support losses of all steps are added to the meta-loss, not divided by the tasks.",
    r"support (loss|gradient).*(add|plus|sum|too|as well)|(add|plus|sum).*support (loss|gradient)|zero_grad|zeroed|"
    r"accumulat|left ?over|inner (gradient|loss).*(add|sum)",
    algorithm="anil",
)
def anil_grads_not_zeroed(case):
    loss, params, tasks = given(case)
    params, value = leaves(params), 0.0
    for support, query in tasks:
        fast = {n: p.clone() if n in case.adapt else p for n, p in params.items()}
        for _ in range(case.inner_steps):
            for n in case.adapt:
                fast[n].retain_grad()
            loss(fast, *support).backward(create_graph=True)
            fast = {n: p - case.inner_lr * p.grad if n in case.adapt else p for n, p in fast.items()}
        of_query = loss(fast, *query) / len(tasks)
        of_query.backward()
        value += of_query.detach()
    grads = {n: p.grad.detach() for n, p in params.items()}
    for p in params.values():
        p.grad = None
    return {"meta_grad": grads, "meta_loss": value}


@correct(
    "Features are computed once, cut off, and their cotangents go back through the body at the end.", algorithm="anil"
)
def anil_on_cached_features(case):
    library = models.Torch()
    _, params, tasks = given(case)
    on_features = models.loss_in(library, {**case.model, "layers": case.model["layers"][-1:]})
    body = {n: p for n, p in params.items() if n not in case.adapt}
    head = {n: params[n] for n in case.adapt}

    def features(x):
        for layer in case.model["layers"][:-1]:
            x = getattr(library, layer["layer"])(x, *(body[n] for n in layer.get("params", [])))
        return x

    total, value = {n: torch.zeros_like(p) for n, p in params.items()}, 0.0
    for (xs, ys), (xq, yq) in tasks:
        made = torch.cat([features(xs), features(xq)])
        cut = made.detach().requires_grad_()
        of_support, of_query = cut[: len(xs)], cut[len(xs) :]
        fast = head
        for _ in range(case.inner_steps):
            fast = step(fast, grads_of(on_features(fast, of_support, ys), fast), case.inner_lr)
        loss_q = on_features(fast, of_query, yq)
        *of_head, of_cut = torch.autograd.grad(loss_q, [*head.values(), cut])
        of_body = torch.autograd.grad(made, list(body.values()), of_cut)
        for n, g in zip([*head, *body], [*of_head, *of_body], strict=True):
            total[n] += g / len(tasks)
        value += loss_q.detach() / len(tasks)
    return {"meta_grad": total, "meta_loss": value}


# BOIL


@wrong(
    "The backward functions of the inner steps close over the variable `fast`, which is the adapted one when they are "
    "called: all second derivatives are taken at b_K, not at the b_k of their step.",
    r"(hessian|second derivative|curvature|mixed).*(θ_K|b_K|adapted|last|final|end|wrong (point|place)|after)|"
    r"at (θ_K|b_K|the (adapted|last|final))|closure|late.bind|wrong point",
    tells_loss=False,
    algorithm="boil",
)
def boil_closures_bound_late(case):
    loss, params, tasks = given_numpy(case)
    total, value = zeros(params), 0.0
    for support, query in tasks:
        fast, back = dict(params), []
        for _ in range(case.inner_steps):
            back.append(lambda v, support=support: hess(loss, fast, v, support))  # noqa: B023
            g = tm.grad(loss)(fast, *support)
            fast = {n: p - case.inner_lr * g[n] if n in case.adapt else p for n, p in fast.items()}
        v = tm.grad(loss)(fast, *query)
        for pull in reversed(back):
            h = pull({n: case.inner_lr * v[n] if n in case.adapt else 0 * v[n] for n in v})
            v = {n: v[n] - h[n] for n in v}
        for n in params:
            total[n] += v[n] / len(tasks)
        value += loss(fast, *query) / len(tasks)
    return {"meta_grad": total, "meta_loss": value}


@wrong(
    "Within an inner step the tensors are updated one after the other, each with a gradient taken at the ones already "
    "updated (Gauss-Seidel), in place of all from one gradient.",
    r"one (after|at a time|by one)|sequential|gauss|already (updated|adapted|moved|changed)|in turn|coordinate|"
    r"each (tensor|parameter|layer)|simultaneous|same point|layer.?wise",
    algorithm="boil",
)
def boil_tensor_by_tensor(case):
    loss, params, tasks = given(case)
    total, value = {n: torch.zeros_like(p) for n, p in params.items()}, 0.0
    for support, query in tasks:
        fast, record = leaves(params), []
        for _ in range(case.inner_steps):
            for n in case.adapt:
                g = grads_of(loss(fast, *support), fast, create_graph=True)[n]
                record.append((n, fast, g))
                fast = leaves({**fast, n: fast[n] - case.inner_lr * g})
        of_query = loss(fast, *query)
        value += of_query.detach() / len(tasks)
        v = grads_of(of_query, fast, create_graph=False)
        for n, at, g in reversed(record):
            h = grads_of((g * v[n]).sum(), at, create_graph=False)
            v = step(v, h, case.inner_lr)
        for n in total:
            total[n] += v[n] / len(tasks)
    return {"meta_grad": total, "meta_loss": value}


# CAVIA


@wrong(
    "Each support example has a context of its own, and their mean goes to the query: since the loss is a mean over "
    "the "
    "N examples, the first step is N times too short, and the later ones are not those of one shared context.",
    r"own context|per.example|each example|every example|of its own|1/N|N times|number of (support )?examples|"
    r"divided by (the number|N)|mean of (the )?contexts|too (short|small)",
    algorithm="cavia",
)
def cavia_context_of_each_example(case):
    class PerExample(models.Torch):
        def context(self, x, phi):
            return torch.cat([x, phi], -1)

    def one(loss, params, support, query):
        phi = torch.zeros(len(support[0]), case.settings["context"], dtype=query[0].dtype, requires_grad=True)
        for _ in range(case.inner_steps):
            (g,) = torch.autograd.grad(loss({**params, "context": phi}, *support), [phi], create_graph=True)
            phi = phi - case.inner_lr * g
        phi = phi.mean(0).expand(len(query[0]), -1)
        return loss({**params, "context": phi}, *query)

    return over_tasks(case, one, PerExample())


@wrong(
    "The context is put in front of the input, not behind it; and it is not set back to 0 for the next task, which "
    "starts from the adapted one of the task before.",
    r"in front|before (the )?(input|x)|(wrong|other|reverse) order|order of|behind|prepend|\[(φ|phi),? ?x\]|concat|"
    r"swapped",
    r"reset|set back|carr(y|ied)|previous task|task before|last task|leak|from task to task|next task|φ₀|"
    r"not (set to )?(0|zero)",
    tells_loss=False,
    algorithm="cavia",
)
def cavia_in_front_and_kept(case):
    class InFront(models.Torch):
        def context(self, x, phi):
            return torch.cat([phi.expand(*x.shape[:-1], -1), x], -1)

    loss, params, tasks = given(case, InFront())
    phi = torch.zeros(case.settings["context"], dtype=tasks[0][0][0].dtype, requires_grad=True)
    total = 0.0
    for support, query in tasks:
        for _ in range(case.inner_steps):
            (g,) = torch.autograd.grad(loss({**params, "context": phi}, *support), [phi], create_graph=True)
            phi = phi - case.inner_lr * g
        total = total + loss({**params, "context": phi}, *query) / len(tasks)
        phi = phi.detach().requires_grad_()
    return answer(total, params)


@wrong(
    "The backward loop leaves out the step at which φ is 0, as if nothing came from there: the dependence of the first "
    "context step on θ is missing (with one step all is first order).",
    r"first (inner |context )?(step|update)|k = 0|step 0|φ₀|truncat|first.order|one step (too )?(few|less)|left out|"
    r"skip",
    tells_loss=False,
    algorithm="cavia",
)
def cavia_skips_the_zero_context(case):
    loss, params, tasks = given_numpy(case)
    total, value = zeros(params), 0.0
    for support, query in tasks:
        path = [np.zeros(case.settings["context"])]
        for _ in range(case.inner_steps):
            g = tm.grad(loss)({**params, "context": path[-1]}, *support)
            path.append(path[-1] - case.inner_lr * g["context"])
        of_query, g = tm.value_and_grad(loss)({**params, "context": path[-1]}, *query)
        value += of_query / len(tasks)
        v = g.pop("context")
        for phi in reversed(path[:-1]):
            if not np.any(phi):
                continue
            h = hess(loss, {**params, "context": phi}, {**zeros(params), "context": case.inner_lr * v}, support)
            v = v - h.pop("context")
            g = {n: g[n] - h[n] for n in g}
        for n in params:
            total[n] += g[n] / len(tasks)
    return {"meta_grad": total, "meta_loss": value}


# MAML++


def rows_at(params, case, k):
    """γ and β of step k."""
    return {n: p[k] for n, p in params.items() if not n.startswith("alpha.") and n not in case.adapt}


@wrong(
    "In the backward loop the gradient of the query loss of θ_k is added before the pull-back through step k and not "
    "after it: every intermediate loss has a factor (I − H_k α_k) too many.",
    r"too (many|far|much)|one step|off by one|intermediate|wrong (step|place|point)|following step|"
    r"next step|extra (factor|step)|step that follows",
    tells_loss=False,
    algorithm="mamlpp",
)
def mamlpp_added_a_step_early(case):
    loss, params, tasks = given_numpy(case)
    weights, last = case.settings["loss_weights"], case.inner_steps
    total, value = zeros(params), 0.0

    def of_set(fast, k, data):
        def f(p):
            return loss({**{n: p[n] for n in fast}, **rows_at(p, case, k)}, *data)

        return tm.value_and_grad(f)({**params, **fast})

    def pull(fast, v, k, support):
        def f(p):
            rows = rows_at(p, case, k)
            here = {n: p[n] for n in fast}
            g = tm.grad(lambda w: loss({**w, **rows}, *support))(here)
            return dot_numpy({n: here[n] - p[f"alpha.{n}"][k] * g[n] for n in here}, v)

        return tm.grad(f)({**params, **fast})

    for support, query in tasks:
        path = [{n: params[n] for n in case.adapt}]
        for k in range(last):
            _, g = of_set(path[-1], k, support)
            path.append({n: w - params[f"alpha.{n}"][k] * g[n] for n, w in path[-1].items()})
        of_query, g = of_set(path[-1], last - 1, query)
        value += weights[-1] * of_query / len(tasks)
        g = {n: weights[-1] * g[n] for n in params}
        for k in range(last - 1, -1, -1):
            if k > 0:
                of_query, more = of_set(path[k], k - 1, query)
                value += weights[k - 1] * of_query / len(tasks)
                g = {n: g[n] + weights[k - 1] * more[n] for n in params}
            back = pull(path[k], {n: g[n] for n in case.adapt}, k, support)
            g = {n: back[n] if n in case.adapt else g[n] + back[n] for n in params}
        for n in params:
            total[n] += g[n] / len(tasks)
    return {"meta_grad": total, "meta_loss": value}


@wrong(
    "Each step's query loss is sent back at once and the fast weights are then detached: no loss goes back further "
    "than "
    "through the step before it, so that the earlier steps' factors are missing.",
    r"detach|truncat|only (through )?(the |its )?(own|last|one)|own step|earlier steps|cut|first.order|one step back|"
    r"stop.?gradient",
    algorithm="mamlpp",
)
def mamlpp_back_at_once(case):
    loss, params, tasks = given(case)
    total, value = {n: torch.zeros_like(p) for n, p in params.items()}, 0.0
    for support, query in tasks:
        fast = leaves({n: params[n] for n in case.adapt})
        for k, weight in enumerate(case.settings["loss_weights"]):
            rows = rows_at(params, case, k)
            g = grads_of(loss({**fast, **rows}, *support), fast)
            new = {n: w - params[f"alpha.{n}"][k] * g[n] for n, w in fast.items()}
            of_step = weight * loss({**new, **rows}, *query) / len(tasks)
            for n, g in grads_of(of_step, {**params, **fast}, create_graph=False).items():
                total[n] += g
            value += of_step.detach()
            fast = leaves(new)
    return {"meta_grad": total, "meta_loss": value}


@wrong(
    "The weights of the losses are applied in reverse order (the first step has the last one's); and batch norm's β is "
    "always that of the first step, while γ is the step's own.",
    r"(weight|w_?k|w₁).*(revers|order|backward|wrong|swap|flip)|revers|flip",
    r"β|beta|shift",
    algorithm="mamlpp",
)
def mamlpp_reversed_and_first_shift(case):
    weights = case.settings["loss_weights"]

    def one(loss, params, support, query):
        fast, total = {n: params[n] for n in case.adapt}, 0.0
        for left in range(case.inner_steps, 0, -1):
            k = case.inner_steps - left
            rows = {"gamma": params["gamma"][k], "beta": params["beta"][0]} if "gamma" in params else {}
            g = grads_of(loss({**fast, **rows}, *support), fast)
            fast = {n: w - params[f"alpha.{n}"][k] * g[n] for n, w in fast.items()}
            total = total + weights[left - 1] * loss({**fast, **rows}, *query)
        return total

    return over_tasks(case, one)


@correct(
    "Forward without a graph; each step is run again in the backward loop and pulled back alone.", algorithm="mamlpp"
)
def mamlpp_step_by_step(case):
    loss, params, tasks = given(case)
    weights = case.settings["loss_weights"]
    total, value = {n: torch.zeros_like(p) for n, p in params.items()}, 0.0

    def one_step(fast, k, support, create_graph):
        g = grads_of(loss({**fast, **rows_at(params, case, k)}, *support), fast, create_graph)
        return {n: w - params[f"alpha.{n}"][k] * g[n] for n, w in fast.items()}

    for support, query in tasks:
        path = [leaves({n: params[n] for n in case.adapt})]
        for k in range(case.inner_steps):
            path.append(leaves(one_step(path[-1], k, support, False)))
        v = {n: torch.zeros_like(w) for n, w in path[0].items()}
        for k in reversed(range(case.inner_steps)):
            of_query = weights[k] * loss({**path[k + 1], **rows_at(params, case, k)}, *query) / len(tasks)
            value += of_query.detach()
            for n, g in grads_of(of_query, {**params, **path[k + 1]}, create_graph=False).items():
                if n in v:
                    v[n] = v[n] + g
                else:
                    total[n] += g
            new = one_step(path[k], k, support, True)
            for n, g in grads_of(dot(new, v), {**params, **path[k]}, create_graph=False).items():
                if n in v:
                    v[n] = g
                else:
                    total[n] += g
        for n, g in v.items():
            total[n] += g
    return {"meta_grad": total, "meta_loss": value}


# iMAML


def pulled_inner_loop(case, loss, params, support):
    """φ_K without a graph, in PyTorch."""
    phi = leaves(params)
    for _ in range(case.inner_steps):
        g = grads_of(loss(phi, *support), phi, create_graph=False)
        phi = leaves(
            {n: p - case.inner_lr * (g[n] + case.settings["strength"] * (p - params[n])) for n, p in phi.items()}
        )
    return phi


def pulled_in_numpy(case, loss, params, support):
    """φ_K in NumPy."""
    phi = dict(params)
    for _ in range(case.inner_steps):
        g = tm.grad(loss)(phi, *support)
        phi = {n: p - case.inner_lr * (g[n] + case.settings["strength"] * (p - params[n])) for n, p in phi.items()}
    return phi


def of_phi(case, back):
    """The mean over tasks of back(loss, φ_K, support, g_q(φ_K)), a vector."""
    loss, params, tasks = given(case)
    total, value = torch.zeros_like(flatten(params)).detach(), 0.0
    for support, query in tasks:
        phi = pulled_inner_loop(case, loss, params, support)
        of_query = loss(phi, *query)
        g = flatten(grads_of(of_query, phi, create_graph=False))
        total += back(loss, phi, support, g) / len(tasks)
        value += of_query.detach() / len(tasks)
    return {"meta_grad": unflatten(total, params), "meta_loss": value}


@wrong(
    "The damping of the authors' code is left in the matrix: I + H/(λ + 10) in place of I + H/λ.",
    r"damp|λ ?\+ ?10|larger λ|other λ|wrong λ|strength|too (large|small|little|weak|strong)",
    tells_loss=False,
    algorithm="imaml",
)
def imaml_damped(case):
    damping = 10.0

    def back(loss, phi, support, g):
        slope = flatten(grads_of(loss(phi, *support), phi))

        def matrix(v):
            h = torch.autograd.grad(slope @ v, list(phi.values()), retain_graph=True)
            return v + torch.cat([t.reshape(-1) for t in h]) / (case.settings["strength"] + damping)

        x, r = torch.zeros_like(g), g.clone()
        p, rr = r.clone(), r @ r
        start = rr
        for _ in range(2 * len(g)):
            if rr <= 1e-33 * start:
                break
            ap = matrix(p)
            a = rr / (p @ ap)
            x, r = x + a * p, r - a * ap
            p, rr = r + (r @ r) / rr * p, r @ r
        return x

    return of_phi(case, back)


@wrong(
    "The conjugate gradients start from x = g, but with the residual of the start x = 0 (r = g): g comes on top of the "
    "solution.",
    r"residual|initial (guess|value)|starting (point|value)|plus g|g_q.*(add|plus|top|twice)|(add|plus|sum).*g_q|"
    r"first.order.*(add|plus|sum|top)|I \+ ",
    tells_loss=False,
    algorithm="imaml",
)
def imaml_residual_of_another_start(case):
    loss, params, tasks = given_numpy(case)
    strength, total, value = case.settings["strength"], zeros(params), 0.0
    for support, query in tasks:
        phi = pulled_in_numpy(case, loss, params, support)
        of_query, g = tm.value_and_grad(loss)(phi, *query)
        value += of_query / len(tasks)
        x, r, p = dict(g), dict(g), dict(g)
        rr = start = dot_numpy(r, r)
        for _ in range(10):
            if rr <= 1e-33 * start:
                break
            h = hess(loss, phi, p, support)
            ap = {n: p[n] + h[n] / strength for n in p}
            a = rr / dot_numpy(p, ap)
            x = {n: x[n] + a * p[n] for n in x}
            r = {n: r[n] - a * ap[n] for n in r}
            rr, before = dot_numpy(r, r), rr
            p = {n: r[n] + rr / before * p[n] for n in p}
        for n in params:
            total[n] += x[n] / len(tasks)
    return {"meta_grad": total, "meta_loss": value}


@wrong(
    "The pull of the inner loop is an optimiser's weight decay, to 0 and not to θ; and H is the Hessian of the loss "
    "with the pull in it, to which λ is added once more: λ (H + 2λI)⁻¹.",
    r"weight.decay|(pull|decay|regulari).*(0|zero|origin)|to(wards)? (0|zero|the origin)|λ ?φ|not to θ",
    r"twice|2 ?λ|once more|double|two times|λ.*again",
    algorithm="imaml",
)
def imaml_decay_and_twice(case):
    loss, params, tasks = given(case)
    strength = case.settings["strength"]
    total, value = torch.zeros_like(flatten(params)).detach(), 0.0

    def regularised(p, x, y):
        return loss(p, x, y) + strength / 2 * dot(p, p)

    for support, query in tasks:
        phi = leaves(params)
        for _ in range(case.inner_steps):
            phi = leaves(step(phi, grads_of(regularised(phi, *support), phi, create_graph=False), case.inner_lr))
        of_query = loss(phi, *query)
        g = flatten(grads_of(of_query, phi, create_graph=False))
        h = dense_hessian(regularised, phi, support)
        total += torch.linalg.solve(torch.eye(len(g), dtype=g.dtype) + h / strength, g) / len(tasks)
        value += of_query.detach() / len(tasks)
    return {"meta_grad": unflatten(total, params), "meta_loss": value}


@correct("The system is solved in the eigenvectors of the dense Hessian.", algorithm="imaml")
def imaml_by_eigenvectors(case):
    def back(loss, phi, support, g):
        h = dense_hessian(loss, phi, support)
        values, vectors = torch.linalg.eigh((h + h.T) / 2)
        return vectors @ ((vectors.T @ g) / (1 + values / case.settings["strength"]))

    return of_phi(case, back)


# Reptile


@wrong(
    "The serial form in a batch: θ is moved by the outer step after every task, so that the next task starts from "
    "there and not from θ.",
    r"serial|sequential|outer (step|rate|update)|moved|next task|previous task|task before|from θ anew|after each task",
    tells_loss=False,
    algorithm="reptile",
)
def reptile_moves_between_tasks(case):
    loss, params, tasks = given_numpy(case)
    theta, total, value = dict(params), zeros(params), 0.0
    for support, query in tasks:
        fast = dict(theta)
        for _ in range(case.inner_steps):
            g = tm.grad(loss)(fast, *support)
            fast = {n: p - case.inner_lr * g[n] for n, p in fast.items()}
        value += loss(fast, *query) / len(tasks)
        for n in params:
            way = theta[n] - fast[n]
            total[n] += way / len(tasks)
            theta[n] = theta[n] - case.outer_lr * way
    return {"meta_grad": total, "meta_loss": value}


@wrong(
    "Every inner step takes one example of the support set, in turn, as the authors' mini-batches do, and not the "
    "whole "
    "set.",
    r"mini.?batch|one example|single example|whole|full|subset|part of|each (inner )?step.*example|stochastic",
    algorithm="reptile",
)
def reptile_on_one_example_a_step(case):
    loss, params, tasks = given(case)
    total, value = {n: torch.zeros_like(p) for n, p in params.items()}, 0.0
    for (xs, ys), query in tasks:
        fast = leaves(params)
        for k in range(case.inner_steps):
            at = slice(k % len(xs), k % len(xs) + 1)
            fast = leaves(step(fast, grads_of(loss(fast, xs[at], ys[at]), fast, create_graph=False), case.inner_lr))
        for n in total:
            total[n] += (params[n] - fast[n]).detach() / len(tasks)
        value += loss(fast, *query).detach() / len(tasks)
    return {"meta_grad": total, "meta_loss": value}


@wrong(
    "Support and query are joined into one set to adapt on, as Reptile has no split; and the difference is divided by "
    "the inner rate α.",
    r"join|both sets|support and query|query (set|data|example)|concat|split|together",
    r"divided by|1/α|/ ?α|/ ?alpha|inner rate|inner_lr|without (the )?α",
    tells_loss=False,
    algorithm="reptile",
)
def reptile_joined_and_divided(case):
    loss, params, tasks = given_numpy(case)
    total, value = zeros(params), 0.0
    for (xs, ys), (xq, yq) in tasks:
        x, y = np.concatenate([xs, xq]), np.concatenate([ys, yq])
        fast = dict(params)
        for _ in range(case.inner_steps):
            g = tm.grad(loss)(fast, x, y)
            fast = {n: p - case.inner_lr * g[n] for n, p in fast.items()}
        for n in params:
            total[n] += (params[n] - fast[n]) / case.inner_lr / len(tasks)
        value += loss(fast, xq, yq) / len(tasks)
    return {"meta_grad": total, "meta_loss": value}


# HF-MAML


@wrong(
    "ε is made for each tensor from the norm of that tensor's part of v, and not once from the norm of all: the "
    "displacement is no longer along v.",
    r"per.(tensor|parameter|layer)|each (tensor|parameter|layer)|(tensor|parameter|layer).s own|every (tensor|"
    r"parameter)|"
    r"norm (over|of) (all|each)|all parameters together|separate",
    algorithm="hessian-free",
)
def hf_norm_of_each_tensor(case):
    loss, params, tasks = given_numpy(case)
    total, value = zeros(params), 0.0
    for support, query in tasks:
        path = [dict(params)]
        for _ in range(case.inner_steps):
            g = tm.grad(loss)(path[-1], *support)
            path.append({n: p - case.inner_lr * g[n] for n, p in path[-1].items()})
        of_query, v = tm.value_and_grad(loss)(path.pop(), *query)
        value += of_query / len(tasks)
        for theta in reversed(path):
            eps = {n: case.settings["delta"] / np.linalg.norm(np.ravel(v[n])) for n in v}
            up = tm.grad(loss)({n: theta[n] + eps[n] * v[n] for n in v}, *support)
            down = tm.grad(loss)({n: theta[n] - eps[n] * v[n] for n in v}, *support)
            v = {n: v[n] - case.inner_lr * (up[n] - down[n]) / (2 * eps[n]) for n in v}
        for n in params:
            total[n] += v[n] / len(tasks)
    return {"meta_grad": total, "meta_loss": value}


@wrong(
    "After the displacement by +εv the parameters are brought back by εv and not by 2εv: the second gradient is that "
    "at "
    "θ itself, and the difference, over one ε, is still divided by 2ε.",
    r"forward.difference|one.sided|half|at θ itself|undisplaced|not displaced|2ε|only (one|the) (side|way)|asymmetric",
    tells_loss=False,
    algorithm="hessian-free",
)
def hf_back_by_one(case):
    loss, params, tasks = given(case)
    total, value = {n: torch.zeros_like(p) for n, p in params.items()}, 0.0
    for support, query in tasks:
        path = [leaves(params)]
        for _ in range(case.inner_steps):
            g = grads_of(loss(path[-1], *support), path[-1], create_graph=False)
            path.append(leaves(step(path[-1], g, case.inner_lr)))
        of_query = loss(path[-1], *query)
        value += of_query.detach() / len(tasks)
        v = grads_of(of_query, path[-1], create_graph=False)
        for theta in path[-2::-1]:
            eps = case.settings["delta"] / flatten(v).norm()
            for n, p in theta.items():
                p.data.add_(eps * v[n])
            up = grads_of(loss(theta, *support), theta, create_graph=False)
            for n, p in theta.items():
                p.data.sub_(eps * v[n])
            down = grads_of(loss(theta, *support), theta, create_graph=False)
            v = {n: v[n] - case.inner_lr * (up[n] - down[n]) / (2 * eps) for n in v}
        for n in total:
            total[n] += v[n] / len(tasks)
    return {"meta_grad": total, "meta_loss": value}


# Momentum in the inner loop


@wrong(
    "torch.optim's dampening, set to μ: from the second step on the gradient enters the buffer with the factor 1 − μ; "
    "the first step is right.",
    r"dampen|1 ?[-−] ?(μ|mu|momentum)|average|EMA|second step|later (steps|gradients)|weighted",
    tells_loss=False,
    algorithm="inner-momentum",
)
def momentum_dampened(case):
    momentum = dampening = case.settings["momentum"]

    def one(loss, params, support, query):
        fast, buffer = dict(params), None
        for _ in range(case.inner_steps):
            g = grads_of(loss(fast, *support), fast)
            buffer = g if buffer is None else {n: momentum * m + (1 - dampening) * g[n] for n, m in buffer.items()}
            fast = step(fast, buffer, case.inner_lr)
        return loss(fast, *query)

    return over_tasks(case, one)


@wrong(
    "In the backward loop the adjoint of the buffer is μ (u − αv) and not μu − αv: the gradient that enters a step "
    "itself is multiplied by μ as well, once too often.",
    r"(factor|multipl|times).*(μ|mu|momentum)|(μ|mu|momentum).*(too (often|many)|once more|twice|extra|second.order|"
    r"hessian)|"
    r"parenthes|adjoint",
    algorithm="inner-momentum",
)
def momentum_parenthesis_in_the_adjoint(case):
    loss, params, tasks = given_numpy(case)
    momentum, rate = case.settings["momentum"], case.inner_lr
    total, value = zeros(params), 0.0
    for support, query in tasks:
        path, m = [dict(params)], zeros(params)
        for _ in range(case.inner_steps):
            g = tm.grad(loss)(path[-1], *support)
            m = {n: momentum * m[n] + g[n] for n in m}
            path.append({n: p - rate * m[n] for n, p in path[-1].items()})
        of_query, v = tm.value_and_grad(loss)(path.pop(), *query)
        value += of_query / len(tasks)
        u = zeros(params)
        while path:
            u = {n: momentum * (u[n] - rate * v[n]) for n in u}
            h = hess(loss, path.pop(), u, support)
            v = {n: v[n] + h[n] for n in v}
        for n in params:
            total[n] += v[n] / len(tasks)
    return {"meta_grad": total, "meta_loss": value}


@correct("Polyak's form without a buffer: θₖ₊₁ = θₖ − α g + μ (θₖ − θₖ₋₁).", algorithm="inner-momentum")
def momentum_by_the_last_two(case):
    def one(loss, params, support, query):
        before = now = params
        for _ in range(case.inner_steps):
            g = tm.grad(loss)(now, *support)
            new = {n: p - case.inner_lr * g[n] + case.settings["momentum"] * (p - before[n]) for n, p in now.items()}
            before, now = now, new
        return loss(now, *query)

    return over_tasks_numpy(case, one)


# Adam in the inner loop


@wrong(
    "The moments start anew in every task, but the counter of steps t goes on: from the second task on the correction "
    "of the bias is that of a later step.",
    r"counter|step count|bias.correct|not reset|goes on|carr(y|ied)|later step|second task|other tasks|state",
    tells_loss=False,
    algorithm="inner-adam",
)
def adam_counter_goes_on(case):
    s, count = case.settings, 0

    def one(loss, params, support, query):
        nonlocal count
        fast = dict(params)
        m = {n: torch.zeros_like(p) for n, p in params.items()}
        v = {n: torch.zeros_like(p) for n, p in params.items()}
        for _ in range(case.inner_steps):
            count += 1
            g = grads_of(loss(fast, *support), fast)
            m = {n: s["beta1"] * m[n] + (1 - s["beta1"]) * g[n] for n in m}
            v = {n: s["beta2"] * v[n] + (1 - s["beta2"]) * g[n] ** 2 for n in v}
            first, second = 1 - s["beta1"] ** count, 1 - s["beta2"] ** count
            fast = {
                n: p - case.inner_lr * (m[n] / first) / (torch.sqrt(v[n] / second + s["eps_root"]) + s["eps"])
                for n, p in fast.items()
            }
        return loss(fast, *query)

    return over_tasks(case, one)


@wrong(
    "TensorFlow's form: both corrections are drawn into the rate, α √(1 − β₂ᵗ)/(1 − β₁ᵗ), and ε and ε_root stand "
    "beside "
    "the uncorrected v, which makes them effectively larger.",
    r"tensorflow|keras|epsilon.hat|ε̂|into the rate|uncorrected|ε.*(scal|correct|effect|relative|large)|"
    r"(correct|bias).*(rate|after|outside)",
    algorithm="inner-adam",
)
def adam_corrected_in_the_rate(case):
    s = case.settings

    def one(loss, params, support, query):
        fast, m, v = dict(params), zeros(params), zeros(params)
        for t in range(1, case.inner_steps + 1):
            g = tm.grad(loss)(fast, *support)
            m = {n: s["beta1"] * m[n] + (1 - s["beta1"]) * g[n] for n in m}
            v = {n: s["beta2"] * v[n] + (1 - s["beta2"]) * g[n] * g[n] for n in v}
            rate = case.inner_lr * np.sqrt(1 - s["beta2"] ** t) / (1 - s["beta1"] ** t)
            fast = {n: p - rate * m[n] / (np.sqrt(v[n] + s["eps_root"]) + s["eps"]) for n, p in fast.items()}
        return loss(fast, *query)

    return over_tasks_numpy(case, one)


@wrong(
    "The second moment's bias is corrected with β₁ᵗ, as the first one's (a slip of copying); and the denominator is "
    "made under no_grad, so that nothing goes back through v.",
    r"(v̂|second moment|\bv\b|β₂|beta2).*(β₁|beta1|correct|bias)|(β₁|beta1).*(v̂|second moment|β₂|beta2)|bias.correct",
    r"no_grad|detach|(denominator|root|second moment|\bv\b).*(constant|derivative|through|stop)|"
    r"(derivative|through|stop).*(denominator|root|second moment|\bv\b)",
    algorithm="inner-adam",
)
def adam_copied_beta_and_no_grad(case):
    s = case.settings

    def one(loss, params, support, query):
        fast = dict(params)
        m = {n: torch.zeros_like(p) for n, p in params.items()}
        v = {n: torch.zeros_like(p) for n, p in params.items()}
        for t in range(1, case.inner_steps + 1):
            g = grads_of(loss(fast, *support), fast)
            with torch.no_grad():
                v = {n: s["beta2"] * v[n] + (1 - s["beta2"]) * g[n] ** 2 for n in v}
                below = {n: torch.sqrt(v[n] / (1 - s["beta1"] ** t) + s["eps_root"]) + s["eps"] for n in v}
            m = {n: s["beta1"] * m[n] + (1 - s["beta1"]) * g[n] for n in m}
            fast = {n: p - case.inner_lr * m[n] / (1 - s["beta1"] ** t) / below[n] for n, p in fast.items()}
        return loss(fast, *query)

    return over_tasks(case, one)


@correct(
    "The moments are no recursions, but weighted sums over the list of all gradients so far.", algorithm="inner-adam"
)
def adam_moments_as_sums(case):
    s = case.settings

    def average(history, beta):
        weights = beta ** torch.arange(len(history) - 1, -1, -1, dtype=history[0].dtype)
        return torch.tensordot(weights / weights.sum(), torch.stack(history), 1)

    def one(loss, params, support, query):
        like, w, history, squares = params, flatten(params), [], []
        for _ in range(case.inner_steps):
            (g,) = torch.autograd.grad(loss(unflatten(w, like), *support), [w], create_graph=True)
            history.append(g)
            squares.append(g * g)
            below = torch.sqrt(average(squares, s["beta2"]) + s["eps_root"]) + s["eps"]
            w = w - case.inner_lr * average(history, s["beta1"]) / below
        return loss(unflatten(w, like), *query)

    return over_tasks(case, one)


# Sharp-MAML


@wrong(
    "The perturbation is computed at the first inner step and used again in all the later ones, to save a gradient, "
    "instead of being made anew at each θₖ.",
    r"(perturb|uphill|ascent|displace).*(once|first|again|reus|stale|old|θ₀|fixed|same)|reus|stale|anew|θ₀|once",
    algorithm="sharp",
)
def sharp_perturbed_once(case):
    def one(loss, params, support, query):
        fast, uphill = dict(params), None
        for _ in range(case.inner_steps):
            if uphill is None:
                g = grads_of(loss(fast, *support), fast)
                length = torch.sqrt(dot(g, g))
                uphill = {n: case.settings["radius"] * g[n] / length for n in g}
            there = {n: p + uphill[n] for n, p in fast.items()}
            fast = step(fast, grads_of(loss(there, *support), there), case.inner_lr)
        return loss(fast, *query)

    return over_tasks(case, one)


@wrong(
    "The step uphill follows the gradient of the query loss, and only the step downhill that of the support loss.",
    r"(perturb|uphill|ascent|displace|radius).*query|query.*(perturb|uphill|ascent|displace|radius)",
    algorithm="sharp",
    tells_loss=False,
)
def sharp_uphill_on_the_query(case):
    def one(loss, params, support, query):
        fast = dict(params)
        for _ in range(case.inner_steps):
            g = tm.grad(loss)(fast, *query)
            scale = case.settings["radius"] / np.sqrt(dot_numpy(g, g))
            g = tm.grad(loss)({n: p + scale * g[n] for n, p in fast.items()}, *support)
            fast = {n: p - case.inner_lr * g[n] for n, p in fast.items()}
        return loss(fast, *query)

    return over_tasks_numpy(case, one)


@wrong(
    "Each tensor's gradient is normalised by its own norm, so that each moves by ρ; and the perturbation is not taken "
    "back: the step starts from the perturbed point.",
    r"per.(tensor|parameter|layer)|own norm|each (tensor|parameter|layer)|every (tensor|parameter)|norm (over|of) (all|"
    r"each)|"
    r"separate",
    r"taken back|perturbed (point|parameters|weights)|starts? from|restor|undo|undone|from the (perturbed|displaced)|"
    r"subtract",
    algorithm="sharp",
)
def sharp_each_tensor_and_stays(case):
    def one(loss, params, support, query):
        fast = dict(params)
        for _ in range(case.inner_steps):
            g = grads_of(loss(fast, *support), fast)
            fast = {n: p + case.settings["radius"] * g[n] / torch.linalg.vector_norm(g[n]) for n, p in fast.items()}
            fast = step(fast, grads_of(loss(fast, *support), fast), case.inner_lr)
        return loss(fast, *query)

    return over_tasks(case, one)


@correct("torch.func: vmap over the tasks, on one flat vector.", algorithm="sharp")
def sharp_by_vmap(case):
    loss, params, ((xs, ys), (xq, yq)) = case.torch()
    like = {n: p.detach() for n, p in params.items()}

    def one(w, xs, ys, xq, yq):
        uphill = torch.func.grad(lambda w: loss(unflatten(w, like), xs, ys))
        for _ in range(case.inner_steps):
            g = uphill(w)
            w = w - case.inner_lr * uphill(w + case.settings["radius"] * g / torch.sqrt((g * g).sum()))
        return loss(unflatten(w, like), xq, yq)

    def mean(w):
        return torch.func.vmap(one, in_dims=(None, 0, 0, 0, 0))(w, xs, ys, xq, yq).mean()

    grad, value = torch.func.grad_and_value(mean)(flatten(like))
    return {"meta_grad": unflatten(grad, like), "meta_loss": value}


# Meta-MinibatchProx


@wrong(
    "The inner step is a proximal one, (φ − αg + αλθ)/(1 + αλ), with the pull taken at the new point, where the "
    "explicit "
    "step has it at the old one; the two agree only where they have converged.",
    r"implicit|prox(imal)?.(gradient|step|operator)|1 ?\+ ?αλ|1 ?/ ?\(1|new point|shrunk|closed form|semi",
    algorithm="proximal",
)
def proximal_implicit_pull(case):
    loss, params, tasks = given(case)
    strength, rate = case.settings["strength"], case.inner_lr
    total, value = {n: torch.zeros_like(p) for n, p in params.items()}, 0.0
    for support, query in tasks:
        phi = leaves(params)
        for _ in range(case.inner_steps):
            moved = step(phi, grads_of(loss(phi, *support), phi, create_graph=False), rate)
            phi = leaves({n: (p + rate * strength * params[n]) / (1 + rate * strength) for n, p in moved.items()})
        for n, p in params.items():
            total[n] += strength * (p - phi[n]).detach() / len(tasks)
        value += loss(phi, *query).detach() / len(tasks)
    return {"meta_grad": total, "meta_loss": value}


@wrong(
    "What is returned is the support gradient at φ_K, which is λ (θ − φ_K) only at the proximal point itself, that is, "
    "when the inner loop has converged.",
    r"(support )?gradient at (φ_K|the (end|adapted|last))|g_s\(φ_K\)|∇L_s|only (if|when|where) .*converge|"
    r"support gradient|stationar|Moreau",
    tells_loss=False,
    algorithm="proximal",
)
def proximal_slope_at_the_end(case):
    loss, params, tasks = given_numpy(case)
    total, value = zeros(params), 0.0
    for support, query in tasks:
        phi = pulled_in_numpy(case, loss, params, support)
        g = tm.grad(loss)(phi, *support)
        for n in params:
            total[n] += g[n] / len(tasks)
        value += loss(phi, *query) / len(tasks)
    return {"meta_grad": total, "meta_loss": value}
