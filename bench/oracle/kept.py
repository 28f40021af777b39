"""What a study has found so far, in a file: one that was stopped goes on where it ended.

kept = Kept(path)                      # the records that are there; None: nothing is read or written
kept.of(name, state)                   # the record of that name, if it was made in the same state of the code
kept.add(name, state, record)          # written at once, as a whole or not at all
digest([file, …], "core")              # a state: of files of the study, of the oracle, and of settings
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tinymaml import files, oracle


class Kept:
    """Records by name, each with the state of the code that it was made in.

    Raises:
        OSError: the file cannot be read or written.
        ValueError: it is not JSON.
    """

    def __init__(self, path: Path | None):
        self.path = path
        self.records: dict[str, dict[str, Any]] = json.loads(files.read_file(path)) if path and path.exists() else {}

    def of(self, name: str, state: str) -> dict[str, Any] | None:
        record = self.records.get(name, {})
        return record if record.get("state") == state else None

    def add(self, name: str, state: str, record: dict[str, Any]) -> None:
        self.records[name] = {"state": state} | record
        if self.path:
            files.write_atomically(self.path, json.dumps(self.records, ensure_ascii=False, indent=1).encode() + b"\n")


def digest(sources: Iterable[str | Path], *settings: object) -> str:
    """Of the oracle, of a study's own sources and of its settings: with another, results are old."""
    seen = hashlib.sha256(_oracle() + repr(settings).encode())
    for source in sorted(map(Path, sources)):
        seen.update(source.read_bytes())
    return seen.hexdigest()[:16]


@functools.cache
def _oracle() -> bytes:
    return b"".join(path.read_bytes() for path in sorted(Path(oracle.__file__).parent.rglob("*.py")))
