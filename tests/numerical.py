"""The derivative of a scalar function of a nest, element by element, by finite differences or by the complex step."""

from collections.abc import Callable
from contextlib import nullcontext

import numpy as np

from tinymaml.check import complex_step
from tinymaml.nest import Nest, tree_fill, tree_items

H = 1e-5


def numerical(value: Callable[[Nest], complex], nest: Nest, how: str) -> dict[str, np.ndarray]:
    """{path: ∂value/∂nest}, `how` being "finite differences" or "complex step"."""
    at = lambda path, i, by: value(moved(nest, path, i, by))  # noqa: E731
    by = {
        "finite differences": lambda *place: (at(*place, H) - at(*place, -H)) / (2 * H),
        "complex step": lambda *place: np.imag(at(*place, 1e-30j)) / 1e-30,
    }[how]
    with complex_step() if how == "complex step" else nullcontext():
        return {path: np.array([by(path, i) for i in np.ndindex(x.shape)]) for path, x in tree_items(nest)}


def moved(nest: Nest, path: str, index: tuple, by: complex) -> Nest:
    """The nest with one element moved."""
    leaves = []
    for where, x in tree_items(nest):
        x = np.array(x, np.result_type(x, by))
        if where == path:
            x[index] += by
        leaves.append(x)
    return tree_fill(nest, leaves)
