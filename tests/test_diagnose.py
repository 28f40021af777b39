"""What is not finite is blamed on its equation; a prediction and a target that broadcast are noticed, once."""

import itertools
import re
import warnings

import numpy as np
import pytest

import tinymaml as tm
from tinymaml import diagnose

X, Y = np.array([[1.0], [2.0], [3.0]]), np.array([[1.0], [0.0], [2.0]])
W = {"w": np.zeros((1, 1)), "b": np.full(1, 0.5)}
TASKS = ((X[None], Y[None]), (X[None], Y[None]))


def mse(p, x, y):
    return np.mean((x @ p["w"] + p["b"] - y) ** 2)


LOSSES = {  # the loss, the leaf where it is the gradient, and the equation
    "a norm at 0": (
        lambda p, x, y: mse(p, x, y) + np.sqrt(np.sum(p["w"] * p["w"])), r"\['w'\]", "sqrt at 0 .*np.sqrt"),
    "a root at 0": (
        lambda p, x, y: np.mean(np.sqrt(x @ p["w"])), r"\['w'\]", r"sqrt at 0 .*at \[0, 0\] of \(3, 1\)"),
    "a branch that np.where hides": (
        lambda p, x, y: mse(p, x, y) + np.mean(np.where(x @ p["w"] > 0, np.sqrt(x @ p["w"]), 0)), r"\['w'\]",
        r"np\.where does not choose .*np\.where\(ok, x, 1\)"),
    "a root below 0 that np.where hides": (
        lambda p, x, y: mse(p, x, y) + np.mean(np.where(p["b"] > 1, np.sqrt(p["b"] - 1), 0)), r"\['b'\]",
        r"sqrt at -0\.5 .*np\.where does not choose"),
    "a power at 0": (
        lambda p, x, y: np.mean((x @ p["w"]) ** 0.5 + y), r"\['w'\]", "power at 0, .*base"),
    "a division by 0": (
        lambda p, x, y: np.mean(np.where(p["w"] == 0, p["b"], 1 / p["w"]) * x), r"\['w'\]", "divide at 1, 0 gives"),
    "a division by 0 in the loss": (
        lambda p, x, y: np.mean(x / p["w"]), None, "divide at 1, 0 gives inf"),
    "a logarithm of 0": (
        lambda p, x, y: mse(p, x, y) + 0 * np.sum(np.log(p["w"])), None, "log at 0 gives -inf.*cross_entropy"),
    "a logarithm below 0": (
        lambda p, x, y: np.mean(np.log(p["w"] - 1) * x), None, "log at -1 gives nan"),
}  # fmt: skip


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("how", ["adapt", "meta_loss", "unrolled", "flat", "compiled"])
def test_what_is_not_finite_is_blamed_on_its_step_leaf_and_equation(name, how):
    loss, leaf, equation = LOSSES[name]
    with pytest.raises(FloatingPointError) as caught, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if how == "adapt":
            tm.adapt(loss, W, (X, Y), inner_lr=0.1, inner_steps=2)
        elif how == "meta_loss":
            tm.meta_loss(loss, W, TASKS, inner_lr=0.1)
        else:
            meta = tm.meta_value_and_grad(loss, inner_lr=0.1, memory="flat" if how == "flat" else "unrolled")
            (tm.compile(meta) if how == "compiled" else meta)(W, TASKS)
    said = str(caught.value)
    assert "inner step 0: the " in said and ("task 0, " in said) == (how != "adapt")
    if leaf:
        assert re.search(f"the gradient of the support loss in params{leaf} is not finite", said)
    assert re.search(equation, said), said


def test_a_later_step_is_named():
    # θ: 1 → 0 → the slope of |θ|^½ is infinite there
    loss = lambda p, x: np.where(p > 0.5, p, 1.0) * x[0] + 0 * np.sqrt(np.abs(p))  # noqa: E731
    with pytest.raises(FloatingPointError, match=r"inner step 1: the gradient .*sqrt at 0 gives"):
        tm.adapt(loss, np.array(1.0), (np.ones(1),), inner_lr=1.0, inner_steps=3)


