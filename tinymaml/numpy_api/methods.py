"""Methods of tensors, and what a tensor refuses: to be written to, or to be read as a number in passing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .. import ops
from ..engine import Primitive, Tensor, alias, refusal
from .complexes import imag, real
from .indexing import getitem
from .shapes import matrix_transpose, ravel, reshape, transpose
from .table import decide


def _no(message: str) -> Callable:
    def refuse(self, *args, **kwargs):
        raise refusal(TypeError(message))

    return refuse


# An argument of a program that is being recorded, for any value of it.
placeholder = Primitive("input", lambda x: x, lowering="loop", loop="{type}({})")


Tensor.__array__ = _no(
    "an array made of a tensor would be cut from the graph: use NumPy functions on the tensor, or x.value"
)
Tensor.__float__ = Tensor.__int__ = Tensor.__complex__ = Tensor.__index__ = Tensor.item = Tensor.tolist = _no(
    "a number read from a tensor is cut from the graph: x.value reads it on purpose"
)
Tensor.__setitem__ = _no("a tensor is never written to: np.where, np.concatenate or tm.ops.scatter_add make a new one")
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
    for name in ("flat", "data", "strides", "flags"):
        setattr(Tensor, name, property(_no(f"x.{name} shows the memory of an array; a tensor has x.ravel()")))
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
