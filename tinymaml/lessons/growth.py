"""Three tasks with two parameters: curves of growth and decay, ŷ = a exp(b x), seen at a few points.

It has a loss and its data:

    loss(theta, x, y)      the mean squared error of θ = (a, b)
    TASKS                  ((xs, ys), (xq, yq)), each with the three tasks on axis 0
    CURVES                 the three (a, b) behind them
"""

from __future__ import annotations

import numpy as np

CURVES = np.array([(1.4, 0.5), (0.7, -0.7), (1.35, -0.45)])
XS, XQ = np.linspace(-1, 1, 5), np.linspace(-0.8, 0.9, 5)


def loss(theta, x, y):
    """Mean squared error of the curve θ = (a, b), shape (2,), on points x, y, shape (n,)."""
    a, b = theta[0], theta[1]
    return np.mean((a * np.exp(b * x) - y) ** 2)


def _points(x):
    a, b = CURVES[:, :1], CURVES[:, 1:]
    return np.tile(x, (len(CURVES), 1)), a * np.exp(b * x)


TASKS = (_points(XS), _points(XQ))
