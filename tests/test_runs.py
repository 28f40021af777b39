"""What a run folder promises: whatever befalls process or disk, nothing saved is lost or changes unseen."""

import errno
import json
import os
import random
import shutil
import subprocess
import sys
import time
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from kills import arrays_of

pytest.importorskip("safetensors")
pytest.importorskip("filelock")

from tinymaml.runs import folder as runs  # noqa: E402
from tinymaml.runs.folder import KEEP, Run, write_atomically  # noqa: E402

posix = pytest.mark.skipif(os.name != "posix", reason="fork, SIGKILL and limits are POSIX")
REPOSITORY = Path(__file__).resolve().parents[1]


def assert_consistent(checkpoint: runs.Checkpoint, size: int = 1000) -> None:
    iteration, arrays, meta = checkpoint
    assert meta == {"at": iteration}
    assert arrays.keys() == {"theta", "step"}
    for name, wanted in arrays_of(iteration, size).items():
        np.testing.assert_array_equal(arrays[name], wanted, strict=True)


def run_with(path: Path, iterations: list[int]) -> Run:
    run = Run.create(path, {"alpha": 0.01})
    with run.lock():
        for iteration in iterations:
            run.log({"iteration": iteration, "loss": 1 / (1 + iteration)})
            run.save(iteration, arrays_of(iteration), {"at": iteration})
    return run


def file_of(run: Run, iteration: int, kind: str) -> Path:
    return run.path / "checkpoints" / f"{iteration:08d}.{kind}"


def names_in(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}


def flip(file: Path, where: int) -> None:
    data = bytearray(file.read_bytes())
    data[where] ^= 1
    file.write_bytes(data)


# What is saved comes back

dtypes = st.sampled_from([np.float32, np.float64, np.int64, np.float16, np.int32, np.uint8, np.bool_])
stored = dtypes.flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
)
views = st.sampled_from([np.asarray, np.transpose, np.asfortranarray, lambda a: a[..., ::2] if a.ndim else a])
names = st.text(st.characters(codec="utf-8"), max_size=8)


@given(st.dictionaries(names, st.tuples(stored, views), max_size=4))
@settings(max_examples=20)
def test_arrays_come_back_bit_for_bit_and_writable(tmp_path_factory, drawn):
    run = Run.create(tmp_path_factory.mktemp("run"), {})
    arrays = {name: view(array) for name, (array, view) in drawn.items()}
    with run.lock():
        run.save(0, arrays, {})
    loaded = Run.open(run.path).load().arrays
    assert loaded.keys() == arrays.keys()
    for name, array in arrays.items():
        assert (loaded[name].dtype, loaded[name].shape) == (array.dtype, array.shape)
        assert loaded[name].tobytes() == array.tobytes()  # nan, -0.0 and all
        assert loaded[name].flags.writeable and loaded[name].flags.owndata


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
records = st.dictionaries(st.text(), json_values, max_size=4)


@given(records, records, st.lists(records, max_size=3))
@settings(max_examples=20)
def test_config_meta_and_log_come_back_equal(tmp_path_factory, config, meta, lines):
    run = Run.create(tmp_path_factory.mktemp("run"), config)
    lines = [{**line, "iteration": i} for i, line in enumerate(lines)]
    with run.lock():
        for line in lines:
            run.log(line)
        run.save(7, {}, meta)
    again = Run.open(run.path)
    assert again.config == run.config == config
    assert again.load().meta == meta
    assert again.read_log() == lines


def test_the_state_of_a_generator_survives_in_meta(tmp_path):
    rng = np.random.default_rng(0)
    run = Run.create(tmp_path / "run", {})
    with run.lock():
        run.save(0, {}, rng.bit_generator.state)  # integers of 128 bits
    twin = np.random.default_rng(1)
    twin.bit_generator.state = run.load().meta
    np.testing.assert_array_equal(rng.normal(size=9), twin.normal(size=9))


def test_a_fresh_run_sees_the_config_a_resumed_one_will_see(tmp_path):
    run = Run.create(tmp_path / "run", {"layers": (40, 40), "steps": {1: "one"}})
    assert run.config == {"layers": [40, 40], "steps": {"1": "one"}} == Run.open(tmp_path / "run").config


