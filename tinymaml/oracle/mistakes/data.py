"""What is learned from, with a mistake in it: functions from tasks to tasks, and numbers with too few digits.

    DATA["swapped"](tasks)          tasks: a list with ((xs, ys), (xq, yq)) for each task, over any numbers
    rounded(x, "bfloat16")          the nearest number of that dtype, as float64

A batch is (x, y), or a list of such pieces, whose losses are averaged. A piece may say more: (x, y, rows, measured)
is a forward pass of all of x, with batch norm's statistics from the first `measured` rows, and the loss of `rows`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np

from ..arithmetic import hold

Tasks = list[tuple]


def _each(f: Callable) -> Callable[[Tasks], Tasks]:
    """A change of every batch."""
    return lambda tasks: [(f(*support), f(*query)) for support, query in tasks]


def _pairs(f: Callable) -> Callable[[Tasks], Tasks]:
    """A change of each task's support and query set."""
    return lambda tasks: [f(support, query) for support, query in tasks]


def _is_label(y) -> bool:
    return y.dtype.kind in "iu"


def _sorted(x, y):
    return x, np.sort(y) if _is_label(y) else y


def _renumbered(x, y):
    """np.unique(y, return_inverse=True)"""
    return x, np.unique(y, return_inverse=True)[1].reshape(y.shape) if _is_label(y) else y


def _off_by(n: int) -> Callable:
    def off(tasks: Tasks) -> Tasks:
        ys = [y for task in tasks for _, y in task]
        classes = 1 + max((int(np.max(y)) for y in ys if _is_label(y)), default=0)
        return _each(lambda x, y: (x, (y + n) % classes if _is_label(y) else y))(tasks)

    return off


# ── what is done to an array: z, with the statistics of `of`, which is z or the support set's array ─────────────────

EPS = 1e-8  # beside a standard deviation, where no number is given


def _centred(z, of, eps):
    return z - np.sum(of, 0) / len(of)


def _standardised(over=0, unbiased=False, root=False):
    def standardised(z, of, eps):
        n = len(of) if over == 0 else of.size
        mean = np.sum(of, over) / n
        variance = np.sum((of - mean) * (of - mean), over) / (n - 1 if unbiased and n > 1 else n)
        return (z - mean) / (np.sqrt(np.asarray(variance + eps)) if root else np.sqrt(np.asarray(variance)) + eps)

    return standardised


def _scaled(z, of, eps):
    low, high = np.min(of), np.max(of)
    return (z - low) / (high - low)


def _of_length_1(z, of, eps):
    norm = np.sqrt(np.asarray(np.sum(z * z, -1, keepdims=True)))
    return z / np.where(np.asarray(norm == 0, bool), norm * 0 + 1, norm) if z.ndim > 1 else z


def _in_order(z, each: bool = False):
    """The rows in the order of their first numbers, or each column in that of its own."""
    keys = np.asarray(hold(z), float).reshape(len(z), -1)
    order = np.argsort(keys if each else keys[:, :1], 0, kind="stable")
    return np.take_along_axis(np.reshape(z, (len(z), -1)), np.broadcast_to(order, keys.shape), 0).reshape(z.shape)


_OWN, _ONE, _SHARED = ("",), ("in support", "in query"), ("by the support set",)
_BOTH = ("inputs", "targets")

# name → (what it is, of which arrays, of which set or by whose statistics)
CHANGES: dict[str, tuple[Callable, tuple[str, ...], tuple[str, ...]]] = {
    "centred": (_centred, _BOTH, _OWN + _ONE + _SHARED),
    "standardised": (_standardised(), _BOTH, _OWN + _ONE + _SHARED),
    "standardised, unbiased": (_standardised(unbiased=True), _BOTH, _OWN + _ONE + _SHARED),
    "standardised, root": (_standardised(root=True), _BOTH, _OWN + _ONE[:1] + _SHARED),
    "standardised together": (_standardised(over=None), _BOTH, _OWN + _ONE + _SHARED),
    "scaled to 0 … 1": (_scaled, _BOTH, _OWN + _ONE + _SHARED),
    "of length 1": (_of_length_1, ("inputs",), _OWN),
    "in reverse order": (lambda z, of, eps: z[::-1], ("inputs",), _OWN + _ONE),
    "truncated": (lambda z, of, eps: z * 0 + np.trunc(np.asarray(hold(z), float)), _BOTH, _OWN + _ONE),
    "rounded to integers": (lambda z, of, eps: z * 0 + np.round(np.asarray(hold(z), float)), _BOTH, _OWN + _ONE),
    "sorted": (lambda z, of, eps: _in_order(z), _BOTH, _OWN + _ONE),
    "sorted, each column": (lambda z, of, eps: _in_order(z, each=True), _BOTH, _OWN + _ONE),
}


