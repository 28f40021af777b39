"""Source: the steps of a task as Numba source that one can open and read, and as the list of numbers that it runs.

Every fused loop becomes a function of one element of its operands, such as

    @loop("2: f4 f4 f4. > f4 f4+")
    def loop4(x0, x1, x2):  # add maximum multiply sum
        v0 = x0 + x1
        v1 = larger(v0, f4(0))
        v2 = v1 * x2
        return v1, v2

which `loop` makes into a loop over all of them. Sizes, strides and places come from the step, so loops that do the same
to arrays of other shapes are one: the second layer, the second inner step and the query set cost no compilation.
Read next: `loop`, `machine`, `cache`, then `compiled`.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np

from .. import ops
from .fusion import KernelCall, Loop
from .placement import LaidPart, Layout
from .program import Equation, Var
from .views import Buffer, Unsupported, View, code

# ── a loop ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Body:
    """The function of one element that a fused loop is, and the numbers of its step."""

    def __init__(self, loop: Loop):
        cuts = [*sorted(loop.cuts, reverse=True), 1]
        self.steps_of = cuts  # how far apart, in the flat range, neighbours on each axis are
        self.sizes = [a // b for a, b in zip([loop.size, *cuts], cuts, strict=False)]
        self.numbers: list[int] = list(self.sizes)  # of the step, from t[3] on
        self.inputs: dict[tuple, tuple[str, str]] = {}  # what is loaded, and constants → name, form
        self.names: dict[Var, str] = {}
        self.lines: list[str] = []
        for e, operands in loop.equations:
            self.equation(loop, e, operands)
        results = [self.operand(loop.values[x]) for x in loop.stores]
        for view in loop.sums.values():
            form = self.operand(view)
            results.append(form if form.endswith(".") else f"{form}+")
        forms = " ".join(form for _, form in self.inputs.values())
        self.form = f"{len(self.sizes)}: {forms} > {' '.join(results)}"
        self.lines.append(f"return {', '.join(self.names[x] for x in (*loop.stores, *loop.sums))}")

    def equation(self, loop: Loop, e: Equation, operands: list) -> None:
        out = e.output
        kinds = _computed_in(e)
        arguments = [self.scalar(loop, x, v) for x, v in zip(e.inputs, operands, strict=True)]
        for i, ((text, was), kind) in enumerate(zip(arguments, kinds, strict=True)):
            if was is None and kind.kind in "iu" and not np.iinfo(kind).min <= int(text) <= np.iinfo(kind).max:
                if e.primitive.description.computed_in != "choice":
                    raise Unsupported(f"a number beyond {kind} has no kernel")
                arguments[i] = repr(np.asarray(int(text)).astype(kind).item()), None  # np.where lets it wrap
        texts = [
            self.constant(text, kind) if was is None and kind.kind == "f" else _cast(text, was, kind)
            for (text, was), kind in zip(arguments, kinds, strict=True)
        ]
        if e.primitive is ops._sum:
            self.names[out] = texts[0]
            return
        if e.primitive.description.computed_in == "common" and kinds[0] != kinds[1]:
            x, y = texts
            texts = [f"machine.order({x}, {y})", "0"] if kinds[1].kind == "u" else ["0", f"machine.order({y}, {x})"]
        self.names[out] = f"v{len(self.lines)}"
        self.lines.append(f"{self.names[out]} = {_expression(e, texts)}")

    def scalar(self, loop: Loop, x, view) -> tuple[str, np.dtype | None]:
        """The text of an operand, and its dtype (None: a number, of whatever dtype is wanted)."""
        if not isinstance(view, View):
            if not isinstance(view, (bool, int, float)):
                raise Unsupported(f"{view!r} is not a number, and has no kernel")
            return repr(int(view) if isinstance(view, bool) else view), None
        inside = loop.local(view)
        if inside in self.names:
            return self.names[inside], inside.dtype
        key = (view.buffer, view.offset, *self.strides(view))
        if key not in self.inputs:
            self.inputs[key] = f"x{len(self.inputs)}", self.operand(view)
        return self.inputs[key][0], view.buffer.dtype

    def constant(self, text: str, dtype: np.dtype) -> str:
        """A number: in the source if it is one of a few, otherwise in the step, so that α and 1/n make no new loops."""
        if float(text) in (0, 1, -1, 2, -2, 0.5) or float(text) != float(text):
            return _cast(text, None, dtype)
        if (text, dtype) not in self.inputs:
            self.inputs[text, dtype] = f"c{len(self.inputs)}", f"{code(dtype)}="
            self.numbers.append(int(np.float64(text).view(np.int64)))
        return self.inputs[text, dtype][0]

    def strides(self, view: View) -> list[int]:
        """Elements from one to the next on each axis of the loop."""
        strides = []
        for step, n in zip(self.steps_of, self.sizes, strict=True):
            at = 0
            for m, stride in zip(reversed(view.shape), reversed(view.strides), strict=True):
                at += step % m * stride
                step //= m
            strides.append(at if n > 1 else 0)
        return strides if self.sizes != [1] else [1]  # one element is a range like any other

    def operand(self, view: View) -> str:
        """The form of an operand, whose numbers are put in the step."""
        dtype = view.buffer.dtype
        *outer, inner = self.strides(view)
        self.numbers.append(view.buffer.offset + view.offset * dtype.itemsize)
        self.numbers += [stride * dtype.itemsize for stride in outer]
        if inner in (0, 1):
            return code(dtype) + ("" if inner else ".")
        self.numbers.append(inner)
        return f"{code(dtype)}*"

    def text(self, name: str, comment: str = "") -> str:
        arguments = ", ".join(argument for argument, _ in self.inputs.values())
        lines = [f'@loop("{self.form}")', f"def {name}({arguments}):{comment}", *(f"    {line}" for line in self.lines)]
        return "\n".join(lines)


def _computed_in(e: Equation) -> list[np.dtype]:
    """The dtype to which each operand is converted first."""
    computed_in = e.primitive.description.computed_in
    if computed_in in ("common", "own"):
        own = [x.dtype if isinstance(x, (Var, np.ndarray, np.generic)) else x for x in e.inputs]
        if computed_in == "own":
            return [np.result_type(x) for x in own]
        if {getattr(x, "str", "")[1:] for x in own} & {"u8"} and any(getattr(x, "kind", "") == "i" for x in own):
            return own  # no dtype holds both: `machine.order`
        return [np.result_type(*own)] * 2
    if computed_in == "choice":
        return [np.dtype(bool), e.output.dtype, e.output.dtype]
    return [e.output.dtype] * len(e.inputs)


def _cast(text: str, was: np.dtype | None, wanted: np.dtype) -> str:
    if was is not None and was == wanted:
        return text
    if wanted.kind == "b":
        return f"b1({text} != 0)"
    return f"{code(wanted)}({text})" if text not in ("inf", "-inf", "nan") else f'{code(wanted)}(float("{text}"))'


def _expression(e: Equation, operands: list[str]) -> str:
    """An equation on scalars, as its primitive's description says, in the dtype of the output."""
    description, dtype = e.primitive.description, e.output.dtype
    special = {"b": description.of_truths, "i": description.of_integers, "u": description.of_integers}
    template = special.get(dtype.kind) or description.loop
    if template is None:
        raise Unsupported(f"the primitive {e.primitive.name} has no kernel")
    kind = code(dtype)
    numbers = {name: f"{kind}({x!r})" for name, x in e.params.items()}
    text = template.format(*operands, **numbers, type=kind)
    # Numba makes int64 of what is computed with smaller integers
    return text if dtype.kind == "f" or template == "{type}({})" else f"{kind}({text})"


