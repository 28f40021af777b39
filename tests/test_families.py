"""Every family keeps the protocol; the built-in ones, and a user's. What a family draws has tests of its own."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import user_family
from small_data import ACTED_IN, RECURRENT

from tinymaml import nn
from tinymaml.families import FAMILIES, Metric, as_metric
from tinymaml.families.common import MSE, SPLITS, accuracy, check_counts, classification, count, masked_mean, regression
from tinymaml.nest import tree_leaves, tree_map
from tinymaml.runs.settings import Config

EVERY = {**FAMILIES, "user_family": user_family}
every = pytest.mark.parametrize("name", EVERY)
with_examples = pytest.mark.parametrize("name", [name for name in EVERY if name not in ACTED_IN])
built_in = pytest.mark.parametrize("name", FAMILIES)


@pytest.fixture
def made(small_data):
    """A function: the family of that name, tiny, on data that fit."""

    def make(name: str):
        options = small_data(name) if name in FAMILIES else dict(shots=2, queries=3)
        return EVERY[name].make(EVERY[name].Settings(**options))

    return make


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@built_in
def test_settings_are_options_with_a_help_and_their_defaults_are_valid(name):
    settings = FAMILIES[name].Settings()
    assert dataclasses.is_dataclass(settings) and settings.__dataclass_params__.frozen
    for option in dataclasses.fields(settings):
        assert option.metadata["help"]
        value, choices, least = getattr(settings, option.name), option.metadata["choices"], option.metadata["least"]
        assert choices is None or value in choices
        assert least is None or value >= least


@every
def test_defaults_are_by_the_names_of_real_options_of_other_parts(name):
    from tinymaml.algorithms import ALGORITHMS
    from tinymaml.networks import NETWORKS
    from tinymaml.runs.outer import Settings as Outer

    classes = [Outer, *(part.Settings for table in (ALGORITHMS, NETWORKS) for part in table.values())]
    options = {field.name: field for settings in classes for field in dataclasses.fields(settings)}
    for option, value in EVERY[name].defaults.items():
        if option in ("network", "algorithm"):
            assert value in {"network": NETWORKS, "algorithm": ALGORITHMS}[option]
        else:
            assert type(value) is type(options[option].default)


def rows(x) -> list[bytes]:
    """Every example of one task, as bytes."""
    return [b"".join(leaf[i].tobytes() for leaf in tree_leaves(x)) for i in range(len(tree_leaves(x)[0]))]


def targets(y) -> np.ndarray:
    """The targets of a task, or of tasks, without the mask."""
    return y["y"] if isinstance(y, dict) else y


@with_examples
@pytest.mark.parametrize("split", SPLITS)
def test_tasks_are_stacked_and_fit_the_network_and_the_loss(name, split, made):
    family = made(name)
    for x, y in family.sample(rng(), 4, split):
        (examples,) = {leaf.shape[1] for leaf in tree_leaves((x, y))}
        assert all(len(leaf) == 4 and np.isfinite(leaf).all() for leaf in tree_leaves((x, y)))
        if isinstance(x, np.ndarray):
            assert x.shape == (4, examples, *family.input_shape) and x.dtype.kind == "f"
        if isinstance(y, dict):
            assert y.keys() == {"y", "mask"} and y["mask"].shape == (4, examples) and set(y["mask"].flat) <= {0, 1}
        y = tree_map(lambda leaf: leaf[0], y)
        if targets(y).dtype.kind == "i":
            assert targets(y).shape == (examples,) and set(targets(y).tolist()) <= set(range(family.outputs))
        else:
            assert targets(y).shape == (examples, family.outputs)
        for prediction in (np.zeros((examples, family.outputs)), rng().normal(size=(examples, family.outputs))):
            loss, metric = family.loss(prediction, y)
            assert np.shape(loss) == np.shape(metric) == () and np.isfinite(loss) and np.isfinite(metric)


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in ACTED_IN])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floating_arrays_take_the_dtype_that_is_set(name, dtype, made):
    family = made(name)
    family.dtype = np.dtype(dtype)
    floating = [x for x in tree_leaves(family.sample(rng(), 2, "train")) if x.dtype.kind == "f"]
    assert floating and {x.dtype for x in floating} == {np.dtype(dtype)}


@every
@pytest.mark.parametrize("tasks", [1, 5])
def test_there_are_as_many_tasks_as_asked_for(name, tasks, made):
    assert {len(x) for x in tree_leaves(made(name).sample(rng(), tasks, "val"))} == {tasks}


@every
def test_the_generator_alone_decides(name, made):
    first, again, other = (made(name).sample(rng(seed), 3, "train") for seed in (1, 1, 2))
    tree_map(np.testing.assert_array_equal, first, again)
    assert [x.tobytes() for x in tree_leaves(first)] != [x.tobytes() for x in tree_leaves(other)]


@with_examples
def test_no_example_is_in_support_and_query_or_in_two_splits(name, made):
    family = made(name)
    seen = {split: family.sample(rng(i), 40, split) for i, split in enumerate(SPLITS)}
    examples = {split: set() for split in SPLITS}
    for split, ((xs, ys), (xq, yq)) in seen.items():
        for t in range(40):
            (support, s), (query, q) = (tree_map(lambda x, t=t: x[t], part) for part in ((xs, ys), (xq, yq)))
            real = [set(np.array(rows(x), object)[real_of(y)]) for x, y in ((support, s), (query, q))]
            assert not real[0] & real[1]
            examples[split] |= real[0] | real[1]
    a, b, c = examples.values()
    assert name in RECURRENT or not (a & b or a & c or b & c)


def real_of(y) -> np.ndarray:
    """Which examples of a task are no padding."""
    return y["mask"].astype(bool) if isinstance(y, dict) else np.ones(len(y), bool)


@built_in
def test_an_unknown_split_and_no_tasks_are_refused(name, made):
    family = made(name)
    with pytest.raises(ValueError, match="unknown split 'tset'; wanted one of train, val, test"):
        family.sample(rng(), 1, "tset")
    with pytest.raises(ValueError, match="tasks=0; wanted at least 1"):
        family.sample(rng(), 0, "train")


@with_examples
def test_a_metric_is_complete_and_measures_what_it_says(name, made):
    family = made(name)
    metric = as_metric(family.metric)
    assert isinstance(metric, Metric) and metric.name.isidentifier() and metric.label and metric.scale > 0
    _, (_, y) = tree_map(lambda x: x[0], family.sample(rng(), 1, "test"))
    if targets(y).dtype.kind == "i":
        right = 9.0 * np.eye(family.outputs)[targets(y)]
        wrong = -right
    elif metric.name == "accuracy":  # targets of 0 and 1, predictions are logits
        right = 9.0 * (2 * targets(y) - 1)
        wrong = -right
    else:
        right = targets(y)
        wrong = right + rng().normal(size=right.shape)
    good, bad = (float(family.loss(prediction, y)[1]) for prediction in (right, wrong))
    assert good < bad if metric.better == "lower" else good > bad
    assert float(family.loss(right, y)[0]) < float(family.loss(wrong, y)[0])
    if metric.chance is not None:
        assert min(good, bad) < metric.chance < max(good, bad)


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if hasattr(family, "published")])
def test_published_figures_can_be_drawn(name):
    published = FAMILIES[name].published(FAMILIES[name].Settings())
    assert published
    for label, figures in published:
        assert label and all(step >= 0 and value > 0 for step, value in figures.items())


def test_omniglot_asks_for_its_images():
    with pytest.raises(ValueError, match="omniglot needs its images: --data PATH .`tinymaml data omniglot --to PATH`"):
        FAMILIES["omniglot"].make(FAMILIES["omniglot"].Settings())


def test_a_family_is_imported_without_the_libraries_that_it_may_need_later():
    code = (
        "import sys, tinymaml.families; print(*({'PIL', 'tqdm', 'matplotlib', 'numba', 'scipy'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


# ── what families share ─────────────────────────────────────────────────────────────────────────────────────────────


def test_a_metric_may_be_a_dict_and_gets_a_label():
    assert as_metric({"name": "squared_error"}) == Metric("squared_error", label="squared error")
    assert as_metric(MSE) is not None and as_metric(MSE) == MSE
    assert as_metric(accuracy(5)) == Metric("accuracy", " %", 100, "higher", 0.2, "accuracy", "accuracy")


@pytest.mark.parametrize(
    "metric, message",
    [
        ("mse", "a metric has name, unit, scale, better, chance, label, picture, and at least a name; seen 'mse'"),
        ({"unit": "m"}, "and at least a name; seen unit"),
        ({"name": "mse", "units": "m"}, "seen name, units"),
        ({"name": ""}, "the name of a metric is '', wanted a string"),
        ({"name": "mse", "better": "less"}, "metric mse: better is 'less', wanted 'lower' or 'higher'"),
    ],
)
def test_a_metric_that_is_none_is_refused(metric, message):
    with pytest.raises(ValueError, match=message):
        as_metric(metric)


def test_the_usual_losses_are_their_formulas():
    prediction, y = rng().normal(size=(2, 6, 1))
    assert regression(prediction, y) == (pytest.approx(np.mean((prediction - y) ** 2), rel=1e-12),) * 2
    logits, labels = np.array([[2.0, 0, 1], [0, 1, 3], [1, 0, 0]]), np.array([0, 1, 0])
    loss, share = classification(logits, labels)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert loss == pytest.approx(-np.log(p[range(3), labels]).mean(), rel=1e-12) and share == pytest.approx(2 / 3)
    assert loss == nn.cross_entropy(logits, labels)


@pytest.mark.parametrize("count", [0, -1, 1.5, "5", None, True])
def test_counts_are_whole_numbers_of_at_least_1(count):
    with pytest.raises(ValueError, match=f"shots={count!r}; wanted an integer of at least 1"):
        check_counts(queries=1, shots=count)


@pytest.mark.parametrize("count", [1, 0, -1, 1.5, "5", None, True])
def test_a_task_has_at_least_two_classes(count):
    with pytest.raises(ValueError, match=f"ways={count!r}; wanted an integer of at least 2"):
        check_counts(shots=1, ways=count)


@pytest.mark.parametrize("family", [name for name in FAMILIES if "ways" in Config.default(name).options()])
def test_one_class_is_refused_in_every_family_that_has_classes(family):
    with pytest.raises(ValueError, match="ways is 1, wanted at least 2"):
        Config.default(family, ways=1)
    for name in ("shots", "queries"):
        with pytest.raises(ValueError, match=f"{name} is 0, wanted at least 1"):
            Config.default(family, **{name: 0})


@pytest.mark.parametrize("shape", [(5,), (5, 1), (5, 2, 3)])
def test_the_mean_over_examples_does_not_see_what_fills_up(shape):
    values = rng().normal(size=shape)
    mask = np.array([1.0, 0, 1, 1, 0])
    assert masked_mean(values, mask) == pytest.approx(values[mask == 1].mean(), rel=1e-12)
    assert masked_mean(values, 0 * mask) == 0
    assert count({"y": values, "mask": mask}) == 3 and count(values) == 5
