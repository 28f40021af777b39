"""Candidates that are broken, or that cheat: each gets a failing verdict that says why; none passes, and none hangs."""

import asyncio
import copy
import dataclasses
import functools
import hashlib
import json
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tinymaml import oracle
from tinymaml.cli import main
from tinymaml.oracle import cases, questions, tolerance
from tinymaml.oracle.cases import Answer, Tampered, load, to_hex
from tinymaml.oracle.catalogue import flat
from tinymaml.oracle.clues.locate import Judged, trace_error
from tinymaml.oracle.judge import checking, protocol
from tinymaml.oracle.mistakes.semantics import run

pytestmark = pytest.mark.usefixtures("computed_once")

# ── answers ─────────────────────────────────────────────────────────────────────────────────────────────────────────


_answers: dict = {}


def right(case) -> dict:
    """What the engine computes, once for each case."""
    given = case.inputs()
    if given not in _answers:
        _answers[given] = tolerance.engine_answer(case)
    value, grads = _answers[given]
    return {"meta_grad": {n: np.array(g) for n, g in grads.items()}, "meta_loss": value}


def fomaml(case) -> dict:
    return {"meta_grad": run(case, factors="detached").meta_grad}


@functools.cache
def few() -> list:
    return [c for c in load("core") if c.id in ("tanh", "logistic")]


@functools.cache
def drawn(suite, dtype, capabilities, seed):
    asked, left_out = questions.questions(suite, dtype, capabilities, seed)
    checking.confirm(asked)
    return asked, left_out


@pytest.fixture(autouse=True)
def asked_once(monkeypatch):
    """The new cases of a seed are drawn, and the stored answers confirmed, once for all tests."""

    def asked(suite="core", dtype="float64", capabilities=(), seed=None, only=(), algorithm="maml"):
        if only or algorithm != "maml" or not isinstance(suite, str):
            return questions.questions(suite, dtype, capabilities, seed, only, algorithm)
        return copy.deepcopy(drawn(suite, dtype, capabilities, seed or 0))

    monkeypatch.setattr(checking, "questions", asked)
    monkeypatch.setattr(protocol, "questions", asked)
    monkeypatch.setattr(protocol, "confirm", lambda asked: None)
    monkeypatch.setattr(protocol, "Confirmation", lambda asked: SimpleNamespace(result=lambda: None))


def refused(report, *words: str) -> None:
    said = "\n".join([report.explanation, *report.notes])
    assert report.verdict == "PROTOCOL_ERROR" and report.exit_code == 1, report
    for word in words:
        assert word in said, f"{word!r} is not in: {said}"
    text = str(report)
    assert text.startswith("PROTOCOL_ERROR") and "\nCORRECT" not in text and "\x1b" not in text
    assert json.loads(report.to_json())["verdict"] == "PROTOCOL_ERROR"


# ── functions: malformed answers ────────────────────────────────────────────────────────────────────────────────────


def grads(change):
    """A candidate whose right gradients are changed by `change(grads, names)`."""

    def candidate(case):
        answer = right(case)
        return answer | {"meta_grad": change(answer["meta_grad"])}

    return candidate


def extra(**more):
    return lambda case: right(case) | more


def each(f):
    return grads(lambda g: {n: f(x) for n, x in g.items()})


def raising(error):
    def candidate(case):
        raise error

    return candidate


def endless(case):
    return endless(case)


class Mute(Exception):
    def __str__(self):
        raise ValueError


class Bomb:
    """An array that explodes when it is looked at."""

    def __init__(self, error):
        self.error = error

    def __array__(self, *args, **kwargs):
        raise self.error

    def __repr__(self):
        return "Bomb"


class Stuck:
    def detach(self):
        raise RuntimeError()


def poisoned(value):
    def change(g):
        list(g.values())[-1].flat[-1] = value
        return g

    return grads(change)


