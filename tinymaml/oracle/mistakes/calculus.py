"""Loss, gradient and Hessian-vector products of one model, over one kind of number."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable

import numpy as np

from ..arithmetic import as_numbers, bits_of, remembered
from ..models import ONE_USE, TRANSPOSED, Options, loss_and_grad, losses_and_grads
from .data import chunks
from .updates import MIXED_UP, dot, dual, in_order, mixed_up, slope
from .updates import map_trees as _map


class Calculus:
    """Loss, gradient and the gradient's derivative along v, of one model over one kind of number.

    A batch is (x, y), or more; see `data`. `known` is for what is computed once for all that have the same `known`.
    """

    def __init__(self, model: dict, how: Options, number=float, known: dict | None = None):
        self.model, self.how, self.number = model, how, number
        self.known = None if known is None else known.setdefault(how, {})

    def otherwise(self, **options) -> Calculus:
        """The same with other Options."""
        return Calculus(self.model, dataclasses.replace(self.how, **options), self.number)

    def loss_and_grad(self, theta: dict, batch) -> tuple:
        if isinstance(batch, list):  # the mean over its pieces
            values, grads = zip(*(self.loss_and_grad(theta, piece) for piece in batch), strict=True)
            mean = lambda *xs: sum(xs[1:], xs[0]) / len(xs)  # noqa: E731
            return mean(*values), _map(mean, *grads)
        x, y, *more = batch
        if self.known is not None and not more:
            key = bits_of(*theta.values(), x, y)
            return remembered(self.known, key, lambda: loss_and_grad(self.model, theta, x, y, self.how))
        rows, measured = more or (None, None)
        how = self.how if measured is None else dataclasses.replace(self.how, measured=measured)
        return loss_and_grad(self.model, theta, x, y, how, rows=rows)

    def along(self, theta: dict, batch, v: dict) -> dict:
        """J v, J = ∂g/∂θ: the Hessian times v; one evaluation of the gradient in the direction of v."""
        if self.number is float:
            # the complex step:  J v = Im g(θ + ih v) / h.  No difference, so nothing cancels; h makes h² vanish.
            h = 1e-100
            _, g = self.loss_and_grad({n: p + 1j * h * v[n] for n, p in theta.items()}, batch)
            return {n: np.imag(x) / h for n, x in g.items()}
        _, g = self.loss_and_grad({n: dual(p, v[n]) for n, p in theta.items()}, batch)
        return {n: slope(x) for n, x in g.items()}

    def of_statistics(self, theta: dict, batch) -> dict[str, tuple]:
        """(∂L/∂mean, ∂L/∂variance) of the statistics that batch norm is given in the Options, by its name."""
        given, h = self.how.statistics or {}, 1e-100
        out: dict[str, tuple] = {}
        for name, both in given.items():
            slopes = [np.zeros(np.shape(x), np.asarray(x).dtype) for x in both]
            for place, at in itertools.product(range(2), range(np.size(both[0]))):
                e = (np.arange(np.size(both[0])) == at).reshape(np.shape(both[0])) * 1
                # ∂L = Im L(s + ih e) / h, or the slope over dual numbers
                moved = both[place] + 1j * h * e if self.number is float else dual(both[place], e)
                changed = {name: tuple(moved if i == place else x for i, x in enumerate(both))}
                value, _ = self.otherwise(statistics=given | changed).loss_and_grad(theta, batch)
                slopes[place].flat[at] = np.imag(value) / h if self.number is float else slope(value)[()]
            out[name] = tuple(slopes)
        return out

    def along_twice(self, theta: dict, batch, v: dict, w: dict) -> dict:
        """The derivative of H w along v, in floats: by differences of the eighth order, right to some 13 digits."""
        size = np.sqrt(np.asarray(dot(v, v)))
        h = 0.005 / size if size else 0.0
        total = _map(lambda p: p * 0, theta)
        for i, c in enumerate((4 / 5, -1 / 5, 4 / 105, -1 / 280), start=1):
            for side_of in (1, -1):
                moved = _map(lambda p, x, step=side_of * i * h: p + x * step, theta, v)
                total = _map(lambda t, x, c=side_of * c: t + x * c, total, self.along(moved, batch, w))
        return _map(lambda t: t / h if h else t * 0, total)

    def transposed(self, theta: dict, batch, v: dict) -> dict:
        """Jᵀ v. A Hessian is symmetric, and so are its two parts: the loss's curvature (all layers frozen), and the
        layers' (the loss frozen). The derivative of a gradient with one layer frozen is not, nor is that of a gradient
        with most other wrong rules; code that differentiates forwards has J v."""
        frozen, layers = self.how.frozen, {m["layer"] for m in self.model["layers"]}
        if self.how.derived == "forwards":
            return self.along(theta, batch, v)
        skew = self.how.derived == "backwards" or self.how.through != "right" or self.how.updating is not None
        skew = skew or self.how.biases == "averaged, and weights, in the gradient"
        parts = [part.partition(" ") for part in frozen]
        if not skew and frozen and all(part in TRANSPOSED for _, _, part in parts):
            other = frozenset(f"{layer} {TRANSPOSED[part]}" for layer, _, part in parts)
            return self.otherwise(frozen=other).along(theta, batch, v)
        if (
            not skew
            and self.how.tied not in ONE_USE
            and (not {layer for layer, _, _ in parts} & (layers | {"loss"}) or frozen == {"loss"} or layers <= frozen)
        ):
            return self.along(theta, batch, v)
        return {n: np.reshape(np.array([dot(column, v) for column in columns], np.asarray(v[n]).dtype), v[n].shape)
                for n, columns in self.columns(theta, batch).items()}  # fmt: skip

    def diagonal(self, theta: dict, batch, v: dict) -> dict:
        """diag(H) v."""
        columns = self.columns(theta, batch)
        diagonal = {n: np.array([c[n].flat[i] for i, c in enumerate(cs)]) for n, cs in columns.items()}
        return {n: np.reshape(d, v[n].shape) * v[n] for n, d in diagonal.items()}

    def triangle(self, theta: dict, batch, v: dict, lower: bool) -> dict:
        """The lower or upper triangle of H, diagonal included, times v."""
        columns = [column for of_one in self.columns(theta, batch).values() for column in of_one]
        matrix = np.stack([np.concatenate([np.ravel(x) for x in column.values()]) for column in columns], 1)
        product = (np.tril(matrix) if lower else np.triu(matrix)) @ np.concatenate([np.ravel(x) for x in v.values()])
        ends = np.cumsum([np.size(x) for x in v.values()])
        return {n: np.reshape(product[end - np.size(x) : end], np.shape(x))
                for (n, x), end in zip(v.items(), ends.tolist(), strict=True)}  # fmt: skip

    def of_eigenvalues(self, theta: dict, batch, v: dict, change: Callable) -> dict:
        """H v with other eigenvalues, in floats."""
        flat = lambda tree: np.concatenate([np.ravel(x) for x in tree.values()]).astype(float)  # noqa: E731
        matrix = np.stack([flat(c) for of_tensor in self.columns(theta, batch).values() for c in of_tensor], 1)
        if not np.isfinite(matrix).all():
            return _map(lambda x: x * np.nan, v)
        values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
        product = vectors @ (change(values) * (vectors.T @ flat(v)))
        ends = np.cumsum([np.size(x) for x in v.values()])
        number = lambda x: as_numbers(x, self.number)  # noqa: E731
        return {n: number(np.reshape(product[end - np.size(x) : end], np.shape(x)))
                for (n, x), end in zip(v.items(), ends.tolist(), strict=True)}  # fmt: skip

    def blocks(self, theta: dict, batch, v: dict, layers: bool = False) -> dict:
        """H v without the blocks between tensors, or between layers."""
        own = {n: n for n in v}  # the tensor or layer of each
        if layers:
            used = [layer.get("params", []) for layer in self.model["layers"]]
            own |= {n: i for i, names in reversed(list(enumerate(used))) for n in names}
        alone = lambda block: {m: x if own[m] == block else x * 0 for m, x in v.items()}  # noqa: E731
        products = {block: self.along(theta, batch, alone(block)) for block in own.values()}
        return {n: products[own[n]][n] for n in v}

    def row_sums(self, theta: dict, batch, v: dict) -> dict:
        """(H 1) v, element by element."""
        return _map(np.multiply, self.along(theta, batch, _map(lambda x: x * 0 + 1, v)), v)

    def mixed_up(self, theta: dict, batch, v: dict, change: str) -> dict:
        """P H v, P a permutation; or, "and back", P⁻¹ H P v."""
        change, _, back = change.partition(", ")
        if not back:
            return mixed_up(self.transposed(theta, batch, v), change)
        return mixed_up(self.transposed(theta, batch, mixed_up(v, change)), MIXED_UP[change])

    def in_turn(self, theta: dict, batch, v: dict, alpha: dict, order: str) -> dict:
        """H v, v = −A u, in which u is overwritten: each tensor of H v is taken when those before it are added."""
        out = dict(v)
        for n in in_order(order, v):
            out[n] = self.transposed(theta, batch, v)[n]
            v = v | {n: v[n] - alpha[n] * out[n]}
        return out

    def difference(self, theta: dict, batch, v: dict, h, like: str) -> dict:
        """(g(θ + hv) − g(θ)) / h, or (g(θ + hv) − g(θ − hv)) / 2h; "undivided", over h; "halved", over 2h."""
        central = like.startswith("central")
        at = lambda step: self.loss_and_grad(_map(lambda p, x: p + x * step, theta, v), batch)[1]  # noqa: E731
        low = at(-h) if central else self.loss_and_grad(theta, batch)[1]
        over = h * 2 if central and "undivided" not in like or like.endswith("halved") else h
        return _map(lambda a, b: (a - b) / over, at(h), low)

    def outer_product(self, theta: dict, batch, v: dict) -> dict:
        """g gᵀ v."""
        _, g = self.loss_and_grad(theta, batch)
        size = dot(g, v)
        return _map(lambda x: x * size, g)

    def outer_products(self, theta: dict, batch, v: dict) -> dict:
        """1/N Σᵢ gᵢ gᵢᵀ v over the examples."""
        each = [self.outer_product(theta, piece, v) for piece in chunks(batch, 1)]
        return _map(lambda *xs: sum(xs[1:], xs[0]) / len(xs), *each)

    def columns(self, theta: dict, batch) -> dict[str, list[dict]]:
        """J's columns, J e, by the parameter and element in which e is 1."""
        out: dict[str, list[dict]] = {}
        for name, p in theta.items():
            out[name] = []
            for i in range(p.size):
                e = {n: np.array(q * 0) for n, q in theta.items()}
                e[name].flat[i] += 1
                out[name].append(self.along(theta, batch, e))
        return out

    def solve(self, theta: dict, batch, scale: dict, v: dict) -> dict:
        """(I + H S)⁻¹ v, S = diag(scale), by elimination: over any numbers."""
        flat = lambda tree: np.concatenate([np.ravel(x) for x in tree.values()])  # noqa: E731
        columns = [flat(c) for of_tensor in self.columns(theta, batch).values() for c in of_tensor]
        rows = np.stack(columns, 1) * flat(scale) + np.eye(len(columns), dtype=int)
        right, n = np.array(flat(v)), len(columns)
        for i in range(n):
            pivot = i + max(range(n - i), key=lambda j: abs(float(rows[i + j, i])))  # noqa: B023
            for array in (rows, right):
                array[[i, pivot]] = array[[pivot, i]]
            for j in range(i + 1, n):
                factor = rows[j, i] / rows[i, i]
                rows[j], right[j] = rows[j] - rows[i] * factor, right[j] - right[i] * factor
        for i in reversed(range(n)):
            right[i] = (right[i] - np.sum(rows[i, i + 1 :] * right[i + 1 :])) / rows[i, i]
        parts = np.split(right, np.cumsum([x.size for x in v.values()])[:-1])
        return {m: np.reshape(part, x.shape) for (m, x), part in zip(v.items(), parts, strict=True)}


class SideBySide(Calculus):
    """The sum of all tasks' losses, each by parameters of its own, with one batch norm for all, or one for each."""

    def __init__(self, model: dict, how: Options, number, joint: bool):
        super().__init__(model, how, number)
        self.joint = joint

    def loss_and_grad(self, theta: dict, batch) -> tuple:
        if any(isinstance(b, list) or len(b) > 2 for b in batch):
            raise ValueError("the tasks side by side have sets in pieces, or parts of sets; wanted whole sets")
        of_tasks = [{n: p for (n, at), p in theta.items() if at == t} for t in range(len(batch))]
        if self.joint:
            values, grads = losses_and_grads(self.model, of_tasks, batch, self.how)
        else:
            each = [loss_and_grad(self.model, own, *b, self.how) for own, b in zip(of_tasks, batch, strict=True)]
            values, grads = zip(*each, strict=True)
        return values, {(n, t): grads[t][n] for n, t in theta}
