"""Kernels: the loops that NumPy has no good word for, in NumPy, and as machine code where Numba is available.

    patches, unpatches              windows of images, and their transpose (convolution)
    pool_argmax, pick, unpick       the largest element of every window, and the transpose of taking it (pooling)
    scatter_rows                    z[rows] += g, with repeats (embedding, indexing)

First come the NumPy functions. Then each has a `Kernel` of the same name, which says what its result and its step look
like; `programs.lowering` uses the same description for compiled programs. The loops themselves are in
`programs.machine`. Without Numba, or with TINYMAML_NUMBA=0, NumPy gives the same results, bit for bit: each NumPy
function adds in the order of its loop. Images are (N, H, W, C).
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
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
    """The place of the largest element in its window (0 … size² − 1, row by row; the first of a tie), as int64."""
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

# (name, step) → the C function that runs such steps, None if there is none: `programs.direct` puts it here.
compiler: Callable[[str, list], Callable | None] | None = None
in_a_hurry: ContextVar[bool] = ContextVar("in_a_hurry", default=False)  # True: nothing is compiled for a few calls


class Kernel:
    """A kernel of `programs.machine`, called on arrays; its NumPy function where there is no machine code for the call.

    Attributes:
        name: in `programs.machine`.
        twin: the function with the same results, `twin(x, *indices, **params)`; x holds floats, indices hold
            integers.
        shape: `shape(*shapes, **params)` → that of the result, None where the arguments do not fit: NumPy says why.
        step: `step(z, x, *indices, **params)` → what a step that computes z consists of: arrays, for their places in
            memory, and numbers. It asks the arrays only for shapes and dtypes.
        dtype: of the result, if it is not that of x.
        choices: `choices(**params)` → indices are less than that number, or NumPy is asked; None: the kernel looks.
        functions: for each dtype the C function, None without Numba.
    """

    def __init__(self, name: str, twin: Callable, shape: Callable, step: Callable, dtype=None, choices=None):
        self.name, self.twin, self.shape, self.step = name, twin, shape, step
        self.dtype, self.choices, self.__doc__ = dtype and np.dtype(dtype), choices, twin.__doc__
        self.functions: dict[str, Callable | None] = {}

    def __call__(self, x, *indices, **params):
        kind = x.dtype.char
        if kind in "fd" and x.dtype.isnative and self.functions.get(kind, True):
            step = self._step(x, indices, params)
            if step and (function := self.functions.get(kind) or self._compiled(kind, step)):
                numbers = array("q", (0, 0, len(step) + 3, *map(_number, step)))
                if not function(0, 0, numbers.buffer_info()[0]):  # nothing was out of range
                    return step[0]
        return self.twin(x, *indices, **params)

    def _step(self, x, indices: Sequence, params: dict) -> list | None:
        """The step of a call, its result first; None if NumPy has to be asked."""
        shape = self.shape(x.shape, *(k.shape for k in indices), **params)
        if shape is None:
            return None
        indices = [np.ascontiguousarray(k, np.int64) for k in indices]
        if self.choices:
            choices = self.choices(**params)
            if any(k.view(np.uint64).max(initial=0) >= choices for k in indices):
                return None
        return self.step(np.empty(shape, self.dtype or x.dtype), np.ascontiguousarray(x), *indices, **params)

    def _compiled(self, kind: str, step: list) -> Callable | None:
        if in_a_hurry.get() or compiler is None:
            return None
        function = self.functions[kind] = compiler(self.name, step)
        return function


def _number(x) -> int:
    return x.__array_interface__["data"][0] if isinstance(x, np.ndarray) else x


def _patches_shape(x, *, size, stride, padding):
    n, h, w, c = x
    (top, bottom), (left, right) = padding
    rows, columns = (h + top + bottom - size[0]) // stride + 1, (w + left + right - size[1]) // stride + 1
    return (n, rows, columns, size[0] * size[1] * c) if min(rows, columns) > 0 else None


def _unpatches_shape(g, *, shape, size, **_):
    return shape if (g[0], g[3]) == (shape[0], size[0] * size[1] * shape[3]) else None


def _patches_step(z, x, *, size, stride, padding):
    n, h, w, c = x.shape
    (top, _), (left, _) = padding
    return [z, x, n, h, w, c * x.dtype.itemsize, *z.shape[1:3], *size, stride, top, left]


def _unpatches_step(z, g, *, shape, size, stride, padding):
    (top, _), (left, _) = padding
    return [z, g, *shape, *g.shape[1:3], *size, stride, top, left]


def _pooled(x, *, size):
    n, h, w, c = x
    return n, h // size, w // size, c


def _rows_shape(g, rows, *, shape):
    return shape if g == (*rows, shape[1]) else None


patches = Kernel("patches", patches_numpy, _patches_shape, _patches_step)
unpatches = Kernel("unpatches", unpatches_numpy, _unpatches_shape, _unpatches_step)
pool_argmax = Kernel(
    "pool_argmax", pool_argmax_numpy, _pooled, lambda z, x, *, size: [z, x, *x.shape, size], dtype=np.int64
)
pick = Kernel(
    "pick", pick_numpy,
    shape=lambda x, k, *, size: k if k == _pooled(x, size=size) else None,
    step=lambda z, x, k, *, size: [z, x, k, *x.shape, size],
    choices=lambda *, size: size * size,
)  # fmt: skip
unpick = Kernel(
    "unpick", unpick_numpy,
    shape=lambda g, k, *, size, shape: shape if g == k == _pooled(shape, size=size) else None,
    step=lambda z, g, k, *, size, shape: [z, g, k, *shape, size],
    choices=lambda *, size, shape: size * size,
)  # fmt: skip
scatter_rows = Kernel(
    "scatter", scatter_rows_numpy, _rows_shape,
    step=lambda z, g, rows, *, shape: [z, g, 1, rows.size, shape[1], 1, rows, shape[0]],
)  # fmt: skip


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
        return scatter_rows(np.reshape(g, (rows.size, width)), rows, shape=(shape[0], width)).reshape(shape)
    z = np.zeros(shape, g.dtype)
    np.add.at(z, index, g)
    return z
