"""The blind set: implementations whose mistakes were thought of, and diagnosed, by someone who never saw the catalogue.

    python -m bench.oracle blind                                # all of them, some minutes
    python -m bench.oracle blind --only torch-leaky --only jax-rms
    python -m bench.oracle blind --json blind.json              # keeps what is done, and goes on from there

The oracle judges each one; its words are compared with the diagnosis written before it was ever asked. The grades:

    accepted      wrong, and called CORRECT (or INCONCLUSIVE)
    named         wrong, and the cause that is given is the right one
    pointed at    wrong; not named, but cause, place or notes have every word of a right explanation
    misled        wrong, and the cause that is asserted is another one
    unexplained   wrong, refused, and no cause is asserted
    passed, false alarm      of a correct one

`TABLE` has every entry (see `entries.Entry`); half of them, drawn at random before the first run, may be used to
improve the diagnosis ("seen"), the others are for figures alone ("held").
"""

from __future__ import annotations

import dataclasses
import hashlib

from . import jax_ones, numpy_ones, torch_ones  # noqa: F401  (they register their entries)
from .entries import ENTRIES, Entry
from .run import main

__all__ = ["JUDGED", "TABLE", "Entry", "main"]


def _in_halves(entries: list[Entry]) -> dict[str, Entry]:
    """Shuffled by a digest of the name, the wrong and the correct ones apart; every second one is seen."""
    halves = {}
    for right in (False, True):
        drawn = sorted((e.name for e in entries if e.right == right), key=lambda n: hashlib.sha256(n.encode()).digest())
        halves |= {name: ("seen", "held")[i % 2] for i, name in enumerate(drawn)}
    return {e.name: dataclasses.replace(e, half=halves[e.name]) for e in entries}


TABLE: dict[str, Entry] = _in_halves(list(ENTRIES.values()))

# name → (grade, reason): where a person read the oracle's words, and disagrees with the automatic grade
JUDGED: dict[str, tuple[str, str]] = {
    "jax-gradients-in-half": (
        "pointed at",
        "the kind is right, lost digits; float16 is not among the causes it offers",
    ),
    "jax-half-and-sum": ("named", "it says: multiplied by T"),
    "jax-labels-of-first-task": ("pointed at", "it says that the order of the tasks matters, and not all count"),
    "jax-labels-from-one": ("pointed at", "it says: exactly the cases with cross_entropy"),
    "jax-negative-and-held": ("named", "it says: multiplied by −1"),
    "jax-squeezed-probabilities": ("pointed at", "the kind is right, lost digits; it guesses float32"),
    "jax-truncated": ("named", "it says which inner steps are detached"),
    "numpy-central-differences": ("misled", "nothing is carried between tasks; the differences are rough near kinks"),
    "numpy-coarse-complex-step": ("pointed at", "the kind is right, lost digits; it guesses float32"),
    "numpy-first-missing-and-sum": ("named", "it says: multiplied by T"),
    "numpy-late-binding": ("pointed at", "it says that the order of the tasks matters, and not all count"),
    "numpy-loss-before": ("named", "it says that the gradient is right and the loss is not"),
    "numpy-rate-forgotten": ("pointed at", "the factor that it gives, 4, is 1/α where α = ¼, and stands at the update"),
    "numpy-richardson": ("misled", "nothing is carried between tasks; the differences are rough near kinks"),
    "numpy-short-and-first-hessian": ("named", "it says both, in other words"),
    "numpy-six-decimals": ("pointed at", "the kind is right, lost digits; rounding is not among the causes it offers"),
    "numpy-two-tasks": ("pointed at", "it says: or not all of them count"),
    "torch-brackets": ("pointed at", "it says that the order of the tasks matters, and not all count"),
    "torch-data-in-place": ("named", "it says: no graph is left, and θ has moved"),
    "torch-first-order-sum": ("named", "it says: multiplied by T"),
    "torch-graph-in-first-step": ("named", "it says which inner steps are detached"),
    "torch-graph-in-last-step": ("named", "it says which inner steps are detached"),
    "torch-grads-of-all-calls": ("named", "it says: gradients add up from one outer step to the next"),
    "torch-log-with-epsilon": ("pointed at", "the kind is right, lost digits; it guesses float32"),
    "torch-norm-epsilon": ("pointed at", "it says: exactly the cases with batch_norm"),
    "torch-norm-with-defaults": ("pointed at", "it says: exactly the cases with batch_norm, where both are"),
    "torch-pairwise-mean": ("pointed at", "it says that the order of the tasks matters, and not all count"),
    "torch-short-and-smooth": ("pointed at", "it says: one step less, but for the cases with cross-entropy"),
    "torch-softmax-twice": ("pointed at", "it says: exactly the cases with cross_entropy"),
    "torch-swapped-sum": ("named", "it says: multiplied by T"),
}
