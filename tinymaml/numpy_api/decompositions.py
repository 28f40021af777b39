"""Primitives of linear algebra: NumPy's LAPACK, with a rule each; batched over leading axes.

    solve                 x = a⁻¹ b                    cholesky    a = L Lᴴ
    det, cofactors        det a, and its derivatives   eigh        a = V diag(w) Vᴴ,  a Hermitian
    logabsdet, det_sign   log |det a|, and its sign    svd         a = U diag(s) Vᴴ
    pinv, lstsq           at constant rank             qr          a = Q R
    matrix_rank                                        eig         a = V diag(w) V⁻¹

The rules are Giles' ("Collected matrix derivative results for forward and reverse mode algorithmic differentiation",
2008) where no other source is named. ḡ is the cotangent of the output: dL = Re Σ ḡ dz, so that rules of holomorphic
functions conjugate nothing. Rules of decompositions are written in conj(ḡ), as the literature has them.

Several outputs of one decomposition lie in one array, one after the other: `pack` and `unpack`.

These have no derivative, and are refused with a LinAlgError:

    eigenvectors of equal eigenvalues    they may turn freely in their plane. A loss that does not see them (then their
                                         cotangents of eigh are 0) has a first derivative, and so has a function of
                                         eigenvalues alone, of which a second derivative needs their eigenvectors'
    singular vectors                     the same, for equal singular values; and for 0, if the matrix is not square
    phases of complex vectors            a loss that depends on them, or on the turning of columns that complete a basis

And what has one by convention:

    singular value 0                     one of the subgradients, as |x| has at 0
    pinv, lstsq where the rank changes   the derivative at constant rank

Equal means: to n ε of the largest. Cotangents of what is Hermitian are Hermitian: the derivative along Hermitian
changes, though NumPy reads one triangle only. Eigenvectors are differentiated as of length 1, with constant phase.
"""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np

from .. import ops
from ..engine import Primitive, stop_gradient
from ..ops import stands_for_real, sum_to
from .complexes import of_complex

# ── small tools, of arrays as of tensors ────────────────────────────────────────────────────────────────────────────


def conj(x):
    return np.conj(x) if of_complex(x) else x


def made_real(x):
    """The real part, of what is not real in a complex step."""
    return np.real(x) if of_complex(x) else x


def transposed(x):
    return np.swapaxes(x, -1, -2)


def adjoint(x):
    """xᴴ, the conjugate transpose."""
    return conj(transposed(x))


def hermitian_part(x):
    return (x + adjoint(x)) / 2


def eye(n: int) -> np.ndarray:
    """The places of the diagonal, as truths: these promote nothing."""
    return np.eye(n, dtype=bool)


def diagonal_matrix(w):
    return np.where(eye(w.shape[-1]), w[..., None], 0)


def off_diagonal(x):
    return np.where(eye(x.shape[-1]), 0, x)


def lower_half(x):
    """Φ(x): the lower triangle, with half of the diagonal."""
    n = x.shape[-1]
    return np.where(np.tri(n, dtype=bool), x, 0) - np.where(eye(n), x / 2, 0)


def pack(*parts, core: int):
    """Matrices and vectors of the same batch as one array; `core`: the axes that are not the batch's, of the first."""
    lead = parts[0].shape[: parts[0].ndim - core]
    flat = [np.reshape(x, (*lead, math.prod(x.shape[len(lead) :]))) for x in parts]
    return np.concatenate(flat, -1)


def unpack(z, *shapes: tuple[int, ...]) -> list:
    """The parts, of `shapes` each without the batch."""
    ends = [0, *itertools.accumulate(math.prod(shape) for shape in shapes)]
    return [np.reshape(z[..., start:end], (*z.shape[:-1], *shape))
            for start, end, shape in zip(ends, ends[1:], shapes, strict=False)]  # fmt: skip


def computed(dtype: np.dtype) -> np.dtype:
    """The dtype in which np.linalg answers; its own TypeError where it has none."""
    return np.linalg.inv(np.zeros((0, 0), dtype)).dtype


