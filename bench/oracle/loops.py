"""Mistakes in the data, in the two loops and in the derivative through them, made in code: those that came last.

`mistakes` imports this after `further`, and has the register.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

import tinymaml as tm
from tinymaml import extras
from tinymaml.oracle import models
from tinymaml.oracle.catalogue import CATALOGUE

from .further import Changing, Finishing, OfEach, norm_of
from .mistakes import (
    MADE,
    MAML,
    Adapting,
    ByHand,
    Layers,
    OtherData,
    create_graph_where,
    grad,
    makes,
    outputs,
)

torch = extras.require("torch", "peers")
F = torch.nn.functional


def named(cls: type, doc: str, **attributes) -> type:
    """A variant of a class, with other attributes."""
    return type(f"{cls.__name__}Variant", (cls,), attributes | {"__doc__": doc})


def group(case, of: str) -> list[str]:
    """The parameters of a group, as an optimiser's options have them."""
    layers = [m["params"] for m in case.model["layers"] if m.get("params")]
    bias = {n for m in case.model["layers"] if m["layer"] in ("linear", "batch_norm") for n in m["params"][1:][-1:]}
    names = list(case.params)
    return {
        "biases": [n for n in names if n in bias], "no biases": [n for n in names if n not in bias],
        "vectors": [n for n in names if case.params[n].ndim < 2],
        "matrices": [n for n in names if case.params[n].ndim > 1],
        "one-dimensional": [n for n in names if case.params[n].ndim == 1],
        "two-dimensional": [n for n in names if case.params[n].ndim == 2],
        "head": layers[-1], "body": [n for n in names if n not in layers[-1]], "first layer": layers[0],
    }[of]  # fmt: skip


# ── the derivative through the inner loop ───────────────────────────────────────────────────────────────────────────


@makes("part_first_order")
class HalfFirstOrder(MAML):
    """½ (the exact gradient + that of FOMAML)"""

    def task(self, support, query):
        exact = super().task(support, query)
        fast = self.theta
        for k in range(self.steps):
            g = {n: x.detach() for n, x in self.gradient(fast, support, k).items()}
            fast = self.step(fast, g, k)
        return 0.5 * exact + 0.5 * self.query_loss(fast, query)


class Dense(ByHand):
    """The Hessian as a matrix."""

    def matrix(self, theta, batch):
        return np.stack([self.flat(tm.hvp(self.loss, (theta, *batch), e)) for e in self.unit()], 1)

    def unit(self):
        sizes = [p.size for p in self.theta.values()]
        for row in np.eye(sum(sizes)):
            yield self.tree(row)

    @staticmethod
    def flat(tree):
        return np.concatenate([np.ravel(x) for x in tree.values()])

    def tree(self, vector):
        parts = np.split(vector, np.cumsum([p.size for p in self.theta.values()])[:-1])
        return {n: np.reshape(part, p.shape) for (n, p), part in zip(self.theta.items(), parts, strict=True)}

    def rates(self):
        return np.concatenate([np.ravel(np.broadcast_to(self.rate[n], p.shape)) for n, p in self.theta.items()])

    def task(self, support, query):
        thetas = self.way(support)
        value, v = tm.value_and_grad(self.loss)(thetas[-1], *query)
        hessians = [self.matrix(theta, support) for theta in thetas[:-1]]
        v = self.flat(v)
        for h in reversed(self.other(hessians)):
            v = self.factor(h) @ v
        return value, self.tree(v)

    def other(self, hessians):
        return hessians

    def factor(self, h):
        return np.eye(len(h)) - self.changed(h) * self.rates()

    def changed(self, h):
        return h


@makes("gradient_flow")
class Flow(Dense):
    """expm(−α H)"""

    def factor(self, h):
        return expm(-h * self.rates())


def expm(a: np.ndarray) -> np.ndarray:
    """By its series."""
    total = term = np.eye(len(a))
    for n in range(1, 80):
        term = term @ a / n
        total = total + term
    return total


@makes("implicit_steps")
class Inverse(Dense):
    """np.linalg.inv(I + α H)"""

    def factor(self, h):
        return np.linalg.inv(np.eye(len(h)) + h * self.rates())


@makes("averaged_hessians")
class MeanHessian(Dense):
    """(I − α mean(H))ᴷ"""

    def other(self, hessians):
        return [sum(hessians) / len(hessians)] * len(hessians) if hessians else []


@makes("definite_hessian")
class Positive(Dense):
    """eigenvalues.clip(0)"""

    spectrum = staticmethod(lambda values: values.clip(0))

    def changed(self, h):
        values, vectors = np.linalg.eigh(h)
        return vectors * self.spectrum(values) @ vectors.T


makes("definite_hessian", 1)(named(Positive, "eigenvalues.abs()", spectrum=staticmethod(np.abs)))


@makes("low_rank_hessian")
class RankOne(Positive):
    """the eigenvalue of largest size alone"""

    spectrum = staticmethod(lambda values: np.where(np.abs(values) == np.abs(values).max(), values, 0))


@makes("identity_missing")
class Stopped(MAML):
    """p.detach() − α g"""

    def step(self, fast, g, k):
        return {n: p.detach() - self.rate[n] * g[n] for n, p in fast.items()}


@makes("steps_rebuilt")
class Rebuilt(ByHand):
    """θₖ = θₖ₊₁ + α g(θₖ₊₁), from θ_K on"""

    def task(self, support, query):
        theta = self.way(support)[-1]
        value, v = tm.value_and_grad(self.loss)(theta, *query)
        for _ in range(self.k):
            g = tm.grad(self.loss)(theta, *support)
            theta = {n: p + self.rate[n] * g[n] for n, p in theta.items()}
            h = self.product(theta, support, self.weighted(v))
            v = {n: v[n] - h[n] for n in v}
        return value, v


# ── the inner loop ──────────────────────────────────────────────────────────────────────────────────────────────────


@makes("inner_momentum", {"momentum": 0.9, "momentum_like": "dampened after the first"})
class Dampened(Changing):
    """SGD(momentum=0.9, dampening=0.9): the first velocity is g"""

    def changed(self, fast, g, k):
        before = self.memory
        self.memory = {n: 0.9 * before[n] + (1 - 0.9) * x if before else x for n, x in g.items()}
        return self.memory


@makes("inner_weight_decay", {"decay": 5e-4, "decay_like": "without α"})
class DecayedByItself(MAML):
    """p * (1 − 5e-4) − α g"""

    def step(self, fast, g, k):
        return {n: p * (1 - 5e-4) - self.rate[n] * g[n] for n, p in fast.items()}


@makes("inner_weight_decay", {"decay": 5e-4, "decay_of": "no biases"})
class WeightsDecayed(Changing):
    """weight decay of all but the biases"""

    def changed(self, fast, g, k):
        free = group(self.case, "biases")
        return {n: g[n] if n in free else g[n] + 5e-4 * p for n, p in fast.items()}


@makes("fast_weights_clamped")
class FastClamped(MAML):
    """(p − α g).clamp(−1, 1)"""

    def step(self, fast, g, k):
        return {n: p.clamp(-1, 1) for n, p in super().step(fast, g, k).items()}


@makes("gradient_centralised")
class Centralised(Changing):
    """g − the mean over all axes but the last"""

    def changed(self, fast, g, k):
        return {n: x - x.mean(tuple(range(x.ndim - 1)), keepdim=True) if x.ndim > 1 else x for n, x in g.items()}


