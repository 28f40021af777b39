"""MAML in NumPy by hand, and by tinymaml's engine: mistakes and unusual forms, each with its diagnosis."""

from __future__ import annotations

import math

import numpy as np

import tinymaml as tm
from tinymaml.oracle import models

from ..entries import correct, wrong
from ..in_numpy import adapt, by_hand, dot, given, hvp, mean_of, over_tasks, path, step

EPS = 2.0**-10


def adjoint(case, loss, thetas, support, v):
    """v ← v − α Hₖ v for k = K − 1 … 0"""
    for k in reversed(range(case.inner_steps)):
        v = step(v, hvp(loss, thetas[k], support, v), case.inner_lr)
    return v


def exact(case, loss, params, support, query):
    """(L_q(θ_K), its gradient), by the adjoint loop."""
    thetas = path(case, loss, params, support)
    value, v = tm.value_and_grad(loss)(thetas[-1], *query)
    return value, adjoint(case, loss, thetas, support, v)


def maml(case, layers=None, data=lambda s, q: (s, q)):
    """MAML by the engine, with other layers or with the data prepared."""

    def one(loss, params, support, query):
        support, query = data(support, query)
        return loss(adapt(case, loss, params, support), *query)

    return over_tasks(case, one, layers)


def flatten(tree):
    """One vector of all parameters, in their order."""
    return np.concatenate([np.asarray(a).reshape(-1) for a in tree.values()])


def unflatten(vector, like):
    """The parameters in such a vector."""
    ends = np.cumsum([np.size(p) for p in like.values()])[:-1]
    return {n: a.reshape(np.shape(p)) for (n, p), a in zip(like.items(), np.split(vector, ends), strict=True)}


def hessian(loss, params, batch):
    """The matrix of second derivatives, column by column."""
    columns = np.eye(flatten(params).size)
    return np.stack([flatten(hvp(loss, params, batch, unflatten(e, params))) for e in columns], 1)


def log_softmax(o):
    z = o - tm.stop_gradient(np.max(o, -1, keepdims=True))
    return z - np.log(np.sum(np.exp(z), -1, keepdims=True))


# The backward pass and its matrices


@wrong(
    "The list of iterates holds the same dict K times, which the update changes in place, so the backward pass takes "
    "every Hessian at the last iterate θ_K instead of at θₖ.",
    r"alias|same (dict|object|buffer)|θ_K|theta_K|last iterate|final|adapted param|wrong (iterate|point)|later iterate"
    r"|(after|behind) the (step|update|inner)|θₖ₊₁|theta_\{?k ?\+ ?1|end of the inner",
)
def one_dict_in_the_list(case):
    def one(loss, params, support, query):
        theta, thetas = dict(params), []
        for _ in range(case.inner_steps):
            thetas.append(theta)
            g = tm.grad(loss)(theta, *support)
            for n in theta:
                theta[n] = theta[n] - case.inner_lr * g[n]
        value, v = tm.value_and_grad(loss)(theta, *query)
        return value, adjoint(case, loss, thetas, support, v)

    return by_hand(case, one)


@wrong(
    "The list of iterates is made once, outside of the loop over tasks, and never emptied: the backward pass of "
    "every task takes its Hessians at the iterates of the first task.",
    r"first task|iterates? of (an)?other task|not (cleared|emptied|reset)|stale|leak|another task|previous task"
    r"|state.*between tasks|shared (between|across) tasks",
    tells_loss=False,
)
def list_outlives_the_task(case):
    thetas = []

    def one(loss, params, support, query):
        theta = params
        for _ in range(case.inner_steps):
            thetas.append(theta)
            theta = step(theta, tm.grad(loss)(theta, *support), case.inner_lr)
        value, v = tm.value_and_grad(loss)(theta, *query)
        return value, adjoint(case, loss, thetas, support, v)

    return by_hand(case, one)


