"""From answers to a verdict: what is wrong, and where.

In this order: could it be judged at all; is it the same twice; is it right; does one known mistake explain *every*
case, right ones included; a known mistake times a factor; the right numbers with fewer digits; two mistakes at once.
What is left is unknown, and `locate` says where: by the trace, by the terms of ∏(I − HₖA), by its own meta-loss, by the
tensor.
"""

from __future__ import annotations

import itertools

import numpy as np

from . import tolerance
from .cases import Case
from .catalogue import CATALOGUE, flat, run_form
from .locate import (
    MATCH,
    Judged,
    digits_agreeing,
    first_difference,
    layout,
    only_where,
    order_matters,
    own_slope,
    right_tensors,
    tensor_regression,
    term_regression,
    trace_error,
    worst_element,
    wrong_elsewhere,
)  # fmt: skip
from .questions import Answered, Question, hint
from .references import forms
from .report import CaseResult, Report


def judge(case: Case, answer: Answered) -> Judged:
    """Compare an answer with the case's."""
    right, unit = case.answer, tolerance.UNIT[case.dtype]
    assert right is not None and answer.grad is not None
    error = tolerance.error(answer.grad, right.meta_grad, right.scale, unit)
    loss_error = 0.0
    if answer.meta_loss is not None:
        loss_error = float(tolerance.errors(answer.meta_loss, right.meta_loss, right.loss_scale, unit))
    return Judged(case, answer, error, loss_error)


def diagnose(questions: list[Question], answers: dict[str, Answered]) -> Report:
    """The verdict on the answers, {question's id: answer}."""
    cases = {q.id: q for q in questions if q.role == "case"}
    if not cases:
        return Report("SKIPPED", explanation="no case is left to ask")
    broken = [(q, answers[q.id]) for q in questions if answers[q.id].problem]
    if broken:
        return _broken(broken, len(questions))
    judged = [judge(q.case, answers[q.id]) for q in cases.values()]
    further = {q.role: q for q in questions if q.role != "case"}
    report = (
        _unstable(questions, answers, further)
        or _right(judged, order_matters(questions, answers) or wrong_elsewhere(questions, answers)) or _known(judged)
        or _imprecise(judged) or _two(judged) or _unknown(judged, questions, answers)
    )  # fmt: skip
    report.cases = report.cases or _rows(judged, "")
    report.notes += sorted({note for a in answers.values() for note in a.notes})
    if report.verdict != "PROTOCOL_ERROR" and any(a.changed_inputs for a in answers.values()):
        report.notes.append(_CHANGED)
    if report.verdict != "CORRECT":
        report.digits = min(digits_agreeing(j) for j in judged)
        report.location = report.location or worst_element(judged)
    return report


# ── could it be judged ──────────────────────────────────────────────────────────────────────────────────────────────


def _broken(broken, asked: int) -> Report:
    question, answer = broken[0]
    meaning = hint(answer.problem)
    different = {a.problem: (q, a) for q, a in reversed(broken)}
    more = f" ({len(broken)} of {asked} questions failed)" if len(broken) > 1 else ""
    return Report(
        "PROTOCOL_ERROR", explanation=answer.problem + (f": {meaning}" if meaning else "") + more,
        location=f"case {question.id}",
        cases=[CaseResult(q.id, False, np.inf, a.problem) for q, a in reversed(different.values())],
    )


def _unstable(questions, answers, further) -> Report | None:
    again = further.get("again")
    if again is None:
        return None
    first, second = answers[again.of], answers[again.id]
    scale, unit = again.case.answer.scale, tolerance.UNIT[again.case.dtype]
    if tolerance.error(second.grad, first.grad, scale, unit) <= tolerance.TAU:
        return None
    more = {n: second.grad[n] - first.grad[n] for n in first.grad}
    if tolerance.error(more, again.case.answer.meta_grad, scale, unit) <= MATCH:
        mistake = CATALOGUE["gradients_not_zeroed"]
        return Report("KNOWN_BUG", mistake.id, mistake.explanation)
    return Report(
        "NONDETERMINISTIC",
        explanation=f"case {again.of}, asked twice, gave {first_difference(first.grad, second.grad)}: dropout, a "
        "random sample or state that is kept from call to call",
    )


