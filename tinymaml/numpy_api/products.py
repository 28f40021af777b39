"""NumPy's products on tensors: matmul, dot, vdot, inner, outer, tensordot, einsum; all come down to one matrix product.

    np.einsum("bij,bjk->bik", x, y)      two operands: diagonals and sums first, then (batch, rows, summed) @ (…)

To add a product, write it as an einsum of two operands: `contract(x, "ij", y, "jk", "ik")`.
"""

from __future__ import annotations

import operator
import string

import numpy as np

from .. import ops
from ..axes import one_axis
from .complexes import of_complex
from .matrices import diagonal
from .shapes import moveaxis, ravel
from .table import as_array, numpy_function


@numpy_function(np.matmul)
def matmul(x1, x2):
    return ops.matmul(as_array(x1), as_array(x2))


@numpy_function(np.dot)
def dot(a, b):
    a, b = as_array(a), as_array(b)
    if a.ndim == 0 or b.ndim == 0:
        return a * b
    return matmul(a, b) if b.ndim <= 2 else tensordot(a, b, ([a.ndim - 1], [b.ndim - 2]))


@numpy_function(np.vdot)
def vdot(a, b):
    return matmul(_conj(ravel(as_array(a))), ravel(as_array(b)))


def _conj(x):
    return np.conj(x) if of_complex(x) else x


@numpy_function(np.inner)
def inner(a, b):
    a, b = as_array(a), as_array(b)
    return a * b if a.ndim == 0 or b.ndim == 0 else tensordot(a, b, ([a.ndim - 1], [b.ndim - 1]))


@numpy_function(np.outer)
def outer(a, b):
    return np.reshape(as_array(a), (-1, 1)) * np.reshape(as_array(b), (1, -1))


@numpy_function(np.kron)
def kron(a, b):
    a, b = as_array(a), as_array(b)
    n = max(a.ndim, b.ndim)
    shapes = [(1,) * (n - x.ndim) + x.shape for x in (a, b)]
    # axis i of the result: the pair (axis i of a, axis i of b)
    a = ops.reshape(a, tuple(size for pair in zip(shapes[0], (1,) * n, strict=True) for size in pair))
    b = ops.reshape(b, tuple(size for pair in zip((1,) * n, shapes[1], strict=True) for size in pair))
    return ops.reshape(a * b, tuple(i * j for i, j in zip(*shapes, strict=True)))


@numpy_function(np.cross)
def cross(a, b, axisa=-1, axisb=-1, axisc=-1, axis=None):
    """a × b of vectors of three elements, or of two: what is missing is 0, and of two and two the third alone."""
    if axis is not None:
        axisa = axisb = axisc = axis
    a, b = as_array(a), as_array(b)
    if not a.ndim or not b.ndim:
        raise ValueError("cross: an operand is a scalar, wanted vectors")
    a, b = moveaxis(a, axisa, -1), moveaxis(b, axisb, -1)
    if a.shape[-1] not in (2, 3) or b.shape[-1] not in (2, 3):
        raise ValueError(f"cross: vectors of {a.shape[-1]} and {b.shape[-1]} elements, wanted 2 or 3")
    if 2 in (a.shape[-1], b.shape[-1]):
        np.cross(np.zeros(a.shape[-1]), np.zeros(b.shape[-1]))  # NumPy's own warning, or its error
    dtype = np.promote_types(a.dtype, b.dtype)
    (a0, a1, *a2), (b0, b1, *b2) = ([ops.in_dtype(x[..., i], dtype) for i in range(x.shape[-1])] for x in (a, b))
    last = a0 * b1 - a1 * b0
    if not a2 and not b2:
        return last
    zero = np.zeros(last.shape, dtype)
    first = a1 * b2[0] - a2[0] * b1 if a2 and b2 else a1 * b2[0] if b2 else -(a2[0] * b1)
    second = a2[0] * b0 - a0 * b2[0] if a2 and b2 else -(a0 * b2[0]) if b2 else a2[0] * b0
    return moveaxis(np.stack([first + zero, second + zero, last], -1), -1, axisc)


@numpy_function(np.linalg.cross)
def linalg_cross(x1, x2, /, *, axis=-1):
    x1, x2 = as_array(x1), as_array(x2)
    if (x1.shape[axis], x2.shape[axis]) != (3, 3):
        raise ValueError(f"linalg.cross: vectors of {x1.shape[axis]} and {x2.shape[axis]} elements, wanted 3 and 3")
    return cross(x1, x2, axis=axis)


