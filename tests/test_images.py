"""Images: any layout of folders is read, bad files are named, and no class or image is where it must not be."""

import hashlib
import io
import unicodedata
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinymaml.families import images
from tinymaml.families.images import Content, ImageTasks, Settings, decoded, load, make, read, split

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("tqdm")

PARTS = ("train", "val", "test")


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path) -> Path:
    monkeypatch.setenv("TINYMAML_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def encoded(pixels, form: str = "PNG", **options) -> bytes:
    """An array or an image as the bytes of a file."""
    stream = io.BytesIO()
    (Image.fromarray(pixels) if isinstance(pixels, np.ndarray) else pixels).save(stream, form, **options)
    return stream.getvalue()


def plain(value: int, size: int = 8) -> bytes:
    """A PNG of one colour, by which it can be found again: (value, value // 2, 255 - value)."""
    return encoded(np.full((size, size, 3), (value, value // 2, 255 - value), np.uint8))


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def classes_of(path) -> dict[str, list[int]]:
    """{class: the red of its images}."""
    content = load(str(path), 8)
    reds = iter(content.images[:, 0, 0, 0].tolist())
    assert content.images.shape == (content.counts.sum(), 8, 8, 3) and content.images.dtype == np.uint8
    return {name: [next(reds) for _ in range(count)] for name, count in zip(content.names, content.counts, strict=True)}


ANIMALS = {"cat/1.png": plain(10), "cat/2.PNG": plain(20), "dog/1.png": plain(30), "Äffchen 猿/1.png": plain(40)}
SEEN = {"cat": [10, 20], "dog": [30], "Äffchen 猿": [40]}
STRANGERS = {
    ".DS_Store": b"", "README.txt": b"hello", "cat/Thumbs.db": b"", "__MACOSX/cat/._1.png": b"no image",
    "cat/._1.png": b"no image", ".git/x/1.png": b"no image", "labels.csv": b"",
}  # fmt: skip


# ── layouts ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("top", ["", "animals/", "data/animals/"])
@pytest.mark.parametrize("strangers", [{}, STRANGERS], ids=["alone", "among strangers"])
def test_a_folder_and_an_archive_are_read_alike_whatever_lies_above_and_beside(tmp_path, top, strangers):
    files = {f"{top}{name}": data for name, data in (ANIMALS | strangers).items()}
    assert classes_of(write(tmp_path / "folder", files)) == SEEN
    assert classes_of(write_zip(tmp_path / "x.zip", files)) == SEEN
    (tmp_path / "inside").mkdir()
    write_zip(tmp_path / "inside" / "x.zip", files)
    assert classes_of(tmp_path / "inside") == SEEN


def test_jpeg_is_read_by_any_of_its_endings(tmp_path):
    grey = [encoded(np.full((8, 8), value, np.uint8), "JPEG") for value in (7, 8, 9)]
    files = {"cat/a.jpg": grey[0], "cat/b.JPEG": grey[1], "cat/c.Jpg": grey[2], "dog/1.Png": plain(30)}
    assert classes_of(write(tmp_path / "x", files)) == {"cat": [7, 8, 9], "dog": [30]}


def test_names_of_an_archive_that_does_not_say_it_is_in_utf_8(tmp_path):
    path = write_zip(tmp_path / "x.zip", {"xxäxx/1.png": plain(10), "dog/1.png": plain(30)})
    data = bytearray(path.read_bytes())
    for start, place in ((b"PK\x03\x04", 7), (b"PK\x01\x02", 9)):  # the upper byte of the flags; 8 is UTF-8
        data[data.index(start) + place] &= ~8
    path.write_bytes(data)
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist()[0] == "xx├ñxx/1.png"
    assert classes_of(path) == {"xxäxx": [10], "dog": [30]}


def test_a_letter_and_its_accent_are_one_name_however_it_is_written(tmp_path):
    apart = unicodedata.normalize("NFD", "Äffchen 猿")
    assert apart != "Äffchen 猿"
    assert classes_of(write_zip(tmp_path / "x.zip", {f"{apart}/1.png": plain(40), "b/1.png": plain(1)})) == {
        "Äffchen 猿": [40], "b": [1],
    }  # fmt: skip


def test_what_a_classifier_calls_train_and_test_are_images_of_the_same_classes(tmp_path):
    files = {"train/cat/1.png": plain(10), "test/cat/1.png": plain(20), "val/dog/9.png": plain(30)}
    assert classes_of(write(tmp_path / "x", files)) == {"cat": [20, 10], "dog": [30]}
    above = {f"pets/{name}": data for name, data in files.items()}
    assert classes_of(write(tmp_path / "y", above)) == {"cat": [20, 10], "dog": [30]}
    named = {"train/1.png": plain(10), "cat/1.png": plain(20)}  # a class of trains
    assert classes_of(write(tmp_path / "z", named)) == {"cat": [20], "train": [10]}


def test_classes_may_lie_at_two_levels(tmp_path):
    files = {"Greek/alpha/1.png": plain(10), "Latin/alpha/1.png": plain(20)}
    assert classes_of(write(tmp_path / "x", files)) == {"Greek/alpha": [10], "Latin/alpha": [20]}


def tiny_imagenet(top: str = "tiny-imagenet-200/") -> dict[str, bytes]:
    files = {f"{top}train/n0{c}/images/n0{c}_{i}.JPEG": plain(10 * c + i) for c in (1, 2) for i in (1, 2)}
    files = {name: encoded(Image.open(io.BytesIO(data)), "JPEG", quality=100) for name, data in files.items()}
    red = encoded(np.full((8, 8, 3), (200, 0, 0), np.uint8), "JPEG", quality=100)
    return files | {
        f"{top}val/images/val_0.JPEG": red, f"{top}val/images/val_1.JPEG": red, f"{top}test/images/test_0.JPEG": red,
        f"{top}val/val_annotations.txt": b"val_0.JPEG\tn02\t0\t32\t44\t62\n", f"{top}wnids.txt": b"n01\nn02\n",
    }  # fmt: skip


def test_tiny_imagenet_is_read_by_its_own_layout(tmp_path):
    content = load(str(write(tmp_path / "x", tiny_imagenet())), 8)
    assert content.names == content.titles == ("n01", "n02")
    assert content.counts.tolist() == [2, 3]  # one of val has a class; the other, and that of test, have none
    np.testing.assert_allclose(content.images[:, 0, 0, 0], [11, 12, 21, 22, 200], atol=3)
    words = {"words.txt": b"n02\tgoldfish, Carassius auratus\nn09\tdog\n"}
    archive = write_zip(tmp_path / "x.zip", tiny_imagenet("") | words)
    content = load(str(archive), 8)
    assert content.names == ("n01", "n02") and content.titles == ("n01", "goldfish")
    assert ImageTasks(str(archive), size=8).name(4) == "goldfish"


def test_a_broken_table_of_tiny_imagenet_is_named_with_its_line(tmp_path):
    files = tiny_imagenet() | {"tiny-imagenet-200/val/val_annotations.txt": b"val_0.JPEG\tn02\nval_1.JPEG n01\n"}
    with pytest.raises(ValueError, match="val_annotations.txt, line 2: 'val_1.JPEG n01', wanted a name, a tab, and mo"):
        load(str(write(tmp_path / "x", files)), 8)


# ── pixels ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_transparent_is_white(tmp_path):
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[:2, :, 3] = 255
    for image in (Image.fromarray(pixels), Image.fromarray(pixels[..., 2:])):  # RGBA, LA: black, and below nothing
        found = decoded(encoded(image), 4, False, "x")
        np.testing.assert_array_equal(found, np.repeat([0, 255], 2)[:, None, None] * np.ones((4, 4, 3)))
    palette = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8), "P")
    palette.putpalette([255, 0, 0, 0, 0, 255])
    found = decoded(encoded(palette, transparency=1), 2, False, "x")
    assert found.tolist() == [[[255, 0, 0], [255, 255, 255]], [[255, 255, 255], [255, 0, 0]]]


@pytest.mark.parametrize("grey", [False, True])
def test_every_mode_gives_the_same_grey(grey):
    value = 100
    whole = np.full((6, 6), value, np.uint8)
    kinds = {
        "L": Image.fromarray(whole), "RGB": Image.fromarray(whole).convert("RGB"),
        "P": Image.fromarray(whole).convert("P"), "16 bits": Image.fromarray(whole.astype(np.uint16) * 257),
    }  # fmt: skip
    for kind, image in kinds.items():
        found = decoded(encoded(image), 6, grey, "x")
        assert found.shape == (6, 6, 1 if grey else 3) and (found == value).all(), kind
    cmyk = decoded(encoded(Image.fromarray(whole).convert("RGB").convert("CMYK"), "JPEG"), 6, grey, "x")
    assert np.abs(cmyk.astype(int) - value).max() <= 3
    bits = decoded(encoded(Image.fromarray(np.eye(6) > 0)), 6, grey, "x")
    np.testing.assert_array_equal(bits[..., 0], 255 * np.eye(6))


def test_the_middle_square_of_an_image_is_scaled_smoothly():
    pixels = np.zeros((8, 24, 3), np.uint8)
    pixels[:, 8:16] = np.linspace(0, 255, 8, dtype=np.uint8)[:, None, None]  # left and right of it all is black
    for form in ("PNG", "JPEG"):
        found = decoded(encoded(pixels, form), 4, False, "x").astype(int)
        np.testing.assert_allclose(found[:, 1:3, 0], np.array([18, 91, 164, 237])[:, None] * [1, 1], atol=12)
    high = decoded(encoded(pixels.swapaxes(0, 1)), 4, False, "x")
    np.testing.assert_array_equal(high, decoded(encoded(pixels), 4, False, "x").swapaxes(0, 1))


def test_a_camera_that_was_held_on_its_side_is_turned_upright():
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # the upper side of the scene is on the right of the file
    turned = decoded(encoded(np.rot90(pixels), "JPEG", exif=exif), 16, True, "x")[..., 0].astype(int)
    np.testing.assert_allclose(turned, pixels[..., 0], atol=3)


def test_a_large_jpeg_is_read_at_a_part_of_its_size_and_looks_the_same():
    waves = np.sin(np.arange(640) / 90)[:, None] * np.cos(np.arange(480) / 70)
    pixels = np.uint8(127 + 120 * waves)[..., None].repeat(3, 2)
    a, b = (decoded(encoded(pixels, form, **how), 32, False, "x").astype(int) for form, how in
            (("PNG", {}), ("JPEG", {"quality": 95})))  # fmt: skip
    assert np.abs(a - b).max() <= 4


def test_an_image_of_a_user_is_made_as_those_of_the_data_are(tmp_path):
    data = encoded(rng().integers(0, 256, (20, 30, 3)).astype(np.uint8))
    folder = write(tmp_path / "x", {"a/1.png": data, "b/1.png": plain(1)})
    for grey, channels in ((False, 3), (True, 1)):
        found = read(folder / "a" / "1.png", Settings(size=12, grey=grey))
        assert found.dtype == np.float32 and found.shape == (12, 12, channels)
        np.testing.assert_array_equal(found, load(str(folder), 12, grey).images[0] / np.float32(255))


# ── bad files ───────────────────────────────────────────────────────────────────────────────────────────────────────


def bomb() -> bytes:
    """A small file that says it has 10⁹ pixels."""
    data = bytearray(plain(0))
    data[16:24] = np.array([31623, 31623], ">u4").tobytes()
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    "data, message",
    [
        (b"hello", "it is something else, or damaged"),
        (b"", "it is something else, or damaged"),
        (encoded(rng().integers(0, 256, (40, 40, 3)).astype(np.uint8))[:900], ".*trunc"),
        (encoded(rng().integers(0, 256, (90, 90, 3)).astype(np.uint8), "JPEG")[:900], "image file is truncated"),
        (encoded(np.zeros((4, 4), np.uint8), "GIF"), "it is something else"),
        (bomb(), "it has 31623 × 31623 pixels, more than 50,000,000"),
        (encoded(np.zeros((7072, 7072), np.uint8)), "it has 7072 × 7072 pixels, more than 50,000,000"),
    ],
    ids=["text", "empty", "half a PNG", "half a JPEG", "GIF", "bomb", "large"],
)
def test_a_file_that_is_no_image_is_named_with_its_archive(tmp_path, data, message):
    files, message = ANIMALS | {"cat/3.png": data}, f"is not a readable PNG or JPEG: {message}"
    with pytest.raises(ValueError, match=f"x/cat/3.png {message}"):
        load(str(write(tmp_path / "x", files)), 8)
    with pytest.raises(ValueError, match=f"x.zip: cat/3.png {message}"):
        load(str(write_zip(tmp_path / "x.zip", files)), 8)
    with pytest.raises(ValueError, match=f"x/cat/3.png {message}"):
        read(tmp_path / "x" / "cat" / "3.png", Settings())


@pytest.mark.parametrize(
    "files, error, message",
    [
        ({"cat/README": b""}, FileNotFoundError, "no images at .*x: found cat/README; --data wants a folder or a .zip"),
        ({f"{i}.txt": b"" for i in range(9)}, FileNotFoundError, "found 0.txt, 1.txt, 2.txt, 3.txt, 4.txt, …; --data"),
        ({"1.png": plain(1)}, ValueError, "x/1.png is an image in no class folder; --data wants a folder"),
        ({"1.png": plain(1), "cat/1.png": plain(1)}, ValueError, "x/1.png is an image in no class folder"),
    ],
)
def test_a_folder_without_classes_is_named_with_what_is_there(tmp_path, files, error, message):
    with pytest.raises(error, match=message):
        load(str(write(tmp_path / "x", files)), 8)


def test_nothing_and_an_empty_folder_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no data at .*nowhere: no such file or folder; --data wants a folder"):
        load(str(tmp_path / "nowhere"), 8)
    (tmp_path / "x").mkdir()
    with pytest.raises(FileNotFoundError, match="x: the folder is empty; --data wants"):
        load(str(tmp_path / "x"), 8)
    with pytest.raises(ValueError, match="images needs its data: --data PATH; --data wants a folder or a .zip"):
        make(Settings())


def many(classes: int, each: int = 4) -> dict[str, bytes]:
    return {f"c{c:02d}/{i}.png": plain(9 * c + i, 4) for c in range(classes) for i in range(each)}


def test_a_class_with_too_few_images_is_named_with_what_can_be_done(tmp_path):
    files = many(20)
    for name in ("c03/3.png", "c11/3.png", "c11/2.png"):
        del files[name]
    folder = str(write(tmp_path / "x", files))
    asked = dict(ways=2, shots=1, queries=3, size=4)
    message = r"x: shots=1 \+ queries=3 images are more than the 3 of class c03; 2 of 20 classes have too few: lower"
    with pytest.raises(ValueError, match=message):
        ImageTasks(folder, **asked).sample(rng(), 1, "train")
    ImageTasks(folder, **asked, drop="c11, c03").sample(rng(), 1, "train")
    with pytest.raises(ValueError, match="x has no class 'c3' to drop; it has c00, c01, c02, c03, c04, …"):
        ImageTasks(folder, **asked, drop="c11,c3").sample(rng(), 1, "train")


def test_too_few_classes_are_counted(tmp_path):
    tasks = ImageTasks(str(write(tmp_path / "x", many(20))), ways=4, shots=1, queries=1, size=4)
    with pytest.raises(ValueError, match="x: ways=4, and of its 20 classes there are 13 of train, 3 of val, 4 of test"):
        tasks.sample(rng(), 1, "test")
    for bad in (dict(ways=1), dict(shots=0), dict(queries=1.5), dict(size=0)):
        with pytest.raises(ValueError, match="wanted an integer of at least"):
            ImageTasks("somewhere", **bad)


# ── leaks ───────────────────────────────────────────────────────────────────────────────────────────────────────────

NAMES = tuple(f"class {c:02d}" for c in range(50))


def tagged(counts=None) -> Content:
    """50 classes; red of an image is its class, green its number, and blue its upper left corner."""
    counts = np.arange(5, 55) if counts is None else counts
    pixels = np.zeros((counts.sum(), 4, 4, 3), np.uint8)
    pixels[..., 0] = np.repeat(np.arange(50), counts)[:, None, None]
    pixels[..., 1] = np.concatenate([np.arange(count) for count in counts])[:, None, None]
    pixels[:, 0, 0, 2] = 255
    return Content(pixels, counts, NAMES, NAMES)


def tasks_of(content=None, **options) -> ImageTasks:
    tasks = ImageTasks("somewhere", **{**dict(ways=3, shots=2, queries=3, size=4), **options})
    tasks.__dict__["content"] = tagged() if content is None else content
    return tasks


def untagged(x) -> np.ndarray:
    """(class, number, turns) of each image (…, 4, 4, 3)."""
    x = np.rint(np.asarray(x, float) * 255).astype(int)
    corners = np.stack([x[..., 0, 0, 2], x[..., 3, 0, 2], x[..., 3, 3, 2], x[..., 0, 3, 2]], -1)
    return np.stack([x[..., 0, 0, 0], x[..., 0, 0, 1], corners.argmax(-1)], -1)


def test_splits_are_disjoint_and_complete_and_hang_on_names_alone():
    parts = split(NAMES)
    assert {part: len(classes) for part, classes in parts.items()} == {"train": 32, "val": 8, "test": 10}
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(50))
    digests = sorted(NAMES, key=lambda name: hashlib.sha256(f"0:{name}".encode()).digest())
    assert [NAMES[c] for part in PARTS for c in parts[part]] == digests
    mixed = [NAMES[c] for c in rng().permutation(50)]
    for part, classes in split(mixed).items():
        assert [mixed[c] for c in classes] == [NAMES[c] for c in parts[part]]
    assert split(NAMES, 1)["test"].tolist() != parts["test"].tolist()
    assert set(split(["ä", "猿", "\udc80"])) == set(PARTS)