@wrong(
    "The query gradients and the Hessians are averaged over the tasks before they are multiplied: the product of the "
    "means is not the mean of each task's own product.",
    r"product of (the )?(means|averages)|mean of (the )?products|averag\w+ (over|across) (the )?tasks.*(before|first)"
    r"|mean hessian|average(d)? hessian|cross.?task|other tasks|hessian.*(mean|averag).*tasks|mix\w* .*tasks",
)
def mean_before_the_product(case):
    loss, params, tasks = given(case)
    paths = [path(case, loss, params, s) for s, _ in tasks]
    values, grads = zip(
        *(tm.value_and_grad(loss)(thetas[-1], *q) for thetas, (_, q) in zip(paths, tasks, strict=True)), strict=True
    )
    v = mean_of(grads)
    for k in reversed(range(case.inner_steps)):
        curved = mean_of([hvp(loss, thetas[k], s, v) for thetas, (s, _) in zip(paths, tasks, strict=True)])
        v = step(v, curved, case.inner_lr)
    return {"meta_grad": v, "meta_loss": sum(values) / len(values)}


@wrong(
    "The backward pass solves with I + αH, as implicit differentiation of a backward Euler step would, where the "
    "step is explicit and its derivative is the product with I − αH.",
    r"invers|solv|implicit|imaml|I ?\+ ?(α|a|alpha) ?H|backward euler|resolvent",
    tells_loss=False,
)
def solves_with_the_curvature(case):
    def one(loss, params, support, query):
        thetas = path(case, loss, params, support)
        value, g = tm.value_and_grad(loss)(thetas[-1], *query)
        v = flatten(g)
        for theta in reversed(thetas[:-1]):
            v = np.linalg.solve(np.eye(v.size) + case.inner_lr * hessian(loss, theta, support), v)
        return value, unflatten(v, params)

    return by_hand(case, one)


@wrong(
    "The product of the factors is expanded to first order in α, g − α Σ Hₖ g: every Hessian is applied to the query "
    "gradient itself instead of to the running adjoint, so the terms in α² and beyond are missing with K ≥ 2.",
    r"α²|alpha\^?2|higher.?order|first order in (α|alpha|the (inner )?rate)|expan|neglect|linear(is|iz)|sum of (the )?"
    r"hessians|running|product.*(sum|dropp|replac)|cross terms?|products? of (the )?hessians",
)
def first_order_in_the_rate(case):
    def one(loss, params, support, query):
        thetas = path(case, loss, params, support)
        value, g = tm.value_and_grad(loss)(thetas[-1], *query)
        total = g
        for k in range(case.inner_steps):
            total = step(total, hvp(loss, thetas[k], support, g), case.inner_lr)
        return value, total

    return by_hand(case, one)


@wrong(
    "The difference of gradients, ported from DARTS, displaces by +R v and then only back to θ instead of to −R v, "
    "but still divides by 2R: the Hessian-vector product comes out halved.",
    r"half|halv|0\.5|½|1/2|twice|factor (of )?2|one.?sided|2 ?R\b|2 ?ε|finite.difference",
    tells_loss=False,
)
def back_but_not_beyond(case):
    def one(loss, params, support, query):
        thetas = path(case, loss, params, support)
        value, v = tm.value_and_grad(loss)(thetas[-1], *query)
        for theta in reversed(thetas[:-1]):
            r = 1e-5 / (math.sqrt(dot(v, v)) + 1e-30)
            moved = step(theta, v, -r)
            plus = tm.grad(loss)(moved, *support)
            moved = step(moved, v, r)
            minus = tm.grad(loss)(moved, *support)
            v = {n: v[n] - case.inner_lr * (plus[n] - minus[n]) / (2 * r) for n in v}
        return value, v

    return by_hand(case, one)


@wrong(
    "The Hessian-vector products of the backward pass are taken of the query loss instead of the support loss, whose "
    "gradient the inner steps follow.",
    r"query.*(hessian|curvature|second|hvp)|(hessian|curvature|second|hvp).*query|wrong (set|batch|loss|data)",
)
def curvature_of_the_wrong_set(case):
    def one(loss, params, support, query):
        thetas = path(case, loss, params, support)
        value, v = tm.value_and_grad(loss)(thetas[-1], *query)
        return value, adjoint(case, loss, thetas, query, v)

    return by_hand(case, one)


