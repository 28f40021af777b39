"""From answers to a verdict: what is wrong, and where.

In this order: could it be judged at all, or does it diverge as a known mistake does; is it the same twice; is it right;
does one known mistake explain *every* case, right ones included, alone or with a number of its own (`match`); times a
factor; are digits lost (`precision`); is it two mistakes at once. If none fits, the mistake is unknown, and is
described: by what yours − right is (`difference`), by the inner loop where it came (`adaptation`), and by `locate`: the
trace, the terms of ∏(I − HₖA), its own meta-loss, the tensor.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from . import family, tolerance
from .cases import Case
from .catalogue import CATALOGUE, OF_MAML
from .clues import adaptation, examples, match, pairs, tasks
from .clues.difference import said_of
from .clues.evidence import add_evidence
from .clues.locate import (
    MATCH,
    Judged,
    at_kink,
    digits_agreeing,
    first_difference,
    kept_by_shape,
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
from .clues.precision import cause_of, shortened, systematic
from .pages.report import CaseResult, Report
from .questions import Answered, Question, hint


def judge(case: Case, answer: Answered) -> Judged:
    """Compare an answer with the case's."""
    right, unit = case.answer, tolerance.UNIT[case.dtype]
    assert right is not None and (answer.grad is not None or answer.diverged)
    if answer.grad is None:
        return Judged(case, answer, np.inf, 0.0)
    error = tolerance.error(answer.grad, right.meta_grad, right.scale, unit)
    loss_error = 0.0
    if answer.meta_loss is not None:
        loss_error = float(tolerance.errors(answer.meta_loss, right.meta_loss, right.loss_scale, unit))
    return Judged(case, answer, error, loss_error)


def passes(questions: list[Question], answers: dict[str, Answered]) -> bool:
    """Whether all answers are right: what `diagnose` asks before it says CORRECT."""
    judged = [judge(q.case, answers[q.id]) for q in questions if q.role == "case"]
    report = _right(judged, questions, answers)
    return report is not None and report.verdict == "CORRECT"


def diagnose(questions: list[Question], answers: dict[str, Answered], before: Report | None = None) -> Report:
    """The verdict on the answers, {question's id: answer}.

    Args:
        before: the report on the same cases, with fewer other questions; what had no name then needs no second search.
    """
    cases = {q.id: q for q in questions if q.role == "case"}
    if not cases:
        return Report("SKIPPED", explanation="no case is left to ask")
    broken = [(q, answers[q.id]) for q in questions if answers[q.id].problem]
    if not all(answer.diverged for _, answer in broken):
        return _broken(broken, len(questions))
    judged = [judge(q.case, answers[q.id]) for q in cases.values()]
    further = {q.role: q for q in questions if q.role != "case"}
    with np.errstate(all="ignore"):  # what a mistake gives may overflow
        if broken:
            report = _diverging(judged, broken)
            if report is None:
                return _broken(broken, len(questions))
        else:
            report = (
                _unstable(answers, further)
                or _right(judged, questions, answers)
                or (_one(judged, questions, answers) if before is None else _again(before))
                or _imprecise(judged, cause_of(judged, questions, answers))
                or (pairs.two(judged) if before is None or before.verdict != "WRONG_UNKNOWN" else None)
                or (match.roughly(judged) if before is None or before.verdict != "WRONG_UNKNOWN" else None)
                or _unknown(judged, questions, answers)
            )
    judged = [j for j in judged if not j.gradient_diverged]
    report.cases = report.cases or match.rows(judged, "")
    report.notes += sorted({note for a in answers.values() for note in a.notes})
    if report.verdict != "PROTOCOL_ERROR" and any(a.changed_inputs for a in answers.values()):
        report.notes.append(_CHANGED)
    if report.verdict != "CORRECT":
        report.digits = min(digits_agreeing(j) for j in judged) if report.digits is None else report.digits
        report.location = report.location or worst_element(judged)
    add_evidence(report, questions, answers, judged)
    return report


