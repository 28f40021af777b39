"""Surrogates of an inner step, by their definitions; returns, advantages and the linear baseline."""

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinymaml as tm
from tinymaml.rl import exact, returns, surrogates, tabular
from tinymaml.rl.surrogates import SURROGATES, box, dice, loaded_dice, lvc, per_step, sampling_score

DISCOUNT = 0.9
VARIANTS = SURROGATES | {"loaded-dice, λ = 0.5": functools.partial(loaded_dice, decay=0.5)}


def a_batch(seed=0, trajectories=4, steps=5, baseline=True):
    """Trajectories of which some end early, with three features per step in the place of observations."""
    rng = np.random.default_rng(seed)
    ends = rng.integers(1, steps + 1, trajectories)
    mask = 1.0 * (np.arange(steps) < ends[:, None])
    rewards, values, spread = rng.normal(size=(3, trajectories, steps))
    values = values * baseline
    return dict(
        observations=rng.normal(size=(trajectories, steps, 3)), rewards=rewards, values=values, mask=mask, logp=spread,
        advantages=returns.gae(rewards, values, mask, DISCOUNT),
    )  # fmt: skip


def log_policy(theta, batch):
    """Any smooth function of θ will do for log π."""
    return np.tanh(batch["observations"] @ theta) - 0.5 * (batch["observations"] @ theta) ** 2


def by_definition(name, logp, sampled, batch):
    """The surrogate, term by term; where it is a ratio, that to `sampled`, the log π of the policy that acted."""
    total, decay = 0.0, {"loaded-dice, λ = 0.5": 0.5}.get(name, 1.0)
    for i in range(len(logp)):
        for t in range(int(batch["mask"][i].sum())):
            r, b, A = (batch[key][i, t] for key in ("rewards", "values", "advantages"))
            ratio = lambda weights, i=i: np.exp(sum(w * (logp[i, s] - sampled[i, s]) for s, w in weights.items()))  # noqa: E731
            past = {s: decay ** (t - s) for s in range(t)}
            term = {
                "likelihood": lambda: logp[i, t] * A,  # noqa: B023
                "e-maml": lambda: logp[i, t] * A,  # noqa: B023
                "lvc": lambda: ratio({t: 1}) * A,  # noqa: B023
                "dice": lambda: r * ratio(past | {t: 1}) + (1 - ratio({t: 1})) * b,  # noqa: B023
            }.get(name, lambda: (ratio(past | {t: 1}) - ratio(past)) * A)  # noqa: B023
            total = total + DISCOUNT**t * term()
    return total / len(logp)


THETA, V, W = np.random.default_rng(1).normal(size=(3, 3)) * 0.5


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("seed", [0, 1])
def test_derivatives_of_every_order_are_those_of_the_definition(name, seed):
    batch = a_batch(seed)
    sampled = log_policy(THETA, batch)
    ours = lambda theta: VARIANTS[name](log_policy(theta, batch), batch, discount=DISCOUNT)  # noqa: E731
    theirs = lambda theta: by_definition(name, log_policy(theta, batch), sampled, batch)  # noqa: E731
    np.testing.assert_allclose(ours(THETA), theirs(THETA), rtol=1e-12, atol=1e-14)
    for directions in [(), (V,), (V, W)]:
        expected = exact.derivative(theirs, THETA, *directions)
        np.testing.assert_allclose(exact.derivative(ours, THETA, *directions), expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_definition_is_confirmed_by_numerical_derivatives(name):
    batch = a_batch(2, trajectories=2, steps=3)
    sampled = log_policy(THETA, batch)
    tm.check_grads(lambda theta: by_definition(name, log_policy(theta, batch), sampled, batch), (THETA,), order=3)


def _one_too_early(logp, batch, *, discount):
    logp, mask, rewards = (batch["mask"] * logp, batch["mask"], batch["rewards"])
    early = np.cumsum(logp, -1) + np.concatenate([logp[:, -1:], 0 * logp[:, 1:]], -1)
    return surrogates._mean_return(rewards * box(early), mask, discount)


def _whole(logp, batch, *, discount):
    logp = batch["mask"] * logp
    return surrogates._mean_return(batch["rewards"] * box(np.sum(logp, -1, keepdims=True)), batch["mask"], discount)


def _no_stop(logp, batch, *, discount):
    ratio = np.exp(np.cumsum(batch["mask"] * logp, -1))
    return surrogates._mean_return(batch["rewards"] * ratio, batch["mask"], discount)


def _undiscounted_baseline(logp, batch, *, discount):
    term = surrogates._mean_return((1 - box(logp)) * batch["values"], batch["mask"], 1.0)
    return dice(logp, batch | {"values": 0 * batch["values"]}, discount=discount) + term


def _over_steps(logp, batch, *, discount):
    return dice(logp, batch, discount=discount) * per_step(batch)


@pytest.mark.parametrize("planted", [
    _one_too_early, _whole, _no_stop, _undiscounted_baseline, _over_steps, lvc, loaded_dice,
])  # fmt: skip
def test_a_planted_error_in_dice_is_seen(planted):
    batch = a_batch(0)
    sampled = log_policy(THETA, batch)
    ours = lambda theta: planted(log_policy(theta, batch), batch, discount=DISCOUNT)  # noqa: E731
    theirs = lambda theta: by_definition("dice", log_policy(theta, batch), sampled, batch)  # noqa: E731
    a, b = (exact.derivative(f, THETA, V) for f in (ours, theirs))
    assert np.abs(a - b).max() > 1e-3 * np.abs(b).max()


@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 6))
@settings(max_examples=30, deadline=None)
def test_the_ends_of_loaded_dice_are_dice_and_lvc(seed, trajectories, steps):
    batch = a_batch(seed, trajectories, steps, baseline=False)
    of = lambda f, *ds: exact.derivative(lambda p: f(log_policy(p, batch), batch, discount=DISCOUNT), THETA, *ds)  # noqa: E731
    for directions in [(), (V,), (V, W)]:
        close = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-11)
        close(of(loaded_dice, *directions), of(dice, *directions))
        close(of(functools.partial(loaded_dice, decay=0.0), *directions), of(lvc, *directions))


