"""The table of NumPy's functions on tensors, and the way into it."""

from __future__ import annotations

import functools
import inspect
import operator
import warnings
from collections.abc import Callable, Sequence

import numpy as np

from ..arrays import stacked
from ..engine import Tensor, refusal, value_of
from ..ops import normal_axes

NUMPY: dict[Callable, Callable] = {}  # NumPy's function → ours
ELSEWHERE: list[Callable] = []  # what is asked for functions that are not NumPy's own

INSTEAD = {  # what is not supported → the way round
    "put_along_axis": "np.where with a mask", "place": "np.where", "putmask": "np.where", "put": "np.where",
    "copyto": "np.where, or np.broadcast_to(x, shape) for an array that is full of x",
    "fill_diagonal": "np.where(np.eye(n, dtype=bool), value, x)",
    "add.at": "tm.ops.scatter_add", "trapz": "np.trapezoid", "in1d": "np.isin",
}  # fmt: skip


def numpy_function(*functions: Callable | None) -> Callable[[Callable], Callable]:
    """Register the decorated function as what these NumPy functions do on tensors; None: this NumPy has it not yet."""

    def register(ours: Callable) -> Callable:
        NUMPY.update({f: ours for f in functions if f is not None})
        return ours

    return register


def numpy_name(f: Callable) -> str:
    module = (getattr(f, "__module__", None) or "numpy").removeprefix("numpy").removeprefix(".")
    return f"{module}.{f.__name__}" if module else f.__name__


def unsupported(name: str, what: str = "") -> NotImplementedError:
    instead = f"; instead: {INSTEAD[name]}" if name in INSTEAD else "; `tinymaml.numpy_api.NUMPY` lists what is"
    return refusal(NotImplementedError(f"np.{name} on tensors {what or 'is not supported'}{instead}"))  # type: ignore


def ours_for(f: Callable) -> Callable:
    """The function that does on tensors what f does on arrays."""
    ours = NUMPY.get(f) or next(filter(None, (find(f) for find in ELSEWHERE)), None)
    if ours is None:
        raise unsupported(numpy_name(f))
    return ours


def _call(f: Callable, name: str, args: Sequence, kwargs: dict):
    ours = ours_for(f)
    if kwargs:
        kwargs = {k: v for k, v in kwargs.items() if v is not np._NoValue}
    if "out" in kwargs or len(args) > 2:  # nowhere is it an earlier position
        refuse_out(ours, name, args, kwargs)
    return call(ours, name, args, kwargs)


def call(ours: Callable, name: str, args: Sequence, kwargs: dict):
    """ours(*args, **kwargs); where these do not fit, an error that calls it by NumPy's name."""
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


@functools.cache
def _place_of_out(ours: Callable) -> int | None:
    names = list(inspect.signature(ours).parameters)
    return names.index("out") if "out" in names else None


def refuse_out(ours: Callable, name: str, args: Sequence, kwargs: dict) -> None:
    """Refuse out=, by name or at its position: our functions have it in their signature for the position alone."""
    place = _place_of_out(ours)
    if kwargs.get("out") is not None or (place is not None and len(args) > place and args[place] is not None):
        raise refusal(TypeError(
            f"np.{name} on tensors takes no out= (a tensor is never written to; write a = a + b, not a += b)"
        ))  # fmt: skip
    if place is None:
        kwargs.pop("out", None)


METHODS: dict[str, Callable] = {}  # of ufuncs: "reduce" → f(ufunc, *inputs, **kwargs); "__call__": with keywords


def _array_ufunc(self, ufunc, method, *inputs, **kwargs):
    inputs = [as_array(x) if isinstance(x, (list, tuple)) else x for x in inputs]
    if method == "__call__" and (not kwargs or ufunc.signature):  # products, as np.vecdot, take axis=
        return _call(ufunc, ufunc.__name__, inputs, kwargs)
    name = ufunc.__name__ if method == "__call__" else f"{ufunc.__name__}.{method}"
    ours_for(ufunc)
    ours = functools.partial(METHODS[method], ufunc)
    refuse_out(METHODS[method], name, (ufunc, *inputs), kwargs)
    return call(ours, name, inputs, kwargs)


def _array_function(self, function, types, args, kwargs):
    return _call(function, numpy_name(function), args, kwargs)


Tensor.__array_ufunc__ = _array_ufunc
Tensor.__array_function__ = _array_function


def decide(x: Tensor, what: str, instead: str = "use np.where"):
    """x.value, where it decides what is computed next: refused while a program is recorded."""
    if type(x) is not Tensor:
        raise refusal(TypeError(f"{what} depends on a value, and a program is recorded for any values: {instead}"))
    return x.value


def known(x) -> bool:
    """Can the value be read? Not while a program is recorded. It may decide on a warning or an error of NumPy's."""
    return not isinstance(x, Tensor) or type(x) is Tensor


def warn_where(condition, message: str) -> None:
    """NumPy's warning, if the condition is known to hold anywhere."""
    if known(condition) and np.any(value_of(condition)):
        warnings.warn(message, RuntimeWarning, stacklevel=6)


def as_array(x):
    """x, where NumPy would take a list or a number for an array."""
    if isinstance(x, np.ndarray):
        return stacked(x)
    return x if isinstance(x, Tensor) else np.asarray(x) if not _holds_tensor(x) else NUMPY[np.stack](x)


def _holds_tensor(x) -> bool:
    return isinstance(x, Tensor) or (isinstance(x, (list, tuple)) and any(map(_holds_tensor, x)))


def one_axis(axis: int, ndim: int) -> int:
    """One axis as a non-negative int; AxisError if the array lacks it."""
    return normal_axes(operator.index(axis), ndim)[0]