@makes("vectors_masked")
class Masked(MAML):
    """optax.masked(sgd, matrices), and apply_updates"""

    def step(self, fast, g, k):
        return {n: p - self.rate[n] * g[n] if p.ndim > 1 else p + g[n] for n, p in fast.items()}


@makes("alpha_in_decimals")
class Printed(MAML):
    """float(f"{alpha:.2f}")"""

    def __init__(self, case):
        super().__init__(case)
        self.rate = {n: torch.round(a, decimals=2) for n, a in self.rate.items()}


class Stopping(MAML):
    """The inner loop has a break."""

    def adapt(self, fast, batch):
        for k in range(self.steps):
            g = self.gradient(fast, batch, k)
            if self.enough(fast, batch, g):
                break
            fast = self.step(fast, g, k)
        return fast


@makes("early_stop")
class ShortGradient(Stopping):
    """if |g| < 0.1: break"""

    def enough(self, fast, batch, g):
        return norm_of(g) < 0.1


@makes("early_stop_by_loss")
class SmallLoss(Stopping):
    """if loss < 0.1: break"""

    def enough(self, fast, batch, g):
        return self.support_loss(fast, batch) < 0.1


@makes("best_iterate")
class BestOnSupport(MAML):
    """min(iterates, key=support loss)"""

    def task(self, support, query):
        self.adapt(self.theta, support)
        best = min(self.trace[-1]["theta"], key=lambda fast: self.judge(fast, support, query).item())
        return self.query_loss(best, query)

    def judge(self, fast, support, query):
        return self.support_loss(fast, support)


@makes("best_iterate", 1)
class BestOnQuery(BestOnSupport):
    """min(iterates, key=query loss)"""

    def judge(self, fast, support, query):
        return self.query_loss(fast, query)


class AdamWith(Changing):
    """Adam, written out"""

    betas, inside = (0.9, 0.999), False

    def changed(self, fast, g, k):
        (one, two), (m, v) = self.betas, self.memory or ({n: 0 * x for n, x in g.items()},) * 2
        m = {n: one * m[n] + (1 - one) * x for n, x in g.items()}
        v = {n: two * v[n] + (1 - two) * x * x for n, x in g.items()}
        self.memory = m, v
        mean = {n: x / (1 - one ** (k + 1)) for n, x in m.items()}
        square = {n: x / (1 - two ** (k + 1)) for n, x in v.items()}
        if self.inside:
            return {n: mean[n] / torch.sqrt(square[n] + 1e-8) for n in g}
        return {n: mean[n] / (torch.sqrt(square[n]) + 1e-8) for n in g}


makes("adam_inside", {"inner": "adam, ε inside", "adaptive_eps": 1e-8})(
    named(AdamWith, "optax's eps_root", inside=True)
)
makes("adam_inside_without_average")(named(AdamWith, "Adam with betas (0, 0.999)", betas=(0.0, 0.999)))
makes("adam_inside_with_beta")(named(AdamWith, "Adam with betas (0.9, 0.99)", betas=(0.9, 0.99)))
makes("adam_inside_with_first_beta")(named(AdamWith, "Adam with betas (0.5, 0.999)", betas=(0.5, 0.999)))


class RMSpropWith(Changing):
    """RMSprop, written out"""

    keep, inside = 0.99, False

    def changed(self, fast, g, k):
        self.memory = {n: self.keep * self.memory.get(n, 0) + (1 - self.keep) * x * x for n, x in g.items()}
        if self.inside:
            return {n: x / torch.sqrt(self.memory[n] + 1e-8) for n, x in g.items()}
        return {n: x / (torch.sqrt(self.memory[n]) + 1e-8) for n, x in g.items()}


makes("rmsprop_inside", {"inner": "rmsprop, ε inside", "adaptive_eps": 1e-8})(
    named(RMSpropWith, "g · rsqrt(v + 1e-8)", inside=True)
)
makes("rmsprop_inside_with_decay")(named(RMSpropWith, "alpha=0.9", keep=0.9))
makes("rmsprop_inside_with_decay", {"inner": "rmsprop, ε inside", "square_decay": 0.9})(
    named(RMSpropWith, "optax.rmsprop, decay 0.9", keep=0.9, inside=True)
)


class Scheduled(MAML):
    """α of step k"""

    def step(self, fast, g, k):
        return {n: p - self.rate[n] * self.times(k, self.steps) * g[n] for n, p in fast.items()}


for _which, _times in {
    "linear fall": lambda k, steps: 1 - k / steps,
    "cosine": lambda k, steps: 0.5 * (1 + np.cos(np.pi * k / steps)),
    "linear rise": lambda k, steps: (k + 1) / steps,
    "over the root of each step": lambda k, steps: 1 / np.sqrt(k + 1),
}.items():
    makes("alpha_scheduled", {"rate": _which})(named(Scheduled, f"α: {_which}", times=staticmethod(_times)))
makes("alpha_of_first_step")(
    named(Scheduled, "α / 2 in the first step", times=staticmethod(lambda k, steps: 1 if k else 0.5))
)


class GroupRate(MAML):
    """2 α for a group of parameters"""

    of: str

    def step(self, fast, g, k):
        return {n: p - self.rate[n] * (2 if n in group(self.case, self.of) else 1) * g[n] for n, p in fast.items()}


class GroupGradient(MAML):
    """a tenth of the meta-gradient for a group of parameters"""

    of: str

    def finish(self, grads):
        return {n: g * 0.1 if n in group(self.case, self.of) else g for n, g in grads.items()}


for _of in ("biases", "head", "body", "first layer", "no biases", "vectors", "matrices"):
    makes("gradient_of_group_scaled", {"outer_times": 0.1, "outer_times_of": _of})(
        named(GroupGradient, f"G / 10 for {_of}", of=_of)
    )


for _of in ("biases", "head", "body", "first layer", "no biases", "vectors", "matrices", "one-dimensional",
            "two-dimensional"):  # fmt: skip
    makes("alpha_of_group", {"rate_times": 2.0, "rate_times_of": _of})(named(GroupRate, f"2 α for {_of}", of=_of))

for _of in ("matrices", "vectors", "one-dimensional", "two-dimensional"):
    _names = lambda self, of=_of: group(self.case, of)  # noqa: E731
    makes("one_shape_only", {"adapts": _of})(named(Adapting, f"the inner update is of {_of} alone", names=_names))

makes("adapted_by_name", {"adapts": "named w…"})(
    named(Adapting, "n.startswith('w')", names=lambda self: [n for n in self.theta if n[0] == "w"])
)


@makes("alpha_is_beta")
class OuterRate(MAML):
    """p − β g"""

    def step(self, fast, g, k):
        return {n: p - self.case.outer_lr * (self.rate[n] != 0) * g[n] for n, p in fast.items()}


@makes("steps_limited")
class TwoSteps(MAML):
    """min(K, 2)"""

    def __init__(self, case):
        super().__init__(case)
        self.steps = min(self.steps, 2)


@makes("minibatches_inside", {"minibatch": 2, "minibatch_like": "every n-th"})
class EveryOther(MAML):
    """x[k % 2 :: 2]"""

    def gradient(self, fast, batch, k):
        x, y = batch
        n = min(2, len(x))
        return super().gradient(fast, (x[k % n :: 2], y[k % n :: 2]), k)


