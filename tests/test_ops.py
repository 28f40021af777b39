"""Every primitive and every NumPy function: the value is NumPy's, the derivatives are numerical differentiation's.

Three tables, one line per case: SMOOTH (differentiated, orders 1 to 3), STEPS (piecewise constant, derivative zero)
and PLAIN (numbers about an array). A primitive or a function of `NUMPY` without a case fails `test_..._has_a_case`; a
primitive whose description is incomplete fails `test_every_primitive_is_described`.
"""

import numpy as np
import pytest
from case_tables import SUBJECTS
from cases import (
    CHOSEN,
    COLUMN,
    EP,
    FP,
    IMAGE,
    MASK,
    REGISTERED,
    ROW,
    ROWS,
    WINDOW,
    A,
    B,
    C,
    D,
    E,
    F,
    M,
    S,
    V,
    W,
    X,
    Y,
    case,
    frozen,
    point,
    primitive,
    unary,
)

import tinymaml as tm
from tinymaml import check, ops
from tinymaml.check import GradientError, check_grads
from tinymaml.engine import Primitive, Tensor, stop_gradient, vjp
from tinymaml.kernels import Kernel
from tinymaml.nest import tree_leaves, tree_map
from tinymaml.numpy_api import NUMPY
from tinymaml.programs import record
from tinymaml.programs.lowering import LOWERINGS
from tinymaml.programs.program import Var

# ── what is not in NumPy, spelled out ───────────────────────────────────────────────────────────────────────────────


