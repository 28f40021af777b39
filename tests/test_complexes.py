"""Complex numbers are NumPy's, and a real loss of them has the gradient that JAX has; Fourier transforms, too."""

import numpy as np
import pytest
from cases import sampled

import tinymaml as tm
from tinymaml import check_grads, value_and_grad

RNG = np.random.default_rng(0)
Z = RNG.standard_normal(5) + 1j * RNG.standard_normal(5)
X = RNG.standard_normal(5)
A = RNG.standard_normal((5, 5)) + 1j * RNG.standard_normal((5, 5))


def test_a_real_loss_of_complex_data_has_a_real_gradient():
    data = np.array([[1 + 2j, 1j]])
    value, gradient = value_and_grad(lambda w: np.mean(np.abs(data @ w) ** 4))(np.ones(2))
    np.testing.assert_allclose(value, 100, rtol=1e-14)
    np.testing.assert_allclose(gradient, np.array([280.0, 120.0]), strict=True)


def test_maml_learns_from_complex_data():
    data = A[:, :2]
    loss = lambda w, x, y: np.mean(np.abs(x @ w - y) ** 2)  # noqa: E731
    support, query = (data, Z), (data[::-1], Z)
    parts = lambda x, y: (np.concatenate([x.real, x.imag]), np.concatenate([y.real, y.imag]))  # noqa: E731
    real = lambda w, x, y: 2 * np.mean((x @ w - y) ** 2)  # noqa: E731
    for steps in (0, 1, 3):
        ours = tm.meta_value_and_grad(loss, inner_lr=0.1, inner_steps=steps)(np.ones(2), [(support, query)])
        same = tm.meta_value_and_grad(real, inner_lr=0.1, inner_steps=steps)
        theirs = same(np.ones(2), [(parts(*support), parts(*query))])
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12)


LOSSES = {
    "moduli": lambda np, z, x: np.sum(np.abs(z) ** 3),
    "real and imag": lambda np, z, x: np.sum(np.real(z) ** 2 * np.imag(z)),
    "attributes": lambda np, z, x: np.sum(z.real**2 * z.imag + (z.conj() * z).real),
    "angle": lambda np, z, x: np.sum(np.angle(z) ** 2),
    "sign": lambda np, z, x: np.sum(np.real(np.sign(z) * (1 + 2j))),
    "holomorphic": lambda np, z, x: np.sum(np.abs(np.exp(z) * np.sin(z) + np.log(z) * np.sqrt(z) - np.tanh(z) ** 3)),
    "conjugates": lambda np, z, x: np.sum(np.abs(np.conj(z) * z**2 + np.conj(np.exp(z)))),
    "real beside complex": lambda np, z, x: np.sum(np.abs(x * z + 1j * x) ** 2 + np.real(z / x)),
    "vdot": lambda np, z, x: np.abs(np.vdot(z, z * x + 1)),
    "matrices": lambda np, z, x: np.sum(np.abs(A @ z * x) ** 2),
    "einsum": lambda np, z, x: np.abs(np.einsum("i,ij,j", z, A, np.conj(z) * x)),
    "var": lambda np, z, x: np.var(z) + np.std(z * x),
    "norm": lambda np, z, x: np.linalg.norm(z * x) + np.linalg.norm(np.outer(z, z), axis=0)[1],
    "where": lambda np, z, x: np.sum(np.abs(np.where(x > 0, z, 2 * np.conj(z)))),
    "a cast": lambda np, z, x: np.sum(np.real(z * x.astype(complex)) ** 3),
    "means": lambda np, z, x: np.abs(np.mean(z) * np.sum(z * z) * np.prod(z)),
    "cumsum": lambda np, z, x: np.sum(np.abs(np.cumsum(z * x)) ** 2),
    "concatenate": lambda np, z, x: np.sum(np.abs(np.concatenate([z, x, np.stack([z, z])[0]])[::2]) ** 3),
    "fft": lambda np, z, x: np.sum(np.abs(np.fft.ifft(np.fft.fft(z) * np.fft.fft(x))) ** 2),
    "rfft": lambda np, z, x: np.sum(np.abs(np.fft.rfft(x, 8)) ** 3),
    "irfft": lambda np, z, x: np.sum(np.fft.irfft(z) ** 3),
    "power spectrum": lambda np, z, x: np.sum(np.log(1 + np.abs(np.fft.fftshift(np.fft.fft(x, norm="ortho"))) ** 2)),
}


