"""The fast reading of logs and making of windows against plain Python, row by row, on small and messy logs."""

import csv
import gzip
import io

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages.events import parquet, reading
from stages.events.assembly import read_log
from stages.events.formats import FORMATS
from stages.events.order import repeated, stable_order
from stages.windows import cut as windows
from tests.events.helpers import table_params
from tests.events.plain import TIMES, plain_log, plain_windows
from tests.small_log import vocabulary_of

USER = st.sampled_from(["a", "b", "c", " c ", "Ünï", "d", "", "null"])
TIME = st.one_of(st.just("2024-03-01 09:00:00"), st.sampled_from(sorted(TIMES)))
LABEL = st.sampled_from(["Gaming", "gaming", "x  y", "Cafe\u0301", "NaN", "", " ", "<|im_end|>", "y" * 101, '"', "a,b",
                         "\x07", "\u2028", "看电影", "\x00", "#", "</s>"])
ROW = st.tuples(USER, TIME, LABEL, LABEL)
MESSY = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def written(rows, separator, quoting, line_end, odd):
    """A CSV file; `odd` lines stand between its rows, at the places given."""
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=separator, quoting=quoting, lineterminator="\n", escapechar=None).writerows(rows)
    lines = text.getvalue().split("\n")[:-1]
    for place, line in odd:
        lines.insert(place % (len(lines) + 1), line.replace(",", separator))
    return (line_end.join([separator.join(["user", "time", "place", "behavior"]), *lines]) + line_end).encode()


@MESSY
@given(
    st.lists(st.lists(ROW, max_size=12), min_size=1, max_size=2), st.sampled_from(",;\t|"),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]), st.sampled_from(["\n", "\r\n", "\r\r\n"]), st.booleans(),
    st.lists(st.tuples(st.integers(0, 99), st.sampled_from([
        "", "  ", "a,b", "a,b,c,d,e", ",,,", 'a,"b', "c,2024-03-01 09:00:00,home,Gaming"])), max_size=4),
    st.integers(20, 400), st.booleans(),
)
def test_a_log_is_read_as_plain_python_reads_it(
    tmp_path_factory, logs, separator, quoting, line_end, ends, odd, block, packed,
):
    folder, files = tmp_path_factory.mktemp("log"), []
    for number, rows in enumerate(logs):
        content = written(rows, separator, quoting, line_end, odd)
        content = content if ends else content.removesuffix(line_end.encode())
        file = folder / f"{number}.csv"
        file.write_bytes(gzip.compress(content) if packed else content)
        files.append((file.as_posix(), content))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "BLOCK", block)
        log = read_log(FORMATS["table"], table_params(folder, source__order="oldest_first").source, None)
    events, quarantine = plain_log(files, separator)
    assert log.events.drop("offset").rows() == events
    assert log.quarantine.rows() == quarantine
    assert log.rows == len(events) + len(quarantine)


@MESSY
@given(st.lists(ROW, min_size=1, max_size=30), st.integers(1, 12), st.integers(1, 12))
def test_parquet_is_read_as_csv_whatever_is_read_at_once(tmp_path_factory, rows, group, at_once):
    folder = tmp_path_factory.mktemp("log")
    frame = pl.DataFrame(rows, schema=["user", "time", "place", "behavior"], orient="row")
    frame.write_parquet(folder / "log.parquet", row_group_size=group)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parquet, "_ROWS", at_once)
        params = table_params(folder / "log.parquet", source__order="oldest_first")
        log = read_log(FORMATS["table"], params.source, None)
    content = written(rows, ",", csv.QUOTE_ALL, "\n", [])
    events, quarantine = plain_log([((folder / "log.parquet").as_posix(), content)], ",")
    assert log.events.drop("offset").rows() == events
    records = [(file, line - 1, rule, text) for file, line, rule, text in quarantine]  # a header is no record
    assert log.quarantine.rows() == records


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.sampled_from("vwxyz")), max_size=120),
    st.integers(0, 3), st.integers(1, 4), st.integers(1, 30), st.integers(1, 4),
)
def test_windows_are_those_of_plain_python(rows, seed, min_history, natural, per_behavior):
    events = pl.DataFrame(
        sorted((user, time, "home", label) for user, time, label in rows), orient="row",
        schema={"user": pl.UInt64, "time": pl.Int64, "place": pl.String, "behavior": pl.String},
    ).with_columns(pl.col("time").cast(pl.Datetime("us")))
    log = windows.read_histories(events.lazy())
    split = windows.split_users(log.users, seed)
    vocabulary = windows.train_vocabulary(log, split == "train", 0.01)
    train = events.filter(pl.Series(log.per_event(split == "train"), dtype=pl.Boolean))
    assert vocabulary.equals(vocabulary_of(train, 0.01))
    made = windows.make_windows(log, split, vocabulary["behavior"], seed, min_history, natural, per_behavior)
    found, lost = plain_windows(events.rows(), dict(zip(log.users.tolist(), split, strict=True)), seed, min_history,
                                natural, per_behavior)
    assert {name: of_one.tolist() for name, of_one in made.rows.items()} == found
    assert made.out_of_vocabulary == lost
    assert made.table.collect().rows() == [(row, name) for name, of_one in found.items() for row in of_one]


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0, 1, 10**6, 5 * 10**6, 2**62, -(10**15)]),
                          st.integers(0, 1)), max_size=60), st.booleans())
def test_order_is_stable_and_finds_repetitions(rows, in_time):
    rows = sorted(rows, key=lambda row: row[1]) if in_time else rows
    user, time, mark = np.array(rows, np.int64).reshape(-1, 3).T
    order, users = stable_order(user.astype(np.uint32), time)
    assert users.tolist() == user[order].tolist()
    assert order.tolist() == sorted(range(len(rows)), key=lambda row: rows[row][:2])
    ordered = [rows[row] for row in order]
    again = repeated(user[order], time[order], mark.astype(np.uint64), order)
    assert again.tolist() == [place for place, row in enumerate(ordered) if row in ordered[:place]]
