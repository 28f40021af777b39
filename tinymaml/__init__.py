"""tinymaml: exact second-order MAML in pure NumPy, small enough to read and proved right.

Read in this order; the first sitting, after `nest`, is the whole idea, in less than 1,000 lines:

    nest         dicts, lists and tuples of arrays
    engine       Tensor, Primitive, grad, vjp, jvp, hvp             ┐
    primitives   the primitives of MAML's gradients, and the rules  │
    nn           layers and losses, composed of them                │  the first sitting
    maml         adapt, meta_loss, meta_value_and_grad              │
    numpy_api/   … table: the way of np.tanh to a tensor            ┘

    numpy_api/   NumPy's functions on tensors, by subject            ops        all primitives, conventions at kinks
    per_task     a function of one task, for all tasks               flat       memory that does not grow with K
    inputs       checks of the inputs of a function of tasks         optim      SGD, momentum, Adam
    layers       pooling, embeddings, sigmoids                       normalise  batch norm and its kin, dropout
    check        checks of derivatives, at any order                 init       initialisers
    arrays       arrays of a user's values, or a refusal             diagnose   the origin of a NaN
    modes        recording, and complex steps                        kernels    NumPy twins of loops in machine code
    description  facts about a primitive for programs                axes       axes, as NumPy takes them
    differentiable  checks of what is to be differentiated

    algorithms/  one file each, like its paper                       families/  sources of tasks: sine waves, …
    networks/    MLP, convolution                                    runs/      settings, outer loop, evaluation
    rl/          policies that act: surrogates, environments
    pictures/    pictures of a run, and of several                   cli        the command line
    files        files that are whole or absent                      blas       a limit on the threads of BLAS
    extras       packages that are optional                          doctor     facts for the report of a fault
    programs/    record, print, replay, simplify, compile: one task's program, run for all tasks in machine code
    oracle/      checks of anyone's meta-gradient, which name the mistake
    lessons/     chapters in Python that derive, run, draw and verify a meta-gradient, and make a page

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
    """Load a trained model: see `runs.model.load`, which has the same arguments and errors.

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
