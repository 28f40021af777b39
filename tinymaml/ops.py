"""All primitives under one name: those of `primitives`, and here the others, which a first reading may leave out.

    x ** y, log(eˣ + eʸ)      with what makes them right at 0 and at infinity
    min(x, y), |x|, where     and max, cumsum, concatenate
    piecewise constant        comparisons, sign, floor, argmax, …: they have no rules, since their derivative is zero

Conventions at kinks, where a derivative is a choice:

    maximum, minimum, clip   a tie shares the cotangent by halves (`maximum(x, y, tie=)`)
    abs, sign                sign(0) = 0, so the slope of |x| at 0 is 0; the derivative of sign is 0
    max, min (reductions)    ties share equally (`max(x, ties="split")`), or the first takes all (`ties="first"`)
    nn.relu                  ReLU′(0) = 0 (`relu(x, at_zero=)`)
    nn.max_pool2d            the first of a tie takes all (`ties=`)
    linalg.norm              slope 0 at 0, as of |x|; the second derivative there is infinite, and comes out as NaN:
                             np.sum(x * x) is smooth, np.linalg.norm(x) ** 2 is not to second order
    x ** y                   at x = 0, where y ≥ 0, the slope by y is 0; also at y = 0, as in PyTorch and JAX
    logaddexp                where it is infinite, the slopes are those of the maximum
    sqrt                     no convention: the derivative at 0 is infinite, or NaN

Complex numbers are those of NumPy, and a cotangent z̄ of z says dL = Re Σ z̄ dz: no rule of a holomorphic function
conjugates. In a complex step (`engine.analytic`) they stand for real ones: order and sign go by the real part.

Linear operations come in transposed pairs here, too: `pick` and `unpick`; `concatenate` and slices; `cumsum` and
`cumsum` from the end.
The operators of tensors that belong to these primitives are attached at the end of this file.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable
from functools import partial

import numpy as np

from . import kernels
from .axes import normal_axes, reduced_if_any
from .engine import Primitive, Tensor, analytic
from .modes import ordered, stands_for_real
from .primitives import (
    ARRAY,
    _broadcast_to,
    _matmul,
    _reshape,
    _sum,
    _transpose,
    above,
    add,
    attach_operators,
    broadcast_to,
    cos,
    divide,
    elementwise,
    exp,
    getitem,
    log,
    matmul,
    matrix_transpose,
    maximum,
    multiply,
    patches,
    reshape,
    scatter_add,
    sin,
    sqrt,
    subtract,
    sum,
    sum_to,
    tanh,
    transpose,
    unpatches,
)

# ── powers ──────────────────────────────────────────────────────────────────────────────────────────────────────────

# z = xʸ:  ∂z/∂x = y xʸ⁻¹, and 0 where y = 0;  ∂z/∂y = xʸ log x, and 0 where x = y = 0
power = elementwise("power", np.power,
                    lambda g, z, x, y: g * y * _power_below(x, y, z.dtype),
                    lambda g, z, x, y: g * power_log(x, y, n=1, k=0),
                    loop="{type}({} ** {})", of_integers="machine.power({}, {})")


def _power_below(x, y, dtype):
    """xʸ⁻¹, for y xʸ⁻¹. Where y = 0 it is x⁰ instead: at x = 0 the product is then 0 · 1, and not 0 · inf = NaN.

    There are three kinds of exponents. In x ** 2 it is a Python number, a constant that a rule may look at; it remains
    one, since as an array it would promote float32. In x ** np.array([2, 3]) it is a constant array. In x ** y it is a
    tensor, by which xʸ⁻¹ may be differentiated as well: `power_log` has the derivatives by both.
    """
    if isinstance(y, (int, float)):
        return power(x, y - 1 if y else y)
    y = in_dtype(y, dtype)  # the smallest integer less one would be the largest
    constant = not isinstance(y, Tensor) or y._is_data
    return power(x, y - not_equal(y, 0)) if constant else power_log(x, _exponent_below(x, y), n=0, k=1)


# z = xʸ (log x)ⁿ:  ∂z/∂x = y xʸ⁻¹ (log x)ⁿ + n xʸ⁻¹ (log x)ⁿ⁻¹,  ∂z/∂y = xʸ (log x)ⁿ⁺¹
# All derivatives of xʸ are made of such terms; for example
#     ∂²(xʸ)/∂x∂y = y power_log(x, y − 1, n=1, k=1) + power_log(x, y − 1, n=0, k=1)
# where k counts the derivatives by x. It matters at x = y = 0 alone, if n > 0: there the term is 0 if k = 0, by
# convention, and infinite if k > 0. Where x = 0, the logarithm is replaced by 0, so that 0 log 0 is 0.
def _power_log(x, y, *, n, k):
    z = np.power(x, y)
    log_x = np.log(np.where(np.equal(x, 0), 1, x).astype(z.dtype))
    infinite = np.equal(x, 0) & ((np.real(y) < 0) | np.equal(y, 0) & (k > 0)) & (n > 0)
    return np.where(infinite, z.dtype.type(-np.inf if n % 2 else np.inf), z * log_x**n)


def _power_log_by_x(g, z, x, y, *, n, k):
    y_1 = _exponent_below(x, y)
    by_power = y * power_log(x, y_1, n=n, k=k + 1)
    return g * (by_power + n * power_log(x, y_1, n=n - 1, k=k + 1) if n else by_power)


def _exponent_below(x, y):
    """y − 1, and 0 where x = y = 0."""
    return y - logical_or(not_equal(x, 0), not_equal(y, 0))


power_log = elementwise("power_log", _power_log, _power_log_by_x,
                        lambda g, z, x, y, *, n, k: g * power_log(x, y, n=n + 1, k=k),
                        loop="{type}(machine.power_log({}, {}, {n}, {k}))")


# ── elementwise, with kinks ─────────────────────────────────────────────────────────────────────────────────────────


def _logaddexp(x, y):
    if not stands_for_real(x, y):
        return np.logaddexp(x, y)
    m = np.where(np.real(x) > np.real(y), x, y)
    return m + np.log(np.exp(x - m) + np.exp(y - m))


def logaddexp_share(exp, x, y, z):
    """eˣ⁻ᶻ, the share of x in eᶻ = eˣ + eʸ, and its share in max(x, y) where z is infinite; with `exp2`, 2ˣ⁻ᶻ."""
    far = isinf(z)
    return where(far, above(x, y, tie=0.5, dtype=z.dtype), exp(where(far, 0, x - z)))


# z = log(eˣ + eʸ):  ∂z/∂x = eˣ⁻ᶻ.  It is smooth at ties and stable anywhere: softplus and sigmoid are made of it
logaddexp = elementwise("logaddexp", _logaddexp,
                        lambda g, z, x, y: g * logaddexp_share(exp, x, y, z),
                        lambda g, z, x, y: g * logaddexp_share(exp, y, x, z),
                        loop="{type}(machine.logaddexp({}, {}))")

# z = min(x, y)
minimum = elementwise("minimum", lambda x, y, *, tie=0.5: np.minimum(x, y),
                      lambda g, z, x, y, *, tie=0.5: g * above(y, x, tie=tie, dtype=g.dtype),
                      lambda g, z, x, y, *, tie=0.5: g * above(x, y, tie=1 - tie, dtype=g.dtype),
                      loop="smaller({}, {})", cheap=True, exact=True, decides="comparison")


def _absolute(x):
    return x * np.sign(np.real(x)) if stands_for_real(x) else np.absolute(x)


def _slope_of_absolute(x):
    """sign x; of complex numbers z̅ / |z|, and 0 at 0."""
    return np.conj(np.sign(x)) if x.dtype.kind == "c" and not analytic.get() else sign(x)


absolute = elementwise("absolute", _absolute, lambda g, z, x: g * _slope_of_absolute(x),
                       loop="abs({})", of_integers="{0} if {0} >= 0 else {type}(-{0})", of_truths="{}",
                       exact=True, decides=np.zeros_like)

# z = x where c, else y.  It is a choice and not a product c x + (1 − c) y, since what is not chosen may be infinite
where = elementwise("where", np.where, None, lambda g, z, c, x, y: where(c, g, 0), lambda g, z, c, x, y: where(c, 0, g),
                    loop="choose({}, {}, {})", computed_in="choice", cheap=True, exact=True)

astype = elementwise("astype", lambda x, *, dtype: np.asarray(x).astype(dtype),
                     lambda g, z, x, *, dtype: g,  # the engine casts it to the dtype of x
                     loop="{type}({})", cheap=True)


def in_dtype(x, dtype: np.dtype):
    """x in that dtype; x itself if it has it already."""
    return x if x.dtype == dtype else astype(x, dtype=dtype)


def as_computed(f: np.ufunc, x):
    """x in the dtype in which NumPy's function f of one array computes; NumPy's TypeError if f does not take x."""
    return in_dtype(x, f.resolve_dtypes((x.dtype, None))[0])


def square(x):
    """x², elementwise; of booleans it is an int8, as in NumPy."""
    x = as_computed(np.square, x)
    return x * x


def negative(x):
    """−x; a boolean raises NumPy's TypeError.

    Floating-point numbers are multiplied by −1: this is exact, and `programs` can merge it with other factors.
    Integers are subtracted from 0, which wraps as NumPy's negation does.
    """
    if x.dtype.kind in "fc":
        return multiply(x, -1)
    np.negative(np.zeros(1, x.dtype))  # raises for booleans
    return subtract(0, x)


def positive(x):
    """x itself; a boolean raises NumPy's TypeError."""
    np.positive(np.zeros(1, x.dtype))  # raises for booleans
    return x


