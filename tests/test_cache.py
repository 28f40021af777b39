"""What is kept on disk: taken if it is right, never run if it is not, and done without where there is no folder for it.

A damaged file could end the process that loads it, so most of these load in processes of their own.
"""

import contextlib
import ctypes
import hashlib
import os
import pickle
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from test_compile import python, result, start

import tinymaml as tm
from tinymaml import cli, kernels
from tinymaml.programs import cache, direct, source
from tinymaml.programs.cache import MAGIC, Objects, Store, key_of, load, object_file, objects_in
from tinymaml.programs.views import Unsupported

FUNCTION = direct.FUNCTION
POSIX = pytest.mark.skipif(os.name != "posix", reason="there are no such rights here")
ROOT = os.name == "posix" and os.geteuid() == 0


def files(folder) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}


def copied(folder, to) -> dict[str, bytes]:
    """The files of a cache folder, and the same in another."""
    programs = files(folder)
    (to / "programs").mkdir(mode=0o700)
    for name, data in programs.items():
        (to / name).write_bytes(data)
        (to / name).chmod(0o600)
    to.chmod(0o700)
    return programs


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A folder in which a program is kept, and what it prints."""
    folder = tmp_path_factory.mktemp("kept")
    out = result(start(folder))
    assert out.startswith("Machine")
    return folder, out


# A program that loads the smallest text there is, and prints what it computes: for what is about the folder alone.
LOADING = """
import os, sys
from ctypes import addressof, c_int64
from tinymaml.programs import CacheWarning, cache, direct, source

def fast():
    step = (c_int64 * 4)(0, 0, 4, 5)
    code = cache.load(source.kernel_file("failed = t[3] * 3"))
    return direct.FUNCTION(code.address(0))(0, 0, addressof(step))
"""
PRINTING = "\nprint(fast())"


def loading(folder, program=PRINTING, **how) -> subprocess.Popen:
    return python(folder, LOADING + program, **how)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A folder in which that text is kept."""
    folder = tmp_path_factory.mktemp("small")
    assert result(loading(folder)) == "15"
    return folder


def text_of(factor: int, terms: int = 0) -> str:
    """A small text, whose page returns t[3] · factor."""
    return source.kernel_file(f"failed = t[3] * {factor}" + " + 0 * t[3]" * terms)


def call(code, x: int) -> int:
    step = (ctypes.c_int64 * 4)(0, 0, 4, x)
    return FUNCTION(code.address(0))(0, 0, ctypes.addressof(step))


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """A function that forgets what the process has loaded and said; the cache folder is `tmp_path / "cache"`."""
    monkeypatch.setenv("TINYMAML_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TINYMAML_CACHE_SIZE", raising=False)

    def forget():
        monkeypatch.setattr(cache, "_loaded", {})
        monkeypatch.setattr(cache, "_said", set())

    forget()
    return forget


@contextlib.contextmanager
def compilations(monkeypatch):
    """The list of texts that are compiled meanwhile."""
    texts, compile_ = [], cache._compile
    with monkeypatch.context() as patch:
        patch.setattr(cache, "_compile", lambda text, path: texts.append(text) or compile_(text, path))
        yield texts


# ── what is right is taken ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_second_process_takes_what_the_first_has_compiled(kept):
    folder, out = kept
    before = files(folder)
    assert {name.rpartition(".")[2] for name in before} == {"py", "code"}
    assert result(start(folder)) == out
    assert files(folder) == before


def test_what_is_kept_is_loaded_without_numba(kept):
    folder, _ = kept
    program = f"""
from pathlib import Path
from tinymaml.programs.cache import load
for path in Path({str(folder)!r}).rglob("*.py"):
    assert load(path.read_text(encoding="utf-8")).address(0)
print("numba" in sys.modules)
"""
    assert result(start(folder, program)) == "False"


