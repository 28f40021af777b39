"""Each network keeps the protocol, whatever its options; those of the papers are what the papers say."""

from types import SimpleNamespace

import numpy as np
import pytest

import tinymaml as tm
from tinymaml import nn
from tinymaml.nest import tree_items, tree_leaves, tree_map
from tinymaml.networks import NETWORKS, Network
from tinymaml.networks.conv import conv
from tinymaml.networks.embedding import embedding_mlp
from tinymaml.networks.mlp import mlp

VECTORS = SimpleNamespace(input_shape=(3,), outputs=2)
IMAGES = SimpleNamespace(input_shape=(6, 5, 2), outputs=3)
CASES = {  # case: a name in the table, options, a family
    "mlp": ("mlp", dict(hidden=(4, 5)), VECTORS),
    "mlp of images": ("mlp", dict(hidden=(4,)), IMAGES),
    "mlp, no hidden layer": ("mlp", dict(hidden=(), norm="batch"), VECTORS),
    "mlp, batch": ("mlp", dict(hidden=(4, 5), norm="batch"), VECTORS),
    "mlp, layer": ("mlp", dict(hidden=(4, 5), norm="layer"), VECTORS),
    "linear": ("linear", {}, IMAGES),
    "conv": ("conv", dict(filters=4, blocks=2), IMAGES),
    "conv, pool": ("conv", dict(filters=4, blocks=2, pool=True), IMAGES),
    "conv, group": ("conv", dict(filters=4, blocks=2, norm="group", groups=2), IMAGES),
    "conv, layer": ("conv", dict(filters=4, blocks=1, norm="layer", pool=True), IMAGES),
    "conv, none": ("conv", dict(filters=4, blocks=2, norm="none"), IMAGES),
}
WORDS = SimpleNamespace(input_shape=(6,), outputs=3, vocabulary=9)
RATED = SimpleNamespace(input_shape=(6,), outputs=1, vocabulary=9, features=2)
CASES |= {
    "embedding": ("embedding", dict(embed=5), WORDS),
    "embedding, hidden layers, features": ("embedding", dict(embed=4, hidden=(5, 3)), RATED),
}
ACT = {"policy"}  # whose outputs are a distribution's: `test_rl_policies` is about it
NORMED = ["mlp, batch", "conv", "conv, pool"]  # which have batch norms
every = pytest.mark.parametrize("case", CASES)


def without_pool(cases):
    """By default without pooling, whose compiled gradient takes long."""
    return [pytest.param(case, marks=pytest.mark.slow) if case == "conv, pool" else case for case in cases]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def made(case: str) -> Network:
    name, options, family = CASES[case]
    return NETWORKS[name].make(family, NETWORKS[name].Settings(**options))


def begun(case: str, dtype=np.float64):
    """Parameters, none of them 0 or 1."""
    return tree_map(lambda p: p + rng(1).uniform(0.1, 0.5, p.shape).astype(dtype), made(case).init(rng(), dtype))


def examples(case: str, n: int, seed: int = 2, dtype=np.float64):
    family = CASES[case][2]
    if hasattr(family, "vocabulary"):
        weights = rng(seed).uniform(-1, 1, (n, *family.input_shape)) * rng(3).choice(2, (n, *family.input_shape))
        x = {"ids": rng(seed).integers(0, family.vocabulary, weights.shape), "weights": weights.astype(dtype)}
        features = getattr(family, "features", 0)
        return x | ({"features": rng(4).standard_normal((n, features)).astype(dtype)} if features else {})
    return rng(seed).standard_normal((n, *CASES[case][2].input_shape)).astype(dtype)


# ── the protocol ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_each_network_of_the_table_has_a_case():
    assert {name for name, *_ in CASES.values()} == set(NETWORKS) - ACT


@pytest.mark.parametrize("name", sorted(NETWORKS.keys() - ACT))
def test_the_default_options_make_a_network(name):
    family, x = SimpleNamespace(input_shape=(16, 16, 1), outputs=5), np.ones((2, 16, 16, 1), np.float32)
    if name == "embedding":
        family, x = WORDS, examples("embedding", 2, dtype=np.float32)
    network = NETWORKS[name].make(family, NETWORKS[name].Settings())
    assert network.apply(network.init(rng(), np.float32), x).shape == (2, family.outputs)


