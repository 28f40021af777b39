"""Algorithms that differentiate through an inner loop, as people write them, in PyTorch, in JAX and over the engine;
and their mistakes.

    HONEST["anil"]["torch"]     a candidate, mine(case) → {"meta_grad": …}; also "jax" and "engine"
    WRONG["anil"]               [(what the oracle should name, how the mistake came about, mine), …]

In PyTorch an algorithm is a class with a method for each line; a mistake is a subclass in which one line is wrong. The
functions for JAX and the engine are one and the same, written against `grad` and `numpy`. Nothing here calls
`tinymaml.oracle.family`, nor `tinymaml.algorithms`.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np

import tinymaml as tm
from tinymaml import extras

torch = extras.require("torch", "peers")


class Made(NamedTuple):
    """A wrong implementation: the mistake's id, how it is made, and the candidate."""

    id: str
    way: str
    mine: Callable


HONEST: dict[str, dict[str, Callable]] = {}
WRONG: dict[str, list[Made]] = {}


def honest(algorithm: str):
    """Note a class as the honest implementation in PyTorch."""

    def note(cls):
        HONEST.setdefault(algorithm, {})["torch"] = lambda case: cls(case)()
        WRONG.setdefault(algorithm, [])
        cls.algorithm = algorithm
        return cls

    return note


def wrong(id: str, way: str = ""):
    """Note a subclass as a mistake; `way` is its docstring by default."""

    def note(cls):
        WRONG[cls.algorithm].append(Made(id, way or cls.__doc__ or "", lambda case: cls(case)()))
        return cls

    return note


# ── in PyTorch ──────────────────────────────────────────────────────────────────────────────────────────────────────


def grad(loss, params: dict, create_graph: bool = True) -> dict:
    """∂loss/∂params by name."""
    keep = {"retain_graph": True, "materialize_grads": True}
    return dict(zip(params, torch.autograd.grad(loss, list(params.values()), create_graph=create_graph, **keep),
                    strict=True))  # fmt: skip


class Loop:
    """MAML's loop in PyTorch, one method per line."""

    def __init__(self, case):
        self.case, self.K, self.lr = case, case.inner_steps, case.inner_lr
        self.loss, self.params, (support, query) = case.torch()
        self.tasks = list(zip(zip(*support, strict=True), zip(*query, strict=True), strict=True))
        self.dtype = getattr(torch, case.dtype)

    def __call__(self) -> dict:
        total = self.together([self.task(support, query) for support, query in self.tasks])
        return {"meta_grad": self.finish(grad(total, self.params, False)), "meta_loss": total.detach()}

    def together(self, losses):
        return sum(losses) / len(losses)

    def finish(self, grads):
        return grads

    def task(self, support, query):
        return self.query_loss(self.adapt(self.start(), support), query)

    def start(self):
        return dict(self.params)

    def gradient(self, fast, support, k):
        return grad(self.loss(fast, *support), fast)

    def adapt(self, fast, support):
        for k in range(self.K):
            fast = self.step(fast, self.gradient(fast, support, k), k)
        return fast

    def step(self, fast, g, k):
        return {n: p - self.lr * g[n] for n, p in fast.items()}

    def query_loss(self, fast, query):
        return self.loss(fast, *query)


class FirstOrder:
    """no create_graph in the inner step"""

    def gradient(self, fast, support, k):
        return {n: g.detach() for n, g in super().gradient(fast, support, k).items()}


class SumOfTasks:
    """the losses are added"""

    def together(self, losses):
        return sum(losses)


class OneStepLess:
    """range(1, K)"""

    def __init__(self, case):
        super().__init__(case)
        self.K -= 1


class TaskLeak:
    """the next task starts from the fast weights of the one before"""

    def adapt(self, fast, support):
        self.left = super().adapt(getattr(self, "left", fast), support)
        return self.left


class QueryBefore:
    """the query's forward pass comes before the adaptation"""

    def task(self, support, query):
        return self.query_loss(self.start(), query)


class BackwardInTheFirstStep:
    """loss.backward(create_graph=True) in the first step, and no zero_grad() before the query's"""

    def gradient(self, fast, support, k):
        if k == 0:
            self.loss(self.start(), *support).backward()
        return super().gradient(fast, support, k)

    def finish(self, grads):
        return {n: g if self.params[n].grad is None else g + self.params[n].grad for n, g in grads.items()}


class BackwardInEveryStep(FirstOrder):
    """loss.backward() in every step on θ itself, which moves in place, with gradients divided by T at the end"""

    def gradient(self, fast, support, k):
        g = super().gradient(fast, support, k)
        self.inner = [*getattr(self, "inner", []), g]
        return g

    def finish(self, grads):
        whole = lambda n: sum(g[n] for g in self.inner if n in g)  # noqa: E731
        return {n: g + whole(n) / len(self.tasks) for n, g in grads.items()}


class GraphOfEveryStep:
    """loss.backward(create_graph=True) in every step, and the query loss alone divided by T"""

    def gradient(self, fast, support, k):
        self.inner = [*getattr(self, "inner", []), self.loss(fast, *support)]
        return super().gradient(fast, support, k)

    def finish(self, grads):
        more = grad(sum(self.inner), self.params, False)
        return {n: g + more[n] for n, g in grads.items()}


class HalfErrorInside:
    """the inner gradient of the squared error by hand, without its 2"""

    def gradient(self, fast, support, k):
        times = 0.5 if self.case.model["loss"] == "mse" else 1
        return {n: g * times for n, g in super().gradient(fast, support, k).items()}


class QueryOverExamples:
    """the mean of the query losses over len(xq)"""

    def query_loss(self, fast, query):
        return super().query_loss(fast, query) / len(query[0])


class HeadAdapts:
    """only the last layer's tensors have an inner gradient"""

    def gradient(self, fast, support, k):
        return {n: g * (n in self.case.head()) for n, g in super().gradient(fast, support, k).items()}


class SignOfTheHessian:
    """v + lr * hvp(v)"""

    def gradient(self, fast, support, k):
        return {n: 2 * g.detach() - g for n, g in super().gradient(fast, support, k).items()}


class InPairs:
    """each inner step takes the next two support examples"""

    def gradient(self, fast, support, k):
        parts = [part for part in zip(*(x.split(2) for x in support), strict=True)]
        return super().gradient(fast, parts[k % len(parts)], k)


class Worst:
    """the worst task's loss alone"""

    def together(self, losses):
        return max(losses)


class FirstTaskThrough:
    """only the first task's inner steps have a graph"""

    def task(self, support, query):
        self.through = not hasattr(self, "through")
        return super().task(support, query)

    def gradient(self, fast, support, k):
        g = super().gradient(fast, support, k)
        return g if self.through else {n: x.detach() for n, x in g.items()}


class QueryAndSupport:
    """a tenth of the support loss at the adapted weights beside the query loss"""

    def task(self, support, query):
        fast = self.adapt(self.start(), support)
        return self.query_loss(fast, query) + 0.1 * self.loss(fast, *support)


class MeanOfIterates:
    """the query loss is that of the mean of θ₁ … θ_K"""

    def adapt(self, fast, support):
        path = []
        for k in range(self.K):
            fast = self.step(fast, self.gradient(fast, support, k), k)
            path.append(fast)
        return {n: sum(p[n] for p in path) / len(path) for n in fast}


class CutInOneTensor:
    """the last tensor's inner gradient is detached"""

    def gradient(self, fast, support, k):
        g = super().gradient(fast, support, k)
        last = list(g)[-1]
        return g | {last: g[last].detach()}


class ClosuresBoundLate:
    """the backward functions of all steps see `fast` as it is at the end"""

    end = None

    def adapt(self, fast, support):
        self.end = {n: p.detach() for n, p in super().adapt(fast, support).items()}
        fast, self.end = super().adapt(fast, support), None
        return fast

    def gradient(self, fast, support, k):
        g = super().gradient(fast, support, k)
        if self.end is None:
            return g
        late = super().gradient({n: self.end[n] + p - p.detach() for n, p in fast.items()}, support, k)
        return {n: g[n].detach() + x - x.detach() for n, x in late.items()}


class SecondDerivativesOfOne:
    """elementwise second derivatives"""

    def gradient(self, fast, support, k):
        g, out = super().gradient(fast, support, k), {}
        for n, x in g.items():
            second = [torch.autograd.grad(y, fast[n], retain_graph=True)[0].flatten()[i] for i, y in
                      enumerate(x.flatten())]  # fmt: skip
            out[n] = x.detach() + torch.stack(second).reshape(x.shape) * (fast[n] - fast[n].detach())
        return out


class ChangedInPlace:
    """the parameters are never restored, and their gradients are those of where each task began"""

    def adapt(self, fast, support):
        before = getattr(self, "left", {n: p.detach() for n, p in fast.items()})
        end = super().adapt({n: before[n] + p - p.detach() for n, p in fast.items()}, support)
        self.left = {n: p.detach() for n, p in end.items()}
        return end


