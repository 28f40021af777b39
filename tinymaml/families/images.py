"""Few-shot classification of images: any folder or zip archive with a folder of .png or .jpg files per class.

    tasks = ImageTasks("data/emoji32", ways=5, shots=1, queries=4)
    (xs, ys), (xq, yq) = tasks.sample(rng, 32, "train")     # x (32, N, 32, 32, 3) in [0, 1]
    split(tasks.content.names)["test"]                      # the classes that training never sees

Classes are cut into 64 % of training, 16 % of validation and 20 % of test, in the order of a hash of their names. A
classifier's data set has images of the same classes in train and test (`train/cat/*.png`, `test/cat/*.png`), so
these are put together again. Tiny-ImageNet's own layout is known, too: `train/CLASS/images/*.JPEG`, `val/images` with
the classes in `val/val_annotations.txt`, and `words.txt`; its test images have no labels and are passed over.

Classes that share a file are one class under two names, and are joined: of emoji32, "wolf" and "wolf-face". Otherwise
a test class could be one that was trained on. A file that is there twice counts once.

Images are scaled to squares once, and kept as bytes; a network sees byte / 255, so no statistics of the data leak.

Read next: `speech`, whose examples are sounds.
"""

from __future__ import annotations

import hashlib
import io
import re
import textwrap
import unicodedata
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from ..extras import require
from ..runs.settings import option
from .common import accuracy, by_hash, centroids, check_counts, check_dtype, classification, digest, shared_out
from .episodes import LABELS, LABELS_HELP, Examples, Sampler
from .reading import DataSource, kept, open_data, read_one, size_of_png

SHARES = {"train": 0.64, "val": 0.16, "test": 0.20}  # of the classes
LARGEST = 50_000_000  # pixels of an image; more are taken for an attack on the memory
ADVICE = (
    "--data wants a folder or a .zip with a folder of .png or .jpg files per class; `tinymaml data caltech101"
    " --to DIR` says where one can be had"
)
_IMAGE = re.compile(r".*\.(png|jpe?g)", re.IGNORECASE)
_TINY = re.compile(r"(?:.*/)?train/([^/]+)/images/[^/]+\.jpeg", re.IGNORECASE)
_PARTS = {"train", "training", "val", "valid", "validation", "test", "testing"}  # of a classifier's data set
_CACHE_VERSION = 4  # to be raised when the pixels or the fields of the cache change

defaults: dict[str, Any] = dict(
    network="conv", filters=32, norm="batch", inner_lr=0.4, meta_lr=0.005, decay=300, tasks=16, iterations=1000,
    save_every=250, validate_every=100,
)  # fmt: skip
defaults_for: dict[str, dict[str, Any]] = {
    "anil": dict(inner_steps=5),
    "reptile": dict(  # it learns from support images alone: those of one step must tell it about those of the next
        train_shots=4,
        inner_batch=10,
        inner_steps=8,
        inner_lr=0.1,
        optimizer="adam",
        meta_lr=0.003,
    ),
}


@dataclass(frozen=True)
class Settings:
    """Options of images."""

    data: str = option("", "folder or archive with a folder per class", path=True)
    ways: int = option(5, "classes of a task", least=2)
    shots: int = option(1, "support images of each class", least=1)
    queries: int = option(4, "query images of each class", least=1)
    size: int = option(32, "height and width that images are scaled to", least=4)
    grey: bool = option(False, "one channel instead of three")
    drop: str = option("", "names of classes that are left out, with commas between")
    rotations: bool = option(False, "training classes turned by 90° multiples are further classes", training=True)
    labels: str = option("task", LABELS_HELP, choices=LABELS, training=True)
    train_shots: int = option(0, "support images of each class in training; 0: as many as shots", least=0,
                              training=True)  # fmt: skip


def make(settings: Settings) -> ImageTasks:
    """The family with these settings. Its images are read when the first task is drawn."""
    s = settings
    if not s.data:
        raise ValueError(f"images needs its data: --data PATH; {ADVICE}")
    return ImageTasks(s.data, s.ways, s.shots, s.queries, s.size, s.grey, s.drop, s.rotations, s.labels,
                      s.train_shots)  # fmt: skip


def read(path: Path, settings: Settings) -> np.ndarray:
    """One image from a file of a user's: float32 (size, size, 3 or 1), made as those of the data are."""
    image = decoded(read_one(path, "an image"), settings.size, settings.grey, str(path))
    return np.divide(image, 255, dtype=np.float32)


