"""Odd files and odd words, through the command line and through `tm.load`: one line with the name, never a traceback.

What must hold is in the names of the tests. That a kill, a full disk or a flipped byte of a checkpoint does no harm is
in `test_runs` and `test_train`.
"""

import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import warnings
import zipfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

for library in ("safetensors", "filelock", "tqdm", "threadpoolctl"):
    pytest.importorskip(library)

import tinymaml as tm  # noqa: E402
from tinymaml.cli import main  # noqa: E402
from tinymaml.families import omniglot  # noqa: E402
from tinymaml.families.common import digest  # noqa: E402
from tinymaml.families.reading import inflated, kept, open_data  # noqa: E402
from tinymaml.runs import Run, folder, loop  # noqa: E402
from tinymaml.runs.evaluate import evaluate  # noqa: E402
from tinymaml.runs.learner import Learner  # noqa: E402
from tinymaml.runs.loop import restore, resumed, train  # noqa: E402
from tinymaml.runs.settings import Config  # noqa: E402

pytestmark = pytest.mark.usefixtures("quick_code")
posix = pytest.mark.skipif(os.name != "posix", reason="FIFOs, devices and signals of POSIX")
SMALL = dict(
    tasks=2, hidden=(6,), iterations=4, save_every=2, validate_every=2, validation_tasks=2, queries=5, compile=False
)
DEEP = b"[" * 50_000


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("trained") / "run"
    train(Config.default("sinusoid", **SMALL), path, progress=False)
    return path


