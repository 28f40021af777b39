"""Several runs on the same tasks: one table of numbers, and what one picture shows.

    result = compare(["runs/maml", "runs/reptile", "runs/joint"], scratch=True)
    print(table(result))
    pictures.compare.comparison(result)              # the same as a Matplotlib figure

Every run is measured on the same test tasks, those of the seed 0, whatever its own seed. Runs that differ in their seed
alone are one line, with the spread between them. Read next: `pictures.compare`.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np

from ..blas import libraries, one_thread
from ..extras import require
from ..networks.network import STATISTICS
from .adaptation import available, check_rate, interval, on_split, rate_of
from .evaluate import baselines, for_json, in_unit, of_baselines
from .folder import Run
from .learner import Learner
from .loop import Learned, initial, restore
from .settings import TABLES, Config, find_member, in_words, path_options
from .sizes import check_measured
from .transfer import in_short

SEED = 0  # of the test tasks: they are those that `eval` takes for a run of this seed
SCRATCH = "from scratch"
# Options that hardly change what is learned in an iteration: they tell lines apart if no other option does.
WORK = ("iterations", "save_every", "validate_every", "validation_tasks", "compile")


def compare(
    runs: list[str | os.PathLike], *, tasks: int = 600, steps: int = 10, data: str | None = None,
    scratch: bool = False, tune: bool = False, progress: bool = False, on: str | None = None, **changes: Any,
) -> dict[str, Any]:  # fmt: skip
    """Adapt each run to the same test tasks, measure the query metric after each step, and read the runs' logs.

    Args:
        scratch: one more line: the first line's networks as they were before training, which learn each task by plain
            gradient descent, at a tuned rate.
        tune: each run adapts by the inner rate that is best on its validation tasks, if it has a rate to tune. An
            algorithm that leaves its rate open (joint training) always does.
        data: where the data of the runs lies now, if it has moved; or the data of the family `on`.
        on, changes: the tasks to adapt to, as `runs.loop.restore` takes them: a family, options of it, `inner_lr`.

    Returns:
        What is the same for all: {"family", "settings" of the family, "metric", "label", "unit", "scale", "better",
        "chance", "tasks", "split", "steps": [0, …, steps], "published": [[label, {step: value}]], "baselines":
        [{"label", "mean", "ci95"}]}, where the baselines are those of the first run's family; and the "lines":
        each {"label", "algorithm", "network", "statistics", "transfer", "validated_after": steps, "runs": […],
        "mean": […], "ci95": […], "spread": […], "differences": [{"label", "mean": […], "ci95": […]}]}. transfer says of
        a run on other tasks than its own what it was trained on. ci95 is half the width of the 95 % interval over
        tasks, of their means over seeds. spread is the standard deviation of the means over tasks, between seeds (None:
        one seed). differences are to each baseline, task by task. A run of a line is {"path", "seed", "iteration",
        "seconds", "inner_lr", "tuned", "mean", "diverged", "validation": [[iteration, value], …]}; diverged counts
        tasks, and a mean over tasks one of which has diverged is None.

    Raises:
        ValueError: the runs are not of the same tasks, and the option that differs is named; a run is there twice.
        OSError: no such run, checkpoint or data.
    """
    check_measured(tasks, steps)
    tqdm = require("tqdm", "train").tqdm
    moved: dict[str, Any] = {"data": data} if data else {}
    learned = {os.fspath(path): restore(path, on=on, **moved, **changes) for path in runs}
    check_comparable(runs, learned)
    lines = grouped(learned, on is not None)
    trained = [decisive_settings(trained_with(next(iter(line.values()))), on is not None) for line in lines]
    first = next(iter(learned.values()))
    tasks, beside = available(first, "test", tasks), first.learner.baselines()
    result, baseline_values = about(first, tasks, steps), {}
    count = len(learned) + scratch * len(lines[0]) + len(beside)
    with (
        one_thread(libraries("train")), np.errstate(all="ignore"),
        tqdm(total=count * tasks, unit="task", disable=not progress, dynamic_ncols=True) as bar,
    ):  # fmt: skip
        for one in learned.values():
            check_rate(one)

        def row(path: str, one: Learned, tune: bool) -> tuple[dict[str, Any], np.ndarray]:
            rate = rate_of(one, steps, tune, progress)
            with_them = beside if one is first else {}
            found, values = on_split(one, "test", tasks, steps, *rate, baselines=with_them, seed=SEED, each=bar.update)
            result["baselines"] += of_baselines(values)
            baseline_values.update(values)
            name = f"validation_{one.learner.metric.name}"
            records = Run.open(path).read_log(one.learner.metric.name) if one.iteration else []
            return {
                "path": path, "seed": one.config.outer.seed, "iteration": one.iteration, "seconds": one.seconds,
                "inner_lr": rate[0] if rate else one.config.get("inner_lr"), "tuned": bool(rate),
                "mean": found.mean(0), "diverged": int(np.isnan(found).any(1).sum()),
                "validation": [[r["iteration"], r[name]] for r in records if name in r],
            }, found  # fmt: skip

        for label, members in zip(labels(trained), lines, strict=True):
            rows = [row(path, one, tune) for path, one in members.items()]
            result["lines"].append({"label": label, **_of_line(next(iter(members.values())), rows, baseline_values)})
        if scratch:
            rows = [row(path, untrained(one.config), True) for path, one in lines[0].items()]
            line = _of_line(next(iter(lines[0].values())), rows, baseline_values)
            result["lines"].append({"label": SCRATCH, **line, "algorithm": None, "transfer": ""})
    return for_json(result)


def about(learned: Learned, tasks: int, steps: int) -> dict[str, Any]:
    """The head of a comparison, about all its runs; no lines yet."""
    config, metric = learned.config, learned.learner.metric
    member, settings = find_member("family", config.family.name), config.family.settings
    published = member.published(settings) if hasattr(member, "published") else []
    return {
        "family": config.family.name,
        "settings": {name: x for name, x in dataclasses.asdict(settings).items() if name not in not_of_tests(config)},
        "metric": metric.name, "label": metric.label, "unit": metric.unit, "scale": metric.scale,
        "better": metric.better, "chance": metric.chance,
        "tasks": tasks, "split": "test", "steps": list(range(steps + 1)),
        "published": published, "baselines": [], "lines": [],
    }  # fmt: skip


def _of_line(
    learned: Learned, rows: list[tuple[dict[str, Any], np.ndarray]], baselines: dict[str, np.ndarray]
) -> dict[str, Any]:
    """The runs of a line, and their mean.

    Args:
        rows: each run's record, and its metrics (tasks, steps + 1).
        baselines: the metrics (tasks,) of each.
    """
    config, learner = learned.config, learned.learner
    of_tasks = np.mean([found for _, found in rows], 0)  # (tasks, steps + 1)
    mean, ci95 = interval(of_tasks)
    differences = {label: interval(of_tasks - values[:, None]) for label, values in baselines.items()}
    spread = np.std([record["mean"] for record, _ in rows], axis=0, ddof=1) if len(rows) > 1 else None
    return {
        "algorithm": config.algorithm.name, "network": config.network.name, "statistics": learner.statistics,
        "transfer": in_short(learned.source, config), "validated_after": learner.steps,
        "runs": [record for record, _ in rows], "mean": mean, "ci95": ci95, "spread": spread,
        "differences": [{"label": label, "mean": d, "ci95": c} for label, (d, c) in differences.items()],
    }  # fmt: skip


def untrained(config: Config) -> Learned:
    """The network of a run before any training, which learns a task by the default algorithm: gradient descent."""
    config = Config(config.family, config.network, Config.default(config.family.name).algorithm, config.outer)
    learner = Learner(config)
    return Learned(config, learner, initial(learner), 0, 0.0, {})


# ── which runs belong together ──────────────────────────────────────────────────────────────────────────────────────


def check_comparable(runs: list[str | os.PathLike], learned: dict[str, Learned]) -> None:
    """Raises: ValueError, as `compare` does."""
    if not runs:
        raise ValueError("there is nothing to compare: no run is given")
    real = [os.path.realpath(path) for path in runs]
    if twice := [path for i, path in enumerate(real) if path in real[:i]]:
        raise ValueError(f"the run {os.fspath(runs[real.index(twice[0])])} is given twice")
    (a, first), *others = learned.items()
    for b, other in others:
        one, two = first.config.family, other.config.family
        if one.name != two.name:
            raise ValueError(f"{a} and {b} are not of the same tasks: family is {one.name} and {two.name}")
        ours, theirs = dataclasses.asdict(one.settings), dataclasses.asdict(two.settings)
        for name in ours:
            if ours[name] != theirs[name] and name not in not_of_tests(first.config):
                raise ValueError(f"{a} and {b} are not of the same tasks: {name} is {ours[name]} and {theirs[name]}")


def not_of_tests(config: Config) -> set[str]:
    """The options of a family that do not change test tasks: where files lie, and what is of training alone."""
    fields = dataclasses.fields(config.family.settings)
    return path_options(config) | {f.name for f in fields if f.metadata.get("training")}


def grouped(learned: dict[str, Learned], files: bool = False) -> list[dict[str, Learned]]:
    """The runs of each line, in the order in which they are given: those that differ in their seed alone.

    Runs of the same seed, too, are lines of their own; with `files`, so are those that were trained on other files.
    """
    trained = {path: decisive_settings(trained_with(one), files) for path, one in learned.items()}
    lines: list[dict[str, Learned]] = []
    for path, one in learned.items():
        for line in lines:
            seeds = {member.config.outer.seed for member in line.values()}
            if trained[next(iter(line))] == trained[path] and one.config.outer.seed not in seeds:
                line[path] = one
                break
        else:
            lines.append({path: one})
    return lines


def trained_with(learned: Learned) -> Config:
    """The configuration of a run's training."""
    return learned.source or learned.config


