"""Surrogates of an inner step: a scalar whose derivatives estimate those of the return J(θ), from sampled trajectories.

    J(θ) = E_{τ ~ π_θ} Σ_t γᵗ r_t          ascended by θ′ = θ + α ∇ surrogate(log π_θ(a|s), batch)

    name           the surrogate: a mean over trajectories of the sum over t of …            derivatives of J, unbiased
    likelihood     γᵗ log π_t A_t                                                           order 1
    lvc            γᵗ ☐(log π_t) A_t                                                        order 1
    dice           γᵗ [r_t ☐(Σ_{s≤t} log π_s) + (1 − ☐(log π_t)) b_t]                       all orders
    loaded-dice    γᵗ [☐(w_t) − ☐(λ w_{t−1})] A_t,   w_t = λ w_{t−1} + log π_t              all orders, if λ = 1
    e-maml         the likelihood's, with `sampling_score` beside the outer objective       order 1; see below

☐(x) = exp(x − ⊥x) is DiCE's magic box: ⊥ is `stop_gradient`, so ☐ is 1, and ∇☐(x) = ☐(x) ∇x. It is the ratio of the
probability under θ to that under the θ which sampled, and derivatives of such a ratio, times what was received, are
unbiased at every order. A_t, b_t and r_t are data: no derivative flows through them.

Where the second order goes. An action changes the probability of all that comes after it, so a reward's Hessian is

    r_t [(Σ_{s≤t} ∇log π_s)(Σ_{s≤t} ∇log π_s)ᵀ + Σ_{s≤t} ∇² log π_s]

- `likelihood` has the second term alone. The first one, by which *sampling* depends on θ, is missing. So the gradient
  is right and the Hessian is not: this is how most public RL-MAML differentiates an inner step.
- `lvc` has of the products ∇log π_s ∇log π_uᵀ those with s = u, and misses the others. It is biased, but varies less
  than DiCE, tens to hundreds of times, and the more the longer the horizon is.
- `dice` has all of them. Its baseline term has the expectation 0, and so have its derivatives of every order, as long
  as the action a_t had no part in b_t. It reduces the variance of first derivatives.
- `loaded-dice` is `dice` with advantages. With λ = 1 and A_t = Σ_{u≥t} γ^{u−t} r_u − b_t it is DiCE less its value, and
  the baseline reduces the variance at every order. λ < 1 forgets distant actions: less variance, and a bias from
  order 2 on.
- `e-maml` estimates another gradient. Really θ samples N trajectories, and its objective is E[J(θ′)] over these. The
  other surrogates estimate the gradient of J(θ + α ∇J(θ)), in which N is infinite. `exact` computes both.

Adding one is one function, and one line in `SURROGATES`. Read next: `exact`, where all of this is checked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..engine import stop_gradient
from ..ops import in_dtype

Batch = Mapping[str, Any]


def likelihood(logp, batch: Batch, *, discount: float = 1.0):
    """1/N Σ_i Σ_t γᵗ log π_t A_t (REINFORCE; Finn, Abbeel, Levine, 2017, eq. 4).

    Args:
        logp: log π_θ(a_t | s_t) of what was done, (…, N, H), differentiable.
        batch: what the policy collected on one task; of it `advantages` and `mask` are read, (…, N, H) each. Entries
            where the mask is 0 count for nothing, whatever stands there, and so does a trajectory without any step.
        discount: γ of the objective, by which step t has the weight γᵗ. Published code has γ in the advantages alone,
            and no weights: `discount=1` here. That is the gradient of no objective (Nota and Thomas, 2020).

    Returns:
        A scalar, to be *maximised*, in the dtype of logp; (…), if there are leading axes.

    Raises:
        ValueError: an array of the batch is missing, or has another shape than logp; names both.

    >>> from tinymaml.rl.surrogates import likelihood
    >>> batch = {"mask": np.ones((1, 2)), "advantages": np.array([[5.0, 7.0]])}  # one trajectory of two steps
    >>> tm.grad(lambda logp: likelihood(logp, batch, discount=0.5))(np.zeros((1, 2)))
    array([[5. , 3.5]])
    """
    logp, mask, advantages = _masked(logp, batch, "advantages")
    # 1/N Σ_i Σ_t γᵗ log π_t A_t
    return _mean_return(logp * advantages, mask, discount)


def lvc(logp, batch: Batch, *, discount: float = 1.0):
    """1/N Σ_i Σ_t γᵗ ☐(log π_t) A_t, the low-variance curvature estimator (Rothfuss et al., 2019, ProMP, eq. 11).

    Arguments, result and errors as of `likelihood`. The value is the mean discounted sum of advantages.

    >>> from tinymaml.rl.surrogates import lvc
    >>> batch = {"mask": np.ones((1, 2)), "advantages": np.array([[5.0, 7.0]])}
    >>> tm.value_and_grad(lambda logp: lvc(logp, batch))(np.log([[0.5, 0.1]]))
    (array(12.), array([[5., 7.]]))
    """
    logp, mask, advantages = _masked(logp, batch, "advantages")
    # 1/N Σ_i Σ_t γᵗ ☐(log π_t) A_t
    return _mean_return(box(logp) * advantages, mask, discount)


def dice(logp, batch: Batch, *, discount: float = 1.0):
    """1/N Σ_i Σ_t γᵗ [r_t ☐(Σ_{s≤t} log π_s) + (1 − ☐(log π_t)) b_t] (Foerster et al., 2018, eqs. 7 and 10).

    Arguments, result and errors as of `likelihood`, but that `rewards` and `values`, the baseline b_t, are read. The
    value is the mean discounted return. γᵗ belongs to the baseline term too: what it subtracts is γᵗ ∇log π_t b_t.

    >>> from tinymaml.rl.surrogates import dice
    >>> batch = {"mask": np.ones((1, 2)), "rewards": np.array([[5.0, 7.0]]), "values": np.zeros((1, 2))}
    >>> tm.value_and_grad(lambda logp: dice(logp, batch))(np.zeros((1, 2)))  # a first action earns both rewards
    (array(12.), array([[12.,  7.]]))
    """
    logp, mask, rewards, values = _masked(logp, batch, "rewards", "values")
    # r_t ☐(Σ_{s≤t} log π_s) + (1 − ☐(log π_t)) b_t
    terms = rewards * box(np.cumsum(logp, -1)) + (1 - box(logp)) * values
    return _mean_return(terms, mask, discount)


def loaded_dice(logp, batch: Batch, *, discount: float = 1.0, decay: float = 1.0):
    """1/N Σ_i Σ_t γᵗ [☐(w_t) − ☐(λ w_{t−1})] A_t,   w_t = λ w_{t−1} + log π_t (Farquhar et al., 2019, algorithm 1).

    Arguments, result and errors as of `likelihood`. The value is 0, its derivatives are those of the return.

    Args:
        decay: λ, in [0, 1]: the action of k steps ago counts λᵏ in w. 1 is unbiased; 0 is LVC.

    >>> from tinymaml.rl.surrogates import loaded_dice
    >>> batch = {"mask": np.ones((1, 2)), "advantages": np.array([[12.0, 7.0]])}
    >>> tm.value_and_grad(lambda logp: loaded_dice(logp, batch))(np.zeros((1, 2)))
    (array(0.), array([[12.,  7.]]))
    """
    logp, mask, advantages = _masked(logp, batch, "advantages")
    w = decayed_sums(logp, decay)
    # ☐(w_t) − ☐(λ w_{t−1}): what the action a_t adds to the probability of its past
    return _mean_return((box(w) - box(w - logp)) * advantages, mask, discount)


# What an inner step ascends, by the names of the command line.
SURROGATES: dict[str, Callable] = {
    "likelihood": likelihood,
    "lvc": lvc,
    "dice": dice,
    "loaded-dice": loaded_dice,
    "e-maml": likelihood,
}

# The surrogates beside which the outer objective gets `sampling_score` of every inner step's batch.
WITH_SAMPLING_SCORE = frozenset({"e-maml"})


def sampling_score(logp, batch: Batch, gain):
    """Σ_i Σ_t log π_t · ⊥gain: E-MAML's term of the *outer* objective (Stadie et al., 2018; Al-Shedivat et al., 2018).

    Args:
        logp: log π_θₖ(a_t | s_t) of the trajectories of inner step k, (…, N, H), differentiable with respect to θ.
            With several inner steps, the terms of all of them are added.
        batch: their batch; of it the mask is read.
        gain: a scalar, the mean discounted return of the trajectories sampled *after* adaptation. A constant, or
            anything on which these N trajectories have no influence, may be taken off it: that leaves the expectation.

    Returns:
        A scalar, or (…), to be added to the outer objective (which is maximised). It is a sum over the trajectories,
        not their mean: all N together led to θ′, and the logarithm of their probability is the sum of theirs.

    >>> from tinymaml.rl.surrogates import sampling_score
    >>> tm.grad(lambda logp: sampling_score(logp, {"mask": np.ones((2, 2))}, 3.0))(np.zeros((2, 2)))
    array([[3., 3.],
           [3., 3.]])
    """
    logp, _ = _masked(logp, batch)
    # Σ_i log π_θ(τ_i) ⊥gain
    return np.sum(logp, (-2, -1)) * stop_gradient(gain)


def per_step(batch: Batch):
    """N / Σ mask: a surrogate times this is a mean over all steps, as in published code, in the place of a mean over
    trajectories of sums over steps. It scales α: at full horizons by 1/H.

    >>> from tinymaml.rl.surrogates import per_step
    >>> per_step({"mask": np.array([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]])})  # two trajectories, four steps
    np.float64(0.5)
    """
    mask = batch["mask"]
    return np.sum(mask[..., 0], -1) / np.sum(mask, (-2, -1))


def box(x):
    """☐(x) = exp(x − ⊥x): the value 1, and the derivatives of a ratio of probabilities.

    >>> from tinymaml.rl.surrogates import box
    >>> tm.value_and_grad(box)(-3.0), tm.grad(tm.grad(box))(-3.0)
    ((array(1.), array(1.)), array(1.))
    """
    return np.exp(x - stop_gradient(x))


def decayed_sums(logp, decay: float = 1.0):
    """w_t = λ w_{t−1} + log π_t = Σ_{s≤t} λ^{t−s} log π_s, along the last axis.

    >>> from tinymaml.rl.surrogates import decayed_sums
    >>> decayed_sums(np.array([1.0, 1.0, 1.0])), decayed_sums(np.array([1.0, 1.0, 1.0]), 0.5)
    (array([1., 2., 3.]), array([1.  , 1.5 , 1.75]))
    """
    if decay == 1:
        return np.cumsum(logp, -1)
    if not 0 <= decay < 1:
        raise ValueError(f"decay is {decay}, wanted a number from 0 to 1")
    steps = np.arange(logp.shape[-1])
    ago = steps - steps[:, None]  # t − s, in row s and column t
    return logp @ np.where(ago >= 0, float(decay) ** np.maximum(ago, 0), 0).astype(logp.dtype)


def _masked(logp, batch: Batch, *names: str) -> list:
    """logp, the mask and the named arrays, each 0 wherever the mask is: even a NaN there has no part in anything."""
    shape = np.shape(logp)
    if len(shape) < 2:
        raise ValueError(f"logp has the shape {shape}, wanted (…, trajectories, steps)")
    for name in ("mask", *names):
        if name not in batch:
            raise ValueError(f"the batch has no {name!r}; seen {', '.join(batch)}")
        if np.shape(batch[name]) != shape:
            raise ValueError(f"{name} has the shape {np.shape(batch[name])}, and logp {shape}")
    runs = batch["mask"] > 0
    logp, *data = (np.where(runs, x, 0) for x in (logp, *(batch[name] for name in names)))
    return [logp, *(in_dtype(x, logp.dtype) for x in (batch["mask"], *data))]


def _mean_return(terms, mask, discount: float):
    """1/N Σ_i Σ_t γᵗ m_t x_t, where N counts the trajectories that have a first step."""
    weights = np.asarray(float(discount) ** np.arange(terms.shape[-1]), terms.dtype)
    return np.sum(weights * mask * terms, (-2, -1)) / np.sum(mask[..., 0], -1)
