"""Linear algebra: beside NumPy on any matrix, beside JAX to second order, and where there is no derivative.

`test_ops` and `test_dtypes` have the cases of `cases_linalg`; here are awkward matrices, and complex ones.
"""

import functools
import itertools
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinymaml as tm
from tinymaml import check_grads
from tinymaml.engine import Tensor, value_of
from tinymaml.nest import tree_leaves, tree_map
from tinymaml.numpy_api import decompositions
from tinymaml.programs import record

LA = np.linalg
RNG = np.random.default_rng(0)
A, B, W = RNG.standard_normal((3, 3)), RNG.standard_normal((4, 3)), RNG.standard_normal((2, 4))
COMPLEX = A + 1j * RNG.standard_normal((3, 3))


def turned(*eigenvalues: float) -> np.ndarray:
    """A symmetric matrix with these eigenvalues."""
    q, _ = LA.qr(np.random.default_rng(1).standard_normal((len(eigenvalues),) * 2))
    return q @ np.diag(eigenvalues) @ q.T


# ── beside NumPy ────────────────────────────────────────────────────────────────────────────────────────────────────

FUNCTIONS = {
    "solve a vector": lambda x: LA.solve(x, np.ones(3)), "solve matrices": lambda x: LA.solve(x, np.ones((3, 2))),
    "solve for it": lambda x: LA.solve(np.eye(3), x), "inv": LA.inv, "det": LA.det, "slogdet": LA.slogdet,
    "cholesky": LA.cholesky, "cholesky upper": lambda x: LA.cholesky(x, upper=True),
    "eigh": LA.eigh, "eigh U": lambda x: LA.eigh(x, "u"), "eigvalsh": LA.eigvalsh, "eig": LA.eig, "eigvals": LA.eigvals,
    "svd": LA.svd, "svd reduced": lambda x: LA.svd(x, False), "svdvals": LA.svdvals,
    "svd of a Hermitian": lambda x: LA.svd(x, hermitian=True),
    "singular values of a Hermitian": lambda x: LA.svd(x, compute_uv=False, hermitian=True),
    "pinv": LA.pinv, "pinv rtol": lambda x: LA.pinv(x, rtol=1e-3),
    "pinv of a Hermitian": lambda x: LA.pinv(x, 0.1, True),
    "qr": LA.qr, "qr complete": lambda x: LA.qr(x, "complete"), "qr r": lambda x: LA.qr(x, "r"),
    "lstsq": lambda x: LA.lstsq(x, np.ones(3)), "lstsq of it": lambda x: LA.lstsq(np.eye(3)[:, :2], x),
    "matrix_rank": LA.matrix_rank, "matrix_rank rtol": lambda x: LA.matrix_rank(x, rtol=0.5),
    **{f"matrix_power {n}": lambda x, n=n: LA.matrix_power(x, n) for n in (-2, -1, 0, 1, 2, 3, 7, 1.5)},
    "multi_dot": lambda x: LA.multi_dot([x, x, np.ones(3)]), "multi_dot of one": lambda x: LA.multi_dot([x]),
    "tensorinv": lambda x: LA.tensorinv(x, 1) if x.ndim else x, "tensorsolve": lambda x: LA.tensorsolve(x, np.ones(3)),
    **{f"norm {p}": lambda x, p=p: LA.norm(x, p)
       for p in (None, 0, 1, -1, 2, -2, 3, 0.5, -3, np.inf, -np.inf, "fro", "nuc", "odd")},
    **{f"norm {p} over one axis": lambda x, p=p: LA.norm(x, p, -1, True)
       for p in (None, 0, 1, -1, 2, -2, 3, 0.5, -3, np.inf, -np.inf, "fro")},
    **{f"norm over {axis}": lambda x, axis=axis: LA.norm(x, axis=axis)
       for axis in (0, (0,), (0, 1), (-1, 0), (1, 1), (), (0, 1, 2), 7)},
    "matrix_norm": lambda x: LA.matrix_norm(x, ord=-2, keepdims=True), "vector_norm": LA.vector_norm,
    "vector_norm over two axes": lambda x: LA.vector_norm(x, axis=(0, -1), keepdims=True, ord=1),
    **{f"cond {p}": lambda x, p=p: LA.cond(x, p) for p in (None, -2, 1, np.inf, "fro", 5)},
    "trace": LA.trace, "trace in float32": lambda x: LA.trace(x, offset=1, dtype=np.float32), "np.trace": np.trace,
    "diagonal": LA.diagonal, "diagonal outside": lambda x: LA.diagonal(x, offset=-9),
    "diagonal of one axis": lambda x: np.diagonal(x, 0, 1, 1), "diagflat": lambda x: np.diagflat(x, -1),
    "vander": lambda x: np.vander(x, 4), "vander of none": lambda x: np.vander(x, 0),
    "vander of less": lambda x: np.vander(x, -1), "linalg.outer": lambda x: LA.outer(x, x),
    "kron": lambda x: np.kron(x, x[..., :1]), "kron of a vector": lambda x: np.kron(np.ones(2, np.int8), x),
    "cross": lambda x: np.cross(x, np.arange(3)), "cross over axis 0": lambda x: np.cross(x, x, axis=0),
    "cross of two": lambda x: np.cross(x, np.arange(2)), "linalg.cross": lambda x: LA.cross(x, x, axis=0),
    "vecdot": lambda x: LA.vecdot(x, np.ones(3)), "vecdot over axis 0": lambda x: LA.vecdot(x, x, axis=0),
    "np.vecdot": lambda x: np.vecdot(x, x, axis=0, keepdims=True), "vdot": lambda x: np.vdot(x, x),
    **({"matvec": lambda x: np.matvec(x, np.ones(3)), "vecmat": lambda x: np.vecmat(np.arange(3) * 1j, x)}
       if hasattr(np, "matvec") else {}),
}  # fmt: skip
SHAPES = [(), (0,), (3,), (0, 0), (0, 3), (3, 0), (1, 1), (3, 3), (2, 3), (3, 2), (0, 3, 3), (2, 0, 0),
          (2, 3, 3), (2, 1, 3, 3)]  # fmt: skip
