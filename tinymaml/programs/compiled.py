"""compile: the same call, the same numbers, much faster.

    fast = tm.compile(tm.meta_value_and_grad(loss, inner_lr=0.01, inner_steps=5))
    value, grads = fast(params, tasks)

The first call with arrays of some shapes records one task's meta-gradient, simplifies it, lays it out in steps, writes
their loops as Numba source and compiles that; every later call runs it for all tasks, in parallel. From function to
source on one page, for `f = tm.grad(lambda w, x: np.sum(np.tanh(x @ w) ** 2))` at a w of (3, 2) and an x of (4, 3),
after `fast = tm.compile(f); fast(w, x); (runner,) = fast.runners.values()`:

    print(tm.record(f, w, x))                          print(runner.task.parts["query"].program)

     %0  f64[3,2]  input      args[0]                   %0  f64[3,2]  input      args[0]
     %1  f64[4,3]  input      args[1]                   %1  f64[4,3]  input      args[1]
     %2  f64[3,2]  alias      %0
     %3  f64[4,2]  matmul     %1 %2                     %2  f64[4,2]  matmul     %1 %0
     %4  f64[4,2]  tanh       %3                        %3  f64[4,2]  tanh       %2
     %5  f64[4,2]  power      %4 1
     %6  f64[4,2]  multiply   const:f64[4,2] %5         %4  f64[4,2]  multiply   2.0 %3
     %7  f64[4,2]  multiply   %4 %4                     %5  f64[4,2]  multiply   %3 %3
     %8  f64[4,2]  subtract   1 %7                      %6  f64[4,2]  subtract   1 %5
     %9  f64[4,2]  multiply   %6 %8                     %7  f64[4,2]  multiply   %4 %6
    %10  f64[3,4]  transpose  %1 {axes: (1, 0)}         %8  f64[3,4]  transpose  %1 {axes: (1, 0)}
    %11  f64[3,2]  matmul     %10 %9                    %9  f64[3,2]  matmul     %8 %7

The products go to BLAS, which reads %1 as its own transpose. The five equations between them are one loop, over one
axis, of float64 to float64:

    print(runner.source)

    @loop("1: f8 > f8")
    def loop0(x0):  # tanh multiply multiply subtract multiply
        v0 = math.tanh(x0)
        v1 = f8(2.0) * v0
        v2 = v0 * v0
        v3 = f8(1) - v2
        v4 = v1 * v3
        return v4

What cannot be compiled is replayed, and what cannot be recorded runs as it is, with a warning that says why.
"""

from __future__ import annotations

import functools
import gc
import math
import operator
import os
import threading
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from ..engine import Tensor
from ..extras import require
from ..inputs import as_tasks
from ..nest import Nest, tree_fill, tree_map
from .blas import Blas
from .program import split
from .schedule import ARRAYS, END, Unsupported, lay_out
from .source import generate, load
from .task import Fixed, Task, task_of, whole

_forked: list[bool] = []  # OpenMP, on which Numba's threads may stand, ends a process that uses it after a fork
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _forked.append(True))
# Parts that a sum over tasks has, so that as many threads can be used; but if they take more bytes than SUMS, FEWEST.
CHUNKS, FEWEST, SUMS = 32, 8, 1 << 24


class CompileWarning(UserWarning):
    """A function runs, but not as machine code; the message says why."""


def compile(f: Callable, *, backend: str = "numba", threads: int | None = None) -> Callable:  # noqa: A001
    """A function with the call and the results of `f`, which is recorded and compiled for the shapes it meets.

    What `f` closes over is read when it is recorded: an array that is changed later stays what it was. Called with
    keyword arguments or tensors (inside a derivative), it is `f` itself.

    Args:
        f: what `meta_value_and_grad` returns: one task's program, run for every task. Or any function of nests of
            arrays: then all of it is one program, run on one thread.
        backend: "numba": machine code; "replay": the simplified program in NumPy, equation by equation.
        threads: how many tasks go at a time; None: as many as Numba has (`NUMBA_NUM_THREADS`); at most 32, or 8 where
            the gradient is long. The results do not depend on it, not in a bit.

    Raises:
        What `f` raises: where arguments are refused or something diverges, `f` itself is asked.
    """
    if backend not in ("numba", "replay"):
        raise ValueError(f'backend is {backend!r}, wanted "numba" or "replay"')
    if threads is not None and (not isinstance(threads, int) or threads < 1):
        raise ValueError(f"threads is {threads!r}, wanted an integer of at least 1, or None")
    return Compiled(f, backend, threads)


