"""Blind implementations of MAML's relatives: in PyTorch, and in NumPy with tinymaml's derivatives."""

from __future__ import annotations

import numpy as np
import torch

import tinymaml as tm
from tinymaml.oracle import models

from .. import in_numpy, in_torch
from ..entries import correct, wrong
from ..in_torch import answer, dot, flatten, given, grads_of, leaves, over_tasks, unflatten

# Honest helpers


def by_hand(case, one, layers=None):
    """The means over tasks of one(loss, θ, support, query) → (loss, gradient), in PyTorch, without a graph of θ."""
    loss, params, tasks = given(case, layers)
    values, grads = zip(*(one(loss, leaves(params), s, q) for s, q in tasks), strict=True)
    mean = {n: sum(g[n].detach() for g in grads) / len(grads) for n in params}
    return {"meta_grad": mean, "meta_loss": sum(v.detach() for v in values) / len(values)}


def weights_of(params):
    """Meta-SGD's θ."""
    return {n: p for n, p in params.items() if not n.startswith("alpha.")}


def rates_of(params):
    """Meta-SGD's α, by the names of θ."""
    return {n: params[f"alpha.{n}"] for n in weights_of(params)}


def only(params, names):
    """Those of the parameters that have these names."""
    return {n: p for n, p in params.items() if n in names}


def partial_adapt(case, loss, params, support, names, steps):
    """Steps of gradient descent in the parameters of these names alone."""
    for _ in range(steps):
        moving = only(params, names)
        params = {**params, **in_torch.step(moving, grads_of(loss(params, *support), moving), case.inner_lr)}
    return params


def zero_context(case, params):
    """φ₀"""
    return torch.zeros(case.settings["context"], dtype=next(iter(params.values())).dtype, requires_grad=True)


def norm_names(case):
    """The names of batch norm's parameters."""
    return [n for layer in case.model["layers"] if layer["layer"] == "batch_norm" for n in layer["params"]]


def norms_of(case, params, k):
    """MAML++: γ and β of step k."""
    return {n: params[n][k] for n in norm_names(case)}


def fast_of(case, params):
    """MAML++: θ₀, without the rates and without γ and β."""
    return {n: p for n, p in weights_of(params).items() if n not in norm_names(case)}


def pulled(case, loss, params, support):
    """φ_K of iMAML and of Meta-MinibatchProx, without a graph."""
    strength, phi = case.settings["strength"], leaves(params)
    for _ in range(case.inner_steps):
        g = grads_of(loss(phi, *support), phi, create_graph=False)
        phi = leaves({n: p - case.inner_lr * (g[n] + strength * (p - params[n])) for n, p in phi.items()})
    return phi


def pulled_numpy(case, loss, params, support):
    """The same in NumPy."""
    strength, phi = case.settings["strength"], params
    for _ in range(case.inner_steps):
        g = tm.grad(loss)(phi, *support)
        phi = {n: p - case.inner_lr * (g[n] + strength * (p - params[n])) for n, p in phi.items()}
    return phi


def dense_hessian(function, params):
    """The Hessian of function(params), as a matrix."""
    at = flatten(params).detach()
    return torch.autograd.functional.hessian(lambda vector: function(unflatten(vector, params)), at)


# Meta-SGD


@wrong(
    "In the hand-written backward pass the gradient of the rates, −g_s ∘ v, is taken after v was pulled back "
    "through the step: it uses (I − HA)v where it should use the v that arrives at θ_{k+1}.",
    r"after.{0,60}(pull|update|hessian|step|factor|multipl)|(pull|multipl|carri).{0,30}(back"
    r"|through).{0,40}(too early|before|first|already)"
    r"|(wrong|other) order of|one factor|extra factor|factor too many|(rate|∂α|alpha).{0,80}I ?[−-]|off.by.one"
    r"|one step (late|early|too)|adjoint|cotangent|stale|already (been )?updated|wrong v\b"
    r"|∂L_?q ?/ ?∂θ|total derivative|meta.?gradient of θ|v_?\{?(k|ₖ)\b|vₖ|(gradient"
    r"|derivative) with respect to θ|g_q\(θ\)|not.{0,30}θ_?(\{?k ?\+ ?1|′|')",
    tells_loss=False,
    algorithm="meta-sgd",
)
def metasgd_rate_after_pullback(case):
    def one(loss, params, support, query):
        theta, alpha = weights_of(params), rates_of(params)
        tape = []
        for _ in range(case.inner_steps):
            g = tm.grad(loss)(theta, *support)
            tape.append((theta, g))
            theta = {n: p - alpha[n] * g[n] for n, p in theta.items()}
        value, v = tm.value_and_grad(loss)(theta, *query)
        of_rates = {n: np.zeros_like(a) for n, a in alpha.items()}
        for at, g in reversed(tape):
            h = in_numpy.hvp(loss, at, support, {n: alpha[n] * v[n] for n in v})
            v = {n: v[n] - h[n] for n in v}
            of_rates = {n: of_rates[n] - g[n] * v[n] for n in v}
        return value, {**v, **{f"alpha.{n}": a for n, a in of_rates.items()}}

    return in_numpy.by_hand(case, one)


@wrong(
    "The rates are applied after the Hessian product instead of before it: the factor of a step is I − αH, where "
    "the transposed Jacobian is I − Hα; the two do not commute, because α differs from element to element.",
    r"commut|transpos|α ?[∘⊙] ?\(?H|I ?[−-] ?AH|A ?H.{0,20}(instead|rather|not|for)|α ?H.{0,20}(instead|rather"
    r"|not H|for H)|diag\(α\) ?H|in (the )?(wrong|other|opposite) order|(α|rates?|alpha).{0,20}(swapped"
    r"|interchang)"
    r"|(before|after|outside|wrong side|other side|left (side )?of|right (side )?of"
    r"|instead of inside).{0,60}(hessian|hvp|H\b|product)"
    r"|(hessian|hvp|H\b|product).{0,60}(before|after|outside|wrong side|other side|left of|right of|scaled by"
    r"|multiplied by (α|the rates?))",
    algorithm="meta-sgd",
)
def metasgd_rates_commuted(case):
    def one(loss, params, support, query):
        theta, alpha = weights_of(params), rates_of(params)
        tape = []
        for _ in range(case.inner_steps):
            g = tm.grad(loss)(theta, *support)
            tape.append((theta, g))
            theta = {n: p - alpha[n] * g[n] for n, p in theta.items()}
        value, v = tm.value_and_grad(loss)(theta, *query)
        of_rates = {n: np.zeros_like(a) for n, a in alpha.items()}
        for at, g in reversed(tape):
            of_rates = {n: of_rates[n] - g[n] * v[n] for n in v}
            h = in_numpy.hvp(loss, at, support, v)
            v = {n: v[n] - alpha[n] * h[n] for n in v}
        return value, {**v, **{f"alpha.{n}": a for n, a in of_rates.items()}}

    return in_numpy.by_hand(case, one)


@wrong(
    "Two mistakes: negative rates are clamped to 0, so that their elements neither move nor get a gradient of "
    "their rate; and the gradients of the rates are summed over the tasks, not averaged, as they accumulate in "
    ".grad of backward() while θ's are divided.",
    r"clamp|clip|relu|negative|non.?negativ|positive|max\(|sign of (α|the rate)|cut (off )?at",
    r"\bsum\b|summed|\bsums\b|mean over|averag|1 ?/ ?T\b|times T\b|T times|factor (of )?T\b|number of tasks"
    r"|divid|accumulat|T.fold",
    algorithm="meta-sgd",
)
def metasgd_positive_rates(case):
    loss, params, tasks = given(case)
    total = 0.0
    for support, query in tasks:
        theta = weights_of(params)
        for _ in range(case.inner_steps):
            g = grads_of(loss(theta, *support), theta)
            theta = {n: p - params[f"alpha.{n}"].clamp(min=0) * g[n] for n, p in theta.items()}
        total = total + loss(theta, *query)
    g = grads_of(total, params, create_graph=False)
    return {
        "meta_grad": {n: v if n.startswith("alpha.") else v / len(tasks) for n, v in g.items()},
        "meta_loss": total.detach() / len(tasks),
    }