def computed_real(dtype: np.dtype) -> np.dtype:
    return np.zeros(0, computed(dtype)).real.dtype


def check_square(shape) -> bool:
    return len(shape) >= 2 and shape[-1] == shape[-2]


def _of_square(shape):
    """A `shape=` of a description, where the input must be a square matrix: NumPy's own error otherwise."""
    return lambda x, *others, **how: shape(x) if check_square(x) else None


# ── x = a⁻¹ b ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _solve_shape(a, b):
    if not check_square(a) or b[-2] != a[-1]:
        return None
    return (*np.broadcast_shapes(a[:-2], b[:-2]), *b[-2:])


# z = a⁻¹ b:  b̄ = a⁻ᵀ ḡ,  ā = −b̄ zᵀ
solve = Primitive("solve", np.linalg.solve,
                  (lambda g, z, a, b: sum_to(-(solve(transposed(a), g) @ transposed(z)), a.shape),
                   lambda g, z, a, b: sum_to(solve(transposed(a), g), b.shape)),
                  shape=_solve_shape, dtype=lambda a, b: np.result_type(computed(a), computed(b)),
                  lowering="replayed")  # fmt: skip


def inverse(a):
    """a⁻¹, which LAPACK too obtains by solving for the identity."""
    return solve(a, eye(a.shape[-1]).astype(computed(a.dtype)))


# ── determinants ────────────────────────────────────────────────────────────────────────────────────────────────────


def _cofactors(a, *directions):
    """The gradient of det at a, and its derivative along all `directions`: polynomials in a, so at any matrix.

    With a = U S Vᴴ, det(a + t d) = det(U Vᴴ) det(S + t Uᴴ d V); and of a diagonal matrix S, the derivative along
    w₁ … wₖ of the gradient is a sum over ordered choices i₀ … iₖ of different rows, and over permutations σ of them:

        Σᵢ Σ_σ sgn σ  Π_{l ∉ i} sₗ  w₁[i₀, i_σ(0)] … wₖ[iₖ₋₁, i_σ(k−1)]  at the place [iₖ, i_σ(k)]

    It is as exact as its largest elements, when rows and columns are scaled to 1.
    """
    n, k, dtype = a.shape[-1], len(directions), computed(a.dtype)
    if stands_for_real(a, *directions):
        reals, changes = [x.real for x in (a, *directions)], [x.imag for x in (a, *directions)]
        moved = [reals[1:i] + reals[i + 1 :] for i in range(1, k + 1)]
        slope = sum(_cofactors(reals[0], *others, d) for others, d in zip(moved, changes[1:], strict=True))
        return _cofactors(*reals) + 1j * (slope + _cofactors(*reals, changes[0]))
    if n == 0 or a.size == 0:
        return np.zeros(a.shape, dtype)
    # rows and columns of all are scaled by powers of 2 to at most about 1: det(D a E) = det D det a det E
    most = np.max([np.abs(x) for x in (a, *directions)], 0)
    rows = np.frexp(np.max(most, -1, keepdims=True))[1]
    columns = np.frexp(np.max(most * np.ldexp(1.0, -rows), -2, keepdims=True))[1]
    a, *directions = (x * np.ldexp(1.0, -rows) * np.ldexp(1.0, -columns) for x in (a, *directions))
    u, s, vh = np.linalg.svd(a)
    w = [np.conj(np.swapaxes(u, -1, -2)) @ d @ np.conj(np.swapaxes(vh, -1, -2)) for d in directions]
    chosen = np.indices((n,) * (k + 1))
    rest = np.ones(a.shape[:-2] + chosen.shape[1:])  # Π_{l ∉ i} sₗ
    for i in range(n):
        singular = s[..., i].reshape(*s.shape[:-1], *[1] * (k + 1))
        rest = rest * np.where((chosen == i).any(0), 1, singular)
    for x, y in itertools.combinations(chosen, 2):
        rest = np.where(x == y, 0, rest)
    letters, total = "abcdefghijklmnopqrstuvwxyz"[: k + 1], 0
    for order in itertools.permutations(range(k + 1)):
        pairs = [letters[i] + letters[j] for i, j in enumerate(order)]
        fixed = order[k] == k
        term = np.einsum(",".join("..." + x for x in [letters, *pairs[:k]]) + "->..." + pairs[k][: 2 - fixed], rest, *w)
        sign = (-1) ** sum(i > j for i, j in itertools.combinations(order, 2))
        total = total + sign * (term[..., None] * np.eye(n) if fixed else term)
    factor = np.linalg.det(u) * np.linalg.det(vh)
    z = factor[..., None, None] * (np.conj(u) @ total @ np.conj(vh))
    powers = np.sum(rows, (-1, -2), keepdims=True) + np.sum(columns, (-1, -2), keepdims=True) - rows - columns
    with np.errstate(over="ignore"):
        return (z * np.ldexp(1.0, powers)).astype(dtype)


