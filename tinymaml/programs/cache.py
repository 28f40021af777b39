"""The cache: generated source as machine code, compiled once and kept in a folder.

    code = load(text)                   # from the folder, or from Numba
    code.address(0)                     # of the C function `page0`: int64(int64, int64, int64)

The folder is `programs` in `$TINYMAML_CACHE` or `~/.cache/tinymaml`. A text has two files there, named by a key, which
is a hash of all that the machine code depends on:

    <key>.py        the text, for people; it is never run
    <key>.code      MAGIC; SHA-256 of what follows; the length of the header; the header as JSON; object code

The header has the key, what it was made of, the symbol and the length of each page's object code, and the names of the
functions that the object code calls. A file runs only if it is ours alone, its digest is right, and its key is the one
that is wanted; any other is written anew. Loaded code needs no Numba.

A folder that other users own or can write to is not used. If the folder fails in any way, the program still runs; a
`CacheWarning` says what went wrong, once for each process and folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import stat
import sys
import threading
import time
import warnings
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from ..extras import require
from ..files import cache_folder, make_private, write_atomically
from .views import Unsupported

MAGIC = b"tinymaml code 1\n"
LIMIT = 1 << 30  # bytes that the folder may take, unless TINYMAML_CACHE_SIZE says otherwise
LARGEST = 1 << 28  # bytes of a file that may be ours
WRITABLE = stat.S_IWGRP | stat.S_IWOTH  # by others
ABANDONED = 3600  # seconds after which a temporary file is taken for a dead process's
# Settings of Numba that change the machine code.
SETTINGS = "OPT", "CPU_NAME", "CPU_FEATURES", "ENABLE_AVX", "LOOP_VECTORIZE", "SLP_VECTORIZE", "DISABLE_INTEL_SVML"


class CacheWarning(UserWarning):
    """The cache folder is not used, or not as it should be; the message says why, and what can be done."""


# ── machine code ────────────────────────────────────────────────────────────────────────────────────────────────────


class Code:
    """The C functions of one text; `held` keeps them in memory."""

    def __init__(self, addresses: list[int], held: object):
        self.addresses, self.held = addresses, held

    def address(self, page: int) -> int:
        return self.addresses[page]


class Objects(NamedTuple):
    """Object code, page by page, as it is kept; `calls`: the functions that it expects to find in the process."""

    symbols: list[str]
    codes: list[bytes]
    calls: list[str]


_loaded: dict[str, Code] = {}  # by text, for the life of the process: machine code is called by address
_said: set[str] = set()  # what there was a warning about
_lock = threading.RLock()
if hasattr(os, "register_at_fork"):  # a child never finds the lock, or Numba's own, held by a thread that it lacks
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


def load(text: str) -> Code:
    """The machine code of a generated text, whose functions are called `page0`, `page1`, …

    Any number of threads and processes may ask at once. A `CacheWarning` comes when the code is there: if it is made an
    error, the next call returns the code.

    Raises:
        Unsupported: Numba refuses the text.
        ImportError: Numba is needed, and is not installed.
    """
    complaints: dict[str, str] = {}
    if text not in _loaded:
        with _lock:
            if text not in _loaded:
                _loaded[text] = _load(text, complaints)
            complaints = {about: message for about, message in complaints.items() if about not in _said}
            _said.update(complaints)
    for message in complaints.values():
        warnings.warn(message, CacheWarning, stacklevel=2)
    return _loaded[text]


def _load(text: str, complaints: dict[str, str]) -> Code:
    """Complaints are put in the dict, by what they are about."""
    key = key_of(text)
    store = _store(complaints)
    if store is None:
        return _compile(text, f"<{key}>")[0]
    path = store.path / f"{key}.code"
    source = path.with_suffix(".py")
    if store.read(source) != text.encode():
        _write(store, source, text.encode(), complaints)
    objects = objects_in(store.read(path), key)
    code = objects and _link(objects)
    if code:
        with suppress(OSError):
            os.utime(path)  # it is the most recently used
        return code
    code, objects = _compile(text, str(source))
    if objects:
        _write(store, path, object_file(objects, key), complaints)
    else:
        complaints["code"] = "this Numba does not show its machine code, so programs are compiled anew each time"
    return code


def _store(complaints: dict[str, str]) -> Store | None:
    """The folder, None if it cannot be used."""
    try:
        store = Store(cache_folder())
    except OSError as cause:
        complaints["home"] = f"programs are compiled anew each time: {cause.strerror}"
        return None
    if reason := store.refusal():
        complaints[str(store.path)] = f"the cache is not used, so programs are compiled anew each time: {reason}"
        return None
    if store.misread:
        complaints["limit"] = store.misread
    return store


def _write(store: Store, path: Path, data: bytes, complaints: dict[str, str]) -> None:
    try:
        store.write(path, data)
    except OSError as cause:
        why = os.strerror(cause.errno) if cause.errno else cause
        complaints.setdefault(str(store.path), (
            f"cannot write to the cache folder {store.path} ({why}), so programs are compiled anew each time: "
            "set TINYMAML_CACHE to a folder that can be written"
        ))  # fmt: skip


def key_of(text: str) -> str:
    """The name of a text's files: it changes with all that the machine code depends on."""
    parts = json.dumps(_surroundings(), sort_keys=True) + "\n" + text
    return hashlib.sha256(parts.encode()).hexdigest()[:40]


