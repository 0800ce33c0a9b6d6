import json

import numpy as np
import polars as pl
import pytest

from stages.common import tables
from stages.common.errors import UserError
from stages.evaluate import evaluate
from tests.small_log import a_tuned, all_behaviors, small_log, small_params, small_windows

SPLITS = ["train", "valid", "natural", "balanced", "natural", "balanced"]


@pytest.fixture(autouse=True)
def float32(monkeypatch):
    monkeypatch.setenv("BEHAVIORLM_DTYPE", "float32")


@pytest.fixture(scope="module")
def log():
    events = small_log([12, 12, 9, 9, 9, 9])
    return events, small_windows(events, SPLITS)


def run(log, model, **changes):
    return evaluate(*log, all_behaviors(), small_params(evaluate__resamples=20, **changes), model)


def test_predictions_are_whole_distributions_over_the_vocabulary_for_every_test_window(log, tiny_base):
    events, windows = log
    predictions, metrics = run(log, tiny_base)
    tables.check(predictions, "predictions", "x")
    test = windows.filter(pl.col("split").is_in(["natural", "balanced"]))
    assert sorted(zip(predictions["split"], predictions["row"], strict=True)) == sorted(
        zip(test["split"], test["row"], strict=True)
    )
    assert predictions["behavior"].equals(events["behavior"].gather(predictions["row"]))
    log_p = np.stack(predictions["log_p"].to_numpy())
    assert log_p.shape == (len(test), 6)
    np.testing.assert_allclose(np.exp(log_p).sum(axis=1), 1, atol=1e-4)
    json.dumps(metrics, allow_nan=False)
    natural = predictions["split"] == "natural"
    truth = predictions["behavior"].replace_strict(all_behaviors()["behavior"], pl.Series(range(6))).to_numpy()
    right = (log_p.argmax(axis=1) == truth)[natural.to_numpy()]
    assert metrics["natural"]["rec_w"] == pytest.approx(right.mean())
    assert (metrics["layout"], metrics["context"], metrics["events_dropped"]) == ("stream", "next", 0)


def test_the_result_does_not_depend_on_the_order_of_the_windows(log, tiny_base):
    events, windows = log
    one, metrics = run(log, tiny_base)
    other, same = run((events, windows.sample(fraction=1, shuffle=True, seed=1)), tiny_base)
    assert other.equals(one) and same == metrics


def test_an_adapter_is_evaluated_with_its_base(log, tiny_base, tmp_path):
    base, _ = run(log, tiny_base)
    tuned, _ = run(log, a_tuned(tiny_base, tmp_path / "sft"))
    difference = np.stack(base["log_p"].to_numpy()) - np.stack(tuned["log_p"].to_numpy())
    assert np.abs(difference).max() > 0.1


@pytest.mark.parametrize("splits", [["train"] * 6, ["valid"] * 6])
def test_without_a_test_window_there_is_nothing_to_evaluate(log, tiny_base, splits):
    events, _ = log
    with pytest.raises(UserError, match="windows: none of split natural or balanced"):
        run((events, small_windows(events, splits)), tiny_base)
