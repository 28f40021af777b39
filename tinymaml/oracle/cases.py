"""Cases: a model, θ, tasks and settings, for which the exact meta-gradient is known.

    case = load("core")[0]                                 what ships              draw(kind, seed)    a new one
    loss, params, ((xs, ys), (xq, yq)) = case.torch()      or .jax(), .numpy(): the same model in that library's arrays
    case.inner_lr, case.inner_steps, case.tasks, case.first_order, case.adapt

Most cases are exact in float32, so that one answer serves both dtypes; some, for float64 alone, are not. On disk a
number is its IEEE bit pattern in hex.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import extras
from ..files import read_file
from . import models
from .arithmetic import margin_of
from .catalogue import CATALOGUE, flat, forms, run_form
from .family import ALGORITHMS
from .versions import misfit

VECTORS = Path(__file__).parent / "vectors"
SUITES = ("core", "full")
CAPABILITIES = {
    "unequal_tasks": "tasks of different sizes: xs, ys, xq, yq are lists with one array per task",
    "per_parameter_rates": "case.inner_lr is a dict with an array for each parameter",
    "partial_adaptation": "only the parameters named in case.adapt change in the inner loop",
    "first_order": "case.first_order asks for FOMAML",
    "no_inner_steps": "case.inner_steps is 0",
    "unused_parameter": "the loss does not depend on one of the parameters; its gradient is 0 (or None)",
}


class Bugs(Mapping):
    """The result of each mistake on a case: name of its form → {parameter: float64 array}, or None if unknown.

    A value is computed in float64 when it is asked for, and kept. Of the classic mistakes the names are there at once,
    and these are what the mapping iterates over. The many others are computed without being listed. What has no value
    here gives the right gradient: the case is blind to it.

    Attributes:
        seen: names of the forms of classic mistakes that give another gradient than the right one.
        unknown: those that diverge, or depend on rounding.
    """

    def __init__(self, case: Case, seen: Iterable[str], unknown: Iterable[str] = ()):
        self.case, self.seen, self.unknown = case, tuple(seen), tuple(unknown)
        self._names = frozenset(self.seen)
        self._values: dict[str, dict[str, np.ndarray] | None] = dict.fromkeys(self.unknown)
        self._forms: dict[str, dict[str, dict]] = {}

    def forms(self, dtype: str) -> dict[str, dict]:
        """Name → form, of every mistake that concerns the case in this dtype; looked for once."""
        if dtype not in self._forms:
            self._forms[dtype] = forms(self.case.with_dtype(dtype))
        return self._forms[dtype]

    def __getitem__(self, name: str) -> dict[str, np.ndarray] | None:
        if name not in self._values:
            if name not in self:
                raise KeyError(name)
            self._values[name] = self._computed(name)
        return self._values[name]

    def waiting(self, name: str) -> dict | None:
        """The form of a mistake whose value is still to be computed; None if it is there, or there is none."""
        return self.forms(self.case.dtype)[name] if name not in self._values and name in self else None

    def _computed(self, name: str) -> dict[str, np.ndarray] | None:
        found: list = []
        form = self.waiting(name)
        assert form is not None
        with np.errstate(all="ignore"):
            margin, _ = margin_of(lambda: found.append(run_form(self.case, form).meta_grad))
        known = margin >= KINK and all(np.isfinite(g).all() for g in found[0].values())
        return found[0] if known else None

    def __contains__(self, name) -> bool:
        return name in self._names or name in self._values or (
            name in self.forms(self.case.dtype) and not CATALOGUE[name.split("/")[0]].classic
        )  # fmt: skip

    def __iter__(self) -> Iterator[str]:
        return iter(self.seen + self.unknown)

    def __len__(self) -> int:
        return len(self.seen) + len(self.unknown)


KINK = 1e-9  # a ReLU or max this near to its kink, relative to the values there, is decided by rounding


@dataclasses.dataclass(frozen=True)
class Answer:
    """The known answer to a case.

    Attributes:
        meta_loss, meta_grad: 𝓛 and its gradient, rounded once to float64.
        scale, loss_scale: the standard deviation of each number if every intermediate value is rounded once, in units
            of the roundoff (first order; see `tolerance.scales`).
        bugs: what each mistake gives, where it is not the right gradient.
        distance: of the nearest of these, in units of the roundoff of float64 and the scale.
        margin: of the nearest kink (ReLU, max), relative to the size of the values there; infinite without kinks.
        confirmed: rung of the ladder → how well it agrees.
    """

    meta_loss: float
    meta_grad: dict[str, np.ndarray]
    scale: dict[str, np.ndarray]
    loss_scale: float
    bugs: Bugs
    distance: float = np.inf
    margin: float = np.inf
    confirmed: dict[str, str] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def size(self) -> float:
        """The largest number of the gradient."""
        return float(np.max(np.abs(flat(self.meta_grad))))

    @functools.cached_property
    def usual_scale(self) -> np.ndarray:
        """The scales as one vector, none of them below their median: of what is not known as exactly as the answer."""
        scale = flat(self.scale)
        return np.maximum(scale, np.median(scale))


@dataclasses.dataclass(frozen=True)
class Case:
    """One problem.

    Attributes:
        id, comment: its name, and what it is for.
        model: a description, see `models`.
        params: θ, {name: float64 array}; the order is the order of gradients given as a list.
        support, query: a pair (x, y) for each task.
        inner_lr: α, a number, or {name: array}.   inner_steps: K.
        first_order: wanted is FOMAML's gradient.   adapt: names of the parameters that adapt; None for all.
        outer_lr: β, for the mistakes that depend on it.
        needs: capabilities an implementation must have declared.
        dtypes: in which the case tells right from wrong.
        dtype: of the arrays handed out, "float64" or "float32".
        answer: what is known, or None.
        algorithm, settings: whose gradient is asked for, and the numbers that it has beside α and K.
    """

    id: str
    comment: str
    model: dict
    params: dict[str, np.ndarray]
    support: list[tuple]
    query: list[tuple]
    inner_lr: Any
    inner_steps: int
    first_order: bool = False
    adapt: tuple[str, ...] | None = None
    outer_lr: float = 0.125
    needs: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ("float64", "float32")
    dtype: str = "float64"
    answer: Answer | None = None
    algorithm: str = "maml"
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    handed_out: list = dataclasses.field(default_factory=list, repr=False, compare=False)

    @property
    def tasks(self) -> int:
        """T, the number of tasks."""
        return len(self.support)

    def batches(self) -> list[tuple]:
        """((xs, ys), (xq, yq)) of each task."""
        return list(zip(self.support, self.query, strict=True))

    def with_dtype(self, dtype: str) -> Case:
        return dataclasses.replace(self, dtype=dtype, handed_out=[])

    def exact_in(self, dtype: str) -> bool:
        """Whether the dtype holds every number of the case: θ, the data and α."""
        rates = self.inner_lr.values() if isinstance(self.inner_lr, dict) else [self.inner_lr]
        data = (x for batch in self.support + self.query for x in batch)
        arrays = map(np.asarray, (*self.params.values(), *data, *rates))
        return all(np.array_equal(x.astype(dtype).astype(x.dtype), x) for x in arrays if x.dtype.kind == "f")

    def permuted(self, order: list[int]) -> Case:
        """The same tasks in another order: the meta-gradient does not change."""
        support, query = ([batches[t] for t in order] for batches in (self.support, self.query))
        return dataclasses.replace(self, support=support, query=query, handed_out=[])

    def at(self, params: dict) -> Case:
        """The same case at another θ."""
        return dataclasses.replace(self, params=params, answer=None, handed_out=[])

    def nearby(self, unit: float, data: bool = False) -> Case:
        """The same case with each number of θ moved by about a rounding, up and down in turn; with `data`, that of each
        input too."""
        case = self.at({n: _moved(p, unit) for n, p in self.params.items()})
        if not data:
            return case
        support, query = ([(_moved(x, unit), y) for x, y in batches] for batches in (self.support, self.query))
        return dataclasses.replace(case, support=support, query=query)

    # ── in a library ────────────────────────────────────────────────────────────────────────────────────────────────

    def numpy(self) -> tuple:
        """(loss, params, ((xs, ys), (xq, yq))): loss(params, x, y) of one task; params {name: array}; data stacked on
        axis 0, one entry per task (a list, where tasks differ in size). The loss takes tinymaml's tensors too, and is
        the same function for every case of a model, so that what was compiled for one serves the others."""
        return self._hand_out(models.NumPy, np.array, lambda x: x)

    def torch(self) -> tuple:
        """The same in PyTorch: params are leaves that require a gradient."""
        torch = extras.require("torch", "peers")
        return self._hand_out(models.Torch, torch.from_numpy, lambda x: x.requires_grad_())

    def jax(self) -> tuple:
        """The same in JAX. For a float64 case JAX's 64-bit mode is switched on, for the whole process."""
        jax = extras.require("jax", "peers")
        if self.dtype == "float64":
            jax.config.update("jax_enable_x64", True)
        return self._hand_out(models.JAX, jax.numpy.asarray, lambda x: x)

    def _hand_out(self, library, array, as_param) -> tuple:
        def convert(x):
            x = np.asarray(x)
            given = array(x.astype(np.int64 if x.dtype.kind in "iu" else self.dtype))
            self.handed_out.append((x, given))
            return given

        params = {name: as_param(convert(p)) for name, p in self.params.items()}
        data = tuple(tuple(self._stacked(convert, [b[i] for b in batches]) for i in (0, 1))
                     for batches in (self.support, self.query))  # fmt: skip
        return _loss(library, json.dumps(self.model)), params, data

    @property
    def framework(self) -> str:
        """Whose arrays were handed out last: "numpy", "torch", "jax"; "" if none were."""
        library = type(self.handed_out[-1][1]).__module__.partition(".")[0] if self.handed_out else ""
        return library.removesuffix("lib")  # JAX's arrays are of jaxlib

    @staticmethod
    def _stacked(convert, arrays):
        same = len({np.shape(a) for a in arrays}) == 1
        return convert(np.stack(arrays)) if same else [convert(a) for a in arrays]

    def changed_inputs(self) -> bool:
        """Whether an array handed out no longer holds what it held."""
        now = [(was, np.asarray(x.detach() if hasattr(x, "detach") else x)) for was, x in self.handed_out]
        return any(x.shape != was.shape or not np.array_equal(x, was.astype(x.dtype)) for was, x in now)

    def inputs(self) -> str:
        """All that is given, as text: to see whether it has been changed."""
        return json.dumps(self.to_json(lambda x: [str(x.dtype), to_hex(x)] if isinstance(x, np.ndarray) else repr(x)))

    # ── parts of the model, for the mistakes about them ─────────────────────────────────────────────────────────────

    def biases(self) -> list[str]:
        """Names of the parameters that are added."""
        return [p for m in self.model["layers"] if m["layer"] in ("linear", "batch_norm")
                for p in m["params"][-1:] if len(m["params"]) > 1]  # fmt: skip

    def biases_left(self) -> list[str]:
        """The parameters that are not biases."""
        return [n for n in self.params if n not in self.biases()]

    def head(self) -> list[str]:
        """The parameters of the last layer that has any."""
        return [m["params"] for m in self.model["layers"] if m.get("params")][-1]

    # ── as JSON ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def to_json(self, encode) -> dict:
        """Everything but the answer, with arrays as `encode(array)` gives them."""
        rate = self.inner_lr
        out = {
            "id": self.id, "comment": self.comment, "algorithm": self.algorithm, "settings": self.settings,
            "needs": list(self.needs), "model": self.model,
            "inner_lr": {n: encode(a) for n, a in rate.items()} if isinstance(rate, dict) else rate,
            "inner_steps": self.inner_steps, "first_order": self.first_order,
            "adapt": None if self.adapt is None else list(self.adapt), "outer_lr": self.outer_lr,
            "params": {n: encode(p) for n, p in self.params.items()},
        }  # fmt: skip
        for name, batches in (("support", self.support), ("query", self.query)):
            out[name] = [{"x": encode(x), "y": encode(y)} for x, y in batches]
        return out

    @staticmethod
    def from_json(data: dict, answer: Answer | None = None, dtypes=("float64", "float32")) -> Case:
        rate = data["inner_lr"]
        return Case(
            id=data["id"], comment=data.get("comment", ""), model=data["model"],
            params={n: decode(p) for n, p in data["params"].items()},
            support=[(decode(b["x"]), decode(b["y"])) for b in data["support"]],
            query=[(decode(b["x"]), decode(b["y"])) for b in data["query"]],
            inner_lr={n: decode(a) for n, a in rate.items()} if isinstance(rate, dict) else rate,
            inner_steps=data["inner_steps"], first_order=data["first_order"],
            adapt=None if data["adapt"] is None else tuple(data["adapt"]), outer_lr=data["outer_lr"],
            needs=tuple(data["needs"]), dtypes=tuple(dtypes), answer=answer,
            algorithm=data["algorithm"], settings=data["settings"],
        )  # fmt: skip


