"""Kernels: the loops NumPy has no good word for, in NumPy, and as machine code where Numba is to be had.

    patches, unpatches              windows of images, and their transpose (convolution)
    pool_argmax, pick, unpick       the largest element of every window, and the transpose of taking it (pooling)
    scatter_add                     z[index] += g, with repeats (embedding, indexing)

First the NumPy functions, then the same names as steps of `programs.machine`, whose loops are those of compiled
programs. Each is compiled when it is first called, or taken from the cache. Without Numba, or with TINYMAML_NUMBA=0,
NumPy gives the same results, bit for bit: each twin adds in its loop's order. Images are (N, H, W, C).
"""

from __future__ import annotations

import ctypes
import os
from array import array
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar

import numpy as np

Padding = tuple[tuple[int, int], tuple[int, int]]  # rows above and below, columns left and right


# ── in NumPy ─────────────────────────────────────────────────────────────────────────────────────────────────


def patches_numpy(x, size: tuple[int, int], stride: int, padding: Padding) -> np.ndarray:
    """Windows of x (N, H, W, C), zero-padded: (N, rows, columns, height × width × C)."""
    x = np.pad(x, ((0, 0), *padding, (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, size, (1, 2))[:, ::stride, ::stride]
    n, rows, columns = windows.shape[:3]
    return windows.transpose(0, 1, 2, 4, 5, 3).reshape(n, rows, columns, -1)


def unpatches_numpy(g, shape, size: tuple[int, int], stride: int, padding: Padding) -> np.ndarray:
    """The transpose of `patches`: windows (N, rows, columns, height × width × C) added into an array of `shape`."""
    n, h, w, c = shape
    (top, bottom), (left, right) = padding
    rows, columns = g.shape[1:3]
    g = g.reshape(n, rows, columns, *size, c)
    z = np.zeros((n, h + top + bottom, w + left + right, c), g.dtype)
    for i in reversed(range(size[0])):  # an element's windows in their order, down and to the right
        for j in reversed(range(size[1])):
            z[:, i : i + rows * stride : stride, j : j + columns * stride : stride] += g[:, :, :, i, j]
    return np.ascontiguousarray(z[:, top : top + h, left : left + w])


def _windows(x, size: int):
    """x (N, H, W, C) as windows (N, H/size, W/size, C, size × size); rows and columns left over are dropped."""
    n, h, w, c = x.shape
    rows, columns = h // size, w // size
    x = x[:, : rows * size, : columns * size].reshape(n, rows, size, columns, size, c)
    return x.transpose(0, 1, 3, 5, 2, 4).reshape(n, rows, columns, c, size * size)


def pool_argmax_numpy(x, size: int) -> np.ndarray:
    """Where in its window (0 … size² − 1, row by row; the first of a tie) the largest element lies: int64."""
    return np.argmax(np.real(_windows(x, size)), -1)


def pick_numpy(x, k, size: int) -> np.ndarray:
    """Element k of every window: (N, H/size, W/size, C)."""
    return np.take_along_axis(_windows(x, size), k[..., None], -1)[..., 0]


def unpick_numpy(g, k, size: int, shape) -> np.ndarray:
    """The transpose of `pick`: g at element k of every window, zero elsewhere."""
    n, rows, columns, c = g.shape
    z = np.zeros((n, rows, columns, c, size * size), g.dtype)
    np.put_along_axis(z, k[..., None], g[..., None], -1)
    z = z.reshape(n, rows, columns, c, size, size).transpose(0, 1, 4, 2, 5, 3)
    out = np.zeros(shape, g.dtype)
    out[:, : rows * size, : columns * size] = z.reshape(n, rows * size, columns * size, c)
    return out


def scatter_rows_numpy(g, rows, shape) -> np.ndarray:
    """zeros(shape), to whose row rows[i] g[i] is added; a row named twice is added to twice."""
    z = np.zeros(shape, g.dtype)
    np.add.at(z, rows, g)
    return z


# ── in machine code ─────────────────────────────────────────────────────────────────────────────────────────────────

FUNCTION = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)  # kernel, memory, step


in_a_hurry: ContextVar[bool] = ContextVar("in_a_hurry", default=False)  # True: nothing is compiled for a few calls


class Kernel:
    """A kernel of `programs.machine`, called on arrays; its NumPy twin where there is no machine code for the call.

    Attributes:
        name: in `programs.machine`.   twin: the NumPy function with the same signature and results.
        step: from the arguments to the numbers of a step: the result first, arrays for their addresses; None for
            arguments that only the twin knows what to do with.
        functions: for each dtype the C function, None without Numba.
    """

    def __init__(self, name: str, step: Callable[..., list | None], twin: Callable):
        self.name, self.step, self.twin, self.__doc__ = name, step, twin, twin.__doc__
        self.functions: dict[str, Callable | None] = {}

    def __call__(self, x, *args, **kwargs):
        kind = x.dtype.char
        if kind in "fd" and x.dtype.isnative and self.functions.get(kind, True):
            step = self.step(np.ascontiguousarray(x), *args, **kwargs)
            if step and (function := self.functions.get(kind) or self._load(kind, step)):
                numbers = array("q", (0, 0, len(step) + 3, *map(_number, step)))
                if not function(0, 0, numbers.buffer_info()[0]):  # nothing was out of range
                    return step[0]
        return self.twin(x, *args, **kwargs)

    def _load(self, kind: str, step: list) -> Callable | None:
        if in_a_hurry.get():
            return None
        from .programs.cache import load
        from .programs.schedule import Unsupported

        function = None
        if os.environ.get("TINYMAML_NUMBA") != "0":
            with suppress(ImportError, Unsupported):
                function = FUNCTION(load(self.text(step)).address(0))
        self.functions[kind] = function
        return function

    def text(self, step: list) -> str:
        """The source of the kernel for a step, as in a compiled program."""
        from .programs.source import code, kernel_file, kernel_line

        kinds = [code(x.dtype) for x in step if isinstance(x, np.ndarray)]
        return kernel_file(kernel_line(self.name, kinds, len(step) - len(kinds)))


def _number(x) -> int:
    return x.__array_interface__["data"][0] if isinstance(x, np.ndarray) else x


def kernel(name: str, twin: Callable) -> Callable[[Callable], Kernel]:
    return lambda step: Kernel(name, step, twin)


@kernel("patches", patches_numpy)
def patches(x, size, stride, padding):
    n, h, w, c = x.shape
    (top, bottom), (left, right) = padding
    rows, columns = (h + top + bottom - size[0]) // stride + 1, (w + left + right - size[1]) // stride + 1
    if min(rows, columns) < 1:
        return None
    z = np.empty((n, rows, columns, size[0] * size[1] * c), x.dtype)
    return [z, x, n, h, w, c * x.itemsize, rows, columns, *size, stride, top, left]


@kernel("unpatches", unpatches_numpy)
def unpatches(g, shape, size, stride, padding):
    n, h, w, c = shape
    (top, _), (left, _) = padding
    rows, columns = g.shape[1:3]
    if g.shape != (n, rows, columns, size[0] * size[1] * c):
        return None
    return [np.empty(shape, g.dtype), g, *shape, rows, columns, *size, stride, top, left]


@kernel("pool_argmax", pool_argmax_numpy)
def pool_argmax(x, size):
    n, h, w, c = x.shape
    return [np.empty((n, h // size, w // size, c), np.int64), x, *x.shape, size]


@kernel("pick", pick_numpy)
def pick(x, k, size):
    k = _choices(k, x.shape, size)
    return None if k is None else [np.empty(k.shape, x.dtype), x, k, *x.shape, size]


@kernel("unpick", unpick_numpy)
def unpick(g, k, size, shape):
    k = _choices(k, shape, size)
    return None if k is None or g.shape != k.shape else [np.empty(shape, g.dtype), g, k, *shape, size]


def _choices(k, shape, size: int) -> np.ndarray | None:
    """k as int64 in order; None if there is not one element of each window of images of `shape`."""
    n, h, w, c = shape
    if k.shape != (n, h // size, w // size, c):
        return None
    k = np.ascontiguousarray(k, np.int64)
    return k if k.view(np.uint64).max(initial=0) < size * size else None


@kernel("scatter", scatter_rows_numpy)
def scatter_rows(g, rows, shape):
    if g.shape != (rows.size, shape[1]):
        return None
    rows = np.ascontiguousarray(rows, np.int64)
    return [np.empty(shape, g.dtype), g, 1, rows.size, shape[1], 1, rows, shape[0]]


def scatter_add(g, index: tuple, shape: tuple[int, ...]) -> np.ndarray:
    """zeros(shape), to which g is added at `index`; what the index names twice is added twice."""
    (first, *others) = index
    integers = isinstance(first, np.ndarray) and first.dtype.kind in "iu"
    if integers and not others and len(shape) > 1:  # rows of a table: an embedding
        width = int(np.prod(shape[1:]))
        rows = first.reshape(-1).astype(np.int64)
        if rows.size and not -shape[0] <= rows.min() <= rows.max() < shape[0]:
            raise IndexError(f"scatter_add: rows {rows.min()} … {rows.max()} of an array with {shape[0]} rows")
        rows = np.where(rows < 0, rows + shape[0], rows)
        return scatter_rows(np.reshape(g, (rows.size, width)), rows, (shape[0], width)).reshape(shape)
    z = np.zeros(shape, g.dtype)
    np.add.at(z, index, g)
    return z
