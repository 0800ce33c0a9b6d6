"""Written times become local time and offset: every way in which logs write them."""

from datetime import UTC, date, datetime, time, timedelta, timezone

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.common.errors import UserError
from stages.events import offsets, times
from stages.events.rules import Rule
from tests.events.helpers import params_with


def local(values, time_format="iso", time_zone="", offset=None, **changes):
    """What becomes of written times: local time and offset as one ISO text, or the rule that they break."""
    fields = {"time": pl.Series(values)} | ({} if offset is None else {"offset": pl.Series(offset, dtype=pl.String)})
    written = times.Written(time_format, time_zone, offset=offset is not None, **changes)
    frame = times.read(pl.DataFrame(fields), written)
    assert dict(frame.schema) == times.COLUMNS
    return [str(time) if problem is None else problem for time, _, _, problem in frame.iter_rows()]


def offsets_of(values, **changes):
    frame = times.read(pl.DataFrame({"time": values}), times.Written(**changes))
    return frame["offset"].to_list(), frame["elsewhere"].to_list()


def test_iso_without_offset_is_local_already():
    good = ["2024-03-01 09:05:00", "2024-03-01T09:05:00", "2024-03-01 09:05", " 2024-03-01  09:05:00.0 "]
    assert local(good) == ["2024-03-01 09:05:00"] * 4
    assert local(good, time_zone="Asia/Tokyo") == ["2024-03-01 09:05:00"] * 4


@pytest.mark.parametrize("text", ["2024-13-01 09:05:00", "2024-02-30 09:05:00", "25:00", "yesterday",
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
    assert local([1709283900123456], "unix_us", "UTC") == ["2024-03-01 09:05:00.123456"]
    assert local(["1709283900123456789"], "unix_ns", "UTC") == ["2024-03-01 09:05:00.123456"]
    assert local(["1709283900.123457"], "unix", "UTC") == ["2024-03-01 09:05:00.123457"]
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
    ("unix", "written", "source.time_zone: written.*counts from UTC"), ("%H:%M %Z", "Europe/Berlin", "%Z.*%z"),
    ("%d.%m.%Y", "", r"'%d.%m.%Y'.*without an hour.*source.columns.clock.*source.dates"),
])
def test_faulty_settings(time_format, time_zone, says):
    source = params_with(source__time_format=time_format, source__time_zone=time_zone).source
    with pytest.raises(UserError, match=says):
        times.Written.of(source)


def test_utc_without_a_zone_has_no_hour_of_day():
    source = params_with(source__naive_times="utc").source
    with pytest.raises(UserError, match="source.naive_times is utc.*source.columns.offset"):
        times.Written.of(source)


def test_times_without_an_offset_may_be_utc():
    """Winter and summer, in Berlin: an export may say endTime and mean UTC."""
    values = ["2024-01-15 23:40", "2024-07-15 22:10:00", "2024-07-16 05:00+02:00"]
    assert local(values, time_zone="Europe/Berlin", naive="utc") == [
        "2024-01-16 00:40:00", "2024-07-16 00:10:00", "2024-07-16 05:00:00"]
    assert offsets_of(values, zone="Europe/Berlin", naive="utc") == ([60, 120, 120], [False] * 3)


def test_a_traveller_s_times_may_stay_as_they_are_written():
    values = ["2024-06-03T09:05:00-07:00", "2024-06-10 09:30:00 +0200", "2024-06-10T18:45:00Z", "2024-06-11 09:00:00"]
    assert local(values, time_zone="written") == [
        "2024-06-03 09:05:00", "2024-06-10 09:30:00", "2024-06-10 18:45:00", Rule.WITHOUT_OFFSET]
    assert offsets_of(values[:3], zone="written")[0] == [-420, 120, 0]
    assert local(["03.06.2024 09:05 -0700"], "%d.%m.%Y %H:%M %z", "written") == ["2024-06-03 09:05:00"]
    assert local(["Mon Jun 03 09:05:00 -0700 2024"], "%a %b %d %H:%M:%S %z %Y", "written") == ["2024-06-03 09:05:00"]


def test_offsets_that_are_not_the_zone_s_are_counted():
    """Not those of UTC, which many programs write whatever the place."""
    values = ["2024-06-03T09:05:00-07:00", "2024-06-03T09:05:00+02:00", "2024-06-03T09:05:00Z", "2024-06-03T09:05:00"]
    assert offsets_of(values, zone="Europe/Berlin")[1] == [True, False, False, False]
    aware = pl.Series([datetime(2024, 6, 3)]).dt.replace_time_zone("America/New_York")
    assert offsets_of(aware, zone="Europe/Berlin")[1] == [True]


