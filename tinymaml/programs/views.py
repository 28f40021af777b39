"""Views: values as memory. A buffer holds the elements; a view says which of them, in which order, are an array.

    x = Buffer(np.float32, 6)                         6 elements, whose place in memory `placement` finds later
    View(x, 0, (2, 3), (3, 1))                        all of them as an array (2, 3), in order
    View(x, 0, (2, 3), (3, 1)).transpose((1, 0))      the same elements as (3, 2): strides (1, 3), nothing is moved

An operation that only looks at elements in another way (reshape, transpose, broadcast_to, slices) makes another view,
and costs nothing when the program runs. Read next: `fusion`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

KINDS = "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"  # dtypes that have kernels, see `code`


class Unsupported(Exception):
    """Something has no machine code here; the message says what."""


def code(dtype: np.dtype) -> str:
    """`f4`: how generated source calls a dtype."""
    return dtype.str[1:]


class Buffer:
    """Memory for a value.

    Attributes:
        dtype, size: of its elements, and how many there are.
        offset: bytes from the start of the memory, −1 until `placement` has found a place.
        keep: no other buffer takes its place later.
        value: the elements of a constant, otherwise None.

    Raises:
        Unsupported: there is no kernel for the dtype, or for no elements at all.
    """

    __slots__ = ("dtype", "size", "offset", "keep", "value")

    def __init__(self, dtype, size: int, keep: bool = False, value: np.ndarray | None = None):
        dtype = np.dtype(dtype)
        if code(dtype) not in KINDS or not dtype.isnative:
            raise Unsupported(f"the dtype {dtype} has no kernels")
        if not size:
            raise Unsupported("an array of length 0 has no kernel")
        self.dtype, self.size, self.keep, self.value = dtype, size, keep, value
        self.offset = -1

    nbytes = property(lambda self: self.size * self.dtype.itemsize)


class View(NamedTuple):
    """Elements of a buffer as an array: offset and strides are in elements."""

    buffer: Buffer
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def in_order(self) -> bool:
        """Each element follows the one before it."""
        return self.strides == strides_of(self.shape)

    @property
    def is_whole(self) -> bool:
        """All of the buffer, in order."""
        return self.offset == 0 and self.buffer.size == volume(self.shape) and self.in_order

    def broadcast(self, shape: tuple[int, ...]) -> View:
        lead = (0,) * (len(shape) - len(self.shape))
        strides = lead + tuple(0 if n == 1 else s for n, s in zip(self.shape, self.strides, strict=True))
        return View(self.buffer, self.offset, shape, strides)

    def transpose(self, axes) -> View:
        return View(self.buffer, self.offset, tuple(self.shape[i] for i in axes), tuple(self.strides[i] for i in axes))

    def reshape(self, shape: tuple[int, ...]) -> View | None:
        """The view with another shape, None where strides cannot express it."""
        axes = merged_axes(self.shape, self.strides)
        strides = []
        for n in reversed(shape):
            if n == 1:
                strides.append(0)
                continue
            while axes and axes[-1][0] == 1:
                axes.pop()
            size, stride = axes.pop() if axes else (1, 0)
            if size % n:
                return None
            strides.append(stride)
            axes.append((size // n, stride * n))
        return View(self.buffer, self.offset, shape, tuple(reversed(strides)))

    def sliced(self, template: tuple) -> View:
        """x[template], for ints, slices, None and ..."""
        if any(isinstance(part, (bool, np.bool_)) for part in template):
            raise Unsupported(f"an index like {template} has no kernel")  # NumPy would read the elements
        probe = np.lib.stride_tricks.as_strided(np.empty(0, np.int8), self.shape, self.strides)
        part = probe[template if ... in template else (*template, ...)]  # with ... even one number is an array
        at = part.__array_interface__["data"][0] - probe.__array_interface__["data"][0]
        if 0 in part.shape:
            raise Unsupported("an array of length 0 has no kernel")
        strides = tuple(0 if n == 1 else s for n, s in zip(part.shape, part.strides, strict=True))
        return View(self.buffer, self.offset + at, part.shape, strides)

    def rows(self, which: slice, axis: int) -> View:
        """Some of the rows along an axis: start and stop are given, and lie inside."""
        shape = (*self.shape[:axis], which.stop - which.start, *self.shape[axis + 1 :])
        return View(self.buffer, self.offset + which.start * self.strides[axis], shape, self.strides)


def volume(shape) -> int:
    """The number of elements."""
    return int(np.prod(shape, dtype=int))


def strides_of(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides of an array in order; axes of length 1 have stride 0, so that equal layouts compare equal."""
    strides, step = [], 1
    for n in reversed(shape):
        strides.append(step if n != 1 else 0)
        step *= n
    return tuple(reversed(strides))


def merged_axes(shape: tuple[int, ...], strides: tuple[int, ...]) -> list[tuple[int, int]]:
    """The fewest axes, as (length, stride), that go through the same elements in the same order."""
    axes: list[tuple[int, int]] = []
    for n, stride in zip(shape, strides, strict=True):
        if n == 1:
            continue
        if axes and axes[-1][1] == stride * n:
            axes[-1] = axes[-1][0] * n, stride
        else:
            axes.append((n, stride))
    return axes
