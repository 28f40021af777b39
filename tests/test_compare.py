"""Runs are compared on the same tasks, and the table and the picture say what was measured."""

import json
import os
import shutil
import sys

import numpy as np
import pytest

for library in ("matplotlib", "safetensors", "filelock", "tqdm"):
    pytest.importorskip(library)

from tinymaml.algorithms import ALGORITHMS, takes_any  # noqa: E402
from tinymaml.cli import main  # noqa: E402
from tinymaml.nest import tree_map  # noqa: E402
from tinymaml.pictures import style  # noqa: E402
from tinymaml.pictures.compare import comparison, draw_comparison  # noqa: E402
from tinymaml.runs import Run  # noqa: E402
from tinymaml.runs.adaptation import measured, task  # noqa: E402
from tinymaml.runs.compare import SCRATCH, check_comparable, compare, decisive_settings, grouped, labels, table  # noqa: E402
from tinymaml.runs.evaluate import evaluate, in_unit  # noqa: E402
from tinymaml.runs.loop import Learned, restore, train  # noqa: E402
from tinymaml.runs.settings import Config  # noqa: E402

pytestmark = pytest.mark.usefixtures("quick_code")

TINY = dict(
    iterations=6, tasks=2, hidden=(6,), save_every=3, validate_every=2, validation_tasks=2, compile=False, inner_lr=0.01
)


def config(family="sinusoid", **settings) -> Config:
    return Config.default(family, **{**TINY, **settings})


def trained(out, family="sinusoid", **settings) -> str:
    train(config(family, **settings), out, progress=False)
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


# ── the numbers ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_run_of_seed_0_has_the_numbers_of_eval(runs):
    maml, reptile = runs(), runs(algorithm="reptile")
    result = compare([maml, reptile], tasks=5, steps=3)
    assert [line["label"] for line in result["lines"]] == ["maml", "reptile"]
    assert (result["steps"], result["tasks"], result["metric"]) == ([0, 1, 2, 3], 5, "mse")
    for line, path in zip(result["lines"], (maml, reptile), strict=True):
        expected = evaluate(path, tasks=5, steps=3)
        np.testing.assert_allclose(line["mean"], expected["mean"], rtol=1e-6)
        np.testing.assert_allclose(line["ci95"], expected["ci95"], rtol=1e-6)
        assert line["spread"] is None and line["runs"][0]["seconds"] == expected["seconds"] > 0
        log = [[r["iteration"], r["validation_mse"]] for r in Run.open(path).read_log() if "validation_mse" in r]
        assert line["runs"][0]["validation"] == log and len(log) == 3


def test_every_run_gets_the_test_tasks_of_seed_0(runs):
    first, other = restore(runs()), restore(runs(seed=3))
    drawn = [task(first, "test", t) for t in range(4)]  # by the seed of the first, which is 0
    with np.errstate(all="ignore"):
        expected = measured(other, tree_map(lambda *xs: np.stack(xs), *drawn), 2).mean(0)
    for order in ([runs(), runs(seed=3)], [runs(seed=3), runs()]):
        (line,) = compare(order, tasks=4, steps=2)["lines"]
        (mean,) = [run["mean"] for run in line["runs"] if run["seed"] == 3]
        np.testing.assert_allclose(mean, expected, rtol=1e-6)


def test_runs_that_differ_in_the_seed_alone_are_one_line_with_their_spread(runs):
    paths = [runs(seed=seed) for seed in (0, 1, 2)]
    result = compare([paths[0], runs(algorithm="reptile"), *paths[1:]], tasks=4, steps=2)
    line, other = result["lines"]
    assert [run["seed"] for run in line["runs"]] == [0, 1, 2] and other["spread"] is None
    each = np.array([run["mean"] for run in line["runs"]])
    assert len(np.unique(each[:, 0])) == 3
    np.testing.assert_allclose(line["mean"], each.mean(0))
    np.testing.assert_allclose(line["spread"], each.std(0, ddof=1))
    rows = table(result).splitlines()
    numbers = " ± ".join(f"{line[name][2]:.3f}" for name in ("mean", "ci95", "spread"))
    assert any(row.startswith("maml ") and row.endswith(numbers) for row in rows)
    assert any(
        row.startswith("reptile ") and row.endswith(f"{other['mean'][2]:.3f} ± {other['ci95'][2]:.3f}") for row in rows
    )
    assert "standard deviation between seeds" in rows[1]


def test_from_scratch_is_the_untrained_network_at_a_tuned_rate(runs):
    for first in (runs(), runs(algorithm="meta-sgd")):
        _, line = compare([first], tasks=4, steps=2, scratch=True)["lines"]
        expected = evaluate(runs(), tasks=4, steps=2, iteration=0, tune=True)
        assert line["label"] == SCRATCH and line["algorithm"] is None
        assert line["runs"][0]["tuned"] and line["runs"][0]["inner_lr"] == expected["inner_lr"]
        assert line["runs"][0]["iteration"] == 0 and line["runs"][0]["validation"] == []
        np.testing.assert_allclose(line["mean"], expected["mean"], rtol=1e-6)