@correct(
    "torch.func: grad inside of grad, vmapped over the stacked tasks.",
    algorithm="meta-sgd",
)
def metasgd_vmapped(case):
    loss, params, ((xs, ys), (xq, yq)) = case.torch()

    def one(p, x, y, x_query, y_query):
        theta = weights_of(p)
        for _ in range(case.inner_steps):
            g = torch.func.grad(loss)(theta, x, y)
            theta = {n: w - p[f"alpha.{n}"] * g[n] for n, w in theta.items()}
        return loss(theta, x_query, y_query)

    stacked = [torch.stack(list(z)) for z in (xs, ys, xq, yq)]
    p = {n: w.detach() for n, w in params.items()}
    grads, values = torch.func.vmap(torch.func.grad_and_value(one), (None, 0, 0, 0, 0))(p, *stacked)
    return {"meta_grad": {n: g.mean(0) for n, g in grads.items()}, "meta_loss": values.mean()}


# ANIL


@wrong(
    "The features of the support set are computed without a graph (no_grad, once): the body's gradient lacks the "
    "way through the adapted head, which depends on the support's features.",
    r"(body|bodies|feature|trunk|backbone|encoder|embedding|support|h_K|adapted head).{0,100}(detach|constant"
    r"|frozen|freez|stop.?grad|no.?grad|held fixed|without (a )?(graph|derivative)|no derivative"
    r"|not differentiated|cached|not (go )?(back|through)|does not flow|miss|lack|left out|omit|drop|ignor)"
    r"|(detach|constant|frozen|freez|stop.?grad|no.?grad|held fixed|without (a )?(graph|derivative)"
    r"|no derivative|not differentiated|cached|not (go )?(back|through)|does not flow|miss|lack|left out|omit"
    r"|drop|ignor).{0,100}(body|feature|trunk|backbone|encoder|embedding|support|h_K|adapted head)"
    r"|(cross|mixed|off.diagonal|indirect) .{0,20}(term|deriv|hessian|block|way|path)|∂² ?L|H_?\{?(bh|hb)"
    r"|partial deriv",
    algorithm="anil",
)
def anil_support_features_without_graph(case):
    def one(loss, params, support, query):
        body = {n: p.detach() for n, p in params.items() if n not in case.adapt}
        head = only(params, case.adapt)
        for _ in range(case.inner_steps):
            head = in_torch.step(head, grads_of(loss({**body, **head}, *support), head), case.inner_lr)
        return loss({**params, **head}, *query)

    return over_tasks(case, one)


@wrong(
    "In the hand-written backward pass the body's mixed term −α ∂²L_s/∂b∂h v is assigned and not added up: with "
    "several inner steps only that of the first step is kept.",
    r"overwr|assign|accumulat|added up|replaced"
    r"|(mixed|cross|indirect|body|∂b|H_?\{?b|feature).{0,120}(first (inner )?step|only (one|the first)|k ?= ?0"
    r"|θ_?[₀0]|h_?[₀0]|one step|single step|later steps|other steps|each step|all (the )?steps|every step"
    r"|summed|steps but)"
    r"|(first (inner )?step|only (one|the first)|later steps|other steps|all (the )?steps"
    r"|every step).{0,80}(mixed|cross|indirect|body|∂b|H_?\{?b|feature)",
    tells_loss=False,
    algorithm="anil",
)
def anil_mixed_term_assigned(case):
    def one(loss, params, support, query):
        points = [params]
        for _ in range(case.inner_steps):
            at = leaves(points[-1])
            head = only(at, case.adapt)
            points.append({**at, **in_torch.step(head, grads_of(loss(at, *support), head, False), case.inner_lr)})
        last = leaves(points[-1])
        value = loss(last, *query)
        v = grads_of(value, last, create_graph=False)
        of_head, mixed = only(v, case.adapt), {}
        for theta in reversed(points[:-1]):
            at = leaves(theta)
            g = grads_of(loss(at, *support), only(at, case.adapt))
            h = grads_of(dot(of_head, g), at, create_graph=False)
            of_head = in_torch.step(of_head, h, case.inner_lr)
            mixed = {n: -case.inner_lr * h[n] for n in at if n not in case.adapt}
        return value, {**{n: v[n] + mixed[n] for n in mixed}, **of_head}

    return by_hand(case, one)


@wrong(
    "Each task adapts a deep copy of the head and the head's gradient is read off the adapted copy, ∂L_q/∂h_K: it "
    "lacks the factors I − αH_hh of the inner steps, while the body's gradient is exact.",
    r"(head|last layer).{0,80}(first.order|fomaml|detach|copy|copied|copies|clone|no hessian|identity"
    r"|stop.?grad)|head.{0,60}(lack|miss|without|left out|omit|drop).{0,40}(factor|hessian|second|I ?[−-]"
    r"|product)"
    r"|(first.order|fomaml|copy|copied|clone|detach|factors?|hessian).{0,80}(of|for|in|from|to|at) the (head"
    r"|last layer)|H_?\{?hh|∂L_?q ?/ ?∂h|half.first.order|partly first.order",
    algorithm="anil",
)
def anil_copied_head(case):
    loss, params, tasks = given(case)
    total = {n: torch.zeros_like(p) for n, p in params.items()}
    value = 0.0
    for support, query in tasks:
        body = {n: p for n, p in params.items() if n not in case.adapt}
        head = leaves(only(params, case.adapt))
        for _ in range(case.inner_steps):
            head = in_torch.step(head, grads_of(loss({**body, **head}, *support), head), case.inner_lr)
        end = loss({**body, **head}, *query)
        for n, g in grads_of(end, {**body, **head}, create_graph=False).items():
            total[n] = total[n] + g / len(tasks)
        value = value + end.detach() / len(tasks)
    return {"meta_grad": total, "meta_loss": value}


@correct(
    "Backwards by hand, with forward-over-reverse products: the Jacobian of the head's gradient by torch.func.jvp "
    "is symmetric, so the body's mixed term is a directional derivative of its gradient.",
    algorithm="anil",
)
def anil_forward_over_reverse(case):
    def one(loss, params, support, query):
        points = [{n: p.detach() for n, p in params.items()}]
        grad = torch.func.grad(loss)
        for _ in range(case.inner_steps):
            at = points[-1]
            g = grad(at, *support)
            points.append({n: p - case.inner_lr * g[n] if n in case.adapt else p for n, p in at.items()})
        v, value = torch.func.grad_and_value(loss)(points[-1], *query)
        for at in reversed(points[:-1]):
            along = {n: v[n] if n in case.adapt else torch.zeros_like(v[n]) for n in v}
            _, h = torch.func.jvp(lambda p: grad(p, *support), (at,), (along,))
            v = in_torch.step(v, h, case.inner_lr)
        return value, v

    return by_hand(case, one)


# BOIL