@cache
def _surroundings() -> dict:
    """The facts on which the machine code of any text depends."""
    llvm, texts, features = _llvm(), hashlib.sha256(), ""
    with suppress(RuntimeError):  # where LLVM cannot tell
        features = llvm.get_host_cpu_features().flatten()
    for path in sorted(Path(__file__).parent.glob("*.py")):  # which the text imports, or what it imports
        texts.update(path.read_bytes())
    return {
        "programs": texts.hexdigest(),
        **{name: _version(name) for name in ("numba", "llvmlite", "numpy")},
        "python": sys.version,
        "cpu": [llvm.get_process_triple(), llvm.get_host_cpu_name(), features],
        "settings": [os.environ.get(f"NUMBA_{name}") for name in SETTINGS],
    }


def _version(name: str) -> str:
    from importlib import metadata  # slow to import, but much faster than Numba

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return require(name, "fast").__version__


@cache
def _llvm():
    """llvmlite, ready for use."""
    llvm = require("llvmlite.binding", "fast")
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm


def _compile(text: str, path: str) -> tuple[Code, Objects | None]:
    """The machine code of a text, also as it is kept."""
    if require("numba", "fast").config.DISABLE_JIT:
        raise Unsupported("NUMBA_DISABLE_JIT is set, so that Numba compiles nothing")
    from numba.core.errors import NumbaError

    # Numba asks for the module of each function; this one is always there
    space = {"__name__": __name__, "OPTIONS": {"error_model": "numpy"}}
    try:
        exec(compile(text, path, "exec", dont_inherit=True), space)
    except NumbaError as cause:
        raise Unsupported(f"Numba refuses {path}: {str(cause).splitlines()[0]}") from cause
    pages: list[Any] = []
    while f"page{len(pages)}" in space:
        pages.append(space[f"page{len(pages)}"])
    return Code([page.address for page in pages], pages), _objects(pages)


def _objects(pages: list) -> Objects | None:
    """The object code of what Numba has compiled; None where it holds addresses of this process, or is not shown."""
    try:
        libraries = [page._library for page in pages]
        modules = [library._final_module for library in libraries]
        codes = [library._get_compiled_object() for library in libraries]
        if any(library.has_dynamic_globals for library in libraries):
            return None
    except (AttributeError, RuntimeError):  # another version of Numba
        return None
    calls = {x.name for module in modules for x in (*module.functions, *module.global_variables) if x.is_declaration}
    return Objects(
        [page.native_name for page in pages], codes, sorted(name for name in calls if not name.startswith("llvm."))
    )


