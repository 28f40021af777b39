"""What becomes of a meta-gradient before it is returned: nothing, or what code makes of it.

together(switches, values, gradients, case)        of all tasks' losses and gradients
finished(switches, grads, theta, case, rates)      of MAML (`semantics`) and of the family (`family.answers`)
group(case, "head")                                the names of the parameters of one kind
in_tasks("all but the first task", t, T)            whether task t is one of these
some_of(case, "vectors")                           the same, if it is not all of them
named(case, −1)                                    the parameter in a place
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..arithmetic import hold, side
from .updates import MIXED_UP, TORCH_MORE, Tree, clamped, clipped, dot, map_trees, mixed_up, norm


def together(s: dict, values: list, gradients: list, case, one=1.0, steps: tuple = ()) -> tuple:
    """(1/T Σₜ of the losses, that of the tasks' gradients), or what code makes of them, for the switches `s`.

    Args:
        one: 1, in the numbers at hand.   steps: (θ before, θ after, β) where θ was moved between the tasks.
    """
    if s["task_count"]:
        values, gradients = values[: int(s["task_count"])], gradients[: int(s["task_count"])]
    count, outer = len(values), s["outer"]
    if s["clip_task"]:
        gradients = [clipped(g, s["clip_task"]) for g in gradients]
    add = lambda *gs: sum(gs[1:], gs[0])  # noqa: E731
    total, value = map_trees(add, *gradients), sum(values[1:], values[0]) / count
    if s["outer_momentum"]:
        mu, from_0 = s["outer_momentum"], s.get("outer_momentum_like", "from 0") == "from 0"
        grads = map_trees(lambda g: g * 0, total) if from_0 else gradients[0]
        for g in gradients if from_0 else gradients[1:]:
            grads = map_trees(lambda m, x: m * mu + x * (1 - mu), grads, g)
    elif s["task_chunks"]:
        parts = [slice(t, t + int(s["task_chunks"])) for t in range(0, count, int(s["task_chunks"]))]
        own = s["task_chunks_like"] == "over their own number"
        over = [len(gradients[part]) if own else int(s["task_chunks"]) for part in parts]
        mean = lambda xs: add(*(add(*xs[part]) / n for part, n in zip(parts, over, strict=True))) / len(parts)  # noqa: E731
        value, grads = mean(values), map_trees(lambda *gs: mean(gs), *gradients)
    elif outer == "sum":
        value, grads = value * count, total
    elif outer.startswith(("last", "first")):
        grads = gradients[-1 if outer.startswith("last") else 0]
        grads = map_trees(lambda g: g / count, grads) if outer.endswith("T") else grads
    elif outer == "moved":  # θ is never restored: both loops move the same parameters
        start, end, beta = steps
        grads = map_trees(lambda a, b: (a - b) / (beta * count), start, end)
    elif outer == "weighted by examples":
        sizes = [len(x) for x, _ in case.query]
        grads = map_trees(lambda *gs: add(*(g * n for g, n in zip(gs, sizes, strict=True))) / sum(sizes), *gradients)
    elif outer in ("over T in turn", "over its number"):
        # (⋯ ((0 + G₁)/T + G₂)/T ⋯)/T, or Σ Gₜ/t
        n = count
        shares = [one / n ** (n - t) if outer == "over T in turn" else one / (t + 1) for t in range(n)]
        value = sum(v * c for v, c in zip(values, shares, strict=True))
        grads = map_trees(lambda *gs: add(*(g * c for g, c in zip(gs, shares, strict=True))), *gradients)
    elif outer.startswith("all but") and count > 1:
        some = slice(1, None) if "first" in outer else slice(-1)
        over = count if outer.endswith("T") else count - 1
        value, grads = sum(values[some]) / over, map_trees(lambda *gs: add(*gs) / over, *gradients[some])
    elif outer.startswith("projected"):
        grads = map_trees(lambda *gs: add(*gs) / (1 if outer.endswith("summed") else count), *_projected(gradients))
    elif outer == "where signs agree":
        agree = map_trees(lambda *gs: np.abs(sum(side(g) for g in gs)) == count, *gradients)
        grads = map_trees(lambda g, same: g / count * same, total, agree)
    elif outer == "each normalised":
        grads = map_trees(lambda *gs: add(*gs) / count, *(clipped(g, 1, always=True) for g in gradients))
    elif outer == "log of each":
        # ∇ 1/T Σ log Lₜ
        grads = map_trees(lambda *gs: add(*(g / v for g, v in zip(gs, values, strict=True))) / count, *gradients)
    elif outer == "root mean square":
        # ∇ √(1/T Σ Lₜ²)
        root = np.sqrt(np.asarray(sum(v * v for v in values) / count)) * count
        grads = map_trees(lambda *gs: add(*(g * v for g, v in zip(gs, values, strict=True))) / root, *gradients)
    elif s["tilt"]:
        # ∇ (1/τ) log (1/T Σ exp τLₜ)
        weights = [np.exp(np.asarray((v - values[0]) * s["tilt"])) for v in values]
        whole = sum(weights)
        grads = map_trees(lambda *gs: add(*(g * w for g, w in zip(gs, weights, strict=True))) / whole, *gradients)
    elif outer == "worst":
        grads = gradients[max(range(count), key=lambda t: float(hold(values[t])))]
    elif outer in ("median", "lower median"):
        low, high = (count - 1) // 2, (count - 1) // 2 if outer.startswith("lower") else count // 2
        grads = map_trees(lambda *gs: (np.sort(np.stack(gs), 0)[low] + np.sort(np.stack(gs), 0)[high]) / 2, *gradients)
    else:
        # 1/T Σₜ
        grads = map_trees(lambda g: g / count, total)
    return value, grads


def _projected(gradients: list[Tree]) -> list[Tree]:
    """Each task's gradient, less its component along each of the others with which it conflicts then (Yu, Kumar,
    Gupta, Levine, Hausman and Finn, NeurIPS 2020), in the order of the tasks."""
    out = []
    for t, g in enumerate(gradients):
        for other in (*gradients[:t], *gradients[t + 1 :]):
            along = dot(g, other)
            if side(along) < 0:
                c = along / dot(other, other)
                g = map_trees(lambda x, y, c=c: x - y * c, g, other)
        out.append(g)
    return out


def finished(s: dict, grads: Tree, theta: Tree, case, rates) -> Tree:
    """The gradient that is returned, for the switches `s` (see `switches`).

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
    if s["result"] in MIXED_UP:
        return mixed_up(grads, s["result"])
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


