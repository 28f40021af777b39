"""Data sets are read as they lie, in a folder or an archive, and what was made of them is kept for the next start.

    with opened("data/emoji32") as source:            # a folder, a .zip, a folder with one .zip in it, or one file
        source.names                                  # the paths inside, with "/", sorted
        source.read("emoji32/cat/noto.png")           # its bytes
        source.where("emoji32/cat/noto.png")          # what an error calls it
    arrays = kept("images", 1, source.files, make)    # {name: array}, from the cache or by make()

Nothing is extracted. Next: `omniglot`, which uses both.
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..files import atomic_write, cache_folder, check_regular, expanded, in_bytes, make_private, open_regular, read_file
from .common import digest

LARGEST = 1 << 30  # bytes of one file of a data set when it is unpacked: what is larger is no data of these families
_ESCAPING = re.compile(r"/|[A-Za-z]:|.*\\|(.*/)?\.\.(/|$)", re.DOTALL)


@dataclass(frozen=True)
class DataSource:
    """A folder, an archive or a file that is open for reading.

    Attributes:
        path: where it is.   names: the files inside, by their paths with "/", sorted.
        read: `read(name)` → the bytes of one of them.   files: what the result depends on, for `kept`.
    """

    path: Path
    names: list[str]
    read: Callable[[str], bytes]
    files: list[Path]

    def where(self, name: str) -> str:
        """The name of a file inside, for errors: "data/emoji32/cat/noto.png", or "data/emoji32.zip: cat/noto.png"."""
        if self.path.is_dir():
            return str(self.path / name)
        return str(self.path) if self.names == [self.path.name] else f"{self.path}: {name}"


@contextmanager
def open_data(path: str | os.PathLike[str], advice: str = "") -> Iterator[DataSource]:
    """Open a data set for reading.

    Args:
        path: a folder; a .zip; a folder that holds no other folder and one .zip, which is opened; or a file.
        advice: what the errors say at their end, such as where the data can be had.

    Raises:
        FileNotFoundError: there is nothing, or an empty folder.
        OSError: it is a FIFO, a socket or a device.
        ValueError: a zip archive is broken, or a member's path leaves it.
    """
    place, advice = Path(os.path.abspath(expanded(path))), advice and f"; {advice}"
    if not place.exists():
        raise FileNotFoundError(f"no data at {place}: no such file or folder{advice}")
    if place.is_dir():
        inside = [child for child in sorted(place.iterdir()) if not child.name.startswith(".")]
        archives = [child for child in inside if child.suffix.lower() == ".zip"]
        if len(archives) == 1 and not any(child.is_dir() for child in inside):
            place = archives[0]
    if place.is_dir():
        files = (file for file in place.rglob("*") if file.exists() and not file.is_dir())
        names = sorted(file.relative_to(place).as_posix() for file in files)
        if not names:
            raise FileNotFoundError(f"no data at {place}: the folder is empty{advice}")
        yield DataSource(
            place, names, lambda name: read_file(place / name, most=LARGEST), [place / name for name in names]
        )
    elif place.suffix.lower() == ".zip":
        with unpacked(place) as archive:
            members = {_in_utf8(member): member.filename for member in archive.infolist() if not member.is_dir()}
            yield DataSource(place, sorted(members), lambda name: _of_zip(archive, place, members[name]), [place])
    else:
        check_regular(place, "a folder, a .zip or a file")
        yield DataSource(place, [place.name], lambda name: read_file(place, most=LARGEST), [place])


@contextmanager
def unpacked(path: Path) -> Iterator[zipfile.ZipFile]:
    """A zip archive, none of whose members leaves it, or is there twice.

    Raises:
        OSError: it is no file.   ValueError: it is broken, or a member is so.
    """
    with open_regular(path, "a zip archive") as file:
        try:
            archive = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError) as cause:
            raise ValueError(f"{path} is not a complete zip archive: {cause}") from cause
        with archive:
            seen = set()
            for member in archive.infolist():  # nothing is extracted; but such an archive is not to be trusted
                if _ESCAPING.match(member.orig_filename):
                    raise ValueError(f"{path}: the path of member {member.orig_filename!r} leaves the archive")
                if member.filename in seen and not member.is_dir():
                    raise ValueError(f"{path}: {member.filename} is there twice")
                seen.add(member.filename)
            yield archive


def _in_utf8(member: zipfile.ZipInfo) -> str:
    """The name of a member. Some programs write names in UTF-8 and do not say so; then it was read as code page 437."""
    try:
        return member.filename if member.flag_bits & 0x800 else member.filename.encode("cp437").decode("utf-8")
    except UnicodeError:
        return member.filename


def read_one(path: Path, wanted: str) -> bytes:
    """The bytes of a file of a user's, which holds one example. Raises: OSError: it is no file, or is too large."""
    return read_file(path, wanted, LARGEST)


def size_of_png(data: bytes) -> tuple[int, int]:
    """The width and the height that the head of a PNG says, before anything is unpacked; 0, 0 of anything else."""
    is_png = data[:8] == b"\x89PNG\r\n\x1a\n" and data[12:16] == b"IHDR" and len(data) >= 24
    return struct.unpack(">II", data[16:24]) if is_png else (0, 0)


