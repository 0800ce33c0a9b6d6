"""The two logs of app usage, by small files in their layouts."""

import polars as pl
import pytest

from stages.common.errors import UserError
from stages.common.hashing import pseudonym
from stages.events.assembly import read_log
from stages.events.formats import FORMATS
from stages.events.rules import Rule
from tests.events.helpers import params_with


def read(path, log_format, text, names=None):
    path = path / "log"
    path.write_text(text)
    source = params_with(source__format=log_format, source__path=str(path)).source
    return read_log(FORMATS[log_format], source, names)


def test_app_usage_places_are_what_they_are_to_the_user(tmp_path):
    # 2016-04-20 is a Wednesday, 2016-04-23 a Saturday
    text = """1 20160420230000 77 5 100
1 20160421063000 77 5 100
1 20160421100000 12 6 100
1  20160421110000 12  6 1e3
1 20160421190000 40 6 100
1 20160423110000 40 6 100
2 20160421100000 77 5 100
"""
    events = read(tmp_path, "app_usage", text).events
    first = events.filter(user=pseudonym("1"))
    assert first["place"].to_list() == ["home", "home", "work", "work", "elsewhere", "elsewhere"]
    assert first["behavior"].to_list() == ["app 5", "app 5", "app 6", "app 6", "app 6", "app 6"]
    assert events.height == 7 and events["place"].to_list().count("work") == 3


def test_app_usage_with_a_taxonomy(tmp_path):
    names = pl.DataFrame({"raw": ["app 5"], "behavior": ["Reading news"]})
    log = read(tmp_path, "app_usage", "1 20160420230000 77 5 1\n1 20160420230100 77 6 1\n", names)
    assert log.events["behavior"].to_list() == ["Reading news", "app 6"]
    assert log.changed["behaviors"]["unlisted"] == {
        "names": 1, "events": 1, "most": [{"name": "app 6", "events": 1}]}


def test_app_usage_faults(tmp_path):
    log = read(tmp_path, "app_usage", "1 20160420230000 77 5 1\n1 20160420 77 5 1\n1 20160420230000 77\n")
    assert log.quarantine.select("line", "rule").rows() == [(2, Rule.TIME), (3, Rule.FIELDS)]
    with pytest.raises(UserError, match="line 1: 1 fields separated by spaces.*user, time, station, app, bytes"):
        read(tmp_path, "app_usage", "a,b\n")


LSAPP = """user_id\tsession_id\ttimestamp\tapp_name\tevent_type
0\t1\t2018-01-16 06:01:05\tMinesweeper\tOpened
0\t1\t2018-01-16 06:01:15\tMinesweeper\tClosed
0\t2\t2018-01-16 06:01:25\tMinesweeper Classic "pro"\tOpened
0\t2\tx\tMinesweeper\tUser Interaction
1\t2\tx\tMinesweeper\tOpened
"""


def test_lsapp_keeps_openings(tmp_path):
    log = read(tmp_path, "lsapp", LSAPP)
    assert log.events["behavior"].to_list() == ["Minesweeper", 'Minesweeper Classic "pro"']
    assert log.events["place"].unique().to_list() == ["unknown"]
    assert log.quarantine.select("line", "rule").rows() == [(3, Rule.EVENT_TYPE), (5, Rule.EVENT_TYPE), (6, Rule.TIME)]


def test_lsapp_faults(tmp_path):
    with pytest.raises(UserError, match="no column 'event_type'; source.format lsapp has user_id.*file has user_id"):
        read(tmp_path, "lsapp", LSAPP.replace("event_type", "kind"))
