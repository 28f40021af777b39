"""Two mistakes at once, which together give the answers in every case.

There are too many pairs to try them all. So one of the two is found first, by the wrong cases that it explains alone,
because the other one does not show there; then the other, on a case that the first does not explain. Where both show in
the same cases, all pairs are tried on the wrong case that is computed fastest, as far as time allows.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from ..catalogue import CATALOGUE, flat
from ..mistakes.mistake import Mistake
from ..pages.report import Report
from .locate import Judged
from .match import (
    blind,
    candidates,
    cheapest_first,
    cost,
    detached_too,
    explains,
    fits,
    form_of,
    form_with,
    number_of,
    rows,
    value_of,
)

# Mistakes that are made beside any other.
COMMON = ("fomaml", "sum_over_tasks", "half_squared_error", "one_step_more", "one_step_less")

# What each search may cost, in units of `match.cost`.
LIMIT = 40_000
SOLVING = 5  # evaluations of each form, on the average, to solve for the numbers of those that have one


def two(judged: list[Judged]) -> Report | None:
    """Two mistakes as they stand in the catalogue. Two conventions are no mistake, and are tried first."""
    ordered = cheapest_first(judged)
    for a, b in itertools.chain(_one_stands_alone(ordered), _both_show(ordered)):
        if all(explains(j, form_of_both(j.forms, a, b)) for j in ordered):
            return _report(judged, a, b)
    return None


def _report(judged: list[Judged], a: str, b: str) -> Report:
    a, b = sorted((a, b), key=lambda n: list(CATALOGUE).index(n.split("/")[0]))
    mistakes = [_mistake(a), _mistake(b)]
    conventions = all(m.convention for m in mistakes)
    each = (m.explanation + m.which(form_of(judged, n)) for m, n in zip(mistakes, (a, b), strict=True))
    ids = " + ".join(m.id for m in mistakes)
    return Report(
        "CORRECT_OTHER_CONVENTION" if conventions else "KNOWN_BUG", ids,
        ("two other conventions: " if conventions else "two at once: ") + "; and ".join(each), cases=rows(judged, ids),
    )  # fmt: skip


def _mistake(name: str) -> Mistake:
    """The mistake that a form's name belongs to."""
    return CATALOGUE[name.split("/")[0]]


def _likely(*names: str) -> int:
    """For an order: conventions, then classic and common mistakes, then the others."""
    return sum(-1000 if m.convention else -(m.classic or m.id in COMMON) for m in map(_mistake, names))


def _forms(judged: list[Judged]) -> dict[str, dict]:
    return {name: form for j in judged for name, form in j.forms.items()}


def _fit_together(forms: dict[str, dict], a: str, b: str) -> bool:
    """Whether two mistakes can be made at once on a case with these forms; each may also be made where the other one
    does not concern the case."""
    return _mistake(a) is not _mistake(b) and (a not in forms or merged(forms[a], forms[b]) is not None)


def _possible(ordered: list[Judged]) -> dict[str, dict]:
    """The forms that do not show in a right case: beside another mistake they would be seen there, too."""
    forms, passed = _forms(ordered), [j for j in ordered if j.passed]
    return {name: form for name, form in forms.items() if all(_is_right(j, name) for j in passed)}


def _is_right(j: Judged, name: str) -> bool:
    return name not in j.forms or fits(j.case, j.case.answer.meta_grad, value_of(j.case, name))


def _one_stands_alone(ordered: list[Judged]) -> Iterator[tuple[str, str]]:
    """Pairs of which one gives some of the wrong answers, and both together the first of the other ones."""
    forms, wrong = _possible(ordered), [j for j in ordered if not j.passed]
    tried = _affordable(wrong, 1)
    explained = {name: sum(_stands_alone(j, name) for j in tried) for name in forms}
    spent = 0.0
    for a in sorted((n for n in forms if explained[n]), key=lambda n: (-explained[n], _likely(n))):
        left = next((j for j in wrong if not _stands_alone(j, a)), None)
        for b in sorted(left.forms, key=_likely) if left else ():
            if b in forms and _fit_together(left.forms, a, b) and explains(left, form_of_both(left.forms, a, b)):
                yield a, b
        spent += cost(left.case) * len(left.forms) if left else 0
        if spent > LIMIT:
            return


def _affordable(wrong: list[Judged], evaluations: int) -> list[Judged]:
    """As many of the cases as each form can be computed on so many times, within the limit; at least one."""
    spent = list(itertools.accumulate(cost(j.case) * len(j.forms) * evaluations for j in wrong))
    return [j for j, total in zip(wrong, spent, strict=True) if total <= LIMIT] or wrong[:1]


def _stands_alone(j: Judged, name: str) -> bool:
    return name in j.forms and fits(j.case, j.answer.grad, value_of(j.case, name))


