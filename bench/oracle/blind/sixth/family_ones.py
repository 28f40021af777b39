"""MAML's relatives, in PyTorch and in NumPy: 36 wrong and 8 right implementations, each mistake in its own function."""

import numpy as np
import torch

import tinymaml as tm
from tinymaml.oracle import models

from .. import in_numpy as npy
from .. import in_torch as pt
from ..entries import correct, wrong

# Honest pieces.


def rates_apart(params):
    """(θ, α) of Meta-SGD and MAML++"""
    theta = {n: p for n, p in params.items() if not n.startswith("alpha.")}
    return theta, {n: params[f"alpha.{n}"] for n in theta if f"alpha.{n}" in params}


def moved(params, grads, rate):
    """The parameters, of which those with a gradient have taken a step."""
    return {
        n: p - (rate[n] if isinstance(rate, dict) else rate) * grads[n] if n in grads else p for n, p in params.items()
    }


def partly(loss, params, names, batch):
    """PyTorch: the gradient by the named parameters, with its graph."""
    return pt.grads_of(loss(params, *batch), {n: params[n] for n in names})


def partly_np(loss, params, names, batch):
    """NumPy: the gradient by the named parameters."""
    return tm.grad(lambda part: loss({**params, **part}, *batch))({n: params[n] for n in names})


def added(a, b, factor=1.0):
    """a + factor b"""
    return {n: a[n] + factor * b[n] for n in a}


def by_hand(case, one):
    """PyTorch: the means over tasks of one(loss, θ, support, query) → (loss, gradient)."""
    loss, params, tasks = pt.given(case)
    values, grads = zip(*(one(loss, params, s, q) for s, q in tasks), strict=True)
    return {
        "meta_grad": {n: sum(g[n].detach() for g in grads) / len(grads) for n in params},
        "meta_loss": sum(values).detach() / len(values),
    }


def conjugate_gradients(product, b, steps):
    """x with product(x) = b, from x = 0."""
    x, r = {n: 0 * p for n, p in b.items()}, dict(b)
    d, rr = dict(r), npy.dot(r, r)
    for _ in range(steps):
        if float(rr) < 1e-60:
            break
        a_d = product(d)
        length = rr / npy.dot(d, a_d)
        x, r = added(x, d, length), added(r, a_d, -length)
        rr, before = npy.dot(r, r), rr
        d = added(r, d, rr / before)
    return x


def box(x):
    """The magic box: 1, with the derivative of x."""
    return torch.exp(x - x.detach())


def episode(y):
    """(rewards, alive, baselines) of shape (N, H), with zeros after the end."""
    return y[..., 1] * y[..., 2], y[..., 2], y[..., 3] * y[..., 2]


def weights_of(gamma, like):
    """γᵗ, (H)"""
    return gamma ** torch.arange(like.shape[1], dtype=like.dtype)


def advantages(y, gamma):
    """Σ_{u≥t} γ^{u−t} r_u − b_t, 0 after the end."""
    r, alive, b = episode(y)
    after, total = [], torch.zeros_like(r[:, 0])
    for t in reversed(range(r.shape[1])):
        total = r[:, t] + gamma * total
        after.insert(0, total)
    return (torch.stack(after, 1) - b) * alive


def surrogate_terms(settings, log_p, y):
    """What S sums over the steps of each trajectory, (N, H)."""
    (r, alive, b), gamma, kind = episode(y), settings["discount"], settings["surrogate"]
    log_p = log_p * alive
    if kind == "dice":
        terms = r * box(torch.cumsum(log_p, 1)) + (1 - box(log_p)) * b
    elif kind == "loaded-dice":
        w, terms = torch.zeros_like(log_p[:, 0]), []
        for t in range(log_p.shape[1]):
            before = settings["decay"] * w
            w = before + log_p[:, t]
            terms.append(box(w) - box(before))
        terms = torch.stack(terms, 1) * advantages(y, gamma)
    elif kind == "lvc":
        terms = box(log_p) * advantages(y, gamma)
    else:
        terms = log_p * advantages(y, gamma)
    return terms * weights_of(gamma, log_p)


def surrogate(settings, log_p, y):
    """S"""
    return surrogate_terms(settings, log_p, y).sum(1).mean()


def exploration(settings, log_ps, y):
    """E-MAML's term: the sum of the support's log π, times the query's return."""
    r, _, _ = episode(y)
    return sum(log_ps) * (r * weights_of(settings["discount"], r)).sum(1).mean().detach()


# Meta-SGD


@wrong(
    "The learned rates are clamped at 0 before the step: where alpha is negative the inner step does not move, and the "
    "gradient of that element of alpha is 0.",
    r"(?s)clamp|clip|relu|negative|sign of (the )?(α|alpha|rate)|positive|non.?neg|max\(|below (0|zero)|"
    r"less than (0|zero)|[<≥>] ?0\b",
    algorithm="meta-sgd",
)
def rates_kept_positive(case):
    def one(loss, params, support, query):
        theta, alpha = rates_apart(params)
        for _ in range(case.inner_steps):
            grads = partly(loss, theta, theta, support)
            theta = moved(theta, grads, {n: a.clamp(min=0.0) for n, a in alpha.items()})
        return loss(theta, *query)

    return pt.over_tasks(case, one)


@wrong(
    "The gradient of alpha is that of the first inner step alone: going back through the steps, each overwrites the "
    "one before, where the sum over all K steps is wanted.",
    r"(?s)(?=.*(α|alpha|rate))(?=.*(overwrit|accumulat|replac|not (added|summed)|sum(med)? (over|of) (all |the |K |"
    r"inner )*steps|"
    r"(only|alone|just).{0,60}(step|k ?= ?0|θ₀|θ_?0)|(first|last|one|single) (inner )?step|k ?= ?0|"
    r"step.{0,40}(only|alone|lost|missing|left out|dropped)|(later|other|earlier|K ?[-−] ?1) (inner )?steps))",
    tells_loss=False,
    algorithm="meta-sgd",
)
def rates_of_the_way_back(case):
    def one(loss, params, support, query):
        theta, alpha = rates_apart(params)
        thetas, grads = [theta], []
        for _ in range(case.inner_steps):
            grads.append(tm.grad(loss)(thetas[-1], *support))
            thetas.append(moved(thetas[-1], grads[-1], alpha))
        value, v = tm.value_and_grad(loss)(thetas[-1], *query)
        for k in reversed(range(case.inner_steps)):
            d_alpha = {n: -grads[k][n] * v[n] for n in v}
            v = added(v, npy.hvp(loss, thetas[k], support, {n: alpha[n] * v[n] for n in v}), -1)
        return value, {**v, **{f"alpha.{n}": d for n, d in d_alpha.items()}}

    return npy.by_hand(case, one)


