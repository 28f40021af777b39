"""Methods of tensors, and what a tensor refuses: to be written to, or to be read as a number in passing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

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


def _attach_methods() -> None:
    for f in (
        np.sum, np.mean, np.var, np.std, np.prod, np.max, np.min, np.cumsum, np.argmax, np.argmin, np.any, np.all,
        np.ravel, np.squeeze, np.swapaxes, np.dot, np.take, np.repeat, np.trace, np.diagonal, np.clip,
    ):  # fmt: skip
        setattr(Tensor, f.__name__, lambda x, *args, _f=f, **kwargs: _f(x, *args, **kwargs))
    Tensor.__getitem__ = getitem
    Tensor.__len__ = lambda x: len(x.value)
    Tensor.__iter__ = lambda x: (x[i] for i in range(len(x)))
    Tensor.__bool__ = lambda x: bool(decide(x, "a branch"))
    Tensor.flatten = ravel
    Tensor.copy = lambda x: alias(x)
    Tensor.reshape = lambda x, *shape: reshape(x, shape[0] if len(shape) == 1 else shape)
    Tensor.transpose = lambda x, *axes: transpose(x, axes[0] if axes and not isinstance(axes[0], int) else axes or None)
    Tensor.conj = Tensor.conjugate = lambda x: np.conj(x) if x.dtype.kind == "c" else x
    Tensor.real, Tensor.imag = property(real), property(imag)
    Tensor.T = property(transpose)
    Tensor.mT = property(matrix_transpose)


_attach_methods()
