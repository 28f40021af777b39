"""Whole kinds of mistakes, made in code: orders of entries, loops that go back by hand, what is another task's, and the
backward rules of layers.

`mistakes` imports this after `further` and `loops`, and has the register.
"""

from __future__ import annotations

import itertools

import numpy as np

import tinymaml as tm
from tinymaml import extras
from tinymaml.oracle import models

from .further import Changing, OfEach, in_place
from .loops import Dense, group, named, other_data
from .mistakes import MAML, Adapting, ByHand, Layers, OtherData, custom, grad, makes, other

torch = extras.require("torch", "peers")
F = torch.nn.functional

# ── orders of entries ───────────────────────────────────────────────────────────────────────────────────────────────


def _columns(a, matrices: bool):
    return a.reshape(-1) if matrices and a.ndim != 2 else a.transpose(*reversed(range(a.ndim))).reshape(-1)


def order(shapes: dict, change: str) -> np.ndarray:
    """The place from which each entry of the flat vector comes."""
    sizes = [int(np.prod(shape)) for shape in shapes.values()]
    ends = np.cumsum(sizes)
    at = {n: np.arange(end - size, end).reshape(shape)
          for (n, shape), size, end in zip(shapes.items(), sizes, ends, strict=True)}  # fmt: skip
    if "order" in change:
        places = np.concatenate([at[n].reshape(-1) for n in sorted(at)])
    else:
        places = np.concatenate([_columns(a, change.startswith("matrices")) for a in at.values()])
    return np.argsort(places) if "cut" in change or "from" in change else places


CHANGES = {
    "flattened by columns": "np.ravel(x, order='F')", "cut by columns": "np.reshape(x, shape, order='F')",
    "matrices flattened by columns": "w.t().reshape(-1)",
    "matrices cut by columns": "x.reshape(w.t().shape).t()",
    "entries in sorted order": "torch.cat([g[n] for n in sorted(g)]), split in the dict's order",
    "entries from sorted order": "torch.cat(list(g.values())), split by the sorted names",
}  # fmt: skip


class InOrder(Changing):
    """The entries of a tree of tensors, in another order."""

    change: str

    def mixed(self, tree):
        flat = torch.cat([x.reshape(-1) for x in tree.values()])
        places = torch.as_tensor(order({n: x.shape for n, x in tree.items()}, self.change))
        parts = flat[places].split([x.numel() for x in tree.values()])
        return {n: part.reshape(x.shape) for (n, x), part in zip(tree.items(), parts, strict=True)}


class InnerInOrder(InOrder):
    """The inner gradient is mixed up."""

    def changed(self, fast, g, k):
        return self.mixed(g)


class ResultInOrder(InOrder):
    """The result is mixed up."""

    def changed(self, fast, g, k):
        return g

    def finish(self, grads):
        return self.mixed(grads)


class HessianInOrder(Dense):
    """A permutation before the Hessian, behind it, or on both sides."""

    change: str
    where: str

    def factor(self, h):
        places = order({n: p.shape for n, p in self.theta.items()}, self.change)
        if self.where == "rows":
            product = (h * self.rates())[places]
        elif self.where == "columns":
            product = (h * self.rates())[:, np.argsort(places)]
        else:
            product = (h[:, np.argsort(places)])[np.argsort(places)] * self.rates()
        return np.eye(len(h)) - product


class QueryGradientInOrder(Dense):
    """The query gradient is mixed up before the factors."""

    change: str

    def task(self, support, query):
        *thetas, last = self.way(support)
        value, v = tm.value_and_grad(self.loss)(last, *query)
        v = self.flat(v)[order({n: p.shape for n, p in self.theta.items()}, self.change)]
        for theta in reversed(thetas):
            v = self.factor(self.matrix(theta, support)) @ v
        return value, self.tree(v)


for _change, _doc in CHANGES.items():
    _by = "in_order_of_names" if "order" in _change else "laid_out_by_columns"
    makes("entries_mixed_up" if "order" in _change else "gradient_laid_out_by_columns", {"inner": _change})(
        named(InnerInOrder, _doc, change=_change)
    )
    makes(f"result_{_by}", {"result": _change})(named(ResultInOrder, _doc, change=_change))
    makes("query_gradient_mixed_up", {"query_gradient": _change})(named(QueryGradientInOrder, _doc, change=_change))
    for _form, _where in (({"curvature": _change}, "rows"), ({"vector": _change}, "columns"),
                          ({"curvature": f"{_change}, and back"}, "both")):  # fmt: skip
        makes(f"product_{_by}", _form)(named(HessianInOrder, f"{_doc}, {_where}", change=_change, where=_where))

# ── loops that go back by hand ──────────────────────────────────────────────────────────────────────────────────────


class InPlace(ByHand):
    """v[n] -= lr * hvp(v)[n], name after name"""

    names = staticmethod(list)

    def task(self, support, query):
        *thetas, last = self.way(support)
        value, v = tm.value_and_grad(self.loss)(last, *query)
        v = dict(v)
        for theta in reversed(thetas):
            for n in self.names(v):
                v[n] = v[n] - self.product(theta, support, self.weighted(v))[n]
        return value, v


for _order, _names in (("", list), (", by name", sorted), (", last first", lambda v: list(v)[::-1])):
    makes("vector_updated_in_place", {"curvature": f"one tensor after the other{_order}"})(
        named(InPlace, f"v[n] -= lr * hvp(v)[n]{_order}", names=staticmethod(_names))
    )

for _which, _doc, _steps in (
    ("one more at the end", "reversed(thetas), of all K + 1", lambda self: reversed(range(self.k + 1))),
    ("first twice", "the factor of θ₀ in the loop and behind it",
     lambda self: [*reversed(range(self.k)), *range(self.k)[:1]]),
    ("last twice", "the factor of θ_{K−1} before and in the loop",
     lambda self: [*range(self.k)[-1:], *reversed(range(self.k))]),
):  # fmt: skip
    makes("one_factor_too_many", {"factors": _which})(named(ByHand, _doc, order=_steps))

