"""The stage `ingest`: its tables, its counts, and what it says when a log is no good."""

import gzip
import json
import subprocess
import sys
from collections import namedtuple

import polars as pl
import pytest

from stages.common import tables
from stages.common.errors import UserError
from stages.common.hashing import pseudonym
from stages.events.key import read_key
from stages.events.simulator.log import BEHAVIORS
from stages.ingest import STAGE, ingest
from tests.events.helpers import ROOT, ROWS, params_with, table_params, write_log, write_params

TAXONOMIES = ROOT / "data" / "taxonomy"
Made = namedtuple("Made", "events quarantine counts key_check")


def read(path, **changes):
    return Made(*ingest(table_params(path, **changes), TAXONOMIES, path.parent / "oracle.parquet"))


def test_a_simulated_log_comes_with_its_oracle(tmp_path):
    params = params_with(source__format="simulated", simulator__users=30, simulator__days=10)
    made = Made(*ingest(params, TAXONOMIES, tmp_path / "o.parquet"))
    for table in ("events", "quarantine"):
        tables.check(getattr(made, table), table, table)
    oracle = tables.read("oracle", tmp_path / "o.parquet")
    assert oracle["row"].to_list() == list(range(made.events.height))
    assert oracle["p"].list.len().unique().to_list() == [len(BEHAVIORS)]
    assert made.counts["rows"] == made.counts["events"] == made.events.height
    assert made.counts["users"] == 30 and made.counts["format"] == "simulated"


def test_counts_add_up(tmp_path):
    rows = [*ROWS, "u1,2024-03-05 09:00:00,home,Gaming", "u4,x,home,Gaming", ROWS[0],
            ",2024-03-01 09:00:00,home,Gaming"]
    made = read(write_log(tmp_path / "log.csv", rows))
    for table in ("events", "quarantine"):
        tables.check(getattr(made, table), table, table)
    assert tables.read("oracle", tmp_path / "oracle.parquet").is_empty()
    metrics = made.counts
    assert (metrics["rows"], metrics["events"], metrics["users"], metrics["behaviors"]) == (8, 5, 3, 4)
    assert metrics["refused"] == {"rows": 3, "share": 3 / 8, "by_rule": {
        "duplicate of an earlier row": 1, "no user": 1, "unreadable time": 1}}
    assert (metrics["first"], metrics["last"]) == ("2024-03-01T08:00:00", "2024-03-05T09:00:00")
    assert made.events.equals(made.events.sort("user", "time", maintain_order=True))


def test_rows_that_are_no_events_do_not_count_as_refused(tmp_path):
    (tmp_path / "lsapp.tsv").write_text("user_id\tsession_id\ttimestamp\tapp_name\tevent_type\n" + "".join(
        f"{user}\t1\t2018-01-16 06:01:{second:02d}\tapp {second % 2}\t{kind}\n"
        for user in (1, 2) for second in range(10) for kind in ("Opened", "Closed")))
    params = params_with(source__format="lsapp", source__path=str(tmp_path / "lsapp.tsv"), ingest__max_refused=0.0)
    made = Made(*ingest(params, TAXONOMIES, tmp_path / "o.parquet"))
    assert (made.counts["rows"], made.counts["events"], made.counts["ignored"]) == (40, 20, 20)
    assert made.counts["refused"]["rows"] == 0


def test_what_is_set_aside_is_said_by_rule(tmp_path):
    rows = [*ROWS, ROWS[0].replace("home", "x"), ROWS[0].replace("work", "x"), "null,2024-03-01 09:00:00,home,Gaming"]
    params = table_params(write_log(tmp_path / "log.csv", rows), source__event_columns=["user", "time", "behavior"])
    done = run(tmp_path, write_params(tmp_path / "params.yaml", params))
    counts = json.loads((tmp_path / "m.json").read_text())
    assert counts["ignored_by_rule"] == {"copy of an earlier event": 2} and counts["ignored"] == 2
    said = done.stderr + done.stdout
    assert "refused: no user: 1\n" in said and "no events: copy of an earlier event: 2\n" in said, said


def test_ties_across_files_are_said(tmp_path):
    write_log(tmp_path / "log" / "b.csv", [*ROWS, "u1,2024-03-01 12:30:00,home,Reading"])
    write_log(tmp_path / "log" / "a.csv", [*ROWS, "u3,2024-03-02 22:15:30,home,Sleeping"])
    params = table_params(tmp_path / "log")
    done = run(tmp_path, write_params(tmp_path / "params.yaml", params))
    assert json.loads((tmp_path / "m.json").read_text())["across"] == 1, "copies are no ties"
    said = " ".join((done.stderr + done.stdout).split())
    assert "at the time of an event of the same person in another file: 1;" in said, said


