"""Chapter 1 of the lesson: the meta-gradient of one number."""

# %% [markdown]
# # One number
#
# A model has one parameter, the number $w$. A task is another number, $t$, and the loss of the model on the task is
#
# $$L(w) = (w - t)^2.$$
#
# We look for a $w$ that is not good itself, but good **after one step of learning**. The step is gradient descent
# with the rate $\alpha$. Since $L'(w) = 2(w - t)$, it leads to
#
# $$w' = w - \alpha L'(w) = w - 2\alpha(w - t).$$
#
# The *meta-loss* is the loss after the step, $L(w')$. It is a function of the $w$ from which the step began. The
# *meta-gradient* is its derivative with respect to that $w$. This is all of MAML; the rest is bookkeeping.

# %%
import numpy as np

import tinymaml as tm
from tinymaml.lessons.show import say, show, sliders, table
from tinymaml.lessons.svg import Figure

t, alpha = 2.0, 0.2


def L(w):
    return (w - t) ** 2


def step(w, alpha):
    return w - alpha * tm.grad(L)(w)  # the inner step: gradient descent


def meta_loss(w, alpha):
    return L(step(w, alpha))


# %% [markdown]
# ## By hand
#
# The chain rule says how $L(w')$ changes with $w$: it is the slope of the loss where the step *ends*, times the rate
# at which that end moves when its start moves.
#
# $$\frac{dL(w')}{dw}
# = \underbrace{L'(w')}_{\text{slope~at~the~end}} \cdot \underbrace{\frac{dw'}{dw}}_{\text{how~the~end~moves}}$$
#
# The second factor is the interesting one. The step is $w' = w - \alpha L'(w)$, and $L'(w)$ depends on $w$ as well.
# Its derivative is the second derivative of the loss:
#
# $$\frac{dw'}{dw} = 1 - \alpha L''(w).$$
#
# This is where the second order comes from. **A step contains a gradient, so the derivative of a step contains a
# second derivative.** Here $L'' = 2$, and $w' - t = (1 - 2\alpha)(w - t)$, so that
#
# $$\frac{dL(w')}{dw} = 2(w' - t) \cdot (1 - 2\alpha) = 2(w - t)(1 - 2\alpha)^2.$$
#
# ## By `tm.grad`, and by differences
#
# The program above never mentions a second derivative. It does not have to: `step` calls `tm.grad`, and what
# `tm.grad` returns can be differentiated like anything else. We ask for the slope of `meta_loss`, and compare three
# ways to know it. A *central difference* needs no calculus at all: it moves $w$ a little to both sides and looks at
# the loss.


# %%
def by_hand(w, alpha):
    return 2 * (w - t) * (1 - 2 * alpha) ** 2


def by_differences(w, alpha, h=1e-5):
    return (meta_loss(w + h, alpha) - meta_loss(w - h, alpha)) / (2 * h)


w = 5.0
by_grad = float(tm.grad(meta_loss)(w, alpha))
ways = {
    "by hand": by_hand(w, alpha),
    "by `tm.grad`": by_grad,
    "by differences": by_differences(w, alpha),
}

# %% tags=["quiet"]
show(table(
    ["way", "meta-gradient", "differs from the first by"],
    [(way, f"{g:.12f}", f"{abs(g - ways['by hand']):.0e}") for way, g in ways.items()],
))  # fmt: skip

# %% [markdown]
# Three independent ways agree. This is the habit to take from this page: **a gradient is believed when something that
# does not share its code says the same.** A difference of two losses knows nothing of the chain rule, so it cannot
# make the same mistake as the chain rule.
#
# ## What the short cuts do
#
# Two popular methods avoid the second derivative.
#
# - **FOMAML** (first-order MAML) treats $dw'/dw$ as if it were 1. Its "gradient" is $L'(w')$, the slope at the end.
# - **Reptile** uses no gradient of the meta-loss at all. It moves $w$ toward the end of the step, along $w - w'$.
#
# How much do they differ? Move the slider, and watch the three arrows. Each shows where one update with the outer
# rate $\beta$ takes $w$. Reptile has its own outer rate, as it has in practice.

