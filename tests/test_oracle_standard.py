"""The oracle as a standard: versions, the specification, programs written from it alone, and the badge."""

import dataclasses
import functools
import hashlib
import inspect
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tinymaml.cli import main
from tinymaml.oracle import catalogue, family, models, questions, tolerance, versions
from tinymaml.oracle.cases import CAPABILITIES, VECTORS, Answer, Bugs, Case, Tampered, load, to_hex
from tinymaml.oracle.clues import locate
from tinymaml.oracle.judge import protocol
from tinymaml.oracle.mistakes.semantics import run
from tinymaml.oracle.pages import badge, spec
from tinymaml.oracle.pages.report import VERDICTS, Report

CLIENTS = Path(__file__).resolve().parents[1] / "bench" / "oracle" / "clients"

# ── versions ────────────────────────────────────────────────────────────────────────────────────────────────────────


def digest(of: str) -> str:
    """Twelve hex digits that change with whatever the version of `of` stands for."""
    content = {"vectors": _vectors, "wire": _wire, "catalogue": _catalogue}[of]()
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _plain(x: object) -> object:
    return sorted(x) if isinstance(x, (set, frozenset)) else x.tolist() if isinstance(x, np.ndarray) else repr(x)


def _vectors() -> list:
    """Every case that ships, with its right answer; mistakes are the catalogue's."""
    shipped = load("full") + [case for name in family.ALGORITHMS for case in load("core", algorithm=name)]
    left_out = {"comment"}
    return [
        {k: v for k, v in case.to_json(to_hex).items() if k not in left_out}
        | {"meta_loss": case.answer.meta_loss, "meta_grad": {n: to_hex(g) for n, g in case.answer.meta_grad.items()}}
        for case in shipped if case.answer is not None
    ]  # fmt: skip


def _wire() -> dict:
    """Names and types of all fields, layers and losses; not the words that explain them."""
    fields = {what: {name: kind for name, (kind, _) in table.items()} for what, table in spec.FIELDS.items()}
    tables = dict(layers=spec.LAYERS, losses=spec.LOSSES, policies=spec.POLICIES)
    shapes = {kind: {name: of[:-1] for name, of in table.items()} for kind, table in tables.items()}
    return {"fields": fields, "eps": models.EPS} | shapes


def _catalogue() -> list:
    """What each mistake is called and computes; not the words of its cause and fix."""
    return [[m.id, m.kind, m.computes, m.forms, m.free] for m in catalogue.CATALOGUE.values()]


# A version and the digest of what carries it. Who changes the content raises the version by the rule in `versions`, and
# adds a line with the new digest.
SEALED = {
    "vectors 2.0": "39d90cb7c7e0",
    "wire 2.0": "9eeb03aa4c12",
    "catalogue 2.0": "265b503a9ae0",
    "catalogue 2.1": "a24dbddfc71c",
    "vectors 2.1": "a8b502c1f680",
    "wire 2.1": "61f1bbd886cc",
    "catalogue 2.2": "db207e3f0526",
    "catalogue 2.3": "bb9ffbcfa72d",
    "catalogue 2.4": "48c66f1b6842",
    "catalogue 2.5": "2a3dcb8e1049",
    "catalogue 2.6": "6965e2e1adc8",
    "catalogue 2.7": "0d0ecc4856c4",
    "catalogue 2.8": "fa816a56ce0f",
    "catalogue 2.9": "6914473ac5b8",
    "catalogue 2.10": "dd574ed2d93c",
}


@pytest.mark.parametrize("name", versions.VERSIONS)
def test_the_content_changes_only_with_its_version(name):
    version, now = f"{name} {versions.VERSIONS[name]}", digest(name)
    assert version in SEALED, f"{version} is new: add its digest, {now}"
    major, minor = versions.RULES[name]
    rule = f"the major number if {major}, the minor one if {minor}"
    assert now == SEALED[version], f"the content of {version} changed; raise {rule}, and add its digest, {now}"