class StepOnTheQuery:
    """the last step takes the query set"""

    def task(self, support, query):
        self.query = query
        return super().task(support, query)

    def gradient(self, fast, support, k):
        return super().gradient(fast, self.query if k == self.K - 1 else support, k)


class SumOfHessians:
    """v - lr * sum of the Hessian-vector products with v as it is at the end"""

    def adapt(self, fast, support):
        self.first = fast
        return super().adapt(fast, support)

    def gradient(self, fast, support, k):
        g = super().gradient(fast, support, k)
        moved = {n: p.detach() + self.first[n] - self.first[n].detach() for n, p in fast.items()}
        return {n: g[n].detach() + x - x.detach() for n, x in super().gradient(moved, support, k).items()}


class HeadOfTheStart:
    """the query's forward pass has the head that has not adapted"""

    def query_loss(self, fast, query):
        return super().query_loss({n: self.params[n] if n in self.case.head() else p for n, p in fast.items()}, query)


class FirstTaskLost:
    """mean += (loss - mean) / max(t, 1)"""

    def together(self, losses):
        mean = 0.0
        for t, loss in enumerate(losses):
            mean = mean + (loss - mean) / max(t, 1)
        return mean


# Those of `family.common`, and those of MAML that the family shares by a switch of its own.
SHARED = (
    ("inner_gradient_left_in_grad", BackwardInTheFirstStep),
    ("inner_gradient_left_in_grad", BackwardInEveryStep),
    ("inner_gradient_left_in_grad", GraphOfEveryStep),
    ("half_squared_error_once", HalfErrorInside),
    ("query_loss_over_examples", QueryOverExamples),
    ("inner_loop_of_one_group", HeadAdapts),
    ("inner_hessian_sign", SignOfTheHessian),
    ("minibatches_inside", InPairs),
    ("worst_task", Worst),
    ("second_order_in_one_task", FirstTaskThrough),
    ("support_loss_added", QueryAndSupport),
    ("iterates_averaged", MeanOfIterates),
    ("one_tensor_detached", CutInOneTensor),
    ("inner_hessian_of_another_point", ClosuresBoundLate),
    ("inner_diagonal_hessian", SecondDerivativesOfOne),
    ("task_begins_where_another_ended", ChangedInPlace),
    ("steps_on_query", StepOnTheQuery),
    ("first_order_in_alpha", SumOfHessians),
    ("one_task_lost", FirstTaskLost),
    ("query_pass_of_start", HeadOfTheStart),
)


def shared(cls, but: tuple = ()) -> None:
    """The shared mistakes, made in an algorithm."""
    for id, mixin in SHARED:
        if mixin not in but:
            wrong(id, mixin.__doc__)(type(mixin.__name__, (mixin, cls), {}))


def everywhere(cls, *but: str) -> None:
    """The mistakes of the loop, made in an algorithm."""
    for id, mixin in (("fomaml", FirstOrder), ("sum_over_tasks", SumOfTasks), ("one_step_less", OneStepLess),
                      ("task_leak", TaskLeak), ("query_before_adaptation", QueryBefore)):  # fmt: skip
        if id not in but:
            wrong(id, mixin.__doc__)(type(mixin.__name__, (mixin, cls), {}))


# ── Meta-SGD ────────────────────────────────────────────────────────────────────────────────────────────────────────


@honest("meta-sgd")
class MetaSGD(Loop):
    def start(self):
        return {n: p for n, p in self.params.items() if not n.startswith("alpha.")}

    def rate(self, n, k):
        return self.params[f"alpha.{n}"]

    def step(self, fast, g, k):
        return {n: p - self.rate(n, k) * g[n] for n, p in fast.items()}


everywhere(MetaSGD)
shared(MetaSGD)


@wrong("alpha_not_learned")
class _(MetaSGD):
    """alpha.detach()"""

    def rate(self, n, k):
        return self.params[f"alpha.{n}"].detach()


@wrong("alpha_gets_theta_gradient")
class _(MetaSGD):
    """one update for both: the rates get θ's gradient"""

    def finish(self, grads):
        return {n: grads[n.removeprefix("alpha.")] for n in grads}


@wrong("alpha_ignored")
class _(MetaSGD):
    """lr, as in MAML"""

    def rate(self, n, k):
        return self.lr


@wrong("alpha_times_inner_lr")
class _(MetaSGD):
    """lr * alpha"""

    def rate(self, n, k):
        return self.lr * self.params[f"alpha.{n}"]


@wrong("alpha_one_per_tensor")
class _(MetaSGD):
    """alpha.mean()"""

    def rate(self, n, k):
        return self.params[f"alpha.{n}"].mean()


@wrong("alpha_one_per_tensor")
class _(MetaSGD):
    """alpha.flatten()[0]"""

    def rate(self, n, k):
        return self.params[f"alpha.{n}"].flatten()[0]


@wrong("alpha_exponential")
class _(MetaSGD):
    """alpha.exp()"""

    def rate(self, n, k):
        return self.params[f"alpha.{n}"].exp()


@wrong("alpha_made_positive")
class _(MetaSGD):
    """alpha.clamp(min=0)"""

    def rate(self, n, k):
        return self.params[f"alpha.{n}"].clamp(min=0)


@wrong("alpha_made_positive")
class _(MetaSGD):
    """alpha.abs()"""

    def rate(self, n, k):
        return self.params[f"alpha.{n}"].abs()


@wrong("alpha_gradient_negated")
class _(MetaSGD):
    """+ g_s * g_q by hand"""

    def finish(self, grads):
        return {n: -g if n.startswith("alpha.") else g for n, g in grads.items()}


@wrong("alpha_gradient_of_one_step")
class _(MetaSGD):
    """the last step's −g_s * g_q by hand"""

    def rate(self, n, k):
        alpha = self.params[f"alpha.{n}"]
        return alpha if k == self.K - 1 else alpha.detach()


@wrong("alpha_gradient_sum_over_tasks")
class _(MetaSGD):
    """alpha's gradients are added over tasks"""

    def finish(self, grads):
        return {n: g * len(self.tasks) if n.startswith("alpha.") else g for n, g in grads.items()}


@wrong("alpha_gradient_at_theta")
class _(MetaSGD):
    """−g_s * g_q by hand, with the query gradient before adaptation"""

    def rate(self, n, k):
        return self.params[f"alpha.{n}"].detach()

    def task(self, support, query):
        theta = self.start()
        g, v = self.gradient(theta, support, 0), grad(self.loss(theta, *query), theta)
        by_hand = -sum((self.params[f"alpha.{n}"] * (g[n] * v[n]).detach()).sum() for n in theta)
        return super().task(support, query) + by_hand - by_hand.detach()


@wrong("alpha_through_a_function")
class _(MetaSGD):
    """softplus(alpha)"""

    def rate(self, n, k):
        return torch.nn.functional.softplus(self.params[f"alpha.{n}"])


@wrong("alpha_through_a_function")
class _(MetaSGD):
    """alpha is the root of the rate"""

    def rate(self, n, k):
        return self.params[f"alpha.{n}"].square()


@wrong("alpha_of_other_elements")
class _(MetaSGD):
    """θ flat in its own order, and α in that of the sorted names"""

    def step(self, fast, g, k):
        flat = lambda tree: torch.cat([x.reshape(-1) for x in tree])  # noqa: E731
        moved = flat(fast.values()) - flat(self.rate(n, k) for n in sorted(fast)) * flat(g.values())
        parts = moved.split([p.numel() for p in fast.values()])
        return {n: part.reshape(p.shape) for (n, p), part in zip(fast.items(), parts, strict=True)}


class ByHand(MetaSGD):
    """the backward pass by hand, with Hessian-vector products"""

    def __call__(self):
        total = {n: torch.zeros_like(p) for n, p in self.params.items()}
        for support, query in self.tasks:
            path, gs = [{n: p.detach().requires_grad_() for n, p in self.start().items()}], []
            for k in range(self.K):
                gs.append(self.gradient(path[-1], support, k))
                moved = self.step(path[-1], gs[-1], k)
                path.append({n: p.detach().requires_grad_() for n, p in moved.items()})
            v = last = grad(self.loss(path[-1], *query), path[-1])
            for k in reversed(range(self.K)):
                for n, x in self.of_rates(gs[k], v, last).items():
                    total[f"alpha.{n}"] -= x.detach()
                v = self.back(v, self.product(gs[k], path[k]), k)
            for n, x in v.items():
                total[n] += x.detach()
        return {"meta_grad": self.finish({n: g / len(self.tasks) for n, g in total.items()})}

    def of_rates(self, g, v, last):
        return {n: g[n] * v[n] for n in v}

    def product(self, g, theta):
        return lambda w: grad(sum((g[n] * w[n].detach()).sum() for n in w), theta)

    def back(self, v, hvp, k):
        h = hvp({n: self.rate(n, k) * x for n, x in v.items()})
        return {n: v[n] - h[n] for n in v}


