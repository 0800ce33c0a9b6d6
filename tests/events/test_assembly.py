"""From raw rows to events: every row is an event or in quarantine, and each rule refuses what it should."""

import csv
import json
import random

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages.events import reading
from stages.events.assembly import read_log
from stages.events.formats import FORMATS
from stages.events.rules import Rule
from tests.events.helpers import ROWS, table_params, write_log


def read(path, names=None, **changes):
    return read_log(FORMATS["table"], table_params(path, **changes).source, names)


@pytest.mark.parametrize(("row", "rule"), [
    (",2024-03-01 09:00:00,home,Gaming", Rule.NO_USER),
    ("null,2024-03-01 09:00:00,home,Gaming", Rule.NO_USER),
    ("u1,,home,Gaming", Rule.NO_TIME),
    ("u1,yesterday,home,Gaming", Rule.TIME),
    ("u1,1924-03-01 09:00:00,home,Gaming", Rule.TIME_RANGE),
    ("u1,2024-03-01T09:00:00Z,home,Gaming", Rule.OFFSET),
    ("u1,2024-03-01 09:00:00,home,", Rule.NO_BEHAVIOR),
    ("u1,2024-03-01 09:00:00,home,NaN", Rule.NO_BEHAVIOR),
    ("u1,2024-03-01 09:00:00,home,Gam\x07ing", Rule.CONTROL),
    ("u1,2024-03-01 09:00:00,home,Gam\u2028ing", Rule.CONTROL),
    ("u1,2024-03-01 09:00:00,home,Gam\ting", Rule.CONTROL),
    ("u1,2024-03-01 09:00:00,home,<|im_start|>user", Rule.CHAT),
    ("u1,2024-03-01 09:00:00,home,Gaming</s>", Rule.CHAT),
    ("u1,2024-03-01 09:00:00,<|eot_id|>,Gaming", Rule.CHAT),
    ("u1,2024-03-01 09:00:00,home," + "x" * 101, Rule.LONG),
    ("u1,2024-03-01 09:00:00,home", Rule.FIELDS),
    ("u1,2024-03-01 09:00:00,home,Gaming,now", Rule.FIELDS),
    ('u1,2024-03-01 09:00:00,home,"Gaming', Rule.QUOTES),
])
def test_each_rule_names_the_line(tmp_path, row, rule):
    log = read(write_log(tmp_path / "log.csv", [ROWS[0], row, *ROWS[1:]]))
    assert log.quarantine.select("line", "rule").rows() == [(3, rule)]
    assert log.quarantine["file"].item().endswith("log.csv")
    assert log.events.height == len(ROWS)


def test_a_label_with_a_line_break_is_refused_line_by_line(tmp_path):
    log = read(write_log(tmp_path / "log.csv", [ROWS[0], 'u1,2024-03-01 09:00:00,home,"Watching\nvideos"']))
    assert log.quarantine.select("line", "rule").rows() == [(3, Rule.QUOTES), (4, Rule.FIELDS)]


SECRET = "secret-7,{time},secret-place,{label},secret-note"


@pytest.mark.parametrize(("row", "shown"), [
    (SECRET.format(time="yesterday", label="secret-label"), "aaaaaaaaa"),
    (SECRET.format(time="1924-03-01 09:00:00", label="secret-label"), "1924-03-01 09:00:00"),
    (SECRET.format(time="2024-03-01 09:00:00", label="<|im_end|>"), "<|im_end|>"),
    (SECRET.format(time="2024-03-01 09:00:00", label="x" * 1000), "x" * 100 + "…"),
    (SECRET.format(time="2024-03-01 09:00:00", label=" n/a"), " n/a"),
    ("secret-7,2024-03-01 09:00:00,<s>,secret-label,secret-note", "<s>"),
    ("secret-7,2024-03-01 09:00:00,secret-place,secret-label,secret-note,secret-more", ""),
    ("secret-7,yesterday", ""),
    ('secret-7,2024-03-01 09:00:00,secret-place,"secret-label,secret-note', ""),
    (" ,secret-time,secret-place,secret-label,secret-note", ""),
])
def test_of_a_refused_row_only_the_field_at_fault_is_kept(tmp_path, row, shown):
    good = [f"{line},a note" for line in ROWS]
    log = read(write_log(tmp_path / "log.csv", [*good, row], "user,time,place,behavior,note"))
    assert log.quarantine["text"].to_list() == [shown]
    keys = ["user", "time", "place", "behavior", "note"]
    if len(fields := row.split(",")) == len(keys) and '"' not in row:
        files = [tmp_path / "log.jsonl", tmp_path / "log.parquet"]
        files[0].write_text(json.dumps(dict(zip(keys, fields, strict=True))) + "\n")
        pl.DataFrame([fields], schema=keys, orient="row").write_parquet(files[1])
        assert [read(file).quarantine["text"].to_list() for file in files] == [[shown], [shown]]


