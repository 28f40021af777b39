"""A blind set in PyTorch, plain MAML. The helpers are honest; a mistake stands in the function that bears its name."""

from __future__ import annotations

import math

import torch
from torch.autograd import grad
from torch.nn import functional as F  # noqa: N812

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


def by_hand(case, back):
    """The mean over tasks of back(loss, [θ₀ … θ_K], support, g_q), without a graph through the inner loop."""
    loss, params, tasks = given(case)
    total, value = {n: torch.zeros_like(p) for n, p in params.items()}, 0.0
    for support, query in tasks:
        thetas = path(case, loss, params, support)
        value_q = loss(thetas[-1], *query)
        v = back(loss, thetas, support, grads_of(value_q, thetas[-1], False))
        total = {n: total[n] + v[n] / len(tasks) for n in total}
        value = value + value_q.detach() / len(tasks)
    return {"meta_grad": total, "meta_loss": value}


def adapt_func(case, loss, support):
    """θ ↦ θ_K for torch.func."""

    def run(params):
        for _ in range(case.inner_steps):
            params = step(params, torch.func.grad(loss)(params, *support), case.inner_lr)
        return params

    return run


# ── the optimiser of the inner loop ─────────────────────────────────────────────────────────────────────────────────


@wrong(
    "The inner gradient is clipped to a global norm of 1 before each inner step, which plain MAML does not do.",
    r"clip|max.?norm|capped|norm of (at most )?(1|one)|limited in norm",
    tells_loss=False,
)
def clip_in_the_inner_loop(case):
    def one(loss, params, support, query):
        for _ in range(case.inner_steps):
            grads = grads_of(loss(params, *support), params)
            norm = torch.sqrt(dot(grads, grads))
            scale = torch.clamp(1.0 / (norm + 1e-6), max=1.0)
            params = step(params, {n: g * scale for n, g in grads.items()}, case.inner_lr)
        return loss(params, *query)

    return over_tasks(case, one)


@wrong(
    "The inner learning rate is annealed by a cosine schedule over the inner steps instead of being constant.",
    r"schedul|anneal|cosine|decay(s|ed|ing)? (of )?(the )?(inner |learning )*rate|rate.*(decay|decreas|shrink|chang)"
    r"|(inner |learning )rate.*(each|every|per|from) (inner )?step|not constant",
)
def cosine_annealed_steps(case):
    def one(loss, params, support, query):
        for k in range(case.inner_steps):
            rate = case.inner_lr * 0.5 * (1 + math.cos(math.pi * k / case.inner_steps))
            params = step(params, grads_of(loss(params, *support), params), rate)
        return loss(params, *query)

    return over_tasks(case, one)


@wrong(
    "The gradients of the inner loop are never zeroed, so that each inner step moves along the sum of all so far.",
    r"(inner|step)s?.{0,80}(accumulat|zeroed|zero_grad|pile|add(ed)? up|running sum)"
    r"|(accumulat|running sum|sum).{0,60}(past|earlier|former|previous|inner|all (the )?steps)"
    r"|sum of all so far|momentum (of )?(μ = )?(1\b|one)|(not|never) (reset|cleared|zeroed).{0,40}(step|inner)",
)
def inner_gradients_pile_up(case):
    def one(loss, params, support, query):
        piled = {n: torch.zeros_like(p) for n, p in params.items()}
        for _ in range(case.inner_steps):
            grads = grads_of(loss(params, *support), params)
            piled = {n: piled[n] + g for n, g in grads.items()}
            params = step(params, piled, case.inner_lr)
        return loss(params, *query)

    return over_tasks(case, one)


@wrong(
    "The inner optimiser has a momentum of 0.9, and its buffer is created once and so carried from task to task.",
    r"momentum|heavy.?ball|velocity",
    r"(buffer|state|velocity|momentum).*(carr|across|between|from task|kept|shared|stale|not reset|previous|never)"
    r"|(carr|leak|across|between|not reset|stale|previous task|task before|order of (the )?tasks).*",
    tells_loss=False,
)
def momentum_from_the_last_task(case):
    loss, params, tasks = given(case)
    velocity = {n: torch.zeros_like(p) for n, p in params.items()}
    total = 0.0
    for support, query in tasks:
        fast = params
        for _ in range(case.inner_steps):
            grads = grads_of(loss(fast, *support), fast)
            velocity = {n: 0.9 * velocity[n] + g for n, g in grads.items()}
            fast = step(fast, velocity, case.inner_lr)
        total = total + loss(fast, *query) / len(tasks)
    return answer(total, params)


