"""Two mistakes at once, which together give the answers in every case.

There are too many pairs to try them all. Three ways lead to one:

    one stands alone    in some wrong cases the other one does not show, so that one of the two explains these; the
                        other is then looked for in a case that the first does not explain
    both show           in every wrong case: forms that give the same numbers in the cheapest case stand for each other,
                        and of the pairs of these classes few are left to try
    what is left        of the answer beside one mistake, in every wrong case: a factor, or a multiple of θ or the like

A number that one of the two has is solved for, alone or beside the other. Nothing is reported but what explains every
case, the right ones included; of several pairs that do, the most usual one, and the others as ties.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from ..catalogue import CATALOGUE, flat
from ..mistakes.mistake import Mistake
from ..mistakes.outcome import group as group_of
from ..pages.report import Report
from ..tolerance import TAU
from .locate import Judged
from .match import (
    blind,
    candidates,
    cheapest_first,
    combined,
    cost,
    detached_too,
    excluded,
    explains,
    fits,
    form_of,
    form_with,
    is_part,
    nearer,
    rows,
    value_of,
)

# Mistakes that are made beside any other.
COMMON = ("fomaml", "sum_over_tasks", "half_squared_error", "one_step_more", "one_step_less")

# What each search may cost, in units of `match.cost`.
LIMIT = 40_000
SOLVING = 8  # evaluations of a form, on the average, to solve for its number

MOST_FIRSTS = 40  # forms that are asked which of all wrong cases they explain


class Half(NamedTuple):
    """One of two mistakes: the name of its form, and its number where that is not the form's own."""

    name: str
    number: float | None = None

    @property
    def mistake(self) -> Mistake:
        return CATALOGUE[self.name.split("/")[0]]

    def form(self, j: Judged) -> dict:
        """Its form on a case; {} where it does not concern the case."""
        if self.number is None:
            return j.forms.get(self.name, {})
        return form_with(j, self.name, self.mistake.free, self.number)

    def alone(self, j: Judged) -> bool:
        """Whether it explains a wrong case alone; a value that is not known explains nothing."""
        if self.name not in j.forms:
            return False
        if self.number is not None:
            return explains(j, self.form(j))
        waiting = j.case.answer.bugs.waiting(self.name)
        if waiting is not None and excluded(j, waiting):
            return False
        value = value_of(j.case, self.name)
        return value is not None and fits(j.case, j.answer.grad, value)

    def shows(self, j: Judged) -> bool:
        """Whether it gives another gradient than the right one."""
        if self.name not in j.forms:
            return False
        value = j.gives(self.form(j)) if self.number is not None else value_of(j.case, self.name)
        return value is None or not fits(j.case, j.case.answer.meta_grad, value)

    @property
    def order(self) -> tuple:
        """Conventions first, then classic and common mistakes, then the others; the first forms before others; what
        has a number of its own last."""
        m = self.mistake
        likely = -1000 if m.convention else -(m.classic or m.id in COMMON)
        return likely, self.number is not None, int(self.name.partition("/")[2] or 0)


Pair = tuple[Half, Half]


def two(judged: list[Judged]) -> Report | None:
    """Two mistakes, with the numbers that they may have. Two conventions are no mistake, and come first."""
    search = Search(judged)
    for found in (search.one_stands_alone(), search.what_is_left(), search.both_show(), search.numbers_beside()):
        for pairs in found:
            if fit := [pair for pair in pairs if search.explained(pair)]:
                return _report(judged, _least(judged, fit))
    return None


def _least(judged: list[Judged], fit: list[Pair]) -> list[Pair]:
    """The pairs without those that set all that another one sets, and more, which is needless."""
    forms = {h: next(h.form(j) for j in judged if h.name in j.forms) for pair in fit for h in pair}
    said = {pair: combined(*(forms[h] for h in pair)) or {} for pair in fit}
    return [pair for pair in fit if not any(is_part(said[other], said[pair]) for other in fit)]


