"""Cases: functions of each element, beside those of `test_ops` and `test_dtypes`."""

import numpy as np
from cases import COLUMN, EP, ROW, A, E, F, X, case, frozen, primitive, unary
from dtype_cases import exact, of_v, rounded

INSIDE = frozen(E * 0.4)  # of −1 … 1
K = frozen([[1, 0, -2], [3, 2, 1]])
BEYOND = frozen(np.array([[0.25, -np.inf, np.nan], [np.inf, -1.5, 3.0]], np.float16))  # float32 stays float32


def bessel_i(x, n):
    """By its power series: Σ (x / 2)²ᵏ⁺ⁿ / (k! (k + n)!)."""
    import math

    return sum((x / 2) ** (2 * k + n) / (math.factorial(k) * math.factorial(k + n)) for k in range(30))


SMOOTH = [
    *(primitive(name, INSIDE) for name in ("arcsin", "arccos", "arctanh")),
    primitive("arcsinh", E), primitive("arccosh", frozen(EP + 1)), primitive("arctan2", COLUMN, ROW),
    primitive("cbrt", E), primitive("logaddexp2", COLUMN, ROW), primitive("remainder", COLUMN, ROW),
    primitive("fmod", COLUMN, ROW), primitive("ldexp", X, K), primitive("power_log", EP, F, n=1, k=0,
                                                                        reference=lambda x, y, n, k: x**y * np.log(x)),
    primitive("power_log", EP, F, n=2, k=1, reference=lambda x, y, n, k: x**y * np.log(x) ** 2),
    primitive("sinc", E, n=0, reference=lambda x, n: np.sinc(x)),
    primitive("bessel_i", E, n=0, reference=lambda x, n: np.i0(x)),
    *(unary(f, INSIDE) for f in (np.arcsin, np.arccos, np.arctanh)), unary(np.arcsinh),
    unary(np.arccosh, frozen(EP + 1)), unary(np.cbrt), unary(np.sinc), unary(np.sinc, frozen([0.0, 1e-9])),
    unary(np.i0), unary(np.deg2rad), unary(np.radians), unary(np.rad2deg), unary(np.degrees),
    case(np.arctan2, np.arctan2, COLUMN, ROW), case(np.logaddexp2, np.logaddexp2, COLUMN, ROW),
    case(np.logaddexp2, lambda x: np.logaddexp2(x, 0), E),
    case(np.fmax, np.fmax, COLUMN, ROW), case(np.fmax, lambda x: np.fmax(x, np.where(np.isinf(BEYOND), -9, BEYOND)), X),
    case(np.fmin, np.fmin, COLUMN, ROW), case(np.fmin, lambda x: np.fmin(np.nan, x), X),
    case(np.remainder, np.remainder, COLUMN, ROW), case(np.remainder, lambda x: x % 0.4 + 0.4 % x, X),
    case(np.remainder, lambda x, y: np.remainder(-x, y), COLUMN, ROW),
    case(np.fmod, np.fmod, COLUMN, ROW), case(np.fmod, lambda x: np.fmod(x, -0.4), X),
    case(np.divmod, lambda x, y: np.divmod(x, y)[1] + divmod(x, y)[0], COLUMN, ROW),
    case(np.modf, lambda x: np.modf(3 * x)[0] * x + np.modf(3 * x)[1], X, analytic=False),
    case(np.frexp, lambda x: np.frexp(8 * x)[0] * x, X),
    case(np.ldexp, lambda x: np.ldexp(x, K) + np.ldexp(x, 2), X),
    case(np.copysign, np.copysign, COLUMN, ROW), case(np.copysign, lambda x: np.copysign(x, -1.0), X),
    case(np.heaviside, lambda x: np.heaviside(0.0, x) + np.heaviside(x, 0.5) * x, X),
    case(np.float_power, np.float_power, EP, F, double=True),
    case(np.nan_to_num, np.nan_to_num, X), case(np.real_if_close, lambda x: np.real_if_close(x) * x, X),
    case(np.nan_to_num, lambda x: np.nan_to_num(np.where(np.isfinite(BEYOND), x, BEYOND), True, 1.5, 2.0, -3.0), X),
    case(np.power, lambda x: x ** np.array([0.0, 0.5], np.float16), EP),
    case(np.power, lambda x: x ** np.array([3.0, -2.0], np.float16), E),
]  # fmt: skip

