"""Passes: programs to smaller programs with the same results.

    simplify(program)        two sweeps over the equations; those that no output needs are dropped

No rule changes what NumPy gives at 0, −0, ±inf and NaN, or where something overflows; results differ by rounding at
most. If a rule relies on more than it can see, it leaves a guard: a value that is finite where the rule is right
(`Program.checked`); if it is not, the program gives up, and the function itself is asked.

A rule sees one equation, whose inputs are simplified already, and returns what its output is instead: a variable, a
constant, or None for "as it stands". Two equations that do the same to the same things become one (common
subexpressions). To add a rule, write it and put `@rule(primitive)` above it. Read next: `task`.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import ops
from ..engine import Primitive, alias, stop_gradient
from .program import Equation, Program, Var, identity_of

RULES: dict[Primitive, Callable] = {}


def rule(*primitives: Primitive) -> Callable[[Callable], Callable]:
    """Register a rule `f(b, inputs, params, output)` for equations of these primitives; b is the `Builder`."""

    def register(f: Callable) -> Callable:
        RULES.update(dict.fromkeys(primitives, f))
        return f

    return register


def simplify(program: Program) -> Program:
    """The same function in fewer and cheaper equations: first what is computed twice, so that all uses are known."""
    return _swept(_swept(program, {alias: _nothing, stop_gradient: _nothing}), RULES)


def _swept(program: Program, rules: dict[Primitive, Callable]) -> Program:
    b = Builder(program, rules)
    with np.errstate(all="ignore"):  # of constants
        for e in program.equations:
            b.values[e.output] = b.simplified(e)
    outputs, checked = (
        [b.values.get(x, x) if isinstance(x, Var) else x for x in part] for part in (program.outputs, program.checked)
    )
    checked = [x for x in checked if isinstance(x, Var)]
    checked = [*dict.fromkeys([*checked, *b.guards])]
    alive = _alive(b.equations, [*outputs, *checked])
    return dataclasses.replace(program, equations=alive, outputs=outputs, checked=checked, first_order=None)


def _alive(equations: list[Equation], outputs: list) -> list[Equation]:
    """Those that an output depends on."""
    needed = {x for x in outputs if isinstance(x, Var)}
    alive = []
    for e in reversed(equations):
        if e.output in needed:
            alive.append(e)
            needed.update(x for x in e.inputs if isinstance(x, Var))
    return alive[::-1]


class Builder:
    """The new equations so far, and what the old variables have become."""

    def __init__(self, program: Program, rules: dict[Primitive, Callable]):
        self.rules = rules
        self.equations: list[Equation] = []
        self.values: dict[Var, Any] = {}
        self.made: dict[Var, Equation] = {}
        self.known: dict[tuple, Var] = {}
        self.guards: list[Var] = []  # what must be finite
        self.uses = Counter(x for e in program.equations for x in e.inputs if isinstance(x, Var))
        self.uses.update(x for x in (*program.outputs, *program.checked) if isinstance(x, Var))

    def simplified(self, e: Equation):
        inputs = [self.values.get(x, x) if isinstance(x, Var) else x for x in e.inputs]
        if e.primitive.description.elementwise and self.rules is RULES:
            for i in range(len(inputs)):
                if e.primitive is not ops.power or i == 0:  # np.power takes one number, ½, for np.sqrt, an array not
                    inputs[i] = self.narrow(i, inputs, e.output)
        return self.make(e.primitive, inputs, e.params, e.output)

    def make(self, primitive: Primitive, inputs: list, params: dict, like: Var):
        """What `primitive(*inputs, **params)` is, of the shape and dtype of `like`: known, or a new equation."""
        if not any(isinstance(x, Var) for x in inputs):
            return primitive.forward(*inputs, **params)
        rule = self.rules.get(primitive)
        if rule and (simpler := rule(self, inputs, params, like)) is not None:
            return simpler
        key = (primitive, tuple(map(identity_of, inputs)), identity_of(params))
        if key not in self.known:
            output = self.known[key] = Var(like.shape, like.dtype)
            self.made[output] = Equation(primitive, tuple(inputs), params, output)
            self.equations.append(self.made[output])
        self.uses[self.known[key]] += self.uses[like]
        return self.known[key]

    def ensure(self, condition: Var) -> None:
        """The program gives up where the condition does not hold everywhere."""
        float64, over = np.dtype(np.float64), {"axis": tuple(range(condition.ndim)), "keepdims": False}
        outside = self.make(ops.where, [condition, 0.0, np.inf], {}, Var(condition.shape, float64))
        self.guards.append(self.make(ops._sum, [outside], over, Var((), float64)))

    def by(self, x, primitive: Primitive) -> Equation | None:
        """The equation that made x, if it is of that primitive."""
        e = self.made.get(x) if isinstance(x, Var) else None
        return e if e and e.primitive is primitive else None

    def narrow(self, i: int, inputs: list, output: Var):
        """Input i without needless copies of one number, as long as the others still give the output's shape."""
        x = inputs[i]
        if isinstance(x, np.ndarray) and x.size > 1 and x.tobytes() == x.ravel()[:1].tobytes() * x.size:
            small = x.ravel()[0]
        elif e := self.by(x, ops._broadcast_to):
            small = e.inputs[0]
        else:
            return x
        shapes = [_shape(y) for j, y in enumerate(inputs) if j != i]
        return small if np.broadcast_shapes(_shape(small), *shapes) == output.shape else x


