"""Tasks, parameters and arrays of any form, by one rule; what is none of them is refused by name, before any work."""

import collections
import copy
import dataclasses
import pickle
import warnings

import numpy as np
import pytest

import tinymaml as tm
from tinymaml.arrays import as_array_of
from tinymaml.inputs import check_finite
from tinymaml.programs import compiled

X = np.array([[1.0], [2.0], [3.0]])
Y = np.array([[1.0], [0.0], [2.0]])
MASK = np.array([[1.0], [0.0], [1.0]])
W = {"w": np.full((1, 1), 0.3), "b": np.zeros(1)}


def loss(p, x, y):
    return np.mean((x @ p["w"] + p["b"] - y) ** 2)


def of_attributes(p, x, y):
    return loss({"w": p.w, "b": p.b}, x, y)


def masked(p, x, y, mask):
    return np.sum(mask * (x @ p["w"] + p["b"] - y) ** 2) / np.sum(mask)


def unlabelled(p, x):
    return np.mean((x @ p["w"] + p["b"]) ** 2 * x)


def of_batch(p, batch):
    return loss(p, batch["x"], batch["y"])


@dataclasses.dataclass
class Params:
    w: np.ndarray
    b: np.ndarray
    name: str = dataclasses.field(default="theta", metadata={"static": True})


@dataclasses.dataclass(frozen=True)
class Frozen:
    w: np.ndarray
    b: np.ndarray


@dataclasses.dataclass
class Batch:
    x: np.ndarray
    y: np.ndarray


Pair = collections.namedtuple("Pair", "w b")
Named = collections.namedtuple("Named", "x y")


class Special(dict):
    """A dict of another class."""


def stacked(*arrays):
    return tuple(x[None] for x in arrays)


FORMS = {  # the loss, and a set of it
    "(x, y)": (loss, (X, Y)),
    "[x, y]": (loss, [X, Y]),
    "a namedtuple": (loss, Named(X, Y)),
    "(x, y, mask)": (masked, (X, Y, MASK)),
    "(x,)": (unlabelled, (X,)),
    "a dict": (of_batch, {"x": X, "y": Y}),
    "a dataclass": (lambda p, batch: loss(p, batch.x, batch.y), Batch(X, Y)),
    "nests": (lambda p, x, y: loss(p, x["at"], y[0]), ({"at": X}, [Y])),
}


def by_hand(loss, data, alpha=0.1, p=W):
    """MAML's value and gradient by nested `grad`, without any of `maml`."""
    args = data if isinstance(data, (tuple, list)) else (data,)

    def query(p):
        g = tm.grad(lambda p: loss(p, *args))(p)
        return loss(tm.tree_map(lambda p, g: p - alpha * g, p, g), *args)

    return tm.value_and_grad(query)(p)


def same(ours, theirs, rtol=1e-13):
    for a, b in zip(tm.tree_leaves(ours), tm.tree_leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-14)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("how", ["reference", "flat", "compiled"])
def test_tasks_of_any_form(form, how):
    if how == "compiled":
        pytest.importorskip("numba")
    f, data = FORMS[form]
    wanted = by_hand(f, data)
    meta = tm.meta_value_and_grad(f, inner_lr=0.1, memory="flat" if how == "flat" else "unrolled")
    meta = tm.compile(meta) if how == "compiled" else meta
    same(meta(W, [(data, data)]), wanted)  # one of a list
    whole = tm.tree_map(lambda x: x[None], data)
    same(meta(W, (whole, whole)), wanted)  # stacked
    if form != "nests":  # whose x and y are sets themselves: a list of these is a list of tasks
        same(meta(W, [whole, whole]), wanted)
    adapted = tm.adapt(f, W, data, inner_lr=0.1, inner_steps=1)
    args = data if isinstance(data, (tuple, list)) else (data,)
    same(adapted, tm.tree_map(lambda p, g: p - 0.1 * g, W, tm.grad(lambda p: f(p, *args))(W)))
    same(tm.meta_loss(f, W, (whole, whole), inner_lr=0.1), wanted[0])


PARAMETERS = {
    "a dataclass": (of_attributes, Params(**W)),
    "a frozen dataclass": (of_attributes, Frozen(**W)),
    "a namedtuple": (of_attributes, Pair(**W)),
    "an OrderedDict": (loss, collections.OrderedDict(W)),
    "a defaultdict": (loss, collections.defaultdict(list, W)),
    "a subclass of dict": (loss, Special(W)),
    "a dict of dataclasses": (lambda p, x, y: of_attributes(p["net"], x, y), {"net": Frozen(**W)}),
}