@wrong(
    "The Hessian's product, a flat vector in row-major order, is put back into the shapes of the parameters in "
    "column-major (Fortran) order, so the second-order term of every matrix is permuted.",
    r"fortran|column.?major|row.?major|order\s*=|permut|transpos|reshap|layout|scrambl|memory order|axes|flatten",
    tells_loss=False,
)
def columns_first(case):
    def one(loss, params, support, query):
        thetas = path(case, loss, params, support)
        value, v = tm.value_and_grad(loss)(thetas[-1], *query)
        for theta in reversed(thetas[:-1]):
            product, at = hessian(loss, theta, support) @ flatten(v), 0
            for n, p in params.items():
                part = product[at : at + p.size].reshape(p.shape, order="F")
                v = {**v, n: v[n] - case.inner_lr * part}
                at += p.size
        return value, v

    return by_hand(case, one)


@wrong(
    "The adjoint is kept exact, but the iterates at which its Hessians are taken are stored in float16 to save memory.",
    r"precision|float16|half|float32|round|digits|cast|quanti|imprecis",
    tells_loss=False,
)
def checkpoints_in_half(case):
    def one(loss, params, support, query):
        thetas = path(case, loss, params, support)
        value, v = tm.value_and_grad(loss)(thetas[-1], *query)
        stored = [{n: np.asarray(p).astype(np.float16) for n, p in theta.items()} for theta in thetas]
        loaded = [{n: p.astype(np.float64) for n, p in theta.items()} for theta in stored]
        return value, adjoint(case, loss, loaded, support, v)

    return by_hand(case, one)


# The inner loop and the state of it


@wrong(
    "The inner step updates one parameter after the other and takes each gradient anew, so later parameters see "
    "those already updated in the same step (Gauss-Seidel instead of a simultaneous step).",
    r"gauss|seidel|simultaneous|sequential|one (parameter )?(after|by|at a)|already.*(updated|adapted|moved)|"
    r"coordinate|"
    r"in turn|partially",
)
def one_parameter_after_the_other(case):
    def one(loss, params, support, query):
        for _ in range(case.inner_steps):
            for n in list(params):
                g = tm.grad(loss)(params, *support)[n]
                params = {**params, n: params[n] - case.inner_lr * g}
        return loss(params, *query)

    return over_tasks(case, one)


@wrong(
    "The inner loop subtracts in place from arrays that a shallow copy of the dict shares with θ, so every task "
    "after the first starts from the adapted parameters of the one before.",
    r"in.?place|shallow|alias|not (reset|restored)|carr(y|ied)|leak|starts? (from|at)|previous task|task before|"
    r"(one|tasks?) before|sequential|warm|continu|anew|mutat|overwrit",
)
def shallow_copy(case):
    loss, params, tasks = given(case)
    params = {n: np.array(p) for n, p in params.items()}
    values, grads = [], []
    for support, query in tasks:
        theta, thetas = dict(params), []
        for _ in range(case.inner_steps):
            thetas.append({n: p.copy() for n, p in theta.items()})
            g = tm.grad(loss)(thetas[-1], *support)
            for n in theta:
                theta[n] -= case.inner_lr * g[n]
        value, v = tm.value_and_grad(loss)({n: p.copy() for n, p in theta.items()}, *query)
        values.append(value)
        grads.append(adjoint(case, loss, thetas, support, v))
    return {"meta_grad": mean_of(grads), "meta_loss": sum(values) / len(values)}


@wrong(
    "The inner gradient is divided by the number of examples once more, as in a C++ trainer that sums over the "
    "batch, though the loss is a mean already: the inner rate is α/N.",
    r"/ ?N|1/N|divid|number of (support )?(examples|samples)|batch size|twice|inner.*(rate|step).*(small|scal|short)|"
    r"scal\w* .*(inner|support)|mean.*(already|again)",
    tells_loss=False,
)
def divides_by_the_batch_again(case):
    def one(loss, params, support, query):
        for _ in range(case.inner_steps):
            grads = tm.grad(loss)(params, *support)
            params = step(params, {n: g / len(support[0]) for n, g in grads.items()}, case.inner_lr)
        return loss(params, *query)

    return over_tasks(case, one)


@wrong(
    "The gradient buffers are zeroed once per task instead of before each inner step, so step k follows the sum of "
    "all gradients so far (as momentum with μ = 1 would).",
    r"zeroed|zero_?grad|not zero|accumulat|momentum|sum of (all )?(the )?(earlier |previous )?gradients|buffer|"
    r"previous (inner )?(gradient|step)|"
    r"earlier gradient|velocity",
)
def buffers_are_not_zeroed(case):
    def one(loss, params, support, query):
        buffers = {n: 0.0 for n in params}
        for _ in range(case.inner_steps):
            grads = tm.grad(loss)(params, *support)
            buffers = {n: buffers[n] + grads[n] for n in params}
            params = step(params, buffers, case.inner_lr)
        return loss(params, *query)

    return over_tasks(case, one)


