"""Placement: every buffer of a task gets a place in one memory, as small as first fit makes it.

    layout = lay_out(task)

Buffers live from their first step to their last, and others take their place afterwards, so that one task's program
fits the cache. The memory begins with the words below; then come the stack, the slots and the constants, each at a
place of its own; behind them lies what the parts compute, one part's over another's. Read next: `source`.
"""

from __future__ import annotations

from itertools import accumulate
from typing import NamedTuple

import numpy as np

from .fusion import KernelCall, Loop
from .lowering import Schedule, schedule
from .task import Task
from .views import Buffer

ALIGNMENT = 64  # bytes: a cache line, and the widest vector

# The words at the beginning of a memory: the task, its chunk; then the addresses of the arrays that tasks are read from
# and results are written to.
TASK, CHUNK, ARRAYS = 0, 1, 2
END = 0  # ends a list of steps, where the next would have a function's address


class LaidPart(NamedTuple):
    """A part of a task: its steps, and the buffers that want its outputs."""

    schedule: Schedule
    writes: list[Buffer]


class Block(NamedTuple):
    """Neighbouring buffers of one dtype, which are summed over tasks as one array.

    Attributes:
        first: the first buffer.   size: elements from there to the end of the last.
        parts: (start, shape) of each, start in elements.
    """

    first: Buffer
    size: int
    parts: list[tuple[int, tuple[int, ...]]]


class Layout(NamedTuple):
    """A task in memory.

    Attributes:
        shared: how many of the inputs all tasks share; they come first.
        inputs, results, constants: their buffers.   sums: those of the gradient.
        parts: by name.   moves: the order in which they run, see `task.Task`.
        float: the dtype of θ, or of the first floating-point input.
        theta, theta_bytes: where θ lies, and its size with padding.   stack: for the θₖ that are kept.
        nbytes: of the memory; each thread has one.
    """

    shared: int
    inputs: list[Buffer]
    parts: dict[str, LaidPart]
    moves: list[str]
    results: list[Buffer]
    sums: list[Block]
    constants: list[Buffer]
    float: np.dtype
    theta: int
    theta_bytes: int
    stack: Buffer
    nbytes: int


def lay_out(task: Task) -> Layout:
    """Steps for every part of a task, and a place for every buffer.

    Raises:
        Unsupported: something has no kernel; names it.
    """
    slots = [Buffer(x.dtype, x.size, keep=True) for x in task.slots]
    parts, constants = {}, []
    for name, part in task.parts.items():
        plan = schedule(part.program, [slots[i] for i in part.reads])
        constants += plan.constants
        parts[name] = LaidPart(plan, [slots[i] for i in part.writes])
    theta_bytes = sum(_rounded(x.nbytes) for x in slots[: task.thetas])
    depth = max(accumulate({"push": 1, "pop": -1}.get(move, 0) for move in task.moves))
    stack = Buffer(np.int8, max(depth * theta_bytes, 1), keep=True)
    results = [slots[i] for i in task.results if isinstance(i, int)]
    end = _rounded(8 * (ARRAYS + task.inputs + len(results) + len(task.sums)))
    for buffer in (stack, *slots, *constants):
        buffer.offset, end = end, end + _rounded(buffer.nbytes)
    for name, part in task.parts.items():  # an output is computed in its slot, unless the part still reads that
        for x, i in zip(parts[name].schedule.outputs, part.writes, strict=True):
            if x.offset < 0 and i not in part.reads:
                x.offset = slots[i].offset
    nbytes = max(_place(part.schedule.steps, end) for part in parts.values())
    sums: list[Block] = []
    for i in task.sums:
        x = slots[i]
        first, _, places = sums.pop() if sums and sums[-1].first.dtype == x.dtype else Block(x, 0, [])
        start = (x.offset - first.offset) // x.dtype.itemsize
        sums.append(Block(first, start + x.size, [*places, (start, task.slots[i].shape)]))
    at = slots[0].offset if slots else 0
    float = next((x.dtype for x in slots if x.dtype.kind == "f"), np.dtype(np.float64))
    return Layout(
        task.shared, slots[: task.inputs], parts, task.moves, results, sums, constants,
        float, at, theta_bytes, stack, nbytes,
    )  # fmt: skip


def _place(steps: list[KernelCall | Loop], start: int) -> int:
    """Find a place from `start` on for each buffer without one, by first fit in the order of time; returns the end."""
    first: dict[int, list[Buffer]] = {}  # the buffers that begin to live at a step
    last: dict[Buffer, int] = {}  # the last step that a buffer lives to see
    for at, step in enumerate(steps):
        for buffer in sorted(step.buffers(), key=lambda b: -b.nbytes):
            if buffer not in last and buffer.offset < 0:
                first.setdefault(at, []).append(buffer)
            last[buffer] = len(steps) if buffer.keep else at
    holes = [(start, 1 << 62)]  # (offset, bytes)
    leaving: dict[int, list[Buffer]] = {}
    end = start
    for at in range(len(steps)):
        for buffer in leaving.pop(at, ()):
            holes = _merged(holes, (buffer.offset, _rounded(buffer.nbytes)))
        for buffer in first.get(at, ()):
            need = _rounded(buffer.nbytes)
            i = next(i for i, (_, room) in enumerate(holes) if room >= need)
            offset, room = holes[i]
            buffer.offset, end = offset, max(end, offset + need)
            holes[i : i + 1] = [(offset + need, room - need)] if room > need else []
            leaving.setdefault(last[buffer] + 1, []).append(buffer)
    return end


def _rounded(nbytes: int) -> int:
    """Up to a multiple of ALIGNMENT, at least one."""
    return max(-(-nbytes // ALIGNMENT), 1) * ALIGNMENT


def _merged(holes: list[tuple[int, int]], hole: tuple[int, int]) -> list[tuple[int, int]]:
    """The holes with another one, in order; neighbours become one."""
    merged: list[tuple[int, int]] = []
    for start, room in sorted([*holes, hole]):
        if merged and merged[-1][0] + merged[-1][1] == start:
            merged[-1] = (merged[-1][0], merged[-1][1] + room)
        else:
            merged.append((start, room))
    return merged
