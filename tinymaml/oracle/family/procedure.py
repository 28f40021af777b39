"""The common parts of all algorithms of the family: the tasks, the switches, derivatives, and the mean over tasks.

An algorithm's module has either

    query_loss(at, meta, support, query) → (L_q, θ_K)      and G is its derivative, taken forwards, number by number; or
    gradient(at, meta, support, query) → (L_q, θ_K, G)     where G is a formula, and not the derivative of anything

Both are written once, and run over any numbers: floats, rationals and balls (`ByHand`, first-order code by hand), and
the engine's tensors (`ByEngine`). `at` is what they compute with. A derivative is stopped by `at.hold`, so that most
mistakes are a `hold` too many, or another line chosen by a switch, `at.s[name]`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from ... import engine
from ..arithmetic import as_numbers, hold, side
from ..mistakes.calculus import Calculus
from ..mistakes.data import (
    DATA,
    PARTS_OF_N,
    PARTS_OF_STEPS,
    chunks,
    count,
    first_rows,
    pieces,
    rows_after,
    whole_batches,
    wrapped_rows,
)
from ..mistakes.outcome import group, named, some_of
from ..mistakes.switches import SWITCHES as OF_MAML
from ..mistakes.updates import MIXED_UP, TRANSFORMED, Update, clamped, in_order, in_some_steps, share_of_rate
from ..models import NumPy, Options, loss_in

GROUPS = ("biases", "no biases", "head", "body", "first layer", "vectors", "matrices")  # of `outcome.group`

# The switches that every algorithm has: the values of each, the right one first; where that is 0.0, any number. Names
# and values are those of `mistakes.switches`, whose mistakes can then be made here too.
SWITCHES: dict[str, tuple] = {
    "data": tuple(name for name in DATA if name != "joint"),
    "steps": (0, 1, -1),
    "data_eps": (0.0,),
    "support_rows": (0.0,), "query_rows": (0.0,), "support_skipped": (0.0,), "query_skipped": (0.0,),
    "support_batches": (0.0,), "query_batches": (0.0,), "support_chunks": (0.0,), "query_chunks": (0.0,),
    "minibatch": (0.0,), "minibatch_like": ("in turn", "wrapped", *PARTS_OF_N), "step_parts": tuple(PARTS_OF_STEPS),
    "on": ("both", "support", "query"),
    "step_count": (0.0,), "step_limit": (0.0,), "stop_below_norm": (0.0,), "stop_below_loss": (0.0,),
    "steps_in": ("every task", "the first task", "all but the first", "the last task", "a step more per task"),
    "steps_on": ("support", "query from the second on", "query in the last", "query in every other",
                 "query in the first"),
    # the direction of an inner step, by `Update`
    "inner": ("right", "stale", "restarted", "ascent", "summed over examples", "summed", "sign",
              "normalised", "normalised, root", "tensors normalised", "over own size", "centralised",
              *MIXED_UP, "first row held", "first column held", "0 where θ < 0",
              "one step behind", "averaged with the one before",
              "adam", "adam, biased", "adam, ε inside", "adam, β₁ = 0", "rmsprop", "rmsprop, ε inside", "adagrad",
              "one tensor after the other", "one tensor after the other, last first",
              "one tensor after the other, by name", "one tensor after the other, with its graph"),
    "momentum": (0.0,), "momentum_like": ("heavy ball", "averaged", "nesterov", "dampened after the first"),
    "kept": ("nothing", "moments", "moments, detached"),
    "adam_first": (0.0,), "adam_second": (0.0,), "square_decay": (0.0,), "adaptive_eps": (0.0,),
    "decay": (0.0,), "decay_like": ("in the gradient", "decoupled", "without α"), "decay_of": ("all", *GROUPS),
    "momentum_of": ("all", *GROUPS), "clip_of": ("all", *GROUPS),
    "proximal": (0.0,), "fast_clamp": (0.0,),
    "clip_inner": (0.0,), "clip_inner_tensor": (0.0,), "clip_inner_value": (0.0,), "inner_threshold": (0.0,),
    "threshold_like": ("hard", "soft"), "change_like": ("differentiated", "scale held", "in place"),
    "frozen_tensor": (0.0,), "only_tensor": (0.0,),
    # the parameters whose values are θ's, not the adapted ones, in the inner loop's passes, or in the query's
    "inner_start_of": ("nothing", *GROUPS), "inner_start_tensor": (0.0,),
    "query_start_of": ("nothing", *GROUPS), "query_start_tensor": (0.0,),
    "adapts": ("right", *GROUPS),
    "some_steps_of": ("nothing", *GROUPS),
    "some_steps": ("the first", "the last", "all but the first", "all but the last"),
    # its length
    "rate": ("right", "times examples", "times elements", "over examples", "over steps", "over tasks",
             "over each step", "over the root of each step", "over the steps so far", "linear fall", "linear rise",
             "cosine",
             "of the outer loop", "over one less", "over query count", *TRANSFORMED),
    "rate_last": (0.0,),
    "rate_is": (0.0,), "rate_times": (0.0,), "rate_times_of": ("all", *GROUPS), "rate_decimals": (0.0,),
    "rate_falls": (0.0,), "rate_first": (0.0,),
    # the derivative through it, and the query loss
    "start": ("right", "leaked", "leaked, detached", "leaked, in place"), "start_of": ("all", *GROUPS),
    "factors": ("right", "detached", "first detached", "last detached", "parameters detached", "updates detached",
                "middle detached", "odd detached", "even detached", "without identity",
                "at start", "at end", "one step late", "one step early", "halfway", "reversed", "of query",
                "of query at end"),
    # the Hessian of each step; see `_bent`
    "hessian_on": ("support", "support of the first task", "support of the last task", "both sets"),
    "hessian_rows": (0.0,),
    "factor_rate": ("α", "missing", "squared", "times examples", "over examples"),
    "curvature": ("Hessian", "diagonal", "lower triangle", "upper triangle", "diagonal twice", "no diagonal",
                  "block diagonal", "g gᵀ", "identity", "positive part", "absolute", "row sums"),
    "product": ("all of it", "first order in α"), "damping": (0.0,), "back_times": (0.0,),
    "cut_of": ("nothing", *GROUPS), "blind_of": ("nothing", *GROUPS),
    "leaves_of": ("nothing", *GROUPS, "one-dimensional"),
    "leaves_in": ("every step", "the last", "the first"), "through_from": (0.0,),
    "through_last": (0.0,), "through_first": (0.0,), "cut_tensor": (0.0,), "through_tensor": (0.0,),
    "hessian_times": (0.0,), "second_order": OF_MAML["second_order"],
    "query_decay": (0.0,), "weights_like": ("summing to 1", "from 1"), "query_before_weight": (0.0,),
    "support_weight": (0.0,), "support_before_weight": (0.0,), "outer_proximal": (0.0,),
    "support_way_weight": (0.0,), "support_way_like": ("summed", "averaged"), "judged_share": (0.0,),
    "iterates": ("last", "all", "all but the first", "all but the last"), "iterate_decay": (0.0,),
    "query loss": ("right", "over examples"), "loss": ("right", "query over one less", "query over support count"),
    "query": ("right", "one step early", "before adaptation", "every step", "every step and before",
              "before and after"),
    "outer": ("mean", "sum", "last", "first", "last over T", "first over T", "sequential",
              "weighted by examples", "median", "lower median", "worst", "each normalised", "log of each",
              "root mean square", "over T in turn", "over its number",
              "all but the first", "all but the last", "all but the first, over T", "all but the last, over T",
              "projected", "projected, summed", "where signs agree"),
    "outer_momentum": (0.0,), "outer_momentum_like": ("from 0", "from the first"),
    "task_count": (0.0,), "tilt": (0.0,), "clip_task": (0.0,),
    "task_chunks": (0.0,), "task_chunks_like": OF_MAML["task_chunks_like"],
    # what backward() in the inner loop has left in .grad
    "left": ("nothing", "first", "last", "all", "first over T", "last over T", "all over T",
             "with graph over T"),
    "outer_times": (0.0,), "outer_times_of": ("all", *GROUPS), "zero_tensor": (0.0,), "only_result_tensor": (0.0,),
    "outer_rate": (0.0,), "outer_decay": (0.0,), "outer_shift": (0.0,), "outer_sign": (0.0,),
    "result": ("gradient", "accumulated", "doubled", "negative", "last parameter zero", "biases zero", "normalised",
               "times inner rate", "head zero", "body zero", "sign", "first layer zero", "no biases zero",
               "vectors zero", "matrices zero", *MIXED_UP, "over steps", "over tasks", "over inner rate"),
    "clip": (0.0,), "clip_tensor": (0.0,), "clamp": (0.0,), "clip_like": ("exact", "torch"),
}  # fmt: skip

# Ids of what can go wrong in any inner loop of gradient steps that is differentiated through (see `EVERYWHERE`).
PLAIN = (
    "fomaml", "zero_gradient", "first_step_detached", "last_step_detached", "query_before_adaptation",
    "multi_step_loss", "one_step_more", "one_step_less", "stale_gradient", "restarted_steps", "inner_ascent",
    "alpha_times_n", "task_leak", "query_is_support", "support_is_query", "swapped_support_query", "sum_over_tasks",
    "last_task_only", "first_task_only", "gradients_accumulated", "doubled_gradient", "negated_gradient",
)  # fmt: skip

H = 1e-100  # of the complex step; its square is 0


class ByHand:
    """Losses, gradients and Hessian-vector products of a case's model by hand, over numbers made by `number`."""

    def __init__(
        self, case, number: Any = float, switches: dict | None = None, how: Options = Options(),  # noqa: B008
        known: dict | None = None,
    ):  # fmt: skip
        self.case, self.s, self.memory, self.how = case, switches or {}, {}, how
        self.number = lambda x: as_numbers(x, number)
        self.holding = lambda value: value  # what becomes of a value that is held; see `answers.differences`
        self.tasks: list[tuple] = []  # with the place of the one at hand; see `answers.losses`
        self.place = 0
        right, changed = (Calculus(case.model, options, number, known) for options in (Options(), how))
        on = self.s.get("on", "both")
        self._calculus, self._of_query = right if on == "query" else changed, right if on == "support" else changed

    @property
    def steps(self) -> int:
        """K, as the code at hand has it."""
        steps = int(self.s["step_count"]) or max(self.case.inner_steps + self.s["steps"], 0)
        steps, t, last = min(steps, int(self.s["step_limit"]) or steps), self.place, self.case.tasks - 1
        counts = {"the first task": t == 0, "all but the first": t > 0, "the last task": t == last}
        if self.s["steps_in"] == "a step more per task":
            return steps + t
        return steps if counts.get(self.s["steps_in"], True) else 0

    def loss_and_grad(self, theta: dict, batch: tuple) -> tuple:
        """(L(θ), {name: ∂L/∂θ}); the gradient may be differentiated, too."""
        return self._calculus.loss_and_grad(theta, batch)

    def query_loss_and_grad(self, theta: dict, batch: tuple) -> tuple:
        """The same of the query loss; under the switch "on" the model's Options may be about one of the two."""
        value, g = self._of_query.loss_and_grad(theta, batch)
        if self.s["query loss"] == "over examples":
            rows = count(batch)
            return value / rows, {n: x / rows for n, x in g.items()}
        if self.s["loss"] != "right":  # the mean, with another count below
            rows = count(batch)
            of = {"query over one less": max(rows - 1, 1), "query over support count": count(self.memory["support"])}
            share = self.number(np.float64(rows)) / of[self.s["loss"]]
            return value * share, {n: x * share for n, x in g.items()}
        return value, g

    def along(self, theta: dict, batch: tuple, v: dict) -> dict:
        """H v, the product of the Hessian with a direction; not to be differentiated again."""
        return self._calculus.along(theta, batch, v)

    def map(self, f: Callable, *trees: dict) -> dict:
        """{name: f(of that name in each tree)}."""
        return {n: np.asarray(f(*(t[n] for t in trees))) for n in trees[0]}

    def hold(self, x):
        """A value without its derivative; of a tree, of all in it."""
        return {n: self.hold(v) for n, v in x.items()} if isinstance(x, dict) else self.holding(hold(x)[()])

    def root(self, x):
        """√x, of a number or an array."""
        x = np.asarray(x)[()]
        return x.sqrt() if hasattr(x, "sqrt") else np.sqrt(x)

    def solve(self, columns: list, b):
        """x of A x = b, A given by its columns; exact over exact numbers."""
        a = np.stack(columns, 1)
        return np.linalg.solve(a, b) if a.dtype != object else _eliminated(a, b)


