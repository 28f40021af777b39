"""Ask a Python function, and judge its answers.

It is called like this:

    report = check(mine)                   mine(case) → {"meta_grad": …}, and if it likes "meta_loss", "trace"
    report = check(mine, suite="fresh")    cases drawn now, whose answers no file holds
    report = check(mine, cases="conv-*", progress=True)      some cases, with a line for each as it is answered
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import queue
import threading
import time
import traceback
from collections.abc import Callable, Iterable

import numpy as np

from .. import tolerance
from ..cases import Case, Tampered
from ..diagnosis import diagnose, passes
from ..pages.report import Report
from ..questions import Answered, Question, questions, read_answer
from .progress import Came, Screen, Watch


def check(
    candidate: Callable, suite: str | list[Case] = "core", *, dtype: str = "float64",
    capabilities: Iterable[str] = (), timeout: float = 60.0, seed: int | None = None,
    cases: str | Iterable[str] = (), fail_fast: bool = False, progress: bool | Callable[[Came], None] = False,
    algorithm: str = "maml",
) -> Report:  # fmt: skip
    """Is this the exact MAML gradient, and if not, which mistake is it?

    The candidate runs in this process, and nothing protects the judge from it there: code that patches this package
    can obtain any verdict, `os._exit` ends the process, and what the candidate prints goes wherever this process
    prints. `tinymaml oracle check module:function` gives it a process of its own. Use that wherever the candidate is
    not your own, or the verdict matters to others.

    Args:
        candidate: `candidate(case)` → a dict with
            "meta_grad": the gradient of the mean over tasks of the query loss at θ_K, as {name: array} or a list in the
                order of the parameters; arrays of any library;
            "meta_loss" (optional): that mean, with which a wrong derivative can be told from another objective;
            "trace" (optional): for each task a dict with lists "theta" (θ₀ … θ_K), "loss_s", "grad_s", one entry a
                step, and "loss_q", "grad_q"; any of them may be left out. The first wrong one is named.
        suite: "core", "full", "fresh", or a list of cases.
        dtype: of the arrays handed out, and the precision expected: "float64" or "float32".
        capabilities: what it can do beyond the plain case, see `cases.CAPABILITIES`; the rest is skipped and counted.
        timeout: seconds for one case.
        seed: of the new cases; by default another each time.
        cases: ask only these: ids, their beginnings, or patterns such as "conv-*". The verdict is then never CORRECT.
        fail_fast: stop at the first wrong case, and report on what came.
        progress: True for a line on standard error per answer, or a function that is called with each `Came`.
        algorithm: whose meta-gradient is wanted, "maml" or a name of `family.ALGORITHMS`, whose modules say what it is.

    Raises:
        ValueError: an unknown suite, algorithm, dtype, capability or case; a time-out that is no positive number.
        Tampered: the vectors are not those that shipped, or not what the engine computes here.

    >>> from tinymaml import oracle
    >>> def mine(case):
    ...     loss, params, tasks = case.numpy()
    ...     of = dict(inner_lr=case.inner_lr, inner_steps=case.inner_steps, first_order=True)  # the mistake
    ...     return {"meta_grad": tm.meta_value_and_grad(loss, **of)(params, tasks)[1]}
    >>> report = oracle.check(mine, cases="quadratic")
    >>> report.verdict, report.bug
    ('KNOWN_BUG', 'fomaml')
    """
    timeout = seconds(timeout)
    only = (cases,) if isinstance(cases, str) else tuple(cases)
    asked, left_out = questions(suite, dtype, tuple(capabilities), seed, only, algorithm)
    confirm(asked)
    with Screen(verbose=True) as screen:
        watch = Watch(screen.show if progress is True else progress or None, fail_fast)
        ask = functools.partial(_ask_all, candidate, timeout, watch)
        return examine(asked, left_out, ask, suite, dtype, only, watch)


# Only for these verdicts is it worth asking at other θ for every kind of model.
_ASK_MORE = ("WRONG_UNKNOWN", "IMPRECISE")


def examine(asked, left_out, ask, suite, dtype, only, watch, rounds: int = 2) -> Report:
    """Ask, and conclude; in two rounds, of which the second is needed only if something unknown is wrong.

    Args:
        ask: `ask(questions)` → {id: Answered}.
    """
    moved = dict.fromkeys(q.of for q in asked if q.role == "moved")
    later = {q.id: q for q in asked if q.role == "moved" and q.of != next(iter(moved)) and rounds == 2}
    answers: dict[str, Answered] = {}
    report = None
    for some in ([q for q in asked if q.id not in later], list(later.values())):
        watch.asks(some)
        answers |= ask(some)
        came = [q for q in asked if q.id in answers]
        report = conclude(came, left_out, answers, suite, dtype, report)
        if watch.stopped or report.verdict not in _ASK_MORE or len(came) == len(asked):
            break
    every, here = (sum(q.role == "case" for q in some) for some in (asked, came))
    if watch.stopped:
        report.notes.append(f"stopped at the first wrong case: {here} of {every} cases were asked")
    if only and report.verdict in ("CORRECT", "INCONCLUSIVE"):
        report.verdict = "INCONCLUSIVE"
        report.explanation = f"all right, but only the cases that were chosen were asked: {', '.join(only)}"
    report.seconds, report.asked = time.monotonic() - watch.start, len(came)
    return report


def seconds(timeout: float) -> float:
    """A time-out, as far as this machine can count.

    Raises:
        ValueError: it is not a number above 0.
    """
    if not timeout > 0:  # or nan
        raise ValueError(f"timeout is {timeout}, wanted seconds, more than 0")
    return min(timeout, threading.TIMEOUT_MAX / 2)


def _ask_all(candidate: Callable, timeout: float, watch: Watch, asked: list[Question]) -> dict[str, Answered]:
    answers = {}
    for question in asked:
        answers[question.id] = _ask(candidate, question.case, timeout)
        watch.came(question, answers[question.id])
        if watch.stopped:
            return answers
        if answers[question.id].problem.startswith("no answer within"):
            break  # the thread is still busy; what follows could not be trusted
    return {q.id: answers.get(q.id, Answered(problem="not asked any more")) for q in asked}


def conclude(asked, left_out, answers, suite, dtype, before: Report | None = None) -> Report:
    """The report on the answers to `asked`; before it says CORRECT, a planted error must have been refused."""
    report = diagnose(asked, answers, before)
    report.suite, report.dtype = suite if isinstance(suite, str) else "own cases", dtype
    report.skipped = left_out
    report.algorithm = asked[0].case.algorithm if asked else report.algorithm
    if report.verdict == "CORRECT":
        negative_control(asked, answers)
    return report


def _ask(candidate: Callable, case: Case, timeout: float) -> Answered:
    """One call with a copy of the case, in a thread, so that one that hangs can be left behind. The answer is read
    there too: an array of some library may compute, hang or raise only when it is looked at."""
    given = copy.deepcopy(dataclasses.replace(case, handed_out=[], answer=None, comment=""))
    before = given.inputs()
    done: queue.SimpleQueue = queue.SimpleQueue()

    def call():
        try:
            answer = read_answer(case, candidate(given))
            answer.changed_inputs = given.changed_inputs() or given.inputs() != before
            answer.framework = given.framework
        except BaseException as error:  # SystemExit too: it is the candidate that failed, not the oracle
            last = traceback.extract_tb(error.__traceback__)[-1]
            said = "".join(traceback.format_exception_only(error)).strip()
            answer = Answered(problem=f"it raised {said} ({last.filename}:{last.lineno})")
        done.put(answer)

    threading.Thread(target=call, daemon=True).start()
    try:
        return done.get(timeout=timeout)
    except queue.Empty:
        return Answered(problem=f"no answer within {timeout:g} s")


def confirm(asked: list[Question]) -> None:
    """Every stored answer is what the engine computes, here and now; otherwise nothing could be concluded."""
    for case in {id(q.case.answer): q.case for q in reversed(asked) if q.case.answer is not None}.values():
        value, grads = tolerance.engine_answer(case)
        right, unit = case.answer, tolerance.UNIT["float64"]
        off = tolerance.error(grads, right.meta_grad, right.scale, unit)
        off = max(off, float(tolerance.errors(value, right.meta_loss, right.loss_scale, unit)))
        if off > tolerance.TAU:
            raise Tampered(
                f"case {case.id}: the stored answer is {off:.3g} roundings from what the engine computes: the vectors "
                "were changed, or NumPy computes wrongly on this machine"
            )


class Confirmation:
    """`confirm` in a thread of its own, while the candidate computes; `result` waits for it, and raises what it has
    raised."""

    def __init__(self, asked: list[Question]):
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(asked,), daemon=True)
        self._thread.start()

    def _run(self, asked: list[Question]) -> None:
        try:
            confirm(asked)
        except BaseException as error:
            self._error = error

    def result(self) -> None:
        self._thread.join()
        if self._error:
            raise self._error


def negative_control(asked: list[Question], answers: dict[str, Answered]) -> None:
    """Plant an error into answers that passed; it must be refused.

    Raises:
        AssertionError: a planted error passed: the oracle itself is broken.
    """
    question = next(q for q in asked if q.role == "case")
    right = question.case.answer
    name = max(right.scale, key=lambda n: np.max(right.scale[n], initial=0))
    planted = {n: np.array(g) for n, g in right.meta_grad.items()}
    at = np.unravel_index(np.argmax(right.scale[name]), right.scale[name].shape)
    planted[name][at] += 4 * tolerance.TAU * tolerance.UNIT[question.case.dtype] * right.scale[name][at]
    changed = dict(answers) | {question.id: dataclasses.replace(answers[question.id], grad=planted)}
    if passes(asked, changed):
        raise AssertionError(f"a planted error in case {question.id} passed: this oracle cannot be trusted")
