"""Functions of each element: NumPy's ufuncs, and what is made of them: clip, where, round, isclose, …

Conventions at kinks, beside those of `ops`:

    fmax, fmin              a tie shares the cotangent by halves; where one is NaN, the other takes all
    copysign                as |x|: the slope at x = 0 is 0
    x % y, fmod, divmod     slopes 1 and −(x // y), at a jump those to its right (of fmod: to the side of 0)
    x // y, round, fix, …   piecewise constant: the derivative is 0
    nan_to_num              what is replaced is constant
    hypot                   as linalg.norm: slope 0 at (0, 0); the second derivative there is infinite, and comes out
                            as NaN
    cbrt, arcsin, arctan2   no convention: the derivative is infinite where the tangent is vertical, and NaN at (0, 0)
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from .. import ops
from ..engine import Tensor, alias, value_of
from ..ops import elementwise, in_dtype, stands_for_real
from .complexes import direction, of_complex
from .refused import decide
from .table import as_array, numpy_function

# ── primitives ──────────────────────────────────────────────────────────────────────────────────────────────────────
# Functions that NumPy lacks for complex numbers, or that are not analytic there, are continued to a complex step.


def _continued(f: Callable, analytic: Callable) -> Callable:
    """f; in a complex step, `analytic`."""
    return lambda *xs, **params: (analytic if stands_for_real(*xs) else f)(*xs, **params)


def _of_real(f: Callable) -> Callable:
    """f; in a complex step, that of the real part."""
    return lambda x: f(np.real(x) if stands_for_real(x) else x)


# g is the cotangent of the output z
expm1   = elementwise("expm1",   np.expm1,   lambda g, z, x: g * ops.exp(x),          loop="math.expm1({})")
log1p   = elementwise("log1p",   np.log1p,   lambda g, z, x: g / (1 + x),             loop="math.log1p({})")
exp2    = elementwise("exp2",    np.exp2,    lambda g, z, x: g * (z * math.log(2)),   loop="machine.exp2({})")
log2    = elementwise("log2",    np.log2,    lambda g, z, x: g / (x * math.log(2)),   loop="machine.log2({})")
log10   = elementwise("log10",   np.log10,   lambda g, z, x: g / (x * math.log(10)),  loop="math.log10({})")
tan     = elementwise("tan",     np.tan,     lambda g, z, x: g * (1 + z * z),         loop="math.tan({})")
sinh    = elementwise("sinh",    np.sinh,    lambda g, z, x: g * cosh(x),             loop="math.sinh({})")
cosh    = elementwise("cosh",    np.cosh,    lambda g, z, x: g * sinh(x),             loop="math.cosh({})")
arcsin  = elementwise("arcsin",  np.arcsin,  lambda g, z, x: g / np.sqrt(1 - x * x),  loop="math.asin({})")
arccos  = elementwise("arccos",  np.arccos,  lambda g, z, x: -g / np.sqrt(1 - x * x), loop="math.acos({})")
arctan  = elementwise("arctan",  np.arctan,  lambda g, z, x: g / (1 + x * x),         loop="math.atan({})")
arcsinh = elementwise("arcsinh", np.arcsinh, lambda g, z, x: g / _hypot_1(x),         loop="math.asinh({})")
arccosh = elementwise("arccosh", np.arccosh, lambda g, z, x: g / (np.sqrt(x - 1) * np.sqrt(x + 1)),
                      loop="math.acosh({})")
arctanh = elementwise("arctanh", np.arctanh, lambda g, z, x: g / (1 - x * x),         loop="math.atanh({})")


def _hypot_1(x):
    """√(1 + x²), also for large x."""
    return np.sqrt(1 + x * x) if of_complex(x) else hypot(x, 1)


def _cosine(x, z):
    """x / z, and 0 where z = 0; the derivative of that is NaN."""
    with np.errstate(invalid="ignore"):
        return ops.where(ops.equal(z, 0), 0, x / z)


# z = √(x² + y²)
hypot = elementwise("hypot", _continued(np.hypot, lambda x, y: np.sqrt(x * x + y * y)),
                    lambda g, z, x, y: g * _cosine(x, z), lambda g, z, x, y: g * _cosine(y, z),
                    loop="{type}(math.hypot({}, {}))")


def _arctan2(y, x):
    z = np.arctan2(np.real(y), np.real(x))
    c, s = np.cos(z), np.sin(z)
    return z + np.arctan((y * c - x * s) / (x * c + y * s))


# z = arctan2(y, x):  ∂z/∂y = x / r²,  ∂z/∂x = −y / r², r² = x² + y²
arctan2 = elementwise("arctan2", _continued(np.arctan2, _arctan2),
                      lambda g, z, y, x: g * (x / hypot(x, y)) / hypot(x, y),
                      lambda g, z, y, x: -g * (y / hypot(x, y)) / hypot(x, y),
                      loop="math.atan2({}, {})")


def _cbrt(x):
    s = np.sign(np.real(x))
    return s * (s * x) ** (1 / 3)


cbrt = elementwise("cbrt", _continued(np.cbrt, _cbrt), lambda g, z, x: g * z**-2 / 3, lowering="replayed")


def _logaddexp2(x, y):
    return ops.logaddexp(x * math.log(2), y * math.log(2)) / math.log(2)


# z = log₂(2ˣ + 2ʸ):  ∂z/∂x = 2ˣ⁻ᶻ
logaddexp2 = elementwise("logaddexp2", _continued(np.logaddexp2, _logaddexp2),
                         lambda g, z, x, y: g * ops.logaddexp_share(exp2, x, y, z),
                         lambda g, z, x, y: g * ops.logaddexp_share(exp2, y, x, z),
                         loop="{type}(machine.logaddexp2({}, {}))")

# z = x − y ⌊x / y⌋, and x − y trunc(x / y)
floor_divide = elementwise("floor_divide", _continued(np.floor_divide, lambda x, y: np.floor(np.real(x / y))),
                           loop="{} // {}", of_integers="machine.floor_divide({}, {})", exact=True, decides="choice")
remainder = elementwise("remainder", _continued(np.remainder, lambda x, y: x - y * np.floor(np.real(x / y))),
                        lambda g, z, x, y: g, lambda g, z, x, y: -g * floor_divide(x, y),
                        loop="{} % {}", decides="choice")
fmod = elementwise("fmod", _continued(np.fmod, lambda x, y: x - y * np.trunc(np.real(x / y))),
                   lambda g, z, x, y: g, lambda g, z, x, y: -g * rint((x - z) / y),
                   loop="{type}(math.copysign(abs({0}) % abs({1}), {0}))", of_integers="machine.fmod({}, {})",
                   decides="choice")

# z = x 2ⁿ
ldexp = elementwise("ldexp", _continued(np.ldexp, lambda x, n: x * 2.0**n), lambda g, z, x, n: ldexp(g, n), None,
                    lowering="replayed")


def _sinc(x, *, n):
    """The n-th derivative of sin u / u at u = π x."""
    if n == 0 and not stands_for_real(x):
        return np.sinc(x)
    u = np.pi * np.asarray(x, np.result_type(np.float64, x))
    near = np.abs(u) <= n + 1
    # Σ (−1)ᵏ u²ᵏ⁻ⁿ / ((2k − n)! (2k + 1)), over 2k ≥ n
    v, series, k = np.where(near, u, 0), 0, (n + 1) // 2
    term = (-1.0) ** k * v ** (2 * k - n)
    for _ in range(20 + 3 * n):
        series = series + term / (2 * k + 1)
        k += 1
        term = term * -(v * v) / ((2 * k - n - 1) * (2 * k - n))
    # z⁽ⁿ⁾ = (sin⁽ⁿ⁾ u − n z⁽ⁿ⁻¹⁾) / u
    v = np.where(near, 1, u)
    turns = np.sin(v), np.cos(v), -np.sin(v), -np.cos(v)
    z = turns[0] / v
    for m in range(1, n + 1):
        z = (turns[m % 4] - m * z) / v
    return np.where(near, series, z).astype(np.sinc(np.zeros(1, np.asarray(x).dtype)).dtype)


sinc = elementwise("sinc", _sinc, lambda g, z, x, *, n: g * (math.pi * sinc(x, n=n + 1)), lowering="replayed")


def _bessel_i(x, *, n):
    """Iₙ(x): by its power series for small x; for others 1/π ∫ exp(x cos t) cos nt dt over 0 … π, by the trapezoidal
    rule, which converges exponentially.
    """
    if n == 0 and not stands_for_real(x):
        return np.i0(x)
    wide = np.asarray(x, np.result_type(np.float64, x))
    sign = np.where(np.real(wide) < 0, -1, 1)
    a = wide * sign  # Iₙ(−x) = (−1)ⁿ Iₙ(x)
    small, large = np.real(a) < 20, (np.real(a) >= 20) & (np.real(a) < 1e3)
    # Σ (x / 2)²ᵏ⁺ⁿ / (k! (k + n)!)
    half = np.where(small, a, 0) / 2
    term, series = half**n / math.factorial(n), 0
    for k in range(1, 50):
        series = series + term
        term = term * (half * half / (k * (k + n)))
    v, total = np.where(large, a, 0), 0
    count = 64 + 8 * math.isqrt(int(np.max(np.real(v), initial=0)))
    for j in range(count + 1):
        t = math.pi * j / count
        total = total + (0.5 if j in (0, count) else 1) * math.cos(n * t) * np.exp(-2 * v * math.sin(t / 2) ** 2)
    z = np.select([small, large], [series, total / count * np.exp(v)], np.where(np.isnan(a), a, np.inf)) * sign**n
    return z.astype(wide.dtype if stands_for_real(x) else np.i0(np.zeros(1, np.asarray(x).dtype)).dtype)


def _bessel_i_rule(g, z, x, *, n):
    """(Iₙ₋₁ + Iₙ₊₁) / 2, where I₋₁ = I₁."""
    return g * (bessel_i(x, n=1) if n == 0 else (bessel_i(x, n=n - 1) + bessel_i(x, n=n + 1)) / 2)


bessel_i = elementwise("bessel_i", _bessel_i, _bessel_i_rule, lowering="replayed")

# piecewise constant
ceil  = elementwise("ceil", np.ceil, loop="{type}(np.ceil({}))", of_integers="{}", of_truths="{}",
                    exact=True, decides=np.rint)
trunc = elementwise("trunc", np.trunc, loop="{type}(np.trunc({}))", of_integers="{}", of_truths="{}",
                    exact=True, decides=np.rint)
rint  = elementwise("rint", np.rint, loop="{type}(np.rint({}))", exact=True, decides=lambda x: np.floor(x) + 0.5)
isfinite    = elementwise("isfinite", np.isfinite, loop="{0} - {0} == {0} - {0}", computed_in="own")
logical_xor = elementwise("logical_xor", np.logical_xor, loop="bool({}) != bool({})", computed_in="own")
signbit = elementwise("signbit", _of_real(np.signbit), loop="machine.signbit({})", computed_in="own",
                      decides=np.zeros_like)
exponent = elementwise("exponent", _of_real(lambda x: np.frexp(x)[1]), lowering="replayed", decides="choice")
nextafter, spacing, left_shift, right_shift, gcd, lcm, bitwise_count = (
    elementwise(f.__name__, f, lowering="replayed", exact=True, decides="choice")
    for f in (np.nextafter, np.spacing, np.left_shift, np.right_shift, np.gcd, np.lcm, np.bitwise_count)
)

# ── one primitive each ──────────────────────────────────────────────────────────────────────────────────────────────

for _f, _ours in {
    np.add: ops.add, np.subtract: ops.subtract, np.multiply: ops.multiply, np.divide: ops.divide, np.power: ops.power,
    np.exp: ops.exp, np.expm1: expm1, np.exp2: exp2, np.log: ops.log, np.log1p: log1p,
    np.log2: log2, np.log10: log10, np.logaddexp: ops.logaddexp, np.sqrt: ops.sqrt, np.hypot: hypot,
    np.sin: ops.sin, np.cos: ops.cos, np.tan: tan, np.arctan: arctan,
    np.sinh: sinh, np.cosh: cosh, np.tanh: ops.tanh,
    np.floor: ops.floor, np.ceil: ceil, np.rint: rint, np.trunc: trunc,
    np.isnan: ops.isnan, np.isinf: ops.isinf, np.isfinite: isfinite,
    np.equal: ops.equal, np.not_equal: ops.not_equal, np.less: ops.less, np.less_equal: ops.less_equal,
    np.greater: ops.greater, np.greater_equal: ops.greater_equal, np.logical_not: ops.logical_not,
    np.logical_and: ops.logical_and, np.logical_or: ops.logical_or, np.logical_xor: logical_xor,
    np.bitwise_and: ops.bitwise_and, np.bitwise_or: ops.bitwise_or, np.bitwise_xor: ops.bitwise_xor,
    np.invert: ops.invert,
    np.arcsin: arcsin, np.arccos: arccos, np.arctan2: arctan2, np.arcsinh: arcsinh, np.arccosh: arccosh,
    np.arctanh: arctanh, np.cbrt: cbrt, np.logaddexp2: logaddexp2, np.ldexp: ldexp, np.floor_divide: floor_divide,
    np.remainder: remainder, np.fmod: fmod, np.signbit: signbit, np.nextafter: nextafter, np.spacing: spacing,
    np.left_shift: left_shift, np.right_shift: right_shift, np.gcd: gcd, np.lcm: lcm,
    np.bitwise_count: bitwise_count,
}.items():  # fmt: skip
    numpy_function(_f)(_ours)


numpy_function(np.negative)(ops.negative)
numpy_function(np.positive)(ops.positive)
numpy_function(np.square)(ops.square)
numpy_function(np.absolute)(ops.absolute)
numpy_function(np.fabs)(lambda x: ops.absolute(x if stands_for_real(x) else ops.as_computed(np.fabs, x)))
numpy_function(np.maximum)(lambda x, y: ops.maximum(x, y))
numpy_function(np.minimum)(lambda x, y: ops.minimum(x, y))


@numpy_function(np.sign)
def sign(x):
    """−1, 0 or 1; of complex numbers x / |x|, and 0 at 0."""
    return direction(x) if of_complex(x) else ops.sign(x)


@numpy_function(np.reciprocal)
def reciprocal(x):
    return 1 / x if x.dtype.kind in "fc" else ops.reciprocal(ops.as_computed(np.reciprocal, x))


@numpy_function(np.clip)
def clip(a, a_min=None, a_max=None, *, min=None, max=None):
    low, high, a = (a_min if min is None else min), (a_max if max is None else max), as_array(a)
    if a.dtype.kind in "iu":  # a Python integer that no element exceeds is as good as none
        low = None if type(low) is int and low <= np.iinfo(a.dtype).min else low
        high = None if type(high) is int and high >= np.iinfo(a.dtype).max else high
    low, high = (np.asarray(x) if isinstance(x, (list, tuple)) else x for x in (low, high))
    bounds = value_of(low), value_of(high)
    like = [x if x is None or type(x) in (int, float) else np.ones(1, np.result_type(x)) for x in bounds]
    dtype = np.clip(np.ones(1, a.dtype), *like).dtype  # of all three, and NumPy's own errors
    a = ops.in_dtype(a, dtype)
    a = a if low is None else ops.maximum(a, low)
    return a if high is None else ops.minimum(a, high)


@numpy_function(np.where)
def where(condition, x=None, y=None):
    if x is None and y is None:
        return np.nonzero(condition)
    if x is None or y is None:
        raise ValueError("either both or neither of x and y should be given")
    if isinstance(condition, Tensor) and condition.dtype != bool:
        condition = ops.not_equal(condition, 0)
    return ops.where(condition, x, y)


# ── a few lines of others ───────────────────────────────────────────────────────────────────────────────────────────


def _as_computed(f: np.ufunc, *xs) -> list:
    """xs in the dtypes in which NumPy's function computes; NumPy's own error where it has none."""
    if stands_for_real(*map(value_of, xs)):
        return [*map(_as_array, xs)]
    numbers = (int, float)  # of Python: they take the dtype of the others
    kinds = [type(x) if type(x) in numbers else np.result_type(value_of(x)) for x in xs]
    dtypes = f.resolve_dtypes((*kinds, *[None] * f.nout))
    return [in_dtype(_as_array(x), d) for x, d in zip(xs, dtypes, strict=False)]


def _as_array(x):
    return x if isinstance(x, Tensor) else np.asarray(x)


@numpy_function(np.deg2rad, np.radians)
def deg2rad(x):
    return _as_computed(np.deg2rad, x)[0] * (math.pi / 180)


@numpy_function(np.rad2deg, np.degrees)
def rad2deg(x):
    return _as_computed(np.rad2deg, x)[0] * (180 / math.pi)


@numpy_function(np.fmax)
def fmax(x1, x2):
    return ops.maximum(*_without_nan(x1, x2))


@numpy_function(np.fmin)
def fmin(x1, x2):
    return ops.minimum(*_without_nan(x1, x2))


def _without_nan(x1, x2) -> tuple:
    """Both, each replaced by the other where it is NaN."""
    if not any(np.result_type(value_of(x)).kind in "fc" for x in (x1, x2)):
        return x1, x2
    return ops.where(ops.isnan(x1), x2, x1), ops.where(ops.isnan(x2), x1, x2)


@numpy_function(np.divmod)
def divmod(x1, x2):
    return floor_divide(x1, x2), remainder(x1, x2)


@numpy_function(np.modf)
def modf(x):
    (x,) = _as_computed(np.modf, x)
    zero = ops.where(ops.greater(x, 0), x.dtype.type(0), x.dtype.type(-0.0))
    return fmod(ops.where(ops.isinf(x), zero, x), 1), trunc(x)


@numpy_function(np.frexp)
def frexp(x):
    (x,) = _as_computed(np.frexp, x)
    n = exponent(x)
    return ldexp(x, -n), n


@numpy_function(np.copysign)
def copysign(x1, x2):
    x1, x2 = _as_computed(np.copysign, x1, x2)
    size = ops.absolute(x1)
    return ops.where(signbit(x2), -size, size)


@numpy_function(np.heaviside)
def heaviside(x1, x2):
    x1, x2 = _as_computed(np.heaviside, x1, x2)
    return ops.where(ops.equal(x1, 0), x2, (ops.sign(x1) + 1) * 0.5)


@numpy_function(np.float_power)
def float_power(x1, x2):
    dtype = np.float_power.resolve_dtypes((*(np.result_type(value_of(x)) for x in (x1, x2)), None))[0]
    return ops.power(*(in_dtype(_as_array(x), dtype) for x in (x1, x2)))


@numpy_function(np.sinc)
def sinc_(x):
    return sinc(as_array(x), n=0)


@numpy_function(np.i0)
def i0(x):
    return bessel_i(as_array(x), n=0)


@numpy_function(np.round, np.around)
def round(a, decimals=0):
    """To the nearest, and of two as near to the even one."""
    a, kind = as_array(a), as_array(a).dtype.kind
    if kind in "iu" and decimals >= 0:
        return alias(a)
    if decimals == 0:
        return rint(a)
    if kind in "iub":
        np.round(np.zeros(1, a.dtype), decimals)  # NumPy's own error, of truths
        return in_dtype(rint(a / 10.0**-decimals) * 10.0**-decimals, a.dtype)
    scale = 10.0 ** abs(decimals)
    return rint(a * scale) / scale if decimals > 0 else rint(a / scale) * scale


@numpy_function(np.fix)
def fix(x):
    return trunc(as_array(x))


@numpy_function(np.nan_to_num)
def nan_to_num(x, copy=True, nan=0.0, posinf=None, neginf=None):
    """As NumPy's; `copy` is ignored: a tensor is never written to."""
    x = as_array(x)
    if x.dtype.kind not in "fc":
        return alias(x)
    if of_complex(x):
        parts = [nan_to_num(part, copy, nan, posinf, neginf) for part in (np.real(x), np.imag(x))]
        return parts[0] + 1j * parts[1]
    most = float(np.finfo(x.dtype).max)
    for there, instead in (
        (ops.isnan(x), nan), (isposinf(x), most if posinf is None else posinf),
        (isneginf(x), -most if neginf is None else neginf),
    ):  # fmt: skip
        x = ops.where(there, in_dtype(_as_array(instead), x.dtype), x)
    return x


