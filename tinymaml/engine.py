"""Reverse-mode automatic differentiation, exact at every order.

    grad(f)(x)                 ∇f(x)                        value_and_grad(f)(x)      f(x), ∇f(x)
    vjp(f, x)                  f(x), u ↦ uᵀJ                jvp(f, (x,), (v,))        f(x), Jv
    hvp(f, (x,), (v,))         ∇²f(x) v                     Tensor, Primitive         what the graph is made of

Four ideas carry it:

1. A record is data. A tensor that a primitive makes remembers `(primitive, inputs, params)` and nothing else; its rules
   are looked up when a derivative is wanted. A tensor points only at what it was made from: there are no reference
   cycles, and memory is freed as soon as the last name goes.
2. Creation order is a topological order. Every tensor has a running index, and going back means counting the indices
   down. There is no recursion, so no graph is too deep.
3. A rule is written with the operations that a user calls. Given arrays, it computes. Given tensors, it also records,
   so its result can be differentiated again. Higher orders need nothing else.
4. Each derivative has leaves of its own: it aliases what it differentiates with respect to. The inner derivative stops
   at its alias, and the outer one goes on through it, so neither takes the other's variable for its own.

Ideas 3 and 4 at work: `grad(grad(f))(1.3)` for f(x) = x sin x makes these nine tensors.

    #0  leaf                     x, the leaf of the outer derivative, made by `_leaf`
    #1  alias     #0             the leaf of the inner derivative
    #2  sin       #1             f computes sin x,
    #3  multiply  #1   #2        and x sin x, its output
    #4  multiply  1.0  #2        the inner derivative goes back from #3, with g = 1: the rule g * y is a share of x̄,
    #5  multiply  1.0  #1        and the rule g * x is the cotangent of #2
    #6  cos       #1             it goes back from #2, with g = #5: the rule is g * cos(x),
    #7  multiply  #5   #6        which is the other share of x̄
    #8  add       #4   #7        the sum of both shares: f′(x) = sin x + x cos x

The rules of the inner derivative got tensors and so made #4 to #8, because #0 is older than the leaf #1: there is an
outer derivative, which must know how f′ was made. It goes back from #8 to #0. As nothing is older than #0, its rules
get arrays and make no tensor; f″(1.3) = 2 cos 1.3 − 1.3 sin 1.3 comes out as an array.

Read first `Tensor`, `Primitive`, `_vjp` and `between`; the other functions call these. What an argument or a result
must be is checked in `differentiable`. Read next: `primitives`, which have the rules.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, ParamSpec, TypeVar

import numpy as np

from .arrays import stacked, unchanging
from .description import Description
from .differentiable import as_differentiable, called, check_result, cotangent_like, in_tuple, positions, unit_cotangent
from .modes import HasOperators, analytic, current_recording, evaluation, recorded, refusal  # noqa: F401
from .nest import Nest, tree_fill, tree_items, tree_leaves, tree_map

P = ParamSpec("P")  # the arguments of a function, which its gradient takes, too
Value = TypeVar("Value")

_index = itertools.count()


class Tensor(HasOperators):
    """An array and how it was made.

    Operators (`x * y`) are attached by `primitives`, NumPy's functions (`np.tanh(x)`) by `numpy_api.table`.

    Attributes:
        value: the array (or NumPy scalar). Reading it cuts the graph; do so only on purpose.
        primitive, inputs, params: the record; `None, (), {}` for a leaf.
        index: a number that is larger than that of every tensor made before.

    >>> x = tm.Tensor(np.array([1.0, 2.0]))
    >>> x * 3
    Tensor([3. 6.], float64, by multiply)
    """

    __slots__ = ("value", "primitive", "inputs", "params", "index")
    primitive: Any  # a `Primitive`, or None; where a rule is looked up it is known that the tensor is no leaf
    _is_data = False  # True for a tensor that stands for data while a program is recorded: no derivative goes there

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
    """An operation that the engine differentiates.

    Args:
        name: as it is printed.
        forward: `forward(*arrays, **params)` → array.
        vjp: one rule per input, `rule(g, out, *inputs, **params)` → the cotangent of that input, where g is the
            cotangent of the output. With `None` (comparisons, argmax) the derivative stops at this operation.
        **description: how programs record and compile it, see `description`; the engine does not read it.

    A rule combines its arguments by operations and never branches on their values: a branch leaves no record, and so
    it would be missing from the next derivative. Python numbers are an exception: they are constants of the record.

    >>> cube = tm.Primitive("cube", lambda x: x**3, (lambda g, z, x: g * (3 * x * x),))
    >>> tm.grad(tm.grad(cube))(2.0)
    array(12.)
    """

    registry: dict[str, Primitive] = {}

    def __init__(self, name: str, forward: Callable, vjp: Any = None, **description):
        self.name, self.forward, self.vjp, self.description = name, forward, vjp, Description(**description)
        Primitive.registry[name] = self

    def __call__(self, *inputs, **params):
        """The output: a tensor if any input is one, otherwise an array.

        An array beside a tensor is copied if it is writable: the record keeps the numbers of this moment.
        """
        kinds = {*map(type, inputs)}
        if not kinds <= _UNCHANGING:
            if not kinds.isdisjoint(recorded):
                return current_recording()(self, inputs, params)
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
    """The primitive of that name, for one that was pickled."""
    if name not in Primitive.registry:
        raise LookupError(f"there is no primitive {name!r} in this process: import the module that defines it first")
    return Primitive.registry[name]


alias = Primitive("alias", lambda x: x, (lambda g, out, x: g,), lowering="loop", loop="{type}({})")
stop_gradient = Primitive("stop_gradient", lambda x: value_of(stacked(x)), lowering="loop", loop="{type}({})")
stop_gradient.__doc__ = """The same array (of any shape and dtype), through which no derivative flows: it has no rules.

