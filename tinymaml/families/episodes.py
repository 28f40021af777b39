"""N-way K-shot episodes of any labelled classes: which examples make up a task, and which label each class has.

    sampler = Sampler(sizes, {"train": [0, 1, 2, 3], "val": [4, 5], "test": [6, 7]}, ways=2, shots=1, queries=5)
    episodes = sampler.sample(rng, 32, "train")
    classes, numbers, labels = episodes.support               # each (tasks, ways * shots)
    xs, ys = images[classes, numbers], labels                 # example `numbers[t, i]` of class `classes[t, i]`

The sampler knows numbers alone: class c has the examples 0 … sizes[c] − 1. A family keeps the data, and decides what a
class is: a character, a digit of one speaker, a picture turned by 90°. Next: `omniglot`, which uses it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from .common import check_counts, check_draw

Array = np.ndarray
LABELS = ("task", "class")
LABELS_HELP = "labels drawn per task; or each training class keeps one, to pretrain a classifier of all"
SMALL = 200  # examples per class up to which shuffling all of them at once is faster than a choice per class


class Examples(NamedTuple):
    """The support or the query examples of some tasks, in random order; each array is int64 (tasks, examples)."""

    classes: Array
    numbers: Array  # which example of its class, in 0 … size − 1
    labels: Array  # in 0 … ways − 1


class Episodes(NamedTuple):
    """Which examples make up some tasks. Label w of task t is class `classes[t, w]`; int64 (tasks, ways)."""

    classes: Array
    support: Examples
    query: Examples


class Sampler:
    """Draws tasks: `ways` classes of a split with random labels, `shots` and `queries` examples of each.

    A task has no class twice, and no example in both support and query.

    With labels = "class", the tasks of training are those of an ordinary classifier: class i of the split "train" has
    the label i in all of them, and there are as many outputs as classes. So a network is pretrained. The tasks of the
    other splits stay as they are, with the labels 0 … ways − 1.

    Attributes:
        outputs: how many labels there are: ways, or the classes of the split "train".

    Args:
        sizes: the number of examples of each class.
        splits: the classes, as indices into `sizes`, that each split draws from; no class is in two splits.
        ways, shots, queries: classes per task, and support and query examples per class.
        name: what an error calls class c.
        labels: "task", drawn anew for each task; or "class".

    Raises:
        ValueError: a count below 1, a split with fewer than `ways` classes, a class with fewer than `shots + queries`
            examples, a class that does not exist or that two splits share.

    >>> from tinymaml.families.episodes import Sampler
    >>> sampler = Sampler([20] * 8, {"train": [0, 1, 2, 3], "val": [4, 5], "test": [6, 7]}, ways=2, shots=1, queries=5)
    >>> episodes = sampler.sample(np.random.default_rng(0), 32, "test")
    >>> episodes.query.labels.shape, sorted(set(episodes.query.classes.ravel().tolist()))
    ((32, 10), [6, 7])
    """

    def __init__(
        self, sizes: Sequence[int] | Array, splits: Mapping[str, Sequence[int] | Array],
        ways: int, shots: int, queries: int, name: Callable[[int], str] = "class {}".format, labels: str = "task",
    ) -> None:  # fmt: skip
        check_counts(ways=ways, shots=shots, queries=queries)
        if labels not in LABELS:
            raise ValueError(f"labels={labels!r}; wanted one of {', '.join(LABELS)}")
        self.sizes = np.asarray(sizes, np.int64)
        self.splits = {split: np.asarray(classes, np.int64) for split, classes in splits.items()}
        self.ways, self.shots, self.queries, self.labels = ways, shots, queries, labels
        self.outputs = ways if labels == "task" else len(self.splits["train"])
        home: dict[int, str] = {}  # the split of each class
        for split, classes in self.splits.items():
            if ways > len(classes):
                raise ValueError(f"ways={ways}; split {split!r} has {len(classes)} classes")
            for c in classes.tolist():
                if not 0 <= c < len(self.sizes):
                    raise ValueError(f"split {split!r} has class {c}; wanted 0 … {len(self.sizes) - 1}")
                if c in home:
                    both = f"split {split!r} twice" if home[c] == split else f"the splits {home[c]!r} and {split!r}"
                    raise ValueError(f"{name(c)} is in {both}; wanted each class once")
                if shots + queries > self.sizes[c]:
                    few = f"the {self.sizes[c]} examples of {name(c)}"
                    raise ValueError(f"shots={shots} + queries={queries} is more than {few}")
                home[c] = split

    def sample(self, rng: np.random.Generator, tasks: int, split: str) -> Episodes:
        """Draw `tasks` tasks from the classes of `split`.

        Raises:
            ValueError: no such split, or less than one task.
        """
        check_draw(tasks, split, self.splits)
        classes = self.splits[split]
        # Label w is any class: a choice without replacement comes in random order.
        chosen = classes[np.stack([rng.choice(len(classes), self.ways, replace=False) for _ in range(tasks)])]
        episodes = draw(rng, chosen, self.sizes, self.shots, self.queries)
        if self.labels == "task" or split != "train":
            return episodes
        place = np.zeros(len(self.sizes), np.int64)
        place[classes] = np.arange(len(classes))
        return Episodes(chosen, *(part._replace(labels=place[part.classes]) for part in episodes[1:]))


def draw(rng: np.random.Generator, classes: Array, sizes: Array, shots: int, queries: int) -> Episodes:
    """Draw the examples of tasks whose classes are chosen already; label w of task t is class `classes[t, w]`.

    Args:
        classes: int64 (tasks, ways), each in 0 … len(sizes) − 1.
        sizes: int64, the number of examples of each class, at least `shots + queries`.

    >>> from tinymaml.families.episodes import draw
    >>> classes = np.array([[3, 7]])  # one task, whose labels 0 and 1 are the classes 3 and 7
    >>> episodes = draw(np.random.default_rng(0), classes, np.full(10, 20), shots=1, queries=5)
    >>> episodes.support.classes.shape, episodes.query.labels.shape, sorted(set(episodes.query.classes[0].tolist()))
    ((1, 2), (1, 10), [3, 7])
    """
    tasks, ways = classes.shape
    numbers = _distinct(rng, sizes[classes], shots + queries)
    task = np.arange(tasks)[:, None]

    def examples(first: int, count: int) -> Examples:
        labels, nth = np.divmod(_shuffled(rng, tasks, ways * count), count)
        return Examples(classes[task, labels], numbers[task, labels, first + nth], labels)

    return Episodes(classes, examples(0, shots), examples(shots, queries))


def _distinct(rng: np.random.Generator, sizes: Array, count: int) -> Array:
    """`count` different numbers below each of sizes (tasks, ways), in random order: int64 (tasks, ways, count)."""
    size = sizes.flat[0]
    if size <= SMALL and (sizes == size).all():
        return _shuffled(rng, *sizes.shape, size)[..., :count]
    chosen = [rng.choice(n, count, replace=False) for n in sizes.ravel().tolist()]
    return np.array(chosen, np.int64).reshape(*sizes.shape, count)


def _shuffled(rng: np.random.Generator, *shape: int) -> Array:
    """int64 0 … n − 1 along the last axis, in another random order in each row."""
    return rng.permuted(np.broadcast_to(np.arange(shape[-1], dtype=np.int64), shape), axis=-1)
