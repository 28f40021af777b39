"""Few-shot classification of handwritten characters: Omniglot (Lake, Salakhutdinov and Tenenbaum, 2015).

    tasks = OmniglotTasks("data/omniglot", ways=5, shots=1)
    (xs, ys), (xq, yq) = tasks.sample(rng, 32, "train")     # 32 tasks: support and query
    characters = load("data/omniglot")                      # 1,623 characters, 20 drawings each, 28 x 28
    split(characters)["test"]                               # the 423 characters that training never sees

The archives are read as they are, and a small cache makes the next start fast.
Read next: `fetch`, which downloads them.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from ..extras import require
from ..files import check_regular, expanded
from ..runs.settings import option
from .common import accuracy, by_hash, check_counts, check_dtype, classification, digest
from .episodes import LABELS, LABELS_HELP, Episodes, Examples, Sampler
from .reading import kept, open_data, read_one, size_of_png

SETS = ("images_background", "images_evaluation")
SCHEMES = ("1100/100/423", "official")
DRAWINGS, DRAWN, SIDE = 20, 105, 28  # drawings of a character, their side in pixels, and ours
LARGEST = 10_000  # the side of an image of a user's
_CACHE_VERSION = 1  # to be raised when the pixels or the fields of the cache change
_NUMBER = re.compile(r"\d+_\d+")  # what the name of a drawing begins with
_DRAWING = re.compile(r"(images_[^/]+)/([^/]+/character\d+)/[^/.][^/]*\.png")

defaults: dict[str, Any] = dict(
    network="conv", hidden=(256, 128, 64, 64), norm="batch", inner_lr=0.4, meta_lr=0.005, decay=100, tasks=32,
    iterations=300, save_every=20, validate_every=50,
)  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """Options of Omniglot."""

    data: str = option("", "folder of the archives", path=True)
    ways: int = option(5, "classes of a task", least=2)
    shots: int = option(1, "support drawings of each class", least=1)
    queries: int = option(5, "query drawings of each class", least=1)
    scheme: str = option("1100/100/423", "split of characters", choices=SCHEMES)
    rotations: bool = option(False, "training characters turned by 90° multiples are further classes", training=True)
    labels: str = option("task", LABELS_HELP, choices=LABELS, training=True)


def make(settings: Settings) -> OmniglotTasks:
    """The family with these settings. Its images are read when the first task is drawn.

    Raises:
        ValueError: as `OmniglotTasks` raises; or `data` is empty.
    """
    if not settings.data:
        raise ValueError("omniglot needs its images: --data PATH (`tinymaml data omniglot --to PATH` downloads them)")
    s = settings
    return OmniglotTasks(s.data, s.ways, s.shots, s.queries, s.scheme, s.rotations, s.labels, lazy=True)


def published(settings: Settings) -> list[tuple[str, dict[int, float]]]:
    """Finn et al., 2017, table 1: the accuracy after the paper's number of steps, 3 in 5-way and 5 in 20-way tasks."""
    steps = {5: 3, 20: 5}.get(settings.ways, 0)
    table = {
        "conv net": {(5, 1): 0.987, (5, 5): 0.999, (20, 1): 0.958, (20, 5): 0.989},
        "mlp": {(5, 1): 0.897, (5, 5): 0.975},
    }
    task = settings.ways, settings.shots
    return [(f"MAML, {net}, Finn et al., 2017", {steps: row[task]}) for net, row in table.items() if task in row]


def read(path: Path, settings: Settings) -> np.ndarray:
    """One drawing from a PNG file of a user's: float32 (28, 28, 1), made as those of the archives are.

    It may be of any size, but must be square. Dark is ink; where it is transparent, the paper is white.

    Raises:
        ValueError: it is no PNG, or not square.
    """
    ink = _ink(read_one(path, "a PNG"), str(path), None)
    return np.divide(ink[..., None], 255, dtype=np.float32)