def test_too_many_refused_says_which_rules_and_shows_rows(tmp_path):
    rows = [*ROWS, "secret-9,yesterday,secret place,Gaming", "secret-9,tomorrow,home,secret act"]
    with pytest.raises(UserError) as error:
        read(write_log(tmp_path / "log.csv", rows), ingest__max_refused=0.05)
    message = str(error.value)
    assert "2 of 6 rows refused (33.3%; ingest.max_refused allows 5.0%)" in message
    assert "unreadable time: 2 rows; check source.columns.time and source.time_format" in message
    assert "log.csv: line 6: 'aaaaaaaaa'" in message
    assert "secret" not in message


@pytest.mark.parametrize(("rows", "says"), [
    ([], "no event in this log: there is no row"),
    (["u1,x,home,Gaming"], r"no event in this log: all 1 are refused.*\n  unreadable time: 1 rows"),
    ([f"u1,2024-03-01 09:0{k}:00,home,behaviour {k}" for k in range(5)],
     "all 5 events are of one user.*source.columns.user"),
    ([f"u{k},2024-03-01 09:00:00,home,Gaming" for k in range(5)], "all 5 events are 'Gaming'.*source.taxonomy"),
])
def test_logs_that_are_no_good(tmp_path, rows, says):
    with pytest.raises(UserError, match=rf"log\.csv: {says}"):
        read(write_log(tmp_path / "log.csv", rows))


def test_rows_out_of_order_are_sorted(tmp_path):
    one, other = read(write_log(tmp_path / "a.csv", ROWS)), read(write_log(tmp_path / "b.csv", ROWS[::-1]))
    assert one.events.equals(other.events)


def test_a_taxonomy_merges_spellings(tmp_path):
    file = write_log(tmp_path / "log.csv", ["u1,2024-03-01 09:00:00,home,Gaming", "u2,2024-03-01 09:00:00,home,gaming",
                                            "u2,2024-03-01 09:01:00,home,Cooking"])
    (tmp_path / "names.csv").write_text("raw,behavior\nGaming,Playing games\ngaming,Playing games\nCooking,Cooking\n")
    made = Made(*ingest(table_params(file, source__taxonomy="names.csv"), tmp_path, tmp_path / "o.parquet"))
    assert dict(made.events["behavior"].value_counts().iter_rows()) == {"Playing games": 2, "Cooking": 1}


def case_pair(tmp_path, taxonomy="", **changes):
    """12 people, 120 events, 7 spellings, two of which differ in case only: 12 and 6 events."""
    names = ["Bakery", "Cinema", "Market", "Library", "Gym", "Blue cafe", "Bakery", "Blue Cafe", "Market", "Library"]
    rows = [f"p{k % 12},2024-05-{k // 10 + 1:02d} 09:{k % 10:02d}:00,{names[k % 10]}" for k in range(120)]
    rows = [row.replace("Blue Cafe", "Cinema") if k >= 60 else row for k, row in enumerate(rows)]
    (tmp_path / "names.csv").write_text(f"raw,behavior\n{taxonomy}")
    params = table_params(write_log(tmp_path / "log.csv", rows, "user,time,behavior"), source__columns__place="",
                          source__taxonomy="names.csv" if taxonomy else "none", ingest__max_refused=0.0, **changes)
    made = Made(*ingest(params, tmp_path, tmp_path / "o.parquet"))
    return dict(made.events["behavior"].value_counts().iter_rows()), STAGE.message(None, *made)


def test_one_pair_of_spellings_costs_nothing_and_is_said(tmp_path):
    counts, said = case_pair(tmp_path)
    assert counts == {"Bakery": 24, "Library": 24, "Market": 24, "Cinema": 18, "Blue cafe": 18, "Gym": 12}
    assert ("names of behaviors merged onto their most frequent spelling in another case: 1, 6 events: "
            "'Blue Cafe' (6) to 'Blue cafe'") in said


def test_a_taxonomy_of_two_lines_leaves_all_other_names_as_they_are(tmp_path):
    counts, said = case_pair(tmp_path, "Blue Cafe,Blue cafe\nBlue cafe,Blue cafe\n")
    assert counts == case_pair(tmp_path)[0]
    assert "not in the taxonomy (source.unlisted says what becomes of such): 5, 102 events: 'Bakery' (24)" in said


def test_the_rest_become_other_by_a_param(tmp_path):
    counts, said = case_pair(tmp_path, source__top=2)
    assert counts == {"Bakery": 24, "Library": 24, "other": 72}
    assert "beyond the most frequent that source.top keeps: 4, 72 events: 'Market' (24) to 'other'" in said


