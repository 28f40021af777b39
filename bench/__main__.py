"""What one exact meta-gradient costs, beside PyTorch on the same workload, interleaved in one run.

    python -m bench                      # every workload
    python -m bench W1 W5 --runs 20 --json

Machines are noisy: read the ratio, which compares calls made one after the other. The gradients are compared (in
float64) before the clocks are: a peer that disagrees is an error.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

import tinymaml as tm
from tinymaml import models


class Workload(NamedTuple):
    """Tasks of random data, on which a network is adapted."""

    network: models.Network
    input_shape: tuple[int, ...]
    outputs: int  # classes; 1: regression
    tasks: int
    support: int  # examples of a task
    query: int
    inner_steps: int
    inner_lr: float


SINE = models.mlp((1,), (40, 40), 1)
WORKLOADS = {
    "W1": Workload(SINE, (1,), 1, 25, 10, 10, 1, 0.01),
    "W2": Workload(SINE, (1,), 1, 25, 10, 10, 5, 0.01),
    "W3": Workload(SINE, (1,), 1, 1000, 10, 10, 1, 0.01),
    "W4": Workload(models.mlp((28, 28, 1), (256, 128, 64, 64), 5, norm=True), (28, 28, 1), 5, 32, 5, 5, 1, 0.4),
    "W5": Workload(models.conv((28, 28, 1), 64, 5), (28, 28, 1), 5, 32, 5, 5, 1, 0.4),
}


def data(w: Workload, dtype) -> tuple:
    """Parameters and stacked tasks."""
    rng = np.random.default_rng(0)

    def examples(count: int) -> tuple[np.ndarray, np.ndarray]:
        x = rng.standard_normal((w.tasks, count, *w.input_shape)).astype(dtype)
        if w.outputs == 1:
            return x, np.sin(x)
        return x, rng.permuted(np.tile(np.arange(count) % w.outputs, (w.tasks, 1)), axis=1)

    return w.network.init(rng, dtype), (examples(w.support), examples(w.query))


def ours(w: Workload) -> Callable:
    criterion = tm.nn.mse if w.outputs == 1 else tm.nn.cross_entropy
    return tm.meta_value_and_grad(
        lambda params, x, y: criterion(w.network.apply(params, x), y), inner_lr=w.inner_lr, inner_steps=w.inner_steps
    )


def pytorch(w: Workload) -> Callable:
    """The usual loop over tasks with `create_graph=True`."""
    import torch
    from torch.nn import functional as F

    def block(layer, x):
        if "gamma" not in layer:
            return x
        dims = tuple(range(x.ndim - 1))
        mean, var = x.mean(dims), x.var(dims, correction=0)
        return (x - mean) / torch.sqrt(var + 1e-5) * layer["gamma"] + layer["beta"]

    def apply(params, x):
        layers = list(params.values())
        if "conv0" not in params:
            x = x.reshape(len(x), -1)
        for layer in layers[:-1]:
            if layer["w"].ndim == 4:
                pads = [max((-(-n // 2) - 1) * 2 + 3 - n, 0) for n in x.shape[1:3]]
                sides = [side for n in reversed(pads) for side in (n // 2, n - n // 2)]
                x = F.conv2d(F.pad(x.permute(0, 3, 1, 2), sides), layer["w"].permute(3, 2, 0, 1), stride=2)
                x = x.permute(0, 2, 3, 1) + layer["b"]
            else:
                x = x @ layer["w"] + layer["b"]
            x = torch.relu(block(layer, x))
        x = x.mean((1, 2)) if x.ndim == 4 else x
        return x @ layers[-1]["w"] + layers[-1]["b"]

    criterion = F.mse_loss if w.outputs == 1 else F.cross_entropy

    def meta(params, tasks):
        theta = tm.tree_map(lambda p: torch.tensor(p, requires_grad=True), params)
        (xs, ys), (xq, yq) = tm.tree_map(torch.as_tensor, tasks)
        total = 0.0
        for t in range(w.tasks):
            fast = theta
            for _ in range(w.inner_steps):
                leaves = tm.tree_leaves(fast)
                grads = iter(torch.autograd.grad(criterion(apply(fast, xs[t]), ys[t]), leaves, create_graph=True))
                fast = tm.tree_map(lambda p: p - w.inner_lr * next(grads), fast)  # noqa: B023
            loss = criterion(apply(fast, xq[t]), yq[t]) / w.tasks
            loss.backward()  # task by task, so that one graph lives at a time
            total += loss.item()
        return np.asarray(total), tm.tree_map(lambda p: p.grad.numpy(), theta)

    return meta


def measure(name: str, dtype, runs: int) -> dict:
    """Median seconds of each implementation, and the median of the ratios of neighbouring calls."""
    w = WORKLOADS[name]
    params, tasks = data(w, dtype)
    contenders = {"tinymaml": ours(w)}
    try:
        contenders["pytorch"] = pytorch(w)
    except ImportError:
        print("PyTorch is not installed: pip install 'tinymaml[peers]'", file=sys.stderr)
    # compared in float64: in float32 a ReLU that is a rounding error from 0 may fall on either side
    exact = {who: f(*data(w, np.float64))[1] for who, f in contenders.items()}
    largest = max(np.max(np.abs(g)) for g in tm.tree_leaves(exact["tinymaml"]))
    for who, grads in exact.items():
        apart = max(tm.tree_leaves(tm.tree_map(lambda a, b: np.max(np.abs(a - b)), grads, exact["tinymaml"])))
        if not apart <= 1e-10 * largest:
            raise SystemExit(f"{name}: {who} and tinymaml disagree by {apart:.2e} of {largest:.2e}")
    for f in contenders.values():  # warm
        f(params, tasks)
    seconds: dict[str, list[float]] = {who: [] for who in contenders}
    for _ in range(runs):
        for who, f in contenders.items():
            start = time.perf_counter()
            f(params, tasks)
            seconds[who].append(time.perf_counter() - start)
    record: dict = {"workload": name, "dtype": np.dtype(dtype).name, "runs": runs}
    for who, times in seconds.items():
        record[who] = {"median": statistics.median(times), "min": min(times), "max": max(times)}
    for who in set(contenders) - {"tinymaml"}:
        pairs = zip(seconds["tinymaml"], seconds[who], strict=True)
        record[who]["tinymaml_over_it"] = statistics.median(a / b for a, b in pairs)
    return record


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.splitlines()[0])
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help=f"of {', '.join(WORKLOADS)} (all)")
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--json", action="store_true", help="one JSON object a workload")
    args = parser.parse_args()
    if unknown := set(args.workloads) - set(WORKLOADS):
        parser.error(f"no workload {', '.join(sorted(unknown))}; wanted of {', '.join(WORKLOADS)}")
    if not args.json:
        threads = os.environ.get("OPENBLAS_NUM_THREADS", "default")
        print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, BLAS threads {threads},"
              f" NumPy {np.__version__}, {args.dtype}; milliseconds: median (min … max)")  # fmt: skip
    for name in args.workloads or WORKLOADS:
        record = measure(name, np.dtype(args.dtype).type, args.runs)
        if args.json:
            print(json.dumps(record), flush=True)
            continue
        for who in ("tinymaml", "pytorch"):
            if who in record:
                r = {k: v * 1e3 for k, v in record[who].items() if k != "tinymaml_over_it"}
                ratio = record[who].get("tinymaml_over_it")
                beside = f"   tinymaml takes {ratio:.2f} × as long" if ratio else ""
                print(f"{name}  {who:9s} {r['median']:9.2f} ({r['min']:.2f} … {r['max']:.2f}){beside}", flush=True)


if __name__ == "__main__":
    main()
