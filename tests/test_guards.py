"""Guards: whatever a function reads besides its arguments is noticed when it changes, and is put back when written to.

Each change is made to what a function closes over, names or holds; `changed` must name it, and must be silent before.
"""

import argparse
import collections
import contextvars
import dataclasses
import enum
import functools
import itertools
import random
import sys
import time
import types
from time import perf_counter

import numpy as np
import pytest

import tinymaml as tm
from tinymaml.networks.mlp import mlp
from tinymaml.programs import RecordError, record
from tinymaml.programs.guards import MOST, Outside

X = np.array([3.0, 0.5, -5.0])
HERE = sys.modules[__name__]

SCALE, OTHER, ZERO, NAN, WORD, NOTHING = 2.0, 3, 0.0, float("nan"), "a", None
ARRAY, STRIDED, LONG = np.arange(3.0), np.ones((40, 41))[:, ::2], np.ones((100, 100))
CONFIG = {"rate": 1.0, "deep": [1, {"w": np.ones(3)}], "pair": (np.ones(2), 3)}
SPACE, ARGUMENTS = types.SimpleNamespace(scale=1.0), argparse.Namespace(scale=1.0)
NAMES, QUEUE, ORDERED = {"a", "b"}, collections.deque([1]), collections.OrderedDict(a=1)
CONTEXT = contextvars.ContextVar("context", default=1)
BYTES, TENSOR = bytearray(b"abc"), tm.Tensor(np.ones(3))
MODULE = types.ModuleType("a_module_of_the_user")
MODULE.CONSTANT = 1
CYCLE: list = [1]
CYCLE.append(CYCLE)
DEFAULTS = collections.defaultdict(lambda: OTHER, a=1)
OBJECTS = [types.SimpleNamespace(k=1)]


class Kind(enum.Enum):
    FIRST = 1
    SECOND = 2


KIND = Kind.FIRST


@dataclasses.dataclass
class Settings:
    rate: float = 1.0


@dataclasses.dataclass(slots=True)
class Slotted:
    rate: float = 1.0


SETTINGS, SLOTTED = Settings(), Slotted()


class Base:
    offset = 1.0

    def shifted(self, x):
        return x + self.offset


class Model(Base):
    def __init__(self):
        self.beta, self.calls, self.history = 2.0, 0, []
        self.w, self.rng = np.ones(3), np.random.default_rng(1)
        self.layers = [Settings(), Settings()]

    def loss(self, x):
        return x * self.beta

    def __call__(self, x):
        return self.shifted(x) * self.w

    def by_name(self, x):
        return x * getattr(self, "beta", 1.0)

    def deep(self, x):
        return x * sum(layer.rate for layer in self.layers)

    @property
    def doubled(self):
        return 2 * self.beta

    def through_property(self, x):
        return x * self.doubled

    @classmethod
    def of_class(cls, x):
        return x * cls.offset

    def optional(self, x):
        return x * getattr(self, "temperature", 1.0)

    def counting(self, x):
        self.calls += 1
        return x * 2

    def keeping(self, x):
        self.history.append(1)
        return x * 2

    def leaking(self, x):
        self.history.append(x)
        return x * 2

    def remembering(self, x):
        self.last = 3
        return x * 2

    def drawing(self, x):
        return x * 2 if self.rng.random() < 0.5 else x


def helper(x):
    return x * OTHER


@functools.wraps(helper)
def wrapper(*args):
    return helper(*args)


@functools.lru_cache
def cached(n):
    return n * OTHER


def with_default(x, c=[1.0]):  # noqa: B006
    return x * c[0]


def with_keyword(x, *, c=ARRAY):
    return x * c


def with_attribute(x):
    return x * with_attribute.k


with_attribute.k = 1.0


def set_(**names):
    return lambda: vars(HERE).update(names)