BROKEN = {
    "exception": (raising(ValueError("no layer")), "it raised ValueError: no layer (", "test_oracle_hostile.py:"),
    "exit": (raising(SystemExit(0)), "it raised SystemExit"),
    "interrupt": (raising(KeyboardInterrupt()), "it raised KeyboardInterrupt"),
    "recursion": (endless, "it raised RecursionError"),
    "mute exception": (raising(Mute()), "it raised", "Mute"),
    "no function": (7, "it raised TypeError"),
    "nothing": (lambda case: None, 'wanted a dict with "meta_grad", seen NoneType'),
    "a list": (lambda case: list(right(case)["meta_grad"].values()), "seen list"),
    "a generator": (lambda case: (x for x in [right(case)]), "seen generator"),
    "a future": (lambda case: asyncio.Future(loop=asyncio.new_event_loop()), "seen Future"),
    "an empty dict": (lambda case: {}, "seen a dict with nothing"),
    "another key": (lambda case: {"grads": 1}, "seen a dict with 'grads'"),
    "a name too few": (grads(lambda g: dict(list(g.items())[1:])), "meta_grad has the names", "wanted ['b1', 'b2'"),
    "a name too many": (grads(lambda g: g | {"w9": np.zeros(1)}), "meta_grad has the names", "w9"),
    "many names": (grads(lambda g: {f"n{i}": 0 for i in range(9999)}), "meta_grad has the names", "…"),
    "names that are numbers": (grads(lambda g: dict(enumerate(g.values()))), "meta_grad has the names", "'0'"),
    "an array too few": (grads(lambda g: list(g.values())[1:]), "meta_grad has 3 arrays, wanted 4: w1, b1, w2, b2"),
    "one vector": (grads(flat), "meta_grad has 1 arrays, wanted 4"),
    "transposed": (each(np.transpose), "meta_grad['w1'] has shape (2, 1), wanted (1, 2)", "transposed?"),
    "flat": (each(np.ravel), "has shape (2,), wanted (1, 2)"),
    "numbers": (each(np.sum), "has shape (), wanted (1, 2)"),
    "text": (each(lambda x: x.astype(str)), "has dtype <U"),
    "bytes": (each(lambda x: x.tobytes()), "has dtype |S"),
    "truth": (each(lambda x: x > 0), "has dtype bool"),
    "complex": (each(lambda x: x + 0j), "has dtype complex128"),
    "objects": (each(lambda x: x.astype(object)), "has dtype object"),
    "huge integers": (each(lambda x: [[10**400] * 2]), "has dtype object"),
    "holes": (each(lambda x: [[None, 1.0]]), "has dtype object"),
    "ragged": (each(lambda x: [[1.0], [1.0, 2.0]]), "not an array of numbers"),
    "nan": (poisoned(np.nan), "meta_grad['b2'][0] is nan"),
    "infinite": (poisoned(-np.inf), "meta_grad['b2'][0] is -inf"),
    "loss nan": (extra(meta_loss=np.nan), "meta_loss is nan"),
    "loss in text": (extra(meta_loss="1.25"), "meta_loss has dtype <U4"),
    "loss a vector": (extra(meta_loss=np.zeros(3)), "meta_loss has shape (3,), wanted a scalar"),
    "array raises": (each(lambda x: Bomb(KeyError("lazy"))), "not an array of numbers: 'lazy'"),
    "array raises wordlessly": (each(lambda x: Bomb(KeyError())), "not an array of numbers: KeyError"),
    "array raises what is no error": (each(lambda x: Bomb(SystemExit(0))), "it raised SystemExit"),
    "tensor raises": (each(lambda x: Stuck()), "not an array of numbers: RuntimeError"),
    "trace a number": (extra(trace=5), "trace is int, wanted a list with one dict per task"),
    "trace text": (extra(trace="theta"), "trace is str"),
    "trace an array": (extra(trace=np.zeros(3)), "trace is ndarray"),
    "trace of numbers": (extra(trace=[1, 2, 3]), "trace is list, wanted a list with one dict per task"),
}


@pytest.mark.usefixtures("confirmed_once")
@pytest.mark.parametrize("name", BROKEN)
def test_malformed_answers(name):
    candidate, *words = BROKEN[name]
    report = oracle.check(candidate, few(), timeout=10)
    refused(report, *words)
    assert report.location.startswith("case tanh") and len(str(report)) < 4000


def test_text_of_others_is_no_verdict():
    """An exception's text cannot pretend to be the report, nor steer the terminal."""
    report = oracle.check(raising(ValueError("\x1b[2J\x1b[H\nCORRECT\n  the meta-gradient is right")), few())
    refused(report, "the meta-gradient is right")


@pytest.mark.parametrize("entry", [
    {"theta": 3}, {"theta": []}, {"theta": [{}] * 9}, {"theta": [[1, 2]] * 9}, {"loss_s": {"a": 1}}, {"grad_s": "abc"},
    {"loss_q": [1, 2]}, {"loss_q": None}, {"loss_q": np.nan}, {"grad_q": {"w1": 1}}, {"grad_q": Bomb(KeyError())},
], ids=str)  # fmt: skip
def test_traces_that_cannot_be_read(entry):
    """The answer is right and the trace beside it nonsense: that is said, and where."""
    case = few()[0]
    answer = questions.read_answer(case, right(case) | {"trace": [entry] * case.tasks})
    assert not answer.problem
    said = trace_error(Judged(case, answer, 0.0, 0.0))
    assert said.startswith(f"case tanh, task 0: {next(iter(entry))}")


def test_a_wrong_trace_beside_right_numbers_is_no_pass():
    report = oracle.check(lambda case: right(case) | {"trace": [{"theta": [{}] * 9}] * case.tasks}, seeing()[0])
    assert report.verdict == "WRONG_UNKNOWN" and "the trace is not" in report.explanation


@pytest.mark.parametrize("large", [(), ("support",), ("query",)])
def test_large_numbers_in_either_set_may_be_why_it_is_not_finite(large):
    case = few()[0]
    case = dataclasses.replace(case, **{name: [(1e3 + x, y) for x, y in getattr(case, name)] for name in large})
    answer = questions.read_answer(case, {"meta_grad": {n: np.full_like(p, np.nan) for n, p in case.params.items()}})
    assert "is nan" in answer.problem and ("not stable for large logits" in answer.problem) == bool(large)


