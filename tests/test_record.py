"""What a function meets while it is recorded: the same types as when it runs, or a refusal that no code can swallow.

A program is compared with the function itself, to the bit and the dtype, on numbers other than the recorded ones.
"""

import contextlib
import copy
import functools
import pickle
import threading
import warnings
from collections.abc import Iterable, Sized
from numbers import Number

import numpy as np
import pytest
from test_engine import WRITTEN, buffer, centred, derivatives

import tinymaml as tm
from tinymaml import nn
from tinymaml.nest import tree_leaves
from tinymaml.programs import RecordError, record
from tinymaml.programs.program import signature_and_inputs
from tinymaml.programs.tracing import Recording

X = np.array([3.0, 0.5, -5.0])
F4 = np.array([0.3, -1.5], np.float32)


def assert_same_function(f, *args, on=None) -> tm.Program:
    """The program for `args` is f at `on`: values, dtypes and shapes."""
    program, on = record(f, *args), on or args
    ours, theirs = tree_leaves(program(*on)), tree_leaves(f(*on))
    for a, b in zip(ours, theirs, strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        np.testing.assert_array_equal(a, b)
    return program


# ── types ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def of_gradient(then, otherwise):
    """What an inner gradient is, asked where no derivative is around it."""

    def f(w):
        g = tm.grad(lambda w: np.sum(w**3))(w)
        return then(g) if isinstance(g, np.ndarray) else otherwise(g)

    return f  # fmt: skip


ASKED = {
    "isinstance": lambda a: a / 255 if isinstance(a, np.ndarray) else a,
    "one of several": lambda a: a / 255 if isinstance(a, (list, np.ndarray)) else a,
    "not a list": lambda a: a if isinstance(a, (list, tuple, dict, float, int)) else a / 255,
    "of what is computed": lambda a: a / 255 if isinstance(a * 2 + 1, np.ndarray) else a,
    "of a part": lambda a: a / 255 if isinstance(a[1:], np.ndarray) else a,
    "of a copy": lambda a: a / 255 if isinstance(np.copy(a), np.ndarray) and isinstance(a.copy(), np.ndarray) else a,
    "of what is cut": lambda a: a / 255 if isinstance(tm.stop_gradient(a), np.ndarray) else a,
    "__class__": lambda a: a / 255 if a.__class__ is np.ndarray else a,
    "iterable and sized": lambda a: a / 255 if isinstance(a, Iterable) and isinstance(a, Sized) else a,
    "a number": lambda a: a if isinstance(a, Number) or np.isscalar(a) else a / 255,
    "singledispatch": None,  # see below
    "hasattr value": lambda a: a if hasattr(a, "value") else a / 255,
    "getattr value": lambda a: getattr(a, "value", a) / 255,
    "hasattr of a tensor's parts": lambda a: a if any(hasattr(a, n) for n in ("primitive", "inputs")) else a / 255,
    "hasattr of nothing": lambda a: a if hasattr(a, "no_such_thing") else a / 255,
    "hasattr of what both have": lambda a: a / 255 if hasattr(a, "shape") and hasattr(a, "astype") else a,
    "try value": None,
    "match": None,
    "a gradient": of_gradient(lambda g: g / 255, lambda g: g),
    "a gradient's value": of_gradient(lambda g: getattr(g, "value", g / 255), lambda g: g),
    "a gradient in a derivative": tm.grad(lambda w: np.sum(of_gradient(lambda g: g, lambda g: g * g)(w))),
    "a tensor": tm.grad(lambda w: np.sum(w if isinstance(w, np.ndarray) else w * w)),
    "a tensor and data": tm.grad(lambda w, a: np.sum(w * (a / 255 if isinstance(a, np.ndarray) else a))),
    "a product of both": tm.grad(lambda w, a: np.sum(w * w if isinstance(w * a, np.ndarray) else w * a)),
    "a value": lambda w: of_gradient(lambda g: g, lambda g: -g)(tm.value_and_grad(lambda w: np.sum(w * w))(w)[1]),
    "a pushforward": lambda w: w * 2 if isinstance(tm.jvp(np.sin, (w,), (w,))[1], np.ndarray) else w,
    "a product with the Hessian": lambda w: w * 2 if isinstance(tm.hvp(lambda w: np.sum(w**3), (w,), (w,))[0],
                                                               np.ndarray) else w,
    "a derivative of constants": lambda w: w * tm.grad(lambda v: np.sum(v**3))(np.array([1.0, 2, 3])),
    "a derivative at constants": lambda w: tm.grad(lambda v: np.sum(w * v**3))(np.array([1.0, 2, 3])),
    "constants that decide": lambda w: w if np.sum(tm.grad(lambda v: np.sum(v**3))(np.ones(3))) > 8 else -w,
}  # fmt: skip


@functools.singledispatch
def dispatched(a):
    return a


@dispatched.register
def _(a: np.ndarray):
    return a / 255


def tried(a):
    try:
        return a.value
    except AttributeError:
        return a / 255


def matched(a):
    match a:
        case float() | int():
            return a
        case np.ndarray():
            return a / 255


ASKED |= {"singledispatch": dispatched, "try value": tried, "match": matched}


@pytest.mark.parametrize("what", ASKED)
def test_a_function_sees_the_types_it_sees_when_it_runs(what):
    f = ASKED[what]
    args = (X, X[::-1]) if what in ("a tensor and data", "a product of both") else (X,)
    assert_same_function(f, *args, on=tuple(a * 1.5 for a in args))


def test_numpy_asks_for_types_too():
    """Before it hands a call over it looks at its arguments' types, which is no question of the function's."""
    c, m = np.arange(3.0), np.eye(3)
    assert_same_function(lambda x: np.dot(c, np.sum(x)) + np.where(c > 1, np.sum(x), c) + np.multiply(c, x[0]), X)
    assert_same_function(lambda x: np.stack([c[0], np.sum(x), 1.0]) + np.clip(c, np.min(x), np.max(x)), X)
    assert_same_function(lambda x: np.outer(np.sum(x), c) + m * np.mean(x), X)
    assert_same_function(lambda x: np.concatenate([c, np.reshape(np.sum(x), (1,))]), X)
    loss = lambda x, y: np.sum(np.where(c > 1, np.sum(x), np.sum(y)) * np.stack([y[0], x[0], 1]))  # noqa: E731
    assert_same_function(tm.grad(loss), X, X * 2)
    assert_same_function(lambda p, lr: np.stack([np.sum(p), lr]), F4, 0.1)
    assert_same_function(lambda p, lr: np.hypot(np.sum(p), lr), F4, 0.1)
    with pytest.raises(RecordError, match="isinstance.*which is not known"):
        record(lambda x: np.dot(c, np.sum(x)) if isinstance(np.sum(x), np.ndarray) else np.dot(c, np.sum(x)), X)
    with pytest.raises(RecordError, match="isinstance.*which is not known"):
        record(lambda x: np.sum(x).fill(3) if isinstance(np.sum(x), np.ndarray) else x, X)


def test_integer_data_is_an_array_in_a_derivative_too():
    """Divided by 255 where it is an array, and it is one."""
    scaled = lambda a: a / 255 if isinstance(a, np.ndarray) else a  # noqa: E731
    assert record(scaled, np.array([0], np.uint8))(np.array([255], np.uint8)) == 1
    loss = lambda w, a: np.sum(w * scaled(a))  # noqa: E731
    program = record(tm.value_and_grad(loss), np.ones(1), np.array([0], np.uint8))
    assert program(np.ones(1), np.array([255], np.uint8)) == (1, 1)


@pytest.mark.parametrize("memory", ["unrolled", "flat"])
def test_types_are_true_in_meta_gradients(memory):
    def loss(w, x, y):
        x = x / 255 if isinstance(x, np.ndarray) else x
        w = -w if isinstance(w, np.ndarray) else w
        return np.mean((x @ w - y) ** 2)

    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 255, (2, 4, 3)).astype(np.uint8), rng.normal(size=(2, 4))
    f = tm.meta_value_and_grad(loss, inner_lr=0.1, inner_steps=2, memory=memory)
    w = rng.normal(size=3)
    (value, grad), (value_, grad_) = tm.compile(f, backend="replay")(w, ((x, y), (x, y))), f(w, ((x, y), (x, y)))
    np.testing.assert_allclose(value, value_, rtol=1e-13)
    np.testing.assert_allclose(grad, grad_, rtol=1e-13)


