"""Functions of each element: NumPy's ufuncs, clip, where."""

from __future__ import annotations

import numpy as np

from .. import ops
from ..engine import Tensor, value_of
from .complexes import of_complex
from .table import as_array, numpy_function, unsupported

# ── one primitive each ──────────────────────────────────────────────────────────────────────────────────────────────

for _f, _ours in {
    np.add: ops.add, np.subtract: ops.subtract, np.multiply: ops.multiply, np.divide: ops.divide, np.power: ops.power,
    np.exp: ops.exp, np.expm1: ops.expm1, np.exp2: ops.exp2, np.log: ops.log, np.log1p: ops.log1p,
    np.log2: ops.log2, np.log10: ops.log10, np.logaddexp: ops.logaddexp, np.sqrt: ops.sqrt, np.hypot: ops.hypot,
    np.sin: ops.sin, np.cos: ops.cos, np.tan: ops.tan, np.arctan: ops.arctan,
    np.sinh: ops.sinh, np.cosh: ops.cosh, np.tanh: ops.tanh,
    np.floor: ops.floor, np.ceil: ops.ceil, np.rint: ops.rint, np.trunc: ops.trunc,
    np.isnan: ops.isnan, np.isinf: ops.isinf, np.isfinite: ops.isfinite,
    np.equal: ops.equal, np.not_equal: ops.not_equal, np.less: ops.less, np.less_equal: ops.less_equal,
    np.greater: ops.greater, np.greater_equal: ops.greater_equal, np.logical_not: ops.logical_not,
    np.logical_and: ops.logical_and, np.logical_or: ops.logical_or, np.logical_xor: ops.logical_xor,
    np.bitwise_and: ops.bitwise_and, np.bitwise_or: ops.bitwise_or, np.bitwise_xor: ops.bitwise_xor,
    np.invert: ops.invert,
}.items():  # fmt: skip
    numpy_function(_f)(_ours)


numpy_function(np.negative)(ops.negative)
numpy_function(np.positive)(ops.positive)
numpy_function(np.square)(ops.square)
numpy_function(np.absolute)(ops.absolute)
numpy_function(np.fabs)(lambda x: ops.absolute(x if x.dtype.kind == "c" else ops.as_computed(np.fabs, x)))
numpy_function(np.maximum)(lambda x, y: ops.maximum(x, y))
numpy_function(np.minimum)(lambda x, y: ops.minimum(x, y))


@numpy_function(np.sign)
def sign(x):
    """−1, 0 or 1; of complex numbers x / |x|, and 0 at 0."""
    if not of_complex(x):
        return ops.sign(x)
    size = np.abs(x)
    return x / ops.where(ops.equal(size, 0), 1, size)


@numpy_function(np.reciprocal)
def reciprocal(x):
    return 1 / x if x.dtype.kind in "fc" else ops.reciprocal(ops.as_computed(np.reciprocal, x))


@numpy_function(np.clip)
def clip(a, a_min=None, a_max=None, *, min=None, max=None):
    low, high, a = (a_min if min is None else min), (a_max if max is None else max), as_array(a)
    if a.dtype.kind in "iu":  # a Python integer that no element exceeds is as good as none
        low = None if type(low) is int and low <= np.iinfo(a.dtype).min else low
        high = None if type(high) is int and high >= np.iinfo(a.dtype).max else high
    low, high = (np.asarray(x) if isinstance(x, (list, tuple)) else x for x in (low, high))
    bounds = value_of(low), value_of(high)
    like = [x if x is None or type(x) in (int, float) else np.ones(1, np.result_type(x)) for x in bounds]
    dtype = np.clip(np.ones(1, a.dtype), *like).dtype  # of all three, and NumPy's own errors
    a = ops.in_dtype(a, dtype)
    a = a if low is None else ops.maximum(a, low)
    return a if high is None else ops.minimum(a, high)


@numpy_function(np.where)
def where(condition, x=None, y=None):
    if x is None or y is None:
        raise unsupported("where", "takes three arguments (the shape of np.where(c) depends on the values of c)")
    if isinstance(condition, Tensor) and condition.dtype != bool:
        condition = ops.not_equal(condition, 0)
    return ops.where(condition, x, y)
