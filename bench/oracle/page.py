"""The tables of the oracle's README: what its studies found, from their stored results.

    python -m bench.oracle alarms --store      # likewise matrix, field, blind, mutants [TARGET]
    python -m bench.results                    # then: the tables, and the numbers in the sentences

Each result is stored with the number of mistakes and of core cases that it was measured with.
"""

from __future__ import annotations

from typing import Any

from tinymaml import oracle
from tinymaml.oracle.mistakes import OF_MAML
from tinymaml.oracle.versions import VERSIONS

from .. import stated


def state() -> dict[str, Any]:
    """With what a study is measured."""
    return {"catalogue": VERSIONS["catalogue"], "mistakes": len(OF_MAML), "cases": len(oracle.load("core"))}


def keep(study: str, values: dict[str, Any], *, beside: bool = False) -> None:
    """Store what a study found, and with what it was measured."""
    name = study.partition("-")
    command = f"python -m bench.oracle {name[0]}" + f" --{name[2]}" * bool(name[2])
    stated.keep(study, command, {"state": state(), **values}, beside=beside)


def blind(found: dict[str, Any]) -> str:
    """A line per set of blind implementations and version of the catalogue."""
    columns = ["accepted", "named", "pointed at", "misled", "unexplained"]
    rows = [["catalogue", "set", "wrong", *columns, "right ones refused"], ["---"] * 2 + ["---:"] * (len(columns) + 2)]
    for version, sets in found["sets"].items():
        for called, counts in sets.items():
            refused = f"{counts['false alarm']} of {counts['right']}"
            rows.append([version, called, *(str(counts[key]) for key in ("wrong", *columns)), refused])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def proofs(known: dict[str, Any]) -> str:
    """A line per study that is stored: what it asks, its command, and what it found."""
    rows = [["", "command", "result", "with"], ["---"] * 4]
    for study, (asks, result) in STUDIES.items():
        if study in known:
            what, _, more = study.partition("-")
            command = f"`python -m bench.oracle {what}" + f" --{more}" * bool(more) + "`"
            with_ = "{mistakes} mistakes, {cases} cases".format(**known[study]["state"])
            rows.append([asks, command, result(known[study]), with_ if study != "mutants" else ""])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _matrix(x: dict[str, Any]) -> str:
    correct = f"{x['pairs_correct'] or 'none'} {'is' if x['pairs_correct'] < 2 else 'are'} `CORRECT`"
    ways, cells = x.get("ways_as_another", 0), x.get("cells_as_another", 0)
    apart = f" ({ways:,} and {cells:,} as another mistake that gives the same numbers there)" if ways + cells else ""
    return (
        f"{x['right']:,} of {x['ways']:,}, and {x['cells_right']:,} of {x['cells']:,} single cases{apart}; of its "
        f"first {x['pairs']} random pairs of mistakes {correct}, {x['pairs_named']} are named exactly, "
        f"{x['pairs_part']} in part"
    )


def _alarms(x: dict[str, Any]) -> str:
    return (
        f"{x['implementations']} implementations, {x['runs']:,} runs, {x['alarms']} alarms; the worst error is "
        f"{x['worst']:.1f} roundings, {x['allowed']:.0f} are allowed"
    )


def _field(x: dict[str, Any]) -> str:
    return f"{x['expected']} of {x['settings']} settings; errors were found in three published packages"


def _mutants(x: dict[str, Any]) -> str:
    by = {"tests": "by the tests", "oracle": "by the oracle (`--by oracle`), of those that change an answer"}
    said = []
    for who, called in by.items():
        files = [
            f"{file} {row['noticed']:,} of {row['mutants']:,} ({row['on']})" for file, row in x.get(who, {}).items()
        ]
        said += [f"{called}: {', '.join(files)}"] if files else []
    return "; ".join([*said, "each survivor is justified in `bench/oracle/mutants.py`"])


# Study → what it asks, and what it found in words.
STUDIES = {
    "matrix": ("mistakes, made in code as people make them (ways × dtype), get their exact verdict", _matrix),
    "alarms": ("correct implementations are never refused: NumPy, PyTorch, torch.func, JAX; threads, orders of sums",
               _alarms),
    "alarms-family": ("neither are correct implementations of the other algorithms", _alarms),
    "field": ("public libraries and repositories, in their right and wrong settings (extra `field`), get the verdict "
              "that their code deserves", _field),
    "mutants": ("planted changes of the source are noticed", _mutants),
}  # fmt: skip
