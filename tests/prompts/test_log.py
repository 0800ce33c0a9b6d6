from datetime import datetime

import numpy as np
import polars as pl

from stages.common import tables
from stages.prompts.log import WEEKDAYS, EventLog
from tests.small_log import BEHAVIORS, all_behaviors, small_log


def test_history_is_the_same_users_last_events():
    log = EventLog.from_tables(small_log([4, 3, 6]), all_behaviors())
    assert log.first.tolist() == [0] * 4 + [4] * 3 + [7] * 6
    assert list(log.history(12, 3)) == [9, 10, 11]
    assert list(log.history(5, 20)) == [4], "not the events of the user before"
    assert list(log.history(7, 20)) == []


def test_every_event_is_what_it_was():
    events = small_log()
    log = EventLog.from_tables(events, all_behaviors())
    assert [log.places[i] for i in log.place] == events["place"].to_list()
    assert [log.behaviors[i] for i in log.behavior] == events["behavior"].to_list()
    assert log.hour.tolist() == [time.hour for time in events["time"]]
    assert [WEEKDAYS[i] for i in log.weekday] == [time.strftime("%a") for time in events["time"]]


def test_the_vocabulary_comes_first_and_in_its_order():
    rows = [(1, datetime(2024, 3, 1), "home", name, None) for name in ("zzz", "看电影", "aaa", "zzz", "Watching video")]
    events = pl.DataFrame(rows, schema=tables.SCHEMAS["events"], orient="row")
    log = EventLog.from_tables(events, all_behaviors())
    assert log.behaviors == [*all_behaviors()["behavior"], "aaa", "zzz"]
    assert log.vocabulary_size == len(BEHAVIORS)
    assert np.array(log.behaviors)[log.behavior].tolist() == ["zzz", "看电影", "aaa", "zzz", "Watching video"]


def test_nothing_in_it_identifies_a_user():
    events = small_log()
    renamed = events.with_columns(pl.col("user") + 1000)
    for mine, theirs in zip(vars(EventLog.from_tables(events, all_behaviors())).values(),
                            vars(EventLog.from_tables(renamed, all_behaviors())).values(), strict=True):
        assert np.array_equal(mine, theirs)
