"""Fourier transforms: numpy.fft on tensors.

    y = fft x,   yₖ = Σⱼ exp(−2πi jk/n) xⱼ

The matrix is symmetric, so that the rule of fft is fft, and that of ifft is ifft: a cotangent says dL = Re Σ ȳ dy.
Two primitives more are the transforms of real numbers; all others are made of these four.
"""

from __future__ import annotations

import numpy as np

from ..axes import one_axis
from ..engine import Primitive, analytic
from .table import as_array, numpy_function


def _transform(name: str, f, rule, shape, dtype) -> Primitive:
    def forward(x, **how):
        if analytic.get():
            raise TypeError(f"np.fft.{name}: its results are complex, so that there is no complex step")
        return f(x, **how)

    return Primitive(name, forward, (rule,), shape=shape, dtype=dtype, lowering="replayed")


def _complex(x: np.dtype) -> np.dtype:
    return np.fft.fft(np.zeros(1, x)).dtype


def _real(x: np.dtype) -> np.dtype:
    return np.fft.irfft(np.zeros(2, x)).dtype


def _half(shape, *, axis):
    return (*shape[:axis], shape[axis] // 2 + 1, *shape[axis + 1 :])


def _along(a: np.ndarray, axis: int, ndim: int) -> np.ndarray:
    """The vector a, along `axis` of an array with so many axes."""
    return a.reshape([-1 if i == axis else 1 for i in range(ndim)])


def _twice(n: int, dtype: np.dtype) -> np.ndarray:
    """How often the real signal of length n has each frequency: 2, except for the first, and the last of an even n."""
    weights = np.full(n // 2 + 1, 2, dtype)
    weights[0] = 1
    if n % 2 == 0:
        weights[-1] = 1
    return weights


_fft = _transform("fft", lambda x, *, axis: np.fft.fft(x, axis=axis),
                  lambda g, z, x, *, axis: _fft(g, axis=axis), lambda x, *, axis: x, _complex)  # fmt: skip
_ifft = _transform("ifft", lambda x, *, axis: np.fft.ifft(x, axis=axis),
                   lambda g, z, x, *, axis: _ifft(g, axis=axis), lambda x, *, axis: x, _complex)  # fmt: skip
# x is real:  x̄ = Re fft ȳ, with zeros for the frequencies that rfft leaves out
_rfft = _transform("rfft", lambda x, *, axis: np.fft.rfft(x, axis=axis),
                   lambda g, z, x, *, axis: np.real(_fft(_resized(g, x.shape[axis], axis), axis=axis)),
                   _half, _complex)  # fmt: skip
# x_j = 1/n Re Σₖ wₖ exp(2πi jk/n) yₖ, wₖ = `_twice`:  ȳₖ = wₖ/n (rfft x̄)ₖ*
_irfft = _transform("irfft", lambda y, *, n, axis: np.fft.irfft(y, n, axis),
                    lambda g, x, y, *, n, axis:
                        np.conj(_rfft(g, axis=axis)) * _along(_twice(n, g.dtype) / g.dtype.type(n), axis, y.ndim),
                    lambda y, *, n, axis: (*y[:axis], n, *y[axis + 1 :]), _real)  # fmt: skip


def _resized(x, n: int, axis: int):
    """x, cut or filled up with zeros at its end."""
    m = x.shape[axis]
    if n < m:
        return x[(slice(None),) * axis + (slice(n),)]
    return x if n == m else np.pad(x, [(0, n - m) if i == axis else (0, 0) for i in range(x.ndim)])


def _scaled(x, n: int, norm: str | None, backward: bool):
    """x, which has the scale of norm="backward": 1, and 1/n on the way back."""
    if norm not in (None, "backward", "ortho", "forward"):
        raise ValueError(f'norm is {norm!r}, wanted "backward", "ortho" or "forward"')
    power = {None: 0, "backward": 0, "ortho": 0.5, "forward": 1}[norm]
    return x if not power else x * float(n) ** (power if backward else -power)


def _fitted(a, n, axis: int, half: bool = False):
    """(a, n, axis): the length of the signal, and a as long as that, or its frequencies of a real one (`half`)."""
    a = as_array(a)
    axis = one_axis(axis, a.ndim)
    n = n if n is not None else 2 * (a.shape[axis] - 1) if half else a.shape[axis]
    if n < 1:
        raise ValueError(f"Invalid number of FFT data points ({n}) specified.")
    return _resized(a, n // 2 + 1 if half else n, axis), int(n), axis


@numpy_function(np.fft.fft)
def fft(a, n=None, axis=-1, norm=None):
    a, n, axis = _fitted(a, n, axis)
    return _scaled(_fft(a, axis=axis), n, norm, False)


@numpy_function(np.fft.ifft)
def ifft(a, n=None, axis=-1, norm=None):
    a, n, axis = _fitted(a, n, axis)
    return _scaled(_ifft(a, axis=axis), n, norm, True)


@numpy_function(np.fft.rfft)
def rfft(a, n=None, axis=-1, norm=None):
    a, n, axis = _fitted(a, n, axis)
    if a.dtype.kind == "c":
        raise TypeError("rfft takes real numbers, and the array is complex: use np.fft.fft")
    return _scaled(_rfft(a, axis=axis), n, norm, False)


@numpy_function(np.fft.irfft)
def irfft(a, n=None, axis=-1, norm=None):
    a, n, axis = _fitted(a, n, axis, half=True)
    return _scaled(_irfft(a, n=n, axis=axis), n, norm, True)


@numpy_function(np.fft.hfft)
def hfft(a, n=None, axis=-1, norm=None):
    """The transform of a signal that is Hermitian: real."""
    return irfft(np.conj(as_array(a)), n, axis, _SWAPPED.get(norm, norm))


@numpy_function(np.fft.ihfft)
def ihfft(a, n=None, axis=-1, norm=None):
    return np.conj(rfft(a, n, axis, _SWAPPED.get(norm, norm)))


_SWAPPED = {None: "forward", "backward": "forward", "forward": "backward"}


# ── several axes ────────────────────────────────────────────────────────────────────────────────────────────────────


def _axes(a, s, axes) -> list[tuple[int | None, int]]:
    """(length, axis) for each axis."""
    if axes is None:
        axes = range(a.ndim) if s is None else range(-len(s), 0)
    axes = [one_axis(i, a.ndim) for i in axes]
    s = [None] * len(axes) if s is None else list(s)
    if len(s) != len(axes):
        raise ValueError("Shape and axes have different lengths.")
    return [(a.shape[i] if n == -1 else n, i) for n, i in zip(s, axes, strict=True)]


def _some(axes: list) -> list:
    if not axes:
        raise IndexError("a transform of real numbers needs an axis, and there is none")
    return axes


def _over_axes(transform):
    def over(a, s=None, axes=None, norm=None):
        a = as_array(a)
        for n, axis in reversed(_axes(a, s, axes)):
            a = transform(a, n, axis, norm)
        return a

    return over


fftn = numpy_function(np.fft.fftn)(_over_axes(fft))
ifftn = numpy_function(np.fft.ifftn)(_over_axes(ifft))


@numpy_function(np.fft.rfftn)
def rfftn(a, s=None, axes=None, norm=None):
    a = as_array(a)
    *others, (n, last) = _some(_axes(a, s, axes))
    a = rfft(a, n, last, norm)
    for n, axis in reversed(others):
        a = fft(a, n, axis, norm)
    return a


@numpy_function(np.fft.irfftn)
def irfftn(a, s=None, axes=None, norm=None):
    a = as_array(a)
    *others, (n, last) = _some(_axes(a, s, axes))
    for m, axis in others:
        a = ifft(a, m, axis, norm)
    return irfft(a, None if s is None else n, last, norm)


for _numpys, _ours in ((np.fft.fft2, fftn), (np.fft.ifft2, ifftn), (np.fft.rfft2, rfftn), (np.fft.irfft2, irfftn)):
    numpy_function(_numpys)(lambda a, s=None, axes=(-2, -1), norm=None, f=_ours: f(a, s, axes, norm))


@numpy_function(np.fft.fftshift)
def fftshift(x, axes=None):
    return _shift(x, axes, lambda n: n // 2)


@numpy_function(np.fft.ifftshift)
def ifftshift(x, axes=None):
    return _shift(x, axes, lambda n: -(n // 2))


def _shift(x, axes, by):
    x = as_array(x)
    axes = range(x.ndim) if axes is None else [axes] if isinstance(axes, (int, np.integer)) else axes
    axes = [one_axis(i, x.ndim) for i in axes]
    return np.roll(x, [by(x.shape[i]) for i in axes], axes)