@wrong("alpha_outside_of_the_hessian")
class _(ByHand):
    """v - alpha * hvp(v) by hand"""

    def back(self, v, hvp, k):
        h = hvp(v)
        return {n: v[n] - self.rate(n, k) * h[n] for n in v}


@wrong("alpha_gradient_first_order")
class _(ByHand):
    """-g * g_q in every step by hand"""

    def of_rates(self, g, v, last):
        return {n: g[n] * last[n] for n in v}


@wrong("alpha_gradient_times_c")
class _(MetaSGD):
    """a tenth of alpha's gradient"""

    def finish(self, grads):
        return {n: g * 0.1 if n.startswith("alpha.") else g for n, g in grads.items()}


@wrong("alpha_gradient_of_what_it_is_made_of")
class _(MetaSGD):
    """log |alpha| is the leaf"""

    def finish(self, grads):
        return {n: g * self.params[n].detach() if n.startswith("alpha.") else g for n, g in grads.items()}


@wrong("alpha_gradient_of_what_it_is_made_of")
class _(MetaSGD):
    """the root of |alpha| is the leaf"""

    def __call__(self):
        alpha = {n: p for n, p in self.params.items() if n.startswith("alpha.")}
        self.leaves = {n: p.detach().abs().sqrt().requires_grad_() for n, p in alpha.items()}
        self.signs = {n: p.detach().sign() for n, p in alpha.items()}
        total = self.together([self.task(support, query) for support, query in self.tasks])
        theta = {n: p for n, p in self.params.items() if n not in alpha}
        return {"meta_grad": {**grad(total, theta), **grad(total, self.leaves, False)}}

    def rate(self, n, k):
        return self.signs[f"alpha.{n}"] * self.leaves[f"alpha.{n}"] ** 2


@wrong("alpha_gradient_after_the_pullback")
class _(ByHand):
    """v goes through the Hessian, then alpha has its gradient"""

    def __call__(self):
        total = {n: torch.zeros_like(p) for n, p in self.params.items()}
        for support, query in self.tasks:
            path, gs = [{n: p.detach().requires_grad_() for n, p in self.start().items()}], []
            for k in range(self.K):
                gs.append(self.gradient(path[-1], support, k))
                moved = self.step(path[-1], gs[-1], k)
                path.append({n: p.detach().requires_grad_() for n, p in moved.items()})
            v = grad(self.loss(path[-1], *query), path[-1])
            for k in reversed(range(self.K)):
                v = self.back(v, self.product(gs[k], path[k]), k)
                for n, x in v.items():
                    total[f"alpha.{n}"] -= (gs[k][n] * x).detach()
            for n, x in v.items():
                total[n] += x.detach()
        return {"meta_grad": {n: g / len(self.tasks) for n, g in total.items()}}


@wrong("alpha_gradient_with_another_steps_gradient")
class _(ByHand):
    """the first step's gradient in all"""

    def of_rates(self, g, v, last):
        return {n: self.first[n] * v[n] for n in v}

    def gradient(self, fast, support, k):
        g = super().gradient(fast, support, k)
        self.first = g if k == 0 else self.first
        return g


@wrong("alpha_gradient_over_steps")
class _(MetaSGD):
    """the mean over the steps of −g_s * v"""

    def finish(self, grads):
        return {n: g / self.K if n.startswith("alpha.") else g for n, g in grads.items()}


@wrong("alpha_gradient_of_one_task")
class _(MetaSGD):
    """alpha.grad is assigned in the loop over tasks"""

    def task(self, support, query):
        self.learned = support is self.tasks[-1][0]
        return super().task(support, query)

    def rate(self, n, k):
        alpha = super().rate(n, k)
        return alpha if self.learned else alpha.detach()


class TensorByTensor:
    """one autograd.grad per parameter, at weights that are leaves of their own"""

    def adapt(self, fast, support):
        for k in range(self.K):
            for n in list(fast):
                g = self.gradient({m: p.view_as(p) for m, p in fast.items()}, support, k)
                fast = fast | {n: self.step(fast, g, k)[n]}
        return fast


class TensorByTensorAndThrough:
    """one autograd.grad per parameter, at the weights as they are"""

    def adapt(self, fast, support):
        for k in range(self.K):
            for n in [n for n in fast if n in (self.case.adapt or fast)]:
                (g,) = torch.autograd.grad(self.loss(fast, *support), fast[n], create_graph=True)
                fast = fast | {n: self.moved(fast, n, g, k)}
        return fast

    def moved(self, fast, n, g, k):
        return fast[n] - self.lr * g


wrong("one_tensor_after_the_other")(type("_", (TensorByTensor, MetaSGD), {"__doc__": TensorByTensor.__doc__}))


@wrong("one_tensor_after_the_other_and_through_it")
class _(TensorByTensorAndThrough, MetaSGD):
    """one autograd.grad per parameter, at the weights as they are"""

    def moved(self, fast, n, g, k):
        return fast[n] - self.rate(n, k) * g


@wrong("adam_inside")
class _(MetaSGD):
    """Adam, whose rates are alpha"""

    def adapt(self, fast, support):
        m = v = {n: torch.zeros_like(p) for n, p in fast.items()}
        for t in range(1, self.K + 1):
            g = self.gradient(fast, support, t - 1)
            m = {n: 0.9 * m[n] + 0.1 * x for n, x in g.items()}
            v = {n: 0.999 * v[n] + 0.001 * x * x for n, x in g.items()}
            move = {n: m[n] / (1 - 0.9**t) / ((v[n] / (1 - 0.999**t)).sqrt() + 1e-8) for n in g}
            fast = self.step(fast, move, t - 1)
        return fast


# ── ANIL and BOIL ───────────────────────────────────────────────────────────────────────────────────────────────────


@honest("anil")
class ANIL(Loop):
    def names(self):
        return list(self.case.adapt)

    def gradient(self, fast, support, k):
        return grad(self.loss(fast, *support), {n: fast[n] for n in self.names()})

    def step(self, fast, g, k):
        return fast | {n: fast[n] - self.lr * g[n] for n in g}


@honest("boil")
class BOIL(ANIL):
    pass


