"""Right answers, and those of each mistake: the answer to a case, by several ways that share as little as possible.

    solve(case)                       at once, in float64: complex steps through the hand-written gradients
    certified(case)                   rung 3, in balls, rounded once to float64             (python-flint)
    exact(case)                       rung 1, in rationals, for polynomial models
    differences(case)                 rung 2, no calculus at all: nested differences at 200 digits   (python-flint)
    complex_step(case)                rung 4, first-order code only
    by_engine, by_torch, by_jax       rung 5, automatic differentiation

Each returns (𝓛, G). The rungs share the model's forward pass (3 and 1 the hand-written gradients; 2 has no gradient, 4
no Hessian, 5 neither): a mistake in one of them shows beside the others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator
from fractions import Fraction

import numpy as np

from .. import extras
from . import tolerance
from .arithmetic import Uncertain, as_numbers, margin_of
from .cases import KINK, Answer, Bugs, Case
from .catalogue import CATALOGUE, flat, forms, run_form
from .models import Options, loss_and_grad

# ── the answer, and which mistakes show ─────────────────────────────────────────────────────────────────────────────


def solve_case(case: Case, right: tuple | None = None, before: Collection[str] | None = None) -> Case:
    """The case with its answer: the exact values, their scales, and which mistakes show.

    Args:
        right: (𝓛, G), float64. By default computed in float64.
        before: that of `with_mistakes`.
    """
    return with_mistakes(_with_right_answer(case, right), before)


def with_mistakes(case: Case, before: Collection[str] | None = None) -> Case:
    """The case, whose right answer is there, with the mistakes that show decided anew.

    Args:
        before: the mistakes whose values another machine did not know (`Bugs.unknown`). Where roundings alone decide,
            and so the kernels of a BLAS, that is kept.
    """
    with np.errstate(all="ignore"):  # a mistake may diverge
        return _with_mistakes(case, dict(_distances(case, before)))


def solve_if_good(case: Case, dtype: str) -> Case | None:
    """The case with its answer, if it is admitted for `dtype` and `healthy`; None as soon as it is seen not to be."""
    apart = _apart(dtype)
    with np.errstate(all="ignore"):
        result, margin = _watched(case, {})
        if margin * 2.0**53 < apart or not 1e-3 < np.max(np.abs(flat(result.meta_grad))) < 1e3:
            return None
        case, distances = _with_right_answer(case), {}
        for name, far in _distances(case):
            if far is None or tolerance.TAU < far < apart:
                return None
            distances[name] = far
        case = _with_mistakes(case, distances)
        return case if healthy(case) else None


def _with_right_answer(case: Case, right: tuple | None = None) -> Case:
    """The case with all of its answer but the mistakes."""
    result, margin = _watched(case, {})
    meta_loss, meta_grad = right or (float(result.meta_loss), result.meta_grad)
    loss_scale, scale = tolerance.scales(case)
    answer = Answer(meta_loss, meta_grad, scale, loss_scale, Bugs(case, ()), margin=margin)
    return dataclasses.replace(case, answer=answer)


def _with_mistakes(case: Case, distances: dict[str, float | None]) -> Case:
    far = {name: rho for name, rho in distances.items() if rho is not None and rho > tolerance.TAU}
    bugs = Bugs(dataclasses.replace(case, answer=None), far, [n for n, rho in distances.items() if rho is None])
    answer = dataclasses.replace(case.answer, bugs=bugs, distance=min(far.values(), default=np.inf))
    case = dataclasses.replace(case, answer=answer)
    return dataclasses.replace(case, dtypes=admitted(case))


def _distances(case: Case, before: Collection[str] | None = None) -> Iterator[tuple[str, float | None]]:
    """How far each form of a classic mistake is from right, in roundings of float64; None where its value is not known:
    it is not finite, or depends on rounding, at a kink or because it is badly conditioned. A case must tell these from
    right clearly; there are many others, and some are next to right."""
    answer, unit = case.answer, tolerance.UNIT["float64"]
    nearby = case.nearby(unit)
    known: dict = {}  # much is the same in many of them, at either point
    for name, form in forms(case).items():
        if not CATALOGUE[name.split("/")[0]].classic:
            continue
        value, margin = _watched(case, form, known)
        if not np.isfinite(flat(value.meta_grad)).all():
            yield name, None
            continue
        far = tolerance.error(value.meta_grad, answer.meta_grad, answer.scale, unit)
        if far > tolerance.TAU:  # θ by one rounding: it must not make a difference
            again, margin_ = _watched(nearby, form, known)
            moved = tolerance.errors(flat(again.meta_grad), flat(value.meta_grad), _allowed(answer, value), unit)
            by_rounding = before is not None and 1 / DOUBT < np.max(moved) / tolerance.TAU < DOUBT
            badly_conditioned = name in before if by_rounding else np.max(moved) > tolerance.TAU
            if min(margin, margin_) < KINK or badly_conditioned:
                far = None
        yield name, far


DOUBT = 10  # a factor: nearer to the limit than this, another BLAS may decide otherwise


def _watched(case: Case, form: dict, known: dict | None = None) -> tuple:
    """The result of the form, and how near it comes to a kink."""
    out: list = []
    margin, _ = margin_of(lambda: out.append(run_form(case, form, known=known)))
    return out[0], margin


def _allowed(answer: Answer, value) -> np.ndarray:
    """The scale of a mistake's value, which is not known exactly: as for the right one, and larger as it is larger."""
    scale, right, wrong = map(flat, (answer.scale, answer.meta_grad, value.meta_grad))
    larger = max(1.0, np.max(np.abs(wrong)) / np.max(np.abs(right))) if np.any(right) else 1.0
    return np.maximum(scale, np.median(scale)) * larger


