"""Settings: each part of a run declares its own options, and a `Config` is the choice of all of them.

    @dataclass(frozen=True)
    class Settings:
        shots: int = option(5, "support examples of each class", least=1)

    config = Config.default("sinusoid", algorithm="reptile", shots=10, meta_lr=0.5)
    config["shots"]                              # 10, whichever part has the option
    Config.from_json(config.to_json()) == config

A run has four parts: a task family, a network, an algorithm, and the outer loop. The first three are found by name in
the tables of `families`, `networks` and `algorithms`, or are modules of the user's: `my_package.my_tasks`, or
`module:name` for something in a module. Read next: `outer`.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import math
import os
import sys
import sysconfig
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from .sizes import figure


def option(
    default: Any, help: str, *, choices: tuple | None = None, least: float | None = None, most: float | None = None,
    path: bool = False, where: dict[str, tuple] | None = None, training: bool = False,
):  # fmt: skip
    """A field of a `Settings`, and an option of the command line.

    Args:
        default: its type is the type of the option; a tuple takes any number of values of its elements' type.
        help: one line for `--help`.
        choices: the values that are allowed.
        least, most: the smallest and the largest number that is allowed, in a tuple of each element.
        path: the option names a file or folder. It may change when a run is resumed.
        where: {another option of the same part: values}, if it has an effect with one of these values only.
        training: the option of a family changes the tasks of training alone, so that runs which differ in it can be
            compared on the same test tasks.

    >>> from dataclasses import dataclass
    >>> from tinymaml.runs.settings import check_options, option
    >>> @dataclass(frozen=True)
    ... class Settings:
    ...     shots: int = option(5, "examples per class", least=1)
    >>> check_options(Settings(shots=0))
    Traceback (most recent call last):
    ...
    ValueError: shots is 0, wanted at least 1
    """
    metadata = dict(help=help, choices=choices, least=least, most=most, path=path, where=where or {}, training=training)
    return dataclasses.field(default=default, metadata=metadata)


def default_of(field: dataclasses.Field) -> Any:
    """The default of an option; `dataclasses.MISSING` if it has none."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def check_options(settings: Any) -> None:
    """Raises: ValueError: an option has a value of another type, or one that is not allowed."""
    for field in dataclasses.fields(settings):
        name, value, default = field.name, getattr(settings, field.name), default_of(field)
        wanted, choices = type(default), field.metadata.get("choices")
        if default is None or default is dataclasses.MISSING:  # of no type that could be checked
            continue
        if not _is(value, wanted):
            raise ValueError(f"{name} is {value!r}, wanted {wanted.__name__}")
        kind = type(default[0]) if wanted is tuple and default else None
        if kind and not all(_is(x, kind) for x in value):
            raise ValueError(f"{name} is {value!r}, wanted a tuple of {kind.__name__}")
        if choices and value not in choices:
            raise ValueError(f"{name} is {value!r}, wanted one of {', '.join(map(str, choices))}")
        for x in value if wanted is tuple else (value,):
            if isinstance(x, (int, float)) and (bound := _unmet(x, kind or wanted, field)):
                shown = value if wanted is tuple else figure(x) if isinstance(x, int) and abs(x) > LARGEST else x
                raise ValueError(f"{name} is {shown}, wanted {bound}{' each' if wanted is tuple else ''}")


LARGEST = 2**63 - 1  # the largest integer of an option that does not say its own limit


def _unmet(x: int | float, kind: type, field: dataclasses.Field) -> str:
    """The requirement that a number misses: to be finite and within the bounds of an option; "" if it is right."""
    least, most = field.metadata.get("least"), field.metadata.get("most")
    if isinstance(x, float) and not math.isfinite(x) or kind is float and abs(x) > sys.float_info.max:
        return "a finite number" + ("" if least is None else f" of at least {least:g}")
    if least is not None and x < least:
        return ("a finite number of " if kind is float else "") + f"at least {least:g}"
    limit = LARGEST if most is None and kind is int else most
    return f"at most {limit:,}" if limit is not None and x > limit else ""


def _is(value: Any, wanted: type) -> bool:
    kinds = (int, float) if wanted is float else wanted
    return isinstance(value, kinds) and isinstance(value, bool) == (wanted is bool)


# ── the members of a run, by name ───────────────────────────────────────────────────────────────────────────────────

TABLES = {"family": "families", "network": "networks", "algorithm": "algorithms"}
PROTOCOL = {"family": ("make",), "network": ("make",), "algorithm": ("init", "adapt", "of_task")}


