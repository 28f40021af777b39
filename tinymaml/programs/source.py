"""Source: a schedule as Numba source one can open and read, and as the list of steps that it runs.

Every fused loop becomes a few lines such as

    if kernel == 4:  # add maximum
        for i0 in range(t[3]):
            x0 = p_f4(memory, t, 5, i0)
            x1 = p_f4(memory, t, 7, i0)
            y2 = p_f4(memory, t, 9, i0)
            for i1 in range(t[4]):
                v0 = x0[i1] + x1[i1]
                v1 = v0 if not v0 <= f4(0) else f4(0)
                y2[i1] = v1

Sizes, strides and places come from the step (t), so loops that do the same to arrays of other shapes are one: the
second layer, the second inner step and the query set cost no compilation. Read next: `machine`, then `compiled`.
"""

from __future__ import annotations

import atexit
import hashlib
import importlib.util
import itertools
import os
import re
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from ..files import write_atomically
from .program import Equation, Var
from .schedule import END, REPEAT, Call, Layout, Loop, Unsupported, View

EXPRESSIONS = {  # on scalars of the dtype that is computed in
    "add": "{0} + {1}", "subtract": "{0} - {1}", "multiply": "{0} * {1}", "divide": "{0} / {1}", "power": "{0} ** {1}",
    "exp": "math.exp({0})", "expm1": "math.expm1({0})", "log": "math.log({0})", "log1p": "math.log1p({0})",
    "sqrt": "math.sqrt({0})", "sin": "math.sin({0})", "cos": "math.cos({0})", "tanh": "math.tanh({0})",
    "arctan": "math.atan({0})", "logaddexp": "machine.logaddexp({0}, {1})", "alias": "{0}", "astype": "{0}",
    "maximum": "{0} if {0} > {1} or {0} != {0} else {1}",
    "where": "{1} if {0} else {2}", "sign": "{0} if {0} == 0 or {0} != {0} else ({type}(1) if {0} > 0 else {type}(-1))",
    "floor": "np.floor({0})", "ceil": "np.ceil({0})", "trunc": "np.trunc({0})", "rint": "np.rint({0})",
    "isnan": "{0} != {0}", "isinf": "{0} == {0} and {0} - {0} != {0} - {0}", "isfinite": "{0} - {0} == {0} - {0}",
    "equal": "{0} == {1}", "not_equal": "{0} != {1}", "less": "{0} < {1}", "less_equal": "{0} <= {1}",
    "greater": "{0} > {1}", "greater_equal": "{0} >= {1}",
    "logical_not": "not {0}", "logical_and": "{0} and {1}", "logical_or": "{0} or {1}",
    "logical_xor": "bool({0}) != bool({1})",
    "bitwise_and": "{0} & {1}", "bitwise_or": "{0} | {1}", "bitwise_xor": "{0} ^ {1}", "invert": "~{0}",
}  # fmt: skip


def code(dtype: np.dtype) -> str:
    """`f4`: what a dtype is called in the source."""
    return dtype.str[1:]


