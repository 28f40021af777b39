"""The cost of a meta-gradient on a busy machine: single calls, beside 0, 1 and 2 processes that never sleep.

    python -m bench load                                  # W1, W2, W3 and W5: JAX, ours, and ours on one thread
    python -m bench load W1 --busy 0,2,4 --only compiled,compiled-1,jax --plot load.png

The busy processes count in a loop, on any core. Threads that wait for each other suffer most beside them: one of them
loses its core to a busy process for some milliseconds, and all others wait for it. In every round each load is tried,
and under each load each contender has a turn, in a process of its own. A turn is 300 calls, or two seconds of them;
every call has its own time. Printed are

    ms             median of all calls, and the 90th percentile
    × JAX          the ratio of the medians to JAX under the same load: to the fastest of its contenders there
    × compiled-1   likewise, to our own code on one thread
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timezone
from statistics import median, quantiles

from . import timing
from .peers import CONTENDERS
from .timing import Failed
from .workloads import Workload

NAMES = ("W1", "W2", "W3", "W5")
SINGLE = "compiled-1"
CALLS, SECONDS = 300, 2.0  # a turn ends after so many calls or seconds

# It ends with its parent, even if that is killed.
SPIN = """
import os
parent = os.getppid()
print(flush=True)
while os.getppid() == parent:
    for _ in range(1_000_000):
        pass
