"""Every mistake of the catalogue, made in code: MAML a second time, in PyTorch and with the engine, as people write it.

    MADE["fomaml"]      [Made(form=0, way="create_graph forgotten", mine=…), …], for `oracle.check`
    UNKNOWN             mistakes that the catalogue does not have, with what the oracle should say of them

`MAML` is an honest loop in PyTorch, a method for each line of the algorithm; a mistake is a subclass in which one line
is wrong. `ByHand` is the product of Hessians written out, over the engine. Nothing here reads an answer or calls the
catalogue's formulas, except where `by_formula` says so.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

import tinymaml as tm
from tinymaml import extras
from tinymaml.oracle import models
from tinymaml.oracle.catalogue import CATALOGUE, OF_MAML, run_form
from tinymaml.oracle.tolerance import rates

torch = extras.require("torch", "peers")

# ── honest implementations ──────────────────────────────────────────────────────────────────────────────────────────


class MAML:
    """MAML in PyTorch. `MAML(case)()` is an answer."""

    framework = models.Torch
    traced = False

    def __init__(self, case):
        self.case, self.trace = case, []
        _, self.theta, (support, query) = case.torch()
        self.loss = models.loss_in(self.framework(), case.model)
        self.tasks = list(zip(zip(*support, strict=True), zip(*query, strict=True), strict=True))
        given = rates(case)
        given = given if isinstance(given, dict) else dict.fromkeys(self.theta, given)
        self.rate = {n: torch.as_tensor(np.asarray(a), dtype=getattr(torch, case.dtype)) for n, a in given.items()}
        self.steps = case.inner_steps

    def __call__(self) -> dict:
        total = self.together(self.losses())
        answer = {"meta_grad": self.finish(self.outer_gradient(total)), "meta_loss": total.detach()}
        return answer | ({"trace": self.trace} if self.traced else {})

    # the inner loop

    def support_loss(self, fast, batch):
        return self.loss(fast, *batch)

    def query_loss(self, fast, batch):
        return self.loss(fast, *batch)

    def gradient(self, fast, batch, k):
        return grad(self.support_loss(fast, batch), fast, create_graph=not self.case.first_order)

    def step(self, fast, g, k):
        return {n: p - self.rate[n] * g[n] for n, p in fast.items()}

    def adapt(self, fast, batch):
        way = {"theta": [fast], "loss_s": [], "grad_s": []}
        for k in range(self.steps):
            g = self.gradient(fast, batch, k)
            if self.traced:
                way["loss_s"].append(self.support_loss(fast, batch))
                way["grad_s"].append(g)
            fast = self.step(fast, g, k)
            way["theta"].append(fast)
        self.trace.append(way)
        return fast

    # the outer loop

    def task(self, support, query):
        fast = self.adapt(self.theta, support)
        loss = self.query_loss(fast, query)
        if self.traced:
            self.trace[-1] |= {"loss_q": loss, "grad_q": grad(loss, fast, create_graph=True)}
        return loss

    def losses(self):
        return [self.task(support, query) for support, query in self.tasks]

    def together(self, losses):
        return sum(losses) / len(losses)

    def outer_gradient(self, total):
        return grad(total, self.theta)

    def finish(self, grads):
        return grads


class FirstOrder(MAML):
    """No create_graph in the inner loop."""

    def gradient(self, fast, batch, k):
        return grad(self.support_loss(fast, batch), fast)


def grad(loss, params: dict, create_graph: bool = False) -> dict:
    """∂loss/∂params by name."""
    leaves, keep = list(params.values()), {"retain_graph": True, "materialize_grads": True}
    return dict(zip(params, torch.autograd.grad(loss, leaves, create_graph=create_graph, **keep), strict=True))


class ByHand:
    """v ← v − Hₖ A v for k = K − 1 … 0, with the engine's gradients and Hessian-vector products."""

    sign = -1

    def __init__(self, case):
        self.case, self.k = case, case.inner_steps
        self.loss, self.theta, (support, query) = case.numpy()
        self.tasks = list(zip(zip(*support, strict=True), zip(*query, strict=True), strict=True))
        given = rates(case)
        given = given if isinstance(given, dict) else dict.fromkeys(self.theta, given)
        self.rate = {n: np.asarray(a, case.dtype) for n, a in given.items()}

    def __call__(self) -> dict:
        losses, grads = zip(*(self.task(*task) for task in self.tasks), strict=True)
        mean = lambda values: sum(values) / len(self.tasks)  # noqa: E731
        return {"meta_grad": {n: mean(g[n] for g in grads) for n in self.theta}, "meta_loss": mean(losses)}

    def way(self, support):
        """[θ₀, …, θ_K]"""
        thetas = [self.theta]
        for _ in range(self.k):
            g = tm.grad(self.loss)(thetas[-1], *support)
            thetas.append({n: p - self.rate[n] * g[n] for n, p in thetas[-1].items()})
        return thetas

    def task(self, support, query):
        thetas = self.way(support)
        value, v = tm.value_and_grad(self.loss)(thetas[-1], *query)
        for k in [] if self.case.first_order else self.order():
            h = self.product(self.at(thetas, k), self.batch(support, query), self.weighted(v))
            v = {n: v[n] + self.sign * h[n] for n in v}
        return value, v

    def weighted(self, v):
        return {n: self.rate[n] * v[n] for n in v}

    def order(self):
        return reversed(range(self.k))

    def at(self, thetas, k):
        return thetas[k]

    def batch(self, support, query):
        return support

    def product(self, theta, batch, v):
        return tm.hvp(self.loss, (theta, *batch), v)


