"""The mistakes of MAML, and the formula that makes them.

    mistake      what an entry holds                      semantics    MAML by its formula, with switches
    classic      mistakes that every case must see        switches     what each switch can be
    further/     all others, by what goes wrong           data         what is learned from, with a mistake in it
    concerns     whether a form is about a case           calculus     a gradient, and products with its Hessian
                                                          updates      the inner step, forwards and backwards
                                                          outcome      what becomes of a meta-gradient

`catalogue` puts them beside those of the family.
"""

from .classic import CLASSIC
from .further import FURTHER
from .mistake import Mistake

OF_MAML: dict[str, Mistake] = {m.id: m for m in CLASSIC + FURTHER}
