"""Every algorithm of the table keeps the protocol, is exact if it says so, and compiles to the same numbers.

The suite runs over ALGORITHMS, on a network of two layers made by hand. What belongs to one algorithm alone follows.
"""

import dataclasses
import itertools
from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numerical import numerical

import tinymaml as tm
from tinymaml import grad, hvp, stop_gradient, tree_items, tree_leaves, tree_map
from tinymaml.algorithms import ALGORITHMS, cavia, inner, joint, maml, meta_sgd, protomaml, reptile
from tinymaml.algorithms.inner import OPTIMISERS, clipped, descend, nth
from tinymaml.algorithms.partial import ANIL, BOIL
from tinymaml.per_task import mean_over_tasks

# Those for tasks that are acted in take no such examples: `test_rl_algorithm` is about them.
NAMES = [name for name, algorithm in ALGORITHMS.items() if not getattr(algorithm, "acts", False)]
EXACT = [name for name in NAMES if getattr(ALGORITHMS[name], "exact", False)]
CLASSES = {name for name in NAMES if getattr(ALGORITHMS[name], "classes", False)}  # the others are tried on regression

# ── a network, a loss and tasks ─────────────────────────────────────────────────────────────────────────────────────


@dataclasses.dataclass(frozen=True)
class Network:
    init: Callable
    apply: Callable
    body: Callable | None = None
    head: Callable | None = None
    last: tuple = ()
    norms: dict = dataclasses.field(default_factory=dict)


def two_layers(input_shape, outputs=1):
    def init(rng, dtype):
        draw = lambda *shape: rng.standard_normal(shape).astype(dtype)  # noqa: E731
        first, last = ((input_shape[-1], 3), (3, outputs))
        return {"first": {"w": draw(*first), "b": draw(3)}, "last": {"w": draw(*last), "b": draw(outputs)}}

    def body(params, x):
        return np.tanh(x @ params["first"]["w"] + params["first"]["b"])

    def head(params, features):
        return features @ params["last"]["w"] + params["last"]["b"]

    return Network(init, lambda params, x: head(params, body(params, x)), body, head, ("last",))


class Loss:
    """(Mean squared error, mean absolute error) of a network."""

    def __init__(self, network):
        self.network, self.last = network, network.last

    def __call__(self, theta, x, y):
        if self.network.body is None:
            return self.measured(self.network.apply(theta, x), y)
        return self.head(theta, self.body(theta, x), y)

    def body(self, theta, x):
        return self.network.body(theta, x)

    def head(self, theta, features, y):
        return self.measured(self.network.head(theta, features), y)

    def measured(self, prediction, y):
        return np.mean((prediction - y) ** 2), np.mean(np.abs(prediction - y))


class Classification(Loss):
    """(Cross-entropy, the mean largest logit) of a network of several outputs."""

    def measured(self, prediction, y):
        return tm.nn.cross_entropy(prediction, y), np.mean(np.max(prediction, 1))


class CountingLoss(Loss):
    """Keeps the θ that each call of the body and of the head was given."""

    def __init__(self, network):
        super().__init__(network)
        self.bodies, self.heads = [], []

    def body(self, theta, x):
        self.bodies.append(theta)
        return super().body(theta, x)

    def head(self, theta, features, y):
        self.heads.append(theta)
        return super().head(theta, features, y)


class Case:
    """An algorithm with settings, a loss, what is learned at its start, and tasks."""

    def __init__(self, algorithm, seed=0, dtype=np.float64, tasks=3, loss=Loss, **options):
        if isinstance(algorithm, str):
            algorithm = ALGORITHMS[algorithm]
        rng = np.random.default_rng(seed)
        known = {field.name for field in dataclasses.fields(algorithm.Settings)}
        options = {"inner_steps": 2, "inner_lr": 0.1, **options}
        self.settings = algorithm.Settings(**{name: x for name, x in options.items() if name in known})
        classes = getattr(algorithm, "classes", False)
        network = two_layers((2,), 3 if classes else 1)
        if hasattr(algorithm, "network"):
            network = algorithm.network(two_layers, (2,), self.settings)
        if hasattr(algorithm, "check"):
            algorithm.check(network, self.settings)
        self.algorithm, self.loss = algorithm, Classification(network) if classes else loss(network)
        self.theta = network.init(rng, dtype)
        self.meta = algorithm.init(self.theta, self.settings)
        draw = lambda n, width: rng.standard_normal((tasks, n, width)).astype(dtype)  # noqa: E731
        self.tasks = (draw(5, 2), draw(5, 1)), (draw(7, 2), draw(7, 1))
        if classes:
            self.tasks = tuple((x, np.arange(y.size).reshape(y.shape[:2]) % 3) for x, y in self.tasks)
        self.support, self.query = tree_map(lambda x: x[0], self.tasks)
        self.shared = algorithm.shared(0, self.settings) if hasattr(algorithm, "shared") else ()
        self.hooks = {}
        if hasattr(algorithm, "noise"):
            self.hooks["noise"] = algorithm.noise(rng, self.meta, self.support, self.query, self.settings)
        if hasattr(algorithm, "carried") and (carried := algorithm.carried(self.theta, self.settings)) is not None:
            self.hooks["carried"] = carried

    def of_task(self, meta, support, query, *shared):
        return self.algorithm.of_task(self.loss, meta, support, query, self.settings, *shared, **self.hooks)

    def one(self, meta=None):
        """((loss, aux), gradient) of the first task."""
        return self.of_task(self.meta if meta is None else meta, self.support, self.query, *self.shared)

    def adapt(self, steps):
        return nth(self.algorithm.adapt(self.loss, self.meta, self.support, self.settings), steps)


