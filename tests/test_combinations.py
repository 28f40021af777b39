"""Every algorithm with every family and network that it fits: in machine code, resumed bit for bit, evaluated."""

import itertools
import signal
from contextlib import nullcontext
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from small_data import ACTED_IN

for library in ("safetensors", "filelock", "tqdm", "threadpoolctl", "numba"):
    pytest.importorskip(library)

from test_schedule import plain_python  # noqa: E402

from tinymaml.algorithms import ALGORITHMS  # noqa: E402
from tinymaml.families import FAMILIES, omniglot  # noqa: E402
from tinymaml.networks import NETWORKS  # noqa: E402
from tinymaml.networks.network import STATISTICS  # noqa: E402
from tinymaml.programs.runners import Machine  # noqa: E402
from tinymaml.runs import Run, acting, loop  # noqa: E402
from tinymaml.runs.evaluate import evaluate, table  # noqa: E402
from tinymaml.runs.learner import Learner  # noqa: E402
from tinymaml.runs.settings import Config  # noqa: E402

pytestmark = pytest.mark.usefixtures("quick_code")

OUTER = dict(tasks=2, iterations=2, save_every=1, validate_every=2, validation_tasks=2)
SMALL = {
    "mlp": dict(hidden=(3,)), "conv": dict(filters=2, blocks=1), "linear": {}, "embedding": dict(embed=2),
    "reptile": dict(inner_steps=2), "mamlpp": dict(inner_steps=2), "imaml": dict(inner_steps=1, solver_steps=2),
    "proximal": dict(inner_steps=2), "policy": dict(hidden=(4,)), "trpo": dict(solver_steps=2, searches=3),
    **dict.fromkeys(("anil", "boil", "cavia", "hessian-free", "meta-sgd", "protomaml"), dict(inner_steps=1)),
}  # fmt: skip
# Pairs of a family, a network or an algorithm that cannot serve each other, and what the error says.
UNFIT = {("sinusoid", "conv"): "conv wants images"}
UNFIT |= {(family, "embedding"): "embedding wants words" for family in ("sinusoid", "omniglot")}
CLASSLESS = FAMILIES.keys() & {"sinusoid", "lines", "separators", "robot", "growth", "ratings"}
UNFIT |= {(family, "protomaml"): "protomaml wants examples of several classes" for family in sorted(CLASSLESS)}
UNFIT |= {("linear", "protomaml"): "the body has no parameters"}
ACT = {name for name, algorithm in ALGORITHMS.items() if getattr(algorithm, "acts", False)}
UNFIT |= {(family, "policy"): "policy wants tasks that are acted in" for family in ("sinusoid", "omniglot")}
UNFIT |= {(family, name): f"{name} wants tasks that are acted in; {family} is not of this kind"
          for family in sorted(FAMILIES.keys() - ACTED_IN) for name in sorted(ACT)}  # fmt: skip
UNFIT |= {(family, name): f"{family} has tasks that are acted in, and wants maml-rl; {name} is not of this kind"
          for family in sorted(ACTED_IN) for name in ALGORITHMS if name not in ACT}  # fmt: skip
UNFIT |= {(family, "mlp"): f"{family} is acted in, and wants the network policy, not mlp"
          for family in sorted(ACTED_IN)}  # fmt: skip
