"""Named mistakes: which of the catalogue, with what number or factor, gives these answers.

A mistake explains the answers if it does so in *every* case, right ones included, to rounding. What a case is blind to
is asked of it as well: there the mistake gives what is right. Values are computed when they are needed, on the case
that is quickest to compute first, so that most mistakes are ruled out by a few numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from .. import tolerance
from ..cases import Case
from ..catalogue import CATALOGUE, flat, run_form
from ..family import ALGORITHMS
from ..mistakes.mistake import Free, Mistake, with_number
from ..pages.report import CaseResult, Report
from ..questions import direction
from .locate import MATCH, Judged, at_kink, features


def fits(case: Case, grad: dict, value: dict | None, factor: float = 1.0) -> bool:
    """Whether `grad` is factor · value to rounding; a value that is not known (it diverges) contradicts nothing."""
    if value is None:
        return True
    right = case.answer
    assert right is not None
    wanted = flat(value) * factor
    with np.errstate(all="ignore"):
        larger = max(1.0, np.max(np.abs(wanted)) / right.size) if right.size else 1.0
    if not np.isfinite(larger):
        return False
    scale = right.usual_scale * larger
    return float(np.max(tolerance.errors(flat(grad), wanted, scale, tolerance.UNIT[case.dtype]))) <= MATCH


# Of an answer, as much as it may be off the value of a badly conditioned form.
NEAR = {"float64": 1e-6, "float32": 1e-2}
# The switches of forms that round to a shorter type: their numbers jump.
JUMPING = {"rounded", "shortened"}


def fits_form(j: Judged, form: dict, value: dict | None, exactly: bool = False) -> bool:
    """Whether the answer is `value`, which the form gives, to rounding; where the form is badly conditioned, as an
    update divided by a small root is, to what roundings of θ and the inputs make of it. (A form that rounds to a
    shorter type is not: it jumps; nor is an answer that is right: such a form would hardly hit it.) An answer that is
    not finite is that of a form whose numbers are not finite either, or so large that their squares are not.

    Args:
        exactly: a badly conditioned form, too, has to give the answer to rounding. So it must where other answers
            contradict it: near what is right, its roundings would explain any.
    """
    if j.gradient_diverged:
        largest = np.inf if value is None else float(np.max(np.abs(flat(value))))
        return not largest < float(np.finfo(j.case.dtype).max) ** 0.5
    if fits(j.case, j.answer.grad, value):
        return True
    if exactly or j.error <= tolerance.TAU or not form or value is None or JUMPING & form.keys():
        return False
    off = np.max(np.abs(flat(j.answer.grad) - flat(value)))
    if not off <= NEAR[j.case.dtype] * np.max(np.abs(flat(j.answer.grad))):
        return False
    return bool(off <= MATCH * np.max(np.abs(flat(j.gives_nearby(form)) - flat(value))))


def nearer(wrong: list[Judged], value: Callable[[Judged], dict | None]) -> bool:
    """Whether most wrong answers are clearly nearer to what a mistake gives than to the right gradient: what roundings
    make of a badly conditioned form, such as a difference with a small step, may be as near to both, and then explains
    nothing."""
    finite = [j for j in wrong if not j.gradient_diverged]
    return 2 * sum(_nearer(j, value(j)) for j in finite) >= len(finite)


def _nearer(j: Judged, value: dict | None) -> bool:
    if value is None or fits(j.case, j.answer.grad, value):
        return True
    got, right = flat(j.answer.grad), flat(j.case.answer.meta_grad)
    return bool(10 * np.max(np.abs(got - flat(value))) <= np.max(np.abs(got - right)))


def value_of(case: Case, name: str) -> dict | None:
    """What the mistake's form gives on the case; the right gradient, where the case is blind to it."""
    assert case.answer is not None
    return case.answer.bugs.get(name, case.answer.meta_grad)


# How far ⟨G, d⟩ may be off, of the largest number of the answer: the value of a mistake may be badly conditioned.
ALONG = 1e-7


