"""A trained model, to be used: it adapts to a support set, and predicts.

    model = tm.load("runs/omniglot")                    # its images are not needed
    adapted = model.adapt(x, y)                         # x (N, 28, 28, 1), y (N,): one task's support set
    adapted.predict(queries).argmax(-1)                 # logits (M, ways) → the class of each query
    adapted.save("adapted.npz")                         # the parameters, for NumPy alone

It adapts as its algorithm adapts, and evaluation has no other way. Read next: `predictions`.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays import unchanging
from ..blas import libraries, one_thread
from ..extras import require
from ..files import atomic_write
from ..inputs import check_arrays
from ..nest import Nest, tree_items, tree_leaves, tree_map
from .learner import Learner
from .loop import Learned, restore
from .settings import Config
from .sizes import figure
from .trial import converted, is_binary, usual, ways

MOST = 99_999_999  # steps of adaptation


def load(path: str | os.PathLike, iteration: int | None = None, data: str | os.PathLike | None = None) -> Model:
    """Load the model that the run in the folder `path` has learned.

    Args:
        iteration: after how many meta-iterations, by default at the newest checkpoint; 0: before training.
        data: where the run's data lies now. Built-in families need none of it here.

    Raises:
        ValueError, OSError: no such run or checkpoint, or one that does not fit; the run has no option `data`.
    """
    return Model(restore(path, iteration, **({"data": str(data)} if data else {})))


class Model:
    """A learned model. It never changes.

    Attributes:
        params: what the outer loop learned: θ, or a nest that holds it. Read-only arrays.
        config: the run's configuration, `runs.settings.Config`.   learner: its parts, joined.
        iteration: after how many meta-iterations.
        steps: K, the inner steps of training.
    """

    params: Nest
    config: Config
    learner: Learner
    iteration: int
    steps: int

    def __init__(self, learned: Learned):
        self.config, self.learner, self.iteration = learned.config, learned.learner, learned.iteration
        if self.learner.acts:
            seen = f"{self.config.family.name} has tasks that are acted in, and no examples"
            raise ValueError(f"{seen}: runs.loop.restore gives the policy, runs.acting.Acting adapts it")
        self.params, self._norms = tree_map(unchanging, learned.meta), learned.state.norms
        self.steps = self.learner.steps
        self._example = learned.example or usual(self.learner)

    def __repr__(self) -> str:
        parts = (self.config.algorithm, self.config.network, self.config.family)
        return f"<Model: {', '.join(part.name for part in parts)}, after {self.iteration} meta-iterations>"

    def adapt(self, x: Any, y: Any, steps: int | None = None) -> Adapted:
        """Adapt to one task.

        Args:
            x: the support examples, (N, *input_shape): an array, or a nest of arrays if the family draws such.
            y: one target per example, as the family draws them: for classification, integers in 0 … ways − 1, (N,);
                of a network with a single logit, 0 or 1, (N, 1). If tasks differ in size, no mask is needed.
            steps: how many steps; by default `self.steps`.

        Raises:
            ValueError, TypeError: another shape, length or kind of numbers; NaN or infinity; a label outside.
            FloatingPointError: adaptation diverged; the step is named.
        """
        steps = self.steps if steps is None else steps
        if not isinstance(steps, (int, np.integer)) or isinstance(steps, bool) or not 0 <= steps <= MOST:
            seen = figure(int(steps)) if isinstance(steps, (int, np.integer)) else repr(steps)
            raise ValueError(f"steps is {seen}, wanted an integer in 0 … {MOST:,}")
        learner, support = self.learner, self.support(x, y)
        with _one_by_one():
            path = learner.algorithm.adapt(learner.loss, self.params, support, learner.settings)
            thetas = list(itertools.islice(path, steps, steps + 1))
            if not thetas:
                raise ValueError(f"algorithm {self.config.algorithm.name}: adapt ended before step {steps}")
            check_arrays(thetas[0], f"the parameters after step {steps}: ")
        return Adapted(self, thetas[0], support, steps)

    def support(self, x: Any, y: Any) -> tuple[Nest, Nest]:
        """Support examples and targets as in training, read-only; errors as those of `adapt`."""
        if not isinstance(y, dict) and {path for path, *_ in self._example["y"]} == {"['y']", "['mask']"}:
            y = {"y": y, "mask": np.ones(np.shape(y)[:1])}  # of an example each: nothing is filled up
        x, y, classes = self.inputs(x), self._as("y", y), ways(self.learner)
        if len(tree_leaves(x)[0]) != len(tree_leaves(y)[0]):
            raise ValueError(f"x has {len(tree_leaves(x)[0])} examples, and y has {len(tree_leaves(y)[0])} targets")
        if classes and (outside := [x for leaf in tree_leaves(y) for x in leaf.flat if not 0 <= x < classes]):
            raise ValueError(f"y has the label {outside[0]}, wanted 0 … {classes - 1}")
        values = [value for leaf in tree_leaves(y) for value in leaf.flat] if is_binary(self.learner) else []
        if outside := [value for value in values if value not in (0, 1)]:
            raise ValueError(f"y has the label {outside[0]:g}, wanted 0 or 1")
        return x, y

    def inputs(self, x: Any) -> Nest:
        """Examples as in training, read-only; errors as those of `adapt`."""
        return self._as("x", x)

    def _as(self, name: str, data: Any) -> Nest:
        return tree_map(unchanging, converted(name, data, self._example[name]))


class Adapted:
    """A network after adaptation to one task. It never changes.

    Attributes:
        params: its parameters, a nest of read-only arrays.   steps: after how many steps.
    """

    params: Nest
    steps: int

    def __init__(self, model: Model, params: Nest, support: tuple, steps: int):
        self._model, self._support = model, support
        self.params, self.steps = tree_map(unchanging, params), steps

    def __repr__(self) -> str:
        examples = len(tree_leaves(self._support)[0])
        return f"<Adapted: {self.steps} steps on {examples} examples, from {self._model!r}>"

    def predict(self, x: Any) -> np.ndarray:
        """The network's outputs for queries: for classification logits, whose `argmax(-1)` is the class. A single logit
        above 0 is the class 1.

        Batch norm takes the statistics that the run's option `statistics` names. If these are transductive, the
        default, they are those of x, so that the prediction of a query depends on the others beside it.

        Args:
            x: (M, *input_shape), or a nest of arrays if the family draws such.

        Returns:
            (M, outputs), in the dtype of the run.

        Raises:
            ValueError, TypeError: as `Model.adapt` raises for x.
        """
        model = self._model
        query, _ = model.learner.view(self._support, (model.inputs(x), None), model._norms, self.steps)
        with _one_by_one():
            return np.array(model.learner.predict(self.params, query), model.learner.dtype)

    def save(self, path: str | os.PathLike) -> None:
        """Write the parameters to a file, by their paths: "params['linear0']['w']". `np.load` reads it.

        Args:
            path: if it ends with .safetensors, the file is of that format; otherwise it is an .npz. An older file
                is replaced once the new one is whole.

        Raises:
            OSError: disk full, no permission, no such folder.
        """
        arrays: dict[str, Any] = {f"params{name}": np.asarray(x, order="C") for name, x in tree_items(self.params)}
        safetensors = require("safetensors.numpy", "train") if Path(path).suffix == ".safetensors" else None
        with atomic_write(path) as file:
            if safetensors:
                file.write(safetensors.save(arrays))
            else:
                np.savez(file, **arrays)


@contextmanager
def _one_by_one() -> Iterator[None]:
    """As in training and evaluation: BLAS on one thread, and what diverges is an error that says where."""
    with one_thread(libraries("train")), np.errstate(over="ignore", invalid="ignore"):
        yield
