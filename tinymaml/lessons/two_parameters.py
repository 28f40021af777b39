"""Chapter 3 of the lesson: two parameters, and the product of factors as a picture."""

# %% [markdown]
# # Two parameters
#
# With two parameters, a gradient is an arrow and a Hessian is a matrix. Both can be drawn, so everything that MAML
# does can be seen. A task is a curve of growth or decay, $a e^{bx}$, of which five points are known. The parameters
# are $\theta = (a, b)$, and there are three tasks.

# %%
import numpy as np

import tinymaml as tm
from tinymaml.lessons import growth
from tinymaml.lessons.growth import CURVES, TASKS, loss
from tinymaml.lessons.show import listing, say, show, sliders, table
from tinymaml.lessons.svg import Figure

theta0 = np.array([1.0, 0.0])
(xs, ys), (xq, yq) = TASKS

# %% tags=["quiet"]
show(listing(growth.loss, title="from `tinymaml/lessons/growth.py`"))

# %% tags=["folded"]
points = Figure((-1.05, 1.05), (0, 2.6), xlabel="x", ylabel="y", height=240,
                caption="The three tasks. Dots: support points, on which a model adapts. Rings: query points, on which "
                "it is judged. Dashed: the model before adaptation.")  # fmt: skip
grid = np.linspace(-1.05, 1.05, 60)
HUES = ("orange", "violet", "green")
for k, (a, b) in enumerate(CURVES):
    points.line(grid, a * np.exp(b * grid), HUES[k], width=1, label=f"task {k + 1}")
    for i in range(len(xs[k])):
        points.dot(xs[k][i], ys[k][i], HUES[k])
        points.dot(xq[k][i], yq[k][i], HUES[k], open_=True, radius=3.5)
points.line(grid, theta0[0] * np.exp(theta0[1] * grid), "ink", dash="5 4", label="θ₀")
show(points)

# %% [markdown]
# ## The product of factors
#
# The inner loop takes $K$ steps on the support loss $L_s$ of a task. Then the query loss $L_q$ judges where they end:
#
# $$\theta_{k+1} = \theta_k - \alpha \nabla L_s(\theta_k), \quad k = 0, \dots, K - 1.$$
#
# How does $\theta_{k+1}$ move when $\theta_k$ moves a little? The derivative of a gradient is the Hessian $H$, so the
# answer is the matrix $I - \alpha H_k$, with $H_k = \nabla^2 L_s(\theta_k)$. The chain rule multiplies these
# matrices, one per step. With $g_q = \nabla L_q(\theta_K)$:
#
# $$\nabla_\theta L_q(\theta_K)
# = \underbrace{(I - \alpha H_0)}_{\text{step~1}} \underbrace{(I - \alpha H_1)}_{\text{step~2}} \cdots \underbrace{(I
# - \alpha H_{K-1})}_{\text{step~K}} \, g_q.$$
#
# Read it from the right, as the program does: begin with the gradient at the end of the path, and carry it back
# through the steps, from the last to the first. This is chapter 1 again; only the factors are matrices now.
#
# Here it is for task 1 and two steps, with all the numbers.


# %%
def g(theta, x, y):
    return tm.grad(loss)(theta, x, y)


def hessian(theta, x, y):
    return np.stack([tm.hvp(lambda th: loss(th, x, y), (theta,), e) for e in np.eye(2)])


def inner_path(theta, x, y, alpha, K):
    path = [theta]
    for _ in range(K):
        path.append(path[-1] - alpha * g(path[-1], x, y))
    return path


alpha, task = 0.25, 0
support, query = (xs[task], ys[task]), (xq[task], yq[task])
path = inner_path(theta0, *support, alpha, 2)

v = g(path[-1], *query)  # g_q at the end of the path
rows = [("the query gradient $g_q$ at $\\theta_2$", "", v)]
for k in (1, 0):
    factor = np.eye(2) - alpha * hessian(path[k], *support)
    v = factor @ v
    rows.append((f"carried back through step {k + 1}", factor, v))


# %% tags=["quiet"]
def numbers(x):
    return "; ".join(" ".join(f"{y:.3f}".replace("-", "−") for y in row) for row in np.atleast_2d(x)) if len(x) else ""


show(table(["", "the factor $I - \\alpha H_k$, row by row", "the vector"],
           [(what, numbers(matrix), numbers(vector)) for what, matrix, vector in rows]))  # fmt: skip

# %% [markdown]
# The last vector is the meta-gradient of this task. Three ways that share less and less code with it:


# %%
def after_two_steps(theta):
    return loss(inner_path(theta, *support, alpha, 2)[-1], *query)


