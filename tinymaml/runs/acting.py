"""Tasks that are acted in: their data depend on what is learned, and are collected before a meta-gradient is taken.

    acting = Acting(learner)
    for thetas, batch in acting.path(meta, tasks): ...     θₖ of every task, and what π_θₖ did: k = 0, 1, 2, …
    support, query = acting.collected(meta, tasks)         for `of_task`: the batches of the K inner steps, and the last

Collecting is the family's, an inner step the algorithm's, which is compiled and run for all tasks. Read next: `loop`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from itertools import islice

import numpy as np

from ..nest import Nest, tree_leaves, tree_map
from ..per_task import over_tasks
from ..programs import compile
from .learner import Learner


class Acting:
    """How the policies of a learner act, and adapt by what they have done.

    Args:
        compiled: inner steps run in machine code; by default, as the run's configuration says.
    """

    def __init__(self, learner: Learner, compiled: bool | None = None) -> None:
        self.learner = learner
        policy, settings, advance = learner.loss, learner.settings, learner.algorithm.advance

        def step(meta, now, batch, share, *rate):
            chosen = dataclasses.replace(settings, inner_lr=rate[0]) if rate else settings
            return advance(policy, now["theta"], now["state"], batch, chosen, share)

        f = over_tasks(step)
        compiled = learner.config.outer.compile if compiled is None else compiled
        self.step = compile(f) if compiled else f

    def path(self, meta: Nest, tasks: Nest, *rate: float) -> Iterator[tuple[Nest, dict[str, Nest]]]:
        """(θₖ, batch) for k = 0, 1, 2, …, without end, each with the tasks on axis 0.

        Args:
            rate: the inner rate, in the place of the run's.

        Raises:
            FloatingPointError: a policy cannot act, or its inner step diverged; the task and the step are named.
            ValueError: the environment returned something that does not fit.
        """
        learner, dtype = self.learner, self.learner.dtype
        count = len(tree_leaves(tasks)[0])
        repeated = lambda x: np.repeat(np.asarray(x)[None], count, 0)  # noqa: E731
        theta, state = (tree_map(repeated, part) for part in learner.algorithm.begin(meta, learner.settings))
        rates, k = [np.asarray(x, dtype) for x in rate], 0
        while True:
            batch = learner.collect(theta, tasks, k)
            yield theta, batch
            share = np.asarray(learner.settings.later if k else 1.0, dtype)
            try:
                theta, state = self.step(meta, ({"theta": theta, "state": state}, batch), share, *rates)
            except FloatingPointError as cause:  # an inner step by itself is always its first
                raise FloatingPointError(str(cause).replace("inner step 0", f"inner step {k}", 1)) from None
            k += 1

    def collected(self, meta: Nest, tasks: Nest) -> tuple:
        """(support, query): the batches of θ₀ … θ_{K−1}, and that of θ_K. Without steps, the support is the query."""
        *support, query = [batch for _, batch in islice(self.path(meta, tasks), self.learner.steps + 1)]
        return tuple(support) or (query,), query

    def returns(self, meta: Nest, tasks: Nest, steps: int, *rate: float) -> Iterator[np.ndarray]:
        """The metric of each task, (T,), after 0 … `steps` steps."""
        for _, batch in islice(self.path(meta, tasks, *rate), steps + 1):
            yield self.learner.measure(batch)
