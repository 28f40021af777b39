"""Lowering: what each primitive becomes: another view, part of a loop, or a call of a kernel.

    steps = schedule(program, inputs)

A primitive names its lowering where it is defined (`description.Description.lowering`); the functions below are
registered under these names. "loop" puts an equation into a fused loop, "kernel" calls the kernel that its NumPy
function is, the others have one use each. Two of them decide more:

- Convolution. A product with more patches than the cache holds is made image by image, and its patches with it.
- A product of few rows is made in pieces, which BLAS multiplies without copying them first.

Read next: `placement`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from .. import ops
from .fusion import Fusion, KernelCall, Loop
from .program import Equation, Program, Var
from .views import Buffer, Unsupported, View, volume

SMALL = 10**6  # multiplications: OpenBLAS copies the matrices of a larger product first
FEW = 20  # rows: with more, a product is worth these copies
LARGE = 1 << 21  # bytes: patches that take more are made in pieces
TILE = 1 << 19  # bytes of a piece of patches, at least one image


class Schedule(NamedTuple):
    """Steps, the buffers that hold the outputs, those that must be finite, and those that hold constants."""

    steps: list[KernelCall | Loop]
    outputs: list[Buffer]
    checked: list[Buffer]
    constants: list[Buffer]


def schedule(program: Program, inputs: list[Buffer]) -> Schedule:
    """The steps of a program whose inputs lie in these buffers.

    Raises:
        Unsupported: an equation that has no kernel; names it.
    """
    f = Fusion(program, inputs)
    for e in program.equations:
        lowering = LOWERINGS.get(e.primitive.description.lowering or "")
        if lowering is None:
            raise Unsupported(f"the primitive {e.primitive.name} has no kernel")
        lowering(f, e)
    outputs, checked = ([f.output(x) for x in part] for part in (program.outputs, program.checked))
    f.decide_stores([*outputs, *checked])
    return Schedule(f.steps, outputs, checked, list(f.constants.values()))


Lowering = Callable[[Fusion, Equation], Any]
LOWERINGS: dict[str, Lowering] = {"loop": Fusion.fuse}


def lowers(*names: str) -> Callable[[Lowering], Lowering]:
    """Register a lowering `f(fusion, equation)` under these names."""

    def register(lowering: Lowering) -> Lowering:
        LOWERINGS.update(dict.fromkeys(names, lowering))
        return lowering

    return register


# ── views ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@lowers("reshape")
def _reshape(f: Fusion, e: Equation) -> None:
    shape = e.output.shape
    f.views[e.output] = f.peek(e.inputs[0]).reshape(shape) or f.dense(e.inputs[0]).reshape(shape)


@lowers("transpose")
def _transpose(f: Fusion, e: Equation) -> None:
    f.views[e.output] = f.peek(e.inputs[0]).transpose(e.params["axes"])


@lowers("broadcast_to")
def _broadcast_to(f: Fusion, e: Equation) -> None:
    f.views[e.output] = f.view(e.inputs[0]).broadcast(e.output.shape)


@lowers("getitem")
def _getitem(f: Fusion, e: Equation) -> None:
    x, *arrays = e.inputs
    if not arrays:
        f.views[e.output] = f.view(x).sliced(e.params["template"])
        return
    view, indices, sizes = _indexed(f, e, x, arrays, x.shape if isinstance(x, Var) else np.shape(x))
    f.call(e, "gather", [view, *indices], *sizes)


# ── indexing ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _indexed(f: Fusion, e: Equation, x, arrays: list, shape: tuple[int, ...]):
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
        indices.append(f.copied(f.view(a).broadcast(picked), np.int64))
    axes = shape[start : start + len(arrays)]
    sizes = [volume(shape[:start]), volume(picked), volume(shape[start + len(arrays) :]), *axes]
    return f.dense(x), indices, sizes


@lowers("scatter_add")
def _scatter_add(f: Fusion, e: Equation) -> None:
    g, *arrays = e.inputs
    if arrays:
        view, indices, sizes = _indexed(f, e, g, arrays, e.params["shape"])
        f.call(e, "scatter", [view, *indices], *sizes)
    else:
        f.fill(f.call(e, "zero", []).sliced(e.params["template"]), g)


@lowers("concatenate")
def _concatenate(f: Fusion, e: Equation) -> None:
    out = f.call(e, "zero", [])
    start, axis = 0, e.params["axis"]
    for x in e.inputs:
        stop = start + (x.shape if isinstance(x, Var) else np.shape(x))[axis]
        f.fill(out.sliced((slice(None),) * axis + (slice(start, stop),)), x)
        start = stop


# ── matrix products ─────────────────────────────────────────────────────────────────────────────────────────────────


@lowers("matmul")
def _matmul(f: Fusion, e: Equation) -> None:
    a = f.peek(e.inputs[0])
    patches = f.later.get(a.buffer)
    if patches and patches.kernel == "patches" and len(a.shape) == 2:
        for transposed, matrix in ((False, a), (True, a.transpose((1, 0)))):
            if matrix.is_whole and matrix.shape[1] == patches.writes[0].shape[-1]:
                return _product_of_patches(f, e, patches, transposed)
    lead = e.output.shape[:-2]
    a, b = (_matrices(f, x, f.view(x), lead) for x in e.inputs)
    count, rows, inner = a.shape
    if e.output.dtype.kind != "f":
        if {a.buffer.dtype, b.buffer.dtype} != {e.output.dtype}:
            raise Unsupported(f"a matrix product of {a.buffer.dtype} and {b.buffer.dtype} has no kernel")
        truths = int(e.output.dtype == bool)
        f.call(e, "product", [a, b], truths, count, rows, b.shape[2], inner, *a.strides, *b.strides)
    elif count == 1 and rows <= FEW and rows * inner * b.shape[-1] > SMALL:
        _product_of_few_rows(f, e, a, b)
    else:
        f.call(e, "matmul", [a, b], later=_is_large(e))


def _matrices(f: Fusion, x, view: View, lead: tuple[int, ...]) -> View:
    """Matrices that BLAS can read: rows or columns in order, one stride from each matrix to the next."""
    rows, columns = view.strides[-2:]
    m, n = view.shape[-2:]
    in_rows = (columns == 1 or n == 1) and (rows >= n or m == 1)
    straight = in_rows or ((rows == 1 or m == 1) and (columns >= m or n == 1))
    view = view.broadcast((*lead, m, n)) if straight else view
    if not straight or (lead and view.reshape((volume(lead), m, n)) is None):
        view = f.dense(x).broadcast((*lead, m, n))
        if lead and view.reshape((volume(lead), m, n)) is None:
            raise Unsupported("a matrix product that broadcasts over several axes has no kernel")
    return view.reshape((volume(lead), m, n))


def _product_of_few_rows(f: Fusion, e: Equation, a: View, b: View) -> None:
    """A B = Σᵢ Aᵢ Bᵢ, over pieces of what is summed over."""
    _, rows, inner = a.shape
    pieces = min(-(-rows * inner * b.shape[-1] // SMALL), inner)
    out = f.new(e)
    for i in range(pieces):
        part = slice(inner * i // pieces, inner * (i + 1) // pieces)
        f.do(KernelCall("matmul", [a.rows(part, 2), b.rows(part, 1)], [out], [int(i > 0)]))


# ── patches ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _is_large(e: Equation) -> bool:
    return e.output.size * e.output.dtype.itemsize > LARGE


def _kernel_numbers(e: Equation) -> list[int]:
    """The numbers of a step of the kernel that the primitive's NumPy function is."""
    _, *step = e.primitive.forward.step(e.output, *e.inputs, **e.params)
    return step[len(e.inputs) :]


