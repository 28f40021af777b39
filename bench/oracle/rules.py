"""Mistakes in what is written by hand: in a backward pass, so that the gradient and its derivative are wrong, and in
the recursion that goes back through the steps.

`mistakes` imports this last, and has the register.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

import tinymaml as tm
from tinymaml import extras
from tinymaml.oracle import models
from tinymaml.oracle.catalogue import CATALOGUE

from .further import in_place
from .loops import named
from .mistakes import MAML, ByHand, FirstOrder, makes, other

torch = extras.require("torch", "peers")


class Written(MAML):
    """A backward pass layer by layer; what goes back through the steps is v − α H v, H v = J v, J = ∂g/∂θ."""

    rules: dict[str, Callable] = {}  # by the layer: its output, and its backward g → (dx, *dparams)
    shared = staticmethod(lambda before, g: before + g)  # of a parameter's uses, from the last to the first
    of_query: dict[str, Callable] | None = None  # where other ones are in the query's backward pass
    honest_query = False
    moved: dict | None = None  # the parameters that are updated as the error goes down

    def honest(self, layer, *inputs, **settings):
        return torch.func.vjp(functools.partial(getattr(models.Torch(), layer), **settings), *inputs)

    def value_and_grad(self, params, x, y, rules=None):
        rules = self.rules if rules is None else rules
        tape, library, kind = [], models.Torch(), self.case.model["loss"]
        for layer in self.case.model["layers"]:
            settings = {k: v for k, v in layer.items() if k not in ("layer", "params")}
            f = rules.get(layer["layer"]) or functools.partial(self.honest, layer["layer"])
            names, f = layer.get("params", []), functools.partial(f, x, **settings)
            x, back = f(*(params[n] for n in names))
            tape.append((layer["layer"], names, f, back))
        of_output = torch.mean if kind == "mean" else lambda o: getattr(library, kind)(o, y)
        value, back = torch.func.vjp(of_output, x)
        (g,), grads = back(torch.ones_like(value)), {}
        for name, names, f, back in reversed(tape):
            through, own = self.sent(name, names, f, back, g)
            for n, dp in zip(names, own, strict=True):
                grads[n] = self.shared(grads[n], dp) if n in grads else dp
            g = through
        return value, grads

    def sent(self, layer, names, f, back, g):
        """(What a layer sends down, its parameters' gradients.)"""
        through, *own = back(g)
        return through, own

    def product(self, theta, batch, v):
        return torch.func.jvp(lambda p: self.value_and_grad(p, *batch)[1], (theta,), (v,))[1]

    def in_order(self, grads):
        return {n: grads[n] for n in self.theta}

    def stepped(self, theta, batch):
        return self.step(theta, self.value_and_grad(theta, *batch)[1], 0)

    def __call__(self):
        theta = {n: p.detach() for n, p in self.theta.items()}
        total, value = {n: torch.zeros_like(p) for n, p in theta.items()}, 0.0
        for support, query in self.tasks:
            way = [theta]
            for _ in range(self.steps):
                way.append(self.stepped(way[-1], support))
            if self.honest_query:
                v, loss = torch.func.grad_and_value(self.loss)(way.pop(), *query)
            else:
                loss, v = self.value_and_grad(way.pop(), *query, self.of_query)
            for fast in [] if isinstance(self, FirstOrder) else reversed(way):
                h = self.product(fast, support, {n: self.rate[n] * v[n] for n in fast})
                v = {n: x - h[n] for n, x in v.items()}
            total, value = {n: t + v[n] / len(self.tasks) for n, t in total.items()}, value + loss / len(self.tasks)
        return {"meta_grad": total, "meta_loss": value}


class Coded(Written):
    """Gradients are written by hand, and autograd goes through that code"""

    def product(self, theta, batch, v):
        return torch.func.vjp(lambda p: self.in_order(self.value_and_grad(p, *batch)[1]), theta)[1](v)[0]


class CodedInside(Coded):
    """The inner gradient is written by hand, and autograd goes through that code and the query loss"""

    honest_query = True


def written(id: str, options: dict, **attributes) -> None:
    """Registers a backward pass by hand, differentiated forwards and backwards, as far as the catalogue has the
    forms."""
    doc = ", ".join(f"{name}: {value}" for name, value in options.items())
    for cls, derived, on in ((Written, "forwards", {}), (Coded, "backwards", {}),
                             (CodedInside, "backwards", {"on": "support"})):  # fmt: skip
        form = {"how": options | {"derived": derived}} | on
        if form in CATALOGUE[id].forms:
            makes(id, form)(named(cls, f"by hand, {derived}: {doc}", **attributes))


def rule(f: Callable, back: Callable) -> Callable:
    """A layer f(x, …) with the backward back(g, x, y, …) → (dx, …)."""

    def layer(x, *params, **settings):
        y = f(x, *params, **settings)
        return y, lambda g: back(g, x, y, *params)

    return layer


# ── activations ─────────────────────────────────────────────────────────────────────────────────────────────────────

LIBRARY = models.Torch()
SLOPES: dict[str, Callable] = {
    "tanh": lambda x: 1 - torch.tanh(x) ** 2, "relu": lambda x: (x > 0).to(x.dtype), "softplus": torch.sigmoid,
    "square": lambda x: 2 * x,
}  # fmt: skip


def activations(slope: Callable, *names: str) -> dict[str, Callable]:
    """Activations with the backward g * slope(x, y, its right slope)."""
    return {n: rule(getattr(LIBRARY, n), lambda g, x, y, n=n: (g * slope(x, y, SLOPES[n]),)) for n in names}


for _which, _slope in (
    ("1 − x²", lambda x, y, f: 1 - x * x), ("1 − y", lambda x, y, f: 1 - y), ("y (1 − y)", lambda x, y, f: y * (1 - y))
):  # fmt: skip
    written("wrong_slope_of_tanh", {"activation": f"slope {_which} for tanh"}, rules=activations(_slope, "tanh"))
for _id, _slope, _slopes_of in (
    ("slope_of_activation_missing", "slope 1", lambda x, y, f: torch.ones_like(x)),
    ("slope_of_activation_at_output", "slope at y", lambda x, y, f: f(y)),
    ("wrong_slope_of_activation", "slope squared", lambda x, y, f: f(x) ** 2),
    ("wrong_slope_of_activation", "slope halved", lambda x, y, f: f(x) / 2),
    ("wrong_slope_of_activation", "slope 1 − f′", lambda x, y, f: 1 - f(x)),
    ("wrong_slope_of_activation", "slope y", lambda x, y, f: y),
):  # fmt: skip
    for _of in ("any", *SLOPES):
        _these = tuple(SLOPES) if _of == "any" else (_of,)
        written(_id, {"activation": f"{_slope} for {_of}"}, rules=activations(_slopes_of, *_these))

# ── linear layers ───────────────────────────────────────────────────────────────────────────────────────────────────


def linear(through=lambda w: w.T, of_bias=lambda g: g.sum(0), of_weight=lambda dw, w: dw) -> dict[str, Callable]:
    def back(g, x, y, w, b=None):
        return g @ through(w), of_weight(x.T @ g, w), *([] if b is None else [of_bias(g)])

    return {"linear": rule(LIBRARY.linear, back)}


THROUGH = {
    "w reshaped": lambda w: w.reshape(w.shape[::-1]),
    "w": lambda w: w if w.shape[0] == w.shape[1] else w.T,
}
written("bias_gradients_averaged", {"biases": "averaged in the gradient"}, rules=linear(of_bias=lambda g: g.mean(0)))
for _which, _through in THROUGH.items():
    written("error_through_other_matrix", {"through": _which}, rules=linear(_through))


def averaged(library):
    def back(g, x, y, w, b=None):
        return g @ w.T, x.T @ g / len(x), *([] if b is None else [g.mean(0)])

    return {"linear": rule(library.linear, back)}


written("linear_gradients_averaged", {"biases": "averaged, and weights, in the gradient"}, rules=averaged(LIBRARY))


def cached() -> dict[str, Callable]:
    """Layers that keep the input of the last activation, which the next one takes for its own."""
    kept: list = []

    def activation(name):
        def layer(x):
            kept[:] = [x]
            return torch.func.vjp(getattr(LIBRARY, name), x)

        return layer

    def other(name):
        def layer(x, *params, **settings):
            kept.clear()
            return torch.func.vjp(functools.partial(getattr(LIBRARY, name), **settings), x, *params)

        return layer

    def of_linear(x, w, b=None):
        (z,) = kept or [x]
        kept.clear()
        return LIBRARY.linear(x, w, b), lambda g: (g @ w.T, z.T @ g, *([] if b is None else [g.sum(0)]))

    names = ("conv", "batch_norm", "max_pool", "flatten", "spatial_mean", "polynomial", "quadratic")
    return {"linear": of_linear} | {n: activation(n) for n in SLOPES} | {n: other(n) for n in names}


written("input_of_activation_cached", {"inputs": "before the activation"}, rules=cached())


class _Through(torch.autograd.Function):
    """x @ w, whose backward has another matrix for wᵀ."""

    @staticmethod
    def forward(ctx, x, w, which):
        ctx.save_for_backward(x, w)
        ctx.which = which
        return x @ w

    @staticmethod
    def backward(ctx, g):
        x, w = ctx.saved_tensors
        return g @ THROUGH[ctx.which](w), x.T @ g, None


for _which in THROUGH:
    makes("error_through_other_matrix", {"how": {"through": _which}})(named(
        MAML, f"a custom Function, with g @ {_which}", framework=other(
            linear=lambda library, x, w, b=None, which=_which:
            _Through.apply(x, w, which) + (0 if b is None else b))))  # fmt: skip

DECAYED = linear(of_weight=lambda dw, w: dw + 0.01 * w)
for _on, _inner, _outer in (({}, DECAYED, DECAYED), ({"on": "support"}, DECAYED, {}), ({"on": "query"}, {}, DECAYED)):
    makes("decay_in_backward_of_layer", {"how": {"layer_decay": 1e-2}} | _on)(
        named(Written, f"dw = x.T @ g + 0.01 * w, in {_on.get('on', 'both')}", rules=_inner, of_query=_outer)
    )

# ── batch norm ──────────────────────────────────────────────────────────────────────────────────────────────────────


def batch_norm(mean: bool, variance: bool) -> dict[str, Callable]:
    """Batch norm whose backward differentiates the mean, the variance, or neither."""

    def layer(x, gamma, beta):
        over = tuple(range(x.ndim - 1))
        centred = x - x.mean(over)
        inverse = 1 / torch.sqrt((centred * centred).mean(over) + models.EPS)
        unit = centred * inverse

        def back(g):
            e = g * gamma * inverse
            dx = e - unit * (e * unit).mean(over) if variance else e
            dx = dx - dx.mean(over) if mean else dx
            return dx, (g * unit).sum(over), g.sum(over)

        return unit * gamma + beta, back

    return {"batch_norm": layer}


for _which, _mean, _variance in (("mean held", False, True), ("variance held", True, False),
                                 ("statistics held", False, False)):  # fmt: skip
    written("batch_norm_statistics_held", {"norm": _which}, rules=batch_norm(_mean, _variance))


def slipped(which: str) -> dict[str, Callable]:
    """Batch norm with a slip in its backward."""

    def layer(x, gamma, beta):
        over = tuple(range(x.ndim - 1))
        mean, n = x.mean(over), x.numel() // x.shape[-1]
        inverse = 1 / torch.sqrt(((x - mean) ** 2).mean(over) + models.EPS)
        unit = (x - mean) * inverse

        def back(g):
            e = g if which == "backward without γ" else g * gamma
            dx = e - e.mean(over) - unit * (e * unit).mean(over)
            dx = dx if which == "backward without 1/σ" else dx * inverse
            of_gamma, of_beta = (g * (x if which == "dγ of x" else unit)).sum(over), g.sum(over)
            share = n if which == "dγ and dβ averaged" else 1
            return dx, of_gamma / share, of_beta / share

        return unit * gamma + beta, back

    return {"batch_norm": layer}


for _which in ("backward without γ", "backward without 1/σ", "dγ of x", "dγ and dβ averaged"):
    written("batch_norm_backward_wrong", {"norm": _which}, rules=slipped(_which))

# ── shared weights, and updates on the way down ─────────────────────────────────────────────────────────────────────

for _which, _shared in (("the first use", lambda before, g: g), ("the last use", lambda before, g: before)):
    written("tied_weight_overwritten", {"tied": _which}, shared=staticmethod(_shared))


class Fused(Written):
    """each layer is updated before the error goes through it"""

    only: tuple[str, ...] = ()
    graph = "in place"

    def sent(self, layer, names, f, back, g):
        through, own = super().sent(layer, names, f, back, g)
        if self.moved is None or not names or self.only and layer not in self.only:
            return through, own
        for n, dp in zip(names, own, strict=True):
            self.moved[n] = self.moved[n] - self.rate[n] * dp
        return f(*(self.moved[n] for n in names))[1](g)[0], own

    def updated(self, theta, batch):
        self.moved = dict(theta)
        _, g = self.value_and_grad(theta, *batch)
        self.moved = None
        return self.in_order(g)

    def stepped(self, theta, batch):
        return self.step(theta, self.updated(theta, batch), 0)

    def product(self, theta, batch, v):
        if self.graph == "in place":
            return super().product(theta, batch, v)
        return torch.func.vjp(lambda p: self.updated(p, batch), theta)[1](v)[0]


for _layers, _only in (("", ()), (", linear layers", ("linear",))):
    for _graph, _way in (("in place", {"change_like": "in place"}), ("whole", {})):
        _doc = f"p -= lr * dp in each layer's backward{_layers}; graph: {_graph}"
        makes("updated_within_backward", {"inner": f"within the backward pass{_layers}"} | _way)(
            named(Fused, _doc, only=_only, graph=_graph)
        )


# ── other inner loops, with the recursion of plain steps ────────────────────────────────────────────────────────────


class OtherWay(ByHand):
    """Another update in the inner loop, and v ← v − αHₖv at its points."""

    def way(self, support):
        thetas, state = [self.theta], {}
        for k in range(self.k):
            g = tm.grad(self.loss)(thetas[-1], *support)
            step, state = self.direction(g, state, k)
            thetas.append({n: p - self.rate[n] * step[n] for n, p in thetas[-1].items()})
        return thetas

    def direction(self, g, state, k) -> tuple[dict, dict]:
        """What α is multiplied by, and what is remembered."""
        raise NotImplementedError


def _adam(self, g, state, k):
    m = {n: 0.9 * state[n][0] + 0.1 * x if state else 0.1 * x for n, x in g.items()}
    v = {n: 0.999 * state[n][1] + 0.001 * x * x if state else 0.001 * x * x for n, x in g.items()}
    over = {n: np.sqrt(v[n] / (1 - 0.999 ** (k + 1))) + 1e-8 for n in g}
    return {n: m[n] / (1 - 0.9 ** (k + 1)) / over[n] for n in g}, {n: (m[n], v[n]) for n in g}


def _rmsprop(self, g, state, k):
    v = {n: (0.99 * state[n] if state else 0) + 0.01 * x * x for n, x in g.items()}
    return {n: x / (np.sqrt(v[n]) + 1e-8) for n, x in g.items()}, v


def _velocity(mu: float) -> Callable:
    def direction(self, g, state, k):
        v = {n: mu * state[n] + x if state else x for n, x in g.items()}
        return v, v

    return direction


def _halfway(self, g, state, k):
    return {n: (x + state[n]) / 2 if state else x for n, x in g.items()}, g


for _form, _direction in (
    ({"inner": "stale"}, lambda self, g, state, k: (state or g, state or g)),
    ({"momentum": 0.9}, _velocity(0.9)), ({"inner": "running sum"}, _velocity(1.0)),
    ({"inner": "adam"}, _adam), ({"inner": "rmsprop"}, _rmsprop),
    ({"inner": "one step behind"}, lambda self, g, state, k: (state or g, g)),
    ({"inner": "averaged with the one before"}, _halfway),
):  # fmt: skip
    makes("recursion_of_plain_steps", _form | {"change_like": "not in the recursion"})(
        named(OtherWay, f"{next(iter(_form.values()))}, and the recursion of plain steps", direction=_direction)
    )


@makes("inner_weight_decay", {"decay": 5e-4, "change_like": "not in the recursion"})
class DecayedWay(ByHand):
    """p - lr * (g + 5e-4 * p), and the recursion of plain steps"""

    def way(self, support):
        thetas = [self.theta]
        for _ in range(self.k):
            g = tm.grad(self.loss)(thetas[-1], *support)
            thetas.append({n: p - self.rate[n] * (g[n] + 5e-4 * p) for n, p in thetas[-1].items()})
        return thetas


# ── one kind of loss that is a sum ──────────────────────────────────────────────────────────────────────────────────

SUMS = {
    "mse": lambda library, o, y: ((o - y) ** 2).sum(), "half_mse": lambda library, o, y: ((o - y) ** 2).sum() / 2,
    "cross_entropy": lambda library, o, y: models.Torch().cross_entropy(o, y) * len(o),
    "binary_cross_entropy": lambda library, o, y: models.Torch().binary_cross_entropy(o, y) * o.numel(),
}  # fmt: skip
for _kind, _losses in (
    ("cross entropy", ("cross_entropy",)), ("entropies", ("cross_entropy", "binary_cross_entropy")),
    ("squared error", ("mse", "half_mse")), ("logistic loss", ("binary_cross_entropy",)),
):  # fmt: skip
    in_place("one_loss_summed", {"loss": f"{_kind} summed"}, f"{_kind}: a sum", **{n: SUMS[n] for n in _losses})


# ── numbers that are short on the way ───────────────────────────────────────────────────────────────────────────────


class Short(ByHand):
    """Buffers of a shorter type."""

    what, dtype = "", ""

    def short(self, tree, what):
        dtype = getattr(torch, self.dtype)
        if what != self.what:
            return tree
        return {n: torch.as_tensor(np.asarray(x)).to(dtype).to(torch.float64).numpy() for n, x in tree.items()}

    def way(self, support):
        thetas = [self.theta]
        for _ in range(self.k):
            g = self.short(tm.grad(self.loss)(thetas[-1], *support), "inner gradients")
            thetas.append(self.short({n: p - self.rate[n] * g[n] for n, p in thetas[-1].items()}, "fast weights"))
        return thetas

    def task(self, support, query):
        *thetas, last = self.way(support)
        value, v = tm.value_and_grad(self.loss)(last, *query)
        v = self.short(v, "query gradients")
        for theta in reversed(thetas):
            at = self.short(theta, "points of Hessians")
            h = self.short(self.product(at, support, self.weighted(v)), "products")
            v = self.short({n: v[n] - h[n] for n in v}, "what comes back")
        return value, self.short(v, "task gradients")


for _what in ("task gradients", "inner gradients", "fast weights", "query gradients", "products", "points of Hessians",
              "what comes back"):  # fmt: skip
    for _dtype in ("float32", "bfloat16", "float16"):
        makes("task_gradients_rounded" if _what == "task gradients" else "inner_numbers_rounded",
              {"shortened": f"{_what} to {_dtype}"})(
            named(Short, f"{_what} in {_dtype}", what=_what, dtype=_dtype))  # fmt: skip