def _rank(pair: Pair) -> tuple:
    a, b = (half.order for half in pair)
    return tuple(x + y for x, y in zip(a, b, strict=True))


class Search:
    """The pairs that may explain the answers, by the ways that the module names: lists of equals, of which each pair
    explains at least the case that it was looked for on."""

    def __init__(self, judged: list[Judged]):
        self.ordered = cheapest_first(judged)
        self.wrong = [j for j in self.ordered if j.error > TAU] or self.ordered[:1]
        right = self.ordered[len(self.wrong) :]
        names = dict.fromkeys(name for j in self.ordered for name in j.forms)
        # beside another mistake, what shows in a right case would be seen there, too
        self.plain = [h for h in map(Half, names) if not any(h.shows(j) for j in right)]
        self.numbered = [h for h in map(Half, names) if h.mistake.free and _silent(h, right)]
        # the wrong cases that each form can be computed on, and those on which it can be excluded
        self.tried, self.asked = _affordable(self.wrong, 1), _affordable(self.wrong, 1, along=True)
        # those with several numbers: one alone is met by any form whose number is solved for
        self.several = [j for j in self.wrong if len(flat(j.answer.grad)) > 1]

    def explained(self, pair: Pair) -> bool:
        value = lambda j: j.gives(combined(*(h.form(j) for h in pair)) or {})  # noqa: E731
        return all(self.explains(j, *pair) for j in self.ordered) and nearer(self.wrong, value)

    def explains(self, j: Judged, a: Half, b: Half) -> bool:
        both = combined(a.form(j), b.form(j))
        return both is not None and explains(j, both)

    # ── one stands alone ────────────────────────────────────────────────────────────────────────────────────────────

    def one_stands_alone(self) -> Iterator[list[Pair]]:
        """Pairs of which one explains some wrong cases, and both together the first of the others."""
        yield from self.beside_firsts(self.plain)
        yield from self.beside_firsts(self.solved_alone())

    def beside_firsts(self, halves: list[Half]) -> Iterator[list[Pair]]:
        explained = {h: [j for j in self.asked if h.alone(j)] for h in halves}
        firsts = sorted((h for h in halves if explained[h]), key=lambda h: (-len(explained[h]), h.order))
        count = {h: sum(h.alone(j) for j in self.wrong) for h in firsts[:MOST_FIRSTS]}
        firsts = sorted(count, key=lambda h: (-count[h], h.order))
        # those that nothing tells apart, up to the first case that they do not explain, stand for each other
        groups: dict[tuple, tuple[Judged, list[Half]]] = {}
        for a in firsts:
            left = next((j for j in self.wrong if not a.alone(j)), None)
            if left:
                key = left.case.id, count[a], _numbers(left.gives(a.form(left)) if a.form(left) else {})
                groups.setdefault(key, (left, []))[1].append(a)
        spent, behind = 0.0, []
        for left, group in groups.values():
            if spent > LIMIT:
                break
            a, here = group[0], [b for b in self.plain if b.name in left.forms]
            # the other one does not show where the first explains the answer, for the most part
            silent = {b for b in here if not any(b.shows(j) for j in explained[a])}
            behind.append((left, group))
            seconds = [b for b in here if differ(left, a, b) and self.explains(left, a, b)]
            spent += cost(left.case) * len(here)
            pairs = [(x, b) for x in group for b in seconds if differ(left, x, b)]
            yield sorted(pairs, key=lambda pair: (pair[1] not in silent, _rank(pair)))  # noqa: B023
        for _, group in behind:
            left = next((j for j in self.several if not group[0].alone(j)), None)
            if spent > 2 * LIMIT or left is None:
                break
            numbered = [b for b in self.numbered if b.name in left.forms and _silent(b, explained[group[0]])]
            yield [(x, b) for _, b in self.with_a_number(left, group[0], numbered) for x in group]
            spent += cost(left.case) * SOLVING * len(numbered)

    def solved_alone(self) -> list[Half]:
        """Forms with the numbers with which they explain a wrong case, one of each kind of model."""
        found, spent, kinds = [], 0.0, set()
        for j in self.several:
            here = [h for h in self.numbered if h.name in j.forms]
            kind, costs = str(j.case.model["layers"]), cost(j.case) * SOLVING * len(here)
            if kind in kinds or spent and spent + costs > LIMIT:
                continue
            beside = {} if kinds else None
            spent += costs
            kinds.add(kind)
            for h in here:
                if not blind(j, h.name, h.mistake.free):
                    found += [Half(h.name, c) for c in candidates(j, h.name, h.mistake.free, beside)]
        return list(dict.fromkeys(found))

    def with_a_number(self, j: Judged, a: Half, numbered: list[Half]) -> list[Pair]:
        """Pairs of a form and another one, whose number is solved for on a case."""
        fit = []
        for b in numbered:
            if b.name in j.forms and differ(j, a, b):
                found = candidates(j, b.name, b.mistake.free, beside=a.form(j))
                fit += [(a, Half(b.name, c)) for c in found]
        return sorted(fit, key=_rank)

    # ── both show ───────────────────────────────────────────────────────────────────────────────────────────────────

    def both_show(self) -> Iterator[list[Pair]]:
        """The common mistakes beside each form, then pairs of classes: those that show in every wrong case first, and
        of these the most usual ones."""
        first = self.wrong[0]
        showing = [h for h in self.plain if h.shows(first)]
        everywhere = {h for h in showing if all(h.shows(j) for j in self.tried)}
        for a in sorted((h for h in showing if h.mistake.id in COMMON), key=lambda h: h.order):
            beside = [(a, b) for b in showing if differ(first, a, b) and self.explains(first, a, b)]
            yield sorted(beside, key=_rank)
        classes = _classes(first, showing)
        seldom = [(min(h not in everywhere for h in group), *group[0].order) for group in classes]
        pairs = itertools.combinations_with_replacement(range(len(classes)), 2)
        ordered = sorted(pairs, key=lambda km: [x + y for x, y in zip(*(seldom[n] for n in km), strict=True)])
        for k, m in ordered[: int(LIMIT / cost(first.case))]:
            members = [(a, b) for a, b in _members(classes, k, m) if differ(first, a, b)]
            if members and self.explains(first, *members[0]):
                yield sorted(members, key=_rank)

    # ── what is left ────────────────────────────────────────────────────────────────────────────────────────────────

    def what_is_left(self) -> Iterator[list[Pair]]:
        """A form, and a penalty or factor with its number: the answer less what the form gives is λθ, or the like."""
        if not self.several:
            return
        first = self.several[0]
        got = flat(first.answer.grad)
        last = [h for h in self.numbered if h.name in first.forms and h.mistake.id in LEFT]
        for a in self.plain:
            value = value_of(first.case, a.name) if a.name in first.forms else None
            if value is None or not (left := got - flat(value)).any():
                continue
            for b in last:
                without, of = LEFT[b.mistake.id]
                term = flat(of(first.case, value, b.form(first)))
                c = float(left @ term / length) if (length := float(term @ term)) else 0.0
                if c and np.max(np.abs(left - c * term)) <= 1e-6 * np.max(np.abs(left)):
                    c += without
                    yield [(a, Half(b.name, number)) for number in dict.fromkeys((float(f"{c:.3g}"), c))]

    # ── numbers beside the common ones ──────────────────────────────────────────────────────────────────────────────

    def numbers_beside(self) -> Iterator[list[Pair]]:
        """A form, and another one with a number, where both show in the first case: the forms that are nearest to the
        answer first, since most numbers are small; and the common ones."""
        if not self.several:
            return
        first = self.several[0]
        got = flat(first.answer.grad)
        away = lambda h: float(np.max(np.abs(flat(value_of(first.case, h.name)) - got)))  # noqa: E731
        nearest = sorted((group[0] for group in _classes(first, [h for h in self.plain if h.shows(first)])), key=away)
        common = [h for h in self.plain if h.mistake.id in COMMON and h.shows(first)]
        numbered = [h for h in self.numbered if h.name in first.forms]
        spent = 0.0
        for a in dict.fromkeys([*nearest[:2], *common, *nearest]):
            if spent > LIMIT:
                return
            yield self.with_a_number(first, a, numbered)
            spent += cost(first.case) * SOLVING * len(numbered)


