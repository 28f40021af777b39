"""The meta-gradient is the paper's, to the last term; the usual mistakes are told apart; bad input is named."""

import math
import os
import re
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

import tinymaml as tm
from tinymaml import (
    adapt,
    check_grads,
    flat,
    grad,
    hvp,
    meta_loss,
    meta_value_and_grad,
    networks,
    nn,
    tree_leaves,
    tree_map,
)
from tinymaml import stop_gradient as held
from tinymaml.flat import moves as flat_moves

ALPHA = 0.3
RATES = {"w1": 0.3, "b1": 0.1, "w2": 0.05 * np.arange(1.0, 5)[:, None], "b2": np.array([0.2])}


def close(ours, wanted, rtol=1e-12):
    for a, b in zip(tree_leaves(ours), tree_leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * np.max(np.abs(b), initial=0))


def mlp(params, x, y):
    h = np.tanh(x @ params["w1"] + params["b1"])
    return nn.mse(h @ params["w2"] + params["b2"], y)


def mlp_params(seed=0, dtype=np.float64, width=4):
    rng = np.random.default_rng(seed)
    shapes = {"w1": (2, width), "b1": (width,), "w2": (width, 1), "b2": (1,)}
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}


def mlp_tasks(count=3, seed=1, support=5, query=7, dtype=np.float64):
    rng = np.random.default_rng(seed)
    draw = lambda n, width: rng.standard_normal((count, n, width)).astype(dtype)  # noqa: E731
    return (draw(support, 2), draw(support, 1)), (draw(query, 2), draw(query, 1))


def unstacked(tasks):
    return [tree_map(lambda x, t=t: x[t], tasks) for t in range(len(tree_leaves(tasks)[0]))]


# ── the fixture: ½(w·x − y)², where every variant gives other integers ──────────────────────────────────────────────

W, XS, XQ, NONE = np.array([2.0, 3, 5]), np.array([1.0, 2, 3]), np.array([4.0, 5, 6]), np.zeros(())
FIXTURE = [((XS, NONE), (XQ, NONE))]


def half_square(w, x, y=NONE):
    return (w @ x - y) ** 2 / 2


def gradient(x, at):
    return grad(half_square)(at, x)


def step(w, x=XS):
    return w - 0.5 * gradient(x, w)


def held_step(w):
    return w - 0.5 * held(gradient(XS, w))


def meta(w=W, tasks=FIXTURE, **how):
    return meta_value_and_grad(half_square, inner_lr=0.5, **how)(w, tasks)[1]


def through(inner):
    """The honest gradient of the query loss after an inner loop of one's own."""
    return grad(lambda w: half_square(inner(w), XQ))(W)


def stale(w):
    g = gradient(XS, w)
    return w - 0.5 * g - 0.5 * g


def plus_half_hessian(x, sign):
    g = gradient(XQ, step(W))
    return g + sign * 0.5 * hvp(lambda w: half_square(w, x), (W,), g)


VARIANTS = {
    "exact, K = 1": (lambda: meta(), (3780, 8505, 13230)),
    "exact, written out": (lambda: through(step), (3780, 8505, 13230)),
    "exact, by its formula": (lambda: plus_half_hessian(XS, -1), (3780, 8505, 13230)),
    "FOMAML": (lambda: meta(first_order=True), (-1260, -1575, -1890)),
    "FOMAML, g_q at θ′": (lambda: gradient(XQ, step(W)), (-1260, -1575, -1890)),
    "FOMAML, held": (lambda: through(held_step), (-1260, -1575, -1890)),
    "g_q at θ": (lambda: meta(inner_steps=0), (212, 265, 318)),
    "Reptile, θ − θ′": (lambda: W - adapt(half_square, W, (XS,), inner_lr=0.5, inner_steps=1), (11.5, 23, 34.5)),
    "I + αH": (lambda: plus_half_hessian(XS, 1), (-6300, -11655, -17010)),
    "H of the query": (lambda: plus_half_hessian(XQ, -1), (47250, 59062.5, 70875)),
    "roles swapped": (lambda: meta(tasks=[FIXTURE[0][::-1]]), (51975, 64350, 76725)),
    "query = support": (lambda: meta(tasks=[(FIXTURE[0][0],) * 2]), (828, 1656, 2484)),
    "grad.sum()": (lambda: through(lambda w: w - 0.5 * np.sum(gradient(XS, w))), (40262, 83470, 126678)),
    "exact, K = 2": (lambda: meta(inner_steps=2), (159012, 312345, 465678)),
    "K = 2, first factor missing": (lambda: through(lambda w: step(held_step(w))), (-22716, -51111, -79506)),
    "K = 2, last factor missing": (lambda: through(lambda w: held_step(step(w))), (-22716, -51111, -79506)),
    "K = 2, stale first gradient": (lambda: through(stale), (19124, 40297, 61470)),
}  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_fixture_tells_variants_apart(variant):
    compute, integers = VARIANTS[variant]
    np.testing.assert_array_equal(compute(), np.array(integers, float))


