"""Joint training: one network for all tasks together, the baseline that Finn et al. (2017) call "pretrained".

    G = ∇_θ [(n_s L_s(θ) + n_q L_q(θ)) / (n_s + n_q)]       the loss of both sets, weighted by their examples

For a loss that is a mean over examples, that is the loss of the two sets put together. (Batch norm takes its statistics
of each set apart, as it does when θ adapts.) Nothing adapts in training. A new task is fine-tuned like MAML's, at the
rate that is best on validation tasks ("an automatically tuned step size", section 5.1).

With `new_head`, a new task begins with a head of zeros: so a network is adapted that was pretrained as a classifier of
all training classes (`--labels class`), whose head knows none of the new ones. Its body is kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..engine import value_and_grad
from ..families.common import count
from ..nest import tree_map
from ..runs.settings import option
from . import inner
from .inner import descend, init  # noqa: F401
from .partial import cut

tuned = True


@dataclass(frozen=True)
class Settings(inner.Settings):
    new_head: bool = option(False, "adaptation begins with a head of zeros")


def adapt(loss, theta, support, settings):
    if settings.new_head:
        *_, last = cut(loss, theta)
        theta = {**theta, **{name: tree_map(np.zeros_like, theta[name]) for name in last}}
    return descend(loss, theta, support, settings)


def check(network, settings):
    if settings.new_head and not network.last:
        raise ValueError("joint with new_head wants a network that is cut into body and head")


def of_task(loss, theta, support, query, settings):
    (_, ys), (_, yq) = support, query
    ns, nq = count(ys), count(yq)

    def both(theta):
        value, aux = loss(theta, *query)
        return (ns * loss(theta, *support)[0] + nq * value) / (ns + nq), aux

    return value_and_grad(both, has_aux=True)(theta)
