"""What users do: their own family, network and algorithm, and what was trained on examples of theirs."""

import io
import itertools
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

for library in ("safetensors", "filelock", "tqdm", "threadpoolctl"):
    pytest.importorskip(library)

import tinymaml as tm  # noqa: E402
from tinymaml import nn  # noqa: E402
from tinymaml.cli import main  # noqa: E402
from tinymaml.nest import tree_items, tree_leaves  # noqa: E402
from tinymaml.runs import Run  # noqa: E402
from tinymaml.runs.adaptation import measured as measured_on  # noqa: E402
from tinymaml.runs.adaptation import stacked_tasks, task  # noqa: E402
from tinymaml.runs.evaluate import evaluate  # noqa: E402
from tinymaml.runs.loop import restore, train  # noqa: E402
from tinymaml.runs.settings import Config  # noqa: E402

pytestmark = pytest.mark.usefixtures("own_cache", "quick_code")
SMALL = dict(tasks=2, iterations=4, save_every=2, validate_every=2, validation_tasks=2, queries=4)
WORDS = [word for name, value in SMALL.items() for word in (f"--{name.replace('_', '-')}", str(value))]

FAMILY = (Path(__file__).parent / "user_family.py").read_text(encoding="utf-8")
NETWORK = """
import numpy as np
from tinymaml import nn
from tinymaml.networks import Network

def make(family, settings):
    n, outputs = int(np.prod(family.input_shape)), family.outputs
    draw = nn.glorot_uniform
    return Network(
        lambda rng, dtype: {"w": draw(rng, (n, 8), dtype), "v": draw(rng, (8, outputs), dtype)},
        lambda params, x: np.tanh(np.reshape(x, (x.shape[0], -1)) @ params["w"]) @ params["v"],
    )
"""
ALGORITHM = """
from dataclasses import dataclass
from itertools import islice
import tinymaml as tm

@dataclass(frozen=True)
class Settings:
    inner_steps: int = 3
    inner_lr: float = 0.05

def init(theta, settings):
    return theta

def adapt(loss, theta, support, settings):
    while True:
        yield theta
        grads = tm.grad(lambda theta: loss(theta, *support)[0])(theta)
        theta = tm.tree_map(lambda p, g: p - settings.inner_lr * g, theta, grads)

def of_task(loss, theta, support, query, settings):
    *_, adapted = islice(adapt(loss, theta, support, settings), settings.inner_steps + 1)
    return loss(adapted, *query), tm.tree_map(lambda p, q: p - q, theta, adapted)
"""
numbers = itertools.count()


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A function: writes a module of the user's into the working directory, and returns its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(code: str) -> str:
        name = f"mine_{next(numbers)}"
        (tmp_path / f"{name}.py").write_text(code, encoding="utf-8")
        return name

    yield write
    for name in [name for name in sys.modules if name.startswith("mine_")]:
        del sys.modules[name]


def trained(path, family="sinusoid", **options) -> Path:
    small = {**SMALL, "hidden": (6,)} if options.get("network") in (None, "mlp") and family != "omniglot" else SMALL
    train(Config.default(family, **{**small, **options}), path, progress=False)
    return path


def fails(capsys, *command) -> str:
    """The one line that says what went wrong."""
    capsys.readouterr()
    assert main([str(word) for word in command]) == 1
    out, err = capsys.readouterr()
    *_, line = [line for line in err.splitlines() if line.strip() and not line.startswith("family=")]
    assert line.startswith("tinymaml: ") and out == ""
    return line.removeprefix("tinymaml: ")


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def wave(n: int, seed: int = 0):
    x = rng(seed).uniform(-5, 5, (n, 1))
    return x, np.sin(x)


# ── members of one's own ────────────────────────────────────────────────────────────────────────────────────────────


def test_the_whole_way_with_a_family_a_network_and_an_algorithm_of_ones_own(module, tmp_path, capsys):
    family, network, algorithm = module(FAMILY), module(NETWORK), module(ALGORITHM)
    chosen = [family, "--network", f"{network}:make", "--algorithm", algorithm, *WORDS]
    assert main(["train", *chosen, "--out", "whole"]) == 0
    assert main(["train", *chosen, "--out", "halves", "--iterations", "2"]) == 0
    assert main(["train", family, "--out", "halves", "--resume", "--iterations", "4"]) == 0
    whole, halves = Run.open("whole"), Run.open("halves")
    assert whole.load().arrays.keys() == halves.load().arrays.keys()
    for name, x in whole.load().arrays.items():
        assert x.tobytes() == halves.load().arrays[name].tobytes()
    assert whole.read_log() == halves.read_log()
    capsys.readouterr()
    assert main(["eval", "whole", "--tasks", "3", "--steps", "2"]) == 0
    assert f"{algorithm}, {network}:make" in capsys.readouterr().out
    np.savez("s.npz", x=[[-1.0], [1.0]], y=[[0.0], [2.0]])
    np.savez("q.npz", x=[[0.5]])
    assert main(["adapt", "whole", "--support", "s.npz", "--query", "q.npz"]) == 0
    head, row = capsys.readouterr().out.splitlines()
    assert head == "example,prediction" and row.startswith("0,")


