"""MAML by its formula, with a switch for every way to get it wrong.

    run(case)                       the exact meta-gradient, by hand-written gradients and Hessian-vector products
    run(case, factors="detached")   the same with one thing changed: what FOMAML computes
    run(case, number=Fraction)      over any numbers: exactly, or in balls

    θₖ₊₁ = θₖ − A g_s(θₖ),    G = 1/T Σₜ (I − H₀A)(I − H₁A) ⋯ (I − H_{K−1}A) g_q(θ_K),    A = diag(α)

The product is taken from the right: v ← g_q(θ_K), then v ← v − Hₖ A v for k = K − 1 … 0. A mistake changes the data,
the steps, a factor or the sum over tasks, and can be made together with any other. `catalogue` names the mistakes.

`switches` lists them. `data` has what is done to the data, `calculus` a gradient and what a Hessian is applied to, and
`updates` what an inner step does with its gradient.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from ..arithmetic import as_numbers, bits_of, hold, remembered, side
from ..models import Options, back_from_statistics, batch_statistics
from .calculus import Calculus, SideBySide
from .data import (
    DATA,
    PARTS_OF_N,
    PARTS_OF_STEPS,
    chunks,
    count,
    first_rows,
    pieces,
    rounded,
    rows_after,
    whole_batches,
    wrapped_rows,
)
from .outcome import finished, group, in_tasks, named, some_of, together
from .switches import AFTER_THE_TASKS, COUNTS, NUMBERS, NUMERIC_OPTIONS, SWITCHES
from .updates import (
    MIXED_UP,
    TRANSFORMED,
    Update,
    clamped,
    clipped,
    dot,
    in_order,
    in_some_steps,
    mixed_up,
    norm,
    share_of_rate,
)
from .updates import map_trees as _map

MOST_HALVINGS = 10  # of α in one step, by a line search


class Result(NamedTuple):
    """What an implementation would return: 𝓛, its gradient {name: array}, and each task's way there."""

    meta_loss: Any
    meta_grad: dict[str, np.ndarray]
    trace: list[dict]


def _largest(values: np.ndarray, n: int) -> np.ndarray:
    """The n largest of the values, by size, or all but the smallest −n; 0 for the others."""
    places = np.argsort(-np.abs(values), kind="stable")[:n]
    return np.where(np.isin(np.arange(len(values)), places), values, 0)


def run(case, number=float, how: Options = Options(), known: dict | None = None, **switches) -> Result:  # noqa: B008 (frozen)
    """The meta-gradient of `case`, over numbers made by `number`, with `switches` not in their place: `SWITCHES`
    has the values they can take, and `NUMBERS` those that take any number. `known` is that of `catalogue.run_form`.

    Raises:
        ValueError: no such value of a switch, or something else than a finite number.   KeyError: no such switch.
    """
    for name, value in switches.items():
        if name not in NUMBERS and value not in SWITCHES[name]:
            raise ValueError(f"{name}={value!r}; wanted one of {SWITCHES[name]}")
        if name in NUMBERS and value is not None and not np.isfinite(float(value)):
            raise ValueError(f"{name}={value!r}; wanted a finite number: {NUMBERS[name]}")
    s = _RIGHT | switches
    if case.first_order and s["factors"] == "right":
        s["factors"] = "detached"
    return _Run(case, number, how, s, known).result()


_RIGHT: dict[str, Any] = {name: values[0] for name, values in SWITCHES.items()} | dict.fromkeys(NUMBERS)