def _moved(x: np.ndarray, unit: float) -> np.ndarray:
    return x * (1 + 2 * unit * (1 - 2 * (np.arange(x.size) % 2).reshape(x.shape)))


@functools.cache
def _loss(library: type[models.NumPy], model: str) -> Callable:
    """One function for each model: `jax.jit(f, static_argnums=…)` compiles anew for a function that is new to it."""
    return models.loss_in(library(), json.loads(model))


def to_hex(x: np.ndarray) -> dict:
    """An array as bit patterns, most significant byte first: 8 hex digits a number if float32 holds it, else 16."""
    x = np.asarray(x)
    if x.dtype.kind in "iu":
        return {"int": x.ravel().tolist(), "shape": list(x.shape)}
    with np.errstate(over="ignore"):
        kind = "f4" if np.array_equal(x.astype(np.float32).astype(np.float64), x) else "f8"
    return {kind: x.astype(">" + kind).tobytes().hex(), "shape": list(x.shape)}


def decode(data: dict | list | float) -> np.ndarray:
    """The inverse of `to_hex`, or of nested lists: float64 or int64."""
    if not isinstance(data, dict):
        return np.array(data)
    for kind in ("f4", "f8"):
        if kind in data:
            return np.frombuffer(bytes.fromhex(data[kind]), ">" + kind).reshape(data["shape"]).astype(np.float64)
    return np.array(data["int"], np.int64).reshape(data["shape"])


