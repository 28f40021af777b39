"""The pictures of a run show what they say, and every run has them, whatever its parts."""

import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

for library in ("matplotlib", "safetensors", "filelock", "tqdm"):
    pytest.importorskip(library)
from matplotlib import font_manager  # noqa: E402
from PIL import Image  # noqa: E402
from small_data import ACTED_IN  # noqa: E402

from tinymaml import maml, pictures  # noqa: E402
from tinymaml.algorithms import ALGORITHMS, takes_any  # noqa: E402
from tinymaml.engine import grad  # noqa: E402
from tinymaml.families import FAMILIES  # noqa: E402
from tinymaml.nest import tree_leaves, tree_map  # noqa: E402
from tinymaml.pictures import figures, learning, plot, steps, style, tiles, waves  # noqa: E402
from tinymaml.pictures.steps import after_steps  # noqa: E402
from tinymaml.runs import Run, evaluate  # noqa: E402
from tinymaml.runs.adaptation import measured, path, rate_of  # noqa: E402
from tinymaml.runs.loop import TEST, Learned, generator, restore, train  # noqa: E402
from tinymaml.runs.settings import Config  # noqa: E402

pytestmark = pytest.mark.usefixtures("quick_code")

TINY = dict(iterations=3, tasks=2, hidden=(6,), save_every=3, validate_every=2, validation_tasks=2)


def trained(out, family="sinusoid", **settings):
    train(Config.default(family, **{**TINY, **settings}), out, progress=False)
    return out


@pytest.fixture(scope="module")
def sinusoid(tmp_path_factory):
    settings = dict(iterations=12, tasks=3, hidden=(8,), validate_every=5, validation_tasks=4, inner_lr=0.02,
                    compile=False)  # fmt: skip
    return trained(tmp_path_factory.mktemp("run") / "sinusoid", **settings)


@pytest.fixture(scope="module")
def omniglot(tmp_path_factory, omniglot_data):
    settings = dict(data=str(omniglot_data), scheme="official", filters=4, blocks=1, shots=2, queries=3, inner_lr=0.4)
    del (tiny := dict(TINY))["hidden"]
    config = Config.default("omniglot", **{**tiny, **settings, "compile": False})
    out = tmp_path_factory.mktemp("run") / "omniglot"
    train(config, out, progress=False)
    return out


def with_options(run: Learned, **changes) -> Learned:
    """The same parameters, by other options."""
    from tinymaml.runs.learner import Learner

    config = run.config.changed(**changes)
    return run._replace(config=config, learner=Learner(config))


def records_of(out) -> list[dict]:
    return Run.open(out).read_log()


def line(ax, label: str):
    (found,) = [line for line in ax.lines if line.get_label().startswith(label)]
    return found


