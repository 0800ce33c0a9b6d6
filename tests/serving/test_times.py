"""Times of lines: what they are by the log's params, and their order by instant."""

from datetime import date, datetime, timedelta, timezone, UTC

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.common.errors import UserError
from stages.events import zones
from stages.serving.times import Moment, TimeReader
from tests.small_log import small_params

BERLIN = "Europe/Berlin"  # clocks went back on 27 October 2024: 03:00 summer time (01:00 UTC) became 02:00


def reader(time_zone):
    return TimeReader(small_params(source__time_zone=time_zone).source)


def walk(time_zone, *times):
    """Takes in each event; the number of those that were refused."""
    latest, refused, read = None, [], reader(time_zone).read
    for number, time in enumerate(times):
        try:
            latest = read(time).after(latest)
        except UserError:
            refused.append(number)
    return refused


def test_a_moment_is_the_local_time_in_the_zone_and_its_instant():
    assert reader(BERLIN).read("2024-07-01T08:00Z") == Moment(datetime(2024, 7, 1, 10), (datetime(2024, 7, 1, 8),))
    assert reader(BERLIN).read("2024-07-01T10:00") == Moment(datetime(2024, 7, 1, 10), (datetime(2024, 7, 1, 8),))
    assert reader("written").read("2024-07-01T08:00-0500") == Moment(
        datetime(2024, 7, 1, 8), (datetime(2024, 7, 1, 13),))
    assert reader("").read("2024-07-01 08:00:30") == Moment(datetime(2024, 7, 1, 8, 0, 30))


def test_times_without_an_offset_are_what_the_params_say():
    utc = TimeReader(small_params(source__time_zone=BERLIN, source__naive_times="utc").source)
    assert utc.read("2024-07-01T08:00") == Moment(datetime(2024, 7, 1, 10), (datetime(2024, 7, 1, 8),))
    with pytest.raises(UserError, match="without an offset, and source.time_zone is written"):
        reader("written").read("2024-07-01T08:00")
    midnight = TimeReader(small_params(source__dates="midnight").source)
    assert midnight.read("2024-07-01") == Moment(datetime(2024, 7, 1))
    with pytest.raises(UserError, match="'2024-07'"):
        midnight.read("2024-07")


def test_in_the_hour_that_comes_twice_instants_are_compared():
    # source: the instants are 00:50, 01:10, 01:20 UTC, then one that is earlier
    assert walk(BERLIN, "2024-10-27T02:50+02:00", "2024-10-27T02:10+01:00", "2024-10-27T01:20Z",
                "2024-10-27T01:00Z") == [3]


def test_a_local_time_in_the_hour_that_comes_twice_is_the_first_that_is_not_before_the_last_event():
    # 02:50 is summer time, so 02:10 is winter time, and 02:05 behind it is neither
    assert walk(BERLIN, "2024-10-27T02:50", "2024-10-27T02:10", "2024-10-27T02:05", "2024-10-27T02:55",
                "2024-10-27T03:00") == [2]
    assert walk(BERLIN, "2024-10-27T02:30+01:00", "2024-10-27T02:40", "2024-10-27T02:20") == [2]


def test_in_every_other_hour_the_clock_decides():
    assert walk(BERLIN, "2024-10-27T04:00", "2024-10-27T03:59", "2024-10-28T02:50", "2024-10-28T02:10") == [1, 3]


def test_without_a_time_zone_the_clock_may_go_back_once_by_an_hour():
    assert walk("", "2024-10-27T02:59", "2024-10-27T02:00", "2024-10-27T01:58", "2024-10-27T02:30", "2024-10-27T01:59",
                "2024-10-27T04:00", "2024-10-27T02:59") == [2, 6]


def test_travellers_are_in_order_by_instant():
    # from Berlin to New York: the wall clock goes back by six hours
    assert walk("written", "2024-07-01T20:00+02:00", "2024-07-01T15:00-04:00", "2024-07-01T19:30+02:00") == [2]


def test_hours_are_those_of_the_installed_table_of_zones():
    # since 2026 British Columbia keeps UTC-7 in winter too (tzdata 2026)
    assert reader("America/Vancouver").read("2026-12-01T12:00Z").local == datetime(2026, 12, 1, 5)


def test_a_zone_that_is_not_there_is_named_before_any_line():
    with pytest.raises(UserError, match=r"source.time_zone: 'Europe/Berln'.*Europe/Berlin"):
        reader("Europe/Berln")


@pytest.mark.parametrize("time", [
    "2024-05-06", "2024-05-06T", "yesterday", "", "2024-05-06T25:00", "2024-02-30T08:00",
    "2024-05-06T16:20+99:99", "2024-05-06T16:20+24:00", "2024-05-06T16:20-30", "2024-05-06T16:20+05:75", 5, None,
    date(2024, 5, 6), "0001-01-01T00:00+14:00", "9999-12-31T23:59-12:00", "2024-05-06T16:20+", ["2024-05-06T16:20"],
])
def test_what_is_no_time_is_refused_with_its_value(time):
    with pytest.raises(UserError, match="^time "):
        reader(BERLIN).read(time)


@given(st.lists(st.datetimes(datetime(1999, 1, 1), datetime(2030, 1, 1)), min_size=1, max_size=20),
       st.sampled_from([BERLIN, "America/St_Johns", "Australia/Lord_Howe", "Asia/Kolkata"]))
def test_events_in_order_are_never_refused_however_they_are_written(instants, name):
    written = []
    for number, instant in enumerate(sorted(instants)):
        aware = instant.replace(tzinfo=UTC)
        local = zones.local_time(aware, name)[0]
        written.append([local, local.isoformat(), aware.isoformat(),
                        aware.astimezone(timezone(timedelta(hours=-5))).isoformat()][number % 4])
    assert not walk(name, *written)
