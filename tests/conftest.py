"""Where real data lies, how long hypothesis may think, and what the garbage collector looks at."""

import gc
import os
import signal
import sys
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from functools import cache
from importlib.util import find_spec
from pathlib import Path

for _library in ("OPENBLAS", "OMP", "MKL"):  # tiny arrays want one thread a process
    os.environ.setdefault(f"{_library}_NUM_THREADS", "1")
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")  # what JAX compiles here runs once or twice

signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell ignores it, and so would what is started

import pytest  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

settings.register_profile(
    "tinymaml", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
settings.load_profile("tinymaml")


@pytest.fixture(scope="session", autouse=True)
def _bytecode(tmp_path_factory):
    """Where Python is told to write no bytecode, what tests start would compile all sources anew, each time."""
    with pytest.MonkeyPatch.context() as patch:
        if sys.dont_write_bytecode:
            patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
            patch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path_factory.mktemp("bytecode")))  # not beside the sources
        yield


@pytest.fixture(scope="module")
def own_cache(tmp_path_factory):
    """A cache folder of the module's own: nothing that an earlier run has compiled is used."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINYMAML_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@contextmanager
def _quickly():
    """Machine code without the passes of LLVM that make it fast."""
    if not find_spec("numba"):
        yield
        return
    from numba.core.registry import cpu_target

    from tinymaml import kernels
    from tinymaml.programs import cache, threads

    _ = cpu_target.target_context, threads.crew()  # are made once in a process, and as users have them
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NUMBA_OPT", "0")  # it is part of the key of what is kept
        patch.setattr(cache, "_loaded", {})
        for kernel in vars(kernels).values():
            if isinstance(kernel, kernels.Kernel):
                patch.setattr(kernel, "functions", {})
        cache._surroundings.cache_clear()
        yield
    cache._surroundings.cache_clear()


@pytest.fixture(scope="module")
def quick_code():
    """Machine code without the passes of LLVM that make it fast: it is there sooner, and runs for an instant.

    What is about the machine code itself does without this fixture, and meets the code that users run.
    """
    with _quickly():
        yield


@pytest.fixture(params=["quick code", pytest.param("fast code", marks=pytest.mark.slow)])
def either_code(request):
    """`quick_code` for one test; in the slow run also the code that users run.

    It is for many cases of machine code that have neighbours without it.
    """
    with _quickly() if request.param == "quick code" else nullcontext():
        yield


@pytest.fixture(params=["plain Python", pytest.param("machine code", marks=pytest.mark.slow)])
def either_way(request):
    """What is compiled runs its generated source as Python, which is there at once; in the slow run also as compiled.

    It is for small arrays, and for what has a case in machine code besides.
    """
    from test_schedule import plain_python

    with plain_python() if request.param == "plain Python" else nullcontext():
        yield


@pytest.fixture(scope="session")
def _confirmed() -> dict:
    return {}


@pytest.fixture
def confirmed_once(monkeypatch, _confirmed):
    """The oracle's stored answers are confirmed by the engine once for all tests, not at each `oracle.check`.

    An answer that a test has made or changed is another object, and is confirmed too.
    """
    from tinymaml.oracle.judge import checking

    honest = checking.confirm

    def confirm(asked: list) -> None:
        honest([q for q in asked if id(q.case.answer) not in _confirmed])
        _confirmed.update((id(q.case.answer), q.case.answer) for q in asked)  # kept, so that no id is used again

    monkeypatch.setattr(checking, "confirm", confirm)


@pytest.fixture(scope="session")
def _computed() -> dict:
    return {}


@pytest.fixture
def computed_once(monkeypatch, _computed):
    """What a mistake gives on a case is computed once for all tests, not anew where the cases are loaded again; and so
    are which mistakes concern it, what the search for one has computed, and the new cases of a seed.

    A case with other numbers is another case. Who is given the result may change it: the next one gets a copy, too.
    """
    from tinymaml.oracle import questions
    from tinymaml.oracle.cases import Bugs
    from tinymaml.oracle.clues.locate import Judged

    def once(honest, of):
        def kept(*args):
            key = (honest.__qualname__, *of(*args))
            if key not in _computed:
                _computed[key] = honest(*args)
            return _computed[key]

        return kept

    def inputs(bugs: Bugs) -> str:
        return vars(bugs).get("inputs") or vars(bugs).setdefault("inputs", bugs.case.inputs())

    computed = once(Bugs._computed, lambda bugs, name: (inputs(bugs), name))
    fresh = once(questions.fresh, lambda *args: args)
    monkeypatch.setattr(Bugs, "_computed", lambda bugs, name: deepcopy(computed(bugs, name)))
    monkeypatch.setattr(Bugs, "forms", once(Bugs.forms, lambda bugs, dtype: (inputs(bugs), dtype)))
    monkeypatch.setattr(questions, "fresh", lambda *args: deepcopy(fresh(*args)))
    given = once(Judged.given.func, lambda j: (j.case.inputs(),))
    monkeypatch.setattr(Judged.given, "func", given)


@pytest.fixture
def few_forms(request, monkeypatch, computed_once):
    """The search for what gave an answer goes through few forms of mistakes: the classic and common ones, every
    sixtieth of the others, and those of the mistakes that a test names, `few_forms("inner_momentum")`; a search for
    two may cost a tenth. In the slow run it goes through all of them.

    It is for how something is looked for, and what is said of it. What no other mistake may explain needs all of them.
    """
    from tinymaml.oracle.cases import Bugs
    from tinymaml.oracle.catalogue import CATALOGUE
    from tinymaml.oracle.clues import pairs

    names = [f"{m.id}/{k}" if k else m.id for m in CATALOGUE.values() for k in range(len(m.forms))]
    others = set(names[::60])
    named = {*pairs.COMMON, *(m.id for m in CATALOGUE.values() if m.classic)}
    honest, kept = Bugs.forms, {}

    def few(bugs: Bugs, dtype: str) -> dict[str, dict]:
        forms = honest(bugs, dtype)
        if id(forms) not in kept:  # `computed_once` holds it, so that no id is used again
            kept[id(forms)] = {n: form for n, form in forms.items() if n in others or n.split("/")[0] in named}
        return kept[id(forms)]

    if not request.node.get_closest_marker("slow"):
        monkeypatch.setattr(Bugs, "forms", few)
        monkeypatch.setattr(pairs, "LIMIT", pairs.LIMIT // 10)
    return lambda *names: named.update(names)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data: $TINYMAML_DATA, or ../shared/data beside the checkout."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("TINYMAML_DATA") or beside)
    if not folder.is_dir():
        pytest.skip("no real data: set TINYMAML_DATA to a folder holding omniglot/images_background.zip")
    return folder


@pytest.fixture(scope="session")
def real_omniglot_folder(data_dir) -> Path:
    from tinymaml.families import omniglot

    folder = data_dir / "omniglot"
    if not all((folder / f"{name}.zip").is_file() for name in omniglot.SETS):
        pytest.skip(f"no Omniglot archives in {folder}")
    return folder


@pytest.fixture(scope="session")
def real_omniglot(real_omniglot_folder, tmp_path_factory):
    """The characters of Omniglot's archives, which are read once: the processes of one run share what is kept."""
    from tinymaml.families import omniglot

    base = tmp_path_factory.getbasetemp()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINYMAML_CACHE", str(base.parent if "PYTEST_XDIST_WORKER" in os.environ else base))
        return omniglot.load(real_omniglot_folder)


