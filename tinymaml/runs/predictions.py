"""`tinymaml adapt`: adapt to the examples of one file, and write the predictions for those of another.

    predict("runs/omniglot", "letters", "unknown")      # folders: letters/CLASS/*.png and unknown/*.png
    predict("runs/sinusoid", "support.npz", "query.npz", to="predictions.npz")

An .npz holds x, and in the support y, as `Model.adapt` wants them; for words, x.ids and x.weights. A folder is
for families that say how to `read` one example from a file. Everything is read and checked before anything is computed.
"""

from __future__ import annotations

import csv
import io
import os
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..files import check_regular, in_bytes, memory, naming, open_regular, write_atomically
from ..nest import Nest, tree_map
from ..per_task import outlined
from .model import Model, load
from .settings import blaming, find_member
from .trial import is_binary, ways


class FileExamples(NamedTuple):
    """The content of a file or a folder. x: (N, *input_shape), or a nest; y: the targets, or None; names: of files."""

    x: Nest
    y: Nest | None
    names: list[str] | None
    classes: list[str] | None  # the name of each label


def predict(
    run: str | os.PathLike, support: str | os.PathLike, query: str | os.PathLike, to: str | os.PathLike | None = None,
    steps: int | None = None, iteration: int | None = None, data: str | None = None,
) -> str:  # fmt: skip
    """Adapt what a run has learned to the support examples, and predict the queries.

    Args:
        support, query: each an .npz, or a folder of files of one example each; in the support one folder per class.
        to: an .npz, or else a CSV. None: nothing is written.
        steps, iteration, data: as in `Model.adapt` and `load`.

    Returns:
        The CSV: for each query the `example`, which is its row, from 0, or its file; and the `prediction`, which is a
        number per output, or for classification the label or the name of the most likely of the support's classes. (For
        a single logit, the label is 0 or 1, whatever the support has.)
        An .npz has the two, and the network's `outputs` (M, outputs), which for classification are logits.

    Raises:
        ValueError, TypeError, OSError: something cannot be read, or does not fit the run; the file is named.
    """
    if to is not None and not Path(to).absolute().parent.is_dir():
        raise FileNotFoundError(f"cannot write {to}: there is no such folder")
    model = load(run, iteration, data)
    given, asked = _examples(model, Path(support), True), _examples(model, Path(query), False)
    adapted = model.adapt(given.x, given.y, steps)
    outputs = adapted.predict(asked.x)
    columns = _columns(model, given, asked, outputs)
    table = _csv(columns)
    if to is not None:
        as_text = Path(to).suffix != ".npz"
        write_atomically(to, table.encode("utf-8", "surrogateescape") if as_text else _npz(columns, outputs))
    return table


# ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _examples(model: Model, path: Path, is_support: bool) -> FileExamples:
    """The examples in a file or a folder, checked. Raises: ValueError, TypeError, OSError: the file is named."""
    if path.is_dir():
        found = _of_folder(model, path, is_support)
    else:
        found = _of_npz(path, ("x", "y") if is_support else ("x",))
    try:
        model.support(found.x, found.y) if is_support else model.inputs(found.x)
    except (ValueError, TypeError) as cause:
        raise type(cause)(f"{path}: {cause}") from None
    return found


def _of_npz(path: Path, names: tuple[str, ...]) -> FileExamples:
    try:
        with open_regular(path, "an .npz") as stream, naming("read", path):
            if not zipfile.is_zipfile(stream):
                raise ValueError("it is no .npz")
            stream.seek(0)
            file = np.load(stream, allow_pickle=False)
            if (size := sum(member.file_size for member in file.zip.infolist())) > memory():
                raise ValueError(f"it has {in_bytes(size)} when it is unpacked, more than the memory of this machine")
            inside = {name: [key for key in file.files if key.startswith(f"{name}.")] for name in names}
            if not all(name in file.files or inside[name] for name in names):
                raise ValueError(f"it holds {', '.join(file.files) or 'nothing'}; wanted {' and '.join(names)}")
            arrays = [file[name] if name in file.files else {key[len(name) + 1 :]: file[key] for key in inside[name]}
                      for name in names]  # fmt: skip
    except OSError:
        raise
    except Exception as cause:  # a damaged file shows as BadZipFile, EOFError, zlib.error, ValueError, …
        raise ValueError(f"{path} cannot be used: {cause}") from None
    x, y = (*arrays, None)[:2]
    return FileExamples(x, y, None, None)