@dataclasses.dataclass(frozen=True)
class NoSettings:
    """The settings of a member that declares none."""


def members_of(role: str) -> dict[str, Any]:
    """The members that tinymaml brings, by name: of families, networks or algorithms."""
    module = importlib.import_module(f"..{TABLES[role]}", __package__)
    return getattr(module, TABLES[role].upper())


def find_member(role: str, name: str) -> Any:
    """The family, network or algorithm of a name: one of its table's, or a module of the user's.

    `package.module` is imported; `package.module:thing` is something in it. For a network, and for a family, the thing
    may be the function `make` alone. The working directory is searched first.

    Raises:
        ValueError: there is nothing of this name; or it lacks something, which the message names.
        ImportError: the user's module cannot be imported; the message says why.
    """
    if name in (known := members_of(role)):
        return known[name]
    module, _, thing = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    if not (module and all(part.isidentifier() for part in module.split("."))) or (
        module == name and "." not in name and importlib.util.find_spec(name) is None
    ):
        raise ValueError(f"{role} is {name!r}, wanted one of {', '.join(known)}, or a module of your own")
    try:
        member: Any = importlib.import_module(module)
    except Exception as cause:
        raise ImportError(f"{role} {name}: the module {module} cannot be imported: {told(cause)}") from cause
    if thing:
        if not hasattr(member, thing):
            raise ValueError(f"{role} {name}: the module {module} has nothing that is called {thing}")
        member = getattr(member, thing)
        if "make" in PROTOCOL[role] and callable(member) and not hasattr(member, "make"):
            member = SimpleNamespace(make=member, Settings=getattr(sys.modules[module], "Settings", NoSettings))
    if missing := [part for part in PROTOCOL[role] if not callable(getattr(member, part, None))]:
        raise ValueError(f"{role} {name} has no function {', '.join(missing)}; {_AN[role]} wants"
                         f" {', '.join(('Settings', *PROTOCOL[role]))}")  # fmt: skip
    if not dataclasses.is_dataclass(settings_of(member)):
        raise ValueError(f"{role} {name}: its Settings is no dataclass")
    return member


_AN = {"family": "a family", "network": "a network", "algorithm": "an algorithm"}


@contextmanager
def blaming(what: str, but: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Let whatever code of the user's raises be a ValueError of one line: "family x: sample: …, and where it was."

    Args:
        but: errors that are left as they are.
    """
    try:
        yield
    except but:
        raise
    except Exception as cause:
        if not _lines(cause):  # only code of tinymaml, which says itself what is wrong
            raise
        raise ValueError(f"{what}: {told(cause)}") from cause


def told(cause: Exception) -> str:
    """An error, and the line of the user's code that raised it, if there is one."""
    kind = "" if isinstance(cause, (ValueError, OSError, ImportError)) else f"{type(cause).__name__}: "
    lines = _lines(cause)
    where = f" ({Path(lines[-1].filename).name}, line {lines[-1].lineno})" if lines else ""
    return f"{kind}{cause}{where}"


def _lines(cause: Exception) -> list[traceback.FrameSummary]:
    """The lines of code on the way to an exception that are neither tinymaml's nor a library's."""
    libraries = {Path(__file__).parents[1], Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_path("purelib"))}
    frames = [(Path(frame.filename), frame) for frame in traceback.extract_tb(cause.__traceback__)]
    return [frame for path, frame in frames if path.is_file() and not libraries & set(path.parents)]


def settings_of(member: Any) -> type:
    """The class of a member's settings."""
    return getattr(member, "Settings", NoSettings)


def outer_settings() -> type:
    return importlib.import_module(".outer", __package__).Settings  # which declares its options with this module


# ── the choice of all of them ───────────────────────────────────────────────────────────────────────────────────────


class Choice(NamedTuple):
    """A member that was chosen, and its settings."""

    name: str
    settings: Any


