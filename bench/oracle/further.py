"""The catalogue's second half, made in code: other updates, losses, layers, data and digits, as people write them.

`mistakes` imports this at its end, and has the register. Most of it is `MAML` with one method changed; where a class
has no create_graph as well, `makes` registers that on its own.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable

import numpy as np

import tinymaml as tm
from tinymaml import extras
from tinymaml.oracle import models
from tinymaml.oracle.catalogue import CATALOGUE

from .mistakes import (
    MAML,
    Adapting,
    Backward,
    ByHand,
    FirstOrder,
    Layers,
    Learner,
    OtherData,
    SecondUseOnly,
    create_graph_where,
    grad,
    makes,
    other,
    outputs,
)  # fmt: skip

torch = extras.require("torch", "peers")
F = torch.nn.functional

# ── digits ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def shorter(x, dtype: str):
    """Through a shorter type and back."""
    return x.to(getattr(torch, dtype)).to(x.dtype) if x.dtype.is_floating_point else x


class Rounding(MAML):
    """Some of what is given goes through a shorter type."""

    what: str
    dtype: str

    def __init__(self, case):
        super().__init__(case)
        everything, short = self.what == "everything", functools.partial(shorter, dtype=self.dtype)
        if everything or self.what == "rate":
            self.rate = {n: short(a) for n, a in self.rate.items()}
        if everything or self.what == "parameters":
            self.theta = {n: short(p.detach()).requires_grad_() for n, p in self.theta.items()}
        if everything or self.what == "data":
            self.tasks = [tuple((short(x), short(y)) for x, y in task) for task in self.tasks]
        if self.what == "inputs":
            self.tasks = [tuple((short(x), y) for x, y in task) for task in self.tasks]


for _id, _what in (("rate_rounded", "rate"), ("data_rounded", "inputs"), ("data_rounded", "data"),
                   ("parameters_rounded", "parameters"), ("everything_rounded", "everything")):  # fmt: skip
    for _dtype in ("float32", "bfloat16", "float16"):
        _made = type("Rounded", (Rounding,), {"what": _what, "dtype": _dtype, "__doc__": f"{_what}.to({_dtype})"})
        makes(_id, {"rounded": f"{_what} to {_dtype}"})(_made)


# ── the derivative through the inner loop ───────────────────────────────────────────────────────────────────────────


@makes("block_diagonal_hessian")
class BlockDiagonal(MAML):
    """one torch.autograd.grad for each tensor, the others detached"""

    def gradient(self, fast, batch, k):
        out = {}
        for n in fast:
            alone = {m: p if m == n else p.detach() for m, p in fast.items()}
            loss = self.support_loss(alone, batch)
            out[n] = grad(loss, {n: alone[n]}, create_graph=not self.case.first_order)[n]
        return out


class WrittenOut(ByHand):
    """The Hessian as a matrix, of which something is lost."""

    def product(self, theta, batch, v):
        columns = []
        for name, p in v.items():
            for i in range(p.size):
                e = {n: np.zeros(q.shape, q.dtype) for n, q in v.items()}
                e[name].flat[i] = 1
                columns.append(np.concatenate([np.ravel(h) for h in super().product(theta, batch, e).values()]))
        h = self.kept(np.stack(columns, 1)) @ np.concatenate([np.ravel(x) for x in v.values()])
        ends = np.cumsum([x.size for x in v.values()])
        return {n: h[end - x.size : end].reshape(x.shape) for (n, x), end in zip(v.items(), ends, strict=True)}


@makes("half_of_the_hessian")
class Mirrored(WrittenOut):
    """L + Lᵀ"""

    kept = staticmethod(lambda h: np.tril(h) + np.tril(h).T)


@makes("half_of_the_hessian", 1)
class Lower(WrittenOut):
    """np.tril"""

    kept = staticmethod(np.tril)


@makes("half_of_the_hessian", 2)
class Upper(WrittenOut):
    """np.triu"""

    kept = staticmethod(np.triu)


@makes("half_of_the_hessian", 3)
class Hollow(WrittenOut):
    """pairs i < j alone"""

    kept = staticmethod(lambda h: np.tril(h, -1) + np.tril(h, -1).T)


@makes("hessian_of_another_step")
class Late(ByHand):
    """the Hessian at thetas[k + 1]"""

    def at(self, thetas, k):
        return thetas[k + 1]


@makes("hessian_of_another_step", 1)
class OneEarly(ByHand):
    """the Hessian at thetas[k - 1]"""

    def at(self, thetas, k):
        return thetas[max(k - 1, 0)]


@makes("small_products_skipped")
class Skipping(ByHand):
    """if norm(h) >= 0.1 * norm(v): v = v - h"""

    def weighted(self, v):
        self.before = v
        return super().weighted(v)

    def product(self, theta, batch, v):
        h = super().product(theta, batch, v)
        size = lambda tree: np.sqrt(sum(np.sum(x * x) for x in tree.values()))  # noqa: E731
        return {n: x * (size(h) >= 0.1 * size(self.before)) for n, x in h.items()}


@makes("query_gradient_one_step_early")
class Early(ByHand):
    """g_q(θ_{K−1})"""

    def task(self, support, query):
        value, v = tm.value_and_grad(self.loss)((self.way(support)[:-1] or [self.theta])[-1], *query)
        for k in reversed(range(self.k)):
            h = self.product(self.way(support)[k], support, self.weighted(v))
            v = {n: v[n] - h[n] for n in v}
        return value, v


@makes("empirical_fisher")
class Fisher(ByHand):
    """g (gᵀ v)"""

    def product(self, theta, batch, v):
        g = tm.grad(self.loss)(theta, *batch)
        size = sum(np.sum(g[n] * v[n]) for n in v)
        return {n: x * size for n, x in g.items()}


@makes("empirical_fisher", 1)
class FisherPerExample(Fisher):
    """the mean of g (gᵀ v) over examples"""

    def product(self, theta, batch, v):
        x, y = batch
        each = [super(FisherPerExample, self).product(theta, (x[i : i + 1], y[i : i + 1]), v) for i in range(len(x))]
        return {n: sum(h[n] for h in each) / len(each) for n in v}


@makes("first_order_in_alpha")
class Expanded(ByHand):
    """g_q − α Σ H g_q"""

    def task(self, support, query):
        thetas = self.way(support)
        value, v = tm.value_and_grad(self.loss)(thetas[-1], *query)
        total = dict(v)
        for k in [] if self.case.first_order else range(self.k):
            h = self.product(self.at(thetas, k), support, {n: self.rate[n] * v[n] for n in v})
            total = {n: total[n] - h[n] for n in v}
        return value, total


@makes("first_order_in_alpha", 1)
class ExpandedAtStart(Expanded):
    """g_q − α K H(θ) g_q"""

    def at(self, thetas, k):
        return thetas[0]


@makes("first_order_in_alpha", 2)
class ExpandedAtEnd(Expanded):
    """g_q − α K H(θ_K) g_q"""

    def at(self, thetas, k):
        return thetas[-1]


@makes("truncated_backpropagation")
class LastStepOnly(MAML):
    """create_graph = k >= K − 1"""

    gradient = create_graph_where(lambda k, steps: k >= steps - 1)


@makes("first_steps_only")
class FirstStepOnly(MAML):
    """create_graph = k < 1"""

    gradient = create_graph_where(lambda k, steps: k < 1)


@makes("implicit_gradient")
class Implicit(Expanded):
    """solve (I + H / λ) x = g_q"""

    def scale(self, n):
        return np.ones_like(self.theta[n])

    def task(self, support, query):
        end = self.way(support)[-1]
        value, v = tm.value_and_grad(self.loss)(end, *query)
        if self.case.first_order:
            return value, v
        flat = lambda tree: np.concatenate([np.ravel(x) for x in tree.values()])  # noqa: E731
        columns = []
        for n, p in end.items():
            for i in range(p.size):
                e = {m: np.zeros_like(q) for m, q in end.items()}
                e[n].flat[i] = np.broadcast_to(self.scale(n), p.shape).flat[i]
                columns.append(flat(tm.hvp(self.loss, (end, *support), e)))
        solved = np.linalg.solve(np.eye(len(columns)) + np.stack(columns, 1), flat(v))
        parts = np.split(solved, np.cumsum([x.size for x in v.values()])[:-1])
        return value, {n: np.reshape(part, np.shape(x)) for (n, x), part in zip(v.items(), parts, strict=True)}


@makes("implicit_gradient", 1)
class ImplicitAtRate(Implicit):
    """solve (I + α H) x = g_q"""

    def scale(self, n):
        return self.rate[n]


@makes("implicit_gradient", 2)
class ImplicitAtRates(Implicit):
    """solve (I + α K H) x = g_q"""

    def scale(self, n):
        return self.rate[n] * self.k


@makes("one_tensor_detached")
class FirstDetached(MAML):
    """the first parameter's inner gradient is detached"""

    def gradient(self, fast, batch, k):
        g = super().gradient(fast, batch, k)
        name = next(iter(g))
        return g | {name: g[name].detach()}


@makes("one_tensor_differentiated")
class LastDifferentiated(MAML):
    """all inner gradients but the last parameter's are detached"""

    def gradient(self, fast, batch, k):
        g = super().gradient(fast, batch, k)
        name = list(g)[-1]
        return {n: x if n == name else x.detach() for n, x in g.items()}


@makes("damped_hessian")
class Damped(ByHand):
    """H v + 0.1 v"""

    def product(self, theta, batch, v):
        return {n: h + 0.1 * v[n] for n, h in super().product(theta, batch, v).items()}


@makes("scaled_hessian")
class HalfDetached(MAML):
    """half of each inner gradient is detached"""

    def gradient(self, fast, batch, k):
        return {n: (g + g.detach()) / 2 for n, g in super().gradient(fast, batch, k).items()}


@makes("hessian_of_sum")
class HessianOfSum(ByHand):
    """the Hessian-vector product of loss × N"""

    def product(self, theta, batch, v):
        return {n: h * len(batch[0]) for n, h in super().product(theta, batch, v).items()}


@makes("hessian_of_sum", 1)
class HessianDividedAgain(ByHand):
    """the Hessian-vector product of loss / N"""

    def product(self, theta, batch, v):
        return {n: h / len(batch[0]) for n, h in super().product(theta, batch, v).items()}


@makes("rate_missing_in_factor")
class NoRate(ByHand):
    """v − H v"""

    def weighted(self, v):
        return {n: np.where(self.rate[n] == 0, 0, x) for n, x in v.items()}


@makes("rate_squared_in_factor")
class RateTwice(ByHand):
    """v − α² H v"""

    def weighted(self, v):
        return {n: self.rate[n] ** 2 * x for n, x in v.items()}


@makes("identity_hessian")
class Identity(ByHand):
    """v − α v"""

    def product(self, theta, batch, v):
        return v


@makes("second_order_in_one_task")
class OnlyTheLastTask(MAML):
    """create_graph in the last task only"""

    place = -1

    def gradient(self, fast, batch, k):
        create = batch is self.tasks[self.place][0] and not self.case.first_order
        return grad(self.support_loss(fast, batch), fast, create_graph=create)


@makes("second_order_in_one_task", 1)
class OnlyTheFirstTask(OnlyTheLastTask):
    """create_graph in the first task only"""

    place = 0


# ── the inner loop: who adapts ──────────────────────────────────────────────────────────────────────────────────────


@makes("frozen_parameter")
class AllButTheFirst(Adapting):
    """the inner update skips the first parameter"""

    def names(self):
        return list(self.theta)[1:]


@makes("one_parameter_adapts")
class OnlyTheFirst(Adapting):
    """break after the first parameter"""

    def names(self):
        return list(self.theta)[:1]


@makes("biases_only")
class BiasesOnly(Adapting):
    """the inner update is of biases alone"""

    def names(self):
        return self.case.biases()


@makes("first_layer_only")
class FirstLayerOnly(Adapting):
    """the inner update is of the first layer alone"""

    def names(self):
        return next(m["params"] for m in self.case.model["layers"] if m.get("params"))


@makes("batch_norm_not_adapted")
class NoBatchNorm(Adapting):
    """the inner update skips γ and β"""

    def names(self):
        normal = [n for m in self.case.model["layers"] if m["layer"] == "batch_norm" for n in m["params"]]
        return [n for n in self.theta if n not in normal]


# ── the inner loop: the update ──────────────────────────────────────────────────────────────────────────────────────


