"""Reductions over all axes, one, or several: sums, means, products, the largest; covariances.

Their signatures are NumPy's. `out=` is there for its position alone, and is refused by `refused.refuse_out`.
"""

from __future__ import annotations

import builtins

import numpy as np

from .. import ops
from ..axes import reduced
from ..engine import stop_gradient, value_of
from ..ops import normal_axes
from .complexes import conjugate, imag, of_complex, real
from .cumulative import products
from .refused import can_be_read, warn_where
from .table import as_array, numpy_function

# ── sums, means, products ───────────────────────────────────────────────────────────────────────────────────────────


def chosen(a, where, fill):
    """a, and `fill` where the mask `where` is False; the mask broadcasts to the shape of a."""
    if where is True:
        return a
    mask = as_array(where)
    mask = mask if mask.dtype == bool else ops.not_equal(mask, 0)
    return ops.where(np.broadcast_to(mask, a.shape), a, a.dtype.type(fill))


def ufunc_axes(axis, ndim: int) -> tuple[int, ...]:
    """`ops.normal_axes`; on a scalar 0 and −1 stand for no axis, as in NumPy's reductions by ufuncs."""
    return () if not ndim and isinstance(axis, (int, np.integer)) and axis in (0, -1) else normal_axes(axis, ndim)


def number(x, dtype: np.dtype):
    """`initial=`: one number, of this dtype."""
    if np.ndim(x):
        raise ValueError(f"initial= has shape {np.shape(x)}, wanted one number")
    return ops.in_dtype(x, dtype) if hasattr(x, "dtype") else np.asarray(x, dtype)[()]


@numpy_function(np.sum)
def sum(a, axis=None, dtype=None, out=None, keepdims=False, initial=None, where=True):
    a = as_array(a)
    axis = ufunc_axes(axis, a.ndim)
    a = chosen(a, where, 0)
    z = ops.sum(a if dtype is None else ops.in_dtype(a, np.dtype(dtype)), axis, keepdims)
    z = z if dtype is None else ops.in_dtype(z, np.dtype(dtype))
    return z if initial is None else z + number(initial, z.dtype)


@numpy_function(np.prod)
def prod(a, axis=None, dtype=None, out=None, keepdims=False, initial=None, where=True):
    """One factor after the other, as NumPy multiplies them; right at zeros, at every order: see `cumulative`."""
    a = as_array(a)
    axes = ufunc_axes(axis, a.ndim)
    a = chosen(a, where, 1)
    dtype = np.prod(np.ones(1, a.dtype), dtype=dtype).dtype  # of short integers a long one
    rest = tuple(i for i in range(a.ndim) if i not in axes)
    shape = tuple(1 if i in axes else n for i, n in enumerate(a.shape))
    a = ops.in_dtype(ops.transpose(a, axes + rest), dtype)
    a = ops.reshape(a, (_count(a, range(len(axes))), *a.shape[len(axes) :]))
    if initial is not None:
        a = np.concatenate([ops.broadcast_to(as_array(number(initial, dtype)), (1, *a.shape[1:])), a])
    z = products(a)[-1] if len(a) else np.ones(a.shape[1:], dtype)
    return ops.reshape(z, shape if keepdims else tuple(n for i, n in enumerate(shape) if i not in axes))


def floating(a):
    """a, where NumPy would compute in floating point: integers and booleans as float64."""
    return a if a.dtype.kind in "fc" else ops.in_dtype(a, np.dtype(np.float64))


def double(x):
    """x in double precision."""
    x = as_array(x)
    return ops.in_dtype(x, np.dtype(complex if x.dtype.kind == "c" else float))


def _count(a, axis, where=True, keepdims=False):
    """How many elements of a are reduced to one."""
    if where is True:
        return int(np.prod([a.shape[i] for i in normal_axes(axis, a.ndim)], dtype=int))
    return sum(chosen(np.ones(a.shape, bool), where, False), axis, keepdims=keepdims)


def divided(total, count):
    """total / count in the dtype of the total; `count` is one number, or an array of integers."""
    return total / (count if isinstance(count, (int, float)) else ops.in_dtype(count, total.dtype))


def _dtypes(a, dtype) -> tuple[np.dtype, np.dtype]:
    """In which dtype a mean of `a` is computed, and which it has: float16 by way of float32."""
    result = np.dtype(dtype) if dtype is not None else a.dtype if a.dtype.kind in "fc" else np.dtype(np.float64)
    return (np.dtype(np.float32) if dtype is None and a.dtype == np.float16 else result), result


@numpy_function(np.mean)
def mean(a, axis=None, dtype=None, out=None, keepdims=False, *, where=True):
    a = as_array(a)
    computed, result = _dtypes(a, dtype)
    z = divided(sum(a, axis, computed, None, keepdims, where=where), _count(a, axis, where, keepdims))
    return ops.in_dtype(z, result)


