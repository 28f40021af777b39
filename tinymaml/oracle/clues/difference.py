"""What "yours − right" and "yours / right" are, over all cases together: a dictionary of what is often added or lost.

    said_of(judged, questions)      in words; "" if the difference is nothing that is known

A term is one of the vectors that a MAML step has at hand, such as θ, g_s(θ) or g_q(θ), with one coefficient for all
cases, or one that is a plain function of a case's α, T, K and N.
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np

from .. import tolerance
from ..arithmetic import as_numbers
from ..cases import Case
from ..catalogue import flat, run_form
from ..mistakes.semantics import run
from ..models import loss_and_grad
from ..questions import Question
from .locate import MATCH, Judged
from .match import factors, fits

# The vectors, and what it means if one is added.
TERMS = {
    "θ": "an L2 penalty (weight decay) is part of the outer loss, or was added to its gradient",
    "sign θ": "an L1 penalty is part of the outer loss, or was added to its gradient",
    "g_s(θ)": "the support gradient at θ was added: .backward() of the first inner loss leaves it in .grad",
    "Σₖ g_s(θₖ)": "the inner gradients were added: .backward() of the inner losses leaves them in .grad",
    "g_q(θ)": "the query gradient at θ was added: the query loss before adaptation is in the sum, too",
    "g_q(θ_K)": "the first-order gradient was added once more",
    "θ_K − θ": "the displacement of the inner loop was added",
    "1": "a constant was added to every number",
}


def said_of(judged: list[Judged], questions: list[Question]) -> str:
    """The difference in words."""
    return added(judged) or tensors(judged) or another_answer(judged, questions)


# ── yours − right ───────────────────────────────────────────────────────────────────────────────────────────────────


def vectors(case: Case) -> dict[str, np.ndarray]:
    """The terms of TERMS, means over tasks, each a vector of all of θ's numbers."""
    ways, theta = run(case).trace, flat(case.params)
    mean = lambda of: sum(map(of, ways)) / case.tasks  # noqa: E731
    at_theta = [flat(loss_and_grad(case.model, case.params, *map(as_numbers, query))[1]) for query in case.query]
    steps = case.inner_steps
    return {
        "θ": theta, "sign θ": np.sign(theta), "g_q(θ)": sum(at_theta) / case.tasks,
        "g_s(θ)": mean(lambda way: flat(way["grad_s"][0])) if steps else theta * 0,
        "Σₖ g_s(θₖ)": mean(lambda way: sum(map(flat, way["grad_s"]))) if steps else theta * 0,
        "g_q(θ_K)": mean(lambda way: flat(way["grad_q"])),
        "θ_K − θ": mean(lambda way: flat(way["theta"][-1])) - theta, "1": np.ones(theta.shape),
    }  # fmt: skip


def added(judged: list[Judged]) -> str:
    """Yours = a · right + b · term, for one term, in every case: a and b numbers, or a = 1 and b one of `factors`."""
    if any(j.case.algorithm != "maml" for j in judged):
        return ""
    terms = [vectors(j.case) for j in judged]
    for name, meaning in TERMS.items():
        for of in ("1", *factors(judged[0].case)):
            times = [1.0 if of == "1" else factors(j.case)[of] for j in judged]
            c = _coefficient(judged, [f * t[name] for f, t in zip(times, terms, strict=True)])
            if c is not None:
                shown = _product(c, "" if of == "1" else of)
                return f"yours = right {shown} {name} in every case: {meaning}"
    for of in ("β", "α"):
        times = [factors(j.case)[of] for j in judged]
        ab = _two_coefficients(judged, [t["θ"] for t in terms], times)
        if ab is not None and abs(ab[1] - 1) < 1e-9:
            return f"what came is θ {_product(ab[0], of)} right, the new θ after an outer step, and not the gradient"
    for name, meaning in TERMS.items():
        ab = _two_coefficients(judged, [t[name] for t in terms])
        if ab is not None and name == "θ" and abs(ab[1] - 1) < 1e-9:
            return f"what came is θ {_product(ab[0], '')} right, the new θ after an outer step, and not the gradient"
        if ab is not None:
            return f"yours = {ab[0]:.6g} · right {_product(ab[1], '')} {name} in every case: {meaning}"
    return ""