def naive_patches(x, size, stride, padding):
    x = np.pad(x, ((0, 0), *padding, (0, 0)))
    rows, columns = ((n - k) // stride + 1 for n, k in zip(x.shape[1:3], size, strict=True))
    windows = [[x[:, i * stride : i * stride + size[0], j * stride : j * stride + size[1]].reshape(len(x), -1)
                for j in range(columns)] for i in range(rows)]  # fmt: skip
    return np.array(windows).transpose(2, 0, 1, 3)


def naive_unpatches(g, shape, **how):
    """Column by column: the transpose of the matrix of `naive_patches`."""
    basis = np.eye(int(np.prod(shape)), dtype=g.dtype).reshape(-1, *shape)
    return np.array([np.sum(naive_patches(e, **how) * g) for e in basis], g.dtype).reshape(shape)


def naive_pick(x, k, size):
    z = np.empty(k.shape, x.dtype)
    for n, i, j, c in np.ndindex(k.shape):
        z[n, i, j, c] = x[n, i * size + k[n, i, j, c] // size, j * size + k[n, i, j, c] % size, c]
    return z


def naive_unpick(g, k, size, shape):
    basis = np.eye(int(np.prod(shape)), dtype=g.dtype).reshape(-1, *shape)
    return np.array([np.sum(naive_pick(e, k, size) * g) for e in basis], g.dtype).reshape(shape)


def naive_scatter(g, rows, shape):
    z = np.zeros(shape, g.dtype)
    for i in np.ndindex(rows.shape):
        z[rows[i]] += g[i]
    return z


# ── the tables ──────────────────────────────────────────────────────────────────────────────────────────────────────


SMOOTH = [
    # the primitives of `ops` and `engine`
    primitive("alias", X, reference=lambda x: x),
    primitive("add", COLUMN, ROW),
    primitive("subtract", COLUMN, ROW),
    primitive("multiply", COLUMN, ROW),
    primitive("divide", COLUMN, ROW),
    *(primitive(name, E) for name in (
        "exp", "expm1", "exp2", "sin", "cos", "tan", "sinh", "cosh", "tanh", "arctan", "absolute",
    )),
    *(primitive(name, EP) for name in ("log", "log1p", "log2", "log10", "sqrt")),
    primitive("hypot", COLUMN, ROW),
    primitive("power", EP, F),
    primitive("logaddexp", COLUMN, ROW),
    primitive("maximum", COLUMN, ROW),
    primitive("minimum", COLUMN, ROW),
    primitive("where", MASK, COLUMN, ROW),
    primitive("astype", X, dtype=np.dtype(np.float64), reference=lambda x, dtype: x.astype(dtype), analytic=False),
    primitive("sum", C, axis=(0, 2), keepdims=False),
    primitive("sum", C, axis=(1,), keepdims=True),
    primitive("broadcast_to", COLUMN, shape=(2, 2, 3)),
    primitive("reshape", C, shape=(3, 4)),
    primitive("transpose", C, axes=(2, 0, 1)),
    primitive("cumsum", C, axis=1),
    primitive("max", C, axis=(0, 2), keepdims=False, ties="split", reference=lambda x, axis, **_: np.max(x, axis)),
    primitive("max", C, axis=(1,), keepdims=True, ties="first",
              reference=lambda x, axis, **_: np.max(x, axis, keepdims=True)),
    primitive("matmul", A, B),
    primitive("matmul", C, D),
    primitive("concatenate", X, M, V[None], axis=0, reference=lambda *xs, axis: np.concatenate(xs, axis)),
    primitive("getitem", X, template=(slice(None, None, -1), 1), reference=lambda x, template: x[template]),
    primitive("getitem", M, ROWS, template=("array",), reference=lambda x, rows, template: x[rows]),
    primitive("scatter_add", C[:, :, 0], template=(slice(1, 3), slice(None)), shape=(4, 3),
              reference=lambda g, **_: np.pad(g, ((1, 1), (0, 0)))),
    primitive("scatter_add", point(30, 2, 3, 2), ROWS, template=("array",), shape=(3, 2),
              reference=lambda g, rows, shape, **_: naive_scatter(g, rows, shape)),
    primitive("scatter_add", X, ROWS, template=("array",), shape=(3,),
              reference=lambda g, rows, shape, **_: naive_scatter(g, rows, shape)),
    primitive("patches", IMAGE, **WINDOW, reference=naive_patches),
    primitive("unpatches", point(31, 1, 2, 2, 6), shape=(1, 4, 4, 1), **WINDOW, reference=naive_unpatches),
    primitive("pick", IMAGE, CHOSEN, size=2, reference=naive_pick),
    primitive("unpick", point(32, 1, 2, 2, 1), CHOSEN, size=2, shape=(1, 5, 4, 1), reference=naive_unpick),
    # arithmetic
    case(np.add, lambda x, y: x + y, COLUMN, ROW),
    case(np.add, lambda x: 2 + x + 0.5, X),
    case(np.subtract, lambda x, y: x - y, COLUMN, ROW),
    case(np.subtract, lambda x: 1 - x, X),
    case(np.multiply, lambda x, y: x * y, COLUMN, ROW),
    case(np.multiply, lambda x, s: s * x * 3, X, S),
    case(np.divide, lambda x, y: x / y, COLUMN, ROW),
    case(np.divide, lambda x: 1 / x + x / 4, E),
    case(np.power, lambda x, y: x**y, EP, F),
    case(np.power, lambda x: x**3 + x**-2 + x**1 + x**0, E),
    case(np.power, lambda x: x**2.5, EP),
    case(np.exp2, lambda y: 2.0**y, E),
    case(np.power, lambda x: x ** np.array([2, 3], np.int8), E),
    unary(np.negative), unary(np.negative, f=lambda x: -x), unary(np.positive), unary(np.positive, f=lambda x: +x),
    unary(np.square), unary(np.reciprocal), unary(np.absolute), unary(np.absolute, f=abs), unary(np.fabs),
    unary(np.sqrt, EP), unary(np.exp), unary(np.expm1), unary(np.exp2),
    unary(np.log, EP), unary(np.log1p, EP), unary(np.log2, EP), unary(np.log10, EP),
    unary(np.sin), unary(np.cos), unary(np.tan), unary(np.tanh), unary(np.sinh), unary(np.cosh), unary(np.arctan),
    case(np.logaddexp, np.logaddexp, COLUMN, ROW),
    case(np.logaddexp, lambda x: np.logaddexp(x, 0), E),
    case(np.hypot, np.hypot, E, F),
    case(np.maximum, np.maximum, COLUMN, ROW),
    case(np.maximum, lambda x: np.maximum(0.5, x) * x, X),
    case(np.minimum, np.minimum, COLUMN, ROW),
    case(np.clip, lambda x: np.clip(x, -0.6, 0.9) * x, X),
    case(np.clip, lambda x, low, high: np.clip(x, low, high), X, frozen(Y - 0.6), frozen(Y + 0.6)),
    case(np.clip, lambda x: np.clip(x, None, 0.4) + np.clip(x, 0.2, None) + np.clip(x, min=0.1) + x.clip(max=0.1), X),
    case(np.where, lambda x, y: np.where(MASK, x, y), COLUMN, ROW),
    case(np.where, lambda x: np.where(x > 0, x, 0.5 * x) + np.where(x > 0, 1.0, x) + np.where(x > 0, x, 0), X),
    case(np.copy, np.copy, X),
    case(np.full_like, lambda s: np.full_like(s, s), S),
    # reductions
    case(np.sum, np.sum, X), case(np.sum, lambda x: np.sum(x, (0, -1), keepdims=True), C),
    case(np.sum, lambda x: x.sum(1), C),
    case(np.mean, np.mean, X), case(np.mean, lambda x: np.mean(x, (0, -1), keepdims=True), C),
    case(np.mean, lambda x: x.mean(1), C),
    case(np.var, np.var, X), case(np.var, lambda x: np.var(x, 1, ddof=1), C), case(np.var, lambda x: x.var((0, 2)), C),
    case(np.std, np.std, X), case(np.std, lambda x: np.std(x, 1, ddof=1), C), case(np.std, lambda x: x.std((0, 2)), C),
    case(np.prod, np.prod, X), case(np.prod, lambda x: np.prod(x, (0, -1), keepdims=True), C),
    case(np.prod, lambda x: x.prod(1), C),
    case(np.max, np.max, X), case(np.max, lambda x: np.max(x, (0, -1), keepdims=True), C),
    case(np.amax, lambda x: np.amax(x, 1), C),
    case(np.min, np.min, X), case(np.min, lambda x: np.min(x, (0, -1), keepdims=True), C),
    case(np.amin, lambda x: np.amin(x, 1), C),
    case(np.cumsum, np.cumsum, X), case(np.cumsum, lambda x: np.cumsum(x, -2), C),
    case(np.cumsum, lambda x: x.cumsum(0), C),
    case(np.linalg.norm, np.linalg.norm, V),
    case(np.linalg.norm, lambda x: np.linalg.norm(x, axis=-1, keepdims=True), X),
    case(np.linalg.norm, lambda x: np.linalg.norm(x, "fro", (0, 2)), C),
    case(np.linalg.norm, lambda x: np.linalg.norm(x, 1, 0), X),
    case(np.linalg.norm, lambda x: np.linalg.norm(x, 3, 0), X),
    case(np.linalg.norm, lambda x: np.linalg.norm(x, np.inf, 1), X),
    case(np.linalg.norm, lambda x: np.linalg.norm(x, -np.inf, 1) + np.linalg.norm(x, 2, 1), X),
    # shapes
    case(np.reshape, lambda x: np.reshape(x, (3, -1)), C), case(np.reshape, lambda x: x.reshape(2, 6), C),
    case(np.ravel, np.ravel, C), case(np.ravel, lambda x: x.ravel() * x.flatten(), X),
    case(np.transpose, np.transpose, C), case(np.transpose, lambda x: np.transpose(x, (1, -1, 0)), C),
    case(np.transpose, lambda x: x.T @ x.transpose(1, 2, 0)[0].T, C),
    case(np.permute_dims, lambda x: np.permute_dims(x, (1, 2, 0)), C),
    case(np.swapaxes, lambda x: np.swapaxes(x, 0, -1), C), case(np.moveaxis, lambda x: np.moveaxis(x, 0, -1), C),
    case(np.moveaxis, lambda x: np.moveaxis(x, (2, 0), (0, 1)), C),
    case(np.matrix_transpose, np.matrix_transpose, C), case(np.linalg.matrix_transpose, np.linalg.matrix_transpose, C),
    case(np.squeeze, lambda x: np.squeeze(x, (0, -1)), IMAGE), case(np.squeeze, np.squeeze, COLUMN),
    case(np.expand_dims, lambda x: np.expand_dims(x, (0, -1)), X), case(np.atleast_1d, np.atleast_1d, S),
    case(np.broadcast_to, lambda x: np.broadcast_to(x, (2, 2, 3)), COLUMN),
    case(np.concatenate, lambda x, y: np.concatenate([x, y, x], 1), X, M[:2]),
    case(np.concatenate, lambda x, y: np.concatenate((x, y), None), X, V),
    case(np.stack, lambda x, y: np.stack([x, y, x], -1), X, Y), case(np.stack, lambda x, y: np.stack([x, y]), X, Y),
    case(np.vstack, lambda x, y: np.vstack([x, y]), V, X), case(np.hstack, lambda x, y: np.hstack([x, y]), X, Y),
    case(np.split, lambda x: np.split(x, 3, 1), C), case(np.split, lambda x: np.split(x, [1, 2], -1), X),
    case(np.array_split, lambda x: np.array_split(x, 2, 1), C),
    case(np.flip, np.flip, C), case(np.flip, lambda x: np.flip(x, (0, -1)), C),
    case(np.roll, lambda x: np.roll(x, 2), X), case(np.roll, lambda x: np.roll(x, (1, -1), (0, 2)), C),
    case(np.pad, lambda x: np.pad(x, ((1, 0), (2, 1))), X), case(np.pad, lambda x: np.pad(x, 1, constant_values=2), X),
    case(np.tile, lambda x: np.tile(x, (2, 1, 2)), X), case(np.tile, lambda x: np.tile(x, 2), C),
    case(np.repeat, lambda x: np.repeat(x, 2), X), case(np.repeat, lambda x: np.repeat(x, [2, 0, 1], 1), X),
    case(np.take, lambda x: np.take(x, [0, 2, 0]), X), case(np.take, lambda x: np.take(x, ROWS, 1), X),
    case(np.take_along_axis, lambda x: np.take_along_axis(x, ROWS, 1), X),
    case(np.take_along_axis, lambda x: np.take_along_axis(x, np.argsort(x, 0), 0) * x, X),
    case(np.diff, lambda x: np.diff(x, 2, 1), M), case(np.diff, np.diff, C),
    # matrices
    case(np.matmul, lambda x, y: x @ y, A, B), case(np.matmul, lambda x, y: x @ y, C, B[0]),
    case(np.matmul, lambda x, y: x @ y, C, B[:2]),
    case(np.matmul, lambda x, y: x @ y, V, W), case(np.matmul, lambda x, y: np.matmul(x[:, None], y), C, D),
    case(np.dot, np.dot, A, B), case(np.dot, np.dot, S, X), case(np.dot, np.dot, A, D.transpose(0, 2, 1)),
    case(np.vdot, np.vdot, X, Y), case(np.inner, np.inner, X, Y), case(np.inner, np.inner, C, B[:, :2]),
    case(np.outer, np.outer, V, X), case(np.tensordot, np.tensordot, C, B),
    case(np.tensordot, lambda x, y: np.tensordot(x, y, 1), C, D),
    case(np.tensordot, lambda x, y: np.tensordot(x, y, ([1, 0], [2, 1])), C, D),
    case(np.trace, lambda x: np.trace(x, 1), M), case(np.trace, lambda x: np.trace(x, -1, 2, 0), C),
    case(np.diagonal, lambda x: np.diagonal(x, -1), M), case(np.diagonal, lambda x: np.diagonal(x, 0, 1, 2), C),
    case(np.diag, lambda x: np.diag(x, 1), V), case(np.diag, lambda x: np.diag(x, -1), M),
    case(np.tril, lambda x: np.tril(x, -1), M), case(np.triu, np.triu, C),
    case(np.einsum, lambda x, y: np.einsum("ij,jk->ki", x, y), A, B),
    case(np.einsum, lambda x: np.einsum("ii->i", x), M),
    case(np.einsum, lambda x, y: np.einsum("...ij,...jk", x, y), C, D),
    case(np.einsum, lambda x, y, z: np.einsum("ij,kj,k->", x, y, z), X, Y, E),
]  # fmt: skip

STEPS = [
    primitive("stop_gradient", X, reference=lambda x: x),
    primitive("input", X, reference=lambda x: x),
    primitive("above", COLUMN, ROW, tie=0.5, dtype=np.dtype(float),
              reference=lambda x, y, tie, dtype: (x > y).astype(dtype)),
    primitive("max_share", C, axis=(0, 2), ties="split",
              reference=lambda x, axis, ties: (x == np.max(x, axis, keepdims=True)).astype(x.dtype)),
    primitive("pool_argmax", IMAGE, size=2, reference=lambda x, size: np.argmax(
        x.reshape(1, 2, 2, 2, 2, 1).transpose(0, 1, 3, 5, 2, 4).reshape(1, 2, 2, 1, 4), -1)),
    *(primitive(name, X, axis=1, keepdims=True) for name in ("argmax", "argmin")),
    primitive("argsort", X, axis=1),
    *(primitive(name, X) for name in (
        "sign", "floor", "ceil", "rint", "trunc", "isnan", "isinf", "isfinite", "logical_not",
    )),
    *(primitive(name, COLUMN, ROW) for name in (
        "equal", "not_equal", "less", "less_equal", "greater", "greater_equal",
        "logical_and", "logical_or", "logical_xor",
    )),
    *(case(f.__name__, lambda x, f=f: f(x > 0, x < 1), X) for f in (np.bitwise_and, np.bitwise_or, np.bitwise_xor)),
    case("invert", lambda x: ~(x > 0), X),
    case("reciprocal", lambda x: np.reciprocal((x > 0).astype(int) + 1), X),
    *(case(f, f, X) for f in (np.sign, np.floor, np.ceil, np.rint, np.trunc, np.isnan, np.isinf, np.isfinite)),
    *(case(f, f, COLUMN, ROW) for f in (np.equal, np.not_equal, np.less, np.less_equal, np.greater, np.greater_equal)),
    *(case(f, lambda x, f=f: f(x > 0, x < 1), X) for f in (np.logical_and, np.logical_or, np.logical_xor)),
    *(case(f, lambda x, f=f: f(x > 0, x < 1), X) for f in (np.bitwise_and, np.bitwise_or, np.bitwise_xor)),
    *(case(f, lambda x, f=f: f(x > 0), X) for f in (np.logical_not, np.invert)),
    case(np.equal, lambda x: ((x > 0) & (x < 1) | (x == 0) ^ (x != x)) | ~(x >= 0) & (x <= 1), X),
    *(case(f, f, X) for f in (np.argmax, np.argmin, np.argsort, np.any, np.all)),
    *(case(f, lambda x, f=f: f(x, 0), X) for f in (np.argmax, np.argmin, np.argsort)),
    *(case(f, lambda x, f=f: f(x > 0.5, axis=1, keepdims=True), X)
      for f in (np.any, np.all, np.argmax, np.max, np.min)),
    *(case(f, f, X) for f in (np.zeros_like, np.ones_like)),
    case(np.full_like, lambda x: np.full_like(x, 2), X),
]  # fmt: skip

PLAIN = [
    case(np.shape, np.shape, X),
    case(np.ndim, np.ndim, X),
    case(np.size, np.size, X),
    case(np.iscomplexobj, np.iscomplexobj, X),
]

BRANCHES = [case for subject in SUBJECTS for case in getattr(subject, "BRANCHES", [])]  # which no program records

for _subject in SUBJECTS:
    SMOOTH, STEPS, PLAIN = SMOOTH + _subject.SMOOTH, STEPS + _subject.STEPS, PLAIN + _subject.PLAIN


def table(cases, step=1):
    """By default all primitives, and every `step`-th of NumPy's functions."""
    return pytest.mark.parametrize("case", [
        pytest.param(c, id=f"{c.name}-{i}", marks=() if isinstance(c.key, str) or i % step == 0 else pytest.mark.slow)
        for i, c in enumerate(cases)
    ])  # fmt: skip


# ── how a case is judged ────────────────────────────────────────────────────────────────────────────────────────────


def floats(args) -> list[int]:
    return [i for i, x in enumerate(args) if x.dtype.kind == "f"]


def placed(args, xs) -> list:
    """args, with xs for its floating-point arguments."""
    supply = iter(xs)
    return [next(supply) if x.dtype.kind == "f" else x for x in args]


def on_tensors(f, args):
    """f with the floating-point arguments as tensors, and its pullback."""
    return vjp(lambda *xs: f(*placed(args, xs)), *(args[i] for i in floats(args)))


def ones(out):
    return tree_map(lambda y: np.ones(y.shape, y.dtype), out)


def assert_same(ours, theirs, *, exact=False):
    """Value, shape and dtype; without `exact`, within a few roundings of the largest element."""
    ours, theirs = tree_leaves(ours), tree_leaves(theirs)
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        if exact or a.dtype.kind != "f":
            np.testing.assert_array_equal(a, b)
        else:
            np.testing.assert_allclose(
                a, b, rtol=8 * np.finfo(b.dtype).eps, atol=8 * np.finfo(b.dtype).eps * np.max(np.abs(b))
            )


def squared(f):
    """f² + f: so that the second derivative is not zero where f is linear, nor where it is a root."""
    return lambda *args: tuple(y * y + y for y in tree_leaves(f(*args)))


def in_float32(args) -> list:
    return [x.astype(np.float32) if x.dtype.kind == "f" else x for x in args]


@pytest.fixture
def strict(monkeypatch):
    """check_grads leaves the complex step out where a function takes no complex arrays. Here, every one must."""
    original = check._complex_step

    def complex_step(*args):
        try:
            return original(*args)
        except TypeError as error:
            raise AssertionError("the complex step was not possible") from error

    monkeypatch.setattr(check, "_complex_step", complex_step)


@pytest.fixture
def made(monkeypatch) -> list[Tensor]:
    """Every tensor made during the test."""
    tensors, init = [], Tensor.__init__

    def recording(self, *args, **kwargs):
        init(self, *args, **kwargs)
        tensors.append(self)

    monkeypatch.setattr(Tensor, "__init__", recording)
    return tensors


def promoted(made) -> list[str]:
    return [f"{x.primitive}{x.shape}" for x in made if x.dtype == np.float64]


# ── the tables hold ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_primitive_has_a_case():
    assert REGISTERED.keys() == {c.key for c in SMOOTH + STEPS if isinstance(c.key, str)}


def test_every_numpy_function_has_a_case():
    assert set(NUMPY) == {c.key for c in SMOOTH + STEPS + PLAIN + BRANCHES if not isinstance(c.key, str)}


def test_what_is_differentiable_has_a_smooth_case_and_what_is_not_a_step():
    assert {c.key for c in SMOOTH if isinstance(c.key, str)} == {n for n, p in REGISTERED.items() if p.vjp}
    assert {c.key for c in STEPS if isinstance(c.key, str)} == {n for n, p in REGISTERED.items() if not p.vjp}


def missing(p: Primitive) -> str:
    """What a primitive's description lacks for it to be compiled; nothing if it is complete."""
    d, known = p.description, ", ".join(sorted([*LOWERINGS, "replayed"]))
    if d.lowering is None:
        return f"{p.name}: say how it is compiled: lowering= one of {known}"
    if d.lowering not in LOWERINGS and d.lowering != "replayed":
        return f"{p.name}: there is no lowering {d.lowering!r}; known are {known}"
    if d.lowering == "loop" and p is not ops._sum and not (d.loop or d.of_integers or d.of_truths):
        return f"{p.name}: say which expression a loop has for it: loop='math.exp({{}})' or the like"
    if d.lowering == "kernel" and not isinstance(p.forward, Kernel):
        return f"{p.name}: lowering='kernel', but its function is not a `kernels.Kernel`"
    return ""


@pytest.mark.parametrize("name", REGISTERED)
def test_every_primitive_is_described(name):
    assert not missing(REGISTERED[name])


@pytest.mark.parametrize(("wanted", "plant"), [
    ("planted: say how it is compiled: lowering= one of argmax,", lambda: Primitive("planted", np.exp)),
    ("planted: there is no lowering 'lop'; known are argmax,", lambda: Primitive("planted", np.exp, lowering="lop")),
    ("planted: say which expression a loop has for it", lambda: ops.elementwise("planted", np.exp)),
    ("not a `kernels.Kernel`", lambda: Primitive("planted", np.exp, lowering="kernel")),
])  # fmt: skip
def test_what_a_description_lacks_is_named(wanted, plant, monkeypatch):
    monkeypatch.setattr(Primitive, "registry", dict(Primitive.registry))
    assert wanted in missing(plant())


def test_a_word_that_no_description_has_is_an_error():
    with pytest.raises(TypeError, match="lop"):
        ops.elementwise("planted", np.exp, lop="math.exp({})")


@pytest.mark.parametrize("dtype", [np.float32, pytest.param(np.float64, marks=pytest.mark.slow)])
@table([c for c in SMOOTH + STEPS if c.key != "input"], step=2)
def test_shapes_and_dtypes_are_known_without_computing(case, dtype):
    args = case.args if dtype is np.float64 else in_float32(case.args)
    program = record(lambda *args: on_tensors(squared(case.f), args)[0], *args)
    values = dict(zip(program.inputs, args, strict=True))
    for e in program.equations:
        inputs = [values[x] if isinstance(x, Var) else x for x in e.inputs]
        z = values[e.output] = e.primitive.forward(*inputs, **e.params)
        assert (e.output.shape, e.output.dtype) == (np.shape(z), np.asarray(z).dtype), e.primitive


@pytest.mark.parametrize("f", [
    lambda x: np.reshape(x, (4, 2)), lambda x: np.broadcast_to(x, (2, 4)), lambda x: x @ x, lambda x: np.max(x[:0]),
    lambda x: np.argmax(x[:0], 0), lambda x: np.transpose(x, (0, 0)),
])  # fmt: skip
def test_where_no_result_has_a_shape_a_recording_raises_numpys_error(f):
    with pytest.raises(ValueError) as wanted:
        f(np.array(X))
    with pytest.raises(type(wanted.value)) as got:
        record(f, np.array(X))
    assert str(got.value) == str(wanted.value)


@table(SMOOTH + STEPS + BRANCHES)
def test_the_value_on_tensors_is_numpys_on_arrays(case):
    exact = case.exact or isinstance(NUMPY.get(case.key), Primitive)
    for args in (case.args, in_float32(case.args)):
        if case.name in ("astype", "above"):  # their dtype is a parameter
            args = case.args
        assert_same(on_tensors(case.f, args)[0], case.reference(*args), exact=exact)


@table(PLAIN)
def test_numbers_about_a_tensor_are_those_of_its_array(case):
    (x,) = case.args
    assert case.f(Tensor(x)) == case.f(x) and type(case.f(Tensor(x))) is type(case.f(x))


@table(BRANCHES)
def test_what_reads_values_is_refused_in_a_recording(case):
    with pytest.raises(TypeError, match="depends on a value"):
        record(case.f, *case.args)


def checked(case, order, monkeypatch):
    if not case.analytic:
        monkeypatch.setattr(check, "_complex_step", lambda *at: check._finite_differences(*at[:4]))
    check_grads(squared(case.f), case.args, order=order, complex_rtol=1e-9 if case.analytic else 1e-6)


@table([c for c in SMOOTH if isinstance(c.key, str)] + BRANCHES)
def test_derivatives_are_numerical_ones_to_third_order(case, monkeypatch):
    checked(case, 3, monkeypatch)


@pytest.mark.parametrize("order", [2, pytest.param(3, marks=pytest.mark.slow)])
@table([c for c in SMOOTH if not isinstance(c.key, str)])
def test_derivatives_of_numpy_s_functions_are_numerical_ones(case, order, monkeypatch):
    """By default to second order: they are made of the primitives, whose rules are checked to third."""
    checked(case, order, monkeypatch)


@table(STEPS)
def test_the_derivative_of_a_step_is_zero_at_every_order(case):
    values, pullback = on_tensors(lambda *xs: np.sum(1.0 * case.f(*xs)), case.args)
    assert all(np.all(g == 0) for g in pullback(np.ones(())))
    if case.name not in ("stop_gradient", "input", "nextafter", "np.nextafter"):  # numerically, theirs is not zero
        check_grads(lambda *xs: [np.sum(x) * np.sum(1.0 * case.f(*xs)) for x in xs], case.args, order=2)


@table([c for c in SMOOTH + BRANCHES if c.key != "astype" and not c.double])
def test_float32_is_never_promoted_to_second_order(case, made):
    args = in_float32(case.args)

    def value_and_gradient(*xs):
        out, pullback = on_tensors(case.f, placed(args, xs))
        return out, pullback(ones(out))

    (value, gradient), second = vjp(value_and_gradient, *(args[i] for i in floats(args)))
    assert {y.dtype for y in tree_leaves((value, gradient, second(ones((value, gradient)))))} == {np.dtype(np.float32)}
    assert not promoted(made)
    # and the gradient is, to single precision, that in double precision
    exact = on_tensors(case.f, case.args)
    for g, h in zip(gradient, exact[1](ones(exact[0])), strict=True):
        np.testing.assert_allclose(g, h, rtol=1e-4, atol=1e-4 * np.max(np.abs(h)))


# ── planted errors are found ────────────────────────────────────────────────────────────────────────────────────────


class Rules:
    """The rules of a primitive with one replaced; indexed as they are."""

    def __init__(self, rules, i, wrong):
        self.rules, self.i, self.wrong = rules, i, wrong

    def __getitem__(self, i):
        return self.wrong(self.rules[i]) if i == self.i else self.rules[i]


def too_large(rule):
    return lambda g, z, *xs, **params: 1.5 * rule(g, z, *xs, **params)


def with_a_saved_constant(rule):
    """Right at first order: the value of what the rule combines with g, without its derivative."""
    return lambda g, z, *xs, **params: rule(g, stop_gradient(z), *map(stop_gradient, xs), **params)


RULES = [
    (c, i) for c in {c.key: c for c in reversed(SMOOTH) if isinstance(c.key, str)}.values() for i in floats(c.args)
]
rules = pytest.mark.parametrize("case, i", [pytest.param(c, i, id=f"{c.name}-{i}") for c, i in RULES])
NONLINEAR = [
    ("multiply", 0), ("multiply", 1), ("divide", 0), ("divide", 1), ("exp", 0), ("expm1", 0), ("log", 0), ("log1p", 0),
    ("sqrt", 0), ("sin", 0), ("cos", 0), ("tanh", 0), ("arctan", 0), ("power", 0), ("power", 1),
    ("logaddexp", 0), ("logaddexp", 1), ("matmul", 0), ("matmul", 1),
]  # fmt: skip


@rules
def test_a_rule_wrong_by_a_factor_is_found(case, i, monkeypatch):
    monkeypatch.setattr(REGISTERED[case.key], "vjp", Rules(REGISTERED[case.key].vjp, i, too_large))
    with pytest.raises(GradientError, match="order 1"):
        check_grads(case.f, case.args, order=1)


@pytest.mark.parametrize("name, i", NONLINEAR)
def test_a_rule_with_a_saved_constant_is_found_at_second_order(name, i, monkeypatch):
    case = next(c for c in SMOOTH if c.key == name)
    monkeypatch.setattr(REGISTERED[name], "vjp", Rules(REGISTERED[name].vjp, i, with_a_saved_constant))
    check_grads(case.f, case.args, order=1)
    with pytest.raises(GradientError, match="order 2"):
        check_grads(case.f, case.args, order=2)


def test_a_rule_wrong_at_third_order_only_is_found(monkeypatch):
    # (tanh x)'' = −2 tanh x (1 − tanh² x): its first tanh x held constant leaves orders 1 and 2 as they are
    slope = Primitive("slope", lambda z: 1 - z * z, (lambda g, out, z: g * -2 * stop_gradient(z),))
    monkeypatch.delitem(Primitive.registry, "slope")
    monkeypatch.setattr(ops.tanh, "vjp", (lambda g, z, x: g * slope(z),))
    check_grads(np.tanh, (E,), order=2)
    with pytest.raises(GradientError, match="order 3"):
        check_grads(np.tanh, (E,), order=3)


def test_a_wrong_forward_is_found(monkeypatch):
    monkeypatch.setitem(NUMPY, np.tanh, lambda x: ops.tanh(x) + 1e-9)
    with pytest.raises(GradientError, match="order 0"):
        check_grads(np.tanh, (E,), order=1)


def test_a_linear_rule_wrong_when_differentiated_is_found(monkeypatch):
    monkeypatch.setattr(ops._reshape, "vjp", (lambda g, z, x, *, shape: ops.reshape(stop_gradient(g), x.shape),))
    check_grads(lambda x: np.reshape(x, -1), (X,), order=1)
    with pytest.raises(GradientError, match="order 2"):
        check_grads(lambda x: np.reshape(x, -1), (X,), order=2)


def test_a_rule_that_promotes_is_found(monkeypatch, made):
    monkeypatch.setattr(ops.tanh, "vjp", (lambda g, z, x: g * np.float64(1) * (1 - z * z),))
    tm.grad(lambda x: np.sum(tm.grad(lambda x: np.sum(np.tanh(x)))(x) ** 2))(E.astype(np.float32))
    assert promoted(made)


def test_a_nan_in_a_derivative_is_found(monkeypatch):
    monkeypatch.setattr(ops.tanh, "vjp", (lambda g, z, x: g * np.nan,))
    with pytest.raises(GradientError, match="order 1"):
        check_grads(np.tanh, (E,), order=1)


def test_a_derivative_that_cancels_to_zero_is_not_an_error():
    check_grads(lambda x: np.sqrt(x) * np.sqrt(x), (EP,), order=3)


# ── found by planting errors: `python -m bench.oracle mutants rules` ────────────────────────────────────────────────


def test_a_condition_has_no_rule():
    assert ops.where.vjp[0] is None


@pytest.mark.parametrize("base", [2, 2.0, 0, 0.0], ids=repr)
def test_a_python_number_to_the_power_of_float32_is_not_promoted(base, made):
    x = FP.astype(np.float32)
    gradient = tm.grad(lambda x: np.sum(tm.grad(lambda x: np.sum(base**x))(x)))(x)
    assert not promoted(made)
    np.testing.assert_allclose(gradient, base**FP * np.log(base or 1) ** 2, rtol=1e-6)


@pytest.mark.parametrize("zero", [0, 0.0, np.zeros(())], ids=repr)
def test_the_slope_of_zero_to_the_power_of_x_is_zero_also_at_zero(zero):
    slope = tm.grad(lambda y: np.sum(np.power(zero, y)))
    np.testing.assert_array_equal(slope(np.array([0.0, 1.0, 2.5])), np.zeros(3))


@pytest.mark.parametrize(("x", "y"), [(1.0, 800.0), (800.0, 1.0), (0.5, 0.25), (0.0, 0.0), (-900.0, -3.0)])
def test_logaddexp_of_complex_numbers_is_stable(x, y):
    share = np.exp(x - np.logaddexp(x, y))  # ∂z/∂x
    h = 1e-100
    for dx, dy in ((h, 0), (0, h), (h, 2 * h)):
        with check.complex_step():
            z = ops.logaddexp(x + 1j * dx if dx else x, y + 1j * dy if dy else y)
        np.testing.assert_allclose(z.real, np.logaddexp(x, y), rtol=1e-15)
        np.testing.assert_allclose(z.imag, h * (share * (dx / h) + (1 - share) * (dy / h)), rtol=1e-13, atol=1e-200)


def test_a_tie_stays_a_tie_in_a_complex_step():
    tie, h = np.array([0.3, -0.4]), 1e-100
    for x, y in ((tie + 1j * h, tie), (tie, tie + 1j * h), (tie - 1j * h, tie + 1j * h)):
        with check.complex_step():
            slopes = vjp(np.maximum, x, y)[1](np.ones(2))
        np.testing.assert_array_equal([np.real(s) for s in slopes], np.full((2, 2), 0.5))


@pytest.mark.parametrize("tie", [0, 0.5, 1])
@pytest.mark.parametrize("dtype", [np.float32, np.dtype(np.float32), "float32"])
def test_above_has_the_dtype_asked_for(tie, dtype):
    ours = ops.above(np.array([1.0, 2.0, 3.0]), 2.0, tie=tie, dtype=dtype)
    np.testing.assert_array_equal(ours, np.array([0, tie, 1], np.float32), strict=True)


def test_the_first_of_a_tie_over_several_axes_is_the_first_in_memory():
    x = np.zeros((2, 3))
    x[0, 2] = x[1, 0] = 1
    for axis in ((0, 1), (1, 0), (-1, -2)):
        slope = tm.grad(lambda x, axis=axis: ops.max(x, axis, ties="first"))(x)
        np.testing.assert_array_equal(slope, np.array([[0.0, 0, 1], [0, 0, 0]]))


def test_equal_elements_are_sorted_in_their_order():
    x = np.random.default_rng(0).integers(0, 3, 200).astype(float)
    (order, _) = vjp(lambda x: np.argsort(x), x)
    np.testing.assert_array_equal(order, np.argsort(x, kind="stable"))


def test_an_axis_may_be_an_integer_of_numpy():
    np.testing.assert_array_equal(ops.sum(X, np.int64(1)), np.sum(X, 1))
    np.testing.assert_array_equal(ops.max(Tensor(X), np.int8(-2)).value, np.max(X, 0))


@pytest.mark.parametrize("shapes", [((), (3,)), ((3,), ()), ((), (3, 2)), ((2, 3), ()), ((), ())])
def test_a_matrix_product_with_a_number_says_so(shapes):
    x, y = (np.ones(shape) for shape in shapes)
    with pytest.raises(ValueError, match="an operand is a scalar"):
        ops.matmul(Tensor(x), y)


def test_a_product_of_nothing_is_zero():
    np.testing.assert_array_equal(vjp(ops.matmul, np.ones((3, 0)), np.ones(0))[0], np.zeros(3))
    np.testing.assert_array_equal(vjp(ops.matmul, np.ones(0), np.ones((0, 3)))[0], np.zeros(3))


def test_a_batch_against_one_matrix_is_one_product_of_matrices(made):
    value, pullback = vjp(ops.matmul, C, B[:2])
    pullback(np.ones(value.shape))
    products = [x for x in made if x.primitive is ops._matmul]
    assert [x.shape for x in products] == [(6, 2)] and [x.inputs[0].shape for x in products] == [(6, 2)]
    np.testing.assert_allclose(value, C @ B[:2], rtol=1e-14)
    value, _ = vjp(ops.matmul, C, D)
    np.testing.assert_allclose(value, C @ D, rtol=1e-14)


def test_operators_compare_equal_elements_as_numpy_does():
    x, y = np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 2.0])
    for compare in ("__lt__", "__le__", "__gt__", "__ge__", "__eq__", "__ne__"):
        ours = getattr(Tensor(x), compare)(y)
        np.testing.assert_array_equal(ours.value, getattr(x, compare)(y))