@pytest.fixture
def blank_omniglot(monkeypatch):
    """As many characters as Omniglot has, wherever it is read from; their drawings are blank."""
    import numpy as np

    from tinymaml.families import omniglot

    names = tuple(f"Alphabet/character{c:04d}" for c in range(1623))
    images = np.zeros((len(names), omniglot.DRAWINGS, omniglot.SIDE, omniglot.SIDE), np.uint8)
    characters = omniglot.Characters(images, names, np.arange(len(names)) < 964, "somewhere")
    monkeypatch.setattr(omniglot, "load", lambda path: characters)


@pytest.fixture(scope="session")
def small_data(tmp_path_factory):
    """A function: the options of a family that make it tiny, on a data set of its own that is written once.

    Whatever reading it leaves in the cache is removed.
    """
    from small_data import OPTIONS

    from tinymaml.files import cache_folder

    @cache
    def options(family: str) -> dict:
        return OPTIONS[family](tmp_path_factory.mktemp(family))

    before = set(cache_folder().glob("*.npz"))
    yield options
    for kept in set(cache_folder().glob("*.npz")) - before:
        kept.unlink(missing_ok=True)


@pytest.fixture(scope="session")
def omniglot_data(small_data):
    """The path of small archives in Omniglot's layout, for scheme "official"."""
    pytest.importorskip("PIL.Image")
    return Path(small_data("omniglot")["data"])


def pytest_collection() -> None:
    """Thousands of tests are made, and none is thrown away: a quarter of the time would go into looking at them.

    Of what the tests make, most is gone when nothing refers to it; the rest may wait.
    """
    gc.disable()
    gc.set_threshold(20_000, 20, 20)


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """With `-n 2` a whole file goes to one process: its tests use what one of them has made, loaded or compiled."""
    if config.option.dist != "load":  # another way was asked for
        return None
    from xdist.scheduler import LoadFileScheduling

    config.option.loadscopereorder = False  # the order of `pytest_collection_modifyitems`
    return LoadFileScheduling(config, log)


# What takes longest begins first, so that no process has to wait for another in the end.
LONG = [
    "compile", "oracle", "cache", "dtypes", "oracle_hostile", "combinations", "oracle_judge", "ops", "reliability",
    "oracle_further", "bench", "threads", "train", "oracle_family", "oracle_standard", "pictures",
]  # fmt: skip


def pytest_collection_modifyitems(items: list) -> None:
    first = {f"test_{name}.py": i for i, name in enumerate(LONG)}
    items.sort(key=lambda item: first.get(item.path.name, len(LONG)))