def _product(c: float, of: str) -> str:
    number = "" if of and abs(abs(c) - 1) < 1e-9 else f"{abs(c):.6g} · "
    return f"{'+' if c > 0 else '−'} {number}{of + ' · ' if of else ''}".rstrip()


def _coefficient(judged, columns: list[np.ndarray]) -> float | None:
    """c with yours − right = c · column in every case, to rounding."""
    off = [flat(j.answer.grad) - flat(j.case.answer.meta_grad) for j in judged]
    best = max(range(len(judged)), key=lambda i: np.linalg.norm(columns[i]) / np.max(flat(judged[i].case.answer.scale)))
    length = float(columns[best] @ columns[best])
    c = float(off[best] @ columns[best]) / length if length else 0.0
    if not np.isfinite(c) or c == 0:
        return None
    for number in (float(f"{c:.4g}"), c):
        if all(_near(j, flat(j.case.answer.meta_grad) + number * x) for j, x in zip(judged, columns, strict=True)):
            return number
    return None


def _two_coefficients(judged, columns: list[np.ndarray], times=None) -> tuple[float, float] | None:
    """(a, b) with yours = a f · right + b · column in every case; f one of `times`, or 1."""
    times = times or [1.0] * len(judged)
    rights = [f * flat(j.case.answer.meta_grad) for f, j in zip(times, judged, strict=True)]
    right = np.concatenate(rights)
    got, column = np.concatenate([flat(j.answer.grad) for j in judged]), np.concatenate(columns)
    (a, b), *_ = np.linalg.lstsq(np.stack([right, column], 1), got, rcond=None)
    if not (np.isfinite(a) and np.isfinite(b)) or abs(a) < 1e-6 or abs(b) < 1e-9:
        return None
    for x, y in ((float(f"{a:.4g}"), float(f"{b:.4g}")), (a, b)):
        if all(_near(j, x * r + y * z) for j, r, z in zip(judged, rights, columns, strict=True)):
            return x, y
    return None


def _near(j: Judged, wanted: np.ndarray) -> bool:
    right = j.case.answer
    scale = np.maximum(flat(right.scale), np.median(flat(right.scale)))
    size = np.max(np.abs(flat(right.meta_grad)))
    scale = scale * max(1.0, np.max(np.abs(wanted)) / size if size else 1.0)
    return float(np.max(tolerance.errors(flat(j.answer.grad), wanted, scale, tolerance.UNIT[j.case.dtype]))) <= MATCH


# ── tensor by tensor ────────────────────────────────────────────────────────────────────────────────────────────────


def tensors(judged: list[Judged]) -> str:
    """Right numbers in wrong places, or right in some parameters and scaled in others: said of every case, or not at
    all."""
    found: dict[str, dict[str, str]] = {}
    whole = []
    for j in judged:
        right, got = j.case.answer.meta_grad, j.answer.grad
        how = {n: _tensor(j, n) for n in got}
        if None in how.values():
            whole.append((j, _in_another_order(j)))
        found[j.case.id] = {n: h for n, h in how.items() if h}
        if None in how.values() and not whole[-1][1]:
            return ""
        if not right:
            return ""
    orders = {order for _, order in whole}
    if len(orders) > 1:
        return ""
    said = list(dict.fromkeys(f"{n} {how}" for j in judged for n, how in found[j.case.id].items()
                              if not any(j is w for w, _ in whole)))  # fmt: skip
    more = [f"and {len(said) - 6} more like these"] if len(said) > 6 else []
    return "; ".join([*said[:6], *more, *filter(None, orders)])


