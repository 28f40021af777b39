"""The machine: what generated code calls. Pointers, BLAS, kernels over pointers, and the run over all tasks.

A program in machine code is a memory of some bytes for each thread, and a list of steps, all 64-bit integers:

    [address of a function, which of its kernels, length of the step, sizes, places in the memory, strides, …] … [0]

`run_chunks` is the replay loop again: take a step, call its kernel, go on to the next; for every task. Fused loops are
made in `loop`; everything else is here.
"""

from __future__ import annotations

import math
import platform

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils, sigutils
from numba.core.imputils import lower_builtin
from numba.core.typing import signature
from numba.core.typing.templates import ConcreteTemplate, infer_global
from numba.extending import intrinsic
from numba.extending import register_jitable as jitable

from .loop import compile_short, counted_loop
from .placement import ARRAYS, CHUNK, END, TASK

# isort: off
from .threads import (
    ACQUIRE, ALLOWED, ASLEEP, BELL, BOARD, BUDGET, CALLERS, CHOOSE, CONSTANTS, CONSTANTS_AT, CONSTANTS_BYTES, CREW,
    DONE, FAILED, FIRST_HELPER, FIRST_OF, FIRST_SLOT, HEAD, HEAD_COUNT, HELPERS, HOLDS, JOB, LINE, LOCK, MEMORY,
    MOVES, MOVE_COUNT, NBYTES, OFFER, PROCESSOR, PROGRAM, RELEASE, SET, SIZE, SLOTS, TICKET, WAITING,
)  # fmt: skip
# isort: on

# Inlined, a kernel can raise nothing, so that its page calls nothing of Numba's: see `cache`.
register_jitable = jitable(forceinline=True)

# ── pointers ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _pointer(element: types.Type):
    """p(memory, t, j): a pointer to memory + t[j], which is indexed like an array."""

    @intrinsic
    def pointer(typingctx, memory, t, j):
        def codegen(context, builder, signature, args):
            memory, t, j = args
            address = builder.add(memory, builder.load(builder.gep(t, [j])))
            return builder.inttoptr(address, context.get_value_type(signature.return_type))

        return types.CPointer(element)(types.int64, types.CPointer(types.int64), types.int64), codegen

    return pointer


def _at(element: types.Type):
    """at(address): a pointer to an address."""

    @intrinsic
    def at(typingctx, address):
        def codegen(context, builder, signature, args):
            return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

        return types.CPointer(element)(types.int64), codegen

    return at


step_at, f4_at, f8_at = _at(types.int64), _at(types.float32), _at(types.float64)

p_f4, p_f8 = _pointer(types.float32), _pointer(types.float64)
p_i8, p_i4, p_i2, p_i1 = map(_pointer, (types.int64, types.int32, types.int16, types.int8))
p_u8, p_u4, p_u2, p_u1 = map(_pointer, (types.uint64, types.uint32, types.uint16, types.uint8))
p_b1 = p_u1  # a boolean is a byte