@wrong(
    "The inner learning rate is kept in a float32 tensor in a float64 computation, and so it is rounded to 24 bits.",
    r"float32|single.?precision|24 bits|(rate|α|\blr\b|constant).{0,60}(round|precision|digits|accura)"
    r"|(round|precision|digits).{0,60}(rate|α|\blr\b)",
)
def rate_in_a_default_tensor(case):
    rate = torch.tensor(case.inner_lr)

    def one(loss, params, support, query):
        for _ in range(case.inner_steps):
            params = step(params, grads_of(loss(params, *support), params), rate)
        return loss(params, *query)

    return over_tasks(case, one)


@wrong(
    "Each inner step sees only a mini-batch of two support examples in turn, not the whole support set.",
    r"mini.?batch|subset|(part|some|two|half|fraction|slice) of the (support|examples)|whole support|full.?batch"
    r"|all (of )?the support|only (two|2|some|the first)|chunk|fewer (support )?examples",
)
def a_loader_with_a_batch_size(case):
    def one(loss, params, support, query):
        x, y = support
        for k in range(case.inner_steps):
            rows = torch.arange(2 * k, 2 * k + 2) % len(x)
            params = step(params, grads_of(loss(params, x[rows], y[rows]), params), case.inner_lr)
        return loss(params, *query)

    return over_tasks(case, one)


@wrong(
    "Within an inner step the loss is evaluated anew for each tensor after those before it were already updated "
    "(Gauss-Seidel), instead of all gradients being taken at the same θₖ.",
    r"[Ss]eidel|already.{0,20}(updated|stepped|moved|changed)|one (parameter |tensor |layer )?(after|at a time|by one)"
    r"|(block.)?coordinate|simultaneous|sequential",
)
def update_inside_the_loop_over_names(case):
    def one(loss, params, support, query):
        fast = dict(params)
        for _ in range(case.inner_steps):
            for n in fast:
                at = {m: p.clone() for m, p in fast.items()}  # the partial derivative, not one through older steps
                (g,) = grad(loss(at, *support), [at[n]], create_graph=True)
                fast = {**fast, n: fast[n] - case.inner_lr * g}
        return loss(fast, *query)

    return over_tasks(case, one)


@wrong(
    "The inner loss is evaluated at the initial parameters θ in every step instead of at the fast weights θₖ, so that "
    "the same gradient is used K times.",
    r"(at|of|with|from|in) (the )?(θ₀|θ\b|initial|meta|original|slow|start|first|old).{0,60}(every|each|all"
    r"|always|again)"
    r"|(at|of|with) (the )?(θ₀|initial|original|slow).{0,60}(instead|not at|repeat)|same gradient|K times|K ?α"
    r"|(always|every step|each step|all steps).{0,40}(θ₀|initial|θ\b|original)|never (re.?evaluated|updated|moves)"
    r"|instead of.{0,20}(fast|adapted|current|updated)|wrong variable",
)
def loss_of_the_slow_weights(case):
    def one(loss, params, support, query):
        fast = params
        for _ in range(case.inner_steps):
            grads = grads_of(loss(params, *support), params)
            fast = step(fast, grads, case.inner_lr)
        return loss(fast, *query)

    return over_tasks(case, one)


@wrong(
    "The query loss is evaluated at the average of the inner iterates θ₁ … θ_K (SWA) instead of at the last one.",
    r"averag(e|ed|ing).{0,40}(iterate|weight|parameter|θ)|(iterate|weight|parameter|θₖ)\w*.{0,20}averag"
    r"|[Pp]olyak|\bSWA\b"
    r"|\bEMA\b|mean of (the |all )?(inner |adapted )?(iterates|parameters|weights|steps|θ)",
)
def averaged_weights_for_the_query(case):
    def one(loss, params, support, query):
        iterates = []
        for _ in range(case.inner_steps):
            params = step(params, grads_of(loss(params, *support), params), case.inner_lr)
            iterates.append(params)
        return loss({n: sum(p[n] for p in iterates) / len(iterates) for n in params}, *query)

    return over_tasks(case, one)


