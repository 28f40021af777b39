"""The oracle: is my meta-gradient right, and if not, which mistake is it?

    from tinymaml import oracle

    def mine(case):
        loss, params, ((xs, ys), (xq, yq)) = case.torch()        # or case.jax(), case.numpy()
        ...                                                      # case.inner_lr, case.inner_steps, case.tasks
        return {"meta_grad": grads}                              # optional: "meta_loss", "trace"

    print(oracle.check(mine))                                    # or check(mine, algorithm="anil"), see `family`

Where things are:

    models      a case's model: run by any library, differentiated once by hand
    arithmetic  dual numbers, and what else NumPy lacks for arrays of exact numbers
    semantics   MAML by its formula, with a switch for every mistake
    family      the other algorithms, one file each               data       what is learned from, with a mistake in it
    catalogue   the mistakes by name: cause, formula, fix
    references  the ladder of ways to know what is right          generate   builds vectors/ with it
    cases       problems and their answers, on disk and drawn anew
    tolerance   errors in roundings
    questions   what is asked, how answers are read               checking   a Python function, in this process
    protocol    any program, and a function in a process of its own: worker, what that process does; guard, how it
                ends; apart, what it cannot reach; progress, what is shown meanwhile
    diagnosis   from answers to a verdict
    locate      where an unknown mistake is                       pytest_plugin
    report      the verdict in words                              show       a case laid out
    evidence    the smallest failing case; what cases share       diff       yours beside the right one
    snippet     a case as a program that runs by itself
    spec        the page for other languages                      versions   of vectors, wire and catalogue
    badge       what a repository shows                           commands   tinymaml oracle …
    family/     the other algorithms                              relations  what holds without a reference value
"""

from .cases import CAPABILITIES, Case, Tampered, load
from .catalogue import CATALOGUE, list_bugs
from .checking import check
from .relations import RELATIONS, relations
from .report import VERDICTS, Report
from .versions import VERSIONS

__all__ = [
    "CAPABILITIES", "CATALOGUE", "RELATIONS", "VERDICTS", "VERSIONS", "Case", "Report", "Tampered", "check",
    "list_bugs", "load", "relations",
]  # fmt: skip
