"""What becomes of a meta-gradient before it is returned: nothing, or what code makes of it.

finished(switches, grads, theta, case, rates)      of MAML (`semantics`) and of the family (`family.answers`)
group(case, "head")                                the names of the parameters of one kind
named(case, −1)                                    the parameter in a place
"""

from __future__ import annotations

import numpy as np

from ..arithmetic import hold, side
from .updates import BY_COLUMNS, TORCH_MORE, Tree, clamped, clipped, map_trees, norm, relaid


def finished(s: dict, grads: Tree, theta: Tree, case, rates) -> Tree:
    """The gradient that is returned, for the switches `s` (see `semantics.SWITCHES` and `NUMBERS`).

    Args:
        rates: a function that gives α by parameter, for code that multiplies by it.
    """
    for switch, term in (("outer_decay", lambda p: p), ("outer_shift", lambda p: p * 0 + 1), ("outer_sign", side)):
        if s[switch]:
            grads = map_trees(lambda g, p, term=term, c=s[switch]: g + term(p) * c, grads, theta)
    silent = _silent(s, case, list(grads))
    grads = {n: g * 0 if n in silent else g for n, g in grads.items()}
    more = TORCH_MORE if s["clip_like"] == "torch" else 0
    if s["clip"]:
        grads = clipped(grads, s["clip"], more)
    if s["clip_tensor"]:
        grads = {n: clipped({n: g}, s["clip_tensor"], more)[n] for n, g in grads.items()}
    if s["clamp"]:
        grads = map_trees(lambda g: clamped(g, s["clamp"]), grads)
    if s.get("outer_times"):
        grads = {n: g * s["outer_times"] if n in group(case, s["outer_times_of"]) else g for n, g in grads.items()}
    if s["result"] == "sign":
        return map_trees(lambda g: side(g) + hold(g) * 0, grads)
    if s["result"] in BY_COLUMNS:
        return map_trees(lambda g: relaid(g, s["result"]), grads)
    if s["result"] == "times inner rate":
        return map_trees(lambda g, a: g * a, grads, rates())
    if s["result"] == "normalised":
        size = norm(grads)
        return map_trees(lambda g: g / size, grads)
    if s["result"] == "over inner rate":
        return map_trees(lambda g, a: g / np.where(hold(a) == 0, 1, a), grads, rates())
    over = {"over steps": case.inner_steps, "over tasks": case.tasks}.get(s["result"])
    if over:
        return map_trees(lambda g: g / over, grads)
    times = {"doubled": 2, "negative": -1}.get(s["result"], 1)
    return map_trees(lambda g: g * times, grads)


def _silent(s: dict, case, names: list[str]) -> list[str]:
    """The parameters whose gradient is 0."""
    which = s["result"].removesuffix(" zero")
    silent = {"zero": names, "last parameter zero": names[-1:]}.get(s["result"])
    if silent is None:
        silent = group(case, which) if which != s["result"] else []
    if s.get("zero_tensor"):
        silent = [*silent, named(case, s["zero_tensor"])]
    if s.get("only_result_tensor"):
        silent = [*silent, *(n for n in names if n != named(case, s["only_result_tensor"]))]
    return silent


def group(case, which: str) -> list[str]:
    """The names of the parameters of one kind: "all", "biases", "no biases", "head", "body", "first layer", "vectors"
    (with scalars), "matrices" (with filters) or "batch norm"."""
    names, head = list(case.params), case.head()
    vectors = [n for n in names if case.params[n].ndim < 2]
    first = next((m["params"] for m in case.model["layers"] if m.get("params")), [])
    return {"all": names, "biases": case.biases(), "no biases": case.biases_left(), "head": head,
            "body": [n for n in names if n not in head], "first layer": first,
            "vectors": vectors, "matrices": [n for n in names if n not in vectors],
            "batch norm": [n for m in case.model["layers"] if m["layer"] == "batch_norm" for n in m["params"]],
            }[which]  # fmt: skip


def named(case, place: int) -> str | None:
    """The parameter in a place, counted from 1, or from −1 backwards; None if there is none."""
    names = list(case.params)
    return names[place - (place > 0)] if place and -len(names) <= place <= len(names) else None
