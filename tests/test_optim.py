"""Optimisers: PyTorch's numbers, differentiable through, with a state one can see."""

import numpy as np
import pytest

import tinymaml as tm
from tinymaml import check_grads, grad, tree_items, tree_leaves, tree_map
from tinymaml.optim import adam, adamw, momentum, nesterov, sgd

RNG = np.random.default_rng(0)
PARAMS = {"layers": [RNG.standard_normal((3, 2)), RNG.standard_normal(2)], "scale": np.array(1.5)}
OPTIMISERS = {  # name: ours, PyTorch's
    "sgd": (sgd(0.1), lambda torch, p: torch.optim.SGD(p, lr=0.1)),
    "momentum": (momentum(0.1, 0.8), lambda torch, p: torch.optim.SGD(p, lr=0.1, momentum=0.8)),
    "nesterov": (nesterov(0.1, 0.8), lambda torch, p: torch.optim.SGD(p, lr=0.1, momentum=0.8, nesterov=True)),
    "adam": (adam(0.01), lambda torch, p: torch.optim.Adam(p, lr=0.01)),
    "adam, other settings": (adam(0.1, 0.5, 0.9, 1e-3), lambda torch, p: torch.optim.Adam(p, 0.1, (0.5, 0.9), 1e-3)),
    "adamw": (adamw(0.01, decay=0.1), lambda torch, p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1)),
}


def loss(p):
    """Does not use the first row of the first layer, whose gradient is therefore exactly 0."""
    used = p["layers"][0] * np.array([[0], [1], [1]])
    return np.sum(np.tanh(used * p["layers"][1] + p["layers"][1]) ** 2) * p["scale"] + p["scale"] ** 2


def run(optimizer, params, steps, state=None):
    state = optimizer.init(params) if state is None else state
    for _ in range(steps):
        params, state = optimizer.update(params, grad(loss)(params), state)
    return params, state


@pytest.mark.parametrize("name", OPTIMISERS)
def test_twenty_steps_are_pytorchs(name):
    torch = pytest.importorskip("torch")
    ours, theirs = OPTIMISERS[name]
    leaves = [torch.tensor(x, requires_grad=True) for x in tree_leaves(PARAMS)]
    optimizer, params, state = theirs(torch, leaves), PARAMS, ours.init(PARAMS)
    for _ in range(20):
        grads = tree_map(lambda p: RNG.standard_normal(p.shape), PARAMS)
        for leaf, g in zip(leaves, tree_leaves(grads), strict=True):
            leaf.grad = torch.tensor(g)
        optimizer.step()
        params, state = ours.update(params, grads, state)
        for p, leaf in zip(tree_leaves(params), leaves, strict=True):
            np.testing.assert_allclose(p, leaf.detach().numpy(), rtol=1e-12, atol=1e-12)


def test_the_first_step_of_each_is_its_formula():
    g = {"w": np.array([2.0, -0.5])}
    p = {"w": np.array([1.0, 1.0])}
    for optimizer, step in (sgd(0.1), 0.1 * g["w"]), (momentum(0.1), 0.1 * g["w"]), (adam(0.1), 0.1 * np.sign(g["w"])):
        np.testing.assert_allclose(optimizer.update(p, g, optimizer.init(p))[0]["w"], p["w"] - step, rtol=1e-7)


@pytest.mark.parametrize("name", OPTIMISERS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_state_is_a_nest_of_arrays_and_keeps_its_shape_and_dtype(name, dtype):
    optimizer, _ = OPTIMISERS[name]
    params = tree_map(lambda p: p.astype(dtype), PARAMS)
    first = optimizer.init(params)
    stepped, last = run(optimizer, params, 3)
    for before, after in (first, last), (params, stepped):
        for (path, x), (same, y) in zip(tree_items(before), tree_items(after), strict=True):
            assert path == same and type(x) is type(y) is np.ndarray
            assert (x.shape, x.dtype) == (y.shape, y.dtype)
    assert {x.dtype for x in tree_leaves(last)} <= {np.dtype(dtype), np.dtype(np.int64)}


@pytest.mark.parametrize("name", OPTIMISERS)
def test_a_run_stopped_and_continued_from_its_state_is_the_same_run(name):
    optimizer, _ = OPTIMISERS[name]
    half, state = run(optimizer, PARAMS, 3)
    continued, straight = run(optimizer, half, 4, state)[0], run(optimizer, PARAMS, 7)[0]
    for a, b in zip(tree_leaves(continued), tree_leaves(straight), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_nothing_given_is_modified(name):
    optimizer, _ = OPTIMISERS[name]
    grads, state = tree_map(np.ones_like, PARAMS), optimizer.init(PARAMS)
    given = tree_leaves((PARAMS, grads, state))
    before = [x.copy() for x in given]
    optimizer.update(PARAMS, grads, state)
    for x, b in zip(given, before, strict=True):
        np.testing.assert_array_equal(x, b)


@pytest.mark.parametrize("make", [sgd, momentum, nesterov, adam, adamw])
def test_a_rate_out_of_a_numpy_schedule_does_not_promote_float32(make):
    params = {"w": np.ones(3, np.float32)}
    optimizer = make(np.linspace(0.1, 0.2, 2)[0])
    stepped, state = optimizer.update(params, params, optimizer.init(params))
    assert {x.dtype for x in tree_leaves((stepped, state))} <= {np.dtype(np.float32), np.dtype(np.int64)}


# ── through an update ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "optimizer",
    [sgd(0.1), momentum(0.1), nesterov(0.1), adam(0.1, eps_root=1e-16), adamw(0.1, eps_root=1e-16)],
    ids=["sgd", "momentum", "nesterov", "adam", "adamw"],
)
def test_two_updates_can_be_differentiated_through(optimizer):
    f = lambda p: loss(run(optimizer, p, 2)[0]) + np.sum(run(optimizer, p, 2)[0]["layers"][0] ** 2)  # noqa: E731
    assert not grad(loss)(PARAMS)["layers"][0][0].any()  # a gradient of exactly 0
    check_grads(f, (PARAMS,), order=2, rtol=1e-5)


def test_adam_without_eps_root_is_nan_there_as_documented():
    f = lambda p: np.sum(run(adam(0.1), p, 1)[0]["layers"][0] ** 2)  # noqa: E731
    with np.errstate(divide="ignore", invalid="ignore"):
        assert np.isnan(grad(f)(PARAMS)["layers"][0][0]).all()


def test_eps_root_hardly_changes_the_step():
    for a, b in zip(*(tree_leaves(run(adam(0.1, eps_root=e), PARAMS, 5)[0]) for e in (0.0, 1e-16)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_an_update_whose_state_is_an_input_can_be_recorded(name):
    optimizer, _ = OPTIMISERS[name]
    params, state = run(optimizer, PARAMS, 2)
    program = tm.record(optimizer.update, PARAMS, PARAMS, optimizer.init(PARAMS))
    grads = grad(loss)(params)
    ours, wanted = program(params, grads, state), optimizer.update(params, grads, state)
    for a, b in zip(tree_leaves(ours), tree_leaves(wanted), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_state_on_tensors_is_made_of_plain_arrays():
    seen = []
    grad(lambda p: seen.append(momentum(0.1).init({"w": p, "number": 2.0})) or np.sum(p))(np.ones(2, np.float32))
    assert type(seen[0]["m"]["w"]) is np.ndarray and seen[0]["m"]["w"].dtype == np.float32
    assert not any(isinstance(x, tm.Tensor) for x in tree_leaves(seen))
