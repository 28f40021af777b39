"""Separators are as described, the baselines are logistic regression, and MAML learns where normals lie."""

import csv
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinymaml as tm
from tinymaml import nn
from tinymaml.families import separators
from tinymaml.families.common import binary_classification
from tinymaml.families.separators import SeparatorTasks, centred, logistic, logits, tuned_ridge
from tinymaml.nest import tree_map
from tinymaml.runs.settings import Config

counts = st.integers(1, 6)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# ── what is drawn ───────────────────────────────────────────────────────────────────────────────────────────────────


@given(counts, counts, counts, counts, st.sampled_from([np.float32, np.float64]), st.integers(0, 2**32))
def test_tasks_are_stacked_support_and_query(features, shots, queries, tasks, dtype, seed):
    family = SeparatorTasks(features, 1, shots, queries, dtype=dtype)
    (xs, ys), (xq, yq) = family.sample(rng(seed), tasks, "train")
    assert xs.shape == (tasks, shots, features) and ys.shape == (tasks, shots, 1)
    assert xq.shape == (tasks, queries, features) and yq.shape == (tasks, queries, 1)
    assert {x.dtype for x in (xs, ys, xq, yq)} == {np.dtype(dtype)}
    assert set(ys.flat) | set(yq.flat) <= {0, 1} and family.input_shape == (features,)


def test_a_label_says_on_which_side_a_point_lies():
    family, drawn = SeparatorTasks(dtype=np.float64), rng()
    normals, points = family.boundaries(drawn, 30)
    for x, y in family.batch(drawn, normals, points):
        side = np.einsum("tnd,td->tn", x - points[:, None], normals) > 0
        np.testing.assert_array_equal(y[..., 0], side)


def test_points_are_normal_about_a_normal_point_and_either_label_is_as_likely():
    family, drawn = SeparatorTasks(4, 2, 10, 40), rng()
    normals, points = family.boundaries(drawn, 2000)
    np.testing.assert_allclose(np.cov(points.T), np.eye(4), atol=0.1)
    for x, y in family.batch(drawn, normals, points):
        np.testing.assert_allclose(np.cov((x - points[:, None]).reshape(-1, 4).T), np.eye(4), atol=0.05)
        assert y.mean() == pytest.approx(0.5, abs=0.02)


def test_normals_lie_in_the_subspace_in_any_direction():
    family = SeparatorTasks(10, 2)
    normals, _ = family.boundaries(rng(), 4000)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1)
    inside = normals @ family.subspace
    np.testing.assert_allclose(np.linalg.norm(inside, axis=1), 1)
    share, _ = np.histogram(np.arctan2(*inside.T), 8, (-np.pi, np.pi))
    assert np.abs(share / 4000 - 1 / 8).max() < 0.03
    np.testing.assert_allclose(family.subspace.T @ family.subspace, np.eye(2), atol=1e-12)


def test_the_subspace_is_the_same_for_all_and_leans_on_no_axis():
    a, b = SeparatorTasks(10, 2, 5, 5), SeparatorTasks(10, 2, 20, 7, 0.1)
    np.testing.assert_array_equal(a.subspace, b.subspace)
    assert np.linalg.norm(a.subspace, axis=1).max() < 0.9
    assert np.linalg.matrix_rank(SeparatorTasks(10, 10).boundaries(rng(), 100)[0]) == 10


def test_labels_are_flipped_in_support_and_query():
    family, drawn = SeparatorTasks(5, 2, 300, 300, flips=0.2), rng()
    normals, points = family.boundaries(drawn, 20)
    for x, y in family.batch(drawn, normals, points):
        side = np.einsum("tnd,td->tn", x - points[:, None], normals) > 0
        assert np.mean(y[..., 0] != side) == pytest.approx(0.2, abs=0.02)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(directions=11), "directions=11; wanted at most features=10"),
        (dict(directions=0), "directions=0; wanted an integer of at least 1"),
        (dict(shots=1.5), "shots=1.5; wanted an integer of at least 1"),
        (dict(flips=0.5), "flips=0.5; wanted a probability below 0.5"),
        (dict(flips=-0.1), "flips=-0.1; wanted a probability below 0.5"),
    ],
)
def test_what_cannot_be_drawn_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SeparatorTasks(**options)


