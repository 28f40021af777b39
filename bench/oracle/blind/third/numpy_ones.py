"""MAML in NumPy with tinymaml's engine or by hand: each mistake stands in the function that bears its name."""

from __future__ import annotations

import numpy as np

import tinymaml as tm
from tinymaml.oracle import models

from ..entries import correct, wrong
from ..in_numpy import adapt, by_hand, given, hvp, mean_of, over_tasks, path, step

# Honest pieces.


def flat(tree):
    """One vector of all parameters, in their order."""
    return np.concatenate([np.ravel(a) for a in tree.values()])


def unflat(vector, like):
    """The parameters in such a vector."""
    tree, at = {}, 0
    for n, p in like.items():
        size = int(np.size(p))
        tree[n], at = np.reshape(vector[at : at + size], np.shape(p)), at + size
    return tree


def hessian(loss, theta, data):
    """∇²L(θ), a matrix in the order of `flat`."""
    size = flat(theta).size
    return np.stack([flat(hvp(loss, theta, data, unflat(e, theta))) for e in np.eye(size)])


def plain(case, layers=None):
    """MAML, with other layers if wanted."""
    return over_tasks(case, lambda loss, p, s, q: loss(adapt(case, loss, p, s), *q), layers)


# The wrong ones.


@wrong(
    "The trajectory is a list of references to one dict that is updated in place, so that all its entries are θ_K: the "
    "backward pass takes every Hessian at θ_K instead of at θₖ.",
    r"Hessian.*(θ_K|theta_K|last|final|adapted|end)|alias|in[- ]place|reference|same array|wrong point|not copied",
    tells_loss=False,
)
def trajectory_by_reference(case):
    def one(loss, params, support, query):
        fast = {n: np.array(p) for n, p in params.items()}
        seen = []
        for _ in range(case.inner_steps):
            seen.append(fast)
            grads = tm.grad(loss)(fast, *support)
            for n in fast:
                fast[n] -= case.inner_lr * grads[n]
        value, v = tm.value_and_grad(loss)(fast, *query)
        for theta in reversed(seen):
            v = step(v, hvp(loss, theta, support, v), case.inner_lr)
        return value, v

    return by_hand(case, one)


@wrong(
    "The Jacobian of θ_K by θ, accumulated forwards, is applied as J g instead of Jᵀ g: each factor I − αHₖ is "
    "symmetric, their product is not, so that from two steps on the factors stand in the reverse order.",
    r"revers|transpos|order of the (factors|product|Hessian|steps)|wrong order|order.*(factor|product|Hessian)|J g",
)
def jacobian_not_transposed(case):
    def one(loss, params, support, query):
        *thetas, last = path(case, loss, params, support)
        value, grad = tm.value_and_grad(loss)(last, *query)
        jacobian = np.eye(flat(params).size)
        for theta in thetas:
            jacobian = jacobian - case.inner_lr * hessian(loss, theta, support) @ jacobian
        return value, unflat(jacobian @ flat(grad), params)

    return by_hand(case, one)


@wrong(
    "The Hessian is filled from its lower triangle as tril(H) + tril(H)ᵀ, which counts the diagonal twice.",
    r"diagonal.*(twice|doubl|two|2)|(twice|doubl\w*|2 ?[×x*·]?) (the )?(entries of the )?diag|tril",
    tells_loss=False,
)
def hessian_from_lower_triangle(case):
    def one(loss, params, support, query):
        *thetas, last = path(case, loss, params, support)
        value, grad = tm.value_and_grad(loss)(last, *query)
        v = flat(grad)
        for theta in reversed(thetas):
            lower = np.tril(hessian(loss, theta, support))
            v = v - case.inner_lr * (lower + lower.T) @ v
        return value, unflat(v, params)

    return by_hand(case, one)


