"""Methods of tensors, and what a tensor refuses: to be written to, or to be read as a number in passing."""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import ops
from ..engine import Primitive, Tensor, alias, refusal
from .complexes import imag, real
from .indexing import getitem
from .refused import decide
from .shapes import matrix_transpose, ravel, reshape, transpose
from .table import NUMPY


def _no(message: str) -> Callable:
    def refuse(self, *args, **kwargs):
        raise refusal(TypeError(message))

    return refuse


# An argument of a program that is being recorded, for any value of it.
placeholder = Primitive("input", lambda x: x, lowering="loop", loop="{type}({})")


# Functions of scipy.special that are no ufuncs, so that NumPy's protocols do not reach them → what takes tensors
OF_SCIPY = {
    "logsumexp": "tm.nn.logsumexp", "softmax": "tm.nn.softmax", "log_softmax": "tm.nn.log_softmax",
    "polygamma": "tinymaml.numpy_api.special.polygamma", "multigammaln": "tinymaml.numpy_api.special.multigammaln",
    "factorial": "scipy.special.gamma(x + 1)", "comb": "scipy.special.gammaln",
}  # fmt: skip


def _array(x: Tensor, dtype=None, copy=None):
    """Called by NumPy for a tensor in a list: `np.array([t, u])` is an array of tensors without axes.

    Operators and ufuncs work on it, element by element; where it meets a tensor it becomes one. `np.stack` makes one
    tensor at once, which is faster. Of integers and booleans, through which no derivative flows, NumPy gets the values.
    """
    if x.dtype.kind not in "fc":
        instead = "y[:, None] == np.arange(5) would do"
        return np.asarray(decide(x, "an array of NumPy, as in np.eye(5)[y],", instead), dtype)
    if dtype is not None and np.dtype(dtype) != object:
        raise refusal(TypeError(f"an array of dtype {np.dtype(dtype)} cannot hold a tensor: {_TO_ARRAYS}"))
    frame: Any = sys._getframe(1)
    asker = ""
    while (module := str(frame.f_globals.get("__name__"))).startswith(("scipy.", "numpy.ma.")):
        asker, frame = f"{module}.{frame.f_code.co_name}", frame.f_back
    if asker.startswith("numpy.ma"):
        raise refusal(TypeError("a tensor meets a masked array, whose mask would be lost: give data and mask apart"))
    if asker:
        name = asker.rpartition(".")[2]
        if asker.startswith("scipy.special") and name in OF_SCIPY:
            raise refusal(TypeError(f"scipy.special.{name} takes no tensors: {OF_SCIPY[name]} does"))
        raise refusal(TypeError(f"{asker} takes no tensors: {_TO_ARRAYS}"))
    tensors = np.empty(x.shape, object)
    for i in np.ndindex(x.shape):
        tensors[i] = x[i]
    return tensors


def _number(convert: Callable) -> Callable:
    """Called by Python for a tensor in the place of a number: that of an integer, through which no derivative flows."""

    def of(x: Tensor):
        if x.dtype.kind in "fc":
            raise refusal(TypeError(f"a number of Python would be cut from the graph: {_TO_ARRAYS}{_TO_PRINT}"))
        return convert(decide(x, "a number of Python"))

    return of


_TO_ARRAYS = (
    "np.stack([t, u]) makes a tensor of several, np.where and np.concatenate take the place of c[i] = t, and tm.nn has"
    " logsumexp and softmax (SciPy's ufuncs, as scipy.special.gammaln, take tensors)"
)
_TO_PRINT = "; np.exp(x) takes the place of math.exp(x); to print or log it, return it beside the loss (has_aux=True)"

Tensor.__array__ = _array
Tensor.__float__, Tensor.__complex__ = _number(float), _number(complex)
Tensor.__int__, Tensor.__index__ = _number(int), _number(operator.index)
Tensor.item, Tensor.tolist = _number(lambda x: x.item()), _number(lambda x: x.tolist())
Tensor.__setitem__ = _no("a tensor is never written to: np.where, np.concatenate or tm.ops.scatter_add make a new one")


def _missing(x: Tensor, name: str):
    """Ufuncs, by which NumPy computes with an array of tensors; any other name is an error that says what to write."""
    ufunc = getattr(np, name, None) if not name.startswith("_") else None
    if isinstance(ufunc, np.ufunc) and ufunc in NUMPY:
        return lambda *others: ufunc(x, *others)
    instead = f"; np.{name}(x) is a function of tensors" if ufunc in NUMPY else ""
    if name in ("flat", "data", "strides", "flags"):
        instead = ", which shows the memory of an array; it has x.ravel()"
    raise AttributeError(f"a tensor has no attribute {name!r}{instead}", name=name, obj=x)


Tensor.__getattr__ = _missing
Tensor.__format__ = lambda x, spec: format(x.value, spec) if spec else repr(x)  # type: ignore


IN_PLACE = {
    "sort": "np.sort(x) returns a new one", "partition": "np.partition(x, kth) returns a new one",
    "fill": "np.full_like(x, value) makes a new one", "put": "np.where, or tm.ops.scatter_add",
    "resize": "np.resize(x, shape) returns a new one", "setflags": "it has no flags", "byteswap": "its bytes stay",
    "setfield": "it has no fields",
}  # fmt: skip


def _astype(x, dtype, order="K", casting="unsafe", subok=True, copy=True):
    if not np.can_cast(x.dtype, dtype, casting):
        raise TypeError(f"Cannot cast array data from {x.dtype!r} to {np.dtype(dtype)!r} according to the rule"
                        f" {casting!r}")  # fmt: skip
    return ops.astype(x, dtype=np.dtype(dtype))


def _attach_methods() -> None:
    for f in (
        np.sum, np.mean, np.var, np.std, np.prod, np.max, np.min, np.cumsum, np.argmax, np.argmin, np.any, np.all,
        np.ravel, np.squeeze, np.swapaxes, np.dot, np.take, np.repeat, np.trace, np.diagonal, np.clip,
        np.argsort, np.cumprod, np.choose, np.searchsorted, np.nonzero,
    ):  # fmt: skip
        setattr(Tensor, f.__name__, lambda x, *args, _f=f, **kwargs: _f(x, *args, **kwargs))
    Tensor.__getitem__ = getitem
    Tensor.__len__ = lambda x: len(x.value)
    Tensor.__iter__ = lambda x: (x[i] for i in range(len(x)))
    Tensor.__bool__ = lambda x: bool(decide(x, "a branch"))
    Tensor.flatten = ravel
    Tensor.compress = lambda x, condition, axis=None, out=None: np.compress(condition, x, axis, out)
    Tensor.astype = _astype
    for name, instead in IN_PLACE.items():
        setattr(Tensor, name, _no(f"x.{name} writes into x, and a tensor is never written to: {instead}"))
    Tensor.itemsize = property(lambda x: x.dtype.itemsize)
    Tensor.nbytes = property(lambda x: x.size * x.dtype.itemsize)
    Tensor.copy = lambda x: alias(x)
    Tensor.reshape = lambda x, *shape, **how: reshape(x, shape[0] if len(shape) == 1 else shape, **how)
    Tensor.transpose = lambda x, *axes: transpose(x, axes[0] if axes and not isinstance(axes[0], int) else axes or None)
    Tensor.conj = Tensor.conjugate = lambda x: np.conj(x) if x.dtype.kind == "c" else x
    Tensor.real, Tensor.imag = property(real), property(imag)
    Tensor.T = property(transpose)
    Tensor.mT = property(matrix_transpose)


_attach_methods()
