"""A number of a page is that of a stored result or of the code, or is declared a setting; a changed one is found."""

import json
import re

import pytest

from bench import results, stated, systems
from bench.sentences import NAMES, SENTENCES, SETTINGS

PAGES = {page: (stated.ROOT / page).read_text("utf-8") for page in SETTINGS}
GENERATED = [page for page in PAGES if page in SENTENCES]


@pytest.fixture(scope="module")
def known():
    return stated.values()


def current(page: str, text: str) -> str:
    return results.current(text, stated.ROOT / page, systems.stored())


@pytest.mark.parametrize("page", GENERATED)
def test_a_page_states_what_is_stored(page):
    assert current(page, PAGES[page]) == PAGES[page], "run python -m bench.results --pages"


def settings_of(page: str) -> list[str]:
    return [*NAMES, *SETTINGS[page]]


@pytest.mark.parametrize("page", PAGES)
def test_no_number_is_without_a_source(page):
    lines = stated.unexplained(PAGES[page], SENTENCES.get(page, ()), settings_of(page))
    assert not lines, f"neither a sentence of bench/stated.py nor a setting there:\n{page}, " + "\n".join(lines)


@pytest.mark.parametrize("page", GENERATED)
def test_a_changed_number_in_a_sentence_is_noticed(page, known):
    """Each number of each sentence, changed by one digit in a copy of the page."""
    for sentence in SENTENCES[page]:
        (found,) = stated.pattern(sentence).finditer(PAGES[page])
        for group in range(1, len(found.groups()) + 1):
            start, end = found.span(group)
            digit = PAGES[page][end - 1]
            planted = PAGES[page][: end - 1] + str((int(digit) + 1) % 10) + PAGES[page][end:]
            assert planted != PAGES[page]
            assert stated.put(planted, [sentence], known) == PAGES[page], found[0][start - found.start() :]


@pytest.mark.parametrize(("page", "cell", "instead"), [
    ("bench/README.md", "| 0.45 | 1.0 s (0.8) |", "| 0.44 | 1.0 s (0.8) |"),  # time
    ("bench/README.md", "| `reptile` | 1.26 ±", "| `reptile` | 1.25 ±"),
    ("bench/README.md", "| 12.1 (16) |", "| 12.2 (16) |"),  # load
    ("bench/README.md", "│  %96 ", "│  %98 "),  # listing
    ("README.md", "**89.0 ± 0.5**", "**89.0 ± 0.4**"),
    ("tinymaml/oracle/README.md", "| second, closed | ", "| second, closed | 1"),
    ("tinymaml/oracle/README.md", " 0 alarms;", " 1 alarms;"),
])  # fmt: skip
def test_a_changed_number_in_a_table_is_noticed(page, cell, instead):
    assert PAGES[page].count(cell) >= 1
    planted = PAGES[page].replace(cell, instead, 1)
    assert current(page, planted) == PAGES[page] != planted


@pytest.mark.parametrize("page", PAGES)
def test_a_new_number_is_noticed(page):
    planted = f"{PAGES[page]}\nIt takes 17.25 seconds.\n"
    (line,) = stated.unexplained(planted, SENTENCES.get(page, ()), settings_of(page))
    assert "17.25" in line


@pytest.mark.parametrize("page", PAGES)
def test_no_setting_is_left_over(page):
    for setting in SETTINGS[page]:
        assert re.search(stated.words(setting), PAGES[page]), setting


def test_no_name_is_left_over():
    text = "\n".join(PAGES.values())
    assert [name for name in NAMES if not re.search(name, text)] == []


def test_a_sentence_that_is_not_in_the_page_and_a_value_that_is_not_stored_are_named(known):
    with pytest.raises(ValueError, match="0 places like 'it takes {time.x} s', wanted one"):
        stated.put("it takes 3 h", ["it takes {time.x} s"], known)
    with pytest.raises(ValueError, match="2 places"):
        stated.put("it takes 3 s; it takes 4 s", ["it takes {time.x} s"], known)
    with pytest.raises(KeyError, match="nothing is stored for {time.x}: no 'x'"):
        stated.put("it takes 3 s", ["it takes {time.x} s"], known)


