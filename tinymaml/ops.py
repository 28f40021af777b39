"""Primitives: what the engine can differentiate, each with its rule beside it; and the operators.

Elementwise rules follow from the chain rule. Linear operations come in transposed pairs. Each is the other's rule, so
that second order needs no further rules:

    sum          ↔  broadcast_to            reshape  ↔  reshape                matmul   ↔  matmul
    getitem      ↔  scatter_add             transpose ↔ inverse transpose      patches  ↔  unpatches
    concatenate  ↔  slices (getitem)        cumsum   ↔  cumsum from the end    pick     ↔  unpick

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

How `np.tanh(x)` gets here, if x is a tensor:

    np.tanh(x)                        NumPy sees that x has its own `__array_ufunc__`, and calls it
    numpy_api/table.py                `_array_ufunc` looks np.tanh up in the table `NUMPY`, and finds ops.tanh,
    numpy_api/elementwise.py          which an entry of this file put there: np.tanh: ops.tanh
    ops.tanh(x)                       `Primitive.__call__` in `engine` computes np.tanh(x.value), and makes the record
    x + y, x @ y, -x, x[0]            are attached to Tensor at the end of this file, and in `numpy_api/methods.py`

All other functions of NumPy are composed of these in `numpy_api`. The examples below use NumPy as `np` and the names of
this file. A first reading may leave out three things: the keywords after the rules (`loop=`, `shape=`, `decides=`, …),
which `description` explains and `programs` alone uses; what follows `power`, as far as `maximum`; and the operations
that are piecewise constant. Read next: `nn`.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable
from functools import partial

import numpy as np

from . import kernels
from .engine import Primitive, Tensor, analytic

# ── elementwise ─────────────────────────────────────────────────────────────────────────────────────────────────


def elementwise(name: str, forward: Callable, *rules: Callable | None, **description) -> Primitive:
    """A primitive that broadcasts: the result of each rule is summed back to the shape of its input.

    Args:
        name, forward: as for `Primitive`; the shapes of the inputs broadcast to that of the output.
        *rules: one per input, None for an input without a slope; without any rule, the derivative is zero.
        **description: as for `Primitive`.

    Example:
        >>> from tinymaml import grad
        >>> cubed = elementwise("cubed", lambda x: x**3, lambda g, z, x: g * (3 * x * x))
        >>> grad(lambda x: sum(cubed(x)))(np.array([1.0, 2.0]))
        array([ 3., 12.])
    """

    def summed(i: int, rule: Callable) -> Callable:
        return lambda g, z, *xs, **params: sum_to(rule(g, z, *xs, **params), xs[i].shape)

    vjp = tuple(rule and summed(i, rule) for i, rule in enumerate(rules))
    return Primitive(name, forward, vjp or None, elementwise=True, **({"lowering": "loop"} | description))


def sum_to(g, shape: tuple[int, ...]):
    """Undo broadcasting: sum g over the axes along which `shape` was stretched.

    Example:
        >>> sum_to(np.ones((4, 2, 3)), (2, 1))
        array([[12.],
               [12.]])
    """
    if g.shape == shape:
        return g
    lead = g.ndim - len(shape)
    return reshape(sum(g, (*range(lead), *(lead + i for i, n in enumerate(shape) if n != g.shape[lead + i]))), shape)


# g is the cotangent of the output z                       …of x                         …of y
add      = elementwise("add",      np.add,      lambda g, z, x, y: g,      lambda g, z, x, y: g,
                       loop="{} + {}", of_truths="{} | {}", cheap=True, adds_up=True)
subtract = elementwise("subtract", np.subtract, lambda g, z, x, y: g,      lambda g, z, x, y: -g,
                       loop="{} - {}", cheap=True, adds_up=True)
multiply = elementwise("multiply", np.multiply, lambda g, z, x, y: g * y,  lambda g, z, x, y: g * x,
                       loop="{} * {}", cheap=True)
divide   = elementwise("divide",   np.divide,   lambda g, z, x, y: g / y,  lambda g, z, x, y: -g * z / y,
                       loop="{} / {}")
exp      = elementwise("exp",      np.exp,      lambda g, z, x: g * z,                  loop="math.exp({})")
log      = elementwise("log",      np.log,      lambda g, z, x: g / x,                  loop="math.log({})")
sqrt     = elementwise("sqrt",     np.sqrt,     lambda g, z, x: g / (2 * z),            loop="math.sqrt({})")
sin      = elementwise("sin",      np.sin,      lambda g, z, x: g * cos(x),             loop="math.sin({})")
cos      = elementwise("cos",      np.cos,      lambda g, z, x: -g * sin(x),            loop="math.cos({})")
tanh     = elementwise("tanh",     np.tanh,     lambda g, z, x: g * (1 - z * z),        loop="math.tanh({})")

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
    log = np.log(np.where(np.equal(x, 0), 1, x).astype(z.dtype))
    infinite = np.equal(x, 0) & ((np.real(y) < 0) | np.equal(y, 0) & (k > 0)) & (n > 0)
    return np.where(infinite, z.dtype.type(-np.inf if n % 2 else np.inf), z * log**n)


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


def in_dtype(x, dtype: np.dtype):
    """x in that dtype; x itself if it has it already."""
    return x if x.dtype == dtype else astype(x, dtype=dtype)


def as_computed(f: np.ufunc, x):
    """x in the dtype in which NumPy's function f of one array computes; NumPy's TypeError if f does not take x."""
    return in_dtype(x, f.resolve_dtypes((x.dtype, None))[0])


def stands_for_real(*xs) -> bool:
    """Whether one of them is complex and stands for a real number, as in a complex step."""
    return analytic.get() and any(map(np.iscomplexobj, xs))


def _ordered(x):
    """The numbers that give the order of x: x itself, or its real part if x stands for real numbers."""
    return np.real(x) if stands_for_real(x) else x


def _logaddexp(x, y):
    if not stands_for_real(x, y):
        return np.logaddexp(x, y)
    m = np.where(np.real(x) > np.real(y), x, y)
    return m + np.log(np.exp(x - m) + np.exp(y - m))


def share(exp, x, y, z):
    """eˣ⁻ᶻ, the share of x in eᶻ = eˣ + eʸ, and its share in max(x, y) where z is infinite; with `exp2`, 2ˣ⁻ᶻ."""
    far = isinf(z)
    return where(far, above(x, y, tie=0.5, dtype=z.dtype), exp(where(far, 0, x - z)))


# z = log(eˣ + eʸ):  ∂z/∂x = eˣ⁻ᶻ.  It is smooth at ties and stable anywhere: softplus and sigmoid are made of it
logaddexp = elementwise("logaddexp", _logaddexp,
                        lambda g, z, x, y: g * share(exp, x, y, z), lambda g, z, x, y: g * share(exp, y, x, z),
                        loop="{type}(machine.logaddexp({}, {}))")

# z = max(x, y)
maximum = elementwise("maximum", lambda x, y, *, tie=0.5: np.maximum(x, y),
                      lambda g, z, x, y, *, tie=0.5: g * above(x, y, tie=tie, dtype=g.dtype),
                      lambda g, z, x, y, *, tie=0.5: g * above(y, x, tie=1 - tie, dtype=g.dtype),
                      loop="larger({}, {})", cheap=True, exact=True, decides="comparison")

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


# ── piecewise constant: these make records like any other, and their derivative is zero ─────────────────────────────


def _above(x, y, *, tie, dtype):
    """1 where x > y, `tie` where x = y, 0 elsewhere."""
    x, y = _ordered(x), _ordered(y)
    step = np.greater(x, y).astype(dtype)
    return step + np.equal(x, y) * np.dtype(dtype).type(tie) if tie else step


def _max_share(x, *, axis, ties):
    """The share of each element in the maximum over `axis`: 1/n for n tied, or 1 for the first and 0 for the rest."""
    best = x == np.max(x, axis, keepdims=True)
    if ties == "first":
        end = range(-len(axis), 0)
        moved = np.moveaxis(best, axis, end)
        flat = moved.reshape(*moved.shape[: -len(axis)], -1)
        best = np.moveaxis((flat & (np.cumsum(flat, -1) == 1)).reshape(moved.shape), end, axis)
    return best / np.sum(best, axis, keepdims=True, dtype=np.real(x).dtype)


above = elementwise("above", _above, loop="above({}, {}, {tie})",
                    computed_in="common", cheap=True, decides="comparison")
max_share = Primitive("max_share", _max_share, shape=lambda x, **_: x, lowering="replayed", decides="largest")
pool_argmax = Primitive("pool_argmax", kernels.pool_argmax, shape=kernels.pool_argmax.shape,
                        dtype=lambda x: kernels.pool_argmax.dtype, lowering="pool_argmax", decides="choice")
argmax = Primitive("argmax", lambda x, *, axis, keepdims: np.argmax(x, axis, keepdims=keepdims),
                   shape=lambda x, **how: _reduced_if_any(x, **how), dtype=lambda x: np.dtype(np.intp),
                   lowering="argmax", decides="choice")
argmin = Primitive("argmin", lambda x, *, axis, keepdims: np.argmin(x, axis, keepdims=keepdims),
                   shape=lambda x, **how: _reduced_if_any(x, **how), dtype=lambda x: np.dtype(np.intp),
                   lowering="argmin", decides="choice")
argsort = Primitive("argsort", lambda x, *, axis: np.argsort(x, axis, kind="stable"),
                    shape=lambda x, *, axis: x, dtype=lambda x: np.dtype(np.intp), lowering="argsort", decides="choice")
reciprocal = elementwise("reciprocal", np.reciprocal,  # of integers: 1, −1, or 0; floats are divided
                         of_integers="{type}({0} == 1) - {type}({0} == -1)")

sign  = elementwise("sign", lambda x: np.sign(_ordered(x)), loop="sign({})", exact=True, decides=np.zeros_like)
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


# ── linear: transposed pairs ────────────────────────────────────────────────────────────────────────────────────────

def _reduced(shape, *, axis, keepdims, **_) -> tuple[int, ...]:
    """The shape of a reduction of `shape` over `axis`, as a keyword `shape=` of a primitive gives it."""
    axes = normal_axes(axis, len(shape))
    return tuple(1 if i in axes else n for i, n in enumerate(shape) if keepdims or i not in axes)


def _reduced_if_any(shape, **how) -> tuple[int, ...] | None:
    """`_reduced` for a reduction that needs an element; None where there is none, so that NumPy raises its error."""
    return None if 0 in shape else _reduced(shape, **how)


_sum = Primitive("sum", lambda x, *, axis, keepdims: np.sum(x, axis, keepdims=keepdims),
                 (lambda g, z, x, *, axis, keepdims: broadcast_to(g if keepdims else expand_dims(g, axis), x.shape),),
                 shape=_reduced, dtype=lambda x: np.sum(np.zeros(1, x)).dtype, lowering="loop", adds_up=True)
_broadcast_to = Primitive("broadcast_to", lambda x, *, shape: np.broadcast_to(x, shape),
                          (lambda g, z, x, *, shape: sum_to(g, x.shape),),
                          lowering="broadcast_to", exact=True)
_reshape = Primitive("reshape", lambda x, *, shape: np.reshape(x, shape),
                     (lambda g, z, x, *, shape: reshape(g, x.shape),),
                     lowering="reshape", exact=True)
_transpose = Primitive("transpose", lambda x, *, axes: np.transpose(x, axes),
                       (lambda g, z, x, *, axes: transpose(g, sorted(range(len(axes)), key=axes.__getitem__)),),
                       lowering="transpose", exact=True)
_cumsum = Primitive("cumsum", lambda x, *, axis: np.cumsum(x, axis),
                    (lambda g, z, x, *, axis: flip(cumsum(flip(g, axis), axis), axis),),
                    lowering="cumsum", adds_up=True)
_max = Primitive("max", lambda x, *, axis, keepdims, ties: np.max(x, axis, keepdims=keepdims),
                 (lambda g, z, x, *, axis, keepdims, ties:
                     (g if keepdims else expand_dims(g, axis)) * max_share(x, axis=axis, ties=ties),),
                 shape=_reduced_if_any, lowering="largest", exact=True, decides="largest")


def normal_axes(axis, ndim: int) -> tuple[int, ...]:
    """An axis as NumPy takes it (None, an int, a tuple of ints), as a tuple of non-negative ints in order.

    Raises:
        AxisError: an axis is not among `ndim`.
        ValueError: an axis is repeated.

    Example:
        >>> normal_axes(None, 3), normal_axes((-1, 0), 3)
        ((0, 1, 2), (0, 2))
    """
    axis = range(ndim) if axis is None else (axis,) if isinstance(axis, (int, np.integer)) else tuple(axis)
    for a in axis:
        if not -ndim <= a < ndim:
            raise np.exceptions.AxisError(a, ndim)
    axes = tuple(sorted(int(a) % ndim for a in axis))
    if len(set(axes)) != len(axes):
        raise ValueError(f"repeated axis in {tuple(axis)}")
    return axes


def negative(x):
    """−x; a boolean raises NumPy's TypeError.

    Floating-point numbers are multiplied by −1: this is exact, and `programs` can merge it with other factors.
    Integers are subtracted from 0, which wraps as NumPy's negation does.
    """
    if x.dtype.kind in "fc":
        return multiply(x, -1)
    np.negative(np.zeros(1, x.dtype))  # raises for booleans
    return subtract(0, x)


def square(x):
    """x², elementwise; of booleans it is an int8, as in NumPy."""
    x = as_computed(np.square, x)
    return x * x


def positive(x):
    """x itself; a boolean raises NumPy's TypeError."""
    np.positive(np.zeros(1, x.dtype))  # raises for booleans
    return x


