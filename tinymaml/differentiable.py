"""What the engine differentiates, and what it refuses: the checks of `engine`, each with its error.

floating(x, "args[0]")              an argument that is differentiated holds floating-point numbers
called(f, args)                     f(*args), where an error of NumPy's hides ours or is unclear
positions(f, argnums, args)         which of the arguments are differentiated
check_result(f, out, has_aux)       what f returned has a gradient: it is a scalar, with `has_aux` in a pair
unit_cotangent(out, has_aux)        what the pullback of f is given: 1 for the scalar, 0 for aux
cotangent_like(x, g)                a cotangent has the shape of its output, and is real where it is

This file knows tensors by their attributes, since `engine` imports it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial

import numpy as np

from .arrays import NUMBERS, is_tensor, plain, stacked
from .modes import analytic
from .nest import tree_map


def as_differentiable(x, path: str):
    """x, to be differentiated with respect to: a tensor or an array; a list or an array of tensors becomes one.

    Raises:
        TypeError: it holds integers, booleans or objects; `path` says where it stands.
    """
    unusual = x.dtype.hasobject if type(x) is np.ndarray else not (is_tensor(x) or isinstance(x, NUMBERS))
    if unusual:  # a list, an array of tensors, an array of another library
        what = f"cannot differentiate with respect to {path},"
        x = stacked(plain(x, what), f"{what} ")
    dtype = x.dtype if hasattr(x, "dtype") else np.result_type(x)
    if dtype.kind not in "fc":
        raise TypeError(
            f"cannot differentiate with respect to {path}: its dtype is {dtype}, wanted a floating-point array"
            " (convert with np.asarray(x, float), or close over what is constant)"
        )
    return x


def called(f: Callable, args: tuple):
    """f(*args); where NumPy's error is unclear, another in its place."""
    try:
        return f(*args)
    except (ValueError, TypeError) as error:
        if (clearer := _clearer(error)) is not None:
            raise clearer from None
        raise


def _clearer(error: Exception) -> BaseException | None:
    """The error to raise in place of NumPy's; None where NumPy's own is clear.

    `c[0] = x` asks a tensor for a number: we refuse, and NumPy hides our error behind its own.
    """
    if getattr(error.__cause__, "refused", False):
        return error.__cause__
    if str(error).startswith("loop of ufunc does not support argument"):
        return TypeError("np.array made an array of tensors and numbers, on which not every function of NumPy works:"
                         " np.stack makes one tensor of both")  # fmt: skip
    return None


def positions(f: Callable, argnums, args: tuple) -> tuple[int, ...]:
    """The positions in `args`, none of them negative, that `argnums` names.

    Raises:
        ValueError: it names no argument, or one of them twice.
    """
    given = tuple(map(operator.index, argnums if isinstance(argnums, (tuple, list)) else (argnums,)))
    if any(not -len(args) <= i < len(args) for i in given):
        raise ValueError(f"argnums={argnums}, but {name_of(f)} was called with {len(args)} positional arguments")
    wanted = tuple(i % len(args) for i in given)
    if len({*wanted}) < len(wanted):
        raise ValueError(f"argnums={argnums} names an argument twice")
    return wanted


def in_tuple(args) -> tuple:
    """Arguments as a tuple; one argument by itself is in a tuple of one."""
    return args if isinstance(args, tuple) else tuple(args) if isinstance(args, list) else (args,)


def check_result(f: Callable, out, has_aux: bool) -> None:
    """Refuse what has no gradient: see `check_scalar`; with `has_aux`, also what is no pair (scalar, aux)."""
    if has_aux and not (isinstance(out, tuple) and len(out) == 2):
        raise ValueError(f"{name_of(f)} must return a pair (scalar, aux), it returned a {type(out).__name__}")
    check_scalar(name_of(f), out[0] if has_aux else out)


def check_scalar(name: str, value) -> None:
    """Refuse a result that has no gradient. One real floating-point number has one; so has a Python integer, such as 0.

    Args:
        name: of the function that returned `value`, for the error.

    Raises:
        ValueError: the value is no scalar (of shape ()).
        TypeError: it is complex, a boolean or an integer.
    """
    value = stacked(value)
    known = is_tensor(value) or isinstance(value, (np.ndarray, np.generic, int, float))
    if not known or np.shape(value) != ():
        seen = f"shape {value.shape}" if hasattr(value, "shape") else type(value).__name__
        raise ValueError(f"{name} must return a scalar to be differentiated, it returned {seen}")
    dtype = value.dtype if is_tensor(value) else np.result_type(value)
    if dtype.kind not in ("fc" if analytic.get() else "f") and type(value) is not int:
        of_complex, of_count = "which number is meant, np.real(z) or np.abs(z)?", "a count or a comparison has no slope"
        why = of_complex if dtype.kind == "c" else of_count
        raise TypeError(f"{name} must return a floating-point number to be differentiated, it returned {dtype}: {why}")


def cotangent_like(x, g):
    """g as a cotangent of the output x.

    Raises:
        TypeError: g is complex, and x is real.
        ValueError: their shapes differ.
    """
    if not is_tensor(g):
        g = np.asarray(g, None if np.iscomplexobj(g) else x.dtype)
    if g.dtype.kind == "c" and x.dtype.kind != "c" and not analytic.get():
        raise TypeError(f"a cotangent of dtype {g.dtype} for an output of dtype {x.dtype}, which is real")
    if g.shape != x.shape:
        raise ValueError(f"a cotangent of shape {g.shape} for an output of shape {x.shape}")
    return g


def unit_cotangent(out, has_aux: bool):
    """The cotangent that makes a pullback return the gradient of the scalar: 1 for the scalar, and 0 for aux."""
    return (_one(out[0]), tree_map(_zero, out[1])) if has_aux else _one(out)


def _one(x):
    """The cotangent of a scalar by itself: 1, in the dtype of x."""
    one = np.ones((), x.dtype if is_tensor(x) else np.result_type(x))
    one.setflags(write=False)
    return one


def _zero(x):
    """The cotangent of a leaf of aux."""
    return np.zeros(x.shape, x.dtype) if is_tensor(x) or isinstance(x, np.ndarray) else 0


def name_of(f: Callable) -> str:
    """The name by which errors call f; that of f in grad(f)."""
    return name_of(f.args[0]) if isinstance(f, partial) and f.args else getattr(f, "__name__", type(f).__name__)
