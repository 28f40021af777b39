"""Collecting: a batch is what happened, step by step; it depends on its own task alone; what does not fit is named."""

import numpy as np
import pytest

from tinymaml.families import FAMILIES
from tinymaml.nest import tree_leaves, tree_map
from tinymaml.rl.collect import rollout, total
from tinymaml.rl.environments.point import Point
from tinymaml.rl.policies import Gaussian
from tinymaml.runs.settings import Config

POLICY = Gaussian(2, 2, (4,), "tanh")
T, N, H = 3, 2, 6


def thetas(tasks=T, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    one = POLICY.init(rng, dtype)
    return tree_map(lambda x: (x + 0.2 * rng.normal(size=(tasks, *x.shape))).astype(dtype), one)


def options():
    goals = np.array([[0.05, -0.05], [0.3, 0.4], [-0.2, 0.1]])
    return {"goal": goals[:T]}


def collected(environment=None, theta=None, seeds=(7, 8, 9), step=0, given=None, horizon=H):
    environment = environment or Point(T * N)
    theta = thetas() if theta is None else theta
    sizes = dict(trajectories=N, horizon=horizon)
    return rollout(environment, POLICY, theta, given or options(), np.array(seeds), step, **sizes)


# ── what a batch is ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_batch_is_what_one_policy_does_in_one_environment_step_by_step():
    horizon, theta, given, ended = 12, thetas(), options(), 0
    given["goal"][0] = collected(horizon=horizon)["observations"][0, 0, 5]  # at which one arrives after 5 steps
    batch = collected(horizon=horizon, given=given)
    for t in range(T):
        rng = np.random.default_rng([7 + t, 0])
        rng.integers(2**31, size=N)  # the seeds of starts
        noise = rng.standard_normal((horizon, N, 2))
        mine = tree_map(lambda x, t=t: x[t], theta)
        for n in range(N):
            environment = Point(1)
            seen, _ = environment.reset(options={"goal": given["goal"][t : t + 1]})
            for h in range(horizon):
                np.testing.assert_allclose(batch["observations"][t, n, h], seen[0], rtol=0, atol=1e-12)
                outputs = POLICY.outputs(mine, seen)
                action = POLICY.act(outputs, noise[h, n])
                np.testing.assert_allclose(batch["actions"][t, n, h], action[0], rtol=0, atol=1e-11)
                np.testing.assert_allclose(batch["outputs"]["mean"][t, n, h], outputs["mean"][0], rtol=0, atol=1e-12)
                np.testing.assert_allclose(batch["logp"][t, n, h], POLICY.density(outputs, action)[0], atol=1e-10)
                seen, rewards, terminated, *_ = environment.step(action)
                np.testing.assert_allclose(batch["rewards"][t, n, h], rewards[0], rtol=0, atol=1e-12)
                assert batch["mask"][t, n, h] == 1
                if terminated[0]:
                    ended += 1
                    assert not batch["mask"][t, n, h + 1 :].any() and not batch["rewards"][t, n, h + 1 :].any()
                    break
    assert ended == 1
    np.testing.assert_allclose(total(batch), batch["rewards"].sum(2).mean(1))


def test_arrays_have_the_shapes_of_the_head_and_the_dtype_of_the_policy():
    batch = collected(theta=thetas(dtype=np.float32))
    assert {name: x.shape for name, x in batch.items() if name != "outputs"} == {
        "observations": (T, N, H, 2), "actions": (T, N, H, 2), "rewards": (T, N, H), "mask": (T, N, H),
        "logp": (T, N, H),
    }  # fmt: skip
    assert batch["outputs"]["mean"].shape == (T, N, H, 2) and batch["outputs"]["log_std"].shape == (T, 2)
    assert {x.dtype for x in tree_leaves(batch)} == {np.dtype(np.float32)}


def test_a_task_does_not_depend_on_the_tasks_beside_it_but_on_its_seed_and_step():
    batch = collected()
    goals, theta = options()["goal"], thetas()
    alone = collected(Point(N), tree_map(lambda x: x[1:2], theta), (8,), given={"goal": goals[1:2]})
    for name in ("observations", "actions", "rewards", "logp"):
        np.testing.assert_allclose(alone[name][0], batch[name][1], rtol=1e-12, atol=1e-12)
    again, other, later = collected(), collected(seeds=(7, 1, 9)), collected(step=1)
    np.testing.assert_array_equal(again["actions"], batch["actions"])
    assert (other["actions"][1] != batch["actions"][1]).all() and (later["actions"] != batch["actions"]).all()
    np.testing.assert_array_equal(other["actions"][0], batch["actions"][0])


def test_when_all_have_ended_nothing_is_asked_any_more():
    class Short(Point):
        steps = 0

        def step(self, actions):
            self.steps += 1
            observations, rewards, *_ = super().step(actions)
            return observations, rewards, np.full(self.num_envs, self.steps >= 2), np.zeros(self.num_envs, bool), {}

    environment = Short(T * N)
    batch = collected(environment)
    assert environment.steps == 2 and batch["mask"].sum(2).tolist() == [[2] * N] * T
    assert batch["observations"].shape == (T, N, H, 2) and np.isfinite(batch["observations"]).all()


# ── what does not fit ───────────────────────────────────────────────────────────────────────────────────────────────


class Odd(Point):
    """An environment with a fault in its step `at`."""

    def __init__(self, fault, at=2):
        super().__init__(T * N)
        self.fault, self.left = fault, at

    def step(self, actions):
        result = [*super().step(actions)]
        if self.left == 0:
            return self.fault(result)
        self.left -= 1
        return tuple(result)


def bad(place, change):
    def fault(result):
        result[place] = change(result[place])
        return tuple(result)

    return fault


def spoiled(row, value):
    def change(x):
        x = x.copy()
        x[row] = value
        return x

    return change


@pytest.mark.parametrize("fault, message", [
    (bad(1, spoiled(3, np.nan)),
     r"task 1, trajectory 1, step 2: the environment's reward is nan, wanted finite numbers"),
    (bad(0, spoiled((4, 1), np.inf)),
     r"task 2, trajectory 0, step 2: the environment's observation is \[.*inf\], wanted finite numbers"),
    (bad(0, lambda x: x[:-1]),
     r"observations at step 2 are float64 \(5, 2\), wanted numbers of shape \(6, 2\): a row per task and trajectory"),
    (bad(1, lambda x: x[:, None]), r"rewards at step 2 are float64 \(6, 1\), wanted numbers of shape \(6,\)"),
    (bad(1, lambda x: np.array(["much"] * 6)), r"rewards at step 2 are <U4 \(6,\), wanted numbers of shape \(6,\)"),
    (bad(2, lambda x: x.astype(float)),
     r"terminated at step 2 is float64 \(6,\), wanted bool \(6,\): does the episode end here\?"),
    (bad(3, lambda x: x[:2]), r"truncated at step 2 is bool \(2,\), wanted bool \(6,\)"),
    (bad(2, lambda x: True), r"terminated at step 2 is bool \(\), wanted bool \(6,\)"),
    (lambda result: tuple(result[:4]),
     r"step 2 returned \(float64.*wanted \(observations, rewards, terminated, truncated, info\)"),
])  # fmt: skip
def test_a_fault_of_the_environment_is_named_with_task_and_step(fault, message):
    collected(Odd(lambda result: tuple(result)))  # without a fault there is no error
    with pytest.raises(ValueError, match=message):
        collected(Odd(fault))


def test_what_comes_after_the_end_of_an_episode_is_not_looked_at():
    class Ends(Point):
        steps = 0

        def step(self, actions):
            self.steps += 1
            observations, rewards, terminated, truncated, info = super().step(actions)
            terminated = terminated | ((np.arange(self.num_envs) == 3) & (self.steps == 2))
            if self.steps > 2:
                observations[3], rewards[3] = np.nan, np.inf
            return observations, rewards, terminated, truncated, info

    batch = collected(Ends(T * N))
    assert batch["mask"][1, 1].tolist() == [1, 1, 0, 0, 0, 0]
    assert all(np.isfinite(x).all() for x in tree_leaves(batch))


def test_an_environment_of_another_size_and_a_reset_of_another_form_are_named():
    with pytest.raises(ValueError, match="the environment has num_envs = 5, wanted 3 × 2"):
        collected(Point(5))

    class Old(Point):  # of the interface before Gymnasium
        def reset(self, **more):
            return super().reset(**more)[0]

    with pytest.raises(ValueError, match=r"reset returned float64 \(6, 2\), wanted \(observations, info\)"):
        collected(Old(T * N))


def test_a_policy_that_cannot_act_is_named_with_task_and_step():
    theta = thetas()
    theta["log_std"][2, 0] = -30
    with pytest.raises(FloatingPointError, match="task 2, inner step 1: the policy's std of action 0 has collapsed"):
        collected(theta=theta, step=1)
    theta = thetas()
    theta["linear0"]["b"][1, 0] = np.inf
    with pytest.raises(FloatingPointError, match="task 1, inner step 0: the policy's linear0 is not finite"):
        collected(theta=theta)
    theta = thetas()
    theta["log_std"][1, 1] = 800
    with (
        np.errstate(over="ignore"),
        pytest.raises(FloatingPointError, match="task 1, inner step 0: the policy's action at step 0 is not finite"),
    ):
        collected(theta=theta)


# ── families that are acted in ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name, options", [
    ("navigation", {}), ("navigation", {"world": "maze"}), ("navigation", {"goals": "corners", "reward": "progress"}),
    ("control", {}),
])  # fmt: skip
def test_a_family_collects_batches_that_depend_on_tasks_and_step_alone(name, options, small_data):
    from tinymaml.runs.learner import Learner

    learner = Learner(Config.default(name, hidden=(4,), **{**small_data(name), **options}))
    rng = np.random.default_rng(0)
    tasks = learner.sample(rng, 4, "train")
    theta = tree_map(lambda x: np.stack([x] * 4), learner.network.init(rng, np.float32))
    first, again, later = (learner.collect(theta, tasks, k) for k in (0, 0, 1))
    tree_map(np.testing.assert_array_equal, first, again)
    assert (first["logp"] != later["logp"]).any()
    assert first["observations"].shape == (4, 3, 5, *learner.family.input_shape)
    assert {len(x) for x in tree_leaves(first)} == {4} and learner.measure(first).shape == (4,)
    assert all(np.isfinite(x).all() for x in tree_leaves(first))
    splits = [learner.sample(np.random.default_rng(1), 2, split) for split in ("train", "test")]
    tree_map(np.testing.assert_array_equal, *splits)  # endless: the generator alone tells splits apart


def test_options_that_do_not_fit_each_other_are_named():
    with pytest.raises(ValueError, match="the reward 'progress' wants goals in corners, and they are 'square'"):
        FAMILIES["navigation"].make(FAMILIES["navigation"].Settings(reward="progress"))
