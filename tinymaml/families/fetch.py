"""Fetch the data sets that tasks are drawn from.

    omniglot("data/omniglot")              # the two official archives, checked by MD5

Read next: `omniglot`, which reads the archives as they are.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from ..extras import require
from ..files import atomic_write, naming

OFFICIAL = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/"
MD5 = {
    "images_background.zip": "68d2efa1b9178cc56df9314c21c6e718",
    "images_evaluation.zip": "6b91aef0f799c5bb55b94e3f2daec811",
}


def omniglot(
    to: str | os.PathLike[str],
    base_url: str = OFFICIAL,
    progress: bool = True,
    checksums: Mapping[str, str] = MD5,
    timeout: float = 30.0,
) -> Path:
    """Download the Omniglot archives (Lake et al., 2015; 16 MB) into the folder `to` and return it.

    A file already there with the right MD5 is kept. One with another MD5 is downloaded again, and replaced
    only when the right one has arrived. So a second call finishes what a broken first one began.

    Args:
        base_url: the folder of the archives, for a mirror.
        progress: show a bar on stderr when it is a terminal.
        checksums: file name to MD5 in hexadecimal.
        timeout: seconds that the server may stay silent.

    Raises:
        ConnectionError: the server refused, fell silent, broke off or answered with an error.
        ValueError: a file arrived whole but its MD5 is not the wanted one; nothing is kept of it.
        OSError: `to` cannot be written (no space left, no permission).
    """
    folder = Path(to).expanduser()
    for name, wanted in checksums.items():
        target, url = folder / name, f"{base_url.rstrip('/')}/{name}"
        with naming("save", target):
            folder.mkdir(parents=True, exist_ok=True)
            if target.is_file() and _md5(target.read_bytes()).hexdigest() == wanted:
                continue
            with atomic_write(target) as file:
                seen = _md5()
                for chunk in _chunks(url, timeout, progress):
                    seen.update(chunk)
                    file.write(chunk)
                if seen.hexdigest() != wanted:
                    raise ValueError(f"{url}: MD5 is {seen.hexdigest()}, wanted {wanted}; nothing was saved")
    return folder


# It tells a broken file from a whole one; it does not keep out an attacker.
_md5 = partial(hashlib.md5, usedforsecurity=False)


def _chunks(url: str, timeout: float, progress: bool) -> Iterator[bytes]:
    """The body behind `url`, piece by piece. Whatever fails on the way is one ConnectionError."""
    tqdm = require("tqdm", "train").tqdm
    seen = 0
    try:
        with urllib.request.urlopen(url, timeout=timeout) as response:
            length = response.headers.get("Content-Length")
            total = int(length) if length and length.isdecimal() else None
            quiet = None if progress else True  # None: quiet unless stderr is a terminal
            with tqdm(desc=url.split("/")[-1], total=total, unit="B", unit_scale=True, disable=quiet) as bar:
                while chunk := response.read(1 << 16):
                    seen += len(chunk)
                    bar.update(len(chunk))
                    yield chunk
        # read() ends without a word when the connection closes early.
        if total is not None and seen != total:
            raise ConnectionError(f"connection closed after {seen} of {total} bytes; run again")
    except urllib.error.HTTPError as cause:
        cause.close()
        raise ConnectionError(f"{url}: HTTP {cause.code} {cause.reason}") from cause
    except urllib.error.URLError as cause:
        raise ConnectionError(f"{url}: {cause.reason}") from cause
    except (OSError, http.client.HTTPException) as cause:
        raise ConnectionError(f"{url}: {cause}") from cause