@wrong(
    "The two groups are swapped: the head adapts and the body does not, which is ANIL.",
    r"\banil\b|swap.{0,40}(head|body|group)|(head|body|group|role)s?.{0,40}swap|should not adapt|(head"
    r"|last layer|classifier)( alone| only| itself)?( is| was)?( the one)?( that)?( is)? (adapts|adapted|moves"
    r"|moved|updated|changes|changed)|adapts? (only )?(the|its) (head|last)"
    r"|wrong (group|half|part|param|set|names)|complement|other (group|half|part)|(body|feature\w*"
    r"|trunk).{0,30}(fixed|frozen|not adapt|does not|held|constant)|inverted|opposite|reversed",
    tells_loss=False,
    algorithm="boil",
)
def boil_of_the_other_group(case):
    head = [n for n in case.params if n not in case.adapt]
    return over_tasks(case, lambda loss, p, s, q: loss(partial_adapt(case, loss, p, s, head, case.inner_steps), *q))


@wrong(
    "Of the body only the matrices and filters adapt: its biases, and batch norm's γ and β, stay where they are.",
    r"bias|gamma|\bbeta|γ|β|batch.?norm|only (the )?(weight|matri|filter|kernel)|one.dimension|1.?-?d\b|ndim"
    r"|matri|not (all|every).{0,30}adapt|(some|part).{0,40}(not adapt|held|fixed|frozen)",
    algorithm="boil",
)
def boil_matrices_only(case):
    names = [n for n in case.adapt if np.ndim(case.params[n]) > 1]
    return over_tasks(case, lambda loss, p, s, q: loss(partial_adapt(case, loss, p, s, names, case.inner_steps), *q))


@wrong(
    "Two mistakes: the head is a constant in the support loss, so that its gradient lacks the way through b_K; "
    "and the inner loop counts from 1, so that it makes one step too few.",
    r"(head|last layer|classifier).{0,100}(detach|constant|frozen|freez|stop.?grad|no.?grad|held fixed"
    r"|without (a )?(graph|derivative)|no derivative|not differentiated|cached|not (go )?(back|through)"
    r"|does not flow|miss|lack|left out|omit|drop)|(detach|constant|frozen|freez|stop.?grad|no.?grad|held fixed"
    r"|without (a )?(graph|derivative)|no derivative|not differentiated|cached|not (go )?(back|through)"
    r"|does not flow|miss|lack|left out|omit|drop).{0,80}(head|last layer|classifier)"
    r"|(cross|mixed|off.diagonal|indirect) .{0,20}(term|deriv|hessian|block|way|path)|∂² ?L|H_?\{?(bh|hb)"
    r"|partial deriv|through b_?K",
    r"too few|fewer|K ?[−-] ?1 (inner )?(step|time|update|iteration)|(θ|b)_?\{?K ?[−-] ?1"
    r"|one (inner )?step (less|short|miss)|off.by.one|range\(1|last (inner )?(step|update).{0,30}(not|miss|skip"
    r"|left|lack|omit|never|drop)"
    r"|(miss|omit|skip|lack|leaves? out|drop|without).{0,30}(\bstep|iteration|update)|\bstep.{0,40}(miss|omit"
    r"|skip|left out|short|less)",
    tells_loss=False,
    algorithm="boil",
)
def boil_frozen_head_short_loop(case):
    def one(loss, params, support, query):
        head = {n: p.detach() for n, p in params.items() if n not in case.adapt}
        body = only(params, case.adapt)
        for _ in range(1, case.inner_steps):
            body = in_torch.step(body, grads_of(loss({**head, **body}, *support), body), case.inner_lr)
        return loss({**params, **body}, *query)

    return over_tasks(case, one)


# CAVIA


@wrong(
    "The context is put in front of the inputs, [φ x] where the model has [x φ]: each input meets the weights of "
    "another.",
    r"in front|\[ ?φ,? ?x|prepend|ahead of|not behind|instead of behind|concatenat|permut|(φ|phi"
    r"|context).{0,30}(swap|exchang|revers)|(swap|exchang).{0,40}(φ|phi|context)|first columns|wrong (rows"
    r"|weights|columns|end)"
    r"|(context|φ|phi).{0,40}(before|first(?!.order)|leading|(?<!first.)(?<!second.)order|wrong (end|side|place"
    r"|position)|precede)",
    algorithm="cavia",
)
def cavia_context_in_front(case):
    class InFront(models.Torch):
        def context(self, x, phi):
            return torch.cat([phi.expand(*x.shape[:-1], -1), x], -1)

    def one(loss, params, support, query):
        phi = zero_context(case, params)
        for _ in range(case.inner_steps):
            (g,) = torch.autograd.grad(loss({**params, "context": phi}, *support), phi, create_graph=True)
            phi = phi - case.inner_lr * g
        return loss({**params, "context": phi}, *query)

    return over_tasks(case, one, InFront())


@wrong(
    "φ is expanded to a row for each example of the support set before the inner loop: each row gets its own "
    "example's part of the mean loss, 1/N_s of a gradient, and takes its own way; the query set is given the mean "
    "of the rows.",
    r"per.example|each (support )?example|every (support )?example|α ?/ ?N|a context of its own|examples? (has"
    r"|have|gets?) |own (φ|context|row)|\brows?\b|expand|broadcast|repeat|1 ?/ ?N|\bN_s"
    r"|number of (support )?examples|by (the )?N\b|N times|\bstep.{0,30}too (small|short)",
    tells_loss=False,
    algorithm="cavia",
)
def cavia_context_of_each_example(case):
    class Rows(models.Torch):
        def context(self, x, phi):
            middle = (1,) * (x.ndim - phi.ndim)
            rows = phi.reshape(*phi.shape[:-1], *middle, phi.shape[-1])
            return torch.cat([x, rows.expand(*x.shape[:-1], -1)], -1)

    def one(loss, params, support, query):
        phi = zero_context(case, params).repeat(len(support[0]), 1)
        for _ in range(case.inner_steps):
            (g,) = torch.autograd.grad(loss({**params, "context": phi}, *support), phi, create_graph=True)
            phi = phi - case.inner_lr * g
        return loss({**params, "context": phi.mean(0)}, *query)

    return over_tasks(case, one, Rows())


@wrong(
    "Two mistakes: the context is not reset to 0 between the tasks, each starts with the φ_K of the one before; "
    "and the inner loss is the sum over the support set's examples, not their mean, so that the step is N_s times "
    "too long.",
    r"reset|re.?initiali|leak|previous task|task before|last task|between (the )?tasks|from (one|task to) task"
    r"|carr(y|ied|ies)|kept|other tasks?|task to the next"
    r"|starts? (from|at|with|where).{0,40}(previous|last|other|one before|φ_?K)|φ_?[0₀].{0,20}(not|≠|isn)"
    r"|not (start|zero|0\b)",
    r"\bsum\b|\bsums\b|summed|\bN_s|times N\b|N times|number of (support )?examples|factor (of )?N\b"
    r"|not.{0,20}(mean|averag|divid)|reduction|α ?·? ?N|\b(step|rate).{0,30}too (long|large|big)|1 ?/ ?N",
    algorithm="cavia",
)
def cavia_context_kept(case):
    loss, params, tasks = given(case)
    total, phi = 0.0, zero_context(case, params)
    for support, query in tasks:
        phi = phi.detach().requires_grad_()
        for _ in range(case.inner_steps):
            summed = len(support[0]) * loss({**params, "context": phi}, *support)
            (g,) = torch.autograd.grad(summed, phi, create_graph=True)
            phi = phi - case.inner_lr * g
        total = total + loss({**params, "context": phi}, *query)
    return answer(total / len(tasks), params)


# MAML++


