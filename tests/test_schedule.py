"""Random programs: schedule and generated source say what the equations say.

Thousands of loops would take Numba minutes, so most examples run the generated source as what it is, Python, step by
step, on pointers that refuse to leave their arrays; memory that nothing has written to yet holds NaN. A few examples go
through Numba, on whose pointers all this would be silent.
"""

import bisect
import contextlib
import ctypes
import itertools
import math
import operator
import types
import warnings

import numpy as np
import pytest
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st

import tinymaml as tm
from tinymaml import ops
from tinymaml.nest import tree_leaves
from tinymaml.programs import record
from tinymaml.programs.program import Var

pytest.importorskip("numba")
from tinymaml import blas  # noqa: E402
from tinymaml.programs import compiled, loop, lowering, machine, runners, threads  # noqa: E402
from tinymaml.programs.fusion import KernelCall  # noqa: E402
from tinymaml.programs.passes import simplify  # noqa: E402
from tinymaml.programs.placement import lay_out  # noqa: E402
from tinymaml.programs.task import whole  # noqa: E402
from tinymaml.programs.views import Unsupported  # noqa: E402

# ── how far apart two ways to compute one program may be ────────────────────────────────────────────────────────────


def scales(program, arrays) -> list[float]:
    """For each output, the largest number that is rounded on the way to it.

    A sum is as exact as its summands are small: Σ x is off by ε Σ |x|, a matrix product by ε |A| |B|, however small the
    result. So the scale of an equation is that of its summands, and an output's the largest among all it depends on.
    """
    values = dict(zip(program.inputs, arrays, strict=True))
    largest = lambda x: float(np.max(np.abs(x), initial=0)) if np.asarray(x).dtype.kind == "f" else 0.0  # noqa: E731
    scale = {x: largest(values[x]) for x in program.inputs}
    for e in program.equations:
        inputs = [values[x] if isinstance(x, Var) else x for x in e.inputs]
        values[e.output] = e.primitive.forward(*inputs, **e.params)
        own = largest(values[e.output])
        if e.primitive.name in ("add", "subtract"):
            own = largest(1.0 * np.abs(inputs[0]) + np.abs(inputs[1]))
        elif e.primitive.name in ("sum", "matmul", "scatter_add", "unpatches", "cumsum"):
            sizes = [np.abs(x) if np.asarray(x).dtype.kind == "f" else x for x in inputs]
            own = largest(e.primitive.forward(*sizes, **e.params))
        scale[e.output] = max(own, *(scale[x] for x in e.inputs if isinstance(x, Var)), 0.0)
    return [scale[x] if isinstance(x, Var) else 0.0 for x in program.outputs]


