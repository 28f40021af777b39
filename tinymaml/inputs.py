"""Inputs of `maml`: they are brought into one form, or refused with one clear error before any work.

These are its functions:

    as_tasks(tasks)                    stacked or listed tasks → a list of (support, query), all checked
    as_set("the support set", x)       one set: what a loss takes beside the parameters
    as_learned("params", params)       what is learned: floating-point, real and finite
    rates_like(α, params)              α at every leaf
    read_only(data)                    the data of one task, for its loss
    check_converging(value, what)      the check inside the loop: a loss that is not finite ends it
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np

from . import diagnose
from .arrays import as_array_of, unchanging
from .engine import Tensor, analytic, value_of
from .nest import Nest, opened, tree_fill, tree_items, tree_leaves, tree_map

_MOST_BROADCAST = 10**6  # tasks that take no memory of their own


def rates_like(inner_lr: Nest, params: Nest) -> Nest:
    """α at every leaf of the parameters, in their dtype; a single number applies to every leaf."""

    def rate(theta, a):
        if isinstance(a, (int, float)):
            return float(a)
        a = a if isinstance(a, Tensor) else np.asarray(a)
        return a if a.dtype == theta.dtype or a.dtype.kind == "c" else a.astype(theta.dtype)

    if type(inner_lr) in (float, int):
        return tree_map(lambda theta: float(inner_lr), params)
    if opened(inner_lr) is None and (opened(params) is None or np.ndim(inner_lr) == 0):
        inner_lr = tree_map(lambda theta: inner_lr, params)
    try:
        rates = tree_map(rate, params, inner_lr)
    except ValueError as unlike:
        seen = f"{unlike}" if opened(inner_lr) is not None else f"it is an array of shape {np.shape(inner_lr)}"
        shapes = ", ".join(f"params{path}: {np.shape(x)}" for path, x in tree_items(params))
        raise ValueError(f"inner_lr does not fit the parameters: {seen} ({shapes}){_PER_STEP}") from None
    for (path, theta), a in zip(tree_items(params), tree_leaves(rates), strict=True):
        axes = zip(np.shape(a)[::-1], theta.shape[::-1], strict=False)
        if np.ndim(a) > theta.ndim or any(n not in (1, m) for n, m in axes):
            raise ValueError(
                f"inner_lr{path} has shape {np.shape(a)} for params{path} of shape {theta.shape}{_PER_STEP}"
            )
    return rates


_PER_STEP = (
    "; wanted a number, or a nest like params of numbers or arrays that broadcast to their parameters. For a rate per"
    " step, call adapt once per step: params = adapt(loss, params, support, inner_lr=rates[k], inner_steps=1)"
)


def check_settings(inner_lr: Nest, inner_steps: int) -> None:
    if not isinstance(inner_steps, (int, np.integer)) or isinstance(inner_steps, bool) or inner_steps < 0:
        raise ValueError(f"inner_steps is {inner_steps!r}, wanted an integer of at least 0")
    if not tree_items(inner_lr):
        raise ValueError(f"inner_lr is {inner_lr!r}, wanted a number, or a nest of numbers or arrays like params")
    for path, leaf in tree_items(inner_lr):
        check_finite(f"inner_lr{path}", leaf)
        check_real(f"inner_lr{path}", np.result_type(value_of(leaf)))


def _of_arrays(what: str, nest: Nest) -> Nest:
    """The nest, with arrays of NumPy at its leaves."""
    items = tree_items(nest)
    if all(type(x) is np.ndarray and not x.dtype.hasobject for _, x in items):
        return nest
    return tree_fill(nest, [as_array_of(f"{what}{path}", x) for path, x in items])


def as_learned(name: str, meta: Nest) -> Nest:
    """Check the meta-parameters: θ, or a nest that holds it."""
    if not tree_items(meta):
        raise ValueError(f"{name} is {meta!r}, wanted a nest with at least one array")
    meta = _of_arrays(name, meta)
    for path, leaf in tree_items(meta):
        dtype = np.result_type(value_of(leaf))
        check_real(f"{name}{path}", dtype)
        if dtype.kind not in "fc":
            raise TypeError(f"{name}{path} has dtype {dtype}, wanted floating point (np.asarray(x, float) converts)")
        check_finite(f"{name}{path}", leaf)
    return meta


def as_tasks(tasks: tuple | list) -> list[tuple]:
    """The tasks as a list of (support, query), each a set.

    A set is what a loss takes beside the parameters, `loss(params, *set)`: (x, y), (x, y, mask), (x,), each of them an
    array or a nest of arrays; or one dict or dataclass, which the loss takes as it is.

    Raises:
        ValueError, TypeError: they are no tasks; says what is seen and how tasks are given.

    >>> from tinymaml.inputs import as_tasks
    >>> x = np.zeros((3, 5, 1))  # stacked: 3 tasks of 5 examples
    >>> [support[0].shape for support, query in as_tasks(((x, x), (x, x)))]
    [(5, 1), (5, 1), (5, 1)]
    """
    if is_listed(tasks):
        tasks = [tuple(t) for t in tasks]
    elif _is_pair(tasks, _is_set):
        if isinstance(tasks, tuple) and all(_is_pair(t, lambda part: isinstance(part, (tuple, list))) for t in tasks):
            raise ValueError(
                "tasks are a tuple of two pairs of tuples: if these are two tasks, give them in a list; if they are the"
                " support and the query set of stacked tasks, whose x and y are tuples, make dicts of x and y"
            )
        tasks = _of_arrays("tasks", tasks)
        lengths = {path: np.shape(leaf)[:1] for path, leaf in tree_items(tasks)}
        if len(set(lengths.values())) != 1 or () in lengths.values():
            if found := _list_of_numbers(tasks, "tasks"):
                raise ValueError(f"{found} is a list of numbers, wanted an array (np.asarray(x) makes one)")
            seen = ", ".join(f"{path}: {np.shape(leaf)}" for path, leaf in tree_items(tasks))
            raise ValueError(
                f"tasks are stacked on axis 0, but the arrays disagree on their number: {seen}"
                " (if it is a list of tasks, each of them must be a pair of sets, (support, query))"
            )
        ((count,),) = set(lengths.values())
        if count > _MOST_BROADCAST and any(0 in np.shape(x) or np.asarray(value_of(x)).strides[0] == 0
                                           for x in tree_leaves(tasks)):  # fmt: skip
            raise ValueError(f"there are {count} tasks, made by broadcasting; wanted at most {_MOST_BROADCAST}")
        tasks = [tree_map(lambda x, t=t: x[t], tuple(tasks)) for t in range(count)]
    else:
        raise ValueError(
            "tasks must be (support, query), each a set like (x, y), with tasks stacked on axis 0; or a list of such"
            f" pairs, unstacked; seen: {_seen(tasks)}"
        )
    if not tasks:
        raise ValueError("there are no tasks: the arrays have length 0 on axis 0")
    return [(as_set(f"the support set of task {t}", support), as_set(f"the query set of task {t}", query))
            for t, (support, query) in enumerate(tasks)]  # fmt: skip


def as_set(what: str, data: Nest) -> Nest:
    """One set, checked: a tuple or a list of what the loss takes beside the parameters, or one dict."""
    if not _is_set(data):
        raise TypeError(f"{what} is {_seen(data)}, wanted what the loss takes beside params: (x, y), or (x,)")
    if found := _list_of_numbers(data, f"{what}: "):
        raise ValueError(f"{found} is a list of numbers, wanted an array (np.asarray(x) makes one)")
    data = _of_arrays(f"{what}: ", data)
    for path, leaf in tree_items(data):
        if 0 in np.shape(leaf):
            raise ValueError(f"{what} is empty: {path} has shape {np.shape(leaf)}")
        check_finite(f"{what}: {path}", leaf)
    return data


def arguments(data: Nest) -> tuple | list:
    """A loss's arguments beside the parameters, for `loss(params, *arguments(data))`: a dict or dataclass is one."""
    return data if isinstance(data, (tuple, list)) else (data,)


