"""PyTorch and JAX get the same meta-gradients, to 1e-12. A model is written once, over each library's own functions."""

import functools
from types import SimpleNamespace

import numpy as np
import pytest

import tinymaml as tm

ALPHA, STEPS, TASKS = 0.2, 5, 3


# ── the libraries: what a model is made of.  Images (N, H, W, C), filters (height, width, in, out), everywhere ──────


def ours():
    return SimpleNamespace(
        tanh=np.tanh, relu=tm.nn.relu, sigmoid=tm.nn.sigmoid, batch_norm=tm.nn.batch_norm, conv=tm.nn.conv2d,
        max_pool=tm.nn.max_pool2d, flat=lambda x: np.reshape(x, (x.shape[0], -1)), mse=tm.nn.mse,
        cross_entropy=tm.nn.cross_entropy, binary=tm.nn.binary_cross_entropy,
    )  # fmt: skip


def pytorch():
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)  # the arrays are tiny
    f = torch.nn.functional

    def channels_first(g, x, *args, **how):
        return g(x.permute(0, 3, 1, 2), *args, **how).permute(0, 2, 3, 1)

    def conv(x, w, stride=1):  # PyTorch pads alike on both sides, so SAME with a stride is padded beforehand
        pads = []
        for n, k in ((x.shape[2], w.shape[1]), (x.shape[1], w.shape[0])):  # columns, then rows
            total = max((-(-n // stride) - 1) * stride + k - n, 0)
            pads += [total // 2, total - total // 2]
        return channels_first(lambda x: f.conv2d(f.pad(x, pads), w.permute(3, 2, 0, 1), stride=stride), x)

    def batch_norm(x, gamma, beta):
        rows = x.reshape(-1, x.shape[-1])
        return f.batch_norm(rows, None, None, gamma, beta, training=True, eps=1e-5).reshape(x.shape)

    return SimpleNamespace(
        tanh=torch.tanh, relu=torch.relu, sigmoid=torch.sigmoid, batch_norm=batch_norm, conv=conv,
        max_pool=lambda x: channels_first(f.max_pool2d, x, 2), flat=lambda x: x.reshape(x.shape[0], -1),
        mse=f.mse_loss, cross_entropy=f.cross_entropy, binary=f.binary_cross_entropy_with_logits,
    )  # fmt: skip


def jax_numpy():
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    jnp, lax = jax.numpy, jax.lax

    def batch_norm(x, gamma, beta):
        over = tuple(range(x.ndim - 1))
        return (x - x.mean(over)) * lax.rsqrt(x.var(over) + 1e-5) * gamma + beta

    return SimpleNamespace(
        tanh=jnp.tanh, relu=jax.nn.relu, sigmoid=jax.nn.sigmoid, batch_norm=batch_norm,
        conv=lambda x, w, stride=1: lax.conv_general_dilated(
            x, w, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        ),
        max_pool=lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID"),
        flat=lambda x: x.reshape(x.shape[0], -1), mse=lambda p, y: ((p - y) ** 2).mean(),
        cross_entropy=lambda z, y: -jnp.take_along_axis(jax.nn.log_softmax(z), y[:, None], 1).mean(),
        binary=lambda z, y: -(y * jax.nn.log_sigmoid(z) + (1 - y) * jax.nn.log_sigmoid(-z)).mean(),
    )  # fmt: skip


# ── the models ──────────────────────────────────────────────────────────────────────────────────────────────────────


def mlp(activation, loss="mse"):
    def model(f, p, x, y):
        h = getattr(f, activation)(x @ p["w1"] + p["b1"])
        h = getattr(f, activation)(h @ p["w2"] + p["b2"])
        return getattr(f, loss)(h @ p["w3"] + p["b3"], y)

    return model


def bn_mlp(f, p, x, y):
    h = f.relu(f.batch_norm(x @ p["w1"], p["gamma"], p["beta"]))
    return f.cross_entropy(h @ p["w3"] + p["b3"], y)


def strided_conv(f, p, x, y):
    h = f.relu(f.batch_norm(f.conv(x, p["c1"], 2), p["gamma1"], p["beta1"]))
    h = f.tanh(f.batch_norm(f.conv(h, p["c2"], 2), p["gamma2"], p["beta2"]))
    return f.cross_entropy(f.flat(h) @ p["out"] + p["bias"], y)


def pooled_conv(f, p, x, y):
    h = f.max_pool(f.relu(f.batch_norm(f.conv(x, p["c1"]), p["gamma1"], p["beta1"])))
    h = f.max_pool(f.tanh(f.conv(h, p["c2"]) + p["beta2"]))
    return f.cross_entropy(f.flat(h) @ p["out2"] + p["bias"], y)


DENSE = {"w1": (2, 5), "b1": (5,), "w2": (5, 5), "b2": (5,), "w3": (5, 3), "b3": (3,)}
NORMED = {"w1": (2, 5), "gamma": (5,), "beta": (5,), "w3": (5, 3), "b3": (3,)}
STRIDED = {"c1": (3, 3, 1, 2), "gamma1": (2,), "beta1": (2,), "c2": (3, 3, 2, 3), "gamma2": (3,), "beta2": (3,),
           "out": (12, 3), "bias": (3,)}  # fmt: skip
POOLED = {"c1": (3, 3, 1, 2), "gamma1": (2,), "beta1": (2,), "c2": (2, 2, 2, 3), "beta2": (3,),
          "out2": (3, 3), "bias": (3,)}  # fmt: skip

MODELS = {  # name: model, shapes of its parameters, of one input, and what its targets are
    "tanh MLP": (mlp("tanh"), DENSE, (2,), "numbers"),
    "ReLU MLP": (mlp("relu"), DENSE, (2,), "numbers"),
    "sigmoid MLP": (mlp("sigmoid", "cross_entropy"), DENSE, (2,), "labels"),
    "binary MLP": (mlp("tanh", "binary"), DENSE, (2,), "probabilities"),
    "batch norm MLP": (bn_mlp, NORMED, (2,), "labels"),
    "conv, stride 2": (strided_conv, STRIDED, (6, 5, 1), "labels"),
    "conv, max-pool": (pooled_conv, POOLED, (6, 5, 1), "labels"),
}


def problem(name):
    _, shapes, one, targets = MODELS[name]
    rng = np.random.default_rng(list(MODELS).index(name))
    params = {key: rng.standard_normal(shape) * (0.5 if len(shape) > 1 else 0.1) for key, shape in shapes.items()}
    params |= {key: 1 + p for key, p in params.items() if key.startswith("gamma")}
    draw = {"numbers": lambda n: rng.standard_normal((TASKS, n, 3)), "labels": lambda n: rng.integers(0, 3, (TASKS, n)),
            "probabilities": lambda n: rng.random((TASKS, n, 3))}[targets]  # fmt: skip
    support, query = ((rng.standard_normal((TASKS, n, *one)), draw(n)) for n in (4, 6))
    return params, (support, query)


def agree(ours, theirs):
    (value, grads), (their_value, their_grads) = ours, theirs
    np.testing.assert_allclose(value, their_value, rtol=1e-12)
    assert grads.keys() == their_grads.keys()
    for key, g in grads.items():
        assert np.max(np.abs(g)) > 1e-6, f"{key}: nothing to compare"
        np.testing.assert_allclose(g, their_grads[key], rtol=0, atol=1e-12 * np.max(np.abs(g)), err_msg=key)


def of_ours(name, steps, first_order):
    model, library = MODELS[name][0], ours()
    meta = tm.meta_value_and_grad(
        lambda p, x, y: model(library, p, x, y), inner_lr=ALPHA, inner_steps=steps, first_order=first_order
    )
    return meta(*problem(name))


def for_every_case(test, fomaml=(), models=MODELS):
    """`fomaml`: the marks of the cases of first order."""
    orders = [pytest.param(False, id="exact"), pytest.param(True, id="FOMAML", marks=fomaml)]
    test = pytest.mark.parametrize("first_order", orders)(test)
    test = pytest.mark.parametrize("steps", range(1, STEPS + 1))(test)
    return pytest.mark.parametrize("name", models)(test)


# ── PyTorch: the loop, with create_graph ────────────────────────────────────────────────────────────────────────────


@for_every_case
def test_pytorch_agrees(name, steps, first_order):
    torch, library, model = pytest.importorskip("torch"), pytorch(), MODELS[name][0]
    params, tasks = tm.tree_map(torch.tensor, problem(name))
    params = {key: p.requires_grad_() for key, p in params.items()}
    losses = []
    for t in range(TASKS):
        support, query = tm.tree_map(lambda x, t=t: x[t], tasks)
        fast = params
        for _ in range(steps):
            grads = torch.autograd.grad(model(library, fast, *support), fast.values(), create_graph=not first_order)
            fast = {key: p - ALPHA * g for (key, p), g in zip(fast.items(), grads, strict=True)}
        losses.append(model(library, fast, *query))
    value = sum(losses) / TASKS
    grads = dict(zip(params, torch.autograd.grad(value, params.values()), strict=True))
    agree(of_ours(name, steps, first_order), (value.item(), {key: g.numpy() for key, g in grads.items()}))


# ── JAX: scan over steps, vmap over tasks ───────────────────────────────────────────────────────────────────────────

compiled = {}


def of_jax(name, steps, first_order):
    """Steps beyond `steps` have rate 0, so that one compiled function does for all."""
    jax, library, model = pytest.importorskip("jax"), jax_numpy(), MODELS[name][0]
    loss = lambda p, data: model(library, p, *data)  # noqa: E731
    hold = jax.lax.stop_gradient if first_order else lambda g: g

    def query_loss(params, rates, support, query):
        def step(p, rate):
            grads = hold(jax.grad(loss)(p, support))
            return jax.tree.map(lambda p, g: p - rate * g, p, grads), None

        return loss(jax.lax.scan(step, params, rates)[0], query)

    def meta_loss(params, rates, tasks):
        return jax.vmap(query_loss, (None, None, 0, 0))(params, rates, *tasks).mean()

    params, tasks = problem(name)
    args = params, ALPHA * (np.arange(STEPS) < steps), tasks
    if (name, first_order) not in compiled:
        quickly = {"xla_backend_optimization_level": "0", "xla_llvm_disable_expensive_passes": True}
        compiled[name, first_order] = jax.jit(jax.value_and_grad(meta_loss)).lower(*args).compile(quickly)
    return compiled[name, first_order](*args)


BY_JAX = [name if name == "binary MLP" else pytest.param(name, marks=pytest.mark.slow) for name in MODELS]


@functools.partial(for_every_case, fomaml=pytest.mark.slow, models=BY_JAX)
def test_jax_agrees(name, steps, first_order):
    """PyTorch judges all models by default, and first order, too; JAX compiles for seconds."""
    theirs = of_jax(name, steps, first_order)
    agree(of_ours(name, steps, first_order), theirs)


# ── the comparison itself ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", MODELS)
def test_the_comparison_tells_one_step_and_first_order_from_the_exact(name):
    exact = of_ours(name, 3, False)
    for other in of_ours(name, 3, True), of_ours(name, 2, False):
        with pytest.raises(AssertionError, match="Not equal"):
            agree(exact, other)
    with pytest.raises(AssertionError, match="Not equal"):
        agree(exact, (exact[0], {key: g * (1 + 1e-11) for key, g in exact[1].items()}))
