"""Chapter 4 of the lesson: sine waves, five points each."""

# %% [markdown]
# # Sine waves
#
# Now a network learns to learn. A task is a sine wave, $A \sin(x - \varphi)$, with an amplitude and a phase of its
# own. Five points of it are the support set; fifteen others judge. This is the first experiment of the paper by Finn,
# Abbeel and Levine (2017). The network has two hidden layers of 40 units with $\tanh$, written in plain NumPy.

# %%
import numpy as np

import tinymaml as tm
from tinymaml.families.sinusoid import SinusoidTasks
from tinymaml.lessons.show import say, show, sliders, table
from tinymaml.lessons.svg import Figure


def predict(params, x):
    hidden = np.tanh(x @ params["w1"] + params["b1"])
    hidden = np.tanh(hidden @ params["w2"] + params["b2"])
    return hidden @ params["w3"] + params["b3"]


def loss(params, x, y):
    return tm.nn.mse(predict(params, x), y)


def start(rng, n=40):
    return {
        "w1": rng.normal(size=(1, n)), "b1": rng.normal(size=n),
        "w2": rng.normal(size=(n, n)) / n**0.5, "b2": np.zeros(n),
        "w3": rng.normal(size=(n, 1)) / n**0.5, "b3": np.zeros(1),
    }  # fmt: skip


# %% [markdown]
# Two networks begin with the same weights. One is trained by MAML, on the exact gradient of the loss *after*
# adaptation. The other is trained *jointly*: it minimises the plain loss on the same waves, and it does not know that
# it will have to adapt. Beside the exact gradient we also compute the first-order one, only to look at it.

# %%
alpha, K, ITERATIONS = 0.05, 2, 2000
family = SinusoidTasks(shots=5, queries=15, dtype=np.float64)


def joint_of_task(params, support, query):
    both = [np.concatenate(pair) for pair in zip(support, query)]
    return tm.value_and_grad(loss)(params, *both)


exact = tm.compile(tm.meta_value_and_grad(loss, inner_lr=alpha, inner_steps=K))
first = tm.compile(tm.meta_value_and_grad(loss, inner_lr=alpha, inner_steps=K, first_order=True))
joint = tm.compile(tm.mean_over_tasks(joint_of_task))


def vector(gradient):
    return np.concatenate([g.ravel() for g in tm.tree_leaves(gradient)])


def angle(params, tasks):
    """Between the exact gradient and the first-order one, in degrees."""
    a, b = vector(exact(params, tasks)[1]), vector(first(params, tasks)[1])
    return np.degrees(np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b)))