class _Run:
    def __init__(self, case, number, how, switches, known):
        exact = (lambda x: x) if number is float else (lambda x: number(float(x)))
        if number is not float:
            numeric = {name: exact(x) for name in NUMERIC_OPTIONS if (x := getattr(how, name))}
            how = dataclasses.replace(how, **numeric)
        self.s = {n: (int(x) if n in COUNTS else exact(x)) if n in NUMBERS and x else x for n, x in switches.items()}
        self.case, self.number = case, lambda x: as_numbers(x, number)
        right, changed = (Calculus(case.model, options, number, known) for options in (Options(), how))
        self.calculus = changed if self.s["on"] != "query" else right
        self.of_query = changed if self.s["on"] != "support" else right
        self.known = known
        if known is not None:
            inside = tuple(x for n, x in self.s.items() if n not in AFTER_THE_TASKS)
            self.known = known.setdefault((how, inside), {})
        self.update = Update(self.s, number, functools.partial(group, case))
        self.theta = _map(lambda p: self.number(self.rounded(p, "parameters")), case.params)
        self.tasks = self.data(case.batches())
        self.detached, self.place, self.before = False, 0, None  # which task is at hand; what the one before has given

    # ── what is learned from ────────────────────────────────────────────────────────────────────────────────────────

    def rounded(self, x, *what: str):
        """x with the digits of another dtype, if the code at hand rounds `what`."""
        rounds, _, dtype = self.s["rounded"].partition(" to ")
        return rounded(x, dtype) if rounds in ("everything", *what) else x

    def shortened(self, tree: dict, what: str) -> dict:
        """The tree with the digits of another dtype, if the code at hand keeps `what` in it."""
        these, _, dtype = self.s["shortened"].partition(" to ")
        if these != what:
            return tree
        return _map(lambda x: self.number(rounded(np.asarray(x, np.float64), dtype)), tree)

    def data(self, tasks) -> list:
        def numbers(x, y):
            x, y = self.number(self.rounded(x, "inputs", "data")), self.number(self.rounded(y, "data"))
            x = x * self.s["inputs_times"] if self.s["inputs_times"] else x
            scaled = self.s["targets_times"] and "mse" in self.case.model["loss"]
            return x, y * self.s["targets_times"] if scaled else y

        change = self.s["data"]
        if change.startswith("targets") and "mse" not in self.case.model["loss"]:
            change = "right"
        eps = {"eps": self.s["data_eps"]} if self.s["data_eps"] and change != "right" else {}
        tasks = DATA[change]([(numbers(*support), numbers(*query)) for support, query in tasks], **eps)
        for i, which in enumerate(("support", "query")):
            for what, change in (("rows", first_rows), ("skipped", rows_after), ("batches", whole_batches),
                                 ("chunks", chunks)):  # fmt: skip
                n = self.s[f"{which}_{what}"]
                if n:
                    tasks = [(*task[:i], change(task[i], n), *task[i + 1 :]) for task in tasks]
        return tasks

    def rates_on(self, support, query) -> dict:
        """α, as the code at hand has it for a task with these sets."""
        y, n = pieces(support)[0][1], count(support)
        first, steps = len(self.case.support[0][0]), max(self.case.inner_steps, 1)
        times = {
            "times examples": n, "times elements": y.size if "mse" in self.case.model["loss"] else n,
            "over examples": 1 / n, "over steps": 1 / steps, "over tasks": 1 / self.case.tasks,
            "of the first task's size": n / first, "over one less": n / max(n - 1, 1),
            "over query count": n / count(query),
        }  # fmt: skip
        rates = _map(self.number, self.rates(times.get(self.s["rate"], 1)))
        times, these = self.s["rate_times"] or 1, group(self.case, self.s["rate_times_of"])
        rates = {n: a * times if n in these else a for n, a in rates.items()}
        return self.by_depth(rates) if self.s["rate_depth"] else rates

    def by_depth(self, rates) -> dict:
        """α cⁿ, n the number of layers with parameters between a tensor's and the head or the first layer."""
        used = [m["params"] for m in self.case.model["layers"] if m.get("params")]
        if self.s["depth_like"] == "from the head":
            used = used[::-1]
        depth = {n: i for i, names in reversed(list(enumerate(used))) for n in names}
        return {n: a * self.s["rate_depth"] ** depth.get(n, 0) for n, a in rates.items()}

    def rates(self, times) -> dict:
        case, names = self.case, list(self.case.params)
        given = case.inner_lr if isinstance(case.inner_lr, dict) else dict.fromkeys(names, case.inner_lr)
        if self.s["rate"] == "first parameter's":
            given = dict.fromkeys(names, float(np.ravel(given[names[0]])[0]))
        if self.s["rate"] == "of the outer loop":
            given = dict.fromkeys(names, case.outer_lr)
        if self.s["rate"] in TRANSFORMED:
            given = {n: TRANSFORMED[self.s["rate"]](a) for n, a in given.items()}
        if self.s["rate_decimals"]:
            given = {n: np.round(a, self.s["rate_decimals"]) for n, a in given.items()}
        if self.s["rate_is"]:
            given = dict.fromkeys(names, float(self.s["rate_is"]))
        normal = [n for m in case.model["layers"] if m["layer"] == "batch_norm" for n in m["params"]]
        own = {"right": case.adapt or names, "no batch norm": [n for n in names if n not in normal],
               "all but the first layer": [n for n in names if n not in group(case, "first layer")],
               "named w…": [n for n in names if n.startswith("w")]}  # fmt: skip
        adapted = own[self.s["adapts"]] if self.s["adapts"] in own else group(self.case, self.s["adapts"])
        frozen, only = named(case, self.s["frozen_tensor"]), named(case, self.s["only_tensor"])
        adapted = [n for n in adapted if n != frozen and (not self.s["only_tensor"] or n == only)]
        return {
            n: np.broadcast_to(self.rounded(np.asarray(given[n], float), "rate") * times * (n in adapted), np.shape(p))
            for n, p in case.params.items()
        }

    # ── one task ────────────────────────────────────────────────────────────────────────────────────────────────────

    def adapt(self, theta, support, query, kept=None) -> dict:
        """θ₀ … θ_K with each step's loss and gradient."""
        steps = max(self.s["step_count"] or self.case.inner_steps + self.s["steps"], 0)
        steps = min(steps, 1) if self.s["inner"] == "restarted" else steps
        steps = min(steps, self.s["step_limit"] or steps)
        steps = steps // (self.s["accumulate"] or 1)
        if self.s["minibatch"] and "epoch" in self.s["minibatch_like"]:
            passes = 1 if self.s["minibatch_like"] == "one epoch" else steps
            steps = passes * len(chunks(support, self.s["minibatch"]))
        t, last = self.place, len(self.tasks) - 1
        if self.s["steps_in"] == "a step more per task":
            steps += t
        elif not {"the first task": t == 0, "all but the first": t > 0, "the last task": t == last}.get(
            self.s["steps_in"], True):  # fmt: skip
            steps = 0
        alpha, steps = self.rates_on(support, query), steps * self.parts
        state = self.update.start(theta, kept)
        way: dict = {"theta": [theta], "loss_s": [], "grad_s": [], "alpha": alpha, "state": [state], "query": query,
                     "steps": steps, "halvings": [], "place": t}  # fmt: skip
        for k in range(steps):
            value, g = self.gradient_of(way, k, support)
            if self.stops(value, g, way):
                break
            way["loss_s"].append(value)
            way["grad_s"].append(g)
            state = self.stepped(way, k, support)
            if state is None:
                way["loss_s"].pop(), way["grad_s"].pop()
                break
            state = state | {"theta": self.shortened(state["theta"], "fast weights")}
            way["theta"].append(state["theta"])
            way["state"].append(state)
        return way

    def stepped(self, way, k, support):
        """The state after step k; None if the step is not made."""
        state, g, on_a_rise = way["state"][-1], way["grad_s"][-1], self.s["on_a_rise"]
        after = lambda: self.update.step(state, g, self.rate_in(way, k), k)  # noqa: E731
        if on_a_rise in ("nothing", "ends"):
            return after()
        rises = lambda new: side(self.loss_on(new["theta"], way, k, support) - way["loss_s"][-1]) > 0  # noqa: E731
        halvings = way["halvings"]
        halvings.append(halvings[-1] if halvings and on_a_rise.endswith("from then on") else 0)
        if on_a_rise == "α halved from then on":
            halvings[-1] += bool(k > 0 and side(way["loss_s"][-1] - way["loss_s"][-2]) > 0)
        new = after()
        if on_a_rise == "ends before it" and rises(new):
            return None
        while on_a_rise == "α halved until lower" and halvings[-1] < MOST_HALVINGS and rises(new):
            halvings[-1] += 1
            new = after()
        return new

    def loss_on(self, theta, way, k, support):
        """The loss of step k's batch, at θ."""
        return self.calculus.loss_and_grad(theta, self.batch_of(way, k, support))[0]

    def stops(self, value, g, way) -> bool:
        """Whether the inner loop ends before this step."""
        norm, loss, gain = self.s["stop_below_norm"], self.s["stop_below_loss"], self.s["stop_gain"]
        if norm and side(dot(g, g) - norm * norm) < 0 or loss and side(value - loss) < 0:
            return True
        if not way["loss_s"] or not gain and self.s["on_a_rise"] != "ends":
            return False
        before = way["loss_s"][-1]
        if gain:
            like = self.s["gain_like"]
            of = 1 if like == "absolute" else before * side(before) if like == "of its size" else before
            return bool(side(before - value - gain * of) < 0)
        return bool(side(value - before) > 0)

    def batch_of(self, way, k, support):
        """The part of the support set that step k takes, or another set in its place."""
        if self.s["steps_on"] != "support":
            of_query = {"query from the second on": k > 0, "query in the last": k == way["steps"] - 1,
                        "query in every other": k % 2 == 1, "query in the first": k == 0}  # fmt: skip
            return way["query"] if of_query[self.s["steps_on"]] else support
        if self.s["step_parts"] != "whole":
            parts = PARTS_OF_STEPS[self.s["step_parts"]](support, max(self.case.inner_steps, 1))
            return parts[k // self.parts % len(parts)]
        if not self.s["minibatch"]:
            return support
        n = self.s["minibatch"]
        if self.s["minibatch_like"] == "wrapped":
            return wrapped_rows(support, k // self.parts * n, n)
        parts = PARTS_OF_N.get(self.s["minibatch_like"], chunks)(support, n)
        return parts[k // self.parts % len(parts)]

    @property
    def parts(self) -> int:
        """How many updates a step has: as many as there are tensors, if each sees those before it updated."""
        return len(self.theta) if self.s["inner"].startswith("one tensor after") else 1

    def gradient_of(self, way, k, support) -> tuple:
        """(loss, gradient) that step k descends."""
        theta, batch = self.mixed(way, len(way["theta"]) - 1, "inner"), self.batch_of(way, k, support)
        if not self.s["inner"].startswith("linearised"):
            value, g = self.updating(self.calculus, way, k).loss_and_grad(theta, batch)
            return value, self.shortened(g, "inner gradients")
        # g₀ + H₀ (θₖ − θ₀)
        start = way["theta"][0]
        value, g = self.calculus.loss_and_grad(start, batch)
        return value, _map(np.add, g, self.calculus.along(start, batch, _map(np.subtract, theta, start)))

    def updating(self, calculus, way, k) -> Calculus:
        """The calculus of step k; of code that updates its layers in the backward pass, before it goes through them."""
        within, _, layers = self.s["inner"].partition(", ")
        if within != "within the backward pass":
            return calculus
        return calculus.otherwise(updating=(("linear",) if layers else (), self.rate_in(way, k)))

    def held_names(self, which: str) -> list[str]:
        """The tensors of which the passes of the inner loop, or of the query loss, take θ's values."""
        of, place = self.s[f"{which}_start_of"], self.s[f"{which}_start_tensor"]
        return [*(group(self.case, of) if of != "nothing" else []), *([named(self.case, place)] if place else [])]

    def mixed(self, way, k, which: str) -> dict:
        """θₖ, or what a pass takes in its place."""
        held = self.held_names(which)
        return {n: way["theta"][0 if n in held else k][n] for n in way["theta"][k]} if held else way["theta"][k]

    def parted(self, v, which: str) -> tuple:
        """(What flows back to the adapted values, what flows back to θ itself; None if nothing does)."""
        held = self.held_names(which)
        if not held:
            return v, None
        return tuple({n: x if (n in held) == direct else x * 0 for n, x in v.items()} for direct in (False, True))

    def rate_in(self, way, k) -> dict:
        """α of step k, on this way."""
        alpha = self.rate_of(k, way["alpha"])
        if (gamma := self.s["rate_falls"]) and self.s["falls_like"] != "in each task":
            before = way["place"] * (way["steps"] if self.s["falls_like"] == "through all tasks" else 1)
            alpha = _map(lambda a: a * gamma**before, alpha)
        if self.s["rate_last"] and k == way["steps"] - 1:
            alpha = _map(lambda a: a * self.s["rate_last"], alpha)
        if self.s["some_steps_of"] != "nothing":
            moves = in_some_steps(self.s["some_steps"], k // self.parts, way["steps"] // self.parts)
            these = group(self.case, self.s["some_steps_of"])
            alpha = {n: a * (moves or n not in these) for n, a in alpha.items()}
        if self.s["accumulate"] and self.s["accumulate_like"] == "summed":
            alpha = _map(lambda a: a * self.s["accumulate"], alpha)
        if way["halvings"] and way["halvings"][k]:
            alpha = _map(lambda a: a / 2 ** way["halvings"][k], alpha)
        return alpha

    def rate_of(self, k, alpha) -> dict:
        """α of step k."""
        if self.parts > 1:
            k, place = divmod(k, self.parts)
            names = in_order(self.s["inner"], alpha)
            alpha = {n: a * (n == names[place]) for n, a in alpha.items()}
        share = share_of_rate(self.s["rate"], k, max(self.case.inner_steps, 1), self.number(np.float64(1)))
        if share is not None:
            alpha = _map(lambda a: a * share, alpha)
        if self.s["rate_first"] and k == 0:
            alpha = _map(lambda a: a * self.s["rate_first"], alpha)
        falls = self.s["rate_falls"] and self.s["falls_like"] != "from task to task"
        return _map(lambda a: a * self.s["rate_falls"] ** k, alpha) if falls else alpha

    def pull_back(self, cotangent, k, way, support, query) -> dict:
        """The cotangents of the state before step k: v − Hₖ A v of θ, or what the code at hand makes of it."""
        last, factors, s = len(way["theta"]) - 2, self.s["factors"], self.s
        alpha = self.rate_in(way, k)
        if factors == "updates detached":  # not even weight decay is differentiated
            return cotangent
        g = way["grad_s"][k] if k < len(way["grad_s"]) else cotangent["theta"]  # which no plain update asks for
        out, u = self.update.back(cotangent, way["state"][k], g, alpha, k)
        cut = self.detached or {
            "detached": True, "parameters detached": True, "first detached": k == 0, "last detached": k == last,
            "middle detached": 0 < k < last, "odd detached": k % 2 == 1, "even detached": k % 2 == 0,
        }.get(factors, False)  # fmt: skip
        cut = cut or bool(s["through_last"] and k <= last - s["through_last"])
        cut = cut or bool(s["through_first"] and k >= s["through_first"])
        cut = cut or bool(s["through_from"] and k < s["through_from"])
        if cut:
            return out
        if factors == "without identity":  # v ← −Hₖ A v
            out["theta"] = _map(lambda x: x * 0, out["theta"])
        linearised = s["inner"].startswith("linearised")
        at = {"at start": 0, "at end": -1, "of query at end": -1, "one step late": k + 1,
              "one step early": max(k - 1, 0)}.get(factors, 0 if linearised else k)  # fmt: skip
        of_query = factors in ("of query", "of query at end")
        batch = query if of_query else self.batch_of(way, k, support)
        if s["hessian_on"] == "both sets":
            batch = [*pieces(batch), *pieces(query)]
        if s["hessian_rows"]:
            batch = first_rows(batch, s["hessian_rows"])
        calculus = self.of_query if of_query else self.calculus
        if s["change_like"] != "in place":
            calculus = self.updating(calculus, way, k)
        # v ← v − Hₖ A v
        if s["vector"] != "what comes back":
            other = cotangent | {"theta": self.other_vector(k, way, query, cotangent["theta"])}
            _, u = self.update.back(other, way["state"][k], g, alpha, k)
        if s["derivative_weights"] != "own":
            seen = way["theta"][{"θ_K": -1, "θ": 0}.get(s["derivative_weights"], k + 1)]
            calculus = calculus.otherwise(weights=seen)
        u = self.factor(u, alpha, support)
        theta = self.mixed(way, at, "inner")
        if factors == "of rebuilt steps":
            theta = self.rebuilt(way, k, support)
        if factors == "halfway":
            theta = _map(lambda p, q: (p + q) / 2, way["theta"][k], way["theta"][k + 1])
        if s["factor_rate"] == "outside":  # A Hₖ v
            u = _map(lambda x: x * -1, cotangent["theta"])
        theta = self.shortened(theta, "points of Hessians")
        hs = [self.curved(calculus, *taken, u, alpha) for taken in self.taken_at(theta, batch, way, k, at)]
        h = hs[0] if len(hs) == 1 else _map(lambda *xs: sum(xs[1:], xs[0]) / len(xs), *hs)
        h = self.shortened(h, "products")
        if s["factor_rate"] == "outside":
            h = _map(np.multiply, h, alpha)
        if s["skip_below"] and side(dot(h, h) - dot(cotangent["theta"], cotangent["theta"]) * s["skip_below"] ** 2) < 0:
            return out
        if s["inner"] == "linearised":  # H₀ depends on θ₀; what else reaches θ₀ cancels
            away = _map(np.subtract, way["theta"][k], way["theta"][0])
            out["start"] = _map(np.add, out["start"], calculus.along_twice(way["theta"][0], batch, away, u))
        if s["blind_of"] != "nothing":
            h = {n: x * (n not in group(self.case, s["blind_of"])) for n, x in h.items()}
        if s["moving_vector"] != "held" and k == last:
            h = _map(np.add, h, self.of_moving_vector(way, k, batch, query, alpha))
        h, of_start = self.parted(h, "inner")
        if of_start is not None:
            out["start"] = _map(np.add, out["start"], of_start)
        return out | {"theta": self.shortened(_map(lambda x, y: x + y, out["theta"], h), "what comes back")}

    def taken_at(self, theta, batch, way, k, at) -> list[tuple]:
        """The point and the examples of step k's Hessian; with those of other tasks, where code has mixed them up."""
        what, _, which = self.s["hessian_on"].partition(" of ")
        if not which:
            return [(theta, batch)]
        places, of_points, of_support = self.places(which), what != "support", what != "points"
        return [(self.mixed(self.ways[t], at, "inner") if of_points else theta,
                 self.batch_of(way, k, self.tasks[t][0]) if of_support else batch) for t in places]  # fmt: skip

    def places(self, which: str) -> Iterable[int]:
        """The places of the tasks that code takes something of, in the place of the one at hand; see `OF_TASKS`."""
        t, count = self.place, len(self.tasks)
        return {"the first task": [0], "the last task": [count - 1], "the next task": [(t + 1) % count],
                "the task before": [t - 1], "all tasks": range(count)}[which]  # fmt: skip

    @functools.cached_property
    def ways(self) -> list[dict]:
        """Each task's way from θ."""
        here, ways = self.place, []
        for t, task in enumerate(self.tasks):
            self.place = t
            ways.append(self.adapt(self.theta, *task))
        self.place = here
        return ways

    def other_vector(self, k, way, query, v) -> dict:
        """What code multiplies the Hessian of step k by, in the place of v, which comes back from the steps behind."""
        which = self.s["vector"]
        if which in MIXED_UP:
            return mixed_up(v, which)
        if which.endswith("support gradient"):
            return way["grad_s"][k if which.startswith("own") else -1]
        if which == "displacement":
            return _map(np.subtract, way["theta"][0], way["theta"][-1])
        if which == "ones":
            return _map(lambda p: p * 0 + 1, way["theta"][0])
        return self.of_query.loss_and_grad(way["theta"][k if which.endswith("its step") else 0], query)[1]

    def of_moving_vector(self, way, k, batch, query, alpha) -> dict:
        """−(∂v/∂θₖ)ᵀ A g_s(θₖ) of v = g_q(θₖ₊₁), which is −(I − Hₖ A) H_q A g_s(θₖ); or −H_q A g_s(θₖ)."""
        step = _map(np.multiply, alpha, way["grad_s"][k])
        u = _map(lambda x: x * -1, self.of_query.transposed(way["theta"][k + 1], query, step))
        if self.s["moving_vector"] == "moves with θ":
            return u
        h = self.calculus.transposed(way["theta"][k], batch, _map(np.multiply, alpha, u))
        return _map(np.subtract, u, h)

    def rebuilt(self, way, k, support) -> dict:
        """θₖ, as code has it that goes back from θ_K: θₖ ← θₖ₊₁ + A g_s(θₖ₊₁)."""
        theta = way["theta"][-1]
        for j in range(len(way["theta"]) - 2, k - 1, -1):
            _, g = self.calculus.loss_and_grad(theta, self.batch_of(way, j, support))
            theta = _map(lambda p, a, x: p + a * x, theta, self.rate_in(way, j), g)
        return theta

    def factor(self, u, alpha, support) -> dict:
        """A v, or what the code at hand multiplies Hₖ by."""
        of, n = self.s["factor_rate"], count(support)
        if of in ("missing", "of the outer loop"):
            # Hₖ v; what does not adapt has no part in it
            u = _map(lambda x, a: np.where(hold(a) == 0, x, x / np.where(hold(a) == 0, 1, a)), u, alpha)
            if of != "missing":
                u = _map(lambda x: x * self.number(np.float64(self.case.outer_lr)), u)
        elif of not in ("α", "outside"):
            by = {"squared": alpha, "times examples": dict.fromkeys(u, n)}
            by["over examples"] = dict.fromkeys(u, self.number(np.float64(1)) / n)
            u = _map(np.multiply, u, by[of])
        if self.s["cut_tensor"]:
            u = {n: x * (n != named(self.case, self.s["cut_tensor"])) for n, x in u.items()}
        if self.s["through_tensor"]:
            u = {n: x * (n == named(self.case, self.s["through_tensor"])) for n, x in u.items()}
        if self.s["cut_of"] != "nothing":
            u = {n: x * (n not in group(self.case, self.s["cut_of"])) for n, x in u.items()}
        return u

    def curved(self, calculus, theta, batch, u, alpha) -> dict:
        """H u, or what the code at hand has for it."""
        if self.s["difference"]:
            return self.differences(calculus, theta, batch, u, alpha)
        product = {
            "Hessian": calculus.transposed, "block diagonal": calculus.blocks,
            "blocks of layers": functools.partial(calculus.blocks, layers=True),
            "lower triangle": functools.partial(calculus.triangle, lower=True),
            "upper triangle": functools.partial(calculus.triangle, lower=False),
            "diagonal twice": calculus.transposed, "no diagonal": calculus.transposed, "g gᵀ": calculus.outer_product,
            "g gᵀ per example": calculus.outer_products, "identity": lambda theta, batch, u: u,
            "positive part": functools.partial(calculus.of_eigenvalues, change=lambda values: np.maximum(values, 0)),
            "absolute": functools.partial(calculus.of_eigenvalues, change=np.abs), "row sums": calculus.row_sums,
        }.get(self.s["curvature"])  # fmt: skip
        if self.s["curvature"].partition(", ")[0] in MIXED_UP:
            product = functools.partial(calculus.mixed_up, change=self.s["curvature"])
        if self.s["curvature"].startswith("one tensor after"):
            product = functools.partial(calculus.in_turn, alpha=alpha, order=self.s["curvature"])
        if self.s["rank"]:
            product = functools.partial(calculus.of_eigenvalues, change=functools.partial(_largest, n=self.s["rank"]))
        h = (calculus.diagonal if self.s["factors"] == "diagonal" else product)(theta, batch, u)
        if self.s["curvature"] in ("diagonal twice", "no diagonal"):
            sign = 1 if self.s["curvature"] == "diagonal twice" else -1
            h = _map(lambda x, d: x + d * sign, h, calculus.diagonal(theta, batch, u))
        if self.s["hessian_times"]:
            h = _map(lambda x: x * self.s["hessian_times"], h)
        return _map(lambda x, y: x + y * self.s["damping"], h, u) if self.s["damping"] else h

    def differences(self, calculus, theta, batch, u, alpha) -> dict:
        """H u, u = −A v, by differences of gradients along v."""
        like, h = self.s["difference_like"], self.s["difference"]
        largest = max((np.max(hold(a)) for a in alpha.values()), default=0)
        scale = -1 if like.endswith("along α v") or not largest else -largest
        along = _map(lambda x: x / scale, u)
        if like.endswith("over |v|"):
            size = norm(along)
            h = h / size if side(size) else h
        return _map(lambda x: x * scale, calculus.difference(theta, batch, along, h, like))

    def back(self, v, end, way, support, query) -> dict:
        """The state's cotangents at the start, from v, that of θ after `end` steps: (I − H₀A) ⋯ (I − H_{end−1}A) v."""
        if self.s["product"] != "all of it" or self.s["implicit"]:
            return {"theta": self.approximated(v, end, way, support, query)}
        zeros = {n: _map(lambda x: x * 0, tree) for n, tree in way["state"][end].items()}
        shares = self.shares(way, end)
        of = lambda k: v if shares is None else _map(lambda x: x * shares[k], v)  # noqa: E731
        cotangent = zeros | {"theta": of(end)}
        passed = []
        for k in self.order(end):
            passed.append(cotangent["theta"])
            cotangent["theta"] = self.on_the_way_back(cotangent["theta"], k, len(way["theta"]) - 1)
            cotangent = self.pull_back(cotangent, k, way, support, query)
            if shares is not None:
                cotangent["theta"] = _map(np.add, cotangent["theta"], of(k))
        if self.s["returned"] != "what comes back":
            passed.append(cotangent["theta"])
            some = {"first": slice(1, None), "last": slice(-1)}.get(self.s["returned"].split()[-1], slice(None))
            cotangent["theta"] = _map(lambda x, *vs: sum(vs, x * 0), v, *passed[some])
        if "start" in cotangent:  # θ₀ is remembered
            cotangent["theta"] = _map(np.add, cotangent["theta"], cotangent["start"])
        return cotangent

    def order(self, end: int) -> list[int]:
        """The steps whose factors v is multiplied by, as they follow."""
        back = list(range(end - 1, -1, -1))
        return {
            "reversed": back[::-1], "one more at the end": [end, *back], "first twice": back + back[-1:],
            "last twice": back[:1] + back, "each twice": [k for k in back for _ in range(2)], "all twice": back + back,
        }.get(self.s["factors"], back)  # fmt: skip

    def on_the_way_back(self, v, k: int, steps: int) -> dict:
        """v before the factor of step k of so many, as a hook on the fast weights leaves it."""
        if self.s["back_times"]:
            v = _map(lambda x: x * self.s["back_times"], v)
        leaves = some_of(self.case, self.s["leaves_of"])
        if leaves and (self.s["leaves_in"] == "every step" or in_some_steps(self.s["leaves_in"], k, steps)):
            v = {n: x * (n not in leaves) for n, x in v.items()}
        if self.s["back_clip"]:
            v = clipped(v, self.s["back_clip"])
        return _map(lambda x: clamped(x, self.s["back_clamp"]), v) if self.s["back_clamp"] else v

    def approximated(self, v, end, way, support, query) -> dict:
        """What stands in the place of the product."""
        if self.s["product"] == "first order in α":
            # v − Σₖ Hₖ A v
            total = v
            for k in range(end):
                h = self.pull_back({"theta": v}, k, way, support, query)["theta"]
                total = _map(lambda t, x, y: t + (x - y), total, h, v)
            return total
        if self.detached or self.s["factors"] == "detached":
            return v
        if self.s["product"] in ("gradient flow", "implicit steps", "averaged Hessians"):
            for k in range(end - 1, -1, -1):
                v = self.other_factor(v, k, end, way, support, query)
            return v
        # (I + H/λ)⁻¹ v at θ_K
        one = _map(lambda a: a * 0 + 1, way["alpha"])
        times = 1 if self.s["product"] == "implicit, λ = 1/α" else end
        scale = _map(lambda a: a / self.s["implicit"], one) if self.s["implicit"] else _map(
            lambda a: a * times, way["alpha"])  # fmt: skip
        return self.calculus.solve(way["theta"][end], support, scale, v)

    def other_factor(self, v, k, end, way, support, query) -> dict:
        """What stands in the place of one factor I − Hₖ A."""
        minus = lambda u, k: _map(np.subtract, self.pull_back({"theta": u}, k, way, support, query)["theta"], u)  # noqa: E731
        if self.s["product"] == "averaged Hessians":
            # v − 1/K Σⱼ Hⱼ A v
            total = _map(lambda *hs: sum(hs[1:], hs[0]) / end, *(minus(v, j) for j in range(end)))
            return _map(np.add, v, total)
        if self.s["product"] == "implicit steps":
            # (I + Hₖ A)⁻¹ v
            return self.calculus.solve(way["theta"][k], support, self.rate_in(way, k), v)
        # exp(−Hₖ A) v = v − Hₖ A v + (Hₖ A)² v / 2 − …
        total, term = v, v
        for n in range(1, 60):
            term = _map(lambda x, n=n: x / n, minus(term, k))
            total = _map(np.add, total, term)
            if max(abs(float(np.max(np.abs(x)))) for x in term.values()) < 1e-18:
                break
        return total

    def task(self, theta, support, query, kept=None, statistics=None) -> tuple:
        """(L_q, the cotangents of the state at the start, the way)."""
        way = self.adapt(theta, support, query, kept)
        last, calculus = len(way["theta"]) - 1, self.of_query
        if self.s["running"] != "nothing":
            calculus = self.with_statistics(way, support, statistics)
        points = {
            "before adaptation": [0], "every step": range(1, last + 1) if last else [0],
            "every step and before": range(last + 1), "before and after": [0, last],
        }.get(self.s["query"], [last])  # fmt: skip
        way["best"] = self.best_of(way, support, query)
        terms = [(calculus, query, end, weight) for end, weight in self.weighted(points)]
        terms += [(c, batch, end, self.s[name]) for name, c, batch, end in (
            ("support_weight", self.calculus, support, last), ("support_before_weight", self.calculus, support, 0),
            ("query_before_weight", calculus, query, 0)) if self.s[name]]  # fmt: skip
        if c := self.s["support_way_weight"]:
            over = max(last, 1) if self.s["support_way_like"] == "averaged" else 1
            terms += [(self.calculus, support, end, c / over) for end in range(last)]
        total, value = None, 0
        for of, batch, end, weight in terms:
            at = max(end - 1, 0) if self.s["query"] == "one step early" else end
            loss, v = of.loss_and_grad(self.judged(way, at), batch)
            v = self.shortened(v, "query gradients") if batch is query else v
            if end == last and batch is query:
                way |= {"loss_q": loss, "grad_q": v}
            if batch is query and self.s["query_gradient"] != "own":
                v = self.other_query_gradient(v, of, way, at, query)
            adapted, of_start = self.parted(v, "query")
            cotangent = self.back(adapted, end, way, support, query)
            if of_start is not None:
                cotangent["theta"] = _map(np.add, cotangent["theta"], of_start)
            if batch is query and self.s["running"] != "nothing" and self.s["running_like"] == "differentiated":
                by_statistics = self.through_statistics(way, of, support, query)
                cotangent["theta"] = _map(np.add, cotangent["theta"], by_statistics)
            if batch is query and self.s["query_gradient"].endswith("less itself"):
                cotangent["theta"] = _map(np.subtract, cotangent["theta"], way["grad_q"])
            if share := self.s["second_order_share"]:
                cotangent["theta"] = _map(lambda x, y, c=share: x * c + y * (1 - c), cotangent["theta"], v)
            cotangent = {n: _map(lambda x, w=weight: x * w, c) for n, c in cotangent.items()}
            total = cotangent if total is None else {n: _map(np.add, t, cotangent[n]) for n, t in total.items()}
            value = value + loss * weight
        if c := self.s["outer_proximal"]:
            # ½ λ |θ_K − θ|²
            away = _map(np.subtract, way["theta"][last], theta)
            through = self.back(away, last, way, support, query)["theta"]
            total["theta"] = _map(lambda t, x, y: t + (x - y) * c, total["theta"], through, away)
            value = value + dot(away, away) * c / 2
        n, over = count(query), 1
        if self.s["loss"] != "right":
            of = {"examples": n * n, "one less": max(n - 1, 1), "support count": count(support)}
            over = self.number(np.float64(of[self.s["loss"].removeprefix("query over ")])) / n
        value, total = value / over, {n: _map(lambda x: x / over, t) for n, t in total.items()}
        if self.s["factors"] == "parameters detached":
            total["theta"] = _map(lambda x: x * 0, total["theta"])
        return value, total, way

    def other_query_gradient(self, g, calculus, way, at, query) -> dict:
        """What goes back from the query loss, in the place of g, its gradient at the adapted parameters."""
        what, theta = self.s["query_gradient"], self.judged(way, at)
        if what in MIXED_UP:
            return mixed_up(g, what)
        if what == "on top of the task before's":
            return g if self.before is None else _map(np.add, g, self.before)
        if "H_q" not in what:
            points, _, which = what.rpartition("of ")
            gs = [calculus.loss_and_grad(self.judged(self.ways[t], at), query if points else self.tasks[t][1])[1]
                  for t in self.places(which)]  # fmt: skip
            return gs[0] if len(gs) == 1 else _map(lambda *xs: sum(xs[1:], xs[0]) / len(xs), *gs)
        # ∇⟨w, ∇L_q⟩, w = θ_K or the like
        w = g if "itself" in what and "less" not in what else theta
        w = _map(np.subtract, theta, way["theta"][0]) if "(θ_K − θ)" in what else w
        h = calculus.transposed(theta, query, w)
        return _map(np.add, g, h) if what.startswith("plus") else h

    def weighted(self, points) -> list[tuple]:
        """The steps after which the query loss is taken, each with its weight."""
        one, gamma, points = self.number(np.float64(1)), self.s["query_decay"], list(points)
        if not gamma:
            return [(end, one / len(points)) for end in points]
        # γ^(K − k) of step k = 1 … K, or that over their sum
        last = points[-1]
        weights = {end: one * gamma ** (last - end) for end in range(min(last, 1), last + 1)}
        whole = sum(weights.values()) if self.s["weights_like"] == "summing to 1" else 1
        return [(end, w / whole) for end, w in weights.items()]

    def best_of(self, way, support, query) -> int:
        """The step after which the loss of one of the sets is least."""
        if not self.s["iterates"].startswith("best"):
            return 0
        of = (self.calculus, support) if self.s["iterates"] == "best on support" else (self.of_query, query)
        losses = [float(hold(of[0].loss_and_grad(theta, of[1])[0])) for theta in way["theta"]]
        return losses.index(min(losses))

    def shares(self, way, end: int) -> list | None:
        """How much of each of θ₀ … θ_end is in the parameters that are judged; None: these are θ_end."""
        which, mu, one = self.s["iterates"], self.s["iterate_decay"], self.number(np.float64(1))
        if which.startswith("best"):
            return [one * (k == way["best"]) for k in range(end + 1)]
        if (c := self.s["judged_share"]) and end:
            return [one - c, *[one * 0] * (end - 1), one * c]
        if mu:
            # θ̄ ← μ θ̄ + (1 − μ) θₖ, from θ̄ = θ₀
            return [(one * mu**end if k == 0 else (one - mu) * mu ** (end - k)) for k in range(end + 1)]
        if which == "last" or end == 0:
            return None
        first, stop = which == "all but the first", end + (which != "all but the last")
        return [one / (stop - first) * (first <= k < stop) for k in range(end + 1)]

    def judged(self, way, end: int) -> dict:
        """θ_end, or the mean of the iterates that stands in its place."""
        shares, thetas = self.shares(way, end), way["theta"]
        if shares is None:
            return self.mixed(way, end, "query")
        return _map(lambda *ps: sum(p * c for p, c in zip(ps, shares, strict=True)), *thetas[: end + 1])

    def with_statistics(self, way, support, before):
        """The query's calculus, with batch norm's running statistics after the passes over the support set."""
        how, m = self.of_query.how, self.s["running_momentum"] or self.number(np.float64(0.1))
        running = dict(before or {})
        for theta, piece in itertools.product(self.passes(way), pieces(support)):
            for name, (mean, variance, n) in batch_statistics(self.case.model, theta, piece[0], how).items():
                if self.s["running"] == "unbiased" and n > 1:
                    variance = variance * n / (n - 1)
                old = running.get(name, (mean * 0, mean * 0 + 1))
                # r ← (1 − m) r + m · the batch's
                running[name] = tuple(r * (1 - m) + x * m for r, x in zip(old, (mean, variance), strict=True))
        way["running"] = running
        if not running:
            how = dataclasses.replace(how, running_statistics=True)
        return Calculus(self.case.model, dataclasses.replace(how, statistics=running), self.of_query.number)

    def passes(self, way) -> list[dict]:
        """The parameters of the passes over the support set that leave running statistics."""
        return way["theta"][: 1 if self.s["running_of"] == "the first pass" else -1]

    def through_statistics(self, way, calculus, support, query) -> dict:
        """What reaches θ from the query loss by the running statistics."""
        of, how, m = calculus.of_statistics(way["theta"][-1], query), self.of_query.how, self.s["running_momentum"]
        m, total = m or self.number(np.float64(0.1)), _map(lambda p: p * 0, way["theta"][0])
        passes = list(itertools.product(range(len(self.passes(way))), pieces(support)))
        for i, (k, piece) in enumerate(passes):
            # r = Σ m (1 − m)ⁿ · the batch's, n passes before the last
            share = m * (1 - m) ** (len(passes) - 1 - i)
            counts = {
                name: n for name, (_, _, n) in batch_statistics(self.case.model, way["theta"][k], piece[0], how).items()
            }
            more = {name: n / (n - 1) if self.s["running"] == "unbiased" and n > 1 else 1 for name, n in counts.items()}
            c = {name: (mean * share, variance * share * more[name]) for name, (mean, variance) in of.items()}
            v = back_from_statistics(self.case.model, way["theta"][k], piece[0], c, how)
            total = _map(np.add, total, self.back(v, k, way, support, query)["theta"])
        return total

    # ── all tasks ───────────────────────────────────────────────────────────────────────────────────────────────────

    def result(self) -> Result:
        if self.s["ends"] == "averaged":
            return self.averaged()
        if self.s["normalised_together"] != "nothing":
            return self.normalised_together()
        theta, beta, kept, statistics = self.theta, self.number(np.float64(self.case.outer_lr)), None, None
        beta = self.s["outer_rate"] or beta
        values, gradients, ways, moments = [], [], [], None
        for t, (support, query) in enumerate(self.tasks):
            self.place = t
            self.detached = not in_tasks(self.s["second_order"], t, len(self.tasks))
            of_one = functools.partial(self.of_one, theta, support, query, kept, statistics)
            if self.known is None or kept or statistics:
                value, cotangent, way = of_one()
            else:
                value, cotangent, way = remembered(self.known, (t, self.detached, *bits_of(*theta.values())), of_one)
            self.before = cotangent["theta"]
            g = self.shortened(self.of_task(cotangent["theta"], way, support, query), "task gradients")
            g = self.through_tasks_before(g, cotangent, ways)
            values.append(value)
            gradients.append(g)
            ways.append(way)
            if self.s["kept"].startswith("moments"):
                kept = {n: way["state"][-1][n] for n in ("m", "v") if n in way["state"][-1]}
            if self.s["kept"] == "running statistics":
                statistics = way.get("running")
            if self.s["start"] != "right" or self.s["outer"] == "moved":
                leaks = group(self.case, self.s["start_of"])
                theta = {n: hold(x) if n in leaks else theta[n] for n, x in way["theta"][-1].items()}
            if self.s["outer"] in ("sequential", "moved"):
                # θ ← θ − β Gₜ
                theta = _map(lambda p, x: p - x * beta, theta, g)
            if self.s["outer"] == "sequential, Adam":
                theta, moments = self.adam(theta, g, beta, moments)
        return Result(*self.together(values, gradients, theta, beta), ways)

    def through_tasks_before(self, g, cotangent, ways):
        """What reaches θ by what the tasks before have left, if the graph goes on through them."""
        if self.s["start"] == "leaked" or self.s["ways"] != "one per task":
            here = self.place if self.s["ways"].endswith("on this support set") else None
            for t in range(len(ways) - 1, -1, -1):
                task = self.tasks[t if here is None else here]
                g = self.back(g, len(ways[t]["theta"]) - 1, ways[t], *task)["theta"]
        if self.s["kept"] == "moments" and self.s["factors"] not in ("detached", "parameters detached"):
            for t in range(len(ways) - 1, -1, -1):
                end = len(ways[t]["theta"]) - 1
                zeros = {n: _map(lambda x: x * 0, tree) for n, tree in ways[t]["state"][end].items()}
                cotangent = zeros | {n: c for n, c in cotangent.items() if n in ("m", "v")}
                for k in range(end - 1, -1, -1):
                    cotangent = self.pull_back(cotangent, k, ways[t], *self.tasks[t])
                g = _map(np.add, g, cotangent["theta"])
        return g

    @staticmethod
    def adam(theta, g, beta, before):
        """θ after a step of Adam, whose moments start from zero; (θ, moments)."""
        t, m, v = before or (0, _map(lambda x: x * 0, g), _map(lambda x: x * 0, g))
        m, v = _map(lambda a, x: a * 0.9 + x * 0.1, m, g), _map(lambda a, x: a * 0.999 + x * x * 0.001, v, g)
        t, of_m, of_v = t + 1, 1 - 0.9 ** (t + 1), 1 - 0.999 ** (t + 1)
        step = _map(lambda a, b: a / of_m / (np.sqrt(np.asarray(b / of_v)) + 1e-8), m, v)
        return _map(lambda p, x: p - x * beta, theta, step), (t, m, v)

    def averaged(self) -> Result:
        """θ_K averaged over the tasks, and each task's query loss of that."""
        ways = [self.adapt(self.theta, *task) for task in self.tasks]
        count = len(ways)
        middle = _map(lambda *ps: sum(ps[1:], ps[0]) / count, *(way["theta"][-1] for way in ways))
        values, grads = zip(*(self.of_query.loss_and_grad(middle, q) for _, q in self.tasks), strict=True)
        v = _map(lambda *gs: sum(gs[1:], gs[0]) / count, *grads)
        back = [self.back(v, len(way["theta"]) - 1, way, *task)["theta"]
                for way, task in zip(ways, self.tasks, strict=True)]  # fmt: skip
        return Result(*self.together(list(values), back, self.theta, self.number(np.float64(1))), ways)

    def normalised_together(self) -> Result:
        """All tasks side by side, with one batch norm over them: θₖ and gradients are {(name, task): array}."""
        places = range(len(self.tasks))
        of_support, of_query = ([task[i] for task in self.tasks] for i in (0, 1))
        in_support, in_query = (SideBySide(c.model, c.how, c.number, self.s["normalised_together"] in ("both", which))
                                for c, which in ((self.calculus, "support"), (self.of_query, "query")))  # fmt: skip
        alpha = {(n, t): a for t in places for n, a in self.rates_on(*self.tasks[t]).items()}
        thetas = [{(n, t): p for t in places for n, p in self.theta.items()}]
        for _ in range(self.case.inner_steps):
            _, g = in_support.loss_and_grad(thetas[-1], of_support)
            thetas.append(_map(lambda p, a, x: p - a * x, thetas[-1], alpha, g))
        values, v = in_query.loss_and_grad(thetas[-1], of_query)
        for theta in [] if self.s["factors"] == "detached" else thetas[-2::-1]:
            v = _map(np.add, v, in_support.along(theta, of_support, _map(lambda a, x: a * x * -1, alpha, v)))
        grads = [{n: v[n, t] for n in self.theta} for t in places]
        return Result(*self.together(list(values), grads, self.theta, self.number(np.float64(1))), [])

    def of_one(self, theta, support, query, kept, statistics) -> tuple:
        """What `task` gives, or no inner loop at all."""
        return self.joint(theta, support, query) or self.task(theta, support, query, kept, statistics)

    def joint(self, theta, support, query):
        """No inner loop: the gradient of both losses."""
        if self.s["data"] != "joint":
            return None
        (a, g), (b, h) = self.calculus.loss_and_grad(theta, support), self.of_query.loss_and_grad(theta, query)
        way = {"theta": [theta], "loss_s": [a], "grad_s": [g], "loss_q": b, "grad_q": h, "state": [{"theta": theta}]}
        return a + b, {"theta": _map(np.add, g, h)}, way

    def of_task(self, g, way, support, query):
        what = self.s["result"]
        if what == "displacement":  # Reptile: θ − θ_K
            return _map(np.subtract, way["theta"][0], way["theta"][-1])
        if what.endswith(("support gradient", "support gradients")):
            grads = self.left(what, way["grad_s"])
            over = max(len(grads), 1) if what.startswith("mean") else 1
            return _map(lambda x, *gs: sum(gs, x * 0) / over, g, *grads)
        if what.removesuffix(" over T") in ("accumulated", "last accumulated", "first accumulated"):
            # .grad holds inner gradients too
            over = self.case.tasks if what.endswith("T") else 1
            for inner in self.left(what, way["grad_s"]):
                g = _map(lambda x, y: x + y * over, g, inner)
        if what.startswith("accumulated with graph"):  # each went back to θ
            over = self.case.tasks if what.endswith("T") else 1
            for step, inner in enumerate(way["grad_s"]):
                back = self.back(inner, step, way, support, query)["theta"]
                g = _map(lambda x, y, c=over: x + y * c, g, back)
        return g

    @staticmethod
    def left(what: str, grads: list) -> list:
        """The inner gradients that are meant."""
        return grads[-1:] if what.startswith("last") else grads[:1] if what.startswith("first") else grads

    def together(self, values, gradients, theta, beta):
        one = self.number(np.float64(1))
        value, grads = together(self.s, values, gradients, self.case, one, (self.theta, theta, beta))
        rates = lambda: self.rates_on(*self.tasks[0])  # noqa: E731
        return value, finished(self.s, grads, self.theta, self.case, rates)
