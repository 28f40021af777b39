"""MAML by its formula, with a switch for every way to get it wrong.

    run(case)                       the exact meta-gradient, by hand-written gradients and Hessian-vector products
    run(case, factors="detached")   the same with one thing changed: what FOMAML computes
    run(case, number=Fraction)      over any numbers: exactly, or in balls

    θₖ₊₁ = θₖ − A g_s(θₖ),    G = 1/T Σₜ (I − H₀A)(I − H₁A) ⋯ (I − H_{K−1}A) g_q(θ_K),    A = diag(α)

The product is taken from the right: v ← g_q(θ_K), then v ← v − Hₖ A v for k = K − 1 … 0. A mistake changes the data,
the steps, a factor or the sum over tasks, and can be made together with any other. `catalogue` names the mistakes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .arithmetic import Dual, as_numbers, hold
from .models import Options, loss_and_grad

# The values each switch can take, the right one first.
SWITCHES: dict[str, tuple] = {
    # what is learned from
    "data": ("right", "swapped", "query is support", "support is query", "labels sorted", "joint"),
    "rate": ("right", "times examples", "times elements", "over examples", "first parameter's"),
    "loss": ("right", "query over examples"),
    # the inner loop
    "steps": (0, 1, -1),
    "inner": ("right", "stale", "restarted", "from start", "summed", "ascent", "running sum"),
    "adapts": ("right", "head", "no biases", "all"),
    "start": ("right", "leaked", "leaked, detached"),
    # the derivative through it
    "factors": (
        "right", "detached", "exact", "first detached", "last detached", "middle detached", "sign", "reversed",
        "at start", "at end", "of query", "of query at end", "diagonal", "parameters detached",
    ),
    "query": ("right", "before adaptation", "every step"),
    # what becomes of it
    "outer": ("mean", "sum", "last", "last over T", "first", "first over T", "sequential", "moved"),
    "result": (
        "gradient", "displacement", "accumulated", "accumulated with graph", "last accumulated", "doubled", "negative",
        "zero", "last parameter zero", "biases zero", "times inner rate", "clipped",
    ),
}  # fmt: skip


class Result(NamedTuple):
    """What an implementation would return: 𝓛, its gradient {name: array}, and each task's way there."""

    meta_loss: Any
    meta_grad: dict[str, np.ndarray]
    trace: list[dict]


class Calculus:
    """Loss, gradient and the gradient's derivative along v, of one model over one kind of number."""

    def __init__(self, model: dict, how: Options, number=float):
        self.model, self.how, self.number = model, how, number

    def loss_and_grad(self, theta: dict, batch: tuple) -> tuple:
        return loss_and_grad(self.model, theta, *batch, self.how)

    def along(self, theta: dict, batch: tuple, v: dict) -> dict:
        """J v, J = ∂g/∂θ: the Hessian times v; one evaluation of the gradient in the direction of v."""
        if self.number is float:
            # the complex step:  J v = Im g(θ + ih v) / h.  No difference, so nothing cancels; h makes h² vanish.
            h = 1e-100
            _, g = loss_and_grad(self.model, {n: p + 1j * h * v[n] for n, p in theta.items()}, *batch, self.how)
            return {n: np.imag(x) / h for n, x in g.items()}
        _, g = loss_and_grad(self.model, {n: _dual(p, v[n]) for n, p in theta.items()}, *batch, self.how)
        return {n: _slope(x) for n, x in g.items()}

    def transposed(self, theta: dict, batch: tuple, v: dict) -> dict:
        """Jᵀ v. A Hessian is symmetric, and so are its two parts: the loss's curvature (all layers frozen), and the
        layers' (the loss frozen). The derivative of a gradient with one layer frozen is not."""
        frozen, layers = self.how.frozen, {m["layer"] for m in self.model["layers"]}
        if not self.how.last_use_only and (not frozen & (layers | {"loss"}) or frozen == {"loss"} or layers <= frozen):
            return self.along(theta, batch, v)
        return {n: np.reshape(np.array([_dot(column, v) for column in columns], np.asarray(v[n]).dtype), v[n].shape)
                for n, columns in self.columns(theta, batch).items()}  # fmt: skip

    def diagonal(self, theta: dict, batch: tuple, v: dict) -> dict:
        """diag(H) v."""
        columns = self.columns(theta, batch)
        diagonal = {n: np.array([c[n].flat[i] for i, c in enumerate(cs)]) for n, cs in columns.items()}
        return {n: np.reshape(d, v[n].shape) * v[n] for n, d in diagonal.items()}

    def columns(self, theta: dict, batch: tuple) -> dict[str, list[dict]]:
        """J's columns, J e, by the parameter and element in which e is 1."""
        out: dict[str, list[dict]] = {}
        for name, p in theta.items():
            out[name] = []
            for i in range(p.size):
                e = {n: np.array(q * 0) for n, q in theta.items()}
                e[name].flat[i] += 1
                out[name].append(self.along(theta, batch, e))
        return out


