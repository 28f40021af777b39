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

A program that cannot be compiled is replayed, and a function that cannot be recorded runs as it is, with a warning
that says why. The first result is compared with the function's own (`verify`), and all that the function reads besides
its arguments is watched (`guards`).
"""

from __future__ import annotations

import contextlib
import functools
import gc
import operator
import os
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import numpy as np

from .. import blas, flat
from ..arrays import as_array_of
from ..differentiable import name_of
from ..engine import Tensor, recorded
from ..inputs import as_learned, as_tasks, is_listed
from ..kernels import in_a_hurry
from ..nest import Nest, opened, tree_fill, tree_leaves, tree_map
from ..per_task import PerTask
from .guards import Outside
from .program import RecordError, held, outline, signature_and_inputs
from .runners import Machine, Replay
from .task import Fixed, Task, task_of, whole
from .verify import (
    ROUNDING,
    SMALL,
    Ahead,
    Difference,
    Explained,
    Patience,
    Scale,
    at_worst,
    differs,
    explain,
    matmul_operations,
    unlike,
)  # fmt: skip
from .views import Unsupported

VARIANTS = 8  # programs for one signature, as what the function reads changes
LONG = 1e10  # multiplications and additions of a task, above which it is compared in the background
EXPLAINING = 10  # times as long as a result takes it to say what rounding may do to it
SHARE = 0.05  # of the time until there is a program, which may be spent on checking it
_TENSORS = {Tensor, *recorded}


class CompileWarning(UserWarning):
    """A function runs, but not as machine code; the message says why."""


def compile(  # noqa: A001
    f: Callable, *, backend: str = "numba", threads: int | None = None, check: bool = True
) -> Callable:
    """A function with the call and the results of `f`, which is recorded and compiled for the shapes it meets.

    What `f` reads besides its arguments (numbers, arrays and flags that it closes over, globals, attributes) is
    watched: when it changes, `f` is recorded again. Arrays in the `inner_lr` of a meta-gradient are arguments. A
    function that draws random numbers or writes to something outside runs as it is. Called with keyword arguments or
    tensors (inside a derivative), it is `f` itself; so is any function that is no meta-gradient where `np.errstate`
    makes errors of what is not finite. Any number of threads may call it at the same time.

    Args:
        f: what `mean_over_tasks` or `meta_value_and_grad` returns: one task's program, run for every task. Or any
            function of nests of arrays: then all of it is one program, run on one thread.
        backend: "numba": machine code; "replay": the simplified program in NumPy, equation by equation.
        threads: how many tasks go at a time; None: as many as this process may use at once (its affinity, the quota of
            its container, `NUMBA_NUM_THREADS`); at most 32, or 8 where the gradient is long. The results are bit for
            bit the same for any number.
        check: compare the first result for each signature with what `f` returns, on a few of the tasks. If they differ
            by more than rounding, a `CompileWarning` says where, and `f` runs as it is. If one task takes seconds,
            `f` computes it in a thread of its own, and a later call hears of a difference.

    Raises:
        What `f` raises: where arguments are refused or something diverges, `f` itself is asked.

    >>> loss, tasks = lambda w, t: np.mean((w - t) ** 2), ((np.array([[2.0]]),), (np.array([[3.0]]),))
    >>> fast = tm.compile(tm.meta_value_and_grad(loss, inner_lr=0.25))  # (params, tasks) → (value, gradient), as before
    >>> fast(np.array(0.0), tasks)
    (array(4.), array(-2.))
    """
    if backend not in ("numba", "replay"):
        raise ValueError(f'backend is {backend!r}, wanted "numba" or "replay"')
    if threads is not None and (not isinstance(threads, int) or threads < 1):
        raise ValueError(f"threads is {threads!r}, wanted an integer of at least 1, or None")
    return Compiled(f, backend, threads, check)


class Variant:
    """The program of one signature, as long as what the function reads is as it was.

    Attributes:
        outside: what the function reads besides its arguments; None: whatever it is.
        runner: `Machine`, `Replay`, or None where the function runs itself.
        checked: the runner's result was compared with the function's.
        why: a warning that has not been given yet.
        kinds: for each leaf of the result, what makes it of the type that the function returns.
        seconds: what it took to make it.   ahead: the function's result on a task, which is on its way.
        doubted: a warning was given that the program does not serve some values.
    """

    def __init__(self, outside: Outside | None, checked: bool, why: str = ""):
        self.outside, self.checked, self.why = outside, checked, why
        self.runner: Machine | Replay | None = None
        self.kinds: list[Callable] | None = None
        self.seconds = 0.0
        self.ahead: Ahead | None = None
        self.doubted = False

    def give_up(self, why: str) -> None:
        self.runner, self.why = None, why


class Call(NamedTuple):
    """One call of a function over tasks.

    Attributes:
        signature: what a program of these arguments is for.
        shared, data: the arrays that all tasks have, those of meta first; those with the tasks stacked on axis 0.
        count: of tasks.   floats: there are Python floats among the shared inputs.
    """

    per_task: PerTask
    meta: Nest
    tasks: tuple
    shared_nests: tuple
    signature: tuple
    shared: list[np.ndarray]
    data: list[np.ndarray]
    count: int
    floats: bool

    def one(self, t: int) -> tuple:
        """(support, query) of task t."""
        return tuple(tree_map(lambda x: _taken(x)[t], self.tasks))

    def task(self) -> Task:
        return task_of(self.per_task, tree_map(_taken, self.meta), *self.one(0), self.shared_nests)


class Compiled:
    """The result of `compile`: a program for each combination of shapes and dtypes it was called with."""

    def __init__(self, f: Callable, backend: str, threads: int | None, check: bool):
        self.f, self.backend, self.threads, self.check = f, backend, threads, check
        self.per_task: PerTask | None = getattr(f, "of_task", None)
        self.gradient = bool(self.per_task and self.per_task.gradient)
        self.variants: dict[Any, list[Variant]] = {}
        self.__name__ = name_of(f)
        self.called = f"the meta-gradient of {self.__name__}" if self.gradient else self.__name__  # in warnings
        self.__doc__ = f.__doc__

    def __reduce__(self):
        return Compiled, (self.f, self.backend, self.threads, self.check)  # programs are made again

    @property
    def runners(self) -> dict:
        """`Machine`, `Replay`, or None where `f` runs itself, for each signature and state of what `f` reads."""
        return {(signature, i): v.runner for signature, known in self.variants.items() for i, v in enumerate(known)}

    def __call__(self, *args: Nest, **kwargs):
        if kwargs:
            return self.f(*args, **kwargs)
        return self._any(args) if self.per_task is None else self._over_tasks(*args)

    # ── any function ──

    def _any(self, args: tuple):
        signature, leaves = signature_and_inputs(args)
        if not _TENSORS.isdisjoint(map(type, leaves)) or not {"raise", "call"}.isdisjoint(np.geterr().values()):
            return self.f(*args)
        v = self._variant(signature, lambda: whole(self.f, args))
        if v.runner and v.runner.task.parts["query"].program.fixed_floats:
            signature, leaves = signature_and_inputs(args, fixed_floats=True)
            v = self._variant(signature, lambda: whole(self.f, args))
        if v.runner is None:
            return self._as_it_is(signature, v, *args)
        try:
            with np.errstate(all="ignore"):
                results, _, failed = v.runner.run([], [x[None] for x in leaves], 1)
                out = None if failed else _nested(v.runner.task, results, 0)
        except Exception as cause:
            return self._fall_back(v, cause, *args)
        if failed:
            return self.f(*args)
        if v.checked:
            return _of_kinds(v, out)
        wanted = self.f(*args)
        try:
            v.kinds = [*map(_kind, tree_leaves(wanted))]
            out = _of_kinds(v, out)
            found, ties = _judged(v.runner.task, out, wanted, leaves)
        except Exception as cause:
            v.give_up(self._described(cause))
        else:
            v.checked = found is None or (ties and not found.certain and found.share <= SMALL)
            if v.checked:
                return out
            if v.outside and v.outside.changed():  # by another thread, between the two results
                return wanted
            v.give_up(self._wrong(found))
        self._warn(v)
        return wanted

    # ── functions over tasks ──

    def _over_tasks(self, meta: Nest, tasks: tuple | list, *shared: Nest):
        if is_listed(tasks):
            return self._listed(meta, tasks, shared)
        call = self._call(meta, tasks, shared)
        if call is None:
            return self.f(meta, tasks, *shared)
        v = self._variant(call.signature, call.task)
        if v.runner and call.floats and any(part.program.fixed_floats for part in v.runner.task.parts.values()):
            call = self._call(meta, tasks, shared, fixed_floats=True)
            v = self._variant(call.signature, call.task)
        if v.runner is None:
            return self._as_it_is(call.signature, v, meta, tasks, *shared)
        ahead = v.ahead
        apart: list | None = None if v.checked or (ahead and not ahead.arrived()) else []
        try:
            with np.errstate(all="ignore"):
                results, grads, failed = v.runner.run(call.shared, call.data, call.count, apart)
                value = np.asarray(np.add.reduce(results[0]) / call.count) if self.gradient and not failed else None
        except Exception as cause:
            return self._fall_back(v, cause, meta, tasks, *shared)
        if failed or (self.gradient and not np.isfinite(value)):
            out = self.f(meta, tasks, *shared)  # which says what is wrong, and with which task
            if not v.doubted:  # it has nothing to say
                v.doubted, v.why = True, f"{self.called} runs as it is where {_DOUBTED}"
                self._warn(v)
            return out
        if apart is not None and not self.gradient and not all(np.isfinite(x).all() for x in results):
            return self.f(meta, tasks, *shared)  # an overflow is not worth a comparison: rounding may decide it
        if apart is not None:
            compared = self._compared_later if matmul_operations(v.runner.task) > LONG else self._compared
            try:
                found = compared(v, call, results, apart)
            except Exception as cause:
                return self._fall_back(v, cause, meta, tasks, *shared)
            if found and v.outside and v.outside.changed():  # by another thread, between the two results
                return self.f(meta, tasks, *shared)
            if found:
                v.give_up(self._wrong(found))
                return self._as_it_is(call.signature, v, meta, tasks, *shared)
        task = v.runner.task
        if not self.gradient:
            return _stacked(task, results, call.count)
        grads = tree_fill(meta, grads)
        if not isinstance(task.value, tuple):
            return value, grads
        return (value, [_nested(task, results, t)[1] for t in range(call.count)]), grads

    def _call(self, meta: Nest, tasks: tuple, shared: tuple, fixed_floats: bool = False) -> Call | None:
        """The arguments as arrays, and what a program of them is recorded for; None where f itself has to look."""
        thetas: list = []
        data: list = []
        given: list = []
        bound: list = []
        key = (_outline(meta, thetas), _outline(tasks, data), outline(shared, given, fixed_floats),
               outline(self.per_task.bound, bound, fixed_floats=True))  # fmt: skip
        if not _TENSORS.isdisjoint(map(type, (*thetas, *data, *given, *bound))):
            return None
        floats = any(type(x) is float for x in given)
        numbers = [x for x in bound if not isinstance(x, np.ndarray)]  # NumPy's numbers are part of the program
        bound = [x for x in bound if isinstance(x, np.ndarray)]
        try:
            shared_arrays, data = [*map(_taken, (*thetas, *given, *bound))], [*map(_taken, data)]
        except TypeError:
            return None
        counts = {x.shape[:1] for x in data}
        if len(counts) != 1 or counts <= {(), (0,)}:
            return None
        ((count,),) = counts
        signature = (
            *key, *((x.shape, x.dtype) for x in shared_arrays), *((x.shape[1:], x.dtype) for x in data),
            *map(repr, numbers),
        )  # fmt: skip
        if signature not in self.variants:  # what is wrong with the arguments, the function says
            as_learned(self.per_task.called, meta)
            if self.per_task.check:
                self.per_task.check()
            as_tasks(tasks)
        return Call(self.per_task, meta, tasks, shared, signature, shared_arrays, data, count, floats)

    def _compared(self, v: Variant, call: Call, results: list, apart: list):
        """Some tasks beside the reference's: what differs, or None."""
        patience = Patience(SHARE * v.seconds)
        agreed, doubtful, doubt = 0, None, ()
        for t in unlike(call.data, call.count):
            if (agreed or doubtful) and not patience.allows(0):
                break
            one = call.one(t)
            started = time.perf_counter()
            with _briefly():
                wanted = self._parts(self.f(call.meta, [one], *call.shared_nests))
            enough = patience.allows(EXPLAINING * (time.perf_counter() - started))
            ours = self._ours(v, t, call, results, apart)
            arrays = [*call.shared, *tree_leaves(one)] if enough else None
            found, ties = _judged(v.runner.task, ours, wanted, arrays)
            if found and ties and not found.certain:
                doubtful, doubt = found, (ours, wanted, [*call.shared, *tree_leaves(one)])
            elif found:
                return found._replace(text=f"task {t}: {found.text}")
            else:
                agreed += 1
        v.checked = bool(agreed) or doubtful.share <= SMALL or _is_noise(v.runner.task, *doubt)
        return None if v.checked else doubtful

    def _compared_later(self, v: Variant, call: Call, results: list, apart: list):
        """The first task of a long program: the reference computes it in the background, until a later call."""
        ahead, v.ahead = v.ahead, None
        if ahead is None:
            # the caller may write to them
            meta, one = (tree_map(lambda x: np.array(_taken(x)), nest) for nest in (call.meta, call.one(0)))
            shared = tree_map(lambda x: np.array(x) if isinstance(x, np.ndarray) else x, call.shared_nests)
            v.ahead = Ahead(lambda: self._alone(meta, one, shared), self._ours(v, 0, call, results, apart))
            return None
        if ahead.error:
            raise ahead.error
        ours, wanted = ahead.ours, ahead.wanted
        if wanted is None or (v.outside and v.outside.changed()):  # it is begun again by the next call
            return None
        found, ties = _judged(v.runner.task, ours, wanted, None)
        v.checked = found is None or (ties and not found.certain and found.share <= SMALL)
        return None if v.checked else found._replace(text=f"task 0 of an earlier call: {found.text}")

    def _ours(self, v: Variant, t: int, call: Call, results: list, apart: list) -> tuple:
        """Task t of a program's results, as `_parts`."""
        task, rows = v.runner.task, [x[t : t + 1] for x in results]
        if not self.gradient:
            return ([*map(np.asarray, tree_leaves(_nested(task, rows, 0)))],)
        grads = apart[t] if len(apart) == call.count else None
        if grads is None:  # it was added to others'
            rows, grads, _ = v.runner.run(call.shared, [x[t : t + 1] for x in call.data], 1)
        value, *aux = tree_leaves(_nested(task, rows, 0))
        return np.asarray(value), aux, tree_leaves(grads)

    def _alone(self, meta: Nest, task: tuple, shared: tuple) -> tuple:
        """The reference's result for one task, as `_parts`; in flat memory, since its graphs may need gigabytes."""
        p = self.per_task
        with np.errstate(all="ignore"):
            if p.parts:
                result = flat.run_parts(p.parts(*shared, *p.bound), p.moves(), meta, *task)
            else:
                result = p.of_task(meta, *task, *shared, *p.bound)
        if not self.gradient:
            return ([*map(np.asarray, tree_leaves(result))],)
        value, grads = result
        return self._parts(((value[0], [value[1]]) if isinstance(value, tuple) else value, grads))

    def _parts(self, result) -> tuple:
        """Value, aux and gradient of one task, of what the function returns for it alone; or the leaves it returns."""
        if not self.gradient:
            return ([np.asarray(x[0]) for x in tree_leaves(result)],)
        value, grads = tree_map(lambda x: np.asarray(x) if isinstance(x, np.generic) else x, result)
        value, aux = (value[0], tree_leaves(value[1][0])) if isinstance(value, tuple) else (value, [])
        return value, aux, tree_leaves(grads)

    def _listed(self, meta: Nest, tasks: list, shared: tuple):
        """Tasks of unequal sizes: each one a stack of one, added up in their order."""
        total, values, aux, rows = None, [], [], []
        try:
            for task in tasks:
                result = self._over_tasks(meta, tree_map(lambda x: _taken(x)[None], tuple(task)), *shared)
                if not self.gradient:
                    rows.append(result)
                    continue
                value, grads = result
                if isinstance(value, tuple):
                    value, extra = value
                    aux += extra
                values.append(value)
                total = grads if total is None else tree_map(operator.add, total, grads)
            if not self.gradient:
                return tree_map(lambda *xs: np.concatenate(xs), *rows)
        except (TypeError, ValueError, FloatingPointError):
            return self.f(meta, tasks, *shared)  # which says what is wrong, and with which task
        # 1/T Σₜ
        value = np.asarray(functools.reduce(operator.add, values) / len(tasks))
        grads = tree_map(lambda g: np.asarray(g / len(tasks)), total)
        return ((value, aux) if aux else value), grads

    # ── programs ──

    def _variant(self, signature, record: Callable[[], Task]) -> Variant:
        """The program for these arrays and for what f reads now; if there is none, one is made of `record()`."""
        changed = ""
        for v in self.variants.get(signature, ()):
            if v.outside is None or not (changed := v.outside.changed()):
                return v
        with _building():
            known = self.variants.get(signature, [])
            for v in known:
                if v.outside is None or not v.outside.changed():  # another thread has made it
                    return v
            if len(known) >= VARIANTS:
                v = Variant(None, True, f"{self.called} runs as it is: {changed} has changed {VARIANTS} times; pass"
                                        " what changes from call to call as an argument")  # fmt: skip
            else:
                v = self._made(record)
            if v.runner is not None:  # what runs as it is, is remembered once it has run
                self.variants[signature] = [*known, v]
        if v.runner is not None and v.why:
            self._warn(v)
        return v

    def _made(self, record: Callable[[], Task]) -> Variant:
        started = time.perf_counter()
        loss = self.f if self.per_task is None else self.per_task.written or self.per_task.of_task
        v = Variant(None, not self.check)
        try:
            v.outside = Outside(loss)
            task = record()
        except Exception as cause:
            v.why = f"{self.called} runs as it is: {_described(cause, loss)}"
            return v
        if self.backend == "numba":
            try:
                if _interrupted:
                    raise Unsupported("this process was forked while another thread was compiling")
                with _no_collection():
                    v.runner = Machine(task, self.threads)
            except (Unsupported, ImportError) as cause:
                v.why = f"{self.called} is replayed, not compiled: {cause}"
            except Warning:  # which the caller has made an error
                raise
            except Exception as cause:
                v.why = f"{self.called} is replayed, not compiled: {_described(cause, loss)}"
        v.runner = v.runner or Replay(task)
        v.seconds = time.perf_counter() - started
        return v

    def _as_it_is(self, signature, v: Variant, *args):
        """f itself; if it raises, the arguments were at fault, and nothing is remembered."""
        out = self.f(*args)
        if v not in (known := self.variants.get(signature, [])):
            self.variants[signature] = [*known, v]
        if v.why:
            self._warn(v)
        return out

    def _fall_back(self, v: Variant, cause: Exception, *args):
        """Fall back on the function itself if a program fails; its own error is the right one."""
        if isinstance(cause, Warning):  # which the caller has made an error
            raise cause
        out = self.f(*args)
        if v.runner is not None:  # no other thread has given up in the meantime, and said why
            v.give_up(self._described(cause))
            self._warn(v)
        return out

    def _described(self, cause: Exception) -> str:
        return f"{self.called} runs as it is from now on: {_described(cause, self.f)}"

    def _wrong(self, found: Difference) -> str:
        return (f"{self.called} runs as it is: the program's first result is not the function's: {found.text};"
                f" {_REPORT}")  # fmt: skip

    def _warn(self, v: Variant) -> None:
        why, v.why = v.why, ""
        depth, frame = 1, sys._getframe()
        while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] == "tinymaml":
            depth, frame = depth + 1, frame.f_back
        warnings.warn(why, CompileWarning, stacklevel=depth)


