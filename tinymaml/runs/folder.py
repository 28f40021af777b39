"""A run: one folder that holds all of a training, and that a kill at any moment leaves whole.

    run = Run.create("runs/sine", {"alpha": 0.01})    # or Run.open("runs/sine"), to go on or to look
    with run.lock():                                  # one writer at a time
        run.log({"iteration": 1, "loss": 0.7})
        run.save(1, {"theta": theta}, {"seed": 3})
    iteration, arrays, meta = run.load()              # the newest whole checkpoint

    RUN/config.json                        format, version of tinymaml, what run it is, every hyper-parameter
    RUN/log.jsonl                          one JSON object per line, each with its "iteration"
    RUN/checkpoints/00000300.safetensors   arrays
    RUN/checkpoints/00000300.json          iteration, run, sha256 of the arrays, meta; written last, removed first
    RUN/lock                               held by the process that writes

A checkpoint exists once its JSON does. Iterations only grow; `rewind` forgets what lies past one. Each JSON object has
a "seal", the digest of all else in it, so that a changed number is noticed. Files from before there were seals
are read without; to edit config.json by hand, remove its seal.
Read next: `files`.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..extras import require
from ..files import naming, read_file, sync, write_atomically

FORMAT = 2  # of the folder; a greater one is refused
KEEP = 3  # checkpoints
OF_JSON = 1 << 26  # bytes of a configuration, or of the JSON of a checkpoint, at most
SHORT = 16  # hexadecimal digits of the seal of a line
_WAY_ROUND = "to go on without the line, delete it; --resume of the run leaves damaged lines out, too"


class Checkpoint(NamedTuple):
    """The result of `Run.load`. The arrays are writable, and bit for bit those that were saved."""

    iteration: int
    arrays: dict[str, np.ndarray]
    meta: dict[str, Any]


class Run:
    """A run folder, made by `create` or `open`.

    Attributes:
        path: the folder.   config: its configuration, as JSON gives it back.   format: that of the configuration.
        id: the digest of the configuration that it began with; "": it is older than these.
        diverged: why it has no checkpoint and will have none; "": nothing is known against it.
    """

    def __init__(
        self, path: Path, config: dict[str, Any], format: int = FORMAT, id: str = "", diverged: str = ""
    ) -> None:  # fmt: skip
        self.path, self.config, self.format, self.id, self.diverged = path, config, format, id, diverged
        self._log, self._checkpoints = path / "log.jsonl", path / "checkpoints"
        self._locked = False

    @classmethod
    def create(cls, path: str | os.PathLike, config: Mapping[str, Any]) -> Run:
        """Start a run in a new or empty folder, or in that of a run that diverged before its first checkpoint.

        Raises:
            FileExistsError: the folder holds a run or other files; `path` is a file.
            ValueError: a value of `config` is not JSON, or not finite.
        """
        plain = _plain(config, "config")
        run = cls(Path(path), plain, id=_seal(plain)[:SHORT])
        _refuse_taken(run.path)
        with naming("make", run.path):
            run.path.mkdir(parents=True, exist_ok=True)
            sync(run.path.parent)
        with run.lock():
            _refuse_taken(run.path)  # again: now no other process can be creating it
            run._log.unlink(missing_ok=True)  # of one that diverged
            run.configure(config)
        return run

    @classmethod
    def open(cls, path: str | os.PathLike) -> Run:
        """Open a run, to go on with it or to read it; reading needs no lock.

        Raises:
            FileNotFoundError: no such folder, or no run in it.
            OSError: config.json is no file.
            ValueError: config.json is damaged, not a run's, or of a newer format.
        """
        path = Path(path)
        if not path.is_dir():
            raise FileNotFoundError(f"{path} is not a run: there is no such folder")
        file = path / "config.json"
        if not file.exists():
            raise FileNotFoundError(f"{path} is not a run: it has no config.json")
        wanted = {"format": int, "tinymaml": str, "config": dict}
        record = _parse(read_file(file, "a configuration", OF_JSON), wanted, str(file))
        if record["format"] > FORMAT:
            seen = f"format {record['format']}, by tinymaml {record['tinymaml']}"
            raise ValueError(f"{path} was written in {seen}; this tinymaml reads up to format {FORMAT}")
        if not _unsealed(record):
            advice = 'restore it; or, if it was edited on purpose, remove its entry "seal"'
            raise ValueError(f"{file} is not as it was written, so that a setting may be another: {advice}")
        id, diverged = (str(record.get(key, "")) for key in ("run", "diverged"))
        return cls(path, record["config"], record["format"], id, diverged)

    @contextmanager
    def lock(self) -> Iterator[Run]:
        """Be the one writer, as `save`, `log` and `rewind` want; sweep up what a killed one left.

        Raises:
            BlockingIOError: another process, or another `Run`, is writing here. (A killed one is not.)
        """
        filelock = require("filelock", "train")
        require("safetensors.numpy", "train")  # `save` needs it: say so now, not hours later
        held = filelock.FileLock(self.path / "lock", timeout=0)
        with naming("lock", self.path), suppress(filelock.Timeout):
            held.acquire()
        if not held.is_locked:
            raise BlockingIOError(f"another run is writing to {self.path}: wait, or take another --out")
        try:
            self._locked = True
            self._sweep()
            self._mend_log()
            yield self
        finally:
            self._locked = False
            held.release()

    def configure(self, config: Mapping[str, Any]) -> None:
        """Write the configuration, in place of the one before.

        Raises:
            ValueError: a value of `config` is not JSON, or not finite.
        """
        self._want_lock("configure")
        self.config, self.format, self.diverged = _plain(config, "config"), FORMAT, ""
        self._write_config()

    def give_up(self, why: str) -> None:
        """Say that the run diverged before its first checkpoint: another one may be created in its folder."""
        self._want_lock("give_up")
        self.diverged = why
        self._write_config()

    def _write_config(self) -> None:
        record = {"format": FORMAT, "tinymaml": _version(), "run": self.id, "config": self.config}
        record |= {"diverged": self.diverged} if self.diverged else {}
        write_atomically(self.path / "config.json", _pretty(_sealed(record)))

    def save(self, iteration: int, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
        """Save a checkpoint and keep the last `KEEP`. Arrays: bool, integer or floating, of any shape.

        Raises:
            ValueError: `iteration` is not past the newest; a dtype not storable; `meta` not JSON.
            OSError: disk full, no permission; the checkpoints before are as they were.
        """
        self._want_lock("save")
        if type(iteration) is not int or not 0 <= iteration < 10**8:
            raise ValueError(f"save: iteration must be an int from 0 to 99999999, seen {iteration!r}")
        data = _to_bytes(arrays)
        record = {"iteration": iteration, "run": self.id, "sha256": _sha256(data), "meta": _plain(meta, "meta")}
        array_file, newest = self._file(iteration, "safetensors"), max(self.checkpoints(), default=-1)
        # Arrays are only replaced by the same ones: then a kill between the two files does no harm.
        same = iteration == newest and array_file.exists() and read_file(array_file) == data
        if iteration <= newest and not same:
            raise ValueError(f"save: {self.path} is at {newest} already: rewind, then save {iteration}")
        with naming("write to", self.path):
            self._checkpoints.mkdir(exist_ok=True)
            with open(self._log, "ab") as log:  # what led to the checkpoint is on disk before it is
                os.fsync(log.fileno())
            sync(self.path)
        try:
            write_atomically(array_file, data)
            write_atomically(self._file(iteration, "json"), _pretty(_sealed(record)))
            for old in self.checkpoints()[:-KEEP]:
                self._file(old, "json").unlink()
        finally:
            self._sweep()

    def checkpoints(self) -> list[int]:
        """The iterations that have a checkpoint, in order."""
        return sorted(int(file.stem) for file in self._files("json"))

    def load(self, iteration: int | None = None) -> Checkpoint:
        """The checkpoint of `iteration`; by default the newest whole one, warning of those skipped.

        Raises:
            FileNotFoundError: there is no checkpoint yet, or none of `iteration`.
            ValueError: the one asked for is damaged, or of another run, or all are; the message says how.
        """
        known = self.checkpoints()
        if not known or iteration not in (None, *known):
            wanted = "" if iteration is None else f" {iteration}"
            none = f"none: {self.diverged}" if self.diverged else "none yet"
            raise FileNotFoundError(f"no checkpoint{wanted} in {self.path}: it has {known or none}")
        damaged = []
        for candidate in reversed(known) if iteration is None else [iteration]:
            try:
                checkpoint = self._read(candidate)
            except (OSError, ValueError) as cause:
                damaged.append(f"checkpoint {candidate} of {self.path} cannot be used: {cause}")
                continue
            for reason in damaged:
                warnings.warn(f"{reason}; taking {candidate} instead", stacklevel=2)
            return checkpoint
        raise ValueError("\n".join(damaged))

    def log(self, record: Mapping[str, Any]) -> None:
        """Append a line to the log: JSON values, an int "iteration" among them.

        Raises:
            ValueError: no "iteration"; a "seal"; a value that is not JSON, or is nan or inf (the key is named).
            OSError: disk full, no permission; no half line is left.
        """
        self._want_lock("log")
        if "seal" in record:
            raise ValueError('log: "seal" is a word of the format')
        line = _line(_plain(record, "log"))
        _parse(line, {"iteration": int}, "log: this record")
        try:
            with naming("write", self._log), open(self._log, "ab") as file:
                file.write(line)
        except OSError:
            self._mend_log()
            raise

    def read_log(self, *numbers: str) -> list[dict[str, Any]]:
        """All records of the log, in order. Half a last line, left by a kill, is passed over.

        Args:
            numbers: what each record must have, and may have of a validation ("mse", and "validation_mse").

        Raises:
            OSError: the log is no file.
            ValueError: any other line is damaged, or lacks a number; the line is named.
        """
        records, damaged = self._records()
        for reason in damaged:
            raise ValueError(f"{reason}; {_WAY_ROUND}")
        for n, (record, _) in enumerate(records, 1):
            for name in numbers:
                for key in (name, f"validation_{name}"):
                    if not isinstance(value := record.get(key, 0.0 if key != name else None), (int, float)):
                        seen = f"has {value!r} as its {key}" if key in record else f"lacks {key}"
                        raise ValueError(f"{self._log}, line {n} {seen}, wanted a number; {_WAY_ROUND}")
        return [record for record, _ in records]

    def _records(self) -> tuple[list[tuple[dict[str, Any], bytes]], list[str]]:
        """Every whole record of the log, with its line, and what is wrong with the other lines."""
        records, damaged, sealed = [], [], False
        for n, line in enumerate(self._log_bytes().split(b"\n")[:-1], 1):
            called = f"{self._log}, line {n}"
            try:
                record = _parse(line, {"iteration": int}, called)
                sealed |= "seal" in record  # a line after one that is sealed is sealed, too
                if not _unsealed(record, sealed):
                    raise ValueError(f"{called} is damaged: it is not as it was written")
            except ValueError as cause:
                damaged.append(str(cause))
            else:
                records.append((record, line + b"\n"))
        return records, damaged

    def rewind(self, iteration: int) -> None:
        """Forget checkpoints and log past `iteration` (-1: all), as if the run had never gone further.

        Damaged lines of the log are forgotten, too; a warning names them, and log.damaged.jsonl is the log as it was.
        """
        self._want_lock("rewind")
        records, damaged = self._records()
        if damaged:
            aside = self.path / "log.damaged.jsonl"
            write_atomically(aside, self._log_bytes())
            others = f" (and {len(damaged) - 1} more)" if damaged[1:] else ""
            warnings.warn(f"{damaged[0]}{others}; going on without it, {aside} is the log as it was", stacklevel=2)
        for later in reversed([known for known in self.checkpoints() if known > iteration]):
            self._file(later, "json").unlink()
        self._sweep()
        if damaged or any(record["iteration"] > iteration for record, _ in records):
            write_atomically(self._log, b"".join(line for record, line in records if record["iteration"] <= iteration))

    def _read(self, iteration: int) -> Checkpoint:
        file = self._file(iteration, "json")
        wanted = {"iteration": int, "sha256": str, "meta": dict, "seal": str}
        record = _parse(read_file(file, "the JSON of a checkpoint", OF_JSON), wanted, file.name)
        if not _unsealed(record) or record["iteration"] != iteration:
            raise ValueError(f"{file.name} is not as it was written")
        if record.get("run", "") != self.id:
            raise ValueError(f"{file.name} is a checkpoint of another run")
        file = self._file(iteration, "safetensors")
        data = read_file(file, "the arrays of a checkpoint")
        if _sha256(data) != record["sha256"]:
            raise ValueError(f"{file.name} ({len(data)} bytes) is not as it was written: its sha256 differs")
        return Checkpoint(iteration, _from_bytes(data, file.name), record["meta"])

    def _file(self, iteration: int, kind: str) -> Path:
        return self._checkpoints / f"{iteration:08d}.{kind}"

    def _files(self, kind: str) -> list[Path]:
        return list(self._checkpoints.glob("[0-9]" * 8 + f".{kind}"))

    def _log_bytes(self) -> bytes:
        return read_file(self._log, "the log") if self._log.exists() else b""

    def _want_lock(self, method: str) -> None:
        if not self._locked:
            raise RuntimeError(f"{method}: hold the lock of {self.path} first (with run.lock(): ...)")

    def _sweep(self) -> None:
        """Remove arrays without their JSON, and temporary files."""
        left = [file for file in self._files("safetensors") if not file.with_suffix(".json").exists()]
        # In RUN itself only those of our two files: another process may be writing a picture there.
        for pattern in ("checkpoints/.*.tmp", ".config.json.*.tmp", ".log.jsonl.*.tmp"):
            left += self.path.glob(pattern)
        for file in left:
            file.unlink(missing_ok=True)

    def _mend_log(self) -> None:
        """Cut off half a last line."""
        data = self._log_bytes()
        if not data.endswith(b"\n") and data:
            os.truncate(self._log, data.rfind(b"\n") + 1)


def _refuse_taken(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise FileExistsError(f"{path} is not a folder; a run wants one, new or empty")
    if (path / "config.json").exists():
        if _is_given_up(path):
            return
        raise FileExistsError(f"{path} already holds a run: --resume continues it, another --out starts one")
    found = sorted(file.name for file in path.glob("*"))
    foreign = [name for name in found if name != "lock" and not name.startswith(".config.json.")]
    if foreign:  # beyond what a `create` that was killed leaves
        raise FileExistsError(f"{path} holds other files ({foreign[0]}); a run wants a new or empty folder")


def _is_given_up(path: Path) -> bool:
    """Whether a folder holds a run that diverged before its first checkpoint."""
    try:
        run = Run.open(path)
    except (OSError, ValueError):
        return False
    return bool(run.diverged) and not run.checkpoints()


def _to_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    # In C order, which the format wants. (np.ascontiguousarray would make a scalar one-dimensional.)
    stored = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    for name, array in stored.items():
        if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8 or not array.dtype.isnative:
            seen = f"{name!r} has dtype {array.dtype}"
            raise ValueError(f"save: {seen}; bool, integers and floats of up to 64 bits can be stored")
        if not isinstance(name, str) or name == "__metadata__":  # a word of the format
            raise ValueError(f"save: an array cannot be called {name!r}")
    return require("safetensors.numpy", "train").save(stored)


def _from_bytes(data: bytes, called: str) -> dict[str, np.ndarray]:
    """Writable arrays of a safetensors file. Raises: ValueError: it is no such file, or NumPy lacks a dtype."""
    library = require("safetensors.numpy", "train")
    try:
        return {name: view.copy() for name, view in library.load(data).items()}
    except Exception as cause:  # of the library, which is not of one kind: SafetensorError, KeyError, TypeError, …
        seen = f"the dtype {cause}" if isinstance(cause, KeyError) else cause
        raise ValueError(f"{called} is no safetensors file of NumPy's dtypes: {seen}") from None


def _plain(record: Mapping[str, Any], what: str) -> dict[str, Any]:
    """`record` as JSON gives it back: what is used today is then what is read tomorrow."""
    plain: dict[str, Any] = {}
    for key, value in record.items():
        try:
            plain |= json.loads(json.dumps({key: value}, allow_nan=False))
        except (TypeError, ValueError) as cause:
            raise ValueError(f"{what}: {key!r} must be JSON and finite, seen {value!r} ({cause})") from None
    return plain


def _line(record: dict[str, Any]) -> bytes:
    return json.dumps(_sealed(record, SHORT)).encode() + b"\n"


def _pretty(record: dict[str, Any]) -> bytes:
    return json.dumps(record, indent=2).encode() + b"\n"


def _parse(data: bytes, wanted: dict[str, type], what: str) -> dict[str, Any]:
    try:
        record = json.loads(data.decode())
    except RecursionError:
        raise ValueError(f"{what} is damaged: it is nested too deeply") from None
    except ValueError as cause:  # of the JSON, or of the UTF-8
        raise ValueError(f"{what} is damaged: {cause}") from None
    if not isinstance(record, dict) or any(type(record.get(key)) is not kind for key, kind in wanted.items()):
        keys = ", ".join(f"{key} ({kind.__name__})" for key, kind in wanted.items())
        raise ValueError(f"{what} is not what tinymaml writes: wanted a JSON object with {keys}")
    return record


# ── seals ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _sealed(record: dict[str, Any], digits: int = 64) -> dict[str, Any]:
    return {**record, "seal": _seal(record)[:digits]}


def _unsealed(record: dict[str, Any], always: bool = False) -> bool:
    """Take the seal off; whether it is right, or, unless there is `always` one, is not there."""
    seal = record.pop("seal", None)
    if seal is None:
        return not always
    return isinstance(seal, str) and len(seal) >= SHORT and _seal(record).startswith(seal)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _seal(record: dict[str, Any]) -> str:
    return _sha256(json.dumps(record, sort_keys=True).encode())


def _version() -> str:
    try:
        return version("tinymaml")
    except PackageNotFoundError:  # a checkout, not installed
        return "unknown"
