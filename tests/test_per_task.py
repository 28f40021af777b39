"""The frame around every algorithm: one task's function, for all tasks, in the reference and in machine code."""

import dataclasses
import re
import warnings

import numpy as np
import pytest
from test_schedule import spoiled_memory

import tinymaml as tm
from tinymaml import nn, stop_gradient, tree_leaves, tree_map
from tinymaml.inputs import check_converging
from tinymaml.per_task import over_tasks
from tinymaml.programs.runners import Machine, Replay

pytestmark = pytest.mark.usefixtures("quick_code")

BACKENDS = ["numba", "replay"]


def loss(theta, x, y):
    return nn.mse(np.tanh(x @ theta["w1"] + theta["b"]) @ theta["w2"], y)


def theta(dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"w1": (2, 6), "b": (6,), "w2": (6, 1)}
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}


def tasks(count=5, dtype=np.float64, seed=1):
    rng = np.random.default_rng(seed)
    draw = lambda n, d: rng.standard_normal((count, n, d)).astype(dtype)  # noqa: E731
    return (draw(4, 2), draw(4, 1)), (draw(7, 2), draw(7, 1))


def reptile(theta, support, query, alpha):
    phi = theta
    for _ in range(3):
        phi = tree_map(lambda p, g: p - alpha * g, phi, tm.grad(loss)(phi, *support))
    return loss(phi, *query), tree_map(lambda p, q: p - q, theta, phi)


def meta_sgd(meta, support, query):
    def query_loss(meta):
        grads = tm.grad(loss)(meta["theta"], *support)
        phi = tree_map(lambda p, a, g: p - a * g, meta["theta"], meta["alpha"], grads)
        return loss(phi, *query), {"phi": phi["b"], "size": 3}

    return tm.value_and_grad(query_loss, has_aux=True)(meta)


def same(ours, wanted, rtol=1e-12):
    for a, b in zip(tree_leaves(ours), tree_leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol, 1e-14)