# ── what ships ──────────────────────────────────────────────────────────────────────────────────────────────────────


class Tampered(ValueError):
    """A vector file is not what was shipped."""


def load(suite: str = "core", folder: Path = VECTORS, algorithm: str = "maml") -> list[Case]:
    """The cases of a suite, with their answers.

    Args:
        algorithm: whose meta-gradient is asked for; those of `family.ALGORITHMS` have the suite "core" alone.

    Raises:
        ValueError: no such suite or algorithm.   Tampered: a file's SHA-256 is not the manifest's, or it has another
            version.
        ImportError: "full" needs safetensors; says how to install it.

    >>> from tinymaml import oracle
    >>> case = oracle.load("core")[0]
    >>> case.tasks, case.inner_steps, sorted(case.params)
    (3, 3, ['b1', 'b2', 'w1', 'w2'])
    """
    if suite not in SUITES:
        raise ValueError(f"suite is {suite!r}, wanted one of {', '.join(SUITES)} (or 'fresh', for `check`)")
    if algorithm != "maml":
        check_algorithm(algorithm, suite)
        return [case for case in _load("family", folder) if case.algorithm == algorithm]
    return (_load("core", folder) if suite == "full" else []) + _load(suite, folder)


def check_algorithm(algorithm: str, suite: str = "core") -> None:
    """
    Raises:
        ValueError: there is no such algorithm, or it has no such suite.
    """
    if algorithm != "maml" and algorithm not in ALGORITHMS:
        raise ValueError(f"algorithm is {algorithm!r}, wanted one of maml, {', '.join(ALGORITHMS)}")
    if algorithm != "maml" and suite == "full":
        raise ValueError(f"{algorithm} has the suites core and fresh, not full, which is MAML's")


