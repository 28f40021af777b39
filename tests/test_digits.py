"""Digits: files are read as they lie, nothing of test is seen in training, and bad files say what is wrong."""

import gzip
import zipfile

import numpy as np
import pytest
from small_data import idx

from tinymaml.families import digits
from tinymaml.families.digits import HELD_OUT, SCHEMES, DigitTasks

pytestmark = pytest.mark.usefixtures("quick_code")

TRAIN, TEST = 120, 50  # images, numbered in their first pixels: training from 0 on, test from TRAIN on


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def numbered(first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Images whose first two pixels tell their number, and whose third tells the label, and the labels."""
    number = np.arange(first, first + count)
    labels = (number * 7 % 10).astype(np.uint8)  # in another order than 0, 1, 2, …
    images = np.zeros((count, 28, 28), np.uint8)
    images[:, 0, 0], images[:, 0, 1], images[:, 0, 2] = number // 250, number % 250, labels
    return images, labels


def content() -> dict[str, bytes]:
    """The four files."""
    files = {}
    for part, (images, labels) in {"train": numbered(0, TRAIN), "t10k": numbered(TRAIN, TEST)}.items():
        files |= {f"{part}-images-idx3-ubyte": idx(images), f"{part}-labels-idx1-ubyte": idx(labels)}
    return files


@pytest.fixture
def folder(tmp_path):
    for name, data in content().items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


def numbers(x: np.ndarray) -> np.ndarray:
    """The numbers of images."""
    pixels = np.rint(255 * x[..., 0, :3, 0]).astype(int)
    return 250 * pixels[..., 0] + pixels[..., 1]


def truth(x: np.ndarray) -> np.ndarray:
    """The digits that images are of."""
    return np.rint(255 * x[..., 0, 2, 0]).astype(int)


# ── tasks ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("scheme, ways", [("permuted", 10), ("permuted", 5), ("held-out", 2)])
@pytest.mark.parametrize("split", HELD_OUT)
def test_a_task_has_its_shapes_and_a_label_per_digit(folder, scheme, ways, split):
    tasks = DigitTasks(folder, ways=ways, shots=1, queries=1, digits=scheme)
    (xs, ys), (xq, yq) = tasks.sample(rng(), 30, split)
    assert xs.shape == xq.shape == (30, ways, 28, 28, 1) and xs.dtype == np.float32 and ys.dtype == np.int64
    assert tasks.outputs == ways and tasks.input_shape == (28, 28, 1) and 0 <= xs.min() < xs.max() <= 1
    labels = []
    for t in range(30):
        of_digit = dict(zip(truth(xs[t]).tolist(), ys[t].tolist(), strict=True))
        assert sorted(of_digit.values()) == list(range(ways))
        assert of_digit == dict(zip(truth(xq[t]).tolist(), yq[t].tolist(), strict=True))
        labels.append(tuple(sorted(of_digit.items())))
    assert len(set(labels)) > 1  # they are drawn for each task


def test_every_digit_has_every_label_equally_often(folder):
    tasks = DigitTasks(folder, ways=10, queries=1)
    (xs, ys), _ = tasks.sample(rng(), 2000, "train")
    counts = np.zeros((10, 10))
    np.add.at(counts, (truth(xs), ys), 1)
    np.testing.assert_allclose(counts / 2000, 0.1, atol=5 * np.sqrt(0.09 / 2000))


def test_a_network_is_pretrained_on_labels_of_classes(folder):
    for scheme, ways, wanted in (("permuted", 5, 10), ("held-out", 2, 6)):
        tasks = DigitTasks(folder, ways=ways, queries=1, digits=scheme, labels="class")
        assert tasks.outputs == wanted
        for x, y in tasks.sample(rng(), 20, "train"):
            np.testing.assert_array_equal(truth(x), y)
        for _, y in tasks.sample(rng(), 20, "test"):
            assert set(y.ravel().tolist()) == set(range(ways))


def test_training_can_have_more_shots_than_its_tests(folder):
    plain, more = (DigitTasks(folder, ways=5, queries=1, train_shots=n) for n in (0, 4))
    (xs, ys), (xq, _) = more.sample(rng(), 20, "train")
    assert xs.shape[:2] == (20, 20) and xq.shape[:2] == (20, 5)
    assert all((np.bincount(labels) == 4).all() for labels in ys)
    assert plain.sample(rng(), 20, "train")[0][1].shape == (20, 5)
    for split in ("val", "test"):
        for (x, i), (y, j) in zip(plain.sample(rng(), 3, split), more.sample(rng(), 3, split), strict=True):
            np.testing.assert_array_equal(x, y)
            np.testing.assert_array_equal(i, j)
    with pytest.raises(ValueError, match="shots=10 [+] queries=1 is more than the 10 examples of class 0"):
        DigitTasks(folder, queries=1, train_shots=10).sample(rng(), 1, "train")


def test_ink_is_one_and_pixels_are_those_of_the_files(folder):
    images = np.concatenate([numbered(0, TRAIN)[0], numbered(TRAIN, TEST)[0]])
    for dtype in (np.float32, np.float64):
        (x, _), _ = DigitTasks(folder, queries=1, dtype=dtype).sample(rng(), 3, "test")
        np.testing.assert_array_equal(x[..., 0], images[numbers(x)] / dtype(255))


# ── leaks ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def leaks(tasks: DigitTasks) -> list[str]:
    """What of one split is seen in another one, or of a task's support in its queries."""
    seen, found = {}, []
    for split in HELD_OUT:
        (xs, _), (xq, _) = tasks.sample(rng(), 300, split)
        both = np.concatenate([xs, xq], 1)
        if any(len(set(task.tolist())) < task.size for task in numbers(both)):
            found.append(f"an image is twice in a task of {split}")
        for other, (images, its_digits) in seen.items():
            if images & set(numbers(both).ravel().tolist()):
                found.append(f"images of {other} are in {split}")
            if tasks.digits == "held-out" and its_digits & set(truth(both).ravel().tolist()):
                found.append(f"digits of {other} are in {split}")
        seen[split] = set(numbers(both).ravel().tolist()), set(truth(both).ravel().tolist())
    return found


@pytest.mark.parametrize("scheme, ways", [("permuted", 10), ("held-out", 2)])
def test_nothing_leaks(folder, scheme, ways):
    tasks = DigitTasks(folder, ways=ways, queries=1 if scheme == "permuted" else 4, digits=scheme)
    assert leaks(tasks) == []


def test_training_and_validation_are_of_the_one_file_and_test_is_of_the_other(folder):
    tasks = DigitTasks(folder, queries=1)
    for split in HELD_OUT:
        (xs, _), (xq, _) = tasks.sample(rng(), 300, split)
        images = numbers(np.concatenate([xs, xq], 1))
        assert (images.min() >= TRAIN) if split == "test" else (images.max() < TRAIN)
    assert [len(tasks.members[c]) for c in (0, 10, 20)] == [10, 2, 5]


def test_digits_that_are_held_out_are_these(folder):
    tasks = DigitTasks(folder, ways=2, queries=4, digits="held-out")
    for split, wanted in {"train": {0, 1, 2, 3, 4, 5}, "val": {6, 7}, "test": {8, 9}}.items():
        (xs, _), _ = tasks.sample(rng(), 100, split)
        assert set(truth(xs).ravel().tolist()) == wanted


def test_a_planted_leak_is_found(folder, monkeypatch):
    def with_test_images_in_training(path, scheme):
        images, members = load(path, scheme)
        return images, [*members[20:30], *members[10:30]]

    load = digits.load
    monkeypatch.setattr(digits, "load", with_test_images_in_training)
    assert leaks(DigitTasks(folder, queries=1)) == ["images of train are in test"]

    monkeypatch.setattr(digits, "load", load)
    monkeypatch.setattr(digits, "HELD_OUT", {"train": range(6), "val": range(6, 8), "test": range(8, 10)})
    tasks = DigitTasks(folder, ways=2, queries=4, digits="held-out")
    tasks.sampler.splits["test"] = np.array([5, 8])
    assert "digits of train are in test" in leaks(tasks)

    tasks = DigitTasks(folder, queries=1)
    draw = tasks.training.sample
    monkeypatch.setattr(tasks.training, "sample", lambda *args: (e := draw(*args))._replace(query=e.support))
    assert leaks(tasks)[0] == "an image is twice in a task of train"


# ── files ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def same(a: DigitTasks, b: DigitTasks) -> bool:
    return all(
        np.array_equal(x, y) and np.array_equal(i, j)
        for (x, i), (y, j) in zip(a.sample(rng(), 3, "test"), b.sample(rng(), 3, "test"), strict=True)
    )


@pytest.mark.parametrize("spelled", ["{}", "{}.gz", "raw/{}", "dots", "archive", "archive.gz"])
def test_files_are_known_by_any_of_their_names(folder, tmp_path_factory, spelled):
    place = tmp_path_factory.mktemp("other")
    if spelled.startswith("archive"):
        place = place / "mnist.zip"
        with zipfile.ZipFile(place, "w") as archive:
            for name, data in content().items():
                packed = spelled.endswith(".gz")
                archive.writestr(f"mnist/{name}{'.gz' * packed}", gzip.compress(data) if packed else data)
    else:
        for name, data in content().items():
            name = name.replace("-idx", ".idx") if spelled == "dots" else spelled.format(name)
            (place / name).parent.mkdir(exist_ok=True)
            (place / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    assert same(DigitTasks(place, queries=1), DigitTasks(folder, queries=1))


def change(folder, name: str, data) -> None:
    file = folder / name
    file.write_bytes(data(file.read_bytes()) if callable(data) else data)


IMAGES, LABELS = "train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


@pytest.mark.parametrize(
    "name, data, message",
    [
        (IMAGES, b"", "is no IDX file of bytes in 3 dimensions: it is empty, wanted 00 00 08 03"),
        (IMAGES, b"\x89PNG....", "is no IDX file of bytes in 3 dimensions: it begins with 89 50 4e 47"),
        (IMAGES, lambda x: bytes([0, 0, 13, 3]) + x[4:], "it begins with 00 00 0d 03, wanted 00 00 08 03"),  # floats
        (IMAGES, content()["train-labels-idx1-ubyte"], "it begins with 00 00 08 01, wanted 00 00 08 03"),
        (LABELS, content()["t10k-images-idx3-ubyte"], "it begins with 00 00 08 03, wanted 00 00 08 01"),
        (IMAGES, lambda x: x[:-1], r"has 94079 bytes after its head, wanted 120 × 28 × 28: it is damaged"),
        (IMAGES, lambda x: x + b"\0", "has 94081 bytes after its head, wanted 120 × 28 × 28"),
        (IMAGES, lambda x: x[:6], "has .* bytes after its head, wanted"),
        (IMAGES, lambda x: x[:4] + b"\xff" * 12 + x[16:], "has 94080 bytes after its head, wanted 4294967295 ×"),
        (IMAGES, lambda x: gzip.compress(x)[:-9], "is not a complete gzip file"),
        (IMAGES, lambda x: gzip.compress(x)[:9] + b"nonsense", "is not a complete gzip file"),
        (IMAGES, idx(np.zeros((TRAIN, 32, 32), np.uint8)), "images of 32 × 32, wanted 28 × 28"),
        (LABELS, idx(np.zeros(TEST - 1, np.uint8)), "49 labels, but 50 images in t10k-images-idx3-ubyte"),
        (LABELS, lambda x: x[:-1] + b"\x0a", "the label 10, wanted 0 … 9"),
    ],
)  # fmt: skip
def test_a_bad_file_is_named_with_what_was_seen_and_wanted(folder, name, data, message):
    change(folder, name, data)
    with pytest.raises(ValueError, match=message) as caught:
        DigitTasks(folder).sample(rng(), 1, "train")
    assert str(caught.value).startswith(str(folder / name)) and "\n" not in str(caught.value)


def test_a_missing_file_is_named_with_what_is_there(folder):
    (folder / LABELS).unlink()
    with pytest.raises(FileNotFoundError, match=f"no file {LABELS}, or the same with .gz; found t10k-images"):
        DigitTasks(folder).sample(rng(), 1, "train")
    with pytest.raises(FileNotFoundError, match="no such file or folder; `tinymaml data mnist --to DIR`"):
        DigitTasks(folder / "nowhere").sample(rng(), 1, "train")


def test_two_data_sets_in_one_folder_are_not_mixed(folder):
    (folder / "fashion").mkdir()
    (folder / "fashion" / IMAGES).write_bytes(content()[IMAGES])
    with pytest.raises(ValueError, match=f"found fashion/{IMAGES} and train-.*; wanted one data set"):
        DigitTasks(folder).sample(rng(), 1, "train")


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(ways=0), "ways=0; wanted an integer of at least 2"),
        (dict(ways=11), "ways=11; split 'train' has 10 classes"),
        (dict(ways=3, digits="held-out"), "ways=3; of digits that are held out there are 2 in validation and test"),
        (dict(digits="thirds"), "digits='thirds'; wanted one of permuted, held-out"),
        (dict(queries=5), "shots=1 [+] queries=5 is more than the 2 examples of class 0"),
        (dict(labels="digit"), "labels='digit'; wanted one of task, class"),
        (dict(dtype=np.int64), "dtype=int64; wanted a floating type"),
    ],
)
def test_impossible_tasks_are_refused_with_their_numbers(folder, options, message):
    with pytest.raises(ValueError, match=message):
        DigitTasks(folder, **{"queries": 1, **options}).sample(rng(), 1, "train")


