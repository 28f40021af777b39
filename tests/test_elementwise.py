"""Functions of each element: at kinks, zeros and infinities, beside NumPy and JAX; what is refused; what is exact."""

import itertools
import operator

import numpy as np
import pytest
from cases import sampled
from hypothesis import given, settings
from hypothesis import strategies as st

import tinymaml as tm
from tinymaml import check_grads, grad, hvp, value_and_grad
from tinymaml.engine import Tensor, value_of
from tinymaml.numpy_api import NUMPY
from tinymaml.programs import record

INF, NAN = np.inf, np.nan
ignoring = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def slopes(f, *args):
    return [grad(lambda *x: np.sum(f(*x)), i)(*args) for i in range(len(args))]


# ── names ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", [
    "acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "pow", "bitwise_invert", "bitwise_not", "mod", "abs",
    "bitwise_left_shift", "bitwise_right_shift", "true_divide", "conj", "around", "radians", "degrees",
])  # fmt: skip
def test_other_names_of_numpys_work(name):
    assert getattr(np, name) in NUMPY


@pytest.mark.parametrize("f", [
    lambda t: t % 2, lambda t: 7 % t, lambda t: t // 2, lambda t: 7 // t, lambda t: divmod(t, 2),
    lambda t: divmod(7, t), lambda t: np.array([5.0, -5, 5]) % t, lambda t: np.float64(5) // t,
    lambda t: t % [1.0, 2.0, 3.0], lambda t: operator.mod(t, t + 0.4),
])  # fmt: skip
def test_operators_are_numpys(f):
    x = np.array([3.7, -1.2, 2.5])
    ours, wanted = f(Tensor(x)), f(x)
    np.testing.assert_array_equal([value_of(y) for y in ours], [*wanted])


def test_python_rounds_tensors():
    x = np.array([2.5, -1.234, 3.5])
    np.testing.assert_array_equal(round(Tensor(x)).value, np.round(x))
    np.testing.assert_array_equal(round(Tensor(x), 2).value, np.round(x, 2))
    np.testing.assert_array_equal(grad(lambda x: np.sum(x * round(x, 1)))(x), np.round(x, 1))
    k = np.array([15, 25, -35])
    np.testing.assert_array_equal(round(Tensor(k), -1).value, np.round(k, -1))


def test_shifts_are_numpys():
    k = np.array([1, 2, 12], np.uint8)
    for f in (lambda k: k << 3, lambda k: k >> 1, lambda k: 3 << k, lambda k: 200 >> k):
        ours = f(Tensor(k))
        np.testing.assert_array_equal(ours.value, f(k), strict=True)


# ── values that were wrong, or are easily so ────────────────────────────────────────────────────────────────────────

TENS = 10.0 ** np.arange(-307, 309)
TWOS = 2.0 ** np.arange(-1074, 1024)
EXACT = {
    "powers of ten": (np.log10, TENS), "powers of two": (np.log2, TWOS), "two to integers": (np.exp2, np.log2(TWOS)),
    "roots of squares": (np.sqrt, np.arange(1000.0) ** 2), "powers": (lambda x: x**3, np.arange(-99.0, 99)),
    "powers with a negative base": (lambda x: x ** np.float64(3), np.arange(-99.0, 99)),
    "inverse functions at 1": (lambda x: np.stack([np.arcsin(x), np.arccos(x), np.arctan2(x, x)]), np.array([1.0])),
    "rounded": (lambda x: np.round(x * 0.5), np.arange(-9.0, 9)),
    "sinh and cosh that fit": (lambda x: np.stack([np.sinh(x), np.cosh(x)]), np.array([710.0, -710.2, 1e-300])),
    "hypot": (lambda x: np.hypot(x, 4 * x / 3), np.array([3e200, 3e-200, 3.0])),
    "hypot with 0": (lambda x: np.hypot(0 * x, x), np.array([1e-30, 1e30])),
    "logaddexp2 of equals": (lambda x: np.logaddexp2(x, x), np.arange(-9.0, 9)),
}  # fmt: skip


