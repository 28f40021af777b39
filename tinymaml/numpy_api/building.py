"""Arrays made of others: append, insert, delete, block; linspace and its kin; grids; functions along an axis."""

from __future__ import annotations

import operator

import numpy as np

from .. import ops
from ..axes import one_axis
from ..engine import Tensor, value_of
from .cumulative import products
from .indexing import along_axis, ravelled
from .refused import can_be_read, decide
from .shapes import concatenate, moveaxis, stack
from .table import as_array, numpy_function

# ── elements put in, or left out ────────────────────────────────────────────────────────────────────────────────────


@numpy_function(np.append)
def append(arr, values, axis=None):
    return concatenate([arr, values], axis)


def _places(obj, what: str):
    """Places as NumPy's own functions take them."""
    return decide(obj, what) if isinstance(obj, Tensor) else obj


@numpy_function(np.delete)
def delete(arr, obj, axis=None):
    arr = as_array(arr)
    arr, axis = (ravelled(arr), 0) if axis is None else (arr, one_axis(axis, arr.ndim))
    return along_axis(arr, axis, np.delete(np.arange(arr.shape[axis]), _places(obj, "the shape of np.delete")))


@numpy_function(np.insert)
def insert(arr, obj, values, axis=None):
    """The new elements behind the old ones, and then all in the order that NumPy gives to their numbers."""
    arr, obj = as_array(arr), _places(obj, "the shape of np.insert")
    arr, axis = (ravelled(arr), 0) if axis is None else (arr, one_axis(axis, arr.ndim))
    n, values = arr.shape[axis], ops.in_dtype(as_array(values), arr.dtype)
    many = len(np.insert(np.zeros(n), obj, 0)) - n
    if many == 1:
        values = ops.reshape(values, (1,) * (arr.ndim - values.ndim) + values.shape)
        values = moveaxis(values, 0, axis) if np.ndim(obj) == 0 and not isinstance(obj, slice) else values
        many = values.shape[axis]
    values = np.broadcast_to(values, (*arr.shape[:axis], many, *arr.shape[axis + 1 :]))
    order = np.insert(np.arange(n), obj, n + np.arange(many))
    return along_axis(ops.concatenate(arr, values, axis=axis), axis, order)


@numpy_function(np.resize)
def resize(a, new_shape):
    """As many of the elements, again and again, as the shape holds."""
    a = ravelled(as_array(a))
    shape = (new_shape,) if np.ndim(new_shape) == 0 else tuple(new_shape)
    if any(n < 0 for n in shape):
        raise ValueError("all elements of `new_shape` must be non-negative")
    size = int(np.prod(shape, dtype=int))
    if not a.size:
        return np.zeros(shape, a.dtype)
    return ops.reshape(a[np.arange(size) % a.size], tuple(map(operator.index, shape)))


@numpy_function(np.block)
def block(arrays):
    """Nested lists: the innermost are joined along the last axis, those around them along the one before, …"""
    depth, ndim = _depth(arrays)
    ndim = np.maximum(depth, ndim)

    def joined(x, axis: int):
        if isinstance(x, list):
            return concatenate([joined(y, axis + 1) for y in x], axis)
        x = as_array(x)
        return ops.reshape(x, (1,) * (ndim - x.ndim) + x.shape)

    return joined(arrays, -depth)


def _depth(x) -> tuple[int, int]:
    """How deep lists are nested, the same everywhere; and the most axes that an array in them has."""
    if isinstance(x, tuple):
        raise TypeError("np.block takes lists of arrays, and no tuples")
    if not isinstance(x, list):
        return 0, np.ndim(x)
    if not x:
        raise ValueError("List at arrays cannot be empty")
    depths, ndims = zip(*map(_depth, x), strict=True)
    if len(set(depths)) > 1:
        raise ValueError(f"List depths are mismatched: {depths}")
    return depths[0] + 1, int(np.max(ndims))


# ── numbers between two ends ────────────────────────────────────────────────────────────────────────────────────────


def _end(x):
    return x if type(x) in (int, float, complex) else as_array(x)


def _of_dtypes(f, *xs, **how) -> np.dtype:
    """The dtype of NumPy's f for such numbers."""
    return f(*(x if type(x) in (int, float, complex) else np.ones((), x.dtype) for x in xs), 1, **how).dtype


@numpy_function(np.linspace)
def linspace(start, stop, num=50, endpoint=True, retstep=False, dtype=None, axis=0, *, device=None):
    """start + i (stop − start) / n"""
    num = operator.index(num)
    if num < 0:
        raise ValueError(f"Number of samples, {num}, must be non-negative.")
    start, stop = _end(start), _end(stop)
    computed = _of_dtypes(np.linspace, start, stop)
    start, stop = (ops.in_dtype(as_array(x), computed) for x in (start, stop))
    delta, div = stop - start, num - 1 if endpoint else num
    y = np.arange(num, dtype=computed).reshape(-1, *(1,) * delta.ndim)
    if div > 0:
        step = delta / div
        vanishes = can_be_read(step) and np.any(value_of(step) == 0)  # of the least numbers
        y = y / div * delta + start if vanishes else y * step + start
    else:
        step, y = np.nan, y * delta + start
    if endpoint and num > 1:
        y = ops.concatenate(y[:-1], ops.reshape(np.broadcast_to(stop, delta.shape), (1, *delta.shape)), axis=0)
    y = moveaxis(y, 0, axis)
    if dtype is not None:
        y = ops.in_dtype(ops.floor(y) if np.dtype(dtype).kind in "iu" else y, np.dtype(dtype))
    return (y, step) if retstep else y


