"""Reductions: over all axes, one, or several.

After `axis` only keywords: the next positions are dtype= and out= in NumPy, and must not be taken for keepdims.
"""

from __future__ import annotations

import builtins
import functools
from collections.abc import Callable

import numpy as np

from .. import ops
from ..ops import normal_axes
from .shapes import ravel
from .table import numpy_function, one_axis


@numpy_function(np.sum)
def sum(a, axis=None, *, keepdims=False):
    return ops.sum(a, axis, keepdims)


@numpy_function(np.max, np.amax)
def max(a, axis=None, *, keepdims=False):
    return ops.max(a, axis, keepdims)


@numpy_function(np.min, np.amin)
def min(a, axis=None, *, keepdims=False):
    if a.dtype.kind in "iub":  # ~x turns the order of all integers round; −x is not to be had for the least
        return ops.invert(ops.max(ops.invert(a), axis, keepdims))
    return -ops.max(-a, axis, keepdims)


def floating(a):
    """a, where NumPy would compute in floating point: integers and booleans as float64."""
    return a if a.dtype.kind in "fc" else ops.in_dtype(a, np.dtype(np.float64))


def _widened(f: Callable) -> Callable:
    """A mean of `a` as NumPy has it: integers in float64, and float16 by way of float32."""

    @functools.wraps(f)
    def of_wider(a, *args, **kwargs):
        if a.dtype != np.float16:
            return f(floating(a), *args, **kwargs)
        return ops.astype(f(ops.astype(a, dtype=np.dtype(np.float32)), *args, **kwargs), dtype=a.dtype)

    return of_wider


@numpy_function(np.mean)
@_widened
def mean(a, axis=None, *, keepdims=False):
    return ops.sum(a, axis, keepdims) / _count(a, axis)


def _count(a, axis) -> int:
    return int(np.prod([a.shape[i] for i in normal_axes(axis, a.ndim)], dtype=int))


@numpy_function(np.var)
@_widened
def var(a, axis=None, *, ddof=0, keepdims=False):
    centred = a - mean(a, axis, keepdims=True)
    return ops.sum(centred * centred, axis, keepdims) / builtins.max(_count(a, axis) - ddof, 0)


@numpy_function(np.std)
@_widened
def std(a, axis=None, *, ddof=0, keepdims=False):
    return np.sqrt(var(a, axis, ddof=ddof, keepdims=keepdims))


@numpy_function(np.prod)
def prod(a, axis=None, *, keepdims=False):
    """By multiplying neighbours, so that zeros are no special case, at any order."""
    a = ops.in_dtype(a, np.prod(np.ones(1, a.dtype)).dtype)  # of short integers a long one
    where_ = normal_axes(axis, a.ndim)
    rest = tuple(i for i in range(a.ndim) if i not in where_)
    shape = tuple(1 if i in where_ else n for i, n in enumerate(a.shape))
    a = ops.reshape(ops.transpose(a, where_ + rest), (_count(a, where_), *(a.shape[i] for i in rest)))
    while len(a) > 1:
        even = len(a) // 2 * 2
        pairs = a[:even:2] * a[1:even:2]
        a = np.concatenate([pairs, a[even:]]) if len(a) % 2 else pairs
    a = a[0] if len(a) else np.ones(a.shape[1:], a.dtype)
    return ops.reshape(a, shape if keepdims else tuple(n for i, n in enumerate(shape) if i not in where_))


@numpy_function(np.cumsum)
def cumsum(a, axis=None):
    return ops.cumsum(ravel(a), 0) if axis is None else ops.cumsum(a, one_axis(axis, a.ndim))


@numpy_function(np.argmax)
def argmax(a, axis=None, *, keepdims=False):
    return ops.argmax(a, axis=axis, keepdims=keepdims)


@numpy_function(np.argmin)
def argmin(a, axis=None, *, keepdims=False):
    return ops.argmin(a, axis=axis, keepdims=keepdims)


@numpy_function(np.argsort)
def argsort(a, axis=-1, kind=None, *, stable=None):
    """Always stable, whatever `kind` asks for."""
    return ops.argsort(a, axis=axis)


@numpy_function(np.any)
def any_(a, axis=None, *, keepdims=False):
    return ops.greater(ops.sum(ops.not_equal(a, 0), axis, keepdims), 0)


@numpy_function(np.all)
def all_(a, axis=None, *, keepdims=False):
    return ops.equal(ops.sum(ops.equal(a, 0), axis, keepdims), 0)
