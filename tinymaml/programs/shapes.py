"""Shapes: what a primitive returns, without computing it, so that recording costs neither time nor memory.

While a function is recorded, the values of its tensors are of no use: the program is for any. An array of one number
has strides 0 and holds one element. The shapes are those that a primitive's description gives. Read next: `passes`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..engine import Primitive


def result_of(primitive: Primitive, inputs: list, params: dict, filled: Callable) -> np.ndarray:
    """The result of the primitive for arrays that are one number.

    Args:
        filled: `filled(shape, dtype)` → an array of that number.
    """
    description, shapes = primitive.description, [np.shape(x) for x in inputs]
    if description.elementwise:
        # the dtype is that of the same on one element of each; a number stays one, since it promotes as one
        ones = [np.ones((1,) * x.ndim, x.dtype) if isinstance(x, (np.ndarray, np.generic)) else x for x in inputs]
        with np.errstate(all="ignore"):
            return filled(np.broadcast_shapes(*shapes), np.asarray(primitive.forward(*ones, **params)).dtype)
    shape = description.shape and description.shape(*shapes, **params)
    if shape is None:
        with np.errstate(all="ignore"):
            out = primitive.forward(*inputs, **params)
        return filled(out.shape, out.dtype)
    dtypes = [np.result_type(x) for x in inputs]
    return filled(shape, description.dtype(*dtypes) if description.dtype else dtypes[0])
