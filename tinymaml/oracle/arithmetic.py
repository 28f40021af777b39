"""Numbers of any kind in NumPy arrays: what lets one hand-written gradient serve every rung of the ladder.

    float, complex                 as they are: fast, and the complex step
    Fraction, Dual(Fraction)       exact, where a model is polynomial
    flint.arb, Dual(flint.arb)     balls that enclose the exact value

NumPy applies `+ - * / @`, `sum` and comparisons to arrays of objects element by element, and calls a method of the
same name for `np.tanh`, `np.exp`, `np.log`, `np.sqrt`. This module has the functions that NumPy lacks for them.
"""

from __future__ import annotations

import math

import numpy as np


class Uncertain(ArithmeticError):
    """A ball that contains 0, where the sign decides which branch of ReLU or max is taken."""


class Dual:
    """a + b ε with ε² = 0: f(a + b ε) = f(a) + f′(a) b ε, so the slope is the derivative along b, without rounding."""

    __slots__ = ("value", "slope")

    def __init__(self, value, slope=0):
        self.value, self.slope = value, slope

    def __add__(self, y):
        return Dual(self.value + y.value, self.slope + y.slope) if type(y) is Dual else Dual(self.value + y, self.slope)

    def __neg__(self):
        return Dual(-self.value, -self.slope)

    def __sub__(self, y):
        return Dual(self.value - y.value, self.slope - y.slope) if type(y) is Dual else Dual(self.value - y, self.slope)

    def __rsub__(self, y):
        return Dual(y - self.value, -self.slope)

    def __mul__(self, y):
        if type(y) is Dual:
            return Dual(self.value * y.value, self.value * y.slope + self.slope * y.value)
        return Dual(self.value * y, self.slope * y)

    def __truediv__(self, y):
        if type(y) is Dual:
            q = self.value / y.value
            return Dual(q, (self.slope - q * y.slope) / y.value)
        return Dual(self.value / y, self.slope / y)

    def __rtruediv__(self, y):
        q = y / self.value
        return Dual(q, -q * self.slope / self.value)

    __radd__, __rmul__ = __add__, __mul__

    def tanh(self):
        y = self.value.tanh()
        return Dual(y, (1 - y * y) * self.slope)

    def exp(self):
        y = self.value.exp()
        return Dual(y, y * self.slope)

    def log(self):
        return Dual(self.value.log(), self.slope / self.value)

    def sqrt(self):
        y = self.value.sqrt()
        return Dual(y, self.slope / (2 * y))

    def erf(self):
        return Dual(erf(self.value), self.slope * (-self.value * self.value).exp() * (2 / math.pi**0.5))


def _sign(x, certain: bool = True) -> int:
    x = x.value if type(x) is Dual else x
    if x > 0:
        return 1
    if x < 0:
        return -1
    if x == 0 or not certain:  # a ball is 0 only if it is certainly 0
        return 0
    raise Uncertain(f"the sign of {x}")


_certain_sign = np.frompyfunc(_sign, 1, 1)
_likely_sign = np.frompyfunc(lambda x: _sign(x, certain=False), 1, 1)
_elementwise_hold = np.frompyfunc(lambda x: x.value if type(x) is Dual else x, 1, 1)


def sign(x: np.ndarray) -> np.ndarray:
    """−1, 0 or 1 by the real part or the value, to choose between formulas that are equal: 0 for a ball around 0."""
    x = np.asarray(x)
    return np.asarray(_likely_sign(x), np.int64) if x.dtype == object else np.sign(x.real).astype(np.int64)


_watched: list[tuple] | None = None  # how near a kink each array was that decided branches, while `margin_of` watches


def side(x: np.ndarray) -> np.ndarray:
    """The sign where it decides a branch of ReLU or max: certain, or `Uncertain` is raised. `margin_of` takes note."""
    x = np.asarray(x)
    if _watched is not None:
        size = np.abs(np.asarray(hold(x), np.float64))
        near = np.min(size[size > 0], initial=np.inf) / max(np.max(size, initial=0), 1e-300)
        _watched.append((near, bool(np.any(size == 0))))
    return np.asarray(_certain_sign(x), np.int64) if x.dtype == object else sign(x)


def margin_of(f) -> tuple[float, bool]:
    """The nearest kink while f() runs, the smallest |x| > 0 beside the largest of its array; and whether one was hit
    exactly (which is what some cases are about)."""
    global _watched
    _watched = []
    try:
        f()
        return float(min((near for near, _ in _watched), default=np.inf)), any(hit for _, hit in _watched)
    finally:
        _watched = None


def remembered(known: dict, key, f):
    """f(), or what it gave before under the same key in `known`; `margin_of` takes note of its kinks each time."""
    if key in known:
        value, decided = known[key]
        if _watched is not None:
            _watched.extend(decided)
        return value
    before = len(_watched or ())
    value = f()
    known[key] = value, (_watched or [])[before:]
    return value


def bits_of(*arrays: np.ndarray) -> tuple:
    """A key for float or complex arrays, which only arrays of the very same numbers have."""
    return tuple((x.shape, x.dtype.char, x.tobytes()) for x in arrays)


def hold(x: np.ndarray) -> np.ndarray:
    """The value without its derivative: constant from here on, as for `stop_gradient`."""
    x = np.asarray(x)
    return np.asarray(_elementwise_hold(x)) if x.dtype == object else x.real


def bend(x: np.ndarray, value: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """A value whose derivative by x is `slope`, right or wrong: what a custom backward makes of a function."""
    return hold(value) + (x - hold(x)) * hold(slope)


def erf(x: np.ndarray) -> np.ndarray:
    """The error function, over any numbers."""
    x = np.asarray(x)
    if x.dtype == object:
        return np.asarray(np.frompyfunc(lambda v: v.erf(), 1, 1)(x), object)
    value = np.vectorize(math.erf, otypes=[float])(x.real)
    # erf′(x) = 2/√π e^(−x²)
    return value if x.dtype.kind == "f" else value + 1j * x.imag * (2 / math.pi**0.5) * np.exp(-x.real * x.real)


def as_numbers(x: np.ndarray, number=float) -> np.ndarray:
    """An array of float64, or of objects made by `number` from Python floats. Integers (labels) stay."""
    x = np.asarray(x)
    if number is float:
        return x if x.dtype.kind in "iu" else x.astype(np.float64)
    return x if x.dtype.kind in "iu" else np.asarray(np.frompyfunc(lambda v: number(float(v)), 1, 1)(x), object)
