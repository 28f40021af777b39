"""The page of functions is what the code would make of it now."""

import numpy as np
import pytest

from bench import functions
from tinymaml.numpy_api import NUMPY, numpy_name, special


@pytest.fixture(scope="module")
def text() -> str:
    pytest.importorskip("numba")
    pytest.importorskip("scipy")
    return functions.page()


@pytest.mark.skipif(np.lib.NumpyVersion(np.__version__) < "2.4.0", reason="the page has the functions of a newer NumPy")
def test_the_page_is_up_to_date(text):
    assert functions.PAGE.read_text(encoding="utf-8") == text, "run python -m bench.functions"


def test_every_function_stands_on_it_once(text):
    lines = text.splitlines()
    for f in NUMPY:
        assert sum(line.startswith(f"| `np.{numpy_name(f)}(") for line in lines) == 1, numpy_name(f)
    for f in special.SCIPY:
        assert sum(line.startswith(f"| `scipy.special.{f.__name__}(") for line in lines) == 1, f.__name__


def test_what_it_says_of_machine_code_is_so(text):
    rows = {line.split("(")[0].strip("| `"): line for line in text.splitlines() if line.startswith("| `")}
    assert rows["np.tanh"].endswith("| yes | yes |  |") and "| yes | no |" in rows["np.fft.rfft"]
    assert "| 0 | yes |" in rows["np.floor"] and "| yes | partly |" in rows["np.matmul"]


def test_a_page_that_is_not_up_to_date_is_an_error(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(functions, "PAGE", tmp_path / "README.md")
    monkeypatch.setattr(functions, "page", lambda: "the page")
    assert functions.main(["--check"]) == 1 and "run python -m bench.functions" in capsys.readouterr().out
    assert functions.main([]) == 0 and functions.main(["--check"]) == 0
