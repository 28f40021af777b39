"""Cases: Fourier transforms, and complex numbers."""

SMOOTH, STEPS, PLAIN = [], [], []
ONE, TWO = {}, {}