class Changing(MAML):
    """g is changed before the step; `task` says where a task begins, so that nothing stays from the one before."""

    def task(self, support, query):
        self.memory = {}
        return super().task(support, query)

    def step(self, fast, g, k):
        return super().step(fast, self.changed(fast, g, k), k)


@makes("inner_momentum")
class Momentum(Changing):
    """v = 0.9 v + g"""

    def changed(self, fast, g, k):
        self.memory = {n: 0.9 * self.memory.get(n, 0) + g[n] for n in g}
        return self.memory


@makes("inner_gradients_not_zeroed")
class NotZeroed(Changing):
    """g is added to what is there"""

    def changed(self, fast, g, k):
        self.memory = {n: self.memory.get(n, 0) + g[n] for n in g}
        return self.memory


makes("inner_gradients_not_zeroed", 1)(type("NotZeroedDetached", (FirstOrder, NotZeroed), {"__doc__": "the same"}))


@makes("inner_momentum", 1)
class Averaged(Changing):
    """v = 0.9 v + 0.1 g"""

    def changed(self, fast, g, k):
        self.memory = {n: 0.9 * self.memory.get(n, 0) + (1 - 0.9) * g[n] for n in g}
        return self.memory


@makes("inner_momentum", 2)
class Nesterov(Changing):
    """v = 0.9 v + g, and the step is g + 0.9 v"""

    def changed(self, fast, g, k):
        self.memory = {n: 0.9 * self.memory.get(n, 0) + g[n] for n in g}
        return {n: g[n] + 0.9 * v for n, v in self.memory.items()}


@makes("momentum_leaks")
class VelocityKept(MAML):
    """the velocity is made before the loop over tasks"""

    velocity: dict | None = None

    def step(self, fast, g, k):
        self.velocity = {n: 0.9 * (self.velocity or {}).get(n, 0) + g[n] for n in g}
        return super().step(fast, self.velocity, k)


@makes("momentum_leaks", 1)
class VelocityKeptDetached(VelocityKept):
    """the velocity is made before the loop over tasks, and detached after each"""

    def task(self, support, query):
        self.velocity = {n: v.detach() for n, v in (self.velocity or {}).items()}
        return super().task(support, query)


class Coupled(Changing):
    """weight decay in the gradient"""

    def changed(self, fast, g, k):
        return {n: g[n] + 5e-4 * p for n, p in fast.items()}


class CoupledLearner(Learner):
    """a deep copy and SGD(weight_decay=5e-4)"""

    def zero_grad(self, learner):
        for p in learner.values():
            p.grad = None

    def __call__(self):
        total, value = {n: torch.zeros_like(p) for n, p in self.theta.items()}, 0.0
        for support, query in self.tasks:
            learner = {n: p.detach().clone().requires_grad_() for n, p in self.theta.items()}
            optimiser = self.optimiser(learner)
            for _ in range(self.steps):
                self.zero_grad(learner)
                self.support_loss(learner, support).backward()
                for n, p in learner.items():
                    p.grad = torch.zeros_like(p) if p.grad is None else p.grad
                    self.before_step(n, p)
                optimiser.step()
            self.zero_grad(learner)
            loss = self.query_loss(learner, query)
            loss.backward()
            value += loss.item() / self.case.tasks
            for n, p in learner.items():
                total[n] += 0 if p.grad is None else p.grad / self.case.tasks
        return {"meta_grad": total, "meta_loss": value}

    def before_step(self, n, p):
        p.grad = (p.grad + 5e-4 * p.detach()) * self.rate[n]

    def optimiser(self, learner):
        return torch.optim.SGD(list(learner.values()), lr=1.0)


class Decoupled(MAML):
    """weight decay beside the gradient"""

    def step(self, fast, g, k):
        return {n: p - self.rate[n] * 5e-4 * p - self.rate[n] * g[n] for n, p in fast.items()}


makes("inner_weight_decay", {"decay": 5e-4})(Coupled)
makes("inner_weight_decay", {"decay": 5e-4, "decay_like": "decoupled"})(Decoupled)
makes("inner_weight_decay", {"decay": 5e-4, "factors": "updates detached"})(CoupledLearner)
makes("inner_weight_decay", {"decay": 5e-4, "decay_like": "decoupled", "factors": "updates detached"})(
    type("DecoupledLearner", (CoupledLearner,), {"__doc__": "a deep copy and decoupled decay"})
)


@makes("proximal_term")
class Proximal(Changing):
    """g + (p − θ)"""

    def changed(self, fast, g, k):
        return {n: g[n] + 1.0 * (p - self.theta[n]) for n, p in fast.items()}


@makes("proximal_term", {"proximal": 1.0, "factors": "updates detached"})
class ProximalLearner(CoupledLearner):
    """a deep copy, drawn back to θ"""

    def before_step(self, n, p):
        p.grad = (p.grad + (p - self.theta[n]).detach()) * self.rate[n]


def norm_of(g: dict):
    return torch.sqrt(sum((x * x).sum() for x in g.values()))


@makes("inner_clip")
class ClippedInside(Changing):
    """optax.clip_by_global_norm(1)"""

    def changed(self, fast, g, k):
        norm = norm_of(g)
        return g if norm <= 1 else {n: x / norm for n, x in g.items()}


@makes("inner_clip", {"clip_inner": 1.0, "clip_like": "torch"})
class ClippedInsideAsTorch(Changing):
    """clip_grad_norm_(…, 1)"""

    def changed(self, fast, g, k):
        factor = torch.clamp(1.0 / (norm_of(g) + 1e-6), max=1.0)
        return {n: x * factor for n, x in g.items()}


@makes("inner_clip_per_tensor")
class TensorsClippedInside(Changing):
    """each tensor is clipped to norm 0.5"""

    def changed(self, fast, g, k):
        return {n: x if x.norm() <= 0.5 else x * 0.5 / x.norm() for n, x in g.items()}


@makes("inner_clip_per_tensor", {"clip_inner_tensor": 0.5, "clip_like": "torch"})
class TensorsClippedInsideAsTorch(Changing):
    """clip_grad_norm_(p, 0.5) for each parameter"""

    def changed(self, fast, g, k):
        return {n: x * torch.clamp(0.5 / (x.norm() + 1e-6), max=1.0) if x.any() else x for n, x in g.items()}


@makes("inner_clamp")
class ClampedInside(Changing):
    """g.clamp(−0.1, 0.1)"""

    def changed(self, fast, g, k):
        return {n: x.clamp(-0.1, 0.1) for n, x in g.items()}


def unseen(made: type) -> type:
    """The class, with a change that the graph does not see: under torch.no_grad(), by `.data` or `.copy_`."""

    def changed(self, fast, g, k):
        return {n: g[n] + (x - g[n]).detach() for n, x in made.changed(self, fast, g, k).items()}

    return type(f"{made.__name__}InPlace", (made,), {"changed": changed, "__doc__": f"{made.__doc__}, in place"})


@makes("inner_clip", {"clip_inner": 1.0, "change_like": "scale held"})
class ClippedByAConstant(Changing):
    """optax.clip_by_global_norm(1), its scale under stop_gradient"""

    def changed(self, fast, g, k):
        scale = (1 / norm_of(g)).clamp(max=1).detach()
        return {n: x * scale for n, x in g.items()}


@makes("inner_clip", {"clip_inner": 1.0, "clip_like": "torch", "change_like": "scale held"})
class ClippedAsTorchByAConstant(Changing):
    """clip_grad_norm_(…, 1), its scale detached"""

    def changed(self, fast, g, k):
        scale = torch.clamp(1.0 / (norm_of(g) + 1e-6), max=1.0).detach()
        return {n: x * scale for n, x in g.items()}


@makes("inner_clip_per_tensor", {"clip_inner_tensor": 0.5, "change_like": "scale held"})
class TensorsClippedByAConstant(Changing):
    """each tensor is clipped to norm 0.5, its scale detached"""

    def changed(self, fast, g, k):
        return {n: x if x.norm() <= 0.5 else x * (0.5 / x.norm()).detach() for n, x in g.items()}


@makes("inner_clip_per_tensor", {"clip_inner_tensor": 0.5, "clip_like": "torch", "change_like": "scale held"})
class TensorsClippedAsTorchByAConstant(Changing):
    """clip_grad_norm_(p, 0.5) for each parameter, its scale detached"""

    def changed(self, fast, g, k):
        return {n: x * torch.clamp(0.5 / (x.norm() + 1e-6), max=1.0).detach() for n, x in g.items()}


@makes("inner_threshold")
class Sparse(Changing):
    """torch.where(g.abs() > 0.01, g, 0)"""

    def changed(self, fast, g, k):
        return {n: torch.where(x.abs() > 0.01, x, 0.0) for n, x in g.items()}


@makes("inner_threshold", {"inner_threshold": 0.01, "threshold_like": "soft"})
class Shrunk(Changing):
    """F.softshrink(g, 0.01)"""

    def changed(self, fast, g, k):
        return {n: F.softshrink(x, 0.01) for n, x in g.items()}


class DecayAndMomentum(Changing):
    """v = μ v + g + λ p"""

    mu: float

    def changed(self, fast, g, k):
        self.memory = {n: self.mu * self.memory.get(n, 0) + g[n] + 5e-4 * p for n, p in fast.items()}
        return self.memory


for _mu in (0.9, 0.5, 0.99, 0.95, 0.8):
    _way = f"SGD(weight_decay=5e-4, momentum={_mu})"
    _made = type("DecayAndMomentum", (DecayAndMomentum,), {"mu": _mu, "__doc__": _way})
    makes("decay_and_momentum", {"decay": 5e-4, "momentum": _mu})(_made)


@makes("decay_and_momentum", {"decay": 5e-4, "momentum": 0.9, "momentum_like": "nesterov"})
class DecayAndNesterov(Changing):
    """SGD(weight_decay=5e-4, momentum=0.9, nesterov=True)"""

    def changed(self, fast, g, k):
        decayed = {n: g[n] + 5e-4 * p for n, p in fast.items()}
        self.memory = {n: 0.9 * self.memory.get(n, 0) + x for n, x in decayed.items()}
        return {n: x + 0.9 * self.memory[n] for n, x in decayed.items()}


class OneAfterTheOther(MAML):
    """for n in fast: fast[n] = fast[n] - lr * grad(loss(fast), fast)[n]"""

    order = staticmethod(list)

    def adapt(self, fast, batch):
        for k in range(self.steps):
            for n in self.order(fast):
                at = {m: p.view_as(p) for m, p in fast.items()}  # so that no tensor's update is seen through another's
                fast = {**fast, n: fast[n] - self.rate[n] * self.gradient(at, batch, k)[n]}
        return fast


makes("one_tensor_after_the_other")(OneAfterTheOther)
makes("one_tensor_after_the_other", {"inner": "one tensor after the other, by name"})(
    type("OneAfterTheOtherByName", (OneAfterTheOther,), {"order": staticmethod(sorted), "__doc__": "the same, sorted"})
)
makes("one_tensor_after_the_other", {"inner": "one tensor after the other, last first"})(
    type("OneAfterTheOtherBackwards", (OneAfterTheOther,),
         {"order": staticmethod(lambda fast: list(fast)[::-1]), "__doc__": "the same, from the last to the first"})
)  # fmt: skip


@makes("linearised_steps")
class Linearised(MAML):
    """torch.func.jvp(grad(loss), (θ₀,), (θₖ − θ₀,))"""

    def gradient(self, fast, batch, k):
        names, at = list(fast), tuple(self.theta.values())
        g = lambda *ps: torch.func.grad(lambda theta: self.support_loss(theta, batch))(dict(zip(names, ps)))  # noqa: B905, E731
        away = tuple(p - self.theta[n] for n, p in fast.items())
        value, product = torch.func.jvp(lambda *ps: tuple(g(*ps).values()), at, away)
        return {n: x + h for n, x, h in zip(names, value, product, strict=True)}


@makes("linearised_steps", {"inner": "linearised", "factors": "detached"})
class LinearisedDetached(Linearised):
    """the same, detached"""

    def gradient(self, fast, batch, k):
        return {n: x.detach() for n, x in super().gradient(fast, batch, k).items()}