# In this file, `sum` and `max` are these two, and Python's are `builtins.sum` and `builtins.max`.
def sum(x, axis=None, keepdims=False):
    """The sum of x over `axis`: None (all axes), an int, or a tuple of ints; `keepdims` keeps them with length 1.

    Raises:
        AxisError, ValueError: as in `normal_axes`.

    Example:
        >>> sum(np.ones((2, 3)), axis=1)
        array([3., 3.])
    """
    return _sum(x, axis=normal_axes(axis, x.ndim), keepdims=bool(keepdims))


def max(x, axis=None, keepdims=False, ties="split"):
    """The largest element of x over `axis`, as in `sum`; `ties` says to which of equal ones the derivative goes.

    Args:
        ties: "split", an equal share to each; or "first", all to the first.

    Raises:
        AxisError, ValueError: as in `normal_axes`; ValueError too where there is no element.

    Example:
        >>> from tinymaml import grad
        >>> [grad(lambda x: max(x, ties=ties))(np.array([1.0, 4.0, 4.0])).tolist() for ties in ("split", "first")]
        [[0.0, 0.5, 0.5], [0.0, 1.0, 0.0]]
    """
    return _max(x, axis=normal_axes(axis, x.ndim), keepdims=bool(keepdims), ties=ties)


def expand_dims(x, axis: tuple[int, ...]):
    """x with an axis of length 1 at each of `axis`, which are non-negative places in the result.

    Example:
        >>> expand_dims(np.ones((2, 3)), (0, 2)).shape
        (1, 2, 1, 3)
    """
    lengths = iter(x.shape)
    return reshape(x, tuple(1 if i in axis else next(lengths) for i in range(x.ndim + len(axis))))


