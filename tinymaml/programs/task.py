"""A task: the programs that are run for each task of a meta-gradient, and the slots they read and write.

    task_of(of_task, params, support, query)        of a function that `meta_value_and_grad` made
    whole(f, args)                                  any function, as one task that shares nothing with others

Unrolled, there is one part: all inputs → value and gradient. In flat memory there are three, over slots for θ, the data
and v: K times θₖ → θₖ₊₁, each θₖ pushed on a stack; θ_K → value and v; K times (θₖ, v) → (I − Hₖα) v, each θₖ popped.
Read next: `schedule`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ..maml import flat_parts
from ..nest import Nest, tree_leaves
from .passes import simplify
from .program import Program, Var, record


class Fixed(NamedTuple):
    """A leaf of the value that no argument has a part in."""

    leaf: Any


@dataclass(eq=False)
class Part:
    """A program, the slots of its inputs and outputs, how often it runs, and what happens to θ before: push or pop."""

    program: Program
    reads: list[int]
    writes: list[int]
    repeat: int = 1
    theta: str = ""


@dataclass(eq=False)
class Task:
    """Parts in order, over slots. The inputs are the first slots, and those that all tasks share the first of these.

    Attributes:
        slots: a variable for each.   shared, inputs: how many hold what all tasks share, and how many are inputs.
        value: the nest of the value.   results: for each of its leaves a slot, or `Fixed`.
        sums: the slots of the gradient, in the order of the parameters; tasks' gradients are added up.
    """

    slots: list[Var]
    shared: int
    inputs: int
    parts: list[Part]
    value: Nest
    results: list
    sums: list[int]

    def replay(self, arrays: list[np.ndarray]) -> tuple[list, bool]:
        """All slots after the last part, for these inputs, and whether what is checked was finite: in NumPy."""
        slots: list[Any] = [*arrays, *[None] * (len(self.slots) - len(arrays))]
        stack, finite = [], True
        for part in self.parts:
            for _ in range(part.repeat):
                if part.theta == "push":
                    stack.append(slots[: self.shared])
                elif part.theta == "pop":
                    slots[: self.shared] = stack.pop()
                outputs = part.program.replay([slots[i] for i in part.reads])
                for slot, x in zip(part.writes, outputs, strict=False):
                    slots[slot] = x
                finite = finite and all(np.isfinite(x).all() for x in outputs[len(part.writes) :])
        return slots, finite


def whole(f: Callable, args: tuple) -> Task:
    """A function of any kind."""
    program = simplify(record(f, *args))
    return _last_part(program, list(program.inputs), list(range(len(program.inputs))), 0, len(program.outputs))


def task_of(of_task: partial, params: Nest, support: Nest, query: Nest) -> Task:
    """What a function made by `meta_value_and_grad` does for every task."""
    settings = of_task.keywords
    thetas = len(tree_leaves(params))
    if settings["memory"] == "unrolled":
        program = simplify(record(of_task, params, support, query))
        reads, values = list(range(len(program.inputs))), len(program.outputs) - thetas
        return _last_part(program, list(program.inputs), reads, thetas, values)

    of_step, of_query, of_back = flat_parts(
        *of_task.args, inner_lr=settings["inner_lr"], has_aux=settings["has_aux"]
    )
    last = simplify(record(of_query, params, query))
    step = simplify(record(of_step, params, support))
    slots = [*step.inputs, *last.inputs[thetas:]]
    theta, data = list(range(thetas)), list(range(thetas, len(step.inputs)))
    reads = [*theta, *range(len(step.inputs), len(slots))]
    task = _last_part(last, slots, reads, thetas, len(last.outputs) - thetas)
    if not settings["inner_steps"]:
        return task
    task.parts.insert(0, Part(step, [*theta, *data], theta, settings["inner_steps"], "push"))
    if not settings["first_order"]:
        back = simplify(record(of_back, params, support, params))
        task.parts.append(Part(back, [*theta, *data, *task.sums], task.sums, settings["inner_steps"], "pop"))
    return task


def _last_part(program: Program, slots: list[Var], reads: list[int], shared: int, values: int) -> Task:
    """The task of one part, whose outputs are the value's leaves and the gradient; constants of the value are fixed."""
    inputs = len(slots)
    outputs, where = [], []
    for i, x in enumerate(program.outputs):
        if i < values and not isinstance(x, Var):
            where.append(Fixed(x))
            continue
        where.append(len(slots))
        outputs.append(x)
        slots = [*slots, x if isinstance(x, Var) else Var(np.shape(x), np.asarray(x).dtype)]
    program.outputs = outputs
    part = Part(program, reads, list(range(inputs, len(slots))))
    value = program.result[0] if shared else program.result
    return Task(slots, shared, inputs, [part], value, where[:values], where[values:])