class Compiled:
    """What `compile` returns: a program for each combination of shapes and dtypes it was called with.

    Attributes:
        runners: for each signature `Machine`, `Replay`, or None where `f` runs itself.
    """

    def __init__(self, f: Callable, backend: str, threads: int | None):
        self.f, self.backend, self.threads = f, backend, threads
        self.runners: dict[Any, Any] = {}
        self._lock = threading.RLock()
        self.__name__ = getattr(f, "__name__", type(f).__name__)
        self.__doc__ = f.__doc__

    def __call__(self, *args: Nest, **kwargs):
        if kwargs:
            return self.f(*args, **kwargs)
        of_task = getattr(self.f, "of_task", None)
        with self._lock:
            return self._meta(of_task, *args) if of_task else self._any(args)

    def _any(self, args: tuple):
        signature, leaves = split(args)
        if Tensor in map(type, leaves):
            return self.f(*args)
        runner = self._runner(signature, lambda: whole(self.f, args), args)
        if runner is not None and runner.task.parts["query"].program.fixed_floats:
            signature, leaves = split(args, fixed_floats=True)
            runner = self._runner(signature, lambda: whole(self.f, args), args)
        if runner is None:
            return self.f(*args)
        with np.errstate(all="ignore"):
            results, _, failed = runner.run([], [x[None] for x in leaves], 1)
        if failed:
            return self.f(*args)
        return _nested(runner.task, results, 0)

    def _meta(self, of_task: partial, params: Nest, tasks: tuple | list):
        if isinstance(tasks, list):
            return self._listed(of_task, params, tasks)
        settings = of_task.keywords
        thetas: list = []
        data: list = []
        outline = _outline(params, thetas), _outline(tasks, data)
        if Tensor in map(type, (*thetas, *data)):
            return self.f(params, tasks)
        thetas, data = [*map(np.asarray, thetas)], [*map(np.asarray, data)]
        counts = {x.shape[:1] for x in data}
        if len(counts) != 1 or counts <= {(), (0,)}:
            return self.f(params, tasks)
        ((count,),) = counts
        signature = (*outline, *((x.shape, x.dtype) for x in thetas), *((x.shape[1:], x.dtype) for x in data))
        if signature not in self.runners:  # what is wrong with the arguments, the function says
            support, query = as_tasks(params, tasks, settings["inner_lr"], settings["inner_steps"])[0]
            self._runner(signature, lambda: task_of(of_task, params, support, query), (params, tasks))
        runner = self.runners[signature]
        if runner is None:
            return self.f(params, tasks)
        with np.errstate(all="ignore"):
            results, grads, failed = runner.run(thetas, data, count)
            value = np.asarray(np.nan if failed else np.add.reduce(results[0]) / count)
        if not np.isfinite(value):
            return self.f(params, tasks)  # which says what is wrong, and with which task
        grads = tree_fill(params, grads)
        if not settings["has_aux"]:
            return value, grads
        return (value, [_nested(runner.task, results, t)[1] for t in range(count)]), grads

    def _listed(self, of_task: partial, params: Nest, tasks: list):
        """Tasks of unequal sizes: each one a stack of one, added up in their order."""
        total, values, aux = None, [], []
        try:
            for task in tasks:
                value, grads = self._meta(of_task, params, tree_map(lambda x: np.asarray(x)[None], tuple(task)))
                if of_task.keywords["has_aux"]:
                    value, extra = value
                    aux += extra
                values.append(value)
                total = grads if total is None else tree_map(operator.add, total, grads)
        except (TypeError, ValueError, FloatingPointError):
            total = None
        if total is None:
            return self.f(params, tasks)  # which says what is wrong, and with which task
        # 1/T Σₜ
        value = np.asarray(functools.reduce(operator.add, values) / len(tasks))
        grads = tree_map(lambda g: np.asarray(g / len(tasks)), total)
        return ((value, aux) if of_task.keywords["has_aux"] else value), grads

    def _runner(self, signature, record: Callable[[], Task], args: tuple):
        if signature not in self.runners:
            self.runners[signature] = self._new_runner(record, args)
        return self.runners[signature]

    def _new_runner(self, record: Callable[[], Task], args: tuple):
        try:
            task = record()
        except Exception as cause:
            self.f(*args)  # an error of the function's own is its own error
            warnings.warn(f"{self.__name__} runs as it is: {cause}", CompileWarning, stacklevel=5)
            return None
        if self.backend == "numba":
            try:
                with _no_collection():
                    return Machine(task, self.threads)
            except (Unsupported, ImportError) as cause:
                warnings.warn(f"{self.__name__} is replayed, not compiled: {cause}", CompileWarning, stacklevel=5)
        return Replay(task)


@contextmanager
def _no_collection():
    """No garbage collection: compilers make many objects that live, which it would look at again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _nested(task: Task, results: list, t: int) -> Nest:
    """Task t's value."""
    stacked = iter(results)
    leaves = [
        np.asarray(next(stacked)[t]) if not isinstance(x, Fixed) else
        np.array(x.leaf) if isinstance(x.leaf, np.ndarray) else x.leaf
        for x in task.results
    ]  # fmt: skip
    return tree_fill(task.value, leaves)


def _outline(tree: Nest, leaves: list):
    """What a nest is but for its leaves, which are put in the list, in the order of `tree_leaves`."""
    if isinstance(tree, dict):
        return tuple(tree), *[_outline(child, leaves) for child in tree.values()]
    if isinstance(tree, (list, tuple)):
        return type(tree), *[_outline(child, leaves) for child in tree]
    if tree is not None:
        leaves.append(tree)
    return tree is None