def _of_zip(archive: zipfile.ZipFile, path: Path, name: str) -> bytes:
    if (size := archive.getinfo(name).file_size) > LARGEST:
        raise ValueError(f"{path}: {name} has {in_bytes(size)}, wanted at most {in_bytes(LARGEST)}")
    try:
        return archive.read(name)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as cause:
        raise ValueError(f"{path}: {name} is damaged inside the archive: {cause}") from cause


def inflated(data: bytes, called: str) -> bytes:
    """The content of a .gz; data that are not compressed stay as they are.

    Raises:
        ValueError: it is broken; the message begins with `called`.
    """
    if data[:2] != b"\x1f\x8b":
        return data
    parts, size = [], 0
    try:
        while data[:2] == b"\x1f\x8b":  # one member after another
            member = zlib.decompressobj(wbits=31)
            parts.append(member.decompress(data, LARGEST - size + 1))
            size += len(parts[-1])
            if size > LARGEST:
                raise ValueError(f"{called} has more than {in_bytes(LARGEST)} when it is unpacked")
            if not member.eof:
                raise EOFError("it ends before its end marker")
            data = member.unused_data.lstrip(b"\0")
    except (EOFError, zlib.error) as cause:
        raise ValueError(f"{called} is not a complete gzip file: {cause}") from cause
    return b"".join(parts)


def of_files(places: Iterable[Path]) -> str:
    """A digest that tells files from others of the same name: of their bytes, and in folders of names and sizes."""
    seen: list[Any] = []
    for place in places:
        if place.is_dir():
            files = sorted(file for file in place.rglob("*") if file.is_file())
            seen.append([(file.relative_to(place).as_posix(), file.stat().st_size) for file in files])
        else:
            with open_regular(place) as file:
                parts = hashlib.sha256()
                while part := file.read(1 << 20):
                    parts.update(part)
            seen.append(parts.hexdigest())
    return digest(seen) if seen else ""


# ── what was made of it ─────────────────────────────────────────────────────────────────────────────────────────────


def kept(
    name: str, version: int, sources: Iterable[Path], make: Callable[[], Mapping[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """The result of the last `make()` for these sources, or that of a new call.

    It is kept in `$TINYMAML_CACHE`, or `~/.cache/tinymaml`, and belongs to the paths, sizes and times of the sources.
    What cannot be kept, or is damaged, is made anew, and a warning says so.

    Args:
        name: of the data set, and of anything else that decides what is made: "images-32".
        version: to be raised when `make` makes something else of the same sources.
        sources: files, and folders with all files in them.
        make: → {name: array}, none of which has objects as its elements.
    """
    file = _cache_file(name, version, sources)
    content = _from_cache(file, name) if file else None
    if content is None:
        content = {part: np.asarray(x) for part, x in make().items()}
        if file:
            _to_cache(file, name, content)
    return content


def _cache_file(name: str, version: int, sources: Iterable[Path]) -> Path | None:
    """The file that keeps the content of these sources; None if there is no folder for it."""
    try:
        folder = cache_folder()
    except FileNotFoundError as cause:
        warnings.warn(f"{name} is read anew each time: {cause.strerror}", stacklevel=4)
        return None
    state = [f"{name} {version}"]
    for source in (source.resolve() for source in sources):
        for file in sorted(source.rglob("*")) if source.is_dir() else [source]:
            if file.is_file():
                status = file.stat()
                state.append(f"{file} {status.st_size} {status.st_mtime_ns}")
    key = hashlib.sha256("\n".join(state).encode("utf-8", "surrogateescape")).hexdigest()
    return folder / f"{name}-{key}.npz"


def _from_cache(file: Path, name: str) -> dict[str, np.ndarray] | None:
    try:
        with open_regular(file) as stream, np.load(stream, allow_pickle=False) as stored:
            if stored["key"].item() != file.stem:
                raise ValueError("it belongs to other files")
            if "digest" not in stored.files:  # of a version that did not check it
                return None
            content = {part: stored[part] for part in stored.files if part not in ("key", "digest")}
            if stored["digest"].item() != digest(content):
                raise ValueError("it is not as it was written")
            return content
    except (FileNotFoundError, NotADirectoryError):
        return None
    except Exception as cause:  # whatever is wrong with a cache, the data are still there
        warnings.warn(f"cannot use the cache {file} ({cause}): reading {name} anew", stacklevel=4)
        return None


def _to_cache(file: Path, name: str, content: Mapping[str, np.ndarray]) -> None:
    try:
        make_private(file.parent)
        with atomic_write(file) as stream:
            kept: dict[str, Any] = {"key": file.stem, "digest": digest(content), **content}
            np.savez_compressed(stream, **kept)
    except OSError as cause:
        warnings.warn(
            f"cannot write to the cache folder {file.parent} ({cause.strerror or cause}), so {name} is "
            "read anew each time: set TINYMAML_CACHE to a folder that can be written",
            stacklevel=4,
        )