# ── the register ────────────────────────────────────────────────────────────────────────────────────────────────────


class Made(NamedTuple):
    """One way to make a mistake: which form of the catalogue it is (None: of no form, the diagnosis has its own way);
    what was done; and what `oracle.check` takes."""

    form: int | None
    way: str
    mine: Callable


MADE: dict[str, list[Made]] = {}


def makes(id: str, form: int | dict | None = 0) -> Callable:
    """Registers a class, called as cls(case)(), or a function of a case, for a form: its place or its switches. Where
    the catalogue has the same form with factors detached, the class without create_graph is registered for that, unless
    its own gradient is what is wrong."""
    forms = list(CATALOGUE[id].forms)
    place = form if form is None or isinstance(form, int) else forms.index(form) if form in forms else None

    def register(made):
        is_class = isinstance(made, type)
        way = (made.__doc__ or made.__name__).strip()
        MADE.setdefault(id, []).append(Made(place, way, called(made) if is_class else made))
        detached = {} if place is None or "factors" in forms[place] else forms[place] | {"factors": "detached"}
        inherits = is_class and issubclass(made, MAML) and made.gradient is MAML.gradient
        if inherits and detached in forms and forms.index(detached) != place:
            both = type(f"{made.__name__}FirstOrder", (FirstOrder, made), {})
            MADE[id].append(Made(forms.index(detached), f"{way}; no create_graph", called(both)))
        return made

    return register


def called(cls: type) -> Callable:
    """cls(case)() as a function of the case."""
    return functools.wraps(cls, updated=())(lambda case: cls(case)())


def by_formula(form: dict) -> Callable:
    """What the catalogue's own formula gives, rounded to the case's dtype: for mistakes that no line of code makes."""

    def mine(case):
        result = run_form(case, form)
        return {
            "meta_grad": {n: np.asarray(g, case.dtype) for n, g in result.meta_grad.items()},
            "meta_loss": np.asarray(result.meta_loss, case.dtype),
        }

    return mine


# ── the derivative through the inner loop ───────────────────────────────────────────────────────────────────────────


@makes("fomaml")
class NoCreateGraph(FirstOrder):
    """create_graph forgotten"""


@makes("fomaml")
class Detached(MAML):
    """inner gradient .detach()ed"""

    def gradient(self, fast, batch, k):
        return {n: g.detach() for n, g in super().gradient(fast, batch, k).items()}


@makes("fomaml")
def learner_of_its_own(case):
    """deep copy and SGD; the copy's .grad is taken"""
    honest = MAML(case)
    total, value = {n: torch.zeros_like(p) for n, p in honest.theta.items()}, 0.0
    for support, query in honest.tasks:
        learner = {n: p.detach().clone().requires_grad_() for n, p in honest.theta.items()}
        optimiser = torch.optim.SGD([{"params": [p], "lr": 1.0} for p in learner.values()])
        for _ in range(case.inner_steps):
            optimiser.zero_grad()
            honest.loss(learner, *support).backward()
            for n, p in learner.items():
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad * honest.rate[n]
            optimiser.step()
        optimiser.zero_grad()
        loss = honest.loss(learner, *query) / case.tasks
        loss.backward()
        value += loss.item()
        total = {n: g if learner[n].grad is None else g + learner[n].grad for n, g in total.items()}
    return {"meta_grad": total, "meta_loss": value}


@makes("fomaml")
def the_engines_switch(case):
    """tinymaml with first_order=True"""
    return engine(case, first_order=True)


def engine(case, first_order=None) -> dict:
    """tinymaml's own meta-gradient, in the case's dtype."""
    loss, params, ((xs, ys), (xq, yq)) = case.numpy()
    given = rates(case)
    given = {n: np.asarray(a, case.dtype) for n, a in given.items()} if isinstance(given, dict) else given
    tasks = [((xs[t], ys[t]), (xq[t], yq[t])) for t in range(case.tasks)]
    first_order = case.first_order if first_order is None else first_order
    meta = tm.meta_value_and_grad(loss, inner_lr=given, inner_steps=case.inner_steps, first_order=first_order)
    value, grads = meta(params, tasks)
    return {"meta_grad": grads, "meta_loss": value}


@makes("first_order_ignored")
class AlwaysSecondOrder(MAML):
    """create_graph=True whatever the flag says"""

    def gradient(self, fast, batch, k):
        return grad(self.support_loss(fast, batch), fast, create_graph=True)


@makes("zero_gradient")
class Copied(MAML):
    """fast weights are a copy of θ"""

    def adapt(self, fast, batch):
        return super().adapt({n: p.detach().clone().requires_grad_() for n, p in fast.items()}, batch)


@makes("zero_gradient", 1)
class NoneForAll(Copied):
    """a copy, and None is returned"""

    def outer_gradient(self, total):
        return torch.autograd.grad(total, list(self.theta.values()), allow_unused=True)


@makes("query_before_adaptation")
class QueryOfTheta(MAML):
    """the query loss of the parameters, not of the fast weights"""

    def task(self, support, query):
        self.adapt(self.theta, support)
        return self.query_loss(self.theta, query)


@makes("stale_gradient")
class FirstGradientAgain(MAML):
    """the gradient is computed before the loop"""

    def adapt(self, fast, batch):
        g = self.gradient(fast, batch, 0)
        for k in range(self.steps):
            fast = self.step(fast, g, k)
        return fast


