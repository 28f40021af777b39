"""The primitives that a meta-gradient of an MLP or a convolutional network is made of, each with its rules.

Elementwise rules follow from the chain rule. Linear operations come in transposed pairs. Each is the other's rule, so
that second order needs no further rules:

    sum       ↔  broadcast_to           reshape  ↔  reshape           matmul   ↔  matmul
    getitem   ↔  scatter_add            patches  ↔  unpatches         transpose ↔ inverse transpose

How `np.tanh(x)` gets here, if x is a tensor:

    np.tanh(x)                        NumPy sees that x has its own `__array_ufunc__`, and calls it
    numpy_api/table.py                `_array_ufunc` looks np.tanh up in the table `NUMPY`, and finds ops.tanh,
    numpy_api/elementwise.py          which an entry of this file put there: np.tanh: ops.tanh
    tanh(x)                           `Primitive.__call__` in `engine` computes np.tanh(x.value), and makes the record
    x + y, x @ y                      are attached to Tensor at the end of this file, other operators in `ops`

The other primitives are in `ops`, which gives these on: comparisons, the largest element, x ** y, whose rule for a
number y is g * y * x ** (y - 1), and the conventions at kinks. All other functions of NumPy are composed of them in
`numpy_api`. The keywords after the rules (`loop=`, `shape=`, `cheap=`, …) are for compiled programs alone;
`description` explains them, and a first reading may leave them out. Read next: `nn`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from . import kernels
from .axes import normal_axes, reduced
from .engine import Primitive, Tensor
from .modes import ordered

# ── elementwise ───────────────────────────────────────────────────────────────────────────────────────────────────────


def elementwise(name: str, forward: Callable, *rules: Callable | None, **description) -> Primitive:
    """A primitive whose inputs broadcast: the result of each rule is summed back to the shape of its input.

    There is one rule per input, None for one without a slope; without any rule, the derivative is zero. The other
    arguments are those of `Primitive`.

    >>> cubed = tm.ops.elementwise("cubed", lambda x: x**3, lambda g, z, x: g * (3 * x * x))
    >>> tm.grad(lambda x: np.sum(cubed(x)))(np.array([1.0, 2.0]))
    array([ 3., 12.])
    """

    def summed(i: int, rule: Callable) -> Callable:
        return lambda g, z, *xs, **params: sum_to(rule(g, z, *xs, **params), xs[i].shape)

    vjp = tuple(rule and summed(i, rule) for i, rule in enumerate(rules))
    return Primitive(name, forward, vjp or None, elementwise=True, **({"lowering": "loop"} | description))


def sum_to(g, shape: tuple[int, ...]):
    """Undo broadcasting: sum g over the axes along which `shape` was stretched.

    >>> tm.ops.sum_to(np.ones((4, 2, 3)), (2, 1))
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

# z = max(x, y);  where x = y, x gets the share `tie` of the cotangent, and y the rest
maximum = elementwise("maximum", lambda x, y, *, tie=0.5: np.maximum(x, y),
                      lambda g, z, x, y, *, tie=0.5: g * above(x, y, tie=tie, dtype=g.dtype),
                      lambda g, z, x, y, *, tie=0.5: g * above(y, x, tie=1 - tie, dtype=g.dtype),
                      loop="larger({}, {})", cheap=True, exact=True, decides="comparison")


def _above(x, y, *, tie, dtype):
    """1 where x > y, `tie` where x = y, 0 elsewhere."""
    x, y = ordered(x), ordered(y)
    step = np.greater(x, y).astype(dtype)
    return step + np.equal(x, y) * np.dtype(dtype).type(tie) if tie else step


above = elementwise("above", _above, loop="above({}, {}, {tie})",
                    computed_in="common", cheap=True, decides="comparison")  # without rules: its derivative is zero


# ── linear: transposed pairs ────────────────────────────────────────────────────────────────────────────────────────

_sum = Primitive("sum", lambda x, *, axis, keepdims: np.sum(x, axis, keepdims=keepdims),
                 (lambda g, z, x, *, axis, keepdims: broadcast_to(reshape(g, _kept(x.shape, axis)), x.shape),),
                 shape=reduced, dtype=lambda x: np.sum(np.zeros(1, x)).dtype, lowering="loop", adds_up=True)
_broadcast_to = Primitive("broadcast_to", lambda x, *, shape: np.broadcast_to(x, shape),
                          (lambda g, z, x, *, shape: sum_to(g, x.shape),),
                          lowering="broadcast_to", exact=True)
_reshape = Primitive("reshape", lambda x, *, shape: np.reshape(x, shape),
                     (lambda g, z, x, *, shape: reshape(g, x.shape),),
                     lowering="reshape", exact=True)
_transpose = Primitive("transpose", lambda x, *, axes: np.transpose(x, axes),
                       (lambda g, z, x, *, axes: transpose(g, sorted(range(len(axes)), key=axes.__getitem__)),),
                       lowering="transpose", exact=True)


def _kept(shape: tuple[int, ...], axis: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a sum over `axis` that keeps these axes, with length 1."""
    return tuple(1 if i in axis else n for i, n in enumerate(shape))


# In this file, `sum` is this one, and not Python's.
def sum(x, axis=None, keepdims=False):
    """The sum of x over `axis`: None (all axes), an int, or a tuple of ints; `keepdims` keeps them with length 1.

    Raises:
        AxisError, ValueError: as in `normal_axes`.

    >>> tm.ops.sum(np.ones((2, 3)), axis=1)
    array([3., 3.])
    """
    return _sum(x, axis=normal_axes(axis, x.ndim), keepdims=bool(keepdims))


def broadcast_to(x, shape: tuple[int, ...]):
    """x repeated to that shape, as `np.broadcast_to`; x itself if it has it already."""
    return x if x.shape == shape else _broadcast_to(x, shape=shape)


def reshape(x, shape: tuple[int, ...]):
    """x with its elements, in order, in that shape, in which no length is −1; x itself if it has it already."""
    return x if x.shape == shape else _reshape(x, shape=shape)


def transpose(x, axes):
    """x with its axes in another order: axis i of the result is axis `axes[i]` of x, all non-negative."""
    return _transpose(x, axes=tuple(axes))


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

    >>> tm.ops.matmul(np.ones((5, 2, 3)), np.ones(3)).shape
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


# z = x[index];  its transpose puts g back at the index, and adds where the index repeats.
# The arrays of an index are inputs, since a program is recorded for any of them. Its other parts (ints, slices, None,
# ...) are a parameter, the template, in which ARRAY marks the place of each array:
#     x[:, rows, 3]     is     getitem(x, rows, template=(slice(None), ARRAY, 3))
ARRAY = "array"


def _filled(template: tuple, arrays: tuple) -> tuple:
    """The index: the template with the arrays in their places.

    >>> from tinymaml.primitives import ARRAY, _filled
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


# ── operators ───────────────────────────────────────────────────────────────────────────────────────────────────────


def attach_operators(**operators: Callable) -> None:
    """Make f(x, y) what Python computes for `x + y`, and for `y + x` where y is no tensor, with add=f; and so on."""
    for name, f in operators.items():
        setattr(Tensor, f"__{name}__", lambda x, y, f=f: f(x, y))
        setattr(Tensor, f"__r{name}__", lambda x, y, f=f: f(y, x))


attach_operators(add=add, sub=subtract, mul=multiply, truediv=divide, matmul=matmul)
