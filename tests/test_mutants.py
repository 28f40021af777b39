"""The mutation tester: one change a mutant, what is an error is killed, what is none survives, no file is written."""

import functools
import hashlib
import importlib.util
import json
import os
import re
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def _load():
    spec = importlib.util.spec_from_file_location("mutants", ROOT / "bench" / "oracle" / "mutants.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["mutants"] = module
    spec.loader.exec_module(module)
    return module


mutants = _load()
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="mutants run in forked processes")


@functools.cache
def of_tinymaml(file: str) -> list:
    return mutants.mutations((ROOT / file).read_text(encoding="utf-8"), file)


def changes(source: str) -> list[str]:
    return [m.change for m in mutants.mutations(textwrap.dedent(source), "sample.py")]


# ── which mutants there are ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ("z = x + y", {"+ → -", "x + y → x", "x + y → y"}),
        ("z = x - y", {"- → +", "x - y → y - x", "x - y → x", "x - y → y"}),
        ("z = a - b * c", {"a - b * c → (b * c) - a", "* → /", "b * c → b", "a - b * c → a"}),
        ("z = x @ y", {"x @ y → y @ x", "x @ y → x", "x @ y → y"}),
        ("z = (x) * (  # times -\n  y)", {"* → /"}),
        ("z = -x", {"-x → x"}),
        ("z = x ** 2", {"2 → 3", "2 → 0", "2 → (-2)", "** → *"}),
        ("z = True", {"True → False"}),
        ("z = x < y", {"< → <="}),
        ("z = x == y", {"== → !="}),
        ("z = x is not y", {"is not → is"}),
        ("z = 0 <= x < n", {"<= → <", "< → <="}),
        ("z = k in 'fc'", {"'fc' → 'c'", "'fc' → 'f'", "in → not in"}),
        ("z = x and y", {"x and y → (x or y)", "x and y → (x)", "x and y → (y)"}),
        ("z = not x", {"not x → x"}),
        ("if x:\n  z = 1", {"x → False", "x → True"}),
        ("z = 1 if x else 2", {"x → False", "x → True"}),
        ("while x:\n  f(x)", {"x → False", "f(x) → pass"}),
        ("z = [x for x in y if x]", {"x → False", "x → True"}),
        ("z = matmul(x, y)", {"x, y → y, x", "matmul(x, y) → x", "matmul(x, y) → y"}),
        ("z = stop_gradient(x)", {"stop_gradient(x) → x"}),
        ("z = x.astype(t)", {"x.astype(t) → x"}),
        ("z = np.max(x, axis=k)", {"np.max(x, axis=k) → x", "np.max → np.min", ", axis=k → "}),
        ("for i in range(n):\n  f(i)", {"n → n + 1", "n → n - 1", "range(n) → ()"}),
        ("z = x[1:n]", {"1:n → :n", "1:n → 1:", "1 → 2"}),
        ("z = x[::k]", {"::k → :"}),
        ("z = isinstance(x, (int, float))", {"(int, float) → (int, )", "(int, float) → (float, )"}),
        ("for x in y:\n  continue\n  f(x)", {"continue → break", "continue → pass"}),
        ("rule = lambda g, z, x, y: g * y", {"y → g", "y → z", "y → x", "g → z", "g → x", "g → y"}),
        ("def f(a, b):\n  return a", {"a → b"}),
        ("def f(a):\n  a = g(a)\n  a += 1\n  return a", {"a = g(a) → pass", "a += 1 → pass", "+= → -="}),
        ("@quiet\ndef f(a):\n  return a", {"@quiet → "}),
    ],
)  # fmt: skip
def test_an_operator_is_applied(source, wanted):
    assert wanted <= set(changes(source))


def test_what_no_test_should_see_is_left_out():
    assert not changes(
        '''
        """A docstring of 1 + 1."""
        from __future__ import annotations
        if TYPE_CHECKING:
            x = 1
        def f(a: 1 + 1) -> 2:
            """Another: not x."""
            assert a + 1
            raise ValueError(f"{a + 1} is not {2}")
        '''
    )
    assert changes("z = zip(x, y, strict=True)") == []


def test_the_same_bytecode_is_one_mutant():
    assert changes("z = 1 * 1") == ["1 → 2", "1 → 0", "1 → (-1)", "* → /"]  # the second 1 gives the same programs
    source = (ROOT / "tinymaml" / "maml.py").read_text(encoding="utf-8")
    prints = [mutants._fingerprint(m.source) for m in of_tinymaml("tinymaml/maml.py")]
    assert len(set(prints)) == len(prints) > 100
    assert mutants._fingerprint(source) not in prints


