"""Reverse-mode automatic differentiation, exact at every order.

    grad(f)(x)                 ∇f(x)                        value_and_grad(f)(x)      f(x), ∇f(x)
    vjp(f, x)                  f(x), u ↦ uᵀJ                jvp(f, (x,), (v,))        f(x), Jv
    hvp(f, (x,), (v,))         ∇²f(x) v                     Tensor, Primitive         what the graph is made of

Four ideas carry it:

1. A record is data. A tensor made by a primitive remembers `(primitive, inputs, params)` and nothing else; rules are
   looked up when the derivative is wanted. Tensors point only at what they were made from, so there are no reference
   cycles, and memory is freed as soon as the last name goes.
2. Creation order is a topological order. Every tensor has a running index; going back is going through the indices
   downwards. No recursion, so no graph is too deep.
3. A rule is written with the same operations a user calls. Given tensors it records, so its result can be
   differentiated again; given arrays it computes. That is all there is to higher orders.
4. Each derivative aliases its inputs to fresh leaves. In `grad(lambda x: x * grad(lambda y: x + y)(x))` the inner
   derivative stops at its own leaf `y`, and the outer one goes on through the alias: no perturbation is confused.

Read next: `ops`, the primitives and their rules.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np

from .arrays import NUMBERS, plain, stacked, unchanging
from .description import Description
from .nest import Nest, tree_fill, tree_items, tree_leaves, tree_map

if TYPE_CHECKING:  # operators are attached by `ops` and `numpy_api`, out of a type checker's sight
    from typing import Any as _Anything
else:
    _Anything = object

P = ParamSpec("P")  # the arguments of a function, which its gradient takes, too
Value = TypeVar("Value")

_index = itertools.count()
# While a program is recorded: the recording, which makes every tensor in its own way (see `programs.tracing`).
evaluation: ContextVar[Any] = ContextVar("evaluation", default=None)
recorded: set[type] = set()  # the kinds of tensors that it makes
# True in a complex step (see `check`): a complex number is a real one, with a derivative in its imaginary part.
analytic: ContextVar[bool] = ContextVar("analytic", default=False)


class Tensor(_Anything):
    """An array and how it was made. Operators and NumPy functions on tensors are attached by `ops` and `numpy_api`.

    Attributes:
        value: the array (or NumPy scalar). Reading it cuts the graph; do so only on purpose.
        primitive, inputs, params: the record; `None, (), {}` for a leaf.
        index: creation order.
    """

    __slots__ = ("value", "primitive", "inputs", "params", "index")
    primitive: Any  # a `Primitive`, or None; where a rule is looked up it is known that the tensor is no leaf
    _is_data = False  # True for what is a tensor only because a program is recorded: no derivative takes part in it

    def __init__(self, value, primitive: Primitive | None = None, inputs: tuple = (), params: dict | None = None):
        self.value, self.primitive, self.inputs, self.params = value, primitive, inputs, params or {}
        self.index = next(_index)

    shape = property(lambda self: self.value.shape)
    dtype = property(lambda self: self.value.dtype)
    ndim = property(lambda self: self.value.ndim)
    size = property(lambda self: self.value.size)

    def __repr__(self) -> str:
        made_by = self.primitive.name if self.primitive else "leaf"
        return f"Tensor({np.array2string(np.asarray(self.value), threshold=20)}, {self.dtype}, by {made_by})"


class Primitive:
    """An operation the engine differentiates.

    Args:
        name: as it is printed.
        forward: `forward(*arrays, **params)` → array.
        vjp: one rule per input, `rule(g, out, *inputs, **params)` → the cotangent of that input, where g is the
            cotangent of the output. `None`: not differentiable (comparisons, argmax); the derivative stops there.
        **description: how programs record and compile it, see `description`; the engine does not read it.

    A rule must not read values, only combine them: whatever depends on a value is an operation too.
    """

    registry: dict[str, Primitive] = {}

    def __init__(self, name: str, forward: Callable, vjp: Any = None, **description):
        self.name, self.forward, self.vjp, self.description = name, forward, vjp, Description(**description)
        Primitive.registry[name] = self

    def __call__(self, *inputs, **params):
        """The output: a tensor if any input is one, otherwise an array. What is constant is remembered as it is now."""
        kinds = {*map(type, inputs)}
        if not kinds <= _UNCHANGING:
            if not kinds.isdisjoint(recorded):
                return _recording()(self, inputs, params)
            if Tensor in kinds:
                inputs = tuple([unchanging(x) for x in inputs])
        if Tensor not in kinds:
            return self.forward(*inputs, **params)
        out = self.forward(*[x.value if isinstance(x, Tensor) else x for x in inputs], **params)
        return Tensor(out, self, inputs, params)

    def __reduce__(self):
        return _primitive, (self.name,)

    def __repr__(self) -> str:
        return f"Primitive({self.name})"


def _primitive(name: str) -> Primitive:
    """A primitive that was pickled: the one of that name here."""
    if name not in Primitive.registry:
        raise LookupError(f"there is no primitive {name!r} in this process: import the module that defines it first")
    return Primitive.registry[name]


alias = Primitive("alias", lambda x: x, (lambda g, out, x: g,), lowering="loop", loop="{type}({})")
stop_gradient = Primitive("stop_gradient", lambda x: value_of(stacked(x)), lowering="loop", loop="{type}({})")
stop_gradient.__doc__ = "The same value, through which no derivative flows: what FOMAML does to the inner gradient."


_UNCHANGING = {Tensor, float, int, bool, np.float64, np.float32}


def _recording():
    if (recording := evaluation.get()) is None:
        raise TypeError("a value that stands for any other, in a recording, is used after it or in another thread")
    return recording


def refusal(error: Exception) -> Exception:
    """The error, to be raised. A recording is told: had the function run, it would not have met it here."""
    if (recording := evaluation.get()) is not None:
        recording.refused.append(error)
    error.refused = True  # type: ignore
    return error


def vjp(f: Callable[..., Value], *args: Nest) -> tuple[Value, Callable[[Value], tuple]]:
    """f(*args) and its pullback u ↦ uᵀJ, one cotangent per argument.

    Args:
        f: from nests of floating-point arrays to a nest of arrays.
        *args: nests; all are differentiated (close over what is not).

    Returns:
        The value, and `pullback(u)` with u shaped like the value → a tuple of nests like the arguments.

    A cotangent z̄ of a complex array z says dL = Re Σ z̄ dz, as in JAX: of a real L it is ∂L/∂x − i ∂L/∂y, z = x + iy.

    Raises:
        TypeError: an argument holds integers, booleans or objects; names it.
    """
    return _vjp(f, args, range(len(args)))


def _vjp(f: Callable, args: tuple, places: Iterable[int]) -> tuple[Any, Callable[[Nest], tuple]]:
    """`vjp`, where errors name the arguments by their `places` in the caller's call."""
    leaves = [_leaf(x, f"args[{i}]{path}") for i, arg in zip(places, args, strict=True) for path, x in tree_items(arg)]
    try:
        out = tree_map(stacked, f(*tree_fill(args, leaves)))
    except (ValueError, TypeError) as error:
        if (ours := _leading_on(error)) is not None:
            raise ours from None
        raise
    outputs = [x for x in tree_leaves(out) if _is_tensor(x)]
    active, nested = between(leaves, outputs)

    def pullback(u: Nest) -> tuple:
        cotangents: dict[int, Any] = {}  # x̄ = ∂⟨u, out⟩/∂x, by the index of x

        def accumulate(x: Tensor, g) -> None:
            if g.dtype != x.dtype and (g.dtype.kind == x.dtype.kind or not analytic.get()):
                g = g.real if x.dtype.kind == "f" else g  # dL = Re Σ x̄ dx, and x is real
                g = g.astype(x.dtype)
            cotangents[x.index] = cotangents[x.index] + g if x.index in cotangents else g

        tree_map(lambda x, g: accumulate(x, _like(g, x)) if isinstance(x, Tensor) else None, out, u)
        for index in sorted(active, reverse=True):  # from the last made to the first
            z = active[index]
            if index <= leaves[-1].index or index not in cotangents:
                continue
            g = cotangents.pop(index)  # z̄ is complete: whatever was made from z comes after z
            # In a derivative inside another, the rules get tensors, and record; in the outermost they get arrays.
            out_, inputs = (z, z.inputs) if nested else (outside(z), [outside(x) for x in z.inputs])
            for i, x in enumerate(z.inputs):
                if isinstance(x, Tensor) and x.index in active:
                    # x̄ ← x̄ + ruleᵢ(z̄)
                    accumulate(x, z.primitive.vjp[i](g, out_, *inputs, **z.params))
        return tree_fill(args, [_result(cotangents.get(x.index, np.zeros(x.shape, x.dtype))) for x in leaves])

    return (out if nested else tree_map(lambda x: _result(outside(x)), out)), pullback