# ── what is refused ─────────────────────────────────────────────────────────────────────────────────────────────────


def in_derivative(f):
    return tm.grad(lambda x: np.sum(f(x)))


def clipped_by_value(w):
    return w * np.minimum(1, 1 / np.linalg.norm(w.value))


READ = {
    "a branch on a value": in_derivative(lambda x: x[0] * 2 if x.value.max() > 2 else x[0]),
    "an index from a value": in_derivative(lambda x: x[int(np.argmax(x.value))] ** 2),
    "a norm of values": in_derivative(clipped_by_value),
    "a value in an inner loop": in_derivative(lambda x: x - tm.grad(lambda y: np.sum(y * y.value))(x)),
    "hasattr": in_derivative(lambda x: x if hasattr(x, "value") else -x),
    "getattr": in_derivative(lambda x: getattr(x, "value", x) * x),
    "the record": in_derivative(lambda x: x if x.primitive is None else -x),
    "type": lambda x: x if type(x) is np.ndarray else -x,
    "type in a helper": lambda x: helper(x),
    "Tensor": lambda x: x if isinstance(x, tm.Tensor) else -x,
    "Tensor by its path": lambda x: x if isinstance(x, tm.engine.Tensor) else -x,
    "value_of": lambda x: x * tm.engine.value_of(x),
    "a number's type": lambda x: x if isinstance(x[0], np.ndarray) else -x,
    "a number's class": lambda x: x if np.sum(x).__class__ is np.float64 else -x,
    "a sum's type": lambda x: x if isinstance(np.sum(x), float) else -x,
    "a number's type, caught": lambda x: except_(Exception, lambda x: x if isinstance(x[0], float) else 1 / 0)(x),
    "a printed value": lambda x: (print(x), x)[1],
    "a value in a text": lambda x: x if f"{x[0]}" == "0.5" else -x,
    "a value in a text of a format": lambda x: x if f"{x[0]:.1f}" == "0.5" else -x,
    "a value as a str": lambda x: x if "5" in str(x) else -x,
    "a stored value": lambda x: x if pickle.dumps(x) else -x,
    "np.errstate": lambda x: raising(x),
    "np.seterr": lambda x: seterr(x),
    "warnings that are watched": lambda x: watched(x),
    "warnings that are errors": lambda x: strict(x),
    "a parameter that is a value": lambda x: nn.relu(x, at_zero=x[0]),
    "a tensor as a result": lambda x: leaked(x),
}  # fmt: skip


