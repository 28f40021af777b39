"""Cases: linear algebra."""

import numpy as np
from cases import REGISTERED, A, B, C, E, M, S, V, W, X, case, frozen, point, primitive
from dtype_cases import exact, rounded

from tinymaml.numpy_api.decompositions import eigh_parts, qr_parts, svd_parts

LA = np.linalg
TALL, WIDE, RIGHT, BATCH = point(50, 4, 3), point(51, 2, 4), point(52, 3, 2), frozen(np.stack([M, M.T + 2 * np.eye(3)]))
SINGULAR = frozen([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6], [0.7, 0.8, 0.9]])
LOW, HIGH = frozen([[-1.0], [0.5], [2.0]]), frozen([[0.3, -2.0, 4.0]])


def symmetric(x):
    return x + np.swapaxes(x, -1, -2)


def definite(x):
    return x @ np.swapaxes(x, -1, -2) + np.eye(x.shape[-1], dtype=np.int8)


def regular(m):
    """A matrix of the dtype of m that is not singular."""
    return m[:, :3] + np.eye(3, dtype=bool)


def seen_of_eig(w, v=None):
    """What of eigenvalues and eigenvectors does not depend on the phases of these, as real numbers."""
    return [np.real(w), np.imag(w), *([] if v is None else [np.abs(v)])]


def parts(name, unpacked, given=lambda x: x, **params):
    """A primitive of which the outputs lie in one array."""
    return lambda x: unpacked(REGISTERED[name](given(x), **params), given(x))