def _changed(arrays: str, change: str, where: str) -> Callable:
    """The inputs or targets of both sets, of one, or of both by the support set's statistics."""
    f, place = CHANGES[change][0], _BOTH.index(arrays)

    def new(batch, of, eps):
        z = batch[place]
        unfit = arrays == "targets" and _is_label(z) or not np.any(z)
        z = z if unfit else f(z, (batch if of is None else of)[place], eps)
        return (z, batch[1]) if place == 0 else (batch[0], z)

    def of_tasks(tasks: Tasks, eps=EPS) -> Tasks:
        of = lambda support: support if where == "by the support set" else None  # noqa: E731
        return [(s if where == "in query" else new(s, None, eps), q if where == "in support" else new(q, of(s), eps))
                for s, q in tasks]  # fmt: skip

    return of_tasks


# ── whole sets ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _next(tasks: Tasks) -> Tasks:
    """Each task with the query set of the task after it."""
    return [(support, tasks[(t + 1) % len(tasks)][1]) for t, (support, _) in enumerate(tasks)]


def _before(tasks: Tasks) -> Tasks:
    """Each task with the query set of the task before it: q[t - 1]."""
    return [(support, tasks[t - 1][1]) for t, (support, _) in enumerate(tasks)]


def _rolled(by: int, *which: str) -> Callable:
    """Inputs of these sets moved on by so many places against their labels or targets."""
    move = lambda batch, of: (np.roll(batch[0], by, 0), batch[1]) if of in which else batch  # noqa: E731
    return _pairs(lambda s, q: (move(s, "support"), move(q, "query")))


def _mixed(support, query, what: str):
    """A set with the inputs ("x") or labels ("y") of the other one, where their shapes are its own."""
    pairs = zip("xy", support, query, strict=True)
    return tuple(theirs if name in what and theirs.shape == own.shape else own for name, own, theirs in pairs)


# Another task, by its place among so many.
_OTHER: dict[str, Callable[[int, int], int]] = {
    "first": lambda t, count: 0, "last": lambda t, count: count - 1, "next": lambda t, count: (t + 1) % count,
}  # fmt: skip


def _of_other(which: str, support: str, query: str) -> Callable:
    """Every task with another one's inputs ("x"), labels ("y") or both ("xy"), where their shapes are its own."""

    def of_other(tasks: Tasks) -> Tasks:
        theirs = [tasks[_OTHER[which](t, len(tasks))] for t in range(len(tasks))]
        return [(_mixed(s, xs, support), _mixed(q, xq, query))
                for (s, q), (xs, xq) in zip(tasks, theirs, strict=True)]  # fmt: skip

    return of_other


def _every_other(batch):
    return batch[0][::2], batch[1][::2]


def _half(batch, second: bool = False):
    """The first or the second half of the examples; all, if there are fewer than two."""
    n = len(batch[1]) // 2
    return batch if n == 0 else (batch[0][n:], batch[1][n:]) if second else (batch[0][:n], batch[1][:n])


def pieces(batch) -> list[tuple]:
    """The pieces whose losses are averaged."""
    return batch if isinstance(batch, list) else [batch]


def count(batch) -> int:
    """How many examples a batch (or its first piece) has."""
    return len(pieces(batch)[0][1])


def first_rows(batch, n: int):
    """The first n examples, or all but the last −n; all, if none would be left."""
    if isinstance(batch, list):
        return [first_rows(piece, n) for piece in batch]
    x, y, *more = batch
    return batch if more or len(x[:n]) == 0 else (x[:n], y[:n])