def _eliminated(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Gauss and Jordan's elimination, with the largest pivot (a ball's size is that of its middle)."""
    a, b, n = np.array(a), np.array(b), len(b)
    for k in range(n):
        pivot = k + int(np.argmax([abs(float(x)) for x in a[k:, k]]))
        a[[k, pivot]], b[[k, pivot]] = a[[pivot, k]], b[[pivot, k]]
        for i in range(n):
            if i != k:
                factor = a[i, k] / a[k, k]
                a[i], b[i] = a[i] - factor * a[k], b[i] - factor * b[k]
    return b / np.diagonal(a)


class ByEngine:
    """The same with the engine: tensors, whose gradients are recorded."""

    def __init__(self, case, switches: dict):
        self.case, self.s, self.memory, self.tasks, self.place = case, switches, {}, [], 0
        self.number = lambda x: np.asarray(x) if np.asarray(x).dtype.kind in "iu" else np.asarray(x, np.float64)
        self._loss = loss_in(NumPy(), case.model)

    steps = ByHand.steps

    def loss_and_grad(self, theta, batch):
        return engine.value_and_grad(self._loss)(theta, *batch)

    query_loss_and_grad = loss_and_grad

    def total_slope(self, theta, batch, x):
        """dL/dx of a tensor x of θ, through the others that were made of it since, too: what `autograd.grad` gives."""
        value = self._loss(theta, *batch)
        active, _ = engine.between([x], [value])
        slopes: dict[int, Any] = {value.index: np.ones(())}
        for z in (active[i] for i in sorted(active, reverse=True) if i != x.index):
            g = slopes.pop(z.index, None)
            for i, y in enumerate([] if g is None else z.inputs):
                if isinstance(y, engine.Tensor) and y.index in active:
                    # ȳ ← ȳ + ruleᵢ(z̄)
                    share = z.primitive.vjp[i](g, z, *z.inputs, **z.params)
                    slopes[y.index] = slopes[y.index] + share if y.index in slopes else share
        return slopes.get(x.index, x * 0)

    def along(self, theta, batch, v):
        return engine.hvp(lambda theta: self._loss(theta, *batch), (theta,), v)

    def map(self, f, *trees):
        return {n: f(*(t[n] for t in trees)) for n in trees[0]}

    def hold(self, x):
        return {n: engine.stop_gradient(v) for n, v in x.items()} if isinstance(x, dict) else engine.stop_gradient(x)

    def root(self, x):
        return np.sqrt(x)

    def solve(self, columns, b):
        return np.linalg.solve(np.stack(columns, 1), b)


AFFORDABLE = 10  # updates of tensors, each of which goes back through those before it: some threefold work for each


class Unaffordable(Exception):
    """There are too many updates."""


# ── what algorithms are made of ─────────────────────────────────────────────────────────────────────────────────────


def descend(
    at, theta: dict, support: tuple | Callable, step: Callable, whole: Callable = lambda theta, k: theta,
    pull: Callable | None = None, own: Callable = lambda theta, k: theta,
) -> list[dict]:  # fmt: skip
    """θ₀ … θ_K of an inner loop, θₖ₊₁ = step(k, θₖ, g_s(θₖ)).

    Args:
        support: a batch, or `support(k)` → that of step k.
        step: called with some of the tensors alone where they are updated one after the other.
        whole: `whole(θₖ, k)` → the parameters that the model takes at step k; the gradient is theirs, by name.
        pull: `pull(θₖ)` → what is added to the gradient.
        own: `own(θₖ, k)` → what of θₖ the gradient of step k is of, in its shapes.
    """
    if at.s["start"].startswith("leaked") and "adapted" in at.memory:
        left = at.memory["adapted"]
        left = left if at.s["start"] == "leaked" else at.hold(left)
        if at.s["start"] == "leaked, in place":  # of which the gradient is taken, as of θ
            left = {n: left[n] + (p - at.hold(p)) if n in left else p for n, p in theta.items()}
        leaks = theta if at.s["start_of"] == "all" else group(at.case, at.s["start_of"])
        theta = {n: left[n] if n in leaks else p for n, p in theta.items()}
    path, g, direction = [theta], None, _Direction(at, own(theta, 0))
    at.memory |= {"support losses": [], "support gradients": [], "support": support}
    seen = functools.partial(_seen, at, "inner")

    def moved(k, point, before, g):
        """θₖ₊₁ of the tensors in `before`, with the gradient g at `point`."""
        g = g if pull is None else at.map(lambda g, p: g + p, g, pull(before))
        before = at.hold(before) if at.s["factors"] == "without identity" else before
        return _shortened(at, k, before, step(k, *direction(k, own(point, k), before, g)))

    for k in range(at.steps):
        before = theta if at.s["inner"] == "restarted" else path[-1]
        batch = support(k) if callable(support) else _part(at, k, support)
        if at.s["inner"].startswith("one tensor after the other"):
            point = dict(path[-1])
            for n in in_order(at.s["inner"], point):
                if at.s["inner"].endswith("with its graph"):
                    if at.steps * len(point) > AFFORDABLE:
                        raise Unaffordable
                    g = {n: at.total_slope(whole(point, k), batch, point[n])}
                else:
                    g = support_gradient(at, whole(point, k), batch, k, {n: point[n]})
                point |= moved(k, point, {n: before[n]}, g)
            path.append(point)
            continue
        if g is None or at.s["inner"] != "stale":
            g = support_gradient(at, whole(seen(path), k), batch, k, path[-1])
            if _ends(at, g):
                break
        path.append(moved(k, path[-1], before, g))
        leaves = some_of(at.case, at.s["leaves_of"])
        if leaves and (at.s["leaves_in"] == "every step" or in_some_steps(at.s["leaves_in"], k, at.steps)):
            path[-1] = {n: at.hold(p) if n in leaves else p for n, p in path[-1].items()}
        if c := at.s["back_times"]:
            path[-1] = _times(at, path[-1], c)
    at.memory["adapted"], at.memory["moments kept"] = path[-1], direction.kept
    return path


def query_of(at) -> tuple:
    """The query set of the task at hand, as the loss takes it."""
    return at.memory.get("query", at.tasks[at.place][1])


def _seen(at, which: str, path: list[dict]) -> dict:
    """The last of the path, with θ's values of the tensors of which a pass ("inner", "query") does not see others."""
    of, place = at.s[f"{which}_start_of"], at.s[f"{which}_start_tensor"]
    if of == "nothing" and not place:
        return path[-1]
    held = [*(group(at.case, of) if of != "nothing" else []), named(at.case, int(place))]
    return {n: path[0][n] if n in held else p for n, p in path[-1].items()}


