"""Omniglot: what is read is what was drawn, splits hang on names alone, and a task gives nothing away."""

import hashlib
import io
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinymaml.families import omniglot
from tinymaml.families.omniglot import Characters, OmniglotTasks, load, split

Image = pytest.importorskip("PIL.Image")
ImageDraw = pytest.importorskip("PIL.ImageDraw")
pytest.importorskip("tqdm")

NAMES = {
    "images_background": ("Beta/character01", "Beta/character02", "Alpha/character01"),
    "images_evaluation": ("Gamma/character01", "Aleph/character02"),
}


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path) -> Path:
    monkeypatch.setenv("TINYMAML_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def png(character: int, drawing: int, size=(105, 105)) -> bytes:
    """A 1-bit drawing: a black bar whose place tells the character and whose length tells the drawing."""
    image = Image.new("1", size, 1)
    top = 8 + 16 * character
    ImageDraw.Draw(image).rectangle([8, top, 23 + 4 * drawing, top + 7], fill=0)
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def members(name: str) -> dict[str, bytes]:
    return {
        f"{name}/{character}/{index:04d}_{drawing + 1:02d}.png": png(index, drawing)
        for index, character in enumerate(NAMES[name])
        for drawing in range(20)
    }


def write_zip(folder: Path, name: str, content: dict[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
        for member, data in content.items():
            archive.writestr(member, data)
    return folder / f"{name}.zip"


@pytest.fixture
def source(tmp_path) -> Path:
    for name in NAMES:
        write_zip(tmp_path / "data", name, members(name))
    return tmp_path / "data"


def same(a: Characters, b: Characters) -> bool:
    return a.names == b.names and np.array_equal(a.images, b.images) and np.array_equal(a.background, b.background)


# Reading


def test_names_are_sorted_and_know_their_set(source):
    characters = load(source)
    assert characters.names == tuple(sorted(NAMES["images_background"] + NAMES["images_evaluation"]))
    from_background = {n for n, b in zip(characters.names, characters.background, strict=True) if b}
    assert from_background == set(NAMES["images_background"])
    assert characters.images.dtype == np.uint8 and characters.images.shape == (5, 20, 28, 28)


def test_every_drawing_is_in_its_place_with_ink_high(source):
    characters = load(source)
    for name in NAMES:
        for index, character in enumerate(NAMES[name]):
            images = characters.images[characters.names.index(character)].astype(float)
            rows, columns = images.sum(2), images.sum(1)
            # The middle of the bar, in the coordinates of 28 x 28: (12 + 16 index) * 28 / 105.
            np.testing.assert_array_equal(rows.argmax(1), int((12 + 16 * index) * 28 / 105))
            # Its length grows by four pixels a drawing.
            lengths = columns.sum(1) / columns.max(1)
            np.testing.assert_allclose(np.diff(lengths), 4 * 28 / 105, atol=0.25)
            assert images.max() == 255 and np.median(images) == 0


def test_resizing_keeps_the_grey_of_edges(source):
    images = load(source).images
    edges = np.count_nonzero((images > 0) & (images < 255))
    assert edges > images.size // 200  # resizing in mode "1" leaves none


def test_zip_folder_and_either_alone_read_the_same(source, tmp_path):
    whole = load(source)
    extracted = tmp_path / "extracted"
    for name in NAMES:
        with zipfile.ZipFile(source / f"{name}.zip") as archive:
            archive.extractall(extracted)
    (extracted / "images_background" / ".DS_Store").write_bytes(b"")
    (extracted / "images_background" / "Beta" / "character01" / "._0000_01.png").write_bytes(b"")
    assert same(load(extracted), whole)

    background = load(source / "images_background.zip")
    assert background.names == tuple(sorted(NAMES["images_background"])) and background.background.all()
    assert same(load(extracted / "images_background"), background)
    evaluation = load(extracted / "images_evaluation")
    assert evaluation.names == tuple(sorted(NAMES["images_evaluation"])) and not evaluation.background.any()


def test_the_order_of_members_does_not_matter(source, tmp_path):
    other = tmp_path / "reversed"
    for name in NAMES:
        write_zip(other, name, dict(reversed(members(name).items())))
    assert same(load(other), load(source))


# Errors of reading: one line that names the culprit


def test_a_missing_path_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such file.*tinymaml data omniglot --to DIR"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize("inside, seen", [([], "nothing"), (["cats.zip", "dogs"], "cats.zip, dogs")])
def test_a_folder_without_archives_lists_what_it_holds(tmp_path, inside, seen):
    (tmp_path / "data").mkdir()
    for name in inside:
        (tmp_path / "data" / name).touch()
    wanted = r"images_background\.zip and/or images_evaluation\.zip"
    with pytest.raises(FileNotFoundError, match=f"found {seen}; wanted {wanted}.*tinymaml data omniglot"):
        load(tmp_path / "data")


@pytest.mark.parametrize("keep", [0, 10, -30])
def test_a_truncated_archive_is_named(source, keep):
    archive = source / "images_background.zip"
    archive.write_bytes(archive.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"images_background\.zip is not a complete zip archive"):
        load(source)


def test_an_archive_of_something_else_is_named(tmp_path):
    archive = write_zip(tmp_path / "data", "images_background", {"images_evaluation/A/character01/1.png": b""})
    with pytest.raises(ValueError, match=r"wanted images_background/.*found images_evaluation/A/character01"):
        load(archive)


def test_an_empty_extracted_folder_is_named(tmp_path):
    (tmp_path / "images_background").mkdir()
    with pytest.raises(FileNotFoundError, match="images_background: the folder is empty"):
        load(tmp_path)


MEMBER = "images_background/Beta/character02/0001_07.png"


@pytest.mark.parametrize(
    "data, message",
    [
        (b"not a picture", f"{MEMBER} is not a readable PNG"),
        (png(1, 6)[:-40], f"{MEMBER} is not a readable PNG"),
        (b"", f"{MEMBER} is not a readable PNG"),
        (png(1, 6, size=(28, 30)), f"{MEMBER} is 28 x 30, wanted 105 x 105"),
    ],
)
@pytest.mark.parametrize("extracted", [False, True])
def test_a_bad_drawing_is_named(source, data, message, extracted):
    archive = write_zip(source, "images_background", members("images_background") | {MEMBER: data})
    if extracted:
        with zipfile.ZipFile(archive) as opened:
            opened.extractall(source)
        archive.unlink()
    with pytest.raises(ValueError, match=message) as caught:
        load(source)
    assert "\n" not in str(caught.value)


def test_a_drawing_damaged_inside_the_archive_is_named(source):
    archive = source / "images_background.zip"
    content = bytearray(archive.read_bytes())
    content[content.index(members("images_background")[MEMBER]) + 60] ^= 1
    archive.write_bytes(content)
    with pytest.raises(ValueError, match=f"{MEMBER} is damaged inside the archive: .*CRC"):
        load(source)


@pytest.mark.parametrize("count", [19, 21])
def test_a_character_without_its_twenty_drawings_is_named(source, count):
    content = members("images_background")
    data = content.pop(MEMBER)
    if count == 21:
        content |= {MEMBER: data, MEMBER.replace("_07", "_21"): data}
    write_zip(source, "images_background", content)
    with pytest.raises(ValueError, match=f"Beta/character02 has {count} drawings, wanted 20"):
        load(source)


def test_a_character_of_both_sets_is_named(source):
    content = members("images_evaluation")
    content = {member.replace("Gamma", "Beta"): data for member, data in content.items()}
    write_zip(source, "images_evaluation", content)
    with pytest.raises(ValueError, match=r"_evaluation\.zip: Beta/character01 is in .*_background\.zip too"):
        load(source)


@pytest.mark.parametrize(
    "path", ["/etc/a.png", "../a.png", "images_background/../../a.png", "C:/a.png", "a\\..\\b.png", "x/.."]
)
def test_an_archive_with_an_escaping_path_is_refused(source, path):
    write_zip(source, "images_background", members("images_background") | {path: png(0, 0)})
    with pytest.raises(ValueError, match="leaves the archive"):
        load(source)


def test_harmless_strangers_in_an_archive_are_passed_over(source):
    before = load(source, cache=False)
    strangers = {"__MACOSX/images_background/Beta/character01/1.png": b"", "images_background/a..b": b""}
    write_zip(source, "images_background", strangers | members("images_background"))
    assert same(load(source, cache=False), before)


# The cache


@pytest.fixture
def reads(monkeypatch) -> list:
    """Grows by one whenever drawings are read from their source."""
    seen, read = [], omniglot._read
    monkeypatch.setattr(omniglot, "_read", lambda sources: seen.append(sources) or read(sources))
    return seen


@pytest.mark.filterwarnings("error")
def test_drawings_are_read_once_and_then_come_from_the_cache(source, cache, reads):
    first = load(source)
    assert same(load(source), first) and len(reads) == 1
    assert [file.suffix for file in cache.iterdir()] == [".npz"]
    assert same(load(source, cache=False), first) and len(reads) == 2


@pytest.mark.filterwarnings("error")
def test_without_cache_nothing_is_written(source, cache):
    load(source, cache=False)
    assert not cache.exists()


@pytest.mark.filterwarnings("error")
def test_changed_archives_are_read_again(source, reads):
    before = load(source)
    content, other = members("images_background"), MEMBER.replace("_07", "_08")
    archive, size = source / "images_background.zip", (source / "images_background.zip").stat().st_size
    write_zip(source, "images_background", content | {MEMBER: content[other], other: content[MEMBER]})
    assert archive.stat().st_size == size
    os.utime(archive, ns=(1, 1))
    after = load(source)
    assert len(reads) == 2 and not same(before, after)
    (source / "images_evaluation.zip").unlink()
    assert len(load(source).names) == 3 and len(reads) == 3


@pytest.mark.parametrize("damage", ["empty", "truncated", "flipped bit", "foreign", "array", "pickle", "other key"])
def test_a_damaged_cache_is_rebuilt_with_a_warning(source, cache, reads, tmp_path, damage):
    first = load(source)
    (file,) = cache.iterdir()
    content = bytearray(file.read_bytes())
    if damage == "empty":
        file.write_bytes(b"")
    elif damage == "truncated":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "flipped bit":
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    elif damage == "foreign":
        np.savez(file, weights=np.zeros(3))
    elif damage in ("array", "pickle"):
        with open(file, "wb") as stream:
            np.save(stream, np.zeros(3) if damage == "array" else np.array([{}], dtype=object))
    else:
        shutil.copytree(source, tmp_path / "copy")
        load(tmp_path / "copy")
        (other,) = set(cache.iterdir()) - {file}
        shutil.copy(other, file)
        reads.pop()
    with pytest.warns(UserWarning, match=f"cannot use the cache .*{file.name}"):
        assert same(load(source), first)
    assert len(reads) == 2
    assert same(load(source), first) and len(reads) == 2


def test_a_cache_folder_that_cannot_be_written_is_a_warning(source, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("TINYMAML_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.warns(UserWarning, match="cache folder .*file.cache.*TINYMAML_CACHE"):
        assert len(load(source).names) == 5


def test_without_a_home_folder_drawings_are_read_and_a_warning_says_so(source, monkeypatch):
    monkeypatch.setenv("TINYMAML_CACHE", "~nosuchuser/cache")
    with pytest.warns(UserWarning, match="read anew each time: there is no home folder for ~nosuchuser/cache"):
        assert len(load(source).names) == 5


@pytest.mark.skipif(os.name != "posix", reason="there are no such rights here")
def test_the_cache_folder_is_its_owners_alone(source, cache):
    before = os.umask(0)
    try:
        load(source)
    finally:
        os.umask(before)
    assert cache.stat().st_mode & 0o777 == 0o700


def test_a_full_disk_leaves_no_half_cache(source, cache, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.warns(UserWarning, match="No space left"):
        assert len(load(source).names) == 5
    assert list(cache.iterdir()) == []


# Splits and tasks, on characters that can be told apart by their pixels


def tagged(background: int = 964, evaluation: int = 659) -> Characters:
    """Every image holds its character in two pixels of the first row, its drawing in the third, and a 255."""
    count = background + evaluation
    images = np.zeros((count, 20, 28, 28), np.uint8)
    images[:, :, 0, 0], images[:, :, 0, 1] = np.array(np.divmod(np.arange(count), 256))[..., None]
    images[:, :, 0, 2] = np.arange(20)
    images[:, :, 0, 3] = 255
    names = tuple(f"Alphabet{i // 40:02d}/character{i % 40:02d}" for i in range(count))
    return Characters(images, names, np.arange(count) < background, "somewhere")


TAGGED = tagged()


def tasks_of(**options) -> OmniglotTasks:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(omniglot, "load", lambda path: TAGGED)
        return OmniglotTasks("somewhere", **options)


def untag(x: np.ndarray) -> np.ndarray:
    """(character, drawing, turns) of each image: (..., 28, 28, 1) -> int (..., 3)."""
    pixels = np.rint(x[..., 0] * 255).astype(int)
    found = np.full(x.shape[:-3] + (3,), -1)
    for turns in range(4):
        upright = np.rot90(pixels, -turns, axes=(-2, -1))
        here = upright[..., 0, 3] == 255
        found[here] = np.stack(
            [upright[..., 0, 0] * 256 + upright[..., 0, 1], upright[..., 0, 2], np.full(here.shape, turns)],
            axis=-1,
        )[here]
    assert (found >= 0).all()
    return found


@pytest.mark.parametrize("scheme, sizes", [("1100/100/423", (1100, 100, 423)), ("official", (864, 100, 659))])
def test_splits_are_disjoint_and_complete(scheme, sizes):
    parts = split(TAGGED, scheme)
    assert tuple(map(len, parts.values())) == sizes and list(parts) == ["train", "val", "test"]
    np.testing.assert_array_equal(np.sort(np.concatenate(list(parts.values()))), np.arange(1623))
    if scheme == "official":
        assert TAGGED.background[np.r_[parts["train"], parts["val"]]].all()
        assert not TAGGED.background[parts["test"]].any()


@pytest.mark.parametrize("scheme", omniglot.SCHEMES)
def test_a_split_does_not_hang_on_the_order_of_characters(scheme):
    order = np.random.default_rng(0).permutation(1623)
    names = tuple(TAGGED.names[i] for i in order)
    listed = Characters(TAGGED.images, names, TAGGED.background[order], "elsewhere")
    for part, indices in split(TAGGED, scheme).items():
        assert [TAGGED.names[i] for i in indices] == [names[i] for i in split(listed, scheme)[part]]


def test_another_seed_is_another_split():
    assert set(split(TAGGED, seed=0)["test"]) != set(split(TAGGED, seed=1)["test"])


def test_an_unknown_scheme_or_a_missing_set_is_named(source):
    with pytest.raises(ValueError, match="unknown scheme '1200/423'; wanted one of 1100/100/423, official"):
        split(TAGGED, "1200/423")
    for scheme in omniglot.SCHEMES:
        with pytest.raises(ValueError, match=r"needs images_evaluation\.zip .*not found in somewhere"):
            split(tagged(964, 0), scheme)
    (source / "images_background.zip").unlink()
    with pytest.raises(ValueError, match=r"needs images_background\.zip .*not found in .*data"):
        OmniglotTasks(source)


def test_a_scheme_refuses_incomplete_sets():
    with pytest.raises(ValueError, match="wants 1623 characters, not 1622: somewhere"):
        split(tagged(964, 658))
    with pytest.raises(ValueError, match="wants 101 background characters, not 100: somewhere"):
        split(tagged(100, 5), "official")


@given(
    seed=st.integers(0, 2**32),
    ways=st.integers(2, 25),
    shots=st.integers(1, 6),
    queries=st.integers(1, 14),
    count=st.integers(1, 4),
    part=st.sampled_from(["train", "val", "test"]),
    rotations=st.booleans(),
)
def test_a_task_has_distinct_classes_and_apart_drawings(seed, ways, shots, queries, count, part, rotations):
    tasks = tasks_of(ways=ways, shots=shots, queries=queries, rotations=rotations)
    (xs, ys), (xq, yq) = tasks.sample(np.random.default_rng(seed), count, part)
    assert xs.shape == (count, ways * shots, 28, 28, 1) and xq.shape == (count, ways * queries, 28, 28, 1)
    assert ys.shape == xs.shape[:2] and yq.shape == xq.shape[:2] and ys.dtype == yq.dtype == np.int64
    allowed = set(tasks.splits[part].tolist())
    for task in range(count):
        classes = {}
        drawings = []
        for x, y, times in ((xs[task], ys[task], shots), (xq[task], yq[task], queries)):
            np.testing.assert_array_equal(np.bincount(y, minlength=ways), np.full(ways, times))
            for label, (character, drawing, turns) in zip(y.tolist(), untag(x).tolist(), strict=True):
                classes.setdefault(label, set()).add((character, turns))
                drawings.append((character, turns, drawing))
                assert character in allowed
                assert turns == 0 or (rotations and part == "train")
        assert all(len(found) == 1 for found in classes.values())  # a label is one class
        assert len(set.union(*classes.values())) == ways  # and no two labels are the same class
        assert len(set(drawings)) == len(drawings)  # no drawing twice, in support or query


def test_every_turn_comes_up_in_training_and_two_turns_may_meet():
    tasks = tasks_of(ways=100, queries=1)
    episodes = tasks.episodes(np.random.default_rng(0), 40, "train")
    characters, turns = np.divmod(episodes.classes, 4)
    shares = np.bincount(turns.ravel(), minlength=4) / turns.size
    np.testing.assert_allclose(shares, 0.25, atol=0.03)  # 4,000 draws: four standard deviations
    assert any(len(set(row)) < 100 for row in characters.tolist())


def test_labels_and_places_give_nothing_away():
    tasks = tasks_of(ways=5, shots=2, queries=3)
    episodes = tasks.episodes(np.random.default_rng(0), 4000, "test")
    # Five standard deviations of a share of 1/5 in 4,000 draws is 0.032.
    for _, _, labels in (episodes.support, episodes.query):
        for place in range(labels.shape[1]):
            np.testing.assert_allclose(np.bincount(labels[:, place], minlength=5) / 4000, 0.2, atol=0.032)
    # The earliest character of a task, and the one that comes first in support, have any label.
    np.testing.assert_allclose(np.bincount(episodes.classes.argmin(1), minlength=5) / 4000, 0.2, atol=0.032)
    # Support and query are shuffled apart: they agree at a place as often as chance has it.
    agree = (episodes.support.labels == episodes.query.labels[:, :10]).mean(0)
    np.testing.assert_allclose(agree, 0.2, atol=0.032)
    # Every drawing is used in support.
    assert set(episodes.support.numbers.ravel().tolist()) == set(range(20))


def test_the_arrays_show_what_the_episodes_say():
    tasks = tasks_of(ways=7, shots=3, queries=2, dtype=np.float64)
    episodes = tasks.episodes(np.random.default_rng(1), 5, "train")
    for (x, y), part in zip(tasks.batch(episodes), episodes[1:], strict=True):
        np.testing.assert_array_equal(y, part.labels)
        np.testing.assert_array_equal(part.classes, np.take_along_axis(episodes.classes, y, 1))
        characters, turns = np.divmod(part.classes, 4)
        expected = np.stack([characters, part.numbers, turns], axis=-1)
        np.testing.assert_array_equal(untag(x), expected)


def test_tasks_are_bit_for_bit_those_of_the_first_release():
    """Labels, and (character, drawing, turns) of each image; recorded before families shared the sampler."""
    (xs, ys), (xq, yq) = tasks_of(ways=3, shots=1, queries=2).sample(np.random.default_rng(7), 2, "train")
    assert ys.tolist() == [[0, 2, 1], [0, 1, 2]]
    assert untag(xs).tolist() == [
        [[1515, 17, 3], [601, 7, 2], [1125, 12, 1]],
        [[1497, 12, 3], [1279, 11, 2], [1030, 12, 3]],
    ]
    assert yq.tolist() == [[1, 2, 1, 2, 0, 0], [1, 0, 1, 0, 2, 2]]
    assert untag(xq[0]).tolist() == [
        [1125, 2, 1], [601, 3, 2], [1125, 7, 1], [601, 12, 2], [1515, 9, 3], [1515, 4, 3],
    ]  # fmt: skip


@pytest.mark.parametrize(
    "scheme, rotations, digest",
    [
        ("1100/100/423", True, "882adab5ee073a9f2aa9fd38b6c65a2ed6844c175e8ad02a21b39054d966599b"),
        ("1100/100/423", False, "89b583ec24a54c575df2820c7f248d60472e0543f577967201823eb9233780bb"),
        ("official", True, "ee45342bf4ba7d30d588820e8c74617514154b0feabeb76a5dd31c3c525fcf0e"),
        ("official", False, "c1c040dfac602f70aca818797edfd6275d9e98f6554ddc7d04597e6142a315fc"),
    ],
)
def test_batches_of_all_splits_are_bit_for_bit_those_of_the_first_release(scheme, rotations, digest):
    tasks, seen = tasks_of(ways=5, shots=2, queries=3, rotations=rotations, scheme=scheme), hashlib.sha256()
    rng = np.random.default_rng([0, 1, 2])
    for part in ("train", "val", "test"):
        for x, y in tasks.sample(rng, 8, part):
            seen.update(x.tobytes() + y.tobytes())
    assert seen.hexdigest() == digest


def test_a_class_has_a_name_that_tells_its_turn():
    tasks = tasks_of()
    assert tasks.name(4 * 41) == "Alphabet01/character01"
    assert tasks.name(4 * 41 + 3) == "Alphabet01/character01 turned by 270°"


def test_the_figures_of_the_paper_belong_to_ways_and_shots():
    settings = omniglot.Settings
    conv, mlp = omniglot.published(settings())
    assert conv == ("MAML, conv net, Finn et al., 2017", {3: 0.987})
    assert mlp == ("MAML, mlp, Finn et al., 2017", {3: 0.897})
    assert omniglot.published(settings(ways=20, shots=5)) == [("MAML, conv net, Finn et al., 2017", {5: 0.989})]
    assert omniglot.published(settings(ways=6)) == []


def test_the_same_seed_gives_the_same_tasks_and_sampling_changes_no_image():
    tasks, before = tasks_of(), TAGGED.images.copy()
    a, b, c = (tasks.sample(np.random.default_rng(seed), 3, "train") for seed in (5, 5, 6))
    assert all(np.array_equal(p, q) for x, y in zip(a, b, strict=True) for p, q in zip(x, y, strict=True))
    assert not np.array_equal(a[0][0], c[0][0])
    np.testing.assert_array_equal(TAGGED.images, before)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_images_have_the_dtype_asked_for_and_ink_is_one(dtype):
    (xs, _), (xq, _) = tasks_of(dtype=dtype).sample(np.random.default_rng(0), 2, "val")
    for x in (xs, xq):
        assert x.dtype == dtype and x.min() == 0 and x.max() == 1
        np.testing.assert_array_equal(x, (np.rint(x * 255) / 255).astype(dtype))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"ways": 0}, "ways=0; wanted an integer of at least 2"),
        ({"shots": -1}, "shots=-1; wanted"),
        ({"queries": 1.5}, "queries=1.5; wanted"),
        ({"shots": 5, "queries": 16}, "shots=5 [+] queries=16 is more than a class's 20 drawings"),
        ({"ways": 101}, "ways=101; split 'val' has 100 classes"),
        ({"ways": 4401}, "ways=4401; split 'train' has 4400 classes"),
        ({"ways": 1101, "rotations": False}, "ways=1101; split 'train' has 1100 classes"),
        ({"dtype": np.int64}, "dtype=int64; wanted a floating type"),
        ({"scheme": "thirds"}, "unknown scheme 'thirds'"),
    ],
)
def test_impossible_tasks_are_refused_with_their_numbers(options, message):
    with pytest.raises(ValueError, match=message):
        tasks_of(**options)
    assert tasks_of(ways=100, shots=5, queries=15).ways == 100


def test_a_wrong_request_is_refused():
    tasks = tasks_of()
    with pytest.raises(ValueError, match="unknown split 'valid'; wanted one of train, val, test"):
        tasks.sample(np.random.default_rng(0), 1, "valid")
    with pytest.raises(ValueError, match="tasks=0; wanted at least 1"):
        tasks.sample(np.random.default_rng(0), 0, "train")


# The real archives


@pytest.fixture
def real(real_omniglot) -> Characters:
    return real_omniglot


@pytest.mark.slow
def test_omniglot_has_964_and_659_characters_of_20_drawings(real):
    assert real.images.shape == (1623, 20, 28, 28)
    assert real.background.sum() == 964 and list(real.names) == sorted(set(real.names))
    alphabets = {(name.split("/")[0], bool(b)) for name, b in zip(real.names, real.background, strict=True)}
    assert len(alphabets) == 50 and sum(b for _, b in alphabets) == 30


@pytest.mark.slow
def test_omniglot_drawings_are_thin_strokes_of_ink(real):
    ink = real.images.mean((2, 3)) / 255
    assert 0.08 < ink.mean() < 0.09 and ink.min() > 0 and ink.max() < 0.4
    assert len(np.unique(real.images.reshape(-1, 784)[:3000], axis=0)) == 3000


def test_omniglot_keeps_as_much_ink_as_the_archive_shows(real_omniglot_folder, tmp_path):
    name = "Greek/character03"
    with zipfile.ZipFile(real_omniglot_folder / "images_background.zip") as archive:
        drawings = sorted(m for m in archive.namelist() if m.startswith(f"images_background/{name}/"))
        write_zip(tmp_path, "images_background", {member: archive.read(member) for member in drawings})
        (images,) = load(tmp_path, cache=False).images
        for drawing, member in zip(images, drawings, strict=True):
            with Image.open(archive.open(member)) as image:
                ink = 1 - np.asarray(image, float)  # 1-bit, true where white
            assert abs(drawing.mean() / 255 - ink.mean()) < 0.004
            # The mean of a 3.75-pixel square is a smoother drawing of the same thing.
            box = ink[:104, :104].reshape(26, 4, 26, 4).mean((1, 3))
            ours = np.asarray(Image.fromarray(drawing).resize((26, 26)), float)
            assert np.corrcoef(box.ravel(), ours.ravel())[0, 1] > 0.9


@pytest.mark.slow
def test_the_real_splits_are_these(real):
    names = {
        scheme: [[real.names[i] for i in part[:2]] for part in split(real, scheme).values()]
        for scheme in omniglot.SCHEMES
    }
    assert names == {
        "1100/100/423": [
            ["Tifinagh/character07", "Asomtavruli_(Georgian)/character40"],
            ["Bengali/character38", "Syriac_(Serto)/character23"],
            ["Mkhedruli_(Georgian)/character17", "Malay_(Jawi_-_Arabic)/character10"],
        ],
        "official": [
            ["Tifinagh/character07", "Asomtavruli_(Georgian)/character40"],
            ["Grantha/character12", "Balinese/character03"],
            ["Atlantean/character17", "ULOG/character16"],
        ],
    }


@pytest.mark.slow
def test_real_tasks_can_be_told_apart_by_their_nearest_drawing(real, monkeypatch):
    monkeypatch.setattr(omniglot, "load", lambda path: real)
    tasks = OmniglotTasks("somewhere", ways=5, shots=5)
    (xs, ys), (xq, yq) = tasks.sample(np.random.default_rng(0), 20, "test")
    xs, xq = xs.reshape(20, 25, 784), xq.reshape(20, 75, 784)
    nearest = (-2 * xq @ xs.swapaxes(1, 2) + (xs**2).sum(-1)[:, None]).argmin(-1)
    accuracy = (np.take_along_axis(ys, nearest, 1) == yq).mean()
    shuffled = (np.take_along_axis(np.roll(ys, 1, axis=0), nearest, 1) == yq).mean()
    assert accuracy > 0.5 and 0.1 < shuffled < 0.3


def test_with_labels_of_classes_a_classifier_of_all_training_characters_is_pretrained(omniglot_data):
    tasks = OmniglotTasks(omniglot_data, ways=3, scheme="official", rotations=False, labels="class")
    (_, ys), (_, yq) = tasks.sample(np.random.default_rng(0), 60, "train")
    assert tasks.outputs == 10 and set(ys.ravel()) == set(yq.ravel()) == set(range(10))
    plain = OmniglotTasks(omniglot_data, ways=3, scheme="official", rotations=False)
    for mine, wanted in zip(*(t.sample(np.random.default_rng(1), 4, "test") for t in (tasks, plain)), strict=True):
        for a, b in zip(mine, wanted, strict=True):
            np.testing.assert_array_equal(a, b)  # test tasks are the same
