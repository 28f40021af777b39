"""Shapes: reshape, transpose, broadcast, join, split, turn, repeat."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import ops
from ..axes import one_axis
from ..engine import Tensor, alias
from ..ops import normal_axes
from .indexing import along_axis
from .refused import unsupported
from .table import as_array, numpy_function

numpy_function(np.shape)(lambda a: a.shape)
numpy_function(np.ndim)(lambda a: a.ndim)


@numpy_function(np.size)
def size(a, axis=None):
    if axis is None:
        return a.size
    return int(np.prod([a.shape[i] for i in normal_axes(axis, a.ndim)], dtype=int))


@numpy_function(np.copy)
def copy(a, order="K", subok=False):
    return alias(a)


# ── filled with one number: where it is no tensor, an array ─────────────────────────────────────────────────────────


def _filled(make) -> None:
    @numpy_function(make)
    def filled(a, dtype=None, order="K", subok=True, shape=None, *, device=None):
        return make(np.empty(a.shape, a.dtype), dtype, order="C" if order in "AK" else order, shape=shape)


for _make in (np.zeros_like, np.ones_like, np.empty_like):
    _filled(_make)


@numpy_function(np.full_like)
def full_like(a, fill_value, dtype=None, order="K", subok=True, shape=None, *, device=None):
    shape = a.shape if shape is None else (shape,) if isinstance(shape, (int, np.integer)) else tuple(shape)
    if isinstance(fill_value, Tensor):
        if isinstance(a, Tensor) and a._is_data and not fill_value._is_data:
            raise unsupported("copyto")  # in truth `a` is an array, and NumPy writes into one like it
        return broadcast_to(fill_value.astype(dtype or a.dtype), shape)
    return np.full(shape, fill_value, dtype or a.dtype)


# ── the same elements in another shape, or another order ────────────────────────────────────────────────────────────


@numpy_function(np.reshape)
def reshape(a, /, shape, order="C", *, copy=None):
    shape = (shape,) if isinstance(shape, (int, np.integer)) else tuple(operator.index(n) for n in shape)
    if -1 in shape:
        known = -int(np.prod(shape, dtype=int))
        if shape.count(-1) > 1 or known == 0 or a.size % known:
            raise ValueError(f"cannot reshape an array of shape {a.shape} into shape {shape}")
        shape = tuple(a.size // known if n == -1 else n for n in shape)
    if not _by_columns(a, order):
        return ops.reshape(a, shape)
    return transpose(ops.reshape(transpose(a), shape[::-1]))


def _by_columns(a, order: str) -> bool:
    """Are the elements read column by column?"""
    if order not in ("C", "F", "A", "K"):
        raise ValueError(f"order must be one of 'C', 'F', 'A', or 'K' (got {order!r})")
    if order in "AK" and a.ndim > 1:
        raise unsupported("reshape", f"takes order='C' or 'F', not {order!r}, which asks how the memory is laid out")
    return order == "F"


@numpy_function(np.ravel)
def ravel(a, order="C"):
    return reshape(as_array(a), (-1,) if a.size else (0,), order)


@numpy_function(np.transpose, np.permute_dims)
def transpose(a, axes=None):
    axes = range(a.ndim)[::-1] if axes is None else [axes] if isinstance(axes, (int, np.integer)) else list(axes)
    if len(axes) != a.ndim:
        raise ValueError(f"axes don't match array: {axes}, and its shape is {a.shape}")
    axes = [one_axis(i, a.ndim) for i in axes]
    return ops.transpose(a, axes)


@numpy_function(np.swapaxes)
def swapaxes(a, axis1, axis2):
    order = list(range(a.ndim))
    axis1, axis2 = one_axis(axis1, a.ndim), one_axis(axis2, a.ndim)
    order[axis1], order[axis2] = axis2, axis1
    return ops.transpose(a, order)


@numpy_function(np.moveaxis)
def moveaxis(a, source, destination):
    source = [one_axis(i, a.ndim) for i in np.atleast_1d(source)]
    destination = [one_axis(i, a.ndim) for i in np.atleast_1d(destination)]
    for name, axes in (("source", source), ("destination", destination)):
        if len(set(axes)) < len(axes):
            raise ValueError(f"repeated axis in `{name}` argument")
    if len(source) != len(destination):
        raise ValueError(f"moveaxis: {len(source)} axes for {len(destination)} places")
    order = [i for i in range(a.ndim) if i not in source]
    for to, axis in sorted(zip(destination, source, strict=True)):
        order.insert(to, axis)
    return ops.transpose(a, order)


@numpy_function(np.linalg.matrix_transpose, np.matrix_transpose)
def matrix_transpose(x):
    if x.ndim < 2:
        raise ValueError(f"matrix_transpose: an array of shape {x.shape}, wanted at least two axes")
    return swapaxes(x, -1, -2)


@numpy_function(np.squeeze)
def squeeze(a, axis=None):
    drop = [i for i, n in enumerate(a.shape) if n == 1] if axis is None else normal_axes(axis, a.ndim)
    if any(a.shape[i] != 1 for i in drop):
        raise ValueError(f"squeeze: axis {axis} of shape {a.shape} has a length other than 1")
    return ops.reshape(a, tuple(n for i, n in enumerate(a.shape) if i not in drop))


@numpy_function(np.expand_dims)
def expand_dims(a, axis):
    count = 1 if isinstance(axis, (int, np.integer)) else len(axis)
    return ops.expand_dims(a, normal_axes(axis, a.ndim + count))


def _at_least(shape_of: Callable) -> Callable:
    """`shape_of(shape)` → the shape with more axes; several arrays give a tuple."""

    def one(a):
        a = as_array(a)
        return ops.reshape(a, shape_of(a.shape))

    return lambda *arys: one(arys[0]) if len(arys) == 1 else tuple(map(one, arys))


atleast_1d = numpy_function(np.atleast_1d)(_at_least(lambda shape: shape or (1,)))
atleast_2d = numpy_function(np.atleast_2d)(_at_least(lambda shape: (1,) * (2 - len(shape)) + shape))
atleast_3d = numpy_function(np.atleast_3d)(_at_least(
    lambda shape: (1, 1, 1) if not shape else (1, *shape, 1) if len(shape) == 1 else (*shape, 1)[: max(len(shape), 3)]
))  # fmt: skip


@numpy_function(np.broadcast_to)
def broadcast_to(array, shape):
    shape = (shape,) if isinstance(shape, (int, np.integer)) else tuple(shape)
    array = as_array(array)
    np.broadcast_to(np.empty(array.shape), shape)  # NumPy's own error for shapes that do not fit
    return ops.broadcast_to(array, shape)


@numpy_function(np.broadcast_arrays)
def broadcast_arrays(*args, subok=False):
    arrays = [as_array(a) for a in args]
    shape = np.broadcast_shapes(*(a.shape for a in arrays))
    return tuple(ops.broadcast_to(a, shape) for a in arrays)


# ── joined, and taken apart ─────────────────────────────────────────────────────────────────────────────────────────


@numpy_function(np.concatenate)
def concatenate(arrays, axis=0, out=None, *, dtype=None, casting="same_kind"):
    arrays = [_castable(as_array(a), dtype, casting) for a in arrays]
    if axis is None:
        arrays, axis = [ravel(a) for a in arrays], 0
    if not arrays:
        raise ValueError("need at least one array to concatenate")
    if not all(a.ndim for a in arrays):
        raise ValueError("zero-dimensional arrays cannot be concatenated")
    return ops.concatenate(*arrays, axis=one_axis(axis, arrays[0].ndim))


def _castable(a, dtype, casting: Any):
    """a in this dtype, if one is asked for and the rule permits it."""
    if dtype is None:
        return a
    if not np.can_cast(a.dtype, dtype, casting):
        raise TypeError(f"Cannot cast array data from {a.dtype!r} to {np.dtype(dtype)!r} according to the rule"
                        f" {casting!r}")  # fmt: skip
    return ops.in_dtype(a, np.dtype(dtype))


@numpy_function(np.stack)
def stack(arrays, axis=0, out=None, *, dtype=None, casting="same_kind"):
    arrays = [as_array(a) for a in arrays]
    if not arrays:
        raise ValueError("need at least one array to stack")
    if len({a.shape for a in arrays}) > 1:
        raise ValueError("all input arrays must have the same shape")
    return concatenate([expand_dims(a, axis) for a in arrays], axis, dtype=dtype, casting=casting)


@numpy_function(getattr(np, "unstack", None))  # since NumPy 2.1
def unstack(x, /, *, axis=0):
    if x.ndim == 0:
        raise ValueError("Input array must be at least 1-d.")
    return tuple(moveaxis(x, axis, 0))


@numpy_function(np.vstack)
def vstack(tup, *, dtype=None, casting="same_kind"):
    return concatenate([atleast_2d(a) for a in tup], 0, dtype=dtype, casting=casting)


@numpy_function(np.hstack)
def hstack(tup, *, dtype=None, casting="same_kind"):
    arrays = [atleast_1d(a) for a in tup]
    return concatenate(arrays, 0 if arrays and arrays[0].ndim == 1 else 1, dtype=dtype, casting=casting)


@numpy_function(np.dstack)
def dstack(tup):
    return concatenate([atleast_3d(a) for a in tup], 2)


@numpy_function(np.column_stack)
def column_stack(tup):
    arrays = [as_array(a) for a in tup]
    return concatenate([a if a.ndim > 1 else transpose(atleast_2d(a)) for a in arrays], 1)


@numpy_function(np.split)
def split(ary, indices_or_sections, axis=0):
    axis = one_axis(axis, ary.ndim)
    return _pieces(ary, np.split(np.arange(ary.shape[axis]), indices_or_sections), axis)


@numpy_function(np.array_split)
def array_split(ary, indices_or_sections, axis=0):
    axis = one_axis(axis, ary.ndim)
    return _pieces(ary, np.array_split(np.arange(ary.shape[axis]), indices_or_sections), axis)


def _pieces(a, pieces: list, axis: int) -> list:
    """a at each run of consecutive places along `axis`."""
    return [along_axis(a, axis, slice(int(p[0]), int(p[-1]) + 1) if len(p) else slice(0, 0)) for p in pieces]


def _split_along(name: str, least: int, axis_of) -> None:
    @numpy_function(getattr(np, name))
    def split_along(ary, indices_or_sections):
        if ary.ndim < least:
            raise ValueError(f"{name} only works on arrays of {least} or more dimensions")
        return split(ary, indices_or_sections, axis_of(ary.ndim))


_split_along("hsplit", 1, lambda ndim: int(ndim > 1))
_split_along("vsplit", 2, lambda ndim: 0)
_split_along("dsplit", 3, lambda ndim: 2)


# ── turned and repeated ─────────────────────────────────────────────────────────────────────────────────────────────


@numpy_function(np.flip)
def flip(m, axis=None):
    for i in normal_axes(axis, m.ndim):
        m = ops.flip(m, i)
    return m


@numpy_function(np.fliplr)
def fliplr(m):
    if m.ndim < 2:
        raise ValueError("Input must be >= 2-d.")
    return flip(m, 1)


@numpy_function(np.flipud)
def flipud(m):
    if m.ndim < 1:
        raise ValueError("Input must be >= 1-d.")
    return flip(m, 0)


@numpy_function(np.rot90)
def rot90(m, k=1, axes=(0, 1)):
    axes = tuple(axes)
    if len(axes) != 2:
        raise ValueError("len(axes) must be 2.")
    if axes[0] == axes[1] or abs(axes[0] - axes[1]) == m.ndim:
        raise ValueError("Axes must be different.")
    if any(not -m.ndim <= i < m.ndim for i in axes):
        raise ValueError(f"Axes={axes} out of range for array of ndim={m.ndim}.")
    if k % 4 == 2:
        return flip(m, axes)
    m = flip(m, axes[1]) if k % 4 == 1 else m
    m = swapaxes(m, *axes) if k % 2 else m
    return flip(m, axes[1]) if k % 4 == 3 else m


@numpy_function(np.rollaxis)
def rollaxis(a, axis, start=0):
    axis, n = one_axis(axis, a.ndim), a.ndim
    if not -n <= start <= n:
        raise np.exceptions.AxisError(f"'start' arg requires {-n} <= start < {n + 1}, but {start} was passed in")
    start = start + n if start < 0 else start
    return moveaxis(a, axis, start - 1 if axis < start else start)


@numpy_function(np.roll)
def roll(a, shift, axis=None):
    if axis is None:
        return ops.reshape(roll(ravel(a), shift, 0), a.shape)
    for i in np.atleast_1d(axis):
        one_axis(i, a.ndim)
    if not a.ndim:
        raise ValueError("roll: an array without axes has none to roll along")
    for by, i in zip(*np.broadcast_arrays(np.atleast_1d(shift), axis), strict=True):
        i = one_axis(i, a.ndim)
        a = along_axis(a, i, (np.arange(a.shape[i]) - int(by)) % a.shape[i]) if a.shape[i] else a
    return a


@numpy_function(np.tile)
def tile(A, reps):
    reps = (reps,) if np.ndim(reps) == 0 else tuple(reps)
    A = ops.reshape(A, (1,) * (len(reps) - A.ndim) + A.shape)
    for axis, n in enumerate((1,) * (A.ndim - len(reps)) + reps):
        if n != 1:
            A = along_axis(A, axis, np.tile(np.arange(A.shape[axis]), n))
    return A


@numpy_function(np.repeat)
def repeat(a, repeats, axis=None):
    if axis is None:
        return repeat(ravel(a), repeats, 0)
    axis = one_axis(axis, a.ndim)
    return along_axis(a, axis, np.repeat(np.arange(a.shape[axis]), repeats))