@wrong(
    "Two mistakes: the Hessian product is multiplied by alpha after it is taken (A H v in place of H A v), and alpha's "
    "gradient of step k takes the cotangent after it has gone through that step (that of theta_k, not theta_{k+1}).",
    r"(?s)\bA ?[·∘*]? ?H\b|α ?[∘·*]? ?\(?H|(wrong|revers\w*|swapp\w*|other|opposite) order|order of (the )?(prod|"
    r"fact|H\b|A\b|α)|commut|"
    r"transpos|\bH ?·? ?A\b|H ?\(α|H ?\(A|after the (Hessian|product)|outside|rate.{0,60}(wrong|other) side|"
    r"before the Hessian|"
    r"(left|right).{0,40}Hessian|Hessian.{0,40}(left|right|first)|inside the (Hessian|product)",
    r"(?s)(?=.*(α|alpha|rate))(?=.*(cotangent|adjoint|already|one step|off by one|shift|v_?\{?k|vₖ|after (the|it|v|"
    r"going)|"
    r"(wrong|other|stale|updated|new|next|previous|later|earlier).{0,20}(v\b|vector|step|k\b)))",
    tells_loss=False,
    algorithm="meta-sgd",
)
def rates_by_recursion(case):
    def one(loss, params, support, query):
        theta, alpha = rates_apart(params)
        thetas, grads = [theta], []
        for _ in range(case.inner_steps):
            grads.append(tm.grad(loss)(thetas[-1], *support))
            thetas.append(moved(thetas[-1], grads[-1], alpha))
        value, v = tm.value_and_grad(loss)(thetas[-1], *query)
        d_alpha = {n: np.zeros_like(a) for n, a in alpha.items()}
        for k in reversed(range(case.inner_steps)):
            product = npy.hvp(loss, thetas[k], support, v)
            v = {n: v[n] - alpha[n] * product[n] for n in v}
            d_alpha = {n: d - grads[k][n] * v[n] for n, d in d_alpha.items()}
        return value, {**v, **{f"alpha.{n}": d for n, d in d_alpha.items()}}

    return npy.by_hand(case, one)


# ANIL


@wrong(
    "From the second inner step on the body is detached: its gradient through the support's features has the first "
    "step's share only.",
    r"(?s)(?=.*(body|feature|backbone|trunk|encoder|\bb\b|w1|not adapt))"
    r"(?=.*(detach|constant|frozen|freez|held|stop|no deriv|cut|block|cach|missing|left out|only|without|"
    r"not differentiat))"
    r"(?=.*(first|later|second (inner )?step|after|k ?[>≥]|k ?= ?[01]|from step|subsequent|truncat|one step|"
    r"other steps))",
    algorithm="anil",
)
def features_once(case):
    def one(loss, params, support, query):
        body = {n: p for n, p in params.items() if n not in case.adapt}
        head = {n: params[n] for n in case.adapt}
        for _ in range(case.inner_steps):
            head = moved(head, pt.grads_of(loss({**body, **head}, *support), head), case.inner_lr)
            body = {n: p.detach() for n, p in body.items()}
        return loss({**params, **head}, *query)

    return pt.over_tasks(case, one)


@wrong(
    "Only the head's weight matrix is adapted; its bias stays where it is in the inner loop.",
    r"(?s)bias|b[23]\b|b_[23]|offset|only (the )?(head'?s )?(weight|matri|w)|part of the head|not all.{0,30}head|"
    r"tensors?.{0,40}(not adapt|left out|stay)",
    tells_loss=False,
    algorithm="anil",
)
def head_by_its_prefix(case):
    def one(loss, params, support, query):
        last = max(n[1:] for n in params)
        for _ in range(case.inner_steps):
            params = moved(params, partly(loss, params, [f"w{last}"], support), case.inner_lr)
        return loss(params, *query)

    return pt.over_tasks(case, one)


@wrong(
    "The mixed second derivative, through which the body acts on the adapted head, is taken at the adapted head h_K in "
    "every step, and not at h_k, where the step was taken.",
    r"(?s)(?=.*(mixed|cross|body|\bb\b|H_?b|indirect|Hessian|second.?(order|deriv)|curvature))"
    r"(?=.*(θ_?K|h_?K|adapted|final|end of|last|wrong (point|place|param)|other point|after the (inner )?(loop|"
    r"step)|evaluat))",
    tells_loss=False,
    algorithm="anil",
)
def mixed_term_by_hand(case):
    def one(loss, params, support, query):
        thetas = [params]
        for _ in range(case.inner_steps):
            thetas.append(moved(thetas[-1], partly_np(loss, thetas[-1], case.adapt, support), case.inner_lr))
        value, grads = tm.value_and_grad(loss)(thetas[-1], *query)
        for k in reversed(range(case.inner_steps)):
            v = {n: g if n in case.adapt else np.zeros_like(g) for n, g in grads.items()}
            of_head = npy.hvp(loss, thetas[k], support, v)
            of_body = npy.hvp(loss, thetas[-1], support, v)
            grads = {n: g - case.inner_lr * (of_head if n in case.adapt else of_body)[n] for n, g in grads.items()}
        return value, grads

    return npy.by_hand(case, one)


# BOIL


@wrong(
    "The tensors of the body are updated one after another, each with a gradient taken at the already updated others, "
    "in place of all at once with the gradient at theta_k.",
    r"(?s)after the (previous|first|other|earlier) .{0,40}(moved|updated|adapted|step)|previous(ly)? (updated|"
    r"tensor|layer)|in sequence|"
    r"one after (the )?(an)?other|one (by|at a) |sequential|in turn|gauss|seidel|coordinate|alternat|in-place|"
    r"inplace|simultan|"
    r"at once|at the same time|already (been )?(updat|mov|step|adapt)|(tensor|layer|parameter|block).?(by|wise)|"
    r"interleav|partially|"
    r"(updated|new|moved) (others|tensors|values|layers)",
    algorithm="boil",
)
def body_layer_by_layer(case):
    def one(loss, params, support, query):
        for _ in range(case.inner_steps):
            for name in case.adapt:
                params = moved(params, partly(loss, params, [name], support), case.inner_lr)
        return loss(params, *query)

    return pt.over_tasks(case, one)


@wrong(
    "The head's gradient through the adapted body has the wrong sign: + alpha H_hb v where - alpha H_hb v is right.",
    r"(?s)(?=.*(head|\bh\b|mixed|cross|indirect|not adapt|non.?adapt|H_?h|through))(?=.*(sign|negat|\+ ?α|"
    r"\+ (instead|in place|rather)|plus|opposite|added|"
    r"subtract|twice|revers|flip))",
    tells_loss=False,
    algorithm="boil",
)
def head_through_the_body(case):
    def one(loss, params, support, query):
        thetas = [params]
        for _ in range(case.inner_steps):
            thetas.append(moved(thetas[-1], partly_np(loss, thetas[-1], case.adapt, support), case.inner_lr))
        value, grads = tm.value_and_grad(loss)(thetas[-1], *query)
        for k in reversed(range(case.inner_steps)):
            v = {n: g if n in case.adapt else np.zeros_like(g) for n, g in grads.items()}
            product = npy.hvp(loss, thetas[k], support, v)
            for n in grads:
                if n in case.adapt:
                    grads[n] = grads[n] - case.inner_lr * product[n]
                else:
                    grads[n] = grads[n] + case.inner_lr * product[n]
        return value, grads

    return npy.by_hand(case, one)


# CAVIA