def pictures(learned) -> Iterator[tuple[str, Any]]:
    """Test tasks, and what is predicted for their queries before and after adaptation."""
    from ..pictures import tiles

    family = learned.learner.family

    def names(rng: np.random.Generator) -> list[str]:
        return [family.name(c) for c in family.sampler.sample(rng, 1, "test").classes[0]]

    yield "tasks", tiles.predictions(learned, names)


class Content(NamedTuple):
    """The images that were read, class by class."""

    images: np.ndarray  # uint8 (N, size, size, 3 or 1)
    counts: np.ndarray  # of the images of each class
    names: tuple[str, ...]  # of the classes, sorted
    titles: tuple[str, ...]  # names for a reader, as words.txt explains some of them
    digest: str = ""  # of the files, whatever is made of them


class ImageTasks:
    """Tell `ways` classes apart after seeing `shots` images of each.

    With `rotations`, a training class gives four, itself turned by 0, 90, 180 and 270 degrees. With `train_shots`,
    training tasks have so many support images of each class, and at most the queries that the smallest class has left.

    Raises:
        ValueError: a count below 1; when data are read, too few classes or images of a class, or no image.
        FileNotFoundError: there are no data when they are read.
    """

    loss = staticmethod(classification)
    metric = property(lambda self: accuracy(self.ways))

    def __init__(
        self, path: str, ways: int = 5, shots: int = 1, queries: int = 4, size: int = 32, grey: bool = False,
        drop: str = "", rotations: bool = False, labels: str = "task", train_shots: int = 0,
        dtype: DTypeLike = np.float32,
    ) -> None:  # fmt: skip
        check_counts(ways=ways, shots=shots, queries=queries, size=size)
        self.ways, self.shots, self.queries, self.dtype = ways, shots, queries, check_dtype(dtype)
        self.input_shape = (size, size, 1 if grey else 3)
        self.path, self.drop, self.rotations, self.labels = path, drop, rotations, labels
        self.train_shots = train_shots or shots

    @property
    def outputs(self) -> int:
        return self.ways if self.labels == "task" else self.sampler.outputs

    @cached_property
    def content(self) -> Content:
        size, _, channels = self.input_shape
        return load(self.path, size, channels == 1, [name for name in self.drop.split(",") if name])

    @cached_property
    def sampler(self) -> Sampler:
        # Class 4 c + k is class c of the content, turned k times by 90 degrees, counter-clockwise.
        classes = {part: 4 * members for part, members in split(self.content.names).items()}
        if self.rotations:
            classes["train"] = (classes["train"][:, None] + np.arange(4)).ravel()
        sizes = np.repeat(self.content.counts, 4)
        self._check()
        return Sampler(sizes, classes, self.ways, self.shots, self.queries, self.name, self.labels)

    @cached_property
    def training(self) -> Sampler:
        every = self.sampler  # which checks all splits
        classes = every.splits["train"]
        queries = max(1, min(self.queries, int(every.sizes[classes].min()) - self.train_shots))
        return Sampler(every.sizes, {"train": classes}, self.ways, self.train_shots, queries, self.name, self.labels)

    def _check(self) -> None:
        """Tasks can be drawn from each split, or a ValueError names the data and says what can be done."""
        _, counts, names, *_ = self.content
        wanted = self.shots + self.queries
        if few := np.flatnonzero(counts < wanted).tolist():
            first = f"the {counts[few[0]]} of class {names[few[0]]}"
            raise ValueError(
                f"{self.path}: shots={self.shots} + queries={self.queries} images are more than {first}; {len(few)} of "
                f"{len(names)} classes have too few: lower --queries, or leave classes out by --drop NAME,NAME"
            )
        sizes = {part: len(classes) for part, classes in split(names).items()}
        if min(sizes.values()) < self.ways:
            seen = ", ".join(f"{size} of {part}" for part, size in sizes.items())
            raise ValueError(f"{self.path}: ways={self.ways}, and of its {len(names)} classes there are {seen}")

    def sample(self, rng: np.random.Generator, tasks: int, split: str) -> tuple:
        """((xs, ys), (xq, yq)): xs (tasks, ways * shots, size, size, channels) in [0, 1], and ys int64, its labels;
        xq and yq with ways * queries."""
        episodes = (self.training if split == "train" else self.sampler).sample(rng, tasks, split)
        return tuple((self.images_of(part), part.labels) for part in (episodes.support, episodes.query))

    def images_of(self, examples: Examples) -> np.ndarray:
        """The images of chosen examples: (tasks, examples, size, size, channels) in [0, 1]."""
        classes, turns = np.divmod(examples.classes, 4)
        first = np.cumsum(self.content.counts) - self.content.counts
        images = self.content.images[first[classes] + examples.numbers]
        for k in (1, 2, 3):
            images[turns == k] = np.rot90(images[turns == k], k, axes=(1, 2))
        return np.divide(images, 255, dtype=self.dtype)

    def fingerprint(self) -> str:
        return self.content.digest

    def name(self, c: int) -> str:
        """The title of class c: "cat", or "cat turned by 90°"."""
        c, turns = divmod(int(c), 4)
        return self.content.titles[c] + (f" turned by {90 * turns}°" if turns else "")

    def baselines(self) -> dict[str, Callable]:
        return {"centroids of pixels": partial(centroids, ways=self.ways)}


