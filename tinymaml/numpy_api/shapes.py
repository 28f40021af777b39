"""Shapes: reshape, transpose, join, split, pad, repeat."""

from __future__ import annotations

import numpy as np

from .. import ops
from ..engine import Tensor, alias
from ..ops import normal_axes
from .indexing import along
from .table import as_array, numpy_function, one_axis, unsupported

numpy_function(np.shape)(lambda a: a.shape)
numpy_function(np.ndim)(lambda a: a.ndim)
numpy_function(np.size)(lambda a, axis=None: a.size if axis is None else a.shape[axis])
numpy_function(np.zeros_like)(lambda a, dtype=None, *, shape=None: np.zeros_like(a.value, dtype, shape=shape))
numpy_function(np.ones_like)(lambda a, dtype=None, *, shape=None: np.ones_like(a.value, dtype, shape=shape))
numpy_function(np.copy)(alias)


@numpy_function(np.full_like)
def full_like(a, fill_value, dtype=None):
    if isinstance(fill_value, Tensor):
        if a._is_data and not fill_value._is_data:  # in truth `a` is an array, and NumPy writes into one like it
            raise unsupported("copyto")
        return broadcast_to(fill_value.astype(dtype or a.dtype), a.shape)
    return np.full(a.shape, fill_value, dtype or a.dtype)


@numpy_function(np.reshape)
def reshape(a, shape, *, order="C"):
    if order != "C":
        raise unsupported("reshape", f"takes order='C' only, not {order!r}; transpose first")
    shape = (shape,) if isinstance(shape, (int, np.integer)) else tuple(shape)
    if -1 in shape:
        known = -int(np.prod(shape, dtype=int))
        if shape.count(-1) > 1 or known == 0 or a.size % known:
            raise ValueError(f"cannot reshape an array of shape {a.shape} into shape {shape}")
        shape = tuple(a.size // known if n == -1 else n for n in shape)
    return ops.reshape(a, shape)


@numpy_function(np.ravel)
def ravel(a, order="C"):
    return reshape(a, (a.size,), order=order)


@numpy_function(np.transpose, np.permute_dims)
def transpose(a, axes=None):
    axes = range(a.ndim)[::-1] if axes is None else [one_axis(i, a.ndim) for i in axes]
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
    if len(source) != len(destination):
        raise ValueError(f"moveaxis: {len(source)} axes for {len(destination)} places")
    order = [i for i in range(a.ndim) if i not in source]
    for to, axis in sorted(zip(destination, source, strict=True)):
        order.insert(to, axis)
    return ops.transpose(a, order)


@numpy_function(np.linalg.matrix_transpose, np.matrix_transpose)
def matrix_transpose(x):
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


@numpy_function(np.atleast_1d)
def atleast_1d(a):
    return a if a.ndim else ops.reshape(a, (1,))


@numpy_function(np.broadcast_to)
def broadcast_to(array, shape):
    shape = (shape,) if isinstance(shape, (int, np.integer)) else tuple(shape)
    np.broadcast_to(array.value, shape)  # NumPy's own error for shapes that do not fit
    return ops.broadcast_to(array, shape)


@numpy_function(np.concatenate)
def concatenate(arrays, axis=0):
    arrays = [as_array(a) for a in arrays]
    if axis is None:
        arrays, axis = [ravel(a) for a in arrays], 0
    if not all(a.ndim for a in arrays):
        raise ValueError("zero-dimensional arrays cannot be concatenated")
    return ops.concatenate(*arrays, axis=one_axis(axis, arrays[0].ndim))


@numpy_function(np.stack)
def stack(arrays, axis=0):
    return concatenate([np.expand_dims(as_array(a), axis) for a in arrays], axis)


@numpy_function(np.vstack)
def vstack(tup):
    return concatenate([a if a.ndim > 1 else np.reshape(a, (1, -1)) for a in map(as_array, tup)])


@numpy_function(np.hstack)
def hstack(tup):
    arrays = [np.atleast_1d(as_array(a)) for a in tup]
    return concatenate(arrays, 0 if arrays[0].ndim == 1 else 1)


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
    return [along(a, axis, slice(int(p[0]), int(p[-1]) + 1) if len(p) else slice(0, 0)) for p in pieces]


@numpy_function(np.flip)
def flip(m, axis=None):
    for i in normal_axes(axis, m.ndim):
        m = ops.flip(m, i)
    return m


@numpy_function(np.roll)
def roll(a, shift, axis=None):
    if axis is None:
        return ops.reshape(roll(ravel(a), shift, 0), a.shape)
    for by, i in zip(*np.broadcast_arrays(np.atleast_1d(shift), axis), strict=True):
        i = one_axis(i, a.ndim)
        a = along(a, i, (np.arange(a.shape[i]) - int(by)) % a.shape[i]) if a.shape[i] else a
    return a


@numpy_function(np.pad)
def pad(array, pad_width, mode="constant", constant_values=0):
    if mode != "constant" or np.ndim(constant_values):
        raise unsupported("pad", f"takes mode='constant' with one number, not mode={mode!r}, {constant_values!r}")
    if isinstance(pad_width, dict):
        raise unsupported("pad", "takes pad_width as numbers or pairs, not as a dict")
    widths = np.broadcast_to(pad_width, (array.ndim, 2)).tolist()
    if any(n < 0 for pair in widths for n in pair):
        raise ValueError(f"pad: widths {widths} for an array of shape {array.shape}; none may be negative")
    shape = tuple(a + n + b for n, (a, b) in zip(array.shape, widths, strict=True))
    inside = tuple(slice(a, a + n) for n, (a, _) in zip(array.shape, widths, strict=True))
    padded = ops.scatter_add(array, template=inside, shape=shape)
    if not isinstance(constant_values, Tensor) and constant_values == 0 and not np.signbit(constant_values):
        return padded
    mask = np.ones(shape, bool)
    mask[inside] = False
    return ops.where(mask, ops.astype(constant_values, dtype=array.dtype), padded)


@numpy_function(np.tile)
def tile(A, reps):
    reps = (reps,) if isinstance(reps, (int, np.integer)) else tuple(reps)
    A = ops.reshape(A, (1,) * (len(reps) - A.ndim) + A.shape)
    for axis, n in enumerate((1,) * (A.ndim - len(reps)) + reps):
        if n != 1:
            A = along(A, axis, np.tile(np.arange(A.shape[axis]), n))
    return A


@numpy_function(np.repeat)
def repeat(a, repeats, axis=None):
    if axis is None:
        return repeat(ravel(a), repeats, 0)
    axis = one_axis(axis, a.ndim)
    return along(a, axis, np.repeat(np.arange(a.shape[axis]), repeats))


@numpy_function(np.diff)
def diff(a, n=1, axis=-1):
    axis = one_axis(axis, a.ndim)
    if n < 0:
        raise ValueError(f"diff: n is {n}, wanted an integer of at least 0")
    minus = ops.not_equal if a.dtype == bool else ops.subtract
    for _ in range(n):
        a = minus(along(a, axis, slice(1, None)), along(a, axis, slice(None, -1)))
    return a
