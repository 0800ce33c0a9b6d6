import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, recall_score
from sklearn.metrics import log_loss as sklearn_log_loss

from stages.metrics.settings import Evaluate
from stages.metrics.adjust import adjusted, tempered
from stages.metrics.decisions import TAUS, TEMPERATURES, cross_fitted, choose_tau, choose_temperature
from stages.metrics.candidates import OUTSIDE
from stages.metrics.splits import Split

CHOSEN = Evaluate(tau="validation", temperature="validation", resamples=0, calibration_bins=10)
SHARE = np.array([0.7, 0.2, 0.07, 0.03])
NONE = Split(np.empty((0, 4), dtype=np.float32), np.empty(0, dtype=int), np.empty(0))


def drawn(count, seed, sharpness=1.0, uniform=False):
    """Windows whose labels are drawn from p(y|x), the prior SHARE; then log p is multiplied by `sharpness`.

    `uniform` keeps as many windows of each behaviour, as a balanced set does.
    """
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(SHARE * 4, count) + 1e-4
    p /= p.sum(axis=1, keepdims=True)
    label = (rng.random((count, 1)) > p.cumsum(axis=1)).sum(axis=1).clip(max=3)
    if uniform:
        least = np.bincount(label, minlength=4).min()
        kept = np.concatenate([np.flatnonzero(label == behavior)[:least] for behavior in range(4)])
        p, label = p[kept], label[kept]
    return Split(tempered(np.log(p), 1 / sharpness).astype(np.float32), label, np.arange(len(label)))


def loss(split, temperature):
    p = np.exp(tempered(split.log_p, temperature))
    return sklearn_log_loss(split.label, p / p.sum(axis=1, keepdims=True), labels=range(4))


def test_the_grid_begins_with_the_plain_decision():
    assert TAUS[0] == 0 and TAUS[8] == 1 and TAUS[-1] == 2 and len(TAUS) == 17


@given(st.integers(0, 1000), st.integers(2, 60))
@settings(max_examples=40)
def test_tau_has_the_best_mean_accuracy_over_behaviours_of_the_grid(seed, count):
    valid = drawn(count, seed)

    def accuracy(tau):
        answer = adjusted(valid.log_p, SHARE, tau).argmax(axis=1)
        return recall_score(valid.label, answer, labels=np.unique(valid.label), average="macro", zero_division=0)

    assert accuracy(choose_tau(valid, SHARE, CHOSEN)) == pytest.approx(max(map(accuracy, TAUS)))


def test_tau_of_calibrated_probabilities_is_near_one():
    # Menon et al. 2021: 1 is optimal for p(y|x) itself; their square wants 2
    assert choose_tau(drawn(60_000, 0, uniform=True), SHARE, CHOSEN) == pytest.approx(1, abs=0.25)
    assert choose_tau(drawn(60_000, 0, sharpness=2, uniform=True), SHARE, CHOSEN) == pytest.approx(2, abs=0.25)


def test_of_equally_accurate_taus_the_one_of_least_log_loss_is_taken():
    # the frequent answer is surest without adjustment, the rare one, right whatever τ is, with the most
    for label, tau in ((0, 0), (3, 2)):
        p = np.full((1, 4), 0.01)
        p[0, label] = 0.97
        assert choose_tau(Split(np.log(p).astype(np.float32), np.array([label]), np.zeros(1)), SHARE, CHOSEN) == tau


def test_of_equal_taus_the_least_is_taken():
    uniform = np.full(4, 0.25)
    assert choose_tau(drawn(30, 1), uniform, CHOSEN) == 0


@given(st.integers(0, 300), st.floats(0.2, 5), st.integers(1, 40))
@settings(max_examples=40)
def test_temperature_lowers_the_log_loss(seed, sharpness, count):
    valid = drawn(count, seed, sharpness)
    temperature = choose_temperature(valid, CHOSEN)
    assert TEMPERATURES[0] <= temperature <= TEMPERATURES[1]
    assert loss(valid, temperature) <= loss(valid, 1) + 1e-9
    for other in (0.5, 0.9, 1.1, 2):
        nearby = np.clip(temperature * other, *TEMPERATURES)
        assert loss(valid, temperature) <= loss(valid, nearby) + 1e-5


@pytest.mark.parametrize("sharpness", [0.5, 1, 3])
def test_temperature_undoes_what_made_the_probabilities_too_sharp(sharpness):
    assert choose_temperature(drawn(20_000, 2, sharpness), CHOSEN) == pytest.approx(sharpness, rel=0.05)


def test_probabilities_that_say_nothing_keep_temperature_one():
    uniform = Split(np.log(np.full((5, 4), 0.25, dtype=np.float32)), np.arange(5) % 4, np.arange(5))
    assert choose_temperature(uniform, CHOSEN) == 1


def test_order_of_the_windows_changes_neither():
    valid, moved = drawn(80, 3, 2), np.random.default_rng(0).permutation(80)
    other = Split(valid.log_p[moved], valid.label[moved], valid.user[moved])
    assert choose_tau(valid, SHARE, CHOSEN) == choose_tau(other, SHARE, CHOSEN)
    assert choose_temperature(valid, CHOSEN) == pytest.approx(choose_temperature(other, CHOSEN), rel=1e-3)


