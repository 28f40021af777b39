"""Compiled is the reference, made faster: the same numbers within 8 units, the same errors, the same bits every time.

A unit is ε of the dtype times the larger of max |reference| and the scale of what is summed on the way to the result
(`test_schedule.scales`): a gradient that is a small difference of large terms is as exact as those, in either program.
What is compiled is kept for the run in a folder of its own. Many cases go into one program, and many tests are of one
meta-gradient (the net "mlp", α = 0.05, K = 2), so that Numba runs seldom.
"""

import functools
import os
import re
import subprocess
import sys
import warnings

import numpy as np
import pytest
from test_ops import SMOOTH, STEPS, floats, in_float32, squared
from test_schedule import plain_python, scales, spoiled_memory, units

import tinymaml as tm
from tinymaml import nn
from tinymaml.engine import Primitive
from tinymaml.nest import tree_leaves, tree_map
from tinymaml.networks import Network
from tinymaml.networks.conv import conv
from tinymaml.networks.mlp import mlp
from tinymaml.programs import CompileWarning, compiled, lowering, record, runners
from tinymaml.programs.fusion import KernelCall
from tinymaml.programs.placement import lay_out
from tinymaml.programs.task import whole
from tinymaml.programs.views import Unsupported

pytest.importorskip("numba")
pytest.importorskip("scipy")

UNITS = 8
DTYPES = [np.float64, np.float32]


pytestmark = pytest.mark.usefixtures("own_cache")


def outcome(call):
    """What is returned, or which error with which text is raised."""
    try:
        return call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def same_bits(ours, theirs) -> bool:
    return all(np.asarray(a).tobytes() == np.asarray(b).tobytes()
               for a, b in zip(tree_leaves(ours), tree_leaves(theirs), strict=True))  # fmt: skip


# ── every primitive, every NumPy function, and their gradients ──────────────────────────────────────────────────────


def gradient(case):
    return tm.grad(lambda *args: sum(np.sum(y) for y in squared(case.f)(*args)), tuple(floats(case.args)))


@functools.cache
def functions() -> list:
    """(name, function, arguments) of every case."""
    found = []
    for case in SMOOTH + STEPS:
        if case.key != "input":  # which marks arguments, and is no operation
            found.append((case.name, case.f, case.args))
            if case in SMOOTH:
                found.append((f"gradient of {case.name}", gradient(case), case.args))
    return found


def others(args):
    """Other numbers, in the order of the old ones: where a maximum lies is not moved."""
    factor = lambda x: 1 + 0.002 * np.cos(np.arange(x.size)).reshape(x.shape)  # noqa: E731
    return tree_map(lambda x: (x * factor(x)).astype(x.dtype) if x.dtype.kind == "f" else x, args)


@functools.cache
def reason_against(i: int) -> str:
    """Why the i-th of `functions` is not compiled; "" if it is."""
    _, f, args = functions()[i]
    try:
        lay_out(whole(f, args))
    except Unsupported as reason:
        return str(reason)
    return ""


def chosen(which: str) -> list[int]:
    """Some of `functions`: "primitives", every "third", or "all"."""
    every = range(len(functions()))
    if which == "primitives":
        return [i for i in every if functions()[i][0] in Primitive.registry]
    return [*every[:: 3 if which == "third" else 1]]


def supported(which: str) -> list:
    """(name, function, arguments) of those that are compiled.

    Of NumPy's functions and of gradients Numba sees the same loops as of the primitives that they are made of, and in
    float32 the same as in float64; the source of them is run as Python, in float32.
    """
    cases = [functions()[i] for i in chosen(which) if not reason_against(i)]
    assert len(cases) > 0.4 * len(chosen(which))
    return cases


def supported_in_float32(which: str) -> list:
    return [(name, f, in_float32(args)) for name, f, args in supported(which)]


def examine(cases) -> None:
    """All in one program, on numbers other than the recorded ones."""
    f = lambda *groups: [f(*args) for (_, f, _), args in zip(cases, groups, strict=True)]  # noqa: E731
    arrays = [args for _, _, args in cases]
    fast = tm.compile(f)
    fast(*arrays)
    inputs = others(arrays)
    for (name, g, _), args, ours in zip(cases, inputs, fast(*inputs), strict=True):
        program = record(g, *args)
        assert units(ours, program(*args), scales(program, args)) <= UNITS, name
    assert [type(runner) for runner in fast.runners.values()] == [compiled.Machine]


@pytest.mark.usefixtures("either_code")
@pytest.mark.parametrize("which", ["primitives", pytest.param("all", marks=pytest.mark.slow)])
def test_every_case_that_is_supported_is_the_reference(which):
    examine(supported(which))


@pytest.mark.slow
def test_every_primitive_in_float32_is_the_reference():
    examine(supported_in_float32("primitives"))


@pytest.mark.parametrize("which", ["third", pytest.param("all", marks=pytest.mark.slow)])
def test_the_source_of_every_case_says_what_the_reference_says(which):
    cases = supported_in_float32(which)
    with plain_python(), spoiled_memory(), np.errstate(all="ignore"):
        for start in range(0, len(cases), 50):
            examine(cases[start : start + 50])


