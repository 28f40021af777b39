"""What becomes of a tensor where NumPy or Python makes an array or a number of it."""

import importlib
import math

import numpy as np
import pytest

import tinymaml as tm
from tinymaml import check_grads, value_and_grad

X = np.array([0.5, 2.0, -0.7])


def same(f, g, x=X):
    """f, which builds arrays of tensors, is g in value, gradient and second derivative."""
    for ours, theirs in zip(value_and_grad(f)(x), value_and_grad(g)(x), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-14)
    second = [tm.hvp(h, (x,), (np.cos(x),))[0] for h in (f, g)]
    np.testing.assert_allclose(*second, rtol=1e-13)


STACKED = {
    "numbers": (lambda x: np.array([x[0] * 2, x[1] ** 2]), lambda x: np.stack([x[0] * 2, x[1] ** 2])),
    "rows": (lambda x: np.array([x, x**2]), lambda x: np.stack([x, x**2])),
    "a nest": (lambda x: np.array([[x[0], 1.0], [x[1], x[2]]]),
               lambda x: np.stack([np.stack([x[0], 1.0]), np.stack([x[1], x[2]])])),
    "with arrays": (lambda x: np.array([x, X]), lambda x: np.stack([x, X])),
    "of one": (lambda x: np.array(x[0]), lambda x: x[0]),
    "asarray": (np.asarray, lambda x: x),
    "full": (lambda x: np.full((2, 3), x[1]), lambda x: np.broadcast_to(x[1], (2, 3))),
    "full of a row": (lambda x: np.full((2, 3), x), lambda x: np.broadcast_to(x, (2, 3))),
    "of nothing": (lambda x: np.array([x[:0], x[:0]]), lambda x: np.stack([x[:0], x[:0]])),
}  # fmt: skip
USES = {
    "squares": lambda a, x: np.sum(a * a),
    "sum over an axis": lambda a, x: np.sum(np.sum(a * a, axis=-1) * 3 + np.sum(a)),
    "ufuncs": lambda a, x: np.sum(np.exp(a) + np.tanh(a) * np.sin(a) - np.sqrt(a * a + 1)),
    "against a tensor": lambda a, x: np.sum(a * x[1] + x[0]),
    "concatenated": lambda a, x: np.sum(np.concatenate([np.ravel(a), x]) ** 2),
    "a method": lambda a, x: (a * a).sum() + a.ravel().dot(a.ravel()),
    "an index": lambda a, x: np.sum(a[..., :1] ** 2),
    "a layer": lambda a, x: np.sum(tm.nn.softplus(a)) + np.sum(tm.nn.relu(a + 0 * x[0])),
    "a comparison": lambda a, x: np.sum(np.where(np.abs(a) * x[1] > 0.9, a * x[0], a)),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("made", STACKED)
def test_an_array_of_tensors_is_as_good_as_one_tensor(made, use):
    ours, theirs = STACKED[made]
    axes = np.ndim(theirs(X))
    if use == "ufuncs" and made in ("a nest", "with arrays"):  # numbers have no method exp
        with pytest.raises(TypeError, match=r"tensors and numbers.*np\.stack makes one tensor"):
            tm.grad(lambda x: USES[use](ours(x), x))(X)
        return
    if use in ("sum over an axis", "an index") and not axes:
        pytest.skip("it has no axis")
    if use == "a layer":
        same(lambda x: USES[use](tm.numpy_api.as_array(ours(x)), x), lambda x: USES[use](theirs(x), x))
    else:
        same(lambda x: USES[use](ours(x), x), lambda x: USES[use](theirs(x), x))


def test_derivatives_of_an_array_of_tensors_are_numerical_ones():
    check_grads(lambda x: np.sum(np.array([[x[0], x[1]], [x[2] * x[0], 1.0]]) ** 3) + 0 * x, (X,), order=3)


def test_an_array_of_tensors_may_be_an_argument_a_result_or_a_parameter():
    inner = lambda x: tm.grad(lambda y: np.sum(y**3))(np.array([x[0], x[1]]))  # noqa: E731
    np.testing.assert_allclose(tm.grad(lambda x: np.sum(inner(x)))(X), [6 * X[0], 6 * X[1], 0])
    value, pullback = tm.vjp(lambda x: {"a": np.array([x[0], x[1] ** 2])}, X)
    np.testing.assert_array_equal(value["a"], [X[0], X[1] ** 2])
    np.testing.assert_array_equal(pullback({"a": np.ones(2)})[0], [1, 2 * X[1], 0])
    loss = lambda p, x: np.sum(p * x) ** 2  # noqa: E731
    adapted = lambda x: np.sum(tm.adapt(loss, np.array([x[0], x[1]]), (X[:2],), inner_lr=0.1, inner_steps=1))  # noqa: E731
    check_grads(lambda x: adapted(x) + 0 * np.sum(x), (X,), order=2)


def test_no_derivative_flows_through_what_is_stopped():
    f = lambda x: np.sum(tm.stop_gradient(np.array([x[0], x[1]])) * x[:2])  # noqa: E731
    np.testing.assert_array_equal(tm.grad(f)(X), [X[0], X[1], 0])


def test_a_program_of_an_array_of_tensors_is_compiled():
    f = value_and_grad(lambda x: np.sum(np.exp(np.array([x[0] * x[1], x[2]]))))
    fast = tm.compile(f)
    for x in (X, X + 1):
        for ours, theirs in zip(fast(x), f(x), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-14)


def test_integers_become_what_they_are():
    """No derivative flows through an argmax or a comparison."""

    def f(x):
        largest = np.argmax(x)
        return np.sum(np.eye(3)[largest] * x) + [10, 20, 30][largest] + np.arange(int(largest) + 1).sum()

    value, gradient = value_and_grad(f)(X)
    assert value == 2 + 20 + 1
    np.testing.assert_array_equal(gradient, [0, 1, 0])
    value, gradient = value_and_grad(lambda x: np.sum(np.array([1.0, 2.0])[(x > 0).astype(int)] * x))(X)
    np.testing.assert_array_equal(gradient, [2, 2, 1])


REFUSED = {
    "c[0] = t": (lambda x: _written(lambda c: c.__setitem__(0, x[0])), r"np\.stack.*c\[i\] = t"),
    "c[:] = t": (lambda x: _written(lambda c: c.__setitem__(slice(None), x)), r"np\.stack.*c\[i\] = t"),
    "c[0] of rows": (lambda x: _written(lambda c: c.__setitem__(0, x), (2, 3)), r"np\.stack"),
    "np.mean of a list": (lambda x: np.mean([x[0], x[1]]), r"float64 cannot hold a tensor: np\.stack"),
    "an array of floats": (lambda x: np.array([x, x], float), r"float64 cannot hold a tensor"),
    "asarray of float32": (lambda x: np.asarray(x, np.float32), r"float32 cannot hold a tensor"),
    "float(t)": (lambda x: float(x[0]), "has_aux=True"),
    "int(t)": (lambda x: int(x[0]), "has_aux=True"),
    "complex(t)": (lambda x: complex(x[0]), "has_aux=True"),
    "t.item()": (lambda x: x[0].item(), "has_aux=True"),
    "t.tolist()": (lambda x: x.tolist(), "has_aux=True"),
    "math.exp": (lambda x: math.exp(x[0]), r"np\.exp\(x\) takes the place of math\.exp"),
    "range(t)": (lambda x: range(x[0]), "number of Python"),
    "t[0] = 1": (lambda x: x.__setitem__(0, 1.0), "never written to"),
}


def _written(write, shape=3):
    c = np.zeros(shape)
    write(c)
    return np.sum(c)


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_cut_the_graph_is_refused_and_says_what_to_write(name):
    f, message = REFUSED[name]
    with pytest.raises(TypeError, match=message) as caught:
        tm.grad(lambda x: np.sum(f(x)))(X)
    assert ".value" not in str(caught.value)


@pytest.mark.parametrize("call", [
    lambda s, x: s.special.logsumexp(x), lambda s, x: np.sum(s.special.softmax(x)),
    lambda s, x: np.sum(s.stats.norm.logpdf(x)), lambda s, x: np.sum(s.linalg.expm(np.outer(x, x))),
])  # fmt: skip
def test_functions_of_scipy_that_take_arrays_alone_say_so(call):
    scipy = pytest.importorskip("scipy")
    for name in ("linalg", "special", "stats"):
        importlib.import_module(f"scipy.{name}")
    with pytest.raises(TypeError, match=r"scipy\.\S+ takes no tensors: .*tm\.nn"):
        tm.grad(lambda x: call(scipy, x))(X)


def test_a_missing_attribute_says_what_to_write():
    t = tm.Tensor(X)
    np.testing.assert_array_equal(t.tanh().value, np.tanh(X))
    with pytest.raises(AttributeError, match=r"a tensor has no attribute 'interp'; np\.interp\(x\) is a function"):
        _ = t.interp
    with pytest.raises(AttributeError, match="a tensor has no attribute 'foo'$"):
        _ = t.foo
    assert not hasattr(t, "__foo__")


def test_a_jvp_of_integers_is_zero():
    (index, square), (d_index, d_square) = tm.jvp(lambda x: (np.argmax(x), x * x), (X,), (X,))
    assert index == 1 and d_index == 0
    np.testing.assert_array_equal(d_square, 2 * X * X)


def test_argnums_may_be_an_integer_of_numpy():
    np.testing.assert_array_equal(tm.grad(lambda a, b: np.sum(a * b), np.int64(1))(X, 2 * X), X)
    with pytest.raises(TypeError):
        tm.grad(lambda a, b: np.sum(a * b), 1.0)(X, X)
