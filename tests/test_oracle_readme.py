"""The oracle's README: every candidate is CORRECT, every command says what stands there, every name exists."""

import argparse
import contextlib
import importlib
import io
import json
import os
import re
import secrets
import shlex
import sys
import textwrap
from pathlib import Path

import pytest

from tinymaml import oracle
from tinymaml.cli import main
from tinymaml.oracle import cases, commands, models
from tinymaml.oracle.diagnosis import judge
from tinymaml.oracle.judge import checking, protocol, worker
from tinymaml.oracle.pages import report
from tinymaml.oracle.questions import read_answer

PAGE = (Path(__file__).parents[1] / "tinymaml" / "oracle" / "README.md").read_text("utf-8")
FILES = {re.match(r"# (\S+)\n", block)[1]: block for block in re.findall(r"^```python\n(.*?)^```", PAGE, re.S | re.M)}
FRONT = (Path(__file__).parents[1] / "README.md").read_text("utf-8")
SESSIONS = [block for page in re.findall(r"^```console\n(.*?)^```", PAGE, re.S | re.M)
            for block in re.split(r"^(?=\$ )", page, flags=re.M) if block]  # fmt: skip
SESSIONS += [textwrap.dedent(x) for x in re.findall(r"^    \$ tinymaml oracle .*\n(?:(?:    .*)?\n)*", FRONT, re.M)]
NEEDS = {"mine.py": "torch", "mine_rl.py": "torch", "mine_jax.py": "jax", "mine_jit.py": "jax"}
OF = {"mine_rl.py": "rl"}  # the algorithm, where it is not MAML


@pytest.fixture
def folder(tmp_path, monkeypatch, confirmed_once, computed_once):
    """A folder with the page's files; what is imported from there is forgotten afterwards. The new cases are the same
    for all commands."""
    monkeypatch.setattr(secrets, "randbelow", lambda n: 0)
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(os.path.abspath, filter(None, sys.path))))
    yield tmp_path
    for name in FILES:
        sys.modules.pop(name.removesuffix(".py"), None)


@pytest.fixture(params=["in this process", pytest.param("in its own", marks=pytest.mark.slow)])
def candidates(request, folder, monkeypatch):
    """Where the candidates of the commands run: a process of their own takes seconds to import PyTorch."""
    if request.param == "in its own":
        return

    def check_function(target, suite, *, folders, echo, watch=None, **options):
        return oracle.check(worker.resolve(target, tuple(folders)), suite, **options)

    def ask_one(target, case, timeout, echo):
        return checking._ask(worker.resolve(target), case, timeout)

    monkeypatch.setattr(protocol, "check_function", check_function)
    monkeypatch.setattr(commands, "ask_one", ask_one)


def few(*ids: str) -> list:
    return [case for case in oracle.load("core") if case.id in ids]


@pytest.mark.parametrize("name", FILES)
def test_its_candidates_are_right(folder, name):
    """In every case of the core, where that is fast; the compiled one compiles once per model and K."""
    pytest.importorskip(NEEDS.get(name, "numpy"))
    maml = importlib.import_module(name.removesuffix(".py")).maml
    if "jax" not in FILES[name]:
        got = oracle.check(maml, oracle.load("core", algorithm=OF.get(name, "maml")))
        assert got.verdict == "CORRECT", str(got)
        return
    eager = "compiled" not in FILES[name]
    for case in few("quartic") if eager else few("logistic", "integers-2"):  # the whole core takes a minute
        assert judge(case, read_answer(case, maml(case))).passed
    if not eager:
        compiled = importlib.import_module("mine_jit").compiled
        maml(few("logistic")[0].permuted([1, 2, 3, 0]))
        assert len(compiled) == 2 and all(f._cache_size() == 1 for f in compiled.values())


@pytest.mark.parametrize("session", SESSIONS, ids=[s.split("\n")[0] for s in SESSIONS])
def test_its_commands_say_what_stands_there(folder, candidates, session):
    pytest.importorskip("torch")
    command, wanted = session.split("\n", 1)
    if "CORRECT\n" not in wanted:  # as it is most often forgotten
        mine = folder / "mine.py"
        mine.write_text(mine.read_text("utf-8").replace(", create_graph=True", ""), encoding="utf-8")
    words = shlex.split(command.removeprefix("$ "))
    assert words[0] == "tinymaml"
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = main(words[1:])
    at, kept = out.getvalue(), "…(I − αH_{K−1})"
    for part in wanted.replace(kept, "\0").split("…"):  # … stands for anything
        part = part.replace("\0", kept).strip("\n ")
        assert part in at, f"{part!r} is not said by {command!r}, or not in that order:\n{out.getvalue()}"
        at = at[at.index(part) + len(part) :]
    assert code == (0 if "CORRECT\n" in wanted or words[2:3] == ["show"] and "--mine" not in words else 1)


def test_the_front_page_shows_it_too():
    assert any("KNOWN_BUG" in session for session in SESSIONS[-1:]) and SESSIONS[-1].split("\n")[0] in FRONT


def test_its_workflow_writes_the_badge(folder, candidates, capsys):
    pytest.importorskip("torch")
    (flow,) = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.S | re.M)
    assert len(flow.splitlines()) == 5
    (command,) = re.findall(r"run: tinymaml (.*)", flow)
    assert main(shlex.split(command)) == 0
    for name in ("badge.json", "badge.shields.json"):
        assert name in PAGE and json.loads((folder / "public" / name).read_text("utf-8"))["message"] == "exact"


def test_its_verdicts_are_all_there():
    rows = re.findall(r"^\| `([A-Z_]+)` \| (.*) \|$", PAGE, re.M)
    assert [name for name, _ in rows] == list(report.VERDICTS)
    for name, said in rows:
        assert said.split(",")[0].split(" (")[0].split(":")[0].split(";")[0] in report.VERDICTS[name]


def test_its_options_and_commands_exist():
    parser = argparse.ArgumentParser()
    commands.add_commands(parser)
    (action,) = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    options = {flag for sub in action.choices.values() for a in sub._actions for flag in a.option_strings}
    plugin = (Path(oracle.__file__).parent / "judge" / "pytest_plugin.py").read_text("utf-8")
    for flag in set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", re.sub(r"```.*?```", "", PAGE, flags=re.S))):
        assert flag in options | {"-m", "-e", "--by"} or f'"{flag}"' in plugin or flag == "--check", flag
    for name in set(re.findall(r"tinymaml oracle ([a-z-]+)", PAGE)):
        assert name in action.choices
    for module in set(re.findall(r"python -m ([\w.]+)", PAGE)):
        assert importlib.util.find_spec(module) is not None


def test_what_it_says_of_a_case_is_so():
    case = oracle.load("core")[0]
    for name in set(re.findall(r"`(?:case)?\.(\w+)(?:\(\))?`", PAGE)):
        assert hasattr(case, name), name
    assert case.first_order is False and case.adapt is None
    assert models.EPS == 2.0**-10 and "ε = 2⁻¹⁰" in PAGE
    assert (models.Options().relu_at_zero, models.Options().ties, models.Options().unbiased) == (0, "first", False)
    assert "first_order" in cases.CAPABILITIES
    assert len(PAGE.splitlines()) <= 310
