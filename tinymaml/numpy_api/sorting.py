"""Sorting and counting: sort, argsort, partition, searchsorted, histogram, unique.

To sort is to take the elements in the order of `argsort`, so the cotangent goes back to where each came from; equal
elements stay in their order. Orders, places and counts are piecewise constant.
"""

from __future__ import annotations

import numpy as np

from .. import ops
from ..axes import one_axis
from ..engine import Primitive, Tensor, value_of
from .complexes import of_complex
from .indexing import getitem, ravelled, take_along_axis
from .reductions import double, max, min, sum
from .refused import can_be_read, decide
from .table import as_array, numpy_function


def _unordered(order) -> None:
    if order is not None:
        raise ValueError("Cannot specify order when the array has no fields.")


@numpy_function(np.argsort)
def argsort(a, axis=-1, kind=None, order=None, *, stable=None):
    """Always stable, whatever `kind` asks for."""
    _unordered(order)
    a = as_array(a)
    a, axis = _with_an_axis(a, axis)
    return ops.argsort(a, axis=axis)


def _with_an_axis(a, axis) -> tuple:
    """a and an axis of it; None stands for all of a, and what has no axis gets one."""
    a, axis = (ravelled(a), 0) if axis is None else (a if a.ndim else ravelled(a), axis)
    return a, one_axis(axis, a.ndim)


@numpy_function(np.sort)
def sort(a, axis=-1, kind=None, order=None, *, stable=None):
    _unordered(order)
    a = as_array(a)
    a, axis = (ravelled(a), 0) if axis is None else (a, one_axis(axis, a.ndim))
    return take_along_axis(a, ops.argsort(a, axis=axis), axis)


def _check_kth(a, kth, axis: int) -> None:
    np.partition(np.zeros(a.shape[axis]), kth)  # NumPy's own error


@numpy_function(np.partition)
def partition(a, kth, axis=-1, kind="introselect", order=None):
    """Sorted as a whole, which is one of the orders that NumPy promises."""
    a = as_array(a)
    a, axis = (ravelled(a), 0) if axis is None else (a, one_axis(axis, a.ndim))
    _check_kth(a, kth, axis)
    return sort(a, axis, order=order)


@numpy_function(np.argpartition)
def argpartition(a, kth, axis=-1, kind="introselect", order=None):
    a = as_array(a)
    a, axis = _with_an_axis(a, axis)
    _check_kth(a, kth, axis)
    return argsort(a, axis, order=order)


@numpy_function(np.lexsort)
def lexsort(keys, axis=-1):
    """By the last key; where that is equal, by the one before, …: sorted by each in turn, which keeps the order."""
    keys = [as_array(k) for k in keys]
    if not keys:
        raise TypeError("need sequence of keys with len > 0 in lexsort")
    if len({k.shape for k in keys}) > 1:
        raise ValueError("all keys need to be the same shape")
    if not keys[0].ndim and axis in (0, -1):
        return np.zeros((), np.intp)[()]
    axis = one_axis(axis, keys[0].ndim)
    order = argsort(keys[0], axis)
    for key in keys[1:]:
        order = take_along_axis(order, argsort(take_along_axis(key, order, axis), axis), axis)
    return order


# ── places and counts ───────────────────────────────────────────────────────────────────────────────────────────────


def _real(x):
    """x, or its real part, by which what stands for real numbers is ordered."""
    return np.real(x) if ops.stands_for_real(x) else x


_searchsorted = Primitive("searchsorted", lambda a, v, *, side: np.searchsorted(_real(a), _real(v), side),
                          shape=lambda a, v, *, side: v, dtype=lambda a, v: np.dtype(np.intp),
                          lowering="searchsorted", decides="choice")  # fmt: skip


@numpy_function(np.searchsorted)
def searchsorted(a, v, side="left", sorter=None):
    a, v = as_array(a), as_array(v)
    if a.ndim != 1:
        raise ValueError("object of too small depth for desired array" if a.ndim == 0 else
                         "object too deep for desired array")  # fmt: skip
    if side not in ("left", "right"):
        raise ValueError(f"side must be one of 'left' or 'right' (got {side!r})")
    dtype = np.promote_types(a.dtype, v.dtype)
    a = a if sorter is None else getitem(a, as_array(sorter))
    return _searchsorted(ops.in_dtype(a, dtype), ops.in_dtype(v, dtype), side=side)


