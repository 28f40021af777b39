"""Pictures of a run: how it learned, and what a few steps do on tasks it was never trained on.

    plot("runs/sinusoid")                # RUN/plots: learning.png, adaptation.png, adaptation_mse.png
    plot("runs/omniglot", to="figures")  # learning.png, tasks.png, accuracy.png

Each picture has a function that returns a Matplotlib figure. No display is needed, and `pyplot` is never touched.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .engine import value_and_grad
from .extras import require
from .families.sinusoid import X
from .files import naming, write_atomically
from .maml import adapt
from .nest import Nest, tree_map
from .optim import adam
from .runs import Run, loop, outer
from .runs.evaluate import interval
from .runs.loop import INIT, TEST, TRAIN, VALIDATE
from .runs.settings import Config

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STEPS = 10  # of adaptation
PRETRAIN_ITERATIONS = 5000  # at most
RATES = (0.1, 0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001, 0.00003, 0.00001)  # one of which the pretrained net takes
PRETRAINED = "pretrained without MAML"
# Finn et al., 2017, section 5.1: mean squared error after 1, 5 and 10 steps on 5 points
PAPER = {"MAML": (0.67, 0.38, 0.35), PRETRAINED: (2.41, 2.23, 2.19)}
COLOURS = {"MAML": "#1f6cb0", PRETRAINED: "#c2640a"}
SHADES = {0: "#b3cfe8", 1: "#74acd8", 5: "#2a74b6", 10: "#08306b"}  # after so many steps
WRONG, RIGHT = "#d1361f", "#1b8a5a"
STYLE = {
    "font.size": 9, "axes.titlesize": 9, "axes.titlelocation": "left", "figure.titlesize": 9, "legend.fontsize": 8,
    "legend.frameon": False, "axes.spines.top": False, "axes.spines.right": False, "savefig.dpi": 150,
}  # fmt: skip


class Net(NamedTuple):
    """A network that adapts: its parameters θ, and the rate of the gradient steps it takes on a task."""

    params: Nest
    rate: float


class Flat:
    """A configuration whose options are attributes by their flat names."""

    def __init__(self, config: Config):
        self.whole, self.family, self.model = config, config.family.name, config.network.name

    def __getattr__(self, name: str):
        return self.whole[name]


class Trained(NamedTuple):
    """What a run has learned: its settings, what they describe, θ, and after how many iterations."""

    config: Flat
    network: Any
    family: Any
    loss: Callable
    params: Nest
    iteration: int


def restore(path: str | os.PathLike, **moved: str) -> Trained:
    config, learner, state, iteration, _ = loop.restore(path, **moved)
    return Trained(Flat(config), learner.network, learner.family, learner.loss, state.meta, iteration)


def generator(config: Flat, stream: int, index: int = 0) -> np.random.Generator:
    return loop.generator(config.whole, stream, index)


def thetas(loss: Callable, params: Nest, support: tuple, inner_lr: float, steps: int) -> Iterator[Nest]:
    """θ₀ … θ_steps of one task, one gradient step at a time."""
    yield params
    for _ in range(steps):
        params = adapt(lambda *args: loss(*args)[0], params, support, inner_lr=inner_lr, inner_steps=1)
        yield params


def plot(path: str | os.PathLike, to: str | os.PathLike | None = None, *, data: str | None = None) -> list[Path]:
    """Draw a run as PNG files in the folder `to` (RUN/plots), and return their paths.

    Args:
        data: where the run's data lies now, if it has moved.

    Raises:
        ImportError: Matplotlib is not installed.
        ValueError, OSError: no such run, checkpoint or data; no iteration yet; `to` cannot be written.
    """
    matplotlib = require("matplotlib", "plot")
    records = Run.open(path).read_log()
    if not records:
        raise ValueError(f"{path} has nothing to draw yet: its log holds no iteration")
    trained = restore(path, **({"data": data} if data else {}))
    folder = Path(to).expanduser() if to else Path(path) / "plots"
    with naming("make", folder):
        folder.mkdir(parents=True, exist_ok=True)
    paths = []
    with matplotlib.rc_context(STYLE), np.errstate(all="ignore"):  # a net that diverges is drawn as far as it goes
        for name, figure in _figures(trained, records):
            png = io.BytesIO()
            figure.savefig(png, format="png")
            paths.append(folder / f"{name}.png")
            write_atomically(paths[-1], png.getvalue())
    return paths


def _figures(trained: Trained, records: list[dict[str, Any]]) -> Iterator[tuple[str, Figure]]:
    yield "learning", learning(trained.config, records)
    nets = {"MAML": Net(trained.params, trained.config.inner_lr)}
    if trained.config.family == "sinusoid":
        nets[PRETRAINED] = pretrain(trained, min(trained.iteration, PRETRAIN_ITERATIONS))
        yield "adaptation", adaptation(trained, nets)
        yield "adaptation_mse", after_steps(trained, nets, tasks=200)
    else:
        yield "tasks", predictions(trained, nets["MAML"])
        yield "accuracy", after_steps(trained, nets, tasks=100)


def learning(config: Flat, records: list[dict[str, Any]]) -> Figure:
    """Loss and metric of the query examples at each iteration; one panel, where they are the same."""
    panels = {"mse": "mean squared error"}
    if config.family == "omniglot":
        panels = {"loss": "cross-entropy (nats)", "accuracy": "accuracy (%)"}
    figure = _figure(8, 3.6)
    for ax, (key, label) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        scale = 100 if key == "accuracy" else 1
        x, y = (np.array([record[k] for record in records]) for k in ("iteration", key))
        window = max(5, len(x) // 50) | 1  # odd
        ax.plot(x, y * scale, ".", ms=4, mew=0, color=SHADES[1], alpha=0.6, label="training, each iteration")
        name = f"training, mean of {window} iterations"
        ax.plot(x, _smooth(y, window) * scale, lw=1.3, color=SHADES[10], label=name)
        if seen := [(r["iteration"], r[f"validation_{key}"] * scale) for r in records if f"validation_{key}" in r]:
            name = f"validation, {config.validation_tasks} tasks"
            ax.plot(*zip(*seen, strict=True), "o-", ms=3.5, lw=1, color=COLOURS[PRETRAINED], label=name)
        if key != "accuracy":
            _log_axis(ax)
        ax.locator_params(axis="x", integer=True)
        ax.set(xlabel="meta-iteration", ylabel=f"query {label} after {_count(config.inner_steps, 'step')}")
    ax.legend()  # in the last panel, which has the metric and its validation
    return _titled(figure, config)


def _smooth(y: np.ndarray, window: int) -> np.ndarray:
    """The mean of the `window` values around each; of fewer at the ends."""
    total, i = np.cumsum([0, *y]), np.arange(len(y))
    start, stop = np.maximum(i - window // 2, 0), np.minimum(i + window // 2 + 1, len(y))
    return (total[stop] - total[start]) / (stop - start)


# ── sinusoid ────────────────────────────────────────────────────────────────────────────────────────────────────────


def pretrain(trained: Trained, iterations: int) -> Net:
    """What MAML is compared with: the same network, regressing the support points of the same waves, pooled, with Adam.

    On a task it takes the one of `RATES` that is best on validation tasks, as the paper's does ("an automatically
    tuned step size"); MAML's α belongs to MAML's θ, and here would often diverge.
    """
    config, network, family, loss, *_ = trained
    params = network.init(generator(config, INIT), np.dtype(config.dtype))
    state = adam(config.meta_lr).init(params)
    for i in _progress(range(iterations), "pretraining without MAML"):
        support, _ = family.sample(generator(config, TRAIN, i), config.tasks, "train")
        x, y = (points.reshape(-1, 1) for points in support)  # of (tasks, shots, 1)
        _, grads = value_and_grad(loss, has_aux=True)(params, x, y)
        params, state = adam(outer.rate(config.whole.outer, i)).update(params, grads, state)
    nets = [Net(params, rate) for rate in RATES]
    tasks = [_task(trained, "val", i) for i in range(config.validation_tasks)]
    return min(_progress(nets, "tuning its rate"), key=lambda net: measure(trained, net, tasks)[:, -1].mean())


def adaptation(trained: Trained, nets: dict[str, Net], waves: int = 4) -> Figure:
    """The first test waves, in columns: what each net, in rows, makes of their support points, step by step."""
    config, network, family, loss, *_ = trained
    figure = _figure(8, 4.8)
    grid = figure.subplots(len(nets), waves, sharex=True, sharey=True, squeeze=False)
    x = np.linspace(*X, 200)
    for i in range(waves):
        truth = family.waves(generator(config, TEST, i), 1)(x).ravel()
        support, _ = _task(trained, "test", i)
        for ax, (name, net) in zip(grid[:, i], nets.items(), strict=True):
            path = _path(loss, net, support)
            curves = [np.ravel(network.apply(params, x[:, None].astype(config.dtype))) for params in path]
            errors = [np.mean((y - truth) ** 2) for y in curves]
            ax.plot(x, truth, lw=1.6, color="black", label="truth")
            for steps, y in enumerate(curves):
                if steps in SHADES:
                    label = f"after {_count(steps, 'step')}" if steps else "before adaptation"
                    ax.plot(x, np.clip(y, -100, 100), lw=1.2, color=SHADES[steps], label=label)
            ax.plot(*map(np.ravel, support), "o", ms=4.5, mec="white", mew=0.6, color=WRONG, label="support points")
            ax.set_title(f"error {errors[0]:.2g} → {errors[-1]:.2g}", fontsize=8)
            ax.set(xlabel="x", ylabel=f"{_label(config, name, net)}\ny", ylim=(-6.5, 6.5))
            ax.label_outer()
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
    return _titled(figure, config, trained.iteration, "error: mean squared, over the curve, before and after")


# ── Omniglot ────────────────────────────────────────────────────────────────────────────────────────────────────────


def predictions(trained: Trained, net: Net, tasks: int = 2) -> Figure:
    """The first test tasks: a row for each class, its support images, and what is predicted for its queries."""
    config, network, family, loss, *_ = trained
    rows, shots, queries = min(config.ways, 8), min(config.shots, 3), min(config.queries, 5)  # as many as can be read
    left = np.cumsum([3.2, shots + 0.5, queries + 0.5, queries])  # where the three blocks begin, and the last ends
    figure = _figure(8, 0.5 + tasks * (1.4 * rows + 1) * 8 / left[-1])
    for i, ax in enumerate(figure.subplots(tasks, 1, squeeze=False).ravel()):
        characters = family.episodes(generator(config, TEST, i), 1, "test").classes[0] // 4
        support, (xq, yq) = _task(trained, "test", i)
        path = _path(loss, net, support)
        before, after = (np.asarray(network.apply(params, xq)) for params in (path[0], path[-1]))
        _tiles(ax, left[0], *support, rows, shots)
        _tiles(ax, left[1], xq, yq, rows, queries, before)
        _tiles(ax, left[2], xq, yq, rows, queries, after)
        for row in range(rows):
            name = family.characters.names[characters[row]].replace("_", " ").replace("/", "\n")
            ax.text(0, 1.4 * row + 0.5, row, va="center", weight="bold")
            ax.text(left[0] - 0.2, 1.4 * row + 0.5, name, ha="right", va="center", fontsize=7)
        some = _part(queries, config.queries)
        heads = (f"support{_part(shots, config.shots)}", f"queries{some} before adaptation",
                 f"queries{some} after {_count(len(path) - 1, 'step')}")  # fmt: skip
        for x, head in zip(left, heads, strict=False):
            ax.text(x, -0.2, head, fontsize=8)
        ax.set(xlim=(-0.1, left[-1] + 0.1), ylim=(1.4 * rows, -0.6), aspect="equal")
        ax.set_axis_off()
        accuracy = [f"{100 * np.mean(logits.argmax(1) == yq):.0f} %" for logits in (before, after)]
        title = f"Test task {i + 1}{_part(rows, config.ways, ' classes shown')}"
        ax.set_title(f"{title}: accuracy {accuracy[0]} before adaptation, {accuracy[1]} after")
    note = "below a query: the predicted class, its probability; green is right, red wrong"
    return _titled(figure, config, trained.iteration, note)


def _tiles(ax, left: float, images, labels, rows: int, columns: int, logits=None) -> None:
    """Images in the rows of their classes; given logits, framed and captioned by what is predicted."""
    rectangle = require("matplotlib.patches", "plot").Rectangle
    for row in range(rows):
        for column, i in enumerate(np.flatnonzero(labels == row)[:columns]):
            x, y = left + column + 0.04, 1.4 * row
            ax.imshow(images[i, :, :, 0], cmap="Greys", vmin=0, vmax=1, extent=(x, x + 0.92, y + 0.92, y))
            if logits is not None:
                guess = logits[i].argmax()
                # softmax: eᶻ / Σ eᶻ, at its largest z
                probability = 1 / np.exp(logits[i] - logits[i].max()).sum()
                colour, width = (RIGHT, 1) if guess == row else (WRONG, 2)
                ax.add_patch(rectangle((x, y), 0.92, 0.92, fill=False, ec=colour, lw=width))
                caption = f"{guess}  {100 * probability:.0f} %"
                ax.text(x + 0.46, y + 0.98, caption, color=colour, fontsize=6, ha="center", va="top")


# ── both ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def after_steps(trained: Trained, nets: dict[str, Net], tasks: int) -> Figure:
    """The query metric of each net against the number of steps: its mean over test tasks, in a band of 95 %."""
    config, accuracy = trained.config, trained.family.metric.name == "accuracy"
    scale, unit = (100, " %") if accuracy else (1, "")
    figure = _figure(8, 4.4)
    ax, x = figure.subplots(), np.arange(STEPS + 1)
    for name, net in nets.items():
        numbers = _progress(range(tasks), f"{name} on test tasks")
        measured = scale * measure(trained, net, (_task(trained, "test", i) for i in numbers))
        mean, ci = interval(measured)
        ax.fill_between(x, mean - ci, mean + ci, color=COLOURS[name], alpha=0.2, lw=0)
        result = f"{mean[-1]:.3g} ± {ci[-1]:.2g}{unit} after {_count(STEPS, 'step')}"
        label = _label(config, name, net).replace("\n", ", ")
        label += f": {result if np.isfinite(mean[-1]) else 'diverges'}"
        ax.plot(x, mean, "o-", ms=3.5, color=COLOURS[name], label=label)
        if not accuracy and config.shots == 5:
            paper = f"{name}, Finn et al. (2017)"
            ax.plot([1, 5, 10], PAPER[name], "D", ms=6, mfc="none", color=COLOURS[name], label=paper)
    if accuracy:
        ax.axhline(100 / config.ways, lw=1, ls=":", color="grey", label="chance")
        ax.set_ylim(0, 102)
    else:
        _log_axis(ax, top=1000)  # beyond which it has diverged
    ax.set(xlabel="adaptation steps", xticks=x, ylabel="query accuracy (%)" if accuracy else "query mean squared error")
    figure.legend(loc="outside lower center", ncols=2)
    return _titled(figure, config, trained.iteration, f"mean over {tasks} test tasks, with 95 % intervals")


def measure(trained: Trained, net: Net, tasks: Iterable[tuple]) -> np.ndarray:
    """(tasks, STEPS + 1): the query metric of each task after 0 … STEPS steps; infinite once it diverged."""
    rows = []
    for support, query in tasks:
        metrics = [float(trained.loss(params, *query)[1]) for params in _path(trained.loss, net, support)]
        rows.append(metrics + [np.inf] * (STEPS + 1 - len(metrics)))
    return np.array(rows)


def _task(trained: Trained, split: str, i: int) -> tuple:
    """((xs, ys), (xq, yq)): task `i` of a split, always the same."""
    rng = generator(trained.config, {"test": TEST, "val": VALIDATE}[split], i)
    return tree_map(lambda array: array[0], trained.family.sample(rng, 1, split))


def _path(loss: Callable, net: Net, support: tuple) -> list[Nest]:
    """θ₀ … θ_STEPS on one task, or as far as they are finite."""
    path: list[Nest] = []
    with suppress(FloatingPointError, ValueError):  # the loss, or θ, is not finite
        for theta in thetas(loss, net.params, support, net.rate, STEPS):
            path.append(theta)
    return path


def _progress(items: Iterable, what: str) -> Iterable:
    """`items`, with a bar where stderr is a terminal."""
    return require("tqdm", "train").tqdm(items, desc=what, disable=None, leave=False, dynamic_ncols=True)


def _figure(width: float, height: float) -> Figure:
    return require("matplotlib.figure", "plot").Figure((width, height), layout="constrained")


def _titled(figure: Figure, config: Flat, iteration: int | None = None, note: str = "") -> Figure:
    """Say what a reader must know to compare the picture with another."""
    task = f"{config.shots}-shot sinusoid"
    if config.family == "omniglot":
        task = f"{config.ways}-way {config.shots}-shot Omniglot, {config.model}"
    settings = f"{_count(config.inner_steps, 'step')}, α = {config.inner_lr:g}, β = {config.meta_lr:g}"
    title = f"{task} · {_label(config)}, {settings}, {_count(config.tasks, 'task')} · seed {config.seed}"
    if iteration is not None:
        title += f"\nafter {_count(iteration, 'meta-iteration')} · {note}"
    figure.suptitle(title, x=0.01, ha="left")
    return figure


def _label(config: Flat, name: str = "MAML", net: Net | None = None) -> str:
    method = "first-order MAML" if name == "MAML" and config.first_order else name
    return f"{method}\nrate {net.rate:g}" if net else method


def _part(n: int, of: int, what: str = "") -> str:
    return f" ({n} of {of}{what})" if n < of else ""


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _log_axis(ax, top: float = np.inf) -> None:
    """A logarithmic y axis, at most up to `top`, with numbers written as they are."""
    ticker = require("matplotlib.ticker", "plot")
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    high = min(high, top)
    ax.set_ylim(low, high)
    decades = ticker.LogLocator(subs=(1, 2, 5) if high < 1e4 * low else (1,))
    ax.yaxis.set_major_locator(decades if high > 5 * low else ticker.AutoLocator())
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter("")