@given(seed=st.integers(0, 2**32), part=st.sampled_from(PARTS), rotations=st.booleans())
def test_a_task_has_classes_of_its_split_and_no_image_twice(seed, part, rotations):
    tasks = tasks_of(rotations=rotations)
    (xs, ys), (xq, yq) = tasks.sample(rng(seed), 4, part)
    assert xs.shape == (4, 6, 4, 4, 3) and xq.shape == (4, 9, 4, 4, 3) and ys.shape == (4, 6) and yq.shape == (4, 9)
    for s, q, labels_s, labels_q in zip(untagged(xs), untagged(xq), ys, yq, strict=True):
        both, labels = np.concatenate([s, q]), np.concatenate([labels_s, labels_q])
        assert set(both[:, 0].tolist()) <= set(split(NAMES)[part].tolist())
        assert len({tuple(image) for image in both.tolist()}) == 15
        classes = {(label, c, turn) for label, (c, _, turn) in zip(labels.tolist(), both.tolist(), strict=True)}
        assert len(classes) == len({label for label, *_ in classes}) == 3
        assert rotations and part == "train" or not both[:, 2].any()


def test_every_turn_comes_up_in_training():
    seen = untagged(tasks_of(rotations=True).sample(rng(), 60, "train")[0][0])
    assert set(seen[..., 2].ravel().tolist()) == {0, 1, 2, 3}
    tasks = tasks_of(rotations=True)
    assert (tasks.name(4 * 7), tasks.name(4 * 7 + 2)) == ("class 07", "class 07 turned by 180°")


