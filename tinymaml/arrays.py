"""Arrays of what a user gives; types whose operations are their own are refused.

These are its functions:

    unchanging(x)              x as a constant of a record: a copy, if it may be written to later
    plain(x, "a tensor meets") an array, of a list or of another library; no masked array, no matrix
    stacked(x)                 the tensor of an array of tensors, which `np.array([t, u])` makes
    as_array_of("params", x)   an argument as an array of NumPy: of JAX, of PyTorch, of whatever has `__dlpack__`
"""

from __future__ import annotations

import numpy as np

NUMBERS = (np.generic, bool, int, float, complex)


_UNCHANGING: set[type] = set()  # the types that were met of tensors and numbers


def is_tensor(x) -> bool:
    """Whether x is a tensor of `engine`, which imports this file."""
    return hasattr(type(x), "primitive")


def unchanging(x):
    """x; for an array or list that may be written to later, a copy that is read-only.

    Raises:
        TypeError: x holds no numbers, or more than an array does: a mask, or the ways of a matrix.

    >>> from tinymaml.arrays import unchanging
    >>> x = np.zeros(2)
    >>> y = unchanging(x)
    >>> x[0] = 1.0
    >>> y, y.flags.writeable
    (array([0., 0.]), False)
    """
    kind = type(x)
    if kind in _UNCHANGING:
        return x
    if kind is not np.ndarray or x.dtype.kind not in "biufc":
        if x is None or isinstance(x, NUMBERS) or is_tensor(x):
            _UNCHANGING.add(kind)
            return x
        x = plain(x, "a tensor meets")
        if x.dtype.hasobject:
            return stacked(x)
    root = x
    while isinstance(root.base, np.ndarray):
        root = root.base
    if not root.flags.writeable and (root.base is None or isinstance(root.base, bytes)):
        return x
    copy = x[tuple([slice(None if step else 1) for step in x.strides])].copy("K")  # what was broadcast is copied once
    copy.setflags(write=False)
    return copy if copy.shape == x.shape else np.broadcast_to(copy, x.shape)


def plain(x, what: str) -> np.ndarray:
    """x as an array; its copy where it is a list, of this library or of another.

    Raises:
        TypeError: x is no array; or one with more to it than numbers: a mask, or the ways of a matrix.
    """
    if isinstance(x, (np.ma.MaskedArray, np.matrix)):
        kind = "masked array, whose mask" if isinstance(x, np.ma.MaskedArray) else "np.matrix, whose ways"
        raise TypeError(f"{what} a {kind} would be lost: wanted a plain array (np.asarray, or data and mask apart)")
    if not isinstance(x, (np.ndarray, list, tuple)) and not hasattr(x, "__array__"):
        raise TypeError(f"{what} a {type(x).__module__}.{type(x).__qualname__}, wanted an array or a number")
    x = x if isinstance(x, np.ndarray) else np.array(x)
    if x.dtype.kind not in "biufcO":
        raise TypeError(f"{what} an array of dtype {x.dtype}, wanted numbers")
    return x


def stacked(x, what: str = ""):
    """An array of tensors, as `np.array([t, u])` makes it, as one tensor; anything else as it is.

    Raises:
        TypeError: it holds other objects, or none of them is a tensor.
    """
    if not isinstance(x, np.ndarray) or not x.dtype.hasobject:
        return x
    odd = [part for part in x.flat if not isinstance(part, NUMBERS) and not is_tensor(part)]
    if odd or x.size and not any(map(is_tensor, x.flat)):
        kind = type(odd[0] if odd else x.flat[0])
        objects = f"an array of objects ({kind.__module__}.{kind.__qualname__})"
        raise TypeError(f"{what}{objects}, wanted numbers or tensors")
    return np.reshape(np.stack(list(x.flat)), x.shape) if x.size else x.astype(float)


def as_array_of(what: str, x):
    """x as an array of NumPy, or as it is: a tensor, or a number.

    Arrays of other libraries are taken as they lie in memory, by `__dlpack__`, or by `__array__`.

    Raises:
        TypeError: x is no array of numbers; or a masked array or a matrix, whose operations are their own.
    """
    kind = type(x)
    if kind is np.ndarray:
        return stacked(x, f"{what}: ")
    if isinstance(x, NUMBERS) or is_tensor(x):
        return x
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"{what} is a masked array, whose mask would be lost: give its data and its mask as two arrays")
    if isinstance(x, np.matrix):
        raise TypeError(f"{what} is a np.matrix, whose * is a matrix product: wanted an array (np.asarray)")
    if isinstance(x, np.ndarray):
        return x
    seen = f"{what} is a {kind.__module__}.{kind.__qualname__}".replace("builtins.", "")
    if not hasattr(x, "__dlpack__") and not hasattr(x, "__array__"):
        raise TypeError(f"{seen}, wanted an array of numbers")
    for convert in (np.from_dlpack, np.asarray):
        try:
            array = convert(x)
            break
        except Exception as error:  # of whatever library it is
            cause = error
    else:
        raise TypeError(f"{seen}, which does not become an array of NumPy: {cause}") from cause
    if array.dtype.kind not in "biufc":
        raise TypeError(f"{seen} of dtype {getattr(x, 'dtype', array.dtype)}, wanted numbers that NumPy knows")
    return array
