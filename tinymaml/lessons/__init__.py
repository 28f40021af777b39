"""The lesson: how a meta-gradient is derived, run, seen and verified, as one page or as Python files.

    tinymaml lesson --to lesson.html           one page, built by running the chapters
    tinymaml lesson exercise --to mine.py      a broken step to mend
    tinymaml lesson check mine.py              the oracle marks it

A chapter is a file of percent cells, which opens as a notebook and runs as plain Python. A new chapter is one file, and
one line in the table here.

    page      reads the chapters, runs them, writes the page        svg        drawings
    show      what a chapter calls to show something                markup     Markdown, TeX and Python → HTML
    growth    three tasks with two parameters, for several chapters exercise   the broken step
    commands  tinymaml lesson …
"""

CHAPTERS = (
    "one_number",
    "gradient_of_gradient",
    "two_parameters",
    "sine_waves",
    "the_program",
    "six_mistakes",
    "the_family",
)