@wrong(
    "Every example of the support has a context of its own, adapted to it alone with the rate over N; their mean is "
    "given to the query. One context for the task is wanted, with the gradient of all examples.",
    r"(?s)per.?(example|sample)|(each|every|own|separate|individual)\b.{0,40}\b(example|sample|data point|"
    r"row of the (support|batch))|"
    r"(example|sample|row)s?\b.{0,60}\b(own|separate|individual|apart)|1 ?/ ?N\b|\bN_s|α ?/ ?N|divided by (N\b|"
    r"the number of (support )?(ex|sa|sh))|"
    r"mean (over|of) (the )?(rows|examples|samples|contexts)|N times (too )?small",
    algorithm="cavia",
)
def context_of_rows(case):
    class Rows(models.NumPy):
        def context(self, x, phi):
            return np.concatenate([x, np.broadcast_to(phi, (x.shape[0], phi.shape[-1]))], -1)

    def one(loss, params, support, query):
        phi = np.zeros((support[0].shape[0], case.settings["context"]))
        for _ in range(case.inner_steps):
            phi = phi - case.inner_lr * tm.grad(lambda c: loss({**params, "context": c}, *support))(phi)
        return loss({**params, "context": np.mean(phi, 0)}, *query)

    return npy.over_tasks(case, one, Rows())


@wrong(
    "The context is put in front of the input, so that it meets the first rows of the weight matrix, where it should "
    "be behind it.",
    r"(?s)in front|before (the )?(input|x\b)|prepend|first (rows|inputs|columns|features)|ahead of|behind|\[(φ|"
    r"phi),? ?x\]|"
    r"order of (the )?(concat|input|context|φ)|(wrong|swapp\w*|revers\w*) order|wrong (side|end|place|position|"
    r"column|row|weight)|swap|preced|"
    r"order in which",
    tells_loss=False,
    algorithm="cavia",
)
def context_leads(case):
    class Leading(models.Torch):
        def context(self, x, phi):
            return torch.cat([phi.expand(x.shape[0], -1), x], dim=1)

    def one(loss, params, support, query):
        phi = torch.zeros(case.settings["context"], dtype=support[0].dtype, requires_grad=True)
        for _ in range(case.inner_steps):
            value = loss({**params, "context": phi}, *support)
            phi = phi - case.inner_lr * torch.autograd.grad(value, phi, create_graph=True)[0]
        return loss({**params, "context": phi}, *query)

    return pt.over_tasks(case, one, Leading())


@wrong(
    "Two mistakes: the context is detached before every inner step, so that the derivative goes back through the last "
    "step only; and the tasks' losses are summed, not averaged.",
    r"(?s)detach|truncat|last (inner )?step|stop.?grad|one (inner )?step|single step|earlier (inner )?steps|"
    r"first steps|cut|constant|leaf|"
    r"first.?order in|φ_?\{?K ?[-−] ?1|re.?wrap",
    r"(?s)summed|\bsums?\b|not (averaged|divided)|times T|factor (of )?T|T times|number of tasks|1 ?/ ?T|(instead|"
    r"place) of (the|a|their)? ?(mean|average)|"
    r"total",
    algorithm="cavia",
)
def context_anew(case):
    loss, params, tasks = pt.given(case)
    total = 0.0
    for support, query in tasks:
        phi = torch.zeros(case.settings["context"], dtype=support[0].dtype)
        for _ in range(case.inner_steps):
            phi = phi.detach().requires_grad_()
            value = loss({**params, "context": phi}, *support)
            phi = phi - case.inner_lr * torch.autograd.grad(value, phi, create_graph=True)[0]
        total = total + loss({**params, "context": phi}, *query)
    return pt.answer(total, params)


# MAML++


def rows(params, k):
    """Batch norm's γ and β of step k, if there are any."""
    return {n: params[n][k] for n in ("gamma", "beta") if n in params}


@wrong(
    "The query loss takes batch norm's gamma and beta one row too early (row k - 2 for theta_k; -1 wraps around to the "
    "last one): the row of the step before, where that of the step which made theta_k is right.",
    r"(?s)(?=.*(γ|gamma|beta|β|batch.?norm|\bbn\b|\brow|per.?step))"
    r"(?=.*(\brows?\b.{0,60}(wrong|early|before|previous|other|last|first|late|next)|(wrong|previous|other|earlier|"
    r"last|next) (row|step)|"
    r"index|off by one|shift|one (row |step )?(too )?(early|behind|late|ahead|far)|k ?[-−] ?[12]|wrap|\[-1\]|₋))",
    algorithm="mamlpp",
)
def query_with_another_row(case):
    def one(loss, params, support, query):
        fast, alpha = rates_apart(params)
        total = 0.0
        for k, weight in enumerate(case.settings["loss_weights"]):
            grads = partly(loss, {**fast, **rows(params, k)}, case.adapt, support)
            fast = moved(fast, grads, {n: a[k] for n, a in alpha.items()})
            total = total + weight * loss({**fast, **rows(params, k - 1)}, *query)
        return total

    return pt.over_tasks(case, one)


@wrong(
    "The query loss of each step is taken before the step in place of after it: w_k multiplies L_q(theta_{k-1}), "
    "theta_0's loss is in the sum, and that of theta_K is not.",
    r"(?s)(?=.*(query|weight|w_?k|wₖ|L_?q|loss))(?=.*(before (the|its|each|taking|it)|θ_?₀|θ_?0|theta_?0|unadapted|"
    r"θ_?K\b.{0,40}(not|missing|left)|"
    r"off by one|shift|k ?[-−] ?1|one step (too )?(early|late|behind)|pre.?(step|update)|after (the|its|each) (step|"
    r"update)|θₖ₋₁|lag))",
    algorithm="mamlpp",
)
def losses_on_the_way(case):
    def one(loss, params, support, query):
        fast, alpha = rates_apart(params)
        total = 0.0
        for k, weight in enumerate(case.settings["loss_weights"]):
            at = {**fast, **rows(params, k)}
            total = total + weight * loss(at, *query)
            fast = moved(fast, partly_np(loss, at, case.adapt, support), {n: a[k] for n, a in alpha.items()})
        return total

    return npy.over_tasks(case, one)


@wrong(
    "Two mistakes: every step's loss has the weight 1/K, as in the authors' first epoch, in place of loss_weights; and "
    "the rates are detached in the step, so that alpha has the gradient 0.",
    r"(?s)averaged? (over|of|across) (the )?(inner |K )*steps|of (the|all) (inner )?steps (is|are) averaged|"
    r"plain (mean|average)|"
    r"uniform|equal (weight|share)|equally|all (the )?same|1 ?/ ?K|same weight|loss.?weight|unweighted|(mean|"
    r"average) (over|of) (the )?(K |inner |query )*(step|loss)|"
    r"w_?k|wₖ|weights? (are|is) (not|ignor)|anneal|first epoch",
    r"(?s)(?=.*(α|alpha|rate))(?=.*(detach|zero|\b0\b|not learn|constant|no (gradient|deriv)|missing|stop|frozen|"
    r"buffer|not differentiat))",
    algorithm="mamlpp",
)
def first_epoch_of_training(case):
    def one(loss, params, support, query):
        fast, alpha = rates_apart(params)
        losses = []
        for k in range(case.inner_steps):
            grads = partly(loss, {**fast, **rows(params, k)}, case.adapt, support)
            fast = moved(fast, grads, {n: a[k].item() for n, a in alpha.items()})
            losses.append(loss({**fast, **rows(params, k)}, *query))
        return torch.stack(losses).mean()

    return pt.over_tasks(case, one)


# iMAML


