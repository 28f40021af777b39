"""Files that are whole or not there.

    write_atomically(path, data)                        # at any moment path holds all old bytes, or all new ones
    with atomic_write(path) as file: file.write(...)    # the same, piece by piece
    with naming("lock", path): ...                      # an error of the disk says what could not be done, and where
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


def write_atomically(path: str | os.PathLike, data: bytes) -> None:
    """Write `data` to `path`. Errors as in `atomic_write`."""
    with atomic_write(path) as file:
        file.write(data)


@contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """A temporary file beside `path`, which gets that name once it is complete and on the disk.

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
            with open(temporary, "xb") as file:
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
