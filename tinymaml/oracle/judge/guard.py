"""A program that ends when we end, and everything it has started with it.

    with Guarded(["./yours", "--fast"]) as program:      program.stdin and .stdout are pipes
        code = program.wait(2.0)                         how it ended, or None while it runs
        program.said()                                   the end of what it has written to standard error
    # here neither the program nor a child of it is alive

Between us and the program stands a guard, a process that runs this file. It starts the program and waits for either of
two events: the program ends, and the guard says so; our end of a socket is closed, because we have finished or because
we were killed by whatever signal, and the guard kills the program and all its descendants.

On Linux a descendant cannot leave: the guard adopts those whose parent has ended (PR_SET_CHILD_SUBREAPER), those in a
session of their own too, and the program ends if its guard is killed (PR_SET_PDEATHSIG). On other POSIX systems the
guard finds the descendants by their parents, so a daemon whose parent has ended before is not found. On Windows there
is no guard, and the tree of processes is ended when we finish, not when we are killed.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager, suppress

PATIENCE = 5.0  # seconds in which killed processes, or the guard, should be gone
_REMEMBERED = 20_000  # bytes of standard error
_DEATH_SIGNAL, _SUBREAPER = 1, 36  # PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER


class Guarded:
    """A running program, as a context; leaving it ends the program and its descendants.

    Args:
        command: the program and its arguments.
        env: its environment; by default ours.
        echo: is given what it writes to standard error, as it comes.

    Raises:
        OSError: the program cannot be started.
    """

    def __init__(
        self, command: list[str], env: dict[str, str] | None = None, echo: Callable[[bytes], None] | None = None
    ):  # fmt: skip
        self._link: socket.socket | None = None
        self._code: int | None = None
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": env}
        if os.name != "posix":
            self._process = subprocess.Popen(command, **pipes)
        else:
            self._link, theirs = socket.socketpair()
            with theirs:
                guard = [sys.executable, "-I", "-S", __file__, str(theirs.fileno()), *map(os.fspath, command)]
                self._process = subprocess.Popen(guard, pass_fds=[theirs.fileno()], start_new_session=True, **pipes)
        self.stdin, self.stdout, self._said = self._process.stdin, self._process.stdout, bytearray()
        self._listener = threading.Thread(target=self._listen, args=(echo,), daemon=True)
        self._listener.start()
        if self._link:
            started = self._told(None)
            if started != 0:
                self.__exit__()
                raise OSError(started, os.strerror(started), command[0]) if started else OSError("no guard started")

    def __enter__(self) -> Guarded:
        return self

    def _told(self, timeout: float | None) -> int | None:
        """The next number that the guard says within a time; None: it says nothing, or is gone."""
        assert self._link
        self._link.settimeout(timeout)
        with suppress(OSError):  # a time-out is one
            said = self._link.recv(16)
            return int(said) if said else None
        return None

    def wait(self, timeout: float) -> int | None:
        """The program's exit code (−n: signal n ended it) once it has ended; None if it still runs after a time."""
        if self._code is None and self._link:
            self._code = self._told(max(timeout, 1e-3))
        elif self._code is None:
            with suppress(subprocess.TimeoutExpired):
                self._code = self._process.wait(timeout)
        return self._code

    def _listen(self, echo: Callable[[bytes], None] | None) -> None:
        while chunk := self._process.stderr.read1(1 << 16):
            self._said += chunk
            del self._said[:-_REMEMBERED]
            if echo:
                echo(chunk)

    def said(self) -> str:
        """The end of what it has written to standard error; all is there once the context is left."""
        self._listener.join(1 if self._process.returncode is not None else 0)
        return bytes(self._said).decode(errors="replace").strip()

    def __exit__(self, *exception) -> None:
        if self._link:
            self._link.close()
            with suppress(OSError):
                os.kill(self._process.pid, signal.SIGCONT)  # the program may have stopped its guard
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(2 * PATIENCE)
        else:
            subprocess.run(["taskkill", "/t", "/f", "/pid", str(self._process.pid)], capture_output=True)
        self._process.kill()
        self._process.wait()


