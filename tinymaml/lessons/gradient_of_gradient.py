"""Chapter 2 of the lesson: how a gradient of a gradient is made."""

# %% [markdown]
# # How a gradient of a gradient is made
#
# Chapter 1 differentiated a step that contains a gradient. Nothing in the program had to be said twice. This chapter
# shows why: you will write an engine of twelve lines that does it, and then read the same lines in `tinymaml.engine`.
#
# ## A record is data
#
# When a function runs on a `Tensor`, each operation leaves a *record*: which primitive it was, and what its inputs
# were. Let us run $f(x) = x \sin x$, and walk from the result back through the records.

# %%
import numpy as np

import tinymaml as tm
from tinymaml import engine, ops
from tinymaml.engine import Tensor
from tinymaml.lessons.show import listing, rules_of, say, show, sliders, statement
from tinymaml.lessons.svg import Figure


def f(x):
    return x * np.sin(x)


def records(z):
    """Everything that z was made from, in the order in which it was made."""
    seen, todo = {}, [z]
    while todo:
        t = todo.pop()
        if isinstance(t, Tensor) and t.index not in seen:
            seen[t.index] = t
            todo += t.inputs
    return [seen[index] for index in sorted(seen)]


x = Tensor(np.array(1.3))
z = f(x)

for t in records(z):
    made = f"{t.primitive.name} of" if t.primitive else "leaf"
    print(f"{t.value:8.4f}   {made}", *[f"{i.value:.4f}" for i in t.inputs])

# %% [markdown]
# ## A rule per input
#
# Each primitive has one *rule* per input. A rule receives $g$, the derivative of the final result with respect to the
# output of the primitive, and returns the derivative with respect to that input. These are the engine's own lines:

# %% tags=["quiet"]
rules = "\n".join(statement(ops, name) for name in ("multiply", "sin", "cos"))
show(listing(rules, title="from `tinymaml/primitives.py`"))

# %% [markdown]
# In `multiply`, the output is $z = x y$; its first rule says $g \cdot y$, and its second $g \cdot x$. In `sin`, the
# rule says $g \cos x$. The lines `loop=` and `cheap=` are for the compiler; ignore them.
#
# ## Going back is counting down
#
# A record is always made after its inputs. So the order of creation is an order in which one can work, and the
# reverse is an order in which one can go back: when we come to a record, everything that was made from it has been
# dealt with. That is the whole engine:


# %%
def backward(z, x):
    """dz/dx."""
    cotangent = {z.index: Tensor(np.array(1.0))}  # dz/dt, by the index of t
    for t in reversed(records(z)):
        if t.primitive and t.index in cotangent:
            for rule, to in zip(t.primitive.vjp, t.inputs):
                if isinstance(to, Tensor):
                    g = rule(cotangent[t.index], t, *t.inputs, **t.params)
                    if to.index in cotangent:  # to was used more than once
                        g = cotangent[to.index] + g
                    cotangent[to.index] = g
    return cotangent[x.index]


dz = backward(z, x)
print("f′ by our engine  ", float(dz.value))
print("f′ by hand        ", np.sin(1.3) + 1.3 * np.cos(1.3))

# %% [markdown]
# ## And again
#
# Look at what `backward` did. The rules are written with `*`, `np.cos` and so on, **the same operations that a user
# calls**. They were given tensors. So they left records, and `dz` is a tensor with a past, exactly as `z` was.
# Nothing keeps us from going back once more:

# %%
ddz = backward(dz, x)
print("f″ by our engine  ", float(ddz.value))
print("f″ by tm.grad twice", float(tm.grad(tm.grad(f))(1.3)))
print("f″ by hand        ", 2 * np.cos(1.3) - 1.3 * np.sin(1.3))

# %% [markdown]
# Move the slider: the records appear in the order in which they were made. The upper lane is $f$, the middle lane was
# made by going back through it, and the lower lane by going back through both.

# %% tags=["folded"]
every = sorted({t.index: t for result in (z, dz, ddz) for t in records(result)}.items())
every = [t for _, t in every]
lane_of = [0 if t.index <= z.index else 1 if t.index <= dz.index else 2 for t in every]
number = {t.index: i for i, t in enumerate(every)}
HUES, SIGNS = ("blue", "green", "violet"), {"multiply": "×", "add": "+"}
LANES = ("f", "f′", "f″")


def sign(t):
    if t.primitive:
        return SIGNS.get(t.primitive.name, t.primitive.name)
    return "x" if t is x else f"{t.value:g}"