for _which, _doc, _steps in (
    ("all twice", "autograd, and then the loop by hand", lambda self: 2 * list(reversed(range(self.k)))),
    ("each twice", "two products in each step", lambda self: np.repeat(list(reversed(range(self.k))), 2)),
):
    makes("factors_twice", {"factors": _which})(named(ByHand, _doc, order=_steps))


class Summed(ByHand):
    """grads[n] += v[n] in the loop"""

    first = last = True

    def task(self, support, query):
        *thetas, end = self.way(support)
        value, v = tm.value_and_grad(self.loss)(end, *query)
        total = {n: 0 * x for n, x in v.items()}
        for theta in reversed(thetas):
            if self.first or theta is not thetas[-1]:
                total = {n: t + v[n] for n, t in total.items()}
            h = self.product(theta, support, self.weighted(v))
            v = {n: x - h[n] for n, x in v.items()}
        if self.last and (self.first or thetas):
            total = {n: t + v[n] for n, t in total.items()}
        return value, total


for _form, _first, _last in (("", True, True), (" but the first", False, True), (" but the last", True, False)):
    makes("sum_of_adjoints", {"returned": f"sum on the way{_form}"})(
        named(Summed, f"grads[n] += v[n] in the loop{_form}", first=_first, last=_last)
    )


class NotReset(ByHand):
    """v += g_q, with v made before the loop over tasks"""

    picked = staticmethod(lambda grads: {n: sum(g[n] for g in grads) / len(grads) for n in grads[0]})

    def __call__(self):
        v, grads = {n: 0 * p for n, p in self.theta.items()}, []
        for support, query in self.tasks:
            *thetas, last = self.way(support)
            g = tm.grad(self.loss)(last, *query)
            v = {n: x + g[n] for n, x in v.items()}
            for theta in reversed(thetas):
                h = self.product(theta, support, self.weighted(v))
                v = {n: x - h[n] for n, x in v.items()}
            grads.append(v)
        return {"meta_grad": self.picked(grads)}


_ON_TOP = {"query_gradient": "on top of the task before's"}
makes("adjoint_not_reset", _ON_TOP)(NotReset)
makes("adjoint_not_reset", _ON_TOP | {"outer": "last over T"})(
    named(NotReset, "v / T at the end",
          picked=staticmethod(lambda grads: {n: x / len(grads) for n, x in grads[-1].items()}))
)  # fmt: skip
makes("adjoint_not_reset", _ON_TOP | {"outer": "last"})(
    named(NotReset, "v at the end", picked=staticmethod(lambda grads: grads[-1]))
)


class ListKept(ByHand):
    """the list of iterates and closures is made before the loop over tasks"""

    own = True

    def __init__(self, case):
        super().__init__(case)
        self.kept: list = []

    def task(self, support, query):
        *thetas, last = self.way(support)
        self.kept += [(theta, support) for theta in thetas]
        value, v = tm.value_and_grad(self.loss)(last, *query)
        for theta, batch in reversed(self.kept):
            h = self.product(theta, batch if self.own else support, self.weighted(v))
            v = {n: x - h[n] for n, x in v.items()}
        return value, v


makes("ways_not_reset", {"ways": "those of the tasks before, too"})(ListKept)
makes("ways_not_reset", {"ways": "those of the tasks before, too, on this support set"})(
    named(ListKept, "the list of iterates is made before the loop over tasks", own=False)
)


class Overwritten(MAML):
    """p.data.sub_(…), with the graphs of the inner gradients kept"""

    seen = "θ_K"

    def __call__(self):
        total = {n: torch.zeros_like(p) for n, p in self.theta.items()}
        for support, query in self.tasks:
            theta = {n: p.detach().clone().requires_grad_() for n, p in self.theta.items()}
            graphs, points = [], []
            for _ in range(self.steps):
                g = grad(self.loss(theta, *support), theta, create_graph=True)
                graphs.append(g)
                for n, p in theta.items():
                    p.data.sub_(self.rate[n] * g[n].detach())
                points.append({n: p.detach().clone() for n, p in theta.items()})
            v = grad(self.loss(theta, *query), theta)
            for g, after in zip(reversed(graphs), reversed(points), strict=True):
                where = {"θ_K": points[-1], "θ": self.theta, "of the next step": after}[self.seen]
                for n, p in theta.items():
                    p.data.copy_(where[n].detach())
                product = grad(sum((g[n] * self.rate[n] * v[n]).sum() for n in v), theta)
                v = {n: v[n] - product[n] for n in v}
            total = {n: t + v[n] / len(self.tasks) for n, t in total.items()}
        return {"meta_grad": total}


for _seen, _doc in (("θ_K", "p.data.sub_(…)"), ("θ", "p.data.copy_(start) before the backward loop"),
                    ("of the next step", "p.data.copy_(after the step) before each product")):  # fmt: skip
    makes("graphs_overwritten", {"derivative_weights": _seen})(named(Overwritten, _doc, seen=_seen))


@makes("outer_rate_in_factor")
class OuterRateInFactor(ByHand):
    """v − β H v"""

    def weighted(self, v):
        return {n: np.where(self.rate[n] == 0, 0, self.case.outer_lr * x) for n, x in v.items()}


class Surrogate(MAML):
    """⟨θ_K, ∇L_q⟩"""

    def task(self, support, query):
        fast = self.adapt(self.theta, support)
        g = grad(self.query_loss(fast, query), fast, create_graph=True)
        return sum((a * b).sum() for a, b in self.factors(fast, g))

    def away(self, fast):
        return {n: p - self.theta[n].detach() for n, p in fast.items()}


