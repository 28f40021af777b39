"""Why awkward inputs may give something else than NumPy, or than JAX: the table of `bench.awkward`.

    Reason(why, functions, ways to be awkward, what differs, text)      all but the first are regular expressions

A reason is as narrow as it can be: what it holds for is not looked at again.
"""

from __future__ import annotations

import re
from typing import NamedTuple


class Reason(NamedTuple):
    """Patterns of the names of functions, of how inputs are awkward, of what differs, and of how it is told."""

    why: str
    names: str
    how: str = ".*"
    what: str = ".*"
    text: str = ""

    def holds(self, name: str, how: str, what: str, text: str) -> bool:
        pairs = (self.names, name), (self.how, how), (self.what, what)
        return all(re.fullmatch(pattern, seen) for pattern, seen in pairs) and bool(re.search(self.text, text))


BESIDE_JAX = ("JAX's value", "gradient", "second derivative")
DERIVATIVES, ALL = "gradient|second derivative", "|".join(BESIDE_JAX)
ZERO = "zeros.*|ties"
EQUAL = "zeros.*|ones|ties|all alike|one element.*|no axis.*|repeated by broadcasting.*"
EXTREME = "huge|tiny"
NO_NUMBER = r"wanted np\.float64\((nan|-?inf)"  # where JAX has none
NOTHING = r"wanted np\.float64\(-?0\.0\)"
SUMS = (r"(linalg\.)?(matmul|dot|vdot|inner|tensordot|einsum|vecdot|matvec|vecmat|matrix_power|multi_dot|kron)"
        r"|nn\.(linear|conv2d)|correlate|convolve|cov|fft\..*|transpose|sums of methods")  # fmt: skip

BESIDE_NUMPY = [
    Reason("partial sums that overflow, in another order", SUMS, "huge|infinities and NaN", "value", "nan|inf"),
    Reason("NumPy's result is not initialised", r"fft\.irfftn", "empty axes", "value"),
    Reason("NumPy lets an empty axis have the letter of one that is not", "einsum", "an empty axis", "error"),
    Reason("NumPy's scalars have no @", "matmul", "no axis.*", "error", r"numpy\.bool"),
    Reason("where spacings are 0, huge, tiny or float32, NumPy overflows, or rounds otherwise", "gradient",
           "huge|tiny|zeros.*|repeated.*|all alike|float32.*", "value"),
    Reason("LAPACK's own rounding, or NaN", r"linalg\..*", "infinities and NaN|one element.*", "value"),
]  # fmt: skip

# Beside NumPy, too, but known as faults that are not mended.
FAULTS = [
    Reason("complex abscissas, which NumPy refuses", "interp", "complex.*", "error"),
    Reason("infinity minus infinity on the way", "pad", "infinities and NaN", "value", "nan"),
    Reason("float16 is rounded once more", r"fft\.ihfft", "float16", "value"),
]  # fmt: skip

CONVENTIONS = [
    Reason("the slope of |x| at 0: 1 in JAX, 0 here", r"absolute|fabs|abs|linalg\.norm|copysign", ZERO + ".*",
           DERIVATIVES),
    Reason("the slope of a norm at 0: NaN in JAX, 0 here", r"linalg\..*norm", "zeros.*", DERIVATIVES, NO_NUMBER),
    Reason("a tie: to another of those that are equal", "partition|.*sort|median|.*quantile|.*percentile", EQUAL,
           DERIVATIVES),
    Reason("a tie: all to one in JAX, shared here", "fmax|fmin", EQUAL, DERIVATIVES),
    Reason("the sign of complex numbers has no derivative in JAX", "sign", ".*", DERIVATIVES, NOTHING),
    Reason("equal values: their vectors turn freely, which is refused here", r"linalg\..*", ".*", DERIVATIVES,
           "LinAlgError.*(are equal, or nearly|have any phase)"),
    Reason("singular matrices: refused here", r"linalg\..*", EQUAL, DERIVATIVES, "LinAlgError.*(singular|dependent)"),
    Reason("both conventions, of |x| and of ties", r"linalg\.cond", "ties", DERIVATIVES),
    Reason("as it is written for JAX, a sum of no terms has no shape", r"nn\.conv2d", "an empty axis"),
    Reason("JAX makes the matrix Hermitian first", r"linalg\.(eigh|eigvalsh|cholesky)", "complex.*", ALL),
    Reason("JAX's unique along an axis has no derivative", "unique", ".*", DERIVATIVES, NOTHING),
    Reason("JAX's unwrap loses a slope where a jump is half a period", "unwrap", "ties|huge", DERIVATIVES),
]  # fmt: skip

