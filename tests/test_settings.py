"""The options of a run: each part declares its own, and what cannot be is named before any work."""

import json
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tinymaml.algorithms import ALGORITHMS
from tinymaml.families import FAMILIES
from tinymaml.networks import NETWORKS
from tinymaml.runs.learner import Learner
from tinymaml.runs.outer import Settings as Outer
from tinymaml.runs.settings import Choice, Config, check_options, default_of, find_member, option, settings_of

TABLES = {"family": FAMILIES, "network": NETWORKS, "algorithm": ALGORITHMS}


# ── options ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Some:
    count: int = option(3, "how many", least=1)
    rate: float = option(0.1, "how fast", least=0)
    any_rate: float = option(0.0, "of either sign")
    kind: str = option("round", "which", choices=("round", "square"))
    widths: tuple[int, ...] = option((4, 4), "of layers", least=1)
    on: bool = option(True, "whether")
    plain: float = 2.0


@pytest.mark.parametrize("name, value, message", [
    ("count", 0, "count is 0, wanted at least 1"), ("count", 2.5, "count is 2.5, wanted int"),
    ("count", "two", "count is 'two', wanted int"), ("count", True, "count is True, wanted int"),
    ("rate", -0.1, "rate is -0.1, wanted a finite number of at least 0"), ("rate", "x", "rate is 'x', wanted float"),
    ("rate", float("nan"), "rate is nan, wanted a finite number of at least 0"),
    ("any_rate", float("inf"), "any_rate is inf, wanted a finite number"), ("rate", None, "rate is None, wanted float"),
    ("kind", "flat", "kind is 'flat', wanted one of round, square"), ("kind", 3, "kind is 3, wanted str"),
    ("widths", (4, 0), r"widths is \(4, 0\), wanted at least 1 each"), ("widths", 5, "widths is 5, wanted tuple"),
    ("widths", (4, 1.5), r"widths is \(4, 1.5\), wanted a tuple of int"), ("on", 1, "on is 1, wanted bool"),
    ("on", "no", "on is 'no', wanted bool"), ("plain", "x", "plain is 'x', wanted float"),
])  # fmt: skip
def test_a_value_that_cannot_be_is_named(name, value, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        check_options(Some(**{name: value}))


def test_values_that_can_be_are_accepted():
    check_options(Some())
    check_options(Some(count=1, rate=0, any_rate=-3.5, kind="square", widths=(), on=False, plain=1))


@pytest.mark.parametrize("role, name", [(role, name) for role in TABLES for name in TABLES[role]])
def test_every_option_of_the_tables_has_help_and_a_default_that_passes(role, name):
    settings = settings_of(TABLES[role][name])
    check_options(settings())
    for f in fields(settings):
        assert len(f.metadata["help"]) > 5 and isinstance(default_of(f), (bool, int, float, str, tuple))
        names = {g.name for g in fields(settings)}
        assert all(other in names and isinstance(values, tuple) for other, values in f.metadata["where"].items())


@pytest.mark.parametrize("role, name", [(r, n) for r in ("family", "algorithm") for n in TABLES[r]])
def test_every_default_of_a_family_or_algorithm_is_an_option_of_some_part(role, name):
    known = {f.name for table in TABLES.values() for member in table.values() for f in fields(settings_of(member))}
    known |= {"algorithm", "network", *(f.name for f in fields(Outer))}
    assert getattr(TABLES[role][name], "defaults", {}).keys() <= known


# ── a choice of parts ───────────────────────────────────────────────────────────────────────────────────────────────


def test_defaults_are_the_option_s_then_the_family_s_then_the_algorithm_s_then_the_user_s():
    assert Outer().meta_lr == 0.006 and Outer().schedule == "inverse"
    omniglot = Config.default("omniglot")
    assert (omniglot["meta_lr"], omniglot["shots"], omniglot.network.name) == (0.005, 1, "conv")
    reptile = Config.default("omniglot", algorithm="reptile")
    assert (reptile["meta_lr"], reptile["schedule"], reptile["tasks"]) == (1.0, "linear", omniglot["tasks"])
    mine = Config.default("omniglot", algorithm="reptile", network="mlp", meta_lr=0.3)
    assert (mine["meta_lr"], mine.network.name, mine["norm"]) == (0.3, "mlp", "batch")
    assert mine["hidden"] == (256, 128, 64, 64)


@pytest.mark.parametrize("choice, option, message", [
    ({}, "ways", r"sinusoid \(family\), mlp \(network\), maml \(algorithm\), the outer loop; .* option of omniglot"),
    (dict(algorithm="maml"), "carry_state", r"it is an option of reptile \(algorithm\)"),
    (dict(network="linear"), "hidden", r"linear \(network\), .* it is an option of mlp \(network\)"),
    ({}, "speed", r"no option speed|no part of this run has an option speed: .*the outer loop$"),
])  # fmt: skip
def test_an_option_that_no_part_has_is_named_with_the_parts_that_have_it(choice, option, message):
    with pytest.raises(ValueError, match=message):
        Config.default("sinusoid", **choice, **{option: 1})
    with pytest.raises(ValueError, match=message):
        Config.default("sinusoid", **choice).changed(**{option: 1})


def test_an_option_that_two_parts_have_is_named():
    parts = Config.default()
    with pytest.raises(ValueError, match=r"sinusoid \(family\) and mine \(algorithm\) both have an option shots"):
        Config(parts.family, parts.network, Choice("mine", parts.family.settings), parts.outer)


@pytest.mark.parametrize("role", TABLES)
def test_an_unknown_part_is_named_with_the_known_ones(role):
    with pytest.raises(ValueError, match=f"{role} is 'cats', wanted one of {', '.join(TABLES[role])}, or a module"):
        Config.default(**{role: "cats"})


def test_a_configuration_gives_options_by_flat_names():
    config = Config.default(shots=7, tasks=3)
    assert (config["shots"], config["tasks"], config.get("ways"), config.get("ways", 2)) == (7, 3, None, 2)
    assert config.changed(tasks=4)["tasks"] == 4 and config["tasks"] == 3
    with pytest.raises(KeyError):
        config["ways"]
    with pytest.raises(ValueError, match="tasks is 0"):
        config.changed(tasks=0)


def test_options_without_an_effect_are_not_among_the_used_ones():
    used = Config.default().used()
    assert "decay" in used and not {"final_lr", "inner_beta1", "inner_momentum", "statistics"} & used.keys()
    used = Config.default(schedule="cosine", inner_optimizer="adam", norm="batch").used()
    assert "decay" not in used and {"final_lr", "inner_beta1", "statistics"} <= used.keys()


# ── what is saved ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("family, network, algorithm", [
    ("sinusoid", "mlp", "maml"), ("omniglot", "conv", "mamlpp"), ("omniglot", "linear", "reptile")
])  # fmt: skip
def test_a_configuration_survives_json(family, network, algorithm):
    config = Config.default(family, network=network, algorithm=algorithm, inner_lr=0.1 + 0.2, seed=3)
    assert Config.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_an_option_that_was_not_saved_has_its_default():
    record = Config.default(tasks=3, shots=7).to_json()
    del record["outer"]["decay"], record["family"]["shots"], record["algorithm"]["inner_optimizer"]
    assert Config.from_json(record) == Config.default(tasks=3)