def test_a_digest_notices_a_change(monkeypatch):
    before = {name: SEALED[f"{name} {version}"] for name, version in versions.VERSIONS.items()}
    first, *others = load("full")
    changed = dataclasses.replace(first, answer=dataclasses.replace(first.answer, meta_loss=0.0))
    monkeypatch.setitem(globals(), "load", lambda suite, **of: [changed, *others])
    monkeypatch.setitem(spec.FIELDS["question"], "further", ("number", "a new one"))
    monkeypatch.setitem(
        catalogue.CATALOGUE, "fomaml", dataclasses.replace(catalogue.CATALOGUE["fomaml"], computes="g_q(θ)")
    )
    assert all(digest(name) != before[name] for name in versions.VERSIONS)


def test_words_do_not_change_a_digest(monkeypatch):
    before = digest("catalogue"), digest("wire")
    reworded = dataclasses.replace(catalogue.CATALOGUE["fomaml"], explanation="in other words", torch="another line")
    monkeypatch.setitem(catalogue.CATALOGUE, "fomaml", reworded)
    kind, _ = spec.FIELDS["question"]["id"]
    monkeypatch.setitem(spec.FIELDS["question"], "id", (kind, "in other words"))
    assert (digest("catalogue"), digest("wire")) == before


def test_every_version_has_a_rule():
    assert versions.RULES.keys() == versions.VERSIONS.keys()


def test_versions_of_one_major_number_fit():
    major = versions.VERSIONS["wire"].split(".")[0]
    assert versions.misfit(f"{major}.0", "wire") == versions.misfit(f"{major}.999", "wire") == ""


@pytest.mark.parametrize("other", ["1.0", "3.0", "20.0", "2", 2.0, None, "", "2.0.0", "two", ["2.0"], "9" * 100])
def test_other_versions_are_refused_in_one_line(other):
    why = versions.misfit(other, "wire")
    assert "wire" in why and versions.VERSIONS["wire"] in why and "\n" not in why and len(why) < 200


