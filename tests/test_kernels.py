"""Each kernel three ways equal, bit for bit: NumPy, machine code, and its loops in Python. Pairs are transposed.

In Python every access of the loops is seen to lie inside an array.
"""

import importlib.util
import os
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinymaml import kernels, ops
from tinymaml.kernels import Kernel

if importlib.util.find_spec("numba"):
    from test_schedule import plain_python

    from tinymaml.programs import direct

KERNELS = {name: k for name, k in vars(kernels).items() if isinstance(k, Kernel)}
DTYPES = st.sampled_from([np.float64, np.float32])


# ── arguments of every kernel ───────────────────────────────────────────────────────────────────────────────────────


def layout(x: np.ndarray, how: str) -> np.ndarray:
    """The same numbers, in memory as `how` says."""
    if how == "strided":
        return np.repeat(x, 2, -1)[..., ::2]
    if how == "backwards":
        return x[::-1, ::-1].copy()[::-1, ::-1]
    if how == "transposed":
        return x.T.copy().T
    if how == "broadcast":
        return np.broadcast_to(x[:1], x.shape)
    x.flags.writeable = how != "read-only"
    return x


LAYOUTS = st.sampled_from(["plain", "strided", "backwards", "transposed", "broadcast", "read-only"])


@st.composite
def numbers(draw, shape, dtype=DTYPES):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return layout(rng.standard_normal(shape).astype(draw(dtype)), draw(LAYOUTS))


@st.composite
def windows(draw):
    """x (N, H, W, C) and windows that fit into it, padding asymmetric."""
    n, h, w, c = (draw(st.integers(1, most)) for most in (2, 6, 6, 3))
    padding = tuple((draw(st.integers(0, 2)), draw(st.integers(0, 2))) for _ in range(2))
    size = tuple(draw(st.integers(1, min(4, m + a + b))) for m, (a, b) in zip((h, w), padding, strict=True))
    return (n, h, w, c), dict(size=size, stride=draw(st.integers(1, 3)), padding=padding)


@st.composite
def pools(draw):
    size = draw(st.integers(1, 3))
    return (draw(st.integers(1, 2)), *(draw(st.integers(size, 7)) for _ in range(2)), draw(st.integers(1, 3))), size