@pytest.mark.parametrize("form", PARAMETERS)
@pytest.mark.parametrize("fast", [False, True])
def test_parameters_of_any_form_keep_their_class(form, fast):
    if fast:
        pytest.importorskip("numba")
    f, p = PARAMETERS[form]
    meta = tm.meta_value_and_grad(f, inner_lr=0.1)
    value, gradient = (tm.compile(meta) if fast else meta)(p, (stacked(X, Y), stacked(X, Y)))
    same((value, gradient), by_hand(loss, (X, Y)))
    assert type(gradient) is type(p)
    assert type(tm.adapt(f, p, (X, Y), inner_lr=0.1, inner_steps=1)) is type(p)
    assert getattr(gradient, "name", "theta") == "theta"


def test_a_dataclass_is_spelled_by_its_fields():
    assert tm.tree_items({"a": Params(**W)})[0][0] == "['a'].w"
    with pytest.raises(ValueError, match=r"nests differ at \['a'\]"):
        tm.tree_map(lambda x, y: x, {"a": Params(**W)}, {"a": W})


def test_a_nest_that_holds_itself_is_named():
    loop = []
    loop.append(loop)
    deep = X
    for _ in range(3000):
        deep = [deep]
    for nest in (loop, deep):
        with pytest.raises(ValueError, match="a nest holds itself"):
            tm.adapt(loss, nest, (X, Y), inner_lr=0.1, inner_steps=1)


# ── arrays of other libraries ───────────────────────────────────────────────────────────────────────────────────────


class Exported:
    """Whatever has `__dlpack__`."""

    def __init__(self, x):
        self.x = x

    def __dlpack__(self, **how):
        return self.x.__dlpack__(**how)

    def __dlpack_device__(self):
        return self.x.__dlpack_device__()


class Converted:
    """Whatever has `__array__`."""

    def __init__(self, x):
        self.x = x

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.x, dtype)


def of_torch(x):
    return pytest.importorskip("torch").from_numpy(np.array(x))


def of_jax(x):
    jax = pytest.importorskip("jax")
    with jax.experimental.enable_x64() if hasattr(jax.experimental, "enable_x64") else jax.enable_x64(True):
        return jax.numpy.asarray(x, "float64")


@pytest.mark.parametrize("foreign", [Exported, Converted, of_torch, of_jax])
@pytest.mark.parametrize("fast", [False, True])
def test_arrays_of_other_libraries_are_taken(foreign, fast):
    meta = tm.meta_value_and_grad(loss, inner_lr=0.1)
    meta = tm.compile(meta) if fast else meta
    x, y, w = foreign(X[None]), foreign(Y[None]), {name: foreign(p) for name, p in W.items()}
    same(meta(w, ((x, y), (x, y))), by_hand(loss, (X, Y)))
    same(meta(W, [((foreign(X), foreign(Y)), (X, Y))]), by_hand(loss, (X, Y)))
    same(tm.adapt(loss, w, (foreign(X), Y), inner_lr=0.1, inner_steps=0), W)


@pytest.mark.parametrize("backend", ["numba", "replay"])
@pytest.mark.parametrize("long", [False, True])
def test_a_program_of_them_is_compared_with_the_function(long, backend, monkeypatch):
    """Of a long program the function's result is computed later, from copies."""
    monkeypatch.setattr(compiled, "LONG", 0 if long else np.inf)
    fast = tm.compile(tm.meta_value_and_grad(loss, inner_lr=0.1), backend=backend)
    x, y, w = Exported(X[None]), Exported(Y[None]), {name: Exported(p) for name, p in W.items()}
    for _ in range(3):
        same(fast(w, ((x, y), (x, y))), by_hand(loss, (X, Y)))


def test_what_is_taken_is_not_copied():
    assert np.shares_memory(as_array_of("x", Exported(X)), X)
    torch = pytest.importorskip("torch")
    t = torch.ones(3)
    array = as_array_of("x", t)
    t[0] = 5
    assert array[0] == 5


def test_a_tensor_that_needs_its_own_gradient_is_refused():
    torch = pytest.importorskip("torch")
    for fast in (False, True):
        meta = tm.meta_value_and_grad(loss, inner_lr=0.1)
        with pytest.raises(TypeError, match=r"params\['b'\] is a torch.Tensor, which .* requires grad"):
            (tm.compile(meta) if fast else meta)(
                {"w": W["w"], "b": torch.zeros(1, requires_grad=True)}, (stacked(X, Y), stacked(X, Y))
            )


