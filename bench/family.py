"""Every algorithm on sine waves: the same budget, the same test tasks, three seeds.

    python -m bench family                     # trains what is not trained yet, measures it, prints the table, draws
    python -m bench family maml reptile        # these alone
    python -m bench family --time              # milliseconds per meta-iteration, all by turns
    python -m bench family --table             # the table and the picture of what is stored

A run is one command of `tinymaml train`, in a folder of its own below --runs; its settings are the defaults of the
algorithm for sine waves. A study that was stopped goes on where it was, and two at a time share the work. What is
measured is `tinymaml compare` of the three runs of an entry; it is stored in bench/results/family, one small file each.

Each run adapts to the same 600 test tasks, 10 steps, by its algorithm's own steps; joint training and the untrained
network ("scratch") by gradient descent at the rate that is best on validation tasks after 10 steps. In the table, ± is
first the 95 % interval over tasks, then the standard deviation over seeds.

Notes on the numbers: Meta-SGD and MAML++ learn rates for one step and for five. In as many steps these reach
far, in more of them too far. Reptile and Meta-MinibatchProx learn from the 5 support points of a task alone, the others
from its 15 query points, too. iMAML trains with 32 small steps, of which 10 are shown.
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

from tinymaml.algorithms import ALGORITHMS, takes_any
from tinymaml.blas import libraries, one_thread
from tinymaml.pictures import style
from tinymaml.runs import Run
from tinymaml.runs.compare import compare
from tinymaml.runs.learner import Learner
from tinymaml.runs.loop import initial, make_step
from tinymaml.runs.settings import Config

from . import picture, study, timing
from .study import store

HERE = Path(__file__).parent
RUNS = "runs/family"
RESULTS, FIGURE = HERE / "results" / "family", HERE / "figures" / "family.png"
SEEDS, TASKS, STEPS = (0, 1, 2), 600, 10
COLUMNS = (0, 1, 5, 10)  # steps, in the table
TURN = 0.2  # seconds of a turn of `--time`


class Entry(NamedTuple):
    """A line of the table: an algorithm on sine waves.

    Attributes:
        label: its name in table and picture.   algorithm: as the command line has it.
        options: beside the defaults.
        trained: False: what is measured is the network before training, of the runs of the entry `maml`.
    """

    label: str
    algorithm: str
    options: dict[str, Any] = {}
    trained: bool = True


NAMED = {
    "maml": Entry("MAML", "maml"),
    "fomaml": Entry("FOMAML", "maml", {"first_order": True}),
    "reptile": Entry("Reptile", "reptile"),
    "anil": Entry("ANIL", "anil"),
    "boil": Entry("BOIL", "boil"),
    "cavia": Entry("CAVIA", "cavia"),
    "meta-sgd": Entry("Meta-SGD", "meta-sgd"),
    "mamlpp": Entry("MAML++", "mamlpp"),
    "imaml": Entry("iMAML", "imaml"),
    "hessian-free": Entry("HF-MAML", "hessian-free"),
    "proximal": Entry("Meta-MinibatchProx", "proximal"),
    "perturbed": Entry("Sharp-MAML, inside", "perturbed", {"inner_sharpness": 0.0005}),
    "joint": Entry("joint training", "joint"),
    "scratch": Entry("from scratch", "maml", trained=False),
}
ENTRIES = NAMED | {name: Entry(name, name) for name, algorithm in ALGORITHMS.items()
                   if name not in NAMED and takes_any(algorithm)}  # fmt: skip
# On the settings of the code of Zintgraf et al., 2019 (lmzintgraf/cavia, regression): 10 points, not 5. Not drawn.
PUBLISHED = {
    "cavia-published": Entry("CAVIA, its own settings", "cavia", dict(
        shots=10, queries=10, meta_lr=0.001, schedule="constant", context_clamp=10.0, iterations=50000,
    )),
}  # fmt: skip
EVERY = ENTRIES | PUBLISHED


def settings(name: str, seed: int) -> Config:
    """The configuration of a run of an entry."""
    entry = EVERY[name]
    return Config.default("sinusoid", algorithm=entry.algorithm, **entry.options, seed=seed)


def command(name: str) -> str:
    """The command that trains an entry."""
    return " ".join([f"tinymaml train sinusoid --algorithm {EVERY[name].algorithm}", *study.words(EVERY[name].options)])


def folder(name: str, seed: int, runs: str | Path) -> str:
    """The folder of a run of an entry."""
    return f"{runs}/{name if EVERY[name].trained else 'maml'}-{seed}"


def commands(name: str) -> list[str]:
    """The commands that train an entry with every seed, and measure it."""
    trained = [f"{command(name)} --seed {seed} --out {folder(name, seed, RUNS)}" for seed in SEEDS]
    measured = " ".join(["tinymaml compare", *(folder(name, seed, RUNS) for seed in SEEDS)])
    return [*trained, measured if EVERY[name].trained else f"{measured} --scratch"]


# ── runs ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def run(name: str, runs: Path) -> None:
    """Train an entry with every seed, as far as that is not done yet; errors as those of `study.train_all`."""
    study.train_all({Path(folder(name, seed, runs)): settings(name, seed) for seed in SEEDS})


def measure(name: str, runs: Path, tasks: int = TASKS) -> dict:
    """The record of an entry: a line of `runs.compare`, and how it was made."""
    paths = [folder(name, seed, runs) for seed in SEEDS]
    line = compare(paths, tasks=tasks, steps=STEPS, scratch=not EVERY[name].trained)["lines"][-1]
    kept = ("seed", "inner_lr", "tuned", "mean", "diverged")
    return {
        "entry": name, "commands": commands(name), "options": settings(name, SEEDS[0]).options(), "tasks": tasks,
        **{key: study.rounded(line[key]) for key in ("mean", "ci95", "spread")},
        "runs": [{key: study.rounded(one[key]) for key in kept} for one in line["runs"]],
    }  # fmt: skip


def is_of(record: dict, name: str) -> bool:
    """Whether a record has today's settings of an entry."""
    return study.has_options(record, settings(name, SEEDS[0]).options(), SEEDS)