def broadcast_to(x, shape: tuple[int, ...]):
    """x repeated to that shape, as `np.broadcast_to`; x itself if it has it already."""
    return x if x.shape == shape else _broadcast_to(x, shape=shape)


def reshape(x, shape: tuple[int, ...]):
    """x with its elements, in order, in that shape, in which no length is −1; x itself if it has it already."""
    return x if x.shape == shape else _reshape(x, shape=shape)


def transpose(x, axes):
    """x with its axes in another order: axis i of the result is axis `axes[i]` of x, all non-negative."""
    return _transpose(x, axes=tuple(axes))


def cumsum(x, axis: int):
    """The running sum of x along a non-negative axis, in the shape of x."""
    return _cumsum(x, axis=axis)


def flip(x, axis: int):
    """x in reverse order along a non-negative axis."""
    return getitem(x, template=(slice(None),) * axis + (slice(None, None, -1),))


# z = x y, batched over the leading axes:  x̄ = g yᵀ,  ȳ = xᵀ g
_matmul = Primitive("matmul", np.matmul,
                    (lambda g, z, x, y: sum_to(_matmul(g, matrix_transpose(y)), x.shape),
                     lambda g, z, x, y: sum_to(_matmul(matrix_transpose(x), g), y.shape)),
                    shape=lambda x, y: (*np.broadcast_shapes(x[:-2], y[:-2]), x[-2], y[-1]) if x[-1] == y[-2] else None,
                    dtype=lambda x, y: np.matmul(np.zeros((1, 1), x), np.zeros((1, 1), y)).dtype,
                    lowering="matmul", adds_up=True)