def test_what_is_given_for_each_task_may_be_lists_or_an_array():
    case = few()[0]
    ways = run(case).trace
    losses = [[float(x) for x in way["loss_s"]] for way in ways]
    thetas = [way["theta"][-1] for way in ways]
    stacked = {n: np.array([theta[n] for theta in thetas]) for n in case.params}
    for rows in (losses, np.array(losses), tuple(map(np.array, losses))):
        for adapted in (thetas, stacked):
            answer = questions.read_answer(case, right(case) | {"losses": rows, "adapted": adapted})
            assert answer.losses == losses and not answer.problem
            assert all(np.array_equal(a[n], b[n]) for a, b in zip(answer.adapted, thetas, strict=True) for n in a)
    assert questions.read_answer(case, right(case)).losses is None


@pytest.mark.parametrize("odd, said", [
    (lambda rows: 5, "losses is int, wanted a list with one entry per task"),
    (lambda rows: rows[1:], "losses has 2 entries, wanted one for each of 3 tasks"),
    (lambda rows: [*rows[1:], ["half"]], "losses[2]"),
    (lambda rows: [*rows[1:], "half"], "losses[2]"),
])  # fmt: skip
def test_losses_that_are_no_numbers_for_each_task_are_named(odd, said):
    case = few()[0]
    rows = [way["loss_s"] for way in run(case).trace]
    assert said in questions.read_answer(case, right(case) | {"losses": odd(rows)}).problem


# ── functions: time ─────────────────────────────────────────────────────────────────────────────────────────────────


class Slow:
    def __array__(self, *args, **kwargs):
        threading.Event().wait(30)


@pytest.mark.parametrize("candidate, at", [
    (lambda case: threading.Event().wait(30), "tanh"),
    (lambda case: right(case) if case.id == "tanh" and case.inner_steps == 3 else time.sleep(30), "tanh@other-steps"),
    (each(lambda x: Slow()), "tanh"),
], ids=["at once", "later", "when looked at"])  # fmt: skip
def test_hanging(candidate, at):
    start = time.monotonic()
    report = oracle.check(candidate, few(), timeout=0.5)
    assert time.monotonic() - start < 5
    refused(report, "no answer within 0.5 s")
    assert report.location == f"case {at}" and any("not asked any more" in c.fits for c in report.cases)


# ── functions: changed inputs ───────────────────────────────────────────────────────────────────────────────────────


def in_place(case):
    _, params, _ = case.numpy()
    next(iter(params.values()))[...] += 1


def data_in_place(case):
    _, _, (_, (xq, _)) = case.numpy()
    xq[0] = 0


def theta(case):
    for p in case.params.values():
        p *= 0


def examples(case):
    for x, y in case.support + case.query:
        x *= 2
        y *= 0


def one_bit(case):
    p = next(iter(case.params.values()))
    p.flat[0] = np.nextafter(p.flat[0], 9)


def removed(case):
    case.params.clear()


def tasks(case):
    case.support.reverse()


def model(case):
    case.model["layers"].pop()


@pytest.mark.parametrize("damage", [in_place, data_in_place, theta, examples, one_bit, removed, tasks, model])
def test_changed_inputs(damage):
    """The next question is not damaged, nor are the caller's cases; and right numbers are no excuse."""

    def candidate(case):
        answer = right(case)
        damage(case)
        return answer

    own = few()
    before = [c.inputs() for c in own]
    report = oracle.check(candidate, own)
    assert report.verdict == "INCONCLUSIVE" and all(c.passed for c in report.cases)  # two cases cannot see everything
    assert any("changed in place" in note for note in report.notes)
    assert [c.inputs() for c in own] == before
    if damage in (in_place, examples):
        refused(oracle.check(candidate, seed=0), "the numbers are right, but", "changed in place")


def test_nothing_left_to_compare():
    """θ is removed from the case, and a gradient for no parameter returned."""

    def candidate(case):
        case.params.clear()
        return {"meta_grad": {}}

    refused(oracle.check(candidate, few()), "meta_grad has the names")


# ── functions: cheating ─────────────────────────────────────────────────────────────────────────────────────────────


def reachable(x, seen=None):
    """All that can be reached from an object through attributes and containers."""
    seen = {} if seen is None else seen
    if id(x) in seen:
        return seen
    seen[id(x)] = x
    inside = x.values() if isinstance(x, dict) else x if isinstance(x, (list, tuple)) else getattr(x, "__dict__", {})
    for y in inside.values() if inside is getattr(x, "__dict__", None) else inside:
        reachable(y, seen)
    return seen


def test_the_case_carries_no_answer(few_forms):
    found = []

    def candidate(case):
        found.extend(x for x in reachable(case).values() if isinstance(x, Answer))
        assert case.answer is None and case.comment == ""
        object.__setattr__(case, "answer", "all right")
        answer = fomaml(case)
        object.__delattr__(case, "answer")
        return answer

    report = oracle.check(candidate, few())
    assert (report.verdict, report.bug) == ("KNOWN_BUG", "fomaml") and report.exit_code == 1 and not found


@functools.cache
def stored() -> dict:
    return {c.id: {"meta_grad": c.answer.meta_grad, "meta_loss": c.answer.meta_loss} for c in load("core")}


