"""A schedule: a program as steps over buffers, each step a fused loop, a matrix product or another kernel.

    layout = lay_out(task)

Five decisions turn equations into steps:

1. What moves nothing costs nothing. reshape, transpose, broadcast_to and slices become views: offset and strides.
2. Elementwise equations and sums over one range of elements share a loop, as long as the order of steps allows. What
   only that loop needs is never stored.
3. A value that one array and some small ones give in a few operations (a ReLU's mask, a normalised activation) is
   computed again where it is wanted, rather than stored and loaded.
4. A product with more patches than the cache holds is made image by image, and its patches with it; one of few rows
   in pieces, which BLAS multiplies without copying them first.
5. Buffers live from their first step to their last, and others take their place: one task's program fits the cache.

Read next: `source`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

from .. import ops
from ..engine import Primitive, alias
from .program import Equation, Program, Var
from .task import Task

ALIGNMENT = 64  # bytes: a cache line, and the widest vector
CHEAP = {
    ops.add, ops.subtract, ops.multiply, ops.maximum, ops.minimum, ops.above, ops.where, ops.astype, ops.equal,
    ops.greater, ops.less,
}  # fmt: skip
DEPTH = 5  # equations that are computed again at most
KINDS = "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"  # what a dtype is called: `source.code`
REACH = 60  # steps back in which a loop to join is looked for
SMALL, FEW = 10**6, 20  # multiplications up to which OpenBLAS does not copy matrices first; rows for which that pays
LARGE, TILE = 1 << 21, 1 << 19  # bytes: patches of more are made in pieces, of about so many if an image has fewer

# A memory begins with these numbers: the task, its chunk; then the addresses of the arrays that tasks are read from and
# results written to.
TASK, CHUNK, ARRAYS = 0, 1, 2
END = 0  # at the end of a list of steps, instead of a function's address


class Unsupported(Exception):
    """What has no machine code here; the message says what."""


class Buffer:
    """Memory for a value: `size` elements of `dtype`, `offset` bytes from the start, which `lay_out` finds.

    `keep`: nothing takes its place.   `value`: of a constant.
    """

    __slots__ = ("dtype", "size", "offset", "keep", "value")

    def __init__(self, dtype, size: int, keep: bool = False, value: np.ndarray | None = None):
        _check_dtype(np.dtype(dtype))
        if not size:
            raise Unsupported("an array of length 0 has no kernel")
        self.dtype, self.size, self.keep, self.value = np.dtype(dtype), size, keep, value
        self.offset = -1

    nbytes = property(lambda self: self.size * self.dtype.itemsize)


class View(NamedTuple):
    """Elements of a buffer as an array: offset and strides in elements."""

    buffer: Buffer
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def flat(self) -> bool:
        """All of the buffer, in order."""
        return self.offset == 0 and self.buffer.size == _volume(self.shape) and self.strides == _strides(self.shape)

    def broadcast(self, shape: tuple[int, ...]) -> View:
        lead = (0,) * (len(shape) - len(self.shape))
        strides = lead + tuple(0 if n == 1 else s for n, s in zip(self.shape, self.strides, strict=True))
        return View(self.buffer, self.offset, shape, strides)

    def transpose(self, axes) -> View:
        return View(self.buffer, self.offset, tuple(self.shape[i] for i in axes), tuple(self.strides[i] for i in axes))

    def reshape(self, shape: tuple[int, ...]) -> View | None:
        """The view with another shape, None where strides cannot say it."""
        runs = _runs(self.shape, self.strides)
        strides = []
        for n in reversed(shape):
            if n == 1:
                strides.append(0)
                continue
            while runs and runs[-1][0] == 1:
                runs.pop()
            size, stride = runs.pop() if runs else (1, 0)
            if size % n:
                return None
            strides.append(stride)
            runs.append((size // n, stride * n))
        return View(self.buffer, self.offset, shape, tuple(reversed(strides)))

    def sliced(self, template: tuple) -> View:
        """x[template], for ints, slices, None and ..."""
        if any(isinstance(part, (bool, np.bool_)) for part in template):
            raise Unsupported(f"an index like {template} has no kernel")  # NumPy would read what lies there
        probe = np.lib.stride_tricks.as_strided(np.empty(0, np.int8), self.shape, self.strides)
        part = probe[template if ... in template else (*template, ...)]  # with ... it is an array, if it is one number
        at = part.__array_interface__["data"][0] - probe.__array_interface__["data"][0]
        if 0 in part.shape:
            raise Unsupported("an array of length 0 has no kernel")
        strides = tuple(0 if n == 1 else s for n, s in zip(part.shape, part.strides, strict=True))
        return View(self.buffer, self.offset + at, part.shape, strides)


def _runs(shape: tuple[int, ...], strides: tuple[int, ...]) -> list[tuple[int, int]]:
    """(length, stride) of the fewest axes that say the same."""
    runs: list[tuple[int, int]] = []
    for n, stride in zip(shape, strides, strict=True):
        if n == 1:
            continue
        if runs and runs[-1][1] == stride * n:
            runs[-1] = runs[-1][0] * n, stride
        else:
            runs.append((n, stride))
    return runs


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Of an array in order; axes of length 1 have stride 0, so that equal layouts compare equal."""
    strides, step = [], 1
    for n in reversed(shape):
        strides.append(step if n != 1 else 0)
        step *= n
    return tuple(reversed(strides))


