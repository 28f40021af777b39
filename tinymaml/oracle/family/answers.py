"""The results of an algorithm of the family on a case: exactly, with a mistake, by the engine, and without calculus.

    run(case, number, **switches)      (𝓛, G) over any numbers            by_engine(case, params)     backwards
    slope_along(case, d, **switches)   ⟨G, d⟩ at the price of a loss       differences(case)           without any
                                                                           derivative

The algorithm is the module of `ALGORITHMS` that the case names; what it computes with is in `procedure`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np

from ... import engine, extras
from ..arithmetic import Dual, as_numbers, bits_of, remembered
from ..mistakes.data import rounded as rounded_to
from ..mistakes.outcome import finished, in_tasks, together
from ..mistakes.semantics import Result
from ..mistakes.switches import AFTER_THE_TASKS
from ..models import Options
from . import ALGORITHMS
from .procedure import ELSEWHERE, SWITCHES, ByEngine, ByHand, H, Unaffordable, left_in_grad, tasks_of

# Ways to put tasks together, and counts, that MAML's formula has.
_AS_IN_MAML = ("weighted by examples", "median", "lower median", "worst", "each normalised", "log of each",
               "root mean square", "over T in turn", "over its number",
              "all but the first", "all but the last", "all but the first, over T", "all but the last, over T",
              "projected", "projected, summed", "where signs agree")  # fmt: skip
_COUNTS = ("task_count", "task_chunks", "zero_tensor", "only_result_tensor")


def switches_of(case, given: dict) -> dict:
    """The algorithm's switches and the shared ones, all right but the given.

    Raises:
        ValueError: there is no such switch, or no such value; names the values.
    """
    possible = SWITCHES | ALGORITHMS[case.algorithm].SWITCHES
    for name, value in given.items():
        if name not in possible:
            raise ValueError(f"{case.algorithm} has no switch {name!r}; wanted one of {', '.join(possible)}")
        if value not in possible[name] and not isinstance(possible[name][0], float):
            raise ValueError(f"{name}={value!r}; wanted one of {possible[name]}")
    right = {name: values[0] for name, values in possible.items()}
    return right | {name: int(x) if name in _COUNTS else x for name, x in given.items()}


def run(
    case, number: Any = float, how: dict | None = None, rounded: str = "", known: dict | None = None, **switches
) -> Result:
    """The meta-gradient of a case of the family, over numbers made by `number`, with `switches` not in their place.

    Args:
        how: `models.Options` that are not in their place.   rounded: what has fewer digits, "rate to float32".
        known: that of `catalogue.run_form`.
    """
    case, algorithm, s, changed = _set_up(case, how, rounded, switches)
    if s["outer"] == "sequential":
        return _sequential(case, number, how, known, switches)
    theta = {n: as_numbers(p, number) for n, p in case.params.items()}

    def of_tasks() -> tuple:
        """Losses, θ_K and gradients of all tasks."""
        if hasattr(algorithm, "gradient"):
            at = ByHand(case, number, s, changed, known)
            done = [with_left(at, *algorithm.gradient(at, theta, *task)) for task in _each_task(at)]
            return tuple(list(x) for x in zip(*done, strict=True))
        if s["inner"].endswith("with its graph"):
            return _recorded(case, algorithm, s)
        return _differentiated(case, algorithm, number, s, changed, known, theta)

    def with_left(at, value, end, g) -> tuple:
        """With what backward() in the inner loop has left."""
        left = left_in_grad(at)
        return value, end, {n: x + left[n] if n in left else x for n, x in g.items()}

    if known is None:
        values, ends, grads = of_tasks()
    else:
        inside = [x for n, x in s.items()
                  if n not in AFTER_THE_TASKS or x == "accumulated" or n == "second_order"]  # fmt: skip
        data = [array for task in case.batches() for batch in task for array in batch]
        key = (changed, rounded, *inside, *bits_of(*theta.values(), *data))
        values, ends, grads = remembered(known, key, of_tasks)
    trace = [{"theta": [theta, end]} for end in ends]
    value, grads = _together(values, grads, s, case)
    finish = getattr(algorithm, "finish", None)
    grads = finish(s, case, grads) if finish else grads
    if s.get("upper level", "no") != "no":
        return run(case.at(algorithm.upper_point(s, case, grads)), number, how, **switches | {"upper level": "no"})
    rates = lambda: dict.fromkeys(grads, case.inner_lr)  # noqa: E731
    return Result(value, finished(s, grads, theta, case, rates), trace)


def _set_up(case, how: dict | None, rounded: str, switches: dict) -> tuple:
    """The case, with another rate or fewer digits if these say so; its algorithm, all switches, and the Options."""
    case = _with_fewer_digits(case, *rounded.split(" to ")) if rounded else case
    if digits := switches.get("rate_decimals"):
        case = dataclasses.replace(case, inner_lr=float(np.round(case.inner_lr, int(digits))))
    if rate := switches.get("rate_is") or (case.outer_lr if switches.get("rate") == "of the outer loop" else 0):
        case = dataclasses.replace(case, inner_lr=float(rate))
    options = {k: frozenset(v) if k == "frozen" else v for k, v in (how or {}).items()}
    return case, ALGORITHMS[case.algorithm], switches_of(case, switches), Options(**options)


# Switches of what becomes of the tasks' gradients, under which ⟨G, d⟩ is made of theirs as G is of the gradients; and
# the ways to put tasks together under which it is not.
_LINEAR = {"second_order", "task_count", "task_chunks", "task_chunks_like", "tilt", "outer", "outer_momentum",
           "outer_momentum_like"}  # fmt: skip
_NOT_LINEAR = ("median", "lower median", "each normalised", "sequential", "projected", "projected, summed",
               "where signs agree")  # fmt: skip


def slope_along(case, d: dict, how: dict | None = None, rounded: str = "", **switches) -> float | None:
    """⟨G, d⟩ under the switches of `run`, of one complex step along d, {name: array}. G takes one for each number of θ.

    None where G is no derivative but a formula, or is changed after its parts are there, so that only the whole tells.
    """
    case, algorithm, s, changed = _set_up(case, how, rounded, switches)
    after = {n for n in (*AFTER_THE_TASKS - _LINEAR, *getattr(algorithm, "AFTERWARDS", ())) if switches.get(n)}
    if s["result"] == "accumulated":
        after.discard("result")
    if hasattr(algorithm, "gradient") or after or s["outer"] in _NOT_LINEAR or s["inner"].endswith("with its graph"):
        return None
    moved = {n: p + 1j * H * d[n] for n, p in case.params.items()}
    done = _losses(case, algorithm, float, s, changed, None, moved)
    # ⟨G, d⟩ = Im 𝓛(θ + ihd) / h
    slopes = [{"along d": np.asarray(_slope(value, float))} for value, _ in done]
    return float(_together([np.real(value) for value, _ in done], slopes, s, case)[1]["along d"])


def _sequential(case, number, how, known, switches) -> Result:
    """θ ← θ − β Gₜ after each task; the mean of these Gₜ."""
    beta, params, done = switches.get("outer_rate") or case.outer_lr, case.params, []
    for support, query in case.batches():
        one = dataclasses.replace(case, support=[support], query=[query], params=params)
        done.append(run(one, number, how, known=known, **switches | {"outer": "mean"}))
        params = {n: p - beta * done[-1].meta_grad[n] for n, p in params.items()}
    grads = {n: sum(r.meta_grad[n] for r in done) / len(done) for n in params}
    return Result(sum(r.meta_loss for r in done) / len(done), grads, [way for r in done for way in r.trace])


def _with_fewer_digits(case, what: str, dtype: str):
    """The case with numbers rounded to a shorter dtype: "rate" (and settings), "inputs", "data" or "parameters"."""
    short = lambda x: rounded_to(x, dtype)  # noqa: E731
    if what in ("rate", "everything"):
        settings = {n: short(v).tolist() if isinstance(v, (float, list)) else v for n, v in case.settings.items()}
        case = dataclasses.replace(case, inner_lr=float(short(case.inner_lr)), settings=settings)
    if what in ("parameters", "everything"):
        case = dataclasses.replace(case, params={n: short(p) for n, p in case.params.items()})
    if what in ("inputs", "data", "everything"):
        cut = lambda sets: [(short(x), y if what == "inputs" else short(y)) for x, y in sets]  # noqa: E731
        case = dataclasses.replace(case, support=cut(case.support), query=cut(case.query))
    return case


def _differentiated(case, algorithm, number, s, how, known, theta) -> tuple:
    """The losses, θ_K and gradients of all tasks: one run per number of θ, which carries the derivative along it."""
    losses = functools.partial(_losses, case, algorithm, number, s, how, known)
    plain = losses(theta)
    grads = [{n: np.zeros(p.shape, p.dtype) for n, p in theta.items()} for _ in plain]
    for n, p in theta.items():
        for i in range(p.size):
            for g, (value, _) in zip(grads, losses(theta | {n: _moved(p, i, number)}), strict=True):
                # g_i = Im L(θ + ih eᵢ) / h, or the slope of L(θ + ε eᵢ)
                g[n].flat[i] = _slope(value, number)
    return [value for value, _ in plain], [end for _, end in plain], grads


def _losses(case, algorithm, number, s, how, known, meta) -> list[tuple]:
    """(L_q, θ_K) of each task, at any `meta`."""
    at = ByHand(case, number, s, how, known)
    if s["factors"] == "parameters detached":
        meta = at.hold(meta)
    if s["factors"] in ELSEWHERE:
        at.memory["ahead"] = _ahead(ByHand(case, number, s | {"factors": "detached"}, how, known), algorithm, meta)
    done = []
    for t, task in enumerate(_each_task(at)):
        at.s = s if in_tasks(s["second_order"], t, len(at.tasks)) else s | {"factors": "detached"}
        done.append(algorithm.query_loss(at, meta, *task))
        at.s = s
    return done


def _each_task(at) -> Iterator[tuple]:
    """The tasks, one after the other; `at` knows all, and which one is at hand."""
    at.tasks = tasks_of(at)
    for place, task in enumerate(at.tasks):
        at.place = place
        yield task


def _ahead(at, algorithm, meta) -> list[list[dict]]:
    """Each task's points where a support gradient was taken, and θ_K behind them; without derivatives."""
    out = []
    for task in _each_task(at):
        _, end = algorithm.query_loss(at, at.hold(meta), *task)
        points = [at.hold(point) for point, _ in at.memory["support gradients"]]
        last = points[-1] if points else end
        out.append([*points, {n: at.hold(end[n]) if np.shape(end.get(n)) == np.shape(p) else p
                              for n, p in last.items()}])  # fmt: skip
    return out


