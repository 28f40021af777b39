"""Cases: functions of each element, beside those of `test_ops` and `test_dtypes`."""

SMOOTH, STEPS, PLAIN = [], [], []
ONE, TWO = {}, {}
