"""The catalogue's second half, by what goes wrong.

    digits       numbers with too few digits             losses    the loss
    derivative   the derivative through the inner loop   layers    the layers
    adjoint      what goes back through it               rules     the backward rules of layers
    inner        the steps of the inner loop             outer     the sum over tasks, and its gradient
    examples     tasks and data                          forms     what many of them share

These stand apart from the classic mistakes of MAML because there are so many: a case need not tell each of them from
right in every dtype, and several hold a number that the diagnosis solves for.
"""

from ..mistake import Mistake
from . import adjoint, derivative, digits, examples, inner, layers, losses, outer, rules

FURTHER: list[Mistake] = [
    mistake
    for part in (digits, derivative, adjoint, inner, examples, losses, layers, rules, outer)
    for mistake in part.MISTAKES
]
