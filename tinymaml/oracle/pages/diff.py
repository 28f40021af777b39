"""A candidate's answer beside the right one, quantity after quantity, in the order in which they are computed.

    print(diff_page(case, ask_one("module:fn", case)))        what `tinymaml oracle show CASE --mine module:fn` prints

Every part of an answer is compared: the trace (θₖ, L_s, g_s of every step, L_q, g_q), `adapted`, `losses`, the
meta-loss and the meta-gradient. The first that differs is marked; later differences follow from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NamedTuple

import numpy as np

from .. import models, tolerance
from ..cases import Case
from ..catalogue import forms
from ..clues.locate import element
from ..clues.match import fits, value_of
from ..judge import protocol, worker
from ..judge.guard import Guarded
from ..mistakes.semantics import run
from ..questions import Answered, Question, as_floats
from ..references import solve_case
from .report import _beside, _digits, _one_line, _relative, _wrapped

WIDTH = 100
MOST = 16  # numbers of the first quantity that differs, and of the answer, that are all shown
_TRACED = {"float64": 1e-9, "float32": 1e-4}  # of a quantity's largest number: its error scale is not known


class Quantity(NamedTuple):
    """Something that is computed on the way, {parameter: array}: yours and the right one, and whether it is right.

    `where` is "task 1 of 2", … or "" for the mean over tasks; `problem` says why yours cannot be read.
    """

    where: str
    name: str
    yours: dict[str, np.ndarray]
    right: dict[str, np.ndarray]
    same: bool
    problem: str = ""


def diff_page(case: Case, answer: Answered) -> str:
    """All of it as text, at most WIDTH columns wide."""
    case = case if case.answer else solve_case(case)
    blocks = [_heading(case)]
    if answer.problem:
        return _text([*blocks, _wrapped(f"Yours gave no answer: {answer.problem}", 2)])
    seen = list(quantities(case, answer))
    blocks += [*_tables(seen), _summary(case, answer, seen)]
    return _text(blocks)


def ask_one(
    target: str, case: Case, timeout: float = 60.0, echo: Callable[[bytes], None] | None = None
) -> Answered:  # fmt: skip
    """Ask the function "package.module:name" about one case, in a process of its own.

    Args:
        echo: is given what it writes to standard error, as it comes.

    Raises:
        ValueError: the target is not of that form.
    """
    question, prefix = Question(case.id, case), protocol.token("show", case.dtype, (), 0)
    with Guarded(worker.command(target), echo=echo) as program:
        with suppress(OSError):  # it may have ended
            program.stdin.write(next(protocol.lines([question], prefix)).encode() + b"\n")
            program.stdin.close()
        answers = protocol.lines_from(program.stdout, timeout)
        ending = lambda: protocol._ending(program)  # noqa: E731
        return protocol.read_answers([question], prefix, answers, ending=ending, whole=False)[case.id]


def agree(case: Case, answer: Answered) -> bool:
    """Whether all that came is right."""
    return not answer.problem and all(q.same for q in quantities(case if case.answer else solve_case(case), answer))


# ── what there is to compare ────────────────────────────────────────────────────────────────────────────────────────


def quantities(case: Case, answer: Answered) -> Iterator[Quantity]:
    """The parts of an answer, in the order in which they are computed."""
    with np.errstate(all="ignore"):
        ways = run(case).trace if case.algorithm == "maml" else []
    for t, way in enumerate(ways):
        yield from _of_task(case, t, way, _given(answer, t))
    right = case.answer
    unit = tolerance.UNIT[case.dtype]
    if answer.meta_loss is not None:
        off = tolerance.errors(answer.meta_loss, right.meta_loss, right.loss_scale, unit)
        same = bool(off <= tolerance.TAU)
        yield Quantity("", "meta_loss", {"": np.array(answer.meta_loss)}, {"": np.array(right.meta_loss)}, same)
    same = tolerance.error(answer.grad, right.meta_grad, right.scale, unit) <= tolerance.TAU
    yield Quantity("", "meta_grad", answer.grad, right.meta_grad, same)


def _given(answer: Answered, t: int) -> dict:
    """The answer for task t, by the names of the trace; `losses` and `adapted` where the trace lacks them."""
    found: dict = {}
    for name, whole in (("adapted", answer.adapted), ("losses", answer.losses)):
        if whole is not None and t < len(whole):
            found[name] = whole[t]
    if answer.trace and t < len(answer.trace):
        found |= answer.trace[t]
    return found


def _of_task(case: Case, t: int, way: dict, given: dict) -> Iterator[Quantity]:
    steps, end = case.inner_steps, f"θ{_sub(case.inner_steps)}"
    wanted = []  # the key in what came, its step or None, the name, the right one
    for k in range(steps):
        at, theta, loss, grad = f"θ{_sub(k)}", way["theta"][k], way["loss_s"][k], way["grad_s"][k]
        wanted += [
            ("theta", k, at, theta), ("losses", k, f"L_s({at})", loss), ("loss_s", k, f"L_s({at})", loss),
            ("grad_s", k, f"g_s({at})", grad),
        ]  # fmt: skip
    wanted += [
        ("theta", steps, end, way["theta"][steps]), ("adapted", None, end, way["theta"][steps]),
        ("loss_q", None, f"L_q({end})", way["loss_q"]), ("grad_q", None, f"g_q({end})", way["grad_q"]),
    ]  # fmt: skip
    where = f"task {t + 1} of {case.tasks}"
    for key, k, name, right in wanted:
        if key in given:
            yield _quantity(case, where, name, given[key], k, right)
    for key, count in (("theta", steps + 1), ("losses", steps), ("loss_s", steps), ("grad_s", steps)):
        if hasattr(given.get(key), "__len__") and len(given[key]) > count:
            yield Quantity(where, key, {}, {}, False, f"{len(given[key])} entries came, wanted {count}")


def _quantity(case: Case, where: str, name: str, got, k: int | None, right) -> Quantity:
    """The answer for a quantity, at step k; one that cannot be read is wrong."""
    right = {n: np.asarray(r, np.float64) for n, r in (right if isinstance(right, dict) else {"": right}).items()}
    try:
        if k is not None and k >= len(got):
            return Quantity(where, name, {}, right, False, f"it is missing: {len(got)} entries came")
        got = got if k is None else got[k]
        got = {"": got} if list(right) == [""] else got
        got = got if isinstance(got, dict) else dict(zip(right, got, strict=True))
        yours = {n: as_floats(got[n], name).astype(np.float64) for n in right}
        for n, r in right.items():
            if yours[n].shape != r.shape:
                raise ValueError(f"{n} has the shape {yours[n].shape}, wanted {r.shape}")
    except (IndexError, KeyError, TypeError, ValueError) as error:
        return Quantity(where, name, {}, right, False, f"it cannot be read: {error}")
    size = max(float(np.max(np.abs(r), initial=0)) for r in right.values())
    off = max(float(np.max(np.abs(yours[n] - r), initial=0)) for n, r in right.items())
    return Quantity(where, name, yours, right, off <= _TRACED[case.dtype] * size)


def _sub(k: int) -> str:
    return str(k).translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))


# ── as text ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _heading(case: Case) -> list[str]:
    rate = "α for each parameter" if isinstance(case.inner_lr, dict) else f"α = {case.inner_lr:g}"
    return [f"{case.id}: yours beside the right one", *_wrapped(models.in_words(case.model), 2),
            f"  K = {case.inner_steps},  {rate},  T = {case.tasks},  {case.dtype}"]  # fmt: skip


def _tables(seen: list[Quantity]) -> list[list[str]]:
    """A table for each task, and one for the answer, with the same columns. All numbers of the answer are shown, and
    of the first quantity of a task that differs; of any other quantity the number that is furthest from right."""
    first: dict[str, Quantity] = {}
    for q in seen:
        if not q.same:
            first.setdefault(q.where, q)
    marked = next(iter(first.values()), None)
    rows = [(q.where, row) for q in seen
            for row in _rows(q, full=not q.where or q is first.get(q.where), first=q is marked)]  # fmt: skip
    widths = [max([6, *(len(row[i]) for _, row in rows if len(row) > 2)]) for i in range(5)]
    titles, sides, out = ("", "", "yours", "right", "digits", ""), "<<>>>", []
    for where in dict.fromkeys(where for where, _ in rows):
        lines = [f"── {where or 'the answer, the mean over tasks'} ".ljust(WIDTH, "─")]
        for row in [titles, *(row for w, row in rows if w == where)]:
            if len(row) == 2:
                lines += _beside(row[0], row[1])
                continue
            cells = [f"{x:{side}{w}}" for x, side, w in zip(row, sides, widths, strict=False)]
            lines.append(("  " + "  ".join(cells) + f"  {row[5]}").rstrip())
        out.append(lines)
    return out


def _rows(q: Quantity, full: bool, first: bool) -> list[tuple[str, ...]]:
    mark = "◀ the first" if first else "" if q.same else "◀"
    if q.problem:
        return [(q.name, f"{q.problem[:400]}  {mark}")]
    places = [(n, at) for n, r in q.right.items() for at in np.ndindex(r.shape)]
    count = len(places)
    if not full or count > MOST:
        off = {n: np.abs(q.yours[n] - r) for n, r in q.right.items()}
        places = [max(places, key=lambda place: np.nan_to_num(off[place[0]][place[1]], nan=np.inf))]
    out = []
    for n, at in places:
        g, r = float(q.yours[n][at]) + 0, float(q.right[n][at]) + 0  # −0 is 0
        where = element(n, at) + (f" (of {count})" if len(places) < count else "")
        out.append((q.name, where, f"{g:.10g}", f"{r:.10g}", _digits(_relative(g, r)), mark))
        q, mark = q._replace(name=""), ""
    return out


def _summary(case: Case, answer: Answered, seen: list[Quantity]) -> list[str]:
    wrong = [q for q in seen if not q.same]
    lines = []
    if not wrong:
        lines += _wrapped(f"All {len(seen)} quantities that came are right.", 2)
    else:
        q = wrong[0]
        lines += _wrapped(f"{len(wrong)} of {len(seen)} quantities differ; the first is {q.name}"
                          + (f", in {q.where}." if q.where else "."), 2)  # fmt: skip
        same = [n for n in forms(case) if n in case.answer.bugs and value_of(case, n) is not None
                and fits(case, answer.grad, value_of(case, n))]  # fmt: skip
        if same:
            names = list(dict.fromkeys(n.split("/")[0] for n in same))
            more = f", and {len(names) - 4} more mistakes" if len(names) > 4 else ""
            lines += _wrapped(f"In this case your meta-gradient is that of {', '.join(names[:4])}{more}.", 2)
    if wrong and wrong[0].name == "meta_grad" and answer.meta_loss is not None:
        lines += _wrapped("All values before it are right; their derivative is not.", 2)
    elif wrong and not answer.trace:
        lines += _wrapped('With "trace" in your answer, the first difference is found where it arises.', 2)
    return lines


def _text(blocks: list[list[str]]) -> str:
    return "\n\n".join("\n".join(_one_line(line).rstrip() for line in block) for block in blocks)