def _leading_on(error: Exception) -> BaseException | None:
    """Our error, where NumPy's hides it (c[0] = x asks for a number) or does not know of tensors."""
    if getattr(error.__cause__, "refused", False):
        return error.__cause__
    if str(error).startswith("loop of ufunc does not support argument"):
        return TypeError("np.array made an array of tensors and numbers, on which not every function of NumPy works:"
                         " np.stack makes one tensor of both")  # fmt: skip
    return None


def _leaf(x, path: str) -> Tensor:
    if x.dtype.hasobject if type(x) is np.ndarray else not isinstance(x, (Tensor, *NUMBERS)):
        what = f"cannot differentiate with respect to {path},"
        x = stacked(plain(x, what), f"{what} ")
    if _is_tensor(x):
        return alias(x)
    x = x if isinstance(x, Tensor) else np.array(x)  # a copy: what the caller writes to x later is not in the graph
    if x.dtype.kind not in "fc":
        raise TypeError(
            f"cannot differentiate with respect to {path}: its dtype is {x.dtype}, wanted a floating-point array"
            " (convert with np.asarray(x, float), or close over what is constant)"
        )
    if isinstance(x, Tensor):
        return _recording().leaf(x)
    x.setflags(write=False)
    return Tensor(x)


def between(leaves: list[Tensor], outputs: list[Tensor]) -> tuple[dict[int, Tensor], bool]:
    """The tensors through which an output depends on a leaf, by index; and whether anything older took part.

    What is older than the leaves belongs to a derivative around this one (`nested`).
    """
    if not leaves:
        return {}, bool(outputs)
    first, last = leaves[0].index, leaves[-1].index
    seen: dict[int, Tensor] = {}
    nested = any(_is_tensor(x) for leaf in leaves for x in leaf.inputs)
    stack = list(outputs)
    while stack:
        z = stack.pop()
        if z.index < first:
            nested = True
        elif z.index not in seen:
            seen[z.index] = z
            if z.index > last:
                stack.extend(x for x in z.inputs if _is_tensor(x))
    active: dict[int, Tensor] = {leaf.index: leaf for leaf in leaves}
    for index in sorted(seen):
        z = seen[index]
        smooth = z.primitive and z.primitive.vjp and z.dtype.kind in "fc"  # nothing flows through integers and booleans
        if smooth and any(isinstance(x, Tensor) and x.index in active for x in z.inputs):
            active[index] = z
    return active, nested