def test_answers_copied_from_the_files():
    """By id. That the new cases, which no file holds, are right as well is no use: the answer does not follow θ."""
    report = oracle.check(lambda case: stored().get(case.id) or right(case), seed=0)
    assert report.verdict == "WRONG_UNKNOWN" and report.exit_code == 1
    assert "is something kept by shape" in report.explanation and all(c.passed for c in report.cases)


def test_answers_copied_from_the_files_or_nothing():
    refused(oracle.check(lambda case: stored()[case.id], seed=0), "it raised KeyError: 'fresh-0-0'", "2 of")


def at_call(which, change):
    """Right, but for the calls in `which`."""
    calls = []

    def candidate(case):
        calls.append(1)
        answer = right(case)
        if len(calls) - 1 in which:
            answer["meta_grad"] = {n: change(g) for n, g in answer["meta_grad"].items()}
        return answer

    return candidate


# Cases of the core that see every classic mistake.
SEEING = ("tied", "batch-norm", "logistic", "relu-at-zero", "pool-tie", "strided-conv", "integers-1")


@functools.cache
def seeing() -> tuple[list, list[str]]:
    """These cases, and the roles of the questions about them, in their order."""
    these = [c for c in load("core") if c.id in SEEING]
    asked, _ = questions.questions(these)
    first = next(q.of for q in asked if q.role == "moved")
    return these, [q.role for q in asked if q.role != "moved" or q.of == first]  # others only if something is wrong


@pytest.mark.usefixtures("confirmed_once")
@pytest.mark.parametrize("role, verdict", [
    ("again", "NONDETERMINISTIC"), ("permuted", "WRONG_UNKNOWN"), ("changed", "WRONG_UNKNOWN"),
    ("moved", "WRONG_UNKNOWN"), ("moved a little", "WRONG_UNKNOWN"),
])  # fmt: skip
def test_right_but_not_always(role, verdict):
    """Every question counts, not only the cases."""
    these, roles = seeing()
    which = {i for i, asked in enumerate(roles) if asked == role.removesuffix(" a little")}
    which = {max(which)} if role == "moved a little" else which
    report = oracle.check(at_call(which, lambda g: g * 1.001), these)
    assert report.verdict == verdict and report.exit_code == 1 and report.explanation


def test_another_answer_at_each_call():
    rng = np.random.default_rng(0)
    report = oracle.check(each(lambda x: x + rng.normal(size=x.shape)), few())
    assert report.verdict == "NONDETERMINISTIC" and "asked twice" in report.explanation
    report = oracle.check(each(lambda x: x * (1 + 1e-6 * rng.normal())), few())
    assert report.verdict == "NONDETERMINISTIC" and "asked twice" in report.explanation


def test_buffers_that_are_used_again():
    """An answer is read before the next question is asked, so that one set of arrays does for all."""
    kept: dict = {}

    def candidate(case):
        for n, g in right(case)["meta_grad"].items():
            kept.setdefault((n, g.shape), np.zeros(g.shape))[...] = g
        return {"meta_grad": {n: kept[n, p.shape] for n, p in case.params.items()}}

    assert oracle.check(candidate, seed=0).verdict == "CORRECT"


@pytest.mark.parametrize("broken", ["errors", "abs"])
def test_a_broken_oracle_does_not_say_correct(broken, monkeypatch):
    """Whatever makes everything pass lets the planted error pass as well; and then there is no report."""

    def candidate(case):
        if broken == "abs":
            monkeypatch.setattr(np, "abs", lambda x: np.zeros(np.shape(x)))
        else:
            monkeypatch.setattr(tolerance, "errors", lambda got, wanted, scale, unit: np.zeros(np.shape(wanted)))
        return fomaml(case)

    with pytest.raises(AssertionError, match="a planted error in case .* passed: this oracle cannot be trusted"):
        oracle.check(candidate, seed=0)


# ── tampered vectors ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def vectors(tmp_path, monkeypatch):
    """A copy of the files, which the questions are taken from; `edit(change)` changes the listing, and signs it."""
    folder = tmp_path / "vectors"
    shutil.copytree(cases.VECTORS, folder)
    monkeypatch.setattr(questions, "load", functools.partial(load, folder=folder))
    monkeypatch.setattr(checking, "questions", questions.questions)
    drawn_once = questions.fresh
    monkeypatch.setattr(questions, "fresh", lambda *args: copy.deepcopy(fresh_once(drawn_once, *args)))

    def edit(change, sign=True):
        listing = json.loads((folder / "core.json").read_text(encoding="utf-8"))
        change(listing)
        data = json.dumps(listing).encode()
        (folder / "core.json").write_bytes(data)
        if sign:
            manifest = json.loads((folder / "MANIFEST.json").read_text(encoding="utf-8"))
            manifest["core.json"] = hashlib.sha256(data).hexdigest()
            (folder / "MANIFEST.json").write_text(json.dumps(manifest), encoding="utf-8")

    edit.folder = folder
    return edit


@functools.cache
def fresh_once(draw, *args):
    return draw(*args)


def digit(text: str, at: int) -> str:
    """A string of hex digits with one of them changed."""
    return text[:at] + f"{int(text[at], 16) ^ 1:x}" + text[at + 1 :]


def in_case(id, change):
    return lambda listing: change(next(c for c in listing["cases"] if c["id"] == id))


