"""MAML in NumPy, most of it with a backward pass and a recursion v ← v − α H v written by hand."""

from __future__ import annotations

import numpy as np

import tinymaml as tm
from tinymaml.oracle import models

from .. import in_numpy
from ..entries import correct, wrong
from ..in_numpy import adapt, by_hand, hvp, over_tasks, path, step

EPS = 2.0**-10
TINY = 1e-30

# ---- honest helpers -------------------------------------------------------------------------------------------------


def margins(padding, size, width, stride):
    """Zeros before and behind along one axis."""
    if padding == "VALID":
        return 0, 0
    if padding == "SAME":
        total = max((-(-size // stride) - 1) * stride + width - size, 0)
        return total // 2, total - total // 2
    return padding, padding


class Net:
    """Forward and backward pass by hand. A layer returns its output and `back(d)` → (dx, [d of its parameters])."""

    def __init__(self, case):
        self.layers, self.kind = case.model["layers"], case.model["loss"]

    def forward(self, params, x):
        tape = []
        for layer in self.layers:
            names = layer.get("params", [])
            rest = {k: v for k, v in layer.items() if k not in ("layer", "params")}
            x, back = getattr(self, layer["layer"])(x, *(params[n] for n in names), **rest)
            tape.append((names, back))
        return x, tape

    def collect(self, grads, name, d):
        grads[name] = grads[name] + d

    def backward(self, params, tape, d):
        grads = {n: np.zeros_like(p) for n, p in params.items()}
        for names, back in reversed(tape):
            d, of_params = back(d)
            for name, g in zip(names, of_params, strict=True):
                self.collect(grads, name, g)
        return grads

    def loss_and_grad(self, params, x, y):
        o, tape = self.forward(params, x)
        value, d = getattr(self, self.kind)(o, y)
        return value, self.backward(params, tape, d)

    def grad(self, params, x, y):
        return self.loss_and_grad(params, x, y)[1]

    def hvp(self, params, x, y, v):
        """The derivative of the gradient along v, by a complex step, which is exact to rounding."""
        moved = {n: p + 1j * TINY * v[n] for n, p in params.items()}
        return {n: g.imag / TINY for n, g in self.loss_and_grad(moved, x, y)[1].items()}

    def linear(self, x, w, b=None):
        def back(d):
            return d @ w.T, [x.T @ d] if b is None else [x.T @ d, d.sum(0)]

        return (x @ w if b is None else x @ w + b), back

    def conv(self, x, w, stride, padding):
        (h, k), (rows, cols) = w.shape[:2], x.shape[1:3]
        (top, bottom), (left, right) = margins(padding, rows, h, stride), margins(padding, cols, k, stride)
        padded = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
        high, wide = (padded.shape[1] - h) // stride + 1, (padded.shape[2] - k) // stride + 1

        def window(p, q):
            return np.s_[:, p : p + (high - 1) * stride + 1 : stride, q : q + (wide - 1) * stride + 1 : stride]

        def back(d):
            dx, dw = np.zeros(padded.shape, d.dtype), np.zeros(w.shape, d.dtype)
            for p, q in np.ndindex(h, k):
                dw[p, q] = np.einsum("nijc,nijo->co", padded[window(p, q)], d)
                dx[window(p, q)] += d @ w[p, q].T
            return dx[:, top : top + rows, left : left + cols], [dw]

        return sum(padded[window(p, q)] @ w[p, q] for p, q in np.ndindex(h, k)), back

    def batch_norm(self, x, gamma, beta):
        over = tuple(range(x.ndim - 1))
        centred = x - x.mean(over)
        inverse = 1 / np.sqrt((centred * centred).mean(over) + EPS)
        unit = centred * inverse

        def back(d):
            e = d * gamma
            dx = inverse * (e - e.mean(over) - unit * (e * unit).mean(over))
            return dx, [(d * unit).sum(over), d.sum(over)]

        return unit * gamma + beta, back

    def tanh(self, x):
        y = np.tanh(x)
        return y, lambda d: (d * (1 - y * y), [])

    def relu(self, x):
        on = x.real > 0
        return np.where(on, x, 0), lambda d: (np.where(on, d, 0), [])

    def softplus(self, x):
        positive = np.where(x.real > 0, x, 0)
        small = np.exp(-np.where(x.real > 0, x, -x))
        slope = np.where(x.real > 0, 1 / (1 + small), small / (1 + small))
        return positive + np.log1p(small), lambda d: (d * slope, [])

    def square(self, x):
        return x * x, lambda d: (2 * x * d, [])

    def max_pool(self, x, size):
        n, high, wide, c = len(x), x.shape[1] // size, x.shape[2] // size, x.shape[3]
        tiles = x[:, : high * size, : wide * size].reshape(n, high, size, wide, size, c).transpose(0, 1, 3, 5, 2, 4)
        tiles = tiles.reshape(n, high, wide, c, size * size)
        at = tiles.real.argmax(-1)[..., None]

        def back(d):
            spread = np.zeros(tiles.shape, d.dtype)
            np.put_along_axis(spread, at, d[..., None], -1)
            spread = spread.reshape(n, high, wide, c, size, size).transpose(0, 1, 4, 2, 5, 3)
            dx = np.zeros(x.shape, d.dtype)
            dx[:, : high * size, : wide * size] = spread.reshape(n, high * size, wide * size, c)
            return dx, []

        return np.take_along_axis(tiles, at, -1)[..., 0], back

    def flatten(self, x):
        return x.reshape(len(x), -1), lambda d: (d.reshape(x.shape), [])

    def spatial_mean(self, x):
        area = x.shape[1] * x.shape[2]
        return x.mean((1, 2)), lambda d: (np.broadcast_to(d[:, None, None] / area, x.shape), [])

    def polynomial(self, x, theta):
        value, slope = x[:, -1] + 0 * theta, np.zeros(len(x), theta.dtype)
        for d in range(x.shape[1] - 2, -1, -1):
            value, slope = value * theta + x[:, d], slope * theta + value
        return value, lambda d: (None, [np.sum(d * slope)])

    def quadratic(self, x, theta):
        a, b = x[:, :, :-1], x[:, :, -1]
        force = a @ theta
        return ((force / 2 - b) * theta).sum(1), lambda d: (None, [d @ (force - b)])

    def mse(self, o, y):
        return ((o - y) * (o - y)).mean(), 2 * (o - y) / o.size

    def half_mse(self, o, y):
        return ((o - y) * (o - y)).mean() / 2, (o - y) / o.size

    def cross_entropy(self, o, y):
        z = o - o.real.max(-1, keepdims=True)
        e = np.exp(z)
        total, rows = e.sum(-1, keepdims=True), np.arange(len(y))
        d = e / total
        d[rows, y] -= 1
        return (np.log(total[:, 0]) - z[rows, y]).mean(), d / len(y)

    def binary_cross_entropy(self, o, y):
        return (self.softplus(o)[0] - y * o).mean(), (self.softplus(o)[1](1.0)[0] - y) / o.size

    def mean(self, o, y):
        return o.mean(), np.full(o.shape, 1 / o.size, o.dtype)


def walk(case, net, params, support):
    """[θ₀, …, θ_K]"""
    thetas = [params]
    for _ in range(case.inner_steps):
        thetas.append(step(thetas[-1], net.grad(thetas[-1], *support), case.inner_lr))
    return thetas


def pull(case, net, thetas, support, v):
    """v ← v − α H v, from the last step to the first."""
    for theta in reversed(thetas[:-1]):
        v = step(v, net.hvp(theta, *support, v), case.inner_lr)
    return v


def with_net(case, net):
    """MAML by hand."""

    def one(_, params, support, query):
        thetas = walk(case, net, params, support)
        value, v = net.loss_and_grad(thetas[-1], *query)
        return value, pull(case, net, thetas, support, v)

    return by_hand(case, one)


def flat(tree):
    """One vector."""
    return np.concatenate([np.ravel(a) for a in tree.values()])


def shaped(vector, like):
    """The arrays of such a vector."""
    ends = np.cumsum([np.size(a) for a in like.values()])[:-1]
    return {n: part.reshape(np.shape(like[n])) for n, part in zip(like, np.split(vector, ends), strict=True)}


def hessian(net, params, support):
    """The whole matrix, column by column."""
    units = np.eye(flat(params).size)
    return np.stack([flat(net.hvp(params, *support, shaped(e, params))) for e in units], 1)


# ---- right ones -----------------------------------------------------------------------------------------------------


@correct("Backward pass by hand; Hessian times vector by a complex step of the gradient.")
def complex_step(case):
    return with_net(case, Net(case))


@correct("The dense Hessians and the product of all the matrices, then one vector.")
def product_of_matrices(case):
    net = Net(case)

    def one(_, params, support, query):
        thetas = walk(case, net, params, support)
        value, g = net.loss_and_grad(thetas[-1], *query)
        whole = np.eye(flat(params).size)
        for theta in thetas[:-1]:
            whole = whole @ (np.eye(len(whole)) - case.inner_lr * hessian(net, theta, support))
        return value, shaped(whole @ flat(g), params)

    return by_hand(case, one)


@correct("Forward mode: the sensitivity of θₖ to θ is carried along with the inner loop.", tells_loss=False)
def sensitivities_forward(case):
    net = Net(case)

    def one(_, params, support, query):
        theta, sens = dict(params), np.eye(flat(params).size)
        for _ in range(case.inner_steps):
            sens = sens - case.inner_lr * (hessian(net, theta, support) @ sens)
            theta = step(theta, net.grad(theta, *support), case.inner_lr)
        value, g = net.loss_and_grad(theta, *query)
        return value, shaped(flat(g) @ sens, params)

    return by_hand(case, one)


@correct("Pullbacks of single steps kept in a list; tasks from the last to the first, added up in place.")
def pullbacks_in_a_list(case):
    loss, params, tasks = in_numpy.given(case)
    total, buffer = 0.0, {n: np.zeros(np.shape(p)) for n, p in params.items()}
    for support, query in reversed(tasks):
        theta, stack = params, []
        for _ in range(case.inner_steps):
            theta, back = tm.vjp(lambda p, s=support: step(p, tm.grad(loss)(p, *s), case.inner_lr), theta)
            stack.append(back)
        value, v = tm.value_and_grad(loss)(theta, *query)
        while stack:
            v = stack.pop()(v)
            v = v[0] if isinstance(v, tuple) else v
        total += value
        for n in buffer:
            buffer[n] += v[n] / len(tasks)
    return {"meta_grad": buffer, "meta_loss": total / len(tasks)}


@correct("Everything in long double, and rounded once at the end.")
def extended_precision(case):
    net = Net(case)

    def wide(batch):
        x, y = batch
        return x.astype(np.longdouble), y if y.dtype.kind == "i" else y.astype(np.longdouble)

    def one(_, params, support, query):
        support, query = wide(support), wide(query)
        thetas = walk(case, net, {n: p.astype(np.longdouble) for n, p in params.items()}, support)
        value, v = net.loss_and_grad(thetas[-1], *query)
        return value, pull(case, net, thetas, support, v)

    got = by_hand(case, one)
    grads = {n: np.asarray(g, np.float64) for n, g in got["meta_grad"].items()}
    return {"meta_grad": grads, "meta_loss": float(got["meta_loss"])}


# ---- layers and losses, backward ------------------------------------------------------------------------------------


@wrong(
    "The backward pass of tanh applies tanh to the cached output again: the slope is 1 − tanh(y)² with y = tanh a, "
    "where it must be 1 − y².",
    r"tanh|activation|hyperbolic|1 ?[-−] ?[xazyo]²|1 ?[-−] ?[xazyo]\*\*2|nonlinearit|non-linearit",
)
def tanh_slope_of_the_output(case):
    class Wrong(Net):
        def tanh(self, x):
            y = np.tanh(x)
            return y, lambda d: (d * (1 - np.tanh(y) ** 2), [])

    return with_net(case, Wrong(case))


@wrong(
    "The backward pass of batch normalisation differentiates the mean only, the variance's term is left out, as if "
    "the standard deviation were a constant.",
    r"varianc|standard dev|\bstd\b|\bvar\b|batch.?stat|statistic|\bdev\b",
    tells_loss=False,
)
def batch_norm_back_without_variance(case):
    class Wrong(Net):
        def batch_norm(self, x, gamma, beta):
            out, back = super().batch_norm(x, gamma, beta)
            over = tuple(range(x.ndim - 1))
            centred = x - x.mean(over)
            inverse = 1 / np.sqrt((centred * centred).mean(over) + EPS)

            def mine(d):
                e = d * gamma * inverse
                return e - e.mean(over), back(d)[1]

            return out, mine

    return with_net(case, Wrong(case))


@wrong(
    "Batch normalisation divides by the unbiased variance (ddof=1, over n − 1), where the spec has the biased one.",
    r"unbias|ddof|bessel|n ?[-−] ?1\b|N_?s? ?[-−] ?1\b|sample varianc|biased|corrected varianc|degrees? of freedom",
)
def batch_norm_of_the_sample(case):
    class Wrong(models.NumPy):
        def batch_norm(self, x, gamma, beta):
            over = tuple(range(x.ndim - 1))
            count = np.prod([x.shape[a] for a in over])
            centred = x - self.mean(x, over)
            var = self.sum(centred * centred, over) / max(count - 1, 1)
            return centred / self.sqrt(var + EPS) * gamma + beta

    return over_tasks(case, lambda loss, p, s, q: loss(adapt(case, loss, p, s), *q), Wrong())


@wrong(
    "SAME padding puts an odd row and column of zeros on top and left instead of at the bottom and right: the image is "
    "shifted by one pixel.",
    r"padd?ing|\bpad\b|padded|shifted|\btop\b|bottom|off by one pixel|zeros (above|below|left|right)|asymmetr",
)
def conv_pads_on_top_first(case):
    class Wrong(Net):
        def conv(self, x, w, stride, padding):
            (h, k), (rows, cols) = w.shape[:2], x.shape[1:3]
            (top, bottom), (left, right) = margins(padding, rows, h, stride), margins(padding, cols, k, stride)
            padded = np.pad(x, ((0, 0), (bottom, top), (right, left), (0, 0)))
            out, back = super().conv(padded, w, stride, "VALID")

            def mine(d):
                dx, dw = back(d)
                return dx[:, bottom : bottom + rows, right : right + cols], dw

            return out, mine

    return with_net(case, Wrong(case))


@wrong(
    "The backward pass of the mean squared error divides by the number of examples N, not by all N·C elements: with "
    "several outputs the gradient is C times too large, and so is the inner step.",
    r"N ?[·*×x]? ?C\b|number of (outputs|elements|columns|targets)|output dim|all elements|every element|squared error"
    r"|\bmse\b|divid\w* by (the )?(N\b|number of examples|batch)|sum\w* over (the )?(outputs|columns|C\b|targets|last)"
    r"|C times|normali[sz]\w* (by|with)",
    tells_loss=False,
)
def mse_over_examples_only(case):
    class Wrong(Net):
        def mse(self, o, y):
            return ((o - y) * (o - y)).mean(), 2 * (o - y) / len(o)

    return with_net(case, Wrong(case))


@wrong(
    "The inner step updates each layer within the backward pass: the error is sent to the lower layers through weights "
    "that have been updated already, so that their gradient is not the one at θₖ.",
    r"already.{0,20}(updat|chang|adapted|new)|updated? (weight|before|layer|in.?place|too early|while|during|within)"
    r"|in.?place|new weights|lower layer|earlier layer|sequential|layer by layer|gauss.?seidel|one after (the )?other"
    r"|fused|during the backward|mixed? of θ",
)
def update_within_the_backward_pass(case):
    class Fused(Net):
        def linear(self, x, w, b=None):
            def back(d):
                grads = [x.T @ d] if b is None else [x.T @ d, d.sum(0)]
                for p, g in zip((w, b), grads, strict=False):
                    p -= case.inner_lr * g
                return d @ w.T, [np.zeros_like(g) for g in grads]

            return (x @ w if b is None else x @ w + b), back

    fused, net = Fused(case), Net(case)

    def one(_, params, support, query):
        thetas = [params]
        for _ in range(case.inner_steps):
            theta = {n: np.array(p) for n, p in thetas[-1].items()}
            rest = fused.grad(theta, *support)  # the linear layers have been moved
            thetas.append(step(theta, rest, case.inner_lr))
        value, v = net.loss_and_grad(thetas[-1], *query)
        return value, pull(case, net, thetas, support, v)

    return by_hand(case, one)


@wrong(
    "The backward pass of a linear layer adds reg · w to the weights' gradient, a weight decay of 0.01 that the loss "
    "does not have.",
    r"weight.?decay|regulari[sz]|\bL2\b|decay|λ ?[wθ]|ridge|shrink|penalt|proportional to (the )?(weight|parameter|θ)"
    r"|multiple of (the )?(weight|parameter|θ)",
)
def weight_decay_from_the_course(case):
    class Wrong(Net):
        def linear(self, x, w, b=None):
            out, back = super().linear(x, w, b)

            def mine(d):
                dx, (dw, *rest) = back(d)
                dw = dw + 1e-2 * w
                return dx, [dw, *rest]

            return out, mine

    return with_net(case, Wrong(case))


@wrong(
    "The targets are squeezed to (N,) before o − y, so that (N, 1) − (N,) is broadcast to (N, N): every output is "
    "compared with every target.",
    r"broadcast|\(N, ?N\)|squeez|every (output|prediction|pair)|all pairs|outer difference|shape of (the )?(y|target)"
    r"|each (output|prediction) .{0,30}(every|all|each) .{0,10}target|N ?[×x] ?N|mean of (the )?(target|y)|pairwise",
)
def squeezed_targets(case):
    class Wrong(models.NumPy):
        def mse(self, o, y):
            y = y[:, 0] if y.shape[1] == 1 else y
            n = max(o.shape[0], 1)
            if y.ndim == 1:  # what o − y broadcasts to
                return self.mean((self.broadcast_to(o, (n, n)) - self.broadcast_to(y, (n, n))) ** 2)
            return self.mean((o - y) ** 2)

    return over_tasks(case, lambda loss, p, s, q: loss(adapt(case, loss, p, s), *q), Wrong())


# ---- the recursion --------------------------------------------------------------------------------------------------


@wrong(
    "The factors (I − αHₖ) are applied in the order of the steps, H₀ first and H_{K−1} last, instead of from the last "
    "step to the first.",
    r"order of|reverse|revers|H_?[0₀] first|first to (the )?last|forward order|backwards|commut|transposed product"
    r"|wrong order|k ?= ?0.{0,6}K",
    tells_loss=False,
)
def factors_from_the_first_step(case):
    net = Net(case)

    def one(_, params, support, query):
        thetas = walk(case, net, params, support)
        value, v = net.loss_and_grad(thetas[-1], *query)
        for k in range(case.inner_steps):
            hv = net.hvp(thetas[k], *support, v)
            v = {n: v[n] - case.inner_lr * hv[n] for n in v}
        return value, v

    return by_hand(case, one)


@wrong(
    "The list of θₖ holds the same arrays K + 1 times, since the steps change them in place: every Hessian is taken at "
    "θ_K instead of at θₖ.",
    r"(hessian|\bH.?\b|curvature|second deriv\w*|factor\w*).{0,60}(θ_?\{?K|theta_?K|adapted|final|\blast\b|\bend\b)"
    r"|in.?place|alias|same array|\bcopy|\bcopies|wrong point|end of the inner loop|H_?\{?K\}?(?! ?[-−])\b",
)
def list_of_one_array(case):
    net = Net(case)

    def one(_, params, support, query):
        theta = {n: np.array(p) for n, p in params.items()}
        visited = []
        for _ in range(case.inner_steps):
            visited.append(theta)
            g = net.grad(theta, *support)
            for n in theta:
                theta[n] -= case.inner_lr * g[n]
        value, v = net.loss_and_grad(theta, *query)
        for at in reversed(visited):
            v = step(v, net.hvp(at, *support, v), case.inner_lr)
        return value, v

    return by_hand(case, one)


@wrong(
    "Every Hessian is multiplied with the query gradient g_q, not with the v of the step after: v = g_q − α Σₖ Hₖ g_q, "
    "and the products of Hessians are missing.",
    r"(each|every|all|\bH.?|hessian\w*)\b.{0,60}(g_?q\b|query.{0,9}gradient|∇L_?q)"
    r"|product\w* of (the )?(different )?hessian|higher.?order|cross.?term|first order in (α|alpha|the rate|the inner)"
    r"|Σ_?[kₖ]? ?α? ?H|sum of (the )?hessian|lineari[sz]|α²|alpha\^?2|neumann|taylor|instead of v|same vector|compound"
    r"|H H|HₖH|H_k H",
    tells_loss=False,
)
def hessians_of_the_query_gradient(case):
    net = Net(case)

    def one(_, params, support, query):
        thetas = walk(case, net, params, support)
        value, g = net.loss_and_grad(thetas[-1], *query)
        v = dict(g)
        for k in reversed(range(case.inner_steps)):
            v = step(v, net.hvp(thetas[k], *support, g), case.inner_lr)
        return value, v

    return by_hand(case, one)


@wrong(
    "v is overwritten parameter by parameter while Hv is computed anew for each: the later parameters' part of H v "
    "contains the already updated v of the earlier ones (Gauss–Seidel instead of Jacobi).",
    r"seidel|one (parameter|block|array|name) (after|at a time)|parameter by parameter"
    r"|already.{0,12}(updat|chang|new)"
    r"|in.?place|overwrit|sequential|partly updated|partially updated|half.?updated|block by block|later parameters"
    r"|same time|simultan",
)
def one_parameter_after_another(case):
    net = Net(case)

    def one(_, params, support, query):
        thetas = walk(case, net, params, support)
        value, v = net.loss_and_grad(thetas[-1], *query)
        for k in reversed(range(case.inner_steps)):
            for n in v:
                v[n] = v[n] - case.inner_lr * net.hvp(thetas[k], *support, v)[n]
        return value, v

    return by_hand(case, one)


@wrong(
    "The Hessian is taken parameter by parameter: only its diagonal blocks are used, the second derivatives across two "
    "different parameters are missing.",
    r"block|diagonal|cross(?!.?entropy)|mixed|off.?diag|between (different )?(param|layer|weights)"
    r"|across (param|layer)|coupling"
    r"|each parameter (on its own|alone|separately)|separately|interaction|per.?(layer|parameter)|layer.?wise",
    tells_loss=False,
)
def hessian_of_each_array(case):
    def one(loss, params, support, query):
        thetas = path(case, loss, params, support)
        value, v = tm.value_and_grad(loss)(thetas[-1], *query)
        for theta in reversed(thetas[:-1]):
            hv = {n: tm.hvp(lambda p, n=n, at=theta: loss({**at, n: p}, *support), (theta[n],), (v[n],))[0] for n in v}
            v = step(v, hv, case.inner_lr)
        return value, v

    return by_hand(case, one)


@wrong(
    "H is the Gauss–Newton matrix Jᵀ∇²ℓ J: the second derivatives of the network itself, weighted with the residuals, "
    "are left out.",
    r"newton|fisher|JᵀJ|J\^?T|Jᵀ|curvature of the (net|model|output)"
    r"|second derivatives? of the (net|model|output|layers)"
    r"|residual|linear\w* (net|model|output)|\bGGN\b|outer product|positive semi|semi.?definite|jacobian",
    tells_loss=False,
)
def gauss_newton(case):
    net = Net(case)

    def product(params, x, y, v):
        o, tape = net.forward(params, x)
        moved, _ = net.forward({n: p + 1j * TINY * v[n] for n, p in params.items()}, x)
        _, d = getattr(net, net.kind)(o + 1j * TINY * (moved.imag / TINY), y)
        return net.backward(params, tape, d.imag / TINY)

    def one(_, params, support, query):
        thetas = walk(case, net, params, support)
        value, v = net.loss_and_grad(thetas[-1], *query)
        for theta in reversed(thetas[:-1]):
            v = step(v, product(theta, *support, v), case.inner_lr)
        return value, v

    return by_hand(case, one)


@wrong(
    "H v is a one-sided finite difference of gradients, [g(θ + εv) − g(θ)]/ε with ε = 10⁻³, whose error is of order "
    "of ε.",
    r"finite.?diff|difference of (two )?gradients|difference quotient|one.?sided|forward difference|ε|\beps|epsilon"
    r"|truncat"
    r"|numerical deriv|approximat\w* (of )?(the )?(H|hessian)|displace|third deriv|δ",
)
def one_sided_difference(case):
    net = Net(case)

    def one(_, params, support, query):
        thetas = walk(case, net, params, support)
        value, v = net.loss_and_grad(thetas[-1], *query)
        for theta in reversed(thetas[:-1]):
            eps = 1e-3
            g0 = net.grad(theta, *support)
            g1 = net.grad({n: theta[n] + eps * v[n] for n in v}, *support)
            v = {n: v[n] - case.inner_lr * (g1[n] - g0[n]) / eps for n in v}
        return value, v

    return by_hand(case, one)


@wrong(
    "The vector v is flattened column by column (Fortran order), the Hessian row by row (C order): H multiplies "
    "permuted entries wherever a parameter is a matrix.",
    r"fortran|column.?(major|by|first)|row.?major|order of (the )?(elements|entries|flatten)|transpos|permut|flatten"
    r"|ravel"
    r"|reshap|layout|C order|scrambl|shuffled? (entries|elements)",
    tells_loss=False,
)
def column_major_vector(case):
    net = Net(case)

    def one(_, params, support, query):
        thetas = walk(case, net, params, support)
        value, g = net.loss_and_grad(thetas[-1], *query)
        v = np.concatenate([np.ravel(a, order="F") for a in g.values()])
        for theta in reversed(thetas[:-1]):
            v = v - case.inner_lr * hessian(net, theta, support) @ v
        out, start = {}, 0
        for n, p in params.items():
            out[n] = v[start : start + p.size].reshape(p.shape, order="F")
            start += p.size
        return value, out

    return by_hand(case, one)


@wrong(
    "The query gradient is taken one step too early, at θ_{K−1} instead of at θ_K, and then pulled back through all K "
    "steps.",
    r"(query|g_?q|L_?q|∇L).{0,60}K ?[-−] ?1|one step (too )?early|before the last|last (inner )?(step|update)"
    r"|off.by.one|penultimate|previous (param|θ)|last but one|step (too )?few|one step (less|short|fewer|behind)",
    tells_loss=False,
)
def query_gradient_one_step_early(case):
    net = Net(case)

    def one(_, params, support, query):
        theta, visited = params, []
        for _ in range(case.inner_steps):
            visited.append(theta)
            theta = step(theta, net.grad(theta, *support), case.inner_lr)
        value, _ = net.loss_and_grad(theta, *query)
        v = net.grad(visited[-1] if visited else theta, *query)
        for at in reversed(visited):
            v = step(v, net.hvp(at, *support, v), case.inner_lr)
        return value, v

    return by_hand(case, one)


# ---- precision, data, reduction -------------------------------------------------------------------------------------


@wrong(
    "θₖ and v are kept in float32 buffers (np.zeros(..., np.float32)), though the case is float64: about seven digits "
    "are right.",
    r"float32|single.?precision|32.?bit|precision|imprecise|rounded (to|in)|digits|dtype|\bf4\b|half of the digits",
)
def float32_buffers(case):
    def one(loss, params, support, query):
        history = np.zeros((case.inner_steps + 1, flat(params).size), np.float32)
        history[0] = flat(params)
        for k in range(case.inner_steps):
            theta = shaped(history[k].astype(np.float64), params)
            history[k + 1] = flat(step(theta, tm.grad(loss)(theta, *support), case.inner_lr))
        value, g = tm.value_and_grad(loss)(shaped(history[-1].astype(np.float64), params), *query)
        v = np.zeros(history.shape[1], np.float32)
        v[:] = flat(g)
        for k in reversed(range(case.inner_steps)):
            theta = shaped(history[k].astype(np.float64), params)
            v[:] = v - case.inner_lr * flat(hvp(loss, theta, support, (shaped(v.astype(np.float64), params),))[0])
        return value, shaped(v.astype(np.float64), params)

    return by_hand(case, one)


@wrong(
    "The mean over tasks is a running one that is halved each time, mean = (mean + g)/2: right for one or two tasks, "
    "from the third on the later tasks weigh more (1/4, 1/4, 1/2).",
    r"running (mean|average)|moving (mean|average)|exponential|halv|weigh\w* (of |the )?(the )?(later |last )?task"
    r"|(last|later|third|earlier|first) tasks?"
    r"|(mean|average|reduction) over (the )?tasks.{0,30}(wrong|unequal|weigh|differ|not)"
    r"|1/4|¼|tasks .{0,30}weigh|T ?(≥|>=|>) ?[23]|task.?weight",
)
def running_mean_of_tasks(case):
    net = Net(case)
    _, params, tasks = in_numpy.given(case)
    mean, mean_loss = None, None
    for support, query in tasks:
        thetas = walk(case, net, params, support)
        value, v = net.loss_and_grad(thetas[-1], *query)
        v = pull(case, net, thetas, support, v)
        if mean is None:
            mean, mean_loss = v, value
        else:
            mean, mean_loss = {n: (mean[n] + v[n]) / 2 for n in v}, (mean_loss + value) / 2
    return {"meta_grad": mean, "meta_loss": mean_loss}


@wrong(
    "The support set's inputs and targets are shuffled independently of each other, so that the inner loop learns from "
    "the wrong labels.",
    r"shuffl|permut"
    r"|(label|target|y)s? .{0,40}(mismatch|mixed|wrong|other example|another example|do not belong|misalign"
    r"|order)|wrong (label|target)|misalign|mismatch\w* (label|target)|pairing|paired|other examples?.{0,20}(label"
    r"|target)",
)
def shuffled_apart(case):
    def one(loss, params, support, query):
        rng = np.random.default_rng(1)
        x, y = rng.permutation(support[0]), rng.permutation(support[1])
        return loss(adapt(case, loss, params, (x, y)), *query)

    return over_tasks(case, one)


@wrong(
    "Each task's gradient is clipped to a global norm of 1 before the mean over tasks.",
    r"clip|norm of (1|one)|norm\w* (is )?(bounded|limited|capped|scaled|at most)|rescal|bounded|capped"
    r"|limit\w* (the )?norm"
    r"|unit norm|max.?norm|scaled down|normali[sz]\w* (gradient|to)|threshold",
    tells_loss=False,
)
def task_gradients_clipped(case):
    net = Net(case)

    def one(_, params, support, query):
        thetas = walk(case, net, params, support)
        value, v = net.loss_and_grad(thetas[-1], *query)
        v = pull(case, net, thetas, support, v)
        norm = np.sqrt(sum(np.sum(a * a) for a in v.values()))
        return value, {n: a * min(1.0, 1.0 / max(norm, 1e-300)) for n, a in v.items()}

    return by_hand(case, one)


# ---- two at once ----------------------------------------------------------------------------------------------------


@wrong(
    "Two mistakes: the backward pass of a linear layer sends errors down through w reshaped to (b, a) instead of wᵀ; "
    "and the recursion stops before k = 0, so that the factor (I − αH₀) is missing.",
    r"transpos|reshap|wᵀ|w\.T|W\^?T|(linear|dense) layer|lower layer|backward pass of (the |a )?(linear|dense|layer)"
    r"|backprop\w* through (the )?w|row.?major|flipped w",
    r"(k ?= ?0|H_?[0₀]|first).{0,60}(miss|left|skip|omit|lack|drop|without|not|detach|constant)"
    r"|one (step|factor) (is |too |few|miss|less)"
    r"|(miss|left|skip|omit|lack|drop|without|not).{0,60}(k ?= ?0|H_?[0₀]|first)"
    r"|first (inner )?(step|factor|update|hessian)"
    r"|off.by.one|K ?[-−] ?1 (factors|steps)|last factor|stops? (one|before|too early)|truncat",
    tells_loss=False,
)
def reshaped_and_short(case):
    class Wrong(Net):
        def linear(self, x, w, b=None):
            out, back = super().linear(x, w, b)
            return out, lambda d: (d @ w.reshape(w.shape[::-1]), back(d)[1])

    net = Wrong(case)

    def one(_, params, support, query):
        thetas = walk(case, net, params, support)
        value, v = net.loss_and_grad(thetas[-1], *query)
        for k in range(case.inner_steps - 1, 0, -1):
            v = step(v, net.hvp(thetas[k], *support, v), case.inner_lr)
        return value, v

    return by_hand(case, one)


@wrong(
    "Two mistakes: the gradient of a bias is the mean of the errors over the examples instead of their sum; and the "
    "Hessian in the recursion is that of the query loss instead of the support loss.",
    r"bias",
    r"(hessian|\bH.?|second deriv\w*|curvature|factor).{0,50}(query|L_?q)|query.{0,20}hessian|∇²L_?q|H_?q"
    r"|instead of (the )?support"
    r"|not (of )?(the )?support|wrong (set|batch|data)",
    tells_loss=False,
)
def mean_bias_and_query_hessian(case):
    class Wrong(Net):
        def linear(self, x, w, b=None):
            out, back = super().linear(x, w, b)
            return out, back if b is None else lambda d: (back(d)[0], [x.T @ d, d.mean(0)])

    net = Wrong(case)

    def one(_, params, support, query):
        thetas = walk(case, net, params, support)
        value, v = net.loss_and_grad(thetas[-1], *query)
        return value, pull(case, net, thetas, query, v)

    return by_hand(case, one)


@wrong(
    "Two mistakes: the gradient of the cross-entropy, softmax − one-hot, is not divided by the number of examples; and "
    "the inner loop changes θ in place, so that every task starts where the one before ended.",
    r"cross.?entropy|softmax|logit|divid\w* by (the )?(N\b|number of examples|batch)|N times|batch size"
    r"|sum over (the )?examples"
    r"|summed? (instead|over)|number of examples",
    r"in.?place|shared|(task|it) .{0,30}(start|begin|continu)|start\w* (from|where|at)|previous task|task before"
    r"|carr(y|ied|ies)"
    r"|leak|not reset|reset|state|alias|mutat|copy|copied|afresh|tasks after",
)
def summed_entropy_and_shared_weights(case):
    class Wrong(Net):
        def cross_entropy(self, o, y):
            value, d = super().cross_entropy(o, y)
            return value, d * len(y)

    net = Wrong(case)
    _, params, tasks = in_numpy.given(case)
    weights = {n: np.array(p, np.float64) for n, p in params.items()}
    meta, total = {n: np.zeros(np.shape(p)) for n, p in params.items()}, 0.0
    for support, query in tasks:
        theta, thetas = dict(weights), []
        for _ in range(case.inner_steps):
            thetas.append({n: p.copy() for n, p in theta.items()})
            g = net.grad(theta, *support)
            for n in theta:
                theta[n] -= case.inner_lr * g[n]
        value, v = net.loss_and_grad(theta, *query)
        v = pull(case, net, [*thetas, theta], support, v)
        total += value / len(tasks)
        for n in meta:
            meta[n] += v[n] / len(tasks)
    return {"meta_grad": meta, "meta_loss": total}


@wrong(
    "Two mistakes: the query set is cut to an even number of examples (batches of two, the last incomplete one is "
    "dropped); and the meta-gradient adds up v after every step of the recursion, by an indentation slip, instead of "
    "taking the last one.",
    r"drop|last (query )?(example|batch|row)|incomplete|even number|odd|cut"
    r"|query (example|set).{0,40}(miss|left out|ignored"
    r"|shorter|truncat|fewer|part|not all|without)|remainder|fewer (query )?examples|batches of|truncat\w* query"
    r"|N_?q ?[-−] ?1|all but (the )?(last|one)",
    r"(sum|add|accumul)\w*.{0,60}(\bv|step|recursion|product|partial|intermediate)|indent|accumulat"
    r"|partial (sum|product)"
    r"|counted (more|twice|several)|after (every|each)|intermediate|sum of (all|the) (v|partial)",
    tells_loss=False,
)
def even_query_and_indentation(case):
    net = Net(case)
    _, params, tasks = in_numpy.given(case)
    meta, total = {n: np.zeros(np.shape(p)) for n, p in params.items()}, 0.0
    for support, (xq, yq) in tasks:
        m = max(len(xq) // 2 * 2, 1)
        thetas = walk(case, net, params, support)
        value, v = net.loss_and_grad(thetas[-1], xq[:m], yq[:m])
        total += value / len(tasks)
        for theta in reversed(thetas[:-1]):
            v = step(v, net.hvp(theta, *support, v), case.inner_lr)
            for n in meta:
                meta[n] += v[n] / len(tasks)
    return {"meta_grad": meta, "meta_loss": total}


@wrong(
    "Two mistakes: the support gradient is memoised by the batch and not by the parameters, so that every inner step "
    "repeats the gradient at θ₀; and a weight that two layers share gets the gradient of one of its uses only, as the "
    "other is overwritten instead of added.",
    r"memo|cach|stale|only once|computed once|same gradient|repeat|reus|at θ_?[0₀]|gradient.{0,40}θ_?[0₀]"
    r"|initial (param|gradient|point|θ)|first (step|gradient)|not recomputed"
    r"|old gradient|never updated",
    r"shared|tied|overwrit|two (layers|uses|places)|one (use|of its uses|occurrence|layer)|twice"
    r"|first (use|layer|occurrence)"
    r"|second (use|layer|occurrence)|weight.?sharing|instead of add|reused",
    tells_loss=False,
)
def memoised_and_overwritten(case):
    class Wrong(Net):
        def __init__(self, case):
            super().__init__(case)
            self.memo = {}

        def collect(self, grads, name, d):
            grads[name] = d

        def grad(self, params, x, y):
            key = (x.tobytes(), y.tobytes())
            if key not in self.memo:
                self.memo[key] = super().grad(params, x, y)
            return self.memo[key]

    return with_net(case, Wrong(case))