def test_the_meta_gradient_is_blamed_too():
    loss = lambda p, x, y: mse(p, x, y) + (np.sqrt(np.sum(p["w"] ** 2)) if len(x) == 1 else 0)  # noqa: E731
    still = ((X[None], Y[None] * 0), (X[None, :1], Y[None, :1]))  # θ stays where it is
    p = {"w": np.zeros((1, 1)), "b": np.zeros(1)}
    with pytest.raises(
        FloatingPointError, match=r"task 0: the meta-gradient of params\['w'\] is not finite: sqrt at 0"
    ):
        tm.meta_value_and_grad(loss, inner_lr=0.1)(p, still)


def test_what_diverges_by_itself_has_the_advice_of_a_smaller_rate():
    with pytest.raises(FloatingPointError, match=r"inner step \d+: .*smaller inner_lr"):
        tm.adapt(lambda p, x: np.sum(p**4 * x), np.full(1, 1e30), (np.ones(1),), inner_lr=1e3, inner_steps=9)


def test_no_equation_is_blamed_for_a_sum_that_overflows():
    loss = lambda p: np.sum(p * 1e308) * 1e-308  # noqa: E731
    with np.errstate(over="ignore"):
        assert diagnose.cause(loss, (np.ones(3),)) is None


def test_an_error_never_advises_to_read_the_value():
    for f in (lambda x: float(x), lambda x: np.array([x], float), lambda x: np.mean([x, x]), lambda x: int(x)):
        with pytest.raises(TypeError) as caught:
            tm.grad(f)(1.0)
        assert ".value" not in str(caught.value) and "np.stack" in str(caught.value)


# ── what broadcasts by accident ─────────────────────────────────────────────────────────────────────────────────────


def said(f):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        f()
    return [w for w in seen if issubclass(w.category, tm.BroadcastWarning)]


def flat_target(number=itertools.count()):  # noqa: B008
    """A new loss each time: (N, 1) against (N,)."""
    space: dict = {}
    exec(f"def loss(p, x, y):\n    return np.mean((x @ p['w'] - y) ** 2) + {next(number)}", {"np": np}, space)
    return space["loss"]


@pytest.mark.parametrize("how", ["adapt", "meta_loss", "unrolled", "flat", "compiled", "no steps"])
def test_a_prediction_and_a_target_that_broadcast_are_noticed_once(how):
    loss, y = flat_target(), Y[:, 0]
    tasks = (X[None], y[None]), (X[None], y[None])
    meta = tm.meta_value_and_grad(loss, inner_lr=0.01, inner_steps=0 if how == "no steps" else 2,
                                  memory="flat" if how == "flat" else "unrolled")  # fmt: skip
    run = {
        "adapt": lambda: tm.adapt(loss, W, (X, y), inner_lr=0.01, inner_steps=2),
        "meta_loss": lambda: tm.meta_loss(loss, W, tasks, inner_lr=0.01, inner_steps=2),
        "compiled": lambda: tm.compile(meta)(W, tasks),
    }.get(how, lambda: meta(W, tasks))
    (one,) = said(run)
    assert "shapes (3, 1) and (3,) broadcast to (3, 3)" in str(one.message)
    assert not said(run)


@pytest.mark.parametrize("loss", [
    mse,
    lambda p, x, y: np.mean((x @ p["w"] - y[0]) ** 2),  # a number
    lambda p, x, y: np.mean(x * p["w"] * (y - y[:, 0])),  # distances of data among themselves
    lambda p, x, y: np.mean((x @ p["w"] - (x @ p["w"])[:, 0]) ** 2),  # and of predictions
])  # fmt: skip
def test_what_is_meant_to_broadcast_is_not_noticed(loss):
    assert not said(lambda: tm.adapt(loss, W, (X, Y), inner_lr=0.01, inner_steps=1))


def test_a_loss_is_called_no_more_often_for_it():
    calls = []

    def loss(p, x, y):
        calls.append(1)
        return mse(p, x, y)

    tm.adapt(loss, W, (X, Y), inner_lr=0.01, inner_steps=2)
    assert len(calls) == 2
