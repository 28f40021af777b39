"""The common parts of all ufuncs: their methods reduce, accumulate, outer and reduceat, and the keywords of a call.

These are such calls:

    np.logaddexp.reduce(x, 1)      np.maximum.accumulate(x)      np.add.outer(x, y)      np.exp(x, dtype=np.float32)
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from .. import ops
from ..axes import one_axis, reduced
from .cumulative import cumprod, cumsum, running
from .indexing import along_axis
from .quantiles import Sorted
from .reductions import all_, any_, max, min, number, prod, sum, ufunc_axes
from .refused import unsupported
from .shapes import moveaxis
from .table import METHODS, as_array, ours_for

REDUCE = {np.add: sum, np.multiply: prod}
REDUCE_WITHOUT_DTYPE = {np.maximum: max, np.minimum: min}
REDUCE_TRUTHS = {np.logical_and: all_, np.logical_or: any_}
OURS = REDUCE.keys() | REDUCE_WITHOUT_DTYPE.keys() | REDUCE_TRUTHS.keys()


def method(name: str) -> Callable[[Callable], Callable]:
    def register(f: Callable) -> Callable:
        METHODS[name] = f
        return f

    return register


@method("__call__")
def with_keywords(ufunc, *inputs, dtype=None, casting="same_kind", signature=None, sig=None, order="K", subok=True,
                  where=True):  # fmt: skip
    """A call whose keywords say in which dtypes it computes."""
    if where is not True:
        raise unsupported(f"{ufunc.__name__}(where=)", "leaves elements undefined; instead: np.where(mask, f(x), y)")
    signature = signature or sig or (None,) * ufunc.nin + (dtype,) * ufunc.nout
    kinds = [type(x) if type(x) in (int, float, complex) else as_array(x).dtype for x in inputs]
    *types, _ = ufunc.resolve_dtypes((*kinds, None), signature=signature, casting=casting)
    return ours_for(ufunc)(*(ops.in_dtype(as_array(x), d) for x, d in zip(inputs, types, strict=True)))


def _as_combined(ufunc, array, dtype):
    """The array in the dtype that the ufunc makes of two elements."""
    if ufunc.nin != 2 or ufunc.nout != 1:
        raise ValueError("reduce and accumulate are only supported for binary functions")
    array = array if dtype is None else ops.in_dtype(array, np.dtype(dtype))
    if array.dtype.kind == "c":
        return array
    return ops.in_dtype(array, ufunc.resolve_dtypes((array.dtype, array.dtype, None))[-1])


@method("reduce")
def reduce(ufunc, array, axis=0, dtype=None, out=None, keepdims=False, initial=None, where=True):
    array = as_array(array)
    if ufunc in REDUCE:
        return REDUCE[ufunc](array, axis, dtype, None, keepdims, initial, where)
    if ufunc in REDUCE_WITHOUT_DTYPE:
        array = array if dtype is None else ops.in_dtype(array, np.dtype(dtype))
        return REDUCE_WITHOUT_DTYPE[ufunc](array, axis, None, keepdims, initial, where)
    if ufunc in REDUCE_TRUTHS and initial is None:
        return REDUCE_TRUTHS[ufunc](array, axis, None, keepdims, where=where)
    if where is not True:
        raise unsupported(f"{ufunc.__name__}.reduce(where=)")
    array = _as_combined(ufunc, array, dtype)
    ufunc.reduce(np.ones((1,) * array.ndim, array.dtype).real, axis)  # NumPy's own error
    axes = ufunc_axes(axis, array.ndim)
    shape = reduced(array.shape, axis=axes, keepdims=keepdims)
    rows = list(Sorted.flat(array, axes))
    if not rows and initial is None:
        return ufunc.reduce(np.zeros(array.shape, array.dtype), axis, keepdims=keepdims)  # the identity, or an error
    initial = ufunc.identity if initial is None else initial
    rest = tuple(n for i, n in enumerate(array.shape) if i not in axes)
    start = [] if initial is None else [np.broadcast_to(as_array(number(initial, array.dtype)), rest)]
    return ops.reshape(functools.reduce(ufunc, [*start, *rows]), shape)


def _axis_of_many(array, axis, method: str) -> int:
    if not array.ndim and axis in (0, -1):
        raise TypeError(f"cannot {method} on a scalar")
    return one_axis(axis, array.ndim)


@method("accumulate")
def accumulate(ufunc, array, axis=0, dtype=None, out=None):
    array = as_array(array)
    axis = _axis_of_many(array, axis, "accumulate")
    if ufunc is np.add or ufunc is np.multiply:
        return (cumsum if ufunc is np.add else cumprod)(array, axis, dtype)
    array = _as_combined(ufunc, array, dtype)
    if ufunc in (np.maximum, np.minimum):
        return running(ours_for(ufunc), array, axis)
    rows = [along_axis(array, axis, i) for i in range(array.shape[axis])]
    for i in range(1, len(rows)):
        rows[i] = ufunc(rows[i - 1], rows[i])
    return np.stack(rows, axis) if len(rows) > 1 else array


@method("reduceat")
def reduceat(ufunc, array, indices, axis=0, dtype=None, out=None):
    """f over each slice from one index to the next; the element itself where that is not further on."""
    array, indices = as_array(array), np.asarray(indices)
    axis = _axis_of_many(array, axis, "reduceat")
    n = array.shape[axis]
    if np.any((indices < 0) | (indices >= n)):
        raise IndexError(f"index out of bounds in {ufunc.__name__}.reduceat {indices.tolist()}, axis of length {n}")
    ends = [*indices[1:].tolist(), n]
    parts = [
        along_axis(array, axis, slice(i, j if j > i else i + 1)) for i, j in zip(indices.tolist(), ends, strict=True)
    ]
    if ufunc in OURS:
        return np.stack([reduce(ufunc, part, axis, dtype) for part in parts], axis)
    parts = [_as_combined(ufunc, part, dtype) for part in parts]  # without the ufunc's identity
    return np.stack([functools.reduce(ufunc, moveaxis(part, axis, 0)) for part in parts], axis)


@method("outer")
def outer(ufunc, A, B, **how):
    A, B = as_array(A), as_array(B)
    A = ops.reshape(A, A.shape + (1,) * B.ndim)
    return with_keywords(ufunc, A, B, **how) if how else ours_for(ufunc)(A, B)


@method("at")
def at(ufunc, a, indices, *b):
    instead = "; instead: tm.ops.scatter_add" if ufunc is np.add else ""
    raise unsupported(f"{ufunc.__name__}.at", f"is not supported: it writes into an array{instead}")