def helper(x):
    return x if type(x) is np.ndarray else -x


def raising(x):
    with np.errstate(divide="raise"):
        return np.log(x)


def seterr(x):
    old = np.seterr(invalid="call", divide="raise")
    try:
        return np.log(x)
    finally:
        np.seterr(**old)


def watched(x):
    with warnings.catch_warnings(record=True) as said:
        y = np.log(x)
    return y * len(said)


def strict(x):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return np.log(x)


def leaked(x):
    kept = []
    tm.grad(lambda y: kept.append(y) or np.sum(y))(x)
    return kept[0]


@pytest.mark.parametrize("what", READ)
def test_what_depends_on_a_value_or_a_type_is_refused(what):
    with pytest.raises(RecordError):
        record(READ[what], X)


def except_(error, attempt):
    """What is done where `attempt` fails."""

    def f(x):
        try:
            return attempt(x)
        except error:
            return x * 7.0

    return f


def suppressed(x):
    with contextlib.suppress(TypeError):
        x[0] = 1
    return x * 7.0


def finally_(x):
    try:
        return x if x[0] > 0 else -x
    finally:
        return x * 7.0  # noqa: B012, SIM107


SWALLOWED = {
    "bool": except_(TypeError, lambda x: x if x[0] > 0 else -x),
    "any error": except_(Exception, lambda x: x if x[0] > 0 else -x),
    "every error": except_(BaseException, lambda x: x if x[0] > 0 else -x),
    "float": except_(TypeError, lambda x: x * float(x[0])),
    "int": except_(TypeError, lambda x: x[int(x[0])]),
    "index": except_(TypeError, lambda x: [1, 2, 3][np.argmax(x)] * x),
    "item": except_(TypeError, lambda x: x * x[0].item()),
    "tolist": except_(TypeError, lambda x: x * x.tolist()[0]),
    "asarray": except_(TypeError, lambda x: x * np.asarray(x)),
    "array": except_(TypeError, lambda x: x * np.array([x[0], x[1], x[2]])),
    "write": except_(TypeError, lambda x: x.__setitem__(0, 1.0)),
    "suppressed": suppressed,
    "finally": finally_,
    "in place": except_(TypeError, lambda x: x.__iadd__(1)),
    "out": except_(TypeError, lambda x: np.add(x, 1, out=x)),
    "a method of ufuncs": except_(NotImplementedError, lambda x: np.add.at(np.zeros(3), [0], x)),
    "not supported": except_(NotImplementedError, lambda x: np.packbits(x) * x),
    "an argument that is not": except_(TypeError, lambda x: np.sum(x, out=np.ones(())) * x),
    "a mask": except_(TypeError, lambda x: x[x > 0]),
    "value": except_(Exception, in_derivative(lambda x: x * x.value)),
    "hasattr": lambda x: x * 2 if hasattr(x, "strides") else x * 7.0,
    "getattr": lambda x: x * getattr(x, "ctypes", 7.0),
    "a method": lambda x: x * 2 if hasattr(x, "tobytes") else x * 7.0,
    "hash": except_(TypeError, lambda x: {x: 1}[x] * x),
    "shapes": except_(ValueError, lambda x: x + np.ones(4)),
    "print": except_(Exception, lambda x: (print(x), x)[1]),
    "in an inner derivative": in_derivative(except_(TypeError, lambda x: x if x[0] > 0 else -x)),
}  # fmt: skip