@pytest.mark.parametrize("which", ["primitives", "third", pytest.param("all", marks=pytest.mark.slow)])
def test_what_is_not_supported_is_replayed_and_says_why(which):
    by_reason = {reason_against(i): functions()[i] for i in chosen(which) if reason_against(i)}
    assert by_reason.keys() <= NOT_COMPILED, by_reason.keys() - NOT_COMPILED
    for reason, (name, f, args) in by_reason.items():
        fast = tm.compile(f)
        with pytest.warns(CompileWarning, match="replayed, not compiled") as said:
            ours = fast(*args)
        assert reason in str(said[0].message)
        program = record(f, *args)
        assert units(ours, program(*args), scales(program, args)) <= UNITS, name
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # once is enough
            fast(*args)


REPLAYED = [p.name for p in Primitive.registry.values() if p.description.lowering == "replayed"]
NOT_COMPILED = {
    *(f"the primitive {name} has no kernel" for name in REPLAYED),
    "a matrix product that broadcasts over several axes has no kernel",
    "the dtype complex128 has no kernels",
    "the dtype float16 has no kernels",
}


@pytest.mark.parametrize(
    ("f", "args", "why"),
    {
        "half precision": (lambda x: x * 2, (np.ones(3, np.float16),), "float16"),
        "complex numbers": (lambda x: x * x, (np.ones(3) * 1j,), "complex128"),
        "another byte order": (lambda x: x * x, (np.ones(3, ">f8"),), ">f8|float64"),
        "nothing": (lambda x: np.sum(x[:0]) + x, (np.ones(3),), "length 0"),
        "two kinds of index": (lambda x, k: x[k, 1], (np.eye(3), np.array([0, 2])), "index like"),
    }.values(),
)
def test_what_cannot_be_compiled_is_replayed(f, args, why):
    fast = tm.compile(f)
    with pytest.warns(CompileWarning, match=rf"is replayed, not compiled: .*({why})"):
        ours = fast(*args)
    wanted = f(*args)
    assert np.asarray(ours).dtype.newbyteorder("=") == np.asarray(wanted).dtype.newbyteorder("=")
    np.testing.assert_array_equal(ours, wanted)


@pytest.mark.parametrize(
    ("f", "args", "why"),
    {
        "a branch": (lambda x: x if np.sum(x) > 0 else -x, (np.ones(3),), "a branch depends on a value"),
        "a mask": (lambda x: x[x > 0], (np.ones(3),), "mask"),
        "arrays of tensors": (lambda k: np.eye(3)[k], (np.array([1, 2]),), "becomes an array of NumPy"),
        "not on tensors": (lambda x: np.roots(x), (np.ones(3),), "np.roots"),
    }.values(),
)
def test_what_cannot_be_recorded_runs_as_it_is(f, args, why):
    fast = tm.compile(f)
    with pytest.warns(CompileWarning, match=f"runs as it is: .*{why}"):
        np.testing.assert_array_equal(fast(*args), f(*args))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(fast(*tree_map(lambda x: x + 0, args)), f(*args))


def test_numbers_that_c_and_numpy_might_see_otherwise():
    """Infinity, NaN, −0, numbers beyond 2⁶³, wrapping integers: as NumPy has them."""

    def f(x, i, k):
        return [
            np.floor(x), np.ceil(x), np.trunc(x), np.rint(x), np.sign(x), np.isnan(1 / x), np.isinf(1 / x),
            np.isfinite(x * 1e300), np.maximum(x, np.nan), np.maximum(np.inf, x), np.minimum(x, -np.inf), 1 / x,
            np.where(x > 0, np.inf, x), np.log(x * 0), np.logaddexp(x, -np.inf), x == 0, ~(x > 0), (x > 0) ^ (i > 0),
            i * i, i + i, -i, i - 3, i < 300, i == k, i * 0.5, k**2, np.sum(i), np.sum(x > 0),
            np.argmax(i), np.argmin(i), np.cumsum(i), k & 3, k | 1, k ^ 5, ~k, np.mean(x > 0),
            np.argmax(x), np.argmin(x), x[-1], x[1:][::-1], i.astype(float) / 4, x.astype(np.float32) * 2, np.abs(k),
            np.max(1 / x), np.logical_and(i, x), np.logical_xor(i, x), np.where(i, x, 0),
        ]  # fmt: skip

    x = np.array([0.5, -0.0, 1e20, -2.5, -1e300, 3.5, 0.0])
    i, k = np.array([100, 0, -128, 3, 1, 2, 7], np.int8), np.array([5, 0, 1, -3, 1, 2, 7])
    fast = tm.compile(f)
    with np.errstate(all="ignore"):
        for data in ((x, i, k), (x[::-1].copy(), i, k[::-1].copy())):
            wanted = tree_map(lambda y: tm.engine.value_of(y), f(*map(tm.Tensor, data)))
            for at, (a, b) in enumerate(zip(fast(*data), wanted, strict=True)):
                np.testing.assert_array_equal(a, b, err_msg=str(at))
                assert a.dtype == b.dtype, at