meta = tm.meta_value_and_grad(loss, inner_lr=alpha, inner_steps=2)
h = 1e-6
differences = [(after_two_steps(theta0 + h * e) - after_two_steps(theta0 - h * e)) / (2 * h) for e in np.eye(2)]
ways = {
    "the product of factors": v,
    "`tm.grad` through the steps": tm.grad(after_two_steps)(theta0),
    "`tm.meta_value_and_grad`": meta(theta0, [(support, query)])[1],
    "differences": np.array(differences),
}

# %% tags=["quiet"]
show(table(["way", "∂/∂a", "∂/∂b"], [(way, *(f"{d:.10f}".replace("-", "−") for d in x)) for way, x in ways.items()]))

# %% [markdown]
# Neither `tm.grad` nor `tm.meta_value_and_grad` forms a Hessian. They go back through the records of the steps, and
# the product of a Hessian with a vector appears on the way. For a network with a million parameters, that is the
# difference between a moment and never.
#
# ## The same, as a picture
#
# Each panel is the query loss of one task over the plane of $(a, b)$. The line is the path $\theta_0 \dots \theta_K$.
# The arrows at $\theta_0$ show where one outer step would go: with the exact meta-gradient, with FOMAML's, and, from
# the tip of one to the tip of the other, **what FOMAML leaves out**.

# %% tags=["folded"]
A, B = (0.25, 2.05), (-1.15, 1.0)
ga, gb = np.linspace(*A, 61), np.linspace(*B, 73)
surfaces = [np.mean((ga[None, :, None] * np.exp(gb[:, None, None] * xq[k]) - yq[k]) ** 2, -1) for k in range(3)]
levels = [0.003, 0.02, 0.06, 0.15, 0.3, 0.6, 1.0, 1.6]
alphas = [0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1]
reach = 0.7  # how long the longer arrow of a panel is drawn


def gradients(k, K, alpha):
    """The path of task k, the exact meta-gradient, FOMAML's, and the eigenvalues of I − αH₀."""
    with np.errstate(all="ignore"):
        path = inner_path(theta0, xs[k], ys[k], alpha, K)
        v = first = g(path[-1], xq[k], yq[k])
        for theta in reversed(path[:-1]):
            v = v - alpha * hessian(theta, xs[k], ys[k]) @ v
    return path, v, first, 1 - alpha * np.linalg.eigvalsh(hessian(theta0, xs[k], ys[k]))


def panels(K, alpha):
    figures, factors, largest = [], [], []
    for k in range(3):
        path, exact, first, eigenvalues = gradients(k, K, alpha)
        figure = Figure(A, B, width=330, equal=True, xlabel="a", ylabel="b", title=f"task {k + 1}")
        figure.behind = True
        figure.contours(ga, gb, surfaces[k], levels, HUES[k])
        figure.dot(*CURVES[k], HUES[k], radius=3)
        figure.behind = False
        figure.line(*np.transpose(path), "ink", width=1.3, label="the path θ₀ … θ_K")
        for theta in path:
            figure.dot(*theta, "ink", radius=2.5)
        with np.errstate(all="ignore"):
            eta = reach / max(np.linalg.norm(first), np.linalg.norm(exact))
            tips = theta0 - eta * first, theta0 - eta * exact
        figure.arrow(theta0, tips[0], "red", label="FOMAML")
        figure.arrow(theta0, tips[1], "blue", label="exact meta-gradient")
        if K:
            figure.arrow(*tips, "grey", width=1.5, dash="4 3", label="what FOMAML leaves out")
        figures.append(figure)
        factors.append(eigenvalues)
        with np.errstate(all="ignore"):
            cosine = exact @ first / np.sqrt((exact @ exact) * (first @ first))
        largest.append("—" if not np.isfinite(cosine) else f"{np.degrees(np.arccos(np.clip(cosine, -1, 1))):.0f}°")
    most = max((e for pair in factors for e in pair), key=abs)
    said = "; ".join(" and ".join(f"{e:.2f}".replace("-", "−") for e in pair) for pair in factors)
    note = f"Angle between the two gradients, task by task: {', '.join(largest)}. "
    note += f"Eigenvalues of $I - \\alpha H_0$: {said}."
    if abs(most) > 1:
        note += " **One is beyond −1: along its direction, each step ends farther from the valley than it began.**"
    elif min(e for pair in factors for e in pair) < 0:
        note += " One is negative: along its direction, each step jumps across the valley."
    return figures, note


show(sliders(panels, K=range(6), alpha=alphas, start={"K": 2, "alpha": 0.3},
             caption="Contours: the query loss. The arrows of a panel are scaled together, so that the longer one "
             "always has the same length. A path that leaves its panel is cut at the edge."))  # fmt: skip

