"""Faults that people ran into in the reference: each input with the right value, and some of its siblings.

What people ran into in compiled programs is in `test_dtypes`, `test_frozen` and `test_guards`; of tasks, parameters and
errors in `test_inputs`, `test_conversions` and `test_diagnose`; of runs in `test_reliability`.
"""

import warnings
from fractions import Fraction

import numpy as np
import pytest

import tinymaml as tm
from tinymaml import check_grads, grad, value_and_grad

INF = np.inf


def value_and_slopes(f, *args):
    with np.errstate(all="ignore"):
        return value_and_grad(f, tuple(range(len(args))))(*args)


# ── numbers that were wrong ─────────────────────────────────────────────────────────────────────────────────────────

F32 = np.float32
NUMBERS = {  # f, arguments, the value, the slopes
    "hypot of large float32": (np.hypot, (F32(3e20), F32(4e20)), 5e20, (0.6, 0.8)),
    "hypot of small": (np.hypot, (0.0, 1e-30), 1e-30, (0.0, 1.0)),
    "hypot of large": (np.hypot, (3e200, 4e200), 5e200, (0.6, 0.8)),
    "hypot of tiny": (np.hypot, (3e-320, 4e-320), None, (0.6, 0.8)),
    "cosh near its bound": (np.cosh, (710.2,), np.cosh(710.2), (np.sinh(710.2),)),
    "cosh of tiny": (np.cosh, (1e-17,), 1.0, (1e-17,)),
    "sinh near its bound": (np.sinh, (710.0,), np.sinh(710.0), (np.cosh(710.0),)),
    "logaddexp of infinity": (np.logaddexp, (INF, 1.0), INF, (1.0, 0.0)),
    "logaddexp of −infinities": (np.logaddexp, (-INF, -INF), -INF, (0.5, 0.5)),
    "mean of float16 ones": (np.mean, (np.ones(70_000, np.float16),), 1.0, None),
    "mean of float16 thousands": (np.mean, (np.full(100, 1000, np.float16),), 1000.0, None),
    "a product that must not overflow": (np.prod, (np.array([1e200, 1e-200, 1e200, 1e-200]),), 1.0,
                                         (np.array([1e-200, 1e200, 1e-200, 1e200]),)),
    "norm at 0, squared": (lambda x: np.linalg.norm(x) ** 2, (np.zeros(3),), 0.0, (np.zeros(3),)),
    "a bell of the norm at 0": (lambda x: np.exp(-np.linalg.norm(x) ** 2), (np.zeros(3),), 1.0, (np.zeros(3),)),
    "float32 to the power of float64": (np.power, (F32(0.3), 0.7), float(F32(0.3)) ** 0.7,
                                        (None, float(F32(0.3)) ** 0.7 * np.log(float(F32(0.3))))),
    "0 ** 0": (np.power, (0.0, 0.0), 1.0, (0.0, 0.0)),
    "(−2) ** 3": (lambda x: x**3, (-2.0,), -8.0, (12.0,)),
    "0 ** 2": (lambda x: x**2.0, (0.0,), 0.0, (0.0,)),
    "0 ** 1": (lambda x: x**1.0, (0.0,), 0.0, (1.0,)),
    "tanh of large": (np.tanh, (400.0,), 1.0, (0.0,)),
    "arctan of large": (np.arctan, (1e200,), np.pi / 2, (0.0,)),
    "expm1 of tiny": (np.expm1, (1e-18,), 1e-18, (1.0,)),
    "log1p of tiny": (np.log1p, (1e-18,), 1e-18, (1.0,)),
    "mean of |x w|⁴": (lambda w: np.mean(np.abs(np.array([[1 + 2j, 1j]]) @ w) ** 4), (np.ones(2),), 100.0,
                       (np.array([280.0, 120.0]),)),
}  # fmt: skip


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("compiled", [False, True])
def test_a_number_that_was_wrong_is_right(name, compiled):
    f, args, value, slopes = NUMBERS[name]
    both = value_and_grad(f, tuple(range(len(args))))
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # complex numbers and float16 are replayed
        ours, gradient = (tm.compile(both) if compiled else both)(*args)
    eps = np.finfo(ours.dtype).eps
    if value is not None:
        np.testing.assert_allclose(ours, value, rtol=8 * eps, atol=0)
    for got, wanted in zip(gradient, slopes or [None] * len(gradient), strict=True):
        if wanted is not None:
            np.testing.assert_allclose(got, wanted, rtol=16 * np.finfo(got.dtype).eps, atol=1e-300)


def test_logarithms_of_powers_of_ten_are_whole():
    powers = 10.0 ** np.arange(309)
    f = lambda x: np.floor(np.log10(x))  # noqa: E731
    for g in (lambda x: tm.vjp(f, x)[0], tm.compile(f)):
        np.testing.assert_array_equal(g(powers), f(powers))
    assert f(1000.0) == 3 == tm.vjp(f, 1000.0)[0]


