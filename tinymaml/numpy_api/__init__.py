"""NumPy on tensors: `np.tanh(x @ w)`, `np.mean(...)`, `np.einsum(...)` work, and are exact at every order.

NumPy hands any call with a tensor in it to `Tensor.__array_ufunc__` or `Tensor.__array_function__`; both look the
function up in `table.NUMPY`. A function is either one primitive or a few lines of them; to add one, write it into the
file of its subject, and put `@numpy_function(np.its_name)` above it. An error names a missing function, and the code to
write instead.

    table         the table, and the way into it        elementwise   ufuncs, clip, where
    reductions    sum, mean, var, max, prod, cov, …     nan           nansum, nanmean, nanmax, …
    cumulative    cumsum, cumprod, diff, gradient, …    sorting       sort, searchsorted, histogram, unique, …
    quantiles     median, quantile, percentile          shapes        reshape, transpose, concatenate, …
    indexing      x[…], take, take_along_axis           choosing      nonzero, select, choose, piecewise, …
    building      append, insert, linspace, grids, …    padding       pad
    curves        interp, convolve, polyval             products      matmul, dot, tensordot, einsum
    matrices      trace, diag, tril, …                  linalg        solve, det, eigh, svd, norm, …
    complexes     real, imag, conj, angle               fft           Fourier transforms
    ufuncs        reduce, accumulate, outer, dtype=     special       scipy.special's ufuncs
    methods       methods of Tensor, and conversions    decompositions    the primitives of linalg
    refused       what tensors refuse, in which words

Read next: `nn`.
"""

import sys
from collections.abc import Callable

from ..engine import refusal
from . import (  # noqa: F401
    building,
    choosing,
    complexes,
    cumulative,
    curves,
    elementwise,
    fft,
    indexing,
    linalg,
    matrices,
    methods,
    nan,
    padding,
    products,
    quantiles,
    reductions,
    shapes,
    sorting,
    ufuncs,
)
from .methods import placeholder
from .refused import numpy_name, unsupported
from .table import ELSEWHERE, NUMPY, as_array, numpy_function

__all__ = ["NUMPY", "as_array", "numpy_function", "numpy_name", "placeholder", "unsupported"]


def of_scipy(f: Callable) -> Callable | None:
    """A ufunc of scipy.special on tensors. Its caller has imported SciPy, which the engine does not need."""
    theirs = sys.modules.get("scipy.special")
    if theirs is None or getattr(theirs, f.__name__, None) is not f:
        return None
    from .special import SCIPY

    if f not in SCIPY:
        raise refusal(NotImplementedError(
            f"scipy.special.{f.__name__} on tensors is not supported; `tinymaml.numpy_api.special.SCIPY` lists what is"
        ))  # fmt: skip
    return SCIPY[f]


ELSEWHERE.append(of_scipy)