def test_what_has_changed_is_compiled_to_files_of_its_own(small, tmp_path):
    before = copied(small, tmp_path)
    assert result(python(tmp_path, (LOADING + PRINTING).replace("* 3", "* 4"))) == "20"
    after = files(tmp_path)
    assert before.items() <= after.items() and len(after) == len(before) + 2
    assert result(loading(tmp_path)) == "15"


def test_two_kinds_of_processor_have_files_of_their_own(small, tmp_path):
    before = copied(small, tmp_path)
    generic = dict(NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES="")
    assert result(loading(tmp_path, **generic)) == "15"
    after = files(tmp_path)
    assert before.items() <= after.items() and len(after) == len(before) + 2
    assert (result(loading(tmp_path)), result(loading(tmp_path, **generic))) == ("15", "15")
    assert files(tmp_path) == after


@pytest.mark.parametrize("name", ["programs", "numba", "numpy", "python", "cpu", "settings"])
def test_the_key_changes_with_all_that_the_code_depends_on(name, monkeypatch):
    key, surroundings = key_of("text"), cache._surroundings()
    assert key_of("text ") != key == key_of("text")
    monkeypatch.setattr(cache, "_surroundings", lambda: surroundings | {name: "another"})
    assert key_of("text") != key


@pytest.mark.slow
def test_several_processes_may_begin_at_once(kept, tmp_path):
    several = [start(tmp_path) for _ in range(4)]
    assert [result(process) for process in several] == [kept[1]] * 4
    assert len(files(tmp_path)) == 6 and files(tmp_path).keys() <= files(kept[0]).keys()  # no temporary ones


def test_several_processes_may_load_one_text_at_once(tmp_path):
    several = [loading(tmp_path) for _ in range(2)]
    assert [result(process) for process in several] == ["15"] * 2
    assert len(files(tmp_path)) == 2  # no temporary ones


def test_threads_may_each_load_first_what_others_load_first(tmp_path):
    program = """
import threading
functions = [tm.compile(tm.value_and_grad(lambda x, k=k: np.sum(np.tanh(k * x) ** 2))) for k in (2.5, 2.5, 3, 4)]
x, found, barrier = np.ones(3), {}, threading.Barrier(8)
def work(i):
    barrier.wait()
    found[i] = functions[i % 4](x)
threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
[t.start() for t in threads]; [t.join() for t in threads]
for i in range(8):
    value, grad = tm.value_and_grad(lambda x, k=(2.5, 2.5, 3, 4)[i % 4]: np.sum(np.tanh(k * x) ** 2))(x)
    np.testing.assert_allclose(found[i][0], value, rtol=1e-14)
    np.testing.assert_allclose(found[i][1], grad, rtol=1e-14)
print({type(r).__name__ for f in functions for r in f.runners.values()})
"""
    assert result(start(tmp_path, program)) == "{'Machine'}"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_child_forked_while_another_thread_compiles_can_compile(tmp_path):
    program = """
import threading, time, warnings
from tinymaml.programs import cache
from tinymaml.programs.source import kernel_file
warnings.simplefilter("ignore")  # Python's own, about forks and threads
begun, compile_ = threading.Event(), cache._compile
def slow(*args):
    begun.set()
    time.sleep(0.5)
    return compile_(*args)
cache._compile = slow
thread = threading.Thread(target=cache.load, args=(kernel_file("failed = 1"),))
thread.start()
begun.wait()
child = os.fork()
if not child:
    os._exit(7 if cache.load(kernel_file("failed = 2")).address(0) else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
thread.join()
"""
    assert result(start(tmp_path, program)) == "7"


def test_a_text_is_loaded_once_and_kept(fresh, monkeypatch):
    with compilations(monkeypatch) as texts:
        code = load(text_of(3))
        assert load(text_of(3)) is code and texts == [text_of(3)] and call(code, 5) == 15
        fresh()
        assert call(load(text_of(3)), 5) == 15 and len(texts) == 1


