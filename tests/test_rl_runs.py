"""Navigation by the machinery of all runs: it learns, is evaluated, compared and drawn, and says what is wrong."""

import json
import warnings

import numpy as np
import pytest

for library in ("safetensors", "filelock", "tqdm", "threadpoolctl", "numba"):
    pytest.importorskip(library)

import tinymaml as tm  # noqa: E402
from tinymaml.cli import main  # noqa: E402
from tinymaml.nest import tree_map  # noqa: E402
from tinymaml.rl.environments import WORLDS  # noqa: E402
from tinymaml.rl.environments.point import Point  # noqa: E402
from tinymaml.runs import Run  # noqa: E402
from tinymaml.runs.acting import Acting  # noqa: E402
from tinymaml.runs.adaptation import measured, stacked_tasks  # noqa: E402
from tinymaml.runs.compare import compare  # noqa: E402
from tinymaml.runs.evaluate import evaluate, table  # noqa: E402
from tinymaml.runs.learner import Learner  # noqa: E402
from tinymaml.runs.loop import restore, train  # noqa: E402
from tinymaml.runs.settings import Config  # noqa: E402

pytestmark = pytest.mark.usefixtures("quick_code")

SMALL = dict(hidden=(16,), activation="tanh", trajectories=8, horizon=15, tasks=8, iterations=25, meta_lr=0.03,
             inner_lr=0.5, save_every=25, validate_every=25, validation_tasks=8, dtype="float64")  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("rl") / "run"
    train(Config.default("navigation", **SMALL), out, progress=False)
    return out


def test_the_family_chooses_its_algorithm_and_its_network():
    config = Config.default("navigation")
    assert (config.algorithm.name, config.network.name) == ("maml-rl", "policy")
    assert Config.default("sinusoid").algorithm.name == "maml"
    assert Config.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_it_learns_to_adapt(run):
    before, after = evaluate(run, tasks=60, steps=1, iteration=0), evaluate(run, tasks=60, steps=1)
    assert after["mean"][1] > before["mean"][1] + before["ci95"][1] + after["ci95"][1]
    assert after["mean"][1] > after["mean"][0] + after["ci95"][0]
    assert "return on 60 test tasks, after 25 meta-iterations\nmaml-rl, policy" in table(after)


def test_what_is_measured_are_the_returns_along_the_path(run):
    learned = restore(run)
    tasks = stacked_tasks(learned, "test", range(3))
    found = measured(learned, tasks, 2)
    path = Acting(learned.learner, False).path(learned.meta, tasks)
    for k, (_, batch) in zip(range(3), path, strict=False):
        wanted = (batch["rewards"] * batch["mask"]).sum(2).mean(1)
        np.testing.assert_allclose(found[:, k], wanted, rtol=1e-9)
    assert len(np.unique(found)) == 9


def test_collected_batches_are_those_of_the_policies_that_the_inner_steps_make():
    learner = Learner(Config.default("navigation", **SMALL | dict(inner_steps=2)))
    meta, *_ = learner.init(np.random.default_rng(0))
    tasks = learner.sample(np.random.default_rng(1), 3, "train")
    support, query = Acting(learner, False).collected(meta, tasks)
    assert len(support) == 2
    for t in range(3):
        one = tuple(tree_map(lambda x, t=t: x[t], batch) for batch in support)
        path = learner.algorithm.adapt(learner.loss, meta, one, learner.settings)
        for batch, theta in zip((*one, tree_map(lambda x, t=t: x[t], query)), path, strict=False):
            logp = learner.loss.logp(theta, batch["observations"], batch["actions"])
            np.testing.assert_allclose(logp, batch["logp"], rtol=1e-9, atol=1e-9)


def test_rates_can_be_changed_and_tuned_after_training(run):
    plain, whole = (evaluate(run, tasks=8, steps=2, **more) for more in ({}, {"later": 1.0}))
    assert plain["mean"][:2] == whole["mean"][:2] and plain["mean"][2] != whole["mean"][2]
    assert whole["transfer"] == "later 1.0 instead of 0.5"
    tuned = evaluate(run, tasks=8, steps=1, tune=True)
    assert tuned["tuned"] and tuned["mean"][0] == plain["mean"][0]
    other = evaluate(run, tasks=8, steps=1, reward="squared")
    assert other["mean"][0] > plain["mean"][0]  # squares of distances below 1 are smaller


def test_it_is_compared_with_an_untrained_policy(run):
    result = compare([run], tasks=8, steps=1, scratch=True)
    assert [line["label"] for line in result["lines"]] == ["maml-rl", "from scratch"]
    assert result["lines"][0]["mean"][1] > result["lines"][1]["mean"][1]


