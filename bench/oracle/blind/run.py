"""Ask the oracle about the blind set, and grade its words."""

from __future__ import annotations

import argparse
import contextlib
import functools
import inspect
import json
import multiprocessing
import re
import sys
import threading
import time
from collections import Counter
from pathlib import Path

from tinymaml import oracle
from tinymaml.oracle.judge import checking
from tinymaml.oracle.versions import VERSIONS

from .. import page
from ..kept import Kept, digest
from .entries import Entry

WRONG = ("accepted", "named", "pointed at", "misled", "unexplained")
RIGHT = ("passed", "false alarm")
FIGURES = ("accepted", "named", "pointed at", "misled", "false alarm")
NAMING = ("KNOWN_BUG", "CORRECT_OTHER_CONVENTION", "IMPRECISE", "NONDETERMINISTIC")
ACCEPTING = ("CORRECT", "INCONCLUSIVE")
SETS = ("first", "second", "third", "fourth", "fifth", "sixth")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.oracle blind", description="the blind set")
    parser.add_argument("--only", action="append", metavar="NAME", help="ask only this implementation; may be repeated")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the results, and go on where they end")
    parser.add_argument("--set", choices=SETS, help="ask only this set")
    parser.add_argument("--suite", default="core", choices=("core", "full", "fresh"))
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="worker processes (default: 1)")
    parser.add_argument(
        "--timeout", type=float, default=600, metavar="SECONDS", help="time limit for one implementation"
    )
    parser.add_argument("--store", action="store_true", help="keep the counts in bench/results/stated, for the pages")
    args = parser.parse_args(argv)
    if args.store and (args.only or args.set):
        parser.error("--store is given with --only or --set, wanted every set")

    from . import JUDGED, TABLE

    unknown = [name for name in args.only or () if name not in TABLE]
    if unknown:
        parser.error(f"no implementation is called {', '.join(unknown)}; they are: {', '.join(TABLE)}")
    entries = [TABLE[name] for name in args.only or TABLE if args.set in (None, TABLE[name].set)]
    reports = ask_all(entries, args.suite, args.json, args.jobs, args.timeout)
    rows = [graded(e, reports[e.name], JUDGED) for e in entries]
    print_table(rows)
    print_figures(rows)
    if args.store:
        page.keep("blind", kept(rows), beside=True)
    return 0


# ── asking ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def ask_all(entries: list[Entry], suite: str, path: Path | None, jobs: int, timeout: float) -> dict[str, dict]:
    """name → the oracle's report; what `path` has of this state of the code is not asked again."""
    from tqdm import tqdm

    states = {e.name: state(suite, inspect.getsourcefile(inspect.unwrap(e.function))) for e in entries}
    kept = Kept(path)
    waiting = [name for name, state in states.items() if kept.of(name, state) is None]
    lock = threading.Lock()
    errors: list[BaseException] = []

    with tqdm(total=len(waiting), unit="implementation", mininterval=0.1 if sys.stderr.isatty() else 30) as bar:

        def work() -> None:
            worker = Worker(suite)
            try:
                while not errors:
                    with lock:
                        if not waiting:
                            return
                        name = waiting.pop(0)
                    report = worker.ask(name, timeout)
                    with lock:
                        kept.add(name, states[name], report)
                    bar.update()
            except BaseException as error:  # noqa: BLE001
                errors.append(error)
            finally:
                worker.close()

        threads = [threading.Thread(target=work, daemon=True) for _ in range(max(1, jobs))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]
    return kept.records


@functools.cache
def state(suite: str, source: str) -> str:
    """The state of the code that judges the implementations of a file."""
    return digest([*Path(__file__).parent.glob("in_*.py"), source], suite)