def gradient(case):
    case["answer"]["meta_grad"]["f8"] = digit(case["answer"]["meta_grad"]["f8"], 6)


def loss(case):
    case["answer"]["meta_loss"]["f8"] = digit(case["answer"]["meta_loss"]["f8"], 8)


def parameter(case):
    case["params"]["w1"]["f4"] = digit(case["params"]["w1"]["f4"], 4)


def example(case):
    case["query"][0]["x"]["f4"] = digit(case["query"][0]["x"]["f4"], 4)


def rate(case):
    case["inner_lr"] *= 2


def steps(case):
    case["inner_steps"] += 1


def exchanged(case):
    """The gradient of FOMAML for the right one."""
    case["answer"]["meta_grad"] = to_hex(flat(fomaml(load("core")[0])["meta_grad"]))


CHANGES = [gradient, loss, parameter, example, rate, steps, exchanged]


@pytest.mark.parametrize("change", CHANGES)
def test_tampered_vectors(change, vectors):
    """One digit is enough; and if the manifest was made to agree, the engine does not."""
    vectors(in_case("tanh", change), sign=False)
    with pytest.raises(Tampered, match="core.json has been changed: its SHA-256 is not the manifest's"):
        oracle.check(fomaml, seed=0)
    vectors(lambda listing: None)
    with pytest.raises(Tampered, match="case tanh: the stored answer is .* roundings from what the engine computes"):
        oracle.check(fomaml, seed=0)


def test_tampered_vectors_on_the_command_line(vectors, monkeypatch, capsys):
    monkeypatch.setattr(protocol, "questions", questions.questions)
    monkeypatch.setattr(protocol, "Confirmation", checking.Confirmation)
    vectors(in_case("tanh", gradient), sign=False)
    assert main(["oracle", "gen", "--seed", "0"]) == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("tinymaml: ") and "has been changed" in said.err
    vectors(lambda listing: None)
    assert main(["oracle", "check", "--seed", "0", "--", sys.executable, "-c", "pass"]) == 1
    said = capsys.readouterr()
    assert said.out == "" and "the stored answer is" in said.err


def test_tampered_scales(vectors, few_forms):
    """With tolerances a million million times too large, FOMAML passes every stored case; not the new ones."""

    def change(listing):
        for case in listing["cases"]:
            case["answer"]["scale"] = [s * 1e16 for s in case["answer"]["scale"]]

    vectors(change)
    report = oracle.check(fomaml, seed=0)
    assert report.exit_code == 1 and {c.id for c in report.cases if not c.passed} == {"fresh-0-0", "fresh-0-1"}


def test_tampered_mistakes(vectors, few_forms):
    """The files say that no case sees any mistake: FOMAML is no pass, and right answers prove nothing."""

    def change(listing):
        for case in listing["cases"]:
            case["answer"]["seen"] = []

    vectors(change)
    assert oracle.check(fomaml, seed=0).exit_code == 1


def test_removed_cases(vectors):
    """A set that cannot see everything says so."""
    vectors(lambda listing: listing.update(cases=[c for c in listing["cases"] if c["id"] in ("tanh", "quadratic")]))
    report = oracle.check(right, seed=0)
    assert report.verdict == "INCONCLUSIVE" and "blind to batch_norm_frozen" in report.explanation
    vectors(lambda listing: listing.update(cases=[]))
    assert oracle.check(right, seed=0).verdict == "INCONCLUSIVE"


@pytest.mark.parametrize("text", ["{}", "", "[1]", "{", '{"core.json": null}', "null"])
def test_manifest_without_use(text, vectors):
    (vectors.folder / "MANIFEST.json").write_text(text, encoding="utf-8")
    with pytest.raises(Tampered, match="has been changed|cannot be read"):
        oracle.check(right)


# ── lines of answers ────────────────────────────────────────────────────────────────────────────────────────────────

PREFIX = "core:float64:0:"


@functools.cache
def recorded() -> list[dict]:
    """The right answer to every question with seed 0."""
    out = []
    for q in drawn("core", "float64", (), 0)[0]:
        answer = right(q.case)
        out.append({"id": f"{PREFIX}/{q.id}", "meta_loss": answer["meta_loss"],
                    "meta_grad": {n: g.tolist() for n, g in answer["meta_grad"].items()}})  # fmt: skip
    return out


def filled(word: str) -> str:
    """With the number of questions for {all}, one less for {others}, and ids for {ids[5]}, …"""
    ids = [answer["id"] for answer in recorded()]
    return word.format(ids=ids, all=len(ids), others=len(ids) - 1, later=len(ids) - 7)


def dumped(answers) -> list[str]:
    return [json.dumps(a) for a in answers]


def test_recorded_answers_pass():
    assert protocol.check_answers(dumped(recorded())).verdict == "CORRECT"


def swapped(a):
    a[2], a[3] = a[3], a[2]