@pytest.mark.parametrize("what", EXACT)
def test_what_numpy_has_exactly_is_exact(what):
    f, x = EXACT[what]
    np.testing.assert_array_equal(f(Tensor(x)).value, f(x))
    np.testing.assert_array_equal(record(f, x)(x), f(x))


@pytest.mark.parametrize("what", EXACT)
def test_it_is_exact_in_machine_code(what):
    pytest.importorskip("numba")
    f, x = EXACT[what]
    ours = tm.compile(lambda x: f(x))(x)
    np.testing.assert_allclose(ours, f(x), rtol=2.3e-16)  # one rounding
    if what in ("powers of ten", "powers of two", "two to integers"):
        np.testing.assert_array_equal(ours, f(x))


AWKWARD = [0.0, -0.0, 1.0, -1.0, 0.3, 0.1, -0.3, 2.5, -7.0, 1e300, -1e-300, 5e-324, INF, -INF, NAN, 3.0, 1e16]


@settings(max_examples=30)
@given(
    st.lists(st.one_of(st.sampled_from(AWKWARD), st.floats()), min_size=8, max_size=8),
    st.lists(st.one_of(st.sampled_from(AWKWARD), st.floats()), min_size=8, max_size=8),
)
def test_remainders_are_numpys_for_any_numbers(x, y):
    x, y = np.array(x), np.array(y)
    with np.errstate(all="ignore"):
        for f in (np.remainder, np.floor_divide, np.fmod, np.copysign, np.fmax, np.fmin, np.heaviside):
            np.testing.assert_array_equal(f(Tensor(x), y).value, f(x, y))
            np.testing.assert_array_equal(record(f, x, y)(x, y), f(x, y))
        np.testing.assert_allclose(np.float_power(Tensor(x), y).value, np.float_power(x, y), rtol=1e-14)
        for f in (np.modf, np.frexp):
            for ours, wanted in zip(f(Tensor(x)), f(x), strict=True):
                there = np.isfinite(x)
                np.testing.assert_array_equal(ours.value[there], wanted[there])
                np.testing.assert_array_equal(np.signbit(ours.value[there]), np.signbit(wanted[there]))
        for f in (np.nan_to_num, np.round, np.fix, np.isposinf, np.isneginf, lambda x: np.nan_to_num(x, True, -1, 2)):
            np.testing.assert_array_equal(f(Tensor(x)).value, f(x))
        for how in ({}, {"equal_nan": True}, {"rtol": 0.5, "atol": 0}):
            np.testing.assert_array_equal(np.isclose(Tensor(x), y, **how).value, np.isclose(x, y, **how))
            np.testing.assert_array_equal(np.isclose(x, Tensor(x), **how).value, np.isclose(x, x, **how))


def test_modf_and_frexp_of_what_is_not_finite():
    x = np.array([INF, -INF, NAN])
    for f in (np.modf, np.frexp):
        for ours, wanted in zip(f(Tensor(x)), f(x), strict=True):
            np.testing.assert_array_equal(ours.value, wanted)


# ── slopes at kinks, zeros and infinities ───────────────────────────────────────────────────────────────────────────