def decisive_settings(config: Config, files: bool = False) -> dict[str, Any]:
    """All settings that decide what is learned, except the seed and the places of files; with `files`, their names."""
    names = {role: getattr(config, role).name for role in TABLES}
    named = {name: Path(str(config[name])).name for name in path_options(config)} if files else {}
    return names | {name: x for name, x in config.used().items() if name not in {"seed", *path_options(config)}} | named


def labels(every: list[dict[str, Any]]) -> list[str]:
    """The words that tell lines apart, by the facts of each: the algorithm; the network and the family, if there are
    several; and of the lines that have these in common, the options that differ."""
    several = [role for role in ("network", "family") if len({f[role] for f in every}) > 1]
    roles, words = ["algorithm", *several], {"family": "trained on {}"}

    def called(own: dict[str, Any], without: tuple[str, ...]) -> str:
        alike = [f for f in every if all(f[role] == own[role] for role in roles)]
        differ = [name for name in own if name not in without and any(f.get(name) != own[name] for f in alike)]
        named = [words.get(role, "{}").format(own[role]) for role in roles]
        return ", ".join(named + [in_words(n, own[n]) for n in differ if own[n] is not False])

    short, full = ([called(own, without) for own in every] for without in (WORK, ()))
    found = [one if short.count(one) == 1 else other for one, other in zip(short, full, strict=True)]
    # the same settings and the same seed
    return [f"{x}, {found[: i + 1].count(x)}" if found.count(x) > 1 else x for i, x in enumerate(found)]


