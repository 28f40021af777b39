"""Texts for a person: the report and what it shows, a case laid out, and the specification.

It has these parts:

    report     a verdict in words, and as JSON        snippet    a case as a program that runs
    show       a case, step by step                   diff       an answer beside the right one
    spec       the format for other languages         badge      a verdict for a repository's front page
"""