@wrong(
    "The query loss of each step is taken before its update: F = Σ wₖ L_q(θ_{k−1}), so that θ_K has no part in it "
    "and the rates of the last step have the gradient 0.",
    r"before (the |its |each |that |an |every )?(\w+ )?(update|step|adapt|inner)|θ_?\{?k ?[−-] ?1|θₖ₋₁"
    r"|one step (too )?(early|late|behind|short)|off.by.one|not (yet )?updated|unadapted|\bold (θ|param"
    r"|weights)|previous (θ|param|weights|step)"
    r"|query.{0,30}θ_?[₀0]|L_?q ?\(θ_?[₀0]|θ_?\{?K ?[−-] ?1|θ_?K.{0,40}(no part|not|never|miss|lack)"
    r"|last (inner )?(step|rate|update).{0,50}(no |not|never|miss|zero|0\b|unused)|shifted",
    tells_loss=False,
    algorithm="mamlpp",
)
def mamlpp_target_before_update(case):
    def one(loss, params, support, query):
        fast, total = fast_of(case, params), 0.0
        for k, weight in enumerate(case.settings["loss_weights"]):
            norms, moving = norms_of(case, params, k), only(fast, case.adapt)
            g = grads_of(loss({**fast, **norms}, *support), moving)
            total = total + weight * loss({**fast, **norms}, *query)
            fast = {**fast, **{n: p - params[f"alpha.{n}"][k] * g[n] for n, p in moving.items()}}
        return total

    return over_tasks(case, one)


@wrong(
    "The rates are taken one row too early, α_{k−1}: the first step takes index −1, which is the last row, so "
    "that the rates and their gradients are shifted round by one.",
    r"\brow|index|shift|cyclic|wrap|rotat|\broll|permut|off.by.one|α_?\{?k ?[−-] ?1|αₖ₋₁|\[-1\]"
    r"|(rate|α|alpha)s?.{0,60}(of another|of the (other|previous|next|last|wrong)|mixed up|swapped|revers"
    r"|(wrong|another|previous|other|last) step)|(previous|last|another|other"
    r"|wrong) step('s)? (learning )?(rate|α)",
    algorithm="mamlpp",
)
def mamlpp_rates_wrap_round(case):
    def one(loss, params, support, query):
        fast, total = fast_of(case, params), 0.0
        for k in range(case.inner_steps):
            norms, moving = norms_of(case, params, k), only(fast, case.adapt)
            g = grads_of(loss({**fast, **norms}, *support), moving)
            fast = {**fast, **{n: p - params[f"alpha.{n}"][k - 1] * g[n] for n, p in moving.items()}}
            total = total + case.settings["loss_weights"][k] * loss({**fast, **norms}, *query)
        return total

    return over_tasks(case, one)


@wrong(
    "Two mistakes: every step takes the rates of the first, α₀, because the step's number does not reach the "
    "update rule; and the query losses are weighted alike, 1/K, whatever the weights are.",
    r"α_?\{?[0₀]|(rate|α|alpha|lr).{0,60}(first(?!.order)|row 0|step 0|the same|index|each step|every step"
    r"|all steps|shared|one for all)|first step.{0,20}rate|same rate|\brow 0|(other|later) .{0,20}(rate"
    r"|row).{0,40}(0|zero|unused|no grad)|\[0\]",
    r"loss.?weight|(weight|\bw)\w*.{0,40}(uniform|equal|alike|ignor|1 ?/ ?K|same|not used|importance|loss)"
    r"|uniform|1 ?/ ?K|alike|equally|plain mean|unweighted|importance|mean (of|over) the (steps|query)"
    r"|w_?\{?[kₖ]",
    algorithm="mamlpp",
)
def mamlpp_first_rates_uniform_weights(case):
    def one(loss, params, support, query):
        fast, losses = fast_of(case, params), []
        for k in range(case.inner_steps):
            norms, moving = norms_of(case, params, k), only(fast, case.adapt)
            g = grads_of(loss({**fast, **norms}, *support), moving)
            fast = {**fast, **{n: p - params[f"alpha.{n}"][0] * g[n] for n, p in moving.items()}}
            losses.append(loss({**fast, **norms}, *query))
        return torch.stack(losses).mean()

    return over_tasks(case, one)


@correct(
    "A backward pass of its own for every step's weighted query loss, accumulated in .grad with retain_graph.",
    algorithm="mamlpp",
)
def mamlpp_backward_of_each_loss(case):
    loss, params, tasks = given(case)
    params = leaves(params)
    value = 0.0
    for support, query in tasks:
        fast = fast_of(case, params)
        for k, weight in enumerate(case.settings["loss_weights"]):
            norms, moving = norms_of(case, params, k), only(fast, case.adapt)
            g = grads_of(loss({**fast, **norms}, *support), moving)
            fast = {**fast, **{n: p - params[f"alpha.{n}"][k] * g[n] for n, p in moving.items()}}
            part = weight * loss({**fast, **norms}, *query) / len(tasks)
            part.backward(retain_graph=True, inputs=list(params.values()))
            value = value + part.detach()
    grads = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in params.items()}
    return {"meta_grad": grads, "meta_loss": value}


# iMAML


@wrong(
    "The penalty of the inner problem is written λ‖φ − θ‖², without the ½: in the inner loop the pull is twice as "
    "strong, while the linear system has λ.",
    r"(pull|penalty|proximal|inner|regulari[sz]|φ ?[−-] ?θ|descent).{0,80}(twice|2 ?·? ?λ|doubl|½|1 ?/ ?2|half"
    r"|factor (of )?(2|two)|two times|too strong|λ ?/ ?2)"
    r"|(twice|2 ?·? ?λ|doubl|½|1 ?/ ?2|half|factor (of )?(2|two)|two times|too strong|λ ?/ ?2).{0,60}(pull"
    r"|penalty|proximal|inner|regulari[sz]|φ ?[−-] ?θ|descent)|λ ?‖ ?φ|2 ?λ ?\(",
    tells_loss=False,
    algorithm="imaml",
)
def imaml_penalty_without_half(case):
    strength = case.settings["strength"]

    def one(loss, params, support, query):
        phi = leaves(params)
        for _ in range(case.inner_steps):
            pull = sum(((p - params[n].detach()) ** 2).sum() for n, p in phi.items())
            g = grads_of(loss(phi, *support) + strength * pull, phi, create_graph=False)
            phi = leaves(in_torch.step(phi, g, case.inner_lr))
        value = loss(phi, *query)
        b = flatten(grads_of(value, phi, create_graph=False))
        h = dense_hessian(lambda p: loss(p, *support), phi)
        solution = torch.linalg.solve(h + strength * torch.eye(len(b), dtype=h.dtype), b)
        return value, unflatten(strength * solution, params)

    return by_hand(case, one)


@wrong(
    "The Hessian is that of the penalised inner loss, H + λI, and the identity is added once more: the system "
    "that is solved is (2I + H/λ) x = g_q, with λ counted twice.",
    r"(system|hessian|\bH\b|matrix|hvp|\bcg\b|identity|solve|product|linear|implicit).{0,80}(twice|2 ?λ|2 ?I\b"
    r"|doubl|once more|two times|penali|regulari|already|additional|extra|second λ)"
    r"|(twice|2 ?λ|2 ?I\b|doubl|once more|two times|penali[sz]ed|regulari[sz]ed|extra|additional).{0,40}(system"
    r"|hessian|\bH\b|matrix|hvp|\bcg\b|identity|solve|linear)|\b2 ?I\b|2 ?λ ?I|H ?\+ ?2 ?λ",
    algorithm="imaml",
)
def imaml_penalised_hessian(case):
    strength = case.settings["strength"]

    def one(loss, params, support, query):
        def penalised(p):
            return loss(p, *support) + strength / 2 * sum(((w - params[n].detach()) ** 2).sum() for n, w in p.items())

        phi = leaves(params)
        for _ in range(case.inner_steps):
            phi = leaves(in_torch.step(phi, grads_of(penalised(phi), phi, create_graph=False), case.inner_lr))
        value = loss(phi, *query)
        b = flatten(grads_of(value, phi, create_graph=False))
        h = dense_hessian(penalised, phi)
        return value, unflatten(torch.linalg.solve(torch.eye(len(b), dtype=h.dtype) + h / strength, b), params)

    return by_hand(case, one)