def test_rates_are_tuned_if_that_is_asked_for_or_left_open_and_where_there_is_one(runs):
    paths = [runs(), runs(algorithm="joint"), runs(algorithm="meta-sgd")]
    found = [line["runs"][0] for line in compare(paths, tasks=3, steps=2)["lines"]]
    assert [run["tuned"] for run in found] == [False, True, False]
    again = [line["runs"][0] for line in compare(paths, tasks=3, steps=2, tune=True)["lines"]]
    assert [run["tuned"] for run in again] == [True, True, False]
    assert (
        found[0]["inner_lr"] == 0.01
        and again[0]["inner_lr"] == evaluate(paths[0], tasks=2, steps=2, tune=True)["inner_lr"]
    )


def test_a_run_that_diverges_is_said_to_and_does_not_hide_the_others(runs):
    wild, calm = runs(inner_lr=1e4, inner_steps=0), runs(inner_steps=0)  # trained without a step inside
    result = compare([wild, calm], tasks=3, steps=4)
    assert [line["label"] for line in result["lines"]] == ["maml, inner_lr 10000.0", "maml, inner_lr 0.01"]
    assert result["lines"][0]["runs"][0]["diverged"] == 3 and result["lines"][0]["mean"][-1] is None
    assert result["lines"][1]["runs"][0]["diverged"] == 0
    json.dumps(result, allow_nan=False)
    text = table(result)
    assert "diverges" in text and "maml, inner_lr 10000.0: up to 3 tasks of a run diverged" in text
    comparison(result).savefig(os.devnull, format="png")


def test_every_algorithm_can_be_compared(runs, tmp_path):
    every = [name for name, algorithm in ALGORITHMS.items() if takes_any(algorithm)]
    result = compare([runs(algorithm=algorithm, iterations=1) for algorithm in every], tasks=3, steps=2)
    assert [line["label"] for line in result["lines"]] == every
    assert all(np.isfinite(line["mean"][0]) for line in result["lines"])
    assert draw_comparison(result, tmp_path / "a" / "all.png").read_bytes().startswith(b"\x89PNG")


# ── which runs are compared, and what they are called ───────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "changes, expected",
    [
        ([{}], ["maml"]),
        ([{}, {"algorithm": "reptile", "inner_steps": 3}], ["maml", "reptile"]),
        ([{}, {"first_order": True, "iterations": 9}], ["maml", "maml, first_order"]),
        ([{"inner_steps": 1}, {"inner_steps": 5}], ["maml, inner_steps 1", "maml, inner_steps 5"]),
        ([{}, {"iterations": 9}], ["maml, iterations 6", "maml, iterations 9"]),
        ([{}, {"algorithm": "anil", "network": "linear"}], ["maml, mlp", "anil, linear"]),
        ([{}, {"network": "linear"}], ["maml, mlp", "maml, linear"]),
        ([{"hidden": (3, 4)}, {"hidden": (5,)}], ["maml, hidden 3 4", "maml, hidden 5"]),
    ],
)
def test_labels_say_what_tells_the_lines_apart(changes, expected):
    def made(network="mlp", **settings):
        tiny = {name: x for name, x in TINY.items() if name != "hidden" or network == "mlp"}
        return Config.default("sinusoid", network=network, **{**tiny, **settings})

    assert labels([decisive_settings(made(**some)) for some in changes]) == expected


def learned(config: Config) -> Learned:
    return Learned(config, None, None, 1, 1.0)


def test_runs_of_one_seed_and_the_same_settings_are_lines_of_their_own():
    one, again, other = (learned(config(seed=seed)) for seed in (0, 0, 1))
    lines = grouped({"a": one, "b": again, "c": other})
    assert [list(line) for line in lines] == [["a", "c"], ["b"]]
    assert labels([decisive_settings(config()), decisive_settings(config())]) == ["maml, 1", "maml, 2"]


def test_runs_on_other_tasks_are_refused_and_the_option_is_named(runs):
    with pytest.raises(ValueError, match="are not of the same tasks: shots is 5 and 7"):
        compare([runs(), runs(shots=7)])
    with pytest.raises(ValueError, match="are not of the same tasks: family is sinusoid and user_family"):
        compare([runs(), runs("user_family")])


def test_where_the_data_lies_does_not_matter():
    one, two = (learned(Config.default("omniglot", data=data)) for data in ("/here", "/there"))
    check_comparable(["a", "b"], {"a": one, "b": two})
    assert len(grouped({"a": one, "b": two._replace(config=two.config.changed(seed=1))})) == 1


def test_a_run_that_is_given_twice_is_refused(runs, tmp_path):
    (tmp_path / "link").symlink_to(runs())
    with pytest.raises(ValueError, match="is given twice"):
        compare([runs(), tmp_path / "link"])