def stored(results: Path) -> dict[str, dict]:
    """The record of each entry that has one."""
    return study.stored(results, EVERY)


# ── time ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def measure_time(names: Iterable[str], turns: int = 11) -> dict:
    """{"ms": {entry: [median, quartile, quartile]}, …}: a meta-iteration from drawing tasks to the new θ, by turns.

    The iterations are the first of a training. "others" is the share of all cores that other programs took meanwhile.
    """
    steps, states, found = {}, {}, {}
    with one_thread(libraries("train")), np.errstate(over="ignore", invalid="ignore"):
        for name in (n for n in names if EVERY[n].trained):
            timing.say(f"compiling {name}")
            learner = Learner(settings(name, SEEDS[0]))
            state = initial(learner)
            steps[name], found[name] = make_step(learner, state), []
            for i in range(3):
                _, _, state = steps[name](i, state)
            states[name] = (3, state)
        own, all_, started = time.process_time(), timing.busy(), time.perf_counter()
        for turn in range(turns):
            timing.say(f"round {turn + 1} of {turns}")
            for name in list(steps)[:: -1 if turn % 2 else 1]:
                begin, count = time.perf_counter(), 0
                while not count or time.perf_counter() - begin < TURN:
                    i, state = states[name]
                    states[name] = (i + 1, steps[name](i, state)[2])
                    count += 1
                found[name].append(1e3 * (time.perf_counter() - begin) / count)
        others = timing.busy() - all_ - (time.process_time() - own)
        others /= (time.perf_counter() - started) * (os.cpu_count() or 1)
    timing.say()
    return {
        "ms": {name: [round(float(q), 4) for q in np.quantile(ms, (0.5, 0.25, 0.75))] for name, ms in found.items()},
        "others": round(max(others, 0.0), 3), "cpu": timing.machine(1)["cpu"], "cores": os.cpu_count(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }  # fmt: skip


# ── table ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def table(records: dict[str, dict], times: dict | None = None) -> str:
    """As Markdown, a line per entry."""
    heads = ["", *(f"{k} steps" if k != 1 else "1 step" for k in COLUMNS), "ms", "command"]
    lines = [heads, ["---", *["---:"] * (len(COLUMNS) + 1), "---"]]
    for name, record in records.items():
        rates = sorted({one["inner_lr"] for one in record["runs"] if one["tuned"]})
        how = f"`{command(name)}`" if EVERY[name].trained else "`tinymaml compare … --scratch`"
        how += f", α = {', '.join(f'{rate:g}' for rate in rates)}, tuned" if rates else ""
        ms = (times or {"ms": {}})["ms"].get(name)
        cells = [_cell(record, k) for k in COLUMNS]
        lines.append([EVERY[name].label, *cells, timing.digits(ms[0]) if ms else "", how])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def page(records: dict[str, dict], times: dict | None) -> str:
    """The table of the page of results: two places after the point, and a third one for small errors."""
    heads = ["`tinymaml train sinusoid --algorithm …`", "after 1 step", "5 steps", "10 steps", "ms"]
    lines = [heads, ["---"] * len(heads)]
    for name, record in records.items():
        how = f"`{command(name).partition(' --algorithm ')[2]}`"
        how = how if EVERY[name].trained else "from scratch (`tinymaml compare … --scratch`)"
        ms = (times or {"ms": {}})["ms"].get(name)
        cells = [_cell(record, k, 3 if (record["mean"][k] or 1) < 0.05 else 2) for k in COLUMNS[1:]]
        lines.append([how, *cells, f"{ms[0]:.2f}" if ms else ""])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(record: dict, k: int, places: int = 3) -> str:
    if k >= reached(record):
        return "diverges"
    parts = [record["mean"][k], record["ci95"][k], *([record["spread"][k]] if record["spread"] else [])]
    return " ± ".join(f"{x:.{places}f}" for x in parts)


def times_of(results: Path) -> dict | None:
    """The stored milliseconds per meta-iteration."""
    file = results / "time.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


def reached(record: dict) -> int:
    """The number of means, from that of no step on, before a task diverges or the error is not worth a picture."""
    mean = record["mean"]
    return next((k for k, x in enumerate(mean) if x is None or x > style.diverged(mean[0])), len(mean))


def notes(records: dict[str, dict], times: dict | None = None) -> list[str]:
    """Notes on the table: missing entries, entries with former defaults, and disturbances."""
    missing = [name for name in EVERY if name not in records]
    stale = [name for name, record in records.items() if not is_of(record, name)]
    said = [f"not measured yet: {', '.join(missing)}"] if missing else []
    said += [f"not of today's defaults, or seeds: {', '.join(stale)}"] if stale else []
    for name, record in records.items():
        if reached(record) <= STEPS:
            most = max(one["diverged"] for one in record["runs"])
            said.append(f"{EVERY[name].label} diverges after more than {reached(record) - 1} steps,"
                        f" up to {most} of {record['tasks']} tasks beyond all numbers")  # fmt: skip
    if times:
        said.append(f"ms per meta-iteration: {times['cpu']}, {times['cores']} cores, {times['date'][:10]};"
                    f" other programs took {100 * times['others']:.0f} % of the cores")  # fmt: skip
    return said


def rows(records: dict[str, dict]) -> dict[str, picture.Row]:
    """The rows of the picture: by label, as far as the entry gets."""
    drawn = {name: record for name, record in records.items() if name in ENTRIES}
    colours = style.colours([ENTRIES[name].algorithm for name in drawn])
    found: dict[str, picture.Row] = {}
    for (name, record), colour in zip(drawn.items(), colours, strict=True):
        colour = colour if ENTRIES[name].trained else style.GREY
        means = [record["mean"], record["ci95"], *([one["mean"] for one in record["runs"]])]
        mean, ci95, *seeds = (np.array(x[: reached(record)], float) for x in means)
        dashed = not ENTRIES[name].trained or colour in [row.colour for row in found.values()]
        found[ENTRIES[name].label] = picture.Row(mean, ci95, np.array(seeds), colour, dashed)
    return found


def title(records: dict[str, dict]) -> str:
    """Of the picture: what all entries that are drawn share."""
    record = next(record for name, record in records.items() if name in ENTRIES)
    options = record["options"]
    return (f"Sine waves, {options['shots']}-shot, {record['tasks']} test tasks, {len(record['runs'])} seeds, "
            f"{options['iterations']:,} meta-iterations of {options['tasks']} tasks each")  # fmt: skip


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
            store(measure_time(names), RESULTS / "time.json")
        elif not args.table:
            failed = _work(names, Path(args.runs))
    except KeyboardInterrupt:
        timing.say()
        print("stopped; the same command goes on", file=sys.stderr)
        return 130
    records, times = stored(RESULTS), times_of(RESULTS)
    if not records:
        print("nothing is stored yet", file=sys.stderr)
        return 1
    print("\n".join([table(records, times), "", *notes(records, times)]))
    if drawn := rows(records):
        FIGURE.parent.mkdir(exist_ok=True)
        picture.save(picture.family(drawn, title(records)), FIGURE)
    return failed


def _work(names: list[str], runs: Path) -> int:
    """Train and measure entries that are not stored yet. 1: some failed."""

    def store_measured(name: str) -> None:
        with Run.open(folder(name, SEEDS[0], runs)).lock():  # one process does
            store(measure(name, runs), RESULTS / f"{name}.json")

    def is_done(name: str) -> bool:
        kept = stored(RESULTS)
        return name in kept and is_of(kept[name], name)

    return study.work(names, lambda name: run(name, runs), store_measured, is_done)
