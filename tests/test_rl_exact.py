"""The decision process that is enumerated: J, surrogates' derivatives and whole meta-gradients, against each other."""

import functools
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinymaml as tm
from bench.rl.exact import published
from tinymaml.rl import exact, tabular
from tinymaml.rl.exact import derivative, expected_derivative, expected_meta_gradient, meta_objective
from tinymaml.rl.policies import Categorical
from tinymaml.rl.surrogates import _mean_return, box, dice, likelihood, loaded_dice, lvc, sampling_score
from tinymaml.rl.tabular import MDP, TabularEnvironment, every_trajectory, expected_return, log_probability

few = settings(max_examples=20, deadline=None)


@st.composite
def processes(draw):
    """(mdp, θ, a baseline b(t, s), two directions)."""
    states, actions, horizon = draw(st.integers(1, 3)), draw(st.integers(2, 3)), draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    transition, start = rng.dirichlet(np.ones(states), (states, actions)), rng.dirichlet(np.ones(states))
    terminal = np.zeros(states, bool)
    if states == 3 and draw(st.booleans()):
        terminal[2], start = True, np.array([0.25, 0.75, 0.0])
    discount, rewards = draw(st.sampled_from([1.0, 0.9])), rng.normal(size=(states, actions))
    mdp = MDP(start, transition, rewards, horizon, discount, terminal)
    theta, v, w = rng.normal(size=(3, states, actions))
    return mdp, theta, rng.normal(size=(horizon, states)), v, w


def linear(theta, observations, actions):
    """A policy that is not tabular: logits Φθ, with features of state and action."""
    phi = np.random.default_rng(0).normal(size=(observations.shape[-1], 3, 2))
    return tabular.log_pi(np.sum(phi[..., : theta.shape[-1]] * theta[..., None, None, :], -1), observations, actions)


def J_of(mdp, policy=tabular.log_pi):
    return functools.partial(expected_return, mdp, policy=policy)


def plain_return(mdp, theta):
    """J by recursion over states and steps, in plain numbers."""
    pi = np.exp(theta) / np.exp(theta).sum(-1, keepdims=True)

    def value(s, t):
        if t == mdp.horizon or mdp.terminal[s]:
            return 0.0
        after = [sum(p * value(to, t + 1) for to, p in enumerate(mdp.transition[s, a])) for a in range(mdp.actions)]
        return sum(pi[s, a] * (mdp.reward[s, a] + mdp.discount * after[a]) for a in range(mdp.actions))

    return sum(p * value(s, 0) for s, p in enumerate(mdp.start))


