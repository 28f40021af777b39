"""Threads: any number of callers, helpers that come late or never, forks and signals; BLAS keeps its own threads."""

import asyncio
import contextlib
import ctypes
import os
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import tinymaml as tm
from tinymaml import blas
from tinymaml.nest import tree_leaves

pytest.importorskip("numba")
pytest.importorskip("scipy")
from test_schedule import plain_python  # noqa: E402

from tinymaml.programs import machine, threads  # noqa: E402
from tinymaml.programs.placement import CHUNK, TASK  # noqa: E402

HERE = {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
FORKS = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")


pytestmark = pytest.mark.usefixtures("own_cache")


def loss(w, x, y):
    return np.mean((np.tanh(x @ w["a"]) @ w["b"] - y) ** 2)


def problem(tasks=40, width=20, seed=0):
    """(meta, params, tasks): long enough that two threads are worth while."""
    rng = np.random.default_rng(seed)
    params = {"a": rng.standard_normal((3, width)), "b": rng.standard_normal((width, 2)) / width}
    draw = lambda *shape: rng.standard_normal((tasks, *shape))  # noqa: E731
    meta = tm.meta_value_and_grad(loss, inner_lr=0.05, inner_steps=3)
    return meta, params, ((draw(30, 3), draw(30, 2)), (draw(20, 3), draw(20, 2)))


def bits(result) -> list[bytes]:
    return [np.asarray(x).tobytes() for x in tree_leaves(result)]


@pytest.fixture(scope="module")
def ready():
    """A compiled meta-gradient that has been called, its arguments, and the bits of its result on one thread."""
    meta, params, tasks = problem()
    fast = tm.compile(meta, threads=4)
    for _ in range(3):  # it learns how long a call takes
        fast(params, tasks)
    return fast, params, tasks, bits(tm.compile(meta, threads=1)(params, tasks))


# ── who takes a chunk changes nothing ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "count", [1, 3, 100, *(pytest.param(count, marks=pytest.mark.slow) for count in (2, 7, 40, 64))]
)
def test_results_are_the_same_bits_for_any_number_of_threads(count):
    meta, params, tasks = problem(count)
    wanted = bits(tm.compile(meta, threads=1)(params, tasks))
    for n in (2, 3, 8, 40):
        fast = tm.compile(meta, threads=n)
        assert all(bits(fast(params, tasks)) == wanted for _ in range(10))


class Asleep(Exception):
    """A helper has gone to sleep."""


@pytest.mark.parametrize("place", ["elsewhere", "unknown", "the caller's", "the caller's; another is free",
                                   "the caller's; another is full"])  # fmt: skip