# ── is it right ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _right(judged: list[Judged], elsewhere: str) -> Report | None:
    if any(j.error > tolerance.TAU for j in judged):
        return None
    if any(j.loss_error > tolerance.TAU for j in judged):
        return Report(
            "WRONG_UNKNOWN", None, "the meta-gradient is right in every case; the meta-loss returned with it is not",
            kind="forward differs",
        )
    seen = {name.split("/")[0] for j in judged for name in j.case.answer.bugs.seen}
    unseen = [name for name in _CORE_SEES if name not in seen]
    if unseen:
        return Report(
            "INCONCLUSIVE",
            explanation=f"all right, but these cases are blind to {', '.join(unseen)}",
        )
    changed = next((j for j in judged if j.answer.changed_inputs), None)
    if changed:
        return Report("PROTOCOL_ERROR", None, f"the numbers are right, but {_CHANGED}", f"case {changed.case.id}")
    if elsewhere:
        return Report("WRONG_UNKNOWN", None, elsewhere, "the first case with several tasks, asked again with a change")
    for j in judged:
        problem = trace_error(j)
        if problem:
            return Report("WRONG_UNKNOWN", None, "the meta-gradient is right, the trace is not", problem)
    return Report("CORRECT")


_CHANGED = "arrays of the case (θ or the data) were changed in place"

# What any set of cases must be able to see before CORRECT is said: all but what needs a special case.
_SPECIAL = {"first_order_ignored", "all_adapted", "one_rate_for_all", "gradients_not_zeroed"}
_CORE_SEES = [m.id for m in CATALOGUE.values() if not m.convention and m.id not in _SPECIAL]


# ── is it a known mistake ───────────────────────────────────────────────────────────────────────────────────────────


def fits(case: Case, grad: dict, value: dict | None, factor: float = 1.0) -> bool:
    """Whether `grad` is factor · value to rounding; a value that is not known (it diverges) contradicts nothing."""
    if value is None:
        return True
    right = case.answer
    wanted = flat(value) * factor
    scale, size = flat(right.scale), np.max(np.abs(flat(right.meta_grad)))
    larger = max(1.0, np.max(np.abs(wanted)) / size) if size else 1.0
    scale = np.maximum(scale, np.median(scale)) * larger
    return float(np.max(tolerance.errors(flat(grad), wanted, scale, tolerance.UNIT[case.dtype]))) <= MATCH


def value_of(case: Case, name: str) -> dict | None:
    """What the mistake's form gives on the case; the right gradient, where the case is blind to it."""
    return case.answer.bugs.get(name, case.answer.meta_grad)


def _factors(case: Case) -> dict[str, float]:
    support, query = (len(batches[0][0]) for batches in (case.support, case.query))
    sizes = {"T": case.tasks, "N": support, "N_q": query, "K": max(case.inner_steps, 1)}
    out = {}
    for name, n in sizes.items():
        out |= {name: float(n), f"1/{name}": 1 / n}
    rate = case.inner_lr if isinstance(case.inner_lr, float) and case.inner_lr else 1.0
    return out | {"α": rate, "1/α": 1 / rate, "β": case.outer_lr, "1/β": 1 / case.outer_lr, "2": 2.0, "1/2": 0.5,
                  "−1": -1.0, "−α": -rate, "−1/α": -1 / rate}  # fmt: skip


def _known(judged: list[Judged]) -> Report | None:
    names = list(dict.fromkeys(name for j in judged for name in forms(j.case)))
    explains = [n for n in names if all(fits(j.case, j.answer.grad, value_of(j.case, n)) for j in judged)]
    explains = [n for n in explains if any(j.case.answer.bugs.get(n) is not None for j in judged if not j.passed)]
    if explains:
        return _named(judged, explains)
    return _scaled(judged, names)


def _named(judged, explains, suffix: str = "", what: str = "") -> Report:
    ids = list(dict.fromkeys(name.split("/")[0] for name in explains))
    mistake = CATALOGUE[ids[0]]
    verdict = "CORRECT_OTHER_CONVENTION" if mistake.convention and not suffix else "KNOWN_BUG"
    explanation = mistake.explanation + suffix
    if mistake.id == "sum_over_tasks" and not suffix and _loss_is_sum(judged):
        verdict, explanation = "CORRECT_OTHER_CONVENTION", explanation + "; your meta-loss is that sum too"
    return Report(
        verdict, mistake.id, explanation, ties=ids[1:],
        cases=_rows(judged, mistake.id + what),
    )  # fmt: skip


def _rows(judged, fits: str) -> list[CaseResult]:
    return [CaseResult(j.case.id, j.passed, max(j.error, j.loss_error), "" if j.passed else fits) for j in judged]


