"""MAML for reinforcement learning (Finn, Abbeel and Levine, 2017, section 3.2 and algorithm 3): the data depend on θ.

    θₖ₊₁ = θₖ + α ∇J(θₖ; τₖ),  τₖ ~ π_θₖ,  k < K          J: a surrogate of `rl.surrogates`, of N trajectories τₖ
    G = −∇_θ J′(θ_K; τ′),  τ′ ~ π_θ_K                      through all K steps, with the trajectories held

The trajectories are collected before (`collected` in `runs.acting`), with the policy at hand at each step. They carry
advantages, of returns with a linear baseline, scaled to mean 0 and deviation 1 per task. Surrogates are means over
steps, as in the published code, so that α means the same for all of them. The outer objective and its step:

    adam     J′ = mean r A,  r = π_θ_K / π_old;  one step of the outer optimiser
    promp    J′ = mean min(r A, clip(r, 1 ± ε) A) − η Σₖ mean KL(π_old,k ‖ π_θₖ), several steps on the same trajectories
             (Rothfuss et al., 2019, algorithm 1)
    trpo     the step s = √(2δ / xᵀFx) x, x = F⁻¹ ∇J′, where F = ∇² mean KL(π_old ‖ π_θ_K) is the Fisher matrix of the
             *adapted* policy in θ. Fx is exact, by `hvp` through the inner steps; x is by conjugate gradients; s is
             shortened until J′ grows and the KL is at most δ. It has no rate: `meta_lr` and `optimizer` are not used

While θ moves on old trajectories (promp, and trpo's line search), an inner step at θ uses data of π_old. With the
surrogate lvc its advantages are then weighted by π_θ/π_old, which makes it the J^LR of ProMP. The others are not
weighted.

With e-maml the outer objective has Σₖ Σ_τ log π_θₖ(τₖ) (R(τ′) − R̄) besides, R̄ being the mean over the other tasks: how
much more likely should the trajectories become that adapted so well? (`rl.surrogates.sampling_score`)

`inner_steps` 0 trains one policy for all tasks, which nothing adapts: the "pretrained" baseline of the paper. To a new
task it adapts at the rate α, or at a tuned one (`eval --tune`), each step with trajectories of its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..engine import grad, hvp, stop_gradient
from ..nest import tree_map
from ..rl.collect import total
from ..rl.returns import discounted, fit, gae, normalised, predicted_returns
from ..rl.surrogates import SURROGATES, WITH_SAMPLING_SCORE, per_step, sampling_score
from ..runs.settings import option
from . import inner
from .imaml import conjugate_gradients
from .inner import dot, init, nth, plus  # noqa: F401

acts = True

PROMP, TRPO = {"outer": ("promp",)}, {"outer": ("trpo",)}
WEIGHTED = ("lvc",)  # surrogates that are ratios of probabilities, step by step


@dataclass(frozen=True)
class Settings(inner.Settings):
    inner_lr: float = option(0.1, "α, rate of the inner loop, for advantages of deviation 1", least=0)
    later: float = option(0.5, "share of α that steps after the first have, as in the paper's test", least=0)
    surrogate: str = option("lvc", "what an inner step ascends, see rl/surrogates.py", choices=tuple(SURROGATES))
    loaded_decay: float = option(
        1.0, "λ of loaded DiCE: an action of k steps ago counts λᵏ", least=0, most=1,
        where={"surrogate": ("loaded-dice",)},
    )  # fmt: skip
    outer: str = option("adam", "the outer step", choices=("adam", "promp", "trpo"))
    discount: float = option(0.99, "γ of returns and advantages", least=0, most=1)
    trace: float = option(1.0, "λ of generalised advantage estimation", least=0, most=1)
    weigh: bool = option(False, "γᵗ weighs step t in surrogates; without, γ is in the advantages alone, as published")
    baseline: str = option(
        "same", "the linear baseline of returns is fitted on the same trajectories (published; a small bias), or each"
        " half's on the other half, or there is none", choices=("same", "halves", "none"),
    )  # fmt: skip
    ratio_clip: float = option(0.3, "ε of the clipped ratio", least=0, where=PROMP)
    kl_weight: float = option(0.0005, "η of the KL divergence of inner steps", least=0, where=PROMP)
    epochs: int = option(5, "steps of the outer optimiser on the same trajectories", least=1, where=PROMP)
    trust: float = option(0.01, "δ, the greatest mean KL divergence of an outer step", least=0, where=TRPO)
    solver_steps: int = option(10, "steps of conjugate gradients", least=1, where=TRPO)
    damping: float = option(1e-5, "what is added to the diagonal of the Fisher matrix", least=0, where=TRPO)
    searches: int = option(15, "lengths that the line search tries", least=1, where=TRPO)


# ── batches ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def prepared(batch: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """Add to the collected batch, with tasks on axis 0, the data that the losses need besides:

    values      the baseline b_t, (T, N, H)
    advantages  of mean 0 and deviation 1 per task
    scale       (T,), 1 / the deviation that they had: rewards and values times this are on the same scale
    gain        (T,), by how much the mean discounted return is above that of the other tasks, if there are others
    """
    rewards, mask, observations = batch["rewards"], batch["mask"], batch["observations"]
    returns = discounted(rewards, mask, settings.discount)
    values = baseline(observations, returns, mask, settings.baseline)
    raw = gae(rewards, values, mask, settings.discount, settings.trace)
    advantages = normalised(raw, mask)
    count = np.sum(mask, (1, 2))
    mean = np.sum(raw, (1, 2)) / count
    deviation = np.sqrt(np.sum(mask * (raw - mean[:, None, None]) ** 2, (1, 2)) / count)
    reached = returns[:, :, 0].mean(1)
    tasks, gain = len(reached), reached
    if tasks > 1:
        # R − R̄ = (R − mean) T / (T − 1), R̄ being the mean over the others
        gain = (reached - reached.mean()) * tasks / (tasks - 1)
    more = {"values": values, "advantages": advantages, "scale": 1 / (deviation + 1e-8), "gain": gain}
    return {**batch, **{name: x.astype(rewards.dtype) for name, x in more.items()}}


def baseline(observations: np.ndarray, returns: np.ndarray, mask: np.ndarray, how: str) -> np.ndarray:
    """b_t, (T, N, H): see `rl.returns.fit` for the bias that "same" has."""
    if how == "none":
        return np.zeros_like(returns)
    if how == "same":
        return predicted_returns(fit(observations, returns, mask), observations)
    half, values = returns.shape[1] // 2, np.zeros_like(returns)
    if not half:
        raise ValueError("the baseline of halves wants at least 2 trajectories")
    for mine, others in itertools.permutations((slice(half), slice(half, None))):
        weights = fit(observations[:, others], returns[:, others], mask[:, others])
        values[:, mine] = predicted_returns(weights, observations[:, mine])
    return values


# ── the inner loop ──────────────────────────────────────────────────────────────────────────────────────────────────


def support_loss(policy, theta, batch, settings):
    """(−J(θ; τ), the return of τ): what an inner step descends."""
    logp = policy.logp(theta, batch["observations"], batch["actions"])
    on_scale = {name: batch["scale"] * batch[name] for name in ("rewards", "values")}
    if settings.surrogate in WEIGHTED:
        # π_θ/π_old, which is 1 where the batch is the policy's own
        on_scale["advantages"] = batch["advantages"] * np.exp(stop_gradient(logp) - batch["logp"])
    more = {"decay": settings.loaded_decay} if settings.surrogate == "loaded-dice" else {}
    surrogate = SURROGATES[settings.surrogate]
    value = surrogate(logp, {**batch, **on_scale}, discount=weight(settings), **more)
    return -per_step(batch) * value, total(batch)


def weight(settings: Settings) -> float:
    return settings.discount if settings.weigh else 1.0


def begin(theta, settings):
    """(θ₀, the state of the inner optimiser)."""
    return theta, inner.optimizer(settings).init(theta)


def advance(policy, theta, state, batch, settings, share=1.0):
    """(θₖ₊₁, state) after (θₖ, state), by the trajectories of π_θₖ; `share` multiplies the gradient."""
    path = inner.steps(_loss(policy, settings), theta, itertools.repeat((batch,)), settings, state,
                       _gradient(policy, lambda k: share))  # fmt: skip
    return nth(path, 1)


def adapt(policy, theta, support, settings) -> Iterator:
    """θ₀, θ₁, …, for support = (τ₀, τ₁, …); steps beyond them take the last one again."""
    batches = itertools.chain(support, itertools.repeat(support[-1]))
    gradient = _gradient(policy, lambda k: settings.later if k else 1.0)
    supports = ((batch,) for batch in batches)
    return (theta for theta, _ in inner.steps(_loss(policy, settings), theta, supports, settings, gradient=gradient))


def _loss(policy, settings):
    def loss(theta, batch):
        return support_loss(policy, theta, batch, settings)

    return loss


def _gradient(policy, share):
    def gradient(loss, theta, support, k):
        grads = inner.support_gradient(loss, theta, support, k)
        part = share(k)
        if type(part) is not float or part != 1:
            grads = tree_map(lambda g: part * g, grads)
        return grads | {name: tree_map(np.zeros_like, grads[name]) for name in policy.fixed}

    return gradient


# ── the outer objective ─────────────────────────────────────────────────────────────────────────────────────────────


def of_task(policy, theta, support, query, settings):
    """((−R, R), G): the value is the return after adaptation, for −J′ is 0 whatever the policy does."""

    def loss(theta):
        return query_loss(policy, theta, support, query, settings)

    gained = total(query)
    return (-gained, gained), grad(loss)(theta)


def query_loss(policy, theta, support, query, settings):
    """−J′(θ_K; τ′): what the outer step descends."""
    steps = settings.inner_steps
    *path, adapted = itertools.islice(adapt(policy, theta, support, settings), steps + 1)
    logp, mask = policy.logp(adapted, query["observations"], query["actions"]), query["mask"]
    # r = π_θ_K / π_old
    ratio = np.exp(logp - query["logp"])
    gained = ratio * query["advantages"]
    if settings.outer == "promp":
        clipped = np.clip(ratio, 1 - settings.ratio_clip, 1 + settings.ratio_clip)
        gained = np.minimum(gained, clipped * query["advantages"])
    weights = np.asarray(weight(settings) ** np.arange(mask.shape[-1]), mask.dtype)
    value = mean_over_steps(weights * gained, mask)
    if settings.outer == "promp":
        # − η Σₖ mean KL(π_old,k ‖ π_θₖ)
        for theta_k, batch in zip(path, support, strict=False):
            divergence = policy.kl(batch["outputs"], theta_k, batch["observations"])
            value = value - settings.kl_weight * mean_over_steps(divergence, batch["mask"])
    if settings.surrogate in WITH_SAMPLING_SCORE:
        # + Σₖ Σ_τ log π_θₖ(τₖ) (R(τ′) − R̄), on the scale of the rest
        gain = query["gain"] * query["scale"] * per_step(query)
        for theta_k, batch in zip(path, support, strict=False):
            logp = policy.logp(theta_k, batch["observations"], batch["actions"])
            value = value + sampling_score(logp, batch, gain)
    return -value


def mean_over_steps(x, mask):
    """The mean over the steps that an episode had."""
    return np.sum(np.where(mask > 0, x, 0)) / np.sum(mask)


# ── the outer step ──────────────────────────────────────────────────────────────────────────────────────────────────


def outer(policy, settings, compiled):
    """`take(gradient, update, theta, tasks, state)`, see `algorithms`."""
    if settings.outer == "promp":
        return _several(settings.epochs)
    if settings.outer == "trpo":
        return TrustRegion(policy, settings, compiled)
    return _several(1)


def _several(epochs: int):
    def take(gradient, update, theta, tasks, state):
        results = []
        for _ in range(epochs):
            result, grads = gradient(theta, tasks)
            theta, state = update(theta, grads, state)
            results.append(result)
        return results[0], theta, state

    return take


class TrustRegion:
    """The step of TRPO (Schulman et al., 2015, appendix C) on the meta-objective.

    Args:
        compiled: `compiled(f, gradient=True)` runs f, a function of one task, over tasks: see `algorithms`.
    """

    def __init__(self, policy, settings: Settings, compiled) -> None:
        self.settings = settings
        self.product = compiled(of_fisher(policy, settings), gradient=True)
        self.judged = compiled(of_search(policy, settings), gradient=False)

    def __call__(self, gradient, update, theta, tasks, state):
        settings = self.settings
        result, grads = gradient(theta, tasks)
        uphill = tree_map(np.negative, grads)

        def times(v):
            # (F + cI) v
            return plus(self.product(theta, tasks, v)[1], settings.damping, v)

        x = conjugate_gradients(times, uphill, settings.solver_steps)
        curvature = float(dot(x, times(x)))
        if not curvature > 0:  # there is nothing to gain, or nothing that can be known about it
            return result, theta, state
        # s = √(2δ / xᵀFx) x, the longest step within the region
        length = np.sqrt(2 * settings.trust / curvature)
        before = np.mean(self.judged(theta, tasks)[0])
        for k in range(settings.searches):
            there = plus(theta, float(length * 0.8**k), x)
            loss, divergence = (np.mean(part) for part in self.judged(there, tasks))
            if loss < before and divergence <= settings.trust:
                return result, there, state
        return result, theta, state


def of_fisher(policy, settings):
    """`product(θ, support, query, v)` → (½ vᵀFv, Fv), of one task."""

    def product(theta, support, query, v):
        def divergence(theta):
            return adapted_kl(policy, theta, support, query, settings)

        fv = hvp(divergence, (theta,), v)
        return 0.5 * dot(v, fv), fv

    return product


def of_search(policy, settings):
    """`judged(θ, support, query)` → (−J′, KL(π_old ‖ π_θ_K)), of one task."""

    def judged(theta, support, query):
        divergence = adapted_kl(policy, theta, support, query, settings)
        return query_loss(policy, theta, support, query, settings), divergence

    return judged


def adapted_kl(policy, theta, support, query, settings):
    """mean KL(π_old ‖ π_θ_K) over the states of the query, π_old being the policy that collected it."""
    adapted = nth(adapt(policy, theta, support, settings), settings.inner_steps)
    return mean_over_steps(policy.kl(query["outputs"], adapted, query["observations"]), query["mask"])