# (a function, a change, what it is called)
CHANGES = {
    "a global": (lambda x: x * SCALE, set_(SCALE=2.5), "the global SCALE"),
    "another type": (lambda x: x * OTHER, set_(OTHER=3.0), "the global OTHER"),
    "minus zero": (lambda x: x * ZERO, set_(ZERO=-0.0), "the global ZERO"),
    "a string": (lambda x: x if WORD == "a" else -x, set_(WORD="b"), "the global WORD"),
    "None": (lambda x: x if NOTHING is None else -x, set_(NOTHING=1), "the global NOTHING"),
    "an enum": (lambda x: x if KIND is Kind.FIRST else -x, set_(KIND=Kind.SECOND), "the global KIND"),
    "a builtin hidden": (lambda x: x * len(x), set_(len=lambda x: 7), "the global len"),
    "an array": (lambda x: x * ARRAY, lambda: ARRAY.__setitem__(1, 7), "the global ARRAY"),
    "a long array": (lambda x: x * LONG[0, 0], lambda: LONG.__setitem__((99, 99), 7), "the global LONG"),
    "a strided array": (lambda x: x * STRIDED[0, 0], lambda: STRIDED.__setitem__((39, 20), 7), "the global STRIDED"),
    "an array rebound": (lambda x: x * ARRAY, set_(ARRAY=np.ones(3)), "the global ARRAY"),
    "an array of another dtype": (lambda x: x * ARRAY, set_(ARRAY=np.arange(3)), "the global ARRAY"),
    "a key": (lambda x: x * CONFIG["rate"], lambda: CONFIG.update(rate=2.0), "the global CONFIG"),
    "a list in a dict": (lambda x: x * CONFIG["deep"][0], lambda: CONFIG["deep"].append(1), "CONFIG['deep']"),
    "an array in it": (lambda x: x * CONFIG["deep"][1]["w"], lambda: CONFIG["deep"][1]["w"].fill(7),
                       "CONFIG['deep'][1]['w']"),
    "an array in a tuple": (lambda x: x * CONFIG["pair"][1], lambda: CONFIG["pair"][0].fill(7), "CONFIG['pair'][0]"),
    "an attribute of an item": (lambda x: x * OBJECTS[0].k, lambda: setattr(OBJECTS[0], "k", 2), "OBJECTS[0].k"),
    "a list that holds itself": (lambda x: x * CYCLE[0], lambda: CYCLE.append(2), "the global CYCLE"),
    "a set": (lambda x: x if "c" in NAMES else -x, lambda: NAMES.add("c"), "the global NAMES"),
    "a deque": (lambda x: x * QUEUE[0], lambda: QUEUE.append(2), "the global QUEUE"),
    "an ordered dict": (lambda x: x * ORDERED["a"], lambda: ORDERED.update(a=2), "the global ORDERED"),
    "a default factory": (lambda x: x * DEFAULTS["a"], set_(OTHER=5), "the global OTHER"),
    "bytes": (lambda x: x * BYTES[0], lambda: BYTES.__setitem__(0, 1), "the global BYTES"),
    "a closed-over tensor": (lambda x: x * TENSOR.value, lambda: TENSOR.value.fill(7), "the global TENSOR"),
    "a namespace": (lambda x: x * SPACE.scale, lambda: setattr(SPACE, "scale", 2.0), "SPACE.scale"),
    "parsed arguments": (lambda x: x * ARGUMENTS.scale, lambda: setattr(ARGUMENTS, "scale", 2.0), "ARGUMENTS.scale"),
    "a dataclass": (lambda x: x * SETTINGS.rate, lambda: setattr(SETTINGS, "rate", 2.0), "SETTINGS.rate"),
    "slots": (lambda x: x * SLOTTED.rate, lambda: setattr(SLOTTED, "rate", 2.0), "SLOTTED.rate"),
    "a class": (lambda x: x * Base.offset, lambda: setattr(Base, "offset", 2.0), "Base.offset"),
    "a module": (lambda x: x * MODULE.CONSTANT, lambda: setattr(MODULE, "CONSTANT", 2), "of_the_user.CONSTANT"),
    "a context variable": (lambda x: x * CONTEXT.get(), lambda: CONTEXT.set(2), "the global CONTEXT"),
    "a helper's global": (lambda x: helper(x), set_(OTHER=5), "the global OTHER"),
    "a helper": (lambda x: helper(x), set_(helper=lambda x: x), "the global helper"),
    "behind a wrapper": (lambda x: wrapper(x), set_(OTHER=5), "the global OTHER"),
    "behind a cache": (lambda x: x * cached(2), set_(OTHER=5), "the global OTHER"),
    "in a function inside": (lambda x: (lambda y: y * OTHER)(x), set_(OTHER=5), "the global OTHER"),
    "in a comprehension": (lambda x: [x * OTHER for _ in "ab"], set_(OTHER=5), "the global OTHER"),
    "a default": (with_default, lambda: with_default.__defaults__[0].insert(0, 2.0), "a default of with_default"),
    "defaults": (with_default, lambda: setattr(with_default, "__defaults__", (3.0,)), "a default of with_default"),
    "a keyword's default": (with_keyword, lambda: with_keyword.__kwdefaults__["c"].fill(7), "default of with_keyword"),
    "a function's attribute": (with_attribute, lambda: setattr(with_attribute, "k", 2.0), "with_attribute.k"),
}  # fmt: skip