def in_tasks(which: str, t: int, count: int) -> bool:
    """Whether task t of so many is one of "every task", "first task", "all but the last task" or the like."""
    first, last = t == 0, t == count - 1
    return {"first task": first, "last task": last, "every other task": t % 2 == 0,
            "every other task from the second on": t % 2 == 1, "all but the first task": not first,
            "all but the last task": not last}.get(which, True)  # fmt: skip


def group(case, which: str) -> list[str]:
    """The names of the parameters of one kind: "all", "biases", "no biases", "head", "body", "first layer", "vectors"
    (with scalars), "matrices" (with filters), "one-dimensional", "two-dimensional" or "batch norm"."""
    return _GROUPS[which](case)


_GROUPS: dict[str, Callable] = {
    "all": lambda case: list(case.params),
    "biases": lambda case: case.biases(),
    "no biases": lambda case: case.biases_left(),
    "head": lambda case: case.head(),
    "body": lambda case: [n for n in case.params if n not in case.head()],
    "first layer": lambda case: next((m["params"] for m in case.model["layers"] if m.get("params")), []),
    "vectors": lambda case: [n for n, p in case.params.items() if p.ndim < 2],
    "matrices": lambda case: [n for n, p in case.params.items() if p.ndim >= 2],
    "one-dimensional": lambda case: [n for n, p in case.params.items() if p.ndim == 1],
    "two-dimensional": lambda case: [n for n, p in case.params.items() if p.ndim == 2],
    "batch norm": lambda case: [n for m in case.model["layers"] if m["layer"] == "batch_norm" for n in m["params"]],
}


def some_of(case, which: str) -> list[str]:
    """The group `which`, or "nothing": also where it is all parameters."""
    names = [] if which == "nothing" else group(case, which)
    return names if len(names) < len(case.params) else []


def named(case, place: int) -> str | None:
    """The parameter in a place, counted from 1, or from −1 backwards; None if there is none."""
    names = list(case.params)
    return names[place - (place > 0)] if place and -len(names) <= place <= len(names) else None
