"""Choosing by truths and by cases: nonzero, compress, extract, select, choose, piecewise, isin.

If the shape of the result depends on a truth of a tensor, that truth must be known: in a recording it is not.
"""

from __future__ import annotations

import numpy as np

from .. import ops
from ..axes import one_axis
from ..engine import Tensor
from .indexing import getitem, ravelled, take_along_axis, taken
from .refused import decide
from .table import as_array, numpy_function


def truths(x, what: str) -> np.ndarray:
    """The places where x is not zero, as an array; refused while a program is recorded, if x is a part of it."""
    x = as_array(x)
    return (decide(x, what) if isinstance(x, Tensor) else x) != 0


@numpy_function(np.nonzero)
def nonzero(a):
    return np.nonzero(truths(a, "the shape of np.nonzero(x)"))


@numpy_function(np.flatnonzero)
def flatnonzero(a):
    return np.flatnonzero(truths(a, "the shape of np.flatnonzero(x)"))


@numpy_function(np.argwhere)
def argwhere(a):
    return np.argwhere(truths(a, "the shape of np.argwhere(x)"))


@numpy_function(np.compress)
def compress(condition, a, axis=None, out=None):
    condition, a = truths(condition, "the shape of np.compress"), as_array(a)
    if condition.ndim != 1:
        raise ValueError("condition must be a 1-d array")
    a, axis = (ravelled(a), 0) if axis is None else (a, one_axis(axis, a.ndim))
    return taken(a, np.flatnonzero(condition), axis)


@numpy_function(np.extract)
def extract(condition, arr):
    return ravelled(as_array(arr))[np.flatnonzero(truths(condition, "the shape of np.extract"))]


@numpy_function(np.select)
def select(condlist, choicelist, default=0):
    """The choice of the first condition that holds."""
    if len(condlist) != len(choicelist):
        raise ValueError("list of cases must be same length as list of conditions")
    if not condlist:
        raise ValueError("select with an empty condition list is not possible")
    conditions = [as_array(c) for c in condlist]
    for i, c in enumerate(conditions):
        if c.dtype != bool:
            raise TypeError(f"invalid entry {i} in condlist: should be boolean ndarray")
    choices = [x if type(x) in (int, float, complex) else as_array(x) for x in (*choicelist, default)]
    dtype = np.result_type(*(x if type(x) in (int, float, complex) else x.dtype for x in choices))
    *choices, z = map(as_array, choices)
    for x in choices:  # a Python integer, too, has a dtype by now
        if not np.can_cast(x.dtype, dtype, "same_kind"):
            raise TypeError(f"Cannot cast array data from {x.dtype!r} to {dtype!r} according to the rule 'same_kind'")
    *choices, z = (ops.in_dtype(x, dtype) for x in (*choices, z))
    for condition, choice in zip(reversed(conditions), reversed(choices), strict=True):
        z = ops.where(condition, choice, z)
    return np.broadcast_to(z, np.broadcast_shapes(*(x.shape for x in (*conditions, *choices, z))))


@numpy_function(np.choose)
def choose(a, choices, out=None, mode="raise"):
    a = as_array(a)
    choices = np.broadcast_arrays(a, *(choices if isinstance(choices, (list, tuple)) else as_array(choices)))[1:]
    if a.dtype.kind not in "iub":
        raise TypeError(f"Cannot cast array data from {a.dtype!r} to dtype('int64') according to the rule 'safe'")
    n = len(choices)
    if mode == "raise" and (a.dtype != bool or n < 2):
        place = decide(a, "an error of np.choose with mode='raise'") if isinstance(a, Tensor) else a
        if np.any((place < 0) | (place >= n)):
            raise ValueError("invalid entry in choice array")
    place = ops.in_dtype(a, np.dtype(np.intp))
    place = place if mode == "raise" else np.mod(place, n) if mode == "wrap" else np.clip(place, 0, n - 1)
    place = np.broadcast_to(place, choices[0].shape)
    return take_along_axis(np.stack(choices), ops.expand_dims(place, (0,)), 0)[0]


@numpy_function(np.piecewise)
def piecewise(x, condlist, funclist, *args, **kw):
    """Each function sees the elements that are its own, as in NumPy; where conditions overlap, the last one counts."""
    x = as_array(x)
    one = not isinstance(condlist, (list, tuple)) and not np.ndim(condlist)
    if one or (x.ndim and not isinstance(condlist[0], (list, tuple)) and not np.ndim(condlist[0])):
        condlist = [condlist]
    masks = [truths(c, "what np.piecewise gives to each function") for c in condlist]
    masks = [*masks, ~np.any(masks, 0)] if len(masks) == len(funclist) - 1 else masks
    if len(masks) != len(funclist):
        n = len(masks)
        raise ValueError(f"with {n} condition(s), either {n} or {n + 1} functions are expected")
    z = np.zeros(x.shape, x.dtype)
    for mask, f in zip(masks, funclist, strict=True):
        part = f(getitem(x, mask), *args, **kw) if callable(f) and mask.any() else f
        if callable(part):
            continue
        part = ops.in_dtype(as_array(part), x.dtype)
        if mask.ndim == 0:
            z = ops.reshape(part, x.shape) if mask else z
            continue
        part = np.broadcast_to(part, getitem(x, mask).shape)
        part = ops.scatter_add(part, *np.nonzero(mask), template=(ops.ARRAY,) * mask.ndim, shape=x.shape)
        z = ops.where(mask, part, z)
    return z


@numpy_function(np.isin)
def isin(element, test_elements, assume_unique=False, invert=False, *, kind=None):
    element, wanted = as_array(element), ravelled(as_array(test_elements))
    found = np.any(ops.equal(ops.expand_dims(element, (element.ndim,)), wanted), -1)
    return ops.logical_not(found) if invert else found