# f, point, slopes
KINKS = [
    (np.fmax, (1.0, 1.0), (0.5, 0.5)), (np.fmax, (1.0, NAN), (1, 0)), (np.fmax, (NAN, 2.0), (0, 1)),
    (np.fmin, (1.0, 1.0), (0.5, 0.5)), (np.fmin, (1.0, NAN), (1, 0)), (np.fmin, (1.0, 2.0), (1, 0)),
    (np.remainder, (5.0, 2.0), (1, -2)), (np.remainder, (-5.0, 2.0), (1, 3)), (np.remainder, (4.0, 2.0), (1, -2)),
    (np.remainder, (5.0, -2.0), (1, 3)), (np.remainder, (5.0, INF), (1, 0)), (np.remainder, (-5.0, INF), (1, 1)),
    (np.fmod, (5.0, 2.0), (1, -2)), (np.fmod, (-5.0, 2.0), (1, 2)), (np.fmod, (0.3, 0.1), (1, -2)),
    (np.floor_divide, (5.0, 2.0), (0, 0)), (np.copysign, (-3.0, 2.0), (-1, 0)), (np.copysign, (3.0, -2.0), (-1, 0)),
    (np.copysign, (0.0, -2.0), (0, 0)), (np.copysign, (3.0, -0.0), (-1, 0)), (np.heaviside, (0.0, 0.3), (0, 1)),
    (np.heaviside, (1.0, 0.3), (0, 0)), (lambda x: np.nan_to_num(x), (NAN,), (0,)),
    (lambda x: np.nan_to_num(x), (INF,), (0,)), (lambda x: np.nan_to_num(x), (2.0,), (1,)),
    (lambda x: np.modf(x)[0], (-2.0,), (1,)), (lambda x: np.modf(x)[0], (INF,), (0,)),
    (lambda x: np.modf(x)[1], (2.5,), (0,)), (lambda x: np.frexp(x)[0], (8.0,), (1 / 16,)),
    (lambda x: np.ldexp(x, 3), (1.5,), (8,)), (np.cbrt, (-8.0,), (1 / 12,)), (np.cbrt, (0.0,), (INF,)),
    (np.sinc, (0.0,), (0,)), (np.sinc, (1e-9,), (-1e-9 * np.pi**2 / 3,)), (np.i0, (0.0,), (0,)),
    (np.arcsin, (1.0,), (INF,)), (np.arccos, (1.0,), (-INF,)), (np.arccosh, (1.0,), (INF,)),
    (np.arctanh, (1.0,), (INF,)),
    (np.arcsinh, (1e200,), (1e-200,)), (np.arcsinh, (-1e-300,), (1,)), (np.arccosh, (1e200,), (1e-200,)),
    (np.arctan2, (0.0, 1.0), (1, 0)), (np.arctan2, (3e200, 4e200), (1.6e-201, -1.2e-201)),
    (np.arctan2, (0.0, -1.0), (-1, 0)), (np.arctan2, (0.0, 0.0), (NAN, NAN)), (np.hypot, (0.0, 0.0), (0, 0)),
    (np.hypot, (0.0, 1e-30), (0, 1)), (np.hypot, (3e200, 4e200), (0.6, 0.8)),
    (np.logaddexp, (INF, 1.0), (1, 0)), (np.logaddexp, (1.0, INF), (0, 1)), (np.logaddexp, (INF, INF), (0.5, 0.5)),
    (np.logaddexp, (-INF, -INF), (0.5, 0.5)), (np.logaddexp, (-INF, 1.0), (0, 1)), (np.logaddexp, (800.0, 1.0), (1, 0)),
    (np.logaddexp2, (INF, 1.0), (1, 0)), (np.logaddexp2, (-INF, -INF), (0.5, 0.5)),
    (np.logaddexp2, (3.0, 3.0), (0.5, 0.5)),
    (np.cosh, (1e-17,), (1e-17,)), (np.cosh, (710.2,), (np.sinh(710.2),)), (np.sinh, (710.0,), (np.cosh(710.0),)),
    (np.expm1, (-INF,), (0,)), (np.expm1, (1e-17,), (1,)), (np.log1p, (INF,), (0,)), (np.log1p, (-1.0,), (INF,)),
    (np.tanh, (INF,), (0,)), (np.tanh, (1e-300,), (1,)), (np.arctan, (INF,), (0,)), (np.arctan, (1e200,), (0,)),
    (np.exp2, (-INF,), (0,)), (np.sqrt, (INF,), (0,)), (np.log, (1e-300,), (1e300,)), (np.log2, (INF,), (0,)),
    (np.power, (0.0, 1.0), (1, 0)), (np.power, (0.0, 0.0), (0, 0)), (np.power, (0.0, 2.0), (0, 0)),
    (np.power, (0.0, 0.5), (INF, 0)), (np.power, (0.0, -1.0), (-INF, -INF)), (np.power, (2.0, 0.0), (0, np.log(2))),
    (np.power, (-2.0, 3.0), (12, NAN)), (lambda x: x**0, (0.0,), (0,)), (lambda x: x**1, (0.0,), (1,)),
    (lambda y: 0.0**y, (2.0,), (0,)), (lambda y: 0**y, (0.0,), (0,)), (lambda x: x**3, (-2.0,), (12,)),
    (lambda x: x ** np.array([2, 3]), (-2.0,), (8,)), (lambda x: x**-1, (-2.0,), (-0.25,)),
]  # fmt: skip