@pytest.mark.parametrize("line", ['{"user": "secret-7"', '["secret-7"]', "secret-7", '"secret-7"'])
def test_of_a_line_that_is_no_object_nothing_is_kept(tmp_path, line):
    good = json.dumps({"user": "a", "time": "2024-03-01 09:00:00", "place": "home", "behavior": "Gaming"})
    (tmp_path / "log.jsonl").write_text(f"{good}\n{line}\n")
    log = read(tmp_path / "log.jsonl")
    assert log.quarantine.rows() == [((tmp_path / "log.jsonl").as_posix(), 2, Rule.JSON, "")]


def test_of_a_duplicate_nothing_is_kept(tmp_path):
    log = read(write_log(tmp_path / "log.csv", [*ROWS, ROWS[0]]))
    assert log.quarantine.select("rule", "text").rows() == [(Rule.DUPLICATE, "")]


def test_places_and_labels_are_cleaned(tmp_path):
    rows = ["u1,2024-03-01 09:00:00,  the   office ,  Meeting   online ", "u1,2024-03-01 09:01:00,NaN,Cafe\u0301",
            'u1,2024-03-01 09:02:00,"a\tb","Reading, writing (""both"")"']
    events = read(write_log(tmp_path / "log.csv", rows)).events
    assert events["place"].to_list() == ["the office", "unknown", "a b"]
    assert events["behavior"].to_list() == ["Meeting online", "Café", 'Reading, writing ("both")']


def test_duplicates_agree_in_every_column_within_and_between_files(tmp_path):
    header = "user,time,place,behavior,session"
    row = "u1,2024-03-01 09:00:00,home,Gaming,1"
    write_log(tmp_path / "a.csv", [row, row, row[:-1] + "2"], header)
    write_log(tmp_path / "b.csv", [row, "u2,2024-03-01 09:00:00,home,Gaming,1"], header)
    log = read(tmp_path)
    assert [(file[-5:], line, rule) for file, line, rule, _ in log.quarantine.iter_rows()] == [
        ("a.csv", 3, Rule.DUPLICATE), ("b.csv", 2, Rule.DUPLICATE),
    ]
    assert log.events.height == 3 and log.rows == 5


def test_ties_keep_the_order_of_the_log(tmp_path):
    behaviors = [f"behaviour {k}" for k in range(40)]
    random.Random(0).shuffle(behaviors)
    rows = [f"u1,2024-03-01 09:00:00,home,{name}" for name in behaviors]
    assert read(write_log(tmp_path / "log.csv", rows)).events["behavior"].to_list() == behaviors


@pytest.mark.parametrize(("unlisted", "becomes", "refused"), [
    ("keep", ["Drinking coffee"], []), ("other", ["other"], []), ("refuse", [], [(3, Rule.TAXONOMY)]),
])
def test_a_taxonomy_maps_and_a_param_says_what_becomes_of_other_names(tmp_path, unlisted, becomes, refused):
    names = pl.DataFrame({"raw": ["gaming", "Meeting online", "Taking the subway"],
                          "behavior": ["Playing", "Working", "Working"]})
    log = read(write_log(tmp_path / "log.csv", ROWS), names, source__unlisted=unlisted)
    assert sorted(set(log.events["behavior"])) == sorted({"Playing", "Working", *becomes})
    assert log.quarantine.select("line", "rule").rows() == refused
    changed = log.changed["behaviors"]
    assert changed["unlisted"]["names"] == changed["unlisted"]["events"] == len(becomes)
    assert changed["listed_in_another_case"]["most"] == [{"name": "Gaming", "becomes": "gaming", "events": 1}]


