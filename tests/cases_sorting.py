"""Cases: sorting, reductions, shapes and building arrays, beside those of `test_ops` and `test_dtypes`."""

SMOOTH, STEPS, PLAIN = [], [], []
ONE, TWO = {}, {}