@every
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_same_generator_gives_the_same_bits(case, dtype):
    first, again = (tree_items(made(case).init(rng(7), dtype)) for _ in range(2))
    assert [path for path, _ in first] == [path for path, _ in again]
    assert all(x.dtype == dtype and x.tobytes() == y.tobytes() for (_, x), (_, y) in zip(first, again, strict=True))


@every
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_apply_is_one_row_per_example_and_keeps_the_dtype(case, dtype):
    y = made(case).apply(begun(case, dtype), examples(case, 4, dtype=dtype))
    assert y.shape == (4, CASES[case][2].outputs) and y.dtype == dtype and np.isfinite(y).all()


@every
def test_apply_is_the_head_after_the_body_and_each_reads_its_own_layers(case):
    network, params, x = made(case), begun(case), examples(case, 4)
    assert set(network.last) < set(params) or len(params) == 1
    inner = {name: layer for name, layer in params.items() if name not in network.last}
    last = {name: params[name] for name in network.last}
    np.testing.assert_array_equal(network.head(last, network.body(inner, x)), network.apply(params, x))


@every
def test_all_parameters_matter(case):
    """But for biases that a batch norm takes away again."""
    network, x = made(case), examples(case, 4)
    grads = tm.grad(lambda p: np.sum(network.apply(p, x) ** 2))(begun(case))
    for path, g in tree_items(grads):
        name = path.split("'")[1]
        removed = path.endswith("['b']") and name in network.norms
        assert np.abs(g).max() < 1e-10 if removed else np.abs(g).max() > 1e-6, path


# ── batch norms ─────────────────────────────────────────────────────────────────────────────────────────────────────


@every
def test_the_norm_is_called_once_for_each_batch_norm_and_for_nothing_else(case):
    network, params, x = made(case), begun(case), examples(case, 4)
    called = []

    def norm(name, x, gamma, beta):
        called.append((name, x.shape[-1]))
        assert gamma is params[name]["gamma"] and beta is params[name]["beta"]
        return nn.batch_norm(x, gamma, beta)

    y = network.apply(params, x, norm)
    assert called == list(network.norms.items())
    assert bool(called) == (case in NORMED)
    np.testing.assert_array_equal(y, network.apply(params, x))  # by default, the statistics of the batch at hand
    np.testing.assert_array_equal(network.body(params, x, norm=norm), network.body(params, x))


def given(statistics: dict):
    return lambda name, x, gamma, beta: nn.batch_norm(x, gamma, beta, **statistics[name])


def of_the_first(n: int):
    return lambda name, x, gamma, beta: nn.batch_norm(x, gamma, beta, first=n)


@pytest.mark.parametrize("case", NORMED)
def test_queries_normalised_with_the_support_set_do_not_see_each_other(case):
    network, params = made(case), begun(case)
    xs, xq = examples(case, 6), 2 * examples(case, 5, seed=3) + 1
    statistics = {}

    def collect(name, x, gamma, beta):
        statistics[name] = dict(zip(("mean", "var"), nn.moments(x), strict=True))
        return nn.batch_norm(x, gamma, beta)

    support = network.apply(params, xs, collect)
    together = network.apply(params, np.concatenate([xs, xq]), of_the_first(6))
    np.testing.assert_allclose(together[:6], support, rtol=1e-10)
    np.testing.assert_allclose(together[6:], network.apply(params, xq, given(statistics)), rtol=1e-10)
    alone = network.apply(params, np.concatenate([xs, xq[:1]]), of_the_first(6))
    np.testing.assert_allclose(together[6], alone[6], rtol=1e-10)
    assert np.abs(together[6:] - network.apply(params, xq)).max() > 0.01  # transductive is something else


@pytest.mark.parametrize("case", ["mlp, layer", "conv, group", "conv, layer", "conv, none", "mlp", "linear"])
def test_without_batch_norm_examples_do_not_see_each_other(case):
    network, params, x = made(case), begun(case), examples(case, 5)
    np.testing.assert_allclose(network.apply(params, x)[:2], network.apply(params, x[:2]), rtol=1e-12)


