"""The forms that many mistakes have: differentiated and not, in both losses and in one."""

from __future__ import annotations

import functools

from ..mistake import Mistake
from ..switches import DTYPES
from ..updates import MIXED_UP

further = functools.partial(Mistake, classic=False)

DETACHED = {"factors": "detached"}
UPDATES_DETACHED = {"factors": "updates detached"}
PLAIN_RECURSION = {"change_like": "not in the recursion"}  # v ← v − αHₖv, whatever the inner step is


def how(**options) -> dict:
    """`models.Options` that are not in their place."""
    return {"how": options}


def forwards(**options) -> dict:
    """`Options` with a wrong backward rule, in a gradient that is written by hand and differentiated forwards."""
    return how(**options, derived="forwards")


def backwards(**options) -> tuple[dict, ...]:
    """The same, differentiated backwards, as by autograd through a gradient by hand; in the support loss alone, where
    autograd has the query loss's gradient, too."""
    both = how(**options, derived="backwards")
    return both | {"on": "support"}, both


def rounded(*what: str) -> tuple[dict, ...]:
    """Something that is rounded to a shorter type, each in its turn."""
    return tuple({"rounded": f"{w} to {dtype}"} for w in what for dtype in DTYPES)


def rounded_on_the_way(*what: str) -> tuple[dict, ...]:
    """Something that is rounded on the way, each in its turn."""
    return tuple({"shortened": f"{w} to {dtype}"} for w in what for dtype in DTYPES)


def both_ways(*forms: dict) -> tuple[dict, ...]:
    """Each form with the exact derivative, and without create_graph."""
    return forms + tuple(form | DETACHED for form in forms)


def on_each(form: dict) -> tuple[dict, ...]:
    """In both losses, in the support loss alone, in the query loss alone."""
    return (form, form | {"on": "support"}, form | {"on": "query"})


def any_graph(*forms: dict) -> tuple[dict, ...]:
    """Each form, differentiated; with its scale held constant; changed in place, unseen by the graph; detached."""
    ways = ({}, {"change_like": "scale held"}, {"change_like": "in place"}, DETACHED)
    return tuple(form | way for way in ways for form in forms)


def normalising(arrays: str) -> tuple[dict, ...]:
    """Data that are normalised, each set by itself, one of them alone, or both by the support set's statistics."""
    changes = ("centred", "standardised", "standardised, unbiased", "standardised together", "scaled to 0 … 1")
    places = (", in support", ", in query", ", by the support set")
    both = tuple({"data": f"{arrays} {change}"} for change in changes[2:])
    return both + tuple({"data": f"{arrays} {change}{where}"} for change in changes for where in places)


def with_epsilon(arrays: str) -> tuple[dict, ...]:
    """Data that are standardised, with an ε beside the standard deviation."""
    changes = ("standardised", "standardised, root", "standardised, unbiased", "standardised together")
    places = ("", ", in support", ", by the support set")
    return tuple({"data": f"{arrays} {change}{where}", "data_eps": 1e-5} for where in places for change in changes)


PLACES = (1.0, 2.0, 3.0, 4.0, -1.0, -2.0)  # of a tensor among the parameters
BY_COLUMNS = tuple(change for change in MIXED_UP if change.endswith("by columns"))  # orders of entries
BY_NAME = tuple(change for change in MIXED_UP if change.startswith("entries"))
GROUPS = ("biases", "head", "body", "first layer", "no biases", "vectors", "matrices")  # of parameters