def test_the_loss_takes_logits():
    z, y = np.array([[2.0], [-1.0], [0.5], [-3.0]]), np.array([[1.0], [1.0], [0.0], [0.0]])
    loss, share = binary_classification(z, y)
    p = 1 / (1 + np.exp(-z))
    assert loss == pytest.approx(-np.mean(y * np.log(p) + (1 - y) * np.log(1 - p)), rel=1e-12) and share == 0.5
    assert loss == nn.binary_cross_entropy(z, y)


# ── baselines ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("ridge", [0.003, 0.3, 10])
def test_logistic_regression_is_the_minimiser_of_its_loss(ridge):
    optimize = pytest.importorskip("scipy.optimize")
    (xs, ys), _ = SeparatorTasks(4, 2, 8).sample(rng(), 3, "test")
    x = centred(xs.astype(float), xs)
    found = logistic(x, ys, ridge)

    def loss(w, t):
        return len(x[t]) * nn.binary_cross_entropy(x[t] @ w[:, None], ys[t].astype(float)) + ridge / 2 * w @ w

    for t in range(3):
        numerical = optimize.minimize(loss, np.zeros(5), (t,), tol=1e-10).x
        np.testing.assert_allclose(found[t][:, 0], numerical, rtol=1e-3, atol=1e-4)
        assert loss(found[t][:, 0], t) <= loss(numerical, t) + 1e-10


def test_of_one_task_it_gives_what_it_gives_of_many():
    (xs, ys), (xq, _) = SeparatorTasks(4, 2, 8).sample(rng(), 3, "test")
    many = logits(xs, ys, xq, np.eye(4), 0.1)
    for t in range(3):
        np.testing.assert_allclose(logits(xs[t], ys[t], xq[t], np.eye(4), 0.1), many[t])


def test_baselines_learn_from_training_tasks_alone(monkeypatch):
    family, splits = SeparatorTasks(), []
    honest = SeparatorTasks.sample
    few = lambda family, rng, tasks, split: splits.append(split) or honest(family, rng, 20, split)  # noqa: E731
    monkeypatch.setattr(SeparatorTasks, "sample", few)
    family.baselines()
    assert splits and set(splits) == {"train"}


def test_the_ridge_is_the_best_of_its_choices():
    tasks = SeparatorTasks(flips=0.2).sample(rng(), 200, "train")
    (xs, ys), (xq, yq) = tasks
    accuracy = {
        ridge: np.mean((logits(xs, ys, xq, np.eye(10), ridge) > 0) == (yq > 0.5)) for ridge in separators.RIDGES
    }
    best = tuned_ridge(tasks, np.eye(10))
    assert accuracy[best] == max(accuracy.values()) > min(accuracy.values())


def shares(family, tasks=300, seed=5) -> list[float]:
    """The share of right predictions of each baseline."""
    (xs, ys), (xq, yq) = family.sample(rng(seed), tasks, "test")
    return [np.mean((predict(xs, ys, xq) > 0) == (yq > 0.5)) for predict in family.baselines().values()]


@pytest.fixture(scope="module")
def by_default() -> list[float]:
    return shares(SeparatorTasks())


def test_a_prior_of_the_normals_helps_only_where_they_have_something_in_common(by_default):
    alone, prior = by_default
    assert 0.65 < alone < 0.78 and 0.85 < prior < 0.93
    alone, prior = shares(SeparatorTasks(directions=10))
    assert prior == pytest.approx(alone, abs=0.02)


