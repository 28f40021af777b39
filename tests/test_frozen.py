"""Nothing that a loss reads is frozen: what is closed over, globals, chance, values, types; one run of f per call.

Each case is called several times, while what it reads changes; the compiled function is what the function is, every
time. Where it says so, it is machine code all along; elsewhere a warning says why it is not.
"""

import collections
import copy
import operator
import pickle
import random
import sys
import threading
import types
import warnings
import weakref

import numpy as np
import pytest
from test_engine import buffer, centred

import tinymaml as tm
from tinymaml import nn
from tinymaml.nest import tree_leaves
from tinymaml.networks.mlp import mlp
from tinymaml.programs import CompileWarning, compiled, runners, verify

pytest.importorskip("numba")
pytest.importorskip("scipy")

X = np.array([3.0, 0.5, -5.0])
V = tm.value_and_grad
BACKENDS = ["numba", "replay"]


pytestmark = pytest.mark.usefixtures("own_cache", "quick_code", "either_way")


def same(ours, wanted) -> None:
    """The same nest, types, dtypes and numbers."""
    assert verify.differs(ours, wanted) is None


# ── what is closed over, and changes ────────────────────────────────────────────────────────────────────────────────

SCALE, FLAG, NAME, TABLE = 2.0, True, "sum", np.arange(3.0)
HERE = sys.modules[__name__]
KEPT = (SCALE, FLAG, NAME, TABLE)


def of_globals(x):
    y = np.sum(x * TABLE) if NAME == "sum" else np.max(x * TABLE)
    return y * SCALE if FLAG else -y


def changing():
    """name → (function, changes to make between calls)."""
    number, array, listed, named, box = 1.0, np.ones(3), [1.0, 2.0], {"a": 1.0}, types.SimpleNamespace(beta=1.0)
    part = types.SimpleNamespace(inner=types.SimpleNamespace(values=[np.ones(3)]))

    def of_number(x):
        return np.sum(x) * number

    def set_number(to):
        nonlocal number
        number = to

    def of_array(x):
        return np.sum(x * array)

    def set_array(to):
        nonlocal array
        array = to

    def of_default(x, k=[1.0]):  # noqa: B006
        return np.sum(x) * k[0]

    class Loss:
        gamma = 1.0

        def __init__(self):
            self.alpha, self.mask = 1.0, np.array([True, True, False])

        def __call__(self, x):
            return np.sum(np.where(self.mask, x, 0.0)) * self.alpha * self.gamma

        def method(self, x):
            return self(x) * 2

    loss = Loss()
    return {
        "a number": (of_number, [lambda: set_number(2.0), lambda: set_number(-0.0), lambda: set_number(0.0)]),
        "an array written to": (of_array, [lambda: array.__setitem__(0, 7.0), lambda: array.__imul__(2)]),
        "another array": (of_array, [lambda: set_array(np.array([1.0, 0, 0])),
                                     lambda: set_array(np.float32([1, 2, 3]))]),
        "a list": (lambda x: np.sum(x) * listed[0] + len(listed), [lambda: listed.append(3.0),
                   lambda: listed.__setitem__(0, 5.0)]),
        "a dict": (lambda x: np.sum(x) * named["a"], [lambda: named.update(a=3.0)]),
        "an attribute": (lambda x: np.sum(x) * box.beta, [lambda: setattr(box, "beta", 4.0)]),
        "an array of attributes of attributes": (
            lambda x: np.sum(x * part.inner.values[0]), [lambda: part.inner.values[0].__setitem__(1, 9.0)]),
        "a mutable default": (of_default, [lambda: of_default.__defaults__[0].__setitem__(0, 3.0)]),
        "an object that is called": (loss, [lambda: setattr(loss, "alpha", 3.0), lambda: loss.mask.fill(True)]),
        "a method": (loss.method, [lambda: setattr(loss, "alpha", 5.0), lambda: setattr(Loss, "gamma", 2.0)]),
        "globals": (of_globals, [lambda: setattr(HERE, "SCALE", 3.0), lambda: setattr(HERE, "NAME", "max"),
                    lambda: setattr(HERE, "FLAG", False), lambda: TABLE.__setitem__(0, 5.0)]),
    }  # fmt: skip


class Kept:
    pass