# ── a program ───────────────────────────────────────────────────────────────────────────────────────────────────────


class Source(NamedTuple):
    """Files of functions `page0`, `page1`, …; lists of steps, in which (file, page) stands for a function's address.

    `moves`: which list is run after which, for each task.
    """

    files: list[str]
    steps: dict[str, list[list]]
    moves: list[str]


def generate(layout: Layout) -> Source:
    """The source of a task: the loops of its programs in one file, and a file for each other kernel it uses."""
    writer = _Writer(layout)
    steps = {"fetch": writer.fetch()} | {name: writer.part(part) for name, part in layout.parts.items()}
    moves, kept = ["fetch"], 0
    for move in layout.moves:
        kept -= move == "pop"
        place = layout.stack.offset + kept * layout.theta_bytes
        if move == "push":
            steps[f"push {kept}"] = [writer.base("copy", place, layout.theta, layout.theta_bytes)]
        elif move == "pop":
            steps[f"pop {kept}"] = [writer.base("copy", layout.theta, place, layout.theta_bytes)]
        moves.append(move if move in layout.parts else f"{move} {kept}")
        kept += move == "push"
    steps["put"] = writer.put()
    return Source([writer.loops_file(), *writer.files], steps, [*moves, "put"])


class _Writer:
    """Steps, and the files they need; file 0 will be that of the loops."""

    def __init__(self, layout: Layout):
        self.layout = layout
        self.loops: dict[str, tuple[Body, str]] = {}  # by its text without a name: the function, and what it does
        self.files: list[str] = []
        self.arrays = itertools.count()  # of those whose addresses are in the memory, the next

    def step(self, kernels: dict[str, str], name: str, *numbers) -> list:
        """A step that calls one of some kernels, which have a file of their own."""
        text = kernel_file(*kernels.values())
        if text not in self.files:
            self.files.append(text)
        return [(self.files.index(text) + 1, 0), [*kernels].index(name), len(numbers) + 3, *numbers]

    def base(self, name: str, *numbers, dtype: np.dtype | None = None) -> list:
        """A step that calls one of the kernels that every program needs."""
        return self.step(BASE | _base_of(dtype or self.layout.float), name, *numbers)

    def fetch(self) -> list[list]:
        steps = []
        for i, x in enumerate(self.layout.inputs):
            stride = 0 if i < self.layout.shared else x.nbytes
            steps.append(self.base("fetch", x.offset, next(self.arrays), x.nbytes, stride))
            if x.dtype.kind == "f":
                steps.append(self.check(x, x.size))
        return steps

    def put(self) -> list[list]:
        steps = [self.base("put", x.offset, next(self.arrays), x.nbytes) for x in self.layout.results]
        for x, count, _ in self.layout.sums:
            numbers = x.offset, next(self.arrays), count * x.dtype.itemsize, count
            steps += [self.base(f"add_{code(x.dtype)}", *numbers, dtype=x.dtype), self.check(x, count)]
        return steps

    def check(self, x: Buffer, size: int) -> list:
        return self.base(f"check_{code(x.dtype)}", x.offset, size, dtype=x.dtype)

    def part(self, part: LaidPart) -> list[list]:
        steps = []
        for step in part.schedule.steps:
            steps += self.fused(step) if isinstance(step, Loop) else [self.call(step)]
        steps += [self.check(x, x.size) for x in part.schedule.checked]
        for x, slot in zip(part.schedule.outputs, part.writes, strict=True):
            if x.offset != slot.offset:
                steps.append(self.base("copy", slot.offset, x.offset, x.nbytes))
        return steps

    def fused(self, loop: Loop) -> list[list]:
        body = Body(loop)
        key = body.text("")
        if key not in self.loops:
            self.loops[key] = body, " ".join(e.primitive.name for e, _ in loop.equations)
        number = [*self.loops].index(key)
        zeros = [self.base("zero", x.buffer.offset, x.buffer.nbytes) for x in loop.sums.values()]
        return [*zeros, [(0, number // PAGE), number, len(body.numbers) + 3, *body.numbers]]

    def call(self, step: KernelCall) -> list:
        out = step.writes[0].buffer
        if step.kernel == "zero":
            return self.base("zero", out.offset, out.nbytes)
        if step.kernel == "matmul":
            return self.base(f"matmul_{code(out.dtype)}", *_product(step), dtype=out.dtype)
        text, numbers = _call(step)
        return self.step({step.kernel: text}, step.kernel, *numbers)

    def loops_file(self) -> str:
        functions = [body.text(f"loop{i}", f"  # {says}") for i, (body, says) in enumerate(self.loops.values())]
        kernels = [(i, f"loop{i}(memory, t)") for i in range(len(self.loops))]
        pages = [_page(i // PAGE, kernels[i : i + PAGE]) for i in range(0, len(kernels), PAGE)]
        return _file([*functions, *pages])


# The kernels that every program needs. `now` is the beginning of the memory: see `placement.TASK`.
BASE = {
    "zero": "machine.zero(memory + t[3], t[4])",
    "copy": "machine.copy(memory + t[3], memory + t[4], t[5])",
    "fetch": "machine.copy(memory + t[3], now[ARRAYS + t[4]] + now[TASK] * t[6], t[5])",
    "put": "machine.copy(now[ARRAYS + t[4]] + now[TASK] * t[5], memory + t[3], t[5])",
}


def _base_of(dtype: np.dtype) -> dict[str, str]:
    """Those of a floating dtype: what comes in or goes out is looked at."""
    kind = code(dtype)
    bits, ones = ("p_i4", "i4(0x7F800000)") if kind == "f4" else ("p_i8", "i8(0x7FF0000000000000)")
    there = f"machine.{kind}_at(now[ARRAYS + t[4]] + now[CHUNK] * t[5])"
    return {
        f"check_{kind}": f"failed = machine.not_finite({bits}(memory, t, 3), t[4], {ones})",
        f"matmul_{kind}": f"machine.gemm_{kind}(memory, t)",
        f"add_{kind}": f"machine.add({there}, p_{kind}(memory, t, 3), t[6])",
    }


def _call(step: KernelCall) -> tuple[str, list]:
    """The line that calls a kernel, and the numbers of its step."""
    (out,) = step.writes
    item = out.buffer.dtype.itemsize
    if step.kernel in ("gather", "scatter"):
        x, *indices = step.reads
        outer, picked, block, *axes = step.numbers
        if step.kernel == "gather":
            block *= item
        views, rest = [out, x], [outer, picked, block, len(axes), *map(_at, indices), *axes]
    else:
        views, rest = [out, *step.reads], step.numbers
    line = kernel_line(step.kernel, [code(view.buffer.dtype) for view in views], len(rest))
    return line, [*map(_at, views), *rest]


def kernel_line(kernel: str, kinds: list[str], count: int) -> str:
    """The line that calls a kernel: its step has the places of arrays of these dtypes, then so many other numbers."""
    if kernel == "gather":
        return "failed = machine.gather(memory, t)"
    if kernel == "patches":
        return f"machine.patches(memory + t[3], memory + t[4], {_numbers(5, count)})"
    pointers = [f"p_{kind}(memory, t, {i + 3})" for i, kind in enumerate(kinds)]
    if kernel == "scatter":
        return f"failed = machine.scatter({', '.join(pointers[:2])}, {kinds[0] == code(np.dtype(bool))}, memory, t)"
    return f"machine.{kernel}({', '.join(pointers)}, {_numbers(len(kinds) + 3, count)})"


def kernel_file(*lines: str) -> str:
    """A file of kernels, by the lines that call them."""
    return _file([_page(0, list(enumerate(lines)))])


def _numbers(start: int, count: int) -> str:
    return ", ".join(f"t[{i}]" for i in range(start, start + count))


def _at(view: View) -> int:
    return view.buffer.offset + view.offset * view.buffer.dtype.itemsize


def _product(step: KernelCall) -> list:
    """BLAS's arguments; a matrix whose columns, not rows, lie in order is read as its transpose."""
    (a, b), (out,) = step.reads, step.writes
    dtype = out.buffer.dtype
    if dtype.kind != "f" or {a.buffer.dtype, b.buffer.dtype} != {dtype}:
        raise Unsupported(f"a matrix product of {a.buffer.dtype} and {b.buffer.dtype} has no kernel")
    batch, m, k = a.shape
    n = b.shape[-1]
    layouts = []
    for rows, columns, (tall, wide) in ((*a.strides[1:], a.shape[1:]), (*b.strides[1:], b.shape[1:])):
        plain = (columns == 1 or wide == 1) and (rows >= wide or tall == 1)
        layouts.append((ord("N"), max(rows, wide)) if plain else (ord("T"), max(columns, tall)))
    (of_a, lda), (of_b, ldb) = layouts
    strides = (stride * dtype.itemsize for stride in (a.strides[0], b.strides[0], m * n))
    adds = step.numbers or [0]
    return [("blas", code(dtype)), _at(a), _at(b), _at(out), of_a, of_b, m, n, k, lda, ldb, n, batch, *strides, *adds]


IMPORTS = '''"""Written by tinymaml.programs.source."""

import math

import numpy as np
from numba import cfunc, float32 as f4, float64 as f8, int8 as i1, int16 as i2, int32 as i4, int64 as i8
from numba import uint8 as b1, uint8 as u1, uint16 as u2, uint32 as u4, uint64 as u8

from tinymaml.programs import machine
from tinymaml.programs.loop import above, choose, larger, loop, sign, smaller
from tinymaml.programs.machine import p_b1, p_f4, p_f8, p_i1, p_i2, p_i4, p_i8, p_u1, p_u2, p_u4, p_u8, step_at
from tinymaml.programs.placement import ARRAYS, CHUNK, TASK'''


def _page(number: int, kernels: list[tuple[int, str]]) -> str:
    """A function that runs the kernel of a step."""
    lines = [f'@cfunc("int64(int64, int64, int64)", **OPTIONS)\ndef page{number}(kernel, memory, step):']
    lines += ["    now, t = step_at(memory), step_at(step)", "    failed = 0"]
    for i, (op, text) in enumerate(kernels):
        lines.append(f"    {'el' if i else ''}if kernel == {op}:")
        lines += [f"        {line}" for line in text.split("\n")]
    return "\n".join([*lines, "    return failed"])


def _file(parts: list[str]) -> str:
    return "\n\n\n".join([IMPORTS, *parts, ""])


PAGE = 16  # loops in a function: with fewer in one they take longer to compile
