"""CAVIA (Zintgraf et al., 2019, arXiv 1810.03642): only a context adapts, a few further inputs of the network.

    φ₀ = 0,   φₖ₊₁ = φₖ − α ∂L_s(φₖ, θ)/∂φ
    G = dL_q(φ_K, θ)/dθ, also through φ_K, which depends on θ        (algorithm 1)

φ is a leaf of what is learned, beside the network's θ; but it is 0 at the start of each task, and its gradient is 0.
The original code for sine waves has d = 5, K = 1, α = 1, 25 tasks, 10 + 10 points, and clamps each element of each
task's gradient to ±10, as `--context-clamp 10` does; it takes the model that was best in validation.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from ..nest import tree_map
from ..runs.settings import option
from . import inner
from .inner import descend, through

exact = True
init = inner.init
defaults = {"inner_lr": 1.0}


@dataclass(frozen=True)
class Settings(inner.Settings):
    context: int = option(5, "d, numbers in the context, which are further inputs of the network", least=1)
    context_clamp: float = option(0.0, "each task's meta-gradient is clipped to ± this; 0: off", least=0)


def network(make, input_shape, settings):
    """The network that reads φ beside x: its parameters are {"network": θ, "context": φ}.

    φ follows the last axis of x: as further inputs, or as further channels, each with the same value at every pixel. If
    x is words with weights, φ follows their features.
    """
    plain = make((*input_shape[:-1], input_shape[-1] + settings.context))

    def init(rng, dtype):
        return {"network": plain.init(rng, dtype), "context": np.zeros(settings.context, dtype)}

    def apply(params, x, *norm):
        words = isinstance(x, dict)
        inputs = x.get("features") if words else x
        shape = (x["ids"] if words else x).shape[:-1]
        context = np.broadcast_to(params["context"], (*shape, settings.context))
        inputs = context if inputs is None else np.concatenate([inputs, context], -1)
        return plain.apply(params["network"], {**x, "features": inputs} if words else inputs, *norm)

    return dataclasses.replace(plain, init=init, apply=apply, body=None, head=None, last=())


def adapt(loss, theta, support, settings):
    zero = np.zeros(theta["context"].shape, theta["context"].dtype)

    def context_loss(context, x, y):
        return loss({**theta, "context": context}, x, y)

    for context in descend(context_loss, zero, support, settings):
        yield {**theta, "context": context}


def of_task(loss, theta, support, query, settings):
    value, gradient = through(adapt)(loss, theta, support, query, settings)
    if bound := settings.context_clamp:
        gradient = tree_map(lambda g: np.clip(g, -bound, bound), gradient)
    return value, gradient