def _partial(cls, name: str) -> None:
    """What goes wrong in either."""
    other = {"anil": "body", "boil": "head"}[name]
    part = {"anil": "head", "boil": "body"}[name]

    @wrong(f"{name}_all_adapted")
    class _(cls):
        """every parameter is updated"""

        def names(self):
            return list(self.params)

    @wrong(f"{name}_{part}_at_first_order")
    class _(cls):
        """the gradient of what has adapted, by retain_grad()"""

        def __init__(self, case):
            super().__init__(case)
            self.ends = []

        def adapt(self, fast, support):
            self.ends.append(super().adapt(fast, support))
            for n in self.names():
                if self.ends[-1][n] is not fast[n]:
                    self.ends[-1][n].retain_grad()
            return self.ends[-1]

        def finish(self, grads):
            return grads | {n: sum(end[n].grad for end in self.ends) for n in self.names()}

    @wrong(f"{name}_{other}_detached_in_some_steps")
    class _(cls):
        """requires_grad_(False) after the first step, for what does not adapt"""

        def gradient(self, fast, support, k):
            held = {n: p if n in self.names() or k == 0 else p.detach() for n, p in fast.items()}
            return grad(self.loss(held, *support), {n: held[n] for n in self.names()})

    @wrong(f"{name}_cross_term_after_the_update")
    class _(cls):
        """v is updated before the other product, by hand"""

        def __call__(self):
            total = {n: torch.zeros_like(p) for n, p in self.params.items()}
            for support, query in self.tasks:
                path = [{n: p.detach().requires_grad_() for n, p in self.params.items()}]
                for k in range(self.K):
                    moved = self.step(path[-1], self.gradient(path[-1], support, k), k)
                    path.append({n: p.detach().requires_grad_() for n, p in moved.items()})
                v = grad(self.loss(path[-1], *query), path[-1])
                for k in reversed(range(self.K)):
                    g = self.gradient(path[k], support, k)
                    h = grad(sum((g[n] * v[n].detach()).sum() for n in g), path[k])
                    v = v | {n: v[n] - self.lr * h[n] for n in g}
                    h = grad(sum((g[n] * v[n].detach()).sum() for n in g), path[k])
                    v = v | {n: v[n] - self.lr * h[n] for n in v if n not in g}
                total = {n: total[n] + v[n].detach() for n in total}
            return {"meta_grad": {n: g / len(self.tasks) for n, g in total.items()}}

    class ByHand(cls):
        def __call__(self):
            total = {n: torch.zeros_like(p) for n, p in self.params.items()}
            for support, query in self.tasks:
                path = [{n: p.detach().requires_grad_() for n, p in self.params.items()}]
                for k in range(self.K):
                    moved = self.step(path[-1], self.gradient(path[-1], support, k), k)
                    path.append({n: p.detach().requires_grad_() for n, p in moved.items()})
                v = of_query = grad(self.loss(path[-1], *query), path[-1])
                others = {n: self.of_query(x) for n, x in v.items() if n not in self.names()}
                for k in reversed(range(self.K)):
                    g = self.gradient(path[k], support, k)
                    cross = grad(sum((g[n] * self.crossed(v, of_query)[n].detach()).sum() for n in g), path[k])
                    h = grad(sum((g[n] * v[n].detach()).sum() for n in g), path[k])
                    others = {n: x - self.cross_rate() * cross[n] for n, x in others.items()}
                    v = v | {n: v[n] - self.lr * h[n] for n in g}
                total = {n: total[n] + others.get(n, v[n]).detach() for n in total}
            return {"meta_grad": {n: g / len(self.tasks) for n, g in total.items()}}

        def of_query(self, x):
            return x

        def crossed(self, v, of_query):
            return v

        def cross_rate(self):
            return self.lr

    @wrong(f"{name}_cross_term_not_carried")
    class _(ByHand):
        """the other product is with the query gradient in every step"""

        def crossed(self, v, of_query):
            return of_query

    @wrong(f"{name}_cross_term_times_c")
    class _(ByHand):
        """+ lr * cross(v)"""

        def cross_rate(self):
            return -self.lr

    @wrong(f"{name}_query_part_times_c")
    class _(ByHand):
        """the query's own part is doubled"""

        def of_query(self, x):
            return 2 * x

    class Joins(cls):
        def moves(self, k):
            return k + 1 == self.K

        def gradient(self, fast, support, k):
            return grad(self.loss(fast, *support), fast if self.moves(k) else {n: fast[n] for n in self.names()})

        def step(self, fast, g, k):
            # the others are tensors of their own, through which the next gradient does not see this step
            return super().step({n: p.clone() for n, p in fast.items()}, g, k)

    @wrong(f"{name}_{other}_joins_in_some_steps")
    class _(Joins):
        """every parameter is updated in the last step"""

    @wrong(f"{name}_{other}_joins_in_some_steps")
    class _(Joins):
        """every parameter is updated but in step 0"""

        def moves(self, k):
            return k > 0

    @wrong(f"{name}_{other}_adapted")
    class _(cls):
        """the other part is updated"""

        def names(self):
            return [n for n in self.params if n not in self.case.adapt]

    @wrong("anil_head_without_bias" if name == "anil" else "boil_biases_not_adapted")
    class _(cls):
        """only names with "weight" are updated"""

        def names(self):
            return [n for n in self.case.adapt if n.startswith("w")]

    @wrong("anil_support_features_detached" if name == "anil" else "boil_head_detached_inside")
    class _(cls):
        """what does not adapt has requires_grad=False in the inner loop"""

        def gradient(self, fast, support, k):
            frozen = {n: p if n in self.case.adapt else p.detach() for n, p in fast.items()}
            return super().gradient(frozen, support, k)

    @wrong("anil_query_features_detached" if name == "anil" else "boil_head_detached_in_query")
    class _(cls):
        """what does not adapt is detached in the query loss"""

        def query_loss(self, fast, query):
            return super().query_loss({n: p if n in self.case.adapt else p.detach() for n, p in fast.items()}, query)

    @wrong(f"{name}_{other}_not_learned")
    class _(cls):
        """only what adapts is in the outer optimiser"""

        def finish(self, grads):
            return {n: g if n in self.case.adapt else 0 * g for n, g in grads.items()}

    @wrong(f"{name}_{part}_not_learned")
    class _(cls):
        """a deepcopy of what adapts, per task"""

        def start(self):
            return {n: p.detach().requires_grad_() if n in self.case.adapt else p for n, p in self.params.items()}

    @wrong(f"{name}_{part}_from_zero")
    class _(cls):
        """what adapts starts from zeros, per task"""

        def start(self):
            return {n: torch.zeros_like(p, requires_grad=True) if n in self.case.adapt else p
                    for n, p in self.params.items()}  # fmt: skip

    everywhere(cls)


_partial(ANIL, "anil")
_partial(BOIL, "boil")


@wrong("one_tensor_after_the_other_and_through_it")
class _(TensorByTensorAndThrough, BOIL):
    """one autograd.grad per parameter, at the weights as they are"""


@wrong("inner_hessian_of_another_point")
class _(ClosuresBoundLate, BOIL):
    """the backward functions of all steps see `fast` as it is at the end"""


@wrong("inner_momentum")
class _(ANIL):
    """SGD(head, momentum=0.9)"""

    def adapt(self, fast, support):
        m = None
        for k in range(self.K):
            g = self.gradient(fast, support, k)
            m = g if m is None else {n: 0.9 * m[n] + x for n, x in g.items()}
            fast = self.step(fast, m, k)
        return fast


@wrong("alpha_decays")
class _(BOIL):
    """the scheduler steps in the inner loop"""

    def step(self, fast, g, k):
        return super().step(fast, {n: 0.9**k * x for n, x in g.items()}, k)


@wrong("anil_two_layers_adapt")
class _(ANIL):
    """the cut is one layer too early"""

    def names(self):
        return [n for m in [m for m in self.case.model["layers"] if m.get("params")][-2:] for n in m["params"]]


@wrong("anil_copied_weights")
class _(ANIL):
    """the values of the fast weights are put into the model for the query's forward pass, as load_state_dict does"""

    def query_loss(self, fast, query):
        o = _output(self.case, {n: p.detach() for n, p in fast.items()}, query[0]).detach().requires_grad_()
        (cotangent,) = torch.autograd.grad(_loss_of(self.case, o, query[1]), o)
        through = (cotangent * _output(self.case, self.params, query[0])).sum()
        value = self.loss(fast, *query).detach()
        return value + through - through.detach()


@wrong("boil_one_layer_missing")
class _(BOIL):
    """the first layer is left out"""

    def gradient(self, fast, support, k):
        return {n: g for n, g in super().gradient(fast, support, k).items() if not n.endswith("1")}


def _output(case, params, x):
    from tinymaml.oracle.models import Torch

    library = Torch()
    for layer in case.model["layers"]:
        x = getattr(library, layer["layer"])(x, *(params[n] for n in layer.get("params", [])))
    return x


def _loss_of(case, o, y):
    from tinymaml.oracle.models import Torch

    return getattr(Torch(), case.model["loss"])(o, y)


# ── CAVIA ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@honest("cavia")
class CAVIA(Loop):
    def context(self):
        return torch.zeros(self.case.settings["context"], dtype=self.dtype, requires_grad=True)

    def task(self, support, query):
        context = self.context()
        for _ in range(self.K):
            context = self.update(context, self.context_gradient(context, support))
        return self.after(context, query)

    def context_gradient(self, context, support):
        loss = self.loss({**self.params, "context": context}, *support)
        return torch.autograd.grad(loss, context, create_graph=True)[0]

    def update(self, context, g):
        return context - self.lr * g

    def after(self, context, query):
        return self.loss({**self.params, "context": context}, *query)


@wrong("cavia_context_detached")
class _(CAVIA):
    """first order"""

    def update(self, context, g):
        return context - self.lr * g.detach()


@wrong("contexts_not_reset")
class _(CAVIA):
    """one context, made once"""

    def context(self):
        return getattr(self, "left", None) if hasattr(self, "left") else super().context()

    def after(self, context, query):
        self.left = context.detach().requires_grad_()
        return super().after(context, query)


@wrong("contexts_not_reset")
class _(CAVIA):
    """one context, made once, with its graph"""

    def context(self):
        return getattr(self, "left", None) if hasattr(self, "left") else super().context()

    def after(self, context, query):
        self.left = context
        return super().after(context, query)


@wrong("cavia_theta_adapted_too")
class _(CAVIA):
    """all parameters of the model are updated"""

    def task(self, support, query):
        return Loop.query_loss(self, Loop.adapt(self, {**self.params, "context": self.context()}, support), query)


@wrong("cavia_theta_adapted_instead")
class _(CAVIA):
    """the network is updated, the context is not"""

    def task(self, support, query):
        fast, context = dict(self.params), self.context()
        for _ in range(self.K):
            g = grad(self.loss({**fast, "context": context}, *support), fast)
            fast = {n: p - self.lr * g[n] for n, p in fast.items()}
        return self.loss({**fast, "context": context}, *query)


@wrong("cavia_context_zero_in_query")
class _(CAVIA):
    """reset_context() before the query's forward pass"""

    def after(self, context, query):
        return super().after(torch.zeros_like(context), query)


@wrong("cavia_detached_between_steps")
class _(CAVIA):
    """context.detach().requires_grad_() before each step"""

    def context_gradient(self, context, support):
        self.leaf = context.detach().requires_grad_()
        return super().context_gradient(self.leaf, support)

    def update(self, context, g):
        return self.leaf - self.lr * g


@wrong("cavia_context_from_one")
class _(CAVIA):
    """torch.ones"""

    def context(self):
        return torch.ones(self.case.settings["context"], dtype=self.dtype, requires_grad=True)


@wrong("cavia_context_drawn")
class _(CAVIA):
    """0.01 * np.random.RandomState(42).randn(d), in each task"""

    def context(self):
        start = 0.01 * np.random.RandomState(42).randn(self.case.settings["context"])
        return torch.as_tensor(start, dtype=self.dtype).requires_grad_()


