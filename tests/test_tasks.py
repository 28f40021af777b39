<<<<<<< HEAD
"""The networks are the papers'."""
=======
"""Sine waves are what the paper says. (Omniglot has a file of its own.)"""
>>>>>>> nn

import numpy as np
import pytest

<<<<<<< HEAD
import tinymaml as tm
from tinymaml.nest import tree_items, tree_leaves, tree_map
from tinymaml.networks.conv import conv
from tinymaml.networks.mlp import mlp
=======
from tinymaml.nest import tree_leaves, tree_map
from tinymaml.tasks.sinusoid import SinusoidTasks, Waves

counts = st.integers(1, 6)
dtypes = st.sampled_from([np.float32, np.float64])
>>>>>>> nn


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


<<<<<<< HEAD
# ── networks ────────────────────────────────────────────────────────────────────────────────────────────────────────

NETWORKS = {
    "sinusoid": (mlp((1,), (40, 40), 1), (1,), 1),
    "omniglot mlp": (mlp((28, 28, 1), (256, 128, 64, 64), 5, norm="batch"), (28, 28, 1), 5),
    "omniglot conv": (conv((28, 28, 1), 64, 5), (28, 28, 1), 5),
    "small conv": (conv((12, 12, 3), 4, 7, blocks=2), (12, 12, 3), 7),
    "miniimagenet conv": (conv((84, 84, 3), 32, 5, pool=True), (84, 84, 3), 5),
}
every = pytest.mark.parametrize("name", NETWORKS)


def size(params) -> int:
    return sum(leaf.size for leaf in tree_leaves(params))


@pytest.mark.parametrize(
    "name, count",
    [
        ("sinusoid", (1 * 40 + 40) + (40 * 40 + 40) + (40 * 1 + 1)),
        ("omniglot conv", (9 * 64 + 3 * 64) + 3 * (9 * 64 * 64 + 3 * 64) + (64 * 5 + 5)),
        ("miniimagenet conv", (9 * 3 * 32 + 3 * 32) + 3 * (9 * 32 * 32 + 3 * 32) + (5 * 5 * 32 * 5 + 5)),
        ("omniglot mlp", (784 + 3) * 256 + (256 + 3) * 128 + (128 + 3) * 64 + (64 + 3) * 64 + (64 + 1) * 5),
    ],
)
def test_networks_have_the_parameters_of_the_papers(name, count):
    assert size(NETWORKS[name][0].init(rng(), np.float32)) == count
    papers = {"sinusoid": 1761, "omniglot conv": 112_261, "omniglot mlp": 247_621, "miniimagenet conv": 32_901}
    assert count == papers[name]


@every
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_dtype_stays_through_forward_and_gradient(name, dtype):
    network, shape, outputs = NETWORKS[name]
    params = network.init(rng(), dtype)
    x = rng(1).standard_normal((3, *shape)).astype(dtype)
    y = network.apply(params, x)
    assert y.shape == (3, outputs) and y.dtype == dtype
    grads = tm.grad(lambda p: np.mean(network.apply(p, x) ** 2))(params)
    for (path, theta), (same, g) in zip(tree_items(params), tree_items(grads), strict=True):
        assert (path, theta.shape, theta.dtype) == (same, g.shape, np.dtype(dtype)) and g.dtype == dtype
        assert np.isfinite(g).all()
        if not (path.endswith("['b']") and "gamma" in params[path.split("'")[1]]):  # a norm takes the bias away again
            assert np.abs(g).max() > 0


@every
def test_the_generator_alone_decides_the_initial_parameters(name):
    network = NETWORKS[name][0]
    first, again, other = (tree_items(network.init(rng(seed), np.float64)) for seed in (1, 1, 2))
    for (path, x), (_, same), (_, y) in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(x, same)
        constant = {"['b']": 0, "['beta']": 0, "['gamma']": 1}.get(path[path.rindex("[") :])
        if constant is None:
            assert (x != y).all()
        else:
            assert (x == constant).all()


@every
def test_a_norm_is_where_it_should_be(name):
    """Before each ReLU or nowhere; never at the output."""
    params = NETWORKS[name][0].init(rng(), np.float32)
    normed = ["gamma" in layer and "beta" in layer for layer in params.values()]
    assert normed == ([False] * 3 if name == "sinusoid" else [True] * (len(params) - 1) + [False])