def test_a_class_in_two_splits_is_caught(monkeypatch):
    leaking = {part: np.append(classes, 7) for part, classes in split(NAMES).items()}
    monkeypatch.setattr(images, "split", lambda names: leaking)
    with pytest.raises(ValueError, match="class 07 is in"):
        tasks_of().sample(rng(), 1, "train")


def test_what_training_sees_does_not_hang_on_the_images_of_the_other_splits():
    """As it would if images were normalised by a mean over all."""
    content = tagged()
    held = np.isin(np.repeat(np.arange(50), content.counts), split(NAMES)["train"], invert=True)
    other = content._replace(images=np.where(held[:, None, None, None], 255 - content.images, content.images))
    for part, same in zip(PARTS, (True, False, False), strict=True):
        a, b = (tasks_of(c).sample(rng(3), 9, part)[0][0] for c in (content, other))
        assert np.array_equal(a, b) == same
        np.testing.assert_array_equal(a, (np.rint(a * 255) / np.float32(255)).astype(np.float32))


def test_classes_that_share_a_file_are_one_and_a_file_counts_once(tmp_path):
    files = {
        "ant/1.png": plain(10), "ant/2.png": plain(20), "bee/1.png": plain(30), "bee/2.png": plain(31),
        "cow/1.png": plain(40), "cow/2.png": plain(30), "cow/copy of 2.png": plain(30),  # a cow that is a bee
        "dog/1.png": plain(50), "dog/2.png": plain(60), "dog/3.png": plain(50),
        "emmet/1.png": plain(70), "emmet/2.png": plain(20), "formica/1.png": plain(70), "formica/2.png": plain(80),
    }  # fmt: skip
    joined = "3 of 6 classes share a file with another class, and are joined to it: cow, emmet, formica"
    with pytest.warns(UserWarning, match=f"x: {joined}"):
        found = classes_of(write(tmp_path / "x", files))
    assert found == {"ant": [10, 20, 70, 80], "bee": [30, 31, 40], "dog": [50, 60]}
    late = {"a/1.png": plain(1), "b/1.png": plain(2), "c/1.png": plain(1), "c/2.png": plain(2)}  # b joins a by c
    with pytest.warns(UserWarning, match="2 of 3 classes"):
        assert classes_of(write(tmp_path / "y", late)) == {"a": [1, 2]}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_images_have_the_dtype_asked_for_and_255_is_one(dtype):
    (xs, ys), _ = tasks_of(dtype=dtype).sample(rng(), 3, "val")
    assert xs.dtype == dtype and ys.dtype == np.int64 and xs.min() == 0 and xs.max() == 1


