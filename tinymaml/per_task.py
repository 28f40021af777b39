"""A function of one task, applied to all tasks: the frame around every algorithm.

    f = mean_over_tasks(of_task)        f(meta, tasks, *shared) → the mean value, the mean gradient
    g = over_tasks(of_task)             g(meta, tasks, *shared) → what each task gives, stacked

The author of an algorithm writes one function for one task, in plain NumPy and `grad`. The frame adds checks, sums,
clear errors and, by `compile`, machine code and threads. Reptile (Nichol, Achiam and Schulman, 2018), complete:

    def reptile(theta, support, query, alpha):
        phi = theta
        for _ in range(5):
            phi = tm.tree_map(lambda p, g: p - alpha * g, phi, tm.grad(loss)(phi, *support))
        return loss(phi, *query), tm.tree_map(lambda p, q: p - q, theta, phi)

    fast = tm.compile(tm.mean_over_tasks(reptile))
    value, gradient = fast(theta, tasks, 0.01)

Read next: `maml`.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .differentiable import name_of
from .engine import Tensor
from .inputs import as_learned, as_shared, as_tasks, check_arrays, check_converging, in_task, read_only
from .nest import Nest, tree_leaves, tree_map
from .numpy_api import as_array

_quietly = np.errstate(all="ignore")  # what diverges is an error below, and says where


@dataclass(frozen=True)
class PerTask:
    """One task's part of a function over tasks: what `record` and `compile` use.

    Attributes:
        of_task: (meta, support, query, *shared) → the task's result.
        gradient: the result is (value, gradient) or ((value, aux), gradient), and the mean is wanted.
        bound: shared inputs that are given once, and follow those of each call.
        check: raises where the function's own settings do not fit.
        cheaper: what first-order MAML computes in the place of `of_task`, for the listing.
        parts: `parts(*shared)` → the same gradient in parts, `flat.Parts`.   moves: `moves()` → their order.
        flat: `of_task` runs the parts, and so shall what is compiled.
        written: the function that the user wrote, in the place of `of_task`, for names and line numbers in warnings.
        called: what errors call `meta`.
    """

    of_task: Callable
    gradient: bool
    bound: tuple = ()
    check: Callable | None = None
    cheaper: Callable | None = None
    parts: Callable | None = None
    moves: Callable | None = None
    flat: bool = False
    written: Callable | None = None
    called: str = "meta"

    def __call__(self, meta: Nest, support: Nest, query: Nest, *shared: Nest):
        """One task's result, unchecked."""
        return self.of_task(meta, support, query, *shared, *self.bound)


def mean_over_tasks(of_task: Callable) -> Callable:
    """The function `f(meta, tasks, *shared)` → the means over tasks of what `of_task` returns for each.

    Args:
        of_task: `of_task(meta, support, query, *shared)` → (value, gradient), or ((value, aux), gradient): a scalar,
            anything of arrays, and a nest of arrays with the structure, shapes and dtypes of `meta`.

    The function takes:
        meta: what is learned, a nest of floating-point arrays: θ; or θ and rates.
        tasks: (support, query), every array with the tasks stacked on axis 0; or, for tasks of unequal sizes, a list of
            such pairs, unstacked. A set is a tuple of any length, (x, y), (x, y, mask), (x,), of arrays or nests of
            arrays; or one dict or dataclass. Arrays of JAX and PyTorch are taken, too: see `inputs.as_tasks`.
        shared: nests that are the same for all tasks, and are not learned. Once it is compiled, arrays and floats may
            change from call to call; booleans, integers and strings select a program each.

    It returns the mean value and the mean gradient; with aux the pair (mean value, list of each task's aux) in the
    place of the value. Tasks go one at a time: memory is one task's, and the sums are the same bits from run to run.
    `compile` makes it fast.

    Raises:
        TypeError: `of_task` returns something else; the message shows it. `meta` is not floating-point.
        ValueError: NaN or infinity in meta or the data; an empty set; arrays that disagree on the number of tasks.
        FloatingPointError: a value or a gradient that is not finite; the task is named.

    >>> def joint(w, support, query):  # joint training: there is no inner step
    ...     return tm.value_and_grad(lambda w: np.mean((w - query[0]) ** 2))(w)
    >>> tasks = (np.zeros((2, 1)),), (np.array([[1.0], [3.0]]),)  # two tasks of one example each
    >>> tm.mean_over_tasks(joint)(np.array(0.0), tasks)  # (1 + 9) / 2 and (−2 − 6) / 2
    (array(5.), array(-4.))
    """
    return over(PerTask(of_task, gradient=True))


