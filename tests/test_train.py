"""Training learns, gives the same bits each time, and goes on after any stop as if there had been none."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import pytest

for library in ("safetensors", "filelock", "tqdm", "threadpoolctl"):
    pytest.importorskip(library)

import tinymaml as tm  # noqa: E402
from tinymaml.cli import main  # noqa: E402
from tinymaml.families import omniglot  # noqa: E402
from tinymaml.families.sinusoid import SinusoidTasks  # noqa: E402
from tinymaml.nest import (  # noqa: E402
    tree_items,
    tree_leaves,
    tree_map,  # noqa: E402
)
from tinymaml.runs import (  # noqa: E402
    Run,  # noqa: E402
    loop,
    outer,
)
from tinymaml.runs.adaptation import RATES, task  # noqa: E402
from tinymaml.runs.evaluate import evaluate, table  # noqa: E402
from tinymaml.runs.learner import Learner  # noqa: E402
from tinymaml.runs.loop import INIT, TEST, TRAIN, VALIDATE, generator, restore, resumed, train  # noqa: E402
from tinymaml.runs.settings import Config  # noqa: E402

pytestmark = pytest.mark.usefixtures("quick_code")

posix = pytest.mark.skipif(os.name != "posix", reason="these signals are POSIX")
SMALL = dict(
    tasks=2, hidden=(6,), iterations=12, save_every=4, validate_every=5, validation_tasks=2, decay=0,
    queries=5, inner_lr=0.01, meta_lr=0.001,
)  # fmt: skip


def small(**changes) -> Config:
    return Config.default("sinusoid", **{**SMALL, **changes})


def trained(config: Config, out: Path, **options) -> Run:
    return train(config, out, progress=False, **options)


def arrays_of(run: Run | Path) -> dict[str, tuple]:
    """Every array of the newest checkpoint, parameters and optimiser, bit for bit."""
    run = run if isinstance(run, Run) else Run.open(run)
    return {name: (x.dtype, x.shape, x.tobytes()) for name, x in run.load().arrays.items()}


def assert_same(run: Run | Path, other: Run | Path) -> None:
    run, other = (r if isinstance(r, Run) else Run.open(r) for r in (run, other))
    assert run.load().iteration == other.load().iteration
    assert arrays_of(run) == arrays_of(other)
    assert (run.path / "log.jsonl").read_bytes() == (other.path / "log.jsonl").read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of some settings that was not stopped; each is trained once."""
    runs = {}

    def of(config: Config) -> Run:
        if config not in runs:
            runs[config] = trained(config, tmp_path_factory.mktemp("whole") / "run")
        return runs[config]

    return of


@contextmanager
def signalled(iteration: int, number: int = signal.SIGINT, times: int = 1):
    """A stop is asked for while an iteration is being logged."""
    honest = Run.log

    def log(self, record):
        if record["iteration"] == iteration:
            for _ in range(times):
                signal.raise_signal(number)
        honest(self, record)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "log", log)
        yield


def stopped(config: Config, out: Path, iteration: int, resume: bool = False) -> None:
    with signalled(iteration), pytest.raises(KeyboardInterrupt):
        trained(config, out, resume=resume)


# ── settings ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_option_is_saved_with_the_run(whole):
    config = small(seed=3, decay=5, first_order=True)
    run = whole(config)
    saved = json.loads((run.path / "config.json").read_text(encoding="utf-8"))
    assert saved["format"] == 2 and saved["config"].keys() == {"family", "network", "algorithm", "outer"}
    assert {name for part in saved["config"].values() for name in part} == {"name", *config.options()}
    assert Config.from_json(saved["config"]) == config
    assert restore(run.path).config == config


def test_the_outer_rate_is_half_after_decay_iterations_however_long_the_run():
    def rates(**changes) -> list[float]:
        return [outer.rate(small(meta_lr=0.2, **changes).outer, i) for i in range(9)]

    found = rates(decay=4, iterations=8)
    assert found[0] == 0.2 and found[4] == pytest.approx(0.1) and found[8] == pytest.approx(0.2 / 3)
    assert found == rates(decay=4, iterations=100)
    assert {*rates(decay=0), *rates(schedule="constant", decay=4)} == {0.2}


def test_the_outer_rate_falls_linearly_or_by_a_cosine_to_the_final_one():
    def rates(schedule: str) -> list[float]:
        options = small(meta_lr=0.2, final_lr=0.1, iterations=8, schedule=schedule).outer
        return [outer.rate(options, i) for i in (0, 2, 4, 8)]

    np.testing.assert_allclose(rates("linear"), [0.2, 0.175, 0.15, 0.1])
    np.testing.assert_allclose(rates("cosine"), [0.2, 0.15 + 0.05 * np.sqrt(0.5), 0.15, 0.1])


def test_the_settings_reach_the_meta_gradient(tmp_path):
    """One iteration by hand: Adam's first step on the meta-gradient of the first tasks."""
    config = small(iterations=1, dtype="float64", inner_steps=2, inner_lr=0.03, meta_lr=0.005, shots=3, queries=4)
    learner = Learner(config)
    network = learner.network
    params = network.init(generator(config, INIT), np.float64)
    tasks = learner.sample(generator(config, TRAIN, 0), config["tasks"], "train")
    gradient = tm.meta_value_and_grad(
        lambda p, x, y: np.mean((network.apply(p, x) - y) ** 2), inner_lr=0.03, inner_steps=2
    )
    value, grads = gradient(params, tasks)
    run = trained(config, tmp_path / "run")
    for (path, theta), g in zip(tree_items(params), tree_leaves(grads), strict=True):
        wanted = theta - 0.005 * g / (np.abs(g) + 1e-8)
        np.testing.assert_allclose(run.load().arrays[f"meta{path}"], wanted, rtol=1e-9)
    assert run.read_log()[0]["loss"] == pytest.approx(float(value), rel=1e-12)