def _times(at, x: dict, c) -> dict:
    """x, with its derivative multiplied by c."""
    return at.map(lambda x: at.hold(x) + (x - at.hold(x)) * c, x)


def _ends(at, g: dict | None) -> bool:
    """Whether the inner loop ends before its next step, of which g is the gradient: it is short, or its loss is."""
    norm, loss = at.s["stop_below_norm"], at.s["stop_below_loss"]
    if g is None or not norm and not loss:
        return False
    return bool(norm and side(dot(g, g) - norm * norm) < 0 or loss and side(at.memory["support losses"][-1] - loss) < 0)


def _part(at, k: int, support):
    """The part of the support set that step k takes, or another set in its place."""
    if at.s["steps_on"] != "support":
        of_query = {"query from the second on": k > 0, "query in the last": k == at.steps - 1,
                    "query in every other": k % 2 == 1, "query in the first": k == 0}  # fmt: skip
        return query_of(at) if of_query[at.s["steps_on"]] else support
    if at.s["step_parts"] != "whole":
        parts = PARTS_OF_STEPS[at.s["step_parts"]](support, max(at.case.inner_steps, 1))
        return parts[k % len(parts)]
    if not (n := int(at.s["minibatch"])):
        return support
    if at.s["minibatch_like"] == "wrapped":
        return wrapped_rows(support, k * n, n)
    parts = PARTS_OF_N.get(at.s["minibatch_like"], chunks)(support, n)
    return parts[k % len(parts)]