@pytest.mark.parametrize(("x", "message"), [
    (np.ma.array(X, mask=X > 2), "is a masked array, whose mask would be lost"),
    (np.matrix([[1.0]]), r"is a np\.matrix, whose \* is a matrix product"),
    ("words", "is a str, wanted an array of numbers"),
    (object(), "is a object, wanted an array of numbers"),
    (np.array([1, None]), r"an array of objects \(builtins\.NoneType\), wanted numbers"),
    (np.array(["a"]), "has dtype <U1"),
    (np.array([np.nan]), "is not finite: 1 of 1"),
])  # fmt: skip
@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
def test_what_is_no_array_is_refused_by_name(x, message):
    meta = tm.meta_value_and_grad(loss, inner_lr=0.1)
    fast = tm.compile(meta)
    fast(W, (stacked(X, Y), stacked(X, Y)))  # a program that a masked array would fit
    for f in (meta, fast):
        with pytest.raises((TypeError, ValueError), match=r"params\['b'\]:? " + message):
            f({"w": W["w"], "b": x}, (stacked(X, Y), stacked(X, Y)))
    with pytest.raises((TypeError, ValueError), match=r"the support set: \[1\]:? " + message):
        tm.adapt(loss, W, (X, x), inner_lr=0.1, inner_steps=1)


def test_a_masked_array_is_refused_where_a_program_exists():
    meta = tm.meta_value_and_grad(loss, inner_lr=0.1)
    fast = tm.compile(meta)
    fast(W, (stacked(X, Y), stacked(X, Y)))
    for f in (meta, fast):
        with pytest.raises(TypeError, match=r"tasks\[0\]\[0\] is a masked array"):
            f(W, ((np.ma.array(X[None], mask=X[None] > 2), Y[None]), stacked(X, Y)))


@pytest.mark.parametrize("operand", [
    lambda p: np.sum(p * np.ma.array([1.0, 2.0], mask=[0, 1])), lambda p: np.sum(np.ma.array([1.0, 2.0]) - p),
    lambda p: np.sum(p - np.ma.masked_invalid([1.0, np.nan])), lambda p: np.mean((np.ma.array([1.0, 2.0]) * p) ** 2),
])  # fmt: skip
def test_a_masked_array_that_meets_a_tensor_is_refused(operand):
    with pytest.raises(TypeError, match="masked array, whose mask would be lost"):
        tm.grad(operand)(np.ones(2))


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
def test_a_matrix_that_meets_a_tensor_is_refused():
    matrix = np.matrix([[1.0, 2.0], [3.0, 4.0]])
    for f in (lambda p: np.sum(p * matrix), lambda p: np.sum(matrix * p)):
        with pytest.raises(TypeError, match=r"np\.matrix, whose ways would be lost"):
            tm.grad(f)(np.ones((2, 2)))
    with pytest.raises(TypeError, match=r"args\[0\], a np\.matrix"):
        tm.grad(lambda p: np.sum(p))(matrix)


def test_objects_are_refused_by_name():
    from fractions import Fraction

    half = Fraction(1, 2)
    with pytest.raises(TypeError, match=r"a tensor meets a fractions\.Fraction"):
        tm.grad(lambda p: p * half)(1.0)
    with pytest.raises(TypeError, match=r"an array of objects \(fractions\.Fraction\)"):
        tm.grad(lambda p: np.sum(p * np.array([half])))(np.ones(1))
    with pytest.raises(TypeError, match=r"args\[0\], an array of objects \(fractions\.Fraction\)"):
        tm.grad(lambda p: np.sum(p))(np.array([half]))


# ── tasks and rates that are none ───────────────────────────────────────────────────────────────────────────────────

ONE = ((X, Y), (X, Y))


