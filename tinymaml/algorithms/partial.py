"""ANIL and BOIL: a part of the network adapts, and the outer gradient is exact, over all of it.

    ANIL    (Raghu, Raghu, Bengio and Vinyals, 2020, arXiv 1909.09157)    the head adapts, the body does not
    BOIL    (Oh, Yoo, Kim and Yun, 2021, arXiv 2008.08882)                the body adapts, the head does not

Gradients that are not needed are not computed: ANIL's body runs once on the support set and once on the query set,
whatever K is. (The code of BOIL sets the head's rate to 0, and computes the head's gradients still.)
"""

from __future__ import annotations

from types import SimpleNamespace

from .inner import Settings, descend, init, through


def cut(loss, theta):
    """The body and the head of a loss, and the keys of θ that the head reads.

    A plain function is not cut: its head is the last key, and all of it runs in each step.
    """
    if getattr(loss, "body", None):
        return loss.body, loss.head, loss.last
    return (lambda theta, x: x), loss, tuple(theta)[-1:]


def adapt_head(loss, theta, support, settings, gradient=None):
    x, y = support
    run_body, run_head, last = cut(loss, theta)
    features = run_body(theta, x)
    first = {name: theta[name] for name in last}

    def head_loss(head, features, y):
        return run_head({**theta, **head}, features, y)

    for head in descend(head_loss, first, (features, y), settings, gradient):
        yield {**theta, **head}


def adapt_body(loss, theta, support, settings):
    *_, last = cut(loss, theta)
    first = {name: layer for name, layer in theta.items() if name not in last}

    def body_loss(body, x, y):
        return loss({**theta, **body}, x, y)

    for body in descend(body_loss, first, support, settings):
        yield {**theta, **body}


def check(network, settings):
    if network.body is None or network.head is None or not network.last:
        raise ValueError("anil and boil adapt the head or the body: they want a network that is cut into the two")


ANIL = SimpleNamespace(
    Settings=Settings, init=init, adapt=adapt_head, of_task=through(adapt_head), check=check, exact=True
)
BOIL = SimpleNamespace(
    Settings=Settings, init=init, adapt=adapt_body, of_task=through(adapt_body), check=check, exact=True
)