def units(ours, wanted, scale: list[float]) -> float:
    """The largest distance of two results, in ε of their dtype times their scale; shapes and dtypes are the same."""
    worst = 0.0
    for a, b, s in zip(tree_leaves(ours), tree_leaves(wanted), scale, strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        if a.dtype.kind != "f":
            np.testing.assert_array_equal(a, b)
            continue
        np.testing.assert_array_equal(np.isfinite(a), np.isfinite(b))
        np.testing.assert_array_equal(a[~np.isfinite(a)], b[~np.isfinite(b)])
        finite = np.isfinite(a)
        distance = np.max(np.abs(a[finite].astype(float) - b[finite]), initial=0)
        worst = max(worst, distance / (np.finfo(a.dtype).eps * max(s, np.max(np.abs(b[finite]), initial=1e-30))))
    return worst


# ── a machine in Python ─────────────────────────────────────────────────────────────────────────────────────────────

C_TYPES = {"f4": ctypes.c_float, "f8": ctypes.c_double, "i8": ctypes.c_int64, "i4": ctypes.c_int32,
           "i2": ctypes.c_int16, "i1": ctypes.c_int8, "u1": ctypes.c_uint8, "u2": ctypes.c_uint16,
           "u4": ctypes.c_uint32, "u8": ctypes.c_uint64, "b1": ctypes.c_uint8}  # fmt: skip
SCALARS = {"f4": np.float32, "f8": np.float64} | {
    kind: lambda x, c=c: c(int(x)).value for kind, c in C_TYPES.items() if kind[0] != "f"
}
# Python's raise where C's give infinity or NaN
MATH = types.SimpleNamespace(
    exp=np.exp, expm1=np.expm1, log=np.log, log1p=np.log1p, log10=np.log10, sqrt=np.sqrt, hypot=np.hypot,
    sin=np.sin, cos=np.cos, tan=np.tan, sinh=np.sinh, cosh=np.cosh, tanh=np.tanh, atan=np.arctan,
    floor=np.floor, ceil=np.ceil, trunc=np.trunc, inf=math.inf, nan=math.nan, asin=np.arcsin, acos=np.arccos,
    asinh=np.arcsinh, acosh=np.arccosh, atanh=np.arctanh, atan2=np.arctan2, copysign=np.copysign, erf=math.erf,
    erfc=math.erfc, lgamma=math.lgamma,
)  # fmt: skip


class PlainMachine:
    """The intrinsics of `machine` in Python: addresses are real, and every access is inside an array that is known."""

    def __init__(self):
        self.starts: list[int] = []
        self.ranges: list[tuple[int, int]] = []
        self.near = 0, 0  # the range of the access before
        self.held: list = []
        self.functions: list = []
        self.arenas = [threads.Arena()]

    def address(self, x: np.ndarray) -> int:
        start = x.__array_interface__["data"][0]
        at = bisect.bisect(self.starts, start)
        self.starts.insert(at, start)
        self.ranges.insert(at, (start, start + x.nbytes))
        self.held.append(x)
        return start

    def check(self, address: int, nbytes: int) -> int:
        address = int(address)
        if not self.near[0] <= address <= self.near[1] - nbytes:
            i = bisect.bisect(self.starts, address)
            near = self.ranges[max(i - 2, 0) : i]
            inside = [(start, end) for start, end in near if start <= address <= end - nbytes]
            assert inside
            self.near = inside[0]
        return address

    def at(self, kind: str):
        return lambda address: Pointer(self, address, kind)

    def pointer(self, kind: str):
        return lambda memory, t, j: Pointer(self, memory + t[j], kind)

    def copy(self, target, source, nbytes):
        ctypes.memmove(self.check(target, nbytes), self.check(source, nbytes), nbytes)

    def zero(self, target, nbytes):
        ctypes.memset(self.check(target, nbytes), 0, nbytes)

    def invoke(self, function, op, memory, step):
        return self.functions[function - 1](op, memory, step)  # 0 is END

    def gemm(self, kind: str):
        def matrix(address, rows, columns, stride):
            assert stride >= max(columns, 1)  # or BLAS refuses
            start = self.check(address, ((rows - 1) * stride + columns) * item)
            flat = np.frombuffer((ctypes.c_char * (((rows - 1) * stride + columns) * item)).from_address(start), kind)
            return np.lib.stride_tricks.as_strided(flat, (rows, columns), (stride * item, item))

        item = np.dtype(kind).itemsize

        def gemm(memory, t):
            places, (of_a, of_b), (m, n, k), (lda, ldb, ldc) = ([t[j] for j in js] for js in (
                range(4, 7), range(7, 9), range(9, 12), range(12, 15)))  # fmt: skip
            for i in range(t[15]):
                a, b, c = (memory + x + i * t[16 + j] for j, x in enumerate(places))
                a = matrix(a, m, k, lda) if of_a == ord("N") else matrix(a, k, m, lda).T
                b = matrix(b, k, n, ldb) if of_b == ord("N") else matrix(b, n, k, ldb).T
                c = matrix(c, m, n, ldc)
                c[:] = a @ b + (c if t[19] else 0)

        return gemm

    def loop(self, form: str):
        """`loop.loop`, element by element."""
        axes, operands = form.split(": ")
        inputs, results = (part.split() for part in operands.split("> "))

        def decorate(body):
            def run(memory, t):
                numbers = itertools.count(3)
                sizes = [t[next(numbers)] for _ in range(int(axes))]
                assert all(n >= 1 for n in sizes)
                cells = [self.operand(x, memory, t, numbers, sizes) for x in (*inputs, *results)]
                loads = [load for load, _ in cells[: len(inputs)]]
                for indices in np.ndindex(*sizes):
                    made = body(*[load(indices) for load in loads])
                    made = made if len(results) > 1 else (made,)
                    for x, (load, store), y in zip(results, cells[len(inputs) :], made, strict=True):
                        store(indices, y if len(x) == 2 else load(indices) + SCALARS[x[:2]](y))

            return run

        return decorate

    def operand(self, form: str, memory, t, numbers, sizes: list[int]):
        """Two functions: from indices to the element, and from indices and a number that becomes it."""
        kind, how = form[:2], form[2:]
        if how == "=":
            value = SCALARS[kind](self.at("f8")(t.address)[next(numbers)])
            return (lambda indices: value), None
        start, item = int(memory + t[next(numbers)]), ctypes.sizeof(C_TYPES[kind])
        strides = [t[next(numbers)] for _ in sizes[1:]]
        strides.append(item * (t[next(numbers)] if how == "*" else 0 if how == "." else 1))
        ends = [(n - 1) * stride for n, stride in zip(sizes, strides, strict=True)]
        low, nbytes = start + sum(min(x, 0) for x in ends), sum(map(abs, ends)) + item
        place = (ctypes.c_char * nbytes).from_address(self.check(low, nbytes))  # of the first and the last, and so all
        cells = np.ndarray(sizes, kind.replace("b", "u"), place, start - low, strides)
        if kind[0] == "f":
            return cells.__getitem__, cells.__setitem__
        wrapped = SCALARS[kind]
        return (lambda indices: cells[indices].item()), lambda indices, y: cells.__setitem__(indices, wrapped(y))

    def load(self, text: str):
        """The generated file, run as Python."""
        lines = [line for line in text.split("\n") if not line.startswith(("from numba", "import math", "@cfunc"))]
        space = SCALARS | {"math": MATH}
        exec("\n".join(line.removeprefix("from __future__ import annotations") for line in lines), space)
        pages = {name: f for name, f in space.items() if name.startswith("page")}
        before = len(self.functions)
        self.functions += [pages[f"page{i}"] for i in range(len(pages))]
        return types.SimpleNamespace(address=lambda page: before + page + 1)

    # what `threads.Crew` is to a `Machine`, without helpers

    def crew(self):
        return self

    def wake(self, helpers):
        pass

    def run(self, job, nbytes, threads_, seconds, refers_to) -> bool:
        slot, board = np.zeros(threads.LINE, np.int64), np.zeros(threads.LINE, np.int64)
        self.arenas[0].grow(nbytes)
        self.address(self.arenas[0].memory)
        slot[threads.JOB], slot[threads.BOARD], slot[threads.BUDGET] = self.address(job), self.address(board), 1
        slot[threads.OFFER] = (1 << 24) + (int(job[threads.CHUNKS]) << 8)
        place, arena, first = self.address(slot), self.address(self.arenas[0].numbers), True
        while machine.work(place, arena, first):
            first = False
        assert slot[threads.DONE] == job[threads.CHUNKS]
        return bool(slot[threads.FAILED])

    def word(self, address):
        return self.at("i8")(address)[0]

    def changed(self, operation):
        def change(address, *operands):
            pointer = self.at("i8")(address)
            old = pointer[0]
            pointer[0] = operation(old, *operands)
            return old

        return change


class Pointer:
    """Numbers of one kind from an address on."""

    def __init__(self, machine: PlainMachine, address, kind: str):
        self.machine, self.address, self.kind = machine, int(address), kind
        self.type, self.scalar = C_TYPES[kind], SCALARS[kind]
        self.size = ctypes.sizeof(self.type)

    def cell(self, i):
        return self.type.from_address(self.machine.check(self.address + int(i) * self.size, self.size))

    def __getitem__(self, i):
        return self.scalar(self.cell(i).value)

    def __setitem__(self, i, x):
        self.cell(i).value = float(x) if self.kind[0] == "f" else int(x)


@contextlib.contextmanager
def plain_python():
    """`compile` with all that is below the generated source in Python."""
    plain = PlainMachine()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runners, "address_of", plain.address)
        patch.setattr(runners, "load", plain.load)
        patch.setattr(blas, "gemm", lambda code: 0)
        patch.setattr(runners, "crew", plain.crew)
        patch.setattr(machine, "word", plain.word)
        patch.setattr(machine, "replaced", lambda address, old, new: plain.changed(lambda was: new)(address) == old)
        for name, operation in (("added", operator.add), ("united", operator.or_), ("exchanged", lambda x, y: y)):
            patch.setattr(machine, name, plain.changed(operation))
        for name in ("copy", "zero", "invoke"):
            patch.setattr(machine, name, getattr(plain, name))
        patch.setattr(machine, "step_at", plain.at("i8"))
        patch.setattr(loop, "loop", plain.loop)
        patch.setattr(loop, "larger", lambda x, y: x if x > y or x != x else y)
        patch.setattr(loop, "smaller", lambda x, y: x if x < y or x != x else y)
        patch.setattr(loop, "sign", lambda x: type(x)(np.sign(x)))
        patch.setattr(loop, "above", lambda x, y, tie: type(tie)(x > y) if x != y else tie)
        patch.setattr(loop, "choose", lambda condition, x, y: x if condition else y)
        patch.setattr(machine, "math", MATH)
        patch.setattr(machine, "exp2", np.exp2)
        patch.setattr(machine, "log2", np.log2)
        for kind in C_TYPES:
            patch.setattr(machine, f"p_{kind}", plain.pointer(kind))
        for kind in ("f4", "f8"):
            patch.setattr(machine, f"{kind}_at", plain.at(kind))
            patch.setattr(machine, f"gemm_{kind}", plain.gemm(kind))
        yield plain


