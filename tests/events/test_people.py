"""Who a row is of, and what its labels are, in every format: a number has one text, nothing but text is a name."""

import datetime as dt
import decimal
import json
import uuid

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages.common.errors import UserError
from stages.common.hashing import pseudonym
from stages.events import json_lines
from stages.events.assembly import read_log
from stages.events.formats import FORMATS
from stages.events.rules import Rule
from stages.ingest import ingest
from tests.events.helpers import ROOT, table_params

INPUTS = ROOT.parent / "shared" / "inputs"
TIME = "2024-05-06 07:50:00"
ROW = {"user": "u", "time": TIME, "place": "home", "behavior": "Walking"}


def read(path, **changes):
    changes = {"source__time_zone": "UTC"} | changes
    return read_log(FORMATS["table"], table_params(path, **changes).source, None)


def write_json(path, *rows):
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(ROW | row) for row in rows) + "\n")
    return path


def write_parquet(path, **columns):
    height = len(next(iter(columns.values())))
    others = {name: pa.array([value] * height) for name, value in ROW.items() if name not in columns}
    pq.write_table(pa.table(columns | others), path)
    return path


def users(log):
    return set(log.events["user"])


def refused(log):
    return log.quarantine.select("line", "rule").rows()


def test_integers_of_json_keep_all_their_digits(tmp_path):
    """JSON knows no largest integer (RFC 8259), so ids of 2^64 and more are as many people as are written."""
    ids = [2**63, 2**64, 2**64 + 1, 10**20, 10**20 + 1, 10**29 + 7, 10**29 + 8, -(2**63) - 1, 7]
    log = read(write_json(tmp_path / "log.jsonl", *({"user": each} for each in ids)))
    assert users(log) == {pseudonym(str(each)) for each in ids}


def test_long_ids_are_exact_on_lines_that_ask_for_care(tmp_path):
    lines = [json.dumps(ROW | {"user": 10**29 + each, "x": float("nan")}) for each in range(4)]
    assert len(users(read(write_json(tmp_path / "log.jsonl", *lines)))) == 4
    lines = [f'{{"user": 0.12345678901234567{each}, "time": "{TIME}", "behavior": "Walking", "place": null}}'
             for each in range(4)]
    assert len(users(read(write_json(tmp_path / "log.jsonl", *lines)))) == 4


@given(st.integers(-(10**6), 2**53 - 1))
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_whole_number_is_one_person_however_it_is_written(tmp_path_factory, number):
    folder = tmp_path_factory.mktemp("log")
    write_json(folder / "a.jsonl", {"user": number}, {"user": str(number)}, {"user": float(number)})
    text = f'{{"user": {number}.0, "time": "{TIME}", "behavior": "Running", "place": "home"}}'
    write_json(folder / "b.jsonl", text)
    rows = [f"{number},{TIME},home,Reading\n", f"{number}.0,{TIME},home,Cooking\n"]  # pandas writes the second
    (folder / "c.csv").write_text("user,time,place,behavior\n" + "".join(rows))
    assert users(read(folder)) == {pseudonym(str(number))}


@pytest.mark.parametrize("column", [
    pa.array([101.0, 102.0, None]), pa.array([101.0, 102.0, None], pa.float32()), pa.array([101, 102, None]),
    pa.array([decimal.Decimal("101.00"), decimal.Decimal("102"), None], pa.decimal128(10, 2)),
    pa.array([101, 102, None], pa.uint64()), pa.array(["101", "102", None]).dictionary_encode(),
    pa.array([b"101", b"102", None]), pa.array([101.0, 102.0, float("nan")]),
], ids=lambda column: str(column.type))
def test_ids_are_the_same_people_whatever_the_type_of_their_column(tmp_path, column):
    log = read(write_parquet(tmp_path / "log.parquet", user=column))
    assert users(log) == {pseudonym("101"), pseudonym("102")}
    assert refused(log) == [(3, Rule.NO_USER)]


def test_numbers_that_are_not_whole_stay_apart(tmp_path):
    log = read(write_parquet(tmp_path / "log.parquet", user=pa.array([1.5, 1.25, -0.5, 2.0**52 + 0.5])))
    assert len(users(log)) == 4
    cents = pa.array([decimal.Decimal(text) for text in ("1.50", "1.05", "150", "0.00")], pa.decimal128(10, 2))
    log = read(write_parquet(tmp_path / "log.parquet", user=cents))
    assert users(log) == {pseudonym(text) for text in ("1.5", "1.05", "150", "0")}


