"""Controls on planted studies: what is not there is not found, what is there is."""

import numpy as np
import pytest
from scipy.stats import binom

from stages.studies.planted import Plan, coverage

SETS = 100


def chance(share):
    """Bounds that a share of `SETS` leaves once in a thousand."""
    low, high = binom.interval(0.999, SETS, share)
    return low / SETS, high / SETS


@pytest.mark.parametrize("metric", ["balanced.overall", "natural.log_loss"])
def test_no_effect_is_rejected_as_often_as_the_level_says(metric):
    found = coverage(Plan(users=40, windows=5), SETS, seed=1, metric=metric, resamples=200)
    low, high = chance(0.05)
    assert low <= found.rejected <= high
    assert found.covered >= chance(0.95)[0]
    assert abs(found.estimates.mean()) < 4 * found.estimates.std() / np.sqrt(SETS)


@pytest.mark.parametrize("metric", ["natural.prec_w", "natural.ece"])
def test_no_effect_in_metrics_that_are_no_means(metric):
    found = coverage(Plan(users=40, windows=5, repetitions=2), SETS, seed=2, metric=metric, resamples=100, flips=400)
    low, high = chance(0.05)
    assert low <= found.rejected <= high


def test_a_planted_effect_is_found_and_covered():
    found = coverage(Plan(effect=0.1), 20, seed=3)
    assert found.covered >= 17 / 20
    assert found.rejected == 1
    assert found.estimates.mean() == pytest.approx(0.1, abs=4 * found.estimates.std() / np.sqrt(20))


def test_a_planted_effect_over_folds():
    found = coverage(Plan(effect=0.1, folds=True, users=20), 20, seed=4)
    assert found.covered >= 17 / 20
    assert found.estimates.mean() == pytest.approx(0.1, abs=4 * found.estimates.std() / np.sqrt(20))


def test_noise_of_the_training_is_in_the_crossed_interval_and_not_in_the_users():
    noisy = Plan(of_repetitions=0.04, users=40)
    crossed = coverage(noisy, SETS, seed=5, resamples=200)
    users = coverage(noisy, SETS, seed=5, resamples=200, resample_repetitions=False)
    assert crossed.covered >= 0.9 > 0.85 > users.covered
    # and so the test over users, of the models as trained, is no test of the setting
    assert users.rejected > chance(0.05)[1]
