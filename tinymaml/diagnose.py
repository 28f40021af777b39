"""Faults of a loss, found in its records: where a NaN comes from, and which operation broadcasts by accident.

    cause(f, (params, x, y))     "sqrt at 0 gives the cotangent inf (at [2] of (5,)): a root has no finite slope at 0"
    looked_at(loss)              the loss; it warns, once, where a prediction (N, 1) meets a target (N,)

Going back through the records, the first rule that makes something infinite or NaN of a finite cotangent is the cause;
what comes after it is a consequence.
"""

from __future__ import annotations

import inspect
import warnings
import weakref
from collections.abc import Callable
from functools import partial, wraps

import numpy as np

from .engine import Tensor, between, evaluation, outside, value_of
from .nest import tree_fill, tree_leaves

_LOG = "a logarithm is finite above 0 alone, and so is its slope: add a small ε, np.log(p + 1e-12), or use"
_HINTS = {
    "sqrt": "a root has a finite slope above 0 alone, and np.std ends in one: add a small ε below it,"
            " np.sqrt(np.sum(x * x) + 1e-12)",
    **dict.fromkeys(("root", "root_slope"), "a norm has no second derivative at 0: np.sum(x * x), which is its square,"
                    " and np.sqrt(np.sum(x * x) + 1e-12) have one"),
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

    >>> from tinymaml.diagnose import cause
    >>> with np.errstate(divide="ignore"):
    ...     print(cause(lambda x: np.sum(np.sqrt(x)), (np.array([1.0, 0.0]),)))
    sqrt at 0 gives the cotangent inf (at [1] of (2,)): a root has a finite slope above 0 alone, ...
    """
    leaves, active, out = _records(f, args, has_aux)
    if out is None:
        return None
    return _forward(leaves, active) if not np.isfinite(out.value) else _backward(leaves, active, out)


def _records(f: Callable, args: tuple, has_aux: bool) -> tuple:
    """The leaves of the first argument, what leads from them to the result, by index, and the result; or None."""
    leaves = [Tensor(np.array(value_of(x))) for x in tree_leaves(args[0])]
    out = f(tree_fill(args[0], leaves), *args[1:])
    out = out[0] if has_aux else out
    return (leaves, between(leaves, [out])[0], out) if isinstance(out, Tensor) else (leaves, {}, None)


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
    name, value = z.primitive.name, np.asarray(z.value)
    if name == "power":
        return bool(x == 0 or np.isnan(value[_first(value)]))
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
                    hidden = (
                        g.shape == of_x.shape
                        and g[at] == 0
                        and any(other.primitive and other.primitive.name == "where" for other in active.values())
                    )
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
    if x.dtype.kind not in "iufc":
        return None
    try:
        return np.broadcast_to(x, shape)[at]
    except ValueError:
        return None


# ── what broadcasts by accident ─────────────────────────────────────────────────────────────────────────────────────


class BroadcastWarning(UserWarning):
    """A prediction and a target of shapes (N, 1) and (N,), whose difference is (N, N)."""


_looked: weakref.WeakSet = weakref.WeakSet()  # the code of losses whose records were looked at


def looked_at(loss: Callable) -> Callable:
    """The loss, which warns at its first value if a prediction (N, 1) and a target (N,) meet in it.

    >>> import warnings
    >>> from tinymaml.diagnose import looked_at
    >>> loss = looked_at(lambda w, x, y: np.mean((x @ w - y) ** 2))
    >>> with warnings.catch_warnings(record=True) as given:
    ...     warnings.simplefilter("always")
    ...     value = tm.grad(loss)(np.ones((2, 1)), np.ones((5, 2)), np.ones(5))  # (5, 1) − (5,) is (5, 5)
    >>> print(given[0].message)
    <lambda>: arrays of shapes (5, 1) and (5,) broadcast to (5, 5)...
    """
    if getattr(loss, "__code__", None) in _looked or evaluation.get() is not None:
        return loss
    code = getattr(inspect.unwrap(loss.func if isinstance(loss, partial) else loss), "__code__", type(loss))
    if code in _looked:
        return loss

    @wraps(loss)
    def f(*args):
        value = loss(*args)
        if code not in _looked:
            _looked.add(code)
            _warn_of_broadcast(code, value[0] if isinstance(value, tuple) else value)
        return value

    return f


def _warn_of_broadcast(code, value) -> None:
    """Warn where what depends on the parameters and what does not are added as (N, 1) and (N,)."""
    stack, seen = [value] if isinstance(value, Tensor) else [], set()
    while stack:
        z = stack.pop()
        if z.index in seen:
            continue
        seen.add(z.index)
        tensors = [x for x in z.inputs if isinstance(x, Tensor)]
        stack += tensors
        if z.primitive and z.primitive.name in ("add", "subtract") and z.ndim == 2 and len(tensors) == 1:
            n, (x, y) = z.shape[0], (np.shape(value_of(x)) for x in z.inputs)
            if n > 1 and {x, y} == {(n, 1), (n,)}:
                message = (
                    f"{getattr(code, 'co_name', 'the loss')}: arrays of shapes {x} and {y} broadcast to {z.shape};"
                    " if they are a prediction and its target, reshape one of them (tm.nn.mse refuses them)"
                )
                where = getattr(code, "co_filename", __file__), getattr(code, "co_firstlineno", 1)
                warnings.warn_explicit(message, BroadcastWarning, *where)
                return