@wrong("cavia_context_from_a_number")
class _(CAVIA):
    """torch.full"""

    def context(self):
        return torch.full((self.case.settings["context"],), 0.3, dtype=self.dtype, requires_grad=True)


@wrong("inner_clip")
class _(CAVIA):
    """clip_grad_norm_ of the context"""

    def context_gradient(self, context, support):
        g = super().context_gradient(context, support)
        size = g.norm()
        return g * 0.05 / size if size > 0.05 else g


@wrong("cavia_one_context_for_all_tasks")
class _(CAVIA):
    """the loop over tasks is inside the inner loop"""

    def context_gradient(self, context, support):
        return sum(CAVIA.context_gradient(self, context, s) for s, _ in self.tasks) / len(self.tasks)


@wrong("cavia_context_in_front")
class _(CAVIA):
    """torch.cat([context, x])"""

    def __init__(self, case):
        super().__init__(case)
        d, loss, first = case.settings["context"], self.loss, case.model["layers"][1]["params"][0]
        rolled = lambda p: torch.cat([p[first][d:], p[first][:d]])  # noqa: E731
        self.loss = lambda p, x, y: loss({**p, first: rolled(p)}, x, y)


@wrong("cavia_context_of_each_part")
class _(CAVIA):
    """a context per example, and their mean for the query"""

    def task(self, support, query):
        ends = []
        for x, y in zip(*support, strict=True):
            context = self.context()
            for _ in range(self.K):
                g = self.context_gradient(context, (x[None], y[None])) / len(support[0])
                context = self.update(context, g)
            ends.append(context)
        return self.after(sum(ends) / len(ends), query)


@wrong("cavia_context_of_each_part")
class _(CAVIA):
    """a context per class, each on the loss of its own examples, and their sum for the query"""

    def task(self, support, query):
        x, y = support
        classes = y.unique() if not y.is_floating_point() else [None]
        ends = []
        for c in classes:
            rows = slice(None) if c is None else y == c
            context = self.context()
            for _ in range(self.K):
                context = self.update(context, self.context_gradient(context, (x[rows], y[rows])))
            ends.append(context)
        return self.after(sum(ends), query)


@wrong("cavia_context_of_other_tasks")
class _(CAVIA):
    """the contexts are averaged over the tasks before the query losses"""

    def after(self, context, query):
        ends = []
        for support, _ in self.tasks:
            phi = self.context()
            for _ in range(self.K):
                phi = self.update(phi, self.context_gradient(phi, support))
            ends.append(phi)
        return super().after(torch.stack(ends).mean(0), query)


@wrong("inner_ascent")
class _(CAVIA):
    """context + lr * g"""

    def update(self, context, g):
        return context + self.lr * g


@wrong("sum_over_tasks")
class _(SumOfTasks, CAVIA):
    pass


@wrong("one_step_less")
class _(OneStepLess, CAVIA):
    pass


# ── MAML++ ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@honest("mamlpp")
class MAMLpp(Loop):
    def __init__(self, case):
        super().__init__(case)
        self.weights = case.settings["loss_weights"]
        self.norms = [n for n in self.params if n not in case.adapt and not n.startswith("alpha.")]

    def start(self):
        return {n: self.params[n] for n in self.case.adapt}

    def rate(self, n, k):
        return self.params[f"alpha.{n}"][k]

    def at_support(self, k):
        return k

    def at_query(self, k):
        return k

    def whole(self, fast, row):
        return fast | {n: self.params[n][row] for n in self.norms}

    def task(self, support, query):
        fast, losses = self.start(), []
        for k in range(self.K):
            losses += self.before(fast, query, k)
            g = self.gradient(fast, support, k)
            fast = {n: p - self.rate(n, k) * g[n] for n, p in fast.items()}
            losses += self.after(fast, query, k)
        return self.weighed(losses)

    def gradient(self, fast, support, k):
        return grad(self.loss(self.whole(fast, self.at_support(k)), *support), fast)

    def before(self, fast, query, k):
        return []

    def after(self, fast, query, k):
        return [self.loss(self.whole(fast, self.at_query(k)), *query)]

    def weighed(self, losses):
        return sum(w * loss for w, loss in zip(self.weights, losses, strict=True))


@wrong("fomaml")
class _(FirstOrder, MAMLpp):
    """no create_graph in the inner step"""


@wrong("sum_over_tasks")
class _(SumOfTasks, MAMLpp):
    """the losses are added"""


@wrong("mamlpp_uniform_weights")
class _(MAMLpp):
    """torch.stack(losses).mean()"""

    def weighed(self, losses):
        return sum(losses) / len(losses)


@wrong("mamlpp_last_loss_only")
class _(MAMLpp):
    """losses[-1]"""

    def weighed(self, losses):
        return losses[-1]


@wrong("mamlpp_weights_missing")
class _(MAMLpp):
    """sum(losses)"""

    def weighed(self, losses):
        return sum(losses)


@wrong("mamlpp_weights_reversed")
class _(MAMLpp):
    """reversed weights"""

    def weighed(self, losses):
        return super().weighed(losses[::-1])


@wrong("mamlpp_loss_before_step")
class _(MAMLpp):
    """the query loss stands before the update"""

    def before(self, fast, query, k):
        return [self.loss(self.whole(fast, max(k - 1, 0) if k else 0), *query)]

    def after(self, fast, query, k):
        return []


@wrong("mamlpp_rates_of_another_step")
class _(MAMLpp):
    """k + 1"""

    def rate(self, n, k):
        return super().rate(n, min(k + 1, self.K - 1))


@wrong("mamlpp_rates_shifted_round")
class _(MAMLpp):
    """alpha[n][k - 1]"""

    def rate(self, n, k):
        return super().rate(n, k - 1)


@wrong("mamlpp_norm_rows_shifted_round")
class _(MAMLpp):
    """num_step=k - 1 in the support's forward pass, which is -1"""

    def at_support(self, k):
        return k - 1


@wrong("mamlpp_weights_shifted_round")
class _(MAMLpp):
    """weights[k - 1]"""

    def weighed(self, losses):
        return sum(self.weights[k - 1] * loss for k, loss in enumerate(losses))


@wrong("mamlpp_rates_reversed")
class _(MAMLpp):
    """alpha[n].flip(0)"""

    def rate(self, n, k):
        return super().rate(n, self.K - 1 - k)


@wrong("mamlpp_weights_over_steps")
class _(MAMLpp):
    """(weights * losses).mean()"""

    def weighed(self, losses):
        return super().weighed(losses) / self.K


@wrong("mamlpp_norm_row_one_early")
class _(MAMLpp):
    """num_step=k - 1 in the support's forward pass"""

    def at_support(self, k):
        return max(k - 1, 0)


@wrong("mamlpp_one_rate_for_all_steps")
class _(MAMLpp):
    """alpha[n][0]"""

    def rate(self, n, k):
        return super().rate(n, 0)


@wrong("mamlpp_one_rate_for_all_tensors")
class _(MAMLpp):
    """the first tensor's rates"""

    def rate(self, n, k):
        return super().rate(self.case.adapt[0], k)


@wrong("mamlpp_rates_not_learned")
class _(MAMLpp):
    """alpha[n][k].item()"""

    def rate(self, n, k):
        return super().rate(n, k).item()


@wrong("mamlpp_rates_ignored")
class _(MAMLpp):
    """lr"""

    def rate(self, n, k):
        return self.lr


@wrong("mamlpp_norm_row_of_next_step")
class _(MAMLpp):
    """the query's forward pass has num_step=k + 1"""

    def at_query(self, k):
        return min(k + 1, self.K - 1)


@wrong("mamlpp_norm_row_of_query")
class _(MAMLpp):
    """the query's forward pass has the last step's row"""

    def at_query(self, k):
        return self.K - 1


@wrong("mamlpp_norm_row_of_query")
class _(MAMLpp):
    """the query's forward pass has row 0"""

    def at_query(self, k):
        return 0


@wrong("mamlpp_norm_row_of_support")
class _(MAMLpp):
    """the support's forward pass has row 0"""

    def at_support(self, k):
        return 0


@wrong("mamlpp_norm_adapted")
class _(MAMLpp):
    """γ and β adapt with lr"""

    def start(self):
        return {n: p for n, p in self.params.items() if not n.startswith("alpha.")}

    def whole(self, fast, row):
        return {n: p[row] if n in self.norms else p for n, p in fast.items()}

    def rate(self, n, k):
        return self.lr if n in self.norms else super().rate(n, k)

    def gradient(self, fast, support, k):
        return grad(self.loss(self.whole(fast, k), *support), fast)


@wrong("mamlpp_norm_not_learned")
class _(MAMLpp):
    """γ and β are not in the outer optimiser"""

    def finish(self, grads):
        return {n: 0 * g if n in self.norms else g for n, g in grads.items()}


