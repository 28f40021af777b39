"""Cases: Fourier transforms, and complex numbers."""

import numpy as np
from cases import A, C, X, case, unary
from dtype_cases import Case, of_v

from tinymaml.numpy_api import complexes, fft


def parts(z):
    """A result as two real arrays."""
    return np.real(z), np.imag(z)


def on_curve(x):
    """Complex numbers that depend on real ones."""
    return x + 1j * (0.4 - x * x)


def of_complex(key, f=None, x=X):
    """f of complex numbers, as a case of real ones; no complex step can see it."""
    return case(key, lambda x: parts((f or key)(on_curve(x))), x, analytic=False)


def of_primitive(p, reference, to_complex=True, **how):
    """A primitive itself."""
    of = on_curve if to_complex else lambda x: x
    wanted = lambda x: parts(reference(of(x)))  # noqa: E731
    return case(p.name, lambda x: parts(p(of(x), **how)), X, reference=wanted, analytic=False)


SMOOTH = [
    of_primitive(complexes._real, np.real),
    of_primitive(complexes._imag, np.imag),
    of_primitive(complexes._conjugate, np.conj),
    of_primitive(complexes._angle, np.angle),
    of_primitive(complexes.direction, np.sign),
    of_primitive(fft._fft, lambda z: np.fft.fft(z, axis=0), axis=0),
    of_primitive(fft._ifft, np.fft.ifft, axis=1),
    of_primitive(fft._rfft, np.fft.rfft, to_complex=False, axis=1),
    of_primitive(fft._irfft, lambda z: np.fft.irfft(z, 5), n=5, axis=1),
    *(of_complex(f) for f in (np.real, np.imag, np.conjugate, np.angle, np.sign, np.absolute)),
    unary(np.real, X), unary(np.conjugate, X),
    *(of_complex(f) for f in (
        np.fft.fft, np.fft.ifft, np.fft.irfft, np.fft.hfft, np.fft.fft2, np.fft.ifft2, np.fft.fftn, np.fft.ifftn,
        np.fft.irfft2, np.fft.irfftn,
    )),
    *(case(f, lambda x, f=f: parts(f(x)), X, analytic=False) for f in (
        np.fft.rfft, np.fft.ihfft, np.fft.rfft2, np.fft.rfftn,
    )),
    of_complex(np.fft.irfftn, lambda z: np.fft.irfftn(z, (4, 3), (0, 1), "ortho")),
    of_complex(np.fft.fftn, lambda z: np.fft.fftn(z, (3, 2), (2, 0), "forward"), C),
    of_complex(np.fft.fft, lambda z: np.fft.fft(z, 5, 0, "ortho"), C),
    of_complex(np.fft.ifft, lambda z: np.fft.ifft(z, 2), A),
    unary(np.fft.fftshift, X), case(np.fft.ifftshift, lambda x: np.fft.ifftshift(x, 1), X),
]  # fmt: skip
STEPS = []
PLAIN = [case(np.isrealobj, np.isrealobj, X), case(np.iscomplexobj, np.iscomplexobj, X)]


def of_m(f, **how):
    return [Case(lambda v, m: f(m), **how)]


ONE = {
    **{f: of_v(f, exact=True) for f in (np.real, np.imag, np.conjugate)},
    np.angle: of_v(np.angle, machine=False),
    np.isrealobj: of_v(lambda v: (v, np.isrealobj(v))[0], exact=True),
    **{f: of_m(lambda m, f=f: np.abs(f(m)), machine=False) for f in (
        np.fft.fft, np.fft.ifft, np.fft.rfft, np.fft.ihfft, np.fft.fft2, np.fft.ifft2, np.fft.fftn, np.fft.ifftn,
        np.fft.rfft2, np.fft.rfftn,
    )},
    **{f: of_m(f, machine=False) for f in (np.fft.irfft, np.fft.hfft, np.fft.irfft2, np.fft.irfftn)},
    **{f: of_m(f, exact=True) for f in (np.fft.fftshift, np.fft.ifftshift)},
}
TWO = {}
