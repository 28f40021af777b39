"""Tasks of unequal size are padded, and padding counts for nothing: the meta-gradient is that of the tasks as they are.

Padded tasks, stacked and compiled, are held against the same tasks without padding, one by one and by the reference,
with a loss that knows no mask. What stands in the padding is large, and drawn at random.
"""

import numpy as np
import pytest

pytest.importorskip("numba")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

import tinymaml as tm  # noqa: E402
from tinymaml.algorithms import ALGORITHMS, joint, takes_any  # noqa: E402
from tinymaml.families.common import masked_mean  # noqa: E402
from tinymaml.nest import tree_items, tree_map  # noqa: E402
from tinymaml.networks.embedding import embedding_mlp  # noqa: E402
from tinymaml.networks.mlp import mlp  # noqa: E402
from tinymaml.programs.runners import Machine  # noqa: E402
from tinymaml.runs.learner import make_loss  # noqa: E402

TASKS, SUPPORT, QUERY, INPUTS, WORDS = 4, 4, 3, 2, 7
OPTIONS = {"inner_steps": 2, "inner_lr": 0.1}
MORE = {"imaml": {"solver_steps": 3, "strength": 5.0}}
SIZES = st.lists(st.tuples(st.integers(0, SUPPORT), st.integers(1, QUERY)), min_size=TASKS, max_size=TASKS)

pytestmark = pytest.mark.usefixtures("own_cache", "quick_code", "either_way")


# ── the two losses, of padded tasks and of tasks as they are ────────────────────────────────────────────────────────


def masked(prediction, y):
    error = prediction - y["y"]
    return masked_mean(error**2, y["mask"]), masked_mean(np.abs(error), y["mask"])


def plain(prediction, y):
    error, rows = prediction - y, max(len(y), 1)
    return np.sum(error**2) / rows, np.sum(np.abs(error)) / rows


class Trained:
    """An algorithm with a network: the meta-gradient of padded tasks, compiled, and that of one task as it is."""

    def __init__(self, algorithm: str, words: bool = False, measure=masked):
        chosen = ALGORITHMS[algorithm]
        known = chosen.Settings.__dataclass_fields__
        options = {name: x for name, x in {**OPTIONS, **MORE.get(algorithm, {})}.items() if name in known}
        self.words, settings = words, chosen.Settings(**options)

        def make(shape=(INPUTS,)):
            return embedding_mlp(WORDS, 3, (4,), 1, features=1) if words else mlp(shape, (5,), 1)

        network = chosen.network(make, (INPUTS,), settings) if hasattr(chosen, "network") else make()
        self.meta = chosen.init(network.init(np.random.default_rng(0), np.float64), settings)
        self.shared = tuple(chosen.shared(0, settings)) if hasattr(chosen, "shared") else ()

        def of_task(measure):
            loss = make_loss(network, measure)
            return lambda meta, support, query, *shared: chosen.of_task(loss, meta, support, query, settings, *shared)

        self.compiled = tm.compile(tm.mean_over_tasks(of_task(measure)))
        self.one = of_task(plain)

    def examples(self, rng: np.random.Generator, rows: int, scale: float = 1.0) -> tuple:
        """Random x and y."""
        y = scale * rng.normal(size=(rows, 1))
        if not self.words:
            return scale * rng.normal(size=(rows, INPUTS)), y
        ids, (weights, features) = rng.integers(WORDS, size=(rows, 5)), scale * rng.normal(size=(2, rows, 5))
        return {"ids": ids, "weights": weights, "features": features[:, :1]}, y

    def padded(self, rng: np.random.Generator, part: tuple, rows: int) -> tuple:
        """The examples, and below them rows of anything, up to so many."""
        size = len(part[1])
        x, y = tree_map(lambda a, b: np.concatenate([a, b]), part, self.examples(rng, rows - size, 1000.0))
        return x, {"y": y, "mask": (np.arange(rows) < size).astype(float)}

    def check(self, sizes: list, seed: int = 0) -> None:
        """Raises: AssertionError: padded tasks have another loss, metric or gradient than the tasks as they are."""
        rng = np.random.default_rng(seed)
        tasks = [tuple(self.examples(rng, rows) for rows in size) for size in sizes]
        both = [(self.padded(rng, s, SUPPORT), self.padded(rng, q, QUERY)) for s, q in tasks]
        stacked = tree_map(lambda *rows: np.stack(rows), *both)
        (value, metrics), gradient = self.compiled(self.meta, stacked, *self.shared)
        found = [self.one(self.meta, *task, *self.shared) for task in tasks]
        np.testing.assert_allclose(value, np.mean([value for (value, _), _ in found]), rtol=1e-10)
        np.testing.assert_allclose(metrics, [aux for (_, aux), _ in found], rtol=1e-10)
        mean = tree_map(lambda *each: np.mean(each, 0), *(gradient for _, gradient in found))
        for (path, a), (_, b) in zip(tree_items(gradient), tree_items(mean), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-11 * max(1, np.abs(b).max(initial=0)), err_msg=path)