def test_the_command_line_trains_evaluates_and_draws(tmp_path, capsys, monkeypatch):
    out = str(tmp_path / "run")
    options = ["--hidden", "4", "--trajectories", "3", "--horizon", "5", "--tasks", "2", "--iterations", "2",
               "--validate-every", "2", "--validation-tasks", "2", "--no-compile"]  # fmt: skip
    assert main(["train", "navigation", "--surrogate", "dice", "--outer", "promp", "--out", out, *options]) == 0
    assert main(["eval", out, "--tasks", "3", "--steps", "2", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["mean"]) == 3
    pytest.importorskip("matplotlib")
    monkeypatch.setattr("tinymaml.pictures.steps.available", lambda run, split, tasks: 3)
    assert main(["plot", out]) == 0
    names = ["learning.png", "paths.png", "adaptation_return.png"]
    assert [line.rpartition("/")[2] for line in capsys.readouterr().out.split()] == names


@pytest.mark.parametrize("world", WORLDS)
def test_every_world_has_a_picture_of_where_policies_go(world, tmp_path):
    pytest.importorskip("matplotlib")
    from tinymaml.pictures import walks

    options = dict(world=world, hidden=(4,), trajectories=3, horizon=30, tasks=2, iterations=1, compile=False)
    learned = restore(train(Config.default("navigation", **options), tmp_path / "run", progress=False).path)
    figure = walks.PICTURES[world](learned)
    figure.savefig(tmp_path / "picture.png", dpi=20)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert {"goal", "start"} <= {*labels} and len(figure.axes) in (8, 10)
    shown = [float(x) for ax in figure.axes for x in ax.get_title().replace("→", ":").split(":")[-1:]]
    assert np.isfinite(shown).all()


def test_tasks_whose_policy_collapses_are_nan_from_there_on(run):
    learned = restore(run, inner_lr=1e6)
    with np.errstate(all="ignore"):
        found = measured(learned, stacked_tasks(learned, "test", range(4)), 3)
    assert np.isfinite(found[:, 0]).all() and np.isnan(found[:, 1:]).all()


def test_what_was_learned_is_no_model_of_examples(run):
    with pytest.raises(ValueError, match="navigation has tasks that are acted in, and no examples"):
        tm.load(run)


# ── what goes wrong in training ─────────────────────────────────────────────────────────────────────────────────────


class Ill(Point):
    """Its rewards are NaN at one step, but not in the trial before training."""

    resets = 0

    def reset(self, **more):
        type(self).resets += 1
        self.steps = 0
        return super().reset(**more)

    def step(self, actions):
        observations, rewards, *rest = super().step(actions)
        self.steps += 1
        if self.resets == 4 and self.steps == 3:
            rewards[5] = np.nan
        return observations, rewards, *rest


def test_a_fault_in_training_is_named_with_task_and_step(tmp_path, monkeypatch):
    monkeypatch.setitem(WORLDS, "point", Ill)
    Ill.resets = 0
    config = Config.default("navigation", **SMALL | dict(compile=False, validate_every=1000))
    message = "task 0, trajectory 5, step 2: the environment's reward is nan, wanted finite numbers"
    with pytest.raises(ValueError, match=message):
        train(config, tmp_path / "run", progress=False)


OWN = """
from dataclasses import dataclass

from tinymaml.families.navigation import EnvironmentTasks
from tinymaml.rl.environments.point import Point

defaults = {"algorithm": "maml-rl", "network": "policy", "hidden": (4,)}


@dataclass(frozen=True)
class Settings:
    trajectories: int = 2


class World(Point):
    def step(self, actions):
        if FAULT:
            return self.nothing
        return super().step(actions)


def make(settings):
    return EnvironmentTasks(World, settings.trajectories, 4)
"""


@pytest.mark.parametrize("fault", [False, True])
def test_a_world_of_the_user_s_is_trained_and_its_faults_have_a_line(tmp_path, monkeypatch, fault):
    name = f"my_world_{fault}"
    (tmp_path / f"{name}.py").write_text(OWN.replace("FAULT", str(fault)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    config = Config.default(name, iterations=1, tasks=2, compile=False)
    if fault:
        message = f"family {name}: collect: AttributeError: .*no attribute 'nothing' .{name}.py, line 18."
        with pytest.raises(ValueError, match=message):
            train(config, tmp_path / "run", progress=False)
    else:
        assert train(config, tmp_path / "run", progress=False).load().iteration == 1


def test_more_trajectories_than_memory_holds_are_refused_before_any_work(tmp_path):
    config = Config.default("navigation", trajectories=10**12)
    with pytest.raises(ValueError, match=r"tasks × 100,000,000,000,000 examples × 2 numbers need"):
        train(config, tmp_path / "run", progress=False)


@pytest.mark.parametrize("changes, message", [
    (dict(inner_lr=1e9), r"meta-iteration 1, task \d+, inner step 1: the policy's (std of action \d has|linear0)"),
    (dict(log_std=-14.0), r"task 0, inner step 0: the policy's std of action 0 has collapsed: it is 8.32e-07"),
])  # fmt: skip
def test_a_policy_that_collapses_in_training_is_named(tmp_path, changes, message):
    config = Config.default("navigation", **SMALL | dict(compile=False), **{k: v for k, v in changes.items()
                                                                           if k not in SMALL})  # fmt: skip
    config = config.changed(**changes)
    with warnings.catch_warnings(), pytest.raises(FloatingPointError, match=message):
        warnings.simplefilter("ignore")
        train(config, tmp_path / "run", progress=False)


def test_a_run_that_is_resumed_goes_on_with_the_same_numbers(run, tmp_path):
    short = Config.default("navigation", **SMALL | dict(iterations=13))
    train(short, tmp_path / "run", progress=False)
    resumed = train(short.changed(iterations=25), tmp_path / "run", resume=True, progress=False)
    for name, x in Run.open(run).load().arrays.items():
        np.testing.assert_array_equal(resumed.load().arrays[name], x, err_msg=name)