DTYPES = ["f8", "f4", "f2", "i4", "u1", "?", "c16", "c8", ">f8"]
SPECIAL = {
    "tame": lambda x: x, "singular": np.ones_like, "zero": np.zeros_like,
    "definite": lambda x: x * 0 + np.eye(*x.shape[-2:]), "huge": lambda x: x * 1e100, "tiny": lambda x: x * 1e-100,
    "nan": lambda x: x * np.nan, "infinite": lambda x: x * np.inf,
    "every other": lambda x: np.repeat(x, 2, -1)[..., ::-2],
}  # fmt: skip


def outcome(f, x):
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return f(x)
        except Exception as error:
            return error


def examine(f, x) -> None:
    """On a tensor f gives what it gives on an array: value, shape, dtype, kind of tuple, or kind of error."""
    wanted, ours = outcome(f, x), outcome(f, Tensor(x))
    if x.dtype == np.float16 and "float16 is unsupported" in str(ours):  # as NumPy says, later
        return
    if isinstance(wanted, Exception):
        assert isinstance(ours, (type(wanted), *type(wanted).__bases__)), (ours, wanted)
        return
    assert not isinstance(ours, Exception), ours
    assert type(ours) is type(wanted) or not isinstance(wanted, tuple)
    for a, b in zip(tree_leaves(ours), tree_leaves(wanted), strict=True):
        a, b = np.asarray(value_of(a)), np.asarray(b)
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        size = np.max(np.abs(b), initial=0, where=np.isfinite(b))
        eps = 1e-3 if b.dtype == np.float16 else 1e-5 if b.dtype in ("f4", "c8") else 1e-12
        with np.errstate(all="ignore"):
            np.testing.assert_allclose(a, b, rtol=eps, atol=eps * float(size))


def matrix(shape, dtype: str, special: str, seed: int) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal(shape) * 3
    if dtype in ("c16", "c8"):
        x = x + 1j * np.random.default_rng(seed + 1).standard_normal(shape)
    with np.errstate(all="ignore"):
        x = SPECIAL[special](x) if x.ndim >= 2 else x
        return x.astype(dtype) if np.dtype(dtype).kind in "fc" else np.nan_to_num(np.abs(x) % 100).astype(dtype)


@pytest.mark.parametrize("f", FUNCTIONS.values(), ids=FUNCTIONS)
def test_a_function_of_any_matrix_is_numpys(f):
    for shape, dtype in itertools.product(SHAPES, DTYPES):
        examine(f, matrix(shape, dtype, "tame", 0))
    for special, dtype in itertools.product(SPECIAL, ("f8", "f4", "c16", "i4")):
        examine(f, matrix((3, 3), dtype, special, 1))


@settings(max_examples=200)
@given(st.sampled_from([*FUNCTIONS]), st.sampled_from(SHAPES), st.sampled_from(DTYPES), st.sampled_from([*SPECIAL]),
       st.integers(0, 1000))  # fmt: skip
def test_a_random_matrix_is_no_exception(name, shape, dtype, special, seed):
    examine(FUNCTIONS[name], matrix(shape, dtype, special, seed))


def test_a_wrong_value_is_found(monkeypatch):
    monkeypatch.setattr(decompositions.det, "forward", lambda a: LA.det(a) * (1 + 1e-9))
    with pytest.raises(AssertionError):
        examine(LA.det, A)