def _cofactors_rule(i, g, z, a, *directions):
    """Symmetric in the directions, of which ḡ is one more: ā is along all of them, d̄ᵢ along all but dᵢ."""
    return cofactors(a, *directions[: max(i - 1, 0)], *directions[i:], g)


# z = det a:  ā = ḡ cofactors(a), which is ḡ det(a) a⁻ᵀ where a is regular
det = Primitive("det", np.linalg.det, (lambda g, z, a: g[..., None, None] * cofactors(a),),
                shape=_of_square(lambda a: a[:-2]), dtype=computed, lowering="replayed")  # fmt: skip
cofactors = Primitive("cofactors", _cofactors, ops.EachInput(_cofactors_rule),
                      shape=_of_square(lambda a: a), dtype=lambda a, *_: computed(a), lowering="replayed")  # fmt: skip


def _logabsdet(a):
    sign, z = np.linalg.slogdet(a)
    return z + np.log(sign * np.sign(sign.real)) if stands_for_real(a) else z


def _logabsdet_rule(g, z, a):
    try:
        return g[..., None, None] * transposed(inverse(a))
    except np.linalg.LinAlgError:
        raise np.linalg.LinAlgError("slogdet: a matrix is singular, where log |det| = −inf has no derivative") from None


# z = log |det a|:  ā = ḡ a⁻ᵀ
logabsdet = Primitive("logabsdet", _logabsdet, (_logabsdet_rule,),
                      shape=_of_square(lambda a: a[:-2]), dtype=computed_real, lowering="replayed")  # fmt: skip
det_sign = Primitive("det_sign", lambda a: np.sign(np.linalg.slogdet(a)[0].real),  # of real matrices
                     shape=_of_square(lambda a: a[:-2]), dtype=computed, lowering="replayed")  # fmt: skip


# ── cholesky ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _cholesky(a):
    if not stands_for_real(a):
        return np.linalg.cholesky(a)
    lower, change = np.linalg.cholesky(a.real), symmetric(a.imag)
    # dL = L Φ(L⁻¹ da L⁻ᵀ)
    half = np.linalg.solve(lower, np.swapaxes(np.linalg.solve(lower, change), -1, -2))
    return lower + 1j * (lower @ lower_half(half))


def symmetric(a, uplo: str = "L"):
    """The symmetric matrix of which LAPACK reads one triangle."""
    a = np.tril(a) if uplo == "L" else np.triu(a)
    return a + np.swapaxes(a, -1, -2) - np.eye(a.shape[-1]) * a


def _cholesky_rule(g, lower, a):
    # ā = sym(L⁻ᵀ Φ(Lᵀ ḡ) conj(L)⁻¹)   (Murray, "Differentiation of the Cholesky decomposition", 2016, eq. 10)
    left = solve(transposed(lower), lower_half(transposed(lower) @ g))
    return hermitian_part(transposed(solve(adjoint(lower), transposed(left))))


cholesky = Primitive("cholesky", _cholesky, (_cholesky_rule,),
                     shape=_of_square(lambda a: a), dtype=computed, lowering="replayed")  # fmt: skip