def _shape(x) -> tuple[int, ...]:
    return x.shape if isinstance(x, Var) else np.shape(x)


def _number(x):
    """The number that a constant is everywhere, or None."""
    return x.item() if isinstance(x, (np.ndarray, np.generic)) and x.size == 1 else x if _plain(x) else None


def _plain(x) -> bool:
    return isinstance(x, (int, float)) and not isinstance(x, bool)


def _ordinary(c: float, dtype: np.dtype) -> bool:
    """Neither so large nor so small that it is not itself in that dtype."""
    return c == 0 or bool(np.finfo(dtype).tiny <= abs(c) <= np.finfo(dtype).max)


def _same(x, like: Var):
    """x, where it can stand for the output as it is."""
    return x if isinstance(x, Var) and (x.shape, x.dtype) == (like.shape, like.dtype) else None


# ── what moves nothing ──────────────────────────────────────────────────────────────────────────────────────────────


@rule(alias, stop_gradient)
def _nothing(b, inputs, params, output):
    return inputs[0]


@rule(ops.astype)
def _astype(b, inputs, params, output):
    (x,) = inputs
    if x.dtype.kind == "f" and output.dtype.kind in "iu":  # what lies outside becomes what the processor makes of it
        limits, truth = np.iinfo(output.dtype), Var(x.shape, np.dtype(bool))
        above = b.make(ops.greater, [x, float(limits.min) - 1], {}, truth)
        below = b.make(ops.less, [x, float(limits.max) + 1], {}, truth)
        b.ensure(b.make(ops.logical_and, [above, below], {}, truth))
    return _same(x, output)


@rule(ops.reciprocal)
def _reciprocal(b, inputs, params, output):
    (x,) = inputs  # of integers: 1 / 0 is what the processor makes of it
    b.ensure(b.make(ops.not_equal, [x, 0], {}, Var(x.shape, np.dtype(bool))))
    return None


@rule(ops._matmul)
def _matmul(b, inputs, params, output):
    # NumPy multiplies matrices of one dtype
    if all(x.dtype == output.dtype for x in inputs):
        return None
    inputs = [b.make(ops.astype, [x], {"dtype": output.dtype}, Var(_shape(x), output.dtype)) for x in inputs]
    return b.make(ops._matmul, inputs, params, output)


@rule(ops._reshape)
def _reshape(b, inputs, params, output):
    (x,) = inputs
    if inner := b.by(x, ops._reshape):
        return b.make(ops._reshape, list(inner.inputs), params, output)
    return _same(x, output)


@rule(ops._broadcast_to)
def _broadcast_to(b, inputs, params, output):
    (x,) = inputs
    if inner := b.by(x, ops._broadcast_to):
        return b.make(ops._broadcast_to, list(inner.inputs), params, output)
    return _same(x, output)


@rule(ops._transpose)
def _transpose(b, inputs, params, output):
    (x,), axes = inputs, params["axes"]
    if axes == tuple(range(len(axes))):
        return x
    if inner := b.by(x, ops._transpose):
        axes = tuple(inner.params["axes"][i] for i in axes)
        return b.make(ops._transpose, list(inner.inputs), {"axes": axes}, output)
    return _transposed_product(b, x, axes, output)


def _transposed_product(b, x, axes, output):
    # (A B)ᵀ = Bᵀ Aᵀ, where A B itself is not used
    product = b.by(x, ops._matmul)
    swap = (*range(len(axes) - 2), len(axes) - 1, len(axes) - 2)
    if not product or axes != swap or b.uses[x] > 1:
        return None
    if any(_shape(y)[:-2] != output.shape[:-2] for y in product.inputs):
        return None
    flipped = [_transposed(b, y, swap) for y in product.inputs[::-1]]
    return b.make(ops._matmul, flipped, {}, output)


def _transposed(b, x, axes):
    shape = tuple(_shape(x)[i] for i in axes)
    return b.make(ops._transpose, [x], {"axes": axes}, Var(shape, x.dtype))


@rule(ops._sum)
def _sum(b, inputs, params, output):
    (x,) = inputs
    if not all(x.shape[i] == 1 for i in params["axis"]) or x.dtype != output.dtype:
        return None
    x = b.make(ops._reshape, [x], {"shape": output.shape}, output)
    return b.make(ops.add, [x, 0.0], {}, output) if output.dtype.kind == "f" else x  # 0 + x is not x where x = −0


# ── arithmetic with constants ───────────────────────────────────────────────────────────────────────────────────────


@rule(ops.add)
def _add(b, inputs, params, output):
    x, y = inputs if not isinstance(inputs[0], Var) else inputs[::-1]  # a constant first
    return _same(y, output) if _is_zero(x, "-", output) else None