First-order MAML is exact MAML with this around the inner gradient (Finn, Abbeel, Levine, 2017, section 5.2).

>>> tm.grad(lambda x: x * tm.stop_gradient(x))(3.0)
array(3.)
"""

# Inputs of these types are neither copied nor handed to a recording: `Primitive.__call__` is quick for them.
_UNCHANGING = {Tensor, float, int, bool, np.float64, np.float32}


def vjp(f: Callable[..., Value], *args: Nest) -> tuple[Value, Callable[[Value], tuple]]:
    """f(*args) and its pullback u ↦ uᵀJ, one cotangent per argument.

    Args:
        f: from nests of floating-point arrays to a nest of arrays.
        *args: nests of any shapes; all are differentiated (close over what is constant).

    Returns:
        The value, and `pullback`, which may be called more than once: from a nest like the value to a tuple of nests
        with the shapes and dtypes of the arguments. A cotangent z̄ of a complex array z says dL = Re Σ z̄ dz, as in JAX.

    Raises:
        TypeError: an argument holds integers, booleans or objects (the error names it), or u is complex and the value
            is real.
        ValueError: u does not have the nest, or the shapes, of the value (`pullback` raises it).

    >>> value, pullback = tm.vjp(lambda x: x * x, np.array([1.0, 2.0]))
    >>> pullback(np.array([1.0, 10.0]))
    (array([ 2., 40.]),)
    """
    return _vjp(f, args, range(len(args)))


def _vjp(f: Callable, args: tuple, places: Iterable[int]) -> tuple[Any, Callable[[Nest], tuple]]:
    """`vjp`, where errors name the arguments by their `places` in the caller's call.

    For f(x) = x sin x, the leaf is x = #1, and f makes #2 = sin(#1) and #3 = #1 * #2. `active` is then {#1, #2, #3}.
    `pullback(1)` keeps a table of cotangents, and goes through the active records from the last one to the first:

                                                    the table, by index
        begin                                       {#3: 1}
        #3: the rules of multiply, g * y and g * x  {#1: sin x, #2: x}
        #2: the rule of sin, g * cos(x)             {#1: sin x + x cos x}
        #1: a leaf keeps its cotangent              f′(x)

    When a record's turn comes, its cotangent is complete, since everything made from it has a higher index.
    """
    leaves = [_leaf(x, f"args[{i}]{path}") for i, arg in zip(places, args, strict=True) for path, x in tree_items(arg)]
    value = tree_map(stacked, called(f, tree_fill(args, leaves)))
    outputs = [x for x in tree_leaves(value) if _is_tensor(x)]
    active, nested = between(leaves, outputs)

    def pullback(u: Nest) -> tuple:
        cotangents: dict[int, Any] = {}  # x̄ = ∂⟨u, value⟩/∂x, by the index of x

        def accumulate(x: Tensor, g) -> None:
            if g.dtype != x.dtype and (g.dtype.kind == x.dtype.kind or not analytic.get()):
                g = g.real if x.dtype.kind == "f" else g  # dL = Re Σ x̄ dx, and x is real
                g = g.astype(x.dtype)
            cotangents[x.index] = cotangents[x.index] + g if x.index in cotangents else g

        # tree_map refuses a u that is not a nest like the value
        tree_map(lambda x, g: accumulate(x, cotangent_like(x, g)) if isinstance(x, Tensor) else None, value, u)
        for index in sorted(active, reverse=True):  # from the last made to the first
            z = active[index]
            if index <= leaves[-1].index or index not in cotangents:
                continue  # z is a leaf, or it was used only where no derivative flows, as in stop_gradient(z)
            g = cotangents.pop(index)
            # Inside another derivative the rules get tensors, so they record; in the outermost one they get arrays.
            out, inputs = (z, z.inputs) if nested else (outside(z), [outside(x) for x in z.inputs])
            for i, x in enumerate(z.inputs):
                if isinstance(x, Tensor) and x.index in active:
                    # x̄ ← x̄ + ruleᵢ(z̄)
                    accumulate(x, z.primitive.vjp[i](g, out, *inputs, **z.params))
        return tree_fill(args, [_result(cotangents.get(x.index, np.zeros(x.shape, x.dtype))) for x in leaves])

    return (value if nested else tree_map(lambda x: _result(outside(x)), value)), pullback


def _leaf(x, path: str) -> Tensor:
    """The leaf for x: of a tensor an alias, through which an outer derivative goes on; of an array a new tensor."""
    x = as_differentiable(x, path)
    if _is_tensor(x):
        return alias(x)
    if isinstance(x, Tensor):
        return current_recording().leaf(x)
    x = np.array(x)  # a copy, so the caller may write to x later
    x.setflags(write=False)
    return Tensor(x)


def between(leaves: list[Tensor], outputs: list[Tensor]) -> tuple[dict[int, Tensor], bool]:
    """The `active` tensors, through which outputs depend on leaves, by index; and whether the derivative is `nested`.

    It is nested in another one if a tensor older than the leaves takes part, as `old` does here. The sine depends on no
    leaf, so it is not active; the leaf y is, although no output depends on it.

    >>> from tinymaml.engine import between
    >>> old, x, y = (tm.Tensor(np.array(number)) for number in (2.0, 3.0, 5.0))
    >>> active, nested = between([x, y], [x * old + np.sin(old)])
    >>> [t.primitive or "leaf" for t in active.values()], nested
    (['leaf', 'leaf', Primitive(multiply), Primitive(add)], True)
    """
    if not leaves:
        return {}, bool(outputs)
    first, last = leaves[0].index, leaves[-1].index
    # 1. We go down from the outputs, as far as the leaves: `seen` holds all that the outputs are made of.
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
    # 2. We go up from the leaves: a tensor that is seen, has rules and is made of an active one is active itself.
    active: dict[int, Tensor] = {leaf.index: leaf for leaf in leaves}
    for index in sorted(seen):
        z = seen[index]
        smooth = z.primitive and z.primitive.vjp and z.dtype.kind in "fc"  # nothing flows through integers and booleans
        if smooth and any(isinstance(x, Tensor) and x.index in active for x in z.inputs):
            active[index] = z
    return active, nested


def value_of(x):
    """The array of a tensor; x itself if it is none."""
    return x.value if isinstance(x, Tensor) else x


def _is_tensor(x) -> bool:
    """Whether x is a tensor that a derivative goes through, and not data of a recording."""
    return isinstance(x, Tensor) and not x._is_data


def outside(x):
    """x without its record: the array of a tensor, or, while a program is recorded, the data that stand for it."""
    if type(x) is Tensor:
        return x.value
    return x.as_data() if isinstance(x, Tensor) else x


def _result(x):
    """A copy of an array, which the caller may write to; x itself if it is a tensor, or no array."""
    return np.array(x) if isinstance(x, (np.ndarray, np.generic)) else x


def value_and_grad(
    f: Callable[P, Value], argnums: int | tuple[int, ...] = 0, has_aux: bool = False
) -> Callable[P, tuple[Value, Nest]]:
    """A function of f's arguments that returns (f(*args), ∇f(*args)).

    Args:
        f: returns a scalar (shape ()); with `has_aux`, a pair of that scalar and anything else, which is the value.
        argnums: the position of the argument to differentiate, or a tuple of positions; negative ones count from the
            end. Each such argument is a nest of floating-point arrays of any shapes. The gradient is a nest like it;
            for a tuple it is a tuple of such nests.

    Raises:
        ValueError: f returns no scalar, or no pair with `has_aux`; argnums names no argument, or one of them twice.
        TypeError: f returns a complex number, a boolean, or an integer other than a Python integer, such as 0; or an
            argument holds integers or booleans. The function that is returned raises all of these.

    >>> tm.value_and_grad(lambda w, x: np.sum(w * x**2))(np.array([1.0, 2.0]), np.array([3.0, 4.0]))
    (array(41.), array([ 9., 16.]))
    """
    return partial(_value_and_grad, f, argnums, has_aux)


def _value_and_grad(f: Callable, argnums, has_aux: bool, /, *args, **kwargs):
    wanted = positions(f, argnums, args)

    def of_wanted(*chosen):
        full = list(args)
        for i, x in zip(wanted, chosen, strict=True):
            full[i] = x
        out = f(*full, **kwargs)
        check_result(f, out, has_aux)
        return out

    out, pullback = _vjp(of_wanted, tuple(args[i] for i in wanted), wanted)
    grads = pullback(unit_cotangent(out, has_aux))
    return out, grads if isinstance(argnums, (tuple, list)) else grads[0]


def grad(f: Callable[P, Any], argnums: int | tuple[int, ...] = 0, has_aux: bool = False) -> Callable[P, Nest]:
    """A function returning ∇f(*args); with `has_aux`, the pair (∇f, aux).

    Arguments, shapes and errors are those of `value_and_grad`.

    >>> tm.grad(lambda p: np.sum(p["w"] ** 2))({"w": np.array([1.0, 2.0])})
    {'w': array([2., 4.])}
    """
    return partial(_grad, f, argnums, has_aux)


def _grad(f: Callable, argnums, has_aux: bool, /, *args, **kwargs):
    out, grads = _value_and_grad(f, argnums, has_aux, *args, **kwargs)
    return (grads, out[1]) if has_aux else grads


def jvp(f: Callable[..., Value], args: tuple, tangents: tuple) -> tuple[Value, Value]:
    """f(*args) and J v, the derivative of f along the tangents v: forward mode, from two reverse passes.

    u ↦ uᵀJ is linear in u. Its own pullback, applied to v, is therefore Jv: exact, and without a second set of rules
    (Townsend, "A new trick for calculating Jacobian vector products", 2017).

    Args:
        f, args: as in `vjp`, with the arguments in a tuple.   tangents: a tuple of nests with the shapes of `args`.

    Returns:
        Two nests of the same shapes: the value, and J v.

    Raises:
        TypeError, ValueError: as `vjp`, for the arguments and for tangents that are not like them.

    >>> tm.jvp(np.sin, (np.array([0.0, np.pi]),), (np.array([1.0, 10.0]),))[1]
    array([  1., -10.])
    """
    args, tangents = in_tuple(args), in_tuple(tangents)
    out, pullback = vjp(f, *args)
    # `pullback` gives the rules the arrays of f's graph, but u is now a leaf, a tensor. Each rule multiplies by its g,
    # which is made from u; so all steps of `pullback` are recorded, and `pushforward` can go back through them to u.
    zero = tree_map(lambda y: np.zeros(np.shape(value_of(y)), np.result_type(value_of(y), 0.0)), out)
    _, pushforward = vjp(pullback, zero)
    return out, pushforward(tangents)[0]


def hvp(f: Callable, args: tuple, v: Nest) -> Nest:
    """∇²f(*args) v, without forming the Hessian, which is symmetric: so the pullback of ∇f is the product.

    Args:
        f: returns a scalar.   args: a tuple of its arguments.
        v: a tuple of nests like `args` (the Hessian over all arguments), or a nest like `args[0]` (over the first).
            The result has the shapes of v.

    Raises:
        TypeError, ValueError: as `value_and_grad`, for f and its arguments; v is like neither `args` nor `args[0]`.

    >>> tm.hvp(np.prod, (np.array([2.0, 3.0]),), np.array([1.0, 10.0]))  # the Hessian is [[0, 1], [1, 0]]
    array([10.,  1.])
    """
    args = in_tuple(args)
    if [path for path, _ in tree_items(v)] == [path for path, _ in tree_items(args)]:  # v has a part for each argument
        return vjp(grad(f, tuple(range(len(args)))), *args)[1](v)
    return vjp(lambda x: grad(f)(x, *args[1:]), args[0])[1](v)[0]