@contextlib.contextmanager
def spoiled_memory():
    """Before a `Machine` runs there is NaN, or −1, in all of its memory."""
    run = compiled.Machine.run

    def spoil_and_run(self, *args):
        for arena in runners.crew().arenas:
            if arena.numbers[threads.SIZE]:
                arena.memory[:] = 255
                arena.numbers[threads.HOLDS] = 0
        return run(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled.Machine, "run", spoil_and_run)
        yield


# ── random programs ─────────────────────────────────────────────────────────────────────────────────────────────────

UNARY = [
    np.tanh, np.sin, np.cos, np.arctan, np.negative, np.square, np.abs, np.sign, np.floor,
    lambda x: np.exp(np.tanh(x)), lambda x: np.log(1.5 + np.sin(x)), lambda x: np.sqrt(x * x + 0.5), np.expm1,
    lambda x: np.log1p(x * x), lambda x: x**3, lambda x: 1 / (2 + np.cos(x)), lambda x: np.logaddexp(x, 0),
    lambda x: x / 4, lambda x: 3 * x, lambda x: x - 0.25, lambda x: 0.75 - x, lambda x: np.maximum(x, 0.31),
    lambda x: np.minimum(0.17, x), lambda x: np.clip(x, -0.73, 0.37), lambda x: x * 1.0 + 0, lambda x: x.copy(),
    lambda x: np.where(np.isfinite(x), x, 0.5), lambda x: tm.nn.relu(x + 0.11),
]  # fmt: skip
BINARY = [
    np.add, np.subtract, np.multiply, np.maximum, np.minimum, np.logaddexp, lambda x, y: x / (1.5 + np.cos(y)),
    lambda x, y: np.sqrt(x * x + 0.1) ** np.tanh(y), lambda x, y: x * y + x, lambda x, y: np.arctan(x - 2 * y),
]  # fmt: skip


