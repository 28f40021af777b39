"""Pictures of what `timing`, `scaling`, `load` and `family` measured. Each function returns a Matplotlib figure.

A figure is saved like this:

    save(workloads(records), "bench.png")
"""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tinymaml.extras import require
from tinymaml.files import write_atomically
from tinymaml.pictures import style
from tinymaml.pictures.style import STYLE

from . import peers, timing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OURS, THEIRS, LIMIT = "#1f6cb0", "#8a8f98", "#c2640a"
SHADES = ("#1f6cb0", "#c2640a", "#1b8a5a", "#8a8f98", "#d1361f", "#6b3fa0")


def save(figure: Figure, path: str | os.PathLike) -> None:
    """As PNG, whole or not at all."""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=150)
    write_atomically(path, data.getvalue())


def workloads(records: list[dict]) -> Figure:
    """A panel a workload and dtype: milliseconds of every contender on a logarithmic axis, from its shortest turn to
    its longest, a dot at the median; and what the matrix products alone would take at the GEMM limit."""
    with require("matplotlib", "plot").rc_context(STYLE):
        dtypes = sorted({r["dtype"] for r in records})
        names = list(dict.fromkeys(r["workload"] for r in records))
        cells = {(r["workload"], r["dtype"]): r for r in records}
        across = len(dtypes) if len(dtypes) > 1 else min(2, len(names))
        order = [(n, d) for n in names for d in dtypes]
        down = -(-len(order) // across)
        tall = [
            max(len(_timed(cells[key])) if key in cells else 0 for key in order[i * across : (i + 1) * across])
            for i in range(down)
        ]
        figure = require("matplotlib.figure", "plot").Figure(
            (5.2 * across, 0.7 + 0.75 * down + 0.19 * sum(tall)), layout="constrained"
        )
        grid = figure.subplots(down, across, squeeze=False, height_ratios=[n + 2.5 for n in tall]).ravel()
        for ax, key in zip(grid, order, strict=False):
            if key in cells:
                _panel(ax, cells[key])
        for ax in grid[len(order) :]:
            ax.set_axis_off()
        m = records[0]["machine"]
        figure.suptitle(
            f"Exact meta-gradients, warm · {m['cpu']}, {m['threads']} threads · {records[0]['date'][:10]}\n"
            "dot: median · bar: range · ×: ratio to the fastest peer",
            x=0.01, ha="left",
        )  # fmt: skip
        return figure


def _timed(record: dict) -> dict[str, dict]:
    return {who: one for who, one in record["contenders"].items() if "median" in one}


def _panel(ax, record: dict) -> None:
    by_name = _timed(record)
    order = sorted(by_name, key=lambda who: -by_name[who]["median"])
    for y, who in enumerate(order):
        one = by_name[who]
        colour = OURS if peers.CONTENDERS[who].ours else THEIRS
        ax.plot([1e3 * one["min"], 1e3 * one["max"]], [y, y], color=colour, lw=2.5, alpha=0.45, solid_capstyle="round")
        ax.plot(1e3 * one["median"], y, "o", color=colour, ms=5.5)
        beside = f"{timing.digits(1e3 * one['median'])} ms" + (f"  ×{one['ratio']:.2f}" if one["ratio"] else "")
        where = dict(xytext=(6, 0), textcoords="offset points", va="center", fontsize=7, color=colour)
        ax.annotate(beside, (1e3 * one["max"], y), **where)
    if record["fastest_peer"]:
        ax.axvline(1e3 * by_name[record["fastest_peer"]]["median"], lw=0.8, ls=":", color=THEIRS, zorder=0)
    shortest, longest = min(o["min"] for o in by_name.values()), max(o["max"] for o in by_name.values())
    if record["gemm"]:
        least = record["flops"] / max(record["gemm"].values())
        shortest = min(shortest, least)
        ax.axvline(1e3 * least, lw=1, color=LIMIT, zorder=0)
        ax.annotate("GEMM limit", (1e3 * least, len(order) - 0.4), (3, 0), textcoords="offset points", fontsize=6.5,
                    color=LIMIT, va="bottom")  # fmt: skip
    ax.set_xscale("log")
    room = (longest / shortest) ** 0.42  # for the numbers at the right
    ax.set(xlim=(1e3 * shortest / 1.3, 1e3 * longest * max(room, 2)), ylim=(-0.7, len(order) - 0.1 + 0.5))
    ax.set_yticks(range(len(order)), order)
    for tick, who in zip(ax.get_yticklabels(), order, strict=True):
        tick.set_color(OURS if peers.CONTENDERS[who].ours else "black")
    ax.tick_params(axis="y", length=0)
    _logarithmic(ax.xaxis, longest / shortest)
    ax.set_title(f"{record['workload']} {record['dtype']}: {_about(record)}")
    ax.set_xlabel("ms")


def _about(r: dict) -> str:
    kind = {"mlp": "MLP", "norm": "MLP, BN", "conv": "strided conv", "pool": "conv + max-pool"}[r["kind"]]
    size = "×".join(map(str, r["input_shape"]))
    return f"{kind}, {size}, {r['tasks']:,} tasks of {r['support']} + {r['query']}, K = {r['inner_steps']}"


def _logarithmic(axis, span: float) -> None:
    """Ticks of an axis that covers `span` = largest / smallest, with numbers written as they are."""
    locator = require("matplotlib.ticker", "plot").LogLocator(subs=(1, 2, 5) if span < 100 else (1,))
    axis.set_major_locator(locator)
    axis.set_major_formatter("{x:,.10g}")
    axis.set_minor_formatter("")


def scaling(results: list[dict]) -> Figure:
    """A row a study: time, and peak memory, against the size; dotted is the exponent that is expected."""
    with require("matplotlib", "plot").rc_context(STYLE):
        figure = require("matplotlib.figure", "plot").Figure((9, 0.8 + 2.6 * len(results)), layout="constrained")
        for row, result in zip(figure.subplots(len(results), 2, squeeze=False), results, strict=True):
            for ax, key, scale, slope, wanted, label in (
                (row[0], "seconds", 1e3, "exponent", "expected", "ms a meta-gradient"),
                (row[1], "peak", 2.0**-20, "exponent_memory", "expected_memory", "peak memory, MB"),
            ):
                for (who, one), colour in zip(result["contenders"].items(), SHADES, strict=False):
                    sizes, values = one["sizes"], [scale * v for v in one[key]]
                    if not sizes:
                        continue
                    fitted = f": exponent {one[slope]:.2f}" if one[slope] is not None else ""
                    if one[wanted] is not None:
                        fitted += f", expected {one[wanted]:g}"
                        line = [values[-1] * (n / sizes[-1]) ** one[wanted] for n in sizes]
                        ax.plot(sizes, line, ":", lw=1, color=colour)
                    ax.plot(sizes, values, "o-", ms=4, lw=1.2, color=colour, label=who + fitted)
                ax.set(xscale="log", yscale="log", xlabel=result["label"], ylabel=label, title=result["dtype"])
                ax.set_xticks(sorted({n for one in result["contenders"].values() for n in one["sizes"]}), minor=False)
                ax.xaxis.set_major_formatter("{x:,.10g}")
                ax.minorticks_off()
                low, high = ax.get_ylim()
                middle = (low * high) ** 0.5
                ax.set_ylim(min(low, middle / 2), max(high, middle * 2))
                _logarithmic(ax.yaxis, high / low)
                ax.legend()
        m = results[0]["machine"]
        figure.suptitle(f"{m['cpu']}, {m['threads']} threads · dotted: the expected exponent, through the largest size",
                        x=0.01, ha="left")  # fmt: skip
        return figure


def load(records: list[dict]) -> Figure:
    """A panel per workload and dtype: milliseconds per call against the number of busy processes, a dot at the median,
    and a bar from there to the 90th percentile."""
    with require("matplotlib", "plot").rc_context(STYLE):
        across = min(2, len(records))
        down = -(-len(records) // across)
        figure = require("matplotlib.figure", "plot").Figure((0.3 + 4.7 * across, 0.8 + 3 * down), layout="constrained")
        panels = figure.subplots(down, across, squeeze=False).ravel()
        for ax, record in zip(panels, records, strict=False):
            _load_panel(ax, record)
        for ax in panels[len(records) :]:
            ax.set_axis_off()
        m = records[0]["machine"]
        figure.suptitle(
            f"Single calls beside busy processes · {m['cpu']}, {m['threads']} threads\n"
            f"{records[0]['date'][:10]} · dot: median · bar: to the 90th percentile",
            x=0.01, ha="left",
        )  # fmt: skip
        return figure


def _load_panel(ax, record: dict) -> None:
    measured = {who: one["loads"] for who, one in record["contenders"].items() if one["loads"]}
    seen = []
    for i, (who, loads) in enumerate(measured.items()):
        colour = SHADES[i % len(SHADES)]
        place = [record["busy"].index(int(n)) + 0.09 * (i - (len(measured) - 1) / 2) for n in loads]
        medians = [1e3 * here["seconds"] for here in loads.values()]
        highest = [1e3 * here["percentile"] for here in loads.values()]
        ax.vlines(place, medians, highest, color=colour, lw=2.5, alpha=0.45)
        ax.plot(place, medians, "o-", color=colour, ms=4.5, lw=0.8, label=who)
        seen += [*medians, *highest]
    ax.set_yscale("log")
    middle = (min(seen) * max(seen)) ** 0.5
    room = (max(seen) / min(seen)) ** 0.25  # for the names above
    ax.set_ylim(min(min(seen) / 1.3, middle / 2), max(max(seen) * 1.3 * room, middle * 3))
    _logarithmic(ax.yaxis, max(seen) / min(seen))
    ax.set_xticks(range(len(record["busy"])), record["busy"])
    ax.set_xlim(-0.5, len(record["busy"]) - 0.5)
    ax.set(xlabel="busy processes", ylabel="ms per call")
    ax.set_title(f"{record['workload']} {record['dtype']}: {_about(record)}", fontsize=8)
    ax.legend(loc="upper center", ncols=3, fontsize=7)


AFTER = {1: "o", 5: "s", 10: "D"}  # steps, and how they are marked


class Row(NamedTuple):
    """A line of `family`: the error after 0, 1, … steps.

    Attributes:
        mean: (steps + 1,), over tasks and seeds.   ci95: half the interval over tasks.   seeds: (seeds, steps + 1).
        colour: that of its algorithm.   dashed: how it is drawn, to be told from another of the same colour.
    """

    mean: np.ndarray
    ci95: np.ndarray
    seeds: np.ndarray
    colour: str
    dashed: bool = False


def family(rows: dict[str, Row], title: str) -> Figure:
    """Two panels, for rows by their labels: the error over the steps of adaptation; and after 1, 5 and 10 steps, the
    mean, its interval over tasks, and each seed. The smallest error after the last step stands at the top."""
    order = sorted(rows, key=lambda label: rows[label].mean[-1])
    with require("matplotlib", "plot").rc_context(STYLE):
        size = (10, 1.6 + 0.27 * max(len(order), 9))
        figure = require("matplotlib.figure", "plot").Figure(size, layout="constrained")
        over_steps, ranked = figure.subplots(1, 2, width_ratios=(1.15, 1))
        _over_steps(over_steps, rows, order)
        _ranked(ranked, rows, order)
        figure.suptitle(title, x=0.01, ha="left")
        return figure


def _over_steps(ax, rows: dict[str, Row], order: list[str]) -> None:
    steps = max(len(r.mean) for r in rows.values()) - 1
    for label in order:
        ax.plot(rows[label].mean, color=rows[label].colour, lw=1.4, ls="--" if rows[label].dashed else "-")
    whole = [label for label in order if len(rows[label].mean) > steps]
    ends = np.log([rows[label].mean[-1] for label in whole])
    low, high = min(np.log(r.mean.min()) for r in rows.values()), max(np.log(r.mean.max()) for r in rows.values())
    places = spread_out(ends, (high - low) / 26)
    for label, end, place in zip(whole, ends, places, strict=True):
        ax.plot([steps, 1.04 * steps], np.exp([end, place]), color=rows[label].colour, lw=0.6, clip_on=False)
        ax.text(1.05 * steps, np.exp(place), label, color=rows[label].colour, va="center", fontsize=8)
    for label in set(order) - set(whole):  # it ends earlier, and its name stands there
        last = len(rows[label].mean) - 1
        ax.plot(last, rows[label].mean[-1], "x", color=rows[label].colour, ms=5)
        ax.annotate(label, (last, rows[label].mean[-1]), (5, 0), textcoords="offset points", color=rows[label].colour,
                    va="center", fontsize=8)  # fmt: skip
    ax.set_yscale("log")
    ax.set(xlim=(0, 1.42 * steps), xlabel="steps of adaptation", ylabel="query mean squared error")
    ax.set_xticks(range(steps + 1))
    ax.spines.bottom.set_bounds(0, steps)
    ax.set_ylim(np.exp(min(low, *places) - 0.08), np.exp(max(high, *places) + 0.08))
    _logarithmic(ax.yaxis, np.exp(high - low))


def spread_out(values: np.ndarray, gap: float) -> np.ndarray:
    """Increasing values, moved as little as need be until neighbours are `gap` apart."""
    groups: list[list[float]] = []  # values that touch stand around their mean
    for value in values:
        groups.append([value])
        while len(groups) > 1 and _bounds(groups[-2], gap)[1] + gap > _bounds(groups[-1], gap)[0]:
            last = groups.pop()
            groups[-1] += last
    return np.concatenate([np.mean(g) + gap * (np.arange(len(g)) - (len(g) - 1) / 2) for g in groups])


def _bounds(group: list[float], gap: float) -> tuple[float, float]:
    half = gap * (len(group) - 1) / 2
    return float(np.mean(group)) - half, float(np.mean(group)) + half


def _ranked(ax, rows: dict[str, Row], order: list[str]) -> None:
    shown = [(label, k) for label in order for k in AFTER if k < len(rows[label].mean)]
    for y, label in enumerate(order):
        r = rows[label]
        ax.axhline(y, color="0.93", lw=0.8, zorder=0)
        for k in (k for name, k in shown if name == label):
            ax.plot([r.mean[k] - r.ci95[k], r.mean[k] + r.ci95[k]], [y, y], color=r.colour, lw=3, alpha=0.35,
                    solid_capstyle="butt")  # fmt: skip
            ax.plot(r.seeds[:, k], [y] * len(r.seeds), "|", color=r.colour, ms=9, mew=0.9)
            ax.plot(r.mean[k], y, AFTER[k], color=r.colour, ms=4.5)
    ax.set_xscale("log")
    seen = [rows[label].mean[k] for label, k in shown]
    _logarithmic(ax.xaxis, max(seen) / min(seen))
    ax.set_yticks(range(len(order)), order)
    for tick, label in zip(ax.get_yticklabels(), order, strict=True):
        tick.set_color(rows[label].colour)
    ax.tick_params(axis="y", length=0)
    ax.set(ylim=(len(order) - 0.4, -0.6), xlabel="query mean squared error")
    labels = {k: f"after {style.in_number(k, 'step')}" for k in AFTER}
    marks = [ax.plot([], [], AFTER[k], color="0.35", ms=4.5, label=labels[k])[0] for k in AFTER]
    marks += [ax.plot([], [], "|", color="0.35", ms=9, label="a seed")[0]]
    marks += [ax.plot([], [], color="0.35", lw=3, alpha=0.35, label="95 % over tasks")[0]]
    ax.legend(handles=marks, loc="upper center", bbox_to_anchor=(0.5, 1.09), ncols=len(marks), fontsize=7,
              columnspacing=1, handletextpad=0.3)  # fmt: skip