@contextmanager
def signals_end():
    """Within this context SIGTERM and SIGHUP raise SystemExit(128 + n), so that what is open is closed.

    In another thread than the main one, where Python handles no signals, nothing changes.
    """
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)):
            if signal.getsignal(number) != signal.SIG_IGN:  # nohup stays nohup
                before[number] = signal.signal(number, _leave)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave(number, frame):
    raise SystemExit(128 + number)


# ── descendants ─────────────────────────────────────────────────────────────────────────────────────────────────────


def descendants(root: int) -> set[int]:
    """The processes that `root` has started, those that these have started, and so on."""
    children: dict[int, list[int]] = {}
    for pid, parent in _parents():
        children.setdefault(parent, []).append(pid)
    found, left = set(), [root]
    while left:
        new = set(children.get(left.pop(), ())) - found
        found |= new
        left += new
    return found


def _parents() -> list[tuple[int, int]]:
    """(process, its parent) for all processes that can be seen."""
    out = []
    if os.path.isdir("/proc/self"):
        for name in filter(str.isdigit, os.listdir("/proc")):
            with suppress(OSError, IndexError), open(f"/proc/{name}/stat", "rb") as file:
                out.append((int(name), int(file.read().rpartition(b")")[2].split()[1])))
    elif os.name == "posix":
        with suppress(OSError, subprocess.TimeoutExpired):
            listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, timeout=PATIENCE).stdout
            out += [tuple(map(int, line.split())) for line in listed.splitlines()]
    return out


def _end_descendants() -> None:
    """Kill ours. They are stopped first, so that none can start another while it is being looked for."""
    until, stopped = time.monotonic() + PATIENCE, set()
    while time.monotonic() < until:
        found = descendants(os.getpid())
        if not found:
            return
        kind = signal.SIGKILL if found <= stopped else signal.SIGSTOP
        for pid in found if found <= stopped else found - stopped:
            with suppress(OSError):
                os.kill(pid, kind)
        if kind == signal.SIGKILL:
            time.sleep(0.002)
            _reap()
        stopped |= found


def _reap() -> list[tuple[int, int]]:
    """(process, exit code) of the children that have ended; they are no longer zombies."""
    ended = []
    with suppress(ChildProcessError):
        while (child := os.waitpid(-1, os.WNOHANG))[0]:
            ended.append((child[0], os.waitstatus_to_exitcode(child[1])))
    return ended


# ── the guard ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _control(option: int, value: int) -> None:
    """Linux's prctl; elsewhere nothing happens."""
    with suppress(ImportError, OSError, AttributeError):
        import ctypes

        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _guard(link: socket.socket, command: list[str]) -> None:
    """Start the program, tell how it ends, and end all that is left once the link is closed."""
    link.set_inheritable(False)
    _control(_SUBREAPER, 1)
    _control(_DEATH_SIGNAL, signal.SIGCONT)  # if the program has stopped us, we still see that the link is closed
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # it wakes us
    program = _start(link, command)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):  # else the program's pipes would stay open after it has closed them
        os.dup2(nowhere, stream)
    while program:
        ready, _, _ = select.select([link, woken], [], [])
        if woken in ready and set(os.read(woken, 4096)) - {signal.SIGCHLD} or link in ready:
            break
        for pid, code in _reap():
            if pid == program:
                link.send(b"%16d" % code)
    _end_descendants()


def _start(link: socket.socket, command: list[str]) -> int:
    """The program's process, started; 0 if that fails. The link is told 0, or the number of the error."""
    failed, fail = os.pipe()  # closed when the program begins
    guard, program = os.getpid(), os.fork()
    if program == 0:
        try:
            os.setsid()
            _control(_DEATH_SIGNAL, signal.SIGKILL)
            if os.getppid() != guard:  # it has ended before that
                os._exit(127)
            for name in ("SIGPIPE", "SIGXFSZ"):  # which Python ignores
                signal.signal(getattr(signal, name), signal.SIG_DFL)
            os.execvp(command[0], command)
        except OSError as error:
            os.write(fail, b"%d" % error.errno)
        finally:
            os._exit(127)
    os.close(fail)
    error = os.read(failed, 16)
    link.send(b"%16d" % int(error or 0))
    return 0 if error else program


if __name__ == "__main__":
    with suppress(OSError):  # the other end is closed: all has ended
        _guard(socket.socket(fileno=int(sys.argv[1])), sys.argv[2:])
