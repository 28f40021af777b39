"""Cases: linear algebra."""

SMOOTH, STEPS, PLAIN = [], [], []
ONE, TWO = {}, {}