@pytest.mark.parametrize("text", ["2024-03-01T09:05:00+99:99", "2024-03-01T09:05:00+24:00", "2024-03-01T09:05:00-30",
                                  "2024-03-01T09:05:00+14:15", "2024-03-01 09:05-1300", "2024-03-01 09:05+01:60"])
def test_no_place_has_such_an_offset(text):
    assert local([text, "2024-03-01 09:05Z"], time_zone="Europe/Berlin") == [Rule.NO_OFFSET, "2024-03-01 10:05:00"]


@pytest.mark.parametrize(("text", "minutes"), [
    ("Z", 0), ("utc", 0), ("0", 0), ("+05:30", 330), ("-0930", -570), ("5.5", 330), ("-7", -420), ("-420", -420),
    ("-420.0", -420), ("+14:00", 840), ("14", 840), ("UTC+2", 120), ("60", 60), ("−3", -180), ("5:45", 345),
    ("530", None), ("0530", None), ("+530", None), ("0800", None), ("105", 105), ("+24:00", None), ("99", None),
    ("30", None), ("-721", None), ("841", None), ("x", None), ("+01:75", None),
    ("5.51", None), ("nan", None), ("1e9", None), ("14.25", None),
])
def test_an_offset_is_hours_minutes_or_a_clock(text, minutes):
    assert pl.select(offsets.minutes(pl.lit(text))).item() == minutes


def test_each_row_may_have_its_own_offset():
    """As Foursquare writes them: the time in UTC, and the minutes to add."""
    values, own = ["2024-06-03T16:05:00Z", "2024-06-10T07:30:00Z", "2024-07-01T00:10:00Z"], ["-420", "120", "540"]
    expected = ["2024-06-03 09:05:00", "2024-06-10 09:30:00", "2024-07-01 09:10:00"]
    assert local(values, offset=own) == local([text[:-1] for text in values], offset=own, naive="utc") == expected
    assert local(["1717430700"], "unix", offset=["-7"]) == ["2024-06-03 09:05:00"]
    assert local(expected, offset=own) == expected, "a local time stays"
    assert local(values, offset=["-420", "", "99:00"]) == [expected[0], Rule.WITHOUT_OFFSET, Rule.NO_OFFSET]
    assert local(values, offset=["-420", "", "540"], time_zone="Europe/Berlin") == expected, "where none is, the zone's"


def test_a_day_without_an_hour():
    """As a Parquet column of dates: nobody says at what time of the day."""
    assert local(["2024-03-01", "2024-03-01 09:05", "2024-02-30"]) == [Rule.DATE, "2024-03-01 09:05:00", Rule.TIME]
    assert local(["2024-03-01", "2024-03-01 09:05"], dates="midnight") == ["2024-03-01 00:00:00", "2024-03-01 09:05:00"]
    assert local(["01.03.2024", "x"], "%d.%m.%Y", dates="midnight") == ["2024-03-01 00:00:00", Rule.TIME]
    assert local(pl.Series([date(2024, 3, 1)]), dates="midnight") == ["2024-03-01 00:00:00"]


@pytest.mark.parametrize(("day", "clock", "time_format", "expected"), [
    ("3/4/2024", "7:5:9", "%m/%d/%Y", "2024-03-04 07:05:09"),
    ("3/4/2024", "18:4:43", "%m/%d/%Y %H:%M:%S", "2024-03-04 18:04:43"),
    ("2024-03-04", "7:05", "iso", "2024-03-04 07:05:00"),
    ("2024-03-04", "07:05:09.25", "iso", "2024-03-04 07:05:09.250000"),
    ("2024-03-04", "12:10 AM", "iso", "2024-03-04 00:10:00"), ("2024-03-04", "9:10 pm", "iso", "2024-03-04 21:10:00"),
    ("2024-03-04", "24:00", "iso", Rule.TIME), ("2024-03-04", "7:60", "iso", Rule.TIME),
    ("2024-03-04", "", "iso", Rule.NO_TIME), ("2024-03-04", "13:00 PM", "iso", Rule.TIME),
    ("x", "7:05", "iso", Rule.TIME), (None, "7:05", "iso", Rule.NO_TIME),
    ("2024-03-04", "07:05+02:00", "iso", Rule.OFFSET),
])
def test_day_and_time_of_day_in_two_columns(day, clock, time_format, expected):
    frame = pl.DataFrame({"time": [day], "clock": [clock]}, schema={"time": pl.String, "clock": pl.String})
    found = times.read(frame, times.Written(time_format, clock=True)).row(0, named=True)
    assert (found["problem"] or str(found["time"])) == expected