def excluded(j: Judged, form: dict, factors: Iterable[float] = (1.0,), within: float = ALONG) -> bool:
    """Whether a form's gradient G is seen not to be the answer without computing it: by ⟨G, d⟩ along one direction, at
    the price of one loss. What `fits` accepts, times one of the factors, is never excluded.

        |⟨g, d⟩ − c ⟨G, d⟩| ≤ Σᵢ |dᵢ| |gᵢ − c Gᵢ|

    Args:
        within: how near each element may have to be, of the largest.
    """
    along = None if j.gradient_diverged else j.slope(form)
    if along is None or not np.isfinite(along):
        return False
    got, d, right = flat(j.answer.grad), flat(direction(j.case)), j.case.answer
    size = float(np.max(np.abs(got)))
    larger = max(1.0, size / right.size) if right.size else 1.0
    # twice what is allowed, since the scale follows the larger one of both, which is not known
    near = 2 * MATCH * tolerance.UNIT[j.case.dtype] * larger * right.usual_scale + within * size
    return all(abs(got @ d - c * along) > np.abs(d) @ near for c in factors)


def gives_answer(j: Judged, name: str, exactly: bool = False) -> bool:
    """Whether the mistake's form gives the answer to the case (`exactly`: see `fits_form`), or is not known there."""
    form = j.case.answer.bugs.waiting(name)
    if form is not None and excluded(j, form):
        return False
    return fits_form(j, j.forms.get(name, {}), value_of(j.case, name), exactly)


def cheapest_first(judged: list[Judged]) -> list[Judged]:
    """Wrong cases before right ones, each in the order of the time that a mistake takes to compute."""
    return sorted(judged, key=lambda j: (j.error <= tolerance.TAU, cost(j.case)))


def cost(case: Case, along: bool = False) -> float:
    """How long a mistake takes to compute, roughly: gradients times layers; most of the family's gradients are taken
    number by number, but for ⟨G, d⟩ `along` one direction."""
    gradients = (case.inner_steps + 1) * case.tasks * (len(case.model["layers"]) + 10 * ("conv" in str(case.model)))
    plain = case.algorithm == "maml" or along and hasattr(ALGORITHMS[case.algorithm], "query_loss")
    numbers = 0 if plain else sum(p.size for p in case.params.values())
    return 4 + gradients * max(numbers / 2, 1)


def rows(judged: list[Judged], hypothesis: str) -> list[CaseResult]:
    return [CaseResult(j.case.id, j.passed, max(j.error, j.loss_error), "" if j.passed else hypothesis) for j in judged]


# ── one mistake ─────────────────────────────────────────────────────────────────────────────────────────────────────


def known(judged: list[Judged]) -> Report | None:
    """One mistake, as it stands in the catalogue."""
    ordered = cheapest_first(judged)
    names = list(dict.fromkeys(name for j in judged for name in j.forms))
    found = [n for n in names if all(gives_answer(j, n) for j in ordered)]
    wrong = [j for j in ordered if not j.passed]
    found = [n for n in found if any(shows(j.case, n) for j in wrong)]
    found = [n for n in found if nearer(wrong, lambda j: value_of(j.case, n))]  # noqa: B023
    possible = {name: form for j in judged for name, form in j.forms.items()}
    found = [n for n in found if not any(is_part(possible[m], possible[n]) for m in found)]
    whole = {n.split("/")[0] for n in found}
    found = [n for n in found if CATALOGUE[n.split("/")[0]].part_of not in whole]
    return named(judged, found) if found else None


def shows(case: Case, name: str) -> bool:
    """Whether the mistake's form gives a gradient that is seen not to be the right one."""
    right, value = case.answer, case.answer.bugs.get(name)
    unit = tolerance.UNIT[case.dtype]
    return value is not None and tolerance.error(value, right.meta_grad, right.scale, unit) > tolerance.TAU


def partly_known(judged: list[Judged]) -> Report | None:
    """One mistake that gives every wrong answer, but would show in cases that are right: a condition decides."""
    ordered = cheapest_first(judged)
    wrong = [j for j in ordered if not j.passed]
    for name in dict.fromkeys(name for j in wrong for name in j.forms):
        if any(shows(j.case, name) for j in wrong) and all(gives_answer(j, name, exactly=True) for j in wrong):
            return named(judged, [name], _where(judged))
    return None


def _where(judged: list[Judged]) -> str:
    """Where a mistake acts that does not act everywhere."""
    shared = features(judged)
    return f", {'in the cases with ' + ', '.join(sorted(shared)) if shared else 'in some of the cases'} alone"


def is_part(a: dict, b: dict) -> bool:
    """Whether form b sets all that a sets, and more: where a explains the answers, b says something needless."""
    return a != b and all(v.items() <= b.get(k, {}).items() if k == "how" else b.get(k) == v for k, v in a.items())


