"""The blind set: implementations whose mistakes were thought of, and diagnosed, by someone who never saw the catalogue.

    python -m bench.oracle blind                                # all of them, for hours
    python -m bench.oracle blind --only torch-leaky --only jax-rms
    python -m bench.oracle blind --json blind.json              # keeps what is done, and goes on from there

The oracle judges each one; its words are compared with the diagnosis written before it was ever asked. The grades:

    accepted      wrong, and called CORRECT (or INCONCLUSIVE)
    named         wrong, and the cause that is given is the right one
    pointed at    wrong; not named, but cause, place or notes have every word of a right explanation
    misled        wrong, and the cause that is asserted is another one
    unexplained   wrong, refused, and no cause is asserted
    passed, false alarm      of a correct one

`TABLE` has every entry (see `entries.Entry`). A set is closed until its figures have been taken for a version of the
catalogue; then it is opened, so that the oracle learns from it, and another one is needed. All six are open.
"""

from __future__ import annotations

from . import fifth, first, fourth, second, sixth, third  # noqa: F401  (they register their entries)
from .entries import ENTRIES, Entry
from .run import main

__all__ = ["JUDGED", "TABLE", "Entry", "main"]

TABLE: dict[str, Entry] = ENTRIES

# name → (grade, reason): where a person read the oracle's words, and disagrees with a grade below "named"
JUDGED: dict[str, tuple[str, str]] = {
    "jax-clipped-by-value": ("named", "it says: each element is clamped, here to 1"),
    "jax-half-and-sum": ("named", "it says: multiplied by T"),
    "jax-labels-from-one": ("pointed at", "it says: exactly the cases with cross_entropy"),
    "jax-negative-and-held": ("named", "it says: multiplied by −1"),
    "jax-query-of-next-task": ("pointed at", "it says that the next task's query explains 14 of 17 cases"),
    "jax-query-with-support": ("named", "it says that the support set is in the outer loss"),
    "jax-ravelled-in-other-order": ("named", "it says: the order of the sorted names"),
    "numpy-late-binding": ("pointed at", "it says that the order of the tasks matters, and not all count"),
    "numpy-loss-before": ("named", "it says that the gradient is right and the loss is not"),
    "numpy-new-parameters": ("named", "it says: the new θ after an outer step"),
    "numpy-short-and-first-hessian": ("named", "it says both, in other words"),
    "numpy-three-steps-two-tasks": ("pointed at", "it says that tasks are left out, and where that is not all"),
    "torch-brackets": ("pointed at", "it says that the order of the tasks matters, and not all count"),
    "torch-data-in-place": ("named", "it says: no graph is left, and θ has moved"),
    "torch-first-order-sum": ("named", "it says: multiplied by T"),
    "torch-grads-of-all-calls": ("named", "it says: gradients add up from one outer step to the next"),
    "torch-norm-with-defaults": ("pointed at", "it says: exactly the cases with batch_norm, where both are"),
    "torch-pairwise-mean": ("pointed at", "it says: exactly where the number of tasks is above 2"),
    "torch-seeded-dropout": ("unexplained", "that the order of the tasks matters is true, and no explanation"),
    "torch-short-and-smooth": ("misled", "it names a step less, but also says that something is kept between calls"),
    "torch-swapped-sum": ("named", "it says: multiplied by T"),
    "torch-tied-first-use": ("unexplained", "it says nothing of the weight that is used twice"),
    "second/family-back-by-one-length": ("pointed at", "it says: the 2 of 2ε; not that θ goes back too little"),
    "second/family-everything-adapts": ("named", "it says: the network's parameters adapt beside the context"),
    "second/family-head-weight-alone": ("named", "it says: the head's bias does not adapt; multiplied by T"),
    "second/jax-example-by-example": ("pointed at", "it says: exactly the cases with batch_norm"),
    "second/numpy-stopped-before-the-update": ("pointed at", "it says: the term g_q itself is missing"),
    "second/torch-loss-of-the-slow-weights": ("named", "it says: every inner step uses the gradient at θ"),
    "second/torch-plus-in-the-adjoint": ("named", "it says: the Hessian's sign; multiplied by T"),
    "second/torch-weights-changed-through-data": ("named", "it says: θ was changed in place, and no graph is left"),
    "third/family-imaml-decay-and-twice": ("named", "it says both: a weight decay, and a system damped once more"),
    "third/family-metasgd-rates-assigned": ("named", "it says: the gradient counts the first of the steps only"),
    "third/family-proximal-slope-at-the-end": ("named", "it says: that of the support loss at φ_K"),
    "third/family-sharp-each-tensor-and-stays": ("named", "it says both: by its own norm, and added for good"),
    "third/torch-module-grads": ("pointed at", "it says what is left in .grad; not that the update is of first order"),
    "fourth/family-objective-with-pull-everywhere": ("named", "it says both: damped once more, and g_q and the pull"),
    "fourth/family-small-batch-and-summed-rates": ("named", "it says both: a short chunk's examples count more; a sum"),
    "fourth/jax-residual-is-the-new-one": ("named", "it says: at the parameters after its update"),
    "fourth/jax-traced-for-the-first-task": ("named", "it says: one inner loop for all, on the first support set"),
    "fourth/torch-state-dict-is-a-view": ("named", "it says: θ was changed in place, has moved, and no graph is left"),
    "fifth/family-imaml-penalised-hessian": ("named", "it says: the matrix is damped once more, by ξ = 1"),
    "fifth/jax-pmean-in-the-inner-loop": ("named", "it says: all tasks adapt to the mean of the support losses"),
    "fifth/numpy-one-sided-difference": ("named", "it says that a derivative is a difference; not with which step"),
    "fifth/torch-difference-over-one-epsilon": ("named", "it says: divided by another number than their width"),
    "fifth/torch-port-of-a-caffe-solver": ("named", "it says both: matrices decay, vectors have another rate"),
    "sixth/numpy-power-of-the-first": ("named", "it says: every step's Hessian is taken at θ, not at θₖ"),
    "sixth/torch-vmapped-query": ("named", "it says: adapted parameters are judged on all tasks' query sets"),
}
