"""The workloads: the value and exact gradient of the meta-loss of W1 … W8, on random data.

A workload is used like this:

    w = WORKLOADS["W5"];  params, tasks = w.data(np.float32);  tm.meta_value_and_grad(w.loss, ...)(params, tasks)
    w._replace(tasks=100)        # another size
    flops(w)                     # what an exact meta-gradient multiplies and adds
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

import tinymaml as tm
from tinymaml import ops
from tinymaml.networks import Network
from tinymaml.networks.conv import conv
from tinymaml.networks.mlp import mlp


class Workload(NamedTuple):
    """A network, and the tasks it is adapted to."""

    kind: str  # "mlp"; "norm": an MLP with batch norm; "conv": of stride 2; "pool": conv of stride 1 and max-pool
    input_shape: tuple[int, ...]
    widths: tuple[int, ...]  # hidden units, or filters, of each layer
    outputs: int  # classes; 1: regression
    tasks: int
    support: int  # examples of a task
    query: int
    inner_steps: int
    inner_lr: float

    @property
    def network(self) -> Network:
        if self.kind in ("mlp", "norm"):
            return mlp(self.input_shape, self.widths, self.outputs, norm="batch" if self.kind == "norm" else "none")
        return conv(self.input_shape, self.widths[0], self.outputs, len(self.widths), pool=self.kind == "pool")

    def loss(self, params, x, y):
        """One task's, in tinymaml."""
        return (tm.nn.mse if self.outputs == 1 else tm.nn.cross_entropy)(self.network.apply(params, x), y)

    def data(self, dtype) -> tuple:
        """Parameters and stacked tasks, ((xs, ys), (xq, yq)): normal inputs; their sines, or classes."""
        rng = np.random.default_rng(0)

        def examples(count: int) -> tuple[np.ndarray, np.ndarray]:
            x = rng.standard_normal((self.tasks, count, *self.input_shape)).astype(dtype)
            if self.outputs == 1:
                return x, np.sin(x)
            return x, rng.permuted(np.tile(np.arange(count) % self.outputs, (self.tasks, 1)), axis=1)

        return self.network.init(rng, dtype), (examples(self.support), examples(self.query))


_sine = Workload("mlp", (1,), (40, 40), 1, tasks=25, support=10, query=10, inner_steps=1, inner_lr=0.01)
_conv = Workload("conv", (28, 28, 1), (64,) * 4, 5, tasks=32, support=5, query=5, inner_steps=1, inner_lr=0.4)
WORKLOADS = {
    "W1": _sine,
    "W2": _sine._replace(inner_steps=5),
    "W3": _sine._replace(tasks=1000),
    "W4": _conv._replace(kind="norm", widths=(256, 128, 64, 64)),
    "W5": _conv,
    "W6": _conv._replace(kind="pool"),
    "W7": _conv._replace(outputs=20, support=20, query=20, tasks=16, inner_steps=5),
    "W8": Workload("pool", (84, 84, 3), (32,) * 4, 5, tasks=4, support=5, query=75, inner_steps=5, inner_lr=0.01),
}


# What they are called in tables; a field is a field of the workload.
TITLES = {
    "W1": "sine waves, {tasks:,} tasks, K = {inner_steps}",
    "W2": "the same, K = {inner_steps}",
    "W3": "the same, K = {inner_steps}, {tasks:,} tasks",
    "W4": "Omniglot, MLP with batch norm, {tasks} tasks",
    "W5": "Omniglot, conv of stride 2, {tasks} tasks",
    "W6": "the same with pooling",
    "W7": "{outputs}-way, {tasks} tasks, K = {inner_steps}",
    "W8": "{input_shape[0]} × {input_shape[1]} × {input_shape[2]}, {tasks} tasks, K = {inner_steps}",
}


def title(name: str) -> str:
    """A workload as a table names it: "W1: sine waves, 25 tasks, K = 1"."""
    return f"{name}: {TITLES[name].format(**WORKLOADS[name]._asdict())}"


def flops(w: Workload) -> int:
    """Multiplications and additions in the matrix products of one exact meta-gradient.

    Counted, not modelled: what the reference's `matmul` does for one task, times the tasks. Convolutions are products
    with patches. Element by element work, the mean over tasks and the patches themselves count nothing, so the fraction
    of the GEMM limit is what a program of matrix products alone would not reach 1 on either; and one that finds
    cheaper algebra is credited with the work it saved.
    """
    count, product = 0, ops._matmul.forward

    def counting(x, y):
        nonlocal count
        z = product(x, y)
        count += 2 * math.prod(z.shape) * x.shape[-1]
        return z

    params, tasks = w._replace(tasks=1).data(np.float32)
    ops._matmul.forward = counting
    try:
        tm.meta_value_and_grad(w.loss, inner_lr=w.inner_lr, inner_steps=w.inner_steps)(params, tasks)
    finally:
        ops._matmul.forward = product
    return count * w.tasks
