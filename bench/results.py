"""The results pages: tables, sentences and pictures of what the studies have stored, from their files alone.

    python -m bench.results              # the three READMEs: between their markers, and in the sentences of `stated`
    python -m bench.results --pages      # the pages alone, without the pictures
    python -m bench.results --check      # 1: a table or a number of these pages is not that of the stored files

A row is judged after the number of steps that is best on validation tasks: no test task had a part in that choice.
"yes": it is better than the best baseline, and the 95 % interval of their difference, task by task, does not hold 0;
"no": it is worse, likewise; "level": neither. "(1 of 2)": it beats that many of the baselines. Bounds, which know what
generates the tasks, are shown, but no row is held against them. A row that stands in no table was not measured.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tinymaml.extras import require
from tinymaml.families.common import Metric
from tinymaml.files import write_atomically
from tinymaml.pictures import save, style
from tinymaml.pictures.steps import draw_baselines

from . import family, load, rl, stated, systems, timing
from .oracle import page as of_oracle
from .sentences import BENCH, ORACLE, SENTENCES
from .systems import EVERY

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE, FRONT, FIGURES = systems.HERE / "README.md", systems.HERE.parent / "README.md", systems.HERE / "figures"
RL = "reinforcement learning"  # the name between the markers of `bench.rl.exact`
NAVIGATION = "navigation"  # and of `bench.rl.study`
COLUMNS = (0, 1, 5, 10)  # steps, beside those after which a row is judged

# The table of README.md: one row of each system, and what it is about.
SHORT = {
    "lines-maml": "y = w·x + b",
    "separators-maml": "two sides of a plane, 10 dimensions",
    "robot-maml": "10 range readings → 2 wheel speeds",
    "digits-maml": "MNIST, 10-way 1-shot",
    "images-maml": "1,142 emoji, 5-way 1-shot",
    "intents-maml": "CLINC150, new domains, 5-way 1-shot",
    "speech-theo-maml": "spoken digits of a new speaker, 1-shot",
    "ratings-maml": "MovieLens, new users, 10 ratings",
    "growth-countries-maml": "life expectancy of countries, 4 points",
    "transfer-omniglot-maml": "Omniglot → MNIST, 5-way 1-shot",
}

# Baselines that know how the tasks were made: no rivals, but bounds.
BOUNDS = ("posterior mean, the best possible", "expert, robot fitted to the support")

Records = dict[str, dict[str, Any]]  # by the name of the row


# ── what is judged ──────────────────────────────────────────────────────────────────────────────────────────────────


def rivals(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The baselines that are no bounds."""
    return [row for row in record["baselines"] if row["label"] not in BOUNDS]


def best_baseline(record: dict[str, Any]) -> dict[str, Any] | None:
    """The baseline with the best mean, bounds apart; None: the family has none."""
    choose = max if record["better"] == "higher" else min
    return choose(rivals(record), key=lambda row: row["mean"], default=None)


def verdict(record: dict[str, Any]) -> str:
    """Whether a row beats the best baseline: "yes", "no" or "level"; "": there is no baseline."""
    best = best_baseline(record)
    return beats(record, best) if best else ""


def beats(record: dict[str, Any], baseline: dict[str, Any]) -> str:
    """Whether a row beats one baseline, task by task on the same tasks: "yes", "no" or "level"."""
    k = record["judged_after"]
    (difference,) = [row for row in record["differences"] if row["label"] == baseline["label"]]
    if difference["mean"][k] is None:
        return "no"
    ahead = difference["mean"][k] * (1 if record["better"] == "higher" else -1)
    return "yes" if ahead > difference["ci95"][k] else "no" if ahead < -difference["ci95"][k] else "level"


def tables_of(records: Records) -> dict[str, dict[str, Records]]:
    """The records by their systems, and there by their settings, in the order of the rows."""
    found: dict[str, dict[str, Records]] = {}
    for name in (name for name in EVERY if name in records):
        found.setdefault(EVERY[name].system, {}).setdefault(EVERY[name].setting, {})[name] = records[name]
    return found


def baselines_of(records: Records) -> list[dict[str, Any]]:
    """The baselines of a setting, each once."""
    return list({row["label"]: row for record in records.values() for row in record["baselines"]}.values())


# ── tables ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def page(records: Records) -> str:
    """The text between the markers: an overview, a table per system, and the notes of rows."""
    parts = ["\n".join(overview(records)), "![MAML beside the best baseline of each system](figures/systems.png)"]
    for system, settings in tables_of(records).items():
        parts += [f"### {system[0].upper()}{system[1:]}", *tables(settings)]
        notes = [f"- {EVERY[name].label}, {EVERY[name].setting}: {EVERY[name].notes}" if EVERY[name].setting else
                 f"- {EVERY[name].label}: {EVERY[name].notes}"
                 for some in settings.values() for name in some if EVERY[name].notes]  # fmt: skip
        parts += ["\n".join(notes)] * bool(notes)
        parts.append(f"![{system}: the metric over the steps of adaptation](figures/{file_of(system)})")
    return "\n\n".join(parts)