def over_tasks(of_task: Callable) -> Callable:
    """The function `g(meta, tasks, *shared)` → the nest that `of_task` returns, each leaf with the tasks on axis 0.

    For what needs no mean: evaluation, predictions. Arguments and errors as in `mean_over_tasks`, but that results
    need not be finite.

    >>> from tinymaml.per_task import over_tasks
    >>> tasks = (np.zeros((2, 1)),), (np.array([[1.0], [3.0]]),)
    >>> over_tasks(lambda w, support, query: np.mean(query[0] - w))(np.array(0.0), tasks)
    array([1., 3.])
    """
    return over(PerTask(of_task, gradient=False))


def over(per_task: PerTask) -> Callable:
    """The function over tasks of what is done for one."""
    return OverTasks(per_task)


class OverTasks:
    """A function over tasks. It can be pickled and copied if what is done for one task can be."""

    def __init__(self, per_task: PerTask):
        self.of_task, self.__name__ = per_task, name_of(per_task.written or per_task.of_task)

    @_quietly
    def __call__(self, meta: Nest, tasks: tuple | list, *shared: Nest):
        per_task = self.of_task
        meta = as_learned(per_task.called, meta)
        if per_task.check:
            per_task.check()
        each = _mean if per_task.gradient else _stacked
        return each(per_task, meta, as_tasks(tasks), (*as_shared(shared), *per_task.bound))

    def __repr__(self) -> str:
        return f"<{'the mean over' if self.of_task.gradient else 'over'} tasks: {self.__name__}>"


def _results(of_task: Callable, meta: Nest, tasks: list[tuple], shared: tuple):
    for t, (support, query) in enumerate(map(read_only, tasks)):
        with in_task(t):
            result = of_task(meta, support, query, *shared)
        yield t, result


def _stacked(per_task: PerTask, meta: Nest, tasks: list[tuple], shared: tuple) -> Nest:
    rows = [result for _, result in _results(per_task.of_task, meta, tasks, shared)]
    return tree_map(lambda *leaves: np.stack(leaves), *rows)


def _mean(per_task: PerTask, meta: Nest, tasks: list[tuple], shared: tuple):
    values, aux, total = [], [], None
    for t, result in _results(per_task.of_task, meta, tasks, shared):
        value, grads = as_wanted(result, meta)
        if isinstance(value, tuple):
            value, extra = value
            aux.append(tree_map(lambda x: np.asarray(x) if isinstance(x, np.generic) else x, extra))
        check_converging(value, f"task {t}: the query loss")
        check_arrays(grads, f"task {t}: the meta-gradient of {per_task.called}")
        values.append(value)
        total = grads if total is None else tree_map(operator.add, total, grads)

    # 1/T Σₜ
    value = as_array(functools.reduce(operator.add, values) / len(tasks))
    grads = tree_map(lambda g: as_array(g / len(tasks)), total)
    return ((value, aux) if aux else value), grads


def as_wanted(result, meta: Nest) -> tuple:
    """Check what `of_task` returned, and return it.

    Raises:
        TypeError: it does not; the message shows what it returned and what is wanted.
    """
    if not isinstance(result, tuple) or len(result) != 2:
        raise TypeError(f"of_task returned {outlined(result)}, wanted {_WANTED}")
    value, grads = result
    number = value[0] if isinstance(value, tuple) and len(value) == 2 else value
    if not isinstance(number, (Tensor, np.ndarray, np.generic, float)) or np.shape(number) != ():
        raise TypeError(f"of_task returned the value {outlined(value)}, wanted {_WANTED}")
    try:
        same = all(tree_leaves(tree_map(lambda x, g: _type(x) == _type(g), meta, grads)))
    except ValueError:
        same = False
    if not same:
        wanted = f"wanted one shaped like meta: {outlined(meta)}"
        raise TypeError(f"of_task returned the gradient {outlined(grads)}, {wanted}")
    return result


_WANTED = "(value, gradient) or ((value, aux), gradient), the value a scalar and the gradient a nest shaped like meta"


def _type(x) -> tuple:
    x = x if isinstance(x, Tensor) else np.asarray(x)
    return x.dtype, x.shape


def outlined(tree: Nest) -> str:
    """A nest with a dtype and a shape in the place of each array, for errors."""
    if isinstance(tree, dict):
        return "{" + ", ".join(f"{k!r}: {outlined(v)}" for k, v in tree.items()) + "}"
    if isinstance(tree, tuple):
        return f"({', '.join(map(outlined, tree))}{',' * (len(tree) == 1)})"
    if isinstance(tree, list):
        return f"[{', '.join(map(outlined, tree))}]"
    return f"{tree.dtype} {tree.shape}" if isinstance(tree, (Tensor, np.ndarray, np.generic)) else repr(tree)