# ── the formula ─────────────────────────────────────────────────────────────────────────────────────────────────────


def by_the_formula(loss, params, tasks, rates, steps, first_order=False):
    """1/T Σₜ (I − H₀α) ⋯ (I − H_{K−1}α) g_q(θ_K), with H by hvp; the mean query loss beside it."""
    values, total = [], tree_map(np.zeros_like, params)
    for support, query in unstacked(tasks):
        thetas = [params]
        for _ in range(steps):
            g = grad(loss)(thetas[-1], *support)
            thetas.append(tree_map(lambda p, a, g: p - a * g, thetas[-1], rates, g))
        value, v = tm.value_and_grad(loss)(thetas[-1], *query)
        for theta in [] if first_order else thetas[-2::-1]:
            hv = hvp(lambda p, data=support: loss(p, *data), (theta,), tree_map(lambda a, v: a * v, rates, v))
            v = tree_map(lambda v, hv: v - hv, v, hv)
        values.append(value)
        total = tree_map(lambda s, v: s + v / len(tasks[0][0]), total, v)
    return np.mean(values), total


@pytest.mark.parametrize("steps", range(6))
@pytest.mark.parametrize("rates", [ALPHA, RATES], ids=["a number", "a nest"])
def test_the_meta_gradient_is_the_product_of_hessians(steps, rates):
    params, tasks = mlp_params(), mlp_tasks()
    full = rates if isinstance(rates, dict) else tree_map(lambda p: rates, params)
    exact = by_the_formula(mlp, params, tasks, full, steps)
    first = by_the_formula(mlp, params, tasks, full, steps, first_order=True)
    close(meta_value_and_grad(mlp, inner_lr=rates, inner_steps=steps)(params, tasks), exact)
    close(meta_value_and_grad(mlp, inner_lr=rates, inner_steps=steps, first_order=True)(params, tasks), first)
    if steps:  # the two differ by more than rounding
        assert np.linalg.norm(exact[1]["w1"] - first[1]["w1"]) > 0.01 * np.linalg.norm(exact[1]["w1"])


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_task_by_task_equals_all_tasks_in_one_graph(steps, first_order):
    params, tasks, how = mlp_params(), mlp_tasks(), dict(inner_lr=ALPHA, inner_steps=steps, first_order=first_order)
    value, grads = meta_value_and_grad(mlp, **how)(params, tasks)
    one = tm.value_and_grad(lambda p: meta_loss(mlp, p, tasks, **how))(params)
    close((value, grads), one)
    close(value, meta_loss(mlp, params, tasks, **how))
    adapted = [adapt(mlp, params, support, **how) for support, _ in unstacked(tasks)]
    close(value, np.mean([mlp(p, *query) for p, (_, query) in zip(adapted, unstacked(tasks), strict=True)]))


def test_no_inner_step_is_joint_training():
    params, tasks = mlp_params(), mlp_tasks()
    _, grads = meta_value_and_grad(mlp, inner_lr=ALPHA, inner_steps=0)(params, tasks)
    close(grads, grad(lambda p: sum(mlp(p, *query) for _, query in unstacked(tasks)) / 3)(params))


def test_tasks_of_unequal_sizes_come_in_a_list():
    params, how = mlp_params(), dict(inner_lr=ALPHA, inner_steps=2)
    small, large = mlp_tasks(1, seed=1, support=2, query=3), mlp_tasks(1, seed=2, support=9, query=4)
    value, grads = meta_value_and_grad(mlp, **how)(params, [*unstacked(small), *unstacked(large)])
    one, other = (meta_value_and_grad(mlp, **how)(params, tasks) for tasks in (small, large))
    close((value, grads), tree_map(lambda a, b: (a + b) / 2, one, other))  # tasks count alike, whatever their size


def test_a_list_of_equal_tasks_is_the_same_as_the_stack():
    params, tasks, f = mlp_params(), mlp_tasks(), meta_value_and_grad(mlp, inner_lr=ALPHA)
    for a, b in zip(tree_leaves(f(params, tasks)), tree_leaves(f(params, unstacked(tasks))), strict=True):
        np.testing.assert_array_equal(a, b)


def test_data_may_be_nests():
    def loss(params, x, y):
        return mlp(params, np.stack([x["left"], x["pair"][0]], -1), y["y"])

    (xs, ys), (xq, yq) = mlp_tasks()
    nested = tuple(({"left": x[..., 0], "pair": (x[..., 1], x)}, {"y": y}) for x, y in ((xs, ys), (xq, yq)))
    close(
        meta_value_and_grad(loss, inner_lr=ALPHA, inner_steps=2)(mlp_params(), nested),
        meta_value_and_grad(mlp, inner_lr=ALPHA, inner_steps=2)(mlp_params(), ((xs, ys), (xq, yq))),
    )