def named(judged, explains, suffix: str = "", what: str = "", numbers: dict | None = None) -> Report:
    """The report on the mistakes with these names of forms, which explain all answers alike."""
    ids = list(dict.fromkeys(name.split("/")[0] for name in explains))
    mistake = CATALOGUE[ids[0]]
    verdict = {"convention": "CORRECT_OTHER_CONVENTION", "precision": "IMPRECISE"}.get(mistake.kind, "KNOWN_BUG")
    if suffix and mistake.kind == "convention":
        verdict = "KNOWN_BUG"
    form = form_of(judged, explains[0])
    if mistake.free and not numbers and mistake.free.switch in {**form, **form.get("how", {})}:
        c = mistake.free.typical[0]  # which every form holds
        numbers, suffix = {mistake.free.symbol: c}, f" (here {mistake.free.symbol} = {c:.6g})" + suffix
    here = (mistake.which(form) + suffix).replace(") (here ", ", ")
    explanation = mistake.explanation + here + detached_too(mistake, form)
    if mistake.id == "sum_over_tasks" and not suffix and _loss_is_sum(judged):
        verdict, explanation = "CORRECT_OTHER_CONVENTION", explanation + "; your meta-loss is that sum too"
    elif verdict != "KNOWN_BUG" and " × " not in what:
        c = numbers.get(mistake.free.symbol) if mistake.free and numbers else None
        if not isinstance(c, str) and any(_another_loss(j, explains[0], c) for j in judged):
            verdict, explanation = "KNOWN_BUG", explanation + "; and your meta-loss is not the one of this gradient"
        elif verdict == "IMPRECISE":
            explanation += "; all else is right"
    return Report(
        verdict, mistake.id, explanation, ties=ids[1:], numbers=numbers or {}, cases=rows(judged, mistake.id + what)
    )


def _another_loss(j: Judged, name: str, c: float | None) -> bool:
    """Whether the meta-loss that came is clearly another one than the form gives with its number, such as a T-th of
    it."""
    if j.answer.meta_loss is None:
        return False
    free = CATALOGUE[name.split("/")[0]].free
    form = j.forms.get(name) if c is None else form_with(j, name, free, c)
    wanted = float(run_form(j.case, form).meta_loss if form else j.case.answer.meta_loss)
    return abs(float(j.answer.meta_loss) - wanted) > 0.05 * max(abs(wanted), abs(float(j.case.answer.meta_loss)))


def form_of(judged: list[Judged], name: str) -> dict:
    return next((j.forms[name] for j in judged if name in j.forms), {})


def detached_too(mistake: Mistake, form: dict) -> str:
    """That a mistake was made in first-order MAML, where that is not what the mistake itself is about."""
    about_it = len(form) == 1 or all("factors" in f for f in mistake.forms)
    first_order = form.get("factors") in ("detached", "updates detached") and not about_it
    return "; and the inner gradients are detached, as in first-order MAML (FOMAML)" if first_order else ""


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


# ── times a factor ──────────────────────────────────────────────────────────────────────────────────────────────────


def factors(case: Case) -> dict[str, float]:
    """What a gradient may be multiplied by, by name."""
    support, query = (len(batches[0][0]) for batches in (case.support, case.query))
    sizes = {"T": case.tasks, "N": support, "N_q": query, "K": max(case.inner_steps, 1)}
    out = {}
    for name, n in sizes.items():
        out |= {name: float(n), f"1/{name}": 1 / n}
    rate = case.inner_lr if isinstance(case.inner_lr, float) and case.inner_lr else 1.0
    out |= {"T/(T − 1)": case.tasks / max(case.tasks - 1, 1), "N_q/N": query / support, "N/N_q": support / query}
    return out | {"α": rate, "1/α": 1 / rate, "β": case.outer_lr, "1/β": 1 / case.outer_lr, "2": 2.0, "1/2": 0.5,
                  "−1": -1.0, "−α": -rate, "−1/α": -1 / rate}  # fmt: skip


_SIZES = {
    "T": ": T is the number of tasks", "N": ": N is the number of support examples; a mean or a sum too many",
    "N_q": ": N_q is the number of query examples; the query loss is a sum, or its mean was divided again",
    "K": ": K is the number of inner steps", "α": ": α is inner_lr", "β": ": β is outer_lr",
}  # fmt: skip