def patched(shape, size, stride, padding) -> tuple[int, ...]:
    rows, columns = ((n + a + b - k) // stride + 1 for n, (a, b), k in zip(shape[1:3], padding, size, strict=True))
    return shape[0], rows, columns, size[0] * size[1] * shape[3]


def pooled(shape, size) -> tuple[int, ...]:
    return shape[0], shape[1] // size, shape[2] // size, shape[3]


@st.composite
def arguments(draw, name: str) -> tuple[tuple, dict]:
    """Arrays, and parameters."""
    if name in ("patches", "unpatches"):
        shape, how = draw(windows())
        if name == "patches":
            return (draw(numbers(shape)),), how
        return (draw(numbers(patched(shape, **how))),), how | {"shape": shape}
    if name == "scatter_rows":
        shape = draw(st.integers(1, 5)), draw(st.integers(0, 4))
        rows = np.array(draw(st.lists(st.integers(0, shape[0] - 1), max_size=8)), np.int64)
        return (draw(numbers((len(rows), shape[1]))), rows), {"shape": shape}
    shape, size = draw(pools())
    k = draw(
        st.integers(0, 2**32 - 1).map(
            lambda seed: np.random.default_rng(seed).integers(0, size**2, pooled(shape, size))
        )
    )
    k = layout(k, draw(LAYOUTS))
    if name == "unpick":
        return (draw(numbers(pooled(shape, size))), k), {"size": size, "shape": shape}
    return (draw(numbers(shape)), k)[: 1 if name == "pool_argmax" else 2], {"size": size}


def bits(x: np.ndarray) -> tuple:
    return x.dtype, x.shape, x.tobytes()


def frozen_bits(arrays) -> list:
    return [bits(x) for x in arrays]


# ── three ways equal ────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_kernel_is_tested():
    assert set(KERNELS) == {"patches", "unpatches", "pool_argmax", "pick", "unpick", "scatter_rows"}


def compiled(kernel: Kernel, *arrays, **params) -> np.ndarray:
    """What the machine code gives: its NumPy twin is not asked."""
    return Kernel(kernel.name, refuse, kernel.shape, kernel.step, kernel.dtype, kernel.choices)(*arrays, **params)


def refuse(*_, **__):
    raise AssertionError("NumPy was asked")


def in_python(kernel: Kernel, x, *indices, **params) -> np.ndarray:
    """What the kernel's loops give, run as Python with every access checked."""
    pytest.importorskip("numba")
    step = kernel._step(x, indices, params)
    step[0].view(np.uint8).fill(255)
    with plain_python() as plain:
        code = plain.load(direct.kernel_source(kernel.name, step))
        numbers = np.array([0, 0, len(step) + 3, *(plain.address(n) if isinstance(n, np.ndarray) else n for n in step)])
        assert plain.invoke(code.address(0), 0, 0, plain.at("i8")(plain.address(numbers)).address) == 0
    return step[0]


@pytest.mark.parametrize("name", KERNELS)
@given(data=st.data())
def test_machine_code_is_its_numpy_twin_bit_for_bit(name, data):
    pytest.importorskip("numba")
    kernel, (arrays, params) = KERNELS[name], data.draw(arguments(name))
    before = frozen_bits(arrays)
    wanted = bits(kernel.twin(*arrays, **params))
    assert bits(compiled(kernel, *arrays, **params)) == bits(kernel(*arrays, **params)) == wanted
    assert frozen_bits(arrays) == before


@pytest.mark.parametrize("name", KERNELS)
@settings(max_examples=15)
@given(data=st.data())
def test_the_loops_in_python_stay_inside_their_arrays_and_are_the_twin(name, data):
    kernel, (arrays, params) = KERNELS[name], data.draw(arguments(name))
    assert bits(in_python(kernel, *arrays, **params)) == bits(kernel.twin(*arrays, **params))


@pytest.mark.parametrize("name", KERNELS)
@given(data=st.data())
def test_the_shape_is_known_before(name, data):
    kernel, (arrays, params) = KERNELS[name], data.draw(arguments(name))
    z = kernel.twin(*arrays, **params)
    assert kernel.shape(*(x.shape for x in arrays), **params) == z.shape
    assert (kernel.dtype or arrays[0].dtype) == z.dtype


def wrong(kernel: Kernel, *arrays, **params):
    return kernel, arrays, params


UNPADDED = dict(stride=1, padding=((0, 0), (0, 0)))
WRONG = {
    "an element that a window has not": wrong(kernels.pick, np.ones((1, 2, 2, 1)), np.full((1, 1, 1, 1), 4), size=2),
    "an element before a window": wrong(
        kernels.unpick, np.ones((1, 1, 1, 1)), np.full((1, 1, 1, 1), -9), size=2, shape=(1, 2, 2, 1)),
    "fewer choices than windows": wrong(kernels.pick, np.ones((1, 6, 6, 1)), np.zeros((1, 2, 3, 1), int), size=2),
    "more windows than choices": wrong(
        kernels.unpick, np.ones((1, 3, 3, 1)), np.zeros((1, 2, 3, 1), int), size=2, shape=(1, 6, 6, 1)),
    "windows of another size": wrong(
        kernels.unpatches, np.ones((1, 2, 2, 5)), shape=(1, 3, 3, 1), size=(2, 2), **UNPADDED),
    "a window that is too large": wrong(kernels.patches, np.ones((1, 2, 2, 1)), size=(3, 3), **UNPADDED),
    "a row that is not there": wrong(kernels.scatter_rows, np.ones((1, 2)), np.array([3]), shape=(3, 2)),
    "a row of another length": wrong(kernels.scatter_rows, np.ones((1, 3)), np.array([1]), shape=(3, 2)),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_arguments_that_do_not_fit_are_numpys_error(what):
    kernel, arrays, params = WRONG[what]
    with pytest.raises((ValueError, IndexError)) as wanted:
        kernel.twin(*arrays, **params)
    with pytest.raises(type(wanted.value)) as got:
        kernel(*arrays, **params)
    assert str(got.value) == str(wanted.value)


def test_sums_of_many_are_added_in_the_same_order():
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 3, 2000)
    for dtype in (np.float64, np.float32):
        g, shape = (10.0 ** rng.uniform(-4, 4, (2000, 5))).astype(dtype), (3, 5)
        assert bits(kernels.scatter_rows(g, rows, shape=shape)) == bits(kernels.scatter_rows.twin(g, rows, shape=shape))
        how = dict(shape=(2, 9, 9, 2), size=(5, 5), stride=1, padding=((2, 2), (2, 2)))
        g = (10.0 ** rng.uniform(-4, 4, (2, 9, 9, 50))).astype(dtype)
        assert bits(kernels.unpatches(g, **how)) == bits(kernels.unpatches.twin(g, **how))


@pytest.mark.parametrize("dtype", [np.complex128, np.float16, np.longdouble, ">f8", ">f4"])
def test_dtypes_numba_is_not_given_are_numpys(dtype):
    x = np.arange(16).reshape(1, 4, 4, 1).astype(dtype)
    how = dict(size=(2, 2), stride=1, padding=((1, 0), (0, 1)))
    z = kernels.patches(x, **how)
    np.testing.assert_array_equal(z, kernels.patches(x.astype(complex), **how))
    assert kernels.unpatches(z, shape=x.shape, **how).dtype == x.dtype
    k = kernels.pool_argmax(x, size=2)
    np.testing.assert_array_equal(k, np.full((1, 2, 2, 1), 3))
    np.testing.assert_array_equal(
        kernels.unpick(kernels.pick(x, k, size=2), k, size=2, shape=x.shape)[x != 0].max(), 15
    )


# ── windows and pools are what they are said to be ──────────────────────────────────────────────────────────────────


@given(windows(), st.data())
def test_patches_and_unpatches_are_transposed(case, data):
    shape, how = case
    x, y = data.draw(numbers(shape, st.just(float))), data.draw(numbers(patched(shape, **how), st.just(float)))
    np.testing.assert_allclose(
        np.vdot(kernels.patches(x, **how), y), np.vdot(x, kernels.unpatches(y, shape=shape, **how)), atol=1e-12
    )


@given(pools(), st.data())
def test_pick_and_unpick_are_transposed(case, data):
    shape, size = case
    x, y = data.draw(numbers(shape, st.just(float))), data.draw(numbers(pooled(shape, size), st.just(float)))
    k = kernels.pool_argmax(data.draw(numbers(shape)), size=size)
    np.testing.assert_allclose(
        np.vdot(kernels.pick(x, k, size=size), y), np.vdot(x, kernels.unpick(y, k, size=size, shape=shape)), atol=1e-12
    )


@given(st.data())
def test_taking_rows_and_scatter_add_are_transposed(data):
    rows = np.array(
        data.draw(st.lists(st.integers(-4, 3), min_size=1, max_size=9)),
        data.draw(st.sampled_from([np.int64, np.int32, np.int8])),
    )
    x, y = data.draw(numbers((4, 2, 3), st.just(float))), data.draw(numbers((len(rows), 2, 3), st.just(float)))
    np.testing.assert_allclose(np.vdot(x[rows], y), np.vdot(x, kernels.scatter_add(y, (rows,), x.shape)), atol=1e-12)


@given(windows(), st.data())
def test_patches_are_windows_of_the_padded_image(case, data):
    shape, how = case
    x = data.draw(numbers(shape))
    z, padded = kernels.patches(x, **how), np.pad(x, ((0, 0), *how["padding"], (0, 0)))
    assert z.shape == patched(shape, **how)
    (h, w), s = how["size"], how["stride"]
    for i, j in np.ndindex(z.shape[1:3]):
        np.testing.assert_array_equal(z[:, i, j], padded[:, i * s : i * s + h, j * s : j * s + w].reshape(len(x), -1))


@given(pools(), st.data())
def test_what_is_picked_is_the_largest_of_its_window(case, data):
    shape, size = case
    x = data.draw(numbers(shape))
    n, rows, columns, c = pooled(shape, size)
    largest = np.max(x[:, : rows * size, : columns * size].reshape(n, rows, size, columns, size, c), (2, 4))
    np.testing.assert_array_equal(kernels.pick(x, kernels.pool_argmax(x, size=size), size=size), largest)


@pytest.mark.parametrize("window, where", [
    ([1, 1, 1, 1], 0), ([0, 2, 2, 1], 1), ([0, 1, 0, 1], 1), ([-0.0, 0.0, 0.0, -0.0], 0), ([0.0, -0.0, 0, 0], 0),
    ([5, np.nan, 9, np.nan], 1), ([np.nan, 1, 9, np.nan], 0), ([1, 2, 9, np.nan], 3), ([np.nan] * 4, 0),
    ([-np.inf] * 4, 0), ([-np.inf, np.inf, np.inf, 0], 1), ([np.inf, np.nan, 0, 0], 1),
])  # fmt: skip
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_ties_and_nan_are_as_in_numpys_argmax(window, where, dtype):
    x = np.array(window, dtype).reshape(1, 2, 2, 1)
    assert np.argmax(x) == where
    for f in (kernels.pool_argmax, kernels.pool_argmax.twin, partial(in_python, kernels.pool_argmax)):
        assert f(x, size=2).item() == where


@given(st.data())
def test_ties_everywhere_go_to_the_first(data):
    shape, size = data.draw(pools())
    x = np.random.default_rng(data.draw(st.integers(0, 99))).integers(0, 2, shape).astype(data.draw(DTYPES))
    x[data.draw(st.integers(0, 1)) :: 3] = np.nan
    assert (
        bits(kernels.pool_argmax(x, size=size))
        == bits(kernels.pool_argmax.twin(x, size=size))
        == bits(in_python(kernels.pool_argmax, x, size=size))
    )


# ── scatter_add ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_rows_named_twice_are_added_to_twice_and_negative_ones_count_from_the_end():
    for dtype in (np.int64, np.int32, np.int8, np.intp):
        z = kernels.scatter_add(np.array([[1.0, 2], [10, 20], [100, 200]]), (np.array([0, -1, 0], dtype),), (3, 2))
        np.testing.assert_array_equal(z, [[101, 202], [0, 0], [10, 20]])


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint64])
def test_small_and_unsigned_row_indices_reach_into_long_tables(dtype):
    z = kernels.scatter_add(np.ones((2, 2)), (np.array([1, 100], dtype),), (300, 2))
    assert np.flatnonzero(z.sum(1)).tolist() == [1, 100]