def split(names: Sequence[str], seed: int = 0) -> dict[str, np.ndarray]:
    """{"train", "val", "test"}: int64 places in `names`, 64, 16 and 20 % of them.

    They are cut in the order of the SHA-256 of "seed:name", which depends on names alone.
    """
    return shared_out(by_hash(names, seed), SHARES)


# ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def load(path: str, size: int, grey: bool = False, drop: Sequence[str] = ()) -> Content:
    """Read a folder or an archive of classes, or what is kept of it.

    Raises:
        FileNotFoundError: there is nothing, or no image.
        ValueError: a file is no image, or lies in no class; `drop` names no class.
    """
    with open_data(path, ADVICE) as source:
        called = f"images-{size}{'-grey' * grey}"
        content = kept(called, _CACHE_VERSION, source.files, lambda: _read(source, size, grey))
    names = content["names"].tolist()
    drop = [unicodedata.normalize("NFC", name.strip()) for name in drop]
    if unknown := [name for name in drop if name not in names]:
        raise ValueError(f"{path} has no class {unknown[0]!r} to drop; it has {_some(names)}")
    keep = np.array([name not in drop for name in names], bool)
    images = content["images"] if keep.all() else content["images"][np.repeat(keep, content["counts"])]
    counts, names, titles = (content[key][keep] for key in ("counts", "names", "titles"))
    return Content(images, counts, tuple(names.tolist()), tuple(titles.tolist()), str(content["digest_of_files"]))


def _some(names: Sequence[str]) -> str:
    return ", ".join([*names[:5], *["…"] * (len(names) > 5)])


def _read(source: DataSource, size: int, grey: bool) -> dict[str, np.ndarray]:
    tqdm, classes = require("tqdm", "train").tqdm, _classes(source)
    owners, files = zip(*((name, file) for name in sorted(classes) for file in classes[name]), strict=True)
    images, digests = np.empty((len(files), size, size, 1 if grey else 3), np.uint8), [b""] * len(files)

    def decode(numbered: tuple[int, tuple[str, bytes]]) -> None:
        i, (file, data) = numbered
        images[i], digests[i] = decoded(data, size, grey, source.where(file)), hashlib.sha256(data).digest()

    with tqdm(total=len(files), desc="reading images", disable=None) as bar, ThreadPoolExecutor() as pool:
        for first in range(0, len(files), 256):  # a part at a time, so that few files are in memory at once
            some = [(file, source.read(file)) for file in files[first : first + 256]]
            for _ in pool.map(decode, enumerate(some, first)):
                bar.update()
    places, words = _joined(owners, digests), dict(_table(source, "words.txt")) if _is_tiny(source) else {}
    if len(places) < len(classes):
        same = textwrap.shorten(", ".join(name for name in sorted(classes) if name not in places), 100)
        count = f"{len(classes) - len(places)} of {len(classes)} classes"
        what = f"{count} share a file with another class, and are joined to it: {same}"
        warnings.warn(f"{source.path}: {what}", stacklevel=2)
    return {
        "images": images[np.concatenate(list(places.values()))],
        "counts": np.array([len(some) for some in places.values()]), "names": np.array(list(places)),
        # "goldfish, Carassius auratus": the first of its names will do
        "titles": np.array([words[name].split(",")[0] if name in words else name for name in places]),
        "digest_of_files": np.array(digest(owners, [data.hex() for data in digests])),
    }  # fmt: skip