@makes("stale_gradient")
class LossOfTheta(MAML):
    """the support loss of the parameters, not of the fast weights, in every step"""

    def adapt(self, fast, batch):
        for k in range(self.steps):
            fast = self.step(fast, self.gradient(self.theta, batch, k), k)
        return fast


@makes("restarted_steps")
class FromTheta(MAML):
    """each step computes from the parameters, and overwrites the fast weights"""

    def adapt(self, fast, batch):
        for k in range(self.steps):
            fast = self.step(self.theta, self.gradient(self.theta, batch, k), k)
        return fast


@makes("restarted_steps", {"inner": "from start"})
class SubtractedFromTheta(MAML):
    """the gradient of the fast weights, but subtracted from the parameters"""

    def adapt(self, fast, batch):
        for k in range(self.steps):
            g = self.gradient(fast, batch, k)
            fast = self.step(self.theta, g, k)
        return fast


def create_graph_where(which: Callable) -> Callable:
    def gradient(self, fast, batch, k):
        return grad(self.support_loss(fast, batch), fast, create_graph=which(k, self.steps))

    return gradient


@makes("first_step_detached")
class NotInTheFirst(MAML):
    """create_graph = k > 0"""

    gradient = create_graph_where(lambda k, steps: k > 0)


@makes("last_step_detached")
class NotInTheLast(MAML):
    """create_graph = k < K − 1"""

    gradient = create_graph_where(lambda k, steps: k < steps - 1)


@makes("middle_step_detached")
class NotInTheMiddle(MAML):
    """create_graph only in the first and the last step"""

    gradient = create_graph_where(lambda k, steps: k in (0, steps - 1))


@makes("hessian_sign")
class Plus(ByHand):
    """v + α H v"""

    sign = 1


@makes("reversed_product")
class Forwards(ByHand):
    """for k in range(K)"""

    def order(self):
        return range(self.k)


@makes("hessian_at_start")
class AtStart(ByHand):
    """products at θ"""

    def at(self, thetas, k):
        return thetas[0]


@makes("hessian_at_end")
class AtEnd(ByHand):
    """products at θ_K"""

    def at(self, thetas, k):
        return thetas[-1]


@makes("hessian_of_query")
class OfQuery(ByHand):
    """products of the query loss"""

    def batch(self, support, query):
        return query


@makes("hessian_of_query", 1)
class OfQueryAtEnd(OfQuery, AtEnd):
    """products of the query loss at θ_K"""


@makes("diagonal_hessian")
class Elementwise(ByHand):
    """elementwise second derivatives"""

    def product(self, theta, batch, v):
        out = {n: np.zeros_like(x) for n, x in v.items()}
        for n, x in v.items():
            for i in range(x.size):
                e = {m: np.zeros_like(y) for m, y in v.items()}
                e[n].flat[i] = 1
                out[n].flat[i] = tm.hvp(self.loss, (theta, *batch), e)[n].flat[i] * x.flat[i]
        return out


def outputs(library, model: dict, params: dict, x):
    """The model without its loss."""
    for layer in model["layers"]:
        settings = {k: v for k, v in layer.items() if k not in ("layer", "params")}
        x = getattr(library, layer["layer"])(x, *(params[p] for p in layer.get("params", [])), **settings)
    return x


@makes("gauss_newton")
def jacobian_and_output_hessian(case):
    """Jᵀ (∇²ℓ) J v in PyTorch"""
    honest = FirstOrder(case)
    library = honest.framework()
    criterion = (lambda o, y: library.mean(o)) if case.model["loss"] == "mean" else getattr(library, case.model["loss"])
    total = {n: torch.zeros_like(p) for n, p in honest.theta.items()}
    value = 0.0
    for (xs, ys), query in honest.tasks:
        honest.trace.clear()
        loss = honest.query_loss(honest.adapt(honest.theta, (xs, ys)), query)
        thetas = honest.trace[0]["theta"]
        v = grad(loss, thetas[-1])
        net = lambda p, xs=xs: outputs(library, case.model, p, xs)  # noqa: E731
        slope = torch.func.grad(lambda o, ys=ys: criterion(o, ys))
        for theta in reversed(thetas[:-1]):
            theta = {n: p.detach() for n, p in theta.items()}
            o, jv = torch.func.jvp(net, (theta,), ({n: honest.rate[n] * x for n, x in v.items()},))
            _, hjv = torch.func.jvp(slope, (o,), (jv,))
            (product,) = torch.func.vjp(net, theta)[1](hjv)
            v = {n: x - product[n] for n, x in v.items()}
        value += loss.item() / case.tasks
        total = {n: total[n] + v[n] / case.tasks for n in v}
    return {"meta_grad": total, "meta_loss": value}


class _SavedDetached(torch.autograd.Function):
    """A custom operation whose backward is right, but made from what it saved as constants."""

    @staticmethod
    def forward(ctx, f, cut, *inputs):
        ctx.f, ctx.cut = f, cut
        ctx.save_for_backward(*inputs)
        return f(*(x.detach() for x in inputs))

    @staticmethod
    def backward(ctx, g):
        held = [x.detach().requires_grad_(x.dtype.is_floating_point) for x in ctx.saved_tensors]
        wanted = [x for x in held if x.requires_grad]
        with torch.enable_grad():
            g = g.detach() if ctx.cut else g
            grads = iter(torch.autograd.grad(ctx.f(*held), wanted, g, create_graph=not ctx.cut))
        return None, None, *(next(grads) if x.requires_grad else None for x in held)