@pytest.fixture(autouse=True)
def as_it_was():
    """What a test changes here is put back."""
    reached = Outside(lambda x: [f(x) for f, *_ in CHANGES.values()])
    before = dict(vars(HERE))
    contents = [Outside(f) for f, *_ in CHANGES.values()]
    yield
    for name in vars(HERE).keys() - before.keys():
        delattr(HERE, name)
    vars(HERE).update(before)
    for outside in (*contents, reached):
        for watched in outside.watched:
            watched.restore()


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_is_noticed_and_named(what):
    f, change, name = CHANGES[what]
    outside = Outside(f)
    assert outside.changed() is None and outside.changed() is None
    change()
    assert name in outside.changed()


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_while_it_is_recorded_is_refused_and_undone(what):
    f, change, name = CHANGES[what]

    def changing(x):
        f(x)
        change()
        return x * 2.0

    before = Outside(f)
    with pytest.raises(RecordError, match="writes to") as error:
        record(changing, X)
    assert name in str(error.value) and before.changed() is None


def model_changes():
    of = lambda name: lambda model: getattr(model, name)  # noqa: E731
    beta = lambda model: setattr(model, "beta", 3.0)  # noqa: E731
    return {
        "an attribute": (of("loss"), beta, "self.beta"),
        "an attribute by its name": (of("by_name"), beta, "self.beta"),
        "behind a property": (of("through_property"), beta, "self.beta"),
        "an array": (lambda model: model, lambda model: model.w.fill(7), "self.w"),
        "a base class": (lambda model: model, lambda model: setattr(Base, "offset", 3.0), "Base.offset"),
        "of a class method": (of("of_class"), lambda model: setattr(Base, "offset", 3.0), "Base.offset"),
        "a method": (lambda model: lambda x: model.loss(x), lambda model: setattr(Model, "loss", lambda self, x: x),
                     "Model.loss"),
        "an instance's own": (lambda model: model, lambda model: setattr(model, "offset", 5.0), "self.offset"),
        "what was not there": (of("optional"), lambda model: setattr(model, "temperature", 2.0), "self.temperature"),
        "in a list of objects": (of("deep"), lambda model: setattr(model.layers[1], "rate", 9.0),
                                 "self.layers[1].rate"),
        "in a function": (lambda model: lambda x: model.loss(x), beta, "model.beta"),
        "in a partial": (lambda model: functools.partial(Model.loss, model), beta, "argument 0 of the function.beta"),
    }  # fmt: skip


@pytest.mark.parametrize("what", model_changes())
def test_a_change_of_an_object_is_noticed_and_named(what, monkeypatch):
    monkeypatch.setattr(Base, "offset", 1.0)
    monkeypatch.setattr(Model, "loss", Model.loss)
    f_of, change, name = model_changes()[what]
    model = Model()
    outside = Outside(f_of(model))
    assert outside.changed() is None
    change(model)
    assert outside.changed() == name


def closure():
    w, k = np.arange(3.0), 2.0

    def f(x):
        return np.sum(x * w * k)

    def set_k(value):
        nonlocal k
        k = value

    return f, w, set_k


