"""Any program, in any language: JSON Lines in, JSON Lines out.

    tinymaml oracle gen | ./yours | tinymaml oracle check        a pipe; no answers are in what gen prints
    tinymaml oracle check -- ./yours --its-arguments             the same, and the program is watched
    tinymaml oracle check package.module:function                a Python function, in a process of its own
    tinymaml oracle gen --to DIR;  tinymaml oracle check --from DIR        one file a case, one file an answer

A question is one line, an object with "id", "dtype", "model", "params", "support", "query" (lists with one {"x", "y"} a
task), "inner_lr", "inner_steps", …; numbers are decimal and exact (`gen --hex`: IEEE bit patterns). An answer is one
line,

    {"id": …, "meta_grad": {name: nested lists} or [in the order of params], "meta_loss": …, "trace": …}

the last two optional, or {"id": …, "error": "why not"}; in the order of the questions. The id says which suite, dtype
and seed it belongs to, so that `check` needs to be told nothing.
"""

from __future__ import annotations

import importlib
import json
import os
import queue
import secrets
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..files import read_file
from . import tolerance
from .cases import CAPABILITIES, Case, to_hex
from .checking import conclude, confirm, seconds
from .questions import Answered, Question, questions, read_answer
from .report import Report
from .versions import VERSIONS, misfit

LONGEST_LINE, MOST_OUTPUT = 1 << 24, 1 << 27  # bytes
DEEPEST = 64  # lists and dicts in each other in an answer
GRACE = 2.0  # seconds in which a program should end after its output has
_CHUNK = 1 << 16


class Broken(Exception):
    """The other side does not keep to the protocol; the message says how."""


# ── questions out ───────────────────────────────────────────────────────────────────────────────────────────────────


def token(suite: str, dtype: str, capabilities: Iterable[str], seed: int) -> str:
    """What an id begins with: everything `check` must know to have asked the same."""
    return f"{suite}:{dtype}:{seed}:{'+'.join(capabilities)}"


def lines(asked: list[Question], prefix: str, hexadecimal: bool = False) -> Iterator[str]:
    """One line of JSON for each question."""
    encode = to_hex if hexadecimal else lambda x: np.asarray(x).tolist()
    for q in asked:
        data = {"format": VERSIONS["wire"]} | q.case.to_json(encode) | {"id": f"{prefix}/{q.id}", "dtype": q.case.dtype}
        data.pop("comment")
        yield json.dumps(data, ensure_ascii=False)


# ── answers in ──────────────────────────────────────────────────────────────────────────────────────────────────────


def check_answers(answers: Iterable[str]) -> Report:
    """The report on lines of answers; the first one's id tells what was asked."""
    answers = iter(answers)
    try:
        first = next(answers, None)
        if first is None:
            raise Broken("no answer came")
        prefix = _parse(first)["id"].partition("/")[0]
        suite, dtype, seed, capabilities = _understood(prefix)
    except Broken as error:
        return Report("PROTOCOL_ERROR", explanation=str(error))
    asked, left_out = questions(suite, dtype, capabilities, seed)
    confirm(asked)
    return conclude(asked, left_out, read(asked, prefix, _chain(first, answers)), suite, dtype)