def test_what_numba_refuses_is_unsupported_and_its_source_can_be_read(fresh, tmp_path):
    text = source.kernel_file("failed = t + 'a'")
    with pytest.raises(Unsupported, match=f"Numba refuses .*{key_of(text)}.py"):
        load(text)
    assert [*files(tmp_path).values()] == [text.encode()]


def test_machine_code_that_numba_does_not_show_runs_and_is_not_kept(fresh, tmp_path, monkeypatch):
    from numba.core.codegen import CodeLibrary

    monkeypatch.delattr(CodeLibrary, "_get_compiled_object")
    with pytest.warns(tm.CacheWarning, match="does not show its machine code"):
        assert call(load(text_of(3)), 5) == 15
    assert not [*tmp_path.rglob("*.code")]


# ── what is not right is never run ──────────────────────────────────────────────────────────────────────────────────


def test_no_byte_may_differ_and_none_be_missing(fresh, tmp_path):
    load(text_of(3))
    (path,) = tmp_path.rglob("*.code")
    data, key = path.read_bytes(), key_of(text_of(3))
    assert objects_in(data, key) is not None
    for i in range(len(data)):
        for bit in (1, 128):
            assert objects_in(data[:i] + bytes([data[i] ^ bit]) + data[i + 1 :], key) is None
        assert objects_in(data[:i], key) is None
    assert objects_in(data + b"\0", key) is None and objects_in(None, key) is None


def test_what_is_packed_is_unpacked():
    objects = Objects(["a", "b"], [b"one", b""], ["sqrt"])
    assert objects_in(object_file(objects, "key"), "key") == objects
    assert objects_in(object_file(objects, "key"), "another") is None


@pytest.mark.parametrize("header", [b"", b"[]", b"{", b"{}", b'{"key": "key"}', b"[" * 50_000, b"\xff",
                                    b'{"key": "key", "symbols": ["a"], "calls": [], "lengths": [1000]}',
                                    b'{"key": "key", "symbols": [], "calls": [], "lengths": "a"}'])  # fmt: skip
def test_a_file_with_the_right_digest_and_another_header_is_refused(header):
    content = len(header).to_bytes(8, "little") + header
    assert objects_in(MAGIC + hashlib.sha256(content).digest() + content, "key") is None


def damage(data: bytes, how: str) -> bytes:
    rng = np.random.default_rng(0)
    if how == "cut":
        return data[: len(data) // 2]
    if how == "scrambled":
        return rng.permutation(np.frombuffer(data, np.uint8)).tobytes()
    if how == "zeros":
        return bytes(len(data))
    if how == "empty":
        return b""
    at = {"magic": 3, "digest": 20, "length": 50, "header": 200, "code": len(data) - 1000}[how]
    return data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]


def whole_again(folder, whole: dict[str, bytes]) -> list[str]:
    """The files that are as they were; object code may be compiled to other bytes."""
    again = files(folder)
    return [name for name in whole if again[name] == whole[name] or name.endswith(".code") and objects_in(
        again[name], Path(name).stem)]  # fmt: skip


@pytest.mark.parametrize("how", ["cut", *(pytest.param(how, marks=pytest.mark.slow) for how in (
    "code", "zeros", "digest", "scrambled", "empty", "magic", "length", "header"
))])  # fmt: skip
def test_damaged_files_are_written_anew_and_what_is_computed_is_right(small, tmp_path, how):
    whole = copied(small, tmp_path)
    for name, data in whole.items():
        (tmp_path / name).write_bytes(damage(data, how))
    assert result(loading(tmp_path)) == "15"
    assert whole_again(tmp_path, whole) == [*whole]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["code", "cut", "zeros"])
def test_damaged_files_are_written_anew_and_the_program_is_right(kept, tmp_path, how):
    whole = copied(kept[0], tmp_path)
    for name, data in whole.items():
        (tmp_path / name).write_bytes(damage(data, how))
    assert result(start(tmp_path)) == kept[1]
    assert len(whole_again(tmp_path, whole)) >= 4  # of the program's two texts