class Worker:
    """A process that asks, one implementation after the other; it is replaced if one takes too long, or kills it."""

    def __init__(self, suite: str):
        self.suite = suite
        self.start()

    def start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, self.suite), daemon=True)
        self.process.start()
        theirs.close()

    def ask(self, name: str, timeout: float) -> dict:
        start = time.perf_counter()
        try:
            self.pipe.send(name)
            report = self.pipe.recv() if self.pipe.poll(timeout) else None
            problem = f"no report within {timeout:g} s"
        except (EOFError, OSError):
            report, problem = None, "the process died"
        if report is None:
            self.close()
            self.start()
            report = {"verdict": "PROTOCOL_ERROR", "explanation": problem}
        return report | {"seconds": round(time.perf_counter() - start, 1)}

    def close(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _serve(pipe, suite: str) -> None:
    from . import TABLE

    checking.questions = functools.cache(checking.questions)  # the same cases for all: each mistake is computed once
    while True:
        try:
            name = pipe.recv()
        except EOFError:
            return
        try:
            # A fixed seed, so that the two new cases are the same for all; longer than usual, for JAX compiles.
            entry = TABLE[name]
            checked = oracle.check(entry.function, suite, seed=20, timeout=120, algorithm=entry.algorithm)
            report = json.loads(checked.to_json())
        except Exception as error:  # noqa: BLE001
            report = {"verdict": "PROTOCOL_ERROR", "explanation": f"the oracle raised {type(error).__name__}: {error}"}
        with contextlib.suppress(BrokenPipeError):  # it is not waited for any more; the next recv ends the loop
            pipe.send({k: report.get(k) for k in WANTED})


WANTED = ("verdict", "bug", "explanation", "location", "kind", "ties", "digits", "notes")


# ── grading ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def graded(entry: Entry, report: dict, judged: dict[str, tuple[str, str]]) -> dict:
    """One row of the table."""
    grade = automatic(entry, report)
    final, reason = (grade, "") if grade == "named" else judged.get(entry.name, (grade, ""))
    if final not in (RIGHT if entry.right else WRONG):
        raise ValueError(f"{entry.name} is judged {final!r}, wanted one of {RIGHT if entry.right else WRONG}")
    return {
        "name": entry.name, "set": entry.set, "right": entry.right, "verdict": report["verdict"],
        "said": said(report), "truth": entry.truth, "automatic": grade, "grade": final, "reason": reason,
    }  # fmt: skip


def automatic(entry: Entry, report: dict) -> str:
    """The grade by rule: see the package's docstring."""
    verdict = report["verdict"]
    if entry.right:
        return "passed" if verdict == "CORRECT" else "false alarm"
    if verdict in ACCEPTING:
        return "accepted"
    cause = f"{report.get('bug') or ''} {report.get('explanation') or ''}"
    if verdict in NAMING and explains(entry, cause):
        return "named"
    if explains(entry, " ".join([cause, report.get("location") or "", *(report.get("notes") or ())])):
        return "pointed at"
    return "misled" if report.get("bug") or verdict in NAMING else "unexplained"


def explains(entry: Entry, words: str) -> bool:
    """Whether there is a word of the right explanation for each of the mistakes."""
    return all(re.search(pattern, words, re.IGNORECASE) for pattern in entry.keywords)


def said(report: dict) -> str:
    """What the oracle asserts, in short: the bug and the first sentence."""
    text = " ".join((report.get("explanation") or "").split())
    first = re.split(r"(?<=[.;]) ", text, maxsplit=1)[0]
    return f"[{report['bug']}] {first}" if report.get("bug") else first


# ── printing ────────────────────────────────────────────────────────────────────────────────────────────────────────


def print_table(rows: list[dict]) -> None:
    width = max((len(r["name"]) for r in rows), default=0)
    for r in rows:
        mark = "" if r["grade"] == r["automatic"] else f"  (by rule {r['automatic']}; {r['reason']})"
        print(f"{r['name']:{width}}  {r['set']:6}  {r['grade']:11}  {r['verdict']}{mark}")
        print(f"{'':{width}}    said   {r['said'] or '–'}")
        print(f"{'':{width}}    truth  {r['truth']}")


def kept(rows: list[dict]) -> dict[str, dict]:
    """{"sets": {catalogue's version: {set: {grade: how many, "wrong": of the wrong ones, "right": of the right}}}}."""
    found = {}
    for name in SETS:
        here = [r for r in rows if r["set"] == name]
        count = Counter(r["grade"] for r in here)
        right = sum(r["right"] for r in here)
        counts = {"wrong": len(here) - right, "right": right} | {grade: count[grade] for grade in (*WRONG, *RIGHT)}
        found[f"{name}, open"] = counts
    return {"sets": {VERSIONS["catalogue"]: found}}


def print_figures(rows: list[dict]) -> None:
    print(f"\n{'set':6}{'wrong':>8}{'correct':>9}" + "".join(f"{f:>13}" for f in (*FIGURES, "unexplained")))
    for name in (*SETS, "all"):
        here = [r for r in rows if name in (r["set"], "all")]
        count = Counter(r["grade"] for r in here)
        wrong = sum(not r["right"] for r in here)
        print(f"{name:6}{wrong:8}{len(here) - wrong:9}" + "".join(f"{count[f]:13}" for f in (*FIGURES, "unexplained")))