class Recipe:
    """A random function: steps over a list of values, which begins with the inputs."""

    def __init__(self, arrays: list):
        self.arrays, self.steps, self.outputs = arrays, [], []
        self.pool = list(arrays)

    def add(self, step) -> bool:
        """Take the step, if what comes of it is small."""
        with np.errstate(all="ignore"):
            value = step(self.pool)
        if value.size > 96 or value.ndim > 4 or not np.all(np.abs(value) < 200):
            return False
        self.steps.append(step)
        self.pool.append(np.asarray(value))
        return True

    def __call__(self, *inputs):
        pool = list(inputs)
        for step in self.steps:
            pool.append(step(pool))
        return [pool[i] for i in self.outputs]


def draw_unary(draw, recipe, i):
    f = draw(st.sampled_from(UNARY))
    return lambda pool: f(pool[i])


def draw_binary(draw, recipe, i):
    f, x = draw(st.sampled_from(BINARY)), recipe.pool[i]
    fitting = [j for j, y in enumerate(recipe.pool) if y.dtype == x.dtype and _broadcast(x.shape, y.shape)]
    j = draw(st.sampled_from(fitting))
    return (lambda pool: f(pool[i], pool[j])) if draw(st.booleans()) else (lambda pool: f(pool[j], pool[i]))


def draw_constant(draw, recipe, i):
    x = recipe.pool[i]
    shape = tuple(draw(st.sampled_from([1, n])) for n in x.shape[draw(st.integers(0, x.ndim)) :])
    c = np.random.default_rng(draw(st.integers(0, 9))).uniform(0.5, 1.5, shape).astype(x.dtype)
    c = draw(st.sampled_from([c, np.ones_like(c), np.zeros_like(c)]))
    f = draw(st.sampled_from([np.add, np.multiply, np.maximum]))
    return lambda pool: f(pool[i], c)