@pytest.mark.parametrize("name", VARIANTS)
def test_entries_outside_the_mask_count_for_nothing(name):
    batch = a_batch(3)
    hole = batch["mask"] == 0
    assert hole.any()
    spoiled = {key: np.where(hole, np.nan, x) if x.ndim == 2 and key != "mask" else x for key, x in batch.items()}
    more = {key: np.concatenate([x, 0 * x[:2] if key == "mask" else x[:2]]) for key, x in spoiled.items()}
    where = {id(batch): lambda x: x, id(spoiled): lambda x: np.where(hole, np.nan, x),
             id(more): lambda x: np.concatenate([np.where(hole, np.nan, x), np.full((2, 5), np.nan)])}  # fmt: skip

    def derivatives(b):
        f = lambda p: VARIANTS[name](where[id(b)](log_policy(p, batch)), b, discount=DISCOUNT)  # noqa: E731
        return f(THETA), exact.derivative(f, THETA), exact.derivative(f, THETA, V)

    for other in (spoiled, more):  # the latter with two trajectories that have no step
        for a, b in zip(derivatives(other), derivatives(batch), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12)


@pytest.mark.parametrize("name", VARIANTS)
def test_leading_axes_are_tasks(name):
    batches = [a_batch(seed) for seed in range(3)]
    logp = np.stack([log_policy(THETA, b) for b in batches])
    together = VARIANTS[name](logp, {key: np.stack([b[key] for b in batches]) for key in batches[0]}, discount=DISCOUNT)
    apart = [VARIANTS[name](p, b, discount=DISCOUNT) for p, b in zip(logp, batches, strict=True)]
    np.testing.assert_allclose(together, apart, rtol=1e-12, atol=1e-15)


@pytest.mark.usefixtures("quick_code")
@pytest.mark.parametrize("dtype", [pytest.param(np.float32, marks=pytest.mark.slow), np.float64])
def test_a_meta_gradient_through_an_inner_step_compiles(dtype, recwarn):
    pytest.importorskip("numba")

    def of_task(theta, support, query, alpha):
        def gain(theta):
            step = tm.grad(lambda p: dice(log_policy(p, support), support, discount=DISCOUNT))(theta)
            return loaded_dice(log_policy(theta + alpha * step, query), query, discount=DISCOUNT, decay=0.5)

        return tm.value_and_grad(gain)(theta)

    sets = [{key: np.stack([a_batch(s + k)[key] for k in range(2)]).astype(dtype) for key in a_batch()} for s in (0, 7)]
    reference = tm.mean_over_tasks(of_task)
    expected, found = (f(THETA.astype(dtype), tuple(sets), 0.25) for f in (reference, tm.compile(reference)))
    assert not [w for w in recwarn if issubclass(w.category, tm.CompileWarning)]
    assert found[1].dtype == dtype
    np.testing.assert_allclose(found[1], expected[1], rtol=100 * np.finfo(dtype).eps)


def test_the_sampling_score_is_the_sum_of_all_scores_times_the_gain():
    batch = a_batch(5)
    f = lambda theta: sampling_score(log_policy(theta, batch), batch, np.sum(theta))  # noqa: E731
    scores = tm.grad(lambda theta: np.sum(batch["mask"] * log_policy(theta, batch)))(THETA)
    np.testing.assert_allclose(tm.grad(f)(THETA), scores * np.sum(THETA), rtol=1e-12)


def test_per_step_makes_a_mean_over_steps_of_it():
    batch = a_batch(6)
    logp = log_policy(THETA, batch)
    mean = np.average(logp * batch["advantages"], weights=batch["mask"])
    np.testing.assert_allclose(surrogates.likelihood(logp, batch) * per_step(batch), mean, rtol=1e-12)


