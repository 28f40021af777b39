"""The checker checked: what is right passes; whatever is planted is caught, at the order at which it goes wrong."""

import numpy as np
import pytest

import tinymaml as tm
from tinymaml import GradientError, Primitive, check_grads, stop_gradient

RNG = np.random.default_rng(0)
X = RNG.standard_normal(4)
W = RNG.standard_normal((3, 4))
SQUARE = RNG.standard_normal((3, 3))


def value(x):
    return x.value if isinstance(x, tm.Tensor) else x


@pytest.fixture
def plant():
    """Makes primitives of the test's own, and takes them out of the registry afterwards."""
    before = dict(Primitive.registry)
    yield lambda name, forward, *rules: Primitive(f"planted {name}", forward, rules)
    Primitive.registry.clear()
    Primitive.registry.update(before)


# ── what is right passes ────────────────────────────────────────────────────────────────────────────────────────────

RIGHT = {
    "one number": (lambda x: np.sin(x) * x, (0.7,)),
    "an array out": (np.tanh, (X,)),
    "two arguments": (lambda w, x: np.exp(w @ x / 3), (W, X)),
    "a nest in and a nest out": (
        lambda p, x: {"y": np.tanh(p["layers"][0] @ x), "z": [p["b"] ** 2 * x[0]]},
        ({"layers": [W], "b": np.array(2.0)}, X),
    ),
    "integer labels are constants": (tm.nn.cross_entropy, (W, np.array([0, 3, 1]))),
    "an argument not used": (lambda x, y: np.sum(x**3), (X, W)),
    "zero everywhere": (lambda x: np.sum(x) * 0, (X,)),
    "constant": (lambda x: np.ones(2), (X,)),
    "linear": (lambda x: 3 * x, (X,)),
    "entries of any size": (lambda x: np.sum(x**2), (np.array([1e-8, 1.0, 1e3]),)),
    "values of any size": (lambda x: 1e9 * np.sum(np.sin(x)), (X,)),
    "an empty array": (lambda x, y: np.sum(x**2) + np.sum(y), (X, np.ones((0, 3)))),
    "no complex numbers": (lambda x: np.sum((x - np.floor(x)) ** 3), (X,)),
    "cast to real": (lambda x: np.sum(x.astype(np.float64) ** 3), (X,)),
    "a product of zeros": (np.prod, (np.zeros(5),)),
    "many kinks nearby": (lambda x: np.sum(np.abs(x)), (np.linspace(-1, 1, 20000),)),
    "complex numbers": (lambda z, x: np.exp(z * x) * np.conj(z), (X[:3] + 1j * W[:, 0], X[1:])),
    "a real number of complex ones": (lambda z: np.sum(np.abs(z) ** 3) + np.real(z[0]) ** 2, (X[:3] + 1j * W[:, 0],)),
    "complex data": (lambda w: np.mean(np.abs((W + 1j * W[::-1]) @ w) ** 4), (X,)),
    "an output that is complex": (lambda x: np.fft.fft(x) * x, (X,)),
    "nested derivatives": (lambda x: tm.grad(lambda y: np.sum(np.tanh(y) ** 2))(x), (X,)),
}


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("case", RIGHT)
def test_right_derivatives_pass(case, order):
    f, args = RIGHT[case]
    assert check_grads(f, args, order=order) is None


@pytest.mark.parametrize("seeds", [2, pytest.param(5, marks=pytest.mark.slow)])
@pytest.mark.parametrize("every_element", [False, True])
@pytest.mark.parametrize("f", [
    lambda x: np.std(x, 0), lambda x: np.sqrt(x * x), lambda x: np.sum(np.exp(x) / np.sum(np.exp(x))),
    lambda x: np.sin(x) ** 2 + np.cos(x) ** 2, lambda x: np.sum(x - np.mean(x)),
], ids=["std of two", "root of a square", "sum of a softmax", "sin² + cos²", "sum of what is centred"])  # fmt: skip
def test_a_derivative_that_is_exactly_zero_is_no_false_alarm(f, every_element, seeds):
    for seed in range(seeds):
        x = np.random.default_rng(seed).standard_normal((2, 4))
        check_grads(f, (x,), order=2 if every_element else 3, every_element=every_element, seed=seed)