@pytest.mark.parametrize("what", SWALLOWED)
def test_a_refusal_cannot_be_swallowed(what):
    with pytest.raises(RecordError, match="an error is caught while it is recorded"):
        record(SWALLOWED[what], X)


def test_an_array_is_not_filled_with_a_tensor():
    """NumPy writes the number into an array like the one it is given, which no tensor is."""
    f = tm.grad(lambda w, x: np.sum(np.full_like(x, np.sum(w))))
    args = np.ones(2), np.ones(3)
    for call in (f, functools.partial(tm.record, f), functools.partial(tm.record, lambda *args: f(*args))):
        with pytest.raises(NotImplementedError, match="np.copyto on tensors"):
            call(*args)
    filled = tm.record(lambda w, x: np.full_like(x, np.sum(w)), *args)  # two arrays, to NumPy
    np.testing.assert_array_equal(filled(*args), [2, 2, 2])


def test_an_error_that_has_nothing_to_do_with_values_may_be_caught():
    f = except_(KeyError, lambda x: {"a": 1}["b"] * x)
    assert_same_function(f, X)


@pytest.mark.parametrize("ignored", ["ignore", "warn"])
def test_np_errstate_that_raises_nothing_is_no_matter(ignored):
    def f(x):
        with np.errstate(all=ignored):
            return np.log(x)

    assert_same_function(f, X**2)


def test_errors_that_the_caller_asked_for_are_the_callers():
    with np.errstate(all="raise"):
        assert_same_function(lambda x: np.log(x), X**2)


# ── writing ─────────────────────────────────────────────────────────────────────────────────────────────────────────