MORE = [  # options that lead another way through the loop
    ("sinusoid", "mlp", "reptile", dict(carry_state=True, inner_optimizer="adam", inner_batch=2)),
    ("sinusoid", "mlp", "perturbed", dict(parameter_noise=0.1, gradient_noise=0.1, label_noise=0.1)),
    ("images", "mlp", "perturbed", dict(label_noise=0.5)),
    ("sinusoid", "mlp", "maml", dict(robust=0.5)),
    ("sinusoid", "mlp", "reptile", dict(robust=0.5, carry_state=True, inner_optimizer="momentum")),
    ("sinusoid", "mlp", "maml", dict(sharpness=0.05, optimizer="momentum", schedule="cosine")),
    ("sinusoid", "mlp", "perturbed", dict(gradient_noise=0.1, robust=1.0, sharpness=0.01)),
    *(("navigation", "policy", "maml-rl", changes) for changes in (
        dict(outer="trpo"), dict(outer="promp", robust=0.5, inner_optimizer="momentum"),
        dict(surrogate="e-maml", later=0.5, inner_steps=2), dict(world="maze", surrogate="dice", sharpness=0.05))),
    *(("images", network, algorithm, dict(statistics=statistics))
      for network, algorithm in [("mlp", "maml"), ("mlp", "anil"), ("mlp", "mamlpp"), ("mlp", "reptile"),
                                 ("mlp", "cavia"), ("conv", "maml")]
      for statistics in STATISTICS if statistics != "transductive"),
]  # fmt: skip
OWN = {family: getattr(member, "defaults", {}).get("network", "mlp") for family, member in FAMILIES.items()}
# Every family with its own network, and every network with the two families that were there first.
PAIRS = dict.fromkeys([*OWN.items(), *itertools.product(("sinusoid", "omniglot"), NETWORKS)])
EVERY = [(*pair, algorithm) for pair, algorithm in itertools.product(PAIRS, ALGORITHMS)]
COMBINATIONS = [(*named, {}) for named in EVERY if not any({*pair} <= {*named} for pair in UNFIT)]


def by_default() -> list:
    """Every family with its own network, sinusoids with every network, and every algorithm; and those of MORE that keep
    something from iteration to iteration: a state, moments of the optimiser, noise that is drawn, statistics.

    The algorithm beside a family and network is the one that was chosen least before; who is left has sinusoids."""
    chosen: list = []
    for pair in dict.fromkeys([*OWN.items(), *itertools.product(["sinusoid"], NETWORKS)]):
        fitting = [c for c in COMBINATIONS if c[:2] == pair]
        taken = [c[2] for c in chosen]
        chosen += sorted(fitting, key=lambda c: taken.count(c[2]))[:1]  # noqa: B023  (sorted at once)
    left = [c for c in COMBINATIONS if c[:2] == ("sinusoid", "mlp") and c[2] not in {c[2] for c in chosen}]
    keeping = {"carry_state", "optimizer", "outer"}
    return [*chosen, *left, *(c for c in MORE if keeping & {*c[3]} or {*c[3]} >= {"gradient_noise", "robust"}), RUNNING]


RUNNING = ("images", "conv", "maml", dict(statistics="running"))
DEFAULT = by_default()
# Of these the numbers are compared with the reference's, most of them by default.
COMPARED = [c for c in MORE if "statistics" not in c[3] or c[:3] == RUNNING[:3]]


# Families whose arrays are so small that Python runs the source of a program as soon as Numba compiles it.
SMALL_ARRAYS = {*FAMILIES} - {"omniglot", "speech"}


def ways(every: list, default: list) -> list:
    """Every combination in machine code; by default those of small arrays, but for the first, as Python alone."""
    plain = [c for c in default if c[0] in SMALL_ARRAYS and c[:3] != ("sinusoid", "mlp", "maml")]
    code = [c for c in default if c not in plain]
    return [*(pytest.param(c, "machine code", marks=() if c in code else pytest.mark.slow) for c in every),
            *(pytest.param(c, "plain Python") for c in plain)]  # fmt: skip


def by(way: str):
    return plain_python() if way == "plain Python" else nullcontext()


