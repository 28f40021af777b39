"""Fusion: which equations share a loop, and which values are stored.

A loop goes once over a range of elements and computes several equations for each: in `np.sum(np.tanh(x @ w + b) * g)`,
all that follows the product is one loop. Three rules decide:

1. Elementwise equations and sums over ranges of the same size share a loop, as long as the order of steps allows it.
2. A value that only its own loop needs is never stored.
3. A value that can be made in a few cheap operations from one array and some small ones (a ReLU's mask, a normalised
   activation) is computed again in each loop that wants it, instead of being stored and loaded.

`Fusion` holds the steps so far; `lowering` goes through the equations and adds to them. Read next: `lowering`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .. import ops
from ..engine import Primitive, alias
from .program import Equation, Program, Var
from .views import Buffer, View, merged_axes, strides_of, volume

DEPTH = 5  # the most equations that are computed again for one value
REACH = 60  # how many steps back a loop to join is looked for


@dataclass(eq=False)
class KernelCall:
    """A step that calls one kernel: its name, the views it reads and writes, and numbers."""

    kernel: str
    reads: list[View]
    writes: list[View]
    numbers: list[Any] = field(default_factory=list)

    def buffers(self) -> list[Buffer]:
        """What is read or written."""
        return [view.buffer for view in (*self.reads, *self.writes)]


@dataclass(eq=False)
class Loop:
    """A step that computes fused equations over `size` elements.

    Attributes:
        equations: in order, each with the view of every input (a number stays a number), broadcast to the range.
        values: each variable computed, with the view it would be stored to, in order.
        sums: variables that are sums over the range, with the view (stride 0 where it is summed) they are added to.
        stores: those of `values` that are stored.
        cuts: the range as nested loops, see `_cuts`.
        closed: no other equation may join.
        roots: the variable that would be stored to a buffer, for each of `values`.
    """

    size: int
    equations: list[tuple[Equation, list]] = field(default_factory=list)
    values: dict[Var, View] = field(default_factory=dict)
    sums: dict[Var, View] = field(default_factory=dict)
    stores: list[Var] = field(default_factory=list)
    cuts: frozenset[int] = frozenset()
    closed: bool = False
    roots: dict[Buffer, Var] = field(default_factory=dict)

    def append(self, e: Equation, operands: list, out: View, cuts: frozenset[int]) -> None:
        self.equations.append((e, operands))
        self.cuts |= cuts
        if e.primitive is ops._sum:
            self.sums[e.output] = out
        else:
            self.values[e.output] = out
            self.roots[out.buffer] = e.output

    def local(self, x: View) -> Var | None:
        """The variable of this loop that x is, element by element."""
        same = x.buffer in self.roots and x.buffer.size == self.size and x.offset == 0 and x.in_order
        return self.roots[x.buffer] if same and not self.closed else None

    def buffers(self) -> list[Buffer]:
        """What is read or written."""
        views = [x for _, operands in self.equations for x in operands if isinstance(x, View) and not self.local(x)]
        return [view.buffer for view in (*views, *(self.values[x] for x in self.stores), *self.sums.values())]


class Fusion:
    """The steps so far, and the view that every variable has become.

    Attributes:
        steps: in the order they run.
        views: of every variable.
        users: the primitives that take a variable; None stands for a result of the program.
        constants: the buffers of constant arrays, by what they hold.
        later: calls that are only made if all of what they write is wanted, by the buffer they write; see `later` of
            `call`.
    """

    def __init__(self, program: Program, inputs: list[Buffer]):
        self.users: dict[Var, set[Primitive | None]] = {}
        results = [x for x in (*program.outputs, *program.checked) if isinstance(x, Var)]
        pairs = [(x, e.primitive) for e in program.equations for x in e.inputs if isinstance(x, Var)]
        for x, user in [*pairs, *((x, None) for x in results)]:
            self.users.setdefault(x, set()).add(user)
        self.steps: list[KernelCall | Loop] = []
        self.views: dict[Var, View] = {}
        self.constants: dict[tuple, Buffer] = {}
        self.later: dict[Buffer, KernelCall] = {}
        self._made: dict[Var, tuple[Equation, list, int]] = {}  # by a loop: equation, operands, step
        self._root: dict[Buffer, Var] = {}
        self._ready: dict[Buffer, int] = {}  # the step that writes it
        self._stored: set[Buffer] = set()  # certainly in memory
        for x, buffer in zip(program.inputs, inputs, strict=True):
            self.views[x] = View(buffer, 0, x.shape, strides_of(x.shape))
            self._ready[buffer] = -1
            self._stored.add(buffer)

    # ── values ──

    def view(self, x) -> View:
        """The view of a variable, or of a constant array."""
        view = self.peek(x)
        if view.buffer in self.later:
            self.do(self.later.pop(view.buffer))
        return view

    def peek(self, x) -> View:
        """The same, where the step that computes the elements may not be done yet."""
        if isinstance(x, Var):
            return self.views[x]
        x = np.asarray(x)
        key = (x.dtype.str, x.shape, x.tobytes())
        if key not in self.constants:
            buffer = self.constants[key] = Buffer(x.dtype, x.size, keep=True, value=np.ascontiguousarray(x))
            self._ready[buffer] = -1
            self._stored.add(buffer)
        return View(self.constants[key], 0, x.shape, strides_of(x.shape))

    def new(self, e: Equation) -> View:
        """A buffer for the output of an equation."""
        buffer = Buffer(e.output.dtype, e.output.size)
        self._root[buffer] = e.output
        view = self.views[e.output] = View(buffer, 0, e.output.shape, strides_of(e.output.shape))
        return view

    def dense(self, x) -> View:
        """A view of x in which it is all of a buffer, in order: a copy if need be."""
        view = x if isinstance(x, View) else self.view(x)
        return view if view.is_whole else self.copied(view)

    def copied(self, x: View, dtype=None) -> View:
        """A copy in order, in a buffer of its own."""
        z = Var(x.shape, np.dtype(dtype or x.buffer.dtype))
        self.fuse(Equation(alias, (x,), {}, z))
        return self.views[z]

    # ── calls ──

    def call(self, e: Equation, kernel: str, reads: list[View], *numbers, later: bool = False) -> View:
        """A step that computes the output of an equation.

        Args:
            later: it is not done before its output is read; a step that needs less of it takes it out of `self.later`.
        """
        out = self.new(e)
        step = KernelCall(kernel, reads, [out], list(numbers))
        if later:
            self._stored.update(x.buffer for x in (*reads, out))
            self.later[out.buffer] = step
        else:
            self.do(step)
        return out

    def do(self, step: KernelCall) -> None:
        self._stored.update(x.buffer for x in (*step.reads, *step.writes))
        self._ready.update((x.buffer, len(self.steps)) for x in step.writes)
        self.steps.append(step)

    # ── loops ──

    def fuse(self, e: Equation) -> None:
        """Put an equation into the best loop that the order of steps allows, or into a new one."""
        domain = _range_of(e)
        operands = [self._operand(x, domain) for x in e.inputs]
        out = self.new(e)
        if e.primitive is ops._sum:
            kept = tuple(1 if i in e.params["axis"] else n for i, n in enumerate(domain))
            out = View(out.buffer, 0, domain, strides_of(kept))
        size, cuts = volume(domain), _cuts(domain, [*operands, out])
        best, best_score = len(self.steps), 0
        for at in range(len(self.steps) - 1, max(len(self.steps) - REACH, 0) - 1, -1):
            loop = self.steps[at]
            if isinstance(loop, Loop) and loop.size == size and not loop.closed and _can_nest(loop.cuts | cuts):
                score = self._shared_with(loop, at, operands)
                if score > best_score:
                    best, best_score = at, score
        if best == len(self.steps):
            self.steps.append(Loop(size))
        loop = self.steps[best]
        for x in operands:
            if isinstance(x, View):
                self._recompute(loop, x)
        loop.append(e, operands, out, cuts)
        self._ready[out.buffer] = best
        if e.primitive is ops._sum:
            self._stored.add(out.buffer)
        else:
            self._made[e.output] = (e, operands, best)

    def fill(self, target: View, x) -> None:
        """Write x into part of a buffer, by a loop of its own."""
        x = self.view(x).broadcast(target.shape)
        self._stored.add(x.buffer)
        z = Var(target.shape, target.buffer.dtype)
        loop = Loop(volume(target.shape), stores=[z], closed=True)
        loop.append(Equation(alias, (x,), {}, z), [x], target, _cuts(target.shape, [x, target]))
        self._ready[target.buffer] = len(self.steps)
        self.steps.append(loop)

    def _operand(self, x, domain: tuple[int, ...]):
        """A view over the range, or a number."""
        if not isinstance(x, (Var, View)) and np.size(x) == 1:
            return np.asarray(x).item()
        return (x if isinstance(x, View) else self.view(x)).broadcast(domain)

    def _shared_with(self, loop: Loop, at: int, operands: list) -> int:
        """How much an equation with these operands would share with the loop at step `at`; 0: it may not join."""
        score = 0
        read = {x.buffer for _, views in loop.equations for x in views if isinstance(x, View)}
        for x in operands:
            if not isinstance(x, View):
                continue
            if loop.local(x):
                score += 2
            elif self._ready[x.buffer] >= at:
                return 0
            else:
                score += x.buffer in read
        return score

    def _recompute(self, loop: Loop, x: View) -> None:
        """Compute x in the loop again, if that is cheaper than to load it."""
        root = self._root.get(x.buffer)
        if root not in self._made or loop.local(x) or x.buffer in self._stored:
            return
        if not x.in_order or x.buffer.size != loop.size or (chain := self._cheap(root, loop.size)) is None:
            return
        steps = [(e, operands, self.views[e.output]) for e, operands in chain]
        cuts = [_cuts(e.output.shape, operands) for e, operands, _ in steps]
        if _can_nest(loop.cuts.union(*cuts)):
            for (e, operands, out), cut in zip(steps, cuts, strict=True):
                if e.output not in loop.values:
                    loop.append(e, operands, out, cut)

    def _cheap(self, x: Var, size: int) -> list | None:
        """The equations, at most DEPTH, that make x of one array in memory and small ones; None if there are more."""
        chain: list = []
        large: set[Buffer] = set()

        def visit(x: Var) -> bool:
            e, operands, _ = self._made[x]
            if not e.primitive.description.cheap or len(chain) >= DEPTH:
                return False
            for y in operands:
                if not isinstance(y, View):
                    continue
                root = self._root.get(y.buffer)
                if y.buffer in self._stored or 4 * y.buffer.size <= size:
                    if 4 * y.buffer.size > size:
                        large.add(y.buffer)
                elif root not in self._made or not y.in_order or not visit(root):
                    return False
            chain.append((e, operands))
            return len(large) <= 1

        return chain if visit(x) else None

    # ── the end ──

    def output(self, x) -> Buffer:
        """A buffer that holds a result of the program, all of it and in order, until the end."""
        view = self.view(x)
        if not view.is_whole or view.buffer.keep:
            view = self.copied(view)
        view.buffer.keep = True
        self._stored.add(view.buffer)
        return view.buffer

    def decide_stores(self, outputs: list[Buffer]) -> None:
        """From the last step to the first: store what later steps read, and drop what nothing reads."""
        wanted = set(outputs)
        for at in range(len(self.steps) - 1, -1, -1):
            step = self.steps[at]
            if isinstance(step, KernelCall):
                wanted.update(view.buffer for view in step.reads)
                continue
            needed = set(step.stores)
            for x, view in step.values.items():
                if self._made.get(x, (0, 0, at))[2] == at and view.buffer in wanted and x not in step.stores:
                    step.stores.append(x)
                    needed.add(x)
            needed.update(x for x, view in step.sums.items() if view.buffer in wanted)
            alive = []
            for e, operands in reversed(step.equations):
                if e.output not in needed:
                    continue
                alive.append((e, operands))
                for x in operands:
                    if isinstance(x, View):
                        inside = step.local(x)
                        needed.add(inside) if inside else wanted.add(x.buffer)
            step.equations = alive[::-1]
            step.values = {x: v for x, v in step.values.items() if x in needed}
            step.sums = {x: v for x, v in step.sums.items() if x in needed}
            step.roots = {v.buffer: x for x, v in step.values.items()}
            views = [*step.sums.values(), *(step.values[x] for x in step.stores)]
            step.cuts = frozenset().union(*(_cuts(v.shape, [v]) for v in views))
            step.cuts = step.cuts.union(*(_cuts(_range_of(e), operands) for e, operands in step.equations))
        self.steps = [s for s in self.steps if isinstance(s, KernelCall) or s.equations]


def _range_of(e: Equation) -> tuple[int, ...]:
    """The shape of the elements that an equation goes over."""
    return e.inputs[0].shape if e.primitive is ops._sum else e.output.shape


def _cuts(domain: tuple[int, ...], operands: list) -> frozenset[int]:
    """The sizes of the inner pieces of a range, cut so that every operand has one stride in each piece."""
    cuts = set()
    for x in operands:
        if isinstance(x, View):
            inner = 1
            for n, _ in merged_axes(domain, x.strides)[:0:-1]:
                inner *= n
                cuts.add(inner)
    return frozenset(cuts)


def _can_nest(cuts: frozenset[int]) -> bool:
    """Whether each cut divides the next, so that loops can be nested."""
    order = sorted(cuts)
    return all(b % a == 0 for a, b in zip(order, order[1:], strict=False))