def support_loss(case):
    return lambda theta: case.loss(theta, *case.support)[0]


def query_loss(case):
    return lambda theta: case.loss(theta, *case.query)[0]


def close(ours, wanted, rtol=1e-12):
    for (path, a), b in zip(tree_items(ours), tree_leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * np.max(np.abs(b), initial=0), err_msg=path)


def equal(ours, wanted):
    for (path, a), b in zip(tree_items(ours), tree_leaves(wanted), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=path)


# ── exact: the gradient is the derivative of the value ──────────────────────────────────────────────────────────────


def assert_exact(case):
    gradient = dict(tree_items(case.one()[1]))
    scale = max(np.max(np.abs(g)) for g in gradient.values())
    assert scale > 1e-3  # or there would be nothing to see
    for how, rtol in ("finite differences", 1e-7), ("complex step", 1e-12):
        for path, wanted in numerical(lambda meta: case.one(meta)[0][0], case.meta, how).items():
            seen = np.reshape(gradient[path], -1)
            np.testing.assert_allclose(seen, wanted, rtol=0, atol=rtol * scale, err_msg=f"{path}, {how}")


@pytest.mark.parametrize("steps", [0, pytest.param(1, marks=pytest.mark.slow), 3])
@pytest.mark.parametrize("name", EXACT)
def test_the_gradient_is_the_derivative_of_the_query_loss(name, steps):
    assert_exact(Case(name, inner_steps=steps))


def held_gradients(case):
    case.algorithm = SimpleNamespace(of_task=lambda loss, theta, support, query, s: maml.of_task(
        loss, theta, support, query, dataclasses.replace(s, first_order=True)))  # fmt: skip


def held_body(case):
    def adapt(loss, theta, support, s):
        return ANIL.adapt(loss, {"first": tree_map(stop_gradient, theta["first"]), "last": theta["last"]}, support, s)

    case.algorithm = SimpleNamespace(of_task=inner.through(adapt))


def held_rates(case):
    def adapt(loss, meta, support, s):
        return meta_sgd.adapt(loss, {**meta, "alpha": tree_map(stop_gradient, meta["alpha"])}, support, s)

    case.algorithm = SimpleNamespace(of_task=inner.through(adapt))


PLANTED = {
    "the inner gradients": ("maml", held_gradients),
    "ANIL's body": ("anil", held_body),
    "the rates": ("meta-sgd", held_rates),
}


@pytest.mark.parametrize("what", PLANTED)
def test_what_is_held_constant_is_not_exact(what):
    name, plant = PLANTED[what]
    case = Case(name)
    plant(case)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_exact(case)


def hold(monkeypatch, part):
    """Hold a part of the inner loop constant: a mistake."""
    if part == "the norm":
        root = np.sqrt
        fake = SimpleNamespace(**{f: getattr(np, f) for f in ("maximum", "clip", "sum")})
        fake.sqrt = lambda x: stop_gradient(root(x))
        monkeypatch.setattr(inner, "np", fake)
    else:
        whole = inner.optimizer

        def holding(settings):
            opt = whole(settings)
            held = lambda state: {**state, part: tree_map(stop_gradient, state[part])}  # noqa: E731
            return opt._replace(update=lambda params, grads, state: opt.update(params, grads, held(state)))

        monkeypatch.setattr(inner, "optimizer", holding)