def draw_where(draw, recipe, i):
    # the choice is made on an input and a number, which no rounding moves
    x = recipe.pool[i]
    fitting = [j for j in range(len(recipe.arrays)) if recipe.arrays[j].dtype == x.dtype
               and _broadcast(x.shape, recipe.arrays[j].shape)]  # fmt: skip
    if not fitting:
        return None
    j, at = draw(st.sampled_from(fitting)), draw(st.sampled_from([-0.5, 0, 0.5]))
    f = draw(st.sampled_from([np.less, np.greater, np.less_equal, np.greater_equal, np.not_equal]))
    other = draw(st.sampled_from([0.0, None]))
    return lambda pool: np.where(f(pool[j], at), pool[i], pool[j] if other is None else other)


def draw_reshape(draw, recipe, i):
    x = recipe.pool[i]
    shapes = [(-1,), (1, -1), (-1, 1), (2, -1), (-1, 2), (3, -1), (-1, 3), (1, 2, -1), (-1, 1, 2), (2, 2, -1)]
    shape = draw(st.sampled_from([s for s in shapes if x.size % -math.prod(s) == 0]))
    return lambda pool: np.reshape(pool[i], shape)


def draw_transpose(draw, recipe, i):
    axes = draw(st.permutations(range(recipe.pool[i].ndim)))
    return lambda pool: np.transpose(pool[i], axes)


def draw_slice(draw, recipe, i):
    index = []
    for n in recipe.pool[i].shape:
        kind = draw(st.integers(0, 5))
        if kind == 0:
            index.append(draw(st.integers(-n, n - 1)))
        elif kind == 1:
            index.append(slice(None, None, draw(st.sampled_from([-1, 2, -2]))))
        elif kind == 2:
            start = draw(st.integers(0, n - 1))
            index.append(slice(start, draw(st.integers(start + 1, n))))
        else:
            index.append(slice(None))
        if draw(st.integers(0, 7)) == 0:
            index.append(None)
    return lambda pool: pool[i][tuple(index)]


def draw_reduction(draw, recipe, i):
    x = recipe.pool[i]
    axes = tuple(a for a in range(x.ndim) if draw(st.booleans()))
    keepdims = draw(st.booleans())
    f = draw(st.sampled_from([np.sum, np.sum, np.mean, np.max, np.min]))
    if f in (np.max, np.min) and (not axes or axes != tuple(range(axes[0], axes[-1] + 1))):
        f = np.sum
    return lambda pool: f(pool[i], axes, keepdims=keepdims)


def draw_broadcast(draw, recipe, i):
    x = recipe.pool[i]
    shape = tuple(draw(st.integers(1, 3)) for _ in range(draw(st.integers(0, 2))))
    shape += tuple(draw(st.integers(1, 3)) if n == 1 else n for n in x.shape)
    return lambda pool: np.broadcast_to(pool[i], shape)


def draw_matmul(draw, recipe, i):
    x = recipe.pool[i]
    pairs = [j for j, y in enumerate(recipe.pool) if x.ndim and y.ndim and y.dtype == x.dtype
             and y.shape[max(y.ndim - 2, 0)] == x.shape[-1] and _broadcast(x.shape[:-2], y.shape[:-2])]  # fmt: skip
    if pairs and draw(st.booleans()):
        j = draw(st.sampled_from(pairs))
        return lambda pool: pool[i] @ pool[j]
    if x.ndim < 2:
        return None
    if draw(st.booleans()):
        return lambda pool: pool[i] @ np.swapaxes(pool[i], -1, -2)
    return lambda pool: np.swapaxes(pool[i], -1, -2) @ pool[i]


def draw_concatenate(draw, recipe, i):
    x = recipe.pool[i]
    if not x.ndim:
        return lambda pool: np.stack([pool[i], pool[i] * 2])
    axis = draw(st.integers(0, x.ndim - 1))
    rest = lambda y: y.shape[:axis] + y.shape[axis + 1 :]  # noqa: E731
    fitting = [j for j, y in enumerate(recipe.pool) if y.ndim == x.ndim and rest(y) == rest(x) and y.dtype == x.dtype]
    parts = [i, *(draw(st.sampled_from(fitting)) for _ in range(draw(st.integers(0, 2))))]
    return lambda pool: np.concatenate([pool[j] for j in parts], axis)