@pytest.mark.parametrize("f, x", [
    (LA.inv, np.ones((2, 2))), (LA.inv, np.ones((2, 3))), (LA.inv, np.ones(3)), (LA.det, np.ones((2, 3))),
    (lambda x: LA.solve(x, np.ones(2)), np.zeros((2, 2))), (lambda x: LA.solve(x, np.ones((3, 1))), np.eye(2)),
    (LA.cholesky, -np.eye(2)), (LA.eigh, np.ones((2, 3))), (LA.svd, np.ones(3)), (LA.pinv, np.ones(3)),
    (LA.eig, np.full((2, 2), np.nan)), (LA.qr, np.ones(3)), (LA.eigvals, np.ones((1, 2))), (LA.svdvals, np.ones(())),
])  # fmt: skip
def test_an_error_is_numpys_own(f, x):
    with pytest.raises((LA.LinAlgError, ValueError)) as wanted:
        f(x)
    with pytest.raises(type(wanted.value)) as ours:
        f(Tensor(x))
    assert str(ours.value) == str(wanted.value)
    if "ingular" not in str(wanted.value) and "definite" not in str(wanted.value) and "NaN" not in str(wanted.value):
        with pytest.raises(type(wanted.value)) as recorded:
            record(f, x)
        assert str(recorded.value) == str(wanted.value)


def test_tensors_and_arrays_mix():
    for f in (LA.solve, np.kron, LA.matmul, np.cross, LA.vecdot, lambda a, b: LA.lstsq(a, b)[0]):
        for args in ((Tensor(A), A.T), (A, Tensor(A.T)), (Tensor(A), Tensor(A.T))):
            np.testing.assert_allclose(f(*args).value, f(A, A.T), rtol=1e-12)


# ── beside JAX ──────────────────────────────────────────────────────────────────────────────────────────────────────


def hermitian(np, x):
    return x + np.conj(np.swapaxes(x, -1, -2))


def definite(np, x):
    return x @ np.conj(np.swapaxes(x, -1, -2)) + np.eye(x.shape[-1])


def seen_of_eigh(np, w, v):
    """What does not depend on phases."""
    return [w, (v * w[..., None, :] ** 2) @ np.conj(np.swapaxes(v, -1, -2)), np.abs(v)]


def seen_of_svd(np, u, s, vh):
    return [s, (u * np.exp(s)[..., None, :]) @ vh, np.abs(u), np.abs(vh)]


PAIRS = {  # name: function, shapes
    "solve": (lambda np, a, b: np.linalg.solve(a, b), (3, 3), (3, 2)),
    "solve a vector": (lambda np, a, b: np.linalg.solve(a, b), (2, 3, 3), (3,)),
    "inv": (lambda np, a: np.linalg.inv(a), (2, 3, 3)),
    "det": (lambda np, a: np.linalg.det(a), (2, 3, 3)),
    "slogdet": (lambda np, a: [*np.linalg.slogdet(a)], (2, 3, 3)),
    "sign of slogdet": (lambda np, a: np.imag(np.linalg.slogdet(a)[0] + 0j), (3, 3)),
    "cholesky": (lambda np, a: np.linalg.cholesky(definite(np, a)), (2, 3, 3)),
    "cholesky upper": (lambda np, a: np.linalg.cholesky(definite(np, a), upper=True), (3, 3)),
    "eigh": (lambda np, a: seen_of_eigh(np, *np.linalg.eigh(hermitian(np, a))), (2, 3, 3)),
    "eigvalsh": (lambda np, a: np.linalg.eigvalsh(hermitian(np, a)), (3, 3)),
    "svd tall": (lambda np, a: seen_of_svd(np, *np.linalg.svd(a, full_matrices=False)), (4, 3)),
    "svd wide": (lambda np, a: seen_of_svd(np, *np.linalg.svd(a, full_matrices=False)), (2, 2, 3)),
    "svdvals": (lambda np, a: np.linalg.svd(a, compute_uv=False), (4, 3)),
    "pinv": (lambda np, a: np.linalg.pinv(a), (4, 3)),
    "pinv wide": (lambda np, a: np.linalg.pinv(a), (2, 3)),
    "qr": (lambda np, a: [np.abs(y) ** 2 for y in np.linalg.qr(a)], (4, 3)),
    "qr wide": (lambda np, a: [np.abs(y) ** 2 for y in np.linalg.qr(a)], (2, 4)),
    "lstsq": (lambda np, a, b: np.linalg.lstsq(a, b)[0], (4, 3), (4, 2)),
    "matrix_power": (lambda np, a: np.linalg.matrix_power(a, -2), (3, 3)),
    "multi_dot": (lambda np, a, b, c: np.linalg.multi_dot([a, b, c]), (2, 3), (3, 4), (4,)),
    **{f"norm {p}": (lambda np, a, p=p: np.linalg.norm(a, p), (3, 2))
       for p in (None, "nuc", 1, -1, 2, -2, np.inf, -np.inf)},
    **{f"norm {p} over one axis": (lambda np, a, p=p: np.linalg.norm(a, p, axis=0), (3, 2))
       for p in (1, 2, 3, -1, np.inf)},
    "cond": (lambda np, a: np.linalg.cond(a), (3, 3)), "cond 1": (lambda np, a: np.linalg.cond(a, 1), (3, 3)),
    "vecdot": (lambda np, a, b: np.linalg.vecdot(a, b), (4, 3), (4, 3)),
    "vdot": (lambda np, a, b: np.vdot(a, b), (4,), (2, 2)), "kron": (lambda np, a, b: np.kron(a, b), (2, 3), (2,)),
    "cross": (lambda np, a, b: np.cross(a, b), (2, 3), (3,)), "outer": (lambda np, a, b: np.outer(a, b), (2, 2), (3,)),
    "trace": (lambda np, a: np.trace(a, 1), (3, 3)), "vander": (lambda np, a: np.vander(a), (3,)),
}  # fmt: skip


