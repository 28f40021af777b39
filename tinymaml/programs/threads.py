"""Threads: the tasks of a call are shared out among the caller and helpers, who take them from a common counter.

    failed = crew().run(job, nbytes, threads, seconds, refers_to)          # see `compiled.Machine.run`

The unit is a chunk of tasks. The caller publishes a job on the *board*, wakes helpers, and takes chunks itself until
none is left; so do the helpers that have come by then. At the end it waits for the chunks that another thread has
begun, and for nothing else: a helper that the system has not scheduled delays no call. Which thread took a chunk
changes no bit, since every chunk has its own place for sums. Any number of threads may call at the same time; each has
its own slot of the board. A helper that finds nothing to do sleeps, outside Python and without the interpreter's lock.

Machine code runs without that lock (`machine.serve`, `machine.work`). Everything they share is on the board, in
words of 64 bits that are read and written atomically; the most important one is a slot's *ticket*:

    bits 0-7    the next chunk            bits 16-23   how many helpers may still join
    bits 8-15   how many chunks there are     24-62    the generation: which job of this slot it is

To take a chunk is to replace the ticket by one with the next chunk, if no other thread has done so in between. A
ticket of another generation cannot be replaced, so a thread that comes late can do no harm, however late it comes.
"""

from __future__ import annotations

import _thread
import ctypes
import itertools
import os
import threading
import time
from collections import deque
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np

from .. import blas
from .source import IMPORTS

# Words of a slot.
#   TICKET: see above.   OFFER: the ticket with which a job begins.   DONE: how many chunks are complete.
#   FAILED: whether one of them has failed.   WAITING: the caller sleeps on LOCK until all chunks are complete.
#   JOB: where the job's description lies.   NBYTES: the memory that a thread needs for it.
#   BUDGET: how many chunks the caller runs in one visit, so that Ctrl-C is heard between visits.   BOARD: its address.
TICKET, LOCK, JOB, NBYTES, BUDGET, BOARD, OFFER, _, DONE, FAILED, WAITING = range(11)  # DONE begins a cache line
# Words of a job.
#   MOVES, MOVE_COUNT: the lists of steps.   FIRST_OF, CHUNKS: the number of each chunk's first task, how many chunks.
#   HEAD, HEAD_COUNT: what belongs into the head of a memory.
#   CONSTANTS, CONSTANTS_AT, CONSTANTS_BYTES: where they lie, where in a memory they are wanted, how many bytes.
#   PROGRAM: the number of the program to which the constants belong.
MOVES, MOVE_COUNT, FIRST_OF, CHUNKS, HEAD, HEAD_COUNT, CONSTANTS, CONSTANTS_AT, CONSTANTS_BYTES, PROGRAM = range(10)
# Words of an arena, the memory of one thread.  HOLDS: the program whose constants are in it.
MEMORY, SIZE, HOLDS = range(3)
# Words of a helper: whether it sleeps, the lock it sleeps on, its board, and two sets of processors: those on which it
# may run, and a place for another set.
# Words of the board: how many slots and helpers are in use; two functions of Python's locks; two of Linux, which tell
# and choose the processor of a thread (0: there are none); the processor of the last caller.
ASLEEP, BELL, CREW, ALLOWED = range(4)
SLOTS, HELPERS, ACQUIRE, RELEASE, PROCESSOR, CHOOSE, CALLERS = range(7)
SET = 16  # words of a set of processors
LINE = 16  # words of a slot, of a helper: two cache lines, so that they do not disturb each other
MOST = 64  # slots on the board, and helpers
FIRST_SLOT, FIRST_HELPER = LINE, LINE * (1 + MOST)
SERVE, START, WORK, CANCEL, WAKE = range(5)  # what the machine code is asked to do
# The machine code, which does what it is asked: `machine` has the functions.
RUNNER = f"""{IMPORTS}


@cfunc("int64(int64, int64, int64)", **OPTIONS)
def page0(what, place, arena):
    if what == {SERVE}:
        return machine.serve(place, arena)
    if what == {CANCEL}:
        machine.cancel(place)
        return 0
    if what == {WAKE}:
        machine.wake(place, arena)
        return 0
    return machine.work(place, arena, what == {START})
"""

SHORT = 40e-6  # seconds of work that are not worth waking a helper for
VISIT = 0.05  # seconds after which a caller looks for signals, about


def cores() -> int:
    """How many threads can run at once: the affinity of this thread, and what its container is granted."""
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(mine, granted(), _environment()))


