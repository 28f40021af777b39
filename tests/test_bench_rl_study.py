"""The studies of navigation: their rows, what they measure, and a PyTorch loop that computes the same meta-gradient."""

import numpy as np
import pytest

import tinymaml as tm
from bench import results
from bench.rl import study, throughput
from bench.study import words
from tinymaml.cli import main
from tinymaml.rl.surrogates import SURROGATES
from tinymaml.runs.settings import Config

SMALL = dict(hidden=(5,), trajectories=3, horizon=6, tasks=2, compile=False)


def test_the_rows_are_settings_of_navigation_and_have_every_surrogate():
    for name, row in study.ROWS.items():
        config = study.settings(name, 1)
        assert config.outer.seed == 1 and config.family.name == "navigation"
        assert all(config[key] == value for key, value in study.ROWS[row.runs or name].options.items())
    trained = {row.options.get("surrogate") for row in study.ROWS.values() if not row.tuned}
    assert trained == {*SURROGATES}


def test_the_commands_of_rows_are_commands(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("tinymaml.runs.loop.train", lambda config, *args, **more: seen.append(config))
    for name, row in study.ROWS.items():
        if not row.runs:
            assert main(["train", "navigation", *" ".join(words(row.options)).split(), "--out", str(tmp_path)]) == 0
            assert seen[-1] == study.settings(name, 0)


def test_a_row_is_trained_once_measured_and_shown(tmp_path, monkeypatch):
    for library in ("safetensors", "filelock", "tqdm", "threadpoolctl", "matplotlib"):
        pytest.importorskip(library)
    tiny = {**SMALL, "iterations": 1, "validation_tasks": 2}
    monkeypatch.setattr(study, "ROWS", {
        "lvc": study.of("lvc", "LVC", **tiny), "random": study.Row("random", tiny, True, True, "lvc"),
    })  # fmt: skip
    monkeypatch.setattr(study, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(study, "FIGURE", tmp_path / "figure.png")
    monkeypatch.setattr(study, "GOALS", 3)
    monkeypatch.setattr(study.draw, "__defaults__", (tmp_path / "figure.png",))
    runs = str(tmp_path / "runs")
    assert study.main(["--runs", runs]) == 0
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    record = study.stored()["lvc"]
    assert len(record["mean"]) == 4 and [run["seed"] for run in record["runs"]] == [0, 1, 2]
    np.testing.assert_allclose(record["mean"], np.mean([run["mean"] for run in record["runs"]], 0), rtol=1e-3)
    monkeypatch.setattr(study, "measure", None)  # nothing is measured a second time
    assert study.main(["--runs", runs]) == 0
    text = study.page(study.stored())
    assert len({line.count("|") for line in text.splitlines()}) == 1 and "| random |" in text


def test_what_is_stored_stands_on_the_page():
    if not (stored := study.stored()):
        pytest.skip("nothing is stored yet")
    text = results.PAGE.read_text(encoding="utf-8")
    assert results.between(text, study.page(stored), name=results.NAVIGATION) == text


def test_the_loop_in_pytorch_has_the_same_meta_gradient(monkeypatch):
    pytest.importorskip("torch")
    config = Config.default("navigation", **SMALL)
    assert throughput.check(config) < 1e-10

    honest = throughput.Torch.adapted  # as a detached inner step: first order
    monkeypatch.setattr(throughput.Torch, "adapted", lambda self, batch, create_graph: tm.tree_map(
        lambda x, moved: x + (moved - x).detach(), self.theta, honest(self, batch, create_graph)))  # fmt: skip
    with pytest.raises(throughput.timing.Disagreement, match="the meta-gradients differ by"):
        throughput.check(config)


def test_both_are_timed_in_turns():
    pytest.importorskip("torch")
    record = throughput.measure(Config.default("navigation", **SMALL), 2, 1)
    assert record["steps"] == 2 * 2 * 3 * 6 and all(seconds > 0 for seconds in record["seconds"].values())
    text = throughput.table(record)
    assert "72 steps of the environment" in text and "PyTorch" in text and text.splitlines()[-1].split()[0] == "ratio"