class Replay:
    """A task's programs in NumPy, task after task."""

    def __init__(self, task: Task):
        self.task = task

    def run(self, shared: list, data: list, count: int) -> tuple[list, list, bool]:
        """The results, stacked over tasks; the mean gradient; whether something was out of range or not finite."""
        task, total, rows = self.task, None, []
        for t in range(count):
            try:
                slots, finite = task.replay([*shared, *(x[t] for x in data)])
            except IndexError:
                finite = False
            if not finite:
                return [], [], True
            rows.append([slots[i] for i in task.results if not isinstance(i, Fixed)])
            grads = [slots[i] for i in task.sums]
            total = grads if total is None else [a + b for a, b in zip(total, grads, strict=True)]
        results = [np.stack(column) for column in zip(*rows, strict=True)]
        grads = [np.asarray(g / count) for g in total or []]
        arrays = [*shared, *data, *grads]
        negative = any(x.dtype.kind == "i" and (x < 0).any() for x in data)  # as in machine code: see `schedule`
        return results, grads, negative or not all(np.isfinite(x).all() for x in arrays if x.dtype.kind == "f")


class Machine:
    """A task's programs in machine code, with a memory for each thread.

    Attributes:
        task: the programs.   layout: their place in memory.   generated: steps and files.   source: that of the loops.
    """

    def __init__(self, task: Task, threads: int | None):
        numba = require("numba", "fast")
        self.task, self.layout = task, lay_out(task)
        self.generated = source = generate(self.layout)
        self.source = source.files[0]
        self.blas = Blas()
        from . import machine

        self.machine = machine
        self.modules = [load(text) for text in source.files]  # kept: their machine code is called by address

        def number(n) -> int:
            if not isinstance(n, tuple):
                return n
            file, which = n
            return self.blas.address(which) if file == "blas" else getattr(self.modules[file], f"page{which}").address

        self.steps = {
            name: np.array([number(n) for step in steps for n in step] + [END], np.int64)
            for name, steps in source.steps.items()
        }
        self.moves = np.array([_address(self.steps[move]) for move in source.moves], np.int64)
        gradient = max(sum(run.size * run.first.dtype.itemsize for run in self.layout.sums), 1)
        self.chunks = min(max(SUMS // gradient, FEWEST), CHUNKS)  # whatever the number of threads: so are the sums
        self.sums: list[np.ndarray] = []
        self.threads = min(threads or numba.get_num_threads(), self.chunks)
        self.memory = [_aligned(self.layout.nbytes) for _ in range(self.threads)]
        self.heads = [memory.view(np.int64) for memory in self.memory]
        self.jobs: dict = {}  # for each number of tasks and threads, see `machine._run_tasks`
        self.variables = [task.slots[i] for i in task.results if not isinstance(i, Fixed)]
        for buffer in self.layout.constants:
            for memory in self.memory:
                memory[buffer.offset : buffer.offset + buffer.nbytes] = np.frombuffer(buffer.value.tobytes(), np.uint8)

    def run(self, shared: list, data: list, count: int) -> tuple[list, list, bool]:
        """As `Replay.run`."""
        chunks = min(count, self.chunks)
        threads = 1 if _forked else min(self.threads, chunks)
        results = [np.empty((count, *x.shape), x.dtype) for x in self.variables]
        if [len(x) for x in self.sums] != [chunks] * len(self.layout.sums):
            self.sums = [np.empty((chunks, run.size), run.first.dtype) for run in self.layout.sums]
        for x in self.sums:
            x.fill(0)
        arrays = [*map(np.ascontiguousarray, (*shared, *data)), *results, *self.sums]
        addresses = np.array([*map(_address, arrays)])
        for head in self.heads[:threads]:
            head[ARRAYS : ARRAYS + len(arrays)] = addresses
        if (count, threads) not in self.jobs:
            self.jobs[count, threads] = self._jobs(count, chunks, threads)
        jobs, _ = self.jobs[count, threads]
        with self.blas:
            failed = self.machine.runner("parallel" if threads > 1 else "cpu")(jobs)
        grads = []
        for run, x in zip(self.layout.sums, self.sums, strict=True):
            # 1/T Σₜ
            mean = np.add.reduce(x, 0) / count
            grads += [mean[start : start + math.prod(shape)].reshape(shape) for start, shape in run.parts]
        return results, grads, bool(failed.any())

    def _jobs(self, count: int, chunks: int, threads: int) -> tuple[np.ndarray, np.ndarray]:
        """What each thread does, and the first task of each chunk."""
        first_of = np.arange(chunks + 1) * count // chunks
        bounds = np.arange(threads + 1) * chunks // threads
        moves = _address(self.moves), len(self.moves)
        return np.array([
            [*moves, _address(memory), *bounds[i : i + 2], _address(first_of)]
            for i, memory in enumerate(self.memory[:threads])
        ]), first_of  # fmt: skip


def _aligned(nbytes: int) -> np.ndarray:
    raw = np.zeros(nbytes + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + nbytes]


def _address(x: np.ndarray) -> int:
    return x.__array_interface__["data"][0]
