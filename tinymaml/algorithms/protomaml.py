"""ProtoMAML (Triantafillou et al., 2020, "Meta-Dataset", arXiv 1903.03096, section 3): a head that starts at centroids.

    c_k = mean of the body's features of the support examples with the label k
    w_k = 2 c_k,   b_k = −‖c_k‖²                                        (equation 5)
    θ₀ = (body, w, b),   θₖ₊₁ = θₖ − α ∇L_s(θₖ)

The logit w_k·f + b_k is ‖f‖² − ‖f − c_k‖²: before any step it classifies as a prototypical network does (Snell, Swersky
and Zemel, 2017). The gradient goes through the centroids, too. The network's own head is not used, and its gradient is
zero; so it may have another number of classes in evaluation. A class that the support lacks starts at w = 0, b = 0.

With `--adapts head` the body is computed once, as in ANIL, and the steps move the head alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..ops import in_dtype
from ..runs.settings import option
from . import inner
from .inner import descend, init, through  # noqa: F401

exact = classes = True


@dataclass(frozen=True)
class Settings(inner.Settings):
    adapts: str = option("all", "what the inner steps move: the whole network, or its head", choices=("all", "head"))


def first_head(features, labels, ways):
    """The head {"w": (d, ways), "b": (ways,)} of features (N, d) and labels (N,)."""
    of_class = in_dtype(np.equal(labels[:, None], np.arange(ways)), features.dtype)  # (N, ways)
    # c_k = Σᵢ [yᵢ = k] fᵢ / max(Σᵢ [yᵢ = k], 1)
    centroids = np.transpose(of_class) @ features / np.maximum(np.sum(of_class, 0), 1)[:, None]
    return {"w": 2 * np.transpose(centroids), "b": -np.sum(centroids**2, 1)}


def adapt(loss, theta, support, settings):
    x, y = support
    (last,) = loss.last
    features = loss.body(theta, x)
    head = first_head(features, y, theta[last]["w"].shape[-1])
    if settings.adapts == "all":
        yield from descend(loss, {**theta, last: head}, support, settings)

    def head_loss(head, features, y):
        return loss.head({**theta, last: head}, features, y)

    for moved in descend(head_loss, head, (features, y), settings):
        yield {**theta, last: moved}


of_task = through(adapt)


def check(network, settings):
    if network.body is None or len(network.last) != 1:
        raise ValueError("protomaml starts the head at centroids: it wants a network that is cut before its last layer")