def loss(np, out):
    """A real number that sees all of `out`."""
    total = 0.0
    for i, y in enumerate(out if isinstance(out, (list, tuple)) else [out]):
        weights = np.cos(np.arange(y.size).reshape(y.shape) * 1.0 + i)
        total = total + np.sum((np.abs(y) ** 2 if np.iscomplexobj(y) else np.sin(y)) * weights)
        total = total + (np.sum(np.imag(y) * weights) if np.iscomplexobj(y) else 0)
    return total


def second(np, gradient, directions):
    return lambda *xs: sum(np.sum(np.real(g * u)) for g, u in zip(gradient(*xs), directions, strict=True))


@functools.cache
def compiled_by_jax(f, count: int):
    """Value, gradient and second derivative of `count` arguments and their directions, compiled as a whole: else JAX
    would compile every operation by itself."""
    import jax

    every = tuple(range(count))
    value = lambda *xs: loss(jax.numpy, f(jax.numpy, *xs))  # noqa: E731
    first = jax.grad(value, every)
    return jax.jit(lambda xs, us: [value(*xs), first(*xs), jax.grad(second(jax.numpy, first, us), every)(*xs)])


def compare(f, args, directions, rtol=1e-8) -> None:
    """Values, gradients and second derivatives are those of JAX in double precision."""
    jax = pytest.importorskip("jax")
    every = tuple(range(len(args)))
    with jax.enable_x64(True) if hasattr(jax, "enable_x64") else jax.experimental.enable_x64():
        theirs = tree_map(np.asarray, compiled_by_jax(f, len(args))(args, directions))
    of_numpy = lambda *xs: loss(np, f(np, *xs))  # noqa: E731
    ours = [*tm.value_and_grad(of_numpy, every)(*args),
            tm.grad(second(np, tm.grad(of_numpy, every), directions), every)(*args)]  # fmt: skip
    for a, b in zip(tree_leaves(ours), tree_leaves(theirs), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * np.max(np.abs(b)))


BY_DEFAULT = ("solve", "cholesky", "eigh", "svd tall", "qr")


