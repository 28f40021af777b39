"""Guards: what a function reads besides its arguments, and whether it is still what it was.

    outside = Outside(f)               what f reaches: what it closes over, globals it names, attributes, defaults, ...
    outside.changed()                  None, or the first thing that is no longer what it was: "the global SCALE"
    with outside.untouched(): f(x)     raises if f writes to any of it, or draws random numbers; all is put back

A program holds numbers and arrays of this kind as constants. They are found by reading the code of f and of
the functions it reaches: which globals it names, and which attributes; not the code of NumPy, SciPy, the standard
library and tinymaml. An object that can neither be compared nor put back (an iterator, the clock) is a reason against
recording. Read next: `shapes`.
"""

from __future__ import annotations

import builtins
import collections
import contextlib
import dataclasses
import dis
import functools
import gc
import operator
import os
import random
import sys
import threading
import types
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import Enum
from itertools import chain, repeat
from typing import Any

import numpy as np

from ..arrays import unchanging
from ..engine import Tensor, value_of
from ..per_task import PerTask
from .tracing import RecordError

MOST = 100_000  # things that are looked at, at each call
WORDS = 1 << 12  # bytes; a longer array is compared in words of eight bytes
FOREIGN = {"numpy", "scipy", "numba", "tinymaml", *sys.stdlib_module_names} - {"__main__"}
PLAIN = (bool, int, float, complex, str, bytes, type(None), type(...), type(NotImplemented), np.generic, np.dtype,
         range, slice, types.CodeType)  # fmt: skip
VIEWS = (types.MappingProxyType, *(type(view) for view in ({}.keys(), {}.values(), {}.items())))  # of one dict each
OPAQUE = (type, types.ModuleType, types.BuiltinFunctionType, np.ufunc, Enum, types.MethodWrapperType,
          types.WrapperDescriptorType, types.MethodDescriptorType, types.GetSetDescriptorType)  # fmt: skip
LIVE = {"time", "secrets", "uuid", "datetime"}  # modules whose functions give something else at each call
RANDOM = {"default_rng", "RandomState", "Random", "SeedSequence", "SystemRandom", "PCG64", "MT19937", "Philox",
          "SFC64", "PCG64DXSM"}  # fmt: skip
MAKERS = {"__init__", "__new__", "__post_init__"}  # methods of a class that are run where it is called, not an object
WRITERS = {"__setattr__", "__delattr__"}
_lock = threading.RLock()
MISSING = type("Missing", (), {"__repr__": lambda self: "nothing"})()
_REMEDY = "draw masks, noise or keys outside and pass them as part of the task"


def _after_fork() -> None:
    global _lock
    _lock = threading.RLock()  # another thread may have held the old one


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


# ── what is looked at ───────────────────────────────────────────────────────────────────────────────────────────────


class _Names:
    """Some names of a namespace: globals, attributes of an object, cells, items.

    Args:
        read: `read()` → what the names stand for, MISSING where there is nothing.
        write: `write(i, value)` gives the i-th name its value back, or takes it away if that is MISSING.
        labels: what a person would call each.
        moved: `moved(old, new)`: is the one array that the name stands for now another, with the same content?
    """

    def __init__(self, read: Callable[[], Iterable], write: Callable[[int, Any], None], labels: list[str],
                 moved: Callable[[Any, Any], bool]):  # fmt: skip
        self.read, self.write, self.labels, self.moved = read, write, labels, moved
        self.kept = [*read()]

    def changed(self) -> str | None:
        now = [*self.read()]
        for i, (old, new) in enumerate(zip(self.kept, now, strict=True)):
            if old is new:
                continue
            if not (isinstance(old, PLAIN) and _same(old, new)) and not self.moved(old, new):
                return self.labels[i]
            self.kept[i] = new
        return None

    def restore(self) -> None:
        for i, (old, new) in enumerate(zip(self.kept, self.read(), strict=True)):
            if old is not new:
                self.write(i, old)


