"""Activations, x → (y, dy/dx), over any numbers: those of the models, and what code has in their place.

    ACTIVATIONS["silu"](x)                 (x σ(x), its slope)
    instead_of("relu", "silu for relu")    the same function; None if the layer stays as it is

Where a formula has branches, `side` chooses if the derivative has a kink there, and `sign` if it has none.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .arithmetic import bend, erf, hold, side, sign


def tanh(x):
    y = np.tanh(x)
    return y, 1 - y * y


def square(x):
    return x * x, x * 2


def softplus(x):
    positive = sign(x) > 0
    small = np.exp(x * np.where(positive, -1, 1))  # e^−|x|
    return x * positive + _log1p(small), np.where(positive, 1 / (1 + small), small / (1 + small))


def _log1p(x):
    return np.log(1 + x) if x.dtype == object else np.log1p(x)


def sigmoid(x):
    _, y = softplus(x)
    return y, y * (1 - y)


def _relu(x):
    above = (side(x) > 0) * 1
    return x * above, x * 0 + above


def _leaky_relu(x):
    above = side(x) > 0
    return np.where(above, x, x * 0.01), np.where(above, x * 0 + 1, x * 0 + 0.01)


def _absolute(x):
    which = side(x)
    return x * which, x * 0 + which


def _elu(x):
    positive = side(x) >= 0
    below = np.exp(np.where(positive, 0 * x, x))
    return np.where(positive, x, below - 1), np.where(positive, 0 * x + 1, below)


def _selu(x):
    scale, a = 1.0507009873554805, 1.6732632423543772
    which = side(x)
    below = np.exp(np.where(which > 0, 0 * x, x)) * a
    # At 0 the slope is that from below, and PyTorch takes it for a constant there.
    slope = np.where(which == 0, hold(below) + 0 * x, below)
    return np.where(which > 0, x, below - a) * scale, np.where(which > 0, 0 * x + 1, slope) * scale


def _gelu(x):
    half = (1 + erf(x * 0.5**0.5)) / 2  # Φ(x)
    return x * half, half + x * np.exp(x * x * -0.5) * (2 * np.pi) ** -0.5


def _tanh_gelu(x):
    root = (2 / np.pi) ** 0.5
    t = np.tanh((x + x * x * x * 0.044715) * root)
    return x * (1 + t) / 2, (1 + t) / 2 + x * (1 - t * t) * (1 + x * x * (3 * 0.044715)) * root / 2


def _silu(x):
    y, slope = sigmoid(x)
    return x * y, y + x * slope


def _softsign(x):
    """x / (1 + |x|), whose slope has no jump at 0."""
    below = 1 + x * sign(x)
    return x / below, 1 / (below * below)


def _hard_tanh(x):
    low, high = side(x + 1) < 0, side(x - 1) > 0
    inside = (~low & ~high) * 1
    return x * inside + high - low * 1, x * 0 + inside


def _rational_tanh(x):
    """x (27 + x²) / (27 + 9x²), Padé's approximant."""
    s = x * x
    below = 27 + s * 9
    return x * (27 + s) / below, (s - 9) * (s - 9) * 9 / (below * below)


def _tanh_of_half(x):
    """2σ(x) − 1 = tanh(x/2)"""
    y, slope = sigmoid(x)
    return 2 * y - 1, 2 * slope


def _lecun_tanh(x):
    """1.7159 tanh(2x/3)"""
    y, slope = tanh(x * (2 / 3))
    return y * 1.7159, slope * (1.7159 * 2 / 3)


ACTIVATIONS: dict[str, Callable] = {
    "tanh": tanh, "square": square, "softplus": softplus, "sigmoid": sigmoid, "relu": _relu, "leaky relu": _leaky_relu,
    "abs": _absolute, "elu": _elu, "selu": _selu, "gelu": _gelu, "tanh gelu": _tanh_gelu, "silu": _silu,
    "softsign": _softsign, "hard tanh": _hard_tanh, "rational tanh": _rational_tanh, "tanh of x/2": _tanh_of_half,
    "LeCun's tanh": _lecun_tanh,
}  # fmt: skip

OF_MODELS = ("tanh", "relu", "softplus", "square")

# Wrong slopes of the layer's own activation f, from x, y = f(x) and f.
SLOPES: dict[str, Callable] = {
    "slope 1 − x²": lambda x, y, f: 1 - x * x,
    "slope 1 − y": lambda x, y, f: 1 - y,
    "slope y (1 − y)": lambda x, y, f: y * (1 - y),
    "slope 1": lambda x, y, f: x * 0 + 1,
    "slope at y": lambda x, y, f: f(y)[1],
    "slope squared": lambda x, y, f: f(x)[1] * f(x)[1],
    "slope halved": lambda x, y, f: f(x)[1] / 2,
    "slope 1 − f′": lambda x, y, f: 1 - f(x)[1],
    "slope y": lambda x, y, f: y,
}


def _crude(f: Callable, slope: Callable, bends: bool) -> Callable:
    """f with a wrong slope in its backward; with `bends`, wherever it is differentiated."""

    def crude(x):
        y, _ = f(hold(x) if bends else x)
        y = bend(x, y, slope(hold(x), y, f)) if bends else y
        return y, slope(x, y, f)

    return crude


def instead_of(layer: str, activation: str, bends: bool = True) -> Callable | None:
    """What stands in the place of a layer under "silu for relu" or "relu for any"; None if nothing does. `bends`: a
    wrong slope is that of the function's value, too."""
    name, _, of = activation.partition(" for ")
    if of != layer and not (of == "any" and layer in OF_MODELS and layer != name):
        return None
    return _crude(ACTIVATIONS[layer], SLOPES[name], bends) if name in SLOPES else ACTIVATIONS[name]
