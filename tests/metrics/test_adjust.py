import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.metrics.adjust import adjusted, tempered
from stages.metrics.outcomes import outcomes

SHARE = np.array([0.9, 0.09, 0.01])


def test_by_hand():
    # p / π = (.8/.9, .18/.09, .02/.01) = (8/9, 2, 2), normalised by 44/9
    log_p = np.log(np.array([[0.8, 0.18, 0.02]], dtype=np.float32))
    np.testing.assert_allclose(np.exp(adjusted(log_p, SHARE, 1)), [[8 / 44, 18 / 44, 18 / 44]], rtol=1e-5)


def test_tau_zero_changes_nothing():
    log_p = np.log(np.array([[0.8, 0.18, 0.02]], dtype=np.float32))
    np.testing.assert_array_equal(adjusted(log_p, SHARE, 0), log_p)


def test_the_shares_themselves_become_uniform():
    log_p = np.log(SHARE[None]).astype(np.float32)
    np.testing.assert_allclose(np.exp(adjusted(log_p, SHARE, 1)), np.full((1, 3), 1 / 3), rtol=1e-5)


@given(st.floats(0, 3), st.floats(0, 3), st.integers(0, 1000))
def test_normalised_and_additive_in_tau(first, second, seed):
    log_p = np.log(np.random.default_rng(seed).dirichlet(np.ones(3), 4) + 1e-6).astype(np.float32)
    once = adjusted(log_p, SHARE, first + second)
    assert once.dtype == np.float32
    np.testing.assert_allclose(np.exp(once).sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(adjusted(adjusted(log_p, SHARE, first), SHARE, second), once, atol=1e-4)


def test_refuses_a_share_of_zero():
    with pytest.raises(ValueError, match="behaviour 1"):
        adjusted(np.zeros((1, 2), dtype=np.float32), np.array([1.0, 0.0]), 1)


def test_temperature_by_hand():
    # p² = (.64, .04, .04), normalised by .72
    log_p = np.log(np.array([[0.8, 0.2, 0.2]], dtype=np.float32))
    np.testing.assert_allclose(np.exp(tempered(log_p, 0.5)), [[64 / 72, 4 / 72, 4 / 72]], rtol=1e-5)


def test_temperature_one_changes_nothing():
    log_p = np.log(np.array([[0.8, 0.18, 0.02]], dtype=np.float32))
    np.testing.assert_array_equal(tempered(log_p, 1), log_p)


@given(st.floats(0.05, 100), st.integers(0, 10_000))
def test_temperature_changes_no_answer_and_no_rank(temperature, seed):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(6, 0.5), 20)
    p[:10, 1] = p[:10, 0] * (1 + 1e-7)  # hardly apart in float32, or equal
    log_p, label = np.log((p + 1e-6) / (p + 1e-6).sum(axis=1, keepdims=True)).astype(np.float32), rng.integers(0, 6, 20)
    before, after = outcomes(log_p, label), outcomes(tempered(log_p, temperature), label)
    np.testing.assert_array_equal(before.predicted, after.predicted)
    np.testing.assert_array_equal(before.rank, after.rank)


@given(st.floats(1.01, 50), st.integers(0, 1000))
def test_a_higher_temperature_is_less_sure(temperature, seed):
    log_p = np.log(np.random.default_rng(seed).dirichlet(np.ones(4), 10) + 1e-9).astype(np.float32)
    label = np.zeros(10, dtype=int)
    plain, warm = outcomes(log_p, label).confidence, outcomes(tempered(log_p, temperature), label).confidence
    assert (warm < plain + 1e-6).all()