@ignoring
@pytest.mark.parametrize(("f", "point", "wanted"), KINKS, ids=lambda x: getattr(x, "__name__", ""))
def test_slopes_at_kinks(f, point, wanted):
    np.testing.assert_allclose(slopes(f, *point), wanted, rtol=1e-14)


@ignoring
def test_slopes_at_kinks_are_the_same_replayed():
    for f, point, wanted in KINKS:
        loss = grad(lambda *x, f=f: np.sum(f(*x)), tuple(range(len(point))))
        arrays = [np.array(x) for x in point]
        np.testing.assert_allclose(record(loss, *arrays)(*arrays), wanted, rtol=1e-14)


@ignoring
@pytest.mark.parametrize("x", [0.0, 2.0, 0.5, 1e-300])
@pytest.mark.parametrize("y", [0.0, 1.0, 2.0, 0.5, -1.0])
def test_mixed_second_derivatives_of_a_power_are_the_same(x, y):
    """∂²/∂x∂y xʸ = xʸ⁻¹ (1 + y log x); at (0, 1) it is −∞."""
    power = lambda x, y: x**y  # noqa: E731
    by_y = grad(lambda y: grad(power)(np.array(x), y))(np.array(y))
    by_x = grad(lambda x: grad(power, 1)(x, np.array(y)))(np.array(x))
    np.testing.assert_allclose(by_x, by_y, rtol=1e-13)
    if x > 1e-9:
        np.testing.assert_allclose(by_x, x ** (y - 1) * (1 + y * np.log(x)), rtol=1e-12)
    if (x, y) == (0, 1):
        assert by_x == by_y == -INF


def test_the_exponent_of_float32_has_a_slope_of_float64():
    x, y = np.array([1.3], np.float32), np.array([2.1])
    slope = grad(lambda y: np.sum(x**y))(y)
    np.testing.assert_allclose(slope, x.astype(float) ** y * np.log(x.astype(float)), rtol=1e-15)


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("x", [0.0, 1e-9, -1e-3, 0.3, 0.64, -0.7, 1.0, 2.6, -40.3])
def test_derivatives_of_sinc_are_moments(x, order):
    """dⁿ/dxⁿ sinc x = ∫ (πt)ⁿ cos(πxt + nπ/2) dt over 0 … 1, by Gauss and Legendre."""
    nodes, weights = np.polynomial.legendre.leggauss(200)
    t, w = (nodes + 1) / 2, weights / 2
    f = np.sinc
    for _ in range(order):
        f = grad(lambda x, f=f: f(x))
    wanted = np.sum(w * (np.pi * t) ** order * np.cos(np.pi * x * t + order * np.pi / 2))
    np.testing.assert_allclose(f(np.array(x)), wanted, rtol=1e-10, atol=1e-11 if abs(x) > 1e-2 else 1e-13)


def test_derivatives_of_i0_are_bessel_functions():
    special = pytest.importorskip("scipy.special")
    x = np.array([-700.0, -30.0, -1.0, 0.0, 1e-8, 0.5, 7.0, 650.0])
    first = lambda x: grad(lambda x: np.sum(np.i0(x)))(x)  # noqa: E731
    np.testing.assert_allclose(first(x), special.iv(1, x), rtol=1e-13)
    second = grad(lambda x: np.sum(first(x)))(x)
    np.testing.assert_allclose(second, (special.iv(0, x) + special.iv(2, x)) / 2, rtol=1e-13)