for _w, _doc, _factors in (
    ("plus H_q θ_K", "(fast * g).sum()", lambda self, fast, g: [(fast[n], g[n]) for n in g]),
    ("H_q θ_K", "(fast.detach() * g).sum()", lambda self, fast, g: [(fast[n].detach(), g[n]) for n in g]),
    ("plus H_q (θ_K − θ)", "((fast − θ.detach()) * g).sum()",
     lambda self, fast, g: [(self.away(fast)[n], g[n]) for n in g]),
    ("H_q (θ_K − θ)", "((fast − θ).detach() * g).sum()",
     lambda self, fast, g: [(self.away(fast)[n].detach(), g[n]) for n in g]),
    ("plus H_q (θ_K − θ), less itself", "((fast − θ) * g).sum()",
     lambda self, fast, g: [(fast[n] - self.theta[n], g[n]) for n in g]),
):  # fmt: skip
    makes("surrogate_not_stopped", {"query_gradient": _w})(named(Surrogate, _doc, factors=_factors))
makes("gradient_of_squared_gradient")(
    named(Surrogate, "½ (g * g).sum()", factors=lambda self, fast, g: [(g[n] / 2, g[n]) for n in g])
)

# ── what is another task's ──────────────────────────────────────────────────────────────────────────────────────────


def others(which: str, t: int, tasks: int) -> list[int]:
    """The numbers of the tasks that are meant."""
    if which == "all tasks":
        return list(range(tasks))
    return [{"the first task": 0, "the last task": tasks - 1, "the next task": (t + 1) % tasks,
             "the task before": (t - 1) % tasks}[which]]  # fmt: skip


class OfOthers(ByHand):
    """Products and query gradients that are shared by the tasks."""

    which = "all tasks"
    parts: tuple[str, ...] = ()
    fixed = False  # whether all products are taken at the start

    def __call__(self):
        ways = [self.way(support) for support, _ in self.tasks]
        grads = [self.back(ways, t) for t in range(len(ways))]
        return {"meta_grad": {n: sum(g[n] for g in grads) / len(grads) for n in self.theta}}

    def mean(self, trees):
        return {n: sum(tree[n] for tree in trees) / len(trees) for n in self.theta}

    def back(self, ways, t):
        pairs = [(u if "query" in self.parts else t, u if "end" in self.parts else t)
                 for u in others(self.which, t, len(ways))]  # fmt: skip
        v = self.mean([tm.grad(self.loss)(ways[end][-1], *self.tasks[query][1]) for query, end in pairs])
        for k in reversed(range(self.k)):
            pairs = [(u if "points" in self.parts else t, u if "support" in self.parts else t)
                     for u in others(self.which, t, len(ways))]  # fmt: skip
            h = self.mean([self.product(ways[point][0 if self.fixed else k], self.tasks[support][0], self.weighted(v))
                           for point, support in pairs])  # fmt: skip
            v = {n: x - h[n] for n, x in v.items()}
        return v


for _which in ("the first task", "the last task", "the next task", "the task before", "all tasks"):
    for _what, _parts in (
        ("support", ("support",)),
        ("points", ("points",)),
        ("support and points", ("support", "points")),
    ):
        if _what == "support" and _which in ("the first task", "the last task"):
            _id = "hessian_of_other_examples"
        else:
            _id = "product_of_the_means" if _parts[1:] and _which == "all tasks" else "hessian_of_other_task"
        makes(_id, {"hessian_on": f"{_what} of {_which}"})(
            named(OfOthers, f"products of {_which} ({_what})", which=_which, parts=_parts)
        )
    if _which not in ("the next task", "the task before"):
        makes("query_gradient_of_other_task", {"query_gradient": f"of {_which}"})(
            named(OfOthers, f"the query gradient of {_which}", which=_which, parts=("query", "end"))
        )
    makes("query_gradient_of_other_task", {"query_gradient": f"at θ_K of {_which}"})(
        named(OfOthers, f"the query gradient at the adapted parameters of {_which}", which=_which, parts=("end",))
    )
makes("product_of_the_means", {"hessian_on": "support and points of all tasks", "factors": "at start"})(
    named(OfOthers, "(I − α mean(H₀))ᴷ mean(g_q)", parts=("support", "points", "query", "end"), fixed=True)
)


class IntoTheDict(MAML):
    """params[n] = params[n] − lr * g[n], and the gradient by params.values()"""

    divided = True

    def __call__(self):
        params, total = dict(self.theta), 0
        for support, query in self.tasks:
            for _ in range(self.steps):
                g = grad(self.loss(params, *support), params, create_graph=True)
                for n in params:
                    params[n] = params[n] - self.rate[n] * g[n]
            total = total + self.loss(params, *query)
        grads = grad(total, params)
        return {"meta_grad": {n: g / len(self.tasks) if self.divided else g for n, g in grads.items()}}


_INTO = {"start": "leaked, detached", "factors": "detached"}
makes("last_adapted_weights", _INTO | {"outer": "last over T"})(IntoTheDict)
makes("last_adapted_weights", _INTO | {"outer": "last"})(
    named(IntoTheDict, "the same, of the sum over tasks", divided=False)
)

# ── the backward rules of layers ────────────────────────────────────────────────────────────────────────────────────


class _Product(torch.autograd.Function):
    """x @ w, in whose backward some factors are detached."""

    @staticmethod
    def forward(ctx, x, w, detached):
        ctx.save_for_backward(x, w)
        ctx.detached = detached
        return x @ w

    @staticmethod
    def backward(ctx, g):
        x, w = ctx.saved_tensors
        off = lambda value, name: value.detach() if name in ctx.detached else value  # noqa: E731
        gx = off(g, "g of x") @ off(w, "w").t()
        flat = lambda value: value.reshape(-1, value.shape[-1])  # noqa: E731
        return gx, flat(off(x, "x")).t() @ flat(off(g, "g of w")), None


class _Shift(torch.autograd.Function):
    """y + b, in whose backward the bias's gradient is detached."""

    @staticmethod
    def forward(ctx, y, b):
        return y + b

    @staticmethod
    def backward(ctx, g):
        return g, g.detach().sum(0)