def _both_show(ordered: list[Judged]) -> Iterator[tuple[str, str]]:
    """Pairs of which both show in the first case: those with a classic or common mistake, and as many more as the limit
    allows, the first forms of mistakes before others."""
    first = ordered[0]
    shows = [name for name in _possible(ordered) if not _is_right(first, name)]
    pairs = [(a, b) for a, b in itertools.combinations(shows, 2) if _fit_together(first.forms, a, b)]
    usual = {(a, b) for a, b in pairs if _likely(a, b) < -1 or {_mistake(a).id, _mistake(b).id} & set(COMMON)}
    pairs.sort(key=lambda ab: (ab not in usual, _place(ab[0]) + _place(ab[1]), _likely(*ab)))
    pairs.sort(key=lambda ab: not all(_mistake(name).convention for name in ab))
    yield from pairs[: len(usual) + int(LIMIT / cost(first.case))]


def _place(name: str) -> int:
    """The place of a form among those of its mistake."""
    return int(name.partition("/")[2] or 0)


def one_with_a_number(judged: list[Judged]) -> Report | None:
    """Two mistakes, of which one has a free number: it is solved for where the other one does not show, such as on
    cases with one task if that is a sum over tasks."""
    ordered = cheapest_first(judged)
    for name, c, other in itertools.chain(_beside_common(ordered), _penalty(ordered), _number_stands_alone(ordered)):
        free = _mistake(name).free
        alone = {j.case.id: form_with(j, name, free, c) for j in ordered}
        if all(explains(j, merged(alone[j.case.id], j.forms.get(other, {})) or alone[j.case.id]) for j in ordered):
            return _report_with_number(judged, name, c, other)
    return None


def _report_with_number(judged: list[Judged], name: str, c: float, other: str) -> Report:
    mistake, second, form = _mistake(name), _mistake(other), form_of(judged, name)
    ids, number = f"{mistake.id} + {second.id}", {mistake.free.symbol: c}
    first = mistake.explanation + mistake.which(form) + detached_too(mistake, form)
    first += f" (here {mistake.free.symbol} = {c:.6g})"
    said = f"two at once: {first}; and {second.explanation}{second.which(form_of(judged, other))}"
    return Report("KNOWN_BUG", ids, said, numbers=number, cases=rows(judged, ids))


def _beside_common(ordered: list[Judged]) -> Iterator[tuple[str, float, str]]:
    """(Form, its number, a common mistake): the number explains all cases that are blind to the common mistake."""
    spent = 0.0
    for other in COMMON:
        blind = [j for j in ordered if other not in j.case.answer.bugs.seen]
        first = next((j for j in blind if not j.passed), None)
        if first is None:
            continue
        spent += 0 if first.solved else cost(first.case) * len(first.forms) * SOLVING
        if spent > LIMIT:
            return
        for name in dict.fromkeys(name for j in blind if not j.passed for name in j.forms):
            free = _mistake(name).free
            c, everywhere = number_of(blind, name, free) if free else (None, False)
            if c is not None and everywhere:
                yield name, c, other


# What is added to a meta-gradient, times a number, by the mistake that does so.
PENALTIES = {
    "outer_weight_decay": lambda theta: theta, "outer_l1_penalty": np.sign,
    "outer_sum_penalty": np.ones_like,
}  # fmt: skip


def _penalty(ordered: list[Judged]) -> Iterator[tuple[str, float, str]]:
    """(A penalty, its number, another form): the answer less what the form gives is λθ, or the like."""
    first = next((j for j in ordered if not j.passed and len(flat(j.answer.grad)) > 1), ordered[0])
    terms = {name: of(flat(first.case.params)) for name, of in PENALTIES.items() if name in first.forms}
    for other in first.forms if terms else ():
        value = value_of(first.case, other)
        left = flat(first.answer.grad) - flat(value or first.answer.grad)
        for name, term in terms.items():
            c = float(left @ term / (term @ term))
            if c and np.max(np.abs(left - c * term)) <= 1e-6 * np.max(np.abs(left)):
                yield from ((name, number, other) for number in (float(f"{c:.3g}"), c))


def _number_stands_alone(ordered: list[Judged]) -> Iterator[tuple[str, float, str]]:
    """(Form, its number, another form): the number explains a wrong case, and both together one that it does not."""
    wrong = [j for j in ordered if not j.passed and len(flat(j.answer.grad)) > 1]
    tried = _affordable(wrong, SOLVING)
    numbered = [(j, name, free) for j in tried for name in j.forms if (free := _mistake(name).free)]
    found = [(name, c) for j, name, free in numbered if not blind(j, name, free) for c in candidates(j, name, free)]
    for name, c in dict.fromkeys(found):
        free = _mistake(name).free
        left = next((j for j in wrong if not explains(j, form_with(j, name, free, c))), None)
        for other in sorted(left.forms, key=_likely) if left else ():
            both = merged(form_with(left, name, free, c), left.forms[other])
            if both and _mistake(other) is not _mistake(name) and explains(left, both):
                yield name, c, other


def form_of_both(possible: dict[str, dict], a: str, b: str) -> dict:
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