@pytest.mark.parametrize("changes", [
    dict(seed=1), dict(inner_lr=0.02), dict(inner_steps=2), dict(meta_lr=0.002), dict(tasks=3), dict(shots=4),
    dict(queries=4), dict(first_order=True), dict(decay=3), dict(hidden=(7,)), dict(dtype="float64"),
])  # fmt: skip
def test_another_setting_gives_another_result(tmp_path, whole, changes):
    short = dict(iterations=2, compile=False)
    other = trained(small(**short, **changes), tmp_path / "run")
    assert arrays_of(other) != arrays_of(whole(small(**short)))


# ── the same bits ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_same_seed_gives_the_same_bits(tmp_path, whole, dtype):
    assert_same(trained(small(dtype=dtype), tmp_path / "run"), whole(small(dtype=dtype)))
    kinds = {x.dtype for name, x in whole(small(dtype=dtype)).load().arrays.items() if name != "optimizer['t']"}
    assert kinds == {np.dtype(dtype)}


def test_neither_saving_nor_validating_changes_what_is_learned(tmp_path, whole):
    other = trained(small(save_every=5, validate_every=3, validation_tasks=3), tmp_path / "run")
    assert arrays_of(other) == arrays_of(whole(small()))


def test_numpy_s_global_generator_is_neither_read_nor_moved(tmp_path, whole):
    np.random.seed(7)
    before = np.random.get_state()[1].tobytes()
    assert_same(trained(small(), tmp_path / "run"), whole(small()))
    assert np.random.get_state()[1].tobytes() == before


# Sums over 5,000 examples: long enough for BLAS to share one out among threads. (Machine code limits its BLAS itself.)
THREADS = """
import hashlib, json, sys, threading, threadpoolctl
from contextlib import nullcontext
from tinymaml.runs import Run, evaluate, loop
from tinymaml.runs.settings import Config
if sys.argv[2] == "unlimited":
    loop.one_thread = evaluate.one_thread = lambda _: nullcontext()
with threadpoolctl.threadpool_limits(int(sys.argv[3])):  # which from now on listens to this thread alone
    pass
settings = dict(tasks=1, hidden=(64, 64), iterations=2, shots=5000, queries=5000, validation_tasks=1, inner_lr=0.1,
                compile=False)
work = threading.Thread(target=lambda: loop.train(Config.default("sinusoid", **settings), sys.argv[1], progress=False))
work.start(); work.join()
run = Run.open(sys.argv[1])
arrays = {name: hashlib.sha256(x.tobytes()).hexdigest() for name, x in run.load().arrays.items()}
evaluated = evaluate.evaluate(run.path, tasks=2, steps=2)
print(json.dumps([arrays, run.read_log(), evaluated["mean"], evaluated["ci95"]]))
"""


def with_threads(count: int, out: Path, limits: str = "limited") -> tuple:
    """Arrays, log and evaluation of a run in a process with so many threads."""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": str(count), "MKL_NUM_THREADS": str(count)}
    command = [sys.executable, "-c", THREADS, str(out), limits, str(count)]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, encoding="utf-8")
    return json.loads(done.stdout)


def test_results_do_not_depend_on_the_number_of_threads(tmp_path):
    one, two = (with_threads(n, tmp_path / str(n)) for n in (1, 2))
    assert one == two


@pytest.mark.slow
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core has one thread")
def test_without_the_limit_they_may_so_the_test_above_can_fail(tmp_path):
    one, two = (with_threads(n, tmp_path / str(n), "unlimited") for n in (1, 2))
    if one == two:
        pytest.skip("this BLAS adds in the same order whatever the threads")
    assert one[0] != two[0]


# ── going on ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.slow)])
@pytest.mark.parametrize("at", [1, 4, 6, 11, 12])
def test_a_stopped_run_goes_on_as_if_it_never_had_been(tmp_path, whole, dtype, at):
    config = small(dtype=dtype)
    stopped(config, tmp_path / "run", at)
    halted = Run.open(tmp_path / "run")
    assert halted.load().iteration == at and len(halted.read_log()) == at
    assert_same(trained(config, tmp_path / "run", resume=True), whole(config))


@pytest.mark.parametrize("changes", [dict(decay=3), dict(first_order=True, inner_steps=2), dict(inner_steps=0)])
def test_it_does_whatever_the_settings(tmp_path, whole, changes):
    config = small(**changes)
    stopped(config, tmp_path / "run", 3)
    stopped(config, tmp_path / "run", 7, resume=True)
    assert_same(trained(config, tmp_path / "run", resume=True), whole(config))


def test_it_does_when_stopped_at_every_iteration(tmp_path, whole):
    for at in range(1, 12):
        stopped(small(), tmp_path / "run", at, resume=at > 1)
    assert_same(trained(small(), tmp_path / "run", resume=True), whole(small()))


def test_resuming_a_finished_run_changes_nothing(tmp_path, whole):
    run = trained(small(), tmp_path / "run")
    before = {file.name: file.read_bytes() for file in run.path.rglob("*") if file.is_file()}
    trained(small(), tmp_path / "run", resume=True)
    assert {file.name: file.read_bytes() for file in run.path.rglob("*") if file.is_file()} == before


