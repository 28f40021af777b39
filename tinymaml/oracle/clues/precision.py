"""Right, but with fewer digits: is an error that of rounding, of a difference, or a small mistake?

    shortened(judged)                         whether right numbers were cut short, in words, or ""
    cause_of(judged, questions, answers)      that, or how digits were lost else; "" if it is no loss of digits

A small error is not imprecise because it is small. It is if the answers show a pattern of rounding: they are decimals
or numbers of a shorter type; they are what differences with some step give; or they are off by a few roundings of a
shorter type, in another way at each θ. An error that follows θ smoothly is that of another formula.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from .. import tolerance
from ..arithmetic import as_numbers
from ..cases import Case
from ..catalogue import flat
from ..mistakes.calculus import Calculus
from ..mistakes.data import rounded
from ..mistakes.semantics import run
from ..models import Options, loss_and_grad
from ..questions import Answered, Question
from .locate import MATCH, Judged, at_kink

# Types by their unit roundoff, the shortest first.
TYPES = {"bfloat16": 2.0**-9, "float16": 2.0**-11, "float32": 2.0**-24}
FEW = 1e-3  # relative to the conditioning: errors beyond are no matter of digits, unless all numbers are short
TINY = 1e-2  # of a type's unit: errors below are not those of its roundings


def shortened(judged: list[Judged]) -> str:
    """Whether the numbers that came are the right ones, in short; how short, or ""."""
    return _short_decimals(judged) or _short_type(judged)


def cause_of(judged: list[Judged], questions: list[Question], answers: dict[str, Answered]) -> str:
    """What took the digits; "" where they are not what is missing."""
    if short := shortened(judged):
        return short
    smooth = [j for j in judged if not at_kink(j.case)]
    off = max((max(j.error, j.loss_error) * tolerance.UNIT[j.case.dtype] for j in smooth), default=np.inf)
    by_difference = _differences(judged)
    if off > FEW and not by_difference:
        return _in_half_precision(smooth, questions, answers)
    also = ""
    if off <= FEW and any(j.error * tolerance.UNIT[j.case.dtype] > FEW for j in judged):
        also = "; at a kink, where a difference is not the derivative, it is far off"
    if by_difference or also:
        return (by_difference or "a derivative is a difference") + also
    if not _decisive(judged):
        return ""
    if systematic(judged, questions, answers):
        return _of_a_constant(judged)
    return _by_size(judged, off)


def _decisive(judged) -> bool:
    """Whether a wrong case has an error that is small beside what the nearest mistake would make of it."""
    return any(100 * max(j.error, j.loss_error) * tolerance.UNIT[j.case.dtype] < j.case.answer.distance * 2.0**-53
               for j in judged if not j.passed)  # fmt: skip


# ── numbers that are short ──────────────────────────────────────────────────────────────────────────────────────────


def _all(judged) -> tuple[np.ndarray, np.ndarray]:
    """All numbers that came, and the right ones."""
    return (np.concatenate([flat(j.answer.grad) for j in judged]),
            np.concatenate([flat(j.case.answer.meta_grad) for j in judged]))  # fmt: skip


def _short_decimals(judged) -> str:
    """Printed with so many decimals or digits, and read again."""
    got, right = _all(judged)
    for places in range(1, 12):
        if np.array_equal(np.round(got, places), got) and np.all(np.abs(got - right) <= 0.5000001 * 10.0**-places):
            return f"every number that came has at most {places} decimals: they were rounded, or printed and read again"
    for digits in range(2, 13):
        rounded = np.array([float(f"{x:.{digits - 1}e}") for x in got])
        half = 0.5000001 * 10.0 ** (1 - digits) * np.abs(got)
        if np.array_equal(rounded, got) and np.all(np.abs(got - right) <= half):
            return f"every number that came has at most {digits} digits: they were rounded, or printed and read again"
    return ""


def _short_type(judged) -> str:
    """Numbers of a shorter type, as near to the right ones as a computation in it would be."""
    got, _ = _all(judged)
    for name, unit in TYPES.items():
        if unit < tolerance.UNIT[judged[0].case.dtype] * 2 or not np.array_equal(rounded(got, name), got):
            continue
        if all(j.error * tolerance.UNIT[j.case.dtype] <= tolerance.TAU * unit for j in judged):
            return f"every number that came is one of {name}: the computation, or its last part, was made in it"
    return ""


# ── differences in place of derivatives ─────────────────────────────────────────────────────────────────────────────

STEPS = (1e-1, 1e-2, 5e-3, 1e-3, 5e-4, 1e-4, 1e-5, 6.0554544523933395e-06, 1e-6, 1e-7, 1.4901161193847656e-08, 1e-8)


def _differences(judged) -> str:
    """Which derivative was a difference, with which step."""
    wrong = sorted((j for j in judged if not j.passed), key=lambda j: flat(j.answer.grad).size * j.case.inner_steps)
    smooth = [j for j in wrong if j.case.answer.margin > 1e-2 and not j.case.first_order and not at_kink(j.case)][:6]
    if not smooth or any(j.case.algorithm != "maml" for j in smooth):
        return ""  # the ways are those of MAML's gradient
    for what, made in _WAYS.items():
        for h in STEPS:
            far = False
            for j in smooth:
                fits, differs = _as_noisy(j, *made(j.case, h), h)
                far = far or differs
                if not fits:
                    break
            else:
                if far:
                    return f"{what} with the step {h:.3g}, in the place of a derivative"
    return ""


def _as_noisy(j: Judged, value: np.ndarray, size: float, h: float) -> tuple[bool, bool]:
    """Whether an answer is `value` up to what cancellation leaves; and whether that is far from right. (It is not where
    the loss is quadratic.)"""
    right, unit = flat(j.case.answer.meta_grad), tolerance.UNIT[j.case.dtype]
    got, noise = flat(j.answer.grad), 8 * unit * size / h + MATCH * unit * flat(j.case.answer.scale)
    truncation = np.max(np.abs(value - right) / noise)
    return bool(np.all(np.abs(got - value) <= noise)), bool(truncation > 30)


def _tasks(case: Case) -> Iterator[tuple]:
    for support, query in case.batches():
        yield tuple(map(as_numbers, support)), tuple(map(as_numbers, query))


def _meta_loss(case: Case, theta: dict):
    alpha, total = tolerance.rates(case), 0.0
    for support, query in _tasks(case):
        fast = theta
        for _ in range(case.inner_steps):
            _, g = loss_and_grad(case.model, fast, *support)
            fast = {n: p - alpha[n] * g[n] for n, p in fast.items()}
        total = total + loss_and_grad(case.model, fast, *query)[0]
    return total / case.tasks


def _outer(case: Case, h: float, sides: tuple[float, float]) -> tuple[np.ndarray, float]:
    theta, out, size = case.params, [], 0.0
    for n, p in theta.items():
        for i in range(p.size):
            at = []
            for side in sides:
                moved = np.array(p)
                moved.flat[i] += side * h
                at.append(float(_meta_loss(case, theta | {n: moved})))
            # gᵢ ≈ (𝓛(θ + a h eᵢ) − 𝓛(θ − b h eᵢ)) / (a + b) h
            out.append((at[0] - at[1]) / ((sides[0] - sides[1]) * h))
            size = max(size, *map(abs, at))
    return np.array(out), size


def _products(case: Case, h: float, sides: tuple[float, float], unit_length: bool) -> tuple[np.ndarray, float]:
    """G with differences of gradients in the place of Hessian-vector products."""
    alpha, total, size = tolerance.rates(case), 0.0, 0.0
    calculus = Calculus(case.model, Options())
    for (support, _), way in zip(_tasks(case), run(case).trace, strict=True):
        v = way["grad_q"]
        for k in reversed(range(case.inner_steps)):
            norm = float(np.sqrt(sum(np.sum(x * x) for x in v.values())))
            step, theta = h / norm if unit_length and norm else h, way["theta"][k]
            ends = [calculus.loss_and_grad({n: p + side * step * v[n] for n, p in theta.items()}, support)[1]
                    for side in sides]  # fmt: skip
            # H v ≈ (g(θ + a h v) − g(θ − b h v)) / (a + b) h
            v = {n: v[n] - alpha[n] * (ends[0][n] - ends[1][n]) / ((sides[0] - sides[1]) * step) for n in v}
            size = max(size, *(float(np.max(np.abs(alpha[n] * e[n]), initial=0)) for e in ends for n in e))
        total = total + flat(v) / case.tasks
    return total, size


_WAYS = {
    "the meta-gradient is a central difference of the meta-loss": lambda c, h: _outer(c, h, (1, -1)),
    "the meta-gradient is a forward difference of the meta-loss": lambda c, h: _outer(c, h, (1, 0)),
    "Hessian-vector products are central differences of gradients": lambda c, h: _products(c, h, (1, -1), False),
    "Hessian-vector products are forward differences of gradients": lambda c, h: _products(c, h, (1, 0), False),
    "Hessian-vector products are central differences over a half of the step each way":
        lambda c, h: _products(c, h, (0.5, -0.5), False),
    "Hessian-vector products are central differences along the unit vector":
        lambda c, h: _products(c, h, (1, -1), True),
    "Hessian-vector products are forward differences along the unit vector":
        lambda c, h: _products(c, h, (1, 0), True),
}  # fmt: skip


def _imaginary(case: Case, h: float) -> tuple[np.ndarray, float]:
    """The complex step with a step that is too long: Im 𝓛(θ + ih eᵢ) / h, whose error is of the order h²."""
    theta, out = case.params, []
    for n, p in theta.items():
        for i in range(p.size):
            moved = p.astype(complex)
            moved.flat[i] += 1j * h
            out.append(np.imag(_meta_loss(case, theta | {n: moved})) / h)
    return np.array(out), 0.0


def _imaginary_products(case: Case, h: float) -> tuple[np.ndarray, float]:
    alpha, total = tolerance.rates(case), 0.0
    calculus = Calculus(case.model, Options())
    for (support, _), way in zip(_tasks(case), run(case).trace, strict=True):
        v = way["grad_q"]
        for k in reversed(range(case.inner_steps)):
            _, g = calculus.loss_and_grad({n: p + 1j * h * v[n] for n, p in way["theta"][k].items()}, support)
            # H v ≈ Im g(θ + ih v) / h
            v = {n: v[n] - alpha[n] * np.imag(g[n]) / h for n in v}
        total = total + flat(v) / case.tasks
    return total, 0.0


_WAYS |= {
    "the meta-gradient is a complex step of the meta-loss": _imaginary,
    "Hessian-vector products are complex steps of gradients": _imaginary_products,
}


# ── noise, or a smooth error ────────────────────────────────────────────────────────────────────────────────────────


def systematic(judged, questions, answers) -> bool | None:
    """Whether the error follows θ smoothly, as that of a formula does: moved by 2⁻¹², θ has nearly the same error.
    Noise of rounding is another one at each θ. None if no wrong case was asked about at another θ."""
    changes = _changes(judged, questions, answers, min)
    return None if not changes else 2 * sum(change < 0.1 for change in changes) > len(changes)


def _changes(judged, questions, answers, which: Callable) -> list[float]:
    """How much the error of each wrong case changes, relative to it, if θ is moved by the shortest (min) or the longest
    (max) step that was asked about."""
    found = []
    for j in judged:
        near = [q for q in questions if q.role == "moved" and q.of == j.case.id and q.id in answers]
        if j.error <= tolerance.TAU or not near or at_kink(j.case):
            continue
        q = which(near, key=lambda q: q.step)
        there = answers[q.id].grad
        if there is None:
            continue
        before = flat(j.answer.grad) - flat(j.case.answer.meta_grad)
        after = flat(there) - flat(tolerance.engine_answer(q.case)[1])
        found.append(float(np.linalg.norm(after - before) / np.linalg.norm(before)))
    return found


def _in_half_precision(judged, questions, answers) -> str:
    """Two or three digits in every case, and another error at each θ: of a step of 2⁻⁶, since numbers of 16 bits that
    differ by less may be the same."""
    sizes = [j.error * tolerance.UNIT[j.case.dtype] for j in judged if not j.passed]
    unit = TYPES["bfloat16"]
    if not sizes or len(sizes) < len(judged) or max(sizes) > 10 * unit or min(sizes) < unit / 100:
        return ""
    changes = _changes(judged, questions, answers, max)
    if 2 * sum(change > 0.4 for change in changes) <= len(changes):
        return ""
    return ("two or three digits are right in every case, and the error is another one at each θ: a part of the "
            "computation was made in bfloat16 (or float16), as in mixed precision")  # fmt: skip


def _of_a_constant(judged) -> str:
    """A smooth error of the size that a constant's rounding to float32 makes it."""
    sizes = [(np.max(np.abs(flat(j.answer.grad) - flat(j.case.answer.meta_grad))), np.max(np.abs(flat(j.answer.grad))))
             for j in judged]  # fmt: skip
    unit = TYPES["float32"]
    if judged[0].case.dtype == "float32" or any(off > 8 * unit * size for off, size in sizes):
        return ""
    if all(off < TINY * unit * size for off, size in sizes):
        return ""
    return ("the errors are as small as a rounding to float32, and follow θ smoothly: a constant (α, 1/T, a weight of "
            "a loss) is a number of float32, and the rest is not")  # fmt: skip


def _by_size(judged, off: float) -> str:
    for name, unit in reversed(TYPES.items()):
        if TINY * unit <= off <= tolerance.TAU * unit and unit > tolerance.UNIT[judged[0].case.dtype]:
            like = " (or TF32)" if name == "float16" else ""
            else_ = ", or a derivative is a difference with a tiny step" if name == "float32" else ""
            return (f"the errors are of the size of roundings of {name}{like}: a part of the computation was made in "
                    f"it{else_}")  # fmt: skip
    return "the errors are as irregular as those of rounding: a difference with a tiny step, or an unstable formula?"
