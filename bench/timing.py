"""Contenders timed by turns: each in a process of its own, one at work at any time.

    measure("W5", WORKLOADS["W5"], "float32", names, turns=11, cores=2)     # a record, which `json` takes
    table(record)                                                           # as lines

Machines are noisy, so what counts is the ratio of neighbouring turns. Every other round goes backwards.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from datetime import datetime, timezone
from pathlib import Path
from statistics import median, quantiles

from . import peers
from .workloads import Workload, flops, title

TURN = 0.05  # seconds, at least
SLOW = 20  # times the fastest: one turn will do, if that takes more than a second
TOLERANCE = 1e-9  # of the largest entry, in float64


class Failed(RuntimeError):
    """A contender raised, or its process ended."""


class Disagreement(RuntimeError):
    """A contender computes another gradient than the reference."""


class Worker:
    """A `bench.worker` for one contender. `folder` is where it may keep what it compiled."""

    def __init__(self, name: str, w: Workload, dtype: str, cores: int, folder: str):
        threads = ("OMP", "OPENBLAS", "MKL", "NUMBA", "VECLIB_MAXIMUM")
        caches = ("TINYMAML_CACHE", "NUMBA_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR")
        env = os.environ | {f"{library}_NUM_THREADS": str(cores) for library in threads}
        env |= {cache: os.path.join(folder, cache) for cache in caches}
        env |= {"JAX_PLATFORMS": "cpu"} | peers.CONTENDERS[name].env
        self.name = name
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bench.worker"], cwd=Path(__file__).parents[1], env=env, encoding="utf-8",
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        try:
            self.about = self.ask("start", contender=name, workload=w._asdict(), dtype=dtype, cores=cores)
        except BaseException:
            self.close()
            raise

    def ask(self, what: str, *, patience: float | None = None, **how) -> dict:
        """The answer. Raises `Failed` if there is none within `patience` seconds, or if it is an error."""
        try:
            print(json.dumps({"do": what, **how}), file=self.process.stdin, flush=True)
            if not select.select([self.process.stdout], [], [], patience)[0]:
                raise Failed(f"{self.name}: given up after {patience:g} s of its {what} call")
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise Failed(f"{self.name}: the process ended with {self.process.wait()} when asked to {what}")
        answer = json.loads(line)
        if "error" in answer:
            raise Failed(f"{self.name}: {answer['error'][:500]}")
        return answer

    def close(self) -> None:
        """End the process and whatever it started: a group of its own."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_) -> None:
        self.close()


