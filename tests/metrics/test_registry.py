import subprocess
import sys

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import (
    accuracy_score, confusion_matrix, log_loss, precision_score, recall_score, top_k_accuracy_score,
)

from stages.metrics.means import mean
from stages.metrics.candidates import OUTSIDE, OwnCandidates
from stages.metrics.outcomes import outcomes
from stages.metrics.registry import METRICS, groups, headline, headline_text, of_split
from stages.metrics.sums import UserSums
from tests.events.helpers import ROOT
from tests.metrics.weighted import weighted

NATURAL = [name for name in METRICS if name.startswith("natural.")]


def test_equals_scikit_learn(predict, labels):
    label, _ = labels
    size = 7  # two that never happen
    log_p = predict(label, size)
    windows = outcomes(log_p, label)
    answer = log_p.argmax(axis=1)
    assert weighted("natural.rec_w", windows) == pytest.approx(accuracy_score(label, answer))
    assert weighted("natural.rec_w", windows) == pytest.approx(
        recall_score(label, answer, average="weighted", zero_division=0)
    )
    for top in (3, 5):
        expected = top_k_accuracy_score(label, log_p, k=top, labels=range(size))
        assert weighted(f"natural.hr_at_{top}", windows) == pytest.approx(expected)
    assert weighted("natural.prec_w", windows) == pytest.approx(
        precision_score(label, answer, average="weighted", zero_division=0)
    )
    confusion = confusion_matrix(label, answer, labels=range(size))[:5]
    recall = weighted("balanced.by_behavior", windows)
    np.testing.assert_allclose(recall[:5], np.diag(confusion) / confusion.sum(axis=1))
    assert np.isnan(recall[5:]).all()
    top_3 = [top_k_accuracy_score(label[label == own], log_p[label == own], k=3, labels=range(size))
             for own in range(5)]
    assert weighted("balanced.hr_at_3", windows) == pytest.approx(np.mean(top_3))


def test_weights_equal_scikit_learns_sample_weights(predict, labels):
    label, _ = labels
    windows = outcomes(predict(label, 5), label)
    weights = np.random.default_rng(2).integers(0, 4, (3, len(label))).astype(float)
    precision = weighted("natural.prec_w", windows, weights)
    recall = weighted("balanced.by_behavior", windows, weights)
    for row, weight in enumerate(weights):
        kind = {"sample_weight": weight, "zero_division": 0}
        assert precision[row] == pytest.approx(
            precision_score(label, windows.predicted, average="weighted", **kind)
        )
        np.testing.assert_allclose(recall[row], recall_score(label, windows.predicted, average=None, **kind))


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40))
def test_a_constant_predictor_has_its_share_squared(label):
    label = np.array(label)
    log_p = np.tile(np.log(np.array([0.7, 0.1, 0.1, 0.1], dtype=np.float32)), (len(label), 1))
    assert weighted("natural.prec_w", outcomes(log_p, label)) == pytest.approx((label == 0).mean() ** 2)


@given(st.integers(1, 30), st.integers(2, 6), st.integers(0, 2**32 - 1))
def test_order_of_the_metrics_and_of_the_windows(count, size, seed):
    rng = np.random.default_rng(seed)
    log_p = np.log(rng.dirichlet(np.ones(size), count) + 1e-9).astype(np.float32)
    label, shuffle = rng.integers(OUTSIDE, size, count), rng.permutation(count)
    windows, moved = outcomes(log_p, label), outcomes(log_p[shuffle], label[shuffle])
    values = {name: weighted(name, windows) for name in NATURAL}
    assert 0 <= values["natural.rec_w"] <= values["natural.mrr"] <= 1
    assert values["natural.rec_w"] <= values["natural.hr_at_3"] <= values["natural.hr_at_5"] <= 1
    for name, value in values.items():
        assert weighted(name, moved) == pytest.approx(value, nan_ok=True)


def test_a_label_outside_the_vocabulary_counts_as_missed():
    label = np.array([0, OUTSIDE])
    windows = outcomes(np.log(np.array([[0.9, 0.1], [0.9, 0.1]], dtype=np.float32)), label)
    assert weighted("natural.rec_w", windows) == 0.5
    assert weighted("natural.prec_w", windows) == 0.25
    np.testing.assert_array_equal(weighted("balanced.by_behavior", windows), [1, np.nan])


def test_groups_average_behaviours_not_windows(vocabulary):
    accuracy = np.array([[0.8, 0.4, 0.2, np.nan, 0.1]])
    whole = np.isfinite(accuracy).astype(float)
    means = {name: mean(np.nan_to_num(accuracy)[:, member], whole[:, member])[0]
             for name, member in groups(vocabulary).items()}
    expected = {"overall": 0.375, "head": 0.8, "medium": 0.3, "tail": 0.1, "anchors": 0.6, "non_anchors": 0.15}
    assert means == pytest.approx(expected)


