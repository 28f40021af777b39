"""The questions to an implementation, and how its answers are read.

A suite's cases, two new ones that no file holds, and a few more questions: one case again (is it deterministic?), its
tasks in another order (the mean does not change), its shapes with other data, α and K (is anything kept?), and for a
case of each kind of model θ moved a little (is the gradient that of its own loss?). Questions about one model stand
together. Foreign programs are asked it all; a Python function is asked about the other kinds only if something is
wrong.
"""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
import random
import re
import secrets
from typing import Any, NamedTuple

import numpy as np

from . import references
from .cases import CAPABILITIES, Case, check_algorithm, draw, load
from .family import suites

STEPS = (2.0**-6, 2.0**-9, 2.0**-12)  # by which θ is moved


class Question(NamedTuple):
    """`role`: "case"; or, about the case `of`: "again", "permuted", "moved" (by `step` along `direction`), or
    "changed", which is another one in the same shapes."""

    id: str
    case: Case
    role: str = "case"
    of: str = ""
    step: float = 0.0


@dataclasses.dataclass
class Answered:
    """An answer that was read, or the reason why it could not be; `diverged`: it could be, but is not finite."""

    grad: dict[str, np.ndarray] | None = None
    meta_loss: float | None = None
    trace: list | None = None
    adapted: list[dict[str, np.ndarray]] | None = None
    losses: list[list[float]] | None = None
    changed_inputs: bool = False
    framework: str = ""
    problem: str = ""
    diverged: bool = False
    notes: tuple[str, ...] = ()


def questions(
    suite: str | list[Case] = "core", dtype: str = "float64", capabilities: tuple[str, ...] = (),
    seed: int | None = None, only: tuple[str, ...] = (), algorithm: str = "maml",
) -> tuple[list[Question], dict[str, int]]:  # fmt: skip
    """Everything to ask, and what is left out: reason → number of cases.

    Args:
        only: ids of the cases to ask, or their beginnings, or patterns ("conv-*"); all if empty.
        algorithm: whose meta-gradient is asked for; of a list of cases, theirs.

    Raises:
        ValueError: an unknown suite, algorithm, dtype or capability, or no case at all.
    """
    _check(dtype, capabilities)
    seed, new = seed_for(only, seed), []
    if isinstance(suite, str):
        cases, new = _shipped(suite, algorithm), fresh_ids(seed, _new(suite), algorithm)
    else:
        cases = [c if c.answer else references.solve_case(c) for c in suite]
    chosen = selected([*(c.id for c in cases), *new], only)
    if chosen & set(new):  # drawing takes seconds
        cases += fresh(seed, len(new), dtype, algorithm)
    left_out: dict[str, int] = {}
    asked = []
    for case in (c for c in cases if c.id in chosen):
        missing = _missing(case, dtype, capabilities)
        for need in missing[:1]:
            left_out[need] = left_out.get(need, 0) + 1
        if not missing:
            asked.append(Question(case.id, case.with_dtype(dtype)))
    return _with_further(asked), left_out


def case_ids(suite: str, dtype: str, capabilities: tuple[str, ...], seed: int, algorithm: str) -> list[str]:
    """The ids of the cases that `questions` asks. No new case is drawn for it, which takes seconds.

    Raises:
        ValueError: as `questions`.
    """
    _check(dtype, capabilities)
    shipped = [case.id for case in _shipped(suite, algorithm) if not _missing(case, dtype, capabilities)]
    return shipped + fresh_ids(seed, _new(suite), algorithm)


def _check(dtype: str, capabilities: tuple[str, ...]) -> None:
    if dtype not in ("float64", "float32"):
        raise ValueError(f"dtype is {dtype!r}, wanted 'float64' or 'float32'")
    unknown = set(capabilities) - set(CAPABILITIES)
    if unknown:
        raise ValueError(f"unknown capability {', '.join(sorted(unknown))}; wanted some of {', '.join(CAPABILITIES)}")


def _shipped(suite: str, algorithm: str) -> list[Case]:
    check_algorithm(algorithm, suite)
    return [] if suite == "fresh" else load(suite, algorithm=algorithm)


def _missing(case: Case, dtype: str, capabilities: tuple[str, ...]) -> list[str]:
    """What an implementation has not, and the case needs."""
    return [need for need in case.needs if need not in capabilities] if dtype in case.dtypes else ["float64"]


