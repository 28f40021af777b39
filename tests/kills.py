"""A program: some work on a run folder, killed before each line of `tinymaml.runs.folder` that it would run.

    python kills.py WORK FOLDER EVERY [BASE]      prints the number of the last line

The work is done in FOLDER/1, FOLDER/2, …, copies of BASE if there is one: each time in a fork, which sends itself
SIGKILL before the line that it would run as number 1, 2, …; the last one ends by itself. With EVERY = 2 they are the
lines 1, 3, …. The process that forks is small and has no threads, unlike the one of the tests.
"""

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import filelock  # noqa: F401  which the forks have then, and need not import
import numpy as np
import safetensors.numpy  # noqa: F401

from tinymaml.runs import folder as runs
from tinymaml.runs.folder import Run


def arrays_of(iteration: int, size: int = 1000) -> dict[str, np.ndarray]:
    """Arrays that tell the iteration they belong to, in every element."""
    return {"theta": np.full(size, iteration, np.float32), "step": np.array(iteration)}


def save_and_prune(path: Path) -> None:
    run = Run.open(path)
    with run.lock():
        run.log({"iteration": 4})
        run.save(4, arrays_of(4), {"at": 4})


def save_again(path: Path) -> None:
    run = Run.open(path)
    with run.lock():
        run.save(3, arrays_of(3), {"at": 3})


def rewind(path: Path) -> None:
    run = Run.open(path)
    with run.lock():
        run.rewind(1)


def create(path: Path) -> None:
    Run.create(path, {"a": 1})


def killed_at(step: int, work: Callable[[Path], None], path: Path) -> bool:
    """Whether the fork was killed, before there was nothing more to do."""
    pid = os.fork()
    if pid == 0:
        code, lines = 1, 0

        def trace(frame, event, _):
            nonlocal lines
            if frame.f_code.co_filename != runs.__file__:
                return None
            lines += event == "line"
            if lines == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return trace

        try:
            sys.settrace(trace)
            work(path)
            code = 0
        finally:
            os._exit(code)
    status = os.waitpid(pid, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def main(work: str, folder: str, every: str, base: str = "") -> None:
    step, killed = 1 - int(every), True
    while killed:
        step += int(every)
        path = Path(folder, str(step))
        if base:
            shutil.copytree(base, path)
        killed = killed_at(step, globals()[work], path)
    print(step)


if __name__ == "__main__":
    main(*sys.argv[1:])
