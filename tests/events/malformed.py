"""Malformed logs from a seed: what people's exports, editors, disks and settings do to a log, one to three at a time.

    python -m tests.events.malformed_check --logs 10000
"""

import datetime as dt
import decimal
import gzip
import json
import random
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

COLUMNS = ("user", "time", "place", "behavior")
USERS = ["ann@mail.example", "ben@mail.example", "0044-770-0900", "Zoë Müller", "1717171717", "Null", 'the "boss"',
         "a,b;c", "A1B2C3D4-0000-4000-8000-0000000000FF", "a1b2c3d4-0000-4000-8000-0000000000ff"]
ODD_USERS = ["", "nan", "NULL", " ", "\u2028", "x" * 300, "1.2345678901234568e+18", "9007199254740992.0", "1E+05",
             "9007199254740991.0", "12e10"]
LABELS = ["Walking", "Reading, slowly", 'Singing "loud"', "看电影", "Cafe\u0301", "status: NaN seen", "[draft]", "{x}",
          "true", "Sleeping  in", "a|b", "x\ty", "7", "12.50", "Null"]
ODD_LABELS = ["", "NaN", "null", "None", "<|im_end|>", "</s>", "y" * 101, "a\x07b", "a\u2028b", "  "]
ODD_TIMES = ["", "yesterday", "2024-13-01 00:00:00", "1924-01-01 00:00:00", "2024-05-06", "NaN", "25:00", "0", "-1",
             "2024-05-06 08:00:00 +99:99", "9" * 30, "1e400"]
ZONE = "Europe/Berlin"


@dataclass
class Malformed:
    """A log, what was done to it, and how it is read.

    Attributes:
        kind: csv, jsonl or parquet.
        rows: what was meant, before anything was done to the file.
        done: names of what was done.
        changes: to the params, as tests.events.helpers.table_params takes them.
        separator: of a CSV.
    """

    kind: str
    rows: list[dict[str, Any]]
    done: list[str]
    content: bytes = b""
    separator: str = ","
    suffix: str = ""
    changes: dict[str, Any] = field(default_factory=dict)


def malformed(seed: int) -> Malformed:
    """The log of a seed: always the same."""
    chance = random.Random(seed)
    kind = chance.choice(["csv", "csv", "jsonl", "jsonl", "parquet"])
    log = Malformed(kind, _rows(chance), [], separator=chance.choice(",,\t;|"))
    times = chance.choice(["local", "local", "offset", "unix", "unix_ms"])
    if times != "local":
        log.changes["source__time_zone"] = ZONE
    if times in ("unix", "unix_ms"):
        log.changes["source__time_format"] = times
    for row in log.rows:
        row["time"] = _written(chance, row["time"], times)
    if chance.random() < 0.7:
        _odd_fields(chance, log)
    {"csv": _csv, "jsonl": _json_lines, "parquet": _parquet}[kind](chance, log)
    if chance.random() < 0.45:
        for _ in range(chance.randint(1, 2)):
            _damage(chance, log)
    if chance.random() < 0.08:
        _settings(chance, log)
    return log


def write(log: Malformed, folder: Path) -> Path:
    path = folder / f"log.{log.kind}{log.suffix}"
    path.write_bytes(log.content)
    return path


def _rows(chance: random.Random) -> list[dict[str, Any]]:
    start = dt.datetime(2024, 3, chance.randint(1, 28), 6)
    rows = [
        {"user": chance.choice(USERS), "time": start + dt.timedelta(seconds=37 * each),
         "place": chance.choice(LABELS[:6]), "behavior": chance.choice(LABELS), "note": chance.randint(0, 9)}
        for each in range(chance.randint(0, 30))
    ]
    for _ in range(chance.randint(0, 3)):
        if rows:
            rows.insert(chance.randint(0, len(rows)), dict(chance.choice(rows)))
    return rows


def _written(chance: random.Random, time: dt.datetime, times: str) -> Any:
    if times == "offset":
        minutes = chance.choice([0, 60, 330, -480])
        text = time.replace(tzinfo=dt.timezone(dt.timedelta(minutes=minutes))).isoformat()
        return text.replace("+00:00", "Z") if chance.random() < 0.5 else text
    if times in ("unix", "unix_ms"):
        return str(int(time.replace(tzinfo=dt.UTC).timestamp()) * (1000 if times == "unix_ms" else 1))
    return time.isoformat(sep=chance.choice(" T"))


def _odd_fields(chance: random.Random, log: Malformed) -> None:
    for row in log.rows:
        if chance.random() < 0.2:
            name = chance.choice(COLUMNS)
            row[name] = chance.choice({"user": ODD_USERS, "time": ODD_TIMES}.get(name, ODD_LABELS))