def seed_for(only: tuple[str, ...], seed: int | None) -> int:
    """The seed of the new cases: the given one, or that of a new case which is to be asked again, or any."""
    named = [re.match(r"(?:.*/)?fresh-(\d+)-", pattern) for pattern in only]
    seeds = [int(found[1]) for found in named if found]
    return secrets.randbelow(2**32) if seed is None and not seeds else seeds[0] if seed is None else seed


def selected(ids: list[str], only: tuple[str, ...]) -> set[str]:
    """The ids that one of the patterns names: an id, the beginning of ids, or with * and ? as in a shell. Without a
    pattern, all.

    Raises:
        ValueError: a pattern names no case.
    """
    names = set()
    for pattern in only:
        found = {pattern} & set(ids) or {i for i in ids if i.startswith(pattern) or fnmatch.fnmatchcase(i, pattern)}
        if not found:
            near = difflib.get_close_matches(pattern, ids, 3)
            raise ValueError(f"no case {pattern!r} in this suite" + (f"; is it {' or '.join(near)}?" if near else ""))
        names |= found
    return names if only else set(ids)


def _with_further(asked: list[Question]) -> list[Question]:
    """The cases, each followed by what else is asked about it, so that what has one model and shape stands together.

    The first case that has several tasks is asked again at once: what is kept from call to call is then its own.
    """
    probed = next((q.id for q in asked if q.case.tasks > 1 and q.case.inner_steps > 0), None)
    first_of_kind = {str(q.case.model): q.id for q in reversed(asked)}
    out = []
    for q in asked:
        out.append(q)
        if q.id == probed:
            permuted = q.case.permuted([*range(1, q.case.tasks), 0])
            out += [Question(f"{q.id}@again", q.case, "again", q.id),
                    Question(f"{q.id}@permuted", permuted, "permuted", q.id)]  # fmt: skip
            out += [Question(f"{q.id}@other-{what}", case, "changed", q.id) for what, case in _changed(q.case).items()]
        # a mistake in one layer or loss shows in its own objective only where there is such a layer or loss
        if q.id == first_of_kind[str(q.case.model)]:
            out += [Question(f"{q.id}@moved-{i}", q.case.at(_moved(q.case, h)), "moved", q.id, h)
                    for i, h in enumerate(STEPS)]  # fmt: skip
    return out


def _changed(case: Case) -> dict[str, Case]:
    """The same shapes with other data, another α, another K: what is kept by shape (a jitted function with constants
    from its first call, a cache) is then wrong."""
    other = lambda batches: [(x * 1.125, y) for x, y in batches]  # noqa: E731
    rate = case.inner_lr
    new: dict[str, dict] = {
        "data": {"support": other(case.support), "query": other(case.query)},
        "rate": {"inner_lr": {n: a / 2 for n, a in rate.items()} if isinstance(rate, dict) else rate / 2},
    }
    if case.algorithm == "maml":  # others may have parameters of each step
        new["steps"] = {"inner_steps": case.inner_steps + 1}
    return {what: dataclasses.replace(case, answer=None, handed_out=[], **change) for what, change in new.items()}


def _moved(case: Case, h: float) -> dict[str, np.ndarray]:
    return {n: p + h * d for (n, p), d in zip(case.params.items(), direction(case).values(), strict=True)}