@pytest.mark.parametrize("row", [3, -4, 2**40, -(2**40)])
def test_rows_that_do_not_exist_are_refused(row):
    with pytest.raises(IndexError, match=rf"scatter_add: rows .*{row}.* of an array with 3 rows"):
        kernels.scatter_add(np.ones((2, 2)), (np.array([0, row]),), (3, 2))
    with pytest.raises(IndexError):
        ops.scatter_add(np.ones(2), np.array([0, row]), template=(ops.ARRAY,), shape=(3,))


INDICES = [
    ((np.array([1, 1]),), (3,)),
    ((np.array([[0, 1], [1, 2]]),), (3, 2, 2)),
    ((np.array(2),), (3, 2)),
    ((np.array([], int),), (3, 2)),
    ((np.array([], int),), (0, 2)),
    ((np.array([0, 0]),), (3, 0)),
    ((np.array([0, 0]), slice(None)), (3, 2)),
    ((..., np.array([1, 1])), (3, 2)),
    ((np.array([0, 0]), np.array([1, 1])), (3, 2)),
    ((np.array([True, False, True]),), (3, 2)),
    ((np.int64(1),), (3, 2)),
    ((1, np.array([0, 0])), (3, 2)),
]


@pytest.mark.parametrize("index, shape", INDICES, ids=str)
def test_any_index_adds_as_numpys_add_at(index, shape):
    z = np.zeros(shape)
    g = np.arange(1.0, 1 + z[index].size).reshape(z[index].shape)
    np.add.at(z, index, g)
    assert bits(kernels.scatter_add(g, index, shape)) == bits(z)


