"""HF-MAML (Fallah, Mokhtari and Ozdaglar, AISTATS 2020, arXiv 1908.10400): differences of gradients for Hessians.

    G = v − α [g_s(θ + εv) − g_s(θ − εv)] / 2ε,   v = g_q(θ′)        (algorithm 3, for one inner step)

For K steps, v ← v − αHₖv is done for each, from the last to the first. The error falls as δ², until rounding takes
over, which grows as 1/δ. The paper multiplies v by δ, and its analysis takes that δ in proportion to 1/‖v‖. Here δ is
the length of the displacement, ε = δ/‖v‖, so that one δ serves gradients of any size. For networks with ReLU take a
large one: a kink between the two points adds the jump of the gradient over 2ε, which is right on average, but rare and
huge for a small δ. On sine waves, after 3000 meta-iterations, δ from 0.01 to 0.3 is as good as MAML, 0.001 is not.
The inner loop is SGD; for other optimisers HF-MAML is not defined.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from ..engine import value_and_grad
from ..runs.settings import option
from . import inner
from .inner import descend, dot, init, plus, support_gradient  # noqa: F401


@dataclass(frozen=True)
class Settings(inner.Steps):
    delta: float = option(0.1, "δ, length of the displacement of θ in the differences of gradients", least=1e-12)


def adapt(loss, theta, support, settings):
    return descend(loss, theta, support, inner.Settings(inner_lr=settings.inner_lr))


def of_task(loss, theta, support, query, settings):
    *thetas, adapted = itertools.islice(adapt(loss, theta, support, settings), settings.inner_steps + 1)
    value, v = value_and_grad(loss, has_aux=True)(adapted, *query)
    for k, theta in reversed(list(enumerate(thetas))):
        # v ← v − α [g_s(θₖ + εv) − g_s(θₖ − εv)] / 2ε
        e = settings.delta / np.maximum(np.sqrt(dot(v, v)), 1e-12)  # where v is 0, so is the difference
        above = support_gradient(loss, plus(theta, e, v), support, k)
        below = support_gradient(loss, plus(theta, -e, v), support, k)
        v = plus(v, -settings.inner_lr / (2 * e), plus(above, -1, below))
    return value, v