class _Direction:
    """What the code at hand's optimiser makes of a gradient (momentum, Adam, weight decay), and keeps for later."""

    def __init__(self, at, start: dict):
        self.at, self.start, self.update = at, start, Update(at.s, float, functools.partial(group, at.case))
        self.kept: dict[str, tuple] = {}  # the moments, by tensor
        if at.s["kept"] != "nothing":
            before = at.memory.get("moments kept", {})
            self.kept = {n: tuple(map(at.hold, m)) for n, m in before.items()} if "detached" in at.s["kept"] else before

    def __call__(self, k, point: dict, before: dict, g: dict) -> tuple[dict, dict]:
        """(θₖ, the direction), from which the step is made."""
        at, s, out = self.at, self.at.s, {}
        if self.update.plain:
            return before, at.hold(g) if s["factors"] == "updates detached" else g
        for n, x in g.items():
            m, v = self.kept.get(n, (x * 0, x * 0))
            decay = self.update.decays(n)
            momentum = self.update.moves(n)
            out[n], *moments = self.update.direction(point[n], self.start[n], m, v, x, k, decay, momentum)
            self.kept[n] = tuple(moments)
            if decay and s["decay_like"] == "decoupled":
                out[n] = out[n] + point[n] * decay
        if s["decay_like"] == "without α":
            before = {n: p - p * self.update.decays(n) for n, p in before.items()}
        return before, at.hold(out) if s["factors"] == "updates detached" else out