def test_sampling_changes_no_image():
    content = tagged()
    tasks_of(content, rotations=True).sample(rng(), 30, "train")
    np.testing.assert_array_equal(content.images, tagged().images)


def test_training_may_have_more_shots_and_then_has_the_queries_that_are_left():
    for train_shots, queries in ((0, 3), (2, 3), (3, 2), (4, 1)):
        tasks = tasks_of(tagged(np.full(50, 5)), shots=2, train_shots=train_shots)
        for part, shape in (("train", (train_shots or 2, queries)), ("test", (2, 3))):
            (xs, ys), (xq, yq) = tasks.sample(rng(), 4, part)
            assert (ys.shape[1], yq.shape[1]) == (3 * shape[0], 3 * shape[1])
            assert not {tuple(i) for i in untagged(xs[0]).tolist()} & {tuple(i) for i in untagged(xq[0]).tolist()}
    with pytest.raises(ValueError, match=r"shots=5 \+ queries=1 is more than the 5 examples of class"):
        tasks_of(tagged(np.full(50, 5)), shots=2, train_shots=5).sample(rng(), 1, "train")


@pytest.mark.parametrize("rotations, classes", [(False, 32), (True, 128)])
def test_a_training_class_keeps_its_label_for_pretraining(rotations, classes):
    tasks = tasks_of(labels="class", rotations=rotations)
    assert tasks.outputs == classes and tasks_of().outputs == 3
    (xs, ys), (xq, yq) = tasks.sample(rng(), 200, "train")
    label_of = {}
    for x, y in ((xs, ys), (xq, yq)):
        for (c, _, turn), label in zip(untagged(x).reshape(-1, 3).tolist(), y.ravel().tolist(), strict=True):
            assert label_of.setdefault((c, turn), label) == label
    assert len(set(label_of.values())) == len(label_of) and set(label_of.values()) <= set(range(classes))
    assert set(tasks.sample(rng(), 20, "test")[1][1].ravel().tolist()) == {0, 1, 2}


