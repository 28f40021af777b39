"""Mistakes of every algorithm of the family that goes back through its inner loop; MAML's formula cannot make them.

Their forms set the switches of `procedure`.
"""

from __future__ import annotations

from ..mistakes.mistake import Mistake


def possible(module, case) -> list[Mistake]:
    """Those that one could make on a case: where several tensors adapt, and are gone back through."""
    if len(case.params) == 1 or not hasattr(module, "query_loss"):
        return []
    return [mistake for mistake in MISTAKES if mistake.id not in getattr(module, "NOT_HERE", ())]


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
]  # fmt: skip