def _shortened(at, k: int, before: dict, after: dict) -> dict:
    """θₖ₊₁, where the code at hand multiplies α by a number, or clamps the fast weights."""
    s = at.s
    these = group(at.case, s["rate_times_of"]) if s["rate_times_of"] != "all" else after
    if s["rate_times"]:
        after = {n: before[n] + (q - before[n]) * s["rate_times"] if n in these else q for n, q in after.items()}
    if s["some_steps_of"] != "nothing" and not in_some_steps(s["some_steps"], k, at.steps):
        still = group(at.case, s["some_steps_of"])
        after = {n: before[n] if n in still else q for n, q in after.items()}
    shares = [share_of_rate(s["rate"], k, max(at.case.inner_steps, 1)),
              s["rate_first"] if s["rate_first"] and k == 0 else None,
              s["rate_last"] if s["rate_last"] and k == at.steps - 1 else None,
              s["rate_falls"] ** k if s["rate_falls"] else None]  # fmt: skip
    for share in shares:
        if share is not None:
            # θₖ + c (θₖ₊₁ − θₖ)
            after = at.map(lambda q, p, c=share: p + (q - p) * c, after, before)
    return at.map(lambda p: clamped(p, s["fast_clamp"]), after) if s["fast_clamp"] else after


def support_gradient(at, theta: dict, support: tuple, k: int = 0, of: dict | None = None) -> dict:
    """g_s(θₖ); under the switch "detached" without its derivative, which is what FOMAML computes.

    Args:
        of: what adapts; by default all of θ.
    """
    value, g = at.loss_and_grad(theta, support)
    at.memory.setdefault("support losses", []).append(value)
    at.memory.setdefault("support gradients", []).append((theta, g))
    g = _changed(at, {n: g[n] for n in of or g if n in g}, support)
    s, last = at.s, at.steps - 1
    cut = {"detached": True, "first detached": k == 0, "last detached": k == last, "odd detached": k % 2 == 1,
           "even detached": k % 2 == 0, "middle detached": 0 < k < last}.get(s["factors"])  # fmt: skip
    if cut or s["through_last"] and k <= last - s["through_last"] or s["through_first"] and k >= s["through_first"]:
        return at.hold(g)
    if s["through_from"] and k < s["through_from"]:
        return at.hold(g)
    if s["factors"] in BENT or any(s[n] != SWITCHES[n][0] for n in BENDING):
        g = _bent(at, theta, g, support, k)
    for switch in ("cut_tensor", "through_tensor"):
        if s[switch]:
            this = named(at.case, int(s[switch]))
            g = {n: at.hold(x) if (n == this) == (switch == "cut_tensor") else x for n, x in g.items()}
    if s["cut_of"] != "nothing":
        g = {n: at.hold(x) if n in group(at.case, s["cut_of"]) else x for n, x in g.items()}
    return _times(at, g, s["hessian_times"]) if s["hessian_times"] else g