@pytest.fixture(scope="module")
def small(small_data):
    """The options of a family that make it tiny. Omniglot is read once, and the baselines, which have tests of their
    own, are not measured."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(omniglot, "load", cache(omniglot.load))
        patch.setattr(Learner, "baselines", lambda self: {})
        yield small_data


def tiny(small, family: str, network: str, algorithm: str, **changes) -> Config:
    chosen = network, algorithm, changes.get("outer")
    parts = {name: x for part in chosen for name, x in SMALL.get(part, {}).items()}
    return Config.default(
        family, algorithm=algorithm, network=network, **{**OUTER, **parts, **small(family), **changes}
    )


def name(combination: tuple | str) -> str:
    if isinstance(combination, str):  # a way
        return combination
    family, network, algorithm, changes = combination
    return "-".join([family, network, algorithm, *map(str, changes.values())])


def trained(config: Config, out: Path, resume: bool = False) -> Run:
    return loop.train(config, out, resume, progress=False)


def config_of(small, combination: tuple) -> Config:
    *named, changes = combination
    return tiny(small, *named, **changes, **(dict(dtype="float64") if changes else {}))  # to be compared closely


@pytest.fixture(scope="module")
def whole(small, tmp_path_factory):
    """A run that was not stopped, and what it was compiled to: each is trained once."""
    runs: dict = {}

    def of(combination: tuple, way: str) -> tuple[Run, list]:
        if (key := (name(combination), way)) not in runs:
            made, honest = [], loop.compile
            with pytest.MonkeyPatch.context() as patch, by(way):
                for module in (loop, acting):
                    patch.setattr(module, "compile", lambda f: made.append(honest(f)) or made[-1])
                run = trained(config_of(small, combination), tmp_path_factory.mktemp("whole") / "run")
            runs[key] = run, [runner for f in made for runner in f.runners.values()]
        return runs[key]

    return of


def stopped(config: Config, out: Path) -> None:
    """It is stopped after its first iteration."""
    honest = Run.log

    def log(self, record):
        signal.raise_signal(signal.SIGINT)
        honest(self, record)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Run, "log", log)
        trained(config, out)


@pytest.mark.parametrize("combination, way", ways([*COMBINATIONS, *MORE], DEFAULT), ids=name)
def test_it_is_compiled_resumed_bit_for_bit_and_evaluated(tmp_path, small, whole, combination, way):
    whole, runners = whole(combination, way)
    assert len(runners) >= 2 and {type(runner) for runner in runners} == {Machine}
    with by(way):
        resumed_and_evaluated(tmp_path / "run", whole, config_of(small, combination), combination)


def resumed_and_evaluated(out: Path, whole: Run, config: Config, combination: tuple) -> None:
    stopped(config, out)
    assert Run.open(out).load().iteration == 1
    run = trained(config, out, resume=True)
    arrays, wanted = run.load().arrays, whole.load().arrays
    assert arrays.keys() == wanted.keys()
    for key, x in wanted.items():
        np.testing.assert_array_equal(arrays[key], x, strict=True, err_msg=key)
    assert (run.path / "log.jsonl").read_bytes() == (whole.path / "log.jsonl").read_bytes()
    assert any((x != whole.load(1).arrays[key]).any() for key, x in wanted.items() if key.startswith("meta"))

    result = evaluate(run.path, tasks=2, steps=1)
    assert np.isfinite(result["mean"]).all() and len(result["mean"]) == 2
    assert (result["family"], result["network"], result["algorithm"]) == combination[:3]
    assert f"{result['algorithm']}, {result['network']}" in table(result)


def test_the_default_leaves_no_family_network_or_algorithm_out():
    for place, every in enumerate((FAMILIES, NETWORKS, ALGORITHMS)):
        assert {c[place] for c in DEFAULT} == {*every}


@pytest.mark.parametrize("pair, message", UNFIT.items())
def test_what_does_not_fit_is_named(small, pair, message):
    unfit = [named for named in itertools.product(FAMILIES, NETWORKS, ALGORITHMS) if {*pair} <= {*named}]
    unfit = [named for named in unfit if not any({*other} <= {*named} for other in UNFIT if other != pair)]
    with pytest.raises(ValueError, match=message):
        Learner(tiny(small, *unfit[0]))


@pytest.mark.parametrize("combination, way", ways(MORE, COMPARED), ids=name)
def test_options_of_the_loop_are_the_same_by_the_reference(tmp_path, small, whole, combination, way):
    reference = trained(config_of(small, combination).changed(compile=False), tmp_path / "run")
    runs = whole(combination, way)[0], reference
    logs = [[[*record.values()] for record in run.read_log()] for run in runs]
    np.testing.assert_allclose(logs[0][0], logs[1][0], rtol=1e-9)
    np.testing.assert_allclose(logs[0][1][1], logs[1][1][1], rtol=1e-6)