# ── where vectors have no derivative ────────────────────────────────────────────────────────────────────────────────


EIGEN, SINGULAR = "eigenvectors", "singular vectors"


def _gaps(low, high):
    """high − low, and where they are equal: to n ε of the largest."""
    gap, size = np.asarray(high - low), np.abs(high)
    most = np.max(size, -1, keepdims=True, initial=0)
    return gap, np.abs(gap) <= size.shape[-1] * np.finfo(size.dtype).eps * most


def _over_gaps(x, low, high, *, of, zero=True):
    gap, equal = _gaps(low, high)
    if of and np.any(refused := equal & ((x != 0) if zero else ~eye(x.shape[-1]))):
        low, high = (np.broadcast_to(value, x.shape)[refused][0] for value in (low, high))
        raise np.linalg.LinAlgError(
            f"{of}: the values {low:.17g} and {high:.17g} are equal, or nearly, so that their vectors may turn freely,"
            " and what depends on these vectors has no derivative; of values alone (eigvalsh, eigvals, svdvals) only"
            " first derivatives exist"
        )
    return np.where(equal, 0, x) / np.where(equal, 1, gap)


# z = x / (high − low), and 0 where the gap is 0: there x must be 0, or else it is refused, if `of` says what it is for.
# zero: an x that is 0 is a loss that does not see these vectors; otherwise no gap may be 0 but those on the diagonal
over_gaps = Primitive("over_gaps", _over_gaps, (
    lambda g, z, x, low, high, **how: over_gaps(g, low, high, of=None),
    lambda g, z, x, low, high, **how: sum_to(over_gaps(g * z, low, high, of=None), low.shape),
    lambda g, z, x, low, high, **how: sum_to(-over_gaps(g * z, low, high, of=None), high.shape),
), shape=lambda x, low, high, **how: x, lowering="replayed")  # fmt: skip


def _without_phases(x, other, *, of):
    turns = np.abs(np.imag(np.diagonal(x + other, 0, -2, -1)))
    if np.any(turns > np.sqrt(np.finfo(turns.dtype).eps) * np.max(np.abs(x), (-1, -2), initial=0)[..., None]):
        raise np.linalg.LinAlgError(
            f"{of} of complex matrices have any phase, and a function that depends on it has no derivative:"
            " functions of |v|, or of v conj(v)ᵀ, do not depend on it"
        )
    return np.asarray(off_diagonal(x))


# x without its diagonal. The imaginary part of that of x + other is the slope of the loss in the phases: it must be 0
_unphased = Primitive("without_phases", _without_phases, (lambda g, z, x, other, *, of: off_diagonal(g), None),
                      shape=lambda x, other, *, of: x, lowering="replayed")  # fmt: skip


def without_phases(x, other, of: str):
    return _unphased(x, stop_gradient(other), of=of) if of_complex(x) else off_diagonal(x)


def _unturned(x, g):
    most = np.sqrt(np.finfo(x.dtype).eps) * np.max(np.abs(g), initial=0)
    if np.any(np.abs(x - adjoint(x)) > most):
        raise np.linalg.LinAlgError(
            "the columns that complete an orthonormal basis may turn freely, and what depends on their turning has no"
            " derivative: full_matrices=False, or mode='reduced', leaves them out"
        )
    return x


# x = yᴴ g of columns y with the cotangent g, if the loss does not change as they turn among themselves: if x = xᴴ
unturned = Primitive("unturned", _unturned, (lambda g, z, x, of: g, None), shape=lambda x, g: x,
                     lowering="replayed")  # fmt: skip


# ── eigenvalues of Hermitian matrices ───────────────────────────────────────────────────────────────────────────────


def _eigh(a, *, uplo):
    if not stands_for_real(a):
        return pack(*np.linalg.eigh(a, uplo)[::-1], core=2)
    w, v = np.linalg.eigh(a.real, uplo)
    # dw = diag(Vᵀ da V),  dV = V (F ∘ Vᵀ da V),  F_ij = 1 / (w_j − w_i)
    change = np.swapaxes(v, -1, -2) @ symmetric(a.imag, uplo) @ v
    turn = _over_gaps(change, w[..., :, None], w[..., None, :], of=None)
    dw = np.diagonal(change, 0, -2, -1)
    return pack(v + 1j * (v @ turn), w + 1j * dw, core=2)


