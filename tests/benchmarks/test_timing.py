import pytest

from stages.benchmarks.timing import Comparison, Row, alternate


def test_sides_take_turns():
    order = []

    def side(name):
        def run(number):
            order.append((number, name))
            return number * 10.0

        return run

    assert alternate({"ours": side("ours"), "baseline": side("baseline")}, 2) == {"ours": [0, 10], "baseline": [0, 10]}
    assert order == [(0, "ours"), (0, "baseline"), (1, "ours"), (1, "baseline")]


@pytest.mark.parametrize("rule, ours, baseline, target, ratio, reached", [
    ("rates", [90, 1000, 100], [4, 1, 5], 25, 25, True),  # medians: an outlier on either side decides nothing
    ("rates", [90, 1000, 100], [4, 1, 5], 26, 25, False),
    ("times", [0.1, 0.2, 9], [4, 3, 1], 15, 15, True),
    ("rates", [90], [], 25, None, None),
    ("rates", [90], [9], None, 10, None),
    ("higher", [0.4], [0.4], None, 1, False),
    ("higher", [0.5], [0.4], None, 1.25, True),
    ("higher", [0.5], [], None, None, None),
    ("at_least", [0.4, 0.6, 0.5], [], 0.5, None, True),
    ("at_most", [0.1, 0.3], [], 0.2, None, False),  # the largest, not the median
])
def test_rows_are_judged_by_their_rule(rule, ours, baseline, target, ratio, reached):
    row = Row("work", "tool", "1/s", ours, baseline, rule, target)
    assert (row.ratio, row.reached) == (pytest.approx(ratio) if ratio else None, reached)


def test_every_round_is_kept():
    found = Comparison([Row("work", "tool", "1/s", [1.0, 3.0, 2.5], [])], {"windows": 7}).as_dict()
    assert found["rows"][0]["ours"] == {"median": 2.5, "min": 1.0, "max": 3.0, "rounds": [1.0, 3.0, 2.5]}
    assert found["rows"][0]["baseline"] is None and found["details"] == {"windows": 7}