# ── is it? ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@numpy_function(np.isposinf)
def isposinf(x):
    x = as_array(x)
    return ops.logical_and(ops.isinf(x), ops.logical_not(signbit(x)))


@numpy_function(np.isneginf)
def isneginf(x):
    x = as_array(x)
    return ops.logical_and(ops.isinf(x), signbit(x))


@numpy_function(np.isreal)
def isreal(x):
    return ops.equal(np.imag(as_array(x)), 0)


@numpy_function(np.iscomplex)
def iscomplex(x):
    return np.logical_not(isreal(x))


@numpy_function(np.real_if_close)
def real_if_close(a, tol=100):
    a = as_array(a)
    if not of_complex(a):
        return alias(a)
    size = tol * np.finfo(a.dtype).eps if tol > 1 else tol
    close = np.all(np.absolute(np.imag(a)) < size)
    return np.real(a) if decide(close, "the dtype of np.real_if_close") else alias(a)


@numpy_function(np.isclose)
def isclose(a, b, rtol=1e-05, atol=1e-08, equal_nan=False):
    a, b = (x if type(x) in (int, float) else as_array(x) for x in (a, b))  # numbers take the dtype of the other
    b = float(b) if type(b) in (int, float) else in_dtype(b, np.result_type(b.dtype, 1.0))
    with np.errstate(invalid="ignore"):  # ∞ − ∞
        near = ops.less_equal(ops.absolute(a - b), atol + rtol * abs(b))
    close = ops.logical_or(ops.logical_and(near, isfinite(b)), ops.equal(a, b))
    return ops.logical_or(close, ops.logical_and(ops.isnan(a), ops.isnan(b))) if equal_nan else close


