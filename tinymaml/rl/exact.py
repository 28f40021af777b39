"""Which meta-gradient of reinforcement learning is right, and of what? Here all expectations are sums, and one sees.

One inner step adapts to a task by N trajectories of its policy, and θ is judged by the return after it:

    θ′ = θ + α ĝ(θ; τ₁ … τ_N),     ĝ = ∇ surrogate,     E ĝ = ∇J(θ)

There are two objectives in use under the name of MAML, and they are not the same:

    F_N(θ) = E_{τ₁ … τ_N ~ π_θ} J(θ + α ĝ(θ; τ₁ … τ_N))      adaptation as it happens, with N trajectories
    F_∞(θ) = J(θ + α ∇J(θ))                                  adaptation with the true gradient

F_N → F_∞ like 1/N, as the noise of ĝ goes. θ comes into F_N at three places: where adaptation starts, in ĝ for given
trajectories, and in the probabilities of these. Differentiate the sum Σ P(τ₁) ⋯ P(τ_N) J(θ + α ĝ), and there they are:

    ∇F_N = E [ (I + α ∂ĝ/∂θ) ∇J(θ′)  +  Σ_i ∇log P_θ(τ_i) J(θ′) ]            trajectories held fixed in ∂ĝ/∂θ
    ∇F_∞ = (I + α ∇²J(θ)) ∇J(θ + α ∇J(θ))

So ∂ĝ/∂θ for fixed trajectories, the Hessian of the *likelihood* surrogate, belongs into the first line, and is wrong in
the second. Its expectation is ∇²J − C, where C says how the gradient changes because other trajectories are sampled:

    C = E Σ_t γᵗ [r_t S_t S_tᵀ − b_t ∇log π_t ∇log π_tᵀ],     S_t = Σ_{s≤t} ∇log π_s,     b_t the baseline in ĝ

In the first line the score term brings C back: each trajectory moves θ′ by α/N times its own gradient, so the
covariance of its score with J(θ′) is about α/N C ∇J(θ′), and there are N of them. The surrogates differ in what
provides C:

    meta-gradient, with the Hessian of        its expectation                            its variance, as N grows
    likelihood, and the score term (E-MAML)   ∇F_N, at every N                           grows like N, or stays: below
    dice; loaded-dice with λ = 1              ∇F_∞ + O(1/N); ∇F_N + O(1/N)               falls like 1/N
    lvc; loaded-dice with λ < 1               off by α (part of C) ∇J(θ′), at any N      falls like 1/N
    likelihood alone                          off by α C ∇J(θ′), at any N                falls like 1/N
    none (first-order MAML)                   off by α ∇²J ∇J(θ′), at any N              falls like 1/N
    dice, and the score term                  off by α C ∇J(θ′): C is in it twice        as with the likelihood

("Off by" is meant up to O(1/N).) LVC's Hessian is wrong, but varies tens to hundreds of times less than DiCE's.

"Unbiased" is easily said of the wrong thing. DiCE's *derivatives of J* are unbiased at every order and every N, and so
is what is linear in them. A meta-gradient is not: it multiplies a Hessian with a gradient at a point, and both come
from the same trajectories. DiCE's meta-gradient has a bias of order 1/N, against both objectives. It is the exact
derivative of the plug-in estimate J(θ + α ∇Ĵ(θ)), where Ĵ weights the N trajectories by how probable θ makes them. Only
the likelihood's Hessian with the score term is unbiased for what N trajectories really do. It pays for that: the scores
of all N trajectories multiply a return of which each moves but 1/N. A constant taken off this return (`gain_baseline`)
changes no expectation. With E J(θ′) as the constant the variance stays as N grows; with none it even grows like N.

How much is lost without C? For a tabular softmax, and for a Gaussian of fixed deviation whose mean is linear in θ,
∇² log π(a|s) does not depend on a. If b_t is the value function, advantages have the mean 0, and so E ∂ĝ/∂θ = 0: but
for O(1/N), differentiating the likelihood surrogate exactly is first-order MAML again.

The return after adaptation is exact here, J(θ′). Trajectories sampled from π_θ′ give unbiased estimates of J(θ′) and
∇J(θ′) in their place: that adds variance and no bias, since a meta-gradient is linear in both. With several inner
steps, each on trajectories of its own θₖ, all of this holds with the scores of every step, Σₖ Σ_i ∇log P_θₖ(τ_ki).

    expected_derivative(mdp, theta, dice, v)        E ∇² surrogate · v, beside derivative(J, theta, v)
    meta_objective(mdp, theta, alpha, n)            F_N, or F_∞ for n=None; `tm.grad` of it is the exact meta-gradient
    expected_meta_gradient(mdp, theta, alpha, dice, n)
    meta_gradients(mdp, theta, alpha, dice, batch)  one for each of many sampled batches

N trajectories in any order make the same step, so the sums are over multisets: (M + N − 1 over N) of them, if there are
M trajectories. `python -m bench rl exact` prints the table above in numbers.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..engine import grad, stop_gradient
from ..nest import Nest, tree_leaves, tree_map
from .surrogates import likelihood, sampling_score
from .tabular import MDP, Policy, every_trajectory, expected_return, log_pi, log_probability

CHUNK = 2**15  # multisets of trajectories that are computed at a time


def derivative(f: Callable, theta: Nest, *directions: Nest) -> Nest:
    """The derivative of order 1 + k of a scalar f at θ, contracted with k directions: a nest like θ.

        derivative(f, θ)   ∇f          derivative(f, θ, v)   ∇²f v          derivative(f, θ, v, w)   ∇³f v w

    A direction may have fewer leading axes than θ.

    >>> from tinymaml.rl.exact import derivative
    >>> derivative(lambda x: x**3, 2.0), derivative(lambda x: x**3, 2.0, 1.0), derivative(lambda x: x**3, 2.0, 1.0, 1.0)
    (array(12.), array(12.), array(6.))
    """
    for v in directions:
        f = functools.partial(lambda f, v, theta: _dot(grad(f)(theta), v), f, v)
    return grad(f)(theta)


def _dot(a: Nest, b: Nest):
    return sum(np.sum(x * y) for x, y in zip(tree_leaves(a), tree_leaves(b), strict=True))


# ── expectations ────────────────────────────────────────────────────────────────────────────────────────────────────


def multisets(m: int, n: int, size: int | None = CHUNK) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All multisets of n of m things, `size` at a time: indices (T, n), sorted, and how many orders each has, (T,).

    None: all at a time.

    >>> from tinymaml.rl.exact import multisets
    >>> for index, orders in multisets(2, 3):
    ...     print(index.tolist(), orders)
    [[0, 0, 0], [0, 0, 1], [0, 1, 1], [1, 1, 1]] [1. 3. 3. 1.]
    """
    every = itertools.combinations_with_replacement(range(m), n)
    while chosen := list(itertools.islice(every, size)):
        index, repeats, orders = np.array(chosen), np.ones(len(chosen)), np.full(len(chosen), float(math.factorial(n)))
        for j in range(1, n):
            # n! / Π c!, where the c-th equal one divides by c
            repeats = np.where(index[:, j] == index[:, j - 1], repeats + 1, 1)
            orders /= repeats
        yield index, orders


