"""Task families: where few-shot tasks come from. One file per family; `sinusoid` is the shortest.

A family is a module with

    Settings          a frozen dataclass; each field is an option of `tinymaml train FAMILY` and is saved with the run.
                      `runs.settings.option` gives a field its help and limits; a plain dataclass will do.
    defaults          {option: value}: its algorithm, network, rates, number of tasks, …, by the flat names of options
                      of any part
    defaults_for      optional, {algorithm: {option: value}}: what replaces these, and the algorithm's own defaults
    make(settings)    → an object with
        sample(rng, tasks, split) → ((xs, ys), (xq, yq))   support and query of `tasks` tasks, stacked on axis 0;
                                                           split is "train", "val" or "test". The same generator
                                                           gives the same bits. x and y are arrays, or nests of them:
                                                           y is {"y": …, "mask": …} where tasks differ in size, see
                                                           `common`
        loss(prediction, y) → (loss, metric)               of one task: the network's outputs (N, …), and ys or yq
        input_shape, outputs                               of one example; of the network: dimensions, or classes
        metric                                             a `Metric`, or a dict with its keys
        dtype                                              optional: of the floating arrays; set before sampling
        every(split) → tasks                               optional, where tasks are few, such as one per user: all of
                                                           a split, stacked as `sample` stacks them. Evaluation takes
                                                           each once, in this order
        baselines() → {label: predict}                     optional: `predict(xs, ys, xq)` → what is predicted for the
                                                           queries of one task without meta-learning, as `loss` takes
                                                           it. It may know the training tasks; of the task at hand it
                                                           knows its arguments. It is measured on the same tasks
        fingerprint() → str                                optional: a digest of the data, which goes into checkpoints:
                                                           a run is not resumed with other data. Without it, the files
                                                           that the options name are looked at
        collect(policy, thetas, tasks, step) → batch       optional: tasks are acted in. `sample` then returns what
                                                           tells tasks apart, any nest with the tasks on axis 0, in
                                                           the place of sets, and `collect` what the policies with the
                                                           parameters `thetas`, one per task, do in them: see `rl`.
                                                           What is random in it depends on `tasks` and `step` alone,
                                                           the number of the inner step. There is no `loss`; `choices`
                                                           is the number of actions, where these are discrete
    published(settings) → [(label, {step: value})]         optional: the metric that papers report for these settings,
                                                           after so many steps of adaptation
    pictures(learned) → iterator of (name, Figure)         optional: what `tinymaml plot` draws beside the curves that
                                                           every run has; learned is a `runs.loop.Learned`
    read(path, settings) → x                               optional: one example from a file, such as an image, for
                                                           `tinymaml adapt`; x is an array of `input_shape`, or a nest

If what `make` returns reads its data only when the first task is drawn, a trained network can be used without them.

A module of your own that keeps this protocol is trained like a built-in family: `tinymaml train my_package.my_tasks`.
To add a family here, write its file and add it to FAMILIES. Read next: `common`.
"""

from types import ModuleType

from . import (
    control,
    digits,
    growth,
    images,
    intents,
    lines,
    navigation,
    omniglot,
    ratings,
    robot,
    separators,
    sinusoid,
    speech,
)
from .common import Metric, as_metric

__all__ = ["FAMILIES", "Metric", "as_metric"]

FAMILIES: dict[str, ModuleType] = {
    "sinusoid": sinusoid,
    "lines": lines,
    "separators": separators,
    "robot": robot,
    "growth": growth,
    "omniglot": omniglot,
    "digits": digits,
    "images": images,
    "intents": intents,
    "speech": speech,
    "ratings": ratings,
    "navigation": navigation,
    "control": control,
}