def _scaled_part(case, value: dict, form: dict) -> dict:
    scaled = group_of(case, form["outer_times_of"])
    return {n: x * (n in scaled) for n, x in value.items()}


# What a mistake adds to a meta-gradient `value`, (its number − n) times a term: (n, the term).
LEFT: dict[str, tuple[float, Callable[..., dict]]] = {
    "outer_weight_decay": (0.0, lambda case, value, form: case.params),
    "outer_l1_penalty": (0.0, lambda case, value, form: {n: np.sign(p) for n, p in case.params.items()}),
    "outer_sum_penalty": (0.0, lambda case, value, form: {n: np.ones_like(p) for n, p in case.params.items()}),
    "gradient_of_group_scaled": (1.0, _scaled_part),
}


def _silent(h: Half, cases: list[Judged]) -> bool:
    """Whether a form with one of its usual numbers gives what is right on all these cases."""
    numbers = h.mistake.free.typical if h.mistake.free else ()
    return any(not any(Half(h.name, c).shows(j) for j in cases) for c in numbers)


def _numbers(grads: dict) -> tuple:
    """A gradient's numbers, without the last digits: a key for what is equal to rounding."""
    return tuple(float(f"{x:.9g}") for x in flat(grads)) if grads else ()


def _classes(j: Judged, halves: list[Half]) -> list[list[Half]]:
    """The forms that give the same numbers on a case, together."""
    out: dict = {}
    for h in halves:
        value = value_of(j.case, h.name)
        if value is not None:
            out.setdefault(_numbers(value), []).append(h)
    return [sorted(group, key=lambda h: h.order) for group in out.values()]