# The outer loss, its reduction, and the data


@wrong(
    "The mean over tasks is kept as (mean + new) / 2, which weighs the last task by a half, the one before by a "
    "quarter and so on; it is the mean of two tasks only.",
    r"weight\w*\b.*task|task.*weigh|running|exponential|moving|geometric|uneven|unequal|"
    r"average of (the )?average|halv|\(.*\) ?/ ?2|last task",
)
def halves_the_mean(case):
    loss, params, tasks = given(case)
    value, grads = exact(case, loss, params, *tasks[0])
    for support, query in tasks[1:]:
        new, more = exact(case, loss, params, support, query)
        value, grads = (value + new) / 2, mean_of([grads, more])
    return {"meta_grad": grads, "meta_loss": value}


@wrong(
    "The outer loss is taken on support and query set together, concatenated, instead of on the query set alone.",
    r"concat|together|joined|union|both sets|support.*(and|\+|with|in).*(query|outer|meta)|query.*(and|\+|"
    r"with).*support",
    tells_loss=False,
)
def outer_loss_on_all_data(case):
    def one(loss, params, support, query):
        everything = [np.concatenate(pair) for pair in zip(support, query, strict=True)]
        return loss(adapt(case, loss, params, support), *everything)

    return over_tasks(case, one)


@wrong(
    "Images are read with height and width exchanged, so the filters meet a transposed picture.",
    r"transpos|height|width|swap|exchang|axes|axis|H and W|layout|orientation|spatial",
)
def width_before_height(case):
    def turned(batch):
        x, y = batch
        return (np.swapaxes(x, 1, 2) if x.ndim == 4 else x), y

    return maml(case, data=lambda s, q: (turned(s), turned(q)))


@wrong(
    "The query inputs are shuffled without their targets, so examples and labels no longer belong together.",
    r"shuffl|permut|misalign|pair|belong|mismatch|order of the (query|examples|labels|targets)|wrong (labels|targets)|"
    r"(labels|targets).*(order|other|roll|shift)",
    tells_loss=False,
)
def shuffled_without_labels(case):
    def data(support, query):
        x, y = query
        return support, (x[np.random.default_rng(1).permutation(len(x))], y)

    return maml(case, data=data)


@wrong(
    "All targets are converted to integers, as class labels are, which cuts off the fraction of the targets of a "
    "regression.",
    r"integer|int64|\bint\b|truncat|fraction|cast|convert|dtype|round(ed|ing) (the )?target|floor",
)
def targets_as_labels(case):
    def data(support, query):
        return tuple((x, y.astype(np.int64)) for x, y in (support, query))

    return maml(case, data=data)


@wrong(
    "Pixels are divided by 255 on loading, though the images are given as they are meant.",
    r"255|normali[sz]|pixel|(input|image|picture)\w* .*(scal|divid|multipl)|(scal|divid|multipl)\w* .*(input|"
    r"image|picture)",
    tells_loss=False,
)
def pixels_to_unit_range(case):
    def scaled(batch):
        x, y = batch
        return (x / 255 if x.ndim == 4 else x), y

    return maml(case, data=lambda s, q: (scaled(s), scaled(q)))


# Layers and losses


class Squeezed(models.NumPy):
    def mse(self, o, y):
        return np.mean((o - np.squeeze(y)) ** 2)

    def half_mse(self, o, y):
        return np.mean((o - np.squeeze(y)) ** 2) / 2


@wrong(
    "Targets of shape (N, 1) are squeezed to (N), and (N, 1) − (N) broadcasts to (N, N): every output is compared "
    "with every target.",
    r"broadcast|squeez|\(N, ?N\)|N ?[x×] ?N|every (target|output|pair)|all pairs|outer difference",
)
def squeezed_targets(case):
    return maml(case, Squeezed())


class MeanOfTheOneHot(models.NumPy):
    def cross_entropy(self, o, y):
        one_hot = (y[:, None] == np.arange(o.shape[-1])).astype(float)
        return -np.mean(one_hot * log_softmax(o))


