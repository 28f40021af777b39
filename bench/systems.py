"""Every system that the tutorials describe, on real data, beside an honest baseline: three seeds, the same tasks.

    python -m bench systems                    # trains what is not trained yet, and measures it
    python -m bench systems digits images-1shot-maml      # these alone: rows, or all rows that begin so
    python -m bench systems --list             # the rows, and which of them are stored
    python -m bench systems --data DIR         # where data sets are: DIR/mnist, DIR/emoji32, … ($TINYMAML_DATA)
    python -m bench.results                    # then: tables and pictures of what is stored

A row is one command of `tinymaml train` with seeds 0, 1, 2, in a folder of its own below --runs, and one `tinymaml
compare` of the three: 600 test tasks, or all that there are, with 0 … 10 steps each, beside the baselines of the family
on the same tasks. Settings are the defaults of the family for the algorithm, except for the options in the row. It is
stored in bench/results/systems/NAME.json. A study that was stopped goes on where it was; two at a time share the work.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinymaml.blas import libraries, one_thread
from tinymaml.runs import Run
from tinymaml.runs.adaptation import measured
from tinymaml.runs.compare import compare, untrained
from tinymaml.runs.loop import restore, validation_tasks
from tinymaml.runs.settings import Config, path_options

from . import study, timing

HERE = Path(__file__).parent
RUNS, DATA = "runs/systems", "data"
RESULTS = HERE / "results" / "systems"
SEEDS, TASKS, STEPS = (0, 1, 2), 600, 10

NAMED = {
    "maml": "MAML", "reptile": "Reptile", "anil": "ANIL", "meta-sgd": "Meta-SGD", "mamlpp": "MAML++",
    "protomaml": "ProtoMAML", "joint": "joint training",
}  # fmt: skip


class Row(NamedTuple):
    """A row: the training, and the tasks of its measurement.

    Attributes:
        system, setting: the table it stands in: "digits", and "5-way 1-shot".   label: its name there.
        family, algorithm, options: of `tinymaml train`, beside the defaults.   data: the folder below --data, or "".
        on: options of the evaluation beside those of training, with "on" for another family.   to: the data of that.
        runs: the row whose runs are measured, if they are not its own.
        scratch: those runs are measured as they were before training.
        notes: what a reader must know beside the numbers.
    """

    system: str
    setting: str
    label: str
    family: str
    algorithm: str = "maml"
    options: dict[str, Any] = {}
    data: str = ""
    on: dict[str, Any] = {}
    to: str = ""
    runs: str = ""
    scratch: bool = False
    notes: str = ""


def several(system: str, setting: str, family: str, name: str, which: Sequence[str], **row: Any) -> dict[str, Row]:
    """A row per algorithm; "fomaml" is MAML of the first order, "pretrained" a classifier of all training classes that
    is fine-tuned, and "scratch" the network before training.

    `options` are those of all rows, and `own` has for some algorithms those of their row alone.
    """
    options, own, notes = (row.pop(key, {}) for key in ("options", "own", "notes"))
    found = {}
    for key in which:
        kind = {
            "fomaml": ("FOMAML", "maml", {"first_order": True}), "scratch": ("from scratch", "maml", {}),
            "pretrained": ("pretrained", "joint", PRETRAINED),
        }  # fmt: skip
        label, algorithm, more = kind.get(key, (NAMED.get(key, key), key, {}))
        mine = dict(options=options | more | own.get(key, {}), notes=notes.get(key, ""), **row)
        if key == "scratch":
            mine |= dict(runs=f"{name}-maml", scratch=True)
        found[f"{name}-{key}"] = Row(system, setting, label, family, algorithm, **mine)
    return found


THREE = ("maml", "joint", "scratch")
SIX = ("maml", "fomaml", "reptile", "anil", "meta-sgd", "mamlpp")  # those that stand side by side
PRETRAINED = {"labels": "class", "new_head": True}  # of joint training, where the labels of tasks are random
TWICE = {"drop": "Faces_easy"}  # the people of Caltech-101's class Faces once more
TURNED = {"rotations": True}  # for the 64 training classes of Caltech-101 are few
SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
GROWTH = {  # the setting, and a note for MAML
    "chicks": (
        "chick weights",
        "nine test chicks do not tell it and the mixed-effects fit apart. Steps beyond the five"
        " that are trained help on validation, and not always on test.",
    ),
    "reactions": ("reaction times", "four test persons tell nothing apart; ten persons to learn from are few."),
    "countries": (
        "life expectancy",
        "a parabola with a level and a slope per country is hard to beat from 1952 to 1967"
        " on: what follows, such as wars, is in no country's first points.",
    ),
    "boys": (
        "heights",
        "each boy grows nearly along a line, as the mixed-effects fit assumes. MAML has to find that from 16 boys.",
    ),
}
FEW = (0, 1, 5)  # ratings, beside the 10 of training

HARD = (
    "its start is a centroid of tf-idf vectors already, and validation has 15 intents of one domain; the recipe was"
    " chosen for five intents of one sentence."
)
_TUNED = "the settings of speech were chosen by this speaker, as the one of validation of another."
TUNED_ON = {"nicolas": {"maml": _TUNED}, "yweweler": {"maml": _TUNED}}

EVERY: dict[str, Row] = {
    **several("lines", "", "lines", "lines", THREE, notes={
        "maml": "the posterior mean knows how lines and noise are distributed, and nothing can beat it. MAML starts at"
                " the best line of all, and gradient steps at one rate go a part of the way to least squares.",
        "joint": "a few test tasks have points so far out that the rate, tuned on 100 validation tasks, diverges."}),
    **several("separators", "", "separators", "separators", THREE, notes={
        "maml": "the second regression learns the subspace of the normals from the training tasks, as the prior of a"
                " linear model, which is what generates these tasks. A network has to find both, in 10 steps."}),
    **several("robot", "simulator", "robot", "robot", THREE, notes={
        "maml": "the bound has the teacher's own formula, and looks for the wheels, the bias and the side that fit the"
                " support best."}),
    **several("robot", "24 sonars", "robot", "robot-sonars", THREE, data="wall_following"),
    **several("digits", "MNIST, 10-way 1-shot", "digits", "digits", (*SIX, "pretrained", "scratch"), data="mnist",
              notes={"maml": "all ten digits are known from training, under other labels; the images are new."},
              own={"fomaml": {"inner_lr": 0.1}}),
    **several("digits", "MNIST, digits held out, 2-way 1-shot", "digits", "digits-new", ("maml", "scratch"),
              data="mnist", options={"digits": "held-out", "ways": 2}),
    **several("digits", "Fashion-MNIST, 10-way 1-shot", "digits", "digits-fashion", ("maml",), data="fashion-mnist"),
    **several("images", "emoji32, 5-way 1-shot", "images", "images", (*SIX, "protomaml", "pretrained"),
              data="emoji32"),
    **several("images", "Caltech-101, 5-way 1-shot", "images", "images-caltech", ("maml",), data="caltech101",
              options=TWICE | TURNED),
    **several("images", "Caltech-101, 5-way 5-shot", "images", "images-caltech-5shot", ("maml",), data="caltech101",
              options=TWICE | TURNED | {"shots": 5}),
    **several("intents", "5-way 1-shot", "intents", "intents", (*SIX, "protomaml", "pretrained"), data="clinc150",
              notes={"reptile": "Reptile learns from support sentences alone, of which a task has five."}),
    **several("intents", "5-way 5-shot", "intents", "intents-5shot", ("maml", "protomaml"), data="clinc150",
              options={"shots": 5}, notes={"protomaml": HARD}),
    **several("intents", "20-way 1-shot", "intents", "intents-20way", ("protomaml",), data="clinc150",
              options={"ways": 20}, notes={"protomaml": HARD}),
    **several("intents", "20-way 5-shot", "intents", "intents-20way-5shot", ("protomaml",), data="clinc150",
              options={"ways": 20, "shots": 5}),
    **{name: row for speaker in SPEAKERS for name, row in several(
        "speech", f"{speaker}, 1-shot", "speech", f"speech-{speaker}",
        (*SIX, "joint") if speaker == "theo" else ("maml",), data="fsdd", options={"speaker": speaker, "shots": 1},
        notes=TUNED_ON.get(speaker, {})).items()},
    **{name: row for speaker in SPEAKERS for name, row in several(
        "speech", f"{speaker}, 5-shot", "speech", f"speech-{speaker}-5shot", ("maml",),
        data="fsdd", options={"speaker": speaker, "shots": 5}).items()},
    **{f"ratings-{n}-maml": Row("ratings", f"{n} rating{'s' * (n != 1)}", "MAML", "ratings", data="movielens",
                                on={"shots": n}, runs="ratings-maml") for n in FEW},
    **several("ratings", "10 ratings", "ratings", "ratings", THREE, data="movielens", notes={
        "maml": "the network learns by squared errors, as the constants of the second baseline are chosen; those of the"
                " third are chosen by absolute errors, in which all are measured. Queries are the ratings 11 to 20 in"
                " time, which are harder than random ones."}),
    **several("ratings", "like or dislike, 10 ratings", "ratings", "ratings-like", ("maml",), data="movielens",
              options={"target": "like", "inner_lr": 1.0, "meta_lr": 0.003, "decay": 500, "iterations": 1000}),
    **{name: row for key, (setting, note) in GROWTH.items() for name, row in several(
        "growth", setting, "growth", f"growth-{key}", THREE, options={"table": key}, notes={"maml": note}).items()},
    # Transfer: what was trained on the source adapts to the target's test tasks. Beside it stand what was trained on
    # the target itself, and a classifier of all classes of the source, with a new head.
    "transfer-omniglot-maml": Row("transfer", "Omniglot → MNIST, 5-way 1-shot", "MAML", "omniglot", data="omniglot",
                                  on={"on": "digits"}, to="mnist"),
    "transfer-omniglot-pretrained": Row("transfer", "Omniglot → MNIST, 5-way 1-shot", "pretrained", "omniglot", "joint",
                                        PRETRAINED, "omniglot", {"on": "digits"}, "mnist"),
    "transfer-omniglot-own": Row("transfer", "Omniglot → MNIST, 5-way 1-shot", "MAML, trained on MNIST", "digits",
                                 options={"ways": 5}, data="mnist"),
    "transfer-emoji-maml": Row("transfer", "emoji32 → Caltech-101, 5-way 1-shot", "MAML", "images", data="emoji32",
                               on={"on": "images"} | TWICE, to="caltech101", runs="images-maml"),
    "transfer-emoji-pretrained": Row("transfer", "emoji32 → Caltech-101, 5-way 1-shot", "pretrained", "images", "joint",
                                     PRETRAINED, "emoji32", {"on": "images"} | TWICE, "caltech101",
                                     "images-pretrained"),
    "transfer-emoji-own": Row("transfer", "emoji32 → Caltech-101, 5-way 1-shot", "MAML, trained on Caltech-101",
                              "images", options=TWICE | TURNED, data="caltech101", runs="images-caltech-maml"),
}  # fmt: skip
"""Every row, by its name: the system, the variant, the algorithm."""


def settings(name: str, seed: int, data: str = DATA) -> Config:
    """The configuration of a run of a row."""
    row = EVERY[name]
    files = {"data": f"{data}/{row.data}"} if row.data else {}
    return Config.default(row.family, algorithm=row.algorithm, **row.options, **files, seed=seed)


def folder(name: str, seed: int, runs: str | Path = RUNS) -> str:
    """The folder of a run of a row."""
    return f"{runs}/{EVERY[name].runs or name}-{seed}"


def commands(name: str) -> list[str]:
    """The commands that train a row with every seed, and measure it."""
    row = EVERY[name]
    options = ({"data": f"{DATA}/{row.data}"} if row.data else {}) | row.options
    algorithm = [] if row.algorithm == "maml" else ["--algorithm", row.algorithm]
    command = " ".join(["tinymaml train", row.family, *algorithm, *study.words(options)])
    trained = [f"{command} --seed {seed} --out {folder(name, seed)}" for seed in SEEDS]
    changes = row.on | ({"data": f"{DATA}/{row.to}"} if row.to else {})
    more = [*study.words(changes), *["--scratch"] * row.scratch]
    return [*trained, " ".join(["tinymaml compare", *(folder(name, seed) for seed in SEEDS), *more])]


def measure(name: str, runs: Path, data: str, tasks: int = TASKS) -> dict[str, Any]:
    """The record of a row: a line of `runs.compare` and the baselines beside it, and how they were made."""
    row, files = EVERY[name], [folder(name, seed, runs) for seed in SEEDS]
    where = {"data": f"{data}/{row.to or row.data}"} if row.to or row.data else {}
    result = compare(files, tasks=tasks, steps=STEPS, scratch=row.scratch, progress=sys.stderr.isatty(),
                     **row.on, **where)  # fmt: skip
    line = result["lines"][-1]
    about = ("metric", "label", "unit", "scale", "better", "chance", "tasks", "baselines")
    kept = ("seed", "iteration", "inner_lr", "tuned", "mean", "diverged")
    return study.rounded({
        "entry": name, "commands": commands(name), "options": decisive(settings(name, SEEDS[0], data)), "on": row.on,
        **{key: result[key] for key in about},
        "judged_after": judged_after(name, files, line["runs"], where),
        "seconds": None if row.scratch else [one["seconds"] for one in line["runs"]],
        **{key: line[key] for key in ("mean", "ci95", "spread", "differences")},
        "runs": [{key: one[key] for key in kept} for one in line["runs"]],
        "machine": {key: timing.machine(2)[key] for key in ("cpu", "cores", "system", "python")},
    })  # fmt: skip


def judged_after(name: str, files: list[str], runs: list[dict[str, Any]], where: dict[str, str]) -> int:
    """The number of steps at which a row is held against baselines: the one that is best on validation tasks, over all
    seeds. No test task has a part in it."""
    row, found = EVERY[name], []
    with one_thread(libraries("train")), np.errstate(all="ignore"):
        for file, run in zip(files, runs, strict=True):
            learned = restore(file, **row.on, **where)
            learned = untrained(learned.config) if row.scratch else learned
            rate = (run["inner_lr"],) if run["tuned"] else ()
            found.append(measured(learned, validation_tasks(learned.learner), STEPS, *rate).mean(0))
    sign = 1 if learned.learner.metric.better == "higher" else -1
    mean = sign * np.mean(found, 0)  # nan where a task has diverged
    return int(np.nanargmax(mean)) if np.isfinite(mean).any() else 0


def decisive(config: Config) -> dict[str, Any]:
    """The options of a run, except the places of files and its seed."""
    return {key: value for key, value in config.options().items() if key not in {"seed", *path_options(config)}}


def is_of(record: dict[str, Any], name: str) -> bool:
    """Whether a record has today's settings of a row."""
    same = record["on"] == EVERY[name].on and record["commands"] == commands(name)
    return same and study.has_options(record, decisive(settings(name, SEEDS[0])), SEEDS)