def one_times_a_size(judged: list[Judged]) -> Report | None:
    """g = c · what a mistake gives, with one meaning of c for all cases, such as the number of tasks; of a mistake that
    leaves a count open, with one of its usual counts."""
    names = list(dict.fromkeys(name for j in judged for name in j.forms))
    for name in names:
        free = CATALOGUE[name.split("/")[0]].free
        for n in free.typical if free and free.integer else (None,):
            if c := _size(judged, name, n):
                meaning = _SIZES.get(c.removeprefix("1/"), "")
                said = f" (here {free.symbol} = {n:.6g})" if free and n is not None else ""
                numbers = {free.symbol: n} if free and n is not None else None
                words = f"{said}; and all of it is multiplied by {c}{meaning}"
                report = named(judged, [name], words, f" × {c}", numbers)
                report.factor = c
                return report
    return None


def scaled(judged: list[Judged]) -> Report | None:
    """g = c · G, with one meaning of c for all cases, or one number."""
    if c := _size(judged, ""):
        return _multiple(judged, c, f"right × {c}", _SIZES.get(c.removeprefix("1/"), ""))
    possible = {j.case.id: factors(j.case) for j in judged}
    for name in ("", *possible[judged[0].case.id]):
        times = {id: these[name] if name else 1.0 for id, these in possible.items()}
        c = _constant(judged, times)
        if c is not None:
            shown = f"{c:.12g}" + (f" {name}" if name else "")
            return _multiple(judged, shown, f"right × {shown}", _SIZES.get(name.removeprefix("1/"), ""))
    return None


def _size(judged: list[Judged], name: str, n: float | None = None) -> str:
    """The name of a factor, by which the form's gradients, with n for its count, are theirs in every case; or "". Those
    of "" are the right ones."""
    first, *others = cheapest_first(judged)
    fit = lambda j, c: fits(j.case, j.answer.grad, _value_with(j, name, n), factors(j.case)[c])  # noqa: E731
    near = (c for c in _near(first, name, n, factors(first.case)) if fit(first, c))
    return next((c for c in near if all(fit(j, c) for j in others)), "")


def _value_with(j: Judged, name: str, n: float | None) -> dict | None:
    """What the form gives on the case, with n for its count; n = None: as it stands."""
    free = CATALOGUE[name.split("/")[0]].free if name and n is not None else None
    if free is None or n == free.typical[0]:
        return value_of(j.case, name)
    with np.errstate(all="ignore"):
        return j.gives(form_with(j, name, free, n))


def _near(j: Judged, name: str, n: float | None, possible: dict[str, float]) -> list[str]:
    """The factors that may fit one case, by its numbers along the mistake's."""
    free = CATALOGUE[name.split("/")[0]].free if name and n is not None else None
    form = j.case.answer.bugs.waiting(name) if free is None else form_with(j, name, free, n)
    if form and excluded(j, form, possible.values()):
        return []
    got, value = flat(j.answer.grad), _value_with(j, name, n)
    length = 0.0 if value is None else float(flat(value) @ flat(value))
    if not length or not np.isfinite(length):
        return []
    c = float(got @ flat(value)) / length
    return [name for name, f in possible.items() if abs(c - f) <= 1e-3 * abs(f)]


def _multiple(judged, c: str, row: str, meaning: str = "") -> Report:
    return Report(
        "WRONG_UNKNOWN", None, f"the meta-gradient is {c} times the right one in every case{meaning}",
        kind="right derivative of another objective", factor=c, cases=rows(judged, row),
    )  # fmt: skip


def _constant(judged, times: dict[str, float]) -> float | None:
    """The number c of g = c f G in every case, f one of `times` by case, if there is one."""
    largest = max(judged, key=lambda j: np.max(np.abs(flat(j.case.answer.meta_grad))))
    got, right = flat(largest.answer.grad), flat(largest.case.answer.meta_grad) * times[largest.case.id]
    c = float(got @ right / (right @ right))
    if c == 0:
        return None
    for number in (float(f"{c:.6g}"), c):
        if all(fits(j.case, j.answer.grad, j.case.answer.meta_grad, number * times[j.case.id]) for j in judged):
            return number
    return None


