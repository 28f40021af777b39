"""Sine waves are what the paper says."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinymaml.families import sinusoid
from tinymaml.families.common import MSE
from tinymaml.families.sinusoid import SinusoidTasks, Waves
from tinymaml.nest import tree_leaves, tree_map

counts = st.integers(1, 6)
dtypes = st.sampled_from([np.float32, np.float64])


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@given(counts, counts, counts, dtypes, st.integers(0, 2**32))
def test_tasks_are_stacked_support_and_query(shots, queries, tasks, dtype, seed):
    family = SinusoidTasks(shots, queries, dtype)
    (xs, ys), (xq, yq) = family.sample(rng(seed), tasks, "train")
    assert xs.shape == ys.shape == (tasks, shots, 1)
    assert xq.shape == yq.shape == (tasks, queries, 1)
    assert {x.dtype for x in (xs, ys, xq, yq)} == {np.dtype(dtype)}
    assert family.input_shape == xs.shape[2:] and family.outputs == ys.shape[-1] and family.metric == MSE


def test_amplitude_phase_and_x_fill_the_ranges_of_the_paper_evenly():
    family = SinusoidTasks(10, 10, np.float64)
    (xs, ys), (xq, yq) = family.sample(rng(), 2000, "train")
    waves = family.waves(rng(), 2000)
    assert waves.amplitude.shape == waves.phase.shape == (2000, 1, 1)
    for x, low, high in [(waves.amplitude, 0.1, 5), (waves.phase, 0, np.pi), (xs, -5, 5), (xq, -5, 5)]:
        assert low <= x.min() < low + 0.01 * (high - low) and high - 0.01 * (high - low) < x.max() <= high
        share, _ = np.histogram(x, 10, (low, high))
        assert np.abs(share / x.size - 0.1).max() < 0.03
    assert np.abs(ys).max() <= 5 and np.abs(yq).max() <= 5
    assert abs(np.corrcoef(waves.amplitude.ravel(), waves.phase.ravel())[0, 1]) < 0.1


@given(counts, counts, counts, st.integers(0, 2**32))
def test_y_is_exactly_the_wave(shots, queries, tasks, seed):
    family = SinusoidTasks(shots, queries, np.float64)
    drawn = rng(seed)
    waves = family.waves(drawn, tasks)
    for x, y in family.batch(drawn, waves):
        np.testing.assert_array_equal(y, waves.amplitude * np.sin(x - waves.phase), strict=True)


def test_float32_is_float64_rounded():
    double, single = (SinusoidTasks(4, 6, dtype).sample(rng(), 3) for dtype in (np.float64, np.float32))
    tree_map(lambda d, s: np.testing.assert_array_equal(d.astype(np.float32), s, strict=True), double, single)


def test_support_and_query_are_of_one_wave_and_tasks_of_different_ones():
    (xs, ys), (xq, yq) = SinusoidTasks(20, 30, np.float64).sample(rng(), 10)
    found = []
    for t in range(10):
        # A sin(x − φ) = a sin x + b cos x, with a = A cos φ and b = −A sin φ
        basis = lambda x: np.concatenate([np.sin(x), np.cos(x)], 1)  # noqa: E731
        ab = np.linalg.lstsq(basis(xs[t]), ys[t], rcond=None)[0]
        np.testing.assert_allclose(basis(xq[t]) @ ab, yq[t], atol=1e-12)
        amplitude, phase = np.hypot(*ab)[0], np.arctan2(-ab[1], ab[0])[0]
        assert 0.1 <= amplitude <= 5 and 0 <= phase <= np.pi
        found.append((amplitude, phase))
    assert len(np.unique(np.round(found, 6), axis=0)) == 10


def test_a_wave_is_a_function_of_x():
    wave = Waves(np.array([[[2.0]]]), np.array([[[np.pi / 2]]]))
    np.testing.assert_allclose(wave(np.array([0, np.pi / 2, np.pi])).ravel(), [-2, 0, 2], atol=1e-15)


def test_no_point_is_in_support_and_query():
    (xs, _), (xq, _) = SinusoidTasks(50, 50, np.float64).sample(rng(), 20)
    assert len(np.unique(np.concatenate([xs.ravel(), xq.ravel()]))) == 2000


def test_the_generator_alone_decides():
    family = SinusoidTasks()
    first, again, other = (family.sample(rng(seed), 3, "train") for seed in (1, 1, 2))
    tree_map(np.testing.assert_array_equal, first, again)
    assert all((a != b).all() for a, b in zip(tree_leaves(first), tree_leaves(other), strict=True))


@pytest.mark.parametrize("name", ["shots", "queries"])
@pytest.mark.parametrize("count", [0, -1, 1.5, "5", None])
def test_a_count_of_points_is_a_whole_number_of_at_least_1(name, count):
    with pytest.raises(ValueError, match=f"{name}={count!r}; wanted an integer of at least 1"):
        SinusoidTasks(**{name: count})


@pytest.mark.parametrize("dtype", [np.int64, bool])
def test_points_are_floating(dtype):
    with pytest.raises(ValueError, match=f"dtype={np.dtype(dtype)}; wanted a floating type"):
        SinusoidTasks(dtype=dtype)


@pytest.mark.parametrize("tasks", [0, -1])
def test_no_tasks_cannot_be_drawn(tasks):
    with pytest.raises(ValueError, match=f"tasks={tasks}; wanted at least 1"):
        SinusoidTasks().sample(rng(), tasks)


def test_an_unknown_split_is_named():
    for split in ("train", "val", "test"):
        SinusoidTasks().sample(rng(), 1, split)
    with pytest.raises(ValueError, match="unknown split 'tset'; wanted one of train, val, test"):
        SinusoidTasks().sample(rng(), 1, "tset")


def test_the_figures_of_the_paper_belong_to_five_points():
    maml, pretrained = sinusoid.published(sinusoid.Settings())
    assert maml == ("MAML, Finn et al., 2017", {1: 0.67, 5: 0.38, 10: 0.35})
    assert pretrained == ("pretrained, Finn et al., 2017", {1: 2.41, 5: 2.23, 10: 2.19})
    assert sinusoid.published(sinusoid.Settings(shots=10)) == []
