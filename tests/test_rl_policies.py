"""Policies: densities against SciPy and PyTorch, derivatives against numerical ones, all tasks at once as alone."""

from types import SimpleNamespace

import numpy as np
import pytest

import tinymaml as tm
from tinymaml.nest import tree_leaves, tree_map
from tinymaml.networks import policy as network
from tinymaml.rl.policies import Categorical, Gaussian

POLICIES = {
    "gaussian": Gaussian(3, 2, (5, 4), "tanh", log_std=-0.4),
    "deep": Gaussian(3, 2, (4, 4, 4), "relu"),
    "linear": Gaussian(3, 2, ()),
    "categorical": Categorical(3, 4, (5,), "tanh"),
}  # fmt: skip
every = pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)


def drawn(policy, lead=(), rows=(6,), seed=0):
    """θ with leading axes, observations, and actions that the policy may take."""
    rng = np.random.default_rng(seed)
    one = policy.init(rng, float)
    theta = tree_map(lambda x: x + 0.3 * rng.normal(size=(*lead, *x.shape)), one)
    observations = rng.normal(size=(*lead, *rows, 3))
    return theta, observations, policy.sample(rng, theta, observations)


@every
def test_all_tasks_at_once_are_as_one_by_one(policy):
    theta, observations, actions = drawn(policy, (4,), (2, 3))
    other, *_ = drawn(policy, (4,), (2, 3), seed=1)
    logp = policy.logp(theta, observations, actions)
    kl = policy.kl(policy.outputs(theta, observations), other, observations)
    assert logp.shape == kl.shape == (4, 2, 3)
    for t in range(4):
        mine, its = (tree_map(lambda x, t=t: x[t], part) for part in (theta, other))
        np.testing.assert_allclose(policy.logp(mine, observations[t], actions[t]), logp[t], rtol=1e-13)
        alone = policy.kl(policy.outputs(mine, observations[t]), its, observations[t])
        np.testing.assert_allclose(alone, kl[t], rtol=1e-12)


def test_a_gaussian_has_the_density_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    policy = POLICIES["gaussian"]
    theta, observations, actions = drawn(policy)
    h = observations
    for name in ("linear0", "linear1"):
        h = np.tanh(h @ theta[name]["w"] + theta[name]["b"])
    mean = h @ theta["linear2"]["w"] + theta["linear2"]["b"]
    wanted = stats.norm(mean, np.exp(theta["log_std"])).logpdf(actions).sum(-1)
    np.testing.assert_allclose(policy.logp(theta, observations, actions), wanted, rtol=1e-12)


@every
def test_densities_and_divergences_are_those_of_pytorch(policy):
    torch = pytest.importorskip("torch")
    theta, observations, actions = drawn(policy)
    other, *_ = drawn(policy, seed=2)

    def distribution(theta):
        outputs = tree_map(torch.tensor, policy.outputs(theta, observations))
        if isinstance(policy, Categorical):
            return torch.distributions.Categorical(logits=outputs)
        return torch.distributions.Independent(torch.distributions.Normal(outputs["mean"], outputs["log_std"].exp()), 1)

    theirs = distribution(theta).log_prob(torch.tensor(actions)).numpy()
    np.testing.assert_allclose(policy.logp(theta, observations, actions), theirs, rtol=1e-12)
    kl = torch.distributions.kl_divergence(distribution(theta), distribution(other)).numpy()
    np.testing.assert_allclose(policy.kl(policy.outputs(theta, observations), other, observations), kl, rtol=1e-10)
    assert (kl > 0).all()


@every
def test_derivatives_are_numerical_ones_to_order_2(policy):
    theta, observations, actions = drawn(policy)
    outputs = policy.outputs(drawn(policy, seed=2)[0], observations)
    tm.check_grads(lambda theta: np.sum(policy.logp(theta, observations, actions)), (theta,), order=2)
    tm.check_grads(lambda theta: np.sum(policy.kl(outputs, theta, observations)), (theta,), order=2)


