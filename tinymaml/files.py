"""Files that are whole or not there.

    write_atomically(path, data)                        # at any moment path holds all old bytes, or all new ones
    with atomic_write(path) as file: file.write(...)    # the same, piece by piece
    with naming("lock", path): ...                      # an error of the disk says what could not be done, and where
    cache_folder(), make_private(folder)                # where what can be made again is kept, for its owner alone
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


def cache_folder() -> Path:
    """`$TINYMAML_CACHE`, or `~/.cache/tinymaml`.

    Raises:
        FileNotFoundError: there is no home folder, or no such user.
    """
    given = os.environ.get("TINYMAML_CACHE") or "~/.cache/tinymaml"
    try:
        return Path(given).expanduser()
    except RuntimeError as cause:
        why = f"there is no home folder for {given}: set TINYMAML_CACHE to a folder of your own"
        raise FileNotFoundError(errno.ENOENT, why) from cause


def make_private(folder: Path) -> None:
    """Create a folder and the parents it lacks, each for its owner alone, whatever the umask.

    Raises:
        OSError: no permission, a file in place of a parent, …
    """
    folder = folder.absolute()
    if folder.exists():
        return
    make_private(folder.parent)
    with suppress(FileExistsError):  # another process was faster
        folder.mkdir(mode=0o700)
        folder.chmod(0o700)  # a umask may have taken the owner's own rights


def write_atomically(path: str | os.PathLike, data: bytes, mode: int = 0o666) -> None:
    """Write `data` to `path`. Arguments and errors as in `atomic_write`."""
    with atomic_write(path, mode) as file:
        file.write(data)


@contextmanager
def atomic_write(path: str | os.PathLike, mode: int = 0o666) -> Iterator[BinaryIO]:
    """A temporary file beside `path`, which gets that name once it is complete and on the disk.

    Args:
        mode: who may read and write it, as far as the umask allows.

    Raises:
        OSError: disk full, no permission, no such folder (`errno` tells). Whatever the block raises, the temporary file
            is removed, and an older file under `path` stays as it was.
    """
    path = Path(path)
    if path.exists() and not path.is_file():  # a folder, or a device such as /dev/null: not ours to replace
        raise FileExistsError(f"cannot write {path}: it is not a regular file")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with naming("write", path):
            with open(temporary, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            sync(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def sync(folder: Path) -> None:
    """Put the names in `folder` on the disk."""
    if os.name == "nt":  # which cannot open a folder
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def naming(verb: str, path: Path) -> Iterator[None]:
    """Let an error of the disk say what could not be done, and where."""
    try:
        yield
    except OSError as cause:
        if cause.errno is None or isinstance(cause, ConnectionError):  # not the disk's
            raise
        raise OSError(cause.errno, f"cannot {verb} {path}: {cause.strerror or cause}") from cause
