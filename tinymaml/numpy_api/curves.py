"""Curves given by samples: interp, convolve, correlate, polyval. (Differences and sums of them: `cumulative`.)"""

from __future__ import annotations

import numpy as np

from .. import ops
from ..engine import value_of
from .complexes import conjugate, of_complex
from .indexing import getitem, ravelled
from .reductions import double
from .refused import can_be_read
from .sorting import argsort, searchsorted
from .table import as_array, numpy_function


@numpy_function(np.interp)
def interp(x, xp, fp, left=None, right=None, period=None):
    """fⱼ + (fⱼ₊₁ − fⱼ) (x − xⱼ) / (xⱼ₊₁ − xⱼ) for xⱼ ≤ x < xⱼ₊₁; outside, the slope in x is 0."""
    x, xp, fp = map(double, (x, xp, fp))
    if of_complex(x) or of_complex(xp):
        raise TypeError("interp: x and xp are ordered, which complex numbers are not; fp may be complex")
    if xp.ndim != 1 or fp.ndim != 1:
        raise ValueError("Data points must be 1-D sequences")
    if xp.shape != fp.shape:
        raise ValueError("fp and xp are not of the same length.")
    if not xp.size:
        raise ValueError("array of sample points is empty")
    if period is not None:
        if can_be_read(period) and value_of(period) == 0:
            raise ValueError("period must be a non-zero value")
        period, left, right = abs(period), None, None
        x, xp = np.mod(x, period), np.mod(xp, period)
        order = argsort(xp)
        xp, fp = getitem(xp, order), getitem(fp, order)
        xp = ops.concatenate(xp[-1:] - period, xp, xp[:1] + period, axis=0)
        fp = ops.concatenate(fp[-1:], fp, fp[:1], axis=0)
    n = len(xp)
    z = np.broadcast_to(fp[-1], x.shape)
    if n > 1:
        j = ops.minimum(ops.maximum(searchsorted(xp, x, "right") - 1, 0), n - 2)
        left_x, left_f = getitem(xp, j), getitem(fp, j)
        width = getitem(xp, j + 1) - left_x
        slope = (getitem(fp, j + 1) - left_f) / ops.where(width == 0, 1.0, width)
        between = slope * (x - left_x) + left_f
        # where that is ∞ − ∞, or 0 ∞: from the right; and of two that are equal, or at a sample, the left one
        right_f = getitem(fp, j + 1)
        other = slope * (x - getitem(xp, j + 1)) + right_f
        level = (x == left_x) | (ops.isnan(other) & (left_f == right_f) & ~ops.isnan(x))
        between = ops.where(ops.isnan(between), ops.where(level, left_f, other), between)
        z = ops.where(x >= xp[-1], z, between)
    z = ops.where(x < xp[0], fp[0] if left is None else left, z)
    return z if right is None else ops.where(x > xp[-1], right, z)


@numpy_function(np.convolve)
def convolve(a, v, mode="full"):
    """zₖ = Σ aᵢ vⱼ over i + j = k"""
    a, v = _vectors(a, v)
    a, v = (v, a) if len(v) > len(a) else (a, v)
    return _cut(_convolved(a, v), len(a), len(v), mode)


@numpy_function(np.correlate)
def correlate(a, v, mode="valid"):
    """zₖ = Σ aₖ₊ⱼ v̄ⱼ"""
    a, v = as_array(a), as_array(v)
    if not a.ndim or not v.ndim:
        raise ValueError("object of too small depth for desired array")
    a, v = _vectors(a, v)
    v = conjugate(v) if v.dtype.kind == "c" else v
    if len(v) > len(a):
        return _cut(_convolved(v[::-1], a), len(v), len(a), mode, flipped=True)
    return _cut(_convolved(a, v[::-1]), len(a), len(v), mode)


def _vectors(a, v) -> tuple:
    a, v = (ops.reshape(x, (1,)) if x.ndim == 0 else x for x in map(as_array, (a, v)))
    if a.ndim > 1 or v.ndim > 1:
        raise ValueError("object too deep for desired array")
    for name, x in (("a", a), ("v", v)):
        if not len(x):
            raise ValueError(f"{name} cannot be empty")
    return a, v


def _convolved(a, v):
    places = np.arange(len(a))[:, None] + np.arange(len(v))
    products = ops.reshape(a, (len(a), 1)) * v
    return ops.scatter_add(ravelled(products), ravelled(places), template=(ops.ARRAY,), shape=(len(a) + len(v) - 1,))


def _cut(z, n: int, m: int, mode: str, flipped: bool = False):
    """Of all sums those of full overlap, or as many as the longer of the two has elements: n ≥ m."""
    starts = {"full": 0, "same": m // 2 if flipped else (m - 1) // 2, "valid": m - 1}
    lengths = {"full": n + m - 1, "same": n, "valid": n - m + 1}
    if mode not in starts:
        raise ValueError(f"mode must be one of 'valid', 'same', or 'full' (got {mode!r})")
    return z[starts[mode] : starts[mode] + lengths[mode]]


@numpy_function(np.polyval)
def polyval(p, x):
    """((p₀ x + p₁) x + p₂) x + …"""
    p, x = as_array(p), as_array(x)
    y = np.zeros(x.shape, x.dtype)
    for i in range(len(p)):
        y = y * x + p[i]
    return y
