"""numpy.linalg on tensors: norms, and what `decompositions` gives."""

from __future__ import annotations

import builtins
import functools
import math
import operator

import numpy as np

from .. import ops
from ..engine import Tensor, stop_gradient
from ..ops import normal_axes
from . import decompositions as by
from .complexes import of_complex
from .decompositions import inverse
from .matrices import diagonal, trace
from .products import dot, matmul, outer, tensordot
from .reductions import floating, max, min
from .refused import decide, unsupported
from .shapes import moveaxis
from .table import as_array, numpy_function

# NumPy's named tuples, of which it does not publish the names
_EigResult, _EighResult, _SVDResult, _QRResult, _SlogdetResult = (
    type(f(np.eye(1))) for f in (np.linalg.eig, np.linalg.eigh, np.linalg.svd, np.linalg.qr, np.linalg.slogdet)
)


def _matrix(a):
    """a in the dtype np.linalg computes in; NumPy's own error for what is no matrix."""
    a = as_array(a)
    if a.ndim < 2:
        np.linalg.svdvals(np.zeros(a.shape))
    return ops.in_dtype(a, by.computed(a.dtype))


def _square(a):
    """The same for a square matrix."""
    _of_square_shape(a := as_array(a))
    return _matrix(a)


def _of_square_shape(a) -> None:
    """NumPy's own error for what is no square matrix."""
    if not by.check_square(a.shape):
        np.linalg.inv(np.zeros(a.shape))


# ── systems of equations ────────────────────────────────────────────────────────────────────────────────────────────


@numpy_function(np.linalg.solve)
def solve(a, b):
    """b is a vector if it has one axis, and else matrices; of a singular matrix NumPy's LinAlgError."""
    a, b = _square(a), as_array(b)
    b = ops.in_dtype(b, by.computed(b.dtype))
    if b.ndim == 1:
        x = by.solve(a, ops.reshape(b, (*b.shape, 1)))
        return ops.reshape(x, x.shape[:-1])
    return by.solve(a, b)


@numpy_function(np.linalg.inv)
def inv(a):
    """As `solve` for the identity."""
    return inverse(_square(a))


@numpy_function(np.linalg.tensorsolve)
def tensorsolve(a, b, axes=None):
    a, b = as_array(a), as_array(b)
    order = list(range(a.ndim))
    for k in () if axes is None else axes:
        order.remove(k)
        order.insert(a.ndim, k)
    a = ops.transpose(a, order)
    shape = a.shape[b.ndim - a.ndim :]
    n = math.prod(shape)
    if a.size != n**2:
        raise np.linalg.LinAlgError(
            f"tensorsolve: shapes {a.shape} and {b.shape}; wanted prod(a.shape[b.ndim:]) == prod(a.shape[:b.ndim])"
        )
    return ops.reshape(solve(ops.reshape(a, (n, n)), np.reshape(b, -1)), shape)


@numpy_function(np.linalg.tensorinv)
def tensorinv(a, ind=2):
    a = as_array(a)
    if ind <= 0:
        raise ValueError(f"tensorinv: ind is {ind}, wanted a positive integer")
    return np.reshape(inv(np.reshape(a, (math.prod(a.shape[ind:]), -1))), a.shape[ind:] + a.shape[:ind])


@numpy_function(np.linalg.pinv)
def pinv(a, rcond=None, hermitian=False, *, rtol=np._NoValue):
    """Differentiated at constant rank."""
    if rcond is not None and rtol is not np._NoValue:
        raise ValueError("pinv: rcond and rtol are given, wanted one of them")
    a = as_array(a)
    if rcond is None:
        rcond = 1e-15 if rtol is np._NoValue else rtol
    if rcond is None:
        rcond = builtins.max(a.shape[-2:]) * np.finfo(a.dtype).eps
    if not a.size:  # of which NumPy keeps the dtype
        return np.linalg.pinv(np.zeros(a.shape, a.dtype), rcond, hermitian)
    a = _matrix(a)
    return by.pinv(a, rcond=rcond, hermitian=bool(hermitian))