def test_a_day_is_no_moment_in_utc():
    """Midnight of a day, taken for UTC, would be another hour, or another day, elsewhere."""
    with pytest.raises(UserError, match="source.naive_times: utc.*source.dates"):
        times.Written("iso", "Europe/Berlin", "utc", "midnight").check()


@pytest.mark.parametrize(("pattern", "instead"), [("%s", "unix"), ("%+", "iso")])
def test_a_pattern_that_would_be_taken_for_local_time(pattern, instead):
    with pytest.raises(UserError, match=f"source.time_format: .*set it to {instead}"):
        times.Written(pattern, "Europe/Berlin").check()


def test_a_float_without_the_digits_for_a_time_is_refused():
    """A 32-bit float of 2024 is a multiple of 128 seconds."""
    with pytest.raises(UserError, match="source.columns.time: .*32-bit floats"):
        local(pl.Series([1709283900.0], dtype=pl.Float32), "unix", "UTC")


def test_a_day_with_an_hour_beside_a_time_of_day_is_refused():
    frame = pl.DataFrame({"time": [datetime(2024, 3, 1), datetime(2024, 3, 1, 9)], "clock": ["07:05", "07:05"]})
    found = times.read(frame, times.Written(clock=True))
    assert found["time"].to_list() == [datetime(2024, 3, 1, 7, 5), None]
    assert found["problem"].to_list() == [None, Rule.TIME]


def test_day_and_time_of_day_of_parquet():
    frame = pl.DataFrame({"time": [date(2024, 3, 4)], "clock": [time(7, 5, 9)]})
    assert times.read(frame, times.Written(clock=True))["time"].to_list() == [datetime(2024, 3, 4, 7, 5, 9)]


def test_a_year_of_a_zone_that_polars_knows_no_rule_of():
    """British Columbia stays on summer time from 2026 (tzdata 2026b); Polars 2.1 has an older table compiled in."""
    assert local(["2026-12-01T12:00:00Z"], time_zone="America/Vancouver") == ["2026-12-01 05:00:00"]
    aware = pl.Series([datetime(2026, 12, 1, 12)]).dt.replace_time_zone("UTC")
    assert local(aware, time_zone="America/Vancouver") == ["2026-12-01 05:00:00"]


@given(st.datetimes(datetime(1991, 1, 1), datetime(2100, 1, 1)), st.sampled_from(["Europe/Berlin", "Asia/Kolkata",
       "America/St_Johns", "Australia/Lord_Howe"]), st.integers(-48, 56).map(lambda quarters: quarters * 15))
def test_the_instant_is_what_was_written(moment, zone, minutes):
    """time - offset is the instant, however it is written."""
    moment = moment.replace(microsecond=0)
    shift = timezone(timedelta(minutes=minutes))
    text = moment.replace(tzinfo=UTC).astimezone(shift).isoformat()
    micros = (moment - datetime(1970, 1, 1)) // timedelta(microseconds=1)
    rows = pl.concat([
        times.read(pl.DataFrame({"time": [text]}), times.Written(zone=zone)),
        times.read(pl.DataFrame({"time": [text]}), times.Written(zone="written")),
        times.read(pl.DataFrame({"time": [text], "offset": [str(minutes)]}), times.Written(offset=True)),
        times.read(pl.DataFrame({"time": [str(micros // 10**6)]}), times.Written("unix", zone)),
        times.read(pl.DataFrame({"time": [micros * 1000]}), times.Written("unix_ns", zone)),
    ]) if abs(minutes) >= 60 or not minutes else times.read(pl.DataFrame({"time": [text]}), times.Written(zone=zone))
    assert (rows["time"] - pl.select(pl.duration(minutes=rows["offset"].cast(pl.Int64))).to_series()
            ).to_list() == [moment] * rows.height


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
def test_the_quick_way_says_what_the_careful_one_does(values, zone):
    fields, written = pl.DataFrame({"time": values}, schema={"time": pl.String}), times.Written(zone=zone)
    careful = times._localised(times._parse_any(fields, written), fields, written)
    assert times.read(fields, written).rows() == careful.rows()
    fields = times.read(fields, times.Written(zone="UTC")).select("time")
    careful = times._localised(times._parse_any(fields, written), fields, written)
    assert times.read(fields, written).rows() == careful.rows()