def test_a_run_is_the_files_it_says(tmp_path):
    run = run_with(tmp_path / "deep" / "er" / "run", [100, 200, 300, 400, 500])
    assert run.checkpoints() == [300, 400, 500] and len(run.checkpoints()) == KEEP
    names = {f"checkpoints/{i:08d}.{kind}" for i in (300, 400, 500) for kind in ("json", "safetensors")}
    assert names_in(run.path) == names | {"config.json", "log.jsonl", "lock"}
    assert json.loads((run.path / "config.json").read_text(encoding="utf-8")).keys() == {
        "format", "tinymaml", "run", "config", "seal",
    }  # fmt: skip
    for iteration in run.checkpoints():
        assert_consistent(run.load(iteration))
    assert run.load().iteration == 500


def test_a_written_file_has_the_permissions_of_any_other(tmp_path):
    write_atomically(tmp_path / "ours", b"x")
    (tmp_path / "plain").write_bytes(b"x")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


# Creating and opening


@pytest.mark.parametrize("name", ["notes.txt", ".hidden", "lockfile", "checkpoints"])
def test_a_folder_of_other_files_is_not_taken(tmp_path, name):
    (tmp_path / name).write_text("mine", encoding="utf-8")
    with pytest.raises(FileExistsError, match=f"holds other files .*{name}"):
        Run.create(tmp_path, {})
    assert names_in(tmp_path) == {name}


def test_a_second_run_does_not_start_in_the_folder_of_the_first(tmp_path):
    before = run_with(tmp_path / "run", [1]).path.joinpath("config.json").read_bytes()
    with pytest.raises(FileExistsError, match="already holds a run: --resume continues it, another --out"):
        Run.create(tmp_path / "run", {"other": 1})
    assert (tmp_path / "run" / "config.json").read_bytes() == before


def test_a_run_cannot_start_where_a_file_is(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(FileExistsError, match="file is not a folder"):
        Run.create(tmp_path / "file", {})
    with pytest.raises(OSError, match="cannot make .*run: Not a directory"):
        Run.create(tmp_path / "file" / "run", {})


def test_an_empty_folder_becomes_a_run(tmp_path):
    assert Run.create(tmp_path, {"a": 1}).config == Run.open(tmp_path).config == {"a": 1}


def test_a_bad_config_is_refused_before_a_folder_is_made(tmp_path):
    for bad in (float("nan"), float("inf"), np.float32(1), object(), {"deep": [float("nan")]}):
        with pytest.raises(ValueError, match="config: 'alpha' must be JSON and finite"):
            Run.create(tmp_path / "run", {"beta": 1, "alpha": bad})
    assert not (tmp_path / "run").exists()


def test_what_is_not_a_run_is_not_opened(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    (tmp_path / "empty").mkdir()
    messages = {"absent": "no such folder", "file": "no such folder", "empty": "no config.json"}
    for name, message in messages.items():
        with pytest.raises(FileNotFoundError, match=f"{name} is not a run: .*{message}"):
            Run.open(tmp_path / name)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (b"", "damaged"),
        (b'{"format": 1, "tinym', "damaged"),
        (b"\xff\x00", "damaged"),
        (b"[1]", "not what tinymaml writes"),
        (b'{"hidden_size": 40}', "not what tinymaml writes: wanted a JSON object with format"),
        (b'{"format": 1, "tinymaml": "0.1", "config": 3}', "not what tinymaml writes"),
        (b'{"format": 3, "tinymaml": "9.9", "config": {}}', r"format 3, by tinymaml 9\.9; .* up to format 2"),
    ],
)
def test_a_foreign_or_newer_config_is_named(tmp_path, config, message):
    (tmp_path / "config.json").write_bytes(config)
    with pytest.raises(ValueError, match=message) as error:
        Run.open(tmp_path)
    assert str(tmp_path) in str(error.value)


# Damage