@numpy_function(np.linalg.lstsq)
def lstsq(a, b, rcond=None):
    """The solution, differentiated at constant rank; the residuals, the rank, the singular values.

    A matrix with more rows than columns has residuals if its rank is full: so a recording refuses it.
    """
    a, b = as_array(a), as_array(b)
    if a.ndim != 2 or b.ndim not in (1, 2) or b.shape[0] != a.shape[0]:
        np.linalg.lstsq(np.zeros(a.shape), np.zeros(b.shape))  # NumPy's own error
    m, n = a.shape
    dtype = np.result_type(by.computed(a.dtype), by.computed(b.dtype))
    a, b = ops.in_dtype(a, dtype), ops.in_dtype(b, dtype)
    rcond = np.finfo(dtype).eps * builtins.max(m, n) if rcond is None else rcond
    values = svdvals(a)
    rank = ops.astype(by.matrix_rank(a, tol=None, rtol=rcond, hermitian=False), dtype=np.dtype(np.intc))
    x = ops.reshape(by.lstsq(a, b if b.ndim == 2 else b[:, None], rcond=float(rcond)), (n, *b.shape[1:]))
    residuals = np.zeros(0, values.dtype)
    known = functools.partial(decide, what="whether lstsq has residuals") if isinstance(rank, Tensor) else int
    if m > n and known(rank) == n:
        error = _squares(b - a @ x)
        residuals = ops.sum(error, 0, error.ndim == 1)
    return x, residuals, rank, values


# ── determinants, powers ────────────────────────────────────────────────────────────────────────────────────────────


@numpy_function(np.linalg.det)
def det(a):
    """Differentiated at singular matrices, too, to any order."""
    return by.det(_square(a))


@numpy_function(np.linalg.slogdet)
def slogdet(a):
    """Of a singular matrix (0, −inf), which has no derivative."""
    a = _square(a)
    size = by.logabsdet(a)
    if not of_complex(a):
        return _SlogdetResult(by.det_sign(a), size)
    # the sign of a complex matrix is that of det (a / exp(size / n)), which lies on the unit circle
    known = stop_gradient(ops.where(np.isfinite(size), -size, 0)) / builtins.max(a.shape[-1], 1)
    return _SlogdetResult(np.sign(by.det(a * np.exp(known)[..., None, None])), size)


@numpy_function(np.linalg.matrix_power)
def matrix_power(a, n):
    _of_square_shape(a := as_array(a))
    try:
        n = operator.index(n)
    except TypeError:
        raise TypeError(f"matrix_power: the exponent is {n!r}, wanted an integer") from None
    if n == 0:
        return np.broadcast_to(np.eye(a.shape[-1], dtype=a.dtype), a.shape)
    power, result, n = inv(a) if n < 0 else a, None, abs(n)
    if n == 3:  # as NumPy: where it overflows, the order is seen
        return matmul(matmul(power, power), power)
    while n:
        if n % 2:
            result = power if result is None else matmul(result, power)
        n //= 2
        power = matmul(power, power) if n else power
    return result


@numpy_function(np.linalg.multi_dot)
def multi_dot(arrays):
    """The product in the order with the fewest multiplications."""
    arrays = [as_array(x) for x in arrays]
    if len(arrays) < 2:
        raise ValueError(f"multi_dot: {len(arrays)} arrays, wanted at least two")
    if len(arrays) == 2:
        return dot(*arrays)
    first, last = arrays[0].ndim == 1, arrays[-1].ndim == 1
    arrays[0] = arrays[0][None] if first else arrays[0]
    arrays[-1] = arrays[-1][:, None] if last else arrays[-1]
    for x in arrays:
        if x.ndim != 2:
            raise np.linalg.LinAlgError(f"multi_dot: an array of shape {x.shape}, wanted a matrix")
    sizes = [*(x.shape[0] for x in arrays), arrays[-1].shape[1]]

    @functools.cache
    def best(i: int, j: int) -> tuple[int, int]:
        """The cost of the product of arrays i … j − 1, and where it is cut in two."""
        if j == i + 1:
            return 0, i
        return builtins.min((best(i, k)[0] + best(k, j)[0] + sizes[i] * sizes[k] * sizes[j], k)
                            for k in range(i + 1, j))  # fmt: skip

    def product(i: int, j: int):
        if j == i + 1:
            return arrays[i]
        k = best(i, j)[1]
        return matmul(product(i, k), product(k, j))

    z = product(0, len(arrays))
    return ops.reshape(z, z.shape[first : 2 - last])