_lately = (float("-inf"), 1)  # when `cores` was asked, and what it said


def cores_lately() -> int:
    """`cores`, asked at most every 50 ms: a system call in each of many short calls would be felt."""
    global _lately
    now = time.monotonic()
    if now - _lately[0] > 0.05:
        _lately = now, cores()
    return _lately[1]


def _environment() -> int:
    """`NUMBA_NUM_THREADS`, where it is set to a number."""
    text = os.environ.get("NUMBA_NUM_THREADS", "")
    return int(text) if text.isdecimal() and int(text) else MOST


@cache
def granted(root: Path = Path("/sys/fs/cgroup"), about: Path = Path("/proc/self/cgroup")) -> int:
    """CPUs that a control group's quota amounts to, at least 1; without a quota the largest possible number."""
    most = float(MOST)
    with suppress(OSError, ValueError):
        for line in about.read_text(encoding="utf-8").splitlines():
            _, controllers, name = line.split(":", 2)
            folder = root if not controllers else root / controllers
            if controllers and "cpu" not in controllers.split(","):
                continue
            inside = Path(name.lstrip("/"))
            for group in (inside, *inside.parents):  # a quota holds for all that is below
                with suppress(OSError, ValueError, ZeroDivisionError):
                    if not controllers:
                        quota, period = (folder / group / "cpu.max").read_text(encoding="utf-8").split()
                    else:
                        quota, period = (
                            (folder / group / f"cpu.cfs_{what}_us").read_text(encoding="utf-8")
                            for what in ("quota", "period")
                        )
                    if int(quota) > 0:  # "max", or −1: no limit
                        most = min(most, int(quota) / int(period))
    return max(1, int(most))


class Arena:
    """The memory that one thread runs programs in: of any program, one after the other."""

    def __init__(self):
        self.numbers = np.zeros(3, np.int64)
        self.address = address_of(self.numbers)

    def grow(self, nbytes: int) -> None:
        """Room for at least so many bytes, from a multiple of 64 on."""
        if self.numbers[SIZE] < nbytes:
            self.memory = np.zeros(nbytes + 64, np.uint8)  # NumPy's allocator asks for large pages
            start = -address_of(self.memory) % 64
            self.numbers[:] = address_of(self.memory) + start, nbytes, 0