def place(i):
    lane = lane_of[i]
    among = [j for j in range(len(every)) if lane_of[j] == lane]
    return among.index(i) + 0.5 + (lane_of.count(2) - len(among)) / 2, 2 - lane


def name(t):
    return f"#{number[t.index]}" if isinstance(t, Tensor) else f"{t:g}"


def draw(step):
    figure = Figure((0, lane_of.count(2)), (-0.4, 2.4), height=330, axes=False)
    figure.behind = True
    for lane, label in enumerate(LANES):
        figure.text(0.0, 2 - lane, label, HUES[lane], up=26, anchor="start")
    figure.behind = False
    t = every[step]
    for i in range(step + 1):
        for to in every[i].inputs:
            if isinstance(to, Tensor):
                start, end = place(number[to.index]), place(i)
                bulge = 14 + 2 * (end[0] - start[0]) if start[1] == end[1] else 0
                new = i == step
                figure.arc(start, end, "red" if new else "faint", bulge=bulge, width=2 if new else 1)
    for i in range(step + 1):
        figure.box(*place(i), sign(every[i]), "red" if i == step else HUES[lane_of[i]], 26)
    if t is x:
        note = f"**#{step}** is the leaf $x = {t.value:g}$, from which everything begins."
    elif not t.primitive:
        note = f"**#{step}** is the number 1, the derivative of the result by itself: going back begins here."
    else:
        inputs = " and ".join(map(name, t.inputs))
        note = f"**#{step}** = `{t.primitive.name}` of {inputs}; its value is {t.value:.4f}. "
        rules = [f"`{rule}`" for rule in rules_of(ops, t.primitive.name)]
        note += "Its rules: " + ", ".join(rules) + "."
    return figure, note.replace(" -", " −")


show(sliders(draw, step=range(len(every)), start={"step": len(every) - 1},
             caption="Red: the newest record, and what it was made from. Nothing in the lower lanes is of another kind "
             "than what is in the upper one."))  # fmt: skip

# %% [markdown]
# ## What FOMAML does
#
# Suppose that a gradient is cut off from its past: the number stays the same, but the way back to $x$ is closed. This
# is what `tm.stop_gradient` does. It is a primitive like the others, but it has no rules.


# %%
def f_prime_cut(x):
    return tm.stop_gradient(tm.grad(f)(x))


print("rules:", tm.stop_gradient.vjp)
print("f′ as before:         ", float(f_prime_cut(1.3)))
print("the derivative of f′: ", float(tm.grad(tm.grad(f))(1.3)))
print("the same, when cut:   ", float(tm.grad(f_prime_cut)(1.3)))

# %% [markdown]
# First-order MAML is this cut, made in the inner step. It is one line of code, and in PyTorch it is the *absence* of
# an argument, `create_graph=True`. The loss still falls, so the mistake can stay unseen for years; chapter 6 shows
# more such lines.
#
# ## The engine's own lines
#
# Here is how `tinymaml.engine` goes back. Compare it with your twelve lines.

# %% tags=["quiet"]
lines = "for index in sorted(active", "accumulate(x, z.primitive.vjp"
show(listing(engine._vjp, *lines, title="from `tinymaml/engine.py`"))

# %% [markdown]
# The differences are care, not ideas. `active` holds only the records between $x$ and the result. If no other
# derivative surrounds this one (`nested` is false), the rules get arrays: the outermost gradient needs no past, so
# none is made. And each derivative works on leaves of its own, so that an inner one cannot be confused with an outer
# one.
#
# ## The record of a whole meta-gradient
#
# `tm.record` prints the records of any function. This is $f''$; then the meta-gradient of chapter 1.

# %%
print(tm.record(tm.grad(tm.grad(f)), np.array(1.3)))


# %%
def L(w):
    return (w - 2.0) ** 2


def meta_loss(w, alpha):
    return L(w - alpha * tm.grad(L)(w))


program = tm.record(tm.grad(meta_loss), np.array(5.0), 0.2)
print(program)

# %% tags=["quiet"]
say(f"The meta-gradient of one number is {len(program.equations)} records long. Each of them is a primitive with a "
    "rule that you could look up, and all of them could be differentiated again.")  # fmt: skip

# %% [markdown]
# ## Now you
#
# Which single change makes `backward` return a derivative that cannot be differentiated again? And what would
# `backward(dz, x)` say then?
#
# <details><summary>The answer</summary>
#
# Give the rules the values of the tensors instead of the tensors. The result is the right number, but it is an array:
# it has no index and no records. So `backward(dz, x)` fails at once. This is the best that can happen: an engine that
# returned 0 there would be wrong in silence.
#
# </details>
