"""Runners: what runs a task's programs, for every task: NumPy, or machine code.

    runner.run(shared, data, count)         results stacked over tasks, the mean gradient, whether something failed

`Replay` goes from equation to equation. `Machine` lays the programs out in memory, has their source compiled, and hands
all tasks to the threads. Read next: `threads`, then `compiled`.
"""

from __future__ import annotations

import itertools
import math
import time

import numpy as np

from .. import blas
from .cache import load
from .placement import END, lay_out
from .source import generate
from .task import Fixed, Task
from .threads import SHORT, address_of, cores_lately, crew

# Parts that a sum over tasks has, so that as many threads can be used; but if they take more bytes than SUMS, FEWEST.
CHUNKS, FEWEST, SUMS = 32, 8, 1 << 24


class Replay:
    """A task's programs in NumPy, task after task."""

    def __init__(self, task: Task):
        self.task = task

    def run(self, shared: list, data: list, count: int, apart: list | None = None) -> tuple[list, list, bool]:
        """The results, stacked over tasks; the mean gradient; whether something was out of range or not finite.

        Args:
            shared, data: arrays that all tasks have; arrays with the tasks stacked on axis 0.
            apart: gets the gradient of each chunk of tasks, a list of arrays; a chunk is a task, if they are few.
        """
        task, total, rows = self.task, None, []
        for t in range(count):
            try:
                slots, finite = task.replay([*shared, *(x[t] for x in data)])
            except IndexError:
                finite = False
            if not finite:
                return [], [], True
            rows.append([slots[i] for i in task.results if not isinstance(i, Fixed)])
            grads = [slots[i] for i in task.sums]
            if apart is not None:
                apart.append(grads)
            total = grads if total is None else [a + b for a, b in zip(total, grads, strict=True)]
        results = [np.stack(column) for column in zip(*rows, strict=True)]
        grads = [np.asarray(g / count) for g in total or []]
        arrays = [*shared, *data, *grads]
        negative = any(x.dtype.kind == "i" and (x < 0).any() for x in data)  # as in machine code: see `lowering`
        return results, grads, negative or not all(np.isfinite(x).all() for x in arrays if x.dtype.kind == "f")


class Machine:
    """A task's programs in machine code.

    Attributes:
        task: the programs.   layout: their place in memory.   generated: steps and files.   source: that of the loops.
    """

    def __init__(self, task: Task, threads: int | None):
        self.task, self.layout, self.threads = task, lay_out(task), threads
        self.generated = source = generate(self.layout)
        self.source = source.files[0]
        self.blas = blas.scipys()
        self.codes = [load(text) for text in source.files]

        def number(n) -> int:
            if not isinstance(n, tuple):
                return n
            file, which = n
            return blas.gemm(which) if file == "blas" else self.codes[file].address(which)

        self.steps = {
            name: np.array([number(n) for step in steps for n in step] + [END], np.int64)
            for name, steps in source.steps.items()
        }
        self.moves = np.array([address_of(self.steps[move]) for move in source.moves], np.int64)
        gradient = max(sum(block.size * block.first.dtype.itemsize for block in self.layout.sums), 1)
        self.chunks = min(max(SUMS // gradient, FEWEST), CHUNKS)  # whatever the number of threads: so are the sums
        self.results = [task.slots[i] for i in task.results if not isinstance(i, Fixed)]
        self.constants, self.constants_at = self._constants()
        self.number = next(_numbers)
        self.idle: list[tuple] = []  # sums and jobs of earlier calls, for the next
        self.seconds = np.inf  # what a task takes at least

    def _constants(self) -> tuple[np.ndarray, int]:
        """The initial content of every memory, and its places: constants; and zeros from the first sum on.

        A block of sums is added up and checked as one array, with the gaps between its buffers. No step writes to a
        gap, where another program may have left a NaN.
        """
        buffers = self.layout.constants
        places = [x.offset for x in buffers] + [block.first.offset for block in self.layout.sums]
        ends = [x.offset + x.nbytes for x in buffers]
        ends += [block.first.offset + block.size * block.first.dtype.itemsize for block in self.layout.sums]
        start = min(places, default=0)
        block = np.zeros(max(ends, default=0) - start, np.uint8)
        for x in buffers:
            block[x.offset - start :][: x.nbytes] = np.frombuffer(x.value.tobytes(), np.uint8)
        return block, start

    def run(self, shared: list, data: list, count: int, apart: list | None = None) -> tuple[list, list, bool]:
        """As `Replay.run`."""
        threads = self._threads(count)
        if threads > 1:
            crew().wake(threads - 1)
        place = self.idle.pop() if self.idle else Place(self)  # each is one call's at a time
        job, sums = place.job(count)
        results = [np.empty((count, *x.shape), x.dtype) for x in self.results]
        for x in sums:
            x.fill(0)
        arrays = [*map(np.ascontiguousarray, (*shared, *data)), *results]
        place.head[: len(arrays)] = [*map(address_of, arrays)]
        started = time.perf_counter()
        with blas.one_thread(self.blas):
            failed = crew().run(job, self.layout.nbytes, threads, self.seconds * count, (place, arrays))
        self.seconds = min(self.seconds, (time.perf_counter() - started) * threads / count)
        if apart is not None:
            apart += [self._gradient([x[chunk].copy() for x in sums]) for chunk in range(len(place.first_of) - 1)]
        # 1/T Σₜ
        grads = self._gradient([np.add.reduce(x, 0) / count for x in sums])
        self.idle.append(place)
        return results, grads, failed

    def _gradient(self, sums: list[np.ndarray]) -> list[np.ndarray]:
        """The arrays of a gradient, which lie one after the other."""
        return [
            x[start : start + math.prod(shape)].reshape(shape)
            for block, x in zip(self.layout.sums, sums, strict=True)
            for start, shape in block.parts
        ]

    def _threads(self, count: int) -> int:
        """How many threads are worth while for so many tasks."""
        if self.threads == 1 or count == 1 or self.seconds * count < SHORT:
            return 1
        return min(self.threads or cores_lately(), self.chunks, count)


class Place:
    """Memory of a call besides that of its threads: the sums of its chunks, and its description.

    It is used again by later calls, as long as the number of tasks stays the same.
    """

    def __init__(self, machine: Machine):
        self.machine, self.count = machine, 0
        arrays = machine.task.inputs + len(machine.results) + len(machine.layout.sums)
        self.head = np.zeros(arrays, np.int64)

    def job(self, count: int) -> tuple[np.ndarray, list[np.ndarray]]:
        """The description of a job, see `threads`, and an array of sums (chunks, elements) for each dtype."""
        if count != self.count:
            m, self.count = self.machine, count
            chunks = min(count, m.chunks)
            self.first_of = np.arange(chunks + 1) * count // chunks
            self.sums = [np.empty((chunks, block.size), block.first.dtype) for block in m.layout.sums]
            self.head[len(self.head) - len(self.sums) :] = [*map(address_of, self.sums)]
            self.numbers = np.array([
                address_of(m.moves), len(m.moves), address_of(self.first_of), chunks,
                address_of(self.head), len(self.head),
                address_of(m.constants), m.constants_at, m.constants.nbytes, m.number,
            ])  # fmt: skip
        return self.numbers, self.sums


_numbers = itertools.count(1)
