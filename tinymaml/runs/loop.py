"""The outer loop: θ ← θ − β ∇𝓛(θ), from a `Config` to a run folder one can stop, resume, evaluate and draw.

    run = train(Config.default("sinusoid", iterations=1000), "runs/sinusoid")
    learned = restore("runs/sinusoid")                   # learned.meta, learned.learner, learned.config, ...

It knows no family, no network and no algorithm by name. Every iteration draws its tasks from a generator of its own,
seeded by (seed, stream, iteration), so that nothing random is carried along, and a run that was stopped goes on bit for
bit as if it never had been. BLAS is limited to one thread: its sums then do not depend on how many the machine has.
If tasks are acted in, what the policy does in them is collected first, by `acting`. Read next: `evaluate`.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..blas import libraries, one_thread
from ..extras import require
from ..nest import Nest, tree_fill, tree_items, tree_map
from ..per_task import mean_over_tasks, over_tasks
from ..programs import compile
from . import outer
from .acting import Acting
from .folder import Run
from .learner import Learner, averaged
from .settings import TABLES, Config, path_options
from .sizes import check_drawn
from .transfer import changed, check_changes, check_fits
from .trial import Example, as_example, trial

# Streams of random numbers, apart from each other. Evaluation draws from another one per split: the splits of endless
# families differ in nothing else.
INIT, TRAIN, VALIDATE, TEST, NOISE, OF_TRAIN, OF_VAL = range(7)
EVALUATED = {"train": OF_TRAIN, "val": OF_VAL, "test": TEST}
AT_ONCE, BYTES = 100, 1 << 28  # most tasks, and most bytes of their data, of a compiled evaluation


def generator(config: Config, stream: int, index: int = 0) -> np.random.Generator:
    """The generator of one iteration of one stream."""
    return np.random.default_rng([config.outer.seed, stream, index])


class State(NamedTuple):
    """All that goes from iteration to iteration, and into a checkpoint.

    Attributes:
        meta: what is learned.   optimizer: the state of the outer optimiser.
        carried: what the algorithm carries; None: nothing.   norms: the averages of batch norms' statistics, or {}.
    """

    meta: Nest
    optimizer: Nest
    carried: Nest
    norms: Nest


def initial(learner: Learner) -> State:
    """The state before the first iteration."""
    meta, carried, norms = learner.init(generator(learner.config, INIT))
    return State(meta, outer.optimizer(learner.config.outer).init(meta), carried, norms)


def train(config: Config, out: str | os.PathLike, resume: bool = False, progress: bool = True) -> Run:
    """Train, and leave checkpoints and a log in `out`; `resume` goes on from its newest checkpoint.

    Ctrl-C (SIGINT) or SIGTERM finishes the iteration, saves, and raises KeyboardInterrupt or SystemExit(143).

    Raises:
        ValueError, OSError: before any work, for settings, data or folders that cannot be used.
        FloatingPointError: training diverged; the checkpoints before are kept.

    >>> from tinymaml.runs.loop import train
    >>> from tinymaml.runs.settings import Config
    >>> run = train(Config.default("sinusoid", iterations=2, compile=False), "runs/waves", progress=False)
    >>> run.checkpoints()
    [2]
    """
    tqdm, limited = require("tqdm", "train").tqdm, one_thread(libraries("train"))
    if resume:
        check_resumable(out)
    learner, options = Learner(config), config.outer
    example = trial(learner, ("train", "val") if options.validate_every <= options.iterations else ("train",))
    data = learner.fingerprint()
    run = Run.open(out) if resume else Run.create(out, config.to_json())
    metric = learner.metric.name
    state, done, seconds = initial(learner), 0, 0.0
    step, validate = make_step(learner, state), Validation(learner)
    with run.lock(), limited, _stop_signals() as stopped:
        if run.checkpoints():
            done, arrays, about = run.load()
            state, seconds = _unflatten(state, arrays, run.path), about.get("seconds", 0.0)
            if about.get("data", "") not in ("", data):
                files = ", ".join(str(config[name]) for name in sorted(path_options(config))) or "its data"
                raise ValueError(f"{run.path} was trained on other data than {files}: put those back, or start anew")
            if options.iterations < done:
                raise ValueError(f"iterations is {options.iterations}, but {run.path} is at {done} already")
        run.configure(config.to_json())
        run.rewind(done if run.checkpoints() else -1)
        bar = tqdm(
            total=options.iterations, initial=done, unit="it", disable=not progress, dynamic_ncols=True,
            file=Unheard(sys.stderr),
        )  # fmt: skip
        started = time.perf_counter() - seconds
        # what diverges is an error, and says where
        with _diverging(run), bar, np.errstate(over="ignore", invalid="ignore"):
            for i in range(done, options.iterations):
                try:
                    loss, metrics, state = step(i, state)
                except FloatingPointError as cause:
                    raise FloatingPointError(f"meta-iteration {i + 1}, {cause}") from None
                _check_finite(state, i + 1)
                record = {"iteration": i + 1, "loss": float(loss), metric: float(np.mean(metrics))}
                if (i + 1) % options.validate_every == 0:
                    record[f"validation_{metric}"] = validate(state)
                run.log(record)
                bar.update()
                bar.set_postfix_str(_shown(record, getattr(bar, "postfix", None)), refresh=False)
                stop = list(stopped)  # asked for after this, it is the next iteration's
                if stop or (i + 1) % options.save_every == 0 or i + 1 == options.iterations:
                    seconds = time.perf_counter() - started
                    run.save(i + 1, _flatten(state), {"seconds": round(seconds, 3), "example": example, "data": data})
                if stop:
                    break
    if stopped:
        raise KeyboardInterrupt("saved") if stopped[0] == signal.SIGINT else SystemExit(128 + stopped[0])
    return run


class Unheard:
    """A stream of which nothing depends on being read: what cannot be written to it is dropped."""

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> None:
        with suppress(OSError, ValueError, AttributeError):  # it has ended, is closed, or there is none
            self._stream.write(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError, AttributeError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def _diverging(run: Run) -> Iterator[None]:
    """A run that diverges before it has a checkpoint leaves its folder to another."""
    try:
        yield
    except FloatingPointError as cause:
        if not run.checkpoints():
            with suppress(OSError):
                run.give_up(str(cause))
        raise


def make_step(learner: Learner, state: State) -> Callable[[int, State], tuple]:
    """`step(i, state)` → (the mean loss, each task's metric, the state after iteration i), for states like this one."""
    config, options = learner.config, learner.config.outer
    carries = state.carried is not None
    of_task = learner.of_task(carries)
    compiled = compile if options.compile else lambda f: f
    gradient, losses = compiled(mean_over_tasks(of_task)), compiled(over_tasks(_loss_alone(of_task)))
    gradient = outer.sharp(gradient, options.sharpness)
    collected = Acting(learner).collected if learner.acts else lambda meta, tasks: tasks
    take = _once
    if hasattr(learner.algorithm, "outer"):
        over = lambda f, gradient: compiled(mean_over_tasks(f) if gradient else over_tasks(f))  # noqa: E731
        take = learner.algorithm.outer(learner.loss, learner.settings, over)

    def step(i: int, state: State) -> tuple:
        tasks = learner.sample(generator(config, TRAIN, i), options.tasks, "train")
        support, query = tasks = collected(state.meta, tasks)
        shared = (*([state.carried] if carries else []), *learner.shared(i))
        noise = learner.noise(generator(config, NOISE, i), state.meta, tasks)
        more = {} if noise is None else {"noise": noise}
        if options.robust:
            before = losses(state.meta, _with(support, query, more), *shared)
            for t in np.flatnonzero(~np.isfinite(before)):
                raise FloatingPointError(f"task {t}: the query loss is {before[t]}")
            more["weight"] = outer.task_weights(before, options.robust).astype(learner.dtype)
        of_these = lambda meta, tasks: gradient(meta, tasks, *shared)  # noqa: E731
        update = outer.optimizer(options, i).update
        (loss, aux), meta, optimizer = take(of_these, update, state.meta, _with(support, query, more), state.optimizer)
        carried = _mean([x["carried"] for x in aux]) if carries else None
        norms = averaged(state.norms, [x["norms"] for x in aux]) if state.norms else state.norms
        return loss, [x["metric"] for x in aux], State(meta, optimizer, carried, norms)

    return step


def _once(gradient: Callable, update: Callable, meta: Nest, tasks: tuple, state: Nest) -> tuple:
    """One gradient, one step of the optimiser: → ((loss, aux), meta, state)."""
    result, grads = gradient(meta, tasks)
    # θ ← θ − β G, or as the optimiser says
    return result, *update(meta, grads, state)


def _loss_alone(of_task: Callable) -> Callable:
    def loss(*inputs):
        return of_task(*inputs)[0][0]

    return loss


def _with(support: tuple, query: tuple, more: dict[str, Nest]) -> tuple:
    return (support, (query, more)) if more else (support, query)


def _mean(trees: list[Nest]) -> Nest:
    return tree_map(lambda *xs: np.mean(xs, 0, dtype=np.result_type(xs[0])), *trees)


class Measure:
    """`measure(meta, tasks, norms)` → (tasks, len(at)), the metric of each task after each number of steps in `at`.

    It is compiled if the run is, and many tasks run at once.

    Args:
        tuned: there is a further argument, the rate that takes the place of `inner_lr`.
        each: called with the number of tasks that have been measured since its last call.
    """

    def __init__(self, learner: Learner, at: tuple[int, ...], tuned: bool = False):
        self.learner, compiled = learner, learner.config.outer.compile
        if learner.acts:
            self.f = _returns(Acting(learner), at)
        else:
            f = over_tasks(learner.metrics(at, tuned))
            self.f = compile(f) if compiled else f

    def __call__(self, meta: Nest, tasks: tuple, norms: Nest, *rate: float, each: Callable = lambda n: None):
        arrays = [x for _, x in tree_items(tasks)]
        count = len(arrays[0])
        size = max(1, min(AT_ONCE, BYTES * count // sum(x.nbytes for x in arrays)))
        rates = [np.asarray(x, self.learner.dtype) for x in rate]
        rows = []
        for first in range(0, count, size):
            some = tree_map(lambda x, first=first: x[first : first + size], tasks)
            try:
                rows.append(np.stack(self.f(meta, some, norms, *rates), 1).astype(float))
            except FloatingPointError as cause:
                raise FloatingPointError(_renumbered(str(cause), first)) from None
            each(len(rows[-1]))
        return np.concatenate(rows)


def _returns(acting: Acting, at: tuple[int, ...]) -> Callable:
    """The metrics of tasks that are acted in: those of each step are of trajectories of its own."""

    def measured(meta, tasks, norms, *rate):
        found = acting.returns(meta, tasks, max(at), *rate)
        return tuple(values for k, values in enumerate(found) if k in at)

    return measured


def _renumbered(message: str, first: int) -> str:
    """The message "task 3, …" of some tasks, the first of which has the number `first`."""
    task, comma, rest = message.partition(", ")
    number = task.removeprefix("task ")
    return f"task {first + int(number)}{comma}{rest}" if number.isdigit() else message


def validation_tasks(learner: Learner) -> tuple:
    """The run's validation tasks, always the same: the first ones, of a family that says which there are."""
    config, every = learner.config, learner.every("val")
    if every is None:
        return learner.sample(generator(config, VALIDATE), config.outer.validation_tasks, "val")
    return tree_map(lambda x: x[: config.outer.validation_tasks], every)


class Validation:
    """`validate(state)` → the mean query metric after the run's own steps, on the same validation tasks each time."""

    def __init__(self, learner: Learner):
        self.learner, self.measure = learner, Measure(learner, (learner.steps,))

    def __call__(self, state: State) -> float:
        try:
            return float(np.mean(self.measure(state.meta, validation_tasks(self.learner), state.norms)))
        except FloatingPointError as cause:
            raise FloatingPointError(f"validation {cause}") from None


# ── resuming and restoring ──────────────────────────────────────────────────────────────────────────────────────────


def configuration(run: Run) -> Config:
    """The configuration of a run."""
    return Config.from_json(run.config, run.format)


def resumed(out: str | os.PathLike, changes: dict[str, Any]) -> Config:
    """The configuration of a run to go on with. Only how far it goes, and where its files lie, may change.

    `changes` are options by their flat names, and may hold the names of the parts as "family", "network", "algorithm".

    Raises:
        ValueError: something else changes; the run has no such option; its rate depends on how far it goes.
    """
    check_resumable(out)
    config = configuration(Run.open(out))
    names = {role: getattr(config, role).name for role in TABLES}
    chosen = {name: changes[name] for name in names if changes.get(name) is not None}
    options = {name: value for name, value in changes.items() if name not in names}
    config.require(options)
    for name, value in {**chosen, **options}.items():
        was = names[name] if name in names else config[name]
        if value == was or name in path_options(config):
            continue
        if name != "iterations":
            raise ValueError(f"--resume continues {out} as it was: its {name} is {was}, not {value}")
        if outer.asks_for_the_end(config.outer):
            schedule = f"its schedule is {config.outer.schedule}, which depends on iterations"
            raise ValueError(f"--resume continues {out} as it was: {schedule}, and these are {was}, not {value}")
    return config.changed(**options)


def check_resumable(out: str | os.PathLike) -> None:
    """Raises: ValueError: the run has diverged before its first checkpoint, and would do so again."""
    run = Run.open(out)
    if run.diverged and not run.checkpoints():
        advice = "train without --resume, with a smaller meta_lr or inner_lr: its folder is free"
        raise ValueError(f"{out} diverged before its first checkpoint ({run.diverged}): {advice}")


class Learned(NamedTuple):
    """A learned model, and how it adapts.

    Attributes:
        config: its configuration.   learner: what that describes.   state: as of the iteration; `meta` is in it.
        iteration: after how many meta-iterations; 0: nothing is learned yet.   seconds: how long they took.
        example: what the support examples of training were like; None if it is not known.
        source: the configuration that the run was trained with, if it adapts to other tasks than its own.
    """

    config: Config
    learner: Learner
    state: State
    iteration: int
    seconds: float
    example: Example | None = None
    source: Config | None = None

    @property
    def meta(self) -> Nest:
        return self.state.meta


def restore(
    path: str | os.PathLike, iteration: int | None = None, *, on: str | None = None, **changes: Any
) -> Learned:  # fmt: skip
    """A run as it stands at its newest checkpoint or a given one; 0: before the first iteration, without a checkpoint.

    Args:
        on: a family, whose tasks take the place of the run's own.
        changes: options of the family, or the inner rate; and where files lie now (`data=`). With `on`, they are of
            that family, whose options `ways`, `shots` and `queries` otherwise are the run's.

    Raises:
        ValueError, OSError: no such run, checkpoint or data; it has no such option; its checkpoint does not fit; its
            network does not fit the tasks.

    >>> from tinymaml.runs.loop import restore, train
    >>> from tinymaml.runs.settings import Config
    >>> run = train(Config.default("sinusoid", iterations=1, compile=False), "runs/restored", progress=False)
    >>> learned = restore("runs/restored")
    >>> learned.iteration, sorted(learned.meta)
    (1, ['linear0', 'linear1', 'linear2'])
    """
    run = Run.open(path)
    config = configuration(run)
    check_changes(config, on, changes)
    moved = {name: x for name, x in changes.items() if name in path_options(config) and on is None}
    source = config.changed(**moved)
    learner = Learner(source)
    learned = Learned(source, learner, initial(learner), 0, 0.0)
    if iteration != 0:
        iteration, arrays, about = run.load(iteration)
        state = _unflatten(learned.state, arrays, run.path)
        example = as_example(about.get("example"))
        learned = Learned(source, learner, state, iteration, about.get("seconds", 0.0), example)
    config = changed(source, on, changes)
    if config == source:
        return learned
    other = Learner(config, learner.network)
    check_drawn(other, "task", 1)
    check_fits(path, learner.family, other.family)
    return learned._replace(config=config, learner=other, source=source)


def _flatten(state: State) -> dict[str, np.ndarray]:
    """`State({"w": x}, …)` → `{"meta['w']": x, …}`: the names of a checkpoint's arrays."""
    return {f"{part}{path}": np.asarray(x) for part, tree in state._asdict().items() for path, x in tree_items(tree)}


def _unflatten(like: State, arrays: dict[str, np.ndarray], where: Path) -> State:
    """A checkpoint's state. In the first format θ was called "params"."""
    arrays = {f"meta{name[6:]}" if name.startswith("params") else name: x for name, x in arrays.items()}
    wanted = _flatten(like)
    for name in sorted(wanted.keys() | arrays.keys()):
        both = arrays.get(name), wanted.get(name)
        seen, want = ("nothing" if x is None else f"{x.dtype} {x.shape}" for x in both)
        if seen != want:
            raise ValueError(f"the checkpoint of {where} does not fit its settings: {name} is {seen}, wanted {want}")
    fill = lambda part, tree: tree_fill(tree, [arrays[f"{part}{path}"] for path, _ in tree_items(tree)])  # noqa: E731
    return State(*(fill(part, tree) for part, tree in like._asdict().items()))


def _check_finite(state: State, iteration: int) -> None:
    for path, x in _flatten(state).items():
        if not np.isfinite(x).all():
            raise FloatingPointError(f"training diverged at iteration {iteration}: {path} is not finite;"
                                     " a smaller meta_lr or inner_lr helps")  # fmt: skip


def _shown(record: dict[str, Any], before: str | None) -> str:
    """The text beside the progress bar; the last validation stays in sight."""
    names = [name for name in record if name != "iteration" and record[name] != record["loss"] or name == "loss"]
    parts = [f"{name.replace('_', ' ')} {record[name]:.4g}" for name in names]
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
    except ValueError:  # not the main thread: another part of the program handles signals
        before = {}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
