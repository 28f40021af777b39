"""The grades of the blind set: an oracle that is silent, wrong or right gets what it deserves."""

import pytest

pytest.importorskip("torch")
pytest.importorskip("jax")

from bench.oracle.blind import TABLE, run  # noqa: E402
from bench.oracle.blind.entries import Entry  # noqa: E402

WRONG = Entry("w", lambda case: {}, "torch", False, "ties and a sum", ("tie|share", "summed"))
RIGHT = Entry("r", lambda case: {}, "torch", True, "by scan", (), set="second")


@pytest.mark.parametrize(
    ("entry", "report", "grade"),
    [
        (WRONG, {"verdict": "CORRECT"}, "accepted"),
        (WRONG, {"verdict": "INCONCLUSIVE"}, "accepted"),
        (WRONG, {"verdict": "KNOWN_BUG", "bug": "pool_tie", "explanation": "and Summed over tasks"}, "named"),
        (WRONG, {"verdict": "KNOWN_BUG", "bug": "pool_tie", "explanation": "…"}, "misled"),  # one of two mistakes
        (WRONG, {"verdict": "KNOWN_BUG", "bug": "fomaml", "explanation": "…"}, "misled"),
        (WRONG, {"verdict": "WRONG_UNKNOWN", "explanation": "a tie", "notes": ["it is summed"]}, "pointed at"),
        (WRONG, {"verdict": "WRONG_UNKNOWN", "explanation": "nothing fits", "location": None}, "unexplained"),
        (RIGHT, {"verdict": "CORRECT"}, "passed"),
        (RIGHT, {"verdict": "IMPRECISE"}, "false alarm"),
    ],
)
def test_grade(entry, report, grade):
    assert run.graded(entry, report, {})["grade"] == grade


def test_a_person_overrules_with_a_reason():
    row = run.graded(WRONG, {"verdict": "WRONG_UNKNOWN"}, {"w": ("pointed at", "said in other words")})
    assert (row["automatic"], row["grade"], row["reason"]) == ("unexplained", "pointed at", "said in other words")
    with pytest.raises(ValueError, match="'passed', wanted one of"):
        run.graded(WRONG, {"verdict": "CORRECT"}, {"w": ("passed", "…")})


def test_every_wrong_one_has_a_diagnosis_and_both_sets_have_right_ones_too():
    wrong = [e for e in TABLE.values() if not e.right]
    assert all(e.truth and e.keywords for e in wrong)
    assert not any(e.keywords for e in TABLE.values() if e.right)
    for name in run.SETS:
        assert sum(e.set == name for e in wrong) >= 60
        assert sum(e.set == name and e.right for e in TABLE.values()) >= 10


def test_a_diagnosis_matches_its_own_words():
    assert [e.name for e in TABLE.values() if e.set == "second" and not run.explains(e, e.truth)] == []
