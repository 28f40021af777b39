"""Programs: a function written down as equations, to be read, replayed on other arrays, simplified and compiled.

    program = record(f, *examples)         what f does to arrays of these shapes
    print(program)                         one line an equation, with shapes
    program(*arrays)                       f again, without Python's part in it: replay

A tensor remembers what it was made by, so a function need only be run once, on tensors, and the list is there: the
gradient of a gradient like anything else. For a function made by `meta_value_and_grad` the program is one task's
meta-gradient, the exact one on a page; what first-order MAML leaves out of it is marked. Read next: `tracing`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from enum import Enum
from functools import wraps
from typing import Any, NamedTuple

import numpy as np

from ..differentiable import name_of
from ..engine import Primitive, Tensor, alias, stop_gradient, value_of
from ..inputs import as_learned, as_tasks, watching
from ..nest import Nest, opened, tree_fill, tree_items, tree_leaves, tree_map
from ..numpy_api import placeholder
from ..per_task import PerTask
from .guards import Outside
from .tracing import RecordError, Recording, Traced


class Var:
    """A value of a program: what it is called depends on where it stands, so it has a shape and a dtype only."""

    __slots__ = ("shape", "dtype")

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype):
        self.shape, self.dtype = shape, dtype

    ndim = property(lambda self: len(self.shape))
    size = property(lambda self: int(np.prod(self.shape, dtype=int)))


class Equation(NamedTuple):
    """`output = primitive(*inputs, **params)`; an input is a `Var`, or a constant: an array or a number."""

    primitive: Primitive
    inputs: tuple
    params: dict[str, Any]
    output: Var


@dataclass(eq=False)
class Program:
    """Equations in the order in which they can be computed.

    Attributes:
        name: of the function.
        inputs: one `Var` for each leaf of the arguments that is not fixed.   names: what each is called there.
        outputs: for each leaf of the result a `Var` or a constant.
        arguments, result: the nests these belong into; a leaf of `arguments` is `INPUT`, or what it was and has to be.
        checked: what must be finite while f runs: inner losses, and what `passes` and machine code rely on.
        first_order: the variables that first-order MAML has too; None where the question makes no sense.
        fixed_floats: whether Python floats among the arguments had to be fixed, as other Python scalars are.

    >>> program = tm.record(lambda x, y: np.sum(x * y), np.ones(2), np.ones(2))
    >>> float(program(np.array([1.0, 2.0]), np.array([3.0, 4.0]))), len(program.equations)
    (11.0, 2)
    """

    name: str
    inputs: list[Var]
    names: list[str]
    equations: list[Equation]
    outputs: list
    arguments: Nest
    result: Nest
    checked: list = field(default_factory=list)
    first_order: set[Var] | None = None
    fixed_floats: bool = False

    def __call__(self, *args: Nest) -> Nest:
        """The result for other arrays of the same shapes and dtypes."""
        return tree_fill(self.result, self.replay(self.leaves(args)))

    def replay(self, arrays: Iterable) -> list:
        """The outputs for the inputs, and `checked`: each equation in turn, in NumPy; what is no longer used goes."""
        values = dict(zip(self.inputs, arrays, strict=True))
        last = {x: i for i, e in enumerate(self.equations) for x in e.inputs if isinstance(x, Var)}
        results = [*self.outputs, *self.checked]
        keep = {x for x in results if isinstance(x, Var)}
        for i, (primitive, inputs, params, output) in enumerate(self.equations):
            values[output] = primitive.forward(*[values[x] if isinstance(x, Var) else x for x in inputs], **params)
            for x in {x for x in inputs if isinstance(x, Var)}:
                if last[x] == i and x not in keep:
                    del values[x]
        results = [values[x] if isinstance(x, Var) else x for x in results]
        return [np.array(x) if isinstance(x, (np.ndarray, np.generic)) else x for x in results]

    def leaves(self, args: tuple) -> list[np.ndarray]:
        """The arrays of a call, in the order of `inputs`.

        Raises:
            ValueError: a shape, a dtype or a Python scalar other than recorded; names it.
        """
        given = tree_leaves(tree_map(lambda _, x: x, self.arguments, args))
        wanted = tree_leaves(self.arguments)
        for (path, x), fixed in zip(tree_items(args), wanted, strict=True):
            if fixed is not INPUT and identity_of(x) != identity_of(fixed):
                raise ValueError(f"args{path} is {x!r}, the program was recorded for {fixed!r}")
        arrays = [np.asarray(x) for x, fixed in zip(given, wanted, strict=True) if fixed is INPUT]
        for name, var, x in zip(self.names, self.inputs, arrays, strict=True):
            if x.shape != var.shape or x.dtype != var.dtype:
                raise ValueError(f"{name} is {x.dtype} {x.shape}, the program was recorded for {var.dtype} {var.shape}")
        return arrays

    def __str__(self) -> str:
        return "\n".join(_listing(self))

    def __repr__(self) -> str:
        return f"<program {self.name}: {len(self.equations)} equations>"


class Input(Enum):
    """A leaf of the arguments that is an input of the program."""

    INPUT = "input"


INPUT = Input.INPUT
FIXED = (bool, int, complex, str, bytes, np.dtype, type, Enum)  # what is a part of a signature, by its value


RESULTS = (Tensor, np.ndarray, np.generic, float, *FIXED)  # what a leaf of a result may be


def outline(tree: Nest, leaves: list, fixed_floats: bool = False):
    """The part of a signature beside shapes and dtypes; hashable.

    The leaves that are inputs are put into the list, in the order of `tree_leaves`, as they are; a Python float is one,
    but promotes otherwise than an array, so that the outline says which leaves are floats. Other Python scalars
    are fixed, and a part of the outline, with their type.
    """
    kind = type(tree)
    if tree is not None and (children := opened(tree)) is not None:
        # 1 and True are equal, and not the same
        keys = () if isinstance(tree, (list, tuple)) else tuple(k if type(k) is str else (type(k), k) for k in children)
        return kind, keys, held(tree), *[outline(child, leaves, fixed_floats) for child in children.values()]
    if kind is float and fixed_floats:
        return kind, tree.hex()
    if tree is None or kind in FIXED or isinstance(tree, (np.dtype, type, Enum)):
        return kind, tree
    leaves.append(tree)
    # a subclass of arrays has operations of its own: it is refused, and must not be taken for an array
    return kind if kind is float or isinstance(tree, np.ndarray) and kind is not np.ndarray else None


def signature_and_inputs(args: tuple, fixed_floats: bool = False) -> tuple[tuple, list]:
    """The signature of these arguments (`outline`, shapes, dtypes), and a program's inputs: arrays, in order.

    Where a program has `fixed_floats`, it is for the floats it was recorded with, whose key is `split(args, True)[0]`.
    A tensor among the inputs is left as it is.
    """
    leaves: list = []
    key = outline(args, leaves, fixed_floats)
    leaves = [x if isinstance(x, (np.ndarray, Tensor)) else np.asarray(x) for x in leaves]
    return (key, *[(x.shape, x.dtype) for x in leaves]), leaves


def _is_fixed(x, fixed_floats: bool) -> bool:
    return type(x) in FIXED or isinstance(x, (np.dtype, type, Enum)) or (type(x) is float and fixed_floats)


def record(f: Callable, *examples: Nest) -> Program:
    """Record the program of `f` for arrays like `examples`.

        >>> print(tm.record(tm.grad(lambda x: np.sum(x * x)), np.ones(3)))
        program <lambda>: 1 input, 4 equations, 1 output
            %0  f64[3]  input     args[0]
            %1  f64[3]  alias     %0
            %2  f64[3]  multiply  const:f64[3] %1
            %3  f64[3]  multiply  const:f64[3] %1
            %4  f64[3]  add       %2 %3
            return %4

    Recording leaves no trace: what f writes outside is put back.

    Args:
        f: a function of nests of arrays. If `mean_over_tasks` or `meta_value_and_grad` made it, what is recorded is
            what it does to the first of the tasks: (meta, support, query) → (value, gradient). The program of a
            meta-gradient knows what FOMAML drops.
        *examples: arguments; the program is for their shapes and dtypes, and for any values. A Python float may be any
            other; integers, booleans and strings are fixed.

    Raises:
        TypeError: it branches on a value, or a shape depends on one (`if x > 0`, a mask as an index).
        RecordError: a program would be wrong for other values, or at another time. It reads values in a way that a
            program cannot follow (`x.value`, `type(x)`), draws random numbers, or writes to what is not its own.
    """
    per_task = getattr(f, "of_task", None)
    if per_task is None:
        return _record_twice(f, examples)
    meta, tasks, *shared = examples
    as_learned(per_task.called, meta)
    support, query = as_tasks(tasks)[0]
    one = (meta, support, query, *shared)
    program = _record_twice(_of_one(per_task, per_task.of_task), one)
    if per_task.cheaper:
        program.first_order = _shared(program, _record(_of_one(per_task, per_task.cheaper), one, 0.5, 0))
    return program


def _of_one(per_task: PerTask, of_task: Callable) -> Callable:
    @wraps(per_task.written or of_task)
    def f(meta, support, query, *shared):
        return of_task(meta, support, query, *shared, *per_task.bound)

    return f


def _record_twice(f: Callable, examples: tuple) -> Program:
    outside = Outside(f)
    outside.check()
    if not any(type(x) is float for x in tree_leaves(examples)):
        return _compared(f, examples, outside, False)
    try:
        return _compared(f, examples, outside, False)
    except Exception:  # Python does something with a number that only a number can do
        return _compared(f, examples, outside, True)


def _compared(f: Callable, examples: tuple, outside: Outside, fixed_floats: bool) -> Program:
    """Recorded on two sets of numbers, from one state of what is outside."""
    with outside.untouched():
        program = _record(f, examples, 0.5, 0, fixed_floats)
    try:
        with outside.untouched():
            again = _record(f, examples, -2.0, 1, fixed_floats)
    except Exception:  # an integer out of range, perhaps
        with outside.untouched():
            again = _record(f, examples, -2.0, 0, fixed_floats)
    names: dict[Var, Var] = dict(zip(program.inputs, again.inputs, strict=True))
    same = len(program.equations) == len(again.equations)
    for ours, theirs in zip(program.equations, again.equations, strict=False):
        names[ours.output] = theirs.output
        same = same and ours.primitive is theirs.primitive and _equal(ours.params, theirs.params)
        same = same and len(ours.inputs) == len(theirs.inputs)
        same = same and all(_same(x, y, names) for x, y in zip(ours.inputs, theirs.inputs, strict=True))
    same = same and len(program.outputs) == len(again.outputs)
    if not same or not all(_same(x, y, names) for x, y in zip(program.outputs, again.outputs, strict=True)):
        raise RecordError(
            f"{program.name}: two recordings differ, so what it computes depends on the values it is given, other than"
            " through operations on tensors, or on chance (draw masks, noise or keys outside and pass them as part of"
            " the task); a program would be wrong"
        )
    return program


def _same(x, y, names: dict[Var, Var]) -> bool:
    return names.get(x) is y if isinstance(x, Var) else not isinstance(y, Var) and _equal(x, y)


def _equal(x, y) -> bool:
    if isinstance(x, dict):
        return x.keys() == y.keys() and all(_equal(x[k], y[k]) for k in x)
    if isinstance(x, np.ndarray) or isinstance(y, np.ndarray):
        return np.shape(x) == np.shape(y) and np.array_equal(x, y, equal_nan=np.asarray(x).dtype.kind in "fc")
    return type(x) is type(y) and (x == y or x != x)


def _record(f: Callable, examples: tuple, number: float, integer: int, fixed_floats: bool = False) -> Program:
    """The program, recorded on arrays whose elements are all one number: see `tracing`."""
    checked: list[Tensor] = []
    arguments = tree_map(lambda x: x if _is_fixed(x, fixed_floats) else INPUT, examples)
    names = [f"args{path}" for path, x in tree_items(arguments) if x is INPUT]
    with Recording(number, integer) as recording, watching(checked):
        given = [x if fixed is not INPUT else recording.argument(x)
                 for x, fixed in zip(tree_leaves(examples), tree_leaves(arguments), strict=True)]  # fmt: skip
        _check_nest(examples, "an argument is")
        nest = tree_fill(examples, given)
        before = tree_items(nest)
        try:
            result = f(*nest)
        except Exception as error:
            for question in recording.questions.values():  # whose answer may have led there
                raise question from error
            if recording.refused and not getattr(error, "refused", False):  # as may what was refused before
                raise recording.refused[-1] from error
            raise
    results = tree_leaves(result)
    _check_nest(result, f"{name_of(f)} returns")
    if [(path, id(x)) for path, x in before] != [(path, id(x)) for path, x in tree_items(nest)]:
        raise RecordError(f"{name_of(f)} writes to the dicts or lists among its arguments, which a program does not do")
    for x in results:
        if not isinstance(x, RESULTS) or (isinstance(x, np.ndarray) and x.dtype.hasobject):
            what = type(x).__name__
            raise RecordError(f"{name_of(f)} returns a {what}, which a program cannot make anew at each call")
    for question in recording.questions.values():
        raise question
    if recording.refused:
        cause = recording.refused[0]
        raise RecordError(
            f"{name_of(f)}: an error is caught while it is recorded, which need not occur when it runs"
            f" ({type(cause).__name__}: {cause})"
        ) from cause
    if any(isinstance(x, Tensor) and not x._is_data for x in results):
        raise RecordError(f"{name_of(f)} returns a tensor, which belongs to a derivative around it")
    leaves = [x for x in given if isinstance(x, Traced)]
    tensors: dict[int, Tensor] = {}
    stack = [x for x in (*results, *checked) if isinstance(x, Traced)]
    while stack:
        x = stack.pop()
        if x.index not in tensors:
            tensors[x.index] = x
            stack.extend(y for y in x.inputs if isinstance(y, Traced))
    variables = {x.index: Var(x.shape, x.dtype) for x in (*leaves, *tensors.values())}

    def of(x):
        # a tensor that no argument led to is as constant as an array; constants are the program's own
        if isinstance(x, Traced):
            return variables[x.index]
        x = value_of(x)
        return np.array(x) if isinstance(x, np.ndarray) else x

    equations = [
        Equation(x.primitive, tuple(map(of, x.inputs)), x.params, variables[x.index])
        for _, x in sorted(tensors.items())  # creation order is a topological order
        if x.primitive and x.primitive is not placeholder
    ]
    return Program(
        name_of(f), [variables[x.index] for x in leaves], names, equations,
        [of(x) for x in results], arguments, tree_map(lambda _: 0, result),
        [of(x) for x in checked if isinstance(x, Traced)], fixed_floats=fixed_floats,
    )  # fmt: skip


def held(tree: Nest) -> tuple:
    """The data of a nest besides its children, as a part of a signature: the static fields of a dataclass."""
    if isinstance(tree, (dict, list, tuple)):
        return ()
    return tuple((f.name, identity_of(getattr(tree, f.name))) for f in fields(tree) if f.metadata.get("static"))


def _check_nest(tree: Nest, what: str) -> None:
    """Raises: RecordError, where a nest has more to it than its children."""
    if (children := opened(tree)) is None:
        return
    if isinstance(tree, (dict, list, tuple)) and getattr(tree, "__dict__", None):
        raise RecordError(f"{what} a {type(tree).__name__}, which holds more than its items")
    for child in children.values():
        _check_nest(child, what)


def identity_of(x):
    """Equal for what is the same: variables by identity, constants by value, with their dtype."""
    if isinstance(x, dict):
        return tuple((k, identity_of(v)) for k, v in sorted(x.items()))
    if isinstance(x, (np.ndarray, np.generic)):
        return (x.dtype.str, x.shape, x.tobytes())
    return (type(x).__name__, repr(x)) if not isinstance(x, Var) else x


def _shared(program: Program, other: Program) -> set[Var]:
    """The variables of `program` that `other` computes as well: the same operation on the same things."""
    numbers: dict[tuple, int] = {}

    def number(p: Program) -> dict[Var, int]:
        of = {x: numbers.setdefault(("input", i), len(numbers)) for i, x in enumerate(p.inputs)}
        for e in p.equations:
            inputs = tuple(of[x] if isinstance(x, Var) else identity_of(x) for x in e.inputs)
            if e.primitive in (alias, stop_gradient):
                of[e.output] = inputs[0]
            else:
                of[e.output] = numbers.setdefault((e.primitive, inputs, identity_of(e.params)), len(numbers))
        return of

    theirs = set(number(other).values())
    return {x for x, n in number(program).items() if n in theirs}


# ── printing ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _listing(program: Program) -> Iterable[str]:
    names = {x: f"%{i}" for i, x in enumerate([*program.inputs, *(e.output for e in program.equations)])}
    counts = (len(program.inputs), "input"), (len(program.equations), "equation"), (len(program.outputs), "output")
    yield f"program {program.name}: " + ", ".join(f"{n} {what}{'s' * (n != 1)}" for n, what in counts)
    kept = program.first_order
    dropped = [e for e in program.equations if kept is not None and e.output not in kept]
    if kept is not None:
        yield f"  │ second order: {len(dropped)} equations that first-order MAML drops"
    rows = [(x, names[x], "input", name) for x, name in zip(program.inputs, program.names, strict=True)]
    for e in program.equations:
        shown = " ".join(names[x] if isinstance(x, Var) else show_constant(x) for x in e.inputs)
        rows.append((e.output, names[e.output], e.primitive.name, f"{shown} {_show_params(e.params)}".rstrip()))
    width = [max((len(text) for text in column), default=0) for column in zip(
        *((name, show_type(x), what) for x, name, what, _ in rows), strict=True)]  # fmt: skip
    second = {e.output for e in dropped}
    for x, name, what, rest in rows:
        mark = "│" if x in second else " "
        yield f"  {mark} {name:>{width[0]}}  {show_type(x):<{width[1]}}  {what:<{width[2]}}  {rest}"
    returned = (names[x] if isinstance(x, Var) else show_constant(x) for x in program.outputs)
    yield f"    return {', '.join(returned)}"


def show_type(x: Var) -> str:
    """`f32[10,40]`"""
    return f"{x.dtype.kind}{x.dtype.itemsize * 8}[{','.join(map(str, x.shape))}]".replace("b8", "bool")


def show_constant(x) -> str:
    if isinstance(x, np.ndarray) and x.size > 1:
        return f"const:{x.dtype.kind}{x.dtype.itemsize * 8}[{','.join(map(str, x.shape))}]"
    return f"{np.asarray(x).item()!r}"


def _show_params(params: dict[str, Any]) -> str:
    return "{" + ", ".join(f"{k}: {v}" for k, v in params.items()) + "}" if params else ""