def test_many_changed_names_are_cut_short(tmp_path):
    rows = [f"u{k % 3},2024-03-01 {k // 60:02d}:{k % 60:02d}:00,home,name {k % 200}" for k in range(600)]
    made = read(write_log(tmp_path / "log.csv", rows), source__top=50)
    said = STAGE.message(None, *made)
    assert said.count("to 'other'") == 20 and said.endswith(", 130 more")
    assert len(made.counts["changed"]["behaviors"]["beyond_top"]["most"]) == 150


def test_the_simulated_log_has_no_top(tmp_path):
    with pytest.raises(UserError, match="source.top: 5: is for real logs"):
        ingest(params_with(source__format="simulated", source__top=5), TAXONOMIES, tmp_path / "o.parquet")


def run(tmp_path, params):
    return subprocess.run(
        [sys.executable, "-m", "stages.ingest", "--params", str(params), "--taxonomies", str(TAXONOMIES),
         "--out", str(tmp_path / "e.parquet"), "--quarantine", str(tmp_path / "q.parquet"),
         "--oracle", str(tmp_path / "o.parquet"), "--counts", str(tmp_path / "m.json"),
         "--key-check", str(tmp_path / "key_check.txt")],
        cwd=ROOT, capture_output=True, text=True, check=False)


def test_command(tmp_path):
    log = write_log(tmp_path / "log.csv", ROWS)
    done = run(tmp_path, write_params(tmp_path / "params.yaml", table_params(log)))
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "m.json").read_text())["events"] == 4
    rows = [tables.read(name, tmp_path / f"{name[0]}.parquet").height for name in ("events", "quarantine", "oracle")]
    assert rows == [4, 0, 0]


def broken_gzip(tmp_path):
    (tmp_path / "log.csv.gz").write_bytes(gzip.compress("\n".join(ROWS).encode())[:30])
    return table_params(tmp_path / "log.csv.gz"), "log.csv.gz: not a whole gzip file"


def absent_file(tmp_path):
    return table_params(tmp_path / "no.csv"), "no.csv: no such file or folder; set source.path"


def misspelt_param(tmp_path):
    params = table_params(write_log(tmp_path / "log.csv", ROWS)).model_dump(by_alias=True)
    params["source"]["time_zome"] = params["source"].pop("time_zone")
    (tmp_path / "params.yaml").write_text(json.dumps(params))
    return tmp_path / "params.yaml", "source.time_zome: no such key; did you mean `time_zone`?"


def param_out_of_range(tmp_path):
    params = table_params(write_log(tmp_path / "log.csv", ROWS)).model_dump(by_alias=True)
    params["ingest"]["max_refused"] = 5
    (tmp_path / "params.yaml").write_text(json.dumps(params))
    return tmp_path / "params.yaml", "ingest.max_refused: 5: Input should be less than or equal to 1"


@pytest.mark.parametrize("case", [broken_gzip, absent_file, misspelt_param, param_out_of_range])
def test_command_fails_with_one_message_and_no_traceback(tmp_path, case):
    params, says = case(tmp_path)
    if not isinstance(params, type(tmp_path)):
        params = write_params(tmp_path / "params.yaml", params)
    done = run(tmp_path, params)
    assert done.returncode == 1 and says in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert not list(tmp_path.glob("[eqo].parquet"))


def test_events_hold_pseudonyms_only(tmp_path):
    made = read(write_log(tmp_path / "log.csv", ROWS))
    assert made.events["user"].dtype == pl.UInt64 and made.events["user"].n_unique() == 3
    assert "u1" not in made.events.write_csv()
    # without the key, trying ids finds none of them
    assert not set(made.events["user"]) & {pseudonym(f"u{number}") for number in range(1000)}
    assert set(made.events["user"]) == {pseudonym(f"u{number}", read_key().secret) for number in (1, 2, 3)}


def test_the_key_is_in_no_output_and_its_check_is_in_one(tmp_path, key):
    done = run(tmp_path, write_params(tmp_path / "params.yaml", table_params(write_log(tmp_path / "log.csv", ROWS))))
    assert done.returncode == 0, done.stderr
    secret = read_key().secret
    written = [file.read_bytes() for file in tmp_path.iterdir()] + [done.stdout.encode(), done.stderr.encode()]
    assert not [content for content in written if secret in content or secret.hex().encode() in content]
    assert (tmp_path / "key_check.txt").read_text() == read_key().check + "\n"


def test_a_simulated_log_needs_no_key(tmp_path, monkeypatch):
    monkeypatch.setenv("BEHAVIORLM_KEY", str(tmp_path / "absent"))
    params = params_with(source__format="simulated", simulator__users=30, simulator__days=10)
    made = Made(*ingest(params, TAXONOMIES, tmp_path / "o.parquet"))
    assert made.key_check == "none\n"
    assert set(made.events["user"]) == {pseudonym(f"simulated {number}") for number in range(30)}
