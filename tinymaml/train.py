"""The outer loop: θ ← θ − β ∇𝓛(θ), from a `Config` to a run folder one can stop, resume, evaluate and draw.

    run = train(Config.default("sinusoid", iterations=1000), "runs/sinusoid")
    config, network, family, loss, params, iteration = restore("runs/sinusoid")

Every iteration draws its tasks from a generator of its own, seeded by (seed, stream, iteration). So nothing random is
carried along, and a run that was stopped goes on bit for bit as if it never had been. BLAS is held to one thread: its
sums then do not depend on how many the machine has. Read next: `evaluate`.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from . import models, nn, optim
from .blas import libraries, one_thread
from .extras import require
from .families.omniglot import OmniglotTasks
from .families.sinusoid import SinusoidTasks
from .maml import adapt, meta_value_and_grad
from .nest import Nest, tree_fill, tree_items, tree_map
from .programs import compile
from .runs import Run

INIT, TRAIN, VALIDATE, TEST = range(4)  # streams of random numbers, apart from each other


def _option(default: Any, help: str, **more: Any) -> Any:
    return field(default=default, metadata={"help": help, **more})


@dataclass(frozen=True)
class Config:
    """Every hyper-parameter of a run. Saved with it; each field is an option of `tinymaml train`."""

    family: str = _option("sinusoid", "where tasks come from", choices=("sinusoid", "omniglot"))
    model: str = _option("mlp", "network", choices=("mlp", "conv"))
    ways: int = _option(5, "classes of a task (classification)", only="omniglot")
    shots: int = _option(5, "support examples of each class, or of each wave")
    queries: int = _option(15, "query examples of each class, or of each wave")
    inner_steps: int = _option(1, "K, gradient steps of the inner loop in training")
    inner_lr: float = _option(0.005, "α, rate of the inner loop, for a loss that is a mean")
    meta_lr: float = _option(0.006, "β, Adam's rate in the outer loop")
    tasks: int = _option(25, "tasks of a meta-gradient")
    iterations: int = _option(6000, "meta-gradients in all")
    first_order: bool = _option(False, "FOMAML: leave the second derivatives out")
    dtype: str = _option("float32", "floating type", choices=("float32", "float64"))
    seed: int = _option(0, "of everything random")
    hidden: tuple[int, ...] = _option((40, 40), "widths of the mlp's hidden layers")
    filters: int = _option(64, "filters of each block of the conv net", only="omniglot")
    scheme: str = _option("1100/100/423", "split of characters", choices=("1100/100/423", "official"), only="omniglot")
    rotations: bool = _option(True, "training characters turned by 90° multiples are further classes", only="omniglot")
    decay: int = _option(2000, "iterations after which β is half, a third, …: β / (1 + i / decay); 0: it stays")
    save_every: int = _option(100, "iterations between checkpoints")
    validate_every: int = _option(100, "iterations between validations")
    validation_tasks: int = _option(100, "tasks of a validation")
    compile: bool = _option(True, "meta-gradients in machine code; --no-compile: by the reference")
    data: str = _option("", "folder of the data (omniglot)", only="omniglot")

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            value, choices, wanted = getattr(self, f.name), f.metadata.get("choices"), type(f.default)
            kind = (int, float) if wanted is float else wanted
            if not isinstance(value, kind) or isinstance(value, bool) != (wanted is bool):
                raise ValueError(f"{f.name} is {value!r}, wanted {wanted.__name__}")
            if choices and value not in choices:
                raise ValueError(f"{f.name} is {value!r}, wanted one of {', '.join(choices)}")
        for name in ("ways", "shots", "queries", "tasks", "iterations", "filters", "save_every", "validate_every",
                     "validation_tasks"):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, wanted at least 1")
        for name in ("inner_lr", "meta_lr"):
            if not (np.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ValueError(f"{name} is {getattr(self, name)}, wanted a finite number of at least 0")
        for name in ("inner_steps", "seed", "decay"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}, wanted at least 0")
        if not self.hidden or min(self.hidden) < 1:
            raise ValueError(f"hidden is {self.hidden}, wanted widths of at least 1")
        if self.family == "sinusoid" and self.model != "mlp":
            raise ValueError("sinusoid has no images for a conv net: wanted model mlp")

    @classmethod
    def default(cls, family: str, **changes: Any) -> Config:
        """The defaults of a family, with changes."""
        return cls(**{"family": family, **DEFAULTS.get(family, {}), **changes})

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Config:
        names = {f.name for f in dataclasses.fields(cls)}
        if record.keys() != names:
            odd = ", ".join(sorted(record.keys() ^ names))
            raise ValueError(f"the run's configuration does not fit this version of tinymaml: {odd}")
        hidden = record["hidden"]  # JSON has no tuples
        return cls(**{**record, "hidden": tuple(hidden) if isinstance(hidden, list) else hidden})


DEFAULTS: dict[str, dict[str, Any]] = {
    "sinusoid": {},
    "omniglot": dict(
        model="conv", shots=1, queries=5, inner_lr=0.4, meta_lr=0.005, decay=100, tasks=32, iterations=300,
        hidden=(256, 128, 64, 64), rotations=False, save_every=20, validate_every=50,
    ),
}  # fmt: skip


def build(config: Config) -> tuple[models.Network, Any, Callable]:
    """The network, the task family and the loss `loss(params, x, y)` → (scalar, metric) of a configuration."""
    if config.family == "sinusoid":
        family: Any = SinusoidTasks(config.shots, config.queries, config.dtype)
        network = models.mlp(family.input_shape, config.hidden, family.outputs)
        return network, family, lambda params, x, y: (nn.mse(network.apply(params, x), y),) * 2  # loss and metric
    if not config.data:
        raise ValueError("omniglot needs its images: --data PATH (`tinymaml data omniglot --to PATH` downloads them)")
    family = OmniglotTasks(
        config.data, config.ways, config.shots, config.queries, config.scheme, config.rotations, config.dtype
    )
    if config.model == "conv":
        network = models.conv(family.input_shape, config.filters, family.outputs)
    else:
        network = models.mlp(family.input_shape, config.hidden, family.outputs, norm=True)

    def loss(params, x, y):
        logits = network.apply(params, x)
        return nn.cross_entropy(logits, y), np.mean(np.argmax(logits, -1) == y)

    return network, family, loss


def generator(config: Config, stream: int, index: int = 0) -> np.random.Generator:
    """The generator of one iteration of one stream."""
    return np.random.default_rng([config.seed, stream, index])


def meta_lr(config: Config, iteration: int) -> float:
    """β at an iteration."""
    # βᵢ = β / (1 + i / decay): it does not ask how long the run will be, so a run can always be made longer
    return config.meta_lr / (1 + iteration / config.decay) if config.decay else config.meta_lr


def train(config: Config, out: str | os.PathLike, resume: bool = False, progress: bool = True) -> Run:
    """Train, and leave checkpoints and a log in `out`; `resume` goes on from its newest checkpoint.

    Ctrl-C (SIGINT) or SIGTERM finishes the iteration, saves, and raises KeyboardInterrupt or SystemExit(143).

    Raises:
        ValueError, OSError: before any work, for settings, data or folders that cannot be used.
        FloatingPointError: training diverged; the checkpoints before are kept.
    """
    tqdm, limited = require("tqdm", "train").tqdm, one_thread(libraries("train"))
    network, family, loss = build(config)
    run = Run.open(out) if resume else Run.create(out, dataclasses.asdict(config))
    meta = meta_value_and_grad(
        loss, inner_lr=config.inner_lr, inner_steps=config.inner_steps, first_order=config.first_order, has_aux=True
    )
    if config.compile:
        meta = compile(meta)
    params = network.init(generator(config, INIT), np.dtype(config.dtype))
    state = optim.adam(config.meta_lr).init(params)
    done = 0
    with run.lock(), limited, _stop_signals() as stopped:
        if run.checkpoints():
            done, arrays, _ = run.load()
            params, state = _unflatten({"params": params, "optimizer": state}, arrays, run.path)
            if config.iterations < done:
                raise ValueError(f"iterations is {config.iterations}, but {run.path} is at {done} already")
        run.configure(dataclasses.asdict(config))
        run.rewind(done if run.checkpoints() else -1)
        bar = tqdm(total=config.iterations, initial=done, unit="it", disable=not progress, dynamic_ncols=True)
        started = time.perf_counter()
        with bar, np.errstate(over="ignore", invalid="ignore"):  # what diverges is an error, and says where
            for i in range(done, config.iterations):
                tasks = family.sample(generator(config, TRAIN, i), config.tasks, "train")
                try:
                    (value, metrics), grads = meta(params, tasks)
                except FloatingPointError as cause:
                    raise FloatingPointError(f"meta-iteration {i + 1}, {cause}") from None
                params, state = optim.adam(meta_lr(config, i)).update(params, grads, state)
                _check_finite({"params": params, "optimizer": state}, i + 1)
                record = {"iteration": i + 1, "loss": float(value), family.metric.name: float(np.mean(metrics))}
                if (i + 1) % config.validate_every == 0:
                    record[f"validation_{family.metric.name}"] = _validate(config, family, loss, params)
                run.log(record)
                bar.update()
                bar.set_postfix_str(_shown(record, getattr(bar, "postfix", None)), refresh=False)
                stop = list(stopped)  # asked for after this, it is the next iteration's
                if stop or (i + 1) % config.save_every == 0 or i + 1 == config.iterations:
                    seconds = time.perf_counter() - started
                    run.save(i + 1, _flatten({"params": params, "optimizer": state}), {"seconds": round(seconds, 3)})
                if stop:
                    break
    if stopped:
        raise KeyboardInterrupt("saved") if stopped[0] == signal.SIGINT else SystemExit(128 + stopped[0])
    return run


def _validate(config: Config, family: Any, loss: Callable, params: Nest) -> float:
    """The mean query metric after the run's own inner steps, on the same validation tasks each time."""
    stacked = family.sample(generator(config, VALIDATE), config.validation_tasks, "val")
    metrics = []
    for t in range(config.validation_tasks):
        support, query = tree_map(lambda x, t=t: x[t], stacked)
        try:
            adapted = adapt(
                lambda *args: loss(*args)[0], params, support, inner_lr=config.inner_lr, inner_steps=config.inner_steps
            )
        except FloatingPointError as cause:
            raise FloatingPointError(f"validation task {t}, {cause}") from None
        metrics.append(loss(adapted, *query)[1])
    return float(np.mean(metrics))


