"""Axes as NumPy takes them, and the shapes of reductions over them."""

from __future__ import annotations

import operator

import numpy as np


def normal_axes(axis, ndim: int) -> tuple[int, ...]:
    """An axis as NumPy takes it (None, an int, a tuple of ints), as a tuple of non-negative ints in order.

    Raises:
        AxisError: an axis is not among `ndim`.
        ValueError: an axis is repeated.

    >>> from tinymaml.axes import normal_axes
    >>> normal_axes(None, 3), normal_axes((-1, 0), 3)
    ((0, 1, 2), (0, 2))
    """
    axis = range(ndim) if axis is None else (axis,) if isinstance(axis, (int, np.integer)) else tuple(axis)
    for a in axis:
        if not -ndim <= a < ndim:
            raise np.exceptions.AxisError(a, ndim)
    axes = tuple(sorted(int(a) % ndim for a in axis))
    if len(set(axes)) != len(axes):
        raise ValueError(f"repeated axis in {tuple(axis)}")
    return axes


def one_axis(axis: int, ndim: int) -> int:
    """One axis as a non-negative int; AxisError where there is none."""
    return normal_axes(operator.index(axis), ndim)[0]


def reduced(shape, *, axis, keepdims, **_) -> tuple[int, ...]:
    """The shape of a reduction of `shape` over `axis`, as a keyword `shape=` of a primitive gives it."""
    axes = normal_axes(axis, len(shape))
    return tuple(1 if i in axes else n for i, n in enumerate(shape) if keepdims or i not in axes)


def reduced_if_any(shape, **how) -> tuple[int, ...] | None:
    """`reduced` for a reduction that needs an element; None where there is none, so that NumPy raises its error."""
    return None if 0 in shape else reduced(shape, **how)