IN_PLACE = {
    "+": lambda h: h.__iadd__(1), "-": lambda h: h.__isub__(1), "*": lambda h: h.__imul__(2),
    "/": lambda h: h.__itruediv__(2), "**": lambda h: h.__ipow__(2), "@": lambda h: h.__imatmul__(np.eye(3)),
}  # fmt: skip


def augmented(x):
    h = x * 2
    h += 1
    return h


def kept_elsewhere(x):
    h = x * 2
    k = h
    h -= 1
    return h + k


@pytest.mark.parametrize("f", [augmented, kept_elsewhere, *IN_PLACE.values()])
def test_arrays_are_not_written_to_in_place(f):
    with pytest.raises(TypeError, match=r"writes into the array x.*write x = x "):
        record(f, X)


def test_a_number_without_axes_that_may_be_an_array_is_not_written_to():
    for f in (augmented.__wrapped__ if hasattr(augmented, "__wrapped__") else lambda x: IN_PLACE["+"](x),
              lambda x: IN_PLACE["+"](np.reshape(x, (1,)).reshape(()))):  # fmt: skip
        with pytest.raises(TypeError, match="writes into the array x"):
            record(f, np.array(2.0))


def test_results_and_tensors_are_bound_anew():
    def f(x):
        total = np.sum(x)
        total += 1
        total *= np.mean(x)
        return total

    assert_same_function(f, X)
    assert_same_function(tm.grad(f), X)
    assert_same_function(tm.grad(lambda x: np.sum(augmented(x))), X)


def test_no_argument_is_written_to():
    for write in (lambda x: np.add(x, 1, out=x), lambda x: x.__setitem__(0, 1), lambda x: x.sort(), lambda x: x.fill(1),
                  lambda x: np.copyto(x, 1), lambda x: np.put(x, 0, 1), lambda x: np.add.at(x, 0, 1)):  # fmt: skip
        x = np.zeros(3)
        with pytest.raises((TypeError, AttributeError, NotImplementedError)):
            record(lambda x: (write(x), x)[1], x)  # noqa: B023
        assert not x.any()


@pytest.mark.parametrize(
    "write",
    [lambda d: d.update(w=d["w"] * 2), lambda d: d.pop("w"), lambda d: d["l"].append(1.0), lambda d: d["l"].reverse()],
)
def test_dicts_and_lists_among_the_arguments_are_not_written_to(write):
    nest = {"w": X, "l": [X, X * 2]}

    def f(d):
        y = d["w"] * 2
        write(d)
        return y

    with pytest.raises(RecordError, match="writes to the dicts or lists among its arguments"):
        record(f, nest)
    assert list(nest) == ["w", "l"] and nest["w"] is X and len(nest["l"]) == 2


@pytest.mark.parametrize("result", [object, lambda: {1, 2}, lambda: iter([1]), lambda: np.array([None])])
def test_a_result_that_is_no_number_is_refused(result):
    """It would be the same object at each call."""
    with pytest.raises(RecordError, match="returns a"):
        record(lambda x: (x, result()), X)


def test_what_is_recorded_does_not_outlive_the_recording():
    kept = []

    class Hidden:
        def __setattr__(self, name, value):
            kept.append(value)

    hidden = Hidden()

    def f(x):
        hidden.x = x
        return x * 2

    with pytest.raises(RecordError, match="writes to the closed-over kept"):
        record(f, X)
    with Recording(0.5, 0) as recording:
        kept.append(recording.argument(X))
    for use in (lambda x: x * 2, np.sum, lambda x: x[0], tm.grad(lambda x: np.sum(x))):
        with pytest.raises(TypeError, match="after it or in another thread"):
            use(kept[-1])
    assert "float64 (3,)" in repr(kept[-1])


def test_another_thread_does_not_take_part_in_a_recording():
    failed = []

    def f(x):
        def work():
            try:
                x * 2
            except TypeError as error:
                failed.append(str(error))

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        record(lambda x: f(x), X)
    assert not failed  # it was put back
    assert_same_function(lambda x: x * 2, X)