def draw(figure) -> None:
    """It is laid out and drawn, in a few pixels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure.set_dpi(20)
    FigureCanvasAgg(figure).draw()


def texts(figure) -> str:
    found = [figure.get_suptitle()]
    for ax in figure.axes:
        found += [ax.get_title(loc) for loc in ("left", "center")] + [text.get_text() for text in ax.texts]
    return "\n".join(found)


# ── every run has pictures ──────────────────────────────────────────────────────────────────────────────────────────


# Every algorithm with the family of the smallest pictures, and every family with one algorithm.
DRAWN = [("sinusoid", name) for name, algorithm in ALGORITHMS.items() if takes_any(algorithm)]
DRAWN += [(family, "maml") for family in [*FAMILIES, "user_family"] if family not in ("sinusoid", *ACTED_IN)]
DRAWN += [(family, "maml-rl") for family in sorted(ACTED_IN)]


# Their figures are MAML's with other numbers.
AS_MAML = {"anil", "boil", "hessian-free", "imaml", "joint", "perturbed", "proximal", "reptile", "meta-sgd"}
# Their own tests draw them too.
DRAWN_BESIDES = {"robot", "lines", "separators", "ratings", "digits", "growth", "speech", "intents", "navigation"}


@pytest.fixture
def few_tasks(monkeypatch):
    """Figures are of three tasks; that they are of 200 is said by `test_digits`."""
    for module in (steps, tiles):
        monkeypatch.setattr(module, "available", lambda run, split, tasks: 3)


@pytest.mark.parametrize("family, algorithm", [
    pytest.param(*names, marks=pytest.mark.slow if names[0] in DRAWN_BESIDES or names[1] in AS_MAML else ())
    for names in DRAWN
])  # fmt: skip
def test_every_family_can_be_drawn_and_every_algorithm(family, algorithm, small_data, tmp_path, few_tasks):
    settings = dict(algorithm=algorithm, compile=False, meta_lr=0.001, validation_tasks=3)
    settings |= small_data(family) if family in FAMILIES else dict(network="mlp")
    settings |= dict(filters=4, blocks=1) if family in ("omniglot", "images") else {}
    tiny = {name: x for name, x in TINY.items() if name != "hidden"}  # which not every network has
    train(Config.default(family, **{**tiny, **settings}), tmp_path / "run", progress=False)
    run, names = restore(tmp_path / "run"), []
    with np.errstate(all="ignore"):
        for name, figure in figures(run, records_of(tmp_path / "run"), tasks=3):
            names.append(name)
            draw(figure)
            title = figure.get_suptitle().replace("\n", " ")
            network = run.config.network.name
            assert title.startswith(run.config.family.name) and f"· {algorithm} · {network}" in title
            assert "seed 0" in title
    assert names[0] == "learning" and len(names) >= 2 + hasattr(FAMILIES.get(family), "pictures")
    assert names[-1] == (run.learner.metric.picture or f"adaptation_{run.learner.metric.name}")


def assert_pictures(paths, folder, names):
    assert paths == [folder / f"{name}.png" for name in names]
    assert sorted(file.name for file in folder.iterdir()) == sorted(path.name for path in paths)
    for file in paths:
        with Image.open(file) as image:
            assert image.format == "PNG"
            assert image.width == 1200 and 400 < image.height < 2400
            assert len(image.convert("RGB").reduce(4).getcolors(1 << 24)) > 20  # not an empty page


@pytest.fixture(scope="module")
def plotted(sinusoid):
    """The pictures of a run, and Matplotlib's settings before and after it drew them."""
    import matplotlib

    before = dict(matplotlib.rcParams)
    return plot(sinusoid), before, dict(matplotlib.rcParams)


def test_a_sinusoid_run_has_three_pictures_in_its_own_folder(sinusoid, plotted):
    assert_pictures(plotted[0], sinusoid / "plots", ["learning", "adaptation", "adaptation_mse"])


def test_a_run_of_the_first_format_is_drawn():
    path = Path(__file__).parent / "data" / "run_format_1"
    drawn = dict(figures(restore(path), records_of(path), tasks=3))
    assert list(drawn) == ["learning", "adaptation", "adaptation_mse"]
    np.testing.assert_array_equal(line(drawn["learning"].axes[0], "training, each").get_xdata(), np.arange(1, 7))


def test_an_omniglot_run_has_three_pictures_in_the_folder_one_names(omniglot, omniglot_data, tmp_path, few_tasks):
    paths = plot(omniglot, tmp_path / "a" / "b", data=str(omniglot_data))
    assert_pictures(paths, tmp_path / "a" / "b", ["learning", "tasks", "accuracy"])


def test_another_process_draws_the_same_bytes_and_never_loads_pyplot(sinusoid, plotted, tmp_path):
    paths, before, after = plotted
    assert after == before
    code = (
        "import sys; from tinymaml.pictures import plot; plot(*sys.argv[1:]);"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, sinusoid, tmp_path / "b"], check=True)
    for file in paths:
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


# ── what is drawn ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_learning_shows_every_logged_iteration_and_validation(sinusoid):
    records = records_of(sinusoid)
    (ax,) = learning(restore(sinusoid), records).axes
    raw, validation = line(ax, "training, each"), line(ax, "validation, 4 tasks after 1 step")
    np.testing.assert_array_equal(raw.get_xdata(), np.arange(1, 13))
    np.testing.assert_array_equal(raw.get_ydata(), [r["mse"] for r in records])
    np.testing.assert_array_equal(validation.get_xdata(), [5, 10])
    assert ax.get_yscale() == "log"
    assert ax.get_xlabel() == "meta-iteration" and ax.get_ylabel() == "query mean squared error"