# ── decompositions ──────────────────────────────────────────────────────────────────────────────────────────────────


@numpy_function(np.linalg.cholesky)
def cholesky(a, /, *, upper=False):
    """The cotangent of a is Hermitian, though one triangle of a is read."""
    a = _square(a)
    return by.adjoint(by.cholesky(by.adjoint(a))) if upper else by.cholesky(a)


@numpy_function(np.linalg.eigh)
def eigh(a, UPLO="L"):
    """The cotangent of a is Hermitian; vectors of equal eigenvalues have no derivative."""
    a = _square(a)
    v, w = by.eigh_parts(by.eigh(a, uplo=_triangle(UPLO)), a)
    return _EighResult(by.made_real(w), v)


@numpy_function(np.linalg.eigvalsh)
def eigvalsh(a, UPLO="L"):
    """The cotangent of a is Hermitian; equal eigenvalues have a first derivative only."""
    return by.eigvalsh(_square(a), uplo=_triangle(UPLO))


def _triangle(uplo: str) -> str:
    if uplo.upper() not in ("L", "U"):
        raise ValueError(f"UPLO is {uplo!r}, wanted 'L' or 'U'")
    return uplo.upper()


@numpy_function(np.linalg.eig)
def eig(a):
    """Differentiated if no two eigenvalues are equal; complex vectors as of constant phase."""
    a = _of_known_dtype(a)
    v, w = by.eigh_parts(by.eig(a), a)
    return _EigResult(w, v)


@numpy_function(np.linalg.eigvals)
def eigvals(a):
    """Real or complex, as the values decide: so a recording refuses real matrices."""
    return by.eigvals(_of_known_dtype(a))


def _of_known_dtype(a):
    """A square matrix, of which the dtype of the eigenvalues is known."""
    a = _square(a)
    if not of_complex(a):
        decide(a, "whether eigenvalues are real or complex")
    return a


@numpy_function(np.linalg.svd)
def svd(a, full_matrices=True, compute_uv=True, hermitian=False):
    """Vectors of equal singular values have no derivative; columns that complete a basis must not be seen to turn."""
    if hermitian:
        return _svd_of_hermitian(a, compute_uv)
    a = _matrix(a)
    if not compute_uv:
        return by.svdvals(a)
    full = bool(full_matrices) and a.shape[-1] != a.shape[-2]
    u, s, vh = by.svd_parts(by.svd(a, full=full), a.shape, full)
    return _SVDResult(u, by.made_real(s), vh)


def _svd_of_hermitian(a, compute_uv):
    w, v = eigh(a) if compute_uv else (eigvalsh(a), None)
    s = np.abs(w)
    order = ops.argsort(s, axis=s.ndim - 1)[..., ::-1]
    if not compute_uv:
        return np.take_along_axis(s, order, -1)
    sign = np.where(np.take_along_axis(w, order, -1) < 0, w.dtype.type(-1), w.dtype.type(1))
    u = np.take_along_axis(v, order[..., None, :], -1)
    return _SVDResult(u, np.take_along_axis(s, order, -1), by.adjoint(u * sign[..., None, :]))


@numpy_function(np.linalg.svdvals)
def svdvals(x, /):
    """Equal singular values have a first derivative only; that at 0 is a subgradient."""
    return by.svdvals(_matrix(x))


