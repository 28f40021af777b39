"""Environments are what a few lines of Python say, one agent at a time; and one of Gymnasium can take their place."""

import itertools
import math

import numpy as np
import pytest

from tinymaml.rl.environments import maze, point
from tinymaml.rl.environments.maze import Maze
from tinymaml.rl.environments.point import CORNERS, Point


def slowly(actions, start, goal, goals, kind, reward, radius):
    """(positions, rewards, ends) of one point, in plain Python."""
    reach, scale = {"square": (0.1, 1), "corners": (0.2, 10)}[goals]
    (x, y), (gx, gy), seen, paid, ends = start, goal, [], [], []
    for a in actions:
        before = math.hypot(x - gx, y - gy)
        if kind == "scaled":
            dx, dy = (reach * min(max(c / scale, -1), 1) for c in a)
        else:
            dx, dy = (min(max(c, -reach), reach) for c in a)
        x, y = x + dx, y + dy
        d = math.hypot(x - gx, y - gy)
        nearest = min(math.hypot(x - cx, y - cy) for cx, cy in CORNERS)
        progress = before - d if abs(x) + abs(y) >= radius and d <= nearest else 0
        paid.append({"distance": -d, "squared": -d * d, "near": max(0, 1 - d / radius), "progress": progress}[reward])
        seen.append((x, y))
        ends.append(goals == "square" and abs(x - gx) < 0.01 and abs(y - gy) < 0.01)
    return seen, paid, ends


KINDS = [c for c in itertools.product(point.GOALS, point.ACTIONS, point.REWARDS) if c[::2] != ("square", "progress")]


def compare(goals, kind, reward, step=Point.step, count=4, steps=30):
    rng = np.random.default_rng(0)
    environment = Point(count, goals=goals, actions=kind, reward=reward, radius=0.5)
    options = environment.draw(rng, count)
    if goals == "square":
        options["goal"][0] = 0.1, -0.1  # which is one step away
    observations, info = environment.reset(seed=3, options=options)
    towards = 4 if goals == "corners" else 0.5  # by the way: they pass the goal
    actions = rng.normal(size=(steps, count, 2)) * (8 if goals == "corners" else 1) + towards * np.sign(options["goal"])
    actions[0, 0] = 1, -1
    assert info == {} and observations.shape == (count, 2)
    results = [step(environment, a) for a in actions]
    for i in range(count):
        wanted = slowly(actions[:, i], observations[i], options["goal"][i], goals, kind, reward, 0.5)
        for place, values in enumerate(wanted):
            seen = [result[place][i] for result in results]
            np.testing.assert_allclose(seen, values, rtol=0, atol=1e-12)
    return results


@pytest.mark.parametrize("goals, kind, reward", KINDS)
def test_points_move_and_are_paid_as_step_by_step(goals, kind, reward):
    results = compare(goals, kind, reward)
    assert any(result[2].any() for result in results) == (goals == "square")
    assert not any(result[3].any() for result in results)
    assert len({float(x) for result in results for x in result[1]}) > 4


def test_a_reward_for_the_position_before_the_step_is_seen():
    def step(environment, actions):
        before = environment._rewards(environment.position)
        observations, _, *rest = Point.step(environment, actions)
        return observations, before, *rest

    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        compare("square", "scaled", "distance", step)


@pytest.mark.parametrize("goals", point.GOALS)
def test_starts_depend_on_the_seed_of_each_point_alone(goals):
    many, few = Point(5, goals=goals), Point(2, goals=goals)
    starts, _ = many.reset(seed=[4, 5, 6, 7, 8])
    np.testing.assert_array_equal(few.reset(seed=[5, 8])[0], starts[[1, 4]])
    np.testing.assert_array_equal(many.reset(seed=1)[0], many.reset(seed=1)[0])
    assert (np.abs(starts) <= 0.2).all() and (len(np.unique(starts)) == 10) == (goals == "corners")


def test_goals_are_drawn_as_published():
    rng = np.random.default_rng(0)
    square = Point(1).draw(rng, 4000)["goal"]
    assert (np.abs(square) <= 0.5).all() and np.abs(square).max() > 0.499 and abs(square.mean()) < 0.02
    corners, counts = np.unique(Point(1, goals="corners").draw(rng, 4000)["goal"], axis=0, return_counts=True)
    np.testing.assert_array_equal(np.abs(corners), np.full((4, 2), 2))
    assert counts.min() > 900


def test_straight_to_the_goal_the_return_is_about_minus_a_half():
    environment = Point(20_000)
    environment.reset(options=environment.draw(np.random.default_rng(0), 20_000))
    returns, running = np.zeros(20_000), np.ones(20_000, bool)
    for _ in range(10):
        away = environment.goal - environment.position
        _, rewards, ended, *_ = environment.step(10 * away)
        returns += np.where(running, rewards, 0)
        running &= ~ended
    assert not running.any() and returns.mean() == pytest.approx(-0.5, abs=0.02)


@pytest.mark.parametrize("options, message", [
    (dict(goals="circle"), "goals is 'circle', wanted one of square, corners"),
    (dict(actions="raw"), "actions is 'raw', wanted one of scaled, clipped"),
    (dict(reward="progress"), "the reward 'progress' wants goals in corners, and they are 'square'"),
])  # fmt: skip
def test_what_is_unknown_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        Point(1, **options)


