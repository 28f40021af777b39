"""How the tasks' gradients were put together, if each of them is right: Σₜ wₜ Gₜ with other weights than 1/T.

weighted(judged)        a report that gives the weights, or None: they explain not every wrong case
"""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import numpy as np

from ..cases import Case
from ..catalogue import CATALOGUE, flat
from ..mistakes.semantics import run
from ..pages.report import Report
from .locate import Judged
from .match import fits, rows


def weighted(judged: list[Judged]) -> Report | None:
    """The weights, by the number of tasks; None unless they are the same in all cases with as many tasks."""
    wrong = [j for j in judged if not j.passed]
    if not wrong or any(j.case.algorithm != "maml" or j.case.tasks < 2 for j in wrong):
        return None
    found: dict[int, np.ndarray] = {}
    for j in wrong:
        if flat(j.case.params).size < j.case.tasks + 2:  # any gradient is some sum of so many
            continue
        weights = weights_of(j)
        if weights is None or not np.allclose(weights, found.setdefault(j.case.tasks, weights), rtol=0, atol=1e-6):
            return None
    # where all weights are alike, something else is wrong
    if not found or any(np.ptp(weights) < 1e-6 for weights in found.values()):
        return None
    mistake = CATALOGUE["tasks_weighted"]
    shown = "; ".join(f"{', '.join(map(_shown, weights))} for T = {count}" for count, weights in sorted(found.items()))
    return Report("KNOWN_BUG", mistake.id, f"{mistake.explanation} (here {shown})", cases=rows(judged, mistake.id))


def weights_of(j: Judged) -> np.ndarray | None:
    """wₜ with G = Σₜ wₜ Gₜ, by least squares, if that is the answer to rounding; None if not."""
    each = [run(_alone(j.case, t)).meta_grad for t in range(j.case.tasks)]
    columns = np.stack([flat(g) for g in each], 1)
    weights = np.linalg.lstsq(columns, flat(j.answer.grad), rcond=None)[0]
    together = {n: sum(w * g[n] for w, g in zip(weights, each, strict=True)) for n in each[0]}
    return weights if fits(j.case, j.answer.grad, together) else None


def _alone(case: Case, t: int) -> Case:
    return dataclasses.replace(case, support=[case.support[t]], query=[case.query[t]])


def _shown(weight: float) -> str:
    near = Fraction(weight).limit_denominator(64)
    return str(near) if abs(near - weight) < 1e-6 else f"{weight:.4g}"
