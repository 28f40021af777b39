"""How an implementation enters the blind set: `@wrong("what a maintainer would say", "word|synonym")`, `@correct`."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class Entry:
    """One implementation.

    Attributes:
        name, function: `function(case)` → {"meta_grad": …}, and for about half of them "meta_loss".
        framework: "torch", "jax" or "numpy".
        right: whether it computes the exact meta-gradient.
        truth: of a wrong one, the diagnosis that was written before any run; of a correct one, its unusual form.
        keywords: for each mistake a regular expression; a right explanation has a match for every one.
        algorithm: whose gradient it is meant to be.
        set: "first", "second", "third", "fourth", "fifth" or "sixth".
    """

    name: str
    function: Callable
    framework: str
    right: bool
    truth: str
    keywords: tuple[str, ...] = ()
    algorithm: str = "maml"
    set: str = "first"


ENTRIES: dict[str, Entry] = {}


def wrong(truth: str, *keywords: str, tells_loss: bool = True, algorithm: str = "maml") -> Callable:
    """Register a wrong implementation; with `tells_loss=False` its answer has no meta-loss."""
    return functools.partial(
        _register, right=False, truth=truth, keywords=keywords, tells_loss=tells_loss, algorithm=algorithm
    )


def correct(form: str, tells_loss: bool = True, algorithm: str = "maml") -> Callable:
    """Register a correct implementation."""
    return functools.partial(_register, right=True, truth=form, keywords=(), tells_loss=tells_loss, algorithm=algorithm)


def _register(function: Callable, right, truth, keywords, tells_loss, algorithm) -> Callable:
    @functools.wraps(function)
    def asked(case):
        answer = function(case)
        return answer if tells_loss else {"meta_grad": answer["meta_grad"]}

    *_, of_set, module = function.__module__.split(".")
    framework = module.removesuffix("_ones")
    name = f"{framework}-{function.__name__.replace('_', '-')}"
    name = name if of_set == "first" else f"{of_set}/{name}"
    if name in ENTRIES:
        raise ValueError(f"two implementations are called {name}, wanted a name for each")
    ENTRIES[name] = Entry(name, asked, framework, right, truth, tuple(keywords), algorithm, of_set)
    return function
