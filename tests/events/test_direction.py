"""Which end of a file is the oldest, and that rows of one time then stand as they happened."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.events.assembly import read_log
from stages.events.direction import newest_first
from stages.events.formats import FORMATS
from tests.events.helpers import table_params, write_log

ROWS = [f"u{user},2024-03-0{1 + step // 3} 09:0{step % 3}:00,home,{name} {step}"
        for user in (1, 2, 3) for step in range(9) for name in ("First", "Second")]


def read(path, **changes):
    return read_log(FORMATS["table"], table_params(path, **changes).source, None)


@pytest.mark.parametrize("rows", [
    ROWS, ROWS[::-1], [row for _, row in sorted(enumerate(ROWS), key=lambda each: (each[1][3:22], each[0]))][::-1],
])
def test_ties_stand_as_they_happened_whichever_end_is_the_newest(tmp_path, rows):
    """What came first at a minute comes first, in logs of one person after another and of all by time."""
    log = read(write_log(tmp_path / "log.csv", rows))
    names = [label.split()[0] for label in log.events["behavior"]]
    assert names == ["First", "Second"] * 27
    assert log.newest_first == (rows is not ROWS)


def test_files_of_one_folder_may_differ(tmp_path):
    write_log(tmp_path / "a.csv", ROWS[:18])
    write_log(tmp_path / "b.csv", ROWS[18:][::-1])
    log = read(tmp_path)
    assert [label.split()[0] for label in log.events["behavior"]] == ["First", "Second"] * 27
    assert log.newest_first == 1


def test_a_param_says_it_where_the_file_does_not(tmp_path):
    rows = ["u1,2024-03-01 09:00:00,home,Second", "u1,2024-03-01 09:00:00,home,First", "u2,2024-03-01 09:00:00,home,x"]
    path = write_log(tmp_path / "log.csv", rows)
    for order, expected in (("auto", "Second"), ("oldest_first", "Second"), ("newest_first", "First")):
        user = pl.col("user") == pl.col("user").filter(pl.col("behavior") == "First").first()
        assert read(path, source__order=order).events.filter(user)["behavior"][0] == expected


def test_rows_in_no_order_are_no_evidence():
    rng = np.random.default_rng(0)
    for _ in range(20):
        assert not newest_first([rng.integers(0, 5, 50)], [rng.integers(0, 1000, 50)])
    assert not newest_first([], []) and not newest_first([np.zeros(1)], [np.zeros(1)])


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 20)), max_size=40), st.integers(1, 7))
def test_pieces_do_not_matter(rows, size):
    user, time = np.array(rows, np.int64).reshape(-1, 2).T
    parts = range(0, max(len(rows), 1), size)
    assert newest_first([user], [time]) == newest_first(
        [user[start : start + size] for start in parts], [time[start : start + size] for start in parts])


@given(st.lists(st.integers(0, 30), min_size=2, max_size=40).filter(lambda each: len(set(each)) > 1))
def test_what_is_sorted_is_recognised(times):
    user, up = np.zeros(len(times), np.int64), np.sort(np.array(times))
    assert newest_first([user], [up[::-1]]) and not newest_first([user], [up])