@makes("linearised_steps", 1)
class OneHessian(ByHand):
    """θₖ₊₁ = θₖ − α (g₀ + H₀ (θₖ − θ₀)), and (I − αH₀)ᴷ backwards"""

    def task(self, support, query):
        g, theta = tm.grad(self.loss)(self.theta, *support), self.theta
        for _ in range(self.k):
            h = self.product(self.theta, support, {n: p - self.theta[n] for n, p in theta.items()})
            theta = {n: p - self.rate[n] * (g[n] + h[n]) for n, p in theta.items()}
        value, v = tm.value_and_grad(self.loss)(theta, *query)
        for _ in range(self.k):
            h = self.product(self.theta, support, self.weighted(v))
            v = {n: v[n] - h[n] for n in v}
        return value, v


@makes("iterates_averaged")
class Polyak(MAML):
    """the mean of θ₁ … θ_K"""

    kept = slice(1, None)

    def adapt(self, fast, batch):
        super().adapt(fast, batch)
        thetas = self.trace[-1]["theta"]
        thetas = thetas[self.kept] or thetas
        return {n: sum(theta[n] for theta in thetas) / len(thetas) for n in fast}


makes("iterates_averaged", {"iterates": "all"})(
    type("PolyakWithStart", (Polyak,), {"kept": slice(None), "__doc__": "the mean of θ₀ … θ_K"})
)
makes("iterates_averaged", {"iterates": "all but the last"})(
    type("PolyakOneEarly", (Polyak,), {"kept": slice(-1), "__doc__": "the mean of θ₀ … θ_{K−1}"})
)


@makes("iterates_decay")
class RunningAverage(MAML):
    """mean = 0.9 mean + 0.1 θ, from θ₀"""

    def adapt(self, fast, batch):
        super().adapt(fast, batch)
        mean = fast
        for theta in self.trace[-1]["theta"][1:]:
            mean = {n: 0.9 * m + (1 - 0.9) * theta[n] for n, m in mean.items()}
        return mean


@makes("sign_of_gradient")
class Signs(Changing):
    """g.sign()"""

    def changed(self, fast, g, k):
        return {n: x.sign() for n, x in g.items()}


@makes("normalised_inner_gradient")
class UnitStep(Changing):
    """g / |g|"""

    def changed(self, fast, g, k):
        norm = norm_of(g)
        return {n: x / norm for n, x in g.items()}


@makes("normalised_inner_gradient", {"inner": "tensors normalised"})
class UnitSteps(Changing):
    """g / |g| for each tensor"""

    def changed(self, fast, g, k):
        return {n: x / torch.sqrt((x * x).sum()) for n, x in g.items()}


@makes("normalised_with_epsilon")
class UnitStepWithEpsilon(Changing):
    """g / (|g| + 1e-8)"""

    def changed(self, fast, g, k):
        norm = norm_of(g) + 1e-8
        return {n: x / norm for n, x in g.items()}


@makes("normalised_with_epsilon", {"inner": "normalised, root", "adaptive_eps": 1e-8})
class UnitStepWithEpsilonInside(Changing):
    """g / √(|g|² + 1e-8)"""

    def changed(self, fast, g, k):
        norm = torch.sqrt(norm_of(g) ** 2 + 1e-8)
        return {n: x / norm for n, x in g.items()}


@makes("divided_by_own_size")
class OwnSize(Changing):
    """g / √(g² + 1e-8)"""

    def changed(self, fast, g, k):
        return {n: x / torch.sqrt(x * x + 1e-8) for n, x in g.items()}


@makes("normalised_inner_gradient", {"inner": "normalised", "change_like": "scale held"})
class UnitStepHeld(Changing):
    """g / |g|.detach()"""

    def changed(self, fast, g, k):
        norm = norm_of(g).detach()
        return {n: x / norm for n, x in g.items()}


@makes("normalised_inner_gradient", {"inner": "tensors normalised", "change_like": "scale held"})
class UnitStepsHeld(Changing):
    """g / |g|.detach() for each tensor"""

    def changed(self, fast, g, k):
        return {n: x / torch.sqrt((x * x).sum()).detach() for n, x in g.items()}


for _id, _form, _made in (
    ("inner_clip", {"clip_inner": 1.0}, ClippedInside),
    ("inner_clip", {"clip_inner": 1.0, "clip_like": "torch"}, ClippedInsideAsTorch),
    ("inner_clip_per_tensor", {"clip_inner_tensor": 0.5}, TensorsClippedInside),
    ("inner_clip_per_tensor", {"clip_inner_tensor": 0.5, "clip_like": "torch"}, TensorsClippedInsideAsTorch),
    ("inner_clamp", {"clip_inner_value": 0.1}, ClampedInside),
    ("normalised_inner_gradient", {"inner": "normalised"}, UnitStep),
    ("normalised_inner_gradient", {"inner": "tensors normalised"}, UnitSteps),
):
    makes(_id, _form | {"change_like": "in place"})(unseen(_made))


@makes("adam_inside")
class Adam(Changing):
    """m̂ / (√v̂ + 1e-8)"""

    corrected = True

    def changed(self, fast, g, k):
        m, v = self.memory or ({n: 0 * x for n, x in g.items()},) * 2
        m = {n: 0.9 * m[n] + 0.1 * x for n, x in g.items()}
        v = {n: 0.999 * v[n] + 0.001 * x * x for n, x in g.items()}
        self.memory = m, v
        a, b = (1 - 0.9 ** (k + 1), 1 - 0.999 ** (k + 1)) if self.corrected else (1, 1)
        return {n: (m[n] / a) / (torch.sqrt(v[n] / b) + 1e-8) for n in g}


@makes("adam_inside", {"inner": "adam, biased", "adaptive_eps": 1e-8})
class AdamUncorrected(Adam):
    """m / (√v + 1e-8)"""

    corrected = False


@makes("adam_inside", {"inner": "adam", "adaptive_eps": 1e-8, "factors": "detached"})
class AdamOfTorch(CoupledLearner):
    """a deep copy and torch.optim.Adam"""

    kind = torch.optim.Adam

    def before_step(self, n, p):
        self.before[n] = p.detach().clone()

    def optimiser(self, learner):
        self.before: dict = {}
        optimiser = self.kind(list(learner.values()), lr=1.0)
        optimiser.register_step_post_hook(lambda *_: self.scale(learner))
        return optimiser

    @torch.no_grad()
    def scale(self, learner):
        """Each element has a rate of its own, which PyTorch's optimisers have not."""
        for n, p in learner.items():
            p.copy_(self.before[n] + self.rate[n] * (p - self.before[n]))


@makes("rmsprop_inside")
class RMSprop(Changing):
    """g / (√v + 1e-8), v = 0.99 v + 0.01 g²"""

    def changed(self, fast, g, k):
        self.memory = {n: 0.99 * self.memory.get(n, 0) + 0.01 * x * x for n, x in g.items()}
        return {n: x / (torch.sqrt(self.memory[n]) + 1e-8) for n, x in g.items()}


@makes("rmsprop_inside", {"inner": "adagrad", "adaptive_eps": 1e-8})
class AdaGrad(Changing):
    """g / (√v + 1e-8), v = v + g²"""

    def changed(self, fast, g, k):
        self.memory = {n: self.memory.get(n, 0) + x * x for n, x in g.items()}
        return {n: x / (torch.sqrt(self.memory[n]) + 1e-8) for n, x in g.items()}


@makes("rmsprop_inside", {"inner": "rmsprop", "adaptive_eps": 1e-8, "factors": "detached"})
class RMSpropOfTorch(AdamOfTorch):
    """a deep copy and torch.optim.RMSprop"""

    kind = torch.optim.RMSprop


# ── the inner loop: its rate and its length ─────────────────────────────────────────────────────────────────────────


class OtherRate(MAML):
    """α is another one."""

    def __init__(self, case):
        super().__init__(case)
        self.rate = {n: self.other(a) for n, a in self.rate.items()}


@makes("alpha_over_k")
class RateOverSteps(OtherRate):
    """lr / inner_steps"""

    def other(self, a):
        return a / max(self.steps, 1)


@makes("alpha_over_step")
class RateOverStep(Changing):
    """lr / (k + 1)"""

    def changed(self, fast, g, k):
        return {n: x / (k + 1) for n, x in g.items()}


@makes("alpha_decays")
class RateFalls(Changing):
    """lr * 0.9 ** k"""

    def changed(self, fast, g, k):
        return {n: x * 0.9**k for n, x in g.items()}


@makes("alpha_times_c")
class RateTimes(OtherRate):
    """1.1 * lr"""

    def other(self, a):
        return 1.1 * a


@makes("alpha_is_fixed")
class RateIs(OtherRate):
    """lr = 0.01"""

    def other(self, a):
        return torch.where(a == 0, 0, torch.full_like(a, 0.01))


@makes("alpha_over_tasks")
class SupportOverTasks(MAML):
    """support loss / T"""

    def support_loss(self, fast, batch):
        return self.loss(fast, *batch) / self.case.tasks


@makes("alpha_of_first_size")
class FirstSize(MAML):
    """the sum over examples / len(xs[0])"""

    def support_loss(self, fast, batch):
        return self.loss(fast, *batch) * len(batch[0]) / len(self.tasks[0][0][0])


@makes("fixed_steps")
class FiveSteps(MAML):
    """inner_steps = 5"""

    def __init__(self, case):
        super().__init__(case)
        self.steps = 5


# ── the tasks ───────────────────────────────────────────────────────────────────────────────────────────────────────


@makes("shared_adaptation")
class OneSet(MAML):
    """torch.cat of all support sets"""

    def __init__(self, case):
        super().__init__(case)
        support = tuple(torch.cat(arrays) for arrays in zip(*(s for s, _ in self.tasks), strict=True))
        self.tasks = [(support, query) for _, query in self.tasks]


@makes("shared_adaptation", {"data": "mean of the support losses"})
class MeanOfSupports(MAML):
    """one inner loop, on the mean of all support losses"""

    def support_loss(self, fast, batch):
        return sum(self.loss(fast, *s) for s, _ in self.tasks) / len(self.tasks)


@makes("shared_adaptation", {"data": "first support set for all"})
class FirstSupport(MAML):
    """xs[0], ys[0] in every inner loop"""

    def __init__(self, case):
        super().__init__(case)
        self.tasks = [(self.tasks[0][0], query) for _, query in self.tasks]


@makes("adapted_weights_averaged")
class MeanOfWeights(MAML):
    """the mean of the fast weights, then the query losses"""

    def losses(self):
        ends = [self.adapt(self.theta, support) for support, _ in self.tasks]
        mean = {n: sum(fast[n] for fast in ends) / len(ends) for n in self.theta}
        return [self.query_loss(mean, query) for _, query in self.tasks]


@makes("query_of_next_task")
class NextQuery(MAML):
    """xq and yq are rolled by one"""

    def __init__(self, case):
        super().__init__(case)
        queries = [q for _, q in self.tasks]
        self.tasks = [(s, q) for (s, _), q in zip(self.tasks, queries[1:] + queries[:1], strict=True)]


@makes("query_labels_of_next_task")
class NextLabels(MAML):
    """yq alone is rolled by one"""

    def __init__(self, case):
        super().__init__(case)
        labels = [y for _, (_, y) in self.tasks]
        self.tasks = [(s, (x, y if y.shape == own.shape else own))
                      for (s, (x, own)), y in zip(self.tasks, labels[1:] + labels[:1], strict=True)]  # fmt: skip


@makes("query_of_next_task", {"data": "query of the task before"})
class QueryBefore(MAML):
    """xq[t - 1], yq[t - 1]"""

    def __init__(self, case):
        super().__init__(case)
        self.tasks = [(s, self.tasks[t - 1][1]) for t, (s, _) in enumerate(self.tasks)]


@makes("inputs_rolled")
class Rolled(OtherData):
    """torch.roll(xs, 1, 0)"""

    def data(self, support, query):
        return (support[0].roll(1, 0), support[1]), query


@makes("inputs_rolled", {"data": "support inputs rolled by -1"})
class RolledBack(OtherData):
    """torch.roll(xs, -1, 0)"""

    def data(self, support, query):
        return (support[0].roll(-1, 0), support[1]), query


class FirstTasksData(MAML):
    """some of the data are tasks[0]'s"""

    what: str

    def __init__(self, case):
        super().__init__(case)
        (xs0, ys0), (xq0, yq0) = self.tasks[0]
        took = lambda first, own, name: first if self.what == name and first.shape == own.shape else own  # noqa: E731
        self.tasks = [((took(xs0, xs, "xs"), took(ys0, ys, "ys")), (took(xq0, xq, "xq"), took(yq0, yq, "yq")))
                      for (xs, ys), (xq, yq) in self.tasks]  # fmt: skip


