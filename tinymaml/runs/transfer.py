"""A run on other tasks than those it was trained on: fewer shots, another data set, another family.

    config = changed(config, None, {"shots": 1})             # its own family, with fewer shots
    config = changed(config, "digits", {"data": "mnist"})    # tasks of another family
    check_fits("runs/omniglot", own, other)                  # two families: what one was trained on serves the other
    in_short(source, config)                                 # "trained on omniglot, adapted to digits"

The network and the algorithm stay. Read next: `loop.restore`, which uses it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ..families.common import as_metric
from .settings import Choice, Config, chosen_names, find_member, in_words, made, path_options, settings_of

# Options that the families share by name: another family takes those of the run, not its own defaults.
SHARED = ("ways", "shots", "queries")
# Options of an algorithm that say how far its steps go: a new task may be adapted to by others.
RATES = ("inner_lr", "later")


def changeable(config: Config, on: str | None = None) -> dict[str, dataclasses.Field]:
    """The options that evaluation may change, by name: all of the family (`on`, or the run's), and the inner rates."""
    family = settings_of(find_member("family", on)) if on else config.family.settings
    rates = [f for f in dataclasses.fields(config.algorithm.settings) if f.name in RATES]
    return {f.name: f for f in (*dataclasses.fields(family), *rates)}


def changed(config: Config, on: str | None, changes: dict[str, Any]) -> Config:
    """The configuration of a run with tasks of the family `on` (None: its own), and with these changes.

    Another family has its own defaults, except for the options in `SHARED`, which are the run's.

    Raises:
        ValueError, ImportError: no such family or option, or a value that is not allowed.
    """
    check_changes(config, on, changes)
    if on is None or on == config.family.name:
        return config.changed(**changes)
    _, defaults = chosen_names(on, config.algorithm.name, config.network.name)
    shared = {name: config[name] for name in SHARED if config.get(name) is not None}
    values, settings = {**defaults, **shared, **changes}, settings_of(find_member("family", on))
    moved = dataclasses.replace(config, family=Choice(on, made(settings, values, on)))
    return moved.changed(**{name: x for name, x in changes.items() if name in RATES})


def check_changes(config: Config, on: str | None, changes: Iterable[str]) -> None:
    """Raises: ValueError: evaluation cannot change an option of one of these names."""
    known = changeable(config, on)
    for name in changes:
        if name not in known:
            family = on or config.family.name
            named = " that names a file or folder" if name == "data" else ""
            others = ", ".join(known) or "nothing"
            raise ValueError(f"on {family} a run has no option {name}{named}; what can be changed is {others}")


def check_fits(run: Any, own: Any, other: Any) -> None:
    """Raises: ValueError: a network for the tasks of one family cannot serve the other's; both are shown.

    Args:
        run: what an error calls the run.
        own, other: what the `make` of the families returned.

    Of a network for more classes than there are, some outputs are never right; fewer do not do.
    """
    needed = {"input_shape": "inputs of shape"}
    if hasattr(own, "vocabulary") or hasattr(other, "vocabulary"):  # what `networks.embedding` needs
        needed |= {"vocabulary": "a vocabulary of", "features": "features of number"}
    for name, called in needed.items():
        ours, theirs = (getattr(family, name, None) for family in (own, other))
        ours, theirs = (tuple(x) if isinstance(x, (list, np.ndarray)) else x for x in (ours, theirs))
        if ours != theirs:
            raise ValueError(f"{run} was trained on {called} {_shown(ours)}, and these tasks have {_shown(theirs)}")
    ours, theirs = own.outputs, other.outputs
    classes = as_metric(own.metric).name == as_metric(other.metric).name == "accuracy" and ours != 1 != theirs
    if not (theirs <= ours if classes else theirs == ours):
        what = "classes" if classes else "outputs"
        raise ValueError(f"{run} was trained for {_shown(ours)} {what}, and these tasks have {_shown(theirs)}")


def _shown(x: Any) -> str:
    return "none" if x is None or x == () else str(x)


def in_short(source: Config | None, config: Config) -> str:
    """The words of a table about a run on other tasks than its own: "trained on omniglot, adapted to digits".

    Args:
        source: the configuration that the run was trained with; None: the tasks are its own, and nothing is to say.
    """
    if source is None:
        return ""
    one, two = source.family, config.family
    rates = [name for name in RATES if source.get(name) is not None]
    ours, theirs = ({**dataclasses.asdict(c.family.settings), **{n: c[n] for n in rates}} for c in (source, config))
    differ = [name for name in ours if name in theirs and ours[name] != theirs[name]]
    files = [name for name in differ if name in path_options(source)]
    said = []
    if one.name != two.name:
        said.append(f"trained on {one.name}, adapted to {two.name}")
        differ = [name for name in differ if name in (*SHARED, *RATES)]
    elif files:
        before, after = (", ".join(Path(x[name]).name for name in files) for x in (ours, theirs))
        said.append(f"trained on {one.name} ({before}), adapted to {two.name} ({after})")
    unsaid = {*files, *(f.name for f in dataclasses.fields(one.settings) if f.metadata.get("training"))}
    said += [f"{in_words(name, theirs[name])} instead of {ours[name]}" for name in differ if name not in unsaid]
    return ", ".join(said)
