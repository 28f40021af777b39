"""A loop: a function of one element of each operand, made into one over all of them.

    @loop("2: f4 f4. > f4 f4+")                for i0 in range(t[3]):
    def loop7(x0, x1):                             for i1 in range(t[4]):
        v0 = x0 + x1                                   y2[i0, i1] = v0 = x0[i0, i1] + x1[i0]
        v1 = larger(v0, f4(0))                         y3[i1] += larger(v0, 0)
        return v0, v1

is `loop7(memory, t)`. The form says how many axes the loop has and, for each operand and result, what its elements are
and how they lie along the innermost axis:

    f4   one after the other       f4.  operand: one for all of them; result: they are added up
    f4*  further apart, or before  f4=  operand: a constant           f4+  result: added to what is there

The step t goes on with the sizes of the axes; then, for each operand and result, its place in the memory and the bytes
from one to the next on every axis but the innermost (on that too, in elements, for `*`); for a constant, its bits as
float64.

Numba compiles the function of one element. The loops are written here, in LLVM, because Numba takes several times as
long over them; and because here is known what LLVM cannot see: results lie apart from each other and from the operands.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.compiler import CompilerBase, Flags, compile_extra
from numba.core.compiler_machinery import PassManager
from numba.core.typed_passes import IRLegalization, NativeLowering, NoPythonBackend, NopythonTypeInference
from numba.core.untyped_passes import FixupArgs, IRProcessing, TranslateByteCode
from numba.extending import intrinsic

TYPES = {
    "f4": types.float32, "f8": types.float64, "i8": types.int64, "i4": types.int32, "i2": types.int16,
    "i1": types.int8, "u1": types.uint8, "u2": types.uint16, "u4": types.uint32, "u8": types.uint64,
    "b1": types.uint8,
}  # fmt: skip
WORD = ir.IntType(64)


class _Short(CompilerBase):
    """Numba's compiler, without the passes that straight lines of scalars do not need."""

    def define_pipelines(self):
        passes = PassManager("scalar")
        for each in (TranslateByteCode, FixupArgs, IRProcessing, NopythonTypeInference, IRLegalization,
                     NativeLowering, NoPythonBackend):  # fmt: skip
            passes.add_pass(each, "")
        passes.finalize()
        return [passes]


def compile_short(context, body, arguments, result):
    """A function of scalars, compiled as part of the function that calls it, where it will be inlined."""
    flags = Flags()
    flags.error_model = "numpy"
    flags.no_compile = flags.no_cpython_wrapper = flags.no_cfunc_wrapper = True
    return compile_extra(
        context.typing_context, context, body, arguments, result, flags, {}, context.active_code_library, _Short
    )


def loop(form: str):
    """A decorator: see above."""
    axes, operands = form.split(": ")
    inputs, results = (part.split() for part in operands.split("> "))
    given = [TYPES[x[:2]] for x in inputs]
    made = [_sum_type(x) if x.endswith(".") else TYPES[x[:2]] for x in results]
    signature = (types.Tuple(made) if len(made) > 1 else made[0])(*given)

    def decorate(body):
        @intrinsic
        def run(typingctx, memory, t):
            def codegen(context, builder, _, args):
                compiled = compile_short(context, body, signature.args, signature.return_type)

                def call(values: list) -> list:
                    _, result = context.call_internal_no_propagate(builder, compiled.fndesc, signature, values)
                    return [builder.extract_value(result, i) for i in range(len(made))] if len(made) > 1 else [result]

                _Nest(builder, *args, int(axes), body.__name__).write(inputs, results, call)
                return context.get_dummy_value()

            return types.void(types.int64, types.CPointer(types.int64)), codegen

        return run

    return decorate


def _sum_type(x: str) -> types.Type:
    """The dtype in which a sum is computed."""
    return types.float64 if x[0] == "f" else types.int64