def expectation(
    mdp: MDP, theta: Nest, f: Callable[[dict], Nest], n: int = 1, policy: Policy = log_pi,
    baseline: np.ndarray | None = None,
) -> Nest:  # fmt: skip
    """E f over n independent trajectories of π_θ, by enumeration.

    Args:
        f: from batches (T, n, H, …), one of n trajectories in each row, to a nest of arrays (T, …). The order of the n
            trajectories must not matter to it.
        baseline: b(t, s), as for `every_trajectory`.

    >>> from tinymaml.rl import exact, tabular
    >>> mdp, theta = tabular.random(np.random.default_rng(0)), np.zeros((2, 2))
    >>> mean = exact.expectation(mdp, theta, lambda batch: tabular.returns(mdp, batch)[:, 0])
    >>> np.allclose(mean, tabular.expected_return(mdp, theta))
    True
    """
    batch, chance = every_trajectory(mdp, baseline)
    p = chance * np.exp(log_probability(theta, batch, policy))
    batch["logp"] = policy(theta, batch["observations"], batch["actions"])
    total = None
    for index, orders in multisets(len(p), n):
        weights = orders * np.prod(p[index], -1)
        found = tree_map(lambda x, w=weights: np.tensordot(w, x, 1), f({name: x[index] for name, x in batch.items()}))
        total = found if total is None else tree_map(np.add, total, found)
    return total


