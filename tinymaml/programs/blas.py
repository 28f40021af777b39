"""BLAS: SciPy's, found by address, held to one thread while it is ours, with the kernels that suit the processor.

OpenBLAS reads `OPENBLAS_CORETYPE` when it is loaded, and takes AVX2 kernels on some AMD processors that have AVX-512.
If nobody has set the variable, and SciPy's BLAS is not loaded yet, it is loaded with AVX-512 kernels. NumPy has a BLAS
of its own, which stays as it is; so does the number of threads that SciPy's has outside our calls.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ..extras import require


class Blas:
    """`address("f4")`: where sgemm lies; `with blas:` one thread."""

    def __init__(self):
        _load()
        found = require("threadpoolctl", "fast").ThreadpoolController().select(user_api="blas").lib_controllers
        # its wheels have one in a folder of their own; elsewhere it shares one with others
        own = [x for x in found if any(part.startswith("scipy") for part in Path(x.filepath).parent.parts)]
        self.libraries = own or found

    def address(self, code: str) -> int:
        from numba.extending import get_cython_function_address

        return get_cython_function_address("scipy.linalg.cython_blas", {"f4": "sgemm", "f8": "dgemm"}[code])

    def __enter__(self) -> Blas:
        self.before = [library.num_threads for library in self.libraries]
        for library in self.libraries:
            library.set_num_threads(1)
        return self

    def __exit__(self, *_) -> None:
        for library, threads in zip(self.libraries, self.before, strict=True):
            library.set_num_threads(threads)


def _load() -> None:
    chosen = "scipy.linalg" not in sys.modules and "OPENBLAS_CORETYPE" not in os.environ and _amd_with_avx512()
    if chosen:
        os.environ["OPENBLAS_CORETYPE"] = "SKYLAKEX"
    try:
        require("scipy.linalg.cython_blas", "fast")
    finally:
        if chosen:
            del os.environ["OPENBLAS_CORETYPE"]


def _amd_with_avx512() -> bool:
    try:
        about = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    flags = "AuthenticAMD", " avx512f ", " avx512bw ", " avx512dq ", " avx512vl "
    return all(flag in about for flag in flags)
