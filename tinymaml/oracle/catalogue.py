"""What MAML implementations get wrong: each mistake by name, what it computes, and the line to change.

    CATALOGUE["fomaml"].torch      CATALOGUE["fomaml"].forms      list_bugs()
    forms(case)                    what one could make on a case   run_form(case, form)     what it gives there

A mistake is one or more settings of the switches in `mistakes.semantics` (its forms: ways to write the same mistake
that do not compute the same). A convention is a choice that is legitimate elsewhere, but not the one the case asks for.
"""

from __future__ import annotations

import numpy as np

from . import family
from .family import answers
from .mistakes import OF_MAML
from .mistakes.concerns import concerns
from .mistakes.mistake import KINDS, Mistake
from .mistakes.semantics import Result, run
from .models import Options


def forms(case) -> dict[str, dict]:
    """Name → form, of every mistake that one could make on `case`; the second form of "x" is "x/1"."""
    if case.algorithm != "maml":
        return family.forms(case)
    only = {"first_order_ignored": case.first_order, "all_adapted": case.adapt is not None,
            "one_rate_for_all": isinstance(case.inner_lr, dict)}  # fmt: skip
    possible = [m for m in OF_MAML.values() if only.get(m.id, True)]
    return {f"{m.id}/{k}" if k else m.id: form for m in possible
            for k, form in enumerate(m.forms) if concerns(form, case)}  # fmt: skip


def run_form(case, form: dict, number=float, known: dict | None = None) -> Result:
    """The meta-gradient under `form`, a dict of switches and, under "how", of Options.

    Args:
        known: what other forms have computed of this case, in floats, and this one need not compute again; {} at first.
    """
    if case.algorithm != "maml":
        return answers.run(case, number, known=known, **form)
    options = dict(form.get("how", {}))
    if "frozen" in options:
        options["frozen"] = frozenset(options["frozen"])
    return run(case, number, Options(**options), known, **{k: v for k, v in form.items() if k != "how"})


def slope_of_form(case, form: dict, d: dict) -> float | None:
    """⟨G, d⟩ of the meta-gradient under `form`, where that is far cheaper than G; None where only G itself tells."""
    return None if case.algorithm == "maml" else answers.slope_along(case, d, **form)


CATALOGUE: dict[str, Mistake] = OF_MAML | family.MISTAKES

# Mistakes that leave the meta-gradient of given tasks right, so that no check of it can see them.
OUT_OF_SIGHT = {
    "the same class twice in a task; support examples in the query": "the sampler's: look at the tasks",
    "train and test split drawn anew at test": "the data's: compare the names on both sides",
    "test steps ≠ train steps with per-step rates": "the case's inner_lr is the same for all steps",
    "DiCE and other surrogates of policy gradients": "their gradients are expectations, and none is in these cases",
    "weight decay, clipping or momentum of the outer optimiser": "it comes after the meta-gradient",
    "α, θ or data rounded to a type that holds the cases' numbers": "only numbers that the type lacks can show it",
    "back-propagation cut after more steps than any case has": "the longest case bounds what can be seen",
}


def flat(grads: dict) -> np.ndarray:
    """All of a gradient's numbers in one vector, parameter after parameter."""
    return np.concatenate([np.ravel(g) for g in grads.values()])


def list_bugs() -> str:
    """The catalogue as a table for a person.

    >>> from tinymaml import oracle
    >>> print(oracle.list_bugs())
    fomaml  (bug)
        computes   g_q(θ_K)
    ...
    """
    lines = []
    for m in CATALOGUE.values():
        lines += [f"{m.id}  ({m.kind})", f"    computes   {m.computes}", f"    cause      {m.explanation}",
                  f"    PyTorch    {m.torch}", f"    JAX        {m.jax}"]  # fmt: skip
        lines += [f"    seen in    {m.seen}"] if m.seen else []
    count = {kind: sum(m.kind == kind for m in CATALOGUE.values()) for kind in KINDS}
    lines += ["", f"{count['bug']} bugs, {count['convention']} conventions, {count['precision']} losses of digits. "
              "Out of a gradient's sight:"]  # fmt: skip
    lines += [f"    {what}: {why}" for what, why in OUT_OF_SIGHT.items()]
    return "\n".join(lines)