def _joined(names: Sequence[str], digests: Sequence[bytes]) -> dict[str, list[int]]:
    """{class: the places of its images}, given the class and the digest of every image, in the order of classes.

    Classes that share an image are joined under the first of their names, and images that are the same count once.
    """
    root, first = {name: name for name in names}, dict[bytes, str]()

    def joined(name: str) -> str:
        while root[name] != name:
            name = root[name]
        return name

    for name, one_digest in zip(names, digests, strict=True):
        one, other = sorted((joined(name), joined(first.setdefault(one_digest, name))))
        root[other] = one
    places: dict[str, list[int]] = {name: [] for name in root if root[name] == name}
    for one_digest, i in {one_digest: i for i, one_digest in reversed([*enumerate(digests)])}.items():
        places[joined(first[one_digest])].append(i)
    return {name: sorted(some) for name, some in places.items()}


def _classes(source: DataSource) -> dict[str, list[str]]:
    """{class: its files}: the class is the path of the folder, below the folders that lie above all images."""
    images = [name for name in source.names if _IMAGE.fullmatch(name) and not _hidden(name)]
    if not images:
        raise FileNotFoundError(f"no images at {source.path}: found {_some(source.names) or 'nothing'}; {ADVICE}")
    classes: dict[str, list[str]] = {}
    if _is_tiny(source):
        of_file = dict(_table(source, "val_annotations.txt"))
        for name in images:
            match, file = _TINY.fullmatch(name), PurePosixPath(name).name
            if (label := match[1] if match else of_file.get(file)) is not None:
                classes.setdefault(label, []).append(name)
        return classes
    places = [PurePosixPath(name).parent.parts for name in images]
    above = 0  # how many folders lie above all classes
    while len({place[: above + 1] for place in places}) == 1 and min(map(len, places)) > above + 1:
        above += 1
    if all(len(place) > above + 1 and place[above].lower() in _PARTS for place in places):
        above += 1
    for name, place in zip(images, places, strict=True):
        if len(place) <= above:
            raise ValueError(f"{source.where(name)} is an image in no class folder; {ADVICE}")
        # Some systems write é as e and an accent; the split must not depend on that.
        classes.setdefault(unicodedata.normalize("NFC", "/".join(place[above:])), []).append(name)
    return classes


def _is_tiny(source: DataSource) -> bool:
    return any(_TINY.fullmatch(name) for name in source.names)


def _hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def _table(source: DataSource, file: str) -> Iterator[tuple[str, str]]:
    """The first two columns of a file of Tiny-ImageNet, with a tab between; none, if there is no such file.

    `val_annotations.txt` gives the class of each validation image, and `words.txt` says what a class is in words.
    """
    for name in source.names:
        if PurePosixPath(name).name == file:
            for number, line in enumerate(source.read(name).decode("utf-8", "replace").splitlines(), 1):
                key, *rest = line.split("\t")
                if not rest:
                    raise ValueError(f"{source.where(name)}, line {number}: {line!r}, wanted a name, a tab, and more")
                yield key, rest[0]


def decoded(data: bytes, size: int, grey: bool, called: str) -> np.ndarray:
    """A PNG or JPEG as uint8 (size, size, 3 or 1): turned upright, on white, its middle square, scaled by Lanczos.

    Raises:
        ValueError: it is neither, is damaged, or has more than 50 million pixels; the message begins with `called`.
    """
    Image, ImageOps = require("PIL.Image", "train"), require("PIL.ImageOps", "train")

    def check(width: int, height: int) -> None:
        if width * height > LARGEST:
            raise ValueError(f"it has {width} × {height} pixels, more than {LARGEST:,}")

    try:
        check(*size_of_png(data))  # before Pillow warns of it
        with Image.open(io.BytesIO(data), formats=["PNG", "JPEG"]) as image:
            check(*image.size)
            image.draft(None, (2 * size, 2 * size))  # a JPEG of more than twice this is read at half of it, or less
            image.load()
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I"):  # 16 bits of grey
                image = Image.fromarray((np.asarray(image, np.float64) / 257).astype(np.uint8))
            if "A" in image.getbands() or "transparency" in image.info:
                white = Image.new("RGBA", image.size, "white")
                image = Image.alpha_composite(white, image.convert("RGBA"))
            image = image.convert("L" if grey else "RGB")
            if image.size != (size, size):
                image = ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)
            return np.asarray(image).reshape(size, size, -1)
    except Exception as cause:  # a broken image shows as OSError, SyntaxError, struct.error, …
        why = "it is something else, or damaged" if type(cause).__name__ == "UnidentifiedImageError" else cause
        raise ValueError(f"{called} is not a readable PNG or JPEG: {why}") from cause
