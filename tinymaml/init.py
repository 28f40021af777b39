"""Initialisers: arrays to start from, each from an explicit `np.random.Generator`. Public as `tm.nn.he_normal`, ….

    w = he_normal(rng, (3, 3, 64, 64), np.float32)

The last two axes of a weight are in, out; those before them (a filter's height and width) count as fan-in.
"""

from __future__ import annotations

import numpy as np


def zeros(shape: tuple[int, ...], dtype=np.float64) -> np.ndarray:
    return np.zeros(shape, dtype)


def normal(rng: np.random.Generator, shape: tuple[int, ...], std: float = 1.0, dtype=np.float64) -> np.ndarray:
    """𝒩(0, std²)."""
    return (std * rng.standard_normal(shape)).astype(dtype)


def truncated_normal(
    rng: np.random.Generator, shape: tuple[int, ...], std: float = 0.01, dtype=np.float64
) -> np.ndarray:
    """𝒩(0, std²), with what falls beyond two standard deviations drawn again (as in MAML's original code)."""
    x = rng.standard_normal(shape)
    while (outside := np.abs(x) > 2).any():
        x[outside] = rng.standard_normal(int(outside.sum()))
    return (std * x).astype(dtype)


def glorot_uniform(rng: np.random.Generator, shape: tuple[int, ...], dtype=np.float64) -> np.ndarray:
    """U(−a, a), a = √(6 / (fan in + fan out)): Glorot and Bengio, 2010, eq. 16. The last two axes are in, out."""
    a = np.sqrt(6 / (_fan_in(shape) + int(np.prod(shape[:-2], dtype=int)) * shape[-1]))
    return rng.uniform(-a, a, shape).astype(dtype)


def he_normal(rng: np.random.Generator, shape: tuple[int, ...], dtype=np.float64) -> np.ndarray:
    """𝒩(0, 2 / fan in): He et al., 2015, eq. 10. The last two axes are in, out."""
    return normal(rng, shape, float(np.sqrt(2 / _fan_in(shape))), dtype)


def _fan_in(shape: tuple[int, ...]) -> int:
    if len(shape) < 2:
        raise ValueError(f"a weight of shape {shape} has no fan-in; wanted at least two axes, the last two in, out")
    return int(np.prod(shape[:-1], dtype=int))