# ── piecewise constant: these make records like any other, and their derivative is zero ─────────────────────────────


def _max_share(x, *, axis, ties):
    """The share of each element in the maximum over `axis`: 1/n for n tied, or 1 for the first and 0 for the rest."""
    best = x == np.max(x, axis, keepdims=True)
    if ties == "first":
        end = range(-len(axis), 0)
        moved = np.moveaxis(best, axis, end)
        flat = moved.reshape(*moved.shape[: -len(axis)], -1)
        best = np.moveaxis((flat & (np.cumsum(flat, -1) == 1)).reshape(moved.shape), end, axis)
    return best / np.sum(best, axis, keepdims=True, dtype=np.real(x).dtype)


max_share = Primitive("max_share", _max_share, shape=lambda x, **_: x, lowering="replayed", decides="largest")
pool_argmax = Primitive("pool_argmax", kernels.pool_argmax, shape=kernels.pool_argmax.shape,
                        dtype=lambda x: kernels.pool_argmax.dtype, lowering="pool_argmax", decides="choice")
argmax = Primitive("argmax", lambda x, *, axis, keepdims: np.argmax(x, axis, keepdims=keepdims),
                   shape=reduced_if_any, dtype=lambda x: np.dtype(np.intp),
                   lowering="argmax", decides="choice")