SHUFFLED = {
    "missing": (lambda a: a.pop(5), "wanted the answer to '{ids[5]}'", "wrong id, or out of order"),
    "first missing": (lambda a: a.pop(0), "wanted the answer to 'core:float64:0:/tanh'"),
    "last missing": (lambda a: a.pop(), "the answer is missing", "{others} of {all} came"),
    "half": (lambda a: a.__delitem__(slice(9, None)), "the answer is missing, and all that follow (9 of {all} came)"),
    "twice": (lambda a: a.insert(3, a[3]), "wanted the answer to", "out of order"),
    "all twice": (lambda a: a.extend(a[:]), "more answers came than the {all}"),
    "one more": (lambda a: a.append({"id": "x"}), "more answers came than the {all}"),
    "swapped": (swapped, "wanted the answer to '{ids[2]}', seen", "out of order"),
    "backwards": (lambda a: a.reverse(), "wanted the answer to", "out of order"),
    "an id of another seed": (lambda a: a[5].update(id="core:float64:1:/square"), "seen 'core:float64:1:/square'"),
    "no id": (lambda a: a[5].pop("id"), 'wanted an object with an "id"'),
    "id no text": (lambda a: a[5].update(id=5), 'wanted an object with an "id"'),
    "id endless": (lambda a: a[5].update(id="x" * 10**6), "seen 'xxxxx"),
    "error": (lambda a: a[5].update(error="\x1b[2J\nCORRECT\n"), "it says:"),
    "no gradient": (lambda a: a[5].pop("meta_grad"), 'wanted a dict with "meta_grad"'),
    "text for numbers": (lambda a: a[5].update(meta_grad={n: "1" for n in a[5]["meta_grad"]}), "has dtype <U1"),
    "nulls": (lambda a: a[5].update(meta_grad={n: [None] for n in a[5]["meta_grad"]}), "has dtype object"),
    "truth": (lambda a: a[5].update(meta_loss=True), "meta_loss has dtype bool"),
    "huge": (lambda a: a[5].update(meta_loss=10**400), "meta_loss has dtype object"),
    "not a number": (lambda a: a[5].update(meta_loss=float("nan")), "meta_loss is nan"),
    "trace": (lambda a: a[5].update(trace=5), "trace is int"),
    "changed inputs": (lambda a: a[0].update(changed_inputs=True), "the numbers are right, but"),
}


@pytest.mark.parametrize("name", SHUFFLED)
def test_answers_that_do_not_fit_the_questions(name):
    change, *words = SHUFFLED[name]
    answers = copy.deepcopy(recorded())
    change(answers)
    if name == "first missing":  # the suite is known from the first line's id, whichever case it is
        assert answers[0]["id"] == f"{PREFIX}/tanh@again"
    refused(protocol.check_answers(dumped(answers)), *map(filled, words))


@pytest.mark.parametrize("line", [
    "hello", "{", "[]", "5", "null", '""', '{"id": 1}', "[" * 100_000, '{"id": "' + "x" * 100, "\x00", "\ufeff{}",
    '{"id": "core"}', '{"id": "core:float64:0/tanh"}', '{"id": "small:float64:0:/tanh"}', '{"id": "/"}',
    '{"id": "core:float16:0:/tanh"}', '{"id": "core:float64:one:/tanh"}', '{"id": "core:float64:0:magic/tanh"}',
    '{"id": "core:float64:' + "9" * 5000 + ':/tanh"}', "9" * 5000,
])  # fmt: skip
def test_first_lines_that_say_nothing(line):
    start = time.monotonic()
    refused(protocol.check_answers([line] * 3))
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("line", ["hello", "{", "[]", "[" * 100_000, "9" * 5000, '{"id": "core:float64:0:/softmax"'])
def test_later_lines_that_say_nothing(line):
    lines = dumped(recorded())
    lines[1] = line
    refused(protocol.check_answers(lines), filled("{others} of {all} questions failed"))


def test_ids_of_the_full_set_have_slashes():
    """Which suite was asked is known from the first line, even if that is of a later case."""
    line = '{"id": "core:float64:0:/tanh-1-2-1-mse/1-step"}'
    refused(protocol.check_answers([line]), "wanted the answer to 'core:float64:0:/tanh', seen", "/1-step'")


def test_no_answers(tmp_path):
    refused(protocol.check_answers([]), "no answer came")
    with pytest.raises(FileNotFoundError):
        protocol.check_answers(protocol.lines_of(tmp_path))
    for i, line in enumerate(dumped(recorded())[::-1]):
        (tmp_path / f"{i:04}.json").write_text(line, encoding="utf-8")
    refused(protocol.check_answers(protocol.lines_of(tmp_path)), "out of order")


# ── programs ────────────────────────────────────────────────────────────────────────────────────────────────────────