def test_bad_input_is_named():
    batch = a_batch()
    logp = log_policy(THETA, batch)
    with pytest.raises(ValueError, match=r"the batch has no 'advantages'; seen observations, rewards"):
        lvc(logp, {key: x for key, x in batch.items() if key != "advantages"})
    with pytest.raises(ValueError, match=r"rewards has the shape \(4, 4\), and logp \(4, 5\)"):
        dice(logp, batch | {"rewards": batch["rewards"][:, 1:]})
    with pytest.raises(ValueError, match=r"logp has the shape \(5,\), wanted \(…, trajectories, steps\)"):
        dice(logp[0], batch)
    with pytest.raises(ValueError, match="decay is 1.5, wanted a number from 0 to 1"):
        loaded_dice(logp, batch, decay=1.5)
    with pytest.raises(ValueError, match=r"an array of shape \(4, 5\) came with a mask of shape \(4, 4\)"):
        returns.discounted(batch["rewards"], batch["mask"][:, 1:], 0.9)


# ── returns ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.integers(0, 10**6), st.floats(0, 1), st.floats(0, 1), st.booleans())
@settings(max_examples=30, deadline=None)
def test_advantages_are_those_of_the_definition(seed, discount, trace, cut):
    batch = a_batch(seed)
    last = np.random.default_rng(seed).normal(size=4) if cut else np.zeros(4)
    found = returns.gae(batch["rewards"], batch["values"], batch["mask"], discount, trace, last)
    to_go = returns.discounted(batch["rewards"], batch["mask"], discount)
    for i in range(4):
        end = int(batch["mask"][i].sum())
        r, v = batch["rewards"][i, :end], np.append(batch["values"][i, :end], last[i])
        delta = r + discount * v[1:] - v[:-1]
        for t in range(5):
            A = sum((discount * trace) ** (k - t) * delta[k] for k in range(t, end))
            np.testing.assert_allclose(found[i, t], A, atol=1e-12)
            np.testing.assert_allclose(to_go[i, t], sum(discount ** (k - t) * r[k] for k in range(t, end)), atol=1e-12)


def test_the_baseline_finds_what_is_linear_in_its_features():
    rng = np.random.default_rng(0)
    observations, weights = rng.normal(size=(2, 3, 40, 6, 2)), rng.normal(size=(2, 3, 8))
    mask = 1.0 * (np.arange(6) < rng.integers(3, 7, (2, 3, 40, 1)))
    targets = np.einsum("abnhf,abf->abnh", returns.baseline_features(observations), weights)
    targets = np.where(mask > 0, targets, np.nan)  # what is outside has no part in the fit
    fitted = returns.fit(observations, targets, mask, ridge=1e-12)
    predicted = returns.predicted_returns(fitted, observations)
    np.testing.assert_allclose(predicted[mask > 0], targets[mask > 0], atol=1e-3)
    alone = returns.fit(observations[1, 2], targets[1, 2], mask[1, 2], ridge=1e-12)
    np.testing.assert_allclose(returns.predicted_returns(alone, observations[1, 2]), predicted[1, 2], atol=1e-6)


def test_features_are_the_published_ones():
    o = np.array([[[0.5, -20.0], [1.0, 2.0]]])
    expected = [[[0.5, -10, 0.25, 100, 0, 0, 0, 1], [1, 2, 1, 4, 0.01, 0.0001, 0.000001, 1]]]
    np.testing.assert_allclose(returns.baseline_features(o), expected)


def test_normalised_advantages_have_mean_0_and_deviation_1_per_task():
    batch = {key: np.stack([a_batch(seed)[key] for seed in range(3)]) for key in a_batch()}
    out = returns.normalised(batch["advantages"], batch["mask"])
    for x, m in zip(out, batch["mask"] > 0, strict=True):
        np.testing.assert_allclose([x[m].mean(), x[m].std()], [0, 1], atol=1e-6)
        assert not x[~m].any()


def test_a_baseline_fitted_on_other_trajectories_makes_no_bias_and_on_the_same_ones_it_does():
    mdp = tabular.random(np.random.default_rng(4))
    theta = np.random.default_rng(5).normal(size=(2, 2))
    right = tm.grad(lambda theta: tabular.expected_return(mdp, theta))(theta)

    def gradient(batch, on):
        """Of the first trajectory of two, with a baseline fitted on one of them; in both orders, as f must not care."""
        total = 0
        for one, other in ([0, 1], [1, 0]):
            use, of = ({key: x[:, [k]] for key, x in batch.items()} for k in (one, {"same": one, "other": other}[on]))
            targets = returns.discounted(of["rewards"], of["mask"], mdp.discount)
            fitted = returns.fit(of["observations"], targets, of["mask"], ridge=0.1)
            values = returns.predicted_returns(fitted, use["observations"])
            use["advantages"] = returns.gae(use["rewards"], values, use["mask"], mdp.discount)
            logp = exact.of_batches(surrogates.likelihood, use, mdp, tabular.log_pi)
            total = total + tm.grad(logp)(exact.copies_of(theta, use)) / 2
        return total

    other, same = (exact.expectation(mdp, theta, lambda b, on=on: gradient(b, on), 2) for on in ("other", "same"))
    np.testing.assert_allclose(other, right, rtol=1e-10, atol=1e-14)
    assert np.linalg.norm(same) < 0.7 * np.linalg.norm(right)
