"""Where real data lies, and how long hypothesis may think."""

import io
import os
import warnings
import zipfile
from pathlib import Path

for _library in ("OPENBLAS", "OMP", "MKL"):  # tiny arrays want one thread a process
    os.environ.setdefault(f"{_library}_NUM_THREADS", "1")

import pytest  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

settings.register_profile(
    "tinymaml", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
settings.load_profile("tinymaml")


@pytest.fixture(scope="module")
def own_cache(tmp_path_factory):
    """A cache folder of the module's own: nothing that an earlier run has compiled is used."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINYMAML_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def strict():
    """A function that is not compiled says so in a warning; here that is an error."""
    from tinymaml.programs import CompileWarning

    with warnings.catch_warnings():
        warnings.simplefilter("error", CompileWarning)
        yield


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data: $TINYMAML_DATA, or ../shared/data beside the checkout."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("TINYMAML_DATA") or beside)
    if not folder.is_dir():
        pytest.skip("no real data: set TINYMAML_DATA to a folder holding omniglot/images_background.zip")
    return folder


@pytest.fixture(scope="session")
def omniglot_data(tmp_path_factory):
    """The path of a small archive in Omniglot's layout, of characters that can be learned; for scheme "official".

    It has 110 background characters (10 to train on, 100 to validate on) and 10 of evaluation, each a pattern of
    5 × 5 cells; its 20 drawings are moved by some pixels. Whatever reading it leaves in the cache is removed.
    """
    import numpy as np

    Image = pytest.importorskip("PIL.Image")
    from tinymaml.families import omniglot

    folder, rng = tmp_path_factory.mktemp("omniglot"), np.random.default_rng(0)
    for name, characters in (("images_background", 110), ("images_evaluation", 10)):
        with zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
            for c in range(characters):
                pattern = np.kron(rng.random((5, 5)) < 0.7, np.ones((21, 21), bool))  # true is white
                for drawing, move in enumerate(rng.choice(13 * 13, 20, replace=False)):
                    stream = io.BytesIO()
                    moved = np.roll(pattern, (move // 13 - 6, move % 13 - 6), (0, 1))
                    Image.fromarray(moved).save(stream, "PNG", compress_level=1)
                    member = f"{name}/{name[7:].title()}/character{c + 1:03d}/{c:04d}_{drawing + 1:02d}.png"
                    archive.writestr(member, stream.getvalue())
    yield folder
    if kept := omniglot._cache_file(omniglot._sources(folder)):
        kept.unlink(missing_ok=True)


def pytest_collection_modifyitems(items: list) -> None:
    """The peers last: JAX starts threads, and the tests of `runs` fork, which after that could deadlock."""
    items.sort(key=lambda item: item.path.name in ("test_bench.py", "test_peers.py", "test_field.py"))