def test_a_group_without_a_behaviour_is_nan(vocabulary):
    label = np.array([0, 1, 1, 2])
    windows = outcomes(np.tile(np.log(np.array([0.1, 0.6, 0.1, 0.1, 0.1], dtype=np.float32)), (4, 1)), label)
    members = groups(vocabulary)
    assert np.isnan(weighted("balanced.tail", windows, members=members))
    assert weighted("balanced.medium", windows, members=members) == 0.5


def test_log_loss_equals_scikit_learn(predict, labels):
    label, _ = labels
    log_p = predict(label, 5)
    weights = np.random.default_rng(3).integers(0, 3, (2, len(label))).astype(float)
    values = weighted("natural.log_loss", outcomes(log_p, label), weights)
    for row, weight in enumerate(weights):
        p = np.exp(log_p.astype(float))
        expected = log_loss(label, p / p.sum(axis=1, keepdims=True), sample_weight=weight)
        assert values[row] == pytest.approx(expected, rel=1e-5)


def test_log_loss_leaves_out_labels_outside_the_vocabulary():
    log_p = np.log(np.full((2, 4), 0.25, dtype=np.float32))
    windows = outcomes(log_p, np.array([2, OUTSIDE]))
    values = weighted("natural.log_loss", windows, np.array([[1.0, 1], [0, 1]]))
    assert values[0] == pytest.approx(np.log(4)) and np.isnan(values[1])


def test_calibration_error_by_hand():
    # bin [.6, .7): two windows, one right, gap .15 each; bin [.9, 1]: one right window, gap .05
    log_p = np.log(np.array([[0.65, 0.35], [0.65, 0.35], [0.95, 0.05]], dtype=np.float32))
    windows = outcomes(log_p, np.array([0, 1, 0]))
    assert weighted("natural.ece", windows) == pytest.approx((2 * 0.15 + 0.05) / 3, rel=1e-5)


def test_calibration_error_equals_scikit_learns_curve(predict, labels):
    label, _ = labels
    windows = outcomes(predict(label, 5), label)
    right, confidence = calibration_curve(windows.hit, windows.confidence, n_bins=10, strategy="uniform")
    share = np.histogram(windows.confidence, bins=10, range=(0, 1))[0] / len(label)
    expected = (share[share > 0] * np.abs(right - confidence)).sum()
    assert weighted("natural.ece", windows) == pytest.approx(expected)


def test_full_confidence_falls_into_the_last_bin():
    log_p = np.array([[0.0, -200.0]], dtype=np.float32)
    assert weighted("natural.ece", outcomes(log_p, np.array([0]))) == 0
    assert weighted("natural.ece", outcomes(log_p, np.array([1]))) == 1


def test_labels_drawn_from_the_distribution_are_calibrated():
    rng = np.random.default_rng(4)
    p = rng.dirichlet(np.ones(4), 20_000)
    label = (rng.random((len(p), 1)) > p.cumsum(axis=1)).sum(axis=1).clip(max=3)
    assert weighted("natural.ece", outcomes(np.log(p + 1e-12).astype(np.float32), label)) < 0.02


def test_the_headline_is_flat_short_and_rounded():
    keys = ("rec_w", "log_loss", "overall", "head", "medium", "tail")
    figures = {name: dict.fromkeys(keys, 0.123456) for name in ("natural", "balanced")}
    made = headline(figures | {"adjusted": {"tau": 1.125, **figures}})
    assert list(made) == ["acc", "loss", "all", "head", "medium", "tail", "acc_τ", "all_τ", "tail_τ", "τ"]
    assert made.pop("τ") == 1.125 and set(made.values()) == {0.123}
    assert list(headline(figures, adjusted=False)) == ["acc", "loss", "all", "head", "medium", "tail"]


SHOW = """
import numpy as np
import polars as pl
from stages.metrics.registry import headline
from stages.metrics.settings import Evaluate
from stages.metrics.summary import measure
from stages.studies.compare import Comparison, summarise
from stages.studies.repetitions import Repetition, RowResult
from stages.studies.table import metric_name

events = pl.DataFrame({"user": np.arange(8) // 2, "behavior": ["a", "b"] * 4})
vocabulary = pl.DataFrame({"behavior": ["a", "b"], "share": [0.7, 0.3], "group": "head", "is_anchor": True})
log_p = pl.Series(values=np.log(np.tile([0.7, 0.3], (8, 1)))).cast(pl.List(pl.Float32))
predictions = events.select("behavior", row=np.arange(8), split=pl.lit("natural"), log_p=log_p)
evaluate = Evaluate(tau=0, temperature=1, resamples=5, calibration_bins=2)
found = measure(predictions, events, vocabulary, evaluate, 0)
print(found["natural"]["hr_at_10"], found["natural"]["interval"]["hr_at_10"], headline(found)["hr_10"])
rows = [RowResult(name, "", [Repetition(0, predictions, events["user"])]) for name in ("old", "new")]
summary = summarise(rows, vocabulary, "old", Comparison(["natural.hr_at_10"], resamples=5), np.random.default_rng(0))
print(metric_name("natural.hr_at_10"), summary.rows[1].metrics["natural.hr_at_10"].difference.p)
"""


