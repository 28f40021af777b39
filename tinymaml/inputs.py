"""What `maml` is given: brought into one form, or refused with one clear error before any work.

    as_tasks(tasks)                    stacked or listed tasks → a list of (support, query), all checked
    check_learned("params", params)    what is learned is floating-point and finite
    rates_like(α, params)              α at every leaf
    read_only(data)                    the data of one task, for its loss
    check_converging(value, what)      the check inside the loop: a loss that is not finite ends it
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np

from .engine import Tensor, analytic, unchanging, value_of
from .nest import Nest, tree_items, tree_leaves, tree_map


def rates_like(inner_lr: Nest, params: Nest) -> Nest:
    """α at every leaf of the parameters, in their dtype; a single number applies to every leaf."""

    def rate(theta, a):
        if isinstance(a, (int, float)):
            return float(a)
        a = a if isinstance(a, Tensor) else np.asarray(a)
        return a if a.dtype == theta.dtype or a.dtype.kind == "c" else a.astype(theta.dtype)

    if not isinstance(inner_lr, (dict, list, tuple)):
        return tree_map(lambda theta: rate(theta, inner_lr), params)
    rates = tree_map(rate, params, inner_lr)
    for (path, theta), a in zip(tree_items(params), tree_leaves(rates), strict=True):
        axes = zip(np.shape(a)[::-1], theta.shape[::-1], strict=False)
        if np.ndim(a) > theta.ndim or any(n not in (1, m) for n, m in axes):
            raise ValueError(f"inner_lr{path} has shape {np.shape(a)} for a parameter of shape {theta.shape}")
    return rates


def check_settings(inner_lr: Nest, inner_steps: int) -> None:
    if not isinstance(inner_steps, (int, np.integer)) or isinstance(inner_steps, bool) or inner_steps < 0:
        raise ValueError(f"inner_steps is {inner_steps!r}, wanted an integer of at least 0")
    if not tree_items(inner_lr):
        raise ValueError(f"inner_lr is {inner_lr!r}, wanted a number, or a nest of numbers or arrays like params")
    check_numbers("inner_lr", inner_lr)


def check_learned(name: str, meta: Nest) -> None:
    """What is learned: θ, or a nest that holds it."""
    if not tree_items(meta):
        raise ValueError(f"{name} is {meta!r}, wanted a nest with at least one array")
    for path, leaf in tree_items(meta):
        dtype = np.result_type(value_of(leaf))
        if dtype.kind == "c":
            check_real(f"{name}{path}", dtype)
        elif dtype.kind != "f":
            raise TypeError(f"{name}{path} has dtype {dtype}, wanted floating point (np.asarray(x, float) converts)")
        check_finite(f"{name}{path}", leaf)


def as_tasks(tasks: tuple | list) -> list[tuple]:
    """The tasks as a list of (support, query), each a pair of nests of arrays."""
    if is_listed(tasks):
        tasks = [tuple(t) for t in tasks]
    elif _is_pair(tasks) and _is_pair(tasks[0], tasks[1]):
        lengths = {f"tasks{path}": np.shape(leaf)[:1] for path, leaf in tree_items(tasks)}
        if len(set(lengths.values())) != 1 or () in lengths.values():
            seen = ", ".join(f"{path}: {np.shape(leaf)}" for path, leaf in tree_items(tasks))
            raise ValueError(f"tasks are stacked on axis 0, but the arrays disagree on their number: {seen}")
        ((count,),) = set(lengths.values())
        tasks = [tree_map(lambda x, t=t: x[t], tuple(tasks)) for t in range(count)]
    else:
        raise ValueError("tasks must be ((xs, ys), (xq, yq)) with tasks stacked on axis 0, or a list of such pairs")
    if not tasks:
        raise ValueError("there are no tasks: the arrays have length 0 on axis 0")
    for t, (support, query) in enumerate(tasks):
        check_data(f"the support set of task {t}", support)
        check_data(f"the query set of task {t}", query)
    return tasks


def is_listed(tasks: tuple | list) -> bool:
    """Whether the tasks are a list of pairs (support, query), each a pair of arrays, and not stacked."""
    return isinstance(tasks, list) and bool(tasks) and all(_is_pair(t) and _is_pair(t[0], t[1]) for t in tasks)


def _is_pair(*nests: Nest) -> bool:
    return all(isinstance(nest, (list, tuple)) and len(nest) == 2 for nest in nests)


def check_data(what: str, data: tuple) -> None:
    for path, leaf in tree_items(data):
        if 0 in np.shape(leaf):
            raise ValueError(f"{what} is empty: {path} has shape {np.shape(leaf)}")
        check_finite(f"{what}: {path}", leaf)


def read_only(data: Nest) -> Nest:
    """The data with read-only arrays: neither the loss can write to them, nor later the caller."""
    return tree_map(lambda x: unchanging(x) if isinstance(x, np.ndarray) else x, data)


def check_real(what: str, dtype: np.dtype) -> None:
    if dtype.kind == "c" and not analytic.get():
        raise TypeError(f"{what} has dtype {dtype}, wanted real numbers (a real and an imaginary part can be learned)")


def check_shared(shared: tuple) -> None:
    """Inputs that all tasks share: numbers, or what selects a program (booleans, integers, strings)."""
    for path, leaf in tree_items(shared):
        if not isinstance(leaf, str):
            check_finite(f"shared{path}", leaf)


def check_numbers(what: str, tree: Nest) -> None:
    for path, leaf in tree_items(tree):
        check_finite(f"{what}{path}", leaf)
        check_real(f"{what}{path}", np.result_type(value_of(leaf)))


def check_finite(what: str, leaf) -> None:
    x = np.asarray(value_of(leaf))
    if x.dtype.kind in "fc" and not np.isfinite(x).all():
        bad = np.argwhere(~np.isfinite(x))
        raise ValueError(f"{what} is not finite: {len(bad)} of {x.size}, first {x[tuple(bad[0])]} at {bad[0].tolist()}")
    if x.dtype.kind not in "biufc":
        raise TypeError(f"{what} has dtype {x.dtype}, wanted numbers")


_watched: ContextVar[list | None] = ContextVar("watched", default=None)


@contextmanager
def watching(losses: list) -> Iterator[None]:
    """For a while, every loss that `check_converging` looks at is put into the list."""
    token = _watched.set(losses)
    try:
        yield
    finally:
        _watched.reset(token)


def check_converging(value, what: str) -> None:
    if (losses := _watched.get()) is not None:
        losses.append(value)
    value = value_of(value)
    if np.shape(value) != ():
        raise ValueError(f"{what} has shape {np.shape(value)}, wanted a scalar")
    check_real(what, np.result_type(value))
    if not np.isfinite(value):
        raise FloatingPointError(f"{what} is {value}: {_ADVICE}")


def check_arrays(params: Nest, what: str) -> None:
    """θ after the inner loop, or the meta-gradient: finite, as the losses were."""
    for path, leaf in tree_items(params):
        if not np.isfinite(value_of(leaf)).all():
            raise FloatingPointError(f"{what}{path} is not finite: {_ADVICE}")


_ADVICE = "the inner loop diverged (a smaller inner_lr or fewer steps help), or the loss has no derivative there"