@pytest.mark.parametrize("name", sampled((name for name in LOSSES if name != "sign"), 3))  # it is constant to JAX
def test_gradients_of_real_losses_are_those_of_jax(name):
    jax = pytest.importorskip("jax")
    f = LOSSES[name]
    jax.config.update("jax_enable_x64", True)
    try:
        value, gradient = value_and_grad(lambda z, x: f(np, z, x), (0, 1))(Z, X)
        wanted, slopes = jax.jit(jax.value_and_grad(lambda z, x: f(jax.numpy, z, x), (0, 1)))(Z, X)
        np.testing.assert_allclose(value, wanted, rtol=1e-12)
        for ours, theirs in zip(gradient, slopes, strict=True):
            np.testing.assert_allclose(ours, np.asarray(theirs), rtol=1e-9, atol=1e-10)
            assert ours.dtype == theirs.dtype
    finally:
        jax.config.update("jax_enable_x64", False)


@pytest.mark.parametrize("name", LOSSES)
def test_their_derivatives_are_numerical_ones_to_second_order(name):
    check_grads(lambda z, x: LOSSES[name](np, z, x), (Z, X), order=2)


@pytest.mark.parametrize("loss", [lambda x: np.sum(x * 1j), lambda x: np.mean(x + 0j), lambda x: np.sum(np.fft.fft(x))])
def test_a_complex_loss_is_refused(loss):
    for f in (tm.grad(loss), lambda x: tm.adapt(lambda p, y: loss(p), x, (x,), inner_lr=0.1, inner_steps=1),
              lambda x: tm.meta_loss(lambda p, y: loss(p), x, [((x,), (x,))], inner_lr=0.1)):  # fmt: skip
        with pytest.raises(TypeError, match=r"complex128.*np\.real\(z\) or np\.abs\(z\)|complex128, wanted real"):
            f(X)


def test_parts_of_real_numbers_are_theirs():
    t = tm.Tensor(X)
    assert np.real(t) is t and not np.any(np.imag(t)) and np.conj(t) is t
    slope = tm.grad(lambda x: np.sum(np.real(x) * 2 + np.imag(x) + np.angle(x)))
    np.testing.assert_array_equal(slope(X), np.full(5, 2.0))
    assert np.iscomplexobj(tm.Tensor(Z)) and np.isrealobj(t)


@pytest.mark.parametrize("f", [
    np.exp, np.abs, np.sqrt, np.conj, np.real, np.imag, np.angle, np.sign, np.square, np.var, np.std, np.linalg.norm,
    np.sum, np.mean, np.prod, np.fft.fft, np.fft.fftshift,
])  # fmt: skip
@pytest.mark.parametrize("dtype", [np.complex128, np.complex64])
def test_values_and_dtypes_are_numpys(f, dtype):
    for z in (Z, A, np.array([0, 1j, -2, 1e30 * (1 + 1j)])):
        with np.errstate(all="ignore"):
            z = z.astype(dtype)
            ours, wanted = tm.vjp(f, z)[0], f(z)
        assert ours.dtype == wanted.dtype and ours.shape == wanted.shape
        finite = np.isfinite(wanted)
        rtol = 2e-6 if dtype == np.complex64 else 1e-13
        np.testing.assert_allclose(ours[finite], wanted[finite], rtol=rtol, atol=1e-12)


def test_a_function_of_complex_numbers_runs_as_it_is_and_says_so():
    f = value_and_grad(lambda x: np.sum(np.abs(np.fft.fft(x)) ** 2))
    fast = tm.compile(f)
    with pytest.warns(tm.CompileWarning, match="<lambda> is replayed, not compiled: the primitive fft"):
        ours = fast(X)
    np.testing.assert_array_equal(ours[1], f(X)[1])
