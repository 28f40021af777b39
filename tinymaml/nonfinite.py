"""Where does a NaN come from? The records of a function tell in which equation its gradient stops being finite.

    cause(f, (params, x, y))     "sqrt at 0 gives the cotangent inf (at [2] of (5,)): a root has no finite slope at 0"

Going back through the records, the first rule that makes something infinite or NaN of a finite cotangent is the cause;
what comes after it is a consequence.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .engine import Tensor, between, outside, value_of
from .nest import tree_fill, tree_leaves

_LOG = "a logarithm is finite above 0 alone, and so is its slope: add a small ε, np.log(p + 1e-12), or use"
_HINTS = {
    "sqrt": "a root has a finite slope above 0 alone, and np.linalg.norm and np.std end in one: add a small ε below it,"
            " np.sqrt(np.sum(x * x) + 1e-12)",
    "norm": "a norm has no slope at 0: np.sqrt(np.sum(x * x) + 1e-12) has one",
    **dict.fromkeys(("log", "log2", "log10"), f"{_LOG} tm.nn.cross_entropy"),
    "power": "a power has a finite slope at 0 if it is at least 1, and of negative numbers if it is an integer: add a"
             " small ε to its base",
    "divide": "the divisor is 0, or nearly: add a small ε to it",
}  # fmt: skip
_HIDDEN = (
    "; its cotangent is 0, so that an np.where does not choose this value, but 0 · inf is NaN: make the argument safe"
    " where it is not chosen, f(np.where(ok, x, 1)), before np.where(ok, f, 0)"
)


def cause(f: Callable, args: tuple, has_aux: bool = False) -> str | None:
    """In which equation f, or its gradient with respect to its first argument, stops being finite, and what helps.

    None where no single equation does it: sums that overflow, little by little.
    """
    leaves = [Tensor(np.array(value_of(x))) for x in tree_leaves(args[0])]
    out = f(tree_fill(args[0], leaves), *args[1:])
    out = out[0] if has_aux else out
    if not isinstance(out, Tensor):
        return None
    active, _ = between(leaves, [out])
    return _forward(leaves, active) if not np.isfinite(out.value) else _backward(leaves, active, out)


def _forward(leaves: list[Tensor], active: dict[int, Tensor]) -> str | None:
    """The first equation whose result is not finite, if it is one that a step too long does not explain."""
    for index in sorted(active):
        z = active[index]
        if index > leaves[-1].index and not np.isfinite(z.value).all():
            name = z.primitive.name
            return _described(z, np.asarray(z.value), "gives") + _hint(name) if _is_singular(z) else None
    return None


def _is_singular(z: Tensor) -> bool:
    """Whether what is not finite comes of a point without a value, and not of numbers that are too large."""
    x, *others = (_element(value_of(x), _first(np.asarray(z.value)), z.shape) for x in z.inputs)
    name = z.primitive.name
    return name in _HINTS and bool(others[0] == 0 if name == "divide" else x <= 0)


def _backward(leaves: list[Tensor], active: dict[int, Tensor], out: Tensor) -> str | None:
    """The first rule, from the end, that makes something infinite or NaN of a finite cotangent."""
    cotangents = {out.index: np.ones((), out.dtype)}
    for index in sorted(active, reverse=True):
        z = active[index]
        if index <= leaves[-1].index or index not in cotangents:
            continue
        g, inputs = np.asarray(cotangents.pop(index)), [outside(x) for x in z.inputs]
        for i, x in enumerate(z.inputs):
            if isinstance(x, Tensor) and x.index in active:
                of_x = np.asarray(z.primitive.vjp[i](g, outside(z), *inputs, **z.params))
                if not np.isfinite(of_x).all():
                    at = _first(of_x)
                    hidden = g.shape == of_x.shape and g[at] == 0
                    said = _described(z, of_x, "gives the cotangent") + _hint(z.primitive.name)
                    return said + _HIDDEN if hidden else said
                cotangents[x.index] = cotangents.get(x.index, 0) + of_x
    return None


def _described(z: Tensor, bad: np.ndarray, gives: str) -> str:
    """`sqrt at 0 gives the cotangent inf (at [2] of (5,))`"""
    at = _first(bad)
    seen = [_element(x, at, bad.shape) for x in map(value_of, z.inputs)]
    place = f" (at {list(at)} of {bad.shape})" if at else ""
    shown = ", ".join(f"{x:.6g}" for x in seen if x is not None)
    return f"{z.primitive.name} at {shown} {gives} {bad[at]}{place}"


def _hint(name: str) -> str:
    return f": {_HINTS[name]}" if name in _HINTS else ""


def _first(bad: np.ndarray) -> tuple:
    return tuple(int(k) for k in np.argwhere(~np.isfinite(bad))[0])


def _element(x, at: tuple, shape: tuple):
    """The element of an input that takes part in the element `at`; None where that is not one."""
    x = np.asarray(x)
    if x.dtype.kind not in "biufc":
        return None
    try:
        return np.broadcast_to(x, shape)[at]
    except ValueError:
        return None