def direction(case: Case) -> dict[str, np.ndarray]:
    """±1 for every parameter, in a pattern that no symmetry of a model shares."""
    start, out = 0, {}
    for n, p in case.params.items():
        signs = [1.0 if (i * i + i // 3) % 3 else -1.0 for i in range(start, start + p.size)]
        out[n], start = np.reshape(signs, p.shape), start + p.size
    return out


# ── new cases ───────────────────────────────────────────────────────────────────────────────────────────────────────

FRESH = 16  # cases in the suite "fresh"


def _new(suite: str) -> int:
    """How many new cases are asked with a suite."""
    return FRESH if suite == "fresh" else 2


def fresh_ids(seed: int, count: int, algorithm: str = "maml") -> list[str]:
    """The ids of the cases that `fresh` draws, which need no capability."""
    return [("" if algorithm == "maml" else f"{algorithm}/") + f"fresh-{seed}-{i}" for i in range(count)]


# Every layer and loss of the models once, in sizes that are drawn: {} stands for a number from 2 to 3.
_FRESH_KINDS = (
    "tanh {}-{}-1 mse", "tanh {}-{}-3 cross_entropy", "image 3x5x2 c2x{}x2 bn softplus pool 3", "square {}-{}-1 mse",
    "batch norm {}", "tied {}", "tanh {}-{}-1 binary_cross_entropy", "quadratic {}", "relu {}-{}-1 mse",
    "softplus {}-{}-1 mse", "tanh 1-{0}-{0}-1 mse", "image 2x4x2 c2x3x{}s2 tanh flatten 3", "linear {}-3 cross_entropy",
    "relu {}-{}-3 cross_entropy", "linear {}-2 mse", "unsorted {}",
)  # fmt: skip
# In float32 the others hardly ever stand far enough from every mistake.
_FRESH_KINDS_FLOAT32 = (
    *(k for k in _FRESH_KINDS if not k.startswith(("image", "linear {}-3"))), "image 3x5x2 c2x2x2 bn softplus pool 3",
)  # fmt: skip
_STEEP = ("square", "quadratic", "linear")  # kinds of which a small α is a large one


def fresh(seed: int, count: int, dtype: str = "float64", algorithm: str = "maml") -> list[Case]:
    """`count` cases that depend on `seed` alone, with answers computed here: in no file, and the same everywhere."""
    names = fresh_ids(seed, count, algorithm)
    if algorithm != "maml":
        return suites.fresh(algorithm, seed, names, dtype)
    kinds = _FRESH_KINDS if dtype == "float64" else _FRESH_KINDS_FLOAT32
    return [_fresh(name, kinds[(seed + i) % len(kinds)], seed, i, dtype) for i, name in enumerate(names)]


def _fresh(id: str, kind: str, seed: int, i: int, dtype: str) -> Case:
    source = random.Random(f"{id} {dtype}")  # whose random() is the same on every machine and in every version
    among = lambda *choices: choices[int(source.random() * len(choices))]  # noqa: E731
    images = kind.startswith("image")  # the more steps and numbers, the longer their scales take
    for attempt in range(200):  # until every mistake is far enough away, and every kink
        rate = (0.2 + 0.2 * source.random()) / (4 if kind.startswith(_STEEP) else 1)
        case = draw(
            kind.format(among(2, 3), among(2, 3)), (seed * 1000 + i) * 1000 + attempt, id=id, comment="drawn anew",
            tasks=2 if images else 2 + i % 2, inner_steps=2 if images else (3, 2, 4, 3)[i % 4],
            shots=among(3, 4, 5), queries=among(2, 4, 6),
            inner_lr=rate if dtype == "float64" else round(rate * 4096) / 4096, precise=dtype == "float64",
            sizes=among((1.0,), (1.0, 0.5, 2.0)), offset=among(0.0, 0.5), lacking=among(True, False),
        )  # fmt: skip
        good = references.solve_if_good(case, dtype)
        if good is not None:
            return good
    raise RuntimeError(f"no {kind} case could be drawn from seed {seed} in {dtype}")


# ── reading an answer ───────────────────────────────────────────────────────────────────────────────────────────────

_HINTS = {
    "does not require grad": "the query loss has no graph back to θ: it was computed under torch.no_grad(), or from "
    "weights that were detached or copied",
    "not have been used in the graph": "the query loss does not depend on θ: the fast weights are a copy (deepcopy, "
    "load_state_dict, detach) instead of a function of θ",
    "modified by an inplace operation": "a weight was changed in place (.data, sub_, optimizer.step()) while a graph "
    "needed it: make new tensors in the inner step",
    "through the graph a second time": "a graph was freed and is needed again: create_graph=True in the inner step",
}


def hint(text: str) -> str:
    """The usual meaning of an exception's text in MAML."""
    return next((meaning for part, meaning in _HINTS.items() if part in text), "")


def read_answer(case: Case, raw: Any) -> Answered:
    """The answer to a case, with every way it can be malformed named."""
    if not isinstance(raw, dict) or "meta_grad" not in raw:
        seen = f"a dict with {', '.join(map(repr, raw)) or 'nothing'}" if isinstance(raw, dict) else type(raw).__name__
        return Answered(problem=f'wanted a dict with "meta_grad", seen {seen}')
    try:
        grads, notes = _gradients(case, raw["meta_grad"])
        loss = None if raw.get("meta_loss") is None else _number(raw["meta_loss"])
        trace = _trace(raw.get("trace"))
        adapted, losses = _adapted(case, raw.get("adapted")), _losses(case, raw.get("losses"))
    except (ValueError, TypeError) as error:
        return Answered(problem=str(error))
    for name, g in grads.items():
        if not np.isfinite(g).all():
            at = np.argwhere(~np.isfinite(g))[0].tolist()
            problem = f"meta_grad[{name!r}]{at} is {g[tuple(at)]}" + _not_finite(case)
            return Answered(problem=problem, diverged=True)
    if loss is not None and not np.isfinite(loss):
        return Answered(grads, problem=f"meta_loss is {loss}" + _not_finite(case), diverged=True)
    return Answered(grads, loss, trace, adapted, losses, notes=tuple(notes))


def _trace(given: Any) -> list | None:
    if given is not None and not (isinstance(given, (list, tuple)) and all(isinstance(t, dict) for t in given)):
        raise TypeError(f"trace is {type(given).__name__}, wanted a list with one dict per task")
    return given


def _per_task(case: Case, given: Any, what: str) -> list:
    """A list with one entry per task; of an array, its rows.

    Raises:
        TypeError, ValueError: it is not; names `what`.
    """
    if not isinstance(given, (list, tuple)):
        try:
            given = list(given)
        except TypeError:
            raise TypeError(f"{what} is {type(given).__name__}, wanted a list with one entry per task") from None
    if len(given) != case.tasks:
        raise ValueError(f"{what} has {len(given)} entries, wanted one for each of {case.tasks} tasks")
    return list(given)


def _adapted(case: Case, given: Any) -> list[dict[str, np.ndarray]] | None:
    """θ_K per task. A dict of arrays with the tasks on axis 0, as vmap gives it, is taken too."""
    if given is None:
        return None
    if isinstance(given, dict):
        rows = {str(n): _per_task(case, a, f"adapted[{n!r}]") for n, a in given.items()}
        given = [{n: row[t] for n, row in rows.items()} for t in range(case.tasks)]
    return [_gradients(case, theta, f"adapted[{t}]")[0] for t, theta in enumerate(_per_task(case, given, "adapted"))]


def _losses(case: Case, given: Any) -> list[list[float]] | None:
    """The support losses per task, one per inner step."""
    if given is None:
        return None
    rows = [row if isinstance(row, (list, tuple)) else np.ravel(as_floats(row, f"losses[{t}]"))
            for t, row in enumerate(_per_task(case, given, "losses"))]  # fmt: skip
    return [[_number(x, f"losses[{t}]") for x in row] for t, row in enumerate(rows)]


def _not_finite(case: Case) -> str:
    extreme = max(float(np.max(np.abs(x), initial=0)) for x, _ in case.support + case.query) > 100
    return "; a softmax or log that is not stable for large logits? (subtract the maximum)" if extreme else ""


def _gradients(case: Case, given: Any, what: str = "meta_grad") -> tuple[dict, list[str]]:
    names, notes = list(case.params), []
    if isinstance(given, dict):
        given = {str(n): g for n, g in given.items()}
        if set(given) != set(names):
            seen = ", ".join(map(repr, sorted(given)[:12])) + (", …" if len(given) > 12 else "")
            raise ValueError(f"{what} has the names {seen[:500] or 'of nothing'}, wanted {sorted(names)}")
        given = [given[n] for n in names]
    elif not isinstance(given, (list, tuple)):
        given = [given]
    if len(given) != len(names):
        raise ValueError(f"{what} has {len(given)} arrays, wanted {len(names)}: {', '.join(names)}")
    grads = {}
    for name, g in zip(names, given, strict=True):
        shape = case.params[name].shape
        if g is None:
            notes.append(f"{what}[{name!r}] is None, taken as 0")
            g = np.zeros(shape)
        g = as_floats(g, f"{what}[{name!r}]")
        if g.shape != shape:
            transposed = " (another layout: transposed?)" if sorted(g.shape) == sorted(shape) else ""
            raise ValueError(f"{what}[{name!r}] has shape {g.shape}, wanted {shape}{transposed}")
        if g.dtype == np.float32 and case.dtype == "float64":
            notes.append(f"{what} came as float32, the case is float64")
        grads[name] = g.astype(np.float64)
    return grads, notes


def as_floats(x: Any, what: str) -> np.ndarray:
    """A tensor of any library, or nested lists, as an array of floats.

    Raises:
        TypeError, ValueError: not numbers; names `what`.
    """
    try:
        for method in ("detach", "cpu"):  # PyTorch
            x = getattr(x, method)() if hasattr(x, method) else x
        x = np.asarray(x)
        x = x.astype(np.float64) if x.dtype.kind in "iu" else x
    except Exception as error:  # of whatever library
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{what} is not an array of numbers: {said}") from None
    if x.dtype.kind != "f":
        raise TypeError(f"{what} has dtype {x.dtype}, wanted floating-point numbers")
    return x


def _number(x: Any, what: str = "meta_loss") -> float:
    x = as_floats(x, what)
    if x.size != 1:
        raise ValueError(f"{what} has shape {x.shape}, wanted a scalar")
    return float(x.reshape(()))