def say(text: str = "") -> None:
    """Progress, on stderr: in one line of a terminal."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text[:100]}", end="", file=sys.stderr, flush=True)
    elif text:
        print(text, file=sys.stderr, flush=True)


def able(kind: str, names: Iterable[str] | None) -> tuple[list[str], dict[str, str]]:
    """The contenders of this kind of workload, of `names` (all); and the reasons why others cannot be run here."""
    run, skipped = [], {}
    for name, contender in peers.CONTENDERS.items():
        named = names is not None and name in names
        if not (kind in contender.kinds and (named or names is None) or named and not contender.kinds):
            continue
        if missing := [m for m in contender.modules if importlib.util.find_spec(m.split(".")[0]) is None]:
            skipped[name] = f'{missing[0]} is not installed: pip install "tinymaml[{contender.extra}]"'
        elif contender.compiler and not shutil.which(os.environ.get("CXX", "g++")):
            skipped[name] = "torch.compile needs a C++ compiler: g++, or what CXX names"
        else:
            run.append(name)
    return run, skipped


def exact(name: str, w: Workload, cores: int, folder: str) -> str:
    """A file with the reference's gradient in float64: in float32 a ReLU's input may fall on either side of 0."""
    say(f"{name}: the gradient to compare with")
    to = os.path.join(folder, "exact.npz")
    with Worker("reference", w, "float64", cores, folder) as worker:
        worker.ask("first")
        worker.ask("save", to=to)
    return to


def _agrees(name: str, worker: Worker, exact: str) -> None:
    apart = worker.ask("compare", to=exact)["apart"]
    if not apart <= TOLERANCE:
        raise Disagreement(f"{name}: the gradients of {worker.name} and reference are {apart:.1e} of the largest entry"
                           f" apart, in float64; at most {TOLERANCE:.0e} is rounding")  # fmt: skip


def measure(
    name: str, w: Workload, dtype: str, names: list[str], *, turns: int, cores: int, exact: str | None = None,
    gemm: bool = True, cached: bool = True, patience: float | None = None,
) -> dict:  # fmt: skip
    """Time contenders `names`, and the GEMM limit beside them.

    Args:
        turns: rounds, in which each has a turn.
        cores: the number of threads of each contender, and the cores they may run on.
        exact: compare each gradient with this file first; unless `dtype` is float64, in further processes.
        gemm: measure the GEMM limit, too.
        patience: seconds after which a first call is given up.
        cached: measure the first call of another process, too, of those who keep compiled code on disk.

    Returns:
        The record; `others` is the share of all cores that other programs took while turns were measured. Ctrl-C leaves
        the rounds, and keeps what there is: `interrupted` is then true.

    Raises:
        Disagreement: a gradient is not the reference's; names whose, and how far apart they are.
    """
    record = {"workload": name, "dtype": dtype, "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
              **w._asdict(), "machine": machine(cores), "flops": flops(w), "others": 0.0,
              "interrupted": False}  # fmt: skip
    found: dict[str, dict] = {}
    limits = peers.gemm_limits() if gemm else []
    with ExitStack() as open_:
        crew: dict[str, Worker] = {}

        def drop(who: str, why: Failed) -> None:
            say()
            print(f"{name} {dtype}: {why}", file=sys.stderr)
            found[who]["error"] = str(why)
            if who in crew:
                crew.pop(who).close()

        try:
            for who in [*names, *limits]:
                found[who] = {"turns": {}}
                folder = open_.enter_context(tempfile.TemporaryDirectory())
                try:
                    compare = exact if who in names and who != "reference" else None
                    if compare and dtype != "float64":
                        say(f"{name}: is the gradient of {who} right?")
                        elsewhere = open_.enter_context(tempfile.TemporaryDirectory())
                        with Worker(who, w, "float64", cores, elsewhere) as twin:
                            twin.ask("first", patience=patience)
                            _agrees(name, twin, compare)
                    say(f"{name} {dtype}: first call of {who}")
                    crew[who] = open_.enter_context(Worker(who, w, dtype, cores, folder))
                    first = crew[who].ask("first", patience=patience)
                    found[who] |= {**crew[who].about, **first, "first_call": first["seconds"]}
                    if compare and dtype == "float64":
                        _agrees(name, crew[who], compare)
                    found[who]["turns"][0] = crew[who].ask("turn", seconds=TURN)  # warms up; counts for the slow
                    if cached and peers.CONTENDERS[who].caches:
                        with Worker(who, w, dtype, cores, folder) as another:
                            again = another.ask("first")
                            found[who] |= {"first_call_cached": again["seconds"], "peak_cached": again["peak"]}
                except Failed as why:
                    drop(who, why)
            once = {who: found[who]["turns"][0]["seconds"] for who in crew}
            fastest = min((s for who, s in once.items() if who not in limits), default=0)
            for who in [who for who, s in once.items() if s > max(1, SLOW * fastest)]:
                crew.pop(who).close()
            racing = list(crew)
            own, all_, start = _cpu(found, racing), busy(), time.perf_counter()
            for i in range(1, turns + 1):
                if sys.stderr.isatty():
                    say(f"{name} {dtype}: round {i} of {turns}")
                for who in list(crew)[:: 1 if i % 2 else -1]:
                    try:
                        found[who]["turns"][i] = crew[who].ask("turn", seconds=TURN)
                    except Failed as why:
                        drop(who, why)
                others = busy() - all_ - (_cpu(found, racing) - own)
                record["others"] = others / (time.perf_counter() - start) / (os.cpu_count() or 1)
        except KeyboardInterrupt:
            record["interrupted"] = True
        say()
    for one in found.values():
        if len(one["turns"]) > 1:
            one["turns"].pop(0)
    return record | summary(found, limits, record["flops"])


def _cpu(found: dict[str, dict], names: list[str]) -> float:
    """Seconds of cores that workers had used by the end of their last turns."""
    return sum(list(found[who]["turns"].values())[-1]["cpu"] for who in names)


def busy() -> float:
    """Seconds that all cores have worked since the machine was started."""
    if not os.path.exists("/proc/stat"):
        return 0.0
    # user, nice, system, idle, waiting for the disk, interrupts (two kinds), taken by other virtual machines
    ticks = [int(n) for n in Path("/proc/stat").read_text(encoding="utf-8").splitlines()[0].split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")


def summary(found: dict[str, dict], limits: list[str], work: int) -> dict:
    """Of raw turns {round: answer}: median and quartiles, ratios, fractions of the GEMM limit."""
    contenders, seconds = {}, {}
    for who, one in found.items():
        if not (turns := one.pop("turns")):
            contenders[who] = one
            continue
        seconds[who] = {i: turn["seconds"] for i, turn in turns.items()}
        s = sorted(seconds[who].values())
        low, middle, high = quantiles(s, n=4, method="inclusive") if len(s) > 1 else s * 3
        contenders[who] = one | {
            "median": middle, "quartiles": [low, high], "min": s[0], "max": s[-1],
            "seconds": list(seconds[who].values()), "calls": [t["calls"] for t in turns.values()],
            "peak": max(t["peak"] for t in turns.values()),
            "idle_cpu": max(t["idle_cpu"] for t in turns.values()),
        }  # fmt: skip
    gemm = {who: peers.GEMM_FLOPS / contenders[who]["median"] for who in limits if who in seconds}
    limit = max(gemm.values(), default=None)
    rivals = [who for who in seconds if who not in limits and not peers.CONTENDERS[who].ours]
    fastest = min(rivals, key=lambda who: contenders[who]["median"], default=None)
    for who in limits:
        contenders.pop(who, None)
    for who in contenders.keys() & seconds.keys():
        contenders[who]["fraction"] = work / contenders[who]["median"] / limit if limit else None
        contenders[who]["ratio"] = ratio(seconds[who], seconds[fastest]) if fastest else None
    return {"fastest_peer": fastest, "gemm": gemm, "contenders": contenders}


def ratio(a: dict[int, float], b: dict[int, float]) -> float:
    """The median of a / b over the rounds both had a turn in; without one, the ratio of medians."""
    both = a.keys() & b.keys()
    return median(a[i] / b[i] for i in both) if both else median(a.values()) / median(b.values())


def machine(cores: int) -> dict:
    """The machine on which the numbers were measured."""
    model = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
    variables = {k: v for k, v in os.environ.items() if k.startswith(("OPENBLAS_", "OMP_", "MKL_", "XLA_", "NUMBA_"))}
    return {"cpu": model, "architecture": platform.machine(), "cores": os.cpu_count(), "threads": cores,
            "system": platform.platform(), "python": platform.python_version(), "environment": variables}  # fmt: skip


def table(record: dict) -> str:
    """One line per contender, the fastest first."""
    by_name = record["contenders"]
    limit = max(record["gemm"].values(), default=None)
    against = f"× {record['fastest_peer']}" if record["fastest_peer"] else ""
    head = f"{record['workload']} {record['dtype']}: {record['flops'] / 1e9:.3g} GFLOP"
    head += f", GEMM limit {limit / 1e9:.0f} GFLOP/s ({max(record['gemm'], key=record['gemm'].get)})" if limit else ""
    head += f", {record['machine']['threads']} threads" + (", interrupted" if record["interrupted"] else "")
    head += noise(record)
    rows = [("", "ms (quartiles)", against, "first call", "cached", "peak MB", "of GEMM")]
    for who in sorted(by_name, key=lambda who: by_name[who].get("median", float("inf"))):
        one = by_name[who]
        if "median" not in one:
            rows.append((who, "failed" if "error" in one else "no turn", *[""] * 5))
            continue
        ms = [f"{digits(1e3 * s)}" for s in (one["median"], *one["quartiles"])]
        cached = f"{one['first_call_cached']:.2f} s" if "first_call_cached" in one else ""
        rows.append((
            who, f"{ms[0]} ({ms[1]} … {ms[2]})", f"{one['ratio']:.2f}" if one["ratio"] else "",
            f"{one['first_call']:.2f} s", cached, f"{one['peak'] / 2**20:.0f}",
            f"{100 * one['fraction']:.1f} %" if one["fraction"] else "",
        ))  # fmt: skip
    # that something was not compiled after all, above all
    notes = [f"  {who}: {note}" for who, one in by_name.items() if peers.CONTENDERS[who].ours
             for note in one.get("warnings", ())]  # fmt: skip
    return "\n".join([head, *columns(rows), *notes])


def noise(record: dict) -> str:
    busy = record["others"] > 0.05
    return f"; NOISY: other programs took {100 * record['others']:.0f} % of the cores" if busy else ""


def columns(rows: list[tuple[str, ...]]) -> list[str]:
    """Rows as lines, the first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    pad = lambda i, text: text.ljust(widths[i]) if i == 0 else text.rjust(widths[i])  # noqa: E731
    return ["  " + "  ".join(pad(i, text) for i, text in enumerate(row)).rstrip() for row in rows]


