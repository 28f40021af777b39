"""MAML++, implicit, Hessian-free, proximal and perturbed MAML against closed forms and numerical derivatives.

The losses are quadratics, of which everything is known, and networks of two layers with batch norm made by hand.
"""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinymaml as tm
from tinymaml import nn, tree_items, tree_leaves, tree_map
from tinymaml.algorithms import hessian_free, imaml, maml, mamlpp, perturbed, proximal
from tinymaml.algorithms.inner import dot, nth, plus
from tinymaml.check import complex_step
from tinymaml.nest import tree_fill
from tinymaml.per_task import mean_over_tasks

# ── losses and derivatives ──────────────────────────────────────────────────────────────────────────────────────────


def quadratic(theta, A, b):
    """½ θᵀAθ − bᵀθ, of a nest with the one leaf "w"."""
    w = theta["w"]
    value = w @ A @ w / 2 - b @ w
    return value, value


class Quadratic:
    """A task of two quadratics, with θ, λ and α, and all that is known of it."""

    def __init__(self, seed=0, n=4, strength=2.0, lr=0.1):
        rng = np.random.default_rng(seed)
        root = rng.standard_normal((2, n, n))
        self.A, self.B = root @ np.swapaxes(root, 1, 2) / n + 0.2 * np.eye(n)
        self.a, self.b, w = rng.standard_normal((3, n))
        self.theta, self.support, self.query = {"w": w}, (self.A, self.a), (self.B, self.b)
        self.strength, self.lr, self.n = strength, lr, n
        self.shifted = self.A + strength * np.eye(n)
        # φ* = (A + λI)⁻¹ (a + λθ),   G = λ (A + λI)⁻¹ g_q(φ*)
        self.phi = np.linalg.solve(self.shifted, self.a + strength * w)
        self.implicit = strength * np.linalg.solve(self.shifted, self.B @ self.phi - self.b)

    def gradient(self, algorithm, **options):
        settings = algorithm.Settings(inner_lr=self.lr, **options)
        return algorithm.of_task(quadratic, self.theta, self.support, self.query, settings)[1]["w"]


def network(theta, x, y):
    """Mean squared error of linear, batch norm, tanh, linear."""
    first, last = theta["first"], theta["last"]
    h = np.tanh(nn.batch_norm(nn.linear(x, first["w"]), first["gamma"], first["beta"]))
    value = nn.mse(nn.linear(h, last["w"], last["b"]), y)
    return value, value


def network_task(seed=0, width=3):
    rng = np.random.default_rng(seed)
    draw = rng.standard_normal
    theta = {
        "first": {"w": draw((2, width)), "gamma": 1 + 0.1 * draw(width), "beta": 0.1 * draw(width)},
        "last": {"w": draw((width, 1)), "b": draw(1)},
    }
    return theta, (draw((6, 2)), draw((6, 1))), (draw((7, 2)), draw((7, 1)))


def numerical(f, tree, h=1e-30):
    """The derivative of the scalar f at a nest, by the complex step: Im f(x + ih) / h."""
    leaves, out = [np.array(x, complex) for x in tree_leaves(tree)], []
    for leaf in leaves:
        slope = np.zeros(leaf.shape)
        for i in np.ndindex(leaf.shape):
            kept = leaf[i]
            leaf[i] = kept + 1j * h
            with complex_step():
                leaf[i], slope[i] = kept, np.imag(f(tree_fill(tree, leaves))) / h
        out.append(slope)
    return tree_fill(tree, out)


def assert_exact(of_task, meta, rtol=1e-10):
    """The gradient is the derivative of the value, for every leaf, relative to the greatest of that leaf."""
    slopes = tree_items(numerical(lambda m: of_task(m)[0][0], meta))
    for (path, wanted), seen in zip(slopes, tree_leaves(of_task(meta)[1]), strict=True):
        scale = max(np.abs(wanted).max(), 1e-3)
        np.testing.assert_allclose(seen, wanted, rtol=0, atol=rtol * scale, err_msg=path)


def slope(xs, errors):
    """Of log error over log x."""
    return np.polyfit(np.log(xs), np.log(errors), 1)[0]