class Layers(models.Torch):
    """PyTorch's layers; what replaces one of them does not reach into the losses."""

    def binary_cross_entropy(self, o, y):
        return models.Torch().binary_cross_entropy(o, y)


def custom(*names: str, cut: bool = False) -> Callable:
    """Layers whose custom backward has no derivative of its own (with `cut`: not even by what comes back)."""

    def framework():
        made = Layers()
        for name in names:
            honest = getattr(made, name)
            setattr(made, name, lambda *inputs, honest=honest, **settings: _SavedDetached.apply(
                functools.partial(honest, **settings), cut, *inputs))  # fmt: skip
        return made

    return framework


@makes("softmax_frozen")
class CustomLoss(MAML):
    """a custom Function for the loss that saves its slope detached"""

    framework = staticmethod(custom("mse", "half_mse", "cross_entropy", "binary_cross_entropy"))


@makes("batch_norm_frozen")
class CustomBatchNorm(MAML):
    """a custom Function for batch norm that saves its statistics detached"""

    framework = staticmethod(custom("batch_norm"))


@makes("pool_frozen")
class CustomPool(MAML):
    """a custom Function for max pooling without a double backward"""

    framework = staticmethod(custom("max_pool", cut=True))


@makes("activation_frozen")
class CustomActivation(MAML):
    """custom Functions for activations that save their slope detached"""

    framework = staticmethod(custom("tanh", "softplus", "square"))


# ── the inner loop ──────────────────────────────────────────────────────────────────────────────────────────────────


@makes("one_step_more")
class StepBefore(MAML):
    """a step before the loop"""

    def __init__(self, case):
        super().__init__(case)
        self.steps = case.inner_steps + 1


@makes("one_step_less")
class FromOne(MAML):
    """range(1, K)"""

    def __init__(self, case):
        super().__init__(case)
        self.steps = len(range(1, case.inner_steps))


@makes("inner_ascent")
class Ascent(MAML):
    """fast + α g"""

    def step(self, fast, g, k):
        return {n: p + self.rate[n] * g[n] for n, p in fast.items()}


@makes("grad_sum")
class GradSum(MAML):
    """fast − α g.sum()"""

    def step(self, fast, g, k):
        return super().step(fast, {n: x.sum() for n, x in g.items()}, k)


@makes("alpha_times_n")
class SumLoss(MAML):
    """the support loss is a sum over examples"""

    def support_loss(self, fast, batch):
        return self.loss(fast, *batch) * len(batch[0])


@makes("alpha_times_n", {"rate": "times elements"})
class SumOfElements(MAML):
    """reduction="sum", which adds outputs too"""

    def support_loss(self, fast, batch):
        x, y = batch
        return self.loss(fast, x, y) * (y.numel() if "mse" in self.case.model["loss"] else len(x))


@makes("alpha_over_n")
class DividedAgain(MAML):
    """loss / len(xs)"""

    def support_loss(self, fast, batch):
        return self.loss(fast, *batch) / len(batch[0])


@makes("query_mean_divided_again")
class QueryDividedAgain(MAML):
    """loss / len(xq)"""

    def query_loss(self, fast, batch):
        return self.loss(fast, *batch) / len(batch[0])


@makes("mean_divided_again")
class BothDividedAgain(DividedAgain, QueryDividedAgain):
    """both losses / len(x)"""


@makes("one_rate_for_all")
class FirstRate(MAML):
    """next(iter(inner_lr.values())) for all"""

    def __init__(self, case):
        super().__init__(case)
        if isinstance(case.inner_lr, dict):
            first = next(iter(self.rate.values())).reshape(-1)[0]
            self.rate = dict.fromkeys(self.rate, first)


class Adapting(MAML):
    """Some parameters only."""

    names: Callable

    def step(self, fast, g, k):
        return {n: p - self.rate[n] * g[n] if n in self.names() else p for n, p in fast.items()}


@makes("head_only")
class HeadOnly(Adapting):
    """the inner update is of the last layer alone"""

    def names(self):
        return self.case.head()


@makes("biases_not_adapted")
class NoBiases(Adapting):
    """the inner update skips the biases"""

    def names(self):
        return self.case.biases_left()


@makes("all_adapted")
class AdaptAll(MAML):
    """the inner update is of all parameters"""

    def __init__(self, case):
        super().__init__(case)
        given = case.inner_lr if isinstance(case.inner_lr, dict) else dict.fromkeys(self.theta, case.inner_lr)
        self.rate = {n: torch.as_tensor(np.asarray(a), dtype=getattr(torch, case.dtype)) for n, a in given.items()}


# ── the data ────────────────────────────────────────────────────────────────────────────────────────────────────────


class OtherData(MAML):
    def __init__(self, case):
        super().__init__(case)
        self.tasks = [self.data(*task) for task in self.tasks]


@makes("query_is_support")
class QueryIsSupport(OtherData):
    """loss(fast, xs, ys) at the end"""

    def data(self, support, query):
        return support, support


@makes("support_is_query")
class SupportIsQuery(OtherData):
    """loss(fast, xq, yq) in the inner loop"""

    def data(self, support, query):
        return query, query


@makes("swapped_support_query")
class Swapped(OtherData):
    """(xq, yq), (xs, ys) = task"""

    def data(self, support, query):
        return query, support


@makes("labels_sorted")
class SortedLabels(OtherData):
    """ys.sort()"""

    def data(self, *batches):
        return tuple((x, y if y.dtype.is_floating_point else y.sort().values) for x, y in batches)


