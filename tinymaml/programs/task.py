"""A task: the programs that are run for each task of a meta-gradient, and the slots they read and write.

    task_of(per_task, meta, support, query, shared)   of a function over tasks, see `per_task`
    whole(f, args)                                    any function, as one task that shares nothing with others

Unrolled, there is one part: all inputs → value and gradient. In flat memory there are three, over slots for θ, the data
and v, and the moves between them are `flat.moves`. Read next: `views`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, NamedTuple

import numpy as np

from ..flat import Parts
from ..nest import Nest, tree_leaves, tree_map
from ..per_task import PerTask, as_wanted
from .passes import simplify
from .program import Program, Var, record


class Fixed(NamedTuple):
    """A leaf of the value that no argument has a part in."""

    leaf: Any


@dataclass(eq=False)
class Part:
    """A program, and the slots of its inputs and outputs."""

    program: Program
    reads: list[int]
    writes: list[int]


@dataclass(eq=False)
class Task:
    """Parts over slots. The inputs are the first slots: θ, then what else all tasks share, then the task's own data.

    Attributes:
        parts: by name.   moves: the parts in the order they run; "push" keeps θ on a stack, "pop" takes it back.
        slots: a variable for each.   thetas, shared, inputs: how many of them are θ, are shared, are inputs; the first
            are among the second, and these among the third.
        value: the nest of the value.   results: for each of its leaves a slot, or `Fixed`.
        sums: the slots of the gradient, in the order of the parameters; tasks' gradients are added up.
    """

    slots: list[Var]
    thetas: int
    shared: int
    inputs: int
    parts: dict[str, Part]
    moves: list[str]
    value: Nest
    results: list
    sums: list[int]

    def replay(self, arrays: list[np.ndarray]) -> tuple[list, bool]:
        """All slots after the last part, for these inputs, and whether what is checked was finite: in NumPy."""
        finite = True

        def run(part: Part, given: list) -> list:
            nonlocal finite
            outputs = part.program.replay(given)
            finite = finite and all(np.isfinite(x).all() for x in outputs[len(part.writes) :])
            return outputs

        return self.played(arrays, run), finite

    def played(self, given: list, run: Callable[[Part, list], list], empty: Any = None) -> list:
        """All slots after the last part: `run(part, inputs)` → outputs, for each part in its turn.

        Args:
            given: the first slots.   empty: what the others hold at first.
        """
        slots, stack = [*given, *[empty] * (len(self.slots) - len(given))], []
        for move in self.moves:
            if move == "push":
                stack.append(slots[: self.thetas])
            elif move == "pop":
                slots[: self.thetas] = stack.pop()
            else:
                part = self.parts[move]
                for slot, x in zip(part.writes, run(part, [slots[i] for i in part.reads]), strict=False):
                    slots[slot] = x
        return slots


def whole(f: Callable, args: tuple) -> Task:
    """A function of any kind."""
    program = simplify(record(f, *args))
    return _last_part(program, list(program.inputs), list(range(len(program.inputs))), 0, 0)


def task_of(per_task: PerTask, meta: Nest, support: Nest, query: Nest, shared: tuple) -> Task:
    """The per-task part of a function over tasks. Arrays among its bound inputs are inputs of the task, too."""
    arrays = [x for x in tree_leaves(per_task.bound) if isinstance(x, np.ndarray)]

    def bound(arrays: list) -> Nest:
        """The bound inputs, with these arrays in the place of their own."""
        supply = iter(arrays)
        return tree_map(lambda a: next(supply) if isinstance(a, np.ndarray) else a, per_task.bound)

    in_parts, moves = per_task.parts, per_task.moves
    if not per_task.flat or in_parts is None or moves is None:

        @wraps(per_task.written or per_task.of_task)
        def of_all(meta, shared, arrays, support, query):
            result = per_task.of_task(meta, support, query, *shared, *bound(arrays))
            return as_wanted(result, meta) if per_task.gradient else result

        program = simplify(record(of_all, meta, shared, arrays, support, query))
        learned, data = len(tree_leaves(meta)), len(tree_leaves((support, query)))
        reads = list(range(len(program.inputs)))
        thetas = learned if per_task.gradient else 0
        return _last_part(program, list(program.inputs), reads, thetas, len(reads) - data)

    def parts(arrays: list) -> Parts:
        return in_parts(*bound(arrays))

    params, thetas = meta, len(tree_leaves(meta))
    last = simplify(record(lambda params, query: parts(arrays).query(params, query), params, query))
    step = record(lambda params, arrays, support: parts(arrays).step(params, support, 0), params, arrays, support)
    step = simplify(step)
    slots = [*step.inputs, *last.inputs[thetas:]]
    theta, given = list(range(thetas)), list(range(len(step.inputs)))
    task = _last_part(last, slots, [*theta, *range(len(step.inputs), len(slots))], thetas, thetas + len(arrays))
    task.parts["step"] = Part(step, given, theta)
    task.moves = [*moves()]
    if "back" in task.moves:
        back = record(lambda params, arrays, support, v: parts(arrays).back(params, support, v),
                      params, arrays, support, params)  # fmt: skip
        task.parts["back"] = Part(simplify(back), [*given, *task.sums], task.sums)
    task.parts = {name: part for name, part in task.parts.items() if name in task.moves}
    return task


def _last_part(program: Program, slots: list[Var], reads: list[int], thetas: int, shared: int) -> Task:
    """The task of one part, whose outputs are the value's leaves and the gradient.

    Constants of the value are fixed, except a meta-gradient's loss, which is summed over tasks.
    """
    inputs, values = len(slots), len(program.outputs) - thetas
    outputs = []
    where: list[Any] = []  # a slot, or `Fixed`
    for i, x in enumerate(program.outputs):
        if i < values and not isinstance(x, Var) and not (thetas and i == 0):
            where.append(Fixed(x))
            continue
        where.append(len(slots))
        outputs.append(x)
        slots = [*slots, x if isinstance(x, Var) else Var(np.shape(x), np.asarray(x).dtype)]
    program.outputs = outputs
    part = Part(program, reads, list(range(inputs, len(slots))))
    value = program.result[0] if thetas else program.result
    return Task(slots, thetas, shared, inputs, {"query": part}, ["query"], value, where[:values], where[values:])