# Switches that say of what each step's gradient has the derivative, in the place of its own Hessian; and values of
# "factors" that do. Other points are those of a run before, which has no derivatives; see `answers.losses`.
BENDING = ("hessian_on", "hessian_rows", "factor_rate", "curvature", "product", "damping", "blind_of")
ELSEWHERE = ("at start", "at end", "one step late", "one step early", "halfway", "reversed", "of query at end")
BENT = (*ELSEWHERE, "of query")


def _bent(at, theta: dict, g: dict, batch, k: int) -> dict:
    """g with another derivative: that of a loss of other examples, or at another point, along how θₖ moves; or another
    matrix times that. What a backward pass by hand multiplies v by is this matrix's transpose.
    """
    s, first = at.s, at.memory.setdefault("first points", {}).setdefault(at.place, theta)
    away = at.map(lambda p: p - at.hold(p), first if s["product"] == "first order in α" else theta)
    if s["blind_of"] != "nothing":
        away = {n: x * 0 if n in g and n in group(at.case, s["blind_of"]) else x for n, x in away.items()}
    point, gradient = _hessian_point(at, theta, k), at.loss_and_grad
    if s["factors"].startswith("of query"):
        batch, gradient = query_of(at), at.query_loss_and_grad
    if s["hessian_on"] == "both sets":
        batch = [*pieces(batch), *pieces(query_of(at))]
    elif s["hessian_on"] != "support":
        batch = at.tasks[0 if "first" in s["hessian_on"] else -1][0]
    batch = first_rows(batch, int(s["hessian_rows"])) if s["hessian_rows"] else batch
    h = _curved(at, gradient, point, batch, away, list(g), s["curvature"])
    if s["damping"]:
        h = {n: x + away[n] * s["damping"] for n, x in h.items()}
    rate, rows = at.number(np.float64(at.case.inner_lr)), count(batch)
    times = {"missing": 1 / rate, "squared": rate, "times examples": rows,
             "over examples": at.number(np.float64(1)) / rows}.get(s["factor_rate"])  # fmt: skip
    return {n: at.hold(g[n]) + (x if times is None else x * times) for n, x in h.items()}


def _hessian_point(at, theta: dict, k: int) -> dict:
    """Where the Hessian of step k is taken: at θₖ, or where the code at hand has it."""
    how = at.s["factors"]
    if how not in ELSEWHERE:
        return at.hold(theta)
    ahead = at.memory["ahead"][at.place]
    last = len(ahead) - 2  # the last but one: θ_K comes last
    place = {"at start": 0, "at end": -1, "of query at end": -1, "one step late": k + 1,
             "one step early": max(k - 1, 0), "reversed": last - k}.get(how, k)  # fmt: skip
    if how == "halfway":
        return at.map(lambda p, q: (p + q) / 2, ahead[k], ahead[k + 1])
    return ahead[place]