@pytest.mark.parametrize("file", ["tinymaml/maml.py", "tinymaml/engine.py"])
def test_a_mutant_differs_in_one_place_and_says_where(file):
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    found = of_tinymaml(file)
    assert len({m.id for m in found}) == len(found)
    for m in found:
        changed = m.source.splitlines()
        head = next(i for i, (a, b) in enumerate(zip(lines, changed, strict=False)) if a != b)
        tail = next(i for i, (a, b) in enumerate(zip(lines[::-1], changed[::-1], strict=False)) if a != b)
        before, after = lines[head : len(lines) - tail], changed[head : len(changed) - tail]
        assert m.line - 1 <= head and head - m.line < 10
        assert " ".join(" ".join(before).split()) in m.old_line and " ".join(" ".join(after).split()) in m.new_line


def test_an_id_does_not_depend_on_the_line_number():
    source = "def f(x, y):\n    return x - y + x - y\n"
    here, below = mutants.mutations(source, "a.py"), mutants.mutations("import os\n\n\n" + source, "a.py")
    assert [m.id for m in here] == [m.id for m in below]
    assert len({m.id for m in here}) == len(here)
    assert {"- → +", "- → + #2"} <= {m.change for m in here}
    assert not {m.id for m in here} & {m.id for m in mutants.mutations(source, "b.py")}


# ── what becomes of them ────────────────────────────────────────────────────────────────────────────────────────────

CORE = """\
from time import sleep

TABLE = [1, 2]

def total(xs, start):
    s = start
    for x in xs:
        s = s + x
    return s

def countdown(n):
    while n > 0:
        sleep(0.001)  # without end, too, it takes next to no computing
        n -= 1
    return n

def shifted(x):
    return x + 0

def unseen(x):
    return x * 3
"""
TESTS = """\
from sample import core

def test_total():
    assert core.total([2, 3], 1) == 6

def test_countdown():
    assert core.countdown(5) == 0

def test_shifted():
    assert core.shifted(2) == 2

def test_table():
    assert core.TABLE == [1, 2]
"""


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    root = tmp_path_factory.mktemp("checkout")
    for name, text in {"sample/__init__.py": "", "sample/core.py": CORE, "tests/test_core.py": TESTS}.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return mutants.Target(("sample/core.py",), (("tests/test_core.py",),), root)


def tree(root: Path) -> dict:
    return {p: (p.stat().st_mtime_ns, p.is_file() and hashlib.sha256(p.read_bytes()).hexdigest())
            for p in root.rglob("*")}  # fmt: skip


def planted(old: str, new: str, scope: int | None) -> "mutants.Mutant":
    """A mutant made by hand."""
    assert CORE.count(old) == 1
    return mutants.Mutant("sample/core.py", 1, old, new, "by hand", f"{old} → {new}", scope, CORE.replace(old, new))