AROUND = {
    "itself": lambda f: f,
    "grad": lambda f: tm.grad(f),
    "value_and_grad": lambda f: tm.value_and_grad(f),
    "grad of grad": lambda f: tm.grad(lambda x: np.sum(tm.grad(f)(x) ** 2)),
    "meta_value_and_grad": lambda f: tm.meta_value_and_grad(lambda p, x, y: f(p * x - y), inner_lr=0.1),
    "meta_value_and_grad, flat": lambda f: tm.meta_value_and_grad(lambda p, x, y: f(p), inner_lr=0.1, memory="flat"),
    "hvp": lambda f: lambda x: tm.hvp(f, (x,), (x,)),
    "partial": lambda f: functools.partial(f),
    "compile": lambda f: tm.compile(f, backend="replay"),
    "a primitive's rule": lambda f: tm.Primitive("guarded", lambda x: x, (lambda g, out, x: f(g),)),
}  # fmt: skip


@pytest.mark.parametrize("around", AROUND)
def test_what_a_loss_closes_over_is_found_behind_what_is_made_of_it(around):
    f, w, set_k = closure()
    try:
        outside = Outside(AROUND[around](f))
    finally:
        tm.Primitive.registry.pop("guarded", None)
    set_k(3.0)
    assert outside.changed() == "the closed-over k"
    set_k(2.0)
    assert outside.changed() is None
    w[1] = 7
    assert outside.changed() == "the closed-over array w"


def test_inner_learning_rates_are_inputs_and_not_guarded():
    rates = {"w": np.array(0.1), "b": [np.array(0.2)]}
    outside = Outside(tm.meta_value_and_grad(lambda p, x, y: 0.0, inner_lr=rates))
    rates["w"] -= 0.01
    rates["b"][0] = np.array(0.3)
    assert outside.changed() is None


def test_what_is_the_same_again_is_no_change(monkeypatch):
    f = lambda x: x * SCALE * NAN * ARRAY * LONG[0, 0] * CONFIG["rate"]  # noqa: E731
    outside = Outside(f)
    monkeypatch.setattr(HERE, "SCALE", float("2.0"))
    monkeypatch.setattr(HERE, "NAN", float("nan"))
    monkeypatch.setattr(HERE, "ARRAY", ARRAY.copy())
    monkeypatch.setattr(HERE, "LONG", LONG.copy())
    CONFIG["rate"] = float("1.0")
    assert outside.changed() is None and outside.changed() is None
    ARRAY[0] = 9  # the array that has taken the other's place
    assert outside.changed() == "the global ARRAY"


def test_an_array_of_two_names_is_not_followed_from_one_of_them(monkeypatch):
    monkeypatch.setattr(HERE, "LONG", ARRAY)
    outside = Outside(lambda x: x * ARRAY * LONG)
    monkeypatch.setattr(HERE, "ARRAY", ARRAY.copy())
    assert outside.changed() == "the global ARRAY"


def test_what_makes_an_object_is_looked_at_where_its_class_is_named(monkeypatch):
    outside = Outside(lambda x: Model()(x))
    assert outside.changed() is None
    monkeypatch.setattr(Model, "__init__", lambda self: None)
    assert outside.changed() == "Model.__init__"
    outside = Outside(lambda x: Scaled().k * x)
    monkeypatch.setattr(HERE, "SCALE", 7.0)
    assert outside.changed() == "the global SCALE"


class Scaled:
    def __init__(self):
        self.k = SCALE


def test_what_is_not_named_is_not_looked_at():
    model = Model()
    outside = Outside(model.loss)
    model.history.append(1)
    model.layers[0].rate = 9.0
    CONFIG["rate"] = 5.0
    assert outside.changed() is None


def test_an_array_that_is_read_only_is_neither_copied_nor_compared():
    frozen = np.ones(10**6)
    frozen.flags.writeable = False
    view, f = frozen[::2], lambda x: x * frozen[0] * view[0]
    outside = Outside(f)
    assert [w.copy is w.x for w in outside.watched if hasattr(w, "copy")] == [True, True]
    assert outside.changed() is None


