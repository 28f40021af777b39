"""Episodes of any labelled classes: a task gives nothing away, and every example comes up."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinymaml.families.episodes import SMALL, Sampler, draw


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


SPLITS = {"train": [7, 0, 3, 9], "val": [5, 1, 2], "test": [4, 6, 8]}
SIZES = {
    "equal": np.full(10, 12),
    "unequal": np.arange(12, 22),
    "large": np.full(10, SMALL + 1),
    "one large": np.where(np.arange(10) == 3, 60_000, 12),
}
every = pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)


@every
@given(
    seed=st.integers(0, 2**32), ways=st.integers(2, 3), shots=st.integers(1, 6), queries=st.integers(1, 6),
    tasks=st.integers(1, 4), split=st.sampled_from(list(SPLITS)),
)  # fmt: skip
def test_a_task_has_distinct_classes_of_its_split_and_distinct_examples(
    sizes, seed, ways, shots, queries, tasks, split
):
    episodes = Sampler(sizes, SPLITS, ways, shots, queries).sample(rng(seed), tasks, split)
    assert episodes.classes.shape == (tasks, ways) and episodes.classes.dtype == np.int64
    assert set(episodes.classes.ravel().tolist()) <= set(SPLITS[split])
    for part, times in ((episodes.support, shots), (episodes.query, queries)):
        assert {(x.shape, x.dtype) for x in part} == {((tasks, ways * times), np.dtype(np.int64))}
        np.testing.assert_array_equal(part.classes, np.take_along_axis(episodes.classes, part.labels, 1))
        assert (part.numbers >= 0).all() and (part.numbers < sizes[part.classes]).all()
        for labels in part.labels:
            np.testing.assert_array_equal(np.bincount(labels, minlength=ways), np.full(ways, times))
    for t in range(tasks):
        assert len(set(episodes.classes[t].tolist())) == ways
        both = [(c, n) for part in episodes[1:] for c, n in zip(part.classes[t], part.numbers[t], strict=True)]
        assert len(set(both)) == ways * (shots + queries)


@every
def test_the_generator_alone_decides(sizes):
    sampler = Sampler(sizes, SPLITS, 2, 3, 4)
    first, again, other = (sampler.sample(rng(seed), 3, "train") for seed in (1, 1, 2))
    flat = lambda e: [e.classes, *e.support, *e.query]  # noqa: E731
    assert all(np.array_equal(a, b) for a, b in zip(flat(first), flat(again), strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(flat(first), flat(other), strict=True))


@pytest.mark.parametrize("sizes", [np.full(10, 8), np.arange(8, 18)], ids=["equal", "unequal"])
def test_labels_classes_and_examples_are_even_at_every_place(sizes):
    episodes = Sampler(sizes, SPLITS, 2, 1, 2).sample(rng(), 8000, "train")
    # Five standard deviations of a share of 1/2 in 8,000 draws are 0.028, and of 1/4 they are 0.024.
    for part in episodes[1:]:
        for place in part.labels.T:
            np.testing.assert_allclose(np.bincount(place, minlength=2) / 8000, 0.5, atol=0.028)
    for label in episodes.classes.T:
        shares = np.bincount(label, minlength=10)[SPLITS["train"]] / 8000
        np.testing.assert_allclose(shares, 0.25, atol=0.024)
    agree = (episodes.support.labels == episodes.query.labels[:, :2]).mean(0)
    np.testing.assert_allclose(agree, 0.5, atol=0.028)  # support and query are shuffled apart
    for c in SPLITS["train"]:
        for part in episodes[1:]:
            numbers = part.numbers[part.classes == c]
            share = np.bincount(numbers, minlength=sizes[c]) / numbers.size
            np.testing.assert_allclose(share, 1 / sizes[c], atol=5 * np.sqrt(1 / sizes[c] / numbers.size))


def test_all_examples_of_a_class_can_be_used_up():
    episodes = Sampler([5, 5, 7], {"train": [0, 1, 2]}, 3, 2, 3).sample(rng(), 1, "train")
    for c in (0, 1):
        used = [n for part in episodes[1:] for n in part.numbers[part.classes == c].tolist()]
        assert sorted(used) == [0, 1, 2, 3, 4]


def test_classes_that_are_chosen_already_keep_their_labels():
    """As for the ten digits of one speaker: the label is the digit, and each task has a speaker of its own."""
    speakers, sizes = np.array([3, 0]), np.arange(4, 54)
    classes = 10 * speakers[:, None] + np.arange(10)
    episodes = draw(rng(), classes, sizes, 1, 3)
    np.testing.assert_array_equal(episodes.classes, classes)
    for part in episodes[1:]:
        np.testing.assert_array_equal(part.classes, 10 * speakers[:, None] + part.labels)
        assert (part.numbers < sizes[part.classes]).all()


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(ways=0), "ways=0; wanted an integer of at least 2"),
        (dict(shots=1.5), "shots=1.5; wanted an integer"),
        (dict(queries=None), "queries=None; wanted an integer"),
        (dict(ways=4), "ways=4; split 'val' has 3 classes"),
        (dict(shots=8, queries=5), "shots=8 [+] queries=5 is more than the 12 examples of cat 7"),
        (
            dict(splits={"train": [0, 1], "test": [2, 1]}),
            "cat 1 is in the splits 'train' and 'test'; wanted each class",
        ),
        (dict(splits={"train": [0, 1, 0]}), "cat 0 is in split 'train' twice; wanted each class once"),
        (dict(splits={"train": [0, 10]}), "split 'train' has class 10; wanted 0 … 9"),
        (dict(splits={"train": [0, -1]}), "split 'train' has class -1; wanted 0 … 9"),
    ],
)
def test_impossible_tasks_are_refused_with_their_numbers(changes, message):
    whole = dict(sizes=SIZES["equal"], splits=SPLITS, ways=2, shots=1, queries=1, name="cat {}".format)
    Sampler(**whole)
    with pytest.raises(ValueError, match=message):
        Sampler(**{**whole, **changes})


def test_an_unknown_split_and_no_tasks_are_refused():
    sampler = Sampler([5, 5, 5, 5], {"train": [0, 1], "dev": [2, 3]}, 2, 1, 1)
    with pytest.raises(ValueError, match="unknown split 'test'; wanted one of train, dev"):
        sampler.sample(rng(), 1, "test")
    with pytest.raises(ValueError, match="tasks=0; wanted at least 1"):
        sampler.sample(rng(), 0, "train")


@every
def test_a_class_keeps_its_label_in_training_alone_if_that_is_asked_for(sizes):
    both = [Sampler(sizes, SPLITS, 3, 2, 1, labels=labels) for labels in ("task", "class")]
    assert [sampler.outputs for sampler in both] == [3, 4]
    for split in SPLITS:
        task, kept = (sampler.sample(rng(5), 20, split) for sampler in both)
        for a, b in zip(task[1:], kept[1:], strict=True):
            np.testing.assert_array_equal(a.classes, b.classes)
            np.testing.assert_array_equal(a.numbers, b.numbers)
            wanted = np.array([SPLITS["train"].index(c) for c in b.classes.flat]) if split == "train" else a.labels.flat
            np.testing.assert_array_equal(b.labels.flat, wanted)
    with pytest.raises(ValueError, match="labels='classes'; wanted one of task, class"):
        Sampler(sizes, SPLITS, 3, 2, 1, labels="classes")