@pytest.mark.parametrize("kind", ["safetensors", "json"])
def test_one_flipped_bit_anywhere_is_noticed(tmp_path, kind):
    run = run_with(tmp_path / "run", [100, 200])
    file = file_of(run, 200, kind)
    whole = file.read_bytes()
    harmless = 0
    some = random.Random(0).sample(range(len(whole)), 60)
    for where in [0, 8, len(whole) // 2, len(whole) - 2, *some]:
        flip(file, where)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            checkpoint = run.load()
        assert_consistent(checkpoint)  # never a silently different one
        if checkpoint.iteration == 200:
            harmless += 1  # a blank of the JSON that became another
        else:
            (warning,) = caught
            assert "checkpoint 200 of" in str(warning.message)
            assert "taking 100 instead" in str(warning.message)
            assert warning.filename == __file__
            with pytest.raises(ValueError, match="checkpoint 200 of .* cannot be used"):
                run.load(200)
        file.write_bytes(whole)
    assert harmless == 0 or kind == "json" and harmless < 20
    assert run.load().iteration == 200


def truncated(file):
    file.write_bytes(file.read_bytes()[:-3])


def emptied(file):
    file.write_bytes(b"")


def foreign(file):
    file.write_bytes(b'{"other": 1}')


def a_folder(file):
    file.unlink()
    file.mkdir()


def of_another(file):  # a whole checkpoint under the wrong name
    for kind in (".json", ".safetensors"):
        shutil.copy(file.with_name("00000100" + kind), file.with_suffix(kind))


@pytest.mark.parametrize("damage", [truncated, emptied, foreign, a_folder, of_another])
@pytest.mark.parametrize("kind", ["safetensors", "json"])
def test_a_damaged_newest_gives_way_to_the_one_before(tmp_path, kind, damage):
    run = run_with(tmp_path / "run", [100, 200])
    damage(file_of(run, 200, kind))
    with pytest.warns(UserWarning, match=r"checkpoint 200 of .* cannot be used: .*; taking 100 instead"):
        assert_consistent(run.load())
    with pytest.raises(ValueError, match="checkpoint 200 of"):
        run.load(200)


def test_arrays_gone_from_under_their_json_are_noticed(tmp_path):
    run = run_with(tmp_path / "run", [100, 200])
    file_of(run, 200, "safetensors").unlink()
    with pytest.warns(UserWarning, match="No such file.*taking 100 instead"):
        assert run.load().iteration == 100


def test_all_damaged_is_one_error_that_names_each(tmp_path):
    run = run_with(tmp_path / "run", [100, 200])
    for iteration in run.checkpoints():
        flip(file_of(run, iteration, "safetensors"), -1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=r"(?s)200.*sha256 differs.*100.*sha256 differs"):
            run.load()


def test_a_checkpoint_that_is_not_there_is_an_error_that_lists_the_others(tmp_path):
    run = Run.create(tmp_path / "run", {})
    with pytest.raises(FileNotFoundError, match="no checkpoint in .*run: it has none yet"):
        run.load()
    with run.lock():
        run.save(100, {}, {})
    with pytest.raises(FileNotFoundError, match=r"no checkpoint 150 in .*: it has \[100\]"):
        run.load(150)


def test_after_a_fallback_a_rewind_lets_the_run_go_on(tmp_path):
    run = run_with(tmp_path / "run", [100, 200])
    flip(file_of(run, 200, "safetensors"), -1)
    with pytest.warns(UserWarning, match="taking 100"):
        at = run.load().iteration
    with run.lock():
        with pytest.raises(ValueError, match="is at 200 already: rewind, then save 150"):
            run.save(150, arrays_of(150), {"at": 150})
        run.rewind(at)
        run.save(150, arrays_of(150), {"at": 150})
    assert run.checkpoints() == [100, 150]
    assert_consistent(run.load())


def test_foreign_files_among_the_checkpoints_are_left_alone(tmp_path):
    run = run_with(tmp_path / "run", [1])
    for name in ("best.json", "notes.txt", "123.json", "best.safetensors"):
        (run.path / "checkpoints" / name).write_text("mine", encoding="utf-8")
    with run.lock():
        for i in range(2, 7):
            run.save(i, {}, {})
    assert run.checkpoints() == [4, 5, 6]
    assert {"best.json", "notes.txt", "123.json", "best.safetensors"} < names_in(run.path / "checkpoints")


# What save and log refuse


@pytest.mark.parametrize("dtype", ["complex128", ">f8", "U3", "O", "M8[s]"])
def test_a_dtype_that_would_not_come_back_is_refused(tmp_path, dtype):
    run = run_with(tmp_path / "run", [1])
    with run.lock(), pytest.raises(ValueError, match="save: 'odd' has dtype"):
        run.save(2, {"fine": np.zeros(2), "odd": np.zeros(2, dtype)}, {})
    assert run.checkpoints() == [1]


@pytest.mark.parametrize("name", ["__metadata__", 3])
def test_a_name_the_format_cannot_hold_is_refused(tmp_path, name):
    run = Run.create(tmp_path / "run", {})
    with run.lock(), pytest.raises(ValueError, match="an array cannot be called"):
        run.save(2, {name: np.zeros(2)}, {})


@pytest.mark.parametrize("iteration", [-1, 1.0, True, "3", None, 10**8])
def test_an_iteration_is_a_whole_number(tmp_path, iteration):
    run = Run.create(tmp_path / "run", {})
    with run.lock(), pytest.raises(ValueError, match="iteration must be an int from 0"):
        run.save(iteration, {}, {})


def test_saving_the_same_again_is_fine_and_other_arrays_are_not(tmp_path):
    run = run_with(tmp_path / "run", [1, 2])
    with run.lock():
        run.save(2, arrays_of(2), {"at": 2, "end": True})
        for iteration in (1, 2):
            with pytest.raises(ValueError, match="is at 2 already: rewind"):
                run.save(iteration, arrays_of(7), {})
    assert run.load().meta == {"at": 2, "end": True}


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), np.float32(1), [float("nan")]])
def test_a_loss_that_is_not_finite_is_named(tmp_path, bad):
    run = Run.create(tmp_path / "run", {})
    with run.lock():
        with pytest.raises(ValueError, match="log: 'loss' must be JSON and finite, seen .*(nan|inf|1)"):
            run.log({"iteration": 3, "loss": bad})
        with pytest.raises(ValueError, match="meta: 'loss' must be JSON"):
            run.save(3, {}, {"loss": bad})
    assert run.read_log() == [] and run.checkpoints() == []