PROGRAM = """
import json, os, signal, sys, time
mode, folder = sys.argv[1:]
open(folder + "/pid", "w", encoding="utf-8").write(str(os.getpid()))
answers = open(folder + "/answers.jsonl", encoding="utf-8").read().splitlines()
def say(lines):
    for line in lines:
        sys.stdin.readline()
        print(line, flush=True)
def forever(text, pause=0):
    while True:
        os.write(1, text)
        time.sleep(pause)
if mode == "right": say(answers)
if mode == "right, unasked": print("\\n".join(answers), flush=True)
if mode == "silent": time.sleep(90)
if mode == "silent later": say(answers[:7]); time.sleep(60)
if mode == "stays": say(answers); time.sleep(60)
if mode == "ends": sys.exit(0)
if mode == "leaves": say(answers[:7]); os._exit(0)
if mode == "fails": sys.exit("no such file: weights.pt")
if mode == "raises": say(answers[:1]); raise ValueError("cannot reshape")
if mode == "crashes": os.kill(os.getpid(), signal.SIGSEGV)
if mode == "odd signal": os.kill(os.getpid(), 40)
if mode == "endless line": forever(b"x" * 65536)
if mode == "endless lines": forever(b"hello\\n" * 9999)
if mode == "blank lines": forever(b"\\n" * 65536)
if mode == "dots": forever(b".", 0.05)
if mode == "newlines": forever(b"\\n", 0.05)
if mode == "loud": os.write(2, b"noise " * 10_000_000 + b"\\nlast words\\n"); sys.exit(3)
if mode == "loud and right":
    for line in answers:
        os.write(2, b"noise " * 100_000); say([line])
if mode == "half a line": print(answers[0][:50], end="", flush=True)
if mode == "not UTF-8": os.write(1, b"\\xff\\xfe\\n")
if mode == "greeting": print("loading ...", flush=True); say(answers)
if mode == "closes": os.close(1); time.sleep(60)
if mode == "child":
    say(answers)
    if os.fork() == 0:
        open(folder + "/pid", "w", encoding="utf-8").write(str(os.getpid())); time.sleep(60)
    time.sleep(0.3)
if mode == "copies":
    for line in sys.stdin:
        asked = json.loads(line)
        known = {a["id"]: a for a in map(json.loads, answers) if "fresh" not in a["id"]}
        zero = {n: (lambda z: z(z, p))(lambda z, x: [z(z, y) for y in x] if isinstance(x, list) else 0.0)
                for n, p in asked["params"].items()}
        print(json.dumps(known.get(asked["id"]) or {"id": asked["id"], "meta_grad": zero}), flush=True)
"""

RUNS = {
    "silent": ("no answer within 0.5 s", "was still running, and was stopped"),
    "silent later": ("no answer within 2 s", "{later} of {all} questions failed"),
    "stays": ("after the last answer", "no answer within 2 s", "was still running, and was stopped"),
    "ends": ("the answer is missing, and all that follow (0 of {all} came)",),
    "leaves": ("the answer is missing, and all that follow (7 of {all} came)",),
    "fails": ("ended with exit code 1", "stderr: no such file: weights.pt"),
    "raises": ("(1 of {all} came)", "stderr: ValueError: cannot reshape"),
    "crashes": ("was ended by signal SIGSEGV",),
    "odd signal": ("was ended by signal 40",),
    "endless line": ("too much output",),
    "endless lines": ("a line is not JSON", "'hello'"),
    "blank lines": ("too much output",),
    "dots": ("no answer within 0.5 s",),
    "newlines": ("no answer within 0.5 s",),
    "loud": ("ended with exit code 3", "stderr: last words"),
    "half a line": ("a line is not JSON",),
    "not UTF-8": ("a line is not UTF-8",),
    "greeting": ("a line is not JSON", "loading ..."),
    "closes": ("the answer is missing, and all that follow (0 of {all} came)", "was still running, and was stopped"),
}


@pytest.fixture
def program(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM, encoding="utf-8")
    (tmp_path / "answers.jsonl").write_text("\n".join(dumped(recorded())), encoding="utf-8")

    def check(mode, timeout=30.0):
        command = [sys.executable, "-I", "-S", str(tmp_path / "program.py"), mode, str(tmp_path)]
        return protocol.check_program(command, timeout=timeout, seed=0)

    return check


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("mode", RUNS)
def test_broken_programs(mode, program, tmp_path, monkeypatch):
    if mode == "blank lines":
        monkeypatch.setattr(protocol, "MOST_OUTPUT", 1 << 22)
    if mode == "endless line":
        monkeypatch.setattr(protocol, "LONGEST_LINE", 1 << 22)
    timeout = next((t for t in (0.5, 2.0) if f"within {t:g} s" in str(RUNS[mode])), 30.0)
    if timeout < 30 or "was still running" in str(RUNS[mode]) or mode.startswith(("endless", "blank")):
        monkeypatch.setattr(protocol, "GRACE", 0.1)  # it does not end by itself
    start = time.monotonic()
    report = program(mode, timeout)
    assert time.monotonic() - start < 20
    refused(report, *map(filled, RUNS[mode]))
    assert len(str(report)) < 30_000
    pid = int((tmp_path / "pid").read_text(encoding="utf-8"))
    while running(pid) and time.monotonic() - start < 30:
        time.sleep(0.01)
    assert not running(pid)


@pytest.mark.parametrize("mode", ["right", "right, unasked", "loud and right", "child"])
def test_programs_that_are_right(mode, program, tmp_path):
    """What they write to stderr is theirs, however much it is; a child that holds the output open ends with them."""
    assert program(mode).verdict == "CORRECT"
    assert not running(int((tmp_path / "pid").read_text(encoding="utf-8")))


def test_recorded_answers_for_new_questions(program, tmp_path):
    """Answers of another seed, from a program."""
    answers = tmp_path / "answers.jsonl"
    seed0 = answers.read_text(encoding="utf-8")
    answers.write_text(seed0.replace(PREFIX, "core:float64:1:"), encoding="utf-8")
    refused(program("right"), "seen 'core:float64:1:/tanh': wrong id")


