"""Shapes of format `table`: the same events written in each of them give the same table of events."""

import json
from collections import defaultdict
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.common.errors import UserError
from stages.events.assembly import read_log
from stages.events.formats import FORMATS
from stages.events.rules import Rule
from tests.events.helpers import table_params

NAMES = {"user": "user", "time": "time", "place": "place", "behavior": "behavior"}


def read(path, **changes):
    return read_log(FORMATS["table"], table_params(path, **changes).source, None)


def columns(**names):
    return {f"source__columns__{ours}": theirs for ours, theirs in names.items()}


def numbers(first):
    return columns(**{name: str(number) for number, name in enumerate(NAMES, start=first)})


def csv_without_header(folder, rows):
    (folder / "log.csv").write_text("".join(",".join(row.values()) + "\n" for row in rows), encoding="utf-8")
    return {"source__header": False, **numbers(1)}


def preamble(folder, rows):
    lines = ["exported by, a program, with, many commas, in its text", "", ",".join(NAMES)]
    lines += [",".join(row.values()) for row in rows]
    (folder / "log.csv").write_text("\n".join([*lines, ""]), encoding="utf-8")
    return {"source__skip": 1}


def blanks(folder, rows):
    lines = ["  ".join(f'"{value}"' if " " in value or not value else value for value in row.values()) for row in rows]
    (folder / "log.txt").write_text("\n".join([" ".join(NAMES), *lines, ""]), encoding="utf-8")
    return {"source__separator": "blanks"}


def one_character(folder, rows):
    (folder / "log.txt").write_text("\n".join(["^".join(NAMES), *("^".join(row.values()) for row in rows), ""]),
                                    encoding="utf-8")
    return {"source__separator": "^"}


def array(folder, rows):
    (folder / "log.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return {}


def array_on_a_line(folder, rows):
    (folder / "log.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return {}


def objects_over_lines(folder, rows):
    (folder / "log.json").write_text("\n".join(json.dumps(row, indent=2) for row in rows), encoding="utf-8")
    return {}


def nested(folder, rows):
    events = [{"time": row["time"], "data": {"who": row["user"], "where": row["place"], "what": row["behavior"]}}
              for row in rows]
    (folder / "log.json").write_text(json.dumps({"version": 2, "export": {"events": events}}), encoding="utf-8")
    return {"source__events": "export.events", **columns(user="data.who", place="data.where", behavior="data.what")}


def by_person(rows):
    people = defaultdict(list)
    for row in rows:
        people[row["user"]].append({name: value for name, value in row.items() if name != "user"})
    return people


def documents_of_people(folder, rows):
    people = [{"id": user, "visits": events} for user, events in by_person(rows).items()]
    (folder / "log.json").write_text(json.dumps({"users": people}, indent=2), encoding="utf-8")
    return {"source__events": "users.*.visits", **columns(user="/users.*.id")}


def keyed_by_person(folder, rows):
    (folder / "log.json").write_text(json.dumps({"users": by_person(rows)}), encoding="utf-8")
    return {"source__events": "users.*", **columns(user="/users.*")}


def a_file_each(folder, rows):
    for user, events in by_person(rows).items():
        (folder / f"{user}.json").write_text(json.dumps(events), encoding="utf-8")
    return {"source__person": "file"}


def a_folder_each(folder, rows):
    for user, events in by_person(rows).items():
        (folder / user / "deep").mkdir(parents=True)
        pl.DataFrame(events).write_csv(folder / user / "deep" / "log.csv")
    return {"source__person": "folder", "source__files": "**/*.csv"}


def day_and_clock(folder, rows):
    frame = pl.DataFrame(rows).with_columns(pl.col("time").str.split(" ").list.to_struct(fields=["day", "hour"]))
    frame.unnest("time").write_csv(folder / "log.csv")
    return columns(time="day", clock="hour")


SHAPES = [csv_without_header, preamble, blanks, one_character, array, array_on_a_line, objects_over_lines, nested,
          documents_of_people, keyed_by_person, a_file_each, a_folder_each, day_and_clock]
ROW = st.fixed_dictionaries({
    "user": st.sampled_from(["ann", "bob", "u3"]),
    "time": st.datetimes(datetime(2024, 1, 1), datetime(2024, 1, 9)).map("{:%Y-%m-%d %H:%M:%S}".format),
    "place": st.sampled_from(["home", "at work", ""]),
    "behavior": st.sampled_from(["Reading", "Drinking coffee", "Gaming – alone", "7"]),
}).map(lambda row: {name: row[name] for name in NAMES})


@settings(max_examples=6, deadline=None)
@given(st.lists(ROW, min_size=1, max_size=12, unique_by=lambda row: (row["user"], row["time"])))
def test_the_same_events_in_every_shape_give_the_same_table(rows):
    with TemporaryDirectory() as folder:
        plain = Path(folder) / "plain"
        plain.mkdir()
        pl.DataFrame(rows).write_csv(plain / "log.csv")
        expected = read(plain).events
        assert expected.height == len(rows)
        for shape in SHAPES:
            (own := Path(folder) / shape.__name__).mkdir()
            log = read(own, **shape(own, rows))
            assert log.quarantine.is_empty() and log.events.equals(expected), shape.__name__


def test_all_rows_may_be_one_persons(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.json").write_text(json.dumps([
            {"time": f"2024-03-01 0{hour}:00:00", "what": name} for hour in range(5)]))
    log = read(tmp_path, source__person="one", **columns(user="", place="", behavior="what"))
    assert (log.events["user"].n_unique(), log.events.height) == (1, 10)


