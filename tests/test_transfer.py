"""A run adapts to other tasks than its own: other options, other data, another family; what does not fit is refused."""

import json
from dataclasses import dataclass

import numpy as np
import pytest

for library in ("matplotlib", "safetensors", "filelock", "tqdm"):
    pytest.importorskip(library)

import user_people  # noqa: E402

from tinymaml.cli import main  # noqa: E402
from tinymaml.families.common import accuracy, classification  # noqa: E402
from tinymaml.pictures import figures, plot  # noqa: E402
from tinymaml.pictures.compare import comparison  # noqa: E402
from tinymaml.runs import Run  # noqa: E402
from tinymaml.runs.adaptation import measured, stacked_tasks  # noqa: E402
from tinymaml.runs.compare import compare  # noqa: E402
from tinymaml.runs.compare import table as compared  # noqa: E402
from tinymaml.runs.evaluate import evaluate, table  # noqa: E402
from tinymaml.runs.learner import Learner  # noqa: E402
from tinymaml.runs.loop import restore, train  # noqa: E402
from tinymaml.runs.settings import Config, option  # noqa: E402

pytestmark = pytest.mark.usefixtures("quick_code")

TINY = dict(iterations=4, tasks=2, hidden=(6,), save_every=2, validate_every=2, validation_tasks=2, compile=False)


@dataclass(frozen=True)
class Settings:
    """Of `Colours`, a family of classes; this module is one, and `make` makes it."""

    ways: int = 3
    shots: int = 2
    queries: int = 4
    labels: str = option("task", "labels of training tasks", training=True)
    data: str = option("", "where it lies", path=True)


class Colours:
    """Points around corners; a network that is trained with labels "class" has an output for each of 8."""

    input_shape = (2,)
    loss = staticmethod(classification)

    def __init__(self, settings):
        self.settings, self.metric = settings, accuracy(settings.ways)
        self.outputs = 8 if settings.labels == "class" else settings.ways

    def sample(self, rng, tasks, split):
        s, n = self.settings, self.outputs if split == "train" else self.settings.ways
        corners = rng.normal(size=(tasks, n, 2)) + len(s.data)

        def points(count):
            labels = np.tile(np.arange(s.ways), (tasks, count)) + (n - s.ways) * (split == "train")
            x = corners[np.arange(tasks)[:, None], labels]
            return x + 0.1 * rng.normal(size=x.shape), labels

        return points(s.shots), points(s.queries)


make = Colours
HERE = "test_transfer"