@intrinsic
def copy(typingctx, target, source, nbytes):
    def codegen(context, builder, signature, args):
        to, at = (builder.inttoptr(a, ir.IntType(8).as_pointer()) for a in args[:2])
        cgutils.raw_memcpy(builder, to, at, args[2], 1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


@intrinsic
def zero(typingctx, target, nbytes):
    def codegen(context, builder, signature, args):
        cgutils.memset(builder, builder.inttoptr(args[0], ir.IntType(8).as_pointer()), args[1], 0)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def invoke(typingctx, function, op, memory, step):
    """Call the C function of three integers at an address."""

    def codegen(context, builder, signature, args):
        integer = ir.IntType(64)
        function = ir.FunctionType(integer, [integer] * 3).as_pointer()
        return builder.call(builder.inttoptr(args[0], function), args[1:])

    return types.int64(types.int64, types.int64, types.int64, types.int64), codegen


# ── BLAS ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _gemm(number: types.Type):
    @intrinsic
    def gemm(typingctx, memory, t):
        """C ← op(A) op(B) + β C for some matrices, all in rows; BLAS has them in columns: Cᵀ = op(B)ᵀ op(A)ᵀ + β Cᵀ.

        The step is (…, BLAS's address, places of A, B and C, op(A), op(B) ("N" or "T"), m, n, k, the strides of the
        rows of A, B and C, how many matrices, the strides from one to the next, β).
        """

        def codegen(context, builder, signature, args):
            memory, t = args
            byte = ir.IntType(8).as_pointer()
            blas, *places = [builder.load(builder.gep(t, [ir.IntType(64)(j)])) for j in range(3, 20)]
            matrices, (of_a, of_b), (m, n, k), (lda, ldb, ldc), count, strides, beta = (
                places[:3], places[3:5], places[5:8], places[8:11], places[11], places[12:15], places[15])  # fmt: skip

            def by_reference(value):
                return builder.bitcast(cgutils.alloca_once_value(builder, value), byte)

            of_a, of_b = (by_reference(builder.trunc(x, ir.IntType(8))) for x in (of_a, of_b))
            m, n, k, lda, ldb, ldc = (by_reference(builder.trunc(x, ir.IntType(32))) for x in (m, n, k, lda, ldb, ldc))
            one = by_reference(context.get_constant(number, 1.0))
            beta = by_reference(builder.sitofp(beta, context.get_value_type(number)))
            function = builder.inttoptr(blas, ir.FunctionType(ir.VoidType(), [byte] * 13).as_pointer())

            def product(i, _):
                a, b, c = (
                    builder.inttoptr(builder.add(memory, builder.add(place, builder.mul(i, stride))), byte)
                    for place, stride in zip(matrices, strides, strict=True)
                )
                builder.call(function, [of_b, of_a, n, m, k, one, b, ldb, a, lda, beta, c, ldc])
                return []

            counted_loop(builder, count, [], product)
            return context.get_dummy_value()

        return types.void(types.int64, types.CPointer(types.int64)), codegen

    return gemm


gemm_f4, gemm_f8 = _gemm(types.float32), _gemm(types.float64)


# ── looks and sums ──────────────────────────────────────────────────────────────────────────────────────────────────


@register_jitable
def not_finite(x, n, ones):
    """Whether one of n numbers, read as integers, is infinite or NaN: has an exponent of ones."""
    found = 0
    for i in range(n):
        found |= x[i] & ones == ones
    return found


@register_jitable
def add(z, x, n):
    for i in range(n):
        z[i] += x[i]


# ── kernels ─────────────────────────────────────────────────────────────────────────────────────────────────────────
# z is what is written. The numbers are those of a step, see `kernels.Kernel.step`; the results are those of `kernels`.


@register_jitable
def patches(z, x, n, h, w, c, rows, columns, height, width, stride, top, left):
    """z, x are addresses and c is in bytes: a window's row of pixels lies in order, so patches are copies."""
    zero(z, n * rows * columns * height * width * c)
    for b in range(n):
        for row in range(rows):
            for column in range(columns):
                u = column * stride - left
                first, last = max(0, -u), min(width, w - u)
                for i in range(height):
                    y = row * stride + i - top
                    if 0 <= y < h and first < last:
                        copy(z + first * c, x + ((b * h + y) * w + u + first) * c, (last - first) * c)
                    z += width * c


@register_jitable
def unpatches(z, g, n, h, w, c, rows, columns, height, width, stride, top, left):
    for q in range(n * h * w * c):
        z[q] = 0
    at = 0
    for b in range(n):
        for row in range(rows):
            for column in range(columns):
                u = column * stride - left
                first, last = max(0, -u) * c, min(width, w - u) * c
                for i in range(height):
                    y = row * stride + i - top
                    if 0 <= y < h:
                        start = ((b * h + y) * w + u) * c
                        for q in range(first, last):
                            z[start + q] += g[at + q]
                    at += width * c


@register_jitable
def exceeds(x, best):
    """Whether x takes the place of the best so far: NaN is the largest, and the first of equals stays."""
    return (not x <= best) & (best == best)


@register_jitable
def pool_argmax(z, x, n, h, w, c, size):
    rows, columns = h // size, w // size
    at = 0
    for b in range(n):
        for row in range(rows):
            for column in range(columns):
                corner = ((b * h + row * size) * w + column * size) * c
                if size == 2:  # without branches: vectors of channels
                    below = corner + w * c
                    for q in range(c):
                        v0, v1, v2, v3 = x[corner + q], x[corner + c + q], x[below + q], x[below + c + q]
                        right_upper, right_lower = exceeds(v1, v0), exceeds(v3, v2)
                        upper, lower = v1 if right_upper else v0, v3 if right_lower else v2
                        of_upper, of_lower = 1 if right_upper else 0, 3 if right_lower else 2
                        z[at + q] = of_lower if exceeds(lower, upper) else of_upper
                else:
                    for q in range(c):
                        best, k = x[corner + q], 0
                        for m in range(1, size * size):
                            v = x[corner + ((m // size) * w + m % size) * c + q]
                            if exceeds(v, best):
                                best, k = v, m
                        z[at + q] = k
                at += c


@register_jitable
def pick(z, x, k, n, h, w, c, size):
    rows, columns = h // size, w // size
    at = 0
    for b in range(n):
        for row in range(rows):
            for column in range(columns):
                corner = ((b * h + row * size) * w + column * size) * c
                if size == 2:
                    below = corner + w * c
                    for q in range(c):
                        v0, v1, v2, v3 = x[corner + q], x[corner + c + q], x[below + q], x[below + c + q]
                        m = k[at + q]
                        upper, lower = v1 if m == 1 else v0, v3 if m == 3 else v2
                        z[at + q] = lower if m >= 2 else upper
                else:
                    for q in range(c):
                        m = k[at + q]
                        z[at + q] = x[corner + ((m // size) * w + m % size) * c + q]
                at += c


@register_jitable
def unpick(z, g, k, n, h, w, c, size):
    rows, columns = h // size, w // size
    if rows * size < h or columns * size < w:  # what no window covers
        for q in range(n * h * w * c):
            z[q] = 0
    at = 0
    for b in range(n):
        for row in range(rows):
            for column in range(columns):
                corner = ((b * h + row * size) * w + column * size) * c
                for m in range(size * size):
                    start = corner + ((m // size) * w + m % size) * c
                    for q in range(c):
                        z[start + q] = g[at + q] if k[at + q] == m else 0
                at += c


@register_jitable
def rows_in(t, lengths, axes):
    """How many rows index arrays can name."""
    rows = 1
    for a in range(axes):
        rows *= t[lengths + a]
    return rows


@register_jitable
def row_of(memory, t, indices, axes, i):
    """The row that the i-th of some index arrays name, −1 where an index is out of range."""
    row = 0
    for a in range(axes):
        j = p_i8(memory, t, indices + a)[i]
        n = t[indices + axes + a]
        if j < 0 or j >= n:
            return -1
        row = row * n + j
    return row


@register_jitable
def gather(memory, t):
    """z[o, i] = x[o, row i]: the step is (…, z, x, outer, picked, bytes of a row, axes, places of the indices, lengths
    of the axes)"""
    outer, picked, block, axes = t[5], t[6], t[7], t[8]
    rows = rows_in(t, 9 + axes, axes)
    for i in range(picked):
        row = row_of(memory, t, 9, axes, i)
        if row < 0:
            return 1
        for o in range(outer):
            copy(memory + t[3] + (o * picked + i) * block, memory + t[4] + (o * rows + row) * block, block)
    return 0


@register_jitable
def scatter(z, g, truths, memory, t):
    """z[o, row i] += g[o, i], from zero: the transpose of `gather`. Of truths, the sum is an "or"."""
    outer, picked, block, axes = t[5], t[6], t[7], t[8]
    rows = rows_in(t, 9 + axes, axes)
    for q in range(outer * rows * block):
        z[q] = 0
    for i in range(picked):
        row = row_of(memory, t, 9, axes, i)
        if row < 0:
            return 1
        for o in range(outer):
            to, of = (o * rows + row) * block, (o * picked + i) * block
            for q in range(block):
                z[to + q] = max(z[to + q], g[of + q]) if truths else z[to + q] + g[of + q]
    return 0


@register_jitable
def largest(z, x, before, length, after):
    for b in range(before):
        for q in range(after):
            z[b * after + q] = x[b * length * after + q]
        for i in range(1, length):
            for q in range(after):
                v = x[(b * length + i) * after + q]
                best = z[b * after + q]
                z[b * after + q] = v if v > best or v != v else best


@register_jitable
def argmax(z, x, before, length, after):
    for b in range(before):
        for q in range(after):
            best, k = x[b * length * after + q], 0
            for i in range(1, length):
                v = x[(b * length + i) * after + q]
                if exceeds(v, best):
                    best, k = v, i
            z[b * after + q] = k


@register_jitable
def argmin(z, x, before, length, after):
    for b in range(before):
        for q in range(after):
            best, k = x[b * length * after + q], 0
            for i in range(1, length):
                v = x[(b * length + i) * after + q]
                if (not v >= best) & (best == best):  # NaN is the least, too
                    best, k = v, i
            z[b * after + q] = k


@register_jitable
def product(z, x, y, truths, count, m, n, k, x0, x1, x2, y0, y1, y2):
    """z[i] = x[i] y[i], matrices of integers, which wrap: `count` of m × k by k × n; then the strides of x and of y.

    Of truths, the sum over j is an "or".
    """
    for i in range(count):
        for row in range(m):
            for column in range(n):
                total = 0
                for j in range(k):
                    total += x[i * x0 + row * x1 + j * x2] * y[i * y0 + j * y1 + column * y2]
                z[(i * m + row) * n + column] = min(total, 1) if truths else total


@register_jitable
def cumsum(z, x, before, length, after):
    for b in range(before):
        for q in range(after):
            z[b * length * after + q] = x[b * length * after + q]
        for at in range((b * length + 1) * after, (b + 1) * length * after):
            z[at] = z[at - after] + x[at]


@register_jitable
def less(x, y):
    """Whether x is sorted before y: NaN is the largest."""
    return (x < y) | ((y != y) & (x == x))


@register_jitable
def sift(z, x, first, stride, k, end):
    """Let element k of a heap of places sink: the largest of `end` rises to the front. Places break ties."""
    i = z[first + k * stride]
    v = x[first + i * stride]
    while 2 * k + 1 < end:
        child = 2 * k + 1
        j = z[first + child * stride]
        w = x[first + j * stride]
        if child + 1 < end:
            other = z[first + (child + 1) * stride]
            u = x[first + other * stride]
            if less(w, u) or (not less(u, w) and j < other):
                child, j, w = child + 1, other, u
        if less(w, v) or (not less(v, w) and j < i):
            break
        z[first + k * stride] = j
        k = child
    z[first + k * stride] = i


@register_jitable
def argsort(z, x, before, length, after):
    """Heapsort, which needs no memory; stable, since equal elements are told apart by their places."""
    for b in range(before):
        for q in range(after):
            first = b * length * after + q
            for i in range(length):
                z[first + i * after] = i
            for k in range(length // 2 - 1, -1, -1):
                sift(z, x, first, after, k, length)
            for end in range(length - 1, 0, -1):
                last = first + end * after
                z[first], z[last] = z[last], z[first]
                sift(z, x, first, after, 0, end)


@register_jitable
def searchsorted(z, a, v, n, count, right):
    """The place of v in the sorted a: before equal elements, or `right` of them."""
    for q in range(count):
        low, high = 0, n
        while low < high:
            middle = (low + high) // 2
            if (not less(v[q], a[middle])) if right else less(a[middle], v[q]):
                low = middle + 1
            else:
                high = middle
        z[q] = low


@register_jitable
def recurrence(z, a, b, length, after):
    """zₜ = aₜ zₜ₋₁ + bₜ over the first axis, from z₀ = b₀."""
    for q in range(after):
        z[q] = b[q]
    for at in range(after, length * after):
        z[at] = a[at] * z[at - after] + b[at]


def _of_base_2(name: str):
    """exp2 or log2. Numba's own are one function for both floating types, and fit the first."""

    @intrinsic
    def f(typingctx, x):
        def codegen(context, builder, signature, args):
            return builder.call(builder.module.declare_intrinsic(f"llvm.{name}", [args[0].type]), args)

        return x(x), codegen

    return f


exp2, log2 = _of_base_2("exp2"), _of_base_2("log2")


@register_jitable
def power(x, n):
    """xⁿ of integers, which wraps, for n ≥ 0."""
    z = x * 0 + 1
    while n > 0:
        if n & 1:
            z *= x
        x *= x
        n >>= 1
    return z


@register_jitable
def power_log(x, y, n, k):
    """xʸ (log x)ⁿ, see `ops.power_log`."""
    if x != 0:
        return x**y * math.log(x) ** n
    if n > 0 and (y < 0 or (y == 0 and k > 0)):
        return (-math.inf) ** n
    return x**y * (n == 0)


@register_jitable
def order(x, y):
    """−1, 0 or 1, as the signed x is less than the unsigned y, equal, or greater."""
    if x < 0:
        return -1
    z = np.uint64(x)
    return int(z > y) - int(z < y)


@register_jitable
def floor_divide(x, y):
    """⌊x / y⌋ of integers; of the least and −1 it wraps."""
    return x * y if y < 0 and y + 1 == 0 else x // y


@register_jitable
def fmod(x, y):
    """The rest of integers, with the sign of x; 0 where y is."""
    z = x % y
    return z - y if z != 0 and (x < 0) != (y < 0) else z


@register_jitable
def signbit(x):
    return math.copysign(1.0, float(x)) < 0


@register_jitable
def logaddexp2(x, y):
    if x == y:
        return x + 1
    d = x - y
    return x + LOG2_E * math.log1p(exp2(-d)) if d > 0 else y + LOG2_E * math.log1p(exp2(d)) if d <= 0 else d


LOG2_E = 1 / math.log(2)


@register_jitable
def logaddexp(x, y):
    if x == y:
        return x + math.log(2)
    d = x - y
    return x + math.log1p(math.exp(-d)) if d > 0 else y + math.log1p(math.exp(d)) if d <= 0 else d


# ── all tasks ───────────────────────────────────────────────────────────────────────────────────────────────────────
# What the caller and its helpers do with the board of `threads`, whose words these are. Addresses are int64.


def scalars(form: str):
    """A decorator for functions of integers, for which Numba leaves out most of its work: see `loop._Short`."""
    arguments, result = sigutils.normalize_signature(form)

    def decorate(body):
        globals()[body.__name__] = body  # where Numba looks for it

        @infer_global(body)
        class _(ConcreteTemplate):
            cases = [signature(result, *arguments)]

        made: dict = {}  # by the library that it is a part of

        @lower_builtin(body, *arguments)
        def lower(context, builder, sig, args):
            library = context.active_code_library
            if library not in made:
                made[library] = compile_short(context, body, arguments, result)
            _, value = context.call_internal_no_propagate(builder, made[library].fndesc, sig, args)
            return value

        return body

    return decorate


def _atomic(operation: str):
    """operation(address, n): the word there before it was changed, atomically."""

    @intrinsic
    def atomic(typingctx, address, n):
        def codegen(context, builder, signature, args):
            place = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
            return builder.atomic_rmw(operation, place, args[1], "seq_cst")

        return types.int64(types.int64, types.int64), codegen

    return atomic


added, exchanged, united = map(_atomic, ("add", "xchg", "or"))


@intrinsic
def replaced(typingctx, address, old, new):
    """Whether the word was `old`; if so, it is `new` now."""

    def codegen(context, builder, signature, args):
        place = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
        result = builder.cmpxchg(place, args[1], args[2], "seq_cst", "seq_cst")
        return builder.zext(builder.extract_value(result, 1), ir.IntType(64))

    return types.int64(types.int64, types.int64, types.int64), codegen


@intrinsic
def word(typingctx, address):
    """The word as it is now."""

    def codegen(context, builder, signature, args):
        place = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
        return builder.load_atomic(place, "seq_cst", 8)

    return types.int64(types.int64), codegen


@intrinsic
def call_with(typingctx, function, lock):
    """Call PyThread_acquire_lock(lock, 1), or PyThread_release_lock(lock), which ignores the second argument."""

    def codegen(context, builder, signature, args):
        integer, flag = ir.IntType(64), ir.IntType(32)
        function = builder.inttoptr(args[0], ir.FunctionType(flag, [integer, flag]).as_pointer())
        builder.call(function, [args[1], flag(1)])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def pause(typingctx):
    """A moment in which the other thread of this core has more of it."""

    def codegen(context, builder, signature, args):
        if platform.machine().lower() in ("x86_64", "amd64"):
            function = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(ir.VoidType(), []), "llvm.x86.sse2.pause"
            )
            builder.call(function, [])
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def ask(typingctx, function):
    """Call a function of no arguments that returns an int."""

    def codegen(context, builder, signature, args):
        function = builder.inttoptr(args[0], ir.FunctionType(ir.IntType(32), []).as_pointer())
        return builder.sext(builder.call(function, []), ir.IntType(64))

    return types.int64(types.int64), codegen


@scalars("int64(int64)")
def processor(board):
    """The processor on which this thread runs, −1 where that cannot be told."""
    function = step_at(board)[PROCESSOR]
    return ask(function) if function else -1


@intrinsic
def choose_from(typingctx, function, processors):
    """sched_setaffinity(0, …): this thread runs on one of these from now on. 0 if that worked."""

    def codegen(context, builder, signature, args):
        flag, integer = ir.IntType(32), ir.IntType(64)
        function = builder.inttoptr(args[0], ir.FunctionType(flag, [flag, integer, integer]).as_pointer())
        return builder.sext(builder.call(function, [flag(0), integer(8 * SET), args[1]]), integer)

    return types.int64(types.int64, types.int64), codegen


@scalars("int64(int64, int64, int64)")
def leave(board, processors, one):
    """Leave a processor for another of those that are allowed; whether there is another."""
    allowed, chosen = step_at(processors), step_at(processors + 8 * SET)
    others = 0
    for i in range(SET):
        chosen[i] = allowed[i] & ~(1 << one % 64) if i == one // 64 else allowed[i]
        others |= chosen[i]
    return others != 0 and choose_from(step_at(board)[CHOOSE], processors + 8 * SET) == 0


@scalars("int64(int64)")
def beside_caller(board):
    """Whether this thread is on the processor of the last caller."""
    here = processor(board)
    return here >= 0 and here == step_at(board)[CALLERS]


@scalars("int64(int64, int64, int64)")
def take_chunk(slot, generation, joining):
    """Take a chunk: the ticket that names it, or −1 where none is left, or the job is another one by now."""
    while True:
        ticket = word(slot + 8 * TICKET)
        none_left = ticket & 255 >= (ticket >> 8) & 255
        if none_left or (generation >= 0 and ticket >> 24 != generation):
            return -1
        if joining and (ticket >> 16) & 255 == 0:
            return -1
        if replaced(slot + 8 * TICKET, ticket, ticket + 1 - (joining << 16)):
            return ticket


@scalars("void(int64, int64, int64, int64)")
def run_chunks(slot, arena, ticket, budget):
    """The chunk that a ticket names, and more of its job, at most `budget` of them: every step for every task."""
    s, a = step_at(slot), step_at(arena)
    job, memory, generation = step_at(s[JOB]), a[MEMORY], ticket >> 24
    now, first_of, moves = step_at(memory), step_at(job[FIRST_OF]), step_at(job[MOVES])
    if a[HOLDS] != job[PROGRAM]:
        copy(memory + job[CONSTANTS_AT], job[CONSTANTS], job[CONSTANTS_BYTES])
        a[HOLDS] = job[PROGRAM]
    copy(memory + 8 * ARRAYS, job[HEAD], 8 * job[HEAD_COUNT])
    while ticket >= 0:
        chunk, failed = ticket & 255, 0
        now[CHUNK] = chunk
        for task in range(first_of[chunk], first_of[chunk + 1]):
            now[TASK] = task
            for move in range(job[MOVE_COUNT]):
                at = moves[move]
                step = step_at(at)
                while step[0] != END:
                    failed |= invoke(step[0], step[1], memory, at)
                    at += 8 * step[2]
                    step = step_at(at)
        if failed:
            united(slot + 8 * FAILED, 1)
        done = added(slot + 8 * DONE, 1) + 1  # from here on the job may be gone, if this was its last chunk
        if done == (word(slot + 8 * TICKET) >> 8) & 255 and exchanged(slot + 8 * WAITING, 0):
            call_with(step_at(s[BOARD])[RELEASE], s[LOCK])
        budget -= 1
        ticket = take_chunk(slot, generation, 0) if budget > 0 else -1


@scalars("void(int64)")
def wait(slot):
    """Until all chunks that were taken are complete. The caller sleeps, after some microseconds of looking."""
    s = step_at(slot)
    chunks = (word(slot + 8 * TICKET) >> 8) & 255
    for _ in range(LOOKS):
        if word(slot + 8 * DONE) == chunks:
            return
    while word(slot + 8 * DONE) != chunks:
        exchanged(slot + 8 * WAITING, 1)
        if word(slot + 8 * DONE) == chunks and exchanged(slot + 8 * WAITING, 0):
            return  # the lock has not been released, and will not be
        call_with(step_at(s[BOARD])[ACQUIRE], s[LOCK])


LOOKS = 2000  # looks at a word before a thread sleeps: some microseconds


@scalars("void(int64, int64)")
def wake(board, wanted):
    """As many helpers as are wanted, of those that sleep."""
    for i in range(word(board + 8 * HELPERS)):
        helper = board + 8 * (FIRST_HELPER + LINE * i)
        if wanted > 0 and word(helper + 8 * ASLEEP) and exchanged(helper + 8 * ASLEEP, 0):
            call_with(step_at(board)[RELEASE], step_at(helper)[BELL])
            wanted -= 1


@scalars("int64(int64, int64, int64)")
def work(slot, arena, first):
    """The work of the caller; returns whether there is more to do."""
    s = step_at(slot)
    if first:
        step_at(s[BOARD])[CALLERS] = processor(s[BOARD])
        exchanged(slot + 8 * TICKET, s[OFFER])
        wake(s[BOARD], (s[OFFER] >> 16) & 255)
    ticket = take_chunk(slot, word(slot + 8 * TICKET) >> 24, 0)
    if ticket >= 0:
        run_chunks(slot, arena, ticket, s[BUDGET])
    ticket = word(slot + 8 * TICKET)
    if ticket & 255 < (ticket >> 8) & 255:
        return 1
    wait(slot)
    return 0


@scalars("void(int64)")
def cancel(slot):
    """No more chunks are taken; those that were are waited for."""
    while True:
        ticket = word(slot + 8 * TICKET)
        taken = ticket & 255
        if replaced(slot + 8 * TICKET, ticket, (ticket >> 24 << 24) | (taken << 8) | taken):
            wait(slot)
            return


@scalars("int64(int64)")
def joinable(board):
    """A slot whose job has chunks left and room for a helper; 0 if there is none."""
    for i in range(word(board + 8 * SLOTS)):
        slot = board + 8 * (FIRST_SLOT + LINE * i)
        ticket = word(slot + 8 * TICKET)
        if ticket & 255 < (ticket >> 8) & 255 and (ticket >> 16) & 255 > 0:
            return slot
    return 0


@scalars("int64(int64, int64)")
def serve(helper, arena):
    """The work of a helper, without end; it returns the bytes of memory that it wants, if it has too few.

    On the caller's processor it would only take time away: it leaves for another one, or sleeps if there is none.
    """
    h, a = step_at(helper), step_at(arena)
    board, looks, moved = h[CREW], HELPERS_LOOKS, False
    while True:
        slot = joinable(board)
        misplaced = (slot != 0 or looks % 64 == 0) and beside_caller(board)
        if misplaced and not moved and leave(board, h[ALLOWED], step_at(board)[CALLERS]):
            moved = True
            continue
        if slot == 0 and not misplaced:
            looks -= 1
            if looks > 0:
                pause()
                continue
        if slot == 0 or misplaced:
            exchanged(helper + 8 * ASLEEP, 1)
            slot = 0 if misplaced else joinable(board)  # once more: no caller would wake it for what came in between
            if slot == 0 or exchanged(helper + 8 * ASLEEP, 0) == 0:
                call_with(step_at(board)[ACQUIRE], h[BELL])  # it sleeps, or a caller has rung already
            looks, moved = HELPERS_LOOKS, False
            continue
        ticket = word(slot + 8 * TICKET)
        nbytes = step_at(slot)[NBYTES]
        if nbytes > a[SIZE] and word(slot + 8 * TICKET) >> 24 == ticket >> 24:
            return nbytes
        ticket = take_chunk(slot, ticket >> 24, 1)
        if ticket >= 0:
            run_chunks(slot, arena, ticket, MOST_CHUNKS)
            looks, moved = HELPERS_LOOKS, False


MOST_CHUNKS = 255
HELPERS_LOOKS = 10000  # some tenths of a millisecond: the next call may follow soon