def eigh_parts(z, a):
    """V and w."""
    n = a.shape[-1]
    return unpack(z, (n, n), (n,))


def _eigh_rule(g, z, a, *, uplo):
    # conj(ā) = V (diag(conj w̄) + F ∘ (Vᴴ conj V̄)) Vᴴ, made Hermitian
    v, w = eigh_parts(z, a)
    gv, gw = eigh_parts(conj(g), a)
    w, gw = made_real(w), made_real(gw)
    turn = over_gaps(without_phases(adjoint(v) @ gv, 0, EIGEN), w[..., :, None], w[..., None, :], of=EIGEN)
    return conj(hermitian_part(v @ (diagonal_matrix(gw) + turn) @ adjoint(v)))


eigh = Primitive("eigh", _eigh, (_eigh_rule,), shape=_of_square(lambda a: (*a[:-2], a[-1] * (a[-1] + 1))),
                 dtype=computed, lowering="replayed")  # fmt: skip


# w alone:  conj(ā) = V diag(conj w̄) Vᴴ, which needs no gaps
def _eigvalsh_rule(g, w, a, *, uplo):
    v, _ = eigh_parts(eigh(a, uplo=uplo), a)
    return conj(hermitian_part(v @ diagonal_matrix(g) @ adjoint(v)))


eigvalsh = Primitive("eigvalsh", lambda a, *, uplo: eigh_parts(_eigh(a, uplo=uplo), a)[1] if stands_for_real(a)
                     else np.linalg.eigvalsh(a, uplo), (_eigvalsh_rule,), shape=_of_square(lambda a: a[:-1]),
                     dtype=computed_real, lowering="replayed")  # fmt: skip


# ── eigenvalues of any matrix ───────────────────────────────────────────────────────────────────────────────────────


def _eig(a):
    if not stands_for_real(a):
        return pack(*np.linalg.eig(a)[::-1], core=2)
    w, v = np.linalg.eig(a.real)
    if np.iscomplexobj(w):
        raise TypeError("np.linalg.eig: its results are complex, so that there is no complex step")
    # P = V⁻¹ da V:  dw = diag P,  dV = V (F ∘ P), less its part along V
    change = np.linalg.solve(v, a.imag @ v)
    dv = v @ _over_gaps(change, w[..., :, None], w[..., None, :], of=None)
    dv = dv - v * np.sum(v * dv, -2, keepdims=True)
    return pack(v + 1j * dv, w + 1j * np.diagonal(change, 0, -2, -1), core=2)


def _eig_rule(g, z, a):
    # ā = V⁻ᵀ (diag w̄ + F ∘ Vᵀ (V̄ − conj(V) diag r)) Vᵀ,  rⱼ = Re Σᵢ V̄ᵢⱼ Vᵢⱼ, since vectors are of length 1
    # (Boeddeker et al., "On the computation of complex-valued gradients with application to statistically optimum
    # beamforming", 2017, eq. 4.77)
    (v, w), (gv, gw) = eigh_parts(z, a), eigh_parts(g, a)
    gv = gv - conj(v) * made_real(np.sum(gv * v, -2, keepdims=True))
    # V⁻ᵀ and V may cancel to a cotangent of 0, as at the identity: which says nothing of equal eigenvalues
    turn = without_phases(transposed(v) @ gv, 0, EIGEN)
    turn = over_gaps(turn, w[..., :, None], w[..., None, :], of=EIGEN, zero=False)
    return solve(transposed(v), (diagonal_matrix(gw) + turn) @ transposed(v))


def _eigvals_rule(g, w, a):
    v, _ = eigh_parts(eig(a), a)
    return solve(transposed(v), diagonal_matrix(g) @ transposed(v))


