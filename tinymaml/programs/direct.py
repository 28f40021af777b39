"""Direct calls: a kernel of `machine` as a C function of its own, for arrays outside a compiled program.

Importing this module gives the functions of `tinymaml.kernels` their machine code: each is compiled when it is first
called with a dtype, or taken from the cache, and runs the same loop as in a compiled program.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from contextlib import suppress

import numpy as np

from .. import kernels
from .cache import load
from .source import kernel_file, kernel_line
from .views import Unsupported, code

FUNCTION = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)  # kernel, memory, step


def kernel_source(name: str, step: list) -> str:
    """The source of a kernel for steps like this one: arrays for their places in memory, and numbers."""
    kinds = [code(x.dtype) for x in step if isinstance(x, np.ndarray)]
    return kernel_file(kernel_line(name, kinds, len(step) - len(kinds)))


def function(name: str, step: list) -> Callable | None:
    """The C function, None where Numba is missing, switched off, or refuses."""
    if os.environ.get("TINYMAML_NUMBA") != "0":
        with suppress(ImportError, Unsupported):
            return FUNCTION(load(kernel_source(name, step)).address(0))
    return None


kernels.compiler = function