def _recorded(case, algorithm, s) -> tuple:
    """The losses, θ_K and gradients of all tasks by the engine, for code whose mistake is about its graph.

    Where there are too many updates, the result is not known: NaN.
    """

    def loss(meta, t):
        at = ByEngine(case, s)
        value, end = [algorithm.query_loss(at, meta, *task) for task in tasks_of(at)][t]
        return value, {n: engine.value_of(p) for n, p in end.items()}

    try:
        done = [engine.value_and_grad(lambda meta, t=t: loss(meta, t), has_aux=True)(case.params)
                for t in range(case.tasks)]  # fmt: skip
    except Unaffordable:
        nothing = {n: np.full(p.shape, np.nan) for n, p in case.params.items()}
        done = [((np.nan, nothing), nothing)] * case.tasks
    return [value for (value, _), _ in done], [end for (_, end), _ in done], [g for _, g in done]


def _moved(p, i, number):
    if number is float:
        moved = p.astype(complex)
        moved.flat[i] += 1j * H
        return moved
    # The slope is a number of the same kind: 1 / 3 of integers is a float.
    moved = np.array([Dual(x, x * 0 + (k == i)) for k, x in enumerate(np.ravel(p))], object)
    return moved.reshape(p.shape)


def _slope(value, number):
    value = np.asarray(value)[()]
    if number is float:
        return np.imag(value) / H
    return value.slope if type(value) is Dual else 0 * value