class Crew:
    """The helpers of this process, the board, and the slots and arenas that callers can have.

    Everything here is a list or a deque whose `pop` and `append` are atomic, so that no lock is held during a call.
    """

    def __init__(self, entry: int):
        self.entry = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)(entry)
        words = FIRST_HELPER + LINE * MOST
        allocate = ctypes.pythonapi.PyMem_RawCalloc  # never freed: a helper may sleep on when the interpreter ends
        allocate.restype, allocate.argtypes = ctypes.c_void_p, [ctypes.c_size_t, ctypes.c_size_t]
        self.address = allocate(words, 8)
        self.board = np.frombuffer((ctypes.c_int64 * words).from_address(self.address), np.int64)
        for word, name in ((ACQUIRE, "PyThread_acquire_lock"), (RELEASE, "PyThread_release_lock")):
            self.board[word] = ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value
        with suppress(AttributeError, OSError, TypeError):  # Linux has it
            linux = ctypes.CDLL(None)
            chosen = [ctypes.cast(f, ctypes.c_void_p).value for f in (linux.sched_getcpu, linux.sched_setaffinity)]
            self.board[[PROCESSOR, CHOOSE]] = chosen
        self.slots: deque[Slot] = deque()
        self.arenas: list[Arena] = []
        self.numbers = itertools.count()
        self.growing = threading.Lock()
        self.live: dict[Slot, tuple] = {}  # what a job in the hands of helpers refers to

    def run(self, job: np.ndarray, nbytes: int, threads: int, seconds: float, refers_to: object) -> bool:
        """Run all chunks of a job, and say whether one of them failed.

        Args:
            job: its description, int64.   nbytes: the memory that each thread needs.
            threads: how many threads may take its chunks, the caller among them.
            seconds: what one thread takes for all of it, about; infinite where that is not known.
            refers_to: what owns the addresses in the job; it is kept until no helper can see them.
        """
        chunks = int(job[CHUNKS])
        slot = self.slots.pop() if self.slots else Slot(self)
        arena = self.arenas.pop() if self.arenas else Arena()
        arena.grow(nbytes)
        helpers = min(threads, chunks) - 1 if slot.seen else 0
        if helpers > self.board[HELPERS]:
            self.hire(helpers)
        self.live[slot] = job, refers_to
        words = slot.words
        words[DONE : WAITING + 1] = 0
        words[JOB], words[NBYTES], words[BUDGET] = address_of(job), nbytes, 1 + int(VISIT / seconds * chunks)
        words[OFFER] = (slot.next_generation() << 24) + (helpers << 16) + (chunks << 8)
        what, complete = START, False
        try:
            while self.entry(what, slot.address, arena.address):
                what = WORK
                if _crew is not self:
                    raise RuntimeError("the process was forked in the middle of this call")
            complete = True
            return bool(words[FAILED])
        finally:
            if not complete and _crew is self:  # Ctrl-C, for example
                self.entry(CANCEL, slot.address, arena.address)
            del self.live[slot]  # no thread has the job any more
            self.slots.append(slot)
            self.arenas.append(arena)

    def wake(self, helpers: int) -> None:
        """Say that a job is coming."""
        self.entry(WAKE, self.address, helpers)

    def hire(self, count: int) -> None:
        """As many helpers as asked for, or as can be had."""
        with self.growing, suppress(RuntimeError):  # no more threads, or the interpreter ends
            for i in range(int(self.board[HELPERS]), min(count, MOST)):
                at = FIRST_HELPER + LINE * i
                self.board[at + BELL] = _lock()
                _thread.start_new_thread(self.serve, (self.address + 8 * at,))
                self.board[HELPERS] = i + 1

    def serve(self, helper: int) -> None:
        """The work of a helper, without end: machine code, which returns only for want of memory."""
        arena = Arena()
        for library in blas.scipys():
            if library.each_thread:
                library.write(1)
        sets = np.zeros(2 * SET, np.int64)
        if hasattr(os, "sched_getaffinity"):
            for processor in os.sched_getaffinity(0):
                if processor < 64 * SET:
                    sets[:SET].view(np.uint64)[processor // 64] |= np.uint64(1 << processor % 64)
        words = np.frombuffer((ctypes.c_int64 * LINE).from_address(helper), np.int64)
        words[[CREW, ALLOWED]] = self.address, address_of(sets)
        while True:
            try:
                arena.grow(self.entry(SERVE, helper, arena.address))
            except MemoryError:  # the callers go on without this one
                return


class Slot:
    """A place on the board for one job at a time; beyond MOST of them, a place that no helper sees."""

    def __init__(self, crew: Crew):
        number = next(crew.numbers)
        self.seen = number < MOST
        at = FIRST_SLOT + LINE * number
        self.words = crew.board[at : at + LINE] if self.seen else np.zeros(LINE, np.int64)
        self.address = address_of(self.words)
        self.words[LOCK], self.words[BOARD] = _lock(), crew.address
        self.generation = 0
        if self.seen:
            with crew.growing:
                crew.board[SLOTS] = max(int(crew.board[SLOTS]), number + 1)

    def next_generation(self) -> int:
        self.generation += 1
        return self.generation


def _lock() -> int:
    """The address of one of Python's locks, taken: machine code can wait for it without the interpreter's lock."""
    python = ctypes.pythonapi
    python.PyThread_allocate_lock.restype = ctypes.c_void_p
    python.PyThread_acquire_lock.argtypes = [ctypes.c_void_p, ctypes.c_int]
    lock = python.PyThread_allocate_lock()
    if not lock:
        raise MemoryError("no lock can be had")
    python.PyThread_acquire_lock(lock, 0)
    return lock


_crew: Crew | None = None
_hiring = threading.Lock()


def crew() -> Crew:
    """That of this process; a forked child, which has none of its parent's threads, has one of its own."""
    global _crew
    if _crew is None:
        from .cache import load

        entry = load(RUNNER).address(0)
        with _hiring:
            _crew = _crew or Crew(entry)
    return _crew


def _forget() -> None:
    global _crew, _hiring
    _crew, _hiring = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def _slow_address(x: np.ndarray) -> int:
    return x.__array_interface__["data"][0]


def _fast_address(x: np.ndarray) -> int:
    # an array begins with what every object has, then comes the pointer to its data
    return _pointer_at(id(x) + object.__basicsize__).value


_pointer_at = ctypes.c_ssize_t.from_address
_here = np.zeros(3)
# Where the data of an array lies.
address_of = _fast_address if _fast_address(_here) == _slow_address(_here) else _slow_address
