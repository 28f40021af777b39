"""Where an unknown mistake is: what can be said of answers that nothing in the catalogue explains.

These are its functions:

    trace_error        the first wrong quantity of their trace, so that a forward error is not blamed on a derivative
    own_slope          is their gradient the derivative of their own meta-loss?
    term_regression    which of the 2^K terms of ∏(I − HₖA) g_q do they have, and how much of each?
    tensor_regression  the same for the parts of H₀, by tensor
    order_matters      does the gradient depend on the order of the tasks?
    wrong_elsewhere    is it wrong at a θ that no file knows?
    only_where         what the wrong cases have and the right ones have not
    right_tensors, worst_element, digits_agreeing
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math

import numpy as np

from .. import tolerance
from ..arithmetic import as_numbers, margin_of
from ..cases import KINK, Case
from ..catalogue import flat, run_form, slope_of_form
from ..mistakes.calculus import Calculus
from ..mistakes.semantics import run
from ..models import Options
from ..questions import Answered, as_floats, direction

NOISE = {"float64": 1e-6, "float32": 1e-3}  # of a wrong gradient, relative, that proves nothing
MATCH = 10 * tolerance.TAU  # to be taken for a mistake's value, whose own conditioning is not known as exactly


@dataclasses.dataclass(eq=False)
class Judged:
    """A case, its answer, and how far from right it is, in roundings."""

    case: Case
    answer: Answered
    error: float
    loss_error: float

    @property
    def forms(self) -> dict[str, dict]:
        """Name → form, of every mistake that concerns the case."""
        return self.case.answer.bugs.forms(self.case.dtype)

    @functools.cached_property
    def solved(self) -> dict:
        """Name of a form → the numbers with which it explains the answer, as far as they have been looked for; and
        (name, "blind") → whether the case does not depend on the number."""
        return {}

    @functools.cached_property
    def given(self) -> dict[str, dict]:
        """A form, as text → what it `gives`, as far as that has been asked for."""
        return {}

    def gives(self, form: dict) -> dict[str, np.ndarray]:
        """The gradient of a form on the case; computed once."""
        key = repr(form)
        if key not in self.given:
            self.given[key] = run_form(self.case, form).meta_grad
        return self.given[key]

    def gives_nearby(self, form: dict) -> dict[str, np.ndarray]:
        """The same with each number of θ and of the inputs moved by a rounding."""
        return run_form(self.case.nearby(tolerance.UNIT[self.case.dtype], data=True), form).meta_grad

    @functools.cached_property
    def slopes(self) -> dict[str, float | None]:
        """A form, as text → its `slope`, as far as that has been asked for."""
        return {}

    def slope(self, form: dict) -> float | None:
        """⟨G, d⟩ of a form's gradient along `direction`, where that is known before G is; computed once.

        None also where a kink is so near that the value of the form may count as unknown.
        """
        key = repr(form)
        if key not in self.slopes:
            found: list = []
            margin, _ = margin_of(lambda: found.append(slope_of_form(self.case, form, direction(self.case))))
            self.slopes[key] = found[0] if margin >= 10 * KINK else None
        return self.slopes[key]

    @property
    def gradient_diverged(self) -> bool:
        """Whether the gradient that came is not finite."""
        return self.answer.grad is None

    @property
    def passed(self) -> bool:
        return self.error <= tolerance.TAU and self.loss_error <= tolerance.TAU


def trace_error(j: Judged) -> str:
    """The first of loss_s[0], grad_s[0], θ₁, …, loss_q, g_q that is wrong in their trace; "" if none is or came."""
    if not j.answer.trace:
        return ""
    unit = {"float64": 1e-9, "float32": 1e-4}[j.case.dtype]
    ours = run(j.case).trace
    if len(j.answer.trace) != len(ours):
        return f"case {j.case.id}: the trace has {len(j.answer.trace)} tasks, wanted {len(ours)}"
    for t, (theirs, right) in enumerate(zip(j.answer.trace, ours, strict=True)):
        places = []
        for k in range(j.case.inner_steps):
            places += [("theta", k), ("loss_s", k), ("grad_s", k)]
        places += [("theta", j.case.inner_steps), ("loss_q", None), ("grad_q", None)]
        for what, k in places:
            if what not in theirs:
                continue
            try:
                got = theirs[what] if k is None else theirs[what][k]
                problem = _apart(got, right[what] if k is None else right[what][k], what, unit)
            except (IndexError, KeyError, TypeError, ValueError) as error:
                problem = f"cannot be read ({error})"
            if problem:
                step = "" if k is None else f" of inner step {k}"
                return f"case {j.case.id}, task {t}: {what}{step} {problem}"
    return ""


def _apart(got, right, what: str, unit: float) -> str:
    if not isinstance(right, dict):
        got, right = {"": got}, {"": right}
    elif not isinstance(got, dict):
        got = dict(zip(right, got, strict=True))
    size = max(float(np.max(np.abs(np.asarray(r, np.float64)), initial=0)) for r in right.values())
    for n, r in right.items():
        g, r = as_floats(got[n], what), np.asarray(r, np.float64)
        if g.shape != r.shape:
            return f"{n} has shape {g.shape}, wanted {r.shape}"
        if not np.max(np.abs(g - r), initial=0) <= unit * size:
            at = np.unravel_index(np.argmax(np.abs(g - r)), r.shape)
            return f"is the first that is wrong: {element(n, at)} {g[at]:.9g}, right is {r[at]:.9g}".replace("  ", " ")
    return ""


def own_slope(questions, answers, wrong: set[str]) -> float | None:
    """The slope of |L(θ + hd) − L(θ) − h g·d| in h: 2 if g is the derivative of L, 1 if not. L, g are theirs.

    The smallest over the wrong cases that were asked about; None without a meta-loss, or if there is none.
    """
    smooth = {q.id for q in questions if q.role == "case" and not q.case.answer.bugs.keys() & AT_KINKS}
    about = dict.fromkeys(q.of for q in questions if q.role == "moved" and q.of in wrong & smooth)
    slopes = [_slope_of([q for q in questions if q.role == "moved" and q.of == of], answers) for of in about]
    return min((slope for slope in slopes if slope is not None), default=None)


# Seen only by cases that stand exactly at a kink, where there is no derivative to compare with.
AT_KINKS = {"relu_slope_one_at_zero", "relu_slope_half_at_zero", "pool_tie_last", "pool_tie_split"}


def at_kink(case: Case) -> bool:
    """Whether the case stands exactly at a kink, where only a convention says what the derivative is."""
    return any(name in case.answer.bugs for name in AT_KINKS)


def _slope_of(moved, answers) -> float | None:
    if any(answers[q.id].meta_loss is None for q in moved) or answers[moved[0].of].meta_loss is None:
        return None
    at = answers[moved[0].of]
    d = direction(moved[0].case)
    along = sum(float(np.sum(at.grad[n] * d[n])) for n in d)
    remainders = [abs(answers[q.id].meta_loss - at.meta_loss - q.step * along) for q in moved]
    rounding = tolerance.UNIT[moved[0].case.dtype] * 100 * abs(at.meta_loss)
    usable = [(q.step, r) for q, r in zip(moved, remainders, strict=True) if r > rounding]
    if len(usable) < 2:
        return 2.0 if remainders[0] <= rounding or usable[0][1] < 1e-2 * abs(along * usable[0][0]) else 1.0
    (h, r), (h_, r_) = usable[-2:]  # the smallest: larger ones may cross a kink
    return float(np.log(r / r_) / np.log(h / h_))


def term_regression(judged: list[Judged]) -> str:
    """∏(I − HₖA) g_q is a sum of 2^K terms, one for each set of steps; with which coefficients are they in theirs?

    Said only if every case that could contradict it (more numbers than terms, well conditioned) agrees; or if each is
    a sum of whole terms, though not of the same.
    """
    said: dict[int, set[str]] = {}
    each: dict[str, str] = {}
    for j in judged:
        steps = j.case.inner_steps
        if j.passed or j.case.first_order or not 1 <= steps <= 3 or len(flat(j.answer.grad)) < 2**steps + 2:
            continue
        coefficients = _coefficients(j)
        if coefficients is None:
            return ""
        if coefficients:
            said.setdefault(steps, set()).add(coefficients)
            each[j.case.id] = coefficients
    if not said:
        return ""
    if len(said[max(said)]) > 1:
        if not all("multiplied" not in text for text in each.values()):
            return ""
        shown = "; ".join(f"in {id}, {text}" for id, text in list(each.items())[:3])
        return f"Hessian terms are missing, and not the same in every case ({shown}): a condition decides"
    return said[max(said)].pop() + " (by regression on the terms of the product)"


def _coefficients(j: Judged) -> str | None:
    """In words; "" if the terms cannot be told apart on this case, None if the gradient is no sum of them."""
    case, steps = j.case, j.case.inner_steps
    got = flat(j.answer.grad)
    columns = terms(case)
    matrix = np.stack(list(columns.values()), 1)
    size = np.linalg.norm(matrix, axis=0)
    if np.min(size) == 0 or np.linalg.cond(matrix / size) > 1e5:
        return ""
    c = np.linalg.lstsq(matrix / size, got, rcond=None)[0] / size
    precise = {"float64": 1e-9, "float32": 1e-4}[case.dtype]
    if np.max(np.abs(matrix @ c - got)) > precise * np.max(np.abs(got)):
        return None
    by_set = dict(zip(columns, c, strict=True))
    base = by_set[()]
    if abs(base) < precise:
        return "the term g_q itself is missing"
    each = [by_set[(k,)] / base for k in range(steps)]
    said = [] if abs(base - 1) < 100 * precise else [f"all terms are multiplied by {base:.4g}"]
    said += [f"inner step {k} is detached: 0 on every term with H_{k}" if abs(x) < 100 * precise
             else f"the Hessian term of inner step {k} is multiplied by {x:.4g}"
             for k, x in enumerate(each) if abs(x - 1) > 100 * precise]  # fmt: skip
    mixed = [s for s in by_set if len(s) > 1 and abs(by_set[s] - base * np.prod([each[k] for k in s])) > 100 * precise]
    said += [f"the term {''.join(f'H_{k}' for k in s)} is multiplied by {by_set[s]:.4g}" for s in mixed]
    return "; ".join(said)


def tensor_regression(judged: list[Judged]) -> str:
    """With one step, G = g_q − Σₙ H[:, n] αₙ vₙ, a term for each tensor's inner update; is one missing, or scaled?"""
    said = []
    for j in judged:
        case, got = j.case, flat(j.answer.grad)
        if j.passed or case.first_order or case.inner_steps != 1 or len(got) < len(case.params) + 3:
            continue
        columns = terms(case, each=True)
        matrix = np.stack(list(columns.values()), 1)
        size = np.linalg.norm(matrix, axis=0)
        if np.min(size) == 0 or np.linalg.cond(matrix / size) > 1e5:
            continue
        c = np.linalg.lstsq(matrix / size, got, rcond=None)[0] / size
        precise = {"float64": 1e-9, "float32": 1e-4}[case.dtype]
        if np.max(np.abs(matrix @ c - got)) > precise * np.max(np.abs(got)):
            return ""
        said += [f"no derivative flows through the inner update of {n}" if abs(x) < 100 * precise
                 else f"the derivative through the inner update of {n} is multiplied by {x:.4g}"
                 for n, x in zip(list(columns)[1:], c[1:], strict=True) if abs(x - 1) > 100 * precise]  # fmt: skip
    return "; ".join(dict.fromkeys(said))