SCAN = [0.0, 1e-300, 1e-17, -1e-8, 0.3, -0.9, 1.0, 1.5, 20.0, -40.0, 700.0, 1e5, 1e150, INF, -INF]
# Where JAX loses digits, or the slope at 0: a condition of |x|
LOSES = {"tanh": lambda x: x < 1e-16 or x > 10, "arctanh": lambda x: x < 1e-7, "arctan": lambda x: x > 10,
         "arcsinh": lambda x: x > 10, "expm1": lambda x: x > 30, "sinc": lambda x: x < 1e-7 or x > 10,
         "i0": lambda x: x < 1e-7, "arccosh": lambda x: x > 1e100}  # fmt: skip


@ignoring
@pytest.mark.parametrize("name", sampled((
    "arcsin", "arccos", "arctan", "arcsinh", "arccosh", "arctanh", "cbrt", "deg2rad", "rad2deg", "exp", "expm1", "log",
    "log1p", "log2", "log10", "exp2", "sin", "cos", "tan", "sinh", "cosh", "tanh", "sqrt", "square", "sinc", "i0",
    "floor", "ceil", "trunc", "rint", "round", "sign", "nan_to_num",
), 2))  # fmt: skip
def test_slopes_and_second_derivatives_are_jaxs(name):
    jax = pytest.importorskip("jax")
    f, theirs = getattr(np, name), getattr(jax.numpy, name)
    with jax.enable_x64(True):
        # one program for both: by itself JAX would compile every operation
        both = jax.jit(lambda x: (jax.grad(theirs)(x), jax.grad(jax.grad(theirs))(x)))
        for x in SCAN:
            first, (wanted, wanted_second) = slopes(f, x)[0], both(x)
            second = hvp(lambda x: np.sum(f(x)), (np.array(x),), (np.ones(()),))[0]
            for ours, jaxs in ((first, wanted), (second, wanted_second)):
                if np.isnan(f(x)) or not np.isfinite(jaxs) or (name in LOSES and LOSES[name](abs(x))):
                    continue
                np.testing.assert_allclose(ours, jaxs, rtol=1e-9, atol=1e-300, err_msg=f"{name} at {x}")


def test_slopes_in_half_precision_stay_there():
    x = np.array([0.5, 0.25], np.float16)
    for f in (np.arcsin, np.tanh, np.cbrt, np.sinc, lambda x: np.logaddexp(x, 1), lambda x: x**2.5, lambda x: x % 0.3,
              lambda x: np.copysign(x, -1), lambda x: np.hypot(x, 1), np.i0):  # fmt: skip
        value, slope = value_and_grad(lambda x, f=f: np.sum(f(x)))(x)
        assert (value.dtype, slope.dtype) == (f(x).dtype, np.float16)


# ── the same in every form ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("f", [
    np.remainder, np.fmod, np.arctan2, np.fmax, np.copysign, np.heaviside, np.logaddexp2, np.power, np.hypot,
])  # fmt: skip
@pytest.mark.parametrize("shapes", [((3,), (2, 1)), ((), (2, 3)), ((2, 3), ()), ((0,), (1,)), ((2, 0), (0,)), ((), ())])
def test_broadcasting_empty_and_0_d(f, shapes):
    rng = np.random.default_rng(0)
    x, y = (rng.uniform(0.3, 2, shape) for shape in shapes)
    ours = f(Tensor(x), Tensor(y))
    np.testing.assert_array_equal(ours.value, f(x, y))
    for g, a in zip(slopes(f, x, y), (x, y), strict=True):
        assert g.shape == a.shape
    if x.size and y.size:
        check_grads(f, (x, y), order=2)