def test_learning_to_classify_has_a_panel_of_the_loss_and_one_in_percent(omniglot):
    records = [{"iteration": i, "loss": 1.0 / i, "accuracy": i / 4} for i in (1, 2, 3)]
    loss, accuracy = learning(restore(omniglot), records).axes
    assert (loss.get_yscale(), accuracy.get_yscale()) == ("log", "linear")
    assert (loss.get_ylabel(), accuracy.get_ylabel()) == ("training loss", "query accuracy (%)")
    np.testing.assert_array_equal(line(accuracy, "training, each").get_ydata(), [25, 50, 75])


def test_the_smoothed_line_is_the_mean_of_the_values_around():
    from tinymaml.pictures.learning import smooth

    y = np.random.default_rng(0).normal(size=9)
    expected = [y[max(i - 2, 0) : i + 3].mean() for i in range(9)]
    np.testing.assert_allclose(smooth(y, 5), expected)
    np.testing.assert_allclose(smooth(y[:2], 5), [y[:2].mean()] * 2)


def test_adaptation_shows_the_wave_its_points_and_the_function_after_0_1_5_10_steps(sinusoid):
    run = restore(sinusoid)
    family, loss = run.learner.family, run.learner.loss
    axes = waves.adaptation(run, lambda rng: family.waves(rng, 1), (-5, 5), count=3).axes
    for i, ax in enumerate(axes[:3]):
        wave = family.waves(generator(run.config, TEST, i), 1)
        amplitude, phase = wave.amplitude.item(), wave.phase.item()
        x, y = line(ax, "truth").get_data()
        assert (x[0], x[-1]) == (-5, 5)
        # y = A sin(x − φ)
        np.testing.assert_allclose(y, amplitude * np.sin(x.astype(float) - phase), rtol=1e-12)
        xs, ys = line(ax, "support").get_data()
        assert len(xs) == 5
        np.testing.assert_allclose(ys, amplitude * np.sin(xs - phase), atol=1e-5)
        for label, count in {"before": 0, "after 1 ": 1, "after 5 ": 5, "after 10 ": 10}.items():
            support = (xs[:, None], ys[:, None])
            params = maml.adapt(lambda *a: loss(*a)[0], run.meta, support, inner_lr=0.02, inner_steps=count)
            expected = run.learner.network.apply(params, x[:, None]).ravel()
            np.testing.assert_allclose(line(ax, label).get_ydata(), expected, rtol=1e-4, atol=1e-4)


def test_the_state_of_an_inner_optimiser_lasts_from_step_to_step(tmp_path):
    run = restore(trained(tmp_path / "run", inner_optimizer="momentum", compile=False))
    support, _ = evaluate.task(run, "test", 0)
    gradient = grad(lambda theta: run.learner.loss(theta, *support)[0])
    expected, velocity = run.meta, tree_map(np.zeros_like, run.meta)
    for theta in path(run, support, 3):
        tree_map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), theta, expected)
        # m ← μ m + g,   θ ← θ − α m
        velocity = tree_map(lambda m, g: 0.9 * m + g, velocity, gradient(expected))
        expected = tree_map(lambda p, m: p - 0.005 * m, expected, velocity)


def test_published_points_stand_beside_the_settings_that_they_were_published_for(sinusoid, omniglot):
    run = restore(sinusoid)
    (ax,) = after_steps(run, tasks=3).axes
    np.testing.assert_array_equal(line(ax, "MAML, Finn").get_xdata(), [1, 5, 10])
    np.testing.assert_array_equal(line(ax, "MAML, Finn").get_ydata(), [0.67, 0.38, 0.35])
    assert line(ax, "MAML, Finn").get_marker() == "D"
    assert ax.get_yscale() == "log" and ax.get_ylabel() == "query mean squared error"
    (ax,) = after_steps(with_options(run, shots=10), tasks=3).axes
    assert not [line for line in ax.lines if "Finn" in line.get_label()]
    (ax,) = after_steps(with_options(restore(omniglot), shots=1), tasks=3, steps=4).axes
    np.testing.assert_array_equal(line(ax, "MAML, conv net, Finn").get_data(), [[3], [98.7]])


@pytest.mark.parametrize("algorithm", ["maml", "mamlpp"])
def test_the_error_after_steps_is_what_evaluate_measures(algorithm, tmp_path):
    out = trained(tmp_path / "run", algorithm=algorithm, compile=False)
    result = evaluate.evaluate(out, tasks=6)
    (ax,) = after_steps(restore(out), tasks=6).axes
    drawn = line(ax, algorithm)
    np.testing.assert_allclose(drawn.get_ydata(), result["mean"], rtol=1e-6)
    assert f"{result['mean'][-1]:.3g} ± {result['ci95'][-1]:.2g} after 10 steps" in drawn.get_label()