# ── MAML++ ──────────────────────────────────────────────────────────────────────────────────────────────────────────

SWITCHES = [
    {},
    {"learned_rates": False},
    {"per_step_norm": False},
    {"multi_step_epochs": 0},
    {"learned_rates": False, "per_step_norm": False},
]


def plusplus(iteration=0, task=None, **options):
    theta, support, query = task or network_task()
    settings = mamlpp.Settings(**{"inner_steps": 3, "inner_lr": 0.1, **options})
    meta, shared = mamlpp.init(theta, settings), mamlpp.shared(iteration, settings)
    return lambda meta: mamlpp.of_task(network, meta, support, query, settings, *shared), meta, settings


def test_weights_at_the_first_the_middle_and_the_last_epoch():
    settings = mamlpp.Settings(inner_steps=4, multi_step_epochs=10, epoch=500)
    weights = lambda iteration: mamlpp.shared(iteration, settings)[0]  # noqa: E731
    np.testing.assert_allclose(weights(0), [1 / 4] * 4, rtol=1e-15)
    np.testing.assert_allclose(weights(499), weights(0))
    # e = E/2: wₖ = 1/K − 1/2K,   w_K = 1/K + (K − 1)/2K
    np.testing.assert_allclose(weights(2500), [1 / 8] * 3 + [5 / 8], rtol=1e-15)
    np.testing.assert_allclose(weights(4999), [1 / 40] * 3 + [37 / 40], rtol=1e-15)
    assert weights(5000).tolist() == weights(10**6).tolist() == [1]


@given(steps=st.integers(0, 6), epochs=st.integers(0, 60), epoch=st.integers(0, 70))
def test_weights_sum_to_one_and_the_floor_is_reached_only_by_many_epochs(steps, epochs, epoch):
    w = mamlpp.loss_weights(epoch, mamlpp.Settings(inner_steps=steps, multi_step_epochs=epochs))
    K = max(steps, 1)
    np.testing.assert_allclose(np.sum(w), 1, rtol=1e-14)
    assert w.shape in ((1,), (K,)) and (w >= 0.03 / K).all()
    if w.size > 1:
        # The original code: min(1/K + e (K − 1)/KE, 1 − (K − 1) .03/K) for the last.
        np.testing.assert_allclose(w[-1], min(1 / K + epoch * (K - 1) / (K * epochs), 1 - (K - 1) * 0.03 / K))
        assert epochs > 33 or np.allclose(w[0], 1 / K - epoch / (K * epochs))


@pytest.mark.parametrize("iteration", [0, pytest.param(2500, marks=pytest.mark.slow), 5000])
@pytest.mark.parametrize("options", SWITCHES)
def test_mamlpp_is_exact_in_theta_rates_gamma_and_beta(options, iteration):
    of_task, meta, settings = plusplus(iteration, **options)
    assert_exact(of_task, meta)
    gradient = of_task(meta)[1]
    if settings.per_step_norm:
        assert gradient["theta"]["first"]["gamma"].shape == (3, 3) and gradient["theta"]["first"]["beta"].all()
    if settings.learned_rates:
        wanted = {"['first']['w']", "['last']['w']", "['last']['b']"}
        wanted |= set() if settings.per_step_norm else {"['first']['gamma']", "['first']['beta']"}
        assert meta["rates"].keys() == wanted and all(a.shape == (3,) and a.all() for a in gradient["rates"].values())


def test_a_rate_that_is_held_constant_is_found(monkeypatch):
    whole = mamlpp.row
    held = lambda p, k: tm.stop_gradient(whole(p, k)) if p.ndim == 1 else whole(p, k)  # noqa: E731
    monkeypatch.setattr(mamlpp, "row", held)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_exact(*plusplus()[:2])


def test_with_all_parts_off_mamlpp_is_maml_to_the_bit():
    theta, support, query = network_task()
    off = dict(learned_rates=False, per_step_norm=False, multi_step_epochs=0)
    of_task, meta, _ = plusplus(**off)
    value, gradient = of_task(meta)
    wanted = maml.of_task(network, theta, support, query, maml.Settings(inner_steps=3, inner_lr=0.1))
    assert value == wanted[0]
    assert all((a == b).all() for a, b in zip(*map(tree_leaves, (gradient["theta"], wanted[1])), strict=True))