def test_the_order_of_tasks_does_not_matter():
    params, tasks, f = mlp_params(), mlp_tasks(5), meta_value_and_grad(mlp, inner_lr=ALPHA, inner_steps=2)
    close(f(params, tree_map(lambda x: x[[3, 0, 4, 1, 2]], tasks)), f(params, tasks), rtol=1e-14)


def test_aux_of_every_task_is_returned():
    def loss(params, x, y):
        return mlp(params, x, y), {"n": len(y), "mean": np.mean(x @ params["w1"])}

    params, tasks = mlp_params(), mlp_tasks()
    (value, aux), grads = meta_value_and_grad(loss, inner_lr=ALPHA, inner_steps=2, has_aux=True)(params, tasks)
    close((value, grads), meta_value_and_grad(mlp, inner_lr=ALPHA, inner_steps=2)(params, tasks))
    assert [a["n"] for a in aux] == [7, 7, 7]
    for a, (support, (xq, _)) in zip(aux, unstacked(tasks), strict=True):
        close(a["mean"], np.mean(xq @ adapt(mlp, params, support, inner_lr=ALPHA, inner_steps=2)["w1"]))
        assert not isinstance(a["mean"], tm.Tensor)


# ── derivatives of anything ─────────────────────────────────────────────────────────────────────────────────────────


def test_the_slope_in_the_inner_rate_is_minus_the_product_of_gradients():
    params, tasks = mlp_params(), mlp_tasks()
    products = []
    for support, query in unstacked(tasks):
        adapted = adapt(mlp, params, support, inner_lr=RATES, inner_steps=1)
        products.append(tree_map(lambda a, b: -a * b, grad(mlp)(params, *support), grad(mlp)(adapted, *query)))
    mean = tree_map(lambda *p: sum(p) / len(p), *products)
    full = tree_map(lambda p, a: np.broadcast_to(a, p.shape).astype(float), params, RATES)
    for first_order in (False, True):  # with one step, θ does not move with α
        slope = grad(lambda a: meta_loss(mlp, params, tasks, inner_lr=a, first_order=first_order))  # noqa: B023
        close(slope(full), mean)
        by_tensor = slope(tree_map(lambda p: np.array(0.0), params) | {"b1": 0.1})  # numbers: summed over the tensor
        assert all(np.shape(s) == () for s in tree_leaves(by_tensor))
    one = grad(lambda a: meta_loss(mlp, params, tasks, inner_lr=tree_map(lambda r: a * r, RATES)))(1.0)
    close(one, sum(np.sum(m * a) for m, a in zip(tree_leaves(mean), tree_leaves(full), strict=True)))


def test_the_slope_in_a_number_is_the_sum_over_everything():
    params, tasks = mlp_params(), mlp_tasks(1)
    ((support, query),) = unstacked(tasks)
    adapted = adapt(mlp, params, support, inner_lr=ALPHA, inner_steps=1)
    pairs = zip(tree_leaves(grad(mlp)(params, *support)), tree_leaves(grad(mlp)(adapted, *query)), strict=True)
    close(grad(lambda a: meta_loss(mlp, params, tasks, inner_lr=a))(ALPHA), -sum(np.sum(a * b) for a, b in pairs))


def conv_bn(params, x, labels):
    h = nn.conv2d(x, params["w"], stride=2)
    h = nn.softplus(nn.batch_norm(h, params["gamma"], params["beta"]))
    return nn.cross_entropy(np.mean(h, (1, 2)) @ params["out"], labels)


def conv_bn_problem():
    rng = np.random.default_rng(3)
    params = {"w": (3, 3, 1, 2), "gamma": (2,), "beta": (2,), "out": (2, 2)}
    params = {name: 1 + rng.standard_normal(shape) for name, shape in params.items()}
    support = rng.standard_normal((1, 2, 3, 3, 1)), np.array([[0, 1]])
    query = rng.standard_normal((1, 3, 3, 3, 1)), np.array([[1, 0, 1]])
    return params, (support, query)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_numerical_differentiation_confirms_the_meta_loss_of_an_mlp(order):
    f = lambda p, a: meta_loss(mlp, p, mlp_tasks(1, support=2, query=2), inner_lr=a, inner_steps=2)  # noqa: E731
    check_grads(f, (mlp_params(width=2), np.array(ALPHA)), order=order, rtol=1e-5)


