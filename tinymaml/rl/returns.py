"""The worth of a batch of trajectories: discounted returns, advantages, and a baseline that is linear in features.

    returns = discounted(rewards, mask, discount)                  G_t = r_t + γ G_{t+1}
    weights = fit(observations, returns, mask)                     one regression per task
    values = predict(weights, observations)                        b_t, the baseline
    advantages = gae(rewards, values, mask, discount, trace)       generalised advantage estimation
    advantages = normalised(advantages, mask)                      mean 0 and deviation 1 over a task

Data functions on NumPy arrays: no derivative flows through them. All of them take any leading axes (tasks) before the
trajectories N and the steps H. The mask is 1 while an episode runs, 0 afterwards; where it is 0, results are 0, and
inputs, even NaN, have no part in anything. Read next: `surrogates`.
"""

from __future__ import annotations

import numpy as np

RIDGE = 1e-5
STEPS = 100.0  # the time feature counts in hundreds of steps, as in rllab
FAR = 10.0  # observations are clipped to ± this in the features, as in rllab


def discounted(rewards: np.ndarray, mask: np.ndarray, discount: float) -> np.ndarray:
    """The return from each step on, G_t = r_t + γ G_{t+1}, and 0 after the end: (…, H), like the rewards.

    >>> from tinymaml.rl.returns import discounted
    >>> discounted(np.array([1.0, 1.0, 1.0]), np.array([1.0, 1.0, 0.0]), 0.5)  # the episode ended after two steps
    array([1.5, 1. , 0. ])
    """
    return _backwards(_kept(rewards, mask), discount) * mask


def gae(
    rewards: np.ndarray, values: np.ndarray, mask: np.ndarray, discount: float, trace: float = 1.0,
    last: np.ndarray | float = 0.0,
) -> np.ndarray:  # fmt: skip
    """Generalised advantage estimation (Schulman et al., 2016, eq. 16).

        δ_t = r_t + γ V_{t+1} − V_t,     A_t = Σ_k (γλ)ᵏ δ_{t+k}

    Args:
        rewards, values, mask: (…, H) each; V_t belongs to the observation before action t.
        discount, trace: γ and λ. λ = 1 gives G_t − V_t: unbiased, if V is not fitted on the same trajectories (see
            `fit`). λ < 1 varies less, and is biased by the error of V.
        last: (…) or a number: the value after the last step of each trajectory. 0 says that episodes end there, which
            is what a finite horizon means; of one that was merely cut off it is V of the observation after it.

    Returns:
        (…, H), 0 where the mask is.

    >>> from tinymaml.rl.returns import gae
    >>> rewards, values, mask = np.array([1.0, 1.0]), np.array([1.5, 1.0]), np.ones(2)
    >>> gae(rewards, values, mask, 0.5), gae(rewards, np.zeros(2), mask, 0.5)  # right values leave no advantage
    (array([0., 0.]), array([1.5, 1. ]))
    """
    rewards, values = _kept(rewards, mask), _kept(values, mask)
    running = np.concatenate([mask[..., 1:], np.zeros_like(mask[..., :1])], -1)  # is there a next step?
    after = np.concatenate([values[..., 1:], np.zeros_like(values[..., :1])], -1)
    after = np.where(running > 0, after, np.asarray(last, values.dtype)[..., None])
    # δ_t = r_t + γ V_{t+1} − V_t
    delta = (rewards + discount * after - values) * mask
    return _backwards(delta, discount * trace) * mask


def _backwards(x: np.ndarray, factor: float) -> np.ndarray:
    """y_t = x_t + f y_{t+1}, along the last axis."""
    out = np.array(x)
    for t in range(out.shape[-1] - 2, -1, -1):
        out[..., t] += factor * out[..., t + 1]
    return out


def baseline_features(observations: np.ndarray) -> np.ndarray:
    """(o, o², t, t², t³, 1) of each step (Duan et al., 2016): (…, H, d) → (…, H, 2d + 4).

    t is the number of the step / 100, and o is clipped to ± 10.

    >>> from tinymaml.rl.returns import baseline_features
    >>> baseline_features(np.array([[3.0], [-50.0]]))
    array([[ 3.e+00,  9.e+00,  0.e+00,  0.e+00,  0.e+00,  1.e+00],
           [-1.e+01,  1.e+02,  1.e-02,  1.e-04,  1.e-06,  1.e+00]])
    """
    o = np.clip(observations, -FAR, FAR)
    t = np.arange(o.shape[-2], dtype=o.dtype)[:, None] / STEPS
    of_time = np.concatenate([t, t**2, t**3, np.ones_like(t)], -1)
    return np.concatenate([o, o**2, np.broadcast_to(of_time, (*o.shape[:-1], 4))], -1)


