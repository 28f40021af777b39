"""Programs: a function as equations, which are printed, replayed, simplified, laid out and compiled.

Read in this order:

    program     record, print, replay                  tracing     what a function meets while it is recorded
    guards      what it reads besides its arguments    shapes      what a primitive returns, without computing it
    passes      fewer and cheaper equations            task        what is run for each task
    schedule    equations → fused loops, kernels       source      loops → Numba source, on disk
    loop        a function of one element → of all     machine     pointers, BLAS, kernels, all tasks
    blas        SciPy's, on one thread                 compiled    the call, and what happens when it cannot be done
"""

from .compiled import Compiled, CompileWarning, compile
from .program import Program, RecordError, record

__all__ = ["CompileWarning", "Compiled", "Program", "RecordError", "compile", "record"]
