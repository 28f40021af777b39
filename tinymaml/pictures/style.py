"""The common style of all pictures: size, titles, colours, and the axis of a family's metric.

    figure = titled(new(8, 4.4), learned, "mean over 200 test tasks")
    colours(["maml", "reptile"])                # an algorithm has its colour in every picture

`pyplot` is never touched, and no display is needed.
"""

from __future__ import annotations

import colorsys
import dataclasses
import textwrap
import zlib
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ..extras import require
from ..families.common import Metric
from ..runs.compare import WORK
from ..runs.loop import Learned
from ..runs.settings import TABLES, Config, chosen_names, default_of, in_words, members_of, path_options
from ..runs.transfer import in_short

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STEPS = 10  # of adaptation
# The colours of the first algorithms, by their places in the table of algorithms; `palette` makes more.
PALETTE = (
    "#1f6cb0", "#2a9d4e", "#8e44ad", "#e377c2", "#00a5b5", "#d1361f",
    "#c9a800", "#7f8c00", "#4b4bc8", "#7a4a2e", "#ff8a70", "#e06c00",
)  # fmt: skip
GREY = "#777777"
SHADES = {0: "#b3cfe8", 1: "#74acd8", 5: "#2a74b6", 10: "#08306b"}  # after so many steps
WRONG, RIGHT = "#d1361f", "#1b8a5a"
STYLE = {
    "font.size": 9, "axes.titlesize": 9, "axes.titlelocation": "left", "figure.titlesize": 9, "legend.fontsize": 8,
    "legend.frameon": False, "axes.spines.top": False, "axes.spines.right": False, "savefig.dpi": 150,
}  # fmt: skip


def new(width: float, height: float) -> Figure:
    """An empty figure, in inches."""
    return require("matplotlib.figure", "plot").Figure((width, height), layout="constrained")


def palette(count: int) -> list[str]:
    """At least `count` colours, no two alike."""
    # hues a golden section of the circle apart
    hues = [colorsys.hls_to_rgb(k * 0.618034 % 1, 0.42, 0.6) for k in range(count - len(PALETTE))]
    return [*PALETTE, *("#" + "".join(f"{round(255 * x):02x}" for x in hue) for hue in hues)]


def colours(algorithms: Iterable[str]) -> list[str]:
    """A colour for each algorithm: its own; for one that is there again, or is a user's, the next one that is free."""
    names, known = list(algorithms), list(members_of("algorithm"))
    colours = palette(len(known))
    own = [names.index(name) == i and name in known for i, name in enumerate(names)]
    chosen = [colours[known.index(name)] if is_own else "" for name, is_own in zip(names, own, strict=True)]
    for i, name in enumerate(names):
        if not own[i]:
            first = known.index(name) if name in known else zlib.crc32(name.encode())
            order = [colours[(first + k) % len(colours)] for k in range(len(colours))]
            chosen[i] = next((colour for colour in order if colour not in chosen), order[0])
    return chosen


# ── titles ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def titled(figure: Figure, learned: Learned, note: str = "", training: bool = False) -> Figure:
    """Say what a reader must know to compare the picture with another.

    Args:
        note: what else there is to say, on a line of its own.
        training: the picture shows training, for which no rate is tuned.
    """
    config, learner = learned.config, learned.learner
    network = config.network.name + (f", batch norm: {learner.statistics}" if learner.statistics else "")
    parts = [tasks_in_words(config), config.algorithm.name, network, f"seed {config.outer.seed}"]
    tuned = " (tuned on validation tasks)" if not training and getattr(learner.algorithm, "tuned", False) else ""
    shown = {"inner_steps": "K = {}", "inner_lr": f"α = {{:g}}{tuned}", "meta_lr": "β = {:g}"}
    settings = [text.format(config[name]) for name, text in shown.items() if config.get(name) is not None]
    settings += [
        in_number(config.outer.tasks, "task"),
        *changes(config, {*shown, "tasks", "seed", "statistics", *SAID, *WORK}),
    ]
    lines = [" · ".join(parts), ", ".join(settings) + f" · after {in_number(learned.iteration, 'meta-iteration')}",
             in_short(learned.source, config), note]  # fmt: skip
    width = int(15 * figure.get_figwidth())  # in letters
    figure.suptitle("\n".join(textwrap.fill(line, width) for line in lines if line), x=0.01, ha="left")
    return figure


