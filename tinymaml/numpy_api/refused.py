"""What the functions of `numpy_api` refuse on tensors, and in which words."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Sequence

import numpy as np

from ..engine import Tensor, refusal, value_of

INSTEAD = {  # what is not supported → the way round
    "put_along_axis": "np.where with a mask", "place": "np.where", "putmask": "np.where", "put": "np.where",
    "copyto": "np.where, or np.broadcast_to(x, shape) for an array that is full of x",
    "fill_diagonal": "np.where(np.eye(n, dtype=bool), value, x)",
    "add.at": "tm.ops.scatter_add", "trapz": "np.trapezoid", "in1d": "np.isin",
}  # fmt: skip


def numpy_name(f: Callable) -> str:
    module = (getattr(f, "__module__", None) or "numpy").removeprefix("numpy").removeprefix(".")
    return f"{module}.{f.__name__}" if module else f.__name__


def unsupported(name: str, what: str = "") -> NotImplementedError:
    instead = f"; instead: {INSTEAD[name]}" if name in INSTEAD else "; `tinymaml.numpy_api.NUMPY` lists what is"
    return refusal(NotImplementedError(f"np.{name} on tensors {what or 'is not supported'}{instead}"))  # type: ignore


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


def decide(x: Tensor, what: str, instead: str = "use np.where"):
    """x.value, where it decides what is computed next: refused while a program is recorded."""
    if type(x) is not Tensor:
        raise refusal(TypeError(f"{what} depends on a value, and a program is recorded for any values: {instead}"))
    return x.value


def can_be_read(x) -> bool:
    """Can the value be read? Not while a program is recorded. It may decide on a warning or an error of NumPy's."""
    return not isinstance(x, Tensor) or type(x) is Tensor


def warn_where(condition, message: str) -> None:
    """NumPy's warning, if the condition is known to hold anywhere."""
    if can_be_read(condition) and np.any(value_of(condition)):
        warnings.warn(message, RuntimeWarning, stacklevel=6)