@pytest.mark.parametrize("kind", ["real", "ill-conditioned", pytest.param("complex", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", [
    name if name in BY_DEFAULT else pytest.param(name, marks=pytest.mark.slow) for name in PAIRS
])  # fmt: skip
def test_gradients_and_second_derivatives_are_those_of_jax(name, kind):
    f, *shapes = PAIRS[name]
    rng = np.random.default_rng(3)
    draws = [rng.standard_normal(shape) for shape in (*shapes, *shapes)]
    if kind == "complex":
        if name == "sign of slogdet":  # of JAX, which takes a branch of real numbers
            f = PAIRS["slogdet"][0]
        draws = [x + 1j * rng.standard_normal(x.shape) for x in draws]
    if kind == "ill-conditioned":
        draws = [x * np.logspace(0, -4, x.shape[-1]) for x in draws]
    compare(f, draws[: len(shapes)], draws[len(shapes) :], rtol=1e-4 if kind == "ill-conditioned" else 1e-8)


def test_a_wrong_rule_is_found_beside_jax(monkeypatch):
    right = decompositions.solve.vjp
    monkeypatch.setattr(decompositions.solve, "vjp", (lambda g, z, a, b: np.conj(right[0](g, z, a, b)), right[1]))
    with pytest.raises(AssertionError):
        compare(PAIRS["inv"][0], [COMPLEX], [COMPLEX])


# ── complex numbers ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("f", [
    LA.inv, LA.det, lambda x: [*LA.slogdet(x)], lambda x: LA.cholesky(definite(np, x)), LA.svdvals, LA.pinv,
    lambda x: LA.eigvalsh(hermitian(np, x)), lambda x: seen_of_eigh(np, *LA.eigh(hermitian(np, x), "U")), LA.eigvals,
    lambda x: np.abs(LA.eig(x)[1]), lambda x: seen_of_svd(np, *LA.svd(x)), LA.norm, lambda x: LA.norm(x, 3, 0),
    lambda x: np.abs(LA.qr(x[:2])[0]), lambda x: np.abs(LA.qr(x[:, :2], "complete")[0][:, 2:]),
    lambda x: LA.lstsq(x[:, :2], x[:, 2])[0], lambda x: LA.lstsq(x[:, :2], x)[1],
    lambda x: LA.pinv(hermitian(np, x), hermitian=True), lambda x: LA.svd(hermitian(np, x), hermitian=True)[1],
    lambda x: LA.norm(x, "nuc"), LA.cond, lambda x: np.vdot(x, x + 1j), lambda x: np.vecdot(x, x[0]),
    lambda x: LA.matrix_power(x, -2), lambda x: np.vander(x[0]), lambda x: np.cross(x, x[0]),
    lambda x: np.kron(x, x[0]),
])  # fmt: skip
@pytest.mark.parametrize("order", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_functions_of_complex_matrices_have_numerical_derivatives(f, order):
    check_grads(f, (COMPLEX,), order=order)


@pytest.mark.parametrize("f", [
    lambda x: LA.eigh(hermitian(np, x))[1], lambda x: LA.eig(x)[1], lambda x: LA.svd(x)[0], lambda x: LA.svd(x)[2],
    lambda x: LA.eig(np.real(x) - np.real(x).T)[1],
])  # fmt: skip
def test_what_depends_on_the_phase_of_a_vector_is_refused(f):
    with pytest.raises(LA.LinAlgError, match=r"vectors of complex matrices have any phase.*\|v\|"):
        tm.grad(lambda x: np.sum(np.real(f(x))))(COMPLEX)


# ── eigenvalues of any matrix ───────────────────────────────────────────────────────────────────────────────────────


def test_eigenvalues_of_a_real_matrix_are_real_or_complex_as_numpys():
    real, rotating = turned(1.0, 2.0, 4.0) + np.triu(A, 1) * 0.1, A - 2 * A.T
    assert np.isrealobj(LA.eigvals(real)) and np.iscomplexobj(LA.eigvals(rotating))
    check_grads(lambda x: [LA.eigvals(x), *LA.eig(x)], (real,), order=3)
    check_grads(lambda x: [np.real(LA.eigvals(x)), np.imag(LA.eigvals(x)), np.abs(LA.eig(x)[1])], (rotating,), order=3)
    check_grads(lambda x: np.abs(LA.eigvals(x)), (np.stack([rotating, real]),), order=2)
    v, w = tm.vjp(lambda x: LA.eig(x)[::-1], rotating)[0]
    np.testing.assert_allclose(rotating @ v, v * w, atol=1e-12)


def test_a_recording_cannot_know_whether_eigenvalues_are_real():
    with pytest.raises(TypeError, match="whether eigenvalues are real or complex depends on a value"):
        record(LA.eigvals, A)
    program = record(lambda x: np.abs(LA.eigvals(x + 0j)), A)
    np.testing.assert_allclose(program(A), np.abs(LA.eigvals(A + 0j)), rtol=1e-12)


# ── equal eigenvalues, equal singular values ────────────────────────────────────────────────────────────────────────


def test_a_function_of_eigenvalues_alone_has_a_first_derivative_where_they_are_equal():
    for x in (np.eye(3), turned(1.0, 1.0, 2.0), np.zeros((3, 3))):
        for of in (LA.eigvalsh, lambda x: LA.eigh(x)[0], LA.eigvals):
            slope = tm.grad(lambda x, of=of: np.sum(of(x) ** 2))(x)  # Σ w² = tr x²
            np.testing.assert_allclose(slope, 2 * x, atol=1e-12)
    np.testing.assert_allclose(tm.grad(lambda x: np.sum(LA.svdvals(x) ** 2))(np.eye(3)), 2 * np.eye(3), atol=1e-12)
    np.testing.assert_allclose(tm.grad(lambda x: np.sum(LA.svd(x)[1] ** 2))(B[:, :1] @ W[:1]), 2 * B[:, :1] @ W[:1])


@pytest.mark.parametrize("f", [
    lambda x: LA.eigh(x)[1], lambda x: LA.eig(x)[1], lambda x: LA.svd(x)[0], lambda x: LA.svd(x)[2],
    lambda x: (LA.eigh(x)[1] * np.exp(LA.eigh(x)[0])) @ LA.eigh(x)[1].T,
])  # fmt: skip
@pytest.mark.parametrize("x", [np.eye(3), turned(1.0, 1.0, 2.0), turned(0.0, 0.0, 1.0)])
def test_vectors_of_equal_values_have_no_derivative(f, x):
    with pytest.raises(LA.LinAlgError, match="(eigen|singular )vectors: the values .* are equal, or nearly"):
        tm.grad(lambda x: np.sum(f(x) * np.arange(9).reshape(3, 3)))(x)


def test_a_second_derivative_of_equal_eigenvalues_is_refused_and_not_zero():
    for of in (LA.eigvalsh, LA.svdvals, LA.eigvals):
        with pytest.raises(LA.LinAlgError, match="only first derivatives exist"):
            tm.hvp(lambda x, of=of: np.sum(of(x) ** 2), (np.eye(2),), np.ones((2, 2)))


def test_what_sees_only_other_vectors_has_a_first_derivative():
    """The first principal component of fewer rows than columns, where all other eigenvalues are 0."""
    rows = B[:2] @ RNG.standard_normal((3, 5))

    def component(rows):
        values, vectors = LA.eigh(rows.T @ rows)
        return values[-1], np.outer(vectors[:, -1], vectors[:, -1])

    def of_small_matrix(rows):
        """The same by the 2 × 2 matrix, whose eigenvalues differ."""
        values, vectors = LA.eigh(rows @ rows.T)
        first = vectors[:, -1] @ rows
        return values[-1], np.outer(first, first) / values[-1]

    check_grads(component, (rows,), order=1)
    check_grads(of_small_matrix, (rows,), order=3)
    u = (np.array(0.3), RNG.standard_normal((5, 5)))
    np.testing.assert_allclose(tm.vjp(component, rows)[1](u)[0], tm.vjp(of_small_matrix, rows)[1](u)[0], atol=1e-12)
    with pytest.raises(LA.LinAlgError, match="eigenvectors: the values"):
        tm.hvp(lambda x: np.sum(component(x)[1] * u[1]), (rows,), rows)


def test_a_cotangent_that_cancels_at_the_identity_is_not_taken_for_none():
    def root(x, eig):
        w, v = eig(x)
        return (v * np.sqrt(w)) @ (LA.inv(v) if eig is LA.eig else v.T)

    for eig in (LA.eig, LA.eigh):
        with pytest.raises(LA.LinAlgError, match="eigenvectors: the values 1 and 1 are equal"):
            tm.grad(lambda x, eig=eig: np.sum(root(x, eig)))(np.eye(3))


def test_singular_vectors_of_zero_of_a_matrix_that_is_not_square_have_no_derivative():
    x = np.outer(B[:, 0], A[0])
    with pytest.raises(LA.LinAlgError, match="singular vectors"):
        tm.grad(lambda x: np.sum(LA.svd(x, False)[0] * B))(x)


# ── columns that complete a basis ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("rest", [
    lambda x: LA.svd(x)[0][:, 2:], lambda x: LA.svd(x.T)[2][2:].T, lambda x: LA.qr(x, "complete")[0][:, 2:],
])  # fmt: skip
def test_what_completes_a_basis_may_be_used_if_its_turning_is_not_seen(rest):
    x = B[:, :2]
    check_grads(lambda x: (lambda y: y @ y.T)(rest(x)), (x,), order=3)
    with pytest.raises(LA.LinAlgError, match="complete an orthonormal basis"):
        tm.grad(lambda x: np.sum(rest(x) * W.T))(x)