# The results are real if all eigenvalues are: of real matrices a recording does not know the dtype
eig = Primitive("eig", _eig, (_eig_rule,), shape=_of_square(lambda a: (*a[:-2], a[-1] * (a[-1] + 1))),
                dtype=computed, lowering="replayed")  # fmt: skip
eigvals = Primitive(
    "eigvals",
    lambda a: eigh_parts(_eig(a), a)[1] if stands_for_real(a) else np.linalg.eigvals(a),
    (_eigvals_rule,),
    shape=_of_square(lambda a: a[:-1]),
    dtype=computed,
    lowering="replayed",
)


# ── singular values ─────────────────────────────────────────────────────────────────────────────────────────────────


def _svd(a, *, full):
    if not stands_for_real(a):
        return pack(*np.linalg.svd(a, full), core=2)
    u, s, vh = np.linalg.svd(a.real, full)
    k, v, t = s.shape[-1], np.swapaxes(vh, -1, -2), lambda x: np.swapaxes(x, -1, -2)
    u, u_rest, v, v_rest, da = u[..., :k], u[..., k:], v[..., :k], v[..., k:], a.imag
    # P = Uᵀ da V, F_ij = 1 / (s_j² − s_i²):  ds = diag P,  dU = U (F ∘ (P S + S Pᵀ)) + (1 − U Uᵀ) da V S⁻¹
    p, row, column = t(u) @ da @ v, s[..., None, :], s[..., :, None]
    ds = np.diagonal(p, 0, -2, -1)
    turn = functools.partial(_over_gaps, low=column**2, high=row**2, of=None)
    du = u @ turn(p * row + column * t(p)) + (da @ v - u @ p) / row
    dv = v @ turn(column * p + t(p) * row) + (t(da) @ u - v @ t(p)) / row
    u, v = u + 1j * du, v + 1j * dv
    u_rest, v_rest = u_rest - 1j * (u @ t(du) @ u_rest), v_rest - 1j * (v @ t(dv) @ v_rest)
    return pack(np.concatenate([u, u_rest], -1), s + 1j * ds, t(np.concatenate([v, v_rest], -1)), core=2)


def svd_parts(z, shape, full: bool):
    """U, s, Vᴴ of a matrix of this shape."""
    m, n = shape[-2:]
    k = min(m, n)
    return unpack(z, (m, m if full else k), (k,), (n if full else k, n))


def completed(x, gx, k: int):
    """The first k of orthonormal columns, and their cotangent if the others, y, follow them: dy = −x dxᴴ y."""
    x, rest = x[..., :k], x[..., k:]
    gx, g_rest = gx[..., :k], gx[..., k:]
    if rest.shape[-1]:
        g_rest = g_rest - rest @ unturned(adjoint(rest) @ g_rest, stop_gradient(g_rest))  # y yᴴ g, orthogonal to x
    return x, gx - rest @ (adjoint(g_rest) @ x)


def _svd_rule(g, z, a, *, full):
    # Townsend, "Differentiating the singular value decomposition", 2016; in conj(ḡ), with X = Uᴴ gU, Y = Vᴴ gV:
    # gA = U ((F ∘ (X − Xᴴ)) S + S (F ∘ (Y − Yᴴ)) + diag gs) Vᴴ + (1 − U Uᴴ) gU S⁻¹ Vᴴ + U S⁻¹ gVᴴ (1 − V Vᴴ)
    (u, s, vh), (gu, gs, gvh) = svd_parts(z, a.shape, full), svd_parts(conj(g), a.shape, full)
    s, gs, k = made_real(s), made_real(gs), s.shape[-1]
    u, gu = completed(u, gu, k)
    v, gv = completed(adjoint(vh), adjoint(gvh), k)
    row, column = s[..., None, :], s[..., :, None]
    both = column + row  # s_j² − s_i² = (s_j − s_i) (s_j + s_i)

    def turn(x):
        x = over_gaps(x, column, row, of=SINGULAR) / np.where(both == 0, 1, both)
        return x + adjoint(x)

    x, y = adjoint(u) @ gu, adjoint(v) @ gv
    if of_complex(x):  # u and v of a pair have one phase
        gs = gs + 1j * np.imag(np.diagonal(x, 0, -2, -1)) / s
    inner = turn(without_phases(x, y, SINGULAR)) * row + column * turn(off_diagonal(y)) + diagonal_matrix(gs)
    z = u @ inner @ adjoint(v)
    if a.shape[-2] > k:
        z = z + over_gaps(gu - u @ x, 0.0, row, of=SINGULAR) @ adjoint(v)
    if a.shape[-1] > k:
        z = z + u @ adjoint(over_gaps(gv - v @ y, 0.0, row, of=SINGULAR))
    return conj(z)


