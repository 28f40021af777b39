"""numpy.linalg on tensors."""

from __future__ import annotations

import numpy as np

from .. import ops
from ..ops import normal_axes
from .reductions import floating, max, min
from .table import numpy_function, unsupported


@numpy_function(np.linalg.norm)
def norm(x, ord=None, axis=None, keepdims=False):
    """The 2-norm (Frobenius for a matrix or for all of x), and for vectors 1, 2, any p > 0 and ±inf."""
    x = floating(x)
    dims = x.ndim if axis is None else len(normal_axes(axis, x.ndim))
    if axis is not None and dims > 2:
        raise ValueError(f"linalg.norm: axis is {axis}, wanted one or two axes")
    if ord is None or (ord == 2 and dims == 1) or (ord == "fro" and dims == 2):
        return np.sqrt(ops.sum(x * x, axis, keepdims))
    if dims != 1:
        raise unsupported("linalg.norm", f"takes no ord={ord!r} over {dims} axes")
    if ord in (np.inf, -np.inf):
        if not x.size:  # NumPy's own zeros, or its error
            return np.linalg.norm(np.zeros(x.shape, x.dtype), ord, axis, keepdims)
        return (max if ord > 0 else min)(np.abs(x), axis, keepdims=keepdims)
    if ord == 1:
        return ops.sum(np.abs(x), axis, keepdims)
    if isinstance(ord, (int, float)) and ord > 0:
        return ops.sum(np.abs(x) ** ord, axis, keepdims) ** (1 / ord)
    raise unsupported("linalg.norm", f"takes no ord={ord!r}")