_DOUBTED = ("a program finds a number that is not finite, or an index that is negative, and the function does not mind;"
            " that is correct, and slow")  # fmt: skip
_REPORT = "this is a fault of tinymaml's: please report it, with the function"


_NOT_THEIRS = (os.path.dirname(os.path.dirname(__file__)), os.path.dirname(np.__file__), contextlib.__file__)


def _described(cause: Exception, f: Callable) -> str:
    """Say what failed, and where; a fault of tinymaml's own asks for a report.

    What a recording refuses is found in the code of f's author: where the error, or one that led to it, was raised,
    or else where f begins.
    """
    meant = isinstance(cause, RecordError) or getattr(cause, "refused", False)
    places = [(x.filename, x.lineno, x.name) for x in traceback.extract_tb(cause.__traceback__)]
    if meant:
        error: BaseException | None = cause
        theirs: list = []
        while error is not None and not theirs:
            frames = traceback.extract_tb(error.__traceback__)
            theirs = [(x.filename, x.lineno, x.name) for x in frames if not x.filename.startswith(_NOT_THEIRS)]
            error = error.__cause__
        code = getattr(f, "__code__", None)
        if not theirs and code and not code.co_filename.startswith(_NOT_THEIRS):
            theirs = [(code.co_filename, code.co_firstlineno, code.co_name)]
        places = theirs
    text = f"{type(cause).__name__}: {cause}"
    if places:
        file, line, name = places[-1]
        text += f" ({os.path.basename(file)}, line {line}, in {name})"
    return text if meant else f"{text}; {_REPORT}"


