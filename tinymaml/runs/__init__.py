"""Training, from a configuration to a folder that can be resumed, evaluated, drawn and used.

    settings     options, the parts of a run, `Config`         outer        rates and optimisers of the outer loop
    learner      family, network and algorithm, joined         loop         train, resume, restore
    evaluate     how well a run adapts to new tasks            folder       a run's folder: checkpoints, log
    compare      several runs on the same tasks                adaptation   as far as it goes
    trial        one task through all parts, before any work   model        `tm.load`: adapt, predict, save
    predictions  `tinymaml adapt`: from files to predictions   sizes        what this machine can hold

The parts of a run are found by their names in the tables: none of these files has a branch for a family, a network or
an algorithm.
"""

from .folder import Run  # noqa: F401
