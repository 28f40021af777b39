"""Types: a user's script is clean for mypy, and what is wrong in one is found."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mypy")

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "tests" / "user_script.py"


@pytest.fixture(scope="module")
def mypy(tmp_path_factory):
    """A function: the errors that mypy finds in a file, by the settings of pyproject.toml.

    Those in tinymaml itself are `.ci/run`'s to find; they depend on the types that a version of NumPy declares.
    """
    cache = tmp_path_factory.mktemp("mypy")

    def check(path: Path) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-m", "mypy", "--cache-dir", str(cache), "--warn-unused-ignores", str(path)], cwd=ROOT,
            capture_output=True, encoding="utf-8",
        )  # fmt: skip
        assert done.returncode in (0, 1), done.stdout + done.stderr
        return [line for line in done.stdout.splitlines() if re.match(rf".*{path.stem}\.py:\d+: error: ", line)]

    return check


def test_a_script_is_clean_and_its_wrong_calls_are_found(mypy):
    assert mypy(SCRIPT) == []


def test_without_its_ignores_each_wrong_line_is_an_error(mypy, tmp_path):
    lines = SCRIPT.read_text("utf-8").replace("  # type: ignore", "  # planted").splitlines()
    (tmp_path / "planted.py").write_text("\n".join(lines) + "\n", "utf-8")
    found = {int(error.split(".py:")[1].split(":")[0]) for error in mypy(tmp_path / "planted.py")}
    assert found == {i for i, line in enumerate(lines, 1) if "# planted" in line} and len(found) >= 7


def test_what_is_clean_runs():
    from user_script import right

    rng = np.random.default_rng(0)
    assert np.isfinite(right({"w": rng.normal(size=(2, 1))}, rng.normal(size=(3, 2)), rng.normal(size=(3, 1))))