def _link(objects: Objects) -> Code | None:
    """Object code put into memory; None if it calls a function that is not there."""
    llvm = _llvm()
    machine = llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine(jit=True)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)  # of its own: symbols are not unique
    if sys.platform == "win32" or not all(map(llvm.address_of_symbol, objects.calls)):  # Numba brings some functions
        require("numba", "fast")
        from numba.core.registry import cpu_target

        cpu_target.target_context.refresh()
        if not all(map(llvm.address_of_symbol, objects.calls)):
            return None
    for code in objects.codes:
        engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    return Code([engine.get_function_address(symbol) for symbol in objects.symbols], (engine, objects))


# ── a file ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def object_file(objects: Objects, key: str) -> bytes:
    """The file of some object code."""
    header = {"key": key, **_surroundings(), "symbols": objects.symbols, "calls": objects.calls,
              "lengths": [*map(len, objects.codes)]}  # fmt: skip
    encoded = json.dumps(header).encode()
    content = b"".join([len(encoded).to_bytes(8, "little"), encoded, *objects.codes])
    return MAGIC + hashlib.sha256(content).digest() + content


def objects_in(data: bytes | None, key: str) -> Objects | None:
    """The object code in a file; None if there is no file, or anything in it is not as it was written for this key."""
    start = len(MAGIC) + 32
    if data is None or data[: len(MAGIC)] != MAGIC or hashlib.sha256(data[start:]).digest() != data[len(MAGIC) : start]:
        return None
    end = start + 8 + int.from_bytes(data[start : start + 8], "little")
    try:
        header = json.loads(data[start + 8 : end])
        symbols, calls, lengths = header["symbols"], header["calls"], header["lengths"]
        if header["key"] != key or len(data) != end + sum(lengths) or len(symbols) != len(lengths):
            return None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    ends = [end + sum(lengths[: i + 1]) for i in range(len(lengths))]
    return Objects(symbols, [data[b - n : b] for b, n in zip(ends, lengths, strict=True)], calls)


# ── the folder ──────────────────────────────────────────────────────────────────────────────────────────────────────

OURS = re.compile(r"([0-9a-f]{40})\.(py|code)")
TEMPORARY = re.compile(r"\.[0-9a-f]{40}\.(py|code)\.[0-9a-f]{8}\.tmp")
FORMER = re.compile(r"program_[0-9a-f]{16}\..*")  # of earlier versions, here and in __pycache__


class Usage(NamedTuple):
    """The content of the folder: how many programs, their bytes, when the oldest and newest were used (seconds)."""

    programs: int
    nbytes: int
    oldest: float
    newest: float