def _volume(shape) -> int:
    return int(np.prod(shape, dtype=int))


@dataclass(eq=False)
class Call:
    """A step of one kernel: its name, the views it reads and writes, and numbers."""

    kernel: str
    reads: list[View]
    writes: list[View]
    numbers: list[Any] = field(default_factory=list)


@dataclass(eq=False)
class Loop:
    """A step of fused equations over `size` elements.

    Attributes:
        equations: in order, each with the view of every input (a number stays a number), broadcast to the range.
        values: each variable computed, with the view it would be stored to, in order.
        sums: variables that are sums over the range, with the view (stride 0 where it is summed) they are added to.
        stores: those of `values` that are stored.
        cuts: the range as nested loops, see `_cuts`.
        closed: nothing may join.
        roots: the variable that would be stored to a buffer, for each of `values`.
    """

    size: int
    equations: list[tuple[Equation, list]] = field(default_factory=list)
    values: dict[Var, View] = field(default_factory=dict)
    sums: dict[Var, View] = field(default_factory=dict)
    stores: list[Var] = field(default_factory=list)
    cuts: frozenset[int] = frozenset()
    closed: bool = False
    roots: dict[Buffer, Var] = field(default_factory=dict)

    def append(self, e: Equation, operands: list, out: View, cuts: frozenset[int]) -> None:
        self.equations.append((e, operands))
        self.cuts |= cuts
        if e.primitive is ops._sum:
            self.sums[e.output] = out
        else:
            self.values[e.output] = out
            self.roots[out.buffer] = e.output

    def local(self, x: View) -> Var | None:
        """The variable of this loop that x is, element by element."""
        same = x.buffer in self.roots and x.buffer.size == self.size and x.offset == 0 and _is_flat(x)
        return self.roots[x.buffer] if same and not self.closed else None


class Schedule(NamedTuple):
    """Steps, the buffers that hold the outputs, those that must be finite, and those that hold constants."""

    steps: list[Call | Loop]
    outputs: list[Buffer]
    checked: list[Buffer]
    constants: list[Buffer]


def schedule(program: Program, inputs: list[Buffer]) -> Schedule:
    """The steps of a program whose inputs lie in these buffers.

    Raises:
        Unsupported: an equation that has no kernel; names it.
    """
    s = _Scheduler(program, inputs)
    for e in program.equations:
        s.add(e)
    outputs, checked = ([s.output(x) for x in part] for part in (program.outputs, program.checked))
    s.decide_stores([*outputs, *checked])
    return Schedule(s.steps, outputs, checked, list(s.constants.values()))


