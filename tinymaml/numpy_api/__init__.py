"""NumPy on tensors: `np.tanh(x @ w)`, `np.mean(...)`, `np.einsum(...)` work, and are exact at every order.

NumPy hands any call with a tensor in it to `Tensor.__array_ufunc__` or `Tensor.__array_function__`; both look the
function up in `table.NUMPY`. A function is either one primitive or a few lines of them; to add one, write it into the
file of its subject, and put `@numpy_function(np.its_name)` above it. What is missing says so, and what to write
instead.

    table         the table, and the way into it        elementwise   ufuncs, clip, where
    reductions    sum, mean, var, max, prod, …          shapes        reshape, transpose, concatenate, pad, …
    indexing      x[…], take, take_along_axis           products      matmul, dot, tensordot, einsum
    matrices      trace, diag, tril, …                  linalg        norm, …
    complexes     real, imag, conj, angle               fft           Fourier transforms
    methods       operators' words and methods of Tensor

Read next: `nn`.
"""

from . import complexes, elementwise, fft, indexing, linalg, matrices, methods, products, reductions, shapes  # noqa: F401
from .methods import placeholder
from .table import NUMPY, as_array, numpy_function, numpy_name, unsupported

__all__ = ["NUMPY", "as_array", "numpy_function", "numpy_name", "placeholder", "unsupported"]
