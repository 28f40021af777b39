"""Mistakes of every algorithm of the family, which MAML's classic ones do not have, or under another name.

Their forms set the switches of `procedure`.
"""

from __future__ import annotations

from ..mistakes.mistake import Mistake
from .procedure import SWITCHES


def possible(module) -> list[Mistake]:
    """Those that one could make in an algorithm, if its forms can be made there."""
    return [mistake for mistake in MISTAKES if mistake.id not in getattr(module, "NOT_HERE", ())]


DETACHED = {"factors": "detached"}
LEFT = SWITCHES["left"][1:]
MISTAKES = [
    Mistake(
        "one_tensor_after_the_other_and_through_it",
        "θₖ₊₁ of tensor i with dL_s/dθₖ at θₖ₊₁ of the tensors before it, which depend on θₖ, too",
        "parameters are updated one after the other, each with its own autograd.grad: a gradient sees those before it "
        "updated, and goes back through these updates, too",
        "one torch.autograd.grad for all parameters at θₖ, then update all of them",
        "one jax.grad for the whole tree at θₖ, then update all of it",
        ({"inner": "one tensor after the other, with its graph"},), classic=False,
    ),
    Mistake(
        "inner_gradient_left_in_grad", "G + g_s(θ), G + g_s(θ_{K−1}), or G + Σₖ g_s(θₖ)",
        "backward() in the inner loop leaves a support gradient in .grad, and the query's backward() adds to it",
        "torch.autograd.grad in the inner loop, or zero_grad() before the query's backward()",
        "one jax.grad of the whole task; nothing is added to what it returns",
        tuple({"left": left} | cut for left in LEFT for cut in ({}, DETACHED)), shows="left", classic=False,
    ),
    Mistake(
        "inner_loop_of_one_group", "θₖ₊₁ = θₖ − α g_s(θₖ) for one group of the tensors, the others as they were",
        "only some tensors adapt: the head, the body, or all but the biases",
        "update every name in the inner loop", "map the inner update over the whole tree",
        tuple({"adapts": group} | cut for group in ("head", "body", "no biases") for cut in ({}, DETACHED)),
        shows="adapts", classic=False,
    ),
    Mistake(
        "inner_hessian_sign", "v + Hₖ A v",
        "the derivative of the inner gradient has the wrong sign",
        "v - lr * hvp(v): a minus, as in the inner step", "v - lr * hvp(v): a minus, as in the inner step",
        ({"hessian_times": -1.0},), classic=False,
    ),
    Mistake(
        "inner_hessian_of_another_point", "v − H(θ′) A v with another θ′ or another loss than step k's",
        "the second derivatives are not those of the step itself: they are taken at θ or at the adapted weights for "
        "all steps (the closures of the backward pass are bound late), in the order of the inner loop, or of the query "
        "loss",
        "keep θₖ of each inner step, and take its Hessian-vector product there, of loss(·, xs, ys)",
        "stack θₖ in the scan, and take each Hessian-vector product there, of the support loss",
        tuple({"factors": at} for at in ("at end", "at start", "reversed", "of query", "of query at end")),
        shows="factors", classic=False,
    ),
    Mistake(
        "inner_diagonal_hessian", "v − diag(Hₖ) A v",
        "only the second derivatives of each parameter by itself are there, and not those between two parameters",
        "a Hessian-vector product, not elementwise second derivatives",
        "jax.jvp(jax.grad(loss), (theta,), (v,))[1], not elementwise second derivatives",
        ({"curvature": "diagonal"},), classic=False,
    ),
    Mistake(
        "inner_steps_in_the_middle_detached", "Hₖ = 0 for 0 < k < K − 1",
        "of the inner steps, only the first and the last are differentiated",
        "create_graph=True in every inner step", "no stop_gradient in the scan",
        ({"factors": "middle detached"},), classic=False,
    ),
    Mistake(
        "task_begins_where_another_ended", "∂L_q(θ_K)/∂θ₀ at θ₀ = θ_K of the task before",
        "a task starts from the weights that the one before has left, as parameters that are changed in place, and its "
        "gradient is taken with respect to these",
        "load the parameters again before each task", "each task's inner loop starts from theta itself",
        tuple({"start": "leaked, in place", "start_of": of} | cut
              for of in ("all", "head", "body", "biases", "no biases") for cut in ({}, DETACHED)),
        shows="start_of", classic=False,
    ),
    Mistake(
        "query_loss_over_examples", "L_q/N",
        "the query loss is a mean, and is divided by the number of examples once more",
        "loss(fast, xq, yq), without / len(xq)", "loss(adapted, xq, yq), without / len(xq)",
        ({"query loss": "over examples"}, {"query loss": "over examples"} | DETACHED), classic=False,
    ),
]  # fmt: skip
