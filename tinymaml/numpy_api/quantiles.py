"""Medians and quantiles: between two elements of what is sorted, by the methods of Hyndman and Fan.

    np.quantile(x, 0.9)      sorted x at the place v = 0.9 (n − 1), which lies between two elements

The cotangent goes to the one or two elements that are taken; q may be a tensor, too. Source: R. J. Hyndman and Y. Fan,
"Sample quantiles in statistical packages", The American Statistician 50(4), 1996.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .. import ops
from ..engine import value_of
from .complexes import of_complex
from .indexing import getitem, take_along_axis
from .reductions import double, sum, weights_like
from .refused import can_be_read, warn_where
from .sorting import argsort
from .table import as_array, numpy_function


class Sorted:
    """a, sorted over some axes, which become one, the first.

    Attributes:
        a: sorted; NaN is last.   order: the places its elements had.
        count: of all elements, or of those that are no NaN, an array of shape `rest`.
        kept, rest: the shape of the result, with and without the axes.
    """

    def __init__(self, a, axis, skip_nan: bool):
        axes = ops.normal_axes(axis, a.ndim)
        self.kept = tuple(1 if i in axes else n for i, n in enumerate(a.shape))
        self.rest = tuple(n for i, n in enumerate(a.shape) if i not in axes)
        self.axes, flat = axes, self.flat(a, axes)
        self.order = argsort(flat, 0)
        self.a = take_along_axis(flat, self.order, 0)
        self.skip_nan = skip_nan and a.dtype.kind in "fc"
        self.count = sum(~ops.isnan(self.a), 0) if self.skip_nan else len(self.a)

    @staticmethod
    def flat(a, axes: tuple[int, ...]):
        """a with the axes as one, the first."""
        rest = tuple(i for i in range(a.ndim) if i not in axes)
        a = ops.transpose(a, axes + rest)
        return ops.reshape(a, (int(np.prod(a.shape[: len(axes)], dtype=int)), *a.shape[len(axes) :]))

    def at(self, places):
        """The elements at places of shape (…) for all the rest, or of shape (…, *rest) for each of it."""
        if not self.each(places):
            return self.a[places]
        grid = np.meshgrid(*map(np.arange, self.rest), indexing="ij", sparse=True)
        return getitem(self.a, (places, *grid))

    def each(self, places) -> bool:
        return self.skip_nan and bool(self.rest)

    def or_nan(self, z):
        """z, and NaN where an element is NaN; or, if these are left out, where all are."""
        if self.a.dtype.kind not in "fc":
            return z
        if not self.skip_nan:
            return ops.where(ops.isnan(self.a[-1]), self.a[-1], z)
        warn_where(self.count == 0, "All-NaN slice encountered")
        return ops.where(self.count == 0, z.dtype.type(np.nan), z)

    def shaped(self, z, lead: tuple[int, ...], keepdims: bool):
        return ops.reshape(z, (*lead, *(self.kept if keepdims else self.rest)))


def _joined(a, axis) -> None:
    """Several axes as one, the last: NumPy's own error where that does not say how long it is."""
    axes = ops.normal_axes(axis, a.ndim)
    if axis is not None and len(axes) != 1:
        a = np.empty(a.shape)
        a.reshape([n for i, n in enumerate(a.shape) if i not in axes] + [-1])


