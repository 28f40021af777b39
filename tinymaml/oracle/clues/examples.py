"""Which examples a set is made of, if they are put together otherwise: at random, in an order that no file knows.

    put_together(judged)    a report that says of which set, or None: no such order explains every wrong case that has
                            few enough examples to try

Each task may have an order of its own: their gradients are computed for all orders, and added up for all combinations.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator

import numpy as np

from ..cases import Case
from ..catalogue import CATALOGUE, flat
from ..mistakes.semantics import run
from ..pages.report import Report
from .locate import Judged
from .match import cheapest_first, fits, rows

MOST_ORDERS = 160  # per task
MOST_SUMS = 100_000  # per case
ENOUGH = 3  # wrong cases that must be explained, or all of them: few examples are soon put together somehow


def _pairings(x, y) -> Iterator[tuple]:
    """The inputs with the targets of other examples beside them."""
    return ((x, y[list(order)]) for order in itertools.permutations(range(len(y))))


def _samples(x, y) -> Iterator[tuple]:
    """A subset of the examples; or as many as there are, of which one may count several times."""
    n = len(y)
    subsets = (itertools.combinations(range(n), size) for size in range(1, n + 1))
    some = itertools.chain(*subsets, itertools.combinations_with_replacement(range(n), n))
    return ((x[list(chosen)], y[list(chosen)]) for chosen in some)


def _renumbered(x, y) -> Iterator[tuple]:
    """The classes under other numbers."""
    classes = np.unique(y) if y.dtype.kind in "iu" else np.zeros(0, int)
    for other in itertools.permutations(range(max(classes, default=-1) + 1)):
        yield x, (np.array(other)[y] if len(other) else y)


ORDERS: dict[str, Callable] = {"shuffled_apart": _pairings, "classes_renumbered": _renumbered, "sampled_anew": _samples}
SETS = (("support",), ("query",), ("support", "query"))


def put_together(judged: list[Judged]) -> Report | None:
    """The report on examples that are paired, numbered or drawn anew in one of the sets, or in both."""
    wrong = [j for j in cheapest_first(judged) if not j.passed]
    if not wrong or any(j.case.algorithm != "maml" for j in wrong):
        return None
    for (id, orders), sets in itertools.product(ORDERS.items(), SETS):
        tried = [j for j in wrong if _affordable(j.case, sets, orders)]
        if len(tried) >= min(ENOUGH, len(wrong)) and all(_explained(j, sets, orders) for j in tried):
            mistake = CATALOGUE[id]
            said = f"{mistake.explanation} (here in the {' and the '.join(sets)} set)"
            return Report("KNOWN_BUG", id, said, cases=rows(judged, id))
    return None


def _tasks(case: Case, task: tuple, sets: tuple[str, ...], orders: Callable) -> Iterator[tuple]:
    """The task for each order of these sets."""
    each = (orders(*batch) if which in sets else [batch] for which, batch in zip(SETS[2], task, strict=True))
    return itertools.product(*each)


def _affordable(case: Case, sets: tuple[str, ...], orders: Callable) -> bool:
    of_tasks = (itertools.islice(_tasks(case, task, sets, orders), MOST_ORDERS + 1) for task in case.batches())
    counts = [sum(1 for _ in of_one) for of_one in of_tasks]
    return max(counts) <= MOST_ORDERS and np.prod(counts, dtype=float) <= MOST_SUMS


def _explained(j: Judged, sets: tuple[str, ...], orders: Callable) -> bool:
    """Whether some order of each task's examples gives the answer."""
    count = j.case.tasks
    each = [list(_gradients(j.case, task, sets, orders)) for task in j.case.batches()]
    sums = np.zeros((1, flat(j.answer.grad).size))
    for of_task in each:
        more = np.stack([flat(g) for g in of_task]) / count
        sums = np.reshape(sums[:, None] + more, (-1, sums.shape[1]))
    nearest = int(np.argmin(np.max(np.abs(sums - flat(j.answer.grad)), 1)))
    chosen = np.unravel_index(nearest, [len(of_task) for of_task in each])
    grads = [of_task[i] for of_task, i in zip(each, chosen, strict=True)]
    return fits(j.case, j.answer.grad, {n: sum(g[n] for g in grads) / count for n in grads[0]})


def _gradients(case: Case, task: tuple, sets: tuple[str, ...], orders: Callable) -> Iterator[dict]:
    """The task's gradient for each order; orders that give the same sets once."""
    seen = set()
    for support, query in _tasks(case, task, sets, orders):
        key = tuple(array.tobytes() for array in (*support, *query))
        if key not in seen:
            seen.add(key)
            yield run(dataclasses.replace(case, support=[support], query=[query])).meta_grad