@pytest.mark.parametrize("order", [1, 2, pytest.param(3, marks=pytest.mark.slow)])
def test_numerical_differentiation_confirms_the_meta_loss_of_a_convolution_with_batch_norm(order):
    params, tasks = conv_bn_problem()
    check_grads(lambda p, a: meta_loss(conv_bn, p, tasks, inner_lr=a), (params, np.array(0.1)), order=order, rtol=1e-5)


def test_numerical_differentiation_confirms_rates_of_every_parameter_and_the_data():
    rates = tree_map(lambda p: np.full(p.shape, ALPHA), mlp_params(width=2))
    tasks = mlp_tasks(1, support=2, query=2)
    f = lambda a, tasks: meta_loss(mlp, mlp_params(width=2), tasks, inner_lr=a, inner_steps=2)  # noqa: E731
    check_grads(f, (rates, tasks), order=2, rtol=1e-5)


def test_a_gradient_of_the_meta_gradient_is_exact():
    tasks, v = mlp_tasks(2), mlp_params(5)
    f = lambda p: meta_loss(mlp, p, tasks, inner_lr=ALPHA, inner_steps=2)  # noqa: E731
    inner = lambda p: meta_value_and_grad(mlp, inner_lr=ALPHA, inner_steps=2)(p, tasks)[1]  # noqa: E731
    dot = lambda g: sum(np.sum(a * b) for a, b in zip(tree_leaves(g), tree_leaves(v), strict=True))  # noqa: E731
    close(grad(lambda p: dot(inner(p)))(mlp_params()), hvp(f, (mlp_params(),), v))


# ── what is the user's stays the user's ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("steps", [0, 2])
def test_nothing_is_modified_and_nothing_is_shared(steps):
    params, tasks, rates = mlp_params(), mlp_tasks(), tree_map(np.array, RATES)
    theirs = tree_leaves((params, tasks, rates))
    before = [x.copy() for x in theirs]
    for x in theirs:
        x.flags.writeable = False
    ((support, _), *_) = unstacked(tasks)
    results = [
        adapt(mlp, params, support, inner_lr=rates, inner_steps=steps),
        meta_loss(mlp, params, tasks, inner_lr=rates, inner_steps=steps),
        meta_value_and_grad(mlp, inner_lr=rates, inner_steps=steps)(params, tasks),
    ]
    for x, b in zip(theirs, before, strict=True):
        np.testing.assert_array_equal(x, b)
        assert not any(np.shares_memory(x, y) for y in tree_leaves(results))
    for y in tree_leaves((results[0], results[2][1])):
        assert y.flags.writeable


@pytest.mark.parametrize(
    "rates",
    [ALPHA, np.float64(ALPHA), np.array(ALPHA), tree_map(np.float64, RATES | {"w2": 0.1, "b2": 0.1}), RATES],
    ids=["number", "NumPy number", "array", "numbers", "arrays"],
)
def test_float32_stays_float32(rates):
    params, tasks = mlp_params(dtype=np.float32), mlp_tasks(dtype=np.float32)
    value, grads = meta_value_and_grad(mlp, inner_lr=rates, inner_steps=2)(params, tasks)
    adapted = adapt(mlp, params, unstacked(tasks)[0][0], inner_lr=rates, inner_steps=2)
    assert {x.dtype for x in tree_leaves((value, grads, adapted))} == {np.dtype(np.float32)}
    close(grads, meta_value_and_grad(mlp, inner_lr=rates, inner_steps=2)(mlp_params(), mlp_tasks())[1], rtol=1e-4)


def meta_bits():
    out = meta_value_and_grad(mlp, inner_lr=RATES, inner_steps=3)(mlp_params(), mlp_tasks())
    return b"".join(np.asarray(x).tobytes() for x in tree_leaves(out)).hex()


def test_the_same_bits_from_run_to_run():
    here = os.path.dirname(__file__)
    program = f"import sys; sys.path.insert(0, {here!r}); import test_maml; print(test_maml.meta_bits())"
    again = [
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True,
                       env=os.environ | {"PYTHONHASHSEED": seed}, encoding="utf-8").stdout.strip()
        for seed in "12"
    ]  # fmt: skip
    assert again == [meta_bits()] * 2


def test_parameters_without_axes_come_back_as_arrays():
    loss = lambda p, x, y: np.mean((p * x - y) ** 2)  # noqa: E731
    _, g = meta_value_and_grad(loss, inner_lr=0.1)(np.array(2.0), [((XS, XQ), (XQ, XS))])
    for x in g, adapt(loss, np.array(2.0), (XS, XQ), inner_lr=0.1, inner_steps=1):
        assert type(x) is np.ndarray and x.shape == ()


