"""Chapter 7 of the lesson: relatives of MAML, and the line in which each differs."""

# %% [markdown]
# # The family
#
# Many algorithms are MAML with one line changed, and this time on purpose. In this package each is a file of its own,
# written like its paper, with a function `of_task`: from $\theta$ and one task to a loss and a gradient. The difference
# is either **how a task is adapted to**, or **what is taken as the gradient**.

# %%
import numpy as np

import tinymaml as tm
from tinymaml.algorithms import ALGORITHMS, imaml, inner, mamlpp, meta_sgd, partial, reptile
from tinymaml.lessons import growth
from tinymaml.lessons.growth import CURVES, TASKS
from tinymaml.lessons.show import listing, say, show, table
from tinymaml.lessons.svg import Figure

# %% [markdown]
# **MAML** goes through the whole adaptation. It takes the query loss as a function of what is learned, and
# differentiates it:

# %% tags=["quiet"]
show(listing(inner.through, "def query_loss", "return value_and_grad", title="from `tinymaml/algorithms/inner.py`"))

# %% [markdown]
# **Reptile** takes no gradient of it. It moves $\theta$ toward the place where the adaptation led:

# %% tags=["quiet"]
show(listing(reptile.of_task, "adapted, state", "gradient =", title="from `tinymaml/algorithms/reptile.py`"))

# %% [markdown]
# **ANIL** adapts the last layer only, the head; the outer gradient is exact, over all of the network:

# %% tags=["quiet"]
show(listing(partial.adapt_head, "first =", "yield {**theta, **head}", title="from `tinymaml/algorithms/partial.py`"))

# %% [markdown]
# **Meta-SGD** learns a rate for each element of $\theta$, together with $\theta$. The rate is a part of what the
# query loss is differentiated by:

# %% tags=["quiet"]
show(listing(meta_sgd.adapt, "# θₖ₊₁", "theta = tree_map", title="from `tinymaml/algorithms/meta_sgd.py`"))

# %% [markdown]
# **MAML++** learns a rate per step and tensor. Early in a long training it judges not only the end of the path, but
# each step on it (in the picture below, only the end counts):

# %% tags=["quiet"]
show(listing(mamlpp.of_task, "# F =", "value =", title="from `tinymaml/algorithms/mamlpp.py`"))

# %% [markdown]
# **iMAML** asks only where the adaptation ends, not how it came there. It adapts until a balance is reached between
# the loss of the task and a pull back to $\theta$, and solves a linear system for the gradient:
#
# $$G = \left( I + \frac{1}{\lambda} H \right)^{-1} g_q.$$

# %% tags=["quiet"]
show(listing(imaml.of_task, "def times", "return plus", title="from `tinymaml/algorithms/imaml.py`"))

# %% [markdown]
# ## The same tasks, in one picture
#
# All of them learn from the three curves of chapter 3, beginning at the same $\theta_0$. The parameter $a$ is the
# head of the model, since the prediction $a e^{bx}$ is linear in it; this is what ANIL adapts.


# %%
def loss(theta, x, y):
    value = growth.loss([theta["a"], theta["b"]], x, y)
    return value, value


def of_head(theta, features, y):  # the model, cut into body and head
    error = np.mean((theta["a"] * features - y) ** 2)
    return error, error


loss.body = lambda theta, x: np.exp(theta["b"] * x)
loss.head, loss.last = of_head, ("a",)

OPTIONS = {
    "maml": {}, "reptile": {}, "anil": {}, "meta-sgd": {}, "mamlpp": {},
    "imaml": dict(inner_steps=12, strength=0.7, solver_steps=2),
}  # fmt: skip
RATES = dict.fromkeys(OPTIONS, 0.25) | {"reptile": 0.5}
ITERATIONS, ALPHA = 80, 0.4


def learn(name):
    algorithm = ALGORITHMS[name]
    settings = algorithm.Settings(**{"inner_steps": 2, "inner_lr": ALPHA} | OPTIONS[name])
    theta0 = {"b": np.array(0.0), "a": np.array(1.0)}
    meta = algorithm.init(theta0, settings)
    step = tm.mean_over_tasks(lambda meta, support, query: algorithm.of_task(loss, meta, support, query, settings))
    way, values = [], []
    for _ in range(ITERATIONS):
        (value, _), gradient = step(meta, TASKS)
        theta = meta["theta"] if "theta" in meta else meta
        way.append((float(theta["a"]), float(theta["b"])))
        values.append(float(value))
        meta = tm.tree_map(lambda p, g: p - RATES[name] * g, meta, gradient)
    return np.array(way), values, meta


learned = {name: learn(name) for name in OPTIONS}

# %% tags=["quiet"]
HUES = dict(zip(OPTIONS, ("blue", "green", "violet", "orange", "ink", "red"), strict=True))
points = np.concatenate([way for way, _, _ in learned.values()] + [CURVES])
low, high = points.min(0) - 0.12, points.max(0) + 0.12
figure = Figure((low[0], high[0]), (low[1], high[1]), width=440, height=400, xlabel="a", ylabel="b",
                caption="The path of θ under each algorithm. Grey rings: the exact solution per task.")  # fmt: skip
for k, curve in enumerate(CURVES):
    figure.dot(*curve, "grey", open_=True, radius=6)
    figure.text(*curve, f"task {k + 1}", "grey", up=11)
for name, (way, _, _) in learned.items():
    figure.line(*way.T, HUES[name], label=name)
    figure.dot(*way[-1], HUES[name])
figure.dot(1.0, 0.0, "ink", radius=3)
figure.text(1.0, 0.0, "θ₀")
show(figure)
rows = [(name, f"{values[0]:.4f}", f"{values[-1]:.4f}", f"({way[-1][0]:.2f}, {way[-1][1]:.2f})".replace("-", "−"))
        for name, (way, values, _) in learned.items()]  # fmt: skip
show(table(["algorithm", "query loss after its own adaptation, before training", f"after {ITERATIONS} iterations",
            "θ = (a, b)"], rows))  # fmt: skip

# %% tags=["quiet"]
rates = learned["meta-sgd"][2]["alpha"]
say(f"Each answers the question in its own way, and so each ends elsewhere. Meta-SGD has learned the rates "
    f"{float(rates['a']):.2f} for $a$ and {float(rates['b']):.2f} for $b$; both began at {ALPHA}. The numbers of "
    "different algorithms cannot be ranked by this table: three curves illustrate, and are no benchmark.")  # fmt: skip

# %% [markdown]
# ## Where to go from here
#
# - Train on sine waves, and see the curves: `tinymaml train sinusoid`, then `tinymaml plot runs/sinusoid`.
# - Write an algorithm of your own: `tinymaml/algorithms/__init__.py` says what it consists of.
# - Check the meta-gradient of your own code: `tinymaml oracle check --help`.
# - Read the engine: `tinymaml/engine.py`. You know its idea already.
