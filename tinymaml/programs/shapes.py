"""Shapes: what a primitive returns, without computing it, so that recording costs neither time nor memory.

While a function is recorded, the values of its tensors are of no use: the program is for any. An array of one number
has strides 0 and holds one element. Read next: `passes`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from .. import ops
from ..engine import Primitive
from ..ops import normal_axes

# (shapes of the inputs, params) → the shape of the output, whose dtype is the first input's
SHAPES: dict[Primitive, Callable] = {
    ops._reshape: lambda x, *, shape: shape,
    ops._broadcast_to: lambda x, *, shape: shape,
    ops._transpose: lambda x, *, axes: tuple(x[i] for i in axes),
    ops.patches: lambda x, *, size, stride, padding: (
        x[0], *((n + sum(pad) - k) // stride + 1 for n, k, pad in zip(x[1:3], size, padding, strict=True)),
        size[0] * size[1] * x[3]),
    ops.unpatches: lambda g, *, shape, **how: shape,
    ops.pick: lambda x, k, *, size: k,
    ops.unpick: lambda g, k, *, size, shape: shape,
    ops.max_share: lambda x, *, axis, ties: x,
    ops._max: lambda x, *, axis, keepdims, ties: _reduced(x, axis, keepdims),
}  # fmt: skip


def result_of(primitive: Primitive, inputs: list, params: dict, filled: Callable) -> np.ndarray:
    """What the primitive returns, of one number.

    Args:
        filled: `filled(shape, dtype)` → an array of that number.
    """
    given = [np.shape(x) for x in inputs]
    if primitive is ops._reshape and math.prod(given[0]) != math.prod(params["shape"]):
        raise ValueError(f"cannot reshape array of size {math.prod(given[0])} into shape {params['shape']}")
    if primitive in (ops._max, ops.argmax, ops.argmin) and 0 in given[0]:
        primitive.forward(*inputs, **params)  # NumPy's own error, if there is nothing to choose from
    if primitive in SHAPES:
        return filled(SHAPES[primitive](*given, **params), inputs[0].dtype)
    # the dtype is that of the same on one element of each; a number stays one, since it promotes as one
    ones = [np.ones((1,) * x.ndim, x.dtype) if isinstance(x, (np.ndarray, np.generic)) else x for x in inputs]
    with np.errstate(all="ignore"):
        if primitive.elementwise:
            return filled(np.broadcast_shapes(*given), np.asarray(primitive.forward(*ones, **params)).dtype)
        if primitive is ops._matmul:
            batch = np.broadcast_shapes(given[0][:-2], given[1][:-2])
            if given[0][-1] == given[1][-2]:
                return filled((*batch, given[0][-2], given[1][-1]), primitive.forward(*ones).dtype)
        if primitive in (ops._sum, ops.argmax, ops.argmin):
            reduced = _reduced(given[0], params["axis"], params["keepdims"])
            return filled(reduced, primitive.forward(*ones, **params).dtype)
        out = primitive.forward(*inputs, **params)
    return filled(out.shape, out.dtype)


def _reduced(shape: tuple[int, ...], axis, keepdims: bool) -> tuple[int, ...]:
    axes = normal_axes(axis, len(shape))
    return tuple(1 if i in axes else n for i, n in enumerate(shape) if keepdims or i not in axes)
