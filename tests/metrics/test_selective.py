from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.metrics.outcomes import Outcomes
from stages.metrics.registry import by_confidence
from stages.metrics.selective import accuracy_at, area_under_risk_coverage
from tests.metrics.weighted import weighted


def windows_of(confidence, hit):
    """Windows with the given confidence `(N,)`, right where `hit`."""
    confidence, hit = np.asarray(confidence, dtype=float), np.asarray(hit, dtype=int)
    return Outcomes(1 - hit, np.zeros(len(hit), dtype=int), 2.0 - hit, confidence, np.ones(len(hit)), 2, 2)


def sums(windows, weights=None):
    """Weight of all windows and of the right ones at each confidence, `(R, G)` each."""
    weights = np.ones((1, len(windows.label))) if weights is None else weights
    column, columns = by_confidence(windows, 0)
    inside = np.arange(columns) == column[:, None]
    return weights @ inside.astype(float), (weights * windows.hit) @ inside


def area(windows, weights=None):
    found = area_under_risk_coverage(*sums(windows, weights))
    return found[0] if weights is None else found


def at(windows, *coverage, weights=None):
    found = accuracy_at(*sums(windows, weights), np.array(coverage))
    return found[0] if weights is None else found


def plain_area(hit):
    """AURC of windows in this order, most confident first, by its definition."""
    return np.mean([1 - np.mean(hit[: k + 1]) for k in range(len(hit))])


# few different values, so that ties are common
cases = st.lists(st.tuples(st.sampled_from([0.2, 0.4, 0.6, 0.8]), st.booleans()), min_size=1, max_size=25).map(
    lambda pairs: windows_of(*zip(*pairs, strict=True))
)


def test_by_hand():
    windows = windows_of([0.3, 0.9, 0.6, 0.8], [0, 1, 1, 0])  # by confidence: right, wrong, right, wrong
    assert at(windows, 0.25, 0.5, 0.75, 1) == pytest.approx([1, 1 / 2, 2 / 3, 1 / 2])
    assert at(windows, 0.375) == pytest.approx([1 / 1.5])  # the second counts by half
    assert area(windows) == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)


@given(st.lists(st.booleans(), min_size=1, max_size=30))
def test_the_area_without_ties_is_its_definition(hit):
    assert area(windows_of(-np.arange(len(hit)) / 100, hit)) == pytest.approx(plain_area(hit))


@given(st.lists(st.booleans(), min_size=1, max_size=5))
def test_ties_are_the_mean_over_all_orders(hit):
    orders = [plain_area(order) for order in permutations(hit)]
    assert area(windows_of(np.full(len(hit), 0.5), hit)) == pytest.approx(np.mean(orders))


@given(cases)
def test_full_coverage_is_the_plain_accuracy(windows):
    assert at(windows, 1) == pytest.approx([windows.hit.mean()])


@given(cases, st.integers(0, 1000))
def test_order_of_the_windows_changes_nothing(windows, seed):
    moved = np.random.default_rng(seed).permutation(len(windows.label))
    other = windows_of(windows.confidence[moved], windows.hit[moved])
    np.testing.assert_allclose(at(windows, 0.1, 0.5, 0.8), at(other, 0.1, 0.5, 0.8))
    assert area(windows) == pytest.approx(area(other))


@given(cases)
def test_confidence_in_the_right_answers_first_has_the_least_area(windows):
    best = windows_of(windows.hit, windows.hit)
    worst = windows_of(-windows.hit, windows.hit)
    assert area(best) - 1e-12 <= area(windows) <= area(worst) + 1e-12


@given(cases, st.data())
def test_weights_equal_repeated_windows(windows, data):
    count = len(windows.label)
    times = np.array(data.draw(st.lists(st.integers(0, 3), min_size=count, max_size=count)))
    times[0] += 1
    repeated = windows_of(np.repeat(windows.confidence, times), np.repeat(windows.hit, times))
    weights = times[None].astype(float)
    assert area(windows, weights)[0] == weighted("natural.aurc", windows, weights)[0] == pytest.approx(area(repeated))
    np.testing.assert_allclose(at(windows, 0.2, 0.5, 1, weights=weights)[0], at(repeated, 0.2, 0.5, 1))


def test_many_weightings_at_once_are_each_alone():
    rng = np.random.default_rng(3)
    windows = windows_of(rng.choice(20, 60) / 20, rng.random(60) < 0.6)
    weights = rng.integers(0, 3, (4, 60)).astype(float)
    alone = [at(windows, 0.3, 0.7, 1, weights=row[None])[0] for row in weights]
    together = at(windows, 0.3, 0.7, 1, weights=weights)
    np.testing.assert_allclose(together, alone)
    np.testing.assert_allclose(together[:, 2], weights @ windows.hit / weights.sum(axis=1))


def test_no_windows_have_neither():
    windows = windows_of([], [])
    assert np.isnan(at(windows, 0.5, 1)).all() and np.isnan(area(windows))