# ── the baseline ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_baseline_is_the_nearest_mean():
    noise = rng(2).integers(0, 256, (tagged().counts.sum(), 4, 4, 3)).astype(np.uint8)
    tasks = tasks_of(tagged()._replace(images=noise))
    (predict,) = tasks.baselines().values()
    (xs, ys), (xq, yq) = (tuple(a[0] for a in part) for part in tasks.sample(rng(), 1, "test"))
    logits = predict(xs, ys, xq)
    assert logits.shape == (9, 3)
    for image, found in zip(xq, logits, strict=True):
        wanted = [-sum((image - xs[ys == k].mean(0)).ravel().astype(float) ** 2) for k in range(3)]
        np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert tasks.loss(logits, yq)[1] == np.mean(logits.argmax(1) == yq)


# ── the cache ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_images_are_read_once_for_each_size_and_dropped_classes_need_no_reading(tmp_path, monkeypatch):
    folder, seen = write(tmp_path / "x", many(6)), []
    inner = images.decoded
    monkeypatch.setattr(images, "decoded", lambda *args: seen.append(args[-1]) or inner(*args))
    first = load(str(folder), 4)
    assert len(seen) == 24
    again = load(str(folder), 4)
    np.testing.assert_array_equal(first.images, again.images)
    assert first[2:] == again[2:] and first.counts.tolist() == again.counts.tolist()
    fewer = load(str(folder), 4, drop=["c01"])
    assert len(seen) == 24 and "c01" not in fewer.names and len(fewer.images) == 20
    np.testing.assert_array_equal(fewer.images, np.delete(first.images, range(4, 8), 0))
    load(str(folder), 5), load(str(folder), 4, grey=True)
    assert len(seen) == 72
    (folder / "c00" / "9.png").write_bytes(plain(7))
    assert load(str(folder), 4).counts.tolist() == [5, 4, 4, 4, 4, 4] and len(seen) == 97