@pytest.fixture
def run(trained, tmp_path) -> Path:
    """A run of its own, to be damaged."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


@contextmanager
def within(seconds: int = 60):
    """What hangs is ended, and is an error."""

    def late(number, frame):
        raise AssertionError(f"no end within {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def fails(capsys, *command) -> str:
    """The last line that a command prints, which says what went wrong."""
    capsys.readouterr()
    with within(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            code = main([str(word) for word in command])
        except SystemExit as exit:
            code = exit.code
    out, err = capsys.readouterr()
    lines = [line for line in err.replace("\r", "\n").splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith("family=") and "it/s" not in line]
    assert code in (1, 2) and out == "" and "Traceback" not in err
    assert code == 2 or len(lines) == 1 and len(lines[0]) > 20, err
    return lines[-1]


# ── what is no file ─────────────────────────────────────────────────────────────────────────────────────────────────


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # the name of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name)
    finally:
        os.chdir(here)


def make_zeros(path: Path) -> None:
    path.symlink_to("/dev/zero")


def make_folder(path: Path) -> None:
    path.mkdir()


ODD = {"a FIFO": make_fifo, "a socket": make_socket, "a device": make_zeros, "a folder": make_folder}
odd = pytest.mark.parametrize("kind", ODD)
PARTS = {
    "config.json": ("eval", "plot", "compare", "resume", "load"),
    "log.jsonl": ("plot", "compare", "resume"),
    "checkpoints/00000004.json": ("eval 4", "load 4"),
    "checkpoints/00000004.safetensors": ("eval 4", "load 4"),
}


def used(capsys, how: str, run: Path) -> str:
    """The error of a use of a run."""
    how, _, iteration = how.partition(" ")
    if how == "load":
        with within(), pytest.raises((OSError, ValueError)) as caught:
            tm.load(run, int(iteration) if iteration else None)
        return str(caught.value)
    words = {
        "eval": ["eval", run, "--tasks", 2, "--steps", 1, *(["--iteration", iteration] if iteration else [])],
        "plot": ["plot", run],
        "compare": ["compare", run, "--tasks", 2, "--steps", 1, "--json"],
        "resume": ["train", "sinusoid", "--out", run, "--resume"],
    }
    if how == "plot":
        pytest.importorskip("matplotlib")
    return fails(capsys, *words[how])


@posix
@odd
@pytest.mark.parametrize("part, how", [(part, how) for part, uses in PARTS.items() for how in uses])
def test_what_is_no_file_in_a_run_is_named_and_not_waited_for(run, capsys, kind, part, how):
    (run / part).unlink()
    ODD[kind](run / part)
    assert f"{Path(part).name} is not a regular file ({kind}), wanted" in used(capsys, how, run)


@posix
@odd
@pytest.mark.parametrize("part", [part for part in PARTS if "checkpoints" in part])
def test_a_checkpoint_that_is_no_file_gives_way_to_the_one_before(run, kind, part):
    (run / part).unlink()
    ODD[kind](run / part)
    with within(), pytest.warns(UserWarning, match=r"is not a regular file .*taking 2 instead"):
        assert tm.load(run).iteration == 2


@posix
@odd
def test_what_is_no_data_is_named_and_not_waited_for(tmp_path, capsys, kind):
    """An archive, a file of a data set, a drawing in a folder, the examples of `adapt`, an answer to the oracle."""
    if kind != "a folder":
        ODD[kind](tmp_path / "x.zip")
        with within(), pytest.raises(OSError, match=rf"x\.zip is not a regular file \({kind}\), wanted a zip archive"):
            open_data(tmp_path / "x.zip").__enter__()
        ODD[kind](tmp_path / "x.csv")
        with within(), pytest.raises(OSError, match=rf"x\.csv is not a regular file \({kind}\), wanted a folder, a"):
            open_data(tmp_path / "x.csv").__enter__()
        (tmp_path / "data").mkdir()
        ODD[kind](tmp_path / "data" / "0001_01.png")
        with (
            within(),
            open_data(tmp_path / "data") as source,
            pytest.raises(OSError, match=rf"01\.png is .*\({kind}\)"),
        ):
            source.read("0001_01.png")
    (tmp_path / "answers").mkdir()
    ODD[kind](tmp_path / "answers" / "0000.json")
    line = fails(capsys, "oracle", "check", "--from", tmp_path / "answers")
    assert f"0000.json is not a regular file ({kind}), wanted an answer" in line


@posix
@pytest.mark.parametrize("kind", ["a FIFO", "a socket", "a device"])
@pytest.mark.parametrize("family", ["omniglot", "digits", "images", "intents", "speech", "ratings", "robot"])
def test_data_that_are_no_file_are_named_by_the_command(tmp_path, monkeypatch, capsys, family, kind):
    monkeypatch.chdir(tmp_path)
    for name in ("images_background.zip", "x", "x.json"):
        ODD[kind](tmp_path / name)
        line = fails(capsys, "train", family, "--data", name, "--out", "run")
        assert f"{name} is not a regular file ({kind}), wanted a" in line
    (tmp_path / "folder").mkdir()
    (tmp_path / "images_background.zip").rename(tmp_path / "folder" / "images_background.zip")
    line = fails(capsys, "train", family, "--data", "folder", "--out", "run")
    assert f"images_background.zip is not a regular file ({kind}), wanted a zip archive" in line


@pytest.mark.parametrize("text, message", [
    (b"movieId,title,genres\n1,\xff\xfe,A\n", "movies.csv is no text in UTF-8"),
    (b"movieId,title,genres\n1," + b"x" * 200_000 + b",A\n", "movies.csv, line 2: field larger than field limit"),
    (b"x" * 200_000, "movies.csv, line 1: field larger than field limit"),
])  # fmt: skip
def test_a_table_that_cannot_be_read_is_named(tmp_path, capsys, text, message):
    (tmp_path / "movies.csv").write_bytes(text)
    (tmp_path / "ratings.csv").write_bytes(b"userId,movieId,rating,timestamp\n")
    assert message in fails(capsys, "train", "ratings", "--data", tmp_path, "--out", tmp_path / "run")


@posix
@odd
def test_examples_that_are_no_file_are_named(run, tmp_path, capsys, kind):
    np.savez(tmp_path / "query.npz", x=np.zeros((2, 1)))
    ODD[kind](tmp_path / "support.npz")
    line = fails(capsys, "adapt", run, "--support", tmp_path / "support.npz", "--query", tmp_path / "query.npz")
    assert "support.npz" in line
    assert "wanted an .npz" in line and (kind == "a folder" or f"is not a regular file ({kind})" in line)


@posix
@pytest.mark.parametrize("kind", ["a FIFO", "a socket", "a device"])
@pytest.mark.parametrize("family", ["omniglot", "images", "speech", "intents"])
def test_one_example_of_a_users_that_is_no_file_is_named(tmp_path, kind, family, small_data):
    from tinymaml.families import FAMILIES

    ODD[kind](tmp_path / "one.png")
    settings = Config.default(family, **small_data(family)).family.settings
    with within(), pytest.raises(OSError, match=rf"one\.png is not a regular file \({kind}\)"):
        FAMILIES[family].read(tmp_path / "one.png", settings)


INTO_FOLDERS = {"plot", "train", "data", "oracle gen"}
NO_PLACES = [(command, kind) for command in ("adapt", "plot", "compare", "train", "data", "oracle gen") for kind in ODD
             if not (kind == "a folder" and command in INTO_FOLDERS)]  # fmt: skip


@posix
@pytest.mark.parametrize("command, kind", [
    pytest.param(*names, marks=pytest.mark.slow if i % 3 else ()) for i, names in enumerate(NO_PLACES)])  # fmt: skip
@pytest.mark.usefixtures("computed_once")
def test_where_nothing_can_be_written_is_named(run, tmp_path, capsys, command, kind):
    to = tmp_path / "to.png"
    ODD[kind](to)
    np.savez(tmp_path / "both.npz", x=np.zeros((2, 1)), y=np.zeros((2, 1)))
    both = tmp_path / "both.npz"
    words = {
        "adapt": ["adapt", run, "--support", both, "--query", both, "--to", to],
        "plot": ["plot", run, "--to", to],
        "compare": ["compare", run, "--tasks", 2, "--steps", 1, "--json", "--to", to],
        "train": ["train", "sinusoid", "--out", to],
        "data": ["data", "omniglot", "--to", to],
        "oracle gen": ["oracle", "gen", "--seed", "0", "--to", to],
    }
    if command in ("plot", "compare"):
        pytest.importorskip("matplotlib")
    with within():
        capsys.readouterr()
        assert main([str(word) for word in words[command]]) == 1
    err = capsys.readouterr().err
    assert "to.png" in err.splitlines()[-1] and "Traceback" not in err


# ── settings, log and checkpoints ───────────────────────────────────────────────────────────────────────────────────


def test_no_bit_of_the_settings_changes_them_in_silence(run):
    file = run / "config.json"
    data, wanted = file.read_bytes(), restore(run).config
    found = 0
    bits = range(0, 8 * len(data), 11)  # which meets every place of a byte
    for bit in bits:
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        file.write_bytes(changed)
        try:
            one = Run.open(run)
        except ValueError as cause:
            assert str(run) in str(cause) and "\n" not in str(cause)
            found += 1
        else:
            assert loop.configuration(one) == wanted and one.format == 2
    assert found > 0.95 * len(bits)


def test_settings_without_a_seal_are_taken_as_they_are(run):
    """Those of older runs have none, and who edits them takes it away."""
    file = run / "config.json"
    record = json.loads(file.read_text(encoding="utf-8"))
    record["config"]["algorithm"]["inner_lr"] = 0.25
    file.write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(ValueError, match=r'config\.json is not as it was written.*remove its entry "seal"'):
        Run.open(run)
    del record["seal"]
    file.write_text(json.dumps(record), encoding="utf-8")
    assert restore(run).config["inner_lr"] == 0.25


def test_a_run_of_before_there_were_seals_goes_on(trained, run, tmp_path):
    """Without a seal, an identity, a fingerprint: everything loads, and nothing is complained of."""
    record = json.loads((run / "config.json").read_text(encoding="utf-8"))
    del record["seal"], record["run"]
    (run / "config.json").write_text(json.dumps(record), encoding="utf-8")
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    for line in lines:
        del line["seal"]
    (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    for file in (run / "checkpoints").glob("*.json"):
        record = json.loads(file.read_text(encoding="utf-8"))
        del record["run"], record["seal"], record["meta"]["data"]
        file.write_text(json.dumps(folder._sealed(record)), encoding="utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Run.open(run).read_log() == Run.open(trained).read_log()
        train(resumed(run, {"iterations": 6}), run, resume=True, progress=False)
        train(Config.default("sinusoid", **{**SMALL, "iterations": 6}), tmp_path / "whole", progress=False)
    for name, x in Run.open(run).load().arrays.items():
        np.testing.assert_array_equal(x, Run.open(tmp_path / "whole").load().arrays[name])
    assert Run.open(run).read_log() == Run.open(tmp_path / "whole").read_log()


def test_no_bit_of_the_log_changes_a_number_in_silence(run):
    file = run / "log.jsonl"
    data, wanted = file.read_bytes(), Run.open(run).read_log()
    ends = [i for i, byte in enumerate(data) if byte == ord("\n")]
    for bit in range(0, 8 * len(data), 5):  # which meets every place of a byte
        if bit // 8 == ends[-1]:  # then the last line is half, as after a kill
            continue
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        file.write_bytes(changed)
        try:
            seen = Run.open(run).read_log()
        except ValueError as cause:
            line = 1 + sum(end < bit // 8 for end in ends)
            assert f"log.jsonl, line {line} is" in str(cause) and "--resume" in str(cause) and "\n" not in str(cause)
        else:  # only the word "seal" of the first line can be another
            assert [{**record, **was} for record, was in zip(seen, wanted, strict=True)] == seen


@pytest.mark.parametrize("line", [b"", b"{", b"3", b'{"loss": 1}', b'{"iteration": 2}', b"\xff\xfe", DEEP])
def test_a_run_with_a_damaged_line_in_its_log_is_resumed_without_it(trained, run, capsys, line):
    log = run / "log.jsonl"
    lines = log.read_bytes().splitlines()
    lines[1] = line
    log.write_bytes(b"\n".join([*lines, b""]))
    message = used(capsys, "compare", run)
    assert "log.jsonl, line 2 is" in message and "--resume of the run leaves damaged lines out" in message
    with pytest.warns(UserWarning, match=r"log\.jsonl, line 2 .*; going on without it, .*log\.damaged\.jsonl is the"):
        train(resumed(run, {}), run, resume=True, progress=False)
    assert [record["iteration"] for record in Run.open(run).read_log()] == [1, 3, 4]
    assert (run / "log.damaged.jsonl").read_bytes().splitlines()[1] == line
    assert tm.load(run).iteration == 4


@pytest.mark.parametrize("record", [{"iteration": 1}, {"iteration": 1, "loss": "low", "mse": 1.0},
                                    {"iteration": 1, "loss": 1.0, "mse": None}])  # fmt: skip
def test_a_record_of_the_log_without_what_is_drawn_is_named(run, capsys, record):
    (run / "log.jsonl").write_text(json.dumps(record) + "\n", encoding="utf-8")
    message = used(capsys, "plot", run)
    assert "log.jsonl" in message and "line 1" in message and "wanted" in message


def test_a_checkpoint_of_another_run_is_not_taken(run, tmp_path, capsys):
    train(Config.default("sinusoid", **{**SMALL, "seed": 1, "iterations": 6}), tmp_path / "other", progress=False)
    for file in (tmp_path / "other" / "checkpoints").glob("00000006.*"):
        shutil.copy(file, run / "checkpoints")
    with pytest.warns(UserWarning, match=r"00000006\.json is a checkpoint of another run; taking 4 instead"):
        assert tm.load(run).iteration == 4
    assert "00000006.json is a checkpoint of another run" in used(capsys, "eval 6", run)
    with pytest.warns(UserWarning, match="of another run; taking 4 instead"):
        train(resumed(run, {"iterations": 5}), run, resume=True, progress=False)
    assert Run.open(run).checkpoints() == [2, 4, 5]


def test_another_runs_settings_are_not_taken_with_its_checkpoints(run, tmp_path, capsys):
    train(Config.default("sinusoid", **{**SMALL, "seed": 1}), tmp_path / "other", progress=False)
    shutil.copy(tmp_path / "other" / "config.json", run / "config.json")
    with pytest.raises(ValueError, match="(?s)00000004.json is a checkpoint of another run.*00000002.json is"):
        tm.load(run)


@pytest.mark.parametrize("family", ["omniglot", "digits", "images", "intents", "speech", "ratings"])
def test_data_that_were_exchanged_between_stop_and_resume_are_noticed(tmp_path, family, small_data):
    options = small_data(family)
    data = Path(shutil.copytree(options["data"], tmp_path / "data"))
    common = dict(tasks=2, save_every=1, validation_tasks=2, validate_every=9, compile=False, data=str(data))
    common |= dict(filters=2, blocks=1) if family in ("omniglot", "images") else {}
    run, config = tmp_path / "run", Config.default(family, **{**options, **common, "iterations": 1})
    train(config, run, progress=False)
    moved = Path(shutil.copytree(data, tmp_path / "moved"))
    train(config.changed(data=str(moved), iterations=2), run, resume=True, progress=False)  # the same, elsewhere
    exchange(moved, family)
    with pytest.raises(ValueError, match=r"run was trained on other data than .*moved: put those back, or start anew"):
        train(config.changed(data=str(moved), iterations=3), run, resume=True, progress=False)
    train(config.changed(data=str(data), iterations=3), run, resume=True, progress=False)


def exchange(data: Path, family: str) -> None:
    """Put other data in the place of some, as little as will do."""
    if family == "omniglot":
        file = data / "images_evaluation.zip"
        with zipfile.ZipFile(file) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        one, *_, other = sorted(members)
        members[one], members[other] = members[other], members[one]
        with zipfile.ZipFile(file, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
    elif family == "digits":
        file = data / "t10k-images-idx3-ubyte"
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    elif family in ("images", "speech"):
        one, *_, other = sorted(file for file in data.rglob("*") if file.is_file())
        first = one.read_bytes()
        one.write_bytes(other.read_bytes())
        other.write_bytes(first)
    else:
        file = data / {"intents": "data_full.json", "ratings": "ratings.csv"}[family]
        text = file.read_text(encoding="utf-8")
        changed = text.replace("person3", "person9") if family == "intents" else text.replace(",4.5,", ",4.0,", 1)
        assert changed != text
        file.write_text(changed, encoding="utf-8")


def test_a_users_family_is_known_by_its_files_unless_it_says_more(tmp_path):
    import user_people

    (tmp_path / "a").write_text("1", encoding="utf-8")
    learner = Learner(Config.default("sinusoid", **SMALL))
    assert learner.fingerprint() == "" and not hasattr(user_people, "fingerprint")
    from tinymaml.families.reading import of_files

    before = of_files([tmp_path / "a"])
    (tmp_path / "a").write_text("2", encoding="utf-8")
    assert of_files([tmp_path / "a"]) != before != of_files([tmp_path]) != ""


def test_a_digest_is_of_values_shapes_dtypes_and_order():
    some = [
        np.zeros(2), np.zeros((1, 2)), np.zeros((2, 1)), np.zeros(2, np.float32), np.zeros(0), np.zeros((0, 3)), 0, 0.0,
        "0", None, [0, [1]], [[0], 1], [0, 1], {"a": 1}, {"b": 1}, np.float64(0), np.array("a"), np.array(["a", "b"]),
        "ä", "\udcff", True, 1, np.zeros(4)[::2] + 1,
    ]  # fmt: skip
    assert len({digest(x) for x in some}) == len(some)
    assert digest(np.arange(6)[::2]) == digest(np.array([0, 2, 4])) and digest((0, 1)) == digest([0, 1])


# ── what a checkpoint may hold ──────────────────────────────────────────────────────────────────────────────────────


def replaced(run: Path, data: bytes) -> None:
    """Put bytes in the place of a checkpoint's arrays, with a JSON that says that it is they."""
    file = run / "checkpoints" / "00000004.json"
    record = json.loads(file.read_text(encoding="utf-8"))
    del record["seal"]
    record["sha256"] = folder._sha256(data)
    file.write_text(json.dumps(folder._sealed(record)), encoding="utf-8")
    file.with_suffix(".safetensors").write_bytes(data)


