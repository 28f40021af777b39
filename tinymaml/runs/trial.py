"""One task through all parts of a run, before any work: parts that do not fit are named while there is no run yet.

    example = trial(learner)                     # {"x": [["", "float32", [28, 28, 1]]], "y": [["", "int64", []]]}
    converted("x", x, example["x"])              # x as training saw it, or an error that says what it should be

A family, a network or an algorithm of a user's is code that has not been tried yet. Read next: `model`.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from ..inputs import as_learned, as_tasks, check_finite
from ..nest import Nest, tree_fill, tree_items, tree_leaves, tree_map
from ..per_task import mean_over_tasks, outlined
from .learner import Learner, ways
from .settings import blaming, members_of, told
from .sizes import bounded, check_run

Example = dict[str, list]  # of "x" and of "y": the path, the dtype and the shape of each array of one example


def trial(learner: Learner, splits: tuple[str, ...] = ("train",)) -> Example | None:
    """Draw two tasks of each split and judge one by the network. An algorithm of the user's takes a step on it, too.

    Returns:
        What the support examples are like; None, if tasks are acted in.

    Raises:
        ValueError, TypeError: a part does not keep its protocol; the message shows what it returned. Code of the user's
            raised something: the message says where.
        OSError: the data cannot be read.
    """
    config, rng = learner.config, np.random.default_rng(0)
    check_run(learner)
    if learner.acts:
        _acted(learner, rng, splits)
        return None
    for split in reversed(splits):
        with blaming(f"family {config.family.name}: sample"):
            support, query = _drawn(learner, rng, split)
    task = tree_map(lambda x: x[0], (support, query))
    with np.errstate(all="ignore"):
        _judged(learner, rng, *task)
        if config.algorithm.name not in members_of("algorithm"):
            _adapted(learner, rng, tree_map(lambda x: x[:1], (support, query)))
    return {name: [[path, x.dtype.name, list(x.shape[1:])] for path, x in tree_items(part)]
            for name, part in zip(("x", "y"), task[0], strict=True)}  # fmt: skip


def _acted(learner: Learner, rng: np.random.Generator, splits: tuple[str, ...]) -> None:
    """Two tasks of each split are acted in by the policy as it is before training."""
    called = f"family {learner.config.family.name}"
    theta = tree_map(lambda x: np.repeat(x[None], 2, 0), learner.network.init(bounded(rng), learner.dtype))
    for split in splits:
        with blaming(f"{called}: sample"):
            tasks = learner.sample(rng, 2, split)
        for path, leaf in tree_items(tasks):
            if np.shape(leaf)[:1] != (2,):
                seen = f"of 2 tasks, what sample returned{path} has shape {np.shape(leaf)}"
                raise ValueError(f"{called}: {seen}, wanted (2, …): the tasks on axis 0")
        learner.collect(theta, tasks, 0)


def _drawn(learner: Learner, rng: np.random.Generator, split: str) -> tuple:
    called, shape = f"family {learner.config.family.name}", tuple(learner.family.input_shape)
    tasks = learner.sample(rng, 2, split)
    if not (_is_pair(tasks) and _is_pair(tasks[0]) and _is_pair(tasks[1])):
        wanted = "wanted ((xs, ys), (xq, yq)), each with the tasks on axis 0"
        raise ValueError(f"{called}: sample(rng, 2, {split!r}) returned {outlined(tasks)}, {wanted}")
    (xs, ys), (xq, yq) = tasks
    for name, x, y in (("s", xs, ys), ("q", xq, yq)):
        for what, part in ((f"x{name}", x), (f"y{name}", y)):
            for path, leaf in tree_items(part):
                if leaf.ndim < 2 or len(leaf) != 2:
                    wanted = "wanted (2, examples, …): the tasks on axis 0"
                    raise ValueError(f"{called}: of 2 tasks, {what}{path} has shape {leaf.shape}, {wanted}")
        if isinstance(x, np.ndarray) and x.shape[2:] != shape:
            wanted = f"wanted (2, examples, {', '.join(map(str, shape))}), as its input_shape says"
            raise ValueError(f"{called}: of 2 tasks, x{name} has shape {x.shape}, {wanted}")
        if isinstance(x, np.ndarray) and isinstance(y, np.ndarray) and x.shape[1] != y.shape[1]:
            raise ValueError(f"{called}: x{name} has {x.shape[1]} examples, and y{name} has {y.shape[1]}")
    try:
        as_tasks(tasks)
    except (ValueError, TypeError) as cause:  # empty, NaN
        raise type(cause)(f"{called}: {cause}") from None
    return tasks


def _is_pair(x: Any) -> bool:
    return isinstance(x, (tuple, list)) and len(x) == 2


def _judged(learner: Learner, rng: np.random.Generator, support: tuple, query: tuple) -> None:
    config, outputs = learner.config, learner.family.outputs
    network, family = f"network {config.network.name}", f"family {config.family.name}"
    with blaming(f"{network}: init"):
        theta = learner.network.init(bounded(rng), learner.dtype)
    as_learned(f"{network}: what init returned", theta)
    xq, yq = learner.view(support, query)
    examples = len(tree_leaves(query[1])[0])
    with blaming(f"{network}: apply"):
        prediction = learner.predict(theta, xq)
    wanted = (examples, outputs) if isinstance(outputs, (int, np.integer)) else (examples,)
    if np.shape(prediction)[: len(wanted)] != wanted or len(wanted) == 2 != np.ndim(prediction):
        seen = f"apply returned {outlined(prediction)} for {examples} examples"
        raise ValueError(f"{network}: {seen}, wanted the shape ({examples}, {outputs})")
    with blaming(f"{family}: loss"):
        result = learner.family.loss(prediction, yq)
    scalars = isinstance(result, tuple) and len(result) == 2 and all(np.shape(x) == () for x in result)
    if not scalars or not np.isfinite(np.asarray(result[0], float)):
        raise ValueError(f"{family}: loss returned {outlined(result)}, wanted (loss, metric), two finite scalars")


def _adapted(learner: Learner, rng: np.random.Generator, task: tuple) -> None:
    """An algorithm of a user's, on one task: init, adapt, and of_task, which its own checks name."""
    name = learner.config.algorithm.name
    with blaming(f"algorithm {name}: init"):
        meta, carried, _ = learner.init(rng)
    as_learned(f"algorithm {name}: what init returned", meta)
    with blaming(f"algorithm {name}: noise"):
        noise = learner.noise(rng, meta, task)
    support, query = tree_map(lambda x: x[0], task)
    with blaming(f"algorithm {name}: adapt"):
        thetas = list(itertools.islice(learner.algorithm.adapt(learner.loss, meta, support, learner.settings), 2))
    if len(thetas) < 2:
        raise ValueError(f"algorithm {name}: adapt gave {len(thetas)} of θ₀, θ₁, …; wanted a generator that never ends")
    try:
        learner.loss(thetas[1], *query)
    except Exception as cause:
        seen = f"the loss does not accept what adapt gave, {outlined(thetas[1])}"
        raise ValueError(f"algorithm {name}: {seen}: {told(cause)}") from cause
    carries = carried is not None
    with blaming(f"algorithm {name}: of_task"):
        given = (task[0], (task[1], {"noise": noise}) if noise is not None else task[1])
        (_, (aux,)), _ = mean_over_tasks(learner.of_task(carries))(
            meta, given, *([carried] if carries else []), *learner.shared(0)
        )
    if np.shape(aux["metric"]) != ():
        seen = f"of_task returned the aux {outlined(aux['metric'])}"
        raise ValueError(f"algorithm {name}: {seen}, wanted the metric that `loss` returned, a scalar")