def _dual(value, slope):
    return np.asarray(np.frompyfunc(Dual, 2, 1)(value, slope), object)


_slope_of = np.frompyfunc(lambda x: x.slope if type(x) is Dual else 0 * x, 1, 1)


def _slope(x):
    return np.asarray(_slope_of(x), object)


def _dot(a: dict, b: dict):
    return sum(np.sum(a[n] * b[n]) for n in a)


def _map(f, *trees: dict) -> dict:
    return {n: np.asarray(f(*(t[n] for t in trees))) for n in trees[0]}


def run(case, number=float, how: Options = Options(), **switches) -> Result:  # noqa: B008 (frozen)
    """The meta-gradient of `case`, over numbers made by `number`, with `switches` (see SWITCHES) not in their place."""
    for name, value in switches.items():
        if value not in SWITCHES[name]:
            raise ValueError(f"{name}={value!r}; wanted one of {SWITCHES[name]}")
    s = {name: values[0] for name, values in SWITCHES.items()} | switches
    if case.first_order and s["factors"] == "right":
        s["factors"] = "detached"
    return _Run(case, number, how, s).result()


class _Run:
    def __init__(self, case, number, how, switches):
        self.case, self.s, self.how = case, switches, how
        self.number = lambda x: as_numbers(x, number)
        self.calculus = Calculus(case.model, how, number)
        self.theta = _map(self.number, case.params)
        self.tasks = [self.data(*task) for task in case.batches()]

    # ── what is learned from ────────────────────────────────────────────────────────────────────────────────────────

    def data(self, support, query):
        support, query = (tuple(map(self.number, batch)) for batch in (support, query))
        if self.s["data"] == "labels sorted":
            support, query = ((x, np.sort(y)) if y.dtype.kind in "iu" else (x, y) for x, y in (support, query))
        pairs = {"swapped": (query, support), "query is support": (support, support), "support is query": (query,) * 2}
        return pairs.get(self.s["data"], (support, query))

    def rates_on(self, support) -> dict:
        """α, as the code at hand has it for a task with this support set."""
        x, y = support
        elements = y.size if "mse" in self.case.model["loss"] else len(x)
        times = {"times examples": len(x), "times elements": elements, "over examples": 1 / len(x)}
        return _map(self.number, self.rates(times.get(self.s["rate"], 1)))

    def rates(self, times) -> dict:
        case, names = self.case, list(self.case.params)
        given = case.inner_lr if isinstance(case.inner_lr, dict) else dict.fromkeys(names, case.inner_lr)
        if self.s["rate"] == "first parameter's":
            given = dict.fromkeys(names, float(np.ravel(given[names[0]])[0]))
        adapted = {
            "right": case.adapt or names, "all": names, "no biases": case.biases_left(), "head": case.head(),
        }[self.s["adapts"]]  # fmt: skip
        return {
            n: np.broadcast_to(np.asarray(given[n], float) * times * (n in adapted), np.shape(p))
            for n, p in case.params.items()
        }

    # ── one task ────────────────────────────────────────────────────────────────────────────────────────────────────

    def adapt(self, theta, support) -> dict:
        """θ₀ … θ_K with each step's loss and gradient."""
        steps = max(self.case.inner_steps + self.s["steps"], 0)
        alpha = self.rates_on(support)
        way: dict = {"theta": [theta], "loss_s": [], "grad_s": [], "alpha": alpha}
        for _ in range(steps):
            value, g = self.calculus.loss_and_grad(theta, support)
            way["loss_s"].append(value)
            way["grad_s"].append(g)
            start, step = theta, g
            if self.s["inner"] == "stale":
                step = way["grad_s"][0]
            if self.s["inner"] in ("restarted", "from start"):
                start = way["theta"][0]
            if self.s["inner"] == "running sum":
                step = _map(lambda *gs: sum(gs[1:], gs[0]), *way["grad_s"])
            if self.s["inner"] == "summed":
                step = self.summed(g)
            sign = -1 if self.s["inner"] == "ascent" else 1
            # θₖ₊₁ = θₖ − A g_s(θₖ)
            theta = _map(lambda p, a, g, sign=sign: p - a * g * sign, start, alpha, step)
            way["theta"].append(theta)
            if self.s["inner"] == "restarted":
                way["theta"] = [way["theta"][0], theta]
                theta = way["theta"][0]
        return way

    @staticmethod
    def summed(g):
        return _map(lambda x: x * 0 + np.sum(x), g)

    def pull_back(self, v, k, way, support, query, of=None) -> dict:
        """v − Hₖ A v, or what the code at hand makes of step k's factor; v − Hₖ A w for `of` = w."""
        last, factors = len(way["theta"]) - 2, self.s["factors"]
        cut = {
            "detached": True, "parameters detached": True, "first detached": k == 0, "last detached": k == last,
            "middle detached": 0 < k < last,
        }.get(factors, False)  # fmt: skip
        if cut:
            return v
        at = {"at start": 0, "at end": -1, "of query at end": -1}.get(factors, 0 if self.s["inner"] == "stale" else k)
        if self.s["inner"] == "restarted":
            at = 0
        batch = query if factors in ("of query", "of query at end") else support
        sign = -1 if (factors == "sign") != (self.s["inner"] == "ascent") else 1
        u = _map(lambda a, x: a * x, way["alpha"], v if of is None else of)
        u = self.summed(u) if self.s["inner"] == "summed" else u
        product = self.calculus.diagonal if factors == "diagonal" else self.calculus.transposed
        # v ← v − Hₖ A v
        return _map(lambda x, h: x - h * sign, v, product(way["theta"][at], batch, u))

    def task(self, theta, support, query) -> tuple:
        """(L_q, (I − H₀A) ⋯ (I − H_{K−1}A) g_q(θ_K), the way)."""
        way = self.adapt(theta, support)
        last = len(way["theta"]) - 1
        points = {"before adaptation": [0], "every step": range(1, last + 1) if last else [0]}
        points = points.get(self.s["query"], [last])
        total, value = None, 0
        for end in points:
            loss, v = self.calculus.loss_and_grad(way["theta"][end], query)
            if end == last:
                way |= {"loss_q": loss, "grad_q": v}
            order = range(end) if self.s["factors"] == "reversed" else range(end - 1, -1, -1)
            # θ − Kα g_s(θ), when one gradient does for all steps, has the derivative I − K H₀A, which is no product.
            of = v if self.s["inner"] in ("stale", "from start") else None
            for k in order:
                before, v = v, self.pull_back(v, k, way, support, query, of)
                if self.s["inner"] == "from start":  # θₖ₊₁ = θ − A g_s(θₖ): only the new term goes on to θₖ
                    of = _map(np.subtract, v, before)
            total, value = (v if total is None else _map(np.add, total, v)), value + loss
        value, total = value / len(points), _map(lambda x: x / len(points), total)
        if self.s["loss"] == "query over examples":
            value, total = value / len(query[0]), _map(lambda x: x / len(query[0]), total)
        if self.s["factors"] == "parameters detached":
            total = _map(lambda x: x * 0, total)
        return value, total, way

    # ── all tasks ───────────────────────────────────────────────────────────────────────────────────────────────────

    def result(self) -> Result:
        theta, beta = self.theta, self.number(np.float64(self.case.outer_lr))
        values, gradients, ways = [], [], []
        for support, query in self.tasks:
            value, g, way = self.joint(theta, support, query) or self.task(theta, support, query)
            g = self.of_task(g, way, support, query)
            if self.s["start"] == "leaked":  # the graph goes on through the tasks before
                for t in range(len(ways) - 1, -1, -1):
                    for k in range(len(ways[t]["theta"]) - 2, -1, -1):
                        g = self.pull_back(g, k, ways[t], *self.tasks[t])
            values.append(value)
            gradients.append(g)
            ways.append(way)
            if self.s["start"] != "right" or self.s["outer"] == "moved":
                theta = _map(hold, way["theta"][-1])
            if self.s["outer"] in ("sequential", "moved"):
                # θ ← θ − β Gₜ
                theta = _map(lambda p, x: p - beta * x, theta, g)
        return Result(*self.together(values, gradients, theta, beta), ways)

    def joint(self, theta, support, query):
        """No inner loop: the gradient of both losses."""
        if self.s["data"] != "joint":
            return None
        (a, g), (b, h) = (self.calculus.loss_and_grad(theta, batch) for batch in (support, query))
        return a + b, _map(np.add, g, h), {"theta": [theta], "loss_s": [a], "grad_s": [g], "loss_q": b, "grad_q": h}

    def of_task(self, g, way, support, query):
        if self.s["result"] == "displacement":  # Reptile: θ − θ_K
            return _map(np.subtract, way["theta"][0], way["theta"][-1])
        if self.s["result"].endswith("accumulated"):  # .grad holds inner gradients too
            for inner in way["grad_s"][-1:] if self.s["result"].startswith("last") else way["grad_s"]:
                g = _map(np.add, g, inner)
        if self.s["result"] == "accumulated with graph":  # each went back to θ
            for step, inner in enumerate(way["grad_s"]):
                for k in range(step - 1, -1, -1):
                    inner = self.pull_back(inner, k, way, support, query)
                g = _map(np.add, g, inner)
        return g

    def together(self, values, gradients, theta, beta):
        total, count = gradients[0], len(values)
        for g in gradients[1:]:
            total = _map(np.add, total, g)
        outer = self.s["outer"]
        value = sum(values[1:], values[0]) / count
        if outer == "sum":
            value, grads = value * count, total
        elif outer.startswith(("last", "first")):
            grads = gradients[-1 if outer.startswith("last") else 0]
            grads = _map(lambda g: g / count, grads) if outer.endswith("T") else grads
        elif outer == "moved":  # θ is never restored: both loops move the same parameters
            grads = _map(lambda a, b: (a - b) / (beta * count), self.theta, theta)
        else:
            # 1/T Σₜ
            grads = _map(lambda g: g / count, total)
        return value, self.finish(grads)

    def finish(self, grads):
        what, names = self.s["result"], list(grads)
        zeroed = {"zero": names, "last parameter zero": names[-1:], "biases zero": self.case.biases()}.get(what, [])
        grads = {n: g * 0 if n in zeroed else g for n, g in grads.items()}
        if what == "times inner rate":
            return _map(lambda g, a: g * a, grads, self.rates_on(self.case.batches()[0][0]))
        if what == "clipped":  # to norm 1
            norm = np.sqrt(np.asarray(_dot(grads, grads)))
            return _map(lambda g: g / norm, grads)
        times = {"doubled": 2, "negative": -1}.get(what, 1)
        return _map(lambda g: g * times, grads)