def terms(case: Case, each: bool = False) -> dict:
    """Set of steps S → ∏_{k∈S} (−Hₖ A) g_q, the mean over tasks; with `each`, that of the first step by the tensor
    it comes from, name → −H₀[:, name] αₙ (g_q)ₙ."""
    calculus, alpha = Calculus(case.model, Options()), tolerance.rates(case)
    total: dict = {}
    for way, (support, _) in zip(run(case).trace, case.batches(), strict=True):
        batch = tuple(map(as_numbers, support))
        steps = range(case.inner_steps)
        if each:
            total[()] = total.get((), 0) + flat(way["grad_q"]) / case.tasks
            for n in alpha:
                v = {m: alpha[m] * g * (m == n) for m, g in way["grad_q"].items()}
                total[n] = total.get(n, 0) - flat(calculus.along(way["theta"][0], batch, v)) / case.tasks
            continue
        for size in range(case.inner_steps + 1):
            for chosen in itertools.combinations(steps, size):
                v = way["grad_q"]
                for k in reversed(chosen):
                    h = calculus.along(way["theta"][k], batch, {n: alpha[n] * v[n] for n in v})
                    v = {n: -h[n] for n in h}
                total[chosen] = total.get(chosen, 0) + flat(v) / case.tasks
    return total


