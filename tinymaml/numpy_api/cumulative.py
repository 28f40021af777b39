"""Running sums, products and maxima; differences between neighbours.

A running product is a linear recurrence, and so is its derivative: one primitive, whose rule is itself.
"""

from __future__ import annotations

import numpy as np

from .. import ops
from ..axes import one_axis
from ..engine import Primitive, stop_gradient
from .indexing import along_axis, ravelled
from .table import as_array, numpy_function


def _recurrence(a, b):
    z = np.empty(b.shape, np.result_type(a, b))
    rows = [x.reshape(len(x), -1) for x in (z, a, b)]  # whose rows are arrays, which wrap without a warning
    for t, (row, factor, summand) in enumerate(zip(*rows, strict=True)):
        row[...] = factor * rows[0][t - 1] + summand if t else summand
    return z


def _slope_of_factors(g, z, a, b):
    """āₜ = b̄ₜ zₜ₋₁, and 0 for t = 0"""
    slope = _slope_of_summands(g, z, a, b)[1:] * z[:-1]
    return ops.scatter_add(slope, template=(slice(1, None),), shape=a.shape)


def _slope_of_summands(g, z, a, b):
    """b̄ₜ = gₜ + aₜ₊₁ b̄ₜ₊₁"""
    n = a.shape[0]
    return ops.flip(recurrence(a[-np.arange(n) % n], ops.flip(g, 0)), 0)


# zₜ = aₜ zₜ₋₁ + bₜ over the first axis, from z₀ = b₀
recurrence = Primitive("recurrence", _recurrence, (_slope_of_factors, _slope_of_summands),
                       shape=lambda a, b: a, lowering="recurrence")  # fmt: skip


def products(a):
    """The products of the first 1, 2, … of a over the first axis: zₜ = aₜ zₜ₋₁. (x + −0 is x, also where x is −0.)"""
    if a.shape[0] < 2:
        return a
    zeros = np.full((a.shape[0] - 1, *a.shape[1:]), -0.0 if a.dtype.kind in "fc" else 0, a.dtype)
    return recurrence(a, np.concatenate([a[:1], zeros]))


def _along_axis(f, a, axis, dtype, include_initial=None):
    """f over an axis, where None stands for all of a; with one more element in front, `include_initial`."""
    a = as_array(a)
    a, axis = (ravelled(a), 0) if axis is None else (a, axis)
    a = a if a.ndim else ravelled(a)
    axis = one_axis(axis, a.ndim)
    z = f(a if dtype is None else ops.in_dtype(a, np.dtype(dtype)), axis)
    z = z if dtype is None else ops.in_dtype(z, np.dtype(dtype))
    if include_initial is None:
        return z
    first = np.full((*z.shape[:axis], 1, *z.shape[axis + 1 :]), include_initial, z.dtype)
    return ops.concatenate(first, z, axis=axis)


def _products_over(a, axis: int):
    a = ops.in_dtype(a, np.prod(np.ones(1, a.dtype)).dtype)  # of short integers a long one
    order = (axis, *(i for i in range(a.ndim) if i != axis))
    return ops.transpose(products(ops.transpose(a, order)), np.argsort(order).tolist())


@numpy_function(np.cumsum)
def cumsum(a, axis=None, dtype=None, out=None):
    return _along_axis(ops.cumsum, a, axis, dtype)


@numpy_function(np.cumprod)
def cumprod(a, axis=None, dtype=None, out=None):
    return _along_axis(_products_over, a, axis, dtype)


@numpy_function(getattr(np, "cumulative_sum", None))  # since NumPy 2.1
def cumulative_sum(x, /, *, axis=None, dtype=None, out=None, include_initial=False):
    return _along_axis(ops.cumsum, x, _axis_of_vector(x, axis), dtype, 0 if include_initial else None)


@numpy_function(getattr(np, "cumulative_prod", None))
def cumulative_prod(x, /, *, axis=None, dtype=None, out=None, include_initial=False):
    return _along_axis(_products_over, x, _axis_of_vector(x, axis), dtype, 1 if include_initial else None)