def matrix_transpose(x):
    """(…, m, n) → (…, n, m)."""
    return transpose(x, (*range(x.ndim - 2), x.ndim - 1, x.ndim - 2))


def matmul(x, y):
    """The matrix product, as `np.matmul`: (…, m, n) times (…, n, p) is (…, m, p), batched over leading axes.

    A vector becomes a matrix of one row or column, and is made a vector again. A batch of matrices times one matrix is
    computed as one tall matrix times this matrix, which is faster.

    Raises:
        ValueError: an operand is a scalar, or n differs.

    Example:
        >>> matmul(np.ones((5, 2, 3)), np.ones(3)).shape
        (5, 2)
    """
    x, y = (a if isinstance(a, Tensor) else np.asarray(a) for a in (x, y))
    if x.ndim == 0 or y.ndim == 0:
        raise ValueError("matmul: an operand is a scalar, wanted vectors or matrices; a scalar multiplies with *")
    if y.ndim == 1:
        z = matmul(x, reshape(y, (*y.shape, 1)))
        return reshape(z, z.shape[:-1])
    if x.ndim == 1:
        z = matmul(reshape(x, (1, *x.shape)), y)
        return reshape(z, z.shape[:-2] + z.shape[-1:])
    if x.ndim > 2 and y.ndim == 2:
        rows = int(np.prod(x.shape[:-1]))
        return reshape(_matmul(reshape(x, (rows, x.shape[-1])), y), (*x.shape[:-1], y.shape[-1]))
    return _matmul(x, y)


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