def test_python_numbers_are_parameters():
    loss = lambda p, x, y: np.mean((p["a"] * x + p["b"] - y) ** 2)  # noqa: E731
    task = [((XS, XQ), (XQ, XS))]
    as_arrays = {"a": np.array(2.0), "b": np.array(0.5)}
    for rates in (0.01, np.array(0.01), {"a": 0.01, "b": np.array(0.01)}):
        how = dict(inner_lr=rates, inner_steps=2)
        wanted = meta_value_and_grad(loss, **how)(as_arrays, task)
        close(meta_value_and_grad(loss, **how)({"a": 2.0, "b": 0.5}, task), wanted)
        close(meta_loss(loss, {"a": 2.0, "b": 0.5}, task, **how), wanted[0])
        assert adapt(loss, {"a": 2.0, "b": 0.5}, (XS, XQ), **how).keys() == {"a", "b"}


# ── what is refused ─────────────────────────────────────────────────────────────────────────────────────────────────


def with_value(x, at, value):
    x = x.copy()
    x[at] = value
    return x


def spoil(params=None, tasks=None, **how):
    """Every door of the module, given the same bad input."""
    params = mlp_params() | (params or {})
    tasks = tasks or mlp_tasks()
    how = dict(inner_lr=ALPHA, inner_steps=2) | how
    return {
        "meta_value_and_grad": lambda: meta_value_and_grad(mlp, **how)(params, tasks),
        "meta_loss": lambda: meta_loss(mlp, params, tasks, **how),
        "adapt": lambda: adapt(mlp, params, tree_map(lambda x: x[1], tasks[0]), **how),
    }