def test_the_multi_step_loss_is_the_weighted_sum_of_query_losses():
    theta, support, query = network_task()
    of_task, meta, settings = plusplus(2500)
    path = list(itertools.islice(mamlpp.adapt(network, meta, support, settings), 4))
    losses = [network(theta, *query)[0] for theta in path[1:]]
    value, aux = of_task(meta)[0]
    np.testing.assert_allclose(value, np.dot([1 / 6, 1 / 6, 2 / 3], losses), rtol=1e-14)
    assert aux == losses[-1]


def test_each_step_has_its_rate_and_its_rows_and_the_last_serve_beyond():
    theta, support, query = network_task()
    settings = mamlpp.Settings(inner_steps=2, inner_lr=0.1)
    meta = mamlpp.init(theta, settings)
    rng = np.random.default_rng(1)
    meta = tree_map(lambda x: x + 0.05 * rng.standard_normal(x.shape), meta)
    norm = meta["theta"]["first"]
    with_rows = lambda w, k: {**w, "first": {**w["first"], "gamma": norm["gamma"][k], "beta": norm["beta"][k]}}  # noqa: E731
    w = with_rows(meta["theta"], 0)
    seen = itertools.islice(mamlpp.adapt(network, meta, support, settings), 5)
    for step, query_row, ours in zip((0, 1, 1, 1, 1), (0, 0, 1, 1, 1), seen, strict=True):
        for (path, a), b in zip(tree_items(ours), tree_leaves(with_rows(w, query_row)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-13, err_msg=path)
        grads = tm.grad(lambda w: network(w, *support)[0])(with_rows(w, step))
        new = [p - 0.1 * meta["rates"][path][step] * g if path in meta["rates"] else p
               for (path, p), g in zip(tree_items(w), tree_leaves(grads), strict=True)]  # fmt: skip
        w = tree_fill(w, new)


def test_the_first_epochs_are_of_first_order():
    theta, support, query = network_task()
    options = dict(first_order_epochs=2, epoch=10, learned_rates=False, per_step_norm=False, multi_step_epochs=0)
    assert [mamlpp.shared(i, mamlpp.Settings(**options))[1] for i in (0, 19, 20)] == [True, True, False]
    first, second = (plusplus(i, **options)[0] for i in (19, 20))
    meta = plusplus(**options)[1]
    wanted = maml.of_task(network, theta, support, query, maml.Settings(inner_steps=3, inner_lr=0.1, first_order=True))
    for (path, a), b in zip(tree_items(first(meta)[1]["theta"]), tree_leaves(wanted[1]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14, err_msg=path)
    assert_exact(second, meta)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_exact(first, meta)


@pytest.mark.parametrize("iteration", [0, 5000])
@pytest.mark.parametrize("per_step", [True, False])
def test_statistics_of_the_query_are_handed_on_per_step(per_step, iteration):
    theta, support, query = network_task()

    def running(theta, x, y):
        value, metric = network(theta, x, y)
        h = x @ theta["first"]["w"]
        return value, {"metric": metric, "norms": {"first": {"mean": np.mean(h, 0), "var": np.var(h, 0)}}}

    settings = mamlpp.Settings(inner_steps=3, inner_lr=0.1, per_step_statistics=per_step)
    assert mamlpp.norm_steps(settings) == (3 if per_step else 1)
    meta, shared = mamlpp.init(theta, settings), mamlpp.shared(iteration, settings)
    (_, aux), gradient = mamlpp.of_task(running, meta, support, query, settings, *shared)
    path = list(itertools.islice(mamlpp.adapt(running, meta, support, settings), 4))[1 if per_step else 3 :]
    wanted = [running(theta, *query)[1] for theta in path]
    np.testing.assert_allclose(aux["metric"], wanted[-1]["metric"], rtol=1e-13)
    for key, of in aux["norms"]["first"].items():
        np.testing.assert_allclose(of, [w["norms"]["first"][key] for w in wanted], rtol=1e-12)
    plain = mamlpp.of_task(network, meta, support, query, settings, *shared)[1]
    assert all((a == b).all() for a, b in zip(*map(tree_leaves, (gradient, plain)), strict=True))


# ── iMAML ───────────────────────────────────────────────────────────────────────────────────────────────────────────

SOLVED = dict(inner_steps=150, strength=2.0)


@given(seed=st.integers(0, 20), n=st.integers(1, 6))
@settings(max_examples=12)
def test_the_implicit_gradient_of_quadratics_is_the_closed_form(seed, n):
    q = Quadratic(seed, n)
    np.testing.assert_allclose(q.gradient(imaml, solver_steps=n + 3, **SOLVED), q.implicit, rtol=1e-9, atol=1e-11)


def test_the_series_is_what_the_last_steps_contribute_and_tends_to_the_closed_form():
    q = Quadratic()
    decay = np.eye(q.n) - q.lr * q.shifted
    g = q.B @ q.phi - q.b
    for J in (1, 4, 30):
        # αλ Σⱼ (I − α(A + λI))ʲ g
        wanted = sum(q.lr * q.strength * np.linalg.matrix_power(decay, j) @ g for j in range(J))
        seen = q.gradient(imaml, solver="neumann", solver_steps=J, **SOLVED)
        np.testing.assert_allclose(seen, wanted, rtol=1e-10)
    seen = q.gradient(imaml, solver="neumann", solver_steps=500, **SOLVED)
    np.testing.assert_allclose(seen, q.implicit, rtol=1e-9)


def test_conjugate_gradients_go_on_after_the_solution_and_from_zero():
    times = lambda v: tree_map(lambda x: 2 * x, v)  # noqa: E731
    with np.errstate(all="raise", under="ignore"):
        for dtype in (np.float32, np.float64):
            for start in ([3.0, -1.0], [0.0, 0.0]):
                x = imaml.conjugate_gradients(times, {"w": np.array(start, dtype)}, 6)["w"]
                assert x.dtype == dtype and x.tolist() == [s / 2 for s in start]
    q = Quadratic()
    np.testing.assert_allclose(q.gradient(imaml, solver_steps=100, **SOLVED), q.implicit, rtol=1e-9)


def test_conjugate_gradients_end_at_a_direction_of_no_positive_curvature():
    A = np.diag([3.0, 2.0, -1.0])
    times = lambda v: {"w": A @ v["w"]}  # noqa: E731
    for g in ([0.0, 0.0, 1.0], [1.0, -2.0, 5.0]):
        g = {"w": np.array(g)}
        few, many = (imaml.conjugate_gradients(times, g, steps)["w"] for steps in (3, 30))
        assert few.tolist() == many.tolist() and np.isfinite(few).all()
    positive = {"w": np.array([1.0, -2.0, 0.0])}
    np.testing.assert_allclose(imaml.conjugate_gradients(times, positive, 2)["w"], [1 / 3, -1, 0], atol=1e-14)


def test_the_unrolled_gradient_tends_to_the_implicit_one_at_the_rate_of_the_inner_loop():
    q = Quadratic()
    mu = np.linalg.eigvalsh(q.A)[0]
    steps = np.arange(60, 90, 5)
    errors = []
    for K in steps:
        error = q.gradient(perturbed, inner_steps=int(K), strength=q.strength) - q.implicit
        errors.append(np.linalg.norm(error))
    # ‖G_K − G‖ ~ (1 − α(μ + λ))^K
    seen = np.polyfit(steps, np.log(errors), 1)[0]
    np.testing.assert_allclose(seen, np.log(1 - q.lr * (mu + q.strength)), rtol=0.01)
    assert errors[-1] < 1e-2 * errors[0] < 1e-8


@pytest.mark.parametrize("solver, steps", [("cg", 20), ("neumann", 150)])
def test_the_implicit_gradient_of_a_network_is_the_derivative_of_the_solved_problem(solver, steps):
    def loss(theta, x, y):
        value = nn.mse(np.tanh(x @ theta["first"]["w"]) @ theta["last"]["w"], y)
        return value, value

    theta, support, query = network_task()
    theta = {"first": {"w": theta["first"]["w"]}, "last": {"w": theta["last"]["w"]}}
    settings = imaml.Settings(strength=3.0, inner_steps=150, inner_lr=0.1, solver=solver, solver_steps=steps)
    gradient = imaml.of_task(loss, theta, support, query, settings)[1]
    wanted = numerical(lambda p: loss(nth(imaml.adapt(loss, p, support, settings), 150), *query)[0], theta)
    for (path, a), b in zip(tree_items(gradient), tree_leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-9 * np.abs(b).max(), err_msg=path)


def test_the_inner_problem_is_solved_to_the_tolerance_and_stands_still_there():
    q = Quadratic()
    settings = proximal.Settings(inner_lr=q.lr, strength=q.strength, tolerance=1e-3, inner_steps=1)
    path = [theta["w"] for theta in itertools.islice(proximal.adapt(quadratic, q.theta, q.support, settings), 200)]
    norms = [np.linalg.norm(q.shifted @ w - q.a - q.strength * q.theta["w"]) for w in path]
    reached = next(k for k, norm in enumerate(norms) if norm <= 1e-3)
    assert 5 < reached < 150 and all((w == path[reached]).all() for w in path[reached:])
    assert all(norm > 1e-3 for norm in norms[:reached])


def test_a_second_pull_inside_is_refused():
    with pytest.raises(ValueError, match="imaml: inner_decay is 0.1, wanted 0"):
        imaml.check(None, imaml.Settings(inner_decay=0.1))
    imaml.check(None, imaml.Settings())


# ── HF-MAML ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("steps", [1, 3])
def test_the_error_of_differences_falls_as_delta_squared_until_rounding(steps):
    theta, support, query = network_task()
    exact = maml.of_task(network, theta, support, query, maml.Settings(inner_steps=steps, inner_lr=0.1))

    def error(delta):
        settings = hessian_free.Settings(inner_steps=steps, inner_lr=0.1, delta=delta)
        value, gradient = hessian_free.of_task(network, theta, support, query, settings)
        assert value == exact[0]
        away = plus(gradient, -1, exact[1])
        return np.sqrt(dot(away, away))

    deltas = np.array([1e-1, 3e-2, 1e-2, 3e-3, 1e-3])
    np.testing.assert_allclose(slope(deltas, [error(d) for d in deltas]), 2, atol=0.05)
    tiny = np.array([1e-8, 1e-9, 1e-10, 1e-11])
    np.testing.assert_allclose(slope(tiny, [error(d) for d in tiny]), -1, atol=0.4)


def test_differences_are_exact_on_quadratics_and_for_a_gradient_of_zero():
    q = Quadratic()
    np.testing.assert_allclose(
        q.gradient(hessian_free, inner_steps=4), q.gradient(maml, inner_steps=4), rtol=1e-11, atol=1e-11
    )
    still = Quadratic()
    still.B, still.b = 0 * still.B, 0 * still.b
    still.query = still.B, still.b
    assert still.gradient(hessian_free, inner_steps=2).tolist() == [0.0] * still.n


# ── Moreau envelopes and task-robust weights ────────────────────────────────────────────────────────────────────────


@given(seed=st.integers(0, 20))
@settings(max_examples=12)
def test_the_proximal_gradient_is_that_of_the_moreau_envelope(seed):
    q = Quadratic(seed)

    def envelope(theta):
        w = np.linalg.solve(q.shifted, q.a + q.strength * theta["w"])
        return w @ q.A @ w / 2 - q.a @ w + q.strength / 2 * np.sum((w - theta["w"]) ** 2)

    seen = q.gradient(proximal, **SOLVED)
    np.testing.assert_allclose(seen, q.strength * (q.theta["w"] - q.phi), rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(seen, numerical(envelope, q.theta)["w"], rtol=1e-9, atol=1e-11)


def test_the_proximal_gradient_is_wrong_by_lambda_times_the_error_of_the_proximal_point():
    q = Quadratic()
    settings = proximal.Settings(inner_steps=5, inner_lr=q.lr, strength=q.strength)
    w = nth(proximal.adapt(quadratic, q.theta, q.support, settings), 5)["w"]
    seen = q.gradient(proximal, inner_steps=5, strength=q.strength)
    np.testing.assert_allclose(seen - q.strength * (q.theta["w"] - q.phi), q.strength * (q.phi - w), rtol=1e-10)


@given(
    losses=st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=8),
    eta=st.floats(0, 10),
    seed=st.integers(0, 5),
)
def test_robust_weights_are_the_nearest_point_of_the_simplex(losses, eta, seed):
    rng = np.random.default_rng(seed)
    previous = rng.dirichlet(np.ones(len(losses)))
    p = proximal.robust_weights(previous, np.array(losses), eta)
    raised = previous + eta * np.array(losses)
    assert p.shape == previous.shape and (p >= 0).all()
    np.testing.assert_allclose(np.sum(p), 1, rtol=1e-10)
    # The projection p of v: ⟨v − p, c − p⟩ ≤ 0 for every corner c of the simplex.
    corners = np.eye(len(losses))
    slack = 1e-9 * max(1, np.abs(raised).max())
    assert ((corners - p) @ (raised - p) <= slack).all()


def test_robust_weights_go_to_the_hardest_task():
    uniform = np.full(4, 0.25)
    np.testing.assert_allclose(proximal.robust_weights(uniform, np.zeros(4), 1.0), uniform)
    weights = proximal.robust_weights(uniform, np.array([0.0, 0.1, 0.2, 0.3]), 1.0)
    np.testing.assert_allclose(weights, [0.1, 0.2, 0.3, 0.4])
    assert proximal.robust_weights(uniform, np.array([0.0, 1e20, 1.0, 2.0]), 1.0).tolist() == [0, 1, 0, 0]


# ── perturbed ───────────────────────────────────────────────────────────────────────────────────────────────────────

PERTURBED = {
    "regulariser": {"strength": 0.8},
    "outer decay": {"outer_decay": 0.3},
    "noise in parameters": {"parameter_noise": 0.2},
    "noise in gradients": {"gradient_noise": 0.2},
    "noise in labels": {"label_noise": 0.5},
    "sharpness": {"inner_sharpness": 0.1},
    "all": dict(strength=0.8, outer_decay=0.3, parameter_noise=0.2, gradient_noise=0.2, label_noise=0.5,
                inner_sharpness=0.1, inner_optimizer="momentum"),
}  # fmt: skip


def perturbation(seed=0, **options):
    theta, support, query = network_task()
    settings = perturbed.Settings(**{"inner_steps": 3, "inner_lr": 0.1, **options})
    noise = perturbed.noise(np.random.default_rng(seed), theta, support, query, settings)
    return (lambda meta: perturbed.of_task(network, meta, support, query, settings, noise=noise)), theta, settings


@pytest.mark.parametrize("what", PERTURBED)
def test_perturbed_maml_is_exact_for_the_noise_drawn(what):
    of_task, theta, settings = perturbation(**PERTURBED[what])
    assert_exact(of_task, theta)
    plain = perturbation()[0](theta)
    assert of_task(theta)[0][0] != plain[0][0]  # the perturbation is there
    again, other = perturbation(**PERTURBED[what])[0](theta), perturbation(seed=1, **PERTURBED[what])[0](theta)
    assert again[0] == of_task(theta)[0]
    assert (other[0] != again[0]) == any("noise" in name for name in PERTURBED[what])


def test_unperturbed_it_is_maml_to_the_bit():
    theta, support, query = network_task()
    seen, wanted = perturbation()[0](theta), maml.of_task(network, theta, support, query, maml.Settings(3, 0.1))
    assert seen[0] == wanted[0]
    assert all((a == b).all() for a, b in zip(*map(tree_leaves, (seen[1], wanted[1])), strict=True))


@pytest.mark.parametrize("held", ["the norm", "the whole perturbation"])
def test_sharpness_whose_norm_is_held_constant_is_found(held, monkeypatch):
    def uphill(theta, grads, radius):
        constant = lambda x: tm.stop_gradient(x)  # noqa: E731
        length = constant(np.sqrt(dot(grads, grads)))
        grads = tree_map(constant, grads) if held == "the whole perturbation" else grads
        return plus(theta, radius / length, grads)

    of_task, theta, _ = perturbation(inner_sharpness=0.1)
    value = of_task(theta)[0][0]
    monkeypatch.setattr(perturbed, "uphill", uphill)
    np.testing.assert_allclose(of_task(theta)[0][0], value, rtol=1e-14)  # the value does not show it
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_exact(of_task, theta)


def test_one_sharp_step_is_the_formula():
    q = Quadratic()
    w, rho = q.theta["w"], 0.3
    g = q.A @ w - q.a
    unit = g / np.linalg.norm(g)
    adapted = w - q.lr * (q.A @ (w + rho * unit) - q.a)
    # dθ′/dθ = I − αA (I + ρ (I − ĝĝᵀ) A/‖g‖)
    turned = rho * (np.eye(q.n) - np.outer(unit, unit)) @ q.A / np.linalg.norm(g)
    wanted = (np.eye(q.n) - q.lr * q.A @ (np.eye(q.n) + turned)).T @ (q.B @ adapted - q.b)
    np.testing.assert_allclose(q.gradient(perturbed, inner_steps=1, inner_sharpness=rho), wanted, rtol=1e-10)


def test_sharpness_at_a_gradient_of_zero_is_finite():
    q = Quadratic()
    q.theta = {"w": np.linalg.solve(q.A, q.a) * 0}
    q.support = q.A, 0 * q.a
    assert np.isfinite(q.gradient(perturbed, inner_steps=2, inner_sharpness=0.1)).all()
    assert perturbed.uphill(q.theta, {"w": np.zeros(q.n)}, 0.1)["w"].tolist() == [0.0] * q.n


def test_sharpness_outside_takes_the_mean_gradient_uphill():
    qs = [Quadratic(seed) for seed in (0, 1)]
    tasks = [(q.support, q.query) for q in qs]
    settings = maml.Settings(inner_steps=1, inner_lr=0.1)
    f = mean_over_tasks(lambda theta, support, query: maml.of_task(quadratic, theta, support, query, settings))
    theta = qs[0].theta
    (value, _), gradient = perturbed.sharpened(f, 0.2)(theta, tasks)
    g = f(theta, tasks)[1]["w"]
    assert value == f(theta, tasks)[0][0]
    wanted = f({"w": theta["w"] + 0.2 * g / np.linalg.norm(g)}, tasks)[1]["w"]
    np.testing.assert_allclose(gradient["w"], wanted, rtol=1e-12)
    assert np.abs(wanted - g).max() > 1e-3


def test_label_noise_is_shared_by_support_and_query():
    rng, settings = np.random.default_rng(0), perturbed.Settings(label_noise=0.5)
    ys, yq = rng.standard_normal((5, 2)).astype(np.float32), rng.standard_normal((7, 2)).astype(np.float32)
    offsets = [perturbed.label_noise(rng, ys, yq, settings) for _ in range(400)]
    assert all((a == b).all() and a.shape == (2,) and a.dtype == np.float32 for a, b in offsets)
    np.testing.assert_allclose(np.std([a for a, _ in offsets]), 0.5, rtol=0.1)


@pytest.mark.parametrize("probability, permuted", [(0.3, 0.3 * 2 / 3), (1.0, 2 / 3)])
def test_label_noise_of_classes_permutes_them_in_both_sets_alike(probability, permuted):
    rng, settings = np.random.default_rng(0), perturbed.Settings(label_noise=probability)
    ys, yq, moved = np.array([0, 1, 2, 0, 1, 2]), np.array([2, 1, 0]), []
    for _ in range(600):
        ds, dq = perturbed.label_noise(rng, ys, yq, settings)
        table = dict(zip(ys.tolist(), (ys + ds).tolist(), strict=True))
        assert sorted(table.values()) == [0, 1, 2] and ds.dtype == ys.dtype
        assert [table[y] for y in yq.tolist()] == (yq + dq).tolist()
        moved.append(np.mean([table[y] != y for y in table]))
    np.testing.assert_allclose(np.mean(moved), permuted, atol=0.06)


def test_noise_is_new_at_every_step_and_none_where_none_is_wanted():
    theta, support, query = network_task()
    theta = tree_map(lambda p: p.astype(np.float32), theta)
    settings = perturbed.Settings(inner_steps=2, parameter_noise=0.1, gradient_noise=0.1)
    noise = perturbed.noise(np.random.default_rng(0), theta, support, query, settings)
    assert noise.keys() == {"parameters", "gradients"} and all(len(nests) == 2 for nests in noise.values())
    drawn = [nest["first"]["w"] for nests in noise.values() for nest in nests]
    assert all(d.dtype == np.float32 and d.shape == (2, 3) for d in drawn) and len({d[0, 0] for d in drawn}) == 4
    assert perturbed.noise(np.random.default_rng(0), theta, support, query, perturbed.Settings()) == {}


# ── compiled ────────────────────────────────────────────────────────────────────────────────────────────────────────


OPTIONS = [
    (mamlpp, {"multi_step_epochs": 10}),
    (imaml, {"tolerance": 0.05}),
    (imaml, {"solver": "neumann"}),
    (hessian_free, {"delta": 0.1}),
    (proximal, {"tolerance": 0.05}),
    (perturbed, PERTURBED["all"]),
]
COMPILED = [  # by default each in one dtype, in turn
    pytest.param(*case, dtype, marks=() if i % 2 == j else pytest.mark.slow)
    for i, case in enumerate(OPTIONS) for j, dtype in enumerate((np.float64, np.float32))
]  # fmt: skip


@pytest.mark.usefixtures("own_cache", "quick_code", "either_way")
@pytest.mark.parametrize("algorithm, options, dtype", COMPILED)
def test_compiled_with_every_option_it_is_machine_code_with_the_numbers_of_the_reference(algorithm, options, dtype):
    pytest.importorskip("numba")
    pytest.importorskip("scipy")
    from tinymaml.programs.compiled import Machine

    theta, *tasks = tree_map(lambda x: x.astype(dtype), network_task())
    settings = algorithm.Settings(inner_steps=3, inner_lr=0.1, **options)
    meta = algorithm.init(theta, settings)
    if algorithm is perturbed:
        noise = [perturbed.noise(np.random.default_rng(t), theta, *tasks, settings) for t in range(2)]
        noise = tree_map(lambda *x: np.stack(x), *noise)
    support, query = tree_map(lambda x: np.stack([x, x * dtype(1.1)]), tasks)

    def of_task(meta, support, query, *shared):
        data, y = support  # noise is data of a task, beside its inputs
        hooks = {"noise": data["noise"]} if "noise" in data else {}
        return algorithm.of_task(network, meta, (data["x"], y), query, settings, *shared, **hooks)

    data = {"x": support[0]} | ({"noise": noise} if algorithm is perturbed else {})
    tasks = (data, support[1]), query
    f = mean_over_tasks(of_task)
    fast = tm.compile(f)
    for iteration in (0, 2500, 6000) if algorithm is mamlpp else (0, 0):
        shared = algorithm.shared(iteration, settings) if algorithm is mamlpp else ()
        seen, wanted = fast(meta, tasks, *shared), f(meta, tasks, *shared)
        rtol = 1e-11 if dtype is np.float64 else 1e-4
        for (path, a), b in zip(tree_items(seen), tree_leaves(wanted), strict=True):
            np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * np.abs(b).max(), err_msg=path)
    kinds = [type(runner) for runner in fast.runners.values()]
    assert kinds == [Machine] * (2 if algorithm is mamlpp else 1)


@pytest.mark.parametrize("algorithm", [mamlpp, imaml, hessian_free, proximal, perturbed])
def test_defaults_name_options_and_settings_can_be_replaced(algorithm):
    settings = dataclasses.replace(algorithm.Settings(), inner_steps=7)
    assert settings.inner_steps == 7
    outer = {"meta_lr", "optimizer", "schedule", "final_lr", "decay"}
    known = outer | {field.name for field in dataclasses.fields(settings)}
    assert set(getattr(algorithm, "defaults", {})) <= known