@pytest.fixture
def trained():
    """A function: `Trained`, made once for the same arguments."""
    made: dict = {}

    def get(*key) -> Trained:
        if key not in made:
            made[key] = Trained(*key)
        return made[key]

    return get


# Those that want classes have no regression.
REGRESSION = [name for name, algorithm in ALGORITHMS.items() if takes_any(algorithm)]
EDGES = [[(SUPPORT, QUERY)] * TASKS, [(1, 1)] * TASKS, [(0, 1), (SUPPORT, 1), (0, QUERY), (1, 2)]]


# ── padding counts for nothing ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("algorithm", REGRESSION)
def test_padded_tasks_have_the_gradient_of_the_tasks_as_they_are(algorithm, trained):
    @settings(max_examples=2)
    @given(SIZES, st.integers(0, 99))
    def holds(sizes, seed):
        trained(algorithm).check(sizes, seed)

    for sizes in EDGES:
        trained(algorithm).check(sizes)
    holds()
    assert {type(runner) for runner in trained(algorithm).compiled.runners.values()} == {Machine}


@pytest.mark.parametrize("algorithm", ["maml", "reptile", *(
    pytest.param(name, marks=pytest.mark.slow) for name in ("anil", "meta-sgd", "imaml", "joint")
)])  # fmt: skip
def test_so_it_is_with_words(algorithm, trained):
    @settings(max_examples=4)
    @given(SIZES, st.integers(0, 99))
    def holds(sizes, seed):
        trained(algorithm, True).check(sizes, seed)

    holds()
    assert {type(runner) for runner in trained(algorithm, True).compiled.runners.values()} == {Machine}


def test_a_task_without_support_examples_does_not_adapt(trained):
    maml, rng = trained("maml"), np.random.default_rng(0)
    query = [maml.padded(rng, maml.examples(rng, QUERY), QUERY) for _ in range(TASKS)]
    support = [maml.padded(rng, maml.examples(rng, 0), SUPPORT) for _ in range(TASKS)]
    stacked = tree_map(lambda *rows: np.stack(rows), *zip(support, query, strict=True))
    (_, after), _ = maml.compiled(maml.meta, stacked)
    p = maml.meta
    for metric, (x, y) in zip(after, query, strict=True):
        h = np.maximum(x @ p["linear0"]["w"] + p["linear0"]["b"], 0) @ p["linear1"]["w"] + p["linear1"]["b"]
        assert metric == pytest.approx(np.mean(np.abs(h - y["y"])), rel=1e-12)


# ── and these tests would see it, if it did ─────────────────────────────────────────────────────────────────────────


def over_all_rows(prediction, y):
    error = prediction - y["y"]
    return np.mean(error**2), masked_mean(np.abs(error), y["mask"])


def of_all_rows_in_number(prediction, y):
    error = (prediction - y["y"]) * y["mask"][:, None]
    return np.mean(error**2), masked_mean(np.abs(error), y["mask"])


@pytest.mark.parametrize("wrong", [over_all_rows, of_all_rows_in_number])
def test_a_loss_that_counts_padding_is_seen(wrong):
    made = Trained("maml", False, wrong)
    made.check(EDGES[0])  # without padding it is right
    with pytest.raises(AssertionError, match="Not equal"):
        made.check(EDGES[1])


def test_joint_training_that_counts_padding_is_seen(monkeypatch):
    monkeypatch.setattr(joint, "count", lambda y: len(y["y"]) if isinstance(y, dict) else len(y))
    made = Trained("joint")
    made.check(EDGES[0])
    with pytest.raises(AssertionError, match="Not equal"):
        made.check(EDGES[2])