def fit(observations: np.ndarray, returns: np.ndarray, mask: np.ndarray, ridge: float = RIDGE) -> np.ndarray:
    """The weights of the linear feature baseline, by ridge regression: w = (ΦᵀΦ + c I)⁻¹ Φᵀ G, one w per task.

    Args:
        observations: (…, N, H, d).    returns, mask: (…, N, H).    ridge: c.

    Returns:
        (…, 2d + 4), float64.

    On which trajectories? A baseline leaves a policy gradient unbiased if b_t has nothing of the action a_t in it:
    E[∇log π(a_t|s_t) b_t] = 0. Fitted on *other* trajectories of the task (those of the step before, or the other half
    of the batch) it has not, and there is no bias. Fitted on the *same* ones, as in the published code, it has: b_t is
    drawn towards the very G_t from which it is subtracted. The gradient is then too small by about the share of the
    variance of G that chance explains, 2d + 4 weights from N · H returns: a bias of order 1/N.

    >>> from tinymaml.rl.returns import fit, predicted_returns
    >>> observations = np.random.default_rng(0).normal(size=(20, 5, 1))
    >>> returns = 2 * observations[..., 0] + 1
    >>> np.allclose(predicted_returns(fit(observations, returns, np.ones((20, 5))), observations), returns, atol=1e-4)
    True
    """
    phi = np.where(mask[..., None] > 0, baseline_features(observations), 0).astype(float)
    phi, g = phi.reshape(*phi.shape[:-3], -1, phi.shape[-1]), _kept(returns, mask).astype(float)
    transposed = np.swapaxes(phi, -1, -2)
    gram = transposed @ phi + ridge * np.eye(phi.shape[-1])
    return np.linalg.solve(gram, transposed @ g.reshape(*g.shape[:-2], -1, 1))[..., 0]


def predicted_returns(weights: np.ndarray, observations: np.ndarray) -> np.ndarray:
    """b_t = w·φ(o_t, t): (…, 2d + 4) and (…, N, H, d) → (…, N, H), in the dtype of the observations.

    >>> from tinymaml.rl.returns import predicted_returns
    >>> predicted_returns(np.array([2.0, 0.0, 0.0, 0.0, 0.0, 1.0]), np.array([[[3.0], [4.0]]]))  # 2 o + 1
    array([[7., 9.]])
    """
    values = baseline_features(observations) @ weights[..., None, :, None]
    return values[..., 0].astype(observations.dtype)


def normalised(advantages: np.ndarray, mask: np.ndarray, eps: float = 1e-8) -> np.ndarray:
    """(A − mean) / (deviation + ε) over the steps and trajectories of each task: (…, N, H) → (…, N, H).

    It makes the size of an inner step independent of the scale of rewards. Mean and deviation are statistics of the
    same trajectories, so the gradient gets a scale that depends on them, and a bias of order 1/N.

    >>> from tinymaml.rl.returns import normalised
    >>> advantages, mask = np.array([[1.0, 3.0], [5.0, 99.0]]), np.array([[1.0, 1.0], [1.0, 0.0]])
    >>> normalised(advantages, mask)[:, 0].round(3)  # of 1 and 5, whose mean with 3 is 3; 99 has no part in it
    array([-1.225,  1.225])
    """
    kept, count = _kept(advantages, mask), np.sum(mask, (-2, -1), keepdims=True)
    centred = (kept - np.sum(kept, (-2, -1), keepdims=True) / count) * mask
    deviation = np.sqrt(np.sum(centred**2, (-2, -1), keepdims=True) / count)
    return centred / (deviation + eps)


def _kept(x: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """x, and 0 where the mask is 0."""
    if np.shape(x) != np.shape(mask):
        raise ValueError(f"an array of shape {np.shape(x)} came with a mask of shape {np.shape(mask)}")
    return np.where(mask > 0, x, 0)