# ── what the page of results shows ──────────────────────────────────────────────────────────────────────────────────

CALLED = {
    "jax": "JAX",
    "jax-patches": "JAX",
    "jax-map": "JAX",
    "torch-func": "`torch.func`",
    "torch-compile": "`torch.compile`",
    "torch-loop": "PyTorch",
}


def kept(record: dict) -> dict:
    """{workload: {dtype: what is stored of a record}}: the fastest peer, and a few numbers per contender."""
    names = {"median": "seconds", "ratio": "ratio", "fraction": "fraction", "first_call": "first",
             "first_call_cached": "cached", "error": "error"}  # fmt: skip
    found = {who: {new: one[old] for old, new in names.items() if one.get(old) is not None}
             for who, one in record["contenders"].items()}  # fmt: skip
    of_dtype = {"peer": record["fastest_peer"], "contenders": found}
    return {record["workload"]: {record["dtype"]: of_dtype}}


def page(stored: dict) -> str:
    """The table of all workloads, as Markdown, of what `kept` has of each."""
    heads = ["", "float32", "fastest peer", "ratio", "first call (JAX's)", "again, from disk", "of the GEMM limit",
             "float64: ratio"]  # fmt: skip
    rows = [heads, ["---"] * len(heads)]
    for name, dtypes in stored.items():
        one, peer = dtypes["float32"]["contenders"], dtypes["float32"]["peer"]
        ours, rival = one["compiled"], one[peer]
        jax = min(one[who]["first"] for who in one if who.startswith("jax") and "first" in one[who])
        given_up = " ¹" if "error" in one.get("torch-compile", {}) else ""
        in_float64 = dtypes.get("float64", {"contenders": {}})["contenders"].get("compiled")
        rows.append([
            title(name) + given_up, digits(1e3 * ours["seconds"]), f"{digits(1e3 * rival['seconds'])} ({CALLED[peer]})",
            f"{ours['ratio']:.2f}", f"{ours['first']:.1f} s ({jax:.1f})", f"{ours['cached']:.1f} s",
            f"{100 * ours['fraction']:.0f} %", f"{in_float64['ratio']:.2f}" if in_float64 else "",
        ])  # fmt: skip
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def digits(x: float) -> str:
    """Three digits that count: 0.123, 12.3, 1,234."""
    return f"{x:,.0f}" if x >= 100 else f"{x:.3g}"