# ── the baseline, and the picture ───────────────────────────────────────────────────────────────────────────────────


def test_the_baseline_is_the_nearest_mean_of_pixels(folder):
    (label, predict), *more = DigitTasks(folder, ways=4).baselines().items()
    assert label == "centroids of pixels" and not more
    xs, xq = rng(1).random((12, 28, 28, 1)), rng(2).random((9, 28, 28, 1))
    ys = rng(3).permutation(np.repeat(np.arange(4), 3))
    distance = [[sum((q - np.mean([x for x, y in zip(xs, ys, strict=True) if y == k], 0)).ravel() ** 2)
                 for k in range(4)] for q in xq]  # fmt: skip
    np.testing.assert_allclose(predict(xs, ys, xq), -np.array(distance))


def test_the_picture_has_both_accuracies_over_many_tasks(small_data, tmp_path):
    for library in ("matplotlib", "safetensors", "filelock", "tqdm"):
        pytest.importorskip(library)
    from tinymaml.pictures import figures
    from tinymaml.runs.compare import compare
    from tinymaml.runs.loop import restore, train
    from tinymaml.runs.settings import Config

    options = dict(network="linear", iterations=4, tasks=2, save_every=4, validate_every=4, validation_tasks=4)
    train(Config.default("digits", **{**small_data("digits"), **options}), tmp_path / "run", progress=False)
    figure = next(figure for name, figure in figures(restore(tmp_path / "run"), []) if name == "tasks")
    words = " ".join(text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")))
    trained, scratch = (line["mean"][-1] for line in compare([tmp_path / "run"], tasks=200, scratch=True)["lines"])
    assert f"200 test tasks: {100 * trained:.1f} ± " in words and f" by maml, {100 * scratch:.1f} ± " in words
    assert "queries: learned from scratch" in words and "queries: maml, after 10 steps" in words


# ── the real files ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_mnist_has_70_000_digits_and_centroids_of_five_tell_three_of_four(data_dir):
    if not (data_dir / "mnist").is_dir():
        pytest.skip(f"no MNIST in {data_dir}")
    tasks = DigitTasks(data_dir / "mnist", ways=5, shots=5)
    assert tasks.images.shape == (70_000, 28, 28)
    assert [sum(map(len, tasks.members[10 * i : 10 * i + 10])) for i in range(3)] == [53_994, 6_006, 10_000]
    predict = tasks.baselines()["centroids of pixels"]
    right = []
    for seed in range(20):
        (xs, ys), (xq, yq) = tasks.sample(rng(seed), 10, "test")
        right += [np.mean(predict(*task).argmax(1) == y) for *task, y in zip(xs, ys, xq, yq, strict=True)]
    # 200 tasks of 25 queries: the mean is known to ± 0.02
    assert 0.72 < np.mean(right) < 0.81
    assert {len(DigitTasks(data_dir / "mnist", ways=2, digits=scheme).members) for scheme in SCHEMES} == {10, 30}