@wrong(
    "The matrix is damped as in the authors' code with its defaults: (1 + 1) v + H v/(λ + 10) in the place of v + "
    "H v/λ.",
    r"damp|regu_?coef|ridge|\+ ?10\b|λ ?\+ ?(10|δ|d\b|c\b|ε)|\b2 ?(I|v)\b|1 ?\+ ?1|tikhonov|levenberg|(solve"
    r"|system|matrix).{0,20}regulari|regulari[sz]ed (twice|system|solve|matrix)"
    r"|(λ|lambda|strength|shift|system|matrix|identity|diagonal).{0,50}(too (large|great|strong|big)|larger"
    r"|bigger|greater|added|increas|additional|extra|more than|twice|doubl)",
    algorithm="imaml",
)
def imaml_damped_as_released(case):
    regu_coef, lam_damping = 1.0, 10.0

    def one(loss, params, support, query):
        phi = pulled(case, loss, params, support)
        value = loss(phi, *query)
        b = flatten(grads_of(value, phi, create_graph=False))
        h = dense_hessian(lambda p: loss(p, *support), phi)
        matrix = (1 + regu_coef) * torch.eye(len(b), dtype=h.dtype) + h / (case.settings["strength"] + lam_damping)
        return value, unflatten(torch.linalg.solve(matrix, b), params)

    return by_hand(case, one)


@correct(
    "The dense Hessian's eigenvalues: each component of g_q along an eigenvector is scaled by λ/(λ + h).",
    algorithm="imaml",
)
def imaml_by_eigenvectors(case):
    strength = case.settings["strength"]

    def one(loss, params, support, query):
        phi = pulled(case, loss, params, support)
        value = loss(phi, *query)
        b = flatten(grads_of(value, phi, create_graph=False))
        h, vectors = torch.linalg.eigh(dense_hessian(lambda p: loss(p, *support), phi))
        return value, unflatten(vectors @ ((vectors.T @ b) * (strength / (strength + h))), params)

    return by_hand(case, one)


# Reptile


@wrong(
    "Only the last inner step counts: θ_{K−1} − θ_K, as in FOML of Reptile's release, and not θ − θ_K.",
    r"only the (last|final)|(last|final) (inner )?(step|gradient|update|move)('s)?( gradient| move"
    r"| displacement| update)? (only|alone|counts|instead|rather|is (all|returned|taken))|\bfoml\b"
    r"|θ_?\{?\(?K ?[−-] ?1[})]?\)? ?[−-] ?θ|only one (step|gradient|update)|one gradient"
    r"|(earlier|other|previous|first(?!.order)|all but).{0,40}(steps?|gradients?|updates?).{0,50}(miss|left out"
    r"|not |drop|ignor|omit|lost|lack)|(miss|drop|ignor|omit|lack|lose|leaves? out).{0,40}(earlier|other|first"
    r"|all but|previous)|all but the last",
    tells_loss=False,
    algorithm="reptile",
)
def reptile_last_step_only(case):
    def one(loss, params, support, query):
        thetas = in_numpy.path(case, loss, params, support)
        before, after = thetas[-2:]
        return loss(after, *query), {n: before[n] - after[n] for n in params}

    return in_numpy.by_hand(case, one)


@wrong(
    "Reptile's serial version: after each task θ moves by the outer rate towards its θ_K, and the next task "
    "starts from there; the answer is the whole move, divided by the outer rate and T.",
    r"serial|sequential|one after (the |an)?other|one task after|next task|previous task|task before"
    r"|not.{0,20}from θ|(moved|updated|already).{0,40}task|between (the )?tasks|outer (rate|step|lr|update"
    r"|learning)|online"
    r"|leak|carr(y|ied|ies)|reset|later tasks|other tasks|second task|starts? (from|at|where).{0,60}(task|moved"
    r"|one before|updated)",
    algorithm="reptile",
)
def reptile_serial(case):
    loss, params, tasks = given(case)
    at, value = leaves(params), 0.0
    for support, query in tasks:
        end = in_torch.path(case, loss, at, support)[-1]
        value = value + loss(end, *query).detach()
        at = leaves({n: p + case.outer_lr * (end[n] - p) for n, p in at.items()})
    scale = case.outer_lr * len(tasks)
    return {"meta_grad": {n: (p - at[n]).detach() / scale for n, p in params.items()}, "meta_loss": value / len(tasks)}


@wrong(
    "Two mistakes: each inner step sees one example of the support set, the k-th, as a minibatch, and not the "
    "whole set; and the move is divided by the inner rate α, as in the paper's g_Reptile.",
    r"mini.?batch|one example|single example|k.th example|stochastic|part of the (support|set)|subset"
    r"|whole (support )?set|not (all|the whole)|each step.{0,40}example|\bsgd\b|example per step|full batch",
    r"divided by (the )?(inner|α|lr|rate|step|learning)|1 ?/ ?α|/ ?α|by α|without α|times 1/"
    r"|factor (of )?(1/)?α|α (is )?(miss|left|lack)|sum of (the )?(inner |support )?gradients|g_Reptile|(miss"
    r"|lack|omit|drop).{0,20}(α|inner rate|learning rate)",
    tells_loss=False,
    algorithm="reptile",
)
def reptile_minibatches_of_one(case):
    def one(loss, params, support, query):
        at, (x, y) = params, support
        for k in range(case.inner_steps):
            i = k % len(x)
            at = in_numpy.step(at, tm.grad(loss)(at, x[i : i + 1], y[i : i + 1]), case.inner_lr)
        return loss(at, *query), {n: (params[n] - at[n]) / case.inner_lr for n in params}

    return in_numpy.by_hand(case, one)


# HF-MAML


@wrong(
    "ε is computed once, of the query gradient, and kept for all steps: after the first it is not δ/‖v‖ of the v "
    "at hand.",
    r"\bonce\b|not (re)?new|\bkept\b|first (v\b|difference|product)|initial v\b|‖ ?g_?q|norm of (the )?(query"
    r"|first|initial)|stale|same (ε|eps|radius)|(ε|\beps\w*|epsilon|radius|step size).{0,40}(constant|fixed"
    r"|same|kept|old)|not (re)?comput|recomput|\bold v\b|renew|not updated|one ε|all steps",
    tells_loss=False,
    algorithm="hessian-free",
)
def hf_radius_computed_once(case):
    def one(loss, params, support, query):
        thetas = in_numpy.path(case, loss, params, support)
        value, v = tm.value_and_grad(loss)(thetas[-1], *query)
        eps = case.settings["delta"] / np.sqrt(in_numpy.dot(v, v))
        for at in reversed(thetas[:-1]):
            up = tm.grad(loss)({n: p + eps * v[n] for n, p in at.items()}, *support)
            down = tm.grad(loss)({n: p - eps * v[n] for n, p in at.items()}, *support)
            v = {n: v[n] - case.inner_lr * (up[n] - down[n]) / (2 * eps) for n in v}
        return value, v

    return in_numpy.by_hand(case, one)