def test_a_read_only_view_of_an_array_that_can_be_written_to_is_compared():
    base = np.ones(3)
    view = base[:]
    view.flags.writeable = False
    outside = Outside(lambda x: x * view)
    base[0] = 2
    assert outside.changed() == "the closed-over array view"


# ── what is refused ─────────────────────────────────────────────────────────────────────────────────────────────────

COUNTER, MANY, ITEMS = itertools.count(), list(range(MOST + 1)), [{} for _ in range(MOST + 1)]
GENERATOR, OLD, PYTHON = np.random.default_rng(0), np.random.RandomState(0), random.Random(0)
DRAW = GENERATOR.random

RANDOM = {
    "a generator": lambda x: x * GENERATOR.normal(),
    "a coin": lambda x: x if GENERATOR.random() < 0.5 else -x,
    "a mask": lambda x: np.where(GENERATOR.random(3) < 0.5, x, 0),
    "a bound method": lambda x: x if DRAW() < 0.5 else -x,
    "a RandomState": lambda x: x if OLD.rand() < 0.5 else -x,
    "Python's generator": lambda x: x if PYTHON.random() < 0.5 else -x,
    "np.random": lambda x: x if np.random.rand() < 0.5 else -x,
    "np.random's seed": lambda x: (np.random.seed(0), x)[1],
    "random": lambda x: x if random.random() < 0.5 else -x,
    "random, not seen in the result": lambda x: (random.shuffle([1, 2, 3]), x)[1],
    "a shuffled copy": lambda x: x[GENERATOR.permutation(3)],
}  # fmt: skip


def states():
    return repr((GENERATOR.bit_generator.state, OLD.get_state(), PYTHON.getstate(), np.random.get_state(),
                 random.getstate()))  # fmt: skip


@pytest.mark.parametrize("what", RANDOM)
def test_random_numbers_are_refused_and_the_generator_is_where_it_was(what):
    before = states()
    with pytest.raises(RecordError, match="draws random numbers from .*masks, noise or keys outside"):
        record(RANDOM[what], X)
    with pytest.raises(RecordError, match="draws random numbers"):
        record(tm.grad(lambda x: np.sum(RANDOM[what](x))), X)
    assert states() == before


@pytest.mark.parametrize(
    ("f", "what"),
    {
        "a new generator": (lambda x: x if np.random.default_rng().random() < 0.5 else -x, "default_rng"),
        "seeded with None": (lambda x: x if np.random.default_rng(None).random() < 0.5 else -x, "default_rng"),
        "Python's": (lambda x: x if random.Random().random() < 0.5 else -x, "Random"),
        "the system's": (lambda x: x if random.SystemRandom().random() < 0.5 else -x, "SystemRandom"),
        "the clock": (lambda x: x if time.time() % 2 < 1 else -x, "time"),
        "the clock by name": (lambda x: x if perf_counter() % 2 < 1 else -x, "time"),
        "an iterator": (lambda x: x * next(COUNTER), "COUNTER is an iterator"),
        "a generator": (lambda x, g=(i for i in range(9)): x * next(g), "is an iterator"),
        "too many": (lambda x: x * MANY[0], "more than 100,000"),
        "too many in all": (lambda x: x * len(ITEMS[0]), "100,000"),
    }.values(),
)
def test_what_cannot_be_compared_is_a_reason_against_recording(f, what):
    with pytest.raises(RecordError, match=what):
        record(f, X)
    assert what in Outside(f).reason


def test_a_seeded_generator_made_inside_is_a_constant():
    f = lambda x: x * np.random.default_rng(3).random(3)  # noqa: E731
    np.testing.assert_array_equal(record(f, X)(X), f(X))


# ── what is written to ──────────────────────────────────────────────────────────────────────────────────────────────

MEAN, STORE, TOTAL = np.zeros(3), {}, 0


def running(x):
    MEAN[:] = 0.9 * MEAN + 0.1
    return x - MEAN


def running_out(x):
    np.add(MEAN, 1, out=MEAN)
    return x - MEAN


def running_view(x):
    MEAN[1:][0] += 1
    return x - MEAN