# ── the table ───────────────────────────────────────────────────────────────────────────────────────────────────────


def table(result: dict[str, Any]) -> str:
    """A comparison as a person reads it."""
    lines, settings, steps = result["lines"], result["settings"], result["steps"]
    parts = [f"{settings[name]}-{name[:-1]}" for name in ("ways", "shots") if settings.get(name)] + [result["family"]]
    seeds = any(line["spread"] for line in lines)
    meaning = "mean ± 95 % interval over tasks" + " ± standard deviation between seeds" * seeds
    statistics = sorted({line["statistics"] for line in lines} - {""})
    how = f"{meaning}; s / 1000: seconds of training per 1000 meta-iterations, with compilation and validation"
    heads = [f"{' '.join(parts)}: {result['label']} on {result['tasks']} {result['split']} tasks,"
             f" the same for all", how]  # fmt: skip
    if result["chance"] is not None:
        heads.append(f"chance: {in_unit(result['chance'], result)}{result['unit']}")
    if len(statistics) == 1:
        what = STATISTICS.get(statistics[0], "its own")
        heads.append(f"batch norm of queries by {statistics[0]} statistics: {what}")
    shown = sorted({k for k in (0, 1, 5, steps[-1]) if k <= steps[-1]})
    rows = [["run", *["batch norm"] * (len(statistics) > 1), "seeds", "iterations", "s / 1000", "inner rate",
             *(f"after {k} step{'' if k == 1 else 's'}" for k in shown)]]  # fmt: skip
    for line in lines:
        rows.append([line["label"], *[line["statistics"] or "–"] * (len(statistics) > 1), *_about_runs(line["runs"]),
                     *(_cell(line, k, result) for k in shown)])  # fmt: skip
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    body = ["  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
            for row in rows]  # fmt: skip
    return "\n".join([*heads, "", *body, *_notes(lines), *baselines(result)])


def _about_runs(runs: list[dict[str, Any]]) -> list[str]:
    """The cells of a line that are not the metric: seeds, iterations, seconds, rate."""
    iterations, seconds = [run["iteration"] for run in runs], seconds_per_iteration(runs)
    rates = sorted({run["inner_lr"] for run in runs} - {None})
    rate = " ".join(f"{rate:g}" for rate in rates) + "*" * any(run["tuned"] for run in runs)
    span = dict.fromkeys((min(iterations), max(iterations)))
    return [str(len(runs)), "-".join(map(str, span)), f"{1000 * seconds:.3g}" if seconds else "–", rate or "–"]


def seconds_per_iteration(runs: list[dict[str, Any]]) -> float | None:
    """Of a line: the seconds that its checkpoints give, over their iterations. None: they do not say."""
    if not all(run["iteration"] and run["seconds"] for run in runs):
        return None
    return sum(run["seconds"] for run in runs) / sum(run["iteration"] for run in runs)


def _cell(line: dict[str, Any], k: int, result: dict[str, Any]) -> str:
    if line["mean"][k] is None:
        return "diverges"
    parts = [line["mean"][k], line["ci95"][k], *([line["spread"][k]] if line["spread"] else [])]
    return " ± ".join(in_unit(x, result) for x in parts) + result["unit"]


def _notes(lines: list[dict[str, Any]]) -> list[str]:
    """Lines below the table: what a star means, and how many tasks diverged."""
    notes = ["* tuned on validation tasks"] if any(run["tuned"] for line in lines for run in line["runs"]) else []
    notes += [f"{line['label']}: {line['transfer']}" for line in lines if line["transfer"]]
    for line in lines:
        if worst := max(run["diverged"] for run in line["runs"]):
            notes.append(f"{line['label']}: up to {worst} task{'s' * (worst > 1)} of a run diverged")
    return ["", *notes] if notes else []
