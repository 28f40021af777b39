"""NumPy on tensors: `np.tanh(x @ w)`, `np.mean(...)`, `np.einsum(...)` work, and are exact at every order.

NumPy hands any call with a tensor in it to `Tensor.__array_ufunc__` or `Tensor.__array_function__`; both look the
function up in `NUMPY` below. A function is either one primitive of `ops` or a few lines of them; to add one, write it
and put `@numpy_function(np.its_name)` above it. What is missing says so, and what to write instead. matmul, einsum and
their kin are in `products`. Read next: `nn`.
"""

from __future__ import annotations

import builtins
import functools
import inspect
import operator
from collections.abc import Callable, Sequence

import numpy as np

from . import ops
from .engine import Primitive, Tensor, alias, refusal, value_of
from .ops import normal_axes

NUMPY: dict[Callable, Callable] = {}  # NumPy's function → ours

INSTEAD = {  # what is not supported → the way round
    "sort": "np.take_along_axis(x, np.argsort(x, axis), axis)",
    "median": "np.take_along_axis with np.argsort",
    "linalg.inv": "solve the system by iteration, or write the inverse of your small matrix out",
    "linalg.solve": "solve the system by iteration, or write the inverse of your small matrix out",
    "linalg.det": "write the determinant of your small matrix out",
    "add.reduce": "np.sum", "multiply.reduce": "np.prod", "maximum.reduce": "np.max", "minimum.reduce": "np.min",
    "add.accumulate": "np.cumsum",
    "add.at": "tm.ops.scatter_add",
    "put_along_axis": "np.where with a mask", "place": "np.where", "copyto": "np.where", "putmask": "np.where",
    "conjugate": "tensors are real", "real": "tensors are real",
    "nan_to_num": "np.where(np.isfinite(x), x, 0)",
    "allclose": "compare x.value", "array_equal": "compare x.value", "isclose": "compare x.value",
}  # fmt: skip


def numpy_function(*functions: Callable) -> Callable[[Callable], Callable]:
    """Register the decorated function as what these NumPy functions do on tensors."""

    def register(ours: Callable) -> Callable:
        NUMPY.update(dict.fromkeys(functions, ours))
        return ours

    return register


def _numpy_name(f: Callable) -> str:
    module = (getattr(f, "__module__", None) or "numpy").removeprefix("numpy").removeprefix(".")
    return f"{module}.{f.__name__}" if module else f.__name__


def unsupported(name: str, what: str = "") -> NotImplementedError:
    instead = f"; instead: {INSTEAD[name]}" if name in INSTEAD else "; `tinymaml.numpy_api.NUMPY` lists what is"
    return refusal(NotImplementedError(f"np.{name} on tensors {what or 'is not supported'}{instead}"))  # type: ignore


def _call(f: Callable, name: str, args: Sequence, kwargs: dict):
    ours = NUMPY.get(f)
    if ours is None:
        raise unsupported(name)
    if kwargs:
        kwargs = {k: v for k, v in kwargs.items() if v is not np._NoValue}
    try:
        return ours(*args, **kwargs)
    except TypeError:
        try:
            accepted = inspect.signature(ours)
            accepted.bind(*args, **kwargs)
        except TypeError as misfit:
            raise refusal(TypeError(f"np.{name} on tensors takes {accepted}: {misfit}")) from None
        except ValueError:
            pass
        raise


def _array_ufunc(self, ufunc, method, *inputs, **kwargs):
    if method != "__call__":
        raise unsupported(f"{ufunc.__name__}.{method}")
    if kwargs:
        place = " (a tensor is never written to; write a = a + b, not a += b)" if "out" in kwargs else ""
        raise refusal(TypeError(f"np.{ufunc.__name__} on tensors takes no {'=, '.join(kwargs)}={place}"))
    return _call(ufunc, ufunc.__name__, [as_array(x) if isinstance(x, (list, tuple)) else x for x in inputs], {})


def _array_function(self, function, types, args, kwargs):
    return _call(function, _numpy_name(function), args, kwargs)


def _no(message: str) -> Callable:
    def refuse(self, *args, **kwargs):
        raise refusal(TypeError(message))

    return refuse