def pulled(case, loss, params, support):
    """φ_K, a constant, in PyTorch."""
    phi = params
    for _ in range(case.inner_steps):
        phi = pt.leaves(phi)
        grads = pt.grads_of(loss(phi, *support), phi, create_graph=False)
        phi = {
            n: p - case.inner_lr * (grads[n] + case.settings["strength"] * (p - params[n])).detach()
            for n, p in phi.items()
        }
    return pt.leaves(phi)


def pulled_np(case, loss, params, support):
    """φ_K in NumPy."""
    phi = params
    for _ in range(case.inner_steps):
        grads = tm.grad(loss)(phi, *support)
        phi = moved(phi, added(grads, added(phi, params, -1), case.settings["strength"]), case.inner_lr)
    return phi


@wrong(
    "Conjugate gradients start at x = g_q, but with the residual of x = 0 (r = g_q, not g_q - A g_q): the solution has "
    "g_q on top.",
    r"(?s)residual|x_?0|x₀|initial.{0,20}(guess|x\b|vector|value|search)|start.{0,20}(x\b|guess|vector|g_?q|from g|"
    r"at g)|guess|warm|"
    r"g_?q.{0,30}(added|on top|too much|once more|extra|twice)|\+ ?g_?q|plus.{0,30}(g_?q|query)|add(ed|s|"
    r"ing)?.{0,30}(g_?q|query)|"
    r"(query )?gradient (itself )?(is )?(added|on top|once more)|I ?\+ ?\(|identity",
    algorithm="imaml",
)
def solver_with_a_guess(case):
    strength = case.settings["strength"]

    def one(loss, params, support, query):
        phi = pulled(case, loss, params, support)
        value = loss(phi, *query)
        b = pt.grads_of(value, phi, create_graph=False)
        x, r = dict(b), dict(b)
        d, rr = dict(r), pt.dot(r, r)
        for _ in range(2 * pt.flatten(b).numel()):
            if rr < 1e-40:
                break
            a_d = added(d, pt.hvp(loss, phi, support, d), 1 / strength)
            length = rr / pt.dot(d, a_d)
            x, r = added(x, d, length), added(r, a_d, -length)
            rr, before = pt.dot(r, r), rr
            d = added(r, d, rr / before)
        return value, x

    return by_hand(case, one)


@wrong(
    "The Hessian is that of the regularised inner loss, which has lambda in it already, and I is added once more: "
    "lambda (H + 2 lambda I)^-1 g_q.",
    r"(?s)2 ?·?\*? ?λ|2 ?lambda|2 ?I\b|λ.{0,30}(twice|again|already|doubl)|twice|doubl(ed|y|e λ|e pull|e damp|"
    r"e count)|regulari[sz]|counted|"
    r"pull.{0,40}Hessian|Hessian.{0,40}(pull|whole inner|inner (loss|objective|problem))|penalt|proximal term|"
    r"once more|damp",
    tells_loss=False,
    algorithm="imaml",
)
def hessian_of_the_inner_problem(case):
    strength = case.settings["strength"]

    def one(loss, params, support, query):
        phi = pulled_np(case, loss, params, support)
        value, b = tm.value_and_grad(loss)(phi, *query)

        def inner(p, x, y):
            away = added(p, params, -1)
            return loss(p, x, y) + strength / 2 * npy.dot(away, away)

        def product(v):
            return added(v, npy.hvp(inner, phi, support, v), 1 / strength)

        return value, conjugate_gradients(product, b, 12)

    return npy.by_hand(case, one)


@wrong(
    "Two mistakes: the Hessian of the system is that of the query loss, not of the support loss; and the inner loop "
    "has no pull to theta, as it is measured from the current point.",
    r"(?s)(Hessian|curvature|\bH\b).{0,30}L_?q|∇²_?L_?q|"
    r"(Hessian|curvature|second deriv\w*|system|matrix|\bH\b).{0,40}query|query.{0,40}(Hessian|curvature|"
    r"second deriv|system|matrix)|"
    r"H_?q|∇²L_?q|wrong (set|batch|loss).{0,40}Hessian",
    r"(?s)pull|proximal|regulari[sz]|penalt|λ ?\(φ|anchor|strength|without λ|plain (gradient|SGD)|φ ?[-−] ?θ",
    algorithm="imaml",
)
def system_of_the_query(case):
    strength = case.settings["strength"]

    def one(loss, params, support, query):
        for _ in range(case.inner_steps):
            anchor = params
            pull = {n: strength * (p - anchor[n]) for n, p in params.items()}
            params = moved(params, added(tm.grad(loss)(params, *support), pull), case.inner_lr)
        value, b = tm.value_and_grad(loss)(params, *query)

        def product(v):
            return added(v, npy.hvp(loss, params, query, v), 1 / strength)

        return value, conjugate_gradients(product, b, 12)

    return npy.by_hand(case, one)


# Reptile


@wrong(
    "The inner steps are taken on the union of support and query, as in Reptile's paper, which has no split: only the "
    "support set belongs to them.",
    r"(?s)union|both sets|(support|query).{0,30}(and|with|\+|∪).{0,30}(query|support)|query.{0,60}(inner|step|concat|"
    r"includ|used|also|too)|"
    r"concat|pooled|all (the )?(examples|data)|merged|combined|whole task",
    tells_loss=False,
    algorithm="reptile",
)
def no_split(case):
    def one(loss, params, support, query):
        batch = tuple(torch.cat(pair) for pair in zip(support, query, strict=True))
        end = pt.path(case, loss, params, batch)[-1]
        return loss(end, *query), added(params, end, -1)

    return by_hand(case, one)


@wrong(
    "Every inner step takes one example of the support, the next in turn, in place of the whole support set.",
    r"(?s)mini.?batch|one (support )?example|single (support )?(example|sample|shot)|one (sample|shot)|stochastic|"
    r"in turn|example k|"
    r"k.?th (support )?example|subset|(part|slice|some) of the (support|batch)|whole support|full (support|batch)|"
    r"cycl|x\[k|"
    r"not (all|the whole|the full)|batch size",
    tells_loss=False,
    algorithm="reptile",
)
def shots_in_turn(case):
    def one(loss, params, support, query):
        fast, shots = params, len(support[0])
        for k in range(case.inner_steps):
            i = k % shots
            fast = moved(fast, tm.grad(loss)(fast, support[0][i : i + 1], support[1][i : i + 1]), case.inner_lr)
        return loss(fast, *query), added(params, fast, -1)

    return npy.by_hand(case, one)


@wrong(
    "Two mistakes: a task starts where the one before it ended, not at theta (its difference is taken from there); and "
    "the difference is divided by the inner rate.",
    r"(?s)previous task|task before|one before|where.{0,60}(ended|stopped|left)|carr|not (reset|restor|restart)|reset|"
    r"restart|start.{0,60}(task|θ)|leak|state|from θ anew|sequential|chain|"
    r"(second|later|other|next) tasks?|accumulat",
    r"(?s)divided by (the )?(inner |α|alpha|rate|learning)|1 ?/ ?α|/ ?α|/ ?alpha|without (the )?(α|rate|inner)|"
    r"sum of (the )?(inner )?gradients|"
    r"factor.{0,20}(α|alpha|inner|rate)|missing (α|rate)|not multiplied|scal.{0,40}(α|rate|inner)|inner.?(lr|rate)",
    tells_loss=False,
    algorithm="reptile",
)
def one_task_after_the_other(case):
    loss, params, tasks = pt.given(case)
    fast, total = pt.leaves(params), {n: torch.zeros_like(p) for n, p in params.items()}
    for support, _ in tasks:
        start = fast
        fast = pt.path(case, loss, fast, support)[-1]
        total = {n: t + (start[n] - fast[n]).detach() / case.inner_lr for n, t in total.items()}
    return {"meta_grad": {n: t / len(tasks) for n, t in total.items()}}