# ── what is called ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("backend", ["replay", "numba"])
def test_any_function_keeps_its_nests_its_types_and_its_constants(backend):
    def f(d, pair, nothing):
        return {"y": np.tanh(d["x"]) * pair[0], "rest": [pair[1], None, ("name", 3, np.arange(2))]}, np.sum(d["x"])

    args = {"x": np.ones(3)}, (np.array(2.0), np.array([1, 2])), None
    fast = tm.compile(f, backend=backend)
    for _ in range(2):
        ours, total = fast(*args)
        wanted, _ = f(*args)
        assert ours.keys() == wanted.keys() and ours["rest"][1] is None and ours["rest"][2][:2] == ("name", 3)
        np.testing.assert_allclose(ours["y"], wanted["y"], rtol=1e-15)
        assert type(ours["rest"][2]) is tuple and ours["rest"][0].dtype == np.int64 and float(total) == 3
        np.testing.assert_array_equal(ours["rest"][2][2], [0, 1])
        ours["rest"][2][2][:] = 7  # the caller's own
        ours["y"][:] = 7


@pytest.mark.parametrize(
    "f",
    {
        "diagonals": lambda x: (np.trace(x, axis1=1, axis2=2), np.diagonal(x, 1, 0, 2), np.einsum("bii->bi", x)),
        "a diagonal matrix": lambda x: np.diag(x[0, 0]),
        "an index after an ellipsis": lambda x: x[..., np.array([0, 1]), np.array([2, -1])],
        "the largest of one number": lambda x: (np.max(x[0, 0, 0]), np.min(x[0, 0, 0]), np.argmax(x[0, 0, 0])),
        "the largest over axes apart": lambda x: (np.max(x, (0, 2)), np.min(x * x, (2, 0), keepdims=True)),
        "its slope": tm.grad(lambda x: np.sum(np.max(np.maximum(x, 0.5), (0, 2)) ** 2)),
        "the slope of these": tm.grad(lambda x: np.sum(np.trace(x, 1, 1, 2) ** 2) + np.max(x[0, 0, 0])),
    }.values(),
)
def test_indices_after_an_ellipsis_and_what_is_largest_over_any_axes(f):
    fast, example = tm.compile(f), np.random.default_rng(0).standard_normal((3, 4, 4))
    for x in (example, -example):
        for a, b in zip(tree_leaves(fast(x)), tree_leaves(f(x)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-14)
    assert [type(runner) for runner in fast.runners.values()] == [compiled.Machine]


def test_shapes_and_dtypes_it_has_not_met_are_compiled_anew():
    fast = tm.compile(lambda x: np.sum(x * x, 0))
    for x in (np.ones((2, 3)), np.ones((4, 3)), np.ones((2, 3), np.float32), np.ones(5)):
        out = fast(x)
        np.testing.assert_array_equal(out, np.sum(x * x, 0))
        assert out.dtype == x.dtype
    assert len(fast.runners) == 4
    fast(np.zeros((2, 3)))
    assert len(fast.runners) == 4


def test_arrays_that_are_not_in_order_are_read_as_they_are():
    fast, x = tm.compile(lambda x, y: x @ y + 1), np.arange(24.0).reshape(4, 6)
    np.testing.assert_array_equal(fast(x[::2, ::-2], x[:3, 1::2].T), x[::2, ::-2] @ x[:3, 1::2].T + 1)
    frozen = x.copy()
    frozen.flags.writeable = False
    np.testing.assert_array_equal(fast(frozen, frozen.T), frozen @ frozen.T + 1)


def test_a_derivative_of_a_compiled_function_is_the_functions():
    f = lambda x: np.sum(x**3)  # noqa: E731
    np.testing.assert_array_equal(tm.grad(tm.compile(f))(np.array([1.0, 2])), [3.0, 12])


@pytest.mark.parametrize("how", [dict(backend="cuda"), dict(threads=0), dict(threads=1.5)])
def test_settings_are_checked(how):
    ((name, value),) = how.items()
    with pytest.raises(ValueError, match=f"{name} is {value!r}"):
        tm.compile(lambda x: x, **how)


# ── meta-gradients ──────────────────────────────────────────────────────────────────────────────────────────────────


def with_labels(classes, shape):
    """Tasks of inputs and labels."""

    def draw(rng, dtype, count, n):
        return rng.standard_normal((count, n, *shape)).astype(dtype), rng.integers(0, classes, (count, n))

    return draw


def pooled():
    net = conv((4, 4, 1), filters=2, outputs=3, blocks=2)

    def apply(params, x):
        for i in range(2):
            layer = params[f"conv{i}"]
            x = nn.batch_norm(nn.conv2d(x, layer["w"]) + layer["b"], layer["gamma"], layer["beta"])
            x = nn.max_pool2d(nn.relu(x))
        return nn.linear(np.reshape(x, (x.shape[0], -1)), params["linear"]["w"], params["linear"]["b"])

    return Network(net.init, apply)


def embedded():
    def init(rng, dtype):
        return {"table": nn.normal(rng, (9, 3), 0.5, dtype), "w": nn.normal(rng, (3, 4), 0.5, dtype)}

    return Network(init, lambda p, ids: np.tanh(np.mean(nn.embedding(p["table"], ids), 1)) @ p["w"])


NETS = {
    "mlp": (mlp((1,), (5, 5), 1), nn.mse,
            lambda rng, dtype, count, n: tuple(rng.uniform(-1, 1, (count, n, 1)).astype(dtype) for _ in range(2))),
    "mlp with norm": (mlp((2, 2), (4,), 3, norm="batch"), nn.cross_entropy, with_labels(3, (2, 2))),
    "convolution": (conv((4, 4, 1), 2, 3, blocks=1), nn.cross_entropy, with_labels(3, (4, 4, 1))),
    "convolution and pooling": (pooled(), nn.cross_entropy, with_labels(3, (4, 4, 1))),
    "embedding": (embedded(), nn.cross_entropy,
                  lambda rng, dtype, count, n: (rng.integers(0, 9, (count, n, 5)), rng.integers(0, 4, (count, n)))),
}  # fmt: skip


class Problem:
    """A loss, and parameters and tasks for it, as many as are asked for."""

    def __init__(self, net: str, dtype=np.float64):
        self.net, self.error, self.draw = NETS[net]
        self.dtype, self.rng = dtype, np.random.default_rng(5)

    def loss(self, params, x, y):
        return self.error(self.net.apply(params, x), y)

    def loss_and_aux(self, params, x, y):
        out = self.net.apply(params, x)
        return self.error(out, y), {"n": len(y), "out": out, "positive": np.sum(out > 0), "name": "aux"}

    def params(self):
        return self.net.init(self.rng, self.dtype)

    def rates(self):
        """α for every number of every parameter."""
        return tree_map(lambda p: self.rng.uniform(0.01, 0.1, p.shape), self.params())

    def tasks(self, count=3, support=4, query=3):
        return self.draw(self.rng, self.dtype, count, support), self.draw(self.rng, self.dtype, count, query)


def unstacked(tasks) -> list:
    return [tree_map(lambda x, t=t: x[t], tasks) for t in range(len(tree_leaves(tasks)[0]))]


recorded: dict = {}


def program_of(f, params, task):
    """It is the same for all numbers in arrays of these shapes."""
    key = f, *((x.shape, x.dtype) for x in tree_leaves((params, task)))
    if key not in recorded:
        recorded[key] = record(f, params, [task])
    return recorded[key]


def meta_scales(f, params, tasks):
    """`scales` of the value and the gradient, the largest of all tasks'."""
    tasks = tasks if isinstance(tasks, list) else unstacked(tasks)
    found = []
    with np.errstate(all="ignore"):
        for task in tasks:
            found.append(scales(program_of(f, params, task), tree_leaves((params, *task))))
    return np.max(found, 0).tolist()


def agree(fast, f, params, tasks) -> None:
    """Each array within 8 units, and the gradient as a whole as close to the reference as its own length allows."""
    ours, wanted = fast(params, tasks), f(params, tasks)
    assert units(ours, wanted, meta_scales(f, params, tasks)) <= UNITS
    flat = lambda tree: np.concatenate([np.ravel(x).astype(float) for x in tree_leaves(tree)])  # noqa: E731
    eps = np.finfo(tree_leaves(wanted)[0].dtype).eps
    assert np.linalg.norm(flat(ours) - flat(wanted)) <= 100 * eps * np.linalg.norm(flat(wanted))


REPLAYED_AS = [  # by default every K with the first net, and K = 0 and 2 with each
    pytest.param(net, steps, *how, marks=() if net == "mlp" or (steps, *how) in (
        (0, "unrolled", np.float64), (2, "unrolled", np.float64), (2, "flat", np.float32)) else pytest.mark.slow)
    for net in NETS for steps in (0, 1, 2) for how in (("unrolled", np.float64), ("flat", np.float32))
]  # fmt: skip


@pytest.mark.parametrize(("net", "steps", "memory", "dtype"), REPLAYED_AS)
def test_a_replayed_meta_gradient_is_the_reference(net, steps, memory, dtype):
    problem = Problem(net, dtype)
    for how in (dict(inner_lr=problem.rates()), dict(inner_lr=0.05, first_order=True)):
        f = tm.meta_value_and_grad(problem.loss, inner_steps=steps, memory=memory, **how)
        fast = tm.compile(f, backend="replay")
        for _ in range(2):  # the second time on other inputs than the recorded
            agree(fast, f, problem.params(), problem.tasks(2))


COMBINED = [  # each net with every K, memory, dtype, order and kind of α somewhere: compiling takes seconds
    ("mlp", 3, "unrolled", np.float64, {}),
    ("mlp", 3, "flat", np.float32, {"rates": True}),
    ("mlp", 1, "unrolled", np.float32, {"first_order": True}),
    ("mlp", 0, "flat", np.float64, {}),
    ("mlp with norm", 3, "flat", np.float64, {}),
    pytest.param("mlp with norm", 1, "unrolled", np.float32, {}, marks=pytest.mark.slow),
    pytest.param("convolution", 3, "unrolled", np.float64, {"rates": True}, marks=pytest.mark.slow),
    pytest.param("convolution", 3, "flat", np.float32, {}, marks=pytest.mark.slow),
    ("convolution and pooling", 3, "flat", np.float64, {"first_order": True}),
    pytest.param("convolution and pooling", 1, "unrolled", np.float32, {}, marks=pytest.mark.slow),
    ("embedding", 3, "unrolled", np.float32, {"rates": True}),
    pytest.param("embedding", 1, "flat", np.float64, {}, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("net", "steps", "memory", "dtype", "how"), COMBINED)
def test_a_compiled_meta_gradient_is_the_reference(net, steps, memory, dtype, how):
    problem = Problem(net, dtype)
    settings = dict(inner_lr=problem.rates() if "rates" in how else 0.05, first_order="first_order" in how)
    f = tm.meta_value_and_grad(problem.loss, inner_steps=steps, memory=memory, **settings)
    fast = tm.compile(f)
    for _ in range(2):
        agree(fast, f, problem.params(), problem.tasks())
    assert [type(runner) for runner in fast.runners.values()] == [compiled.Machine]


@pytest.mark.parametrize("backend", ["replay", "numba"])
def test_tasks_of_unequal_sizes_come_in_a_list(backend):
    problem = Problem("mlp")
    f = tm.meta_value_and_grad(problem.loss, inner_lr=0.05, inner_steps=2)
    fast = tm.compile(f, backend=backend)
    sizes = [(4, 3), (1, 2), (4, 3)]
    for _ in range(2):
        agree(fast, f, problem.params(), [unstacked(problem.tasks(1, *size))[0] for size in sizes])
    assert len(fast.runners) == 2
    tasks = problem.tasks()
    params = problem.params()
    scale = meta_scales(f, params, tasks)
    assert units(fast(params, unstacked(tasks)), fast(params, tasks), scale) <= UNITS


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("memory", ["unrolled", "flat"])
@pytest.mark.parametrize("backend", ["replay", "numba"])
def test_aux_of_every_task_is_returned(backend, memory, listed):
    problem = Problem("mlp")
    f = tm.meta_value_and_grad(problem.loss_and_aux, inner_lr=0.05, has_aux=True, memory=memory)
    fast = tm.compile(f, backend=backend)
    for _ in range(2):
        params, tasks = problem.params(), problem.tasks()
        tasks = unstacked(tasks) if listed else tasks
        (value, aux), grads = fast(params, tasks)
        (value_, aux_), grads_ = f(params, tasks)
        np.testing.assert_allclose(value, value_, rtol=1e-14)
        assert units(grads, grads_, [1.0] * len(tree_leaves(grads))) <= 64
        assert len(aux) == 3
        for a, b in zip(aux, aux_, strict=True):
            assert a.keys() == b.keys() and a["n"] == 3 and a["name"] == "aux"
            np.testing.assert_allclose(a["out"], b["out"], rtol=1e-12, atol=1e-14)
            np.testing.assert_array_equal(a["positive"], b["positive"])
            assert {k: type(v) for k, v in a.items()} == {k: type(v) for k, v in b.items()}


@pytest.mark.parametrize(("net", "dtype"), [
    ("convolution", np.float32), *(pytest.param(*other, marks=pytest.mark.slow) for other in (
        ("convolution", np.float64), ("convolution and pooling", np.float32), ("convolution and pooling", np.float64))),
])  # fmt: skip
def test_convolutions_in_pieces_are_the_reference(net, dtype, monkeypatch):
    monkeypatch.setattr(lowering, "LARGE", 0)
    monkeypatch.setattr(lowering, "TILE", 2 * 4 * 9 * np.dtype(dtype).itemsize)  # one image, or two
    problem = Problem(net, dtype)
    f = tm.meta_value_and_grad(problem.loss, inner_lr=0.05, inner_steps=2)
    fast = tm.compile(f)
    for _ in range(2):
        agree(fast, f, problem.params(), problem.tasks())
    (runner,) = fast.runners.values()
    steps = [x for x in runner.layout.parts["query"].schedule.steps if isinstance(x, KernelCall)]
    assert any(x.numbers == [1] for x in steps if x.kernel == "matmul")


@pytest.mark.parametrize("count", [1, 5, 40])
def test_threads_and_runs_give_the_same_bits(count):
    problem = Problem("mlp")
    f = tm.meta_value_and_grad(problem.loss, inner_lr=0.05, inner_steps=2)
    one, two, three = (tm.compile(f, threads=n) for n in (1, 2, 3))
    params, tasks = problem.params(), problem.tasks(count)
    first = one(params, tasks)
    assert same_bits(two(params, tasks), first) and same_bits(three(params, tasks), first)
    agree(two, f, problem.params(), problem.tasks(count))
    assert all(same_bits(two(params, tasks), first) for _ in range(20))


def test_a_long_gradient_is_added_up_in_fewer_parts(monkeypatch):
    monkeypatch.setattr(runners, "SUMS", 1)
    problem = Problem("mlp")
    f = tm.meta_value_and_grad(problem.loss, inner_lr=0.05, inner_steps=2)
    one, three = (tm.compile(f, threads=n) for n in (1, 3))
    params = problem.params()
    for count in (20, 5, 20):  # the parts that are kept are of another number then
        tasks = problem.tasks(count)
        agree(one, f, params, tasks)
        assert same_bits(three(params, tasks), one(params, tasks))
        (runner,) = one.runners.values()
        assert {len(x) for x in runner.idle[0].sums} == {min(count, runners.FEWEST)}


def test_results_and_arguments_are_the_callers_own():
    problem = Problem("mlp")
    fast = tm.compile(tm.meta_value_and_grad(problem.loss, inner_lr=0.05, inner_steps=2))
    params, tasks = problem.params(), problem.tasks()
    given = [x.copy() for x in tree_leaves((params, tasks))]
    first = fast(params, tasks)
    kept = tree_map(np.array, first)
    second = fast(problem.params(), problem.tasks())
    assert same_bits(first, kept) and same_bits(given, tree_leaves((params, tasks)))
    assert type(first[0]) is np.ndarray and first[0].shape == ()
    for g, p in zip(tree_leaves(first[1]), tree_leaves(params), strict=True):
        assert g.flags.writeable and g.shape == p.shape and g.dtype == p.dtype
        assert not any(np.shares_memory(g, x) for x in tree_leaves((params, tasks, second)))


def test_an_unused_parameter_has_a_gradient_of_zeros():
    f = tm.meta_value_and_grad(lambda p, x, y: np.mean((x @ p["w"] - y) ** 2), inner_lr=0.1)
    params = {"unused": np.ones((2, 2)), "w": np.ones((3, 1)), "more": np.ones(1, np.float32)}
    rng = np.random.default_rng(0)
    tasks = tuple((rng.standard_normal((2, 4, 3)), rng.standard_normal((2, 4, 1))) for _ in range(2))
    _, grads = tm.compile(f)(params, tasks)
    wanted = f(params, tasks)[1]
    for name, g in wanted.items():
        np.testing.assert_allclose(grads[name], g, rtol=1e-13)
        assert grads[name].dtype == g.dtype


# ── errors are the reference's ──────────────────────────────────────────────────────────────────────────────────────


def spoiled(tasks, at, value):
    """The tasks with a value put at (support or query, inputs or labels, …)."""
    tasks = tree_map(np.array, tasks)
    tasks[at[0]][at[1]][at[2:]] = value
    return tasks


ERRORS = {
    "NaN in the support": ("mlp", lambda p, t: (p, spoiled(t, (0, 0, 1, 2), np.nan)), "support set of task 1"),
    "infinity in the query": ("mlp", lambda p, t: (p, spoiled(t, (1, 1, 2, 0), np.inf)), "query set of task 2"),
    "NaN in a parameter": ("mlp", lambda p, t: (tree_map(lambda x: x * np.nan, p), t), "params.*not finite"),
    "integer parameters": ("mlp", lambda p, t: (tree_map(lambda x: x.astype(int), p), t), "params.*int64"),
    "a label too large": ("mlp with norm", lambda p, t: (p, spoiled(t, (1, 1, 1, 0), 3)), "labels lie in"),
    "a negative label": ("mlp with norm", lambda p, t: (p, spoiled(t, (0, 1, 1, 0), -1)), "labels lie in -1"),
    "a word too many": ("embedding", lambda p, t: (p, spoiled(t, (0, 0, 2, 1, 1), 9)), "ids lie in"),
    "a negative word": ("embedding", lambda p, t: (p, spoiled(t, (1, 0, 2, 1, 1), -2)), "ids lie in -2"),
    "labels that are no integers": ("embedding", lambda p, t: (p, tree_map(np.float64, t)), "dtype float64"),
    "tasks that disagree": ("mlp", lambda p, t: (p, ((t[0][0][:2], t[0][1]), t[1])), "disagree on their number"),
    "no tasks": ("mlp", lambda p, t: (p, tree_map(lambda x: x[:0], t)), "no tasks"),
    "an empty list": ("mlp", lambda p, t: (p, []), "tasks must be|no tasks"),
    "an empty query": ("mlp", lambda p, t: (p, (t[0], tree_map(lambda x: x[:, :0], t[1]))), "query set .* is empty"),
    "not a pair": ("mlp", lambda p, t: (p, t[0]), "tasks must be"),
    "other shapes": ("mlp", lambda p, t: (p, ((t[0][0], t[0][1][:, :2]), t[1])), "mse"),
    "no parameters": ("mlp", lambda p, t: ({}, t), "params is {}"),
    "another nest": ("mlp", lambda p, t: ({"w": np.ones(3)}, t), "linear0"),
}  # fmt: skip


STACKED_ONLY = "tasks that disagree", "no tasks", "an empty list", "not a pair"


@pytest.fixture(scope="module")
def fast_ones():
    """(reference, compiled) by net, memory and backend."""
    made = {}

    def of(net, memory, backend):
        if (net, memory, backend) not in made:
            problem = Problem(net)
            f = tm.meta_value_and_grad(problem.loss, inner_lr=0.05, inner_steps=2, memory=memory)
            made[net, memory, backend] = f, tm.compile(f, backend=backend)
        return made[net, memory, backend]

    return of


@pytest.mark.parametrize(("memory", "backend"), [("unrolled", "replay"), ("unrolled", "numba"), ("flat", "numba")])
@pytest.mark.parametrize("what", ERRORS)
def test_bad_input_is_refused_as_by_the_reference(what, memory, backend, fast_ones):
    net, spoil, message = ERRORS[what]
    problem = Problem(net)
    params, tasks = problem.params(), problem.tasks()
    f, fast = fast_ones(net, memory, backend)
    bad = spoil(params, tasks)
    both = [bad] if what in STACKED_ONLY else [bad, (bad[0], unstacked(bad[1]))]
    for args in both:
        wanted = outcome(lambda args=args: f(*args))
        assert isinstance(wanted, str)
        assert outcome(lambda args=args: fast(*args)) == wanted  # before there is a program, or another shape
        fast(params, tasks)
        assert outcome(lambda args=args: fast(*args)) == wanted
    with pytest.raises(Exception, match=message):
        fast(*bad)
    agree(fast, f, params, tasks)  # and none the worse for it


def line(w, x, y):
    return np.mean((x @ w - y) ** 2)


@pytest.mark.parametrize("memory", ["unrolled", "flat"])
@pytest.mark.parametrize("backend", ["replay", "numba"])
def test_what_diverges_is_named_as_by_the_reference(backend, memory):
    rng = np.random.default_rng(0)
    tame, wild = (rng.standard_normal((3, 2)) * 0.1, np.ones(3)), (rng.standard_normal((3, 2)) * 1e20, np.ones(3))
    huge = np.full((3, 2), 1e200), np.ones(3)
    stacked = lambda *tasks: tree_map(lambda *x: np.stack(x), *tasks)  # noqa: E731
    w = np.ones(2)
    f = tm.meta_value_and_grad(line, inner_lr=1.0, inner_steps=8, memory=memory)
    fast = tm.compile(f, backend=backend)
    for tasks, message in (
        (((tame, tame), (wild, wild)), r"task 1, inner step \d+: the support loss is (inf|nan)"),
        (((wild, tame), (tame, tame)), r"task 0, inner step \d+: the support loss is (inf|nan)"),
        (((tame, tame), (tame, huge)), "task 1: the query loss is inf"),
    ):
        for args in (stacked(*tasks), list(tasks)):
            wanted = outcome(lambda args=args: f(w, args))
            assert outcome(lambda args=args: fast(w, args)) == wanted
            with pytest.raises(FloatingPointError, match=message):
                fast(w, args)
    agree(fast, f, w, stacked((tame, tame), (tame, tame)))


@pytest.mark.parametrize("memory", ["unrolled", "flat"])
@pytest.mark.parametrize("backend", ["replay", "numba"])
def test_a_support_loss_that_overflows_is_noticed_where_all_else_is_finite(backend, memory):
    f = tm.meta_value_and_grad(lambda w, x, y: np.sum((w * x - y) ** 2), inner_lr=0.5, memory=memory)
    ones, zeros = np.ones((1, 2), np.float32), np.zeros((1, 2), np.float32)
    tasks = ((ones, zeros), (ones, zeros))
    fast = tm.compile(f, backend=backend)
    fast(np.ones(2, np.float32), tasks)
    with pytest.raises(FloatingPointError, match="task 0, inner step 0: the support loss is inf"):
        fast(np.full(2, 1e20, np.float32), tasks)


def test_a_finite_loss_whose_slope_is_not_is_named():
    root = lambda w, x, y: np.sqrt(np.sum(w * x))  # noqa: E731
    f = tm.meta_value_and_grad(root, inner_lr=0.1, inner_steps=0)
    flat, none = np.array([[1.0, 0], [1, 0]]), np.zeros((2, 1))
    fast = tm.compile(f)
    fast(np.array([1.0, 0.0]), ((flat, none), (flat, none)))
    steep = flat.copy()
    steep[1] = [0, 1]
    with pytest.raises(FloatingPointError, match="task 1: the meta-gradient of params.*is not finite"):
        fast(np.array([1.0, 0.0]), ((steep, none), (steep, none)))


# ── memory that is flat ─────────────────────────────────────────────────────────────────────────────────────────────


def test_the_memory_of_machine_code_is_flat_but_for_a_few_times_the_parameters():
    problem = Problem("mlp")
    nbytes = {}
    for steps in (1, 16):
        f = tm.meta_value_and_grad(problem.loss, inner_lr=0.01, inner_steps=steps, memory="flat")
        fast = tm.compile(f)
        agree(fast, f, problem.params(), problem.tasks())
        (runner,) = fast.runners.values()
        nbytes[steps] = runner.layout.nbytes
    theta = sum(-(-x.nbytes // 64) * 64 for x in tree_leaves(problem.params()))
    assert nbytes[16] - nbytes[1] == 4 * theta


@pytest.mark.slow
def test_two_hundred_steps_are_the_same_flat_and_unrolled():
    problem = Problem("mlp")
    params, tasks = problem.params(), problem.tasks()
    flat, unrolled = (tm.meta_value_and_grad(problem.loss, inner_lr=0.01, inner_steps=200, memory=m)
                      for m in ("flat", "unrolled"))  # fmt: skip
    wanted = unrolled(params, tasks)
    scale = meta_scales(unrolled, params, tasks)
    assert units(flat(params, tasks), wanted, scale) <= UNITS
    assert units(tm.compile(flat)(params, tasks), wanted, scale) <= UNITS


# ── in processes of their own: what is not installed ────────────────────────────────────────────────────────────────

PROGRAM = """
import os, sys
import numpy as np, tinymaml as tm

def loss(w, x, y):
    return np.mean((np.tanh(x @ w) - y) ** 2)

rng = np.random.default_rng(0)
draw = lambda *shape: rng.standard_normal(shape)
args = draw(3, 2), ((draw(4, 5, 3), draw(4, 5, 2)), (draw(4, 4, 3), draw(4, 4, 2)))
fast = tm.compile(tm.meta_value_and_grad(loss, inner_lr=0.1, inner_steps=2))
"""
RUN = """
value, grads = fast(*args)
print(type(*fast.runners.values()).__name__, value.tobytes().hex(), grads.tobytes().hex())
"""


def start(folder, program=RUN) -> subprocess.Popen:
    return python(folder, PROGRAM + program)


def python(folder, source: str, warn="error", **env) -> subprocess.Popen:
    env = os.environ | {"TINYMAML_CACHE": str(folder), "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)} | env
    return subprocess.Popen([sys.executable, "-W", warn, "-c", source], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, encoding="utf-8", env=env)  # fmt: skip


def result(process: subprocess.Popen) -> str:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out.strip()


def test_importing_and_the_reference_need_neither_numba_nor_scipy():
    code = """
import sys, numpy as np, tinymaml as tm
f = tm.meta_value_and_grad(lambda w, x, y: np.mean((x @ w - y) ** 2), inner_lr=0.1)
task = (np.ones((2, 3, 1)), np.ones((2, 3)))
f(np.ones(1), (task, task)); tm.compile(f); print(tm.record(f, np.ones(1), (task, task)))
print("loaded", [name for name in ("numba", "scipy", "threadpoolctl") if name in sys.modules])
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True).stdout
    assert out.strip().endswith("loaded []")


@pytest.mark.parametrize("missing", ["numba", "scipy", "threadpoolctl"])
def test_without_a_library_it_is_replayed_and_says_what_to_install(tmp_path, missing):
    program = f"""
import warnings
sys.modules[{missing!r}] = None
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    value, grads = fast(*args)
print(type(*fast.runners.values()).__name__, np.isfinite(value), said[0].message)
"""
    out = result(start(tmp_path, program))
    assert out.startswith("Replay True") and "pip install" in out and "tinymaml[fast]" in out


def test_a_compiled_call_is_machine_code():
    """bench/ measures how much faster that is."""
    problem = Problem("mlp")
    fast, params = tm.compile(tm.meta_value_and_grad(problem.loss, inner_lr=0.05, inner_steps=2)), problem.params()
    for _ in range(2):  # the second call is the program alone
        fast(params, problem.tasks(20))
    assert [type(runner) for runner in fast.runners.values()] == [compiled.Machine]


def test_the_page_in_the_docstring_is_what_is_printed():
    page = re.sub(" +", " ", sys.modules["tinymaml.programs.compiled"].__doc__)
    f, w, x = tm.grad(lambda w, x: np.sum(np.tanh(x @ w) ** 2)), np.ones((3, 2)), np.ones((4, 3))
    fast = tm.compile(f)
    fast(w, x)
    (runner,) = fast.runners.values()
    left, right = tm.record(f, w, x), runner.task.parts["query"].program
    loop = runner.source[runner.source.index("@loop") : runner.source.index("@cfunc")]
    lines = [*str(left).splitlines()[1:-1], *str(right).splitlines()[1:-1], *loop.strip().splitlines()]
    assert len(lines) == 12 + 10 + 8
    for line in lines:
        assert re.sub(" +", " ", line.strip()) in page
