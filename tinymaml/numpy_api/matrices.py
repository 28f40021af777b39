"""Diagonals and triangles of matrices."""

from __future__ import annotations

import numpy as np

from .. import ops
from .indexing import getitem
from .shapes import moveaxis
from .table import numpy_function


@numpy_function(np.trace)
def trace(a, offset=0, axis1=0, axis2=1, dtype=None):
    a = diagonal(a, offset, axis1, axis2)
    return ops.sum(a if dtype is None else ops.in_dtype(a, np.dtype(dtype)), -1)


@numpy_function(np.diagonal)
def diagonal(a, offset=0, axis1=0, axis2=1):
    if a.ndim < 2:
        raise ValueError(f"diag requires an array of at least two dimensions, and its shape is {a.shape}")
    a = moveaxis(a, (axis1, axis2), (-2, -1))
    down, right = max(-offset, 0), max(offset, 0)
    rows = np.arange(min(a.shape[-2] - down, a.shape[-1] - right))  # empty where negative
    return getitem(a, (..., rows + down, rows + right))


@numpy_function(np.diag)
def diag(v, k=0):
    if v.ndim == 2:
        return diagonal(v, k)
    if v.ndim != 1:
        raise ValueError(f"diag: an array of shape {v.shape}, wanted a vector or a matrix")
    n = v.shape[0] + abs(k)
    first = max(k, -k * n)  # in the flat matrix, where one on the diagonal is n + 1 after the other
    flat = slice(first, first + v.shape[0] * (n + 1), n + 1)
    return ops.reshape(ops.scatter_add(v, template=(flat,), shape=(n * n,)), (n, n))


@numpy_function(np.tril)
def tril(m, k=0):
    return ops.where(np.tri(*m.shape[-2:], k=k, dtype=bool), m, m.dtype.type(0))


@numpy_function(np.triu)
def triu(m, k=0):
    return ops.where(np.tri(*m.shape[-2:], k=k - 1, dtype=bool), m.dtype.type(0), m)