def overview(records: Records) -> list[str]:
    """A line per setting that MAML was measured on: MAML, and the best baseline."""
    rows = [["system", "", "MAML", "best baseline", "", "beats it", "seconds"]]
    rows.append(["---", "---", "---:", "---:", "---", "---", "---:"])
    for system, settings in tables_of(records).items():
        for setting, some in settings.items():
            for name, record in some.items():
                if EVERY[name].label != "MAML":
                    continue
                best, k = best_baseline(record), record["judged_after"]
                beside = [_value(best["mean"], best["ci95"], record), best["label"]] if best else ["–", ""]
                mine = _value(record["mean"][k], record["ci95"][k], record)
                rows.append([system, setting, mine, *beside, _verdict(record), _seconds(record)])
    return [_line(row) for row in rows]


def short(records: Records) -> str:
    """The table of README.md: a line per system."""
    rows = [["`tinymaml train …`", "", "", "result", "best baseline"], ["---", "---", "---", "---:", "---:"]]
    for name, about in SHORT.items():
        if name in records:
            record = records[name]
            best, k = best_baseline(record), record["judged_after"]
            mine, rival = _value(record["mean"][k], record["ci95"][k], record), ""
            if best:
                rival = f"{_value(best['mean'], best['ci95'], record)} ({best['label']})"
                mine = f"**{mine}**" if beats(record, best) == "yes" else mine
            metric = record["label"] + (" in %" if record["scale"] == 100 else record["unit"].replace(" ", ", "))
            command = _command(record).split("`")[1].removeprefix("tinymaml train ").replace(f"{systems.DATA}/", "")
            rows.append([f"`{command}`", about, metric, mine, rival])
    return "\n".join(map(_line, rows))


def tables(settings: dict[str, Records]) -> list[str]:
    """The parts of one system: for each metric and number of tasks what it is, and a table of the settings."""
    alike: dict[str, dict[str, Records]] = {}
    for setting, some in settings.items():
        first = next(iter(some.values()))
        what = f"{first['label']}{' in %' if first['scale'] == 100 else ''}, {first['tasks']} test tasks"
        alike.setdefault(what[0].upper() + what[1:], {})[setting] = some
    return [part for what, some in alike.items() for part in (what, table(some))]


def table(settings: dict[str, Records]) -> str:
    """A line per row and per baseline of each setting."""
    named = any(settings)
    heads = ["", *(f"{k} step{'' if k == 1 else 's'}" for k in COLUMNS), "best on validation", "beats all baselines",
             "seconds", "command"]  # fmt: skip
    rows = [heads, ["---", *["---:"] * (len(COLUMNS) + 1), "---", "---:", "---"]]
    for some in settings.values():
        first = next(iter(some.values()))
        for name, record in some.items():
            k = record["judged_after"]
            cells = [*(_cell(record, k) for k in COLUMNS), f"**{_cell(record, k)}** ({style.in_number(k, 'step')})"]
            rows.append([EVERY[name].label, *cells, _verdict(record), _seconds(record), _command(record)])
        for row in baselines_of(some):
            value = _value(row["mean"], row["ci95"], first)
            kind = "bound" if row["label"] in BOUNDS else "baseline"
            rows.append([f"*{row['label']}*", *[""] * len(COLUMNS), value, "", "", kind])
    if named:  # in a column of its own, where it begins
        counts = [len(some) + len(baselines_of(some)) for some in settings.values()]
        first = [x for setting, n in zip(settings, counts, strict=True) for x in (setting, *[""] * (n - 1))]
        rows = [[x, *row] for x, row in zip(["", "---", *first], rows, strict=True)]
    return "\n".join(map(_line, rows))


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(record: dict[str, Any], k: int) -> str:
    """The mean ± interval ± spread after k steps."""
    if record["mean"][k] is None:
        return "diverges"
    return _value(record["mean"][k], record["ci95"][k], record, record["spread"][k] if record["spread"] else None)


def _value(mean: float | None, ci95: float, record: dict[str, Any], *more: float | None) -> str:
    if mean is None:
        return "diverges"
    shown = [record["scale"] * x for x in (mean, ci95, *more) if x is not None]
    if record["scale"] == 100:
        return " ± ".join(f"{x:.1f}" for x in shown)
    # three digits of the mean, and as many places after the point in the others
    places = max(0, 2 - int(np.floor(np.log10(abs(shown[0]))))) if shown[0] else 3
    return f"{mean:.2e}" if places > 6 else " ± ".join(f"{x:.{places}f}" for x in shown)