@pytest.mark.parametrize(
    "part, options",
    [
        ("the norm", {"inner_clip_norm": 0.1}),
        ("m", {"inner_optimizer": "momentum"}),
        ("m", {"inner_optimizer": "nesterov"}),
        ("m", {"inner_optimizer": "adam"}),
        ("v", {"inner_optimizer": "adam"}),
        ("v", {"inner_optimizer": "adamw"}),
    ],
)
def test_a_state_or_a_norm_that_is_held_constant_is_not_exact(part, options, monkeypatch):
    assert_exact(Case("maml", **options))
    hold(monkeypatch, part)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_exact(Case("maml", **options))


# ── the protocol ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", NAMES)
def test_settings_are_frozen_options_with_a_help(name):
    made = ALGORITHMS[name].Settings()
    fields = dataclasses.fields(made)
    assert fields and all(field.metadata["help"] for field in fields)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(made, fields[0].name, 1)


@pytest.mark.parametrize("name", NAMES)
def test_adapt_begins_with_theta_never_ends_and_writes_to_nothing(name):
    case = Case(name, inner_steps=1)
    before = tree_map(np.copy, (case.meta, case.support))
    thetas = case.algorithm.adapt(case.loss, case.meta, case.support, case.settings)
    path = list(itertools.islice(thetas, 8))
    equal(path[0], case.adapt(0) if name in CLASSES else case.theta)
    losses = [float(case.loss(theta, *case.support)[0]) for theta in path]
    assert np.all(np.isfinite(losses)) and losses[-1] < losses[0] and len(set(losses)) == 8
    equal((case.meta, case.support), before)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("name", NAMES)
def test_means_over_tasks_are_finite_and_shaped_like_meta(name, steps, dtype):
    case = Case(name, inner_steps=steps, dtype=dtype)
    (value, aux), gradient = mean_over_tasks(case.of_task)(case.meta, case.tasks, *case.shared)
    assert value.dtype == dtype and np.isfinite(value) and len(aux) == 3
    for (path, g), (same, x) in zip(tree_items(gradient), tree_items(case.meta), strict=True):
        assert path == same and (g.shape, g.dtype) == (x.shape, dtype) and np.isfinite(g).all()


@pytest.mark.parametrize("name", [name for name in EXACT if name not in CLASSES])
def test_without_steps_it_is_the_query_loss_at_theta(name):
    case = Case(name, inner_steps=0)
    (value, aux), _ = case.one()
    np.testing.assert_allclose([value, aux], case.loss(case.theta, *case.query), rtol=1e-14)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in CLASSES])
def test_a_loss_that_is_not_finite_is_named_with_its_task_and_step(name):
    case = Case(name)
    (xs, ys), query = case.tasks
    ys[1] = 1e200  # whose square is infinite
    with np.errstate(all="ignore"):
        with pytest.raises(FloatingPointError, match=r"task 1[,:] "):
            mean_over_tasks(case.of_task)(case.meta, case.tasks, *case.shared)
        case.support = xs[1], ys[1]
        with pytest.raises(FloatingPointError, match="inner step 0: the support loss is inf"):
            case.adapt(2)


# Their programs have most parts: steps with rates of their own, norms of each step, a linear system.
IN_MACHINE_CODE = {"maml", "mamlpp"}


@pytest.mark.usefixtures("own_cache", "quick_code")
@pytest.mark.parametrize("name, way", [
    *((name, "plain Python") for name in NAMES if name not in IN_MACHINE_CODE),
    *(pytest.param(name, "machine code", marks=() if name in IN_MACHINE_CODE else pytest.mark.slow) for name in NAMES),
])  # fmt: skip
def test_compiled_it_is_machine_code_with_the_numbers_of_the_reference(name, way):
    pytest.importorskip("numba")
    from test_schedule import plain_python

    with plain_python() if way == "plain Python" else nullcontext():
        assert_compiled(Case(name))


def assert_compiled(case):
    pytest.importorskip("numba")
    pytest.importorskip("scipy")
    from tinymaml.programs.compiled import Machine

    f = mean_over_tasks(case.of_task)
    fast = tm.compile(f)
    for meta in case.meta, tree_map(lambda x: x * 0.9, case.meta):
        close(fast(meta, case.tasks, *case.shared), f(meta, case.tasks, *case.shared), rtol=1e-13)
    assert [type(runner) for runner in fast.runners.values()] == [Machine]


# ── the inner loop ──────────────────────────────────────────────────────────────────────────────────────────────────


