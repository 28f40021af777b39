"""Downloads from a server on this machine: what arrives whole is kept, the rest leaves nothing behind."""

import contextlib
import errno
import hashlib
import os
import re
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from tinymaml.families import FAMILIES, fetch
from tinymaml.runs.settings import settings_of

pytest.importorskip("tqdm")

BODIES = {
    "images_background.zip": b"background" * 20_000,
    "images_evaluation.zip": b"evaluation" * 10_000,
}
MD5 = {name: hashlib.md5(body).hexdigest() for name, body in BODIES.items()}


class Server(ThreadingHTTPServer):
    """Serves BODIES; `faults` changes what happens to a name, `asked` records the names asked for."""

    def __init__(self):
        self.faults: dict[str, str] = {}
        self.asked: list[str] = []
        self.released = threading.Event()
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/python/"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        name = self.path.removeprefix("/python/")
        self.server.asked.append(name)
        fault = self.server.faults.get(name)
        if fault == "404":
            return self.send_error(404)
        if fault in ("round and round", "to a file"):
            self.send_response(302)
            self.send_header("Location", self.path if fault == "round and round" else "file:///etc/hostname")
            return self.end_headers()
        if fault in ("drip", "endless"):
            return self.go_on(fault)
        body = BODIES[name]
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if fault == "other bytes":
            body = body[::-1]
        elif fault in ("truncated", "silent"):
            body = body[: len(body) // 2]
        self.wfile.write(body)
        if fault == "silent":
            self.server.released.wait(10)

    def go_on(self, fault: str):
        """A body without a length, that does not end before the test does."""
        self.send_response(200)
        self.end_headers()
        with contextlib.suppress(OSError):  # the client has enough
            while not self.server.released.wait(0.05 if fault == "drip" else 0):
                self.wfile.write(b"." if fault == "drip" else bytes(1 << 16))

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.released.set()
        server.shutdown()
        thread.join()


def fetched(server, to, **options):
    return fetch.fetch(fetch.SETS["omniglot"]._replace(base=server.url, md5=MD5), to, progress=False, **options)


def contents(folder) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_both_archives_arrive_in_a_folder_that_did_not_exist(server, tmp_path):
    to = tmp_path / "data" / "omniglot"
    assert fetched(server, to) == to
    assert contents(to) == BODIES


def test_a_new_file_has_the_permissions_of_any_other(server, tmp_path):
    fetched(server, tmp_path / "data")
    (tmp_path / "plain").touch()
    mode = (tmp_path / "plain").stat().st_mode
    assert {file.stat().st_mode for file in (tmp_path / "data").iterdir()} == {mode}


def test_right_files_are_kept_and_not_asked_for(server, tmp_path):
    fetched(server, tmp_path)
    server.asked.clear()
    fetched(server, tmp_path)
    assert server.asked == []


def test_a_file_with_another_md5_is_replaced(server, tmp_path):
    (tmp_path / "images_background.zip").write_bytes(b"half of it")
    (tmp_path / "images_evaluation.zip").write_bytes(BODIES["images_evaluation.zip"])
    fetched(server, tmp_path)
    assert contents(tmp_path) == BODIES
    assert server.asked == ["images_background.zip"]


@pytest.mark.parametrize(
    "fault, error, message",
    [
        ("other bytes", ValueError, r"images_evaluation\.zip: MD5 is [0-9a-f]{32}, wanted [0-9a-f]{32}"),
        ("truncated", ConnectionError, r"images_evaluation\.zip: .*50000 of 100000 bytes"),
        ("silent", ConnectionError, r"images_evaluation\.zip: timed out"),
        ("drip", ConnectionError, r"images_evaluation\.zip: only \d+ bytes came in 1 s; run again"),
        ("endless", ConnectionError, r"images_evaluation\.zip: it is larger than 1\.0 MB"),
        ("404", ConnectionError, r"images_evaluation\.zip: HTTP 404 Not Found"),
        ("round and round", ConnectionError, r"images_evaluation\.zip: HTTP 302 it redirects without end"),
        ("to a file", ConnectionError, r"images_evaluation\.zip: HTTP 302 Found - Redirection to url 'file:.*allowed"),
    ],
)
def test_what_goes_wrong_is_one_error_and_a_second_call_finishes(
    server, tmp_path, fault, error, message, monkeypatch
):  # fmt: skip
    monkeypatch.setattr(fetch, "LARGEST", 1_000_000)
    server.faults["images_evaluation.zip"] = fault
    with pytest.raises(error, match=message) as caught:
        fetched(server, tmp_path, timeout=1 if fault in ("silent", "drip") else 30)
    assert str(caught.value).startswith(server.url) and "\n" not in str(caught.value)
    assert contents(tmp_path) == {"images_background.zip": BODIES["images_background.zip"]}

    server.faults.clear()
    server.asked.clear()
    fetched(server, tmp_path)
    assert contents(tmp_path) == BODIES
    assert server.asked == ["images_evaluation.zip"]


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_what_a_killed_download_leaves_is_removed_by_the_next_one(server, tmp_path):
    """Even where the file has arrived meanwhile; a download that goes on keeps what it has."""
    server.faults["images_background.zip"] = "silent"
    command = (
        "import sys; from tinymaml.families import fetch; dataset = fetch.SETS['omniglot']._replace("
        f"base={server.url!r}, md5={MD5!r}); fetch.fetch(dataset, sys.argv[1], progress=False)"
    )
    child = subprocess.Popen([sys.executable, "-c", command, str(tmp_path)])
    until = time.monotonic() + 60
    while not list(tmp_path.glob(".images_background.zip.*.tmp")) and time.monotonic() < until:
        time.sleep(0.02)
    (left,) = tmp_path.glob(".images_background.zip.*.tmp")
    (tmp_path / "images_background.zip").write_bytes(BODIES["images_background.zip"])
    fetched(server, tmp_path)
    assert left.exists() and child.poll() is None
    child.kill()
    child.wait()
    fetched(server, tmp_path)
    assert contents(tmp_path) == BODIES


def test_a_failed_replacement_leaves_the_older_file(server, tmp_path):
    (tmp_path / "images_background.zip").write_bytes(b"older")
    server.faults["images_background.zip"] = "truncated"
    with pytest.raises(ConnectionError):
        fetched(server, tmp_path)
    assert contents(tmp_path) == {"images_background.zip": b"older"}


def test_a_refused_connection_is_named(server, tmp_path):
    server.shutdown()
    server.server_close()
    with pytest.raises(ConnectionError, match=r"images_background\.zip: .*refused"):
        fetched(server, tmp_path)
    assert contents(tmp_path) == {}


def test_a_full_disk_is_named_and_leaves_nothing(server, tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(fetch.os, "fsync", full)
    with pytest.raises(OSError, match=r"cannot save .*images_background\.zip: No space left") as caught:
        fetched(server, tmp_path)
    assert caught.value.errno == errno.ENOSPC and not isinstance(caught.value, ConnectionError)
    assert contents(tmp_path) == {}


def test_a_file_in_place_of_the_folder_is_named(server, tmp_path):
    (tmp_path / "data").write_text("not a folder", encoding="utf-8")
    with pytest.raises(OSError, match="cannot save .*data"):
        fetched(server, tmp_path / "data")
    assert server.asked == []


def test_an_interrupted_write_leaves_the_older_file_alone(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"older")
    with pytest.raises(KeyboardInterrupt), fetch.atomic_write(path) as file:
        file.write(b"new")
        raise KeyboardInterrupt
    assert contents(tmp_path) == {"file": b"older"}
    with fetch.atomic_write(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"older"
    assert contents(tmp_path) == {"file": b"new"}


def test_the_official_places_and_sums_are_the_known_ones():
    """The sums are those of torchvision, of its data sets and of others' that are based on it."""
    found = {name: (one.base, list(one.md5.values())) for name, one in fetch.SETS.items() if one.md5}
    raw = "https://raw.githubusercontent.com/"
    assert found == {
        "omniglot": (
            f"{raw}brendenlake/omniglot/master/python/",
            ["68d2efa1b9178cc56df9314c21c6e718", "6b91aef0f799c5bb55b94e3f2daec811"],
        ),
        "mnist": (
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            ["f68b3c2dcbeaaa9fbdd348bbdeb94873", "d53e105ee54ea40749a09fcbcd1e9432",
             "9fb629c4189551a2d022fa330f9573f3", "ec29112dd5afa0611ce80d1b7f02629c"],
        ),
        "fashion-mnist": (
            f"{raw}zalandoresearch/fashion-mnist/master/data/fashion/",
            ["8d4fb7e6c68d591d4c3dfef9ec88bf0d", "25c81989df183df01b3e8a0aad5dffbe",
             "bef4ecab320f06d8554ea6380940ec79", "bb300cfdad3c16e7a12a480ee83cd310"],
        ),
        "tiny-imagenet": ("http://cs231n.stanford.edu/", ["90528d7ca1a48142e341f4ef8d21d0de"]),
        "clinc150": (
            f"{raw}clinc/oos-eval/master/data/",
            ["30c29dc6ab78edf3b5dfa640be204cde", "9beee9d0f36e07e914c1e3a626bdcb4a"],
        ),
    }  # fmt: skip


@pytest.mark.parametrize("name", fetch.SETS)
def test_every_data_set_has_a_page_and_a_licence_and_can_be_had_in_one_way(name):
    one = fetch.SETS[name]
    assert one.page.startswith("http") and one.licence
    assert bool(one.md5) == bool(one.base) != bool(one.take)


def test_what_is_not_downloaded_says_where_it_can_be_had(tmp_path):
    with pytest.raises(ValueError, match=r"not downloaded; .* at https://.*194 \(licence: CC BY 4.0\): sensor"):
        fetch.fetch(fetch.SETS["wall-following"], tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_sums_of_clinc150_are_those_of_its_files(data_dir):
    for name, wanted in fetch.SETS["clinc150"].md5.items():
        file = data_dir / "clinc150" / name
        if not file.is_file():
            pytest.skip(f"no {file}")
        assert hashlib.md5(file.read_bytes()).hexdigest() == wanted


@pytest.mark.parametrize("name", [name for name, one in FAMILIES.items() if hasattr(settings_of(one), "data")])
def test_where_a_family_finds_no_data_it_names_the_command(name, tmp_path):
    family = FAMILIES[name]
    with pytest.raises((FileNotFoundError, ValueError), match="tinymaml data .* --to DIR") as caught:
        family.make(family.Settings(data=str(tmp_path / "nowhere"))).sample(np.random.default_rng(0), 1, "train")
    assert set(re.findall(r"tinymaml data (\S+)", str(caught.value))) <= fetch.SETS.keys()
