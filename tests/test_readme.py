"""The Python of the README, and of what it refers to, runs from top to bottom; its family is the one of the tests."""

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
PAGES = {name: (ROOT / name).read_text("utf-8") for name in ("README.md", "tinymaml/runs/README.md")}
BLOCKS = [block for page in PAGES.values() for block in re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.M)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder that has `runs/sinusoid`, as `tinymaml train sinusoid` leaves it."""
    from tinymaml.runs.loop import train
    from tinymaml.runs.settings import Config

    folder = tmp_path_factory.mktemp("readme")
    config = Config.default("sinusoid", iterations=2, hidden=(4,), save_every=2)
    train(config, folder / "runs" / "sinusoid", progress=False)
    return folder


def test_its_python_runs(run, quick_code, monkeypatch, capsys):
    monkeypatch.chdir(run)
    rng = np.random.default_rng(0)
    x = rng.uniform(-5, 5, (5, 1))
    space = {"np": np, "tm": tm, "x": x, "y": np.sin(x)}
    ran = 0
    for block in BLOCKS:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            exec(compile(block, "README.md", "exec"), space)
        ran += 1
    assert ran == len(BLOCKS) >= 5
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


def test_the_readme_is_short_and_its_links_lead_somewhere():
    assert len(PAGES["README.md"].splitlines()) <= 130
    for name in (*PAGES, "bench/README.md", "tinymaml/oracle/README.md"):
        for link in re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / name).read_text("utf-8")):
            assert link.startswith("https://") or ((ROOT / name).parent / link).exists(), (name, link)