def test_what_the_pages_claim_of_the_numbers_is_so(known):
    """The words beside the numbers: "never", "none", "each"."""
    assert known["alarms"]["alarms"] == 0 and known["alarms"]["worst"] < known["alarms"]["allowed"]
    assert known["matrix"]["pairs_correct"] == 0  # how many of all are named is a number in the pages, not a word
    assert known["field"]["expected"] == known["field"]["settings"]
    assert all(row["open"] == 0 for files in ("tests", "oracle") for row in known["mutants"].get(files, {}).values())
    for counts in (counts for sets in known["blind"]["sets"].values() for counts in sets.values()):
        grades = ("accepted", "named", "pointed at", "misled", "unexplained")
        assert sum(counts[grade] for grade in grades) == counts["wrong"]
        assert counts["passed"] + counts["false alarm"] == counts["right"] and counts["accepted"] == 0
    assert len(known["time"]) == 8


def test_counts_are_those_of_the_code(known):
    pytest.importorskip("torch")
    pytest.importorskip("jax")
    from bench.oracle.alarms import IMPLEMENTATIONS
    from bench.oracle.blind import TABLE, run

    assert len(IMPLEMENTATIONS) == known["alarms"]["implementations"]
    for right, name in ((False, "wrong"), (True, "right")):
        assert sum(entry.right == right for entry in TABLE.values()) == known["counted"]["blind"][name]
        count = {of: sum(e.right == right for e in TABLE.values() if e.set == of) for of in run.SETS}
        for sets in known["blind"]["sets"].values():
            for called, counts in sets.items():
                of_set = called.partition(",")[0]
                assert counts[name] == count[of_set] or counts[name] < count[of_set] and "half" in called, called


# ── stored results ──


def test_every_stored_result_names_its_command_and_is_used():
    used = "\n".join(sentence for sentences in SENTENCES.values() for sentence in sentences)
    in_tables = {"time", "load", "kernels", "matrix", "alarms", "alarms-family", "field", "mutants", "blind"}
    for name, record in stated.stored().items():
        assert record["command"].startswith(("python -m bench", "tinymaml ")) and record["date"], name
        assert name in in_tables or f"{{{name}." in used, name


def test_what_is_kept_beside_leaves_the_rest(tmp_path, monkeypatch):
    monkeypatch.setattr(stated, "RESULTS", tmp_path)
    stated.keep("x", "one", {"a": {"b": 1.234567}, "c": 2}, beside=True)
    stated.keep("x", "two", {"a": {"d": 3}}, beside=True)
    record = json.loads((tmp_path / "x.json").read_text("utf-8"))
    assert record["values"] == {"a": {"b": 1.2346, "d": 3}, "c": 2} and record["command"] == "one; two"
    stated.keep("x", "three", {"c": 4})
    assert stated.stored()["x"]["values"] == {"c": 4}