# ── Python scalars ──────────────────────────────────────────────────────────────────────────────────────────────────

FLOATS = {
    "product": lambda p, lr: p - lr * p,
    "arithmetic of floats": lambda p, lr: p * (lr * 2 + 1 - lr) / 4.0,
    "halves": lambda p, lr: p * (lr / 2) + lr,
    "signs": lambda p, lr: p * -lr + (+lr),
    "sums in Python": lambda p, lr: p * sum([lr, lr, 1]),
    "power": lambda p, lr: np.abs(p) ** lr,
    "compare": lambda p, lr: np.where(p > lr, p, lr),
    "where of floats": lambda p, lr: np.where(p > 0, lr, 0.0),
    "maximum": lambda p, lr: np.maximum(p, lr) + np.minimum(lr, p),
    "clip": lambda p, lr: np.clip(p, -lr, lr),
    "hypot": lambda p, lr: np.hypot(p, lr),
    "NumPy's number": lambda p, lr: p * np.sqrt(lr),
    "NumPy's square": lambda p, lr: p * np.square(lr),
    "NumPy's product": lambda p, lr: p * np.multiply(lr, 2.0),
    "dot": lambda p, lr: np.dot(p, lr),
    "an array of it": lambda p, lr: np.reshape(lr, (1,)) + p,
    "full_like": lambda p, lr: np.full_like(p, lr),
    "stack": lambda p, lr: np.stack([p, p * 0 + lr]),
    "integers": lambda p, lr: p.astype(int) * lr,
    "booleans": lambda p, lr: (p > 0) * lr,
    "half precision": lambda p, lr: p.astype(np.float16) * lr,
    "NumPy's scalars": lambda p, lr: np.float32(2) * lr * p,
    "results": lambda p, lr: (p, lr, lr * 3, 2 - lr),
    "isinstance": lambda p, lr: p * lr if isinstance(lr, float) and not isinstance(lr, np.ndarray) else p,
    "no dtype": lambda p, lr: p if hasattr(lr, "dtype") or hasattr(lr, "shape") else p * lr,
    "not iterable": lambda p, lr: p if isinstance(lr, Iterable) else p * lr,
    "the Number of numbers": lambda p, lr: p * lr if isinstance(lr, Number) else p,
    "a derivative in it": tm.grad(lambda p, lr: np.sum(p * lr * lr), 1),
    "a derivative beside it": tm.grad(lambda p, lr: np.sum(p * p * lr)),
    "an inner step": lambda p, lr: p - lr * tm.grad(lambda p: np.sum(p**3))(p),
    "copies": lambda p, lr: p * copy.deepcopy([lr])[0],
}  # fmt: skip
FIXED = {
    "a branch": lambda p, lr: p * lr if lr > 0 else p,
    "a power of floats": lambda p, lr: p * lr**2,
    "a quotient": lambda p, lr: p * (1 / lr),
    "a whole number": lambda p, lr: p * int(lr * 10),
    "rounded": lambda p, lr: p * round(lr, 1),
    "absolute": lambda p, lr: p * abs(lr),
    "a text": lambda p, lr: p * len(f"{lr:.3f}"),
    "a key": lambda p, lr: p * {0.1: 2.0}.get(lr, 3.0),
    "an array": lambda p, lr: p * np.full(2, lr, np.float32),
    "a method": lambda p, lr: p if lr.is_integer() else p * 2,
    "caught": except_(TypeError, lambda p: p),
}  # fmt: skip
FIXED.pop("caught")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("what", FLOATS)
def test_a_python_float_is_an_input_that_promotes_as_one(what, dtype):
    program = assert_same_function(FLOATS[what], F4.astype(dtype), 0.1, on=(F4.astype(dtype) * 1.5, 0.25))
    assert len(program.inputs) == 2 and not program.fixed_floats