@makes("minibatches_inside", {"minibatch": 2, "minibatch_like": "wrapped"})
class Wrapped(MAML):
    """x[arange(2k, 2k + 2) % N]"""

    def gradient(self, fast, batch, k):
        x, y = batch
        at = torch.arange(2 * k, 2 * k + 2) % len(x)
        return super().gradient(fast, (x[at], y[at]), k)


# ── the data ────────────────────────────────────────────────────────────────────────────────────────────────────────


def other_data(id: str, change: str, doc: str, of_task, **more) -> None:
    """Registers a change of each task's data."""
    makes(id, {"data": change} | more)(named(OtherData, doc, data=lambda self, s, q: of_task(s, q)))


both = lambda s, q: (torch.cat((s[0], q[0])), torch.cat((s[1], q[1])))  # noqa: E731
flipped = lambda batch: (batch[0].flip(0), batch[1])  # noqa: E731
half = lambda batch: len(batch[1]) // 2  # noqa: E731
rows = lambda batch, at: (batch[0][at], batch[1][at]) if len(batch[1][at]) else batch  # noqa: E731

other_data("order_reversed", "inputs in reverse order, in support", "xs.flip(0)", lambda s, q: (flipped(s), q))
other_data("order_reversed", "inputs in reverse order, in query", "xq.flip(0)", lambda s, q: (s, flipped(q)))
other_data("order_reversed", "inputs in reverse order", "x.flip(0)", lambda s, q: (flipped(s), flipped(q)))
other_data("query_in_inner_loop", "query set in the inner loop too", "torch.cat((xs, xq)) inside",
           lambda s, q: (both(s, q), q))  # fmt: skip
other_data(
    "every_other_example", "every other support example", "xs[::2]", lambda s, q: (rows(s, slice(None, None, 2)), q)
)
other_data(
    "every_other_example", "every other query example", "xq[::2]", lambda s, q: (s, rows(q, slice(None, None, 2)))
)
for _set, _half in ((s, h) for s in ("support", "query") for h in ("first", "second")):
    _at = (lambda b: slice(half(b))) if _half == "first" else lambda b: slice(half(b), None)
    _of_task = (lambda s, q, at=_at: (rows(s, at(s)), q)) if _set == "support" else (
        lambda s, q, at=_at: (s, rows(q, at(q))))  # fmt: skip
    other_data(
        "half_of_the_examples", f"{_half} half of the {_set} set", f"the {_half} half of the {_set} set", _of_task
    )


@makes("query_in_inner_loop", {"data": "query loss in the inner loop too"})
class BothLossesInside(MAML):
    """½ (L_s + L_q) in the inner loop"""

    def task(self, support, query):
        self.queries = query
        return super().task(support, query)

    def support_loss(self, fast, batch):
        return 0.5 * (self.loss(fast, *batch) + self.loss(fast, *self.queries))


@makes("shared_adaptation", {"data": "last support set for all"})
class LateSupport(MAML):
    """closures made in a loop see its last support set"""

    def losses(self):
        functions = []
        for support, query in self.tasks:  # noqa: B007 (the mistake)
            functions.append(lambda query=query: self.task(support, query))  # noqa: B023
        return [f() for f in functions]


@makes("shared_adaptation", {"data": "last query set for all"})
class LateQuery(MAML):
    """closures made in a loop see its last query set"""

    def losses(self):
        functions = []
        for support, query in self.tasks:  # noqa: B007 (the mistake)
            functions.append(lambda support=support: self.task(support, query))  # noqa: B023
        return [f() for f in functions]


@makes("queries_of_all_tasks")
class OneQuerySet(MAML):
    """torch.cat of all query sets"""

    def losses(self):
        query = tuple(torch.cat(arrays) for arrays in zip(*(q for _, q in self.tasks), strict=True))
        return [self.task(support, query) for support, _ in self.tasks]


@makes("queries_of_all_tasks", {"data": "mean of all query losses for each"})
class EveryQuerySet(MAML):
    """a nested vmap: every adapted model on every query set"""

    def losses(self):
        return [sum(self.task(s, q) for _, q in self.tasks) / len(self.tasks) for s, _ in self.tasks]


makes("support_examples_skipped")(named(OtherData, "xs[1:]", data=lambda self, s, q: (rows(s, slice(1, None)), q)))
makes("query_examples_skipped")(named(OtherData, "xq[1:]", data=lambda self, s, q: (s, rows(q, slice(1, None)))))


# What normalises z, by the statistics of `of`; ε is beside σ, or under the root.
def _standardised(z, of, eps=1e-8, unbiased=False, root=False, together=False):
    over = tuple(range(of.ndim)) if together else 0
    n = of.numel() if together else len(of)
    variance = of.var(over, correction=1 if unbiased and n > 1 else 0)
    return (z - of.mean(over)) / (torch.sqrt(variance + eps) if root else torch.sqrt(variance) + eps)


_NORMALISED = {
    "centred": lambda z, of, eps: z - of.mean(0),
    "standardised": lambda z, of, eps: _standardised(z, of, eps),
    "standardised, unbiased": lambda z, of, eps: _standardised(z, of, eps, unbiased=True),
    "standardised, root": lambda z, of, eps: _standardised(z, of, eps, root=True),
    "standardised together": lambda z, of, eps: _standardised(z, of, eps, together=True),
    "scaled to 0 … 1": lambda z, of, eps: (z - of.min()) / (of.max() - of.min()),
    "of length 1": lambda z, of, eps: F.normalize(z, dim=-1) if z.ndim > 1 else z,
}


def _normalising(place: int, change: str, where: str, eps: float):
    def new(batch, of):
        z = batch[place]
        fits = z.dtype.is_floating_point and bool(z.any())
        z = _NORMALISED[change](z, of[place], eps) if fits else z
        return (z, batch[1]) if place == 0 else (batch[0], z)

    def of_task(s, q):
        of = s if where == ", by the support set" else q
        return s if where == ", in query" else new(s, s), q if where == ", in support" else new(q, of)

    return of_task


class OtherTargets(OtherData):
    """Targets are changed where there are any: of squared errors."""

    def __init__(self, case):
        MAML.__init__(self, case)
        if "mse" in case.model["loss"]:
            self.tasks = [self.data(*task) for task in self.tasks]


for _place, _arrays in enumerate(("inputs", "targets")):
    for _change in _NORMALISED:
        for _where in ("", ", in support", ", in query", ", by the support set"):
            for _id, _more in (
                (f"{_arrays}_standardised", {}),
                (f"{_arrays}_standardised_with_epsilon", {"data_eps": 1e-5}),
            ):
                _of_task = _normalising(_place, _change, _where, _more.get("data_eps", 1e-8))
                _form = {"data": f"{_arrays} {_change}{_where}"} | _more
                if _form in CATALOGUE[_id].forms:
                    _base = OtherTargets if _place else OtherData
                    _made = named(_base, f"{_change} {_arrays}{_where}", data=lambda self, s, q, f=_of_task: f(s, q))
                    makes(_id, _form)(_made)


@makes("batch_norm_per_example", {"how": {"norm": "each example"}, "on": "support"})
class OneByOneInside(MAML):
    """the mean of the losses of single examples, inside"""

    def support_loss(self, fast, batch):
        x, y = batch
        return sum(self.loss(fast, x[i : i + 1], y[i : i + 1]) for i in range(len(x))) / len(x)


