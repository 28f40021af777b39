"""The control matrix: what has been kept is not asked again."""

import argparse
import json

import pytest

pytest.importorskip("torch")

from bench.oracle import kept, matrix  # noqa: E402


def test_what_has_been_kept_is_not_asked_again(tmp_path, monkeypatch):
    asked = []

    def control(id, *_):
        asked.append(id)
        if id == "zero_gradient" and len(asked) == 2:
            raise KeyboardInterrupt
        return [matrix.Row(id, 0, "a way", "float64", "KNOWN_BUG", id, [], True, 1.0, {"tied": "●", "tanh": "X"})]

    monkeypatch.setattr(matrix, "control", control)
    args = argparse.Namespace(suite="core", no_cells=False, only=["fomaml", "zero_gradient"], json=tmp_path / "x.json")
    with pytest.raises(KeyboardInterrupt):
        matrix.run_all(args, ["float64"])
    rows, two, unknown = matrix.run_all(args, ["float64"])
    assert asked == ["fomaml", "zero_gradient", "zero_gradient"] and (two, unknown) == ([], [])
    assert [(row.id, row.named, row.seen) for row in rows] == [("fomaml", 1, 2), ("zero_gradient", 1, 2)]
    matrix.run_all(argparse.Namespace(**vars(args) | {"no_cells": True}), ["float64"])
    assert asked[3:] == ["fomaml", "zero_gradient"]  # it is another question


def test_a_record_of_another_state_is_not_there(tmp_path):
    source = tmp_path / "made.py"
    source.write_text("x = 1\n")
    before = kept.digest([source], "core")
    kept.Kept(tmp_path / "k.json").add("a", before, {"n": 1})
    source.write_text("x = 2\n")
    again = kept.Kept(tmp_path / "k.json")
    assert again.of("a", before)["n"] == 1 and again.of("a", kept.digest([source], "core")) is None
    assert again.of("b", before) is None and json.loads((tmp_path / "k.json").read_text())["a"]["state"] == before
    assert kept.digest([source], "core") != kept.digest([source], "full")