@given(
    optimizer=st.sampled_from(OPTIMISERS),
    clip_norm=st.sampled_from([0.0, 0.3, 100.0]),
    clip_value=st.sampled_from([0.0, 0.2]),
    decay=st.sampled_from([0.0, 0.1]),
    steps=st.integers(1, 3),
    seed=st.integers(0, 5),
)
@settings(max_examples=12)
def test_every_inner_optimiser_with_clipping_and_decay_is_exact(optimizer, clip_norm, clip_value, decay, steps, seed):
    options = dict(inner_optimizer=optimizer, inner_clip_norm=clip_norm, inner_clip_value=clip_value,
                   inner_decay=decay, inner_steps=steps, inner_lr=0.05, inner_eps=1e-3)  # fmt: skip
    assert_exact(Case("maml", seed=seed, **options))


@pytest.mark.usefixtures("own_cache", "quick_code", "either_way")
@pytest.mark.parametrize("optimizer", OPTIMISERS)
def test_every_inner_optimiser_compiles(optimizer):
    options = dict(inner_optimizer=optimizer, inner_clip_norm=0.5, inner_clip_value=0.4, inner_decay=0.01)
    assert_compiled(Case("maml", inner_eps=1e-3, **options))


@pytest.mark.parametrize("optimizer", OPTIMISERS)
def test_steps_inside_are_those_of_pytorch(optimizer):
    torch = pytest.importorskip("torch")
    case = Case("maml", inner_optimizer=optimizer, inner_decay=0.1, inner_clip_norm=0.5, inner_clip_value=0.4)
    leaves = [torch.tensor(x, requires_grad=True) for x in tree_leaves(case.theta)]
    make = {
        "sgd": lambda: torch.optim.SGD(leaves, 0.1, weight_decay=0.1),
        "momentum": lambda: torch.optim.SGD(leaves, 0.1, 0.9, weight_decay=0.1),
        "nesterov": lambda: torch.optim.SGD(leaves, 0.1, 0.9, weight_decay=0.1, nesterov=True),
        "adam": lambda: torch.optim.Adam(leaves, 0.1, weight_decay=0.1),
        "adamw": lambda: torch.optim.AdamW(leaves, 0.1, weight_decay=0.1),
    }
    theirs, theta = make[optimizer](), case.theta
    for theta in itertools.islice(descend(case.loss, case.theta, case.support, case.settings), 6):
        equal_to = [leaf.detach().numpy() for leaf in leaves]
        for ours, leaf in zip(tree_leaves(theta), equal_to, strict=True):
            np.testing.assert_allclose(ours, leaf, rtol=1e-5, atol=1e-6)  # PyTorch adds 1e-6 to the norm
        gradients = grad(support_loss(case))(theta)
        for leaf, g in zip(leaves, tree_leaves(gradients), strict=True):
            leaf.grad = torch.tensor(g)
        torch.nn.utils.clip_grad_value_(leaves, 0.4)
        torch.nn.utils.clip_grad_norm_(leaves, 0.5)
        theirs.step()


def test_the_state_lasts_from_step_to_step():
    case = Case("maml", inner_optimizer="adam")
    restarted = case.theta
    for _ in range(3):
        restarted = nth(descend(case.loss, restarted, case.support, case.settings), 1)
    differences = [np.max(np.abs(a - b)) for a, b in zip(*map(tree_leaves, (case.adapt(3), restarted)), strict=True)]
    assert max(differences) > 1e-3
    sgd = Case("maml")
    once_more = nth(descend(sgd.loss, sgd.adapt(2), sgd.support, sgd.settings), 1)
    equal(once_more, sgd.adapt(3))


@pytest.mark.parametrize("optimizer", OPTIMISERS)
def test_a_gradient_that_is_zero_makes_nothing_nan(optimizer):
    case = Case("maml", inner_optimizer=optimizer, inner_clip_norm=1.0, inner_clip_value=1.0)
    flat = tree_map(lambda x: 0 * x, case.theta)  # with weights of 0, the first layer's gradient is exactly 0
    assert not grad(support_loss(case))(flat)["first"]["w"].any()
    nothing = (case.support[0], np.zeros_like(case.support[1]))  # and with targets of 0, every gradient is
    assert not any(g.any() for g in tree_leaves(grad(lambda p: case.loss(p, *nothing)[0])(flat)))
    for support in case.support, nothing:
        _, gradient = case.of_task(flat, support, case.query)
        assert all(np.isfinite(g).all() for g in tree_leaves(gradient))


def test_an_optimiser_that_is_none_is_named_with_those_there_are():
    with pytest.raises(ValueError, match="inner_optimizer is 'rprop', wanted one of sgd, momentum, nesterov, adam"):
        Case("maml", inner_optimizer="rprop").adapt(1)


