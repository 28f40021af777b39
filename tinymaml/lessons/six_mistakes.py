"""Chapter 6 of the lesson: six classic mistakes, what each computes, and how an oracle names it."""

# %% [markdown]
# # Six classic mistakes
#
# Here is MAML for one task, right in every line. `tm.grad` of it is the exact meta-gradient.

# %%
import inspect

import numpy as np

import tinymaml as tm
from tinymaml import oracle
from tinymaml.lessons import exercise
from tinymaml.lessons.growth import TASKS
from tinymaml.lessons.growth import loss as curve_loss
from tinymaml.lessons.show import listing, say, show, table
from tinymaml.oracle import CATALOGUE


def meta_loss(loss, theta, support, query, alpha, K):
    fast = theta
    for k in range(K):
        grads = tm.grad(loss)(fast, *support)
        fast = tm.tree_map(lambda p, g: p - alpha * g, fast, grads)
    return loss(fast, *query)


# %% [markdown]
# Each of the following mistakes changes **one line** of it. None raises an error. Before you read on, say for each
# what is computed instead.

# %% tags=["folded"]
INNER = "grads = tm.grad(loss)(fast, *support)"
UPDATE = "fast = tm.tree_map(lambda p, g: p - alpha * g, fast, grads)"
JUDGE = "return loss(fast, *query)"

MISTAKES = {  # the line as it is, and as it stands in code that others have copied
    "fomaml": (INNER, INNER.replace("= ", "= tm.tree_map(tm.stop_gradient, ") + ")"),
    "stale_gradient": (INNER, INNER.replace("fast", "theta")),
    "restarted_steps": (UPDATE, UPDATE.replace("fast, grads", "theta, grads")),
    "one_step_more": ("for k in range(K):", "for k in range(K + 1):"),
    "query_before_adaptation": (JUDGE, JUDGE.replace("fast", "theta")),
    "query_is_support": (JUDGE, JUDGE.replace("query", "support")),
}


def with_mistake(right, wrong):
    """meta_loss, with one line changed."""
    source = inspect.getsource(meta_loss)
    assert source.count(right) == 1
    space = {"tm": tm}
    exec(source.replace(right, wrong), space)
    return space["meta_loss"]


variants = {"right": meta_loss} | {name: with_mistake(*lines) for name, lines in MISTAKES.items()}
show(table(["", "right", "wrong"], [
    (str(i + 1), f"`{right}`", f"`{wrong}`") for i, (right, wrong) in enumerate(MISTAKES.values())
]))  # fmt: skip

# %% [markdown]
# ## How far each still trains
#
# We train on the three curves of chapter 3 with each variant, and then adapt and judge with the right program. The
# oracle's catalogue has a name for each mistake, which we use from here on.


# %% tags=["folded"]
def trained(variant, alpha=0.4, K=2, beta=0.5, iterations=150):
    def of_task(theta, support, query):
        return tm.value_and_grad(lambda p: variant(curve_loss, p, support, query, alpha, K))(theta)

    def right(theta, support, query):
        return meta_loss(curve_loss, theta, support, query, alpha, K), theta

    step, judge = tm.mean_over_tasks(of_task), tm.mean_over_tasks(right)
    theta = np.array([1.0, 0.0])
    before = judge(theta, TASKS)[0]
    for _ in range(iterations):
        theta = theta - beta * step(theta, TASKS)[1]
    return float(before), float(judge(theta, TASKS)[0])


after = {name: trained(variant) for name, variant in variants.items()}

# %% tags=["quiet"]
rows = [(f"`{name}`" if name in MISTAKES else "right", f"{end:.4f}", f"{end / after['right'][1]:.2f}")
        for name, (_, end) in after.items()]  # fmt: skip
show(table(["variant", "loss after training", "times the right one"], rows))
better = sum(end < begin for name, (begin, end) in after.items() if name in MISTAKES)
near = [name for name, (_, end) in after.items() if name in MISTAKES and end < 2 * after["right"][1]]
say(f"The loss before training was {after['right'][0]:.4f}. Of the six wrong programs, {better} improve on it, and "
    f"{len(near)} come within twice the right loss: " + ", ".join(f"`{name}`" for name in near) + ". **A falling loss "
    "does not show that a gradient is right.**")  # fmt: skip

# %% [markdown]
# ## What the oracle says
#
# `tinymaml oracle check` asks a program for meta-gradients of small problems whose exact values it knows, and
# compares wrong answers with what each mistake of its catalogue would give. It asks a function of a case:


# %%
def candidate(variant):
    def maml(case):
        loss, params, (support, query) = case.numpy()

        def mean_loss(theta):
            total = 0.0
            for s, q in zip(zip(*support), zip(*query)):
                total = total + variant(loss, theta, s, q, case.inner_lr, case.inner_steps)
            return total / case.tasks

        value, gradient = tm.value_and_grad(mean_loss)(params)
        return {"meta_grad": gradient, "meta_loss": value}

    return maml


reports = {"right": oracle.check(candidate(meta_loss), seed=0)}
few = ["tanh", "quartic", "long"]  # for a mistake, three cases are enough
for name in MISTAKES:
    reports[name] = oracle.check(candidate(variants[name]), cases=few, seed=0)

# %% tags=["quiet"]
rows = [(f"`{name}`" if name in MISTAKES else "right", f"{r.verdict} {r.bug or ''}".strip(),
         CATALOGUE[r.bug].computes if r.bug else "", CATALOGUE[r.bug].seen if r.bug else "")
        for name, r in reports.items()]  # fmt: skip
show(table(["variant", "verdict", "what it computes", "seen in"], rows))
named = sum(reports[name].bug == name for name in MISTAKES)
say(f"The oracle names {named} of the {len(MISTAKES)} mistakes; its catalogue holds {len(CATALOGUE)}. This is what one "
    "reads of the first:")  # fmt: skip
print(reports["fomaml"].in_short())

# %% [markdown]
# ## Now you
#
# This program has **two** mistakes. Write it to a file with `tinymaml lesson exercise --to mine.py`, mend it, and let
# the oracle mark it with `tinymaml lesson check mine.py`. You may check as often as you like; the verdict changes
# when you have found one of the two.

# %% tags=["quiet"]
show(listing(exercise.maml, title="the exercise"))

# %% [markdown]
# The oracle marks code in PyTorch, JAX or any other language in the same way: `tinymaml oracle check --help`.
