"""The small logs of `../shared/inputs`: each gives what its page, EXPECTED.md, says is right."""

import shutil
from collections import Counter
from datetime import datetime

import polars as pl
import pytest

from stages.common.errors import UserError
from stages.ingest import ingest
from tests.events.helpers import ROOT, params_with

INPUTS = ROOT.parent / "shared" / "inputs"
pytestmark = pytest.mark.skipif(not INPUTS.is_dir(), reason="needs the small logs of ../shared/inputs")


@pytest.fixture
def read(tmp_path):
    """Read input `name` under changed params; the table `quarantine` is kept beside the events."""

    def read(*names, **changes):
        log = tmp_path / "log"
        for name in names:
            log.mkdir(exist_ok=True)
            shutil.copy(INPUTS / name, log / name)
        defaults = {"source__format": "table", "source__path": str(log / names[0] if len(names) == 1 else log),
                    "source__columns__place": ""}
        taxonomies = tmp_path / "taxonomies"
        taxonomies.mkdir(exist_ok=True)
        shutil.copy(INPUTS / "case_pair.taxonomy.csv", taxonomies)
        events, read.quarantine, *_ = ingest(
            params_with(**defaults | changes), taxonomies, tmp_path / "oracle.parquet")
        return events

    return read


def people(events: pl.DataFrame) -> list[pl.DataFrame]:
    return events.partition_by("user", maintain_order=True)


def at(text: str) -> datetime:
    return datetime.fromisoformat(f"2024-{text}")


@pytest.mark.parametrize("taxonomy", ["none", "case_pair.taxonomy.csv"])
def test_spellings_that_differ_in_case_are_one_behaviour(read, taxonomy):
    events = read("case_pair.csv", source__taxonomy=taxonomy)
    assert Counter(events["behavior"]) == Counter({
        "Corner bakery": 24, "Library": 24, "Blue cafe": 18, "Cinema": 18, "Green market": 18, "Gym north": 18})


def test_the_hour_that_comes_twice_keeps_its_order(read):
    events = read("clocks_back.jsonl", source__time_zone="Europe/Berlin")
    expected = [("01:40", "Reading"), ("02:10", "Setting an alarm"), ("02:50", "Sleeping"), ("02:05", "Waking up"),
                ("02:20", "Drinking water"), ("02:45", "Sleeping"), ("07:00", "Breakfast")]
    for person in people(events):
        assert list(zip(person["time"].dt.strftime("%H:%M"), person["behavior"], strict=True)) == expected


def test_each_row_may_have_its_own_offset(read):
    events = read("row_offsets.csv", source__columns__time="utc", source__columns__behavior="venue",
                  source__columns__offset="offset_minutes")
    for person in people(events):
        assert person["time"].to_list() == [at("06-03 09:05"), at("06-10 09:30"), at("06-10 20:45"), at("07-01 09:10")]


def test_times_may_be_utc_without_saying_so(read):
    events = read("utc_unsaid.csv", source__columns__time="endTime", source__columns__behavior="artist",
                  source__time_zone="Europe/Berlin", source__naive_times="utc")
    for person in people(events):
        assert person["time"].to_list() == [at("01-16 00:40"), at("07-16 00:10"), at("07-16 07:00")]


def test_day_and_time_of_day_may_stand_in_two_columns(read):
    events = read("day_and_clock.csv", source__columns__user="subject", source__columns__behavior="activity",
                  source__columns__time="date", source__columns__clock="start",
                  source__time_format="%m/%d/%Y %H:%M:%S")
    for person in people(events):
        assert list(zip(person["time"], person["behavior"], strict=True)) == [
            (at("03-04 07:05:09"), "Breakfast"), (at("03-04 12:11:26"), "Going out"), (at("03-04 20:41:35"), "Bathing"),
            (at("03-05 06:52:34"), "Washing"), (at("03-05 18:04:43"), "Cooking")]


def test_a_file_without_a_header_says_so(read):
    with pytest.raises(UserError, match=r"no_header\.csv.*(?:header|first row)"):
        read("no_header.csv", source__time_format="unix", source__time_zone="UTC")


def test_columns_without_a_header_go_by_their_numbers(read):
    events = read("no_header.csv", source__time_format="unix", source__time_zone="UTC", source__header=False,
                  source__columns__user="1", source__columns__time="5", source__columns__behavior="4")
    assert events.height == 21


def test_a_person_may_be_a_file_and_its_events_a_list_in_a_document(read):
    events = read(*(f"nested_person{i}.json" for i in range(3)), source__time_zone="UTC", source__person="file",
                  source__events="buckets.*.events", source__columns__time="timestamp",
                  source__columns__behavior="data.app")
    assert (events.height, events["user"].n_unique()) == (21, 3)


def test_columns_may_say_what_an_event_is(read):
    events = read("stored_twice.csv", source__event_columns=["user", "time", "behavior"], ingest__max_refused=1.0)
    assert events.height == 27
    again = events.with_columns(same=(pl.col("behavior") == pl.col("behavior").shift()).over("user"))
    assert not again["same"].any()


def test_a_json_document_says_what_it_has(read):
    with pytest.raises(UserError, match="buckets"):
        read(*(f"nested_person{i}.json" for i in range(3)), source__time_zone="UTC")


def test_people_called_nan_and_null_are_people(read):
    assert read("names_of_nothing.csv")["user"].n_unique() == 5 and read.quarantine.is_empty()


def test_ids_are_the_same_in_every_kind_of_file(read):
    events = read("float_ids_a.csv", "float_ids_b.parquet")
    assert (events["user"].n_unique(), events.height) == (3, 18)


@pytest.mark.parametrize(("name", "users"), [("long_ids.jsonl", 3), ("big_ids.jsonl", 6)])
def test_numbers_are_exact(read, name, users):
    """Four integers of 2^64 and more, a short one and a float of nineteen digits are six people."""
    assert read(name)["user"].n_unique() == users


def test_the_name_of_a_zone_is_not_dropped(read):
    changes = {"source__time_format": "%Y-%m-%d %H:%M:%S %Z", "source__time_zone": "Europe/Berlin"}
    with pytest.raises(UserError, match="%Z"):
        read("zone_name.csv", **changes)


def test_a_day_without_an_hour_is_refused(read):
    with pytest.raises(UserError, match="hour|time of day"):
        read("date_only.csv", source__time_format="%d.%m.%Y")


@pytest.mark.parametrize(("name", "words"), [
    ("corrupt.csv.gz", "gzip"), ("blank_lines.csv", "blank|empty|no row"),
    ("duration_time.parquet", r"time.*(?:Duration|Time)"), ("nested_label.parquet", r"behavior.*Struct|List|nested"),
    ("binary_label.parquet", "behavior|text|UTF-8")])
def test_what_cannot_be_read_is_an_error_that_names_the_file(read, name, words):
    with pytest.raises(UserError, match=f"(?is){name}.*(?:{words})"):
        read(name)


def test_a_header_may_be_long(read):
    assert read("long_header.csv").height == 2


def test_a_log_without_an_opening_says_so(read):
    with pytest.raises(UserError, match="opening"):
        read("lsapp_all_closed.tsv", source__format="lsapp")


def test_a_label_may_speak_of_nan(read):
    assert "status: NaN seen" in read("nan_in_label.jsonl", ingest__max_refused=1.0)["behavior"].to_list()


def test_objects_are_no_labels(read):
    with pytest.raises(UserError):
        read("objects_as_labels.jsonl")