def _of_folder(model: Model, folder: Path, is_support: bool) -> FileExamples:
    config = model.config
    read = getattr(find_member("family", config.family.name), "read", None)
    if read is None:
        raise ValueError(f"{folder} is a folder, and {config.family.name} reads no example from a file; wanted an .npz")
    classes = _inside(folder, True, "a folder per class") if is_support else [folder]
    inside = [_inside(place, False, "files of one example each") for place in classes]
    files = [(file, label) for label, found in enumerate(inside) for file in found]
    if is_support and not ways(model.learner):
        raise ValueError(f"{folder} has a folder per class, and {config.family.name} has no classes; wanted an .npz")
    if is_support and len(classes) > ways(model.learner):
        raise ValueError(f"{folder} has {len(classes)} classes, wanted at most the {ways(model.learner)} of the run")
    shape, x = tuple(model.learner.family.input_shape), []
    for file, _ in files:
        check_regular(file, "one example")
        with naming("read", file), blaming(f"{file}: read"):
            x.append(tree_map(np.asarray, read(file, config.family.settings)))
        if isinstance(x[-1], np.ndarray) and x[-1].shape != shape:
            raise ValueError(f"{file}: read returned the shape {x[-1].shape}, wanted {shape}")
        if outlined(x[-1]) != outlined(x[0]):
            raise ValueError(f"{file}: read returned {outlined(x[-1])}, and of the file before {outlined(x[0])}")
    labels = np.array([label for _, label in files]) if is_support else None
    names = [file.name for file, _ in files]
    stacked = tree_map(lambda *arrays: np.stack(arrays), *x)
    return FileExamples(stacked, labels, names, [place.name for place in classes] if is_support else None)


def _inside(folder: Path, folders: bool, wanted: str) -> list[Path]:
    """The files or the folders in a folder, which must hold no others, by name; hidden ones are passed over."""
    with naming("read", folder):
        found = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    if not found:
        raise ValueError(f"{folder} is empty; wanted {wanted}")
    if odd := [path for path in found if path.is_dir() != folders]:
        raise ValueError(f"{odd[0]} is a {'file' if folders else 'folder'}; wanted in {folder}: {wanted}")
    return found


# ── writing ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _columns(model: Model, given: FileExamples, asked: FileExamples, outputs: np.ndarray) -> dict[str, np.ndarray]:
    """The cells of a CSV, by the heads of its columns."""
    key = {"example": np.arange(len(outputs)) if asked.names is None else np.array(asked.names)}
    if is_binary(model.learner):
        return key | {"prediction": (outputs[:, 0] > 0).astype(np.int64)}
    if not ways(model.learner):
        return key | {"prediction": outputs}
    # the most likely of those classes that the support has
    present = np.unique(np.asarray(given.y))
    chosen = present[outputs[:, present].argmax(-1)]
    return key | {"prediction": chosen if given.classes is None else np.array(given.classes)[chosen]}


def _csv(columns: dict[str, np.ndarray]) -> str:
    """The columns as text; an array of more than one number per row takes a column for each."""
    flat: dict[str, Any] = {}
    for name, x in columns.items():
        wide = x.reshape(len(x), -1)
        flat |= {name if wide.shape[1] == 1 else f"{name}_{i}": wide[:, i] for i in range(wide.shape[1])}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(flat)
    writer.writerows(zip(*flat.values(), strict=True))
    return text.getvalue()


def _npz(columns: dict[str, np.ndarray], outputs: np.ndarray) -> bytes:
    file = io.BytesIO()
    arrays: dict[str, Any] = {**columns, "outputs": outputs}
    np.savez(file, **arrays)
    return file.getvalue()