@numpy_function(np.logspace)
def logspace(start, stop, num=50, endpoint=True, base=10.0, dtype=None, axis=0):
    start, stop, base = _end(start), _end(stop), _end(base)
    if np.ndim(base):
        ndim = int(np.max([np.ndim(x) for x in (start, stop, base)]))
        ends = map(as_array, (start, stop, base))
        start, stop, base = (ops.reshape(x, (1,) * (ndim - x.ndim) + x.shape) for x in ends)
        base = np.expand_dims(base, axis)
    y = np.power(base, linspace(start, stop, num, endpoint, axis=axis))
    return y if dtype is None else ops.in_dtype(y, np.dtype(dtype))


@numpy_function(np.geomspace)
def geomspace(start, stop, num=50, endpoint=True, dtype=None, axis=0):
    """sign · 10^(evenly between the logarithms of the ends)"""
    start, stop = _end(start), _end(stop)
    if any(can_be_read(x) and np.any(value_of(x) == 0) for x in (start, stop)):
        raise ValueError("Geometric sequence cannot include zero")
    computed = np.result_type(*(x if type(x) in (int, float, complex) else x.dtype for x in (start, stop)),
                              np.zeros((), dtype).dtype)  # fmt: skip
    start, stop = (ops.in_dtype(as_array(x), computed) for x in (start, stop))
    sign = np.sign(start)
    start, stop = start / sign, stop / sign
    y = logspace(np.log10(start), np.log10(stop), num, endpoint)
    y = ops.in_dtype(y, computed)
    if num > 0:  # the ends are what was given: 10^log x need not be x
        ends = [ops.reshape(np.broadcast_to(x, y.shape[1:]), (1, *y.shape[1:])) for x in (start, stop)]
        last = num > 1 and endpoint
        y = ops.concatenate(ends[0], y[1 : num - 1 if last else num], *ends[1 : 1 + last], axis=0)
    return ops.in_dtype(moveaxis(y * sign, 0, axis), computed if dtype is None else np.dtype(dtype))


# ── grids and powers ────────────────────────────────────────────────────────────────────────────────────────────────


@numpy_function(np.meshgrid)
def meshgrid(*xi, copy=True, sparse=False, indexing="xy"):
    if indexing not in ("xy", "ij"):
        raise ValueError("Valid values for `indexing` are 'xy' and 'ij'.")
    n = len(xi)
    swapped = (1, 0, *range(2, n)) if indexing == "xy" and n > 1 else range(n)
    grids = []
    for i, x in zip(swapped, map(as_array, xi), strict=True):
        grids.append(ops.reshape(x, (1,) * i + (x.size,) + (1,) * (n - i - 1)))
    return tuple(grids) if sparse else np.broadcast_arrays(*grids)


@numpy_function(np.ix_)
def ix_(*args):
    grids = []
    for i, x in enumerate(map(as_array, args)):
        if x.ndim != 1:
            raise ValueError("Cross index must be 1 dimensional")
        x = np.flatnonzero(x) if x.dtype == bool else x
        grids.append(ops.reshape(x, (1,) * i + (x.size,) + (1,) * (len(args) - i - 1)))
    return tuple(grids)


@numpy_function(np.vander)
def vander(x, N=None, increasing=False):
    x = as_array(x)
    if x.ndim != 1:
        raise ValueError("x must be a one-dimensional array or sequence.")
    n, dtype = len(x) if N is None else operator.index(N), np.promote_types(x.dtype, int)
    if n < 0:
        raise ValueError("negative dimensions are not allowed")
    x = ops.in_dtype(x, dtype)
    powers = [np.ones((1, len(x)), dtype), np.broadcast_to(x, (np.maximum(n - 1, 0), len(x)))]
    z = np.transpose(products(concatenate(powers)[:n]))
    return z if increasing else z[:, ::-1]


@numpy_function(np.diagflat)
def diagflat(v, k=0):
    return np.diag(ravelled(as_array(v)), k)


# ── functions along an axis ─────────────────────────────────────────────────────────────────────────────────────────


@numpy_function(np.apply_along_axis)
def apply_along_axis(func1d, axis, arr, *args, **kwargs):
    arr = as_array(arr)
    axis = one_axis(axis, arr.ndim)
    arr = moveaxis(arr, axis, -1)
    rest = arr.shape[:-1]
    if 0 in rest:
        raise ValueError("Cannot apply_along_axis when any iteration dimensions are 0")
    found = [as_array(func1d(arr[at], *args, **kwargs)) for at in np.ndindex(rest)]
    z = stack([ops.in_dtype(x, found[0].dtype) for x in found])
    z = ops.reshape(z, rest + found[0].shape)
    return moveaxis(z, range(len(rest), z.ndim), range(axis, axis + found[0].ndim))


@numpy_function(np.apply_over_axes)
def apply_over_axes(func, a, axes):
    a = as_array(a)
    for axis in [axes] if np.ndim(axes) == 0 else axes:
        axis = one_axis(axis, a.ndim)
        z = func(a, axis)
        a = z if z.ndim == a.ndim else np.expand_dims(z, axis)
        if a.ndim != z.ndim and a.ndim != z.ndim + 1:
            raise ValueError("function is not returning an array of the correct shape")
    return a