# An argument of a program that is being recorded, for any value of it.
placeholder = Primitive("input", lambda x: x, lowering="loop", loop="{type}({})")


def _decide(x: Tensor, what: str):
    """x.value, where it decides what is computed next: refused while a program is recorded."""
    if type(x) is not Tensor:
        raise refusal(TypeError(f"{what} depends on a value, and a program is recorded for any values: use np.where"))
    return x.value


Tensor.__array_ufunc__ = _array_ufunc
Tensor.__array_function__ = _array_function
Tensor.__array__ = _no(
    "an array made of a tensor would be cut from the graph: use NumPy functions on the tensor, or x.value"
)
Tensor.__float__ = Tensor.__int__ = Tensor.__complex__ = Tensor.__index__ = Tensor.item = Tensor.tolist = _no(
    "a number read from a tensor is cut from the graph: x.value reads it on purpose"
)
Tensor.__setitem__ = _no("a tensor is never written to: np.where, np.concatenate or tm.ops.scatter_add make a new one")
Tensor.__format__ = lambda x, spec: format(x.value, spec) if spec else repr(x)  # type: ignore


# ── one primitive each ──────────────────────────────────────────────────────────────────────────────────────────────

for _f, _ours in {
    np.add: ops.add, np.subtract: ops.subtract, np.multiply: ops.multiply, np.divide: ops.divide, np.power: ops.power,
    np.exp: ops.exp, np.expm1: ops.expm1, np.exp2: ops.exp2, np.log: ops.log, np.log1p: ops.log1p,
    np.log2: ops.log2, np.log10: ops.log10, np.logaddexp: ops.logaddexp, np.sqrt: ops.sqrt, np.hypot: ops.hypot,
    np.sin: ops.sin, np.cos: ops.cos, np.tan: ops.tan, np.arctan: ops.arctan,
    np.sinh: ops.sinh, np.cosh: ops.cosh, np.tanh: ops.tanh,
    np.sign: ops.sign, np.floor: ops.floor, np.ceil: ops.ceil, np.rint: ops.rint, np.trunc: ops.trunc,
    np.isnan: ops.isnan, np.isinf: ops.isinf, np.isfinite: ops.isfinite,
    np.equal: ops.equal, np.not_equal: ops.not_equal, np.less: ops.less, np.less_equal: ops.less_equal,
    np.greater: ops.greater, np.greater_equal: ops.greater_equal, np.logical_not: ops.logical_not,
    np.logical_and: ops.logical_and, np.logical_or: ops.logical_or, np.logical_xor: ops.logical_xor,
    np.bitwise_and: ops.bitwise_and, np.bitwise_or: ops.bitwise_or, np.bitwise_xor: ops.bitwise_xor,
    np.invert: ops.invert,
}.items():  # fmt: skip
    numpy_function(_f)(_ours)

numpy_function(np.shape)(lambda a: a.shape)
numpy_function(np.ndim)(lambda a: a.ndim)
numpy_function(np.size)(lambda a, axis=None: a.size if axis is None else a.shape[axis])
numpy_function(np.zeros_like)(lambda a, dtype=None, *, shape=None: np.zeros_like(a.value, dtype, shape=shape))
numpy_function(np.ones_like)(lambda a, dtype=None, *, shape=None: np.ones_like(a.value, dtype, shape=shape))
numpy_function(np.iscomplexobj)(lambda x: x.dtype.kind == "c")
numpy_function(np.copy)(alias)


@numpy_function(np.full_like)
def full_like(a, fill_value, dtype=None):
    if isinstance(fill_value, Tensor):
        if a._is_data and not fill_value._is_data:  # in truth `a` is an array, and NumPy writes into one like it
            raise unsupported("copyto")
        return broadcast_to(fill_value.astype(dtype or a.dtype), a.shape)
    return np.full(a.shape, fill_value, dtype or a.dtype)


def as_array(x):
    """x, where NumPy would take a list or a number for an array."""
    return x if isinstance(x, (Tensor, np.ndarray)) else np.asarray(x) if not _holds_tensor(x) else stack(x)


def _holds_tensor(x) -> bool:
    return isinstance(x, Tensor) or (isinstance(x, (list, tuple)) and any(map(_holds_tensor, x)))