# %% [markdown]
# Three things to see:
#
# - With $K = 0$ there are no factors, and the two gradients are the same. With each step they part.
# - The factor $I - \alpha H$ *shrinks* the directions in which the loss is steep: where one step learns much, the
#   start matters little. FOMAML does not know it, and still pulls in those directions.
# - The inner loop announces its own divergence. Along an eigenvector of $H$ with the eigenvalue $\lambda$, a step
#   multiplies the distance to the bottom of the valley by $1 - \alpha\lambda$. Below 0 it jumps across, below −1 it
#   lands higher on the other side. Move $\alpha$, and watch for the moment.
#
# ## Factor by factor
#
# The product, drawn for task 1: the query gradient at the end of the path, and what each factor makes of it.

# %% tags=["folded"]
STEPS = 4
_paths = {a: gradients(0, STEPS, a)[0] for a in alphas[:8]}
FACTORS = ("red", "orange", "green", "violet", "blue")


def carried(alpha):
    path = _paths[alpha]
    v = g(path[-1], xq[0], yq[0])
    vectors = [v]
    for theta in reversed(path[:-1]):
        vectors.append(vectors[-1] - alpha * hessian(theta, xs[0], ys[0]) @ vectors[-1])
    size = 1.15 * np.abs(vectors).max()
    figure = Figure((-1, 1), (-1, 1), width=360, equal=True, xlabel="∂/∂a", ylabel="∂/∂b")
    for j, v in enumerate(vectors):
        label = "g_q at θ₄ (FOMAML)" if j == 0 else f"after I − αH{'₀₁₂₃'[STEPS - j]}" + " (exact)" * (j == STEPS)
        figure.arrow((0, 0), v / size, FACTORS[j], label=label)
    lengths = " → ".join(f"{np.linalg.norm(v):.4f}" for v in vectors)
    return figure, f"Lengths: {lengths}. One unit of the axes is {size:.4f}."


show(sliders(carried, alpha=alphas[:8], start={"alpha": 0.2},
             caption=f"Task 1, K = {STEPS}. The axes are scaled to the longest arrow."))  # fmt: skip

# %% [markdown]
# ## Several tasks
#
# The meta-loss is the mean over tasks, so the meta-gradient is the mean of the tasks' meta-gradients. Let us descend
# on it, exactly and to first order, and compare where $\theta$ ends and how good it is there.


# %%
def trained(first_order, K=2, alpha=0.4, beta=0.5, iterations=150):
    exact, mine = (
        tm.meta_value_and_grad(loss, inner_lr=alpha, inner_steps=K, first_order=order) for order in (False, first_order)
    )
    theta = theta0
    for _ in range(iterations):
        value, gradient = mine(theta, TASKS)
        theta = theta - beta * gradient
    value, right = exact(theta, TASKS)
    return theta, float(value), np.linalg.norm(gradient), np.linalg.norm(right)


rows = []
for label, first_order in (("the exact gradient", False), ("FOMAML", True)):
    theta, value, own, right = trained(first_order)
    place = f"({theta[0]:.3f}, {theta[1]:.3f})".replace("-", "−")
    rows.append((label, place, f"{value:.5f}", f"{own:.0e}", f"{right:.0e}"))

# %% tags=["quiet"]
head = ["trained with", "θ", "loss after adaptation", "length of its gradient", "of the exact one"]
show(table(head, rows))
ratio = float(rows[1][2]) / float(rows[0][2])
say(f"FOMAML comes to rest: its own gradient is 0 to rounding. But it does not rest at a minimum. The loss after "
    f"adaptation is {ratio:.1f} times as high there, and only the exact gradient still points downhill.")  # fmt: skip

# %% [markdown]
# ## Now you
#
# Take $K = 1$, and choose $\alpha$ so that the largest eigenvalue $\lambda$ of $H_0$ gives $1 - \alpha\lambda = 0$.
# What does the meta-gradient say along that eigenvector? And why is this right?
#
# <details><summary>The answer</summary>
#
# It says nothing: the factor $I - \alpha H_0$ removes that direction. It is right, because to first order one step
# solves the task along it from wherever it begins. FOMAML would still pull there.
#
# </details>

# %%
eigenvalues, eigenvectors = np.linalg.eigh(hessian(theta0, *support))
alpha, direction = 1 / eigenvalues[-1], eigenvectors[:, -1]
steps = dict(inner_lr=alpha, inner_steps=1)
for name, first_order in (("exact ", False), ("FOMAML", True)):
    meta = tm.meta_value_and_grad(loss, **steps, first_order=first_order)
    print(f"{name} along the eigenvector: {meta(theta0, [(support, query)])[1] @ direction:.6f}")