def hidden():
    """name → (function, a change): what is read by ways that do not name it."""
    box, getter, local = types.SimpleNamespace(alpha=1.0, w0=1.0, w1=1.0), operator.attrgetter("alpha"), "alpha"
    inner, thread, table = Kept(), threading.local(), {"a": 1.0}
    weak, proxy, values = weakref.ref(inner), types.MappingProxyType(table), table.values()
    inner.beta = thread.rate = 1.0

    class Attributes(dict):
        __getattr__ = dict.__getitem__  # a KeyError for what is missing

    class Made:
        def __init__(self):
            self.store = {"rate": 1.0}

        def __getattr__(self, name):
            return self.store[name]

    def own(x):
        return x * 2

    made, attributes = Made(), Attributes(rate=1.0)
    return {
        "getattr by a name that is read": (lambda x: x * getattr(box, local), lambda: setattr(box, "alpha", 2.0)),
        "getattr by a name that is made": (
            lambda x: x * sum(getattr(box, f"w{i}") for i in range(2)), lambda: setattr(box, "w1", 2.0)),
        "attrgetter": (lambda x: x * getter(box), lambda: setattr(box, "alpha", 3.0)),
        "vars": (lambda x: x * vars(box)["alpha"], lambda: setattr(box, "alpha", 4.0)),
        "a weak reference": (lambda x: x * weak().beta, lambda: setattr(inner, "beta", 2.0)),
        "what a thread has": (lambda x: x * thread.rate, lambda: setattr(thread, "rate", 2.0)),
        "a view of a dict": (lambda x: x * proxy["a"] * sum(values), lambda: table.update(a=2.0)),
        "attributes that are items": (lambda x: x * attributes.rate, lambda: attributes.update(rate=2.0)),
        "attributes that are made": (lambda x: x * made.rate, lambda: made.store.update(rate=2.0)),
        "the code": (own, lambda: setattr(own, "__code__", (lambda x: x * 3).__code__)),
    }  # fmt: skip


@pytest.mark.parametrize("what", hidden())
def test_what_is_read_without_its_name_is_followed(what):
    f, change = hidden()[what]
    fast = tm.compile(f)
    before = fast(X)
    change()
    same(fast(X), f(X))
    assert not np.array_equal(before, f(X))
    assert all(isinstance(runner, compiled.Machine) for runner in fast.runners.values())


def of_text(x):
    return eval("x * SCALE")


def of_all_globals(x):
    return x * globals()["SCALE"]


@pytest.mark.parametrize("f", [of_text, of_all_globals])
def test_what_reads_by_text_runs_as_it_is(f, put_back):
    fast = tm.compile(f)
    with pytest.warns(CompileWarning, match="is called: what it reads cannot be seen"):
        same(fast(X), X * 2)
    HERE.SCALE = 5.0
    same(fast(X), X * 5)