@makes("batch_norm_per_example")
class OneByOne(OneByOneInside):
    """the mean of the losses of single examples"""

    def query_loss(self, fast, batch):
        return self.support_loss(fast, batch)


# ── the outer loop ──────────────────────────────────────────────────────────────────────────────────────────────────


class Added(MAML):
    """a further loss beside the query loss"""

    def task(self, support, query):
        fast = self.adapt(self.theta, support)
        return self.query_loss(fast, query) + self.more(fast, support, query)


makes("support_loss_added")(
    named(Added, "+ 0.1 L_s(θ_K)", more=lambda self, fast, s, q: 0.1 * self.support_loss(fast, s))
)
makes("support_loss_before_added")(
    named(Added, "+ 0.1 L_s(θ)", more=lambda self, fast, s, q: 0.1 * self.support_loss(self.theta, s))
)
makes("query_loss_before_added")(
    named(Added, "L_q(θ_K) − L_q(θ)", more=lambda self, fast, s, q: -self.query_loss(self.theta, q))
)


class Weighted(MAML):
    """the query loss after every step, weighted by ½^(K − k)"""

    whole = True

    def task(self, support, query):
        self.adapt(self.theta, support)
        points = self.trace[-1]["theta"]
        points = points[1:] or points
        weights = [0.5 ** (len(points) - k) for k in range(1, len(points) + 1)]
        total = sum(w * self.query_loss(fast, query) for w, fast in zip(weights, points, strict=True))
        return total / sum(weights) if self.whole else total


makes("multi_step_weights")(Weighted)
makes("multi_step_weights", {"query_decay": 0.5, "weights_like": "from 1"})(
    named(Weighted, "the same, not over the sum of the weights", whole=False)
)


class EachTask(OfEach):
    """Each task's gradient is changed as a whole."""

    def __call__(self):
        losses = self.losses()
        each = [self.of_one(grad(loss, self.theta)) for loss in losses]
        grads = {n: sum(g[n] for g in each) / len(each) for n in self.theta}
        return {"meta_grad": grads, "meta_loss": self.together(losses).detach()}


makes("tasks_normalised")(
    named(EachTask, "G / |G| per task", of_one=lambda self, g: {n: x / norm_of(g) for n, x in g.items()})
)
makes("tasks_clipped")(
    named(EachTask, "clip to 1 per task",
          of_one=lambda self, g: {n: x * min(1.0, (1 / norm_of(g)).item()) for n, x in g.items()})
)  # fmt: skip


@makes("gradients_accumulated_undivided")
class LeftInGrad(MAML):
    """loss.backward(create_graph=True) inside: the gradients of θ add up"""

    def __call__(self):
        losses = self.losses()
        total = self.together(losses)
        grads = grad(total, self.theta)
        for way, (support, _) in zip(self.trace, self.tasks, strict=True):
            for fast in way["theta"][:-1]:
                inner = grad(self.support_loss(fast, support), self.theta)
                grads = {n: g + inner[n] for n, g in grads.items()}
        return {"meta_grad": grads, "meta_loss": total.detach()}


class Combined(MAML):
    """The losses are combined otherwise."""


for _id, _form, _doc, _together in (
    ("losses_combined", {"outer": "log of each"}, "mean of log", lambda self, L: torch.stack(L).log().mean()),
    ("losses_combined", {"outer": "root mean square"}, "root mean square",
     lambda self, L: (torch.stack(L) ** 2).mean().sqrt()),
    ("losses_tilted", {"tilt": 1.0}, "logsumexp", lambda self, L: torch.logsumexp(torch.stack(L), 0)),
):  # fmt: skip
    makes(_id, _form)(named(Combined, _doc, together=_together))

makes("sign_of_meta_gradient")(named(Finishing, "g.sign()", finished=lambda self, g, p: g.sign()))


class Silent(MAML):
    """Some parameters get no meta-gradient."""

    def finish(self, grads):
        return {n: g if self.heard(n) else torch.zeros_like(g) for n, g in grads.items()}


for _id, _form, _doc, _heard in (
    ("tensor_without_gradient", 0, "the first is frozen", lambda self, n: n != next(iter(self.theta))),
    ("one_tensor_with_gradient", 0, "all but the first are frozen", lambda self, n: n == next(iter(self.theta))),
    ("part_without_gradient", 0, "the head is frozen", lambda self, n: n not in group(self.case, "head")),
    ("part_without_gradient", 1, "the body is frozen", lambda self, n: n in group(self.case, "head")),
):
    makes(_id, _form)(named(Silent, _doc, heard=_heard))


# ── what the Hessian is applied to, and where it is taken ───────────────────────────────────────────────────────────


class OtherVector(ByHand):
    """v − Hₖ A w"""

    def task(self, support, query):
        thetas = self.way(support)
        value, v = tm.value_and_grad(self.loss)(thetas[-1], *query)
        for k in [] if self.case.first_order else self.order():
            h = self.product(thetas[k], support, self.weighted(self.vector(thetas, k, support, query)))
            v = {n: v[n] - h[n] for n in v}
        return value, v


for _which, _vector in {
    "own support gradient": lambda self, thetas, k, s, q: tm.grad(self.loss)(thetas[k], *s),
    "last support gradient": lambda self, thetas, k, s, q: tm.grad(self.loss)(thetas[-2], *s),
    "query gradient at its step": lambda self, thetas, k, s, q: tm.grad(self.loss)(thetas[k], *q),
    "query gradient at start": lambda self, thetas, k, s, q: tm.grad(self.loss)(thetas[0], *q),
    "displacement": lambda self, thetas, k, s, q: {n: p - thetas[-1][n] for n, p in thetas[0].items()},
    "ones": lambda self, thetas, k, s, q: {n: np.ones_like(p) for n, p in thetas[0].items()},
}.items():
    makes("hessian_of_own_gradient", {"vector": _which})(named(OtherVector, f"v − Hₖ A w: {_which}", vector=_vector))


@makes("hessian_of_halfway")
class Halfway(ByHand):
    """the Hessian at (thetas[k] + thetas[k + 1]) / 2"""

    def at(self, thetas, k):
        return {n: 0.5 * (p + thetas[k + 1][n]) for n, p in thetas[k].items()}


@makes("hessian_row_sums")
class RowSums(ByHand):
    """grad(g.sum()) * v"""

    def product(self, theta, batch, v):
        sums = tm.hvp(self.loss, (theta, *batch), {n: np.ones_like(x) for n, x in v.items()})
        return {n: x * v[n] for n, x in sums.items()}


class Differences(ByHand):
    """(g(θ + hv) − g(θ)) / h, times α"""

    h, central, over_norm, times = 0.01, False, False, 1

    def weighted(self, v):  # α comes after the difference, if there is one α
        self.largest = max(float(np.max(a)) for a in self.rate.values())
        return {n: self.rate[n] / self.largest * x for n, x in v.items()}

    def product(self, theta, batch, v):
        h = self.h / np.sqrt(sum(np.sum(x * x) for x in v.values())) if self.over_norm else self.h
        g = lambda by: tm.grad(self.loss)({n: p + by * v[n] for n, p in theta.items()}, *batch)  # noqa: E731
        up, down, width = g(h), g(-h) if self.central else g(0.0), 2 * h if self.central else h
        return {n: self.times * self.largest * (up[n] - down[n]) / width for n in v}