def _chain(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


def _understood(prefix: str) -> tuple[str, str, int, tuple[str, ...]]:
    try:
        suite, dtype, seed, capabilities = prefix.split(":")
        number = int(seed)
        wanted = tuple(filter(None, capabilities.split("+")))
        if suite not in ("core", "full", "fresh") or dtype not in tolerance.UNIT or set(wanted) - set(CAPABILITIES):
            raise ValueError
    except ValueError:
        raise Broken(f"the id of the first answer begins with {prefix[:60]!r}, which `gen` did not write") from None
    return suite, dtype, number, wanted


def read(asked: list[Question], prefix: str, answers: Iterator[str]) -> dict[str, Answered]:
    """Each question's answer; whatever is missing, out of order, twice or too much is its problem."""
    out: dict[str, Answered] = {}
    problem = ""
    for question in asked:
        wanted = f"{prefix}/{question.id}"
        if not problem:
            try:
                line = next(answers, None)
                if line is None:
                    raise Broken(f"the answer is missing, and all that follow ({len(out)} of {len(asked)} came)")
                data = _parse(line)
                if data["id"] != wanted:
                    seen = str(data["id"])[:80]
                    raise Broken(f"wanted the answer to {wanted!r}, seen {seen!r}: wrong id, or out of order")
                if "error" in data:
                    out[question.id] = Answered(problem=f"it says: {str(data['error'])[:500]}")
                else:
                    out[question.id] = read_answer(question.case, data)
                    out[question.id].changed_inputs = bool(data.get("changed_inputs"))
                continue
            except Broken as error:
                problem = str(error)
        out[question.id] = Answered(problem=problem)
    try:
        if not problem and next(answers, None) is not None:
            problem = f"more answers came than the {len(asked)} that were asked for"
            out[asked[-1].id] = Answered(problem=problem)
    except Broken as error:
        out[asked[-1].id] = Answered(problem=f"after the last answer, where the output should end: {error}")
    return out


def _parse(line: str) -> dict:
    try:
        data = json.loads(line)
    except RecursionError:
        raise Broken(f"a line is nested too deeply: {line[:80]!r}") from None
    except ValueError as error:
        raise Broken(f"a line is not JSON ({error}): {line[:80]!r}") from None
    if not isinstance(data, dict) or not isinstance(data.get("id"), str):
        raise Broken(f'wanted an object with an "id", seen {line[:80]!r}')
    if "format" in data and (why := misfit(data["format"], "wire")):
        raise Broken(f"the answer to {data['id'][:80]!r}: {why}")
    return data


def lines_from(stream: BinaryIO, timeout: float) -> Iterator[str]:
    """The lines of a stream, as they come.

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
            chunk = chunks.get(timeout=max(until - time.monotonic(), 0))
        except queue.Empty:
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


def check_program(
    command: list[str], suite: str = "core", dtype: str = "float64", capabilities: Iterable[str] = (),
    timeout: float = 60.0, seed: int | None = None, env: dict[str, str] | None = None,
) -> Report:  # fmt: skip
    """Run a program, ask it, and judge it. It is stopped when it is silent for `timeout` seconds, or says too much.

    Args:
        env: its environment; by default this process's.

    Raises:
        OSError: the program cannot be started.
    """
    capabilities = tuple(capabilities)
    seed = secrets.randbelow(2**32) if seed is None else seed
    asked, left_out = questions(suite, dtype, capabilities, seed)
    confirm(asked)
    prefix = token(suite, dtype, capabilities, seed)
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, env=env
    )
    assert process.stdin and process.stdout and process.stderr
    said = bytearray()
    threading.Thread(target=_feed, args=(process.stdin, asked, prefix), daemon=True).start()
    listener = threading.Thread(target=_listen, args=(process.stderr, said), daemon=True)
    listener.start()
    try:
        answers = read(asked, prefix, lines_from(process.stdout, timeout))
        ending = _ending(process)
    finally:
        _stop(process)
    listener.join(1)
    report = conclude(asked, left_out, answers, suite, dtype)
    if report.verdict == "PROTOCOL_ERROR":
        tail = bytes(said).decode(errors="replace").strip().splitlines()[-12:]
        report.notes += ([f"the program {ending}"] if ending else []) + [f"stderr: {line}" for line in tail]
    return report


def _feed(stream: BinaryIO, asked: list[Question], prefix: str) -> None:
    try:
        for line in lines(asked, prefix):
            stream.write(line.encode() + b"\n")
            stream.flush()
        stream.close()
    except OSError:  # it has ended, or does not listen
        pass


def _listen(stream: BinaryIO, said: bytearray) -> None:
    while chunk := stream.read1(_CHUNK):  # type: ignore[attr-defined]
        said += chunk
        del said[:-20_000]


def _ending(process: subprocess.Popen) -> str:
    try:
        code = process.wait(timeout=GRACE)
    except subprocess.TimeoutExpired:
        return "was still running, and was stopped"
    if code < 0:
        names = {int(s): s.name for s in signal.Signals}
        return f"was ended by signal {names.get(-code, -code)}"
    return f"ended with exit code {code}" if code else ""


def _stop(process: subprocess.Popen) -> None:
    """End the program and whatever it has started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (OSError, AttributeError):
        process.kill()
    process.wait()


# ── a Python function in a process of its own ───────────────────────────────────────────────────────────────────────


def worker(target: str) -> list[str]:
    """The command that answers for a function "package.module:name".

    Raises:
        ValueError: it is not of that form.
    """
    _parted(target)
    return [sys.executable, "-m", __name__, target]


def resolve(target: str):
    """The function "package.module:name"; modules are also looked for in the current folder.

    Raises:
        ValueError: not of that form, or there is no such function.   ImportError: there is no such module.
    """
    module, name = _parted(target)
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    found = importlib.import_module(module)
    function = getattr(found, name, None)
    if not callable(function):
        raise ValueError(f"{module} has no function {name!r}")
    return function


def _parted(target: str) -> tuple[str, str]:
    module, _, name = target.partition(":")
    if not module or not name:
        raise ValueError(f"{target!r}: wanted package.module:function")
    return module, name


def _answer_all(target: str) -> None:
    """Read questions, write answers: what the worker does. The function's own output goes to stderr."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        function = resolve(target)
    except Exception as cause:  # which is the answer to every question
        traceback.print_exc()
        error = cause

        def function(case):
            raise error

    for line in sys.stdin:
        data = json.loads(line)
        case = Case.from_json(data).with_dtype(data["dtype"])
        before = case.inputs()
        try:
            answer = _plain(function(case))
            if not isinstance(answer, dict):
                raise TypeError(f"it returned {type(answer).__name__}, wanted a dict")
            answer["changed_inputs"] = case.changed_inputs() or case.inputs() != before
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer | {"id": data["id"]}), file=out, flush=True)


def _plain(x, called: str = "the answer", depth: int = 0):
    """Arrays of any library as nested lists. Raises: TypeError: there is something else; the message says where."""
    if depth > DEEPEST:
        raise TypeError(f"{called} is a {type(x).__name__} that is nested more than {DEEPEST} deep, wanted numbers")
    if isinstance(x, dict):
        return {str(k): _plain(v, f"{called}[{k!r}]", depth + 1) for k, v in x.items()}
    if isinstance(x, (list, tuple)):
        return [_plain(v, called, depth + 1) for v in x]
    if x is None or isinstance(x, (bool, int, float, str)):
        return x
    array = x
    for method in ("detach", "cpu"):
        array = getattr(array, method)() if hasattr(array, method) else array
    array = np.asarray(array)
    if array.dtype.kind not in "biufU":
        raise TypeError(f"{called} is {repr(x)[:80]} of the type {type(x).__name__}, wanted numbers")
    return array.tolist()


if __name__ == "__main__":
    _answer_all(sys.argv[1])