def whole_batches(batch, n: int):
    """The examples that whole batches of n hold; all, if none would be left."""
    if isinstance(batch, list):
        return [whole_batches(piece, n) for piece in batch]
    return first_rows(batch, len(batch[1]) // n * n)


def rows_after(batch, n: int):
    """All examples but the first n; all, if none would be left."""
    if isinstance(batch, list):
        return [rows_after(piece, n) for piece in batch]
    x, y, *more = batch
    return batch if more or len(x[n:]) == 0 else (x[n:], y[n:])


def strided(batch, n: int) -> list[tuple]:
    """The batch in n pieces, each of every n-th example."""
    if isinstance(batch, list):
        return [part for piece in batch for part in strided(piece, n)]
    x, y, *more = batch
    return [batch] if more else [(x[i::n], y[i::n]) for i in range(min(n, len(x)))]


def even_parts(batch, n: int) -> list[tuple]:
    """The batch in n parts whose lengths differ by one at most; fewer, if there are not so many examples."""
    if isinstance(batch, list):
        return [part for piece in batch for part in even_parts(piece, n)]
    x, y, *more = batch
    parts = np.array_split(np.arange(len(x)), min(n, len(x)))
    return [batch] if more else [(x[rows], y[rows]) for rows in parts]


def chunked(batch, n: int) -> list[tuple]:
    """The batch in chunks of one length, n at most, as `torch.chunk` makes them."""
    return chunks(batch, -(-count(batch) // n))


# How code parts the support set into as many parts as there are inner steps, of which each step takes one.
PARTS_OF_STEPS: dict[str, Callable[..., list[tuple]]] = {
    "whole": lambda batch, n: pieces(batch), "K chunks": chunked, "K even parts": even_parts, "every K-th": strided,
}  # fmt: skip


def equal_parts(batch, n: int) -> list[tuple]:
    """The batch in n parts of one length, of which the last has what is left, too; fewer, if there are not so many."""
    if isinstance(batch, list):
        return [part for piece in batch for part in equal_parts(piece, n)]
    x, y, *more = batch
    n = min(n, len(x))
    ends = [i * (len(x) // n) for i in range(n)] + [len(x)]
    return [batch] if more else [(x[a:b], y[a:b]) for a, b in itertools.pairwise(ends)]


# How code parts the support set for mini-batches, if not into chunks of n examples.
PARTS_OF_N: dict[str, Callable[..., list[tuple]]] = {
    "every n-th": strided, "in n chunks": chunked, "in n even parts": even_parts, "in n parts of N // n": equal_parts,
}  # fmt: skip


def wrapped_rows(batch, start: int, n: int):
    """The n examples from `start` on; behind the last one the first follows."""
    if isinstance(batch, list):
        return [wrapped_rows(piece, start, n) for piece in batch]
    x, y, *more = batch
    rows = np.arange(start, start + n) % len(x)
    return batch if more else (x[rows], y[rows])


def chunks(batch, n: int) -> list[tuple]:
    """The batch in pieces of n examples; the last has what is left."""
    if isinstance(batch, list):
        return [chunk for piece in batch for chunk in chunks(piece, n)]
    x, y, *more = batch
    return [batch] if more else [(x[i : i + n], y[i : i + n]) for i in range(0, len(x), max(n, 1))]


def _one_by_one(paired: bool) -> Callable:
    """A task for each support example, with the whole query set, or with the query example in its place alone."""

    def one_by_one(support, query):
        each = chunks(support, 1)
        return list(zip(each, chunks(query, 1), strict=False)) if paired else [(example, query) for example in each]

    return lambda tasks: [one for support, query in tasks for one in one_by_one(support, query)]


def _all_together(batches: list[tuple]) -> tuple:
    return tuple(np.concatenate(arrays) for arrays in zip(*batches, strict=True))


def _by_query(support, query):
    """The support set, with the query set's statistics."""
    n = len(query[0])
    return (np.concatenate([query[0], support[0]]), support[1], slice(n, None), n), query


def _one_forward(measured: bool = False, of: tuple[str, ...] = ("support", "query")) -> Callable:
    """Support and query go through the network in one batch, in the pass of one set or of both; with `measured`, the
    statistics are the support's."""

    def together(support, query):
        n, x = len(support[0]), np.concatenate([support[0], query[0]])
        first = n if measured else None
        return (
            support if measured or "support" not in of else (x, support[1], slice(n), first),
            (x, query[1], slice(n, None), first) if "query" in of else query,
        )

    return together


DATA: dict[str, Callable[[Tasks], Tasks]] = {
    "right": lambda tasks: tasks,
    "swapped": _pairs(lambda s, q: (q, s)),
    "query is support": _pairs(lambda s, q: (s, s)),
    "support is query": _pairs(lambda s, q: (q, q)),
    "labels sorted": _each(_sorted),
    "labels renumbered": _each(_renumbered),
    "labels one up": _off_by(1),
    "labels one down": _off_by(-1),
    **{
        f"{arrays} {change}{', ' * bool(where)}{where}": _changed(arrays, change, where)
        for change, (_, these, places) in CHANGES.items()
        for arrays in these
        for where in places
    },
    "query of the next task": _next,
    "query of the task before": _before,
    "support inputs rolled by 1": _rolled(1, "support"),
    "support inputs rolled by -1": _rolled(-1, "support"),
    **{
        f"{' and '.join(which)} inputs rolled by {by}": _rolled(by, *which)
        for which in (("query",), ("support", "query"))
        for by in (1, -1)
    },
    "query cut to the support's size": _pairs(lambda s, q: (s, first_rows(q, len(s[0])))),
    "support cut to the query's size": _pairs(lambda s, q: (first_rows(s, len(q[0])), q)),
    "one support set for all": lambda tasks: [(_all_together([s for s, _ in tasks]), q) for _, q in tasks],
    "mean of the support losses": lambda tasks: [([s for s, _ in tasks], q) for _, q in tasks],
    "all query sets for each": lambda tasks: [(s, _all_together([q for _, q in tasks])) for s, _ in tasks],
    "mean of all query losses for each": lambda tasks: [(s, [q for _, q in tasks]) for s, _ in tasks],
    "first support set for all": lambda tasks: [(tasks[0][0], q) for _, q in tasks],
    "last support set for all": lambda tasks: [(tasks[-1][0], q) for _, q in tasks],
    "last query set for all": lambda tasks: [(s, tasks[-1][1]) for s, _ in tasks],
    "query set in the inner loop too": _pairs(lambda s, q: (_all_together([s, q]), q)),
    "query loss in the inner loop too": _pairs(lambda s, q: ([s, q], q)),
    "every other support example": _pairs(lambda s, q: (_every_other(s), q)),
    "every other query example": _pairs(lambda s, q: (s, _every_other(q))),
    "first half of the support set": _pairs(lambda s, q: (_half(s), q)),
    "second half of the support set": _pairs(lambda s, q: (_half(s, True), q)),
    "first half of the query set": _pairs(lambda s, q: (s, _half(q))),
    "second half of the query set": _pairs(lambda s, q: (s, _half(q, True))),
    **{
        f"{of} {what} of the {which} task": _of_other(which, *((letters, "") if of == "support" else ("", letters)))
        for which in _OTHER
        for of in ("support", "query")
        for what, letters in (("labels", "y"), ("inputs", "x"))
    },
    "query set of the first task": _of_other("first", "", "xy"),
    "one forward for both sets": _pairs(_one_forward()),
    "one forward for both sets, in support": _pairs(_one_forward(of=("support",))),
    "one forward for both sets, in query": _pairs(_one_forward(of=("query",))),
    "statistics of the support set": _pairs(_one_forward(measured=True)),
    "statistics of the query set": _pairs(_by_query),
    "query loss of both sets": _pairs(lambda s, q: (s, [s, q])),
    "query and support in one batch": _pairs(lambda s, q: (s, _all_together([s, q]))),
    "a task for each support example": _one_by_one(paired=False),
    "a task for each pair of examples": _one_by_one(paired=True),
    "joint": lambda tasks: tasks,
}


def rounded(x, dtype: str):
    """The nearest numbers of a narrower dtype ("float32", "bfloat16", "float16"), as float64; labels stay."""
    x = np.asarray(x)
    if x.dtype.kind in "iu":
        return x
    with np.errstate(over="ignore"):
        if dtype != "bfloat16":
            return x.astype(dtype).astype(np.float64)
        # bfloat16 is the upper half of float32, to nearest, ties to even
        bits = x.astype(np.float32).view(np.uint32).astype(np.uint64)
        bits = (bits + 0x7FFF + ((bits >> np.uint64(16)) & np.uint64(1))) & np.uint64(0xFFFF0000)
        return bits.astype(np.uint32).view(np.float32).astype(np.float64).reshape(x.shape)
