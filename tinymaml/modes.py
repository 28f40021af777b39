"""The two modes in which tensors are made in another way: while a program is recorded, and in a complex step.

`engine` gives these names on, and most files import them from there.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # operators are attached by `primitives`, `ops` and `numpy_api`, out of a type checker's sight
    from typing import Any as HasOperators
else:
    HasOperators = object

# While a program is recorded, this is its recording, which makes all tensors in its own way (see `programs.tracing`).
evaluation: ContextVar[Any] = ContextVar("evaluation", default=None)
recorded: set[type] = set()  # the classes of the tensors that a recording makes
# True in a complex step (see `check`): a complex number is then a real one that carries a derivative as imaginary part.
analytic: ContextVar[bool] = ContextVar("analytic", default=False)


def current_recording():
    """The recording that goes on.

    Raises:
        TypeError: there is none, so a tensor of a recording has outlived it.
    """
    if (recording := evaluation.get()) is None:
        raise TypeError("a value that a recording has made is used after it or in another thread")
    return recording


def refusal(error: Exception) -> Exception:
    """The error itself, marked as ours, to be raised. A recording notes it, since a run might not meet it."""
    if (recording := evaluation.get()) is not None:
        recording.refused.append(error)
    error.refused = True  # type: ignore
    return error


def stands_for_real(*xs) -> bool:
    """Whether one of them is complex and stands for a real number, as in a complex step."""
    return analytic.get() and any(map(np.iscomplexobj, xs))


def ordered(x):
    """The numbers that give the order of x: x itself, or its real part if x stands for real numbers."""
    return np.real(x) if stands_for_real(x) else x
