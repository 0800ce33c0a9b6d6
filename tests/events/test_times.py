from datetime import datetime

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.common.errors import UserError
from stages.events import times
from stages.events.rules import Rule


def local(values, time_format="iso", time_zone=""):
    frame = times.local_times(pl.Series(values), time_format, time_zone)
    return [str(time) if problem is None else problem for time, problem in frame.iter_rows()]


def test_iso_without_offset_is_local_already():
    good = ["2024-03-01 09:05:00", "2024-03-01T09:05:00", "2024-03-01 09:05", " 2024-03-01  09:05:00.0 "]
    assert local(good) == ["2024-03-01 09:05:00"] * 4
    assert local(good, time_zone="Asia/Tokyo") == ["2024-03-01 09:05:00"] * 4


@pytest.mark.parametrize("text", ["2024-03-01", "2024-13-01 09:05:00", "2024-02-30 09:05:00", "25:00", "yesterday",
                                  "1709283900"])
def test_unreadable(text):
    assert local([text, "2024-03-01 09:05:00"]) == [Rule.TIME, "2024-03-01 09:05:00"]


@pytest.mark.parametrize("text", [None, "", "  ", "NaN", "null"])
def test_absent(text):
    assert local(pl.Series([text], dtype=pl.String)) == [Rule.NO_TIME]


@pytest.mark.parametrize("text", ["2024-03-01T09:05:00Z", "2024-03-01 11:05:00+02:00", "2024-03-01T04:05:00.000-0500",
                                  "2024-03-01 09:05Z", "2024-03-01 10:05+01", "2024-03-01 09:05:00 UTC"])
def test_offsets_are_converted(text):
    assert local([text], time_zone="Europe/Berlin") == ["2024-03-01 10:05:00"]
    assert local([text]) == [Rule.OFFSET]


def test_offsets_and_local_times_in_one_column():
    values = ["2024-03-01T09:05:00Z", "2024-03-01T09:05:00"]
    assert local(values, time_zone="Europe/Berlin") == ["2024-03-01 10:05:00", "2024-03-01 09:05:00"]


def test_daylight_saving():
    values = ["2024-03-31T00:59:59Z", "2024-03-31T01:00:00Z", "2024-10-27T00:30:00Z", "2024-10-27T01:30:00Z"]
    assert local(values, time_zone="Europe/Berlin") == [
        "2024-03-31 01:59:59", "2024-03-31 03:00:00", "2024-10-27 02:30:00", "2024-10-27 02:30:00",
    ]


def test_unix():
    assert local(["1709283900", "1709283900.5", "x", ""], "unix", "America/New_York") == [
        "2024-03-01 04:05:00", "2024-03-01 04:05:00.500000", Rule.TIME, Rule.NO_TIME,
    ]
    assert local([1709283900123], "unix_ms", "UTC") == ["2024-03-01 09:05:00.123000"]
    assert local([1709283900123], "unix", "UTC") == [Rule.TIME_RANGE]
    assert local([1709283900], "unix_ms", "UTC") == [Rule.TIME_RANGE]
    assert local([9.9e300, float("inf")], "unix", "UTC") == [Rule.TIME, Rule.TIME]


def test_strftime():
    assert local(["01.03.2024 09:05", "2024-03-01"], "%d.%m.%Y %H:%M") == ["2024-03-01 09:05:00", Rule.TIME]
    assert local(["01/Mar/2024:09:05:00 +0100"], "%d/%b/%Y:%H:%M:%S %z", "UTC") == ["2024-03-01 08:05:00"]
    assert local(["01/Mar/2024:09:05:00 +0100"], "%d/%b/%Y:%H:%M:%S %z") == [Rule.OFFSET]


def test_datetimes_of_parquet_need_no_format():
    naive = pl.Series([datetime(2024, 3, 1, 9, 5), None])
    assert local(naive, "unix", "UTC") == ["2024-03-01 09:05:00", Rule.NO_TIME]
    aware = naive.cast(pl.Datetime("ms")).dt.replace_time_zone("UTC")
    assert local(aware, time_zone="Asia/Kolkata") == ["2024-03-01 14:35:00", Rule.NO_TIME]
    assert local(aware) == [Rule.OFFSET, Rule.NO_TIME]


@pytest.mark.parametrize(("time_format", "time_zone", "says"), [
    ("iso", "Europe/Berlim", "source.time_zone: 'Europe/Berlim'.*'Europe/Berlin'"),
    ("unix", "", "source.time_zone: empty"), ("unix_s", "UTC", "source.time_format: 'unix_s'"),
])
def test_faulty_settings(time_format, time_zone, says):
    with pytest.raises(UserError, match=says):
        times.check(time_format, time_zone)


WRITTEN = st.one_of(
    st.datetimes().map(str),
    st.sampled_from(["", "x", "2024-03-01T09:05:00Z", " 2024-03-01 09:05:00", "2024-02-30 00:00:00", "2024-3-1 9:5:0",
                     "1989-12-31 23:59:59", "2101-01-01 00:00:00", "2024-03-01 24:00:00", "2024-03-01 09:05:60",
                     "2024-03-01 09:05:00+02"]),
    st.text("0123456789-: T.Z+/", max_size=21),
    st.tuples(st.integers(0, 18), st.characters(max_codepoint=0x250)).map(
        lambda change: "2024-03-01 09:05:00"[: change[0]] + change[1] + "2024-03-01 09:05:00"[change[0] + 1 :]),
)


@given(st.lists(st.one_of(st.none(), WRITTEN), max_size=8), st.sampled_from(["", "Europe/Berlin"]))
def test_the_quick_way_says_what_the_careful_one_does(values, time_zone):
    series = pl.Series(values, dtype=pl.String)
    assert times.local_times(series, "iso", time_zone).rows() == times._parse_any(series, "iso", time_zone).rows()
    moments = times._parse_any(series, "iso", "UTC")["time"]
    assert times.local_times(moments, "iso", "").rows() == times._parse_any(moments, "iso", "").rows()
