"""Joint training: one network for all tasks together, the baseline that Finn et al. (2017) call "pretrained".

    G = ∇_θ [(n_s L_s(θ) + n_q L_q(θ)) / (n_s + n_q)]       the loss of both sets, weighted by their examples

For a loss that is a mean over examples, that is the loss of the two sets put together. (Batch norm takes its statistics
of each set apart, as it does when θ adapts.) Nothing adapts in training. A new task is fine-tuned like MAML's, at the
rate that is best on validation tasks ("an automatically tuned step size", section 5.1).
"""

from __future__ import annotations

from ..engine import value_and_grad
from ..families.common import count
from .inner import Settings, init  # noqa: F401
from .inner import descend as adapt  # noqa: F401

tuned = True


def of_task(loss, theta, support, query, settings):
    (_, ys), (_, yq) = support, query
    ns, nq = count(ys), count(yq)

    def both(theta):
        value, aux = loss(theta, *query)
        return (ns * loss(theta, *support)[0] + nq * value) / (ns + nq), aux

    return value_and_grad(both, has_aux=True)(theta)
