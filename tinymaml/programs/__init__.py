"""Programs: a function as equations, which are printed, replayed, simplified, laid out and compiled.

Read in this order:

    program     record, print, replay                  tracing     what a function meets while it is recorded
    guards      what it reads besides its arguments    shapes      what a primitive returns, without computing it
    passes      fewer and cheaper equations            task        what is run for each task
    schedule    equations → fused loops, kernels       source      loops → Numba source
    loop        a function of one element → of all     machine     pointers, BLAS, kernels, what threads do
    cache       source → machine code, kept on disk    threads     who runs which tasks
    runners     all tasks, in NumPy or machine code    verify      is a result the function's own?
    compiled    the call, and what happens when it cannot be done
"""

from .cache import CacheWarning
from .compiled import Compiled, CompileWarning, compile
from .program import Program, RecordError, record

__all__ = ["CacheWarning", "CompileWarning", "Compiled", "Program", "RecordError", "compile", "record"]