def safetensors(header: dict | bytes, data: bytes = bytes(64), length: int | None = None) -> bytes:
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(head) if length is None else length) + head + data


def entry(dtype: str, shape: list, *offsets: int) -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": list(offsets)}


FOREIGN = {
    "empty": b"", "seven bytes": bytes(7), "no header": bytes(8), "header too small": safetensors({}, length=1),
    "header too large": safetensors({}, length=10**9), "header of 2^63": safetensors({}, length=2**63),
    "header of 2^64 - 1": safetensors({}, length=2**64 - 1), "no JSON": safetensors(b"no JSON"),
    "a list": safetensors(b"[]"), "deep": safetensors(DEEP), "not UTF-8": safetensors(b'{"\xff": 1}'),
    "overlapping": safetensors({"a": entry("F32", [4], 0, 16), "b": entry("F32", [4], 8, 24)}, bytes(24)),
    "past the end": safetensors({"a": entry("F32", [400], 0, 1600)}),
    "backwards": safetensors({"a": entry("F32", [4], 16, 0)}),
    "negative": safetensors({"a": entry("F32", [4], -16, 0)}),
    "a gap": safetensors({"a": entry("F32", [2], 8, 16)}, bytes(16)),
    "another shape": safetensors({"a": entry("F32", [5], 0, 16)}, bytes(16)),
    "a huge shape": safetensors({"a": entry("F32", [2**40, 2**40], 0, 16)}, bytes(16)),
    "BF16": safetensors({"a": entry("BF16", [4], 0, 8)}, bytes(8)),
    "F8_E4M3": safetensors({"a": entry("F8_E4M3", [4], 0, 4)}, bytes(4)),
    "F8_E5M2": safetensors({"a": entry("F8_E5M2", [4], 0, 4)}, bytes(4)),
    "F4": safetensors({"a": entry("F4", [4], 0, 2)}, bytes(2)),
    "X1": safetensors({"a": entry("X1", [4], 0, 4)}, bytes(4)),
    "no dtype": safetensors({"a": {"shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
    "F64 of another network": safetensors({"w": entry("F64", [8], 0, 64)}),
    "nothing": safetensors({}, b""),
}  # fmt: skip


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_foreign_safetensors_file_is_one_line_with_its_name(run, capsys, kind):
    replaced(run, FOREIGN[kind])
    for how in ("eval 4", "load 4"):
        message = used(capsys, how, run)
        fits = "does not fit its settings" if kind in ("F64 of another network", "nothing") else "00000004.safetensors"
        assert fits in message and "\n" not in message
    if "does not fit" not in message:
        with pytest.warns(UserWarning, match="taking 2 instead"):
            train(resumed(run, {}), run, resume=True, progress=False)


@pytest.mark.parametrize("part", ["config.json", "checkpoints/00000004.json", "log.jsonl"])
@pytest.mark.parametrize(
    "text", [DEEP, b'{"format": ' + DEEP, b'{"a": ' * 50_000, b"\xff\xfe{", b"\xef\xbb\xbf{}", b"nul"]
)
def test_deep_or_broken_json_is_one_line_with_its_name(run, capsys, part, text):
    (run / part).write_bytes(text + b"\n")
    for how in PARTS[part]:
        if (part, how) == ("log.jsonl", "resume"):
            continue  # which goes on without the line
        message = used(capsys, how, run)
        assert Path(part).name in message and "\n" not in message and len(message) < 1000


@pytest.mark.parametrize("config", [
    {}, {"family": 3}, {"family": {"name": 3}, "network": [], "algorithm": None, "outer": 1},
    {"family": {"name": "sinusoid"}, "network": {"name": "mlp"}, "algorithm": {"name": "maml"}, "outer": []},
    {"family": {"name": "sinusoid"}, "network": {"name": "mlp"}, "algorithm": {"name": "maml"}, "outer": {"seed": []}},
    {"family": {"name": "sinusoid"}, "network": {"name": "mlp", "hidden": [[1]]}, "algorithm": {"name": "maml"},
     "outer": {}},
    {"family": {"name": "sinusoid"}, "network": {"name": "mlp", "hidden": [10**13]}, "algorithm": {"name": "maml"},
     "outer": {}},
    {"family": {"name": "../x"}, "network": {"name": "mlp"}, "algorithm": {"name": "maml"}, "outer": {}},
    {"family": {"name": "sinusoid", "shots": 10**400}, "network": {"name": "mlp"}, "algorithm": {"name": "maml"},
     "outer": {}},
])  # fmt: skip
def test_settings_of_another_form_are_one_line(tmp_path, capsys, config):
    (tmp_path / "config.json").write_text(
        json.dumps({"format": 2, "tinymaml": "1", "config": config}), encoding="utf-8"
    )
    for how in ("eval", "load", "resume"):
        message = used(capsys, how, tmp_path)
        assert "\n" not in message and "NoneType" not in message and "object is not" not in message


def test_no_value_in_settings_without_a_seal_or_in_a_checkpoint_is_a_traceback(run):
    """Whatever stands in the place of a value: it is refused by a line, or taken."""
    odd = [None, True, 0, -1, 2**63, 10**400, 1.5, 1e308, float("nan"), float("inf"), "", "x", "mlp", "cavia", "conv",
           "\ud800", [], [1], [[]], {}, {"a": 1}, [None], "../x", "os:path", "json:loads", ":", "a.b.c"]  # fmt: skip
    files = [run / "config.json", run / "checkpoints" / "00000004.json"]
    whole = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    for record in whole:
        del record["seal"]
    rng, seen = np.random.default_rng(0), 0
    for _ in range(150):
        which = int(rng.integers(2))
        places = list(_places(whole[which]))
        changed = _put(whole[which], places[rng.integers(1, len(places))], odd[rng.integers(len(odd))])
        for file, record in zip(files, [changed if i == which else x for i, x in enumerate(whole)], strict=True):
            file.write_text(json.dumps(folder._sealed(record) if file == files[1] else record), encoding="utf-8")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tm.load(run).adapt([[1.0]], [[1.0]]).predict([[1.0]])
        except (ValueError, OSError, ImportError, FloatingPointError) as cause:
            assert str(cause)
            seen += 1
    assert seen > 50


def _places(x, path=()):
    yield path
    for key in x if isinstance(x, dict) else range(len(x)) if isinstance(x, list) else ():
        yield from _places(x[key], (*path, key))


def _put(x, path: tuple, value):
    """x with a value in another place of it."""
    if not path:
        return value
    changed = dict(x) if isinstance(x, dict) else list(x)
    changed[path[0]] = _put(changed[path[0]], path[1:], value)
    return changed


# ── a run that diverged ─────────────────────────────────────────────────────────────────────────────────────────────


def test_a_run_that_diverged_before_its_first_checkpoint_leaves_its_folder_free(tmp_path, capsys):
    words = ["train", "sinusoid", "--out", tmp_path / "run", "--tasks", 2, "--iterations", 4, "--no-compile"]
    first = fails(capsys, *words, "--meta-lr", "1e39")
    assert "diverged at iteration 1" in first
    line = fails(capsys, *words, "--resume")
    assert "run diverged before its first checkpoint (training diverged at iteration 1: " in line
    assert line.endswith("train without --resume, with a smaller meta_lr or inner_lr: its folder is free")
    with pytest.raises(ValueError, match="diverged before its first checkpoint"):
        train(resumed(tmp_path / "run", {}), tmp_path / "run", resume=True, progress=False)
    assert "it has none: training diverged at iteration 1" in fails(capsys, "eval", tmp_path / "run")
    assert main([str(word) for word in [*words, "--meta-lr", "1e-3"]]) == 0
    assert restore(tmp_path / "run").config["meta_lr"] == 1e-3
    assert [record["iteration"] for record in Run.open(tmp_path / "run").read_log()] == [1, 2, 3, 4]
    assert "already holds a run" in fails(capsys, *words)


def test_a_run_that_diverged_later_keeps_its_checkpoints_and_its_folder(tmp_path, monkeypatch):
    config = Config.default("sinusoid", **SMALL)
    honest = loop._check_finite

    def check(state, iteration):
        if iteration == 3:
            raise FloatingPointError("training diverged at iteration 3")
        honest(state, iteration)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_check_finite", check)
        with pytest.raises(FloatingPointError):
            train(config, tmp_path / "run", progress=False)
    assert tm.load(tmp_path / "run").iteration == 2
    with pytest.raises(FileExistsError, match="already holds a run"):
        train(config, tmp_path / "run", progress=False)
    train(config, tmp_path / "run", resume=True, progress=False)


# ── sizes ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("words, message", [
    ("--tasks 10000000000000", "10,000,000,000,000 tasks after each of 10 steps need 880 TB"),
    ("--steps 10000000000000", "600 tasks after each of 10,000,000,000,000 steps need 148 PB"),
    (f"--tasks {10**400}", "1.0e+400 tasks after each of 10 steps need more than 1,000 EB"),
    (f"--steps {10**4000}", "600 tasks after each of 1.0e+4000 steps need more than 1,000 EB"),
    ("--tasks -1", "tasks is -1 and steps 10, wanted at least 2 and 0"),
    ("--shots 1000000000000", "1,000,000,000,005 examples"), ("--shots 0", "shots is 0, wanted at least 1"),
    ("--queries 1000000000000", "1,000,000,000,005 examples"), ("--queries 0", "queries is 0, wanted at least 1"),
    ("--inner-lr nan", "inner_lr is nan, wanted a finite number"),
    ("--inner-lr inf", "inner_lr is inf, wanted a finite"),
    ("--inner-lr=-inf", "inner_lr is -inf, wanted a finite"), ("--inner-lr 1e300", "diverges"),
    (f"--iteration {10**30}", "no checkpoint 10"), ("--ways 5", "no part of this run has an option ways"),
])  # fmt: skip
@pytest.mark.parametrize("command", ["eval", "compare"])
def test_what_cannot_be_measured_is_one_line(trained, capsys, command, words, message):
    more = ["--tasks", 2, "--steps", 1] if "tasks" not in words and "steps" not in words else []
    if command == "compare" and "iteration" in words:
        return
    if message == "diverges":
        with within():
            main([str(word) for word in [command, trained, *more, *words.split()]])
        out, err = capsys.readouterr()
        assert ("diverge" in out + err) and "Traceback" not in err
        return
    assert message in fails(capsys, command, trained, *more, *words.split())


@pytest.mark.parametrize("option, value", [("shots", 7), ("queries", 3), ("ways", 2), ("inner_lr", 0.03)])
def test_what_an_evaluation_may_change(tmp_path, option, value, small_data, capsys):
    """By the command, in `eval` and in `compare`: it reaches the tasks and the steps."""
    common = dict(tasks=2, iterations=1, validation_tasks=2, validate_every=9, compile=False)
    family = "omniglot" if option == "ways" else "sinusoid"
    options = {**small_data("omniglot"), "ways": 3, "filters": 4, "blocks": 1} if option == "ways" else {}
    train(Config.default(family, **options, **common), tmp_path / "run", progress=False)
    words = ["--tasks", "2", "--steps", "1", "--json", f"--{option.replace('_', '-')}", str(value)]
    assert main(["eval", str(tmp_path / "run"), *words]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result[option] == value and f"{option} {value} instead of" in result["transfer"]
    assert main(["compare", str(tmp_path / "run"), *words]) == 0
    compared = json.loads(capsys.readouterr().out)
    assert compared["lines"][0]["mean"] == result["mean"]
    assert result["mean"] != evaluate(tmp_path / "run", tasks=2, steps=1)["mean"]


def test_the_generator_of_weights_draws_what_any_draws():
    from tinymaml.runs.sizes import bounded

    one, other = (np.random.default_rng(3) for _ in range(2))
    other = bounded(other)
    for draw in (lambda g: g.standard_normal((3, 2)), lambda g: g.normal(1, 2, 5), lambda g: g.uniform(-1, 1, (2, 2)),
                 lambda g: g.random(4), lambda g: g.standard_normal(), lambda g: g.integers(9, size=3)):  # fmt: skip
        np.testing.assert_array_equal(draw(one), draw(other))
    with pytest.raises(ValueError, match="weights and more need 3[0-9] EB"):
        for _ in range(2):
            bounded(np.random.default_rng(0)).standard_normal((10**9, 10**9))


# ── odd words ───────────────────────────────────────────────────────────────────────────────────────────────────────

HUGE = str(10**400)
NOBODY = "~nosuchuser/x"


@pytest.mark.parametrize("words, message", [
    ("train sinusoid --out " + NOBODY, "there is no home folder for ~nosuchuser/x"),
    ("train omniglot --out run --data " + NOBODY, "there is no home folder for ~nosuchuser/x"),
    ("eval " + NOBODY, "there is no home folder for"), ("eval RUN --data " + NOBODY, "there is no home folder for"),
    ("plot RUN --to " + NOBODY, "there is no home folder for"), ("compare " + NOBODY, "there is no home folder for"),
    ("compare RUN --to " + NOBODY, "there is no home folder for"),
    ("adapt RUN --query x.npz --support " + NOBODY, "there is no home folder for"),
    ("adapt RUN --support x.npz --query " + NOBODY, "there is no home folder for"),
    ("adapt RUN --support x.npz --query x.npz --to " + NOBODY, "there is no home folder for"),
    ("data omniglot --to " + NOBODY, "there is no home folder for"),
    ("oracle gen --to " + NOBODY, "there is no home folder for"),
    ("oracle check --from " + NOBODY, "there is no home folder for"),
    ("train sinusoid --out EMPTY", "--out is an empty path"), ("eval EMPTY", "RUN is an empty path"),
    ("eval RUN --data EMPTY", "--data is an empty path"), ("plot RUN --to EMPTY", "--to is an empty path"),
    ("data mnist --to EMPTY", "--to is an empty path"), ("oracle gen --to EMPTY", "--to is an empty path"),
    ("oracle check --from EMPTY", "--from is an empty path"), ("compare EMPTY", "RUN is an empty path"),
    ("train EMPTY", "family is '', wanted one of"), ("train sinusoid --algorithm EMPTY", "algorithm is ''"),
    ("train sinusoid --network EMPTY", "network is ''"), ("eval RUN --on EMPTY", "family is ''"),
    ("train sinusoid --out run --inner-lr 1e400", "inner_lr is inf, wanted a finite number of at least 0"),
    ("train sinusoid --out run --meta-lr 1e300", "diverged at iteration 1"),
    ("train sinusoid --out run --inner-lr 1e300", "query loss is"),
    ("train sinusoid --out run --robust nan", "robust is nan, wanted a finite number of at least 0"),
    ("train sinusoid --out run --sharpness=-inf", "sharpness is -inf, wanted a finite number of at least 0"),
    ("train sinusoid --out run --robust 1e308", "robust is 1e+308, wanted at most 1e+100"),
    ("train sinusoid --out run --inner-clip-norm 1e308", "inner_clip_norm is 1e+308, wanted at most 1e+100"),
    ("train sinusoid --algorithm imaml --out run --tolerance 1e308", "tolerance is 1e+308, wanted at most 1e+100"),
    (f"train sinusoid --out run --tasks {HUGE}", "tasks is 1.0e+400, wanted at most 9,223,372,036,854,775,807"),
    (f"train sinusoid --out run --decay {HUGE}", "decay is 1.0e+400, wanted at most"),
    (f"train sinusoid --out run --save-every {HUGE}", "save_every is 1.0e+400, wanted at most"),
    (f"train sinusoid --out run --inner-steps {HUGE}", "inner_steps is 1.0e+400, wanted at most"),
    (f"train sinusoid --out run --hidden {HUGE}", "wanted at most 9,223,372,036,854,775,807 each"),
    ("train sinusoid --out run --hidden 1000000000000 1000000000000", "weights and more need"),
    ("train sinusoid --out run --tasks " + "9" * 5000, "argument --tasks: invalid int value"),
    ("train sinusoid --out run --tasks EMPTY", "argument --tasks: invalid int value: ''"),
    ("train sinusoid --out run --inner-lr EMPTY", "argument --inner-lr: invalid float value: ''"),
    ("train sinusoid --out run --iterations 100000000", "iterations is 100000000, wanted at most 99,999,999"),
    (f"adapt RUN --support x.npz --query x.npz --steps {HUGE}", "steps is 1.0e+400, wanted an integer in 0 …"),
    ("adapt RUN --support x.npz --query x.npz --steps -1", "steps is -1, wanted an integer in 0 … 99,999,999"),
    ("oracle check --timeout nan", "timeout is nan, wanted seconds, more than 0"),
    ("oracle check --timeout 0", "timeout is 0.0, wanted seconds, more than 0"),
    ("oracle check --timeout=-1e300", "timeout is -1e+300, wanted seconds, more than 0"),
    ("oracle check --timeout=-inf", "timeout is -inf, wanted seconds, more than 0"),
    ("oracle check --timeout EMPTY", "argument --timeout: invalid float value: ''"),
    ("oracle check EMPTY:EMPTY", "wanted package.module:function"),
    ("eval " + "x" * 5000, "File name too long"), ("train sinusoid --out " + "x" * 5000, "File name too long"),
    ("eval RUN --on " + "x" * 5000, "wanted one of sinusoid"),
])  # fmt: skip
def test_an_odd_word_is_one_line(trained, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    if "plot" in words or "compare" in words:
        pytest.importorskip("matplotlib")
    np.savez("x.npz", x=np.zeros((2, 1)), y=np.zeros((2, 1)))
    command = [{"RUN": str(trained), "EMPTY": "", "EMPTY:EMPTY": ":"}.get(word, word) for word in words.split(" ")]
    more = ["--tasks", "2", "--iterations", "1", "--no-compile"] if "--out run" in words else []
    line = fails(capsys, *command[:2], *_without(more, command), *command[2:])
    assert message in line
    assert not Path("~nosuchuser").exists()
    if "--out run" in words and "diverged" not in message and "loss" not in message:
        assert not Path("run").exists()


def _without(more: list[str], command: list[str]) -> list[str]:
    """Options of a small run, but for those that the command has itself."""
    pairs = [more[i : i + 2] for i in (0, 2)] + [more[4:]] if more else []
    return [word for pair in pairs if pair[0] not in command for word in pair]


def test_a_user_that_there_is_not_is_named_by_every_function_that_takes_a_path(trained, small_data):
    pytest.importorskip("matplotlib")
    from tinymaml import pictures
    from tinymaml.families import fetch
    from tinymaml.pictures.compare import picture_path

    settings = {family: small_data(family) | {"data": NOBODY} for family in ("digits", "images", "intents", "speech")}
    uses = [lambda f=f, s=s: Learner(Config.default(f, **s)).sample(np.random.default_rng(0), 1, "train")
            for f, s in settings.items()]  # fmt: skip
    uses += [lambda: pictures.plot(trained, NOBODY), lambda: picture_path(NOBODY + ".png"),
             lambda: omniglot.load(NOBODY), lambda: open_data(NOBODY).__enter__(),
             lambda: fetch.fetch(fetch.SETS["omniglot"], NOBODY)]  # fmt: skip
    for use in uses:
        with pytest.raises(FileNotFoundError, match="there is no home folder for ~nosuchuser/x"):
            use()


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory, whose modules are candidates for the oracle."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(tm.__file__).parents[1]))
    return tmp_path


@pytest.mark.parametrize("timeout", [
    pytest.param("1e10", marks=pytest.mark.slow), pytest.param("1e300", marks=pytest.mark.slow), "inf"])  # fmt: skip
def test_a_long_time_out_is_as_long_as_can_be(here, capsys, timeout):
    (here / "mine.py").write_text("def f(case):\n    return {}\n", encoding="utf-8")
    assert main(["oracle", "check", "mine:f", "--timeout", timeout, "--case", "tanh"]) != 0
    done = capsys.readouterr()
    assert "Traceback" not in done.err.partition("stderr:")[0] and "meta_grad" in done.out
    with within():
        assert tm.oracle.check(lambda case: {}, timeout=float(timeout), cases="tanh").verdict == "PROTOCOL_ERROR"


ODD_ANSWERS = """
class Odd:
    def __repr__(self): return "<an odd one>"
def nested(case):
    x = 1.0
    for _ in range(50_000): x = [x]
    return {"meta_grad": {"w1": x}}
def itself(case):
    x = []
    x.append(x)
    return {"meta_grad": x}
def odd(case): return {"meta_grad": {n: Odd() for n in case.params}}
def loss(case): return {"meta_grad": {}, "meta_loss": 1j}
def text(case): return {"meta_grad": {n: "abc" for n in case.params}}
def late(case): import nosuchmodule
"""
TOO_DEEP = "a list that is nested more than 64 deep"


@pytest.mark.parametrize("name, cause", [
    ("nested", f"TypeError: the answer['meta_grad']['w1'] is {TOO_DEEP}, wanted numbers"),
    pytest.param("itself", f"TypeError: the answer['meta_grad'] is {TOO_DEEP}, wanted numbers", marks=pytest.mark.slow),
    ("odd", "TypeError: the answer['meta_grad']['w1'] is <an odd one> of the type Odd, wanted numbers"),
    ("loss", "TypeError: the answer['meta_loss'] is 1j of the type complex, wanted numbers"),
    pytest.param("text", "meta_grad['w1'] has dtype <U3, wanted floating-point numbers", marks=pytest.mark.slow),
    ("late", "ModuleNotFoundError: No module named 'nosuchmodule'"), ("none", "ValueError: odd has no function 'none'"),
])  # fmt: skip
def test_the_cause_of_an_answer_that_is_none_is_the_value_and_its_type(here, capsys, name, cause):
    (here / "odd.py").write_text(ODD_ANSWERS, encoding="utf-8")
    assert main(["oracle", "check", f"odd:{name}", "--case", "tanh", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["verdict"] == "PROTOCOL_ERROR" and cause in report["explanation"]


def test_a_module_that_cannot_be_imported_is_the_cause(here, capsys):
    assert main(["oracle", "check", "nosuchmodule:f", "--case", "tanh", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert "there is no module 'nosuchmodule' here" in report["explanation"]


@posix
def test_a_child_that_a_candidate_leaves_behind_ends_with_the_check(here):
    program = "import subprocess\ndef f(case):\n    subprocess.Popen(['sleep', '1234.5'])\n    return {}\n"
    (here / "mine.py").write_text(program, encoding="utf-8")
    main(["oracle", "check", "mine:f", "--case", "tanh"])
    until = loop.time.monotonic() + 10
    while (left := _running("1234.5")) and loop.time.monotonic() < until:
        loop.time.sleep(0.1)
    assert not left


def _running(word: str) -> list[str]:
    """The processes that have a word in their command and are not over."""
    if not Path("/proc/self/cmdline").exists():
        pytest.skip("there is no /proc here")
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if word.encode() in (place / "cmdline").read_bytes().split(b"\0"):
                found.append(place.name)
        except OSError:  # it has ended meanwhile
            continue
    return found


def test_an_answer_that_is_not_utf_8_is_named(tmp_path, capsys):
    (tmp_path / "0000.json").write_bytes(b"\xff\xfe")
    assert "0000.json is not UTF-8" in fails(capsys, "oracle", "check", "--from", tmp_path)


def test_memory_that_does_not_suffice_is_said_so(trained, capsys, monkeypatch):
    from tinymaml.runs import evaluate as module

    def hungry(*args, **options):
        raise MemoryError

    monkeypatch.setattr(module, "evaluate", hungry)
    assert fails(capsys, "eval", trained).startswith("tinymaml: the memory of this machine does not suffice")


@pytest.mark.parametrize("words, message", [
    ("lines --features 1000000000", "features is 1000000000, wanted at most 1,000,000"),
    ("separators --features 1000000000", "features is 1000000000, wanted at most 1,000,000"),
    ("robot --queries 10000000000000", "25 tasks × 10,000,000,000,010 examples × 10 numbers need "),
    ("growth --shots 1000000000000000", "examples × 1 numbers need "),
    ("sinusoid --algorithm cavia --context 1000000000000", "40,000,000,000,040 weights and more need 1.3 PB"),
    ("omniglot --data x --filters 1000000000 --model conv", "no Omniglot at"),
    ("omniglot --data x --hidden 10000000000 10000000000 --model mlp", "no Omniglot at"),
    ("omniglot --data x --blocks 1000000000 --model conv", "blocks is 1000000000, wanted at most 1,000"),
    ("images --data x --size 10000000", "16 tasks × 25 examples × 300,000,000,000,000 numbers need"),
    ("intents --data x --vocabulary 10000000000000000", "no data at"),
])  # fmt: skip
def test_sizes_of_any_family_are_refused_first(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert message in fails(capsys, "train", *words.split(), "--out", "run")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


# ── what is run once ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_function_that_cannot_be_recorded_runs_once_per_call():
    fast, x = tm.compile(lambda x: np.add(x, 1, out=x)), np.zeros(3)
    with pytest.warns(UserWarning, match="runs as it is: .*out="):
        for times in (1, 2, 3):
            np.testing.assert_array_equal(fast(x), np.full(3, times))
    np.testing.assert_array_equal(x, np.full(3, 3))


def test_tasks_in_lists_of_lists_are_compiled():
    loss = lambda w, x, y: np.mean((x @ w - y) ** 2)  # noqa: E731
    xs, ys, xq, yq = (np.random.default_rng(0).normal(size=shape) for shape in ((4, 5, 2), (4, 5), (4, 5, 2), (4, 5)))
    f = tm.meta_value_and_grad(loss, inner_lr=0.1, inner_steps=2)
    fast, w = tm.compile(f), np.ones(2)
    for tasks in ([[xs, ys], [xq, yq]], [[[xs[i], ys[i]], [xq[i], yq[i]]] for i in range(4)]):
        np.testing.assert_allclose(fast(w, tasks)[0], f(w, ((xs, ys), (xq, yq)))[0], rtol=1e-12)
        np.testing.assert_allclose(fast(w, tasks)[1], f(w, ((xs, ys), (xq, yq)))[1], rtol=1e-12)


def test_integers_of_a_byte_wrap_as_numpys_do():
    fast = tm.compile(lambda x, n: x + n)
    found = fast(np.array([100], np.uint8), 200)
    assert found.dtype == np.uint8 and found.tolist() == [44]


# ── the surroundings ────────────────────────────────────────────────────────────────────────────────────────────────


TRAIN = ["train", "sinusoid", "--tasks", "2", "--iterations", "6", "--save-every", "3", "--no-compile", "--hidden", "6"]


@posix
@pytest.mark.parametrize("how", [
    pytest.param("closed", marks=pytest.mark.slow), "a reader that has gone", "a full disk", "all closed"])  # fmt: skip
def test_training_goes_on_where_nobody_hears(tmp_path, how):
    program = "import os, sys; from tinymaml.cli import main; sys.exit(main(sys.argv[1:]))"
    ends = {"closed": "2>&-", "a full disk": "2>/dev/full", "all closed": "<&- >&- 2>&-",
            "a reader that has gone": "2>&1 | true"}[how]  # fmt: skip
    if how == "a full disk" and not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")
    words = " ".join([*TRAIN, "--out", "run"])
    environment = {**os.environ, "PYTHONPATH": str(Path(tm.__file__).parents[1])}
    command = f'"{sys.executable}" -c "{program}" {words} {ends}'
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, env=environment, timeout=120)
    assert done.returncode == 0
    until = loop.time.monotonic() + 60  # `| true` does not wait for it
    while not (tmp_path / "run" / "checkpoints" / "00000006.json").exists() and loop.time.monotonic() < until:
        loop.time.sleep(0.1)
    assert Run.open(tmp_path / "run").load().iteration == 6
    train(Config.default("sinusoid", tasks=2, iterations=6, save_every=3, compile=False, hidden=(6,)),
          tmp_path / "whole", progress=False)  # fmt: skip
    for name in ("log.jsonl", "checkpoints/00000006.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@posix
def test_standard_input_that_is_closed_is_one_line(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(Path(tm.__file__).parents[1])}
    command = f'"{sys.executable}" -m tinymaml oracle check <&-'
    done = subprocess.run(["sh", "-c", command], env=environment, timeout=120, capture_output=True, encoding="utf-8")
    assert done.returncode == 1 and done.stderr.startswith("tinymaml: standard input is closed")


@posix
@pytest.mark.parametrize("words", [
    ["train", "lines", "--tasks", "2", "--iterations", "2", "--out", "run"],
    pytest.param(["cache"], marks=pytest.mark.slow)], ids=lambda words: words[0])  # fmt: skip
def test_a_user_without_a_name_and_a_home_can_work(tmp_path, words):
    """As in a container: training goes on, and one warning names the cache."""
    program = (
        "import pwd, sys\n"
        "def nobody(*_): raise KeyError('no such user')\n"
        "pwd.getpwuid = pwd.getpwnam = nobody\n"
        "from tinymaml.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    env = {name: x for name, x in os.environ.items() if name not in ("HOME", "TINYMAML_CACHE")}
    env["PYTHONPATH"] = str(Path(tm.__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", program, *words], cwd=tmp_path, env=env, timeout=120,
                          capture_output=True, encoding="utf-8")  # fmt: skip
    assert done.returncode == (words == ["cache"]) and "Traceback" not in done.stderr, done.stderr
    assert done.stderr.count("there is no home folder for ~/.cache/tinymaml: set TINYMAML_CACHE") == 1


# ── data ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def png(width: int, height: int) -> bytes:
    """A PNG of white pixels, of one bit each; without what comes after its first 1,000 rows."""
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    # of an image that is too large, the head must do
    body = zlib.compress((b"\0" + b"\xff" * ((width + 7) // 8)) * min(height, 1000))
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize("width, height", [
    (1, 100_000_000), pytest.param(100_000_000, 1, marks=pytest.mark.slow), (20_000, 20_000), (106, 105)])  # fmt: skip
def test_an_image_of_another_size_is_refused_before_it_is_unpacked(tmp_path, width, height):
    pytest.importorskip("PIL.Image")
    resource = pytest.importorskip("resource")
    folder = tmp_path / "images_background" / "Alpha" / "character01"
    folder.mkdir(parents=True)
    for i in range(20):
        (folder / f"0001_{i:02}.png").write_bytes(png(width, height))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with warnings.catch_warnings(), within():
        warnings.simplefilter("error")  # Pillow's own
        with pytest.raises(ValueError, match=r"0001_00\.png is "):
            omniglot.load(tmp_path, cache=False)
        with pytest.raises(ValueError, match=r"0001_00\.png is "):
            omniglot.read(folder / "0001_00.png", omniglot.Settings())
        if (width, height) != (106, 105):
            from tinymaml.families.images import decoded

            with pytest.raises(ValueError, match="x.png is not a readable PNG or JPEG: .*pixels"):
                decoded((folder / "0001_00.png").read_bytes(), 32, False, "x.png")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_drawing_that_is_there_twice_is_refused_by_name(tmp_path):
    pytest.importorskip("PIL.Image")
    names = [f"images_background/Alpha/character01/0001_{i:02}.png" for i in range(1, 20)]
    cases = {
        names[3]: "character01/0001_04.png is there twice",
        names[3].replace(".png", " copy.png"): "0001_04.png is the same drawing as .*0001_04 copy.png",
        None: "character01 has 19 drawings, wanted 20",
    }
    for last, message in cases.items():
        with zipfile.ZipFile(tmp_path / "images_background.zip", "w") as archive:
            for name in sorted([*names, *([last] if last else [])], key=lambda name: name.replace(" copy", "")):
                archive.writestr(name, png(105, 105))
        with pytest.raises(ValueError, match=message):
            omniglot.load(tmp_path, cache=False)


@pytest.mark.parametrize("other", [
    np.zeros((3, 2), np.float32), np.zeros((2, 3)), np.zeros(6, np.float32), np.ones((2, 3), np.float32),
])  # fmt: skip
def test_a_kept_array_of_another_shape_dtype_or_value_is_made_anew(tmp_path, monkeypatch, other):
    monkeypatch.setenv("TINYMAML_CACHE", str(tmp_path / "cache"))
    (tmp_path / "x").write_text("x", encoding="utf-8")

    def made():
        return kept("x", 1, [tmp_path / "x"], lambda: {"n": np.zeros((2, 3), np.float32)})["n"]

    made()
    (file,) = (tmp_path / "cache").glob("*.npz")
    with np.load(file) as stored:
        content = dict(stored)
    np.savez(file, **{**content, "n": other})
    with pytest.warns(UserWarning, match="cannot use the cache .*it is not as it was written.: reading x anew"):
        found = made()
    assert (found.shape, found.dtype) == ((2, 3), np.float32) and not found.any()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made()  # it was written anew
        np.savez(file, **{key: x for key, x in content.items() if key != "digest"})  # by a version without a digest
        made()


def test_what_is_larger_than_any_data_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    from tinymaml.families import reading

    monkeypatch.setattr(reading, "LARGEST", 10_000)
    import gzip

    for size in (10_000, 10_001, 10_000_000):
        with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("one.txt", bytes(size))
        packed = gzip.compress(bytes(size))
        with open_data(tmp_path / "x.zip") as source:
            if size == 10_000:
                assert source.read("one.txt") == inflated(packed, "x.gz") == bytes(size)
                assert inflated(gzip.compress(b"1") + gzip.compress(b"2"), "x.gz") == b"12"
                continue
            with pytest.raises(ValueError, match=r"x\.zip: one\.txt has 1. [kM]B, wanted at most 10 kB"):
                source.read("one.txt")
        with pytest.raises(ValueError, match=r"x\.gz has more than 10 kB when it is unpacked"):
            inflated(packed, "x.gz")


@posix
def test_a_file_larger_than_the_memory_is_refused(tmp_path):
    from tinymaml.files import memory, read_file

    with open(tmp_path / "sparse", "wb") as file:
        try:
            file.truncate(4 * memory())
        except OSError:
            pytest.skip("no sparse files here")
    with pytest.raises(OSError, match=r"sparse has \d+ .B, wanted a file of at most \d+ .B"):
        read_file(tmp_path / "sparse")


@posix
def test_what_a_killed_writer_left_is_removed_by_the_next_one_and_by_no_other(tmp_path):
    from tinymaml.files import atomic_write, write_atomically

    left, other, foreign = (tmp_path / name for name in (".x.12345678.tmp", ".y.12345678.tmp", ".x.old.tmp"))
    for file in (left, other, foreign):
        file.touch()
    with atomic_write(tmp_path / "x") as file:
        file.write(b"1")
        assert not left.exists()
        write_atomically(tmp_path / "x", b"2")  # another writer leaves what is being written alone
        assert Path(file.name).exists()
    assert (tmp_path / "x").read_bytes() == b"1" and other.exists() and foreign.exists()