svd = Primitive("svd", _svd, (_svd_rule,), dtype=computed, lowering="replayed",
                shape=lambda a, *, full: (*a[:-2], _svd_size(a[-2], a[-1], full)) if len(a) >= 2 else None)  # fmt: skip


def _svd_size(m: int, n: int, full: bool) -> int:
    k = min(m, n)
    return m * m + k + n * n if full else (m + 1 + n) * k


# s alone:  conj(ā) = U diag(s̄) Vᴴ
def _svdvals_rule(g, s, a):
    u, _, vh = svd_parts(svd(a, full=False), a.shape, False)
    return conj(u @ diagonal_matrix(g) @ vh)


svdvals = Primitive("svdvals", lambda a: svd_parts(_svd(a, full=False), a.shape, False)[1] if stands_for_real(a)
                    else np.linalg.svd(a, compute_uv=False), (_svdvals_rule,), dtype=computed_real,
                    shape=lambda a: (*a[:-2], min(a[-2:])) if len(a) >= 2 else None, lowering="replayed")  # fmt: skip


# ── pseudo-inverse ──────────────────────────────────────────────────────────────────────────────────────────────────


def _pinv(a, *, rcond, hermitian):
    p = np.linalg.pinv(a.real if stands_for_real(a) else a, rcond, hermitian)
    if not stands_for_real(a):
        return p
    # dP = −P da P + P Pᵀ daᵀ (1 − a P) + (1 − P a) daᵀ Pᵀ P
    t = np.swapaxes(p, -1, -2)
    da = symmetric(a.imag) if hermitian else a.imag
    da_t, a = np.swapaxes(da, -1, -2), symmetric(a.real) if hermitian else a.real
    return p + 1j * (p @ t @ da_t @ (np.eye(a.shape[-2]) - a @ p) + (np.eye(a.shape[-1]) - p @ a) @ da_t @ t @ p
                     - p @ da @ p)  # fmt: skip


def _pinv_rule(g, p, a, *, rcond, hermitian):
    # gA = −Pᴴ g Pᴴ + (1 − a P) gᴴ P Pᴴ + Pᴴ P gᴴ (1 − P a)
    # (Golub and Pereyra, "The differentiation of pseudo-inverses and nonlinear least squares problems whose variables
    # separate", 1973, eq. 4.12)
    a = hermitian_part(a) if hermitian else a
    h, g = adjoint(p), conj(g)
    left, right = adjoint(g) @ (p @ h), (h @ p) @ adjoint(g)
    z = left - a @ (p @ left) + right - (right @ p) @ a - h @ g @ h
    return conj(hermitian_part(z) if hermitian else z)


pinv = Primitive("pinv", _pinv, (_pinv_rule,), dtype=computed, lowering="replayed",
                 shape=lambda a, **how: (*a[:-2], a[-1], a[-2]) if len(a) >= 2 else None)  # fmt: skip


def _lstsq(a, b, *, rcond):
    if not stands_for_real(a, b):
        return np.linalg.lstsq(a, b, rcond)[0]
    x = np.linalg.lstsq(a.real, b.real, rcond)[0]
    # dx = P (db − da x) + P Pᵀ daᵀ (b − a x) + (1 − P a) daᵀ Pᵀ x
    p, t = np.linalg.pinv(a.real, rcond), np.transpose
    dx = p @ (b.imag - a.imag @ x) + p @ t(p) @ t(a.imag) @ (b.real - a.real @ x)
    return x + 1j * (dx + (np.eye(a.shape[1]) - p @ a.real) @ t(a.imag) @ t(p) @ x)