@wrong(
    "The parameters are perturbed in place by +εv and then by −εv, which only brings them back to θ: the difference "
    "of gradients spans ε, but is divided by 2ε, so that every Hessian-vector product is half of what it should be.",
    r"hal[fv]|½|0\.5|factor (of )?(2|two)|twice|1/2",
)
def perturbed_in_place(case):
    def one(loss, params, support, query):
        *thetas, last = path(case, loss, params, support)
        value, v = tm.value_and_grad(loss)(last, *query)
        eps = 1e-6
        for theta in reversed(thetas):
            moved = {n: np.array(p) for n, p in theta.items()}
            for n in moved:
                moved[n] += eps * v[n]
            above = tm.grad(loss)(moved, *support)
            for n in moved:
                moved[n] -= eps * v[n]
            below = tm.grad(loss)(moved, *support)
            v = {n: v[n] - case.inner_lr * (above[n] - below[n]) / (2 * eps) for n in v}
        return value, v

    return by_hand(case, one)


@wrong(
    "Hessian-vector products are one-sided finite differences of gradients with a step of 1e-4, whose truncation error "
    "is far above rounding.",
    r"finite.?differen|truncation|imprecis|one-sided|forward differen|difference quotient|precision|digits",
    tells_loss=False,
)
def one_sided_difference(case):
    def one(loss, params, support, query):
        *thetas, last = path(case, loss, params, support)
        value, v = tm.value_and_grad(loss)(last, *query)
        for theta in reversed(thetas):
            here = tm.grad(loss)(theta, *support)
            there = tm.grad(loss)(step(theta, v, -1e-4), *support)
            v = {n: v[n] - case.inner_lr * (there[n] - here[n]) / 1e-4 for n in v}
        return value, v

    return by_hand(case, one)


def outputs(library, model):
    """The last output of the model, without the loss; honest."""

    def f(params, x):
        for layer in model["layers"]:
            settings = {k: v for k, v in layer.items() if k not in ("layer", "params")}
            x = getattr(library, layer["layer"])(x, *(params[n] for n in layer.get("params", [])), **settings)
        return x

    return f


@wrong(
    "The Hessian of the support loss is replaced by the Gauss-Newton matrix JᵀL''J: the term with the second "
    "derivatives of the network's outputs is missing.",
    r"Gauss|second derivatives? of the (network|model|output|layer)|curvature of the (model|network)|linear(is|iz)ed",
)
def gauss_newton_products(case):
    library = models.NumPy()
    forward = outputs(library, case.model)

    def one(loss, params, support, query):
        *thetas, last = path(case, loss, params, support)
        value, v = tm.value_and_grad(loss)(last, *query)
        x, y = support

        def head(o):
            return np.mean(o) if case.model["loss"] == "mean" else getattr(library, case.model["loss"])(o, y)

        for theta in reversed(thetas):
            o, along = tm.jvp(lambda p: forward(p, x), (theta,), (v,))
            if case.model["loss"] == "mean":
                continue  # a loss that is linear in the output has no curvature
            curved = tm.hvp(head, (o,), along)
            _, pullback = tm.vjp(lambda p: forward(p, x), theta)
            v = step(v, pullback(curved)[0], case.inner_lr)
        return value, v

    return by_hand(case, one)


@wrong(
    "The Hessian-vector product is computed as the gradient of the sum of all gradient entries, times v elementwise: "
    "these are the row sums of H times v, not H v (as if H were diagonal).",
    r"row sums?|sum.*(gradient|Hessian|row)|element-?wise|diagonal|H ?(·|@)? ?(1|ones)",
    tells_loss=False,
)
def gradient_of_the_summed_gradient(case):
    def one(loss, params, support, query):
        *thetas, last = path(case, loss, params, support)
        value, v = tm.value_and_grad(loss)(last, *query)

        def summed(p):
            return sum(np.sum(g) for g in tm.grad(loss)(p, *support).values())

        for theta in reversed(thetas):
            second = tm.grad(summed)(theta)
            v = {n: v[n] - case.inner_lr * second[n] * v[n] for n in v}
        return value, v

    return by_hand(case, one)


@wrong(
    "The support inputs and targets are shuffled by two calls of the same generator, hence by different permutations: "
    "inputs are paired with the targets of other examples in the inner loop.",
    r"shuffl|permut|pair(ed|s)|mismatch|(labels|targets).*(other|wrong|order)|misalign",
)
def shuffled_apart(case):
    rng = np.random.default_rng(0)

    def one(loss, params, support, query):
        x, y = support
        support = rng.permutation(x), rng.permutation(y)
        return loss(adapt(case, loss, params, support), *query)

    return over_tasks(case, one)