# z = x[index];  its transpose puts g back at the index, and adds where the index repeats.
# The arrays of an index are inputs, since a program is recorded for any of them. Its other parts (ints, slices, None,
# ...) are a parameter, the template, in which ARRAY marks the place of each array:
#     x[:, rows, 3]     is     getitem(x, rows, template=(slice(None), ARRAY, 3))
ARRAY = "array"


def _filled(template: tuple, arrays: tuple) -> tuple:
    """The index: the template with the arrays in their places.

    Example:
        >>> _filled((slice(None), ARRAY, 3), (np.array([0, 2]),))
        (slice(None, None, None), array([0, 2]), 3)
    """
    supply = iter(arrays)
    return tuple(next(supply) if part is ARRAY else part for part in template)


def _scatter_add(g, *arrays, template, shape):
    if arrays:
        return kernels.scatter_add(g, _filled(template, arrays), shape)
    z = np.zeros(shape, g.dtype)
    z[template] = g  # ints and slices never name an element twice, so nothing has to be added up
    return z


getitem = Primitive("getitem", lambda x, *arrays, template: x[_filled(template, arrays)],
                    (lambda g, z, x, *arrays, template: scatter_add(g, *arrays, template=template, shape=x.shape),),
                    lowering="getitem", exact=True)
scatter_add = Primitive("scatter_add", _scatter_add,
                        (lambda g, z, x, *arrays, template, shape: getitem(g, *arrays, template=template),),
                        lowering="scatter_add", adds_up=True)

# Images are (N, H, W, C).  Each row of patches is a window of x, flattened; unpatches adds the windows back.
patches = Primitive("patches", kernels.patches,
                    (lambda g, z, x, **how: unpatches(g, shape=x.shape, **how),),
                    shape=kernels.patches.shape, lowering="patches", exact=True)
unpatches = Primitive("unpatches", kernels.unpatches,
                      (lambda g, z, x, *, shape, **how: patches(g, **how),),
                      shape=kernels.unpatches.shape, lowering="unpatches", adds_up=True)

# pick takes from every window of size × size the element that k = pool_argmax names; unpick puts it back.
pick = Primitive("pick", kernels.pick,
                 (lambda g, z, x, k, *, size: unpick(g, k, size=size, shape=x.shape),),
                 shape=kernels.pick.shape, lowering="kernel", exact=True)
unpick = Primitive("unpick", kernels.unpick,
                   (lambda g, z, x, k, *, size, shape: pick(g, k, size=size),),
                   shape=kernels.unpick.shape, lowering="kernel", exact=True)


# ── operators ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _attach_operators() -> None:
    binary = dict(add=add, sub=subtract, mul=multiply, truediv=divide, pow=power, matmul=matmul)
    binary |= {"and": bitwise_and, "or": bitwise_or, "xor": bitwise_xor}
    for name, f in binary.items():
        setattr(Tensor, f"__{name}__", lambda x, y, f=f: f(x, y))
        setattr(Tensor, f"__r{name}__", lambda x, y, f=f: f(y, x))
    compare = dict(eq=equal, ne=not_equal, lt=less, le=less_equal, gt=greater, ge=greater_equal)
    for name, f in compare.items():
        setattr(Tensor, f"__{name}__", lambda x, y, f=f: f(x, y))
    # of booleans, x ** 2 is x² in int8, as NumPy's operator computes it; np.power(x, 2) is not
    Tensor.__pow__ = lambda x, y: square(x) if x.dtype == bool and type(y) is int and y == 2 else power(x, y)
    Tensor.__neg__ = lambda x: negative(x)
    Tensor.__pos__ = lambda x: positive(x)
    Tensor.__abs__ = lambda x: absolute(x)
    Tensor.__invert__ = lambda x: invert(x)
    Tensor.astype = lambda x, dtype: astype(x, dtype=np.dtype(dtype))


_attach_operators()