# ── tasks, and what belongs to which ────────────────────────────────────────────────────────────────────────────────


@wrong(
    "The fast weights are updated through .data, so that nothing is differentiated through the inner loop (FOMAML), "
    "and they are not reset: each task starts where the task before it ended.",
    r"first.?order|FOMAML|fomaml|detach|second.?order.*(missing|dropped|lost|left out)|no graph|\.data|create_graph",
    r"reset|restor|carr(y|ies|ied)|previous task|task before|former task|from task to task|sequential"
    r"|(starts?|begins?) (from|where|at).*task|order of (the )?tasks|leak",
)
def weights_changed_through_data(case):
    loss, params, tasks = given(case)
    live = leaves(params)
    total, value = {n: torch.zeros_like(p) for n, p in params.items()}, 0.0
    for support, query in tasks:
        for _ in range(case.inner_steps):
            grads = grads_of(loss(live, *support), live, create_graph=False)
            for n, p in live.items():
                p.data -= case.inner_lr * grads[n]
        value_q = loss(live, *query)
        total = {n: total[n] + g / len(tasks) for n, g in grads_of(value_q, live, create_graph=False).items()}
        value = value + value_q.detach() / len(tasks)
    return {"meta_grad": total, "meta_loss": value}


@wrong(
    "All tasks hold the same preallocated support buffer, which is refilled in the loop, so that every task adapts on "
    "the support set of the last task.",
    r"(last|one|same|single|wrong|another|other|first).{0,12}task.{0,3}s? support"
    r"|support.{0,40}(last|same|wrong|other|another|single|one) (task|set|for all)|same support|(support|same"
    r"|refilled).{0,20}buffer|late.?bind|alias"
    r"|mismatch|shared support|support.{0,30}shared",
)
def one_buffer_for_all_supports(case):
    loss, params, tasks = given(case)
    (x, y), _ = tasks[0]
    buffer = torch.empty_like(x), torch.empty_like(y)
    batches = []
    for support, query in tasks:
        buffer[0].copy_(support[0])
        buffer[1].copy_(support[1])
        batches.append((buffer, query))
    return answer(sum(loss(adapt(case, loss, params, s), *q) for s, q in batches) / len(batches), params)


@wrong(
    "The running sum of the query losses is backpropagated after every task, so that earlier tasks are counted again "
    "each time: task t counts T − t times.",
    r"(task|query|loss).{0,60}(accumulat|cumulat)|(accumulat|cumulat|running sum|running total).{0,60}(task|query|loss)"
    r"|(earlier|first|former|previous) tasks?.{0,30}(more|again|times|twice|several)|count(s|ed) (again|more"
    r"|twice|several|T)"
    r"|(unequal|different|wrong).{0,12}weight|weight(s|ed)? (of|for|on|between) (the )?(tasks|earlier)"
    r"|tasks?.{0,30}(weighted|unequal)"
    r"|more than once|double.?count|retain_graph",
)
def backward_inside_the_loop_over_tasks(case):
    loss, params, tasks = given(case)
    params = leaves(params)
    total = 0.0
    for support, query in tasks:
        total = total + loss(adapt(case, loss, params, support), *query) / len(tasks)
        total.backward(retain_graph=True)
    return {"meta_grad": {n: p.grad for n, p in params.items()}, "meta_loss": total.detach()}


@wrong(
    "The support losses are backpropagated with .backward() and .grad is not zeroed before the outer backward, so the "
    "meta-gradient contains the gradients of the support losses of all steps in addition.",
    r"support.{0,40}(gradient|loss).{0,40}(added|addition|leak|in the|remain|left|accumul|also|too|contain|includ)"
    r"|(plus|add|leak|accumul|left over|contain|includ).{0,60}support|(zero_grad|zeroed|cleared).{0,60}(outer"
    r"|meta|query)"
    r"|\.backward\(\)|\.grad\b",
)
def support_gradients_left_in_grad(case):
    loss, params, tasks = given(case)
    params = leaves(params)
    value = 0.0
    for support, query in tasks:
        fast = {n: p.clone() for n, p in params.items()}
        for _ in range(case.inner_steps):
            for p in fast.values():
                p.retain_grad()
            loss(fast, *support).backward(create_graph=True)
            fast = {n: p - case.inner_lr * p.grad for n, p in fast.items()}
        value_q = loss(fast, *query) / len(tasks)
        value_q.backward()
        value = value + value_q.detach()
    return {"meta_grad": {n: p.grad.detach() for n, p in params.items()}, "meta_loss": value}


