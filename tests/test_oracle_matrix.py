"""The control matrix: a cell is right by its numbers, and only by them; and what has been kept is not asked again."""

import argparse
import json

import numpy as np
import pytest

pytest.importorskip("torch")

from bench.oracle import kept, matrix, mistakes  # noqa: E402
from tinymaml import oracle  # noqa: E402
from tinymaml.oracle.catalogue import CATALOGUE  # noqa: E402

pytestmark = pytest.mark.usefixtures("confirmed_once", "computed_once")
PARTS = "part_of_set_per_step"  # with one step, the one part of the examples is all of them


def by_formula(name: str):
    """A form's own numbers."""
    id, _, place = name.partition("/")
    return mistakes.by_formula(CATALOGUE[id].forms[int(place or 0)])


def cell(name: str, case: str, made: str | None = None) -> str:
    """The cell of the form `name`, where the form `made` was made."""
    (asked,) = (c for c in oracle.load("core") if c.id == case)
    return matrix.cell(name.split("/")[0], name, by_formula(made or name), asked, "float64")


@pytest.mark.parametrize(("name", "case", "mark"), [
    ("hessian_sign", "integers-2", "●"), ("stale_gradient", "integers-2", "○"), (f"{PARTS}/3", "integers-1", "◐"),
    (PARTS, "integers-1", "·"), ("first_order_ignored", "tied", "·"),
])  # fmt: skip
def test_the_mark_of_a_cell(name, case, mark):
    assert cell(name, case) == mark


@pytest.mark.parametrize(("name", "case", "made"), [
    ("fomaml", "integers-2", "inner_ascent"), (f"{PARTS}/3", "integers-1", "inner_ascent"),
    (f"{PARTS}/3", "tied", "fomaml"),
])  # fmt: skip
def test_another_name_is_wrong_where_its_numbers_are_others(name, case, made):
    assert cell(name, case, made) == "X"


def test_no_name_is_wrong(few_forms):
    few_forms("fomaml")
    (case,) = (c for c in oracle.load("core") if c.id == "integers-1")
    wrong = lambda case: {"meta_grad": {n: np.arange(p.size).reshape(p.shape) + 0.3 for n, p in case.params.items()}}  # noqa: E731
    assert matrix.cell("fomaml", "fomaml", wrong, case, "float64") == "X"


def test_what_has_been_kept_is_not_asked_again(tmp_path, monkeypatch):
    asked = []

    def control(id, *_):
        asked.append(id)
        if id == "zero_gradient" and len(asked) == 2:
            raise KeyboardInterrupt
        return [matrix.Row(id, 0, "a way", "float64", "KNOWN_BUG", id, [], True, 1.0, {"tied": "●", "tanh": "X"})]

    for name, made in dict(control=control, suite_of=lambda *_: [], special_cases=list).items():
        monkeypatch.setattr(matrix, name, made)
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