@pytest.mark.parametrize(("kind", "exact"), [(pa.float64(), 2**53), (pa.float32(), 2**24), (pa.float16(), 2**11)],
                         ids=str)
def test_ids_that_a_float_cannot_hold_merge_nobody(tmp_path, kind, exact):
    """IEEE 754: from 2^53 on 2^53 + 1 is 2^53, of 64 bits; of 32 that is from 2^24 on, of 16 from 2^11."""
    ids = np.array([exact - 1, 7, exact, exact + 1, -exact, 4 * exact, np.inf, -np.inf]).astype(kind.to_pandas_dtype())
    log = read(write_parquet(tmp_path / "log.parquet", user=pa.array(ids, kind)))
    assert users(log) == {pseudonym(str(exact - 1)), pseudonym("7")}
    assert refused(log) == [(line, Rule.ROUNDED) for line in range(3, 9)]
    assert log.quarantine["text"].unique().to_list() == [""], "no id"


@given(st.integers(2**53, 10**30), st.sampled_from([float, lambda each: -float(each)]))
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_floats_that_were_written_out_merge_nobody(tmp_path_factory, number, as_float):
    """As Python, pandas, JavaScript and spreadsheets write them: with a point, an exponent, or both."""
    folder, number = tmp_path_factory.mktemp("log"), as_float(number)
    (folder / "a.csv").write_text("user,time,place,behavior\n" + "".join(
        f"{text},{TIME},home,Reading\n" for text in (str(number), f"{number:.5E}", f" {number:.1f}")))
    line = json.dumps(ROW)
    write_json(folder / "b.jsonl", *(line.replace('"u"', text)
                                     for text in (str(number), f"{number:.5E}", f"{number:.1f}")))
    write_parquet(folder / "c.parquet", user=pa.array([number]))
    log = read(folder)
    assert not users(log) and [rule for _, rule in refused(log)] == [Rule.ROUNDED] * 7


@pytest.mark.parametrize("text", ["1e5", "7e10", "9007199254740993", "123456789012345678901234567890", "1.5", "+1E5",
                                  "9007199254740991.0", "1.0.0", "a1E+5", "00000000000000000101.0"])
def test_text_that_is_no_such_float_is_somebody(tmp_path, text):
    """Hexadecimal ids among them: 7e10 is one."""
    (tmp_path / "log.csv").write_text(f"user,time,place,behavior\n{text},{TIME},home,Reading\n")
    assert users(read(tmp_path / "log.csv")) == {pseudonym(text.removesuffix(".0") if text.count(".") == 1 else text)}


def test_numbers_with_any_exponent_are_read(tmp_path):
    """JSON has no largest exponent (RFC 8259, section 6); Python's decimals have."""
    exponents = ["1e99999999999999999999", "1E-99999999999999999999", "1e400", "1e-400"]
    lines = [json.dumps(ROW).replace('"u"', text)[:-1] + ', "x": NaN}' for text in exponents]
    log = read(write_json(tmp_path / "log.jsonl", *lines))
    assert refused(log) == [(1, Rule.ROUNDED), (2, Rule.ROUNDED), (3, Rule.ROUNDED)] and len(users(log)) == 1


def test_what_a_message_says_of_such_ids(tmp_path):
    file = write_parquet(tmp_path / "log.parquet", user=pa.array([2.0**53 + 2, 2.0**60, 1.0]))
    with pytest.raises(UserError, match=r"(?s)a user's number that has lost its last digits: 2 rows; export ids as "
                                        r"whole numbers or as text.*below 2\^53") as raised:
        ingest(table_params(file, ingest__max_refused=0.05), ROOT / "data" / "taxonomy", tmp_path / "oracle.parquet")
    assert "9007199254740994" not in str(raised.value) and "line 2" in str(raised.value)


@given(st.uuids(), st.randoms())
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_uuid_is_one_person_in_any_case(tmp_path_factory, uid, chance):
    """RFC 9562, section 4: its hexadecimal digits mean the same in capitals, as Windows and iPhones write them."""
    folder, text = tmp_path_factory.mktemp("log"), str(uid)
    mixed = "".join(chance.choice([letter, letter.upper()]) for letter in text)
    (folder / "a.csv").write_text("user,time,place,behavior\n" + "".join(
        f"{each},{TIME},home,{each[:4]} {number}\n" for number, each in enumerate((text, text.upper(), mixed))))
    write_json(folder / "b.jsonl", {"user": f" {text.upper()} "})
    write_parquet(folder / "c.parquet", user=pa.array([uid.bytes], pa.uuid()))
    assert users(read(folder)) == {pseudonym(text)}