class _Items:
    """A list, a dict, a set or a deque, by what is in it."""

    def __init__(self, container, label: str):
        self.container, self.label = container, label
        self.parts = _parts(container)
        self.ids = [*map(id, self.parts)]

    def changed(self) -> str | None:
        parts = _parts(self.container)
        if [*map(id, parts)] == self.ids:
            return None
        if isinstance(self.container, set) and {*map(id, parts)} == {*self.ids}:  # a set has no order
            self.parts, self.ids = parts, [*map(id, parts)]
            return None
        pairs = zip(self.parts, parts, strict=False)
        if len(parts) == len(self.parts) and all(x is y or (isinstance(x, PLAIN) and _same(x, y)) for x, y in pairs):
            self.parts, self.ids = parts, [*map(id, parts)]
            return None
        return self.label

    def restore(self) -> None:
        if self.changed() is None:
            return
        self.container.clear()
        if isinstance(self.container, dict):
            half = len(self.parts) // 2
            self.container.update(zip(self.parts[:half], self.parts[half:], strict=True))
        else:
            (self.container.update if isinstance(self.container, set) else self.container.extend)(self.parts)


def _parts(container) -> list:
    return [*container, *container.values()] if isinstance(container, dict) else [*container]


class _Content:
    """An array, or what has one, by dtype, shape and bits."""

    def __init__(self, x, label: str, array: Callable[[Any], np.ndarray] = lambda x: x):
        self.x, self.label, self.array = x, label, array
        now = array(x)
        self.copy = now if unchanging(now) is now else now.copy("K")
        self.dtype, self.shape = now.dtype, now.shape
        self.bits = now.tobytes() if now.nbytes <= WORDS else None

    def _equals(self, now: np.ndarray) -> bool:
        if now.dtype != self.dtype or now.shape != self.shape:
            return False
        if self.bits is not None:
            return now.tobytes() == self.bits
        return np.array_equal(_words(now), _words(self.copy))

    def moved(self, x) -> bool:
        """Is x an array with the content of this one? Then it is the one that is looked at from now on."""
        same = type(x) is type(self.x) is np.ndarray and self.copy is not self.x and self._equals(x)
        self.x = x if same else self.x
        return same

    def changed(self) -> str | None:
        now = self.array(self.x)
        return None if now is self.copy or self._equals(now) else self.label

    def restore(self) -> None:
        now = self.array(self.x)
        if now is not self.copy and not self._equals(now):
            if now.shape != self.shape:
                now.shape = self.shape
            now[...] = self.copy


def _words(x: np.ndarray) -> np.ndarray:
    """An array's bits as integers, in the order of its memory where it has one."""
    if x.flags.f_contiguous:
        x = x.T
    x = np.ascontiguousarray(x).reshape(-1).view(np.uint8)
    return x.view(np.uint64) if x.size % 8 == 0 else x


def _same(x, y) -> bool:
    """Equal by type and value: −0 is not 0, NaN is NaN."""
    if type(x) is not type(y):
        return False
    if isinstance(x, (np.generic, np.dtype)):
        return x.dtype == y.dtype and x.tobytes() == y.tobytes() if isinstance(x, np.generic) else x == y
    return repr(x) == repr(y) if isinstance(x, (float, complex, slice)) else x == y


# ── how it is reached ───────────────────────────────────────────────────────────────────────────────────────────────