def test_clipping_bounds_the_norm_of_all_leaves_and_leaves_what_is_smaller():
    grads = {"a": np.array([3.0, -0.5]), "b": np.array(4.0)}
    by_norm, by_value = inner.Settings(inner_clip_norm=0.1), inner.Settings(inner_clip_value=1.0)
    short = clipped(grads, by_norm)
    assert inner.dot(short, short) == pytest.approx(0.01)
    close(tree_map(lambda g: g / 0.1 * np.sqrt(25.25), short), grads)
    equal(clipped(grads, by_value), {"a": np.array([1.0, -0.5]), "b": 1.0})
    equal(clipped(grads, inner.Settings(inner_clip_norm=6.0, inner_clip_value=5.0)), grads)
    assert clipped({"a": np.ones(2, np.float32)}, by_norm)["a"].dtype == np.float32


def test_one_step_of_adam_is_fomaml_up_to_epsilon():
    def difference(eps):
        options = dict(inner_steps=1, inner_optimizer="adam", inner_eps=eps)
        exact, first = (Case("maml", first_order=f, **options).one()[1] for f in (False, True))
        return max(np.max(np.abs(a - b)) for a, b in zip(tree_leaves(exact), tree_leaves(first), strict=True))

    errors = [difference(eps) for eps in (1e-4, 1e-5, 1e-6)]
    assert errors[0] > 1e-6
    np.testing.assert_allclose(np.divide(errors[:2], errors[1:]), 10, rtol=0.02)
    sgd, first = (Case("maml", inner_steps=1, first_order=f).one()[1] for f in (False, True))
    assert np.max(np.abs(sgd["first"]["w"] - first["first"]["w"])) > 1e-2


# ── MAML ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("first_order", [False, True])
def test_maml_is_meta_value_and_grad_to_the_bit(first_order, dtype):
    case = Case("maml", first_order=first_order, inner_steps=3, dtype=dtype)
    options = dict(inner_lr=0.1, inner_steps=3, first_order=first_order, has_aux=True)
    wanted = tm.meta_value_and_grad(case.loss, **options)(case.theta, case.tasks)
    equal(mean_over_tasks(case.of_task)(case.theta, case.tasks), wanted)


def test_fomaml_is_the_query_gradient_where_the_steps_end():
    case = Case("maml", first_order=True, inner_optimizer="momentum", inner_steps=3)
    equal(case.one()[1], grad(query_loss(case))(case.adapt(3)))


# ── Reptile ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_reptile_is_the_way_to_where_the_steps_end():
    case = Case("reptile", inner_steps=3, inner_optimizer="adam", inner_batch=2)
    (value, aux), gradient = case.one()
    adapted = case.adapt(3)
    assert (value, aux) == case.loss(adapted, *case.query)
    equal(gradient, tree_map(np.subtract, case.theta, adapted))
    assert case.settings.inner_beta1 == 0


def test_two_steps_of_reptile_are_the_sum_of_gradients_less_a_hessian_term():
    def error(alpha):
        """θ − θ₂ over α, less g₁ + g₂ − αHg₁."""
        case = Case("reptile", inner_steps=2, inner_lr=alpha, inner_batch=2)
        x, y = case.support
        first, second = (lambda p, s=s: case.loss(p, x[s], y[s])[0] for s in (slice(0, 2), slice(2, 4)))
        g1, g2 = grad(first)(case.theta), grad(second)(case.theta)
        curved = hvp(second, (case.theta,), g1)
        rest = tree_map(lambda d, a, b, h: d / alpha - (a + b - alpha * h), case.one()[1], g1, g2, curved)
        return np.sqrt(inner.dot(rest, rest))

    errors = [error(alpha) for alpha in (4e-3, 2e-3, 1e-3)]
    np.testing.assert_allclose(np.log2(np.divide(errors[:2], errors[1:])), 2, atol=0.05)
    assert errors[-1] > 1e-8


@given(count=st.integers(1, 9), size=st.integers(0, 12), steps=st.integers(1, 6))
def test_batches_follow_one_another_cyclically(count, size, steps):
    x = np.arange(count)
    seen = list(itertools.islice(reptile.batches((x, {"y": -x}), size), steps))
    assert all((a == -b["y"]).all() for a, b in seen)
    if 0 < size < count:
        assert [len(a) for a, _ in seen] == [size] * steps
        assert np.concatenate([a for a, _ in seen]).tolist() == [i % count for i in range(size * steps)]
    else:
        assert all(a.tolist() == x.tolist() for a, _ in seen)


