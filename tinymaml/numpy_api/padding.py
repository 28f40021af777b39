"""numpy.pad: one axis after the other, so that the corners are those of the last one."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import ops
from ..engine import Tensor
from .building import linspace
from .indexing import along_axis
from .quantiles import median
from .reductions import max, mean, min
from .refused import unsupported
from .shapes import moveaxis
from .table import as_array, numpy_function

STATISTICS = {"maximum": max, "minimum": min, "mean": mean, "median": median}
KEYWORDS = {
    "constant": "constant_values", "linear_ramp": "end_values", "reflect": "reflect_type", "symmetric": "reflect_type",
    "edge": "", "wrap": "", **dict.fromkeys(STATISTICS, "stat_length"),
}  # fmt: skip


@numpy_function(np.pad)
def pad(array, pad_width, mode="constant", **how):
    array = as_array(array)
    widths = _widths(pad_width, array.ndim)
    if callable(mode) or mode == "empty":
        raise unsupported("pad", f"takes no mode={mode!r}, which writes into an array")
    if mode not in KEYWORDS:
        raise ValueError(f"mode '{mode}' is not supported")
    if unknown := set(how) - {KEYWORDS[mode]}:
        raise ValueError(f"unsupported keyword arguments for mode '{mode}': {unknown}")
    if mode == "constant":
        return _constant(array, widths, **how)
    for axis, width in enumerate(widths):
        if any(width) and not array.shape[axis]:
            raise ValueError(f"can't extend empty axis {axis} using modes other than 'constant' or 'empty'")
    if mode == "linear_ramp":
        return _by_axis(array, widths, how.get("end_values", 0), _ramp)
    if mode in STATISTICS:
        return _by_axis(array, widths, how.get("stat_length"), _statistic(STATISTICS[mode]))
    odd = how.get("reflect_type", "even") == "odd"
    for axis, width in enumerate(widths):
        if any(width):
            array = (_mirrored_at_the_edges if odd else _taken)(array, axis, width, mode)
    return array


def _widths(pad_width, ndim: int) -> list[tuple[int, int]]:
    if isinstance(pad_width, dict):
        pairs = [(0, 0)] * ndim
        for axis, width in pad_width.items():
            pairs[axis] = (width, width) if np.ndim(width) == 0 else tuple(width)
        pad_width = pairs
    pad_width = np.asarray(pad_width)
    if pad_width.dtype.kind != "i":
        raise TypeError("`pad_width` must be of integral type.")
    widths = np.broadcast_to(pad_width, (ndim, 2)).tolist()
    if any(n < 0 for pair in widths for n in pair):
        raise ValueError(f"pad: widths {widths} for an array of {ndim} axes; none may be negative")
    return [tuple(pair) for pair in widths]


def _constant(array, widths, constant_values=0):
    if np.ndim(constant_values):
        return _by_axis(array, widths, constant_values, lambda a, axis, n, value, end: value)
    shape = tuple(a + n + b for n, (a, b) in zip(array.shape, widths, strict=True))
    inside = tuple(slice(a, a + n) for n, (a, _) in zip(array.shape, widths, strict=True))
    padded = ops.scatter_add(array, template=inside, shape=shape)
    if not isinstance(constant_values, Tensor) and constant_values == 0 and not np.signbit(constant_values):
        return padded
    mask = np.ones(shape, bool)
    mask[inside] = False
    return ops.where(mask, ops.astype(constant_values, dtype=array.dtype), padded)


def _by_axis(array, widths, values, edge):
    """The pieces of `edge(array, axis, n, value, end)`, n long, at both ends of each axis; one value per end."""
    values = [(values, values)] * array.ndim if values is None else np.broadcast_to(values, (array.ndim, 2))
    for axis, width in enumerate(widths):
        parts = [array]
        for end, n in zip((0, -1), width, strict=True):
            if n:
                part = ops.in_dtype(as_array(edge(array, axis, n, values[axis][end], end)), array.dtype)
                shape = (*array.shape[:axis], n, *array.shape[axis + 1 :])
                parts.insert(0 if end == 0 else len(parts), np.broadcast_to(part, shape))
        array = ops.concatenate(*parts, axis=axis) if len(parts) > 1 else array
    return array


def _ramp(array, axis: int, n: int, value, end: int):
    """From the value to the edge."""
    edge = along_axis(array, axis, 0 if end == 0 else array.shape[axis] - 1)
    ramp = moveaxis(linspace(value, edge, n, endpoint=False, dtype=array.dtype), 0, axis)
    return ramp if end == 0 else np.flip(ramp, axis)


def _statistic(reduce):
    def statistic(array, axis: int, n: int, count, end: int):
        """Of the `count` elements at that end."""
        length = array.shape[axis]
        count = length if count is None else int(np.minimum(count, length))
        if count < 0:
            raise ValueError("index can't contain negative values")
        if not count and reduce in (max, min):
            raise ValueError("stat_length of 0 yields no value for padding")
        z = reduce(
            along_axis(array, axis, slice(count) if end == 0 else slice(length - count, None)), axis, keepdims=True
        )
        return np.rint(z) if array.dtype.kind in "iu" and z.dtype.kind == "f" else z

    return statistic


def _taken(array, axis: int, width, mode: Any):
    """Each element again, where NumPy puts its number."""
    return along_axis(array, axis, np.pad(np.arange(array.shape[axis]), width, mode))


def _mirrored_at_the_edges(array, axis: int, width, mode: Any):
    """2 × the edge − the mirror image, again and again: a matrix, which NumPy makes of the unit vectors.

    Only what is not 0 in a row of it is multiplied, since 0 ∞ is NaN.
    """
    n = array.shape[axis]
    matrix = np.pad(np.eye(n, dtype=int), (width, (0, 0)), mode, reflect_type="odd")
    most = int(np.max(np.count_nonzero(matrix, 1)))
    places = np.argsort(matrix == 0, axis=1, kind="stable")[:, :most]
    weights = np.take_along_axis(matrix, places, 1).reshape(*places.shape, *(1,) * (array.ndim - axis - 1))
    terms = ops.where(weights == 0, array.dtype.type(0), along_axis(array, axis, places)) * weights.astype(array.dtype)
    return ops.in_dtype(ops.sum(terms, axis + 1), array.dtype)