def _verdict(record: dict[str, Any]) -> str:
    """The verdict, "no" in bold; if there are several baselines, of how many it is "yes"."""
    word, count = verdict(record), len(rivals(record))
    text = "**no**" if word == "no" else word
    beaten = sum(beats(record, row) == "yes" for row in rivals(record))
    return text if word == "yes" or count < 2 else f"{text} ({beaten} of {count})"


def _seconds(record: dict[str, Any]) -> str:
    """Of training with one seed: the fastest, as other programs may have been at work beside it."""
    if not record["seconds"]:
        return "–"
    least = min(record["seconds"])
    return f"{least:.0f}" if least >= 9.5 else f"{least:.1f}"


def _command(record: dict[str, Any]) -> str:
    """The command that trains, without seed and folder, and what the one that measures has beside the runs."""
    *trained, measured = record["commands"]
    more = " ".join(word for word in [measured.partition(" --")[2]] if word)
    return f"`{trained[0].partition(' --seed ')[0]}`" + (f", `compare … --{more}`" if more else "")


# ── pictures ────────────────────────────────────────────────────────────────────────────────────────────────────────


def file_of(system: str) -> str:
    return f"{system.replace(' ', '-').replace(':', '')}.png"


def over_steps(system: str, settings: dict[str, Records]) -> Figure:
    """A panel per setting: each row over the steps of adaptation, and the baselines as lines."""
    columns = min(4, len(settings))
    rows = -(-len(settings) // columns)
    figure = style.new(max(5.5, 3.4 * columns), 1.2 + 2.9 * rows)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    algorithms = list(dict.fromkeys((EVERY[n].label, EVERY[n].algorithm) for some in settings.values() for n in some))
    colours = dict(zip(algorithms, style.colours([algorithm for _, algorithm in algorithms]), strict=True))
    for ax, (setting, some) in zip(axes, settings.items(), strict=False):
        first = next(iter(some.values()))
        metric = Metric(*(first[key] for key in ("metric", "unit", "scale", "better", "chance", "label")))
        start = max((r["mean"][0] for r in some.values() if r["mean"][0] is not None), default=0)
        top = style.diverged(metric.scale * start) if metric.better == "lower" else np.inf
        for name, record in some.items():
            row = EVERY[name]
            colour = style.GREY if row.scratch else colours[row.label, row.algorithm]
            mean, ci95 = (metric.scale * np.array(record[key], float) for key in ("mean", "ci95"))
            shown = mean <= top
            x = np.arange(len(mean))[shown]
            ax.fill_between(x, (mean - ci95)[shown], (mean + ci95)[shown], color=colour, alpha=0.15, lw=0)
            ax.plot(x, mean[shown], "o-", ms=2.5, lw=1.3, color=colour, label=row.label)
        draw_baselines(ax, baselines_of(some), metric.scale)
        style.metric_axis(ax, metric, top)
        if metric.scale == 100:
            _zoomed(ax)
        ax.set(xlabel="adaptation steps", title=setting or system)
    for ax in axes[len(settings) :]:
        ax.set_axis_off()
    handles: dict[str, Any] = {}
    for ax in axes[: len(settings)]:
        handles |= dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    widest = max(map(len, handles))
    fit = int(figure.get_figwidth() * 15 / (widest + 8))  # columns, of so many letters
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=max(1, min(len(handles), fit)))
    counts = sorted({record["tasks"] for some in settings.values() for record in some.values()})
    tasks = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    seeds = max(len(record["runs"]) for some in settings.values() for record in some.values())
    said = f"{tasks} test tasks, mean over {style.in_number(seeds, 'seed')}, bands: 95 % over tasks"
    figure.suptitle(f"{system} · {said}", x=0.01, ha="left")
    return figure


def _zoomed(ax) -> None:
    """A percentage from the least that is drawn, chance among it, to the most."""
    drawn = np.concatenate([np.asarray(line.get_ydata(), float) for line in ax.lines])
    low, high = np.nanmin(drawn), np.nanmax(drawn)
    ax.set_ylim(max(0, low - 4), min(101, high + 4))