@pytest.mark.parametrize(("tasks", "message"), [
    ((ONE, ONE), "a tuple of two pairs of tuples: if these are two tasks, give them in a list"),
    ((ONE, ONE, ONE), r"tasks must be \(support, query\).*seen: a tuple of 3"),
    (X, r"seen: a ndarray of shape \(3, 1\)"),
    (None, "seen: None"),
    ({"support": (X, Y), "query": (X, Y)}, "seen: a dict of support, query"),
    ([(([1.0, 2.0], [1.0, 2.0]), (X, Y))], r"support set of task 0: \[0\] is a list of numbers"),
    (([[1.0, 2.0]], [[1.0, 2.0]]), r"\[0\]\[0\] is a list of numbers, wanted an array"),
    ((tuple(np.broadcast_to(x, (10**13, *x.shape)) for x in (X, Y)),) * 2, "10{13} tasks, made by broadcasting"),
    (((X[None], Y), (X[None], Y[None])), "the arrays disagree on their number"),
])  # fmt: skip
def test_what_are_no_tasks_is_said(tasks, message):
    for f in (tm.meta_value_and_grad(loss, inner_lr=0.1), tm.compile(tm.meta_value_and_grad(loss, inner_lr=0.1))):
        with pytest.raises((ValueError, TypeError), match=message):
            f(W, tasks)


def test_a_set_that_is_a_bare_array_is_refused():
    with pytest.raises(TypeError, match=r"support set is a ndarray of shape \(3, 1\), wanted .*\(x, y\), or \(x,\)"):
        tm.adapt(unlabelled, W, X, inner_lr=0.1, inner_steps=1)


def test_what_is_broadcast_is_checked_without_growing():
    check_finite("w", np.broadcast_to(np.ones(()), (10**6, 10**6)))  # 10¹² elements, one of which is looked at
    with pytest.raises(ValueError, match="w is not finite"):
        check_finite("w", np.broadcast_to(np.array([1.0, np.nan]), (10**6, 2)))


RATES = {
    "a rate per step": ([0.1, 0.05, 0.01], r"inner_lr does not fit .* a list of 3 .*params\['w'\]: \(3, 1\)"),
    "the same in an array": (np.array([0.1, 0.05, 0.01]), r"an array of shape \(3,\).*params\['w'\]: \(3, 1\)"),
    "an array of the wrong shape": ({"w": np.ones((1, 3)), "b": 0.1}, r"inner_lr\['w'\] has shape \(1, 3\) .*\(3, 1\)"),
    "a missing key": ({"w": 0.1}, r"inner_lr does not fit .*keys \['w'\]"),
    "None for a leaf": ({"w": 0.1, "b": None}, r"inner_lr does not fit .*\['b'\]: nothing \(None\)"),
    "None": (None, "inner_lr is None, wanted a number"),
    "an imaginary rate": (0.1j, "inner_lr has dtype complex128, wanted real numbers"),
    "NaN": ({"w": np.nan, "b": 0.1}, r"inner_lr\['w'\] is not finite"),
}


@pytest.mark.parametrize("name", RATES)
@pytest.mark.parametrize("how", ["adapt", "meta_loss", "meta_value_and_grad", "compiled"])
def test_rates_that_do_not_fit_are_named(name, how):
    rates, message = RATES[name]
    x, p = np.arange(12.0).reshape(4, 3), {"w": np.ones((3, 1)), "b": np.zeros(1)}
    y = np.ones((4, 1))
    tasks = stacked(x, y), stacked(x, y)
    with pytest.raises((ValueError, TypeError), match=message) as caught, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if how == "adapt":
            tm.adapt(loss, p, (x, y), inner_lr=rates, inner_steps=3)
        elif how == "meta_loss":
            tm.meta_loss(loss, p, tasks, inner_lr=rates, inner_steps=3)
        else:
            f = tm.meta_value_and_grad(loss, inner_lr=rates, inner_steps=3)
            (tm.compile(f) if how == "compiled" else f)(p, tasks)
    if name in ("a rate per step", "the same in an array"):
        assert "inner_lr=rates[k], inner_steps=1" in str(caught.value)


def test_a_rate_per_step_as_the_error_says_it():
    p, rates = W, [0.1, 0.05]
    for rate in rates:
        p = tm.adapt(loss, p, (X, Y), inner_lr=rate, inner_steps=1)
    q = W
    for rate in rates:
        q = tm.tree_map(lambda q, g, rate=rate: q - rate * g, q, tm.grad(loss)(q, X, Y))
    same(p, q)


def test_complex_parameters_are_refused():
    with pytest.raises(TypeError, match=r"params\['w'\] has dtype complex128, wanted real numbers"):
        tm.adapt(loss, {"w": W["w"] * 1j, "b": W["b"]}, (X, Y), inner_lr=0.1, inner_steps=1)


@pytest.mark.parametrize("count", [lambda p, x, y: np.sum(x @ p["w"] > y), lambda p, x, y: np.mean(x) > 0,
                                   lambda p, x, y: np.argmax(x @ p["w"])])  # fmt: skip
