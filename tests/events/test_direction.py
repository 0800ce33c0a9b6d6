"""Which end of a file is the oldest, and that rows of one time then stand as they happened."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.events.assembly import read_log
from stages.events.direction import middle, newest_first
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


def minutes(first, count, name):
    return [f"u1,2024-03-01 09:{first + step // 2:02d}:00,home,{name} {step}" for step in range(count)]


@pytest.mark.parametrize("names", [("a", "b", "c"), ("c", "b", "a"), ("log", "log.1", "log.10"), ("b", "c", "a")])
@pytest.mark.parametrize("backwards", [False, True])
def test_files_stand_in_the_order_of_their_times_whatever_they_are_called(tmp_path, names, backwards):
    """Rotated logs have the newest in `log`, then `log.1`, `log.2`; others count up. A file may end within a minute."""
    parts = [minutes(0, 5, "1st"), minutes(2, 5, "2nd")[1:], minutes(4, 5, "3rd")[1:]]
    for name, rows in zip(names, parts, strict=True):
        write_log(tmp_path / name, rows[::-1] if backwards else rows)
    log = read(tmp_path)
    assert log.events["behavior"].to_list() == [row.split(",")[-1] for rows in parts for row in rows]
    assert (log.across, log.newest_first) == (2, 3 * backwards)


def test_files_of_one_time_stand_in_the_order_of_their_names_and_a_wrong_clock_moves_none(tmp_path):
    write_log(tmp_path / "b", minutes(0, 6, "b"))
    write_log(tmp_path / "a", minutes(0, 6, "a"))
    assert read(tmp_path).events["behavior"].to_list() == [
        f"{name} {step + more}" for step in (0, 2, 4) for name in "ab" for more in (0, 1)]
    write_log(tmp_path / "a", ["u1,2000-01-01 00:00:00,home,Clock", *minutes(2, 6, "later")])
    assert [name.split()[0] for name in read(tmp_path).events["behavior"]] == [
        "Clock", "b", "b", "b", "b", "b", "b", "later", "later", "later", "later", "later", "later"]


def test_copies_in_another_file_are_no_ties(tmp_path):
    for name in ("a", "b"):
        write_log(tmp_path / name, minutes(0, 5, "x"))
    log = read(tmp_path)
    assert (log.across, log.events.height, set(log.quarantine["file"])) == (0, 5, {(tmp_path / "b").as_posix()})


@given(st.lists(st.lists(st.integers(0, 6), max_size=6), min_size=2, max_size=4), st.integers(1, 3))
def test_a_file_that_ends_before_another_begins_is_before_it(files, size):
    """Touching files too, in pieces of any size: `middle` orders what can be ordered."""
    files = [np.sort(np.array(times, np.int64)) for times in files if times]
    keys = [middle([times[start : start + size] for start in range(0, len(times), size)]) for times in files]
    for one, key in zip(files, keys, strict=True):
        for other, its in zip(files, keys, strict=True):
            if one[-1] <= other[0]:
                assert key <= its


def test_the_order_of_files_is_that_of_instants(tmp_path):
    """A traveller's files: what came later may show an earlier hour, and both may have one instant."""
    write_log(tmp_path / "b", [f"u1,2024-03-01T12:00:00+09:00,home,{name}" for name in ("First", "Second")])
    write_log(tmp_path / "a", [f"u1,2024-03-01T0{3 + hour}:00:00+00:00,home,{name}"
                               for hour, name in enumerate(("Third", "Fourth"))])
    assert read(tmp_path, source__time_zone="written").events["behavior"].to_list() == [
        "First", "Second", "Third", "Fourth"]


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