def pictures(learned) -> Iterator[tuple[str, Any]]:
    """Test tasks, and what is predicted for their queries before and after adaptation."""
    from ..pictures import tiles

    family = learned.learner.family

    def names(rng: np.random.Generator) -> list[str]:
        return [family.name(c) for c in family.episodes(rng, 1, "test").classes[0]]

    yield "tasks", tiles.predictions(learned, names)


@dataclass(frozen=True, eq=False)
class Characters:
    """The drawings of every character.

    Attributes:
        images: uint8 (characters, 20, 28, 28), 255 = ink: `images / 255` is 1 - grey / 255.
        names: "Alphabet/characterNN" of each character, sorted.
        background: bool (characters,), whether the character is of the background set.
        source: where the archives were looked for.
    """

    images: np.ndarray
    names: tuple[str, ...]
    background: np.ndarray
    source: str


def load(path: str | os.PathLike[str], cache: bool = True) -> Characters:
    """Read Omniglot from its archives, zipped or extracted.

    Args:
        path: a folder holding `images_background` and/or `images_evaluation`, each as a `.zip` or a folder
            (the `.zip` is taken when both are there); or one of these itself.
        cache: keep the result in `$TINYMAML_CACHE`, or `~/.cache/tinymaml`, and look for it there. A cache
            belongs to the paths, sizes and times of the files it was made from.

    Raises:
        FileNotFoundError: there is no such path, or nothing of Omniglot in it.
        ValueError: an archive is broken or unsafe, or a drawing is missing, unreadable or not 105 x 105.
    """
    place = Path(os.path.abspath(expanded(path)))
    sources = _sources(place)
    content = kept("omniglot", _CACHE_VERSION, sources.values(), lambda: _read(sources)) if cache else _read(sources)
    images, names, background = (content[name] for name in ("images", "names", "background"))
    return Characters(images, tuple(names.tolist()), background, str(place))


def split(characters: Characters, scheme: str = "1100/100/423", seed: int = 0) -> dict[str, np.ndarray]:
    """The characters of training, validation and test.

    Characters are listed in the order of the SHA-256 of "seed:name", which depends on names alone. (The
    MAML code shuffles a directory listing, whose order depends on the file system.)

    Args:
        scheme: "1100/100/423" cuts the list of all 1,623 characters into these lengths, as the MAML code
            does. "official" tests on the evaluation set, validates on the last 100 of the background set,
            and trains on the 864 before them.

    Returns:
        {"train", "val", "test"}: int64 indices of characters, in the order of the list.

    Raises:
        ValueError: no such scheme, or an archive that it needs is missing or incomplete.
    """
    if scheme not in SCHEMES:
        raise ValueError(f"unknown scheme {scheme!r}; wanted one of {', '.join(SCHEMES)}")
    where = characters.source
    for name, there in zip(SETS, (characters.background, ~characters.background), strict=True):
        if not there.any():
            raise ValueError(f"scheme {scheme!r} needs {name}.zip or the folder {name}: not found in {where}")
    order = by_hash(characters.names, seed)
    background, evaluation = order[characters.background[order]], order[~characters.background[order]]
    if scheme == "official":
        if len(background) <= 100:
            raise ValueError(f"scheme {scheme!r} wants 101 background characters, not {len(background)}: {where}")
        return {"train": background[:-100], "val": background[-100:], "test": evaluation}
    if len(order) != 1623:
        raise ValueError(f"scheme {scheme!r} wants 1623 characters, not {len(order)}: {where}")
    return {"train": order[:1100], "val": order[1100:1200], "test": order[1200:]}