@numpy_function(np.vecdot)
def vecdot(x1, x2, /, *, axis=-1, keepdims=False):
    """Σ conj(x₁) x₂ over one axis."""
    x1, x2 = as_array(x1), as_array(x2)
    if not x1.ndim or not x2.ndim:
        raise ValueError(f"vecdot: arrays of shapes {x1.shape} and {x2.shape}, wanted vectors")
    x1, x2 = (moveaxis(x, axis, -1) for x in (x1, x2))
    shape = np.broadcast_shapes(x1.shape[:-1], x2.shape[:-1])
    if x1.shape[-1] != x2.shape[-1]:
        raise ValueError(f"vecdot: vectors of {x1.shape[-1]} and {x2.shape[-1]} elements, wanted as many")
    z = ops.reshape(ops.matmul(_conj(x1)[..., None, :], x2[..., :, None]), shape)
    return np.expand_dims(z, axis) if keepdims else z


@numpy_function(np.linalg.vecdot)
def linalg_vecdot(x1, x2, /, *, axis=-1):
    return vecdot(x1, x2, axis=axis)


if hasattr(np, "matvec"):  # since NumPy 2.2

    @numpy_function(np.matvec)
    def matvec(x1, x2, /):
        """A matrix by a vector each."""
        x1, x2 = as_array(x1), as_array(x2)
        if x1.ndim < 2 or not x2.ndim:
            raise ValueError(f"matvec: arrays of shapes {x1.shape} and {x2.shape}, wanted matrices and vectors")
        return matmul(x1, x2[..., None])[..., 0]

    @numpy_function(np.vecmat)
    def vecmat(x1, x2, /):
        """conj(x₁)ᵀ x₂, a vector by a matrix each."""
        x1, x2 = as_array(x1), as_array(x2)
        if not x1.ndim or x2.ndim < 2:
            raise ValueError(f"vecmat: arrays of shapes {x1.shape} and {x2.shape}, wanted vectors and matrices")
        return matmul(_conj(x1)[..., None, :], x2)[..., 0, :]


@numpy_function(np.tensordot)
def tensordot(a, b, axes=2):
    a, b = as_array(a), as_array(b)
    if isinstance(axes, (int, np.integer)):
        axes = (range(a.ndim - axes, a.ndim), range(axes))
    over_a, over_b = ([x] if isinstance(x, (int, np.integer)) else x for x in axes)
    over_a, over_b = [one_axis(i, a.ndim) for i in over_a], [one_axis(i, b.ndim) for i in over_b]
    distinct = len(set(over_a)) == len(over_a) and len(set(over_b)) == len(over_b)
    if not distinct or [a.shape[i] for i in over_a] != [b.shape[i] for i in over_b]:
        raise ValueError(f"tensordot: shapes {a.shape} and {b.shape} do not match over axes {axes}")
    letters = iter(string.ascii_letters)
    of_a = [next(letters) for _ in range(a.ndim)]
    of_b = [of_a[over_a[over_b.index(i)]] if i in over_b else next(letters) for i in range(b.ndim)]
    out = [c for i, c in enumerate(of_a) if i not in over_a] + [c for i, c in enumerate(of_b) if i not in over_b]
    return contract(a, "".join(of_a), b, "".join(of_b), "".join(out))


@numpy_function(np.einsum)
def einsum(subscripts, *operands, optimize=False):
    """Operands two at a time, from the left: each pair is one batched matrix product (`_contract`)."""
    if not isinstance(subscripts, str):
        subscripts, operands = _spelled(subscripts, *operands)
    operands = [as_array(x) for x in operands]
    dtype = np.result_type(*(x.dtype for x in operands))
    operands = [ops.in_dtype(x, dtype) for x in operands]
    terms, out = _einsum_terms(subscripts.replace(" ", ""), operands)
    x, of_x = operands[0], terms[0]
    for i in range(1, len(operands)):
        needed = set(out).union(*terms[i + 1 :])
        kept = "".join(dict.fromkeys(c for c in of_x + terms[i] if c in needed))
        x, of_x = contract(x, of_x, operands[i], terms[i], kept), kept
    x, of_x = _reduce(x, of_x, out)
    return ops.transpose(x, [of_x.index(c) for c in out])


