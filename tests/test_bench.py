"""The benchmark: everyone computes the same gradient, work is counted right, and so is the arithmetic on times."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import time

import numpy as np
import pytest

import tinymaml as tm
from bench import __main__ as command
from bench import family, kernels, load, peers, picture, scaling, timing
from bench.workloads import WORKLOADS, Workload, flops
from tinymaml.algorithms import ALGORITHMS, takes_any
from tinymaml.families import sinusoid
from tinymaml.runs.settings import Config

SMALL = Workload("mlp", (1,), (5, 4), 1, tasks=3, support=4, query=6, inner_steps=2, inner_lr=0.1)
SMALL_ONES = {
    "mlp": SMALL,
    "norm": SMALL._replace(kind="norm", inner_steps=1, input_shape=(2, 2, 1), outputs=3),
    "conv": SMALL._replace(kind="conv", inner_steps=1, input_shape=(7, 6, 2), widths=(3,), outputs=3),
    "pool": SMALL._replace(kind="pool", inner_steps=1, input_shape=(7, 6, 2), widths=(3, 3), outputs=3),
}
CASES = [(kind, name) for kind in SMALL_ONES for name, c in peers.CONTENDERS.items() if kind in c.kinds]


# ── the contenders ──────────────────────────────────────────────────────────────────────────────────────────────────


def gradients(name: str, w: Workload) -> dict:
    value, grads = peers.CONTENDERS[name].build(w, *w.data(np.float64))()
    return {"value": np.asarray(value)} | {path: np.asarray(g) for path, g in tm.tree_items(grads)}


# JAX and Numba compile for seconds: by default each way to convolve has one case, and each way to go over tasks.
COMPILED = [("mlp", "compiled"), ("mlp", "jax"), ("conv", "jax-lax"), ("conv", "jax-map")]


def by_default(kind: str, name: str) -> bool:
    return (kind, name) in COMPILED or name.partition("-")[0] not in ("jax", "compiled")


@pytest.mark.parametrize("kind, name", [
    pytest.param(*c, marks=() if by_default(*c) else pytest.mark.slow) for c in CASES
    if c[1] not in ("reference", "torch-compile")
])  # fmt: skip
def test_everyone_computes_the_same_value_and_gradient(kind, name):
    for module in peers.CONTENDERS[name].modules:
        pytest.importorskip(module)
    wanted, seen = gradients("reference", SMALL_ONES[kind]), gradients(name, SMALL_ONES[kind])
    assert seen.keys() == wanted.keys()
    largest = max(np.max(np.abs(g)) for g in wanted.values())
    for path, g in wanted.items():
        np.testing.assert_allclose(seen[path], g, rtol=0, atol=1e-12 * largest, err_msg=path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", SMALL_ONES)
def test_so_does_torch_compile(kind):
    if "torch-compile" not in timing.able(kind, ["torch-compile"])[0]:
        pytest.skip("no PyTorch, or no C++ compiler")
    test_everyone_computes_the_same_value_and_gradient(kind, "torch-compile")


def test_who_is_not_installed_is_left_out_with_the_command_that_installs_it(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "jax" else find(name))
    able, skipped = timing.able("mlp", None)
    assert "reference" in able and "jax" not in able
    assert skipped["jax"] == 'jax is not installed: pip install "tinymaml[peers]"'
    assert timing.able("mlp", ["autograd", "reference"])[0] == [n for n in able if n in ("autograd", "reference")]


# ── the work ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("steps", [1, 3])
def test_the_products_of_a_meta_gradient_are_counted_as_by_hand(steps):
    """A layer (a, b) and N examples: N a b multiplications a product. The query: forward, weights' gradient, and, but
    for the first layer, the input's. An inner step has these, and going back through it each product is two, but for
    those whose one factor is the input x: the first layer's forward and weights' gradient, which are one."""
    w = SMALL._replace(inner_steps=steps)
    first, others = 1 * 5, 5 * 4 + 4 * 1
    query, step = 2 * first + 3 * others, 4 * first + 9 * others
    assert flops(w) == 2 * w.tasks * (w.query * query + steps * w.support * step)
    assert flops(WORKLOADS["W1"]) == 2 * 25 * (10 * (2 * 40 + 3 * 1640) + 10 * (4 * 40 + 9 * 1640))


def test_counting_leaves_the_engine_as_it_was():
    flops(SMALL)
    assert tm.ops._matmul.forward is np.matmul


# ── arithmetic on times ─────────────────────────────────────────────────────────────────────────────────────────────


def turns(*seconds, start=1):
    return {i: {"seconds": s, "calls": 3, "peak": 2**20, "idle_cpu": 0.0} for i, s in enumerate(seconds, start)}


def test_ratios_compare_neighbours_and_not_medians():
    # the machine is ten times slower in rounds 2 and 3, and the fastest missed the first
    slow, fast = {1: 9.0, 2: 20.0, 3: 30.0, 4: 3.0}, {2: 10.0, 3: 10.0, 4: 1.0}
    assert timing.ratio(slow, fast) == 3  # of 2, 3, 3
    assert timing.ratio({0: 6.0}, {1: 1.0, 2: 2.0, 3: 9.0}) == 3  # no round in common: of medians


def test_a_summary_has_medians_the_fastest_peer_and_fractions_of_the_limit():
    found = {
        "compiled": {"turns": turns(1.0, 2.0, 3.0), "first_call": 5.0},
        "jax": {"turns": turns(2.0, 4.0, 9.0)},
        "torch-func": {"turns": turns(40.0, start=0)},
        "torch-loop": {"turns": {}, "error": "ran away"},
        "gemm": {"turns": turns(2.0, 2.0)},
        "gemm-ZEN": {"turns": turns(1.0, 1.0)},
    }
    summary = timing.summary(found, ["gemm", "gemm-ZEN"], work=peers.GEMM_FLOPS)
    assert summary["fastest_peer"] == "jax"  # ours is none
    assert summary["gemm"] == {"gemm": peers.GEMM_FLOPS / 2, "gemm-ZEN": peers.GEMM_FLOPS}
    ours = summary["contenders"]["compiled"]
    assert (ours["median"], ours["quartiles"], ours["min"], ours["max"]) == (2, [1.5, 2.5], 1, 3)
    assert (ours["ratio"], ours["fraction"], ours["first_call"], ours["peak"]) == (0.5, 0.5, 5, 2**20)
    assert summary["contenders"]["jax"]["ratio"] == 1
    assert summary["contenders"]["torch-func"]["ratio"] == 10
    assert summary["contenders"]["torch-loop"] == {"error": "ran away"}
    assert "gemm" not in summary["contenders"]


def test_the_exponent_is_that_of_the_larger_half():
    sizes = [1, 2, 4, 8, 16, 32]
    assert np.isclose(scaling.exponent(sizes, [5, 5, 5, 8**2, 16**2, 32**2]), 2)
    assert np.isclose(scaling.exponent([1, 2], [3, 1.5]), -1)
    assert scaling.exponent([4], [1.0]) is None


# ── processes ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_worker_times_compares_and_outlives_an_error(tmp_path):
    with timing.Worker("reference", SMALL, "float64", 1, str(tmp_path)) as worker:
        assert worker.about["versions"]["numpy"] == np.__version__
        assert worker.ask("first")["seconds"] > 0
        turn = worker.ask("turn", seconds=0.01)
        assert turn["calls"] >= 1 and 0 < turn["seconds"] < 10 and turn["peak"] >= 0
        file = str(tmp_path / "exact.npz")
        worker.ask("save", to=file)
        timing._agrees("W0", worker, file)
        with np.load(file) as exact:
            leaves = dict(exact)
        leaves["['linear0']['w']"][0, 0] += 1e-8 * max(np.max(np.abs(g)) for g in leaves.values())
        np.savez(file, **leaves)
        with pytest.raises(timing.Disagreement, match=r"W0: the gradients of reference and .* 1\.0e-08 of the largest"):
            timing._agrees("W0", worker, file)
        with pytest.raises(timing.Failed, match="reference: FileNotFoundError"):
            worker.ask("compare", to="nowhere.npz")
        assert worker.ask("turn", seconds=0.01)["calls"] >= 1
        with pytest.raises(timing.Failed, match="reference: given up after 0.01 s of its turn call"):
            worker.ask("turn", seconds=0.5, patience=0.01)
    with pytest.raises(ProcessLookupError):
        os.killpg(worker.process.pid, 0)


class Puppet:
    """In the place of a Worker: `script(name, what, nth)` is its answer, beyond a turn of a second."""

    alive = 0
    script = staticmethod(lambda name, what, nth: None)

    def __init__(self, name, *_):
        self.name, self.asked, self.about = name, 0, {"versions": {}}
        Puppet.alive += 1

    def ask(self, what, **_):
        self.asked += 1
        answer = {"seconds": 1.0, "pools": [], "calls": 1, "peak": 0, "idle_cpu": 0.0, "cpu": 0.0}
        return answer | (Puppet.script(self.name, what, self.asked) or {})

    def close(self):
        Puppet.alive -= self.about is not None
        self.about = None

    __enter__, __exit__ = lambda self: self, lambda self, *_: self.close()


@pytest.fixture
def measure(monkeypatch):
    monkeypatch.setattr(timing, "Worker", Puppet)

    def measured(script, names=("reference", "jax"), **how):
        monkeypatch.setattr(Puppet, "script", staticmethod(script))
        return timing.measure("W0", SMALL, "float32", list(names), turns=4, cores=1, **how)

    yield measured
    assert Puppet.alive == 0


def test_ctrl_c_keeps_the_rounds_there_are_and_ends_the_workers(measure):
    def script(name, what, nth):
        if name == "jax" and nth == 5:
            raise KeyboardInterrupt

    record = measure(script)
    assert record["interrupted"]
    assert 2 <= len(record["contenders"]["jax"]["seconds"]) <= len(record["contenders"]["reference"]["seconds"]) < 4
    assert "interrupted" in timing.table(record)


def test_who_fails_is_left_out_with_the_reason_and_the_others_go_on(measure, capsys):
    def script(name, what, nth):
        if name == "jax" and nth == 4:
            raise timing.Failed("jax: no memory")

    record = measure(script)
    assert len(record["contenders"]["reference"]["seconds"]) == 4 and not record["interrupted"]
    assert record["contenders"]["jax"]["error"] == "jax: no memory"
    assert "W0 float32: jax: no memory" in capsys.readouterr().err


def test_who_is_far_slower_has_one_turn(measure):
    record = measure(lambda name, what, nth: {"seconds": 50.0 if name == "jax" else 1.0})
    assert record["contenders"]["jax"]["seconds"] == [50.0]
    assert len(record["contenders"]["reference"]["seconds"]) == 4


def test_a_wrong_gradient_stops_the_workload(measure):
    with pytest.raises(timing.Disagreement, match="jax and reference are 1.0e-03 of the largest entry apart"):
        measure(lambda name, what, nth: {"apart": 1e-3 if name == "jax" else 0.0}, exact="exact.npz")


def test_tables_and_pictures_show_everyone_measured(measure):
    record = measure(lambda name, what, nth: {"seconds": 0.25 if name == "reference" else 0.5})
    title, head, *lines = timing.table(record).splitlines()
    assert title.startswith("W0 float32: ") and "× jax" in head
    assert re.match(r"  reference +250 \(250 … 250\) +0\.50 ", lines[0])
    assert re.match(r"  jax +500 \(500 … 500\) +1\.00 ", lines[1])
    ax = picture.workloads([record]).axes[0]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["jax", "reference"]
    assert {"500 ms  ×1.00", "250 ms  ×0.50"} <= {text.get_text() for text in ax.texts}


# ── beside busy processes ───────────────────────────────────────────────────────────────────────────────────────────


def ended(pid: int, within: float = 30) -> bool:
    """Whether a process that is not a child of ours is gone soon."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        try:
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] == "Z":
                    return True
        except FileNotFoundError:
            return True
        time.sleep(0.05)
    return False