# HF-MAML


@wrong(
    "The displacement is normalised tensor by tensor: each parameter has its own epsilon = delta/||v_n||, where one "
    "norm over all parameters is wanted.",
    r"(?s)per.?(tensor|param|layer|array|leaf)|(tensor|layer|param\w*|array).?(by|wise).?(tensor|layer|param\w*|"
    r"array)?|"
    r"(each|every|own|separate|individual).{0,60}(norm|ε|eps|length|displac|param|tensor)|norm.{0,60}(each|separate|"
    r"own|all parameters|together|global|joint)",
    algorithm="hessian-free",
)
def lengths_of_tensors(case):
    delta = case.settings["delta"]

    def one(loss, params, support, query):
        thetas = npy.path(case, loss, params, support)
        value, v = tm.value_and_grad(loss)(thetas[-1], *query)
        for theta in reversed(thetas[:-1]):
            eps = {n: delta / np.linalg.norm(g) for n, g in v.items()}
            ahead = tm.grad(loss)({n: p + eps[n] * v[n] for n, p in theta.items()}, *support)
            behind = tm.grad(loss)({n: p - eps[n] * v[n] for n, p in theta.items()}, *support)
            v = {n: v[n] - case.inner_lr * (ahead[n] - behind[n]) / (2 * eps[n]) for n in v}
        return value, v

    return npy.by_hand(case, one)


@wrong(
    "epsilon = delta/||v|| is computed once, from g_q(theta_K), and kept for all steps; it should be new in every "
    "step, of the v at hand.",
    r"(?s)(?=.*(ε|eps|norm|length|‖v‖|displac|delta|δ))(?=.*(once|kept|same|stale|not (re)?(comput|new|updat|renew)|"
    r"recomput|renew|"
    r"initial|first v|‖g_?q|norm of g_?q|of g_?q\b|hoist|v at hand|constant|fixed|not.{0,30}(each|every) step))",
    algorithm="hessian-free",
)
def length_once(case):
    def one(loss, params, support, query):
        thetas = pt.path(case, loss, params, support)
        value = loss(thetas[-1], *query)
        v = pt.grads_of(value, thetas[-1], create_graph=False)
        eps = case.settings["delta"] / pt.dot(v, v).sqrt()

        def support_grads(at):
            at = pt.leaves(at)
            return pt.grads_of(loss(at, *support), at, create_graph=False)

        for theta in reversed(thetas[:-1]):
            ahead, behind = support_grads(added(theta, v, eps)), support_grads(added(theta, v, -eps))
            v = {n: v[n] - case.inner_lr * (ahead[n] - behind[n]) / (2 * eps) for n in v}
        return value, v

    return by_hand(case, one)


@wrong(
    "The factors are applied in the order of the steps, k = 0 first, where going back begins with k = K - 1.",
    r"(?s)(wrong|revers\w*|other|opposite) (order|direction)|order of|in (the |their )?order|order in which|ascend|"
    r"descend|revers|k ?= ?0|"
    r"forward (order|direction|through|in)|first step first|going back|K ?[-−] ?1|from the (first|front|beginning)|"
    r"transpos|inner steps' order",
    tells_loss=False,
    algorithm="hessian-free",
)
def steps_in_order(case):
    def one(loss, params, support, query):
        thetas = npy.path(case, loss, params, support)
        value, v = tm.value_and_grad(loss)(thetas[-1], *query)
        for k in range(case.inner_steps):
            eps = case.settings["delta"] / np.sqrt(npy.dot(v, v))
            ahead = tm.grad(loss)(added(thetas[k], v, eps), *support)
            behind = tm.grad(loss)(added(thetas[k], v, -eps), *support)
            v = added(v, added(ahead, behind, -1), -case.inner_lr / (2 * eps))
        return value, v

    return npy.by_hand(case, one)


# Momentum


@wrong(
    "Dampening, as PyTorch has it: the first buffer is the gradient itself, later ones take (1 - mu) of the new "
    "gradient.",
    r"(?s)damp|1 ?[-−] ?(μ|mu|momentum)|exponential|moving average|\bEMA\b|running average|scaled gradient|convex|"
    r"weighted average",
    algorithm="inner-momentum",
)
def buffer_of_the_library(case):
    mu = case.settings["momentum"]

    def one(loss, params, support, query):
        buffer = None
        for _ in range(case.inner_steps):
            grads = partly(loss, params, params, support)
            buffer = grads if buffer is None else {n: mu * buffer[n] + (1 - mu) * g for n, g in grads.items()}
            params = moved(params, buffer, case.inner_lr)
        return loss(params, *query)

    return pt.over_tasks(case, one)


@wrong(
    "The parameters take the step before the buffer takes the gradient: theta moves by the old m_k, so that the first "
    "step does not move at all and the last gradient is never used.",
    r"(?s)(moved|step|updated) (is )?(taken )?before (the )?(buffer|momentum|velocity)|(buffer|momentum|"
    r"velocity).{0,20} behind|one step behind|"
    r"(\bold\b|stale|previous|last|former|delay|lag).{0,40}(buffer|momentum|m_?k|mₖ|\bm\b|velocity)|"
    r"(buffer|momentum|velocity|\bm\b).{0,60}(\bold\b|stale|previous|before (it|the|adding)|late\b|lag|delay|"
    r"not yet)|one step (too )?late|"
    r"(m_?k|mₖ),? (in place|instead|where|rather|not)|first (inner )?step.{0,40}(not|\bno\b|zero|\b0\b|nothing|"
    r"lost)|off by one|"
    r"one step (too )?(few|less)|last gradient|(moves|steps?|updated) before",
    tells_loss=False,
    algorithm="inner-momentum",
)
def buffer_is_late(case):
    def one(loss, params, support, query):
        buffer = {n: np.zeros_like(np.asarray(p)) for n, p in case.numpy()[1].items()}
        for _ in range(case.inner_steps):
            grads = tm.grad(loss)(params, *support)
            params = moved(params, buffer, case.inner_lr)
            buffer = added(grads, buffer, case.settings["momentum"])
        return loss(params, *query)

    return npy.over_tasks(case, one)


@wrong(
    "Momentum is written as mu (theta_k - theta_{k-1}), and the remembered theta_{k-1} is detached: its derivative is "
    "missing in that difference.",
    r"(?s)(?=.*(θ_?\{?k ?[-−] ?1|θₖ₋₁|theta_\{?k ?- ?1|(previous|last|old|former|earlier) (θ|param|point|iterate|"
    r"theta|weight|step)|remember|displac|"
    r"differen(ce|t point)|heavy.?ball|θ_?k ?[-−]))"
    r"(?=.*(detach|constant|stop|no deriv|not differentiat|no_grad|without (a )?(graph|deriv)|deriv\w* (is |"
    r"of .{0,40})?(missing|left out|lost)|held|cut))",
    algorithm="inner-momentum",
)
def heavy_ball(case):
    def one(loss, params, support, query):
        before = params
        for _ in range(case.inner_steps):
            grads = partly(loss, params, params, support)
            remembered = {n: p.detach() for n, p in before.items()}
            before, params = (
                params,
                {
                    n: p - case.inner_lr * grads[n] + case.settings["momentum"] * (p - remembered[n])
                    for n, p in params.items()
                },
            )
        return loss(params, *query)

    return pt.over_tasks(case, one)