def _curved(at, gradient: Callable, point: dict, batch, away: dict, names: list[str], like: str) -> dict:
    """H times how the parameters move, of the tensors `names`; or what the code at hand has for H."""

    def along(v: dict) -> dict:
        _, moved = gradient({n: p + v[n] for n, p in point.items()}, batch)
        return {n: moved[n] - at.hold(moved[n]) for n in names}

    if like == "Hessian":
        return along(away)
    # what reaches g through parameters that do not adapt stays
    own = {n: away[n] for n in names}
    out = along({n: x * 0 if n in names else x for n, x in away.items()}) if len(names) < len(away) else None
    if like == "block diagonal":
        h = {n: along({m: x if m == n else x * 0 for m, x in away.items()})[n] for n in names}
    elif like == "identity":
        h = own
    elif like == "g gᵀ":
        g = at.hold({n: x for n, x in gradient(point, batch)[1].items() if n in names})
        size = dot(g, own)
        h = at.map(lambda x: x * size, g)
    else:
        zero = at.map(lambda p: at.hold(p) * 0, point)
        columns = [flat({n: at.along(point, batch, zero | e)[n] for n in names}) for e in basis(at, own)]
        h = from_vector(_matrix(np.stack(columns, 1), like) @ flat(own), own)
    return h if out is None else at.map(lambda x, y: x + y, h, out)


def _matrix(h: np.ndarray, like: str) -> np.ndarray:
    """The transpose of what stands in the place of the Hessian h."""
    diagonal = h * np.eye(len(h), dtype=int)
    if like in ("positive part", "absolute"):
        if not np.isfinite(h.astype(float)).all():
            return h * np.nan
        values, vectors = np.linalg.eigh(((h + h.T) / 2).astype(float))
        return vectors * (np.abs(values) if like == "absolute" else np.maximum(values, 0)) @ vectors.T
    return {
        "lower triangle": lambda: np.triu(h), "upper triangle": lambda: np.tril(h), "diagonal": lambda: diagonal,
        "diagonal twice": lambda: h + diagonal, "no diagonal": lambda: h - diagonal,
        "row sums": lambda: np.sum(h, 1)[:, None] * np.eye(len(h), dtype=int),
    }[like]()  # fmt: skip


def _changed(at, g: dict, support: tuple) -> dict:
    """The gradient, as the code at hand makes another of it as a whole."""
    s, names = at.s, list(g)
    x, y = (support[0] if isinstance(support, list) else support)[:2]
    rows = len(x)
    times = {"ascent": -1, "summed over examples": rows}.get(s["inner"])
    times = {
        "times examples": rows,
        "times elements": np.size(y),
        "over examples": 1 / rows,
        "over steps": 1 / max(at.case.inner_steps, 1),
        "over tasks": 1 / at.case.tasks,
        "over one less": rows / max(rows - 1, 1),
        "over query count": rows / count(query_of(at)) if s["rate"] == "over query count" else None,
    }.get(s["rate"], times)
    if s["rate"] in TRANSFORMED:
        # f(α) g = α (f(α)/α) g
        rate, other = (at.number(np.float64(f(at.case.inner_lr))) for f in (float, TRANSFORMED[s["rate"]]))
        times = other / rate
    g = g if times is None else at.map(lambda g: g * times, g)
    if s["adapts"] in GROUPS:
        g = {n: x if n in group(at.case, s["adapts"]) else x * 0 for n, x in g.items()}
    update = Update(s, group=functools.partial(group, at.case))
    g = update.changed(g) if update.whole else g
    for switch in ("frozen_tensor", "only_tensor"):
        n = int(s[switch])
        if n and -len(names) <= n <= len(names):
            chosen = names[n - 1 if n > 0 else n]
            g = {n: x * 0 if (n == chosen) == (switch == "frozen_tensor") else x for n, x in g.items()}
    return g


def judged(at, path: list[dict], query: tuple, whole: Callable = lambda theta, k: theta):
    """L_q(θ_K); `whole(θₖ, k)` as for `descend`."""
    s, last = at.s, len(path) - 1

    def at_step(k):
        return at.query_loss_and_grad(whole(_iterate(at, path, k), k), query)[0]

    if s["query"] == "one step early":  # ∂L_q at θ_{K−1}, taken back through all steps
        k = max(last - 1, 0)
        point = at.map(lambda before, end: at.hold(before) + (end - at.hold(end)), path[k], path[-1])
        return at.query_loss_and_grad(whole(point, k), query)[0]

    if s["query_decay"]:
        value = _decaying(at, at_step, last)
    else:
        points = {
            "before adaptation": [0], "every step": range(1, last + 1) if last else [0],
            "every step and before": range(last + 1), "before and after": [0, last],
        }.get(s["query"], [last])  # fmt: skip
        losses = [at_step(k) for k in points]
        value = sum(losses[1:], losses[0]) / len(losses)
    for switch, k, loss_and_grad, batch in (
        ("support_weight", last, at.loss_and_grad, at.memory["support"]),
        ("support_before_weight", 0, at.loss_and_grad, at.memory["support"]),
        ("query_before_weight", 0, at.query_loss_and_grad, query),
    ):
        if s[switch]:
            value = value + loss_and_grad(whole(path[k], k), batch)[0] * s[switch]
    if s["outer_proximal"]:
        # L_q + ½ λ |θ_K − θ|²
        away = at.map(lambda p, start: p - start, path[-1], path[0])
        value = value + dot(away, away) * s["outer_proximal"] / 2
    if s["support_way_weight"] and at.memory["support losses"]:
        way = at.memory["support losses"]
        over = len(way) if s["support_way_like"] == "averaged" else 1
        value = value + sum(way[1:], way[0]) * s["support_way_weight"] / over
    if s["result"] == "accumulated":  # backward() of each support loss went back to what is learned
        for more in at.memory["support losses"]:
            value = value + sloped(at, value * 0, more)
    return with_what_is_left(at, value)