def draw_gather(draw, recipe, i):
    x = recipe.pool[i]
    if not x.ndim:
        return None
    axis = draw(st.integers(0, x.ndim - 1))
    shape = tuple(draw(st.lists(st.integers(1, 3), max_size=2)))
    rows = np.random.default_rng(draw(st.integers(0, 9))).integers(0, x.shape[axis], shape)
    inputs = [j for j, k in enumerate(recipe.arrays) if k.dtype.kind == "i" and np.max(k) < x.shape[axis]]
    if inputs and draw(st.booleans()):
        j = draw(st.sampled_from(inputs))
        return lambda pool: pool[i][(slice(None),) * axis + (pool[j],)]
    return lambda pool: pool[i][(slice(None),) * axis + (rows,)]


def _broadcast(x: tuple, y: tuple) -> bool:
    return all(n == m or 1 in (n, m) for n, m in zip(x[::-1], y[::-1], strict=False))


KINDS = [draw_unary, draw_unary, draw_binary, draw_binary, draw_constant, draw_where, draw_reshape, draw_transpose,
         draw_slice, draw_reduction, draw_reduction, draw_broadcast, draw_matmul, draw_concatenate,
         draw_gather]  # fmt: skip


@st.composite
def recipes(draw, most=14):
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    dtype = draw(st.sampled_from([np.float64, np.float64, np.float32]))
    shape = st.lists(st.integers(1, 4), max_size=3)
    arrays = [rng.uniform(-1, 1, draw(shape)).astype(dtype) for _ in range(draw(st.integers(2, 3)))]
    if draw(st.booleans()):
        arrays.append(rng.integers(0, 2, draw(shape)))
    recipe = Recipe(arrays)
    for _ in range(draw(st.integers(2, most))):
        floats = [i for i, x in enumerate(recipe.pool) if x.dtype.kind == "f"]
        i = floats[-1 - draw(st.integers(0, min(4, len(floats) - 1)))]
        step = draw(st.sampled_from(KINDS))(draw, recipe, i)
        if step:
            recipe.add(step)
    made = range(len(arrays), len(recipe.pool))
    assume(made)
    recipe.outputs = [made[-1], *(i for i in made[:-1] if draw(st.integers(0, 3)) == 0)]
    return recipe


def with_gradient(recipe):
    """The results and the gradient of their mean squares in all floating-point inputs: scatters, broadcasts, sums."""
    wanted = tuple(i for i, x in enumerate(recipe.arrays) if x.dtype.kind == "f")

    def both(*inputs):
        loss = lambda *xs: sum(np.mean(y * y) for y in recipe(*xs))  # noqa: E731
        return recipe(*inputs), tm.grad(loss, wanted)(*inputs)

    return both


def others(arrays):
    return [np.flip(x).copy() for x in arrays]


def examine(f, arrays) -> None:
    """The compiled f is the recorded f, on other inputs than those it was recorded with."""
    program = record(f, *arrays)
    fast = tm.compile(f)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        fast(*arrays)
    (runner,) = fast.runners.values()
    if not isinstance(runner, compiled.Machine):
        assert any(x in str(w.message) for w in said for x in UNSUPPORTED), [str(w.message) for w in said]
        return
    for inputs in (arrays, others(arrays)):
        wanted = program(*inputs)
        if not all(np.isfinite(x).all() for x in tree_leaves(wanted) if np.asarray(x).dtype.kind == "f"):
            continue
        # without a look at the fall-back, which would always be right
        results, _, failed = runner.run([], [x[None] for x in inputs], 1)
        assert not failed
        ours = compiled._nested(runner.task, results, 0)
        assert units(ours, wanted, scales(program, inputs)) < UNITS


UNSUPPORTED = ("broadcasts over several axes",)
UNITS = 100  # a dozen steps, each of which doubles what it is given at most a few times


@settings(max_examples=120)
@given(recipes(), st.booleans())
def test_random_programs_in_python(recipe, gradient):
    f = with_gradient(recipe) if gradient else recipe
    with plain_python(), spoiled_memory(), np.errstate(all="ignore"):
        examine(f, recipe.arrays)