@dataclasses.dataclass(frozen=True)
class Config:
    """All that decides a run: the parts that were chosen, and every option of each. It is saved with the run.

    Raises:
        ValueError: an option has a value that is not allowed, or two parts have an option of the same name.

    >>> from tinymaml.runs.settings import Config
    >>> config = Config.default("sinusoid", inner_steps=3)
    >>> config["inner_steps"], config.algorithm.name, Config.from_json(config.to_json()) == config
    (3, 'maml', True)
    """

    family: Choice
    network: Choice
    algorithm: Choice
    outer: Any  # the settings of the outer loop, `outer.Settings`

    def __post_init__(self) -> None:
        for _, settings in self.parts():
            check_options(settings)
        check_names(dict(self.parts()))

    def parts(self) -> Iterator[tuple[str, Any]]:
        """(what a person calls the part, its settings), for the four parts."""
        for role in TABLES:
            part = getattr(self, role)
            yield f"{part.name} ({role})", part.settings
        yield "the outer loop", self.outer

    def options(self) -> dict[str, Any]:
        """Every option and its value, by flat names."""
        return {f.name: getattr(settings, f.name) for _, settings in self.parts() for f in dataclasses.fields(settings)}

    def used(self) -> dict[str, Any]:
        """The options that have an effect beside the others, and their values."""
        return {
            f.name: getattr(settings, f.name)
            for _, settings in self.parts()
            for f in dataclasses.fields(settings)
            if all(getattr(settings, other) in values for other, values in f.metadata.get("where", {}).items())
        }

    def __getitem__(self, name: str) -> Any:
        """The value of an option, whichever part has it.

        Raises:
            KeyError: no part has it.
        """
        return self.options()[name]

    def get(self, name: str, default: Any = None) -> Any:
        return self.options().get(name, default)

    def changed(self, **changes: Any) -> Config:
        """The same choice of parts, with these options.

        Raises:
            ValueError: no part has such an option; or a value is not allowed.
        """
        parts = {role: getattr(self, role) for role in TABLES}
        self.require(changes)
        for role, part in parts.items():
            parts[role] = Choice(part.name, _replaced(part.settings, changes))
        return Config(**parts, outer=_replaced(self.outer, changes))

    def require(self, names: Iterable[str]) -> None:
        """Raises: ValueError: no part has an option of one of these names; the message says which others have it."""
        for name in names:
            if name not in self.options():
                raise ValueError(no_option(name, [called for called, _ in self.parts()]))

    @classmethod
    def default(
        cls, family: str = "sinusoid", *, algorithm: str | None = None, network: str | None = None, **changes: Any
    ) -> Config:
        """The defaults of a choice of parts, with changes, which are options by their flat names.

        A default is that of the option itself, which the family's `defaults` replace, which the algorithm's `defaults`
        replace, which those of the family for this algorithm replace, its `defaults_for`. The network too may be among
        these, and in the family's the algorithm.

        Raises:
            ValueError, ImportError: there is no such part; no part has such an option; a value is not allowed.
        """
        names, defaults = chosen_names(family, algorithm, network)
        values = {**defaults, **changes}
        parts = {
            role: Choice(name, made(settings_of(find_member(role, name)), values, name)) for role, name in names.items()
        }
        config = cls(**parts, outer=made(outer_settings(), values, "the outer loop"))
        config.require(changes)
        return config

    def to_json(self) -> dict[str, Any]:
        """The nest for `from_json`: {"family": {"name": …, option: value, …}, "network", "algorithm", "outer": {…}}."""
        named = {role: getattr(self, role) for role in TABLES}
        record = {role: {"name": part.name, **dataclasses.asdict(part.settings)} for role, part in named.items()}
        return {**record, "outer": dataclasses.asdict(self.outer)}

    @classmethod
    def from_json(cls, record: dict[str, Any], format: int = 2) -> Config:
        """The configuration that a run was saved with; an option that it lacks has its default.

        Raises:
            ValueError, ImportError: a part is not there any more, or has no such option.
        """
        if format == 1:
            return _of_format_1(record)
        if missing := {*TABLES, "outer"} - record.keys():
            raise ValueError(f"the configuration of the run lacks {', '.join(sorted(missing))}")
        parts = {}
        for role in TABLES:
            if not isinstance(record[role], dict):
                raise ValueError(f"the configuration of the run has {record[role]!r} as its {role}, wanted an object")
            given = {**record[role]}
            name = given.pop("name", None)
            if not isinstance(name, str):
                raise ValueError(f"the configuration of the run does not say which {role} it has")
            parts[role] = Choice(name, _read(settings_of(find_member(role, name)), given, f"{name} ({role})"))
        return cls(**parts, outer=_read(outer_settings(), record["outer"], "the outer loop"))


def check_names(parts: dict[str, Any]) -> None:
    """Raises: ValueError: two of the parts, each by what a person calls it, have an option of the same name."""
    owners: dict[str, str] = {}
    for called, settings in parts.items():
        for field in dataclasses.fields(settings):
            if field.name in owners:
                raise ValueError(f"{owners[field.name]} and {called} both have an option {field.name}")
            owners[field.name] = called