def _tensor(j: Judged, n: str) -> str | None:
    """What happened to one tensor: "" if it is right, None if it is nothing that is known."""
    g, right = j.answer.grad[n], j.case.answer
    r, s, unit = right.meta_grad[n], right.scale[n], tolerance.UNIT[j.case.dtype]

    def near(a, r=r, s=s) -> bool:
        return bool(np.max(tolerance.errors(a, r, s, unit), initial=0) <= MATCH)

    if near(g):
        return ""
    if g.ndim > 1:
        for axes in itertools.permutations(range(g.ndim)):
            if axes == tuple(range(g.ndim)):
                continue
            turned = np.transpose(g, axes)
            if turned.shape == r.shape and near(turned):
                return "is transposed" if g.ndim == 2 else f"has its axes exchanged: transpose{axes}"
            if near(np.reshape(turned, r.shape)) and turned.shape != r.shape:
                return "was reshaped where it should have been transposed"
            if near(np.transpose(np.reshape(g, [r.shape[a] for a in axes]), np.argsort(axes))):
                return "was reshaped where it should have been transposed"
        for axis in range(g.ndim):
            if near(np.flip(g, axis)):
                return f"is reversed along axis {axis}"
    if near(g[tuple(slice(None, None, -1) for _ in g.shape)]):
        return "is reversed"
    others = [m for m, q in right.meta_grad.items() if m != n and q.shape == g.shape]
    holds = [m for m in others if near(g, right.meta_grad[m], right.scale[m])]
    if holds:
        return f"holds the gradient of {holds[0]}"
    if not np.any(g):
        return "is 0"
    length = float(np.sum(r * r))
    c = float(np.sum(g * r)) / length if length else 0.0
    larger = max(1.0, abs(c))
    words = {2.0: "is doubled", 0.5: "is halved", -1.0: "has the wrong sign"}
    for number in (float(f"{c:.4g}"), c):
        if c and near(g, number * r, np.maximum(s, np.median(s)) * larger):
            if g.size == 1 and number not in words:
                return None  # any number is a multiple of another
            return words.get(number, f"is multiplied by {number:.6g}")
    return None


def _in_another_order(j: Judged) -> str:
    """All numbers in one vector, cut in the order of other names."""
    right, got = j.case.answer.meta_grad, flat(j.answer.grad)
    orders = {"of the sorted names": sorted(right), "that is reversed": list(right)[::-1]}
    for how, names in orders.items():
        if names != list(right):
            vector = np.concatenate([np.ravel(right[n]) for n in names])
            if fits(j.case, {"": got}, {"": vector}) if len(vector) == len(got) else False:
                return f"the tensors stand in the order {how}, not in that of the parameters"
    return ""


# ── answers of other cases ──────────────────────────────────────────────────────────────────────────────────────────


def another_answer(judged: list[Judged], questions: list[Question]) -> str:
    """Every wrong answer is the right one of another case, or right with its settings; that some are may be chance."""
    cases = [q.case for q in questions if q.role == "case"]
    wrong = [j for j in judged if not j.passed]
    said: dict[str, str] = {}
    stale: dict[str, str] = {}
    for j in wrong:
        got = flat(j.answer.grad)
        for other in cases:
            if other.id == j.case.id or other.answer is None:
                continue
            right = flat(other.answer.meta_grad)
            if right.shape == got.shape and np.any(right) and _same(got, right, other):
                said.setdefault(j.case.id, other.id)
            elif str(other.model) == str(j.case.model) and _with_settings_of(j, other):
                stale.setdefault(j.case.id, other.id)
    if not wrong or {j.case.id for j in wrong} - said.keys() - stale.keys():
        return ""
    are = "s are" if len(said or stale) > 1 else " is"
    if not said:
        shown = ", ".join(f"{case} with those of {other}" for case, other in [*stale.items()][:3])
        return (f"{len(stale)} wrong answer{are} right with the K or α of another case of that model ({shown}): a "
                "jitted function or a cache keeps them from an earlier call")  # fmt: skip
    shown = ", ".join(f"{other} for {case}" for case, other in [*said.items()][:3])
    return (f"{len(said)} wrong answer{are} right for another case ({shown}): something is kept from call to call (a "
            "cache, a jitted function with old constants)")  # fmt: skip


def _with_settings_of(j: Judged, other: Case) -> bool:
    """Whether the answer is right for the number of steps, or the rate, or both, of the other case."""
    steps, rate = {"inner_steps": other.inner_steps}, {"inner_lr": other.inner_lr}
    for settings in (steps, rate, steps | rate):
        case = dataclasses.replace(j.case, **settings)
        try:
            if not case.first_order and fits(j.case, j.answer.grad, run_form(case, {}).meta_grad):
                return True
        except (ValueError, LookupError):  # MAML++ has parameters and weights for each of its K steps
            continue
    return False


def _same(got, right, case: Case) -> bool:
    scale = flat(case.answer.scale)
    return float(np.max(tolerance.errors(got, right, scale, tolerance.UNIT[case.dtype]))) <= tolerance.TAU
