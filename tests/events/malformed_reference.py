"""What is right for a malformed log, by Python's csv, json and zoneinfo and pyarrow: no reader of ours, no Polars."""

import csv
import datetime as dt
import decimal
import gzip
import io
import json
import re
import unicodedata
import uuid
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.parquet as pq

from tests.events.malformed import COLUMNS, ZONE, Malformed

EITHER = "either"  # a row that may be read or refused: readers of CSV differ on it
REFUSED = "refused"
WHITE = "\t\n\x0b\x0c\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
MISSING = {"", "nan", "NaN", "NAN", "null", "NULL", "none", "None", "NONE", "n/a", "N/A"}
EXACT = {64: 2**53, 32: 2**24, 16: 2**11}  # floats of so many bits are whole numbers one to one below
ISO = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?)\s*(Z|[+-]\d\d:?\d\d|[+-]\d\d)?")


def expected(log: Malformed) -> list[Any] | None:
    """Of each row an event (user, time, place, behavior), REFUSED or EITHER; None where an error is right, or nothing
    is known."""
    try:
        content = gzip.decompress(log.content) if log.content[:2] == b"\x1f\x8b" else log.content
        if any(key not in ("source__time_zone", "source__time_format") or value not in (ZONE, "unix", "unix_ms")
               for key, value in log.changes.items()):
            return None
        if log.kind == "parquet":
            return None if content is not log.content else _once(_parquet(log))
        text = content.decode("utf-8-sig")
        first = text.lstrip(WHITE)[:1]
        if not first or (first if first in "{[" else "") != {"csv": "", "jsonl": "{"}[log.kind]:
            return None
        lines = [line.rstrip("\r") for line in text.split("\n")]
        lines = [line for line in lines if line.strip(WHITE)]
        return _once(_csv(log, lines) if log.kind == "csv" else _json_lines(log, lines))
    except Exception:  # what the reference cannot read may be an error
        return None


def _once(rows: list[tuple[Any, Any]] | None) -> list[Any] | None:
    """Events, each once: rows are pairs of an event and of all that was written."""
    if rows is None:
        return None
    found, seen = [], set()
    for event, written in rows:
        key = (event[:2], written) if isinstance(event, tuple) else None
        found.append(REFUSED if key in seen else event)
        if key:
            seen.add(key)
    return found


def _csv(log: Malformed, lines: list[str]) -> list[tuple[Any, Any]] | None:
    if "\r" in lines[0]:
        return None
    names = [name.strip(WHITE) for name in next(csv.reader([lines[0]], delimiter=log.separator, strict=True))]
    if any(names.count(name) != 1 for name in COLUMNS):
        return None
    rows: list[tuple[Any, Any]] = []
    for line in lines[1:]:
        try:
            fields = next(csv.reader([line], delimiter=log.separator, strict=True))
        except csv.Error:
            rows.append((EITHER, None))
            continue
        spaced = re.search(rf'(?:^|{re.escape(log.separator)}) +"', line)
        event = REFUSED
        if len(fields) == len(names):
            event = _event({name: fields[names.index(name)] for name in COLUMNS}, log)
        rows.append((EITHER if spaced else event, tuple(fields)))
    return rows


def _json_lines(log: Malformed, lines: list[str]) -> list[tuple[Any, Any]] | None:
    rows: list[tuple[Any, Any]] = []
    stands: set[str] = set()
    for line in lines:
        try:
            found = json.loads(line, parse_float=decimal.Decimal, parse_constant=lambda _: None)
        except (ValueError, RecursionError):
            rows.append((REFUSED, None))
            continue
        if not isinstance(found, dict):
            rows.append((REFUSED, None))
            continue
        stands |= set(found)
        values = [found.get(name) for name in COLUMNS]
        half = any(isinstance(value, str) and re.search("[\ud800-\udfff]", value) for value in values)
        if half or any(isinstance(value, dict | list | bool) for value in values):
            rows.append((REFUSED, None))
        else:
            fields = {name: _number(value) for name, value in zip(COLUMNS, values, strict=True)}
            if isinstance(found.get("user"), decimal.Decimal) and found["user"].copy_abs() >= EXACT[64]:
                fields["user"] = None
            rows.append((_event(fields, log), line))
    return rows if not rows or set(COLUMNS) <= stands else None


def _number(value: Any) -> Any:
    """The shortest text of a number."""
    if isinstance(value, int | decimal.Decimal) and not isinstance(value, bool):
        text = format(value, "f") if isinstance(value, decimal.Decimal) else str(value)
        return text.rstrip("0").rstrip(".") if "." in text else text
    return value


def _parquet(log: Malformed) -> list[tuple[Any, Any]] | None:
    table = pq.read_table(io.BytesIO(log.content))
    columns = {}
    for name in table.column_names:
        kind = table.schema.field(name).type
        if pa.types.is_decimal256(kind):
            return None
        if name not in COLUMNS:
            columns[name] = [str(value) for value in table[name].to_pylist()]
            continue
        if pa.types.is_nested(kind) or pa.types.is_boolean(kind) or pa.types.is_duration(kind):
            return None
        if name == "time" and (pa.types.is_date(kind) or pa.types.is_time(kind)):
            return None
        columns[name] = _instants(table[name], kind) if pa.types.is_timestamp(kind) else _texts(table[name], kind, name)
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return [(_event(row, log), tuple(map(str, row.values()))) for row in rows]