@wrong(
    "All tasks share one set of fast weights: the inner step follows the support loss averaged over tasks, so that no "
    "task has an adaptation of its own.",
    r"\bshare|pooled|joint|(mean|average|sum)d?.{0,20}(of|over|across) (all )?(the )?tasks.{0,40}(inner|support|adapt)"
    r"|(support|inner|adapt).{0,60}(over|across|of|from|on) (all )?(the )?tasks|one (set|copy) of|not per task"
    r"|(not|no|without).{0,20}per.task",
)
def adapt_on_all_tasks_at_once(case):
    loss, params, tasks = given(case)
    fast = params
    for _ in range(case.inner_steps):
        pooled = sum(loss(fast, *support) for support, _ in tasks) / len(tasks)
        fast = step(fast, grads_of(pooled, fast), case.inner_lr)
    return answer(sum(loss(fast, *query) for _, query in tasks) / len(tasks), params)


@wrong(
    "With tasks batched by vmap, the inner loss is a mean over tasks, which divides every task's inner gradient (and "
    "so α) by T, and the outer loss is a sum over tasks instead of a mean.",
    r"α ?/ ?T|1 ?/ ?T|(inner|step|rate|α|support).{0,60}(divid|/ ?T|too small|number of tasks|over tasks|by T|scaled)"
    r"|(divid|mean over tasks|by the number of tasks).{0,60}(inner|support|rate|α)",
    r"sum.{0,30}tasks|(not|never) (divided|averaged)|instead of (a |the )?mean|T times|times T|× ?T|factor (of )?T"
    r"|missing 1 ?/ ?T|number of tasks",
)
def mean_inside_and_sum_outside(case):
    loss, params, tasks = given(case)
    supports = [torch.stack(a) for a in zip(*(s for s, _ in tasks), strict=True)]
    queries = [torch.stack(a) for a in zip(*(q for _, q in tasks), strict=True)]
    of_all = torch.func.vmap(loss)
    fast = {n: p.expand(len(tasks), *p.shape) for n, p in params.items()}
    for _ in range(case.inner_steps):
        fast = step(fast, grads_of(of_all(fast, *supports).mean(), fast), case.inner_lr)
    return answer(of_all(fast, *queries).sum(), params)


@wrong(
    "The meta-loss is evaluated on the support and the query examples together, not on the query set alone.",
    r"(query|meta.?loss|outer loss|evaluat).{0,60}support.{0,60}(together|concat|both|union|join|includ|too"
    r"|also|as well|add)"
    r"|support.{0,30}(query|meta.?loss|outer loss).{0,40}(together|concat|both|union|join)|(concat|union"
    r"|together).{0,60}support"
    r"|(loss|query|evaluat)\w*.{0,40}(includ|contain|both|plus).{0,40}support|support and (the )?query"
    r"|query and (the )?support",
)
def validate_on_the_whole_task(case):
    def one(loss, params, support, query):
        x, y = (torch.cat([s, q]) for s, q in zip(support, query, strict=True))
        return loss(adapt(case, loss, params, support), x, y)

    return over_tasks(case, one)


@wrong(
    "The fast weights begin as detached copies of θ (higher's copy_initial_weights=True), so the query loss is not "
    "connected with θ and the meta-gradient is zero.",
    r"\bzeros?\b|detach|cop(y|ies)|(not|dis).?connected|cut off|never reach|independent of θ|clone|no gradient"
    r"|None|vanish",
)
def copied_initial_weights(case):
    loss, params, tasks = given(case)
    total = 0.0
    for support, query in tasks:
        fast = {n: p.detach().clone().requires_grad_() for n, p in params.items()}
        total = total + loss(adapt(case, loss, fast, support), *query) / len(tasks)
    return answer(total, params)


# ── derivatives by hand ─────────────────────────────────────────────────────────────────────────────────────────────


