"""What a verdict goes by: each a way to look at answers that are wrong.

It has these parts:

    match        one mistake, with its number or a factor, or two    precision    digits that are lost, and how
    difference   what yours − right is                               adaptation   the inner loop on its own
    locate       the trace, the terms, the slope, the tensor         evidence     the smallest failing case
"""
