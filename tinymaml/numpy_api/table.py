"""The table of NumPy's functions on tensors, and the way into it."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Sequence

import numpy as np

from ..engine import Tensor, refusal
from ..ops import normal_axes

NUMPY: dict[Callable, Callable] = {}  # NumPy's function → ours

INSTEAD = {  # what is not supported → the way round
    "sort": "np.take_along_axis(x, np.argsort(x, axis), axis)",
    "median": "np.take_along_axis with np.argsort",
    "add.reduce": "np.sum", "multiply.reduce": "np.prod", "maximum.reduce": "np.max", "minimum.reduce": "np.min",
    "add.accumulate": "np.cumsum",
    "add.at": "tm.ops.scatter_add",
    "put_along_axis": "np.where with a mask", "place": "np.where", "copyto": "np.where", "putmask": "np.where",
    "conjugate": "tensors are real", "real": "tensors are real",
    "nan_to_num": "np.where(np.isfinite(x), x, 0)",
    "allclose": "compare x.value", "array_equal": "compare x.value", "isclose": "compare x.value",
}  # fmt: skip


def numpy_function(*functions: Callable) -> Callable[[Callable], Callable]:
    """Register the decorated function as what these NumPy functions do on tensors."""

    def register(ours: Callable) -> Callable:
        NUMPY.update(dict.fromkeys(functions, ours))
        return ours

    return register


def numpy_name(f: Callable) -> str:
    module = (getattr(f, "__module__", None) or "numpy").removeprefix("numpy").removeprefix(".")
    return f"{module}.{f.__name__}" if module else f.__name__


def unsupported(name: str, what: str = "") -> NotImplementedError:
    instead = f"; instead: {INSTEAD[name]}" if name in INSTEAD else "; `tinymaml.numpy_api.NUMPY` lists what is"
    return refusal(NotImplementedError(f"np.{name} on tensors {what or 'is not supported'}{instead}"))  # type: ignore


def _call(f: Callable, name: str, args: Sequence, kwargs: dict):
    ours = NUMPY.get(f)
    if ours is None:
        raise unsupported(name)
    if kwargs:
        kwargs = {k: v for k, v in kwargs.items() if v is not np._NoValue}
    try:
        return ours(*args, **kwargs)
    except TypeError:
        try:
            accepted = inspect.signature(ours)
            accepted.bind(*args, **kwargs)
        except TypeError as misfit:
            raise refusal(TypeError(f"np.{name} on tensors takes {accepted}: {misfit}")) from None
        except ValueError:
            pass
        raise


def _array_ufunc(self, ufunc, method, *inputs, **kwargs):
    if method != "__call__":
        raise unsupported(f"{ufunc.__name__}.{method}")
    if kwargs and (ufunc.signature is None or "out" in kwargs):  # products, as np.vecdot, take axis=
        place = " (a tensor is never written to; write a = a + b, not a += b)" if "out" in kwargs else ""
        raise refusal(TypeError(f"np.{ufunc.__name__} on tensors takes no {'=, '.join(kwargs)}={place}"))
    return _call(ufunc, ufunc.__name__, [as_array(x) if isinstance(x, (list, tuple)) else x for x in inputs],
                 kwargs)  # fmt: skip


def _array_function(self, function, types, args, kwargs):
    return _call(function, numpy_name(function), args, kwargs)


Tensor.__array_ufunc__ = _array_ufunc
Tensor.__array_function__ = _array_function


def decide(x: Tensor, what: str):
    """x.value, where it decides what is computed next: refused while a program is recorded."""
    if type(x) is not Tensor:
        raise refusal(TypeError(f"{what} depends on a value, and a program is recorded for any values: use np.where"))
    return x.value


def as_array(x):
    """x, where NumPy would take a list or a number for an array."""
    return x if isinstance(x, (Tensor, np.ndarray)) else np.asarray(x) if not _holds_tensor(x) else NUMPY[np.stack](x)


def _holds_tensor(x) -> bool:
    return isinstance(x, Tensor) or (isinstance(x, (list, tuple)) and any(map(_holds_tensor, x)))


def one_axis(axis: int, ndim: int) -> int:
    """One axis as a non-negative int; AxisError where there is none."""
    return normal_axes(operator.index(axis), ndim)[0]