def _members(classes: list[list[Half]], k: int, m: int) -> Iterator[Pair]:
    return itertools.combinations(classes[k], 2) if k == m else itertools.product(classes[k], classes[m])


def _affordable(wrong: list[Judged], evaluations: int, along: bool = False) -> list[Judged]:
    """As many of the cases as each form can be computed on so many times, within the limit; at least one. With `along`,
    it is computed in one direction alone."""
    spent = list(itertools.accumulate(cost(j.case, along) * len(j.forms) * evaluations for j in wrong))
    return [j for j, total in zip(wrong, spent, strict=True) if total <= LIMIT] or wrong[:1]


def differ(j: Judged, a: Half, b: Half) -> bool:
    """Whether two forms can be made at once on a case, and say more together than one of them."""
    if a.name == b.name:
        return False
    x, y = a.form(j), b.form(j)
    return not x or not y or combined(x, y) not in (None, x, y)


def _report(judged: list[Judged], fit: list[Pair]) -> Report:
    order = list(CATALOGUE)
    pairs = [sorted(pair, key=lambda h: (h.number is None, order.index(h.mistake.id))) for pair in fit]
    named = list(dict.fromkeys(" + ".join(h.mistake.id for h in pair) for pair in pairs))
    said, numbers = [], {}
    for h in pairs[0]:
        m, form = h.mistake, form_of(judged, h.name)
        words = m.explanation + m.which(form)
        if h.number is not None and m.free:
            symbol = m.free.symbol if m.free.symbol not in numbers else f"{m.free.symbol} of {m.id}"
            numbers[symbol] = h.number
            words += detached_too(m, form) + f" (here {m.free.symbol} = {h.number:.6g})"
        said.append(words)
    conventions = all(h.mistake.convention for h in pairs[0])
    return Report(
        "CORRECT_OTHER_CONVENTION" if conventions else "KNOWN_BUG", named[0],
        ("two other conventions: " if conventions else "two at once: ") + "; and ".join(said),
        ties=named[1:], numbers=numbers, cases=rows(judged, named[0]),
    )  # fmt: skip