@every
def test_a_sample_is_distributed_as_its_density_says(policy):
    theta, observations, _ = drawn(policy, rows=(1,))
    many = np.repeat(observations, 40_000, 0)
    actions = policy.sample(np.random.default_rng(3), theta, many)
    if isinstance(policy, Categorical):
        assert actions.dtype.kind == "i"
        shares = np.bincount(actions, minlength=4) / len(many)
        np.testing.assert_allclose(shares, np.exp(policy.outputs(theta, observations)[0]), atol=0.01)
    else:
        outputs = policy.outputs(theta, observations)
        np.testing.assert_allclose(actions.mean(0), outputs["mean"][0], atol=0.05)
        np.testing.assert_allclose(actions.std(0), np.exp(outputs["log_std"]), rtol=0.02)


@pytest.mark.usefixtures("own_cache", "quick_code", "either_way")
@every
def test_it_compiles_to_the_same_numbers(policy):
    pytest.importorskip("numba")
    pytest.importorskip("scipy")
    theta, observations, actions = drawn(policy, rows=(3, 4))

    def of_task(theta, support, query):
        value = lambda theta: np.sum(policy.logp(theta, *support) * 0.1)  # noqa: E731
        return tm.value_and_grad(value)(theta)

    f = tm.mean_over_tasks(of_task)
    task = tuple(np.stack([x, x]) for x in (observations, actions))
    (value, grads), (wanted, others) = (g(theta, (task, task)) for g in (tm.compile(f), f))
    np.testing.assert_allclose(value, wanted, rtol=1e-13)
    for g, other in zip(tree_leaves(grads), tree_leaves(others), strict=True):
        np.testing.assert_allclose(g, other, rtol=1e-12, atol=1e-13)


def test_the_std_has_a_floor_below_which_the_policy_is_said_to_have_collapsed():
    policy = Gaussian(3, 2, (4,), floor=1e-3)
    theta, observations, _ = drawn(policy, (3,))
    assert policy.fault(theta) is None
    theta["log_std"][1, 1] = -20
    np.testing.assert_allclose(policy.outputs(theta, observations)["log_std"][1, 1], np.log(1e-3))
    where, why = policy.fault(theta)
    assert where == (1,)
    assert why == "the policy's std of action 1 has collapsed: it is 2.06e-09, not above the floor 0.001"
    theta["linear0"]["w"][2, 0, 0] = np.nan
    assert policy.fault(theta) == ((2,), "the policy's linear0 is not finite")


def test_the_network_policy_is_what_its_family_needs():
    family = SimpleNamespace(input_shape=(3,), outputs=2, collect=None)
    continuous = network.make(family, network.Settings(hidden=(4,), log_std=-1.0, adapt_std=False))
    assert isinstance(continuous.policy, Gaussian) and continuous.policy.fixed == ("log_std",)
    theta = continuous.init(np.random.default_rng(0), np.float32)
    assert theta["log_std"].tolist() == [-1, -1] and theta["linear0"]["w"].shape == (3, 4)
    assert continuous.apply(theta, np.ones((5, 3), np.float32))["mean"].shape == (5, 2)
    family.choices = 4
    discrete = network.make(family, network.Settings(activation="tanh"))
    assert isinstance(discrete.policy, Categorical)
    theta = discrete.init(np.random.default_rng(0), np.float32)
    np.testing.assert_allclose(np.exp(discrete.apply(theta, np.ones((5, 3), np.float32))).sum(1), 1, rtol=1e-6)
    with pytest.raises(ValueError, match="policy wants tasks that are acted in"):
        network.make(SimpleNamespace(input_shape=(3,), outputs=2), network.Settings())


def test_initial_weights_are_those_of_the_mlp():
    from tinymaml.networks.mlp import mlp

    inits = Gaussian(3, 2, (5,)).init, mlp((3,), (5,), 2).init
    ours, theirs = (init(np.random.default_rng(0), np.float32) for init in inits)
    assert ours.pop("log_std").tolist() == [0, 0]
    tree_map(np.testing.assert_array_equal, ours, theirs)