STEPS = [
    *(primitive(name, COLUMN, ROW) for name in ("floor_divide", "nextafter")),
    *(primitive(name, X) for name in ("signbit", "spacing")),
    primitive("exponent", X, reference=lambda x: np.frexp(x)[1]),
    *(case(f.__name__, lambda x, f=f: f(np.floor(4 * abs(x)).astype(int), K + 2), X)
      for f in (np.left_shift, np.right_shift, np.gcd, np.lcm)),
    case("bitwise_count", lambda x: np.bitwise_count(np.floor(4 * x).astype(int)), X),
    *(case(f, lambda x, f=f: f(np.floor(4 * abs(x)).astype(int), K + 2), X)
      for f in (np.left_shift, np.right_shift, np.gcd, np.lcm)),
    case(np.left_shift, lambda x: ((x > 0) << 2) + (3 >> (x > 0)), X),
    case(np.bitwise_count, lambda x: np.bitwise_count(np.floor(4 * x).astype(int)), X),
    *(case(f, f, COLUMN, ROW) for f in (np.floor_divide, np.nextafter, np.isclose)),
    case(np.floor_divide, lambda x: x // 0.3 + 2 // x, X),
    *(case(f, f, X) for f in (np.signbit, np.spacing, np.fix, np.round, np.around, np.isreal, np.iscomplex)),
    *(case(f, lambda x, f=f: f(np.where(x > 1, np.inf, x)) | f(np.where(x < 0, -np.inf, x)), X)
      for f in (np.isposinf, np.isneginf)),
    case(np.round, lambda x: np.round(x, 1) + np.round(9 * x, -1) + x.round(2) + np.round(x, decimals=0), X),
    case(np.isclose, lambda x: np.isclose(x, x + 1e-9) & np.isclose([[0.4], [0.5]], x, 0.5, equal_nan=True), X),
]  # fmt: skip

PLAIN = [
    case(np.allclose, lambda x: np.allclose(x, X + 1e-9), X), case(np.allclose, lambda x: np.allclose(x, X + 1e-3), X),
    case(np.allclose, lambda x: np.allclose([1.0, np.nan], x, equal_nan=True), frozen([1.0, np.nan])),
    case(np.array_equal, lambda x: np.array_equal(x, X), X), case(np.array_equal, lambda x: np.array_equal(x, A), X),
    case(np.array_equal, lambda x: np.array_equal(x, X[0]), X),
    case(np.array_equal, lambda x: np.array_equal(x, x, equal_nan=True), frozen([1.0, np.nan])),
    case(np.array_equiv, lambda x: np.array_equiv(x, X[0]), X),
    case(np.array_equiv, lambda x: np.array_equiv([1, 1], x), frozen([[1.0, 1.0]])),
    case(np.array_equiv, lambda x: np.array_equiv(x, X.T), X),
]  # fmt: skip

ONE = {
    **{f: of_v(f) for f in (
        np.arcsin, np.arccos, np.arcsinh, np.arccosh, np.arctanh, np.deg2rad, np.radians, np.rad2deg, np.degrees,
    )},
    **{f: of_v(f, machine=False) for f in (np.cbrt, np.i0)},
    np.sinc: rounded(lambda v, m: np.sinc(m), machine=False),
    **{f: of_v(f, exact=True) for f in (np.modf, np.fix, np.isposinf, np.isneginf)},
    **{f: of_v(f, exact=True, machine=False) for f in (np.spacing, np.bitwise_count)},
    **{f: of_v(f, exact=True) for f in (np.isreal, np.iscomplex, np.real_if_close)},
    np.signbit: exact(lambda v, m: np.signbit(np.where(v == v, v, 1))),
    np.frexp: exact(lambda v, m: np.frexp(m), lambda v, m: np.frexp(np.where(np.isfinite(v), v, 1)), machine=False),
    np.ldexp: exact(lambda v, m: np.ldexp(v, np.int8(2)), lambda v, m: np.ldexp(m, -3),
                    lambda v, m: np.ldexp(2.5, np.where(v > 0, 2, -1)), machine=False),
    np.round: [*of_v(np.round, exact=True), *rounded(lambda v, m: np.round(m, 1), lambda v, m: m.round(2)),
               *rounded(lambda v, m: np.round(v, -1), machine=False)],
    np.around: of_v(np.around, exact=True),
    np.nan_to_num: exact(lambda v, m: np.nan_to_num(v), lambda v, m: np.nan_to_num(v, nan=1, posinf=2, neginf=-0.5)),
    np.allclose: exact(lambda v, m: (v, np.allclose([1.0], 1))[0]),  # of arguments it is a branch: see `PLAIN`
    np.array_equal: exact(lambda v, m: (v, np.array_equal(m, 2))[0]),
    np.array_equiv: exact(lambda v, m: (v, np.array_equiv(m, np.ones(3)))[0]),
}  # fmt: skip
TWO = {
    **{f: exact(lambda x, y, f=f: f(x, y)) for f in (
        np.remainder, np.floor_divide, np.fmod, np.divmod,
    )},
    **{f: exact(lambda x, y, f=f: f(x, y), ties=True) for f in (np.fmax, np.fmin)},
    **{f: rounded(lambda x, y, f=f: f(x, y)) for f in (np.arctan2, np.logaddexp2, np.heaviside)},
    np.copysign: exact(lambda x, y: np.copysign(x, np.where(y == y, y, 1))),  # the sign of NaN is the processor's
    np.float_power: rounded(lambda x, y: np.float_power(x, y)),
    **{f: exact(lambda x, y, f=f: f(x, y), machine=False) for f in (
        np.nextafter, np.left_shift, np.right_shift, np.gcd, np.lcm,
    )},
    np.isclose: exact(lambda x, y: np.isclose(x, y) | np.isclose(x, y, 0.1, 0.5, True)),
}