def compiled(f, *args, backend="numba", **options):
    """The results of the compiled function, which has to be a program."""
    fast = tm.compile(f, backend=backend, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        results = [fast(*args), fast(*args)]
    assert [type(r) for r in fast.runners.values()] == [Machine if backend == "numba" else Replay] * len(fast.runners)
    same(*results, rtol=0)
    return results[0], fast


@pytest.mark.parametrize("backend", BACKENDS)
def test_reptile_in_five_lines_is_compiled(backend):
    f = tm.mean_over_tasks(reptile)
    value, gradient = f(theta(), tasks(), 0.1)
    xs, ys = tasks()[0]
    phi = [tm.adapt(loss, theta(), (x, y), inner_lr=0.1, inner_steps=3) for x, y in zip(xs, ys, strict=True)]
    same(gradient, tree_map(lambda p, *q: p - sum(q) / len(q), theta(), *phi))
    ours, fast = compiled(f, theta(), tasks(), 0.1, backend=backend)
    same(ours, (value, gradient))
    same(fast(theta(), tasks(), 0.3), f(theta(), tasks(), 0.3))
    assert len(fast.runners) == 1  # another rate is no other program


@pytest.mark.parametrize("backend", BACKENDS)
def test_meta_may_hold_more_than_parameters_and_aux_comes_per_task(backend):
    meta = {"theta": theta(), "alpha": tree_map(lambda p: np.full_like(p, 0.05), theta())}
    f = tm.mean_over_tasks(meta_sgd)
    (value, aux), gradient = f(meta, tasks())
    assert len(aux) == 5 and aux[0]["phi"].shape == (6,) and aux[0]["size"] == 3
    assert gradient.keys() == meta.keys()
    ours, _ = compiled(f, meta, tasks(), backend=backend)
    same(ours, ((value, aux), gradient))


def test_meta_value_and_grad_is_made_with_it():
    f = tm.meta_value_and_grad(loss, inner_lr=0.1, inner_steps=2)

    def of_task(params, support, query):
        inner = lambda params: loss(tm.maml._adapt(loss, params, support, 0.1, 2, False), *query)  # noqa: E731
        return tm.value_and_grad(inner)(params)

    same(f(theta(), tasks()), tm.mean_over_tasks(of_task)(theta(), tasks()), rtol=0)
    parts = [f.of_task(theta(), *tree_map(lambda x, t=t: x[t], tasks())) for t in range(5)]
    same(f(theta(), tasks())[0], sum(value for value, _ in parts) / len(parts))


@pytest.mark.parametrize("backend", BACKENDS)
def test_shared_inputs_may_be_nests_and_change_without_a_new_program(backend):
    def of_task(theta, support, query, weights, way):
        def steps(theta):
            first = loss(theta, *support)
            last = loss(tree_map(lambda p, g: p - way["alpha"] * g, theta, tm.grad(loss)(theta, *support)), *query)
            return weights[0] * first + weights[1] * last

        return tm.value_and_grad(steps)(theta)

    f = tm.mean_over_tasks(of_task)
    fast = tm.compile(f, backend=backend)
    for weights in ([0.5, 0.5], [0.1, 0.9], [0.0, 1.0]):
        for alpha in (0.1, np.full(6, 0.2)):
            args = theta(), tasks(), np.array(weights), {"alpha": alpha if isinstance(alpha, float) else np.mean(alpha)}
            same(fast(*args), f(*args))
    assert len(fast.runners) == 2  # a Python float and an array promote differently
    assert None not in fast.runners.values()


@pytest.mark.usefixtures("either_way")
def test_a_boolean_among_the_shared_inputs_selects_a_program():
    def of_task(theta, support, query, first_order):
        def query_loss(theta):
            grads = tm.grad(loss)(theta, *support)
            grads = tree_map(stop_gradient, grads) if first_order else grads
            return loss(tree_map(lambda p, g: p - 0.1 * g, theta, grads), *query)

        return tm.value_and_grad(query_loss)(theta)

    fast = tm.compile(tm.mean_over_tasks(of_task))
    for first_order in (True, False, True):
        exact = tm.meta_value_and_grad(loss, inner_lr=0.1, first_order=first_order)
        same(fast(theta(), tasks(), first_order), exact(theta(), tasks()))
    assert len(fast.runners) == 2


@pytest.mark.usefixtures("either_way")
def test_a_float_that_python_has_to_read_is_fixed():
    def of_task(theta, support, query, steps):
        return tm.value_and_grad(loss)(tree_map(lambda p: p * int(steps), theta), *query)

    f = tm.mean_over_tasks(of_task)
    fast = tm.compile(f)
    for steps in (1.0, 2.0, 1.0):
        same(fast(theta(), tasks(), steps), f(theta(), tasks(), steps))
    assert [type(r) for r in fast.runners.values()].count(Machine) >= 2


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_over_tasks_stacks_what_each_task_gives(backend, listed):
    def predict(theta, support, query, alpha):
        phi = tree_map(lambda p, g: p - alpha * g, theta, tm.grad(loss)(theta, *support))
        return {"loss": [loss(theta, *query), loss(phi, *query)], "phi": phi["w2"], "constant": 2.0}

    given = tasks()
    if listed:
        given = [tree_map(lambda x, t=t: x[t], given) for t in range(5)]
    f = over_tasks(predict)
    wanted = f(theta(), given, 0.1)
    assert wanted["phi"].shape == (5, 6, 1) and wanted["loss"][0].shape == wanted["constant"].shape == (5,)
    ours, fast = compiled(f, theta(), given, 0.1, backend=backend)
    same(ours, wanted)
    same(fast(theta(seed=3), given, 0.2), f(theta(seed=3), given, 0.2))


def test_over_tasks_says_what_diverged_like_the_reference():
    def predict(theta, support, query):
        value = loss(theta, *support)
        check_converging(value, "inner step 0: the support loss")
        return value

    f = over_tasks(predict)
    fast = tm.compile(f)
    fast(theta(), tasks())
    bad = tree_map(lambda x: x * 1e200, theta())
    with np.errstate(all="ignore"):
        for g in (f, fast):
            with pytest.raises(FloatingPointError, match="task 0, inner step 0: the support loss is inf"):
                g(bad, tasks())


def test_any_number_of_threads_gives_the_same_bits():
    f = tm.mean_over_tasks(reptile)
    args = theta(np.float32), tasks(40, np.float32), 0.1
    results = [tm.compile(f, threads=n)(*args) for n in (1, 2, 3)]
    for other in results[1:]:
        same(other, results[0], rtol=0)


@pytest.mark.parametrize("threads", [1, 2])
def test_what_another_program_left_in_memory_does_not_matter(threads):
    """Neither for the result nor for who computes it: the reference is not asked again."""
    f = tm.mean_over_tasks(reptile)
    args = theta(np.float32), tasks(40, np.float32), 0.1
    fast = tm.compile(f, threads=threads)
    first = fast(*args)

    def unwanted(*args):
        raise AssertionError("the reference is asked")

    fast.f = unwanted
    with spoiled_memory():
        same(fast(*args), first, rtol=0)
    left = tm.mean_over_tasks(lambda m, s, q: tm.value_and_grad(lambda m: np.sum(m["w1"] ** 0.5) + loss(m, *s))(m))
    for _ in range(20):  # NaN in the memories of helpers, too
        with pytest.raises(FloatingPointError), np.errstate(all="ignore"):
            tm.compile(left, check=False, threads=2)(*args[:2])
        same(fast(*args), first, rtol=0)


BROKEN = {
    "no pair": (lambda m, s, q: loss(m, *q), r"of_task returned float64 \(\), wanted \(value, gradient\)"),
    "three": (lambda m, s, q: (1.0, m, m), r"of_task returned \(1.0, \{'w1': float64"),
    "a value that is no scalar": (lambda m, s, q: (q[1], m), r"the value float64 \(7, 1\), wanted \(value, gradient\)"),
    "three values": (lambda m, s, q: ((1.0, 2.0, 3.0), m), r"the value \(1.0, 2.0, 3.0\), wanted"),
    "a value that is no number": (lambda m, s, q: ("loss", m), r"the value 'loss', wanted"),
    "a gradient is missing": (lambda m, s, q: (loss(m, *q), {"w1": m["w1"]}),
                              r"the gradient \{'w1': float64 \(2, 6\)\}, wanted one shaped like meta: \{'w1': float64"),
    "another shape": (lambda m, s, q: (loss(m, *q), m | {"b": m["w2"]}), r"'b': float64 \(6, 1\).*'b': float64 \(6,\)"),
    "another dtype": (lambda m, s, q: (loss(m, *q), m | {"b": m["b"].astype(np.float32)}), r"'b': float32 \(6,\)"),
    "a list": (lambda m, s, q: (loss(m, *q), [*m.values()]), r"the gradient \[float64 \(2, 6\)"),
}  # fmt: skip


@pytest.mark.parametrize("how", BROKEN)
@pytest.mark.parametrize("fast", [False, True])
def test_what_breaks_the_contract_is_shown_beside_what_is_wanted(how, fast):
    of_task, message = BROKEN[how]
    f = tm.mean_over_tasks(of_task)
    with pytest.raises(TypeError, match=message), warnings.catch_warnings():
        warnings.simplefilter("error")
        (tm.compile(f) if fast else f)(theta(), tasks())


@pytest.mark.parametrize("fast", [False, True])
def test_what_diverges_is_named_with_its_task(fast):
    def of_task(meta, support, query):
        value, gradient = tm.value_and_grad(loss)(meta, *query)
        check_converging(value, "inner step 2: the support loss")
        return value, gradient

    f = tm.compile(tm.mean_over_tasks(of_task)) if fast else tm.mean_over_tasks(of_task)
    (xs, ys), (xq, yq) = tasks()
    f(theta(), ((xs, ys), (xq, yq)))
    huge = yq.copy()
    huge[3] = 1e200
    with pytest.raises(FloatingPointError, match="^task 3, inner step 2: the support loss is inf"):
        f(theta(), ((xs, ys), (xq, huge)))


@pytest.mark.parametrize("meta, error, message", [
    ({"w": np.arange(3)}, TypeError, r"meta\['w'\] has dtype int64, wanted floating point"),
    ({"w": np.array([1.0, np.nan])}, ValueError, r"meta\['w'\] is not finite: 1 of 2, first nan at \[1\]"),
    ({}, ValueError, "meta is {}, wanted a nest with at least one array"),
])  # fmt: skip
def test_what_cannot_be_learned_is_refused(meta, error, message):
    with pytest.raises(error, match=message):
        tm.mean_over_tasks(reptile)(meta, tasks(), 0.1)


def test_shared_inputs_that_are_not_finite_are_refused():
    for f in (tm.mean_over_tasks(reptile), tm.compile(tm.mean_over_tasks(reptile))):
        with pytest.raises(ValueError, match=re.escape("shared[0] is not finite")):
            f(theta(), tasks(), np.nan)


@pytest.mark.usefixtures("either_way")
def test_data_may_be_nests():
    def of_task(theta, support, query):
        (x, context), y = query
        return tm.value_and_grad(loss)(theta, x["x"] + np.mean(context), y)

    (xs, ys), (xq, yq) = tasks()
    nested = (xs, ys), (({"x": xq}, xs), yq)
    f = tm.mean_over_tasks(of_task)
    ours, _ = compiled(f, theta(), nested)
    same(ours, f(theta(), nested))


def test_what_the_function_closes_over_is_watched():
    """A rate that `of_task` reads besides its arguments: when it changes, another program is made."""
    rate = 0.1

    def of_task(theta, support, query):
        phi = tree_map(lambda p, g: p - rate * g, theta, tm.grad(loss)(theta, *support))
        return loss(phi, *query), tree_map(lambda p, q: p - q, theta, phi)

    f = tm.mean_over_tasks(of_task)
    fast = tm.compile(f)
    for rate in (0.1, 0.3, 0.1):  # noqa: B007 (it is read by of_task)
        same(fast(theta(), tasks()), f(theta(), tasks()))
    assert [type(r) for r in fast.runners.values()] == [Machine, Machine]


def test_the_program_of_one_task_can_be_printed():
    program = tm.record(tm.mean_over_tasks(reptile), theta(), tasks(), 0.1)
    assert program.name == "reptile" and program.first_order is None
    value, gradient = program(theta(), *tree_map(lambda x: x[0], tasks()), 0.3)
    same((value, gradient), reptile(theta(), *tree_map(lambda x: x[0], tasks()), 0.3))


def test_what_was_said_of_a_function_stays_so():
    f = tm.mean_over_tasks(reptile)
    assert f.__name__ == "reptile"
    with pytest.raises(dataclasses.FrozenInstanceError):
        f.of_task.gradient = False


def test_a_function_cannot_write_to_the_data():
    def writes(theta, support, query):
        support[0][0] = 0
        return loss(theta, *query), theta

    for over in (tm.mean_over_tasks, over_tasks):
        with pytest.raises(ValueError, match="read-only"):
            over(writes)(theta(), tasks())


def test_numbers_of_numpy_in_aux_are_arrays():
    """As a compiled function returns them."""

    def of_task(theta, support, query):
        value, gradient = tm.value_and_grad(loss)(theta, *query)
        return (value, {"mean": np.mean(query[1]), "n": 3}), gradient

    (_, aux), _ = tm.mean_over_tasks(of_task)(theta(), tasks())
    assert type(aux[0]["mean"]) is np.ndarray and type(aux[0]["n"]) is int


def test_a_callable_without_a_name_has_that_of_its_class():
    class Algorithm:
        def __call__(self, theta, support, query):
            return tm.value_and_grad(loss)(theta, *query)

    f = tm.mean_over_tasks(Algorithm())
    assert f.__name__ == "Algorithm"
    same(f(theta(), tasks()), tm.mean_over_tasks(lambda m, s, q: tm.value_and_grad(loss)(m, *q))(theta(), tasks()))


@pytest.mark.parametrize("value", [1.0, np.float64(1.0), np.array(1.0)])
def test_any_scalar_is_a_value(value):
    mean, _ = tm.mean_over_tasks(lambda m, s, q: (value, m))(theta(), tasks())
    assert mean == 1


def test_a_gradient_that_is_a_derivative_of_tensors_is_shown_like_an_array():
    """Inside another derivative, what `of_task` returned may be a tensor."""

    def outer(scale):
        f = tm.mean_over_tasks(lambda m, s, q: (scale * m["b"], m))
        return f(theta(), tasks())[0]

    with pytest.raises(TypeError, match=r"the value float64 \(6,\), wanted"):
        tm.grad(outer)(np.array(2.0))


def test_a_value_may_be_differentiated_in_what_is_shared():
    """𝓛 in α, as of any function of tensors."""

    def value(alpha):
        return tm.mean_over_tasks(reptile)(theta(), tasks(2), alpha)[0]

    step = 1e-6
    wanted = (value(np.array(0.1 + step)) - value(np.array(0.1 - step))) / (2 * step)
    np.testing.assert_allclose(tm.grad(value)(np.array(0.1)), wanted, 1e-6)
