import pytest

from stages.metrics.caveats import FEW_USERS, caveats, of_outside


def evaluation(natural_users=40, balanced_users=40, outside=0, windows=100):
    natural = {"windows": windows, "users": natural_users, "outside_candidates": outside}
    return {"natural": natural, "balanced": {"windows": 50, "users": balanced_users, "outside_candidates": 0}}


def test_nothing_is_said_where_all_is_well():
    assert caveats(evaluation()) == []
    assert caveats(evaluation(FEW_USERS, FEW_USERS)) == []
    assert caveats(evaluation(0, 0, windows=0)) == []


def test_windows_that_nobody_can_get_right_are_said_with_the_best_possible():
    (said,) = caveats(evaluation(outside=57))
    assert said.startswith("57.0 % of the natural windows are of behaviours that neither a training user nor ")
    assert "can be 0.430 at most" in said


def test_several_repetitions_have_a_range():
    (said,) = of_outside([10, 20], [100, 100])
    assert said.startswith("10.0 to 20.0 %") and "0.800 at most" in said


@pytest.mark.parametrize(("natural", "balanced", "words"), [
    (1, 1, ["one user in the natural and the balanced test set: there is no interval over users"]),
    (7, 40, ["intervals over 7 users in the natural test set: under 10 they are unsure"]),
    (1, 9, ["one user in the natural test set: there is no interval over users",
            "intervals over 9 users in the balanced test set: under 10 they are unsure"]),
    (9, 9, ["intervals over 9 users in the natural test set and 9 users in the balanced test set: under 10 they are "
            "unsure"]),
])
def test_users_too_few_for_an_interval_are_said_once(natural, balanced, words):
    assert caveats(evaluation(natural, balanced)) == words
