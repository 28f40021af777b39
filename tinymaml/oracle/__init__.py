"""The oracle: is my meta-gradient right, and if not, which mistake is it?

    from tinymaml import oracle

    def mine(case):
        loss, params, ((xs, ys), (xq, yq)) = case.torch()        # or case.jax(), case.numpy()
        ...                                                      # case.inner_lr, case.inner_steps, case.tasks
        return {"meta_grad": grads}                              # optional: "meta_loss", "trace"

    print(oracle.check(mine))                                    # or check(mine, algorithm="anil"), see `family`

The parts are:

    cases       problems and their answers, on disk and drawn anew          questions   what is asked, how it is read
    models      a case's model: run by any library, differentiated by hand  arithmetic  numbers of any kind in arrays
    losses      by hand, with those that code has in their place            activations the same, x → (y, dy/dx)
    arrangements   networks whose layers are not the model's
    references  the ladder of ways to know what is right                    tolerance   errors in roundings
    generate    builds vectors/ by it                                       vary        what the core varies, and why
    catalogue   the mistakes by name: cause, formula, fix                   mistakes/   MAML's, with their switches
    family/     the other algorithms, and their mistakes                    judge/      how a candidate is asked, apart
    diagnosis   from answers to a verdict                                   clues/      what it goes by
    pages/      what a person reads: report, case, specification            metamorphic what needs no reference value
    versions    of vectors, wire and catalogue                              commands    tinymaml oracle …
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .cases import CAPABILITIES, Case, Tampered, load
    from .catalogue import CATALOGUE, list_bugs
    from .judge.checking import check
    from .metamorphic import RELATIONS, relations
    from .pages.report import VERDICTS, Report
    from .versions import VERSIONS

__all__ = [
    "CAPABILITIES", "CATALOGUE", "RELATIONS", "VERDICTS", "VERSIONS", "Case", "Report", "Tampered", "check",
    "list_bugs", "load", "relations",
]  # fmt: skip

# pytest loads this package for its plugin, at each start of anybody's tests: what is dear is imported once it is named.
_HOMES = {
    "cases": ("CAPABILITIES", "Case", "Tampered", "load"), "catalogue": ("CATALOGUE", "list_bugs"),
    "judge.checking": ("check",), "metamorphic": ("RELATIONS", "relations"), "pages.report": ("VERDICTS", "Report"),
    "versions": ("VERSIONS",),
}  # fmt: skip


def __getattr__(name: str):
    for home, names in _HOMES.items():
        if name in names:
            globals()[name] = getattr(import_module(f"{__name__}.{home}"), name)
            return globals()[name]
    if not name.startswith("_") and find_spec(f"{__name__}.{name}"):
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
