import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import log_loss as sklearn_log_loss

from stages.metrics.calibration import calibration_error, log_loss
from stages.metrics.outcomes import OUTSIDE, outcomes


def test_log_loss_equals_scikit_learn(predict, labels):
    label, _ = labels
    log_p = predict(label, 5)
    weights = np.random.default_rng(3).integers(0, 3, (2, len(label))).astype(float)
    values = log_loss(weights, outcomes(log_p, label))
    for row, weight in enumerate(weights):
        p = np.exp(log_p.astype(float))
        expected = sklearn_log_loss(label, p / p.sum(axis=1, keepdims=True), sample_weight=weight)
        assert values[row] == pytest.approx(expected, rel=1e-5)


def test_log_loss_leaves_out_labels_outside_the_vocabulary():
    log_p = np.log(np.full((2, 4), 0.25, dtype=np.float32))
    windows = outcomes(log_p, np.array([2, OUTSIDE]))
    values = log_loss(np.array([[1.0, 1], [0, 1]]), windows)
    assert values[0] == pytest.approx(np.log(4)) and np.isnan(values[1])


def test_calibration_error_by_hand():
    # bin [.6, .7): two windows, one right, gap .15 each; bin [.9, 1]: one right window, gap .05
    log_p = np.log(np.array([[0.65, 0.35], [0.65, 0.35], [0.95, 0.05]], dtype=np.float32))
    windows = outcomes(log_p, np.array([0, 1, 0]))
    assert calibration_error(np.ones((1, 3)), windows, 10)[0] == pytest.approx((2 * 0.15 + 0.05) / 3, rel=1e-5)


def test_calibration_error_equals_scikit_learns_curve(predict, labels):
    label, _ = labels
    windows = outcomes(predict(label, 5), label)
    right, confidence = calibration_curve(windows.hit, windows.confidence, n_bins=10, strategy="uniform")
    share = np.histogram(windows.confidence, bins=10, range=(0, 1))[0] / len(label)
    expected = (share[share > 0] * np.abs(right - confidence)).sum()
    assert calibration_error(np.ones((1, len(label))), windows, 10)[0] == pytest.approx(expected)


def test_full_confidence_falls_into_the_last_bin():
    log_p = np.array([[0.0, -200.0]], dtype=np.float32)
    assert calibration_error(np.ones((1, 1)), outcomes(log_p, np.array([0])), 10)[0] == 0
    assert calibration_error(np.ones((1, 1)), outcomes(log_p, np.array([1])), 10)[0] == 1


def test_labels_drawn_from_the_distribution_are_calibrated():
    rng = np.random.default_rng(4)
    p = rng.dirichlet(np.ones(4), 20_000)
    label = (rng.random((len(p), 1)) > p.cumsum(axis=1)).sum(axis=1).clip(max=3)
    windows = outcomes(np.log(p + 1e-12).astype(np.float32), label)
    assert calibration_error(np.ones((1, len(label))), windows, 10)[0] < 0.02
