"""Progress on standard error while answers come: a line that counts, or one line per case.

    case 5 of 42, 3 s                                            on a terminal
    tanh-deep         right  15.8 digits  off by 1.6e-16  0.2 s  with -v

A candidate's own words appear between these lines as it says them.
"""

from __future__ import annotations

import codecs
import dataclasses
import sys
import threading
import time
from collections.abc import Callable
from typing import TextIO

import numpy as np

from .. import tolerance
from ..catalogue import flat
from ..pages.report import _one_line
from ..questions import Answered, Question


@dataclasses.dataclass
class Came:
    """An answer that has come.

    Attributes:
        question: what was asked.
        at, of: it is the at-th case (or repeat of one) of so many.
        seconds: since the answer before, or since the start.
        right: whether it is right to rounding; None for a repeat, which is judged at the end.
        problem: why it could not be read, or "".
        digits: decimal digits that agree.   relative: |g − r|∞ / |r|∞, the relative error.
    """

    question: Question
    at: int
    of: int
    seconds: float
    right: bool | None = None
    problem: str = ""
    digits: float | None = None
    relative: float | None = None

    @property
    def kind(self) -> str:
        return "case" if self.question.role == "case" else "repeat"

    def __str__(self) -> str:
        """One line: id, right or wrong, digits that agree, relative error, seconds."""
        if self.problem:
            said = f"no answer: {self.problem}"
        elif self.right is None:
            said = "answered"
        else:
            said = f"{'right' if self.right else 'wrong'}  {self.digits:4.1f} digits  off by {self.relative:.1e}"
        return _one_line(f"{self.question.id:28}  {said}  {self.seconds:.1f} s")


class Watch:
    """Counts and times the answers of one candidate, shows each, and says when enough have come.

    Args:
        show: is called with a `Came` for each answer.
        fail_fast: the first wrong case is the last one that is asked.
    """

    def __init__(self, show: Callable[[Came], None] | None = None, fail_fast: bool = False):
        self.start = self._before = time.monotonic()
        self.show, self.fail_fast, self.stopped = show, fail_fast, False
        self._left: dict[str, list[int]] = {}

    def asks(self, asked: list[Question]) -> None:
        """These questions are asked next."""
        for kind in ("case", "repeat"):
            self._left[kind] = [0, sum((q.role == "case") == (kind == "case") for q in asked)]

    @property
    def all_came(self) -> bool:
        """Whether every question has been answered."""
        return all(at == of for at, of in self._left.values())

    def came(self, question: Question, answer: Answered, quiet: bool = False) -> None:
        """An answer has come; `stopped` says whether it was the last. It is not shown if it is `quiet`."""
        now = time.monotonic()
        came = Came(question, 0, 0, now - self._before, problem=answer.problem)
        self._before = now
        self._left[came.kind][0] += 1
        came.at, came.of = self._left[came.kind]
        right = question.case.answer
        if question.role == "case" and right is not None and answer.grad is not None:
            off = [tolerance.error(answer.grad, right.meta_grad, right.scale, tolerance.UNIT[question.case.dtype])]
            if answer.meta_loss is not None:
                unit = tolerance.UNIT[question.case.dtype]
                off.append(float(tolerance.errors(answer.meta_loss, right.meta_loss, right.loss_scale, unit)))
            came.right = max(off) <= tolerance.TAU
            size = np.max(np.abs(flat(right.meta_grad)))
            came.relative = float(np.max(np.abs(flat(answer.grad) - flat(right.meta_grad))) / (size or 1.0))
            came.digits = float(np.clip(-np.log10(came.relative), 0, 17)) if came.relative else 17.0
        self.stopped = self.fail_fast and (bool(answer.problem) or came.right is False)
        if self.show and not quiet:
            self.show(came)


class Screen:
    """Standard error, shared by the progress and the candidate's words; as a context.

    Args:
        verbose: a line per answer; otherwise one line that counts, and only on a terminal.
        stream: instead of standard error.
    """

    def __init__(self, verbose: bool = False, stream: TextIO | None = None):
        self._stream = stream or sys.stderr
        self._counts = not verbose and self._stream.isatty()
        self._verbose, self._line, self._said, self._start = verbose, "", "starting", time.monotonic()
        self._unfinished = ""
        self._lock, self._closed = threading.Lock(), threading.Event()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def __enter__(self) -> Screen:
        if self._counts:
            threading.Thread(target=self._tick, daemon=True).start()
        return self

    def __exit__(self, *exception) -> None:
        self._closed.set()
        self._write(self._unfinished + "\n" if self._unfinished else "", "")

    def show(self, came: Came) -> None:
        """An answer has come."""
        self._said = f"{came.kind} {came.at} of {came.of}"
        self._write(f"{came}\n" if self._verbose else "", self._counting())

    def echo(self, words: bytes) -> None:
        """The candidate has said something; a line is shown once it is whole."""
        said = self._unfinished + self._decoder.decode(words)
        end = max(said.rfind("\n"), said.rfind("\r")) + 1
        self._unfinished = said[end:]
        self._write(said[:end], self._counting())

    def _counting(self) -> str:
        seconds = time.monotonic() - self._start
        return f"{self._said}, {seconds:.0f} s" if self._counts and not self._closed.is_set() else ""

    def _tick(self) -> None:
        while not self._closed.wait(1.0):
            self._write("", self._counting())

    def _write(self, text: str, line: str) -> None:
        """Write text, above the counting line, which is always the last."""
        with self._lock:
            erase = f"\r{' ' * len(self._line)}\r" if self._line else ""
            if not erase + text + line:
                return
            self._line = line
            try:
                self._stream.write(erase + text + line)
                self._stream.flush()
            except (OSError, ValueError):  # it is not read any more
                self._counts = False