@pytest.mark.parametrize("rows", [1, 3])
def test_products_of_few_rows_in_pieces(rows, monkeypatch):
    monkeypatch.setattr(lowering, "SMALL", 16)
    monkeypatch.setattr(lowering, "FEW", 3)
    arrays = np.random.default_rng(0).standard_normal((rows, 7)), np.random.default_rng(1).standard_normal((7, 4))
    f = lambda x, w: np.tanh(x @ w) @ (w.T @ np.ones((7, 1)))  # noqa: E731
    everything = lambda x, w: (f(x, w), tm.grad(lambda x, w: np.sum(f(x, w)), (0, 1))(x, w))  # noqa: E731
    plan = lay_out(whole(everything, arrays)).parts["query"].schedule
    assert any(isinstance(x, KernelCall) and x.kernel == "matmul" and x.numbers == [1] for x in plan.steps)
    with plain_python(), spoiled_memory():
        examine(everything, arrays)


WINDOWS = dict(size=(3, 3), stride=1, padding=((1, 1), (1, 1)))
CONVOLUTIONS = {
    "one": lambda x, w: tm.nn.conv2d(x, w),
    "of stride 2": lambda x, w: tm.nn.conv2d(x, w, stride=2) ** 2,
    "two": lambda x, w: tm.nn.conv2d(np.tanh(tm.nn.conv2d(x, w[..., :3])), w),
    "one, and the patches": lambda x, w: [ops.patches(x, **WINDOWS), tm.nn.conv2d(x, w)],
    "two patches a row": lambda x, w: np.reshape(ops.patches(x, **WINDOWS), (30, 54)) @ np.reshape(w, (54, 2)),
    "two patches a row, to images": lambda x, w: ops.unpatches(
        np.reshape(np.reshape(x[..., :1], (30, 2)) @ np.reshape(w, (2, 54)), (5, 4, 3, 27)), shape=x.shape, **WINDOWS),
}  # fmt: skip


@pytest.mark.parametrize("tile", [1, 700, 1 << 20])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_products_of_patches_in_pieces(name, tile, monkeypatch):
    """Values, gradients and gradients of gradients, of pieces of one image or several, and of a last one with fewer."""
    monkeypatch.setattr(lowering, "LARGE", 0)
    monkeypatch.setattr(lowering, "TILE", tile)
    rng = np.random.default_rng(0)
    arrays = rng.standard_normal((5, 4, 3, 3)), rng.standard_normal((3, 3, 3, 4)), rng.standard_normal((3, 3, 3, 4))
    f = CONVOLUTIONS[name]
    loss = lambda x, w: sum(np.sum(np.sin(y)) for y in tree_leaves(f(x, w)))  # noqa: E731

    def everything(x, w, v):
        slope = lambda x, w: np.sum(v * tm.grad(loss, 1)(x, w))  # noqa: E731
        return f(x, w), tm.grad(loss, (0, 1))(x, w), tm.grad(slope, (0, 1))(x, w)

    plan = lay_out(whole(everything, arrays)).parts["query"].schedule
    pieces = [x for x in plan.steps if isinstance(x, KernelCall) and x.kernel == "matmul" and x.numbers]
    if "patches" not in name:  # which are all there then
        assert {tuple(x.numbers) for x in pieces} == ({(0,), (1,)} if tile < 1 << 20 else {(0,)})
    with plain_python(), spoiled_memory():
        examine(everything, arrays)


@settings(max_examples=120)
@given(recipes(), st.booleans())
def test_random_programs_are_the_same_when_simplified(recipe, gradient):
    f = with_gradient(recipe) if gradient else recipe
    with np.errstate(all="ignore"):
        program = record(f, *recipe.arrays)
        small = simplify(program)
        for inputs in (recipe.arrays, others(recipe.arrays)):
            wanted = program(*inputs)
            if all(np.isfinite(x).all() for x in tree_leaves(wanted) if np.asarray(x).dtype.kind == "f"):
                assert units(small(*inputs), wanted, scales(program, inputs)) < UNITS


@settings(max_examples=2, phases=[Phase.generate])
@given(st.lists(recipes(), min_size=10, max_size=10))
def test_random_programs_in_machine_code(several):
    """Ten programs are compiled as one."""
    several = [recipe for recipe in several if compiles(recipe)]

    def f(*groups):
        return [with_gradient(recipe)(*inputs) for recipe, inputs in zip(several, groups, strict=True)]

    arrays = [recipe.arrays for recipe in several]
    with np.errstate(all="ignore"):
        program, fast = record(f, *arrays), tm.compile(f)
        for inputs in (arrays, [others(x) for x in arrays]):
            wanted = program(*inputs)
            assert units(fast(*inputs), wanted, scales(program, tree_leaves(inputs))) < UNITS
    (runner,) = fast.runners.values()
    assert isinstance(runner, compiled.Machine) and len(several) > 5


