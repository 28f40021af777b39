"""Few-shot classification of digits: MNIST (LeCun et al., 1998), or Fashion-MNIST (Xiao et al., 2017).

    tasks = DigitTasks("data/mnist", ways=10, shots=1)
    (xs, ys), (xq, yq) = tasks.sample(rng, 32, "train")     # 32 tasks: support and query, x (32, N, 28, 28, 1)

Two ways to cut them, by the option `digits`:

    permuted    all ten digits are in every split, and each task gives them other labels. Training draws from 90 % of
                the training file, validation from its last 10 % of each digit, test from the file t10k.
    held-out    0 … 5 are of training, 6 and 7 of validation, 8 and 9 of test, from both files together.

Read next: `images`, for pictures of anything.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from ..runs.settings import option
from .common import accuracy, centroids, check_counts, check_dtype, classification, digest
from .episodes import LABELS, LABELS_HELP, Examples, Sampler
from .reading import DataSource, inflated, open_data

SIDE, SCHEMES = 28, ("permuted", "held-out")
ADVICE = "`tinymaml data mnist --to DIR` downloads MNIST"
HELD_OUT = {"train": range(6), "val": range(6, 8), "test": range(8, 10)}
_FILE = re.compile(r"(train|t10k)-(images|labels)[-.]idx([31])-ubyte(\.gz)?")

defaults: dict[str, Any] = dict(
    network="mlp", hidden=(128,), inner_steps=5, inner_lr=0.3, meta_lr=0.003, decay=1000, tasks=16, iterations=2000,
    save_every=500, validate_every=250,
)  # fmt: skip
defaults_for: dict[str, dict[str, Any]] = {
    # It learns from support images alone: those of one step must tell it about those of the next.
    "reptile": dict(train_shots=10, inner_batch=10, inner_steps=10, optimizer="adam", meta_lr=0.003, iterations=1500),
}


@dataclass(frozen=True)
class Settings:
    """Options of digits."""

    data: str = option("", "folder of the IDX files", path=True)
    ways: int = option(10, "classes of a task", least=2)
    shots: int = option(1, "support images of each class", least=1)
    queries: int = option(5, "query images of each class", least=1)
    digits: str = option("permuted", "all digits in each split, with other labels per task; or new ones in test",
                         choices=SCHEMES)  # fmt: skip
    labels: str = option("task", LABELS_HELP, choices=LABELS, training=True)
    train_shots: int = option(0, "support images of each class in training; 0: as many as shots", least=0,
                              training=True)  # fmt: skip


def make(settings: Settings) -> DigitTasks:
    """The family with these settings. Its images are read when the first task is drawn."""
    s = settings
    if not s.data:
        raise ValueError(f"digits needs its images: --data PATH ({ADVICE})")
    return DigitTasks(s.data, s.ways, s.shots, s.queries, s.digits, s.labels, s.train_shots)


def pictures(learned) -> Iterator[tuple[str, Any]]:
    """A test task, predicted by the meta-trained network, and by one that learns it from scratch."""
    from ..pictures import tiles

    family = learned.learner.family

    def names(rng: np.random.Generator) -> list[str]:
        return [family.name(c) for c in family.sampler.sample(rng, 1, "test").classes[0]]

    yield "tasks", tiles.predictions(learned, names, tasks=1, scratch=True)


class DigitTasks:
    """Tell `ways` digits apart after seeing `shots` images of each.

    Attributes:
        images: uint8 (N, 28, 28), 255 = ink, of both files.
        members: for each class the numbers of its images. Class 10 s + c is the digit c in split s, of train, val and
            test; or class c is the digit c, if digits are held out.

    Raises:
        ValueError: a count below 1; when data are read, more ways than classes, or a broken file.
        FileNotFoundError: when data are read, a file is missing.
    """

    input_shape = (SIDE, SIDE, 1)
    loss = staticmethod(classification)
    metric = property(lambda self: accuracy(self.ways))

    def __init__(
        self, path: str, ways: int = 10, shots: int = 1, queries: int = 5, digits: str = "permuted",
        labels: str = "task", train_shots: int = 0, dtype: DTypeLike = np.float32,
    ) -> None:  # fmt: skip
        check_counts(ways=ways, shots=shots, queries=queries)
        if digits not in SCHEMES:
            raise ValueError(f"digits={digits!r}; wanted one of {', '.join(SCHEMES)}")
        if digits == "held-out" and ways > 2:
            raise ValueError(f"ways={ways}; of digits that are held out there are 2 in validation and test: --ways 2")
        self.ways, self.shots, self.queries, self.dtype = ways, shots, queries, check_dtype(dtype)
        self.path, self.digits, self.labels, self.train_shots = path, digits, labels, train_shots or shots

    @property
    def outputs(self) -> int:
        return self.ways if self.labels == "task" else self.sampler.outputs

    @cached_property
    def data(self) -> tuple[np.ndarray, list[np.ndarray]]:
        return load(self.path, self.digits)

    images = property(lambda self: self.data[0])
    members = property(lambda self: self.data[1])

    @cached_property
    def sampler(self) -> Sampler:
        splits = HELD_OUT
        if self.digits == "permuted":
            count = len(self.members) // 3
            splits = {split: range(i * count, (i + 1) * count) for i, split in enumerate(HELD_OUT)}
        sizes = [len(numbers) for numbers in self.members]
        return Sampler(sizes, splits, self.ways, self.shots, self.queries, self.name, self.labels)

    @cached_property
    def training(self) -> Sampler:
        every = self.sampler  # which checks all splits
        classes = {"train": every.splits["train"]}
        return Sampler(every.sizes, classes, self.ways, self.train_shots, self.queries, self.name, self.labels)

    def sample(self, rng: np.random.Generator, tasks: int, split: str) -> tuple:
        """((xs, ys), (xq, yq)): xs (tasks, ways * shots, 28, 28, 1) in [0, 1] with ink = 1, and ys int64;
        xq and yq with ways * queries. In training there are `train_shots`."""
        episodes = (self.training if split == "train" else self.sampler).sample(rng, tasks, split)
        return tuple((self.images_of(part), part.labels) for part in (episodes.support, episodes.query))

    def images_of(self, examples: Examples) -> np.ndarray:
        """The images of chosen examples: (tasks, examples, 28, 28, 1) in [0, 1]."""
        starts = np.cumsum([0, *map(len, self.members)])
        numbers = np.concatenate(self.members)[starts[examples.classes] + examples.numbers]
        return np.divide(self.images[numbers][..., None], 255, dtype=self.dtype)

    def fingerprint(self) -> str:
        return digest(*self.data)

    def name(self, c: int) -> str:
        """The label that class c has in the files: "class 4"."""
        return f"class {int(c) if self.digits == 'held-out' else int(c) % (len(self.members) // 3)}"

    def baselines(self) -> dict[str, Callable]:
        return {"centroids of pixels": partial(centroids, ways=self.ways)}


# ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def load(path: str, digits: str) -> tuple[np.ndarray, list[np.ndarray]]:
    """`DigitTasks.images` and `DigitTasks.members` of the four IDX files, compressed or not.

    Raises:
        FileNotFoundError: a file is missing; the message says which, and what is there.
        ValueError: a file is no IDX file of the wanted kind, or is cut off; labels and images do not fit.
    """
    parts = {}
    with open_data(path, ADVICE) as source:
        matches = {name: match for name in source.names if (match := _FILE.fullmatch(PurePosixPath(name).name))}
        if len(folders := {PurePosixPath(name).parent: name for name in matches}) > 1:
            raise ValueError(f"{source.path}: found {' and '.join(folders.values())}; wanted one data set")
        found = {match.group(1, 2): name for name, match in reversed(matches.items())}
        for part in ("train", "t10k"):
            for kind in ("images", "labels"):
                if (part, kind) not in found:
                    seen = ", ".join(source.names[:5]) + ", …" * (len(source.names) > 5)
                    wanted = f"{part}-{kind}-idx{3 if kind == 'images' else 1}-ubyte, or the same with .gz"
                    raise FileNotFoundError(f"{source.path}: no file {wanted}; found {seen}; {ADVICE}")
            images, labels = (_idx(source, found[part, kind], n) for kind, n in (("images", 3), ("labels", 1)))
            if images.shape[1:] != (SIDE, SIDE):
                seen = " × ".join(map(str, images.shape[1:]))
                raise ValueError(f"{source.where(found[part, 'images'])}: images of {seen}, wanted {SIDE} × {SIDE}")
            if len(images) != len(labels):
                seen = f"{len(labels)} labels, but {len(images)} images in {found[part, 'images']}"
                raise ValueError(f"{source.where(found[part, 'labels'])}: {seen}")
            if labels.size and labels.max() > 9:
                raise ValueError(f"{source.where(found[part, 'labels'])}: the label {labels.max()}, wanted 0 … 9")
            parts[part] = images, labels
    of_digit = [[np.flatnonzero(labels == c) for c in range(10)] for _, labels in parts.values()]
    train, test = of_digit[0], [numbers + len(parts["train"][0]) for numbers in of_digit[1]]
    images = np.concatenate([images for images, _ in parts.values()])
    if digits == "held-out":
        return images, [np.concatenate(both) for both in zip(train, test, strict=True)]
    cuts = [np.split(numbers, [len(numbers) * 9 // 10]) for numbers in train]
    return images, [cut[0] for cut in cuts] + [cut[1] for cut in cuts] + test


def _idx(source: DataSource, name: str, dimensions: int) -> np.ndarray:
    """The bytes of an IDX file (a magic number 0, 0, type, dimensions; the sizes; the elements) as an array."""
    where = source.where(name)
    data = inflated(source.read(name), where)
    if data[:4] != bytes([0, 0, 8, dimensions]):
        seen = f"it begins with {data[:4].hex(' ')}" if data else "it is empty"
        wanted = bytes([0, 0, 8, dimensions]).hex(" ")
        raise ValueError(f"{where} is no IDX file of bytes in {dimensions} dimensions: {seen}, wanted {wanted}")
    head = 4 + 4 * dimensions
    shape = tuple(np.frombuffer(data[4:head].ljust(4 * dimensions, b"\0"), ">u4").tolist())
    if len(data) != head + np.prod(shape, dtype=object):
        size = " × ".join(map(str, shape))
        raise ValueError(f"{where} has {len(data) - head} bytes after its head, wanted {size}: it is damaged")
    return np.frombuffer(data, np.uint8, offset=head).reshape(shape)