@pytest.mark.slow
def test_recorded_answers_copied_by_id(program):
    """The new cases tell; but first a known mistake is looked for, which takes ten seconds."""
    report = program("copies")
    assert (report.verdict, report.bug) == ("KNOWN_BUG", "zero_gradient") and "alone" in report.explanation
    assert {c.id for c in report.cases if not c.passed} == {"fresh-0-0", "fresh-0-1"}


# ── functions in a process of their own, and the commands ───────────────────────────────────────────────────────────

MODULE = """
import ctypes, os, sys
from tinymaml.oracle import tolerance

def right(case):
    value, grads = tolerance.engine_answer(case)
    return {"meta_grad": grads, "meta_loss": value}

def talks(case):
    print("thinking ...", flush=True)
    os.write(1, b"written\\\\n" * 9999)
    os.system("echo and even from a shell")
    return right(case)

def leaves(case): os._exit(0)
def crashes(case): ctypes.string_at(0)
def exits(case): sys.exit(0)
def nothing(case): return None
def objects(case): return {"meta_grad": {n: object() for n in case.params}}
def reads(case):
    sys.stdin.readline()
    return right(case)
def closes(case):
    for fd in range(3, 20):
        try: os.close(fd)
        except OSError: pass
    return right(case)
def bends(case):
    from tinymaml.oracle.mistakes.semantics import run
    tolerance.TAU = tolerance.SEPARATION = float("inf")
    tolerance.errors = lambda *a: 0.0
    return {"meta_grad": run(case, factors="detached").meta_grad}
def changes(case):
    answer = right(case)
    for p in case.params.values(): p += 1
    return answer
"""

FUNCTIONS = {
    "leaves": ("PROTOCOL_ERROR", "the answer is missing"),
    "crashes": ("PROTOCOL_ERROR", "was ended by signal SIGSEGV"),
    "exits": ("PROTOCOL_ERROR", "it says: SystemExit: 0"),
    "nothing": ("PROTOCOL_ERROR", "it returned NoneType, wanted a dict"),
    "objects": ("PROTOCOL_ERROR", ""),
    "reads": ("CORRECT", ""),
    "closes": ("PROTOCOL_ERROR", "the answer is missing"),
    "changes": ("PROTOCOL_ERROR", "the numbers are right, but"),
    "bends": ("KNOWN_BUG", "the inner gradient was detached"),
    "talks": ("INCONCLUSIVE", "all right, but only the cases that were chosen"),
}
CHOSEN = {"talks": ["tanh"], "bends": ["quartic"]}  # the others are asked everything


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "theirs.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(oracle.__file__).parents[2]))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_in_a_process_of_their_own(name, module):
    verdict, words = FUNCTIONS[name]
    report = protocol.check_function(f"theirs:{name}", timeout=30, seed=0, cases=CHOSEN.get(name, ()))
    assert report.verdict == verdict and (report.exit_code == 0) == (verdict == "CORRECT"), report
    assert words in "\n".join([report.explanation, *report.notes])


@pytest.mark.parametrize("args, stdin, words", [
    (["check", "theirs:leaves", "--case", "tanh"], "", "the answer is missing"),
    (["check", "theirs:none", "--case", "tanh"], "", "theirs has no function 'none'"),
    (["check", "--case", "tanh", "--", "./no-such-program"], "", "no-such-program"),
    (["check", "--case", "tanh", "--", sys.executable, "-S", "-c", "print('CORRECT')"], "", "a line is not JSON"),
    (["check"], "", "no answer came"),
    (["check"], "CORRECT\n", "a line is not JSON"),
    (["check", "--json"], "CORRECT\n", '"verdict": "PROTOCOL_ERROR"'),
    (["check", "--from", "."], "", "no *.json"),
], ids=lambda x: " ".join(x)[:30] if isinstance(x, list) else "")  # fmt: skip
def test_commands(args, stdin, words, module, capsys, tmp_path, monkeypatch):
    """Exit code 1, and no line that says CORRECT."""
    (tmp_path / "stdin").write_text(stdin, encoding="utf-8")
    with open(tmp_path / "stdin", encoding="utf-8") as file:
        monkeypatch.setattr(sys, "stdin", file)
        code = main(["oracle", *args])
    said = capsys.readouterr()
    assert code == 1 and words.lower() in (said.out + said.err).lower() and not re.search("^CORRECT", said.out, re.M)


def test_a_pipe(module, capsys):
    """`gen | program | check`, as a shell runs it: the exit code of the last one is what counts."""
    assert main(["oracle", "gen", "--seed", "7"]) == 0  # whose new cases are soon drawn
    asked = capsys.readouterr().out
    assert not {"answer", "bugs", "meta_grad", "comment"} & {k for line in asked.splitlines() for k in json.loads(line)}
    own = [sys.executable, "-m", "tinymaml", "oracle", "check"]
    done = subprocess.run(own, input=asked, capture_output=True, encoding="utf-8", timeout=60)  # cat
    assert done.returncode == 1 and done.stdout.startswith("PROTOCOL_ERROR") and "wanted a dict with" in done.stdout
