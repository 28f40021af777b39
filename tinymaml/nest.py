"""Nests: dicts, lists, tuples and dataclasses of arrays, to any depth; a bare array is the smallest nest.

    tree_map(f, params, grads)     the same nest, with f at every leaf
    tree_items(params)             [("['w1']", array), ...] in a fixed order: what errors name, what checkpoints store

Parameters, gradients, learning rates, tasks and optimiser states are all nests. `None` is a nest without leaves.
Subclasses (an OrderedDict, a namedtuple) stay what they are. A field of a dataclass that is declared with
`field(metadata={"static": True})` is no part of the nest. JAX calls these pytrees. Read next: `engine`.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

Nest = Any


def opened(tree: Nest) -> dict | None:
    """The children of a nest, by key, by index or by the name of the field; None: it is a leaf."""
    if type(tree) in _LEAVES:
        return None
    if isinstance(tree, dict):
        return tree
    if isinstance(tree, (list, tuple)):
        return dict(enumerate(tree))
    if tree is None:
        return {}
    if hasattr(type(tree), "__dataclass_fields__"):
        return {f.name: getattr(tree, f.name) for f in dataclasses.fields(tree) if not f.metadata.get("static")}
    _LEAVES.add(type(tree))
    return None


_LEAVES: set[type] = set()  # the types of leaves that were met


def closed(tree: Nest, children: list) -> Nest:
    """A nest of the class of `tree`, with other children, in the order of `opened`."""
    kind = type(tree)
    if kind is dict:
        return dict(zip(tree, children, strict=True))
    if isinstance(tree, (list, tuple)):
        return kind(*children) if hasattr(tree, "_fields") else kind(children)
    if tree is None:
        return None
    new = copy.copy(tree)
    for key, child in zip(opened(tree) or (), children, strict=True):
        if isinstance(tree, dict):
            new[key] = child
        else:
            object.__setattr__(new, key, child)  # also where it is frozen
    return new


def tree_items(tree: Nest) -> list[tuple[str, Any]]:
    """Every leaf with its path, spelled as Python spells it: `['layers'][0]`, `.weight`.

    Raises:
        ValueError: the nest holds itself, or is nested more deeply than Python goes.

    >>> tm.tree_items({"w": 1.0, "layers": [2.0, 3.0]})
    [("['w']", 1.0), ("['layers'][0]", 2.0), ("['layers'][1]", 3.0)]
    """
    return _of_any_depth(_items, tree, "")


def tree_leaves(tree: Nest) -> list[Any]:
    """Every leaf, in the order of `tree_items`, and with its errors.

    >>> tm.tree_leaves({"w": 1.0, "layers": [2.0, 3.0]})
    [1.0, 2.0, 3.0]
    """
    return _of_any_depth(_leaves, tree)


def tree_map(f: Callable[..., Any], tree: Nest, *others: Nest) -> Nest:
    """The nest of `tree` with `f(leaf, *leaves of the others)` at every leaf.

    Raises:
        ValueError: another nest differs from the first; names the place, what is there and what was wanted.

    >>> tm.tree_map(lambda p, g: p - 0.5 * g, {"w": 1.0, "b": (2.0,)}, {"w": 4.0, "b": (2.0,)})
    {'w': -1.0, 'b': (1.0,)}
    """
    try:
        return _map(f, tree, others)
    except _Unlike as unlike:
        raise ValueError(str(unlike)) from None


class _Unlike(Exception):
    """Two nests differ, at the end of `path`."""

    def __init__(self, other: Nest, tree: Nest):
        self.path, self.other, self.tree = "", other, tree

    def __str__(self) -> str:
        wanted = "an array" if opened(self.tree) is None else _outline(self.tree)
        return f"nests differ at {self.path or 'the top'}: {_outline(self.other)} against {wanted}"


def _map(f: Callable, tree: Nest, others: Sequence[Nest]) -> Nest:
    children = tree if type(tree) is dict else opened(tree)
    if children is None:
        for other in others:
            if opened(other) is not None:
                raise _Unlike(other, tree)
        return f(tree, *others)
    rows = []
    for other in others:
        row = other if type(other) is dict else opened(other)
        if row is None or row.keys() != children.keys() or _kind(other) is not _kind(tree):
            raise _Unlike(other, tree)
        rows.append(row)
    new = []
    for key, child in children.items():
        try:
            new.append(_map(f, child, [row[key] for row in rows]))
        except _Unlike as unlike:
            unlike.path = _step(tree, key) + unlike.path
            raise
    return closed(tree, new)


def tree_fill(tree: Nest, leaves: Iterable[Any]) -> Nest:
    """The nest of `tree` with `leaves`, given in the order of `tree_items`, in the place of its own.

    >>> from tinymaml.nest import tree_fill
    >>> tree_fill({"w": 0, "layers": [0, 0]}, [1, 2, 3])
    {'w': 1, 'layers': [2, 3]}
    """
    return _fill(tree, iter(leaves))


def _fill(tree: Nest, supply: Iterator[Any]) -> Nest:
    if (children := opened(tree)) is None:
        return next(supply)
    return closed(tree, [_fill(child, supply) for child in children.values()])


def _items(tree: Nest, path: str) -> list[tuple[str, Any]]:
    if (children := opened(tree)) is None:
        return [(path, tree)]
    return [item for key, child in children.items() for item in _items(child, path + _step(tree, key))]


def _leaves(tree: Nest) -> list[Any]:
    children = tree if type(tree) is dict else opened(tree)
    if children is None:
        return [tree]
    return [leaf for child in children.values() for leaf in _leaves(child)]


def _of_any_depth(f: Callable, *args):
    try:
        return f(*args)
    except RecursionError:
        raise ValueError("a nest holds itself, or its dicts, lists and tuples are thousands deep") from None


def _step(tree: Nest, key) -> str:
    return f"[{key!r}]" if isinstance(tree, (dict, list, tuple)) else f".{key}"


def _kind(tree: Nest) -> type:
    """The structure that nests share if they are mapped together: lists and tuples are alike, and so are all dicts."""
    return dict if isinstance(tree, dict) else list if isinstance(tree, (list, tuple)) else type(tree)


def _outline(tree: Nest) -> str:
    if isinstance(tree, dict):
        return f"a dict with keys {list(tree)}"
    if isinstance(tree, (list, tuple)):
        return f"a {type(tree).__name__} of {len(tree)}"
    if tree is None:
        return "nothing (None)"
    return f"a leaf of type {type(tree).__name__}" if opened(tree) is None else f"a {type(tree).__name__}"