def resumed(out: str | os.PathLike, changes: dict[str, Any]) -> Config:
    """The configuration of a run to go on with. Only how far it goes, and where the data lies, may change."""
    config = Config.from_json(Run.open(out).config)
    for name, value in changes.items():
        was = getattr(config, name)
        if name not in ("iterations", "data") and value != was:
            raise ValueError(f"--resume continues {out} as it was: its {name} is {was}, not {value}")
    return dataclasses.replace(config, **changes)


class Trained(NamedTuple):
    """What a run has learned: its settings, what `build` makes of them, θ, and after how many iterations."""

    config: Config
    network: models.Network
    family: Any
    loss: Callable
    params: Nest
    iteration: int


def restore(path: str | os.PathLike, iteration: int | None = None, **changes: Any) -> Trained:
    """A run as it stands at its newest checkpoint or a given one; `changes` are to its settings (`data=`)."""
    run = Run.open(path)
    config = dataclasses.replace(Config.from_json(run.config), **changes)
    network, family, loss = build(config)
    params = network.init(generator(config, INIT), np.dtype(config.dtype))
    iteration, arrays, _ = run.load(iteration)
    stored = {name: x for name, x in arrays.items() if name.startswith("params")}
    (params,) = _unflatten({"params": params}, stored, run.path)
    return Trained(config, network, family, loss, params, iteration)