SAID = {"ways", "shots"}  # by `tasks_in_words`


def tasks_in_words(config: Config) -> str:
    """The family, with what decides how hard its tasks are: "omniglot, 5-way 1-shot"."""
    parts = [f"{config[name]}-{name[:-1]}" for name in ("ways", "shots") if config.get(name) is not None]
    return ", ".join(filter(None, [config.family.name, " ".join(parts)]))


def changes(config: Config, without: set[str]) -> list[str]:
    """The options that are not as they are by default, in words."""
    _, defaults = chosen_names(**{role: getattr(config, role).name for role in TABLES})
    fields = {f.name: f for _, settings in config.parts() for f in dataclasses.fields(settings)}
    usual = {name: defaults.get(name, default_of(field)) for name, field in fields.items()}
    said = without | path_options(config)
    return [in_words(name, x) for name, x in config.used().items() if name not in said and x != usual[name]]


def in_number(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def user_text(name: str, width: int = 26) -> dict[str, Any]:
    """Arguments of `ax.text` that write a name of a user's, in any script: {"s": text, "family": fonts, …}.

    Characters that the usual font lacks are written in an installed font that has them all; if there is none, each
    that no font has stands as its escape, such as \\u732b, and not as a box. "$" begins no formula. Long names are
    broken into lines of `width` letters.
    """
    manager = require("matplotlib.font_manager", "plot")
    lines = [textwrap.fill(part, width, max_lines=2, placeholder=" …") for part in name.replace("_", " ").split("/")]
    text, usual = "\n".join(lines), manager.FontProperties().get_name()
    missing = {letter for letter in text if letter != "\n"} - _letters(manager.findfont(usual))
    # Last Resort has all characters, as boxes.
    others = [font for font in manager.fontManager.ttflist if not font.name.startswith("Last Resort")]
    other = next((font.name for font in others if missing <= _letters(font.fname)), None) if missing else None
    if missing and not other:
        text = "".join(ascii(letter)[1:-1] if letter in missing else letter for letter in text)
    return {"s": text, "family": [usual, other] if other else [usual], "parse_math": False}


@cache
def _letters(file: str) -> set[str]:
    """The characters that a font has."""
    return {chr(code) for code in require("matplotlib.ft2font", "plot").FT2Font(file).get_charmap()}


# ── axes ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def metric_axis(ax, metric: Metric, top: float = np.inf, what: str = "query") -> None:
    """The y axis of what is drawn in a family's metric, scaled; of errors a logarithmic one, at most up to `top`."""
    unit = f" ({metric.unit.strip()})" if metric.unit.strip() else ""
    ax.set_ylabel(f"{what} {metric.label}{unit}")
    if metric.chance is not None:
        ax.axhline(metric.scale * metric.chance, lw=1, ls=":", color=GREY, label="chance")
    if unit == " (%)":
        ax.set_ylim(0, 102)
    elif metric.better == "lower":
        log_axis(ax, top)


def diverged(first: float) -> float:
    """From where on an error that begins with `first` is not worth a picture."""
    return 10 * first if first > 0 else np.inf


def log_axis(ax, top: float = np.inf) -> None:
    """A logarithmic y axis, at most up to `top`, with numbers written as they are; a linear one, if not all are > 0."""
    drawn = np.concatenate([np.asarray(line.get_ydata(), float) for line in ax.lines] or [np.ones(1)])
    if not (drawn[np.isfinite(drawn)] > 0).all():
        return
    ticker = require("matplotlib.ticker", "plot")
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    if low < top < high:
        low, high = min(drawn[drawn > 0], default=low) / 1.5, top
        ax.set_ylim(low, high)
    decades = ticker.LogLocator(subs=(1, 2, 5) if high < 1e4 * low else (1,))
    ax.yaxis.set_major_locator(decades if high > 5 * low else ticker.AutoLocator())
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter("")