@pytest.mark.parametrize("text", ["Ann", "A1B2C3D4", "0123456789ABCDEF0123456789ABCDEF", "ann@Mail.example",
                                  "A0000000-0000-0000-0000-00000000000G", "{A0000000-0000-0000-0000-000000000000}"])
def test_other_ids_are_others_in_another_case(tmp_path, text):
    """Short ids of many services count capitals: `aB3` and `ab3` are two people."""
    (tmp_path / "log.csv").write_text("user,time,place,behavior\n" + "".join(
        f"{each},{TIME},home,Reading\n" for each in (text, text.lower())))
    assert users(read(tmp_path / "log.csv")) == {pseudonym(text), pseudonym(text.lower())}


@pytest.mark.parametrize("kind", [pa.uuid(), pa.binary(16), pa.binary()], ids=str)
def test_a_uuid_is_who_it_is_as_text(tmp_path, kind):
    ids = [uuid.uuid5(uuid.NAMESPACE_DNS, name) for name in "abcd"]
    write_parquet(tmp_path / "log.parquet", user=pa.array([each.bytes for each in ids], kind))
    (tmp_path / "log.csv").write_text("user,time,place,behavior\n" + "".join(
        f"{each},{TIME},home,Reading\n" for each in ids))
    assert users(read(tmp_path)) == {pseudonym(str(each)) for each in ids}


def test_ids_of_another_width_are_people_too(tmp_path):
    digests = pa.array([bytes([number] * 32) for number in (0, 200, 255)], pa.binary(32))
    assert len(users(read(write_parquet(tmp_path / "log.parquet", user=digests)))) == 3


def test_people_called_nan_and_null_are_people(tmp_path):
    names = ["Nan", "Null", "Na", "nan", "NaN", "NULL", "null", "None", "N/A", ""]
    (tmp_path / "log.csv").write_text("user,time,place,behavior\n" + "".join(
        f"{name},{TIME},home,Reading\n" for name in names))
    log = read(tmp_path / "log.csv")
    assert users(log) == {pseudonym(name) for name in ("Nan", "Null", "Na")}
    assert [rule for _, rule in refused(log)] == [Rule.NO_USER] * 7


@pytest.mark.parametrize("value", ['{"id": 1}', '["a"]', "[]", "{}", "true", "false"])
@pytest.mark.parametrize("column", list(ROW))
def test_objects_lists_and_truth_values_are_no_names(tmp_path, column, value):
    fields = {name: json.dumps(text) for name, text in ROW.items()} | {column: value}
    bad = "{" + ", ".join(f'"{name}": {text}' for name, text in fields.items()) + "}"
    log = read(write_json(tmp_path / "log.jsonl", {}, bad, {"user": "v", column: value.strip('[]{}') or TIME}))
    assert (2, Rule.NESTED) in refused(log) and (1, Rule.NESTED) not in refused(log)


def test_text_that_looks_like_what_is_no_text_is_text(tmp_path):
    labels = ["false", "true", "[draft]", "{x}", '{"a": 1}', "status: NaN seen", "a, NaN, b", "-Infinity: no", "1e3"]
    log = read(write_json(tmp_path / "log.jsonl", *({"behavior": label, "user": label, "x": float("nan")}
                                                    for label in labels)))
    assert sorted(log.events["behavior"]) == sorted(labels)


def test_a_bare_nan_says_nothing(tmp_path):
    log = read(write_json(tmp_path / "log.jsonl", {"place": float("nan")}, {"user": float("nan")},
                          {"behavior": float("-inf")}))
    assert log.events["place"].to_list() == ["unknown"]
    assert refused(log) == [(2, Rule.NO_USER), (3, Rule.NO_BEHAVIOR)]


def test_half_a_character_is_no_text(tmp_path):
    log = read(write_json(tmp_path / "log.jsonl", {"behavior": "Caf\ud83d"}, {"behavior": "Café 😀"}))
    assert refused(log) == [(1, Rule.TEXT)]
    assert log.events["behavior"].to_list() == ["Café 😀"]