@makes("hessian_by_differences", {"difference": 0.01, "difference_like": "one-sided, along α v"})
class DifferencesOfStep(ByHand):
    """(g(θ + h α v) − g(θ)) / h"""

    def product(self, theta, batch, v):
        up = tm.grad(self.loss)({n: p + 0.01 * v[n] for n, p in theta.items()}, *batch)
        return {n: (up[n] - g) / 0.01 for n, g in tm.grad(self.loss)(theta, *batch).items()}


for _like, _more in {
    "one-sided": {}, "central": {"central": True}, "one-sided, over |v|": {"over_norm": True},
    "central, over |v|": {"central": True, "over_norm": True},
}.items():  # fmt: skip
    makes("hessian_by_differences", {"difference": 0.01, "difference_like": _like})(
        named(Differences, f"differences, {_like}", **_more)
    )

makes("every_other_step_detached")(
    named(MAML, "create_graph = k % 2 == 0", gradient=create_graph_where(lambda k, steps: k % 2 == 0))
)
makes("every_other_step_detached", 1)(
    named(MAML, "create_graph = k % 2 == 1", gradient=create_graph_where(lambda k, steps: k % 2 == 1))
)
makes("first_steps_detached")(
    named(MAML, "create_graph = k >= 2", gradient=create_graph_where(lambda k, steps: k >= 2))
)


# ── the inner loop: its gradients, its sets, its end ────────────────────────────────────────────────────────────────


@makes("gradient_of_step_before", {"inner": "one step behind"})
class Behind(Changing):
    """the step before computed this step's gradient"""

    def changed(self, fast, g, k):
        before, self.memory = self.memory, g
        return before or g


@makes("gradient_of_step_before", {"inner": "averaged with the one before"})
class MeanOfTwo(Changing):
    """(g + the gradient before) / 2"""

    def changed(self, fast, g, k):
        before, self.memory = self.memory or g, g
        return {n: (x + before[n]) / 2 for n, x in g.items()}


def _without(x, first):
    out = x.clone()
    if x.ndim > 1:
        out[first] = 0
    return out


makes("entries_held", {"inner": "first row held"})(
    named(Changing, "g[0] = 0", changed=lambda self, fast, g, k: {n: _without(x, 0) for n, x in g.items()})
)
makes("entries_held", {"inner": "first column held"})(
    named(Changing, "g[..., 0] = 0", changed=lambda self, fast, g, k: {n: _without(x, (..., 0)) for n, x in g.items()})
)
makes("entries_held", {"inner": "0 where θ < 0"})(
    named(Changing, "g * (p >= 0)", changed=lambda self, fast, g, k: {n: x * (fast[n] >= 0) for n, x in g.items()})
)


def of_kind(case, of: str) -> list[str]:
    """`group`, with batch norm's parameters, or the first tensor."""
    if of == "batch norm":
        return [n for m in case.model["layers"] if m["layer"] == of.replace(" ", "_") for n in m["params"]]
    return list(case.params)[:1] if of == "first tensor" else group(case, of)


class PassOfStart(MAML):
    """functional_call without some parameters: the pass takes the model's own"""

    of: str

    def mixed(self, fast):
        # · 1: a tensor of its own, so that its gradient has no part of what reaches θ through the fast weights
        return {n: self.theta[n] * 1 if n in of_kind(self.case, self.of) else p for n, p in fast.items()}


class QueryPassOfStart(PassOfStart):
    """the query pass takes some of the model's own parameters"""

    def query_loss(self, fast, batch):
        return super().query_loss(self.mixed(fast), batch)


class InnerPassOfStart(PassOfStart):
    """the inner passes take some of the model's own parameters"""

    def gradient(self, fast, batch, k):
        return super().gradient(self.mixed(fast), batch, k)


for _of in ("biases", "head", "body", "first layer", "no biases", "vectors", "matrices", "batch norm"):
    makes("query_pass_of_start", {"query_start_of": _of})(named(QueryPassOfStart, f"{_of} of θ", of=_of))
    makes("inner_pass_of_start", {"inner_start_of": _of})(named(InnerPassOfStart, f"{_of} of θ", of=_of))
makes("query_pass_of_start_in_tensor")(named(QueryPassOfStart, "the first tensor of θ", of="first tensor"))
makes("inner_pass_of_start_in_tensor")(named(InnerPassOfStart, "the first tensor of θ", of="first tensor"))


class OtherSets(MAML):
    """Some inner steps take the query set."""

    def task(self, support, query):
        self.queries = query
        return super().task(support, query)

    def adapt(self, fast, batch):
        for k in range(self.steps):
            fast = self.step(fast, self.gradient(fast, self.queries if self.on_query(k) else batch, k), k)
        return fast


for _which, _when in {
    "query from the second on": lambda self, k: k >= 1, "query in the last": lambda self, k: k + 1 == self.steps,
    "query in every other": lambda self, k: bool(k % 2), "query in the first": lambda self, k: not k,
}.items():  # fmt: skip
    makes("steps_on_query", {"steps_on": _which})(named(OtherSets, f"loss(fast, xq, yq): {_which}", on_query=_when))


@makes("steps_accumulated")
class Accumulated(MAML):
    """.grad adds up, and every second step updates"""

    over = 1

    def adapt(self, fast, batch):
        held = {n: 0.0 for n in fast}
        for k in range(self.steps):
            held = {n: held[n] + g / self.over for n, g in self.gradient(fast, batch, k).items()}
            if k % 2:
                fast, held = self.step(fast, held, k), {n: 0.0 for n in fast}
        return fast


makes("steps_accumulated", {"accumulate": 2, "accumulate_like": "averaged"})(
    named(Accumulated, "optax.MultiSteps(…, 2)", over=2)
)


class OfGroup(Changing):
    """The gradient of a group of parameters is changed."""

    of: str

    def changed(self, fast, g, k):
        these = {n: g[n] for n in group(self.case, self.of) if n in g}
        return g | self.of_these(fast, these)


class GroupMomentum(OfGroup):
    """momentum 0.9 in one param_group"""

    def of_these(self, fast, g):
        self.memory = {n: 0.9 * self.memory.get(n, 0) + x for n, x in g.items()}
        return self.memory


class GroupClip(OfGroup):
    """clip_grad_norm_ of one group, to 1"""

    def of_these(self, fast, g):
        return g if not g or norm_of(g) <= 1 else {n: x / norm_of(g) for n, x in g.items()}


class GroupDecay(OfGroup):
    """weight_decay=5e-4 in one param_group"""

    def of_these(self, fast, g):
        return {n: x + 5e-4 * fast[n] for n, x in g.items()}


for _of in ("biases", "head", "body", "first layer", "no biases", "vectors", "matrices"):
    makes("momentum_of_group", {"momentum": 0.9, "momentum_of": _of})(named(GroupMomentum, f"μ = 0.9: {_of}", of=_of))
    makes("inner_clip_of_group", {"clip_inner": 1.0, "clip_of": _of})(named(GroupClip, f"clipped: {_of}", of=_of))
    if _of != "no biases":
        makes("decay_of_group", {"decay": 5e-4, "decay_of": _of})(named(GroupDecay, f"λ = 5e-4: {_of}", of=_of))


