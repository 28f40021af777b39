"""Lines are as described, the minimiser of their meta-loss is what its formula says, and training reaches it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinymaml as tm
from tinymaml import nn
from tinymaml.families.lines import LineTasks, minimiser, quadratic, with_one
from tinymaml.nest import tree_map
from tinymaml.runs.settings import Config

pytestmark = pytest.mark.usefixtures("quick_code")

counts = st.integers(1, 6)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def linear_loss(theta, x, y):
    return nn.mse(nn.linear(x, theta["w"], theta["b"]), y)


def nest(theta: np.ndarray) -> dict:
    return {"w": theta[:-1, None], "b": theta[-1:]}


def vector(theta: dict) -> np.ndarray:
    return np.concatenate([np.ravel(theta["w"]), np.ravel(theta["b"])])


# ── what is drawn ───────────────────────────────────────────────────────────────────────────────────────────────────


@given(counts, counts, counts, counts, st.booleans(), st.sampled_from([np.float32, np.float64]), st.integers(0, 2**32))
def test_tasks_are_stacked_support_and_query(features, shots, queries, tasks, pairs, dtype, seed):
    family = LineTasks(features, shots, queries, pairs=pairs, dtype=dtype)
    (xs, ys), (xq, yq) = family.sample(rng(seed), tasks, "train")
    assert xs.shape == (tasks, shots, features) and ys.shape == (tasks, shots, 1)
    assert xq.shape == (tasks, queries, features) and yq.shape == (tasks, queries, 1)
    assert {x.dtype for x in (xs, ys, xq, yq)} == {np.dtype(dtype)}
    assert family.input_shape == (features,) and family.minimiser.shape == (features + 1,)


def test_lines_are_normal_about_the_line_of_the_tutorials():
    family = LineTasks(features=2, spread=0.7)
    lines = family.lines(rng(), 20000)
    np.testing.assert_allclose(lines.mean(0), [2, 2, 1], atol=0.02)
    np.testing.assert_allclose(np.cov(lines.T), 0.49 * np.eye(3), atol=0.02)
    one = LineTasks(spread=0, noise=0).sample(rng(), 3, "test")
    for x, y in one:
        np.testing.assert_allclose(y, 2 * x + 1, atol=1e-15)


def test_y_is_the_line_and_noise_of_its_own_at_each_point():
    family, drawn = LineTasks(3, 400, 500, noise=0.3), rng()
    lines = family.lines(drawn, 4)
    found = []
    for x, y in family.batch(drawn, lines):
        assert -2 <= x.min() < -1.99 and 1.99 < x.max() <= 2
        noise = y[..., 0] - np.einsum("tnd,td->tn", x, lines[:, :3]) - lines[:, 3:]
        assert abs(noise.mean()) < 0.03 and noise.std() == pytest.approx(0.3, rel=0.05)
        found.append(noise.ravel())
    assert len(np.unique(np.concatenate(found))) == 4 * 900


@pytest.mark.parametrize("tasks, pairs", [(1, 0), (2, 1), (7, 3), (8, 4)])
def test_training_tasks_come_in_mirrored_pairs(tasks, pairs):
    family = LineTasks(2, 3, 4)
    parts, half = family.sample(rng(), tasks, "train"), tasks - pairs
    assert len(parts[0][0]) == tasks
    for x, y in parts:
        np.testing.assert_array_equal(x[half:], x[:pairs])
        # θₜ and 2μ − θₜ are 2μ together, and so are their noises 0
        np.testing.assert_allclose(y[half:] + y[:pairs], 2 * with_one(x[:pairs]) @ family.minimiser[:, None])
        assert len(np.unique(x)) == half * x[0].size  # the others are of their own


@pytest.mark.parametrize("split, pairs", [("val", True), ("test", True), ("train", False)])
def test_other_tasks_are_independent(split, pairs):
    for x, _ in LineTasks(2, 3, 4, pairs=pairs).sample(rng(), 8, split):
        assert len(np.unique(x)) == x.size


def test_a_mirror_image_is_distributed_as_any_task():
    (x, y), _ = LineTasks(1, 1, 1, spread=0.5, noise=0.2).sample(rng(), 40000, "train")
    x, residual = x[:, 0, 0], y[:, 0, 0] - 2 * x[:, 0, 0] - 1
    for part in (slice(20000), slice(20000, None)):
        # y − μ·x̃ has the variance s² (x² + 1) + σ²
        scaled = residual[part] / np.sqrt(0.25 * (x[part] ** 2 + 1) + 0.04)
        assert abs(scaled.mean()) < 0.03 and scaled.std() == pytest.approx(1, rel=0.02)
        assert np.mean(scaled**4) == pytest.approx(3, rel=0.1)


@pytest.mark.parametrize("name", ["features", "shots", "queries"])
@pytest.mark.parametrize("count", [0, -1, 1.5, "5", None])
def test_a_count_is_a_whole_number_of_at_least_1(name, count):
    with pytest.raises(ValueError, match=f"{name}={count!r}; wanted an integer of at least 1"):
        LineTasks(**{name: count})


# ── the minimiser ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("steps", [0, 1, 2, 5])
@pytest.mark.parametrize("features", [1, 4])
def test_the_gradient_is_that_of_maml(features, steps):
    tasks = LineTasks(features, 3, 5).sample(rng(features), 7, "val")
    maml = tm.meta_value_and_grad(linear_loss, inner_lr=0.13, inner_steps=steps)
    A, r = quadratic(tasks, 0.13, steps)
    for seed in range(3):
        theta = rng(seed).normal(size=features + 1)
        np.testing.assert_allclose(vector(maml(nest(theta), tasks)[1]), A @ theta - r, rtol=1e-11, atol=1e-11)
    _, gradient = maml(nest(minimiser(tasks, 0.13, steps)), tasks)
    np.testing.assert_allclose(vector(gradient), 0, atol=1e-12)


@pytest.mark.parametrize("features, steps", [(1, 1), (3, 4)])
def test_a_numerical_minimiser_finds_the_same(features, steps):
    optimize = pytest.importorskip("scipy.optimize")
    tasks = LineTasks(features, 4, 6).sample(rng(), 4, "val")
    maml = tm.meta_value_and_grad(linear_loss, inner_lr=0.1, inner_steps=steps)

    def value_and_gradient(theta):
        value, gradient = maml(nest(theta), tasks)
        return float(value), vector(gradient)

    found = optimize.minimize(value_and_gradient, np.zeros(features + 1), jac=True, method="BFGS", tol=1e-10)
    theta = minimiser(tasks, 0.1, steps)
    np.testing.assert_allclose(found.x, theta, atol=1e-7)
    assert np.abs(theta - LineTasks(features).minimiser).max() > 0.05  # of few tasks it is not the mean of all
    assert np.abs(theta - minimiser(tasks, 0.02, steps)).max() > 0.01  # and depends on α and K
    assert np.abs(theta - minimiser(tasks, 0.1, steps + 3)).max() > 0.01


@given(st.integers(1, 4), st.integers(0, 4), st.floats(0, 0.15), st.floats(0, 2), st.floats(0, 2), st.integers(0, 99))
def test_of_mirrored_pairs_it_is_the_mean_line(features, steps, inner_lr, spread, noise, seed):
    family = LineTasks(features, 5, 8, spread, noise)
    A, r = quadratic(family.sample(rng(seed), 6, "train"), inner_lr, steps)
    np.testing.assert_allclose(A @ family.minimiser, r, atol=1e-10)


def test_of_many_independent_tasks_it_is_nearly_the_mean_line():
    family = LineTasks(2, 4, 4)
    distances = [
        np.linalg.norm(minimiser(family.sample(rng(), tasks, "val"), 0.1, 3) - family.minimiser)
        for tasks in (100, 40000)
    ]
    assert distances[1] < 0.03 < distances[0]


def test_too_few_queries_do_not_determine_it():
    family = LineTasks(3, 5, 1)
    with pytest.raises(np.linalg.LinAlgError):
        minimiser(tree_map(lambda x: 0 * x, family.sample(rng(), 1, "val")), 0.1, 1)


# ── training ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_gradient_descent_on_some_tasks_reaches_their_minimiser():
    tasks = LineTasks(3, 4, 6).sample(rng(), 4, "val")
    maml = tm.compile(tm.meta_value_and_grad(linear_loss, inner_lr=0.1, inner_steps=3), backend="replay")
    theta = nest(np.zeros(4))
    for _ in range(800):
        theta = tree_map(lambda p, g: p - 0.3 * g, theta, maml(theta, tasks)[1])
    wanted = minimiser(tasks, 0.1, 3)
    np.testing.assert_allclose(vector(theta), wanted, atol=1e-6)
    assert np.linalg.norm(wanted - LineTasks(3).minimiser) > 0.1


def trained(out, **options) -> np.ndarray:
    """θ after training, as a vector."""
    loop = pytest.importorskip("tinymaml.runs.loop")
    config = Config.default("lines", **{"validate_every": 1000, **options})
    loop.train(config, out / "run", progress=False)
    return vector(tm.load(out / "run").params["linear0"])


@pytest.mark.parametrize(
    "options",
    [
        dict(iterations=400),
        pytest.param(dict(iterations=400, features=4, inner_lr=0.1), marks=pytest.mark.slow),
        pytest.param(dict(iterations=400, seed=7, noise=2.0, spread=3.0), marks=pytest.mark.slow),
        dict(iterations=400, first_order=True),
        dict(iterations=400, algorithm="reptile", meta_lr=0.5),
        dict(iterations=200, algorithm="joint", meta_lr=0.1),
    ],
    ids=str,
)
def test_training_reaches_the_minimiser(tmp_path, options):
    found = trained(tmp_path, **options)
    np.testing.assert_allclose(found, LineTasks(options.get("features", 1)).minimiser, atol=1e-6)


def test_training_on_independent_tasks_does_not_reach_it(tmp_path):
    found = trained(tmp_path, iterations=400, pairs=False)
    assert 1e-3 < np.linalg.norm(found - LineTasks().minimiser) < 1


# ── baselines ───────────────────────────────────────────────────────────────────────────────────────────────────────


def both(family):
    least_squares, posterior_mean = family.baselines().values()
    return least_squares, posterior_mean


def one_task(family, seed=0):
    return tree_map(lambda x: x[0], family.sample(rng(seed), 1, "test"))


def test_least_squares_is_the_fit_of_the_support_set():
    family = LineTasks(1, 8, 5)
    (xs, ys), (xq, _) = one_task(family)
    predicted = both(family)[0](xs, ys, xq)
    np.testing.assert_allclose(predicted, np.polyval(np.polyfit(xs[:, 0], ys[:, 0], 1), xq), atol=1e-10)


@pytest.mark.parametrize("features, shots", [(1, 5), (6, 3)])
def test_the_posterior_mean_is_bayes_rule(features, shots):
    family = LineTasks(features, shots, 5, spread=0.8, noise=0.4)
    (xs, ys), (xq, _) = one_task(family)
    # the precision form: (X̃ᵀX̃ / σ² + I / s²) θ = X̃ᵀy / σ² + μ / s²
    X = np.column_stack([xs, np.ones(shots)])
    precision = X.T @ X / 0.16 + np.eye(features + 1) / 0.64
    theta = np.linalg.solve(precision, X.T @ ys[:, 0] / 0.16 + family.minimiser / 0.64)
    np.testing.assert_allclose(both(family)[1](xs, ys, xq)[:, 0], np.column_stack([xq, np.ones(5)]) @ theta, atol=1e-10)


def test_baselines_without_noise_or_spread_are_the_line():
    for family in (LineTasks(2, 5, 4, noise=0), LineTasks(2, 5, 4, spread=0, noise=0)):
        (xs, ys), (xq, yq) = one_task(family)
        for predict in both(family):
            np.testing.assert_allclose(predict(xs, ys, xq), yq, atol=1e-9)
    family = LineTasks(2, 5, 4, spread=0)
    (xs, ys), (xq, _) = one_task(family)
    np.testing.assert_allclose(both(family)[1](xs, ys, xq), with_one(xq) @ family.minimiser[:, None], atol=1e-12)


def test_nothing_is_better_than_the_posterior_mean():
    family = LineTasks(2, 4, 10)
    tasks = family.sample(rng(), 2000, "test")
    errors = []
    for predict in both(family):
        each = zip(*tasks[0], *tasks[1], strict=True)
        errors.append(np.mean([(predict(xs, ys, xq) - yq) ** 2 for xs, ys, xq, yq in each]))
    adapted, (xs, ys) = np.tile(family.minimiser[:, None], (2000, 1, 1)), tasks[0]
    for _ in range(4):  # MAML at its minimiser
        X = with_one(xs)
        adapted = adapted - 0.15 * 2 / 4 * X.swapaxes(1, 2) @ (X @ adapted - ys)
    errors.append(np.mean((with_one(tasks[1][0]) @ adapted - tasks[1][1]) ** 2))
    assert errors[1] < min(errors[0], errors[2])


# ── pictures ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module", params=[1, 3])
def run(request, tmp_path_factory):
    out = tmp_path_factory.mktemp("lines")
    pytest.importorskip("matplotlib")
    trained(out, iterations=150, features=request.param, inner_lr=0.1)
    from tinymaml.runs.loop import restore

    return restore(out / "run")


def test_pictures_show_lines_or_predictions_and_the_way_to_the_minimiser(run):
    from tinymaml.families.lines import pictures
    from tinymaml.runs.adaptation import path, task

    features = run.config["features"]
    figures = dict(pictures(run))
    assert list(figures) == ["lines" if features == 1 else "predictions", "minimiser"]
    pairs, independent, end = (line.get_ydata() for line in figures["minimiser"].axes[0].lines[:3])
    theta, wanted = vector(run.meta["linear0"]), run.learner.family.minimiser
    assert np.ravel(end) == pytest.approx(pairs[-1]) == pytest.approx(np.linalg.norm(theta - wanted))
    assert len(pairs) == len(independent) == 151 and pairs[0] == independent[0]
    assert pairs[-1] < 1e-4 < 1e-2 < independent[-1]
    if features == 3:
        support, (xq, yq) = task(run, "test", 2)
        thetas = list(path(run, support, 10))
        for theta, line in zip((thetas[0], thetas[-1]), figures["predictions"].axes[2].lines, strict=False):
            np.testing.assert_array_equal(line.get_xdata(), yq[:, 0])
            layer = theta["linear0"]
            np.testing.assert_allclose(line.get_ydata(), (xq @ layer["w"] + layer["b"])[:, 0])
