"""A folder, an archive and a file are read alike; what is broken is named. The cache is tested with Omniglot."""

import gzip
import os
import zipfile

import numpy as np
import pytest

from tinymaml.families.reading import inflated, kept, open_data

CONTENT = {"a/one.txt": b"1", "a/ü/two.txt": b"2", "three.txt": b"3"}


def folder(place):
    for name, data in CONTENT.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(data)
    return place


def archive(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/", b"")
        for name, data in CONTENT.items():
            file.writestr(name, data)
    return path


def test_a_folder_and_an_archive_hold_the_same(tmp_path):
    for place in (folder(tmp_path / "x"), archive(tmp_path / "y.ZIP"), archive(tmp_path / "z" / "z.zip").parent):
        with open_data(place) as source:
            assert source.names == sorted(CONTENT)
            assert {name: source.read(name) for name in source.names} == CONTENT


def test_a_folder_that_holds_more_than_an_archive_is_a_folder(tmp_path):
    archive(tmp_path / "x" / "x.zip")
    (tmp_path / "x" / "LICENSE").write_text("free")
    with open_data(tmp_path / "x") as source:
        assert source.names == sorted(CONTENT)
    (tmp_path / "x" / "cat").mkdir()
    with open_data(tmp_path / "x") as source:
        assert source.names == ["LICENSE", "x.zip"]


def test_a_file_is_alone_and_errors_call_it_by_its_path(tmp_path):
    (tmp_path / "x.csv").write_text("1")
    with open_data(tmp_path / "x.csv") as source:
        assert source.names == ["x.csv"] and source.read("x.csv") == b"1" and source.files == [tmp_path / "x.csv"]
        assert source.where("x.csv") == str(tmp_path / "x.csv")
    with open_data(archive(tmp_path / "x.zip")) as source:
        assert source.where("a/one.txt") == f"{tmp_path / 'x.zip'}: a/one.txt"
    with open_data(folder(tmp_path / "x")) as source:
        assert source.where("a/one.txt") == str(tmp_path / "x" / "a" / "one.txt")


def test_what_is_missing_or_broken_is_named_with_advice(tmp_path):
    with pytest.raises(FileNotFoundError, match="no data at .*nowhere: no such file or folder; get it there"):
        open_data(tmp_path / "nowhere", "get it there").__enter__()
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty: the folder is empty"):
        open_data(tmp_path / "empty").__enter__()
    (tmp_path / "x.zip").write_bytes(archive(tmp_path / "y.zip").read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"x\.zip is not a complete zip archive"):
        open_data(tmp_path / "x.zip").__enter__()
    data = bytearray((tmp_path / "y.zip").read_bytes())
    data[data.index(b"a/one.txt") + len("a/one.txt")] ^= 1  # the byte of its content
    (tmp_path / "y.zip").write_bytes(data)
    with (
        open_data(tmp_path / "y.zip") as source,
        pytest.raises(ValueError, match=r"y\.zip: a/one.txt is damaged inside"),
    ):
        source.read("a/one.txt")


def test_gzip_is_inflated_and_what_is_none_stays():
    packed = gzip.compress(b"123" * 100)
    assert inflated(packed, "x") == b"123" * 100 and inflated(b"123", "x") == b"123"
    for broken in (packed[:-9], packed[:5], packed[:-8] + bytes(8)):
        with pytest.raises(ValueError, match="x.gz is not a complete gzip file"):
            inflated(broken, "x.gz")


def test_what_was_made_is_kept_until_a_source_the_name_or_the_version_changes(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYMAML_CACHE", str(tmp_path / "cache"))
    made = []

    folder(tmp_path / "data")

    def made_by(name="x", version=1):
        return kept(name, version, [tmp_path / "data"], lambda: made.append(name) or {"n": np.arange(3)})["n"]

    for _ in range(2):
        np.testing.assert_array_equal(made_by(), np.arange(3))
    assert len(made) == 1
    made_by("y"), made_by("x", 2)
    assert len(made) == 3
    os.utime(tmp_path / "data" / "three.txt", ns=(1, 1))
    made_by(), made_by()
    assert len(made) == 4
