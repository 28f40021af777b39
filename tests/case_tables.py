"""The subjects whose tables of cases stand in files of their own: `cases_NAME.py`.

SMOOTH, STEPS, PLAIN   cases of `test_ops`: differentiated; piecewise constant; numbers about an array
BRANCHES               and what reads values: differentiated, and refused while a program is recorded
ONE, TWO               cases of `test_dtypes`: NumPy functions of one array, or of two → their cases
"""

import cases_elementwise
import cases_fft
import cases_linalg
import cases_sorting
import cases_special

SUBJECTS = [cases_elementwise, cases_sorting, cases_linalg, cases_fft, cases_special]