# ── could it be judged ──────────────────────────────────────────────────────────────────────────────────────────────


def _broken(broken, asked: int) -> Report:
    question, answer = broken[0]
    meaning = hint(answer.problem)
    different = {a.problem: (q, a) for q, a in reversed(broken)}
    more = f" ({len(broken)} of {asked} questions failed)" if len(broken) > 1 else ""
    return Report(
        "PROTOCOL_ERROR",
        explanation=answer.problem + (f": {meaning}" if meaning else "") + more,
        location=f"case {question.id}",
        cases=[CaseResult(q.id, False, np.inf, a.problem) for q, a in reversed(different.values())],
    )


def _diverging(judged: list[Judged], broken) -> Report | None:
    """One mistake that explains all gradients that are finite, and diverges where they are not."""
    if all(j.passed or j.gradient_diverged for j in judged):
        return None
    report = match.known(judged) or match.with_a_number(judged)[0]
    if report:
        question, answer = broken[0]
        report.notes.append(f"case {question.id}: {answer.problem}, as this mistake makes it")
    return report


def _unstable(answers, further) -> Report | None:
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


def _right(judged: list[Judged], questions, answers) -> Report | None:
    if any(j.error > tolerance.TAU for j in judged):
        return None
    if any(j.loss_error > tolerance.TAU for j in judged):
        return Report(
            "WRONG_UNKNOWN",
            None,
            "the meta-gradient is right in every case; the meta-loss returned with it is not",
            kind="forward differs",
        )
    seen = {name.split("/")[0] for j in judged for name in j.case.answer.bugs.seen}
    unseen = [name for name in must_see(judged[0].case.algorithm) if name not in seen]
    if unseen:
        return Report(
            "INCONCLUSIVE",
            explanation=f"all right, but these cases are blind to {', '.join(unseen)}",
        )
    changed = next((j for j in judged if j.answer.changed_inputs), None)
    if changed:
        return Report("PROTOCOL_ERROR", None, f"the numbers are right, but {_CHANGED}", f"case {changed.case.id}")
    if kept := _kept(questions, answers):
        return kept
    elsewhere = order_matters(questions, answers) or wrong_elsewhere(questions, answers)
    if elsewhere:
        return Report("WRONG_UNKNOWN", None, elsewhere, "the first case with several tasks, asked again with a change")
    for j in judged:
        problem = trace_error(j)
        if problem:
            return Report("WRONG_UNKNOWN", None, "the meta-gradient is right, the trace is not", problem)
    if any(j.answer.adapted for j in judged) and not adaptation.ends_are_right(judged):
        return Report("WRONG_UNKNOWN", None, f"the meta-gradient is right; {adaptation.inner_loop(judged)}")
    return Report("CORRECT")


_CHANGED = "arrays of the case (θ or the data) were changed in place"


def must_see(algorithm: str) -> list[str]:
    """The mistakes that a set of cases must be able to see before CORRECT is said: the classic ones, but what needs a
    special case."""
    if algorithm == "maml":
        possible = [m for m in OF_MAML.values() if m.forms]
    else:
        module = family.ALGORITHMS[algorithm]
        possible = [*module.MISTAKES, *(CATALOGUE[name] for name in module.SHARED)]
    return [m.id for m in possible if m.kind == "bug" and m.classic and not m.special]


def _kept(questions, answers) -> Report | None:
    kept = kept_by_shape(questions, answers)
    if not kept:
        return None
    mistake = CATALOGUE["kept_by_shape"]
    return Report("KNOWN_BUG", mistake.id, f"{mistake.explanation} (here {', '.join(kept)})")