argmin = Primitive("argmin", lambda x, *, axis, keepdims: np.argmin(x, axis, keepdims=keepdims),
                   shape=reduced_if_any, dtype=lambda x: np.dtype(np.intp),
                   lowering="argmin", decides="choice")
argsort = Primitive("argsort", lambda x, *, axis: np.argsort(x, axis, kind="stable"),
                    shape=lambda x, *, axis: x, dtype=lambda x: np.dtype(np.intp), lowering="argsort", decides="choice")
reciprocal = elementwise("reciprocal", np.reciprocal,  # of integers: 1, −1, or 0; floats are divided
                         of_integers="{type}({0} == 1) - {type}({0} == -1)")

sign  = elementwise("sign", lambda x: np.sign(ordered(x)), loop="sign({})", exact=True, decides=np.zeros_like)
floor = elementwise("floor", np.floor, loop="{type}(np.floor({}))", of_integers="{}", of_truths="{}",
                    exact=True, decides=np.rint)

equal      = elementwise("equal", np.equal, loop="{} == {}", computed_in="common", decides="comparison", cheap=True)
not_equal  = elementwise("not_equal", np.not_equal, loop="{} != {}", computed_in="common", decides="comparison")
less       = elementwise("less", np.less, loop="{} < {}", computed_in="common", decides="comparison", cheap=True)
less_equal = elementwise("less_equal", np.less_equal, loop="{} <= {}", computed_in="common", decides="comparison")
greater    = elementwise("greater", np.greater, loop="{} > {}", computed_in="common", decides="comparison", cheap=True)
greater_equal = elementwise("greater_equal", np.greater_equal, loop="{} >= {}",
                            computed_in="common", decides="comparison")

isnan       = elementwise("isnan", np.isnan, loop="{0} != {0}", computed_in="own")
isinf       = elementwise("isinf", np.isinf, loop="{0} == {0} and {0} - {0} != {0} - {0}", computed_in="own")
logical_not = elementwise("logical_not", np.logical_not, loop="not {}", computed_in="own")
logical_and = elementwise("logical_and", np.logical_and, loop="bool({}) and bool({})", computed_in="own")
logical_or  = elementwise("logical_or", np.logical_or, loop="bool({}) or bool({})", computed_in="own")

bitwise_and = elementwise("bitwise_and", np.bitwise_and, loop="{} & {}")
bitwise_or  = elementwise("bitwise_or",  np.bitwise_or,  loop="{} | {}")
bitwise_xor = elementwise("bitwise_xor", np.bitwise_xor, loop="{} ^ {}")
invert      = elementwise("invert",      np.invert,      loop="~{}", of_truths="not {}")


