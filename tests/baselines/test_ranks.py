import numpy as np
import pytest

from stages.baselines.sequential.training import mean_reciprocal_rank


def test_ranks_are_those_of_the_labels_and_ties_count_against_them():
    log_p = np.log([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2], [0.5, 0.3, 0.2], [0.4, 0.4, 0.2]])
    assert mean_reciprocal_rank(log_p, np.array([0, 1, 2, 0])) == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 2) / 4)
    assert mean_reciprocal_rank(np.zeros((6, 5)), np.arange(6) % 5) == pytest.approx(1 / 5)


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_what_is_not_finite_has_no_rank_and_neither_has_nothing(value):
    log_p = np.zeros((2, 3))
    log_p[1, 2] = value
    assert np.isnan(mean_reciprocal_rank(log_p, np.array([0, 0])))
    assert np.isnan(mean_reciprocal_rank(np.empty((0, 3)), np.array([], dtype=int)))