def test_a_carried_state_goes_on_where_the_last_task_ended():
    options = dict(inner_optimizer="adam", inner_steps=2)
    case = Case("reptile", carry_state=True, **options)
    (_, aux), gradient = case.one()
    assert set(aux) == {"aux", "carried"} and aux["carried"]["t"] == 2
    equal(gradient, Case("reptile", **options).one()[1])  # the first task begins with zero
    # Two tasks after one another are four steps, of which the last two have the other support set.
    case.hooks["carried"] = aux["carried"]
    other = tree_map(lambda x: x[1], case.tasks[0])
    (_, aux), gradient = case.of_task(case.theta, other, case.query)
    opt, theta, state = tm.optim.adam(0.1, 0.0, eps_root=1e-16), case.theta, None
    state = opt.init(theta)
    for support in (case.support,) * 2:
        theta, state = opt.update(theta, grad(lambda p, s=support: case.loss(p, *s)[0])(theta), state)
    theta = case.theta
    for support in (other,) * 2:
        theta, state = opt.update(theta, grad(lambda p, s=support: case.loss(p, *s)[0])(theta), state)
    close(gradient, tree_map(np.subtract, case.theta, theta))
    close(aux["carried"], state)
    assert reptile.carried(case.theta, reptile.Settings()) is None
    assert {x.dtype.kind for x in tree_leaves(case.hooks["carried"])} == {"f"}  # whose mean over tasks is taken


@pytest.mark.usefixtures("own_cache", "quick_code", "either_way")
def test_a_carried_state_and_batches_compile():
    case = Case("reptile", carry_state=True, inner_optimizer="adam", inner_batch=2, inner_steps=3, inner_eps=1e-3)
    start = case.hooks.pop("carried")

    def of_task(theta, support, query, carried):
        return reptile.of_task(case.loss, theta, support, query, case.settings, carried=carried)

    case.of_task, case.shared = of_task, (tree_map(lambda x: x + 0.5, start),)
    assert_compiled(case)


# ── ANIL, BOIL, CAVIA ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("steps", [0, 1, 5])
def test_anils_body_runs_once_per_set_whatever_the_steps(steps):
    case = Case("anil", inner_steps=steps, loss=CountingLoss)
    case.one()
    assert len(case.loss.bodies) == 2
    assert len(case.loss.heads) == steps + 1


@pytest.mark.parametrize("name, frozen", [("anil", "first"), ("boil", "last")])
def test_what_does_not_adapt_stays_and_its_inner_gradient_is_not_computed(name, frozen):
    case = Case(name, loss=CountingLoss)
    adapted = case.adapt(3)
    (other,) = {"first", "last"} - {frozen}
    equal(adapted[frozen], case.theta[frozen])
    assert all((a != b).all() for a, b in zip(*(tree_leaves(p[other]) for p in (adapted, case.theta)), strict=True))
    seen = case.loss.bodies + case.loss.heads
    assert {layer for theta in seen for layer in theta if isinstance(theta[layer]["w"], tm.Tensor)} == {other}


@pytest.mark.parametrize("algorithm", [ANIL, BOIL])
def test_a_network_that_is_not_cut_is_refused(algorithm):
    with pytest.raises(ValueError, match="anil and boil .* cut into the two"):
        algorithm.check(Network(None, None), algorithm.Settings())
    algorithm.check(two_layers((2,)), algorithm.Settings())


def test_the_context_alone_adapts_and_begins_with_zero():
    case = Case("cavia", inner_steps=1)
    assert set(case.theta) == {"network", "context"} and case.theta["context"].tolist() == [0.0] * 5
    assert case.theta["network"]["first"]["w"].shape == (7, 3)
    g = grad(support_loss(case))(case.theta)["context"]
    adapted = case.adapt(1)
    equal(adapted, {"network": case.theta["network"], "context": -0.1 * g})
    gradient = case.one()[1]
    assert gradient["context"].tolist() == [0.0] * 5 and gradient["network"]["first"]["w"].all()
    # Whatever context the meta-parameters hold, a task begins with zero.
    elsewhere = {**case.theta, "context": np.ones(5)}
    equal(case.one(elsewhere), case.one())


def test_the_clamp_bounds_every_element_of_a_tasks_gradient():
    whole, clamped = (Case("cavia", context_clamp=c).one()[1] for c in (0.0, 0.05))
    equal(clamped, tree_map(lambda g: np.clip(g, -0.05, 0.05), whole))
    assert max(np.max(np.abs(g)) for g in tree_leaves(whole)) > 0.05


def test_the_context_of_images_is_further_channels():
    def pixels(input_shape):
        assert input_shape == (4, 4, 3)
        return Network(lambda rng, dtype: {"w": np.ones(3, dtype)}, lambda params, x: np.mean(x * params["w"], (1, 2)))

    network = cavia.network(pixels, (4, 4, 1), cavia.Settings(context=2))
    params = network.init(np.random.default_rng(0), np.float32)
    params["context"] += np.array([1, 2], np.float32)
    x = np.full((5, 4, 4, 1), 7, np.float32)
    equal(network.apply(params, x), np.tile(np.array([7, 1, 2], np.float32), (5, 1)))