def scalar_of(loss: Callable, has_aux: bool) -> Callable:
    """The loss without what it returns beside its scalar; with its name, which errors give."""
    if not has_aux:
        return loss

    @functools.wraps(loss)
    def first(params, *data):
        return loss(params, *data)[0]

    return first


def is_listed(tasks: tuple | list) -> bool:
    """Whether the tasks are a list of pairs (support, query), each a set, and not stacked."""
    return isinstance(tasks, list) and bool(tasks) and all(_is_pair(t, _is_set) for t in tasks)


def _is_pair(nest: Nest, of) -> bool:
    return isinstance(nest, (list, tuple)) and len(nest) == 2 and all(map(of, nest))


def _is_set(nest: Nest) -> bool:
    return bool(opened(nest))


def _list_of_numbers(nest: Nest, path: str) -> str | None:
    """The first list of more than one number, which is an array that was not made; its path."""
    children = opened(nest) or {}
    if isinstance(nest, list) and len(nest) > 1 and all(isinstance(x, (bool, int, float, complex)) for x in nest):
        return path
    step = (lambda key: f"[{key!r}]") if isinstance(nest, (dict, list, tuple)) else (lambda key: f".{key}")
    return next((found for key, x in children.items() if (found := _list_of_numbers(x, path + step(key)))), None)