def in_float64(case: Case) -> tuple:
    """(𝓛, G) by the hand-written procedure, in float64, with complex steps for derivatives."""
    result = run_form(case, {})
    return float(result.meta_loss), result.meta_grad


def admitted(case: Case) -> tuple[str, ...]:
    """The dtypes that hold every number of the case, and in which each mistake that shows is far enough, and each
    kink."""
    far = min(case.answer.distance, case.answer.margin * 2.0**53)
    return tuple(dtype for dtype in tolerance.UNIT if far >= _apart(dtype) and case.exact_in(dtype))


def _apart(dtype: str) -> float:
    """How far a mistake must be from right to show in a dtype, in roundings of float64."""
    return tolerance.SEPARATION * tolerance.TAU * tolerance.UNIT[dtype] / tolerance.UNIT["float64"]


def healthy(case: Case) -> bool:
    """Whether the numbers are of ordinary size, so that a wrong gradient is wrong by much, and a right one precise."""
    answer = case.answer
    assert answer is not None
    biggest, condition = np.max(np.abs(flat(answer.meta_grad))), flat(answer.scale).max()
    return bool(1e-3 < biggest < 1e3 and condition < 1e3 * biggest and not answer.bugs.unknown)


# ── rung 1: rationals ───────────────────────────────────────────────────────────────────────────────────────────────


def exact(case: Case, form: dict | None = None) -> tuple:
    """(𝓛, G) without any rounding, in `Fraction`s; for models of polynomials only (TypeError otherwise)."""
    result = run_form(case, form or {}, Fraction)
    return result.meta_loss, result.meta_grad


# ── rung 2: no calculus ─────────────────────────────────────────────────────────────────────────────────────────────