class Outside:
    """The values that a function reads besides its arguments, as they are now.

    An array that no code can write to (`flags.writeable` is False, of its base too) costs nothing; of any other a copy
    is kept and compared.

    Attributes:
        watched: what is compared.   generators: random generators, with their names.
        reason: why f cannot be recorded at all, or None.
    """

    def __init__(self, f: Callable):
        self.watched: list = []
        self.generators: list[tuple[Any, str]] = []
        self.reason: str | None = None
        self._arrays: dict[int, _Content] = {}
        self._times: collections.Counter[int] = collections.Counter()  # how often each thing is reached
        self._seen: dict[int, Any] = {}  # kept, so that identities stay what they are
        self._attributes: set[str] = set()  # that the code reached so far names
        self._by_any_name = False  # it makes names of attributes as it runs
        self._written: set[str] = set()  # and those of them that it writes
        self._named: set[type] = set()  # the classes that it names, and may call
        self._objects: list[tuple[Any, str, set]] = []  # whose attributes are looked at, and which already are
        self._queue: collections.deque = collections.deque()
        self._reach(f, "the function" if isinstance(f, (types.FunctionType, functools.partial)) else "self")
        self._walk()
        self._names = [x for x in self.watched if isinstance(x, _Names)]
        self._others = [x for x in self.watched if not isinstance(x, _Names)]

    def check(self) -> None:
        """Raises: RecordError, where f reads what cannot be compared."""
        if self.reason:
            raise RecordError(self.reason)

    def changed(self) -> str | None:
        """None, or the name of something that is no longer what it was."""
        with _lock:  # what is equal is remembered as it is now
            # at each call: first whether every name still stands for the very same thing, without a loop in Python
            same = (
                chain.from_iterable([x.read() for x in self._names]),
                chain.from_iterable([x.kept for x in self._names]),
            )
            for x in self._others if all(map(operator.is_, *same)) else self.watched:
                if (name := x.changed()) is not None:
                    return name
        return None

    @contextmanager
    def untouched(self) -> Iterator[None]:
        """Restore everything afterwards, even if the block raises.

        Raises:
            RecordError: something was written to, or a generator's state moved; names it.
        """
        generators = [(x, name, _state(x)) for x, name in (*self.generators, *_GLOBAL)]
        try:
            yield
        except RecordError as error:
            raise RecordError(self._put_back(generators) or str(error)) from error
        except BaseException:
            self._put_back(generators)
            raise
        if message := self._put_back(generators):
            raise RecordError(message)

    def _put_back(self, generators: list) -> str | None:
        message = None
        for x, name, state in generators:
            if not _equal_states(_state(x), state):
                _set_state(x, state)
                message = f"it draws random numbers from {name}, which a program would freeze: {_REMEDY}"
        written = self.changed()
        if written is not None:
            for x in self.watched:
                x.restore()
            message = message or (
                f"it writes to {written}, which a program would do once and never again: return what is new instead"
            )
        return message

    # ── walking ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _walk(self) -> None:
        while True:
            while self._queue:
                self._look(*self._queue.popleft())
                if len(self._seen) > MOST:
                    self._against(f"it reaches more than {MOST:,} things that may change")
                    return
            for x, label, known in self._objects:
                self._look_at_attributes(x, label, known)
            if not self._queue:
                return

    def _moved(self, old, new) -> bool:
        content = self._arrays.get(id(old))
        if content is None or self._times[id(old)] != 1 or id(new) in self._arrays or not content.moved(new):
            return False
        self._arrays[id(new)], self._times[id(new)] = self._arrays.pop(id(old)), self._times.pop(id(old))
        return True

    def _against(self, reason: str) -> None:
        self.reason = self.reason or reason

    def _reach(self, x, label: str) -> None:
        if isinstance(x, PLAIN) or x is MISSING:
            if isinstance(x, str) and x.isidentifier():  # perhaps the name of an attribute, for getattr
                self._attributes.add(x)
            return
        self._times[id(x)] += 1
        if id(x) in self._seen:
            return
        self._seen[id(x)] = x
        self._queue.append((x, label))

    def _look(self, x, label: str) -> None:
        if x is Tensor or x is value_of:
            self._against(f"{label} is named: whether x is a tensor cannot be known while a program is recorded")
        if isinstance(x, (np.random.Generator, np.random.RandomState, np.random.BitGenerator, random.Random)):
            self.generators.append((x, label))
        elif isinstance(x, Tensor):
            self._reach(x.value, label)
        elif isinstance(x, np.ndarray):
            self._watch_array(x, label)
        elif isinstance(x, (bytearray, memoryview)) or type(x).__module__ == "array":
            self.watched.append(_Content(x, label, lambda x: np.frombuffer(x, np.uint8)))
        elif isinstance(x, types.FunctionType):
            self._look_at_function(x, label)
        elif isinstance(x, PerTask):  # its bound inputs are inputs of a program, too
            self._reach(x.written or x.of_task, label)
        elif isinstance(x, types.MethodType):
            self._reach(x.__func__, label)
            self._reach(x.__self__, label if _root(type(x.__self__).__module__) in FOREIGN else "self")
        elif isinstance(x, functools.partial):
            for i, part in enumerate(x.args):
                self._reach(part, f"argument {i} of {label}")
            self._reach(x.func, label)
            self._reach(x.keywords, f"the keywords of {label}")
        elif isinstance(x, (classmethod, staticmethod)):
            self._reach(x.__func__, label)
        elif isinstance(x, property):
            self._reach(x.fget, label)
            self._reach(x.fset, label)
        elif isinstance(x, types.CellType):
            self._reach(_cell(x), label)
        elif isinstance(x, (tuple, frozenset)):
            for i, part in enumerate(x):
                self._reach(part, f"{label}[{i}]")
            self._look_at_object(x, label)
        elif isinstance(x, (list, dict, set, collections.deque)):
            if len(x) > MOST:
                self._against(f"{label} holds more than {MOST:,} things that may change")
                return
            self.watched.append(_Items(x, label))
            if isinstance(x, collections.defaultdict):
                self._reach(x.default_factory, label)
            for key, part in x.items() if isinstance(x, dict) else enumerate(x):
                self._reach(part, f"{label}[{key!r}]")
            self._look_at_object(x, label)
        elif isinstance(x, ContextVar):
            self._watch(lambda: [_of_context(x)], lambda i, value: x.set(value), [label])
        elif isinstance(x, collections.abc.Iterator):
            self._against(f"{label} is an iterator, which gives something else at each call")
        elif isinstance(x, OPAQUE):
            self._look_at_opaque(x, label)
        elif isinstance(x, VIEWS):
            for part in gc.get_referents(x):
                self._reach(part, label)
        elif isinstance(x, weakref.ReferenceType):
            self._watch(lambda: [x()], lambda i, value: None, [label])
        elif isinstance(x, (operator.attrgetter, operator.itemgetter, operator.methodcaller)):
            for part in x.__reduce__()[1]:
                for name in part.split(".") if isinstance(part, str) else (part,):
                    self._reach(name, label)
        else:
            self._look_at_object(x, label)

    def _watch(self, read: Callable[[], Iterable], write: Callable[[int, Any], None], labels: list[str]) -> None:
        if not labels:
            return
        watch = _Names(read, write, labels, self._moved)
        self.watched.append(watch)
        for x, label in zip(watch.kept, labels, strict=True):
            self._reach(x, label)

    def _watch_array(self, x: np.ndarray, label: str) -> None:
        if x.dtype.hasobject:
            for i, part in enumerate(x.ravel().tolist()):
                self._reach(part, f"{label}[{i}]")
            self._against(f"{label} is an array of objects")
        content = _Content(x, label)
        self._arrays[id(x)] = content
        self.watched.append(content)

    def _look_at_function(self, f: types.FunctionType, label: str) -> None:
        own = _root(f.__globals__.get("__name__")) not in FOREIGN
        cells = f.__closure__ or ()
        if cells:
            names = [f"the closed-over {_kind(_cell(c))}{name}"
                     for name, c in zip(f.__code__.co_freevars, cells, strict=True)]  # fmt: skip
            self._watch(functools.partial(map, _cell, cells), lambda i, value: _set_cell(cells[i], value), names)
        self._reach(getattr(f, "__wrapped__", None), label)
        if not own:
            return
        parts = ("__defaults__", "__kwdefaults__", "__code__")
        self._watch(functools.partial(operator.attrgetter(*parts), f), lambda i, value: setattr(f, parts[i], value),
                    [*[f"a default of {f.__name__}"] * 2, f"the code of {f.__name__}"])  # fmt: skip
        self._objects.append((f, f.__name__, set()))
        read: set[str] = set()
        for code in _codes(f.__code__):
            self._look_at_code(code, f, read)
        names = sorted(read)
        space = f.__globals__
        self._watch(*_in_dict(space, names), [f"the global {name}" for name in names])

    def _look_at_code(self, code: types.CodeType, f: types.FunctionType, read: set[str]) -> None:
        """The globals and attributes that a piece of code names; what it asks of types, clocks and chance."""
        self._attributes.update(x for x in code.co_consts if isinstance(x, str) and x.isidentifier())
        cells = dict(zip(f.__code__.co_freevars, f.__closure__ or (), strict=True))
        x: Any = MISSING  # what the instruction before has put on the stack, where that is known
        calls = [i for i in dis.get_instructions(code) if i.opname not in ("PRECALL", "PUSH_NULL", "CACHE", "NOP")]
        for at, i in enumerate(calls):
            name = i.argval
            if i.opname in ("LOAD_GLOBAL", "LOAD_NAME", "STORE_GLOBAL", "DELETE_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS"):
                read.add(name)
                x = f.__globals__.get(name, vars(builtins).get(name, MISSING))
            elif i.opname in ("LOAD_DEREF", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_DEREF") and name in cells:
                x = _cell(cells[name])
            elif i.opname in ("LOAD_ATTR", "LOAD_METHOD", "STORE_ATTR", "DELETE_ATTR", "LOAD_SUPER_ATTR"):
                self._attributes.add(name)
                if i.opname.endswith("E_ATTR"):  # STORE_ATTR, DELETE_ATTR
                    self._written.add(name)
                x = vars(x).get(name, MISSING) if isinstance(x, (types.ModuleType, type)) else MISSING
            elif i.opname in ("IMPORT_NAME", "IMPORT_FROM"):
                self._attributes.add(name)
                x = MISSING
                if i.opname == "IMPORT_NAME" and _root(name) in LIVE:
                    self._against(f"it reads the module {name}, which gives something else at each call: {_REMEDY}")
            else:
                x = MISSING
                continue
            if x is type or name == "type" and x is MISSING and i.opname == "LOAD_NAME":
                self._against("type(x) is asked for, which is another while a program is recorded: use isinstance")
            if x is Tensor or x is value_of or (name in ("Tensor", "value_of") and x is MISSING):
                self._against(f"{name} is named: what is a tensor is another while a program is recorded")
            if any(x is asked for asked in (eval, exec, globals)):
                self._against(f"{name} is called: what it reads cannot be seen in the code of the function")
            if x is getattr or x is vars:
                self._by_any_name = self._by_any_name or not _is_of_constant(calls[at + 1 :])
            if isinstance(x, type):
                self._named.update(x.__mro__)
            module = x.__name__ if isinstance(x, types.ModuleType) else getattr(x, "__module__", None)
            if isinstance(module, str) and module in LIVE and x is not MISSING:
                self._against(f"it reads the module {module}, which gives something else at each call: {_REMEDY}")
            if name == "spawn":  # how many there were is counted, and cannot be put back
                self._against(f"it spawns generators of random numbers, others at each call: {_REMEDY}")
            if name in ("environ", "getenv", "urandom"):
                self._against(f"it reads os.{name}, which may give something else at each call")
            if name in RANDOM and at + 1 < len(calls) and _unseeded(calls[at + 1 : at + 3]):
                self._against(f"{name}() gives other random numbers at each call: {_REMEDY}")

    def _look_at_opaque(self, x, label: str) -> None:
        if isinstance(x, type):
            if _root(x.__module__) not in FOREIGN:
                self._objects.append((x, x.__name__, set()))
                for base in x.__mro__[1:]:
                    self._reach(base, base.__name__)
        elif isinstance(x, types.ModuleType):
            if _root(x.__name__) not in FOREIGN:
                self._objects.append((x, x.__name__.rpartition(".")[2], set()))
        elif isinstance(x, Enum):
            self._reach(type(x), type(x).__name__)
        else:
            self._reach(getattr(x, "__self__", None), label)

    def _look_at_object(self, x, label: str) -> None:
        label = label.removeprefix("the global ").removeprefix("the closed-over ")
        root = _root(type(x).__module__)
        if root in ("numpy", "scipy", "numba"):
            return
        if root == "tinymaml":  # what it was given by others: a network its functions, a primitive its rules
            if dataclasses.is_dataclass(x) and type(x).__dataclass_params__.frozen:  # type: ignore[attr-defined]
                for f in dataclasses.fields(x):
                    self._reach(getattr(x, f.name), f"{label}.{f.name}")
            given = [getattr(x, n, None) for n in ("f", "forward", "vjp", "rule", "of_task")]
            for part in given:
                if callable(part) or isinstance(part, tuple):
                    self._reach(part, label)
            return
        self._objects.append((x, label, set()))
        self._reach(type(x), type(x).__name__)
        self._reach(_own(x).get("__wrapped__"), label)
        if hasattr(type(x), "__array__") and not isinstance(x, (list, dict, tuple, set)):
            try:
                self.watched.append(_Content(x, label, np.asarray))
            except Exception:
                self._against(f"{label} is no array of NumPy")

    def _look_at_attributes(self, x, label: str, known: set[str]) -> None:
        """Attributes that some code names; of a class its operators and methods of that name too."""
        names = self._attributes - known
        space = _own(x)
        if self._by_any_name and not isinstance(x, (types.ModuleType, types.FunctionType)):
            names |= {n for n in space if isinstance(n, str) and not n.startswith("__")} - known
        known |= names
        if isinstance(x, (type, types.ModuleType)):
            operators = {n for n in space if n.startswith("__") and isinstance(space[n], types.FunctionType)}
            operators -= known if x in self._named else known | MAKERS
            if getattr(space.get("__dataclass_params__"), "frozen", False):
                operators -= WRITERS  # they are `dataclass`'s own, and raise
            known |= operators
            names = sorted((names & (space.keys() | self._written) | operators) - {"__dict__", "__class__"})
        elif isinstance(x, types.FunctionType):
            names = sorted(names)
        else:
            extra = {n for n in space if type(x).__module__ == "collections"} - known
            known |= extra
            slots = {n for c in type(x).__mro__ for n in vars(c)
                     if n in names and isinstance(vars(c)[n], types.MemberDescriptorType)}  # fmt: skip
            if slots:
                ordered = sorted(slots)
                self._watch(
                    lambda: [getattr(x, n, MISSING) for n in ordered],
                    lambda i, value: _set_attribute(x, ordered[i], value),
                    [f"{label}.{n}" for n in ordered],
                )
            names = sorted((names | extra) - slots) if space or "__dict__" in dir(type(x)) else []
            for name in names:  # what is computed once and then kept is kept now, so that it is no write
                if isinstance(getattr(type(x), name, None), functools.cached_property):
                    with contextlib.suppress(Exception):
                        getattr(x, name)
        if not names:
            return
        labels = [f"{label}.{n}" for n in names]
        if isinstance(space, dict):
            self._watch(*_in_dict(space, names), labels)
        else:  # a class's, which is read-only
            self._watch(_reader(space, names), lambda i, value: _set_attribute(x, names[i], value), labels)


def _reader(space, names: list[str]) -> Callable[[], Iterable]:
    return functools.partial(map, space.get, names, repeat(MISSING))


def _in_dict(space: dict, names: list[str]) -> tuple[Callable[[], Iterable], Callable[[int, Any], None]]:
    def write(i: int, value) -> None:
        if value is MISSING:
            space.pop(names[i], None)
        else:
            space[names[i]] = value

    return _reader(space, names), write


def _set_attribute(x, name: str, value) -> None:
    if value is MISSING:
        delattr(x, name)
    else:
        setattr(x, name, value)


def _of_context(x: ContextVar):
    try:
        return x.get()
    except LookupError:
        return MISSING


def _cell(cell: types.CellType):
    try:
        return cell.cell_contents
    except ValueError:
        return MISSING


def _set_cell(cell: types.CellType, value) -> None:
    if value is MISSING:
        del cell.cell_contents
    else:
        cell.cell_contents = value


def _root(module: str | None) -> str:
    return (module or "").partition(".")[0]


def _kind(x) -> str:
    return "array " if isinstance(x, np.ndarray) else ""


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """A piece of code, and those that are defined in it."""
    yield code
    for x in code.co_consts:
        if isinstance(x, types.CodeType):
            yield from _codes(x)


def _is_of_constant(following: list[dis.Instruction]) -> bool:
    """Is what was just named called with a name that stands in the code?"""
    call = next((n for n, i in enumerate(following) if i.opname.startswith("CALL")), 0)
    parts = following[:call]
    made = any(i.opname.startswith(("BUILD_STRING", "FORMAT_", "BINARY_")) for i in parts)
    return not made and any(i.opname == "LOAD_CONST" and isinstance(i.argval, str) for i in parts)


def _own(x) -> dict:
    """An object's attributes of its own, whatever its `__getattr__` would say."""
    with contextlib.suppress(Exception):
        if isinstance(space := x.__dict__, (dict, types.MappingProxyType)):
            return space
    return {}


def _unseeded(following: list[dis.Instruction]) -> bool:
    """Is what was just named called without arguments, or with None?"""
    first, *rest = following
    if first.opname.startswith("CALL") and first.arg == 0:
        return True
    return first.opname == "LOAD_CONST" and first.argval is None and bool(rest) and rest[0].opname.startswith("CALL")


# ── generators ──────────────────────────────────────────────────────────────────────────────────────────────────────

_GLOBAL = ((np.random.mtrand._rand, "np.random"), (random._inst, "random"))  # type: ignore[attr-defined]


def _state(x):
    if isinstance(x, random.Random):
        return x.getstate() if type(x) is not random.SystemRandom else None
    if isinstance(x, np.random.RandomState):
        return x.get_state(legacy=False)
    return (x if isinstance(x, np.random.BitGenerator) else x.bit_generator).state


def _set_state(x, state) -> None:
    if isinstance(x, random.Random):
        x.setstate(state)
    elif isinstance(x, np.random.RandomState):
        x.set_state(state)
    else:
        (x if isinstance(x, np.random.BitGenerator) else x.bit_generator).state = state


def _equal_states(x, y) -> bool:
    if isinstance(x, dict):
        return x.keys() == y.keys() and all(_equal_states(x[k], y[k]) for k in x)
    return np.array_equal(x, y) if isinstance(x, np.ndarray) else operator.eq(x, y)