@numpy_function(np.linalg.qr)
def qr(a, mode="reduced"):
    """Of a wide matrix [A₁ A₂], with A₁ square: A₁ = Q R₁, and R₂ = Qᴴ A₂."""
    if mode not in ("reduced", "complete", "r", "raw"):
        raise ValueError(f"qr: mode is {mode!r}, wanted 'reduced', 'complete' or 'r'")
    if mode == "raw":
        raise unsupported("linalg.qr", "takes mode='reduced', 'complete' and 'r', not 'raw'")
    a = _matrix(a)
    m, n = a.shape[-2:]
    k, full = builtins.min(m, n), mode == "complete" and m > n
    first = a[..., :k]
    q, r = by.qr_parts(by.qr(first, full=full), first.shape, full)
    if n > m:
        r = np.concatenate([r, by.adjoint(q) @ a[..., k:]], -1)
    if full:
        r = np.concatenate([r, np.zeros((*a.shape[:-2], m - n, n), r.dtype)], -2)
    return r if mode == "r" else _QRResult(q, r)


# ── norms ───────────────────────────────────────────────────────────────────────────────────────────────────────────

# z = s^(1/p), of s = Σ |x|ᵖ:  s̄ = ḡ z¹⁻ᵖ / p, and 0 where z = 0. So the slope of a norm at 0 is 0, and its curvature
# there, which is infinite, is not finite
root = ops.elementwise(
    "root",
    lambda s, *, degree: np.sqrt(s) if degree == 2 else s ** (1 / degree),
    lambda g, z, s, *, degree: g * root_slope(z, degree=degree),
    loop="{type}(math.sqrt({0})) if {degree} == 2 else {type}({0} ** (1 / {degree}))",
)
root_slope = ops.elementwise(
    "root_slope", lambda z, *, degree: np.where(z == 0, 0, np.where(z == 0, 1, z) ** (1 - degree) / degree),
    lambda g, slope, z, *, degree: g * ((1 - degree) / degree * z ** -degree),
    loop="{type}({type}(0) if {0} == 0 else {0} ** (1 - {degree}) / {degree})",
)  # fmt: skip


def _squares(x):
    return np.real(np.conj(x) * x) if of_complex(x) else x * x


@numpy_function(np.linalg.norm)
def norm(x, ord=None, axis=None, keepdims=False):
    """All norms of NumPy; at 0, their slope is 0."""
    x = floating(as_array(x))
    if ord is None and axis is None:
        return root(ops.sum(_squares(x), None, keepdims), degree=2)
    axes = range(x.ndim) if axis is None else axis if isinstance(axis, tuple) else (int(axis),)
    if len(axes) not in (1, 2):
        raise ValueError(f"linalg.norm: over the axes {tuple(axes)}, wanted one or two axes")
    normal = normal_axes(axes, x.ndim)
    if ord is None or (ord == 2 and len(axes) == 1) or (isinstance(ord, str) and ord in ("f", "fro") and len(axes) > 1):
        return root(ops.sum(_squares(x), normal, keepdims), degree=2)
    if not x.size:  # NumPy's own zeros, or its error
        return np.linalg.norm(np.zeros(x.shape, x.dtype), ord, axis, keepdims)
    if len(axes) == 1:
        return _norm_of_vectors(x, ord, normal, keepdims)
    z = _norm_of_matrices(moveaxis(x, axes, (-2, -1)), ord)
    return ops.expand_dims(z, normal) if keepdims else z


def _norm_of_vectors(x, ord, axis, keepdims):
    if isinstance(ord, str):
        raise ValueError(f"linalg.norm: ord is {ord!r}, wanted a number for vectors")
    if ord in (np.inf, -np.inf):
        return (max if ord > 0 else min)(np.abs(x), axis, keepdims=keepdims)
    if ord == 0:
        return ops.sum(ops.in_dtype(ops.not_equal(x, 0), np.abs(x).dtype), axis, keepdims)
    if ord == 1:
        return ops.sum(np.abs(x), axis, keepdims)
    return root(ops.sum(np.abs(x) ** ord, axis, keepdims), degree=ord)