@makes("early_stop_by_gain")
class LittleGain(MAML):
    """if before - loss < 0.1 * before: break"""

    share = staticmethod(lambda before: before)

    def adapt(self, fast, batch):
        before = None
        for k in range(self.steps):
            loss = self.support_loss(fast, batch).item()
            if before is not None and before - loss < 0.1 * self.share(before):
                break
            before, fast = loss, self.step(fast, self.gradient(fast, batch, k), k)
        return fast


makes("early_stop_by_gain", {"stop_gain": 0.1, "gain_like": "absolute"})(
    named(LittleGain, "if before - loss < 0.1: break", share=staticmethod(lambda before: 1))
)


makes("early_stop_by_gain", {"stop_gain": 0.1, "gain_like": "of its size"})(
    named(LittleGain, "if loss > before - 0.1 * abs(before): break", share=staticmethod(abs))
)


@makes("rises_refused", {"on_a_rise": "ends"})
class Risen(MAML):
    """if loss > before: break"""

    def adapt(self, fast, batch):
        losses = []
        for k in range(self.steps):
            losses.append(self.support_loss(fast, batch).item())
            if losses[-1] > losses[0 if k == 0 else -2]:
                break
            fast = self.step(fast, self.gradient(fast, batch, k), k)
        return fast


@makes("rises_refused", {"on_a_rise": "ends before it"})
class Rejected(MAML):
    """a step that raises the loss is not taken"""

    def adapt(self, fast, batch):
        for k in range(self.steps):
            new = self.step(fast, self.gradient(fast, batch, k), k)
            if self.support_loss(new, batch) <= self.support_loss(fast, batch):
                fast = new
        return fast


@makes("rises_refused", {"on_a_rise": "α halved until lower"})
class LineSearch(MAML):
    """α is halved, ten times at most, until the loss does not rise"""

    def adapt(self, fast, batch):
        for k in range(self.steps):
            g, loss = self.gradient(fast, batch, k), self.support_loss(fast, batch)
            for halvings in range(11):
                new = self.step(fast, {n: x * 0.5**halvings for n, x in g.items()}, k)
                if self.support_loss(new, batch) <= loss:
                    break
            fast = new
        return fast


@makes("rises_refused", {"on_a_rise": "α halved from then on"})
class BoldDriver(MAML):
    """α is halved whenever the loss has risen"""

    def adapt(self, fast, batch):
        share, before = 1.0, float("inf")
        for k in range(self.steps):
            loss = self.support_loss(fast, batch).item()
            share, before = share / 2 if loss > before else share, loss
            fast = self.step(fast, {n: share * x for n, x in self.gradient(fast, batch, k).items()}, k)
        return fast


makes("alpha_of_last_step")(
    named(Scheduled, "α / 2 in the last step", times=staticmethod(lambda k, steps: 0.5 if k == steps - 1 else 1))
)


@makes("alpha_by_depth")
class LayerwiseDecay(MAML):
    """α / 2 per layer below the head"""

    def step(self, fast, g, k):
        used = [m["params"] for m in self.case.model["layers"] if m.get("params")]
        depth: dict[str, int] = {}
        for i, names in enumerate(self.ordered(used)):
            for n in names:
                depth.setdefault(n, i)
        return {n: p - 0.5 ** depth.get(n, 0) * self.rate[n] * g[n] for n, p in fast.items()}

    def ordered(self, used):
        return reversed(used)


makes("alpha_by_depth", {"rate_depth": 0.5, "depth_like": "from the first layer"})(
    named(LayerwiseDecay, "α / 2 per layer above the first", ordered=lambda self, used: used)
)


class OverOneLess(MAML):
    """sum / (N − 1)"""

    sides = ("support", "query")

    def more(self, side, batch):
        n = len(batch[1])
        return n / (n - 1) if side in self.sides and n > 1 else 1

    def support_loss(self, fast, batch):
        return super().support_loss(fast, batch) * self.more("support", batch)

    def query_loss(self, fast, batch):
        return super().query_loss(fast, batch) * self.more("query", batch)


makes("alpha_over_one_less")(named(OverOneLess, "the support's sum / (N − 1)", sides=("support",)))
makes("alpha_over_one_less", {"rate": "over one less", "loss": "query over one less"})(OverOneLess)
makes("query_over_one_less")(named(OverOneLess, "the query's sum / (N − 1)", sides=("query",)))


# ── what the outer loss has beside the query loss ───────────────────────────────────────────────────────────────────


class OnTheWay(MAML):
    """the query loss + a tenth of the inner losses"""

    mean = False

    def task(self, support, query):
        total = super().task(support, query)
        losses = [self.support_loss(fast, support) for fast in self.trace[-1]["theta"][:-1]]
        return total + 0.1 * sum(losses) / (len(losses) if self.mean and losses else 1)


makes("support_losses_on_the_way_added")(OnTheWay)
makes("support_losses_on_the_way_added", {"support_way_weight": 0.1, "support_way_like": "averaged"})(
    named(OnTheWay, "the query loss + a tenth of the inner losses' mean", mean=True)
)
makes("outer_proximal_term")(
    named(Added, "+ ½ |θ_K − θ|²",
          more=lambda self, fast, s, q: 0.5 * sum(((p - self.theta[n]) ** 2).sum() for n, p in fast.items()))
)  # fmt: skip


# ── the way back ────────────────────────────────────────────────────────────────────────────────────────────────────


class GroupDetached(MAML):
    """the inner gradients of some parameters are detached"""

    of: str

    def gradient(self, fast, batch, k):
        these = group(self.case, self.of)
        return {n: g.detach() if n in these else g for n, g in super().gradient(fast, batch, k).items()}


class GroupBlind(ByHand):
    """the inner gradients do not depend on some parameters, as if these were detached"""

    of: str

    def product(self, theta, batch, v):
        h = super().product(theta, batch, v)
        return {n: 0 * x if n in group(self.case, self.of) else x for n, x in h.items()}


for _of in ("biases", "head", "body", "first layer", "no biases", "vectors", "matrices"):
    makes("group_detached", {"cut_of": _of})(named(GroupDetached, f"detached gradients: {_of}", of=_of))
    makes("group_detached", {"blind_of": _of})(named(GroupBlind, f"detached values: {_of}", of=_of))


@makes("layer_blocks_of_hessian")
class LayerBlocks(ByHand):
    """one product per layer"""

    def product(self, theta, batch, v):
        left, out = list(v), {}
        for layer in [*self.case.model["layers"], *({"params": [n]} for n in v)]:
            these = [n for n in layer.get("params", []) if n in left]
            left = [n for n in left if n not in these]
            if these:
                h = super().product(theta, batch, {n: x if n in these else 0 * x for n, x in v.items()})
                out |= {n: h[n] for n in these}
        return {n: out[n] for n in v}


class OtherExamples(ByHand):
    """The Hessian of other examples."""

    def batch(self, support, query):
        return self.examples(support, query)


makes("hessian_of_other_examples", {"hessian_on": "support of the first task"})(
    named(OtherExamples, "xs[0], ys[0]", examples=lambda self, s, q: self.tasks[0][0])
)
makes("hessian_of_other_examples", {"hessian_on": "support of the last task"})(
    named(OtherExamples, "closures see the loop's last xs and ys", examples=lambda self, s, q: self.tasks[-1][0])
)
makes("hessian_of_some_examples")(
    named(OtherExamples, "xs[:1], ys[:1]", examples=lambda self, s, q: (s[0][:1], s[1][:1]))
)