def _lstsq_rule(g, x, a, b, *, rcond):
    # of x = P b:  gA = −Pᴴ g xᴴ + (b − a x) gᴴ P Pᴴ + Pᴴ x gᴴ (1 − P a)
    p, g = pinv(a, rcond=rcond, hermitian=False), conj(g)
    h = adjoint(p)
    return conj((b - a @ x) @ adjoint(p @ (h @ g)) + (h @ x) @ adjoint(g - adjoint(a) @ (h @ g)) - (h @ g) @ adjoint(x))


lstsq = Primitive("lstsq", _lstsq,
                  (_lstsq_rule, lambda g, x, a, b, *, rcond: transposed(pinv(a, rcond=rcond, hermitian=False)) @ g),
                  shape=lambda a, b, *, rcond: (a[1], b[1]), lowering="replayed")  # fmt: skip
matrix_rank = Primitive("matrix_rank", lambda a, *, tol, rtol, hermitian: np.asarray(_rank(a, tol, rtol, hermitian)),
                        shape=lambda a, **how: a[:-2], dtype=lambda a: np.dtype(np.intp), lowering="replayed",
                        decides="choice")  # fmt: skip


def _rank(a, tol, rtol, hermitian):
    return np.linalg.matrix_rank(a.real if stands_for_real(a) else a, tol, hermitian, rtol=rtol)


# ── QR ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _qr(a, *, full):
    """Of a matrix with at least as many rows m as columns n: Q of n columns, or m; and the n rows of R."""
    n, mode = a.shape[-1], "complete" if full else "reduced"
    if not stands_for_real(a):
        q, r = np.linalg.qr(a, mode)
        return pack(q, r[..., :n, :], core=2)
    q, r = np.linalg.qr(a.real, mode)
    q, rest, r, t = q[..., :n], q[..., n:], r[..., :n, :], lambda x: np.swapaxes(x, -1, -2)
    # C = Qᵀ da R⁻¹ = skew + upper:  dR = upper R,  dQ = da R⁻¹ − Q upper
    ratio = t(np.linalg.solve(t(r), t(a.imag)))
    c = t(q) @ ratio
    upper = c - np.tril(c, -1) + t(np.tril(c, -1))
    dq = ratio - q @ upper
    rest = rest - 1j * (q @ t(dq) @ rest)
    return pack(np.concatenate([q + 1j * dq, rest], -1), r + 1j * (upper @ r), core=2)


def qr_parts(z, shape, full: bool):
    m, n = shape[-2:]
    return unpack(z, (m, m if full else n), (n, n))


def _qr_rule(g, z, a, *, full):
    # gA = (gQ + Q copyltu(R gRᴴ − gQᴴ Q)) R⁻ᴴ   (Walter and Lehmann, "Algorithmic differentiation of linear algebra
    # functions with application in optimum experimental design", 2010; copyltu as Seeger et al., 2017, name it)
    (q, r), (gq, gr) = qr_parts(z, a.shape, full), qr_parts(conj(g), a.shape, full)
    q, gq = completed(q, gq, a.shape[-1])
    half = lower_half(r @ adjoint(gr) - adjoint(gq) @ q)
    z = gq + q @ (half + adjoint(half))
    try:
        return conj(adjoint(solve(r, adjoint(z))))
    except np.linalg.LinAlgError:
        raise np.linalg.LinAlgError(
            "qr: the columns of a matrix are linearly dependent, where Q has no derivative"
        ) from None


qr = Primitive("qr", _qr, (_qr_rule,), dtype=computed, lowering="replayed",
               shape=lambda a, *, full: (*a[:-2], a[-2] * a[-2 if full else -1] + a[-1] ** 2))  # fmt: skip