@every
def test_with_a_norm_the_scale_of_a_hidden_weight_is_no_matter_and_without_it_is(name):
    network, shape, _ = NETWORKS[name]
    params = network.init(rng(), np.float64)
    x = 10 * rng(1).standard_normal((6, *shape))
    before = network.apply(params, x)
    for layer in list(params)[:-1]:
        scaled = params | {layer: params[layer] | {"w": 3 * params[layer]["w"]}}
        difference = np.abs(network.apply(scaled, x) - before).max() / np.abs(before).max()
        assert (difference > 0.1) if name == "sinusoid" else (difference < 0.01)
    last = list(params)[-1]
    tripled = params | {last: tree_map(lambda p: 3 * p, params[last])}
    np.testing.assert_allclose(network.apply(tripled, x), 3 * before, rtol=1e-12)


@every
def test_examples_meet_in_the_norm_only(name):
    network, shape, _ = NETWORKS[name]
    params = network.init(rng(), np.float64)
    x = rng(1).standard_normal((6, *shape))
    alone = network.apply(params, x)[:3] - network.apply(params, x[:3])
    assert (np.abs(alone).max() < 1e-14) if name == "sinusoid" else (np.abs(alone).max() > 1e-3)
    np.testing.assert_allclose(network.apply(params, x[::-1]), network.apply(params, x)[::-1], rtol=1e-9, atol=1e-12)


def test_the_mlp_is_its_formula():
    params = mlp((2, 3), (5, 4), 2).init(rng(), np.float64)
    params = tree_map(lambda p: p + 0.3, params)
    x = rng(1).standard_normal((7, 2, 3))
    a, b, c = params.values()
    hidden = np.maximum(np.maximum(x.reshape(7, 6) @ a["w"] + a["b"], 0) @ b["w"] + b["b"], 0)
    np.testing.assert_allclose(mlp((2, 3), (5, 4), 2).apply(params, x), hidden @ c["w"] + c["b"], rtol=1e-12)


@pytest.mark.parametrize("side, pool", [(28, False), (9, False), (28, True), (16, True)])
def test_the_conv_net_is_its_formula(side, pool):
    network = conv((side, side, 2), 3, 5, pool=pool)
    stride = 1 if pool else 2
    params = tree_map(lambda p: p + 0.2, network.init(rng(), np.float64))
    images = rng(1).standard_normal((4, side, side, 2))
    x = images
    for layer in list(params.values())[:-1]:
        out = -(-x.shape[1] // stride)
        pad = max(stride * (out - 1) + 3 - x.shape[1], 0)  # SAME: what is odd goes below and to the right
        around = (pad // 2, pad - pad // 2)
        padded = np.pad(x, ((0, 0), around, around, (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))  # (n, i, j, c, 3, 3)
        windows = windows[:, ::stride, ::stride]
        z = np.einsum("nijchw,hwcf->nijf", windows, layer["w"]) + layer["b"]
        z = (z - z.mean((0, 1, 2))) / np.sqrt(z.var((0, 1, 2)) + 1e-5)
        x = np.maximum(z * layer["gamma"] + layer["beta"], 0)
        assert x.shape[1:3] == (out, out)
        if pool:
            x = x[:, : out // 2 * 2, : out // 2 * 2]
            x = np.max([x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)], 0)
    wanted = (x.reshape(4, -1) if pool else x.mean((1, 2))) @ params["linear"]["w"] + params["linear"]["b"]
    np.testing.assert_allclose(network.apply(params, images), wanted, rtol=1e-9)


def test_a_conv_net_refuses_images_that_pooling_uses_up():
    with pytest.raises(ValueError, match="4 poolings leave nothing of 84×15 images"):
        conv((84, 15, 3), 32, 5, pool=True)


def test_the_conv_net_halves_the_image_four_times_and_knows_no_size():
    params = NETWORKS["omniglot conv"][0].init(rng(), np.float32)
    assert [params[f"conv{i}"]["w"].shape for i in range(4)] == [(3, 3, 1, 64)] + [(3, 3, 64, 64)] * 3
    assert params["linear"]["w"].shape == (64, 5)  # the mean over what is left of the image
=======
# ── sinusoid ────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(counts, counts, counts, dtypes, st.integers(0, 2**32))
def test_tasks_are_stacked_support_and_query(shots, queries, tasks, dtype, seed):
    family = SinusoidTasks(shots, queries, dtype)
    (xs, ys), (xq, yq) = family.sample(rng(seed), tasks, "train")
    assert xs.shape == ys.shape == (tasks, shots, 1)
    assert xq.shape == yq.shape == (tasks, queries, 1)
    assert {x.dtype for x in (xs, ys, xq, yq)} == {np.dtype(dtype)}
    assert family.input_shape == xs.shape[2:] and family.outputs == ys.shape[-1] and family.metric == "mse"


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
>>>>>>> nn