def _seen(nest: Nest) -> str:
    """Describe a value in a few words."""
    if (children := opened(nest)) is None:
        shape = f" of shape {nest.shape}" if isinstance(nest, (np.ndarray, Tensor)) else ""
        return f"a {type(nest).__name__}{shape}"
    if isinstance(nest, (tuple, list)):
        return f"a {type(nest).__name__} of {len(nest)}" + (f" ({_seen(nest[0])}, …)" if nest else "")
    return "None" if nest is None else f"a {type(nest).__name__} of {', '.join(map(str, children))}"


def read_only(data: Nest) -> Nest:
    """The data with read-only arrays: neither the loss can write to them, nor later the caller."""
    return tree_map(lambda x: unchanging(x) if isinstance(x, np.ndarray) else x, data)


def check_real(what: str, dtype: np.dtype) -> None:
    if dtype.kind == "c" and not analytic.get():
        raise TypeError(f"{what} has dtype {dtype}, wanted real numbers (a real and an imaginary part can be learned)")


def as_shared(shared: tuple) -> tuple:
    """Inputs that all tasks share: numbers, or what selects a program (booleans, integers, strings); checked."""
    leaves = [x if isinstance(x, str) else as_array_of(f"shared{path}", x) for path, x in tree_items(shared)]
    for (path, _), leaf in zip(tree_items(shared), leaves, strict=True):
        if not isinstance(leaf, str):
            check_finite(f"shared{path}", leaf)
    return tree_fill(shared, leaves)


def check_finite(what: str, leaf) -> None:
    x = np.asarray(value_of(leaf))
    x = x[tuple(slice(None if step else 1) for step in x.strides)]  # what is broadcast is looked at once
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


def check_converging(value, what: str, f: Callable | None = None, *args: Nest, has_aux: bool = False) -> None:
    """A loss is one finite number. `f`, `args`: it is f(*args), where an error looks for the equation to blame."""
    if (losses := _watched.get()) is not None:
        losses.append(value)
    value = value_of(value)
    if np.shape(value) != ():
        raise ValueError(f"{what} has shape {np.shape(value)}, wanted a scalar")
    if (dtype := np.result_type(value)).kind not in "fc" and type(value) is not int:
        raise TypeError(f"{what} is of dtype {dtype}, wanted a floating-point number: a count has no slope")
    check_real(what, dtype)
    if not np.isfinite(value):
        why = diagnose.cause(f, args, has_aux) if f else None
        raise FloatingPointError(f"{what} is {value}: {why or _ADVICE}")


def check_arrays(arrays: Nest, what: str, f: Callable | None = None, *args: Nest, has_aux: bool = False) -> None:
    """θ after the inner loop, or a gradient: finite, as the losses were.

    Args:
        f, args: `arrays` are the gradient of f(*args); an error then says in which equation it went wrong.
    """
    # a sum is finite only if all its terms are, and is sooner known than each of them
    if np.isfinite(sum([np.add.reduce(value_of(x), None) for x in tree_leaves(arrays)])):
        return
    for path, leaf in tree_items(arrays):
        if not np.isfinite(value_of(leaf)).all():
            why = diagnose.cause(f, args, has_aux) if f else None
            raise FloatingPointError(f"{what}{path} is not finite: {why or _ADVICE}")


_BLAMED = (FloatingPointError, ValueError, IndexError)  # what the numbers of a task may have to do with


@contextmanager
def in_task(t: int) -> Iterator[None]:
    """Errors say in which task they are raised; those of another class, a user's own, are left as they are."""
    try:
        yield
    except _BLAMED as cause:
        if type(cause) not in _BLAMED:
            raise
        raise type(cause)(f"task {t}{', ' if str(cause).startswith('inner step') else ': '}{cause}") from cause


_ADVICE = "the inner loop diverged (a smaller inner_lr or fewer steps help), or the loss has no derivative there"
