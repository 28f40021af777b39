"""The study of all systems: what is trained, measured, stored, and shown of it, from the stored files alone."""

import json
import re
import shutil

import numpy as np
import pytest

for library in ("matplotlib", "safetensors", "filelock", "tqdm"):
    pytest.importorskip(library)

from bench import __main__ as command  # noqa: E402
from bench import results, study, systems  # noqa: E402
from bench.systems import Row, several  # noqa: E402
from tinymaml.cli import main as tinymaml  # noqa: E402
from tinymaml.families import FAMILIES  # noqa: E402
from tinymaml.runs import Run  # noqa: E402
from tinymaml.runs.adaptation import measured  # noqa: E402
from tinymaml.runs.compare import compare  # noqa: E402
from tinymaml.runs.loop import restore, validation_tasks  # noqa: E402
from tinymaml.runs.settings import Config  # noqa: E402

TINY = dict(iterations=2, tasks=3, hidden=(5,), compile=False, validation_tasks=2)


@pytest.fixture
def small(monkeypatch, tmp_path):
    """The study of two systems of a user's families and two seeds, which a moment trains, in a folder of the test's."""
    rows = several("people", "4-shot", "user_people", "people", ("maml", "joint", "scratch"), options=TINY)
    notes = "A line has two parameters."
    rows["people-few-maml"] = Row("people", "3-shot", "MAML", "user_people", options=TINY, on={"shots": 3}, notes=notes)
    on = {"on": "user_people", "shots": 4, "queries": 6}
    rows["transfer-maml"] = Row("transfer", "", "MAML", "sinusoid", options=TINY, on=on)
    for page in ("README.md", "front.md"):
        (tmp_path / page).write_text("# Measured\n\n<!-- systems -->\n<!-- /systems -->\n\n## More\n")
    for name, value in dict(EVERY=rows, SEEDS=(0, 1), RESULTS=tmp_path / "results").items():
        monkeypatch.setattr(systems, name, value)
    monkeypatch.setattr(results, "EVERY", rows)
    monkeypatch.setattr(results, "PAGE", tmp_path / "README.md")
    monkeypatch.setattr(results, "FRONT", tmp_path / "front.md")
    monkeypatch.setattr(results, "SHORT", {"people-maml": "lines of people"})
    monkeypatch.setattr(results, "FIGURES", tmp_path / "figures")
    monkeypatch.setattr("bench.rl.study.draw", lambda records: None)
    measure = systems.measure
    monkeypatch.setattr(systems, "measure", lambda name, runs, data: measure(name, runs, data, tasks=4))
    return tmp_path


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Where the first test that needs it leaves the study, trained and measured."""
    return tmp_path_factory.mktemp("finished")


@pytest.fixture
def done(small, finished):
    """The same, trained and measured."""
    if not any(finished.iterdir()):
        assert command.main(["systems", "--runs", str(small / "runs")]) == 0
        shutil.copytree(small, finished, dirs_exist_ok=True)
    shutil.copytree(finished, small, dirs_exist_ok=True)
    return small


def record(**changes):
    """A stored row, made up; it differs from a baseline by as much in each task, or nearly."""
    made = {
        "metric": "accuracy", "label": "accuracy", "unit": " %", "scale": 100, "better": "higher", "chance": 0.2,
        "tasks": 600, "baselines": [{"label": "centroids", "mean": 0.6, "ci95": 0.01}], "judged_after": 5,
        "seconds": [20.2, 30.4], "mean": [0.2 + 0.05 * k for k in range(11)], "ci95": [0.01] * 11,
        "spread": [0.02] * 11, "commands": ["tinymaml train x --seed 0 --out a", "tinymaml compare a"],
        "runs": [{"seed": 0}], "on": {}, "options": {},
    } | changes  # fmt: skip
    gaps = {row["label"]: [None if x is None else x - row["mean"] for x in made["mean"]] for row in made["baselines"]}
    return {"differences": [{"label": k, "mean": gap, "ci95": [0.001] * 11} for k, gap in gaps.items()]} | made


# ── the rows ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_row_has_settings_and_a_command_that_gives_them(monkeypatch, capsys):
    for name, row in systems.EVERY.items():
        seen = {}
        monkeypatch.setattr("tinymaml.runs.loop.train", lambda config, out, resume, seen=seen: seen.update(c=config))
        assert name.split("-")[0] == row.system.split()[0], name
        *trained, measured = systems.commands(name)
        assert tinymaml(trained[1].split()[1:]) == 0
        own = systems.settings(name, 1)
        kept = {key: value for key, value in seen["c"].options().items() if key != "data"}
        assert kept == {key: value for key, value in own.options().items() if key != "data"}
        assert (seen["c"].family.name, seen["c"].algorithm.name) == (own.family.name, own.algorithm.name)
        assert row.runs in ("", *systems.EVERY) and measured.startswith("tinymaml compare runs/systems/")


def test_every_family_is_measured_beside_its_baselines():
    elsewhere = {"sinusoid", "omniglot"}  # by `bench family`, and beside the paper
    elsewhere |= {"navigation", "control"}  # by `bench rl study`; as an example of other environments
    assert {row.family for row in systems.EVERY.values()} >= FAMILIES.keys() - elsewhere


def test_rows_are_chosen_by_what_they_begin_with(small):
    assert systems.chosen(["people-few"]) == ["people-few-maml"]
    assert systems.chosen(["people"]) == ["people-maml", "people-joint", "people-scratch", "people-few-maml"]
    assert systems.chosen([]) == list(systems.EVERY)
    with pytest.raises(SystemExit):
        command.main(["systems", "peop"])


# ── what is stored ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_record_is_what_compare_measures_and_how(done):
    records = systems.stored()
    assert list(records) == list(systems.EVERY)
    paths = [str(done / f"runs/people-maml-{seed}") for seed in (0, 1)]
    result = compare(paths, tasks=4, steps=10)
    kept = records["people-maml"]
    np.testing.assert_allclose(kept["mean"], result["lines"][0]["mean"], rtol=1e-4)
    assert kept["baselines"] == study.rounded(result["baselines"]) and kept["tasks"] == 4
    assert kept["seconds"] == study.rounded([one["seconds"] for one in result["lines"][0]["runs"]])
    assert kept["commands"][1].endswith("--validation-tasks 2 --seed 1 --out runs/systems/people-maml-1")
    learned = [restore(path) for path in paths]
    means = [measured(one, validation_tasks(one.learner), 10).mean(0) for one in learned]
    assert kept["judged_after"] == np.argmin(np.mean(means, 0))
    assert len(kept["runs"]) == 2 and "data" not in kept["options"] and kept["options"]["hidden"] == [5]
    scratch = compare(paths, tasks=4, steps=10, scratch=True)["lines"][-1]
    np.testing.assert_allclose(records["people-scratch"]["mean"], scratch["mean"], rtol=1e-4)
    assert records["people-scratch"]["seconds"] is None and "--scratch" in records["people-scratch"]["commands"][-1]
    few = compare([path.replace("people-", "people-few-") for path in paths], tasks=4, steps=10, shots=3)
    np.testing.assert_allclose(records["people-few-maml"]["mean"], few["lines"][0]["mean"], rtol=1e-4)
    assert records["transfer-maml"]["commands"][-1].endswith("--on user_people --shots 4 --queries 6")
    assert records["transfer-maml"]["baselines"] == kept["baselines"]
    assert str(done) not in json.dumps(records)  # where it was measured is nobody's business


def test_what_is_stored_is_not_done_again_and_what_is_not_is(done, monkeypatch):
    before = {file: file.stat().st_mtime_ns for file in [*done.glob("results/*"), *done.glob("runs/*/*.json*")]}
    line = ["systems", "--runs", str(done / "runs")]
    assert command.main(line) == 0
    assert {file: file.stat().st_mtime_ns for file in before} == before
    (done / "results" / "people-maml.json").unlink()
    shutil.rmtree(done / "runs" / "people-maml-1")
    assert command.main(line) == 0
    assert (done / "results" / "people-maml.json").exists() and (done / "runs" / "people-maml-1").exists()
    assert (done / "runs" / "people-maml-0" / "config.json").stat().st_mtime_ns in before.values()


def test_a_record_of_other_settings_is_measured_again(done, capsys):
    rows = dict(systems.EVERY)
    systems.EVERY["people-few-maml"] = rows["people-few-maml"]._replace(on={"shots": 5})
    assert command.main(["systems", "--list"]) == 0
    listed = dict(line.split("  ")[::-1] for line in re.sub(" +  ", "  ", capsys.readouterr().out).splitlines())
    assert listed["people-few-maml"] == "other settings" and listed["people-maml"] == "stored"
    assert command.main(["systems", "people-few", "--runs", str(done / "runs")]) == 0
    assert systems.stored()["people-few-maml"]["on"] == {"shots": 5}


def test_where_data_lies_may_change_and_settings_may_not(small, tmp_path):
    study.train(Config.default("user_people", **TINY), tmp_path / "run")
    study.train(Config.default("user_people", **TINY), tmp_path / "run")
    with pytest.raises(ValueError, match="was trained with other settings"):
        study.train(Config.default("user_people", **TINY, inner_lr=0.3), tmp_path / "run")


def test_a_row_that_fails_does_not_hide_the_others(small, capsys):
    systems.EVERY["people-joint"] = systems.EVERY["people-joint"]._replace(family="no.such_family")
    assert command.main(["systems", "people", "--runs", str(small / "runs")]) == 1
    assert "people-joint: family no.such_family" in capsys.readouterr().err
    assert set(systems.stored()) == {"people-maml", "people-scratch", "people-few-maml"}


def test_two_processes_share_the_work(small, monkeypatch):
    """The other one is at the first row at first, and has stored it when it is looked at again."""
    runs = small / "runs"
    study.train(systems.settings("people-maml", 0), runs / "people-maml-0")
    lock = Run.open(runs / "people-maml-0").lock()
    lock.__enter__()
    order = []
    measure = systems.measure
    monkeypatch.setattr(systems, "measure", lambda name, *more: order.append(name) or measure(name, *more))

    def other(seconds):
        lock.__exit__(None, None, None)

    monkeypatch.setattr(study.time, "sleep", other)
    assert command.main(["systems", "people-maml", "people-few", "--runs", str(runs)]) == 0
    assert order == ["people-few-maml", "people-maml"]


# ── what is shown ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_page_is_made_of_stored_files_alone(done, monkeypatch, capsys):
    shutil.rmtree(done / "runs")
    monkeypatch.setattr("tinymaml.runs.loop.train", lambda *_, **__: pytest.fail("it trains"))
    monkeypatch.setattr(results, "SENTENCES", {})  # those of the real pages
    assert results.main(["--check"]) == 1
    assert "is not current: python -m bench.results" in capsys.readouterr().err
    assert results.main([]) == 0 and results.main(["--check"]) == 0
    text = (done / "README.md").read_text()
    assert text.startswith("# Measured\n\n<!-- systems -->\n\n| system |")
    assert text.endswith("\n\n<!-- /systems -->\n\n## More\n")
    assert "- MAML, 3-shot: A line has two parameters." in text
    front = (done / "front.md").read_text()
    assert "| `user_people --iterations 2" in front and "| lines of people | " in front
    for picture in re.findall(r"\]\(figures/(.*?)\)", text):
        assert (done / "figures" / picture).read_bytes().startswith(b"\x89PNG")
    kept = systems.stored()["people-maml"]
    row = next(line for line in text.splitlines() if line.startswith("| 4-shot | MAML |") and "people" in line)
    cells = [cell.strip(" *") for cell in row.split("|")[2:-1]]
    assert float(cells[1].split(" ± ")[0]) == pytest.approx(kept["mean"][0], rel=5e-3)
    assert "`tinymaml train user_people --iterations 2" in cells[-1] and "--seed" not in cells[-1]
    file = done / "results" / "people-maml.json"
    file.write_text(json.dumps(kept | {"mean": [x + 1 for x in kept["mean"]]}))
    assert results.main(["--check"]) == 1


def test_a_row_is_judged_after_the_steps_that_were_chosen(monkeypatch):
    assert results.verdict(record()) == "no"  # .45 after 5 steps, though .70 after 10
    assert results.verdict(record(judged_after=10)) == "yes"
    assert results.verdict(record(judged_after=8)) == "level"  # .60 and .60
    mse = dict(scale=1, unit="", better="lower", baselines=[{"label": x, "mean": m, "ci95": 0.01}
                                                             for x, m in (("a", 0.6), ("b", 0.4))])  # fmt: skip
    assert results.best_baseline(record(**mse))["label"] == "b"
    assert results.verdict(record(**mse)) == "no" and results.verdict(record(**mse, judged_after=0)) == "yes"
    assert results._verdict(record(**mse, judged_after=0)) == "yes"
    assert results._verdict(record(**mse)) == "**no** (1 of 2)"
    assert results._verdict(record(**mse | {"judged_after": 4})) == "level (1 of 2)"
    assert results.verdict(record(mean=[0.9] * 5 + [None] * 6)) == "no" and results.verdict(record(baselines=[])) == ""


def test_a_table_shows_what_is_stored(monkeypatch):
    maml = Row("a", "1-shot", "MAML", "a")
    rows = {"a-maml": maml, "a-scratch": maml._replace(label="from scratch", scratch=True)}
    monkeypatch.setattr(results, "EVERY", rows)
    kept = {"a-maml": record(), "a-scratch": record(seconds=None, mean=[0.9] + [None] * 10)}
    head, body = results.tables({"1-shot": kept})
    assert head == "Accuracy in %, 600 test tasks"
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in body.splitlines()]
    assert [row[0] for row in rows] == ["", "---", "1-shot", "", ""]
    _, _, maml, scratch, baseline = [row[1:] for row in rows]
    assert len(results.tables({"1-shot": kept, "all": {"a-maml": record(tasks=134)}})) == 4  # two tables
    cells = [f"{x}.0 ± 1.0 ± 2.0" for x in (20, 25, 45, 70)]
    assert maml == ["MAML", *cells, "**45.0 ± 1.0 ± 2.0** (5 steps)", "**no**", "20", "`tinymaml train x`"]
    assert scratch[2:8] == ["diverges", "diverges", "diverges", "**diverges** (5 steps)", "**no**", "–"]
    assert baseline[0] == "*centroids*" and baseline[5] == "60.0 ± 1.0"
    assert "| a | 1-shot | 45.0 ± 1.0 | 60.0 ± 1.0 | centroids | **no** | 20 |" in results.overview(kept)


@pytest.mark.parametrize("mean, shown", [(0.123456, "0.123 ± 0.010"), (12.3456, "12.3 ± 0.0"), (4321.0, "4321 ± 0"),
                                         (1.2e-9, "1.20e-09"), (0, "0.000 ± 0.010")])  # fmt: skip
def test_three_digits_of_an_error(mean, shown):
    assert results._value(mean, 0.01, {"scale": 1}) == shown


def test_pictures_show_rows_and_baselines(monkeypatch):
    rows = {f"{s}-maml": Row(s, setting, "MAML", "a") for s, setting in (("a", "1-shot"), ("b", ""))}
    rows |= {"a-few-maml": rows["a-maml"]._replace(setting="5-shot")}
    monkeypatch.setattr(results, "EVERY", rows)
    mse = record(scale=1, unit="", better="lower", metric="mse", label="mean squared error", chance=None)
    kept = {"a-maml": record(), "a-few-maml": record(mean=[0.2] + [None] * 10), "b-maml": mse}
    tables = results.tables_of(kept)
    assert {system: list(some) for system, some in tables.items()} == {"a": ["1-shot", "5-shot"], "b": [""]}
    figure = results.over_steps("a", tables["a"])
    one, few = figure.axes
    lines = {line.get_label(): line.get_ydata() for line in one.lines}
    np.testing.assert_allclose(lines["MAML"], 100 * np.array(kept["a-maml"]["mean"]))
    np.testing.assert_allclose(lines["centroids"], 60)
    assert len(few.lines[0].get_ydata()) == 1 and one.get_title() == "1-shot"
    ax = results.beside_baselines(kept).axes[0]
    dots = [float(line.get_xdata()[0]) for line in ax.lines if line.get_marker() == "o"]
    # accuracies .45 and .60: errors .55 and .40; of mean squared errors, .45 and .60 themselves
    np.testing.assert_allclose(dots, [0.55 / 0.4, 0.45 / 0.6])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a, 1-shot", "b"]


def test_markers_that_are_missing_are_named():
    with pytest.raises(ValueError, match="has no <!-- systems --> … <!-- /systems -->"):
        results.between("# Measured\n", "new")


def test_what_is_stored_stands_on_the_page():
    records = systems.stored()
    if not records:
        pytest.skip("nothing is stored yet")
    for file, made in ((results.PAGE, results.page), (results.FRONT, results.short)):
        text = file.read_text(encoding="utf-8")
        assert results.between(text, made(records), file) == text


def test_bounds_are_baselines_of_today_and_short_rows_are_rows():
    labels = {row["label"] for record in systems.stored().values() for row in record["baselines"]}
    assert set(results.BOUNDS) <= labels and set(results.SHORT) <= set(systems.EVERY)