def test_one_bit_anywhere_is_found_before_anything_runs(fresh, tmp_path, monkeypatch):
    """Header and object code, bit by bit: each time it is compiled again, and the file is whole again."""
    load(text_of(3))
    (path,) = tmp_path.rglob("*.code")
    data, key = path.read_bytes(), key_of(text_of(3))
    with compilations(monkeypatch) as texts:
        for i in np.linspace(0, len(data) - 1, 12).astype(int):
            path.write_bytes(data[:i] + bytes([data[i] ^ 16]) + data[i + 1 :])
            fresh()
            assert call(load(text_of(3)), 5) == 15
            assert objects_in(path.read_bytes(), key)
    assert len(texts) == 12


def test_another_programs_file_under_this_name_is_refused(fresh, tmp_path, monkeypatch):
    for factor in (3, 4):
        load(text_of(factor))
    mine, other = (tmp_path / "cache" / "programs" / f"{key_of(text_of(factor))}.code" for factor in (3, 4))
    foreign = other.read_bytes()
    mine.write_bytes(foreign)
    fresh()
    with compilations(monkeypatch) as texts:
        assert call(load(text_of(3)), 5) == 15 and call(load(text_of(4)), 5) == 20
    assert texts == [text_of(3)] and mine.read_bytes() != foreign == other.read_bytes()


def test_python_planted_in_the_source_never_runs_and_is_overwritten(small, tmp_path):
    whole = copied(small, tmp_path)
    marker = tmp_path / "marker"
    (path,) = (tmp_path / name for name in whole if name.endswith(".py"))
    path.write_text(f"open({str(marker)!r}, 'w')\n" + path.read_text(encoding="utf-8"), encoding="utf-8")
    assert result(loading(tmp_path)) == "15"
    for name in whole:  # and where it is compiled again
        if name.endswith(".code"):
            (tmp_path / name).unlink()
    path.write_text("syntax error (", encoding="utf-8")
    assert result(loading(tmp_path)) == "15"
    assert not marker.exists()
    assert path.read_bytes() == whole[f"programs/{path.name}"]


class Planted:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (self.marker, "w")


def test_pickles_planted_under_any_name_are_never_read(small, tmp_path):
    whole = copied(small, tmp_path)
    marker = str(tmp_path / "marker")
    planted = pickle.dumps(Planted(marker))
    former = tmp_path / "programs" / "__pycache__"
    former.mkdir()
    for name in whole:
        stem = Path(name).stem
        for kind in ("nbi", "1.nbc", "pyc"):
            (former / f"{stem}.page0-15.py311.{kind}").write_bytes(planted)
            (former / f"program_{stem[:16]}.page0-15.py311.{kind}").write_bytes(planted)
        if name.endswith(".code"):
            (tmp_path / name).write_bytes(planted)
    assert result(loading(tmp_path)) == "15"
    assert not Path(marker).exists()


@POSIX
@pytest.mark.parametrize("suffix", ["py", "code"])
def test_pipes_links_and_folders_in_place_of_a_file_are_not_read(fresh, tmp_path, suffix, monkeypatch):
    load(text_of(3))
    (path,) = tmp_path.rglob(f"*.{suffix}")
    data = path.read_bytes()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(data)
    for put, said in ((lambda: os.mkfifo(path), True), (path.mkdir, True), (lambda: path.symlink_to(elsewhere), False)):
        path.unlink()
        put()
        fresh()
        with warnings.catch_warnings(record=True) as record:
            warnings.simplefilter("always")
            assert call(load(text_of(3)), 5) == 15
        assert [x.category for x in record] == [tm.CacheWarning] * said  # a link is replaced by a file
        if path.is_dir():
            path.rmdir()
            path.touch()
    assert elsewhere.read_bytes() == data and not path.is_symlink()


