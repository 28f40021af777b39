"""Methods of tensors, and what a tensor refuses: to be written to, or to be read as a number in passing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType

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


# Functions of scipy.special that are no ufuncs, so that NumPy's protocols do not reach them → what takes tensors
OF_SCIPY = {
    "logsumexp": "tm.nn.logsumexp", "softmax": "tm.nn.softmax", "log_softmax": "tm.nn.log_softmax",
    "polygamma": "tinymaml.numpy_api.special.polygamma", "multigammaln": "tinymaml.numpy_api.special.multigammaln",
    "factorial": "scipy.special.gamma(x + 1)", "comb": "scipy.special.gammaln",
}  # fmt: skip


def _no_array(self, *args, **kwargs):
    """An array is asked for: by a function of scipy.special, or by anything else."""
    frame: FrameType | None = sys._getframe(1)
    for _ in range(5):  # functions of SciPy between its own and this one
        name = frame.f_code.co_name if frame else ""
        if frame and name in OF_SCIPY and str(frame.f_globals.get("__name__")).startswith("scipy.special"):
            raise refusal(TypeError(f"scipy.special.{name} takes no tensors: {OF_SCIPY[name]} does"))
        frame = frame and frame.f_back
    raise refusal(TypeError(
        "an array made of a tensor would be cut from the graph: use NumPy functions on the tensor, or x.value"
    ))  # fmt: skip


Tensor.__array__ = _no_array
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