def test_a_helper_takes_chunks_unless_it_cannot_leave_the_caller_s_processor(place, monkeypatch):
    """`machine.serve` in Python: a job of three chunks of two tasks each is on the board, with room for one helper."""
    with plain_python() as plain:
        tasks, memory = [], np.zeros(64, np.int64)

        def step(kernel, memory_, at):
            tasks.append((int(memory[CHUNK]), int(memory[TASK])))
            return 0

        plain.functions.append(step)
        steps = np.array([len(plain.functions), 0, 3, 0], np.int64)
        moves, first_of, head = np.array([plain.address(steps)]), np.array([0, 2, 4, 6]), np.zeros(1, np.int64)
        job = np.array([plain.address(moves), 1, plain.address(first_of), 3, plain.address(head), 1, 0, 0, 0, 7])
        board = np.zeros(threads.FIRST_HELPER + threads.LINE, np.int64)
        at = plain.address(board)
        board[[threads.SLOTS, threads.HELPERS, threads.CALLERS]] = 1, 1, 5
        slot, helper = board[threads.FIRST_SLOT :], board[threads.FIRST_HELPER :]
        slot[[threads.JOB, threads.BOARD]] = plain.address(job), at
        slot[threads.TICKET] = (1 << 24) + (1 << 16) + (3 << 8)
        allowed = np.zeros(2 * threads.SET, np.int64)
        allowed[0] = 1 << 5 if place == "the caller's" else 1 << 4 | 1 << 5
        helper[[threads.CREW, threads.ALLOWED]] = at, plain.address(allowed)
        arena = np.array([plain.address(memory), memory.nbytes, 7])

        places = [{"elsewhere": 4, "unknown": -1}.get(place, 5)]

        def choose(function, processors):
            places.append({"free": 4, "full": 5}[place.partition("; another is ")[2]])
            return 0

        def sleep(function, lock):
            raise Asleep

        monkeypatch.setattr(machine, "call_with", sleep)
        monkeypatch.setattr(machine, "pause", lambda: None)
        monkeypatch.setattr(machine, "processor", lambda board: places[-1])
        monkeypatch.setattr(machine, "choose_from", choose)
        with pytest.raises(Asleep):
            machine.serve(at + 8 * threads.FIRST_HELPER, plain.address(arena))
    took = 3 if place in ("elsewhere", "unknown", "the caller's; another is free") else 0
    assert allowed[threads.SET] == (1 << 4 if "another" in place else 0)
    assert tasks == [(task // 2, task) for task in range(2 * took)]
    assert slot[threads.DONE] == took and helper[threads.ASLEEP] == 1


def test_a_call_does_not_wait_for_helpers_that_never_come(ready, monkeypatch):
    fast, params, tasks, wanted = ready
    crew = threads.Crew(ctypes.cast(threads.crew().entry, ctypes.c_void_p).value)
    monkeypatch.setattr(threads, "_crew", crew)
    monkeypatch.setattr(crew, "serve", lambda helper: time.sleep(60))  # it has been started, and is not scheduled
    done = []
    caller = threading.Thread(target=lambda: done.extend(bits(fast(params, tasks)) for _ in range(5)), daemon=True)
    caller.start()
    caller.join(30)
    assert done == [wanted] * 5


def test_short_calls_use_one_thread():
    meta, params, tasks = problem(tasks=2, width=2)
    fast = tm.compile(meta, threads=2)
    fast(params, tasks)
    (runner,) = fast.runners.values()
    runner.seconds = 0.4 * threads.SHORT
    assert [runner._threads(n) for n in (1, 2, 3)] == [1, 1, 2]
    runner.seconds = np.inf  # not known yet
    assert [runner._threads(n) for n in (1, 2, 3)] == [1, 2, 2]


# ── many callers ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_one_function_in_many_threads_at_once(ready):
    fast, params, tasks, wanted = ready
    with ThreadPoolExecutor(12) as pool:
        assert all(out == wanted for out in pool.map(lambda _: bits(fast(params, tasks)), range(120)))


def test_functions_first_called_in_threads_of_their_own():
    problems = [problem(width=5 + i, seed=i) for i in range(4)]
    wanted = [bits(tm.compile(meta, threads=1)(*args)) for meta, *args in problems]
    barrier, out = threading.Barrier(4), [None] * 4

    def first(i):
        meta, *args = problems[i]
        fast = tm.compile(meta)
        barrier.wait()
        out[i] = [bits(fast(*args)) for _ in range(10)]

    callers = [threading.Thread(target=first, args=(i,)) for i in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(120)
    assert out == [[w] * 10 for w in wanted]


def test_more_callers_than_there_are_slots(ready):
    """Those that find no place on the board work alone."""
    fast, params, tasks, wanted = ready
    crew = threads.crew()
    taken = [crew.slots.pop() for _ in range(len(crew.slots))]
    places = [threads.Slot(crew) for _ in range(threads.MOST + 3)]
    assert not places[-1].seen
    crew.slots.extend(places[-2:])
    assert bits(fast(params, tasks)) == wanted
    crew.slots.clear()
    crew.slots.extend(taken)
    assert bits(fast(params, tasks)) == wanted


def test_calls_in_asyncio(ready):
    fast, params, tasks, wanted = ready

    async def together():
        return await asyncio.gather(*(asyncio.to_thread(fast, params, tasks) for _ in range(30)))

    assert all(bits(out) == wanted for out in asyncio.run(together()))


def test_two_programs_by_turns_share_a_memory():
    """What one leaves in the memory of a thread, the other does not see; constants come back."""
    rng = np.random.default_rng(0)
    x, a, b = rng.standard_normal((3, 50))
    f, g = tm.compile(lambda x: np.sum(np.tanh(x) * a)), tm.compile(lambda x: np.cumsum(x * b)[::-1] + b)
    for _ in range(4):
        np.testing.assert_allclose(f(x), np.sum(np.tanh(x) * a), rtol=1e-13)
        np.testing.assert_allclose(g(x), np.cumsum(x * b)[::-1] + b, rtol=1e-12)


# ── signals ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_interrupted_call_leaves_everything_usable(ready, monkeypatch):
    fast, params, tasks, wanted = ready
    monkeypatch.setattr(threads, "VISIT", 0.0)  # a look for signals after every chunk
    crew = threads.crew()
    entry, visits = crew.entry, []

    def interrupted(what, place, arena):
        out = entry(what, place, arena)
        visits.append(what)
        if what == threads.START:
            raise KeyboardInterrupt
        return out

    slots = len(crew.slots)
    monkeypatch.setattr(crew, "entry", interrupted)
    for _ in range(20):
        with pytest.raises(KeyboardInterrupt):
            fast(params, tasks)
        assert visits[-1] == threads.CANCEL
    monkeypatch.setattr(crew, "entry", entry)
    assert len(crew.slots) == slots and not crew.live
    assert all(bits(fast(params, tasks)) == wanted for _ in range(5))


PROGRAM = """
import os, signal, sys, threading, time, warnings
import numpy as np, tinymaml as tm
warnings.simplefilter("ignore", DeprecationWarning)  # Python's own, about forks and threads

def loss(w, x, y):
    return np.mean((np.tanh(x @ w) - y) ** 2)

def bits(out):
    return [x.tobytes() for x in out]

rng = np.random.default_rng(0)
draw = lambda n, *shape: rng.standard_normal((n, *shape))
w = rng.standard_normal((30, 20))
tasks = (draw(60, 50, 30), draw(60, 50, 20)), (draw(60, 40, 30), draw(60, 40, 20))
fast = tm.compile(tm.meta_value_and_grad(loss, inner_lr=0.1, inner_steps=5), threads=2)
wanted = bits(fast(w, tasks))
"""


def run(program: str, timeout: float = 120, **environment) -> subprocess.CompletedProcess:
    source = PROGRAM + textwrap.dedent(program)
    out = subprocess.run([sys.executable, "-c", source], capture_output=True, encoding="utf-8", timeout=timeout,
                         env=os.environ | HERE | environment)  # fmt: skip
    assert out.returncode == 0, out.stderr
    return out


def test_control_c_ends_a_long_call_before_its_last_chunk():
    out = run("""
        from tinymaml.programs import threads
        copies, whole = 20, 0
        while whole < 0.2:  # long enough for a signal that comes soon after its beginning
            copies = int(copies * min(max(0.24 / whole, 1.2), 5)) if whole else copies
            long = tm.tree_map(lambda x: np.concatenate([x] * copies), tasks)
            started = time.perf_counter()
            fast(w, long)
            whole = time.perf_counter() - started
        slot = threads.crew().slots[-1]
        chunks = int(slot.words[threads.OFFER]) >> 8 & 255
        print("whole", chunks - slot.words[threads.DONE])
        threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            fast(w, long)
            print("not interrupted")
        except KeyboardInterrupt:
            print("left", "none" if slot.words[threads.DONE] == chunks else "some")
        assert bits(fast(w, tasks)) == wanted
    """)
    assert "whole 0\n" in out.stdout and ("left some" in out.stdout or "not interrupted" in out.stdout)


def test_the_interpreter_ends_with_helpers_asleep_or_at_work():
    for _ in range(2):
        run("""
            threading.Thread(target=lambda: [fast(w, tasks) for _ in range(100)], daemon=True).start()
            fast(w, tasks)
        """)


# ── forks ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@FORKS
@pytest.mark.parametrize("forks", [2, pytest.param(12, marks=pytest.mark.slow)])
def test_a_fork_while_other_threads_are_inside_calls(forks):
    out = run(
        """
        stop = []
        def call_on():
            while not stop:
                fast(w, tasks)
        callers = [threading.Thread(target=call_on) for _ in "ab"]
        for caller in callers:
            caller.start()
        for _ in range(FORKS):
            child = os.fork()
            if not child:
                ok = all(bits(fast(w, tasks)) == wanted for _ in range(3))
                ok = ok and [type(runner).__name__ for runner in fast.runners.values()] == ["Machine"]
                other = tm.compile(lambda x: np.sum(np.sin(x)))  # compiled in the child
                os._exit(0 if ok and np.isclose(other(np.ones(3)), 3 * np.sin(1)) else 1)
            deadline = time.time() + 60
            while not (done := os.waitpid(child, os.WNOHANG))[0] and time.time() < deadline:
                time.sleep(0.01)
            print("status", done[1] if done[0] else "hangs", flush=True)
            if not done[0]:
                os.kill(child, signal.SIGKILL)
        stop.append(True)
    """.replace("FORKS", str(forks))
    )
    assert out.stdout.split("\n")[:-1] == ["status 0"] * forks


@FORKS
def test_a_fork_while_another_thread_compiles_is_replayed():
    out = run("""
        from tinymaml.programs import compiled
        inside, go = threading.Event(), threading.Event()
        def hold():
            with compiled._building():
                inside.set(); go.wait()
        threading.Thread(target=hold, daemon=True).start()
        inside.wait()
        child = os.fork()
        if not child:
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                out = tm.compile(lambda x: np.sum(np.sin(x)))(np.ones(3))
            assert bits(fast(w, tasks)) == wanted
            assert np.isclose(out, 3 * np.sin(1)) and "forked" in str(said[0].message)
            os._exit(0)
        print("status", os.waitpid(child, 0)[1])
        go.set()
    """)
    assert out.stdout == "status 0\n"


def test_spawned_processes(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent("""
        import multiprocessing
        import numpy as np, tinymaml as tm
        def f(x):
            return np.tanh(x) ** 2
        fast = tm.compile(f)
        if __name__ == "__main__":
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                assert len({x.tobytes() for x in [fast(np.ones(4)), *pool.map(fast, [np.ones(4)] * 2)]}) == 1
            print("done")
    """), encoding="utf-8")  # fmt: skip
    out = subprocess.run([sys.executable, str(script)], capture_output=True, encoding="utf-8", timeout=120,
                         env=os.environ | HERE)  # fmt: skip
    assert out.stdout == "done\n", out.stderr


# ── how many threads ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="there is no affinity here")
def test_the_affinity_of_the_process_decides(monkeypatch):
    monkeypatch.delenv("NUMBA_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "granted", lambda: threads.MOST)
    mine = os.sched_getaffinity(0)
    try:
        for n in range(1, len(mine) + 1):
            os.sched_setaffinity(0, sorted(mine)[:n])
            assert threads.cores() == n
    finally:
        os.sched_setaffinity(0, mine)
    monkeypatch.setenv("NUMBA_NUM_THREADS", "1")
    assert threads.cores() == 1


@pytest.mark.parametrize(
    ("quota", "cpus"),
    [("max 100000", 64), ("150000 100000", 1), ("200000 100000", 2), ("50000 100000", 1), ("junk", 64)],
)
@pytest.mark.parametrize("where", ["", "pod/a", "pod"])
def test_a_container_s_quota_counts(tmp_path, quota, cpus, where):
    about, root = tmp_path / "cgroup", tmp_path / "fs"
    (root / "pod" / "a").mkdir(parents=True)
    about.write_text("0::/pod/a\n", encoding="utf-8")
    (root / where / "cpu.max").write_text(quota, encoding="utf-8")
    assert threads.granted(root, about) == cpus


def test_a_quota_of_the_older_kind_counts(tmp_path):
    about, folder = tmp_path / "cgroup", tmp_path / "cpu,cpuacct" / "x"
    folder.mkdir(parents=True)
    about.write_text("4:memory:/x\n3:cpu,cpuacct:/x\n", encoding="utf-8")
    (folder / "cpu.cfs_quota_us").write_text("300000\n", encoding="utf-8")
    (folder / "cpu.cfs_period_us").write_text("100000\n", encoding="utf-8")
    assert threads.granted(tmp_path, about) == 3
    assert threads.granted(tmp_path, tmp_path / "absent") == threads.MOST


# ── BLAS ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def numbers() -> list[int]:
    return [library.read() for library in blas.libraries()]


@contextlib.contextmanager
def blas_threads(n: int):
    before = numbers()
    try:
        for library in blas.libraries():
            library.write(n)
        yield
    finally:
        for library, k in zip(blas.libraries(), before, strict=True):
            library.write(k)


def test_blas_has_one_thread_inside_and_what_it_had_before_outside():
    with blas_threads(2):
        seen = []

        def look():
            with blas.one_thread(blas.libraries()):
                seen.append(numbers())
                with blas.one_thread(blas.libraries()[:1]):
                    seen.append(numbers())
                seen.append(numbers())

        for _ in range(3):
            look()
        for _ in range(3):
            other = threading.Thread(target=look)
            other.start()
            other.join()
        assert all(n == [1] * len(numbers()) for n in seen) and len(seen) == 18
        assert numbers() == [2] * len(numbers())


def test_the_limit_lasts_until_the_last_user_is_gone():
    with blas_threads(2):
        inside, go = threading.Event(), threading.Event()

        def use():
            with blas.one_thread(blas.libraries()):
                inside.set()
                go.wait(60)

        other = threading.Thread(target=use)
        other.start()
        inside.wait(60)
        with blas.one_thread(blas.libraries()):
            pass
        assert numbers() == [1] * len(numbers())
        go.set()
        other.join()
        assert numbers() == [2] * len(numbers())


def test_an_exception_in_the_block_gives_the_threads_back():
    with blas_threads(2):
        with pytest.raises(KeyboardInterrupt), blas.one_thread(blas.libraries()):
            raise KeyboardInterrupt
        assert numbers() == [2] * len(numbers())


def test_a_library_that_does_not_take_the_limit_is_named():
    deaf = blas.Library("/lib/deaf.so", lambda: 4, lambda n: None, False)
    message = "/lib/deaf.so was asked to use 1 thread, and uses 4"
    with pytest.raises(RuntimeError, match=message), blas.one_thread([deaf]):
        pass


def test_calls_from_any_thread_have_the_same_bits_and_leave_blas_as_it_was():
    """OpenBLAS on two threads adds in another order, and threadpoolctl obeys the first thread alone."""
    out = run("""
        import threadpoolctl
        with threadpoolctl.threadpool_limits(2):
            pass
        rng = np.random.default_rng(0)
        x, y, w = rng.standard_normal((4000, 300)), rng.standard_normal((4000, 200)), rng.standard_normal((300, 200))
        f = tm.compile(tm.grad(lambda w, x, y: np.mean((x @ w - y) ** 2)))
        from tinymaml import blas
        f(w, x, y)
        for library in blas.libraries():
            library.write(2)
        first, rest = f(w, x, y), []
        for _ in range(3):
            caller = threading.Thread(target=lambda: rest.append(f(w, x, y)))
            caller.start(); caller.join()
        assert {a.tobytes() for a in (first, *rest)} == {first.tobytes()} and len(rest) == 3
        print({library.read() for library in blas.libraries()})
    """, OPENBLAS_NUM_THREADS="2")  # fmt: skip
    assert out.stdout == "{2}\n"


@FORKS
def test_a_fork_inside_the_block_of_another_thread_gives_the_threads_back():
    out = run("""
        from tinymaml import blas
        for library in blas.libraries():
            library.write(2)
        inside, go = threading.Event(), threading.Event()
        def use():
            with blas.one_thread(blas.libraries()):
                inside.set(); go.wait()
        threading.Thread(target=use, daemon=True).start()
        inside.wait()
        child = os.fork()
        if not child:
            os._exit(0 if {library.read() for library in blas.libraries()} == {2} else 1)
        print(os.waitpid(child, 0)[1])
        go.set()
    """, OPENBLAS_NUM_THREADS="2")  # fmt: skip
    assert out.stdout == "0\n"