def clipped(judged: list[Judged]) -> Report | None:
    """Right directions, all of one length where they should be longer."""
    wrong, lengths = [j for j in judged if j.error > tolerance.TAU], []
    for j in wrong:
        got, right = flat(j.answer.grad), flat(j.case.answer.meta_grad)
        along = float(got @ right / (right @ right)) if np.any(right) else 0.0
        if not 0 < along < 1 or not fits(j.case, j.answer.grad, j.case.answer.meta_grad, along):
            return None
        lengths.append(float(np.linalg.norm(got)))
    if not lengths:
        return None
    # PyTorch's clip_grad_norm_ divides by norm + 1e-6; a single case proves it if the length is a round number
    rounded = float(f"{lengths[0]:.2g}")
    if max(lengths) - min(lengths) > 1e-4 * max(lengths) or len(wrong) < 2 and abs(lengths[0] / rounded - 1) > 1e-4:
        return None
    passed = [np.linalg.norm(flat(j.case.answer.meta_grad)) for j in judged if j.error <= tolerance.TAU]
    if max(passed, default=0) > 1.001 * max(lengths):
        return None
    return named(judged, ["clipped_gradient"], f" (here to {max(lengths):.4g})", numbers={"c": max(lengths)})


# ── with a number of its own ────────────────────────────────────────────────────────────────────────────────────────


def with_a_number(judged: list[Judged]) -> tuple[Report | None, Report | None]:
    """A mistake with a free number, such as the λ of a weight decay: the number is solved for on one case, and must
    then explain all the others; or else all other wrong ones, which is the second report."""
    partly: Report | None = None
    ordered = cheapest_first(judged)
    mistakes = dict.fromkeys(name.split("/")[0] for j in ordered for name in j.forms)
    for mistake in (CATALOGUE[id] for id in mistakes):
        if mistake.free is None:
            continue
        for k in range(len(mistake.forms)):
            name = f"{mistake.id}/{k}" if k else mistake.id
            c, everywhere = number_of(ordered, name, mistake.free)
            if c is None and (size := _size_as_number(ordered, name, mistake.free)):
                said, meaning = f"{mistake.free.symbol} = {size}", _SIZES.get(size.removeprefix("1/"), "")
                numbers = {mistake.free.symbol: size}
                return named(judged, [name], f" (here {said}{meaning})", f", {said}", numbers), None
            if c is None or partly and not everywhere:
                continue
            shown, numbers = f" (here {mistake.free.symbol} = {c:.6g})", {mistake.free.symbol: c}
            shown += "" if everywhere else _where(judged)
            report = named(judged, [name], shown, f", {mistake.free.symbol} = {c:.6g}", numbers)
            if everywhere:
                return report, None
            partly = report
    return None, partly


def number_of(ordered: list[Judged], name: str, free: Free) -> tuple[float | None, bool]:
    """The number with which the form `name` explains all wrong answers, if there is one; and whether all right ones."""
    about = [j for j in ordered if not j.passed and not j.gradient_diverged and name in j.forms]
    if not about or any(not j.passed and name not in j.forms for j in ordered):
        return None, False
    wrong = [j for j in ordered if not j.passed]
    tried = next((j for j in about[:8] if not blind(j, name, free)), None)
    for c in () if tried is None else candidates(tried, name, free):
        form = lambda j: form_with(j, name, free, c)  # noqa: B023, E731
        if all(explains(j, form(j)) for j in wrong):
            told = nearer(wrong, lambda j: j.gives(form(j)))  # noqa: B023
            if told and all(explains(j, form(j)) for j in ordered if j.passed):
                return c, True
            if all(explains(j, form(j), exactly=True) for j in wrong):
                return c, False
    return None, False


def _size_as_number(ordered: list[Judged], name: str, free: Free) -> str:
    """The name of a size of each case, such as 1/T, with which as its number the form explains all answers; or ""."""
    tried = next((j for j in ordered if not j.passed and j.solved.get(name)), None)
    if tried is None or free.integer or any(not j.passed and name not in j.forms for j in ordered):
        return ""
    near = [size for size, f in factors(tried.case).items() for c in tried.solved[name] if abs(c - f) <= 1e-6 * abs(f)]
    form = lambda j, size: form_with(j, name, free, factors(j.case)[size])  # noqa: E731
    return next((size for size in near if all(explains(j, form(j, size)) for j in ordered)), "")