def _norm_of_matrices(x, ord):
    """Over the last two axes."""
    if ord in (2, -2, "nuc"):
        values = svdvals(x)
        return (ops.sum if ord == "nuc" else max if ord > 0 else min)(values, values.ndim - 1)
    if ord not in (1, -1, np.inf, -np.inf):
        raise ValueError(f"linalg.norm: ord is {ord!r}, wanted 'fro', 'nuc', ±1, ±2 or ±inf for matrices")
    sums = ops.sum(np.abs(x), x.ndim - 2 if abs(ord) == 1 else x.ndim - 1)
    return (max if ord > 0 else min)(sums, sums.ndim - 1)


@numpy_function(np.linalg.matrix_norm)
def matrix_norm(x, /, *, keepdims=False, ord="fro"):
    return norm(x, ord, (-2, -1), keepdims)


@numpy_function(np.linalg.vector_norm)
def vector_norm(x, /, *, axis=None, keepdims=False, ord=2):
    """Over any number of axes."""
    x = as_array(x)
    axes = normal_axes(axis, x.ndim)
    kept = tuple(n for i, n in enumerate(x.shape) if i not in axes)
    over = x.shape[:0] + tuple(x.shape[i] for i in axes)
    z = norm(ops.reshape(moveaxis(x, axes, range(len(axes))), (math.prod(over), *kept)), ord, 0)
    return ops.expand_dims(z, axes) if keepdims else z


@numpy_function(np.linalg.cond)
def cond(x, p=None):
    """Of a singular matrix infinite."""
    x = _matrix(x)
    if 0 in x.shape[-2:]:
        raise np.linalg.LinAlgError(f"cond: matrices of shape {x.shape}, wanted some that are not empty")
    if p in (None, 2, -2):
        s = svdvals(x)
        z = s[..., -1] / s[..., 0] if p == -2 else s[..., 0] / s[..., -1]
    else:
        singular = ops.equal(by.logabsdet(x), -np.inf)
        regular = ops.where(singular[..., None, None], np.eye(x.shape[-1], dtype=x.dtype), x)
        z = norm(x, p, (-2, -1)) * ops.where(singular, np.inf, norm(inverse(regular), p, (-2, -1)))
    given = np.any(np.isnan(x), axis=(-2, -1))
    return ops.where(np.logical_and(np.isnan(z), np.logical_not(given)), np.inf, z)


@numpy_function(np.linalg.matrix_rank)
def matrix_rank(A, tol=None, hermitian=False, *, rtol=None):
    A = as_array(A)
    if A.ndim < 2:
        return ops.astype(np.any(A != 0), dtype=np.dtype(int))
    return by.matrix_rank(floating(A), tol=tol, rtol=rtol, hermitian=bool(hermitian))


# ── what np.linalg has of NumPy's own ───────────────────────────────────────────────────────────────────────────────

numpy_function(np.linalg.matmul)(matmul)
numpy_function(np.linalg.tensordot)(tensordot)


@numpy_function(np.linalg.diagonal)
def linalg_diagonal(x, /, *, offset=0):
    return diagonal(as_array(x), offset, -2, -1)


@numpy_function(np.linalg.trace)
def linalg_trace(x, /, *, offset=0, dtype=None):
    return trace(as_array(x), offset, -2, -1, dtype)


@numpy_function(np.linalg.outer)
def linalg_outer(x1, x2, /):
    x1, x2 = as_array(x1), as_array(x2)
    if x1.ndim != 1 or x2.ndim != 1:
        raise ValueError(f"linalg.outer: arrays of shapes {x1.shape} and {x2.shape}, wanted two vectors")
    return outer(x1, x2)