@makes("hessian_of_other_examples", {"hessian_on": "both sets"})
class HessianOfBoth(ByHand):
    """the Hessian of ½ (L_s + L_q)"""

    def batch(self, support, query):
        return support, query

    def product(self, theta, batch, v):
        h, other = (super(HessianOfBoth, self).product(theta, part, v) for part in batch)
        return {n: (x + other[n]) / 2 for n, x in h.items()}


class InSomeTasks(MAML):
    """create_graph = t > 0"""

    def create(self, t):
        return t > 0

    def gradient(self, fast, batch, k):
        number = next(t for t, (support, _) in enumerate(self.tasks) if support is batch)
        create = self.create(number) and not self.case.first_order
        return grad(self.support_loss(fast, batch), fast, create_graph=create)


for _which, _doc, _create in (
    ("every other task", "t % 2 == 0", lambda self, t: t % 2 == 0),
    ("every other task from the second on", "t % 2", lambda self, t: t % 2 == 1),
    ("all but the first task", "t > 0", lambda self, t: t > 0),
    ("all but the last task", "t < T - 1", lambda self, t: t < len(self.tasks) - 1),
):
    makes("second_order_in_one_task", {"second_order": _which})(
        named(InSomeTasks, f"create_graph = {_doc}", create=_create)
    )


class Hooked(ByHand):
    """a hook on the fast weights"""

    def weighted(self, v):
        for n, x in self.hook(dict(v)).items():
            v[n] = x
        return super().weighted(v)


makes("scaled_on_the_way_back")(named(Hooked, "v / 2", hook=lambda self, v: {n: x / 2 for n, x in v.items()}))
makes("clamped_on_the_way_back")(
    named(Hooked, "v.clip(−0.1, 0.1)", hook=lambda self, v: {n: np.clip(x, -0.1, 0.1) for n, x in v.items()})
)
makes("clipped_on_the_way_back")(
    named(Hooked, "v / max(1, |v|)",
          hook=lambda self, v: {n: x / max(1.0, np.sqrt(sum(np.sum(y * y) for y in v.values()))) for n, x in v.items()})
)  # fmt: skip


# ── the last of the loops ───────────────────────────────────────────────────────────────────────────────────────────


TRANSFORMED = {
    "root": torch.sqrt, "exponential": torch.exp, "softplus": torch.nn.functional.softplus, "sigmoid": torch.sigmoid,
}  # fmt: skip


class Transformed(MAML):
    """p - f(lr) * g"""

    f: Callable

    def __init__(self, case):
        super().__init__(case)
        self.rate = {n: self.f(a) for n, a in self.rate.items()}


for _which, _f in TRANSFORMED.items():
    makes("alpha_transformed", {"rate": _which})(
        named(Transformed, f"{_which} of lr", f=lambda self, a, f=_f: f(a)))  # fmt: skip


@makes("alpha_squared")
class Squared(MAML):
    """p − α (α g)"""

    def step(self, fast, g, k):
        return super().step(fast, {n: self.rate[n] * x for n, x in g.items()}, k)


@makes("part_of_the_way")
class Between(MAML):
    """torch.lerp(θ, θ_K, ½)"""

    def query_loss(self, fast, batch):
        return super().query_loss({n: (p + self.theta[n]) / 2 for n, p in fast.items()}, batch)


@makes("running_mean_over_tasks", {"outer_momentum": 0.9, "outer_momentum_like": "from the first"})
class RunningMeanFromTheFirst(OfEach):
    """m = the first; m = 0.9 m + 0.1 g"""

    def combined(self, grads):
        mean = grads[0]
        for g in grads[1:]:
            mean = 0.9 * mean + (1 - 0.9) * g
        return mean


@makes("divided_in_the_loop", {"outer": "over T in turn"})
class IndentedTooFar(MAML):
    """total = (total + loss) / T in the loop"""

    def together(self, losses):
        total = 0.0
        for loss in losses:
            total = (total + loss) / len(losses)
        return total


@makes("divided_in_the_loop", {"outer": "over its number"})
class OverItsNumber(MAML):
    """total += loss / (t + 1)"""

    def together(self, losses):
        return sum(loss / (t + 1) for t, loss in enumerate(losses))


makes("gradient_over_k")(
    named(MAML, "g / K", finish=lambda self, grads: {n: g / max(self.steps, 1) for n, g in grads.items()})
)
makes("mean_over_tasks_twice")(
    named(MAML, "mean(losses) / T", together=lambda self, losses: torch.stack(losses).mean() / len(losses))
)
makes("gradient_over_alpha")(
    named(MAML, "g / α",
          finish=lambda self, grads: {n: torch.where(self.rate[n] == 0, g, g / self.rate[n]) for n, g in grads.items()})
)  # fmt: skip


class InnerReturned(MAML):
    """the gradients of the inner steps"""

    def __call__(self):
        total, out = self.together(self.losses()), {n: torch.zeros_like(p) for n, p in self.theta.items()}
        for way, (support, _) in zip(self.trace, self.tasks, strict=True):
            for g in self.chosen([grad(self.support_loss(fast, support), fast) for fast in way["theta"][:-1]]):
                out = {n: x + g[n] / len(self.tasks) for n, x in out.items()}
        return {"meta_grad": out, "meta_loss": total.detach()}


for _which, _chosen in {
    "sum of support gradients": lambda self, gs: gs,
    "mean of support gradients": lambda self, gs: [{n: x / len(gs) for n, x in g.items()} for g in gs],
    "last support gradient": lambda self, gs: gs[-1:],
    "first support gradient": lambda self, gs: gs[:1],
}.items():
    makes("support_gradients_returned", {"result": _which})(named(InnerReturned, _which, chosen=_chosen))

for _of in ("first layer", "no biases", "vectors", "matrices"):
    makes("part_without_gradient", {"result": f"{_of} zero"})(
        named(Silent, f"frozen: {_of}", heard=lambda self, n, of=_of: n not in group(self.case, of))
    )


# ── one of the two passes ───────────────────────────────────────────────────────────────────────────────────────────


class OneForward(MAML):
    """torch.cat((xs, xq)) goes through the network in the passes of one set"""

    of: str

    def task(self, support, query):
        self.sets = support, query
        return super().task(support, query)

    def of_part(self, fast, part):
        (xs, _), (xq, _) = self.sets
        library, name = self.framework(), self.case.model["loss"]
        o = outputs(library, self.case.model, fast, torch.cat((xs, xq)))[part]
        return library.mean(o) if name == "mean" else getattr(library, name)(o, self.sets[self.of == "query"][1])

    def support_loss(self, fast, batch):
        return self.of_part(fast, slice(len(batch[0]))) if self.of == "support" else super().support_loss(fast, batch)

    def query_loss(self, fast, batch):
        rows = slice(len(self.sets[0][0]), None)
        return self.of_part(fast, rows) if self.of == "query" else super().query_loss(fast, batch)


for _of in ("support", "query"):
    makes("one_forward_for_both", {"data": f"one forward for both sets, in {_of}"})(
        named(OneForward, f"torch.cat((xs, xq)) in the {_of} passes", of=_of)
    )