def candidates(j: Judged, name: str, free: Free, beside: dict | None = None) -> list[float]:
    """The numbers with which the form explains the answer to one case, which is not blind to them; kept in `j.solved`.

    The usual numbers are tried as they are. Newton's method starts from them until it has failed three times.

    Args:
        beside: the form of another mistake, which is made as well, or {}; there are many, so that less is tried.
    """
    key = (name, repr(beside)) if beside else name
    if key not in j.solved:
        found: list[float] = []
        failed, most = 0, 3 if beside is None else 1
        for start in _starts(j, free) if beside is None else free.typical:
            usual = free.integer or explains(j, form_with(j, name, free, start, beside))
            c = float(start) if usual else _solved(j, name, free, start, beside) if failed < most else None
            failed += c is None
            near = () if c is None else dict.fromkeys((float(f"{c:.3g}"), float(f"{c:.6g}"), c))
            found += [x for x in near if x not in found and explains(j, form_with(j, name, free, x, beside))]
        j.solved[key] = found
    return j.solved[key]


def blind(j: Judged, name: str, free: Free) -> bool:
    """Whether two usual values of the number give the same on this case, to rounding. Of counts, all are tried."""
    if free.integer:
        return False
    if (name, "blind") not in j.solved:
        values = [j.gives(form_with(j, name, free, c)) for c in free.typical[:2]]
        j.solved[name, "blind"] = fits(j.case, values[0], values[1])
    return j.solved[name, "blind"]


def _starts(j: Judged, free: Free) -> Iterator[float]:
    yield from free.typical
    if free.integer:
        yield from (n for n in range(1, 21) if n not in free.typical)
    else:
        got = flat(j.answer.grad)
        yield from (float(np.max(np.abs(got))), float(np.linalg.norm(got)))


def form_with(j: Judged, name: str, free: Free, c: float, beside: dict | None = None) -> dict:
    """The form with that number, and another form beside it; {} where it does not concern the case."""
    form = j.forms.get(name)
    if form is None:
        return {}
    numbered = with_number(form, free, int(c) if free.integer else c)
    return combined(numbered, beside or {}) or {}


def combined(a: dict, b: dict) -> dict | None:
    """Both forms' settings; None where they contradict each other. Layers that are held constant add up."""
    how = {**a.get("how", {}), **b.get("how", {})}
    shared = a.get("how", {}).keys() & b.get("how", {}).keys()
    if "frozen" in shared:
        how["frozen"] = tuple(dict.fromkeys((*a["how"]["frozen"], *b["how"]["frozen"])))
    clash = any(a[k] != b[k] for k in (a.keys() & b.keys()) - {"how"}) or any(
        a["how"][k] != b["how"][k] for k in shared - {"frozen"}
    )
    return None if clash else {**a, **b} | ({"how": how} if how else {})


def _solved(j: Judged, name: str, free: Free, start: float, beside: dict | None = None) -> float | None:
    """c with value(c) = theirs, by Gauss and Newton's method on one case; None if it does not converge."""
    got, c = flat(j.answer.grad), start

    def residual(c: float) -> np.ndarray:
        with np.errstate(all="ignore"):
            return flat(j.gives(form_with(j, name, free, c, beside))) - got

    def near(r: np.ndarray) -> bool:
        return bool(np.linalg.norm(r) <= 1e-9 * np.linalg.norm(got))

    try:
        r = residual(c)
        for _ in range(12):
            h = 1e-4 * max(abs(c), 1e-4)
            slope = (residual(c + h) - r) / h
            bend, size = float(slope @ slope), float(r @ r)
            if not np.isfinite(size) or not np.isfinite(bend) or bend == 0:
                return None
            if float(slope @ r) ** 2 < 0.3 * bend * size:  # the number does not act in the direction of what is missing
                return c if near(r) else None  # or nothing is missing any more
            # c ← c − ⟨r, r′⟩ / ⟨r′, r′⟩
            after = c - float(slope @ r) / bend
            before, r = np.linalg.norm(r), residual(after)
            change, c = abs(after - c), after
            if change <= 1e-13 * abs(c):
                return c
            if not np.linalg.norm(r) < 0.5 * before:  # it converges faster, or another start is nearer
                return c if near(r) else None
        return c
    except Exception:  # noqa: BLE001
        return None  # a number for which the mistake makes no sense, or not beside the other one


