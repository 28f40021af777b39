"""Fetch the data sets that tasks are drawn from, or say where they can be had.

    fetch(SETS["mnist"], "data/mnist")     # four official files, each checked by its MD5

A data set is downloaded if its files lie at an official address, are what a family reads, and have known sums. Of any
other, a person reads the page and its conditions.

Read next: `omniglot`, which reads the archives as they are.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ..extras import require
from ..files import atomic_write, expanded, in_bytes, naming, read_file, sweep

SLOWEST = 1000  # bytes per second, on average over the time that a server may stay silent
LARGEST = 1 << 31  # bytes of a file


class DataSet(NamedTuple):
    """The source of a data set.

    Attributes:
        page: what tells about it.   licence: the conditions of its use.
        base: the address of the folder of its files.   md5: of each file, in hexadecimal; none: it is not downloaded.
        take: if it is not downloaded, what is wanted of the page.
    """

    page: str
    licence: str
    base: str = ""
    md5: Mapping[str, str] = {}
    take: str = ""


_GITHUB = "https://github.com"
_RAW = "https://raw.githubusercontent.com"

SETS: dict[str, DataSet] = {
    "omniglot": DataSet(f"{_GITHUB}/brendenlake/omniglot", "MIT", f"{_RAW}/brendenlake/omniglot/master/python/", {
        "images_background.zip": "68d2efa1b9178cc56df9314c21c6e718",
        "images_evaluation.zip": "6b91aef0f799c5bb55b94e3f2daec811",
    }),
    # A mirror by the makers of PyTorch: the page of LeCun, Cortes and Burges does not serve the files any more.
    "mnist": DataSet("http://yann.lecun.com/exdb/mnist", "CC BY-SA 3.0",
                     "https://ossci-datasets.s3.amazonaws.com/mnist/", {
        "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
    }),
    "fashion-mnist": DataSet(f"{_GITHUB}/zalandoresearch/fashion-mnist", "MIT",
                             f"{_RAW}/zalandoresearch/fashion-mnist/master/data/fashion/", {
        "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
    }),
    "tiny-imagenet": DataSet("http://cs231n.stanford.edu", "for research and teaching, as ImageNet",
                             "http://cs231n.stanford.edu/", {
        "tiny-imagenet-200.zip": "90528d7ca1a48142e341f4ef8d21d0de",
    }),
    "clinc150": DataSet(f"{_GITHUB}/clinc/oos-eval", "CC BY 3.0", f"{_RAW}/clinc/oos-eval/master/data/", {
        "data_full.json": "30c29dc6ab78edf3b5dfa640be204cde",
        "domains.json": "9beee9d0f36e07e914c1e3a626bdcb4a",
    }),
    "caltech101": DataSet("https://data.caltech.edu/records/mzrjq-6wc02", "CC BY 4.0",
                          take="101_ObjectCategories.tar.gz in caltech-101.zip; unpack it and leave the folder"
                               " BACKGROUND_Google out"),
    "emoji32": DataSet("https://www.npmjs.com/org/iconify-json", "by style: Apache-2.0, MIT, CC BY 4.0, CC BY-SA 4.0",
                       take="the emoji of some styles (noto, twemoji, openmoji, fluent-emoji-flat, …), drawn as PNG"
                            " files of 32 × 32 pixels: a folder per emoji, a file per style"),
    "movielens": DataSet("https://grouplens.org/datasets/movielens/latest", "of GroupLens: not for commercial use",
                         take="ratings.csv and movies.csv in ml-latest-small.zip"),
    "fsdd": DataSet(f"{_GITHUB}/Jakobovski/free-spoken-digit-dataset", "CC BY-SA 4.0", take="the folder recordings"),
    "wall-following": DataSet("https://archive.ics.uci.edu/dataset/194", "CC BY 4.0", take="sensor_readings_24.data"),
}  # fmt: skip


def fetch(dataset: DataSet, to: str | os.PathLike[str], progress: bool = True, timeout: float = 30.0) -> Path:
    """Download the files of a data set into the folder `to` and return it.

    A file already there with the right MD5 is kept. One with another MD5 is downloaded again, and replaced
    only when the right one has arrived. So a second call finishes what a broken first one began, and removes the
    temporary file that a killed one left.

    Args:
        dataset: one of `SETS`; or one with the address of a mirror: `SETS["mnist"]._replace(base=…)`.
        progress: show a bar on stderr when it is a terminal.
        timeout: seconds that the server may stay silent, or send less than `SLOWEST` allows.

    Raises:
        ConnectionError: the server refused, fell silent, was too slow, sent too much, broke off, answered with an error
            or redirects without end.
        ValueError: it is not downloaded, and the message says where it can be had; or a file arrived whole but its MD5
            is not the wanted one, and nothing is kept of it.
        OSError: `to` cannot be written (no space left, no permission).
    """
    if not dataset.md5:
        raise ValueError(f"it is not downloaded; it can be had at {dataset.page} (licence: {dataset.licence}):"
                         f" {dataset.take}")  # fmt: skip
    folder = expanded(to)
    for name, wanted in dataset.md5.items():
        target, url = folder / name, f"{dataset.base.rstrip('/')}/{name}"
        with naming("save", target):
            folder.mkdir(parents=True, exist_ok=True)
            sweep(target)
            if target.is_file() and _md5(read_file(target)).hexdigest() == wanted:
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
    """The body behind `url`, piece by piece. Any failure on the way is a ConnectionError."""
    tqdm = require("tqdm", "train").tqdm
    seen = 0
    try:
        with urllib.request.urlopen(url, timeout=timeout) as response:
            length = response.headers.get("Content-Length")
            total = int(length) if length and length.isdecimal() else None
            quiet = None if progress else True  # None: quiet unless stderr is a terminal
            since, had = time.monotonic(), 0
            with tqdm(desc=url.split("/")[-1], total=total, unit="B", unit_scale=True, disable=quiet) as bar:
                while chunk := response.read1(1 << 16):  # as much as has come: read() would wait for all of it
                    seen += len(chunk)
                    if max(seen, total or 0) > LARGEST:
                        raise ConnectionError(f"it is larger than {in_bytes(LARGEST)}")
                    bar.update(len(chunk))
                    yield chunk
                    if (passed := time.monotonic() - since) > timeout:
                        if seen - had < SLOWEST * passed:
                            raise ConnectionError(f"only {in_bytes(seen - had)} came in {passed:.0f} s; run again")
                        since, had = time.monotonic(), seen
        # read1() ends without a word when the connection closes early.
        if total is not None and seen != total:
            raise ConnectionError(f"connection closed after {seen} of {total} bytes; run again")
    except urllib.error.HTTPError as cause:
        cause.close()
        loops = 300 <= cause.code < 400 and "infinite loop" in str(cause.reason)
        why = "it redirects without end" if loops else " ".join(str(cause.reason).split())
        raise ConnectionError(f"{url}: HTTP {cause.code} {why}") from cause
    except urllib.error.URLError as cause:
        raise ConnectionError(f"{url}: {cause.reason}") from cause
    except (OSError, http.client.HTTPException) as cause:
        raise ConnectionError(f"{url}: {cause}") from cause