# Adam


@wrong(
    "The step count t of the bias corrections runs on from task to task, while the moments are new: only the first "
    "task is corrected rightly.",
    r"(?s)(?=.*(\bt\b|count|bias.?correct|step number|correction|1 ?[-−] ?β))"
    r"(?=.*(task|reset|restart|carr|runs? on|contin|persist|across|state))",
    algorithm="inner-adam",
)
def counter_of_the_optimiser(case):
    b1, b2 = case.settings["beta1"], case.settings["beta2"]
    count = 0

    def one(loss, params, support, query):
        nonlocal count
        m = {n: torch.zeros_like(p) for n, p in params.items()}
        v = {n: torch.zeros_like(p) for n, p in params.items()}
        for _ in range(case.inner_steps):
            count += 1
            grads = partly(loss, params, params, support)
            m = {n: b1 * m[n] + (1 - b1) * g for n, g in grads.items()}
            v = {n: b2 * v[n] + (1 - b2) * g * g for n, g in grads.items()}
            roots = {n: (v[n] / (1 - b2**count) + case.settings["eps_root"]).sqrt() for n in v}
            params = moved(
                params, {n: m[n] / (1 - b1**count) / (roots[n] + case.settings["eps"]) for n in m}, case.inner_lr
            )
        return loss(params, *query)

    return pt.over_tasks(case, one)


@wrong(
    "The corrections are folded into the rate, as in TensorFlow (epsilon hat): the epsilons are added to the "
    "uncorrected v and its root, and so count 1/sqrt(1 - beta2^t) times as much as they should.",
    r"(?s)√v rather|√v,? not|√v instead|√v in place|(ε|eps\w*).{0,60}(√v\b|sqrt\(v\)|\bv\b (rather|instead|in place|"
    r"before))|"
    r"tensorflow|keras|ε.?hat|eps\w*.?hat|epsilon hat|fold|"
    r"(ε|eps\w*).{0,100}(uncorrect|before|not correct|biased|scal|√\(1|sqrt\(1|larger|divid|raw)|"
    r"(uncorrect|before the (bias )?correct|raw|biased|rate).{0,100}(ε|eps)|√\(1 ?[-−] ?β|sqrt\(1 ?- ?b",
    tells_loss=False,
    algorithm="inner-adam",
)
def corrected_rate(case):
    b1, b2 = case.settings["beta1"], case.settings["beta2"]

    def one(loss, params, support, query):
        m = v = {n: 0.0 for n in params}
        for t in range(1, case.inner_steps + 1):
            rate = case.inner_lr * np.sqrt(1 - b2**t) / (1 - b1**t)
            grads = tm.grad(loss)(params, *support)
            m = {n: b1 * m[n] + (1 - b1) * g for n, g in grads.items()}
            v = {n: b2 * v[n] + (1 - b2) * g * g for n, g in grads.items()}
            params = {
                n: p - rate * m[n] / (np.sqrt(v[n] + case.settings["eps_root"]) + case.settings["eps"])
                for n, p in params.items()
            }
        return loss(params, *query)

    return npy.over_tasks(case, one)


@wrong(
    "Two mistakes: the second moment averages the square of m, not of the gradient; and m is not corrected for its "
    "bias (v is).",
    r"(?s)m²|m\^2|m \* ?m|m\*\*2|square.{0,40}(\bm\b|first moment|momentum|average)|"
    r"(second moment|\bv\b).{0,80}(\bm\b|first moment|momentum|average)|not (of )?the (raw )?gradient|"
    r"in place of the gradient|"
    r"instead of (g\b|the gradient|g²)",
    r"(?s)(?=.*(bias|correction|uncorrected|not corrected|1 ?[-−] ?β|m̂|m.?hat))(?=.*(first moment|\bm\b|m̂|"
    r"momentum|β₁|β_?1|beta1))",
    tells_loss=False,
    algorithm="inner-adam",
)
def moments_of_moments(case):
    b1, b2 = case.settings["beta1"], case.settings["beta2"]

    def one(loss, params, support, query):
        m = v = {n: 0.0 for n in params}
        for t in range(1, case.inner_steps + 1):
            grads = tm.grad(loss)(params, *support)
            m = {n: b1 * m[n] + (1 - b1) * g for n, g in grads.items()}
            v = {n: b2 * v[n] + (1 - b2) * m[n] * m[n] for n in grads}
            params = {
                n: p
                - case.inner_lr
                * m[n]
                / (np.sqrt(v[n] / (1 - b2**t) + case.settings["eps_root"]) + case.settings["eps"])
                for n, p in params.items()
            }
        return loss(params, *query)

    return npy.over_tasks(case, one)


# Sharp-MAML


@wrong(
    "The norm of the gradient is the sum of the tensors' norms, where the root of the sum of their squares is wanted: "
    "with several tensors the perturbation is too short.",
    r"(?s)sum over (the )?(tensors|parameters|layers) of|joint norm|global norm|total norm|norm (of|over) all|"
    r"sum of (the |all )?(tensor|param|layer|per|individual|separate|norm)|norms.{0,40}(summed|added|sum\b|"
    r"total)|Σ.{0,10}‖|added up|adds? up|"
    r"root of the sum|sums? (the|their|its).{0,20}norm|ℓ₁|\bl1\b|1-norm|sqrt\(sum|too (short|small)",
    algorithm="sharp",
)
def norms_added_up(case):
    def one(loss, params, support, query):
        for _ in range(case.inner_steps):
            grads = partly(loss, params, params, support)
            length = sum(g.norm() for g in grads.values())
            uphill = {n: p + case.settings["radius"] * grads[n] / length for n, p in params.items()}
            params = moved(params, partly(loss, uphill, uphill, support), case.inner_lr)
        return loss(params, *query)

    return pt.over_tasks(case, one)


@wrong(
    "The perturbation is computed once, at theta_0, and used again in every inner step, where each needs its own at "
    "theta_k.",
    r"(?s)(?=.*(perturb|ascent|uphill|ρ|displac|radius|g/‖))(?=.*(once|re.?us|same|first (inner )?step|θ_?₀|θ_?0|"
    r"theta_?0|stale|recomput|kept|"
    r"look.?sam|fixed|initial|later steps|not new))",
    tells_loss=False,
    algorithm="sharp",
)
def uphill_once(case):
    def one(loss, params, support, query):
        grads = tm.grad(loss)(params, *support)
        length = np.sqrt(npy.dot(grads, grads))
        uphill = {n: case.settings["radius"] * g / length for n, g in grads.items()}
        for _ in range(case.inner_steps):
            params = moved(params, tm.grad(loss)(added(params, uphill), *support), case.inner_lr)
        return loss(params, *query)

    return npy.over_tasks(case, one)


