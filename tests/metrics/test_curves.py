import numpy as np
import polars as pl
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import confusion_matrix

from stages.metrics.settings import Evaluate
from stages.metrics.curves import curves
from stages.metrics.splits import read_splits
from stages.metrics.summary import measure

EVALUATE = Evaluate(tau="validation", temperature="validation", resamples=50, calibration_bins=10)


@pytest.fixture
def made(log, predictions, vocabulary):
    """The metrics and the tables of one model, and its splits."""
    arguments = predictions(), log[0], vocabulary, EVALUATE
    metrics = measure(*arguments, 0)
    return metrics, curves(*arguments, metrics), read_splits(*arguments[:3])


def test_confusion_has_a_row_for_each_balanced_window(made, vocabulary):
    metrics, curves, splits = made
    frame, names = curves["confusion"], vocabulary["behavior"].to_list()
    assert frame.columns == ["actual", "predicted"] and len(frame) == metrics["balanced"]["windows"]
    answer = splits["balanced"].log_p.argmax(axis=1)
    known = splits["balanced"].label >= 0
    expected = confusion_matrix(splits["balanced"].label[known], answer[known], labels=range(5))
    inside = frame.filter(pl.col("actual").is_in(names))
    np.testing.assert_array_equal(confusion_matrix(*inside.get_columns(), labels=names), expected)
    assert len(frame) - len(inside) == metrics["balanced"]["outside_candidates"] > 0
    for name in names:
        own = frame.filter(actual=name)
        assert (own["predicted"] == name).mean() == pytest.approx(
            metrics["balanced"]["by_behavior"][name]["accuracy"]
        )


def test_the_order_of_the_confusions_tells_nothing_of_the_log(log, predictions, vocabulary, made):
    moved = predictions().sample(fraction=1, shuffle=True, seed=1)
    assert curves(moved, log[0], vocabulary, EVALUATE, made[0])["confusion"].equals(made[1]["confusion"])


def test_behaviors_are_those_of_the_metrics_in_the_vocabularys_order(made, vocabulary):
    metrics, curves, _ = made
    assert curves["behaviors"].columns == [
        "behavior", "share", "group", "anchor", "windows", "accuracy", "low", "high", "adjusted"
    ]
    assert curves["behaviors"]["behavior"].equals(vocabulary["behavior"])
    for row in curves["behaviors"].iter_rows(named=True):
        plain = metrics["balanced"]["by_behavior"][row["behavior"]]
        assert {key: row[key] for key in plain} == plain
        assert row["adjusted"] == metrics["adjusted"]["balanced"]["by_behavior"][row["behavior"]]["accuracy"]


def test_reliability_equals_scikit_learns_curve_and_the_calibration_error(made):
    metrics, curves, splits = made
    natural = splits["natural"]
    frame = curves["reliability"]
    assert frame.columns == ["which", "confidence", "accuracy", "windows"]
    windows = natural.outcomes()
    right, confidence = calibration_curve(windows.hit, windows.confidence, n_bins=10, strategy="uniform")
    plain = frame.filter(which="plain")
    np.testing.assert_allclose(plain["accuracy"], right)
    np.testing.assert_allclose(plain["confidence"], confidence)
    for which, ece in (("plain", metrics["natural"]["ece"]), ("calibrated", metrics["calibrated"]["natural"]["ece"])):
        part = frame.filter(which=which)
        assert part["windows"].sum() == metrics["natural"]["windows"] and part["windows"].min() > 0
        gap = ((part["confidence"] - part["accuracy"]).abs() * part["windows"]).sum() / part["windows"].sum()
        assert gap == pytest.approx(ece)


def test_coverage_ends_with_the_plain_accuracy(made):
    metrics, curves, _ = made
    frame = curves["coverage"]
    assert frame.columns == ["coverage", "accuracy"] and len(frame) == 100
    assert frame.row(-1) == pytest.approx((1, metrics["natural"]["rec_w"]))
    assert frame.row(49) == pytest.approx((0.5, metrics["natural"]["accuracy_at_50"]))
    assert frame["coverage"].is_sorted()


def test_no_windows_leave_tables_without_rows(log, predictions, vocabulary):
    arguments = predictions().clear(), log[0], vocabulary, EVALUATE
    made = curves(*arguments, measure(*arguments, 0))
    assert [len(made[name]) for name in ("confusion", "reliability", "coverage")] == [0, 0, 0]
    assert made["behaviors"]["windows"].to_list() == [0] * 5 and made["behaviors"]["accuracy"].null_count() == 5


def test_no_user_is_in_a_table(made):
    for frame in made[1].values():
        assert not {"user", "row"} & set(frame.columns) and pl.UInt64 not in frame.dtypes