def order_matters(questions, answers) -> str:
    permuted = next((q for q in questions if q.role == "permuted"), None)
    if permuted is None:
        return ""
    a, b = answers[permuted.of].grad, answers[permuted.id].grad
    case = next(q.case for q in questions if q.id == permuted.of)
    scale, unit = case.answer.scale, tolerance.UNIT[case.dtype]
    if tolerance.error(b, a, scale, unit) <= MATCH:
        return ""
    wrong = tolerance.error(a, case.answer.meta_grad, scale, unit) > tolerance.TAU
    if wrong and np.max(np.abs(flat(b) - flat(a))) <= NOISE[case.dtype] * np.max(np.abs(flat(a))):
        return ""
    return (
        "the gradient depends on the order of the tasks: something is carried from one task to the next, or not all of "
        "them count"
    )


def wrong_elsewhere(questions, answers) -> str:
    """Whether a right gradient is wrong at another θ, or with other data, rate or steps, which no file knows."""
    for q in questions:
        if q.role in ("moved", "changed") and q.id in answers and not _is_right(q, questions, answers):
            if q.role == "moved":
                return (
                    f"case {q.of} is right, but wrong when each number of θ is moved by {q.step:g}: the answer "
                    "does not follow θ; was it kept from an earlier call, or looked up?"
                )
            what = _OTHER[q.id.rpartition("-")[2]]
            return (
                f"case {q.of} is right, but wrong with {what} in the same shapes: is something kept by shape from "
                "an earlier call (a cache, a jitted function that closes over its first arguments)?"
            )
    return ""