@wrong(
    "The perturbation is that of adaptive SAM, scaled by the parameters: rho theta^2 g / ||theta g||, not rho g/||g||.",
    r"(?s)adaptive|asam|θ²|θ\^2|\|θ\||scal.{0,40}(param|weight|θ|magnitude)|element.?wise|magnitude|size of (the |"
    r"each )?(param|weight)|\bT_w|"
    r"multipl\w* by (the |its |each )?(abs|param|weight|\|?θ|size)|proportion\w* to (the )?(param|weight|\|?θ)|"
    r"relative to",
    algorithm="sharp",
)
def adaptive_uphill(case):
    def one(loss, params, support, query):
        for _ in range(case.inner_steps):
            grads = partly(loss, params, params, support)
            scaled = {n: p.abs() * grads[n] for n, p in params.items()}
            length = pt.dot(scaled, scaled).sqrt()
            uphill = {n: p + case.settings["radius"] * p.abs() * scaled[n] / length for n, p in params.items()}
            params = moved(params, partly(loss, uphill, uphill, support), case.inner_lr)
        return loss(params, *query)

    return pt.over_tasks(case, one)


# Proximal


@wrong(
    "G is the support gradient at phi_K, which equals lambda (theta - phi_K) only where the inner problem is solved.",
    r"(?s)gradient of L_?s|gradient of the (inner|support)|L_?s.{0,20}gradient|"
    r"g_?s ?\((φ|θ_?K|phi)|∇L_?s|support.{0,30}gradient|gradient (of the support|at (the )?(φ|θ_?K|adapted|end|"
    r"prox|last))|inner gradient|stationar|"
    r"optimality|converge|first.?order condition|envelope|(fully|exactly|is) solved",
    tells_loss=False,
    algorithm="proximal",
)
def envelope_by_its_condition(case):
    def one(loss, params, support, query):
        phi = pulled_np(case, loss, params, support)
        return loss(phi, *query), tm.grad(loss)(phi, *support)

    return npy.by_hand(case, one)


@wrong(
    "The pull is taken implicitly, as a proximal step: phi <- (phi - alpha g + alpha lambda theta)/(1 + alpha lambda), "
    "in place of the explicit gradient step.",
    r"(?s)implicit|1 ?\+ ?α ?·?\*? ?λ|1 ?\+ ?alpha|backward euler|proximal (step|operator|gradient|map)|prox\b|divid|"
    r"semi|closed form|after the step|decoupl|"
    r"exact(ly)? (minimi|solv)|at the new point|φₖ₊₁|φ_\{?k ?\+ ?1|splitting",
    algorithm="proximal",
)
def pull_in_closed_form(case):
    rate, strength = case.inner_lr, case.settings["strength"]

    def one(loss, params, support, query):
        phi = pt.leaves(params)
        for _ in range(case.inner_steps):
            grads = pt.grads_of(loss(phi, *support), phi, create_graph=False)
            phi = pt.leaves(
                {n: (p - rate * grads[n] + rate * strength * params[n]) / (1 + rate * strength) for n, p in phi.items()}
            )
        return loss(phi, *query), {n: strength * (params[n] - phi[n]) for n in phi}

    return by_hand(case, one)


# Reinforcement learning


@wrong(
    "The surrogate is the mean over the steps of all episodes, divided by how many there are, where the mean over "
    "trajectories of the sum over steps is wanted.",
    r"(?s)(mean|averag|divid|normali[sz])\w* (is |was |taken |by |over |of |the |all |both |number |count |total |"
    r"trajectories |and )*(valid |alive |time )?"
    r"(step|length|mask|alive|time|entries|episode)|per.?(step|time)|number of (all |valid |alive )?(steps|entries)|"
    r"sum over (the )?(steps|t\b)|"
    r"N ?[·*×] ?H|episode.?lengths?|1 ?/ ?H|/ ?H\b|token",
    algorithm="rl",
)
def mean_over_steps(case):
    def objective(log_p, y):
        alive = y[..., 2]
        return surrogate_terms(case.settings, log_p, y).sum() / alive.sum()

    def one(loss, params, support, query):
        log_ps = []
        for k in range(case.inner_steps):
            x, y = support[0][:, k], support[1][:, k]
            log_p = loss(params, x, y)
            log_ps.append((log_p * y[..., 2]).sum())
            params = moved(params, pt.grads_of(objective(log_p, y), params), -case.inner_lr)
        x, y = query[0][:, 0], query[1][:, 0]
        value = objective(loss(params, x, y), y)
        if case.settings["surrogate"] == "e-maml":
            value = value + exploration(case.settings, log_ps, y)
        return -value

    return pt.over_tasks(case, one)


@wrong(
    "Two mistakes: every inner step adapts on the first round of the support; and in the advantages the returns are "
    "discounted from the start of the episode (gamma^u r_u), and then by gamma^t once more.",
    r"(?s)round|first (batch|set of|data)|\[:, 0|same (data|trajector|batch|samples)|fresh|new (data|trajector)|"
    r"re.?us",
    r"(?s)discount\w*.{0,80}(start|twice|once more|again|double|from 0|absolute|return|advantage|reward|t ?= ?0)|"
    r"γ\^?\{?u|γᵘ|"
    r"(γ|gamma).{0,40}(twice|again|squared|once more|double)|γ\^?\(?2|γ²|(return|advantage|reward).{0,80}(discount|"
    r"γ|gamma)",
    tells_loss=False,
    algorithm="rl",
)
def rounds_and_returns(case):
    gamma = case.settings["discount"]

    def objective(log_p, y):
        if case.settings["surrogate"] == "dice":
            return surrogate(case.settings, log_p, y)
        r, alive, b = episode(y)
        discounted = r * weights_of(gamma, r)
        returns = discounted.flip(1).cumsum(1).flip(1)
        wanted = torch.stack([returns - b, torch.zeros_like(b)], -1) * alive[..., None]
        log_p = log_p * alive
        if case.settings["surrogate"] == "lvc":
            weight = box(log_p)
        elif case.settings["surrogate"] == "loaded-dice":
            w, weight = torch.zeros_like(log_p[:, 0]), []
            for t in range(log_p.shape[1]):
                before = case.settings["decay"] * w
                w = before + log_p[:, t]
                weight.append(box(w) - box(before))
            weight = torch.stack(weight, 1)
        else:
            weight = log_p
        return (weight * wanted[..., 0] * weights_of(gamma, log_p)).sum(1).mean()

    def one(loss, params, support, query):
        x, y = support[0][:, 0], support[1][:, 0]
        log_ps = []
        for _ in range(case.inner_steps):
            log_p = loss(params, x, y)
            log_ps.append((log_p * y[..., 2]).sum())
            params = moved(params, pt.grads_of(objective(log_p, y), params), -case.inner_lr)
        x, y = query[0][:, 0], query[1][:, 0]
        value = objective(loss(params, x, y), y)
        if case.settings["surrogate"] == "e-maml":
            value = value + exploration(case.settings, log_ps, y)
        return -value

    return pt.over_tasks(case, one)


# Right ones


@correct("The Hessian is formed as a matrix of a flat vector, and the system solved densely.", algorithm="imaml")
def dense_system(case):
    def one(loss, params, support, query):
        phi = pulled(case, loss, params, support)
        value = loss(phi, *query)
        g = pt.flatten(pt.grads_of(value, phi, create_graph=False))
        at = pt.flatten(phi).detach()
        matrix = torch.autograd.functional.hessian(lambda v: loss(pt.unflatten(v, params), *support), at)
        x = torch.linalg.solve(torch.eye(len(at), dtype=at.dtype) + matrix / case.settings["strength"], g)
        return value, pt.unflatten(x, params)

    return by_hand(case, one)