# ── a loop ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Body:
    """The lines of one fused loop, and the numbers of its step."""

    def __init__(self, loop: Loop):
        self.names: dict[Var, str] = {}
        self.outer: list[str] = []  # before the innermost loop
        self.lines: list[str] = []
        self.after: list[str] = []
        cuts = [*sorted(loop.cuts, reverse=True), 1]
        self.steps_of = cuts  # how far apart, in the flat range, neighbours on each axis are
        self.sizes = [a // b for a, b in zip([loop.size, *cuts], cuts, strict=False)]
        self.numbers: list[int] = list(self.sizes)  # of the step, from t[3] on
        self.loaded: dict[tuple, str] = {}
        for e, operands in loop.equations:
            self.equation(loop, e, operands)
        for x in loop.stores:
            pointer, at = self.operand(loop.values[x], "y")
            self.lines.append(f"{pointer}[{at}] = {self.names[x]}")

    def equation(self, loop: Loop, e: Equation, operands: list) -> None:
        name, out = e.primitive.name, e.output
        computed = out.dtype
        if name in COMPARISONS:
            computed = np.result_type(*(x.dtype if isinstance(x, Var) else x for x in e.inputs))
        arguments = [self.scalar(loop, x, v) for x, v in zip(e.inputs, operands, strict=True)]
        kinds = [computed] * len(arguments)
        if name == "where":
            kinds[0] = np.dtype(bool)
        elif name in ("isnan", "isinf", "isfinite", "logical_not", "logical_and", "logical_or", "logical_xor", "above"):
            kinds = [x.dtype if isinstance(x, Var) else np.result_type(computed) for x in e.inputs]
        numbers = [float(text) for text, was in arguments if was is None]
        if computed.kind in "iu" and any(not np.iinfo(computed).min <= x <= np.iinfo(computed).max for x in numbers):
            # as NumPy does it: a comparison of integers of any size
            if name not in COMPARISONS:
                raise Unsupported(f"a number beyond {computed} has no kernel")
            kinds = [np.dtype(np.int64)] * len(arguments)
        texts = [
            self.constant(text, kind) if was is None and kind.kind == "f" else _cast(text, was, kind)
            for (text, was), kind in zip(arguments, kinds, strict=True)
        ]
        if name == "sum":
            self.sum(loop.sums[out], texts[0])
            return
        if name == "invert" and out.dtype.kind == "b":
            name = "logical_not"
        text = self.above(e, texts) if name == "above" else EXPRESSIONS[name].format(*texts, type=code(computed))
        if name == "maximum" and _is_number(texts[1]):
            text = f"{texts[0]} if not {texts[0]} <= {texts[1]} else {texts[1]}"
        self.names[out] = f"v{len(self.names)}"
        self.lines.append(f"{self.names[out]} = {_typed(text, name, out.dtype)}")

    def above(self, e: Equation, texts: list[str]) -> str:
        x, y = texts
        kind, tie = code(e.output.dtype), e.params["tie"]
        low = f"({kind}({tie!r}) if {x} == {y} else {kind}(0))" if tie else f"{kind}(0)"
        return f"{kind}(1) if {x} > {y} else {low}"

    def scalar(self, loop: Loop, x, view) -> tuple[str, np.dtype | None]:
        """The text of an operand, and its dtype (None: a number, of whatever dtype is wanted)."""
        if not isinstance(view, View):
            return repr(view), None
        inside = loop.local(view)
        if inside in self.names:
            return self.names[inside], inside.dtype
        key = (view.buffer, view.offset, *self.strides(view))
        if key not in self.loaded:
            pointer, at = self.operand(view, "x")
            self.loaded[key] = f"{pointer}[{at}]"
            if at == "0":  # the same for all of the innermost loop
                self.loaded[key] = f"s{pointer[1:]}"
                self.outer.append(f"s{pointer[1:]} = {pointer}[0]")
        return self.loaded[key], view.buffer.dtype

    def constant(self, text: str, dtype: np.dtype) -> str:
        """A number: in the source if it is one of a few, otherwise in the step, so that α and 1/n make no new loops."""
        if float(text) in (0, 1, -1, 2, -2, 0.5) or float(text) != float(text):
            return _cast(text, None, dtype)
        if (text, dtype) not in self.loaded:
            name = self.loaded[text, dtype] = f"c{len(self.outer)}"
            at = self.number(int(np.float64(text).view(np.int64)))
            self.outer.append(f"{name} = {code(dtype)}(real(t, {at}))")
        return self.loaded[text, dtype]

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

    def operand(self, view: View, letter: str) -> tuple[str, str]:
        """A pointer for the innermost loop, and what it is indexed with."""
        itemsize = view.buffer.dtype.itemsize
        name = f"{letter}{len(self.outer)}"
        *outer, inner = self.strides(view)
        at = self.number(view.buffer.offset + view.offset * itemsize)
        for stride in outer:
            self.number(stride * itemsize)
        where = ", ".join(["memory", "t", str(at), *(f"i{axis}" for axis in range(len(outer)))])
        self.outer.append(f"{name} = p_{code(view.buffer.dtype)}({where})")
        i = f"i{len(outer)}"
        return name, "0" if inner == 0 else i if inner == 1 else f"{i} * t[{self.number(inner)}]"

    def number(self, n: int) -> int:
        """Where in the step the number n is put."""
        self.numbers.append(n)
        return len(self.numbers) + 2

    def sum(self, view: View, text: str) -> None:
        pointer, at = self.operand(view, "y")
        if at != "0":
            self.lines.append(f"{pointer}[{at}] += {text}")
            return
        wide = {"f": "f8", "i": "i8"}[view.buffer.dtype.kind]
        total = f"a{pointer[1:]}"
        self.outer.append(f"{total} = {wide}(0)")
        self.lines.append(f"{total} += {text}")
        self.after.append(f"{pointer}[0] += {code(view.buffer.dtype)}({total})")

    def text(self) -> str:
        """The loop, with its first line at no indentation."""
        lines, depth = [], len(self.sizes) - 1
        for axis in range(depth):
            lines.append(f"{'    ' * axis}for i{axis} in range(t[{3 + axis}]):")
        inner = "    " * depth
        lines += [inner + line for line in self.outer]
        lines.append(f"{inner}for i{depth} in range(t[{3 + depth}]):")
        lines += [f"{inner}    {line}" for line in self.lines]
        lines += [inner + line for line in self.after]
        return "\n".join(lines)


COMPARISONS = {"equal", "not_equal", "less", "less_equal", "greater", "greater_equal"}


def _is_number(text: str) -> bool:
    return re.fullmatch(r"f\d\([-\d.e]+\)", text) is not None


def _cast(text: str, was: np.dtype | None, wanted: np.dtype) -> str:
    if was is not None and was == wanted:
        return text
    if wanted.kind == "b":
        return f"({text} != 0)"
    return f"{code(wanted)}({text})" if text not in ("inf", "-inf", "nan") else f'{code(wanted)}(float("{text}"))'


def _typed(text: str, name: str, dtype: np.dtype) -> str:
    """The expression as a number of the dtype, where Numba would make another of it."""
    if dtype.kind == "b":
        return f"b1(1) if {text} else b1(0)"
    if name in ("floor", "ceil", "trunc", "rint", "power", "add", "subtract", "multiply", "invert", "astype", "alias",
                "logaddexp"):  # fmt: skip
        return text if dtype.kind == "f" and name in ("add", "subtract", "multiply") else f"{code(dtype)}({text})"
    return text


# ── a program ───────────────────────────────────────────────────────────────────────────────────────────────────────


class Source(NamedTuple):
    """Files of functions `page0`, `page1`, …, and steps, in which (file, page) stands for a function's address."""

    files: list[str]
    steps: list[list]


def generate(layout: Layout) -> Source:
    """The source of a task: the loops of its programs in one file, and a file for each other kernel it uses."""
    loops: dict[str, tuple[int, str]] = {}  # text → number, comment
    files = [""]
    steps: list[list] = []
    arrays = itertools.count()

    def emit(kernels: dict[str, str], name: str, *numbers) -> None:
        text = _file([_page(0, [(i, text, name) for i, (name, text) in enumerate(kernels.items())])])
        if text not in files:
            files.append(text)
        steps.append([(files.index(text), 0), [*kernels].index(name), len(numbers) + 3, *numbers])

    base = BASE | _base_of(layout.float)

    def fuse(loop: Loop) -> None:
        for view in loop.sums.values():
            emit(base, "zero", view.buffer.offset, view.buffer.nbytes)
        body = Body(loop)
        comment = " ".join(e.primitive.name for e, _ in loop.equations)
        number, _ = loops.setdefault(body.text(), (len(loops), comment))
        steps.append([(0, number // PAGE), number, len(body.numbers) + 3, *body.numbers])

    for i, buffer in enumerate(layout.inputs):
        stride = 0 if i < layout.shared else buffer.nbytes
        numbers = buffer.offset, next(arrays), buffer.nbytes, stride, buffer.size
        if buffer.dtype.kind == "f":
            emit(BASE | _base_of(buffer.dtype), f"fetch_{code(buffer.dtype)}", *numbers)
        else:
            emit(base, "fetch", *numbers)
    for part in layout.parts:
        first = len(steps)
        if part.theta == "push":
            emit(base, "push", layout.theta, layout.theta_bytes, layout.stack.offset)
        elif part.theta == "pop":
            last = layout.stack.offset + (part.repeat - 1) * layout.theta_bytes
            emit(base, "pop", layout.theta, layout.theta_bytes, last)
        for step in part.schedule.steps:
            if isinstance(step, Loop):
                fuse(step)
            elif step.kernel == "zero":
                emit(base, "zero", step.writes[0].buffer.offset, step.writes[0].buffer.nbytes)
            elif step.kernel == "matmul":
                dtype, numbers = step.writes[0].buffer.dtype, _product(step)
                emit(BASE | _base_of(dtype), f"matmul_{code(dtype)}", *numbers)
            else:
                text, numbers = _call(step)
                emit({step.kernel: text}, step.kernel, *numbers)
        for x in part.schedule.checked:
            emit(BASE | _base_of(x.dtype), f"check_{code(x.dtype)}", x.offset, 0, 0, 0, x.size)
        for x, slot in zip(part.schedule.outputs, part.writes, strict=True):
            emit(base, "copy", slot.offset, x.offset, x.nbytes)
        if part.repeat > 1:
            steps.append([REPEAT, 0, 5, sum(map(len, steps[first:])), part.repeat])
    for buffer in layout.results:
        emit(base, "put", buffer.offset, next(arrays), buffer.nbytes)
    for first, count, _ in layout.sums:
        numbers = first.offset, next(arrays), count * first.dtype.itemsize, 0, count
        emit(BASE | _base_of(first.dtype), f"add_{code(first.dtype)}", *numbers)
    numbered = sorted((number, text, comment) for text, (number, comment) in loops.items())
    pages = [_page(i // PAGE, numbered[i : i + PAGE]) for i in range(0, len(numbered), PAGE)]
    files[0] = _file(pages)
    steps.append([END, 0, 3])
    return Source(files, steps)


# The kernels that every program needs. `now` is the beginning of the memory: see `schedule.TASK`.
BASE = {
    "zero": "machine.zero(memory + t[3], t[4])",
    "copy": "machine.copy(memory + t[3], memory + t[4], t[5])",
    "fetch": "machine.copy(memory + t[3], now[ARRAYS + t[4]] + now[TASK] * t[6], t[5])",
    "put": "machine.copy(now[ARRAYS + t[4]] + now[TASK] * t[5], memory + t[3], t[5])",
    "push": "machine.copy(memory + t[5] + now[ROUND] * t[4], memory + t[3], t[4])",
    "pop": "machine.copy(memory + t[3], memory + t[5] - now[ROUND] * t[4], t[4])",
}


def _base_of(dtype: np.dtype) -> dict[str, str]:
    """Those of a floating dtype. What comes in or goes out is looked at: infinity and NaN have an exponent of ones."""
    kind = code(dtype)
    bits, exponent = ("p_i4", "i4(0x7F800000)") if kind == "f4" else ("p_i8", "i8(0x7FF0000000000000)")
    looked_at = f"""
x = {bits}(memory, t, 3)
for i in range(t[7]):
    failed |= x[i] & {exponent} == {exponent}"""
    return {
        f"check_{kind}": looked_at.strip(),
        f"fetch_{kind}": BASE["fetch"] + looked_at,
        f"matmul_{kind}": f"for i in range(t[15]):\n    machine.gemm_{kind}(memory, t, i)",
        f"add_{kind}": f"""
z = machine.{kind}_at(now[ARRAYS + t[4]] + now[CHUNK] * t[5])
y = p_{kind}(memory, t, 3)
if now[FIRST]:
    machine.copy(now[ARRAYS + t[4]] + now[CHUNK] * t[5], memory + t[3], t[5])
else:
    for i in range(t[7]):
        z[i] += y[i]""".strip() + looked_at,
    }


def _call(step: Call) -> tuple[str, list]:
    """The line that calls a kernel, and the numbers of its step."""
    out = step.writes[0].buffer
    kind = code(out.dtype)
    pointers = [f"p_{kind}(memory, t, 3)"]
    numbers = [out.offset]
    if step.kernel in ("gather", "scatter"):
        x, *indices = step.reads
        outer, picked, block, *axes = step.numbers
        numbers += [_at(x), outer, picked, block, len(axes), *map(_at, indices), *axes]
        text = f"failed = machine.{step.kernel}({pointers[0]}, p_{code(x.buffer.dtype)}(memory, t, 4), memory, t)"
        return text, numbers
    if step.kernel == "patches":
        n, h, w, c, *rest = step.numbers
        numbers += [_at(step.reads[0]), n, h, w, c * out.dtype.itemsize, *rest]
        return f"machine.patches(memory + t[3], memory + t[4], {_numbers(5, 11)})", numbers
    for view in step.reads:
        pointers.append(f"p_{code(view.buffer.dtype)}(memory, t, {len(numbers) + 3})")
        numbers.append(_at(view))
    arguments = _numbers(len(numbers) + 3, len(step.numbers))
    return f"machine.{step.kernel}({', '.join(pointers)}, {arguments})", numbers + step.numbers


def _numbers(start: int, count: int) -> str:
    return ", ".join(f"t[{i}]" for i in range(start, start + count))


def _at(view: View) -> int:
    return view.buffer.offset + view.offset * view.buffer.dtype.itemsize


def _product(step: Call) -> list:
    """BLAS's arguments; a matrix whose columns, not rows, lie in order is read as its transpose."""
    a, b = step.reads
    out = step.writes[0].buffer
    if out.dtype.kind != "f" or {a.buffer.dtype, b.buffer.dtype} != {out.dtype}:
        raise Unsupported(f"a matrix product of {a.buffer.dtype} and {b.buffer.dtype} has no kernel")
    batch, m, k = a.shape
    n = b.shape[-1]
    item = out.dtype.itemsize
    layouts = []
    for rows, columns, (tall, wide) in ((*a.strides[1:], a.shape[1:]), (*b.strides[1:], b.shape[1:])):
        plain = (columns == 1 or wide == 1) and (rows >= wide or tall == 1)
        layouts.append((ord("N"), max(rows, wide)) if plain else (ord("T"), max(columns, tall)))
    (of_a, lda), (of_b, ldb) = layouts
    strides = (a.strides[0] * item, b.strides[0] * item, m * n * item)
    return [("blas", code(out.dtype)), _at(a), _at(b), out.offset, of_a, of_b, m, n, k, lda, ldb, n, batch, *strides]


HEAD = '''"""Written by tinymaml.programs.source: kernels of a program, on the numbers of a step."""

import math

import numpy as np
from numba import cfunc, float32 as f4, float64 as f8, int8 as i1, int16 as i2, int32 as i4, int64 as i8
from numba import uint8 as b1, uint8 as u1

from tinymaml.programs import machine
from tinymaml.programs.machine import ARRAYS, CHUNK, FIRST, ROUND, TASK
from tinymaml.programs.machine import p_b1, p_f4, p_f8, p_i1, p_i2, p_i4, p_i8, p_u1, real, step_at
'''


def _page(number: int, kernels: list[tuple[int, str, str]]) -> str:
    """A function of some kernels."""
    lines = [f'@cfunc("int64(int64, int64, int64)", **OPTIONS)\ndef page{number}(kernel, memory, step):']
    lines += ["    now, t = step_at(memory), step_at(step)", "    failed = 0"]
    for i, (op, text, comment) in enumerate(kernels):
        lines.append(f"    {'el' if i else ''}if kernel == {op}:  # {comment}")
        lines += [f"        {line}" for line in text.split("\n")]
    return "\n".join([*lines, "    return failed", ""])


def _file(pages: list[str]) -> str:
    return "\n\n".join([HEAD, *pages])


PAGE = 16  # kernels in a function: more in one are compiled faster, but not many more


# ── on disk ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def load(text: str) -> ModuleType:
    """The generated file as a module, compiled once on this machine: `$TINYMAML_CACHE`, or `~/.cache/tinymaml`.

    A file's name is the hash of all it depends on, so what has changed has another name; files are written whole or
    not at all, so any number of processes may ask at once. Where the folder cannot be written, nothing is kept.
    """
    import numba

    from . import machine, schedule

    depends = [text, *(Path(m.__file__).read_text() for m in (machine, schedule)), numba.__version__, np.__version__]
    name = "program_" + hashlib.sha256("\n".join(depends).encode()).hexdigest()[:16]
    if name in sys.modules:
        return sys.modules[name]
    folder = Path(os.environ.get("TINYMAML_CACHE") or "~/.cache/tinymaml").expanduser() / "programs"
    path = folder / f"{name}.py"
    if not path.exists():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(path, text.encode())
        except OSError:
            temporary = tempfile.TemporaryDirectory(prefix="tinymaml-")
            path = Path(temporary.name) / f"{name}.py"
            path.write_text(text)
            module = _module_at(path, cache=False)
            atexit.register(temporary.cleanup)
            return module
    try:
        return _module_at(path, cache=True)
    except Unsupported:
        raise
    except Exception:  # Numba finds no folder to cache in, or a broken file in it
        for file in (folder / "__pycache__").glob(f"{name}.page*"):
            with suppress(OSError):
                file.unlink()
        return _module_at(path, cache=False)


def _module_at(path: Path, cache: bool) -> ModuleType:
    from numba.core.errors import NumbaError

    spec: Any = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    module.OPTIONS = dict(error_model="numpy", cache=cache)
    sys.modules[path.stem] = module  # Numba asks for the module by its name
    try:
        spec.loader.exec_module(module)
    except NumbaError as cause:
        raise Unsupported(f"Numba refuses {path}: {str(cause).splitlines()[0]}") from cause
    finally:
        if not hasattr(module, "page0"):
            del sys.modules[path.stem]
    return module
