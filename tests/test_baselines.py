"""A run is measured beside the baselines of its family, on the same tasks: drawn ones, or all that there are."""

import json
import types

import numpy as np
import pytest

for library in ("matplotlib", "safetensors", "filelock", "tqdm"):
    pytest.importorskip(library)

import user_people  # noqa: E402

import tinymaml as tm  # noqa: E402
from tinymaml.cli import main  # noqa: E402
from tinymaml.nest import tree_leaves, tree_map  # noqa: E402
from tinymaml.pictures.compare import comparison  # noqa: E402
from tinymaml.pictures.steps import after_steps  # noqa: E402
from tinymaml.runs import adaptation  # noqa: E402
from tinymaml.runs import evaluate as evaluation  # noqa: E402
from tinymaml.runs.adaptation import on_split, stacked_tasks, task, tuned  # noqa: E402
from tinymaml.runs.compare import compare  # noqa: E402
from tinymaml.runs.evaluate import evaluate  # noqa: E402
from tinymaml.runs.loop import restore, train, validation_tasks  # noqa: E402
from tinymaml.runs.settings import Config  # noqa: E402

TINY = dict(iterations=4, tasks=2, hidden=(6,), save_every=2, validate_every=2, validation_tasks=2, compile=False)
PEOPLE = user_people.PEOPLE["test"]


def trained(out, family="user_people", **settings) -> str:
    train(Config.default(family, **{**TINY, **settings}), out, progress=False)
    return str(out)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("runs") / "people")


# ── all tasks of a split ────────────────────────────────────────────────────────────────────────────────────────────


def test_all_tasks_of_a_split_are_measured_once_in_their_order(run):
    learned, family = restore(run), user_people.People(user_people.Settings())
    result = evaluate(run, tasks=600, steps=2)
    assert result["tasks"] == len(PEOPLE) == 5
    found, _ = on_split(learned, "test", 5, 2)
    each = [adaptation.measured(learned, tree_map(lambda x: x[None], family.person(n)), 2)[0] for n in PEOPLE]
    np.testing.assert_allclose(found, each, rtol=1e-5)
    np.testing.assert_allclose(result["mean"], np.mean(each, 0), rtol=1e-5)
    first = evaluate(run, tasks=3, steps=2)
    assert first["tasks"] == 3
    np.testing.assert_allclose(first["mean"], np.mean(each[:3], 0), rtol=1e-5)
    assert evaluate(run, tasks=9, steps=1, split="val")["tasks"] == len(user_people.PEOPLE["val"])


def test_a_comparison_takes_the_same_tasks(run, tmp_path):
    other = trained(tmp_path / "other", seed=1)
    result = compare([run, other], tasks=600, steps=2)
    assert result["tasks"] == 5
    both = [evaluate(path, steps=2)["mean"] for path in (run, other)]
    np.testing.assert_allclose([one["mean"] for one in result["lines"][0]["runs"]], both, rtol=1e-6)


def test_validation_takes_the_first_of_all_tasks(run):
    learned, family = restore(run), user_people.People(user_people.Settings())
    for mine, wanted in zip(
        tree_leaves(validation_tasks(learned.learner)),
        tree_leaves(family.stacked(list(user_people.PEOPLE["val"])[:2])),
        strict=True,
    ):
        np.testing.assert_allclose(mine, wanted, rtol=1e-6)
    assert tuned(learned, 2) in adaptation.RATES


def test_what_was_trained_on_masks_adapts_with_and_without(run):
    model = tm.load(run)
    (xs, ys), (xq, _) = user_people.People(user_people.Settings()).person(21)  # with a row that fills up
    there = ys["mask"] == 1
    assert not there.all()
    wanted = model.adapt(xs, ys, 3).predict(xq)
    np.testing.assert_allclose(model.adapt(xs[there], ys["y"][there], 3).predict(xq), wanted, rtol=1e-5)
    with pytest.raises(ValueError, match=r"y\['y'\] has shape \(3,\), wanted \(N, 1\)"):
        model.adapt(xs[there], ys["y"][there, 0])


def test_a_task_that_is_not_there_is_named(run):
    with pytest.raises(ValueError, match="the split 'test' has 5 tasks, and none at place 5"):
        task(restore(run), "test", 5)