def _loss_is_sum(judged) -> bool:
    several = [j for j in judged if j.case.tasks > 1]
    return bool(several) and all(
        j.answer.meta_loss is not None
        and tolerance.errors(
            j.answer.meta_loss, j.case.tasks * j.case.answer.meta_loss, j.case.tasks * j.case.answer.loss_scale,
            tolerance.UNIT[j.case.dtype],
        ) <= tolerance.TAU
        for j in several
    )  # fmt: skip


def _scaled(judged, names) -> Report | None:
    """g = c · value, with one meaning of c for all cases."""
    factors = {j.case.id: _factors(j.case) for j in judged}
    for name in ["", *names]:
        for c in _factors(judged[0].case):
            good = (fits(j.case, j.answer.grad, value_of(j.case, name), factors[j.case.id][c]) for j in judged)
            if all(good):
                if name:
                    return _named(judged, [name], f"; and all of it is multiplied by {c}", f" × {c}")
                return Report(
                    "WRONG_UNKNOWN", None, f"the meta-gradient is {c} times the right one in every case"
                    + _SIZES.get(c.removeprefix("1/"), ""), kind="right derivative of another objective",
                    cases=_rows(judged, f"right × {c}"),
                )  # fmt: skip
    c = _constant(judged)
    if c is None:
        return _clipped(judged)
    return Report(
        "WRONG_UNKNOWN", None, f"the meta-gradient is {c:.12g} times the right one in every case",
        kind="right derivative of another objective",
        cases=_rows(judged, f"right × {c:.6g}"),
    )  # fmt: skip


def _clipped(judged) -> Report | None:
    """Right directions, all of one length where they should be longer."""
    wrong, lengths = [j for j in judged if j.error > tolerance.TAU], []
    for j in wrong:
        got, right = flat(j.answer.grad), flat(j.case.answer.meta_grad)
        along = float(got @ right / (right @ right)) if np.any(right) else 0.0
        if not 0 < along < 1 or not fits(j.case, j.answer.grad, j.case.answer.meta_grad, along):
            return None
        lengths.append(float(np.linalg.norm(got)))
    # PyTorch's clip_grad_norm_ divides by norm + 1e-6; a single case proves it if the length is a round number
    rounded = float(f"{lengths[0]:.2g}")
    if max(lengths) - min(lengths) > 1e-4 * max(lengths) or len(wrong) < 2 and abs(lengths[0] / rounded - 1) > 1e-4:
        return None
    passed = [np.linalg.norm(flat(j.case.answer.meta_grad)) for j in judged if j.error <= tolerance.TAU]
    if max(passed, default=0) > 1.001 * max(lengths):
        return None
    return _named(judged, ["clipped_gradient"], f" (here to {max(lengths):.4g})")


def _constant(judged) -> float | None:
    """The number c of g = c · G in every case, if there is one."""
    largest = max(judged, key=lambda j: np.max(np.abs(flat(j.case.answer.meta_grad))))
    got, right = flat(largest.answer.grad), flat(largest.case.answer.meta_grad)
    c = float(got @ right / (right @ right))
    found = c != 0 and all(fits(j.case, j.answer.grad, j.case.answer.meta_grad, c) for j in judged)
    return c if found else None


_SIZES = {
    "T": ": T is the number of tasks", "N": ": N is the number of support examples; a mean or a sum too many",
    "N_q": ": N_q is the number of query examples; the query loss is a sum, or its mean was divided again",
    "K": ": K is the number of inner steps", "α": ": α is inner_lr", "β": ": β is outer_lr",
}  # fmt: skip


def _two(judged: list[Judged]) -> Report | None:
    """Two mistakes at once: looked for on the wrong case that is computed fastest, confirmed on the others."""
    by_cost = sorted(judged, key=lambda j: (j.error <= tolerance.TAU, _cost(j.case)))
    here = {j.case.id: forms(j.case) for j in by_cost}
    possible = {name: form for these in here.values() for name, form in these.items()}
    for (a, form_a), (b, form_b) in itertools.combinations(possible.items(), 2):
        both = merged(form_a, form_b)
        if both is None or a.split("/")[0] == b.split("/")[0]:
            continue
        if all(_explains(j, together(here[j.case.id], a, b)) for j in by_cost):
            ids = [a.split("/")[0], b.split("/")[0]]
            return Report(
                "KNOWN_BUG", " + ".join(ids), "two at once: " + "; and ".join(CATALOGUE[i].explanation for i in ids),
                cases=_rows(judged, " + ".join(ids)),
            )  # fmt: skip
    return None


def _cost(case: Case) -> int:
    """How long a mistake takes to compute, roughly: gradients times layers."""
    return (case.inner_steps + 1) * case.tasks * (len(case.model["layers"]) + 10 * ("conv" in str(case.model)))