def differences(case: Case, digits: int = 200) -> tuple:
    """(𝓛, G) by differences of differences; needs nothing but the loss.

        g_i = (L(θ + h eᵢ) − L(θ)) / h,   error h,   h = 10^(−digits/2) inside, 10^(−digits/4) outside

    At 200 digits the inner gradients are right to 100, by their error as by cancellation; of these the outer
    difference loses 50 to cancellation, and its own error leaves as many: fifty remain, where float64 has 16.
    """
    flint = extras.require("flint", "test")
    with precision(flint, int(digits * 3.33)):
        h, h_inner = (flint.arb(10) ** (-digits // k) for k in (4, 2))
        middle = np.frompyfunc(lambda x: x.mid() if isinstance(x, flint.arb) else x, 1, 1)  # no balls here

        def loss(theta, batch):
            value, _ = loss_and_grad(case.model, theta, *batch, Options(), gradient=False)
            return value.mid()

        def value_and_gradient(f, theta, step):
            value, out = f(theta), {}
            for n, p in theta.items():
                g = np.empty(p.size, object)
                for i in range(p.size):
                    moved = np.array(p)
                    moved.flat[i] += step
                    g[i] = (f(theta | {n: moved}) - value) / step
                out[n] = np.asarray(middle(np.reshape(g, p.shape)), object)
            return value, out

        number = lambda x: as_numbers(x, flint.arb)  # noqa: E731
        alpha = {n: number(a) for n, a in tolerance.rates(case).items()}
        tasks = [tuple(tuple(map(number, batch)) for batch in task) for task in case.batches()]

        def meta_loss(theta):
            total = 0
            for support, query in tasks:
                adapted = theta
                for _ in range(case.inner_steps):
                    _, g = value_and_gradient(lambda p, support=support: loss(p, support), adapted, h_inner)
                    adapted = {n: np.asarray(middle(p - alpha[n] * g[n]), object) for n, p in adapted.items()}
                total = total + loss(adapted, query)
            return total / len(tasks)

        value, grads = value_and_gradient(meta_loss, {n: number(p) for n, p in case.params.items()}, h)
        return _to_float(value), {n: _floats(g) for n, g in grads.items()}


# ── rung 3: balls ───────────────────────────────────────────────────────────────────────────────────────────────────


def certified(case: Case, form: dict | None = None, bits: int = 160) -> tuple:
    """(𝓛, G), correctly rounded to float64: the precision is raised until every ball rounds to one number.

    Branches of ReLU and max are certain, because the balls exclude 0 (or are exactly 0).

    Raises:
        Uncertain: no precision was enough: a kink is hit inexactly, or a number lies exactly between two floats.
    """
    flint = extras.require("flint", "test")
    while bits <= 1 << 14:
        with precision(flint, bits):
            try:
                result = run_form(case, form or {}, flint.arb)
                return _to_float(result.meta_loss), {n: _floats(g) for n, g in result.meta_grad.items()}
            except Uncertain:
                bits *= 2
    raise Uncertain(f"case {case.id}: {bits} bits do not round to one float64")


class precision:
    """Work at so many bits."""

    def __init__(self, flint, bits: int):
        self.context, self.bits = flint.ctx, bits

    def __enter__(self):
        self.before, self.context.prec = self.context.prec, self.bits

    def __exit__(self, *_):
        self.context.prec = self.before


def _to_float(x) -> float:
    """The one float64 that every number in the ball rounds to."""
    if not hasattr(x, "mid"):
        return float(x)
    if not x.is_finite():
        return float("nan")
    low, high = (_nearest(_fraction(end)) for end in (x.lower(), x.upper()))
    if low != high:
        raise Uncertain(f"{x} rounds to {low!r} or to {high!r}")
    return low


def _fraction(x) -> Fraction:
    mantissa, exponent = x.man_exp()
    mantissa, exponent = int(mantissa), int(exponent)
    return Fraction(mantissa << exponent) if exponent >= 0 else Fraction(mantissa, 1 << -exponent)


def _nearest(x: Fraction) -> float:
    try:
        return x.numerator / x.denominator  # Python divides integers correctly rounded
    except OverflowError:
        return float("inf") if x > 0 else float("-inf")


def _floats(x: np.ndarray) -> np.ndarray:
    return np.array([_to_float(v) for v in np.ravel(x)], np.float64).reshape(np.shape(x))


# ── rung 4: complex step through first-order code ───────────────────────────────────────────────────────────────────


def complex_step(case: Case) -> tuple:
    """(𝓛, G) by running the whole of MAML at θ + ih e:  Gₑ = Im 𝓛(θ + ih e) / h.  There is no Hessian anywhere."""
    h = 1e-100
    alpha = tolerance.rates(case)
    if case.first_order:
        raise ValueError("FOMAML's gradient is not the derivative of anything")

    def meta_loss(theta):
        total = 0
        for support, query in case.batches():
            adapted = theta
            for _ in range(case.inner_steps):
                _, g = loss_and_grad(case.model, adapted, *support)
                adapted = {n: p - alpha[n] * g[n] for n, p in adapted.items()}
            total = total + loss_and_grad(case.model, adapted, *query)[0]
        return total / case.tasks

    grads = {}
    for n, p in case.params.items():
        g = np.empty(p.size)
        for i in range(p.size):
            moved = {m: q.astype(complex) for m, q in case.params.items()}
            moved[n].flat[i] += 1j * h
            g[i] = np.imag(meta_loss(moved)) / h
        grads[n] = g.reshape(p.shape)
    return float(np.real(meta_loss(case.params))), grads


# ── rung 5: automatic differentiation ───────────────────────────────────────────────────────────────────────────────

by_engine = tolerance.engine_answer


def by_torch(case: Case) -> tuple:
    """(𝓛, G) by PyTorch, float64: a loop with create_graph."""
    torch = extras.require("torch", "peers")
    loss, params, ((xs, ys), (xq, yq)) = case.torch()
    alpha = {n: torch.as_tensor(a) for n, a in tolerance.rates(case).items()}
    total = 0.0
    for t in range(case.tasks):
        fast = dict(params)
        for _ in range(case.inner_steps):
            grads = torch.autograd.grad(
                loss(fast, xs[t], ys[t]), list(fast.values()), create_graph=not case.first_order, allow_unused=True
            )
            fast = {n: p if g is None else p - alpha[n] * g for (n, p), g in zip(fast.items(), grads, strict=True)}
        total = total + loss(fast, xq[t], yq[t]) / case.tasks
    grads = torch.autograd.grad(total, list(params.values()), allow_unused=True)
    zero = {n: np.zeros(p.shape) for n, p in case.params.items()}
    return total.item(), {n: zero[n] if g is None else g.numpy() for n, g in zip(params, grads, strict=True)}


def by_jax(case: Case) -> tuple:
    """(𝓛, G) by JAX, float64."""
    jax = extras.require("jax", "peers")
    loss, params, ((xs, ys), (xq, yq)) = case.jax()
    alpha = tolerance.rates(case)

    def meta_loss(params):
        total = 0.0
        for t in range(case.tasks):
            fast = params
            for _ in range(case.inner_steps):
                grads = jax.grad(loss)(fast, xs[t], ys[t])
                if case.first_order:
                    grads = jax.lax.stop_gradient(grads)
                fast = {n: p - alpha[n] * grads[n] for n, p in fast.items()}
            total = total + loss(fast, xq[t], yq[t]) / case.tasks
        return total

    value, grads = jax.value_and_grad(meta_loss)(params)
    return float(value), {n: np.asarray(g) for n, g in grads.items()}