# ── with and without Numba ──────────────────────────────────────────────────────────────────────────────────────────

GRADIENT = """
import sys, hashlib, numpy as np, tinymaml as tm
rng = np.random.default_rng(0)
def loss(p, x, ids, y):
    h = tm.nn.max_pool2d(tm.nn.relu(tm.nn.conv2d(x, p["w"])), 2)
    h = np.reshape(h, (len(x), -1)) + tm.nn.embedding(p["table"], ids)
    return tm.nn.cross_entropy(tm.nn.batch_norm(h), y)
p = {"w": rng.standard_normal((3, 3, 2, 4)), "table": rng.standard_normal((7, 36))}
x, ids, y = rng.standard_normal((5, 6, 6, 2)), rng.integers(0, 7, 5), rng.integers(0, 36, 5)
def adapted(p):
    g = tm.grad(loss)(p, x, ids, y)
    return loss(tm.tree_map(lambda a, b: a - 0.1 * b, p, g), x, ids, y)
value, g = tm.value_and_grad(adapted)(p)
digest = hashlib.sha256()
for a in (value, g["w"], g["table"]):
    digest.update(np.ascontiguousarray(a).tobytes())
print(digest.hexdigest(), "numba" in sys.modules, any(tm.kernels.patches.functions.values()))
"""


