"""Initialisers: arrays to start from, each from an explicit `np.random.Generator`. Public as `tm.nn.he_normal`, ….

    w = he_normal(rng, (3, 3, 64, 64), np.float32)

The last two axes of a weight are in, out; those before them (a filter's height and width) count as fan-in.
"""

from __future__ import annotations

import numpy as np


def zeros(shape: tuple[int, ...], dtype=np.float64) -> np.ndarray:
    """0, everywhere.

    >>> tm.nn.zeros((2,), np.float32)
    array([0., 0.], dtype=float32)
    """
    return np.zeros(shape, dtype)


def normal(rng: np.random.Generator, shape: tuple[int, ...], std: float = 1.0, dtype=np.float64) -> np.ndarray:
    """𝒩(0, std²).

    >>> tm.nn.normal(np.random.default_rng(0), (10_000,), std=0.1).std().round(2)
    np.float64(0.1)
    """
    return (std * rng.standard_normal(shape)).astype(dtype)


def truncated_normal(
    rng: np.random.Generator, shape: tuple[int, ...], std: float = 0.01, dtype=np.float64
) -> np.ndarray:
    """𝒩(0, std²), with what falls beyond two standard deviations drawn again (as in MAML's original code).

    >>> w = tm.nn.truncated_normal(np.random.default_rng(0), (10_000,), std=0.01)
    >>> np.abs(w).max() <= 0.02
    np.True_
    """
    x = rng.standard_normal(shape)
    while (outside := np.abs(x) > 2).any():
        x[outside] = rng.standard_normal(int(outside.sum()))
    return (std * x).astype(dtype)


def glorot_uniform(rng: np.random.Generator, shape: tuple[int, ...], dtype=np.float64) -> np.ndarray:
    """U(−a, a), a = √(6 / (fan in + fan out)): Glorot and Bengio, 2010, eq. 16. The last two axes are in, out.

    ValueError: a shape with fewer than two axes.

    >>> w = tm.nn.glorot_uniform(np.random.default_rng(0), (300, 100))
    >>> np.abs(w).max().round(3), np.sqrt(6 / 400).round(3)
    (np.float64(0.122), np.float64(0.122))
    """
    a = np.sqrt(6 / (_fan_in(shape) + int(np.prod(shape[:-2], dtype=int)) * shape[-1]))
    return rng.uniform(-a, a, shape).astype(dtype)


def he_normal(rng: np.random.Generator, shape: tuple[int, ...], dtype=np.float64) -> np.ndarray:
    """𝒩(0, 2 / fan in): He et al., 2015, eq. 10. The last two axes are in, out.

    ValueError: a shape with fewer than two axes.

    >>> tm.nn.he_normal(np.random.default_rng(0), (200, 300)).std().round(2)  # it is √(2 / 200)
    np.float64(0.1)
    """
    return normal(rng, shape, float(np.sqrt(2 / _fan_in(shape))), dtype)


def _fan_in(shape: tuple[int, ...]) -> int:
    if len(shape) < 2:
        raise ValueError(f"a weight of shape {shape} has no fan-in; wanted at least two axes, the last two in, out")
    return int(np.prod(shape[:-1], dtype=int))
