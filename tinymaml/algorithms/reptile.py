"""Reptile (Nichol, Achiam and Schulman, 2018, arXiv 1803.02999): θ moves to where the steps on a task lead.

    θ ← θ + ε mean_t(θ_K − θ)        (algorithms 1 and 2)

G = θ − θ_K stands for a gradient, and ε, which is `meta_lr`, falls to 0 linearly.

No derivative of an inner step is taken. With g₁, g₂ the gradients of the first two batches at θ, and H of the second,
two steps of SGD give G = α (g₁ + g₂ − αHg₁) + O(α³): the term with H is what makes θ easy to adapt (section 5.1), and
with K = 1, Reptile is joint training on the support sets. The paper's batched form is the mean over tasks; its serial
form is `--tasks 1`.

In the original code (openai/supervised-reptile), the inner optimiser is Adam with β₁ = 0, whose second moments and
count of steps go on from task to task and from meta-iteration to meta-iteration; in the evaluation, every task begins
with those of the training. Here the state is zero at the start of each task; with `carry_state` it goes on while
training (of several tasks at a time, their mean does), and `adapt` begins with zero. The original draws its batches
without replacement and shuffles anew when all are used up; here one slice follows another, cyclically, since families
give the examples of a task in a random order. Its tasks in training have more shots than those of its evaluation.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..nest import tree_leaves, tree_map
from ..runs.settings import option
from . import inner
from .inner import init, nth, optimizer, steps  # noqa: F401

defaults = {"optimizer": "sgd", "meta_lr": 1.0, "schedule": "linear"}


@dataclass(frozen=True)
class Settings(inner.Settings):
    inner_steps: int = option(5, "K, gradient steps of the inner loop in training", least=0)
    inner_beta1: float = option(0.0, "β₁ of Adam inside: the mean of gradients", least=0, where=inner.ADAM)
    inner_batch: int = option(0, "support examples of an inner step, one slice after another; 0: all", least=0)
    carry_state: bool = option(False, "the inner optimiser's state goes on from task to task, as in the original code")


def adapt(loss, theta, support, settings):
    return (theta for theta, _ in steps(loss, theta, batches(support, settings.inner_batch), settings))


def of_task(loss, theta, support, query, settings, carried=None):
    path = steps(loss, theta, batches(support, settings.inner_batch), settings, carried)
    adapted, state = nth(path, settings.inner_steps)
    value, aux = loss(adapted, *query)
    # G = θ − θ_K
    gradient = tree_map(operator.sub, theta, adapted)
    return (value, aux if carried is None else {"aux": aux, "carried": state}), gradient


def carried(theta, settings):
    """The state of the inner optimiser, in floats: its mean over tasks is taken. None: each task begins with zero."""
    if not settings.carry_state:
        return None
    return tree_map(lambda x: x.astype(np.result_type(x, 1.0)), optimizer(settings).init(theta))


def batches(support: tuple, size: int) -> Iterator[tuple]:
    """`size` examples of the support set after `size` others, cyclically, without end; 0: always all.

    >>> from itertools import islice
    >>> from tinymaml.algorithms.reptile import batches
    >>> [x.tolist() for (x,) in islice(batches((np.arange(3),), 2), 3)]
    [[0, 1], [2, 0], [1, 2]]
    """
    count = len(tree_leaves(support)[0])
    if not 0 < size < count:
        yield from itertools.repeat(support)
    for k in itertools.count():
        rows = np.arange(k * size, (k + 1) * size) % count
        yield tree_map(lambda x, rows=rows: x[rows], support)
