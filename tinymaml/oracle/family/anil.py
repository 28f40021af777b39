"""ANIL (Raghu, Raghu, Bengio and Vinyals, ICLR 2020, arXiv 1909.09157): the head adapts, the body does not.

    θ = (b, h):   h₀ = h,   hₖ₊₁ = hₖ − α ∂L_s(b, hₖ)/∂h,     G = ∂/∂(b, h) of the mean over tasks of L_q(b, h_K)

`case.adapt` names the tensors of the head, the last layer; the answer has the gradient of all tensors. The body's comes
by two ways: from the query's features, and from the support's, on which h_K depends.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from ..mistakes.mistake import Mistake
from . import partial
from .partial import AFTERWARDS, SWITCHES, finish, query_loss  # noqa: F401
from .procedure import PLAIN

FORMULA = "∂L_q(b, h_K)/∂(b, h),   hₖ₊₁ = hₖ − α ∂L_s(b, hₖ)/∂h"
SETTINGS: dict[str, str] = {}


def posed(case, numbers):
    return dataclasses.replace(case, adapt=tuple(case.head()))


def closed_form(case):
    """With two linear layers the head's problem is quadratic, with features f = [x w₁ + b₁, 1]:

    hₖ₊₁ = (I − αH) hₖ + (2α/N) fᵀy,   H = (2/N) fᵀf;   going back, v ← (I − αH) v, and f has the gradient
    −(2α/N) Σₖ [(f v) hₖᵀ + (f hₖ − y) vᵀ].
    """
    if (weights := partial.two_linear_layers(case)) is None:
        return None
    w1, b1, w2, b2 = weights
    values, grads = [], []
    for (x, y), (xq, yq) in case.batches():
        f, fq = (np.concatenate([a @ w1 + b1, np.ones((len(a), 1))], 1) for a in (x, xq))
        heads = [np.concatenate([w2, b2[None]])]
        for _ in range(case.inner_steps):
            heads.append(heads[-1] - case.inner_lr * 2 / len(x) * f.T @ (f @ heads[-1] - y))
        r = fq @ heads[-1] - yq
        values.append(np.mean(r * r))
        v, of_fq, of_f = 2 / len(xq) * fq.T @ r, 2 / len(xq) * r @ heads[-1].T, 0 * f
        for h in reversed(heads[:-1]):
            of_f = of_f - case.inner_lr * 2 / len(x) * (f @ v @ h.T + (f @ h - y) @ v.T)
            v = v - case.inner_lr * 2 / len(x) * f.T @ (f @ v)
        of_f, of_fq = of_f[:, :-1], of_fq[:, :-1]
        grads.append((x.T @ of_f + xq.T @ of_fq, np.sum(of_f, 0) + np.sum(of_fq, 0), v[:-1], v[-1]))
    return np.mean(values), dict(zip(case.params, (np.mean(g, 0) for g in zip(*grads, strict=True)), strict=True))


def by_algorithms(case):
    from ...algorithms import ANIL

    return partial.by_algorithms(case, ANIL)


CASES = partial.CASES
SHARED = PLAIN
MISTAKES = [
    Mistake(
        "anil_all_adapted", "θₖ₊₁ = θₖ − α g_s(θₖ) for all of θ",
        "the body is adapted too: this is MAML",
        "torch.autograd.grad(loss_s, head.values(), create_graph=True), and update the head alone",
        "jax.grad(loss)(head, body, …): the gradient with respect to the head alone",
        ({"adapts": "all"}, {"adapts": "all", "factors": "detached"}),
    ),
    Mistake(
        "anil_body_adapted", "the body adapts, the head does not",
        "the wrong part adapts: this is BOIL",
        "select the head's parameters (case.adapt), not the others",
        "select the head's parameters (case.adapt), not the others",
        ({"adapts": "the others"},),
    ),
    Mistake(
        "anil_head_without_bias", "only the head's weight adapts",
        "the head's bias keeps its value in the inner loop",
        "update every name in case.adapt, the bias too",
        "map the inner update over the whole head",
        ({"adapts": "no biases"}, {"adapts": "no biases", "factors": "detached"}),
    ),
    Mistake(
        "anil_two_layers_adapt", "the last two layers adapt",
        "the cut between body and head is one layer too early",
        "the head is the last layer alone: the names in case.adapt",
        "the head is the last layer alone: the names in case.adapt",
        ({"adapts": "one layer more"},),
    ),
    Mistake(
        "anil_support_features_detached", "∂h_K/∂b = 0",
        "the support's features were computed without a graph: the body learns from the query's features only",
        "features = body(xs) outside torch.no_grad(), and without .detach()",
        "no stop_gradient on the support's features",
        ({"others in support": "detached"},), "features cached once per task",
    ),
    Mistake(
        "anil_query_features_detached", "∂L_q/∂b by h_K alone",
        "the query's features were computed without a graph: the body learns from the support's features only",
        "features = body(xq) outside torch.no_grad(), and without .detach()",
        "no stop_gradient on the query's features",
        ({"others in query": "detached"},),
    ),
    Mistake(
        "anil_body_not_learned", "∂/∂b = 0",
        "the body gets no gradient: its features are constants, or its parameters are not differentiated",
        "the outer gradient is with respect to all parameters; no frozen feature extractor",
        "differentiate with respect to body and head",
        ({"not learned": "the others"}, {"others in support": "detached", "others in query": "detached"}),
    ),
    Mistake(
        "anil_head_not_learned", "∂/∂h = 0",
        "the head's start gets no gradient: it was copied (clone().detach(), deepcopy) at the start of each task",
        "h₀ is the learned head itself: head = dict(params), not copy.deepcopy(head)",
        "start from the head that is differentiated; no stop_gradient on it",
        ({"start": "detached"}, {"not learned": "what adapts"}),
    ),
    Mistake(
        "anil_head_from_zero", "h₀ = 0",
        "each task begins with a head of zeros: in ANIL the head's start is learned",
        "h₀ = the head in params, not torch.zeros or a fresh nn.Linear",
        "h₀ = the head in params, not jnp.zeros",
        ({"start": "zero"},), "some re-implementations reset the head",
    ),
    Mistake(
        "anil_copied_weights", "∂ℓ/∂o(θ_K) · ∂o(θ)/∂θ",
        "the adapted values were copied into the model for the query's forward pass and taken away again before "
        "backward(): a gradient that is neither MAML's nor FOMAML's",
        "torch.func.functional_call(model, {**params, **head}, (xq,)); no load_state_dict in a task",
        "pass the adapted weights as an argument; do not write them into arrays that are restored",
        ({"backward": "weights of start"},), "MeLU #9",
    ),
    Mistake(
        "anil_head_at_first_order", "∂/∂h = ∂L_q/∂h_K",
        "the head has the query gradient at its adapted values, without the derivative through the inner steps; that "
        "of the body is right",
        "differentiate with respect to the head before the inner loop, not to the adapted one",
        "differentiate with respect to the head that the scan starts from",
        ({"start": "first order"},), classic=False,
    ),
    *partial.slips("anil", "head", "body"),
]  # fmt: skip
