"""A rung that shares nothing with the procedures here but the loss: `tinymaml.algorithms`, on a case."""

from __future__ import annotations

from typing import Any

from ...nest import tree_map
from ..models import NumPy, loss_in


def averaged_over_tasks(case, algorithm: Any, meta, settings, loss=None, *shared) -> tuple:
    """(𝓛, G), G shaped like `meta`, by `algorithm.of_task`.

    Args:
        loss: `loss(theta, x, y)` → (scalar, aux); by default the case's.   shared: what `of_task` takes beside it.
    """
    of_case = loss_in(NumPy(), case.model)
    loss = loss or (lambda theta, x, y: (of_case(theta, x, y), None))
    done = [algorithm.of_task(loss, meta, *task, settings, *shared) for task in case.batches()]
    values, grads = zip(*[(value, g) for (value, _), g in done], strict=True)
    return float(sum(values)) / case.tasks, tree_map(lambda *g: sum(g) / case.tasks, *grads)


def of_theta(case, algorithm: Any, **settings) -> tuple:
    """(𝓛, G) by an algorithm that learns θ alone, with the case's K and α and further settings."""
    given = algorithm.Settings(inner_steps=case.inner_steps, inner_lr=case.inner_lr, **settings)
    return averaged_over_tasks(case, algorithm, case.params, given)