@wrong(
    "In the backward pass v is updated parameter by parameter in place, and the Hessian-vector product of each later "
    "parameter is taken with a v whose earlier parts are already updated (Gauss-Seidel instead of Jacobi).",
    r"in[- ]place|overwrit|Gauss.?Seidel|already (been )?(updated|changed|new)|partly|partially updated|one "
    r"(parameter )?after (the )?(an)?other|sequential",
    tells_loss=False,
)
def adjoint_updated_too_early(case):
    def one(loss, params, support, query):
        *thetas, last = path(case, loss, params, support)
        value, v = tm.value_and_grad(loss)(last, *query)
        for theta in reversed(thetas):
            for n in v:
                v[n] = v[n] - case.inner_lr * hvp(loss, theta, support, v)[n]
        return value, v

    return by_hand(case, one)


@wrong(
    "SAME padding puts the odd row and column of zeros above and to the left, instead of below and to the right.",
    r"padd|SAME_LOWER|zeros (are )?(above|on the left|on the wrong side)|shifted",
)
def same_padding_on_the_other_side(case):
    class Mine(models.NumPy):
        def conv(self, x, w, stride, padding):
            if padding == "SAME":
                around = []
                for size, k in zip(x.shape[1:3], w.shape[:2], strict=True):
                    zeros = max((-(-size // stride) - 1) * stride + k - size, 0)
                    around.append((zeros - zeros // 2, zeros // 2))
                x, padding = np.pad(x, ((0, 0), *around, (0, 0))), "VALID"
            return super().conv(x, w, stride, padding)

    return plain(case, Mine())


@wrong(
    "The backward pass of tanh uses a saved output that is a constant to the second differentiation: the first "
    "derivative is right, the second derivative of tanh is missing from the Hessian.",
    r"tanh.*(second|constant|twice|stop|detach|Hessian|curvature)|(second derivative|constant|detach|stop).*tanh",
)
def tanh_with_a_saved_output(case):
    class Mine(models.NumPy):
        def tanh(self, x):
            y = np.tanh(tm.stop_gradient(x))
            return y + (1 - y * y) * (x - tm.stop_gradient(x))

    return plain(case, Mine())


@wrong(
    "Predictions of shape (N, 1) are squeezed to (N,), the targets are not: their difference broadcasts to (N, N), and "
    "the squared error compares each prediction with every target.",
    r"broadcast|squeez|\(N, ?N\)|every target|all pairs|each (prediction|output) (is compared )?with (every|all)|outer",
    tells_loss=False,
)
def squeezed_predictions(case):
    class Mine(models.NumPy):
        def mse(self, o, y):
            o = o[:, 0] if o.shape[-1] == 1 else o
            return np.mean((o - y) ** 2)

        def half_mse(self, o, y):
            return self.mse(o, y) / 2

    return plain(case, Mine())


@wrong(
    "The running mean over tasks is (mean + new) / 2, which weighs the later tasks more: it is a mean for up to two "
    "tasks only.",
    r"weigh|running (mean|average)|later tasks|last task|unequal|exponential|moving average|mean over (the )?tasks|"
    r"average (of|over) (the )?tasks",
)
def pairwise_running_mean(case):
    loss, params, tasks = given(case)
    mean_value = mean_grad = None
    for support, query in tasks:
        value, grad = tm.value_and_grad(lambda p, s=support, q=query: loss(adapt(case, loss, p, s), *q))(params)
        if mean_grad is None:
            mean_value, mean_grad = value, grad
        else:
            mean_value = (mean_value + value) / 2
            mean_grad = {n: (mean_grad[n] + grad[n]) / 2 for n in grad}
    return {"meta_grad": mean_grad, "meta_loss": mean_value}


@wrong(
    "The gradient of each task is written to one buffer that is appended without a copy: all entries of the list are "
    "the last task's gradient, and so is their mean.",
    r"last task|only (one|a single) task|alias|buffer|same array|not copied|overwrit|other tasks",
)
def buffer_appended_uncopied(case):
    loss, params, tasks = given(case)
    buffer = {n: np.zeros_like(p) for n, p in params.items()}
    values, grads = [], []
    for support, query in tasks:
        value, grad = tm.value_and_grad(lambda p, s=support, q=query: loss(adapt(case, loss, p, s), *q))(params)
        for n in buffer:
            buffer[n][...] = grad[n]
        values.append(value)
        grads.append(buffer)
    return {"meta_grad": mean_of(grads), "meta_loss": sum(values) / len(values)}


@wrong(
    "The vector v is packed in the order of the sorted names, the Hessian matrix in the order of the dict: entries of "
    "v meet rows and columns of other parameters.",
    r"order of the (param|entr|name|elem|leaves)|sorted|pack|flatten|permut|unravel|ravel|scrambl|"
    r"other parameter|mixed up|wrong order|misalign",
    tells_loss=False,
)
def vector_in_sorted_order(case):
    def one(loss, params, support, query):
        *thetas, last = path(case, loss, params, support)
        value, grad = tm.value_and_grad(loss)(last, *query)
        v = flat(dict(sorted(grad.items())))
        for theta in reversed(thetas):
            v = v - case.inner_lr * hessian(loss, theta, support) @ v
        return value, unflat(v, dict(sorted(params.items())))

    return by_hand(case, one)


@wrong(
    "Two mistakes in batch normalisation: ε is 1e-5 (PyTorch's) instead of 2^-10, and the variance is a constant to "
    "differentiation.",
    r"ε|eps(ilon)?\b|1e-0?5",
    r"varianc|statistic|not differentiated|stop.?gradient|detach|constant",
)
def batch_norm_from_a_framework(case):
    class Mine(models.NumPy):
        def batch_norm(self, x, gamma, beta):
            over = tuple(range(x.ndim - 1))
            centred = x - np.mean(x, over)
            var = tm.stop_gradient(np.mean(centred * centred, over))
            return centred / np.sqrt(var + 1e-5) * gamma + beta

    return plain(case, Mine())


@wrong(
    "Two mistakes: the support losses are closures over the loop variable, so that every task adapts to the last "
    "task's support set; and the inner loop is range(1, K), one step too few.",
    r"last task|late binding|closure|same (task|support)|(wrong|other|another) (task|support)|support (set|data) of",
    r"too few|K ?[-−] ?1|one (inner )?step (less|fewer|short|missing)|off[- ]by[- ]one|(a|one|last|first) (inner )?"
    r"step (is |was )?(missing|skipped|omitted|left out)|fewer steps|missing (inner )?step|number of (inner )?steps",
    tells_loss=False,
)
def closures_over_the_loop_variable(case):
    loss, params, ((xs, ys), (xq, yq)) = case.numpy()
    on_support = [lambda p: loss(p, xs[t], ys[t]) for t in range(case.tasks)]  # noqa: B023
    on_query = [lambda p, t=t: loss(p, xq[t], yq[t]) for t in range(case.tasks)]

    def total(p):
        sums = 0.0
        for support, query in zip(on_support, on_query, strict=True):
            fast = p
            for _ in range(1, case.inner_steps):
                fast = step(fast, tm.grad(support)(fast), case.inner_lr)
            sums = sums + query(fast)
        return sums / case.tasks

    # Every lambda of the first list reads t when it is called, and t is then the last task.
    value, grad = tm.value_and_grad(total)(params)
    return {"meta_grad": grad, "meta_loss": value}


@wrong(
    "Two mistakes: the product of the factors I − αHₖ is (I − αH₀)^K, with the Hessian at θ₀ for all steps; and v is "
    "flattened column-major where the Hessian and the result are row-major.",
    r"θ₀|θ_0|theta_?0|initial|power|constant Hessian|same Hessian|starting point|Hessian.*(start|first)|frozen",
    r"column|row-major|Fortran|transpos|\bF\b|ravel|flatten|order of the (elements|entries)|permut|scrambl",
    tells_loss=False,
)
def matrix_power_from_matlab(case):
    def one(loss, params, support, query):
        value, grad = tm.value_and_grad(loss)(adapt(case, loss, params, support), *query)
        v = np.concatenate([np.ravel(g, order="F") for g in grad.values()])
        factor = np.eye(v.size) - case.inner_lr * hessian(loss, params, support)
        return value, unflat(np.linalg.matrix_power(factor, case.inner_steps) @ v, params)

    return by_hand(case, one)


@wrong(
    "Two mistakes: the pullbacks of the inner gradients are memoised by the step alone, so that all tasks are "
    "differentiated with the first task's Hessians; and the gradients of the tasks are summed, not averaged.",
    r"(first|other|another|wrong|one|same) task('s)?|memo|cache|shared|across tasks|between tasks",
    r"sum(med)?\b|not (averaged|divided)|average|1/T|mean over|factor T|number of tasks|divided by",
)
def pullbacks_memoised_by_step(case):
    loss, params, tasks = given(case)
    pullbacks, values = {}, []
    total = {n: np.zeros_like(p) for n, p in params.items()}
    for support, query in tasks:
        theta = params
        for k in range(case.inner_steps):
            grads, pullback = tm.vjp(lambda p, s=support: tm.grad(loss)(p, *s), theta)
            pullbacks.setdefault(k, pullback)
            theta = step(theta, grads, case.inner_lr)
        value, v = tm.value_and_grad(loss)(theta, *query)
        for k in reversed(range(case.inner_steps)):
            v = step(v, pullbacks[k](v)[0], case.inner_lr)
        values.append(value)
        total = {n: total[n] + v[n] for n in v}
    return {"meta_grad": total, "meta_loss": sum(values) / len(values)}


@wrong(
    "Two mistakes: the product of the factors is expanded to first order, g_q − α Σ Hₖ g_q, without the cross terms; "
    "and the inner step has a weight decay of 1e-2, an L2 regulariser that is not part of the loss.",
    r"cross term|first[- ]order (in|expansion)|linear(is|iz)|expan|higher[- ]order terms|α²|sum of (the )?Hessians|"
    r"product",
    r"decay|L2|regulari|shrink|penalty",
    tells_loss=False,
)
def expanded_and_decayed(case):
    def one(loss, params, support, query):
        thetas = [params]
        for _ in range(case.inner_steps):
            theta = thetas[-1]
            grads = tm.grad(loss)(theta, *support)
            thetas.append(step(theta, {n: grads[n] + 1e-2 * theta[n] for n in theta}, case.inner_lr))
        *thetas, last = thetas
        value, grad = tm.value_and_grad(loss)(last, *query)
        correction = [hvp(loss, theta, support, grad) for theta in thetas]
        return value, step(grad, {n: sum(c[n] for c in correction) for n in grad}, case.inner_lr)

    return by_hand(case, one)


@wrong(
    "The backward pass goes over K // 2 checkpointed segments of two steps, so that the leftover last step of an odd K "
    "is not differentiated through (its factor I − αH_{K−1} is missing); with K = 1 this is first-order MAML.",
    r"odd|last (inner )?step|K ?[-−] ?1|leftover|segment|(a|one) (factor|Hessian|step).*(missing|skipped|omitted)|"
    r"(missing|skip\w*|omit\w*|without).*(factor|Hessian|step)",
)
def leftover_of_the_segments(case):
    def one(loss, params, support, query):
        theta, kept = params, []
        for k in range(case.inner_steps):
            if k % 2 == 0:
                kept.append(theta)
            theta = step(theta, tm.grad(loss)(theta, *support), case.inner_lr)
        value, v = tm.value_and_grad(loss)(theta, *query)
        for segment in reversed(range(case.inner_steps // 2)):
            first = kept[segment]
            second = step(first, tm.grad(loss)(first, *support), case.inner_lr)
            for theta in (second, first):
                v = step(v, hvp(loss, theta, support, v), case.inner_lr)
        return value, v

    return by_hand(case, one)


@wrong(
    "The query gradient and the Hessian-vector products are averaged over tasks before they are multiplied: the "
    "product of the means stands where the mean of the products should.",
    r"product of (the )?(means|averages)|mean of (the )?products|averag\w* (over (the )?tasks )?(before|first|early)|"
    r"mean(ed)?.*(before|too early)|averaged? Hessian|mean Hessian|mean (query )?gradient|mix\w* (the )?tasks|"
    r"Hessian.*(other tasks|averag|mean)|between tasks|across tasks",
    tells_loss=False,
)
def product_of_the_means(case):
    loss, params, tasks = given(case)
    ways = [path(case, loss, params, support) for support, _ in tasks]
    last = [tm.value_and_grad(loss)(way[-1], *query) for way, (_, query) in zip(ways, tasks, strict=True)]
    v = mean_of([grad for _, grad in last])
    for k in reversed(range(case.inner_steps)):
        products = [hvp(loss, way[k], support, v) for way, (support, _) in zip(ways, tasks, strict=True)]
        v = step(v, mean_of(products), case.inner_lr)
    return {"meta_grad": v, "meta_loss": sum(value for value, _ in last) / len(last)}


# The right ones.


@correct("The Jacobian of θ_K by θ is accumulated forwards as a matrix, on flat vectors, and applied transposed.")
def jacobian_forwards(case):
    def one(loss, params, support, query):
        jacobian, theta = np.eye(flat(params).size), params
        for _ in range(case.inner_steps):
            jacobian = jacobian - case.inner_lr * hessian(loss, theta, support) @ jacobian
            theta = step(theta, tm.grad(loss)(theta, *support), case.inner_lr)
        value, grad = tm.value_and_grad(loss)(theta, *query)
        return value, unflat(jacobian.T @ flat(grad), params)

    return by_hand(case, one)


@correct("Nothing is stored: each θₖ is recomputed from θ, in place, in one buffer; the tasks come in reverse order.")
def recomputed_in_one_buffer(case):
    loss, params, tasks = given(case)
    buffer = {n: np.array(p, float) for n, p in params.items()}
    total, sums = {n: np.zeros_like(b) for n, b in buffer.items()}, 0.0

    def go(support, steps):
        for n, p in params.items():
            buffer[n][...] = p
        for _ in range(steps):
            grads = tm.grad(loss)(buffer, *support)
            for n in buffer:
                buffer[n][...] -= case.inner_lr * grads[n]

    for support, query in reversed(tasks):
        go(support, case.inner_steps)
        value, v = tm.value_and_grad(loss)(buffer, *query)
        for k in reversed(range(case.inner_steps)):
            go(support, k)
            v = step(v, hvp(loss, buffer, support, v), case.inner_lr)
        sums += float(value)
        for n in total:
            total[n][...] += v[n]
    return {"meta_grad": {n: t / len(tasks) for n, t in total.items()}, "meta_loss": sums / len(tasks)}


@correct("Forward mode: the derivative of the meta-loss along each coordinate of θ, one Jacobian-vector product each.")
def forward_mode(case):
    loss, params, tasks = given(case)

    def total(p):
        return sum(loss(adapt(case, loss, p, s), *q) for s, q in tasks) / len(tasks)

    ways = [tm.jvp(total, (params,), (unflat(e, params),)) for e in np.eye(flat(params).size)]
    return {"meta_grad": unflat(np.array([float(d) for _, d in ways]), params), "meta_loss": ways[0][0]}


@correct("One graph for all tasks: a copy of θ for each, the gradient of the sum of their losses, scaled by 1024.")
def one_graph_for_all_tasks(case):
    loss, params, tasks = given(case)

    def summed(copies):
        return 1024 * sum(loss(p, *s) for p, (s, _) in zip(copies, tasks, strict=True))

    def total(p):
        copies = [p for _ in tasks]
        for _ in range(case.inner_steps):
            grads = tm.grad(summed)(copies)
            copies = [step(c, g, case.inner_lr / 1024) for c, g in zip(copies, grads, strict=True)]
        return sum(loss(c, *q) for c, (_, q) in zip(copies, tasks, strict=True))

    value, grad = tm.value_and_grad(total)(params)
    return {"meta_grad": {n: g / len(tasks) for n, g in grad.items()}, "meta_loss": value / len(tasks)}