def test_lists_are_arrays():
    x = Tensor(np.array([1.5, -2.5]))
    for f in (np.fmax, np.arctan2, np.copysign, np.heaviside, np.isclose, np.float_power, np.array_equiv):
        with np.errstate(invalid="ignore"):
            ours, wanted = f(x, [1, 2]), f(x.value, [1, 2])
        np.testing.assert_array_equal(value_of(ours), wanted)


# ── branches ────────────────────────────────────────────────────────────────────────────────────────────────────────

X = np.array([1.0, -2.0])
QUESTIONS = [
    (lambda x: np.allclose(x, X + 1e-12), True),
    (lambda x: np.allclose(x, 3), False),
    (lambda x: np.array_equal(x, X), True),
    (lambda x: np.array_equal(x, X[:1]), False),
    (lambda x: np.array_equiv(x, [X, X]), True),
    (lambda x: np.array_equiv(x, np.ones(3)), False),
]


@pytest.mark.parametrize(("ask", "answer"), QUESTIONS)
def test_questions_about_values_are_answered_outside_a_recording(ask, answer):
    assert ask(Tensor(X)) is answer
    np.testing.assert_array_equal(grad(lambda x: np.sum(2 * x) if ask(x) else np.sum(3 * x))(X), [3 - answer] * 2)


@pytest.mark.parametrize("ask", [QUESTIONS[i][0] for i in (0, 1, 2, 4)])
def test_in_a_recording_they_are_refused_as_other_branches_are(ask):
    with pytest.raises(TypeError, match=r"np\.(allclose|array_equal|array_equiv) depends on a value"):
        record(lambda x: x * 2 if ask(x) else x, X)


@pytest.mark.parametrize("f", [
    lambda x: np.isclose(x, [1, 2]), lambda x: x % 2, lambda x: np.round(x, 1), lambda x: np.fmax(x, 0.5),
    lambda x: np.nan_to_num(x), lambda x: np.divmod(x, 2), np.modf, lambda x: np.arctan2(x, 2), lambda x: x // 0.3,
])  # fmt: skip
@pytest.mark.usefixtures("either_way")
def test_they_are_compiled(f):
    pytest.importorskip("numba")
    fast = tm.compile(lambda x: f(x))
    for x in (X, X + 0.3):
        for ours, wanted in zip(tm.tree_leaves(fast(x)), tm.tree_leaves(f(x)), strict=True):
            np.testing.assert_allclose(ours, wanted, rtol=1e-15)


# ── complex numbers, and what NumPy refuses ─────────────────────────────────────────────────────────────────────────

Z = np.array([1 + 2j, complex(NAN, 1), complex(INF, -INF), 3 + 0j])


def test_complex_numbers_are_numpys():
    z = Tensor(Z)
    for f in (np.nan_to_num, np.isreal, np.iscomplex, np.real_if_close):
        np.testing.assert_array_equal(f(z).value, f(Z))
    np.testing.assert_allclose(np.round(Tensor(Z[:1] / 3), 1).value, np.round(Z[:1] / 3, 1), rtol=1e-15)
    close = np.array([1 + 1e-17j, 2])
    assert np.real_if_close(Tensor(close)).dtype == float
    assert np.real_if_close(Tensor(close), tol=1e-20).dtype == complex
    slope = grad(lambda x: np.sum(np.real(np.nan_to_num(x * Z[:1]))))(np.array([2.0]))
    np.testing.assert_array_equal(slope, [1])


def test_complex_inverse_functions_have_their_derivatives():
    curve = lambda x: x + 1j * (0.4 - x * x)  # noqa: E731
    for f in (np.arcsin, np.arccos, np.arcsinh, np.arccosh, np.arctanh, np.sinc):
        check_grads(lambda x, f=f: [np.real(f(curve(x))), np.imag(f(curve(x)))], (np.array([0.3, -0.6]),), order=2)