def test_noise_does_not_hide_a_wrong_slope_where_the_right_one_is_zero(plant):
    sine = plant("sin", np.sin, lambda g, z, x: g * np.cos(x) * (1 + 1e-9))
    with pytest.raises(GradientError):
        check_grads(lambda x: sine(x) ** 2 + np.cos(x) ** 2, (X,), order=1)


@pytest.mark.parametrize("every_element", [False, True])
def test_a_wrong_derivative_along_the_imaginary_axis_is_caught(plant, every_element):
    z = X + 1j * W[0]
    real_part = plant("real", lambda z: np.array(z.real), lambda g, x, z: g + 0.5j)
    with pytest.raises(GradientError, match=r"args\[0\] at \[\d\], along i, is .* finite differences give 0"):
        check_grads(lambda z: np.sum(real_part(z)), (z,), order=1, every_element=every_element)
    conjugated = plant("square", lambda z: z * z, lambda g, w, z: g * 2 * np.conj(z))
    with pytest.raises(GradientError, match="order 1"):
        check_grads(conjugated, (z,), order=1, every_element=every_element)


@pytest.mark.parametrize("every_element", [False, True])
def test_the_wrong_element_is_named(plant, every_element):
    wrong = np.ones((5, 7))
    wrong[3, 4] = 1 + 1e-5
    cube = plant("cube", lambda x: x**3, lambda g, z, x: g * 3 * x * x * wrong)
    with pytest.raises(GradientError, match=r"args\[0\] at \[3, 4\] is"):
        check_grads(cube, (RNG.uniform(1, 2, wrong.shape),), order=1, every_element=every_element)


def test_a_large_function_takes_few_evaluations():
    calls = []
    nest = {str(i): np.ones((30, 30)) for i in range(20)}
    check_grads(lambda p: calls.append(1) or sum(np.sum(np.tanh(w)) for w in p.values()), (nest,), order=1)
    assert len(calls) < 20 * 2 * 6


def test_a_large_argument_passes():
    check_grads(lambda x: np.sum(np.tanh(x) ** 2), (RNG.standard_normal((40, 50)),), order=2)


def test_float32_input_is_checked_in_float64():
    seen = set()
    check_grads(lambda x: seen.add(np.real(value(x)).dtype) or np.sum(np.exp(x) ** 2), (X.astype(np.float32),), order=2)
    assert seen == {np.dtype(np.float64)}


def test_the_arguments_are_not_modified():
    x = X.copy()
    x.flags.writeable = False
    check_grads(lambda x: np.sum(x**3), (x,))
    np.testing.assert_array_equal(x, X)


# ── what is wrong is caught, where it is wrong ──────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "rule",
    {
        "by 1e-5": lambda g, z, x: g * 3 * x * x * (1 + 1e-5),
        "by 1e-8, seen by the complex step": lambda g, z, x: g * 3 * x * x * (1 + 1e-8),
        "in sign": lambda g, z, x: g * -3 * x * x,
        "by a missing cotangent": lambda g, z, x: 3 * x * x,
        "at one element": lambda g, z, x: g * 3 * x * x + g * np.array([0, 0, 1e-5, 0]),
        "with NaN": lambda g, z, x: g * np.array([3, 3, 3, np.nan]),
        "with zero": lambda g, z, x: g * 0,
    }.values(),
)
def test_a_wrong_rule_is_caught_at_the_first_order(plant, rule):
    cube = plant("cube", lambda x: x**3, rule)
    with pytest.raises(GradientError, match=r"order 1: the derivative in args\[0\]"):
        check_grads(cube, (X,), order=1)


def test_a_missing_rule_is_caught():
    with pytest.raises(GradientError, match="order 1"):
        check_grads(lambda x: x * stop_gradient(x), (X,), order=1)


def test_a_matmul_rule_without_its_transpose_is_caught(plant):
    right = plant("matmul", np.matmul, lambda g, z, x, y: g @ y.T, lambda g, z, x, y: x.T @ g)
    check_grads(right, (SQUARE, SQUARE + 1))
    wrong = plant("matmul", np.matmul, lambda g, z, x, y: g @ y.T, lambda g, z, x, y: x @ g)
    with pytest.raises(GradientError, match=r"order 1: the derivative in args\[1\]"):
        check_grads(wrong, (SQUARE, SQUARE + 1))