class _Nest:
    """The nested loops of one step, as instructions."""

    def __init__(self, builder: ir.IRBuilder, memory, t, axes: int, name: str):
        self.builder, self.memory, self.t, self.name = builder, memory, t, name
        self.read = 3  # how far the step has been read
        self.sizes = [self.number() for _ in range(axes)]

    def number(self) -> ir.Value:
        self.read += 1
        return self.builder.load(self.builder.gep(self.t, [WORD(self.read - 1)]))

    def write(self, inputs: list[str], results: list[str], call) -> None:
        places = [self.place(x) for x in (*inputs, *results)]
        domain = self.builder.module.add_metadata([self.name])
        scopes = [self.builder.module.add_metadata([f"{i}", domain]) for i in range(len(results) + 1)]
        operands = [_Operand(self, x, place, scopes, 0) for x, place in zip(inputs, places, strict=False)]
        targets = [
            _Operand(self, x, place, scopes, i)
            for i, (x, place) in enumerate(zip(results, places[len(inputs) :], strict=True), 1)
        ]

        def rows(axis: int, indices: list) -> None:
            if axis < len(self.sizes) - 1:
                counted_loop(self.builder, self.sizes[axis], [], lambda i, _: rows(axis + 1, [*indices, i]) or [])
                return
            for x in (*operands, *targets):
                x.enter(indices)
            sums = [x for x in targets if x.kind == "."]

            def elements(i, totals: list) -> list:
                values = call([x.load(i) for x in operands])
                totals = iter(totals)
                return [y for x, v in zip(targets, values, strict=True) if (y := x.take(i, v, totals)) is not None]

            totals = counted_loop(self.builder, self.sizes[axis], [ir.Constant(x.sum_type, 0) for x in sums], elements)
            for x, total in zip(sums, totals, strict=True):
                x.add(total)

        rows(0, [])

    def place(self, x: str) -> tuple[ir.Value, list]:
        """The beginning of an operand, and how far apart its elements are on each axis that the step says it for."""
        if x.endswith("="):
            return self.number(), []
        address = self.builder.add(self.memory, self.number())
        return address, [self.number() for _ in range(len(self.sizes) - (not x.endswith("*")))]


def counted_loop(builder: ir.IRBuilder, n: ir.Value, carried: list, body) -> list:
    """for i in range(n): carried = body(i, carried), where n is at least 1."""
    before = builder.block
    block, after = builder.append_basic_block("loop"), builder.append_basic_block("after")
    builder.branch(block)
    builder.position_at_end(block)
    carried = [WORD(0), *carried]
    inside = [builder.phi(x.type) for x in carried]
    results = body(inside[0], inside[1:])
    following = builder.add(inside[0], WORD(1), flags=("nuw", "nsw"))
    for phi, first, later in zip(inside, carried, [following, *results], strict=True):
        phi.add_incoming(first, before)
        phi.add_incoming(later, builder.block)
    builder.cbranch(builder.icmp_signed("<", following, n), block, after)
    builder.position_at_end(after)
    return results