def test_the_one_column_that_completes_a_basis_cannot_turn():
    check_grads(lambda x: [*LA.svd(x)], (B,), order=3)
    check_grads(lambda x: [*LA.qr(x, "complete")], (B,), order=3)


def test_dependent_columns_have_no_derivative_of_q():
    with pytest.raises(LA.LinAlgError, match="qr: the columns of a matrix are linearly dependent"):
        tm.grad(lambda x: np.sum(LA.qr(x)[0]))(np.zeros((3, 2)))


# ── determinants ────────────────────────────────────────────────────────────────────────────────────────────────────


def leibniz(x):
    """The determinant, spelled out."""
    n, total = len(x), 0.0
    for order in itertools.permutations(range(n)):
        sign = (-1) ** sum(i > j for i, j in itertools.combinations(order, 2))
        product = sign
        for i, j in enumerate(order):
            product = product * x[i, j]
        total = total + product
    return total


SINGULAR = [
    np.zeros((3, 3)), np.outer(A[0], A[1]), A @ np.diag([1.0, 1, 0]) @ A.T, np.diag([1e-200, 1e-200, 1.0]), np.eye(3),
    A * [[1.0], [0], [1]], A * 1e50, A * 1e-50, A * [[1e-20], [1.0], [1e5]],
    np.zeros((2, 2)), np.zeros((1, 1)), np.diag([1.0, 0, 0, 0]),
]  # fmt: skip


