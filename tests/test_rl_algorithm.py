"""The whole meta-gradient of reinforcement learning: against numerical derivatives, of a reference that knows nothing
of magic boxes; Fisher-vector products against the Fisher matrix; and the protocol of tasks that are acted in.

The reference writes an inner step with ratios π_θ/π_old to the probabilities that were *recorded*. At θ = θ_old its
derivatives of every order are those of the surrogates, and numerical differentiation sees them.
"""

import dataclasses
import itertools

import numpy as np
import pytest
from numerical import numerical

import tinymaml as tm
from tinymaml.algorithms import maml_rl
from tinymaml.check import complex_step
from tinymaml.nest import tree_fill, tree_items, tree_leaves, tree_map
from tinymaml.rl import tabular
from tinymaml.rl.collect import rollout, total
from tinymaml.rl.environments.maze import Maze
from tinymaml.rl.environments.point import Point
from tinymaml.rl.policies import Categorical, Gaussian
from tinymaml.rl.surrogates import SURROGATES

T, N, H = 2, 3, 5


class Case:
    """A small batch of tasks, collected with the policies of K inner steps."""

    def __init__(self, discrete=False, dtype=np.float64, adapted=True, seed=0, **options):
        rng = np.random.default_rng(seed)
        self.settings = maml_rl.Settings(**{"inner_lr": 0.3, "discount": 0.9, **options})
        world = Maze(T * N) if discrete else Point(T * N)
        size = int(np.prod(world.observation_shape))
        self.policy = (Categorical(size, world.choices, (3,), "tanh") if discrete
                       else Gaussian(size, world.actions, (3,), "tanh", adapted=adapted))  # fmt: skip
        one = self.policy.init(rng, dtype)
        self.theta = tree_map(lambda x: (x + 0.3 * rng.normal(size=x.shape)).astype(dtype), one)
        goals, seeds = world.draw(rng, T), np.arange(T)

        def collect(thetas, k):
            batch = rollout(world, self.policy, thetas, goals, seeds, k, trajectories=N, horizon=H)
            if not discrete:  # one episode ends early
                batch["mask"][0, 1, 3:] = batch["rewards"][0, 1, 3:] = 0
            return maml_rl.prepared(batch, self.settings)

        thetas, state = (tree_map(lambda x: np.stack([x] * T), part) for part in self.begin())
        batches = [collect(thetas, 0)]
        for k in range(self.settings.inner_steps):
            share = self.settings.later if k else 1.0
            moved = [maml_rl.advance(self.policy, *tree_map(lambda x, t=t: x[t], (thetas, state, batches[-1])),
                                     self.settings, share) for t in range(T)]  # fmt: skip
            thetas, state = tree_map(lambda *xs: np.stack(xs), *moved)
            batches.append(collect(thetas, k + 1))
        *support, query = batches
        self.tasks = (tuple(support) or (query,)), query

    def begin(self):
        return maml_rl.begin(self.theta, self.settings)

    def task(self, t=0):
        return tree_map(lambda x: x[t], self.tasks)

    def of_task(self, theta, support, query):
        return maml_rl.of_task(self.policy, theta, support, query, self.settings)

    def gradient(self, t=0):
        return self.of_task(self.theta, *self.task(t))[1]


# ── the reference ───────────────────────────────────────────────────────────────────────────────────────────────────


def inner_objective(case, theta, batch):
    """What an inner step ascends, with recorded probabilities in the place of stopped ones."""
    settings, mask = case.settings, batch["mask"]
    now = case.policy.logp(theta, batch["observations"], batch["actions"])
    moved, weights = (now - batch["logp"]) * mask, settings.discount ** (np.arange(H) * settings.weigh) * mask
    scale, a = batch["scale"], batch["advantages"]
    past = np.stack([sum(moved[:, s] for s in range(t + 1)) for t in range(H)], 1)
    if settings.surrogate in ("likelihood", "e-maml"):
        terms = now * a
    elif settings.surrogate == "lvc":
        terms = np.exp(moved) * a
    elif settings.surrogate == "dice":
        terms = scale * (batch["rewards"] * np.exp(past) + (1 - np.exp(moved)) * batch["values"])
    else:  # loaded DiCE, without decay
        terms = (np.exp(past) - np.exp(past - moved)) * a
    return np.sum(weights * terms) / np.sum(mask)