@pytest.mark.parametrize("steps", [0, 1])
def test_a_loss_that_counts_is_refused_everywhere(count, steps):
    tasks = stacked(X, Y), stacked(X, Y)
    meta = tm.meta_value_and_grad(count, inner_lr=0.1, inner_steps=steps)
    for f in (meta, tm.compile(meta), lambda p, t: tm.meta_loss(count, p, t, inner_lr=0.1, inner_steps=steps)):
        with pytest.raises(TypeError, match="floating-point number"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            f(W, tasks)
    with pytest.raises(TypeError, match="floating-point number"):
        tm.grad(count)(W, X, Y)


def test_a_loss_cannot_write_to_the_callers_arrays():
    def writes(p, x, y):
        x /= 10
        return loss(p, x, y)

    x = X.copy()
    for f in (lambda: tm.adapt(writes, W, (x, Y), inner_lr=0.1, inner_steps=1),
              lambda: tm.meta_value_and_grad(writes, inner_lr=0.1)(W, (stacked(x, Y), stacked(x, Y)))):  # fmt: skip
        with pytest.raises(ValueError, match="read-only"):
            f()
    np.testing.assert_array_equal(x, X)


# ── what is returned can be stored ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "make",
    [
        lambda: tm.grad(loss),
        lambda: tm.value_and_grad(loss),
        lambda: tm.meta_value_and_grad(loss, inner_lr=0.1),
        lambda: tm.meta_value_and_grad(loss, inner_lr=0.1, memory="flat"),
        lambda: tm.meta_value_and_grad(loss, inner_lr={"w": np.array(0.1), "b": 0.2}, first_order=True),
        lambda: tm.compile(tm.meta_value_and_grad(loss, inner_lr=0.1)),
        lambda: tm.compile(tm.grad(loss)),
        lambda: tm.record(tm.grad(loss), W, X, Y),
        lambda: tm.record(tm.meta_value_and_grad(loss, inner_lr=0.1), W, (stacked(X, Y), stacked(X, Y))),
    ],
    ids=["grad", "value_and_grad", "meta", "flat", "rates", "compiled", "compiled grad", "record", "recorded meta"],
)
def test_what_is_returned_can_be_pickled_and_copied(make):  # fmt: skip
    f = make()
    over_tasks = (W, (stacked(X, Y), stacked(X, Y)))
    args = over_tasks if hasattr(f, "of_task") or getattr(f, "per_task", None) else (W, X, Y)
    if isinstance(f, tm.Program) and "query" not in str(f.names) and len(f.names) > 4:
        args = (W, (X, Y), (X, Y))
    wanted = f(*args)
    for again in (pickle.loads(pickle.dumps(f)), copy.copy(f), copy.deepcopy(f)):
        same(again(*args), wanted)


# ── which task it was ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("how", ["reference", "compiled", "meta_loss", "mean_over_tasks"])
@pytest.mark.parametrize("stacked_", [True, False])
def test_an_error_that_the_data_of_a_task_cause_names_the_task(how, stacked_):
    x, y = np.ones((3, 4, 2)), np.array([[0, 1, 2, 0], [0, 1, 5, 0], [0, 1, 2, 1]])
    classify = lambda p, x, y: tm.nn.cross_entropy(x @ p, y)  # noqa: E731
    tasks = ((x, y), (x, y * 0)) if stacked_ else [((x[t], y[t]), (x[t], y[t] * 0)) for t in range(3)]
    meta = tm.meta_value_and_grad(classify, inner_lr=0.1)
    f = {
        "reference": meta,
        "compiled": tm.compile(meta),
        "meta_loss": lambda p, tasks: tm.meta_loss(classify, p, tasks, inner_lr=0.1),
        "mean_over_tasks": tm.mean_over_tasks(lambda p, support, query: tm.value_and_grad(classify)(p, *support)),
    }[how]
    with pytest.raises(ValueError, match=r"task 1: cross_entropy: labels lie in 0 … 5, wanted 0 … 2"):
        f(np.ones((2, 3)), tasks)


def test_an_error_of_the_users_own_is_left_as_it_is():
    class Mine(ValueError):
        def __init__(self, code, more):
            super().__init__(code, more)

    def raises(p, x, y):
        raise Mine(1, 2)

    with pytest.raises(Mine):
        tm.meta_value_and_grad(raises, inner_lr=0.1)(W, [ONE])
