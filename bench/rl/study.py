"""2-D navigation with the settings of Finn et al. (2017): how much do steps of adaptation bring, by which surrogate?

    python -m bench rl study                   # trains what is not trained yet, measures and stores it; prints a table
    python -m bench rl study lvc trpo          # these rows alone
    python -m bench rl study --table           # the table and the picture of what is stored

A row is one command of `tinymaml train navigation` with the seeds 0, 1, 2: 20 tasks of 20 trajectories of 100 steps per
meta-gradient, a 100-100 ReLU policy, α = 0.1. It adapts to the same 40 test goals, with 20 new trajectories for each
step, the first at rate α and the others at α/2, as in the paper's test. The baselines do so at the rate that is best on
validation tasks: "pretrained" was trained on all goals together and nothing adapted, "random" is not trained. A study
that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tinymaml.blas import libraries, one_thread
from tinymaml.extras import require
from tinymaml.pictures import save, style
from tinymaml.runs import Run
from tinymaml.runs.adaptation import interval, on_split, rate_of
from tinymaml.runs.loop import restore
from tinymaml.runs.settings import Config

from .. import study, timing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BENCH = Path(__file__).parents[1]
RUNS, RESULTS, FIGURE = "runs/rl", BENCH / "results" / "rl" / "study", BENCH / "figures" / "navigation.png"
SEEDS, GOALS, STEPS = (0, 1, 2), 40, 3


class Row(NamedTuple):
    """A row of the study: options of `tinymaml train navigation` beside the defaults.

    Attributes:
        tuned: it adapts at the rate that is best on validation tasks.   scratch: it is measured before training.
        runs: the row whose runs these are, if they are not its own.
    """

    label: str
    options: dict[str, Any] = {}
    tuned: bool = False
    scratch: bool = False
    runs: str = ""


def of(surrogate: str, label: str, **more: Any) -> Row:
    return Row(label, {"iterations": 100, "surrogate": surrogate, **more})


ROWS = {
    "lvc": of("lvc", "LVC"),
    "likelihood": of("likelihood", "likelihood ratio, as Finn et al."),
    "dice": of("dice", "DiCE"),
    "loaded-dice": of("loaded-dice", "loaded DiCE"),
    "e-maml": of("e-maml", "E-MAML"),
    "pretrained": Row("pretrained", {"iterations": 100, "inner_steps": 0}, tuned=True),
    "random": Row("random", {"iterations": 100, "surrogate": "lvc"}, tuned=True, scratch=True, runs="lvc"),
    "promp": of("lvc", "LVC, ProMP outside, 30 iterations", outer="promp", iterations=30),
    "trpo": of("lvc", "LVC, TRPO outside, 15 iterations", outer="trpo", iterations=15),
}  # fmt: skip


def settings(name: str, seed: int) -> Config:
    return Config.default("navigation", **ROWS[ROWS[name].runs or name].options, seed=seed)


def folder(name: str, seed: int, runs: str | Path = RUNS) -> str:
    return f"{runs}/{ROWS[name].runs or name}-{seed}"


def measure(name: str, runs: Path) -> dict[str, Any]:
    """The record of a row: returns after 0 … 3 steps, of each seed on the same goals."""
    row, found, rates, seconds = ROWS[name], [], [], []
    for seed in SEEDS:
        learned = restore(folder(name, seed, runs), 0 if row.scratch else None)
        with one_thread(libraries("train")), np.errstate(all="ignore"):
            rate = rate_of(learned, STEPS, row.tuned)
            found.append(on_split(learned, "test", GOALS, STEPS, *rate, seed=SEEDS[0])[0])
        rates.append(rate[0] if rate else learned.config["inner_lr"])
        seconds.append(learned.seconds)
    mean, ci95 = interval(np.mean(found, 0))
    means = np.array([one.mean(0) for one in found])
    command = " ".join(["tinymaml train navigation", *study.words(row.options)])
    return study.rounded({
        "entry": name, "command": command, "options": decisive(settings(name, SEEDS[0])), "goals": GOALS,
        "mean": mean.tolist(), "ci95": ci95.tolist(), "spread": means.std(0, ddof=1).tolist(),
        "runs": [{"seed": seed, "inner_lr": rate, "mean": one.tolist()}
                 for seed, rate, one in zip(SEEDS, rates, means, strict=True)],
        "seconds": None if row.scratch else seconds,
        "machine": {key: timing.machine(1)[key] for key in ("cpu", "cores", "system", "python")},
    })  # fmt: skip


def decisive(config: Config) -> dict[str, Any]:
    """The options of a run except its seed."""
    return {key: value for key, value in config.options().items() if key != "seed"}


def is_done(name: str) -> bool:
    kept = study.stored(RESULTS, [name])
    return name in kept and study.has_options(kept[name], decisive(settings(name, SEEDS[0])), SEEDS)


def stored() -> dict[str, dict[str, Any]]:
    return study.stored(RESULTS, ROWS)


# ── what is shown ───────────────────────────────────────────────────────────────────────────────────────────────────


def page(records: dict[str, dict[str, Any]]) -> str:
    """The table, in Markdown: mean ± 95 % over goals ± deviation between seeds."""
    heads = ["", *(style.in_number(k, "step") for k in range(STEPS + 1)), "rate", "seconds", "command"]
    rows = [heads, ["---", *["---:"] * (STEPS + 3), "---"]]
    for name, record in records.items():
        cells = [" ± ".join(f"{record[key][k]:.1f}" for key in ("mean", "ci95", "spread")) for k in range(STEPS + 1)]
        rates = dict.fromkeys(f"{run['inner_lr']:g}" for run in record["runs"])
        seconds = f"{min(record['seconds']):.0f}" if record["seconds"] else "–"
        command = "" if ROWS[name].scratch else f"`{record['command']}`"
        rows.append([ROWS[name].label, *cells, ", ".join(rates), seconds, command])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def picture(records: dict[str, dict[str, Any]]) -> Figure:
    """The return over the steps of adaptation, a line per row."""
    figure = style.new(8, 4.6)
    ax = figure.subplots()
    grey = [name for name in records if ROWS[name].tuned]
    colours = dict(zip([n for n in records if n not in grey], style.PALETTE, strict=False))
    for name, record in records.items():
        mean, ci = np.array(record["mean"]), np.array(record["ci95"])
        x, colour = np.arange(len(mean)), colours.get(name, style.GREY)
        ax.fill_between(x, mean - ci, mean + ci, color=colour, alpha=0.12, lw=0)
        look = "o:" if ROWS[name].scratch else "o--" if name in grey else "o-"
        ax.plot(x, mean, look, ms=3.5, lw=1.5, color=colour, label=f"{ROWS[name].label}: {mean[1]:.1f} after 1 step")
    ax.set(xlabel="adaptation steps", ylabel="return", xticks=x)
    figure.legend(loc="outside lower center", ncols=2)
    said = f"{GOALS} test goals, mean over {len(SEEDS)} seeds, bands: 95 % over goals"
    figure.suptitle(f"2-D navigation · {said}", x=0.01, ha="left")
    return figure


def draw(records: dict[str, dict[str, Any]], to: Path = FIGURE) -> Path:
    with require("matplotlib", "plot").rc_context(style.STYLE):
        save(picture(records), to)
    return to


# ── the command ─────────────────────────────────────────────────────────────────────────────────────────────────────


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench rl study", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"rows, of {', '.join(ROWS)} (all)")
    parser.add_argument("--runs", default=RUNS, metavar="FOLDER", help=f"where the runs are ({RUNS})")
    parser.add_argument("--table", action="store_true", help="measure nothing: print and draw what is stored")
    args = parser.parse_args(argv)
    if unknown := [name for name in args.names if name not in ROWS]:
        parser.error(f"no row {', '.join(unknown)}; wanted of {', '.join(ROWS)}")
    runs, failed = Path(args.runs), 0
    try:
        if not args.table:
            failed = study.work(args.names or list(ROWS), lambda name: _train(name, runs),
                                lambda name: _store(name, runs), is_done)  # fmt: skip
    except KeyboardInterrupt:
        timing.say()
        print("stopped; the same command goes on", file=sys.stderr)
        return 130
    if not (records := stored()):
        print("nothing is stored yet: python -m bench rl study", file=sys.stderr)
        return 1
    print(page(records))
    print(draw(records), file=sys.stderr)
    return failed


def _train(name: str, runs: Path) -> None:
    study.train_all({Path(folder(name, seed, runs)): settings(name, seed) for seed in SEEDS})


def _store(name: str, runs: Path) -> None:
    with Run.open(folder(name, SEEDS[0], runs)).lock():  # one process does
        study.store(measure(name, runs), RESULTS / f"{name}.json")
