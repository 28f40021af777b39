"""An exercise: this meta-gradient has two mistakes, in one line each. Mend them, and let the oracle mark it:

    tinymaml lesson check mine.py

A case gives the loss, θ, and the support and query sets of its tasks. Wanted is the gradient, with respect to θ, of the
mean over tasks of the query loss after `case.inner_steps` steps with the rate `case.inner_lr`.
"""

import tinymaml as tm


def maml(case):
    loss, params, ((xs, ys), (xq, yq)) = case.numpy()

    def mean_query_loss(theta):
        total = 0.0
        for t in range(case.tasks):
            fast = theta
            for _ in range(case.inner_steps):
                grads = tm.grad(loss)(theta, xs[t], ys[t])
                grads = tm.tree_map(tm.stop_gradient, grads)
                fast = tm.tree_map(lambda p, g: p - case.inner_lr * g, fast, grads)
            total = total + loss(fast, xq[t], yq[t]) / case.tasks
        return total

    value, gradient = tm.value_and_grad(mean_query_loss)(params)
    return {"meta_grad": gradient, "meta_loss": value}