@pytest.mark.parametrize("x", SINGULAR)
def test_det_of_any_matrix_has_the_derivatives_of_the_polynomial_that_it_is(x):
    u, v, w = np.random.default_rng(2).standard_normal((3, *x.shape))

    def orders(f):
        first = tm.grad(f)
        second = lambda x: tm.hvp(f, (x,), u)  # noqa: E731
        third = tm.grad(lambda x: np.sum(second(x) * v))
        return first(x), second(x), third(x), tm.grad(lambda x: np.sum(third_of(f, x, u, v) * w))(x)

    def third_of(f, x, u, v):
        return tm.grad(lambda x: np.sum(tm.grad(lambda x: np.sum(tm.grad(f)(x) * u))(x) * v))(x)

    size, n = np.max(np.abs(x)), len(x)
    for k, (ours, wanted) in enumerate(zip(orders(LA.det), orders(leibniz), strict=True), 1):
        np.testing.assert_allclose(ours, wanted, rtol=1e-11, atol=1e-11 * size ** max(n - k, 0))


def test_det_of_graded_rows_has_each_element_of_its_gradient_right():
    x = np.array([[1e-20, 2e-20], [3.0, 4.0]])
    np.testing.assert_allclose(tm.grad(LA.det)(x), [[4.0, -3.0], [-2e-20, 1e-20]], rtol=1e-14)


def test_det_of_nothing_is_one_and_constant():
    value, slope = tm.value_and_grad(LA.det)(np.zeros((0, 0)))
    assert value == 1 and slope.shape == (0, 0)


def test_slogdet_of_a_singular_matrix_is_numpys_and_has_no_slope():
    for x in (np.zeros((2, 2)), np.zeros((2, 2), complex)):
        examine(LA.slogdet, x)
        with pytest.raises(LA.LinAlgError, match="slogdet: a matrix is singular, where log .det. = −inf"):
            tm.grad(lambda x: LA.slogdet(x)[1])(x)


@pytest.mark.parametrize("n", [6, 25])
def test_gradients_of_det_agree_with_those_of_its_logarithm(n):
    x = np.random.default_rng(4).standard_normal((n, n))
    u = np.random.default_rng(5).standard_normal((n, n))
    for f in (tm.grad, lambda f: lambda x: tm.hvp(f, (x,), u)):
        ours, wanted = f(LA.det)(x), f(lambda x: LA.slogdet(x)[0] * np.exp(LA.slogdet(x)[1]))(x)
        np.testing.assert_allclose(ours, wanted, rtol=1e-8, atol=1e-10 * np.max(np.abs(wanted)))


# ── norms ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("either_code")
@pytest.mark.parametrize("dtype", [np.float32, pytest.param(np.float64, marks=pytest.mark.slow)])
@pytest.mark.parametrize("f, value", [
    (lambda x: LA.norm(x), 0), (lambda x: LA.norm(x) ** 2, 0), (lambda x: np.exp(-(LA.norm(x) ** 2)), 1),
    (lambda x: LA.norm(x, 3), 0), (lambda x: LA.norm(x, 1.5), 0), (lambda x: LA.norm(x, 1), 0),
    (lambda x: LA.norm(x, np.inf), 0), (lambda x: LA.norm(np.reshape(x, (1, 3)), "fro"), 0),
    (lambda x: LA.vector_norm(x), 0), (lambda x: np.sum(LA.norm(np.stack([x, x]), axis=0)), 0),
])  # fmt: skip
def test_the_slope_of_a_norm_at_zero_is_zero_also_in_machine_code(f, value, dtype):
    pytest.importorskip("numba")
    f = tm.value_and_grad(f)
    for g in (f, tm.compile(f)):
        with np.errstate(all="ignore"):
            out, slope = g(np.zeros(3, dtype))
        assert out == value and not np.any(slope) and slope.dtype == dtype


def test_the_second_derivative_of_a_norm_at_zero_is_not_finite():
    for f in (LA.norm, lambda x: LA.norm(x) ** 2):
        with np.errstate(all="ignore"):
            assert np.isnan(tm.hvp(f, (np.zeros(2),), np.ones(2))).all()


def test_a_norm_overflows_where_numpys_does_and_nowhere_else():
    for x in (np.array([3e200, 4e200]), np.array([3e-200, 4e-200]), np.full(2, np.finfo(float).max)):
        for p in (None, 1, 2, 3, np.inf, -np.inf, 0, -1):
            examine(lambda x, p=p: LA.norm(x, p), x)
    np.testing.assert_array_equal(tm.grad(lambda x: LA.norm(x, np.inf))(np.array([3e200, -4e200])), [0, -1])


@pytest.mark.parametrize("u", [np.uint8([200, 100]), np.int32([2**30, -(2**30)]), np.array([True, True])])
def test_norms_of_integers_are_computed_in_floats(u):
    for p in (None, 0, 1, 2, 3, np.inf):
        examine(lambda x, p=p: LA.norm(x, p), u)