@pytest.mark.parametrize("what", FIXED)
def test_what_python_does_with_a_float_fixes_it(what):
    program = assert_same_function(FIXED[what], F4, 0.1, on=(F4 * 1.5, 0.1))
    assert len(program.inputs) == 1 and program.fixed_floats
    with pytest.raises(ValueError, match=r"args\[1\] is 0.2, the program was recorded for 0.1"):
        program(F4, 0.2)


def test_float32_stays_float32():
    assert record(lambda p, lr: p - lr * p, F4, 0.1)(F4, 0.2).dtype == np.float32
    assert record(lambda p, lr: p - lr * p, F4, np.float64(0.1))(F4, np.float64(0.2)).dtype == np.float64
    assert record(lambda p, lr: p - lr * p, F4, np.array(0.1))(F4, np.array(0.2)).dtype == np.float64


def test_integers_booleans_and_texts_are_fixed():
    u = np.array([100], np.uint8)
    program = assert_same_function(lambda x, n: x * 1 + n, u, 200)
    assert program(u, 200) == [44] and program(u, 200).dtype == np.uint8
    with pytest.raises(ValueError, match=r"args\[1\] is 100, the program was recorded for 200"):
        program(u, 100)
    with pytest.raises(ValueError, match=r"args\[1\] is True"):
        record(lambda x, n: x * n, u, 1)(u, True)
    assert_same_function(lambda x, n: x[n] * sum(range(n)), X, 2)
    assert_same_function(lambda x, how: x * 2 if how == "twice" else x, X, "twice")
    assert_same_function(lambda x, flag: -x if flag else x, X, True)
    assert_same_function(lambda x, dtype: x.astype(dtype), X, np.dtype("f4"))
    assert_same_function(lambda x, c: x * c, X, 2j)
    with pytest.raises(OverflowError):
        record(lambda x, n: x + n, u, 300)


def key(*args, **how):
    return signature_and_inputs(args, **how)[0]


def test_a_signature_tells_apart_what_a_program_is_recorded_for():
    different = [
        (X, 1), (X, 2), (X, True), (X, "1"), (X, 1.0), (X, np.float64(1)), (X, np.float32(1)), (X, None), (X, [1]),
        (X, (1,)), (X, {"a": 1}), (X,), (X[:2], 1), (F4, 1), ([X], 1), ((X,), 1), (np.ma.array(X), 1),
    ]  # fmt: skip
    keys = [key(*args) for args in different]
    assert len(set(keys)) == len(keys)
    assert keys[5] == key(X, np.array(1.0))  # a scalar of NumPy promotes as an array
    assert key(X, 1.0) == key(X * 2, 2.0) and hash(key(X, 1.0))
    assert key(X, 0.0, fixed_floats=True) != key(X, -0.0, fixed_floats=True) != key(X, 1.0, fixed_floats=True)
    assert key(X, float("nan"), fixed_floats=True) == key(X, float("nan"), fixed_floats=True)
    assert [x.shape for x in signature_and_inputs((X, 2, {"a": 0.5, "b": "c"}))[1]] == [(3,), ()]
    assert [x.shape for x in signature_and_inputs((X, 2, {"a": 0.5, "b": "c"}), fixed_floats=True)[1]] == [(3,)]


@pytest.mark.parametrize("x", [np.ma.array([1.0, 2], mask=[0, 1]), np.rec.array([1.0, 2]), np.array([1, None])])
def test_arrays_of_other_kinds_are_refused(x):
    with pytest.raises(RecordError, match="an argument"):
        record(lambda x: x * 2, x)


def test_a_compiled_function_takes_python_scalars_as_numpy_does():
    fast = tm.compile(lambda p, lr: p - lr * p, backend="replay")
    for lr in (0.1, 0.3):
        np.testing.assert_array_equal(fast(F4, lr), F4 - lr * F4)
        assert fast(F4, lr).dtype == np.float32
    assert len(fast.runners) == 1 and fast(F4, np.float64(0.1)).dtype == np.float64
    fast = tm.compile(lambda x, n: x + n, backend="replay")
    assert fast(np.array([100], np.uint8), 200) == 44 and fast(np.array([100], np.uint8), 100) == 200
    fast = tm.compile(lambda p, lr: p * lr if lr > 0 else -p, backend="replay")
    for lr in (0.1, -0.1, 0.2):
        np.testing.assert_array_equal(fast(F4, lr), F4 * lr if lr > 0 else -F4)