def _load(suite: str, folder: Path) -> list[Case]:
    listing = json.loads(_read(folder, f"{suite}.json"))
    if why := misfit(listing["format"], "vectors"):
        raise Tampered(f"{folder / suite}.json: {why}")
    arrays = {}
    if suite == "full":
        safetensors = extras.require("safetensors.numpy", "oracle")
        arrays = safetensors.load(_read(folder, "full.safetensors"))
    return [_from_listing(data, listing["mistakes"], arrays) for data in listing["cases"]]


def _read(folder: Path, name: str) -> bytes:
    try:
        manifest = dict(json.loads(read_file(folder / "MANIFEST.json")))
    except (ValueError, TypeError, RecursionError):
        raise Tampered(f"{folder / 'MANIFEST.json'} cannot be read; install tinymaml again") from None
    data = read_file(folder / name)
    if hashlib.sha256(data).hexdigest() != manifest.get(name):
        raise Tampered(f"{folder / name} has been changed: its SHA-256 is not the manifest's; install tinymaml again")
    return data


def _from_listing(data: dict, mistakes: list[str], arrays: dict) -> Case:
    known, case = data["answer"], Case.from_json(data, dtypes=data["dtypes"])
    grad, scale = arrays[case.id] if arrays else (decode(known["meta_grad"]), np.array(known["scale"]))
    seen, unknown = ([mistakes[i] for i in known[which]] for which in ("seen", "unknown"))
    answer = Answer(
        meta_loss=float(decode(known["meta_loss"])), meta_grad=from_vector(grad, case.params),
        scale=from_vector(scale, case.params), loss_scale=known["loss_scale"], bugs=Bugs(case, seen, unknown),
        distance=_or_infinite(known["distance"]), margin=_or_infinite(known["margin"]),
        confirmed=known["confirmed"],
    )  # fmt: skip
    return dataclasses.replace(case, answer=answer)


