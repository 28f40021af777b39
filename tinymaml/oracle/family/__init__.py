"""The family: algorithms other than plain MAML that the oracle certifies, one file per algorithm.

An algorithm is a module with

    FORMULA             what the meta-gradient is, in a line
    SETTINGS            {name in `case.settings`: what it means}
    SWITCHES            {name: values, the right one first}: the lines that mistakes change; a float is any number
    query_loss(at, meta, support, query) → (L_q, θ_K)            G is its derivative with respect to all of meta, or
    gradient(at, meta, support, query) → (L_q, θ_K, G)           G is a formula
    CASES               {id: arguments of `cases.draw`, and "settings"}, what is asked
    MISTAKES            what goes wrong in practice, each a `Mistake` whose forms set the switches
    SHARED              ids of the catalogue's mistakes (fomaml, …) that can be made here too

and optionally

    posed(case, numbers)             → the case with what is learned beside θ, drawn by `numbers(shape, spread, unit)`
    NAMED_HERE                       ids of the catalogue's mistakes that have a name of their own among MISTAKES
    NOT_HERE                         ids of the mistakes of `common` that cannot be made here
    finish(s, case, G)               → what the code at hand makes of the mean gradient
    AFTERWARDS                       the switches that `finish` is about, or "upper level"
    upper_point(s, case, G)          → θ at which G is taken once more, under the switch "upper level"
    closed_form(case)                → (𝓛, G) where there is one (else None), and
    by_algorithms(case)              → (𝓛, G) by `tinymaml.algorithms`, both to confirm the answer

Its docstring says what a candidate computes. `procedure` has what all share, `answers` what comes of it on a case.
`meta` is every array that is learned: the case's parameters, by name.
"""

from __future__ import annotations

from types import ModuleType

from ..mistakes import OF_MAML
from ..mistakes.concerns import concerns
from ..mistakes.mistake import Mistake
from . import (
    anil,
    boil,
    cavia,
    common,
    hessian_free,
    imaml,
    inner_adam,
    inner_momentum,
    mamlpp,
    meta_sgd,
    proximal,
    reptile,
    rl,
    sharp,
)
from .procedure import BENDING, BENT, SWITCHES

# By the names of the command line.
ALGORITHMS: dict[str, ModuleType] = {
    "meta-sgd": meta_sgd,
    "anil": anil,
    "boil": boil,
    "cavia": cavia,
    "mamlpp": mamlpp,
    "inner-momentum": inner_momentum,
    "inner-adam": inner_adam,
    "imaml": imaml,
    "reptile": reptile,
    "hessian-free": hessian_free,
    "sharp": sharp,
    "proximal": proximal,
    "rl": rl,
}

MISTAKES: dict[str, Mistake] = {m.id: m for module in (*ALGORITHMS.values(), common) for m in module.MISTAKES}

# The catalogue's mistakes that any algorithm can have, by the switches of `procedure`.
EVERYWHERE: dict[str, tuple[dict, ...]] = {
    "fomaml": ({"factors": "detached"},),
    "zero_gradient": ({"factors": "parameters detached"},),
    "first_step_detached": ({"factors": "first detached"},),
    "last_step_detached": ({"factors": "last detached"},),
    "query_before_adaptation": ({"query": "before adaptation"},),
    "multi_step_loss": ({"query": "every step"},),
    "one_step_more": ({"steps": 1},),
    "one_step_less": ({"steps": -1},),
    "stale_gradient": ({"inner": "stale"}, {"inner": "stale", "factors": "detached"}),
    "restarted_steps": ({"inner": "restarted"},),
    "inner_ascent": ({"inner": "ascent"}, {"inner": "ascent", "factors": "detached"}),
    "alpha_times_n": ({"inner": "summed over examples"},),
    "task_leak": ({"start": "leaked"}, {"start": "leaked, detached"}),
    "query_is_support": ({"data": "query is support"}, {"data": "query is support", "factors": "detached"}),
    "support_is_query": ({"data": "support is query"}, {"data": "support is query", "factors": "detached"}),
    "swapped_support_query": ({"data": "swapped"}, {"data": "swapped", "factors": "detached"}),
    "sum_over_tasks": ({"outer": "sum"},),
    "last_task_only": ({"outer": "last"},),
    "first_task_only": ({"outer": "first"},),
    "gradients_accumulated": ({"result": "accumulated"}, {"result": "accumulated", "factors": "detached"}),
    "doubled_gradient": ({"result": "doubled"},),
    "negated_gradient": ({"result": "negative"},),
}

# Switches, and values of "factors", that came after the classic mistakes of each case were listed, with `common`'s in
# the place of MAML's.
LATER = {"adapts", "hessian_times"}
LATER_FACTORS = {"middle detached", *BENT}
# Options of a backward pass by hand, which is not the derivative of the loss that is differentiated here.
OF_RULES = {"derived", "layer_decay"}
# Switches of the derivative through the inner loop, and of the loss that is differentiated.
OF_QUERY_LOSS = {"through_last", "through_first", "through_from", "cut_tensor", "through_tensor", "hessian_times",
                 "second_order", "query_decay", "query_before_weight", "support_weight", "support_before_weight",
                 "iterates", "iterate_decay", "one tensor after the other, with its graph", "with graph over T",
                 "outer_proximal", "support_way_weight", "judged_share", "query_start_of", "query_start_tensor",
                 "one step early", "first detached", "last detached", "middle detached", "odd detached",
                 "even detached", "without identity", "back_times", "cut_of", "leaves_of", *BENDING, *BENT}  # fmt: skip


def forms(case) -> dict[str, dict]:
    """Name → form, of every mistake that one could make on a case of the family; the second form of "x" is "x/1"."""
    module = ALGORITHMS[case.algorithm]
    here = lambda form: can_be_made(form, module) and concerns(form, case)  # noqa: E731
    possible = {m.id: m.forms for m in module.MISTAKES} | {id: EVERYWHERE[id] for id in module.SHARED}
    out = {f"{id}/{k}" if k else id: form for id, each in possible.items() for k, form in enumerate(each)}
    possible |= dict.fromkeys(getattr(module, "NAMED_HERE", ()), ())
    for m in (*OF_MAML.values(), *common.possible(module)):
        for k, form in enumerate(m.forms):
            if m.classic and (LATER & form.keys() or form.get("factors") in LATER_FACTORS):
                continue
            if m.id not in possible and here(form):
                out[f"{m.id}/{k}" if k else m.id] = form
    return out


def can_be_made(form: dict, module: ModuleType) -> bool:
    """Whether a mistake of MAML's is one here: it is about the model or the data, or about a switch that all share."""
    return all(
        name == "rounded" or name == "how" and not OF_RULES & value.keys()
        or name in SWITCHES and name not in module.SWITCHES
        and (name not in OF_QUERY_LOSS and value not in OF_QUERY_LOSS or hasattr(module, "query_loss"))
        and (value in SWITCHES[name] or isinstance(SWITCHES[name][0], float))
        for name, value in form.items()
    )  # fmt: skip