class FirstQuerySet(MAML):
    """xq[0], yq[0] for all tasks"""

    def __init__(self, case):
        super().__init__(case)
        x, y = self.tasks[0][1]
        self.tasks = [(s, (x if x.shape == q[0].shape else q[0], y if y.shape == q[1].shape else q[1]))
                      for s, q in self.tasks]  # fmt: skip


for _what, _data in (("ys", "support labels"), ("yq", "query labels"), ("xs", "support inputs"),
                     ("xq", "query inputs")):  # fmt: skip
    _made = type("FirstTasksData", (FirstTasksData,), {"what": _what, "__doc__": f"{_what}[0] for all tasks"})
    makes("data_of_first_task", {"data": f"{_data} of the first task"})(_made)
makes("data_of_first_task", {"data": "query set of the first task"})(FirstQuerySet)


@makes("support_examples_dropped")
class FirstExample(OtherData):
    """xs[:1]"""

    def data(self, support, query):
        return tuple(a[:1] for a in support), query


@makes("query_examples_dropped")
class FirstQuery(OtherData):
    """xq[:1]"""

    def data(self, support, query):
        return support, tuple(a[:1] for a in query)


@makes("support_last_batch_dropped")
class WholeBatches(OtherData):
    """DataLoader(batch_size=2, drop_last=True)"""

    def data(self, support, query):
        return tuple(a[: len(a) // 2 * 2 or None] for a in support), query


@makes("query_last_batch_dropped")
class WholeQueryBatches(OtherData):
    """the same for the query set"""

    def data(self, support, query):
        return support, tuple(a[: len(a) // 2 * 2 or None] for a in query)


@makes("query_cut_to_support")
class QueryCut(OtherData):
    """xq[: len(xs)]"""

    def data(self, support, query):
        return support, tuple(a[: len(support[0])] for a in query)


@makes("support_cut_to_query")
class SupportCut(OtherData):
    """xs[: len(xq)]"""

    def data(self, support, query):
        return tuple(a[: len(query[0])] for a in support), query


@makes("minibatches_inside")
class MiniBatches(MAML):
    """a DataLoader of batches of 2 in the inner loop"""

    def adapt(self, fast, batch):
        self.batches = itertools.cycle(zip(*(a.split(2) for a in batch), strict=True))
        return super().adapt(fast, batch)

    def support_loss(self, fast, batch):
        return self.loss(fast, *next(self.batches))


def chunk_means(loss: Callable, batch):
    pieces = list(zip(*(a.split(2) for a in batch), strict=True))
    return sum(loss(*piece) for piece in pieces) / len(pieces)


@makes("support_chunk_means")
class SupportChunks(MAML):
    """the mean over chunks of 2 of their means, in the support loss"""

    def support_loss(self, fast, batch):
        return chunk_means(functools.partial(self.loss, fast), batch)


@makes("query_chunk_means")
class QueryChunks(MAML):
    """the mean over chunks of 2 of their means, in the query loss"""

    def query_loss(self, fast, batch):
        return chunk_means(functools.partial(self.loss, fast), batch)


@makes("support_in_outer_loss")
class BothLosses(MAML):
    """(query loss + support loss) / 2"""

    def task(self, support, query):
        fast = self.adapt(self.theta, support)
        return (self.query_loss(fast, query) + self.loss(fast, *support)) / 2


@makes("support_in_outer_loss", {"data": "query and support in one batch"})
class BothSets(MAML):
    """the loss of torch.cat((xs, xq))"""

    def task(self, support, query):
        fast = self.adapt(self.theta, support)
        return self.loss(fast, *(torch.cat(pair) for pair in zip(support, query, strict=True)))


# ── the data ────────────────────────────────────────────────────────────────────────────────────────────────────────


class OtherBatches(OtherData):
    """Each batch by itself."""

    def data(self, *batches):
        return tuple(self.batch(x, y) for x, y in batches)


@makes("labels_renumbered")
class Renumbered(OtherBatches):
    """torch.unique(y, return_inverse=True)[1]"""

    def batch(self, x, y):
        return x, y if y.dtype.is_floating_point else torch.unique(y, return_inverse=True)[1]


@makes("labels_off_by_one")
class OneDown(OtherBatches):
    """y − 1, where −1 is the last class"""

    shift = -1

    def batch(self, x, y):
        if y.dtype.is_floating_point:
            return x, y
        classes = 1 + max(int(y.max()) for task in (self.case.support, self.case.query) for _, y in task)
        return x, (y + self.shift) % classes


@makes("labels_off_by_one", 1)
class OneUp(OneDown):
    """(y + 1) % classes"""

    shift = 1


def standardised(z):
    return (z - z.mean(0)) / (z.std(0, unbiased=False) + 1e-8)


def _regression(case, y) -> bool:
    return "mse" in case.model["loss"] and bool(y.any())


@makes("targets_standardised")
class TargetsStandardised(OtherBatches):
    """(y − y.mean(0)) / y.std(0)"""

    def batch(self, x, y):
        return x, standardised(y) if _regression(self.case, y) else y


@makes("targets_standardised", {"data": "targets centred"})
class TargetsCentred(OtherBatches):
    """y − y.mean(0)"""

    def batch(self, x, y):
        return x, y - y.mean(0) if _regression(self.case, y) else y


@makes("inputs_standardised")
class InputsStandardised(OtherBatches):
    """(x − x.mean(0)) / x.std(0)"""

    def batch(self, x, y):
        return standardised(x), y


@makes("inputs_standardised", {"data": "inputs centred"})
class InputsCentred(OtherBatches):
    """x − x.mean(0)"""

    def batch(self, x, y):
        return x - x.mean(0), y


# ── the loss ────────────────────────────────────────────────────────────────────────────────────────────────────────


def in_place(id: str, how: dict, way: str, **losses: Callable) -> None:
    """Registers another loss: in both loops, in the inner one, in the outer one, as far as the catalogue has them."""
    framework = other(**losses)

    def loss_of(self, fast, batch):
        return models.loss_in(framework.__func__(), self.case.model)(fast, *batch)

    for on, methods in (("both", {"framework": framework}), ("support", {"support_loss": loss_of}),
                        ("query", {"query_loss": loss_of})):  # fmt: skip
        form = {"how": how} | ({} if on == "both" else {"on": on})
        where = {"both": "", "support": ", in the inner loop only", "query": ", in the outer loss only"}[on]
        if form in CATALOGUE[id].forms:
            makes(id, form)(type("Other", (MAML,), methods | {"__doc__": way + where}))


def _class_average(library, o, y):
    counts = torch.bincount(y, minlength=o.shape[1])
    present = torch.unique(y)
    return sum(F.cross_entropy(o[y == c], y[y == c]) for c in present) / (counts > 0).sum()


def _right_class(values):
    """−mean of the right class's value."""
    return lambda library, o, y: -values(o).gather(1, y[:, None]).mean()


in_place("softmax_twice", {"loss": "softmax twice"}, "F.cross_entropy(softmax(o), y)",
         cross_entropy=lambda library, o, y: F.cross_entropy(o.softmax(1), y))  # fmt: skip
in_place("softmax_over_examples", {"loss": "softmax over examples"}, "log_softmax(o, dim=0)",
         cross_entropy=_right_class(lambda o: o.log_softmax(0)))  # fmt: skip
in_place("log_missing", {"loss": "log missing"}, "F.nll_loss(softmax(o), y)",
         cross_entropy=lambda library, o, y: F.nll_loss(o.softmax(1), y))  # fmt: skip
in_place("softmax_missing", {"loss": "softmax missing"}, "F.nll_loss(o, y)",
         cross_entropy=lambda library, o, y: F.nll_loss(o, y))  # fmt: skip
in_place("class_averaged_loss", {"loss": "class averaged"}, "the mean over classes", cross_entropy=_class_average)
in_place("label_smoothing", {"smoothing": 0.1}, "label_smoothing=0.1",
         cross_entropy=lambda library, o, y: F.cross_entropy(o, y, label_smoothing=0.1),
         binary_cross_entropy=lambda library, o, y: F.binary_cross_entropy_with_logits(o, 0.9 * y + 0.05))  # fmt: skip
in_place("epsilon_in_logarithm", {"log_epsilon": 1e-7}, "torch.log(p + 1e-7)",
         cross_entropy=_right_class(lambda o: torch.log(o.softmax(1) + 1e-7)),
         binary_cross_entropy=lambda library, o, y: -(
             y * torch.log(o.sigmoid() + 1e-7) + (1 - y) * torch.log(1 - o.sigmoid() + 1e-7)).mean())  # fmt: skip
in_place("squared_error_of_probabilities", {"loss": "squared error of probabilities"}, "F.mse_loss of probabilities",
         cross_entropy=lambda library, o, y: F.mse_loss(o.softmax(1), F.one_hot(y, o.shape[1]).to(o.dtype)),
         binary_cross_entropy=lambda library, o, y: F.mse_loss(o.sigmoid(), y))  # fmt: skip
in_place("one_against_the_rest", {"loss": "one against the rest"}, "binary_cross_entropy_with_logits(o, one_hot)",
         cross_entropy=lambda library, o, y: F.binary_cross_entropy_with_logits(
             o, F.one_hot(y, o.shape[1]).to(o.dtype)))  # fmt: skip
in_place(
    "averaged_over_classes",
    {"loss": "averaged over classes"},
    "-(one_hot * log_p).mean()",
    cross_entropy=lambda library, o, y: -(F.one_hot(y, o.shape[1]).to(o.dtype) * F.log_softmax(o, 1)).mean(),
)
in_place("temperature", {"temperature": 2.0}, "F.cross_entropy(o / 2, y)",
         cross_entropy=lambda library, o, y: F.cross_entropy(o / 2, y),
         binary_cross_entropy=lambda library, o, y: F.binary_cross_entropy_with_logits(o / 2, y))  # fmt: skip
in_place("sigmoid_twice", {"loss": "sigmoid twice"}, "binary_cross_entropy_with_logits(o.sigmoid(), y)",
         binary_cross_entropy=lambda library, o, y: F.binary_cross_entropy_with_logits(o.sigmoid(), y))  # fmt: skip
in_place("absolute_error", {"loss": "absolute"}, "F.l1_loss", mse=lambda library, o, y: (o - y).abs().mean())
in_place("huber_loss", {"delta": 1.0}, "F.huber_loss", mse=lambda library, o, y: F.huber_loss(o, y, delta=1.0))
in_place("root_of_squared_error", {"loss": "root"}, "torch.sqrt(mse)",
         mse=lambda library, o, y: torch.sqrt(((o - y) ** 2).mean()))  # fmt: skip
in_place("summed_over_outputs", {"loss": "summed over outputs"}, ".sum(1).mean()",
         mse=lambda library, o, y: ((o - y) ** 2).sum(1).mean())  # fmt: skip
in_place("targets_broadcast", {"loss": "all pairs"}, "o − y.squeeze(1)",
         mse=lambda library, o, y: ((o - (y.squeeze(1) if y.shape[1] == 1 else y)) ** 2).mean())  # fmt: skip
in_place("half_squared_error_once", {"unit": 0.5}, "½ mse", mse=lambda library, o, y: ((o - y) ** 2).mean() / 2)


def _smooth_over_the_others(o, y):
    """1 − ε for the right class, ε/(C − 1) for each other one"""
    c = o.shape[1]
    target = torch.full_like(o, 0.1 / (c - 1)).scatter(1, y[:, None], 1 - 0.1)
    return -(target * F.log_softmax(o, 1)).sum(1).mean()


def _one_hot_of(y, classes: int):
    """jax.nn.one_hot: a row of zeros for what is no class"""
    return (y[:, None] == torch.arange(classes)).double()


def _of_targets(move: int) -> Callable:
    return lambda library, o, y: -(_one_hot_of(y + move, o.shape[1]).to(o.dtype) * F.log_softmax(o, 1)).sum(1).mean()


def _without_class_0(o, y):
    """ignore_index=0, where there is anything else"""
    return F.cross_entropy(o, y, ignore_index=0) if (y != 0).any() else (o * 0).sum()


def _summed_hinge(o, y):
    right = o.gather(1, y[:, None])
    margins = (1 + o - right).clamp(min=0).scatter(1, y[:, None], 0.0)
    return margins.sum(1).mean()


def _focal(o, y):
    log_p = F.log_softmax(o, 1).gather(1, y[:, None])
    return -((1 - log_p.exp()) ** 2 * log_p).mean()


def _binary_focal(o, y):
    """torchvision's sigmoid_focal_loss(alpha=-1, gamma=2)"""
    p, ce = o.sigmoid(), F.binary_cross_entropy_with_logits(o, y, reduction="none")
    return (ce * (1 - (p * y + (1 - p) * (1 - y))) ** 2).mean()


def _clamped_nll(o, y):
    return -torch.log(o.softmax(1).clamp(0.1, 1 - 0.1)).gather(1, y[:, None]).mean()


def _clamped_binary(o, y):
    return F.binary_cross_entropy(o.sigmoid().clamp(0.1, 1 - 0.1), y)


def _with_entropy(o, y):
    return F.cross_entropy(o, y) - 0.01 * torch.distributions.Categorical(logits=o).entropy().mean()


def _with_binary_entropy(o, y):
    return F.binary_cross_entropy_with_logits(o, y) - 0.01 * torch.distributions.Bernoulli(logits=o).entropy().mean()


in_place("label_smoothing", {"smoothing": 0.1, "smoothing_like": "over the others"}, "ε/(C − 1) for the other classes",
         cross_entropy=lambda library, o, y: _smooth_over_the_others(o, y),
         binary_cross_entropy=lambda library, o, y: F.binary_cross_entropy_with_logits(
             o, 0.9 * y + 0.1 * (1 - y)))  # fmt: skip
in_place("labels_off_by_one", {"loss": "one-hot of y − 1"}, "jax.nn.one_hot(y - 1, C)", cross_entropy=_of_targets(-1))
in_place("labels_off_by_one", {"loss": "one-hot of y + 1"}, "jax.nn.one_hot(y + 1, C)", cross_entropy=_of_targets(1))
in_place("huber_loss", {"delta": 1.0, "unit": 2.0}, "2 F.huber_loss, which is the square inside",
         mse=lambda library, o, y: 2 * F.huber_loss(o, y))  # fmt: skip
in_place("huber_loss", {"delta": 1.0, "loss": "smooth L1"}, "F.smooth_l1_loss",
         mse=lambda library, o, y: F.smooth_l1_loss(o, y, beta=1.0))  # fmt: skip
in_place("norm_of_residual", {"loss": "root of the sum"}, "torch.linalg.norm(o - y)",
         mse=lambda library, o, y: torch.linalg.norm(o - y))  # fmt: skip
in_place("norm_of_residual", {"loss": "distance"}, "torch.linalg.norm(o - y, dim=1).mean()",
         mse=lambda library, o, y: torch.linalg.norm(o - y, dim=1).mean())  # fmt: skip
in_place("log_cosh_loss", {"loss": "log cosh"}, "torch.log(torch.cosh(o - y)).mean()",
         mse=lambda library, o, y: torch.log(torch.cosh(o - y)).mean())  # fmt: skip
_sums = {
    "mse": lambda library, o, y: F.mse_loss(o, y, reduction="sum"),
    "half_mse": lambda library, o, y: F.mse_loss(o, y, reduction="sum") / 2,
    "cross_entropy": lambda library, o, y: F.cross_entropy(o, y, reduction="sum"),
    "binary_cross_entropy": lambda library, o, y: F.binary_cross_entropy_with_logits(o, y, reduction="sum"),
}
in_place("squared_error_of_logits", {"loss": "squared error of logits"}, "F.mse_loss(o, F.one_hot(y))",
         cross_entropy=lambda library, o, y: F.mse_loss(o, F.one_hot(y, o.shape[1]).to(o.dtype)),
         binary_cross_entropy=lambda library, o, y: F.mse_loss(o, y))  # fmt: skip
in_place("hinge_loss", {"loss": "hinge"}, "the mean over classes of margins, as F.multi_margin_loss has it",
         cross_entropy=lambda library, o, y: _summed_hinge(o, y) / o.shape[1],
         binary_cross_entropy=lambda library, o, y: F.relu(1 - (2 * y - 1) * o).mean())  # fmt: skip
in_place("hinge_loss", {"loss": "summed hinge"}, "the sum over classes of margins",
         cross_entropy=lambda library, o, y: _summed_hinge(o, y))  # fmt: skip
in_place("focal_loss", {"focus": 2.0}, "(1 - p) ** 2 * ce", cross_entropy=lambda library, o, y: _focal(o, y),
         binary_cross_entropy=lambda library, o, y: _binary_focal(o, y))  # fmt: skip
in_place("squared_error_of_probabilities", {"loss": "squared error of probabilities, summed"}, "Brier's score",
         cross_entropy=lambda library, o, y: (
             (o.softmax(1) - F.one_hot(y, o.shape[1])) ** 2).sum(1).mean())  # fmt: skip
in_place("squared_error_of_logits", {"loss": "squared error of logits, summed"}, "((o - one_hot) ** 2).sum(1).mean()",
         cross_entropy=lambda library, o, y: ((o - F.one_hot(y, o.shape[1])) ** 2).sum(1).mean())  # fmt: skip
in_place("one_against_the_rest", {"loss": "one against the rest, summed"}, "bce(o, one_hot).sum(1).mean()",
         cross_entropy=lambda library, o, y: F.binary_cross_entropy_with_logits(
             o, F.one_hot(y, o.shape[1]).to(o.dtype), reduction="none").sum(1).mean())  # fmt: skip
in_place("log_of_mean_probability", {"loss": "logarithm of the mean"}, "-torch.log(p.mean())",
         cross_entropy=lambda library, o, y: -torch.log(o.softmax(1).gather(1, y[:, None]).mean()),
         binary_cross_entropy=lambda library, o, y: -torch.log(
             torch.where(y > 0.5, o.sigmoid(), 1 - o.sigmoid()).mean()))  # fmt: skip
in_place("root_with_epsilon", {"loss": "root", "delta": 1e-6}, "torch.sqrt(mse + 1e-6)",
         mse=lambda library, o, y: torch.sqrt(F.mse_loss(o, y) + 1e-6))  # fmt: skip
in_place("pseudo_huber_loss", {"loss": "pseudo-Huber", "delta": 1.0}, "(torch.sqrt(1 + r ** 2) - 1).mean()",
         mse=lambda library, o, y: (torch.sqrt(1 + (o - y) ** 2) - 1).mean())  # fmt: skip
in_place("pseudo_huber_loss", {"loss": "Charbonnier", "delta": 1.0}, "torch.sqrt(r ** 2 + 1).mean()",
         mse=lambda library, o, y: torch.sqrt((o - y) ** 2 + 1.0).mean())  # fmt: skip
in_place("normalised_squared_error", {"loss": "over the variance"}, "((o - y) ** 2).mean() / y.var(0).mean()",
         mse=lambda library, o, y: ((o - y) ** 2).sum() / (
             ((y - y.mean(0)) ** 2).sum() if len(y) > 1 else (y * y).sum()))  # fmt: skip
for _base, _log in ((2, torch.log2), (10, torch.log10)):
    in_place("logarithm_base", {"loss": f"logarithm to base {_base}"}, _log.__name__,
             cross_entropy=_right_class(lambda o, log=_log: log(o.softmax(1))),
             binary_cross_entropy=lambda library, o, y, log=_log: -(
                 y * log(o.sigmoid()) + (1 - y) * log(1 - o.sigmoid())).mean())  # fmt: skip
in_place("class_0_ignored", {"loss": "class 0 ignored"}, "ignore_index=0",
         cross_entropy=lambda library, o, y: _without_class_0(o, y))  # fmt: skip
in_place("class_0_ignored", {"loss": "class 0 zeroed"}, "(ce * (y > 0)).mean()",
         cross_entropy=lambda library, o, y: (F.cross_entropy(o, y, reduction="none") * (y > 0)).mean())  # fmt: skip
in_place("clamped_probabilities", {"clamped": 0.1}, "p.clamp(0.1, 0.9)",
         cross_entropy=lambda library, o, y: _clamped_nll(o, y),
         binary_cross_entropy=lambda library, o, y: _clamped_binary(o, y))  # fmt: skip
in_place("entropy_bonus", {"entropy": 0.01}, "- 0.01 * entropy",
         cross_entropy=lambda library, o, y: _with_entropy(o, y),
         binary_cross_entropy=lambda library, o, y: _with_binary_entropy(o, y))  # fmt: skip
in_place("positive_weight", {"positive": 2.0}, "pos_weight=2",
         binary_cross_entropy=lambda library, o, y: F.binary_cross_entropy_with_logits(
             o, y, pos_weight=torch.full((1,), 2.0, dtype=o.dtype)))  # fmt: skip


@makes("loss_times_c")
class Doubled(MAML):
    """2 * loss"""

    def support_loss(self, fast, batch):
        return 2 * self.loss(fast, *batch)

    query_loss = support_loss


@makes("summed_loss")
class SummedLoss(MAML):
    """reduction='sum'; o.sum() for o.mean(), where the network's output is the loss"""

    framework = other(**_sums)

    def __init__(self, case):
        super().__init__(case)
        if case.model["loss"] == "mean":
            library = self.framework()
            self.loss = lambda params, x, y: outputs(library, case.model, params, x).sum()


@makes("summed_loss", {"how": {"loss": "summed"}, "on": "query"})
class SummedQueryLoss(SummedLoss):
    """reduction='sum', in the outer loss only"""

    def support_loss(self, fast, batch):
        return models.loss_in(models.Torch(), self.case.model)(fast, *batch)


def penalised(penalty: Callable) -> Callable:
    def loss(self, fast, batch):
        return self.loss(fast, *batch) + 1e-4 * sum(penalty(p) for p in fast.values())

    return loss


for _id, _like, _penalty, _way in (
    ("l2_penalty", {}, lambda p: (p * p).sum() / 2, "½ 1e-4 Σ p²"),
    (
        "l2_penalty",
        {"penalty_like": "weights"},
        lambda p: (p * p).sum() / 2 * (p.ndim > 1),
        "½ 1e-4 Σ p² if p.ndim > 1",
    ),
    ("l1_penalty", {"penalty_like": "absolute"}, lambda p: p.abs().sum(), "1e-4 Σ |p|"),
):
    _form, _loss = {"how": {"penalty": 1e-4} | _like}, penalised(_penalty)
    makes(_id, _form)(type("Penalty", (MAML,), {
        "support_loss": _loss, "query_loss": _loss, "__doc__": f"{_way} in both losses"}))  # fmt: skip
    makes(_id, _form | {"on": "query"})(type("QueryPenalty", (MAML,), {
        "query_loss": _loss, "__doc__": f"{_way} of the fast weights in the query loss"}))  # fmt: skip


# ── batch norm ──────────────────────────────────────────────────────────────────────────────────────────────────────


class Tracking(Layers):
    """Layers with nn.BatchNorm's buffers: the calls of one forward pass come in the layers' order."""

    def __init__(self, layers: int, unbiased: bool):
        super().__init__()
        self.layers, self.unbiased = layers, unbiased
        self.training, self.calls, self.buffers = True, 0, {}

    def batch_norm(self, x, gamma, beta):
        place = self.calls % self.layers
        self.calls += 1
        mean, variance = self.buffers.setdefault(place, (torch.zeros_like(gamma), torch.ones_like(gamma)))
        mean, variance = mean.detach(), variance.detach()
        if self.training:
            z = x.detach().reshape(-1, x.shape[-1])
            self.buffers[place] = (0.9 * mean + 0.1 * z.mean(0),
                                   0.9 * variance + 0.1 * z.var(0, unbiased=self.unbiased and len(z) > 1))  # fmt: skip
            return super().batch_norm(x, gamma, beta)
        return F.batch_norm(x.movedim(-1, 1), mean, variance, gamma, beta, False, 0.1, models.EPS).movedim(1, -1)


class Running(MAML):
    """model.train() for the support set, model.eval() for the query set"""

    unbiased, leaks = True, False

    def __init__(self, case):
        super().__init__(case)
        count = sum(m["layer"] == "batch_norm" for m in case.model["layers"])
        self.layers = Tracking(max(count, 1), self.unbiased)
        self.loss = models.loss_in(self.layers, case.model)

    def task(self, support, query):
        if not self.leaks:
            self.layers.buffers = {}
        return super().task(support, query)

    def query_loss(self, fast, batch):
        self.layers.training = False
        loss = super().query_loss(fast, batch)
        self.layers.training = True
        return loss


for _unbiased in (True, False):
    _kind = "unbiased" if _unbiased else "biased"
    for _id, _leaks, _more in (("running_statistics_for_query", False, {}),
                               ("running_statistics_leak", True, {"kept": "running statistics"})):  # fmt: skip
        _way = f"model.eval() for the query set, {_kind} variance" + (", never reset" if _leaks else "")
        makes(_id, {"running": _kind, "running_momentum": 0.1} | _more)(
            type("Running", (Running,), {"unbiased": _unbiased, "leaks": _leaks, "__doc__": _way})
        )


class TrackingWithGraph(Tracking):
    """Flax's batch_stats, through which the outer gradient goes"""

    def batch_norm(self, x, gamma, beta):
        place = self.calls % self.layers
        self.calls += 1
        mean, variance = self.buffers.setdefault(place, (torch.zeros_like(gamma), torch.ones_like(gamma)))
        if self.training:
            z = x.reshape(-1, x.shape[-1])
            self.buffers[place] = (0.9 * mean + 0.1 * z.mean(0),
                                   0.9 * variance + 0.1 * z.var(0, unbiased=self.unbiased and len(z) > 1))  # fmt: skip
            return Layers.batch_norm(self, x, gamma, beta)
        return (x - mean) / torch.sqrt(variance + models.EPS) * gamma + beta


class RunningWithGraph(Running):
    """batch_stats of the support passes in the query pass, without stop_gradient"""

    def __init__(self, case):
        super().__init__(case)
        self.layers = TrackingWithGraph(self.layers.layers, self.unbiased)
        self.loss = models.loss_in(self.layers, case.model)


for _kind in ("biased", "unbiased"):
    makes("running_statistics_for_query",
          {"running": _kind, "running_momentum": 0.1, "running_like": "differentiated"})(
        type("RunningWithGraph", (RunningWithGraph,), {"unbiased": _kind == "unbiased", "__doc__": _kind})
    )  # fmt: skip


class Joined(MAML):
    """One forward pass of support and query."""

    def __init__(self, case):
        super().__init__(case)
        library = self.layers()
        self.criterion = (
            (lambda o, y: library.mean(o)) if case.model["loss"] == "mean" else getattr(library, case.model["loss"])
        )
        self.net = lambda params, x: outputs(library, case.model, params, x)

    def layers(self):
        return self.framework()

    def task(self, support, query):
        self.both, self.first = torch.cat((support[0], query[0])), len(support[0])
        return super().task(support, query)

    def query_loss(self, fast, batch):
        return self.criterion(self.net(fast, self.both)[self.first :], batch[1])


@makes("one_forward_for_both")
class OneForward(Joined):
    """net(torch.cat((xs, xq))), and its parts"""

    def support_loss(self, fast, batch):
        return self.criterion(self.net(fast, self.both)[: self.first], batch[1])


@makes("support_statistics_for_query")
class SupportStatistics(Joined):
    """the query set is normalised by the support set's mean and variance"""

    def layers(self):
        made = Layers()

        def batch_norm(x, gamma, beta):
            over, measured = tuple(range(x.ndim - 1)), x[: self.first]
            variance = measured.var(over, unbiased=False)
            return (x - measured.mean(over)) / torch.sqrt(variance + models.EPS) * gamma + beta

        made.batch_norm = batch_norm
        return made


def _with_eps(library, x, gamma, beta):
    over = tuple(range(x.ndim - 1))
    return (x - x.mean(over)) / torch.sqrt(x.var(over, unbiased=False) + 1e-5) * gamma + beta


def _layer(id: str, form: dict, way: str, **layers: Callable) -> None:
    """Registers PyTorch's layers with some replaced."""
    makes(id, {"how": form})(type("Other", (MAML,), {"framework": other(**layers), "__doc__": way}))


def _batch_norm(library, x, gamma, beta):
    return models.Torch().batch_norm(x, gamma, beta)


_layer("batch_norm_epsilon", {"eps": 1e-5}, "eps=1e-5", batch_norm=_with_eps)
_layer("batch_norm_without_affine", {"affine": "neither"}, "affine=False",
       batch_norm=lambda library, x, gamma, beta: _batch_norm(library, x, 1, 0))  # fmt: skip
_layer("batch_norm_without_affine", {"affine": "no scale"}, "γ is not used",
       batch_norm=lambda library, x, gamma, beta: _batch_norm(library, x, 1, beta))  # fmt: skip
_layer("batch_norm_without_affine", {"affine": "no shift"}, "β is not used",
       batch_norm=lambda library, x, gamma, beta: _batch_norm(library, x, gamma, 0))  # fmt: skip


def _norm(over: Callable = lambda ndim: tuple(range(ndim - 1)), eps: float = models.EPS, mean=None, variance=None,
          scale: Callable | None = None, one: int = 0) -> Callable:  # fmt: skip
    """Batch norm with other axes; with functions of its mean, of its variance and of both; with 1 + γ."""
    kept = lambda z: z  # noqa: E731
    scale = scale or (lambda v: torch.sqrt(v + eps))

    def norm(library, x, gamma, beta):
        axes = over(x.ndim)
        centre = (mean or kept)(x.mean(axes, keepdim=True))
        spread = (variance or kept)(((x - centre) ** 2).mean(axes, keepdim=True))
        return (x - centre) / scale(spread) * (one + gamma) + beta

    return norm


def _detached(z):
    return z.detach()


def _unbiased(x, gamma, beta, scale: Callable):
    over = tuple(range(x.ndim - 1))
    return (x - x.mean(over)) / scale(x.var(over)) * gamma + beta


_layer("batch_norm_epsilon", {"eps": 1e-5, "unbiased": True}, "x.var(0) + 1e-5",
       batch_norm=lambda library, x, gamma, beta: _unbiased(x, gamma, beta, lambda v: (v + 1e-5).sqrt()))  # fmt: skip
_layer("batch_norm_epsilon_outside", {"norm": "ε outside the root", "eps": 1e-5}, "/ (std + 1e-5)",
       batch_norm=_norm(scale=lambda v: v.sqrt() + 1e-5))  # fmt: skip
_layer("batch_norm_epsilon_outside", {"norm": "ε outside the root", "eps": 1e-5, "unbiased": True},
       "/ (x.std(0) + 1e-5)",
       batch_norm=lambda library, x, gamma, beta: _unbiased(x, gamma, beta, lambda v: v.sqrt() + 1e-5))  # fmt: skip
_layer("batch_norm_statistics_held", {"norm": "statistics held"}, "mean.detach(), var.detach()",
       batch_norm=_norm(mean=_detached, variance=_detached))  # fmt: skip
_layer("batch_norm_statistics_held", {"norm": "mean held"}, "mean.detach()", batch_norm=_norm(mean=_detached))
_layer("batch_norm_statistics_held", {"norm": "variance held"}, "var.detach()", batch_norm=_norm(variance=_detached))
_layer("layer_norm", {"norm": "layer"}, "GroupNorm(1, C)", batch_norm=_norm(lambda ndim: tuple(range(1, ndim))))
_layer("layer_norm", {"norm": "layer, over channels"}, "nn.LayerNorm(C) of NHWC", batch_norm=_norm(lambda ndim: (-1,)))
_layer("instance_norm", {"norm": "instance"}, "F.instance_norm",
       batch_norm=lambda library, x, gamma, beta: models.Torch().batch_norm(x, gamma, beta) if x.ndim == 2 else (
           F.instance_norm(x.permute(0, 3, 1, 2), weight=gamma, bias=beta, eps=models.EPS).permute(0, 2, 3, 1)),
       )  # fmt: skip
_layer("batch_norm_per_pixel", {"norm": "of each pixel"}, "x.mean(0), x.var(0)", batch_norm=_norm(lambda ndim: (0,)))
_layer("rms_norm", {"norm": "not centred"}, "x / (x * x).mean(0).sqrt()", batch_norm=_norm(mean=lambda m: 0 * m))
_layer("scale_plus_one", {"affine": "1 + γ"}, "x̂ * (1 + gamma) + beta", batch_norm=_norm(one=1))


_layer("scale_and_shift_mixed_up", {"affine": "exchanged"}, "x̂ * beta + gamma",
       batch_norm=lambda library, x, gamma, beta: _batch_norm(library, x, beta, gamma))  # fmt: skip
_layer("scale_and_shift_mixed_up", {"affine": "shift first"}, "(x̂ + beta) * gamma",
       batch_norm=lambda library, x, gamma, beta: (_batch_norm(library, x, 1, 0) + beta) * gamma)  # fmt: skip


# ── the layers ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _network(id: str, how: str, way: str, change: Callable, on: tuple = ("support", "query")) -> None:
    """Registers a network made of other layers: `change` gets and returns [(name, layer), …], a layer being called
    with what goes in and the parameters."""

    def build(case, fast):
        library, made = models.Torch(), []
        for layer in case.model["layers"]:
            settings = {k: v for k, v in layer.items() if k not in ("layer", "params")}
            params = [fast[n] for n in layer.get("params", [])]
            made.append((layer["layer"], functools.partial(_call, getattr(library, layer["layer"]), params, settings)))
        return library, change(made)

    def loss(self, fast, batch):
        (library, layers), (x, y) = build(self.case, fast), batch
        for _, layer in layers:
            x = layer(x)
        return library.mean(x) if self.case.model["loss"] == "mean" else getattr(library, self.case.model["loss"])(x, y)

    makes(id, {"how": {"network": how}} | ({"on": on[0]} if len(on) == 1 else {}))(
        type("Network", (MAML,), {f"{which}_loss": loss for which in on} | {"__doc__": way})
    )


def _call(layer, params, settings, x, **more):
    return layer(x, *params, **settings | more)


_HIDDEN = ("tanh", "relu", "softplus", "square")


def _no_activation(which: slice) -> Callable:
    def change(layers):
        places = [i for i, (name, _) in enumerate(layers) if name in _HIDDEN][which]
        return [layer for i, layer in enumerate(layers) if i not in places]

    return change


def _act_at_the_end(act: Callable | None) -> Callable:
    """`act`, or the hidden layers' own."""

    def change(layers):
        own = [layer for layer in layers if layer[0] in _HIDDEN][-1:]
        return layers + (own if act is None else [("act", act)]) * (layers[-1][0] == "linear")

    return change


def _norm_last(layers):
    out = layers.copy()
    for i in range(len(out) - 1):
        if out[i][0] == "batch_norm" and out[i + 1][0] in _HIDDEN and out[i] is layers[i]:
            out[i], out[i + 1] = out[i + 1], out[i]
    return out


def _no(name: str) -> Callable:
    return lambda layers: [layer for layer in layers if layer[0] != name]


def _pool_all(pool: Callable) -> Callable:
    return lambda layers: [(n, pool) if n == "spatial_mean" else (n, layer) for n, layer in layers]


def _image(turn: Callable) -> Callable:
    return lambda layers: [("turn", turn), *layers] if layers[0][0] == "conv" else layers


_network("activation_missing", "activations missing", "no activation at all", _no_activation(slice(None)))
_network("activation_missing", "first activation missing", "the first activation forgotten", _no_activation(slice(1)))
_network("activation_missing", "last activation missing", "the last activation forgotten",
         _no_activation(slice(-1, None)))  # fmt: skip
_network("activation_twice", "activations twice", "act(act(x))",
         lambda layers: [layer for layer in layers for _ in range(2 if layer[0] in _HIDDEN else 1)])  # fmt: skip
_network("output_activation", "last activation on the output", "for w, b in layers: x = act(x @ w + b)",
         _act_at_the_end(None))  # fmt: skip
for _name, _act in (("tanh", torch.tanh), ("sigmoid", torch.sigmoid), ("relu", F.relu), ("softplus", F.softplus)):
    _network("output_activation", f"{_name} on the output", f"{_name}(o)", _act_at_the_end(_act))
_network("batch_norm_behind_activation", "batch norm behind the activation", "bn(act(conv(x)))", _norm_last)
_parametric = ("linear", "conv", "batch_norm")


def _cut_off(last: bool) -> Callable:
    """x.detach() before the last layer with parameters, or behind the first."""

    def change(layers):
        having = [i for i, (name, _) in enumerate(layers) if name in _parametric]
        place = having[-1] if last and having else 1
        return [*layers[:place], ("cut", torch.Tensor.detach), *layers[place:]] if len(having) > 1 else layers

    return change


for _on in (("support", "query"), ("support",), ("query",)):
    _network("features_detached", "detached before the last layer", "head(features.detach())", _cut_off(True), _on)
_network("features_detached", "detached behind the first layer", "first(x).detach()", _cut_off(False))
_network("batch_norm_missing", "batch norm missing", "no bn", _no("batch_norm"))
_network("pooling_missing", "pooling missing", "no max_pool2d", _no("max_pool"))
_network("stride_ignored", "stride 1", "F.conv2d without stride=", lambda layers: [
    (n, functools.partial(layer, stride=1)) if n == "conv" else (n, layer) for n, layer in layers])  # fmt: skip
_network("other_global_pooling", "sum over pixels", "x.sum((1, 2))", _pool_all(lambda x: x.sum((1, 2))))
_network("other_global_pooling", "maximum over pixels", "x.amax((1, 2))", _pool_all(lambda x: x.amax((1, 2))))
_network("images_transposed", "images transposed", "x.permute(0, 3, 2, 1)", _image(lambda x: x.transpose(1, 2)))
_network("images_reshaped", "images reshaped", "x.view(n, c, h, w)", _image(
    lambda x: x.reshape(x.shape[0], x.shape[3], x.shape[1], x.shape[2]).permute(0, 2, 3, 1)))  # fmt: skip
_network("images_flipped", "images mirrored", "x.flip(2)", _image(lambda x: x.flip(2)))
_network("images_flipped", "images upside down", "x.flip(1)", _image(lambda x: x.flip(1)))
_network("channels_reversed", "channels reversed", "x.flip(-1)", _image(lambda x: x.flip(-1)))
_layer("biases_twice", {"biases": "twice"}, "F.linear(x, w.T, b) + b",
       linear=lambda library, x, w, b=0: x @ w + b + b,
       batch_norm=lambda library, x, gamma, beta: _batch_norm(library, x, gamma, beta) + beta)  # fmt: skip
_layer("biases_subtracted", {"biases": "subtracted"}, "x @ w - b", linear=lambda library, x, w, b=0: x @ w - b,
       batch_norm=lambda library, x, gamma, beta: _batch_norm(library, x, gamma, -beta))  # fmt: skip
_layer("weight_scaled", {"weight": "over √fan-in"}, "x @ w / w.shape[0] ** 0.5",
       linear=lambda library, x, w, b=0: x @ w / w.shape[0] ** 0.5 + b)  # fmt: skip
_layer("residual_connection", {"weight": "plus the identity"}, "x + layer(x)",
       linear=lambda library, x, w, b=0: x @ w + b + (x if w.shape[0] == w.shape[1] else 0))  # fmt: skip
_layer("flattened_columns_first", {"flatten": "columns first"}, "x.transpose(1, 2).flatten(1)",
       flatten=lambda _, x: x.transpose(1, 2).flatten(1) if x.ndim == 4 else x.flatten(1))  # fmt: skip
_layer("flattened_columns_first", {"flatten": "channels, columns"}, "x.permute(0, 3, 2, 1).flatten(1)",
       flatten=lambda _, x: x.permute(0, 3, 2, 1).flatten(1) if x.ndim == 4 else x.flatten(1))  # fmt: skip


class Once(MAML):
    """The parameters of one use of each layer are others than those of the next."""

    detached: int

    def support_loss(self, fast, batch):
        seen: dict[str, int] = {}
        (x, y), library = batch, self.framework()
        used = [n for m in self.case.model["layers"] for n in m.get("params", [])]
        for layer in self.case.model["layers"]:
            params = []
            for n in layer.get("params", []):
                seen[n] = seen.get(n, 0) + 1
                there = {0: 1, -1: used.count(n)}[self.detached]
                params.append(fast[n].detach() if used.count(n) > 1 and seen[n] == there else fast[n])
            settings = {k: v for k, v in layer.items() if k not in ("layer", "params")}
            x = getattr(library, layer["layer"])(x, *params, **settings)
        return library.mean(x) if self.case.model["loss"] == "mean" else getattr(library, self.case.model["loss"])(x, y)

    query_loss = support_loss


makes("tied_use_detached", {"how": {"tied": "the first detached"}})(
    type("FirstUseDetached", (Once,), {"detached": 0, "__doc__": "encoder(w.detach()), decoder(w)"})
)
makes("tied_use_detached", {"how": {"tied": "the last detached"}})(
    type("LastUseDetached", (Once,), {"detached": -1, "__doc__": "encoder(w), decoder(w.detach())"})
)


@makes("tied_weight_first_use")
class FirstUseOnly(SecondUseOnly):
    """a shared weight is registered twice, and only the first registration is differentiated"""

    def uses(self, params, held):
        layers = self.case.model["layers"]
        used = [layer.get("params", []) for layer in layers]
        first = {n: i for i, names in reversed(list(enumerate(used))) for n in names}
        return [[params[n] if first[n] == i else held[n] for n in names] for i, names in enumerate(used)]


def _conv(of_filters: Callable, pad: Callable | None = None) -> Callable:
    """F.conv2d with (out, in, h, w) made from (h, w, in, out) by `of_filters`."""

    def conv(library, x, w, stride, padding):
        (top, bottom), (left, right) = (
            models._zeros_around(padding, n, k, stride) for n, k in zip(x.shape[1:3], w.shape[:2], strict=True)
        )
        zeros = pad(w.shape, (left, right, top, bottom)) if pad else (left, right, top, bottom)
        x = F.pad(x.permute(0, 3, 1, 2), zeros)
        return F.conv2d(x, of_filters(w), stride=stride).permute(0, 2, 3, 1)

    return conv


def _if_possible(wrong: Callable) -> Callable:
    """What would not fit, stays as it must be: code with such a mistake fails on other shapes."""

    def filters(w):
        right = w.permute(3, 2, 0, 1)
        return wrong(w) if wrong(w).shape == right.shape else right

    return filters


def _right_filters(w):
    return w.permute(3, 2, 0, 1)


_layer("kernel_channels_exchanged", {"kernel": "channels exchanged"}, "w.permute(2, 3, 0, 1)",
       conv=_conv(_if_possible(lambda w: w.permute(2, 3, 0, 1))))  # fmt: skip
_layer("kernel_flipped", {"kernel": "flipped"}, "w.flip((0, 1))",
       conv=_conv(lambda w: w.flip((0, 1)).permute(3, 2, 0, 1)))  # fmt: skip
_layer("kernel_reshaped", {"kernel": "filters reshaped"}, "w.reshape(out, in, h, w)",
       conv=_conv(lambda w: w.reshape(w.shape[3], w.shape[2], w.shape[0], w.shape[1])))  # fmt: skip
_layer("kernel_rows_columns_exchanged", {"kernel": "rows and columns exchanged"}, "w.permute(3, 2, 1, 0)",
       conv=_conv(_if_possible(lambda w: w.permute(3, 2, 1, 0))))  # fmt: skip
_layer("kernel_reshaped", {"kernel": "column by column"}, "w.reshape(w.shape, order='F')",
       conv=_conv(lambda w: w.reshape(w.shape[::-1]).transpose(2, 3)))  # fmt: skip
_layer("kernel_rows_columns_exchanged", {"kernel": "rows and columns reshaped"}, "w.transpose(0, 1).reshape(w.shape)",
       conv=_conv(lambda w: w.transpose(0, 1).reshape(w.shape).permute(3, 2, 0, 1)))  # fmt: skip
_layer("other_padding", {"padding": "both"}, "padding=k // 2",
       conv=_conv(_right_filters, lambda w, zeros: (w[1] // 2,) * 2 + (w[0] // 2,) * 2))  # fmt: skip
_layer("other_padding", {"padding": "first"}, "the odd zero first",
       conv=_conv(_right_filters, lambda w, zeros: (zeros[1], zeros[0], zeros[3], zeros[2])))  # fmt: skip
_layer(
    "other_padding",
    {"padding": "any stride"},
    "F.pad by (k - 1) // 2 and k // 2, whatever the stride",
    conv=_conv(_right_filters, lambda w, zeros: ((w[1] - 1) // 2, w[1] // 2, (w[0] - 1) // 2, w[0] // 2)),
)
_layer(
    "other_padding",
    {"padding": "any stride, first"},
    "F.pad by k // 2 and (k - 1) // 2, whatever the stride",
    conv=_conv(_right_filters, lambda w, zeros: (w[1] // 2, (w[1] - 1) // 2, w[0] // 2, (w[0] - 1) // 2)),
)
_layer("other_padding", {"padding": "none"}, "padding=0", conv=_conv(_right_filters, lambda w, zeros: (0, 0, 0, 0)))
for _how, _mode in (("edge", "replicate"), ("reflect", "reflect"), ("wrap", "circular")):

    def _pixels(library, x, w, stride, padding, mode=_mode):
        (top, bottom), (left, right) = (
            models._zeros_around(padding, n, k, stride) for n, k in zip(x.shape[1:3], w.shape[:2], strict=True)
        )
        x = F.pad(x.permute(0, 3, 1, 2), (left, right, top, bottom), mode=mode)
        return F.conv2d(x, w.permute(3, 2, 0, 1), stride=stride).permute(0, 2, 3, 1)

    _layer("padded_with_pixels", {"padding": _how}, f"F.pad(mode='{_mode}')", conv=_pixels)
_layer("weight_transposed", {"weight": "transposed"}, "x @ w.T where w is square",
       linear=lambda library, x, w, b=0: x @ (w.T if w.shape[0] == w.shape[1] else w) + b)  # fmt: skip
_layer("weight_reshaped", {"weight": "reshaped"}, "F.linear(x, w.reshape(out, in))",
       linear=lambda library, x, w, b=0: F.linear(x, w.reshape(w.shape[1], w.shape[0])) + b)  # fmt: skip
_layer("mean_pooling", {"pool": "mean"}, "F.avg_pool2d",
       max_pool=lambda library, x, size: F.avg_pool2d(x.permute(0, 3, 1, 2), size).permute(0, 2, 3, 1))  # fmt: skip
_layer("sum_pooling", {"pool": "sum"}, "avg_pool2d(divisor_override=1)", max_pool=lambda library, x, size: F.avg_pool2d(
    x.permute(0, 3, 1, 2), size, divisor_override=1).permute(0, 2, 3, 1))  # fmt: skip
_layer("overlapping_pooling", {"pool": "stride 1"}, "F.max_pool2d(stride=1)", max_pool=lambda library, x, size: (
    F.max_pool2d(x.permute(0, 3, 1, 2), size, stride=1).permute(0, 2, 3, 1)))  # fmt: skip
_layer("pooling_over_the_edge", {"pool": "ceil"}, "ceil_mode=True", max_pool=lambda library, x, size: F.max_pool2d(
    x.permute(0, 3, 1, 2), size, ceil_mode=True).permute(0, 2, 3, 1))  # fmt: skip
_CALLED: dict[str, Callable] = {
    "relu": F.relu, "tanh": torch.tanh, "sigmoid": torch.sigmoid, "softplus": F.softplus, "gelu": F.gelu,
    "tanh gelu": functools.partial(F.gelu, approximate="tanh"), "silu": F.silu, "leaky relu": F.leaky_relu,
    "elu": F.elu, "selu": F.selu, "hard tanh": F.hardtanh, "softsign": F.softsign, "square": torch.square,
    "abs": torch.abs, "rational tanh": lambda x: x * (27 + x * x) / (27 + 9 * x * x),
    "tanh of x/2": lambda x: 2 * torch.sigmoid(x) - 1, "LeCun's tanh": lambda x: 1.7159 * torch.tanh(2 * x / 3),
}  # fmt: skip
for _id in ("one_activation_everywhere", "tanh_activation", "sigmoid_activation", "silu_activation",
            "softplus_activation", "rectifier_for_tanh", "selu_activation", "approximate_tanh", "scaled_tanh",
            "square_activation", "absolute_activation"):  # fmt: skip
    for _form in CATALOGUE[_id].forms:
        _name, _, _of = _form["how"]["activation"].partition(" for ")
        _called = lambda _, x, f=_CALLED[_name]: f(x)  # noqa: E731
        _layer(_id, _form["how"], f"{_name}(x)", **dict.fromkeys(
            ("tanh", "relu", "softplus", "square") if _of == "any" else (_of,), _called))  # fmt: skip
_layer("sharp_softplus", {"sharpness": 2.0}, "F.softplus(x, beta=2)", softplus=lambda _, x: F.softplus(x, beta=2))
_layer("other_activation", {"activation": "gelu for softplus"}, "F.gelu", softplus=lambda _, x: F.gelu(x))
_layer("other_activation", {"activation": "relu for square"}, "F.relu", square=lambda _, x: F.relu(x))
_layer("other_activation", {"activation": "sigmoid for tanh"}, "torch.sigmoid", tanh=lambda _, x: torch.sigmoid(x))
_layer("other_activation", {"activation": "relu for tanh"}, "F.relu", tanh=lambda _, x: F.relu(x))
_layer("other_activation", {"activation": "elu for relu"}, "F.elu", relu=lambda _, x: F.elu(x))
_layer("other_activation", {"activation": "gelu for relu"}, "F.gelu", relu=lambda _, x: F.gelu(x))
_layer("other_activation", {"activation": "tanh gelu for relu"}, "jax.nn.gelu",
       relu=lambda _, x: F.gelu(x, approximate="tanh"))  # fmt: skip
_layer("other_activation", {"activation": "relu for softplus"}, "F.relu", softplus=lambda _, x: F.relu(x))
_layer("other_activation", {"activation": "elu for softplus"}, "F.elu", softplus=lambda _, x: F.elu(x))
_layer("leaky_relu", {"leak": 0.01}, "F.leaky_relu", relu=lambda _, x: F.leaky_relu(x, 0.01))
_layer("leaky_relu", {"leak": 0.01, "relu_at_zero": 1.0}, "jnp.where(x >= 0, x, 0.01 * x)",
       relu=lambda _, x: torch.where(x >= 0, x, 0.01 * x))  # fmt: skip
_layer("flattened_channels_first", {"flatten": "channels first"}, "x.permute(0, 3, 1, 2).flatten(1)",
       flatten=lambda _, x: x.permute(0, 3, 1, 2).flatten(1) if x.ndim == 4 else x.flatten(1))  # fmt: skip


class _OfInput(torch.autograd.Function):
    """tanh that saves x where its backward wants y."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.tanh(x)

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * (1 - x * x)


class _Unsquared(torch.autograd.Function):
    """tanh whose backward has 1 − y for 1 − y²."""

    @staticmethod
    def forward(ctx, x):
        y = torch.tanh(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, g):
        (y,) = ctx.saved_tensors
        return g * (1 - y)


def _backward_of(f: Callable, slope: Callable) -> Callable:
    """A custom Function with f's forward and g * slope(x, y) as its backward."""

    def forward(ctx, x):
        y = f(x)
        ctx.save_for_backward(x, y)
        return y

    def backward(ctx, g):
        return g * slope(*ctx.saved_tensors)

    made = type("Wrong", (torch.autograd.Function,), {
        "forward": staticmethod(forward), "backward": staticmethod(backward)})  # fmt: skip
    return lambda _, x: made.apply(x)


_SLOPE: dict[str, Callable] = {
    "tanh": lambda x: 1 - torch.tanh(x) ** 2, "relu": lambda x: (x > 0).to(x.dtype), "softplus": torch.sigmoid,
    "square": lambda x: 2 * x,
}  # fmt: skip
_layer("wrong_slope_of_tanh", {"activation": "slope y (1 − y) for tanh"}, "g * y * (1 - y)",
       tanh=_backward_of(torch.tanh, lambda x, y: y * (1 - y)))  # fmt: skip
for _of in ("any", "tanh", "relu", "softplus", "square"):
    _which = tuple(_SLOPE) if _of == "any" else (_of,)
    if _of != "square":
        _layer("slope_of_activation_missing", {"activation": f"slope 1 for {_of}"}, "g, straight through",
               **{n: _backward_of(_CALLED[n], lambda x, y: torch.ones_like(x)) for n in _which})  # fmt: skip
    if _of != "relu":
        _layer("slope_of_activation_at_output", {"activation": f"slope at y for {_of}"}, "g * slope(y)",
               **{n: _backward_of(_CALLED[n], lambda x, y, s=_SLOPE[n]: s(y)) for n in _which})  # fmt: skip
for _id, _slope, _f in (
    ("wrong_slope_of_activation", "slope squared", lambda x, y, f: f(x) ** 2),
    ("wrong_slope_of_activation", "slope halved", lambda x, y, f: f(x) / 2),
    ("wrong_slope_of_activation", "slope 1 − f′", lambda x, y, f: 1 - f(x)),
    ("wrong_slope_of_activation", "slope y", lambda x, y, f: y),
):
    for _of in ("any", *_SLOPE):
        if {"how": {"activation": f"{_slope} for {_of}"}} in CATALOGUE[_id].forms:
            _layer(_id, {"activation": f"{_slope} for {_of}"}, f"g * ({_slope})", **{
                n: _backward_of(_CALLED[n], lambda x, y, f=_SLOPE[n], slope=_f: slope(x, y, f))
                for n in (_SLOPE if _of == "any" else (_of,))})  # fmt: skip
_layer("wrong_slope_of_tanh", {"activation": "slope 1 − x² for tanh"}, "x is saved in the place of y",
       tanh=lambda _, x: _OfInput.apply(x))  # fmt: skip
_layer(
    "wrong_slope_of_tanh", {"activation": "slope 1 − y for tanh"}, "g * (1 − y)", tanh=lambda _, x: _Unsquared.apply(x)
)


class Unused(MAML):
    """Some biases are not added."""

    def support_loss(self, fast, batch):
        return self.loss(fast | {n: torch.zeros_like(fast[n]) for n in self.unused()}, *batch)

    query_loss = support_loss


@makes("biases_unused", {"how": {"biases": "missing"}})
class NoBias(Unused):
    """bias=False"""

    def unused(self):
        return self.case.biases()


@makes("biases_unused", {"how": {"biases": "first missing"}})
class FirstBiasUnused(Unused):
    """the first bias is not used"""

    def unused(self):
        return self.case.biases()[:1]


@makes("biases_unused", {"how": {"biases": "last missing"}})
class LastBiasUnused(Unused):
    """the head has no bias"""

    def unused(self):
        return self.case.biases()[-1:]


# ── what becomes of the gradient ────────────────────────────────────────────────────────────────────────────────────


class Finishing(MAML):
    """Something is done to the meta-gradient, tensor by tensor."""

    def finish(self, grads):
        return {n: self.finished(g, self.theta[n].detach()) for n, g in grads.items()}


@makes("clamped_gradient")
class Clamped(Finishing):
    """p.grad.data.clamp_(−10, 10)"""

    def finished(self, g, p):
        return g.clamp(-10, 10)


@makes("gradient_clipped_per_tensor")
class TensorsClipped(Finishing):
    """each tensor is clipped to norm 1"""

    def finished(self, g, p):
        return g if g.norm() <= 1 else g / g.norm()


@makes("gradient_clipped_per_tensor", 1)
class TensorsClippedAsTorch(Finishing):
    """clip_grad_norm_(p, 1) for each parameter"""

    def finished(self, g, p):
        p = p.clone().requires_grad_()
        p.grad = g.clone()
        torch.nn.utils.clip_grad_norm_(p, 1.0)
        return p.grad


@makes("clipped_gradient")
class ClippedByNorm(MAML):
    """optax.clip_by_global_norm(1)"""

    def finish(self, grads):
        norm = norm_of(grads)
        return grads if norm <= 1 else {n: g / norm for n, g in grads.items()}


@makes("clipped_gradient", {"clip": 1.0, "clip_like": "torch"})
class ClippedAsTorch(MAML):
    """clip_grad_norm_(parameters, 1)"""

    def finish(self, grads):
        for n, p in self.theta.items():
            p.grad = grads[n].clone()
        torch.nn.utils.clip_grad_norm_(list(self.theta.values()), 1.0)
        return {n: p.grad for n, p in self.theta.items()}


@makes("outer_weight_decay")
class OuterDecay(MAML):
    """½ 5e-4 Σ p² in the meta-loss"""

    def together(self, losses):
        return super().together(losses) + 0.5 * 5e-4 * sum((p * p).sum() for p in self.theta.values())


@makes("outer_l1_penalty")
class OuterL1(MAML):
    """1e-4 Σ |p| in the meta-loss"""

    def together(self, losses):
        return super().together(losses) + 1e-4 * sum(p.abs().sum() for p in self.theta.values())


@makes("outer_sum_penalty")
class OuterSum(MAML):
    """1e-4 Σ p in the meta-loss"""

    def together(self, losses):
        return super().together(losses) + 1e-4 * sum(p.sum() for p in self.theta.values())


@makes("stepped_between_tasks")
class Stepped(MAML):
    """SGD(lr=0.001).step() in the loop over tasks"""

    def optimiser(self):
        return torch.optim.SGD(list(self.theta.values()), lr=0.001)

    def __call__(self):
        optimiser = self.optimiser()
        total, value = {n: torch.zeros_like(p) for n, p in self.theta.items()}, 0.0
        for task in self.tasks:
            optimiser.zero_grad()
            loss = self.task(*task)
            for n, g in grad(loss, self.theta).items():
                self.theta[n].grad = g
                total[n] += g / self.case.tasks
            optimiser.step()
            value += loss.item() / self.case.tasks
        return {"meta_grad": total, "meta_loss": value}


@makes("stepped_between_tasks", {"outer": "sequential, Adam", "outer_rate": 0.001})
class SteppedByAdam(Stepped):
    """Adam(lr=0.001).step() in the loop over tasks"""

    def optimiser(self):
        return torch.optim.Adam(list(self.theta.values()), lr=0.001)


@makes("weighted_by_examples")
class ByExamples(MAML):
    """one mean over the query examples of all tasks"""

    def together(self, losses):
        sizes = [len(x) for _, (x, _) in self.tasks]
        return sum(n * loss for n, loss in zip(sizes, losses, strict=True)) / sum(sizes)


class OfEach(MAML):
    """Each task's gradient by itself."""

    def __call__(self):
        losses = self.losses()
        each = [grad(loss, self.theta) for loss in losses]
        grads = {n: self.combined(torch.stack([g[n] for g in each])) for n in self.theta}
        return {"meta_grad": grads, "meta_loss": self.together(losses).detach()}


@makes("tasks_left_out")
class TwoTasks(MAML):
    """self.tasks[:2]"""

    def __init__(self, case):
        super().__init__(case)
        self.tasks = self.tasks[:2]


@makes("median_over_tasks")
class Median(OfEach):
    """torch.median over tasks"""

    def combined(self, grads):
        return grads.median(0).values


@makes("worst_task")
class Worst(MAML):
    """torch.stack(losses).max()"""

    def together(self, losses):
        return torch.stack(losses).max()


@makes("median_over_tasks", {"outer": "median"})
class NumPyMedian(OfEach):
    """np.median over tasks"""

    def combined(self, grads):
        return torch.as_tensor(np.median(grads.numpy(), 0))


@makes("running_mean_over_tasks")
class RunningMean(OfEach):
    """m = 0.9 m + 0.1 g over the tasks"""

    def combined(self, grads):
        mean = torch.zeros_like(grads[0])
        for g in grads:
            mean = 0.9 * mean + (1 - 0.9) * g
        return mean


@makes("query_before_and_after")
class BeforeAndAfter(MAML):
    """the query loss of θ and of θ_K, averaged"""

    def task(self, support, query):
        return (self.query_loss(self.theta, query) + self.query_loss(self.adapt(self.theta, support), query)) / 2


@makes("multi_step_loss", {"query": "every step and before"})
class MultiStepFromZero(MAML):
    """the query loss averaged over θ₀ … θ_K"""

    def task(self, support, query):
        self.adapt(self.theta, support)
        points = self.trace[-1]["theta"]
        return sum(self.query_loss(fast, query) for fast in points) / len(points)


@makes("gradients_accumulated", {"result": "accumulated over T", "factors": "detached"})
class OnlyQueryDivided(Backward):
    """loss.backward() inside, and (query loss / T).backward()"""

    divided = True


@makes("gradients_accumulated", {"result": "accumulated over T"})
class AddedUndivided(MAML):
    """each step's gradient is added to θ.grad by hand, undivided"""

    def __call__(self):
        total = self.together(self.losses())
        grads = grad(total, self.theta)
        for way, (support, _) in zip(self.trace, self.tasks, strict=True):
            for fast in way["theta"][:-1]:
                inner = grad(self.support_loss(fast, support), fast)
                grads = {n: g + inner[n] for n, g in grads.items()}
        return {"meta_grad": grads, "meta_loss": total.detach()}