def adapted(case, theta, support):
    """[θ₀, …, θ_K], by steps that ascend `inner_objective`."""
    s, path = case.settings, [theta]
    for k in range(s.inner_steps):
        grads = tm.grad(lambda theta, k=k: inner_objective(case, theta, support[k]))(path[-1])
        rate = s.inner_lr * (s.later if k else 1)
        fixed = case.policy.fixed
        path.append({name: x if name in fixed else tree_map(lambda x, g, r=rate: x + r * g, x, grads[name])
                     for name, x in path[-1].items()})  # fmt: skip
    return path


def outer_objective(case, theta, support, query):
    """J′ of the adapted policy."""
    s, path = case.settings, adapted(case, theta, support)
    mask, weights = query["mask"], s.discount ** (np.arange(H) * s.weigh)
    ratio = np.exp(case.policy.logp(path[-1], query["observations"], query["actions"]) - query["logp"])
    value = np.sum(mask * weights * ratio * query["advantages"]) / np.sum(mask)
    for theta_k, batch in zip(path, support[: s.inner_steps], strict=False):
        if s.outer == "promp":
            kl = case.policy.kl(batch["outputs"], theta_k, batch["observations"])
            value = value - s.kl_weight * np.sum(batch["mask"] * kl) / np.sum(batch["mask"])
        if s.surrogate == "e-maml":
            logp = case.policy.logp(theta_k, batch["observations"], batch["actions"])
            gain = query["gain"] * query["scale"] * N / np.sum(mask)
            value = value + gain * np.sum(batch["mask"] * logp)
    return value


def assert_exact(case):
    gradient = dict(tree_items(case.gradient()))
    scale = max(np.max(np.abs(g)) for g in gradient.values())
    assert scale > 1e-3  # or there would be nothing to see
    loss = lambda theta: -outer_objective(case, theta, *case.task())  # noqa: E731
    for how, rtol in ("finite differences", 1e-6), ("complex step", 1e-11):
        for path, wanted in numerical(loss, case.theta, how).items():
            seen = np.reshape(gradient[path], -1)
            np.testing.assert_allclose(seen, wanted, rtol=0, atol=rtol * scale, err_msg=f"{path}, {how}")


EXACT = {
    **{f"{name}, {k} steps": dict(surrogate=name, inner_steps=k, weigh=k == 2) for name in SURROGATES for k in (1, 2)},
    "no step": dict(inner_steps=0),
    "later": dict(inner_steps=2, later=0.5),
    "std held": dict(adapted=False, surrogate="dice"),
    "promp": dict(outer="promp", inner_steps=2, kl_weight=0.5, surrogate="loaded-dice"),
    "halves": dict(baseline="halves", surrogate="dice"),
    "no baseline, λ": dict(baseline="none", trace=0.8),
    "discrete": dict(discrete=True, surrogate="dice", inner_steps=2),
}  # fmt: skip

EVERY_OTHER = [f"{name}, {1 + i % 2} steps" for i, name in enumerate(SURROGATES)]


@pytest.mark.parametrize("options", [  # by default one or two inner steps, in turn
    pytest.param(options, id=name, marks=pytest.mark.slow if name in EVERY_OTHER else ())
    for name, options in EXACT.items()])  # fmt: skip
def test_the_whole_meta_gradient_is_numerical_differentiation_s(options):
    assert_exact(Case(**options))


def held_inner_gradient(monkeypatch):
    honest = maml_rl.inner.support_gradient
    monkeypatch.setattr(maml_rl.inner, "support_gradient", lambda *args: tree_map(tm.stop_gradient, honest(*args)))


def without_boxes(monkeypatch):
    """What the step ascends has the right gradient, and the score term is missing in its second derivatives."""
    monkeypatch.setitem(SURROGATES, "lvc", SURROGATES["likelihood"])
    monkeypatch.setattr(maml_rl, "WEIGHTED", ())


def without_sampling_score(monkeypatch):
    monkeypatch.setattr(maml_rl, "WITH_SAMPLING_SCORE", frozenset())


@pytest.mark.parametrize("plant, options", [
    (held_inner_gradient, {}), (held_inner_gradient, dict(surrogate="dice")), (without_boxes, {}),
    (without_sampling_score, dict(surrogate="e-maml")),
])  # fmt: skip
def test_a_planted_mistake_is_seen(plant, options, monkeypatch):
    case = Case(**options)
    plant(monkeypatch)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_exact(case)