@pytest.fixture(scope="module", autouse=True)
def without_plugins():
    """The tests that are run on mutants know no plugin of pytest, which some take a second to load."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        yield


@pytest.fixture(scope="module")
def ends(sample):
    """Some mutants with their ends; and the source tree before and after."""
    wanted = [("s = s + x", "+ → -"), ("TABLE = [1, 2]", "1 → 2"), ("return x + 0", "x + 0 → x"), ("n -= 1", "-= → +="),
              ("return x * 3", "* → /")]  # fmt: skip
    found = {(m.old_line, m.change): m for m in mutants.mutations(CORE, "sample/core.py")}
    made = [
        planted("s = start", "import os; os._exit(0)", 5),
        planted("s = start", "import ctypes; ctypes.string_at(0)", 5),
        planted("s = start", "raise SystemExit(0)", 5),
        planted("TABLE = [1, 2]", "TABLE = [1, 2", None),
        planted("TABLE = [1, 2]", "import nowhere", None),
    ]
    everything = [found[key] for key in wanted] + made
    before = tree(sample.root)
    patience, mutants.PATIENCE = mutants.PATIENCE, 1.0
    try:
        results = mutants.run_all(sample, everything)
    finally:
        mutants.PATIENCE = patience
    return {m.change: r for m, r in zip(everything, results, strict=True)}, before, tree(sample.root)


@needs_fork
def test_an_error_is_killed_and_the_test_named(ends):
    results, _, _ = ends
    assert results["+ → -"]["outcome"] == "killed"
    assert results["+ → -"]["by"].startswith("tests/test_core.py::test_total: assert -4 == 6")
    assert results["1 → 2"]["outcome"] == "killed"  # runs on import


@needs_fork
def test_what_is_no_error_survives(ends):
    results, _, _ = ends
    assert (results["x + 0 → x"]["outcome"], results["x + 0 → x"]["by"]) == ("survived", "")


@needs_fork
def test_what_hangs_is_killed_by_time(ends):
    results, _, _ = ends
    assert results["-= → +="]["outcome"] == "timed out"
    assert 1 <= results["-= → +="]["seconds"] < 20


@needs_fork
def test_what_no_test_calls_is_told_so(ends):
    results, _, _ = ends
    assert results["* → /"] == {"outcome": "not called", "by": "", "seconds": 0.0}


@needs_fork
@pytest.mark.parametrize("new", ["import os; os._exit(0)", "import ctypes; ctypes.string_at(0)", "raise SystemExit(0)"])
def test_a_process_that_ends_is_a_kill(ends, new):
    results, _, _ = ends
    assert results[f"s = start → {new}"]["outcome"] == "killed"


@needs_fork
@pytest.mark.parametrize("new", ["TABLE = [1, 2", "import nowhere"])
def test_what_cannot_be_imported_is_killed(ends, new):
    results, _, _ = ends
    assert results[f"TABLE = [1, 2] → {new}"]["outcome"] == "killed"


@needs_fork
def test_nothing_is_written_beside_the_source(ends):
    _, before, after = ends
    assert before == after


@needs_fork
def test_tests_that_fail_without_a_mutant_are_an_error(sample, tmp_path):
    (tmp_path / "sample").mkdir()
    (tmp_path / "sample" / "core.py").write_text(CORE.replace("s + x", "s - x"), encoding="utf-8")
    (tmp_path / "test_core.py").write_text(TESTS, encoding="utf-8")
    target = mutants.Target(("sample/core.py",), (("test_core.py",),), tmp_path)
    with pytest.raises(SystemExit, match="fail without a mutant.*test_total"):
        mutants.run_all(target, mutants.mutations(CORE, "sample/core.py")[:1])


@needs_fork
def test_in_a_file_the_tests_do_not_import_everything_survives(sample):
    text = "x = 1\n\n\ndef f(y):\n    return -y\n"
    (sample.root / "sample" / "other.py").write_text(text, encoding="utf-8")
    other = [m for m in mutants.mutations(text, "sample/other.py") if m.change in ("1 → 2", "-y → y")]
    results = mutants.run_all(sample._replace(files=("sample/other.py",)), other)
    assert [r["outcome"] for r in results] == ["survived", "not called"]


# ── the command ─────────────────────────────────────────────────────────────────────────────────────────────────────


@needs_fork
def test_the_command_fails_until_every_survivor_is_justified(sample, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(mutants, "TARGETS", {"sample": sample})
    shift = next(m for m in mutants.mutations(CORE, "sample/core.py") if m.change == "x + 0 → x")
    killed = next(m for m in mutants.mutations(CORE, "sample/core.py") if m.change == "s + x → s")
    command = ["sample", "--jobs", "1", "--only", shift.id, "--only", killed.id, "--json", str(tmp_path / "out.json")]
    assert mutants.main(command) == 1
    out = capsys.readouterr().out
    assert f"survived  sample/core.py:18  {shift.id}" in out and "- return x + 0\n+ return x\n" in out
    assert killed.id not in out
    records = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert [(r["id"], r["outcome"]) for r in records] == [(killed.id, "killed"), (shift.id, "survived")]

    why = {"sample/core.py": [("return x …", ("x + 0 → x",), "0 adds nothing")]}
    monkeypatch.setattr(mutants, "EQUIVALENT", why)
    monkeypatch.setattr(mutants, "run_mutant", None)  # what the file has is not run again
    assert mutants.main(command) == 0
    assert shift.id not in capsys.readouterr().out


def test_the_list_shows_every_mutant_and_runs_none(monkeypatch, capsys):
    monkeypatch.setattr(mutants, "run_all", None)
    assert mutants.main(["maml", "--list"]) == 0
    out = capsys.readouterr().out
    assert "+ return tree_map(lambda theta, a, g: as_array(theta + a * g), params, alpha, grads)" in out


def test_a_sample_is_drawn_by_ids_alone(capsys):
    drawn = []
    for n in ("5", "9", "5"):
        assert mutants.main(["maml", "--list", "--sample", n]) == 0
        drawn.append(set(re.findall(r"^tinymaml/\S+  (\w+)", capsys.readouterr().out, re.M)))
    assert len(drawn[0]) == 5 and drawn[0] == drawn[2] and drawn[0] < drawn[1]


def test_an_unknown_id_is_refused(capsys):
    with pytest.raises(SystemExit):
        mutants.main(["maml", "--only", "nothing"])
    assert "nothing" in capsys.readouterr().err


def test_every_justification_is_of_a_mutant_that_exists():
    for file, entries in (*mutants.EQUIVALENT.items(), *mutants.RIGHT_TO_ROUNDING.items()):
        found = of_tinymaml(file)
        for line, justified, why in entries:
            assert len(why) > 15
            for change in justified:
                assert [m for m in found if m.change == change and mutants._is_line(m.old_line, line)], (line, change)
