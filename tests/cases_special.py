"""Cases: scipy.special."""

SMOOTH, STEPS, PLAIN = [], [], []
ONE, TWO = {}, {}