class Store:
    """The folder `programs` in the cache folder.

    Attributes:
        root: the cache folder.   path: the folder `programs`.   limit: bytes.   misread: what is wrong with the limit.
    """

    def __init__(self, root: Path):
        self.root, self.path = root, root / "programs"
        given = os.environ.get("TINYMAML_CACHE_SIZE") or str(LIMIT)
        good = re.fullmatch("[0-9]{1,18}", given)
        self.limit = int(given) if good else LIMIT
        self.misread = "" if good else f"TINYMAML_CACHE_SIZE is {given!r}, wanted a number of bytes: {LIMIT:,} are used"

    def refusal(self) -> str:
        """Why the folder is not to be used; "" if it may be, or is not there yet."""
        for folder in (self.root, self.path):
            try:
                about = os.stat(folder)
            except FileNotFoundError:
                return ""
            except OSError as cause:
                return f"{folder}: {cause.strerror}"
            if not stat.S_ISDIR(about.st_mode):
                return f"{folder} is not a folder"
            if not hasattr(os, "geteuid"):
                continue
            if about.st_uid != os.geteuid():
                return f"{folder} belongs to another user: set TINYMAML_CACHE to a folder of your own"
            if about.st_mode & WRITABLE:
                return f"others can write to {folder}: chmod go-w {shlex.quote(str(folder))}"
        return ""

    def read(self, path: Path) -> bytes | None:
        """A file's content; None if it cannot be read, or is not a regular file that the user alone can write to."""
        flags = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))
        try:
            with open(path, "rb", opener=lambda name, _: os.open(name, flags)) as file:
                about = os.fstat(file.fileno())
                foreign = hasattr(os, "geteuid") and (about.st_uid != os.geteuid() or about.st_mode & WRITABLE)
                good = stat.S_ISREG(about.st_mode) and about.st_size <= LARGEST and not foreign
                return file.read() if good else None
        except OSError:
            return None

    def write(self, path: Path, data: bytes) -> None:
        """Write a file, whole or not at all, and delete what was not used for longest where there is too much.

        Raises:
            OSError: disk full, no permission, …
        """
        make_private(self.path)
        if reason := self.refusal():
            raise PermissionError(reason)
        write_atomically(path, data, mode=0o600)
        self.sweep(keep=path.stem)

    def sweep(self, keep: str) -> None:
        """Delete what earlier versions and killed processes left, and programs beyond the limit, but not `keep`."""
        with suppress(OSError):
            self._delete(self._leftovers(time.time() - ABANDONED))
            programs = self._programs()
            excess = sum(nbytes for _, nbytes, _ in programs.values()) - self.limit
            for key, (_, nbytes, paths) in sorted(programs.items(), key=lambda item: item[1][0]):
                if excess <= 0:
                    break
                if key != keep:
                    self._delete(paths)
                    excess -= nbytes

    def clear(self) -> None:
        """Delete all that tinymaml wrote here, of this version and earlier ones.

        Raises:
            OSError: the folder cannot be read, or is not to be used.
        """
        if reason := self.refusal():
            raise PermissionError(reason)
        if self.path.is_dir():
            self._delete(self._leftovers(float("inf")))
            self._delete(path for _, _, paths in self._programs().values() for path in paths)

    def usage(self) -> Usage:
        """The content of the folder.

        Raises:
            OSError: the folder cannot be read.
        """
        programs = [*self._programs().values()] if self.path.exists() else []
        used = [when for when, _, _ in programs]
        return Usage(len(programs), sum(n for _, n, _ in programs), min(used, default=0.0), max(used, default=0.0))

    def _programs(self) -> dict[str, tuple[float, int, list[str]]]:
        """For each key when it was last used, the bytes of its files, and their paths."""
        programs: dict[str, tuple[float, int, list[str]]] = {}
        with os.scandir(self.path) as entries:
            for entry in entries:
                if match := OURS.fullmatch(entry.name):
                    with suppress(OSError):  # another process has deleted it
                        about = entry.stat(follow_symlinks=False)
                        used, nbytes, paths = programs.get(match[1], (0.0, 0, []))
                        programs[match[1]] = max(used, about.st_mtime), nbytes + about.st_size, [*paths, entry.path]
        return programs

    def _leftovers(self, before: float) -> list[str]:
        """Files of earlier versions, and temporary files last written before a time."""
        former = self.path / "__pycache__"
        with os.scandir(self.path) as entries:
            paths = [
                x.path for x in entries if FORMER.fullmatch(x.name)
                or TEMPORARY.fullmatch(x.name) and x.stat(follow_symlinks=False).st_mtime < before
            ]  # fmt: skip
        if former.is_dir() and not former.is_symlink():
            paths += [str(path) for path in former.iterdir() if FORMER.fullmatch(path.name)]
        return paths

    def _delete(self, paths) -> None:
        for path in paths:
            with suppress(OSError):
                os.unlink(path)
        with suppress(OSError):
            os.rmdir(self.path / "__pycache__")  # if it is empty


def table(store: Store) -> str:
    """Describe the folder and its content, line by line.

    Raises:
        OSError: the folder cannot be read.
    """
    usage = store.usage()
    times = (time.strftime("%Y-%m-%d %H:%M", time.localtime(when)) for when in (usage.oldest, usage.newest))
    lines = [
        f"folder      {store.path}",
        f"programs    {usage.programs:,}",
        f"bytes       {usage.nbytes:,} of at most {store.limit:,}",
        f"used        {' … '.join(times) if usage.programs else 'never'}",
    ]
    return "\n".join([*lines, *(f"warning     {x}" for x in (store.refusal(), store.misread) if x)])
