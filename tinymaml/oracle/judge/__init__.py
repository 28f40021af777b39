"""How a candidate is asked, and how the judge stays apart from it.

It has these parts:

    checking        a Python function in this process             worker     imports a candidate, and answers for it
    protocol        JSON Lines: any program, in any language      guard      ends a program and all that it has started
    apart           no module of the current folder is imported   progress   what is shown while it runs
    pytest_plugin   one test per case
"""