def _one(judged: list[Judged], questions, answers) -> Report | None:
    """One known mistake, or right numbers that were cut short."""
    report = match.known(judged) or _imprecise(judged, shortened(judged)) or match.one_times_a_size(judged)
    if report:
        return report
    everywhere, partly = match.with_a_number(judged)
    found = everywhere or match.scaled(judged) or match.clipped(judged) or _kept(questions, answers)
    return found or tasks.weighted(judged) or examples.put_together(judged) or match.partly_known(judged) or partly


def _again(before: Report) -> Report | None:
    """What one known mistake explained in the round before: the cases are the same."""
    return dataclasses.replace(before, notes=[], framework="") if before.bug or before.factor else None


# ── is it right with fewer digits ───────────────────────────────────────────────────────────────────────────────────


def _imprecise(judged: list[Judged], cause: str) -> Report | None:
    if not cause:
        return None
    digits = min(digits_agreeing(j) for j in [j for j in judged if not at_kink(j.case)] or judged)
    full = int(-np.log10(tolerance.UNIT[judged[0].case.dtype]))
    agree = "1 digit agrees" if round(digits) == 1 else f"{digits:.0f} digits agree"
    said = f"{agree} where {judged[0].case.dtype} has {full}: {cause}"
    return Report("IMPRECISE", explanation=said, digits=digits)


# ── what is left ────────────────────────────────────────────────────────────────────────────────────────────────────


def _unknown(judged: list[Judged], questions, answers) -> Report:
    """Everything that can be said of answers that nothing in the catalogue explains."""
    trace = next(filter(None, map(trace_error, judged)), "")
    kind, notes = _kind(judged, questions, answers)
    plain = [j for j in judged if j.case.algorithm == "maml"]
    difference = said_of(judged, questions)
    found = [order_matters(questions, answers), difference, adaptation.inner_loop(judged)]
    if not difference and len(plain) == len(judged):
        by_step = term_regression(judged)
        found += [by_step, "" if by_step else tensor_regression(judged)]
    found += [match.nearest(judged), _small(judged, questions, answers), only_where(judged)]
    found = list(dict.fromkeys(filter(None, found))) or [right_tensors(judged)]
    explanation = "; ".join(filter(None, found)) or "no mistake of the catalogue, nor two of them, gives these numbers"
    return Report("WRONG_UNKNOWN", None, explanation, trace, kind, notes=notes)


def _kind(judged: list[Judged], questions, answers) -> tuple[str | None, list[str]]:
    """Of which kind a wrong gradient is, by its own meta-loss; and what to say of that."""
    slope = own_slope(questions, answers, {j.case.id for j in judged if not j.passed})
    losses = [j.loss_error <= tolerance.TAU for j in judged if j.answer.meta_loss is not None]
    if not losses:
        return None, ['return "meta_loss" too, and the report can tell a wrong derivative from another objective']
    if all(losses):
        notes = ["your meta-loss is right, so the forward computation is; its derivative is not"]
        if slope is not None and slope <= 1.5:
            notes.append(_remainder(slope, "not "))
        return "wrong derivative", notes
    if slope is None:
        return "forward differs", ["your meta-loss is not the case's"]
    if slope > 1.5:
        return "right derivative of another objective", ["your meta-loss is not the case's", _remainder(slope, "")]
    return "forward differs", [
        "your meta-loss is not the case's, and the gradient is not its derivative either", _remainder(slope, "not ")
    ]  # fmt: skip


def _remainder(slope: float, negation: str) -> str:
    return (f"Taylor remainder of your own meta-loss along your gradient: slope {slope:.1f}, so it is {negation}the "
            "derivative of what you compute")  # fmt: skip


def _small(judged: list[Judged], questions, answers) -> str:
    """Of a small error that follows θ: it is no rounding."""
    digits = min(digits_agreeing(j) for j in judged)
    if digits < 2 or not systematic(judged, questions, answers):
        return ""
    return (f"{digits:.0f} digits agree, but the error follows θ smoothly, as that of another formula does, and not as "
            "rounding")  # fmt: skip