@numpy_function(np.var)
def var(a, axis=None, dtype=None, out=None, ddof=0, keepdims=False, *, where=True, mean=None, correction=None):
    a, ddof = as_array(a), degrees_of_freedom(ddof, correction)
    dtype = np.dtype(np.float64) if dtype is None and a.dtype.kind in "iub" else dtype
    if mean is None:
        count = _count(a, axis, where, True)
        mean = divided(sum(a, axis, dtype, None, True, where=where), count)
    count = _count(a, axis, where, keepdims)
    degrees = builtins.max(count - ddof, 0) if isinstance(count, int) else ops.maximum(count - ddof, 0)
    off = ops.subtract(a, mean)
    squares = modulus_squared(off) if of_complex(a) else off * off
    return divided(sum(squares, axis, dtype, None, keepdims, where=where), degrees)


def degrees_of_freedom(ddof, correction):
    if correction is not None and ddof != 0:
        raise ValueError("ddof and correction can't be provided simultaneously.")
    return ddof if correction is None else correction


def modulus_squared(z):
    """|z|², which is z² of real numbers."""
    return real(z * conjugate(z)) if of_complex(z) else z * z


def _real(dtype: np.dtype) -> np.dtype:
    return np.zeros(0, dtype).real.dtype


@numpy_function(np.std)
def std(a, axis=None, dtype=None, out=None, ddof=0, keepdims=False, *, where=True, mean=None, correction=None):
    a = as_array(a)
    v = var(a, axis, dtype, None, ddof, keepdims, where=where, mean=mean, correction=correction)
    return root_of(v, 2 if mean is not None else _count(a, axis, where, keepdims))


def root_of(v, count):
    """√v of a variance; of one element it is constantly 0, and so are its derivatives (where √ has none)."""
    if isinstance(count, int):
        return np.sqrt(stop_gradient(v) if count == 1 else v)
    one = ops.equal(count, 1)
    return ops.where(one, stop_gradient(v), np.sqrt(ops.where(one, v.dtype.type(1), v)))


@numpy_function(np.average)
def average(a, axis=None, weights=None, returned=False, *, keepdims=False):
    a = as_array(a)
    axes = None if axis is None else tuple(normal_axes(i, a.ndim)[0] for i in _each(axis))
    if weights is None:
        z = mean(a, axes, keepdims=keepdims)
        total = z.dtype.type(a.size / z.size) if z.size else z.dtype.type(np.nan)
    else:
        w = weights_like(a, axes, as_array(weights))
        dtype = np.result_type(a.dtype, w.dtype, *([np.float64] if a.dtype.kind in "iub" else []))
        total = sum(w, axes, dtype, None, keepdims)
        if can_be_read(total) and np.any(value_of(total) == 0):
            raise ZeroDivisionError("Weights sum to zero, can't be normalized")
        z = sum(ops.in_dtype(a, dtype) * ops.in_dtype(w, dtype), axes, None, None, keepdims) / total
    return (z, np.broadcast_to(total, z.shape)) if returned else z


def _each(axis) -> tuple:
    return (axis,) if np.ndim(axis) == 0 else tuple(axis)


def weights_like(a, axes, w):
    """Weights for each element of a: given as such, or for the elements along the axes, in the order of these."""
    if a.shape == w.shape:
        return w
    if axes is None:
        raise TypeError("Axis must be specified when shapes of a and weights differ.")
    if w.shape != tuple(a.shape[i] for i in axes):
        raise ValueError("Shape of weights must be consistent with shape of a along specified axis.")
    w = ops.transpose(w, np.argsort(axes).tolist())
    return ops.reshape(w, tuple(n if i in axes else 1 for i, n in enumerate(a.shape)))


@numpy_function(np.count_nonzero)
def count_nonzero(a, axis=None, *, keepdims=False):
    return sum(ops.not_equal(as_array(a), 0), axis, None, None, keepdims)


@numpy_function(np.any)
def any_(a, axis=None, out=None, keepdims=False, *, where=True):
    return ops.greater(sum(ops.not_equal(as_array(a), 0), axis, None, None, keepdims, where=where), 0)


@numpy_function(np.all)
def all_(a, axis=None, out=None, keepdims=False, *, where=True):
    return ops.equal(sum(ops.equal(as_array(a), 0), axis, None, None, keepdims, where=where), 0)


# ── the largest ─────────────────────────────────────────────────────────────────────────────────────────────────────


def least(dtype: np.dtype):
    """The least number of the dtype."""
    return np.iinfo(dtype).min if dtype.kind in "iu" else False if dtype.kind == "b" else -np.inf


def turned(a):
    """a with its order turned round: the complement of integers and truths, since there is no −x of the least."""
    return ops.invert(a) if a.dtype.kind in "iub" else -a


