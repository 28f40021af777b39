"""Chapter 5 of the lesson: the meta-gradient as a program, and what a compiler makes of it."""

# %% [markdown]
# # The program
#
# Chapter 2 showed that an exact meta-gradient is a list of records. For a network it is a longer list, but of the
# same kind. This chapter prints one, marks what FOMAML leaves out, and compiles it.

# %%
import re
import time

import numpy as np

import tinymaml as tm
from tinymaml.extras import require
from tinymaml.lessons.show import listing, program, say, show, table

require("numba", "fast")  # which makes the machine code


def loss(params, x, y):
    hidden = np.tanh(x @ params["w"] + params["b"])
    return tm.nn.mse(hidden @ params["v"], y)


rng = np.random.default_rng(0)
params = {
    "w": rng.normal(size=(1, 8)),
    "b": rng.normal(size=8),
    "v": rng.normal(size=(8, 1)) / 8,
}
xs, xq = rng.uniform(-5, 5, (2, 25, 10, 1))  # 25 tasks; 10 support and 10 query points each
tasks = ((xs, np.sin(xs)), (xq, np.sin(xq)))

exact = tm.meta_value_and_grad(loss, inner_lr=0.05, inner_steps=1)
written = tm.record(exact, params, tasks)

# %% [markdown]
# `tm.record` writes down what happens to one task. Read it from the top: the inner forward pass, the inner gradient,
# the step, the query loss, and then the way back. A line is *name, type, primitive, inputs*. The lines in colour,
# with a bar, are the second order; unfold the lines before them to see the rest.

# %% tags=["quiet"]
show(program(written))
dropped = [e for e in written.equations if e.output not in written.first_order]
shared = [e for e in written.equations if e.output in written.first_order]
assert [(e.primitive.name, e.inputs[1]) for e in dropped[:2]] == [("multiply", -1), ("multiply", 0.05)]
say(f"Of {len(written.equations)} equations, FOMAML drops {len(dropped)}. In them are "
    f"{sum(e.primitive.name == 'matmul' for e in dropped)} matrix products, beside the "
    f"{sum(e.primitive.name == 'matmul' for e in shared)} that both need: this is what it costs to be exact. And you "
    "can see where the second order *begins*: at a multiplication by −1 and one by $\\alpha$. It is the factor "
    "$-\\alpha$ of $-\\alpha H g_q$, on its way back through the step.")  # fmt: skip

# %% [markdown]
# ## What the compiler makes of it
#
# A list of records is data, so it can be changed before it is run. `tm.compile` removes what is computed twice, joins
# neighbouring operations into loops, finds a place in memory for every value, and compiles the loops to machine code.
# The call stays the same.

# %%
fast = tm.compile(exact)
value, gradient = fast(params, tasks)
(runner,) = fast.runners.values()
simplified = runner.task.parts["query"].program
loops = re.findall(r"@loop.*?(?=\n\n)", runner.source, re.DOTALL)
longest = max(loops, key=len)

# %% tags=["quiet"]
assert "v2 = f8(1) - v1" in longest  # of which the text below speaks
say(f"{len(written.equations)} equations became {len(simplified.equations)}. The equations between the matrix products "
    f"became {len(loops)} loops. This is the longest, as the compiler wrote it; the function is of one element, and "
    "`loop` makes it run over all:")  # fmt: skip
show(listing(longest, title="generated source"))

# %% [markdown]
# You may recognise `f8(1) - v1`, where `v1` is a square: it is the slope of $\tanh$, which the second order needs
# again.
#
# ## The same numbers, in less time
#
# A compiler is believed like a gradient: when something that does not share its code says the same. `tm.compile`
# compares its first result with the function's own; here it is once more, with the time that each takes.


# %%
def seconds(f, repeats):
    """The least of several measurements: what disturbs one only makes it longer."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        f(params, tasks)
        times.append(time.perf_counter() - start)
    return min(times)


slow, quick = seconds(exact, 10), seconds(fast, 200)
reference = exact(params, tasks)[1]
apart = max(np.abs(gradient[name] - reference[name]).max() for name in params)

# %% tags=["quiet"]
show(table(["the exact meta-gradient of 25 tasks", "milliseconds"],
           [("as it is", f"{1e3 * slow:.3f}"), ("compiled", f"{1e3 * quick:.3f}")]))  # fmt: skip
say(f"The largest difference between the two gradients is {apart:.0e}; the compiled one is {slow / quick:.0f} times as "
    "fast. Both were measured when the page was built, on the machine that built it.")  # fmt: skip