def _csv(chance: random.Random, log: Malformed) -> None:
    def written(value: Any) -> str:
        text = str(value).replace("\n", " ")
        quoted = chance.random() < 0.1 or any(mark in text for mark in (log.separator, '"'))
        return '"' + text.replace('"', '""') + '"' if quoted else text

    names = chance.choice([[*COLUMNS], [*COLUMNS, "note"], ["note", *reversed(COLUMNS)]])
    lines = [log.separator.join(names)]
    for row in log.rows:
        line = log.separator.join(written(row[name]) for name in names)
        if chance.random() < 0.04:
            line = chance.choice([line + log.separator + "more", line.rpartition(log.separator)[0], '"' + line,
                                  line + '"', log.separator.join(['"a"b'] * len(names)), "  ", "", log.separator * 9])
        lines.append(line)
    end = chance.choice(["\n", "\n", "\r\n"])
    log.content = (end.join(lines) + chance.choice([end, ""])).encode()


def _json_lines(chance: random.Random, log: Malformed) -> None:
    values = [{"a": 1}, ["x"], True, False, None, float("nan"), 10**20 + 7, 10**30, 101.0, 7.5, 1e3, 2**64,
              "\ud83d", -0.5, 1e20, 2.0**53, 2.0**53 - 1, -(2.0**60)]
    lines = []
    for row in log.rows:
        row = dict(row)
        if chance.random() < 0.25:
            row[chance.choice([*COLUMNS, "note"])] = chance.choice(values)
        if chance.random() < 0.05:
            row.pop(chance.choice(COLUMNS))
        if str(row.get("time")).isdigit() and chance.random() < 0.5:
            row["time"] = int(row["time"])
        line = json.dumps(row, ensure_ascii=chance.random() < 0.5) if "\ud83d" not in row.values() else json.dumps(row)
        if chance.random() < 0.05:
            line = chance.choice([line[:-1], line + ",", line + line, line + "," + line, line.replace('"', "'"),
                                  f"[{line}]", "null", "3", '"x"', "", "  ", "[" * 5000, '{"user":' * 3000,
                                  line[:-1] + ', "user": "zed@mail.example"}',
                                  line[:-1] + ', "more": 1e99999999999999999999, "most": NaN}',
                                  "{}", "[{}", "{}]", line[: len(line) // 2]])
        lines.append(line)
    log.content = ("\n".join(lines) + chance.choice(["\n", ""])).encode()


def _parquet(chance: random.Random, log: Malformed) -> None:
    count = len(log.rows)
    columns = {name: pa.array([str(row[name]) for row in log.rows], pa.string()) for name in COLUMNS}
    if log.changes.get("source__time_format"):
        columns["time"] = pa.array([int(t) if str(t).isdigit() and len(t) < 15 else None for t in _column(log, "time")])
    elif chance.random() < 0.6:
        zone = chance.choice([None, None, "UTC", "+05:30", "-0800", "America/New_York", "Nowhere/Town", "Z"])
        if zone:
            log.changes["source__time_zone"] = ZONE
        start = dt.datetime(2024, 5, 6)
        columns["time"] = pa.array([start + dt.timedelta(hours=each) for each in range(count)],
                                   pa.timestamp(chance.choice(["s", "ms", "us", "ns"]), zone))
    if chance.random() < 0.5:
        columns["user"] = _odd_ids(chance, count)
    if chance.random() < 0.3:
        name = chance.choice(COLUMNS)
        log.done.append(f"type of {name}")
        columns[name] = _odd_column(chance, count)
    if chance.random() < 0.3:
        columns["nested"] = pa.array([[{"n": chance.randint(0, 1)}] for _ in range(count)],
                                     pa.list_(pa.struct([("n", pa.int8())])))
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink, compression=chance.choice(["snappy", "none", "zstd", "gzip"]),
                   row_group_size=chance.choice([3, 1000]), use_dictionary=chance.random() < 0.5)
    log.content = sink.getvalue().to_pybytes()


def _column(log: Malformed, name: str) -> list[Any]:
    return [row[name] for row in log.rows]


def _odd_ids(chance: random.Random, count: int) -> pa.Array:
    numbers = [chance.choice([101, 102, 103, None]) for _ in range(count)]
    return chance.choice([
        lambda: pa.array(numbers, pa.int64()), lambda: pa.array(numbers, pa.float64()),
        lambda: pa.array(numbers, pa.uint16()),
        lambda: pa.array([n and n + 0.5 for n in numbers], pa.float64()),
        lambda: pa.array([n and decimal.Decimal(n) for n in numbers], pa.decimal128(12, 3)),
        lambda: pa.array([n and uuid.uuid5(uuid.NAMESPACE_DNS, str(n)).bytes for n in numbers], pa.uuid()),
        lambda: pa.array([n and b"\xff\xfe" + bytes([n]) * 14 for n in numbers], pa.binary(16)),
        lambda: pa.array([n and str(n).encode() for n in numbers], pa.binary()),
        lambda: pa.array([n and str(n) for n in numbers], pa.string()).dictionary_encode(),
        lambda: pa.array([n and 2**63 + n for n in numbers], pa.uint64()),
        lambda: pa.array([n and 2.0**53 + n - 102 for n in numbers], pa.float64()),
        lambda: pa.array([n and 2.0**24 + n - 102 for n in numbers], pa.float32()),
    ])()


def _odd_column(chance: random.Random, count: int) -> pa.Array:
    value, kind = chance.choice([
        ([1], pa.list_(pa.int8())), ({"a": 1}, pa.struct([("a", pa.int8())])), (True, pa.bool_()), (None, pa.null()),
        (dt.timedelta(1), pa.duration("us")), (dt.time(8), pa.time64("us")), (dt.date(2024, 5, 6), pa.date32()),
        (b"\xff\xff", pa.binary()), (decimal.Decimal(1), pa.decimal256(60, 2)),
        ([("k", "v")], pa.map_(pa.string(), pa.string())),
        ([1, 2], pa.list_(pa.int8(), 2)), (1.5, pa.float32()), (3, pa.float16()), (7, pa.int8()),
    ])
    return pa.array([value] * count, kind)


def _damage(chance: random.Random, log: Malformed) -> None:
    of_bytes = {"flips": _flips, "cut": _cut, "zeros": _zeros, "packed": _packed, "packed, then cut": _packed_cut,
                "packed, then flips": _packed_flips, "empty": lambda chance, content: b""}
    of_text = {
        "latin-1": lambda chance, content: content.decode("utf-8", "replace").encode("latin-1", "replace"),
        "UTF-16": lambda chance, content: content.decode("utf-8", "replace").encode("utf-16"),
        "a mark": lambda chance, content: b"\xef\xbb\xbf" + content,
        "carriage returns": lambda chance, content: content.replace(b"\n", b"\r"),
        "blank lines": lambda chance, content: b"\n \n" + content + b"\n\n",
        "only blanks": lambda chance, content: b"\n" * chance.randint(1, 9),
        "no header": lambda chance, content: content.partition(b"\n")[2],
        "half a header": lambda chance, content: content.partition(b",")[2],
        "long header": lambda chance, content: b"z" * 140_000 + log.separator.encode() + content,
        "another name": lambda chance, content: content.replace(
            b"behavior", chance.choice([b"what", b"behaviour", b"time"])),
        "an array": lambda chance, content: b"[" + content.replace(b"\n", b",\n").rstrip(b",\n") + b"]",
        "a line on top": lambda chance, content: chance.choice([b"sep=,\n", b"# exported\n", b"{}\n"]) + content,
    }
    options = of_bytes if log.kind == "parquet" else of_bytes | of_text
    name = chance.choice(list(options))
    log.done.append(name)
    log.content = options[name](chance, log.content)


def _flips(chance: random.Random, content: bytes) -> bytes:
    flipped = bytearray(content)
    for _ in range(chance.randint(1, 4) if content else 0):
        flipped[chance.randrange(len(flipped))] ^= 1 << chance.randrange(8)
    return bytes(flipped)


def _cut(chance: random.Random, content: bytes) -> bytes:
    return content[: chance.randint(0, len(content))]


def _zeros(chance: random.Random, content: bytes) -> bytes:
    place = chance.randint(0, len(content))
    return content[:place] + b"\0" * chance.randint(1, 40) + content[place:]


def _packed(chance: random.Random, content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


def _packed_cut(chance: random.Random, content: bytes) -> bytes:
    return _cut(chance, gzip.compress(content, mtime=0))


def _packed_flips(chance: random.Random, content: bytes) -> bytes:
    return _flips(chance, gzip.compress(content, mtime=0))


def _settings(chance: random.Random, log: Malformed) -> None:
    key, value = chance.choice([
        ("time_format", "%Q"), ("time_format", "nonsense"), ("time_zone", "Europe/Berlni"), ("columns__user", ""),
        ("event_columns", ["user", "end"]), ("columns__place", "where"), ("columns__behavior", "user"),
        ("columns__behavior", "data.app"), ("files", "*.xlsx"), ("time_format", "%d.%m.%Y %H:%M"),
    ])
    log.done.append(f"{key}: {value}")
    log.changes[f"source__{key}"] = value