def compiles(recipe) -> bool:
    """Whether there is machine code for it, and for all it is tried on the numbers are finite."""
    f = with_gradient(recipe)
    with np.errstate(all="ignore"):
        program = record(f, *recipe.arrays)
        for inputs in (recipe.arrays, others(recipe.arrays)):
            if not all(np.isfinite(x).all() for x in tree_leaves(program(*inputs)) if np.asarray(x).dtype.kind == "f"):
                return False
        try:
            lay_out(whole(f, recipe.arrays))
        except Unsupported:
            return False
    return True


ROW = {n: np.linspace(0.5, 1.5, n) for n in (2, 3, 4, 6, 12)}
DIRECTED = {
    "ranges that do not nest": lambda x: (x.reshape(3, 4) + ROW[4]).reshape(2, 6) * ROW[6],
    "ranges that nest": lambda x: (x.reshape(6, 2) + ROW[2]).reshape(3, 4) * ROW[4],
    "a turned range": lambda x: (x.reshape(3, 4) * 2).T.reshape(2, 6) + x.reshape(2, 6),
    "an argument, twice, and turned": lambda x: [x, x, x.reshape(3, 4).T, x + 1, x],
    "a result twice": lambda x: [x * 2, x * 2, (x * 2).reshape(4, 3).T, np.sum(x * 2)],
    "a sum, and what it is a sum of": lambda x: (lambda y: y / (2 + np.cos(np.sum(y, 0))))(np.sin(x).reshape(3, 4)),
    "a sum of a sum": lambda x: np.sum(np.sum(x.reshape(3, 4) ** 2, 0) * np.sum(x.reshape(3, 4), 1, keepdims=True), 0),
    "statistics of columns": lambda x: tm.nn.batch_norm(x.reshape(4, 3), ROW[3], ROW[3] - 1),
    "statistics of rows": lambda x: tm.nn.batch_norm(x.reshape(4, 3).T, ROW[4], ROW[4] - 1),
    "a convolution and its pooling": lambda x: tm.nn.max_pool2d(tm.nn.relu(tm.nn.conv2d(
        np.tile(x.reshape(1, 3, 4, 1), (1, 2, 1, 1)), np.reshape(np.tile(ROW[12], 3), (3, 3, 1, 4)) - 1))),
    "classes": lambda x: tm.nn.cross_entropy(x.reshape(4, 3), np.array([0, 2, 1, 1])),
    "one number": lambda x: np.sum(x) * np.max(x) + x[3] - np.ravel(x)[-1],
    "products with columns, rows and transposes": lambda x: [
        x.reshape(3, 4) @ x.reshape(4, 3), x.reshape(3, 4).T @ x.reshape(3, 4), x.reshape(12, 1) @ x.reshape(1, 12),
        x.reshape(1, 12) @ x.reshape(12, 1), x.reshape(3, 4)[:, 1:3] @ x.reshape(3, 4)[::2, :2].T,
        x.reshape(3, 4)[:, ::2] @ x.reshape(2, 6), x.reshape(2, 3, 2) @ x.reshape(2, 2, 3),
        x.reshape(2, 2, 3) @ ROW[3], np.swapaxes(x.reshape(2, 3, 2), 0, 1) @ x.reshape(3, 2, 2), x @ x],
}  # fmt: skip


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("what", DIRECTED)
def test_what_random_programs_seldom_do(what, gradient):
    f = DIRECTED[what]
    g = tm.grad(lambda x: sum(np.sum(y * y) for y in tree_leaves(f(x))))
    with plain_python(), spoiled_memory(), np.errstate(all="ignore"):
        examine(g if gradient else f, [np.sin(np.arange(12.0) * 1.7)])


def test_the_machine_in_python_refuses_what_lies_outside():
    plain = PlainMachine()
    x = np.arange(4.0)
    p = plain.at("f8")(plain.address(x))
    p[3] = 7
    assert p[3] == 7 == x[3]
    for i in (-1, 4):
        with pytest.raises(AssertionError):
            p[i]