def test_busy_processes_count_and_end_with_their_block_whatever_ends_it():
    for cause in (KeyboardInterrupt, ValueError):
        with pytest.raises(cause), load.busy(2) as processes:
            assert len({os.getsid(p.pid) for p in processes} - {os.getsid(0)}) == 2  # not reached by Ctrl-C
            assert all(p.poll() is None for p in processes)
            raise cause
        assert all(p.poll() is not None for p in processes)


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="looks into /proc")
def test_busy_processes_end_when_the_bench_is_killed():
    lines = "from bench import load", "with load.busy(1) as (p,):", "    print(p.pid, flush=True)", "    input()"
    child = subprocess.Popen(
        [sys.executable, "-c", "\n".join(lines)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        cwd=os.path.dirname(os.path.dirname(load.__file__)),
    )  # fmt: skip
    spinning = int(child.stdout.readline())
    assert not ended(spinning, within=0.1)
    child.kill()
    child.communicate()
    assert ended(spinning)


def test_a_worker_times_every_call(tmp_path):
    with timing.Worker("reference", SMALL, "float64", 1, str(tmp_path)) as worker:
        worker.ask("first")
        each = worker.ask("calls", most=3, seconds=60)["each"]
        assert len(each) == 3 and all(seconds > 0 for seconds in each)
        assert len(worker.ask("calls", most=1000, seconds=0.0)["each"]) == 1


@pytest.fixture
def beside(monkeypatch):
    monkeypatch.setattr(timing, "Worker", Puppet)

    def measured(script, names=("compiled", "compiled-1", "jax"), loads=(0, 1)):
        answer = lambda name, what, nth: {"warnings": [], "each": [1.0]} | (script(name, what, nth) or {})  # noqa: E731
        monkeypatch.setattr(Puppet, "script", staticmethod(answer))
        return load.measure("W0", SMALL, "float32", list(names), loads=list(loads), turns=3, cores=1)

    yield measured
    assert Puppet.alive == 0


def test_medians_are_of_all_calls_and_ratios_of_the_medians_under_the_same_load(beside, monkeypatch):
    running = []
    spin = load.busy
    monkeypatch.setattr(load, "busy", lambda count: running.append(count) or spin(count))
    each = {"compiled": [0.001, 0.002, 0.009], "compiled-1": [0.001], "jax-map": [0.004], "jax-lax": [0.003]}

    def script(name, what, nth):
        slower = 10 if running and running[-1] else 1
        return {"each": [slower * seconds for seconds in each[name]]}

    record = beside(script, names=list(each))
    assert running == [0, 1, 1, 0, 0, 1]
    quiet, loaded = (record["contenders"]["compiled"]["loads"][n] for n in ("0", "1"))
    assert (quiet["seconds"], quiet["percentile"], quiet["calls"], quiet["turns"]) == (0.002, 0.009, 9, [0.002] * 3)
    assert np.isclose(quiet["jax"], 2 / 3) and np.isclose(quiet["single"], 2)
    assert np.isclose(loaded["seconds"], 0.02) and np.isclose(loaded["jax"], 2 / 3)
    lines = load.table(json.loads(json.dumps(record))).splitlines()
    assert re.fullmatch(r"  compiled +0 +2 \(9\) +0\.67 +2\.00 +9", lines[2])
    assert re.fullmatch(r"  compiled +1 +20 \(90\) +0\.67 +2\.00 +9", lines[3])
    ax = picture.load([record]).axes[0]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["0", "1"]
    (line,) = (line for line in ax.lines if line.get_label() == "compiled")
    assert np.allclose(line.get_ydata(), [2, 20])


def test_without_jax_there_is_no_ratio_to_it(beside):
    record = beside(lambda name, what, nth: None, names=["compiled"])
    here = record["contenders"]["compiled"]["loads"]["0"]
    assert here["jax"] is None and here["single"] is None
    assert "compiled" in load.table(record)


def test_ctrl_c_keeps_the_calls_there_are_and_who_fails_is_left_out(beside, capsys):
    def script(name, what, nth):
        if name == "jax" and nth == 3:
            raise timing.Failed("jax: no memory")
        if name == "compiled" and nth == 5:
            raise KeyboardInterrupt

    record = beside(script)
    assert record["interrupted"] and record["contenders"]["jax"]["error"] == "jax: no memory"
    assert "W0 float32: jax: no memory" in capsys.readouterr().err
    assert [len(record["contenders"][who]["loads"]["0"]["turns"]) for who in ("compiled", "jax")] == [1, 1]
    assert "interrupted" in load.table(record) and re.search(r"jax +failed", load.table(record))


def test_the_command_measures_load_and_keeps_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(WORKLOADS, "W1", SMALL)
    file, plot = tmp_path / "load.json", tmp_path / "load.png"
    line = f"load W1 --busy 1,0 --only reference --turns 1 --json --out {file} --plot {plot}"
    monkeypatch.setattr(load, "CALLS", 3)
    assert command.main(line.split()) == 0
    record = json.loads(file.read_text())
    assert record == json.loads(capsys.readouterr().out) and record["busy"] == [0, 1]
    assert {n: one["calls"] for n, one in record["contenders"]["reference"]["loads"].items()} == {"0": 3, "1": 3}
    assert plot.read_bytes().startswith(b"\x89PNG")


# ── the command ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "line, message",
    [
        ("W9", "no workload W9; wanted of W1, W2"),
        ("scaling depth", "no study depth; wanted of tasks, steps, width, threads"),
        ("overhead W1", "overhead takes no names, seen W1"),
        ("W1 --only jax,torhc", "no contender torhc; wanted of reference, "),
        ("W1 --turns 0", "--turns is 0, wanted at least 1"),
        ("W1 --threads 0", "--threads is 0, wanted 1 … "),
        ("W1 --plot nowhere/a.png", "cannot write nowhere/a.png: "),
        ("load W1 --busy two", "--busy is two, wanted numbers with commas"),
        ("load W1 --busy 0,-1", "--busy is -1, wanted at least 0"),
        ("W1 --dtype float16", "invalid choice: 'float16'"),
    ],
)
def test_bad_input_is_one_clear_error(line, message, capsys):
    with pytest.raises(SystemExit) as stop:
        command.main(line.split())
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


