"""Formats of exports: of files written for the test, exactly the events that are in them, and nothing made up."""

import json
import random
from collections import Counter

import pytest

from stages.common.errors import UserError
from stages.events.assembly import read_log
from stages.events.formats import FORMATS
from stages.events.rules import IGNORED
from stages.events.sample import sample
from stages.events.reading import find_files
from stages.events.formats import fitting
from tests.events import exported
from tests.events.helpers import params_with


def source(log_format, folder, **changes):
    defaults = {"source__format": log_format, "source__path": str(folder), "source__person": "column"}
    return params_with(**defaults | changes).source


def people(events):
    """Each person's events (time, behaviour), as they would be in any order of persons; ties in any order."""
    found = {}
    for person, time, behavior in events:
        found.setdefault(person, []).append((time, behavior))
    return Counter(tuple(sorted(own)) for own in found.values())


@pytest.fixture(params=list(exported.WRITERS))
def export(request, tmp_path):
    written = exported.WRITERS[request.param](tmp_path, random.Random(request.param))
    return exported.format_of(request.param), tmp_path / written.path, written


def test_the_events_are_those_that_were_written(export):
    log_format, path, written = export
    log = read_log(FORMATS[log_format], source(log_format, path, **written.settings), None)
    assert log.events.height == len(written.events) > 50
    assert people(log.events.select("user", "time", "behavior").iter_rows()) == people(written.events)
    ignored = log.quarantine.filter(log.quarantine["rule"].is_in(IGNORED))
    assert (log.quarantine.height, ignored.height) == (written.ignored, written.ignored)
    if written.places:
        assert sorted(log.events["place"].unique()) == written.places


def test_each_knows_its_own_files_and_no_others(export):
    log_format, path, written = export
    files = find_files(path, written.settings.get("source__files", "*"))
    found = [fitting(sample(file)) for file in files]
    assert [log_format] in found and all(each in ([log_format], []) for each in found)


@pytest.mark.parametrize("name", [name for name, write in exported.WRITERS.items() if name not in (
    "mind", "taobao", "gowalla", "foursquare_tokyo", "foursquare_global", "recbole", "meds", "atus")])
def test_whose_the_log_is_is_asked_for(name, tmp_path):
    written = exported.WRITERS[name](tmp_path, random.Random(0))
    changes = written.settings | {"source__person": "column"}
    with pytest.raises(UserError, match="source.person: column.*set it to file.*folder.*or one"):
        read_log(FORMATS[exported.format_of(name)], source(exported.format_of(name), tmp_path, **changes), None)


@pytest.mark.parametrize("name", [
    "activitywatch", "google_activity", "google_timeline", "spotify", "lastfm", "home_assistant", "taobao", "gowalla",
    "recbole"])
def test_where_people_live_whose_times_are_in_utc_is_asked_for(name, tmp_path):
    written = exported.WRITERS[name](tmp_path, random.Random(0))
    changes = written.settings | {"source__time_zone": ""}
    with pytest.raises(UserError, match="source.time_zone: empty.*such as Europe/Berlin"):
        read_log(FORMATS[name], source(name, tmp_path / written.path, **changes), None)


@pytest.mark.parametrize("name", ["mind", "foursquare_global", "atus"])
def test_a_layout_of_two_files_wants_both(name, tmp_path):
    written = exported.WRITERS[name](tmp_path, random.Random(0))
    other = next(tmp_path.glob("*news*")) if name == "mind" else next(
        file for file in tmp_path.iterdir() if "POIs" in file.name or "resp" in file.name)
    main = next(file for file in tmp_path.iterdir() if file != other)
    with pytest.raises(UserError, match="source.path: .*set source.path to the folder of both"):
        read_log(FORMATS[name], source(name, main, **written.settings), None)
    other.unlink()
    with pytest.raises(UserError, match="beside it, which source.format"):
        read_log(FORMATS[name], source(name, tmp_path, **written.settings), None)


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in ("table", "app_usage", "casas")])
def test_a_file_of_another_layout_is_named(name, tmp_path):
    (tmp_path / "log.csv").write_text("a,b\n1,2\n")
    if name in ("activitywatch", "google_activity", "google_timeline", "spotify"):
        (tmp_path / "log.csv").write_text(json.dumps([{"a": 1, "b": 2}]))
    if name == "recbole":
        (tmp_path / "log.csv").rename(tmp_path / "log.inter")
    changes = {"source__time_zone": "Europe/Berlin", "source__person": "one"}
    with pytest.raises(UserError, match=r"log\.(csv|inter): "):
        read_log(FORMATS[name], source(name, tmp_path, **changes), None)


def test_travellers_keep_the_hour_that_the_timeline_was_written_with(tmp_path):
    written = exported.google_timeline(tmp_path, random.Random(0))
    log = read_log(FORMATS["google_timeline"], source(
        "google_timeline", tmp_path, source__person="file", source__time_zone="written"), None)
    assert log.events["offset"].unique().to_list() == [540]
    assert log.events.height == len(written.events)