@numpy_function(np.allclose)
def allclose(a, b, rtol=1e-05, atol=1e-08, equal_nan=False):
    return _decided(isclose(a, b, rtol, atol, equal_nan), "allclose")


@numpy_function(np.array_equal)
def array_equal(a1, a2, equal_nan=False):
    a1, a2 = as_array(a1), as_array(a2)
    if a1.shape != a2.shape:
        return False
    same = ops.equal(a1, a2)
    same = ops.logical_or(same, ops.logical_and(ops.isnan(a1), ops.isnan(a2))) if equal_nan else same
    return _decided(same, "array_equal")


@numpy_function(np.array_equiv)
def array_equiv(a1, a2):
    a1, a2 = as_array(a1), as_array(a2)
    try:
        np.broadcast_shapes(a1.shape, a2.shape)
    except ValueError:
        return False
    return _decided(ops.equal(a1, a2), "array_equiv")


def _decided(truths, name: str) -> bool:
    return bool(np.all(decide(truths, f"np.{name}") if isinstance(truths, Tensor) else truths))


# ── operators ───────────────────────────────────────────────────────────────────────────────────────────────────────


ops.attach_operators(
    mod=remainder, floordiv=floor_divide, divmod=divmod, lshift=left_shift, rshift=right_shift,
)  # fmt: skip
Tensor.__round__ = lambda x, n=None: round(x, n or 0)
Tensor.round = lambda x, decimals=0: round(x, decimals)