@wrong("mamlpp_losses_join_a_step_early")
class _(MAMLpp):
    """each query gradient is added before the pull-back through the step behind it"""

    def task(self, support, query):
        path, fast = [], self.start()
        for k in range(self.K):
            path.append(fast)
            g = self.gradient(fast, support, k)
            fast = {n: p - self.rate(n, k) * g[n] for n, p in fast.items()}
        path.append(fast)
        losses = []
        for k in range(1, self.K + 1):
            after = path[min(k + 1, self.K)]
            point = {n: path[k][n].detach() + p - p.detach() for n, p in after.items()}
            losses.append(self.loss(self.whole(point, k - 1), *query))
        return self.weighed(losses)


@wrong("mamlpp_early_losses_cut")
class _(MAMLpp):
    """straight-through fast weights in all query losses but the last"""

    def after(self, fast, query, k):
        if k + 1 < self.K:
            fast = {n: self.params[n] + (p - self.params[n]).detach() for n, p in fast.items()}
        return super().after(fast, query, k)


@wrong("mamlpp_early_losses_cut")
class _(MAMLpp):
    """detached fast weights in all query losses but the last"""

    def after(self, fast, query, k):
        return super().after(fast if k + 1 == self.K else {n: p.detach() for n, p in fast.items()}, query, k)


class AtOnce(MAMLpp):
    def task(self, support, query):
        fast, losses = self.start(), []
        for k in range(self.K):
            fast = fast if k == 0 else self.leaf(fast)
            g = self.gradient(fast, support, k)
            fast = {n: p - self.rate(n, k) * g[n] for n, p in fast.items()}
            losses += self.after(fast, query, k)
        return self.weighed(losses)


@wrong("mamlpp_losses_go_back_at_once")
class _(AtOnce):
    """backward() after each step, then fast = fast.detach()"""

    def leaf(self, fast):
        return {n: p.detach().requires_grad_() for n, p in fast.items()}


@wrong("mamlpp_losses_go_back_at_once")
class _(AtOnce):
    """backward() after each step, then the parameters' values are set in place"""

    def leaf(self, fast):
        return {n: p.detach() + self.params[n] - self.params[n].detach() for n, p in fast.items()}


@wrong("mamlpp_weights_of_another_step")
class _(MAMLpp):
    """weights[k + 1]"""

    def weighed(self, losses):
        return sum(self.weights[min(k + 1, self.K - 1)] * loss for k, loss in enumerate(losses))


@wrong("mamlpp_rates_of_another_tensor")
class _(MAMLpp):
    """the last tensor's rates"""

    def rate(self, n, k):
        return super().rate(self.case.adapt[-1], k)


@wrong("mamlpp_rates_learned_in_one_step")
class _(MAMLpp):
    """the rates of later steps are detached"""

    def rate(self, n, k):
        return super().rate(n, k) if k == 0 else super().rate(n, k).detach()


@wrong("mamlpp_row_of_one_norm")
class _(MAMLpp):
    """beta[0] beside gamma[k]"""

    def whole(self, fast, row):
        return fast | {n: self.params[n][0 if n == "beta" else row] for n in self.norms}


@wrong("mamlpp_norm_rows_of_both_sets")
class _(MAMLpp):
    """gamma.mean(0), beta.mean(0)"""

    def whole(self, fast, row):
        return fast | {n: self.params[n].mean(0) for n in self.norms}


@wrong("mamlpp_reversed_and_one_norm")
class _(MAMLpp):
    """reversed weights, and beta[0] beside gamma[k]"""

    def weighed(self, losses):
        return super().weighed(losses[::-1])

    def whole(self, fast, row):
        return fast | {n: self.params[n][0 if n == "beta" else row] for n in self.norms}


@wrong("mamlpp_norm_rows_added")
class _(MAMLpp):
    """γ and β are one row, expanded"""

    def finish(self, grads):
        return {n: g.sum(0).expand_as(g) if n in self.norms else g for n, g in grads.items()}


# ── momentum and Adam inside ────────────────────────────────────────────────────────────────────────────────────────


@honest("inner-momentum")
class Momentum(Loop):
    def __init__(self, case):
        super().__init__(case)
        self.mu = case.settings["momentum"]

    def zeros(self):
        return {n: torch.zeros_like(p) for n, p in self.params.items()}

    def adapt(self, fast, support):
        m = self.zeros()
        for k in range(self.K):
            g = self.gradient(fast, support, k)
            m, used = self.buffer(m, g, k)
            fast = {n: p - self.lr * used[n] for n, p in fast.items()}
        self.left = m
        return fast

    def buffer(self, m, g, k):
        m = {n: self.mu * m[n] + g[n] for n in m}
        return m, m


everywhere(Momentum, "task_leak")
shared(Momentum, but=(MeanOfIterates,))


@wrong("momentum_from_the_start")
class _(Momentum):
    """mu * (theta - before), and before is never moved on"""

    def adapt(self, fast, support):
        before = fast
        for k in range(self.K):
            g = self.gradient(fast, support, k)
            fast = {n: p - self.lr * g[n] + self.mu * (p - before[n]) for n, p in fast.items()}
        return fast


@wrong("momentum_rate_twice")
class _(Momentum):
    """m = mu * m + lr * g, and p - lr * m"""

    def buffer(self, m, g, k):
        return super().buffer(m, {n: self.lr * x for n, x in g.items()}, k)


class MomentumByHand(Momentum):
    """the backward pass by hand"""

    def __call__(self):
        total = {n: torch.zeros_like(p) for n, p in self.params.items()}
        for support, query in self.tasks:
            path, gs, m = [{n: p.detach().requires_grad_() for n, p in self.params.items()}], [], self.zeros()
            for k in range(self.K):
                gs.append(self.gradient(path[-1], support, k))
                m = {n: self.mu * m[n] + gs[-1][n].detach() for n in m}
                path.append({n: (p - self.lr * m[n]).detach().requires_grad_() for n, p in path[-1].items()})
            v, u = grad(self.loss(path[-1], *query), path[-1], False), self.zeros()
            for k in reversed(range(self.K)):
                u, used = self.adjoint(u, v)
                h = grad(sum((gs[k][n] * used[n]).sum() for n in used), path[k], False)
                v = {n: v[n] + h[n] for n in v}
            total = {n: total[n] + v[n] / len(self.tasks) for n in total}
        return {"meta_grad": total}


@wrong("momentum_adjoint")
class _(MomentumByHand):
    """u = mu * (u - lr * v)"""

    def adjoint(self, u, v):
        u = {n: self.mu * (u[n] - self.lr * v[n]) for n in u}
        return u, u


@wrong("momentum_adjoint")
class _(MomentumByHand):
    """u = u - lr * v"""

    def adjoint(self, u, v):
        u = {n: u[n] - self.lr * v[n] for n in u}
        return u, u


@wrong("momentum_adjoint")
class _(MomentumByHand):
    """hvp(mu * u) with the u of the step before"""

    def adjoint(self, u, v):
        old = {n: self.mu * x for n, x in u.items()}
        return {n: old[n] - self.lr * v[n] for n in u}, old


@wrong("momentum_missing")
class _(Momentum):
    """the buffer is made in the loop"""

    def buffer(self, m, g, k):
        return super().buffer(self.zeros(), g, k)


@wrong("momentum_leaks_between_tasks")
class _(Momentum):
    """the buffer is made once"""

    def zeros(self):
        return {n: m.detach() for n, m in self.left.items()} if hasattr(self, "left") else super().zeros()


@wrong("momentum_leaks_between_tasks")
class _(Momentum):
    """the buffer is made once, with its graph"""

    def zeros(self):
        return self.left if hasattr(self, "left") else super().zeros()


@wrong("momentum_detached")
class _(Momentum):
    """m.detach()"""

    def buffer(self, m, g, k):
        return super().buffer({n: x.detach() for n, x in m.items()}, g, k)


@wrong("momentum_dampened")
class _(Momentum):
    """(1 − μ) g"""

    def buffer(self, m, g, k):
        return super().buffer(m, {n: (1 - self.mu) * x for n, x in g.items()}, k)


@wrong("momentum_dampened")
class _(Momentum):
    """dampening=μ of torch.optim.SGD, which the first step does not have"""

    def buffer(self, m, g, k):
        return super().buffer(m, {n: (1 - self.mu) * x if k else x for n, x in g.items()}, k)


@wrong("momentum_nesterov")
class _(Momentum):
    """nesterov=True"""

    def buffer(self, m, g, k):
        m, _ = super().buffer(m, g, k)
        return m, {n: g[n] + self.mu * m[n] for n in m}


@wrong("momentum_buffer_used_before_update")
class _(Momentum):
    """the step is taken before the buffer is updated"""

    def buffer(self, m, g, k):
        return super().buffer(m, g, k)[0], m


@wrong("momentum_first_gradient_twice")
class _(Momentum):
    """m = g, then m = μ m + g"""

    def buffer(self, m, g, k):
        return super().buffer(m if k else g, g, k)