@POSIX
def test_a_file_that_others_can_write_to_is_written_anew(fresh, tmp_path, monkeypatch):
    load(text_of(3))
    (path,) = tmp_path.rglob("*.code")
    path.chmod(0o666)
    fresh()
    with compilations(monkeypatch) as texts:
        assert call(load(text_of(3)), 5) == 15
    assert len(texts) == 1 and path.stat().st_mode & 0o777 == 0o600


# ── the folder ──────────────────────────────────────────────────────────────────────────────────────────────────────


@POSIX
@pytest.mark.parametrize("umask", [0, 0o022, 0o077, 0o777])
def test_what_is_created_is_its_owners_alone_whatever_the_umask(fresh, tmp_path, umask, monkeypatch):
    monkeypatch.setenv("TINYMAML_CACHE", str(tmp_path / "a" / "b" / "cache"))
    before = os.umask(umask)
    try:
        load(text_of(3))
    finally:
        os.umask(before)
    folders = [tmp_path / "a", *(p for p in tmp_path.rglob("*") if p.is_dir())]
    assert {p.stat().st_mode & 0o777 for p in folders} == {0o700}
    assert len(folders) == 5 and all(not p.stat().st_mode & 0o077 for p in tmp_path.rglob("*"))
    fresh()
    assert call(load(text_of(3)), 5) == 15


@POSIX
@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o770, 0o702])
@pytest.mark.parametrize("which", [".", "programs"])
def test_a_folder_that_others_can_write_to_is_not_used(fresh, tmp_path, which, mode, monkeypatch):
    load(text_of(3))
    folder = tmp_path / "cache" / which
    folder.chmod(mode)
    before = files(tmp_path)
    fresh()
    with compilations(monkeypatch) as texts, pytest.warns(tm.CacheWarning) as said:
        assert call(load(text_of(3)), 5) == 15 and call(load(text_of(4)), 5) == 20
    assert len(texts) == 2 and files(tmp_path) == before
    (message,) = (str(x.message) for x in said)
    assert message.endswith(f"others can write to {folder}: chmod go-w {folder}")
    subprocess.run(message.rpartition(": ")[2].split(), check=True)
    fresh()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert call(load(text_of(3)), 5) == 15


@pytest.mark.skipif(not ROOT, reason="only the superuser gives folders away")
@pytest.mark.parametrize("which", [".", "programs"])
def test_a_folder_of_another_user_is_not_used(fresh, tmp_path, which, monkeypatch):
    load(text_of(3))
    folder = tmp_path / "cache" / which
    os.chown(folder, 12345, 12345)
    fresh()
    with compilations(monkeypatch) as texts, pytest.warns(tm.CacheWarning, match=f"{folder} belongs to another user"):
        assert call(load(text_of(3)), 5) == 15
    assert len(texts) == 1


@pytest.mark.skipif(not ROOT, reason="only the superuser gives files away")
def test_a_file_of_another_user_is_not_used(fresh, tmp_path, monkeypatch):
    load(text_of(3))
    (path,) = tmp_path.rglob("*.code")
    os.chown(path, 12345, 12345)
    fresh()
    with compilations(monkeypatch) as texts:
        assert call(load(text_of(3)), 5) == 15
    assert len(texts) == 1 and path.stat().st_uid == os.geteuid()


def test_as_an_error_the_warning_is_all_that_is_raised_only_once_and_nothing_is_left(tmp_path):
    (tmp_path / "file").write_text("not a folder", encoding="utf-8")
    (tmp_path / "temporary").mkdir()
    program = f"""
try:
    fast()
except CacheWarning as said:
    assert {str(tmp_path / "file")!r} + " is not a folder" in str(said)
else:
    raise AssertionError("no warning")
{PRINTING}"""
    assert result(loading(tmp_path / "file", program, TMPDIR=str(tmp_path / "temporary"))) == "15"
    assert (tmp_path / "file").read_text(encoding="utf-8") == "not a folder"
    assert not [*(tmp_path / "temporary").iterdir()]


