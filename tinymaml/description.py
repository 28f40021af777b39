"""A description: what programs know about a primitive, said where the primitive is defined.

    tanh = elementwise("tanh", np.tanh, lambda g, z, x: g * (1 - z * z), loop="math.tanh({})")

is all that is needed to differentiate tanh, to record it, and to compile it. The engine reads no description: without
one, a primitive is differentiated like any other, and a program that contains it is replayed in NumPy. To add a
primitive, define it in the file of its subject in `numpy_api` and give it a case in `tests/cases_….py`; if it has a
kernel of its own, write that in `kernels` (NumPy) and `programs.machine`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Description:
    """The keyword arguments of `Primitive` after `vjp`.

    Attributes:
        elementwise: each element of the output is made of one element of each input, which broadcast.

        shape: `shape(*shapes of the inputs, **params)` → the shape of the output, None where the inputs do not fit, so
            that NumPy raises its error. Without `shape`, a recording calls the primitive on arrays that are one number
            in memory: for views this costs nothing. Elementwise primitives need no `shape`.
        dtype: `dtype(*dtypes of the inputs)` → the dtype of the output; without it, the dtype of the first input.

        lowering: how machine code computes it. "loop": in a fused loop, as all elementwise primitives are; "kernel": by
            the kernel that `forward` is, see `kernels`; any other name: by the function of `programs.lowering` that is
            registered under it. "replayed": not at all, and None: nothing has been said; in both cases a program that
            contains it is replayed.
        loop: the expression on one element of each input, as Numba source: "{} + {}". In it, {type} is the dtype of
            the output, and other names are parameters of the primitive, as numbers of that dtype. An expression that
            Numba would widen to float64 names its type: "{type}(np.floor({}))".
        of_integers, of_truths: the expression for integer and boolean outputs, where it is another.
        computed_in: the dtype to which the inputs are converted first. "output": the output's; "common": the inputs'
            common dtype; "own": each keeps its own; "choice": the first is a boolean, the others have the output's.
        cheap: where a loop wants the value, computing it again costs less than storing and loading it.

        exact: the output is not rounded; its elements are those of the inputs, or whole numbers.
        adds_up: the output is a sum, which is as exact as its largest summand.
        decides: where rounding may change the output by more than rounding. "comparison": where two inputs are nearly
            equal; "largest": where two elements over the parameter `axis` are nearly the largest; "choice": anywhere;
            a function: where x is near `decides(x)`, the nearest point at which the output, or its slope, jumps.
    """

    elementwise: bool = False
    shape: Callable | None = None
    dtype: Callable | None = None
    lowering: str | None = None
    loop: str | None = None
    of_integers: str | None = None
    of_truths: str | None = None
    computed_in: str = "output"
    cheap: bool = False
    exact: bool = False
    adds_up: bool = False
    decides: str | Callable | None = None