def together(possible: dict[str, dict], a: str, b: str) -> dict:
    """The form of two of the `possible` mistakes on a case; a mistake in a layer the model lacks has no effect."""
    return merged(possible.get(a, {}), possible.get(b, {})) or possible.get(a) or possible.get(b) or {}


def merged(a: dict, b: dict) -> dict | None:
    """Both forms' settings together; None where they contradict each other, or are the same."""
    shared = (a.keys() & b.keys()) - {"how"}
    how = {**a.get("how", {}), **b.get("how", {})}
    clash = any(a[k] != b[k] for k in shared) or any(
        a["how"][k] != b["how"][k] for k in a.get("how", {}).keys() & b.get("how", {}).keys()
    )
    both = {**a, **b} | ({"how": how} if how else {})
    return None if clash or both in (a, b) else both


def _explains(j: Judged, form: dict) -> bool:
    with np.errstate(all="ignore"):
        grads = run_form(j.case, form).meta_grad
    return bool(np.isfinite(flat(grads)).all()) and fits(j.case, j.answer.grad, grads)


# ── is it right with fewer digits ───────────────────────────────────────────────────────────────────────────────────


def _imprecise(judged: list[Judged]) -> Report | None:
    unit = tolerance.UNIT[judged[0].case.dtype]
    off = [max(j.error, j.loss_error) * unit for j in judged]  # relative to the conditioning
    if max(off) > 1e-3:
        return None
    # decisive where the error is small beside what the nearest mistake would make
    decisive = [j for j, e in zip(judged, off, strict=True) if e * 100 < j.case.answer.distance * 2.0**-53]
    if not any(not j.passed for j in decisive):
        return None
    digits = min(digits_agreeing(j) for j in judged)
    full = -np.log10(unit)
    cause = "float32 (or TF32) somewhere in a float64 computation?" if 5 < digits < 9 else (
        "a derivative by finite differences? an unstable formula?")  # fmt: skip
    return Report(
        "IMPRECISE",
        explanation=f"{digits:.0f} digits agree where {judged[0].case.dtype} has {full:.0f}: {cause}", digits=digits,
    )  # fmt: skip


# ── what is left ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _unknown(judged: list[Judged], questions, answers) -> Report:
    notes = []
    traces = list(filter(None, map(trace_error, judged)))
    slope = own_slope(questions, answers, {j.case.id for j in judged if not j.passed})
    losses = [j.loss_error <= tolerance.TAU for j in judged if j.answer.meta_loss is not None]
    kind = None
    if losses:
        if all(losses):
            kind = "wrong derivative"
            notes.append("your meta-loss is right, so the forward computation is; its derivative is not")
        else:
            kind = "right derivative of another objective" if slope is not None and slope > 1.5 else "forward differs"
            also = ", and the gradient is not its derivative either" if slope is not None and slope <= 1.5 else ""
            notes.append(f"your meta-loss is not the case's{also}")
        if slope is not None and not (all(losses) and slope > 1.5):
            right = "" if slope > 1.5 else "not "
            notes.append(
                f"Taylor remainder of your own meta-loss along your gradient: slope {slope:.1f}, so it is {right}the "
                "derivative of what you compute"
            )
    else:
        notes.append('return "meta_loss" too, and the report can tell a wrong derivative from another objective')
    places = layout(judged)
    found = [order_matters(questions, answers), places, "" if places else term_regression(judged)]
    found += ["" if any(found) else tensor_regression(judged), _nearest(judged)]
    found = list(filter(None, [*found, only_where(judged)])) or [right_tensors(judged)]
    explanation = "; ".join(found) or "no mistake of the catalogue, nor two of them, gives these numbers"
    return Report("WRONG_UNKNOWN", None, explanation, traces[0] if traces else "", kind, notes=notes)


def _nearest(judged: list[Judged]) -> str:
    """The mistake that explains most cases, if it explains nearly all."""
    names = list(dict.fromkeys(name for j in judged for name in forms(j.case)))
    wrong = [j for j in judged if j.error > tolerance.TAU]
    count = {n: sum(fits(j.case, j.answer.grad, value_of(j.case, n)) for j in wrong) for n in names}
    best = max(count, key=count.__getitem__)
    if count[best] < 0.6 * len(wrong) or not wrong:
        return ""
    missed = [j.case.id for j in judged if not fits(j.case, j.answer.grad, value_of(j.case, best))]
    return f"{best.split('/')[0]} would explain all but {', '.join(missed[:3])}"