ACCURACY = [
    Reason("JAX's hypot has kinks where |x| = |y|, and overflows on the way", "hypot", f"{EQUAL}|{EXTREME}", ALL),
    Reason("JAX has NaN for the logarithm in the slope of x ** y at x = 0", "power|float_power|powers", ".*",
           DERIVATIVES, NO_NUMBER),
    Reason("JAX has NaN for x ** 0 at 0", "vander", ZERO, DERIVATIVES, NO_NUMBER),
    Reason("JAX's rule overflows or underflows on the way",
           r"divide|arcsinh|arccosh|arctan2|sinc|prod|tanh|absolute|average|i0|polyval|nn\.sigmoid|linalg\.lstsq",
           EXTREME, DERIVATIVES, f"{NO_NUMBER}|{NOTHING}"),
    Reason("JAX's modulus overflows", "sign|absolute", "huge", "JAX's value", NO_NUMBER),
    Reason("JAX's condition number overflows, or is 0 / 0", r"linalg\.cond", "huge|zeros.*", ALL),
    Reason("targets of 1e200 beside slopes of 1", r"nn\.binary_cross_entropy", "huge", "second derivative"),
    Reason("a sum of numbers that overflow, in another order", SUMS, "huge", ALL, "nan|inf"),
    Reason("a product overflows", "prod|cum.*prod|nan.*prod|multiply", "huge", DERIVATIVES, "nan|inf"),
    Reason("10 ** x overflows, or the slope of its logarithm underflows", "logspace|geomspace", "huge", DERIVATIVES),
    Reason("beyond an infinite slope", "arcsin|arccos|arccosh|arctanh|cbrt|sqrt|divide", f"ones|{ZERO}",
           "second derivative"),
    Reason("the spread of equal numbers is rounding", r"(nan)?(var|std)|cov|corrcoef|nn\.\w+_norm", EQUAL, ALL),
    Reason("JAX's slope of i0 is 0 at 0 at every order", "i0", ZERO, DERIVATIVES),
    Reason("JAX's ldexp has another slope at 0", "ldexp", ZERO, DERIVATIVES),
    Reason("JAX takes intervals below a threshold for empty ones, and overflows where they are wide", "interp",
           f"{EQUAL}|{EXTREME}", ALL),
    Reason("the squares underflow: NumPy's norm is 0", r"linalg\.norm", "tiny", DERIVATIVES),
    Reason("JAX has NaN where matrices lack rank, or are huge or tiny", r"linalg\..*", f"{EQUAL}|{EXTREME}",
           DERIVATIVES, NO_NUMBER),
    Reason("the determinant of a matrix that lacks rank, or whose products overflow", r"linalg\.(slog)?det",
           f"as they are|{EQUAL}|{EXTREME}", ALL),
    Reason("factors of a matrix that lacks rank are LAPACK's choice, and rounding", r"linalg\.(qr|svd|lstsq)",
           EQUAL, ALL),
    Reason("an inverse overflows", r"linalg\.matrix_power", "tiny", "JAX's value", "inf"),
]  # fmt: skip

REASONS = [*BESIDE_NUMPY, *FAULTS, *CONVENTIONS, *ACCURACY]
