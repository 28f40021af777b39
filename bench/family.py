"""Every algorithm on sine waves: the same budget, the same test tasks, three seeds.

    python -m bench family                     # trains what is not trained yet, measures it, prints the table, draws
    python -m bench family maml reptile        # these alone
    python -m bench family --time              # milliseconds per meta-iteration, everyone by turns
    python -m bench family --table             # the table and the picture from what is stored

A run is one command of `tinymaml train`, in a folder of its own below --runs; the algorithm's defaults for sine waves
are its settings. A study that was stopped goes on where it was, and two at a time share the work. What is measured of a
run is stored in bench/results/family, one small file per run.

Each run adapts to the same 600 test tasks, 10 steps, by its algorithm's own steps. Joint training and the untrained
network ("scratch") adapt by the rate that is best on validation tasks after 10 steps. In the table, ± is first the 95 %
interval over tasks (of one run, the mean over seeds), then the standard deviation over seeds.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinymaml.blas import libraries, one_thread
from tinymaml.files import write_atomically
from tinymaml.runs import Run
from tinymaml.runs.evaluate import evaluate
from tinymaml.runs.learner import Learner
from tinymaml.runs.loop import configuration, initial, make_step, train
from tinymaml.runs.settings import Config

from . import picture, timing

HERE = Path(__file__).parent
RUNS = "runs/family"
RESULTS, FIGURE = HERE / "results" / "family", HERE / "figures" / "family.png"
SEEDS, TASKS, STEPS = (0, 1, 2), 600, 10
TASK_SEED = 0  # of the test tasks, whatever the seed of the run
COLUMNS = (0, 1, 5, 10)  # steps, in the table
TURN = 0.2  # seconds of a turn of `--time`


class Entry(NamedTuple):
    """A line of the table: an algorithm on sine waves, and how it is measured.

    Attributes:
        label: its name in table and picture.   algorithm: as the command line has it.
        options: beside the defaults.
        trained: False: it adapts as it was before training.   tune: it adapts by the rate best on validation tasks.
        steps: it adapts that far. Beyond, rates that were learned for one step make some tasks diverge.
    """

    label: str
    algorithm: str
    options: dict[str, Any] = {}
    trained: bool = True
    tune: bool = False
    steps: int = STEPS


ENTRIES = {
    "maml": Entry("MAML", "maml"),
    "fomaml": Entry("FOMAML", "maml", {"first_order": True}),
    "reptile": Entry("Reptile", "reptile"),
    "anil": Entry("ANIL", "anil"),
    "boil": Entry("BOIL", "boil"),
    "cavia": Entry("CAVIA", "cavia"),
    "meta-sgd": Entry("Meta-SGD", "meta-sgd", steps=2),
    "mamlpp": Entry("MAML++", "mamlpp"),
    "imaml": Entry("iMAML", "imaml"),
    "hessian-free": Entry("HF-MAML", "hessian-free"),
    "proximal": Entry("Meta-MinibatchProx", "proximal"),
    "perturbed": Entry("Sharp-MAML, inside", "perturbed", {"inner_sharpness": 0.0005}),
    "joint": Entry("joint training", "joint", tune=True),
    "scratch": Entry("from scratch", "maml", {"iterations": 1}, trained=False, tune=True),
}
# Zintgraf et al., 2019, and the settings of their code (lmzintgraf/cavia, regression): 10 points, not 5.
THEIRS = {"shots": 10, "queries": 10, "meta_lr": 0.001, "schedule": "constant", "iterations": 50000}
PUBLISHED = {
    "cavia-published": Entry("CAVIA, published settings", "cavia", {**THEIRS, "context_clamp": 10.0}),
}
EVERY = ENTRIES | PUBLISHED


def settings(name: str, seed: int, **changes: Any) -> Config:
    """What a run of an entry is trained with."""
    entry = EVERY[name]
    return Config.default("sinusoid", algorithm=entry.algorithm, **{**changes, **entry.options, "seed": seed})


def commands(name: str, seed: int) -> list[str]:
    """The two commands that train an entry and measure it."""
    entry, out = EVERY[name], f"{RUNS}/{name}-{seed}"
    measured = f"tinymaml eval {out} --seed {TASK_SEED}" + (" --tune" if entry.tune else "")
    measured += f" --steps {entry.steps}" if entry.steps != STEPS else ""
    return [f"{command(name)} --seed {seed} --out {out}", measured + ("" if entry.trained else " --iteration 0")]


def command(name: str) -> str:
    """What a person types to train an entry."""
    entry = EVERY[name]
    options = (f"--{key.replace('_', '-')}" + ("" if value is True else f" {value}")
               for key, value in entry.options.items())  # fmt: skip
    return " ".join([f"tinymaml train sinusoid --algorithm {entry.algorithm}", *options])


# ── runs ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def run(
    name: str, seed: int, runs: Path, results: Path, *, tasks: int = TASKS, **changes: Any
) -> dict:
    """Train and measure an entry, as far as that is not done yet, and store the record.

    Raises:
        ValueError: the run's folder was trained with other settings.
        BlockingIOError: another process trains it at the moment.
    """
    entry = EVERY[name]
    config, out, file = settings(name, seed, **changes), runs / f"{name}-{seed}", results / f"{name}-{seed}.json"
    kept = json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
    if kept and is_of(kept, config, tasks, entry.steps):
        return kept
    started = (out / "config.json").exists()
    if started and configuration(Run.open(out)) != config:
        raise ValueError(f"{out} was trained with other settings: remove it, or take other --runs")
    train(config, out, resume=started, progress=sys.stderr.isatty())
    measured = evaluate(out, tasks=tasks, steps=entry.steps, tune=entry.tune, seed=TASK_SEED,
                        iteration=None if entry.trained else 0)  # fmt: skip
    record = {
        "entry": name, "seed": seed, "commands": commands(name, seed), "options": config.options(),
        **{key: measured[key] for key in ("metric", "tasks", "steps", "inner_lr", "tuned", "iteration")},
        "mean": [round(x, 5) for x in measured["mean"]], "ci95": [round(x, 5) for x in measured["ci95"]],
    }  # fmt: skip
    results.mkdir(parents=True, exist_ok=True)
    write_atomically(file, (json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode())
    return json.loads(file.read_text(encoding="utf-8"))


def is_of(record: dict, config: Config, tasks: int, steps: int) -> bool:
    """Whether a record was measured so, with the settings of `config`; options that one of them lacks do not count."""
    options = json.loads(json.dumps(config.options()))
    same = all(options[name] == value for name, value in record["options"].items() if name in options)
    return same and record["tasks"] == tasks and record["steps"][-1] == steps


def stored(results: Path) -> dict[str, list[dict]]:
    """The records of each entry, by seed."""
    files = {name: sorted(results.glob(f"{name}-[0-9]*.json")) for name in EVERY}
    return {name: [json.loads(f.read_text(encoding="utf-8")) for f in found] for name, found in files.items() if found}


# ── time ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def measure_time(names: Iterable[str], turns: int = 11, **changes: Any) -> dict:
    """{"ms": {entry: [median, quartile, quartile]}, …}: a meta-iteration from drawing tasks to the new θ, by turns.

    The iterations are the first of a training. "others" is the share of all cores that other programs took meanwhile.
    """
    found: dict[str, list[float]] = {}
    steps, states = {}, {}
    with one_thread(libraries("train")), np.errstate(over="ignore", invalid="ignore"):
        for name in (n for n in names if EVERY[n].trained):
            timing.say(f"compiling {name}")
            learner = Learner(settings(name, 0, **changes))
            state = initial(learner)
            steps[name], found[name] = make_step(learner, state), []
            for i in range(3):
                _, _, state = steps[name](i, state)
            states[name] = (3, state)
        own, all_, started = time.process_time(), timing.busy(), time.perf_counter()
        for turn in range(turns):
            timing.say(f"round {turn + 1} of {turns}")
            for name in list(steps)[:: 1 if turn % 2 else -1]:
                begin, count = time.perf_counter(), 0
                while not count or time.perf_counter() - begin < TURN:
                    i, state = states[name]
                    states[name] = (i + 1, steps[name](i, state)[2])
                    count += 1
                found[name].append(1e3 * (time.perf_counter() - begin) / count)
        others = timing.busy() - all_ - (time.process_time() - own)
        others /= (time.perf_counter() - started) * (os.cpu_count() or 1)
    timing.say()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {
        "ms": {name: [round(float(q), 4) for q in np.quantile(ms, (0.5, 0.25, 0.75))] for name, ms in found.items()},
        "others": round(max(others, 0.0), 3), "machine": timing.machine(cores),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }  # fmt: skip


# ── table ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class Row(NamedTuple):
    """An entry after 0 … 10 steps; each an array over steps.

    Attributes:
        mean: over tasks and seeds.   ci95: half the interval over tasks.   spread: over seeds; 0 if there is one.
        seeds: (seeds, steps + 1), the mean over tasks for each seed.
    """

    mean: np.ndarray
    ci95: np.ndarray
    spread: np.ndarray
    seeds: np.ndarray


def row(records: list[dict]) -> Row:
    seeds = np.array([r["mean"] for r in records])
    spread = seeds.std(0, ddof=1) if len(seeds) > 1 else np.zeros(seeds.shape[1])
    return Row(seeds.mean(0), np.mean([r["ci95"] for r in records], 0), spread, seeds)


def table(records: dict[str, list[dict]], times: dict | None = None) -> str:
    """As Markdown, a line per entry."""
    at = [k for k in COLUMNS if k < max(len(r["mean"]) for found in records.values() for r in found)]
    heads = ["", *(f"{k} steps" if k != 1 else "1 step" for k in at), "ms", "command"]
    lines = [heads, ["---", *["---:"] * (len(at) + 1), "---"]]
    for name, found in records.items():
        r = row(found)
        cells = [f"{r.mean[k]:.3f} ± {r.ci95[k]:.3f} ± {r.spread[k]:.3f}" if k < len(r.mean) else "–" for k in at]
        rates = sorted({record["inner_lr"] for record in found if record["tuned"]})
        how = f"`{command(name)}`" if EVERY[name].trained else "no training"
        how += f", `eval --tune` (α = {', '.join(f'{rate:g}' for rate in rates)})" if rates else ""
        ms = (times or {"ms": {}})["ms"].get(name)
        lines.append([EVERY[name].label, *cells, timing.digits(ms[0]) if ms else "", how])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def notes(records: dict[str, list[dict]], times: dict | None = None) -> list[str]:
    """What a reader must know beside the table: what is missing, what is not of today's defaults, what disturbed."""
    seeds = {name: [r["seed"] for r in found] for name, found in records.items()}
    lacking = [name for name in EVERY if set(SEEDS) - set(seeds.get(name, []))]
    stale = [f"{name}-{r['seed']}" for name, found in records.items() for r in found
             if not is_of(r, settings(name, r["seed"]), r["tasks"], r["steps"][-1])]  # fmt: skip
    said = [f"not all of the seeds {', '.join(map(str, SEEDS))}: {', '.join(lacking)}"] if lacking else []
    said += [f"not of today's defaults: {', '.join(stale)}"] if stale else []
    if times:
        about = times["machine"]
        said.append(f"ms per meta-iteration: {about['cpu']}, {about['cores']} cores, {times['date'][:10]};"
                    f" other programs took {100 * times['others']:.0f} % of the cores")  # fmt: skip
    return said