@pytest.mark.parametrize("record", [{}, {"loss": 1.0}, *({"iteration": bad} for bad in (1.0, "1", True))])
def test_a_log_record_has_its_iteration(tmp_path, record):
    run = Run.create(tmp_path / "run", {})
    with run.lock(), pytest.raises(ValueError, match=r"log: this record .* iteration \(int\)"):
        run.log(record)
    assert run.read_log() == []


# The log


def test_half_a_last_line_is_passed_over_and_then_mended(tmp_path):
    run = run_with(tmp_path / "run", [1, 2])
    log = run.path / "log.jsonl"
    whole = log.read_bytes()
    for cut in range(len(whole) + 1):
        log.write_bytes(whole[:cut])
        complete = whole[:cut].count(b"\n")
        assert [record["iteration"] for record in run.read_log()] == [1, 2][:complete]
        with run.lock():
            run.log({"iteration": 9})
        assert [record["iteration"] for record in run.read_log()] == [*[1, 2][:complete], 9]


def test_a_damaged_line_inside_the_log_is_named(tmp_path):
    run = run_with(tmp_path / "run", [1, 2, 3])
    log = run.path / "log.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    for line in (b"\n", b'{"iter\n', b'{"loss": 1}\n', b"\x00\xff\n", b"3\n"):
        log.write_bytes(lines[0] + line + lines[2])
        with pytest.raises(ValueError, match=r"log\.jsonl, line 2"):
            run.read_log()
        damaged = log.read_bytes()
        with run.lock(), pytest.warns(UserWarning, match=r"line 2 .*; going on without it, .*damaged\.jsonl is"):
            run.rewind(3)
        assert (run.path / "log.damaged.jsonl").read_bytes() == damaged  # nothing is lost
        assert [record["iteration"] for record in run.read_log()] == [1, 3]


def test_a_resumed_run_reads_as_if_it_had_never_stopped(tmp_path):
    straight = run_with(tmp_path / "straight", [1, 2, 3, 4])
    stopped = run_with(tmp_path / "stopped", [1, 2, 3])
    with open(stopped.path / "log.jsonl", "ab") as file:
        file.write(b'{"iteration": 4, "lo')
    resumed = Run.open(stopped.path)
    with resumed.lock():
        resumed.rewind(2)
        assert resumed.checkpoints() == [1, 2]
        for iteration in (3, 4):
            resumed.log({"iteration": iteration, "loss": 1 / (1 + iteration)})
            resumed.save(iteration, arrays_of(iteration), {"at": iteration})
    names = names_in(straight.path)
    assert names == names_in(stopped.path)
    for name in names:
        assert (straight.path / name).read_bytes() == (stopped.path / name).read_bytes(), name