# ── kernels ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("either_code")
@pytest.mark.parametrize("kind", [pytest.param("mlp", marks=pytest.mark.slow), "conv"])
def test_kernels_are_all_steps_of_one_task(kind, capsys, monkeypatch):
    pytest.importorskip("numba")
    monkeypatch.setitem(WORKLOADS, "W1", SMALL_ONES[kind])
    record = kernels.measure("W1", SMALL_ONES[kind], "float64", turns=2)
    found = record["kernels"]
    assert {"matrix products", "fused loops", "zero"} <= set(found) and ("patches" in found) == (kind == "conv")
    assert 0 < found["matrix products"]["flops"] <= flops(SMALL_ONES[kind]) / SMALL_ONES[kind].tasks
    assert sum(one["flops"] for one in found.values()) == found["matrix products"]["flops"]
    assert np.isclose(sum(one["seconds"] for one in found.values()), record["seconds"])
    assert "matrix products" in kernels.table(record)
    assert command.main(["kernels", "W1", "--turns", "1", "--dtype", "float64", "--json"]) == 0
    assert '"fused loops"' in capsys.readouterr().out


# ── every algorithm on sine waves ───────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def small(monkeypatch, tmp_path):
    """The study of three entries and two seeds, which a moment trains, in a folder of the test's."""
    entries = {name: family.ENTRIES[name] for name in ("maml", "meta-sgd", "scratch")}
    tiny = dict(iterations=2, tasks=3, hidden=(5,), compile=False, validation_tasks=2)
    entries = {name: entry._replace(options=entry.options | tiny) for name, entry in entries.items()}
    for name, value in dict(ENTRIES=entries, EVERY=entries, SEEDS=(0, 1), TASKS=4, RESULTS=tmp_path / "results",
                            FIGURE=tmp_path / "figures" / "family.png").items():  # fmt: skip
        monkeypatch.setattr(family, name, value)
    measure = family.measure
    monkeypatch.setattr(family, "measure", lambda name, runs: measure(name, runs, tasks=4))
    return tmp_path