def _or_infinite(x: float | None) -> float:
    return np.inf if x is None else x


def from_vector(vector: np.ndarray, like: dict) -> dict[str, np.ndarray]:
    """One vector of all numbers as {name: array}, the inverse of `catalogue.flat`."""
    ends = np.cumsum([p.size for p in like.values()])
    parts = np.split(np.asarray(vector), ends[:-1])
    return {n: np.reshape(part, p.shape) for (n, p), part in zip(like.items(), parts, strict=True)}


# ── drawing new ones ────────────────────────────────────────────────────────────────────────────────────────────────


class Architecture(NamedTuple):
    """Layers, loss, the parameters' shapes, the shape of one input, how many outputs (0: the loss has no target)."""

    layers: list[dict]
    loss: str
    shapes: dict[str, tuple]
    one: tuple
    outputs: int


def architecture(kind: str) -> Architecture:
    """
    Args:
        kind: "tanh 2-3-1 mse": an MLP with that activation, those sizes and that loss ("linear 3-2 mse" without
            activation); "conv tanh pool 2", "conv bn relu 2", "conv bn softplus pool 1": a 2×2 convolution of so many
            filters and what follows, on 4×4 images; "image 4x5x2 c2x3x3s2 bn tanh flatten 3": on images of height 4,
            width 5 and 2 channels a 2×3 convolution of 3 filters with stride 2, …, and 3 classes; "polynomial",
            "quadratic 3", "batch norm 2", "tied 2", "unsorted 2" (three equal layers whose names are not in order),
            "unused", "omniglot" (four blocks of two filters on 8×8 images).
    """
    first, *rest = kind.split()
    if first == "polynomial":
        return Architecture([{"layer": "polynomial", "params": ["theta"]}], "mean", {"theta": ()}, (5,), 0)
    if first == "quadratic":
        n = int(rest[0])
        return Architecture([{"layer": "quadratic", "params": ["theta"]}], "mean", {"theta": (n,)}, (n, n + 1), 0)
    if first == "batch":
        n = int(rest[1])
        layers = [_layer("linear", "w1"), _layer("batch_norm", "gamma", "beta"), _layer("tanh")]
        shapes = {"w1": (2, n), "gamma": (n,), "beta": (n,), "w2": (n, 1), "b2": (1,)}
        return Architecture([*layers, _layer("linear", "w2", "b2")], "mse", shapes, (2,), 1)
    if first == "tied":
        n = int(rest[0])
        layers = [_layer("linear", "w"), _layer("tanh"), _layer("linear", "w")]
        return Architecture(layers, "mse", {"w": (n, n)}, (n,), n)
    if first == "unsorted":
        n = int(rest[0])
        layers = [_layer("linear", "w"), _layer("tanh"), _layer("linear", "u"), _layer("tanh"), _layer("linear", "v")]
        return Architecture(layers, "mse", dict.fromkeys("wuv", (n, n)), (n,), n)
    if first == "unused":
        mlp = architecture("tanh 2-2-1 mse")
        return mlp._replace(shapes=mlp.shapes | {"unused": (2,)})
    if first == "image":
        return _image(*rest)
    head = [_layer("spatial_mean"), _layer("linear", "w", "b")]
    if first == "conv":
        *names, filters = rest
        n = int(filters)
        layers = [_layer("conv", "c1", stride=1, padding="SAME")]
        shapes: dict[str, tuple] = {"c1": (2, 2, 1, n)}
        for name in names:
            special = {"bn": _layer("batch_norm", "gamma1", "beta1"), "pool": _layer("max_pool", size=2)}
            layers.append(special.get(name, _layer(name)))
            shapes |= {"gamma1": (n,), "beta1": (n,)} if name == "bn" else {}
        return Architecture(layers + head, "cross_entropy", shapes | {"w": (n, 2), "b": (2,)}, (4, 4, 1), 2)
    if first == "omniglot":
        layers, shapes = [], {}
        for i, channels in enumerate((1, 2, 2, 2), 1):
            layers += [_layer("conv", f"c{i}", stride=2, padding="SAME"),
                       _layer("batch_norm", f"gamma{i}", f"beta{i}"), _layer("relu")]  # fmt: skip
            shapes |= {f"c{i}": (3, 3, channels, 2), f"gamma{i}": (2,), f"beta{i}": (2,)}
        return Architecture(layers + head, "cross_entropy", shapes | {"w": (2, 5), "b": (5,)}, (8, 8, 1), 5)
    sizes, loss = tuple(map(int, rest[0].split("-"))), rest[1]
    layers, shapes = [], {}
    for i, (a, b) in enumerate(zip(sizes, sizes[1:], strict=False), 1):
        shapes |= {f"w{i}": (a, b), f"b{i}": (b,)}
        layers += [_layer("linear", f"w{i}", f"b{i}")] + [_layer(first)] * (i < len(sizes) - 1 and first != "linear")
    return Architecture(layers, loss, shapes, sizes[:1], sizes[-1])