SMOOTH = [
    # primitives
    primitive("solve", M, RIGHT, reference=LA.solve),
    primitive("det", BATCH, reference=LA.det),
    case("cofactors", REGISTERED["cofactors"], M, reference=lambda a: LA.det(a) * LA.inv(a).T),
    case("cofactors", REGISTERED["cofactors"], M, point(53, 3, 3), reference=lambda a, d: LA.det(a) * (
        np.trace(LA.inv(a) @ d) * LA.inv(a) - LA.inv(a) @ d @ LA.inv(a)).T),
    primitive("logabsdet", M, reference=lambda a: LA.slogdet(a)[1]),
    case("cholesky", lambda x: REGISTERED["cholesky"](definite(x)), M, reference=lambda x: LA.cholesky(definite(x))),
    primitive("over_gaps", M, LOW, HIGH, of="it", reference=lambda x, low, high, of: x / (high - low)),
    case("without_phases", lambda x: REGISTERED["without_phases"](x, 0, of="it"), M,
         reference=lambda x: x - np.diag(np.diag(x))),
    case("unturned", lambda x: REGISTERED["unturned"](x + x.T, 1), M, reference=lambda x: x + x.T),
    case("eigh", parts("eigh", eigh_parts, symmetric, uplo="L"), M,
         reference=lambda x: [*LA.eigh(symmetric(x))[::-1]]),
    case("eigvalsh", lambda x: REGISTERED["eigvalsh"](symmetric(x), uplo="L"), M,
         reference=lambda x: LA.eigvalsh(symmetric(x))),
    case("eig", lambda x: seen_of_eig(*eigh_parts(REGISTERED["eig"](x + 0j), x)[::-1]), M, analytic=False,
         reference=lambda x: seen_of_eig(*LA.eig(x + 0j))),
    case("eigvals", lambda x: seen_of_eig(REGISTERED["eigvals"](x + 0j)), M, analytic=False,
         reference=lambda x: seen_of_eig(LA.eigvals(x + 0j))),
    primitive("svdvals", TALL, reference=LA.svdvals),
    case("svd", parts("svd", lambda z, x: svd_parts(z, x.shape, False), full=False), TALL,
         reference=lambda x: [*LA.svd(x, False)]),
    case("svd", parts("svd", lambda z, x: svd_parts(z, x.shape, True), full=True), point(54, 3, 2),
         reference=lambda x: [*LA.svd(x)]),
    primitive("pinv", TALL, rcond=1e-15, hermitian=False, reference=lambda a, **_: LA.pinv(a)),
    primitive("lstsq", TALL, point(58, 4, 2), rcond=1e-9, reference=lambda a, b, rcond: LA.lstsq(a, b, rcond)[0]),
    primitive("lstsq", WIDE, A[:, :2], rcond=1e-9, reference=lambda a, b, rcond: LA.lstsq(a, b, rcond)[0]),
    case("qr", parts("qr", lambda z, x: qr_parts(z, x.shape, False), full=False), TALL,
         reference=lambda x: [*LA.qr(x)]),
    primitive("root", frozen([0.3, 2.0]), degree=2, reference=lambda s, degree: np.sqrt(s)),
    primitive("root", frozen([0.3, 2.0]), degree=3, reference=lambda s, degree: s ** (1 / 3)),
    primitive("root_slope", E, degree=2, reference=lambda z, degree: 0.5 / z),
    # systems of equations
    case(LA.solve, LA.solve, M, RIGHT), case(LA.solve, LA.solve, BATCH, V), case(LA.solve, LA.solve, BATCH, RIGHT),
    case(LA.inv, LA.inv, M), case(LA.inv, LA.inv, BATCH),
    case(LA.tensorsolve, lambda a, b: LA.tensorsolve(np.reshape(a, (3, 1, 3)), b), M, V),
    case(LA.tensorsolve, lambda a, b: LA.tensorsolve(np.reshape(a, (3, 3, 1)), b, (0,)), M, V),
    case(LA.tensorinv, lambda a: LA.tensorinv(np.reshape(a, (3, 1, 3)), 1), M),
    case(LA.pinv, LA.pinv, TALL), case(LA.pinv, lambda x: LA.pinv(x, 1e-3), WIDE),
    case(LA.pinv, lambda x: LA.pinv(symmetric(x), hermitian=True), M),
    case(LA.pinv, lambda x, y: LA.pinv(np.outer(x, y), rtol=1e-8), V, E),
    case(LA.lstsq, lambda a, b: (LA.lstsq(a, b)[0], LA.lstsq(a, b)[3]), WIDE, E),
    case(LA.lstsq, lambda a, b: LA.lstsq(a, b, 1e-9)[0], M, RIGHT),
    # determinants, powers
    case(LA.det, LA.det, M), case(LA.det, LA.det, BATCH), case(LA.det, LA.det, SINGULAR),
    case(LA.slogdet, lambda x: LA.slogdet(x)[1], BATCH), case(LA.slogdet, lambda x: LA.slogdet(x)[0] * x, M),
    *(case(LA.matrix_power, lambda x, n=n: (LA.matrix_power(x, n), x), M) for n in (0, 1, 2, 5, -1, -2)),
    case(LA.multi_dot, lambda x, y: LA.multi_dot([x, y]), M, V),
    case(LA.multi_dot, lambda x, y, z, w: LA.multi_dot([x, y, z, w]), V, M, TALL.T, point(55, 4)),
    case(LA.multi_dot, lambda x, y, z: LA.multi_dot([x, y, z]), WIDE, TALL, V),
    # decompositions
    case(LA.cholesky, lambda x: LA.cholesky(definite(x)), BATCH),
    case(LA.cholesky, lambda x: LA.cholesky(definite(x), upper=True), M),
    case(LA.eigh, lambda x: [*LA.eigh(symmetric(x))], BATCH),
    case(LA.eigh, lambda x: LA.eigh(symmetric(x), "U").eigenvectors, M),
    case(LA.eigvalsh, lambda x: LA.eigvalsh(symmetric(x)), M),
    case(LA.eig, lambda x: seen_of_eig(*LA.eig(x + 0j)), BATCH, analytic=False),
    case(LA.eigvals, lambda x: seen_of_eig(LA.eigvals(x * 1j)), M, analytic=False),
    case(LA.svd, lambda x: [*LA.svd(x, full_matrices=False)], BATCH[:, :2]),
    case(LA.svd, lambda x: [*LA.svd(x)], M), case(LA.svd, lambda x: LA.svd(x, compute_uv=False), WIDE),
    case(LA.svd, lambda x: [*LA.svd(symmetric(x), hermitian=True)], M), case(LA.svdvals, LA.svdvals, TALL),
    case(LA.qr, lambda x: [*LA.qr(x)], BATCH), case(LA.qr, lambda x: LA.qr(x, "r"), TALL),
    case(LA.qr, lambda x: [*LA.qr(x)], WIDE), case(LA.qr, lambda x: [*LA.qr(x, "complete")], point(57, 3, 2)),
    # norms, beside those of `test_ops`
    *(case(LA.norm, lambda x, p=p: LA.norm(x, p), V) for p in (None, 1, 2, 3, 2.5, 0.5, -1, -2, np.inf, -np.inf)),
    *(case(LA.norm, lambda x, p=p: LA.norm(x, p), TALL) for p in ("fro", "nuc", 1, -1, 2, -2, np.inf, -np.inf)),
    case(LA.norm, lambda x: LA.norm(x), C), case(LA.norm, lambda x: LA.norm(x, 2, (2, 0), True), C),
    case(LA.norm, lambda x: LA.norm(x, 1, (-1, 0)), C), case(LA.norm, lambda x: LA.norm(x, axis=(0, 1)), C),
    case(LA.norm, lambda x: LA.norm(x, 0) * x, V), case(LA.norm, lambda x: LA.norm(x, 3, 1, True), C),
    case(LA.vector_norm, lambda x: LA.vector_norm(x, axis=(2, 0), keepdims=True), C),
    case(LA.vector_norm, lambda x: LA.vector_norm(x, ord=3), C),
    case(LA.matrix_norm, LA.matrix_norm, BATCH),
    case(LA.matrix_norm, lambda x: LA.matrix_norm(x, ord="nuc", keepdims=True), BATCH),
    *(case(LA.cond, lambda x, p=p: LA.cond(x, p), M) for p in (None, -2, 1, np.inf, "fro")),
    # products
    case(LA.matmul, LA.matmul, C, B[:2]), case(LA.tensordot, lambda x, y: LA.tensordot(x, y, axes=1), X, M),
    case(LA.outer, LA.outer, V, E), case(LA.vecdot, LA.vecdot, M, V),
    case(LA.vecdot, lambda x, y: LA.vecdot(x, y, axis=0), M, TALL[:3]), case(LA.cross, LA.cross, M, V),
    case(np.kron, np.kron, X, RIGHT), case(np.kron, np.kron, V, X), case(np.kron, np.kron, S, X),
    case(np.kron, np.kron, C, E), case(np.cross, np.cross, X, W),
    case(np.cross, lambda x, y: np.cross(x, y, axisa=0, axisc=0), RIGHT, X),
    # diagonals
    case(LA.diagonal, lambda x: LA.diagonal(x, offset=1), C), case(LA.trace, lambda x: LA.trace(x, offset=-1), BATCH),
]  # fmt: skip
STEPS = [
    primitive("det_sign", M, reference=lambda a: LA.slogdet(a)[0]),
    primitive("matrix_rank", BATCH, tol=None, rtol=None, hermitian=False, reference=lambda a, **_: LA.matrix_rank(a)),
    case(LA.slogdet, lambda x: LA.slogdet(x)[0], BATCH),
    *(case(LA.matrix_rank, f, M) for f in (
        LA.matrix_rank, lambda x: LA.matrix_rank(x, 0.5),
        lambda x: LA.matrix_rank(x + x.T, hermitian=True), lambda x: LA.matrix_rank(x, rtol=0.9))),
]  # fmt: skip
PLAIN = []
ONE = {
    # of m[:, :3], which for some dtypes is singular
    **{f: rounded(lambda v, m, f=f: f(m[:, :3]), lambda v, m, f=f: f(m[:, 1:]), machine=False)
       for f in (LA.det, LA.slogdet, LA.svdvals)},
    LA.inv: rounded(lambda v, m: LA.inv(regular(m)), lambda v, m: LA.inv(m), lambda v, m: LA.inv(v), machine=False),
    LA.solve: rounded(lambda v, m: LA.solve(regular(m), m[:3, 0]), lambda v, m: LA.solve(regular(m), m > 0),
                      machine=False),
    LA.tensorsolve: rounded(lambda v, m: LA.tensorsolve(regular(m), m[:, 0]), machine=False),
    LA.tensorinv: rounded(lambda v, m: LA.tensorinv(regular(m), 1), machine=False),
    LA.pinv: rounded(lambda v, m: LA.pinv(regular(m)), machine=False),
    LA.lstsq: rounded(lambda v, m: LA.lstsq(regular(m), m)[0], machine=False),
    LA.matrix_power: rounded(
        *(lambda v, m, n=n: LA.matrix_power(regular(m), n) for n in (0, 1, 2, 3)),
        lambda v, m: LA.matrix_power(regular(m), -1), machine=False),
    LA.multi_dot: rounded(lambda v, m: LA.multi_dot([m[:, 0], m, m[0]]), lambda v, m: LA.multi_dot([m, m.T])),
    LA.cholesky: rounded(lambda v, m: LA.cholesky(definite(m > 0)), lambda v, m: LA.cholesky(-1.0 * definite(m > 0)),
                         machine=False),
    LA.eigh: rounded(lambda v, m: LA.eigh(symmetric(regular(m) * 0.25)).eigenvalues, machine=False),
    LA.eigvalsh: rounded(lambda v, m: LA.eigvalsh(symmetric(regular(m) * 0.25)), machine=False),
    LA.eig: rounded(lambda v, m: np.abs(LA.eig(regular(m) * 1j).eigenvectors), machine=False),
    LA.eigvals: rounded(lambda v, m: np.abs(LA.eigvals(regular(m) * 1j)), machine=False),
    LA.svd: rounded(lambda v, m: LA.svd(m).S, lambda v, m: LA.svd(m > 0, False).S, machine=False),
    LA.qr: rounded(lambda v, m: LA.qr(m, "r")[:, :3], machine=False),
    LA.matrix_rank: exact(lambda v, m: LA.matrix_rank(m), lambda v, m: LA.matrix_rank(v * 0 == 1), machine=False),
    LA.cond: rounded(lambda v, m: LA.cond(regular(m)), machine=False),
    LA.matrix_norm: rounded(lambda v, m: LA.matrix_norm(m), lambda v, m: LA.matrix_norm(m, ord=-np.inf, keepdims=True)),
    LA.vector_norm: rounded(lambda v, m: LA.vector_norm(m), lambda v, m: LA.vector_norm(m, axis=0, ord=3)),
    LA.matmul: rounded(lambda v, m: LA.matmul(m, m.T)),
    LA.tensordot: rounded(lambda v, m: LA.tensordot(m, m, axes=((1,), (1,)))),
    LA.outer: rounded(lambda v, m: LA.outer(m[0], m[1]), lambda v, m: LA.outer(m, m)),
    LA.vecdot: rounded(lambda v, m: LA.vecdot(m, m[0]), lambda v, m: LA.vecdot(m, m, axis=0)),
    LA.cross: rounded(lambda v, m: LA.cross(m[:, :3], m[0, 1:]), lambda v, m: LA.cross(m, m)),
    LA.diagonal: exact(lambda v, m: LA.diagonal(m, offset=1)),
    LA.trace: rounded(lambda v, m: LA.trace(m), lambda v, m: LA.trace(m, dtype=np.float64)),
    np.kron: rounded(lambda v, m: np.kron(m, m[0]), lambda v, m: np.kron(v[1], m), lambda v, m: np.kron(m > 0, m)),
    np.cross: rounded(lambda v, m: np.cross(m[:, :3], m[0, 1:]), lambda v, m: np.cross(m, m)),
}  # fmt: skip
TWO = {}

if hasattr(np, "vecdot"):
    SMOOTH += [case(np.vecdot, np.vecdot, M, V)]
    ONE[np.vecdot] = rounded(lambda v, m: np.vecdot(m, m[0]))
if hasattr(np, "matvec"):  # since NumPy 2.2
    SMOOTH += [case(np.matvec, np.matvec, BATCH, V), case(np.vecmat, np.vecmat, V, BATCH)]
    ONE[np.matvec], ONE[np.vecmat] = (
        rounded(lambda v, m: np.matvec(m, m[0])), rounded(lambda v, m: np.vecmat(m[:, 0], m)))  # fmt: skip