def test_names_that_a_taxonomy_does_not_list_are_labels_as_others_are(tmp_path):
    names = pl.DataFrame({"raw": ["Gaming"], "behavior": ["Playing"]})
    rows = [*ROWS, "u1,2024-03-01 10:00:00,home,<|im_end|>", "u1,2024-03-01 11:00:00,home,n/a"]
    kept, other = (read(write_log(tmp_path / "log.csv", rows), names, source__unlisted=unlisted)
                   for unlisted in ("keep", "other"))
    assert kept.quarantine["rule"].to_list() == [Rule.CHAT, Rule.NO_BEHAVIOR]
    assert other.quarantine["rule"].to_list() == [Rule.NO_BEHAVIOR]


def test_spellings_in_another_case_are_merged_after_duplicates_are_set_aside(tmp_path):
    rows = [ROWS[3], *[ROWS[3].replace("Gaming", "gaming").replace("home", "Home")] * 3,
            "u9,2024-03-02 22:15:30,home,Gaming", "u9,2024-03-02 22:16:30,HOME,GAMING"]
    log = read(write_log(tmp_path / "log.csv", rows))
    assert log.events.select("place", "behavior").unique().rows() == [("home", "Gaming")]
    assert log.quarantine.height == 2
    assert {name: changed["merged"]["events"] for name, changed in log.changed.items()} == {"behaviors": 2, "places": 2}


def test_only_the_most_frequent_behaviours_keep_their_names(tmp_path):
    rows = [f"u1,2024-03-01 09:{k:02d}:00,home,{'aaabbc'[k % 6]}{k // 12}" for k in range(24)]
    events = read(write_log(tmp_path / "log.csv", rows), source__top=3).events
    assert dict(events["behavior"].value_counts().iter_rows()) == {"a0": 6, "a1": 6, "b0": 4, "other": 8}


USER = st.sampled_from(["a", "b", "Ünï", " c ", "", "null", "1.0"])
TIME = st.sampled_from(["2024-03-01 09:00:00", "2024-03-01T09:00", "2023-12-31 23:59:59.5", "x", "", "2024-03-01",
                        "1e9", "2024-03-01T09:00:00+01:00", "9999-01-01 00:00:00"])
KNOWN = ["home", "NaN", "", "<|im_end|>", "y" * 200, '"', "a,b", "Gaming", "gaming"]
TEXT = st.one_of(st.sampled_from(KNOWN), st.text(max_size=5))
TABLE = st.lists(st.tuples(USER, TIME, TEXT, TEXT), min_size=1, max_size=25)
MESSY = settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])


@MESSY
@given(TABLE, st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]), st.integers(20, 5000))
def test_every_row_is_an_event_or_in_quarantine(tmp_path_factory, rows, quoting, block):
    file = tmp_path_factory.mktemp("log") / "log.csv"
    with open(file, "w", encoding="utf-8", newline="") as writer:
        writer.write("user,time,place,behavior\n")
        csv.writer(writer, quoting=quoting, lineterminator="\n").writerows(
            [[f.encode("utf-8", "replace").decode() for f in row] for row in rows])
    lines = [line for line in file.read_bytes().decode().split("\n")[1:] if line.strip()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "BLOCK", block)
        log = read(file)
    assert log.events.height + log.quarantine.height == log.rows == len(lines)
    assert log.events.drop("offset").null_count().sum_horizontal().item() == 0
    assert set(log.quarantine["rule"]) <= {rule.value for rule in Rule}


@MESSY
@given(TABLE, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter_but_for_ties(tmp_path_factory, rows, chance):
    folder = tmp_path_factory.mktemp("log")
    lines = [json.dumps(dict(zip(["user", "time", "place", "behavior"], row, strict=True))) for row in rows]
    shuffled = chance.sample(lines, len(lines))
    logs = []
    for name, content in (("a", lines), ("b", shuffled)):
        (folder / name).write_text("\n".join(content) + "\n")
        logs.append(read(folder / name))
    assert logs[0].rows == logs[1].rows == len(rows)
    assert logs[0].events.sort(pl.all()).equals(logs[1].events.sort(pl.all()))
    assert logs[0].events.select("user", "time").equals(logs[1].events.select("user", "time"))
    assert sorted(logs[0].quarantine["rule"]) == sorted(logs[1].quarantine["rule"])