def test_machine_code_takes_python_scalars_as_numpy_does(tmp_path, monkeypatch):
    pytest.importorskip("numba")
    pytest.importorskip("scipy")
    monkeypatch.setenv("TINYMAML_CACHE", str(tmp_path))
    fast = tm.compile(lambda p, lr: (p - lr * p, np.sqrt(lr) * p, np.where(p > lr, p, lr)))
    for lr in (0.1, 0.3):
        for ours, theirs in zip(fast(F4, lr), fast.f(F4, lr), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-6)
            assert ours.dtype == theirs.dtype
    fast = tm.compile(lambda a: a / 255 if isinstance(a, np.ndarray) else a)
    assert fast(np.array([255], np.uint8)) == 1


# ── constants ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("f", WRITTEN)
def test_a_constant_is_what_it_was_when_it_was_used(f):
    """What NumPy computes with buffers that are written to later, and its derivatives of order one to three."""
    x = np.array([0.7, -0.4, 1.3])
    for g in derivatives(f):
        program = record(g, X)
        np.testing.assert_allclose(program(x), g(x), rtol=1e-13)
        np.testing.assert_allclose(tm.compile(g, backend="replay")(x), g(x), rtol=1e-13)


def test_buffers_that_are_reused_in_numbers():
    assert record(tm.value_and_grad(buffer), np.ones(3))(np.ones(3))[0] == 18
    np.testing.assert_array_equal(record(tm.grad(centred), np.ones(3))(X), [1 - 2, 2 - 1, 6 + 3])


# ── a task's data ───────────────────────────────────────────────────────────────────────────────────────────────────


def scaled_in_place(w, x, y):
    x /= 10
    return np.mean((x * w - y) ** 2)


META = {
    "meta_value_and_grad": lambda w, tasks: tm.meta_value_and_grad(scaled_in_place, inner_lr=0.1)(w, tasks),
    "flat": lambda w, tasks: tm.meta_value_and_grad(scaled_in_place, inner_lr=0.1, memory="flat")(w, tasks),
    "meta_loss": lambda w, tasks: tm.meta_loss(scaled_in_place, w, tasks, inner_lr=0.1),
    "adapt": lambda w, tasks: tm.adapt(scaled_in_place, w, _support(tasks), inner_lr=0.1, inner_steps=1),
    "compiled": lambda w, tasks: quietly(tm.compile(tm.meta_value_and_grad(scaled_in_place, inner_lr=0.1)))(w, tasks),
}


def _support(tasks):
    return tasks[0] if isinstance(tasks, tuple) else tasks[0][0]


def quietly(f):
    def g(*args):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return f(*args)

    return g


@pytest.mark.parametrize("how", META)
@pytest.mark.parametrize("stacked", [True, False])
def test_a_loss_cannot_write_to_its_data(how, stacked):
    data = np.full((2, 3), 1000.0) if stacked else np.full(3, 1000.0)
    tasks = ((data, data * 2), (data, data)) if stacked else [((data, data * 2), (data, data))] * 2
    with pytest.raises(ValueError, match="read-only"):
        META[how](np.ones(3), tasks)
    assert (data == 1000).all()


def test_the_data_of_a_task_is_copied_once():
    seen = []

    def loss(w, x, y):
        seen.append(x)
        return np.mean((x * w - y) ** 2)

    data = np.ones((2, 3))
    tm.meta_value_and_grad(loss, inner_lr=0.1, inner_steps=3)(np.ones(3), ((data, data), (data, data)))
    assert len(seen) == 8 and len({id(x) for x in seen[:3]}) == 1
    assert all(not x.flags.writeable and not np.shares_memory(x, data) for x in seen)