def test_joint_training_is_drawn_and_evaluated_by_the_rate_that_is_tuned(tmp_path):
    out = trained(tmp_path / "run", algorithm="joint", compile=False)
    run, result = restore(out), evaluate.evaluate(out, tasks=4)
    assert result["tuned"] and (result["inner_lr"],) == rate_of(run, 10)
    drawn = dict(figures(run, records_of(out), tasks=4))
    np.testing.assert_allclose(line(drawn["adaptation_mse"].axes[0], "joint").get_ydata(), result["mean"], rtol=1e-5)
    assert f"α = {result['inner_lr']:g} (tuned on validation tasks)" in texts(drawn["adaptation_mse"])
    assert "α = 0.005," in texts(drawn["learning"])  # that of its validation


def test_tasks_are_drawn_with_frames_that_count_to_the_accuracy(omniglot):
    run = restore(omniglot)
    family = run.learner.family

    def names(rng):
        return [family.name(c) for c in family.episodes(rng, 1, "test").classes[0]]

    figure = tiles.predictions(run, names, tasks=2)
    assert len(figure.axes) == 2
    for i, ax in enumerate(figure.axes):
        assert len(ax.images) == 5 * (2 + 3 + 3)  # ways × (shots + queries, before and after)
        right = np.array([frame.get_linewidth() == 1 for frame in ax.patches])
        assert right.shape == (2 * 5 * 3,)  # before and after × ways × queries
        support, (xq, yq) = evaluate.task(run, "test", i)
        thetas = list(path(run, support, 10))
        accuracy = [np.mean(run.learner.network.apply(p, xq).argmax(1) == yq) for p in (thetas[0], thetas[10])]
        np.testing.assert_allclose(right.reshape(2, 15).mean(1), accuracy)
        before, after = (f"{100 * part:.0f} %" for part in accuracy)
        assert f"Test task {i + 1}: accuracy {before} before adaptation, {after} after" in texts(figure)
        for c in family.episodes(generator(run.config, TEST, i), 1, "test").classes[0]:
            assert family.name(c).replace("_", " ").replace("/", "\n") in texts(figure)


def test_a_name_in_any_script_is_written_with_letters_or_escapes_and_never_with_boxes(monkeypatch):
    def drawn(name: str) -> str:
        figure = style.new(3, 1)
        text = figure.text(0, 0.5, **style.user_text(name))
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # "Glyph … missing from font"
            figure.canvas.draw()
        return text.get_text()

    for name in ("cat", "Äffchen", "собака", "γάτα", "كلب", "$5 and $", "x_y", r"a\\$b^{"):
        assert drawn(name) == name.replace("_", " ")
    assert drawn("Greek/alpha") == "Greek\nalpha"
    lines = drawn("a very long name of a class " * 5).split("\n")
    assert len(lines) == 2 and max(map(len, lines)) <= 28 and lines[1].endswith("…")
    usual = style.user_text("猫")["family"][:1]
    manager = font_manager.fontManager
    two = [font for font in manager.ttflist if font.name in ("DejaVu Sans", "STIXGeneral")]  # matplotlib brings both
    monkeypatch.setattr(manager, "ttflist", two)
    assert drawn("猫 cat \udc80") == r"\u732b cat \udc80" and style.user_text("猫 cat")["family"] == usual
    other = min(style._letters(font_of(manager, "STIXGeneral")) - style._letters(font_of(manager, "DejaVu Sans")))
    assert drawn(f"a{other}") == f"a{other}" and style.user_text(other)["family"] == [*usual, "STIXGeneral"]


def font_of(manager, name: str) -> str:
    return next(font.fname for font in manager.ttflist if font.name == name)


def test_accuracy_is_in_percent_and_chance_is_marked(omniglot):
    (ax,) = after_steps(restore(omniglot), tasks=3, steps=2).axes
    assert ax.get_ylabel() == "query accuracy (%)" and ax.get_ylim() == (0, 102)
    assert set(line(ax, "chance").get_ydata()) == {20}
    assert len(line(ax, "maml").get_xdata()) == 3 and max(line(ax, "maml").get_ydata()) > 1