@makes("joint_training")
class Joint(MAML):
    """support and query loss of θ, added"""

    def task(self, support, query):
        return self.loss(self.theta, *support) + self.loss(self.theta, *query)


# ── the sum over tasks ──────────────────────────────────────────────────────────────────────────────────────────────


@makes("sum_over_tasks")
class Sum(MAML):
    """sum(losses).backward(), and the mean is logged"""

    def __call__(self):
        total = sum(self.losses())
        return {"meta_grad": grad(total, self.theta), "meta_loss": total.detach() / len(self.tasks)}


@makes("last_task_only")
class Overwritten(MAML):
    """total = loss in the loop over tasks"""

    def together(self, losses):
        for loss in losses:
            total = loss
        return total


@makes("last_task_over_T")
class Item(MAML):
    """.item() on all but the last loss"""

    def together(self, losses):
        return (sum(x.item() for x in losses[:-1]) + losses[-1]) / len(losses)


@makes("first_task_only")
class ReturnsEarly(MAML):
    """return inside the loop over tasks"""

    def losses(self):
        for support, query in self.tasks:
            return [self.task(support, query)]


@makes("first_task_only", 1)
class FirstOverT(ReturnsEarly):
    """xs[0], divided by the number of tasks"""

    def together(self, losses):
        return sum(losses) / self.case.tasks


@makes("sequential_tasks")
class StepAfterEach(MAML):
    """optimizer.step() in the loop over tasks"""

    def __call__(self):
        optimiser = torch.optim.SGD(list(self.theta.values()), lr=self.case.outer_lr)
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


@makes("task_leak")
class NeverReset(MAML):
    """the fast weights are made before the loop over tasks"""

    def losses(self):
        fast, losses = self.theta, []
        for support, query in self.tasks:
            fast = self.adapt(fast, support)
            losses.append(self.query_loss(fast, query))
        return losses


@makes("task_leak", 1)
class WrittenBack(MAML):
    """p.data.copy_(fast) after every task"""

    after = "after"

    def __call__(self):
        total, value = {n: torch.zeros_like(p) for n, p in self.theta.items()}, 0.0
        for support, query in self.tasks:
            fast = self.adapt(self.theta, support)
            loss = self.query_loss(fast, query) / self.case.tasks
            total = {n: total[n] + g for n, g in grad(loss, self.theta).items()}
            value += loss.item()
            for n, p in self.theta.items():
                p.data = fast[n].detach().clone()
        return {"meta_grad": total, "meta_loss": value}


@makes("inplace_update")
class InPlace(MAML):
    """p.data.sub_ in the inner loop"""

    def __call__(self):
        total, value = {n: torch.zeros_like(p) for n, p in self.theta.items()}, 0.0
        for support, query in self.tasks:
            for _ in range(self.steps):
                g = grad(self.support_loss(self.theta, support), self.theta)
                for n, p in self.theta.items():
                    p.data.sub_(self.rate[n] * g[n])
            loss = self.query_loss(self.theta, query) / self.case.tasks
            total = {n: total[n] + g for n, g in grad(loss, self.theta).items()}
            value += loss.item()
        return {"meta_grad": total, "meta_loss": value}


@makes("same_parameters")
def one_set_of_parameters(case):
    """both loops step the same parameters: (θ before − θ after) / βT"""
    honest = MAML(case)
    before = {n: p.detach().clone() for n, p in honest.theta.items()}
    outer = torch.optim.SGD(list(honest.theta.values()), lr=case.outer_lr)
    value = 0.0
    for support, query in honest.tasks:
        for _ in range(case.inner_steps):
            g = grad(honest.loss(honest.theta, *support), honest.theta)
            with torch.no_grad():
                for n, p in honest.theta.items():
                    p -= honest.rate[n] * g[n]
        outer.zero_grad()
        loss = honest.loss(honest.theta, *query)
        loss.backward()
        outer.step()
        value += loss.item() / case.tasks
    beta = case.outer_lr * case.tasks
    return {"meta_grad": {n: (before[n] - p) / beta for n, p in honest.theta.items()}, "meta_loss": value}


@makes("same_parameters", 1)
class NotRestored(MAML):
    """the fast weights are loaded into θ, and the outer step follows"""

    def __call__(self):
        before, value = {n: p.detach().clone() for n, p in self.theta.items()}, 0.0
        for support, query in self.tasks:
            fast = self.adapt(self.theta, support)
            loss = self.query_loss(fast, query)
            g = grad(loss, self.theta)
            for n, p in self.theta.items():
                p.data = fast[n].detach() - self.case.outer_lr * g[n]
            value += loss.item() / self.case.tasks
        beta = self.case.outer_lr * self.case.tasks
        return {"meta_grad": {n: (before[n] - p.detach()) / beta for n, p in self.theta.items()}, "meta_loss": value}


# ── what becomes of the gradient ────────────────────────────────────────────────────────────────────────────────────


@makes("gradients_accumulated")
class Backward(MAML):
    """loss.backward() for the inner gradient, so that θ.grad has it too"""

    divided = False  # whether the query loss is divided by T before its backward(), or all gradients after it

    def __call__(self):
        value = 0.0
        for support, query in self.tasks:
            fast = {n: p + 0 for n, p in self.theta.items()}
            for _ in range(self.steps):
                for p in fast.values():
                    p.retain_grad()
                self.support_loss(fast, support).backward(retain_graph=True)
                fast = {n: p if p.grad is None else p - self.rate[n] * p.grad.detach().clone() for n, p in fast.items()}
            loss = self.query_loss(fast, query)
            (loss / self.case.tasks if self.divided else loss).backward()
            value += loss.item() / self.case.tasks
        over = 1 if self.divided else self.case.tasks
        grads = {n: None if p.grad is None else p.grad / over for n, p in self.theta.items()}
        return {"meta_grad": grads, "meta_loss": value}