def test_a_run_can_be_made_longer(tmp_path, whole):
    """β does not ask how long the run will be, so a longer one is as if it had been meant so from the start."""
    trained(small(iterations=6, decay=7), tmp_path / "run")
    config = resumed(tmp_path / "run", {"iterations": 12})
    assert config == small(decay=7)
    run = trained(config, tmp_path / "run", resume=True)
    assert json.loads((run.path / "config.json").read_text(encoding="utf-8"))["config"]["outer"]["iterations"] == 12
    assert_same(run, whole(small(decay=7)))


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_run_whose_rate_depends_on_its_length_keeps_it(tmp_path, whole, schedule):
    config = small(schedule=schedule, iterations=6)
    stopped(config, tmp_path / "run", 3)
    message = f"its schedule is {schedule}, which depends on iterations, and these are 6, not 12"
    with pytest.raises(ValueError, match=message):
        resumed(tmp_path / "run", {"iterations": 12})
    assert_same(trained(resumed(tmp_path / "run", {"iterations": 6}), tmp_path / "run", resume=True), whole(config))


def test_a_run_cannot_be_made_shorter_than_it_is(tmp_path):
    trained(small(iterations=5), tmp_path / "run")
    with pytest.raises(ValueError, match="iterations is 3.* 5"):
        trained(resumed(tmp_path / "run", {"iterations": 3}), tmp_path / "run", resume=True)
    assert Run.open(tmp_path / "run").config["outer"]["iterations"] == 5


@pytest.mark.parametrize(
    "name, value", [("inner_lr", 0.5), ("seed", 1), ("hidden", (7,)), ("dtype", "float64"), ("save_every", 9)]
)
def test_other_settings_stay_as_they_were(whole, name, value):
    was = small()[name]
    with pytest.raises(ValueError) as error:
        resumed(whole(small()).path, {name: value})
    assert f"its {name} is {was}, not {value}" in str(error.value)
    assert resumed(whole(small()).path, {name: was}) == small()


def test_settings_that_do_not_fit_leave_the_run_as_it_was(tmp_path, whole):
    run = trained(small(iterations=2), tmp_path / "run")
    before = (run.path / "config.json").read_bytes()
    with pytest.raises(ValueError, match=r"does not fit its settings: .* is float32 \(6,\), wanted float32 \(7,\)"):
        trained(small(iterations=3, hidden=(7,)), tmp_path / "run", resume=True)
    assert (run.path / "config.json").read_bytes() == before
    assert evaluate(run.path, tasks=2, steps=1)["iteration"] == 2


def test_a_foreign_checkpoint_is_named(tmp_path):
    run = trained(small(iterations=2), tmp_path / "run")
    with run.lock():
        run.save(3, {"weights": np.zeros(3)}, {})
    for use in (lambda: restore(run.path), lambda: trained(small(), run.path, resume=True)):
        with pytest.raises(ValueError, match="the checkpoint of .* does not fit its settings: .* is nothing, wanted"):
            use()


def test_a_checkpoint_of_another_precision_is_named(tmp_path, whole):
    source = whole(small(dtype="float64")).load()
    run = trained(small(iterations=2), tmp_path / "run")
    with run.lock():
        run.save(12, source.arrays, {})
    with pytest.raises(ValueError, match="is float64 .*, wanted float32"):
        restore(run.path)


