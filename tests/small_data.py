"""A tiny data set of each family, in its official layout, for the tests that run over all families.

    OPTIONS["omniglot"](folder)     writes it into the folder → the options that read it, and that make tasks tiny

Who adds a family adds a function here, and a line to OPTIONS. The tests that are the family's own make their own files.
"""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

# In these the same x may be in several tasks: a film that many rate. Their own tests look for leaks.
RECURRENT: set[str] = set()


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


OPTIONS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "sinusoid": sinusoid, "omniglot": omniglot, "lines": lines, "separators": separators,
}  # fmt: skip