@lowers("kernel")
def _kernel(f: Fusion, e: Equation, later: bool = False) -> View:
    return f.call(e, e.primitive.forward.name, [f.dense(x) for x in e.inputs], *_kernel_numbers(e), later=later)


@lowers("patches")
def _patches(f: Fusion, e: Equation) -> None:
    _kernel(f, e, later=_is_large(e))


@lowers("unpatches")
def _unpatches(f: Fusion, e: Equation) -> None:
    g = f.peek(e.inputs[0])
    product, size = f.later.get(g.buffer), e.inputs[0].shape[-1]
    if product and product.kernel == "matmul" and g.is_whole and product.writes[0].shape[1:] == (size,):
        _images_of_product(f, e, product, size)
    else:
        _kernel(f, e)


def _product_of_patches(f: Fusion, e: Equation, patches: KernelCall, transposed: bool) -> None:
    """P B or Pᵀ B, piece by piece: the patches of some images, then their rows of P B, or their summand of Pᵀ B."""
    b = _matrices(f, e.inputs[1], f.view(e.inputs[1]), ())
    out = f.new(e)
    for images, numbers, rows, tile in _pieces(patches.numbers, patches.writes[0].shape[-1], out.buffer.dtype):
        f.do(KernelCall("patches", [patches.reads[0].rows(images, 0)], [tile], numbers))
        if transposed:
            f.do(KernelCall("matmul", [tile.transpose((0, 2, 1)), b.rows(rows, 1)], [out], [int(images.start > 0)]))
        else:
            f.do(KernelCall("matmul", [tile, b], [out.rows(rows, 0)]))


