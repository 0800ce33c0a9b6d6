"""The log as arrays, against a plain walk through each person's events."""

import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from stages.common import tables
from stages.windows.past import NONE, Past

people = st.lists(st.lists(st.tuples(st.sampled_from("abcdxyz"), st.sampled_from(["home", None]),
                                     st.integers(0, 10_000)), min_size=1, max_size=12), min_size=1, max_size=5)


def log(people) -> tuple[pl.DataFrame, pl.DataFrame]:
    rows = [(user, 60_000_000 * minute, place, behavior, offset)
            for user, events in enumerate(people)
            for minute, (behavior, place, offset) in zip(sorted(e[2] for e in events),
                                                         ((e[0], e[1], 60) for e in events), strict=True)]
    events = pl.DataFrame(rows, schema=["user", "time", "place", "behavior", "offset"], orient="row",
                          schema_overrides={"place": pl.String})
    vocabulary = pl.DataFrame({"behavior": ["a", "b", "c"], "train_events": [3, 2, 1], "share": [0.5, 0.3, 0.2],
                               "group": ["head"] * 3, "is_anchor": [True] * 3})
    return events.cast(tables.SCHEMAS["events"]), vocabulary


@given(people)
def test_it_says_what_a_walk_through_the_events_says(people):
    events, vocabulary = log(people)
    past = Past.from_tables(events, vocabulary)
    row = 0
    for user in people:
        first, own = row, []
        for behavior, place, _ in user:
            assert past.first[row] == first and past.own[row] == len(own)
            assert past.labels_outside(row) == own
            known = [*vocabulary["behavior"], *own]
            if behavior not in known:
                own.append(behavior)
                known.append(behavior)
            assert past.behavior[row] == known.index(behavior)
            assert (past.place[row] == NONE) == (place is None)
            row += 1
    time = events["time"]
    assert np.array_equal(past.seconds, (time.dt.epoch("s") - 3600).to_numpy())
    assert np.array_equal(past.hour, time.dt.hour().to_numpy())
    assert np.array_equal(past.weekend, (time.dt.weekday() >= 6).to_numpy())


def test_rows_before():
    events, vocabulary = log([[("a", None, 1)] * 3, [("b", None, 1)] * 2])
    past = Past.from_tables(events.lazy(), vocabulary)
    assert past.before(np.array([0, 2, 4]), 2).tolist() == [[NONE, NONE], [1, 0], [3, NONE]]