@pytest.mark.parametrize("case", ["mlp, layer", "conv, group", "conv, layer"])
def test_layer_and_group_norm_undo_the_scale_of_weights(case):
    network, params, x = made(case), made(case).init(rng(), np.float64), 10 * examples(case, 4)
    first = next(iter(params))
    scaled = params | {first: params[first] | {"w": 3 * params[first]["w"]}}
    np.testing.assert_allclose(network.apply(scaled, x), network.apply(params, x), rtol=1e-3)


# ── compiled ────────────────────────────────────────────────────────────────────────────────────────────────────────


def compiled_is_the_reference(f, params, tasks, rtol=1e-10):
    """In machine code, on two sets of tasks."""
    from tinymaml.programs import compiled

    fast = tm.compile(f)
    for part in tasks:
        ours, wanted = fast(params, part), f(params, part)
        for a, b in zip(tree_leaves(ours), tree_leaves(wanted), strict=True):
            np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * max(np.abs(b).max(), 1e-3))
    assert [type(runner) for runner in fast.runners.values()] == [compiled.Machine]
    return fast


def tasks_of(case: str, seed: int, support: int = 4, query: int = 3, count: int = 2):
    family = CASES[case][2]

    def draw(n):
        x = tree_map(lambda leaf: leaf.reshape(count, n, *leaf.shape[1:]), examples(case, count * n, seed))
        return x, rng(n).integers(0, family.outputs, (count, n))

    return draw(support), draw(query)


@pytest.mark.usefixtures("own_cache", "quick_code", "either_way")
class TestCompiled:
    @pytest.mark.parametrize("case", without_pool(CASES))
    def test_a_meta_gradient_is_the_reference(self, case):
        pytest.importorskip("numba")
        network = made(case)
        f = tm.meta_value_and_grad(
            lambda p, x, y: nn.cross_entropy(network.apply(p, x), y), inner_lr=0.05, inner_steps=2
        )
        compiled_is_the_reference(f, begun(case), [tasks_of(case, seed) for seed in (1, 2)])

    @pytest.mark.parametrize("case", without_pool(NORMED))
    def test_statistics_of_the_support_set(self, case):
        """The query holds the support's inputs, too; its loss is that of its own rows."""
        pytest.importorskip("numba")
        network = made(case)

        def loss(params, x, y):
            if not isinstance(x, dict):
                return nn.cross_entropy(network.apply(params, x), y)
            n = x["support"].shape[0]
            rows = np.concatenate([x["support"], x["x"]])
            return nn.cross_entropy(network.apply(params, rows, of_the_first(n))[n:], y)

        def wrapped(seed):
            (xs, ys), (xq, yq) = tasks_of(case, seed)
            return (xs, ys), ({"x": xq, "support": xs}, yq)

        f = tm.meta_value_and_grad(loss, inner_lr=0.05, inner_steps=1)
        compiled_is_the_reference(f, begun(case), [wrapped(1), wrapped(2)])

    def test_given_statistics_collected_moments_and_dropout(self):
        pytest.importorskip("numba")
        network = made("mlp, batch")

        def loss(params, x, y):
            seen = {}

            def norm(name, h, gamma, beta):
                seen[name] = nn.moments(h)
                h = nn.batch_norm(h, gamma, beta, **x["given"]) if name == "linear0" else nn.batch_norm(h, gamma, beta)
                return nn.dropout(h, x["mask"], 0.25) if name == "linear0" else h

            return nn.cross_entropy(network.apply(params, x["x"], norm), y), seen

        def wrapped(seed, of_mask):
            draw = rng(seed)

            def inputs(x):
                statistics = {"mean": draw.standard_normal((2, 4)), "var": draw.uniform(0.5, 2, (2, 4))}
                return {"x": x, "given": statistics, "mask": of_mask(draw.random((2, x.shape[1], 4)) >= 0.25)}

            return tuple((inputs(x), y) for x, y in tasks_of("mlp, batch", seed))

        f = tm.meta_value_and_grad(loss, inner_lr=0.05, inner_steps=1, has_aux=True)
        for of_mask in np.asarray, lambda mask: mask.astype(float):
            compiled_is_the_reference(f, begun("mlp, batch"), [wrapped(1, of_mask), wrapped(2, of_mask)])

    def test_what_a_users_network_reads_is_an_input(self):
        """A program is made anew when a number that `apply` reads has changed."""
        pytest.importorskip("numba")
        read = {"scale": 1.0}
        network = Network(made("linear").init, lambda p, x: read["scale"] * made("linear").apply(p, x))
        f = tm.meta_value_and_grad(lambda p, x, y: nn.cross_entropy(network.apply(p, x), y), inner_lr=0.1)
        fast = tm.compile(f)
        params, tasks = begun("linear"), tasks_of("linear", 1)
        for read["scale"] in (1.0, 2.0):
            np.testing.assert_allclose(fast(params, tasks)[0], f(params, tasks)[0], rtol=1e-12)