def test_the_last_of_two_equal_keys_counts(tmp_path):
    twice = f'{{"user": "d", "user": "e", "time": "{TIME}", "place": "home", "behavior": "Walking"}}'
    assert users(read(write_json(tmp_path / "log.jsonl", twice))) == {pseudonym("e")}


def test_fields_within_objects_have_dotted_names(tmp_path):
    rows = [{"data": {"app": "Mail", "more": {"who": 10**20 + each}}} for each in range(3)]
    names = {"source__columns__behavior": "data.app", "source__columns__user": "data.more.who"}
    file = write_json(tmp_path / "log.jsonl", *rows, {"data": None}, {"data": "x"}, {"data.app": "Maps", **rows[0]})
    log = read(file, **names)
    assert sorted(log.events["behavior"]) == ["Mail", "Mail", "Mail", "Maps"] and len(users(log)) == 3
    data = pa.array([{"app": "Mail", "more": {"who": "a"}}, {"app": "Maps", "more": {"who": "b"}}, None])
    log = read(write_parquet(tmp_path / "log.parquet", data=data), **names)
    assert sorted(log.events["behavior"]) == ["Mail", "Maps"] and refused(log) == [(3, Rule.NO_USER)]


def test_a_file_of_nested_events_says_what_it_has(tmp_path):
    events = [{"timestamp": TIME, "data": {"app": "Mail"}}]
    file = tmp_path / "log.json"
    file.write_text(json.dumps({"buckets": {"window": {"host": "h", "events": events}}}) + "\n")
    with pytest.raises(UserError, match=r"no column 'user'.*buckets\.window\.events is a list: set source.events to"):
        read(file)
    file.write_text(json.dumps({"who": "u", "data": {"app": "Mail", "title": "x"}}) + "\n")
    with pytest.raises(UserError, match=r"no column 'behavior'.*the file has: who, data\.app, data\.title"):
        read(file, source__columns={"user": "who", "time": "data.title", "place": "", "clock": "", "offset": "",
                                     "behavior": "behavior"})


KEY = st.sampled_from(["user", "time", "place", "behavior", "x"])
TEXTS = st.one_of(st.sampled_from([TIME, "NaN", '"', "a\\b", "{", "[", "true", "\u2028", "😀", "user", '"user"']),
                  st.text(max_size=6))
NUMBER = st.one_of(st.integers(-(10**25), 10**25), st.floats(), st.sampled_from([0, 1.0, 1e20]))
VALUE = st.recursive(st.one_of(TEXTS, NUMBER, st.booleans(), st.none()),
                     lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEY, inner, max_size=3)),
                     max_leaves=4)
OBJECT = st.dictionaries(KEY, VALUE, max_size=5).map(lambda found: json.dumps(found, ensure_ascii=False))
LINE = st.one_of(OBJECT, OBJECT.map(json.dumps), OBJECT.map(lambda text: text[:-1]),
                 OBJECT.map(lambda text: text + ","),
                 st.tuples(OBJECT, OBJECT).map(",".join), st.sampled_from(["[{}", "{}]", "null", "1", '{"user": 01}']))


COLUMNS = {"user": "user", "behavior": "behavior", "place": "x.user"}


@given(st.lists(LINE, max_size=12))
@settings(max_examples=100)
def test_many_lines_at_a_time_are_read_as_one_by_one(lines):
    names = ["user", "behavior", "x.user", "x.x.place"]
    text = pl.Series(lines, dtype=pl.String).str.replace_all("\n", " ")
    read = json_lines._parse(text, names, COLUMNS)
    exact = [json_lines._exactly(line, names, COLUMNS) for line in text]
    for many, one in zip(read.rows(), exact, strict=True):
        # a number beyond 17 digits and no integer is rounded in labels, which no two rows can tell
        assert [value and _rounded(value) for value in many] == [value and _rounded(value) for value in one]


def _rounded(value):
    try:
        return float(value) if "." in value else value.replace("-0", "0") if value == "-0" else value
    except ValueError:
        return value