@wrong("momentum_default")
class _(Momentum):
    """momentum=0.9"""

    def __init__(self, case):
        super().__init__(case)
        self.mu = 0.9


@wrong("momentum_exchanged_with_rate")
class _(Momentum):
    """SGD(momentum, lr)"""

    def __init__(self, case):
        super().__init__(case)
        self.mu, self.lr = self.lr, self.mu


@wrong("inner_weight_decay")
class _(Momentum):
    """weight_decay=5e-4"""

    def gradient(self, fast, support, k):
        return {n: g + 5e-4 * fast[n] for n, g in super().gradient(fast, support, k).items()}


class TrainingScript(Momentum):
    decay = 5e-4

    def gradient(self, fast, support, k):
        return {n: g + self.decay * fast[n] for n, g in super().gradient(fast, support, k).items()}


@wrong("momentum_nesterov_and_decay")
class _(TrainingScript):
    """nesterov=True, weight_decay=5e-4"""

    def buffer(self, m, g, k):
        m, _ = super().buffer(m, g, k)
        return m, {n: g[n] + self.mu * m[n] for n in m}


@wrong("momentum_dampened_and_decay")
class _(TrainingScript):
    """dampening=μ, weight_decay=2e-3"""

    decay = 2e-3

    def buffer(self, m, g, k):
        return super().buffer(m, {n: (1 - self.mu) * x if k else x for n, x in g.items()}, k)


@wrong("momentum_decoupled_decay")
class _(Momentum):
    """SGDW"""

    def adapt(self, fast, support):
        m = self.zeros()
        for k in range(self.K):
            g = self.gradient(fast, support, k)
            m, _ = self.buffer(m, g, k)
            fast = {n: p * (1 - self.lr * 1e-2) - self.lr * m[n] for n, p in fast.items()}
        return fast


@wrong("momentum_is_adaptive")
class _(Momentum):
    """torch.optim.Adam(betas=(0.9, 0.999))"""

    def zeros(self):
        self.v = super().zeros()
        return super().zeros()

    def buffer(self, m, g, k):
        m = {n: 0.9 * m[n] + 0.1 * x for n, x in g.items()}
        self.v = {n: 0.999 * self.v[n] + 0.001 * x * x for n, x in g.items()}
        below = {n: (v / (1 - 0.999 ** (k + 1))).sqrt() + 1e-8 for n, v in self.v.items()}
        return m, {n: x / (1 - 0.9 ** (k + 1)) / below[n] for n, x in m.items()}


@honest("inner-adam")
class Adam(Loop):
    def __init__(self, case):
        super().__init__(case)
        self.b1, self.b2, self.eps, self.root = (case.settings[n] for n in ("beta1", "beta2", "eps", "eps_root"))

    def state(self):
        zeros = {n: torch.zeros_like(p) for n, p in self.params.items()}
        return zeros, zeros, 0

    def adapt(self, fast, support):
        m, v, t = self.state()
        for k in range(self.K):
            g, t = self.gradient(fast, support, k), t + 1
            m, v = self.moments(m, v, g)
            fast = {n: self.moved(p, m[n], v[n], t) for n, p in fast.items()}
        self.left = m, v, t
        return fast

    def moments(self, m, v, g):
        return ({n: self.b1 * m[n] + (1 - self.b1) * g[n] for n in g},
                {n: self.b2 * v[n] + (1 - self.b2) * g[n] ** 2 for n in g})  # fmt: skip

    def corrected(self, m, v, t):
        return m / (1 - self.b1**t), v / (1 - self.b2**t)

    def below(self, v):
        return (v + self.root).sqrt() + self.eps

    def moved(self, p, m, v, t):
        m, v = self.corrected(m, v, t)
        return p - self.lr * m / self.below(v)


everywhere(Adam, "task_leak")


@wrong("adam_share_of_the_gradient")
class _(Adam):
    """v = b2 v + (1 - b1) g²"""

    def moments(self, m, v, g):
        m, _ = super().moments(m, v, g)
        return m, {n: self.b2 * v[n] + (1 - self.b1) * g[n] ** 2 for n in g}


@wrong("adam_share_of_the_gradient")
class _(Adam):
    """m = b1 m + (1 - b2) g"""

    def moments(self, m, v, g):
        _, v = super().moments(m, v, g)
        return {n: self.b1 * m[n] + (1 - self.b2) * g[n] for n in g}, v


@wrong("adam_corrections_exchanged")
class _(Adam):
    """m / (1 - b2**t), v / (1 - b1**t)"""

    def corrected(self, m, v, t):
        return m / (1 - self.b2**t), v / (1 - self.b1**t)


@wrong("adam_correction_without_power")
class _(Adam):
    """m / (1 - b1), v / (1 - b2)"""

    def corrected(self, m, v, t):
        return m / (1 - self.b1), v / (1 - self.b2)


@wrong("adam_both_corrected_alike")
class _(Adam):
    """m / (1 - b1**t), v / (1 - b1**t)"""

    def corrected(self, m, v, t):
        return m / (1 - self.b1**t), v / (1 - self.b1**t)


@wrong("adam_correction_off_by_one")
class _(Adam):
    """t + 1 for v alone"""

    def corrected(self, m, v, t):
        return m / (1 - self.b1**t), v / (1 - self.b2 ** (t + 1))


@wrong("adam_correction_inverted")
class _(Adam):
    """m * (1 - b1**t)"""

    def corrected(self, m, v, t):
        return m * (1 - self.b1**t), v * (1 - self.b2**t)


@wrong("adam_numerator_detached")
class _(Adam):
    """m.detach() in the step"""

    def corrected(self, m, v, t):
        m, v = super().corrected(m, v, t)
        return m.detach(), v


@wrong("adam_share_of_the_gradient")
class _(Adam):
    """m = b1 * m + g"""

    def moments(self, m, v, g):
        _, v = super().moments(m, v, g)
        return {n: self.b1 * m[n] + g[n] for n in g}, v


@wrong("adam_moments_of_the_step_before")
class _(Adam):
    """v is updated after the step"""

    def adapt(self, fast, support):
        m, v, t = self.state()
        for k in range(self.K):
            g, t, before = self.gradient(fast, support, k), t + 1, v
            m, v = self.moments(m, v, g)
            fast = {n: self.moved(p, m[n], before[n], t) for n, p in fast.items()}
        return fast


@wrong("adam_moments_anew_in_each_step")
class _(Adam):
    """the optimiser is made inside the loop"""

    def adapt(self, fast, support):
        for k in range(self.K):
            m, v, t = self.state()
            m, v = self.moments(m, v, self.gradient(fast, support, k))
            fast = {n: self.moved(p, m[n], v[n], t + 1) for n, p in fast.items()}
        return fast


@wrong("adam_eps_elsewhere")
class _(Adam):
    """sqrt(v + eps) + eps_root"""

    def below(self, v):
        return (v + self.eps).sqrt() + self.root


@wrong("adam_amsgrad_corrected")
class _(Adam):
    """torch.maximum of the corrected v"""

    def adapt(self, fast, support):
        self.largest: dict = {}
        return super().adapt(fast, support)

    def moved(self, p, m, v, t):
        m, v = self.corrected(m, v, t)
        place = len(self.largest) if t == 1 else self.place % len(self.largest)
        self.place = place + 1
        v = self.largest[place] = v if t == 1 else torch.maximum(self.largest[place], v)
        return p - self.lr * m / self.below(v)


@wrong("adam_moments_leak")
class _(Adam):
    """one optimiser for all tasks"""

    def state(self):
        m, v, t = getattr(self, "left", super().state())
        return *({n: x.detach() for n, x in d.items()} for d in (m, v)), t


@wrong("adam_moments_leak")
class _(Adam):
    """the moments are kept, the step is counted anew"""

    def state(self):
        m, v, _ = getattr(self, "left", super().state())
        return *({n: x.detach() for n, x in d.items()} for d in (m, v)), 0


@wrong("adam_moments_detached")
class _(Adam):
    """the state is stored without a graph"""

    def moments(self, m, v, g):
        return super().moments(*({n: x.detach() for n, x in d.items()} for d in (m, v)), g)


@wrong("adam_root_detached")
class _(Adam):
    """the denominator is computed under no_grad"""

    def below(self, v):
        return super().below(v).detach()


@wrong("adam_root_missing")
class _(Adam):
    """v + eps"""

    def below(self, v):
        return v + self.eps


@wrong("adam_eps_inside_root")
class _(Adam):
    """(v + eps).sqrt(), beside eps_root"""

    def below(self, v):
        return (v + self.root + self.eps).sqrt()


@wrong("adam_eps_before_correction")
class _(Adam):
    """TensorFlow's form"""

    def moved(self, p, m, v, t):
        rate = self.lr * (1 - self.b2**t) ** 0.5 / (1 - self.b1**t)
        return p - rate * m / self.below(v)


@wrong("adam_eps_root_missing")
class _(Adam):
    """v.sqrt() + eps"""

    def below(self, v):
        return v.sqrt() + self.eps