def python(code: str, **environment: str) -> list[str]:
    command = [sys.executable, "-W", "error::RuntimeWarning", "-c", code]
    environment = {**os.environ, **environment}
    done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.fixture(scope="module")
def without_numba() -> list[str]:
    return python(GRADIENT, TINYMAML_NUMBA="0")


def test_import_tinymaml_imports_numpy_only():
    others = ["numba", "scipy", "matplotlib", "PIL", "tqdm", "safetensors", "filelock", "torch", "jax", "llvmlite"]
    code = f"import sys, tinymaml; print(*[m for m in {others} if m in sys.modules], 'numpy' in sys.modules)"
    assert python(code) == ["True"]


def test_switched_off_numba_is_not_imported(without_numba):
    assert without_numba[1:] == ["False", "False"]


def test_a_meta_gradient_has_the_same_bits_without_numba(without_numba, tmp_path):
    pytest.importorskip("numba")
    there = dict(TINYMAML_NUMBA="1", TINYMAML_CACHE=str(tmp_path))
    assert python(GRADIENT, **there) == [without_numba[0], "True", "True"]
    assert python(GRADIENT, **there) == [without_numba[0], "False", "True"]  # from the cache, without Numba


def test_where_numba_compiles_nothing_numpy_gives_the_same_bits(without_numba, tmp_path):
    pytest.importorskip("numba")
    off = dict(NUMBA_DISABLE_JIT="1", TINYMAML_NUMBA="1", TINYMAML_CACHE=str(tmp_path))
    assert python(GRADIENT, **off) == [without_numba[0], "True", "False"]


def test_where_numba_is_not_installed_numpy_gives_the_same_bits(without_numba, tmp_path):
    (tmp_path / "numba.py").write_text("raise ImportError('there is no numba here')", encoding="utf-8")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    assert python(GRADIENT, PYTHONPATH=path, TINYMAML_NUMBA="1")[0] == without_numba[0]


@pytest.mark.slow  # `test_cache` does so with one kernel
def test_a_cache_folder_that_cannot_be_written_is_done_without(without_numba, tmp_path):
    pytest.importorskip("numba")
    (tmp_path / "a file").touch()
    assert python(GRADIENT, TINYMAML_CACHE=str(tmp_path / "a file"), TINYMAML_NUMBA="1") == [
        without_numba[0],
        "True",
        "True",
    ]


# ── planted errors are found ────────────────────────────────────────────────────────────────────────────────────────


def test_a_sum_in_another_order_has_other_bits():
    rng = np.random.default_rng(0)
    g, rows = 10.0 ** rng.uniform(-4, 4, (2000, 5)), rng.integers(0, 3, 2000)
    backwards = kernels.scatter_rows(g[::-1], rows[::-1].copy(), shape=(3, 5))
    assert bits(backwards) != bits(kernels.scatter_rows(g, rows, shape=(3, 5)))
    np.testing.assert_allclose(backwards, kernels.scatter_rows(g, rows, shape=(3, 5)))


def test_padding_on_the_wrong_side_is_not_transposed():
    x, how = np.arange(1.0, 10).reshape(1, 3, 3, 1), dict(size=(2, 2), stride=1)
    y = np.ones((1, 3, 3, 4)) * np.arange(1, 5)
    right = np.vdot(kernels.patches(x, padding=((1, 0), (0, 1)), **how), y)
    assert right == np.vdot(x, kernels.unpatches(y, shape=x.shape, padding=((1, 0), (0, 1)), **how))
    assert right != np.vdot(x, kernels.unpatches(y, shape=x.shape, padding=((0, 1), (1, 0)), **how))