def _is_right(q, questions, answers) -> bool:
    """Whether the answer to a changed case is right; True if it was not asked."""
    if q.id not in answers or answers[q.id].grad is None:
        return True
    scale = next(p.case.answer.scale for p in questions if p.id == q.of)
    _, right = tolerance.engine_answer(q.case)
    return tolerance.error(answers[q.id].grad, right, scale, tolerance.UNIT[q.case.dtype]) <= MATCH


def kept_by_shape(questions, answers) -> list[str]:
    """What right answers keep when it changes: with other data, rate or steps they give the first case's gradient."""
    if any(q.role == "moved" and not _is_right(q, questions, answers) for q in questions):
        return []  # it follows not even θ
    kept = []
    bases = {q.id: q.case for q in questions if q.role == "case"}
    for q in questions:
        if q.role == "changed" and q.id in answers and answers[q.id].grad is not None and q.of in bases:
            base, unit = bases[q.of].answer, tolerance.UNIT[q.case.dtype]
            same = tolerance.error(answers[q.id].grad, base.meta_grad, base.scale, unit) <= MATCH
            if same and not _is_right(q, questions, answers):
                kept.append({"data": "data", "rate": "inner_lr", "steps": "inner_steps"}[q.id.rpartition("-")[2]])
    return kept


_OTHER = {"data": "other data", "rate": "another inner_lr", "steps": "another number of inner steps"}


def only_where(judged: list[Judged]) -> str:
    """What every wrong case has, and no right one, if that is unlikely by chance.

    With w wrong and r right cases, a property that has nothing to do with the mistake separates them with a chance of
    about 1 / C(w + r, w). It is said only if that is small beside the number of properties.
    """
    passed = [j.passed for j in judged]
    if all(passed) or not any(passed) or math.comb(len(judged), sum(passed)) < 400:
        return ""
    shared = features(judged)
    if shared:
        return f"wrong exactly in the cases with {', '.join(sorted(shared))}"
    return _beyond(judged)


def features(judged: list[Judged]) -> set[str]:
    """What every wrong case has, and no right one."""
    sides = [[_features(j.case) for j in judged if j.passed == passed] for passed in (False, True)]
    if not all(sides):
        return set()
    return set.intersection(*sides[0]) - set.union(*sides[1])