class OmniglotTasks:
    """N-way K-shot tasks: tell `ways` characters apart after seeing `shots` drawings of each.

    With `rotations`, a TRAINING character gives four classes, itself turned by 0, 90, 180 and 270 degrees
    (as in Reptile), and two of them may meet in one task as two classes. Validation and test characters
    are never turned. The MAML code differs: it draws a turn for each class and episode, at test too.

    A task has no class twice, and no drawing in both support and query. Which class gets which label is
    random in each task, and so is the order of the examples.

    Args:
        path: as for `load`.
        ways, shots, queries: classes of a task, and support and query drawings of each class.
        scheme: as for `split`.
        rotations: whether turned training characters are further classes.
        labels: as for `Sampler`.
        dtype: floating type of the images.
        lazy: the archives are read, and checked, at the first use.

    Raises:
        ValueError: a count below 1, more than 20 drawings of a class, or more ways than a split has classes.
        FileNotFoundError, ValueError: as `load` and `split` raise.
    """

    input_shape = (SIDE, SIDE, 1)
    loss = staticmethod(classification)
    outputs = property(lambda self: self.ways if self._labels == "task" else self.sampler.outputs)
    metric = property(lambda self: accuracy(self.ways))

    def __init__(
        self,
        path: str | os.PathLike[str],
        ways: int = 5,
        shots: int = 1,
        queries: int = 15,
        scheme: str = "1100/100/423",
        rotations: bool = True,
        labels: str = "task",
        dtype: DTypeLike = np.float32,
        lazy: bool = False,
    ) -> None:
        check_counts(ways=ways, shots=shots, queries=queries)
        if shots + queries > DRAWINGS:
            raise ValueError(f"shots={shots} + queries={queries} is more than a class's {DRAWINGS} drawings")
        self.ways, self.shots, self.queries, self.dtype = ways, shots, queries, check_dtype(dtype)
        self._path, self._scheme, self._rotations, self._labels = path, scheme, rotations, labels
        if not lazy:
            _ = self.sampler

    @cached_property
    def characters(self) -> Characters:
        return load(self._path)

    @cached_property
    def splits(self) -> dict[str, np.ndarray]:
        return split(self.characters, self._scheme)

    @cached_property
    def sampler(self) -> Sampler:
        # Class 4 c + k is character c, turned k times by 90 degrees, counter-clockwise.
        classes = {name: 4 * members for name, members in self.splits.items()}
        if self._rotations:
            classes["train"] = (classes["train"][:, None] + np.arange(4)).ravel()
        sizes = np.full(4 * len(self.characters.names), DRAWINGS)
        return Sampler(sizes, classes, self.ways, self.shots, self.queries, self.name, self._labels)

    def sample(self, rng: np.random.Generator, tasks: int, split: str) -> tuple:
        """Draw `tasks` tasks from the classes of `split` ("train", "val" or "test").

        Returns:
            ((xs, ys), (xq, yq)): support and query. xs is (tasks, ways * shots, 28, 28, 1) in [0, 1] with
            ink = 1, and ys int64 (tasks, ways * shots) in 0 .. outputs - 1; xq, yq have ways * queries.
        """
        return self.batch(self.episodes(rng, tasks, split))

    def episodes(self, rng: np.random.Generator, tasks: int, split: str) -> Episodes:
        """Choose the drawings of `tasks` tasks. All randomness is here; `batch` makes the arrays."""
        return self.sampler.sample(rng, tasks, split)

    def batch(self, episodes: Episodes) -> tuple:
        """The arrays of chosen episodes, as `sample` returns them."""
        return tuple((self.images_of(part), part.labels) for part in (episodes.support, episodes.query))

    def images_of(self, examples: Examples) -> np.ndarray:
        """The drawings of chosen examples: (tasks, examples, 28, 28, 1) in [0, 1]."""
        characters, turns = np.divmod(examples.classes, 4)
        images = self.characters.images[characters, examples.numbers]  # (tasks, examples, 28, 28)
        for k in (1, 2, 3):
            images[turns == k] = np.rot90(images[turns == k], k, axes=(1, 2))
        return np.divide(images[..., None], 255, dtype=self.dtype)

    def fingerprint(self) -> str:
        return digest(self.characters.images, self.characters.names)

    def name(self, c: int) -> str:
        """The name of class c: "Greek/character03", or "Greek/character03 turned by 90°"."""
        character, turns = divmod(int(c), 4)
        return self.characters.names[character] + (f" turned by {90 * turns}°" if turns else "")


# Reading: images, names and background of all characters, as arrays.