def test_every_algorithm_has_an_entry():
    assert {entry.algorithm for entry in family.ENTRIES.values()} == {
        name for name, algorithm in ALGORITHMS.items() if takes_any(algorithm)
    }
    for name in family.EVERY:
        assert family.settings(name, 2)["seed"] == 2


def test_the_command_of_an_entry_gives_its_settings():
    for name, entry in family.EVERY.items():
        words = family.command(name).split()[4:]
        assert words[0] == entry.algorithm
        assert {word[2:].replace("-", "_") for word in words if word.startswith("--")} == set(entry.options)
    assert family.command("fomaml") == "tinymaml train sinusoid --algorithm maml --first-order"
    assert family.commands("scratch")[-1].endswith("runs/family/maml-2 --scratch")


def test_defaults_of_sine_waves_for_an_algorithm_are_options_that_it_has():
    for name, values in sinusoid.defaults_for.items():
        config = Config.default("sinusoid", algorithm=name)
        assert {key: config[key] for key in values} == values
        assert Config.default("sinusoid", algorithm=name, **dict.fromkeys(values, 3))[next(iter(values))] == 3


def test_the_study_trains_what_is_not_trained_and_shows_what_is_stored(small, capsys, monkeypatch):
    line = ["family", "--runs", str(small / "runs")]
    assert command.main([*line, "maml"]) == 0
    shown = capsys.readouterr().out
    assert "tinymaml train sinusoid --algorithm maml --iterations 2" in shown
    assert "not measured yet: meta-sgd, scratch" in shown
    before = {file: file.stat().st_mtime_ns for file in small.glob("r*/**/*.*")}
    assert command.main(line) == 0
    assert "not measured" not in capsys.readouterr().out
    assert {file: file.stat().st_mtime_ns for file in before} == before  # nothing is trained or measured again
    monkeypatch.setattr(family, "run", None)
    assert command.main(["family", "--table"]) == 0
    head, _, *rows = capsys.readouterr().out.split("\n\n")[0].splitlines()
    assert [cell.strip() for cell in head.split("|")[2:6]] == ["0 steps", "1 step", "5 steps", "10 steps"]
    assert [row.split("|")[1].strip() for row in rows] == ["MAML", "Meta-SGD", "from scratch"]
    record = json.loads((small / "results" / "maml.json").read_text())
    assert f"{record['mean'][1]:.3f} ± {record['ci95'][1]:.3f} ± {record['spread'][1]:.3f}" in rows[0]
    assert (small / "figures" / "family.png").read_bytes().startswith(b"\x89PNG")