def rules(detached: tuple[str, ...], where: tuple[str, ...]):
    """Linear and convolutional layers whose backward has these factors detached."""

    class Rules(Layers):
        def linear(self, x, w, b=None):
            if "linear" not in where:
                return super().linear(x, w, b)
            y = _Product.apply(x, w, detached)
            return y if b is None else _Shift.apply(y, b) if "g of b" in detached else y + b

        def conv(self, x, w, stride, padding):
            if "conv" not in where:
                return super().conv(x, w, stride, padding)
            (top, bottom), (left, right) = (
                models._zeros_around(padding, n, k, stride) for n, k in zip(x.shape[1:3], w.shape[:2], strict=True)
            )
            x = F.pad(x.permute(0, 3, 1, 2), (left, right, top, bottom))
            rows, columns = ((n - k) // stride + 1 for n, k in zip(x.shape[2:], w.shape[:2], strict=True))
            windows = F.unfold(x, w.shape[:2], stride=stride).transpose(1, 2)
            flat = w.permute(2, 0, 1, 3).reshape(-1, w.shape[3])
            return _Product.apply(windows, flat, detached).reshape(len(x), rows, columns, -1)

    return Rules


def frozen(layers: tuple[str, ...], *parts: str) -> dict:
    return {"how": {"frozen": tuple(f"{layer} {part}" for layer in layers for part in parts)}}


for _id, _parts, _layers in (
    *(("factor_of_layer_held", parts, layers) for parts in (("w",), ("x",), ("w", "x"))
      for layers in (("linear", "conv"), ("linear",))),
    *(("cotangent_of_layer_held", parts, layers) for parts in (
        ("g of w",), ("g of w", "g of x", "g of b"), ("w", "x", "g of w", "g of x", "g of b"), ("g of x",))
      for layers in (("linear", "conv"), ("linear",), ("conv",)) if (parts, layers) != (("g of x",), ("conv",))),
):  # fmt: skip
    _doc = f"{' and '.join(_layers)}: {', '.join(_parts)} detached in backward"
    makes(_id, frozen(_layers, *_parts))(named(MAML, _doc, framework=staticmethod(rules(_parts, _layers))))


class _MeanOfBias(torch.autograd.Function):
    """y + b, with grad_output.mean(0) for the bias."""

    @staticmethod
    def forward(ctx, y, b):
        return y + b

    @staticmethod
    def backward(ctx, g):
        return g, g.mean(0)


@makes("bias_gradients_averaged")
class MeanOfBias(MAML):
    """grad_output.mean(0)"""

    framework = other(linear=lambda library, x, w, b=None: x @ w if b is None else _MeanOfBias.apply(x @ w, b))


class _Bent(torch.autograd.Function):
    """An activation, in whose backward the incoming gradient is detached, or all of it."""

    @staticmethod
    def forward(ctx, x, f, slope, all_of_it):
        ctx.save_for_backward(x)
        ctx.slope, ctx.all_of_it = slope, all_of_it
        return f(x)

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        slope = ctx.slope(x)
        return g.detach() * (slope.detach() if ctx.all_of_it else slope), None, None, None


_ACTIVATIONS = {
    "tanh": (torch.tanh, lambda x: 1 - torch.tanh(x) ** 2), "relu": (torch.relu, lambda x: (x > 0).to(x.dtype)),
    "softplus": (lambda x: F.softplus(x, threshold=40), torch.sigmoid), "square": (lambda x: x * x, lambda x: 2 * x),
}  # fmt: skip
for _more in ((), ("slope",)):
    _bent = other(**{name: lambda library, x, pair=pair, more=_more: _Bent.apply(x, *pair, bool(more))
                     for name, pair in _ACTIVATIONS.items()})  # fmt: skip
    makes("cotangent_of_activation_held", frozen(tuple(_ACTIVATIONS), "g", *_more))(
        named(MAML, "grad_output.detach() in a custom activation" + ", and its slope" * bool(_more), framework=_bent)
    )


class _Normalised(torch.autograd.Function):
    """Batch norm, in whose backward some factors are detached."""

    @staticmethod
    def forward(ctx, x, gamma, beta, detached):
        ctx.save_for_backward(x, gamma)
        ctx.detached = detached
        return models.Torch().batch_norm(x, gamma, beta)

    @staticmethod
    def backward(ctx, g):
        x, gamma = ctx.saved_tensors
        off = lambda value, name: value.detach() if name in ctx.detached else value  # noqa: E731
        over = tuple(range(x.ndim - 1))
        mean = x.mean(over)
        inverse = ((x - mean).square().mean(over) + models.EPS) ** -0.5
        mean, inverse = off(mean, "statistics"), off(inverse, "statistics")
        normal, inverse = off((x - mean) * inverse, "x̂"), off(inverse, "1/σ")
        inner = g * off(gamma, "γ")
        gx = inverse * (inner - inner.mean(over) - normal * (inner * normal).mean(over))
        return gx, (g * normal).sum(over), g.sum(over), None


for _parts in (("x̂",), ("1/σ",), ("γ",), ("statistics",), ("x̂", "1/σ"), ("x̂", "γ"), ("1/σ", "γ"), ("statistics", "γ")):
    makes("factor_of_batch_norm_held", frozen(("batch_norm",), *_parts))(
        named(MAML, f"{', '.join(_parts)} detached in backward", framework=other(
            batch_norm=lambda library, x, gamma, beta, parts=_parts: _Normalised.apply(x, gamma, beta, parts)))
    )  # fmt: skip

# ── batch norm's statistics ─────────────────────────────────────────────────────────────────────────────────────────


class OtherStatistics(MAML):
    """Batch norm that notes its statistics in a pass, or takes those of another."""

    def __init__(self, case):
        super().__init__(case)
        self.mode, self.kept, self.place, outer = "own", {}, 0, self

        class Noting(Layers):
            def batch_norm(self, x, gamma, beta):
                over = tuple(range(x.ndim - 1))
                n = x.numel() // x.shape[-1]
                own = x.mean(over), x.var(over, unbiased=outer.unbiased and n > 1)
                place, outer.place = outer.place, outer.place + 1
                if outer.mode == "note":
                    outer.kept[place] = tuple(z.detach() if outer.constant else z for z in own)
                mean, var = outer.kept[place] if outer.mode == "take" else (x.mean(over), x.var(over, unbiased=False))
                return (x - mean) / torch.sqrt(var + models.EPS) * gamma + beta

        self.loss = models.loss_in(Noting(), case.model)

    constant, unbiased = True, False

    def passed(self, mode, fast, batch):
        self.mode, self.place = mode, 0
        return self.loss(fast, *batch)


class FirstStatistics(OtherStatistics):
    """the statistics of the first support pass are kept"""

    def gradient(self, fast, batch, k):
        return grad(self.passed("own" if k else "note", fast, batch), fast, create_graph=not self.case.first_order)

    def query_loss(self, fast, batch):
        return self.passed("take" if self.steps else "own", fast, batch)


for _which in ("biased", "unbiased"):
    makes("first_statistics_for_query",
          {"running": _which, "running_momentum": 1.0, "running_of": "the first pass"})(
        named(FirstStatistics, f"the first pass's mean and {_which} variance", unbiased=_which == "unbiased")
    )  # fmt: skip
    makes("first_statistics_for_query",
          {"running": _which, "running_momentum": 1.0, "running_of": "the first pass",
           "running_like": "differentiated"})(
        named(FirstStatistics, f"the same with {_which} variance, and their graph", unbiased=_which == "unbiased",
              constant=False)
    )  # fmt: skip


@makes("query_statistics_for_support")
class QueryStatistics(OtherStatistics):
    """the support set by the mean and variance of the query set"""

    constant = False

    def task(self, support, query):
        self.query = query
        return super().task(support, query)

    def support_loss(self, fast, batch):
        self.passed("note", fast, self.query)
        return self.passed("take", fast, batch)

    def query_loss(self, fast, batch):
        return self.passed("own", fast, batch)


class Synchronised(MAML):
    """batch norm over all tasks: layer by layer, all tasks at once"""

    where: tuple[str, ...] = ("support", "query")

    def forward(self, weights, xs, joint):
        library = models.Torch()
        for layer in self.case.model["layers"]:
            settings = {k: v for k, v in layer.items() if k not in ("layer", "params")}
            used = [[p[n] for n in layer.get("params", [])] for p in weights]
            if layer["layer"] == "batch_norm" and joint:
                together = torch.cat(list(xs))
                over = tuple(range(together.ndim - 1))
                mean, var = together.mean(over), together.var(over, unbiased=False)
                xs = [(x - mean) / torch.sqrt(var + models.EPS) * gamma + beta
                      for x, (gamma, beta) in zip(xs, used, strict=True)]  # fmt: skip
            else:
                xs = [getattr(library, layer["layer"])(x, *u, **settings) for x, u in zip(xs, used, strict=True)]
        return xs

    def total(self, weights, place):
        library, loss = models.Torch(), self.case.model["loss"]
        xs, ys = zip(*(task[place] for task in self.tasks), strict=True)
        outputs = self.forward(weights, xs, ("support", "query")[place] in self.where)
        return sum(
            o.mean() if loss == "mean" else getattr(library, loss)(o, y) for o, y in zip(outputs, ys, strict=True)
        )

    def losses(self):
        fast = {(t, n): p + 0 for t in range(len(self.tasks)) for n, p in self.theta.items()}
        for k in range(self.steps):
            g = self.gradient(fast, 0, k)
            fast = {(t, n): p - self.rate[n] * g[t, n] for (t, n), p in fast.items()}
        return [self.support_loss(fast, 1) / len(self.tasks)] * len(self.tasks)

    def support_loss(self, fast, place):
        return self.total([{n: fast[t, n] for n in self.theta} for t in range(len(self.tasks))], place)


for _where in ("both", "support", "query"):
    _these = ("support", "query") if _where == "both" else (_where,)
    makes("statistics_of_all_tasks", {"normalised_together": _where})(
        named(Synchronised, f"lax.pmean over tasks: {_where}", where=_these)
    )

# ── who adapts, what is left in .grad, and layers that one pass lacks ───────────────────────────────────────────────


def names_of_layers(case) -> list[list[str]]:
    return [layer["params"] for layer in case.model["layers"] if layer.get("params")]


class Body(Adapting):
    """the inner update skips the last layer"""

    def names(self):
        return [n for n in self.theta if n not in names_of_layers(self.case)[-1]]


class AboveTheFirst(Adapting):
    """the inner update skips the first layer"""

    def names(self):
        return [n for n in self.theta if n not in names_of_layers(self.case)[0]]


makes("body_only", {"adapts": "body"})(Body)
makes("body_only", {"adapts": "all but the first layer"})(AboveTheFirst)


class FirstLeft(MAML):
    """the first inner gradient is added to θ.grad, and the exact one too; all is divided by T"""

    over_all = True

    def finish(self, grads):
        total = dict(grads)
        for support, _ in self.tasks if self.steps else ():
            g = grad(self.support_loss(self.theta, support), self.theta)
            total = {n: t + (g[n] / len(self.tasks) if self.over_all else g[n]) for n, t in total.items()}
        return total


makes("first_gradient_not_zeroed", {"result": "first accumulated"})(FirstLeft)
makes("first_gradient_not_zeroed", {"result": "first accumulated over T"})(
    named(FirstLeft, "the first inner gradient is added to θ.grad, and the exact one, divided by T", over_all=False)
)


def in_one_loss(id: str, form: dict, framework) -> None:
    """Registers the form for other layers or losses in the support loss alone, and in the query loss alone."""
    for on in ("support", "query"):

        def made(case, on=on):
            mine = MAML(case)
            changed = models.loss_in(framework(), case.model)
            setattr(mine, f"{on}_loss", lambda fast, batch: changed(fast, *batch))
            return mine()

        made.__doc__ = f"other layers in the {on} loss"
        makes(id, form | {"on": on})(made)


in_one_loss("biases_unused", {"how": {"biases": "missing"}}, other(
    linear=lambda library, x, w, b=None: x @ w,
    batch_norm=lambda library, x, gamma, beta: models.Torch().batch_norm(x, gamma, 0 * beta)).__func__)  # fmt: skip
in_one_loss("batch_norm_missing", {"how": {"network": "batch norm missing"}},
            other(batch_norm=lambda library, x, gamma, beta: x).__func__)  # fmt: skip

# ── the data ────────────────────────────────────────────────────────────────────────────────────────────────────────


def in_sets(id: str, change: str, f, place: int) -> None:
    """Registers a change of inputs (0) or targets (1) in both sets, and in each alone."""

    def of(batch):
        return (f(batch[0]), batch[1]) if place == 0 else (batch[0], f(batch[1]))

    for where, data in (
        ("", lambda self, s, q: (of(s), of(q))),
        (", in support", lambda self, s, q: (of(s), q)),
        (", in query", lambda self, s, q: (s, of(q))),
    ):
        doc = f"{change}{where}"
        makes(id, {"data": doc})(named(Targets if place else OtherData, doc, data=data))


class Targets(OtherData):
    """Another change of real targets; labels and missing targets stay."""

    def __init__(self, case):
        if "mse" in case.model["loss"]:
            super().__init__(case)
        else:
            MAML.__init__(self, case)


def first_column(z):
    return z[z.reshape(len(z), -1)[:, 0].argsort(stable=True)]


def each_column(z):
    return z.sort(0).values


for _place, _arrays in enumerate(("inputs", "targets")):
    for _each, _f in (("", first_column), (", each column", each_column)):
        in_sets("sorted_apart", f"{_arrays} sorted{_each}", _f, _place)
    for _to, _f in (("truncated", torch.trunc), ("rounded to integers", torch.round)):
        in_sets("truncated_to_integers", f"{_arrays} {_to}", _f, _place)

rolled = lambda batch, by: (torch.roll(batch[0], by, 0), batch[1])  # noqa: E731
for _by in (1, -1):
    other_data("inputs_rolled", f"query inputs rolled by {_by}", f"torch.roll(xq, {_by}, 0)",
               lambda s, q, by=_by: (s, rolled(q, by)))  # fmt: skip
    other_data("inputs_rolled", f"support and query inputs rolled by {_by}", f"torch.roll(x, {_by}, 0)",
               lambda s, q, by=_by: (rolled(s, by), rolled(q, by)))  # fmt: skip


class ByExample(MAML):
    """vmap of the inner loop over the support examples"""

    paired = False

    def task(self, support, query):
        losses = []
        for i in range(len(support[0])):
            if self.paired and i >= len(query[0]):
                break
            fast = self.adapt(self.theta, tuple(z[i : i + 1] for z in support))
            losses.append(self.query_loss(fast, tuple(z[i : i + 1] for z in query) if self.paired else query))
        return losses

    def losses(self):
        return [loss for support, query in self.tasks for loss in self.task(support, query)]


makes("examples_adapt_alone", {"data": "a task for each support example"})(ByExample)
makes("examples_adapt_alone", {"data": "a task for each pair of examples"})(
    named(ByExample, "vmap over pairs of examples", paired=True)
)


class Epochs(MAML):
    """for x, y in DataLoader(support, 1): a step"""

    once = False

    def adapt(self, fast, batch):
        for _ in range(1 if self.once else self.steps):
            for i in range(len(batch[0])):
                fast = self.step(fast, self.gradient(fast, tuple(z[i : i + 1] for z in batch), 0), 0)
        return fast


makes("epochs_inside", {"minibatch": 1, "minibatch_like": "an epoch per step"})(Epochs)
makes("epochs_inside", {"minibatch": 1, "minibatch_like": "one epoch"})(
    named(Epochs, "lax.scan over (xs, ys)", once=True)
)


class OfOtherTask(MAML):
    """Inputs or labels of another task."""

    place, part, which = 0, 0, "last"

    def __init__(self, case):
        super().__init__(case)
        tasks = self.tasks
        self.tasks = [self.mixed(task, tasks[-1 if self.which == "last" else (t + 1) % len(tasks)])
                      for t, task in enumerate(tasks)]  # fmt: skip

    def mixed(self, task, theirs):
        own = [list(batch) for batch in task]
        z = theirs[self.place][self.part]
        if z.shape == own[self.place][self.part].shape:
            own[self.place][self.part] = z
        return tuple(map(tuple, own))


for _place, _of in enumerate(("support", "query")):
    for _part, _what in enumerate(("inputs", "labels")):
        for _which in ("last", "next"):
            if (_of, _what, _which) != ("query", "labels", "next"):
                makes("data_of_other_task", {"data": f"{_of} {_what} of the {_which} task"})(
                    named(OfOtherTask, f"{_what} of the {_which} task", place=_place, part=_part, which=_which)
                )

makes("inputs_scaled")(named(OtherData, "x / 255", data=lambda self, s, q: tuple((x / 255, y) for x, y in (s, q))))
makes("targets_scaled")(named(Targets, "0.1 * y", data=lambda self, s, q: tuple((x, 0.1 * y) for x, y in (s, q))))

# ── losses ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def of_classes(library, o, y):
    log_p = o.log_softmax(1)
    return -sum(log_p[y == k, k].mean() for k in y.unique())


for _id, _name, _replaced in (
    ("euclidean_loss", "half the sum over outputs",
     dict.fromkeys(("mse", "half_mse"), lambda library, o, y: ((o - y) ** 2).sum() / (2 * len(o)))),
    ("averaged_over_outputs_again", "over outputs again",
     {"mse": lambda library, o, y: ((o - y) ** 2).mean() / o.shape[1]}),
    ("half_missing", "without ½", {"half_mse": lambda library, o, y: ((o - y) ** 2).mean()}),
    ("class_means_summed", "class averaged, summed", {"cross_entropy": of_classes}),
    ("labels_as_signs", "labels −1 and 1",
     {"binary_cross_entropy": lambda library, o, y: (F.softplus(o) - (2 * y - 1) * o).mean()}),
):  # fmt: skip
    _framework = other(**_replaced)
    makes(_id, {"how": {"loss": _name}})(named(MAML, _name, framework=_framework))
    in_one_loss(_id, {"how": {"loss": _name}}, _framework.__func__)


# ── steps, parts and tasks that are left out ────────────────────────────────────────────────────────────────────────


@makes("alpha_divided_again")
class DividedAgain(MAML):
    """lr = lr / (k + 1) in the loop"""

    def adapt(self, fast, batch):
        honest = self.rate
        for k in range(self.steps):
            self.rate = {n: a / (k + 1) for n, a in self.rate.items()}
            fast = self.step(fast, self.gradient(fast, batch, k), k)
        self.rate = honest
        return fast


class JoinsIn(MAML):
    """a group of parameters is updated in some steps"""

    of = "head"

    def moves(self, k):
        return k + 1 == self.steps

    def step(self, fast, g, k):
        moved = super().step(fast, g, k)
        rests = [] if self.moves(k) else group(self.case, self.of)
        # a tensor of its own, through which the gradient of the next step does not see this one
        return {n: fast[n].clone() if n in rests else p for n, p in moved.items()}


GROUPS = ("biases", "head", "body", "first layer", "no biases", "vectors", "matrices")
WHEN = {
    "the last": lambda self, k: k + 1 == self.steps,
    "the first": lambda self, k: k == 0,
    "all but the last": lambda self, k: k + 1 < self.steps,
    "all but the first": lambda self, k: k > 0,
}
for _of, _when in itertools.product(GROUPS, WHEN):
    makes("group_moves_in_some_steps", {"some_steps_of": _of, "some_steps": _when})(
        named(JoinsIn, f"{_of} of the parameters: updated in {_when}", of=_of, moves=WHEN[_when]))  # fmt: skip


class Rewrapped(MAML):
    """nn.Parameter(p) of a group, after a step"""

    of, when = "vectors", staticmethod(lambda k, steps: True)

    def step(self, fast, g, k):
        moved, these = super().step(fast, g, k), group(self.case, self.of)
        wrapped = these if self.when(k, self.steps) and len(these) < len(moved) else []
        return {n: torch.nn.Parameter(p.detach()) if n in wrapped else p for n, p in moved.items()}


WRAPPED: dict[str, tuple] = {
    "each step": ({}, lambda k, steps: True),
    "the last step": ({"leaves_in": "the last"}, lambda k, steps: k + 1 == steps),
    "step 0": ({"leaves_in": "the first"}, lambda k, steps: k == 0),
}
for _of, (_when, (_form, _function)) in itertools.product((*GROUPS, "one-dimensional"), WRAPPED.items()):
    makes("group_cut_between_steps", {"leaves_of": _of} | _form)(
        named(Rewrapped, f"nn.Parameter(p) of {_of}, after {_when}", of=_of, when=staticmethod(_function)))  # fmt: skip


class Parted(MAML):
    """xs.chunk(K)[k]"""

    def parts(self, a):
        return a.chunk(self.steps)

    def adapt(self, fast, batch):
        parts = zip(*map(self.parts, batch), strict=True)
        self.batches = itertools.cycle([part for part in parts if len(part[0])])
        return super().adapt(fast, batch)

    def support_loss(self, fast, batch):
        return self.loss(fast, *next(self.batches))


makes("part_of_set_per_step", {"step_parts": "K chunks"})(Parted)
makes("part_of_set_per_step", {"step_parts": "K even parts"})(
    named(Parted, "torch.tensor_split(xs, K)[k]", parts=lambda self, a: a.tensor_split(self.steps)))  # fmt: skip
makes("part_of_set_per_step", {"step_parts": "every K-th"})(
    named(Parted, "xs[k::K]", parts=lambda self, a: [a[i :: self.steps] for i in range(self.steps)]))  # fmt: skip


def halves(a):
    return [a[: len(a) // 2], a[len(a) // 2 :]] if len(a) > 1 else [a]


for _like, _doc, _parts in (
    ("in n chunks", "xs.chunk(2)[k % 2]", lambda self, a: a.chunk(2)),
    ("in n even parts", "xs.tensor_split(2)[k % 2]", lambda self, a: a.tensor_split(2)),
    ("in n parts of N // n", "xs[: N // 2] and xs[N // 2 :] in turn", lambda self, a: halves(a)),
):
    makes("minibatches_inside", {"minibatch": 2, "minibatch_like": _like})(named(Parted, _doc, parts=_parts))


class MovingVector(MAML):
    """grad((g * v).sum(), fast) in the last step, and v is not detached"""

    def last_of(self, fast, g):
        return {n: p - self.rate[n] * g[n] for n, p in fast.items()}

    def __call__(self):
        total, value = {n: torch.zeros_like(p) for n, p in self.theta.items()}, 0.0
        for support, query in self.tasks:
            way = [self.theta]
            for k in range(self.steps):
                g = {n: x.detach() for n, x in self.gradient(way[-1], support, k).items()}
                way.append({n: p.detach().requires_grad_() for n, p in self.step(way[-1], g, k).items()})
            v, first = None, True
            for fast in reversed(way[:-1]):
                g = grad(self.loss(fast, *support), fast, create_graph=True)
                if first:
                    end = self.last_of(fast, g)
                    loss = self.loss(end, *query)
                    v, value, first = grad(loss, end, create_graph=True), value + loss.detach(), False
                h = grad(sum((self.rate[n] * g[n] * v[n]).sum() for n in g), fast)
                v = {n: (v[n] - h[n]).detach() for n in v}
            if first:
                loss = self.loss(self.theta, *query)
                v, value = grad(loss, self.theta), value + loss.detach()
            total = {n: total[n] + v[n] / len(self.tasks) for n in total}
        return {"meta_grad": total, "meta_loss": value / len(self.tasks)}


makes("moving_vector", {"moving_vector": "moves"})(MovingVector)
makes("moving_vector", {"moving_vector": "moves with θ"})(
    named(MovingVector, "the same, and the last step's gradient is detached",
          last_of=lambda self, fast, g: {n: p - self.rate[n] * g[n].detach() for n, p in fast.items()}))  # fmt: skip


@makes("one_task_lost", {"outer": "all but the first"})
class RunningMean(MAML):
    """mean += (loss - mean) / max(t, 1)"""

    def together(self, losses):
        mean = 0.0
        for t, loss in enumerate(losses):
            mean = mean + (loss - mean) / max(t, 1)
        return mean


@makes("one_task_lost", {"outer": "all but the last"})
class OneShort(MAML):
    """losses[:-1], and their mean"""

    def together(self, losses):
        return sum(losses[:-1]) / (len(losses) - 1) if len(losses) > 1 else losses[0]


makes("one_task_lost", {"outer": "all but the first, over T"})(
    named(MAML, "sum(losses[1:]) / T",
          together=lambda self, losses: sum(losses[1 if len(losses) > 1 else 0 :]) / len(losses)))  # fmt: skip
makes("one_task_lost", {"outer": "all but the last, over T"})(
    named(MAML, "sum(losses[:-1]) / T",
          together=lambda self, losses: sum(losses[: max(len(losses) - 1, 1)]) / len(losses)))  # fmt: skip


class InTwos(MAML):
    """chunks of two tasks, each divided by two, and their mean"""

    own = False

    def together(self, losses):
        pairs = [losses[t : t + 2] for t in range(0, len(losses), 2)]
        return sum(sum(pair) / (len(pair) if self.own else 2) for pair in pairs) / len(pairs)


makes("tasks_in_chunks", {"task_chunks": 2, "task_chunks_like": "over n each"})(InTwos)
makes("tasks_in_chunks", {"task_chunks": 2, "task_chunks_like": "over their own number"})(
    named(InTwos, "the mean of the means of chunks of two tasks", own=True)
)


class Surgery(OfEach):
    """PCGrad, over the flat gradients"""

    def __call__(self):
        losses = self.losses()
        each = [torch.cat([g.reshape(-1) for g in grad(loss, self.theta).values()]) for loss in losses]
        flat = self.of_all([self.projected(g, each[:t] + each[t + 1 :]) for t, g in enumerate(each)])
        parts = flat.split([p.numel() for p in self.theta.values()])
        grads = {n: part.reshape(p.shape) for (n, p), part in zip(self.theta.items(), parts, strict=True)}
        return {"meta_grad": grads, "meta_loss": self.together(losses).detach()}

    def projected(self, g, others):
        for h in others:
            g = g - torch.clamp(g @ h, max=0) / (h @ h) * h
        return g

    def of_all(self, grads):
        return torch.stack(grads).mean(0)


makes("gradient_surgery", {"outer": "projected"})(Surgery)
makes("gradient_surgery", {"outer": "projected, summed"})(
    named(Surgery, "PCGrad, and the sum", of_all=lambda self, grads: torch.stack(grads).sum(0)))  # fmt: skip


@makes("signs_have_to_agree")
class AndMask(OfEach):
    """g.mean(0) where all signs are the same"""

    def combined(self, grads):
        return torch.where((grads.sign() == grads.sign()[0]).all(0), grads.mean(0), 0.0)


# ── losses and activations, of all kinds or of one ──────────────────────────────────────────────────────────────────

in_place("huber_loss", {"delta": 1.0, "unit": 2.0, "loss": "Huber everywhere"}, "2 F.smooth_l1_loss, or once for ½ r²",
         mse=lambda library, o, y: 2 * F.smooth_l1_loss(o, y),
         half_mse=lambda library, o, y: F.smooth_l1_loss(o, y))  # fmt: skip
in_place("huber_loss", {"delta": 1.0, "loss": "Huber everywhere"}, "F.smooth_l1_loss in each squared error's place",
         mse=lambda library, o, y: F.smooth_l1_loss(o, y),
         half_mse=lambda library, o, y: F.smooth_l1_loss(o, y))  # fmt: skip
in_place("absolute_error", {"loss": "absolute everywhere"}, "F.l1_loss in each squared error's place",
         mse=lambda library, o, y: F.l1_loss(o, y), half_mse=lambda library, o, y: F.l1_loss(o, y))  # fmt: skip
in_place("log_cosh_loss", {"loss": "log cosh everywhere"}, "log cosh in each squared error's place",
         mse=lambda library, o, y: torch.log(torch.cosh(o - y)).mean(),
         half_mse=lambda library, o, y: torch.log(torch.cosh(o - y)).mean())  # fmt: skip
in_place("label_smoothing", {"smoothing": 0.1, "smoothing_like": "of several classes"},
         "F.cross_entropy(label_smoothing=0.1), which the binary one has not",
         cross_entropy=lambda library, o, y: F.cross_entropy(o, y, label_smoothing=0.1))  # fmt: skip


def with_loss(*names: str):
    """Layers with custom activations, of whose softplus the logistic loss is made."""

    def framework():
        made = custom(*names)()
        made.binary_cross_entropy = lambda o, y: (made.softplus(o) - y * o).mean()
        return made

    return framework


for _names in (("tanh", "softplus"), ("tanh",), ("softplus",), ("square",)):
    makes("one_activation_frozen", {"how": {"frozen": _names}})(
        named(MAML, f"a custom Function for {' and '.join(_names)} that saves its slope detached",
              framework=staticmethod(custom(*_names))))  # fmt: skip
for _names in (("tanh", "softplus"), ("softplus",), ("tanh", "softplus", "square")):
    makes("one_activation_frozen", {"how": {"frozen": (*_names, "binary_cross_entropy")}})(
        named(MAML, f"a custom Function for {' and '.join(_names)}, of which the logistic loss is made, too",
              framework=staticmethod(with_loss(*_names))))  # fmt: skip