# ── reductions, and what is linear ──────────────────────────────────────────────────────────────────────────────────

_cumsum = Primitive("cumsum", lambda x, *, axis: np.cumsum(x, axis),
                    (lambda g, z, x, *, axis: flip(cumsum(flip(g, axis), axis), axis),),
                    lowering="cumsum", adds_up=True)
_max = Primitive("max", lambda x, *, axis, keepdims, ties: np.max(x, axis, keepdims=keepdims),
                 (lambda g, z, x, *, axis, keepdims, ties:
                     (g if keepdims else expand_dims(g, axis)) * max_share(x, axis=axis, ties=ties),),
                 shape=reduced_if_any, lowering="largest", exact=True, decides="largest")


def expand_dims(x, axis: tuple[int, ...]):
    """x with an axis of length 1 at each of `axis`, which are non-negative places in the result.

    >>> tm.ops.expand_dims(np.ones((2, 3)), (0, 2)).shape
    (1, 2, 1, 3)
    """
    lengths = iter(x.shape)
    return reshape(x, tuple(1 if i in axis else next(lengths) for i in range(x.ndim + len(axis))))


# In this file, `max` is this one, and Python's is `builtins.max`.
def max(x, axis=None, keepdims=False, ties="split"):
    """The largest element of x over `axis`, as in `sum`; `ties` says to which of equal ones the derivative goes.

    Args:
        ties: "split", an equal share to each; or "first", all to the first.

    Raises:
        AxisError, ValueError: as in `normal_axes`; ValueError too where there is no element.

    >>> [tm.grad(lambda x: tm.ops.max(x, ties=ties))(np.array([1.0, 4.0, 4.0])).tolist() for ties in ("split", "first")]
    [[0.0, 0.5, 0.5], [0.0, 1.0, 0.0]]
    """
    return _max(x, axis=normal_axes(axis, x.ndim), keepdims=bool(keepdims), ties=ties)


def cumsum(x, axis: int):
    """The running sum of x along a non-negative axis, in the shape of x."""
    return _cumsum(x, axis=axis)


def flip(x, axis: int):
    """x in reverse order along a non-negative axis."""
    return getitem(x, template=(slice(None),) * axis + (slice(None, None, -1),))


class EachInput:
    """The rules of a primitive with any number of inputs: `rule(i, g, z, *xs)` is the cotangent of input i."""

    def __init__(self, rule: Callable):
        self.rule = rule

    def __getitem__(self, i: int) -> Callable:
        return partial(self.rule, i)


def _concatenate_rule(i, g, z, *xs, axis):
    start = builtins.sum(x.shape[axis] for x in xs[:i])
    return getitem(g, template=(slice(None),) * axis + (slice(start, start + xs[i].shape[axis]),))


concatenate = Primitive("concatenate", lambda *xs, axis: np.concatenate(xs, axis), EachInput(_concatenate_rule),
                        lowering="concatenate", exact=True)


# pick takes from every window of size × size the element that k = pool_argmax names; unpick puts it back.
pick = Primitive("pick", kernels.pick,
                 (lambda g, z, x, k, *, size: unpick(g, k, size=size, shape=x.shape),),
                 shape=kernels.pick.shape, lowering="kernel", exact=True)
unpick = Primitive("unpick", kernels.unpick,
                   (lambda g, z, x, k, *, size, shape: pick(g, k, size=size),),
                   shape=kernels.unpick.shape, lowering="kernel", exact=True)


# ── operators ───────────────────────────────────────────────────────────────────────────────────────────────────────

attach_operators(pow=power, **{"and": bitwise_and, "or": bitwise_or, "xor": bitwise_xor})
for _name, _compare in dict(eq=equal, ne=not_equal, lt=less, le=less_equal, gt=greater, ge=greater_equal).items():
    setattr(Tensor, f"__{_name}__", lambda x, y, f=_compare: f(x, y))
# of booleans, x ** 2 is x² in int8, as NumPy's operator computes it; np.power(x, 2) is not
Tensor.__pow__ = lambda x, y: square(x) if x.dtype == bool and type(y) is int and y == 2 else power(x, y)
Tensor.__neg__ = lambda x: negative(x)
Tensor.__pos__ = lambda x: positive(x)
Tensor.__abs__ = lambda x: absolute(x)
Tensor.__invert__ = lambda x: invert(x)
Tensor.astype = lambda x, dtype: astype(x, dtype=np.dtype(dtype))
