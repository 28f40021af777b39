"""Programs: a function as equations, which are printed, replayed, simplified, laid out and compiled.

Read in this order:

    program     record, print, replay                  passes      fewer and cheaper equations
    task        what is run for each task              schedule    equations → fused loops, kernels, buffers
    source      loops → Numba source                   loop        a function of one element → a loop over all
    machine     pointers, BLAS, kernels, all tasks     cache       source → machine code, kept in a folder
    blas        SciPy's, on one thread                 compiled    the call, and what happens when it cannot be done
"""

from .cache import CacheWarning
from .compiled import Compiled, CompileWarning, compile
from .program import Program, RecordError, record

__all__ = ["CacheWarning", "CompileWarning", "Compiled", "Program", "RecordError", "compile", "record"]