@pytest.mark.parametrize("part, called", [
    ("family", r"sinusoid \(family\)"), ("network", r"mlp \(network\)"), ("algorithm", r"maml \(algorithm\)"),
    ("outer", "the outer loop"),
])  # fmt: skip
def test_an_option_that_is_not_known_is_named(part, called):
    record = Config.default().to_json()
    record[part]["speed"] = 3
    with pytest.raises(ValueError, match=f"saved with options that {called} does not have: speed"):
        Config.from_json(record)


def test_a_saved_value_that_cannot_be_is_named():
    record = Config.default().to_json()
    record["outer"]["tasks"] = "two"
    with pytest.raises(ValueError, match="tasks is 'two', wanted int"):
        Config.from_json(record)
    del record["network"]["name"], record["outer"]["tasks"]
    with pytest.raises(ValueError, match="does not say which network it has"):
        Config.from_json(record)
    del record["network"]
    with pytest.raises(ValueError, match="lacks network"):
        Config.from_json(record)


FORMAT_1 = dict(
    family="omniglot", model="mlp", ways=3, shots=2, queries=4, inner_steps=2, inner_lr=0.3, meta_lr=0.01, tasks=8,
    iterations=50, first_order=True, dtype="float64", seed=4, hidden=[20, 10], filters=16, scheme="official",
    rotations=True, decay=7, save_every=10, validate_every=11, validation_tasks=12, compile=False, data="/somewhere",
)  # fmt: skip


def test_a_configuration_of_the_first_format_is_read():
    config = Config.from_json(FORMAT_1, format=1)
    wanted = {k: v for k, v in FORMAT_1.items() if k not in ("family", "model", "filters")} | {"hidden": (20, 10)}
    assert {name: config[name] for name in wanted} == wanted
    assert (config.family.name, config.network.name, config.algorithm.name) == ("omniglot", "mlp", "maml")
    assert (config["norm"], config["statistics"], config["schedule"], config["optimizer"]) == (
        "batch", "transductive", "inverse", "adam")  # fmt: skip
    assert Config.from_json({**FORMAT_1, "family": "sinusoid"}, format=1)["norm"] == "none"
    assert Config.from_json({**FORMAT_1, "model": "conv"}, format=1)["filters"] == 16