@rule(ops.subtract)
def _subtract(b, inputs, params, output):
    x, y = inputs
    return _same(x, output) if _is_zero(y, "+", output) else None


def _is_zero(x, sign: str, output: Var) -> bool:
    """Whether x is 0, of integers; of floating-point numbers, the zero of that sign."""
    return _number(x) == 0 and (output.dtype.kind in "iu" or bool(np.signbit(_number(x))) == (sign == "-"))


@rule(ops.multiply)
def _multiply(b, inputs, params, output):
    x, y = inputs if not isinstance(inputs[0], Var) else inputs[::-1]  # a constant first
    c = _number(x)
    if c is None or output.dtype.kind != "f" or not _same(y, output):
        return None
    if c == 1:
        return y
    inner = b.by(y, ops.multiply)
    d = _number(inner.inputs[0]) if inner and _same(inner.inputs[1], output) else None
    if d is not None and _one_for_both(c, d, output.dtype):
        # c (d z) = (c d) z
        return b.make(ops.multiply, [c * d, inner.inputs[1]], {}, output)
    return None if x is inputs[0] and _plain(x) else b.make(ops.multiply, [float(c), y], {}, output)


def _one_for_both(c: float, d: float, dtype: np.dtype) -> bool:
    """Whether c (d z) overflows, or vanishes, only where (c d) z does."""
    if not _ordinary(c * d, dtype) or (c * d == 0 and c and d):
        return False
    c, d = abs(c), abs(d)
    return c == 1 or d == 1 or (c <= 1 and d <= 1) or (c >= 1 and d >= 1)


@rule(ops.divide)
def _divide(b, inputs, params, output):
    x, y = inputs
    c = _number(y)
    if isinstance(y, Var) and y.dtype == output.dtype and 4 * y.size <= output.size and _same(x, output):
        # x / y = x (1 / y), one division for many elements, where neither y nor 1 / y is 0 or nearly
        inverse = b.make(ops.divide, [1.0, y], {}, y)
        b.guards.append(b.make(ops.add, [inverse, b.make(ops.multiply, [4.0, y], {}, y)], {}, y))
        return b.make(ops.multiply, [x, inverse], {}, output)
    if c and output.dtype.kind == "f" and _same(x, output) and math.frexp(c)[0] in (0.5, -0.5):
        # by a power of two
        if not _ordinary(1 / c, output.dtype):
            return None
        return b.make(ops.multiply, [1 / c, x], {}, output)
    return None


@rule(ops.power)
def _power(b, inputs, params, output):
    x, y = inputs
    n = _number(y)
    if output.dtype.kind in "iu":  # to negative powers NumPy has an error
        if not isinstance(y, Var):
            np.power(np.ones(1, output.dtype), y)
        elif y.dtype.kind == "i":
            b.ensure(b.make(ops.greater_equal, [y, 0], {}, Var(y.shape, np.dtype(bool))))
    if n == 0:
        return np.ones(output.shape, output.dtype)
    if n == 1:
        return _same(x, output)
    if n in (2, 3) and _same(x, output):
        square = b.make(ops.multiply, [x, x], {}, output)
        return square if n == 2 else b.make(ops.multiply, [square, x], {}, output)
    if n == 0.5 and _same(x, output) and np.isnan(np.power(np.full(1, -np.inf), 0.5)):
        return b.make(ops.sqrt, [x], {}, output)
    if n == -1 and output.dtype.kind == "f" and _same(x, output):
        return b.make(ops.divide, [1.0, x], {}, output)
    return None


def _compare(primitive: Primitive) -> Callable:
    def compare(b, inputs, params, output):
        # a Python integer beyond the dtype of integers compares with all of them alike
        n, x = inputs if type(inputs[0]) is int else inputs[::-1]
        if type(n) is not int or x.dtype.kind not in "iu" or np.iinfo(x.dtype).min <= n <= np.iinfo(x.dtype).max:
            return None
        any_ = [y if y is n else np.zeros((), x.dtype) for y in inputs]
        return np.broadcast_to(primitive.forward(*any_, **params), output.shape)

    return compare


for _primitive in Primitive.registry.values():
    if _primitive.description.computed_in == "common":
        rule(_primitive)(_compare(_primitive))


@rule(ops.max_share)
def _max_share(b, inputs, params, output):
    # the share of x in its maximum: [x = max x] / #[x = max x]
    (x,) = inputs
    if params["ties"] != "split":
        return None
    kept = tuple(1 if i in params["axis"] else n for i, n in enumerate(x.shape))
    reduce = {"axis": params["axis"], "keepdims": True}
    largest = b.make(ops._max, [x], reduce | {"ties": "split"}, Var(kept, x.dtype))
    best = b.make(ops.equal, [x, largest], {}, Var(x.shape, np.dtype(bool)))
    best = b.make(ops.astype, [best], {"dtype": output.dtype}, output)
    return b.make(ops.divide, [best, b.make(ops._sum, [best], reduce, Var(kept, output.dtype))], {}, output)