def _spelled(*given) -> tuple[str, tuple]:
    """np.einsum(x, [0, 1], y, [1, 2], [0, 2]) as subscripts and operands: "AB,BC->AC", (x, y)."""
    letters = string.ascii_uppercase + string.ascii_lowercase  # in the order of the numbers

    def spelled(places) -> str:
        if any(i is not ... and not 0 <= operator.index(i) < len(letters) for i in places):
            raise ValueError(f"einsum: subscripts {list(places)}, wanted integers from 0 to 51, or ...")
        return "".join("..." if i is ... else letters[i] for i in places)

    terms = ",".join(map(spelled, given[1::2]))
    return terms + "->" + spelled(given[-1]) if len(given) % 2 else terms, given[: len(given) // 2 * 2 : 2]


def _einsum_terms(subscripts: str, operands: list) -> tuple[list[str], str]:
    """The letters of each operand and of the result, with every ellipsis spelled out."""
    left, arrow, out = subscripts.partition("->")
    terms = left.split(",")
    if len(terms) != len(operands):
        raise ValueError(f"einsum: {len(terms)} terms in {subscripts!r} for {len(operands)} operands")
    free = [c for c in string.ascii_letters if c not in subscripts]
    widths = [x.ndim - len(t.replace("...", "")) for t, x in zip(terms, operands, strict=True)]
    most = int(np.max([w for t, w in zip(terms, widths, strict=True) if "..." in t], initial=0))
    dots = "".join(free[:most])
    terms = [t.replace("...", dots[most - w :] if w else "") for t, w in zip(terms, widths, strict=True)]
    for t, x in zip(terms, operands, strict=True):
        if len(t) != x.ndim:
            raise ValueError(f"einsum: term {t!r} of {subscripts!r} for an operand of shape {x.shape}")
    letters = "".join(terms)
    if arrow and dots and "..." not in out:
        raise ValueError(f"einsum: the result of {subscripts!r} has no '...', but the operands have axes there")
    implied = dots + "".join(sorted(c for c in set(letters) - set(dots) if letters.count(c) == 1))
    out = out.replace("...", dots) if arrow else implied
    if set(out) - set(letters) or len(set(out)) != len(out):
        raise ValueError(f"einsum: the result {out!r} of {subscripts!r} names an axis no operand has, or one twice")
    return terms, out


def _reduce(x, letters: str, keep: str):
    """Take diagonals over repeated letters, and sum over the letters that are not kept."""
    for c in dict.fromkeys(letters):
        while letters.count(c) > 1:
            i, j = letters.index(c), letters.rindex(c)
            if x.shape[i] != x.shape[j]:
                raise ValueError(f"einsum: axis {c!r} of one operand has lengths {x.shape[i]} and {x.shape[j]}")
            x = diagonal(x, 0, i, j)
            letters = letters[:i] + letters[i + 1 : j] + letters[j + 1 :] + c
    drop = tuple(i for i, c in enumerate(letters) if c not in keep)
    return (_sum(x, drop) if drop else x), "".join(c for c in letters if c in keep)


def _sum(x, axis: tuple[int, ...]):
    """The sum in the dtype of x, as products have it: integers wrap, and booleans are joined by "or"."""
    return ops.in_dtype(ops.sum(x, axis), x.dtype)


def contract(x, of_x: str, y, of_y: str, out: str):
    """einsum of two operands: (batch, free of x, summed) @ (batch, summed, free of y)."""
    x, of_x = _reduce(x, of_x, of_y + out)
    y, of_y = _reduce(y, of_y, of_x + out)
    sizes: dict[str, int] = {}
    for letters, operand in ((of_x, x), (of_y, y)):
        for c, n in zip(letters, operand.shape, strict=True):
            if sizes.setdefault(c, n) != n and 1 not in (n, sizes[c]):
                raise ValueError(f"einsum: axis {c!r} has length {sizes[c]} in one operand and {n} in another")
            sizes[c] = n if sizes[c] == 1 else sizes[c]
    x = ops.broadcast_to(x, tuple(sizes[c] for c in of_x))
    y = ops.broadcast_to(y, tuple(sizes[c] for c in of_y))
    batch = [c for c in of_x if c in of_y and c in out]
    summed = [c for c in of_x if c in of_y and c not in out]
    of_x_alone, of_y_alone = [c for c in of_x if c not in of_y], [c for c in of_y if c not in of_x]

    def matrices(operand, letters, rows, columns):
        operand = ops.transpose(operand, [letters.index(c) for c in (*batch, *rows, *columns)])
        return ops.reshape(operand, (*(sizes[c] for c in batch), _volume(rows), _volume(columns)))

    def _volume(letters) -> int:
        return int(np.prod([sizes[c] for c in letters], dtype=int))

    z = ops.matmul(matrices(x, of_x, of_x_alone, summed), matrices(y, of_y, summed, of_y_alone))
    have = [*batch, *of_x_alone, *of_y_alone]
    return ops.transpose(ops.reshape(z, tuple(sizes[c] for c in have)), [have.index(c) for c in out])