def _instants(column: Any, kind: Any) -> list[Any]:
    unit = {"s": 1_000_000, "ms": 1000, "us": 1, "ns": 0.001}[kind.unit]
    epoch = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    counts = column.cast(pa.int64()).to_pylist()
    times = [count if count is None else epoch + dt.timedelta(microseconds=count * unit) for count in counts]
    return [time if time is None else time.astimezone(ZoneInfo(ZONE)).replace(tzinfo=None) if kind.tz
            else time.replace(tzinfo=None) for time in times]


def _texts(column: Any, kind: Any, name: str) -> list[Any]:
    values = column.to_pylist()
    if pa.types.is_floating(kind):
        if name == "user":
            values = [None if value is not None and abs(value) >= EXACT[kind.bit_width] else value for value in values]
        exact = (None if value is None or value != value else decimal.Decimal(repr(value)) for value in values)
        return [_number(value) for value in exact]
    if not (pa.types.is_binary(kind) or pa.types.is_fixed_size_binary(kind)):
        return [_number(value) if value is None or isinstance(value, int | decimal.Decimal) else str(value)
                for value in values]
    values = [value.bytes if isinstance(value, uuid.UUID) else value for value in values]
    sizes = {len(value) for value in values if value is not None}
    try:
        return [value if value is None else value.decode() for value in values]
    except UnicodeDecodeError:
        if sizes == {16}:
            return [value if value is None else str(uuid.UUID(bytes=value)) for value in values]
        if len(sizes) == 1 and name == "user":
            return [value if value is None else value.hex() for value in values]
        return [value if value is None else "\x00" for value in values]  # no text is refused, as a control character is


def _event(fields: dict[str, Any], log: Malformed) -> Any:
    user, time, place, behavior = (fields[name] for name in COLUMNS)
    time = _time(time, log)
    if _missing(user) or _missing(behavior) or time is REFUSED:
        return REFUSED
    place = "unknown" if _missing(place) else re.sub(f"[{WHITE}]+", " ", place)  # white space is mended in places
    if _wrong(place) or _wrong(behavior):
        return REFUSED
    user = re.sub(r"^(-?[0-9]+)\.0$", r"\1", written := user.strip(WHITE))
    if re.fullmatch(r"-?[0-9](\.[0-9]+)?[eE]\+[0-9]+", user) or (user != written and abs(int(user)) >= EXACT[64]):
        return REFUSED
    if re.fullmatch("-".join(f"[0-9a-f]{{{width}}}" for width in (8, 4, 4, 4, 12)), user.casefold(), re.ASCII):
        user = user.lower()
    return EITHER if time is EITHER else (user, time, _clean(place), _clean(behavior))


def _missing(value: Any) -> bool:
    return value is None or value.strip(WHITE) in MISSING


def _clean(text: str) -> str:
    return unicodedata.normalize("NFC", re.sub(f"[{WHITE}]+", " ", text).strip(WHITE)).casefold()


def _wrong(text: str) -> bool:
    text = text.strip(WHITE)
    return (len(text) > 100 or any(unicodedata.category(letter) in ("Cc", "Zl", "Zp") for letter in text)
            or bool(re.search(r"(?i)<\|[^|]*\|>|</?s>", text)))


def _time(value: Any, log: Malformed) -> Any:
    if isinstance(value, dt.datetime):
        return value if 1990 <= value.year <= 2100 else REFUSED
    if _missing(value):
        return REFUSED
    text = value.strip(WHITE)
    unit = {"unix": 1, "unix_ms": 1000}.get(log.changes.get("source__time_format", ""))
    try:
        if unit:
            if not re.fullmatch(r"-?\d{1,15}", text, re.ASCII):
                return EITHER
            time = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(milliseconds=int(text) * 1000 // unit)
            time = time.astimezone(ZoneInfo(ZONE)).replace(tzinfo=None)
        else:
            time = _iso(text, "source__time_zone" in log.changes)
    except (ValueError, OverflowError):
        return REFUSED
    return time if isinstance(time, str) or 1990 <= time.year <= 2100 else REFUSED


def _iso(text: str, zone: bool) -> Any:
    found = re.fullmatch(ISO.pattern, text, re.ASCII)
    if found is None:
        return EITHER if re.search(r"\d", text) else REFUSED
    day, clock, offset = found.groups()
    time = dt.datetime.fromisoformat(f"{day} {clock}")
    if offset is None:
        return time
    if not zone:
        return REFUSED
    if offset != "Z" and int(offset[1:3]) > 13:
        return EITHER
    aware = dt.datetime.fromisoformat(f"{day} {clock}{offset}")
    return aware.astimezone(ZoneInfo(ZONE)).replace(tzinfo=None)