def expected_derivative(
    mdp: MDP, theta: Nest, surrogate: Callable, *directions: Nest, n: int = 1, policy: Policy = log_pi,
    baseline: np.ndarray | None = None,
) -> Nest:  # fmt: skip
    """E of a surrogate's derivative of order 1 + k, contracted with k directions: a nest like θ.

    >>> from tinymaml.rl import exact, tabular
    >>> from tinymaml.rl.surrogates import dice, likelihood
    >>> mdp, theta, v = tabular.random(np.random.default_rng(0)), np.zeros((2, 2)), np.eye(2)
    >>> right = exact.derivative(lambda theta: tabular.expected_return(mdp, theta), theta, v)
    >>> [np.allclose(exact.expected_derivative(mdp, theta, f, v), right) for f in (dice, likelihood)]
    [True, False]
    """

    def derivatives(batch):
        return derivative(of_batches(surrogate, batch, mdp, policy), copies_of(theta, batch), *directions)

    return expectation(mdp, theta, derivatives, n, policy, baseline)


def of_batches(surrogate: Callable, batch: dict, mdp: MDP, policy: Policy) -> Callable:
    """The sum of the surrogates of all batches: each depends on its own copy of θ, so that derivatives are theirs."""
    logp = lambda theta: policy(theta, batch["observations"], batch["actions"])  # noqa: E731
    return lambda theta: np.sum(surrogate(logp(theta), batch, discount=mdp.discount))


def copies_of(theta: Nest, batch: dict) -> Nest:
    """θ once for each batch, (T, …)."""
    return tree_map(lambda p: np.broadcast_to(p, (len(batch["mask"]), *np.shape(p))), theta)


# ── the meta-gradient ───────────────────────────────────────────────────────────────────────────────────────────────


def meta_objective(
    mdp: MDP,
    theta: Nest,
    alpha: float,
    n: int | None,
    policy: Policy = log_pi,
    baseline: np.ndarray | None = None,
):
    """F_N(θ), the expected return after one inner step on n trajectories; F_∞(θ), where n is None.

    It is a function of θ in full: `tm.grad` of it is the exact meta-gradient, the probabilities of the trajectories
    included. All T multisets are in one graph, whose memory grows with them.

    Args:
        alpha: α.   baseline: b(t, s), which changes ĝ, and so F_N, but not E ĝ.

    >>> from tinymaml.rl import exact, tabular
    >>> mdp = tabular.MDP(np.ones(1), np.ones((1, 2, 1)), np.array([[0.0, 1.0]]), horizon=1)  # action 1 pays 1
    >>> [round(float(exact.meta_objective(mdp, np.zeros((1, 2)), 4.0, n)), 3) for n in (1, 2, 4, 8, None)]
    [0.741, 0.811, 0.844, 0.862, 0.881]
    """
    J = functools.partial(expected_return, mdp, policy=policy)
    if n is None:
        # F_∞ = J(θ + α ∇J(θ))
        return J(_stepped(theta, grad(J)(theta), alpha))
    batch, chance = every_trajectory(mdp, baseline)
    index, orders = next(multisets(len(chance), n, size=None))
    chosen = {name: x[index] for name, x in batch.items()}
    logp = np.sum(log_probability(theta, batch, policy)[index], -1)
    copies = tree_map(lambda p: p + np.zeros((len(index), *np.shape(p))), theta)
    adapted = _stepped(copies, grad(of_batches(likelihood, chosen, mdp, policy))(copies), alpha)
    # F_N = Σ P(τ₁) ⋯ P(τ_N) J(θ + α ĝ)
    return np.sum(orders * np.prod(chance[index], -1) * np.exp(logp) * J(adapted, lead=(len(index),)))


