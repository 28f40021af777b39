"""The README's Python runs as it stands, from top to bottom, and its family is the one that the tests use."""

import re
import warnings
from pathlib import Path

import numpy as np
import pytest

import tinymaml as tm

pytest.importorskip("numba")
pytest.importorskip("safetensors")
pytest.importorskip("tqdm")
pytest.importorskip("filelock")

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder that has `runs/sinusoid`, as `tinymaml train sinusoid` leaves it."""
    from tinymaml.runs.loop import train
    from tinymaml.runs.settings import Config

    folder = tmp_path_factory.mktemp("readme")
    config = Config.default("sinusoid", iterations=2, hidden=(4,), save_every=2)
    train(config, folder / "runs" / "sinusoid", progress=False)
    return folder


def test_its_python_runs(run, monkeypatch, capsys):
    monkeypatch.chdir(run)
    rng = np.random.default_rng(0)
    x = rng.uniform(-5, 5, (5, 1))
    space = {"np": np, "tm": tm, "x": x, "y": np.sin(x)}
    ran = 0
    for block in BLOCKS:
        if "import torch" in block:  # tests of the oracle run what is like it
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            exec(compile(block, "README.md", "exec"), space)
        ran += 1
    assert ran == len(BLOCKS) - 1 >= 5
    assert "second order" in capsys.readouterr().out  # the listing
    value, gradient = space["value"], space["gradient"]
    assert np.isfinite(value) and gradient.keys() == space["params"].keys()


def test_its_algorithm_has_five_lines():
    (block,) = [block for block in BLOCKS if "def reptile" in block]
    lines = block[block.index("def reptile") : block.index("\n\nvalue")].splitlines()
    assert len(lines) == 5


def test_its_family_is_the_one_of_the_tests():
    (block,) = [block for block in BLOCKS if "class Settings" in block]
    assert block.strip() in (ROOT / "tests" / "user_family.py").read_text("utf-8")