def _sources(place: Path) -> dict[str, Path]:
    """The archive or folder of each set that is there."""
    advice = "`tinymaml data omniglot --to DIR` downloads it"
    if not place.exists():
        raise FileNotFoundError(f"no Omniglot at {place}: no such file or folder; {advice}")
    if place.name.removesuffix(".zip") in SETS:
        return {place.name.removesuffix(".zip"): place}
    choices = [(name, place / f"{name}{suffix}") for suffix in ("", ".zip") for name in SETS]
    if found := {name: choice for name, choice in choices if choice.exists()}:
        return found
    if not place.is_dir():
        check_regular(place, "a folder")
    inside = sorted(os.listdir(place)) if place.is_dir() else ["a file"]
    seen = ", ".join(inside[:5] + ["..."] * (len(inside) > 5)) or "nothing"
    wanted = " and/or ".join(f"{name}.zip" for name in SETS)
    raise FileNotFoundError(f"no Omniglot at {place}: found {seen}; wanted {wanted} (or folders); {advice}")


def _read(sources: dict[str, Path]) -> dict[str, np.ndarray]:
    tqdm = require("tqdm", "train").tqdm
    with ExitStack() as stack:
        characters: dict[str, tuple] = {}  # name: (background?, source, members)
        for name, path in sources.items():
            source = stack.enter_context(open_data(path))
            above = f"{name}/" if path.is_dir() else ""  # an extracted archive lacks its top folder
            drawings: dict[str, list[str]] = {}
            for member in source.names:
                if (match := _DRAWING.fullmatch(above + member)) and match[1] == name:
                    drawings.setdefault(match[2], []).append(member)
            if not drawings:
                raise ValueError(f"{path}: wanted {name}/ALPHABET/characterNN/*.png, found {source.names[0]}")
            for character, files in drawings.items():
                if len(files) != DRAWINGS:
                    raise ValueError(f"{path}: {character} has {len(files)} drawings, wanted {DRAWINGS}")
                numbers: dict[str, str] = {}  # of drawings: of simple characters, two drawings may have the same pixels
                for file in files:
                    number = _NUMBER.match(file.rpartition("/")[2])
                    if number and (first := numbers.setdefault(number[0], file)) != file:
                        raise ValueError(f"{source.where(file)} is the same drawing as {first}")
                if character in characters:
                    raise ValueError(f"{path}: {character} is in {characters[character][1].path} too")
                characters[character] = name == SETS[0], source, files

        names = sorted(characters)
        images = np.empty((len(names), DRAWINGS, SIDE, SIDE), np.uint8)
        with tqdm(total=len(names) * DRAWINGS, desc="reading Omniglot", disable=None) as bar:
            for index, name in enumerate(names):
                _, source, files = characters[name]
                for drawing, member in enumerate(files):
                    images[index, drawing] = _ink(source.read(member), source.where(member), DRAWN)
                bar.update(DRAWINGS)
    background = np.array([characters[name][0] for name in names])
    return {"images": images, "names": np.array(names), "background": background}


def _ink(data: bytes, called: str, side: int | None) -> np.ndarray:
    """A PNG of this side, or of any up to LARGEST and square, as uint8 (28, 28) with 255 = ink."""
    Image = require("PIL.Image", "train")
    width, height = size_of_png(data)
    if side and width and (width, height) != (side, side):
        raise ValueError(f"{called} is {width} x {height}, wanted {side} x {side}")
    if width != height or width > LARGEST:
        raise ValueError(f"{called} is {width} x {height}, wanted a square image of at most {LARGEST} x {LARGEST}")
    try:
        if not width:
            raise ValueError("it is something else")
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            if "A" in image.getbands() or "transparency" in image.info:
                white = Image.new("RGBA", image.size, "white")
                image = Image.alpha_composite(white, image.convert("RGBA"))
            # Pillow resizes a 1-bit image by nearest, whatever filter it is asked for; so go to grey first.
            grey = image.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
            return 255 - np.asarray(grey)
    except Exception as cause:  # a broken PNG shows as OSError, SyntaxError, struct.error, ...
        why = "it is something else" if type(cause).__name__ == "UnidentifiedImageError" else cause
        raise ValueError(f"{called} is not a readable PNG: {why}") from cause