_lock = threading.RLock()
_interrupted = False  # a fork has left another thread's compilation unfinished for ever


@contextmanager
def _building() -> Iterator[None]:
    """One program is made at a time."""
    with _lock:
        yield


def _after_fork() -> None:
    global _lock, _interrupted
    if not _lock.acquire(blocking=False):
        _interrupted = True
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@contextmanager
def _briefly() -> Iterator[None]:
    """For a few calls of the reference: on one thread of BLAS, where that can be limited, and nothing is compiled.

    More threads would not help one task, and stall on a busy machine; kernels are NumPy's if they are not there yet.
    """
    try:
        limited = blas.one_thread(blas.libraries())
    except ImportError:
        limited = nullcontext()
    token = in_a_hurry.set(True)
    try:
        with limited:
            yield
    finally:
        in_a_hurry.reset(token)


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


def _judged(task: Task, ours: Nest, wanted: Nest, arrays: list | None) -> tuple[Difference | None, bool]:
    """The difference between two results of a task, and whether it may be a tie that rounding has broken.

    `arrays` are its inputs, from which it is found out what rounding may do; None: that would take too long.
    """
    found = differs(ours, wanted)
    if found is None or found.certain:
        return found, False
    if arrays is None:
        eps, ties = at_worst(task)
        return None if found.share <= ROUNDING * max(found.eps, eps) else found, ties
    how = explain(task, arrays)
    return differs(ours, wanted, _of_leaves(task, how)), how.ties