def chosen_names(
    family: str, algorithm: str | None = None, network: str | None = None
) -> tuple[dict[str, str], dict[str, Any]]:
    """The names of the parts by their roles, and the defaults that family and algorithm put in the place of others.

    Raises:
        ValueError, ImportError: as `find_member`.
    """
    if algorithm is None:
        algorithm = getattr(find_member("family", family), "defaults", {}).get("algorithm", "maml")
    members = find_member("family", family), find_member("algorithm", algorithm)
    pair = getattr(members[0], "defaults_for", {}).get(algorithm, {})
    defaults = {**getattr(members[0], "defaults", {}), **getattr(members[1], "defaults", {}), **pair}
    network = defaults.get("network", "mlp") if network is None else network
    find_member("network", network)
    return {"family": family, "network": network, "algorithm": algorithm}, defaults


def no_option(name: str, parts: list[str]) -> str:
    """The error for an option that none of the chosen parts has: it names these, and others that have it."""
    members = [(role, key, member) for role in TABLES for key, member in members_of(role).items()]
    have = [f"{key} ({role})" for role, key, member in members
            if name in {f.name for f in dataclasses.fields(settings_of(member))}]  # fmt: skip
    elsewhere = f"; it is an option of {', '.join(have)}" if have else ""
    return f"no part of this run has an option {name}: the parts are {', '.join(parts)}{elsewhere}"


def made(settings: type, values: dict[str, Any], called: str) -> Any:
    """Settings with those of the values that are options of them."""
    fields = dataclasses.fields(settings)
    for field in fields:
        if default_of(field) is dataclasses.MISSING and field.name not in values:
            raise ValueError(f"{called} wants the option {field.name}, which has no default")
    return settings(**{f.name: values[f.name] for f in fields if f.name in values})


def path_options(config: Config) -> set[str]:
    """The options that name files or folders."""
    fields = (f for _, settings in config.parts() for f in dataclasses.fields(settings))
    return {f.name for f in fields if f.metadata.get("path")}


def in_words(name: str, value: Any) -> str:
    """An option and its value: "hidden 40 40", "first_order", "no rotations".

    >>> from tinymaml.runs.settings import in_words
    >>> in_words("hidden", (40, 40)), in_words("rotations", False)
    ('hidden 40 40', 'no rotations')
    """
    if isinstance(value, bool):
        return name if value else f"no {name}"
    return f"{name} {' '.join(map(str, value)) if isinstance(value, tuple) else value}"


def _replaced(settings: Any, values: dict[str, Any]) -> Any:
    own = {f.name for f in dataclasses.fields(settings)}
    return dataclasses.replace(settings, **{name: x for name, x in values.items() if name in own})


def _read(settings: type, given: Any, called: str) -> Any:
    if not isinstance(given, dict):
        raise ValueError(f"the configuration of the run has {given!r} for {called}, wanted an object")
    fields = {f.name: f for f in dataclasses.fields(settings)}
    if odd := given.keys() - fields.keys():
        raise ValueError(f"the run was saved with options that {called} does not have: {', '.join(sorted(odd))}")
    tuples = {name for name, f in fields.items() if isinstance(default_of(f), tuple)}  # JSON has lists alone
    values = {n: tuple(x) if n in tuples and isinstance(x, list) else x for n, x in given.items()}
    return made(settings, values, called)


def _of_format_1(record: dict[str, Any]) -> Config:
    """A configuration of the first format: a flat record with the options of everything there was, used or not."""
    record = {name: tuple(x) if isinstance(x, list) else x for name, x in record.items()}
    if missing := {"family", "model"} - record.keys():
        raise ValueError(f"the configuration of the run lacks {', '.join(sorted(missing))}")
    family, network = record.pop("family"), record.pop("model")
    record["schedule"] = "inverse"
    if network == "mlp":
        record["norm"] = "batch" if family == "omniglot" else "none"
    members = [settings_of(find_member(*named)) for named in
               (("family", family), ("network", network), ("algorithm", "maml"))]  # fmt: skip
    values = [made(settings, record, "the run") for settings in (*members, outer_settings())]
    of_family, of_network, of_algorithm, outer = values
    return Config(Choice(family, of_family), Choice(network, of_network), Choice("maml", of_algorithm), outer)
