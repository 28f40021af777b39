"""Meta-SGD (Li, Zhou, Chen and Li, 2017, arXiv 1707.09835): a rate for every element of θ, learned with it.

    θₖ₊₁ = θₖ − α ∘ g_s(θₖ),   (θ, α) by the outer loop            (algorithm 1, where K = 1)
    K = 1:   ∂L_q(θ′)/∂α = −g_s ∘ g_q(θ′),   ∂L_q(θ′)/∂θ = g_q(θ′) − H_s (α ∘ g_q(θ′))

α is not bounded, and may become negative. The paper says that α is random at the start; implementations draw one value
from U[0.005, 0.1] for all elements, or one for each, or take a constant. Here it is `inner_lr` everywhere, or with
`--alpha uniform` one value per element from U[alpha_low, alpha_high], by a generator seeded with `alpha_seed`.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from ..nest import tree_map
from ..numpy_api import as_array
from ..runs.settings import option
from .inner import Steps, support_gradient, through

exact = True


@dataclass(frozen=True)
class Settings(Steps):
    alpha: str = option("constant", "α at the start: inner_lr, or uniform", choices=("constant", "uniform"))
    alpha_low: float = option(0.005, "the least α at the start, if uniform", least=0, where={"alpha": ("uniform",)})
    alpha_high: float = option(0.1, "the greatest α at the start, if uniform", least=0, where={"alpha": ("uniform",)})
    alpha_seed: int = option(0, "seed of α at the start, if uniform", least=0, where={"alpha": ("uniform",)})


def init(theta, settings):
    rng = np.random.default_rng(settings.alpha_seed)

    def rate(p):
        if settings.alpha == "constant":
            return np.full_like(p, settings.inner_lr)
        return np.asarray(rng.uniform(settings.alpha_low, settings.alpha_high, p.shape), p.dtype)

    return {"theta": theta, "alpha": tree_map(rate, theta)}


def adapt(loss, meta, support, settings):
    theta = meta["theta"]
    for k in itertools.count():
        yield theta
        # θₖ₊₁ = θₖ − α ∘ g_s(θₖ)
        grads = support_gradient(loss, theta, support, k)
        theta = tree_map(lambda p, a, g: as_array(p - a * g), theta, meta["alpha"], grads)


of_task = through(adapt)