@wrong(
    "The query gradient is pushed through the inner loop by forward mode (J g_q) instead of pulled back (Jᵀ g_q), so "
    "the factors (I − αHₖ) stand in the reverse order.",
    r"revers|(wrong|other|opposite) order|order of (the )?(factor|product|matri)|transpos|\bjvp\b|JVP|pushed"
    r"|push.?forward"
    r"|forward.?mode|J instead of|vjp|wrong end",
    tells_loss=False,
)
def forward_mode_for_reverse(case):
    loss, params, tasks = given(case)
    total, value = {n: torch.zeros_like(p) for n, p in params.items()}, 0.0
    for support, query in tasks:
        run = adapt_func(case, loss, support)
        g, value_q = torch.func.grad_and_value(loss)(run(params), *query)
        _, pushed = torch.func.jvp(run, (params,), (g,))
        total = {n: total[n] + pushed[n].detach() / len(tasks) for n in total}
        value = value + value_q.detach() / len(tasks)
    return {"meta_grad": total, "meta_loss": value}


@wrong(
    "The Hessian of the support loss is replaced by its Gauss-Newton approximation JᵀH_oJ, which lacks the curvature "
    "of the network itself.",
    r"[Gg]auss.?[Nn]ewton|GGN|[Ff]isher|JᵀJ|J\^T|curvature|second derivatives? of the (network|model|outputs?"
    r"|activation)",
    tells_loss=False,
)
def gauss_newton_products(case):
    layers = models.Torch()

    def outputs(params, x):
        for layer in case.model["layers"]:
            used = [params[name] for name in layer.get("params", [])]
            settings = {k: v for k, v in layer.items() if k not in ("layer", "params")}
            x = getattr(layers, layer["layer"])(x, *used, **settings)
        return x

    def loss_of(o, y):
        return o.mean() if case.model["loss"] == "mean" else getattr(layers, case.model["loss"])(o, y)

    def back(loss, thetas, support, v):
        x, y = support
        for at in reversed(thetas[:-1]):
            at = {n: p.detach() for n, p in at.items()}
            o, jv = torch.func.jvp(lambda p: outputs(p, x), (at,), (v,))
            _, hjv = torch.func.jvp(torch.func.grad(lambda o: loss_of(o, y)), (o,), (jv,))
            (hv,) = torch.func.vjp(lambda p: outputs(p, x), at)[1](hjv)
            v = step(v, hv, case.inner_lr)
        return v

    return by_hand(case, back)


@wrong(
    "The product of the factors (I − αHₖ) is expanded to first order in α, I − αΣHₖ: the products of Hessians are "
    "missing.",
    r"cross.?terms?|products? of (the |two )?Hessians|first.?order in α|linear in α|expan|higher (order|powers)|α²"
    r"|Σ ?ₖ? ?α? ?H|sum of (the )?Hessians|lineari[sz]",
)
def sum_of_hessians(case):
    def back(loss, thetas, support, g):
        v = g
        for at in thetas[:-1]:
            v = step(v, hvp(loss, at, support, g), case.inner_lr)
        return v

    return by_hand(case, back)


@wrong(
    "The Hessian-vector product has the wrong sign (v + αHv), and the tasks are summed instead of averaged.",
    r"sign|I \+ α|\+ ?α ?H|plus|minus|ascent|added instead",
    r"sum.{0,30}tasks|(not|never) (divided|averaged)|instead of (a |the )?(mean|average)|T times|times T|× ?T"
    r"|factor (of )?T|missing 1 ?/ ?T|number of tasks|tasks.{0,20}sum",
)
def plus_in_the_adjoint(case):
    def back(loss, thetas, support, v):
        for at in reversed(thetas[:-1]):
            h = hvp(loss, at, support, v)
            v = {n: v[n] + case.inner_lr * h[n] for n in v}
        return {n: case.tasks * g for n, g in v.items()}

    told = by_hand(case, back)
    return {"meta_grad": told["meta_grad"], "meta_loss": told["meta_loss"] * case.tasks}