def test_rewinding_before_the_start_forgets_everything(tmp_path):
    run = run_with(tmp_path / "run", [0, 1])
    with run.lock():
        run.rewind(-1)
    assert run.checkpoints() == [] and run.read_log() == []
    assert names_in(run.path) == {"config.json", "log.jsonl", "lock"}


# One writer

HOLDER = """
import sys, time
from tinymaml.runs import Run
with Run.open(sys.argv[1]).lock():
    print("held", flush=True)
    time.sleep(600)
"""

SAVER = """
import itertools, sys
import numpy as np
from tinymaml.runs import Run
run, size = Run.open(sys.argv[1]), int(sys.argv[2])
with run.lock():
    start = run.load().iteration if run.checkpoints() else 0
    run.rewind(start)
    print("going", flush=True)
    for i in itertools.count(start + 1):
        run.log({"iteration": i, "loss": 1 / (1 + i)})
        run.save(i, {"theta": np.full(size, i, np.float32), "step": np.array(i)}, {"at": i})
"""


@contextmanager
def child(code: str, *arguments):
    """Another Python running `code`, past its first line of output; killed by SIGKILL at the end."""
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-W", "error", "-c", code, *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path})
    try:
        assert process.stdout.readline()
        yield process
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_second_process_is_turned_away_and_a_killed_one_is_not_in_the_way(tmp_path):
    run = run_with(tmp_path / "run", [1])
    with child(HOLDER, run.path):
        with pytest.raises(BlockingIOError, match=f"another run is writing to {run.path}"), run.lock():
            pass
        assert_consistent(run.load())  # reading needs no lock
        with pytest.raises(FileExistsError, match="--resume"):
            Run.create(run.path, {})
    with run.lock():
        run.save(2, arrays_of(2), {"at": 2})


def test_a_second_run_object_is_turned_away(tmp_path):
    run = Run.create(tmp_path / "run", {})
    with run.lock():
        for other in (run, Run.open(run.path)):
            with pytest.raises(BlockingIOError, match="another run is writing"), other.lock():
                pass
        run.save(1, {}, {})  # the first still holds
    with Run.open(run.path).lock() as other:
        other.save(2, {}, {})


def test_the_lock_is_free_again_after_an_error(tmp_path):
    run = Run.create(tmp_path / "run", {})
    with pytest.raises(KeyboardInterrupt), run.lock():
        raise KeyboardInterrupt
    with run.lock():
        pass


def test_writing_wants_the_lock(tmp_path):
    run = Run.create(tmp_path / "run", {})
    for write in (lambda: run.save(1, {}, {}), lambda: run.log({"iteration": 1}), lambda: run.rewind(0)):
        with pytest.raises(RuntimeError, match="hold the lock of .*run first"):
            write()
    assert names_in(run.path) == {"config.json", "lock"}


