"""NumPy's functions that leave NaN out: sums, means, products, the largest. The cotangent of a NaN is 0."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from .. import ops
from ..engine import Primitive
from .cumulative import cumprod, cumsum
from .reductions import (
    all_,
    chosen,
    degrees_of_freedom,
    divided,
    max,
    mean,
    modulus_squared,
    number,
    prod,
    root_of,
    sum,
    turned,
    var,
)
from .refused import warn_where
from .table import as_array, numpy_function


def without_nan(a, fill):
    """a, and `fill` where a is NaN."""
    a = as_array(a)
    return ops.where(ops.isnan(a), a.dtype.type(fill), a) if a.dtype.kind in "fc" else a


def _filled(f: Callable, fill: float) -> Callable:
    @functools.wraps(f)
    def of_numbers(a, *args, **how):
        return f(without_nan(a, fill), *args, **how)

    return of_numbers


numpy_function(np.nansum)(_filled(sum, 0))
numpy_function(np.nanprod)(_filled(prod, 1))
numpy_function(np.nancumsum)(_filled(cumsum, 0))
numpy_function(np.nancumprod)(_filled(cumprod, 1))


@numpy_function(np.nanmean)
def nanmean(a, axis=None, dtype=None, out=None, keepdims=False, *, where=True):
    a = as_array(a)
    if a.dtype.kind not in "fc":
        return mean(a, axis, dtype, None, keepdims, where=where)
    count = sum(chosen(~ops.isnan(a), where, False), axis, keepdims=keepdims)
    warn_where(count == 0, "Mean of empty slice")
    with np.errstate(invalid="ignore"):
        return divided(sum(without_nan(a, 0), axis, dtype, None, keepdims, where=where), count)


@numpy_function(np.nanvar)
def nanvar(a, axis=None, dtype=None, out=None, ddof=0, keepdims=False, *, where=True, mean=None, correction=None):
    a, ddof = as_array(a), degrees_of_freedom(ddof, correction)
    if a.dtype.kind not in "fc":
        return var(a, axis, dtype, None, ddof, keepdims, where=where, mean=mean)
    valid, full = ~ops.isnan(a), without_nan(a, 0)
    with np.errstate(invalid="ignore"):
        if mean is None:
            mean = divided(sum(full, axis, dtype, None, True, where=where),
                         sum(chosen(valid, where, False), axis, keepdims=True))  # fmt: skip
        off = ops.in_dtype(ops.subtract(full, mean), a.dtype)
        squares = modulus_squared(ops.where(valid, off, a.dtype.type(0)))
        degrees = sum(chosen(valid, where, False), axis, keepdims=keepdims) - ddof
        warn_where(degrees <= 0, "Degrees of freedom <= 0 for slice.")
        total = sum(squares, axis, dtype, None, keepdims, where=where)
        return ops.where(degrees > 0, divided(total, ops.maximum(degrees, 1)), total.dtype.type(np.nan))


@numpy_function(np.nanstd)
def nanstd(a, axis=None, dtype=None, out=None, ddof=0, keepdims=False, *, where=True, mean=None, correction=None):
    a = as_array(a)
    v = nanvar(a, axis, dtype, None, ddof, keepdims, where=where, mean=mean, correction=correction)
    if mean is not None:
        return np.sqrt(v)
    return root_of(v, sum(chosen(~ops.isnan(a), where, False), axis, keepdims=keepdims))


@numpy_function(np.nanmax)
def nanmax(a, axis=None, out=None, keepdims=False, initial=None, where=True):
    a = as_array(a)
    z = max(without_nan(a, -np.inf), axis, None, keepdims, initial, where)
    if a.dtype.kind not in "fc" or initial is not None:
        return z
    nothing = all_(ops.isnan(a), axis, None, keepdims)
    warn_where(nothing, "All-NaN slice encountered")
    return ops.where(nothing, a.dtype.type(np.nan), z)


@numpy_function(np.nanmin)
def nanmin(a, axis=None, out=None, keepdims=False, initial=None, where=True):
    a = as_array(a)
    initial = initial if initial is None else turned(number(initial, a.dtype))
    return turned(nanmax(turned(a), axis, None, keepdims, initial, where))


_nanargmax = Primitive("nanargmax", lambda x, *, axis, keepdims: np.nanargmax(x, axis, keepdims=keepdims),
                       lowering="replayed", decides="choice")  # fmt: skip
_nanargmin = Primitive("nanargmin", lambda x, *, axis, keepdims: np.nanargmin(x, axis, keepdims=keepdims),
                       lowering="replayed", decides="choice")  # fmt: skip


@numpy_function(np.nanargmax)
def nanargmax(a, axis=None, out=None, *, keepdims=False):
    return _nanargmax(as_array(a), axis=axis, keepdims=keepdims)


@numpy_function(np.nanargmin)
def nanargmin(a, axis=None, out=None, *, keepdims=False):
    return _nanargmin(as_array(a), axis=axis, keepdims=keepdims)
