"""The command line: what is typed, what is printed, and one clear line when it cannot be done."""

import importlib.util
import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

for library in ("safetensors", "filelock", "tqdm", "threadpoolctl"):
    pytest.importorskip(library)

import tinymaml  # noqa: E402
from tinymaml.cli import main  # noqa: E402
from tinymaml.families import fetch  # noqa: E402
from tinymaml.runs import Run, loop  # noqa: E402
from tinymaml.runs.evaluate import evaluate  # noqa: E402
from tinymaml.runs.loop import restore  # noqa: E402
from tinymaml.runs.settings import Config  # noqa: E402

pytestmark = pytest.mark.usefixtures("quick_code")

SMALL = ["--tasks", "2", "--hidden", "6", "--iterations", "4", "--validation-tasks", "2", "--validate-every", "4",
         "--save-every", "2"]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "sinusoid"
    assert main(["train", "sinusoid", "--out", str(path), *SMALL]) == 0
    return path


def lines_of(err: str) -> list[str]:
    """stderr without the settings that a run prints first, and without the progress bar."""
    lines = err.replace("\r", "\n").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("family=") and "it/s" not in line]


def fails(capsys, *command) -> str:
    """The one line that says what went wrong."""
    capsys.readouterr()
    assert main([str(word) for word in command]) == 1
    out, err = capsys.readouterr()
    (line,) = lines_of(err)
    assert line.startswith("tinymaml: ") and len(line) > 20 and out == ""
    return line


def misused(capsys, *command) -> str:
    """What argparse says of a command it does not understand."""
    with pytest.raises(SystemExit) as exit:
        main([str(word) for word in command])
    assert exit.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith("usage: tinymaml")
    return err.splitlines()[-1]


# ── train ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_module_and_the_script_are_the_command():
    script = Path(sys.executable).with_name("tinymaml")
    for command in [[str(script)]] * script.exists() + [[sys.executable, "-m", "tinymaml"]]:  # a checkout has no script
        done = subprocess.run([*command, "--version"], capture_output=True, encoding="utf-8", check=True)
        assert done.stdout == f"tinymaml {tinymaml.__version__}\n"
    done = subprocess.run([*command, "eval", "nowhere"], capture_output=True, encoding="utf-8")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "tinymaml: nowhere is not a run: there is no such folder\n"


@pytest.mark.parametrize("family", ["sinusoid", "omniglot"])
def test_help_names_every_option_and_its_default(capsys, family):
    with pytest.raises(SystemExit) as exit:
        main(["train", family, "--help"])
    assert exit.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    for name, value in Config.default(family).options().items():
        assert f"--{name.replace('_', '-')} " in shown
        assert isinstance(value, tuple) or value == "" or f"(default: {value})" in shown
    assert "--out RUN" in shown and "--resume" in shown
    assert ("--ways " in shown) == (family == "omniglot") and ("--hidden " in shown) == (family == "sinusoid")


@pytest.mark.parametrize("choice", [
    ["sinusoid", "--algorithm", "reptile"], ["sinusoid", "--network", "linear"], ["omniglot", "--model", "mlp"],
    ["omniglot", "--algorithm", "mamlpp"],
])  # fmt: skip
def test_help_is_of_the_parts_that_are_chosen_a_group_each(capsys, choice):
    family, flag, name = choice
    with pytest.raises(SystemExit):
        main(["train", *choice, "--help"])
    shown = capsys.readouterr().out
    role = "algorithm" if flag == "--algorithm" else "network"
    for part in (f"{family} (family):", f"{name} ({role}):", "the outer loop:"):
        assert f"\n{part}\n" in shown
    words = " ".join(shown.split())
    for option in Config.default(family, **{role: name}).options():
        assert f"--{option.replace('_', '-')} " in words


@pytest.mark.parametrize("command", [[], ["train"], ["eval"], ["plot"], ["compare"], ["data"], ["doctor"]])
def test_every_command_has_help(capsys, command):
    with pytest.raises(SystemExit) as exit:
        main([*command, "--help"])
    assert exit.value.code == 0 and capsys.readouterr().out.startswith("usage: tinymaml")


