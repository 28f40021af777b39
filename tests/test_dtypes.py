"""One rule for dtypes: what a function computes on integers, booleans, NaN, −0 and infinity is what NumPy computes.

Every function of `numpy_api.NUMPY`, every operator and every method meets every dtype, in the reference (on tensors),
replayed, and in machine code. What NumPy computes exactly is compared bit by bit: integers, booleans, comparisons,
copies, rounding, and + − × / of floating-point numbers; the rest to 8 ε. Where NumPy raises, so do we. Many cases go
into one program. Machine code gives up on inputs that are not finite, so infinity and NaN come about inside: 1/0, 0/0.
"""

import functools
import itertools
import operator
import warnings

import numpy as np
import pytest
from case_tables import SUBJECTS
from dtype_cases import Case, exact, of_v, rounded
from hypothesis import given
from hypothesis import strategies as st
from test_schedule import plain_python

import tinymaml as tm
from tinymaml import nn, ops
from tinymaml.engine import Primitive, Tensor, value_of
from tinymaml.nest import tree_leaves, tree_map
from tinymaml.numpy_api import NUMPY, numpy_name
from tinymaml.programs import CompileWarning, record
from tinymaml.programs.passes import simplify

pytest.importorskip("numba")
pytest.importorskip("scipy")


BOOL, *INTEGERS = map(np.dtype, (bool, "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"))
FLOATS = [np.dtype("f4"), np.dtype("f8")]
DTYPES = [BOOL, *INTEGERS, *FLOATS]
SOME = [np.dtype(name) for name in ("?", "i8", "u1", "f8")]  # one of each kind
EVERY = slice(None)
COUNT = 12  # awkward numbers of each dtype


pytestmark = pytest.mark.usefixtures("own_cache")