def test_other_settings_are_named_and_nothing_is_trained_over(small, capsys):
    line = ["family", "maml", "--runs", str(small / "runs")]
    assert command.main(line) == 0
    file = small / "results" / "maml.json"
    record = json.loads(file.read_text())
    file.write_text(json.dumps(record | {"options": record["options"] | {"inner_lr": 7.0}}))
    assert command.main(["family", "--table"]) == 0
    assert "not of today's defaults, or seeds: maml" in capsys.readouterr().out
    config = small / "runs" / "maml-0" / "config.json"
    edited = json.loads(config.read_text().replace('"inner_lr": 0.005', '"inner_lr": 0.25'))
    edited.pop("seal")
    config.write_text(json.dumps(edited))
    assert command.main(line) == 1
    assert "was trained with other settings: remove it, or take other --runs" in capsys.readouterr().err


def test_what_diverges_is_shown_as_far_as_it_gets():
    runs = [{"seed": seed, "tuned": False, "inner_lr": 0.1, "diverged": seed} for seed in (0, 1, 2)]
    record = {"tasks": 600, "mean": [3.0, 0.4, 50.0, None], "ci95": [0.1] * 4, "spread": [0.1] * 4, "runs": runs}
    assert family.reached(record) == 2 and family.reached(record | {"mean": [3.0, 2.0]}) == 2
    shown = family.table({"meta-sgd": record | {"mean": [3.0, 0.4, 50.0, 60.0, 70.0, 80.0] + [None] * 5}})
    cells = [cell.strip() for cell in shown.splitlines()[2].split("|")]
    assert cells[2:6] == ["3.000 ± 0.100 ± 0.100", "0.400 ± 0.100 ± 0.100", "diverges", "diverges"]


