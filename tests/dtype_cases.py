"""Cases of `test_dtypes`.

Of one array they are functions of v, a vector of twelve awkward numbers, and m, a tame matrix of 3 × 4 with ties; of
two they are functions of x and y.
"""


class Case:
    """`exact`: NumPy's floating-point result has no rounding of its own; `ties`: ±0 may come out as either;
    `machine`: there is machine code for it; `recorded`: it can be recorded, since it reads no values."""

    def __init__(self, f, exact=False, ties=False, machine=True, recorded=True):
        self.f, self.exact, self.ties, self.machine, self.recorded = f, exact, ties, machine and recorded, recorded


def exact(*functions, **how) -> list[Case]:
    return [Case(f, exact=True, **how) for f in functions]


def rounded(*functions, **how) -> list[Case]:
    return [Case(f, **how) for f in functions]


def of_v(f, **how) -> list[Case]:
    return [Case(lambda v, m: f(v), **how)]