def test_the_person_of_a_file_may_lie_in_a_folder_of_its_own(tmp_path):
    for name in ("a/log", "b/log"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).with_suffix(".csv").write_text("time,behavior\n2024-03-01 09:00:00,Gaming\n")
    log = read(tmp_path, source__person="file", source__files="*/*.csv", **columns(place=""))
    assert log.events["user"].n_unique() == 2
    (tmp_path / "c.csv").write_text("time,behavior\n2024-03-01 09:00:00,Gaming\n")
    with pytest.raises(UserError, match=r"c\.csv: source.person: folder.*lies in no folder.*file or one"):
        read(tmp_path, source__person="folder", source__files="*.csv", **columns(place=""))


def several(folder, kind):
    values = [["Gaming", "Reading", "Gaming"], ["Reading"], [], ["Gaming", "Reading", "Gaming"]]
    frame = pl.DataFrame({"user": ["u1", "u2", "u3", "u1"], "time": ["2024-03-01 09:00:00"] * 4, "what": values})
    if kind == "csv":
        frame.with_columns(pl.col("what").list.join("; ")).write_csv(folder / "log.csv")
        return {"source__split": ";", **columns(place="", behavior="what")}
    if kind == "parquet":
        frame.write_parquet(folder / "log.parquet")
    elif kind == "jsonl":
        frame.write_ndjson(folder / "log.jsonl")
    else:
        (folder / "log.json").write_text(json.dumps(frame.to_dicts(), indent=1))
    return columns(place="", behavior="what.*")


@pytest.mark.parametrize("kind", ["csv", "parquet", "jsonl", "json"])
def test_a_field_of_several_behaviours_becomes_an_event_each(tmp_path, kind):
    log = read(tmp_path, **several(tmp_path, kind))
    assert sorted(log.events["behavior"]) == ["Gaming", "Gaming", "Reading", "Reading"]
    # the second copy of the first row is one, element by element; a field without any says so
    rules = log.quarantine["rule"].to_list()
    assert (rules.count(Rule.DUPLICATE), rules.count(Rule.NO_BEHAVIOR)) == (3, 1)
    assert log.rows == 8


@pytest.mark.parametrize(("text", "changes", "says"), [
    ('{"data": {"events": [{"a": 1}]}}', {"source__events": "data.visits"},
     r"source.events: 'data.visits' leads to no list.*data.events"),
    ('{"data": {"events": [{"a": 1}]}}', {}, r"no column.*data.events is a list: set source.events to 'data.events'"),
    ('[\n{"user": 1},\n{"user": 2', {}, r"log.json: line 3: no JSON \(the file ends there: it was cut off"),
    ('[{"user": 1} {"user": 2}]', {}, "line 1: no JSON .a comma or ] is missing"),
    ('[{"user": 1, "when": 2}]', {}, "no column 'time'.*the file has: user, when"),
    ("[1, 2]", {}, "holds no objects"),
    ("u1,2024-03-01 09:00:00,home,Gaming\n", {"source__header": False},
     "no column 'user'.*the file has: 1, 2, 3, 4. source.header is false.*numbers from 1 to 4"),
    ("a\nb\n", {"source__skip": 7}, "nothing stands below the first 7 lines; set source.skip to fewer"),
])
def test_errors_name_the_file_the_key_and_the_cure(tmp_path, text, changes, says):
    (tmp_path / "log.json").write_text(text)
    with pytest.raises(UserError, match=says):
        read(tmp_path / "log.json", **changes)


def test_a_separator_that_is_none_is_refused():
    with pytest.raises(ValueError, match="auto, blanks, tab, or one character"):
        table_params(Path(), source__separator="::")


def test_numbers_name_columns_as_text_does():
    assert table_params(Path(), source__columns__user=3).source.columns.user == "3"


def test_a_quote_amid_blanks_that_does_not_close_is_refused(tmp_path):
    rows = ['"Gaming', '"Gaming"s', '"Two words"']
    (tmp_path / "log.txt").write_text("user time place behavior\n" + "".join(
        f"u1 2024-03-01T09:0{minute}:00 home {label}\n" for minute, label in enumerate(rows)))
    log = read(tmp_path / "log.txt", source__separator="blanks")
    assert log.quarantine["rule"].to_list() == [Rule.QUOTES, Rule.QUOTES]
    assert log.events["behavior"].to_list() == ["Two words"]


def test_integers_of_a_document_are_exact(tmp_path):
    ids = [2**70, 2**70 + 1]
    (tmp_path / "log.json").write_text(json.dumps([
        {"user": user, "time": "2024-03-01 09:00:00", "place": "", "behavior": "Gaming"} for user in ids], indent=1))
    assert read(tmp_path / "log.json").events["user"].n_unique() == 2
