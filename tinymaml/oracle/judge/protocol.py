"""Any program, in any language: JSON Lines in, JSON Lines out.

    tinymaml oracle gen | ./yours | tinymaml oracle check        a pipe; no answers are in what gen prints
    tinymaml oracle check -- ./yours --its-arguments             the same, and the program is watched
    tinymaml oracle check package.module:function                a Python function, in a process of its own
    tinymaml oracle gen --to DIR;  tinymaml oracle check --from DIR        one file per case, one per answer

A question is one line of JSON, and so is an answer:

    {"id": …, "meta_grad": {name: nested lists} or [in the order of params], "meta_loss": …, "trace": …}

or {"id": …, "error": "why not"}; in the order of the questions. `spec` tells every field. The id says which suite,
dtype and seed it belongs to, so that `check` needs to be told nothing.

The standard error of a program is shown as it comes, and so is the output of `print` in a Python function. A
program and all that it has started end with the check, however that ends (`guard`); a Python function is imported in
its own process alone (`worker`), and can say nothing to this one but its answers.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ...files import read_file
from .. import tolerance
from ..cases import CAPABILITIES, check_algorithm, to_hex
from ..pages.report import Report
from ..questions import Answered, Question, questions, read_answer, seed_for
from ..versions import VERSIONS, misfit
from . import worker
from .checking import Confirmation, confirm, examine, seconds
from .guard import Guarded, signals_end
from .progress import Screen, Watch

LONGEST_LINE, MOST_OUTPUT = 1 << 24, 1 << 27  # bytes
GRACE = 2.0  # seconds in which a program should end after its output has
_CHUNK = 1 << 16
_LOOK = 0.2  # seconds after which we look whether a silent program has ended


class Broken(Exception):
    """The other side does not keep to the protocol; the message says how."""


# ── questions out ───────────────────────────────────────────────────────────────────────────────────────────────────


def token(suite: str, dtype: str, capabilities: Iterable[str], seed: int, algorithm: str = "maml") -> str:
    """The beginning of an id: everything `check` must know to have asked the same."""
    return f"{suite}:{dtype}:{seed}:{'+'.join(capabilities)}" + ("" if algorithm == "maml" else f":{algorithm}")


def lines(asked: list[Question], prefix: str, hexadecimal: bool = False) -> Iterator[str]:
    """One line of JSON for each question."""
    encode = to_hex if hexadecimal else lambda x: np.asarray(x).tolist()
    for q in asked:
        data = {"format": VERSIONS["wire"]} | q.case.to_json(encode) | {"id": f"{prefix}/{q.id}", "dtype": q.case.dtype}
        data.pop("comment")
        yield json.dumps(data, ensure_ascii=False)


# ── answers in ──────────────────────────────────────────────────────────────────────────────────────────────────────


def check_answers(answers: Iterable[str], watch: Watch | None = None) -> Report:
    """The report on lines of answers; the first one's id tells what was asked."""
    answers, watch = iter(answers), watch or Watch()
    try:
        first = next(answers, None)
        if first is None:
            raise Broken("no answer came")
        prefix = _parse(first)["id"].partition("/")[0]
        suite, dtype, seed, capabilities, algorithm = _understood(prefix)
    except Broken as error:
        return Report("PROTOCOL_ERROR", explanation=str(error))
    asked, left_out = questions(suite, dtype, capabilities, seed, (), algorithm)
    confirm(asked)
    answers = _chain(first, answers)
    return examine(
        asked, left_out, lambda some: read_answers(some, prefix, answers, watch), suite, dtype, (), watch, rounds=1
    )