def test_a_rule_wrong_only_at_the_second_order_is_caught_there(plant):
    inner = plant("inner", lambda x: 3 * x * x, lambda g, z, x: g * 3 * x)  # should be 6 x
    rules = {
        "reads a value": lambda g, z, x: g * 3 * value(x) ** 2,
        "holds the point constant": lambda g, z, x: g * stop_gradient(3 * x * x),
        "holds the cotangent constant": lambda g, z, x: stop_gradient(g) * 3 * x * x,
        "calls a primitive with a wrong rule": lambda g, z, x: g * inner(x),
    }
    for what, rule in rules.items():
        cube = plant(what, lambda x: x**3, rule)
        check_grads(cube, (X,), order=1)
        with pytest.raises(GradientError, match="order 2"):
            check_grads(cube, (X,), order=2)


def test_a_rule_wrong_only_at_the_third_order_is_caught_there(plant):
    inner = plant("inner", lambda x: 3 * x * x, lambda g, z, x: g * 6 * value(x))
    cube = plant("cube", lambda x: x**3, lambda g, z, x: g * inner(x))
    check_grads(cube, (X,), order=2)
    with pytest.raises(GradientError, match="order 3"):
        check_grads(cube, (X,), order=3)


def test_a_value_which_tensors_change_is_caught():
    with pytest.raises(GradientError, match="order 0: output 1 on tensors"):
        check_grads(lambda x: (x, x * (1.000001 if isinstance(x, tm.Tensor) else 1)), (X,))


def test_a_value_which_is_not_a_number_is_caught():
    with pytest.raises(GradientError):
        check_grads(lambda x: x * np.array([1, 1, 1, np.nan]), (X,))


def test_what_complex_numbers_cannot_enter_is_still_caught_by_finite_differences(plant):
    def real_only(x):
        if np.iscomplexobj(x):
            raise TypeError("real numbers only")
        return x**3

    right = plant("right", real_only, lambda g, z, x: g * 3 * x * x)
    check_grads(right, (X,), order=1)
    wrong = plant("wrong", real_only, lambda g, z, x: g * 3 * x * x * (1 + 1e-5))
    with pytest.raises(GradientError, match="finite differences give"):
        check_grads(wrong, (X,), order=1)


@pytest.mark.parametrize("seed", range(5))
def test_one_wrong_element_of_a_large_argument_is_caught(plant, seed):
    x = RNG.standard_normal((20, 30))
    wrong = np.ones(x.shape)
    wrong[7, 11] = 1.01
    cube = plant("cube", lambda x: x**3, lambda g, z, x: g * 3 * x * x * wrong)
    with pytest.raises(GradientError):
        check_grads(cube, (x,), order=1, seed=seed)


def test_the_message_names_order_argument_element_and_both_numbers(plant):
    wrong = plant("double", lambda x: 2 * x, lambda g, z, x: g * np.array([[2, 2, 2], [2, 2, 1]]))
    params = {"layers": [{"w": np.ones((2, 3))}, np.ones(2)]}
    f = lambda scale, p: np.sum(wrong(p["layers"][0]["w"])) * scale  # noqa: E731
    with pytest.raises(GradientError) as caught:
        check_grads(f, (np.array(1.0), params))
    message = str(caught.value)
    for part in ("order 1", "args[1]['layers'][0]['w']", "at [1, 2]", "finite differences give", "error 5.0e-01"):
        assert part in message


def test_an_error_in_the_cotangent_is_named_so(plant):
    sine = plant("sine", np.sin, lambda g, z, x: stop_gradient(g) * np.cos(x))
    with pytest.raises(GradientError, match="order 2: the derivative in cotangent 0 of order 1"):
        check_grads(sine, (X,), order=2)


def test_nothing_to_differentiate_is_refused():
    with pytest.raises(TypeError, match="nothing to differentiate"):
        check_grads(lambda i: i * 2, (np.arange(3),))