# ── real data ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def real(data_dir):
    def path(name: str) -> str:
        if not (data_dir / name).exists():
            pytest.skip(f"no {name} in {data_dir}")
        return str(data_dir / name)

    return path


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*classes share a file with another")
def test_emoji32_has_1142_classes_and_its_pixels_tell_61_per_cent(real):
    tasks = ImageTasks(real("emoji32"))
    names, counts = tasks.content.names, tasks.content.counts
    assert len(names) == 1251 - 109 and "wolf" in names and "wolf-face" not in names and counts.min() == 5
    assert len(np.unique(tasks.content.images.reshape(-1, 32 * 32 * 3), axis=0)) == len(tasks.content.images)
    assert abs(baseline_of(tasks) - 0.61) < 0.05  # ± 2.5 % of 200 tasks


@pytest.mark.slow
def test_caltech101_has_101_classes_and_its_pixels_tell_37_per_cent(real):
    tasks = ImageTasks(real("caltech101"), drop="Faces_easy", size=21)
    assert len(tasks.content.names) == 100 and len(tasks.content.images) == 8677 - 435
    assert abs(baseline_of(tasks) - 0.39) < 0.05


def baseline_of(tasks: ImageTasks) -> float:
    (predict,) = tasks.baselines().values()
    (xs, ys), (xq, yq) = tasks.sample(rng(), 200, "test")
    return float(np.mean([tasks.loss(predict(*task[:3]), task[3])[1] for task in zip(xs, ys, xq, yq, strict=True)]))