@wrong(
    "The cross-entropy with one-hot labels takes the mean over examples and classes, so it is too small by the "
    "number of classes.",
    r"class|1/C|/ ?C\b|N ?[·*x] ?C|one.?hot|cross.?entropy.*(scal|small|reduc|factor)",
    tells_loss=False,
)
def mean_over_classes(case):
    return maml(case, MeanOfTheOneHot())


class BiasOfTheMean(models.NumPy):
    def linear(self, x, w, b=None):
        if b is None:
            return x @ w
        share = b / x.shape[0]
        return x @ w + share + tm.stop_gradient(b - share)


@wrong(
    "The hand-written backward pass of the linear layer takes the bias gradient as the mean over the batch of deltas "
    "that hold 1/N already, instead of their sum.",
    r"bias",
)
def mean_of_the_deltas(case):
    return maml(case, BiasOfTheMean())


class SavedTanh(models.NumPy):
    def tanh(self, x):
        saved = tm.stop_gradient(np.tanh(x))
        return saved + (1 - saved * saved) * (x - tm.stop_gradient(x))


@wrong(
    "The backward pass of tanh multiplies with 1 − y² of the saved output, a constant, so it cannot be "
    "differentiated again: the Hessian lacks tanh''.",
    r"tanh|activation|second derivative|saved|cached|constant|gauss.?newton|curvature of the (non|act)|"
    r"nonlinearit|detach|differentiated (again|twice)",
    tells_loss=False,
)
def tanh_saved_as_a_constant(case):
    return maml(case, SavedTanh())


# Two at once


class Unbiased(models.NumPy):
    def batch_norm(self, x, gamma, beta):
        over = tuple(range(x.ndim - 1))
        centred = x - np.mean(x, over)
        variance = np.sum(centred * centred, over) / max(math.prod(x.shape[:-1]) - 1, 1)
        return centred / np.sqrt(variance + EPS) * gamma + beta


@wrong(
    "Batch normalisation takes the unbiased variance (ddof = 1), and the backward loop walks k = 0 … K − 1, so the "
    "factors are multiplied in the wrong order.",
    r"batch.?norm|normali[sz]|biased|ddof|bessel|N ?[-−] ?1|variance",
    r"(wrong|other|opposite|inverted|inner loop's) order|order of (the )?(factors|steps|product|hess)|revers|"
    r"backwards|k = 0|transposed (product|jacobian)|forward order",
)
def unbiased_and_order(case):
    def one(loss, params, support, query):
        thetas = path(case, loss, params, support)
        value, v = tm.value_and_grad(loss)(thetas[-1], *query)
        for theta in thetas[:-1]:
            v = step(v, hvp(loss, theta, support, v), case.inner_lr)
        return value, v

    return by_hand(case, one, Unbiased())


class Smoothed(models.NumPy):
    def cross_entropy(self, o, y):
        classes = o.shape[-1]
        target = 0.9 * (y[:, None] == np.arange(classes)) + 0.1 / classes
        return -np.mean(np.sum(target * log_softmax(o), -1))


@wrong(
    "The cross-entropy smooths the labels by 0.1, and the inner rate decays as α/(k + 1) from step to step.",
    r"smooth|soft (label|target)|0\.1|uniform",
    r"decay|schedul|anneal|α ?/ ?\(?k|(inner )?(rate|step)s?.*(differ|shrink|small|fall|chang|later)|later steps?",
    tells_loss=False,
)
def smooth_and_slower(case):
    def one(loss, params, support, query):
        for k in range(case.inner_steps):
            params = step(params, tm.grad(loss)(params, *support), case.inner_lr / (k + 1))
        return loss(params, *query)

    return over_tasks(case, one, Smoothed())