@pytest.fixture
def put_back():
    yield
    HERE.SCALE, HERE.FLAG, HERE.NAME, HERE.TABLE = KEPT
    KEPT[3][:] = np.arange(3.0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("what", changing())
def test_what_is_closed_over_is_followed(what, backend, put_back):
    for around in (lambda f: f, V, lambda f: tm.grad(lambda x: f(x) * 2)):
        f, changes = changing()[what]
        f = around(f)
        fast = tm.compile(f, backend=backend)
        for change in (lambda: None, lambda: None, *changes):
            change()
            same(fast(X), f(X))
            same(fast(X), f(X))
        assert all(runner is not None for runner in fast.runners.values())


def test_a_flag_that_alternates_is_recorded_twice_only(put_back):
    fast = tm.compile(V(of_globals))
    for i in range(10):
        HERE.FLAG = bool(i % 2)
        same(fast(X), V(of_globals)(X))
    assert len(fast.runners) == 2


def test_what_changes_at_every_call_is_named_and_the_function_runs_as_it_is():
    state = [0.0]
    fast = tm.compile(lambda x: np.sum(x) + state[0])
    with pytest.warns(CompileWarning, match="state has changed 8 times; pass what changes from call to call"):
        for i in range(12):
            state[0] = float(i)
            assert fast(X) == np.sum(X) + i
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        state[0] = 99.0
        assert fast(X) == np.sum(X) + 99


@pytest.mark.parametrize("memory", ["unrolled", "flat"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_arrays_among_the_rates_are_inputs(backend, memory):
    """Meta-SGD by hand: the rates are updated in place, in a nest with numbers."""
    rng = np.random.default_rng(0)
    net = mlp((2,), (4,), 1)
    params = net.init(rng, np.float64)
    rates = tm.tree_map(lambda p: np.full(p.shape, 0.05), params)
    rates["linear0"]["b"] = 0.1
    tasks = tuple((rng.standard_normal((3, 5, 2)), rng.standard_normal((3, 5, 1))) for _ in range(2))
    f = tm.meta_value_and_grad(lambda p, x, y: nn.mse(net.apply(p, x), y), inner_lr=rates, inner_steps=2, memory=memory)
    fast = tm.compile(f, backend=backend)
    values = set()
    for _ in range(4):
        (ours, ours_grads), (wanted, grads) = fast(params, tasks), f(params, tasks)
        np.testing.assert_allclose(ours, wanted, rtol=1e-13)
        for a, b in zip(tree_leaves(ours_grads), tree_leaves(grads), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-13)
        values.add(float(ours))
        rates["linear0"]["w"] *= 1.5
    assert len(values) == 4 and len(fast.runners) == 1
    rates["linear0"]["b"] = 0.2  # a number is a part of the program
    np.testing.assert_allclose(fast(params, tasks)[0], f(params, tasks)[0], rtol=1e-13)
    assert len(fast.runners) == 2


def test_rates_that_are_not_finite_are_refused_as_by_the_reference():
    rates = {"w": np.full(2, 0.1)}
    f = tm.meta_value_and_grad(lambda p, x, y: np.mean((x @ p["w"] - y) ** 2), inner_lr=rates)
    fast, params = tm.compile(f), {"w": np.ones(2)}
    tasks = tuple((np.ones((2, 3, 2)), np.ones((2, 3))) for _ in range(2))
    fast(params, tasks)
    rates["w"][1] = np.nan
    with pytest.raises(ValueError, match=r"inner_lr\['w'\] is not finite"):
        fast(params, tasks)


# ── constants that are written to later ─────────────────────────────────────────────────────────────────────────────


def through_a_view(x):
    d = np.ones(3)
    total = np.sum(x * d[::-1] + np.broadcast_to(d[:1], (3,)) * x)
    np.multiply(d, 0, out=d)
    return total


@pytest.mark.parametrize("f", [buffer, centred, through_a_view])
def test_constants_are_what_they_were_when_they_were_used(f):
    gradient = {buffer: [6.0] * 3, centred: [-1.0, 1, 9], through_a_view: [2.0] * 3}[f]
    for way in (V(f), tm.compile(V(f)), tm.compile(V(f), backend="replay")):
        value, grad = way(np.ones(3))
        np.testing.assert_array_equal(grad, gradient)
        assert value == np.sum(gradient)
    np.testing.assert_array_equal(tm.hvp(lambda x: f(x * x), (np.ones(3),), np.ones(3)), 2 * np.array(gradient))


# ── chance ──────────────────────────────────────────────────────────────────────────────────────────────────────────

RNG = np.random.default_rng(0)
CHANCE = {
    "a generator, as a coin": lambda x: np.sum(x) if RNG.random() < 0.5 else -np.sum(x),
    "a generator, as noise": lambda x: np.sum(x * RNG.standard_normal(3)),
    "NumPy's global state": lambda x: np.sum(x) * np.random.rand(),
    "Python's random": lambda x: np.sum(x) * (1 if random.random() < 0.5 else 2),
    "a fresh generator": lambda x: np.sum(x) * np.random.default_rng().random(),
}


@pytest.mark.parametrize("what", CHANCE)
def test_chance_is_not_frozen(what):
    f = CHANCE[what]
    fast = tm.compile(f)
    with pytest.warns(CompileWarning, match="runs as it is.*random numbers.*masks, noise or keys"):
        fast(X)
    assert len({float(fast(X)) for _ in range(50)}) > 1


def test_recording_leaves_generators_as_they_were():
    f = CHANCE["a generator, as noise"]
    RNG.bit_generator.state = np.random.default_rng(7).bit_generator.state
    wanted = [f(X) for _ in range(4)]
    RNG.bit_generator.state = np.random.default_rng(7).bit_generator.state
    fast = tm.compile(f)
    with pytest.warns(CompileWarning, match="random"):
        assert [fast(X) for _ in range(4)] == wanted


@pytest.mark.parametrize("source", [np.random.default_rng, np.random.SeedSequence])
def test_spawned_generators_are_not_frozen_nor_used_up(source):
    def drawing():
        parent = source(7)
        return lambda x: x * np.random.default_rng(parent.spawn(1)[0]).random()

    f, fast = drawing(), tm.compile(drawing())
    with pytest.warns(CompileWarning, match="spawns generators.*masks, noise or keys"):
        same(fast(X), f(X))
    same(fast(X), f(X))


def test_generators_that_are_seeded_inside_are_no_chance():
    f = lambda x: np.sum(x * np.random.default_rng(3).standard_normal(3))  # noqa: E731
    same(tm.compile(f)(X), f(X))


# ── what is written outside ─────────────────────────────────────────────────────────────────────────────────────────


def test_a_running_mean_is_kept_and_not_frozen():
    mean, seen, counts = np.zeros(3), [], {"n": 0}

    def f(x):
        mean[:] = 0.9 * mean + 0.1
        seen.append(1)
        counts["n"] += 1
        return np.sum(x * mean)

    fast = tm.compile(f)
    with pytest.warns(CompileWarning, match="runs as it is.*writes to"):
        values = [float(fast(np.ones(3))) for _ in range(3)]
    np.testing.assert_allclose(values, [0.3, 0.57, 0.813])
    assert len(seen) == counts["n"] == 3


@pytest.mark.filterwarnings("ignore::tinymaml.CompileWarning")
def test_what_cannot_be_recorded_runs_once_per_call():
    calls = []

    def f(x):
        calls.append(1)
        np.add(x, 1, out=x)
        return np.sum(x)

    x, fast = np.zeros(2), tm.compile(f)
    for i in range(1, 4):
        assert fast(x) == 2 * i and len(calls) == i
        np.testing.assert_array_equal(x, i)


# ── values and types ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("f", "x", "right"),
    {
        "a branch on a value": (tm.grad(lambda x: x[0] * 2 if x.value.max() > 2 else x[0]), X, [2.0, 0, 0]),
        "an index of a value": (lambda x: x[int(np.argmax(x.value))] ** 2, np.array([1.0, 2.0]), None),
        "clipping by values": (tm.grad(lambda x: np.sum(x * min(1.0, 1 / np.linalg.norm(x.value)))), X, None),
        "type": (lambda x: x / 255 if type(x) is np.ndarray else x, X, X / 255),
        "an error that is caught": (lambda x: _caught(x), X, X * 2),
    }.values(),
)
def test_reads_of_values_are_refused_and_the_function_runs_as_it_is(f, x, right):
    fast = tm.compile(f)
    try:
        right = f(x) if right is None else right
    except AttributeError as error:  # an array has no value: a compiled function says so as well
        with pytest.raises(AttributeError, match=str(error)):
            fast(x)
        return
    with pytest.warns(CompileWarning, match="runs as it is"):
        np.testing.assert_array_equal(fast(x), right)
    np.testing.assert_array_equal(fast(x), right)


def _caught(x):
    try:
        return x * float(np.sum(x) * 0 + 2)
    except TypeError:
        return x


@pytest.mark.parametrize(
    "f",
    {
        "isinstance of data": lambda w, x: np.sum(w * (x / 255 if isinstance(x, np.ndarray) else x)),
        "isinstance of a result": lambda w, x: np.sum(w) * (2.0 if isinstance(x * 2, np.ndarray) else 1.0),
        "hasattr": lambda w, x: np.sum(w * x) * (2.0 if hasattr(x, "value") else 1.0),
        "a class": lambda w, x: np.sum(w * x) * (2.0 if x.__class__ is np.ndarray else 1.0),
    }.values(),
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_types_are_what_they_are_when_the_loss_runs(f, backend):
    w, x = np.ones(3), np.array([255.0, 510.0, 0])
    fast = tm.compile(V(f), backend=backend)
    same(fast(w, x), V(f)(w, x))
    assert all(runner is not None for runner in fast.runners.values())


@pytest.mark.parametrize("backend", BACKENDS)
def test_python_numbers_promote_as_python_numbers(backend):
    step = lambda p, lr: p - lr * p  # noqa: E731
    fast = tm.compile(step, backend=backend)
    for dtype in (np.float32, np.float64):
        p = np.ones(2, dtype)
        for lr in (0.1, 0.2, 3, True):
            same(fast(p, lr), step(p, lr))
            assert fast(p, lr).dtype == dtype
        same(fast(p, np.float64(0.1)), step(p, np.float64(0.1)))
    assert tm.compile(lambda u, n: u + n, backend=backend)(np.full(1, 100, np.uint8), 200).tolist() == [44]


@pytest.mark.parametrize("backend", BACKENDS)
def test_results_have_the_types_of_the_function_s(backend):
    def f(x):
        return np.sum(x), x[0], x[:1].reshape(()), np.sum(x > 0), np.max(x) > 1, 3, x.shape, np.argmax(x), (x, [None])

    fast = tm.compile(f, backend=backend)
    for _ in range(2):
        ours, wanted = fast(X), f(X)
        same(ours, wanted)
        assert [type(a) for a in tree_leaves(ours)] == [type(a) for a in tree_leaves(wanted)]
    hash(fast(X)[0])


def test_a_float_that_decides_is_a_part_of_the_program():
    f = lambda x, p: np.sum(x) * 2 if p > 0.5 else np.sum(x)  # noqa: E731
    fast = tm.compile(f)
    for p in (0.7, 0.2, 0.7, 0.9):
        same(fast(X, p), f(X, p))


class Scaled(dict):
    scale = 2.0


class Attributes(dict):
    __getattr__ = dict.__getitem__


@pytest.mark.parametrize("backend", BACKENDS)
def test_dicts_of_other_classes_are_of_their_class(backend):
    f = lambda p: p["a"] * (p.scale if isinstance(p, Scaled) else 1.0)  # noqa: E731
    fast = tm.compile(f, backend=backend)
    for p in ({"a": X}, Scaled(a=X), {"a": X}):
        same(fast(p), f(p))
    same(tm.compile(lambda p: p.a * 2, backend=backend)(Attributes(a=X)), X * 2)
    missing = collections.defaultdict(lambda: np.ones(3), a=X)
    same(tm.compile(lambda p: p["a"] + p.get("b", 1.0), backend=backend)(missing), X + 1)


def test_a_dict_that_holds_more_than_its_items_is_not_recorded():
    p, f = Scaled(a=X), lambda p: p["a"] * p.scale
    fast = tm.compile(f)
    for scale in (3.0, 4.0):
        p.scale = scale
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            same(fast(p), X * scale)
        assert len(said) == (scale == 3.0) and all("more than its items" in str(w.message) for w in said)


@pytest.mark.parametrize("kind", [Scaled, type("Listed", (list,), {})])
def test_results_of_other_classes_are_of_their_class(kind):
    f = lambda x: kind({"a": x * 2}) if kind is Scaled else kind([x])  # noqa: E731
    fast = tm.compile(f)
    for x in (X, X + 1):
        assert type(fast(x)) is kind
        same(fast(x), f(x))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("around", [lambda f: f, V])
def test_errors_that_errstate_makes_are_raised(around, backend):
    fast = tm.compile(around(lambda x: np.sum(np.log(x))), backend=backend)
    fast(np.ones(3))
    with np.errstate(all="raise"), pytest.raises(FloatingPointError, match="invalid value encountered in log"):
        fast(-np.ones(3))
    assert not fast.runners or all(runner is not None for runner in fast.runners.values())


@pytest.mark.skipif(np.finfo(np.longdouble).eps == np.finfo(float).eps, reason="long doubles are doubles here")
def test_long_doubles_are_compared_in_their_precision():
    x = np.exp(np.arange(1, 4, dtype=np.longdouble))
    assert verify.differs(x, x.copy()) is None
    assert verify.differs(x + x * 1e-17, x) is not None


# ── what a warning says ─────────────────────────────────────────────────────────────────────────────────────────────


def filled(x):
    row = np.zeros(3)
    row[0] = x[1]
    return row


def counting(x, seen=[]):  # noqa: B006
    seen.append(1)
    return x * len(seen)


SAID = {
    "a number that is read": (lambda x: x * float(x[0]), "a number is read from an array"),
    "a number that NumPy reads": (filled, "a number is read from an array.*in filled"),
    "a value that is printed": (lambda x: (f"{x[0]}", x * 2)[1], "a value is printed"),
    "a number that is rounded": (lambda x: round(x[0]) * x, "a number is rounded by Python"),
    "an array that is indexed": (lambda x: np.eye(5)[x.astype(int)], "where y.:, None. == np.arange"),
    "an array that is made": (lambda x: np.array([x, x]), "where np.stack"),
    "what is written": (counting, "writes to.*in counting"),
    "an argument that is no array": (lambda x: x, "has dtype <U1"),
}


@pytest.mark.parametrize("what", SAID)
def test_a_warning_names_the_place_in_the_user_s_code(what):
    f, message = SAID[what]
    x = np.array(["a"]) if what == "an argument that is no array" else X
    with pytest.warns(CompileWarning, match=message) as said:
        tm.compile(f)(x)
    text = str(said[0].message)
    assert "(test_frozen.py, line " in text and "please report" not in text and said[0].filename == __file__


def test_a_comparison_with_none_is_replayed_and_no_fault():
    with pytest.warns(CompileWarning, match="is replayed, not compiled: None is not a number") as said:
        same(tm.compile(lambda x: x == None)(X), np.zeros(3, bool))  # noqa: E711
    assert "please report" not in str(said[0].message)


# ── the first result is compared ────────────────────────────────────────────────────────────────────────────────────


def spoil(monkeypatch, change) -> None:
    """Machine code that gets one thing wrong."""
    run = compiled.Machine.run

    def wrong(self, *args):
        results, grads, failed = run(self, *args)
        return change(self, results, grads, *args) or (results, grads, failed)

    monkeypatch.setattr(compiled.Machine, "run", wrong)


def test_a_wrong_value_is_noticed_and_named(monkeypatch):
    spoil(monkeypatch, lambda self, results, grads, *_: results[0].__imul__(1 + 1e-9) and None)
    f = V(lambda x: np.sum(np.sin(x)))
    fast = tm.compile(f)
    with pytest.warns(CompileWarning, match=r"the result\[0\] is off by .*please report"):
        same(fast(X), f(X))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same(fast(X), f(X))
    assert not np.allclose(tm.compile(f, check=False)(X)[0], f(X)[0], rtol=1e-10, atol=0)


def problem(count=40):
    rng = np.random.default_rng(0)
    f = tm.meta_value_and_grad(lambda w, x, y: (np.mean((np.tanh(x @ w) - y) ** 2), np.sum(y)), inner_lr=0.1,
                               has_aux=True)  # fmt: skip
    return (
        f,
        rng.standard_normal((3, 2)),
        tuple((rng.standard_normal((count, 5, 3)), rng.integers(0, 2, (count, 5, 2)) * 1.0) for _ in range(2)),
    )


@pytest.mark.parametrize("count", [1, 3, 40])
@pytest.mark.parametrize("what", ["value", "gradient", "aux"])
def test_a_wrong_task_is_noticed_in_a_meta_gradient(monkeypatch, what, count):
    def change(self, results, grads, shared, data, n, apart=None):
        if what == "value":
            results[0] *= 1 + 1e-9
        elif what == "aux":
            results[1] += 1
        else:
            for g in (*grads, *(g for row in apart or () for g in row)):
                g[0] *= 1 + 1e-9

    f, w, tasks = problem(count)
    spoil(monkeypatch, change)
    fast = tm.compile(f)
    with pytest.warns(CompileWarning, match=r"task \d+: the result"):
        same(fast(w, tasks), f(w, tasks))


@pytest.mark.parametrize("meta", [False, True])
def test_a_change_between_the_two_results_is_no_fault(meta, monkeypatch):
    """Another thread's, while the first result is compared."""
    box = types.SimpleNamespace(k=1.0)
    loss = lambda w, *data: np.sum(w * w) * box.k  # noqa: E731
    f = tm.meta_value_and_grad(loss, inner_lr=0.1) if meta else loss
    args = (X, tuple((np.ones((2, 1)), np.ones((2, 1))) for _ in range(2))) if meta else (X,)

    spoil(monkeypatch, lambda *_: setattr(box, "k", 2.0))
    fast = tm.compile(f)
    same(fast(*args), f(*args))
    same(fast(*args), f(*args))
    assert box.k == 2.0 and all(runner is not None for runner in fast.runners.values())


def test_what_is_right_is_compared_once(monkeypatch):
    f, w, tasks = problem()
    calls = []
    counted = lambda *args: calls.append(1) or f(*args)  # noqa: E731
    counted.of_task = f.of_task
    fast = tm.compile(counted)
    fast(w, tasks)
    first = len(calls)
    assert 1 <= first <= 8
    fast(w, tasks)
    assert len(calls) == first
    unchecked = tm.compile(counted, check=False)
    unchecked(w, tasks)
    assert len(calls) == first


def test_long_programs_are_compared_in_the_background(monkeypatch):
    monkeypatch.setattr(compiled, "LONG", 0)
    f, w, tasks = problem(3)
    fast = tm.compile(f)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(100):
            fast(w, tasks)
            ((v,),) = fast.variants.values()
            if v.checked:
                break
            v.ahead.thread.join()
    assert v.checked and v.ahead is None

    def a_little_more(self, results, *_):
        results[0] *= 1.001

    spoil(monkeypatch, a_little_more)
    fast = tm.compile(f)
    fast(w, tasks)
    ((v,),) = fast.variants.values()
    v.ahead.thread.join()
    with pytest.warns(CompileWarning, match="task 0 of an earlier call: the result"):
        same(fast(w, tasks), f(w, tasks))


def test_an_error_in_the_background_falls_back(monkeypatch):
    monkeypatch.setattr(compiled, "LONG", 0)
    f, w, tasks = problem(3)
    fast = tm.compile(f)

    def out_of_memory(*_):
        raise MemoryError("no room")

    monkeypatch.setattr(compiled.Compiled, "_alone", out_of_memory)
    fast(w, tasks)
    ((v,),) = fast.variants.values()
    v.ahead.thread.join()
    with pytest.warns(CompileWarning, match="MemoryError: no room"):
        same(fast(w, tasks), f(w, tasks))
    assert v.ahead is None and v.runner is None


def test_tasks_that_are_compared_differ_in_masks_labels_and_ties():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((20, 6))
    labels, mask = np.zeros((20, 6), int), np.ones((20, 6), bool)
    labels[13], mask[7, 3:], x[5, :4] = 2, False, 0.0
    assert verify.unlike([x, labels, mask], 20)[0] == 0
    assert {0, 5, 7, 13} <= set(verify.unlike([x, labels, mask], 20))


@pytest.mark.parametrize("backend", ["numba", "replay"])
def test_a_float64_is_as_exact_as_the_float32_it_is_made_of(backend, monkeypatch):
    """Data in float32, normalised, and parameters in float64: even where there is no time to look into a difference."""
    rng = np.random.default_rng(0)
    tasks = tuple((rng.standard_normal((3, 50, 4)).astype(np.float32), rng.integers(0, 2, (3, 50))) for _ in range(2))

    def loss(w, x, y):
        return np.mean((np.mean(np.tanh(x - np.mean(x, 0)) ** 2, 1) * w - y) ** 2)

    f, w = tm.meta_value_and_grad(loss, inner_lr=0.1), np.array(0.5)
    for explaining in (compiled.EXPLAINING, np.inf):
        monkeypatch.setattr(compiled, "EXPLAINING", explaining)
        tm.compile(f, backend=backend)(w, tasks)
    x = tasks[0][0][0]
    f = lambda x: np.sin(np.sum(x * x)) + np.sum(x > 0)  # noqa: E731
    assert tm.compile(f, backend=backend)(x).dtype == np.float64


def test_rounding_that_a_power_amplifies_is_no_fault():
    """Two sums in different orders are an ε apart, and their powers hundreds."""
    x = np.random.default_rng(0).random(1000).astype(np.float32)
    x /= np.sum(x)
    apart = []
    for i in range(5):
        fast = tm.compile(lambda x: np.sum(x) ** 500)
        y = np.roll(x, i)
        apart.append(abs(fast(y) / np.sum(y) ** 500 - 1))
        assert [*map(type, fast.runners.values())] == [compiled.Machine]
    assert max(apart) > 8 * np.finfo(np.float32).eps


def test_a_float64_that_is_wrong_in_its_last_digits_is_noticed_beside_a_float32(monkeypatch):
    """Only what a float32 has part in is allowed its rounding."""
    spoil(monkeypatch, lambda self, results, grads, *_: results[0].__imul__(1 + 1e-9) and None)
    with pytest.warns(CompileWarning, match=r"the result\[0\] is off by .*please report"):
        tm.compile(lambda x, z: (np.sum(np.sin(x)), np.sum(np.sin(z)), np.sum(z > 0) * x))(X, X.astype(np.float32))


def test_a_tie_within_rounding_is_no_fault():
    """In float32 a ReLU may fall on either side of 0: the check looks for that before it gives up."""
    rng = np.random.default_rng(0)
    w, x = rng.standard_normal((50, 40)).astype(np.float32), rng.standard_normal((30, 50)).astype(np.float32)
    f = lambda w: np.sum(nn.relu((x - np.mean(x, 0)) @ w @ w.T))  # noqa: E731
    for _ in range(3):
        tm.compile(V(f))(w)
        w = w * np.float32(0.9)


def chaotic(steps):
    """Steps of a tent map, which double an error, and have ties: after 30 little of a float32 is left."""

    def of_task(meta, support, query):
        x = support[0] * meta["w"]
        for _ in range(steps):
            x = np.log(np.exp(x))  # which rounds
            x = np.minimum(1.99 * x, 1.99 * (1 - x))
        return np.mean((x - 0.5) * query[0]), {"w": 0 * meta["w"]}

    return tm.mean_over_tasks(of_task)


def chaos():
    rng = np.random.default_rng(0)
    x, y = (rng.uniform(0.1, 0.9, (4, 2)).astype(np.float32) for _ in range(2))
    return {"w": np.float32(0.7) * np.ones(2, np.float32)}, ((x, y), (y, x))


def test_chance_that_rounding_becomes_is_no_fault(monkeypatch):
    """A program is not blamed for what noise of an ε makes of a chaotic function with ties."""
    fast = tm.compile(chaotic(40))
    monkeypatch.setattr(verify, "NEAR", 10**6)  # there is a tie
    monkeypatch.setattr(compiled, "SMALL", 0.0)  # and the difference is not small
    fast(*chaos())
    assert [*map(type, fast.runners.values())] == [compiled.Machine]


def test_what_is_wrong_is_noticed_beside_ties(monkeypatch):
    """Noise of an ε does not move this so far."""
    monkeypatch.setattr(verify, "NEAR", 10**6)
    spoil(monkeypatch, lambda self, results, grads, *_: results[0].__iadd__(0.2) and None)
    with pytest.warns(CompileWarning, match="please report"):
        tm.compile(chaotic(3))(*chaos())


# ── whatever goes wrong ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("where", ["lay_out", "generate", "load", "record", "run", "crew"])
def test_whatever_goes_wrong_the_function_runs_and_a_report_is_asked_for(monkeypatch, where):
    def broken(*args, **kwargs):
        raise ZeroDivisionError("a fault of ours")

    if where == "run":
        monkeypatch.setattr(compiled.Machine, "run", broken)
    elif where == "record":
        monkeypatch.setattr(compiled, "task_of", broken)
    else:
        monkeypatch.setattr(runners, where, broken)
    f, w, tasks = problem(3)
    fast = tm.compile(f)
    place = r"test_frozen.py, line \d+, in broken"
    with pytest.warns(CompileWarning, match=rf"ZeroDivisionError: a fault of ours \({place}\).*please report") as said:
        (value, aux), grads = fast(w, tasks)
    assert len(said) == 1 and said[0].filename == __file__
    (value_, aux_), grads_ = f(w, tasks)
    np.testing.assert_allclose(value, value_, rtol=1e-12)
    np.testing.assert_allclose(grads, grads_, rtol=1e-9, atol=1e-12)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # once is enough
        fast(w, tasks)


@pytest.mark.parametrize("meta", [False, True])
def test_a_program_stays_where_the_function_raises_too(meta):
    """The replayed power of integers has NumPy's error of its own."""
    f = lambda w, k, *_: np.sum(w) * np.sum(2**k)  # noqa: E731
    f = tm.meta_value_and_grad(f, inner_lr=0.1) if meta else f
    fast = tm.compile(f, backend="replay")
    good, bad = (((k, k), (k, k)) if meta else k for k in (np.ones((3, 2), int), -np.ones((3, 2), int)))
    for _ in range(2):
        same(fast(X, good), f(X, good))
        with pytest.raises(ValueError, match="negative integer powers"):
            fast(X, bad)
    assert all(fast.runners.values())


def test_threads_that_run_a_program_give_up_once(monkeypatch):
    """Here, another thread has while this one was in it."""
    f, w, tasks = problem(3)
    fast = tm.compile(f)
    fast(w, tasks)
    ((v,),) = fast.variants.values()

    def broken(*args):
        v.give_up("")
        raise ZeroDivisionError

    monkeypatch.setattr(compiled.Machine, "run", broken)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same(fast(w, tasks), f(w, tasks))


def test_an_error_of_the_function_s_own_is_its_own_and_nothing_is_remembered():
    fast = tm.compile(lambda x: x @ np.ones((2, 2)))
    for _ in range(2):
        with pytest.raises(ValueError, match="matmul"):
            fast(np.ones(3))
    assert not fast.runners
    np.testing.assert_array_equal(fast(np.ones(2)), [2, 2])


def test_tasks_as_lists_of_lists_are_compiled():
    f, w, tasks = problem(3)
    fast = tm.compile(f)
    same(fast(w, [[*part] for part in tasks]), fast(w, tasks))
    assert all(isinstance(runner, compiled.Machine) for runner in fast.runners.values())


def test_a_compiled_function_can_be_pickled_and_copied():
    fast = tm.compile(of_globals)
    wanted = fast(X)
    for other in (pickle.loads(pickle.dumps(fast)), copy.deepcopy(fast), copy.copy(fast)):
        assert other(X) == wanted