def _features(case: Case) -> set[str]:
    layers = case.model["layers"]
    used = [n for layer in layers for n in layer.get("params", [])]
    several = {"several inner steps": case.inner_steps > 1, "several tasks": case.tasks > 1,
               "a weight used twice": len(used) > len(set(used)),
               "a square weight": any(p.ndim == 2 and 1 < len(p) == p.shape[1] for p in case.params.values()),
               "several outputs": np.shape(case.support[0][1])[1:] > (1,)}  # fmt: skip
    return {layer["layer"] for layer in layers} | {case.model["loss"]} | {name for name, yes in several.items() if yes}


def _beyond(judged: list[Judged]) -> str:
    """A size that is larger in all wrong cases than in any right one."""
    for what, of in _SIZES.items():
        wrong, right = ([of(j.case) for j in judged if j.passed == passed] for passed in (False, True))
        if min(wrong) > max(right):
            return f"wrong exactly where {what} is above {max(right):.3g}"
    return ""


_SIZES = {
    "the number of inner steps": lambda c: c.inner_steps,
    "the number of tasks": lambda c: c.tasks,
    "the number of support examples": lambda c: len(c.support[0][0]),
    "the number of query examples": lambda c: len(c.query[0][0]),
    "the largest entry of the right gradient": lambda c: float(np.max(np.abs(flat(c.answer.meta_grad)))),
    "the norm of the right gradient": lambda c: float(np.linalg.norm(flat(c.answer.meta_grad))),
}


def right_tensors(judged: list[Judged]) -> str:
    """Which tensors are right in every case that has them, when some are wrong."""
    state: dict[str, set[bool]] = {}
    for j in judged:
        for n, g in j.answer.grad.items():
            r, s = j.case.answer.meta_grad[n], j.case.answer.scale[n]
            good = np.max(tolerance.errors(g, r, s, tolerance.UNIT[j.case.dtype]), initial=0) <= tolerance.TAU
            state.setdefault(n, set()).add(bool(good))
    wrong = [n for n, seen in state.items() if seen == {False}]
    right = [n for n, seen in state.items() if seen == {True}]
    return f"always wrong: {', '.join(wrong)}; always right: {', '.join(right)}" if wrong and right else ""


def worst_element(judged: list[Judged]) -> str:
    """Where the answers are furthest from right; "" if all of them are right."""
    j = max(judged, key=lambda j: j.error)
    if j.error <= tolerance.TAU:
        j = max(judged, key=lambda j: j.loss_error)
        if j.answer.meta_loss is None or j.loss_error <= tolerance.TAU:
            return ""
        return f"case {j.case.id}, meta_loss: yours {j.answer.meta_loss:.9g}, right {j.case.answer.meta_loss:.9g}"
    right, unit = j.case.answer, tolerance.UNIT[j.case.dtype]
    off = {n: tolerance.errors(g, right.meta_grad[n], right.scale[n], unit) for n, g in j.answer.grad.items()}
    name = max(off, key=lambda n: np.max(off[n], initial=0))
    at = np.unravel_index(np.argmax(off[name]), off[name].shape)
    return (f"case {j.case.id}, {element(name, at)}: yours {j.answer.grad[name][at]:.9g}, "
            f"right {right.meta_grad[name][at]:.9g}")  # fmt: skip


def first_difference(a: dict, b: dict) -> str:
    name = max(a, key=lambda n: np.max(np.abs(a[n] - b[n]), initial=0))
    at = np.unravel_index(np.argmax(np.abs(a[name] - b[name])), a[name].shape)
    return f"{a[name][at]:.17g}, then {b[name][at]:.17g} for {element(name, at)}"


def digits_agreeing(j: Judged) -> float:
    got, right = flat(j.answer.grad), flat(j.case.answer.meta_grad)
    size = np.max(np.abs(right))
    off = np.max(np.abs(got - right))
    return float(np.clip(-np.log10(off / size), 0, 17)) if off and size else (17.0 if not off else 0.0)


def element(name: str, at) -> str:
    return f"{name}[{', '.join(str(int(i)) for i in at)}]" if len(at) else name