def in_one_pass(id: str, of: str, form: int | dict, to: str) -> None:
    """Registers the code that makes a mistake `form` of `of` in both losses, with an honest pass in one of them."""
    place = form if isinstance(form, int) else CATALOGUE[of].forms.index(form)
    made = next(m.mine.__wrapped__ for m in MADE[of] if m.form == place and hasattr(m.mine, "__wrapped__"))
    passes = {"support": "query_loss", "query": "support_loss"}  # the pass that is honest

    def honest(self, fast, batch):
        return models.loss_in(models.Torch(), self.case.model)(fast, *batch)

    makes(id, CATALOGUE[of].forms[place] | {"on": to})(
        named(made, f"{(made.__doc__ or of).strip()}, in the {to} pass alone", **{passes[to]: honest})
    )


for _to in ("support", "query"):
    in_one_pass("batch_norm_otherwise_once", "unbiased_variance", 0, _to)
    in_one_pass("batch_norm_otherwise_once", "running_statistics", 0, _to)
    for _place in range(3):
        in_one_pass("activation_missing_once", "activation_missing", _place, _to)


# ── counts, rates and statistics of the other set ───────────────────────────────────────────────────────────────────


class OtherCount(MAML):
    """the sum over one set, divided by the number of the other one's examples"""

    of = "query"

    def task(self, support, query):
        self.counts = {"support": len(support[1]), "query": len(query[1])}
        return super().task(support, query)

    def support_loss(self, fast, batch):
        more = self.counts["support"] / self.counts["query"] if self.of == "support" else 1
        return super().support_loss(fast, batch) * more

    def query_loss(self, fast, batch):
        more = self.counts["query"] / self.counts["support"] if self.of == "query" else 1
        return super().query_loss(fast, batch) * more


makes("query_over_support_count")(OtherCount)
makes("alpha_over_query_count")(named(OtherCount, "the support loss over the query's number", of="support"))


@makes("rate_outside_of_hessian")
class RateOutside(ByHand):
    """v − α (H v)"""

    def weighted(self, v):
        return v

    def product(self, theta, batch, v):
        return {n: self.rate[n] * h for n, h in super().product(theta, batch, v).items()}


for _like, _more in {
    "central, undivided": {"central": True, "times": 2}, "one-sided, halved": {"times": 0.5},
    "central, undivided, over |v|": {"central": True, "over_norm": True, "times": 2},
}.items():  # fmt: skip
    makes("hessian_by_differences", {"difference": 0.01, "difference_like": _like})(
        named(Differences, f"differences, {_like}", **_more)
    )


class KeptStatistics(MAML):
    """The query set is normalised by what a pass over the support set has kept."""

    at_end, unbiased, held = False, False, False

    def task(self, support, query):
        library, over = Layers(), lambda x: tuple(range(x.ndim - 1))

        def batch_norm(x, gamma, beta):
            place = len(self.used)
            mean, variance = x.mean(over(x)), x.var(over(x), unbiased=False)
            constant = (mean.detach(), variance.detach())
            self.used.append((mean, x.var(over(x), unbiased=self.unbiased and x.numel() > x.shape[-1])))
            if self.evaluating:
                mean, variance = self.kept[place]
            elif self.held:
                mean, variance = constant
            return (x - mean) / torch.sqrt(variance + models.EPS) * gamma + beta

        library.batch_norm = batch_norm
        honest, self.used, self.kept, self.evaluating = models.loss_in(library, self.case.model), [], [], False

        def loss(params, x, y):
            self.used.clear()
            value = honest(params, x, y)
            if not self.evaluating:
                self.kept = [self.of_support(*pair) for pair in self.used]
            return value

        self.loss = loss
        fast = self.adapt(self.theta, support)
        if self.at_end:
            self.loss(fast, *support)
        self.evaluating = bool(self.kept)
        return self.query_loss(fast, query)

    def of_support(self, mean, variance):
        return mean.detach(), variance.detach()


for _which in ("biased", "unbiased"):
    _form = {"running": _which, "running_momentum": 1.0}
    makes("last_statistics_for_query", _form)(
        named(KeptStatistics, f"{_which} statistics of the last inner step", unbiased=_which == "unbiased")
    )
    makes("last_statistics_for_query", _form | {"how": {"norm": "statistics held"}})(
        named(KeptStatistics, f"{_which} statistics, detached in every pass", unbiased=_which == "unbiased", held=True)
    )
    makes("last_statistics_for_query", _form | {"running_like": "differentiated"})(
        named(KeptStatistics, f"{_which} statistics of the last inner step, with their graph",
              unbiased=_which == "unbiased", of_support=lambda self, mean, variance: (mean, variance))
    )  # fmt: skip
makes("support_statistics_for_query",
      {"data": "statistics of the support set", "on": "query", "how": {"norm": "statistics held"}})(
    named(KeptStatistics, "the support set's statistics, detached", at_end=True)
)  # fmt: skip
makes("support_statistics_for_query",
      {"data": "statistics of the support set", "on": "query", "how": {"unbiased": True}})(
    named(KeptStatistics, "the support set's statistics, unbiased", at_end=True, unbiased=True,
          of_support=lambda self, mean, variance: (mean, variance))
)  # fmt: skip


# ── from one task to the next ───────────────────────────────────────────────────────────────────────────────────────


class GroupLeaks(MAML):
    """p.data.copy_(fast): some parameters start where the task before has left them"""

    of: str

    def losses(self):
        out, start = [], self.theta
        for support, query in self.tasks:
            fast = self.adapt(start, support)
            out.append(self.query_loss(fast, query))
            # the same leaf with another value: what is added is a constant
            moved = {n: p + (fast[n] - p).detach() for n, p in self.theta.items()}
            start = {n: moved[n] if n in of_kind(self.case, self.of) else p for n, p in start.items()}
        return out


for _of in ("biases", "head", "body", "first layer", "no biases", "vectors", "matrices", "batch norm"):
    makes("group_leaks", {"start": "leaked, detached", "start_of": _of})(named(GroupLeaks, f"in place: {_of}", of=_of))


class TaskByTask(MAML):
    """What a task does depends on its place."""

    place = -1

    def task(self, support, query):
        self.place += 1
        self.steps = self.count(self.case.inner_steps)
        return super().task(support, query)

    def count(self, steps):
        return steps


for _which, _count in {
    "the first task": lambda self, steps: 0 if self.place else steps,
    "all but the first": lambda self, steps: steps if self.place else 0,
    "the last task": lambda self, steps: steps if self.place == len(self.tasks) - 1 else 0,
    "a step more per task": lambda self, steps: steps + self.place,
}.items():
    makes("steps_in_some_tasks", {"steps_in": _which})(named(TaskByTask, f"steps in {_which}", count=_count))


class Fading(TaskByTask):
    """scheduler.step() in every inner step, and never reset"""

    def step(self, fast, g, k):
        return super().step(fast, {n: 0.9 ** self.exponent(k) * x for n, x in g.items()}, k)

    def exponent(self, k):
        return self.place * self.steps + k


makes("alpha_falls_through_tasks")(Fading)
makes("alpha_falls_through_tasks", {"rate_falls": 0.9, "falls_like": "from task to task"})(
    named(Fading, "scheduler.step() after every task", exponent=lambda self, k: self.place)
)