def test_what_is_no_tasks_is_refused(run, monkeypatch):
    for wrong in ((np.ones(3),), ((np.ones((2, 3, 1)), np.ones((2, 3, 1))), (np.ones((3, 3, 1)), np.ones((2, 3, 1))))):
        monkeypatch.setattr(user_people.People, "every", lambda self, split, wrong=wrong: wrong)
        with pytest.raises(ValueError, match=r"family user_people: every\('test'\) returned .*, wanted \(\(xs, ys\)"):
            evaluate(run, steps=1)
    monkeypatch.setattr(user_people.People, "every", lambda self, split: self.stacked([3]))
    with pytest.raises(ValueError, match="has 1 task, wanted at least 2"):
        evaluate(run, steps=1)
    monkeypatch.setattr(user_people.People, "every", lambda self, split: None)  # its tasks are drawn
    assert evaluate(run, tasks=7, steps=1)["tasks"] == 7


# ── baselines ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_baselines_are_measured_by_the_metric_of_the_family_on_the_same_tasks(run):
    result = evaluate(run, steps=1)
    mean, line = result["baselines"]
    family = user_people.People(user_people.Settings())
    wanted = []
    for number in PEOPLE:
        (_, ys), (_, yq) = family.person(number)
        guess = ys["y"][ys["mask"] == 1].mean()
        wanted.append(np.mean((guess - yq["y"]) ** 2))
    assert (mean["label"], line["label"]) == ("mean of the support", "least squares")
    np.testing.assert_allclose(mean["mean"], np.mean(wanted), rtol=1e-5)
    np.testing.assert_allclose(mean["ci95"], 1.96 * np.std(wanted, ddof=1) / np.sqrt(5), rtol=1e-5)
    assert line["mean"] < 1e-8  # every person is a line
    compared = compare([run], steps=1)
    assert compared["baselines"] == result["baselines"]
    found, beside = on_split(restore(run), "test", 5, 1, baselines=restore(run).learner.baselines())
    apart = found - beside["mean of the support"][:, None]
    difference = compared["lines"][0]["differences"][0]
    np.testing.assert_allclose(difference["mean"], apart.mean(0), rtol=1e-5)
    np.testing.assert_allclose(difference["ci95"], 1.96 * apart.std(0, ddof=1) / np.sqrt(5), rtol=1e-5)
    text = evaluation.table(result)
    assert f"mean of the support  {mean['mean']:7.3f} ± {mean['ci95']:.3f}" in text.splitlines()
    json.dumps(result, allow_nan=False)


def test_a_baseline_does_not_see_the_targets_of_queries(run, monkeypatch):
    seen = []

    def spy(*given):
        seen.append(given)
        return np.zeros((len(given[2]), 1))

    monkeypatch.setattr(user_people.People, "baselines", lambda self: {"spy": spy, "another": spy})
    evaluate(run, steps=1)
    family = user_people.People(user_people.Settings())
    assert len(seen) == 2 * len(PEOPLE)
    for given, number in zip(seen[: len(PEOPLE)], PEOPLE, strict=True):
        (xs, ys), (xq, yq) = family.person(number)
        for mine, wanted in zip(tree_leaves(given), tree_leaves((xs, ys, xq)), strict=True):  # and nothing else
            np.testing.assert_allclose(mine, wanted, rtol=1e-6)
            assert mine.base is None  # nor what it was cut out of
        assert not any(np.array_equal(x, yq["y"]) for x in tree_leaves(given))


def test_a_baseline_that_changes_what_it_was_given_changes_nothing(run, monkeypatch):
    before = evaluate(run, steps=1)

    def rough(xs, ys, xq):
        for x in tree_leaves((xs, ys, xq)):
            x[:] = 0
        return xq

    rest = user_people.People.baselines
    monkeypatch.setattr(user_people.People, "baselines", lambda self: {"rough": rough} | rest(self))
    after = evaluate(run, steps=1)
    assert after["mean"] == before["mean"] and after["baselines"][1:] == before["baselines"]