# ── what is refused ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: NETWORKS["conv"].make(SimpleNamespace(input_shape=(1,), outputs=1), NETWORKS["conv"].Settings()),
         r"conv wants images \(height, width, channels\); this family's input_shape is \(1,\)"),
        (lambda: conv((28, 28), 4, 5), r"conv wants images .* input_shape is \(28, 28\)"),
        (lambda: conv((84, 15, 3), 32, 5, pool=True), "4 poolings leave nothing of 84×15 images"),
        (lambda: conv((8, 8, 1), 4, 5, blocks=0), "conv: blocks is 0, wanted an integer of at least 1"),
        (lambda: conv((8, 8, 1), 0, 5), "conv: filters is 0, wanted"),
        (lambda: conv((8, 8, 1), 4, 5, norm=True), "conv: norm is True, wanted one of batch, group, layer, none"),
        (lambda: conv((8, 8, 1), 4, 5, norm="group", groups=3), "conv: 3 groups do not divide 4 filters"),
        (lambda: mlp((1,), (4, 0), 1), r"mlp: hidden\[1\] is 0, wanted an integer of at least 1"),
        (lambda: mlp((1,), (4.0,), 1), r"mlp: hidden\[0\] is 4.0, wanted"),
        (lambda: mlp((1,), (4,), 0), "mlp: outputs is 0, wanted"),
        (lambda: mlp((1,), (4,), 1, norm="group"), "mlp: norm is 'group', wanted one of none, batch, layer"),
        (lambda: NETWORKS["mlp"].make(VECTORS, NETWORKS["mlp"].Settings(statistics="running")),
         "mlp: statistics is 'running', which only batch norm has; norm is 'none'"),
        (lambda: NETWORKS["conv"].make(IMAGES, NETWORKS["conv"].Settings(norm="group", statistics="support")),
         "conv: statistics is 'support', which only batch norm has; norm is 'group'"),
        (lambda: NETWORKS["conv"].make(IMAGES, NETWORKS["conv"].Settings(statistics="batch")),
         "conv: statistics is 'batch', wanted one of transductive, support, running"),
        *((lambda name=name: NETWORKS[name].make(WORDS, NETWORKS[name].Settings()),
           f"{name} wants an array per example; this family's examples are ids with weights, .* embedding takes")
          for name in ("mlp", "linear", "conv")),
        (lambda: NETWORKS["embedding"].make(IMAGES, NETWORKS["embedding"].Settings()),
         r"embedding wants words .*; this family's input_shape is \(6, 5, 2\)"),
        (lambda: embedding_mlp(0, 4, (), 5), "embedding: vocabulary is 0, wanted an integer of at least 1"),
        (lambda: embedding_mlp(9, 4, (3, 0), 5), r"embedding: hidden\[1\] is 0, wanted"),
        (lambda: embedding_mlp(9, 4, (), 5, features=-1), "embedding: features is -1, wanted"),
    ],
)  # fmt: skip
def test_a_misuse_says_what_was_seen_and_what_was_wanted(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# ── the networks of the papers ──────────────────────────────────────────────────────────────────────────────────────

PAPERS = {
    "sinusoid": (mlp((1,), (40, 40), 1), (1,), 1),
    "omniglot mlp": (mlp((28, 28, 1), (256, 128, 64, 64), 5, norm="batch"), (28, 28, 1), 5),
    "omniglot conv": (conv((28, 28, 1), 64, 5), (28, 28, 1), 5),
    "small conv": (conv((12, 12, 3), 4, 7, blocks=2), (12, 12, 3), 7),
    "miniimagenet conv": (conv((84, 84, 3), 32, 5, pool=True), (84, 84, 3), 5),
}
each = pytest.mark.parametrize("name", PAPERS)


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
    assert size(PAPERS[name][0].init(rng(), np.float32)) == count
    papers = {"sinusoid": 1761, "omniglot conv": 112_261, "omniglot mlp": 247_621, "miniimagenet conv": 32_901}
    assert count == papers[name]


@each
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_dtype_stays_through_forward_and_gradient(name, dtype):
    network, shape, outputs = PAPERS[name]
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


@each
def test_the_generator_alone_decides_the_initial_parameters(name):
    network = PAPERS[name][0]
    first, again, other = (tree_items(network.init(rng(seed), np.float64)) for seed in (1, 1, 2))
    for (path, x), (_, same), (_, y) in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(x, same)
        constant = {"['b']": 0, "['beta']": 0, "['gamma']": 1}.get(path[path.rindex("[") :])
        if constant is None:
            assert (x != y).all()
        else:
            assert (x == constant).all()


@each
def test_a_norm_is_where_it_should_be(name):
    """Before each ReLU or nowhere; never at the output."""
    params = PAPERS[name][0].init(rng(), np.float32)
    normed = ["gamma" in layer and "beta" in layer for layer in params.values()]
    assert normed == ([False] * 3 if name == "sinusoid" else [True] * (len(params) - 1) + [False])


@each
def test_with_a_norm_the_scale_of_a_hidden_weight_is_no_matter_and_without_it_is(name):
    network, shape, _ = PAPERS[name]
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


@each
def test_examples_meet_in_the_norm_only(name):
    network, shape, _ = PAPERS[name]
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


def test_the_embedding_is_its_formula():
    case = "embedding, hidden layers, features"
    network, params, x = made(case), begun(case), examples(case, 7)
    rows = [sum(w * params["words"]["table"][i] for i, w in zip(*bag, strict=True))
            for bag in zip(x["ids"], x["weights"], strict=True)]  # fmt: skip
    h = np.concatenate([np.stack(rows), x["features"]], 1)
    for layer in ("linear0", "linear1"):
        h = np.maximum(h @ params[layer]["w"] + params[layer]["b"], 0)
    wanted = h @ params["linear2"]["w"] + params["linear2"]["b"]
    np.testing.assert_allclose(network.apply(params, x), wanted, rtol=1e-12)


def test_words_without_weight_are_padding():
    network, params, x = made("embedding"), begun("embedding"), examples("embedding", 7)
    other = np.where(x["weights"] == 0, (x["ids"] + 1) % WORDS.vocabulary, x["ids"])
    assert (other != x["ids"]).any()
    np.testing.assert_array_equal(network.apply(params, x | {"ids": other}), network.apply(params, x))


def test_an_embedding_begins_with_the_inner_products_of_bags_of_words():
    network = embedding_mlp(500, 4096, (), 5)
    params, x = network.init(rng(), np.float64), examples("embedding", 8)
    bags = np.zeros((8, 500))
    np.add.at(bags, (np.arange(8)[:, None], x["ids"]), x["weights"])
    sums = network.body(params, x)
    np.testing.assert_allclose(sums @ sums.T, bags @ bags.T, atol=0.1)
    assert np.abs(bags @ bags.T).max() > 1


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


def test_the_conv_net_halves_the_image_four_times_and_knows_no_size():
    params = PAPERS["omniglot conv"][0].init(rng(), np.float32)
    assert [params[f"conv{i}"]["w"].shape for i in range(4)] == [(3, 3, 1, 64)] + [(3, 3, 64, 64)] * 3
    assert params["linear"]["w"].shape == (64, 5)  # the mean over what is left of the image
