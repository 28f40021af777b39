"""The field study: public MAML implementations, where installed, get the verdict that each setting deserves."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def _load():
    spec = importlib.util.spec_from_file_location("field", ROOT / "bench" / "oracle" / "field.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["field"] = module
    spec.loader.exec_module(module)
    return module


field = _load()

# library → what must be importable, one right setting, and a wrong one with its mistake
INSTALLED = {
    "higher": ("higher", "copy_initial_weights=False, mean over tasks",
               {"copy_initial_weights=True (the default)": "zero_gradient", "grad_callback detaches": "fomaml",
                "track_higher_grads=False": "zero_gradient"}),
    "learn2learn": ("learn2learn", "MAML(first_order=False): clone(), adapt()",
                    {"MAML(first_order=True)": "fomaml", "losses summed with .item()": "last_task_over_T",
                     "adapt() without clone()": "task_leak"}),
    "torchopt": ("torchopt", "MetaSGD, extract_state_dict, recover_state_dict",
                 {"no recover_state_dict": "task_leak", "SGD instead of MetaSGD": "inplace_update"}),
    "torchmeta": ("torchmeta", "gradient_update_parameters",
                  {"first_order=True": "fomaml", "params= forgotten in the inner loop": "restarted_steps"}),
    "torchmetal": ("torchmetal", "gradient_update_parameters", {"first_order=True": "fomaml"}),
    "iteryne": ("iteryne", "MetaTrainer.meta_step", {"the loop in MAML's docstring": "sum_over_tasks"}),
    "metallic": ("metallic", None, {"MAML.outer_loop": "query_mean_divided_again"}),
    "torch-maml": ("torch_maml", "GradientCheckpointMAML", {}),
    "parallel-metalearn": ("metalearn", "MAML.step, vmap, and its loss", {"first_order=True": "fomaml"}),
    "garage": ("garage", None, {"DifferentiableSGD": "restarted_steps"}),
    "PyTorch, by hand": ("torch", "autograd.grad(create_graph=True)",
                         {"autograd.grad without create_graph": "fomaml", "SGD on the model itself": "inplace_update",
                          "support loss of θ in every step": "stale_gradient"}),
    "torch.func": ("torch", "grad, vmap, mean",
                   {"grad, vmap, sum (functorch's maml_omniglot example)": "sum_over_tasks",
                    "inner gradients summed": "grad_sum"}),
    "jax": ("jax", "grad, vmap, mean (the MAML tutorial)",
            {"stop_gradient around the inner gradient": "fomaml", "the last task's loss only": "last_task_only"}),
    "optax": ("optax", "inner sgd", {"inner sgd after scale(-1)": "inner_ascent"}),
    "jax-meta": ("jax_meta", "MAML.batch_outer_loss", {}),
}  # fmt: skip
pytestmark = pytest.mark.usefixtures("confirmed_once", "computed_once")
QUICK = ("PyTorch, by hand", "torch.func", "oscarknagg/few-shot")
REPRODUCED = [name for name, library in field.LIBRARIES.items() if not library.install]


def study(name: str) -> dict[str, dict]:
    """Setting → row."""
    return {row["setting"]: row for row in field.study([name])}


def test_every_library_is_tested():
    assert sorted([*INSTALLED, *REPRODUCED]) == sorted(field.LIBRARIES)


def quick_ones(names) -> list:
    """Only the quickest of them by default, among few forms: a study of the others takes from five seconds to a
    minute."""
    quick = [pytest.param(name, id=f"{name}-few forms") for name in names if name in QUICK]
    return quick + [pytest.param(name, marks=pytest.mark.slow, id=name) for name in names]


@pytest.mark.parametrize("name", quick_ones(INSTALLED))
def test_what_is_installed_gets_its_verdicts(name, few_forms):
    module, right, wrong = INSTALLED[name]
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"pip install {field.LIBRARIES[name].install}")
    rows = study(name)
    if right:
        assert rows[right]["verdict"] == "CORRECT", rows[right]["report"]
    for setting, mistake in wrong.items():
        assert (rows[setting]["verdict"], rows[setting]["bug"]) == ("KNOWN_BUG", mistake), rows[setting]["report"]
    unexpected = [row["report"] for row in rows.values() if not row["as_expected"]]
    assert not unexpected, "\n".join(unexpected)


@pytest.mark.parametrize("name", quick_ones(REPRODUCED))
def test_what_is_reproduced_gets_its_verdicts(name, few_forms):
    pytest.importorskip("torch")
    pytest.importorskip("jax")
    unexpected = [row["report"] for row in study(name).values() if not row["as_expected"]]
    assert not unexpected, "\n".join(unexpected)


def test_what_is_missing_is_a_row_with_the_command():
    def settings():
        raise ModuleNotFoundError("No module named 'absent'", name="absent")

    missing = field.Library("absent", settings, (), "absent", "absent")
    (row,) = field._rows(missing, [])
    assert row["verdict"] == "not installed" and row["as_expected"] is None
    assert "pip install absent" in field.table([row])


def test_a_verdict_that_is_not_expected_fails(monkeypatch, capsys):
    def settings():
        return [field.Setting("all zeros", "fomaml", lambda case: {"meta_grad": [0 * p for p in case.params.values()]})]

    monkeypatch.setattr(field, "LIBRARIES", {"mine": field.Library("mine", settings, (), "", "")})
    assert field.main(["mine"]) == 1
    said = capsys.readouterr().out
    assert "KNOWN_BUG `zero_gradient` — expected fomaml" in said and "0 of 1 verdicts as expected" in said
    assert field.main(["mine", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["bug"] == "zero_gradient"


def test_unknown_names_are_refused(capsys):
    with pytest.raises(ValueError, match="no library nonsense; wanted of higher"):
        field.study(["nonsense"])
    with pytest.raises(SystemExit):
        field.main(["nonsense"])
    assert "no library nonsense" in capsys.readouterr().err


def test_a_part_of_a_package_that_does_not_import_as_a_whole(tmp_path, monkeypatch):
    package = tmp_path / "half_a_package"
    package.mkdir()
    (package / "__init__.py").write_text("import a_data_set_that_is_not_there\n", encoding="utf-8")
    (package / "maml.py").write_text("from .inside import rate\n", encoding="utf-8")
    (package / "inside.py").write_text("rate = 0.5\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert field.part("half_a_package.maml").rate == 0.5
    assert "half_a_package" not in sys.modules  # no other import gets the package without its __init__
    with pytest.raises(ModuleNotFoundError, match="no_package_at_all"):
        field.part("no_package_at_all.maml")