def _is_noise(task: Task, ours: Nest, wanted: Nest, arrays: list) -> bool:
    """Whether two results of a task are no further apart than noise of an ε moves them, which ties make jump."""
    return differs(ours, wanted, _of_leaves(task, explain(task, arrays, jumps=True))) is None


def _of_leaves(task: Task, how: Explained) -> list[Scale]:
    """How inexact each leaf of a result is."""
    return [Scale() if isinstance(i, Fixed) else how.scales[i] for i in (*task.results, *task.sums)]


def _kind(wanted) -> Callable:
    """The function that makes an array of the type that a leaf has."""
    if isinstance(wanted, np.ndarray):
        return np.asarray
    if isinstance(wanted, np.generic):
        return lambda x: x[()] if isinstance(x, np.ndarray) else x
    if isinstance(wanted, (bool, int, float, complex)):
        return lambda x: x.item() if isinstance(x, np.ndarray) else x
    return lambda x: x


def _of_kinds(v: Variant, out: Nest) -> Nest:
    if v.kinds is None or len(v.kinds) != len(tree_leaves(out)):
        return out
    return tree_fill(out, [kind(x) for kind, x in zip(v.kinds, tree_leaves(out), strict=True)])


def _nested(task: Task, results: list, t: int) -> Nest:
    """Task t's value."""
    stacked = iter(results)
    leaves = [
        np.asarray(next(stacked)[t]) if not isinstance(x, Fixed) else
        np.array(x.leaf) if isinstance(x.leaf, np.ndarray) else x.leaf
        for x in task.results
    ]  # fmt: skip
    return tree_fill(task.value, leaves)


def _stacked(task: Task, results: list, count: int) -> Nest:
    """All tasks' values, each leaf with the tasks on axis 0."""
    stacked = iter(results)
    leaves = [np.stack([np.asarray(x.leaf)] * count) if isinstance(x, Fixed) else next(stacked) for x in task.results]
    return tree_fill(task.value, leaves)


def _taken(x) -> np.ndarray:
    return x if type(x) is np.ndarray else np.asarray(as_array_of("an argument", x))


def _outline(tree: Nest, leaves: list):
    """The structure of a nest; its leaves are appended to the list, in the order of `tree_leaves`."""
    if isinstance(tree, dict):
        return tuple(tree), *[_outline(child, leaves) for child in tree.values()]
    if isinstance(tree, (list, tuple)):
        return type(tree), *[_outline(child, leaves) for child in tree]
    if tree is None:
        return True
    if (children := opened(tree)) is not None:
        return type(tree), held(tree), *[_outline(child, leaves) for child in children.values()]
    leaves.append(tree)
    return False
