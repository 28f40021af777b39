"""Kernels: the loops NumPy has no good word for, each a Numba function beside the plain NumPy one it replaces.

    patches, unpatches              windows of images, and their transpose (convolution)
    pool_argmax, pick, unpick       the largest element of every window, and the transpose of taking it (pooling)
    scatter_add                     z[index] += g, with repeats (embedding, indexing)

First the NumPy functions, then the same names as loops, which Numba compiles when the first one is called: `import
tinymaml` does not import it. Without Numba, or with TINYMAML_NUMBA=0, NumPy gives the same results, bit for bit: each
loop adds in its twin's order. Images are (N, H, W, C).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache

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
    for i in range(size[0]):
        for j in range(size[1]):
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


# ── in loops, for Numba ─────────────────────────────────────────────────────────────────────────────────────────────


@cache
def _numba():
    """The numba module, or None where it is absent or switched off."""
    if os.environ.get("TINYMAML_NUMBA") == "0":
        return None
    try:
        import numba
    except ImportError:
        return None
    return numba


class Kernel:
    """A function in loops, compiled by Numba at its first call; its NumPy twin where Numba is not to be had.

    Attributes:
        loops: the plain Python function.   twin: the NumPy function with the same signature and results.
    """

    def __init__(self, loops: Callable, twin: Callable):
        self.loops, self.twin, self.__doc__ = loops, twin, twin.__doc__
        self._compiled: Callable | None = None

    @property
    def compiled(self) -> Callable | None:
        """The loops as machine code (None without Numba)."""
        if self._compiled is None and (numba := _numba()):
            options = dict(error_model="numpy", nogil=True)
            try:
                self._compiled = numba.njit(cache=True, **options)(self.loops)
            except RuntimeError:  # no folder to cache in
                self._compiled = numba.njit(**options)(self.loops)
        return self._compiled

    def __call__(self, x, *args, **kwargs):
        if x.dtype.char in "fd" and x.dtype.isnative and self.compiled:
            # Numba compiles another version for arrays that are read-only, and one will do: all are
            x, *args = (_read_only(a) if isinstance(a, np.ndarray) else a for a in (np.ascontiguousarray(x), *args))
            kwargs = {name: _read_only(a) if isinstance(a, np.ndarray) else a for name, a in kwargs.items()}
            return self.compiled(x, *args, **kwargs)
        return self.twin(x, *args, **kwargs)


def _read_only(x: np.ndarray) -> np.ndarray:
    x = x.view()
    x.setflags(write=False)
    return x


def kernel(twin: Callable) -> Callable[[Callable], Kernel]:
    return lambda loops: Kernel(loops, twin)


@kernel(patches_numpy)
def patches(x, size, stride, padding):
    n, h, w, c = x.shape
    (top, bottom), (left, right) = padding
    rows = (h + top + bottom - size[0]) // stride + 1
    columns = (w + left + right - size[1]) // stride + 1
    z = np.zeros((n, rows, columns, size[0] * size[1] * c), x.dtype)
    for b in range(n):
        for row in range(rows):
            for i in range(size[0]):
                y = row * stride + i - top
                if 0 <= y < h:
                    for column in range(columns):
                        for j in range(size[1]):
                            u = column * stride + j - left
                            if 0 <= u < w:
                                at = (i * size[1] + j) * c
                                for q in range(c):
                                    z[b, row, column, at + q] = x[b, y, u, q]
    return z


@kernel(unpatches_numpy)
def unpatches(g, shape, size, stride, padding):
    n, h, w, c = shape
    (top, _), (left, _) = padding
    rows, columns = g.shape[1:3]
    z = np.zeros((n, h, w, c), g.dtype)
    for b in range(n):
        for i in range(size[0]):
            for j in range(size[1]):
                at = (i * size[1] + j) * c
                for row in range(rows):
                    y = row * stride + i - top
                    if 0 <= y < h:
                        for column in range(columns):
                            u = column * stride + j - left
                            if 0 <= u < w:
                                for q in range(c):
                                    z[b, y, u, q] += g[b, row, column, at + q]
    return z


@kernel(pool_argmax_numpy)
def pool_argmax(x, size):
    n, h, w, c = x.shape
    k = np.zeros((n, h // size, w // size, c), np.int64)
    for b in range(n):
        for row in range(h // size):
            for column in range(w // size):
                for q in range(c):
                    best = x[b, row * size, column * size, q]
                    for m in range(1, size * size):
                        v = x[b, row * size + m // size, column * size + m % size, q]
                        if v > best or (v != v and best == best):  # as NumPy's argmax, a NaN is the largest
                            best = v
                            k[b, row, column, q] = m
    return k


@kernel(pick_numpy)
def pick(x, k, size):
    n, rows, columns, c = k.shape
    z = np.empty((n, rows, columns, c), x.dtype)
    for b in range(n):
        for row in range(rows):
            for column in range(columns):
                for q in range(c):
                    m = k[b, row, column, q]
                    z[b, row, column, q] = x[b, row * size + m // size, column * size + m % size, q]
    return z


@kernel(unpick_numpy)
def unpick(g, k, size, shape):
    n, rows, columns, c = g.shape
    z = np.zeros(shape, g.dtype)
    for b in range(n):
        for row in range(rows):
            for column in range(columns):
                for q in range(c):
                    m = k[b, row, column, q]
                    z[b, row * size + m // size, column * size + m % size, q] = g[b, row, column, q]
    return z


@kernel(scatter_rows_numpy)
def scatter_rows(g, rows, shape):
    z = np.zeros(shape, g.dtype)
    for i in range(rows.size):
        for j in range(shape[1]):
            z[rows[i], j] += g[i, j]
    return z


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