def title(records: dict[str, list[dict]]) -> str:
    """Of the picture: what all records share."""
    first = next(iter(records.values()))[0]
    iterations = max(r["options"]["iterations"] for found in records.values() for r in found)
    seeds = {r["seed"] for found in records.values() for r in found}
    return (f"Sine waves, {first['options']['shots']}-shot, {first['tasks']} test tasks, seeds"
            f" {', '.join(map(str, sorted(seeds)))}, {iterations:,} meta-iterations each")  # fmt: skip


# ── the command ─────────────────────────────────────────────────────────────────────────────────────────────────────


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench family", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(EVERY)} (all)")
    parser.add_argument("--runs", default=RUNS, metavar="FOLDER", help=f"where the runs are ({RUNS})")
    parser.add_argument("--table", action="store_true", help="train nothing: show and draw what is stored")
    parser.add_argument("--time", action="store_true", help="train nothing: measure and store ms per meta-iteration")
    args = parser.parse_args(argv)
    if unknown := [n for n in args.names if n not in EVERY]:
        parser.error(f"no entry {', '.join(unknown)}; wanted of {', '.join(EVERY)}")
    names, failed = args.names or list(EVERY), 0
    try:
        if args.time:
            RESULTS.mkdir(parents=True, exist_ok=True)
            write_atomically(RESULTS / "time.json", (json.dumps(measure_time(names), indent=1) + "\n").encode())
        elif not args.table:
            failed = _train(names, Path(args.runs))
    except KeyboardInterrupt:
        timing.say()
        print("stopped; the same command goes on", file=sys.stderr)
        return 130
    records = stored(RESULTS)
    if not records:
        print("nothing is stored yet", file=sys.stderr)
        return 1
    times = json.loads(file.read_text(encoding="utf-8")) if (file := RESULTS / "time.json").exists() else None
    print("\n".join([table(records, times), "", *notes(records, times)]))
    if drawn := {name: found for name, found in records.items() if name in ENTRIES}:
        FIGURE.parent.mkdir(exist_ok=True)
        rows = {ENTRIES[name].label: row(found) for name, found in drawn.items()}
        picture.save(picture.family(rows, title(drawn)), FIGURE)
    return failed


def _train(names: list[str], runs: Path) -> int:
    """Train and measure all seeds of all; those that another process is at are left to it. 1: something failed."""
    failed = 0
    for seed in SEEDS:
        for name in names:
            timing.say(f"{name}, seed {seed}")
            try:
                run(name, seed, runs, RESULTS)
            except BlockingIOError:
                timing.say(f"{name}, seed {seed}: another process is at it")
            except (FloatingPointError, ValueError, OSError) as error:
                timing.say()
                print(f"{name}, seed {seed}: {error}", file=sys.stderr)
                failed = 1
    return failed