def _chain(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


def _understood(prefix: str) -> tuple[str, str, int, tuple[str, ...], str]:
    try:
        suite, dtype, seed, capabilities, *rest = prefix.split(":")
        (algorithm,) = rest or ["maml"]
        check_algorithm(algorithm, suite)
        number = int(seed)
        wanted = tuple(filter(None, capabilities.split("+")))
        if suite not in ("core", "full", "fresh") or dtype not in tolerance.UNIT or set(wanted) - set(CAPABILITIES):
            raise ValueError
    except ValueError:
        raise Broken(f"the id of the first answer begins with {prefix[:60]!r}, which `gen` did not write") from None
    return suite, dtype, number, wanted, algorithm


def read_answers(
    asked: list[Question], prefix: str, answers: Iterator[str], watch: Watch | None = None,
    ending: Callable[[], str] = str, whole: bool = True,
) -> dict[str, Answered]:  # fmt: skip
    """Each question's answer; whatever is missing, out of order, twice or too much is its problem.

    Args:
        watch: may stop it; then the answers that came are all.
        ending: says how the program ended, if an answer is missing.
        whole: nothing may follow.
    """
    out: dict[str, Answered] = {}
    problem = ""
    for question in asked:
        if not problem:
            try:
                out[question.id] = _next(question, f"{prefix}/{question.id}", answers)
            except Missing:
                ended = ending()
                problem = f"the answer is missing, and all that follow ({len(out)} of {len(asked)} came)"
                problem += f": the program {ended}" if ended else ""
            except Broken as error:
                problem = str(error)
        out.setdefault(question.id, Answered(problem=problem))
        if watch:
            watch.came(question, out[question.id], quiet=bool(problem))
            if watch.stopped:
                return out
    try:
        if whole and not problem and next(answers, None) is not None:
            problem = f"more answers came than the {len(asked)} that were asked for"
            out[asked[-1].id] = Answered(problem=problem)
    except Broken as error:
        out[asked[-1].id] = Answered(problem=f"after the last answer, where the output should end: {error}")
    return out


class Missing(Broken):
    """The output has ended."""


def _next(question: Question, wanted: str, answers: Iterator[str]) -> Answered:
    line = next(answers, None)
    if line is None:
        raise Missing
    data = _parse(line)
    if data["id"] != wanted:
        raise Broken(f"wanted the answer to {wanted!r}, seen {data['id'][:80]!r}: wrong id, or out of order")
    if data.get("error") is not None:
        return Answered(problem=f"it says: {str(data['error'])[:500]}")
    for name, kinds in _OURS.items():
        if name in data and data[name] not in kinds:
            raise Broken(f"{name} is {str(data[name])[:80]!r}, wanted one of {', '.join(map(repr, kinds))}")
    answer = read_answer(question.case, data)
    answer.changed_inputs, answer.framework = data.get("changed_inputs", False), data.get("framework", "")
    return answer


# What our worker adds to an answer.
_OURS = {"changed_inputs": (False, True), "framework": ("", "numpy", "torch", "jax")}


def _parse(line: str) -> dict:
    try:
        data = json.loads(line, object_pairs_hook=_once)
    except RecursionError:
        raise Broken(f"a line is nested too deeply: {line[:80]!r}") from None
    except ValueError as error:
        raise Broken(f"a line is not JSON ({error}): {line[:80]!r}") from None
    if not isinstance(data, dict) or not isinstance(data.get("id"), str):
        raise Broken(f'wanted an object with an "id", seen {line[:80]!r}')
    if "format" in data and (why := misfit(data["format"], "wire")):
        raise Broken(f"the answer to {data['id'][:80]!r}: {why}")
    return data


def _once(pairs: list[tuple]) -> dict:
    """An object in which every name stands once: of two values none is the answer."""
    data = dict(pairs)
    if len(data) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{max(names, key=names.count)[:80]!r} stands twice in an object")
    return data


def lines_from(stream: BinaryIO, timeout: float, over: Callable[[], bool] = lambda: False) -> Iterator[str]:
    """The lines of a stream, as they come.

    Args:
        over: whether no further answers are expected, though a program that was left behind may hold the stream open.

    Raises:
        Broken: no whole line came for `timeout` seconds; a line, or all of it, is too long; not UTF-8.
        ValueError: the time-out is not a number above 0.
    """
    timeout = seconds(timeout)
    chunks: queue.Queue = queue.Queue(maxsize=64)

    def pump():
        while True:
            try:
                chunk = os.read(stream.fileno(), _CHUNK)
            except (OSError, ValueError):
                chunk = b""
            chunks.put(chunk)
            if not chunk:
                return

    threading.Thread(target=pump, daemon=True).start()
    buffer, total, until = b"", 0, time.monotonic() + timeout
    while True:
        try:
            chunk = chunks.get(timeout=min(max(until - time.monotonic(), 0), _LOOK))
        except queue.Empty:
            if over():
                return
            if time.monotonic() < until:
                continue
            raise Broken(f"no answer within {timeout:g} s") from None
        total += len(chunk)
        buffer += chunk
        *whole, buffer = buffer.split(b"\n")
        if len(buffer) > LONGEST_LINE or total > MOST_OUTPUT:
            raise Broken(f"too much output: {total:,} bytes, {len(buffer):,} in the last line")
        for line in whole + ([buffer] if not chunk else []):
            if line.strip():
                try:
                    yield line.decode()
                except UnicodeDecodeError:
                    raise Broken(f"a line is not UTF-8: {line[:40]!r}") from None
                until = time.monotonic() + timeout
        if not chunk:
            return


def lines_of(folder: Path) -> Iterator[str]:
    """The answers in a folder, one JSON file each, in the order of their names."""
    names = sorted(folder.glob("*.json"))
    if not names:
        raise FileNotFoundError(f"no *.json in {folder}")
    for path in names:
        try:
            yield read_file(path, "an answer", LONGEST_LINE).decode()
        except UnicodeDecodeError as cause:
            raise ValueError(f"{path} is not UTF-8: {cause}") from None


# ── a program under watch ───────────────────────────────────────────────────────────────────────────────────────────


def check_function(target: str, *args, folders: Iterable[str] = (), **kwargs) -> Report:
    """Judge a Python function "package.module:name", which is imported in a process of its own, and nowhere else.

    Args:
        folders: where to look for its module, after the current folder.
        args, kwargs: as of `check_program`.

    Raises:
        ValueError: `target` is not of that form; and what `check_program` raises.
    """
    return check_program(worker.command(target, tuple(folders)), *args, **{"rounds": 2} | kwargs)


def check_program(
    command: list[str], suite: str = "core", dtype: str = "float64", capabilities: Iterable[str] = (),
    timeout: float = 60.0, seed: int | None = None, env: dict[str, str] | None = None, *,
    cases: Iterable[str] = (), watch: Watch | None = None, echo: Callable[[bytes], None] | None = None, rounds: int = 1,
    algorithm: str = "maml",
) -> Report:  # fmt: skip
    """Run a program, ask it, and judge it. It is stopped when it is silent for `timeout` seconds, or says too much; it
    ends when we end, and all that it has started with it (see `guard`).

    Args:
        env: its environment; by default this process's.
        cases: ask only these, see `checking.check`.
        watch: shows each answer, and may stop at the first wrong one.
        echo: is given what the program writes to standard error, as it comes.
        rounds: 1: it is asked everything at once, and its output must end after the last answer. 2: its input stays
            open, and it is asked about other θ only if something unknown is wrong.
        algorithm: whose meta-gradient it is asked for.

    Raises:
        OSError: the program cannot be started.
        ValueError: an unknown suite, algorithm, dtype, capability or case; a time-out that is no positive number.
        Tampered: the vectors are not those that shipped, or not what the engine computes here.
    """
    timeout, capabilities, only, watch = seconds(timeout), tuple(capabilities), tuple(cases), watch or Watch()
    seed = seed_for(only, seed)
    with Guarded(command, env, echo) as program:  # it starts while we draw the new cases
        asked, left_out = questions(suite, dtype, capabilities, seed, only, algorithm)
        confirmation = Confirmation(asked)
        prefix = token(suite, dtype, capabilities, seed, algorithm)
        answers = lines_from(program.stdout, timeout, lambda: watch.all_came and program.wait(0) is not None)

        def feed(some: list[Question], close: bool) -> None:  # in a thread: a program need not listen
            threading.Thread(target=_feed, args=(program.stdin, some, prefix, close), daemon=True).start()

        def ask(some: list[Question]) -> dict[str, Answered]:
            feed(some, close=rounds == 1)
            came = read_answers(some, prefix, answers, watch, lambda: _ending(program), whole=rounds == 1)
            confirmation.result()
            return came

        report = examine(asked, left_out, ask, suite, dtype, only, watch, rounds)
        ending = ""
        if not watch.stopped:
            feed([], close=True)
            ending = _ending(program)
    if report.verdict == "PROTOCOL_ERROR":
        tail = program.said().splitlines()[-12:]
        if ending not in report.explanation:
            report.notes.append(f"the program {ending}")
        report.notes += [f"stderr: {line}" for line in tail]
    return report


def _feed(stream: BinaryIO, asked: list[Question], prefix: str, close: bool) -> None:
    try:
        for line in lines(asked, prefix):
            stream.write(line.encode() + b"\n")
            stream.flush()
        if close:
            stream.close()
    except (OSError, ValueError):  # it has ended, or does not listen
        pass


def _ending(program: Guarded) -> str:
    code = program.wait(GRACE)
    if code is None:
        return "was still running, and was stopped"
    if code < 0:
        names = {int(s): s.name for s in signal.Signals}
        return f"was ended by signal {names.get(-code, -code)}"
    return f"ended with exit code {code}"


def main(arguments: list[str]) -> int:
    """Entry point for the pytest plugin: check a function as `arguments[0]`, a JSON, says; print a JSON report."""
    settings = json.loads(arguments[0])
    with signals_end(), Screen() as screen:
        watch = Watch(fail_fast=settings.pop("fail_fast"))
        report = check_function(**settings, watch=watch, echo=screen.echo)
    print(json.dumps({"report": json.loads(report.to_json()), "text": str(report)}))
    return report.exit_code