def _axis_of_vector(x, axis):
    if axis is None and x.ndim > 1:
        raise ValueError("For arrays which have more than one dimension ``axis`` argument is required.")
    if isinstance(axis, tuple) and len(axis) != 1:
        raise ValueError("accumulate does not allow multiple axes")
    return 0 if axis is None else axis[0] if isinstance(axis, tuple) else axis


def running(f, a, axis: int):
    """f(… f(f(a₀, a₁), a₂) …) for a ufunc that may be grouped in any way: windows of 1, 2, 4, … elements meet.

    Equal maxima share the cotangent by halves wherever two windows meet, as `ops.maximum` has it.
    """
    step = 1
    while step < a.shape[axis]:
        later = f(along_axis(a, axis, slice(None, -step)), along_axis(a, axis, slice(step, None)))
        a, step = ops.concatenate(along_axis(a, axis, slice(step)), later, axis=axis), 2 * step
    return a


# ── differences ─────────────────────────────────────────────────────────────────────────────────────────────────────


@numpy_function(np.diff)
def diff(a, n=1, axis=-1, prepend=None, append=None):
    if n == 0:
        return a
    if n < 0:
        raise ValueError(f"order must be non-negative but got {n}")
    a = as_array(a)
    if a.ndim == 0:
        raise ValueError("diff requires input that is at least one dimensional")
    axis = one_axis(axis, a.ndim)
    edge = (*a.shape[:axis], 1, *a.shape[axis + 1 :])
    parts = [a if x is a else np.broadcast_to(x, edge) if np.ndim(x) == 0 else as_array(x)
             for x in (prepend, a, append) if x is not None]  # fmt: skip
    a = ops.concatenate(*parts, axis=axis) if len(parts) > 1 else a
    minus = ops.not_equal if a.dtype == bool else ops.subtract
    for _ in range(n):
        a = minus(along_axis(a, axis, slice(1, None)), along_axis(a, axis, slice(None, -1)))
    return a


@numpy_function(np.ediff1d)
def ediff1d(ary, to_end=None, to_begin=None):
    ary = ravelled(as_array(ary))
    parts = [ops.subtract(ary[1:], ary[:-1])]
    for name, x, at in (("to_begin", to_begin, 0), ("to_end", to_end, 2)):
        if x is not None:
            x = as_array(x)
            if not np.can_cast(x.dtype, ary.dtype, "same_kind"):
                raise TypeError(f"dtype of `{name}` must be compatible with input `ary` under the `same_kind` rule.")
            parts.insert(at, ops.in_dtype(ravelled(x), ary.dtype))
    return ops.concatenate(*parts, axis=0)


@numpy_function(np.gradient)
def gradient(f, *varargs, axis=None, edge_order=1):
    """Second-order differences inside, first- or second-order ones at the edges: see `np.gradient`."""
    f = as_array(f)
    f = f if f.dtype.kind not in "iu" else ops.in_dtype(f, np.dtype(np.float64))
    axes = range(f.ndim) if axis is None else [one_axis(i, f.ndim) for i in ([axis] if np.ndim(axis) == 0 else axis)]
    if len(set(axes)) < len(axes):
        raise ValueError(f"repeated axis in {axis}")
    if len(varargs) not in (0, 1, len(axes)) or (len(varargs) == 1 != len(axes) and np.ndim(varargs[0])):
        raise TypeError("invalid number of arguments")
    spacings = varargs if len(varargs) == len(axes) else (varargs or (1.0,)) * len(axes)
    if edge_order > 2:
        raise ValueError("'edge_order' greater than 2 not supported")
    found = [_slope_along(f, i, _steps(d, f.shape[i]), edge_order) for i, d in zip(axes, spacings, strict=True)]
    return found[0] if len(found) == 1 else tuple(found)