class _Scheduler:
    def __init__(self, program: Program, inputs: list[Buffer]):
        self.users: dict[Var, set[Primitive | None]] = {}  # None: it is a result
        results = [x for x in (*program.outputs, *program.checked) if isinstance(x, Var)]
        pairs = [(x, e.primitive) for e in program.equations for x in e.inputs if isinstance(x, Var)]
        for x, user in [*pairs, *((x, None) for x in results)]:
            self.users.setdefault(x, set()).add(user)
        self.steps: list[Call | Loop] = []
        self.views: dict[Var, View] = {}
        self.made: dict[Var, tuple[Equation, list, int]] = {}  # by a loop: equation, operands, step
        self.root: dict[Buffer, Var] = {}
        self.ready: dict[Buffer, int] = {}  # the step that writes it
        self.stored: set[Buffer] = set()  # certainly in memory
        self.constants: dict[tuple, Buffer] = {}
        self.later: dict[Buffer, Call] = {}  # steps that are only done if somebody wants all of what they write
        for x, buffer in zip(program.inputs, inputs, strict=True):
            self.views[x] = View(buffer, 0, x.shape, _strides(x.shape))
            self.ready[buffer] = -1
            self.stored.add(buffer)

    # ── equations ──

    def add(self, e: Equation) -> None:
        if e.primitive.elementwise or e.primitive in (ops._sum, alias):
            self.fuse(e)
        elif kernel := KERNELS.get(e.primitive):
            kernel(self, e)
        else:
            raise Unsupported(f"the primitive {e.primitive.name} has no kernel")

    def view(self, x) -> View:
        """Of a variable, or of an array that is constant."""
        view = self.peek(x)
        if view.buffer in self.later:
            self.do(self.later.pop(view.buffer))
        return view

    def peek(self, x) -> View:
        """A view whose numbers may not be there yet."""
        if isinstance(x, Var):
            return self.views[x]
        x = np.asarray(x)
        key = (x.dtype.str, x.shape, x.tobytes())
        if key not in self.constants:
            buffer = self.constants[key] = Buffer(x.dtype, x.size, keep=True, value=np.ascontiguousarray(x))
            self.ready[buffer] = -1
            self.stored.add(buffer)
        return View(self.constants[key], 0, x.shape, _strides(x.shape))

    def new(self, e: Equation) -> View:
        buffer = Buffer(e.output.dtype, e.output.size)
        self.root[buffer] = e.output
        view = self.views[e.output] = View(buffer, 0, e.output.shape, _strides(e.output.shape))
        return view

    def call(self, e: Equation, kernel: str, reads: list[View], *numbers) -> View:
        out = self.new(e)
        step = Call(kernel, reads, [out], list(numbers))
        if kernel in ("patches", "matmul") and out.buffer.nbytes > LARGE:
            self.stored.update(x.buffer for x in (*reads, out))
            self.later[out.buffer] = step
        else:
            self.do(step)
        return out

    def do(self, step: Call) -> None:
        self.stored.update(x.buffer for x in (*step.reads, *step.writes))
        self.ready.update((x.buffer, len(self.steps)) for x in step.writes)
        self.steps.append(step)

    def dense(self, x) -> View:
        """A view of x in order, copied if need be."""
        view = x if isinstance(x, View) else self.view(x)
        if view.flat:
            return view
        z = Var(view.shape, view.buffer.dtype)
        self.fuse(Equation(alias, (view,), {}, z))
        return self.views[z]

    # ── loops ──

    def fuse(self, e: Equation) -> None:
        """Into the best loop that the order of steps allows, or a new one."""
        domain = _range_of(e)
        operands = [self._operand(x, domain) for x in e.inputs]
        out = self.new(e)
        if e.primitive is ops._sum:
            kept = tuple(1 if i in e.params["axis"] else n for i, n in enumerate(domain))
            out = View(out.buffer, 0, domain, _strides(kept))
        size, cuts = _volume(domain), _cuts(domain, [*operands, out])
        best, best_score = len(self.steps), 0
        for at in range(len(self.steps) - 1, max(len(self.steps) - REACH, 0) - 1, -1):
            loop = self.steps[at]
            if isinstance(loop, Loop) and loop.size == size and not loop.closed and _chain(loop.cuts | cuts):
                score = self._fits(loop, at, operands)
                if score > best_score:
                    best, best_score = at, score
        if best == len(self.steps):
            self.steps.append(Loop(size))
        loop = self.steps[best]
        for x in operands:
            if isinstance(x, View):
                self._recompute(loop, best, x)
        loop.append(e, operands, out, cuts)
        self.ready[out.buffer] = best
        if e.primitive is ops._sum:
            self.stored.add(out.buffer)
        else:
            self.made[e.output] = (e, operands, best)

    def _operand(self, x, domain: tuple[int, ...]):
        """A view over the range, or a number."""
        if not isinstance(x, (Var, View)) and np.size(x) == 1:
            return np.asarray(x).item()
        return (x if isinstance(x, View) else self.view(x)).broadcast(domain)

    def _fits(self, loop: Loop, at: int, operands: list) -> int:
        """How much an equation with these operands would share with the loop at step `at`; 0: it may not join."""
        score = 0
        read = {x.buffer for _, views in loop.equations for x in views if isinstance(x, View)}
        for x in operands:
            if not isinstance(x, View):
                continue
            if loop.local(x):
                score += 2
            elif self.ready[x.buffer] >= at:
                return 0
            else:
                score += x.buffer in read
        return score

    def _recompute(self, loop: Loop, at: int, x: View) -> None:
        """Compute x in the loop again, if that is cheaper than to load it."""
        root = self.root.get(x.buffer)
        if root not in self.made or loop.local(x) or x.buffer in self.stored:
            return
        if not _is_flat(x) or x.buffer.size != loop.size or (chain := self._cheap(root, loop.size)) is None:
            return
        steps = [(e, operands, self.views[e.output]) for e, operands in chain]
        cuts = [_cuts(e.output.shape, operands) for e, operands, _ in steps]
        if _chain(loop.cuts.union(*cuts)):
            for (e, operands, out), cut in zip(steps, cuts, strict=True):
                if e.output not in loop.values:
                    loop.append(e, operands, out, cut)

    def _cheap(self, x: Var, size: int) -> list | None:
        """The equations, at most DEPTH, that make x of one array in memory and small ones; None if there are more."""
        chain: list = []
        large: set[Buffer] = set()

        def visit(x: Var) -> bool:
            e, operands, _ = self.made[x]
            if e.primitive not in CHEAP or len(chain) >= DEPTH:
                return False
            for y in operands:
                if not isinstance(y, View):
                    continue
                root = self.root.get(y.buffer)
                if y.buffer in self.stored or 4 * y.buffer.size <= size:
                    if 4 * y.buffer.size > size:
                        large.add(y.buffer)
                elif root not in self.made or not _is_flat(y) or not visit(root):
                    return False
            chain.append((e, operands))
            return len(large) <= 1

        return chain if visit(x) else None

    # ── layout ──

    def _layout(self, e: Equation, view: View | None) -> None:
        self.views[e.output] = self.dense(e.inputs[0]).reshape(e.output.shape) if view is None else view

    def _reshape(self, e):
        self._layout(e, self.peek(e.inputs[0]).reshape(e.output.shape))

    def _transpose(self, e):
        self._layout(e, self.peek(e.inputs[0]).transpose(e.params["axes"]))

    def _broadcast_to(self, e):
        self._layout(e, self.view(e.inputs[0]).broadcast(e.output.shape))

    def _getitem(self, e):
        x, *arrays = e.inputs
        if not arrays:
            return self._layout(e, self.view(x).sliced(e.params["template"]))
        view, indices, sizes = self._indexed(e, x, arrays, x.shape if isinstance(x, Var) else np.shape(x))
        self.call(e, "gather", [view, *indices], *sizes)

    def _indexed(self, e, x, arrays: list, shape: tuple[int, ...]):
        """x, the index arrays in order, and the sizes (outer, picked, block, length of each indexed axis)."""
        template = e.params["template"]
        if ... in template and None not in template:
            at = template.index(...)
            template = template[:at] + (slice(None),) * (len(shape) - len(template) + 1) + template[at + 1 :]
        while template[-1] == slice(None):
            template = template[:-1]
        start = next(i for i, part in enumerate(template) if part is ops.ARRAY)
        plain = all(isinstance(part, slice) and part == slice(None) for part in template[:start])
        if not plain or template[start:] != (ops.ARRAY,) * len(arrays):
            raise Unsupported(f"an index like {template} has no kernel")
        picked = np.broadcast_shapes(*(np.shape(a) if not isinstance(a, Var) else a.shape for a in arrays))
        indices = []
        for a, n in zip(arrays, shape[start:], strict=False):
            if not isinstance(a, Var):  # a negative index of an input is not followed: it may be a label for "none"
                a = np.asarray(a, np.int64)
                a = np.where(a < 0, a + n, a)
            z = Var(picked, np.dtype(np.int64))
            self.fuse(Equation(alias, (self.view(a).broadcast(picked),), {}, z))
            indices.append(self.views[z])
        axes = shape[start : start + len(arrays)]
        sizes = [_volume(shape[:start]), _volume(picked), _volume(shape[start + len(arrays) :]), *axes]
        return self.dense(x), indices, sizes

    def _scatter_add(self, e):
        g, *arrays = e.inputs
        if arrays:
            if e.output.dtype == bool:
                raise Unsupported("booleans that are added at an index have no kernel")
            view, indices, sizes = self._indexed(e, g, arrays, e.params["shape"])
            self.call(e, "scatter", [view, *indices], *sizes)
            return
        out = self.call(e, "zero", [])
        self._fill(out.sliced(e.params["template"]), g)

    def _concatenate(self, e):
        out = self.call(e, "zero", [])
        start, axis = 0, e.params["axis"]
        for x in e.inputs:
            stop = start + (x.shape if isinstance(x, Var) else np.shape(x))[axis]
            self._fill(out.sliced((slice(None),) * axis + (slice(start, stop),)), x)
            start = stop

    def _fill(self, target: View, x) -> None:
        """x into part of a buffer, by a loop of its own."""
        x = self.view(x).broadcast(target.shape)
        self.stored.add(x.buffer)
        z = Var(target.shape, target.buffer.dtype)
        loop = Loop(_volume(target.shape), stores=[z], closed=True)
        loop.append(Equation(alias, (x,), {}, z), [x], target, _cuts(target.shape, [x, target]))
        self.ready[target.buffer] = len(self.steps)
        self.steps.append(loop)

    # ── kernels ──

    def _matmul(self, e):
        a = self.peek(e.inputs[0])
        patches = self.later.get(a.buffer)
        if patches and patches.kernel == "patches" and len(a.shape) == 2:
            for transposed, matrix in ((False, a), (True, a.transpose((1, 0)))):
                if matrix.flat and matrix.shape[1] == _patch_size(patches.numbers):
                    return self._product_of_patches(e, patches, transposed)
        lead = e.output.shape[:-2]
        a, b = (self._matrices(x, self.view(x), lead) for x in e.inputs)
        count, rows, inner = a.shape
        if e.output.dtype.kind != "f":
            if {a.buffer.dtype, b.buffer.dtype} != {e.output.dtype}:
                raise Unsupported(f"a matrix product of {a.buffer.dtype} and {b.buffer.dtype} has no kernel")
            truths = int(e.output.dtype == bool)
            self.call(e, "product", [a, b], truths, count, rows, b.shape[2], inner, *a.strides, *b.strides)
            return
        if count == 1 and rows <= FEW and rows * inner * b.shape[-1] > SMALL:
            return self._product_of_few_rows(e, a, b)
        self.call(e, "matmul", [a, b])

    def _product_of_few_rows(self, e: Equation, a: View, b: View) -> None:
        """Σᵢ Aᵢ Bᵢ, over pieces of what is summed over."""
        _, rows, inner = a.shape
        pieces = min(-(-rows * inner * b.shape[-1] // SMALL), inner)
        out = self.new(e)
        for i in range(pieces):
            part = slice(inner * i // pieces, inner * (i + 1) // pieces)
            self.do(Call("matmul", [_part(a, part, 2), _part(b, part, 1)], [out], [int(i > 0)]))

    def _matrices(self, x, view: View, lead: tuple[int, ...]) -> View:
        """Matrices that BLAS can read: rows or columns in order, one stride from each to the next."""
        rows, columns = view.strides[-2:]
        m, n = view.shape[-2:]
        in_rows = (columns == 1 or n == 1) and (rows >= n or m == 1)
        straight = in_rows or ((rows == 1 or m == 1) and (columns >= m or n == 1))
        view = view.broadcast((*lead, m, n)) if straight else view
        if not straight or (lead and view.reshape((_volume(lead), m, n)) is None):
            view = self.dense(x).broadcast((*lead, m, n))
            if lead and view.reshape((_volume(lead), m, n)) is None:
                raise Unsupported("a matrix product that broadcasts over several axes has no kernel")
        return view.reshape((_volume(lead), m, n))

    def _patches(self, e):
        numbers = self._windows(e, e.inputs[0].shape, e.output.shape)
        self.call(e, "patches", [self.dense(e.inputs[0])], *numbers)

    def _unpatches(self, e):
        x, numbers = self.peek(e.inputs[0]), self._windows(e, e.output.shape, e.inputs[0].shape)
        product = self.later.get(x.buffer)
        if product and product.kernel == "matmul" and x.flat and product.writes[0].shape[1:] == (_patch_size(numbers),):
            return self._images_of_product(e, product, numbers)
        self.call(e, "unpatches", [self.dense(e.inputs[0])], *numbers)

    def _windows(self, e, image, windows) -> list[int]:
        (top, _), (left, _) = e.params["padding"]
        return [*image, *windows[1:3], *e.params["size"], e.params["stride"], top, left]

    def _product_of_patches(self, e: Equation, patches: Call, transposed: bool) -> None:
        """In pieces: a piece's patches, then its rows of P B, or its summand of Pᵀ B."""
        b = self._matrices(e.inputs[1], self.view(e.inputs[1]), ())
        out = self.new(e)
        for images, numbers, rows, tile in _pieces(patches.numbers, out.buffer.dtype):
            self.do(Call("patches", [_part(patches.reads[0], images, 0)], [tile], numbers))
            if transposed:
                self.do(Call("matmul", [tile.transpose((0, 2, 1)), _part(b, rows, 1)], [out], [int(images.start > 0)]))
            else:
                self.do(Call("matmul", [tile, b], [_part(out, rows, 0)]))

    def _images_of_product(self, e: Equation, product: Call, numbers: list[int]) -> None:
        """In pieces: a piece's rows of A B, which are added up to images."""
        a, b = product.reads
        out = self.new(e)
        for images, numbers_, rows, tile in _pieces(numbers, out.buffer.dtype):
            self.do(Call("matmul", [_part(a, rows, 1), b], [tile]))
            self.do(Call("unpatches", [tile], [_part(out, images, 0)], numbers_))

    def _pool_argmax(self, e):
        out = self.call(e, "pool_argmax", [self.dense(e.inputs[0])], *e.inputs[0].shape, e.params["size"])
        if self.users[e.output] <= {ops.pick, ops.unpick} and e.params["size"] <= 11:
            out.buffer.dtype = np.dtype(np.int8)  # nobody else sees it, and it is an eighth of the memory

    def _pick(self, e):
        self.call(e, "pick", [self.dense(x) for x in e.inputs], *e.inputs[0].shape, e.params["size"])

    def _unpick(self, e):
        self.call(e, "unpick", [self.dense(x) for x in e.inputs], *e.output.shape, e.params["size"])

    def _max(self, e):
        self._reduction(e, "largest")

    def _argmax(self, e):
        self._reduction(e, "argmax")

    def _argmin(self, e):
        self._reduction(e, "argmin")

    def _cumsum(self, e):
        self._reduction(e, "cumsum")

    def _reduction(self, e, kernel: str):
        """Over axes that lie together, or are made to: sizes (before, of them, after)."""
        axis = e.params["axis"]
        shape = e.inputs[0].shape
        axis = tuple(range(len(shape))) if axis is None else (axis,) if isinstance(axis, int) else axis
        axis = sorted(i % len(shape) for i in axis)
        if not axis:  # of one element: it is the largest, and the first
            return self._layout(e, self.view(e.inputs[0])) if kernel == "largest" else self.call(e, "zero", [])
        x = e.inputs[0]
        if axis != list(range(axis[0], axis[-1] + 1)):
            kept = [i for i in range(len(shape)) if i not in axis]
            x = self.view(x).transpose((*kept, *axis))
            shape, axis = x.shape, range(len(kept), len(shape))
        sizes = _volume(shape[: axis[0]]), _volume(shape[axis[0] : axis[-1] + 1]), _volume(shape[axis[-1] + 1 :])
        self.call(e, kernel, [self.dense(x)], *sizes)

    # ── the end ──

    def output(self, x) -> Buffer:
        view = self.view(x)
        if not view.flat or view.buffer.keep:  # an output is a buffer of its own, in order
            z = Var(view.shape, view.buffer.dtype)
            self.fuse(Equation(alias, (view,), {}, z))
            view = self.views[z]
        view.buffer.keep = True
        self.stored.add(view.buffer)
        return view.buffer

    def decide_stores(self, outputs: list[Buffer]) -> None:
        """What other steps read is stored; what nothing reads is not computed."""
        wanted = set(outputs)
        for at in range(len(self.steps) - 1, -1, -1):
            step = self.steps[at]
            if isinstance(step, Call):
                wanted.update(view.buffer for view in step.reads)
                continue
            needed = set(step.stores)
            for x, view in step.values.items():
                if self.made.get(x, (0, 0, at))[2] == at and view.buffer in wanted and x not in step.stores:
                    step.stores.append(x)
                    needed.add(x)
            needed.update(x for x, view in step.sums.items() if view.buffer in wanted)
            alive = []
            for e, operands in reversed(step.equations):
                if e.output not in needed:
                    continue
                alive.append((e, operands))
                for x in operands:
                    if isinstance(x, View):
                        inside = step.local(x)
                        needed.add(inside) if inside else wanted.add(x.buffer)
            step.equations = alive[::-1]
            step.values = {x: v for x, v in step.values.items() if x in needed}
            step.sums = {x: v for x, v in step.sums.items() if x in needed}
            step.roots = {v.buffer: x for x, v in step.values.items()}
            views = [*step.sums.values(), *(step.values[x] for x in step.stores)]
            step.cuts = frozenset().union(*(_cuts(v.shape, [v]) for v in views))
            step.cuts = step.cuts.union(*(_cuts(_range_of(e), operands) for e, operands in step.equations))
        self.steps = [s for s in self.steps if isinstance(s, Call) or s.equations]


KERNELS: dict[Primitive, Callable[[_Scheduler, Equation], Any]] = {
    ops._reshape: _Scheduler._reshape, ops._transpose: _Scheduler._transpose,
    ops._broadcast_to: _Scheduler._broadcast_to, ops.getitem: _Scheduler._getitem,
    ops.scatter_add: _Scheduler._scatter_add, ops.concatenate: _Scheduler._concatenate,
    ops._matmul: _Scheduler._matmul, ops.patches: _Scheduler._patches, ops.unpatches: _Scheduler._unpatches,
    ops.pool_argmax: _Scheduler._pool_argmax, ops.pick: _Scheduler._pick, ops.unpick: _Scheduler._unpick,
    ops._max: _Scheduler._max, ops.argmax: _Scheduler._argmax, ops.argmin: _Scheduler._argmin,
    ops._cumsum: _Scheduler._cumsum,
}  # fmt: skip


def _pieces(numbers: list[int], dtype: np.dtype) -> Iterator[tuple[slice, list[int], slice, View]]:
    """Some images at a time: which they are, the numbers of the kernel for them, which rows of all patches are theirs,
    and a place for these rows, the same for all pieces."""
    n, _, _, _, rows, columns, *_ = numbers
    size, each = _patch_size(numbers), rows * columns
    count = min(max(TILE // (each * size * dtype.itemsize), 1), n)
    tile = Buffer(dtype, count * each * size)
    for first in range(0, n, count):
        images = slice(first, min(first + count, n))
        here = images.stop - first
        view = View(tile, 0, (1, here * each, size), (0, size, 1))
        yield images, [here, *numbers[1:]], slice(first * each, images.stop * each), view


def _patch_size(numbers: list[int]) -> int:
    _, _, _, c, _, _, height, width, *_ = numbers
    return height * width * c


def _part(view: View, rows: slice, axis: int) -> View:
    """Some of the rows along an axis."""
    shape = (*view.shape[:axis], rows.stop - rows.start, *view.shape[axis + 1 :])
    return View(view.buffer, view.offset + rows.start * view.strides[axis], shape, view.strides)


def _range_of(e: Equation) -> tuple[int, ...]:
    """The shape of the elements that an equation goes over."""
    return e.inputs[0].shape if e.primitive is ops._sum else e.output.shape


def _is_flat(view: View) -> bool:
    return view.strides == _strides(view.shape)


def _cuts(domain: tuple[int, ...], operands: list) -> frozenset[int]:
    """Where a range must be cut for every operand to have one stride in each piece: the sizes of what lies inside."""
    cuts = set()
    for x in operands:
        if isinstance(x, View):
            inner = 1
            for n, _ in _runs(domain, x.strides)[:0:-1]:
                inner *= n
                cuts.add(inner)
    return frozenset(cuts)


def _chain(cuts: frozenset[int]) -> bool:
    """Each divides the next, so that loops can be nested."""
    order = sorted(cuts)
    return all(b % a == 0 for a, b in zip(order, order[1:], strict=False))


def _check_dtype(dtype: np.dtype) -> None:
    if dtype.str[1:] not in KINDS or not dtype.isnative:
        raise Unsupported(f"the dtype {dtype} has no kernels")


# ── buffers ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _touched(step: Call | Loop) -> tuple[set[Buffer], set[Buffer]]:
    """The buffers a step reads, and those it writes."""
    if isinstance(step, Call):
        return {v.buffer for v in step.reads}, {v.buffer for v in step.writes}
    views = [x for _, operands in step.equations for x in operands if isinstance(x, View)]
    writes = {step.values[x].buffer for x in step.stores} | {v.buffer for v in step.sums.values()}
    return {x.buffer for x in views if not step.local(x)}, writes


class LaidPart(NamedTuple):
    """A part of a task: its steps, and the buffers its outputs are wanted in."""

    schedule: Schedule
    writes: list[Buffer]


class Run(NamedTuple):
    """Neighbouring buffers of one dtype: the first, the elements from there to the end, each one's (start, shape)."""

    first: Buffer
    size: int
    parts: list[tuple[int, tuple[int, ...]]]


class Layout(NamedTuple):
    """A task in memory: `nbytes` for each thread."""

    shared: int
    inputs: list[Buffer]
    parts: dict[str, LaidPart]
    moves: list[str]
    results: list[Buffer]
    sums: list[Run]
    constants: list[Buffer]
    float: np.dtype  # of θ, or of the first input that has one
    theta: int  # where θ lies
    theta_bytes: int
    stack: Buffer  # for the θₖ that are kept
    nbytes: int


def lay_out(task: Task) -> Layout:
    """Steps for every part of a task, and a place for every buffer.

    Slots, stack and constants come first, each on its own. What the parts compute lies behind them, one part's over
    another's; within a part, first fit in the order of time.

    Raises:
        Unsupported: something has no kernel; names it.
    """
    slots = [Buffer(x.dtype, x.size, keep=True) for x in task.slots]
    parts, constants = {}, []
    for name, part in task.parts.items():
        plan = schedule(part.program, [slots[i] for i in part.reads])
        constants += plan.constants
        parts[name] = LaidPart(plan, [slots[i] for i in part.writes])
    theta_bytes = sum(_rounded(x.nbytes) for x in slots[: task.thetas])
    depth = max(accumulate({"push": 1, "pop": -1}.get(move, 0) for move in task.moves))
    stack = Buffer(np.int8, max(depth * theta_bytes, 1), keep=True)
    results = [slots[i] for i in task.results if isinstance(i, int)]
    end = _rounded(8 * (ARRAYS + task.inputs + len(results) + len(task.sums)))
    for buffer in (*slots, stack, *constants):
        buffer.offset, end = end, end + _rounded(buffer.nbytes)
    for name, part in task.parts.items():  # what a slot is not read for, is computed in its place
        for x, i in zip(parts[name].schedule.outputs, part.writes, strict=True):
            if x.offset < 0 and i not in part.reads:
                x.offset = slots[i].offset
    nbytes = max(_place(part.schedule.steps, end) for part in parts.values())
    sums: list[Run] = []
    for i in task.sums:
        x = slots[i]
        first, _, places = sums.pop() if sums and sums[-1].first.dtype == x.dtype else Run(x, 0, [])
        start = (x.offset - first.offset) // x.dtype.itemsize
        sums.append(Run(first, start + x.size, [*places, (start, task.slots[i].shape)]))
    at = slots[0].offset if slots else 0
    float = next((x.dtype for x in slots if x.dtype.kind == "f"), np.dtype(np.float64))
    return Layout(
        task.shared, slots[: task.inputs], parts, task.moves, results, sums, constants,
        float, at, theta_bytes, stack, nbytes,
    )  # fmt: skip


def _place(steps: list[Call | Loop], start: int) -> int:
    first: dict[int, list[Buffer]] = {}
    last: dict[Buffer, int] = {}
    for at, step in enumerate(steps):
        reads, writes = _touched(step)
        for buffer in sorted(reads | writes, key=lambda b: -b.nbytes):
            if buffer not in last and buffer.offset < 0:
                first.setdefault(at, []).append(buffer)
            last[buffer] = len(steps) if buffer.keep else at
    holes = [(start, 1 << 62)]  # (offset, bytes)
    leaving: dict[int, list[Buffer]] = {}
    end = start
    for at in range(len(steps)):
        for buffer in leaving.pop(at, ()):
            holes = _merged(holes, (buffer.offset, _rounded(buffer.nbytes)))
        for buffer in first.get(at, ()):
            need = _rounded(buffer.nbytes)
            i = next(i for i, (_, room) in enumerate(holes) if room >= need)
            offset, room = holes[i]
            buffer.offset, end = offset, max(end, offset + need)
            holes[i : i + 1] = [(offset + need, room - need)] if room > need else []
            leaving.setdefault(last[buffer] + 1, []).append(buffer)
    return end


def _rounded(nbytes: int) -> int:
    return max(-(-nbytes // ALIGNMENT), 1) * ALIGNMENT


def _merged(holes: list[tuple[int, int]], hole: tuple[int, int]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, room in sorted([*holes, hole]):
        if merged and merged[-1][0] + merged[-1][1] == start:
            merged[-1] = (merged[-1][0], merged[-1][1] + room)
        else:
            merged.append((start, room))
    return merged