@pytest.mark.parametrize("kind", ["json", "safetensors"])
@pytest.mark.parametrize("damage", ["truncated", "flipped bit", "gone"])
def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(tmp_path, whole, kind, damage):
    stopped(small(), tmp_path / "run", 10)
    file = tmp_path / "run" / "checkpoints" / f"00000010.{kind}"
    data = bytearray(file.read_bytes())
    if damage == "gone":
        file.unlink()
    elif damage == "truncated":
        file.write_bytes(data[: len(data) // 2])
    else:
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    if (kind, damage) == ("json", "gone"):  # then it is as if it had never been saved
        run = trained(small(), tmp_path / "run", resume=True)
    else:
        with pytest.warns(UserWarning, match="checkpoint 10 of .* cannot be used: .*taking 8 instead"):
            run = trained(small(), tmp_path / "run", resume=True)
    assert_same(run, whole(small()))


# ── runs of the first format ────────────────────────────────────────────────────────────────────────────────────────

RECORDED = Path(__file__).with_name("data") / "run_format_1.json"  # by the version that made the run beside it


@pytest.fixture
def old(tmp_path):
    """A run that was made by the version before this one, and what that version evaluated."""
    shutil.copytree(RECORDED.with_suffix(""), tmp_path / "old")
    return tmp_path / "old", json.loads(RECORDED.read_text(encoding="utf-8"))


@pytest.mark.parametrize("iteration", [3, None])
def test_a_run_of_the_first_format_is_evaluated(old, iteration):
    path, recorded = old
    wanted = recorded["evaluate(tasks=20, steps=3)"][str(iteration or 6)]
    result = evaluate(path, tasks=20, steps=3, iteration=iteration)
    for key, value in wanted.items():
        if key in ("mean", "ci95"):
            np.testing.assert_allclose(result[key], value, rtol=1e-5)
        else:
            assert result[key] == value, key


def test_a_run_of_the_first_format_is_resumed(old):
    path, recorded = old
    assert json.loads((path / "config.json").read_text(encoding="utf-8"))["format"] == 1
    run = trained(resumed(path, {"iterations": 9}), path, resume=True)
    wanted = recorded["log after resuming to 9 iterations"]
    assert [record.keys() for record in run.read_log()] == [record.keys() for record in wanted]
    for record, known in zip(run.read_log(), wanted, strict=True):
        assert record == pytest.approx(known, rel=1e-4)
    assert json.loads((path / "config.json").read_text(encoding="utf-8"))["format"] == 2
    result = evaluate(path, tasks=20, steps=3)
    np.testing.assert_allclose(result["mean"], recorded["evaluate(tasks=20, steps=3)"]["9"]["mean"], rtol=1e-4)
    assert evaluate(path, tasks=20, steps=3, iteration=6)["iteration"] == 6  # of the old version's own checkpoint


# ── stopping ────────────────────────────────────────────────────────────────────────────────────────────────────────


@posix
def test_sigterm_saves_and_exits_with_143(tmp_path, whole):
    with signalled(6, signal.SIGTERM), pytest.raises(SystemExit) as stop:
        trained(small(), tmp_path / "run")
    assert stop.value.code == 143
    assert Run.open(tmp_path / "run").load().iteration == 6
    assert_same(trained(small(), tmp_path / "run", resume=True), whole(small()))


def test_a_second_ctrl_c_stops_at_once_and_the_last_checkpoint_stays(tmp_path, whole):
    with signalled(6, times=2), pytest.raises(KeyboardInterrupt):
        trained(small(), tmp_path / "run")
    run = Run.open(tmp_path / "run")
    assert run.load().iteration == 4 and len(run.read_log()) == 5
    assert_same(trained(small(), tmp_path / "run", resume=True), whole(small()))


def test_signals_are_the_caller_s_again_afterwards(tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    trained(small(iterations=1), tmp_path / "a")
    stopped(small(), tmp_path / "b", 2)
    with pytest.raises(FloatingPointError):
        trained(small(inner_lr=1e30), tmp_path / "c")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_thread_can_train(tmp_path, whole):
    thread = threading.Thread(target=trained, args=(small(), tmp_path / "run"))
    thread.start()
    thread.join()
    assert_same(tmp_path / "run", whole(small()))


KILLED = """
import os, signal, sys
from tinymaml import cli
from tinymaml.runs import Run
where, at = sys.argv[1], int(sys.argv[2])
kill = lambda: os.kill(os.getpid(), signal.SIGKILL)
log, save, replace = Run.log, Run.save, os.replace
def killing_log(self, record):
    if where == "before log" and record["iteration"] == at: kill()
    log(self, record)
    if where == "after log" and record["iteration"] == at: kill()
def killing_replace(old, new):
    if where == "arrays" and new.name == f"{at:08d}.safetensors": kill()
    if where == "json" and new.name == f"{at:08d}.json": kill()
    replace(old, new)
def killing_save(self, iteration, *rest):
    save(self, iteration, *rest)
    if where == "after save" and iteration == at: kill()
Run.log, Run.save, os.replace = killing_log, killing_save, killing_replace
sys.exit(cli.main(sys.argv[3:]))
"""


def arguments(config: Config, out: Path, *more: str) -> list[str]:
    """The command that trains `config`."""
    options = []
    for name, value in config.options().items():
        word = name.replace("_", "-")
        if isinstance(value, bool):
            options.append(f"--{word}" if value else f"--no-{word}")
        elif value != Config.default(config.family.name)[name]:
            options += [f"--{word}", *map(str, value if isinstance(value, tuple) else [value])]
    return ["train", config.family.name, "--out", str(out), *options, *more]


@posix
@pytest.mark.parametrize(
    "where, at, left",
    [("before log", 2, None), pytest.param("after log", 7, 4, marks=pytest.mark.slow), ("arrays", 8, 4),
     pytest.param("json", 8, 4, marks=pytest.mark.slow), ("after save", 8, 8)],
)  # fmt: skip
def test_a_killed_run_goes_on_as_if_it_never_had_been(tmp_path, whole, where, at, left):
    config = small(compile=False)
    command = [sys.executable, "-c", KILLED, where, str(at), *arguments(config, tmp_path / "run")]
    assert subprocess.run(command, capture_output=True).returncode == -signal.SIGKILL
    run = Run.open(tmp_path / "run")
    assert max(run.checkpoints(), default=None) == left
    if left:
        assert run.load().iteration == left
    assert main(["train", "sinusoid", "--out", str(run.path), "--resume"]) == 0
    assert_same(run, whole(config))


def begun(command: list[str], out: Path) -> subprocess.Popen:
    """A process that is training, and has written to the log (or has ended)."""
    log = out / "log.jsonl"
    state = lambda: (log.stat().st_size, log.stat().st_mtime_ns) if log.exists() else None  # noqa: E731
    before = state()
    command = [sys.executable, "-m", "tinymaml", *command]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8")
    while state() == before and process.poll() is None:
        time.sleep(0.005)
    return process


@posix
def test_kills_at_random_moments_change_nothing(tmp_path):
    config, out = small(iterations=60, save_every=5, validate_every=20, compile=False), tmp_path / "run"
    moments, command = np.random.default_rng(0), arguments(config, out)
    for _ in range(2):
        process = begun(command, out)
        time.sleep(moments.uniform(0, 0.06))
        process.kill()
        process.communicate()
        command = ["train", "sinusoid", "--out", str(out), "--resume"]
        run = Run.open(out)
        assert [run.load(iteration).iteration for iteration in run.checkpoints()] == run.checkpoints()
    assert_same(trained(config, out, resume=True), trained(config, tmp_path / "whole"))


@posix
@pytest.mark.parametrize("number, code", [
    (signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)])  # fmt: skip
def test_a_process_asked_to_stop_saves_and_says_how_to_go_on(tmp_path, number, code, capsys):
    out = tmp_path / "run"
    process = begun(arguments(small(iterations=100_000, compile=False), out), out)
    assert process.poll() is None
    # Meanwhile nobody else can write here, and the attempt does the first no harm.
    assert main(["train", "sinusoid", "--out", str(out), "--resume"]) == 1
    assert f"tinymaml: another run is writing to {out}" in capsys.readouterr().err
    assert main(["train", "sinusoid", "--out", str(out)]) == 1
    assert f"tinymaml: {out} already holds a run: --resume continues it" in capsys.readouterr().err
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == code
    assert "Traceback" not in err
    assert number == signal.SIGTERM or f"tinymaml train sinusoid --out {out} --resume" in err
    done = Run.open(out).load().iteration
    assert len(Run.open(out).read_log()) == done
    assert main(["train", "sinusoid", "--out", str(out), "--resume", "--iterations", str(done + 3)]) == 0
    assert_same(out, trained(small(iterations=done + 3, compile=False), tmp_path / "whole"))


@posix
def test_a_second_process_is_turned_away_at_once(tmp_path):
    run = trained(small(iterations=1), tmp_path / "run")
    with run.lock():
        command = [sys.executable, "-m", "tinymaml", "train", "sinusoid", "--out", str(run.path), "--resume"]
        second = subprocess.run(command, capture_output=True, encoding="utf-8")
    assert second.returncode == 1
    assert second.stderr.splitlines()[-1].startswith(f"tinymaml: another run is writing to {run.path}")
    assert second.stderr.count("tinymaml: ") == 1 and "Traceback" not in second.stderr


# ── what goes wrong ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_run_is_not_started_over_another(whole):
    run = whole(small())
    before = (run.path / "log.jsonl").read_bytes()
    with pytest.raises(FileExistsError, match="already holds a run: --resume continues it"):
        trained(small(), run.path)
    assert (run.path / "log.jsonl").read_bytes() == before


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path, whole, monkeypatch, capsys):
    save = Run.save

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def saving(self, iteration, *rest):
        with pytest.MonkeyPatch.context() as patch:
            if iteration == 8:
                patch.setattr(os, "fsync", full)
            save(self, iteration, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "save", saving)
        assert main(arguments(small(), tmp_path / "run")) == 1
    err = capsys.readouterr().err
    assert err.splitlines()[-1].startswith("tinymaml: cannot write")
    assert err.splitlines()[-1].endswith("No space left on device")
    assert err.count("tinymaml:") == 1
    assert Run.open(tmp_path / "run").load().iteration == 4
    assert_same(trained(small(), tmp_path / "run", resume=True), whole(small()))


def test_divergence_of_the_inner_loop_names_task_step_and_loss(tmp_path):
    with pytest.raises(FloatingPointError, match=r"task 0, inner step 1: the support loss is (inf|nan)"):
        trained(small(inner_lr=1e30, inner_steps=3), tmp_path / "a")
    with pytest.raises(FloatingPointError, match=r"task 0: the query loss is (inf|nan)"):
        trained(small(inner_lr=1e30), tmp_path / "b")


def test_divergence_of_the_outer_loop_is_noticed_in_the_parameters(tmp_path):
    # Adam's step is β in every element, and float32 ends at 3.4e38.
    with pytest.raises(FloatingPointError, match="diverged at iteration 1: meta.* is not finite"):
        trained(small(meta_lr=1e39), tmp_path / "run")


def test_an_optimiser_that_overflows_is_noticed(tmp_path):
    """g² is infinite in float32 from |g| = 1.9e19 on: θ would then stand still for ever, and nothing would say so."""
    with pytest.raises(FloatingPointError, match="diverged at iteration 1: .*optimizer"):
        trained(small(inner_lr=1e6), tmp_path / "run")
    assert Run.open(tmp_path / "run").checkpoints() == []


def test_divergence_in_validation_says_so(tmp_path, monkeypatch):
    honest = SinusoidTasks.sample

    def steep(self, rng, tasks, split):
        (xs, ys), query = honest(self, rng, tasks, split)
        ys[1] = 1e30 if split == "val" else ys[1]
        return (xs, ys), query

    monkeypatch.setattr(SinusoidTasks, "sample", steep)
    for compiled in (True, False):
        with pytest.raises(FloatingPointError, match="^validation task 1, inner step 0: the support loss is inf"):
            trained(small(compile=compiled), tmp_path / f"{compiled}")


def test_what_was_saved_before_a_divergence_stays(tmp_path, whole, monkeypatch):
    honest = loop.compile

    def failing(meta):
        fast, calls = honest(meta), iter(range(100))

        def both(*args):
            if next(calls) == 6:
                raise FloatingPointError("task 1: the query loss is nan")
            return fast(*args)

        return both

    with monkeypatch.context() as patch:
        patch.setattr(loop, "compile", failing)
        with pytest.raises(FloatingPointError):
            trained(small(), tmp_path / "run")
    assert Run.open(tmp_path / "run").load().iteration == 4
    assert_same(trained(small(), tmp_path / "run", resume=True), whole(small()))


@pytest.mark.parametrize("module", ["tqdm", "threadpoolctl", "filelock", "safetensors.numpy"])
def test_a_missing_library_is_told_before_any_work(tmp_path, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r'pip install "tinymaml\[train\]"'):
        trained(small(), tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()


def test_omniglot_without_its_folder_is_told_before_any_work(tmp_path):
    with pytest.raises(ValueError, match="omniglot needs its images: --data PATH"):
        trained(Config.default("omniglot"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


# ── the log ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_log_has_a_line_for_each_iteration_and_the_validations_among_them(whole):
    text = (whole(small()).path / "log.jsonl").read_text(encoding="utf-8")
    records = [json.loads(line) for line in text.splitlines()]
    assert [record["iteration"] for record in records] == list(range(1, 13))
    assert all(np.isfinite([record["loss"], record["mse"]]).all() for record in records)
    assert [r["iteration"] for r in records if "validation_mse" in r] == [5, 10]


def test_a_validation_is_the_mean_metric_after_the_run_s_own_steps(whole):
    config = small(inner_steps=2, dtype="float64", validate_every=12)
    learned = restore(whole(config).path)
    loss, metrics, count = learned.learner.loss, [], config["validation_tasks"]
    stacked = learned.learner.sample(generator(config, VALIDATE), count, "val")
    for t in range(count):
        (xs, ys), (xq, yq) = (tuple(x[t] for x in part) for part in stacked)
        adapted = tm.adapt(lambda *a: loss(*a)[0], learned.meta, (xs, ys), inner_lr=config["inner_lr"], inner_steps=2)
        metrics.append(loss(adapted, xq, yq)[1])
    assert whole(config).read_log()[-1]["validation_mse"] == pytest.approx(np.mean(metrics), rel=1e-12)


# ── learning ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_meta_training_learns_to_learn_sine_waves(tmp_path):
    config = Config.default("sinusoid", shots=10, queries=10, tasks=4, inner_lr=0.05, inner_steps=2, meta_lr=0.01,
                            iterations=300, save_every=300, validate_every=300, decay=0)  # fmt: skip
    run = trained(config, tmp_path / "run")
    errors = [record["mse"] for record in run.read_log()]
    assert np.mean(errors[-50:]) < 0.65 * np.mean(errors[:20])
    after = evaluate(run.path, tasks=50, steps=2)["mean"]
    assert after[2] < 0.75 * after[0]  # by adaptation, not by a better mean wave


# ── evaluation ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_evaluation_is_the_mean_and_interval_of_each_task_s_error_after_each_step(whole):
    config = small(dtype="float64", inner_lr=0.02)
    path = whole(config).path
    learned = restore(path)
    network, family, params = learned.learner.network, learned.learner.family, learned.meta
    measured = []
    for t in range(5):
        stacked = family.sample(generator(config, TEST, t), 1, "test")
        support, (xq, yq) = (tuple(x[0] for x in part) for part in stacked)
        errors = []
        for k in range(4):
            loss = lambda p, x, y: np.mean((network.apply(p, x) - y) ** 2)  # noqa: E731
            adapted = tm.adapt(loss, params, support, inner_lr=0.02, inner_steps=k)
            errors.append(loss(adapted, xq, yq))
        measured.append(errors)
    result = evaluate(path, tasks=5, steps=3)
    assert (result["metric"], result["tasks"], result["steps"]) == ("mse", 5, [0, 1, 2, 3])
    np.testing.assert_allclose(result["mean"], np.mean(measured, 0), rtol=1e-12)
    np.testing.assert_allclose(result["ci95"], 1.96 * np.std(measured, 0, ddof=1) / np.sqrt(5), rtol=1e-10)


def test_the_same_run_gives_the_same_numbers_and_is_left_as_it_was(whole):
    path = whole(small()).path
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    assert evaluate(path, tasks=4, steps=2) == evaluate(path, tasks=4, steps=2)
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before


def test_an_older_checkpoint_can_be_asked_for(whole):
    path = whole(small()).path
    old, new = (evaluate(path, tasks=2, steps=1, iteration=i) for i in (4, None))
    assert (old["iteration"], new["iteration"]) == (4, 12) and old["mean"] != new["mean"]
    with pytest.raises(FileNotFoundError, match=r"no checkpoint 7 in .*: it has \[4, 8, 12\]"):
        evaluate(path, iteration=7)


def test_training_validation_and_test_never_share_a_wave():
    config = small()
    family = Learner(config).family
    waves = [
        family.waves(generator(config, stream, i), count)
        for stream, count in ((TRAIN, config["tasks"]), (VALIDATE, config["validation_tasks"]), (TEST, 1))
        for i in range(100)
    ]
    amplitudes = np.concatenate([w.amplitude.ravel() for w in waves])
    assert len(np.unique(amplitudes)) == len(amplitudes) == 500


def test_training_draws_from_train_and_val_and_evaluation_from_test(tmp_path, monkeypatch):
    drawn, honest = [], SinusoidTasks.sample
    monkeypatch.setattr(SinusoidTasks, "sample", lambda *args: drawn.append(args[2:]) or honest(*args))
    run = trained(small(iterations=2, validate_every=2), tmp_path / "run")
    assert drawn == [(2, "val"), (2, "train"), (2, "train"), (2, "train"), (2, "val")]  # first a trial of both
    evaluate(run.path, tasks=2, steps=1)
    assert drawn[5:] == [(1, "test"), (1, "test")]


@pytest.mark.parametrize("options, message", [
    (dict(tasks=1), "tasks is 1"), (dict(steps=-1), "steps -1"), (dict(tasks=-5), "tasks is -5"),
])  # fmt: skip
def test_an_evaluation_of_nothing_is_refused(whole, options, message):
    with pytest.raises(ValueError, match=message):
        evaluate(whole(small()).path, **options)


def test_an_evaluation_that_diverges_names_task_and_step(tmp_path):
    run = trained(small(inner_lr=1e25, inner_steps=0, iterations=1), tmp_path / "run")
    with pytest.raises(FloatingPointError, match="test task 0: .* the query metric after step 1 is (inf|nan)"):
        evaluate(run.path, tasks=2, steps=1)
    with pytest.raises(FloatingPointError, match="test task 0, inner step 1: the support loss is (inf|nan)"):
        evaluate(run.path, tasks=2, steps=2)


def test_an_evaluation_shows_from_which_step_on_some_tasks_diverge(tmp_path, monkeypatch):
    """Rates that were learned for one step make some tasks diverge after more: that is a result, not an error."""
    run = trained(small(inner_steps=1, iterations=1), tmp_path / "run")
    learned = restore(run.path)
    sample = learned.learner.family.sample

    def sampled(self, rng, tasks, split):
        (xs, ys), query = sample(rng, tasks, split)
        large = rng.random() < 0.5 and split == "test"  # then the support loss overflows after some steps
        return (xs * 1e6 if large else xs, ys), query

    monkeypatch.setattr(type(learned.learner.family), "sample", sampled)
    result = evaluate(run.path, tasks=12, steps=10)
    assert result["diverged"][0] == 0 and 0 < result["diverged"][10] < 12
    assert result["diverged"] == sorted(result["diverged"])
    for k in range(11):
        missing = result["mean"][k] is None
        assert missing == (result["ci95"][k] is None) == (result["diverged"][k] > 0)
    assert f"   10   diverges: {result['diverged'][10]} of 12 tasks" in table(result)
    json.dumps(result, allow_nan=False)


def test_before_the_first_iteration_a_run_is_what_its_network_was(whole, tmp_path):
    path = whole(small()).path
    scratch = evaluate(path, tasks=3, steps=2, iteration=0)
    assert scratch["iteration"] == 0 and scratch["seconds"] == 0
    assert scratch["mean"] != evaluate(path, tasks=3, steps=2)["mean"]
    Run.create(tmp_path / "run", small().to_json())  # it has no checkpoint yet
    assert evaluate(tmp_path / "run", tasks=3, steps=2, iteration=0) == scratch


def test_the_rate_can_be_tuned_on_validation_tasks(tmp_path, whole):
    """The result is that of a run whose inner rate was the best on the validation tasks."""
    path = whole(small()).path
    result = evaluate(path, tasks=3, steps=2, tune=True)
    assert result["tuned"] and f"inner rate {result['inner_lr']:g}, tuned on validation tasks" in table(result)
    learned, errors = restore(path), {}
    learner, meta = learned.learner, learned.meta
    tasks = learner.sample(generator(learned.config, VALIDATE), 2, "val")
    with np.errstate(all="ignore"):
        for rate in RATES:
            errors[rate] = 0
            for t in range(2):
                support, query = (tuple(x[t] for x in part) for part in tasks)
                try:
                    theta = tm.adapt(lambda *a: learner.loss(*a)[0], meta, support, inner_lr=rate, inner_steps=2)
                    errors[rate] += learner.loss(theta, *query)[1]
                except FloatingPointError:
                    errors[rate] = np.inf
    assert result["inner_lr"] == min(errors, key=errors.get)
    config = learned.config.changed(inner_lr=result["inner_lr"])
    other = Run.create(tmp_path / "other", config.to_json())
    with other.lock():
        iteration, arrays, about = Run.open(path).load()
        other.save(iteration, arrays, about)
    again = evaluate(other.path, tasks=3, steps=2)
    np.testing.assert_allclose(again["mean"], result["mean"], rtol=1e-6)


def test_what_has_no_rate_to_tune_says_so(tmp_path):
    run = trained(small(iterations=1, algorithm="meta-sgd", compile=False), tmp_path / "run")
    with pytest.raises(ValueError, match="no rate to tune: meta-sgd adapts alike whatever inner_lr is"):
        evaluate(run.path, tasks=2, steps=2, tune=True)


def test_many_tasks_are_measured_in_parts(whole, monkeypatch):
    path = whole(small()).path
    together = evaluate(path, tasks=7, steps=1)
    for limit, value in ("AT_ONCE", 3), ("BYTES", 1):
        with monkeypatch.context() as patch:
            patch.setattr(loop, limit, value)
            np.testing.assert_allclose(evaluate(path, tasks=7, steps=1)["mean"], together["mean"], rtol=1e-6)
    monkeypatch.setattr(loop, "AT_ONCE", 3)
    honest = SinusoidTasks.sample
    calls = iter(range(100))

    def steep(*args):
        (xs, ys), query = honest(*args)
        return (xs, ys * (1e30 if next(calls) == 5 else 1)), query

    learned = restore(path)
    monkeypatch.setattr(SinusoidTasks, "sample", steep)
    tasks = tree_map(lambda *xs: np.stack(xs), *[task(learned, "test", t) for t in range(7)])
    measure = loop.Measure(learned.learner, (0, 1))
    with pytest.raises(FloatingPointError, match="^task 5, inner step 0: the support loss is inf"):
        measure(learned.meta, tasks, learned.state.norms)
    calls = iter(range(100))
    assert evaluate(path, tasks=7, steps=1)["diverged"] == [0, 1]


def test_where_data_lies_is_no_option_of_a_run_without_data(whole):
    with pytest.raises(ValueError, match="has no option data that names a file or folder"):
        evaluate(whole(small()).path, data="elsewhere")


# ── Omniglot ────────────────────────────────────────────────────────────────────────────────────────────────────────


def tiny(data: Path | str, **changes) -> Config:
    settings = dict(iterations=3, tasks=2, queries=2, save_every=1, validate_every=2, validation_tasks=2)
    settings |= dict(scheme="official") | ({} if "network" in changes else dict(filters=4, blocks=1))
    return Config.default("omniglot", data=str(data), **{**settings, **changes})


read_once = cache(omniglot.load)


@pytest.fixture
def omniglot_once(monkeypatch):
    """Omniglot is read once, not for each run."""
    monkeypatch.setattr(omniglot, "load", read_once)


@pytest.mark.parametrize(
    "changes",
    [
        dict(compile=False),
        pytest.param({}, marks=pytest.mark.slow),
        pytest.param(dict(dtype="float64"), marks=pytest.mark.slow),
        pytest.param(dict(network="mlp", hidden=(8,)), marks=pytest.mark.slow),
    ],
)
def test_omniglot_goes_on_as_if_never_stopped_and_tests_on_characters_never_trained_on(
    tmp_path, omniglot_data, omniglot_once, changes
):
    config = tiny(omniglot_data, **changes)
    run = trained(config, tmp_path / "whole")
    stopped(config, tmp_path / "run", 1)
    stopped(config, tmp_path / "run", 2, resume=True)
    assert_same(trained(config, tmp_path / "run", resume=True), run)
    records = run.read_log()
    assert all(0 <= record["accuracy"] <= 1 for record in records)
    assert ["validation_accuracy" in record for record in records] == [False, True, False]
    result = evaluate(run.path, tasks=3, steps=2)
    assert result["metric"] == "accuracy" and all(0 <= mean <= 1 for mean in result["mean"])
    assert evaluate(run.path, tasks=3, steps=2) == result


@posix
@pytest.mark.slow
def test_a_killed_omniglot_run_goes_on_as_if_it_never_had_been(tmp_path, omniglot_data, omniglot_once):
    config = tiny(omniglot_data)
    command = [sys.executable, "-c", KILLED, "json", "2", *arguments(config, tmp_path / "run")]
    assert subprocess.run(command, capture_output=True).returncode == -signal.SIGKILL
    assert Run.open(tmp_path / "run").load().iteration == 1
    assert_same(trained(config, tmp_path / "run", resume=True), trained(config, tmp_path / "whole"))


def test_test_tasks_show_characters_that_training_and_validation_never_do(blank_omniglot):
    config = tiny("somewhere", scheme="1100/100/423")
    family = Learner(config).family
    shown = {}
    for split, stream in (("train", TRAIN), ("val", VALIDATE), ("test", TEST)):
        episodes = [family.episodes(generator(config, stream, i), 8, split) for i in range(40)]
        shown[split] = set(np.concatenate([(drawn.classes // 4).ravel() for drawn in episodes]).tolist())
    assert not (shown["train"] & shown["test"] or shown["train"] & shown["val"] or shown["val"] & shown["test"])
    assert len(shown["train"]) > 500 and len(shown["test"]) > 300


def test_an_omniglot_run_goes_on_where_its_data_lies_now(tmp_path, omniglot_data, omniglot_once):
    config = tiny(omniglot_data, compile=False)
    stopped(config, tmp_path / "run", 1)
    (tmp_path / "moved").symlink_to(omniglot_data)
    moved = resumed(tmp_path / "run", {"data": str(tmp_path / "moved")})
    run = trained(moved, tmp_path / "run", resume=True)
    assert run.config["family"]["data"] == str(tmp_path / "moved")
    assert_same(run, trained(config, tmp_path / "whole"))
    assert evaluate(run.path, tasks=2, steps=1) == evaluate(run.path, tasks=2, steps=1, data=config["data"])


@pytest.mark.slow
def test_the_conv_net_learns_to_tell_five_characters_apart(tmp_path, data_dir):
    config = Config.default("omniglot", data=str(data_dir / "omniglot"), tasks=16, iterations=120, validate_every=30)
    run = trained(config, tmp_path / "run")
    validated = [r["validation_accuracy"] for r in run.read_log() if "validation_accuracy" in r]
    assert len(validated) == 4 and validated[-1] > max(0.68, validated[0])
    after = evaluate(run.path, tasks=100, steps=3)["mean"]
    assert after[0] < 0.3 < 0.7 < after[3]  # it guesses before the first step


def test_compiled_training_has_the_curve_of_the_reference(tmp_path):
    """In float64 over a few iterations; later, and sooner in float32, Adam makes ±β of what is rounding alone."""
    curves = []
    for compiled in (True, False):
        run = trained(small(dtype="float64", iterations=6, compile=compiled), tmp_path / f"{compiled}")
        curves.append([record["loss"] for record in run.read_log()])
    assert len(curves[0]) == 6
    np.testing.assert_allclose(*curves, rtol=1e-10)