def _image(one: str, *names: str) -> Architecture:
    """An image classifier; of the names the last is the number of classes."""
    (h, w, c), outputs = map(int, one.split("x")), int(names[-1])
    layers: list[dict] = []
    shapes: dict[str, tuple] = {}
    shape = h, w, c
    for i, name in enumerate(names[:-1], 1):
        if name.startswith("c"):  # c2x3x3s2
            filters, _, stride = name[1:].partition("s")
            (kh, kw, out), stride = map(int, filters.split("x")), int(stride or 1)
            layers.append(_layer("conv", f"c{i}", stride=stride, padding="SAME"))
            shapes[f"c{i}"] = (kh, kw, c, out)
            h, w, c = -(-h // stride), -(-w // stride), out
        elif name == "bn":
            layers.append(_layer("batch_norm", f"gamma{i}", f"beta{i}"))
            shapes |= {f"gamma{i}": (c,), f"beta{i}": (c,)}
        elif name == "pool":
            layers.append(_layer("max_pool", size=2))
            h, w = h // 2, w // 2
        else:
            layers.append(_layer(name))
    flattened = names[-2] == "flatten"
    layers += [] if flattened else [_layer("spatial_mean")]
    layers.append(_layer("linear", "w", "b"))
    shapes |= {"w": (h * w * c if flattened else c, outputs), "b": (outputs,)}
    return Architecture(layers, "cross_entropy", shapes, shape, outputs)


def _layer(name: str, *params: str, **settings) -> dict:
    return {"layer": name} | ({"params": list(params)} if params else {}) | settings


def draw(
    kind: str, seed: int, *, id: str = "", comment: str = "", inner_steps: int = 2, inner_lr: float = 0.25,
    tasks: int = 2, shots: int = 3, queries: int = 4, per_parameter: bool = False, unequal: bool = False,
    adapt: tuple | None = None, first_order: bool = False, sizes: tuple = (1.0,), offset: float = 0.0,
    outer_lr: float = 0.125, lacking: bool = False, precise: bool = False,
) -> Case:  # fmt: skip
    """A case of a kind, from a seed. Its numbers are multiples of 1/4096, small enough to be exact in float32; float16
    and bfloat16 cannot hold them.

    Args:
        kind: see `architecture`.   shots, queries: support and query examples a task.
        per_parameter: α is drawn for each element.   unequal: each task has one example more than the one before.
        sizes: factors on the data of the first task, the second, … (in turn).   offset: added to the targets.
        lacking: a class is missing in each support set, another in each query set, and the others are unbalanced.
        precise: the numbers are multiples of 2⁻⁴⁴, which float32 cannot hold.
    """
    layers, loss, shapes, one, outputs = architecture(kind)
    source = random.Random(f"{kind} {seed}")  # whose random() is the same on every machine and in every version
    finest = 2**44 if precise else 4096

    def numbers(shape, spread=1.0, unit=finest):
        """Multiples of 1/unit, about normal."""
        drawn = [sum(source.random() for _ in range(6)) - 3 for _ in range(math.prod(shape))]
        return np.reshape(np.round(np.array(drawn) * 1.4 * spread * unit) / unit, shape)

    def shuffled(labels):
        return np.array(sorted(labels, key=lambda _: source.random()))

    def labels(n, classes, missing):
        if not lacking:
            return shuffled(np.arange(n) % classes)
        first, *others = (c for c in range(classes) if c != missing % classes)
        return shuffled([first] * (n - len(others)) + others)

    def batch(n, size, missing):
        x = numbers((n, *one)) * size
        if kind.startswith("quadratic"):  # A symmetric and positive definite; products of sixty-fourths are exact
            root = numbers((n, one[0], one[0]), 0.75, 64)
            x[:, :, :-1] = root @ np.swapaxes(root, 1, 2) + np.eye(one[0]) / 4
        if loss == "cross_entropy":
            return x, labels(n, outputs, missing)
        if loss == "binary_cross_entropy":
            return x, shuffled(np.arange(n) % 2).reshape(n, 1).astype(np.float64)
        return x, numbers((n, outputs)) * size + offset if outputs else np.zeros(n)

    params = {n: numbers(s, 0.8) for n, s in shapes.items()}
    params = {n: p * 0 + 1 + numbers(p.shape, 0.1) if n.startswith("gamma") else p for n, p in params.items()}
    rate: Any = inner_lr
    if per_parameter:
        rate = {n: inner_lr * (1 + numbers(p.shape, 0.4, 16)) for n, p in params.items()}
    support, query = ([batch(n + t * unequal, sizes[t % len(sizes)], t + of) for t in range(tasks)]
                      for of, n in enumerate((shots, queries)))  # fmt: skip
    needs = {"unequal_tasks": unequal, "per_parameter_rates": per_parameter, "first_order": first_order,
             "partial_adaptation": adapt is not None, "no_inner_steps": inner_steps == 0,
             "unused_parameter": kind == "unused"}  # fmt: skip
    return Case(
        id=id or f"{kind}-{seed}".replace(" ", "-"), comment=comment, model={"layers": layers, "loss": loss},
        params=params, support=support, query=query, inner_lr=rate, inner_steps=inner_steps,
        first_order=first_order, adapt=adapt, outer_lr=outer_lr, needs=tuple(n for n, yes in needs.items() if yes),
    )  # fmt: skip
