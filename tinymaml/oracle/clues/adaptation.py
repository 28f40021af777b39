"""The inner loop on its own: what the optional answers `adapted` (θ_K per task) and `losses` (per step) say.

    inner_loop(judged)      what is wrong in the inner loop, in words; "" if it is right, or if nothing of it came

They tell a wrong inner loop from a wrong loss and from a wrong derivative: θ_K depends on neither the query set nor on
what is differentiated. A mistake of the catalogue is recognised by the θ_K that it leads to; what is not in the
catalogue is described by the moves θ_K − θ of each parameter, beside the right ones.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..catalogue import CATALOGUE, flat, run_form
from ..mistakes.mistake import with_number
from .locate import Judged
from .match import cheapest_first

CLOSE = {"float64": 1e-9, "float32": 1e-4}  # of the largest number: θ_K has no scales of its own


def inner_loop(judged: list[Judged]) -> str:
    """The first thing that is wrong in the inner loops that came."""
    came = [j for j in cheapest_first(judged) if j.answer.adapted or j.answer.losses]
    if not came or any(j.case.algorithm != "maml" for j in came):
        return ""
    with np.errstate(all="ignore"):
        return _of_ends(came) or _of_losses(came)


def ends_are_right(judged: list[Judged]) -> bool:
    """Whether θ_K is right in all cases where it came."""
    return all(_ends_agree(j, run_form(j.case, {}).trace) for j in judged if j.answer.adapted)


def _ends_agree(j: Judged, ways: list[dict]) -> bool:
    return all(_alike(got, way["theta"][-1], j.case.dtype) for got, way in zip(j.answer.adapted, ways, strict=True))


def _alike(got: dict, right: dict, dtype: str) -> bool:
    size = max(np.max(np.abs(flat(right))), 1e-30)
    return bool(np.max(np.abs(flat(got) - flat(right)), initial=0) <= CLOSE[dtype] * size)


# ── θ_K ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _of_ends(came: list[Judged]) -> str:
    came = [j for j in came if j.answer.adapted]
    wrong = [j for j in came if not _ends_agree(j, run_form(j.case, {}).trace)]
    if not came:
        return ""
    if not wrong:
        return "θ_K is right in every case, so the inner steps are; the query loss, its derivative or the mean over " \
               "tasks is not"  # fmt: skip
    explains = next(_explaining(wrong[:1] + came), "")
    return f"θ_K is wrong: {explains}" if explains else _moves(wrong)


def _explaining(came: list[Judged]) -> Iterator[str]:
    """The catalogue's mistakes that lead to the θ_K that came, in every case."""
    first = came[0]
    for name in first.forms:
        mistake = CATALOGUE[name.split("/")[0]]
        numbers = mistake.free.typical if mistake.free else (None,)
        for number in numbers:

            def form(j, name=name, mistake=mistake, number=number):
                given = j.forms.get(name, {})
                return given if number is None or not given else with_number(given, mistake.free, number)

            if all(_leads_there(j, form(j)) for j in came):
                yield mistake.explanation + ("" if number is None else f" (here {mistake.free.symbol} = {number:g})")
                break


def _leads_there(j: Judged, form: dict) -> bool:
    try:
        ways = run_form(j.case, form).trace
    except (ValueError, ZeroDivisionError, OverflowError, FloatingPointError):
        return False
    return len(ways) == len(j.answer.adapted) and _ends_agree(j, ways)


def _moves(wrong: list[Judged]) -> str:
    """What the moves θ_K − θ are, beside the right ones: missing, scaled, or shared by all tasks."""
    shared = [j for j in wrong if j.case.tasks > 1]
    if shared and all(_alike(a, j.answer.adapted[0], j.case.dtype) for j in shared for a in j.answer.adapted[1:]):
        return "every task has the same θ_K: one adaptation serves all tasks"
    ratios: dict[str, list[float]] = {}
    for j in wrong:
        for way, got in zip(run_form(j.case, {}).trace, j.answer.adapted, strict=True):
            for n, start in j.case.params.items():
                right, theirs = way["theta"][-1][n] - start, got[n] - start
                length = float(np.sum(right * right))
                if length:
                    ratios.setdefault(n, []).append(float(np.sum(theirs * right)) / length)
    still = [n for n, r in ratios.items() if not np.any(r)]
    if still and len(still) < len(ratios):
        return f"θ_K is wrong: {', '.join(still)} did not move"
    one_step = [j for j in wrong if j.case.inner_steps == 1]
    if one_step:
        said = []
        for n in ratios:
            values = [r for j in one_step if n in j.case.params for r in _ratios(j, n)]
            if values and np.ptp(values) <= 1e-6 * abs(values[0]) and abs(values[0] - 1) > 1e-9:
                said.append(f"{n} moves {values[0]:.6g} times as far")
        if said:
            return "θ_K is wrong: after one step " + ", ".join(said) + f" as with α (case {one_step[0].case.id})"
    j = wrong[0]
    rows = ", ".join(f"{n} {np.mean(_ratios(j, n)):.4g}" for n in j.case.params if _ratios(j, n))
    return f"θ_K is wrong: in case {j.case.id} the moves θ_K − θ are, as multiples of the right ones, {rows}"


def _ratios(j: Judged, n: str) -> list[float]:
    out = []
    for way, got in zip(run_form(j.case, {}).trace, j.answer.adapted, strict=True):
        right = way["theta"][-1][n] - j.case.params[n]
        length = float(np.sum(right * right))
        if length:
            out.append(float(np.sum((got[n] - j.case.params[n]) * right)) / length)
    return out


# ── losses ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _of_losses(came: list[Judged]) -> str:
    for j in came:
        if not j.answer.losses:
            continue
        unit = CLOSE[j.case.dtype]
        for t, (way, got) in enumerate(zip(run_form(j.case, {}).trace, j.answer.losses, strict=True)):
            for k, (a, b) in enumerate(zip(got, way["loss_s"], strict=False)):
                if not abs(a - float(b)) <= unit * max(1e-30, abs(float(b))):
                    ratio = f", {a / float(b):.6g} times" if b else ""
                    return (f"the support loss of step {k} is the first that is wrong (case {j.case.id}, task {t}: "
                            f"{a:.9g}, right is {float(b):.9g}{ratio})")  # fmt: skip
    return ""
