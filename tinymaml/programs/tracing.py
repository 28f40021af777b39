"""Tracing: what a function meets while it is recorded, in place of the arrays it meets when it runs.

    with Recording(0.5, 0) as recording:  f(recording.argument(x), ...)

Everything made of an argument is a `Traced`: it has the shape and the dtype of what it stands for, and one number for
a value. It is one of three kinds, as what it stands for is: `Data` for an array, `Taped` for a tensor, which is what a
derivative makes of an array, `Number` for a Python float. Each kind tells the truth about its type to code that asks,
and refuses what it cannot answer for all values; `refused` remembers that, so that no `except` can swallow the refusal.
tinymaml's own code (`ours`) sees tensors in all three. Read next: `guards`.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import ops
from ..arrays import unchanging
from ..engine import Primitive, Tensor, alias, evaluation, recorded, refusal
from ..numpy_api import placeholder
from .shapes import result_of

_FLOAT = np.dtype(float)


class RecordError(TypeError):
    """A function cannot be recorded: a program of it would be wrong for other values, or at another time."""


_ours: set[int] = set()  # the namespaces of tinymaml's modules, which stay where they are


def ours() -> bool:
    """Is the caller of who asks a part of tinymaml?"""
    return id(sys._getframe(2).f_globals) in _ours or _is_ours(sys._getframe(2).f_globals)


def _is_ours(space: dict) -> bool:
    name = space.get("__name__", "")
    module = sys.modules.get(name)
    if (name == "tinymaml" or name.startswith("tinymaml.")) and vars(module) is space:
        _ours.add(id(space))
        return True
    return False


_value, _primitive, _inputs, _params, _index = (
    vars(Tensor)[name] for name in ("value", "primitive", "inputs", "params", "index")
)


def _hidden(slot) -> property:
    """An attribute that tensors have and arrays lack."""

    read = slot.__get__

    def get(self):
        space = sys._getframe(1).f_globals
        if id(space) in _ours or _is_ours(space):
            return read(self)
        if self._is_data:
            raise AttributeError(f"{self._truth} has no attribute {slot.__name__!r}")
        raise refusal(RecordError(
            f"x.{slot.__name__} is read, and a program is recorded for any values: keep to operations on tensors"
            " (np.where instead of a branch; tm.stop_gradient to leave the graph)"
        ))  # fmt: skip

    return property(get)


def _refuse(what: str) -> Callable:
    def refuse(self, *args, **kwargs):
        raise refusal(RecordError(f"{what}, and a program is recorded for any values"))

    return refuse


class Traced(Tensor):
    """A tensor of a recording."""

    __slots__ = ("shape", "dtype")
    _truth = "a tensor"

    def __init__(self, value, primitive: Primitive, inputs: tuple = (), params: dict | None = None, index: Any = None):
        _value.__set__(self, value)
        _primitive.__set__(self, primitive)
        _inputs.__set__(self, inputs)
        _params.__set__(self, params or {})
        _index.__set__(self, _next_index() if index is None else index)
        self.shape, self.dtype = np.shape(value), getattr(value, "dtype", _FLOAT)

    value, primitive, inputs, params, index = map(_hidden, (_value, _primitive, _inputs, _params, _index))
    ndim = property(lambda self: len(self.shape))
    size = property(lambda self: int(np.prod(self.shape, dtype=int)))

    @property
    def __class__(self):  # type: ignore
        """Class of a value, which `isinstance` looks at besides the type itself."""
        return type(self)

    def as_data(self) -> Traced:
        return self.twin(Data)

    def twin(self, kind: type) -> Traced:
        """The same value of the same program, as what it is at another place."""
        value, *record = (slot.__get__(self) for slot in (_value, _primitive, _inputs, _params, _index))
        return kind(np.asarray(value) if type(self) is Number else value, *record)

    def __array_function__(self, function, types, args, kwargs):
        _answered(sys._getframe(1))
        if function not in (np.where, np.clip):  # all others take a number for an array
            args = [x.twin(Data) if type(x) is Number else x for x in args]
        try:
            return Tensor.__array_function__(self, function, types, args, kwargs)
        except Exception as error:
            raise refusal(error)  # noqa: B904 (it is the error itself)

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        _answered(sys._getframe(1))
        if not any(isinstance(x, (np.ndarray, np.generic, Taped, Data)) for x in inputs):
            inputs = tuple(x.twin(Data) if type(x) is Number else x for x in inputs)  # the result is a NumPy scalar
        try:
            return Tensor.__array_ufunc__(self, ufunc, method, *inputs, **kwargs)
        except Exception as error:
            raise refusal(error)  # noqa: B904

    def __repr__(self) -> str:
        if evaluation.get() is None:
            return f"<recorded: {self._truth} of {self.dtype} {self.shape}>"
        raise refusal(RecordError("a value is printed, and a program is recorded for any values"))

    __str__ = __repr__
    __format__ = _refuse("a value is printed")
    __reduce_ex__ = __deepcopy__ = __copy__ = _refuse("a tensor is copied or stored")


def _answered(frame) -> None:
    """Whether NumPy asked the question of this call."""
    if (recording := evaluation.get()) is not None and recording.questions:
        recording.questions.pop((frame, frame.f_lasti), None)


def _next_index() -> int:
    return Tensor(None).index


class Taped(Traced):
    """A tensor in truth: a derivative takes part in it."""

    __slots__ = ()


class Data(Traced):
    """An array in truth: made of arguments alone. If it has no axes, it may as well be a NumPy scalar."""

    __slots__ = ()
    _is_data = True
    _truth = "an array"

    @property
    def __class__(self):  # type: ignore
        if ours():
            return Data
        if self.ndim:
            return np.ndarray
        # NumPy asks too, before it calls __array_function__, and must get an answer: so the question is kept
        if (recording := evaluation.get()) is not None:
            frame = sys._getframe(1)
            recording.questions[frame, frame.f_lasti] = RecordError(
                "isinstance, or x.__class__, asks whether a number is an array or a NumPy scalar, which is not known"
            )
        return np.ndarray

    def as_data(self) -> Traced:
        return self

    def __getattr__(self, name: str):
        error = AttributeError(f"while a program is recorded, arrays have no attribute {name!r}")
        raise refusal(error) if hasattr(np.ndarray, name) and not name.startswith("__") else error

    def __hash__(self):
        raise refusal(TypeError("unhashable type: 'numpy.ndarray'"))

    __copy__ = __deepcopy__ = lambda self, *memo: self  # it is never written to
    __float__ = __int__ = __complex__ = item = tolist = _refuse("a number is read from an array")
    __round__ = _refuse("a number is rounded by Python")
    __array__ = _refuse("an argument becomes an array of NumPy, as in np.eye(5)[y], where y[:, None] == np.arange(5)"
                        " would do, or in np.array([x, y]), where np.stack would")  # fmt: skip


class Number(Traced):
    """A Python float in truth: it takes the precision of the arrays it meets."""

    __slots__ = ()
    _is_data = True
    _truth = "a float"
    __iter__ = __len__ = __getitem__ = __contains__ = None  # type: ignore

    def __getattribute__(self, name: str):
        if name == "__class__":
            return Number if ours() else float
        if name.startswith("__") or ours():
            return object.__getattribute__(self, name)
        error = AttributeError(f"'float' object has no attribute {name!r}")
        raise refusal(error) if hasattr(float, name) else error

    def as_data(self) -> Traced:
        return self

    def __hash__(self):
        raise refusal(RecordError("a number is a key, and a program is recorded for any numbers"))

    __copy__ = __deepcopy__ = __pos__ = lambda self, *memo: self
    __neg__ = lambda self: self * -1.0  # noqa: E731

    __abs__ = __pow__ = __rpow__ = __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = __divmod__ = __rdivmod__ = (
        _refuse("Python computes with a number what may fail for some")
    )
    __round__ = __trunc__ = __floor__ = __ceil__ = __bool__ = _refuse("Python computes with a number")


def _weak(x) -> bool:
    return type(x) is Number or type(x) in (bool, int, float) and abs(x) < 2**63


def _arithmetic(name: str, primitive: Primitive, check: Callable = lambda x, y: True) -> None:
    """With numbers alone Python's, whose result is a float; with anything else NumPy's."""

    def forward(x, y):
        if not _weak(x) or not _weak(y):
            if isinstance(x if type(y) is Number else y, (Tensor, np.ndarray, np.generic)):
                return primitive(x, y)
            return NotImplemented
        if not check(x, y):
            raise refusal(RecordError("a number is divided by another, which may be zero"))
        return Number(evaluation.get().number, primitive, (x, y))

    setattr(Number, f"__{name}__", forward)
    setattr(Number, f"__r{name}__", lambda x, y: forward(y, x))


_arithmetic("add", ops.add)
_arithmetic("sub", ops.subtract)
_arithmetic("mul", ops.multiply)
_arithmetic("truediv", ops.divide, lambda x, y: type(y) is not Number and y != 0)


def _comparison(name: str) -> None:
    theirs = getattr(Tensor, name)

    def compare(x, y):
        if not isinstance(y, (Taped, Data, np.ndarray, np.generic)):
            raise refusal(RecordError("a number is compared with another, and a program is recorded for any numbers"))
        return theirs(x, y)

    setattr(Number, name, compare)


for _name in ("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__"):
    _comparison(_name)


def _in_place(operator: str) -> Callable:
    def write(self, other):
        # an argument without axes may be an array, and so may what is only seen otherwise; a result is a number
        views = (placeholder, ops._reshape, ops._transpose, ops._broadcast_to, ops.getitem)
        if self.ndim or _primitive.__get__(self) in views:
            raise refusal(TypeError(
                f"x {operator}= y writes into the array x, which others may hold; write x = x {operator} y"
            ))  # fmt: skip
        return NotImplemented

    return write


for _name, _symbol in dict(
    add="+", sub="-", mul="*", truediv="/", floordiv="//", mod="%", pow="**", matmul="@", **{"and": "&", "or": "|"},
    xor="^", lshift="<<", rshift=">>",
).items():  # fmt: skip
    setattr(Data, f"__i{_name}__", _in_place(_symbol))


_KINDS = {Taped, Data, Number}
recorded |= _KINDS


class Recording:
    """The maker of tensors while a function is recorded: `engine.evaluation` is set to it.

    Attributes:
        number, integer: the value of all that is floating-point, and of all integers and booleans.
        refused: the errors that a recording raises and a run would not, or of which that is not known.
        questions: what was asked without an answer that is true of all, by where it was asked.
    """

    def __init__(self, number: float, integer: int):
        self.number, self.integer = number, integer
        self.refused: list[Exception] = []
        self.questions: dict[tuple, RecordError] = {}
        self._ones: dict[Any, np.ndarray] = {}

    def __enter__(self) -> Recording:
        self._errors, self._warnings = np.geterr(), _warnings()
        self._token = evaluation.set(self)
        return self

    def __exit__(self, *exception) -> None:
        evaluation.reset(self._token)

    def filled(self, shape: tuple[int, ...], dtype) -> np.ndarray:
        """An array of one number, in the memory of one element."""
        if (one := self._ones.get(dtype)) is None:
            number = self.number if np.dtype(dtype).kind in "fc" else self.integer
            one = self._ones[dtype] = np.asarray(number).astype(dtype)
            one.setflags(write=False)
        return np.ndarray(shape, one.dtype, one, strides=(0,) * len(shape))

    def argument(self, x) -> Traced:
        """The tensor that stands for an argument: a Python float, or a value that is or becomes an array."""
        if type(x) is float:
            return Number(self.number, placeholder)
        if isinstance(x, np.ndarray) and type(x) not in (np.ndarray, np.memmap):
            raise RecordError(f"an argument is a {type(x).__name__}, whose operations are its own")
        x = np.asarray(x)
        if x.dtype.kind not in "biufc":
            raise RecordError(f"an argument has dtype {x.dtype}, wanted numbers")
        return Data(self.filled(x.shape, x.dtype), placeholder)

    def leaf(self, x: Traced) -> Taped:
        """The tensor that a derivative makes of an array."""
        return Taped(self.filled(x.shape, x.dtype), alias, (x,))

    def __call__(self, primitive: Primitive, inputs: tuple, params: dict) -> Traced:
        """The output of a primitive, where something that is recorded takes part."""
        kinds = {*map(type, inputs)}
        self._check_errors()
        try:
            for x in params.values():
                if isinstance(x, Tensor):
                    raise RecordError(f"a parameter of {primitive.name} depends on a value")
            if Number in kinds:
                inputs = self._converted(primitive, inputs)
            if not kinds <= _KINDS:
                inputs = tuple(map(unchanging, inputs))
            values = [_value.__get__(x) if isinstance(x, Tensor) else x for x in inputs]
            out = result_of(primitive, values, params, self.filled)
        except Exception as error:
            raise refusal(error)  # noqa: B904
        return (Taped if Taped in kinds or Tensor in kinds else Data)(out, primitive, inputs, params)

    def _converted(self, primitive: Primitive, inputs: tuple) -> tuple:
        """Numbers as arrays: in the precision of the arrays they meet, or in their own."""
        numbers = [0.5 if type(x) is Number else x for x in inputs]
        dtype = _FLOAT
        if primitive.description.elementwise and primitive is not ops.astype:
            dtype = np.result_type(*(x.dtype if isinstance(x, Tensor) else x for x in numbers))
        strong = [x.twin(Data) if type(x) is Number else x for x in inputs]
        return tuple(
            ops.astype(x, dtype=dtype) if was is not x and dtype != _FLOAT else x
            for was, x in zip(inputs, strong, strict=True)
        )

    def _check_errors(self) -> None:
        now = np.geterr()
        if now != self._errors and any(now[k] not in ("ignore", "warn", self._errors[k]) for k in now):
            raise refusal(RecordError("np.errstate makes errors of what is not finite, which a program does not do"))
        if _warnings() != self._warnings:
            raise refusal(RecordError("warnings are watched, or made errors, which a program does not do"))


def _warnings() -> tuple:
    """The receivers of warnings, and those warnings that are errors."""
    errors = [entry for entry in warnings.filters if entry[0] == "error"]
    return warnings.showwarning, warnings._showwarnmsg_impl, errors  # type: ignore[attr-defined]
