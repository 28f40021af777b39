"""The study of surrogates: what it measures on few processes is what is known of them, and its page is current."""

import numpy as np
import pytest

from bench import results
from bench.rl import exact as study
from bench.rl import main


@pytest.fixture(scope="module")
def record():
    return {"derivatives": study.derivatives(3), "variances": study.variances(1, 300),
            "meta": study.meta(batches=2000, enumerated=(1, 2), sampled=(10,))}  # fmt: skip


def test_dice_is_right_at_orders_1_to_3_and_what_is_not_is_seen(record):
    for name, errors in record["derivatives"].items():
        gradient, hessian, third = np.array(errors).T
        right = name in ("dice", "loaded-dice")
        assert (max(*gradient, *hessian, *third) < 1e-11) == right, name
        assert (gradient.max() < 1e-11) == ("published" not in name), name
        assert right or hessian.min() > 1e-3, name
    # with the value function for a baseline, nothing of the Hessian is left: it does not depend on the action
    np.testing.assert_allclose(np.array(record["derivatives"]["likelihood"])[:, 1], 1, rtol=1e-9)


def test_e_maml_is_unbiased_for_n_trajectories_and_nothing_else_is(record):
    for name, cells in record["meta"].items():
        for n in ("1", "2"):
            assert (cells[n]["off"][0] < 1e-12) == (name == study.UNBIASED), (name, n)
            assert cells[n]["half"] == [0, 0] and cells[n]["off"][1] > 1e-3
    assert record["meta"]["dice"]["10"]["variance"] < 0.2 * record["meta"]["dice"]["1"]["variance"]
    assert record["meta"][study.UNBIASED]["10"]["variance"] > 0.5 * record["meta"][study.UNBIASED]["1"]["variance"]


def test_sampling_gives_what_enumeration_gives():
    by_sampling = study.meta(batches=20000, enumerated=(), sampled=(2,))
    exactly = study.meta(enumerated=(2,), sampled=())
    for name in exactly:
        one, other = (found[name]["2"] for found in (by_sampling, exactly))
        assert abs(one["off"][1] - other["off"][1]) < 1.5 * one["half"][1]
        np.testing.assert_allclose(one["variance"], other["variance"], rtol=0.1)


def test_the_page_shows_every_number(record):
    text = study.page(record)
    assert text.count("| lvc |") == 5 and text.count("rounding") >= 10 and "| – |" in text
    for table in text.split("\n\n")[1::2]:
        assert len({line.count("|") for line in table.splitlines()}) == 1


def test_what_is_stored_stands_on_the_page():
    stored = study.stored()
    if stored is None:
        pytest.skip("nothing is stored yet")
    text = results.PAGE.read_text(encoding="utf-8")
    assert results.between(text, study.page(stored), name=results.RL) == text


@pytest.mark.slow
def test_derivatives_measured_again_are_those_that_are_stored():
    again = study.derivatives()
    for name, errors in study.stored()["derivatives"].items():
        np.testing.assert_allclose(again[name], errors, rtol=1e-6, atol=1e-11, err_msg=name)


def test_the_command_names_its_studies(capsys):
    assert main([]) == 2 and "rl exact" in capsys.readouterr().err
    assert main(["--help"]) == 0 and "rl exact" in capsys.readouterr().out