@pytest.mark.parametrize(("column", "says"), [
    (pa.array([["a"]]), "holds List"),
    (pa.array([{"app": "a", "b": {"c": 1}}]), r"structs.*behavior\.app, behavior\.b\.c"),
    (pa.array([True]), "holds Boolean"), (pa.array([dt.timedelta(1)]), "holds Duration"),
    (pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())), "holds Map"),
], ids=["list", "struct", "bool", "duration", "map"])
@pytest.mark.parametrize("name", ["user", "place", "behavior", "time"])
def test_a_column_that_is_no_text_is_named_with_its_type(tmp_path, name, column, says):
    says = says.replace("behavior", name).removeprefix("holds ")
    with pytest.raises(UserError, match=rf"log\.parquet: column '{name}' \(source\.columns\.{name}\) holds {says}"):
        read(write_parquet(tmp_path / "log.parquet", **{name: column}))


def test_bytes_that_are_no_text_refuse_their_row(tmp_path):
    log = read(write_parquet(tmp_path / "log.parquet", behavior=pa.array([b"Walk", "Café".encode(), b"\xffCaf\xe9"])))
    assert sorted(log.events["behavior"]) == ["Café", "Walk"] and refused(log) == [(3, Rule.TEXT)]


@pytest.mark.parametrize("zone", ["+05:30", "-08:00", "+0530", "+05", "UTC+3", "Z", "Nowhere/Town"])
def test_a_zone_that_is_an_offset_is_read(tmp_path, zone):
    """Parquet counts from UTC whatever zone a column names (its specification, `isAdjustedToUTC`)."""
    time = pa.array([dt.datetime(2024, 5, 6, 7, 50)], pa.timestamp("us", zone))
    log = read(write_parquet(tmp_path / "log.parquet", time=time), source__time_zone="Europe/Berlin")
    assert log.events["time"].to_list() == [dt.datetime(2024, 5, 6, 9, 50)]


@pytest.mark.parametrize("column", [
    [{"n": 1}, {"n": 2}, {"n": 1}], [[1], [1, 2], [1]], [[{"a": [1]}], [{"a": [2]}], [{"a": [1]}]], [[], None, []],
])
def test_rows_of_parquet_that_differ_within_a_nested_column_are_no_duplicates(tmp_path, column):
    log = read(write_parquet(tmp_path / "log.parquet", nested=pa.array(column)))
    assert log.events.height == 2 and refused(log) == [(3, Rule.DUPLICATE)]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_the_columns_that_make_an_event_can_be_named(tmp_path, kind):
    """Exports store an event again when its end is known: the first copy counts."""
    rows = pl.DataFrame([ROW | {"duration": each} for each in (4.0, 61.5)] + [ROW | {"behavior": "x", "duration": 4.0}])
    file = tmp_path / f"log.{kind}"
    {"csv": rows.write_csv, "jsonl": rows.write_ndjson, "parquet": rows.write_parquet}[kind](file)
    assert read(file).events.height == 3
    log = read(file, source__event_columns=["user", "time", "behavior"])
    assert log.events.height == 2 and refused(log) == [(3 if kind == "csv" else 2, Rule.COPY)]
    log = read(file, source__event_columns=["user", "time"])
    assert log.events.height == 1
    with pytest.raises(UserError, match=r"no column 'end', which source\.event_columns names; the file has: user"):
        read(file, source__event_columns=["user", "end"])


def test_the_same_event_in_two_formats_counts_once_by_its_columns(tmp_path):
    rows = pl.DataFrame([ROW, ROW | {"user": "v"}])
    rows.write_csv(tmp_path / "a.csv")
    rows.write_ndjson(tmp_path / "b.jsonl")
    rows.with_columns(pl.col("time").str.to_datetime()).write_parquet(tmp_path / "c.parquet")
    assert read(tmp_path, source__event_columns=["user", "time", "behavior"]).events.height == 2


@pytest.mark.skipif(not INPUTS.is_dir(), reason="the small logs of ../shared/inputs are not here")
@pytest.mark.parametrize(("name", "changes", "events", "people"), [
    ("stored_twice.csv", {"source__event_columns": ["user", "time", "behavior"]}, 27, 3),
    ("names_of_nothing.csv", {}, 35, 5), ("float_ids_*", {}, 18, 3), ("long_ids.jsonl", {}, 9, 3),
    ("big_ids.jsonl", {}, 6, 6), ("nan_in_label.jsonl", {}, 2, 2),
])
def test_small_logs_of_real_faults(name, changes, events, people):
    log = read(INPUTS, source__files=name, source__columns__place="", **changes)
    assert (log.events.height, len(users(log))) == (events, people)
