"""BLAS: the libraries of this process, limited to one thread while we use them.

    with one_thread(libraries()): ...       # all that are loaded
    with one_thread(scipys()): ...          # SciPy's alone, which machine code calls
    gemm("f4")                              # the address of SciPy's sgemm

The limit belongs to the process, so it is counted: the first user sets it, the last one puts back what was there
before, and no thread or fork in between can lose it. OpenBLAS is asked directly: threadpoolctl finds the libraries, but
in version 3.8 it obeys only the first thread that sets a limit.

OpenBLAS reads `OPENBLAS_CORETYPE` when it is loaded, and takes AVX2 kernels on some AMD processors that have AVX-512.
If the variable is not set, and SciPy's BLAS is not loaded yet, it is loaded with AVX-512 kernels.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from types import ModuleType

from .extras import require


class Library:
    """One BLAS: how many threads it has, and how many users want it to have one.

    Raises:
        RuntimeError: the library does not take the limit; names it.
    """

    def __init__(self, path: str, read: Callable[[], int], write: Callable[[int], None], each_thread: bool):
        self.path, self.read, self.write, self.each_thread = path, read, write, each_thread
        self.lock = threading.Lock()
        self.users: dict[object, int] = {}  # the thread of each use
        self.before: dict[int, int] = {}  # the former number of threads, for the process or per thread

    def limit(self, use: object) -> None:
        """One thread, until `release(use)`."""
        me = threading.get_ident()
        with self.lock:
            self.users[use] = me
            whose = me if self.each_thread else 0
            if whose not in self.before:
                self.before[whose] = self.read()
                if self.before[whose] != 1:
                    self.write(1)
                    if (seen := self.read()) != 1:
                        raise RuntimeError(f"{self.path} was asked to use 1 thread, and uses {seen}")

    def release(self, use: object) -> None:
        with self.lock:
            whose = self.users.pop(use, None)
            if not self.each_thread:
                whose = None if self.users else 0
            if whose in self.before and whose not in self.users.values():
                self.write(self.before.pop(whose))

    def forked(self) -> None:
        """In a child of the process: the thread that forked is the only one."""
        self.lock = threading.Lock()
        for use, who in list(self.users.items()):
            if who != threading.get_ident():
                self.release(use)


@contextmanager
def one_thread(chosen: Sequence[Library]) -> Iterator[None]:
    """While the block runs, each of these libraries uses one thread, whichever thread calls it."""
    use = object()
    try:
        for library in chosen:
            library.limit(use)
        yield
    finally:
        for library in chosen:
            library.release(use)


_known: dict[str, Library] = {}


def libraries(extra: str = "fast") -> list[Library]:
    """All BLAS libraries that are loaded. `extra` brings what finds them, see `extras`."""
    found = require("threadpoolctl", extra).ThreadpoolController().select(user_api="blas").lib_controllers
    for controller in found:
        if controller.filepath not in _known:
            read, write, each_thread = _openblas(controller) or _by_its_controller(controller)
            _known.setdefault(controller.filepath, Library(controller.filepath, read, write, each_thread))
    return [_known[controller.filepath] for controller in found]


def _by_its_controller(controller) -> tuple[Callable[[], int], Callable[[int], None], bool]:
    """The two functions of any BLAS, as threadpoolctl has them."""
    return lambda: controller.num_threads, controller.set_num_threads, True


def _openblas(controller) -> tuple[Callable[[], int], Callable[[int], None], bool] | None:
    """The two functions of an OpenBLAS, and whether each thread has a limit of its own, as with OpenMP."""
    if controller.internal_api != "openblas":
        return None
    library = ctypes.CDLL(controller.filepath)
    for prefix, suffix in itertools.product(("", "scipy_"), ("", "64_", "_64")):
        with suppress(AttributeError):
            read = getattr(library, f"{prefix}openblas_get_num_threads{suffix}")
            write = getattr(library, f"{prefix}openblas_set_num_threads{suffix}")
            return read, write, getattr(controller, "threading_layer", "") == "openmp"
    return None


@cache
def scipys() -> tuple[Library, ...]:
    """SciPy's BLAS; where it shares one with others, all of them."""
    _load()
    found = libraries()
    # its wheels have one in a folder of their own; elsewhere it shares one with others
    own = [x for x in found if any(part.startswith("scipy") for part in Path(x.path).parent.parts)]
    return tuple(own or found)


@cache
def gemm(code: str) -> int:
    """The address of the matrix product of a dtype, "f4" or "f8"."""
    capsule = _load().__pyx_capi__[{"f4": "sgemm", "f8": "dgemm"}[code]]
    python = ctypes.pythonapi
    python.PyCapsule_GetName.restype, python.PyCapsule_GetPointer.restype = ctypes.c_char_p, ctypes.c_void_p
    python.PyCapsule_GetName.argtypes = [ctypes.py_object]
    python.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    return python.PyCapsule_GetPointer(capsule, python.PyCapsule_GetName(capsule))


def _load() -> ModuleType:
    """SciPy's door to its BLAS."""
    chosen = "scipy.linalg" not in sys.modules and "OPENBLAS_CORETYPE" not in os.environ and _amd_with_avx512()
    if chosen:
        os.environ["OPENBLAS_CORETYPE"] = "SKYLAKEX"
    try:
        return require("scipy.linalg.cython_blas", "fast")
    finally:
        if chosen:
            del os.environ["OPENBLAS_CORETYPE"]


def _amd_with_avx512() -> bool:
    try:
        about = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    flags = "AuthenticAMD", " avx512f ", " avx512bw ", " avx512dq ", " avx512vl "
    return all(flag in about for flag in flags)


def _after_fork() -> None:
    for library in _known.values():
        library.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