@wrong(
    "The square root of the norm is missing: ε = δ/‖v‖², so that θₖ is displaced by δ/‖v‖ and not by δ.",
    r"squar|root|‖ ?²|\*\* ?2|sqrt|\^2|vᵀ ?v|v·v|norm twice|divided twice|δ ?/ ?‖ ?v ?‖[^.]{0,20}(displac"
    r"|length)|displac.{0,60}δ ?/ ?‖",
    algorithm="hessian-free",
)
def hf_norm_without_root(case):
    def one(loss, params, support, query):
        thetas = in_numpy.path(case, loss, params, support)
        value, v = tm.value_and_grad(loss)(thetas[-1], *query)
        for at in reversed(thetas[:-1]):
            eps = case.settings["delta"] / in_numpy.dot(v, v)
            up = tm.grad(loss)({n: p + eps * v[n] for n, p in at.items()}, *support)
            down = tm.grad(loss)({n: p - eps * v[n] for n, p in at.items()}, *support)
            v = {n: v[n] - case.inner_lr * (up[n] - down[n]) / (2 * eps) for n in v}
        return value, v

    return in_numpy.by_hand(case, one)


@wrong(
    "The displacement in place goes back by εv and not by 2εv (a slip in DARTS's way to do it): the second "
    "gradient is that at θₖ itself, so that a one-sided difference is divided by 2ε, which is about half of the "
    "product.",
    r"\bhalf|halv|one.?sided|forward.?diff|forward (finite )?|divided by 2 ?ε|2 ?ε.{0,30}(should|instead|rather"
    r"|but|where|while)|factor (of )?(2|two|½|1/2)|twice|θ_?[kₖ]? itself|undisplaced|unperturbed|not displaced"
    r"|minus (side|point)|(goes?|moved?|way|step)\w* back\b|not central|0\.5|½",
    algorithm="hessian-free",
)
def hf_half_the_way_back(case):
    def one(loss, params, support, query):
        thetas = in_torch.path(case, loss, params, support)
        value = loss(thetas[-1], *query)
        v = grads_of(value, thetas[-1], create_graph=False)
        for at in reversed(thetas[:-1]):
            eps = case.settings["delta"] / dot(v, v).sqrt()
            with torch.no_grad():
                for n, p in at.items():
                    p.add_(eps * v[n])
            up = grads_of(loss(at, *support), at, create_graph=False)
            with torch.no_grad():
                for n, p in at.items():
                    p.sub_(eps * v[n])
            down = grads_of(loss(at, *support), at, create_graph=False)
            v = {n: v[n] - case.inner_lr * (up[n] - down[n]) / (2 * eps) for n in v}
        return value, v

    return by_hand(case, one)


@correct(
    "One flat vector that is displaced to both sides along the unit vector, with the scale ‖v‖/2δ after it.",
    algorithm="hessian-free",
)
def hf_flat_unit_vectors(case):
    delta = case.settings["delta"]

    def one(loss, params, support, query):
        thetas = in_torch.path(case, loss, params, support)
        value = loss(thetas[-1], *query)
        v = flatten(grads_of(value, thetas[-1], create_graph=False))
        for at in reversed(thetas[:-1]):
            length = torch.linalg.vector_norm(v)
            sides = []
            for move in (delta, -delta):
                there = leaves(unflatten(flatten(at).detach() + move * (v / length), at))
                sides.append(flatten(grads_of(loss(there, *support), there, create_graph=False)))
            v = v - case.inner_lr * length / (2 * delta) * (sides[0] - sides[1])
        return value, unflatten(v, params)

    return by_hand(case, one)


# Momentum in the inner loop


@wrong(
    "The buffer of the first step is a detached copy of the gradient, as torch.optim.SGD makes it: the Hessian of "
    "the first step is lost, in that step and in all later ones.",
    r"first(?!.order).{0,80}(detach|copy|clone|stop.?grad|constant|no.?grad|lost|miss|lack|no deriv|left out"
    r"|not diff|drop|ignor|omit|without|no hessian)"
    r"|(detach|copy|clone|stop.?grad|constant|no.?grad|lost|miss|lack|no deriv|left out|not diff|drop|ignor"
    r"|omit|without|no hessian).{0,80}(first(?!.order)|θ_?[₀0]|initial)|first.{0,40}(first.order|fomaml)"
    r"|hessian.{0,20}θ_?[₀0]|H_?[₀0]|H_?\{?0|torch\.optim|clone|k ?= ?0|g_?s?\(θ_?[₀0]\)|∇L_?s?\(θ_?[₀0]\)",
    tells_loss=False,
    algorithm="inner-momentum",
)
def momentum_first_buffer_detached(case):
    mu = case.settings["momentum"]

    def one(loss, params, support, query):
        buffer = {}
        for _ in range(case.inner_steps):
            for n, g in grads_of(loss(params, *support), params).items():
                buffer[n] = mu * buffer[n] + g if n in buffer else g.clone().detach()
            params = in_torch.step(params, buffer, case.inner_lr)
        return loss(params, *query)

    return over_tasks(case, one)


@wrong(
    "In the hand-written backward pass the adjoint of the buffer decays one step too early: it is multiplied by μ "
    "before it meets the Hessian, so that every Hessian term has one factor μ too many.",
    r"adjoint|too early|one (factor|power|μ)|extra (factor )?(of )?(μ|momentum)|μ too (many|often)"
    r"|factor (of )?(μ|momentum)|(μ|decay|momentum).{0,50}(before|too (many|often|soon)|once more|twice"
    r"|additional|extra)|μ ?·?α|α ?·?μ|off.by.one|power of μ|(scaled|multiplied) (once more )?by (μ"
    r"|the momentum)|cotangent|buffer'?s? (derivative|gradient)|derivative of the buffer",
    algorithm="inner-momentum",
)
def momentum_adjoint_decays_early(case):
    mu, rate = case.settings["momentum"], case.inner_lr

    def one(loss, params, support, query):
        at, buffer, tape = params, {n: np.zeros_like(p) for n, p in params.items()}, []
        for _ in range(case.inner_steps):
            tape.append(at)
            g = tm.grad(loss)(at, *support)
            buffer = {n: mu * buffer[n] + g[n] for n in g}
            at = in_numpy.step(at, buffer, rate)
        value, v = tm.value_and_grad(loss)(at, *query)
        adjoint = {n: np.zeros_like(p) for n, p in params.items()}
        for theta in reversed(tape):
            adjoint = {n: mu * (adjoint[n] - rate * v[n]) for n in v}
            h = in_numpy.hvp(loss, theta, support, adjoint)
            v = {n: v[n] + h[n] for n in v}
        return value, v

    return in_numpy.by_hand(case, one)


@wrong(
    "The gradient is dampened by 1 − μ from the second step on, as torch.optim.SGD does with dampening=μ: m = μ m "
    "+ (1 − μ) g; the first step takes the whole gradient.",
    r"damp|1 ?[−-] ?(μ|momentum)|moving average|exponential|\bema\b|weighted average|scaled down"
    r"|later gradients|second step",
    algorithm="inner-momentum",
)
def momentum_dampened_later(case):
    mu = case.settings["momentum"]

    def one(loss, params, support, query):
        buffer = None
        for _ in range(case.inner_steps):
            g = grads_of(loss(params, *support), params)
            buffer = g if buffer is None else {n: mu * buffer[n] + (1 - mu) * g[n] for n in g}
            params = in_torch.step(params, buffer, case.inner_lr)
        return loss(params, *query)

    return over_tasks(case, one)