_OF_TASKS = ("task_count", "task_chunks", "tilt", "clip_task", "outer_momentum")


def _together(values, grads, s, case) -> tuple:
    """1/T Σₜ of the losses and of the gradients, or what the code at hand makes of them."""
    tree = lambda f, *trees: {n: np.asarray(f(*(t[n] for t in trees))) for n in trees[0]}  # noqa: E731
    if s["outer"] in _AS_IN_MAML or any(s[n] for n in _OF_TASKS):
        return together(s, values, grads, case)
    if s["outer"].startswith(("last", "first")):
        k, count = -1 if s["outer"].startswith("last") else 0, len(grads) if s["outer"].endswith("T") else 1
        values, grads = [values[k]], [tree(lambda g: g / count, grads[k])]
    value, total = sum(values[1:], values[0]), grads[0]
    for g in grads[1:]:
        total = tree(np.add, total, g)
    if s["outer"] != "sum":
        value, total = value / len(values), tree(lambda g: g / len(grads), total)
    return value, total


def differences(case, bits: int = 800) -> tuple:
    """(𝓛, G) by differences of 𝓛, at so many bits: the loss's code alone, with no derivative of it.

        g_i = (𝓛(θ + h eᵢ) − 𝓛(θ)) / h,   h = 2^(−bits/2),   error h

    Cancellation loses one half of the bits, so that the other half remains. What the algorithm holds constant (⊥) is
    taken at θ, and stays that at θ + h eᵢ.
    """
    flint = extras.require("flint", "test")
    algorithm, s, before = ALGORITHMS[case.algorithm], switches_of(case, {}), flint.ctx.prec
    flint.ctx.prec = bits
    try:
        theta, h = {n: as_numbers(p, flint.arb) for n, p in case.params.items()}, flint.arb(2) ** (-bits // 2)

        held: list = []

        def loss(meta, holding):
            at = ByHand(case, flint.arb, s)
            at.holding = holding
            return sum(np.asarray(algorithm.query_loss(at, meta, *task)[0])[()] for task in tasks_of(at)) / case.tasks

        def noted(value):
            held.append(value)
            return value

        def moved(n, i):
            new, again = np.array(theta[n]), iter(held)
            new.flat[i] += h
            return loss(theta | {n: new}, lambda value: next(again))

        value = loss(theta, noted)
        grads = {n: np.reshape([float(((moved(n, i) - value) / h).mid()) for i in range(p.size)], p.shape)
                 for n, p in theta.items()}  # fmt: skip
        return float(value.mid()), grads
    finally:
        flint.ctx.prec = before


def by_engine(case, params: dict) -> tuple:
    """(𝓛, G) by the engine at `params`, which may be tensors: their records tell how roundings grow."""
    algorithm, s, count = ALGORITHMS[case.algorithm], switches_of(case, {}), case.tasks

    def losses(meta):
        at = ByEngine(case, s)
        return sum(algorithm.query_loss(at, meta, *task)[0] for task in tasks_of(at)) / count

    if not hasattr(algorithm, "gradient"):
        return engine.value_and_grad(losses)(params)
    at = ByEngine(case, s)
    done = [algorithm.gradient(at, params, *task) for task in tasks_of(at)]
    grads = {n: sum(g[n] for _, _, g in done) / count for n in params}
    return sum(value for value, _, _ in done) / count, grads