def test_with_lvc_an_inner_step_on_older_trajectories_is_weighted_by_ratios():
    """The gradient at another θ than that which collected: what ProMP's later epochs take."""
    case = Case(inner_steps=2, surrogate="lvc")
    case.theta = tree_map(lambda x: x + 0.05, case.theta)
    assert_exact(case)


# ── compiled ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("own_cache", "quick_code", "either_way")
@pytest.mark.parametrize("options", [
    dict(outer="promp", surrogate="e-maml"), dict(discrete=True, surrogate="dice", inner_steps=2),
])  # fmt: skip
def test_compiled_gradients_are_those_of_the_reference(options):
    pytest.importorskip("numba")
    pytest.importorskip("scipy")
    from tinymaml.programs.runners import Machine

    case = Case(**options)
    f = tm.mean_over_tasks(case.of_task)
    fast = tm.compile(f)
    for theta in case.theta, tree_map(lambda x: 0.9 * x, case.theta):
        for (path, a), b in zip(tree_items(fast(theta, case.tasks)), tree_leaves(f(theta, case.tasks)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12, err_msg=path)
    assert [type(runner) for runner in fast.runners.values()] == [Machine]


# ── the trust region ────────────────────────────────────────────────────────────────────────────────────────────────


def flat(nest):
    return np.concatenate([np.ravel(x) for x in tree_leaves(nest)])


def unflat(like, x):
    parts = np.split(x, np.cumsum([leaf.size for leaf in tree_leaves(like)])[:-1])
    return tree_fill(like, [part.reshape(leaf.shape) for part, leaf in zip(parts, tree_leaves(like), strict=True)])


def fisher(case, t):
    """Jᵀ E[∇log π ∇log πᵀ] J of task t: J = ∂θ_K/∂θ by complex step, E over actions in closed form for a Gaussian.

    With μ and s = log σ as functions of θ_K, it is Σ_j (∇μ_j ∇μ_jᵀ)/σ_j² + 2 ∇s_j ∇s_jᵀ, the mean over states.
    """
    support, query = case.task(t)
    size = len(flat(case.theta))

    def outputs(x):
        *_, last = adapted(case, unflat(case.theta, x), support)
        found = case.policy.outputs(last, query["observations"])
        return np.concatenate([np.reshape(found["mean"], -1), found["log_std"]])

    x = flat(case.theta)
    with complex_step():
        columns = [np.imag(outputs(x + 1e-30j * np.eye(size)[i])) / 1e-30 for i in range(size)]
    jacobian = np.stack(columns, 1)
    means, stds = jacobian[:-2].reshape(N, H, 2, size), jacobian[-2:]
    variance, share = np.exp(2 * query["outputs"]["log_std"]), query["mask"] / query["mask"].sum()
    of_means = np.einsum("nh,nhjp,nhjq,j->pq", share, means, means, 1 / variance)
    return of_means + 2 * np.einsum("jp,jq->pq", stds, stds)


@pytest.mark.parametrize("options", [dict(surrogate="lvc"), dict(surrogate="dice", inner_steps=2), dict(inner_steps=0)])
def test_products_with_the_fisher_matrix_are_those_with_the_explicit_one(options):
    case = Case(outer="trpo", **options)
    product = tm.mean_over_tasks(maml_rl.of_fisher(case.policy, case.settings))
    wanted = sum(fisher(case, t) for t in range(T)) / T
    assert np.linalg.eigvalsh(wanted)[0] > -1e-12 and np.abs(wanted).max() > 1e-2
    rng = np.random.default_rng(1)
    for _ in range(3):
        v = rng.normal(size=len(wanted))
        half, fv = product(case.theta, case.tasks, unflat(case.theta, v))
        np.testing.assert_allclose(flat(fv), wanted @ v, rtol=0, atol=1e-9 * np.abs(wanted @ v).max())
        np.testing.assert_allclose(half, 0.5 * v @ wanted @ v, rtol=1e-9)


def take(case, **options):
    settings = dataclasses.replace(case.settings, **options)
    over = lambda f, gradient: (tm.mean_over_tasks if gradient else tm.per_task.over_tasks)(f)  # noqa: E731
    step = maml_rl.outer(case.policy, settings, over)
    gradient = tm.mean_over_tasks(lambda *one: maml_rl.of_task(case.policy, *one, settings))
    optimizer = tm.optim.sgd(0.1)
    return step(gradient, optimizer.update, case.theta, case.tasks, optimizer.init(case.theta)), settings


def judged(case, theta, settings):
    over = tm.per_task.over_tasks(maml_rl.of_search(case.policy, settings))
    return [float(np.mean(part)) for part in over(theta, case.tasks)]


def test_a_step_of_trpo_gains_within_the_trust_region_and_uses_most_of_it():
    case = Case(outer="trpo", seed=1)
    (_, theta, state), settings = take(case, trust=0.001, solver_steps=20)
    before, none = judged(case, case.theta, settings)
    after, divergence = judged(case, theta, settings)
    assert none == pytest.approx(0, abs=1e-12) and after < before
    assert 0.2 * settings.trust < divergence <= settings.trust and state == {}


def test_a_step_of_trpo_is_the_natural_gradient():
    case = Case(outer="trpo", seed=1)
    (_, theta, _), settings = take(case, trust=1e-8, solver_steps=60, damping=1e-2)
    matrix = sum(fisher(case, t) for t in range(T)) / T + 1e-2 * np.eye(len(flat(case.theta)))
    g = -sum(flat(case.gradient(t)) for t in range(T)) / T
    x = np.linalg.solve(matrix, g)
    wanted = np.sqrt(2 * settings.trust / (x @ matrix @ x)) * x
    step = flat(theta) - flat(case.theta)
    np.testing.assert_allclose(step, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())


def test_a_search_that_finds_nothing_leaves_theta():
    case = Case(outer="trpo")
    (_, theta, _), _ = take(case, trust=0.0)
    tree_map(np.testing.assert_array_equal, theta, case.theta)


def test_promp_takes_several_steps_on_the_same_trajectories_and_its_clip_stops_them():
    case = Case(outer="promp", surrogate="lvc")
    (result, once, _), _ = take(case, epochs=1)
    gradient = tree_map(lambda a, b: (a + b) / 2, case.gradient(0), case.gradient(1))
    tree_map(np.testing.assert_allclose, once, tree_map(lambda p, g: p - 0.1 * g, case.theta, gradient))
    assert result[0] == pytest.approx(-np.mean(total(case.tasks[1])))
    far = {}
    for clip in (0.001, 100.0):
        (_, theta, _), _ = take(case, epochs=20, ratio_clip=clip)
        far[clip] = np.linalg.norm(flat(theta) - flat(case.theta))
    assert far[0.001] < 0.5 * far[100.0]


# ── the protocol ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
def test_adapt_begins_with_theta_never_ends_and_is_a_chain_of_advances(optimizer):
    case = Case(inner_steps=2, later=0.5, inner_optimizer=optimizer)
    support, _ = case.task()
    path = list(itertools.islice(maml_rl.adapt(case.policy, case.theta, support, case.settings), 5))
    tree_map(np.testing.assert_array_equal, path[0], case.theta)
    theta, state = case.begin()
    for k, batch in enumerate(support):
        theta, state = maml_rl.advance(case.policy, theta, state, batch, case.settings, 0.5 if k else 1.0)
        tree_map(np.testing.assert_array_equal, path[k + 1], theta)
    assert not np.array_equal(flat(path[3]), flat(path[4]))


def test_a_std_that_is_not_adapted_stays():
    case = Case(adapted=False)
    moved = maml_rl.nth(maml_rl.adapt(case.policy, case.theta, case.task()[0], case.settings), 1)
    np.testing.assert_array_equal(moved["log_std"], case.theta["log_std"])
    assert (moved["linear0"]["w"] != case.theta["linear0"]["w"]).any()
    assert np.abs(case.gradient()["log_std"]).min() > 1e-6  # the outer step moves it


def test_collected_trajectories_and_their_gradients_have_the_exact_expectations():
    """Of a process with terminal states, of which J and ∇J are known: nothing is lost between acting and ascending."""
    rng, many = np.random.default_rng(0), 40_000
    mdp = tabular.random(rng, states=3, actions=2, horizon=4, discount=0.9)
    mdp = dataclasses.replace(mdp, terminal=np.array([False, False, True]), start=np.array([0.6, 0.4, 0.0]))
    policy = Categorical(3, 2, (4,), "tanh")
    theta = tree_map(lambda x: x + 0.5 * rng.normal(size=x.shape), policy.init(rng, float))
    stacked = tree_map(lambda x: x[None], theta)
    environment = tabular.TabularEnvironment(mdp, many)
    batch = rollout(environment, policy, stacked, {}, np.array([1]), 0, trajectories=many, horizon=6)
    exact = lambda theta: tabular.expected_return(mdp, theta, policy.logp)  # noqa: E731
    returns = np.sum(batch["rewards"][0] * 0.9 ** np.arange(6), 1)
    assert abs(returns.mean() - exact(theta)) < 4 * returns.std() / np.sqrt(many)
    assert batch["mask"].sum() < 0.9 * many * 4 and not batch["mask"][..., 4:].any()
    wanted = flat(tm.grad(exact)(theta))
    for surrogate in SURROGATES:
        settings = maml_rl.Settings(surrogate=surrogate, discount=0.9, weigh=True)
        one = tree_map(lambda x: x[0], maml_rl.prepared(batch, settings))
        g = flat(tm.grad(lambda theta: maml_rl.support_loss(policy, theta, one, settings)[0])(theta))  # noqa: B023
        # descends −J, a mean over steps, with rewards on the scale of their deviation
        ours = -g / one["scale"] * one["mask"].sum() / many
        np.testing.assert_allclose(ours, wanted, rtol=0, atol=0.05 * np.abs(wanted).max(), err_msg=surrogate)


def test_an_inner_step_goes_up_and_makes_the_return_greater():
    """Small steps along the surrogate's gradient, with many trajectories, and fresh ones to measure."""
    policy, rng = Gaussian(2, 2, (8,), "tanh"), np.random.default_rng(0)
    world, goals, many = Point(800), {"goal": np.array([[0.4, 0.3]])}, dict(trajectories=800, horizon=15)
    theta = tree_map(lambda x: x[None], policy.init(rng, float))
    for surrogate in SURROGATES:
        settings = maml_rl.Settings(inner_lr=0.5, surrogate=surrogate)
        batch = maml_rl.prepared(rollout(world, policy, theta, goals, np.array([1]), 0, **many), settings)
        one = tree_map(lambda x: x[0], (theta, batch))
        moved, _ = maml_rl.advance(policy, one[0], {}, one[1], settings)
        moved = tree_map(lambda x: x[None], moved)
        after = rollout(world, policy, moved, goals, np.array([1]), 1, **many)
        assert total(after)[0] > total(batch)[0] + 0.2, surrogate


def test_what_a_batch_gets_is_its_formula():
    case = Case(seed=3, baseline="none")
    for t in range(T):
        _, query = case.task(t)
        rewards, mask = query["rewards"], query["mask"]
        returns = np.array([[sum(0.9 ** (u - h) * rewards[n, u] for u in range(h, H)) for h in range(H)]
                            for n in range(N)])  # fmt: skip
        real = returns[mask > 0]
        np.testing.assert_allclose(query["scale"], 1 / (real.std() + 1e-8), rtol=1e-12)
        np.testing.assert_allclose(query["advantages"][mask > 0], (real - real.mean()) / real.std(), rtol=1e-6)
        assert not query["advantages"][mask == 0].any() and not query["values"].any()
        other = case.task(1 - t)[1]
        reached = [np.mean([sum(0.9**u * q["rewards"][n, u] for u in range(H)) for n in range(N)])
                   for q in (query, other)]  # fmt: skip
        np.testing.assert_allclose(query["gain"], reached[0] - reached[1], rtol=1e-9)


def test_a_baseline_of_halves_sees_other_trajectories_alone():
    rng = np.random.default_rng(0)
    observations, returns, mask = rng.normal(size=(1, 6, 8, 2)), rng.normal(size=(1, 6, 8)), np.ones((1, 6, 8))
    before = maml_rl.baseline(observations, returns, mask, "halves")
    returns[0, :3] += rng.normal(size=(3, 8))
    after = maml_rl.baseline(observations, returns, mask, "halves")
    np.testing.assert_array_equal(after[0, :3], before[0, :3])
    assert (after[0, 3:] != before[0, 3:]).all()
    with pytest.raises(ValueError, match="the baseline of halves wants at least 2 trajectories"):
        maml_rl.baseline(observations[:, :1], returns[:, :1], mask[:, :1], "halves")