def test_a_missing_library_is_told_when_the_run_starts(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    with pytest.raises(ImportError, match=r'pip install "tinymaml\[train\]"'):
        Run.create(tmp_path / "run", {})
    assert names_in(tmp_path) == set()


def test_of_two_creators_at_once_one_wins(tmp_path, monkeypatch):
    honest, seen = runs._refuse_taken, []

    def slow(path):  # between the look at the folder and the lock, another run starts there
        honest(path)
        if not seen:
            seen.append(path)
            Run.create(path, {"first": 1})

    monkeypatch.setattr(runs, "_refuse_taken", slow)
    with pytest.raises(FileExistsError, match="already holds a run"):
        Run.create(tmp_path / "run", {"second": 2})
    assert Run.open(tmp_path / "run").config == {"first": 1}


# Kills


def assert_whole(path: Path, size: int = 1000) -> None:
    """The run loads without a warning, its log reaches its checkpoint, and a writer finds it clean."""
    run = Run.open(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checkpoint = run.load()
    assert_consistent(checkpoint, size)
    assert checkpoint.iteration in {record["iteration"] for record in run.read_log()}
    with run.lock():
        pass
    names = {f"checkpoints/{i:08d}.{kind}" for i in run.checkpoints() for kind in ("json", "safetensors")}
    assert names_in(path) == names | {"config.json", "log.jsonl", "lock"}


@posix
def test_a_kill_at_a_random_moment_leaves_a_whole_run(tmp_path):
    size, moments, reached = 300_000, random.Random(0), [1]
    run = Run.create(tmp_path / "run", {})
    with run.lock():
        run.log({"iteration": 1})
        run.save(1, arrays_of(1, size), {"at": 1})
    for _ in range(4):
        with child(SAVER, run.path, size):
            time.sleep(moments.uniform(0, 0.1))
        assert_whole(run.path, size)
        reached.append(run.load().iteration)
    assert reached == sorted(reached) and reached[-1] > 1


def killed_at_lines(work: str, folder: Path, every: int, base: str = "") -> list[Path]:
    """The folders in which `kills.py` has done the work, each time killed so many lines later."""
    folder.mkdir()
    program = Path(__file__).with_name("kills.py")
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, program, work, folder, str(every), base]
    out = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, check=True, stdout=subprocess.PIPE).stdout
    return [folder / str(step) for step in range(1, int(out) + 1, every)]


@posix
@pytest.mark.parametrize("work, wanted, every", [
    ("save_and_prune", {3, 4}, 1), ("rewind", {1, 2, 3}, 3),
    pytest.param("rewind", {1, 2, 3}, 1, marks=pytest.mark.slow),
    pytest.param("save_again", {3}, 1, marks=pytest.mark.slow),
])  # fmt: skip
def test_a_kill_at_any_line_leaves_a_whole_run(tmp_path, work, wanted, every):
    base = run_with(tmp_path / "base", [1, 2, 3]).path
    reached = set()
    paths = killed_at_lines(work, tmp_path / "killed", every, str(base))
    for path in paths:
        reached.add(Run.open(path).load().iteration)
        assert_whole(path)
    assert len(paths) > 50 / every
    assert reached == wanted


@posix
@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_a_kill_while_creating_leaves_a_run_or_a_folder_for_one(tmp_path, every):
    paths = killed_at_lines("create", tmp_path / "killed", every)
    for path in paths:
        if not (path / "config.json").exists():
            Run.create(path, {"a": 1})
        assert Run.open(path).config == {"a": 1}
        assert not list(path.glob(".*"))
    assert len(paths) > 20 / every


# Disks