# ── Meta-SGD, joint training ────────────────────────────────────────────────────────────────────────────────────────


def test_the_gradient_of_the_rates_is_the_product_of_gradients():
    case = Case("meta-sgd", inner_steps=1)
    theta = case.theta
    gs = grad(support_loss(case))(theta)
    gq = grad(query_loss(case))(case.adapt(1))
    gradient = case.one()[1]
    close(gradient["alpha"], tree_map(lambda a, b: -a * b, gs, gq))
    curved = hvp(support_loss(case), (theta,), tree_map(np.multiply, case.meta["alpha"], gq))
    close(gradient["theta"], tree_map(np.subtract, gq, curved))


def test_rates_begin_as_one_value_or_at_random_between_two():
    theta = {"w": np.ones((50, 40), np.float32), "b": np.ones(40, np.float32)}
    constant = meta_sgd.init(theta, meta_sgd.Settings(inner_lr=0.25))["alpha"]
    equal(constant, tree_map(lambda p: np.full_like(p, 0.25), theta))
    uniform, same, other = (
        meta_sgd.init(theta, meta_sgd.Settings(alpha="uniform", alpha_seed=s))["alpha"] for s in (0, 0, 1)
    )
    equal(uniform, same)
    assert (uniform["w"] != other["w"]).any() and uniform["w"].dtype == np.float32
    assert 0.005 <= uniform["w"].min() < 0.006 and 0.099 < uniform["w"].max() <= 0.1


def test_equal_rates_make_meta_sgd_maml():
    ours, plain = (Case(name, inner_steps=3).one() for name in ("meta-sgd", "maml"))
    equal((ours[0], ours[1]["theta"]), plain)


def test_joint_training_is_the_gradient_of_all_examples_together():
    case = Case("joint")
    together = tuple(np.concatenate(pair) for pair in zip(case.support, case.query, strict=True))
    (value, aux), gradient = case.one()
    wanted, wanted_gradient = tm.value_and_grad(lambda p: case.loss(p, *together)[0])(case.theta)
    close((value, gradient), (wanted, wanted_gradient))
    assert aux == case.loss(case.theta, *case.query)[1]
    plain = descend(case.loss, case.theta, case.support, case.settings)
    equal(case.adapt(3), nth(plain, 3))


def test_joint_training_adapts_with_a_new_head_if_that_is_asked_for():
    case = Case("joint", new_head=True)
    zero = {**case.theta, "last": tree_map(np.zeros_like, case.theta["last"])}
    equal(case.adapt(0), zero)
    equal(case.adapt(3), nth(descend(case.loss, zero, case.support, case.settings), 3))
    equal(case.one(), Case("joint").one())
    with pytest.raises(ValueError, match="joint with new_head wants a network that is cut into body and head"):
        joint.check(Network(None, None), case.settings)


@pytest.mark.parametrize("name", ["anil", "boil"])
def test_a_loss_that_is_not_cut_has_its_last_layer_for_a_head(name):
    case = Case(name)
    plain = lambda theta, x, y: case.loss(theta, x, y)  # noqa: E731
    ours = case.algorithm.of_task(plain, case.meta, case.support, case.query, case.settings)
    close(ours, case.one())


# ── ProtoMAML ───────────────────────────────────────────────────────────────────────────────────────────────────────


def prototypes(case):
    features = case.loss.body(case.theta, case.support[0])
    return np.stack([features[case.support[1] == k].mean(0) for k in range(3)])


def test_protomaml_starts_as_a_prototypical_network():
    case = Case("protomaml", inner_steps=0)
    theta, features = case.adapt(0), case.loss.body(case.theta, case.query[0])
    # w_k·f + b_k = ‖f‖² − ‖f − c_k‖²
    squares = np.sum((features[:, None] - prototypes(case)) ** 2, 2)
    close(case.loss.network.head(theta, features), np.sum(features**2, 1)[:, None] - squares)
    equal(theta["first"], case.theta["first"])
    equal(case.one()[1]["last"], tree_map(np.zeros_like, case.theta["last"]))


def test_the_centroids_of_protomaml_are_differentiated_through():
    case = Case("protomaml", inner_steps=1)
    held = SimpleNamespace(of_task=inner.through(lambda loss, theta, support, s: descend(
        loss, {**theta, "last": stop_gradient_of(protomaml.first_head(loss.body(theta, support[0]), support[1], 3))},
        support, s)))  # fmt: skip
    assert_exact(case)
    case.algorithm = held
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_exact(case)


