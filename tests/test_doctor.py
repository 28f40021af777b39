"""The doctor: it says what a report needs, and a wrong derivative or a wrong program does not pass it."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

import tinymaml as tm
from tinymaml import doctor
from tinymaml.cli import main

PROJECT = (Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8")


@pytest.fixture(scope="module", autouse=True)
def small():
    """A meta-gradient that is soon computed."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in dict(TASKS=3, SHOTS=4, HIDDEN=3, STEPS=2, REPEATS=1).items():
            patch.setattr(doctor, name, value)
        yield


@pytest.fixture(scope="module")
def report(small, own_cache):
    return doctor.findings()


def test_it_says_what_a_report_needs(report):
    assert report["healthy"] and report["tinymaml"] == tm.__version__
    assert report["packages"]["numpy"] == np.__version__
    assert report["threads"]["used"] >= 1 and report["cache"]["limit"] > 0
    gradient = report["meta_gradient"]
    assert gradient["error"] is None and gradient["reference_seconds"] > 0
    assert 0 <= gradient["largest_difference"] <= doctor.ROUNDING
    assert json.loads(json.dumps(report)) == report


def test_it_runs_the_program_where_there_is_numba_and_tells_blas_from_blas(report):
    pytest.importorskip("numba")
    pytest.importorskip("threadpoolctl")
    gradient = report["meta_gradient"]
    assert gradient["not_compiled"] is None and gradient["compiled_seconds"] > 0 and gradient["warnings"] == []
    assert report["cache"]["programs"] >= 1 and report["cache"]["writable"]
    assert all(x["version"] and x["threads"] >= 1 for x in report["blas"])


def test_its_page_has_all_of_it(report):
    lines = doctor.page(report).splitlines()
    names = [line[:10].strip() for line in lines]
    assert {"tinymaml", "python", "system", "packages", "missing", "blas", "threads", "cache", "engine"} <= {*names}
    assert "compiled" in names
    assert lines[-1] == "verdict   the meta-gradient is right"
    for name, version in report["packages"].items():
        assert (name if version is None else f"{name} {version}") in " ".join(lines)


def test_it_knows_every_package_of_the_extras():
    wanted = set()
    extras = re.search(r'^all = \["tinymaml\[(.+)\]"\]', PROJECT, re.M)[1].split(",")
    for extra in (*extras, "peers"):
        listed = re.search(rf"^{extra} = \[(.*?)\]", PROJECT, re.M | re.S)[1]
        wanted |= set(re.findall(r'"([\w.-]+)[=>]', listed))
    assert len(wanted) >= 13 and wanted <= set(doctor.PACKAGES)


def test_a_wrong_rule_does_not_pass(monkeypatch, capsys):
    right = tm.ops.tanh.vjp[0]
    monkeypatch.setattr(tm.ops.tanh, "vjp", (lambda g, out, x: 1.01 * right(g, out, x),))
    assert main(["doctor"]) == 1
    assert "the engine's derivative is wrong" in capsys.readouterr().out.splitlines()[-1]


def test_a_wrong_program_does_not_pass(monkeypatch, capsys):
    def spoiled(f):
        def g(params, tasks):
            value, grads = f(params, tasks)
            return value, grads | {"w1": grads["w1"] * (1 + 1e-6)}

        return g

    monkeypatch.setattr(doctor, "compile", spoiled)
    assert main(["doctor", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert not report["healthy"] and "differs from the engine's by 1.0e-06" in report["meta_gradient"]["error"]


def test_without_machine_code_it_says_why(monkeypatch):
    def uncompiled(f):
        import warnings

        def g(*args):
            warnings.warn("numba is not installed", tm.CompileWarning, stacklevel=2)
            return f(*args)

        return g

    monkeypatch.setattr(doctor, "compile", uncompiled)
    report = doctor.findings()
    assert report["healthy"] and report["meta_gradient"]["compiled_seconds"] is None
    assert report["meta_gradient"]["not_compiled"] == "CompileWarning: numba is not installed"
    assert "compiled  no, see the warning" in doctor.page(report)


def test_a_cache_that_cannot_be_used_is_named_and_the_home_folder_is_not(monkeypatch, tmp_path):
    home = tmp_path / "home"
    (home / "cache").mkdir(parents=True)
    (home / "cache" / "programs").write_text("a file in the place of the folder")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    monkeypatch.setenv("TINYMAML_CACHE", str(home / "cache"))
    cache = doctor._cache()
    assert not cache["writable"] and str(home) not in json.dumps(cache)
    assert "programs is not a folder" in cache["problem"]