def explains(j: Judged, form: dict, exactly: bool = False) -> bool:
    """Whether the form gives the answer to this case (`exactly`: see `fits_form`)."""
    with np.errstate(all="ignore"):
        try:
            if excluded(j, form):
                return False
            grads = j.gives(form)
        except Exception:  # noqa: BLE001  (two mistakes may make no sense together; the search goes on)
            return False
    finite = bool(np.isfinite(flat(grads)).all())
    return (finite or j.gradient_diverged) and fits_form(j, form, grads, exactly)


# ── with few digits ─────────────────────────────────────────────────────────────────────────────────────────────────

ROUGHLY = 1e-3  # of an answer, as much as a difference in the place of a derivative may be off


def roughly(judged: list[Judged]) -> Report | None:
    """One mistake, with its usual numbers, that explains all but the last digits, and far more than what is right does:
    it is computed with differences, or in a short type."""
    ordered = [j for j in cheapest_first(judged) if not at_kink(j.case)]
    wrong = [j for j in ordered if not j.passed]
    right = [_apart(j, j.case.answer.meta_grad) for j in wrong]
    best: tuple = ()
    for name, c in _with_usual_numbers(ordered):
        limit, worst = best[0] / 3 if best else ROUGHLY, 0.0  # another one has to be clearly nearer
        for j in ordered:
            form = _form_given(j, name, c)
            if form is not None and excluded(j, form, within=limit):
                break
            worst = max(worst, _apart(j, _given(j, name, c)))
            if worst >= limit:
                break
        else:
            best = (worst, name, c)
    if not best or sorted(right)[len(right) // 2] < 100 * best[0]:
        return None
    off, name, c = best
    free = CATALOGUE[name.split("/")[0]].free
    said, numbers = ("", {}) if c is None else (f" (here {free.symbol} = {c:.6g})", {free.symbol: c})
    said += f"; {-math.log10(off):.0f} digits agree with that: derivatives are differences, or a part has a short type"
    return named(judged, [name], said, numbers=numbers)


def _with_usual_numbers(ordered: list[Judged]) -> Iterator[tuple[str, float | None]]:
    for name in dict.fromkeys(name for j in ordered for name in j.forms):
        free = CATALOGUE[name.split("/")[0]].free
        yield from ((name, c) for c in (free.typical if free else (None,)))


def _given(j: Judged, name: str, c: float | None) -> dict:
    """What the form gives on the case with its number; what is right, where it does not concern the case."""
    if c is None or name not in j.forms:
        return value_of(j.case, name) or j.case.answer.meta_grad
    return j.gives(form_with(j, name, CATALOGUE[name.split("/")[0]].free, c))


def _form_given(j: Judged, name: str, c: float | None) -> dict | None:
    """The form that `_given` would compute now; None if nothing is to be computed."""
    if c is None or name not in j.forms:
        return j.case.answer.bugs.waiting(name)
    return form_with(j, name, CATALOGUE[name.split("/")[0]].free, c)


def _apart(j: Judged, value: dict) -> float:
    """How far the answer is from a value, of its largest number."""
    with np.errstate(all="ignore"):
        off = np.max(np.abs(flat(j.answer.grad) - flat(value))) / np.max(np.abs(flat(j.answer.grad)))
    return float(off) if np.isfinite(off) else np.inf


# ── nearly ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def nearest(judged: list[Judged]) -> str:
    """The mistake that explains most wrong cases, if it explains nearly all; with what it leaves."""
    names = list(dict.fromkeys(name for j in judged for name in j.forms))
    wrong = [j for j in cheapest_first(judged) if j.error > tolerance.TAU]
    if not wrong:
        return ""
    most = 0.3 * len(wrong)  # cases that a candidate may leave unexplained
    best, left = "", len(wrong)
    for name in names:
        missed = 0
        for place, j in enumerate(wrong, start=1):
            missed += not gives_answer(j, name, exactly=True)
            if missed > most or missed >= left or missed == place == 3:  # the first three, which cost least
                break
        else:
            if any(j.case.answer.bugs.get(name) is not None for j in wrong):
                best, left = name, missed
    if not best:
        return ""
    missed = [j.case.id for j in judged if not fits(j.case, j.answer.grad, value_of(j.case, best))]
    others = ", ".join(missed[:3]) + (", …" if len(missed) > 3 else "")
    return (f"{best.split('/')[0]} alone does not explain it: it gives these numbers in {len(wrong) - left} of "
            f"{len(wrong)} wrong cases, and others in {others}")  # fmt: skip
