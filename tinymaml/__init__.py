"""tinymaml: exact second-order MAML in pure NumPy, small enough to read and proved right.

Read in this order; the first sitting, after `nest`, is everything there is to understand, in less than 1,000 lines:

    nest         dicts, lists and tuples of arrays
    engine       Tensor, Primitive, grad, vjp, jvp, hvp             ┐
    primitives   what MAML's gradients are made of, and the rules   │
    nn           layers and losses, composed of them                │  the first sitting
    maml         adapt, meta_loss, meta_value_and_grad              │
    numpy_api/   … table: how np.tanh reaches a tensor              ┘

    numpy_api/   NumPy's functions on tensors, by subject            ops        all primitives, conventions at kinks
    per_task     what is done for one task, done for all             flat       memory that does not grow with K
    inputs       what a function of tasks accepts, and refuses       optim      SGD, momentum, Adam
    layers       pooling, embeddings, sigmoids                       normalise  batch norm and its kin, dropout
    check        is a derivative right, at any order?                init       initialisers
    arrays       what becomes an array, and what is refused          diagnose   where a NaN comes from
    modes        recording, and complex steps                        kernels    NumPy twins of loops in machine code
    description  what programs know about a primitive                axes       as NumPy takes them
    differentiable  what can be differentiated, and what is refused

    algorithms/  one file each, like its paper                       families/  where tasks come from: sine waves, …
    networks/    MLP, convolution                                    runs/      settings, outer loop, evaluation
    rl/          policies that act: surrogates, environments
    pictures/    of a run, and of several                            cli        the command line
    files        files that are whole or not there                   blas       the limit on its threads
    extras       packages that are optional                          doctor     what a report about a fault must say
    programs/    record, print, replay, simplify, compile: one task's program, run for all tasks in machine code
    oracle/      is my meta-gradient right, and if not, which mistake is it?
    lessons/     how a meta-gradient is derived, run, seen and verified: chapters in Python, which make a page

Examples in docstrings run as they stand, after `import numpy as np, tinymaml as tm`.
"""

from . import nn, ops, optim
from .check import GradientError, check_grads
from .diagnose import BroadcastWarning
from .engine import Primitive, Tensor, grad, hvp, jvp, stop_gradient, value_and_grad, vjp
from .maml import adapt, meta_loss, meta_value_and_grad
from .nest import tree_items, tree_leaves, tree_map
from .per_task import mean_over_tasks
from .programs import CacheWarning, CompileWarning, Program, RecordError, compile, record

__version__ = "0.1.0"


def load(path, iteration=None, data=None):
    """What a run has learned, to be used: see `runs.model.load`, which has the same arguments and errors.

    >>> from tinymaml.runs.loop import train
    >>> from tinymaml.runs.settings import Config
    >>> config = Config.default("sinusoid", iterations=1, compile=False)
    >>> run = train(config, "runs/waves", progress=False)
    >>> model, x = tm.load("runs/waves"), np.linspace(-1, 1, 5)[:, None]
    >>> model.adapt(x, np.sin(x), steps=3).predict(np.zeros((2, 1))).shape
    (2, 1)
    """
    from .runs import model  # which needs more than NumPy

    return model.load(path, iteration, data)


__all__ = [
    "BroadcastWarning", "CacheWarning", "CompileWarning", "GradientError", "Primitive", "Program", "RecordError",
    "Tensor", "adapt", "check_grads", "compile", "grad", "hvp", "jvp", "load", "mean_over_tasks", "meta_loss",
    "meta_value_and_grad", "nn", "ops", "optim", "record", "stop_gradient", "tree_items", "tree_leaves", "tree_map",
    "value_and_grad", "vjp",
]  # fmt: skip