@correct(
    "Polyak's form without a buffer: θₖ₊₁ = θₖ − α g + μ (θₖ − θₖ₋₁).",
    tells_loss=False,
    algorithm="inner-momentum",
)
def momentum_of_two_points(case):
    mu = case.settings["momentum"]

    def one(loss, params, support, query):
        before = now = params
        for _ in range(case.inner_steps):
            g = grads_of(loss(now, *support), now)
            after = {n: p - case.inner_lr * g[n] + mu * (p - before[n]) for n, p in now.items()}
            before, now = now, after
        return loss(now, *query)

    return over_tasks(case, one)


# Adam in the inner loop


@wrong(
    "The step counter of the bias correction is not reset between the tasks, though the moments are: from the "
    "second task on t is too large and the moments are corrected too little.",
    r"count|step number|number of (the )?steps?|time.?step|\bt\b.{0,50}(reset|too (large|great|high|big)|contin"
    r"|goes on|keep|task|grow|shar|restart)|bias.?correct.{0,80}(task|too|later|contin|reset|carr)|(reset|leak"
    r"|carr(y|ied|ies)).{0,60}(\bt\b|\bstep)",
    algorithm="inner-adam",
)
def adam_counter_goes_on(case):
    beta1, beta2, eps, eps_root = (case.settings[n] for n in ("beta1", "beta2", "eps", "eps_root"))
    loss, params, tasks = given(case)
    total, t = 0.0, 0
    for support, query in tasks:
        at = params
        m, v = ({n: torch.zeros_like(p) for n, p in params.items()} for _ in range(2))
        for _ in range(case.inner_steps):
            t += 1
            g = grads_of(loss(at, *support), at)
            m = {n: beta1 * m[n] + (1 - beta1) * g[n] for n in g}
            v = {n: beta2 * v[n] + (1 - beta2) * g[n] ** 2 for n in g}
            at = {
                n: p - case.inner_lr * m[n] / (1 - beta1**t) / ((v[n] / (1 - beta2**t) + eps_root).sqrt() + eps)
                for n, p in at.items()
            }
        total = total + loss(at, *query)
    return answer(total / len(tasks), params)


@wrong(
    "TensorFlow's form, with the bias corrections in the rate, but with ε and ε_root as they are: they are added "
    "to the uncorrected moment (ε hat), where they weigh more by 1/√(1 − β₂ᵗ) and 1/(1 − β₂ᵗ).",
    r"\bhat\b|ε̂|tensorflow|\btf\b|keras|uncorrected|raw (v|second)|before the (bias )?correct"
    r"|bias.?correct.{0,60}(ε|\beps|rate|folded|outside)|√\(?v ?\+|sqrt\(v\)|√v\b"
    r"|(ε|\beps\w*|\bepsilon).{0,80}(correct|√\(?1|scal|larger|more|before|effective|1 ?[−-] ?β|too (large"
    r"|great|big)|bias|to v\b|to √v|not (to )?v̂)",
    tells_loss=False,
    algorithm="inner-adam",
)
def adam_epsilon_hat(case):
    beta1, beta2, eps, eps_root = (case.settings[n] for n in ("beta1", "beta2", "eps", "eps_root"))

    def one(loss, params, support, query):
        m, v = ({n: torch.zeros_like(p) for n, p in params.items()} for _ in range(2))
        for t in range(1, case.inner_steps + 1):
            g = grads_of(loss(params, *support), params)
            m = {n: beta1 * m[n] + (1 - beta1) * g[n] for n in g}
            v = {n: beta2 * v[n] + (1 - beta2) * g[n] ** 2 for n in g}
            rate = case.inner_lr * (1 - beta2**t) ** 0.5 / (1 - beta1**t)
            params = {n: p - rate * m[n] / ((v[n] + eps_root).sqrt() + eps) for n, p in params.items()}
        return loss(params, *query)

    return over_tasks(case, one)


@wrong(
    "Two mistakes: the denominator is detached, so that the second moment and its root have no derivative; and "
    "only the first moment is corrected for its bias, v is not divided by 1 − β₂ᵗ.",
    r"(\bv\b|v̂|denominator|root|second moment|g²|√|preconditioner).{0,80}(detach|stop.?grad|constant|no.?grad"
    r"|no deriv|not diff|held fixed|without|derivative|does not flow)"
    r"|(detach|stop.?grad|constant|no.?grad|no deriv|not diff|held fixed|without|derivative).{0,80}(\bv\b|v̂"
    r"|denominator|root|second moment|g²|√|preconditioner)",
    r"\bbias|uncorrect|not corrected|1 ?[−-] ?β|v.?hat|raw v|in(stead| place) of v̂|for v̂|β_?[₂2]ᵗ|beta2",
    tells_loss=False,
    algorithm="inner-adam",
)
def adam_constant_raw_denominator(case):
    beta1, beta2, eps, eps_root = (case.settings[n] for n in ("beta1", "beta2", "eps", "eps_root"))

    def one(loss, params, support, query):
        m, v = ({n: torch.zeros_like(p) for n, p in params.items()} for _ in range(2))
        for t in range(1, case.inner_steps + 1):
            g = grads_of(loss(params, *support), params)
            m = {n: beta1 * m[n] + (1 - beta1) * g[n] for n in g}
            v = {n: beta2 * v[n] + (1 - beta2) * g[n].detach() ** 2 for n in g}
            params = {
                n: p - case.inner_lr / (1 - beta1**t) * m[n] / ((v[n] + eps_root).sqrt() + eps)
                for n, p in params.items()
            }
        return loss(params, *query)

    return over_tasks(case, one)


@correct(
    "The bias corrections are folded into the rate, with ε and ε_root scaled by √(1 − β₂ᵗ) and 1 − β₂ᵗ to match.",
    algorithm="inner-adam",
)
def adam_folded_corrections(case):
    beta1, beta2, eps, eps_root = (case.settings[n] for n in ("beta1", "beta2", "eps", "eps_root"))

    def one(loss, params, support, query):
        m, v = ({n: np.zeros_like(p) for n, p in case.numpy()[1].items()} for _ in range(2))
        for t in range(1, case.inner_steps + 1):
            g = tm.grad(loss)(params, *support)
            m = {n: m[n] + (1 - beta1) * (g[n] - m[n]) for n in g}
            v = {n: v[n] + (1 - beta2) * (g[n] * g[n] - v[n]) for n in g}
            left = 1 - beta2**t
            rate = case.inner_lr * left**0.5 / (1 - beta1**t)
            params = {
                n: p - rate * m[n] / (np.sqrt(v[n] + eps_root * left) + eps * left**0.5) for n, p in params.items()
            }
        return loss(params, *query)

    return in_numpy.over_tasks(case, one)


# Sharp-MAML


@wrong(
    "The norm ‖g‖ is a number without a derivative (.item()): the direction of the perturbation is "
    "differentiated, its length is not.",
    r"(norm\b|norm'|norms|‖ ?g ?‖|length|normali[sz]\w*|denominator|divisor|scale).{0,80}(detach|constant"
    r"|stop.?grad|no.?grad|no deriv|number|not diff|without|fixed|item|held|derivative|not (go )?through)"
    r"|(detach|constant|stop.?grad|no.?grad|no deriv|not diff|without|item|held|derivative"
    r"|not (go )?through).{0,60}(norm\b|norm'|norms|‖ ?g ?‖|length|normali[sz]|denominator|divisor|scale)"
    r"|unit vector|project",
    algorithm="sharp",
)
def sharp_norm_as_number(case):
    def one(loss, params, support, query):
        for _ in range(case.inner_steps):
            g = grads_of(loss(params, *support), params)
            scale = case.settings["radius"] / dot(g, g).sqrt().item()
            uphill = {n: p + scale * g[n] for n, p in params.items()}
            params = in_torch.step(params, grads_of(loss(uphill, *support), uphill), case.inner_lr)
        return loss(params, *query)

    return over_tasks(case, one)