def stored() -> dict[str, dict[str, Any]]:
    """The record of each row that has one."""
    return study.stored(RESULTS, EVERY)


# ── the command ─────────────────────────────────────────────────────────────────────────────────────────────────────


def chosen(names: Sequence[str]) -> list[str]:
    """The rows of these names, or that begin with one of them; all, if there is none.

    Raises:
        ValueError: there is no such row.
    """
    for name in names:
        if not any(_begins(row, name) for row in EVERY):
            raise ValueError(f"no row {name}; --list shows which there are")
    return [row for row in EVERY if not names or any(_begins(row, name) for name in names)]


def _begins(row: str, name: str) -> bool:
    return row == name or row.startswith(f"{name}-")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench systems", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="rows, or what they begin with (all)")
    parser.add_argument(
        "--data", default=os.environ.get("TINYMAML_DATA", DATA), metavar="DIR", help="folder of the data sets"
    )
    parser.add_argument("--runs", default=RUNS, metavar="FOLDER", help=f"where the runs are ({RUNS})")
    parser.add_argument("--list", action="store_true", help="train nothing: list the rows")
    args = parser.parse_args(argv)
    try:
        names = chosen(args.names)
    except ValueError as error:
        parser.error(str(error))
    if args.list:
        kept = stored()
        for name in names:
            state = "–" if name not in kept else "stored" if is_of(kept[name], name) else "other settings"
            print(f"{state:14}  {name}")
        return 0
    try:
        return _work(names, Path(args.runs), str(Path(args.data).expanduser().absolute()))
    except KeyboardInterrupt:
        timing.say()
        print("stopped; the same command goes on", file=sys.stderr)
        return 130


def _work(names: list[str], runs: Path, data: str) -> int:
    def train(name: str) -> None:
        own = EVERY[name].runs or name
        study.train_all({Path(folder(name, seed, runs)): settings(own, seed, data) for seed in SEEDS})

    def store_measured(name: str) -> None:
        with Run.open(folder(name, SEEDS[0], runs)).lock():  # one process does
            study.store(measure(name, runs, data), RESULTS / f"{name}.json")

    def is_done(name: str) -> bool:
        kept = study.stored(RESULTS, [name])
        return name in kept and is_of(kept[name], name)

    return study.work(names, train, store_measured, is_done)