@pytest.mark.parametrize(("x", "y"), [(0.0, 1.0), (0.0, 2.0), (0.5, 0.0), (2.0, 1.0), (0.0, 3.0)])
def test_mixed_second_derivatives_of_a_power_are_the_same(x, y):
    slope = grad(np.power, (0, 1))
    with np.errstate(all="ignore"):
        by_x = grad(lambda y: slope(x, y)[0])(y)
        by_y = grad(lambda x: slope(x, y)[1])(x)
    np.testing.assert_array_equal(by_x, by_y)
    if x == 0 and y == 1:
        assert by_x == -INF


# ── integers, and what NumPy refuses ────────────────────────────────────────────────────────────────────────────────

X = np.array([3.0, 0.5, -5.0])


@pytest.mark.parametrize("f", [
    lambda x: np.prod((x > 0) + (x < 1)), lambda x: np.linalg.norm(np.array([200, 100], np.int32) + 0 * np.argmax(x)),
    lambda x: np.einsum("ij->i", np.stack([x > 0, x > 1])), lambda x: np.sum(x * ((x > 0) + (x < 1))),
    lambda x: np.abs(x > 0), lambda x: x ** np.array([True, False, True]), lambda x: np.clip(x, 0, np.uint8(2)),
    lambda x: np.minimum(x, np.array([1, 2, 3], np.uint8)), lambda x: np.maximum(x > 0, x > 1),
])  # fmt: skip
def test_integers_and_booleans_are_numpys(f):
    ours, theirs = tm.vjp(f, X)[0], np.asarray(f(X))
    assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
    np.testing.assert_allclose(ours, theirs, rtol=1e-15)


M = np.arange(6.0).reshape(2, 3)


@pytest.mark.parametrize("f", [
    lambda x: np.moveaxis(x, (0, 1), (0, 0)), lambda x: np.diff(x, n=-1),
    lambda x: np.linalg.norm(x[None], axis=(0, 1, 2)), lambda x: np.reshape(x, (2.0, 3)), lambda x: -(x > 0),
    lambda x: np.reshape(x, (4, 2)), lambda x: np.sum(x, 2),
    lambda x: np.sum(x, (0, 0)), lambda x: np.concatenate([x, x[0]]), lambda x: x[2], lambda x: x[0, 1.0],
    lambda x: np.squeeze(x, 0), lambda x: np.transpose(x, (0, 0)), lambda x: x @ x, lambda x: np.stack([x, x[0]]),
    lambda x: (x > 0) - (x > 1), lambda x: np.expand_dims(x, (0, 0)), lambda x: np.swapaxes(x, 0, 5), lambda x: x << 1,
])  # fmt: skip
def test_what_numpy_refuses_is_refused(f):
    with pytest.raises((TypeError, ValueError, IndexError)) as theirs:
        f(M)
    with pytest.raises((TypeError, ValueError, IndexError)) as ours:
        tm.vjp(f, M)
    assert issubclass(theirs.type, ours.type) or issubclass(ours.type, theirs.type)


def test_keywords_of_methods_are_numpys():
    t = lambda f: tm.vjp(f, M)[0]  # noqa: E731
    np.testing.assert_array_equal(t(lambda x: x.reshape((3, 2), order="F")), M.reshape((3, 2), order="F"))
    np.testing.assert_array_equal(t(lambda x: x.astype(np.float32, copy=False)), M.astype(np.float32))
    np.testing.assert_array_equal(t(lambda x: x.argsort()), M.argsort())
    for f in (lambda x: x % 2, lambda x: x // 2, lambda x: 7 % (x + 1), lambda x: divmod(x, 2)[0], lambda x: x.round(1),
              lambda x: round(x[0, 1]), lambda x: x.conj()):  # fmt: skip
        np.testing.assert_array_equal(t(f), f(M))
    np.testing.assert_array_equal(grad(lambda x: np.sum(x % 2 + 3 * (x // 2)))(M + 0.25), np.ones((2, 3)))
    with pytest.raises(NotImplementedError, match=r"np\.add\.at .*scatter_add"):
        grad(lambda x: np.add.at(np.zeros(3), [0], x))(1.0)


def test_sympy_and_fractions_are_no_constants():
    for constant in (Fraction(1, 3), np.array([Fraction(1, 3)] * 3), "2", object()):
        with pytest.raises(TypeError, match="wanted"):
            grad(lambda x, constant=constant: np.sum(x * constant))(X)


# ── false alarms ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("f", [
    lambda x: np.std(np.stack([x, x[::-1]]), axis=0), lambda x: np.sqrt(x * x),
    lambda x: np.sum(np.exp(x) / np.sum(np.exp(x))), lambda x: np.sum(tm.nn.softmax(x, 0)),
])  # fmt: skip
def test_no_false_alarm_where_a_derivative_is_zero(f):
    for seed in range(15):
        check_grads(f, (np.random.default_rng(seed).standard_normal(4),), order=2, seed=seed)