def value_of(x):
    """The array of a tensor; anything else as it is."""
    return x.value if isinstance(x, Tensor) else x


def _is_tensor(x) -> bool:
    """Does a derivative take part in x?"""
    return isinstance(x, Tensor) and not x._is_data


def outside(x):
    """What x is outside this derivative: of a tensor its array, or what stands for it in a recording."""
    if type(x) is Tensor:
        return x.value
    return x.as_data() if isinstance(x, Tensor) else x


def _result(x):
    """An array as a fresh one, which the caller may write to; a tensor, or what is no array, as it is."""
    return np.array(x) if isinstance(x, (np.ndarray, np.generic)) else x


def _like(g, x: Tensor):
    """The cotangent g of x, with its shape and dtype checked."""
    if not isinstance(g, Tensor):
        g = np.asarray(g, None if np.iscomplexobj(g) else x.dtype)
    if g.dtype.kind == "c" and x.dtype.kind != "c" and not analytic.get():
        raise TypeError(f"a cotangent of dtype {g.dtype} for an output of dtype {x.dtype}, which is real")
    if g.shape != x.shape:
        raise ValueError(f"a cotangent of shape {g.shape} for an output of shape {x.shape}")
    return g


def value_and_grad(
    f: Callable[P, Value], argnums: int | tuple[int, ...] = 0, has_aux: bool = False
) -> Callable[P, tuple[Value, Nest]]:
    """A function returning (f(*args), ∇f(*args)).

    Args:
        f: returns a scalar (shape ()); with `has_aux`, a pair of that scalar and anything else.
        argnums: the argument, or a tuple of arguments, to differentiate; each a nest of floating-point arrays.
        has_aux: the value is then the pair (scalar, aux).

    Returns:
        The gradient has the nest, shapes and dtypes of the argument (a tuple of these for a tuple of argnums).

    Raises:
        ValueError: f returns no scalar.
        TypeError: f returns an integer (other than one written down, `0`) or a boolean, or an argument holds them.
    """
    return partial(_value_and_grad, f, argnums, has_aux)


