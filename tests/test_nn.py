"""Layers and losses: exact at every order, equal to their closed forms, stable in the tails, definite at the kinks."""

import inspect

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinymaml as tm
from tinymaml import check_grads, grad, nn, value_and_grad, vjp

RNG = np.random.default_rng(0)
IMAGES = RNG.standard_normal((2, 5, 4, 2))
FILTERS = RNG.standard_normal((3, 2, 2, 3))
LOGITS = RNG.standard_normal((3, 4))
LABELS = np.array([0, 3, 1])
MASK = np.array([[True, False, True, True], [False, True, True, False], [True, True, False, True]])


def close(ours, wanted, rtol=1e-13):
    np.testing.assert_allclose(ours, wanted, rtol=rtol, atol=rtol * np.max(np.abs(wanted), initial=0))


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


# ── derivatives ─────────────────────────────────────────────────────────────────────────────────────────────────────

# function: f, arguments.  Linear ones are squared, so that there is a second derivative
CASES = {
    "linear": (lambda x, w, b: nn.linear(x, w, b) ** 2, (LOGITS, LOGITS.T, LOGITS[:, 0])),
    "linear, no bias, more axes": (lambda x, w: nn.linear(x, w) ** 2, (LOGITS.reshape(3, 2, 2), LOGITS[:2])),
    "conv2d": (lambda x, w: nn.conv2d(x, w) ** 2, (IMAGES[:1], FILTERS)),
    "conv2d, tiny": (lambda x, w: nn.conv2d(x, w, stride=2) ** 2, (IMAGES[:1, :3, :2, :1], FILTERS[:2, :, :1, :1])),
    "conv2d, stride 2, valid": (lambda x, w: nn.conv2d(x, w, 2, "VALID") ** 2, (IMAGES[:1], FILTERS)),
    "conv2d, padding 2": (lambda x, w: nn.conv2d(x, w, 3, 2) ** 2, (IMAGES[:1], FILTERS)),
    "batch_norm": (nn.batch_norm, (LOGITS,)),
    "batch_norm, γ and β": (nn.batch_norm, (LOGITS, RNG.standard_normal(4), RNG.standard_normal(4))),
    "batch_norm, images": (nn.batch_norm, (IMAGES[:, :2, :2], np.array([1.0, 2]))),
    "batch_norm, of the first": (lambda x: nn.batch_norm(x, first=2), (LOGITS,)),
    "batch_norm, of the first, γ and β": (
        lambda *args: nn.batch_norm(*args, first=1), (IMAGES[:, :2, :2], np.array([1.0, 2]), np.array([0.5, -1]))
    ),
    "batch_norm, mean and var": (
        lambda x, mean, var: nn.batch_norm(x, mean=mean, var=var) ** 2, (LOGITS, LOGITS[0], 1 + LOGITS[1] ** 2)
    ),
    "moments": (nn.moments, (LOGITS,)),
    "moments, images": (lambda x: [m**2 for m in nn.moments(x)], (IMAGES[:, :2, :2],)),
    "layer_norm": (nn.layer_norm, (LOGITS,)),
    "layer_norm, γ and β": (nn.layer_norm, (LOGITS.reshape(3, 1, 4), np.arange(1.0, 5), LOGITS[0])),
    "group_norm": (lambda x: nn.group_norm(x, 2), (LOGITS[:2],)),
    "group_norm, images, γ and β": (
        lambda x, *scaled: nn.group_norm(x, 2, *scaled), (LOGITS.reshape(1, 1, 3, 4), np.arange(1.0, 5), LOGITS[0])
    ),
    "dropout": (lambda x: nn.dropout(x, MASK, 0.4) ** 3, (LOGITS,)),
    "dropout, numbers": (lambda x: nn.dropout(x, MASK[:, :1] * 1.0, 0.4) ** 3, (LOGITS,)),
    "max_pool2d": (lambda x: nn.max_pool2d(x) ** 2, (IMAGES,)),
    "max_pool2d, split": (lambda x: nn.max_pool2d(x, 2, "split") ** 2, (IMAGES,)),
    "avg_pool2d": (lambda x: nn.avg_pool2d(x) ** 2, (IMAGES,)),
    "embedding": (lambda table: nn.embedding(table, np.array([[0, 2], [2, 1]])) ** 2, (LOGITS,)),
    "relu": (lambda x: nn.relu(x) ** 3, (LOGITS,)),
    "sigmoid": (nn.sigmoid, (LOGITS,)),
    "softplus": (nn.softplus, (LOGITS,)),
    "softmax": (lambda x: nn.softmax(x, 1), (LOGITS,)),
    "softmax, all": (lambda x: nn.softmax(x, None), (LOGITS,)),
    "log_softmax": (lambda x: nn.log_softmax(x, 0), (LOGITS,)),
    "logsumexp": (nn.logsumexp, (LOGITS,)),
    "logsumexp, weights": (lambda x, b: nn.logsumexp(x, -1, b * b, keepdims=True), (LOGITS, LOGITS[0])),
    "logsumexp, axes": (lambda x: nn.logsumexp(x, (0, 2)), (LOGITS.reshape(3, 2, 2),)),
    "mse": (nn.mse, (LOGITS, LOGITS[::-1] + 1)),
    "cross_entropy": (nn.cross_entropy, (LOGITS, LABELS)),
    "cross_entropy, more axes": (nn.cross_entropy, (LOGITS.reshape(3, 2, 2), np.array([[0, 1], [1, 1], [0, 0]]))),
    "binary_cross_entropy": (nn.binary_cross_entropy, (LOGITS, RNG.random((3, 4)))),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_derivatives_are_exact(case):
    f, args = CASES[case]
    check_grads(f, args, order=3)


def test_each_layer_and_loss_has_a_case():
    initialisers = {"zeros", "normal", "truncated_normal", "glorot_uniform", "he_normal"}
    own = nn.__name__, "tinymaml.layers", "tinymaml.normalise"
    functions = {name for name, f in vars(nn).items() if inspect.isfunction(f) and f.__module__ in own}
    public = {name for name in functions if not name.startswith("_")}
    assert public - initialisers == {case.split(",")[0] for case in CASES}


@pytest.mark.parametrize("case", CASES)
def test_float32_stays_float32(case):
    f, args = CASES[case]
    args = tuple(a.astype(np.float32) if a.dtype == np.float64 else a for a in args)
    value, grads = value_and_grad(lambda x: sum(np.sum(y) for y in tm.tree_leaves(f(x, *args[1:]))))(args[0])
    assert value.dtype == grads.dtype == np.float32
    assert all(y.dtype == np.float32 for y in tm.tree_leaves(f(*args)))


# ── convolution ─────────────────────────────────────────────────────────────────────────────────────────────────────


def naive_conv2d(x, w, stride, padding):
    """The definition, element by element."""
    (height, width, _, out), pads = w.shape, []
    for n, k in zip(x.shape[1:3], w.shape, strict=False):
        if padding == "SAME":  # ⌈n / stride⌉ out; the smaller half before
            total = max((int(np.ceil(n / stride)) - 1) * stride + k - n, 0)
            pads.append((total // 2, total - total // 2))
        else:
            pads.append((0, 0) if padding == "VALID" else (padding, padding))
    x = np.pad(x, ((0, 0), *pads, (0, 0)))
    rows, columns = ((n - k) // stride + 1 for n, k in zip(x.shape[1:3], (height, width), strict=True))
    z = np.empty((len(x), rows, columns, out))
    for n, i, j, o in np.ndindex(z.shape):
        z[n, i, j, o] = np.sum(x[n, i * stride : i * stride + height, j * stride : j * stride + width] * w[..., o])
    return z


@given(
    n=st.integers(1, 2), sides=st.tuples(st.integers(1, 7), st.integers(1, 7)), channels=st.integers(1, 3),
    filters=st.tuples(st.integers(1, 4), st.integers(1, 4)), out=st.integers(1, 3), stride=st.integers(1, 4),
    padding=st.sampled_from(["SAME", "VALID", 0, 1, 2]), seed=st.integers(0, 1000),
)  # fmt: skip
def test_conv2d_is_its_definition_and_bilinear(n, sides, channels, filters, out, stride, padding, seed):
    rng = np.random.default_rng(seed)
    x, w = rng.standard_normal((n, *sides, channels)), rng.standard_normal((*filters, channels, out))
    around = 0 if padding == "VALID" else padding
    if padding != "SAME" and any(side + 2 * around < k for side, k in zip(sides, filters, strict=True)):
        with pytest.raises(ValueError, match="do not fit"):
            nn.conv2d(x, w, stride, padding)
        return
    z, pullback = vjp(lambda x, w: nn.conv2d(x, w, stride, padding), x, w)
    close(z, naive_conv2d(x, w, stride, padding), rtol=1e-12)
    g = rng.standard_normal(z.shape)
    # ⟨g, conv(x, w)⟩ = ⟨x̄, x⟩ = ⟨w̄, w⟩
    size = np.sum(np.abs(g * z))
    assert all(abs(np.sum(g * z) - np.sum(bar * a)) <= 1e-12 * size for bar, a in zip(pullback(g), (x, w), strict=True))


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize(("sides", "filters"), [((5, 6), (3, 3)), ((6, 5), (2, 4)), ((7, 1), (5, 2)), ((2, 8), (3, 1))])
def test_same_is_what_jax_pads(sides, filters, stride):
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    x, w = RNG.standard_normal((2, *sides, 2)), RNG.standard_normal((*filters, 2, 3))
    how = dict(window_strides=(stride, stride), dimension_numbers=("NHWC", "HWIO", "NHWC"))
    for padding in "SAME", "VALID":
        if padding == "SAME" or all(n >= k for n, k in zip(sides, filters, strict=True)):
            close(nn.conv2d(x, w, stride, padding), jax.lax.conv_general_dilated(x, w, padding=padding, **how), 1e-12)


# ── pooling ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("sides", [(4, 6), (5, 7), (3, 3)])
def test_pooling_takes_whole_windows_and_drops_the_rest(sides, size):
    x = RNG.standard_normal((2, *sides, 3))
    rows, columns = (n // size for n in sides)
    at = lambda i: slice(i * size, (i + 1) * size)  # noqa: E731
    windows = [[x[:, at(i), at(j)] for j in range(columns)] for i in range(rows)]
    for pool, reduce in (nn.max_pool2d, np.max), (nn.avg_pool2d, np.mean):
        wanted = np.stack([np.stack([reduce(w, (1, 2)) for w in row], 1) for row in windows], 1)
        close(pool(x, size), wanted)
        slope = grad(lambda x, pool=pool: np.sum(pool(x, size)))(x)
        assert not slope[:, rows * size :].any() and not slope[:, :, columns * size :].any()
        close(slope.sum((1, 2)), np.full((2, 3), float(rows * columns)))


def test_pooling_ties():
    slope = lambda **how: grad(lambda x: np.sum(nn.max_pool2d(x, **how)))(np.zeros((1, 4, 4, 1)))[0, :2, :2, 0]  # noqa: E731
    np.testing.assert_array_equal(slope(), [[1, 0], [0, 0]])
    np.testing.assert_array_equal(slope(ties="split"), np.full((2, 2), 0.25))
    x = np.array([[0.0, 5, 5, 5]]).reshape(1, 2, 2, 1)
    np.testing.assert_array_equal(grad(lambda x: np.sum(nn.max_pool2d(x)))(x).ravel(), [0, 1, 0, 0])
    shared = grad(lambda x: np.sum(nn.max_pool2d(x, ties="split")))(x).ravel()
    np.testing.assert_array_equal(shared, [0, 1 / 3, 1 / 3, 1 / 3])


# ── closed forms ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_losses_have_their_textbook_gradients():
    p, onehot = softmax(LOGITS), np.eye(4)[LABELS]
    value, g = value_and_grad(nn.cross_entropy)(LOGITS, LABELS)
    close(value, -np.mean(np.log(p[np.arange(3), LABELS])))
    close(g, (p - onehot) / 3)
    v = RNG.standard_normal(LOGITS.shape)
    # ∇² v = (p ⊙ v − p ⟨p, v⟩) / n
    close(tm.hvp(lambda z: nn.cross_entropy(z, LABELS), (LOGITS,), v), p * (v - np.sum(p * v, -1, keepdims=True)) / 3)
    target = RNG.random((3, 4))
    close(grad(nn.mse)(LOGITS, target), 2 * (LOGITS - target) / 12)
    close(grad(nn.binary_cross_entropy)(LOGITS, target), (1 / (1 + np.exp(-LOGITS)) - target) / 12)


def test_batch_norm_whitens_and_its_gradient_is_orthogonal_to_what_it_removes():
    x = 5 + 3 * RNG.standard_normal((4, 3, 3, 2))
    y, pullback = vjp(lambda x: nn.batch_norm(x, eps=0.0), x)
    close(y.mean((0, 1, 2)) + 1, np.ones(2))
    close(y.var((0, 1, 2)), np.ones(2))
    (g,) = pullback(RNG.standard_normal(x.shape))
    assert np.max(np.abs(g.sum((0, 1, 2)))) < 1e-14 * np.sum(np.abs(g))
    assert np.max(np.abs((g * y).sum((0, 1, 2)))) < 1e-13 * np.sum(np.abs(g))
    close(nn.batch_norm(x, 2.0 * np.ones(2), np.ones(2), eps=0.0), 2 * y + 1)
    close(nn.batch_norm(np.ones((3, 2))), np.zeros((3, 2)))  # a constant channel


# ── normalisation, dropout ──────────────────────────────────────────────────────────────────────────────────────────


def test_moments_are_numpys_and_what_batch_norm_normalises_with():
    for x in (LOGITS, IMAGES):
        over = tuple(range(x.ndim - 1))
        mean, var = nn.moments(x)
        close(mean, x.mean(over))
        close(var, x.var(over))
        np.testing.assert_array_equal(nn.batch_norm(x, mean=mean, var=var), nn.batch_norm(x))


def test_the_first_examples_give_the_statistics_of_all():
    first, rest = 3 * RNG.standard_normal((3, 2, 2, 2)) + 1, RNG.standard_normal((5, 2, 2, 2))
    gamma, beta = np.array([0.5, 2]), np.array([1.0, -1])
    mean, var = nn.moments(first)
    together = nn.batch_norm(np.concatenate([first, rest]), gamma, beta, first=3)
    close(together[:3], nn.batch_norm(first, gamma, beta))
    close(together[3:], nn.batch_norm(rest, gamma, beta, mean=mean, var=var))
    close(nn.batch_norm(first, gamma, beta, first=3), nn.batch_norm(first, gamma, beta))
    # what comes after the first does not see the others, and the first do not see it
    slope = grad(lambda x: np.sum(nn.batch_norm(x, gamma, beta, first=3)[4] ** 2))(np.concatenate([first, rest]))
    assert np.abs(slope[:3]).min() > 0 and np.abs(slope[4]).min() > 0
    assert not slope[3].any() and not slope[5:].any()


def test_layer_and_group_norm_are_their_formulas():
    x = 5 + 3 * RNG.standard_normal((4, 3, 5, 6))
    close(nn.layer_norm(x), (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5))
    for groups in (1, 2, 3, 6):
        wanted = np.empty(x.shape)
        for n, g in np.ndindex(4, groups):
            of_group = x[n, :, :, (of := slice(g * 6 // groups, (g + 1) * 6 // groups))]
            wanted[n, :, :, of] = (of_group - of_group.mean()) / np.sqrt(of_group.var() + 1e-5)
        close(nn.group_norm(x, groups), wanted, 1e-12)
    rows = RNG.standard_normal((4, 6))
    close(nn.group_norm(rows, 1, np.arange(6.0), np.ones(6)), nn.layer_norm(rows, np.arange(6.0), np.ones(6)), 1e-12)


def test_dropout_keeps_the_mean():
    rng, x = np.random.default_rng(0), np.full((100, 1000), 2.0)
    for rate in (0.0, 0.3, 0.9):
        mask = rng.random(x.shape) >= rate
        y = nn.dropout(x, mask, rate)
        assert set(np.unique(y)) <= {0.0, 2 / (1 - rate)}
        assert abs(y.mean() - 2) <= 5 * y.std() / np.sqrt(y.size)
        np.testing.assert_array_equal(nn.dropout(x, mask.astype(int), rate), y)
        np.testing.assert_array_equal(grad(lambda x, m=mask, r=rate: np.sum(nn.dropout(x, m, r)))(x), y / 2)
    np.testing.assert_array_equal(nn.dropout(x, np.ones((100, 1), bool), 0), x)


def in_torch(f, args):
    """f's value on PyTorch tensors, the gradient of Σ f³, and the gradient of Σ of its squares: of second order."""
    torch = pytest.importorskip("torch")
    args = [torch.tensor(a, requires_grad=True) for a in args]
    y = f(torch.nn.functional, *args)
    grads = torch.autograd.grad((y**3).sum(), args, create_graph=True)
    second = torch.autograd.grad(sum((g**2).sum() for g in grads), args)
    return [x.detach().numpy() for x in (y, *grads, *second)]


def in_ours(f, args):
    first = grad(lambda args: np.sum(f(*args) ** 3))
    second = grad(lambda args: sum(np.sum(g**2) for g in first(args)))
    return [f(*args), *first(tuple(args)), *second(tuple(args))]


SCALE, SHIFT = np.arange(1.0, 5), np.arange(4) - 1.0
PICTURES = np.random.default_rng(1).standard_normal((3, 2, 5, 4))


@pytest.mark.parametrize(
    ("ours", "torchs", "args"),
    {
        "batch_norm, mean and var": (
            lambda x, g, b: nn.batch_norm(x, g, b, mean=SHIFT, var=SCALE),
            lambda f, x, g, b: f.batch_norm(x, *map(x.new_tensor, (SHIFT, SCALE)), g, b, training=False),
            (LOGITS, SCALE, SHIFT),
        ),
        "batch_norm": (
            nn.batch_norm,
            lambda f, x, g, b: f.batch_norm(x.permute(0, 3, 1, 2), None, None, g, b, True).permute(0, 2, 3, 1),
            (PICTURES, SCALE, SHIFT),
        ),
        "layer_norm": (nn.layer_norm, lambda f, x, g, b: f.layer_norm(x, (4,), g, b), (PICTURES, SCALE, SHIFT)),
        "layer_norm, no γ and β": (nn.layer_norm, lambda f, x: f.layer_norm(x, (4,)), (LOGITS,)),
        "group_norm": (
            lambda x, g, b: nn.group_norm(x, 2, g, b),
            lambda f, x, g, b: f.group_norm(x.permute(0, 3, 1, 2), 2, g, b).permute(0, 2, 3, 1),
            (PICTURES, SCALE, SHIFT),
        ),
        "group_norm, one group": (
            lambda x: nn.group_norm(x, 1), lambda f, x: f.layer_norm(x, tuple(x.shape[1:])), (PICTURES,)
        ),
    }.values(),
)  # fmt: skip
def test_normalisation_is_pytorchs_to_second_order(ours, torchs, args):
    for a, b in zip(in_ours(ours, args), in_torch(torchs, args), strict=True):
        close(a, b, 1e-10)


def test_embedding_gathers_rows_and_adds_their_gradients():
    ids = np.array([[0, 2, 2], [2, 1, 0]])
    close(nn.embedding(LOGITS, ids), LOGITS[ids])
    np.testing.assert_array_equal(grad(lambda t: np.sum(nn.embedding(t, ids)))(LOGITS)[:, 0], [2, 1, 3])


# ── the tails ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_cross_entropy_is_stable():
    z = np.array([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4], [1e4, 1e4, 1e4]])
    value, g = value_and_grad(nn.cross_entropy)(z, np.array([1, 2, 0]))
    close(value, (2e4 + np.log(2) + np.log(3)) / 3)
    close(g, np.array([[1, -1, 0], [0, 0.5, -0.5], [-2 / 3, 1 / 3, 1 / 3]]) / 3)
    assert np.isfinite(tm.hvp(lambda z: nn.cross_entropy(z, np.array([1, 2, 0])), (z,), np.ones((3, 3)))).all()
    close(value_and_grad(nn.cross_entropy)(z + 1e6, np.array([1, 2, 0]))[0], value)  # shifting changes nothing


@pytest.mark.parametrize(
    ("x", "sigmoid", "softplus"),
    [
        (0.0, 0.5, np.log(2)),
        (-700.0, np.exp(-700.0), np.exp(-700.0)),  # denormals are near: 1e-304
        (700.0, 1.0, 700.0),
        (-30.0, 9.357622968839299e-14, 9.357622968839735e-14),
        (30.0, 0.9999999999999064, 30.000000000000093576),
        (-1e4, 0.0, 0.0),
        (1e4, 1.0, 1e4),
    ],
)
def test_sigmoid_and_softplus_are_precise_in_both_tails(x, sigmoid, softplus):
    close(nn.softplus(np.array(x)), softplus)
    close(nn.sigmoid(np.array(x)), sigmoid, rtol=1e-12)  # exp(−700) doubles the rounding of 700
    close(grad(nn.softplus)(x), sigmoid, rtol=1e-12)
    other = nn.sigmoid(np.array(-x))
    close(grad(nn.sigmoid)(x), sigmoid * other, rtol=1e-12)
    close(grad(grad(nn.sigmoid))(x), sigmoid * other * (other - sigmoid), rtol=1e-12)


@pytest.mark.parametrize(
    ("x", "y", "value", "slope"),
    [
        (0.0, 0.5, np.log(2), 0.0),
        (700.0, 1.0, np.exp(-700.0), -np.exp(-700.0)),
        (-700.0, 0.0, np.exp(-700.0), np.exp(-700.0)),
        (700.0, 0.0, 700.0, 1.0),
        (-700.0, 1.0, 700.0, -1.0),
        (-1e4, 1.0, 1e4, -1.0),
    ],
)
def test_binary_cross_entropy_is_precise_in_both_tails(x, y, value, slope):
    ours, g = value_and_grad(nn.binary_cross_entropy)(np.array([x]), np.array([y]))
    close(ours, value)
    close(g, [slope], rtol=1e-12)


# ── the kinks: the table in `ops` ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("f", "slope"),
    {
        "maximum": (lambda x: np.maximum(x, 0), 0.5),
        "maximum, other side": (lambda x: np.maximum(0, x), 0.5),
        "minimum": (lambda x: np.minimum(x, 0), 0.5),
        "maximum, tie asked for": (lambda x: tm.ops.maximum(x, 0, tie=1), 1),
        "maximum, tie asked for, other side": (lambda x: tm.ops.maximum(0, x, tie=1), 0),
        "clip below": (lambda x: np.clip(x, 0, 1), 0.5),
        "clip above": (lambda x: np.clip(x, -1, 0), 0.5),
        "max(x, −x)": (lambda x: np.maximum(x, -x), 0),
        "abs": (np.abs, 0),
        "sign": (np.sign, 0),
        "relu": (nn.relu, 0),
        "relu, slope asked for": (lambda x: nn.relu(x, at_zero=0.25), 0.25),
        "max": (lambda x: np.max(np.stack([x, 0 * x + 0, x - 1])), 0.5),  # x ties with the constant 0
        "min": (lambda x: np.min(np.stack([x, 0 * x + 0, x + 1])), 0.5),
        "max, first": (lambda x: tm.ops.max(np.stack([x, 2 * x]), ties="first"), 1),
        "max, split": (lambda x: tm.ops.max(np.stack([x, 2 * x]), ties="split"), 1.5),
    }.values(),
)
@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_slopes_at_kinks_are_those_of_the_table(f, slope, zero):
    assert grad(f)(zero) == slope
    assert grad(grad(f))(zero) == 0


def test_ties_over_two_axes_share_or_go_to_the_first_row_by_row():
    x = np.array([[1.0, 3], [3, 3]])
    np.testing.assert_array_equal(grad(np.max)(x), np.array([[0, 1], [1, 1]]) / 3)
    np.testing.assert_array_equal(grad(lambda x: tm.ops.max(x, ties="first"))(x), [[0, 1], [0, 0]])


def test_roots_have_no_slope_at_zero_and_norms_have_slope_zero():
    with np.errstate(divide="ignore", invalid="ignore"):
        assert not np.isfinite(grad(np.sqrt)(0.0))
        for f in (np.linalg.norm, lambda x: np.linalg.norm(x) ** 2, lambda x: np.exp(-(np.linalg.norm(x) ** 2))):
            np.testing.assert_array_equal(grad(f)(np.zeros(2)), np.zeros(2))


# ── initialisers ────────────────────────────────────────────────────────────────────────────────────────────────────

INITIALISERS = {  # initialiser: its function of (rng, shape, dtype), its standard deviation, its bound
    "zeros": (lambda rng, shape, dtype: nn.zeros(shape, dtype), 0, 0),
    "normal": (lambda rng, shape, dtype: nn.normal(rng, shape, 0.3, dtype), 0.3, np.inf),
    "truncated_normal": (lambda rng, shape, dtype: nn.truncated_normal(rng, shape, 0.3, dtype), 0.3 * 0.8796257, 0.6),
    "glorot_uniform": (nn.glorot_uniform, np.sqrt(2 / (3 * 3 * (20 + 50))), np.sqrt(6 / (3 * 3 * (20 + 50)))),
    "he_normal": (nn.he_normal, np.sqrt(2 / (3 * 3 * 20)), np.inf),
}


@pytest.mark.parametrize("name", INITIALISERS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_initialisers_have_their_moments_bounds_and_dtype(name, dtype):
    make, std, bound = INITIALISERS[name]
    shape = (3, 3, 20, 50)
    init = lambda rng, shape: make(rng, shape, dtype=dtype)  # noqa: E731
    x = init(np.random.default_rng(0), shape)
    assert x.shape == shape and x.dtype == dtype
    assert abs(x.mean()) <= 5 * std / np.sqrt(x.size)
    assert abs(x.std() - std) <= 5 * std / np.sqrt(x.size)
    assert np.max(np.abs(x)) <= bound * (1 + 1e-6)
    np.testing.assert_array_equal(x, init(np.random.default_rng(0), shape))
    assert std == 0 or not np.array_equal(x, init(np.random.default_rng(1), shape))


def test_the_fan_of_a_matrix_is_its_rows():
    assert np.max(np.abs(nn.glorot_uniform(np.random.default_rng(0), (1000, 200)))) <= np.sqrt(6 / 1200)
    assert abs(nn.he_normal(np.random.default_rng(0), (1000, 200)).std() / np.sqrt(2 / 1000) - 1) < 0.01


# ── what is refused ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: nn.mse(np.ones(4), np.ones((4, 1))), ValueError, r"mse.*\(4,\).*\(4, 1\)"),
        (lambda: nn.mse(np.ones((4, 1)), 1.0), ValueError, r"mse.*\(4, 1\).*\(\)"),
        (lambda: nn.binary_cross_entropy(np.ones(4), np.ones((4, 1))), ValueError, r"binary.*\(4,\).*\(4, 1\)"),
        (lambda: nn.cross_entropy(LOGITS, np.array([0, 1])), ValueError, r"\(3, 4\).*\(3,\).*\(2,\)"),
        (lambda: nn.cross_entropy(LOGITS, np.array([[0], [1], [2]])), ValueError, r"\(3, 4\).*\(3,\).*\(3, 1\)"),
        (lambda: nn.cross_entropy(np.array(1.0), np.array(0)), ValueError, r"logits of shape \(\)"),
        (lambda: nn.cross_entropy(LOGITS, np.array([0, 1, 4])), ValueError, "labels lie in 0 … 4, wanted 0 … 3"),
        (lambda: nn.cross_entropy(LOGITS, np.array([0, 1, -1])), ValueError, "labels lie in -1 … 1, wanted 0 … 3"),
        (lambda: nn.cross_entropy(LOGITS, np.array([0.0, 1, 2])), TypeError, "labels have dtype float64, wanted int"),
        (lambda: nn.cross_entropy(LOGITS, np.array([True] * 3)), TypeError, "labels have dtype bool, wanted integers"),
        (lambda: nn.embedding(LOGITS, np.array([3])), ValueError, "ids lie in 3 … 3, wanted 0 … 2"),
        (lambda: nn.embedding(LOGITS, np.array([-1])), ValueError, "ids lie in -1"),
        (lambda: nn.embedding(LOGITS, np.array([1.0])), TypeError, "ids have dtype float64"),
        (lambda: nn.linear(LOGITS, np.ones((3, 2))), ValueError, r"linear.*\(3, 4\).*\(3, 2\)"),
        (lambda: nn.conv2d(IMAGES, np.ones((3, 3, 1, 4))), ValueError, r"conv2d.*\(2, 5, 4, 2\).*\(3, 3, 1, 4\)"),
        (lambda: nn.conv2d(IMAGES[0], FILTERS), ValueError, r"conv2d.*\(5, 4, 2\).*\(N, H, W, in\)"),
        (lambda: nn.conv2d(IMAGES, FILTERS, stride=0), ValueError, "stride is 0"),
        (lambda: nn.conv2d(IMAGES, FILTERS, stride=1.5), ValueError, "stride is 1.5"),
        (lambda: nn.conv2d(IMAGES, FILTERS, padding="same"), ValueError, 'padding is \'same\', wanted "SAME"'),
        (lambda: nn.conv2d(IMAGES, FILTERS, padding=-1), ValueError, "padding is -1"),
        (lambda: nn.conv2d(IMAGES[:, :2], FILTERS, padding="VALID"), ValueError, r"\(3, 2\) do not fit.*\(2, 4\)"),
        (lambda: nn.max_pool2d(IMAGES, 5), ValueError, r"max_pool2d.*\(2, 5, 4, 2\).*size.* 5"),
        (lambda: nn.avg_pool2d(IMAGES, 0), ValueError, r"avg_pool2d.*size.* 0"),
        (lambda: nn.avg_pool2d(IMAGES[0]), ValueError, r"avg_pool2d.*\(5, 4, 2\)"),
        (lambda: nn.max_pool2d(IMAGES, 2.5), ValueError, r"max_pool2d.*size.* 2.5"),
        (lambda: nn.max_pool2d(IMAGES, ties="last"), ValueError, "ties is 'last'"),
        (lambda: nn.batch_norm(np.ones(3)), ValueError, r"batch_norm.*\(3,\)"),
        (lambda: nn.batch_norm(LOGITS, first=0), ValueError, "first is 0, wanted an integer in 1 … 3"),
        (lambda: nn.batch_norm(LOGITS, first=4), ValueError, "first is 4, wanted an integer in 1 … 3"),
        (lambda: nn.batch_norm(LOGITS, first=True), ValueError, "first is True, wanted an integer"),
        (lambda: nn.batch_norm(LOGITS, first=2.0), ValueError, "first is 2.0, wanted an integer"),
        (lambda: nn.batch_norm(LOGITS, mean=np.ones(4)), ValueError, "given mean; wanted first, or both mean and var"),
        (lambda: nn.batch_norm(LOGITS, var=np.ones(4)), ValueError, "given var; wanted first, or both mean and var"),
        (lambda: nn.batch_norm(LOGITS, first=1, mean=SHIFT, var=SCALE), ValueError, "given first, mean, var; wanted"),
        (lambda: nn.batch_norm(LOGITS, first=1, mean=SHIFT), ValueError, "given first, mean; wanted"),
        (lambda: nn.batch_norm(LOGITS, mean=np.ones(3), var=np.ones(4)), ValueError, r"mean has shape \(3,\).* \(4,\)"),
        (lambda: nn.batch_norm(LOGITS, np.ones((3, 1))), ValueError, r"batch_norm: gamma has shape \(3, 1\).* \(4,\)"),
        (lambda: nn.moments(np.ones(3)), ValueError, r"moments.*\(3,\)"),
        (lambda: nn.layer_norm(np.array(1.0)), ValueError, r"layer_norm.*\(\), wanted \(…, channels\)"),
        (lambda: nn.layer_norm(LOGITS, None, np.ones(3)), ValueError, r"layer_norm: beta has shape \(3,\).* \(4,\)"),
        (lambda: nn.group_norm(LOGITS, 3), ValueError, "groups is 3, wanted an integer that divides the 4 channels"),
        (lambda: nn.group_norm(LOGITS, 0), ValueError, "groups is 0"),
        (lambda: nn.group_norm(LOGITS, 2.0), ValueError, "groups is 2.0"),
        (lambda: nn.group_norm(LOGITS[0], 2), ValueError, r"group_norm.*\(4,\)"),
        (lambda: nn.group_norm(LOGITS, 2, np.ones(2)), ValueError, r"group_norm: gamma has shape \(2,\).* \(4,\)"),
        (lambda: nn.dropout(LOGITS, MASK, 1), ValueError, r"rate is 1, wanted a number in \[0, 1\)"),
        (lambda: nn.dropout(LOGITS, MASK, -0.1), ValueError, "rate is -0.1"),
        (lambda: nn.dropout(LOGITS, MASK, np.nan), ValueError, "rate is nan"),
        (lambda: nn.dropout(LOGITS, MASK.T, 0.5), ValueError, r"mask has shape \(4, 3\).*broadcast to x's \(3, 4\)"),
        (lambda: nn.dropout(LOGITS, MASK[None], 0.5), ValueError, r"mask has shape \(1, 3, 4\)"),
        (lambda: nn.dropout(LOGITS, MASK * 0.5, 0.5), ValueError, "mask holds 0.5, wanted booleans, or num"),
        (lambda: nn.he_normal(np.random.default_rng(0), (3,)), ValueError, r"\(3,\) has no fan-in"),
        (lambda: nn.glorot_uniform(np.random.default_rng(0), ()), ValueError, r"\(\) has no fan-in"),
    ],
)  # fmt: skip
def test_a_misuse_says_what_was_seen_and_what_was_wanted(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_misuse_on_tensors_says_the_same():
    with pytest.raises(ValueError, match=r"mse.*\(4,\).*\(4, 1\)"):
        grad(lambda x: nn.mse(x, np.ones((4, 1))))(np.ones(4))
    with pytest.raises(ValueError, match="labels lie in 0 … 9, wanted 0 … 3"):
        grad(nn.cross_entropy)(LOGITS, np.array([0, 9, 1]))