def _steps(distances, n: int):
    """The distances between neighbours; one number where they are equal, as far as their values may be read."""
    if np.ndim(distances) == 0:
        return distances
    distances = as_array(distances)
    if distances.ndim != 1:
        raise ValueError("distances must be either scalars or 1d")
    if len(distances) != n:
        raise ValueError("when 1d, distances must match the length of the corresponding dimension")
    if n < 2:
        raise IndexError(f"{n} distances have no step between them, wanted at least 2")
    steps = diff(distances if distances.dtype.kind not in "iu" else ops.in_dtype(distances, np.dtype(np.float64)))
    return steps[0] if isinstance(steps, np.ndarray) and (steps == steps[0]).all() else steps


def _slope_along(f, axis: int, d, edge_order: int):
    if f.shape[axis] < edge_order + 1:
        raise ValueError("Shape of array too small to calculate a numerical gradient, at least (edge_order + 1)"
                         " elements are required.")  # fmt: skip
    at = lambda *index: along_axis(f, axis, slice(*index))  # noqa: E731
    last = f.shape[axis]
    if np.ndim(d) == 0:
        inside = (at(2, None) - at(None, -2)) / (2.0 * d)
        first = final = (d, d)  # the two steps at either end
    else:
        first, final = (d[0], d[min(1, last - 2)]), (d[max(last - 3, 0)], d[last - 2])
        d = ops.reshape(d, (last - 1, *(1,) * (f.ndim - axis - 1)))
        h, k = d[:-1], d[1:]  # the steps before and after, whose product may overflow
        inside = (-k / (h + k) / h * at(None, -2) + (k - h) / h / k * at(1, -1)
                  + h / (h + k) / k * at(2, None))  # fmt: skip
    if edge_order == 1:
        left, right = (at(1, 2) - at(0, 1)) / first[0], (at(last - 1, last) - at(last - 2, last - 1)) / final[1]
    else:
        h, k = first
        left = (-(2.0 * h + k) / (h + k) / h * at(0, 1) + (h + k) / h / k * at(1, 2)
                - h / (h + k) / k * at(2, 3))  # fmt: skip
        h, k = final
        right = (k / (h + k) / h * at(last - 3, last - 2) - (k + h) / h / k * at(last - 2, last - 1)
                 + (2.0 * k + h) / (h + k) / k * at(last - 1, last))  # fmt: skip
    parts = (left, inside, right) if last > 2 else (left, right)
    return ops.concatenate(*(ops.in_dtype(x, f.dtype) for x in parts), axis=axis)


@numpy_function(np.trapezoid)
def trapezoid(y, x=None, dx=1.0, axis=-1):
    """Σ dᵢ (yᵢ + yᵢ₊₁) / 2"""
    y = as_array(y)
    axis = one_axis(axis, y.ndim)
    d = dx
    if x is not None:
        x = as_array(x)
        d = diff(x, axis=axis if x.ndim > 1 else 0)
        d = ops.reshape(d, (len(d), *(1,) * (y.ndim - axis - 1))) if x.ndim == 1 else d
    return np.sum(d * (along_axis(y, axis, slice(1, None)) + along_axis(y, axis, slice(None, -1))) / 2.0, axis)


@numpy_function(np.unwrap)
def unwrap(p, discont=None, axis=-1, *, period=2 * np.pi):
    """p plus whole periods, so that no step is larger than half of one: they are constant, and the slope is 1."""
    p = as_array(p)
    steps = diff(p, axis=axis)
    axis = one_axis(axis, p.ndim)
    dtype = np.result_type(steps.dtype, period)
    high, even = (period // 2, period % 2 == 0) if dtype.kind in "iu" else (period / 2, True)
    np.zeros(1, steps.dtype) + -high  # NumPy's own error: an unsigned integer is not less than 0
    wrapped = np.mod(steps + high, period) - high
    if even:
        wrapped = ops.where((wrapped == -high) & (steps > 0), dtype.type(high), wrapped)
    jumps = ops.where(np.abs(steps) < (period / 2 if discont is None else discont), dtype.type(0), wrapped - steps)
    later = along_axis(p, axis, slice(1, None)) + stop_gradient(ops.cumsum(jumps, axis))
    return ops.concatenate(*(ops.in_dtype(x, dtype) for x in (along_axis(p, axis, slice(1)), later)), axis=axis)