def counted(x):
    global TOTAL
    TOTAL += 1
    return x * 2


def stored(x):
    STORE["last"] = x
    return x * 2


def created(x):
    global CREATED
    CREATED = 1
    return x * 2


def made(x):
    MODULE.made = 1
    with_attribute.made = 1
    return x * 2


@pytest.mark.parametrize(
    ("f", "what"),
    [(running, "MEAN"), (running_out, "MEAN"), (running_view, "MEAN"), (counted, "TOTAL"), (stored, "STORE"),
     (created, "CREATED"), (made, "made")],
)  # fmt: skip
@pytest.mark.parametrize("around", [lambda f: f, lambda f: tm.grad(lambda x: np.sum(f(x)))], ids=["f", "its gradient"])
def test_what_is_written_to_is_named_and_put_back(f, what, around):
    before = repr((MEAN, STORE, TOTAL, vars(MODULE), vars(with_attribute)))
    with pytest.raises(RecordError, match=f"writes to .*{what}"):
        record(around(f), X)
    assert repr((MEAN, STORE, TOTAL, vars(MODULE), vars(with_attribute))) == before
    assert "CREATED" not in vars(HERE)


@pytest.mark.parametrize(("name", "what"), [("counting", "self.calls"), ("keeping", "self.history"),
                                            ("leaking", "self.history"), ("remembering", "self.last"),
                                            ("drawing", "self.rng")])  # fmt: skip
def test_what_an_object_remembers_is_named_and_put_back(name, what):
    model = Model()
    before = repr((vars(model), model.rng.bit_generator.state))
    with pytest.raises(RecordError, match=what):
        record(getattr(model, name), X)
    assert repr((vars(model), model.rng.bit_generator.state)) == before


def test_what_a_function_changed_is_put_back_where_it_raises():
    def f(x):
        MEAN[:] = 5
        STORE["x"] = 1
        GENERATOR.random()
        raise ZeroDivisionError

    before = states()
    with pytest.raises(ZeroDivisionError):
        record(f, X)
    assert not MEAN.any() and not STORE and states() == before


def test_a_closed_over_variable_is_put_back():
    count, last = 0, None

    def f(x):
        nonlocal count, last
        count, last = count + 1, x
        return x * 2

    with pytest.raises(RecordError, match="writes to the closed-over (count|last)"):
        record(f, X)
    assert count == 0 and last is None


def test_what_does_not_change_is_no_write():
    def f(x):
        STORE.update({})
        MEAN[:] = MEAN * 1
        SPACE.scale = SPACE.scale
        return x * 2

    np.testing.assert_array_equal(record(f, X)(X), 2 * X)


class Lazy:
    @functools.cached_property
    def w(self):
        return np.arange(3.0)

    def __call__(self, x):
        return x * self.w


def test_what_is_computed_once_and_kept_is_no_write():
    lazy = Lazy()
    np.testing.assert_array_equal(record(lazy, X)(X), X * np.arange(3.0))
    outside = Outside(lazy)
    lazy.w[0] = 5
    assert outside.changed() == "self.w"


# ── what it costs ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_frozen_dataclass_is_read_like_any_object():
    @dataclasses.dataclass(frozen=True)
    class Frozen:
        rate: float = 2.0

    settings = Frozen()  # whose generated __setattr__ asks for a type
    outside = Outside(lambda x: x * settings.rate)
    outside.check()
    assert outside.changed() is None
    object.__setattr__(settings, "rate", 3.0)
    assert outside.changed() == "settings.rate"


def test_objects_of_others_are_not_walked():
    """What NumPy, the standard library and this package hold is theirs."""
    net = mlp((3,), (8,), 1)
    outside = Outside(lambda p, x: tm.nn.mse(net.apply(p, x), np.linalg.norm(x) + itertools.chain([1])))
    assert len(outside.watched) < 20


def test_the_code_of_a_large_module_is_read_where_it_is_named(monkeypatch):
    for i in range(1000):
        monkeypatch.setitem(vars(MODULE), f"unused{i}", np.ones(10))
    outside = Outside(lambda x: x * MODULE.CONSTANT)
    assert len(outside.watched) < 10