PLACES = {
    "a file": lambda p: (p / "cache").write_bytes(b""),
    "a file for programs": lambda p: (p / "cache").mkdir(0o700) or (p / "cache" / "programs").write_bytes(b""),
    "a link to itself": lambda p: (p / "cache").symlink_to(p / "cache"),
    "a dangling link": lambda p: (p / "cache").symlink_to(p / "nowhere"),
}


@POSIX
@pytest.mark.parametrize("what", PLACES)
def test_where_there_is_no_folder_it_is_done_without_and_one_warning_says_so(fresh, tmp_path, what):
    PLACES[what](tmp_path)
    before = files(tmp_path)
    with pytest.warns(tm.CacheWarning, match="compiled anew each time.*|cannot write to the cache folder") as said:
        assert [call(load(text_of(n)), 5) for n in (3, 4, 5)] == [15, 20, 25]
    assert len(said) == 1 and str(tmp_path / "cache") in str(said[0].message)
    assert files(tmp_path) == before


@pytest.mark.skipif(os.name != "posix" or ROOT, reason="nothing is read-only for the superuser")
def test_a_folder_that_is_read_only_is_done_without(tmp_path):
    tmp_path.chmod(0o500)
    try:
        assert result(loading(tmp_path, warn="ignore")) == "15"
        assert not files(tmp_path)
    finally:
        tmp_path.chmod(0o700)


