"""The parts that families share: the metric, the usual losses, and the checks of what a user asks for.

    Metric("accuracy", unit=" %", scale=100, better="higher", chance=1 / ways)
    classification(logits, y), regression(prediction, y)      # → (loss, metric), what a family's `loss` returns
    binary_classification(logits, y)                          # the same, of one logit per example
    check_counts(ways=5, shots=1), check_dtype(np.float32), check_draw(tasks, split)

Next: `episodes`, the sampler of every few-shot classification.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from .. import nn
from ..nest import tree_leaves

Array = np.ndarray
SPLITS = ("train", "val", "test")


class Metric(NamedTuple):
    """The metric of a family, and how a table or a picture shows it.

    Attributes:
        name: its key in a run's log ("mse" gives "mse" and "validation_mse").
        unit: what follows a shown value, with its space: " %".
        scale: shown value / measured value, 100 for percent.
        better: "lower" or "higher".
        chance: the value, measured and not scaled, that guessing reaches on average; None: guessing has no such value.
        label: its name in words, as in "query mean squared error". Empty: `name`, with spaces for underscores.
        picture: the file of its picture over adaptation steps. Empty: "adaptation_mse", for the name "mse".
    """

    name: str
    unit: str = ""
    scale: float = 1
    better: str = "lower"
    chance: float | None = None
    label: str = ""
    picture: str = ""


def as_metric(metric: Metric | Mapping[str, Any]) -> Metric:
    """A family's `metric`, which may be a mapping with the keys of `Metric`, as a `Metric` with a label.

    Raises:
        ValueError: a key that is missing or unknown; no name; `better` is neither "lower" nor "higher".

    >>> from tinymaml.families.common import as_metric
    >>> as_metric({"name": "mse"}).label, as_metric({"name": "squared_error"}).label
    ('mse', 'squared error')
    """
    record = metric._asdict() if isinstance(metric, Metric) else metric
    if not isinstance(record, Mapping) or "name" not in record or record.keys() - set(Metric._fields):
        seen = ", ".join(record) if isinstance(record, Mapping) else repr(metric)
        raise ValueError(f"a metric has {', '.join(Metric._fields)}, and at least a name; seen {seen}")
    whole = Metric(**record)
    if not isinstance(whole.name, str) or not whole.name:
        raise ValueError(f"the name of a metric is {whole.name!r}, wanted a string")
    if whole.better not in ("lower", "higher"):
        raise ValueError(f"metric {whole.name}: better is {whole.better!r}, wanted 'lower' or 'higher'")
    return whole._replace(label=whole.label or whole.name.replace("_", " "))


def accuracy(ways: int) -> Metric:
    """The metric of `classification` among so many classes.

    >>> from tinymaml.families.common import accuracy
    >>> accuracy(5).chance
    0.2
    """
    return Metric("accuracy", " %", 100, "higher", chance=1 / ways, label="accuracy", picture="accuracy")


def classification(logits: Array, y: Array) -> tuple[Array, Array]:
    """The cross-entropy of logits (N, classes) and labels (N,), in nats, and the share of right predictions.

    >>> from tinymaml.families.common import classification
    >>> loss, right = classification(np.array([[2.0, 0.0], [2.0, 0.0]]), np.array([0, 1]))
    >>> loss.round(4), right
    (np.float64(1.1269), np.float64(0.5))
    """
    return nn.cross_entropy(logits, y), np.mean(np.argmax(logits, -1) == y)


def binary_classification(logits: Array, y: Array) -> tuple[Array, Array]:
    """The binary cross-entropy of logits and targets 0 or 1, both (N, 1), in nats, and the share of right predictions.

    A logit above 0 predicts 1.

    >>> from tinymaml.families.common import binary_classification
    >>> loss, right = binary_classification(np.array([[2.0], [2.0]]), np.array([[0], [1]]))
    >>> loss.round(4), right
    (np.float64(1.1269), np.float64(0.5))
    """
    return nn.binary_cross_entropy(logits, y), np.mean((logits > 0) == (y > 0.5))


def centroids(xs: Array, ys: Array, xq: Array, ways: int) -> Array:
    """The logits (queries, ways) of the nearest centroid, for arrays of any shape: −‖x − c_k‖².

    c_k is the mean of the support examples with the label k. A class without any is never predicted.

    >>> from tinymaml.families.common import centroids
    >>> centroids(np.array([0.0, 2.0, 10.0]), np.array([0, 0, 1]), np.array([3.0, 8.0]), ways=2)
    array([[ -4., -49.],
           [-49.,  -4.]])
    """
    support, queries = (np.reshape(x, (len(x), -1)).astype(float) for x in (xs, xq))
    means = [support[ys == k].mean(0) if (ys == k).any() else None for k in range(ways)]
    squares = [np.sum((queries - mean) ** 2, 1) if mean is not None else np.full(len(xq), np.inf) for mean in means]
    return -np.minimum(np.stack(squares, 1), 1e30)


MSE = Metric("mse", label="mean squared error")


def regression(prediction: Array, y: Array) -> tuple[Array, Array]:
    """The mean squared error, as the loss and as the metric; both arguments have one shape.

    >>> from tinymaml.families.common import regression
    >>> regression(np.array([1.0, 2.0]), np.array([1.0, 4.0]))
    (np.float64(2.0), np.float64(2.0))
    """
    error = nn.mse(prediction, y)
    return error, error


# ── tasks of unequal size ───────────────────────────────────────────────────────────────────────────────────────────
# Tasks are stacked, and so all have as many rows as the largest. y is then {"y": (N, …), "mask": (N,)}: the mask is 1
# in rows that are examples, and 0 in rows that fill up. A loss takes its mean over the examples alone.


def masked_mean(values: Array, mask: Array) -> Array:
    """The mean of values (N, …) over the rows whose mask (N,) is 1, and over all further axes; 0 if there are none.

    >>> from tinymaml.families.common import masked_mean
    >>> masked_mean(np.array([1.0, 3.0, 99.0]), np.array([1.0, 1.0, 0.0]))
    np.float64(2.0)
    """
    rows = np.mean(np.reshape(values, (values.shape[0], -1)), 1)
    # Σ mᵢ vᵢ / max(Σ mᵢ, 1)
    return np.sum(mask * rows) / np.maximum(np.sum(mask), 1)


def count(y: Any) -> Any:
    """How many examples a task's targets are of: all rows, or those whose mask is 1.

    >>> from tinymaml.families.common import count
    >>> count(np.zeros((3, 1))), count({"y": np.zeros((3, 1)), "mask": np.array([1.0, 1.0, 0.0])})
    (3, np.float64(2.0))
    """
    return np.sum(y["mask"]) if isinstance(y, dict) and "mask" in y else tree_leaves(y)[0].shape[0]


# ── splits ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def by_hash(names: Sequence[str], seed: int = 0) -> Array:
    """int64 (N,): the places of names in the order of the SHA-256 of "seed:name", which depends on names alone.

    >>> from tinymaml.families.common import by_hash
    >>> [[names[i] for i in by_hash(names)] for names in (["ann", "bob", "eve"], ["eve", "bob", "ann"])]
    [['ann', 'bob', 'eve'], ['ann', 'bob', 'eve']]
    """
    digests = [hashlib.sha256(f"{seed}:{name}".encode("utf-8", "surrogateescape")).digest() for name in names]
    return np.array(sorted(range(len(names)), key=digests.__getitem__), np.int64)


def shared_out(order: Array, shares: Mapping[str, float]) -> dict[str, Array]:
    """{split: its part of `order`}, one after another, by shares whose sum is 1.

    >>> from tinymaml.families.common import shared_out
    >>> shared_out(np.arange(5), {"train": 0.6, "val": 0.2, "test": 0.2})
    {'train': array([0, 1, 2]), 'val': array([3]), 'test': array([4])}
    """
    cuts = np.round(np.cumsum([*shares.values()])[:-1] * len(order)).astype(int)
    return dict(zip(shares, np.split(order, cuts), strict=True))


def digest(*content: Any) -> str:
    """SHA-256 of arrays, strings and numbers, and of tuples, lists and dicts of them, in their order.

    >>> from tinymaml.families.common import digest
    >>> digest(np.arange(3), "a") == digest(np.arange(3), "a"), digest(np.arange(3)) == digest(np.arange(3.0))
    (True, False)
    """
    seen = hashlib.sha256()

    def add(x: Any) -> None:
        if isinstance(x, dict):
            x = list(x.items())
        if isinstance(x, (tuple, list)):
            seen.update(f"({len(x)}".encode())
            for part in x:
                add(part)
        elif isinstance(x, np.ndarray) and x.dtype.kind in "biufcSU":
            seen.update(f"{x.dtype.str}{x.shape}".encode())
            seen.update(np.ascontiguousarray(x).data.cast("B") if x.size and x.ndim else x.tobytes())
        else:
            seen.update(f"{type(x).__name__} {x!r}".encode())

    add(content)
    return seen.hexdigest()


# ── what is asked for ───────────────────────────────────────────────────────────────────────────────────────────────


def check_counts(**counts: Any) -> None:
    """Each is an integer of at least 1, of `ways` at least 2, or a ValueError names it.

    >>> from tinymaml.families.common import check_counts
    >>> check_counts(ways=5, shots=0)
    Traceback (most recent call last):
    ...
    ValueError: shots=0; wanted an integer of at least 1
    """
    for name, count in counts.items():
        least = 2 if name == "ways" else 1  # of one class there is nothing to learn
        if not isinstance(count, int | np.integer) or isinstance(count, bool) or count < least:
            raise ValueError(f"{name}={count!r}; wanted an integer of at least {least}")


def check_dtype(dtype: DTypeLike) -> np.dtype:
    """`dtype` as a NumPy dtype, or a ValueError: it is not a floating type.

    >>> from tinymaml.families.common import check_dtype
    >>> check_dtype(np.float32)
    dtype('float32')
    """
    if np.dtype(dtype).kind != "f":
        raise ValueError(f"dtype={np.dtype(dtype)}; wanted a floating type")
    return np.dtype(dtype)


def check_draw(tasks: int, split: str, splits: Iterable[str] = SPLITS) -> None:
    """Check that `sample` is asked for at least one task of a known split; raise a ValueError otherwise.

    >>> from tinymaml.families.common import check_draw
    >>> check_draw(4, "dev")
    Traceback (most recent call last):
    ...
    ValueError: unknown split 'dev'; wanted one of train, val, test
    """
    if split not in tuple(splits):
        raise ValueError(f"unknown split {split!r}; wanted one of {', '.join(splits)}")
    if tasks < 1:
        raise ValueError(f"tasks={tasks}; wanted at least 1")