def _flatten(tree: Nest) -> dict[str, np.ndarray]:
    """`{"params": {"w": x}}` → `{"params['w']": x}`: the names of a checkpoint's arrays."""
    return {f"{part}{path}": np.asarray(x) for part in tree for path, x in tree_items(tree[part])}


def _unflatten(like: Nest, arrays: dict[str, np.ndarray], where: Path) -> tuple:
    wanted = _flatten(like)
    for name in sorted(wanted.keys() | arrays.keys()):
        both = arrays.get(name), wanted.get(name)
        seen, want = ("nothing" if x is None else f"{x.dtype} {x.shape}" for x in both)
        if seen != want:
            raise ValueError(f"the checkpoint of {where} does not fit its settings: {name} is {seen}, wanted {want}")
    fill = lambda part, tree: tree_fill(tree, [arrays[f"{part}{path}"] for path, _ in tree_items(tree)])  # noqa: E731
    return tuple(fill(part, tree) for part, tree in like.items())


def _check_finite(tree: Nest, iteration: int) -> None:
    for path, x in _flatten(tree).items():
        if not np.isfinite(x).all():
            raise FloatingPointError(f"training diverged at iteration {iteration}: {path} is not finite;"
                                     " a smaller meta_lr or inner_lr helps")  # fmt: skip


def _shown(record: dict[str, Any], before: str | None) -> str:
    """What stands beside the progress bar; the last validation stays in sight."""
    parts = [f"{name.replace('_', ' ')} {record[name]:.4g}" for name in record if name not in ("iteration", "mse")]
    if before and "validation" in before and not any("validation" in part for part in parts):
        parts.append(before[before.index("validation") :])
    return ", ".join(parts)


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """A list that fills when someone asks to stop; a second Ctrl-C stops at once."""
    asked: list[int] = []

    def ask(number, frame):
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.append(number)

    try:
        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: signals are somebody else's
        before = {}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


