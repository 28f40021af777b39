"""Complex numbers: real, imag, conjugate, angle.

A cotangent z̄ of z says dL = Re Σ z̄ dz (see `engine.vjp`). In a complex step every number is a real one, so that these
functions are those of real numbers (`of_complex`).
"""

from __future__ import annotations

import numpy as np

from .. import ops
from ..engine import Primitive, analytic, stop_gradient
from ..ops import as_computed
from .table import as_array, numpy_function


def _part(name: str, f, rule) -> Primitive:
    """A primitive of complex numbers, element by element: there is no machine code for these."""
    return Primitive(name, lambda z: np.array(f(z)), (rule,), shape=lambda z: z,
                     dtype=lambda z: f(np.zeros(1, z)).dtype, lowering="replayed", exact=True)  # fmt: skip


_real = _part("real", np.real, lambda g, x, z: g)
_imag = _part("imag", np.imag, lambda g, y, z: g * z.dtype.type(-1j))  # Re (−i z̄ dz) = z̄ dy
_conjugate = _part("conjugate", np.conjugate, lambda g, w, z: np.conj(g))
_angle = _part("angle", np.angle, lambda g, phi, z: g / z * z.dtype.type(-1j))  # dφ = Im dz/z


def _direction_rule(g, s, z):
    """s = z/|z|, ds = (dz − s Re s* dz) / |z|; and 0 at 0."""
    size = np.abs(z)
    zero = ops.equal(size, 0)
    return ops.where(zero, 0, (g - np.real(g * s) * np.conj(s)) / ops.where(zero, 1, size))


direction = _part("direction", np.sign, _direction_rule)


def of_complex(x) -> bool:
    """Whether x holds complex numbers that are no real ones in a complex step."""
    return x.dtype.kind == "c" and not analytic.get()


@numpy_function(np.real)
def real(val):
    val = as_array(val)
    return _real(val) if of_complex(val) else val


@numpy_function(np.imag)
def imag(val):
    val = as_array(val)
    return _imag(val) if of_complex(val) else np.zeros(val.shape, val.dtype)


@numpy_function(np.conjugate)
def conjugate(x):
    return _conjugate(x) if of_complex(x) else as_computed(np.conjugate, x)


@numpy_function(np.angle)
def angle(z, deg=False):
    """The argument of z in (−π, π], or in degrees: 0 or π for real numbers, and constant there."""
    z = as_array(z)
    phi = _angle(z if of_complex(z) else stop_gradient(z))
    return phi * (180 / np.pi) if deg else phi


numpy_function(np.iscomplexobj)(lambda x: x.dtype.kind == "c")
numpy_function(np.isrealobj)(lambda x: x.dtype.kind != "c")
