"""Indexing: x[…], take, take_along_axis. Read next: `choosing`."""

from __future__ import annotations

import numpy as np

from .. import ops
from ..axes import one_axis
from ..engine import Tensor, value_of
from .refused import decide
from .table import as_array, numpy_function


def getitem(x, index):
    """x[index] as NumPy has it, basic or advanced; index arrays may be integer tensors (an argmax)."""
    parts = [_index_part(part) for part in (index if isinstance(index, tuple) else (index,))]
    if any(type(part) is bool or _is_mask(part) for part in parts):  # NumPy's own error for a mask that does not fit
        np.broadcast_to(False, x.shape)[tuple(map(value_of, parts))]
    if any(type(part) is bool for part in parts):
        x, parts = _truths_as_places(x, parts)
    template, arrays = [], []
    for part in parts:
        if _is_mask(part):
            arrays.extend(np.nonzero(part))
            template.extend([ops.ARRAY] * part.ndim)
        elif isinstance(part, (Tensor, np.ndarray)):
            arrays.append(part)
            template.append(ops.ARRAY)
        else:
            template.append(part)
    return ops.getitem(x, *arrays, template=tuple(template))


def _index_part(part):
    """One part of an index: None, ..., a slice, an int, a truth as a Python bool; or an array, a tensor of integers."""
    if isinstance(part, Tensor) and part.dtype == bool:  # the shape of the result depends on the mask's value
        part = decide(part, "the shape of x[mask]")
    if part is None or part is ... or isinstance(part, (slice, int, np.integer, Tensor)):
        return part
    if not isinstance(part, np.ndarray):  # a list, a range, a tuple in the tuple, a NumPy truth
        part = np.asarray(part)
        part = part if part.size else part.astype(int)
    if part.dtype.kind not in "biu":
        np.zeros(1)[part]  # NumPy's own error
    return bool(part) if part.dtype == bool and not part.ndim else part


def _is_mask(part) -> bool:
    return isinstance(part, np.ndarray) and part.dtype == bool


def _truths_as_places(x, parts: list):
    """x and the index without truths: a truth stands for a new axis, of which True takes all and False nothing."""
    truths = [part for part in parts if type(part) is bool]
    if truths == [True] and all(part is None or part is ... or type(part) in (bool, slice) for part in parts):
        return x, [None if part is True else part for part in parts]
    used = [0 if part is None or part is ... or type(part) is bool else part.ndim if _is_mask(part) else 1
            for part in parts]  # fmt: skip
    used = [x.ndim - sum(used) if part is ... else n for part, n in zip(parts, used, strict=True)]
    at, places = 0, []
    axes: list = []
    for part, n in zip(parts, used, strict=True):
        if type(part) is bool:
            axes.append(at + len(axes))
            part = np.zeros(int(part), int)
        places.append(np.asarray(part) if isinstance(part, (int, np.integer)) else part)  # as beside any index array
        at += n
    return ops.expand_dims(x, tuple(axes)), places


def along_axis(a, axis: int, index):
    return getitem(a, (slice(None),) * axis + (index,))


@numpy_function(np.take)
def take(a, indices, axis=None, out=None, mode="raise"):
    a, given = as_array(a), as_array(indices)
    indices = given if given is indices or given.dtype.kind != "f" else given.astype(np.intp)  # of a list as NumPy's
    a, axis = (ravelled(a), 0) if axis is None else (a, one_axis(axis, a.ndim))
    return taken(a, _inside(indices, a.shape[axis] or 1, mode), axis)


def taken(a, indices, axis: int):
    """a at indices along an axis; where nothing is taken from, they are not looked at."""
    if 0 in a.shape[:axis]:
        return ops.reshape(a, (*a.shape[:axis], *indices.shape, *a.shape[axis + 1 :]))
    return along_axis(a, axis, indices)


def _inside(indices, n: int, mode: str):
    """Indices as `mode` brings them into range(n); by "raise" they stay, and negative ones count from the end."""
    if mode not in ("raise", "wrap", "clip"):
        raise ValueError(f"clipmode must be one of 'clip', 'raise', or 'wrap' (got {mode!r})")
    if indices.dtype.kind not in "iub" and indices.size:
        raise TypeError(f"Cannot cast array data from {indices.dtype!r} to dtype('int64') according to the rule 'safe'")
    if mode == "raise":
        return indices if indices.size else np.asarray(value_of(indices), np.intp)
    return np.mod(ops.in_dtype(indices, np.dtype(np.intp)), n) if mode == "wrap" else np.clip(indices, 0, n - 1)


@numpy_function(np.take_along_axis)
def take_along_axis(arr, indices, axis=-1):
    arr, indices = as_array(arr), as_array(indices)
    if axis is None:
        arr, axis = ravelled(arr), 0
    axis = one_axis(axis, arr.ndim)
    if indices.ndim != arr.ndim:
        raise ValueError(f"take_along_axis: indices of shape {indices.shape} for an array of shape {arr.shape};"
                         " they must have as many axes")  # fmt: skip
    grid = [np.arange(n).reshape([-1 if i == j else 1 for j in range(arr.ndim)]) for i, n in enumerate(arr.shape)]
    return getitem(arr, tuple(indices if i == axis else g for i, g in enumerate(grid)))


def ravelled(a):
    return ops.reshape(a, (a.size,))