def test_a_new_metric_is_one_entry_in_one_file(tmp_path):
    """A newcomer's change, in a copy: evaluation, headline, studies and their labels all have it."""
    copy = tmp_path / "stages"
    for path in (ROOT / "stages").rglob("*"):
        if path.is_file() and path.suffix != ".pyc":
            (tmp_path / path.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path.relative_to(ROOT)).write_bytes(path.read_bytes())
    registry = copy / "metrics" / "registry.py"
    text = registry.read_text(encoding="utf-8")
    last = "    Metric(\"balanced.hr_at_3\""
    assert text.count(last) == 1
    entry = '    Metric("natural.hr_at_10", "HR@10", (Part(lambda windows: windows.hit_at(10)), _OVER_WINDOWS),\n' \
            '           headline="hr_10"),\n'
    registry.write_text(text.replace(last, entry + last), encoding="utf-8")
    done = subprocess.run([sys.executable, "-c", SHOW], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [
        "1.0 {'low': 1.0, 'high': 1.0} 1.0", "HR@10, natural 1.0"
    ], done.stderr


def test_windows_outside_the_vocabulary_are_missed_by_all_but_the_log_loss(predict):
    """Every figure of n windows and as many outside, beside that of the n alone; the shares that the module states."""
    label = np.random.default_rng(0).integers(0, 4, 60)
    log_p = predict(label, 4)
    inside, half = outcomes(log_p, label), outcomes(np.tile(log_p, (2, 1)), np.r_[label, np.full(60, OUTSIDE)])
    for name in ("rec_w", "prec_w", "hr_at_3", "hr_at_5", "mrr"):
        assert weighted(f"natural.{name}", half) <= 0.5
    for name in ("rec_w", "hr_at_3", "hr_at_5", "mrr"):
        assert weighted(f"natural.{name}", half) == pytest.approx(weighted(f"natural.{name}", inside) / 2)
    assert weighted("natural.log_loss", half) == pytest.approx(weighted("natural.log_loss", inside))
    answer = half.predicted
    expected = precision_score(np.where(half.label == OUTSIDE, 4, half.label), answer, average="weighted",
                               zero_division=0)
    assert weighted("natural.prec_w", half) == pytest.approx(expected)
    assert weighted("natural.aurc", half) > weighted("natural.aurc", inside)
    assert weighted("natural.accuracy_at_50", half) < weighted("natural.accuracy_at_50", inside)


def test_the_headline_names_the_share_outside_the_vocabulary_where_there_is_one():
    section = {metric.key: 0.25 for metric in METRICS.values()} | {"outside_candidates_share": 0.0}
    evaluation = {"natural": section, "balanced": section, "adjusted": {"natural": section, "balanced": section,
                                                                        "tau": 1.0}}
    assert "outside" not in headline(evaluation)
    some = headline(evaluation | {"natural": section | {"outside_candidates_share": 0.5678}})
    assert some["outside"] == 0.568 and headline_text(some).endswith("outside 0.568")


def test_the_least_difference_of_two_headlines_is_no_zero_for_dvc():
    """`dvc metrics diff` rounds to so many digits without --precision; a headline must have fewer."""
    from dvc.commands.metrics import DEFAULT_PRECISION

    section = {metric.key: 0.123456789 for metric in METRICS.values()}
    evaluation = {"natural": section, "balanced": section, "adjusted": {"natural": section, "balanced": section,
                                                                        "tau": 0.125}}
    for value in headline(evaluation).values():
        assert value == round(value, DEFAULT_PRECISION - 1)


def test_people_by_events_known_and_new_behaviours():
    """Windows of two, fifty and five hundred events known; the last two are of behaviours nobody in training did."""
    own = OwnCandidates(np.array([[-1], [-1], [0], [0]]), np.array([[0], [0], [3], [3]]), np.array([0, 0, 500, 500]),
                        np.array([OUTSIDE, OUTSIDE, 2, OUTSIDE]), pl.Series(["z"]))
    log_p = np.log([[0.7, 0.3, 0], [0.4, 0.6, 0], [0.2, 0.2, 0.6], [0.5, 0.3, 0.2]], where=np.array(
        [[True, True, False]] * 2 + [[True] * 3] * 2), out=np.full((4, 3), -np.inf))
    label, known = np.array([0, 0, 2, OUTSIDE]), np.array([2, 50, 500, 500])
    windows = outcomes(log_p, label, own, known)
    sums = UserSums.of({"natural": (windows, np.arange(4))}, {}, 10, of_split("natural"))
    found = {name: value[0] for name, value in sums.measure(np.ones((1, 4)), of_split("natural")).items()}
    assert found["rec_w_known_0_to_9"] == 1 and found["rec_w_known_30_to_99"] == 0
    assert np.isnan(found["rec_w_known_10_to_29"]) and found["rec_w_known_100"] == 0.5
    assert found["log_loss_known_0_to_9"] == pytest.approx(-np.log(0.7))
    assert found["log_loss_known_100"] == pytest.approx(-np.log(0.6)), "no candidate names the other"
    assert found["new"] == 0.5 and found["new_hr_at_5"] == 0.5
