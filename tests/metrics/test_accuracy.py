import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix, precision_score, recall_score, top_k_accuracy_score

from stages.metrics.accuracy import by_behavior, group_means, groups, ranked, weighted_precision
from stages.metrics.outcomes import OUTSIDE, outcomes


def ones(label):
    return np.ones((1, len(label)))


def test_equals_scikit_learn(predict, labels):
    label, _ = labels
    size = 7  # two that never happen
    log_p = predict(label, size)
    windows = outcomes(log_p, label)
    values = ranked(ones(label), windows)
    answer = log_p.argmax(axis=1)
    assert values["rec_w"][0] == pytest.approx(accuracy_score(label, answer))
    assert values["rec_w"][0] == pytest.approx(recall_score(label, answer, average="weighted", zero_division=0))
    for top in (3, 5):
        expected = top_k_accuracy_score(label, log_p, k=top, labels=range(size))
        assert values[f"hr_at_{top}"][0] == pytest.approx(expected)
    assert weighted_precision(ones(label), windows, size)[0] == pytest.approx(
        precision_score(label, answer, average="weighted", zero_division=0)
    )
    confusion = confusion_matrix(label, answer, labels=range(size))[:5]
    recall = by_behavior(ones(label), windows, size)[0]
    np.testing.assert_allclose(recall[:5], np.diag(confusion) / confusion.sum(axis=1))
    assert np.isnan(recall[5:]).all()
    for behavior in range(5):
        own = label == behavior
        assert by_behavior(ones(label), windows, size, top=3)[0, behavior] == pytest.approx(
            top_k_accuracy_score(label[own], log_p[own], k=3, labels=range(size))
        )


def test_weights_equal_scikit_learns_sample_weights(predict, labels):
    label, _ = labels
    windows = outcomes(predict(label, 5), label)
    weights = np.random.default_rng(2).integers(0, 4, (3, len(label))).astype(float)
    precision, recall = weighted_precision(weights, windows, 5), by_behavior(weights, windows, 5)
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
    precision = weighted_precision(ones(label), outcomes(log_p, label), 4)[0]
    assert precision == pytest.approx((label == 0).mean() ** 2)


@given(st.integers(1, 30), st.integers(2, 6), st.integers(0, 2**32 - 1))
def test_order_of_the_metrics_and_of_the_windows(count, size, seed):
    rng = np.random.default_rng(seed)
    log_p = np.log(rng.dirichlet(np.ones(size), count) + 1e-9).astype(np.float32)
    label, shuffle = rng.integers(OUTSIDE, size, count), rng.permutation(count)
    values = ranked(ones(label), outcomes(log_p, label))
    assert 0 <= values["rec_w"][0] <= values["mrr"][0] <= 1
    assert values["rec_w"][0] <= values["hr_at_3"][0] <= values["hr_at_5"][0] <= 1
    windows, moved = outcomes(log_p, label), outcomes(log_p[shuffle], label[shuffle])
    for name, value in ranked(ones(label), moved).items():
        assert value[0] == pytest.approx(values[name][0])
    assert weighted_precision(ones(label), moved, size)[0] == pytest.approx(
        weighted_precision(ones(label), windows, size)[0]
    )


def test_a_label_outside_the_vocabulary_counts_as_missed():
    label = np.array([0, OUTSIDE])
    windows = outcomes(np.log(np.array([[0.9, 0.1], [0.9, 0.1]], dtype=np.float32)), label)
    assert ranked(ones(label), windows)["rec_w"][0] == 0.5
    assert weighted_precision(ones(label), windows, 2)[0] == 0.25
    np.testing.assert_array_equal(by_behavior(ones(label), windows, 2)[0], [1, np.nan])


def test_groups_average_behaviours_not_windows(vocabulary):
    accuracy = np.array([[0.8, 0.4, 0.2, np.nan, 0.1]])
    means = group_means(accuracy, groups(vocabulary))
    expected = {"overall": 0.375, "head": 0.8, "medium": 0.3, "tail": 0.1, "anchors": 0.6, "non_anchors": 0.15}
    assert {name: value[0] for name, value in means.items()} == pytest.approx(expected)


def test_a_group_without_a_behaviour_is_nan(vocabulary):
    means = group_means(np.array([[0.8, 0.4, 0.2, np.nan, np.nan]]), groups(vocabulary))
    assert np.isnan(means["tail"][0]) and means["medium"][0] == pytest.approx(0.3)