# ── elementwise ─────────────────────────────────────────────────────────────────────────────────────────────────────


numpy_function(np.negative)(ops.negative)
numpy_function(np.positive)(ops.positive)
numpy_function(np.square)(ops.square)
numpy_function(np.absolute)(ops.absolute)
numpy_function(np.fabs)(lambda x: ops.absolute(x if x.dtype.kind == "c" else ops.as_computed(np.fabs, x)))
numpy_function(np.maximum)(lambda x, y: ops.maximum(x, y))
numpy_function(np.minimum)(lambda x, y: ops.minimum(x, y))


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
    if x is None or y is None:
        raise unsupported("where", "takes three arguments (the shape of np.where(c) depends on the values of c)")
    if isinstance(condition, Tensor) and condition.dtype != bool:
        condition = ops.not_equal(condition, 0)
    return ops.where(condition, x, y)


# ── reductions ──────────────────────────────────────────────────────────────────────────────────────────────────────
# After `axis` only keywords: the next positions are dtype= and out= in NumPy, and must not be taken for keepdims.


@numpy_function(np.sum)
def sum(a, axis=None, *, keepdims=False):
    return ops.sum(a, axis, keepdims)


@numpy_function(np.max, np.amax)
def max(a, axis=None, *, keepdims=False):
    return ops.max(a, axis, keepdims)


@numpy_function(np.min, np.amin)
def min(a, axis=None, *, keepdims=False):
    if a.dtype.kind in "iub":  # ~x turns the order of all integers round; −x is not to be had for the least
        return ops.invert(ops.max(ops.invert(a), axis, keepdims))
    return -ops.max(-a, axis, keepdims)


def _floating(a):
    """a, where NumPy would compute in floating point: integers and booleans as float64."""
    return a if a.dtype.kind in "fc" else ops.in_dtype(a, np.dtype(np.float64))


def _widened(f: Callable) -> Callable:
    """A mean of `a` as NumPy has it: integers in float64, and float16 by way of float32."""

    @functools.wraps(f)
    def of_wider(a, *args, **kwargs):
        if a.dtype != np.float16:
            return f(_floating(a), *args, **kwargs)
        return ops.astype(f(ops.astype(a, dtype=np.dtype(np.float32)), *args, **kwargs), dtype=a.dtype)

    return of_wider


@numpy_function(np.mean)
@_widened
def mean(a, axis=None, *, keepdims=False):
    return ops.sum(a, axis, keepdims) / _count(a, axis)


def _count(a, axis) -> int:
    return int(np.prod([a.shape[i] for i in normal_axes(axis, a.ndim)], dtype=int))


@numpy_function(np.var)
@_widened
def var(a, axis=None, *, ddof=0, keepdims=False):
    centred = a - mean(a, axis, keepdims=True)
    return ops.sum(centred * centred, axis, keepdims) / builtins.max(_count(a, axis) - ddof, 0)


@numpy_function(np.std)
@_widened
def std(a, axis=None, *, ddof=0, keepdims=False):
    return np.sqrt(var(a, axis, ddof=ddof, keepdims=keepdims))


@numpy_function(np.prod)
def prod(a, axis=None, *, keepdims=False):
    """By multiplying neighbours, so that zeros are no special case, at any order."""
    a = ops.in_dtype(a, np.prod(np.ones(1, a.dtype)).dtype)  # of short integers a long one
    where_ = normal_axes(axis, a.ndim)
    rest = tuple(i for i in range(a.ndim) if i not in where_)
    shape = tuple(1 if i in where_ else n for i, n in enumerate(a.shape))
    a = ops.reshape(ops.transpose(a, where_ + rest), (_count(a, where_), *(a.shape[i] for i in rest)))
    while len(a) > 1:
        even = len(a) // 2 * 2
        pairs = a[:even:2] * a[1:even:2]
        a = np.concatenate([pairs, a[even:]]) if len(a) % 2 else pairs
    a = a[0] if len(a) else np.ones(a.shape[1:], a.dtype)
    return ops.reshape(a, shape if keepdims else tuple(n for i, n in enumerate(shape) if i not in where_))


@numpy_function(np.cumsum)
def cumsum(a, axis=None):
    return ops.cumsum(ravel(a), 0) if axis is None else ops.cumsum(a, one_axis(axis, a.ndim))