# ── numbers ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def awkward(dtype: np.dtype) -> np.ndarray:
    """Twelve numbers: zeros, ties, the least and the largest; infinities and NaN."""
    if dtype == BOOL:
        return np.array([True, False, False, True] * 3)
    if dtype.kind in "iu":
        least, most = np.iinfo(dtype).min, np.iinfo(dtype).max
        below = [-1, -7, least, least + 1] if least else [4, 8, most // 2, most // 2 + 1]
        return np.array([0, 1, 2, 2, 3, 5, most, most - 1, *below], dtype)
    few, most = np.finfo(dtype).smallest_subnormal, np.finfo(dtype).max
    return np.array([0.0, -0.0, 1, -1.5, 2.5, np.nan, np.inf, -np.inf, most, -most, few, 2.5], dtype)


def tame(dtype: np.dtype) -> np.ndarray:
    """A matrix of 3 × 4 with ties, whose sums and products neither overflow nor are NaN; integers wrap."""
    if dtype.kind == "f":
        return np.array([0.5, -0.0, 3.0, -1.25, 0.0, 0.5, 7.0, -2.0, 1.5, 3.0, 0.1, -3.5], dtype).reshape(3, 4)
    return awkward(dtype)[[5, 7, 0, 1, 2, 3, 4, 6, 8, 9, 10, 11]].reshape(3, 4)


def reached(dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Finite numbers whose quotients are the awkward ones."""
    x = awkward(dtype)
    divisor = np.isfinite(x).astype(dtype)
    return np.where(np.isnan(x), 0, np.where(np.isinf(x), np.sign(x), x)).astype(dtype), divisor


def same(ours, wanted, exact: bool, zeros: bool = True, where: str = "", computed=None) -> None:
    """Equal shapes, dtypes and numbers: bit by bit, or to 8 ε of the dtype it was `computed` in.

    zeros: the signs of zeros are alike, too.
    """
    for a, b in zip(tree_leaves(ours), tree_leaves(wanted), strict=True):
        a, b = np.asarray(value_of(a)), np.asarray(b)
        assert (a.shape, a.dtype) == (b.shape, b.dtype), (where, a.shape, a.dtype, b.shape, b.dtype)
        if exact or b.dtype.kind != "f":
            np.testing.assert_array_equal(a, b, err_msg=where)
            assert b.dtype != bool or np.array_equal(a.view("u1"), b.view("u1")), (where, "a truth is 1, not 2 or 3")
            if b.dtype.kind == "f" and zeros:
                there = ~np.isnan(b)
                np.testing.assert_array_equal(np.signbit(a[there]), np.signbit(b[there]), err_msg=where)
            continue
        finite, kind = np.isfinite(b), np.finfo(computed or b.dtype)
        np.testing.assert_array_equal(a[~finite], b[~finite], err_msg=where)
        np.testing.assert_allclose(a[finite], b[finite], rtol=8 * kind.eps, atol=8 * kind.tiny, err_msg=where)


# ── cases ───────────────────────────────────────────────────────────────────────────────────────────────────────────
# Of one array: functions of v, a vector of awkward numbers, and m, a tame matrix. Of two: functions of x and y.


I = np.array([2, 0, 1])  # noqa: E741
ONE = {
    **{f: of_v(f, exact=True) for f in (
        np.negative, np.positive, np.absolute, np.fabs, np.sign, np.floor, np.ceil, np.rint, np.trunc, np.isnan,
        np.isinf, np.isfinite, np.logical_not, np.invert, np.square, np.sqrt,
    )},
    **{f: of_v(f) for f in (
        np.exp, np.expm1, np.exp2, np.log, np.log1p, np.log2, np.log10, np.sin, np.cos, np.tan, np.arctan, np.sinh,
        np.cosh, np.tanh,
    )},
    np.reciprocal: exact(lambda v, m: np.reciprocal(np.where(v == 0, v == 0, v))),
    np.clip: exact(
        lambda v, m: np.clip(v, 1, 3), lambda v, m: np.clip(v, None, 2), lambda v, m: np.clip(v, 0.5, None),
        lambda v, m: np.clip(v, 0, np.uint8(2)), lambda v, m: np.clip(v, False, True), lambda v, m: np.clip(v, v[2], 9),
        lambda v, m: np.clip(v, -1, 300), lambda v, m: np.clip(v, np.int8(-5), np.float32(2.5)), ties=True),
    np.where: exact(
        lambda v, m: np.where(v, v, 0), lambda v, m: np.where(v > 0, True, False), lambda v, m: np.where(v > 0, v, 1.5),
        lambda v, m: np.where(np.ones(COUNT, bool), v, np.uint8(7)), lambda v, m: np.where(v == v, 1, v),
        lambda v, m: np.where(np.zeros(COUNT, bool), v, False), lambda v, m: np.where(True, v, np.float32(0)),
        lambda v, m: np.where(v > 1, np.inf, v), lambda v, m: np.where(v > 1, v, 300)),
    np.sum: rounded(lambda v, m: np.sum(m), lambda v, m: np.sum(m, 0), lambda v, m: np.sum(m, 1, keepdims=True),
                    lambda v, m: np.sum(v), lambda v, m: np.sum(m[:1], 0), lambda v, m: np.sum(v > 0)),
    np.mean: rounded(lambda v, m: np.mean(m), lambda v, m: np.mean(m, 0), lambda v, m: np.mean(v > 0),
                     lambda v, m: np.mean(v)),
    np.var: rounded(lambda v, m: np.var(m), lambda v, m: np.var(m, 1, ddof=1)),
    np.std: rounded(lambda v, m: np.std(m), lambda v, m: np.std(m, 0, keepdims=True)),
    np.prod: rounded(lambda v, m: np.prod(m), lambda v, m: np.prod(m, 0), lambda v, m: np.prod(v > -1)),
    np.cumsum: rounded(lambda v, m: np.cumsum(m), lambda v, m: np.cumsum(m, 0), lambda v, m: np.cumsum(m[0], 0)),
    **{f: exact(lambda v, m, f=f: f(v), lambda v, m, f=f: f(m, 0), lambda v, m, f=f: f(m, 1, keepdims=True), ties=True)
       for f in (np.max, np.min, np.amax, np.amin)},
    **{f: exact(lambda v, m, f=f: f(v), lambda v, m, f=f: f(m, 0), lambda v, m, f=f: f(m, 1, keepdims=True),
                lambda v, m, f=f: f(v[::-1])) for f in (np.argmax, np.argmin, np.any, np.all)},
    np.argsort: exact(lambda v, m: np.argsort(v, kind="stable")),
    np.linalg.norm: rounded(
        lambda v, m: np.linalg.norm(m), lambda v, m: np.linalg.norm(m, axis=0), lambda v, m: np.linalg.norm(m, 1, 1),
        lambda v, m: np.linalg.norm(m, np.inf, 1), lambda v, m: np.linalg.norm(m, -np.inf, 0),
        lambda v, m: np.linalg.norm(m[0], 3)),
    np.diff: exact(lambda v, m: np.diff(v), lambda v, m: np.diff(m, 2, 0)),
    np.einsum: rounded(
        lambda v, m: np.einsum("ij->i", m), lambda v, m: np.einsum("ij,kj->ik", m, m),
        lambda v, m: np.einsum("ij,kj,k->i", m, m, np.arange(3, dtype=np.int8)),
        lambda v, m: np.einsum("ij,ij->", m, m)),
    **{f: rounded(lambda v, m, f=f: f(m[0], m[1])) for f in (np.dot, np.vdot, np.inner, np.outer)},
    np.matmul: rounded(
        lambda v, m: np.matmul(m, m.T), lambda v, m: np.matmul(m, m[0]), lambda v, m: m.T @ m,
        lambda v, m: np.matmul(m, np.ones((4, 2), np.int8)), lambda v, m: (m > 0) @ (m.T > 0),
        lambda v, m: np.matmul(np.stack([m, m]), m.T)),
    np.tensordot: rounded(lambda v, m: np.tensordot(m, m, ((1,), (1,)))),
    np.trace: rounded(lambda v, m: np.trace(m)),
    np.diagonal: exact(lambda v, m: np.diagonal(m, 1)),
    np.diag: exact(lambda v, m: np.diag(m[0]), lambda v, m: np.diag(v[:3], -1)),
    np.tril: exact(lambda v, m: np.tril(m)),
    np.triu: exact(lambda v, m: np.triu(m, 1)),
    np.pad: exact(lambda v, m: np.pad(v, 1), lambda v, m: np.pad(m, ((0, 1), (2, 0)), constant_values=1),
                  lambda v, m: np.pad(v, 1, constant_values=-0.0)),
    np.full_like: exact(lambda v, m: np.full_like(v, 1), lambda v, m: v + np.full_like(m[0, 0], 1)),
    np.concatenate: exact(lambda v, m: np.concatenate([v, v[:2]]), lambda v, m: np.concatenate([m, m > 0], 1)),
    np.stack: exact(lambda v, m: np.stack([v, np.arange(COUNT, dtype=np.int16)])),
    np.vstack: exact(lambda v, m: np.vstack([v, v])),
    np.hstack: exact(lambda v, m: np.hstack([v, v])),
    np.take_along_axis: exact(lambda v, m: np.take_along_axis(m, np.argmax(m, 1, keepdims=True), 1)),
    np.take: exact(lambda v, m: np.take(m, I, 0), lambda v, m: np.take(v, np.uint8([1, 11]))),
    np.split: exact(lambda v, m: np.split(v, 3)),
    np.array_split: exact(lambda v, m: np.array_split(v, 5)),
    np.zeros_like: exact(lambda v, m: v + np.zeros_like(v)),
    np.ones_like: exact(lambda v, m: v * np.ones_like(v)),
    **{f: exact(lambda v, m, f=f: f(m)) for f in (
        np.copy, np.ravel, np.transpose, np.linalg.matrix_transpose, np.matrix_transpose, np.flip, np.atleast_1d,
    )},
    np.reshape: exact(lambda v, m: np.reshape(v, (3, -1))),
    np.swapaxes: exact(lambda v, m: np.swapaxes(m, 0, 1)),
    np.moveaxis: exact(lambda v, m: np.moveaxis(m, 0, 1)),
    np.squeeze: exact(lambda v, m: np.squeeze(m[:1])),
    np.expand_dims: exact(lambda v, m: np.expand_dims(v, 0)),
    np.broadcast_to: exact(lambda v, m: np.broadcast_to(v, (2, COUNT))),
    np.roll: exact(lambda v, m: np.roll(v, 2)),
    np.tile: exact(lambda v, m: np.tile(v, 2)),
    np.repeat: exact(lambda v, m: np.repeat(v, 2)),
    **{f: exact(lambda v, m, f=f: (v, f(m))[0]) for f in (np.shape, np.ndim, np.size, np.iscomplexobj)},
}  # fmt: skip
TWO = {
    **{f: exact(lambda x, y, f=f: f(x, y)) for f in (
        np.add, np.subtract, np.multiply, np.divide, np.equal, np.not_equal, np.less, np.less_equal, np.greater,
        np.greater_equal, np.logical_and, np.logical_or, np.logical_xor, np.bitwise_and, np.bitwise_or, np.bitwise_xor,
    )},
    **{f: exact(lambda x, y, f=f: f(x, y), ties=True) for f in (np.maximum, np.minimum)},
    np.power: rounded(lambda x, y: np.power(x, np.where(y > 0, y, y == y) if y.dtype.kind == "i" else y)),
    np.hypot: rounded(lambda x, y: np.hypot(x, y)),
    np.logaddexp: rounded(lambda x, y: np.logaddexp(x, y)),
}  # fmt: skip
for _subject in SUBJECTS:
    for _group, _theirs in ((ONE, _subject.ONE), (TWO, _subject.TWO)):
        _group.update({f: _group.get(f, []) + cases for f, cases in _theirs.items()})
OPERATORS = {
    "-x": exact(lambda v, m: -v), "+x": exact(lambda v, m: +v), "abs": exact(lambda v, m: abs(v)),
    "~x": exact(lambda v, m: ~v),
    "numbers": exact(
        lambda v, m: v + 1, lambda v, m: 2 - v, lambda v, m: v * 3, lambda v, m: v + 0, lambda v, m: 0 + v,
        lambda v, m: v - 0, lambda v, m: v - 0.0, lambda v, m: v + -0.0, lambda v, m: v * 1, lambda v, m: v / 3,
        lambda v, m: v / 4, lambda v, m: 1 / v, lambda v, m: v * 0.5, lambda v, m: v * -1, lambda v, m: v * 0),
    "truths": exact(
        lambda v, m: v * True, lambda v, m: v + True, lambda v, m: False + v, lambda v, m: v & True,
        lambda v, m: True | v, lambda v, m: v == True, lambda v, m: v - True, lambda v, m: v * np.True_,  # noqa: E712
        lambda v, m: (v > 0) + (v < 1), lambda v, m: (v > 0) * v, lambda v, m: (v > 0) - (v < 1),
        lambda v, m: (v > 0) | True, lambda v, m: ~(v > 0), lambda v, m: -(v > 0), lambda v, m: v * (v != v),
        lambda v, m: (v > 0) ^ (v > 1)),
    "comparisons": exact(
        lambda v, m: v == 300, lambda v, m: v < 2**31, lambda v, m: v >= -(2**63), lambda v, m: v != 1.0,
        lambda v, m: v <= 2**63, lambda v, m: v > -1, lambda v, m: v > np.int8(-1), lambda v, m: v == np.uint64(3),
        lambda v, m: v < 0.5, lambda v, m: v > np.float32(2.5)),
    "powers": rounded(
        lambda v, m: v**2, lambda v, m: v**3, lambda v, m: v**0, lambda v, m: v**1, lambda v, m: v**5,
        lambda v, m: v**0.5, lambda v, m: v**-1, lambda v, m: v**-1.0, lambda v, m: 2**v, lambda v, m: 2.0**v,
        lambda v, m: v ** np.array([True, False] * 6), lambda v, m: v ** np.uint8(3), lambda v, m: True**v),
    "other operators": exact(
        lambda v, m: v & 3, lambda v, m: v | 1, lambda v, m: 5 ^ v, lambda v, m: m @ np.eye(4, dtype=np.int8)),
    "indices": exact(
        lambda v, m: m[True], lambda v, m: m[False], lambda v, m: m[np.True_], lambda v, m: m[np.array(True), 0],
        lambda v, m: m[:, True], lambda v, m: v[I], lambda v, m: m[I, I], lambda v, m: m[np.array([True, False, True])],
        lambda v, m: v[::-2], lambda v, m: m[..., None, 1], lambda v, m: v[-1], lambda v, m: m[1, True]),
    "astype": exact(*(lambda v, m, d=d: v.astype(d) for d in FLOATS), lambda v, m: v.astype(bool)),
    "astype to integers": exact(*(
        lambda v, m, d=d: (abs(m) if v.dtype.kind == "f" else v).astype(d) for d in INTEGERS)),
    "sums of methods": rounded(lambda v, m: m.sum(), lambda v, m: m.mean(0), lambda v, m: m.var(), lambda v, m: m.std(),
                               lambda v, m: m.prod(1), lambda v, m: m.cumsum(), lambda v, m: m.dot(m.T)),
    "trace": rounded(lambda v, m: m.trace()),
    "methods": exact(
        lambda v, m: v.max(), lambda v, m: v.min(), lambda v, m: v.argmax(), lambda v, m: v.argmin(),
        lambda v, m: v.any(), lambda v, m: m.all(0), lambda v, m: v.clip(0, 2), lambda v, m: m.ravel(),
        lambda v, m: m.flatten(), lambda v, m: m.T, lambda v, m: m.mT, lambda v, m: m.swapaxes(0, 1),
        lambda v, m: m.transpose(1, 0), lambda v, m: v.take(I), lambda v, m: v.repeat(2), lambda v, m: v.copy(),
        lambda v, m: v.reshape(3, 4), lambda v, m: m[:1].squeeze(), lambda v, m: v.real, lambda v, m: v.conj(),
        lambda v, m: v.conjugate() + v.imag, ties=True),
}  # fmt: skip
METHODS = (
    "sum mean var std prod cumsum dot trace max min argmax argmin any all clip ravel flatten T mT swapaxes "
    "argsort cumprod choose searchsorted nonzero compress "
    "transpose take repeat copy reshape squeeze astype diagonal real imag conj conjugate round"
)


def name_of(f) -> str:
    return f if isinstance(f, str) else numpy_name(f)


def test_every_function_and_method_has_a_case():
    assert NUMPY.keys() == ONE.keys() | TWO.keys()
    public = {name for name in vars(Tensor) if not name.startswith("_")}
    assert public - set(METHODS.split()) == {
        "shape", "dtype", "ndim", "size", "itemsize", "nbytes", "value", "primitive", "inputs", "params",
        "index", "item", "tolist", "sort", "partition", "fill", "put", "resize", "setflags", "byteswap", "setfield",
    }  # fmt: skip


def outcome(f, args):
    """What comes of it, or which kind of error."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        try:
            return tree_map(lambda x: np.asarray(value_of(x)), f(*args))
        except (TypeError, ValueError, IndexError, OverflowError) as error:
            return next(kind for kind in (TypeError, OverflowError, IndexError, ValueError) if isinstance(error, kind))


def examine(cases: list[tuple[str, Case]], numpys: list, unpack, inputs: list, compiled: slice = EVERY) -> None:
    """Cases of some dtypes: on tensors, replayed and in machine code they are what NumPy gives.

    Args:
        cases: (name, case).   numpys: for each the arguments, as arrays.   inputs: finite arrays, of which
            `unpack(*inputs)` makes all arguments of all cases.   compiled: the cases that machine code is made of.
    """
    wanted = [outcome(case.f, args) for (_, case), args in zip(cases, numpys, strict=True)]
    good = []
    for i, ((name, case), args, result) in enumerate(zip(cases, numpys, wanted, strict=True)):
        where = f"{name}, case {i}, of {[x.dtype.str for x in args]}"
        ours = outcome(case.f, [Tensor(x) for x in args])
        if isinstance(result, type):
            assert ours is result, (where, ours, result)
            continue
        assert not isinstance(ours, type), (where, ours)
        same(ours, result, case.exact, not case.ties, where)
        if case.recorded:
            good.append((i, where))

    def chosen(which):
        def f(*arrays):
            given = unpack(*arrays)
            return [cases[i][1].f(*given[i]) for i, _ in which]

        return f

    leaves = {i: [np.asarray(x) for x in tree_leaves(wanted[i])] for i, _ in good}
    chosen_ones = range(len(cases))[compiled]
    in_machine = [(i, where) for i, where in good if cases[i][1].machine and i in chosen_ones
                  and all(x.dtype != np.float16 and x.size for x in leaves[i])]  # fmt: skip
    with np.errstate(all="ignore"):
        program = record(chosen(good), *inputs)
        runs = [(good, program(*inputs)), (good, simplify(program)(*inputs)),
                (in_machine, in_machine_code(chosen(in_machine), inputs))]  # fmt: skip
    for which, results in runs:
        for (i, where), result in zip(which, results, strict=True):
            same(result, wanted[i], cases[i][1].exact, not cases[i][1].ties, where)


def in_machine_code(f, args):
    """The result of machine code that does not give up: f itself is not called once it is compiled."""
    fast = tm.compile(f)
    fast(*args)
    fast.f = None  # which cannot be called
    return fast(*args)


def inputs_of(dtype: np.dtype) -> list[np.ndarray]:
    return [*(reached(dtype) if dtype.kind == "f" else [awkward(dtype)]), tame(dtype)]


def vector_and_matrix(*arrays):
    *parts, m = arrays
    return (parts[0] / parts[1] if len(parts) == 2 else parts[0]), m


# Machine code is made of every other case, for one of three dtypes in turn; in the slow run of every one, for all.
PARTS = {np.dtype(name): slice(2 * i, None, 6) for i, name in enumerate(("?", "f8", "u1"))}


@pytest.mark.usefixtures("either_code")
@pytest.mark.parametrize(("dtype", "compiled"), [
    *PARTS.items(), *(pytest.param(dtype, EVERY, marks=pytest.mark.slow) for dtype in DTYPES),
], ids=str)  # fmt: skip
def test_functions_of_one_array_are_numpys(dtype, compiled):
    of_one_array(dtype, compiled)


@pytest.mark.parametrize("dtype", [np.dtype("i8"), pytest.param(np.dtype("u1"), marks=pytest.mark.slow)], ids=str)
def test_the_source_of_functions_of_one_array_of_integers_says_what_numpy_says(dtype):
    with plain_python(), np.errstate(all="ignore"):
        of_one_array(dtype)


def of_one_array(dtype, compiled=EVERY):
    cases = [(name_of(f), case) for f, group in {**ONE, **OPERATORS}.items() for case in group]
    args = (awkward(dtype), tame(dtype))
    examine(
        cases,
        [args] * len(cases),
        lambda *arrays: [vector_and_matrix(*arrays)] * len(cases),
        inputs_of(dtype),
        compiled,
    )


@pytest.mark.usefixtures("either_code")
@pytest.mark.parametrize(("dtypes", "compiled"), [
    (SOME, slice(0, None, 7)), pytest.param(DTYPES, EVERY, marks=pytest.mark.slow)], ids=["some", "all"])  # fmt: skip
@pytest.mark.parametrize("f", TWO, ids=name_of)
def test_functions_of_two_arrays_are_numpys(f, dtypes, compiled):
    pairs = [*itertools.product(dtypes, dtypes)]
    cases = [(name_of(f), case) for case in TWO[f] for _ in pairs]
    numpys = [(awkward(a)[:, None], awkward(b)) for a, b in pairs]
    parts = [inputs_of(dtype)[:-1] for dtype in dtypes]

    def unpack(*arrays):
        arrays = iter(arrays)
        vectors = [vector_and_matrix(*[next(arrays) for _ in part], None)[0] for part in parts]
        of = dict(zip(dtypes, vectors, strict=True))
        return [(of[a][:, None], of[b]) for a, b in pairs]

    examine(cases, numpys, unpack, [x for part in parts for x in part], compiled)


# ── what people run into ────────────────────────────────────────────────────────────────────────────────────────────

X = np.array([3.0, 0.5, -5.0])
U = np.array([200, 100], np.uint8)
A = np.arange(6.0).reshape(2, 3) + 1
MASK = np.ones(3, bool)
V = tm.value_and_grad

# name → (function, arguments, what comes of it)
FOUND = {
    **{f"index {index!r}": (V(lambda x, index=index: np.sum(x[index] ** 2)), (A,), (91, 2 * A))
       for index in (True, np.True_, np.array(True), (True, ...), (slice(None), True))},
    "index of an int and True": (V(lambda x: np.sum(x[0, True] ** 2)), (A,), (14, [[2, 4, 6], [0, 0, 0]])),
    "a label that is compared": (V(lambda w: np.sum(w[np.int64(1) == 1] ** 2)), (A,), (91, 2 * A)),
    "a mask without padding": (V(lambda x: np.sum(np.where(MASK, x, 0.0))), (X,), (-1.5, [1, 1, 1])),
    "a mask of padding alone": (V(lambda x: np.sum(np.where(~MASK, x, 0.0))), (X,), (0, [0, 0, 0])),
    "times True": (V(lambda x: np.sum(x * True)), (X,), (-1.5, [1, 1, 1])),
    "times a comparison of numbers": (V(lambda x: np.sum(x * (0.1 > 0))), (X,), (-1.5, [1, 1, 1])),
    "or True": (V(lambda x: np.sum(x * ((x > 0) | True))), (X,), (-1.5, [1, 1, 1])),
    "True or": (V(lambda x: np.sum(x * (True | (x > 0)))), (X,), (-1.5, [1, 1, 1])),
    "or a mask": (V(lambda x: np.sum(x * ((x > 0) | MASK))), (X,), (-1.5, [1, 1, 1])),
    "equal to True": (V(lambda x: np.sum(x * ((x > 0) == True))), (X,), (3.5, [1, 1, 0])),  # noqa: E712
    "maximum of a mask": (V(lambda x: np.sum(np.maximum(x, MASK))), (X,), (5, [1, 0, 0])),
    "truths chosen": (V(lambda x: np.sum(x * np.where(x > 0, True, False))), (X,), (3.5, [1, 1, 0])),
    "a mask of the data": (V(lambda x, m: np.sum(np.where(m, x, 0.0)) / np.sum(m)), (X, np.array([True, False, True])),
                           (-1, [0.5, 0, 0.5])),
    "a constant": (V(lambda x: 3.0), (X,), (3, [0, 0, 0])),
    "a constant of the data's": (V(lambda x, y: np.mean(y > 0) * 1.0), (X, X), (2 / 3, [0, 0, 0])),
    "minimum of unsigned": (V(lambda x: np.sum(np.minimum(x, np.array([1, 2, 3], np.uint8)))), (X,),
                            (-3.5, [0, 1, 1])),
    "clip by unsigned": (V(lambda x: np.sum(np.clip(x, 0, np.uint8(2)))), (X,), (2.5, [0, 1, 0])),
    "minimum of the least": (np.minimum, (np.array(5.0), np.int8(-128)), -128.0),
    "abs of truths": (lambda x: np.abs(x > 0), (X,), [True, True, False]),
    "powers of truths": (V(lambda x: np.sum(x ** np.array([True, False, True]))), (X,), (-1, [1, 0, 1])),
    "power of the least integer": (V(lambda x: np.sum(x ** np.int8(-128))), (np.array([1.0, -1.0]),), (2, [-128, 128])),
    "norm of unsigned": (np.linalg.norm, (U,), np.sqrt(50000)),
    "prod of unsigned": (np.prod, (U,), np.uint64(20000)),
    "reciprocals of unsigned": (lambda u: np.sum(np.reciprocal(u)), (U,), np.uint64(0)),
    "min of int16": (np.min, (np.array([-32768, 5], np.int16),), np.int16(-32768)),
    "minimum of int16": (lambda x: np.minimum(x, np.int16(7)), (np.array([-32768, 5], np.int16),),
                         np.array([-32768, 5], np.int16)),
    "argmin of the least": (np.argmin, (np.array([5, -(2**63)]),), 1),
    "or of truths": (V(lambda x: np.sum(x * ((x > 0) + (x < 1)))), (X,), (-1.5, [1, 1, 1])),
    "prod of masks that are added": (lambda x: np.prod((x > 0) + (x < 1)), (X,), 1),
    "norm of integers": (np.linalg.norm, (np.array([3, 4], np.int32),), 5.0),
    "einsum of truths": (lambda x: np.einsum("ij->i", x > 3), (A,), [False, True]),
    "einsum that wraps": (lambda u: np.einsum("i->", u), (U,), np.uint8(44)),
    "the first NaN of a window": (lambda z: nn.max_pool2d(np.log(z)), (np.array([1.0, 0, -1, 1]).reshape(1, 2, 2, 1),),
                                  [[[[np.nan]]]]),
    "a NaN of larger windows": (lambda z: nn.max_pool2d(np.sqrt(z), 3), (np.arange(-4.0, 5).reshape(1, 3, 3, 1),),
                                [[[[np.nan]]]]),
    "where the first NaN lies": (lambda z: ops.pool_argmax(np.sqrt(z), size=2),
                                 (np.array([[1.0, -1], [4, -4]]).reshape(1, 2, 2, 1),), [[[[1]]]]),
    "−0 + 0": (lambda x: 1 / (x + 0), (np.array([-0.0, 1]),), [np.inf, 1]),
    "−0 − 0": (lambda x: 1 / (x - 0), (np.array([-0.0, 1]),), [-np.inf, 1]),
    "−0 − −0": (lambda x: 1 / (x - -0.0), (np.array([-0.0, 1]),), [np.inf, 1]),
    "the sum of one −0": (lambda x: 1 / np.sum(x, 1), (np.array([[-0.0], [1]]),), [np.inf, 1]),
    "a product that overflows on the way": (lambda z: (z * 1e200) * 1e-200, (np.array([1e200, 1]),), [np.inf, 1]),
    "a product that vanishes on the way": (lambda z: (z * 1e-200) * 1e200, (np.array([1e-200, 1]),), [0, 1]),
    "|−0|": (lambda x: 1 / np.abs(x), (np.array([-0.0, 1]),), [np.inf, 1]),
    "sign of −0": (lambda x: 1 / np.sign(x), (np.array([-0.0, 1]),), [np.inf, 1]),
    "a product of neighbours": (np.prod, (np.array([1e200, 1e-200, 1e200, 1e-200]),), 1.0),
    "powers of ten": (lambda x: np.floor(np.log10(x)), (10.0 ** np.arange(0, 16),), np.arange(16.0)),
    "sinh of 710": (np.sinh, (np.array(710.0),), np.sinh(710.0)),
    "hypot of large float32": (V(lambda x: np.hypot(x, np.float32(4e20))), (np.float32(3e20),),
                               (np.float32(5e20), np.float32(0.6))),
    "a product with a mask": (V(lambda x: np.sum(x @ (x > 0))), (X,), (3.5, [1, 1, 0])),
    "int64 and uint64": (lambda a, b: a < b, (np.array([-1, 2**62]), np.array([2**64 - 1, 2**62], np.uint64)),
                         [True, False]),
}  # fmt: skip


def rounds_to(ours, wanted) -> None:
    for a, b in zip(tree_leaves(tree_map(value_of, ours)), tree_leaves_of(wanted), strict=True):
        np.testing.assert_allclose(np.asarray(a, float), np.asarray(b, float), rtol=1e-15)
        if isinstance(b, np.generic):
            assert np.asarray(a).dtype == b.dtype


def tree_leaves_of(wanted) -> list:
    """A pair of value and gradient, or one array or list."""
    return list(wanted) if isinstance(wanted, tuple) else [wanted]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("what", FOUND)
def test_what_people_run_into(what):
    """In the reference and replayed."""
    f, args, wanted = FOUND[what]
    on_arrays = isinstance(f, functools.partial)  # as value_and_grad makes it
    rounds_to(f(*args) if on_arrays else f(*[Tensor(np.asarray(x)) for x in args]), wanted)
    rounds_to(record(f, *args)(*args), wanted)
    rounds_to(simplify(record(f, *args))(*args), wanted)


@pytest.mark.usefixtures("either_code")
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_what_people_run_into_in_machine_code():
    names = [*FOUND]
    f = lambda *groups: [FOUND[name][0](*args) for name, args in zip(names, groups, strict=True)]  # noqa: E731
    results = in_machine_code(f, [FOUND[name][1] for name in names])
    for name, result in zip(names, results, strict=True):
        rounds_to(result, FOUND[name][2])


@pytest.mark.parametrize("loss", [
    lambda x: np.sum(x > 0), lambda x: np.mean(x) > 0, lambda x: True, lambda x: np.int64(3), lambda x: np.sum(X > 0),
    lambda x: np.argmax(x),
])  # fmt: skip
def test_a_loss_that_counts_or_compares_is_refused(loss):
    message = "must return a floating-point number to be differentiated, it returned (int64|bool)"
    for f in (V(loss), tm.grad(loss)):
        for call in (f, tm.compile(f), tm.compile(f, backend="replay")):
            with warnings.catch_warnings(), pytest.raises(TypeError, match=message):
                warnings.simplefilter("ignore", CompileWarning)
                call(X)
    tasks = (np.ones((2, 3)), np.ones((2, 3))), (np.ones((2, 3)), np.ones((2, 3)))
    for memory in ("unrolled", "flat"):
        meta = tm.meta_value_and_grad(lambda p, x, y: loss(p), inner_lr=0.1, memory=memory)
        for call in (meta, tm.compile(meta)):
            with warnings.catch_warnings(), pytest.raises(TypeError, match=message):
                warnings.simplefilter("ignore", CompileWarning)
                call(X, tasks)


@pytest.mark.parametrize("memory", ["unrolled", "flat"])
def test_a_meta_loss_that_is_constant_has_no_slope(memory):
    tasks = (np.ones((2, 3)), np.ones((2, 3))), (np.ones((2, 3)), np.ones((2, 3)))
    meta = tm.meta_value_and_grad(lambda p, x, y: 3.0, inner_lr=0.1, memory=memory)
    for call in (meta, tm.compile(meta), tm.compile(meta, backend="replay")):
        value, gradient = call(X, tasks)
        assert value == 3
        np.testing.assert_array_equal(gradient, np.zeros(3))


@pytest.mark.parametrize(("f", "args", "error"), [
    (lambda x: np.concatenate([np.sum(x), x]), (X,), ValueError),
    (lambda x: -(x > 0), (X,), TypeError),
    (lambda x: (x > 0) - (x < 1), (X,), TypeError),
    (lambda k: k**-1, (np.array([1, 2]),), ValueError),
    (lambda k: k ** np.array([1, -1]), (np.array([1, 2]),), ValueError),
    (lambda k, n: k**n, (np.array([1, 2]), np.array([1, -1])), ValueError),
    (lambda k: np.minimum(k, 300), (np.array([1, 2], np.uint8),), OverflowError),
    (lambda k: k + 300, (np.array([1, 2], np.uint8),), OverflowError),
    (lambda x: x[True, True, 0, 0, 0], (A,), IndexError),
    (lambda x: x[np.array([True, False, True])], (A,), IndexError),
    (lambda x: np.linalg.norm(x, axis=(0, 1, 2)), (np.ones((1, 1, 1)),), ValueError),
    (lambda x: np.diff(x, -1), (X,), ValueError),
    *((lambda x, f=f: (f(x[:0]), x)[1], (X,), ValueError) for f in (np.max, np.min, np.argmax, np.argmin)),
])  # fmt: skip
def test_what_numpy_refuses_is_refused_alike(f, args, error):
    for call in (f, lambda *args: f(*map(Tensor, args)), tm.compile(f), tm.compile(f, backend="replay")):
        with warnings.catch_warnings(), pytest.raises(error):
            warnings.simplefilter("ignore", CompileWarning)
            call(*args)


@pytest.mark.parametrize("backend", ["numba", "replay"])
def test_machine_code_gives_up_where_the_reference_must_answer(backend):
    """Division by 0 of many by one, powers of integers, casts of what lies outside, reciprocals of 0."""

    def f(x, y, k, n):
        return x / y, k**n, np.reciprocal(n + 3), (x * 100).astype(np.int8)

    x, y = np.array([[1.0, -1, 0.5, 0.1]] * 2), np.array([1.0])
    k, n = np.array([3, 4]), np.array([2, 1])
    with np.errstate(all="ignore"):
        for call in (f, tm.compile(f, backend=backend)):
            for divisor in (0.0, -0.0, 5e-324, 1e308, -1e308, 1e-308):
                same(call(x, np.array([divisor]), k, n)[0], x / divisor, exact=False)
            call(x, y, k, n)
            with pytest.raises(ValueError, match="negative integer powers"):
                call(x, y, k, -n)
            same(call(x * 1e9, y, k, n), f(x * 1e9, y, k, n), exact=True)


# ── primitives by identity ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def registry(monkeypatch):
    monkeypatch.setattr(Primitive, "registry", dict(Primitive.registry))


@pytest.mark.parametrize("name", [
    "log", "add", "multiply", "sum", "matmul", "reshape", "max", "alias", "stop_gradient", "astype", "transpose",
    "argmax", "power", "pick", "above", "max_share", "where", "getitem", "equal", "isnan", "sign",
])  # fmt: skip
def test_a_primitive_of_a_built_in_name_is_not_the_built_in(name, registry):
    """It is replayed with its own forward function, and its own shape."""
    own = Primitive(name, lambda x, **how: np.log(np.maximum(x, 0.1))[::2], (lambda g, z, x, **how: scattered(g, x),))
    scattered = Primitive("scattered", lambda g, x: np.repeat(g, 2)[: len(x)])
    f = V(lambda x: np.sum(own(x) * 2))
    x = np.array([0.01, 0.5, 3.0])
    wanted = 2 * (np.log(0.1) + np.log(3.0)), np.full(3, 2.0)
    for call in (f, tm.compile(f), tm.compile(f, backend="replay"), record(f, x), simplify(record(f, x))):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CompileWarning)
            value, gradient = call(x)
        np.testing.assert_allclose(value, wanted[0], rtol=1e-15)
        np.testing.assert_array_equal(gradient, wanted[1])


def test_an_elementwise_primitive_of_ones_own_is_replayed(registry):
    own = ops.elementwise("log", lambda x: np.log(np.maximum(x, 0.1)), lambda g, z, x: g / np.maximum(x, 0.1))
    f = V(lambda x: np.sum(own(np.broadcast_to(x, (2, 2)))))
    for call in (f, tm.compile(f), tm.compile(f, backend="replay")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CompileWarning)
            value, gradient = call(np.array([0.01, 1.0]))
        np.testing.assert_allclose(value, 2 * np.log(0.1), rtol=1e-15)
        np.testing.assert_allclose(gradient, [20, 2], rtol=1e-15)


def test_a_primitive_of_ones_own_is_compiled_by_its_description(registry):
    softsign = ops.elementwise(
        "softsign", lambda x: x / (1 + np.abs(x)), lambda g, z, x: g * (1 - np.abs(z)) ** 2, loop="{0} / (1 + abs({0}))"
    )
    fast = tm.compile(V(lambda x: np.sum(softsign(x))))
    for x in (np.array([0.5, -3.0]), np.array([0.5, -3.0], np.float32)):
        value, gradient = fast(x)
        np.testing.assert_allclose(value, 1 / 3 - 3 / 4, rtol=1e-6)
        np.testing.assert_allclose(gradient, [4 / 9, 1 / 16], rtol=1e-6)
    assert {type(runner).__name__ for runner in fast.runners.values()} == {"Machine"}


# ── rules ───────────────────────────────────────────────────────────────────────────────────────────────────────────

CONSTANTS = [0.0, -0.0, 1.0, -1.0, 2.0, 0.5, 3.0, 0.1, 1e20, 1e-20, 1e200, 1e-200, np.inf, np.nan, 5e-324, 1e308, 0, 1,
             2, 3, -1, True]  # fmt: skip
OF_CONSTANTS = [
    operator.add, operator.sub, operator.mul, operator.truediv, operator.pow, np.maximum, np.minimum,
    lambda x, c: c + x, lambda x, c: c - x, lambda x, c: c * x, lambda x, c: c / x, lambda x, c: x / np.asarray(c),
    lambda x, c: np.full(x.shape, c) * x, lambda x, c: x + np.zeros(x.shape) * c, lambda x, c: np.where(x > c, x, c),
]  # fmt: skip
OF_ONE = [
    np.abs, np.negative, lambda x: x, lambda x: x.copy(), lambda x: np.sum(x.reshape(-1, 1), 1),
    lambda x: x / x[:1], lambda x: x.reshape(3, 4).T.T.reshape(-1), lambda x: ops.max_share(x, axis=(0,), ties="split"),
    lambda x: x * np.broadcast_to(x[:1], x.shape), lambda x: x.astype(x.dtype), lambda x: x**3, np.sqrt,
]  # fmt: skip


@given(
    st.sampled_from(FLOATS),
    st.lists(
        st.one_of(
            st.tuples(st.sampled_from(OF_CONSTANTS), st.sampled_from(CONSTANTS)).map(lambda p: lambda x: p[0](x, p[1])),
            st.sampled_from(OF_ONE),
        ),
        min_size=1,
        max_size=3,
    ),
    st.permutations(range(COUNT)),
)
def test_no_rule_changes_what_numpy_gives(dtype, steps, order):
    """Simplified and not: equal where NumPy gives 0, infinity or NaN; or the program gives up."""

    def f(x):
        for step in steps:
            x = step(x)
        return x, 1 / x

    x = awkward(dtype)[list(order)]
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            program = record(f, x)
        except OverflowError:  # a Python number beyond float32
            return
        small = simplify(program)
        ours, wanted = small.replay([x]), program.replay([x])
    outputs, checked = ours[: len(wanted)], ours[len(wanted) :]
    if all(np.isfinite(y).all() for y in checked):
        same(outputs, wanted, exact=False, computed=dtype)
        for a, b in zip(outputs, wanted, strict=True):
            np.testing.assert_array_equal(a == 0, b == 0)
            np.testing.assert_array_equal(np.signbit(a[b == 0]), np.signbit(b[b == 0]))