# ── training ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    loop = pytest.importorskip("tinymaml.runs.loop")
    out = tmp_path_factory.mktemp("separators") / "run"
    loop.train(Config.default("separators", iterations=200, validate_every=200), out, progress=False)
    return out


def test_maml_learns_where_normals_lie_and_beats_logistic_regression_of_the_support_set(run, by_default):
    from tinymaml.runs.evaluate import evaluate

    result, family, (alone, _) = evaluate(run, tasks=100), SeparatorTasks(), by_default
    assert result["mean"][10] - result["ci95"][10] > alone + 0.03
    weights = [tm.load(run, i).params["linear0"]["w"] for i in (0, None)]
    before, after = (np.linalg.norm(family.subspace.T @ w) / np.linalg.norm(w) for w in weights)
    assert before < 0.7 and after > 0.9  # the share of the first layer's weights in the subspace


def test_a_trained_network_predicts_labels_0_and_1(run, tmp_path, capsys):
    from tinymaml.cli import main

    (xs, ys), (xq, yq) = tree_map(lambda x: x[0], SeparatorTasks().sample(rng(3), 1, "test"))
    np.savez(tmp_path / "support.npz", x=xs, y=ys)
    np.savez(tmp_path / "query.npz", x=xq)
    given = [str(run), "--support", str(tmp_path / "support.npz"), "--query", str(tmp_path / "query.npz")]
    assert main(["adapt", *given]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    outputs = tm.load(run).adapt(xs, ys).predict(xq)
    assert [row["prediction"] for row in rows] == [str(int(z > 0)) for z in outputs[:, 0]]
    assert np.mean((outputs > 0) == (yq > 0.5)) > 0.6
    assert tm.load(run).adapt(xs, ys.astype(int)).predict(xq).tobytes() == outputs.tobytes()
    assert main(["adapt", *given, "--to", str(tmp_path / "predictions.npz")]) == 0
    with np.load(tmp_path / "predictions.npz") as file:
        np.testing.assert_array_equal(file["prediction"], outputs[:, 0] > 0)
        np.testing.assert_array_equal(file["outputs"], outputs)


@pytest.mark.parametrize("label, seen", [(2, "2"), (-1.0, "-1"), (0.5, "0.5")])
def test_other_labels_are_refused(run, label, seen):
    (xs, ys), _ = tree_map(lambda x: x[0], SeparatorTasks().sample(rng(3), 1, "test"))
    with pytest.raises(ValueError, match=f"y has the label {seen}, wanted 0 or 1"):
        tm.load(run).adapt(xs, np.where(np.arange(10)[:, None] == 4, label, ys))
    with pytest.raises(ValueError, match=r"y has shape \(10,\), wanted \(N, 1\)"):
        tm.load(run).adapt(xs, ys[:, 0])


# ── the picture ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_picture_cuts_along_the_true_normal(run):
    pytest.importorskip("matplotlib")
    from tinymaml.runs.adaptation import measured, task
    from tinymaml.runs.loop import restore

    learned = restore(run)
    ((name, figure),) = separators.pictures(learned)
    assert name == "separators"
    axes = np.array(figure.axes).reshape(2, 4)
    for i in range(4):
        one = task(learned, "test", i)
        metrics = measured(learned, tree_map(lambda x: x[None], one), 10)[0]
        for ax, k, when in ((axes[0, i], 0, "before adaptation"), (axes[1, i], 10, "after 10 steps")):
            assert ax.get_title() == f"{when}: {100 * metrics[k]:.0f} %"
            *dots, boundary = ax.lines
            assert list(boundary.get_xdata()) == [0, 0]
            shown = [(y, label) for y in (one[1][1], one[0][1]) for label in (0, 1)]
            for line, (y, label) in zip(dots, shown, strict=True):
                assert len(line.get_xdata()) == np.sum(y == label)
                assert ((line.get_xdata() > 0) == label).all()