@numpy_function(np.argmax)
def argmax(a, axis=None, *, keepdims=False):
    return ops.argmax(a, axis=axis, keepdims=keepdims)


@numpy_function(np.argmin)
def argmin(a, axis=None, *, keepdims=False):
    return ops.argmin(a, axis=axis, keepdims=keepdims)


@numpy_function(np.argsort)
def argsort(a, axis=-1, kind=None, *, stable=None):
    """Always stable, whatever `kind` asks for."""
    return ops.argsort(a, axis=axis)


@numpy_function(np.any)
def any_(a, axis=None, *, keepdims=False):
    return ops.greater(ops.sum(ops.not_equal(a, 0), axis, keepdims), 0)


@numpy_function(np.all)
def all_(a, axis=None, *, keepdims=False):
    return ops.equal(ops.sum(ops.equal(a, 0), axis, keepdims), 0)


@numpy_function(np.linalg.norm)
def norm(x, ord=None, axis=None, keepdims=False):
    """The 2-norm (Frobenius for a matrix or for all of x), and for vectors 1, 2, any p > 0 and ±inf."""
    x = _floating(x)
    dims = x.ndim if axis is None else len(normal_axes(axis, x.ndim))
    if axis is not None and dims > 2:
        raise ValueError(f"linalg.norm: axis is {axis}, wanted one or two axes")
    if ord is None or (ord == 2 and dims == 1) or (ord == "fro" and dims == 2):
        return np.sqrt(ops.sum(x * x, axis, keepdims))
    if dims != 1:
        raise unsupported("linalg.norm", f"takes no ord={ord!r} over {dims} axes")
    if ord in (np.inf, -np.inf):
        if not x.size:  # NumPy's own zeros, or its error
            return np.linalg.norm(np.zeros(x.shape, x.dtype), ord, axis, keepdims)
        return (max if ord > 0 else min)(np.abs(x), axis, keepdims=keepdims)
    if ord == 1:
        return ops.sum(np.abs(x), axis, keepdims)
    if isinstance(ord, (int, float)) and ord > 0:
        return ops.sum(np.abs(x) ** ord, axis, keepdims) ** (1 / ord)
    raise unsupported("linalg.norm", f"takes no ord={ord!r}")


# ── shapes ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def one_axis(axis: int, ndim: int) -> int:
    """One axis as a non-negative int; AxisError where there is none."""
    return normal_axes(operator.index(axis), ndim)[0]