@wrong(
    "The perturbation is computed at θ₀ and used in every step: from the second step on it is not along the "
    "gradient at θₖ.",
    r"\bonce\b|reus|stale|first(?!.order) (inner )?(step|gradient)|(at|of|from) θ_?[₀0]|same (perturb|direction"
    r"|step uphill|displacement|uphill)|not (re)?(comput|new)|in every step|in all (inner )?steps|recomput"
    r"|\bold\b|g_?s\(θ_?[₀0]?\)|initial",
    tells_loss=False,
    algorithm="sharp",
)
def sharp_perturbation_reused(case):
    def one(loss, params, support, query):
        g = grads_of(loss(params, *support), params)
        norm = dot(g, g).sqrt()
        move = {n: case.settings["radius"] * v / norm for n, v in g.items()}
        for _ in range(case.inner_steps):
            uphill = {n: p + move[n] for n, p in params.items()}
            params = in_torch.step(params, grads_of(loss(uphill, *support), uphill), case.inner_lr)
        return loss(params, *query)

    return over_tasks(case, one)


@wrong(
    "Two mistakes: each tensor's gradient is divided by its own norm, not by that of all parameters together; and "
    "the parameters are not moved back, the step starts from the perturbed point.",
    r"each (tensor|param|array|layer)|own norm|per.?(tensor|layer|param|array)|tensor.?wise|layer.?wise"
    r"|global norm|norm (over|of) all|separate|by itself|tensor by tensor|every (tensor|param|array)"
    r"|all parameters together",
    r"moved back|restor|starts? (from|at)|from the (perturbed|displaced|uphill)|perturbed (point|param)"
    r"|not (undone|subtract|removed|reset|taken back)|uphill point|displaced point|kept in|step from"
    r"|perturbation (is|remains|stays)|undo",
    algorithm="sharp",
)
def sharp_tensor_norms_not_restored(case):
    def one(loss, params, support, query):
        for _ in range(case.inner_steps):
            uphill = {}
            for n, g in grads_of(loss(params, *support), params).items():
                unit = g / (g * g).sum().sqrt() if g.detach().any() else g
                uphill[n] = params[n] + case.settings["radius"] * unit
            params = in_torch.step(uphill, grads_of(loss(uphill, *support), uphill), case.inner_lr)
        return loss(params, *query)

    return over_tasks(case, one)


@correct(
    "Flat vectors; the unit gradient by torch.nn.functional.normalize with ε = 0; backward by torch.func.vjp.",
    algorithm="sharp",
)
def sharp_flat_vjp(case):
    def one(loss, params, support, query):
        def of(vector, batch):
            return loss(unflatten(vector, params), *batch)

        def next_point(vector):
            g = torch.func.grad(of)(vector, support)
            uphill = vector + case.settings["radius"] * torch.nn.functional.normalize(g, dim=0, eps=0.0)
            return vector - case.inner_lr * torch.func.grad(of)(uphill, support)

        at, backs = flatten(params).detach(), []
        for _ in range(case.inner_steps):
            at, back = torch.func.vjp(next_point, at)
            backs.append(back)
        v, value = torch.func.grad_and_value(of)(at, query)
        for back in reversed(backs):
            (v,) = back(v)
        return value, unflatten(v, params)

    return by_hand(case, one)


# Meta-MinibatchProx


@wrong(
    "The anchor is a shallow copy: it holds the same tensors as φ, which are updated in place, so that φ − anchor "
    "is always 0 and the inner loop has no pull to θ (G has λ all the same).",
    r"alias|shallow|same tensor|in.?place|no (pull|penalty|proximal|anchor)|without (the |a |its )?(pull"
    r"|penalty|proximal|regulari|anchor)|plain (gradient|sgd|inner)|reptile|λ ?= ?0 in"
    r"|(pull|penalty|proximal|regulari\w*|anchor).{0,60}(miss|left out|always 0|is 0|zero|vanish|omit|no effect"
    r"|lack|absent|drop|forgot)|(miss|omit|lack|drop|leaves? out|ignor).{0,40}(pull|penalty|proximal|regulari"
    r"|λ ?\(φ)|λ ?\(φ.{0,60}(miss|left|omit|lack|drop|absent)",
    tells_loss=False,
    algorithm="proximal",
)
def proximal_anchor_aliased(case):
    strength = case.settings["strength"]

    def one(loss, params, support, query):
        phi = leaves(params)
        anchor = dict(phi)
        for _ in range(case.inner_steps):
            g = grads_of(loss(phi, *support), phi, create_graph=False)
            with torch.no_grad():
                for n, p in phi.items():
                    p.sub_(case.inner_lr * (g[n] + strength * (p - anchor[n])))
        return loss(phi, *query), {n: strength * (params[n] - phi[n]) for n in params}

    return by_hand(case, one)


@wrong(
    "G is the support gradient at the end, g_s(φ_K), which is λ(θ − φ) at the proximal point only; where the "
    "inner loop has not converged it is something else.",
    r"g_?s ?\(φ|gradient of the (support|task|inner) loss|(support|task|inner"
    r"|loss'?s?).{0,40}gradient.{0,30}(at|in|of) (φ|the end|(the )?adapted|the last|the final)"
    r"|gradient (of (the )?(support|L_?s).{0,20})?at φ|∇L_?s ?\(φ|only (when|if|where|at|after"
    r"|once).{0,30}(converge|proximal|stationar)"
    r"|stationar|optimality|envelope theorem|envelope.{0,30}gradient|instead of (the )?(displacement|difference"
    r"|λ)|first.order condition|gradient.{0,30}in(stead| place) of",
    algorithm="proximal",
)
def proximal_gradient_at_the_end(case):
    def one(loss, params, support, query):
        phi = pulled_numpy(case, loss, params, support)
        return loss(phi, *query), tm.grad(loss)(phi, *support)

    return in_numpy.by_hand(case, one)


@wrong(
    "The pull is applied implicitly, φ ← (φ − α g_s + αλ θ)/(1 + αλ), as the proximal operator of λ/2 ‖φ − θ‖²: "
    "the same fixed point, but other iterates than the explicit step's.",
    r"implicit|1 ?\+ ?α ?·?λ|1 ?\+ ?λ ?·?α|1 ?\+ ?αλ|prox(imal)? (operator|map|step)|\bprox\b|closed.form"
    r"|backward euler|same fixed point|forward.backward|splitting|\bfista\b|\bista\b|pull.{0,40}(weaker|smaller"
    r"|divided)|(α|rate|step).{0,30}/ ?\(1 ?\+|divided by 1 ?\+",
    tells_loss=False,
    algorithm="proximal",
)
def proximal_implicit_pull(case):
    strength = case.settings["strength"]

    def one(loss, params, support, query):
        phi, pull = params, case.inner_lr * strength
        for _ in range(case.inner_steps):
            g = tm.grad(loss)(phi, *support)
            phi = {n: (p - case.inner_lr * g[n] + pull * params[n]) / (1 + pull) for n, p in phi.items()}
        return loss(phi, *query), {n: strength * (params[n] - phi[n]) for n in params}

    return in_numpy.by_hand(case, one)