def _images_of_product(f: Fusion, e: Equation, product: KernelCall, size: int) -> None:
    """The images of the patches A B, piece by piece: some rows of A B, which are then added up to images."""
    a, b = product.reads
    out = f.new(e)
    for images, numbers, rows, tile in _pieces(_kernel_numbers(e), size, out.buffer.dtype):
        f.do(KernelCall("matmul", [a.rows(rows, 1), b], [tile]))
        f.do(KernelCall("unpatches", [tile], [out.rows(images, 0)], numbers))


def _pieces(numbers: list[int], size: int, dtype: np.dtype) -> Iterator[tuple[slice, list[int], slice, View]]:
    """Some images at a time: which images, the numbers of the kernel for them, which rows of all patches are theirs,
    and memory for these rows, the same for all pieces; `size` is that of one patch."""
    n, _, _, _, rows, columns, *_ = numbers
    each = rows * columns
    count = min(max(TILE // (each * size * dtype.itemsize), 1), n)
    tile = Buffer(dtype, count * each * size)
    for first in range(0, n, count):
        images = slice(first, min(first + count, n))
        here = images.stop - first
        view = View(tile, 0, (1, here * each, size), (0, size, 1))
        yield images, [here, *numbers[1:]], slice(first * each, images.stop * each), view


# ── pooling and reductions ──────────────────────────────────────────────────────────────────────────────────────────


@lowers("pool_argmax")
def _pool_argmax(f: Fusion, e: Equation) -> None:
    out = _kernel(f, e)
    if f.users[e.output] <= {ops.pick, ops.unpick} and e.params["size"] <= 11:
        out.buffer.dtype = np.dtype(np.int8)  # nothing else reads it, and it takes an eighth of the memory


@lowers("largest", "argmax", "argmin", "argsort", "cumsum")
def _reduction(f: Fusion, e: Equation) -> None:
    """Over axes that are neighbours, or are moved so: the sizes before, of, and after them."""
    kernel, x, axis = e.primitive.description.lowering, e.inputs[0], e.params["axis"]
    shape = x.shape
    axis = tuple(range(len(shape))) if axis is None else (axis,) if isinstance(axis, int) else axis
    axis = sorted(i % len(shape) for i in axis)
    if not axis:  # one element is the largest, and the first
        if kernel == "largest":
            f.views[e.output] = f.view(x)
        else:
            f.call(e, "zero", [])
        return
    if axis != list(range(axis[0], axis[-1] + 1)):
        kept = [i for i in range(len(shape)) if i not in axis]
        x = f.view(x).transpose((*kept, *axis))
        shape, axis = x.shape, range(len(kept), len(shape))
    sizes = volume(shape[: axis[0]]), volume(shape[axis[0] : axis[-1] + 1]), volume(shape[axis[-1] + 1 :])
    f.call(e, kernel, [f.dense(x)], *sizes)


@lowers("recurrence")
def _recurrence(f: Fusion, e: Equation) -> None:
    f.call(e, "recurrence", [f.dense(x) for x in e.inputs], e.output.shape[0], volume(e.output.shape[1:]))


@lowers("searchsorted")
def _searchsorted(f: Fusion, e: Equation) -> None:
    a, v = e.inputs
    if {f.view(x).buffer.dtype for x in (a, v)} != {f.view(a).buffer.dtype}:
        raise Unsupported("a search of one dtype in another has no kernel")
    n = a.shape[0] if isinstance(a, Var) else len(a)
    f.call(e, "searchsorted", [f.dense(a), f.dense(v)], n, volume(e.output.shape), int(e.params["side"] == "right"))