def as_example(x: Any) -> Example | None:
    """Training's examples, described by a checkpoint; None: it has none. Raises: ValueError: it has another form."""
    try:
        every = [] if x is None else [*x["x"], *x["y"]]
        if all(isinstance(path, str) and np.dtype(str(dtype)) and [int(n) for n in shape] == shape
               for path, dtype, shape in every):  # fmt: skip
            return x
    except (TypeError, ValueError, KeyError, OverflowError):
        pass
    seen = f"the checkpoint has {outlined(x)} as the example of training"
    raise ValueError(f"{seen}, wanted dtypes and shapes of x and y")


def usual(learner: Learner) -> Example:
    """Facts about support examples, as far as they can be known of a run that does not state them."""
    family, dtype = learner.family, learner.dtype.name
    y = ["", "int64", []] if ways(learner) else ["", dtype, np.atleast_1d(family.outputs).tolist()]
    return {"x": [["", dtype, list(family.input_shape)]], "y": [y]}


def is_binary(learner: Learner) -> bool:
    """Whether the one output is the logit of the label 1, the other label being 0."""
    return learner.metric.name == "accuracy" and learner.family.outputs == 1


def converted(called: str, data: Any, example: list) -> Nest:
    """Data of a user's in the form of `example`: floating-point numbers in its dtype, integers as they are.

    Raises:
        ValueError: another shape, no examples, NaN or infinity, arrays that disagree on their number, or other arrays
            than those of the example.
        TypeError: another kind of numbers.
    """
    wanted = {path: (np.dtype(dtype), tuple(shape)) for path, dtype, shape in example}
    data = data if any(wanted) or isinstance(data, dict) else _array(called, data)
    items = tree_items(data)
    if {path for path, _ in items} != wanted.keys():
        names = ", ".join(f"{called}{path}" for path, _ in items) or "nothing"
        raise ValueError(f"wanted {', '.join(f'{called}{path}' for path in wanted)}; seen {names}")
    leaves, count = [], None
    for path, leaf in items:
        name, (dtype, shape) = f"{called}{path}", wanted[path]
        x = _array(name, leaf)
        if x.ndim != 1 + len(shape) or x.shape[1:] != shape or not len(x):
            size = ", ".join(map(str, ("N", *shape))) + "," * (not shape)
            raise ValueError(f"{name} has shape {x.shape}, wanted ({size}), with N examples of at least 1")
        if x.dtype.kind not in {"f": "biuf", "i": "iu", "u": "iu", "b": "b"}.get(dtype.kind, dtype.kind):
            kinds = {"f": "numbers", "b": "True or False"}.get(dtype.kind, "integers")
            raise TypeError(f"{name} has dtype {x.dtype}, wanted {kinds}")
        if count not in (None, len(x)):
            raise ValueError(f"{name} has {len(x)} examples, wanted {count} as the arrays before")
        with np.errstate(over="ignore"):
            x, count = x.astype(dtype), len(x)
        check_finite(name, x)
        leaves.append(x)
    return tree_fill(data, leaves)


def _array(name: str, data: Any) -> np.ndarray:
    try:
        return np.asarray(data)
    except ValueError as cause:
        raise ValueError(f"{name} is no array: {cause}") from None