@wrong(
    "To save memory only θ_K is kept and earlier θₖ are rebuilt by θₖ₊₁ + αg(θₖ₊₁), which does not invert the step, so "
    "the Hessians are taken at wrong points.",
    r"(Hessian|\bH).{0,40}(wrong|other|another|shifted|displaced|later|inexact).{0,20}(point|θ|place|iterate)"
    r"|rebuil|reconstruct|recomput|revers(ed|ible|ing) (the )?(step|traject)|invert|uphill|stale"
    r"|approximat.{0,20}(θ|point|traject)",
    tells_loss=False,
)
def trajectory_run_backwards(case):
    def back(loss, thetas, support, v):
        at = thetas[-1]
        for _ in range(case.inner_steps):
            grads = grads_of(loss(at, *support), at, create_graph=False)
            at = leaves(step(at, grads, -case.inner_lr))
            v = step(v, hvp(loss, at, support, v), case.inner_lr)
        return v

    return by_hand(case, back)


@wrong(
    "The Hessian-vector product is taken tensor by tensor, so that the blocks of the Hessian between different "
    "parameters are missing (block-diagonal Hessian).",
    r"block|diagonal|cross.?(term|block|deriv|layer|param|second)|between (different |the )?(param|layer|tensor|weight)"
    r"|mixed (second|partial|deriv)|(tensor|param|layer)\w* by (tensor|param|layer)|coupling|off.diag|on its own"
    r"|each (tensor|parameter|layer) (alone|separately|by itself)",
    tells_loss=False,
)
def hessian_tensor_by_tensor(case):
    def back(loss, thetas, support, v):
        for at in reversed(thetas[:-1]):
            grads = grads_of(loss(at, *support), at)
            new = {}
            for n, p in at.items():
                inner = (grads[n] * v[n]).sum()
                h = grad(inner, [p], retain_graph=True, allow_unused=True)[0] if inner.requires_grad else None
                new[n] = v[n] if h is None else v[n] - case.inner_lr * h
            v = new
        return v

    return by_hand(case, back)


# ── data, losses, layers, precision ─────────────────────────────────────────────────────────────────────────────────


@wrong(
    "The cross-entropy is called with ignore_index=0, so that examples of class 0 are left out of the loss and of its "
    "mean.",
    r"ignore_index|ignor|class (0|zero)|label (0|zero)|first class|(left|masked|leaves?) out|padding (index|label)"
    r"|masked|some examples|exclud|skip|y = 0",
)
def zero_is_padding(case):
    layers = models.Torch()

    def cross_entropy(o, y):
        kept = (y != 0).sum().clamp(min=1)  # a set that has class 0 alone has the loss 0
        return F.cross_entropy(o, y, ignore_index=0, reduction="sum") / kept

    layers.cross_entropy = cross_entropy
    return plain(case, layers)


@wrong(
    "The labels are renumbered in each set by torch.unique, so where a class is absent the classes of that set are "
    "shifted against those of the other set.",
    r"label|class(es)? (ind|num|shift|absent|are shift)|renumber|unique|\bre.?index|remap|targets?\b|wrong y",
    tells_loss=False,
)
def labels_numbered_per_set(case):
    def numbered(y):
        return y if y.is_floating_point() else torch.unique(y, return_inverse=True)[1]

    def one(loss, params, support, query):
        (xs, ys), (xq, yq) = support, query
        return loss(adapt(case, loss, params, (xs, numbered(ys))), xq, numbered(yq))

    return over_tasks(case, one)


@wrong(
    "Every input example is scaled to unit Euclidean length before it enters the model.",
    r"normali[sz]|unit (norm|length|Euclid|vector|sphere)|scal(ed|ing).{0,20}(input|x\b|example|data)|"
    r"(input|example|data|\bx)\w*.{0,30}(scal|rescal|changed|divided|altered|preprocess|other|standardi)|preprocess",
)
def inputs_on_the_unit_sphere(case):
    def unit(x):
        norm = x.flatten(1).norm(dim=1).clamp(min=1e-12)
        return x / norm.reshape(-1, *[1] * (x.dim() - 1))

    def one(loss, params, support, query):
        (xs, ys), (xq, yq) = support, query
        return loss(adapt(case, loss, params, (unit(xs), ys)), unit(xq), yq)

    return over_tasks(case, one)


