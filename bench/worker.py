"""One contender, in a process of its own: its threads, memory and compiled code disturb no other's.

    python -m bench.worker <requests >answers          # a line of JSON each; `timing.Worker` is the other end

    {"do": "start", "contender": "jax", "workload": {…}, "dtype": "float32", "cores": 2}
                                → its modules are imported, the data drawn: versions, BLAS
    {"do": "first"}             → seconds to build, record or trace, compile and run once
    {"do": "save", "to": file}  {"do": "compare", "to": file}         the last gradient, and its distance from another
    {"do": "turn", "seconds": 0.05}                                   calls, and the seconds each took
    {"do": "calls", "most": 300, "seconds": 2}                        the seconds of every single call

An answer is given once the threads behind it sleep, so that what spins on, spins before another's turn.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
import warnings
from contextlib import suppress
from pathlib import Path


def memory(what: str) -> int:
    """Bytes of this process: "VmRSS" now, "VmHWM" at most."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith(what):
                return int(line.split()[1]) * 1024
    import resource  # where there is no /proc; the most there ever was stands for both

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def settle(limit: float = 1.0) -> None:
    """Wait until the threads of this process sleep: those of OpenMP and BLAS spin for a while after their work."""
    deadline = time.perf_counter() + limit
    used = 1.0
    while used > 5e-4 and time.perf_counter() < deadline:
        before = time.process_time()
        time.sleep(0.01)
        used = time.process_time() - before


class Contest:
    """The answers to requests: one method each."""

    def start(self, contender: str, workload: dict, dtype: str, cores: int) -> dict:
        if hasattr(os, "sched_setaffinity"):  # before any library counts them
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
        import numpy as np

        from .peers import CONTENDERS
        from .workloads import Workload

        self.contender = CONTENDERS[contender]
        self.workload = Workload(**{k: tuple(v) if isinstance(v, list) else v for k, v in workload.items()})
        modules = [importlib.import_module(name) for name in ("numpy", *self.contender.modules)]
        versions = {m.__name__: m.__version__ for m in modules if hasattr(m, "__version__")}
        self.data = self.workload.data(np.dtype(dtype).type)
        self.baseline = memory("VmRSS")
        return {"versions": versions}

    def first(self) -> dict:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            start = time.perf_counter()
            self.call = self.contender.build(self.workload, *self.data)
            self.result = self.call()
            seconds = time.perf_counter() - start
        notes = sorted({f"{w.category.__name__}: {w.message}" for w in told})
        from tinymaml.extras import require

        keys = ("internal_api", "version", "architecture", "num_threads")
        pools = [{k: pool.get(k) for k in keys} for pool in require("threadpoolctl", "fast").threadpool_info()]
        return {"seconds": seconds, "warnings": notes, "pools": pools, "peak": memory("VmHWM") - self.baseline}

    def _leaves(self) -> dict:
        import numpy as np

        from tinymaml import tree_items

        value, grads = self.result
        return {"value": np.asarray(value)} | {path: np.asarray(g) for path, g in tree_items(grads)}

    def save(self, to: str) -> dict:
        import numpy as np

        np.savez(to, **self._leaves())
        return {}

    def compare(self, to: str) -> dict:
        """The largest difference in any entry, in units of the largest entry of all."""
        import numpy as np

        seen = self._leaves()
        with np.load(to) as wanted:
            if seen.keys() != set(wanted):
                raise ValueError(f"gradients of {sorted(seen)}, wanted {sorted(wanted)}")
            largest = max(np.max(np.abs(wanted[path])) for path in wanted)
            apart = max(np.max(np.abs(seen[path] - wanted[path])) for path in wanted)
        return {"apart": float(apart / largest)}

    def turn(self, seconds: float) -> dict:
        """As many calls as fill about so many seconds, at least one. Short ones are preceded by one that is not timed:
        it wakes the threads and fills the caches that others have used."""
        spinning = time.process_time() - getattr(self, "slept", time.process_time())
        start = time.perf_counter()
        self.call()
        once = time.perf_counter() - start
        calls, took = 1, once
        if once < seconds:
            calls = max(1, round(seconds / once))
            start = time.perf_counter()
            for _ in range(calls):
                self.call()
            took = time.perf_counter() - start
        peak = memory("VmHWM") - self.baseline
        return {"seconds": took / calls, "calls": calls, "idle_cpu": spinning, "peak": peak, "cpu": time.process_time()}

    def calls(self, most: int, seconds: float) -> dict:
        """The seconds of each call, until there are `most` of them, or `seconds` are over; the first is not timed."""
        self.call()
        each: list[float] = []
        deadline = time.perf_counter() + seconds
        while len(each) < most and (not each or time.perf_counter() < deadline):
            start = time.perf_counter()
            self.call()
            each.append(time.perf_counter() - start)
        return {"each": each}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    contest = Contest()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(contest, request.pop("do"))(**request)
        except Exception as error:  # the contender's: the others go on
            answer = {"error": f"{type(error).__name__}: {error}"}
        settle()
        contest.slept = time.process_time()
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