# ── the rest ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_least_squares_of_more_rows_than_columns():
    def f(a, b):
        x, residuals, rank, values = LA.lstsq(a, b)
        assert rank.value == 3
        return x, residuals, values

    check_grads(lambda a, b: f(Tensor(a) if isinstance(a, np.ndarray) else a, b), (B, W.T), order=3)
    for b in (W.T, W[0], W.T[:, :0]):
        examine(lambda a, b=b: LA.lstsq(a, b), B)
        examine(lambda b: LA.lstsq(B, b), b)
    examine(lambda a: LA.lstsq(a, W.T), np.outer(W[0], A[0]))  # rank 1: without residuals
    with pytest.raises(TypeError, match="whether lstsq has residuals depends on a value"):
        record(LA.lstsq, B, W.T)
    with pytest.raises(LA.LinAlgError):
        LA.lstsq(Tensor(B), np.ones(3))


def test_a_pseudo_inverse_of_any_rank_has_the_derivative_at_constant_rank():
    def of_rank_two(x, y):
        return LA.pinv(x @ y, rtol=1e-10)

    check_grads(of_rank_two, (B[:, :2], W), order=3)
    check_grads(lambda x, y: LA.lstsq(x @ y, W.T, 1e-10)[0], (B[:, :2], W), order=2)


def test_ridge_regression_is_differentiated_through_its_closed_form():
    """Bertinetto et al., 2019: the inner loop is a solve; its derivative is that of the implicit function."""

    def loss(w, lam):
        x, y = np.tanh(B @ w), W.T
        head = LA.solve(x.T @ x + np.exp(lam) * np.eye(w.shape[1]), x.T @ y)
        return np.mean((np.tanh(B[::-1] @ w) @ head - y) ** 2)

    check_grads(loss, (A, np.array(0.1)), order=3)


def test_several_products_are_made_in_the_cheapest_order():
    sizes = [(10, 100), (100, 5), (5, 50), (50, 1)]
    arrays = [np.random.default_rng(i).standard_normal(s) for i, s in enumerate(sizes)]
    program = record(lambda *xs: LA.multi_dot(xs), *arrays)
    made = [e.output.shape for e in program.equations if e.primitive.name == "matmul"]
    assert made == [(5, 1), (100, 1), (10, 1)]
    np.testing.assert_allclose(program(*arrays), LA.multi_dot(arrays))


def test_a_program_replays_linear_algebra():
    def f(a, b):
        w, v = LA.eigh(a @ a.T)
        return LA.solve(a, b), LA.det(a), w, LA.norm(v @ b), LA.qr(a).R, LA.pinv(b), LA.slogdet(a), LA.cond(a)

    program = record(lambda a, b: f(a, b), A, RIGHT)
    for x, y in zip(tree_leaves(program(A.T, RIGHT)), tree_leaves(f(A.T, RIGHT)), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-10)

    both = tm.value_and_grad(lambda a, b: sum(np.sum(y) for y in tree_leaves(f(a, b))), (0, 1))
    with pytest.warns(tm.CompileWarning, match="replayed"):
        fast = tm.compile(both)
        for x, y in zip(tree_leaves(fast(A, RIGHT)), tree_leaves(both(A, RIGHT)), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-10)


RIGHT = np.random.default_rng(7).standard_normal((3, 2))


@pytest.mark.parametrize("call, message", [
    (lambda x: LA.qr(x, "raw"), r"qr on tensors takes mode='reduced', 'complete' and 'r', not 'raw'"),
    (lambda x: LA.qr(x, "odd"), r"qr: mode is 'odd', wanted"),
    (lambda x: LA.eigh(x, "X"), "UPLO is 'X', wanted 'L' or 'U'"),
    (lambda x: LA.pinv(x, 0.1, rtol=0.1), "pinv: rcond and rtol are given, wanted one"),
    (lambda x: LA.tensorinv(x, 0), "tensorinv: ind is 0"), (lambda x: LA.multi_dot([x]), "multi_dot: 1 arrays, wanted"),
    (lambda x: LA.matrix_power(x, 0.5), "matrix_power: the exponent is 0.5, wanted an integer"),
    (lambda x: LA.cond(x[:0]), r"cond: matrices of shape \(0, 3\), wanted some that are not empty"),
    (lambda x: np.vecdot(x, x, out=np.ones(3)), "vecdot on tensors takes no out="),
    (lambda x: np.vecdot(x, x, casting="no"), r"vecdot on tensors takes .*'casting'"),
    (lambda x: np.cross(x, np.ones(4)), "cross: vectors of 3 and 4 elements"),
    (lambda x: np.kron(x, x, x), "kron"), (lambda x: LA.tensorsolve(x[:2], np.ones(2)), "tensorsolve: shapes"),
])  # fmt: skip
def test_an_error_says_what_was_wanted(call, message):
    with pytest.raises((TypeError, ValueError, NotImplementedError), match=message):
        call(Tensor(A))
