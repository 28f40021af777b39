"""BOIL (Oh, Yoo, Kim and Yun, ICLR 2021, arXiv 2008.08882): the body adapts, the head does not.

    θ = (b, h):   b₀ = b,   bₖ₊₁ = bₖ − α ∂L_s(bₖ, h)/∂b,     G = ∂/∂(b, h) of the mean over tasks of L_q(b_K, h)

`case.adapt` names the tensors of the body, all but the last layer's; the answer has the gradient of all tensors. The
head's comes by two ways: from the query loss, and from b_K, which depends on it.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from ..mistakes.mistake import Mistake
from . import partial
from .partial import AFTERWARDS, SWITCHES, finish, query_loss  # noqa: F401
from .procedure import PLAIN

FORMULA = "∂L_q(b_K, h)/∂(b, h),   bₖ₊₁ = bₖ − α ∂L_s(bₖ, h)/∂b"
SETTINGS: dict[str, str] = {}


def posed(case, numbers):
    return dataclasses.replace(case, adapt=tuple(n for n in case.params if n not in case.head()))


def closed_form(case):
    """With two linear layers the body's problem is quadratic. With r = o − y and a direction u = αv of (w₁, b₁),
    t = (x u_w + u_b) w₂ is the change of o, and ⟨u, g_s⟩ = (2/N) Σ r t; its derivatives are written out below."""
    if (weights := partial.two_linear_layers(case)) is None:
        return None
    w1, b1, w2, b2 = weights
    values, grads = [], []
    for (x, y), (xq, yq) in case.batches():
        path = [(w1, b1)]
        residual = lambda x, y, w, b: (x @ w + b) @ w2 + b2 - y  # noqa: E731
        for _ in range(case.inner_steps):
            w, b = path[-1]
            r = 2 / len(x) * residual(x, y, w, b)
            path.append((w - case.inner_lr * x.T @ r @ w2.T, b - case.inner_lr * np.sum(r @ w2.T, 0)))
        w, b = path[-1]
        r = residual(xq, yq, w, b)
        values.append(np.mean(r * r))
        r = 2 / len(xq) * r
        v_w, v_b, of_w2, of_b2 = xq.T @ r @ w2.T, np.sum(r @ w2.T, 0), (xq @ w + b).T @ r, np.sum(r, 0)
        for w, b in reversed(path[:-1]):
            u_w, u_b = case.inner_lr * v_w, case.inner_lr * v_b
            r, t = 2 / len(x) * residual(x, y, w, b), 2 / len(x) * (x @ u_w + u_b) @ w2
            of_w2 = of_w2 - (x @ w + b).T @ t - (x @ u_w + u_b).T @ r
            of_b2 = of_b2 - np.sum(t, 0)
            v_w, v_b = v_w - x.T @ t @ w2.T, v_b - np.sum(t @ w2.T, 0)
        grads.append((v_w, v_b, of_w2, of_b2))
    return np.mean(values), dict(zip(case.params, (np.mean(g, 0) for g in zip(*grads, strict=True)), strict=True))


def by_algorithms(case):
    from ...algorithms import BOIL

    return partial.by_algorithms(case, BOIL)


CASES = partial.CASES
SHARED = PLAIN
MISTAKES = [
    Mistake(
        "boil_all_adapted", "θₖ₊₁ = θₖ − α g_s(θₖ) for all of θ",
        "the head is adapted too: this is MAML",
        "update the names in case.adapt alone; the head's inner rate is 0",
        "update the names in case.adapt alone",
        ({"adapts": "all"}, {"adapts": "all", "factors": "detached"}),
    ),
    Mistake(
        "boil_head_adapted", "the head adapts, the body does not",
        "the wrong part adapts: this is ANIL",
        "select the body's parameters (case.adapt), not the head's",
        "select the body's parameters (case.adapt), not the head's",
        ({"adapts": "the others"},),
    ),
    Mistake(
        "boil_biases_not_adapted", "the body's biases keep their values",
        "the body's biases are left out of the inner update",
        "update every name in case.adapt, biases too",
        "map the inner update over the whole body, biases included",
        ({"adapts": "no biases"}, {"adapts": "no biases", "factors": "detached"}),
    ),
    Mistake(
        "boil_one_layer_missing", "one layer of the body does not adapt",
        "the body's first layer keeps its values in the inner loop: the cut is not only at the head",
        "everything but the last layer adapts: the names in case.adapt",
        "everything but the last layer adapts: the names in case.adapt",
        ({"adapts": "one layer less"},),
    ),
    Mistake(
        "boil_head_detached_inside", "∂b_K/∂h = 0",
        "the head was a constant in the inner loop: the derivative of the inner gradient with respect to it is missing",
        "do not set head.requires_grad = False, nor detach it, in the inner loop: its rate is 0, its derivative is not",
        "no stop_gradient on the head in the support loss",
        ({"others in support": "detached"},), "freezing by requires_grad",
    ),
    Mistake(
        "boil_head_detached_in_query", "∂L_q/∂h by b_K alone",
        "the head was a constant in the query loss: it learns through the adaptation only",
        "the query loss uses the head of params itself",
        "no stop_gradient on the head in the query loss",
        ({"others in query": "detached"},),
    ),
    Mistake(
        "boil_head_not_learned", "∂/∂h = 0",
        "the head gets no gradient: it does not adapt, but it is learned in the outer loop",
        "the outer gradient is with respect to all parameters, the head too",
        "differentiate with respect to body and head",
        ({"not learned": "the others"}, {"others in support": "detached", "others in query": "detached"}),
    ),
    Mistake(
        "boil_body_not_learned", "∂/∂b = 0",
        "the body's start gets no gradient: it was copied (clone().detach(), deepcopy) at the start of each task",
        "b₀ is the learned body itself: fast = dict(params), not copy.deepcopy(model)",
        "start from the body that is differentiated; no stop_gradient on it",
        ({"start": "detached"}, {"not learned": "what adapts"}),
    ),
    Mistake(
        "boil_body_from_zero", "b₀ = 0",
        "each task begins with a body of zeros: the body's start is learned",
        "b₀ = the body in params",
        "b₀ = the body in params",
        ({"start": "zero"},),
    ),
    Mistake(
        "boil_copied_weights", "∂ℓ/∂o(θ_K) · ∂o(θ)/∂θ",
        "the adapted values were copied into the model for the query's forward pass and taken away again before "
        "backward(): a gradient as if at θ",
        "torch.func.functional_call(model, {**params, **body}, (xq,)); no load_state_dict in a task",
        "pass the adapted weights as an argument; do not write them into arrays that are restored",
        ({"backward": "weights of start"},), "MeLU #9",
    ),
    Mistake(
        "boil_body_at_first_order", "∂/∂b = ∂L_q/∂b_K",
        "the body has the query gradient at its adapted values, without the derivative through the inner steps; that "
        "of the head is right",
        "differentiate with respect to the body before the inner loop, not to the adapted one",
        "differentiate with respect to the body that the scan starts from",
        ({"start": "first order"},), classic=False,
    ),
    *partial.slips("boil", "body", "head"),
]  # fmt: skip