@wrong(
    "Only parameters of two or more axes are adapted, as by a weight-decay mask, so biases and scales stay at θ in "
    "the inner loop; and the tasks' gradients are added up instead of averaged.",
    r"bias|one.?dimension|1.?d\b|ndim|scale|gamma|beta|not adapt|vectors?|only (the )?(weights|matri)|mask",
    r"sum|added|averag|mean over (the )?tasks|number of tasks|divid|× ?T|factor (of )?T|1/T",
)
def matrices_only_and_added(case):
    loss, params, tasks = given(case)
    rate = {n: case.inner_lr if p.ndim > 1 else 0.0 for n, p in params.items()}

    def one(p, support, query):
        for _ in range(case.inner_steps):
            grads = tm.grad(loss)(p, *support)
            p = {n: p[n] - rate[n] * grads[n] for n in p}
        return loss(p, *query)

    value, grads = tm.value_and_grad(lambda p: sum(one(p, s, q) for s, q in tasks))(params)
    return {"meta_grad": grads, "meta_loss": value}


@wrong(
    "The closures over the query sets bind late, so each adapted task is judged by the query set of the last task; "
    "and the inner step averages its gradient over its steps, i.e. it uses α/K instead of α.",
    r"late.?bind|closure|last task|(an)?other task|query set of|same query|wrong (query|task)|one query",
    r"/ ?K|number of (inner )?steps|inner (rate|step|lr).*(small|scal|divid|short)|α ?/|learning rate.*(small|"
    r"scal|divid|short)|inner rate",
    tells_loss=False,
)
def late_closures_and_shared_rate(case):
    loss, params, tasks = given(case)

    def total(p):
        judges = []
        for _, query in tasks:
            judges.append(lambda theta: loss(theta, *query))  # noqa: B023
        values = []
        for (support, _), judge in zip(tasks, judges, strict=True):
            theta = p
            for _ in range(case.inner_steps):
                theta = step(theta, tm.grad(loss)(theta, *support), case.inner_lr / case.inner_steps)
            values.append(judge(theta))
        return sum(values) / len(values)

    value, grads = tm.value_and_grad(total)(params)
    return {"meta_grad": grads, "meta_loss": value}


class EpsilonOutside(models.NumPy):
    def batch_norm(self, x, gamma, beta):
        over = tuple(range(x.ndim - 1))
        centred = x - np.mean(x, over)
        return centred / (np.sqrt(np.mean(centred * centred, over)) + EPS) * gamma + beta


@wrong(
    "Batch normalisation divides by √var + ε instead of √(var + ε), and the backward pass handles only the last "
    "inner step, so the factors of the earlier ones are missing.",
    r"batch.?norm|normali[sz]|epsilon|ε|\beps\b|root",
    r"last (inner )?step|truncat|earlier|only (the )?(one|last|final)|first.*steps?.*(missing|constant|detach)|"
    r"missing factor",
)
def epsilon_and_the_last_step(case):
    def one(loss, params, support, query):
        thetas = path(case, loss, params, support)
        value, v = tm.value_and_grad(loss)(thetas[-1], *query)
        return value, step(v, hvp(loss, thetas[-2], support, v), case.inner_lr)

    return by_hand(case, one, EpsilonOutside())


class ByTheSigmoid(models.NumPy):
    def tanh(self, x):
        return 2 / (1 + np.exp(-x)) - 1


@wrong(
    "tanh is written as 2σ(x) − 1 where it is 2σ(2x) − 1, so it is tanh(x/2); and the backward loop uses only the "
    "diagonal of the Hessian.",
    r"tanh|sigmoid|activation|x ?/ ?2|logistic|2 ?x",
    r"diagonal|off.?diagonal|element.?wise|cross|mixed",
    tells_loss=False,
)
def sigmoid_and_diagonal(case):
    def one(loss, params, support, query):
        thetas = path(case, loss, params, support)
        value, g = tm.value_and_grad(loss)(thetas[-1], *query)
        v = flatten(g)
        for theta in reversed(thetas[:-1]):
            v = v - case.inner_lr * np.diag(hessian(loss, theta, support)) * v
        return value, unflatten(v, params)

    return by_hand(case, one, ByTheSigmoid())


# Right ones


@correct("Explicit Hessians, made symmetric, whose product (I − αH₀) … (I − αH_{K−1}) is formed before the gradient.")
def matrices_first(case):
    def one(loss, params, support, query):
        thetas, factors = path(case, loss, params, support), np.eye(flatten(params).size)
        for theta in thetas[:-1]:
            h = hessian(loss, theta, support)
            factors = factors @ (np.eye(len(h)) - case.inner_lr * (h + h.T) / 2)
        value, g = tm.value_and_grad(loss)(thetas[-1], *query)
        return value, unflatten(factors @ flatten(g), params)

    return by_hand(case, one)