def _middle(a, axis, keepdims, skip_nan: bool):
    """The mean of the one or two elements in the middle."""
    a = as_array(a)
    if not a.size:
        if not skip_nan:
            _joined(a, axis)
        return np.mean(a, axis, keepdims=keepdims)
    x = Sorted(a, axis, skip_nan)
    if not x.skip_nan:
        n = x.count
        z = np.mean(x.a[(n - 1) // 2 : n // 2 + 1], 0)
    else:
        last = ops.maximum(x.count - 1, 0)
        places = np.floor_divide(last, 2), np.floor_divide(last + 1, 2)
        low, high = map(x.at, places)
        z = ops.where(ops.equal(*places), low, np.mean(np.stack([low, high]), 0))
    return x.shaped(x.or_nan(z), (), keepdims)


@numpy_function(np.median)
def median(a, axis=None, out=None, overwrite_input=False, keepdims=False):
    return _middle(a, axis, keepdims, False)


@numpy_function(np.nanmedian)
def nanmedian(a, axis=None, out=None, overwrite_input=False, keepdims=False):
    return _middle(a, axis, keepdims, True)


# ── quantiles: where q lies among n elements, v, counted from 0 ─────────────────────────────────────────────────────


def _linear_in_n(alpha: float, beta: float) -> Callable:
    """v = n q + α + q (1 − α − β) − 1"""
    return lambda n, q: n * q + (alpha + q * (1 - alpha - beta)) - 1


def _closest(n, q):
    v = n * q - 1.5
    low = np.floor(v)
    return ops.maximum(ops.where((v == low) & (np.mod(low, 2) == 1), low, low + 1), 0)


BETWEEN = {  # v, of which the fraction says how the two neighbours are mixed
    "linear": lambda n, q: (n - 1) * q,
    "interpolated_inverted_cdf": _linear_in_n(0, 1),
    "hazen": _linear_in_n(0.5, 0.5),
    "weibull": _linear_in_n(0, 0),
    "median_unbiased": _linear_in_n(1 / 3.0, 1 / 3.0),
    "normal_unbiased": _linear_in_n(3 / 8.0, 3 / 8.0),
    "averaged_inverted_cdf": lambda n, q: n * q - 1,
    "midpoint": lambda n, q: 0.5 * (np.floor((n - 1) * q) + np.ceil((n - 1) * q)),
}
MIXED = {  # otherwise than by that fraction
    "averaged_inverted_cdf": lambda fraction: ops.where(fraction == 0, 0.5, 1.0),
    "midpoint": lambda fraction: ops.where(fraction == 0, 0.0, 0.5),
}
ONE = {  # v, a whole number
    "inverted_cdf": lambda n, q: ops.maximum(np.ceil(n * q - 1), 0),
    "closest_observation": _closest,
    "lower": lambda n, q: np.floor((n - 1) * q),
    "higher": lambda n, q: np.ceil((n - 1) * q),
    "nearest": lambda n, q: np.rint((n - 1) * q),
}


def _quantile(a, q, axis, method, keepdims, weights, skip_nan, whole: int):
    """whole: 1 for quantiles, 100 for percentiles"""
    a = as_array(a)
    if of_complex(a):
        raise TypeError("a must be an array of real numbers")
    weak = type(q) in (int, float)  # which does not widen the result
    q = as_array(q) if whole == 1 else as_array(q) / whole
    if can_be_read(q) and not np.all((value_of(q) >= 0) & (value_of(q) <= 1)):
        name = "Quantiles" if whole == 1 else "Percentiles"
        raise ValueError(f"{name} must be in the range [0, {whole}]")
    if method not in BETWEEN and method not in ONE:
        raise ValueError(f"{method!r} is not a valid method. Use one of: {sorted(BETWEEN | ONE)}")
    if q.ndim > 2:
        raise ValueError("q must be a scalar or 1d")
    if skip_nan and not a.size:
        return np.nanmean(a, axis, keepdims=keepdims)
    if not a.size:
        _joined(a, axis)
    x = Sorted(a, axis, skip_nan)
    z = _between(x, q, method, weak) if weights is None else _weighted(x, a, q, axis, weights, method)
    return x.shaped(x.or_nan(z), q.shape, keepdims)


def _between(x: Sorted, q, method: str, weak: bool):
    n = x.count
    if x.skip_nan and x.rest:
        q = ops.reshape(q, (*q.shape, *(1,) * len(x.rest)))
    n = n if not x.skip_nan else ops.maximum(n, 1)
    v = (ONE if method in ONE else BETWEEN)[method](n, q)
    v = v if hasattr(v, "dtype") else np.asarray(v)
    if method in ONE or (method == "linear" and v.dtype.kind in "iu"):
        return x.at(ops.in_dtype(v, np.dtype(np.intp)))
    v = v if v.dtype.kind == "f" else ops.in_dtype(v, np.dtype(np.float64))
    low = np.floor(v)
    first, last = ops.maximum(low, 0), ops.minimum(low + 1, n - 1)
    first = ops.where(v >= n - 1, ops.in_dtype(ops.subtract(n, 1), v.dtype), first)
    last = ops.where(v < 0, v.dtype.type(0), last)
    t = MIXED.get(method, lambda fraction: fraction)(v - low)
    a, b = (x.at(ops.in_dtype(place, np.dtype(np.intp))) for place in (first, last))
    if not x.skip_nan:
        t = ops.reshape(t, (*t.shape, *(1,) * len(x.rest)))
    if weak and a.dtype.kind == "f":
        t = ops.in_dtype(t, a.dtype)
    # a + t (b − a), from whichever end is nearer
    step = ops.subtract(b, a)
    return ops.where(t >= 0.5, b - step * (1 - t), a + step * t)


def _weighted(x: Sorted, a, q, axis, weights, method: str):
    """The first element up to which the weights are the share q of all."""
    if method != "inverted_cdf":
        raise ValueError(f"Only method 'inverted_cdf' supports weights. Got: {method}.")
    w = as_array(weights)
    axes = axis if axis is None else tuple(ops.normal_axes(i, a.ndim)[0] for i in np.atleast_1d(axis))
    w = np.broadcast_to(weights_like(a, axes, w), a.shape)
    if can_be_read(w) and np.any(value_of(w) < 0):
        raise ValueError("Weights must be non-negative.")
    w = take_along_axis(Sorted.flat(w, x.axes), x.order, 0)
    if x.skip_nan:
        w = ops.where(ops.isnan(x.a), w.dtype.type(0), w)
    share = ops.cumsum(double(w), 0)
    share = share / share[-1]
    if can_be_read(share) and np.any(np.isnan(value_of(share))) and not x.skip_nan:
        raise ValueError("Weights included NaN, inf or were all zero.")
    share = ops.in_dtype(share, q.dtype) if q.dtype.kind == "f" else share
    share = ops.where(share == 0, share.dtype.type(-1), share)
    share = ops.reshape(share, (len(x.a), *(1,) * q.ndim, *x.rest))
    place = sum(share < ops.reshape(q, (*q.shape, *(1,) * len(x.rest))), 0)
    grid = np.meshgrid(*map(np.arange, x.rest), indexing="ij", sparse=True)
    return getitem(x.a, (ops.minimum(place, ops.maximum(x.count - 1, 0)), *grid))


def _form(skip_nan: bool, whole: int):
    """Of the four functions one: they leave NaN out or not, and q is a share of 1 or of 100."""

    def f(a, q, axis=None, out=None, overwrite_input=False, method="linear", keepdims=False, *, weights=None):
        return _quantile(a, q, axis, method, keepdims, weights, skip_nan, whole)

    return f


numpy_function(np.quantile)(_form(False, 1))
numpy_function(np.percentile)(_form(False, 100))
numpy_function(np.nanquantile)(_form(True, 1))
numpy_function(np.nanpercentile)(_form(True, 100))