def test_time_is_measured_by_turns(small, monkeypatch):
    monkeypatch.setattr(family, "TURN", 0.01)
    record = family.measure_time(["maml", "scratch"], turns=2)
    assert set(record["ms"]) == {"maml"} and all(ms > 0 for ms in record["ms"]["maml"])
    assert 0 <= record["others"] <= 1 and record["cores"] >= 1


def test_labels_that_are_too_close_are_spread_around_their_mean():
    assert np.allclose(picture.spread_out(np.array([0.0, 5.0]), 1), [0, 5])
    assert np.allclose(picture.spread_out(np.array([0.0, 0.1, 0.2, 5.0]), 1), [-0.9, 0.1, 1.1, 5])
    many = picture.spread_out(np.sort(np.random.default_rng(0).normal(size=14)), 0.3)
    assert np.diff(many).min() > 0.3 - 1e-9


def test_what_is_stored_is_whole_and_shows_what_it_must():
    records = family.stored(family.RESULTS)
    assert set(records) >= {*family.NAMED, *family.PUBLISHED}
    assert all(len(record["runs"]) == 3 and record["tasks"] == 600 for record in records.values())
    after = {name: record["mean"][1] for name, record in records.items()}
    assert max(after["meta-sgd"], after["mamlpp"]) < after["maml"] < after["joint"] < after["scratch"]