"""


@contextmanager
def busy(count: int) -> Iterator[list[subprocess.Popen]]:
    """So many processes that keep a core busy, each in a session of its own, until the block ends."""
    with ExitStack() as open_:
        processes = []
        for _ in range(count):
            spinning = subprocess.Popen(
                [sys.executable, "-c", SPIN], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True
            )
            open_.callback(_end, spinning)
            processes.append(spinning)
        for spinning in processes:
            spinning.stdout.readline()  # it counts from now on
        yield processes


def _end(process: subprocess.Popen) -> None:
    process.kill()
    process.wait()
    process.stdout.close()


def contenders(kind: str, only: Iterable[str] | None) -> tuple[list[str], dict[str, str]]:
    """The contenders of this kind of workload, of `only` (ours and JAX's), and why others cannot: `timing.able`."""
    jax = [who for who in CONTENDERS if who.startswith("jax")]
    return timing.able(kind, ["compiled", SINGLE, *jax] if only is None else only)


def measure(
    name: str, w: Workload, dtype: str, names: list[str], *, loads: list[int], turns: int, cores: int
) -> dict:  # fmt: skip
    """Time contenders `names` beside each number of busy processes in `loads`.

    Returns:
        The record: under "contenders", for each name and number of busy processes (as text, as JSON wants it)
        "seconds" and "percentile" of a call, "calls", the median of each turn, and the ratios "jax" and "single". A
        contender that fails has its "error", and the others go on. Ctrl-C leaves the rounds and keeps what there is:
        `interrupted` is then true.
    """
    record = {"study": "load", "workload": name, "dtype": dtype, **w._asdict(), "machine": timing.machine(cores),
              "date": datetime.now(timezone.utc).isoformat(timespec="seconds"), "busy": loads,
              "interrupted": False}  # fmt: skip
    found: dict[str, dict] = {who: {} for who in names}
    calls: dict[str, dict[int, list]] = {who: {} for who in names}
    with ExitStack() as open_:
        crew: dict[str, timing.Worker] = {}

        def drop(who: str, why: Failed) -> None:
            timing.say()
            print(f"{name} {dtype}: {why}", file=sys.stderr)
            found[who]["error"] = str(why)
            if who in crew:
                crew.pop(who).close()

        try:
            for who in names:
                timing.say(f"{name} {dtype}: first call of {who}")
                try:
                    folder = open_.enter_context(tempfile.TemporaryDirectory())
                    crew[who] = open_.enter_context(timing.Worker(who, w, dtype, cores, folder))
                    found[who] |= {**crew[who].about, "warnings": crew[who].ask("first")["warnings"]}
                except Failed as why:
                    drop(who, why)
            for i in range(1, turns + 1):
                for count in loads[:: 1 if i % 2 else -1]:
                    timing.say(f"{name} {dtype}: round {i} of {turns}, {count} busy")
                    with busy(count):
                        for who in list(crew)[:: 1 if i % 2 else -1]:
                            try:
                                turn = crew[who].ask("calls", most=CALLS, seconds=SECONDS)["each"]
                                calls[who].setdefault(count, []).append(turn)
                            except Failed as why:
                                drop(who, why)
        except KeyboardInterrupt:
            record["interrupted"] = True
        timing.say()
    for who, of_load in calls.items():
        found[who]["loads"] = {str(count): _summary(turns) for count, turns in sorted(of_load.items())}
    _ratios(found)
    return record | {"contenders": found}


def _summary(turns: list[list[float]]) -> dict:
    """Of the seconds that the calls of several turns took."""
    every = [seconds for turn in turns for seconds in turn]
    highest = quantiles(every, n=10, method="inclusive")[-1] if len(every) > 1 else every[0]
    return {"seconds": median(every), "percentile": highest, "calls": len(every), "turns": [*map(median, turns)]}


def _ratios(found: dict[str, dict]) -> None:
    """Put the ratios of the medians to JAX's, and to our single thread's, beside them."""
    for one in found.values():
        for count, here in one["loads"].items():
            jax = [other["loads"][count]["seconds"] for who, other in found.items()
                   if who.startswith("jax") and count in other["loads"]]  # fmt: skip
            single = found.get(SINGLE, {"loads": {}})["loads"].get(count)
            here["jax"] = here["seconds"] / min(jax) if jax else None
            here["single"] = here["seconds"] / single["seconds"] if single else None


def kept(record: dict) -> dict:
    """{workload: {contender: {number of busy processes: [median, 90th percentile], in seconds}}}."""
    found = {who: {count: [here["seconds"], here["percentile"]] for count, here in one["loads"].items()}
             for who, one in record["contenders"].items()}  # fmt: skip
    return {record["workload"]: found}


def page(stored: dict) -> str:
    """The table of all workloads, as Markdown, of what `kept` has of each: of JAX's contenders the fastest."""
    rows = [["", "busy", "compiled", "on one thread", "JAX"], ["---"] * 5]
    for name, found in stored.items():
        jax = [one for who, one in found.items() if who.startswith("jax")]
        for i, count in enumerate(found["compiled"]):
            fastest = min((one[count] for one in jax if count in one), default=None)
            cells = [found["compiled"][count], found[SINGLE].get(count), fastest]
            shown = [f"{timing.digits(1e3 * c[0])} ({timing.digits(1e3 * c[1])})" if c else "" for c in cells]
            rows.append(["" if i else name, count, *shown])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def table(record: dict) -> str:
    """One line per contender and number of busy processes."""
    title = f"{record['workload']} {record['dtype']}, {record['machine']['threads']} threads"
    title += ", interrupted" if record["interrupted"] else ""
    rows = [("", "busy", "ms (90th percentile)", "× JAX", f"× {SINGLE}", "calls")]
    for who, one in record["contenders"].items():
        if "error" in one:
            rows.append((who, "", "failed", "", "", ""))
        for count, here in one["loads"].items():
            ms = f"{timing.digits(1e3 * here['seconds'])} ({timing.digits(1e3 * here['percentile'])})"
            ratios = ["" if here[key] is None else f"{here[key]:.2f}" for key in ("jax", "single")]
            rows.append((who, count, ms, *ratios, str(here["calls"])))
    notes = [f"  {who}: {note}" for who, one in record["contenders"].items() if CONTENDERS[who].ours
             for note in one.get("warnings", ())]  # fmt: skip
    return "\n".join([title, *timing.columns(rows), *notes])