(TXS, TYS), (TXQ, TYQ) = mlp_tasks()
NAN_AT = (1, 2, 0)  # task 1, example 2, feature 0
REFUSED = {
    "NaN in a parameter": (dict(params={"w1": np.array([[1, 2, np.nan, 4], [np.inf, 1, 1, 1]])}), ValueError,
                           r"params\['w1'\].*2 of 8, first nan at \[0, 2\]"),
    "an infinite rate": (dict(inner_lr=np.inf), ValueError, "inner_lr is not finite.*inf"),
    "NaN in a nest of rates": (dict(inner_lr=RATES | {"b2": np.array([np.nan])}), ValueError, r"inner_lr\['b2'\].*nan"),
    "NaN in the support": (dict(tasks=((with_value(TXS, NAN_AT, np.nan), TYS), (TXQ, TYQ))), ValueError,
                           r"support set( of task 1)?.*\[0\].*1 of 10, first nan at \[2, 0\]"),
    "infinity in support labels": (dict(tasks=((TXS, with_value(TYS, NAN_AT, -np.inf)), (TXQ, TYQ))), ValueError,
                                   r"support set( of task 1)?.*\[1\].*1 of 5, first -inf at \[2, 0\]"),
    "integer parameters": (dict(params={"b1": np.arange(4)}), TypeError, r"params\['b1'\].*int64"),
    "boolean parameters": (dict(params={"b1": np.ones(4, bool)}), TypeError, r"params\['b1'\].*bool"),
    "object parameters": (dict(params={"b1": np.array([1, None], object)}), TypeError, r"params\['b1'\].*object"),
    "object data": (dict(tasks=((TXS.astype(object), TYS), (TXQ, TYQ))), TypeError, r"\[0\].*object"),
    "rates of another nest": (dict(inner_lr={"w1": 0.1}), ValueError, "nests differ.*w1.*b1"),
    "rates deeper than the parameters": (dict(inner_lr=RATES | {"b1": [0.1]}), ValueError, r"nests differ at \['b1'\]"),
    "rates of another shape": (dict(inner_lr=RATES | {"b1": np.ones(3)}), ValueError,
                               r"inner_lr\['b1'\].*\(3,\).*\(4,\)"),
    "rates that would widen": (dict(inner_lr=RATES | {"b2": np.full((5, 1), 0.1)}), ValueError,
                               r"inner_lr\['b2'\].*\(5, 1\).*\(1,\)"),
    "no rate": (dict(inner_lr=None), (TypeError, ValueError), "inner_lr is None"),
    "a rate in words": (dict(inner_lr="0.1"), (TypeError, ValueError), "inner_lr.*wanted numbers"),
    "negative steps": (dict(inner_steps=-1), ValueError, "inner_steps is -1"),
    "fractional steps": (dict(inner_steps=1.0), ValueError, "inner_steps is 1.0"),
    "boolean steps": (dict(inner_steps=True), ValueError, "inner_steps is True"),
    "empty support": (dict(tasks=((TXS[:, :0], TYS[:, :0]), (TXQ, TYQ))), ValueError,
                      r"support set( of task 0)? is empty: \[0\] has shape \(0, 2\)"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("door", ["meta_value_and_grad", "meta_loss", "adapt"])
def test_bad_input_is_named(case, door):
    how, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        spoil(**how)[door]()


@pytest.mark.parametrize(
    ("tasks", "message"),
    {
        "disagreeing arrays": (((TXS, TYS[:2]), (TXQ, TYQ)), r"number.*\(3, 5, 2\).*\(2, 5, 1\)"),
        "a number among arrays": (((TXS, 1.0), (TXQ, TYQ)), r"number.*\(3, 5, 2\).*\(\)"),
        "not a pair": ((TXS, TYS), "tasks must be"),
        "three sets": (((TXS, TYS), (TXQ, TYQ), (TXQ, TYQ)), "tasks must be"),
        "an empty list": ([], "tasks must be|no tasks"),
        "no tasks": (tree_map(lambda x: x[:0], mlp_tasks()), "no tasks"),
        "an empty query": (((TXS, TYS), (TXQ[:, :0], TYQ[:, :0])), r"query set of task 0 is empty.*\(0, 2\)"),
        "NaN in a query": (((TXS, TYS), (with_value(TXQ, (2, 6, 1), np.nan), TYQ)),
                           r"query set of task 2: \[0\].*1 of 14, first nan at \[6, 1\]"),
        "one of a list": ([((TXS[0], TYS[0]), (TXQ[0], TYQ[0])), ((TXS[0], TYS[0]),)], "a pair of sets"),
    }.values(),
)  # fmt: skip
def test_bad_tasks_are_named(tasks, message):
    with pytest.raises(ValueError, match=message):
        meta_value_and_grad(mlp, inner_lr=ALPHA)(mlp_params(), tasks)
    with pytest.raises(ValueError, match=message):
        meta_loss(mlp, mlp_params(), tasks, inner_lr=ALPHA)


def test_parameters_without_arrays_are_refused():
    with pytest.raises(ValueError, match=re.escape("params is {}")):
        meta_loss(mlp, {}, mlp_tasks(), inner_lr=ALPHA)


@pytest.mark.parametrize("steps", [0, 1])
def test_a_loss_which_is_not_a_scalar_is_named(steps):
    def errors(params, x, y):
        return (np.tanh(x @ params["w1"]) @ params["w2"] - y) ** 2

    task = unstacked(mlp_tasks())[:1]
    with pytest.raises(ValueError, match=r"errors must return a scalar.*\((7|5), 1\)"):
        meta_value_and_grad(errors, inner_lr=ALPHA, inner_steps=steps)(mlp_params(), task)
    with pytest.raises(ValueError, match="scalar"):
        meta_loss(errors, mlp_params(), task, inner_lr=ALPHA, inner_steps=steps)


def linear(w, x, y):
    return np.mean((x @ w - y) ** 2)


@pytest.fixture
def exploding():
    """Two tasks, of which the second diverges with α = 1: θ grows 10⁸-fold every step."""
    rng = np.random.default_rng(0)
    tame, wild = ((rng.standard_normal((3, 2)) * scale, np.ones(3)) for scale in (0.1, 1e4))
    return np.ones(2), [(tame, tame), (wild, wild)]


def test_a_diverging_inner_loop_names_task_step_and_loss_and_nothing_else_is_said(exploding):
    w, tasks = exploding  # RuntimeWarnings are errors here
    for call in (
        lambda: meta_value_and_grad(linear, inner_lr=1.0, inner_steps=60)(w, tasks),
        lambda: meta_loss(linear, w, tasks, inner_lr=1.0, inner_steps=60),
    ):
        with pytest.raises(FloatingPointError, match=r"task 1, inner step \d+: the support loss is (inf|nan)"):
            call()
    with pytest.raises(FloatingPointError, match=r"inner step \d+: the support loss is (inf|nan)"):
        adapt(linear, w, tasks[1][0], inner_lr=1.0, inner_steps=60)


def test_a_last_step_that_diverges_is_named_too(exploding):
    w, tasks = exploding
    with pytest.raises(FloatingPointError, match="task 0: the query loss is (inf|nan)"):
        meta_value_and_grad(linear, inner_lr=1e300, inner_steps=1)(w, tasks[1:])
    with pytest.raises(FloatingPointError, match="diverged"):
        adapt(linear, w, tasks[1][0], inner_lr=1e308, inner_steps=1)


@pytest.mark.parametrize(("w", "value"), [(-1.0, "nan"), (0.0, "-inf")])
def test_a_loss_which_is_not_finite_to_begin_with_is_named(w, value):
    loss = lambda w, x, y: np.mean(np.log(x @ w))  # noqa: E731
    with pytest.raises(FloatingPointError, match=f"task 0, inner step 0: the support loss is {value}"):
        meta_value_and_grad(loss, inner_lr=0.1)(np.full(2, w), [((np.ones((3, 2)), np.ones(3)),) * 2])


def test_numpys_error_settings_are_left_as_they_were(exploding):
    w, tasks = exploding
    before = np.geterr()
    adapt(linear, w, tasks[0][0], inner_lr=0.1, inner_steps=1)
    with pytest.raises(FloatingPointError):
        meta_value_and_grad(linear, inner_lr=1.0, inner_steps=60)(w, tasks)
    assert np.geterr() == before


# ── found by planting errors: `python -m bench.oracle mutants maml` ─────────────────────────────────────────────────


def test_a_derivative_through_adapt_is_exact_unless_it_is_asked_to_be_of_first_order():
    params, tasks = mlp_params(), mlp_tasks(1)
    ((support, query),) = unstacked(tasks)
    for how in ({}, {"first_order": False}, {"first_order": True}):
        inner = dict(inner_lr=ALPHA, inner_steps=2, **how)
        through_adapt = grad(lambda p, inner=inner: mlp(adapt(mlp, p, support, **inner), *query))(params)
        close(through_adapt, meta_value_and_grad(mlp, **inner)(params, tasks)[1])


def test_a_later_task_that_diverges_at_the_query_is_named(exploding):
    w, ((tame, _), _) = exploding
    huge = (np.full((3, 2), 1e200), np.ones(3))
    for call in (
        lambda: meta_value_and_grad(linear, inner_lr=0.1)(w, [(tame, tame), (tame, huge)]),
        lambda: meta_loss(linear, w, [(tame, tame), (tame, huge)], inner_lr=0.1),
    ):
        with pytest.raises(FloatingPointError, match="task 1: the query loss is inf"):
            call()


def test_a_finite_loss_whose_slope_is_not_is_named():
    root = lambda w, x, y: np.sqrt(np.sum(w * x))  # noqa: E731
    flat, steep = (np.array([1.0, 0.0]), NONE), (np.array([0.0, 1.0]), NONE)
    with pytest.raises(FloatingPointError, match="task 1: the meta-gradient of params.*is not finite"):
        meta_value_and_grad(root, inner_lr=0.1, inner_steps=0)(np.array([1.0, 0.0]), [(flat, flat), (flat, steep)])


def test_the_value_is_one_array_and_with_aux_a_pair():
    params, tasks = mlp_params(), mlp_tasks()
    value, _ = meta_value_and_grad(mlp, inner_lr=ALPHA)(params, tasks)
    assert type(value) is np.ndarray and value.shape == ()
    (same, aux), _ = meta_value_and_grad(lambda *args: (mlp(*args), 1), inner_lr=ALPHA, has_aux=True)(params, tasks)
    assert type(same) is np.ndarray and same == value and aux == [1, 1, 1]


# ── flat memory ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("how", [dict(inner_lr=ALPHA), dict(inner_lr=RATES), dict(inner_lr=ALPHA, first_order=True)])
@pytest.mark.parametrize("steps", [0, 1, 2, 3, 7])
def test_flat_memory_gives_the_same_to_rounding(steps, how):
    flat, unrolled = (meta_value_and_grad(mlp, inner_steps=steps, memory=m, **how) for m in ("flat", "unrolled"))
    close(flat(mlp_params(), mlp_tasks()), unrolled(mlp_params(), mlp_tasks()))


def test_flat_memory_has_aux_of_the_query():
    def loss(params, x, y):
        value = mlp(params, x, y)
        return value, {"n": len(y), "loss": value}

    flat, unrolled = (meta_value_and_grad(loss, inner_lr=ALPHA, inner_steps=2, has_aux=True, memory=m)
                      for m in ("flat", "unrolled"))  # fmt: skip
    close(flat(mlp_params(), mlp_tasks()), unrolled(mlp_params(), mlp_tasks()))


def test_flat_memory_refuses_another_word_and_names_what_diverges(exploding):
    with pytest.raises(ValueError, match='memory is \'none\', wanted "unrolled" or "flat"'):
        meta_value_and_grad(mlp, inner_lr=ALPHA, memory="none")
    w, tasks = exploding
    said = []
    for memory in ("unrolled", "flat"):
        with pytest.raises(FloatingPointError) as error:
            meta_value_and_grad(linear, inner_lr=1.0, inner_steps=60, memory=memory)(w, tasks)
        said.append(str(error.value))
    assert said[0] == said[1] and "task 1, inner step" in said[0]


@pytest.mark.parametrize("steps", [*range(12), 31, 50, 64, 200])
def test_flat_moves_go_back_over_every_step_and_keep_few_parameters(steps):
    k, kept, deepest, forward, backward = 0, [], 0, 0, []
    for move in flat_moves(steps, first_order=False):
        if move == "push":
            kept.append(k)
            deepest = max(deepest, len(kept))
        elif move == "pop":
            k = kept.pop()
        elif move == "step":
            k, forward = k + 1, forward + 1
        else:
            backward.append((move, k))
    assert backward == [("query", steps), *(("back", k) for k in reversed(range(steps)))]
    assert not kept and deepest == math.ceil(math.log2(steps + 1))
    assert forward <= (steps + 1) / 2 * math.log2(steps + 1)
    assert [*flat_moves(steps, first_order=True)] == ["step"] * steps + ["query"]


@pytest.mark.parametrize("memory", ["unrolled", "flat"])
def test_one_task_is_a_summand(memory):
    """What `record` and `compile` take up."""
    meta = meta_value_and_grad(mlp, inner_lr=ALPHA, inner_steps=2, memory=memory)
    parts = [meta.of_task(mlp_params(), support, query) for support, query in unstacked(mlp_tasks())]
    mean = tree_map(lambda *x: sum(x) / len(x), *parts)
    close(mean, meta(mlp_params(), mlp_tasks()))


def peak(steps: int, width: int, examples: int) -> tuple[int, int]:
    """Bytes that the reference has allocated at most, in flat memory; and those of θ."""
    net = networks.mlp.mlp((20,), (width, width), 5)
    loss = lambda params, x, y: nn.cross_entropy(net.apply(params, x), y)  # noqa: E731
    rng = np.random.default_rng(0)
    draw = lambda: (rng.standard_normal((1, examples, 20)), rng.integers(0, 5, (1, examples)))  # noqa: E731
    params, tasks = net.init(rng, np.float64), (draw(), draw())
    f = meta_value_and_grad(loss, inner_lr=0.01, inner_steps=steps, memory="flat")
    f(params, tasks)
    tracemalloc.start()
    try:
        f(params, tasks)
        return tracemalloc.get_traced_memory()[1], sum(x.nbytes for x in tree_leaves(params))
    finally:
        tracemalloc.stop()


def test_flat_memory_at_fifty_steps_is_at_most_twice_that_at_one():
    one, fifty = (peak(steps, 20, 300)[0] for steps in (1, 50))
    assert fifty <= 2 * one, f"{one / 1e6:.2f} MB with one step, {fifty / 1e6:.2f} MB with fifty"


def test_flat_memory_grows_by_a_few_times_the_parameters():
    """By log₂ K times: K = 50 and the query are 51 steps, halved 6 times; K = 1 is two, halved once."""
    (one, theta), (fifty, _) = (peak(steps, 120, 10) for steps in (1, 50))
    assert fifty - one <= 6 * theta
    assert fifty <= 2 * one


# ── what `record` and `compile` use ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("memory", ["unrolled", "flat"])
def test_the_parts_in_their_order_give_one_task_s_gradient(memory):
    f = meta_value_and_grad(mlp, inner_lr=ALPHA, inner_steps=3, memory=memory)
    assert f.of_task.flat == (memory == "flat") and f.of_task.written is mlp and f.__name__ == "mlp"
    support, query = unstacked(mlp_tasks())[0]
    exact = meta_value_and_grad(mlp, inner_lr=ALPHA, inner_steps=3)(mlp_params(), [(support, query)])
    parts = flat.run_parts(f.of_task.parts(ALPHA), f.of_task.moves(), mlp_params(), support, query)
    for ours, wanted in zip(tree_leaves(parts), tree_leaves(exact), strict=True):
        np.testing.assert_allclose(ours, wanted, 1e-12, 1e-14)


def test_what_first_order_maml_would_compute_is_known():
    settings = dict(inner_lr=ALPHA, inner_steps=2)
    support, query = unstacked(mlp_tasks())[0]
    cheaper = meta_value_and_grad(mlp, **settings).of_task.cheaper(mlp_params(), support, query, ALPHA)
    first_order = meta_value_and_grad(mlp, **settings, first_order=True)
    wanted = first_order.of_task(mlp_params(), support, query)
    for a, b in zip(tree_leaves(cheaper), tree_leaves(wanted), strict=True):
        np.testing.assert_array_equal(a, b)
    assert first_order.of_task.cheaper is None


@pytest.mark.parametrize("call", [
    lambda loss, p, t: adapt(loss, p, unstacked(t)[0][0], inner_lr=ALPHA, inner_steps=1),
    lambda loss, p, t: meta_loss(loss, p, t, inner_lr=ALPHA),
    lambda loss, p, t: meta_value_and_grad(loss, inner_lr=ALPHA)(p, t),
])  # fmt: skip
def test_a_loss_cannot_write_to_the_data(call):
    def writes(params, x, y):
        x[0] = 0
        return mlp(params, x, y)

    with pytest.raises(ValueError, match="read-only"):
        call(writes, mlp_params(), mlp_tasks())