@numpy_function(np.digitize)
def digitize(x, bins, right=False):
    """Which way the bins are sorted is read from their values."""
    x, bins = as_array(x), as_array(bins)
    if of_complex(x) or of_complex(bins):
        raise TypeError("digitize: x and bins may not be complex")
    steps = np.diff(_real(decide(bins, "the order of the bins") if isinstance(bins, Tensor) else bins))
    side = "left" if right else "right"
    if np.all(steps >= 0):
        return searchsorted(bins, x, side)
    if not np.all(steps <= 0):
        raise ValueError("bins must be monotonically increasing or decreasing")
    return len(bins) - searchsorted(bins[::-1], x, side)


@numpy_function(np.bincount)
def bincount(x, /, weights=None, minlength=0):
    """How often each integer occurs, or the sum of its weights: linear in these."""
    x = as_array(x)
    x = decide(x, "the length of np.bincount(x)") if isinstance(x, Tensor) else x
    count = len(np.bincount(x, minlength=minlength))
    if weights is None:
        return np.bincount(x, minlength=minlength)
    weights = as_array(weights)
    if of_complex(weights):
        raise TypeError("bincount: the weights may not be complex")
    if weights.shape != x.shape:
        raise ValueError("The weights and list don't have the same length.")
    return _added_at(x.astype(np.intp), double(weights), count)


def _added_at(places, weights, count: int):
    return ops.scatter_add(weights, places, template=(ops.ARRAY,), shape=(count,))


@numpy_function(np.histogram)
def histogram(a, bins=10, range=None, density=None, weights=None):
    """The counts are piecewise constant in a, and linear in the weights; the edges follow the least and the largest."""
    a = ravelled(as_array(a))
    a = ops.in_dtype(a, np.dtype(np.uint8)) if a.dtype == bool else a
    w = None if weights is None else as_array(weights)
    if w is not None and w.size != a.size:
        raise ValueError("weights should have the same shape as a.")
    if isinstance(bins, str):
        bins = len(np.histogram_bin_edges(_real(decide(a, "the number of bins")), bins, range)) - 1
    edges = as_array(bins)
    edges = _even_edges(a, int(bins), range) if edges.ndim == 0 else edges
    if can_be_read(edges) and np.any(np.diff(value_of(edges)) < 0):
        raise ValueError("`bins` must increase monotonically, when an array")
    count = edges.shape[0] - 1
    # bin k holds eₖ ≤ a < eₖ₊₁, and the last its right edge, too; what is outside, or NaN, goes to one more
    place = searchsorted(edges, a, "right") - 1
    place = ops.where(a == edges[-1], count - 1, place)
    place = ops.where((a >= edges[0]) & (a <= edges[-1]), place, count)
    w = np.ones(a.shape, np.intp) if w is None else ravelled(w)
    counts = _added_at(place, w, count + 1)[:count]
    if density:
        steps = np.diff(double(edges))
        return counts / steps / sum(counts), edges
    return counts, edges


def _even_edges(a, bins: int, range):
    if bins < 1:
        raise ValueError("`bins` must be positive, when an integer")
    if range is None:
        low, high = (min(a), max(a)) if a.size else (0.0, 1.0)
        if can_be_read(low) and not np.isfinite([value_of(low), value_of(high)]).all():
            raise ValueError(f"autodetected range of [{value_of(low)}, {value_of(high)}] is not finite")
    else:
        low, high = range
        if can_be_read(low) and can_be_read(high) and value_of(low) > value_of(high):
            raise ValueError("max must be larger than min in range parameter.")
    if not (isinstance(low, Tensor) or isinstance(high, Tensor)):
        return np.histogram_bin_edges(np.zeros(0, a.dtype), bins, (low, high))
    same = ops.equal(low, high)
    low, high = ops.where(same, low - 0.5, low), ops.where(same, high + 0.5, high)
    dtype = np.result_type(low.dtype, high.dtype, a.dtype)
    return np.linspace(low, high, bins + 1, dtype=dtype if dtype.kind == "f" else None)


@numpy_function(np.unique)
def unique(ar, return_index=False, return_inverse=False, return_counts=False, axis=None, *, equal_nan=True, **how):
    """The values are those of their first place, with its cotangent; the other results are arrays of integers."""
    ar = as_array(ar)
    value = decide(ar, "the length of np.unique(x)")
    _, first, *rest = np.unique(value, True, return_inverse, return_counts, axis, equal_nan=equal_nan, **how)
    values = ravelled(ar)[first] if axis is None else getitem(ar, (slice(None),) * one_axis(axis, ar.ndim) + (first,))
    found = (values, *([first] if return_index else []), *rest)
    return found if len(found) > 1 else values
