"""A task: the programs that are run for each task of a meta-gradient, and the slots they read and write.

    task_of(of_task, params, support, query)        of a function that `meta_value_and_grad` made
    whole(f, args)                                  any function, as one task that shares nothing with others

Unrolled, there is one part: all inputs → value and gradient. In flat memory there are three, over slots for θ, the data
and v, and the moves between them are `flat.flat_moves`. Read next: `schedule`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any, NamedTuple

import numpy as np

from ..flat import flat_moves, flat_parts
from ..nest import Nest, tree_leaves, tree_map
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
        slots: list[Any] = [*arrays, *[None] * (len(self.slots) - len(arrays))]
        stack, finite = [], True
        for move in self.moves:
            if move == "push":
                stack.append(slots[: self.thetas])
            elif move == "pop":
                slots[: self.thetas] = stack.pop()
            else:
                part = self.parts[move]
                outputs = part.program.replay([slots[i] for i in part.reads])
                for slot, x in zip(part.writes, outputs, strict=False):
                    slots[slot] = x
                finite = finite and all(np.isfinite(x).all() for x in outputs[len(part.writes) :])
        return slots, finite


def whole(f: Callable, args: tuple) -> Task:
    """A function of any kind."""
    program = simplify(record(f, *args))
    return _last_part(program, list(program.inputs), list(range(len(program.inputs))), 0, 0)


def task_of(of_task: partial, params: Nest, support: Nest, query: Nest) -> Task:
    """What a function made by `meta_value_and_grad` does for every task. Arrays among the rates are inputs."""
    settings = of_task.keywords
    inner_lr = settings["inner_lr"]
    rates = [x for x in tree_leaves(inner_lr) if isinstance(x, np.ndarray)]
    thetas, shared = len(tree_leaves(params)), len(tree_leaves(params)) + len(rates)

    def with_rates(rates: list) -> Nest:
        """α, with these arrays in the place of its own."""
        supply = iter(rates)
        return tree_map(lambda a: next(supply) if isinstance(a, np.ndarray) else a, inner_lr)

    if settings["memory"] == "unrolled":

        @wraps(of_task.args[0])
        def of_all(params, rates, support, query):
            return of_task(params, support, query, inner_lr=with_rates(rates))

        program = simplify(record(of_all, params, rates, support, query))
        reads = list(range(len(program.inputs)))
        return _last_part(program, list(program.inputs), reads, thetas, shared)

    def parts(rates: list) -> tuple[Callable, Callable, Callable]:
        return flat_parts(*of_task.args, inner_lr=with_rates(rates), has_aux=settings["has_aux"])

    last = simplify(record(lambda params, query: parts(rates)[1](params, query), params, query))
    step = simplify(record(lambda params, rates, support: parts(rates)[0](params, support), params, rates, support))
    slots = [*step.inputs, *last.inputs[thetas:]]
    theta, given = list(range(thetas)), list(range(len(step.inputs)))
    task = _last_part(last, slots, [*theta, *range(len(step.inputs), len(slots))], thetas, shared)
    task.parts["step"] = Part(step, given, theta)
    if not settings["first_order"]:

        def of_back(params, rates, support, v):
            return parts(rates)[2](params, support, v)

        back = record(of_back, params, rates, support, params)
        task.parts["back"] = Part(simplify(back), [*given, *task.sums], task.sums)
    task.moves = [*flat_moves(settings["inner_steps"], settings["first_order"])]
    task.parts = {name: part for name, part in task.parts.items() if name in task.moves}
    return task


def _last_part(program: Program, slots: list[Var], reads: list[int], thetas: int, shared: int) -> Task:
    """The task of one part, whose outputs are the value's leaves and the gradient.

    Constants of the value are fixed, but for a meta-gradient's loss, which is summed over tasks.
    """
    inputs, values = len(slots), len(program.outputs) - thetas
    outputs, where = [], []
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