@pytest.mark.parametrize("statistics", ["transductive", "support", "running"])
def test_the_title_names_the_parts_the_statistics_and_the_options_that_are_not_usual(statistics, tmp_path):
    settings = dict(network="mlp", norm="batch", statistics=statistics, first_order=True, seed=7, compile=False)
    run = restore(trained(tmp_path / "run", **settings))
    title = learning(run, records_of(tmp_path / "run")).get_suptitle()
    assert title.startswith(f"sinusoid, 5-shot · maml · mlp, batch norm: {statistics} · seed 7\n")
    assert "K = 1, α = 0.005, β = 0.006, 2 tasks, hidden 6, norm batch, first_order · after 3 meta-iterations" in title


def test_an_algorithm_has_its_colour_in_every_picture():
    alone = {name: style.colours([name])[0] for name in ALGORITHMS}
    assert len(set(alone.values())) == len(ALGORITHMS)
    assert style.colours(ALGORITHMS) == list(alone.values())
    first, second, other = style.colours(["maml", "maml", "reptile"])
    assert first == alone["maml"] and other == alone["reptile"] and second not in (first, other)
    assert style.colours(["maml", "my_package.my_algorithm"])[1] != alone["maml"]
    assert len(set(style.palette(40))) == 40 and style.palette(40)[:12] == style.palette(1)


# ── what diverges ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("compiled", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_run_that_diverges_is_drawn_as_far_as_it_goes(compiled, sinusoid):
    run = with_options(restore(sinusoid), inner_lr=1e4, compile=compiled)
    with np.errstate(all="ignore"):
        support, query = evaluate.task(run, "test", 0)
        thetas = list(path(run, support, 10))
        assert 1 <= len(thetas) < 11
        assert all(np.isfinite(leaf).all() for leaf in tree_leaves(thetas[-1]))
        found = measured(run, tree_map(lambda x: x[None], (support, query)), 10)
        assert found.shape == (1, 11) and np.isnan(found[0, -1]) and np.isfinite(found[0, 0])
        for _, figure in figures(run, records_of(sinusoid), tasks=3):
            draw(figure)
    (ax,) = figure.axes
    diverges = line(ax, "maml")
    assert diverges.get_label() == "maml: diverges"
    assert ax.get_ylim()[1] <= 10.001 * diverges.get_ydata()[0]


def test_the_tasks_that_diverge_are_found_among_those_that_do_not(sinusoid):
    run = restore(sinusoid)
    tasks = run.learner.sample(generator(run.config, TEST), 7, "test")
    (xs, ys), query = tasks
    wild = ys.copy()
    wild[[2, 5]] *= 1e20
    with np.errstate(all="ignore"):
        calm, found = measured(run, tasks, 4), measured(run, ((xs, wild), query), 4)
    assert np.isnan(found[:, -1]).tolist() == [False, False, True, False, False, True, False]
    good = [0, 1, 3, 4, 6]
    np.testing.assert_allclose(found[good], calm[good], rtol=1e-5)
    np.testing.assert_allclose(found[:, 0], calm[:, 0], rtol=1e-5)


# ── what is refused ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_run_without_an_iteration_is_refused(tmp_path):
    Run.create(tmp_path / "run", Config.default("sinusoid").to_json())
    with pytest.raises(ValueError, match="run has nothing to draw yet: its log holds no iteration"):
        plot(tmp_path / "run")
    assert not (tmp_path / "run" / "plots").exists()


def test_a_folder_that_cannot_be_made_is_named(sinusoid, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="cannot make .*file.plots"):
        plot(sinusoid, tmp_path / "file" / "plots")


def test_without_matplotlib_the_error_is_the_command_that_installs_it(sinusoid, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r'pip install "tinymaml\[plot\]"'):
        plot(sinusoid)


def test_importing_the_package_needs_no_extra():
    code = "import sys; import tinymaml.pictures; assert not {'matplotlib', 'tqdm', 'PIL'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_pictures_name_no_family():
    for file in Path(pictures.__file__).parent.glob("*.py"):
        code = file.read_text(encoding="utf-8").partition('"""')[2].partition('"""')[2]  # beyond the docstring
        code = code.replace('result["lines"]', "")  # the rows of a comparison
        assert not {name for name in FAMILIES if f'"{name}"' in code or f"families.{name}" in code}, file