def test_windows_outside_the_vocabulary_decide_nothing():
    valid = drawn(40, 4, 2)
    log_p = np.concatenate([valid.log_p, drawn(10, 5).log_p])
    more = Split(log_p, np.r_[valid.label, np.full(10, OUTSIDE)], np.arange(50))
    assert choose_tau(more, SHARE, CHOSEN) == choose_tau(valid, SHARE, CHOSEN)
    assert choose_temperature(more, CHOSEN) == choose_temperature(valid, CHOSEN)


@pytest.mark.parametrize("valid", [NONE, Split(drawn(3, 0).log_p, np.full(3, OUTSIDE), np.arange(3))])
def test_without_a_window_the_decision_is_plain(valid):
    assert (choose_tau(valid, SHARE, CHOSEN), choose_temperature(valid, CHOSEN)) == (0, 1)


def test_a_number_is_taken_as_it_is():
    given_ = CHOSEN.model_copy(update={"tau": 0.7, "temperature": 3.0})
    assert (choose_tau(drawn(30, 6), SHARE, given_), choose_temperature(NONE, given_)) == (0.7, 3)


def noise(seed, count=48, users=12):
    """Balanced windows whose probabilities know nothing of the labels: a quarter is right whatever τ is."""
    rng = np.random.default_rng(seed)
    log_p = np.log(rng.dirichlet(SHARE * 8, count) + 1e-4)
    log_p -= np.log(np.exp(log_p).sum(axis=1, keepdims=True))
    return Split(log_p.astype(np.float32), np.arange(count) % 4, rng.permutation(np.arange(count) % users))


def right(split):
    return balanced_accuracy_score(split.label, split.log_p.argmax(axis=1))


def test_scored_where_it_was_chosen_tau_is_optimistic_and_cross_fitted_it_is_not():
    in_sample, others = [], []
    for seed in range(120):
        valid = noise(seed)
        tau = choose_tau(valid, SHARE, CHOSEN)
        in_sample.append(right(Split(adjusted(valid.log_p, SHARE, tau), valid.label, valid.user)))
        others.append(right(cross_fitted(NONE, valid, SHARE, CHOSEN)[1]))
    error = np.std(others) / np.sqrt(len(others))
    assert np.mean(in_sample) > 0.25 + 4 * error and abs(np.mean(others) - 0.25) < 2.5 * error


def test_a_user_is_decided_without_its_own_windows():
    valid = drawn(80, 3, 2)
    valid = Split(valid.log_p, valid.label, np.arange(80) % 10)
    first = valid.user % 2 == 0
    swapped = Split(valid.log_p[:, ::-1].copy(), valid.label, valid.user)
    mixed = Split(np.where(first[:, None], valid.log_p, swapped.log_p), valid.label, valid.user)
    # what the other half holds decides, so the first half of `mixed` is as in no split of one kind
    half = Split(swapped.log_p[~first], swapped.label[~first], swapped.user[~first])
    expected = adjusted(valid.log_p[first], SHARE, choose_tau(half, SHARE, CHOSEN))
    np.testing.assert_array_equal(cross_fitted(NONE, mixed, SHARE, CHOSEN)[1].log_p[first], expected)


def test_order_of_the_windows_changes_no_window_of_the_cross_fitted():
    valid, natural, rng = noise(1), noise(2), np.random.default_rng(0)
    moved = [rng.permutation(48) for _ in range(2)]
    other = [Split(split.log_p[order], split.label[order], split.user[order])
             for split, order in zip((natural, valid), moved, strict=True)]
    for one, two, order in zip(cross_fitted(natural, valid, SHARE, CHOSEN), cross_fitted(*other, SHARE, CHOSEN), moved,
                               strict=True):
        np.testing.assert_array_equal(one.log_p[order], two.log_p)
        np.testing.assert_array_equal(one.user[order], two.user)


@pytest.mark.parametrize("label", [None, OUTSIDE])
def test_where_the_other_half_has_no_window_all_windows_choose(label):
    valid = drawn(40, 4, 2)
    user = np.zeros(40) if label is None else np.arange(40) % 2
    labels = valid.label if label is None else np.where(user == 1, OUTSIDE, valid.label)
    valid = Split(valid.log_p, labels, user)
    expected = adjusted(valid.log_p, SHARE, choose_tau(valid, SHARE, CHOSEN))
    moved = cross_fitted(NONE, valid, SHARE, CHOSEN)[1]
    np.testing.assert_array_equal(moved.log_p, expected)


def test_of_a_number_the_cross_fitted_is_plain_adjustment():
    given_, natural, valid = CHOSEN.model_copy(update={"tau": 0.7}), noise(1), noise(2)
    for split, moved in zip((natural, valid), cross_fitted(natural, valid, SHARE, given_), strict=True):
        np.testing.assert_array_equal(moved.log_p, adjusted(split.log_p, SHARE, 0.7))