def test_what_the_studies_of_the_oracle_store_is_what_their_tables_read(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    pytest.importorskip("jax")
    from bench.oracle import alarms, mutants, page
    from bench.oracle.blind import run

    monkeypatch.setattr(stated, "RESULTS", tmp_path)
    page.keep(
        "alarms", alarms.kept([alarms.Tally("a", "float64", 5, 0, 1.25), alarms.Tally("b", "float32", 4, 1, 2.5)])
    )
    grades = {"named": 2, "accepted": 1, "passed": 1, "false alarm": 1}
    rows = [{"set": name, "grade": grade, "right": grade in run.RIGHT} for name in run.SETS
            for grade, n in grades.items() for _ in range(n)]  # fmt: skip
    page.keep("blind", run.kept(rows))
    mutant = mutants.mutations("def f(x):\n    return x + 1\n", "tinymaml/maml.py")[0]
    results_of = [
        {"outcome": end, "by": "", "seconds": 0.0} for end in ("killed", "timed out", "survived", "no effect")
    ]
    page.keep("mutants", mutants.kept([mutant] * 4, results_of, "tests"), beside=True)
    page.keep("mutants", {"tests": {"flat.py": {"noticed": 1, "mutants": 1, "open": 0, "on": "today"}}}, beside=True)
    known = {name: record["values"] for name, record in stated.stored().items()}
    table = page.proofs(known)
    assert "2 implementations, 9 runs, 1 alarms; the worst error is 2.5 roundings" in table
    assert "maml.py 2 of 3 (" in table and "flat.py 1 of 1 (today)" in table and "matrix" not in table
    assert f"{page.state()['mistakes']} mistakes, {page.state()['cases']} cases" in table
    version = page.state()["catalogue"]
    assert f"| {version} | first, open | 3 | 1 | 2 | 0 | 0 | 0 | 1 of 2 |" in page.blind(known["blind"])


@pytest.mark.parametrize("command", [
    ["alarms", "--only", "engine"], ["matrix", "--only", "fomaml"], ["field", "higher"], ["blind", "--set", "first"],
    ["mutants", "maml", "--sample", "3"],
])  # fmt: skip
def test_a_part_of_a_study_is_not_stored(command, capsys):
    pytest.importorskip("torch")
    pytest.importorskip("jax")
    from bench.oracle.__main__ import main

    with pytest.raises(SystemExit):
        main([*command, "--store"])
    assert "--store is given with" in capsys.readouterr().err


def test_a_workload_is_stored_as_its_table_reads_it():
    from bench import load, timing

    ours = {"median": 0.3, "ratio": 0.5, "fraction": 0.25, "first_call": 4.0, "first_call_cached": 0.5, "peak": 7}
    record = {"workload": "W2", "dtype": "float32", "fastest_peer": "jax",
              "contenders": {"compiled": ours, "jax": {"median": 0.6, "ratio": 1.0, "first_call": 2.0},
                             "torch-compile": {"error": "given up"}}}  # fmt: skip
    row = timing.page(timing.kept(record)).splitlines()[-1]
    assert row == "| W2: the same, K = 5 ¹ | 300 | 600 (JAX) | 0.50 | 4.0 s (2.0) | 0.5 s | 25 % |  |"
    calls = lambda seconds: {"loads": {"2": {"seconds": seconds, "percentile": 2 * seconds}}}  # noqa: E731
    record = {"workload": "W5", "contenders": {"compiled": calls(0.1), "compiled-1": calls(0.2), "jax-map": calls(0.3),
                                               "jax-patches": calls(0.25)}}  # fmt: skip
    assert load.page(load.kept(record)).splitlines()[-1] == "| W5 | 2 | 100 (200) | 200 (400) | 250 (500) |"


def quick(monkeypatch, tmp_path, values: dict) -> None:
    monkeypatch.setattr(stated, "RESULTS", tmp_path)
    one = stated.Quick("a command", lambda: values, {"mean": "ci95", "ci95": 0.5})
    monkeypatch.setattr(stated, "QUICK", {"x": one})


def test_a_measurement_outside_the_stated_spread_is_an_error(tmp_path, monkeypatch, capsys):
    quick(monkeypatch, tmp_path, {"mean": [1.0, 2.0], "ci95": [0.1, 0.2], "tasks": 3})
    assert stated.main(["x", "--store"]) == 0 == stated.main(["x"])
    assert "within the spread" in capsys.readouterr().out
    quick(monkeypatch, tmp_path, {"mean": [1.09, 1.81], "ci95": [0.5, 0.2], "tasks": 3})
    assert stated.main(["x"]) == 0
    quick(monkeypatch, tmp_path, {"mean": [1.11, 2.0], "ci95": [0.1, 0.2], "tasks": 4})
    capsys.readouterr()
    assert stated.main(["x"]) == 1
    said = capsys.readouterr().out
    assert "x.mean.0: stored 1.0, measured 1.11, spread 0.1" in said and "x.tasks: stored 3, measured 4" in said
    assert "mean.1" not in said
    assert stated.main([]) == 0 and "quick  a command" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("name", stated.QUICK)
def test_a_quick_command_gives_what_is_stored_within_the_spread(name):
    assert stated.apart(name, stated.QUICK[name].measure()) == []
