"""What stands around the code: the glossary, the versions, the workflow, the forms; each says what is so."""

import ast
import re
from pathlib import Path

import pytest

import tinymaml

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "tinymaml"
PROJECT = (ROOT / "pyproject.toml").read_text("utf-8")
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml"))


def rows(page: str) -> list[tuple[str, str, str, str]]:
    """(word, meaning, file, name) of each row of the glossary."""
    return re.findall(r"^\| (.+?) \| (.+?) \| `([\w/]+\.py)`, `(\w+)` \|$", page, re.M)


def defined(path: Path) -> set[str]:
    """The names that a file defines: functions, classes, methods, and what is assigned."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found


def misplaced(page: str) -> list[str]:
    """The words whose file does not define the name."""
    return [word for word, _, file, name in rows(page)
            if not (PACKAGE / file).exists() or name not in defined(PACKAGE / file)]  # fmt: skip


GLOSSARY = (PACKAGE / "GLOSSARY.md").read_text("utf-8")


def test_every_word_of_the_glossary_is_defined_where_it_says():
    lines = [x for x in GLOSSARY.splitlines() if x.startswith("| ") and not x.startswith("| word")]
    assert len(rows(GLOSSARY)) == len(lines) >= 50
    assert misplaced(GLOSSARY) == []


def test_a_word_that_has_moved_is_found():
    assert misplaced("| task | A problem. | `maml.py`, `Moved` |\n| x | A y. | `gone.py`, `x` |") == ["task", "x"]


def test_a_word_has_one_row_and_one_sentence():
    words = [word for word, *_ in rows(GLOSSARY)]
    assert len({*words}) == len(words)
    for word, meaning, *_ in rows(GLOSSARY):
        assert meaning.endswith("."), word
        assert re.match("[A-Z]", meaning) and ". " not in meaning, word


def test_the_words_that_a_stranger_stumbles_over_are_in_it():
    words = " ".join(word for word, *_ in rows(GLOSSARY))
    for word in ("task", "family", "episode", "support", "query", "meta-parameters", "program", "equation", "part",
                 "page", "slot", "chunk"):  # fmt: skip
        assert re.search(rf"\b{word}\b", words), word


def test_the_versions_are_one():
    (version,) = re.findall(r'^version = "(.+)"$', PROJECT, re.M)
    assert tinymaml.__version__ == version
    assert re.search(rf"^version: {re.escape(version)}$", (ROOT / "CITATION.cff").read_text("utf-8"), re.M)
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M)
    assert newest[1] == version


def test_the_lowest_versions_are_those_of_the_project():
    lowest = re.findall(r"^([\w-]+)==(\S+)$", (ROOT / ".ci" / "lowest.txt").read_text("utf-8"), re.M)
    assert {"numpy", "numba", "scipy"} <= {name for name, _ in lowest}
    for name, version in lowest:
        assert {*re.findall(rf'"{name}>=([\d.]+)"', PROJECT)} == {version}, name


def test_the_workflow_runs_the_script_on_three_systems_and_on_the_lowest_python():
    text = (ROOT / ".github" / "workflows" / "test.yml").read_text("utf-8")
    (lowest,) = re.findall(r'^requires-python = ">=([\d.]+)"$', PROJECT, re.M)
    (systems,) = re.findall(r"^ +os: \[(.+)\]$", text, re.M)
    assert systems.split(", ") == ["ubuntu-latest", "macos-latest", "windows-latest"]
    pythons = re.findall(r"[\d.]+", re.search(r"^ +python: \[(.+?)\]", text, re.M)[1])
    assert pythons[0] == lowest and "- run: .ci/run\n" in text and ".ci/lowest.txt" in text
    for python in pythons:
        assert f'"Programming Language :: Python :: {python}"' in PROJECT


@pytest.mark.parametrize("form", FORMS, ids=lambda path: path.stem)
def test_the_commands_of_a_form_exist(form, capsys):
    from tinymaml.cli import main

    text = form.read_text("utf-8")
    for command in {*re.findall(r"`tinymaml ((?:[a-z-]+ ?)+)", text)}:
        with pytest.raises(SystemExit) as exit:
            main([*command.split(), "--help"])
        assert exit.value.code == 0, command
    assert "`tinymaml doctor`" in text or form.stem == "feature_request"
    capsys.readouterr()


def test_there_is_a_form_for_faults_for_verdicts_and_for_wishes():
    assert [form.stem for form in FORMS] == ["bug_report", "feature_request", "wrong_verdict"]


def test_what_the_formatter_leaves_out_is_there():
    (block,) = re.findall(r"^\[tool\.ruff\.format\]\n(?:#.*\n)*exclude = \[(.*?)\]", PROJECT, re.M | re.S)
    names = re.findall(r'"(.+?)"', block)
    assert {"tinymaml/primitives.py", "tinymaml/ops.py"} <= {*names}
    for name in names:
        assert any(ROOT.rglob(name)), name


def named_tests(page: str) -> set[tuple[str, str]]:
    """(file or "", name) of each test that a page names."""
    return {*re.findall(r"`(?:(\w+\.py)::)?(test_\w+)`", page)}


def missing_tests(page: str) -> list[str]:
    """The tests that a page names and that are not there."""
    sources = {path.name: path.read_text("utf-8") for path in (ROOT / "tests").glob("test_*.py")}
    missing = []
    for file, name in sorted(named_tests(page)):
        known = sources.get(file, "") if file else "\n".join(sources.values())
        if f"def {name}(" not in known and f"{name}.py" not in sources:
            missing.append(name)
    return missing


def test_the_tests_that_contributing_names_are_there():
    page = (ROOT / ".github" / "CONTRIBUTING.md").read_text("utf-8")
    assert len(named_tests(page)) >= 20 and missing_tests(page) == []
    assert missing_tests("`test_ops.py::test_gone` and `test_gone_too`") == ["test_gone_too", "test_gone"]


def test_the_files_that_contributing_names_are_there():
    page = (ROOT / ".github" / "CONTRIBUTING.md").read_text("utf-8")
    named = {x for x in re.findall(r"`([\w./]+/[\w.]+\.(?:py|md|toml))`", page) if not re.search("NAME|SUBJECT", x)}
    assert len(named) >= 10 and [x for x in named if not (ROOT / x).exists()] == []
    headings = re.findall(r"^## An? (\w+)", page, re.M)
    assert {"primitive", "algorithm", "optimiser", "family", "mistake"} <= {*headings}
