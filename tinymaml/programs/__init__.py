"""Programs: a function as equations, which are printed, replayed, simplified, laid out and compiled.

Read in this order:

    program     record, print, replay                  tracing     what a function meets while it is recorded
    guards      what it reads besides its arguments    shapes      what a primitive returns, without computing it
    passes      fewer and cheaper equations            task        what is run for each task
    views       values as memory                       fusion      which equations share a loop
    lowering    equations → loops and kernels          placement   where in memory everything lies
    source      steps → Numba source                   loop        a function of one element → of all
    machine     pointers, BLAS, kernels, threads' work cache       source → machine code, kept on disk
    threads     who runs which tasks                   runners     all tasks, in NumPy or machine code
    verify      is a result the function's own?        direct      kernels that are called outside programs
    compiled    the call, and what happens when it cannot be done

A primitive is described where it is defined: its shapes, the expression or kernel that computes it, and what rounding
does to it (`tinymaml.description`).
"""

from . import direct  # noqa: F401 (which gives `tinymaml.kernels` their machine code)
from .cache import CacheWarning
from .compiled import Compiled, CompileWarning, compile
from .program import Program, RecordError, record

__all__ = ["CacheWarning", "CompileWarning", "Compiled", "Program", "RecordError", "compile", "record"]