# ── the picture ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_picture_has_validation_steps_and_seconds_with_the_spread_of_seeds(runs):
    paths = [runs(), runs(seed=1), runs(algorithm="reptile")]
    result = compare(paths, tasks=4, steps=2, scratch=True)
    figure = comparison(result)
    validation, steps, seconds = figure.axes
    line = result["lines"][0]
    logs = np.array([[value for _, value in run["validation"]] for run in line["runs"]])
    np.testing.assert_allclose(validation.lines[0].get_data(), [[2, 4, 6], logs.mean(0)])
    each = sum(run["seconds"] for run in line["runs"]) / 12
    np.testing.assert_allclose(seconds.lines[0].get_data(), [each * np.array([2, 4, 6]), logs.mean(0)])
    band = validation.collections[0].get_datalim(validation.transData)
    np.testing.assert_allclose((band.ymin, band.ymax), (logs.min(), logs.max()))
    assert len(validation.lines) == len(seconds.lines) == 2  # what was not trained has none
    published = {"MAML, Finn et al., 2017", "pretrained, Finn et al., 2017"}
    drawn = set(steps.get_legend_handles_labels()[1])
    assert drawn == {"maml (2 seeds)", "reptile", "from scratch (2 seeds)"} | published
    for drawn, line in zip(steps.containers, result["lines"], strict=True):
        np.testing.assert_allclose(*(np.array(xy, float) for xy in (drawn[0].get_data(), ([0, 1, 2], line["mean"]))))
        (bars,) = drawn[2]
        low, high = bars.get_segments()[1][:, 1]
        np.testing.assert_allclose([low, high], [line["mean"][1] - line["ci95"][1], line["mean"][1] + line["ci95"][1]])
    assert [drawn[0].get_color() for drawn in steps.containers] == [*style.colours(["maml", "reptile"]), style.GREY]
    assert "iterations × mean seconds per iteration" in figure.get_suptitle()


def test_accuracy_is_compared_in_percent_beside_chance_with_the_statistics_named(omniglot_data, tmp_path):
    common = dict(data=str(omniglot_data), scheme="official", network="mlp", ways=3)
    paths = [trained(tmp_path / s, "omniglot", statistics=s, **common) for s in ("transductive", "support")]
    result = compare(paths, tasks=3, steps=1)
    text = table(result)
    assert text.startswith("3-way 1-shot omniglot: accuracy on 3 test tasks") and "chance: 33.33 %" in text
    assert "maml, statistics support" in text and text.count("transductive") == 2
    figure = comparison(result)
    assert all(ax.get_ylabel() == "query accuracy (%)" and ax.get_ylim() == (0, 102) for ax in figure.axes)
    assert "batch norm: support, transductive" in figure.get_suptitle()
    assert "batch norm of queries by support statistics: those of the task's support set" in table(
        compare(paths[1:], tasks=3, steps=1)
    )


def test_a_number_on_its_way_to_infinity_is_short():
    assert in_unit(4.4820667e17, {"scale": 1}) == "4.48e+17" and in_unit(0.25, {"scale": 1}) == "0.250"
    assert in_unit(0.25, {"scale": 100}) == "25.00"


# ── the command ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_command_prints_a_table_or_json_and_draws(runs, tmp_path, capsys):
    paths = [runs("user_family"), runs("user_family", algorithm="anil")]
    assert main(["compare", *paths, "--tasks", "3", "--steps", "2", "--to", str(tmp_path / "a.png")]) == 0
    out, err = capsys.readouterr()
    assert out == table(compare(paths, tasks=3, steps=2)) + "\n" and "a.png" in err
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert main(["compare", *paths, "--tasks", "3", "--steps", "2", "--json", "--scratch"]) == 0
    assert json.loads(capsys.readouterr().out) == compare(paths, tasks=3, steps=2, scratch=True)


def test_a_picture_is_drawn_beside_the_first_run_if_nothing_else_is_said(runs, tmp_path, capsys, monkeypatch):
    path = tmp_path / "runs" / "one"
    shutil.copytree(runs("user_family"), path)
    assert main(["compare", str(path), "--tasks", "3", "--steps", "1"]) == 0
    picture = tmp_path / "runs" / "compare.png"
    assert str(picture) in capsys.readouterr().err and picture.read_bytes().startswith(b"\x89PNG")
    picture.unlink()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["compare", str(path), "--tasks", "3", "--steps", "1"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("10-shot") and "no picture:" in err and 'pip install "tinymaml[plot]"' in err


def test_a_picture_that_cannot_be_drawn_is_refused_before_any_work(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("tinymaml.runs.compare.compare", lambda *_, **__: pytest.fail("the work has begun"))
    assert main(["compare", runs(), "--to", str(tmp_path / "a.jpg")]) == 1
    assert "a.jpg, wanted a name that ends with .png" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert main(["compare", runs(), "--to", str(tmp_path / "file" / "a.png")]) == 1
    assert "cannot make" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["compare", runs(), "--to", str(tmp_path / "a.png")]) == 1
    assert 'pip install "tinymaml[plot]"' in capsys.readouterr().err
