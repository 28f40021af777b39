"""Nests: dicts, lists and tuples of arrays, to any depth; a bare array is the smallest nest.

    tree_map(f, params, grads)     the same nest, with f at every leaf
    tree_items(params)             [("['w1']", array), ...] in a fixed order: what errors name, what checkpoints store

Parameters, gradients, learning rates, tasks and optimiser states are all nests. `None` is a nest without leaves.
JAX calls these pytrees. Read next: `engine`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

Nest = Any


def tree_items(tree: Nest, path: str = "") -> list[tuple[str, Any]]:
    """Every leaf with its path, spelled as Python spells it: `['layers'][0]`."""
    if tree is None:
        return []
    if isinstance(tree, dict):
        children = ((f"{path}[{key!r}]", child) for key, child in tree.items())
    elif isinstance(tree, (list, tuple)):
        children = ((f"{path}[{i}]", child) for i, child in enumerate(tree))
    else:
        return [(path, tree)]
    return [item for where, child in children for item in tree_items(child, where)]


def tree_leaves(tree: Nest) -> list[Any]:
    """Every leaf, in the order of `tree_items`."""
    if tree is None:
        return []
    if not isinstance(tree, (dict, list, tuple)):
        return [tree]
    children = tree.values() if isinstance(tree, dict) else tree
    return [leaf for child in children for leaf in tree_leaves(child)]


def tree_map(f: Callable[..., Any], tree: Nest, *others: Nest, path: str = "") -> Nest:
    """The nest of `tree` with `f(leaf, *leaves of the others)` at every leaf.

    Raises:
        ValueError: another nest differs from the first; names the place, what is there and what was wanted.
    """
    if tree is None:
        return None
    if isinstance(tree, dict):
        for other in others:
            if not isinstance(other, dict) or other.keys() != tree.keys():
                raise ValueError(f"nests differ at {path or 'the top'}: {_outline(other)} against {_outline(tree)}")
        return {k: tree_map(f, tree[k], *(o[k] for o in others), path=f"{path}[{k!r}]") for k in tree}
    if isinstance(tree, (list, tuple)):
        for other in others:
            if not isinstance(other, (list, tuple)) or len(other) != len(tree):
                raise ValueError(f"nests differ at {path or 'the top'}: {_outline(other)} against {_outline(tree)}")
        children = [tree_map(f, *row, path=f"{path}[{i}]") for i, row in enumerate(zip(tree, *others, strict=True))]
        return _like(tree, children)
    for other in others:
        if isinstance(other, (dict, list, tuple)) or other is None:
            raise ValueError(f"nests differ at {path or 'the top'}: {_outline(other)} against an array")
    return f(tree, *others)


def tree_fill(tree: Nest, leaves: Iterable[Any]) -> Nest:
    """The nest of `tree` with `leaves`, given in the order of `tree_items`, in place of its own."""
    return _fill(tree, iter(leaves))


def _fill(tree: Nest, supply: Iterator[Any]) -> Nest:
    if tree is None:
        return None
    if isinstance(tree, dict):
        return {key: _fill(child, supply) for key, child in tree.items()}
    if isinstance(tree, (list, tuple)):
        return _like(tree, [_fill(child, supply) for child in tree])
    return next(supply)


def _like(tree: list | tuple, children: list) -> list | tuple:
    """A list, a tuple or a namedtuple, as `tree` is."""
    return type(tree)(*children) if hasattr(tree, "_fields") else type(tree)(children)


def _outline(tree: Nest) -> str:
    if isinstance(tree, dict):
        return f"a dict with keys {list(tree)}"
    if isinstance(tree, (list, tuple)):
        return f"a {type(tree).__name__} of {len(tree)}"
    return "nothing (None)" if tree is None else f"a leaf of type {type(tree).__name__}"