@correct("The tasks' contexts are adapted together, under torch.func.vmap and grad.", algorithm="cavia")
def contexts_side_by_side(case):
    loss, params, ((xs, ys), (xq, yq)) = case.torch()

    def of_task(p, x_s, y_s, x_q, y_q):
        phi = torch.zeros(case.settings["context"], dtype=x_s.dtype)
        for _ in range(case.inner_steps):
            phi = phi - case.inner_lr * torch.func.grad(lambda c: loss({**p, "context": c}, x_s, y_s))(phi)
        return loss({**p, "context": phi}, x_q, y_q)

    def total(p):
        return torch.func.vmap(of_task, in_dims=(None, 0, 0, 0, 0))(p, xs, ys, xq, yq).mean()

    grads, value = torch.func.grad_and_value(total)({n: p.detach() for n, p in params.items()})
    return {"meta_grad": grads, "meta_loss": value}


@correct("The corrections are folded into the rate, and both epsilons scaled to match.", algorithm="inner-adam")
def folded_corrections(case):
    b1, b2 = case.settings["beta1"], case.settings["beta2"]
    eps, eps_root = case.settings["eps"], case.settings["eps_root"]

    def one(loss, params, support, query):
        m = v = {n: 0.0 for n in params}
        for t in range(1, case.inner_steps + 1):
            root = np.sqrt(1 - b2**t)
            grads = tm.grad(loss)(params, *support)
            m = {n: m[n] + (1 - b1) * (g - m[n]) for n, g in grads.items()}
            v = {n: v[n] + (1 - b2) * (g * g - v[n]) for n, g in grads.items()}
            rate = case.inner_lr * root / (1 - b1**t)
            params = {
                n: p - rate * m[n] / (np.sqrt(v[n] + (1 - b2**t) * eps_root) + root * eps) for n, p in params.items()
            }
        return loss(params, *query)

    return npy.over_tasks(case, one)


@correct("torch.optim.SGD moves parameters in place; the gradients lie in .grad; last task first.", algorithm="reptile")
def optimiser_in_place(case):
    loss, params, tasks = pt.given(case)
    fast = pt.leaves(params)
    optimiser = torch.optim.SGD(fast.values(), lr=case.inner_lr)
    total, losses = {n: torch.zeros_like(p) for n, p in params.items()}, []
    for support, query in reversed(tasks):
        with torch.no_grad():
            for n, p in fast.items():
                p.copy_(params[n])
        for _ in range(case.inner_steps):
            optimiser.zero_grad()
            loss(fast, *support).backward()
            optimiser.step()
        losses.append(loss(fast, *query).detach())
        for n, p in fast.items():
            total[n] += (params[n] - p).detach() / len(tasks)
    return {"meta_grad": total, "meta_loss": torch.stack(losses).mean()}


@correct("Gone back through by hand: two Hessian products a step, and the norm's derivative.", algorithm="sharp")
def uphill_by_hand(case):
    radius = case.settings["radius"]

    def one(loss, params, support, query):
        way = []
        for _ in range(case.inner_steps):
            g = tm.grad(loss)(params, *support)
            length = np.sqrt(npy.dot(g, g))
            unit = {n: p / length for n, p in g.items()}
            uphill = added(params, unit, radius)
            way.append((params, uphill, unit, length))
            params = moved(params, tm.grad(loss)(uphill, *support), case.inner_lr)
        value, v = tm.value_and_grad(loss)(params, *query)
        for at, uphill, unit, length in reversed(way):
            w = {n: -case.inner_lr * p for n, p in npy.hvp(loss, uphill, support, v).items()}
            across = added(w, unit, -npy.dot(unit, w))
            v = added(added(v, w), npy.hvp(loss, at, support, across), radius / length)
        return value, v

    return npy.by_hand(case, one)


@correct("The difference is taken along the unit vector, and then multiplied by the norm.", algorithm="hessian-free")
def along_the_unit_vector(case):
    delta = case.settings["delta"]

    def one(loss, params, support, query):
        thetas = npy.path(case, loss, params, support)
        value, v = tm.value_and_grad(loss)(thetas.pop(), *query)
        while thetas:
            theta = thetas.pop()
            length = np.sqrt(npy.dot(v, v))
            unit = {n: g / length for n, g in v.items()}
            there, back = (tm.grad(loss)(added(theta, unit, by), *support) for by in (delta, -delta))
            v = added(v, added(back, there, -1), case.inner_lr * length / (2 * delta))
        return value, v

    return npy.by_hand(case, one)


@correct("Each step's query loss is sent back apart, into .grad, over a retained graph.", algorithm="mamlpp")
def losses_sent_back_apart(case):
    loss, params, tasks = pt.given(case)
    params = pt.leaves(params)
    total = 0.0
    for support, query in tasks:
        fast, alpha = rates_apart(params)
        losses = []
        for k, weight in enumerate(case.settings["loss_weights"]):
            grads = partly(loss, {**fast, **rows(params, k)}, case.adapt, support)
            fast = moved(fast, grads, {n: a[k] for n, a in alpha.items()})
            losses.append(weight / len(tasks) * loss({**fast, **rows(params, k)}, *query))
        for value in reversed(losses):
            value.backward(retain_graph=True)
            total += value.item()
    return {"meta_grad": {n: p.grad for n, p in params.items()}, "meta_loss": total}


@correct("Sums over earlier and later steps are products with triangular matrices; -S is minimised.", algorithm="rl")
def triangular_sums(case):
    gamma, kind = case.settings["discount"], case.settings["surrogate"]

    def cost(log_p, y):
        r, alive, b = episode(y)
        log_p = log_p * alive
        ages = torch.arange(r.shape[1])[:, None] - torch.arange(r.shape[1])[None, :]
        discounts = gamma ** torch.arange(r.shape[1], dtype=r.dtype)

        def earlier(base):
            return torch.where(ages >= 0, torch.full(ages.shape, base, dtype=r.dtype) ** ages.clamp(min=0), 0.0)

        advantage = (r @ earlier(gamma) - b) * alive
        if kind == "dice":
            terms = r * box(log_p @ earlier(1.0).T) + b - b * box(log_p)
        elif kind == "loaded-dice":
            past = log_p @ earlier(case.settings["decay"]).T
            terms = (box(past) - box(past - log_p)) * advantage
        else:
            terms = (box(log_p) if kind == "lvc" else log_p) * advantage
        return -(terms @ discounts).mean()

    def one(loss, params, support, query):
        seen = 0.0
        for x, y in zip(support[0].unbind(1), support[1].unbind(1), strict=True):
            log_p = loss(params, x, y)
            seen = seen + (log_p * y[..., 2]).sum()
            params = moved(params, pt.grads_of(cost(log_p, y), params), case.inner_lr)
        x, y = query[0].squeeze(1), query[1].squeeze(1)
        total = cost(loss(params, x, y), y)
        if kind == "e-maml":
            r, _, _ = episode(y)
            total = total - seen * ((r @ weights_of(gamma, r)).sum() / r.shape[0])
        return total

    return pt.over_tasks(case, one)