@correct("No iterate is kept: the backward loop runs the inner loop anew from θ up to each θₖ.", tells_loss=False)
def iterates_again_from_the_start(case):
    def one(loss, params, support, query):
        def at(k):
            theta = params
            for _ in range(k):
                theta = step(theta, tm.grad(loss)(theta, *support), case.inner_lr)
            return theta

        value, v = tm.value_and_grad(loss)(at(case.inner_steps), *query)
        for k in range(case.inner_steps, 0, -1):
            v = step(v, hvp(loss, at(k - 1), support, v), case.inner_lr)
        return value, v

    return by_hand(case, one)


@correct("All tasks are one problem with T copies of θ, whose gradients are added up where the copies were made.")
def one_problem_of_all_tasks(case):
    loss, params, tasks = given(case)

    def summed(copies, which):
        return sum(loss({n: copies[n, t] for n in params}, *tasks[t][which]) for t in reversed(range(len(tasks))))

    def total(p):
        keys = [(n, t) for n in p for t in range(len(tasks))]
        copies = {key: p[key[0]] for key in keys}
        for _ in range(case.inner_steps):
            named = {f"{n}/{t}": copies[n, t] for n, t in keys}
            grads = tm.grad(lambda c: summed({k: c[f"{k[0]}/{k[1]}"] for k in keys}, 0))(named)
            copies = {(n, t): copies[n, t] - case.inner_lr * grads[f"{n}/{t}"] for n, t in keys}
        return summed(copies, 1) / len(tasks)

    value, grads = tm.value_and_grad(total)(params)
    return {"meta_grad": grads, "meta_loss": value}


@correct("The inner loop changes a displacement δ, and the loss is of θ + δ; both are differentiated.")
def displacement(case):
    def one(loss, params, support, query):
        delta = {n: np.zeros(p.shape) for n, p in params.items()}
        for _ in range(case.inner_steps):
            grads = tm.grad(lambda d: loss({n: params[n] + d[n] for n in d}, *support))(delta)
            delta = {n: delta[n] - case.inner_lr * grads[n] for n in delta}
        return loss({n: params[n] + delta[n] for n in params}, *query)

    return over_tasks(case, one)


@correct("The adjoint is the gradient of vᵀ(θₖ − α g(θₖ)) with v constant; tasks are added backwards by fsum.")
def gradient_of_a_lagrangian(case):
    loss, params, tasks = given(case)
    values, grads = [], []
    for support, query in reversed(tasks):
        thetas = path(case, loss, params, support)
        value, v = tm.value_and_grad(loss)(thetas[-1], *query)
        for theta in reversed(thetas[:-1]):
            v = tm.grad(lambda p: dot(v, step(p, tm.grad(loss)(p, *support), case.inner_lr)))(theta)  # noqa: B023
        values.append(float(value))
        grads.append(flatten(v))
    mean = np.array([math.fsum(column) / len(tasks) for column in zip(*grads, strict=True)])
    return {"meta_grad": unflatten(mean, params), "meta_loss": math.fsum(values) / len(tasks)}


@correct("Buffers that are written in place, with the adjoint and the mean in extended precision.", tells_loss=False)
def buffers_in_place(case):
    loss, params, tasks = given(case)
    size = flatten(params).size
    iterates = np.empty((case.inner_steps + 1, size))
    v, mean = np.empty(size, np.longdouble), np.zeros(size, np.longdouble)
    for support, query in tasks:
        iterates[0] = flatten(params)
        for k in range(case.inner_steps):
            g = flatten(tm.grad(loss)(unflatten(iterates[k].copy(), params), *support))
            np.multiply(g, -case.inner_lr, out=iterates[k + 1])
            iterates[k + 1] += iterates[k]
        v[:] = flatten(tm.grad(loss)(unflatten(iterates[-1].copy(), params), *query))
        for k in reversed(range(case.inner_steps)):
            at = unflatten(iterates[k].copy(), params)
            v -= np.longdouble(case.inner_lr) * flatten(hvp(loss, at, support, unflatten(v.astype(float), params)))
        mean += v / len(tasks)
    return {"meta_grad": unflatten(mean.astype(float), params)}
