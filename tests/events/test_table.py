"""Format `table`: the same log in every kind of file, its columns, and what each kind gets wrong."""

import gzip
import json

import polars as pl
import pytest

from stages.common.errors import UserError
from stages.events.assembly import read_log
from stages.events.formats import FORMATS
from stages.events.rules import Rule
from tests.events.helpers import HEADER, ROWS, table_params, write_log


def read(path, **changes):
    return read_log(FORMATS["table"], table_params(path, **changes).source, None)


def refused(log):
    return log.quarantine.select("line", "rule").rows()


@pytest.fixture
def frame():
    columns = zip(*(row.split(",") for row in ROWS), strict=True)
    return pl.DataFrame(dict(zip(HEADER.split(","), columns, strict=True)))


@pytest.mark.parametrize("kind", ["csv", "tsv", "semicolon", "jsonl", "parquet", "csv.gz", "jsonl.gz"])
def test_every_kind_of_file_gives_the_same_events(tmp_path, frame, kind):
    plain = read(write_log(tmp_path / "plain" / "log.csv", ROWS))
    file = tmp_path / f"log.{kind.removesuffix('.gz')}"
    match kind.split(".")[0]:
        case "csv":
            frame.write_csv(file, quote_style="always")
        case "tsv":
            frame.write_csv(file, separator="\t")
        case "semicolon":
            frame.write_csv(file, separator=";")
        case "jsonl":
            frame.write_ndjson(file)
        case "parquet":
            frame = frame.with_columns(pl.col("time").str.to_datetime(), pl.col("behavior").cast(pl.Categorical))
            frame.write_parquet(file)
    if kind.endswith(".gz"):
        (tmp_path / f"log.{kind}").write_bytes(gzip.compress(file.read_bytes()))
        file = tmp_path / f"log.{kind}"
    log = read(file)
    assert log.events.equals(plain.events)
    assert log.quarantine.is_empty()
    assert log.events.filter(behavior="Taking the subway")["place"].item() == "unknown"


def test_columns_of_other_names_and_no_places(tmp_path):
    file = write_log(tmp_path / "log.csv", ["x,1709283900,u1,Gaming", "y,1709283960,u1,Cooking"], "note,ts,who,what")
    names = {"user": "who", "time": "ts", "clock": "", "offset": "", "behavior": "what", "place": ""}
    log = read(file, source__columns=names,
               source__time_format="unix", source__time_zone="UTC")
    assert log.events["place"].unique().to_list() == ["unknown"]
    assert log.events["time"].dt.to_string("%H:%M").to_list() == ["09:05", "09:06"]


def missing_column_file(tmp_path, frame, kind):
    file = tmp_path / f"log.{kind}"
    frame = frame.rename({"time": "when"})
    {"csv": frame.write_csv, "jsonl": frame.write_ndjson, "parquet": frame.write_parquet}[kind](file)
    return file


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_missing_column_names_file_column_those_found_and_the_key(tmp_path, frame, kind):
    file = missing_column_file(tmp_path, frame, kind)
    with pytest.raises(UserError, match=rf"log\.{kind}: no column 'time'.*the file has: user, when, place, behavior.*"
                                        "source.columns.time in params.yaml"):
        read(file)


def test_files_with_other_columns_are_named(tmp_path):
    write_log(tmp_path / "a.csv", ROWS)
    write_log(tmp_path / "b.csv", ["1,2"], "user,when")
    with pytest.raises(UserError, match=r"b\.csv: no column 'time'"):
        read(tmp_path)


def test_column_settings(tmp_path):
    file = write_log(tmp_path / "log.csv", ROWS)
    for key, name, says in [("user", "", "source.columns.user: empty"), ("place", "user", "another column"),
                            ("place", "where", "to '' if the log")]:
        with pytest.raises(UserError, match=says):
            read(file, **{f"source__columns__{key}": name})
    write_log(file, ROWS, "user,time,time,behavior")
    with pytest.raises(UserError, match="column 'time' .* stands 2 times"):
        read(file, source__columns__place="")


def test_json_lines_with_faults(tmp_path):
    good = {"user": 1, "time": "2024-03-01 09:00:00", "place": None, "behavior": "Gaming"}
    file = tmp_path / "log.jsonl"
    file.write_text("\n".join([
        json.dumps(good), '{"user": 1, "time"',
        json.dumps(good | {"time": "2024-03-01 09:01:00", "place": float("nan")}), "[1]",
        json.dumps(good | {"behavior": "a\nb"}), json.dumps({"user": 2}),
    ]))
    log = read(file)
    assert refused(log) == [(2, Rule.JSON), (4, Rule.JSON), (5, Rule.CONTROL), (6, Rule.NO_TIME)]
    assert log.events["place"].to_list() == ["unknown", "unknown"]


@pytest.mark.parametrize("end", ["", "\n"])
def test_a_key_that_the_last_line_alone_has_is_there(tmp_path, end):
    rows = [{"user": 1, "time": "2024-03-01 09:00:00", "place": "home"} | more for more in ({}, {"behavior": "Gaming"})]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, rows)) + end)
    assert refused(read(tmp_path / "log.jsonl")) == [(1, Rule.NO_BEHAVIOR)]


def test_parquet_faults(tmp_path, frame):
    file = tmp_path / "log.parquet"
    frame.write_parquet(file)
    whole = file.read_bytes()
    file.write_bytes(whole[:-40])
    with pytest.raises(UserError, match=r"log\.parquet: not a readable Parquet file"):
        read(file)
    file.write_bytes(gzip.compress(whole))
    with pytest.raises(UserError, match="gunzip"):
        read(file)
    frame.with_columns(pl.lit("2024-03-01").str.to_date().alias("time")).write_parquet(file)
    with pytest.raises(UserError, match=r"source.columns.time\) holds dates without a time"):
        read(file)


def test_parquet_rows_are_counted_as_records(tmp_path, frame):
    file = tmp_path / "log.parquet"
    frame.with_columns(time=pl.when(pl.col("user") == "u2").then(None).otherwise("time")).write_parquet(file)
    assert refused(read(file)) == [(3, Rule.NO_TIME)]


def test_header_without_rows_gives_no_events(tmp_path):
    log = read(write_log(tmp_path / "log.csv", []))
    assert log.rows == 0 and log.events.is_empty()


def test_a_damaged_first_line_of_json_is_no_header_and_is_not_shown(tmp_path):
    (tmp_path / "log.jsonl").write_text('z"user": "secret-7", "time": null, "behavior": "Gaming"}\n')
    with pytest.raises(UserError, match=r"log\.jsonl: line 1 is no header but a row") as error:
        read(tmp_path / "log.jsonl")
    assert "secret" not in str(error.value)
