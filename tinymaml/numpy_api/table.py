"""The table of NumPy's functions on tensors, and the way into it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np

from ..arrays import stacked
from ..engine import Tensor
from .refused import call, numpy_name, refuse_out, unsupported

NUMPY: dict[Callable, Callable] = {}  # NumPy's function → ours
ELSEWHERE: list[Callable] = []  # what is asked for functions that are not NumPy's own
METHODS: dict[str, Callable] = {}  # of ufuncs: "reduce" → f(ufunc, *inputs, **kwargs); "__call__": with keywords


def numpy_function(*functions: Callable | None) -> Callable[[Callable], Callable]:
    """Register the decorated function as what these NumPy functions do on tensors; None: this NumPy has it not yet."""

    def register(ours: Callable) -> Callable:
        NUMPY.update({f: ours for f in functions if f is not None})
        return ours

    return register


def ours_for(f: Callable) -> Callable:
    """The function that does on tensors what f does on arrays."""
    ours = NUMPY.get(f) or next(filter(None, (find(f) for find in ELSEWHERE)), None)
    if ours is None:
        raise unsupported(numpy_name(f))
    return ours


def _call(f: Callable, name: str, args: Sequence, kwargs: dict):
    """What f(*args, **kwargs) is, where one of these is a tensor; `name` is that of f in errors."""
    ours = ours_for(f)
    if kwargs:
        kwargs = {k: v for k, v in kwargs.items() if v is not np._NoValue}
    if "out" in kwargs or len(args) > 2:  # nowhere is it an earlier position
        refuse_out(ours, name, args, kwargs)
    return call(ours, name, args, kwargs)


def _array_ufunc(self, ufunc, method, *inputs, **kwargs):
    """What NumPy calls for np.tanh(x), with "__call__" as method; for np.add.reduce(x) the method is "reduce"."""
    inputs = [as_array(x) if isinstance(x, (list, tuple)) else x for x in inputs]
    if method == "__call__" and (not kwargs or ufunc.signature):  # products, as np.vecdot, take axis=
        return _call(ufunc, ufunc.__name__, inputs, kwargs)
    name = ufunc.__name__ if method == "__call__" else f"{ufunc.__name__}.{method}"
    ours_for(ufunc)
    ours = functools.partial(METHODS[method], ufunc)
    refuse_out(METHODS[method], name, (ufunc, *inputs), kwargs)
    return call(ours, name, inputs, kwargs)


def _array_function(self, function, types, args, kwargs):
    """What NumPy calls for np.sum(x), and for all its functions that are no ufuncs."""
    return _call(function, numpy_name(function), args, kwargs)


Tensor.__array_ufunc__ = _array_ufunc
Tensor.__array_function__ = _array_function


def as_array(x):
    """x, where NumPy would take a list or a number for an array."""
    if isinstance(x, np.ndarray):
        return stacked(x)
    return x if isinstance(x, Tensor) else np.asarray(x) if not _holds_tensor(x) else NUMPY[np.stack](x)


def _holds_tensor(x) -> bool:
    return isinstance(x, Tensor) or (isinstance(x, (list, tuple)) and any(map(_holds_tensor, x)))
