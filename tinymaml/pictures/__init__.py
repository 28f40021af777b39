"""Pictures of a run: how it learned, and what a few steps do on tasks it was never trained on.

    plot("runs/sinusoid")                # RUN/plots: learning.png, adaptation.png, adaptation_mse.png
    plot("runs/omniglot", to="figures")  # learning.png, tasks.png, accuracy.png

    style      titles, colours, axes            waves     regression of a function of one number
    learning   over the meta-iterations         tiles     classification of images
    steps      over the adaptation steps        compare   several runs in one picture
    fits       regression of many numbers       cuts      binary classification in many dimensions
    sentences  classification of sentences               walks     policies in a plane

Each picture has a function that returns a Matplotlib figure. `learning` and `steps` are drawn for every run, whatever
its parts; what else there is, the `pictures` of its family make. Only `fits.distances` trains, and says so. Read next:
`style`.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..blas import libraries, one_thread
from ..extras import require
from ..files import expanded, naming, write_atomically
from ..runs.adaptation import rate_of
from ..runs.folder import Run
from ..runs.learner import Learner
from ..runs.loop import Learned, restore
from ..runs.settings import find_member
from .learning import learning
from .steps import after_steps
from .style import STEPS, STYLE

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot(
    path: str | os.PathLike, to: str | os.PathLike | None = None, *, data: str | None = None, on: str | None = None,
    **changes: Any,
) -> list[Path]:  # fmt: skip
    """Draw a run as PNG files in the folder `to` (RUN/plots), and return their paths.

    Args:
        data: where the run's data lies now, if it has moved; or the data of the family `on`.
        on, changes: the tasks to adapt to, as `runs.loop.restore` takes them. How the run learned is not drawn then.

    Raises:
        ImportError: Matplotlib is not installed.
        ValueError, OSError: no such run, checkpoint or data; no iteration yet; `to` cannot be written.
    """
    matplotlib = require("matplotlib", "plot")
    records = Run.open(path).read_log()
    if not records:
        raise ValueError(f"{path} has nothing to draw yet: its log holds no iteration")
    moved: dict[str, Any] = {"data": data} if data else {}
    learned = restore(path, on=on, **moved, **changes)
    if learned.source is None:  # how it learned is drawn
        records = Run.open(path).read_log("loss", learned.learner.metric.name)
    folder = expanded(to) if to else Path(path) / "plots"
    with naming("make", folder):
        folder.mkdir(parents=True, exist_ok=True)
    paths = []
    with matplotlib.rc_context(STYLE), one_thread(libraries("train")), np.errstate(all="ignore"):
        for name, figure in figures(learned, records):
            paths.append(folder / f"{name}.png")
            save(figure, paths[-1])
    return paths


def figures(learned: Learned, records: list[dict[str, Any]], tasks: int = 200) -> Iterator[tuple[str, Figure]]:
    """(name, figure) of each picture of a run, whose log has these records; curves are means over so many tasks."""
    metric, member = learned.learner.metric, find_member("family", learned.config.family.name)
    if learned.source is None:
        yield "learning", learning(learned, records)
    learned = settled(learned)
    if hasattr(member, "pictures"):
        yield from member.pictures(learned)
    yield metric.picture or f"adaptation_{metric.name}", after_steps(learned, tasks)


def settled(learned: Learned) -> Learned:
    """The same with the inner rate that is best on validation tasks, if its algorithm leaves the rate open."""
    if rate := rate_of(learned, STEPS):
        config = learned.config.changed(inner_lr=rate[0])
        return learned._replace(config=config, learner=Learner(config, learned.learner.network))
    return learned


def save(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG file."""
    png = io.BytesIO()
    figure.savefig(png, format="png")
    write_atomically(path, png.getvalue())
