"""The measured numbers in the sentences of the pages: each is written from a stored result of the command beside it.

    python -m bench.results                    # writes them into the pages, with the tables; --check compares alone
    python -m bench.stated                     # the stored results: command, date, and whether they are quick
    python -m bench.stated sinusoid            # measures this again, and compares within the stated spread
    python -m bench.stated sinusoid --store    # measures, and stores

A stored result is bench/results/stated/NAME.json: the command, the date, and the values that it gave. Commands that
take long store it themselves, with `--store` (`python -m bench.oracle alarms --store`); the quick ones are in QUICK.
Numbers of the code itself, such as that of the cases, are counted anew each time (`counted`). `bench/sentences.py` has
the pieces of the pages, with a field in the place of each number.

`unexplained` finds the numbers of a page that are neither in a sentence, nor in a table of `bench.results`, nor
declared to be a name, a setting or a citation: a test fails if there is one.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

from .study import rounded, store

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "stated"
FIELD = re.compile(r"\{([^{}:]+)(?::([^{}]*))?\}")

# ── what is stored ──────────────────────────────────────────────────────────────────────────────────────────────────


def keep(name: str, command: str, values: dict[str, Any], *, beside: bool = False) -> Path:
    """Store what a command gave, with five digits per number; `beside`: what it did not measure stays. The file."""
    file = RESULTS / f"{name}.json"
    if beside and (old := stored().get(name)):
        values, commands = _beside(old["values"], values), old["command"].split("; ")
        command = "; ".join(dict.fromkeys([*commands, command]))
    date = datetime.now(timezone.utc).isoformat(timespec="seconds")
    store({"command": command, "date": date, "values": rounded(values)}, file)
    return file


def _beside(old: Any, new: Any) -> Any:
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return new
    return old | {key: _beside(old.get(key), value) for key, value in new.items()}


def stored() -> dict[str, dict[str, Any]]:
    """Every stored result, by name."""
    return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in sorted(RESULTS.glob("*.json"))}


def values() -> dict[str, Any]:
    """All that a field can name: the values of every stored result, and what is counted."""
    from . import family
    from .rl import exact

    known = {name: record["values"] for name, record in stored().items()} | {"counted": counted()}
    known["family"], known["rl"] = family.stored(family.RESULTS), exact.stored() or {}
    return known | {"derived": derived(known)}


def counted() -> dict[str, Any]:
    """Numbers of the code itself."""
    from tinymaml import oracle
    from tinymaml.oracle.catalogue import CATALOGUE
    from tinymaml.oracle.mistakes import OF_MAML
    from tinymaml.programs import cache
    from tinymaml.runs.settings import Config

    from . import autograd_suite
    from .rl import exact, study
    from .workloads import WORKLOADS

    acting = Config.default("navigation")
    reasons = {reason.partition(" ")[0]: len(tests) for reason, tests in autograd_suite.REASONS.items()}
    return {
        "cases": len(oracle.load("core")), "mistakes": len(OF_MAML), "all_mistakes": len(CATALOGUE),
        "cache_gib": cache.LIMIT >> 30, "goals": acting.outer.tasks, "test_goals": study.GOALS,
        "acting": {name: acting[name] for name in ("trajectories", "horizon", "inner_lr")},
        "layers": "-".join(map(str, acting["hidden"])), "all_steps": acting["trajectories"] * acting["horizon"],
        "processes": exact.BATCHES, "tests": {"stats": reasons["scipy.stats"], "others": reasons["scipy.signal,"]},
        "sine": WORKLOADS["W1"].tasks, "blind": _blind(),
    }  # fmt: skip


def _blind() -> dict[str, int]:
    """How many blind implementations there are, by their decorators: to import them takes PyTorch and JAX."""
    text = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "bench/oracle/blind").glob("*/*_ones.py"))
    return {"wrong": text.count("\n@wrong("), "right": text.count("\n@correct(")}


def listing(before: int = 3, after: int = 2) -> str:
    """A piece of the program of W1, where it begins to differ from that of first-order MAML."""
    import numpy as np

    import tinymaml as tm

    from .workloads import WORKLOADS

    w = WORKLOADS["W1"]
    meta = tm.meta_value_and_grad(w.loss, inner_lr=w.inner_lr, inner_steps=w.inner_steps)
    lines = str(tm.record(meta, *w.data(np.float32))).splitlines()
    first = next(i for i, line in enumerate(lines) if re.match(r" *│ *%", line))
    return "\n".join(f"  {line}" for line in lines[first - before : first + after])


def derived(known: dict[str, Any]) -> dict[str, Any]:
    """Numbers that follow from stored values: least and most, sums, and a ratio."""
    maml, meta_sgd, variance = known["family"]["maml"], known["family"]["meta-sgd"], known["rl"]["variances"]
    both = lambda numbers: (lambda found: [min(found), max(found)])([*numbers])  # noqa: E731
    return {
        "ratios": both(w["float32"]["contenders"]["compiled"]["ratio"] for w in known["time"].values()),
        "seeds": both(run["mean"][1] for run in maml["runs"]),
        "diverged": max(run["diverged"] for run in meta_sgd["runs"]),
        "dice_over_lvc": variance["dice"][0] / variance["lvc"][0],
        "share": both(100 * w["share"] for w in known["kernels"].values()),
        "rate": both(w["rate"] / 1e9 for w in known["kernels"].values()),
    }


# ── what is quick ───────────────────────────────────────────────────────────────────────────────────────────────────


class Quick(NamedTuple):
    """A result that a minute gives.

    Attributes:
        command: what a person types.   measure: () → values.
        spread: value → the value, or the number, by which another run may differ; all others are exact.
    """

    command: str
    measure: Callable[[], dict[str, Any]]
    spread: dict[str, str | float] = {}


def of_sine_waves() -> dict[str, Any]:
    """Training with all defaults, and what the trained network is measured to do."""
    from tinymaml.runs.evaluate import evaluate
    from tinymaml.runs.loop import train
    from tinymaml.runs.settings import Config

    with tempfile.TemporaryDirectory() as folder:
        train(Config.default("sinusoid"), f"{folder}/sinusoid", progress=sys.stderr.isatty())
        result = evaluate(f"{folder}/sinusoid")
    return {key: result[key] for key in ("tasks", "iteration", "mean", "ci95")}


QUICK = {
    "sinusoid": Quick(
        "tinymaml train sinusoid, tinymaml eval runs/sinusoid", of_sine_waves, {"mean": "ci95", "ci95": 0.02}
    ),
}


def apart(name: str, again: dict[str, Any]) -> list[str]:
    """The differences of a new measurement from the stored one that exceed the spread, in words."""
    old, spread = stored()[name]["values"], QUICK[name].spread
    again, found = rounded(again), []
    for key in old.keys() | again.keys():
        pairs = list(_leaves(key, old.get(key), again.get(key)))
        by = spread.get(key, 0.0)
        widths = [w for _, w, _ in _leaves("", old[by], old[by])] if isinstance(by, str) else [by] * len(pairs)
        for (path, a, b), width in zip(pairs, widths, strict=True):
            if a != b and not (width and isinstance(a, (int, float)) and abs(a - b) <= width):
                found.append(f"{name}.{path}: stored {a}, measured {b}, spread {width}")
    return found


def _leaves(path: str, a: Any, b: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            yield from _leaves(f"{path}.{i}", x, y)
    else:
        yield path, a, b


# ── sentences ───────────────────────────────────────────────────────────────────────────────────────────────────────


def value_at(path: str, known: dict[str, Any]) -> Any:
    """The value of a field, "alarms.runs" or "sinusoid.mean.1".

    Raises:
        KeyError: nothing of that name is stored.
    """
    found: Any = known
    for part in path.split("."):
        try:
            found = found[int(part)] if isinstance(found, list) else found[part]
        except (KeyError, IndexError, TypeError, ValueError):
            raise KeyError(f"nothing is stored for {{{path}}}: no {part!r}") from None
    return found


def pattern(sentence: str) -> re.Pattern[str]:
    """The pattern that finds a sentence in a page, with any numbers and any line ends."""
    parts = FIELD.split(sentence)  # text, path, format, text, …
    texts = [r"\s+".join(map(re.escape, re.split(r"\s+", text))) for text in parts[::3]]
    return re.compile(r"(-?\d(?:[\d.,-]*\d)?(?:e-?\d+)?)".join(texts))


def put(text: str, sentences: Iterable[str], known: dict[str, Any]) -> str:
    """The page with the stored numbers in its sentences.

    Raises:
        ValueError: a sentence is not in the page, or not once.
    """
    for sentence in sentences:
        found = list(pattern(sentence).finditer(text))
        if len(found) != 1:
            raise ValueError(f"the page has {len(found)} places like {sentence!r}, wanted one")
        numbers = [format(value_at(path, known), spec or "") for path, spec in FIELD.findall(sentence)]
        for i, number in reversed([*enumerate(numbers, 1)]):
            start, end = found[0].span(i)
            text = text[:start] + number + text[end:]
    return text


# ── the census ──────────────────────────────────────────────────────────────────────────────────────────────────────


def unexplained(text: str, sentences: Iterable[str], settings: Iterable[str]) -> list[str]:
    """The lines of a page with a number that is in no sentence, no table, no example, and no setting."""
    places = [r"<!-- ([\w ]+) -->.*?<!-- /\1 -->", r"^```(?:python|console|yaml)\n.*?^```", r"`[^`\n]+(?:\n[^`\n]+)?`",
              r"\]\([^)]*\)", r"^!\[[^]]*\]"]  # fmt: skip
    flags = re.S | re.M
    spans = [m.span() for place in places for m in re.finditer(place, text, flags)]
    spans += [m.span() for sentence in sentences for m in pattern(sentence).finditer(text)]
    spans += [m.span() for setting in settings for m in re.finditer(words(setting), text)]
    covered = bytearray(len(text))
    for start, end in spans:
        covered[start:end] = b"\1" * (end - start)
    lines = []
    for m in re.finditer(r"\d(?:[\d.,]*\d)?", text):
        if not all(covered[m.start() : m.end()]):
            number = text.count("\n", 0, m.start())
            lines.append(f"line {number + 1}, {m[0]}: {text.splitlines()[number].strip()}")
    return lines


def words(setting: str) -> str:
    return r"\s+".join(re.split(r"\s+", setting))


# ── the command ─────────────────────────────────────────────────────────────────────────────────────────────────────


def main(argv: list[str]) -> int:
    """0: every measurement agrees with what is stored."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.stated", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"measure again, of {', '.join(QUICK)}")
    parser.add_argument("--store", action="store_true", help="store what is measured")
    args = parser.parse_args(argv)
    if unknown := [name for name in args.names if name not in QUICK]:
        parser.error(f"no quick result {', '.join(unknown)}; wanted of {', '.join(QUICK)}")
    if not args.names:
        for name, record in stored().items():
            print(f"{name:12} {record['date'][:10]}  {'quick' if name in QUICK else '     '}  {record['command']}")
        return 0
    failed = 0
    for name in args.names:
        again = QUICK[name].measure()
        if args.store:
            print(keep(name, QUICK[name].command, again))
            continue
        lines = apart(name, again)
        failed |= bool(lines)
        print("\n".join(lines) or f"{name}: as stored, within the spread")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
