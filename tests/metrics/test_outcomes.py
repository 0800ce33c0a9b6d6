import numpy as np
import pytest

from stages.metrics.candidates import OUTSIDE
from stages.metrics.outcomes import outcomes


def test_reads_answer_rank_confidence_and_surprise():
    log_p = np.log(np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]], dtype=np.float32))
    windows = outcomes(log_p, np.array([1, 2]))
    assert windows.predicted.tolist() == [0, 2]
    assert windows.rank.tolist() == [2, 1]
    assert windows.hit.tolist() == [0, 1]
    np.testing.assert_allclose(windows.confidence, [0.5, 0.7], rtol=1e-6)
    np.testing.assert_allclose(windows.surprise, [-np.log(0.3), -np.log(0.7)], rtol=1e-6)


def test_ties_go_by_candidate_order_in_answer_and_rank():
    log_p = np.log(np.full((3, 3), 1 / 3, dtype=np.float32))
    windows = outcomes(log_p, np.array([0, 1, 2]))
    assert windows.predicted.tolist() == [0, 0, 0]
    assert windows.rank.tolist() == [1, 2, 3]


def test_a_label_outside_the_vocabulary_is_missed_and_unranked():
    windows = outcomes(np.log(np.array([[0.6, 0.4]], dtype=np.float32)), np.array([OUTSIDE]))
    assert windows.hit[0] == 0 and np.isinf(windows.rank[0]) and np.isnan(windows.surprise[0])


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_refuses_what_is_not_finite(bad):
    log_p = np.log(np.full((4, 2), 0.5, dtype=np.float32))
    log_p[2, 1] = bad
    with pytest.raises(ValueError, match="window 2 is not finite"):
        outcomes(log_p, np.zeros(4, int))


def test_refuses_scores_that_are_no_distribution():
    log_p = np.log(np.array([[0.5, 0.5], [0.5, 0.9]], dtype=np.float32))
    with pytest.raises(ValueError, match="window 1 sum to 1.4"):
        outcomes(log_p, np.zeros(2, int))
