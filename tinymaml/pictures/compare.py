"""Several runs in one picture: over meta-iterations, over adaptation steps, over seconds.

It is called like this:

    figure = comparison(compare(["runs/maml", "runs/reptile"]))       # of the result of runs.compare
    draw(result, "comparison.png")
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..extras import require
from ..families.common import Metric
from ..files import expanded, naming
from ..runs.compare import seconds_per_iteration
from ..runs.settings import in_words
from . import save, style
from .steps import draw_baselines, draw_published
from .style import GREY, STYLE

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_comparison(result: dict[str, Any], to: str | os.PathLike) -> Path:
    """Write the picture of a comparison as a PNG file.

    Raises:
        ImportError: Matplotlib is not installed.   OSError: `to` cannot be written.
    """
    path = picture_path(to)
    with require("matplotlib", "plot").rc_context(STYLE):
        save(comparison(result), path)
    return path


def picture_path(to: str | os.PathLike) -> Path:
    """The path of a picture; its folder is made.

    Raises:
        ImportError: Matplotlib is not installed.   ValueError: it does not end with ".png".   OSError: no such folder.
    """
    require("matplotlib", "plot")
    path = expanded(to)
    if path.suffix.lower() != ".png":
        raise ValueError(f"the picture is {path}, wanted a name that ends with .png")
    with naming("make", path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    return path


def comparison(result: dict[str, Any]) -> Figure:
    """The three panels of `runs.compare.compare`'s result; a line over several seeds is their mean, in a band from the
    least to the greatest."""
    metric = Metric(**{name: result[name] for name in Metric._fields if name in result} | {"name": result["metric"]})
    ErrorbarContainer = require("matplotlib.container", "plot").ErrorbarContainer
    figure = style.new(12, 4.6)
    learning, steps, seconds = figure.subplots(1, 3)
    ours = style.colours([line["algorithm"] for line in result["lines"] if line["algorithm"]])
    colours = iter(ours)
    first = [metric.scale * x for line in result["lines"] if (x := line["mean"][0]) is not None]
    top = style.diverged(max(first, default=0)) if metric.better == "lower" else np.inf
    for line in result["lines"]:
        colour = next(colours) if line["algorithm"] else GREY
        _validation(learning, line, metric.scale, colour)
        if each := seconds_per_iteration(line["runs"]):
            _validation(seconds, line, metric.scale, colour, each)
        _after_steps(steps, result["steps"], line, metric.scale, colour, top)
    published = [(label, {int(step): x for step, x in values.items()}) for label, values in result["published"]]
    draw_published(steps, published, metric.scale, result["steps"][-1])
    draw_baselines(steps, result["baselines"], metric.scale)
    for ax in (learning, steps, seconds):
        style.metric_axis(ax, metric, top=top)
    after = sorted({line["validated_after"] for line in result["lines"]})
    learning.set(xlabel="meta-iteration", title=f"validation, after {_or(after)}")
    seconds.set(xlabel="seconds of training", title=learning.get_title("left"))
    for ax in (learning, seconds):
        ax.set_xlim(left=0)
    steps.set(xlabel="adaptation steps", title=f"{result['tasks']} test tasks, the same for all; bars: 95 %")
    steps.set_xticks(result["steps"] if len(result["steps"]) < 15 else result["steps"][:: len(result["steps"]) // 10])
    handles = dict(zip(*reversed(steps.get_legend_handles_labels()), strict=True))
    names = sorted(handles, key=lambda name: not isinstance(handles[name], ErrorbarContainer))  # the runs first
    columns = min(4, len(names))
    figure.legend([handles[name] for name in names], names, loc="outside lower center", ncols=columns)
    figure.suptitle(_title(result), x=0.01, ha="left")
    return figure


def _validation(ax, line: dict[str, Any], scale: float, colour: str, per_iteration: float = 1) -> None:
    """The mean and the span over seeds of the validations that all seeds have had."""
    logs = [dict(run["validation"]) for run in line["runs"]]
    x = sorted(set.intersection(*map(set, logs)))
    if not x:
        return
    y = scale * np.array([[log[i] for i in x] for log in logs])
    at = per_iteration * np.array(x)
    if len(logs) > 1:
        ax.fill_between(at, y.min(0), y.max(0), color=colour, alpha=0.2, lw=0)
    ax.plot(at, y.mean(0), "o-", ms=2.5, lw=1.2, color=colour)


def _after_steps(ax, steps: list[int], line: dict[str, Any], scale: float, colour: str, top: float) -> None:
    mean, ci95 = (scale * np.array(line[name], float) for name in ("mean", "ci95"))
    seeds = scale * np.array([run["mean"] for run in line["runs"]], float)
    if len(seeds) > 1:
        ax.fill_between(steps, seeds.min(0), seeds.max(0), color=colour, alpha=0.2, lw=0)
    label = line["label"] + (f" ({len(seeds)} seeds)" if len(seeds) > 1 else "")
    label += ": diverges" if np.isnan(mean[-1]) else ""
    ci95[~(mean <= top)] = np.nan
    ax.errorbar(steps, mean, ci95, fmt="o-", ms=3, lw=1.2, elinewidth=1, color=colour, label=label)


def _or(numbers: list[int]) -> str:
    words = [str(n) for n in numbers]
    return f"{' or '.join(words)} step{'' if words == ['1'] else 's'}"


def _title(result: dict[str, Any]) -> str:
    settings = ", ".join(in_words(name, value) for name, value in result["settings"].items())
    lines = result["lines"]
    statistics = sorted({line["statistics"] for line in lines} - {""})
    parts = [
        f"{result['family']}: {settings}" if settings else result["family"],
        f"network: {', '.join(sorted({line['network'] for line in lines}))}",
        f"batch norm: {', '.join(statistics)}" if statistics else "",
    ]
    seconds = "seconds: iterations × mean seconds per iteration, with compilation and validation"
    seeds = any(len(line["runs"]) > 1 for line in lines)
    transfer = sorted({line["transfer"] for line in lines} - {""})
    notes = [*transfer, "lines: mean over seeds, bands: least to greatest" if seeds else "", seconds]
    return "\n".join(" · ".join(filter(None, line)) for line in (parts, notes))
