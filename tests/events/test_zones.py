"""Local times by the installed tzdata, against zoneinfo asked one by one and against the package's files."""

import struct
from datetime import UTC, datetime, timedelta
from importlib import resources
from itertools import pairwise
from types import SimpleNamespace
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.common.errors import UserError
from stages.events import zones

EPOCH, SECOND = datetime(1970, 1, 1), timedelta(seconds=1)
ALL = sorted(zones.names())


def _content(name):
    return resources.files("tzdata").joinpath("zoneinfo", *name.split("/")).read_bytes()


# as people travel, and as rules are odd: half an hour of summer time, no midnight, Ramadan, a day left out, 45 minutes
ODD = ["Europe/Berlin", "America/New_York", "America/Vancouver", "Australia/Lord_Howe", "America/Sao_Paulo", "UTC",
       "Africa/Casablanca", "Pacific/Apia", "Asia/Kathmandu", "Pacific/Chatham", "America/St_Johns", "Antarctica/Troll"]


DISTINCT = sorted({_content(name): name for name in ALL}.values())


def changes(name):
    """The instants (seconds) at which the package's file itself says that a zone changes, to the end of its list."""
    content = _content(name)

    def counts(start):
        return struct.unpack(">6l", content[start + 20 : start + 44])  # isut, isstd, leap, time, type, char

    isut, isstd, leap, time, kind, char = counts(0)
    second = 44 + time * 5 + kind * 6 + char + leap * 8 + isstd + isut  # RFC 8536: times in 64 bits stand in part two
    return [*struct.unpack(f">{counts(second)[3]}q", content[second + 44 : second + 44 + 8 * counts(second)[3]])]


def plainly(seconds, name):
    moment = EPOCH.replace(tzinfo=UTC) + seconds * SECOND
    return moment.astimezone(zones.zone(name)).utcoffset() // timedelta(minutes=1)


def micros(moment):
    return (moment - EPOCH) // timedelta(microseconds=1)


@pytest.mark.parametrize("name", DISTINCT)
def test_every_change_of_every_zone_is_known_to_the_second(name):
    first, last = micros(zones.FIRST) // 10**6, micros(zones.LAST) // 10**6
    listed = [second for second in changes(name) if first <= second < last]
    assert all(later - earlier > zones._STEP for earlier, later in pairwise(listed)), "the search by steps sees one"
    # beyond the list a rule holds, which tells its changes by the table
    ruled = [int(change) // 10**6 for change in zones._table(name).instant]
    around = sorted({second + step for second in [*listed, *ruled] for step in (-1, 0)})
    found = zones.offsets(np.array(around, np.int64) * 10**6, name)
    assert found.tolist() == [plainly(second, name) for second in around]


@given(st.lists(st.datetimes(datetime(1990, 1, 1), datetime(2100, 12, 31, 23, 59, 59)), max_size=20),
       st.sampled_from(ALL))
def test_offsets_are_those_of_zoneinfo(moments, name):
    found = zones.offsets(np.array([micros(moment) for moment in moments], np.int64), name)
    assert found.dtype == np.int16
    plain = [moment.replace(tzinfo=UTC).astimezone(zones.zone(name)) for moment in moments]
    assert found.tolist() == [moment.utcoffset() // timedelta(minutes=1) for moment in plain]
    one_by_one = [zones.local_time(moment.replace(tzinfo=UTC), name) for moment in moments]
    assert one_by_one == [(moment.replace(tzinfo=None), moment.utcoffset() // timedelta(minutes=1)) for moment in plain]


@given(st.lists(st.datetimes(datetime(1990, 1, 2), datetime(2100, 12, 31)), max_size=20), st.sampled_from(ALL))
def test_offsets_of_wall_clock_times_are_those_of_zoneinfo(walls, name):
    walls = [wall.replace(fold=0) for wall in walls]
    found = zones.wall_offsets(np.array([micros(wall) for wall in walls], np.int64), name).tolist()
    assert found == [wall.replace(tzinfo=zones.zone(name)).utcoffset() // timedelta(minutes=1) for wall in walls]
    assert found == [zones.local_offset(wall, name) for wall in walls]


@pytest.mark.parametrize("name", ODD)
def test_wall_clock_times_around_every_change_are_those_of_zoneinfo(name):
    table = zones._table(name)
    walls = [EPOCH + timedelta(microseconds=int(change)) + timedelta(minutes=offset + step)
             for change, offset in zip(table.instant, table.offset[:-1].tolist(), strict=True)
             for step in range(-150, 151, 15)]
    found = zones.wall_offsets(np.array([micros(wall) for wall in walls], np.int64), name).tolist()
    assert found == [wall.replace(tzinfo=zones.zone(name)).utcoffset() // timedelta(minutes=1) for wall in walls]


def test_an_hour_that_comes_twice_is_the_first_and_one_that_no_clock_showed_goes_by_the_offset_before():
    assert zones.local_offset(datetime(2024, 10, 27, 2, 30), "Europe/Berlin") == 120
    assert zones.local_offset(datetime(2024, 10, 27, 3, 0), "Europe/Berlin") == 60
    assert zones.local_offset(datetime(2024, 3, 31, 2, 30), "Europe/Berlin") == 60
    assert zones.local_offset(datetime(2024, 3, 31, 3, 0), "Europe/Berlin") == 120


def test_british_columbia_stays_on_summer_time_from_2026_on():
    """tzdata 2026b and later; a table compiled in before that says 04:00 (and -480)."""
    assert zones.local_time(datetime(2026, 12, 1, 12, tzinfo=UTC), "America/Vancouver") == (
        datetime(2026, 12, 1, 5), -420)


def test_the_system_s_table_is_never_asked(monkeypatch):
    monkeypatch.setattr(zones, "ZoneInfo", SimpleNamespace(from_file=ZoneInfo.from_file))
    zones.zone.cache_clear()
    assert zones.zone("Asia/Tokyo").key == "Asia/Tokyo"


def test_a_whole_number_of_minutes_and_within_a_day_s_reach():
    """What the column `offset` of the table `events` can hold, and what offsets.py takes for an offset."""
    found = {int(offset) for name in DISTINCT for offset in zones._table(name).offset}
    assert min(found) == -12 * 60 and max(found) == 14 * 60
    assert all(offset % 15 == 0 for offset in found)
    assert not any(0 < abs(offset) < 60 for offset in found)


@pytest.mark.parametrize(("name", "says"), [
    ("Europe/Berlim", "did you mean 'Europe/Berlin'"), ("../zones", "IANA name"), ("", "IANA name"),
    ("europe/berlin", "did you mean 'Europe/Berlin'"),
])
def test_a_name_that_is_none(name, says):
    with pytest.raises(UserError, match=f"source.time_zone: {name!r}.*{says}"):
        zones.zone(name)