def test_options_become_the_settings_of_the_run(tmp_path):
    wanted = dict(
        shots=3, queries=4, inner_steps=2, inner_lr=0.02, meta_lr=1e-4, tasks=2, iterations=1, dtype="float64", seed=7,
        decay=9, validation_tasks=2, save_every=3, validate_every=4,
    )  # fmt: skip
    options = [word for name, value in wanted.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    options += ["--first-order", "--hidden", "5", "6", "--model", "mlp"]
    assert main(["train", "sinusoid", *options, "--out", str(tmp_path / "run")]) == 0
    assert restore(tmp_path / "run").config == Config.default("sinusoid", **wanted, first_order=True, hidden=(5, 6))


def test_training_shows_settings_progress_and_what_to_do_next_on_stderr(tmp_path, capsys):
    assert main(["train", "sinusoid", "--out", str(tmp_path / "run"), *SMALL]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    banner = err.splitlines()[0].split("  ")
    assert {"family=sinusoid", "algorithm=maml", "tasks=2", "hidden=(6,)", "seed=0", "inner_lr=0.005"} <= set(banner)
    assert not {"final_lr", "inner_momentum", "statistics"} & {word.partition("=")[0] for word in banner}  # not used
    bar = [line for line in err.replace("\r", "\n").splitlines() if "100%" in line][-1]
    for part in ("4/4", "<00:00", "it/s", "loss ", "validation mse "):  # done, time left, rate
        assert part in bar
    assert f"tinymaml eval {tmp_path / 'run'}" in lines_of(err)[-1]


def test_omniglot_shows_its_accuracy_and_evaluates_in_percent(tmp_path, capsys, omniglot_data):
    path, data = tmp_path / "run", str(omniglot_data)
    options = "--filters 4 --iterations 2 --tasks 2 --queries 2 --ways 3 --validation-tasks 2 --validate-every 2"
    options += " --blocks 1 --no-compile"
    command = ["train", "omniglot", "--data", data, "--scheme", "official", "--out", str(path)]
    assert main([*command, *options.split()]) == 0
    bar = [line for line in capsys.readouterr().err.replace("\r", "\n").splitlines() if "100%" in line][-1]
    assert "loss " in bar and ", accuracy " in bar and "validation accuracy" in bar
    records = [json.loads(line) for line in (path / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert records[-1].keys() == {"iteration", "loss", "accuracy", "validation_accuracy", "seal"}
    assert main(["eval", str(path), "--tasks", "3", "--steps", "1"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("1-shot 3-way accuracy on 3 test tasks, after 2 meta-iterations") and out.count(" ± ") == 2
    assert "batch norm of queries by transductive statistics" in out and out.splitlines()[1].endswith("chance: 33.33 %")
    assert main(["eval", str(path), "--tasks", "3", "--steps", "1", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["metric"] == "accuracy" and f"{100 * result['mean'][1]:.2f} ±" in out
    line = fails(capsys, "eval", path, "--data", tmp_path / "elsewhere")
    assert "no Omniglot at" in line and "elsewhere" in line


def test_a_run_is_resumed_with_its_own_settings_and_may_grow(tmp_path, run):
    path = tmp_path / "run"
    assert main(["train", "sinusoid", "--out", str(path), *SMALL, "--decay", "0", "--seed", "5"]) == 0
    assert main(["train", "sinusoid", "--out", str(path), "--resume", "--iterations", "6"]) == 0
    config = restore(path).config
    assert (config["seed"], config["hidden"], config["iterations"]) == (5, (6,), 6)
    assert json.loads((path / "config.json").read_text(encoding="utf-8"))["config"]["outer"]["iterations"] == 6
    assert [record["iteration"] for record in Run.open(path).read_log()] == [1, 2, 3, 4, 5, 6]


def test_what_resume_cannot_change_is_named(capsys, run):
    line = fails(capsys, "train", "sinusoid", "--out", run, "--resume", "--seed", 3)
    assert line == f"tinymaml: --resume continues {run} as it was: its seed is 0, not 3"
    line = fails(capsys, "train", "omniglot", "--out", run, "--resume")
    assert "its family is sinusoid, not omniglot" in line


def test_a_run_is_not_overwritten_and_nothing_is_not_resumed(tmp_path, capsys, run):
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    assert f"{run} already holds a run: --resume continues it" in fails(capsys, "train", "sinusoid", "--out", run)
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before
    line = fails(capsys, "train", "sinusoid", "--out", tmp_path / "none", "--resume")
    assert f"{tmp_path / 'none'} is not a run" in line and not (tmp_path / "none").exists()


# ── eval ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_evaluation_is_of_600_tasks_after_0_to_10_steps(capsys, run):
    assert main(["eval", str(run), "--json"]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert out.count("\n") == 1 and err == ""
    assert result["metric"] == "mse" and result["tasks"] == 600 and result["steps"] == list(range(11))
    assert len(result["mean"]) == len(result["ci95"]) == 11
    assert np.isfinite(result["mean"]).all() and (np.array(result["ci95"]) > 0).all()


def test_table_and_json_are_the_same_numbers_each_time(capsys, run):
    command = ["eval", str(run), "--tasks", "5", "--steps", "2"]
    seen = []
    for _ in range(2):
        assert main(command) == main([*command, "--json"]) == 0
        seen.append(capsys.readouterr().out)
    assert seen[0] == seen[1]
    *table, last = seen[0].splitlines()
    result = json.loads(last)
    assert result == evaluate(run, tasks=5, steps=2)
    assert table[0] == "5-shot mean squared error on 5 test tasks, after 4 meta-iterations"
    assert table[1] == "maml, mlp"
    rows = [line.split() for line in table[4:]]
    for row, k, mean, ci in zip(rows, result["steps"], result["mean"], result["ci95"], strict=True):
        assert row == [str(k), f"{mean:.3f}", "±", f"{ci:.3f}"]


def test_split_and_checkpoint_can_be_chosen(capsys, run):
    seen = {}
    for options in ([], ["--split", "val"], ["--split", "test"], ["--iteration", "2"]):
        assert main(["eval", str(run), "--tasks", "3", "--steps", "1", "--json", *options]) == 0
        seen[" ".join(options)] = json.loads(capsys.readouterr().out)
    assert seen[""] == seen["--split test"] and seen["--iteration 2"]["mean"] != seen[""]["mean"]
    assert seen["--split val"]["split"] == "val" and seen["--iteration 2"]["iteration"] == 2


def test_an_evaluation_by_a_tuned_rate_and_before_training(capsys, run):
    assert main(["eval", str(run), "--tasks", "3", "--steps", "1", "--tune", "--iteration", "0"]) == 0
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert first == "5-shot mean squared error on 3 test tasks, after 0 meta-iterations"
    assert second.startswith("maml, mlp; inner rate ") and second.endswith(", tuned on validation tasks")


# ── a user's own ────────────────────────────────────────────────────────────────────────────────────────────────────

OWN_ALGORITHM = """
import itertools, operator
import tinymaml as tm
from dataclasses import dataclass
@dataclass(frozen=True)
class Settings:
    my_rate: float = 0.02
def init(theta, settings):
    return theta
def adapt(loss, theta, support, settings):
    while True:
        yield theta
        grads, _ = tm.grad(loss, has_aux=True)(theta, *support)
        theta = tm.tree_map(lambda p, g: p - settings.my_rate * g, theta, grads)
def of_task(loss, theta, support, query, settings):
    adapted = next(itertools.islice(adapt(loss, theta, support, settings), 3, None))
    return loss(adapted, *query), tm.tree_map(operator.sub, theta, adapted)
"""
OWN_NETWORK = """
from types import SimpleNamespace
import numpy as np
def make(family, settings):
    (n,) = family.input_shape
    init = lambda rng, dtype: {"w": rng.standard_normal((n + 1, family.outputs)).astype(dtype)}
    apply = lambda params, x: np.concatenate([x, x * x], 1) @ params["w"]
    return SimpleNamespace(init=init, apply=apply)
"""


def test_a_family_an_algorithm_and_a_network_of_a_user_are_trained_evaluated_and_resumed(tmp_path):
    """In processes of their own, whose working directory holds the modules."""
    (tmp_path / "my_package").mkdir()
    family = Path(__file__).with_name("user_family.py").read_text(encoding="utf-8")
    (tmp_path / "my_package" / "my_tasks.py").write_text(family, encoding="utf-8")
    (tmp_path / "my_algorithm.py").write_text(OWN_ALGORITHM, encoding="utf-8")
    (tmp_path / "my_network.py").write_text(OWN_NETWORK, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(Path(tinymaml.__file__).parents[1]), "PYTHONWARNINGS": "error"}

    def tinymaml_(*command: str) -> str:
        command = [sys.executable, "-c", "import sys; from tinymaml.cli import main; sys.exit(main())", *command]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8")
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    parts = ["--algorithm", "my_algorithm", "--network", "my_network:make"]
    shown = tinymaml_("train", "my_package.my_tasks", *parts, "--help")
    for words in ("my_package.my_tasks (family):", "--shots SHOTS", "my_network:make (network):", "--my-rate MY_RATE"):
        assert words in shown
    small = ["--iterations", "3", "--tasks", "2", "--shots", "4", "--validation-tasks", "2", "--my-rate", "0.05"]
    err = tinymaml_("train", "my_package.my_tasks", *parts, *small, "--no-compile")
    assert "runs/my_package.my_tasks" in err and "my_rate=0.05" in err and "shots=4" in err
    tinymaml_("train", "my_package.my_tasks", "--resume", "--iterations", "5")
    result = json.loads(tinymaml_("eval", "runs/my_package.my_tasks", "--tasks", "3", "--steps", "2", "--json"))
    assert (result["algorithm"], result["network"]) == ("my_algorithm", "my_network:make")
    assert result["iteration"] == 5 and np.isfinite(result["mean"]).all() and result["inner_lr"] is None


# ── what cannot be done ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "command, message",
    [
        ("", "the following arguments are required: COMMAND"),
        ("fly", "invalid choice: 'fly'"),
        ("train", "the following arguments are required: FAMILY"),
        ("train cats", "family is 'cats', wanted one of sinusoid, "),
        ("train sinusoid --algorithm sgd", "algorithm is 'sgd', wanted one of maml, reptile"),
        ("train sinusoid --speed 3", "unrecognized arguments: --speed 3"),
        (
            "train sinusoid --ways 5",
            "unrecognized arguments: --ways 5: no part of this run has an option ways: the "
            "parts are sinusoid (family), mlp (network), maml (algorithm), the outer loop;"
            " it is an option of omniglot (family)",
        ),
        ("train sinusoid --no-carry-state", "no part of this run has an option carry_state"),
        (
            "train sinusoid --model vit",
            "network is 'vit', wanted one of mlp, linear, conv, embedding, policy, or a module of your own",
        ),
        ("train sinusoid --dtype float16", "argument --dtype: invalid choice: 'float16'"),
        ("train sinusoid --tasks two", "argument --tasks: invalid int value: 'two'"),
        ("train sinusoid --tasks 2.5", "argument --tasks: invalid int value: '2.5'"),
        ("train sinusoid --inner-lr", "argument --inner-lr: expected one argument"),
        ("eval", "the following arguments are required: RUN"),
        ("eval a --split nowhere", "argument --split: invalid choice"),
        ("data cats --to x", "invalid choice: 'cats'"),
        ("data omniglot", "the following arguments are required: --to"),
    ],
)
def test_wrong_usage_is_named_and_exits_with_2(capsys, command, message):
    assert message in misused(capsys, *command.split())


@pytest.mark.parametrize(
    "options, message",
    [
        ("--shots -1", "shots is -1, wanted at least 1"),
        ("--queries 0", "queries is 0, wanted at least 1"),
        ("--tasks 0", "tasks is 0, wanted at least 1"),
        ("--iterations -3", "iterations is -3, wanted at least 1"),
        ("--inner-steps -1", "inner_steps is -1"),
        ("--inner-lr nan", "inner_lr is nan, wanted a finite number of at least 0"),
        ("--meta-lr inf", "meta_lr is inf, wanted a finite number of at least 0"),
        ("--hidden 0", "hidden is (0,), wanted at least 1 each"),
        ("--model conv", "conv wants images (height, width, channels)"),
        ("--seed -1", "seed is -1, wanted at least 0"),
    ],
)
def test_a_setting_that_cannot_be_is_named_before_anything_is_made(tmp_path, capsys, options, message):
    assert message in fails(capsys, "train", "sinusoid", "--out", tmp_path / "run", *options.split())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("options, message", [
    ("--hidden 1000000000000", "1,000,000,000,000 weights and more need 32 TB, and this machine has a memory of "),
    ("--shots 1000000000000", "25 tasks × 1,000,000,000,015 examples × 1 numbers need 100 TB, and this machine has "),
    ("--queries 1000000000000", "25 tasks × 1,000,000,000,005 examples × 1 numbers need 100 TB"),
    ("--tasks 10000000000000", "10,000,000,000,000 tasks × 20 examples × 1 numbers need 800 TB"),
    ("--validation-tasks 10000000000000", "10,000,000,000,000 validation tasks × 20 examples × 1 numbers need 800 TB"),
    ("--inner-steps 1000000000000", "1,000,000,000,000 inner steps need 10 PB"),
    (f"--tasks {10**400}", "tasks is 1.0e+400, wanted at most 9,223,372,036,854,775,807"),
    (f"--shots {10**4000}", "shots is 1.0e+4000, wanted at most 9,223,372,036,854,775,807"),
    ("--iterations 100000000", "iterations is 100000000, wanted at most 99,999,999"),
    (f"--seed {2**128}", "seed is 3.4e+38, wanted at most 340,282,366,920,938,463,463,374,607,431,768,211,455"),
])  # fmt: skip
def test_what_cannot_work_is_refused_before_memory_is_touched(tmp_path, capsys, options, message):
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert message in fails(capsys, "train", "sinusoid", "--out", tmp_path / "run", *options.split())
    assert not (tmp_path / "run").exists()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def test_a_folder_that_cannot_be_a_run_is_named(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert "file is not a folder" in fails(capsys, "train", "sinusoid", "--out", tmp_path / "file")
    assert "cannot make" in fails(capsys, "train", "sinusoid", "--out", tmp_path / "file" / "run")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").touch()
    assert "photos holds other files (cat.png)" in fails(capsys, "train", "sinusoid", "--out", tmp_path / "photos")


@pytest.mark.parametrize("command", ["eval", "plot"])
def test_what_is_not_a_run_is_named(tmp_path, capsys, command):
    assert "nowhere is not a run: there is no such folder" in fails(capsys, command, tmp_path / "nowhere")
    assert "is not a run: it has no config.json" in fails(capsys, command, tmp_path)
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    assert "config.json is damaged" in fails(capsys, command, tmp_path)
    (tmp_path / "config.json").write_text('{"lr": 1}', encoding="utf-8")
    assert "config.json is not what tinymaml writes" in fails(capsys, command, tmp_path)


def test_a_run_without_a_checkpoint_is_named(tmp_path, capsys):
    Run.create(tmp_path / "run", Config.default().to_json())
    assert "no checkpoint in" in fails(capsys, "eval", tmp_path / "run")
    assert "nothing to draw yet" in fails(capsys, "plot", tmp_path / "run")


def test_an_evaluation_of_nothing_is_named(capsys, run):
    assert "tasks is 1" in fails(capsys, "eval", run, "--tasks", 1)
    assert "steps -1" in fails(capsys, "eval", run, "--steps", -1)
    assert "no checkpoint 3 in" in fails(capsys, "eval", run, "--iteration", 3)


def test_divergence_is_one_line_that_names_task_step_and_loss(tmp_path, capsys):
    command = ["train", "sinusoid", "--out", tmp_path / "run", "--inner-lr", "1e30", *SMALL]
    line = fails(capsys, *command, "--inner-steps", "2")
    assert "task 0, inner step 1: the support loss is " in line and "a smaller inner_lr" in line


@pytest.mark.parametrize(
    "options",
    [["--inner-lr", "1e6"], pytest.param(["--meta-lr", "1e39"], marks=pytest.mark.slow)],
    ids=["inner", "outer"],
)
def test_a_divergence_prints_no_warnings(tmp_path, options):
    """Outside pytest, which would catch them: nothing but the one line."""
    command = [sys.executable, "-m", "tinymaml", "train", "sinusoid", *SMALL, "--out", str(tmp_path / "run"), *options]
    done = subprocess.run(command, capture_output=True, encoding="utf-8")
    assert done.returncode == 1
    (line,) = lines_of(done.stderr)
    assert line.startswith("tinymaml: training diverged at iteration 1")


# ── Omniglot's archives ─────────────────────────────────────────────────────────────────────────────────────────────


def archive(folder: Path, name: str, members: dict[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / f"{name}.zip", "w") as opened:
        for member, content in members.items():
            opened.writestr(member, content)
    return folder


def drawings(name: str, characters: int = 1) -> dict[str, bytes]:
    image = io.BytesIO()
    pytest.importorskip("PIL.Image").new("1", (105, 105)).save(image, "png")
    names = [f"{name}/Alpha/character{c:02d}/{d:04d}.png" for c in range(1, characters + 1) for d in range(20)]
    return dict.fromkeys(names, image.getvalue())


@pytest.fixture
def omniglot(tmp_path, monkeypatch):
    """The command, and a folder for archives, with a cache of its own."""
    monkeypatch.setenv("TINYMAML_CACHE", str(tmp_path / "cache"))
    return ["train", "omniglot", "--out", tmp_path / "run", "--data", tmp_path / "data"], tmp_path / "data"


def test_omniglot_wants_its_data(tmp_path, capsys, omniglot):
    command, data = omniglot
    assert "omniglot needs its images: --data PATH" in fails(capsys, *command[:-2])
    line = fails(capsys, *command)
    assert f"no Omniglot at {data}: no such file or folder" in line and "tinymaml data omniglot --to DIR" in line
    data.mkdir()
    assert "found nothing; wanted images_background.zip and/or images_evaluation.zip" in fails(capsys, *command)
    assert not (tmp_path / "run").exists()


def test_a_broken_or_wrong_archive_is_named(tmp_path, capsys, omniglot):
    command, data = omniglot
    file = archive(data, "images_background", drawings("images_background")) / "images_background.zip"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert f"{file} is not a complete zip archive" in fails(capsys, *command)
    file.write_bytes(whole)
    assert "needs images_evaluation.zip" in fails(capsys, *command)
    archive(data, "images_evaluation", drawings("cats"))
    assert "images_evaluation.zip: wanted images_evaluation/" in fails(capsys, *command)
    members = [name.replace("Alpha", "Beta") for name in drawings("images_evaluation")]
    archive(data, "images_evaluation", dict.fromkeys(members, b"no"))
    assert "is not a readable PNG" in fails(capsys, *command)
    archive(data, "images_evaluation", {"../" + name: b"" for name in members})
    assert "leaves the archive" in fails(capsys, *command)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("options, message", [
    ("--ways 101", "ways=101; split 'val' has 100 classes"),
    ("--shots 16 --queries 5", "shots=16 + queries=5 is more than a class's 20 drawings"),
])  # fmt: skip
def test_more_than_omniglot_has_is_named(tmp_path, capsys, blank_omniglot, options, message):
    command = ["train", "omniglot", "--data", "somewhere", "--out", tmp_path / "run"]
    assert message in fails(capsys, *command, *options.split())
    assert not (tmp_path / "run").exists()


def test_fewer_characters_than_omniglot_has_are_named(tmp_path, capsys, omniglot):
    command, data = omniglot
    for name, characters in (("images_background", 2), ("images_evaluation", 1)):
        members = {m.replace("Alpha", name[7:]): content for m, content in drawings(name, characters).items()}
        archive(data, name, members)
    assert "scheme '1100/100/423' wants 1623 characters, not 3" in fails(capsys, *command)
    assert "wants 101 background characters, not 2" in fails(capsys, *command, "--scheme", "official")


# ── what is not installed, and other commands ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("module", ["tqdm", "filelock", "safetensors.numpy", "threadpoolctl"])
def test_a_missing_extra_is_the_command_that_installs_it(tmp_path, capsys, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    line = fails(capsys, "train", "sinusoid", "--out", tmp_path / "run", *SMALL)
    assert line == f'tinymaml: {module} is needed here and is not installed: pip install "tinymaml[train]"'


def test_missing_extras_are_told_when_reading_too(tmp_path, capsys, monkeypatch, run, omniglot):
    for module, extra, command in (
        ("tqdm", "train", ["eval", run]), ("safetensors.numpy", "train", ["eval", run]),
        ("matplotlib", "plot", ["plot", run]),
    ):  # fmt: skip
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, module, None)
            assert f'pip install "tinymaml[{extra}]"' in fails(capsys, *command)
    command, data = omniglot
    archive(data, "images_background", drawings("images_background"))
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    assert 'PIL.Image is needed here and is not installed: pip install "tinymaml[train]"' in fails(capsys, *command)


def test_ctrl_c_before_anything_is_saved_does_not_say_that_it_was(tmp_path, capsys, monkeypatch):
    def interrupted(config):
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "Learner", interrupted)
    assert main(["train", "sinusoid", "--out", str(tmp_path / "run"), *SMALL]) == 130
    err = capsys.readouterr().err
    assert "stopped" in err and "saved" not in err and "Traceback" not in err


def test_ctrl_c_in_an_evaluation_is_130(capsys, monkeypatch, run):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("tinymaml.runs.evaluate.on_split", interrupted)
    assert main(["eval", str(run)]) == 130
    assert capsys.readouterr() == ("", "\nstopped\n")


def test_data_downloads_and_prints_where(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(fetch, "fetch", lambda dataset, to: Path(to) / "-".join(dataset.md5))
    assert main(["data", "clinc150", "--to", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'data_full.json-domains.json'}\n"

    def refused(dataset, to):
        raise ConnectionError("https://example.org/a.zip: HTTP 404 Not Found")

    monkeypatch.setattr(fetch, "fetch", refused)
    assert "HTTP 404 Not Found" in fails(capsys, "data", "omniglot", "--to", tmp_path)


def test_data_says_where_a_data_set_can_be_had_that_is_not_downloaded(tmp_path, capsys):
    line = fails(capsys, "data", "movielens", "--to", tmp_path / "new")
    assert "movielens: it is not downloaded; it can be had at https://grouplens.org/" in line
    assert "not for commercial use" in line and "ratings.csv" in line and not (tmp_path / "new").exists()


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="it draws")
def test_plot_prints_the_pictures_it_drew(tmp_path, capsys, monkeypatch, run):
    monkeypatch.setattr("tinymaml.pictures.figures", lambda learned, records: [])
    assert main(["plot", str(run), "--to", str(tmp_path / "pictures")]) == 0
    assert capsys.readouterr().out == "" and (tmp_path / "pictures").is_dir()
    monkeypatch.setattr("tinymaml.pictures.plot", lambda *_, **__: [tmp_path / "a.png", tmp_path / "b.png"])
    assert main(["plot", str(run)]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'a.png'}\n{tmp_path / 'b.png'}\n"


@pytest.mark.skipif(os.name != "posix", reason="pipes")
def test_a_reader_that_has_seen_enough_is_no_error(run):
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "tinymaml", "eval", str(run), "--tasks", "2", "--steps", "2"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, encoding="utf-8")
    os.close(writing)
    assert done.stderr == "" and done.returncode in (0, 1)


def test_importing_the_command_line_needs_numpy_alone():
    extras = {"tqdm", "PIL", "numba", "scipy", "matplotlib", "filelock", "safetensors", "threadpoolctl"}
    code = f"import sys, tinymaml.cli; assert not {extras} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