@makes("gradients_accumulated", 1)
class Added(MAML):
    """each step's gradient is added to θ.grad by hand, and the exact one too"""

    def __call__(self):
        total = self.together(self.losses())
        grads = grad(total, self.theta)
        for way, (support, _) in zip(self.trace, self.tasks, strict=True):
            for fast in way["theta"][:-1]:
                inner = grad(self.support_loss(fast, support), fast)
                grads = {n: g + inner[n] / len(self.tasks) for n, g in grads.items()}
        return {"meta_grad": grads, "meta_loss": total.detach()}


@makes("gradients_accumulated", {"result": "accumulated with graph"})
class BackwardWithGraph(MAML):
    """loss.backward(create_graph=True) in the inner loop"""

    def __call__(self):
        value = 0.0
        for support, query in self.tasks:
            fast = {n: p + 0 for n, p in self.theta.items()}
            for k in range(self.steps):
                loss = self.support_loss(fast, support)
                g = grad(loss, fast, create_graph=True)
                loss.backward(retain_graph=True)
                fast = self.step(fast, g, k)
            loss = self.query_loss(fast, query)
            loss.backward()
            value += loss.item() / self.case.tasks
        grads = {n: None if p.grad is None else p.grad / self.case.tasks for n, p in self.theta.items()}
        return {"meta_grad": grads, "meta_loss": value}


class Learner(MAML):
    """A deep copy and SGD, the copy's .grad taken; `zero_grad` says where it is called."""

    zero_grad: Callable

    def __call__(self):
        total, value = {n: torch.zeros_like(p) for n, p in self.theta.items()}, 0.0
        for support, query in self.tasks:
            learner = {n: p.detach().clone().requires_grad_() for n, p in self.theta.items()}
            for _ in range(self.steps):
                self.zero_grad(learner)
                self.support_loss(learner, support).backward()
                with torch.no_grad():
                    for n, p in learner.items():
                        if p.grad is not None:
                            p -= self.rate[n] * p.grad
            loss = self.query_loss(learner, query)
            loss.backward()
            value += loss.item() / self.case.tasks
            for n, p in learner.items():
                total[n] += 0 if p.grad is None else p.grad / self.case.tasks
        return {"meta_grad": total, "meta_loss": value}


@makes("gradients_accumulated", {"result": "last accumulated", "factors": "detached"})
class LastInnerStays(Learner):
    """zero_grad() before each inner backward(), not before the query's"""

    def zero_grad(self, learner):
        for p in learner.values():
            p.grad = None


@makes("gradients_accumulated", {"inner": "running sum", "result": "accumulated", "factors": "detached"})
class NeverZeroed(Learner):
    """a learner without any zero_grad()"""

    def zero_grad(self, learner):
        pass


class NotZeroed:
    """backward() without zero_grad(), on a module kept for each model"""

    def __init__(self, key=lambda case: case.id):
        self.modules: dict = {}
        self.key = key

    def __call__(self, case):
        honest = MAML(case)
        theta = self.modules.setdefault(self.key(case), honest.theta)
        for n, p in theta.items():
            p.data = honest.theta[n].detach().clone()
        honest.theta = theta
        total = honest.together(honest.losses())
        total.backward()
        grads = {n: None if p.grad is None else p.grad.clone() for n, p in theta.items()}
        return {"meta_grad": grads, "meta_loss": total.detach()}


@makes("multi_step_loss")
class MultiStep(MAML):
    """the query loss averaged over all steps"""

    def task(self, support, query):
        self.adapt(self.theta, support)
        points = self.trace[-1]["theta"][1:] or [self.theta]
        return sum(self.query_loss(fast, query) for fast in points) / len(points)


@makes("reptile")
class Reptile(FirstOrder):
    """θ − θ_K"""

    def outer_gradient(self, total):
        ends = [way["theta"][-1] for way in self.trace]
        return {n: sum(p - fast[n] for fast in ends) / len(ends) for n, p in self.theta.items()}


@makes("doubled_gradient")
class BackwardTwice(MAML):
    """backward() twice"""

    def outer_gradient(self, total):
        total.backward(retain_graph=True)
        total.backward()
        return {n: p.grad for n, p in self.theta.items()}


@makes("negated_gradient")
class Negated(MAML):
    """(−loss).backward()"""

    def outer_gradient(self, total):
        return grad(-total, self.theta)


@makes("times_inner_rate")
class TimesRate(MAML):
    """α · gradient"""

    def finish(self, grads):
        return {n: self.rate[n] * g for n, g in grads.items()}


@makes("normalised_gradient")
class Normalised(MAML):
    """g / |g|"""

    def finish(self, grads):
        norm = torch.sqrt(sum((g * g).sum() for g in grads.values()))
        return {n: g / norm for n, g in grads.items()}


@makes("last_parameter_missing")
class LastMissing(MAML):
    """None for the last parameter"""

    def finish(self, grads):
        return {n: None if n == list(grads)[-1] else g for n, g in grads.items()}