# ── parts of the user's ─────────────────────────────────────────────────────────────────────────────────────────────

ALGORITHM = """
import itertools
import tinymaml as tm
def init(theta, settings):
    return theta
def adapt(loss, theta, support, settings):
    yield theta
    raise NotImplementedError
def of_task(loss, theta, support, query, settings):
    return loss(theta, *query), tm.grad(loss, has_aux=True)(theta, *query)[0]
"""
NETWORK = """
from types import SimpleNamespace
import numpy as np
def make(family, settings):
    n = int(np.prod(family.input_shape))
    return SimpleNamespace(init=lambda rng, dtype: {"w": np.zeros((n, family.outputs), dtype)},
                           apply=lambda params, x: np.reshape(x, (x.shape[0], -1)) @ params["w"])
def poor(family, settings):
    return SimpleNamespace(init=None)
def wants(family, settings):
    return make(family, settings)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory, with modules of a user's; what they import is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    before = set(sys.modules)
    steps = Path(__file__).with_name("user_family.py").read_text(encoding="utf-8")
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "my_tasks.py").write_text(steps, encoding="utf-8")
    (tmp_path / "my_algorithm.py").write_text(ALGORITHM, encoding="utf-8")
    (tmp_path / "my_network.py").write_text(NETWORK, encoding="utf-8")
    (tmp_path / "broken.py").write_text("import nothing_of_this_name", encoding="utf-8")
    (tmp_path / "wrong.py").write_text("1 / 0", encoding="utf-8")
    (tmp_path / "empty.py").write_text("Settings = int", encoding="utf-8")
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_parts_are_modules_of_the_user_s(folder):
    config = Config.default("my_package.my_tasks", algorithm="my_algorithm", network="my_network:make", shots=4)
    assert config["shots"] == 4 and config["queries"] == 20 and Config.from_json(config.to_json()) == config
    learner = Learner(config)
    (xs, ys), _ = learner.sample(np.random.default_rng(0), 3, "train")
    assert xs.shape == ys.shape == (3, 4, 1) and xs.dtype == np.float32
    meta, carried, norms = learner.init(np.random.default_rng(0))
    assert meta["w"].shape == (1, 1) and carried is None and norms == {}
    assert learner.metric.label == "mean squared error" and learner.statistics == "" and learner.loss.body is None


@pytest.mark.parametrize("role, name, error, message", [
    ("family", "my_package.nothing", ImportError, "family my_package.nothing: .* cannot be imported: No module named"),
    ("family", "broken", ImportError, "cannot be imported: No module named 'nothing_of_this_name'"),
    ("family", "wrong", ImportError, "cannot be imported: ZeroDivisionError: division by zero"),
    ("family", "empty", ValueError, "family empty has no function make; a family wants Settings, make"),
    ("algorithm", "my_network", ValueError, "algorithm my_network has no function init, adapt, of_task; an algorithm"),
    ("network", "my_network:nothing", ValueError, "the module my_network has nothing that is called nothing"),
    ("network", "my package", ValueError, "network is 'my package', wanted one of mlp"),
    ("network", "", ValueError, "network is '', wanted one of mlp"),
])  # fmt: skip
def test_a_module_that_cannot_be_a_part_says_why(folder, role, name, error, message):
    with pytest.raises(error, match=message):
        find_member(role, name)


def test_what_a_user_s_part_makes_is_looked_at(folder):
    with pytest.raises(ValueError, match="network my_network:poor: what make returns has no function init, apply"):
        Learner(Config.default(network="my_network:poor"))
    with pytest.raises(ValueError, match=r"no part of this run has an option hidden: .*my_network:make \(network\)"):
        Config.default(network="my_network:make", hidden=(3,))
    sys.modules["poor_family"] = SimpleNamespace(make=lambda settings: SimpleNamespace(input_shape=(1,), outputs=1))
    with pytest.raises(ValueError, match="family poor_family.: what make returns has no sample, loss, metric"):
        Learner(Config.default("poor_family:"))


def test_an_option_without_a_default_is_wanted(folder):
    code = "from dataclasses import dataclass\nmake = print\n@dataclass(frozen=True)\nclass Settings:\n    size: int"
    (folder / "demanding.py").write_text(code, encoding="utf-8")
    with pytest.raises(ValueError, match="demanding wants the option size, which has no default"):
        Config.default("demanding")
    assert Config.default("demanding", size=3)["size"] == 3