def expected_meta_gradient(
    mdp: MDP, theta: Nest, alpha: float, surrogate: Callable | None, n: int, *, score: bool = False,
    gain_baseline: float = 0.0, policy: Policy = log_pi, baseline: np.ndarray | None = None,
) -> Nest:  # fmt: skip
    """E of `meta_gradients` over n trajectories: a nest like θ.

    >>> from tinymaml.rl import exact, tabular
    >>> from tinymaml.rl.surrogates import likelihood
    >>> mdp, theta = tabular.random(np.random.default_rng(0), horizon=2), np.zeros((2, 2))
    >>> right = tm.grad(lambda theta: exact.meta_objective(mdp, theta, 1.0, 2))(theta)
    >>> emaml = exact.expected_meta_gradient(mdp, theta, 1.0, likelihood, 2, score=True)
    >>> finn = exact.expected_meta_gradient(mdp, theta, 1.0, likelihood, 2)
    >>> np.allclose(emaml, right), np.allclose(finn, right)
    (True, False)
    """
    how: dict[str, Any] = dict(score=score, gain_baseline=gain_baseline, policy=policy)
    of = functools.partial(meta_gradients, mdp, theta, alpha, surrogate, **how)
    return expectation(mdp, theta, of, n, policy, baseline)


def meta_gradients(
    mdp: MDP, theta: Nest, alpha: float, surrogate: Callable | None, batch: dict, *, score: bool = False,
    gain_baseline: float = 0.0, policy: Policy = log_pi,
) -> Nest:  # fmt: skip
    """∇ J(θ + α ∇ surrogate(θ; batch)) for each of T batches held fixed, as code with automatic differentiation has it.

    Args:
        surrogate: one of `surrogates`; None is first-order MAML.
        batch: (T, N, H, …).
        score: add E-MAML's term, Σ_i ∇log P(τ_i) (J(θ′) − `gain_baseline`).

    Returns:
        A nest like θ, each array (T, …).

    >>> from tinymaml.rl import exact, tabular
    >>> from tinymaml.rl.surrogates import dice
    >>> mdp, theta = tabular.random(np.random.default_rng(0)), np.zeros((2, 2))
    >>> batch = tabular.sample(mdp, np.random.default_rng(1), theta, (10, 20))  # 10 batches of 20 trajectories
    >>> exact.meta_gradients(mdp, theta, 0.1, dice, batch).shape
    (10, 2, 2)
    """
    inner = of_batches(surrogate or likelihood, batch, mdp, policy)

    def objective(copies):
        step = grad(inner)(copies)
        if surrogate is None:
            step = tree_map(stop_gradient, step)
        gain = expected_return(mdp, _stepped(copies, step, alpha), policy, batch["mask"].shape[:1])
        if score:
            logp = policy(copies, batch["observations"], batch["actions"])
            gain = gain + sampling_score(logp, batch, gain - gain_baseline)
        return np.sum(gain)

    return grad(objective)(copies_of(theta, batch))


def _stepped(theta: Nest, step: Nest, alpha: float) -> Nest:
    # θ′ = θ + α ĝ
    return tree_map(lambda p, g: p + alpha * g, theta, step)