def test_help_shows_the_options_of_ones_own_parts(module, capsys):
    with pytest.raises(SystemExit):
        main(["train", module(FAMILY), "--algorithm", module(ALGORITHM), "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "--shots SHOTS (default: 10)" in shown and "--inner-steps INNER_STEPS (default: 3)" in shown


def test_an_algorithm_of_ones_own_is_that_of_the_table(module, tmp_path):
    """Reptile, written as a user would, against the one that is here."""
    same = dict(inner_steps=3, inner_lr=0.05, meta_lr=0.1, optimizer="sgd", schedule="constant", dtype="float64",
                compile=False)  # fmt: skip
    mine = restore(trained(tmp_path / "mine", algorithm=module(ALGORITHM), **same)).meta
    ours = restore(trained(tmp_path / "ours", algorithm="reptile", inner_clip_norm=0.0, **same)).meta
    for (path, x), y in zip(tree_items(mine), tree_leaves(ours), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-10, atol=1e-14, err_msg=path)


def changed(code: str, old: str, new: str) -> str:
    assert code.count(old) == 1
    return code.replace(old, new)


WRONG = {  # what is wrong: the role, the code, the message
    "no such module": (
        "family",
        None,
        "family is 'absent_tasks', wanted one of sinusoid, .*or a module of your own",
    ),
    "syntax": ("family", "def make(:\n", r"cannot be imported: SyntaxError: invalid syntax \(mine_\d+.py, line 1\)"),
    "import": (
        "family",
        "import absent_library\n",
        r"the module mine_\d+ cannot be imported: No module named 'absent_library'"
        r" \(mine_\d+.py, line 1\)",
    ),
    "name": (
        "algorithm",
        "\nx = y\n",
        r"cannot be imported: NameError: name 'y' is not defined \(mine_\d+.py, line 2\)",
    ),
    "no make": ("family", "def makes(settings): pass", "has no function make; a family wants Settings, make"),
    "no of_task": (
        "algorithm",
        ALGORITHM.partition("def of_task")[0],
        "has no function of_task; an algorithm wants Settings, init, adapt, of_task",
    ),
    "settings": ("family", changed(FAMILY, "@dataclass(frozen=True)\n", ""), "its Settings is no dataclass"),
    "two options of a name": (
        "algorithm",
        changed(ALGORITHM, "inner_lr: float = 0.05", "shots: int = 3"),
        r"sinusoid \(family\) and mine_\d+ \(algorithm\) both have an option shots",
    ),
    "make raises": (
        "family",
        changed(FAMILY, "self.settings = settings", "self.shots = settings.shot"),
        r"make: AttributeError: 'Settings' object has no attribute 'shot' \(mine_\d+.py, line 21\)",
    ),
    "make lacks": (
        "family",
        changed(FAMILY, "input_shape, outputs = (1,), 1", "outputs = 1"),
        "what make returns has no input_shape",
    ),
    "metric": ("family", changed(FAMILY, '"name": "mse", ', ""), "and at least a name; seen label"),
    "sample raises": (
        "family",
        changed(FAMILY, "rng.uniform(1, 3,", "rng.uniforms(1, 3,"),
        r"sample: AttributeError: .* has no attribute 'uniforms' \(mine_\d+.py, line 24\)",
    ),
    "sample lacks": (
        "family",
        changed(FAMILY, ", (xq, height * (xq > place))", ""),
        r"sample\(rng, 2, 'val'\) returned \(float32 \(2, 10, 1\), .*\), wanted \(\(xs, ys\), \(xq, yq\)\)",
    ),
    "no axis of tasks": (
        "family",
        changed(FAMILY, "return (xs, ", "return (xs[0], "),
        r"of 2 tasks, xs has shape \(10, 1\), wanted \(2, examples, …\): the tasks on axis 0",
    ),
    "another shape": (
        "family",
        changed(FAMILY, "(1,), 1", "(2,), 1"),
        r"xs has shape \(2, 10, 1\), wanted \(2, examples, 2\), as its input_shape says",
    ),
    "fewer targets": (
        "family",
        changed(FAMILY, "height * (xs > place))", "(height * (xs > place))[:, 1:])"),
        "xs has 10 examples, and ys has 9",
    ),
    "nan": (
        "family",
        changed(FAMILY, "height * (xq > place))", "np.nan * xq)").replace(
            "from tinymaml", "import numpy as np\nfrom tinymaml"
        ),
        "the query set of task 0: .* is not finite",
    ),
    "loss": (
        "family",
        changed(FAMILY, "return error, error", "return error"),
        r"loss returned float32 \(\), wanted \(loss, metric\)",
    ),
    "loss raises": (
        "family",
        changed(FAMILY, "nn.mse(prediction, y)", "nn.mse(prediction, y[:1])"),
        r"loss: mse: .* \(mine_\d+.py, line 29\)",
    ),
    "network returns nothing": (
        "network",
        "def make(family, settings): pass",
        "what make returns has no function init, apply",
    ),
    "network's shape": (
        "network",
        changed(NETWORK, '@ params["v"],', '@ params["v"][:, :0],'),
        r"apply returned float32 \(4, 0\) for 4 examples, wanted the shape \(4, 1\)",
    ),
    "network raises": (
        "network",
        changed(NETWORK, '@ params["v"],', '@ params["u"],'),
        r"apply: KeyError: 'u' \(mine_\d+.py, line 11\)",
    ),
    "network's integers": (
        "network",
        changed(NETWORK, "draw(rng, (n, 8), dtype)", "np.ones((n, 8), int)"),
        r"what init returned\['w'\] has dtype int64, wanted floating point",
    ),
    "of_task": (
        "algorithm",
        changed(ALGORITHM, "return loss(adapted, *query), ", "return loss(adapted, *query)[0], "),
        r"of_task of mine_\d+ returned \(float32 \(\), .*\), wanted \(\(loss, aux\), gradient\)",
    ),
    "gradient": (
        "algorithm",
        changed(ALGORITHM, "return loss(adapted, *query), ", "return loss(adapted, *query), 1.0 #"),
        "of_task returned the gradient 1.0, wanted one shaped like meta",
    ),
    "adapt ends": (
        "algorithm",
        changed(ALGORITHM, "while True:", "for _ in range(1):"),
        "adapt gave 1 of θ₀, θ₁, …; wanted a generator",
    ),
    "adapt gives": (
        "algorithm",
        changed(ALGORITHM, "yield theta", "yield [theta]"),
        "the loss does not accept what adapt gave, .*: TypeError: list indices",
    ),
    "adapt raises": (
        "algorithm",
        changed(ALGORITHM, "settings.inner_lr * g", "settings.lr * g"),
        r"adapt: AttributeError: 'Settings' object has no attribute 'lr' \(mine_\d+.py, line 18\)",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_part_that_is_wrong_is_named_while_there_is_no_run_yet(what, module, capsys):
    role, code, message = WRONG[what]
    name = "absent_tasks" if code is None else module(code)
    name = f"{name}:make" if role == "network" else name
    command = ["train", name] if role == "family" else ["train", "sinusoid", f"--{role}", name]
    try:
        code = main([*command, *WORDS, "--out", "run"])
    except SystemExit as exit:  # it is not even known which options there are
        code = exit.code
    line = capsys.readouterr().err.splitlines()[-1]
    assert code in (1, 2) and line.startswith("tinymaml") and not Path("run").exists()
    assert re.search(message, line), line


def test_a_thing_in_a_module_is_a_part_too(module):
    name = module(FAMILY)
    assert Config.default(f"{name}:Steps", hidden=(3,)).family.settings.shots == 10
    with pytest.raises(ValueError, match=f"the module {name} has nothing that is called Stairs"):
        Config.default(f"{name}:Stairs")


# ── tm.load ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def sine(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("runs") / "sine", inner_steps=2, inner_lr=0.01, compile=False)


@pytest.mark.parametrize("algorithm", ["maml", "mamlpp", "cavia", "anil", "meta-sgd", "reptile", "imaml", "joint"])
def test_what_is_loaded_adapts_and_predicts_as_evaluation_does(algorithm, tmp_path):
    path = trained(tmp_path / "run", algorithm=algorithm, compile=False)
    learned, model = restore(path), tm.load(path)
    (xs, ys), (xq, yq) = task(learned, "test", 0)
    measured = [float(np.mean((model.adapt(xs, ys, steps).predict(xq) - yq) ** 2)) for steps in range(3)]
    np.testing.assert_allclose(measured, measured_on(learned, stacked_tasks(learned, "test", [0]), 2)[0], rtol=1e-5)
    assert model.adapt(xs, ys).steps == model.steps == learned.learner.steps


def test_a_model_says_what_it_is_and_never_changes(sine):
    model = tm.load(sine)
    adapted = model.adapt(*wave(5))
    assert (model.iteration, model.steps, adapted.steps) == (4, 2, 2) and model.config == restore(sine).config
    assert (
        repr(adapted) == "<Adapted: 2 steps on 5 examples, from <Model: maml, mlp, sinusoid, after 4 meta-iterations>>"
    )
    for x in tree_leaves((model.params, adapted.params)):
        assert not x.flags.writeable
    x, y = wave(5)
    before = model.adapt(x, y)
    outputs = before.predict([[1.0]])
    x[:], y[:] = 0, 0
    outputs_later = before.predict([[1.0]])
    np.testing.assert_array_equal(outputs, outputs_later)
    outputs[:] = 7  # it is the caller's
    np.testing.assert_array_equal(before.predict([[1.0]]), outputs_later)


def test_checkpoints_and_the_network_before_training(sine):
    late, early, new = tm.load(sine), tm.load(sine, iteration=2), tm.load(sine, iteration=0)
    assert [model.iteration for model in (late, early, new)] == [4, 2, 0]
    predictions = [model.adapt(*wave(5)).predict(wave(3)[0]) for model in (late, early, new)]
    assert not np.array_equal(predictions[0], predictions[1]) and not np.array_equal(predictions[1], predictions[2])
    np.testing.assert_array_equal(new.adapt(*wave(5), steps=0).params["linear0"]["w"], new.params["linear0"]["w"])
    with pytest.raises(FileNotFoundError, match="no checkpoint 3 in"):
        tm.load(sine, iteration=3)
    with pytest.raises(FileNotFoundError, match="nowhere is not a run"):
        tm.load("nowhere")
    with pytest.raises(ValueError, match="has no option data"):
        tm.load(sine, data="somewhere")


def test_a_run_of_the_first_format_is_used():
    model = tm.load(Path(__file__).parent / "data" / "run_format_1")
    assert model.adapt([[1], [2]], [[0.5], [0.7]]).predict([[1.5]]).shape == (1, 1)
    with pytest.raises(ValueError, match=r"y has shape \(2,\), wanted \(N, 1\)"):
        model.adapt([[1], [2]], [0.5, 0.7])


def test_numbers_of_any_type_and_lists_become_what_training_had(sine):
    model = tm.load(sine)
    x, y = np.arange(5.0)[:, None], np.ones((5, 1))
    wanted = model.adapt(x, y).predict(x)
    assert wanted.dtype == np.float32 and wanted.shape == (5, 1) and isinstance(wanted, np.ndarray)
    for other in (x.astype(np.float32), x.astype(np.int8), x.tolist(), x[::-1][::-1]):
        np.testing.assert_array_equal(model.adapt(other, y.astype(bool)).predict(other), wanted)


X, Y = wave(5)


@pytest.mark.parametrize(
    "x, y, steps, error, message",
    [
        (X[:, 0], Y, None, ValueError, r"x has shape \(5,\), wanted \(N, 1\), with N examples of at least 1"),
        (X[None], Y, None, ValueError, r"x has shape \(1, 5, 1\), wanted \(N, 1\)"),
        (X[:0], Y[:0], None, ValueError, r"x has shape \(0, 1\), wanted"),
        (1.0, Y, None, ValueError, r"x has shape \(\), wanted"),
        (X, Y[:, 0], None, ValueError, r"y has shape \(5,\), wanted \(N, 1\)"),
        (X, Y[:4], None, ValueError, "x has 5 examples, and y has 4 targets"),
        ({"a": X}, Y, None, ValueError, r"wanted x; seen x\['a'\]"),
        ([[1.0], [2.0, 3.0]], Y, None, ValueError, "x is no array: "),
        (X * np.nan, Y, None, ValueError, r"x is not finite: 5 of 5, first nan at \[0, 0\]"),
        (X, Y * 1e300, None, ValueError, "y is not finite"),  # in float32
        (X * 1j, Y, None, TypeError, "x has dtype complex128, wanted numbers"),
        ([["a"]] * 5, Y, None, TypeError, "x has dtype <U1, wanted numbers"),
        (X, Y, -1, ValueError, "steps is -1, wanted an integer in 0"),
        (X, Y, [0, 1], ValueError, r"steps is \[0, 1\], wanted an integer"),
        (X * 1e30, Y, None, FloatingPointError, "inner step 0: the support loss is inf"),
    ],
)
def test_examples_that_do_not_fit_are_refused(sine, x, y, steps, error, message):
    with pytest.raises(error, match=message):
        tm.load(sine).adapt(x, y, steps)


def test_queries_that_do_not_fit_are_refused(sine):
    adapted = tm.load(sine).adapt(X, Y)
    with pytest.raises(ValueError, match=r"x has shape \(5,\), wanted \(N, 1\)"):
        adapted.predict(X[:, 0])
    with pytest.raises(ValueError, match="x is not finite"):
        adapted.predict(X * np.inf)


@pytest.mark.parametrize("name", ["adapted.npz", "adapted", "adapted.safetensors"])
def test_saved_parameters_are_those_of_the_network(sine, tmp_path, name):
    adapted = tm.load(sine).adapt(X, Y)
    (tmp_path / name).write_bytes(b"older")
    adapted.save(tmp_path / name)
    if name.endswith("safetensors"):
        from safetensors.numpy import load_file

        saved = load_file(tmp_path / name)
    else:
        with np.load(tmp_path / name, allow_pickle=False) as file:
            saved = dict(file)
    assert list(saved) == sorted(saved) or not name.endswith("safetensors")
    assert saved.keys() == {f"params{path}" for path, _ in tree_items(adapted.params)}
    for path, x in tree_items(adapted.params):
        np.testing.assert_array_equal(saved[f"params{path}"], x)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    with pytest.raises(OSError, match="cannot write"):
        adapted.save(tmp_path / "absent" / name)


def test_tinymaml_is_imported_with_numpy_alone():
    heavy = {"safetensors", "tqdm", "filelock", "numba", "tinymaml.runs"}
    code = f"import sys, tinymaml; print(*({heavy} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


NESTED = '''
import numpy as np
from tinymaml import nn
from tinymaml.networks import Network

class Bags:
    """Sets of words of different lengths, padded: the mean of their vectors is to be found."""
    input_shape, outputs, metric = (3,), 1, {"name": "mse"}

    def sample(self, rng, tasks, split):
        def draw(n):
            words, mask = rng.integers(0, 9, (tasks, n, 3)), rng.random((tasks, n, 3)) < 0.8
            return {"words": words, "mask": mask}, (words * mask).mean(2, keepdims=True) / 9
        return draw(5), draw(6)

    def loss(self, prediction, y):
        error = nn.mse(prediction, y)
        return error, error

def make(settings):
    return Bags()

def network(family, settings):
    return Network(
        lambda rng, dtype: {"vectors": rng.normal(size=(9, 1)).astype(dtype)},
        lambda params, x: np.mean(nn.embedding(params["vectors"], x["words"])[..., 0] * x["mask"], 1, keepdims=True),
    )
'''


def test_examples_may_be_nests_with_integers(module, tmp_path):
    name = module(NESTED)
    options = {**SMALL, "compile": False}
    del options["queries"]
    train(Config.default(name, network=f"{name}:network", **options), "run", progress=False)
    model = tm.load("run")
    x, y = {"words": np.array([[1, 2, 3], [4, 5, 6]]), "mask": np.ones((2, 3), bool)}, [[0.1], [0.2]]
    assert model.adapt(x, y).predict(x).shape == (2, 1)
    for bad, error, message in (
        (x["words"], ValueError, r"wanted x\['words'\], x\['mask'\]; seen x"),
        ({**x, "words": x["words"] / 2}, TypeError, r"x\['words'\] has dtype float64, wanted integers"),
        ({**x, "mask": x["words"]}, TypeError, r"x\['mask'\] has dtype int64, wanted True or False"),
        ({**x, "mask": x["mask"][:1]}, ValueError, r"x\['mask'\] has 1 examples, wanted 2"),
    ):
        with pytest.raises(error, match=message):
            model.adapt(bad, y)


# ── the statistics of batch norm ────────────────────────────────────────────────────────────────────────────────────

STATISTICS = ("transductive", "support", "running")
K = 2


@pytest.fixture(scope="module")
def normed(tmp_path_factory):
    """A function: the run of an algorithm with batch norm and its statistics; each is trained once."""
    runs = {}

    def of(statistics: str, algorithm: str) -> Path:
        if (statistics, algorithm) not in runs:
            runs[statistics, algorithm] = normed_run(tmp_path_factory.mktemp("normed") / "run", statistics, algorithm)
        return runs[statistics, algorithm]

    return of


def normed_run(path: Path, statistics: str, algorithm: str, **options) -> Path:
    options = {"norm": "batch", "inner_steps": K, "inner_lr": 0.01, "compile": False, **options}
    return trained(path, algorithm=algorithm, statistics=statistics, **options)


every_statistics = pytest.mark.parametrize("statistics", STATISTICS)
two_algorithms = pytest.mark.parametrize("algorithm", ["maml", "mamlpp"])


@every_statistics
@two_algorithms
def test_queries_see_each_other_in_transductive_batch_norm_alone(normed, statistics, algorithm):
    adapted = tm.load(normed(statistics, algorithm)).adapt(*wave(5))
    queries = wave(6, 1)[0]
    together, alone = adapted.predict(queries), np.concatenate([adapted.predict(x[None]) for x in queries])
    if statistics == "transductive":
        assert np.abs(together - alone).max() > 1e-3
    else:
        np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-6)


@every_statistics
@two_algorithms
def test_predictions_take_the_statistics_that_evaluation_takes(normed, statistics, algorithm):
    path = normed(statistics, algorithm)
    learned, model = restore(path), tm.load(path)
    (xs, ys), (xq, yq) = task(learned, "test", 1)
    measured = [float(np.mean((model.adapt(xs, ys, steps).predict(xq) - yq) ** 2)) for steps in range(4)]
    np.testing.assert_allclose(measured, measured_on(learned, stacked_tasks(learned, "test", [1]), 3)[0], rtol=1e-4)


def test_support_statistics_are_those_of_the_support_set(normed):
    adapted = tm.load(normed("support", "maml")).adapt(*wave(5))
    layers, hidden = adapted.params, {}
    for name, x in (("support", wave(5)[0]), ("query", wave(3, 1)[0])):
        hidden[name] = x.astype(np.float32) @ layers["linear0"]["w"] + layers["linear0"]["b"]
    mean, var = nn.moments(hidden["support"])
    of_queries = nn.batch_norm(
        hidden["query"], layers["linear0"]["gamma"], layers["linear0"]["beta"], mean=mean, var=var
    )
    expected = np.maximum(of_queries, 0) @ layers["linear1"]["w"] + layers["linear1"]["b"]
    np.testing.assert_allclose(adapted.predict(wave(3, 1)[0]), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("per_step", [True, False])
def test_running_averages_are_of_each_step_where_the_algorithm_keeps_them_so(tmp_path, per_step):
    """After one meta-iteration: 0.9 of what was there, and 0.1 of the moments of the queries under θ of that step."""
    options = dict(iterations=1, validate_every=9, dtype="float64", per_step_statistics=per_step, per_step_norm=False,
                   learned_rates=False)  # fmt: skip
    path = normed_run(tmp_path / "run", "running", "mamlpp", **options)
    kept = restore(path).state.norms["linear0"]
    before = restore(path, 0)
    from tinymaml.runs.loop import TRAIN, generator

    (xs, ys), (xq, _) = before.learner.sample(generator(before.config, TRAIN, 0), SMALL["tasks"], "train")
    model, rows = tm.load(path, 0), range(1, K + 1) if per_step else [K]
    moments = []
    for steps in rows:
        of_tasks = []
        for x, y, q in zip(xs, ys, xq, strict=True):
            layer = model.adapt(x, y, steps).params["linear0"]
            of_tasks.append(nn.moments(q @ layer["w"] + layer["b"]))
        moments.append(np.mean(of_tasks, 0))
    assert kept["mean"].shape == kept["var"].shape == (len(rows), 6)
    np.testing.assert_allclose(kept["mean"], [0.1 * mean for mean, _ in moments], rtol=1e-8)
    np.testing.assert_allclose(kept["var"], [0.9 + 0.1 * var for _, var in moments], rtol=1e-8)


# ── images, without those of training ───────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def letters(tmp_path_factory, omniglot_data):
    """A run of Omniglot whose images have gone, and folders: support of 3 classes, 4 queries of which one is hidden."""
    Image = pytest.importorskip("PIL.Image")
    folder = tmp_path_factory.mktemp("letters")
    link = folder / "data"
    link.symlink_to(omniglot_data, target_is_directory=True)
    trained(folder / "run", "omniglot", data=str(link), scheme="official", network="conv", filters=4, blocks=1,
            compile=False)  # fmt: skip
    link.unlink()
    for c, name in enumerate(("alpha", "beta", "gamma")):
        (folder / "support" / name).mkdir(parents=True)
        drawing(c, 105).save(folder / "support" / name / "1.png")
    (folder / "query").mkdir()
    for c, size in ((0, 105), (2, 105), (1, 28)):
        drawing(c, size).save(folder / "query" / f"{c}.png")
    (folder / "query" / ".hidden").write_text("not an image")
    assert Image
    return folder


def drawing(c: int, size: int, mode: str = "1"):
    from PIL import Image, ImageDraw

    image = Image.new(mode, (size, size), 1 if mode == "1" else (0, 0, 0, 0))
    top = (10 + 30 * c) * size // 105
    ImageDraw.Draw(image).rectangle(
        [size // 10, top, 9 * size // 10, top + size // 10], fill=0 if mode == "1" else "black"
    )
    return image


def test_what_was_trained_on_images_is_used_without_them(letters):
    model = tm.load(letters / "run")
    x = rng().random((5, 28, 28, 1))
    adapted = model.adapt(x, [0, 1, 2, 3, 4])
    logits = adapted.predict(x)
    assert logits.shape == (5, 5) and logits.dtype == np.float32
    with pytest.raises(FileNotFoundError, match="no Omniglot at"):
        evaluate(letters / "run", tasks=2, steps=1)
    for y, error, message in (
        ([0, 1, 2, 3, 5], ValueError, r"y has the label 5, wanted 0 … 4"),
        ([-1, 1, 2, 3, 4], ValueError, r"y has the label -1, wanted 0 … 4"),
        ([0.0, 1, 2, 3, 4], TypeError, "y has dtype float64, wanted integers"),
        ([[0]] * 5, ValueError, r"y has shape \(5, 1\), wanted \(N,\)"),
    ):
        with pytest.raises(error, match=message):
            model.adapt(x, y)
    with pytest.raises(ValueError, match=r"x has shape \(5, 28, 28\), wanted \(N, 28, 28, 1\)"):
        model.adapt(x[..., 0], [0, 1, 2, 3, 4])


def test_a_folder_of_images_is_told_apart_by_the_names_of_its_classes(letters, capsys, tmp_path):
    words = ["adapt", str(letters / "run"), "--support", str(letters / "support"), "--query", str(letters / "query")]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0] == "example,prediction"
    rows = dict(line.split(",") for line in out.splitlines()[1:])
    assert list(rows) == ["0.png", "1.png", "2.png"] and set(rows.values()) <= {"alpha", "beta", "gamma"}
    # the same by hand, of images that are read as those of the archives are
    from tinymaml.families import omniglot

    read = lambda place: np.stack([omniglot.read(file, None) for file in place])  # noqa: E731
    model = tm.load(letters / "run")
    support = read(sorted((letters / "support").rglob("*.png")))
    logits = model.adapt(support, [0, 1, 2]).predict(read(sorted((letters / "query").glob("*.png"))))
    assert [rows[f"{i}.png"] for i in range(3)] == [("alpha", "beta", "gamma")[c] for c in logits[:, :3].argmax(1)]
    for to in ("p.csv", "p.npz"):
        assert main([*words, "--to", str(tmp_path / to)]) == 0 and capsys.readouterr().out == f"{tmp_path / to}\n"
    assert (tmp_path / "p.csv").read_text(encoding="utf-8") == out
    with np.load(tmp_path / "p.npz", allow_pickle=False) as file:
        assert file["example"].tolist() == list(rows) and file["prediction"].tolist() == list(rows.values())
        np.testing.assert_array_equal(file["outputs"], logits)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.csv", "p.npz"]


def test_drawings_are_read_as_those_of_the_archives(letters, omniglot_data, tmp_path):
    import zipfile

    from tinymaml.families import omniglot

    with zipfile.ZipFile(omniglot_data / "images_evaluation.zip") as archive:
        member = sorted(archive.namelist())[0]
        (tmp_path / "a.png").write_bytes(archive.read(member))
    characters = omniglot.load(omniglot_data, cache=False)
    (first,) = [c for c, name in enumerate(characters.names) if member.split("/", 1)[1].startswith(f"{name}/")]
    image = omniglot.read(tmp_path / "a.png", None)
    np.testing.assert_array_equal(image, (characters.images[first, 0, ..., None] / 255).astype(np.float32))
    # black on transparent paper is black on white paper
    drawing(1, 105).save(tmp_path / "b.png")
    drawing(1, 105, "RGBA").save(tmp_path / "c.png")
    np.testing.assert_array_equal(omniglot.read(tmp_path / "b.png", None), omniglot.read(tmp_path / "c.png", None))


def folder_of(path: Path, **files) -> Path:
    for name, content in files.items():
        file = path / name.replace("__", "/").replace("_png", ".png")
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            file.write_bytes(content)
        elif content is None:
            file.mkdir()
        else:
            content.save(file)
    path.mkdir(exist_ok=True)
    return path


@pytest.mark.parametrize(
    "support, query, message",
    [
        ({}, None, "support is empty; wanted a folder per class"),
        ({"a__1_png": 0, "b": None}, None, "support/b is empty; wanted files of one example each"),
        ({"1_png": 0}, None, "support/1.png is a file; wanted in .*support: a folder per class"),
        ({f"c{i}__1_png": 0 for i in range(6)}, None, "support has 6 classes, wanted at most the 5 of the run"),
        ({"a__1_png": b"no image"}, None, "support/a/1.png is not a readable PNG: it is something else"),
        (None, {}, "query is empty; wanted files of one example each"),
        (None, {"a__1_png": 0}, "query/a is a folder; wanted in .*query: files of one example each"),
        (None, {"1_png": "wide"}, "query/1.png is 20 x 10, wanted a square image"),
    ],
)
def test_folders_that_cannot_be_read_are_named(letters, tmp_path, capsys, support, query, message):
    from PIL import Image

    def images(files):
        made = {0: drawing(0, 30), "wide": Image.new("1", (20, 10))}
        return {name: x if isinstance(x, bytes) or x is None else made[x] for name, x in files.items()}

    support = letters / "support" if support is None else folder_of(tmp_path / "support", **images(support))
    query = letters / "query" if query is None else folder_of(tmp_path / "query", **images(query))
    line = fails(capsys, "adapt", letters / "run", "--support", support, "--query", query, "--to", tmp_path / "out.csv")
    assert re.search(message, line), line
    assert not (tmp_path / "out.csv").exists()


# ── files of arrays ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_predictions_of_numbers(sine, tmp_path, capsys):
    x, y = wave(5)
    np.savez(tmp_path / "s.npz", x=x, y=y)
    np.savez(tmp_path / "q.npz", x=wave(3, 1)[0])
    words = ["adapt", str(sine), "--support", str(tmp_path / "s.npz"), "--query", str(tmp_path / "q.npz")]
    for more, iteration, steps in ([], None, None), (["--steps", "5", "--iteration", "2"], 2, 5):
        assert main([*words, *more]) == 0
        head, *rows = capsys.readouterr().out.splitlines()
        wanted = tm.load(sine, iteration).adapt(x, y, steps).predict(wave(3, 1)[0])
        assert head == "example,prediction" and [row.split(",")[0] for row in rows] == ["0", "1", "2"]
        np.testing.assert_array_equal(np.array([row.split(",")[1] for row in rows], np.float32), wanted[:, 0])
    assert main([*words, "--to", str(tmp_path / "p.npz")]) == 0
    with np.load(tmp_path / "p.npz", allow_pickle=False) as file:
        assert set(file) == {"example", "prediction", "outputs"} and file["prediction"].shape == (3, 1)


def npz(**arrays) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def npy(x) -> bytes:
    file = io.BytesIO()
    np.save(file, x)
    return file.getvalue()


@pytest.mark.parametrize(
    "support, query, message",
    [
        (npz(x=X), None, "s.npz cannot be used: it holds x; wanted x and y"),
        (None, npz(y=Y), "q.npz cannot be used: it holds y; wanted x"),
        (npz(x=X[:, 0], y=Y), None, r"s.npz: x has shape \(5,\), wanted \(N, 1\)"),
        (npz(x=X, y=Y[:2]), None, "s.npz: x has 5 examples, and y has 2 targets"),
        (npz(x=X * np.nan, y=Y), None, "s.npz: x is not finite"),
        (None, npz(x=X * np.nan), "q.npz: x is not finite"),
        (None, npz(x=np.array([None] * 3)), "q.npz cannot be used: Object arrays cannot be loaded"),
        (npy(X), None, "s.npz cannot be used: it is no .npz"),
        (b"", None, "s.npz cannot be used: "),
        (npz(x=X, y=Y)[:-30], None, "s.npz cannot be used: "),
        (b"text", None, "s.npz cannot be used: "),
    ],
)
def test_files_that_cannot_be_used_are_named(sine, tmp_path, capsys, support, query, message):
    (tmp_path / "s.npz").write_bytes(support if support is not None else npz(x=X, y=Y))
    (tmp_path / "q.npz").write_bytes(query if query is not None else npz(x=X))
    line = fails(capsys, "adapt", sine, "--support", tmp_path / "s.npz", "--query", tmp_path / "q.npz")
    assert re.search(message, line), line


def test_what_is_not_there_is_named(sine, tmp_path, capsys):
    (tmp_path / "q.npz").write_bytes(npz(x=X))
    words = ["adapt", sine, "--query", tmp_path / "q.npz", "--support"]
    assert fails(capsys, *words, tmp_path / "none.npz").endswith(
        f"cannot read {tmp_path / 'none.npz'}: No such file or directory"
    )
    assert "sinusoid reads no example from a file; wanted an .npz" in fails(capsys, *words, tmp_path)
    line = fails(capsys, *words, tmp_path / "q.npz", "--to", tmp_path / "none" / "p.csv")
    assert line.endswith("none/p.csv: there is no such folder")