@contextmanager
def limit_on_file_size(size: int):
    """The disk takes part of a file, then says no: as a full one does, and no monkeypatch can."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@posix
def test_a_write_cut_short_by_the_disk_leaves_everything_as_it_was(tmp_path):
    run = run_with(tmp_path / "run", [1])
    before = {name: (run.path / name).read_bytes() for name in names_in(run.path)}
    large = {"theta": np.zeros(100_000)}
    with run.lock():
        with limit_on_file_size(10_000), pytest.raises(OSError, match=r"write .*\.safetensors: ") as seen:
            run.save(2, large, {})
        assert seen.value.errno == errno.EFBIG
        with limit_on_file_size(10_000), pytest.raises(OSError, match=r"cannot write .*00000002\.json: "):
            run.save(2, {}, {"long": "x" * 20_000})
        with limit_on_file_size(10_000), pytest.raises(OSError, match=r"cannot write .*log\.jsonl: "):
            run.log({"iteration": 2, "long": "x" * 20_000})
        assert {name: (run.path / name).read_bytes() for name in names_in(run.path)} == before
        run.log({"iteration": 2})
        run.save(2, arrays_of(2), {"at": 2})
    assert_whole(run.path)


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EACCES, errno.EDQUOT])
def test_any_refusal_of_the_disk_leaves_the_checkpoints_before(tmp_path, monkeypatch, call, code):
    run = run_with(tmp_path / "run", [1, 2, 3])
    honest, calls = getattr(os, call), 0

    def refusing(*arguments):
        nonlocal calls
        calls += 1
        if calls == nth:
            raise OSError(code, os.strerror(code))
        return honest(*arguments)

    nth, refused = 0, True
    while refused:
        nth, calls, refused = nth + 1, 0, False
        with run.lock(), monkeypatch.context() as patch:
            patch.setattr(os, call, refusing)
            try:
                run.save(4, arrays_of(4), {"at": 4})
            except OSError as error:
                refused = True
                assert error.errno == code
                assert f"cannot write {run.path}" in str(error) or f"cannot write to {run.path}" in str(error)
        assert not list(run.path.rglob(".*"))
        for iteration in run.checkpoints():
            assert_consistent(run.load(iteration))
        assert set(run.checkpoints()) >= {2, 3}
        with run.lock():
            run.rewind(3)
    assert nth > 2


@posix
def test_bytes_are_on_disk_before_they_have_a_name_and_arrays_before_their_json(tmp_path, monkeypatch):
    run = run_with(tmp_path / "run", [1])
    order, sync, replace = [], os.fsync, os.replace

    def name_of(handle):
        files = [run.path, *run.path.rglob("*")]
        (name,) = (file.name for file in files if os.path.samestat(file.stat(), os.fstat(handle)))
        return ".".join(name.split(".")[1:3]) if name.endswith(".tmp") else name

    def noted_sync(handle):
        assert os.fstat(handle).st_size > 0  # nothing waits in a buffer
        order.append(("sync", name_of(handle)))
        sync(handle)

    def noted_replace(old, new):
        order.append(("name", new.name))
        replace(old, new)

    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(os, "replace", noted_replace)
    with run.lock():
        run.save(2, {}, {})
    wanted = [("sync", "log.jsonl"), ("sync", "run")]
    for file in ("00000002.safetensors", "00000002.json"):
        wanted += [("sync", file), ("name", file), ("sync", "checkpoints")]
    assert order == wanted


def test_an_atomic_write_that_fails_keeps_the_old_bytes(tmp_path, monkeypatch):
    write_atomically(tmp_path / "result.json", b"old")

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"cannot write .*result\.json: No space left on device") as error:
        write_atomically(tmp_path / "result.json", b"new")
    assert error.value.errno == errno.ENOSPC
    assert names_in(tmp_path) == {"result.json"} and (tmp_path / "result.json").read_bytes() == b"old"


def test_an_interrupted_write_leaves_nothing_behind(tmp_path, monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "result.json", b"new")
    assert names_in(tmp_path) == set()


def test_a_write_with_no_folder_to_go_to_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"cannot write .*absent/x\.json: No such file or directory"):
        write_atomically(tmp_path / "absent" / "x.json", b"")


@posix
def test_what_is_not_a_regular_file_is_not_replaced(tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")  # stands for /dev/null, which a failing test would replace when run by root
    for name in ("folder", "pipe"):
        with pytest.raises(FileExistsError, match=f"{name}: it is not a regular file"):
            write_atomically(tmp_path / name, b"")
    assert (tmp_path / "folder").is_dir() and (tmp_path / "pipe").is_fifo()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write to read-only folders")
def test_a_read_only_folder_is_readable_and_named_when_written_to(tmp_path):
    run = run_with(tmp_path / "run", [1])
    (run.path / "lock").unlink()
    run.path.chmod(0o500)
    try:
        assert_consistent(Run.open(run.path).load())
        with pytest.raises(PermissionError, match=f"cannot lock {run.path}: Permission denied"), run.lock():
            pass
        with pytest.raises(PermissionError, match="cannot make .*: Permission denied"):
            Run.create(run.path / "inner", {})
    finally:
        run.path.chmod(0o700)


def test_what_a_killed_writer_left_is_swept_and_what_others_write_is_not(tmp_path):
    run = run_with(tmp_path / "run", [1])
    left = [".00000002.json.0a1b.tmp", ".00000002.safetensors.0a1b.tmp", "00000002.safetensors"]
    left = [f"checkpoints/{name}" for name in left] + [".config.json.0a1b.tmp", ".log.jsonl.0a1b.tmp"]
    for name in [*left, ".curve.png.0a1b.tmp"]:
        (run.path / name).write_bytes(b"half")
    assert_consistent(run.load())
    with run.lock():
        assert not names_in(run.path) & set(left)
        assert ".curve.png.0a1b.tmp" in names_in(run.path)