K, TRUTHS, T = np.array([1, 2]), np.array([True, False]), np.array([1.0, 2.0])
REFUSED = [
    lambda w: -w(TRUTHS), lambda w: np.left_shift(w(T), 1), lambda w: w(T) << 1, lambda w: np.gcd(w(T), 2),
    lambda w: np.ldexp(w(T), 1.5), lambda w: np.round(w(TRUTHS), 1), lambda w: np.bitwise_count(w(T)),
    lambda w: np.isposinf(w(Z)), lambda w: np.signbit(w(Z)), lambda w: w(Z) % 2, lambda w: w(Z) // 2,
    lambda w: np.arctan2(w(Z), 1), lambda w: np.cbrt(w(Z)), lambda w: np.copysign(w(Z), 1), lambda w: np.fmod(w(Z), 2),
    lambda w: np.deg2rad(w(Z)), lambda w: np.modf(w(Z)), lambda w: np.frexp(w(Z)), lambda w: np.heaviside(w(Z), 1),
    lambda w: np.logaddexp2(w(Z), 1), lambda w: w(K) ** -1, lambda w: np.fmax(w(T), np.ones(3)),
    lambda w: np.remainder(w(T), np.ones(3)), lambda w: w(K.astype(np.uint8)) % 300,
    lambda w: w(K.astype(np.int8)) // 200,
]  # fmt: skip


@ignoring
@pytest.mark.parametrize("f", REFUSED, ids=map(str, range(len(REFUSED))))
def test_what_numpy_refuses_is_refused_alike(f):
    with pytest.raises(Exception) as wanted:
        f(lambda x: x)
    kind = next(k for k in (TypeError, OverflowError, ValueError) if isinstance(wanted.value, k))
    with pytest.raises(kind):
        f(Tensor)


NUMBERS = [300, -1, 2, 2.5, True, NAN, 1e300, np.float32(2), np.int8(-3), 2**63, 0, [1, 2, 3]]


@ignoring
@pytest.mark.parametrize("f", [
    np.fmax, np.fmin, np.copysign, np.heaviside, np.float_power, np.arctan2, np.remainder, np.floor_divide, np.fmod,
    np.isclose, np.nextafter, np.gcd, np.left_shift, np.ldexp, np.divmod,
])  # fmt: skip
def test_numbers_and_lists_are_taken_as_numpy_takes_them(f):
    """On either side of arrays of every dtype: value, dtype or error."""

    def outcome(*args):
        try:
            return tm.tree_map(lambda y: np.asarray(value_of(y)), f(*args))
        except (TypeError, OverflowError, ValueError) as error:
            return next(k for k in (TypeError, OverflowError, ValueError) if isinstance(error, k))

    dtypes = [bool, np.int8, np.uint8, np.int64, np.uint64, np.float16, np.float32, np.float64]
    for d, k in itertools.product(dtypes, NUMBERS):
        x = np.array([0, 1, 3]).astype(d)
        for ours, wanted in ((outcome(Tensor(x), k), outcome(x, k)), (outcome(k, Tensor(x)), outcome(k, x))):
            if isinstance(wanted, type) or isinstance(ours, type):
                assert ours is wanted, (d, k)
                continue
            for a, b in zip(tm.tree_leaves(ours), tm.tree_leaves(wanted), strict=True):
                assert a.dtype == b.dtype, (d, k)
                rounding = 4 * np.finfo(b.dtype).eps if b.dtype.kind == "f" else 0
                np.testing.assert_allclose(a, b, rtol=rounding, err_msg=f"{d}, {k}")


def test_every_pair_of_dtypes_of_operators_in_one_look():
    """Value, dtype or error: t % u, t // u."""
    dtypes = [bool, np.int8, np.uint8, np.int64, np.uint64, np.float16, np.float32, np.float64]
    for a, b in itertools.product(dtypes, dtypes):
        x, y = np.array([3, 0, 1]).astype(a), np.array([2, 1, 1]).astype(b)
        for f in (operator.mod, operator.floordiv):
            np.testing.assert_array_equal(f(Tensor(x), Tensor(y)).value, f(x, y), strict=True)
            np.testing.assert_array_equal(f(x, Tensor(y)).value, f(x, y), strict=True)
