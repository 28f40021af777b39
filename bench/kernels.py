"""The time of a compiled meta-gradient by its steps: one task on one thread, step by step, in order.

    python -m bench kernels W7          # matrix products, fused loops, patches, …: how often, how long, what share

Each step is called through ctypes, as the machine calls it; what that costs is measured and taken off.
"""

from __future__ import annotations

import ctypes
import re
import time
from statistics import median

import numpy as np

import tinymaml as tm
from tinymaml.blas import one_thread
from tinymaml.programs.threads import MEMORY, crew

from .timing import columns, digits
from .workloads import Workload

STEP = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)  # kernel, memory, step


def measure(name: str, w: Workload, dtype: str, turns: int) -> dict:
    """{"kernels": {kernel: {"steps", "seconds", "flops"}}, "seconds"}: medians over turns, for one task."""
    params, tasks = w.data(np.dtype(dtype).type)
    fast = tm.compile(tm.meta_value_and_grad(w.loss, inner_lr=w.inner_lr, inner_steps=w.inner_steps), threads=1)
    fast(params, tasks)  # the memory is left as the last task left it
    (machine,) = fast.runners.values()
    if not hasattr(machine, "steps"):
        raise SystemExit(f"error: {name} is replayed, wanted machine code")
    calls = []
    for move in machine.generated.moves:
        if move in ("fetch", "put"):
            continue  # these look for other threads' arrays
        numbers, at = machine.steps[move], 0
        for (file, _), kernel, length, *_ in machine.generated.steps[move]:
            step = numbers[at : at + length].tolist()
            line = re.search(rf"kernel == {kernel}:\n +(.*)", machine.generated.files[file])[1]
            called = re.search(r"([a-z_]+?)(_f\d|\d+)?\(", line)[1]
            flops = 2 * step[9] * step[10] * step[11] * step[15] if called == "gemm" else 0
            called = {"gemm": "matrix products", "loop": "fused loops"}.get(called, called)
            calls.append((called, flops, STEP(step[0]), kernel, numbers.ctypes.data + 8 * at))
            at += length
    memory = int(crew().arenas[-1].numbers[MEMORY])
    spent = np.zeros((turns, len(calls)))
    empty = np.zeros(turns)
    with one_thread(machine.blas):
        for turn in range(turns):
            empty[turn] = _seconds(calls[0][2], -1, memory, calls[0][4])
            for i, (_, _, function, kernel, at) in enumerate(calls):
                spent[turn, i] = _seconds(function, kernel, memory, at)
    seconds = np.maximum(np.median(spent, 0) - median(empty), 1e-9)  # no step costs nothing
    kernels: dict[str, dict] = {}
    for (called, flops, *_), s in zip(calls, seconds, strict=True):
        one = kernels.setdefault(called, {"steps": 0, "seconds": 0.0, "flops": 0})
        one["steps"] += 1
        one["seconds"] += float(s)
        one["flops"] += flops
    return {"workload": name, "dtype": dtype, "kernels": kernels, "seconds": float(seconds.sum())}


def _seconds(function, *numbers: int) -> float:
    start = time.perf_counter()
    function(*numbers)
    return time.perf_counter() - start


def kept(record: dict) -> dict:
    """{workload: {"share": of the time that matrix products take, "rate": of these, in FLOP/s}}."""
    products = record["kernels"]["matrix products"]
    share, rate = products["seconds"] / record["seconds"], products["flops"] / products["seconds"]
    return {record["workload"]: {"share": share, "rate": rate}}


def table(record: dict) -> str:
    rows = [("", "steps", "ms", "share", "GFLOP/s")]
    for name, one in sorted(record["kernels"].items(), key=lambda item: -item[1]["seconds"]):
        rate = digits(one["flops"] / one["seconds"] / 1e9) if one["flops"] else ""
        share = f"{one['seconds'] / record['seconds']:.1%}"
        rows.append((name, f"{one['steps']:,}", digits(1e3 * one["seconds"]), share, rate))
    title = f"{record['workload']} {record['dtype']}: one task, one thread, {digits(1e3 * record['seconds'])} ms"
    return "\n".join([title, *columns(rows)])
