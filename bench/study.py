"""A study: many runs, each trained once per seed, measured, and stored as one small JSON file per entry.

    train(config, out)                           as far as it is not trained yet
    work(names, todo)                            every entry to its end; stopped, it goes on; two processes share it

The subjects of studies, their tables and pictures are in `family` and `systems`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from tinymaml.files import write_atomically
from tinymaml.runs import Run
from tinymaml.runs.loop import configuration
from tinymaml.runs.loop import train as to_its_end
from tinymaml.runs.settings import Config, path_options

from . import timing

WAIT = 5.0  # seconds between looks at what another process is at


def words(options: Mapping[str, Any]) -> list[str]:
    """Options as a person types them: {"first_order": True, "hidden": (5, 6)} → ["--first-order", "--hidden 5 6"]."""
    found = []
    for name, value in options.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            found.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            found.append(f"--{flag} {' '.join(map(str, value)) if isinstance(value, (tuple, list)) else value}")
    return found


def train(config: Config, out: Path) -> None:
    """Train a run, as far as that is not done yet.

    Raises:
        ValueError: the run's folder was trained with other settings.
        BlockingIOError: another process trains it at the moment.
    """
    started = (out / "config.json").exists()
    if started:
        kept = Run.open(out)
        if configuration(kept).changed(**{name: config[name] for name in path_options(config)}) != config:
            raise ValueError(f"{out} was trained with other settings: remove it, or take other --runs")
        if max(kept.checkpoints(), default=0) == config.outer.iterations:
            return
    to_its_end(config, out, resume=started, progress=sys.stderr.isatty())


def train_all(runs: Mapping[Path, Config]) -> None:
    """Train each run of an entry, by its folder; errors as those of `train`, the last that another process is at."""
    blocked = None
    for out, config in runs.items():
        timing.say(str(out))
        try:
            train(config, out)
        except BlockingIOError as error:
            blocked = error
    if blocked:
        raise blocked


def work(
    names: Iterable[str], train: Callable[[str], None], measure: Callable[[str], None], is_done: Callable[[str], bool]
) -> int:
    """Train and measure each entry that is not done. 1: some failed, and it is printed why.

    Args:
        train: trains an entry with all seeds; BlockingIOError: another process is at it.
        measure: measures and stores it; BlockingIOError: likewise.
        is_done: whether it is stored.

    An entry that another process is at is passed over, and looked at again when the others are done.
    """
    left, failed = [name for name in names if not is_done(name)], False
    while left:
        blocked = []
        for name in left:
            try:
                train(name)
                if not is_done(name):
                    timing.say(f"measuring {name}")
                    measure(name)
            except BlockingIOError:
                blocked.append(name)
            except (FloatingPointError, ValueError, OSError, ImportError) as error:
                timing.say()
                print(f"{name}: {error}", file=sys.stderr)
                failed = True
        if blocked == left:
            timing.say(f"another process is at {', '.join(blocked)}")
            time.sleep(WAIT)
        left = [name for name in blocked if not is_done(name)]
    timing.say()
    return int(failed)


# ── what is stored ──────────────────────────────────────────────────────────────────────────────────────────────────


def rounded(x: Any) -> Any:
    """Numbers of a nest of lists and dicts with the digits that count."""
    if isinstance(x, dict):
        return {key: rounded(y) for key, y in x.items()}
    return [rounded(y) for y in x] if isinstance(x, list) else float(f"{x:.5g}") if isinstance(x, float) else x


def has_options(record: dict, options: dict[str, Any], seeds: Iterable[int]) -> bool:
    """Whether a record has these options and seeds; an option that one of the two lacks does not count."""
    options = json.loads(json.dumps(options))
    same = all(options[key] == value for key, value in record["options"].items() if key in options)
    return same and [one["seed"] for one in record["runs"]] == list(seeds)


def stored(results: Path, names: Iterable[str]) -> dict[str, dict]:
    """The record of each entry that has one."""
    files = {name: results / f"{name}.json" for name in names}
    return {name: json.loads(f.read_text(encoding="utf-8")) for name, f in files.items() if f.exists()}


def store(record: Any, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, (json.dumps(record, ensure_ascii=False) + "\n").encode())