# ── J ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(processes())
@few
def test_bellman_and_the_sum_over_trajectories_agree_at_every_order(process):
    mdp, theta, _, v, w = process
    batch, chance = every_trajectory(mdp)
    R = tabular.returns(mdp, batch)
    by_sum = lambda theta: np.sum(chance * np.exp(log_probability(theta, batch)) * R)  # noqa: E731
    J = J_of(mdp)
    np.testing.assert_allclose(J(theta), plain_return(mdp, theta), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(by_sum(theta), J(theta), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(np.sum(chance * np.exp(log_probability(theta, batch))), 1, rtol=1e-12)
    for directions in [(), (v,), (v, w)]:
        expected = derivative(J, theta, *directions)
        np.testing.assert_allclose(derivative(by_sum, theta, *directions), expected, rtol=1e-9, atol=1e-12)


@given(processes())
@settings(max_examples=5, deadline=None)
def test_J_is_differentiated_as_numerical_derivatives_say(process):
    mdp, theta, *_ = process
    tm.check_grads(J_of(mdp), (theta,), order=3)


def test_derivative_contracts_with_directions():
    f = lambda x: x[0] ** 3 * x[1] + x[1] ** 2  # noqa: E731
    x, v, w = np.array([2.0, 3.0]), np.array([1.0, 0.0]), np.array([0.0, 1.0])
    np.testing.assert_allclose(derivative(f, x, v), [6 * 2 * 3, 3 * 4])
    np.testing.assert_allclose(derivative(f, x, v, w), [6 * 2, 0])


# ── surrogates ──────────────────────────────────────────────────────────────────────────────────────────────────────


@given(processes(), st.sampled_from([dice, loaded_dice]), st.integers(1, 2))
@few
def test_dice_has_derivatives_with_the_right_expectation_at_orders_1_to_3(process, surrogate, n):
    mdp, theta, baseline, v, w = process
    for directions in [(), (v,), (v, w)]:
        if n == 2 and len(every_trajectory(mdp)[1]) > 60:
            continue
        found = expected_derivative(mdp, theta, surrogate, *directions, n=n, baseline=baseline)
        np.testing.assert_allclose(found, derivative(J_of(mdp), theta, *directions), rtol=1e-8, atol=1e-11)


@given(processes())
@few
def test_so_it_has_for_a_policy_that_is_not_tabular(process):
    mdp, _, baseline, *_ = process
    mdp = MDP(mdp.start, np.repeat(mdp.transition[:, :1], 3, 1), np.repeat(mdp.reward, 2, 1)[:, :3], mdp.horizon, 0.9)
    theta, v, w = np.random.default_rng(1).normal(size=(3, 2))
    for directions in [(), (v,), (v, w)]:
        found = expected_derivative(mdp, theta, dice, *directions, policy=linear, baseline=baseline)
        np.testing.assert_allclose(found, derivative(J_of(mdp, linear), theta, *directions), rtol=1e-8, atol=1e-11)


MDP3, THETA = tabular.random(np.random.default_rng(3)), np.random.default_rng(7).normal(size=(2, 2)) / 2
BASELINE, V, W = np.random.default_rng(8).normal(size=(3, 2)), *np.random.default_rng(9).normal(size=(2, 2, 2))


def hessian(f, theta=THETA):
    """∇²f in rows, by products with unit vectors."""
    return np.stack([f(e.reshape(2, 2)).ravel() for e in np.eye(4)])


@pytest.mark.parametrize("surrogate", [likelihood, lvc, functools.partial(loaded_dice, decay=0.5)])
def test_the_others_have_the_right_gradient_and_another_hessian(surrogate):
    gradient = expected_derivative(MDP3, THETA, surrogate, baseline=BASELINE)
    np.testing.assert_allclose(gradient, tm.grad(J_of(MDP3))(THETA), rtol=1e-10)
    product, right = expected_derivative(MDP3, THETA, surrogate, V, baseline=BASELINE), derivative(J_of(MDP3), THETA, V)
    assert np.linalg.norm(product - right) > 0.05 * np.linalg.norm(right)


@pytest.mark.parametrize("baseline", [None, BASELINE])
def test_what_the_likelihoods_hessian_lacks_is_the_sampling(baseline):
    lacking = hessian(lambda e: derivative(J_of(MDP3), THETA, e))
    lacking -= hessian(lambda e: expected_derivative(MDP3, THETA, likelihood, e, baseline=baseline))
    # C = E Σ_t γᵗ [r_t S_t S_tᵀ − b_t ∇log π_t ∇log π_tᵀ]
    batch, chance = every_trajectory(MDP3, baseline)
    p, C = chance * np.exp(log_probability(THETA, batch)), np.zeros((4, 4))
    for i, t in itertools.product(range(len(p)), range(3)):
        score = lambda s, i=i: tm.grad(lambda th: tabular.log_pi(  # noqa: E731
            th, batch["observations"][[i]], batch["actions"][[i]])[0, s])(THETA).ravel()  # fmt: skip
        S = sum(score(s) for s in range(t + 1))
        products = batch["rewards"][i, t] * np.outer(S, S) - batch["values"][i, t] * np.outer(score(t), score(t))
        C += p[i] * MDP3.discount**t * products
    np.testing.assert_allclose(lacking, C, rtol=1e-10, atol=1e-13)


def _late(logp, batch, *, discount):
    return _mean_return(batch["rewards"] * box(np.cumsum(logp, -1) - logp), batch["mask"], discount)


def _undiscounted(logp, batch, *, discount):
    return dice(logp, batch, discount=1.0)


def _negative(logp, batch, *, discount):
    return -dice(logp, batch, discount=discount)


def _without_stop(logp, batch, *, discount):
    return _mean_return(batch["rewards"] * np.exp(np.cumsum(logp, -1)), batch["mask"], discount)


def _over_steps(logp, batch, *, discount):
    return dice(logp, batch, discount=discount) / 3


def _baseline_with_past(logp, batch, *, discount):
    terms = batch["rewards"] * box(np.cumsum(logp, -1)) + (1 - np.exp(logp)) * batch["values"]
    return _mean_return(terms, batch["mask"], discount)


PLANTED = {
    "likelihood": (likelihood, 1), "lvc": (lvc, 1), "published": (published, 1),
    "published, the decay alone": (functools.partial(published, wraps=False), 2), "sum one step too late": (_late, 1),
    "no discount": (_undiscounted, 1), "sign": (_negative, 1), "no stop-gradient": (_without_stop, 1),
    "mean over steps": (_over_steps, 1), "no stop-gradient in the baseline term": (_baseline_with_past, 1),
}  # fmt: skip


@pytest.mark.parametrize("planted", PLANTED)
def test_a_planted_error_is_seen_at_order_1_or_2(planted):
    surrogate, n = PLANTED[planted]
    errors = []
    for directions in [(), (V,)]:
        right = derivative(J_of(MDP3), THETA, *directions)
        found = expected_derivative(MDP3, THETA, surrogate, *directions, n=n, baseline=BASELINE)
        errors.append(np.linalg.norm(found - right) / np.linalg.norm(right))
    assert max(errors) > 0.05


# ── meta-gradients ──────────────────────────────────────────────────────────────────────────────────────────────────


@given(processes(), st.sampled_from([0.1, 0.7]), st.integers(1, 2), st.sampled_from([0.0, 1.5]))
@few
def test_the_likelihood_with_the_score_term_is_unbiased_for_n_trajectories(process, alpha, n, constant):
    mdp, theta, baseline, *_ = process
    if n == 2 and len(every_trajectory(mdp)[1]) > 60:
        n = 1
    right = tm.grad(lambda theta: meta_objective(mdp, theta, alpha, n, baseline=baseline))(theta)
    how = dict(score=True, gain_baseline=constant, baseline=baseline)
    found = expected_meta_gradient(mdp, theta, alpha, likelihood, n, **how)
    np.testing.assert_allclose(found, right, rtol=1e-8, atol=1e-11)


def test_so_it_is_for_a_network():
    policy = Categorical(inputs=2, choices=2, hidden=(3,), activation="tanh")
    theta = tm.tree_map(lambda p: p + 0.1, policy.init(np.random.default_rng(0), np.float64))
    right = tm.grad(lambda theta: meta_objective(MDP3, theta, 0.5, 1, policy.logp, BASELINE))(theta)
    how = dict(score=True, policy=policy.logp, baseline=BASELINE)
    found = expected_meta_gradient(MDP3, theta, 0.5, likelihood, 1, **how)
    biased = expected_meta_gradient(MDP3, theta, 0.5, dice, 1, **how)
    for f, g, b in zip(*map(tm.tree_leaves, (found, right, biased)), strict=True):
        np.testing.assert_allclose(f, g, rtol=1e-9, atol=1e-12)
        assert np.linalg.norm(b - g) > 0.01 * np.linalg.norm(g)


@pytest.mark.parametrize(("surrogate", "score"), [
    (likelihood, False), (dice, False), (lvc, False), (None, False), (dice, True), (lvc, True), (None, True),
])  # fmt: skip
def test_nothing_else_is(surrogate, score):
    right = tm.grad(lambda theta: meta_objective(MDP3, theta, 0.5, 1, baseline=BASELINE))(THETA)
    found = expected_meta_gradient(MDP3, THETA, 0.5, surrogate, 1, score=score, baseline=BASELINE)
    assert np.linalg.norm(found - right) > 0.01 * np.linalg.norm(right)


def test_with_two_steps_the_scores_of_both_make_it_unbiased():
    mdp = tabular.random(np.random.default_rng(2), horizon=2)
    batch, chance = every_trajectory(mdp)
    J, one = J_of(mdp), [{key: x[[i]] for key, x in batch.items()} for i in range(len(chance))]

    def stepped(theta, b):
        S = lambda p: likelihood(tabular.log_pi(p, b["observations"], b["actions"]), b, discount=mdp.discount)  # noqa: E731
        return theta + 0.5 * tm.grad(S)(theta)

    def objective(theta):  # Σ P_θ₀(τ₀) Σ P_θ₁(τ₁) J(θ₂)
        total = 0.0
        for i, first in enumerate(one):
            middle = stepped(theta, first)
            p, q = (chance * np.exp(log_probability(at, batch)) for at in (theta, middle))
            total = total + p[i] * sum(q[k] * J(stepped(middle, second)) for k, second in enumerate(one))
        return total

    def estimate(theta, first, second, scores):
        middle = stepped(theta, first)
        value = J(stepped(middle, second))
        logs = [tabular.log_pi(at, b["observations"], b["actions"]) for at, b in ((theta, first), (middle, second))]
        pairs = list(zip(logs, (first, second), strict=True))[:scores]
        return value + sum(sampling_score(logp, b, value) for logp, b in pairs)

    found = {1: 0.0, 2: 0.0}
    for (i, first), (k, second) in itertools.product(enumerate(one), repeat=2):
        p, q = (chance * np.exp(log_probability(at, batch)) for at in (THETA, stepped(THETA, first)))
        for scores in found:
            g = tm.grad(lambda theta, s=scores, a=first, b=second: estimate(theta, a, b, s))(THETA)
            found[scores] = found[scores] + p[i] * q[k] * g
    right = tm.grad(objective)(THETA)
    np.testing.assert_allclose(found[2], right, rtol=1e-9, atol=1e-12)
    assert np.linalg.norm(found[1] - right) > 0.01 * np.linalg.norm(right)  # those of the first step alone


@pytest.mark.parametrize("n", [None, 1, 2])
def test_the_meta_objectives_gradient_is_the_numerical_one(n):
    small = tabular.random(np.random.default_rng(2), horizon=2)
    tm.check_grads(lambda theta: meta_objective(small, theta, 0.5, n), (THETA,), order=1)


def test_the_meta_objective_is_the_expectation_of_the_return_after_a_step():
    mdp, theta = tabular.random(np.random.default_rng(2), horizon=2), THETA

    def after(batch):
        step = tm.grad(lambda p: np.sum(likelihood(tabular.log_pi(p, batch["observations"], batch["actions"]), batch,
                                                   discount=mdp.discount)))(exact.copies_of(theta, batch))  # fmt: skip
        return expected_return(mdp, theta + 0.5 * step)

    np.testing.assert_allclose(exact.expectation(mdp, theta, after, 2), meta_objective(mdp, theta, 0.5, 2), rtol=1e-12)


def test_dices_meta_gradient_approaches_that_of_the_limit_like_1_over_n_and_the_likelihoods_does_not():
    mdp = tabular.random(np.random.default_rng(2), horizon=2)  # 8 trajectories: 1,716 multisets of 6
    limit = tm.grad(lambda theta: meta_objective(mdp, theta, 0.5, None))(THETA)
    off = lambda surrogate, n: expected_meta_gradient(mdp, THETA, 0.5, surrogate, n) - limit  # noqa: E731
    three, six = (np.linalg.norm(off(dice, n)) for n in (3, 6))
    assert 0.4 < six / three < 0.6
    # Off by α C ∇J(θ′), and O(1/N)
    J = J_of(mdp)
    end = THETA + 0.5 * tm.grad(J)(THETA)
    C = derivative(J, THETA, tm.grad(J)(end)) - expected_derivative(mdp, THETA, likelihood, tm.grad(J)(end))
    three, six = (np.linalg.norm(off(likelihood, n) + 0.5 * C) for n in (3, 6))
    assert 0.4 < six / three < 0.65 and six < 0.4 * np.linalg.norm(0.5 * C)


def test_multisets_are_all_tuples():
    index, orders = (np.concatenate(x) for x in zip(*exact.multisets(4, 3, size=7), strict=True))
    counted = {}
    for combination in itertools.product(range(4), repeat=3):
        key = tuple(sorted(combination))
        counted[key] = counted.get(key, 0) + 1
    assert {tuple(i.tolist()): int(o) for i, o in zip(index, orders, strict=True)} == counted


def test_expectations_do_not_depend_on_how_many_are_computed_at_a_time(monkeypatch):
    whole = expected_meta_gradient(MDP3, THETA, 0.5, dice, 2)
    monkeypatch.setattr(exact.multisets, "__defaults__", (50,))
    np.testing.assert_allclose(expected_meta_gradient(MDP3, THETA, 0.5, dice, 2), whole, rtol=1e-12)


# ── sampling ────────────────────────────────────────────────────────────────────────────────────────────────────────


def acted(mdp, theta, count, seed):
    """States and actions of `count` runs of the environment."""
    env, rng, states, actions, rewards = TabularEnvironment(mdp, count), np.random.default_rng(seed + 1), [], [], []
    observations, _ = env.reset(seed=seed)
    pi = np.exp(theta) / np.exp(theta).sum(-1, keepdims=True)
    for _ in range(mdp.horizon):
        states.append(observations.argmax(-1))
        actions.append((rng.random((count, 1)) > np.cumsum(pi, -1)[states[-1]]).sum(-1))
        observations, reward, terminated, truncated, _ = env.step(actions[-1])
        rewards.append(reward)
        assert not truncated.any()
    assert terminated.all()
    return np.stack(states, -1), np.stack(actions, -1), np.stack(rewards, -1)


def test_the_environment_samples_each_trajectory_by_its_probability():
    count = 20000
    states, actions, rewards = acted(MDP3, THETA, count, 0)
    batch, chance = every_trajectory(MDP3)
    p = chance * np.exp(log_probability(THETA, batch))
    code = lambda s, a: (s * 2 + a) @ [1, 4, 16]  # noqa: E731
    seen = np.bincount(code(states, actions), minlength=64)
    wanted = np.bincount(code(batch["observations"].argmax(-1), batch["actions"]), p, 64)
    seen, wanted, impossible = seen[wanted > 0], count * wanted[wanted > 0], seen[wanted == 0]
    assert not impossible.any() and np.sum((seen - wanted) ** 2 / wanted) < 70  # χ² with 31 degrees of freedom
    np.testing.assert_array_equal(rewards, MDP3.reward[states, actions])
    drawn = tabular.returns(MDP3, tabular.sample(MDP3, np.random.default_rng(0), THETA, (1000, 50)))
    assert drawn.shape == (1000, 50)
    np.testing.assert_allclose(drawn.mean(), p @ tabular.returns(MDP3, batch), atol=4 * drawn.std() / drawn.size**0.5)


def test_the_environment_repeats_itself_by_its_seed_and_ends_in_terminal_states():
    for a, b in zip(acted(MDP3, THETA, 10, 5), acted(MDP3, THETA, 10, 5), strict=True):
        np.testing.assert_array_equal(a, b)
    ends = MDP([1, 0], [[[0.5, 0.5], [0, 1]], [[1, 0], [1, 0]]], [[1, 2], [9, 9]], 4, terminal=[False, True])
    env = TabularEnvironment(ends, 50, seed=0)
    env.reset()
    _, rewards, terminated, _, _ = env.step(np.ones(50, int))
    assert terminated.all() and (rewards == 2).all()
    observations, rewards, terminated, _, _ = env.step(np.ones(50, int))
    assert terminated.all() and not rewards.any() and (observations == [0, 1]).all()
    _, chance = every_trajectory(ends)
    # f(t) = ½ f(t + 1) + ½ (the first action) + 1 (the second), f(3) = 2
    np.testing.assert_allclose(chance.sum(), 1.5 + 0.5 * (1.5 + 0.5 * (1.5 + 0.5 * 2)), rtol=1e-12)


def test_bad_processes_and_actions_are_named():
    with pytest.raises(ValueError, match=r"transition has the shape \(2, 2\), wanted \(2, 2, 2\)"):
        MDP([1, 0], np.eye(2), np.zeros((2, 2)))
    with pytest.raises(ValueError, match="transition is no probability"):
        MDP([1, 0], np.full((2, 2, 2), 0.4), np.zeros((2, 2)))
    with pytest.raises(ValueError, match="the reward is not finite"):
        MDP([1, 0], np.full((2, 2, 2), 0.5), np.full((2, 2), np.nan))
    with pytest.raises(ValueError, match="may start in a terminal state"):
        MDP([1, 0], np.full((2, 2, 2), 0.5), np.zeros((2, 2)), terminal=[True, False])
    with pytest.raises(ValueError, match="the horizon is 0"):
        MDP([1, 0], np.full((2, 2, 2), 0.5), np.zeros((2, 2)), 0)
    env = TabularEnvironment(MDP3, 3)
    with pytest.raises(RuntimeError, match="step was called before reset"):
        env.step(np.zeros(3, int))
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"actions have shape \(2,\) and dtype int64, wanted \(3,\) integers"):
        env.step(np.zeros(2, int))
    with pytest.raises(ValueError, match="wanted 0 … 1"):
        env.step(np.array([0, 1, 2]))
    with pytest.raises(ValueError, match=r"a baseline of shape \(2, 2\), wanted \(horizon, states\), \(3, 2\)"):
        every_trajectory(MDP3, np.zeros((2, 2)))