def test_an_error_of_a_baseline_is_blamed_with_file_and_line(run, monkeypatch):
    def broken(xs, ys, xq):
        return xq @ np.ones((3, 1))

    monkeypatch.setattr(user_people.People, "baselines", lambda self: {"mine": broken})
    with pytest.raises(ValueError, match=r"baseline 'mine': task 0: matmul.*\(test_baselines.py, line \d+\)"):
        evaluate(run, steps=1)
    for prediction, seen in (
        (np.ones((6, 2)), r"the shape \(6, 2\), wanted \(6, 1\)"),
        (np.ones(6), r"the shape \(6,\), wanted \(6, 1\)"),
        (np.full((6, 1), np.nan), "not of finite numbers"),
        (np.full((6, 1), "a"), "not of finite numbers"),
    ):
        monkeypatch.setattr(user_people.People, "baselines", lambda self, p=prediction: {"mine": lambda *_: p})
        with pytest.raises(ValueError, match=f"baseline 'mine': task 0: its prediction .*{seen}"):
            compare([run], steps=1)
    monkeypatch.setattr(user_people.People, "baselines", lambda self: ["mine"])
    with pytest.raises(ValueError, match=r"baselines\(\) returned \['mine'\], wanted {label: predict}"):
        evaluate(run, steps=1)

    def fails(self):
        raise KeyError("movies")

    monkeypatch.setattr(user_people.People, "baselines", fails)
    with pytest.raises(ValueError, match=r"baselines: KeyError: 'movies' \(test_baselines.py, line"):
        evaluate(run, steps=1)


def test_progress_counts_the_baselines_too(run, monkeypatch):
    counted = []

    class Bar:
        def __init__(self, total, **_):
            counted.append([total, 0])

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def update(self, n=1):
            counted[-1][1] += n

    real = evaluation.require
    fake = lambda name, extra: types.SimpleNamespace(tqdm=Bar) if name == "tqdm" else real(name, extra)  # noqa: E731
    for module in ("evaluate", "compare"):
        monkeypatch.setattr(f"tinymaml.runs.{module}.require", fake)
    evaluate(run, steps=1, progress=True)
    compare([run], steps=1, scratch=True, progress=True)
    assert counted == [[15, 15], [20, 20]]


def test_pictures_have_a_line_and_a_band_per_baseline(run):
    result = compare([run], steps=2)
    for ax in (comparison(result).axes[1], after_steps(restore(run), steps=2).axes[0]):
        lines = {line.get_label(): line for line in ax.lines if len(set(line.get_ydata())) == 1}
        for row in result["baselines"]:
            np.testing.assert_allclose(lines[row["label"]].get_ydata(), row["mean"], rtol=1e-5)
    bands = [patch.get_extents().transformed(ax.transData.inverted()) for patch in ax.patches]
    wanted = [[row["mean"] - row["ci95"], row["mean"] + row["ci95"]] for row in result["baselines"]]
    np.testing.assert_allclose([sorted((box.y0, box.y1)) for box in bands][:1], wanted[:1], rtol=1e-3)


def test_the_commands_print_them(run, capsys):
    assert main(["eval", run, "--steps", "1"]) == 0
    assert "baselines, on the same tasks\nmean of the support" in capsys.readouterr().out
    assert main(["compare", run, "--steps", "1", "--json"]) == 0
    assert [row["label"] for row in json.loads(capsys.readouterr().out)["baselines"]][0] == "mean of the support"


def test_tasks_are_stacked_some_at_a_time(run, monkeypatch):
    whole = evaluate(run, steps=2)
    monkeypatch.setattr(adaptation, "AT_ONCE", 2)
    split = evaluate(run, steps=2)
    np.testing.assert_allclose(split["mean"], whole["mean"], rtol=1e-6)
    assert split["baselines"] == whole["baselines"]
    assert len(tree_leaves(stacked_tasks(restore(run), "test", range(2)))[0]) == 2


def test_the_splits_of_an_endless_family_are_other_tasks(tmp_path):
    learned = restore(trained(tmp_path / "run", "sinusoid"))
    seen = {split: task(learned, split, 0)[0][1].tobytes() for split in ("train", "val", "test")}
    assert len(set(seen.values())) == 3