def stop_gradient_of(nest):
    return tree_map(stop_gradient, nest)


@pytest.mark.usefixtures("own_cache", "quick_code", "either_way")
def test_protomaml_moves_the_head_alone_if_that_is_asked_for():
    case = Case("protomaml", inner_steps=2, adapts="head")
    assert_exact(case)
    assert_compiled(case)
    equal(case.adapt(2)["first"], case.theta["first"])
    head = case.adapt(0)["last"]
    features = case.loss.body(case.theta, case.support[0])
    alone = descend(lambda h, f, y: case.loss.head({"last": h}, f, y), head, (features, case.support[1]), case.settings)
    close(case.adapt(2)["last"], nth(alone, 2))


@pytest.mark.parametrize("adapts", ["all", "head"])
def test_the_own_head_of_protomaml_is_not_learned(adapts):
    case = Case("protomaml", adapts=adapts)
    gradient = case.one()[1]
    assert not any(g.any() for g in tree_leaves(gradient["last"])) and gradient["first"]["w"].all()
    elsewhere = {**case.theta, "last": tree_map(lambda p: p + 1, case.theta["last"])}
    equal(case.one(elsewhere), case.one())


@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.parametrize("options", [dict(adapts="head"), dict(inner_optimizer="momentum", inner_clip_norm=0.1)])
def test_protomaml_is_exact_whatever_adapts(options, steps):
    assert_exact(Case("protomaml", inner_steps=steps, **options))


def test_of_the_first_order_the_inner_gradients_are_held_and_the_centroids_are_not():
    exact, first = (Case("protomaml", first_order=f, inner_steps=1).one() for f in (False, True))
    close(exact[0], first[0])
    assert np.abs(exact[1]["first"]["w"] - first[1]["first"]["w"]).max() > 1e-3
    case = Case("protomaml", inner_steps=1)
    moved = tree_map(lambda g: -0.1 * g, grad(support_loss(case))(case.adapt(0)))

    def query_loss_after(theta):
        head = protomaml.first_head(case.loss.body(theta, case.support[0]), case.support[1], 3)
        return case.loss(tree_map(np.add, {**theta, "last": head}, moved), *case.query)[0]

    close(first[1], grad(query_loss_after)(case.theta), rtol=1e-10)


def test_a_class_that_the_support_set_lacks_is_not_predicted():
    features, labels = np.random.default_rng(0).normal(size=(4, 3)), np.array([0, 2, 2, 0])
    head = protomaml.first_head(features, labels, 4)
    assert not head["w"][:, [1, 3]].any() and (head["b"][[1, 3]] == protomaml.ABSENT).all()
    assert set((100 * features @ head["w"] + head["b"]).argmax(1)) <= {0, 2}
    close(head["w"][:, 2], 2 * features[1:3].mean(0))


def test_a_support_loss_of_protomaml_that_is_not_finite_is_named_with_its_task_and_step():
    case = Case("protomaml")
    (xs, _), _ = case.tasks
    case.meta["first"] = tree_map(lambda p: 1e200 * p, case.meta["first"])
    case.loss.body = lambda theta, x: x @ theta["first"]["w"]
    xs[[0, 2]] = 0
    message = r"task 1[,:] .*inner step 0: the support loss"
    with np.errstate(all="ignore"), pytest.raises(FloatingPointError, match=message):
        mean_over_tasks(case.of_task)(case.meta, case.tasks)


WHOLE = two_layers((2,))


@pytest.mark.parametrize(
    "network, message",
    [
        (Network(None, None), "cut into a body and a head, which is one linear layer {w, b}$"),
        (dataclasses.replace(WHOLE, last=("first", "last")), "one linear layer"),
        (dataclasses.replace(WHOLE, head=lambda p, f: f @ p["last"]["w"] + p["last"]["b"] ** 2),
         "its head last is not f w . b"),
        (dataclasses.replace(WHOLE, init=lambda rng, dtype: {"first": {}, "last": {"w": np.ones(3)}}),
         "its head is last"),
        (dataclasses.replace(WHOLE, init=lambda rng, dtype: {"last": WHOLE.init(rng, dtype)["last"]}),
         "the body has no parameters, and nothing would be learned"),
    ],
)  # fmt: skip
def test_protomaml_refuses_a_network_that_does_not_fit(network, message):
    with pytest.raises(ValueError, match=f"protomaml .*{message}"):
        protomaml.check(network, protomaml.Settings())
    protomaml.check(two_layers((2,), 3), protomaml.Settings())
