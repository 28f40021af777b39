"""The candidate's process: a Python function is imported here, asked, and its answers written.

It is the other side of `protocol`: questions on standard input, answers on standard output, JSON Lines. The candidate
has neither of the two: it reads nothing, and what it prints goes to standard error.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import json
import os
import sys
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any

import numpy as np

from ..cases import Case
from . import apart

DEEPEST = 64  # lists and dicts in each other in an answer


def command(target: str, folders: tuple[str, ...] = ()) -> list[str]:
    """The command that answers for a function "package.module:name".

    Args:
        folders: where to look for its module, after the current folder.

    Raises:
        ValueError: it is not of that form.
    """
    _parted(target)
    return apart.command("tinymaml.oracle.judge.worker", target, *folders)


def main(arguments: list[str]) -> int:
    """Answer every question for the function `arguments[0]`; the folders that follow are looked through for it."""
    questions, answers = os.fdopen(os.dup(0), encoding="utf-8"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    sys.stdout.reconfigure(line_buffering=True)  # what it prints is seen at once
    we, leave = os.getpid(), os._exit
    function = _function(*arguments)
    if os.getpid() != we:
        leave(0)  # the candidate has forked, and this is the child, which must read no question
    for line in questions:
        answer = _answer(function, json.loads(line))
        if os.getpid() != we:
            leave(0)
        print(answer, file=answers, flush=True)
    return 0


def _function(target: str, *folders: str) -> Callable:
    try:
        return resolve(target, folders)
    except BaseException as error:  # SystemExit too; this is the answer to every question
        _print(error)
        said = f"{target} cannot be imported: {described(error)}"

    def failed(case):
        raise Unusable(said)

    return failed


class Unusable(Exception):
    """There is no function that could be asked."""


def _answer(function: Callable, question: dict) -> str:
    case = Case.from_json(question).with_dtype(question["dtype"])
    before = case.inputs()
    try:
        answer = _plain(function(case))
        if not isinstance(answer, dict):
            raise TypeError(f"it returned {type(answer).__name__}, wanted a dict")
        answer["changed_inputs"] = case.changed_inputs() or case.inputs() != before
        return json.dumps(answer | {"framework": case.framework, "id": question["id"]})
    except Unusable as error:
        said = str(error)
    except BaseException as error:  # SystemExit too: it is the candidate that failed
        _print(error)
        said = described(error)
    return json.dumps({"error": said, "id": question["id"]})


def described(error: BaseException) -> str:
    """An exception in one line, with the place where it was raised."""
    try:
        said = f"{type(error).__name__}: {error}".removesuffix(": ")
    except Exception:  # its own __str__ fails
        said = type(error).__name__
    frames = traceback.extract_tb(_theirs(error))
    near = [f for f in frames if "site-packages" not in f.filename] or frames
    return f"{said} ({near[-1].filename}:{near[-1].lineno})" if near and not isinstance(error, SyntaxError) else said


def _print(error: BaseException) -> None:
    traceback.print_exception(type(error), error, _theirs(error))


def _theirs(error: BaseException) -> TracebackType | None:
    """The traceback from where the candidate's code begins."""
    ours, at = (__file__, importlib.__file__), error.__traceback__
    while at and (at.tb_frame.f_code.co_filename in ours or "<frozen" in at.tb_frame.f_code.co_filename):
        at = at.tb_next
    return at


def resolve(target: str, folders: tuple[str, ...] = ()) -> Callable:
    """The function "package.module:name"; modules are also looked for in the current folder, and in `folders`.

    Raises:
        ValueError: not of that form, or there is no such function.   ImportError: there is no such module.
        Whatever importing the module raises.
    """
    module, name = _parted(target)
    sys.path[:0] = [f for f in (os.getcwd(), *folders) if f not in sys.path]
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and f"{module}.".startswith(f"{error.name}."):
            raise ImportError(f"there is no module {error.name!r} here, nor on Python's path") from None
        raise
    try:
        function = functools.reduce(getattr, name.split("."), found)
    except AttributeError:
        near = difflib.get_close_matches(name, [n for n, v in vars(found).items() if callable(v)], 1)
        raise ValueError(f"{module} has no function {name!r}" + (f"; is it {near[0]!r}?" if near else "")) from None
    if not callable(function):
        raise ValueError(f"{target} is of the type {type(function).__name__}, wanted a function")
    return function


def _parted(target: str) -> tuple[str, str]:
    module, _, name = target.partition(":")
    if not module or not name:
        raise ValueError(f"{target!r}: wanted package.module:function")
    return module, name


def _plain(x: Any, called: str = "the answer", depth: int = 0) -> Any:
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
