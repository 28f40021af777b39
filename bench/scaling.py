"""How time and memory grow with the number of tasks, inner steps, hidden units and threads.

    python -m bench scaling                       # all four studies, of the sine network
    python -m bench scaling steps width --only compiled,jax --plot scaling.png

Each size has processes of its own, and within a size contenders take turns. The exponent is the slope of log time over
log size, fitted over the larger half of the sizes: small ones mostly measure what a call costs anyway. Memory is the
peak beyond libraries and data; of those who keep compiled code, in a process that finds it, so that no compiler counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from . import timing
from .workloads import WORKLOADS, Workload

SINE = WORKLOADS["W1"]


class Study(NamedTuple):
    """`workload(n)` of every size n; the exponents of time and memory that the algorithm has (None: not one)."""

    label: str
    sizes: tuple[int, ...]
    workload: Callable[[int], Workload]
    names: tuple[str, ...]
    time: float
    memory: float | None


STUDIES = {
    "tasks": Study("tasks", tuple(4**i for i in range(7)), lambda n: SINE._replace(tasks=n), ("compiled",), 1, 0),
    "steps": Study("inner steps", (1, 2, 5, 10, 20, 50), lambda n: SINE._replace(inner_steps=n),
                   ("compiled", "compiled-flat"), 1, 1),
    "width": Study("hidden units of each layer", tuple(2**i for i in range(3, 11)),
                   lambda n: SINE._replace(widths=(n, n)), ("compiled",), 2, 2),
    "threads": Study("threads", (1, 2, 4, 8, 16, 32, 64, 128), lambda n: WORKLOADS["W3"], ("compiled",), -1, None),
}  # fmt: skip


def run(name: str, only: Iterable[str] | None, dtype: str, turns: int, cores: int) -> dict:
    """{"study", "sizes", "contenders": {name: {"seconds", "peak", …}}}; stops after the size at which Ctrl-C came."""
    study = STUDIES[name]
    names, skipped = timing.able("mlp", study.names if only is None else only)
    sizes = [n for n in study.sizes if name != "threads" or n <= cores]
    found: dict[str, dict] = {who: {"sizes": [], "seconds": [], "peak": []} for who in names}
    others = 0.0
    for n in sizes:
        threads = n if name == "threads" else cores
        w = study.workload(n)
        record = timing.measure(f"{name} {n}", w, dtype, names, turns=turns, cores=threads, gemm=False)
        for who, one in record["contenders"].items():
            if "median" in one:
                found[who]["sizes"].append(n)
                found[who]["seconds"].append(one["median"])
                found[who]["peak"].append(one.get("peak_cached", one["peak"]))
        others = max(others, record["others"])
        if record["interrupted"]:
            break
    for who, one in found.items():
        one["exponent"] = exponent(one["sizes"], one["seconds"])
        one["exponent_memory"] = exponent(one["sizes"], one["peak"])
        one["expected"], one["expected_memory"] = study.time, 0 if who.endswith("-flat") else study.memory
    return {"study": name, "label": study.label, "dtype": dtype, "machine": timing.machine(cores), "skipped": skipped,
            "others": others, "interrupted": record["interrupted"], "contenders": found}  # fmt: skip


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float | None:
    """The slope of log value over log size in the larger half of the sizes (two at least)."""
    last = max(2, -(-len(sizes) // 2))
    if len(sizes) < 2:
        return None
    return float(np.polyfit(np.log(sizes[-last:]), np.log(values[-last:]), 1)[0])


def table(result: dict) -> str:
    lines = []
    for who, one in result["contenders"].items():
        rows = [(result["label"], *map(str, one["sizes"]), "exponent", "expected")]
        for head, values, slope, wanted in (
            ("ms", [1e3 * s for s in one["seconds"]], "exponent", "expected"),
            ("peak MB", [b / 2**20 for b in one["peak"]], "exponent_memory", "expected_memory"),
        ):
            fitted, expected = ("" if one[key] is None else f"{one[key]:.2f}" for key in (slope, wanted))
            rows.append((head, *map(timing.digits, values), fitted, expected))
        title = f"{result['study']} {result['dtype']}, {who}{timing.noise(result)}"
        lines += [title, *timing.columns(rows)]
    return "\n".join(lines)