# %% tags=["folded"]
beta, of_reptile = 0.3, 0.6
alphas = [round(0.05 * k, 2) for k in range(23)]


def arrows(alpha):
    end = step(w, alpha)
    updates = {
        "MAML": (w - beta * float(tm.grad(meta_loss)(w, alpha)), "blue"),
        "FOMAML": (w - beta * float(tm.grad(L)(end)), "red"),
        "Reptile": (w - of_reptile * (w - end), "green"),
    }
    figure = Figure((-2.5, 8.5), (-8, 20), xlabel="w", height=330)
    figure.behind = True
    x = np.linspace(-2.5, 8.5, 120)
    figure.line(x, L(x), "grey", width=1.5, label="the loss L(w)")
    figure.dot(t, 0, "grey")
    figure.text(t, 0, "t", up=10)
    figure.behind = False
    figure.arrow((w, L(w)), (end, L(end)), "orange", label="the inner step from w to w′")
    figure.dot(w, L(w), "ink")
    figure.text(w, L(w), "w", up=10)
    figure.dot(end, L(end), "orange", open_=True)
    for row, (name, (to, hue)) in enumerate(updates.items()):
        y = -2.2 * (row + 1)
        figure.arrow((w, y), (to, y), hue, label=f"{name} moves w")
        figure.dot(w, y, "ink", radius=2.5)
    factor = 1 - 2 * alpha
    wrong = (updates["FOMAML"][0] - w) * (updates["MAML"][0] - w) < 0
    note = (
        f"The factor $1 - \\alpha L''$ is ${factor:.1f}$. The step ends at $w' = {end:.2f}$. MAML moves $w$ to "
        f"{updates['MAML'][0]:.2f}, FOMAML to {updates['FOMAML'][0]:.2f}, Reptile to {updates['Reptile'][0]:.2f}."
    )
    if abs(factor) < 1e-9:
        note += " One step solves the task from everywhere, so nothing is left to learn, and MAML knows it."
    elif wrong:
        note += " **FOMAML moves away from the task**: the step overshoots, and it drops the sign of the factor."
    if abs(factor) > 1:
        note += " The factor is beyond −1: the inner loop itself diverges."
    return figure, note


show(sliders(arrows, alpha=alphas, start={"alpha": alpha}, caption="One parameter, one task. Every position of the "
             "slider was computed in Python with `tm.grad` when the page was built."))  # fmt: skip

# %% [markdown]
# Below $\alpha = 1/2$, the three arrows agree about the direction, and only the lengths differ. This is why the short
# cuts often work. Above it, the inner step jumps over the target, the factor $1 - \alpha L''$ is negative, and FOMAML
# walks away from the task that it should learn. With many parameters there is one such factor per direction, and the
# directions disagree; chapter 3 shows it.
#
# ## Now you
#
# Take **two** inner steps instead of one: $w_1 = w - \alpha L'(w)$ and $w_2 = w_1 - \alpha L'(w_1)$. What is the
# derivative of $L(w_2)$ with respect to $w$? Write it down before you unfold the answer.
#
# <details><summary>The answer</summary>
#
# Each step contributes a factor of its own, and each is taken where that step began:
#
# $$\frac{dL(w_2)}{dw} = L'(w_2) \cdot (1 - \alpha L''(w_1)) \cdot (1 - \alpha L''(w)) = 2(w - t)(1 - 2\alpha)^4.$$
#
# </details>
#
# The program agrees, for any number $K$ of steps:


# %%
def after(K, w):
    for _ in range(K):
        w = step(w, alpha)
    return L(w)


rows = []
for K in range(5):
    hand = 2 * (w - t) * (1 - 2 * alpha) ** (2 * K)
    engine = tm.grad(lambda w, K=K: after(K, w))(w)
    rows.append((K, f"{hand:.10f}", f"{engine:.10f}"))

# %% tags=["quiet"]
show(table(["K", "by hand", "by `tm.grad`"], rows))
say(f"The meta-gradient shrinks by the factor $(1 - 2\\alpha)^2 = {(1 - 2 * alpha) ** 2:.2f}$ with each step: the "
    "more a model learns by itself, the less it matters where it began.")  # fmt: skip