@numpy_function(np.reshape)
def reshape(a, shape, *, order="C"):
    if order != "C":
        raise unsupported("reshape", f"takes order='C' only, not {order!r}; transpose first")
    shape = (shape,) if isinstance(shape, (int, np.integer)) else tuple(shape)
    if -1 in shape:
        known = -int(np.prod(shape, dtype=int))
        if shape.count(-1) > 1 or known == 0 or a.size % known:
            raise ValueError(f"cannot reshape an array of shape {a.shape} into shape {shape}")
        shape = tuple(a.size // known if n == -1 else n for n in shape)
    return ops.reshape(a, shape)


@numpy_function(np.ravel)
def ravel(a, order="C"):
    return reshape(a, (a.size,), order=order)


@numpy_function(np.transpose, np.permute_dims)
def transpose(a, axes=None):
    axes = range(a.ndim)[::-1] if axes is None else [one_axis(i, a.ndim) for i in axes]
    return ops.transpose(a, axes)


@numpy_function(np.swapaxes)
def swapaxes(a, axis1, axis2):
    order = list(range(a.ndim))
    axis1, axis2 = one_axis(axis1, a.ndim), one_axis(axis2, a.ndim)
    order[axis1], order[axis2] = axis2, axis1
    return ops.transpose(a, order)


@numpy_function(np.moveaxis)
def moveaxis(a, source, destination):
    source = [one_axis(i, a.ndim) for i in np.atleast_1d(source)]
    destination = [one_axis(i, a.ndim) for i in np.atleast_1d(destination)]
    if len(source) != len(destination):
        raise ValueError(f"moveaxis: {len(source)} axes for {len(destination)} places")
    order = [i for i in range(a.ndim) if i not in source]
    for to, axis in sorted(zip(destination, source, strict=True)):
        order.insert(to, axis)
    return ops.transpose(a, order)


@numpy_function(np.linalg.matrix_transpose, np.matrix_transpose)
def matrix_transpose(x):
    return swapaxes(x, -1, -2)


@numpy_function(np.squeeze)
def squeeze(a, axis=None):
    drop = [i for i, n in enumerate(a.shape) if n == 1] if axis is None else normal_axes(axis, a.ndim)
    if any(a.shape[i] != 1 for i in drop):
        raise ValueError(f"squeeze: axis {axis} of shape {a.shape} has a length other than 1")
    return ops.reshape(a, tuple(n for i, n in enumerate(a.shape) if i not in drop))


@numpy_function(np.expand_dims)
def expand_dims(a, axis):
    count = 1 if isinstance(axis, (int, np.integer)) else len(axis)
    return ops.expand_dims(a, normal_axes(axis, a.ndim + count))


@numpy_function(np.atleast_1d)
def atleast_1d(a):
    return a if a.ndim else ops.reshape(a, (1,))


@numpy_function(np.broadcast_to)
def broadcast_to(array, shape):
    shape = (shape,) if isinstance(shape, (int, np.integer)) else tuple(shape)
    np.broadcast_to(array.value, shape)  # NumPy's own error for shapes that do not fit
    return ops.broadcast_to(array, shape)


@numpy_function(np.concatenate)
def concatenate(arrays, axis=0):
    arrays = [as_array(a) for a in arrays]
    if axis is None:
        arrays, axis = [ravel(a) for a in arrays], 0
    if not all(a.ndim for a in arrays):
        raise ValueError("zero-dimensional arrays cannot be concatenated")
    return ops.concatenate(*arrays, axis=one_axis(axis, arrays[0].ndim))


@numpy_function(np.stack)
def stack(arrays, axis=0):
    return concatenate([np.expand_dims(as_array(a), axis) for a in arrays], axis)


@numpy_function(np.vstack)
def vstack(tup):
    return concatenate([a if a.ndim > 1 else np.reshape(a, (1, -1)) for a in map(as_array, tup)])


@numpy_function(np.hstack)
def hstack(tup):
    arrays = [np.atleast_1d(as_array(a)) for a in tup]
    return concatenate(arrays, 0 if arrays[0].ndim == 1 else 1)


@numpy_function(np.split)
def split(ary, indices_or_sections, axis=0):
    axis = one_axis(axis, ary.ndim)
    return _pieces(ary, np.split(np.arange(ary.shape[axis]), indices_or_sections), axis)


@numpy_function(np.array_split)
def array_split(ary, indices_or_sections, axis=0):
    axis = one_axis(axis, ary.ndim)
    return _pieces(ary, np.array_split(np.arange(ary.shape[axis]), indices_or_sections), axis)


def _pieces(a, pieces: list, axis: int) -> list:
    """a at each run of consecutive places along `axis`."""
    return [_along(a, axis, slice(int(p[0]), int(p[-1]) + 1) if len(p) else slice(0, 0)) for p in pieces]


def _along(a, axis: int, index):
    return getitem(a, (slice(None),) * axis + (index,))


@numpy_function(np.flip)
def flip(m, axis=None):
    for i in normal_axes(axis, m.ndim):
        m = ops.flip(m, i)
    return m


@numpy_function(np.roll)
def roll(a, shift, axis=None):
    if axis is None:
        return ops.reshape(roll(ravel(a), shift, 0), a.shape)
    for by, i in zip(*np.broadcast_arrays(np.atleast_1d(shift), axis), strict=True):
        i = one_axis(i, a.ndim)
        a = _along(a, i, (np.arange(a.shape[i]) - int(by)) % a.shape[i]) if a.shape[i] else a
    return a


@numpy_function(np.pad)
def pad(array, pad_width, mode="constant", constant_values=0):
    if mode != "constant" or np.ndim(constant_values):
        raise unsupported("pad", f"takes mode='constant' with one number, not mode={mode!r}, {constant_values!r}")
    if isinstance(pad_width, dict):
        raise unsupported("pad", "takes pad_width as numbers or pairs, not as a dict")
    widths = np.broadcast_to(pad_width, (array.ndim, 2)).tolist()
    if any(n < 0 for pair in widths for n in pair):
        raise ValueError(f"pad: widths {widths} for an array of shape {array.shape}; none may be negative")
    shape = tuple(a + n + b for n, (a, b) in zip(array.shape, widths, strict=True))
    inside = tuple(slice(a, a + n) for n, (a, _) in zip(array.shape, widths, strict=True))
    padded = ops.scatter_add(array, template=inside, shape=shape)
    if not isinstance(constant_values, Tensor) and constant_values == 0 and not np.signbit(constant_values):
        return padded
    mask = np.ones(shape, bool)
    mask[inside] = False
    return ops.where(mask, ops.astype(constant_values, dtype=array.dtype), padded)


@numpy_function(np.tile)
def tile(A, reps):
    reps = (reps,) if isinstance(reps, (int, np.integer)) else tuple(reps)
    A = ops.reshape(A, (1,) * (len(reps) - A.ndim) + A.shape)
    for axis, n in enumerate((1,) * (A.ndim - len(reps)) + reps):
        if n != 1:
            A = _along(A, axis, np.tile(np.arange(A.shape[axis]), n))
    return A


@numpy_function(np.repeat)
def repeat(a, repeats, axis=None):
    if axis is None:
        return repeat(ravel(a), repeats, 0)
    axis = one_axis(axis, a.ndim)
    return _along(a, axis, np.repeat(np.arange(a.shape[axis]), repeats))


@numpy_function(np.take)
def take(a, indices, axis=None):
    if axis is None:
        return take(ravel(a), indices, 0)
    indices = indices if isinstance(indices, Tensor) else np.asarray(indices)
    return _along(a, one_axis(axis, a.ndim), indices)


@numpy_function(np.take_along_axis)
def take_along_axis(arr, indices, axis=-1):
    if axis is None:
        arr, axis = ravel(arr), 0
    axis = one_axis(axis, arr.ndim)
    if indices.ndim != arr.ndim:
        raise ValueError(f"take_along_axis: indices of shape {indices.shape} for an array of shape {arr.shape};"
                         " they must have as many axes")  # fmt: skip
    grid = [np.arange(n).reshape([-1 if i == j else 1 for j in range(arr.ndim)]) for i, n in enumerate(arr.shape)]
    return getitem(arr, tuple(indices if i == axis else g for i, g in enumerate(grid)))


@numpy_function(np.diff)
def diff(a, n=1, axis=-1):
    axis = one_axis(axis, a.ndim)
    if n < 0:
        raise ValueError(f"diff: n is {n}, wanted an integer of at least 0")
    minus = ops.not_equal if a.dtype == bool else ops.subtract
    for _ in range(n):
        a = minus(_along(a, axis, slice(1, None)), _along(a, axis, slice(None, -1)))
    return a


# ── indexing ────────────────────────────────────────────────────────────────────────────────────────────────────────


def getitem(x, index):
    """x[index] as NumPy has it, basic or advanced; index arrays may be integer tensors (an argmax)."""
    parts = [_index_part(part) for part in (index if isinstance(index, tuple) else (index,))]
    if any(type(part) is bool or _is_mask(part) for part in parts):  # NumPy's own error for a mask that does not fit
        np.broadcast_to(False, x.shape)[tuple(map(value_of, parts))]
    if any(type(part) is bool for part in parts):
        x, parts = _truths_as_places(x, parts)
    template, arrays = [], []
    for part in parts:
        if _is_mask(part):
            arrays.extend(np.nonzero(part))
            template.extend([ops.ARRAY] * part.ndim)
        elif isinstance(part, (Tensor, np.ndarray)):
            arrays.append(part)
            template.append(ops.ARRAY)
        else:
            template.append(part)
    return ops.getitem(x, *arrays, template=tuple(template))


def _index_part(part):
    """One part of an index: None, ..., a slice, an int, a truth as a Python bool; or an array, a tensor of integers."""
    if isinstance(part, Tensor) and part.dtype == bool:  # the shape of the result depends on the mask's value
        part = _decide(part, "the shape of x[mask]")
    if part is None or part is ... or isinstance(part, (slice, int, np.integer, Tensor)):
        return part
    if not isinstance(part, np.ndarray):  # a list, a range, a tuple in the tuple, a NumPy truth
        part = np.asarray(part)
        part = part if part.size else part.astype(int)
    return bool(part) if part.dtype == bool and not part.ndim else part


def _is_mask(part) -> bool:
    return isinstance(part, np.ndarray) and part.dtype == bool


def _truths_as_places(x, parts: list):
    """x and the index without truths: a truth stands for a new axis, of which True takes all and False nothing."""
    truths = [part for part in parts if type(part) is bool]
    if truths == [True] and all(part is None or part is ... or type(part) in (bool, slice) for part in parts):
        return x, [None if part is True else part for part in parts]
    used = [0 if part is None or part is ... or type(part) is bool else part.ndim if _is_mask(part) else 1
            for part in parts]  # fmt: skip
    used = [x.ndim - builtins.sum(used) if part is ... else n for part, n in zip(parts, used, strict=True)]
    at, axes, places = 0, [], []
    for part, n in zip(parts, used, strict=True):
        if type(part) is bool:
            axes.append(at + len(axes))
            part = np.zeros(int(part), int)
        places.append(np.asarray(part) if isinstance(part, (int, np.integer)) else part)  # as beside any index array
        at += n
    return ops.expand_dims(x, tuple(axes)), places


# ── matrices ────────────────────────────────────────────────────────────────────────────────────────────────────────


@numpy_function(np.trace)
def trace(a, offset=0, axis1=0, axis2=1):
    return ops.sum(diagonal(a, offset, axis1, axis2), -1)


@numpy_function(np.diagonal)
def diagonal(a, offset=0, axis1=0, axis2=1):
    a = moveaxis(a, (axis1, axis2), (-2, -1))
    down, right = builtins.max(-offset, 0), builtins.max(offset, 0)
    rows = np.arange(builtins.min(a.shape[-2] - down, a.shape[-1] - right))  # empty where negative
    return getitem(a, (..., rows + down, rows + right))


@numpy_function(np.diag)
def diag(v, k=0):
    if v.ndim == 2:
        return diagonal(v, k)
    if v.ndim != 1:
        raise ValueError(f"diag: an array of shape {v.shape}, wanted a vector or a matrix")
    n = v.shape[0] + abs(k)
    first = builtins.max(k, -k * n)  # in the flat matrix, where one on the diagonal is n + 1 after the other
    flat = slice(first, first + v.shape[0] * (n + 1), n + 1)
    return ops.reshape(ops.scatter_add(v, template=(flat,), shape=(n * n,)), (n, n))


@numpy_function(np.tril)
def tril(m, k=0):
    return ops.where(np.tri(*m.shape[-2:], k=k, dtype=bool), m, m.dtype.type(0))


@numpy_function(np.triu)
def triu(m, k=0):
    return ops.where(np.tri(*m.shape[-2:], k=k - 1, dtype=bool), m.dtype.type(0), m)


# ── methods ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _attach_methods() -> None:
    for f in (
        np.sum, np.mean, np.var, np.std, np.prod, np.max, np.min, np.cumsum, np.argmax, np.argmin, np.any, np.all,
        np.ravel, np.squeeze, np.swapaxes, np.dot, np.take, np.repeat, np.trace, np.diagonal, np.clip,
    ):  # fmt: skip
        setattr(Tensor, f.__name__, lambda x, *args, _f=f, **kwargs: _f(x, *args, **kwargs))
    Tensor.__getitem__ = getitem
    Tensor.__len__ = lambda x: len(x.value)
    Tensor.__iter__ = lambda x: (x[i] for i in range(len(x)))
    Tensor.__bool__ = lambda x: bool(_decide(x, "a branch"))
    Tensor.flatten = ravel
    Tensor.copy = lambda x: alias(x)
    Tensor.reshape = lambda x, *shape: reshape(x, shape[0] if len(shape) == 1 else shape)
    Tensor.transpose = lambda x, *axes: transpose(x, axes[0] if axes and not isinstance(axes[0], int) else axes or None)
    Tensor.T = property(transpose)
    Tensor.mT = property(matrix_transpose)


_attach_methods()