class _Operand:
    """One operand or result: `scope` is common to the accesses to it, and to no others."""

    def __init__(self, nest: _Nest, form: str, place: tuple, scopes: list, scope: int):
        self.builder, (self.address, self.strides) = nest.builder, place
        self.type, self.kind = _llvm(TYPES[form[:2]]), form[2:]
        self.sum_type = _llvm(_sum_type(form))
        add = nest.builder.module.add_metadata
        self.scope, self.others = add([scopes[scope]]), add([*scopes[:scope], *scopes[scope + 1 :]])
        self.value = None  # the same for all of the innermost axis
        if self.kind == "=":
            self.value = self.builder.bitcast(self.address, ir.DoubleType())
            if self.type != ir.DoubleType():
                self.value = self.builder.fptrunc(self.value, self.type)

    def enter(self, indices: list) -> None:
        """Before the innermost loop."""
        if self.kind == "=":
            return
        address = self.address
        for i, stride in zip(indices, self.strides, strict=False):
            address = self.builder.add(address, self.builder.mul(i, stride))
        self.pointer = self.builder.inttoptr(address, self.type.as_pointer())
        if self.kind == ".":
            self.value = self.tagged(self.builder.load(self.pointer))

    def load(self, i: ir.Value) -> ir.Value:
        return self.tagged(self.builder.load(self.at(i))) if self.value is None else self.value

    def at(self, i: ir.Value) -> ir.Value:
        return self.builder.gep(self.pointer, [self.builder.mul(i, self.strides[-1]) if self.kind == "*" else i])

    def take(self, i: ir.Value, value: ir.Value, totals):
        """A result: stored, added to what is there, or, if it is added up, the new total."""
        if self.kind == ".":
            # in any order: several at a time
            return self.plus(next(totals), value, flags=("reassoc",))
        if self.kind == "+":
            value = self.plus(self.load(i), value)
        self.tagged(self.builder.store(value, self.at(i)))
        return None

    def add(self, total: ir.Value) -> None:
        """After the innermost loop."""
        if self.type != self.sum_type:
            narrow = self.builder.fptrunc if self.type == ir.FloatType() else self.builder.trunc
            total = narrow(total, self.type)
        self.tagged(self.builder.store(self.plus(self.value, total), self.pointer))

    def plus(self, x: ir.Value, y: ir.Value, flags=()) -> ir.Value:
        return self.builder.add(x, y) if isinstance(x.type, ir.IntType) else self.builder.fadd(x, y, flags=flags)

    def tagged(self, access):
        access.set_metadata("alias.scope", self.scope)
        access.set_metadata("noalias", self.others)
        return access


def _llvm(number: types.Type) -> ir.Type:
    if isinstance(number, types.Float):
        return ir.FloatType() if number.bitwidth == 32 else ir.DoubleType()
    return ir.IntType(number.bitwidth)


# ── choices ─────────────────────────────────────────────────────────────────────────────────────────────────────────
# Without branches: Numba takes long over these too.


def _compare(builder: ir.IRBuilder, relation: str, x: ir.Value, y: ir.Value, number: types.Type) -> ir.Value:
    """Whether the relation holds between two of a type of number; not for NaN."""
    if isinstance(number, types.Float):
        return builder.fcmp_ordered(relation, x, y)
    return (builder.icmp_signed if number.signed else builder.icmp_unsigned)(relation, x, y)


def _extreme(relation: str):
    @intrinsic
    def extreme(typingctx, x, y):
        def codegen(context, builder, signature, args):
            x, y = args
            chosen = _compare(builder, relation, x, y, signature.return_type)
            if isinstance(signature.return_type, types.Float):
                chosen = builder.or_(chosen, builder.fcmp_unordered("uno", x, x))
            return builder.select(chosen, x, y)

        return x(x, x), codegen

    return extreme


larger = _extreme(">")  # x if x > y or x is NaN, else y
smaller = _extreme("<")


@intrinsic
def above(typingctx, x, y, tie):
    """1 where x > y, `tie` where they are equal, 0 elsewhere"""

    def codegen(context, builder, signature, args):
        x, y, tie = args
        one, zero = (context.get_constant(signature.return_type, n) for n in (1, 0))
        number = signature.args[0]
        low = builder.select(_compare(builder, "==", x, y, number), tie, zero)
        return builder.select(_compare(builder, ">", x, y, number), one, low)

    return tie(x, x, tie), codegen


@intrinsic
def sign(typingctx, x):
    """1 where x > 0, 0 where x = 0, −1 where x < 0, NaN where x is"""

    def codegen(context, builder, signature, args):
        (x,), number = args, signature.return_type
        one, zero = (context.get_constant(number, n) for n in (1, 0))
        low = builder.select(_compare(builder, "==", x, zero, number), zero, x)
        if getattr(number, "signed", True):
            below = _compare(builder, "<", x, zero, number)
            low = builder.select(below, context.get_constant(number, -1), low)
        return builder.select(_compare(builder, ">", x, zero, number), one, low)

    return x(x), codegen


@intrinsic
def choose(typingctx, condition, x, y):
    """x where the condition is not zero, else y"""

    def codegen(context, builder, signature, args):
        return builder.select(cgutils.is_not_null(builder, args[0]), *args[1:])

    return x(condition, x, x), codegen
