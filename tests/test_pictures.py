"""The pictures of a run show what they say, and every run has them."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("matplotlib")
from PIL import Image

from tinymaml import plot as plots
from tinymaml.maml import adapt
from tinymaml.nest import tree_leaves
from tinymaml.plot import PRETRAINED, Net, Trained, plot
from tinymaml.runs import Run
from tinymaml.train import TEST, Config, build, generator, restore, train


@pytest.fixture(scope="module")
def sinusoid(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "sinusoid"
    settings = dict(iterations=12, tasks=3, hidden=(8,), validate_every=5, validation_tasks=4, inner_lr=0.02)
    train(Config.default("sinusoid", **settings), path)
    return path


@pytest.fixture(scope="module")
def omniglot(tmp_path_factory, data_dir):
    path = tmp_path_factory.mktemp("run") / "omniglot"
    settings = dict(iterations=2, tasks=2, filters=4, shots=2, queries=3, validation_tasks=2)
    train(Config.default("omniglot", data=str(data_dir / "omniglot"), **settings), path)
    return path


def trained(path) -> Trained:
    return Trained(*restore(path))


def nets_of(run: Trained, rate: float = 0.02) -> dict[str, Net]:
    return {"MAML": Net(run.params, run.config.inner_lr), PRETRAINED: Net(run.params, rate)}


def line(ax, label: str):
    (found,) = [line for line in ax.lines if line.get_label().startswith(label)]
    return found


def texts(figure) -> str:
    found = [figure.get_suptitle()]
    for ax in figure.axes:
        found += [ax.get_title(loc) for loc in ("left", "center")] + [text.get_text() for text in ax.texts]
    return "\n".join(found)


# ── what is written ─────────────────────────────────────────────────────────────────────────────────────────────────


def assert_pictures(paths, folder, names):
    assert paths == [folder / f"{name}.png" for name in names]
    assert sorted(file.name for file in folder.iterdir()) == sorted(path.name for path in paths)
    for path in paths:
        with Image.open(path) as image:
            assert image.format == "PNG"
            assert image.width == 1200 and 400 < image.height < 2400
            assert len(image.convert("RGB").getcolors(1 << 24)) > 20  # not an empty page


def test_a_sinusoid_run_has_three_pictures_in_its_own_folder(sinusoid):
    assert_pictures(plot(sinusoid), sinusoid / "plots", ["learning", "adaptation", "adaptation_mse"])


def test_an_omniglot_run_has_three_pictures_in_the_folder_one_names(omniglot, data_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "STEPS", 2)
    paths = plot(omniglot, tmp_path / "a" / "b", data=str(data_dir / "omniglot"))
    assert_pictures(paths, tmp_path / "a" / "b", ["learning", "tasks", "accuracy"])


def test_another_process_draws_the_same_bytes_and_never_loads_pyplot(sinusoid, tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    paths = plot(sinusoid, tmp_path / "a")
    assert dict(matplotlib.rcParams) == before
    code = (
        "import sys; from tinymaml.plot import plot; plot(*sys.argv[1:]); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, sinusoid, tmp_path / "b"], check=True)
    for path in paths:
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


# ── what is drawn ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_learning_shows_every_logged_iteration_and_validation(sinusoid):
    config, records = trained(sinusoid).config, Run.open(sinusoid).read_log()
    (ax,) = plots.learning(config, records).axes
    raw, validation = line(ax, "training, each"), line(ax, "validation")
    np.testing.assert_array_equal(raw.get_xdata(), np.arange(1, 13))
    np.testing.assert_array_equal(raw.get_ydata(), [r["mse"] for r in records])
    np.testing.assert_array_equal(validation.get_xdata(), [5, 10])
    assert ax.get_yscale() == "log"
    assert ax.get_xlabel() == "meta-iteration" and ax.get_ylabel() == "query mean squared error after 1 step"


def test_learning_to_classify_has_a_panel_in_nats_and_one_in_percent():
    records = [{"iteration": i, "loss": 1.0 / i, "accuracy": i / 4} for i in (1, 2, 3)]
    loss, accuracy = plots.learning(Config.default("omniglot"), records).axes
    assert (loss.get_yscale(), accuracy.get_yscale()) == ("log", "linear")
    assert "nats" in loss.get_ylabel() and "(%)" in accuracy.get_ylabel()
    np.testing.assert_array_equal(line(accuracy, "training, each").get_ydata(), [25, 50, 75])


def test_the_smoothed_line_is_the_mean_of_the_values_around():
    y = np.random.default_rng(0).normal(size=9)
    expected = [y[max(i - 2, 0) : i + 3].mean() for i in range(9)]
    np.testing.assert_allclose(plots._smooth(y, 5), expected)
    np.testing.assert_allclose(plots._smooth(y[:2], 5), [y[:2].mean()] * 2)


def test_adaptation_shows_the_wave_its_points_and_the_function_after_0_1_5_10_steps(sinusoid):
    run = trained(sinusoid)
    axes = plots.adaptation(run, nets_of(run), waves=3).axes
    assert len(axes) == 6 and axes[0].get_ylabel() == "MAML\nrate 0.02\ny" and axes[-1].get_xlabel() == "x"
    for column in range(3):
        waves = run.family.waves(generator(run.config, TEST, column), 1)
        amplitude, phase = waves.amplitude.item(), waves.phase.item()
        for ax in (axes[column], axes[column + 3]):
            x, y = line(ax, "truth").get_data()
            assert (x[0], x[-1]) == (-5, 5)
            # y = A sin(x − φ)
            np.testing.assert_allclose(y, amplitude * np.sin(x - phase), rtol=1e-12)
            xs, ys = line(ax, "support").get_data()
            assert len(xs) == 5
            np.testing.assert_allclose(ys, amplitude * np.sin(xs - phase), atol=1e-5)
            for label, steps in {"before": 0, "after 1 ": 1, "after 5 ": 5, "after 10 ": 10}.items():
                support = (xs[:, None], ys[:, None])
                params = adapt(lambda *args: run.loss(*args)[0], run.params, support, inner_lr=0.02, inner_steps=steps)
                expected = run.network.apply(params, x[:, None].astype(np.float32)).ravel()
                np.testing.assert_allclose(line(ax, label).get_ydata(), expected, rtol=1e-4, atol=1e-4)


def test_the_published_points_stand_beside_a_5_shot_run_only(sinusoid):
    run = trained(sinusoid)
    (ax,) = plots.after_steps(run, nets_of(run), tasks=3).axes
    np.testing.assert_array_equal(line(ax, "MAML, Finn").get_xdata(), [1, 5, 10])
    np.testing.assert_array_equal(line(ax, "MAML, Finn").get_ydata(), [0.67, 0.38, 0.35])
    assert ax.get_yscale() == "log" and ax.get_ylabel() == "query mean squared error"
    other = run._replace(config=dataclasses.replace(run.config, shots=10))
    (ax,) = plots.after_steps(other, nets_of(run), tasks=3).axes
    assert not [line for line in ax.lines if "Finn" in line.get_label()]


def test_the_error_after_steps_is_what_evaluate_measures(sinusoid):
    from tinymaml.evaluate import evaluate

    run, result = trained(sinusoid), evaluate(sinusoid, tasks=6)
    (ax,) = plots.after_steps(run, {"MAML": Net(run.params, run.config.inner_lr)}, tasks=6).axes
    drawn = line(ax, "MAML, rate")
    np.testing.assert_allclose(drawn.get_ydata(), result["mean"], rtol=1e-6)
    assert f"{result['mean'][-1]:.3g} ± {result['ci95'][-1]:.2g} after 10 steps" in drawn.get_label()


def test_tasks_are_drawn_with_frames_that_count_to_the_accuracy(omniglot):
    run = trained(omniglot)
    net = Net(run.params, run.config.inner_lr)
    figure = plots.predictions(run, net, tasks=2)
    assert len(figure.axes) == 2
    for i, ax in enumerate(figure.axes):
        assert len(ax.images) == 5 * (2 + 3 + 3)  # ways × (shots + queries, before and after)
        right = np.array([frame.get_linewidth() == 1 for frame in ax.patches])
        assert right.shape == (2 * 5 * 3,)  # before and after × ways × queries
        support, (xq, yq) = plots._task(run, "test", i)
        path = plots._path(run.loss, net, support)
        accuracy = [np.mean(run.network.apply(params, xq).argmax(1) == yq) for params in (path[0], path[10])]
        np.testing.assert_allclose(right.reshape(2, 15).mean(1), accuracy)
        before, after = (f"{100 * part:.0f} %" for part in accuracy)
        assert f"Test task {i + 1}: accuracy {before} before adaptation, {after} after" in texts(figure)
        for character in run.family.episodes(generator(run.config, TEST, i), 1, "test").classes[0] // 4:
            assert run.family.characters.names[character].replace("_", " ").replace("/", "\n") in texts(figure)


def test_accuracy_is_in_percent_and_chance_is_marked(omniglot, monkeypatch):
    monkeypatch.setattr(plots, "STEPS", 2)
    run = trained(omniglot)
    (ax,) = plots.after_steps(run, {"MAML": Net(run.params, 0.4)}, tasks=3).axes
    assert ax.get_ylabel() == "query accuracy (%)" and ax.get_ylim() == (0, 102)
    assert set(line(ax, "chance").get_ydata()) == {20}
    assert len(line(ax, "MAML").get_xdata()) == 3 and max(line(ax, "MAML").get_ydata()) > 1


# ── the network it is compared with ─────────────────────────────────────────────────────────────────────────────────


def test_pretraining_regresses_towards_the_mean_wave():
    config = Config.default("sinusoid", validation_tasks=5)
    run = Trained(config, *build(config), params=None, iteration=0)
    x = np.linspace(-5, 5, 101)
    # E[A] E[sin(x − φ)] = 2.55 · 2/π · (−cos x), for A in [0.1, 5] and φ in [0, π]
    mean_wave = -2.55 * 2 / np.pi * np.cos(x)
    distance = []
    for iterations in (1, 400):
        with np.errstate(all="ignore"):  # some of the rates that are tried diverge
            net = plots.pretrain(run, iterations)
        assert net.rate in plots.RATES
        y = run.network.apply(net.params, x[:, None].astype(np.float32)).ravel()
        distance.append(np.mean((y - mean_wave) ** 2))
    assert distance[1] < 1.0 < distance[0]


def test_a_net_that_diverges_is_drawn_as_far_as_it_goes(sinusoid, tmp_path):
    run = trained(sinusoid)
    with np.errstate(all="ignore"):
        support, query = plots._task(run, "test", 0)
        path = plots._path(run.loss, Net(run.params, 1e4), support)
        assert 1 <= len(path) < 1 + plots.STEPS
        assert all(np.isfinite(leaf).all() for leaf in tree_leaves(path[-1]))
        measured = plots.measure(run, Net(run.params, 1e4), [(support, query)])
        assert measured.shape == (1, 11) and measured[0, -1] == np.inf and np.isfinite(measured[0, 0])
        plots.adaptation(run, nets_of(run, 1e4)).savefig(tmp_path / "picture.png")
        figure = plots.after_steps(run, nets_of(run, 1e4), tasks=3)
        figure.savefig(tmp_path / "picture.png")
    assert line(figure.axes[0], f"{PRETRAINED}, rate").get_label() == f"{PRETRAINED}, rate 10000: diverges"
    assert figure.axes[0].get_ylim()[1] <= 1000


# ── what is refused ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_run_without_an_iteration_is_refused(tmp_path):
    Run.create(tmp_path / "run", dataclasses.asdict(Config.default("sinusoid")))
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


def test_importing_the_module_needs_no_extra():
    code = "import sys; import tinymaml.plot; assert not {'matplotlib', 'tqdm', 'PIL'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