def beside_baselines(records: Records) -> Figure:
    """A line per setting: the error of MAML over that of the best baseline, which is 1."""
    lines = []
    for system, settings in tables_of(records).items():
        for setting, some in settings.items():
            for name, record in some.items():
                best, k = best_baseline(record), record["judged_after"]
                if EVERY[name].label == "MAML" and best and record["mean"][k] is not None:
                    lines.append((f"{system}, {setting}" if setting else system, record, best, k))
    figure = style.new(9, 1.2 + 0.3 * len(lines))
    ax = figure.subplots()
    (colour,) = style.colours(["maml"])
    ax.axvline(1, color=style.GREY, lw=1, ls="--")
    for y, (_, record, best, k) in enumerate(lines):
        # the error of a share of right answers is what it lacks to 1
        error = (lambda x: 1 - x) if record["better"] == "higher" else (lambda x: x)
        floor = max(error(best["mean"]), 1e-9)
        ratio, half = error(record["mean"][k]) / floor, record["ci95"][k] / floor
        ax.plot([max(ratio - half, ratio / 10), ratio + half], [y, y], color=colour, lw=3, alpha=0.35)
        ax.plot(ratio, y, "o", ms=5, color=colour)
        others = [error(row["mean"]) / floor for row in rivals(record) if row is not best]
        ax.plot(others, [y] * len(others), "|", ms=9, color=style.GREY)
        texts = [_value(record["mean"][k], record["ci95"][k], record), _value(best["mean"], best["ci95"], record)]
        ax.text(1.02, y, f"{texts[0]} · {best['label']}: {texts[1]}{record['unit']}", va="center", fontsize=7.5,
                transform=ax.get_yaxis_transform())  # fmt: skip
    ax.set_yticks(range(len(lines)), [line[0] for line in lines])
    xlabel = "error / error of the best baseline: MAML (dot, 95 %), other baselines (ticks)"
    ax.set(ylim=(len(lines) - 0.5, -0.5), xscale="log", xlabel=xlabel)
    ticker = require("matplotlib.ticker", "plot")
    low, high = ax.get_xlim()
    ax.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)) if high > 4 * low else ticker.AutoLocator())
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter("")
    figure.suptitle("MAML beside the best baseline of each system; right: both, as measured", x=0.01, ha="left")
    return figure


# ── the command ─────────────────────────────────────────────────────────────────────────────────────────────────────


def between(text: str, new: str, where: Path = PAGE, name: str = "systems") -> str:
    """`text` with `new` between the markers of that name.

    Raises:
        ValueError: the markers are not there.
    """
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    if not 0 <= text.find(begin) < text.find(end):
        raise ValueError(f"{where} has no {begin} … {end}")
    return f"{text[: text.index(begin) + len(begin)]}\n\n{new}\n\n{text[text.index(end) :]}"


def current(text: str, file: Path, records: Records) -> str:
    """A page with the tables and the numbers of what is stored.

    Raises:
        ValueError: a marker or a sentence is not there.   KeyError: nothing is stored for a number.
    """
    systems_of = {FRONT: short, PAGE: page}
    if file in systems_of:
        text = between(text, systems_of[file](records), file)
    name = file.relative_to(stated.ROOT).as_posix() if file.is_relative_to(stated.ROOT) else ""
    for marker, part in further(name).items():
        text = between(text, part, file, marker)
    return stated.put(text, SENTENCES.get(name, ()), stated.values())


def further(name: str) -> dict[str, str]:
    """The tables of a page by their markers, beside those of the systems."""
    known = stated.values()
    if name == ORACLE:
        return {"blind": of_oracle.blind(known["blind"]), "proofs": of_oracle.proofs(known)}
    if name == BENCH:
        return {
            RL: rl.exact.page(known["rl"]),
            NAVIGATION: rl.study.page(rl.study.stored()),
            "family": family.page(known["family"], family.times_of(family.RESULTS)),
            "listing": stated.listing(),
            "time": timing.page(known["time"]),
            "load": load.page(known["load"]),
        }
    return {}


def draw(records: Records, folder: Path) -> list[Path]:
    """All pictures, as PNG files in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    with require("matplotlib", "plot").rc_context(style.STYLE):
        figures = {file_of(system): over_steps(system, some) for system, some in tables_of(records).items()}
        for file, figure in (figures | {"systems.png": beside_baselines(records)}).items():
            save(figure, folder / file)
    return [folder / file for file in figures]


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.results", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing: are the tables current?")
    parser.add_argument("--pages", action="store_true", help="write the pages, and leave the pictures as they are")
    args = parser.parse_args(argv)
    records = systems.stored()
    if not records:
        print("nothing is stored yet: python -m bench systems", file=sys.stderr)
        return 1
    files = dict.fromkeys([PAGE, FRONT, *(stated.ROOT / name for name in SENTENCES)])
    texts = {file: file.read_text(encoding="utf-8") for file in files}
    new = {file: current(text, file, records) for file, text in texts.items()}
    if args.check:
        for file in (file for file in new if new[file] != texts[file]):
            print(f"{file} is not current: python -m bench.results", file=sys.stderr)
        return int(new != texts)
    for file, text in new.items():
        write_atomically(file, text.encode())
    if args.pages:
        return 0
    draw(records, FIGURES)
    if navigation := rl.study.stored():
        rl.study.draw(navigation)
    missing = [name for name in EVERY if name not in records]
    old = [name for name in records if not systems.is_of(records[name], name)]
    for what, names in (("not measured yet", missing), ("not of today's settings", old)):
        if names:
            print(f"{what}: {', '.join(names)}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
