import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.past.pool import fit_weights, pooled


def distributions(rng, parts, windows=60, candidates=4):
    log_p = rng.normal(size=(parts, windows, candidates)) * 2
    log_p[:, ::3, -1] = -np.inf  # a candidate that some windows do not have
    return log_p - np.log(np.exp(log_p).sum(axis=2, keepdims=True))


def loss(log_p, label):
    return -log_p[np.arange(len(label)), label].mean()


@given(st.integers(0, 10_000), st.integers(1, 3))
def test_no_part_is_ahead_of_the_pool_where_it_was_fitted(seed, parts):
    rng = np.random.default_rng(seed)
    log_p, label = distributions(rng, parts), rng.integers(0, 3, size=60)
    weights = fit_weights(list(log_p), label)
    assert (weights >= 0).all()
    found = pooled(list(log_p), weights)
    np.testing.assert_allclose(np.exp(found).sum(axis=1), 1, rtol=1e-5)
    assert np.isneginf(found[::3, -1]).all() and np.isfinite(found[1::3]).all()
    assert loss(found, label) <= min(loss(each, label) for each in log_p) + 1e-3  # weights have four digits


@given(st.integers(0, 10_000))
def test_weights_are_those_of_least_loss(seed):
    rng = np.random.default_rng(seed)
    log_p, label = distributions(rng, 2), rng.integers(0, 3, size=60)
    best = loss(pooled(list(log_p), fit_weights(list(log_p), label)), label)
    for weights in rng.uniform(0, 2, size=(20, 2)):
        assert best <= loss(pooled(list(log_p), weights), label) + 1e-3


def test_who_says_nothing_weighs_nothing():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 4, size=400)
    useful = np.full((400, 4), np.log(0.1))
    useful[np.arange(400), np.where(rng.random(400) < 0.7, label, rng.integers(0, 4, size=400))] = np.log(0.7)
    noise = rng.normal(size=(400, 4))
    noise -= np.log(np.exp(noise).sum(axis=1, keepdims=True))
    weights = fit_weights([useful, noise], label)
    assert weights[0] > 0.7 and weights[1] < 0.15


def test_without_a_window_all_weigh_alike():
    assert fit_weights([np.zeros((0, 3))] * 2, np.zeros(0, np.int64)) == pytest.approx([0.5, 0.5])