@makes("bias_gradients_missing")
class BiasesMissing(MAML):
    """None for the biases"""

    def finish(self, grads):
        return {n: None if n in self.case.biases() else g for n, g in grads.items()}


@makes("tied_weight_once")
class SecondUseOnly(MAML):
    """a shared weight is registered twice, and only the last registration is differentiated"""

    def uses(self, params, held):
        """The parameters of each layer; `held` of all uses of a parameter but the last."""
        layers = self.case.model["layers"]
        last = {n: i for i, layer in enumerate(layers) for n in layer.get("params", [])}
        used = [layer.get("params", []) for layer in layers]
        return [[params[n] if last[n] == i else held[n] for n in names] for i, names in enumerate(used)]

    def loss_of(self, used, batch):
        library, (x, y) = self.framework(), batch
        for layer, params in zip(self.case.model["layers"], used, strict=True):
            settings = {k: v for k, v in layer.items() if k not in ("layer", "params")}
            x = getattr(library, layer["layer"])(x, *params, **settings)
        return library.mean(x) if self.case.model["loss"] == "mean" else getattr(library, self.case.model["loss"])(x, y)

    def gradient(self, fast, batch, k):
        last = {n: p + 0 for n, p in fast.items()}
        return grad(self.loss_of(self.uses(last, fast), batch), last, create_graph=True)

    def query_loss(self, fast, batch):
        return self.loss_of(self.uses(fast, {n: p.detach() for n, p in fast.items()}), batch)


# ── conventions ─────────────────────────────────────────────────────────────────────────────────────────────────────


def other(**layers) -> Callable:
    """PyTorch's layers with some replaced: name=f(library, inputs…)."""

    def framework():
        made = Layers()
        for name, f in layers.items():
            setattr(made, name, functools.partial(f, made))
        return made

    return staticmethod(framework)


@makes("half_squared_error")
class Half(MAML):
    """squared errors with ½"""

    framework = other(mse=lambda library, o, y: ((o - y) ** 2 / 2).mean())


@makes("relu_slope_one_at_zero")
class ReluOne(MAML):
    """x * (x >= 0)"""

    framework = other(relu=lambda library, x: x * (x >= 0))


@makes("relu_slope_half_at_zero")
class ReluHalf(MAML):
    """torch.maximum(x, 0)"""

    framework = other(relu=lambda library, x: torch.maximum(x, torch.zeros_like(x)))