def trained(out, family, **settings) -> str:
    train(Config.default(family, **{**TINY, **settings}), out, progress=False)
    return str(out)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The path of a run of some settings; each is trained once."""
    made = {}

    def of(family="sinusoid", **settings) -> str:
        key = (family, *sorted(settings.items()))
        if key not in made:
            made[key] = trained(tmp_path_factory.mktemp("runs") / "run", family, **settings)
        return made[key]

    return of


def by_hand(path, config, tasks, steps):
    """The mean of a run on the tasks of another configuration."""
    learned = restore(path)
    moved = learned._replace(config=config, learner=Learner(config))
    with np.errstate(all="ignore"):
        return measured(moved, stacked_tasks(moved, "test", range(tasks)), steps).mean(0)


# ── other options ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_options_of_the_family_are_those_of_the_evaluation(runs):
    config = restore(runs()).config
    result = evaluate(runs(), tasks=3, steps=2, shots=9, queries=2)
    np.testing.assert_allclose(result["mean"], by_hand(runs(), config.changed(shots=9, queries=2), 3, 2), rtol=1e-6)
    assert (result["shots"], result["queries"]) == (9, 2)
    assert result["transfer"] == "shots 9 instead of 5, queries 2 instead of 15"
    assert table(result).startswith("9-shot") and result["transfer"] in table(result).splitlines()
    same = evaluate(runs(), tasks=3, steps=2)
    assert same["transfer"] == "" and evaluate(runs(), tasks=3, steps=2, shots=5) == same


def test_the_inner_rate_can_be_changed_where_there_is_one(runs):
    result = evaluate(runs(), tasks=3, steps=2, inner_lr=0.02)
    config = restore(runs()).config.changed(inner_lr=0.02)
    np.testing.assert_allclose(result["mean"], by_hand(runs(), config, 3, 2), rtol=1e-6)
    assert result["inner_lr"] == 0.02 and "inner_lr 0.02 instead of 0.005" in table(result)
    (line,) = compare([runs()], tasks=3, steps=2, inner_lr=0.02)["lines"]
    np.testing.assert_allclose(line["mean"], result["mean"], rtol=1e-6)
    for use in (evaluate, lambda path, **more: compare([path], **more)):
        with pytest.raises(ValueError, match="inner_lr cannot be changed after training: meta-sgd adapts alike"):
            use(runs(algorithm="meta-sgd"), tasks=3, steps=2, inner_lr=0.02)


@pytest.mark.parametrize("change", ["meta_lr", "hidden", "inner_steps", "nothing"])
def test_options_of_training_cannot_be_changed(runs, change):
    with pytest.raises(ValueError, match=f"has no option {change}; what can be changed is shots, queries, inner_lr"):
        evaluate(runs(), tasks=3, **{change: 1})


def test_fewer_classes_than_outputs_can_be_told_apart_and_more_cannot(runs):
    path = runs(HERE, ways=4)
    result = evaluate(path, tasks=3, steps=2, ways=2)
    assert (result["ways"], result["chance"]) == (2, 0.5) and result["transfer"] == "ways 2 instead of 4"
    with pytest.raises(ValueError, match="was trained for 4 classes, and these tasks have 5"):
        evaluate(path, tasks=3, ways=5)
    with pytest.raises(ValueError, match="was trained for 4 classes, and these tasks have 5"):
        compare([path], tasks=3, ways=5)


def test_a_comparison_takes_the_same_options_for_all_runs(runs):
    one, other = runs(shots=3), runs(shots=4)
    with pytest.raises(ValueError, match="not of the same tasks: shots is 3 and 4"):
        compare([one, other], tasks=3, steps=1)
    result = compare([one, other], tasks=3, steps=1, shots=5)
    assert [line["label"] for line in result["lines"]] == ["maml, shots 3", "maml, shots 4"]
    assert [line["transfer"] for line in result["lines"]] == ["shots 5 instead of 3", "shots 5 instead of 4"]
    for line, path in zip(result["lines"], (one, other), strict=True):
        np.testing.assert_allclose(line["mean"], evaluate(path, tasks=3, steps=1, shots=5)["mean"], rtol=1e-6)
    assert "maml, shots 3: shots 5 instead of 3" in compared(result).splitlines()


def test_options_of_training_alone_may_differ(runs):
    paths = [runs(HERE), runs(HERE, labels="class", algorithm="joint")]
    result = compare(paths, tasks=3, steps=1)
    assert [line["label"] for line in result["lines"]] == ["maml", "joint"]
    assert "labels" not in result["settings"] and result["settings"]["ways"] == 3
    np.testing.assert_allclose(result["lines"][0]["mean"], evaluate(paths[0], tasks=3, steps=1)["mean"], rtol=1e-6)


# ── another family ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_run_adapts_to_tasks_of_another_family_beside_its_baselines(runs):
    path = runs()
    result = evaluate(path, steps=2, on="user_people")
    config = restore(path).config
    target = Config.default("user_people", shots=5, queries=15)  # the run's, where both have them
    moved = Config(target.family, config.network, config.algorithm, config.outer)
    np.testing.assert_allclose(result["mean"], by_hand(path, moved, 5, 2), rtol=1e-5)
    assert result["transfer"] == "trained on sinusoid, adapted to user_people"
    assert (result["family"], result["tasks"], result["shots"]) == ("user_people", len(user_people.PEOPLE["test"]), 5)
    assert [row["label"] for row in result["baselines"]] == ["mean of the support", "least squares"]
    assert "trained on sinusoid, adapted to user_people" in table(result).splitlines()
    few = evaluate(path, steps=2, on="user_people", shots=4)
    assert few["transfer"] == "trained on sinusoid, adapted to user_people, shots 4 instead of 5"
    own = evaluate(trained_on_people := runs("user_people"), steps=2)
    assert own["baselines"] == evaluate(trained_on_people, steps=2, on="user_people")["baselines"]


def test_rates_are_tuned_on_validation_tasks_of_the_target(runs, monkeypatch):
    seen = []
    every = user_people.People.every
    monkeypatch.setattr(user_people.People, "every", lambda self, split: seen.append(split) or every(self, split))
    evaluate(runs(algorithm="joint"), steps=2, on="user_people")
    assert sorted(seen) == ["test", "val"]


def test_a_network_that_does_not_fit_is_refused_and_both_are_shown(runs):
    with pytest.raises(ValueError, match=r"was trained on inputs of shape \(1,\), and these tasks have \(2,\)"):
        evaluate(runs(), on=HERE)
    with pytest.raises(ValueError, match=r"was trained on inputs of shape \(2,\), and these tasks have \(1,\)"):
        evaluate(runs(HERE), on="sinusoid")
    with pytest.raises(ValueError, match="family is 'sinusoidal', wanted one of"):
        evaluate(runs(), on="sinusoidal")
    with pytest.raises(ValueError, match="on user_family a run has no option ways"):
        evaluate(runs(), on="user_family", ways=3)


def test_a_network_of_all_training_classes_adapts_to_few(runs):
    path = runs(HERE, labels="class", algorithm="joint")
    assert evaluate(path, tasks=3, steps=1, on=HERE, labels="task")["chance"] == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="was trained for 8 classes, and these tasks have 9"):
        evaluate(path, tasks=3, steps=1, on=HERE, labels="task", ways=9)


def test_other_data_of_the_same_family_is_named(runs, tmp_path):
    path, here, there = runs(HERE, data="/one/emoji"), tmp_path / "run", "/two/caltech"
    trained(here, HERE, data=there)
    result = evaluate(path, tasks=3, steps=1, on=HERE, data=there)
    assert result["transfer"] == f"trained on {HERE} (emoji), adapted to {HERE} (caltech)"
    assert evaluate(path, tasks=3, steps=1, data=there)["transfer"] == ""  # its data has moved
    both = compare([path, str(here)], tasks=3, steps=1, on=HERE, data=there)
    assert [line["label"] for line in both["lines"]] == ["maml, data emoji", "maml, data caltech"]
    assert [line["transfer"] for line in both["lines"]] == [result["transfer"], ""]
    np.testing.assert_allclose(both["lines"][0]["mean"], result["mean"], rtol=1e-6)


def test_runs_of_several_families_are_compared_on_one(runs):
    result = compare([runs(), runs("user_people", shots=5, queries=15)], steps=2, on="user_people", scratch=True)
    assert [line["label"] for line in result["lines"]] == [
        "maml, trained on sinusoid", "maml, trained on user_people", "from scratch"
    ]  # fmt: skip
    assert [line["transfer"] for line in result["lines"]] == ["trained on sinusoid, adapted to user_people", "", ""]
    assert "trained on sinusoid, adapted to user_people" in comparison(result).get_suptitle()
    json.dumps(result, allow_nan=False)


# ── pictures and commands ───────────────────────────────────────────────────────────────────────────────────────────


def test_pictures_say_it_and_leave_out_how_the_run_learned(runs, tmp_path):
    path = runs("user_people")
    learned = restore(path, on="user_family", shots=7)
    drawn = dict(figures(learned, Run.open(path).read_log(), tasks=3))
    assert list(drawn) == ["adaptation_mse"]
    said = "trained on user_people, adapted to user_family, shots 7 instead of 4"
    assert said in drawn["adaptation_mse"].get_suptitle()
    assert [file.name for file in plot(path, tmp_path, on="user_family")] == ["adaptation_mse.png"]
    assert "adapted to" not in dict(figures(restore(path), Run.open(path).read_log(), 3))["learning"].get_suptitle()


def test_the_commands_take_the_options_of_the_tasks(runs, capsys, tmp_path):
    path, three = runs(), ["--tasks", "3", "--steps", "1"]

    def printed(*words) -> str:
        assert main([*words]) == 0
        return capsys.readouterr().out

    wanted = table(evaluate(path, tasks=3, steps=1, shots=7, inner_lr=0.01)) + "\n"
    assert printed("eval", path, "--shots", "7", "--inner-lr", "0.01", *three) == wanted
    assert printed("eval", "--shots", "7", "--inner-lr", "0.01", *three, path) == wanted
    wanted = table(evaluate(path, tasks=3, steps=1, on="user_people", shots=6)) + "\n"
    assert printed("eval", path, "--on", "user_people", "--shots", "6", *three) == wanted
    wanted = compared(compare([path], tasks=3, steps=1, on="user_people", queries=3)) + "\n"
    picture = str(tmp_path / "a.png")
    assert printed("compare", path, "--on", "user_people", "--queries", "3", *three, "--to", picture) == wanted
    with pytest.raises(SystemExit):
        main(["eval", path, "--ways", "3"])
    assert "an option ways: the parts are sinusoid (family), maml (algorithm)" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["eval", path, "--help"])
    assert "--shots SHOTS" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["eval", "--help"])
    assert "tinymaml eval RUN --help shows" in capsys.readouterr().out