def with_what_is_left(at, value):
    """The value, with the derivative that backward() of a support loss has left in .grad of its first parameters."""
    if at.s["left"] == "with graph over T":
        return value + sloped(at, value * 0, sum(at.memory["support losses"]) * at.case.tasks)
    if left := left_in_grad(at):
        first, _ = at.memory["support gradients"][0]
        value = value + sloped(at, value * 0, sum(np.sum(first[n] * at.hold(x)) for n, x in left.items()))
    return value


def left_in_grad(at) -> dict:
    """The inner gradients that .grad still holds where the query's is added; {} if none."""
    if at.s["left"] == "nothing":
        return {}
    which, over = at.s["left"].removesuffix(" over T"), at.case.tasks if at.s["left"].endswith("over T") else 1
    grads = [g for _, g in at.memory["support gradients"]]
    grads = {"first": grads[:1], "last": grads[-1:]}.get(which, grads)
    return at.map(lambda *gs: sum(gs[1:], gs[0]) * over, *grads) if grads else {}


def _decaying(at, loss: Callable, last: int):
    """The query losses of all steps, weighted by γ^(K − k), or by that over their sum."""
    ends, gamma = range(min(last, 1), last + 1), at.number(np.float64(at.s["query_decay"]))
    weights = [gamma ** (last - k) for k in ends]
    over = sum(weights) if at.s["weights_like"] == "summing to 1" else 1
    return sum(loss(k) * (w / over) for k, w in zip(ends, weights, strict=True))


def _iterate(at, path: list[dict], k: int) -> dict:
    """θₖ, or the mean of the iterates that stands in its place."""
    which, mu, c = at.s["iterates"], at.s["iterate_decay"], at.s["judged_share"]
    if c and k:  # θ + c (θₖ − θ)
        return at.map(lambda start, p: start * (1 - c) + p * c, path[0], path[k])
    if not mu and (which == "last" or k == 0):
        return _seen(at, "query", path[: k + 1])
    one = at.number(np.float64(1))
    if mu:  # θ̄ ← μ θ̄ + (1 − μ) θₖ, from θ̄ = θ₀
        shares = [one * mu**k, *((one - mu) * mu ** (k - j) for j in range(1, k + 1))]
    else:
        start, stop = which == "all but the first", k + (which != "all but the last")
        shares = [one / (stop - start) * (start <= j < stop) for j in range(k + 1)]
    return at.map(lambda *ps: sum(p * c for p, c in zip(ps, shares, strict=True)), *path[: k + 1])


def sloped(at, value, y):
    """The value, with the derivative of y in the place of its own, as code has it that writes a gradient by hand."""
    return at.hold(value) + (y - at.hold(y))


def dot(a: dict, b: dict):
    """⟨a, b⟩, over all parameters."""
    return sum(np.sum(a[n] * b[n]) for n in a)


def flat(tree: dict):
    """All numbers of a tree in one vector."""
    return np.concatenate([np.reshape(v, -1) for v in tree.values()])


def from_vector(vector, like: dict) -> dict:
    """The inverse of `flat`, in the shapes of `like`."""
    ends = np.cumsum([np.size(p) for p in like.values()])
    return {n: np.reshape(vector[end - np.size(p) : end], np.shape(p))
            for (n, p), end in zip(like.items(), ends.tolist(), strict=True)}  # fmt: skip


def basis(at, like: dict) -> list[dict]:
    """The unit vectors, as trees."""
    size = sum(int(np.size(p)) for p in like.values())
    return [from_vector(at.number(row), like) for row in np.eye(size)]


def tasks_of(at) -> list[tuple]:
    """The tasks, over the numbers at hand, as the code at hand sees them."""
    s, tasks = at.s, [tuple(tuple(map(at.number, batch)) for batch in task) for task in at.case.batches()]
    parts = (("rows", first_rows), ("skipped", rows_after), ("batches", whole_batches), ("chunks", chunks))
    eps = {"eps": s["data_eps"]} if s["data_eps"] and s["data"] != "right" else {}
    tasks = DATA[s["data"]](tasks, **eps)
    for k, which in enumerate(("support", "query")):
        for what, part in parts:
            if n := int(s[f"{which}_{what}"]):
                tasks = [tuple(part(b, n) if i == k else b for i, b in enumerate(task)) for task in tasks]
    return tasks
