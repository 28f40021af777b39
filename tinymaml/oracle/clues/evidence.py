"""What is shown beside a verdict: the smallest failing case, what right and wrong cases share, what was covered.

It has one entry:

    add_evidence(report, questions, answers, judged)      fills it in; `diagnosis` calls it once, at the end
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np

from ..cases import Case
from ..catalogue import flat
from ..family import ALGORITHMS


@dataclasses.dataclass
class Evidence:
    """The smallest failing case, with what came.

    Attributes:
        case: the case, with its answer.
        yours, right: meta-gradients, {name: float64 array}.
        meta_loss: theirs, or None if none came.
    """

    case: Case
    yours: dict[str, np.ndarray]
    right: dict[str, np.ndarray]
    meta_loss: float | None = None

    def to_json(self) -> dict:
        """As numbers: nested lists by parameter."""
        as_lists = lambda grads: {n: g.tolist() for n, g in grads.items()}  # noqa: E731
        return {
            "case": self.case.id, "yours": as_lists(self.yours), "right": as_lists(self.right),
            "meta_loss": self.meta_loss, "right_meta_loss": self.case.answer.meta_loss,
        }  # fmt: skip


def add_evidence(report, questions, answers, judged) -> None:
    """Fill in what `report` shows beside its verdict: the framework, the algorithm and its formula, what was asked and
    covered, the evidence, what is shared, relative errors."""
    report.asked = len(questions)
    report.framework = report.framework or framework_of(answers.values())
    report.algorithm = judged[0].case.algorithm
    report.formula = ALGORITHMS[report.algorithm].FORMULA if report.algorithm in ALGORITHMS else ""
    report.covered = covered([j.case for j in judged])
    report.evidence = smallest(judged)
    report.shared = shared(judged)
    by_id = {j.case.id: j for j in judged}
    for row in report.cases:
        if row.id in by_id:
            row.relative = relative_error(by_id[row.id])


def framework_of(answers: Iterable) -> str:
    """The library whose arrays the candidate asked for; NumPy's may be helpers of another."""
    used = {a.framework for a in answers}
    return next((name for name in ("torch", "jax", "numpy") if name in used), "")


def size(case: Case) -> int:
    """Parameters × tasks × steps."""
    return sum(p.size for p in case.params.values()) * case.tasks * max(case.inner_steps, 1)


def smallest(judged) -> Evidence | None:
    """The failing case that is quickest to follow by hand; of equals, the one whose numbers are shortest to write."""
    wrong = [j for j in judged if not j.passed]
    if not wrong:
        return None
    j = min(wrong, key=lambda j: (size(j.case), len(str(j.case.to_json(np.ndarray.tolist)))))
    return Evidence(j.case, j.answer.grad, j.case.answer.meta_grad, j.answer.meta_loss)


def relative_error(j) -> float:
    """|g − r|∞ / |r|∞, or that of the meta-loss if it is larger; ∞ where 0 was wanted."""
    right = j.case.answer
    got, wanted = flat(j.answer.grad), flat(right.meta_grad)
    off = _ratio(np.max(np.abs(got - wanted), initial=0), np.max(np.abs(wanted), initial=0))
    if j.answer.meta_loss is None:
        return off
    return max(off, _ratio(abs(j.answer.meta_loss - right.meta_loss), abs(right.meta_loss)))


def _ratio(off: float, size: float) -> float:
    return 0.0 if off == 0 else float(off / size) if size else float("inf")


# ── what they share ─────────────────────────────────────────────────────────────────────────────────────────────────


def properties(case: Case) -> set[str]:
    """What can be said of a case, in words that can follow "with"."""
    layers = [m["layer"] for m in case.model["layers"]]
    used = [n for m in case.model["layers"] for n in m.get("params", [])]
    k, t = case.inner_steps, case.tasks
    return {layer.replace("_", " ") for layer in layers} | {
        f"the loss {case.model['loss']}",
        "no inner step" if k == 0 else "one inner step" if k == 1 else "several inner steps",
        "one task" if t == 1 else "several tasks",
        "a weight that is used twice" if len(used) > len(set(used)) else "no weight that is used twice",
        "several layers of weights" if sum("params" in m for m in case.model["layers"]) > 1 else "one layer of weights",
        "one number in θ" if sum(p.size for p in case.params.values()) == 1 else "several numbers in θ",
        "one array in θ" if len(case.params) == 1 else "several arrays in θ",
        "no batch norm" if "batch_norm" not in layers else "batch norm",
        "no convolution" if "conv" not in layers else "a convolution",
    }


def shared(judged) -> dict[str, list[str]]:
    """What all wrong cases have and no right one, and the reverse: {"wrong": […], "right": […]}.

    Of a single case nothing is said: it shares everything with itself.
    """
    sides = {"wrong": [properties(j.case) for j in judged if not j.passed],
             "right": [properties(j.case) for j in judged if j.passed]}  # fmt: skip
    out = {}
    for side, other in (("wrong", "right"), ("right", "wrong")):
        if len(sides[side]) > 1 and sides[other]:
            out[side] = sorted(set.intersection(*sides[side]) - set.union(*sides[other]))
    return {side: words for side, words in out.items() if words}


# ── what was covered ────────────────────────────────────────────────────────────────────────────────────────────────


def covered(cases: list[Case]) -> dict:
    """Models' layers and losses, K, T, α of the cases, as lists of what there is."""
    rates = [a for c in cases for a in (c.inner_lr.values() if isinstance(c.inner_lr, dict) else [c.inner_lr])]
    numbers = [float(x) for a in rates for x in (np.min(a), np.max(a))]
    return {
        "models": len({str(c.model) for c in cases}),
        "layers": sorted({m["layer"] for c in cases for m in c.model["layers"]}),
        "losses": sorted({c.model["loss"] for c in cases}),
        "inner_steps": sorted({c.inner_steps for c in cases}),
        "tasks": sorted({c.tasks for c in cases}),
        "needs": sorted({need for c in cases for need in c.needs}),
        "inner_lr": [min(numbers), max(numbers)] if numbers else [],
    }