def _value_and_grad(f: Callable, argnums, has_aux: bool, /, *args, **kwargs):
    one = not isinstance(argnums, (tuple, list))
    wanted = tuple(map(operator.index, (argnums,) if one else argnums))
    if any(not -len(args) <= i < len(args) for i in wanted):
        raise ValueError(f"argnums={argnums}, but {_name(f)} was called with {len(args)} positional arguments")
    if len({i % len(args) for i in wanted}) < len(wanted):
        raise ValueError(f"argnums={argnums} names an argument twice")

    def of_wanted(*chosen):
        full = list(args)
        for i, x in zip(wanted, chosen, strict=True):
            full[i] = x
        out = f(*full, **kwargs)
        if has_aux and not (isinstance(out, tuple) and len(out) == 2):
            raise ValueError(f"{_name(f)} must return a pair (scalar, aux), it returned a {type(out).__name__}")
        check_scalar(_name(f), out[0] if has_aux else out)
        return out

    out, pullback = _vjp(of_wanted, tuple(args[i] for i in wanted), (i % len(args) for i in wanted))
    # aux is carried along: its cotangent is zero
    grads = pullback((_one(out[0]), tree_map(_zero, out[1])) if has_aux else _one(out))
    return out, grads[0] if one else grads


def check_scalar(name: str, value) -> None:
    """What is differentiated is one real floating-point number, or an integer that is written down.

    Raises:
        ValueError, TypeError: it is not; says what it is.
    """
    value = stacked(value)
    if not isinstance(value, (Tensor, np.ndarray, np.generic, int, float)) or np.shape(value_of(value)) != ():
        seen = f"shape {value.shape}" if hasattr(value, "shape") else type(value).__name__
        raise ValueError(f"{name} must return a scalar to be differentiated, it returned {seen}")
    dtype = np.result_type(value_of(value))
    if dtype.kind not in ("fc" if analytic.get() else "f") and type(value) is not int:
        why = "which number is meant, np.real(z) or np.abs(z)?" if dtype.kind == "c" else _NO_SLOPE
        raise TypeError(f"{name} must return a floating-point number to be differentiated, it returned {dtype}: {why}")


_NO_SLOPE = "a count or a comparison has no slope"


def _one(x):
    one = np.ones((), np.result_type(value_of(x)))
    one.setflags(write=False)
    return one


def _zero(x):
    return np.zeros(x.shape, x.dtype) if isinstance(x, (Tensor, np.ndarray)) else 0


def _name(f: Callable) -> str:
    return _name(f.args[0]) if isinstance(f, partial) and f.args else getattr(f, "__name__", type(f).__name__)


def grad(f: Callable[P, Any], argnums: int | tuple[int, ...] = 0, has_aux: bool = False) -> Callable[P, Nest]:
    """A function returning ∇f(*args), see `value_and_grad`; with `has_aux`, the pair (∇f, aux)."""
    return partial(_grad, f, argnums, has_aux)


def _grad(f: Callable, argnums, has_aux: bool, /, *args, **kwargs):
    out, grads = _value_and_grad(f, argnums, has_aux, *args, **kwargs)
    return (grads, out[1]) if has_aux else grads


def jvp(f: Callable[..., Value], args: tuple, tangents: tuple) -> tuple[Value, Value]:
    """f(*args) and J v: the derivative of f along `tangents`, a tuple of nests like `args`.

    u ↦ uᵀJ is linear in u, so its own pullback, applied to v, is Jv: forward mode from two reverse passes, exact, and
    without a second set of rules (Townsend, "A new trick for calculating Jacobian vector products", 2017).
    """
    args, tangents = _as_args(args), _as_args(tangents)
    out, pullback = vjp(f, *args)
    zero = tree_map(lambda y: np.zeros(np.shape(value_of(y)), np.result_type(value_of(y), 0.0)), out)
    _, pushforward = vjp(pullback, zero)
    return out, pushforward(tangents)[0]


def hvp(f: Callable, args: tuple, v: Nest) -> Nest:
    """∇²f(*args) v, without forming the Hessian.

    Args:
        f: returns a scalar.
        args: a tuple of positional arguments.
        v: a tuple of nests like `args` (the Hessian over all arguments), or a nest like `args[0]` (over the first).

    Returns:
        A nest like v. The Hessian is symmetric, so the pullback of ∇f is the product.
    """
    args = _as_args(args)
    if [p for p, _ in tree_items(v)] == [p for p, _ in tree_items(args)]:
        return vjp(grad(f, tuple(range(len(args)))), *args)[1](v)
    return vjp(lambda x: grad(f)(x, *args[1:]), args[0])[1](v)[0]


def _as_args(args) -> tuple:
    return args if isinstance(args, tuple) else tuple(args) if isinstance(args, list) else (args,)
