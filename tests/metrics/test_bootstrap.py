import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm, t

from stages.metrics import bootstrap
from stages.metrics.bootstrap import effective_users, interval, paired_difference, resampled, user_weights
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
    by_user = interval(resampled(metrics, np.repeat(np.arange(20), 50), 500, rng())["mean"], 20)
    by_window = interval(resampled(metrics, np.arange(1000), 500, rng())["mean"], 1000)
    assert by_user["high"] - by_user["low"] > 4 * (by_window["high"] - by_window["low"])


@given(st.floats(-5, 5), st.integers(2, 20))
@settings(max_examples=25)
def test_a_constant_has_an_interval_of_no_width(value, count):
    draws = resampled(mean_of(np.full(count, value)), np.arange(count), 20, rng())["mean"]
    assert interval(draws, count) == pytest.approx({"low": value, "high": value}, abs=1e-12)


def test_one_user_has_no_interval():
    value = np.array([0.0, 1, 1, 0])
    draws = resampled(mean_of(value), np.zeros(4), 20, rng())["mean"]
    assert all(np.isnan(bound) for bound in interval(draws, 1).values())
    gap = paired_difference(mean_of(value), mean_of(1 - value), np.zeros(4), 20, rng())["mean"]
    assert gap["difference"] == 0 and np.isnan(gap["low"]) and np.isnan(gap["high"])


def test_interval_of_very_many_users_is_that_of_percentiles():
    assert interval(np.arange(1001.0), 1e12) == pytest.approx({"low": 25, "high": 975})
    assert interval(np.arange(1001.0), 1e12, level=0.5) == pytest.approx({"low": 250, "high": 750})


@pytest.mark.parametrize("users", [5, 12, 40])
def test_interval_of_a_normal_statistic_is_as_wide_as_students(users):
    """Hesterberg 2015, arXiv 1411.5279: resamples of a mean spread by s / √n · √((n - 1) / n), Student's by s / √n."""
    spread = 1 / np.sqrt(users) * np.sqrt((users - 1) / users)
    found = interval(norm.ppf((np.arange(4_000_000) + 0.5) / 4_000_000) * spread, users)
    expected = t.ppf(0.975, users - 1) / np.sqrt(users)
    assert [-found["low"], found["high"]] == pytest.approx([expected] * 2, rel=0.01)


@given(st.floats(1.001, 1e6), st.floats(1.001, 1e6))
def test_fewer_users_never_narrow_an_interval(one, other):
    values, (fewer, more) = rng(9).normal(size=200), sorted((one, other))
    wide, narrow = interval(values, fewer), interval(values, more)
    assert wide["low"] <= narrow["low"] <= narrow["high"] <= wide["high"]


def test_users_count_by_their_windows():
    """Kish's effective sample size: equal users count as many as they are, one with all the windows as one."""
    assert effective_users(np.full(7, 3.0)) == pytest.approx(7)
    assert effective_users(np.array([5.0, 0, 0])) == 1
    assert effective_users(np.array([2.0, 1, 1])) == pytest.approx(16 / 6)
    assert effective_users(np.zeros((3, 2))).tolist() == [0, 0]
    assert effective_users(np.zeros(0)) == 0


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=20))
def test_users_count_between_one_and_their_number(weight):
    assert 1 - 1e-9 <= effective_users(np.array(weight)) <= len(weight) + 1e-9


def test_interval_leaves_out_resamples_with_nothing_to_measure():
    assert interval(np.array([np.nan, 0.5, np.nan]), 5) == {"low": 0.5, "high": 0.5}
    assert all(np.isnan(bound) for bound in interval(np.array([np.nan]), 5).values())


def held(users, sets, paired, resamples=400):
    """Share of 95 % intervals over users, each with a mean and a number of windows of their own, that hold the truth.

    Users' accuracies are spread evenly over .2 to .6, so that the truth is .4; of the two paired models, the second
    one's are shifted by -.05 to .15, and the true difference is .05.
    """
    found = 0
    for number in range(sets):
        draw = rng([number, users])
        of_user, windows = draw.uniform(0.2, 0.6, users), draw.integers(2, 25, users)
        user = np.repeat(np.arange(users), windows)
        one = (draw.random(len(user)) < of_user[user]).astype(float)
        other = (draw.random(len(user)) < (of_user + draw.uniform(-0.05, 0.15, users))[user]).astype(float)
        weight = np.bincount(user).astype(float)
        sums = [np.bincount(user, weights=value) for value in (one, other)]
        means = [lambda weights, part=part, whole=weight: {"mean": ratio(weights @ part, weights @ whole)}
                 for part in sums]
        if paired:
            gap = paired_difference(means[1], means[0], np.arange(users), resamples, draw,
                                    users={"mean": float(effective_users(weight))})["mean"]
            found += gap["low"] <= 0.05 <= gap["high"]
        else:
            drawn = resampled(means[0], np.arange(users), resamples, draw)["mean"]
            bounds = interval(drawn, float(effective_users(weight)))
            found += bounds["low"] <= 0.4 <= bounds["high"]
    return found / sets


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("users", [12, 40])
def test_intervals_over_a_dozen_users_hold_the_truth_as_often_as_they_say(users, paired):
    """4,000 sets give .94 to .95 (plain percentiles: .89 to .93 over a dozen); so few sets are that sure to .021."""
    assert held(users, 400, paired) == pytest.approx(0.95, abs=0.03)


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
    outcomes = Outcomes(label, answer, one, one, one, 6, 6)
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