def _windows(library, x, size):
    n, h, w, c = x.shape
    x = x[:, : h // size * size, : w // size * size].reshape(n, h // size, size, w // size, size, c)
    return x.permute(0, 1, 3, 5, 2, 4).reshape(n, h // size, w // size, c, size * size)


@makes("pool_tie_last")
class LastOfTie(MAML):
    """max_pool of windows turned round"""

    framework = other(max_pool=lambda library, x, size: _windows(library, x, size).flip(-1).max(-1).values)


@makes("pool_tie_split")
class SharedTie(MAML):
    """amax over windows"""

    framework = other(max_pool=lambda library, x, size: _windows(library, x, size).amax(-1))


def _unbiased(library, x, gamma, beta):
    over = tuple(range(x.ndim - 1))
    return (x - x.mean(over)) / torch.sqrt(x.var(over, unbiased=True) + models.EPS) * gamma + beta


@makes("unbiased_variance")
class Unbiased(MAML):
    """x.var(dim) with its default"""

    framework = other(batch_norm=_unbiased)


@makes("running_statistics")
class Evaluating(MAML):
    """batch_norm with running statistics, never updated"""

    framework = other(batch_norm=lambda library, x, gamma, beta: x / (1 + models.EPS) ** 0.5 * gamma + beta)


# ── what the catalogue does not have ────────────────────────────────────────────────────────────────────────────────


class Unknown(NamedTuple):
    """A mistake that the catalogue does not have.

    Attributes:
        name: what was done.
        mine: what `oracle.check` takes; it returns meta_loss and a trace.
        kind: what the report's `kind` must be, None for IMPRECISE.
        says: a regular expression that the report's explanation, location or notes must match without a trace.
        first: one that the location must match with a trace; "" if all of the trace is right.
    """

    name: str
    mine: Callable
    kind: str | None
    says: str
    first: str

    @property
    def blind(self) -> Callable:
        """The same without a trace."""
        return lambda case: {k: v for k, v in self.mine(case).items() if k != "trace"}


UNKNOWN: list[Unknown] = []
DERIVATIVE, OBJECTIVE, FORWARD = "wrong derivative", "right derivative of another objective", "forward differs"


def unknown(kind: str | None, says: str = "case", first: str = "") -> Callable:
    """Registers a class with a trace. `first`: what of the trace is wrong first; "" if all of it is right."""

    def register(cls):
        cls.traced = True
        UNKNOWN.append(Unknown(cls.__doc__, called(cls), kind, says, first))
        return cls

    return register


@unknown(OBJECTIVE, "derivative of what you compute", "theta of inner step 1")
class FirstRowStill(MAML):
    """the first row of each inner gradient is 0"""

    def step(self, fast, g, k):
        return super().step(fast, {n: torch.cat((0 * x[:1], x[1:])) if x.ndim else x for n, x in g.items()}, k)


@unknown(OBJECTIVE, "derivative of what you compute", "theta of inner step 1")
class Cubed(MAML):
    """g + g³ in the inner step"""

    def step(self, fast, g, k):
        return super().step(fast, {n: x + x**3 for n, x in g.items()}, k)


def _mean_detached(library, x, gamma, beta):
    over = tuple(range(x.ndim - 1))
    centred = x - x.mean(over).detach()
    return centred / torch.sqrt(x.var(over, unbiased=False) + models.EPS) * gamma + beta


@unknown(FORWARD, "always wrong: gamma2, beta2, gamma, beta;", "grad_s of inner step 0")
class MeanDetached(MAML):
    """batch norm's mean is detached"""

    framework = other(batch_norm=_mean_detached)


@unknown(DERIVATIVE, "w is transposed")
class Transposed(MAML):
    """a square gradient is returned transposed"""

    def finish(self, grads):
        return {n: g.T if g.ndim == 2 and len(g) == len(g.T) else g for n, g in grads.items()}


@unknown(DERIVATIVE, "holds the gradient of")
class Exchanged(MAML):
    """two gradients of one shape are exchanged"""

    def finish(self, grads):
        alike = [(m, n) for m in grads for n in grads if m < n and grads[m].shape == grads[n].shape]
        if alike:
            m, n = alike[0]
            grads = grads | {m: grads[n], n: grads[m]}
        return grads


@unknown(None, "a derivative is a difference; at a kink, where a difference is not the derivative, it is far off")
class CoarseDifference(ByHand):
    """Hessian-vector products by differences with h = 0.01"""

    h = 1e-2

    def product(self, theta, batch, v):
        up, down = ({n: p + s * self.h * v[n] for n, p in theta.items()} for s in (0.5, -0.5))
        a, b = tm.grad(self.loss)(up, *batch), tm.grad(self.loss)(down, *batch)
        return {n: (a[n] - b[n]) / self.h for n in v}


@unknown(OBJECTIVE, "derivative of what you compute", "loss_q")
class Squared(MAML):
    """the query loss is squared"""

    def query_loss(self, fast, batch):
        return self.loss(fast, *batch) ** 2


@unknown(OBJECTIVE, "in the cases with a square weight", "loss_s of inner step 0")
class TransposedForward(MAML):
    """a square weight is used transposed (one layer of a tied pair)"""

    def support_loss(self, fast, batch):
        uses = iter(range(9))
        library, (x, y) = self.framework(), batch
        for layer in self.case.model["layers"]:
            settings = {k: v for k, v in layer.items() if k not in ("layer", "params")}
            params = [fast[n] for n in layer.get("params", [])]
            if layer["layer"] == "linear" and params[0].shape[0] == params[0].shape[1] > 1 and next(uses) == 0:
                params[0] = params[0].T
            x = getattr(library, layer["layer"])(x, *params, **settings)
        return library.mean(x) if self.case.model["loss"] == "mean" else getattr(library, self.case.model["loss"])(x, y)

    query_loss = support_loss


@unknown(FORWARD, "cross_entropy", "loss_s of inner step 0")
class SmoothedFirstOrder(MAML):
    """label smoothing, and no create_graph where there are labels"""

    framework = other(cross_entropy=lambda library, o, y: torch.nn.functional.cross_entropy(o, y, label_smoothing=0.1))

    def gradient(self, fast, batch, k):
        return grad(self.support_loss(fast, batch), fast, create_graph=self.case.model["loss"] != "cross_entropy")


class _CrudeTanh(torch.autograd.Function):
    """tanh with the slope 1 − y."""

    @staticmethod
    def forward(ctx, x):
        y = torch.tanh(x)
        ctx.save_for_backward(x)
        return y

    @staticmethod
    def backward(ctx, g):
        return g * (1 - torch.tanh(ctx.saved_tensors[0]))


@unknown(FORWARD, "case", "grad_s of inner step 0")
class WrongSlope(MAML):
    """a custom tanh whose backward has 1 − y for 1 − y²"""

    framework = other(tanh=lambda library, x: _CrudeTanh.apply(x))


@unknown(None, "float32")
class SinglePrecision(MAML):
    """the first layer's product is computed in float32"""

    framework = other(linear=lambda library, x, w, b=0: (x.float() @ w.float()).to(x.dtype) + b)


@unknown(None, "a derivative is a difference; at a kink, where a difference is not the derivative, it is far off")
class FineDifference(CoarseDifference):
    """Hessian-vector products by differences with h = 1e-6"""

    h = 1e-6


@unknown(None, "float32")
class Rounded(MAML):
    """inner gradients pass through float32"""

    def gradient(self, fast, batch, k):
        return {n: g.float().to(g.dtype) for n, g in super().gradient(fast, batch, k).items()}


@unknown(None, "float32")
class RoundedAtTheEnd(MAML):
    """the meta-gradient passes through float32"""

    def finish(self, grads):
        return {n: g.float() for n, g in grads.items()}


@unknown(None, "digits")
class Half16(MAML):
    """the adapted weights pass through float16"""

    def query_loss(self, fast, batch):
        return self.loss({n: p.half().to(p.dtype) for n, p in fast.items()}, *batch)


from . import further, kinds, loops, rules  # noqa: E402, F401  (the catalogue's second half, which needs all of the above)


def fallbacks() -> list[str]:
    """Forms that no code above makes, filled in by their formulas."""
    missing = []
    for mistake in OF_MAML.values():
        done = {made.form for made in MADE.get(mistake.id, [])}
        for i, form in enumerate(mistake.forms):
            if i not in done:
                MADE.setdefault(mistake.id, []).append(Made(i, "by its formula", by_formula(form)))
                missing.append(f"{mistake.id}/{i}")
    return missing


BY_FORMULA = fallbacks()
