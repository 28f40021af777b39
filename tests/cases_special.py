"""Cases: scipy.special. Its ufuncs are no functions of NumPy; `test_special` asks for a case of each."""

import importlib.util

import numpy as np
from cases import COLUMN, EP, FP, ROW, E, frozen, primitive

SMOOTH, STEPS, PLAIN = [], [], []
ONE, TWO = {}, {}

if importlib.util.find_spec("scipy"):
    import scipy.special as special

    UNIT = frozen([0.15, 0.6])  # of 0 … 1
    HIGH, WIDE = frozen(EP + 1.5), frozen(np.abs(ROW) + 0.4)
    ORDER = frozen(np.array(2, np.int8))  # beside which float32 stays float32

    def of(name, *args, analytic=False, double=False):
        return primitive(name, *args, reference=getattr(special, name), analytic=analytic, double=double)

    SMOOTH += [
        *(of(name, HIGH) for name in ("gammaln", "loggamma", "gamma", "rgamma", "psi")),
        *(of(name, E, analytic=True) for name in ("erf", "erfc", "erfcx", "dawsn", "ndtr", "log_ndtr")),
        of("beta", EP, FP), of("betaln", np.abs(COLUMN), WIDE), of("poch", EP, FP),
        primitive("polygamma", HIGH, n=1, analytic=False,
                  reference=lambda x, n: special.polygamma(n, x).astype(x.dtype)),
        of("gammainc", ORDER, EP, double=True), of("gammaincc", ORDER, EP, double=True),
        of("betainc", ORDER, ORDER, UNIT),
        of("betaincc", ORDER, ORDER, UNIT), *(of(name, UNIT) for name in ("erfinv", "erfcinv", "ndtri", "logit")),
        of("ndtri_exp", frozen(-EP)), of("expit", E), of("entr", EP), of("xlogy", EP, FP, analytic=True),
        of("xlog1py", COLUMN, WIDE, analytic=True), of("rel_entr", np.abs(COLUMN), WIDE), of("kl_div", EP, FP),
        *(of(name, E) for name in ("j0", "j1", "i0", "i1", "i0e", "i1e", "cosm1")),
        *(of(name, EP) for name in ("y0", "y1", "k0", "k1", "k0e", "k1e", "expi", "exp1")),
        *(of(name, ORDER, EP) for name in ("jv", "yv", "iv", "kv", "ive", "kve")),
        primitive("exprel", E, n=0, reference=lambda x, n: special.exprel(x), analytic=False),
    ]  # fmt: skip
    STEPS += [primitive("gammasgn", E, reference=special.gammasgn)]