def test_goals_of_another_shape_are_named():
    with pytest.raises(ValueError, match=r"goal has the shape \(3, 2\), wanted \(4, 2\)"):
        Point(4).reset(options={"goal": np.zeros((3, 2))})
    with pytest.raises(ValueError, match=r"goal is float64 \(4,\), wanted numbers of cells, below 37, \(4,\)"):
        Maze(4).reset(options={"goal": np.zeros(4)})


# ── the maze ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_agents_in_the_maze_move_as_step_by_step():
    rows = maze.MAP.split()
    environment, rng = Maze(6), np.random.default_rng(0)
    options = environment.draw(rng, 6)
    cells = environment.cells.tolist()
    places = [cells[k] for k in np.argmax(environment.reset(options=options)[0], 1)]
    assert all(rows[r][c] == "S" for r, c in places)
    ends, bumps = 0, 0
    for _ in range(200):
        actions = rng.integers(4, size=6)
        observations, rewards, terminated, truncated, _ = environment.step(actions)
        for i, (r, c) in enumerate(places):
            dr, dc = [(-1, 0), (1, 0), (0, -1), (0, 1)][actions[i]]
            free = 0 <= r + dr < len(rows) and 0 <= c + dc < len(rows[0]) and rows[r + dr][c + dc] != "#"
            places[i] = [r + dr, c + dc] if free else [r, c]
            assert observations[i].sum() == 1 and cells[int(observations[i].argmax())] == places[i]
            assert terminated[i] == (places[i] == cells[options["goal"][i]])
            bumps += not free
        assert (rewards == -1).all() and not truncated.any()
        ends += terminated.any()
    assert ends and bumps


def test_a_goal_is_never_where_all_start_and_may_be_any_other_cell():
    environment = Maze(1)
    goals = environment.draw(np.random.default_rng(0), 2000)["goal"]
    assert set(goals.tolist()) == set(range(len(environment.cells))) - {environment.start}


# ── Gymnasium ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def gymnasium():
    return pytest.importorskip("gymnasium")


def gym_batch(mode=None):
    """What a random policy does with carts whose motors differ."""
    from gymnasium.vector import AutoresetMode

    from tinymaml.families.navigation import EnvironmentTasks
    from tinymaml.rl.environments.vector import Gymnasium
    from tinymaml.rl.policies import Categorical

    more = {} if mode is None else {"vector_kwargs": {"autoreset_mode": AutoresetMode[mode]}}
    family = EnvironmentTasks(Gymnasium.of("CartPole-v1", "force_mag", -10.0, 10.0, **more), 4, 40)
    policy, rng = Categorical(4, family.choices, (5,)), np.random.default_rng(0)
    theta = {k: {n: np.stack([x, x]) for n, x in layer.items()} for k, layer in policy.init(rng, np.float64).items()}
    return family.collect(policy, theta, family.sample(rng, 2), 0), family


@pytest.mark.usefixtures("gymnasium")
def test_a_batch_is_the_same_whatever_gymnasium_does_after_an_end():
    wanted, _ = gym_batch()
    assert 0 < wanted["mask"].sum() < wanted["mask"].size  # some episodes end
    for mode in ("NEXT_STEP", "SAME_STEP", "DISABLED"):
        batch, _ = gym_batch(mode)
        for name in ("mask", "rewards"):
            np.testing.assert_array_equal(batch[name], wanted[name], err_msg=mode)
        for name in ("observations", "actions", "logp"):
            runs = wanted["mask"] > 0
            np.testing.assert_array_equal(batch[name][runs], wanted[name][runs], err_msg=mode)


def test_carts_are_those_of_gymnasium_with_the_motor_of_their_task(gymnasium):
    batch, family = gym_batch()
    tasks = family.sample(np.random.default_rng(1), 2)
    environment = family.world(8)
    environment.reset(seed=0, options={"force_mag": np.repeat(tasks["force_mag"], 4)})
    assert environment.inner.get_attr("force_mag") == tuple(np.repeat(tasks["force_mag"], 4).tolist())
    alone = gymnasium.make("CartPole-v1")
    alone.reset(seed=5)
    alone.unwrapped.force_mag = tasks["force_mag"][1]
    environment.reset(seed=[5] * 8, options={"force_mag": np.repeat(tasks["force_mag"], 4)})
    seen = environment.step(np.ones(8, int))[0]
    np.testing.assert_array_equal(seen[7], alone.step(1)[0])
    assert (seen[0] != seen[7]).any()


def test_actions_of_a_box_are_scaled(gymnasium):
    from tinymaml.rl.environments.vector import Gymnasium

    environment = Gymnasium.of("Pendulum-v1", "g", 5.0, 15.0)(3)
    assert environment.actions == 1 and environment.observation_shape == (3,)
    environment.reset(seed=0)
    taken = []
    environment.inner.step = lambda actions: taken.append(actions) or ([], [], np.zeros(3, bool), np.zeros(3, bool), {})
    environment.step(np.array([[-3.0], [0.0], [0.5]]))
    np.testing.assert_allclose(taken[0], [[-2], [0], [1]])


def test_environments_that_do_not_fit_are_named(gymnasium):
    from tinymaml.rl.environments.vector import Gymnasium

    with pytest.raises(ValueError, match="Gymnasium makes no environment 'Nothing-v0'"):
        Gymnasium.of("Nothing-v0", "g", 0.0, 1.0)(1)
    with pytest.raises(ValueError, match="no attribute 'colour' in which tasks could differ"):
        Gymnasium.of("CartPole-v1", "colour", 0.0, 1.0)(1)