@numpy_function(np.max, np.amax)
def max(a, axis=None, out=None, keepdims=False, initial=None, where=True):
    a = as_array(a)
    axis = ufunc_axes(axis, a.ndim)
    if initial is None:
        if where is not True:
            raise ValueError("max, min: with where=, also initial= must be given, for where the mask takes nothing")
        return ops.max(a, axis, keepdims)
    initial, a = number(initial, a.dtype), chosen(a, where, least(a.dtype))
    if not _count(a, axis):
        return np.full(reduced(a.shape, axis=axis, keepdims=keepdims), initial, a.dtype)
    return ops.maximum(ops.max(a, axis, keepdims), initial)


@numpy_function(np.min, np.amin)
def min(a, axis=None, out=None, keepdims=False, initial=None, where=True):
    a = as_array(a)
    initial = initial if initial is None else turned(number(initial, a.dtype))
    return turned(max(turned(a), axis, None, keepdims, initial, where))


@numpy_function(np.ptp)
def ptp(a, axis=None, out=None, keepdims=False):
    a = as_array(a)
    return ops.subtract(max(a, axis, keepdims=keepdims), min(a, axis, keepdims=keepdims))


@numpy_function(np.argmax)
def argmax(a, axis=None, out=None, *, keepdims=False):
    return ops.argmax(as_array(a), axis=axis, keepdims=keepdims)


@numpy_function(np.argmin)
def argmin(a, axis=None, out=None, *, keepdims=False):
    return ops.argmin(as_array(a), axis=axis, keepdims=keepdims)


# ── covariances ─────────────────────────────────────────────────────────────────────────────────────────────────────


@numpy_function(np.cov)
def cov(m, y=None, rowvar=True, bias=False, ddof=None, fweights=None, aweights=None, *, dtype=None):
    """Of rows that are variables: c = (x − x̄) (x − x̄)ᴴ / (n − ddof), with weights as NumPy has them."""
    if ddof is not None and ddof != int(ddof):
        raise ValueError("ddof must be integer")
    given = [as_array(a) for a in (m, y) if a is not None]
    for name, a in zip("my", given, strict=False):
        if a.ndim > 2:
            raise ValueError(f"{name} has more than 2 dimensions")
    dtype = np.dtype(dtype) if dtype is not None else np.result_type(*(a.dtype for a in given), np.float64)
    x = np.concatenate([_variables(ops.in_dtype(a, dtype), rowvar) for a in given])
    if x.shape[0] == 0:
        return np.zeros((0, 0))
    ddof = ddof if ddof is not None else 0 if bias else 1
    frequency, share = _sample_weights(x, fweights, "fweights"), _sample_weights(x, aweights, "aweights")
    if frequency is not None and can_be_read(frequency) and np.any(value_of(frequency) != np.rint(value_of(frequency))):
        raise TypeError("fweights must be integer")
    w = frequency if share is None else share if frequency is None else frequency * share
    centre, total = average(x, 1, w, True)
    total = total[0]
    freedom = (
        x.shape[1] - ddof if w is None else total if ddof == 0 else total - ddof if share is None
        else total - ddof * sum(w * share) / total
    )  # fmt: skip
    freedom = as_array(freedom)
    warn_where(freedom <= 0, "Degrees of freedom <= 0 for slice")
    x = x - centre[:, None]
    c = np.dot(x, conjugate(x if w is None else x * w).T)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.squeeze(c * ops.in_dtype(1 / ops.maximum(freedom, 0), _real(dtype) if of_complex(x) else dtype))


def _variables(a, rowvar):
    """Variables as rows."""
    x = a if a.ndim == 2 else ops.reshape(a, (1, a.size))
    return x if rowvar or a.ndim != 2 else x.T


def _sample_weights(x, w, name: str):
    if w is None:
        return None
    w = as_array(w)
    if w.ndim > 1:
        raise RuntimeError(f"cannot handle multidimensional {name}")
    if w.shape[0] != x.shape[1]:
        raise RuntimeError(f"incompatible numbers of samples and {name}")
    if can_be_read(w) and np.any(value_of(w) < 0):
        raise ValueError(f"{name} cannot be negative")
    return w


@numpy_function(np.corrcoef)
def corrcoef(x, y=None, rowvar=True, *, dtype=None):
    """c_ij / √(c_ii c_jj)"""
    c = cov(x, y, rowvar, dtype=dtype)
    if c.ndim == 0:
        return c / c
    root = np.sqrt(real(np.diag(c)))
    c = c / root[:, None] / root[None, :]
    if of_complex(c):
        return np.clip(real(c), -1, 1) + 1j * np.clip(imag(c), -1, 1)
    return np.clip(c, -1, 1)