def test_a_full_disk_is_done_without_and_one_warning_says_so(fresh, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.warns(tm.CacheWarning, match=r"cannot write to .*cache.programs \(No space left on device\)") as said:
        assert [call(load(text_of(n)), 5) for n in (3, 4)] == [15, 20]
    assert len(said) == 1 and not files(tmp_path)


@POSIX
@pytest.mark.parametrize("size", [1000, *(pytest.param(size, marks=pytest.mark.slow) for size in (0, 1))])
def test_a_limit_of_file_sizes_is_done_without(tmp_path, size):
    """With 1000 bytes the source is written, and the code is not."""
    program = f"""
import resource, warnings
sys.dont_write_bytecode = True  # Python would not see that it is cut
resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    fast()
assert [x.category for x in said if x.category is CacheWarning] == [CacheWarning], said
{PRINTING}"""
    assert result(loading(tmp_path, program)) == "15"
    assert {name.rpartition(".")[2] for name in files(tmp_path)} == ({"py"} if size == 1000 else set())


@pytest.mark.parametrize("folder", ["~nosuchuser/cache", pytest.param("", marks=pytest.mark.slow)])
def test_without_a_home_or_a_user_name_it_is_done_without(folder):
    program = f"""
import warnings
try:
    import pwd
    def nobody(_): raise KeyError("uid not found")
    pwd.getpwuid = nobody
except ImportError: pass
for name in ("HOME", "USERPROFILE", "HOMEPATH"): os.environ.pop(name, None)
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    fast()
(one,) = said
assert one.category is CacheWarning and "there is no home folder" in str(one.message), one
{PRINTING}"""
    assert result(loading(folder, program)) == "15"


# ── how much there is ───────────────────────────────────────────────────────────────────────────────────────────────


def names(tmp_path) -> set[str]:
    return {path.stem for path in (tmp_path / "cache" / "programs").iterdir()}


def test_the_least_recently_used_goes_first(fresh, tmp_path, monkeypatch):
    keys = {n: key_of(text_of(n)) for n in range(2, 7)}
    for n in (2, 3, 4):
        load(text_of(n))
        for path in tmp_path.rglob(f"{keys[n]}*"):
            os.utime(path, (1e9 + n, 1e9 + n))
    total = sum(map(len, files(tmp_path).values()))
    monkeypatch.setenv("TINYMAML_CACHE_SIZE", str(total + 100))
    fresh()
    load(text_of(2))  # is taken, and is now the last one used
    assert names(tmp_path) == {keys[2], keys[3], keys[4]}
    load(text_of(5))
    assert names(tmp_path) == {keys[2], keys[4], keys[5]}
    monkeypatch.setenv("TINYMAML_CACHE_SIZE", "1")
    load(text_of(6, 50))
    assert names(tmp_path) == {key_of(text_of(6, 50))}  # what was just written stays


@pytest.mark.parametrize("size", ["", "1e9", "-1", "1 GiB", "9" * 5000])
def test_a_limit_that_is_no_number_of_bytes_is_named(fresh, size, monkeypatch):
    monkeypatch.setenv("TINYMAML_CACHE_SIZE", size)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert [call(load(text_of(n)), 5) for n in (3, 4)] == [15, 20]
    if not size:  # as if it were not set
        assert not said
        return
    (one,) = said
    assert one.category is tm.CacheWarning
    assert str(one.message).startswith(f"TINYMAML_CACHE_SIZE is {size!r}, wanted a number of bytes")


def test_what_earlier_versions_and_killed_processes_left_is_swept(fresh, tmp_path):
    store = Store(tmp_path / "cache")
    load(text_of(3))
    key = key_of(text_of(3))
    (store.path / "__pycache__").mkdir()
    former = "program_0123456789abcdef"
    old = [store.path / f"{former}.py", store.path / "__pycache__" / f"{former}.page0-15.py311.nbi",
           store.path / f".{key}.code.0123abcd.tmp"]  # fmt: skip
    others = [store.path / "mine.txt", store.path / "program_of_mine.py", store.path / f".{key}.code.4567abcd.tmp"]
    for path in (*old, *others):
        path.write_bytes(b"x")
    os.utime(old[2], (time.time() - 7200,) * 2)
    load(text_of(4))
    assert not any(path.exists() for path in (*old, store.path / "__pycache__"))
    assert all(path.exists() for path in others)


def test_clearing_deletes_what_we_wrote_and_nothing_else(fresh, tmp_path, capsys):
    load(text_of(3))
    store = Store(tmp_path / "cache")
    (store.path / "mine").mkdir()
    others = {store.path / "a.txt", store.path / "README.py", store.root / "omniglot.npz", store.path / "mine/x"}
    for path in others:
        path.write_bytes(b"x")
    (store.path / f".{key_of(text_of(3))}.py.0123abcd.tmp").write_bytes(b"x")
    (store.path / "program_0123456789abcdef.py").write_bytes(b"x")
    assert cli.main(["cache", "--clear"]) == 0
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == others
    assert "programs    0\n" in capsys.readouterr().out


# ── the command ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_command_shows_the_folder_and_what_it_holds(fresh, tmp_path, capsys, monkeypatch):
    assert cli.main(["cache"]) == 0
    assert "programs    0\n" in capsys.readouterr().out
    for n in (3, 4):
        load(text_of(n))
        for path in tmp_path.rglob(f"{key_of(text_of(n))}*"):
            os.utime(path, (1e9 + n * 1e5,) * 2)
    monkeypatch.setenv("TINYMAML_CACHE_SIZE", "5000000")
    assert cli.main(["cache"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"folder      {tmp_path / 'cache' / 'programs'}",
        "programs    2",
        f"bytes       {sum(map(len, files(tmp_path).values())):,} of at most 5,000,000",
        "used        " + " … ".join(time.strftime("%Y-%m-%d %H:%M", time.localtime(1e9 + n * 1e5)) for n in (3, 4)),
    ]


@POSIX
def test_the_command_says_why_a_folder_is_not_used_and_does_not_clear_it(fresh, tmp_path, capsys):
    load(text_of(3))
    before = files(tmp_path)
    (tmp_path / "cache").chmod(0o777)
    assert cli.main(["cache"]) == 0
    assert f"warning     others can write to {tmp_path / 'cache'}: chmod go-w" in capsys.readouterr().out
    assert cli.main(["cache", "--clear"]) == 1
    assert "others can write to" in capsys.readouterr().err and files(tmp_path) == before


@pytest.mark.parametrize("options", [[], ["--clear"]])
def test_the_command_without_a_home_is_one_line(options, capsys, monkeypatch):
    monkeypatch.setenv("TINYMAML_CACHE", "~nosuchuser/cache")
    assert cli.main(["cache", *options]) == 1
    assert capsys.readouterr().err == (
        "tinymaml: there is no home folder for ~nosuchuser/cache: set TINYMAML_CACHE to a folder of your own\n"
    )


# ── the package's own kernels ───────────────────────────────────────────────────────────────────────────────────────


def never_called() -> kernels.Kernel:
    """A kernel that has no machine code yet, and no NumPy function to fall back to."""
    known = kernels.scatter_rows
    return kernels.Kernel(known.name, None, known.shape, known.step)


def test_kernels_are_kept_by_the_same_rule(tmp_path, fresh, monkeypatch):
    before = {*Path(kernels.__file__).parent.rglob("*.nb[ci]")}
    g, rows = np.ones((3, 2)), np.array([0, 2, 0])
    wanted = kernels.scatter_rows.twin(g, rows, shape=(3, 2))

    def scattered():
        np.testing.assert_array_equal(never_called()(g, rows, shape=(3, 2)), wanted)

    scattered()
    (path,) = tmp_path.rglob("*.code")
    data = path.read_bytes()
    for damaged in (data[:-1], data[:300] + b"!" + data[301:], b""):
        path.write_bytes(damaged)
        fresh()
        with compilations(monkeypatch) as texts:
            scattered()
        assert len(texts) == 1 and objects_in(path.read_bytes(), path.stem)
    assert {*Path(kernels.__file__).parent.rglob("*.nb[ci]")} == before


def test_a_kernel_is_machine_code_after_the_warning_was_an_error(tmp_path, fresh, monkeypatch):
    (tmp_path / "cache").write_bytes(b"")
    kernel, arrays, shape = never_called(), (np.ones((3, 2)), np.array([0, 2, 0])), (3, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(tm.CacheWarning):
            kernel(*arrays, shape=shape)
        wanted = kernels.scatter_rows.twin(*arrays, shape=shape)
        np.testing.assert_array_equal(kernel(*arrays, shape=shape), wanted)


# ── text files ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_text_file_says_its_encoding(tmp_path):
    compiling = "import numpy as np, tinymaml as tm; tm.compile(lambda x: np.tanh(x) + 1)(np.ones(3))\n"
    run = str(tmp_path / "run")
    env = os.environ | {"TINYMAML_CACHE": str(tmp_path / "cache")}
    commands = (
        ["train", "sinusoid", "--iterations", "2", "--no-compile", "--out", run],
        ["eval", run, "--tasks", "2", "--steps", "1"],
        ["oracle", "show"],
        ["cache"],
    )
    using = f"from tinymaml.cli import main\nfor command in {commands}:\n    assert main(command) == 0"
    code = f"{compiling}from tinymaml.programs import cache\ncache._loaded.clear()\n{compiling}{using}"  # then loaded
    command = [sys.executable, "-X", "warn_default_encoding", "-W", "always::EncodingWarning", "-c", code]
    done = subprocess.run(command, env=env, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    ours = Path(tm.__file__).parent.name + os.sep  # other libraries' are theirs to mend
    assert not [x for x in done.stderr.splitlines() if "EncodingWarning" in x and f"{os.sep}{ours}" in x]


def test_the_locales_encoding_does_not_matter(tmp_path):
    train = ["train", "sinusoid", "--iterations", "2", "--no-compile", "--out", str(tmp_path / "run")]
    using = f"\nfrom tinymaml.cli import main\nassert main({train}) == main(['cache']) == 0"
    out = result(loading(tmp_path, PRINTING + using, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0"))
    assert out.splitlines()[0] == result(loading(tmp_path)) == "15"