@wrong(
    "The inner loop runs its forward and backward pass in bfloat16 (mixed precision), so the inner gradients have only "
    "eight bits.",
    r"bfloat16|bf16|half.?precision|mixed.?precision|low(er)? precision|autocast|16.?bit|(eight|8) bits|\bAMP\b"
    r"|(inner|gradient|adapt).{0,60}(precision|digits|round)|(precision|digits|round\w*).{0,60}(inner|gradient|adapt)",
)
def inner_loop_in_sixteen_bits(case):
    def low(a):
        return a.to(torch.bfloat16) if a.is_floating_point() else a

    def one(loss, params, support, query):
        batch = [low(a) for a in support]
        for _ in range(case.inner_steps):
            value = loss({n: low(p) for n, p in params.items()}, *batch)
            params = step(params, grads_of(value, params), case.inner_lr)
        return loss(params, *query)

    return over_tasks(case, one)


@wrong(
    "Max pooling is called with ceil_mode=True, so left-over rows and columns make windows of their own instead of "
    "being dropped.",
    r"ceil|left.?over|dropped|partial window|incomplete window|odd (size|width|height)|pool",
    tells_loss=False,
)
def pooling_rounds_up(case):
    layers = models.Torch()
    layers.max_pool = lambda x, size: F.max_pool2d(x.permute(0, 3, 1, 2), size, ceil_mode=True).permute(0, 2, 3, 1)
    return plain(case, layers)


@wrong(
    "Batch norm's mean and variance are computed without gradient, so nothing is differentiated through the batch "
    "statistics.",
    r"(statistic|mean|variance|batch.?norm|normali[sz]).{0,60}(detach|constant|no_grad|without grad|not differentiated"
    r"|stop|held|frozen|treated)|(detach|constant|no_grad|through|frozen|held).{0,60}(statistic|mean|variance"
    r"|batch.?norm)",
)
def batch_statistics_without_gradient(case):
    layers = models.Torch()

    def batch_norm(x, gamma, beta):
        with torch.no_grad():
            over = tuple(range(x.dim() - 1))
            mean, var = x.mean(over), x.var(over, unbiased=False)
        return (x - mean) / torch.sqrt(var + models.EPS) * gamma + beta

    layers.batch_norm = batch_norm
    return plain(case, layers)


@wrong(
    "Images are brought from NHWC to NCHW by reshape instead of permute, which scrambles pixels and channels before "
    "the convolution.",
    r"reshape|\bview\b|permut|transpos|NCHW|layout|channels?.{0,15}(first|last|order|axis|mixed|scrambl|position)"
    r"|scrambl|axis order|wrong axis|pixels",
)
def reshaped_to_channels_first(case):
    layers = models.Torch()

    def conv(x, w, stride, padding):
        n, height, width, channels = x.shape
        sizes = zip(x.shape[1:3], w.shape[:2], strict=True)
        rows, columns = (models._zeros_around(padding, size, k, stride) for size, k in sizes)
        images = F.pad(x.reshape(n, channels, height, width), (*columns, *rows))
        return F.conv2d(images, w.permute(3, 2, 0, 1), stride=stride).permute(0, 2, 3, 1)

    layers.conv = conv
    return plain(case, layers)


# ── right, in unusual forms ─────────────────────────────────────────────────────────────────────────────────────────


@correct("the dense Jacobian dθ_K/dθ of the flattened parameters by jacrev, transposed, times the query gradient")
def dense_jacobian(case):
    loss, params, tasks = given(case)
    flat = flatten(params).detach()
    total, value = torch.zeros_like(flat), 0.0
    for support, query in tasks:
        run = adapt_func(case, loss, support)
        jacobian = torch.func.jacrev(lambda v, run=run: flatten(run(unflatten(v, params))), chunk_size=1)(flat)
        last = run(unflatten(flat, params))
        g, value_q = torch.func.grad_and_value(loss)(last, *query)
        total = total + jacobian.T @ flatten(g) / len(tasks)
        value = value + value_q / len(tasks)
    return {"meta_grad": unflatten(total, params), "meta_loss": value}


@correct("forward mode only: one directional derivative of the meta-loss per coordinate of θ", tells_loss=False)
def forward_mode_along_every_axis(case):
    loss, params, tasks = given(case)
    flat = flatten(params).detach()

    def mean_loss(vector):
        theta = unflatten(vector, params)
        return sum(loss(adapt_func(case, loss, s)(theta), *q) for s, q in tasks) / len(tasks)

    slopes = [torch.func.jvp(mean_loss, (flat,), (axis,))[1] for axis in torch.eye(len(flat), dtype=flat.dtype)]
    return {"meta_grad": unflatten(torch.stack(slopes), params), "meta_loss": mean_loss(flat)}


