"""The cost of one operation on a tiny array beside its arithmetic, in nanoseconds: a chain of 1,000 on 4 numbers.

This command measures it:

    python -m bench overhead
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import numpy as np

import tinymaml as tm

LENGTH = 1000


def chain(x):
    """x ← 0.999 x + 0.001, 500 times."""
    for _ in range(LENGTH // 2):
        x = x * 0.999 + 0.001
    return x


def ways() -> dict[str, Callable[[], object]]:
    x = np.ones(4)
    tensor, program = tm.Tensor(x), tm.record(chain, x)
    found = {
        "NumPy": lambda: chain(x),
        "tinymaml, recording": lambda: chain(tensor),
        "tinymaml, recording and gradient": lambda: tm.grad(lambda x: np.sum(chain(x)))(x),
        "tinymaml, replay": lambda: program(x),
    }
    try:
        import torch
    except ImportError:
        return found
    plain, leaf = torch.ones(4), torch.ones(4, requires_grad=True)
    return found | {
        "PyTorch eager": lambda: chain(plain),
        "PyTorch eager, recording": lambda: chain(leaf),
        "PyTorch eager, recording and gradient": lambda: torch.autograd.grad(chain(leaf).sum(), leaf),
    }


def measure(turns: int) -> dict[str, float]:
    """Nanoseconds an operation: the median over rounds in which each way has its turn."""
    found = ways()
    seconds: dict[str, list[float]] = {name: [] for name in found}
    for i in range(turns + 1):
        for name, call in found.items():
            start = time.perf_counter()
            for _ in range(5):
                call()
            if i:  # the first round warms up
                seconds[name].append((time.perf_counter() - start) / 5)
    return {name: 1e9 * median(s) / LENGTH for name, s in seconds.items()}