@wrong("adam_eps_ignored")
class _(Adam):
    """eps=1e-8"""

    def below(self, v):
        return (v + self.root).sqrt() + 1e-8


@wrong("adam_no_bias_correction")
class _(Adam):
    """m and v as they are"""

    def corrected(self, m, v, t):
        return m, v


@wrong("adam_no_bias_correction")
class _(Adam):
    """only m is corrected"""

    def corrected(self, m, v, t):
        return m / (1 - self.b1**t), v


@wrong("adam_bias_correction_of_another_step")
class _(Adam):
    """t + 1"""

    def corrected(self, m, v, t):
        return super().corrected(m, v, t + 1)


@wrong("adam_betas_exchanged")
class _(Adam):
    """betas=(beta2, beta1)"""

    def __init__(self, case):
        super().__init__(case)
        self.b1, self.b2 = self.b2, self.b1


@wrong("adam_default_betas")
class _(Adam):
    """betas=(0.9, 0.999)"""

    def __init__(self, case):
        super().__init__(case)
        self.b1, self.b2 = 0.9, 0.999


@wrong("adam_decoupled_decay")
class _(Adam):
    """AdamW"""

    def moved(self, p, m, v, t):
        return super().moved(p - self.lr * 0.01 * p, m, v, t)


@wrong("inner_weight_decay")
class _(Adam):
    """weight_decay=1e-3"""

    def gradient(self, fast, support, k):
        return {n: g + 1e-3 * fast[n] for n, g in super().gradient(fast, support, k).items()}


@wrong("adam_first_moment_missing")
class _(Adam):
    """RMSprop"""

    def moments(self, m, v, g):
        return g, super().moments(m, v, g)[1]

    def corrected(self, m, v, t):
        return m, super().corrected(m, v, t)[1]


@wrong("adam_count_rises_with_every_tensor")
class _(Adam):
    """t += 1 in the loop over parameters"""

    def state(self):
        self.t = 0
        return super().state()

    def corrected(self, m, v, t):
        self.t += 1
        return super().corrected(m, v, self.t)


@wrong("adam_count_goes_on_over_tasks")
class _(Adam):
    """t = 0 only once"""

    def state(self):
        m, v, _ = super().state()
        return m, v, self.left[2] if hasattr(self, "left") else 0


@wrong("adam_all_defaults")
class _(Adam):
    """torch.optim.Adam(lr=case.inner_lr)"""

    def __init__(self, case):
        super().__init__(case)
        self.b1, self.b2, self.eps, self.root = 0.9, 0.999, 1e-8, 0.0


@wrong("adam_largest_gradient")
class _(Adam):
    """torch.optim.Adamax"""

    def moments(self, m, v, g):
        m, _ = super().moments(m, v, g)
        return m, {n: torch.maximum(self.b2 * v[n], x.abs() + self.eps) for n, x in g.items()}

    def moved(self, p, m, v, t):
        return p - self.lr * m / (1 - self.b1**t) / v


@wrong("adam_of_deviations")
class _(Adam):
    """optax.adabelief"""

    def moments(self, m, v, g):
        m, _ = super().moments(m, v, g)
        return m, {n: self.b2 * v[n] + (1 - self.b2) * (x - m[n]) ** 2 for n, x in g.items()}


@wrong("adam_amsgrad")
class _(Adam):
    """amsgrad=True"""

    def adapt(self, fast, support):
        self.largest = {n: torch.zeros_like(p) for n, p in fast.items()}
        return super().adapt(fast, support)

    def moments(self, m, v, g):
        m, v = super().moments(m, v, g)
        self.largest = {n: torch.maximum(self.largest[n], x) for n, x in v.items()}
        self.name_of = {id(x): n for n, x in v.items()}
        return m, v

    def moved(self, p, m, v, t):
        return super().moved(p, m, self.largest[self.name_of[id(v)]], t)


@wrong("adam_nesterov")
class _(Adam):
    """NAdam's look ahead"""

    def moments(self, m, v, g):
        m, v = super().moments(m, v, g)
        self.ahead = {id(m[n]): self.b1 * m[n] + (1 - self.b1) * g[n] for n in m}
        return m, v

    def corrected(self, m, v, t):
        return super().corrected(self.ahead[id(m)], v, t)


@wrong("adam_is_sgd")
class _(Adam):
    """plain gradient descent"""

    def adapt(self, fast, support):
        return Loop.adapt(self, fast, support)


# ── as functions, for JAX and for the engine ────────────────────────────────────────────────────────────────────────


def _meta_sgd(case, np, loss, grad, params, s, q):
    theta = {n: p for n, p in params.items() if not n.startswith("alpha.")}
    for _ in range(case.inner_steps):
        g = grad(loss)(theta, *s)
        theta = {n: p - params[f"alpha.{n}"] * g[n] for n, p in theta.items()}
    return loss(theta, *q)


def _partly(case, np, loss, grad, params, s, q):
    part = {n: params[n] for n in case.adapt}
    for _ in range(case.inner_steps):
        g = grad(lambda part: loss({**params, **part}, *s))(part)
        part = {n: p - case.inner_lr * g[n] for n, p in part.items()}
    return loss({**params, **part}, *q)


def _cavia(case, np, loss, grad, params, s, q):
    context = np.zeros(case.settings["context"], case.dtype)
    for _ in range(case.inner_steps):
        context = context - case.inner_lr * grad(lambda c: loss({**params, "context": c}, *s))(context)
    return loss({**params, "context": context}, *q)


def _mamlpp(case, np, loss, grad, params, s, q):
    fast, total = {n: params[n] for n in case.adapt}, 0.0
    for k, weight in enumerate(case.settings["loss_weights"]):
        norm = {n: p[k] for n, p in params.items() if n not in case.adapt and not n.startswith("alpha.")}
        g = grad(lambda fast, norm=norm: loss({**fast, **norm}, *s))(fast)
        fast = {n: p - params[f"alpha.{n}"][k] * g[n] for n, p in fast.items()}
        total = total + weight * loss({**fast, **norm}, *q)
    return total


def _momentum(case, np, loss, grad, params, s, q):
    fast, m = params, {n: np.zeros(p.shape, case.dtype) for n, p in params.items()}
    for _ in range(case.inner_steps):
        g = grad(loss)(fast, *s)
        m = {n: case.settings["momentum"] * m[n] + g[n] for n in m}
        fast = {n: p - case.inner_lr * m[n] for n, p in fast.items()}
    return loss(fast, *q)


def _adam(case, np, loss, grad, params, s, q):
    o = SimpleNamespace(**case.settings)
    zeros = {n: np.zeros(p.shape, case.dtype) for n, p in params.items()}
    fast, m, v = params, zeros, zeros
    for t in range(1, case.inner_steps + 1):
        g = grad(loss)(fast, *s)
        m = {n: o.beta1 * m[n] + (1 - o.beta1) * g[n] for n in g}
        v = {n: o.beta2 * v[n] + (1 - o.beta2) * g[n] * g[n] for n in g}
        fast = {n: p - case.inner_lr * (m[n] / (1 - o.beta1**t))
                / (np.sqrt(v[n] / (1 - o.beta2**t) + o.eps_root) + o.eps) for n, p in fast.items()}  # fmt: skip
    return loss(fast, *q)


FUNCTIONS = {"meta-sgd": _meta_sgd, "anil": _partly, "boil": _partly, "cavia": _cavia, "mamlpp": _mamlpp,
             "inner-momentum": _momentum, "inner-adam": _adam}  # fmt: skip


def over_engine(query_loss: Callable) -> Callable:
    """A candidate in NumPy, differentiated by tinymaml's engine."""

    def mine(case):
        loss, params, ((xs, ys), (xq, yq)) = case.numpy()

        def meta_loss(params):
            each = [query_loss(case, np, loss, tm.grad, params, (xs[t], ys[t]), (xq[t], yq[t]))
                    for t in range(case.tasks)]  # fmt: skip
            return sum(each) / case.tasks

        value, grads = tm.value_and_grad(meta_loss)(params)
        return {"meta_grad": grads, "meta_loss": value}

    return mine


def over_jax(query_loss: Callable) -> Callable:
    """A candidate in JAX."""

    def mine(case):
        jax = extras.require("jax", "peers")
        loss, params, ((xs, ys), (xq, yq)) = case.jax()

        @jax.jit
        def both(params, xs, ys, xq, yq):
            one = lambda params, *data: query_loss(case, jax.numpy, loss, jax.grad, params, data[:2], data[2:])  # noqa: E731
            mean = lambda params: jax.vmap(one, (None, 0, 0, 0, 0))(params, xs, ys, xq, yq).mean()  # noqa: E731
            return jax.value_and_grad(mean)(params)

        value, grads = both(params, xs, ys, xq, yq)
        return {"meta_grad": grads, "meta_loss": value}

    return mine


for _name, _function in FUNCTIONS.items():
    HONEST[_name] |= {"engine": over_engine(_function), "jax": over_jax(_function)}
