"""Awkward inputs, beside NumPy and JAX: a sample agrees but for what has reasons; planted errors do not agree.

`python -m bench awkward` compares them all.
"""

import random

import numpy as np
import pytest
from cases import sampled

import tinymaml as tm
from bench import __main__ as command
from bench import awkward
from bench.awkward import Difference, Reason, Recipe, examine, inputs
from tinymaml import ops
from tinymaml.numpy_api import NUMPY

pytest.importorskip("numba")  # as for the tables that are used
pytest.importorskip("scipy")

X = np.array([[0.5, -1.5, 2.0], [-0.25, 1.0, 3.0]])
MASK = np.array([[True, False, True], [False, True, True]])


def recipe(f, *args, name="planted") -> Recipe:
    return Recipe(name, 0, f, args or (X,), f, f)


def compared(recipes, seed: int = 0, with_jax: bool = True) -> awkward.Report:
    """Beside JAX, where shapes stay as they are: for each other shape, all of its functions are compiled once more."""
    report = awkward.Report(recipes, seed)
    for one in recipes:
        for how, args in inputs(one, seed):
            if how in awkward.VALUES or not with_jax:
                report.add(examine(one, how, args, seed, with_jax))
    return report


def strange(recipes, seed: int = 0, with_jax: bool = True) -> list[Difference]:
    """All differences of these recipes that have no reason."""
    return compared(recipes, seed, with_jax).strange


@pytest.fixture
def jax():
    """JAX in double precision."""
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    return jax


# ── samples ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("seed", sampled(range(3), 3))
def test_values_are_numpys(seed):
    chosen = awkward.recipes()[seed::3]
    assert len(chosen) > 250
    assert not strange(chosen, seed, with_jax=False)


@pytest.mark.parametrize("count", [5, pytest.param(30, marks=pytest.mark.slow)])
def test_derivatives_of_a_sample_are_jaxs(jax, count):
    report = compared(random.Random(0).sample([one for one in awkward.recipes() if one.written], count))
    assert not report.strange
    assert report.jax["compared"] > 5 * count, report.jax


# ── recipes ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_function_without_a_recipe_is_an_error(monkeypatch):
    assert awkward.recipes()
    monkeypatch.setitem(NUMPY, np.busday_count, None)
    with pytest.raises(LookupError, match="no recipe for busday_count"):
        awkward.recipes()
    monkeypatch.delitem(NUMPY, np.busday_count)
    monkeypatch.setattr(tm.nn, "swish", awkward_layer, raising=False)
    with pytest.raises(LookupError, match="no recipe for nn.swish"):
        awkward.recipes()


def awkward_layer(x):
    return x


awkward_layer.__module__ = "tinymaml.nn"


def test_inputs_are_awkward_in_every_way():
    made = dict(inputs(recipe(lambda x, y, i: x, X, X[0], np.array([1, 0]))))
    assert {x.dtype for args in made.values() for x in args[:1]} == {*awkward.DTYPES, np.dtype(float)}
    shapes = {args[0].shape for args in made.values()}
    assert {(2, 3), (0, 3), (0, 0), (1, 1), (2, 1), ()} == shapes
    assert any(min(args[0].strides, default=0) < 0 for args in made.values())
    assert any(0 in args[0].strides for args in made.values() if args[0].size > 1)
    assert made["repeated indices"][2].tolist() == [0, 0] and made["ties"][0].tolist() == np.round(X).tolist()
    assert np.signbit(made["zeros of both signs"][0]).any() and not made["zeros of both signs"][0].any()
    assert len(made["no axis, of the first argument"][1].shape) == 1
    other = dict(inputs(recipe(np.sin), seed=1))["as they are"][0]
    assert (other != X).all() and np.allclose(other, X, rtol=0.26)


# ── what is wrong is found ──────────────────────────────────────────────────────────────────────────────────────────


def whats(one: Recipe, **how) -> set[str]:
    return {found.what for found in strange([one], **how)}


@pytest.mark.parametrize(
    "wrong, what",
    [
        (lambda m, axis=None: m, {"value"}),
        (lambda m, axis=None: ops.astype(m[::-1, ::-1], dtype=np.dtype(np.float64)), {"dtype"}),
        (lambda m, axis=None: (m[::-1, ::-1],), {"nest"}),
        (lambda m, axis=None: m.oops, {"error"}),
        (lambda m, axis=None: ops.getitem(m, template=(slice(None, None, -1),) * 2) + 0.0 * m.size, {"dtype"}),
    ],
)
def test_a_wrong_value_dtype_nest_or_error_is_found(monkeypatch, wrong, what):
    one = recipe(np.flip)
    assert not strange([one], with_jax=False)
    monkeypatch.setitem(NUMPY, np.flip, wrong)
    assert what <= whats(one, with_jax=False)


