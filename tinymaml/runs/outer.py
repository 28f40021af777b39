"""The outer loop's options: its rate over the iterations, its optimiser, and how the tasks' gradients become one step.

    meta, state = optimizer(settings, i).update(meta, gradient, state)          β at iteration i
    value, gradient = sharp(f, settings.sharpness)(meta, ...)                    G(θ + ρ G/‖G‖)

Read next: `learner`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .. import optim
from ..algorithms.perturbed import sharpened
from ..algorithms.proximal import robust_weights
from .settings import option


@dataclass(frozen=True)
class Settings:
    """Options of the outer loop."""

    meta_lr: float = option(0.006, "β, rate of the outer loop", least=0)
    optimizer: str = option("adam", "optimiser of the outer loop", choices=("adam", "sgd", "momentum"))
    schedule: str = option(
        "inverse", "β over the iterations: β / (1 + i / decay), or linearly or by a cosine from β to final_lr",
        choices=("inverse", "linear", "cosine", "constant"),
    )  # fmt: skip
    decay: int = option(
        2000, "with schedule inverse, β is divided by 1 + i / decay; 0 keeps it constant", least=0,
        where={"schedule": ("inverse",)},
    )  # fmt: skip
    final_lr: float = option(
        0.0, "with schedule linear or cosine, β after the last iteration", least=0,
        where={"schedule": ("linear", "cosine")},
    )  # fmt: skip
    tasks: int = option(25, "tasks of a meta-gradient", least=1)
    iterations: int = option(6000, "meta-gradients in all", least=1, most=10**8 - 1)
    robust: float = option(
        0.0, "η of task-robust weights, larger for tasks with a larger loss; 0: all equal", least=0, most=1e100
    )
    sharpness: float = option(0.0, "ρ of a sharpness-aware outer step, which takes two meta-gradients; 0: off", least=0)
    dtype: str = option("float32", "floating type", choices=("float32", "float64"))
    seed: int = option(0, "seed of everything that is random", least=0, most=2**128 - 1)
    save_every: int = option(100, "iterations between checkpoints", least=1)
    validate_every: int = option(100, "iterations between validations", least=1)
    validation_tasks: int = option(100, "tasks of a validation", least=1)
    compile: bool = option(True, "meta-gradients in machine code; --no-compile: by the reference")


def asks_for_the_end(settings: Settings) -> bool:
    """Whether β depends on how many iterations there will be."""
    return settings.schedule in ("linear", "cosine")


def rate(settings: Settings, iteration: int) -> float:
    """β at an iteration, from 0.

    >>> from tinymaml.runs.outer import Settings, rate
    >>> settings = Settings(meta_lr=0.1, schedule="linear", iterations=10)
    >>> rate(settings, 0), rate(settings, 5)
    (0.1, 0.05)
    """
    beta, final, done = settings.meta_lr, settings.final_lr, iteration / settings.iterations
    if settings.schedule == "inverse" and settings.decay:
        # βᵢ = β / (1 + i / decay): it does not depend on how long the run will be, so a run can always be made longer
        return beta / (1 + iteration / settings.decay)
    if settings.schedule == "linear":
        # βᵢ = β + (β_final − β) i / I
        return beta + (final - beta) * done
    if settings.schedule == "cosine":
        # βᵢ = β_final + (β − β_final) (1 + cos(π i / I)) / 2   (Loshchilov and Hutter, 2017, without restarts)
        return final + (beta - final) * (1 + math.cos(math.pi * done)) / 2
    return beta


def optimizer(settings: Settings, iteration: int = 0) -> optim.Optimizer:
    """The optimiser of an iteration. Its state does not depend on the rate."""
    return getattr(optim, settings.optimizer)(rate(settings, iteration))


def task_weights(losses: np.ndarray, eta: float) -> np.ndarray:
    """(tasks,): T p, by which the tasks' gradients are multiplied, so that their mean is Σ pₜ ∇Fₜ.

    p is a step of ascent from equal weights (Collins, Mokhtari and Shakkottai, NeurIPS 2020). There the tasks are the
    same in each iteration, and p is kept; here they are new ones.

    >>> from tinymaml.runs.outer import task_weights
    >>> task_weights(np.array([1.0, 3.0]), eta=0.1)
    array([0.8, 1.2])
    """
    equal = np.full(len(losses), 1 / len(losses))
    return len(losses) * robust_weights(equal, np.asarray(losses, float), eta)


def sharp(gradient: Callable, rho: float) -> Callable:
    """`gradient(meta, tasks, *shared)`, with ρ > 0 taken at meta + ρ G/‖G‖ (Abbas et al., ICML 2022)."""
    return sharpened(gradient, rho) if rho else gradient
