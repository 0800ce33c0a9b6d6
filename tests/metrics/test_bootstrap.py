import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.metrics import bootstrap
from stages.metrics.bootstrap import interval, paired_difference, resampled, user_weights
from stages.metrics.means import ratio
from stages.metrics.outcomes import Outcomes
from stages.metrics.registry import METRICS
from stages.metrics.sums import UserSums


def rng(seed=0):
    return np.random.default_rng(seed)


def mean_of(value):
    return lambda weights: {"mean": ratio(weights @ value, weights.sum(axis=1))}


def test_users_are_drawn_whole_and_as_many_as_there_are():
    user = np.array([7, 7, 3, 9, 3, 7], dtype=np.uint64)
    weights = np.concatenate(list(user_weights(user, 50, rng())))
    assert weights.shape == (50, 6)
    assert (weights[:, 0] == weights[:, 1]).all() and (weights[:, 2] == weights[:, 4]).all()
    assert (weights[:, 0] + weights[:, 2] + weights[:, 3] == 3).all()


def test_blocks_do_not_change_the_draws(monkeypatch):
    user = np.arange(10)
    whole = np.concatenate(list(user_weights(user, 25, rng())))
    monkeypatch.setattr(bootstrap, "_BLOCK", 70)
    blocks = list(user_weights(user, 25, rng()))
    assert [len(block) for block in blocks] == [7, 7, 7, 4]
    np.testing.assert_array_equal(np.concatenate(blocks), whole)
    wide = list(user_weights(user, 25, rng(), width=35))
    assert [len(block) for block in wide] == [2] * 12 + [1]
    np.testing.assert_array_equal(np.concatenate(wide), whole)


def test_order_of_the_windows_does_not_change_the_draws():
    user, value = rng(1).integers(0, 9, 60), rng(2).normal(size=60)
    shuffle = rng(3).permutation(60)
    plain = resampled(mean_of(value), user, 30, rng())
    moved = resampled(mean_of(value[shuffle]), user[shuffle], 30, rng())
    np.testing.assert_allclose(plain["mean"], moved["mean"])


def test_spread_of_a_mean_over_users_equals_theory():
    value = rng(5).normal(size=200)
    draws = resampled(mean_of(value), np.arange(200), 4000, rng())["mean"]
    assert draws.std() == pytest.approx(value.std() / np.sqrt(200), rel=0.05)


def test_alike_windows_of_a_user_widen_the_interval():
    value = np.repeat(rng(6).normal(size=20), 50)
    metrics = mean_of(value)
    by_user = interval(resampled(metrics, np.repeat(np.arange(20), 50), 500, rng())["mean"])
    by_window = interval(resampled(metrics, np.arange(1000), 500, rng())["mean"])
    assert by_user["high"] - by_user["low"] > 4 * (by_window["high"] - by_window["low"])


@given(st.floats(-5, 5), st.integers(1, 20))
@settings(max_examples=25)
def test_a_constant_has_an_interval_of_no_width(value, count):
    draws = resampled(mean_of(np.full(count, value)), np.arange(count), 20, rng())["mean"]
    assert interval(draws) == pytest.approx({"low": value, "high": value}, abs=1e-12)


def test_one_user_has_an_interval_of_no_width():
    value = np.array([0.0, 1, 1, 0])
    draws = resampled(mean_of(value), np.zeros(4), 20, rng())["mean"]
    assert interval(draws) == {"low": 0.5, "high": 0.5}


def test_interval_leaves_out_as_much_on_either_side():
    assert interval(np.arange(1001.0)) == pytest.approx({"low": 25, "high": 975})
    assert interval(np.arange(1001.0), level=0.5) == pytest.approx({"low": 250, "high": 750})


def test_interval_leaves_out_resamples_with_nothing_to_measure():
    assert interval(np.array([np.nan, 0.5, np.nan])) == {"low": 0.5, "high": 0.5}
    assert all(np.isnan(bound) for bound in interval(np.array([np.nan])).values())


@pytest.mark.parametrize(("count", "resamples"), [(0, 10), (5, 0)])
def test_nothing_to_resample(count, resamples):
    draws = resampled(mean_of(np.ones(count)), np.arange(count), resamples, rng())
    assert len(draws["mean"]) == 0


def test_a_metric_of_several_values_keeps_them():
    value = rng(4).normal(size=(30, 3))
    several = resampled(lambda weights: {"all": weights @ value}, np.arange(30), 20, rng())["all"]
    single = resampled(lambda weights: {"one": weights @ value[:, 1]}, np.arange(30), 20, rng())["one"]
    np.testing.assert_allclose(several[:, 1], single)
    assert resampled(lambda weights: {"all": weights @ value}, np.arange(30), 0, rng())["all"].shape == (0, 3)


def test_paired_difference_cancels_what_both_share():
    user = np.repeat(np.arange(30), 4)
    hard = np.repeat(rng(7).normal(size=30), 4)
    better = hard + 0.1 + rng(8).normal(size=120) * 0.01
    value = paired_difference(mean_of(better), mean_of(hard), user, 300, rng())["mean"]
    assert value["difference"] == pytest.approx((better - hard).mean())
    assert 0.09 < value["low"] < value["difference"] < value["high"] < 0.11


def test_a_model_does_not_differ_from_itself():
    metrics = mean_of(np.arange(6.0))
    value = paired_difference(metrics, metrics, np.arange(6), 50, rng())["mean"]
    assert value == {"difference": 0, "low": 0, "high": 0}


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(-1, 5), st.integers(0, 5)), max_size=30))
def test_sums_by_user(windows):
    user, label, answer = np.array(windows, dtype=int).reshape(-1, 3).T
    one = np.ones(len(label))
    outcomes = Outcomes(label, answer, one, one, one, 6)
    made = UserSums.of({"natural": (outcomes, user)}, {}, 2, [METRICS["natural.prec_w"]])
    np.testing.assert_array_equal(made.user, np.unique(user))
    right = answer == label
    answers, hits, support, all_ = (made.parts["natural", part].toarray() for part in METRICS["natural.prec_w"].parts)
    for row, who in enumerate(made.user):
        own = user == who
        np.testing.assert_array_equal(answers[row], np.bincount(answer[own], minlength=6))
        np.testing.assert_array_equal(hits[row], np.bincount(answer[own & right], minlength=6))
        np.testing.assert_array_equal(support[row], np.bincount(label[own & (label >= 0)], minlength=6))
        assert all_[row] == own.sum()