def test_a_value_where_numpy_refuses_is_found(monkeypatch):
    one = recipe(lambda x: np.swapaxes(x, 0, 1))
    assert not strange([one], with_jax=False)
    monkeypatch.setitem(NUMPY, np.swapaxes, lambda a, i, j: a.T)
    assert {found.how for found in strange([one], with_jax=False)} == {"no axis"}


def test_a_wrong_gradient_is_found_beside_jax(monkeypatch, jax):
    one = recipe(lambda x: np.where(MASK, np.sin(x), x * x))
    assert not strange([one])
    monkeypatch.setattr(ops.sin, "vjp", (lambda g, z, x: g * np.cos(x) * (1 + 1e-9),))
    assert {"gradient", "second derivative"} <= whats(one)


def test_a_gradient_that_is_wrong_at_a_tie_alone_is_found(monkeypatch, jax):
    one = recipe(lambda x: np.max(x, 1))
    assert not strange([one])
    monkeypatch.setattr(ops._max, "vjp", (lambda g, z, x, *, axis, keepdims, ties: g[:, None] * (x == z[:, None]),))
    assert {found.how for found in strange([one])} == {"zeros", "zeros of both signs", "ones", "all alike"}


def test_a_second_derivative_that_is_lost_is_found(monkeypatch, jax):
    one = recipe(np.exp)
    assert not strange([one])
    monkeypatch.setattr(ops.exp, "vjp", (lambda g, z, x: g * tm.stop_gradient(z),))
    assert whats(one) == {"second derivative"}


def test_a_gradient_that_cannot_be_had_is_found(monkeypatch, jax):
    def refuse(g, z, x):
        raise NotImplementedError("planted")

    monkeypatch.setattr(ops.exp, "vjp", (refuse,))
    found = strange([recipe(np.exp)])
    assert {one.what for one in found} == {"gradient", "second derivative"}
    assert "NotImplementedError: planted" in str(found[0])


# ── JAX's functions in the place of NumPy's ─────────────────────────────────────────────────────────────────────────


def _helped(x):
    return np.linalg.norm(x, axis=[0][0]) + np.float64(1)


def test_functions_mean_jaxs_wherever_they_stand(jax):
    held = np.tanh
    functions = [
        np.sin, lambda x: np.cos(x), lambda x, f=np.exp: f(x), lambda x: held(x), _helped, lambda x: _helped(x),
        lambda x: [np.take(x, [0, 1, 0], 1), np.sum(x, dtype=np.float64)], lambda x: x.clip(0, 1) @ x.T,
    ]  # fmt: skip
    for f in functions:
        made = awkward.in_jax(f)(jax.numpy.asarray(X))
        assert all(isinstance(y, jax.Array) for y in tm.tree_leaves(made))
        for x, y in zip(tm.tree_leaves(made), tm.tree_leaves(f(X)), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-6)
    with pytest.raises(awkward.NoCounterpart):
        awkward.in_jax(lambda x: np.busday_count(x, x))(X)


# ── reasons, and the command ────────────────────────────────────────────────────────────────────────────────────────


def test_the_command_tells_what_has_a_reason_from_what_has_none(monkeypatch, capsys):
    pytest.importorskip("jax")
    monkeypatch.setenv("XLA_FLAGS", "")  # which the command would set for all that comes after it
    monkeypatch.setitem(NUMPY, np.flip, lambda m, axis=None: m)
    monkeypatch.setattr(awkward, "recipes", lambda: [recipe(np.flip, name="flip"), recipe(np.ravel, name="ravel")])
    monkeypatch.setattr(awkward, "inputs", lambda one, seed: [*inputs(one, seed)][:2])
    monkeypatch.setattr(awkward, "REASONS", [])
    assert command.main(["awkward", "--function", "flip"]) == 1
    said = capsys.readouterr().out
    assert "without a reason: flip 0, as they are: value" in said and "1 functions, 1 recipes, seed 0" in said
    assert command.main(["awkward", "--function", "ravel"]) == 0

    monkeypatch.setattr(awkward, "REASONS", [Reason("planted", "flip")])
    assert command.main(["awkward"]) == 0
    assert "planted: flip" in capsys.readouterr().out
    monkeypatch.setattr(awkward, "REASONS", [Reason("planted", "flip"), Reason("stale", "ravel")])
    assert command.main(["awkward"]) == 1
    assert "holds for no pair: stale" in capsys.readouterr().out
    monkeypatch.setattr(awkward, "REASONS", [Reason("planted", "flip", what="gradient")])
    assert command.main(["awkward", "--list"]) == 1

    with pytest.raises(SystemExit):
        command.main(["awkward", "--function", "flap"])
    assert "no function flap; there are flip, ravel" in capsys.readouterr().err