def train(gradient_of, look=lambda params: None):
    rng, params = np.random.default_rng(1), start(np.random.default_rng(0))
    optimizer = tm.optim.adam(0.003)
    state, seen = optimizer.init(params), []
    for i in range(ITERATIONS):
        value, gradient = gradient_of(params, family.sample(rng, 10, "train"))
        if i % (ITERATIONS // 50) == 0:
            seen.append((i, look(params)))
        params, state = optimizer.update(params, gradient, state)
    return params, seen


watched = family.sample(np.random.default_rng(2), 25, "val")
maml_params, angles = train(exact, lambda params: angle(params, watched))
joint_params, _ = train(joint)

# %% [markdown]
# ## What they do with five points
#
# Both networks now meet waves that neither has seen. They get five points, and take gradient steps. The joint network
# may use whichever of three rates suits it best, chosen on other waves. Move the sliders.


# %% tags=["folded"]
def adapted(params, support, rate, steps):
    """The parameters after 0, 1, …, `steps` steps."""
    path = [params]
    for _ in range(steps):
        path.append(tm.adapt(loss, path[-1], support, inner_lr=rate, inner_steps=1))
    return path


def errors(params, tasks, rate, steps=10):
    """The mean query loss over tasks, after each number of steps."""
    (xs, ys), (xq, yq) = tasks
    each = []
    for support, query in zip(zip(xs, ys), zip(xq, yq)):
        each.append([loss(theta, *query) for theta in adapted(params, support, rate, steps)])
    return np.mean(each, axis=0)


few = tm.tree_map(lambda x: x[:12], watched)
rates = [0.003, 0.01, 0.03]
joint_rate = min(rates, key=lambda rate: errors(joint_params, few, rate)[-1])
test = family.sample(np.random.default_rng(3), 40, "test")
curves = {
    "MAML": errors(maml_params, test, alpha),
    "joint": errors(joint_params, test, joint_rate),
}

# %% tags=["folded"]
line = np.linspace(-5, 5, 90)[:, None]
rng = np.random.default_rng(4)
waves = family.waves(rng, 3)
(sx, sy), _ = family.batch(rng, waves)
truths = waves(np.tile(line, (3, 1, 1)))
NETWORKS = {"MAML": (maml_params, alpha, "blue"), "joint": (joint_params, joint_rate, "red")}
paths = {(name, w): adapted(params, (sx[w], sy[w]), rate, 10)
         for name, (params, rate, _) in NETWORKS.items() for w in range(3)}  # fmt: skip


def wave_panels(wave, step):
    figures, said = [], []
    w = wave - 1
    for name, (_, _, hue) in NETWORKS.items():
        figure = Figure((-5, 5), (-5.5, 5.5), width=360, height=250, xlabel="x", title=name)
        figure.line(line[:, 0], truths[w][:, 0], "grey", width=1.5, dash="5 4", label="the wave")
        guess = predict(paths[name, w][step], line)
        figure.line(line[:, 0], guess[:, 0], hue, width=2.2, label="prediction")
        for x, y in zip(sx[w][:, 0], sy[w][:, 0], strict=True):
            figure.dot(x, y, "ink", label="support points")
        figures.append(figure)
        said.append(f"{name} {np.mean((guess - truths[w]) ** 2):.2f}")
    return figures, f"Mean squared error over the whole line: {', '.join(said)}."


show(sliders(wave_panels, wave=[1, 2, 3], step=range(11), start={"wave": 1, "step": 0},
             caption="Three waves that neither network has seen; step 0 is before adaptation."))  # fmt: skip

# %% tags=["quiet"]
rows = [(f"{name}", *(f"{curve[k]:.2f}" for k in (0, 1, 2, 5, 10))) for name, curve in curves.items()]
show(table(["mean squared error of 40 test waves after", "0 steps", "1", "2", "5", "10"], rows))
assert curves["MAML"][K] < curves["joint"].min() and curves["joint"][0] < curves["MAML"][0]
say(f"The joint network is better *before* adaptation: the best guess without any points is near the mean of all "
    f"waves, and it has learned that. But the mean of all waves is a poor place to start from. After {K} steps, MAML's "
    f"network is {curves['joint'][K] / curves['MAML'][K]:.1f} times as good.")  # fmt: skip

# %% [markdown]
# ## The angle between the two gradients
#
# While MAML was training, we watched the angle between the exact gradient and FOMAML's, always on the same 25 waves.
# At 0° they agree; at 90° the first-order gradient says nothing about the direction in which the loss falls.

# %% tags=["quiet"]
figure = Figure((0, ITERATIONS), (0, 130), xlabel="meta-iteration", ylabel="degrees", height=250,
                caption="The angle between the exact and the first-order meta-gradient, through training.")  # fmt: skip
figure.line(*zip(*angles, strict=True), "blue")
figure.line([0, ITERATIONS], [90, 90], "grey", width=1, dash="4 4")
show(figure)
found = np.array([a for _, a in angles])
uphill = sum(found > 90)
say(f"The angle lies between {found.min():.0f}° and {found.max():.0f}°, with a mean of {found.mean():.0f}°. A small "
    f"step along the first-order gradient lowers the loss by the cosine of the angle, at the mean "
    f"{np.cos(np.radians(found.mean())):.2f}, times what a step of the same length along the exact gradient "
    f"does. In {uphill} of {len(found)} measurements the angle is above 90°: there, it leads uphill.")  # fmt: skip
