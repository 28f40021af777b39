"""Files that are whole or not there, and that are files.

These are its functions:

    write_atomically(path, data)                        # at any moment path holds all old bytes, or all new ones
    with atomic_write(path) as file: file.write(...)    # the same, piece by piece
    read_file(path)                                     # its bytes; a FIFO, a device or a folder is refused
    with open_regular(path) as file: file.read(...)     # the same, piece by piece
    with naming("lock", path): ...                      # an error of the disk says what could not be done, and where
    cache_folder(), make_private(folder)                # where what can be made again is kept, for its owner alone
    memory(), in_bytes(n)                               # what this machine can hold, and how an error writes it
"""

from __future__ import annotations

import errno
import glob
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows, where a file that is open cannot be removed
    fcntl = None  # type: ignore[assignment]


# ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────────────

KINDS = (
    ("a folder", stat.S_ISDIR), ("a FIFO", stat.S_ISFIFO), ("a socket", stat.S_ISSOCK),
    ("a device", stat.S_ISCHR), ("a device", stat.S_ISBLK),
)  # fmt: skip


def check_regular(path: str | os.PathLike, wanted: str = "a file", status: os.stat_result | None = None) -> None:
    """Raises: OSError: it cannot be found; or it is a folder, a FIFO, a socket or a device, which may never end.

    Args:
        wanted: what the error asks for.   status: that of the file, if it is open.
    """
    with naming("read", Path(path)):
        mode = (status or os.stat(path)).st_mode
    if not stat.S_ISREG(mode):
        kind = next((name for name, is_of in KINDS if is_of(mode)), "something else")
        raise OSError(f"{path} is not a regular file ({kind}), wanted {wanted}")


def open_regular(path: str | os.PathLike, wanted: str = "a file") -> BinaryIO:
    """Open a file for reading, if it is one; errors as those of `check_regular`, or of the disk."""
    check_regular(path, wanted)
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)  # should it have become a FIFO
    with naming("read", Path(path)):
        file = os.fdopen(os.open(path, flags), "rb")
    try:
        check_regular(path, wanted, os.fstat(file.fileno()))
    except OSError:
        file.close()
        raise
    return file


def read_file(path: str | os.PathLike, wanted: str = "a file", most: int = 0) -> bytes:
    """The bytes of a file.

    Args:
        most: how many there may be; 0: as many as the memory of this machine has.

    Raises:
        OSError: as `open_regular`; or the file has more bytes.
    """
    with open_regular(path, wanted) as file:
        if (size := os.fstat(file.fileno()).st_size) > (most or memory()):
            raise OSError(f"{path} has {in_bytes(size)}, wanted {wanted} of at most {in_bytes(most or memory())}")
        with naming("read", Path(path)):
            return file.read()


def expanded(path: str | os.PathLike) -> Path:
    """A path whose "~" is the home folder, and whose "~name" is that of a user.

    Raises:
        FileNotFoundError: there is no such user, or no home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as cause:
        raise FileNotFoundError(errno.ENOENT, f"there is no home folder for {path}") from cause


def path_option(option: str) -> Callable[[str], str]:
    """The type of an option that names a file or a folder."""

    def path(text: str) -> str:
        if not text:
            raise FileNotFoundError(f"{option} is an empty path")
        return str(expanded(text)) if text.startswith("~") else text

    return path


def cache_folder() -> Path:
    """`$TINYMAML_CACHE`, or `~/.cache/tinymaml`.

    Raises:
        FileNotFoundError: there is no home folder, or no such user.
    """
    try:
        return expanded(os.environ.get("TINYMAML_CACHE") or "~/.cache/tinymaml")
    except FileNotFoundError as cause:
        why = f"{cause.strerror}: set TINYMAML_CACHE to a folder of your own"
        raise FileNotFoundError(errno.ENOENT, why) from cause


def memory() -> int:
    """The bytes of memory of this machine; 64 GiB where it does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 1 << 36


def in_bytes(n: int) -> str:
    """A number of bytes as a person reads it: "3.2 GB".

    >>> from tinymaml.files import in_bytes
    >>> in_bytes(512), in_bytes(3 * 2**30)
    ('512 bytes', '3.2 GB')
    """
    if n >= 10**21:
        return "more than 1,000 EB"
    for i, unit in reversed([*enumerate(("kB", "MB", "GB", "TB", "PB", "EB"), 1)]):
        if n >= 1000**i:
            return f"{n / 1000**i:.{1 if n < 10 * 1000**i else 0}f} {unit}"
    return f"{n} bytes"


# ── writing ─────────────────────────────────────────────────────────────────────────────────────────────────────────


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
    """Write `data` to `path`. Arguments and errors as in `atomic_write`.

    >>> from tinymaml.files import read_file, write_atomically
    >>> write_atomically("numbers.bin", b"1 2 3")
    >>> read_file("numbers.bin")
    b'1 2 3'
    """
    with atomic_write(path, mode) as file:
        file.write(data)


@contextmanager
def atomic_write(path: str | os.PathLike, mode: int = 0o666) -> Iterator[BinaryIO]:
    """A temporary file beside `path`, which gets that name once it is complete and on the disk.

    Args:
        mode: who may read and write it, as far as the umask allows.

    Raises:
        OSError: disk full, no permission, no such folder (`errno` tells). If the block raises, the temporary file
            is removed, and an older file under `path` stays as it was. If the process is killed, the next one that
            writes to `path` removes it.
    """
    path = Path(path)
    if path.exists() and not path.is_file():  # a folder, or a device such as /dev/null: not ours to replace
        raise FileExistsError(f"cannot write {path}: it is not a regular file")
    sweep(path)
    temporary = None
    try:
        with naming("write", path):
            with _temporary(path, mode) as file:
                temporary = Path(file.name)
                yield file
                file.flush()
                os.fsync(file.fileno())
                if fcntl:  # while it is locked
                    os.replace(temporary, path)
            if not fcntl:
                os.replace(temporary, path)
            sync(path.parent)
    finally:
        if temporary:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def _temporary(path: Path, mode: int) -> BinaryIO:
    """A new file beside `path`, which is locked as long as it is open: so no other process takes it for left behind."""
    while True:
        name = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        file = open(name, "xb", opener=lambda name, flags: os.open(name, flags, mode))  # noqa: SIM115
        if fcntl:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:  # unless another process swept it up before the lock
            return file
        file.close()


def sweep(path: Path) -> None:
    """Remove what killed writers of `path` left beside it."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.{'[0-9a-f]' * 8}.tmp"):
        with suppress(OSError):  # it is being written, or has just been finished
            if fcntl:
                with open_regular(left) as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    left.unlink()
            else:
                left.unlink()


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