def test_every_question_and_report_says_its_version(capsys):
    assert main(["oracle", "gen", "--seed", "0"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines and all(line["format"] == versions.VERSIONS["wire"] for line in lines)
    assert json.loads(Report("SKIPPED").to_json())["versions"] == versions.VERSIONS


def test_vectors_say_their_version_and_others_are_refused(tmp_path):
    manifest = json.loads((VECTORS / "MANIFEST.json").read_text())
    assert manifest["version"] == versions.VERSIONS["vectors"]
    for name in ("core.json", "full.json"):
        assert json.loads((VECTORS / name).read_text())["format"] == versions.VERSIONS["vectors"]
    other = (VECTORS / "core.json").read_bytes().replace(b'"format":"2.', b'"format":"1.', 1)
    (tmp_path / "core.json").write_bytes(other)
    (tmp_path / "MANIFEST.json").write_text(json.dumps(manifest | {"core.json": hashlib.sha256(other).hexdigest()}))
    with pytest.raises(Tampered, match=r"this is version 1.\d+ of the vectors, and tinymaml here has 2"):
        load("core", tmp_path)


def test_answers_in_another_version_are_told_so():
    case = load("core")[0]
    answer = {"id": f"{protocol.token('core', 'float64', (), 0)}/{case.id}", "meta_grad": [], "format": "3.1"}
    report = protocol.check_answers([json.dumps(answer)])
    assert report.verdict == "PROTOCOL_ERROR" and "version 3.1 of the wire" in report.explanation
    assert "\n" not in report.explanation


def test_the_catalogue_as_json(capsys):
    assert main(["oracle", "list-bugs", "--json"]) == 0
    page = json.loads(capsys.readouterr().out)
    assert page["version"] == versions.VERSIONS["catalogue"]
    assert [m["id"] for m in page["mistakes"]] == list(catalogue.CATALOGUE)
    assert all(m["computes"] and m["cause"] and m["torch"] and m["jax"] for m in page["mistakes"])
    assert {m["algorithm"] for m in page["mistakes"]} <= spec.algorithms().keys()
    numbers = {m["id"]: m["number"]["symbol"] for m in page["mistakes"] if m["number"]}
    assert numbers == {m.id: m.free.symbol for m in catalogue.CATALOGUE.values() if m.free}


# ── the specification ───────────────────────────────────────────────────────────────────────────────────────────────


def test_the_specification_is_one_page(capsys):
    assert main(["oracle", "spec"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 180 and max(map(len, lines)) <= spec.WIDTH


def test_every_name_in_the_code_stands_in_the_specification():
    page = spec.spec_page()
    assert spec.LAYERS.keys() == models._LAYERS.keys() and spec.LOSSES.keys() == models._LOSSES.keys()
    assert spec.POLICIES.keys() == models._POLICIES.keys()
    names = [*models._LAYERS, *models._LOSSES, *CAPABILITIES, *VERDICTS, *spec.algorithms()]
    names += [f"{name} {version}" for name, version in versions.VERSIONS.items()]
    assert not [name for name in names if f"\n  {name}  " not in page and f" {name}" not in page]
    assert all(text in " ".join(page.split()) for text in VERDICTS.values())


def test_the_fields_of_a_question_are_those_that_are_written():
    for question in _asked():
        (line,) = protocol.lines([question], "x")
        data = json.loads(line)
        assert list(spec.FIELDS["question"]) == sorted(data, key=list(spec.FIELDS["question"]).index)
        assert data["model"].keys() == spec.FIELDS["model"].keys()
        assert all(batch.keys() == spec.FIELDS["task"].keys() for batch in data["support"] + data["query"])


def test_the_fields_of_an_answer_are_those_that_are_read():
    sources = map(inspect.getsource, (questions.read_answer, protocol._next, protocol._parse))
    read = set(re.findall(r'(?:raw|data)(?:\.get\(|\[)"(\w+)"|"(\w+)" (?:not )?in (?:raw|data)', "".join(sources)))
    of_the_worker = {"changed_inputs", "framework"}
    assert {a or b for a, b in read} - of_the_worker == spec.FIELDS["answer"].keys()


def test_the_fields_of_a_trace_are_those_that_are_judged():
    case = load("core")[0]
    steps = case.inner_steps
    for way in run(case).trace:
        assert spec.FIELDS["trace"].keys() <= way.keys()
        assert len(way["theta"]) == steps + 1 and len(way["loss_s"]) == len(way["grad_s"]) == steps


def test_names_and_ids_need_no_escape():
    for question in _asked(tuple(CAPABILITIES)):
        for name in (question.id, *question.case.params):
            assert json.dumps(name) == f'"{name}"'


def test_every_algorithm_has_its_page(capsys):
    assert {"maml", *family.ALGORITHMS} == spec.algorithms().keys()
    for name, module in family.ALGORITHMS.items():
        assert main(["oracle", "spec", "--algorithm", name]) == 0
        page = capsys.readouterr().out
        assert "θ" in page and all(f'"{setting}"' in page for setting in module.SETTINGS)
    assert main(["oracle", "spec", "--algorithm", "sgd"]) == 1
    assert capsys.readouterr().err.startswith("tinymaml: algorithm is 'sgd', wanted one of maml")


def test_the_settings_of_a_layer_are_named_in_its_row():
    for question in _asked(tuple(CAPABILITIES)):
        for layer in question.case.model["layers"]:
            takes = spec.LAYERS[layer["layer"]][0]
            assert all(setting in takes for setting in layer.keys() - {"layer", "params"})
            assert takes.count("(") >= len(layer.get("params", []))


def test_the_example_is_right():
    question, answer = map(json.loads, spec.example())
    case = next(c for c in load("core") if c.id == "integers-1")
    read = questions.read_answer(case, answer)
    assert question["id"] == answer["id"] and not read.problem
    assert tolerance.error(read.grad, case.answer.meta_grad, case.answer.scale, tolerance.UNIT["float64"]) == 0


def test_the_specification_as_json(capsys):
    assert main(["oracle", "spec", "--json"]) == 0
    page = json.loads(capsys.readouterr().out)
    assert page["layers"].keys() == spec.LAYERS.keys() and page["losses"].keys() == spec.LOSSES.keys()
    assert page["versions"] == versions.VERSIONS and page["verdicts"] == VERDICTS
    assert page["fields"]["question"].keys() == spec.FIELDS["question"].keys()


# ── programs in other languages ─────────────────────────────────────────────────────────────────────────────────────


pytestmark = pytest.mark.usefixtures("confirmed_once", "computed_once")


@functools.cache
def _asked(capabilities: tuple[str, ...] = ()) -> tuple:
    return tuple(questions.questions("core", "float64", capabilities, 0)[0])


BUILD = {
    "client.cpp": ("g++", ["g++", "-std=c++17", "-O0", "-Wall", "-Wextra", "-Werror"]),
    "client.rs": ("rustc", ["rustc", "--edition", "2021", "-D", "warnings", "-C", "opt-level=1"]),
    "client.mjs": ("node", None),
}


# That in Rust takes seconds to build.
clients = pytest.mark.parametrize("client", [
    pytest.param(name, marks=pytest.mark.slow) if name == "client.rs" else name for name in BUILD
])  # fmt: skip


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A function: the command that runs a client, which is built once; skipped where its language is missing."""

    @functools.cache
    def command(name: str) -> tuple[str, ...]:
        tool, build = BUILD[name]
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}")
        if build is None:
            return (tool, str(CLIENTS / name))
        program = tmp_path_factory.mktemp("client") / "client"
        done = subprocess.run([*build, str(CLIENTS / name), "-o", str(program)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return (str(program),)

    return command


def said_by(command, lines: list[str]) -> list[dict]:
    """What a program answers to lines."""
    done = subprocess.run(command, input="\n".join(lines) + "\n", capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def worst(command, asked: list[questions.Question], hexadecimal: bool = False) -> float:
    """The greatest error of a program's answers, in roundings."""
    answers = said_by(command, list(protocol.lines(asked, "x", hexadecimal)))
    assert [answer["id"] for answer in answers] == [f"x/{question.id}" for question in asked]
    off = 0.0
    for question, data in zip(asked, answers, strict=True):
        case, read = question.case, questions.read_answer(question.case, data)
        assert not read.problem and "error" not in data, (case.id, read.problem, data)
        right, unit = case.answer, tolerance.UNIT[case.dtype]
        off = max(off, tolerance.error(read.grad, right.meta_grad, right.scale, unit))
        off = max(off, float(tolerance.errors(read.meta_loss, right.meta_loss, right.loss_scale, unit)))
        for t, way in enumerate(run(case).trace):
            if read.adapted:
                assert all(np.allclose(read.adapted[t][n], p, rtol=1e-12) for n, p in way["theta"][-1].items())
                assert np.allclose(read.losses[t], np.array(way["loss_s"], float), rtol=1e-12)
        assert not locate.trace_error(locate.Judged(case, read, 0.0, 0.0))
    return off


def awkward() -> list[Case]:
    """What the suites have not: unequal sides, padding of every kind, layers that no case has, a class that is
    missing, rates of their own, a part that adapts."""
    rng = np.random.default_rng(0)

    def numbers(*shape):
        return np.round(rng.normal(size=shape) * 64) / 64

    def images(*labels):
        return numbers(len(labels), 5, 4, 2), np.array(labels)

    def rows(n):
        return numbers(n, 3), rng.integers(0, 2, (n, 2)).astype(float)

    out = []
    pool = {"layer": "max_pool", "size": 2}
    flatten, mean = {"layer": "flatten"}, {"layer": "spatial_mean"}
    head = {"layer": "linear", "params": ["w", "b"]}
    for padding, stride, after, size in (
        ("VALID", 1, [pool, flatten], 3), ("VALID", 2, [flatten], 12), ("SAME", 2, [mean], 3),
        ("SAME", 1, [pool, mean], 3), (1, 2, [mean], 3), (2, 1, [pool, mean], 3),
    ):  # fmt: skip
        conv = {"layer": "conv", "params": ["c"], "stride": stride, "padding": padding}
        layers = [conv, {"layer": "softplus"}, *after, head]
        params = {"c": numbers(3, 2, 2, 3) / 2, "w": numbers(size, 3) / 4, "b": numbers(3)}
        rates = {n: 0.125 + abs(numbers(*p.shape)) / 8 for n, p in params.items()}
        out.append(Case(f"conv-{padding}-{stride}", "", {"layers": layers, "loss": "cross_entropy"}, params,
                        [images(0, 2, 2), images(1, 0)], [images(2, 2), images(0, 0, 1)], rates, 2))  # fmt: skip
    out += [dataclasses.replace(out[0], id="first-order", first_order=True),
            dataclasses.replace(out[0], id="no-steps", inner_steps=0)]  # fmt: skip
    layers = [{"layer": "linear", "params": ["w"]}, {"layer": "batch_norm", "params": ["g", "b"]}, {"layer": "square"},
              {"layer": "linear", "params": ["v"]}]  # fmt: skip
    for loss in ("binary_cross_entropy", "mse", "half_mse"):
        params = {"w": numbers(3, 2), "g": 1 + numbers(2) / 8, "b": numbers(2), "v": numbers(2, 2)}
        out.append(Case(loss, "", {"layers": layers, "loss": loss}, params | {"unused": numbers(3)},
                        [rows(4), rows(5)], [rows(3), rows(2)], 0.0625, 3, adapt=("w", "v")))  # fmt: skip
    layers = [{"layer": "context", "params": ["phi"]}, {"layer": "linear", "params": ["w"]}, {"layer": "tanh"}]
    out.append(Case("context", "", {"layers": layers, "loss": "mse"}, {"phi": numbers(2), "w": numbers(5, 2)},
                    [rows(3)], [rows(4)], 0.5, 2))  # fmt: skip
    return [dataclasses.replace(case, answer=answered(case)) for case in out]


def answered(case: Case) -> Answer:
    value, grads = tolerance.engine_answer(case)
    loss_scale, scale = tolerance.scales(case)
    return Answer(value, grads, scale, loss_scale, Bugs(case, ()))


@pytest.fixture(scope="module")
def unusual() -> list[questions.Question]:
    return [questions.Question(case.id, case) for case in awkward()]


@clients
def test_a_program_written_from_the_specification_is_correct(client, built, monkeypatch):
    monkeypatch.setattr(protocol, "questions", lambda *args: (list(_asked()), {}))
    report = protocol.check_program(list(built(client)), seed=0)
    assert report.verdict == "CORRECT", str(report)
    few = [q for q in _asked() if q.id.startswith("tanh") or q.id in ("quadratic", "softmax")]
    monkeypatch.setattr(protocol, "questions", lambda *args: (few, {}))
    report = protocol.check_program([*built(client), "--first-order"], seed=0)
    assert (report.verdict, report.bug) == ("KNOWN_BUG", "fomaml"), str(report)


@clients
def test_such_a_program_knows_what_no_suite_holds(client, built, unusual):
    assert worst(built(client), unusual) < tolerance.TAU
    exact = [q for q in _asked() if q.role == "case"][:4]
    if client == "client.cpp":  # which reads bit patterns, too
        assert worst(built(client), [*exact, *unusual], hexadecimal=True) < tolerance.TAU


def test_the_unusual_cases_have_every_layer_and_loss(unusual):
    every = [*unusual, *_asked(tuple(CAPABILITIES))]
    assert {m["layer"] for q in every for m in q.case.model["layers"]} == spec.LAYERS.keys()
    assert {q.case.model["loss"] for q in every} == spec.LOSSES.keys()


@clients
def test_such_a_program_says_what_it_does_not_know(client, built):
    line = json.loads(next(protocol.lines([q for q in _asked() if q.id == "tanh"], "x")))
    gelu, hinge = line["model"] | {"layers": [{"layer": "gelu"}]}, line["model"] | {"loss": "hinge"}
    changes = {"format": "3.0"}, {"algorithm": "reptile"}, {"model": gelu}, {"model": hinge}
    answers = said_by(built(client), [json.dumps(line | change) for change in (*changes, {})])
    for answer, word in zip(answers[:-1], ("format", "MAML", "gelu", "hinge"), strict=True):
        assert word in answer["error"] and answer["id"] == line["id"] and "meta_grad" not in answer
    assert "meta_grad" in answers[-1]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", tolerance.UNIT)
@clients
def test_such_a_program_is_correct_on_the_full_suite(client, dtype, built):
    pytest.importorskip("safetensors")
    report = protocol.check_program(list(built(client)), "full", dtype, tuple(CAPABILITIES), timeout=600)
    assert report.verdict == "CORRECT" and not set(report.skipped) - {"float64"}, str(report)


# ── the badge ───────────────────────────────────────────────────────────────────────────────────────────────────────

SHIELDS = {"schemaVersion", "label", "message", "color"}  # it refuses a file with a field that it does not know


def test_every_verdict_has_a_face():
    assert badge.FACES.keys() == VERDICTS.keys()
    shown = {verdict: badge.face(Report(verdict, "fomaml")) for verdict in VERDICTS}
    assert all(face.keys() == SHIELDS and face["message"] for face in shown.values())
    assert [verdict for verdict, face in shown.items() if face["color"] == "brightgreen"] == ["CORRECT"]
    assert shown["KNOWN_BUG"]["message"] == "wrong: fomaml"
    assert "anil" in badge.face(Report("CORRECT", algorithm="anil"))["label"]


THEIRS = """
import json, sys
from tinymaml.oracle.cases import Case
from tinymaml.oracle.mistakes.semantics import run

def exact(case):
    return {"meta_grad": run(case).meta_grad}

if __name__ == "__main__":
    for line in sys.stdin:
        data = json.loads(line)
        grads = run(Case.from_json(data), factors="detached").meta_grad
        print(json.dumps({"id": data["id"], "meta_grad": {n: g.tolist() for n, g in grads.items()}}), flush=True)
"""


@pytest.mark.parametrize("candidate, verdict, code", [
    (["theirs:exact"], "CORRECT", 0), (["--", sys.executable, "theirs.py"], "KNOWN_BUG", 1),
])  # fmt: skip
def test_a_badge_is_written_and_the_exit_code_is_that_of_check(candidate, verdict, code, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(protocol, "questions", lambda *args: (list(_asked()), {}))
    monkeypatch.chdir(tmp_path)
    Path("theirs.py").write_text(THEIRS)
    to = tmp_path / "badges" / "badge.json"
    assert main(["oracle", "badge", "--to", str(to), *candidate]) == code
    assert capsys.readouterr().out.startswith(verdict)
    data, shown = (json.loads(path.read_text()) for path in (to, to.with_name("badge.shields.json")))
    assert shown.keys() == SHIELDS and shown.items() <= data.items()
    assert (data["verdict"], data["suite"], data["dtype"], data["algorithm"]) == (verdict, "core", "float64", "maml")
    assert data["versions"] == versions.VERSIONS and data["tinymaml"] and data["seconds"] >= 0
    assert data["cases"] == len([q for q in _asked() if q.role == "case"])
    assert (data["right"] == data["cases"]) == (verdict == "CORRECT")
    assert sorted(path.name for path in to.parent.iterdir()) == ["badge.json", "badge.shields.json"]


@pytest.mark.parametrize("words, wanted", [
    ("--to FOLDER mine:maml", "is a folder, wanted a file"), ("--to FOLDER/b.json", "a Python function, -- PROGRAM"),
    ("--to FOLDER/b.json mine:maml -- ./yours", "a Python function, -- PROGRAM"),
    ("--to FOLDER/b.json mine", "wanted package.module:function"),
    ("--to FOLDER/b.json --timeout nan mine:maml", "timeout is nan"), ("--to EMPTY mine:maml", "--to is an empty path"),
    ("--to FOLDER/b.json --capability flying mine:maml", "unknown capability flying"),
    ("--to FOLDER/b.json -- FOLDER/nothing", "nothing"),
])  # fmt: skip
def test_a_bad_request_for_a_badge_is_one_clear_line(words, wanted, tmp_path, capsys):
    argv = ["" if word == "EMPTY" else word.replace("FOLDER", str(tmp_path)) for word in words.split()]
    assert main(["oracle", "badge", *argv]) == 1
    said = capsys.readouterr()
    assert wanted in said.err and said.err.count("\n") == 1 and not said.out
    assert not list(tmp_path.iterdir())