@correct("all adjoints at once: the block-triangular linear system of the whole trajectory, solved by torch.linalg")
def triangular_system_of_the_trajectory(case):
    loss, params, tasks = given(case)
    size, steps = sum(p.numel() for p in params.values()), case.inner_steps

    def back(loss, thetas, support, g):
        eye = torch.eye(size, dtype=flatten(g).dtype)
        system = torch.eye(size * (steps + 1), dtype=eye.dtype)
        right = torch.zeros(size * (steps + 1), 1, dtype=eye.dtype)
        right[-size:, 0] = flatten(g)
        for k, at in enumerate(thetas[:-1]):
            hessian = torch.func.hessian(lambda v: loss(unflatten(v, params), *support))(flatten(at).detach())
            system[k * size : (k + 1) * size, (k + 1) * size : (k + 2) * size] = case.inner_lr * hessian - eye
        adjoints = torch.linalg.solve_triangular(system, right, upper=True, unitriangular=True)
        return unflatten(adjoints[:size, 0], params)

    return by_hand(case, back)


@correct("tasks under vmap: per-task meta-gradients by torch.func, averaged afterwards, the inner loop recursive")
def vmap_of_meta_gradients(case):
    loss, params, ((xs, ys), (xq, yq)) = case.torch()

    def after(params, steps, x, y):
        if steps == 0:
            return params
        before = after(params, steps - 1, x, y)
        return step(before, torch.func.grad(loss)(before, x, y), case.inner_lr)

    def of_task(params, x, y, x_query, y_query):
        return loss(after(params, case.inner_steps, x, y), x_query, y_query)

    stacked = [a if torch.is_tensor(a) else torch.stack(list(a)) for a in (xs, ys, xq, yq)]
    each = torch.func.vmap(torch.func.grad_and_value(of_task), in_dims=(None, 0, 0, 0, 0))
    grads, values = each({n: p.detach() for n, p in params.items()}, *stacked)
    return {"meta_grad": {n: g.mean(0) for n, g in grads.items()}, "meta_loss": values.mean()}


@correct("the inner step as an autograd.Function that saves only θₖ and recomputes its own Hessian product in backward")
def inner_step_with_its_own_backward(case):
    loss, params, tasks = given(case)
    names = list(params)

    class Step(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, y, *tensors):
            ctx.save_for_backward(x, y, *tensors)
            with torch.enable_grad():
                at = leaves(dict(zip(names, tensors, strict=True)))
                grads = grads_of(loss(at, x, y), at, create_graph=False)
            return tuple(p.detach() - case.inner_lr * grads[n] for n, p in at.items())

        @staticmethod
        def backward(ctx, *cotangents):
            x, y, *tensors = ctx.saved_tensors
            v = dict(zip(names, cotangents, strict=True))
            with torch.enable_grad():
                h = hvp(loss, dict(zip(names, tensors, strict=True)), (x, y), v)
            return None, None, *(v[n] - case.inner_lr * h[n] for n in names)

    total = 0.0
    for support, query in tasks:
        tensors = tuple(params.values())
        for _ in range(case.inner_steps):
            tensors = Step.apply(*support, *tensors)
        total = total + loss(dict(zip(names, tensors, strict=True)), *query) / len(tasks)
    return answer(total, params)


@correct(
    "saved tensors are packed into NumPy arrays and unpacked on the way back; each task is backpropagated at once, and "
    "the inner loop adds up displacements from θ",
    tells_loss=False,
)
def graph_kept_in_numpy(case):
    loss, params, tasks = given(case)
    params = leaves(params)
    value = 0.0
    for support, query in reversed(tasks):
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t.detach().numpy().copy(), torch.from_numpy):
            moved = {n: torch.zeros_like(p) for n, p in params.items()}
            for _ in range(case.inner_steps):
                fast = {n: p + moved[n] for n, p in params.items()}
                moved = step(moved, grads_of(loss(fast, *support), fast), case.inner_lr)
            value_q = loss({n: p + moved[n] for n, p in params.items()}, *query) / len(tasks)
        value_q.backward()
        value = value + value_q.detach()
    return {"meta_grad": {n: p.grad for n, p in params.items()}, "meta_loss": value}
