"""Rows of a Parquet file. A column's type is found out once for the file, and what is no text or time is named.

A number becomes the shortest text of it, so that 101.0 of a column with gaps is the 101 of another file; a float that
may have been several users' numbers refuses its row. Bytes are text in UTF-8; columns of 16 bytes that are none are
UUIDs, ids of another fixed width their hexadecimal digits. `data.app` names the field `app` of the struct `data`,
unless a column is called so, and `apps.*` the elements of lists.
"""

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl

from stages.common.errors import UserError
from stages.events import people, reading
from stages.events.columns import event_columns, need, one_each, within
from stages.events.rules import Rule
from stages.events.settings import Source

# Polars ends in a panic over zones that are offsets, as pyarrow writes them ("+05:30"), unless this stands
os.environ.setdefault("POLARS_IGNORE_TIMEZONE_PARSE_ERROR", "1")

_ROWS = 1_000_000  # read at once
_INTEGERS = 1e38  # below this a whole number fits into 128 bits
_UUID = r"^(.{8})(.{4})(.{4})(.{4})(.{12})$"
_NO_TEXT = (pl.Boolean, pl.Duration, pl.Object)
_DATES = (pl.Date, pl.Datetime, pl.Time)  # whose columns are times already


def read(path: Path, columns: dict[str, str], source: Source) -> Iterator[reading.Piece]:
    """Pieces that make frames with `line`, `fingerprint`, `problem` and the columns of `columns`.

    All are text but dates and times, and numbers in the column of times.

    Raises:
        UserError: the file is damaged, or a column is absent or of a type that nothing can be read from.
    """
    with readable(path):
        scan = pl.scan_parquet(path, glob=False)
        schema = scan.collect_schema()
        several = columns["behavior"].endswith(".*") and columns["behavior"] not in schema
        plain = columns | {"behavior": columns["behavior"].removesuffix(".*")} if several else columns
        kinds = _kinds(path, dict(schema), columns, source)
        event = _compared(path, dict(schema), columns, source)
        bytes_are = {name: _what_bytes_are(scan, theirs, name) for name, theirs in columns.items()
                     if kinds[name] == pl.Binary and not theirs.endswith(".*")}
        size, rows, first = path.stat().st_size, scan.select(pl.len()).collect().item(), 1
        for frame in scan.collect_batches(chunk_size=_ROWS, maintain_order=True):
            prints = frame.hash_rows() if event is None else reading.fingerprints(frame.with_columns(**event), [*event])
            wanted = frame.select(_field(theirs, frame.schema).alias(ours) for ours, theirs in plain.items())
            numbered = wanted.with_columns(pl.int_range(first, first + frame.height, dtype=pl.Int64).alias("line"),
                                           prints.alias("fingerprint"))
            if several:
                numbered = one_each(numbered)
            end = size * (first - 1 + frame.height) // rows
            yield reading.Piece(functools.partial(_rows, numbered, kinds, bytes_are), end)
            first += frame.height


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """What Polars says of a damaged file becomes a user's error.

    Raises:
        UserError: the file is damaged.
    """
    try:
        yield
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        why = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{path}: not a readable Parquet file ({why}); export or copy it again") from None


def _kinds(path: Path, schema: dict[str, Any], columns: dict[str, str], source: Source) -> dict[str, Any]:
    """The type of each of our columns."""
    found = [name for column, kind in schema.items() for name in _names(column, kind)]
    need(path, columns, [*found, *(name for name in columns.values() if _kind(name, schema) and name not in found)])
    kinds = {ours: _kind(theirs, schema) for ours, theirs in columns.items()}
    for ours, kind in kinds.items():
        key = f"{path}: column {columns[ours]!r} (source.columns.{ours}) holds"
        if isinstance(kind, pl.Struct):
            fields = ", ".join(_names(columns[ours], kind))
            raise UserError(f"{key} structs: it is nested; name a field of it: {fields}")
        if kind.is_nested():
            more = f"set source.columns.behavior to {columns[ours]}.*, an event an element, or " * (ours == "behavior")
            raise UserError(f"{key} {kind}: it is nested, with more than one value a row; {more}write a row for each, "
                            "or name another column, or a field of a struct as in data.app")
        if kind in _NO_TEXT:
            raise UserError(f"{key} {kind}: no text, number or time; name another column, or convert it")
        if ours == "time" and kind == pl.Date and not (source.columns.clock or source.dates == "midnight"):
            raise UserError(f"{key} dates without a time of day; name a column of datetimes, or that of the time of "
                            "day in source.columns.clock, or set source.dates to midnight")
        if ours == "time" and kind == pl.Time:
            raise UserError(f"{key} times of day without a day; name a column of datetimes")
    return kinds


def _names(column: str, kind: Any) -> list[str]:
    """What may be named of a column: `data.app` for what is within a struct."""
    if not isinstance(kind, pl.Struct) or not kind.fields:
        return [column]
    return [name for field in kind.fields for name in _names(f"{column}.{field.name}", field.dtype)]


def _kind(name: str, schema: dict[str, Any]) -> Any:
    """The type of a column, or of a field within one; None where there is none."""
    if name in schema:
        return schema[name]
    first, *others = name.split(".")
    kind = schema.get(first)
    for other in others:
        fields = {field.name: field.dtype for field in kind.fields} if isinstance(kind, pl.Struct) else {}
        kind = kind.inner if other == "*" and isinstance(kind, pl.List) else fields.get(other)
    return kind


def _field(name: str, schema: Any) -> pl.Expr:
    return pl.col(name) if name in schema else within(name)


def _compared(
    path: Path, schema: dict[str, Any], columns: dict[str, str], source: Source
) -> dict[str, pl.Expr] | None:
    """What makes an event, by number; None for all columns. User and time are compared as what they mean."""
    found = [*schema, *(name for column, kind in schema.items() for name in _names(column, kind) if name != column)]
    names = event_columns(path, source, found)
    if names is None:
        return None
    others = [name for name in names if name not in (columns.get("user"), columns["time"])]
    kinds = [_kind(name, schema) for name in others]
    return {f"event {i}": _text(_field(name, schema), kind) if not (kind.is_nested() or kind in (pl.Binary, *_NO_TEXT))
            else _field(name, schema) for i, (name, kind) in enumerate(zip(others, kinds, strict=True))}


def _rows(frame: pl.DataFrame, kinds: dict[str, Any], bytes_are: dict[str, str]) -> pl.DataFrame:
    fields, problem = {}, pl.repeat(None, frame.height, dtype=pl.String, eager=True)
    for name, kind in kinds.items():
        if kind == pl.Binary:
            fields[name] = _decoded(frame[name], bytes_are.get(name, "text"))
            wrong = fields[name].is_null() & frame[name].is_not_null()
            problem = pl.select(pl.when(wrong).then(pl.lit(Rule.TEXT.value)).otherwise(problem)).to_series()
        elif name != "time" and isinstance(kind, pl.Datetime) and kind.time_zone is not None:
            fields[name] = _known_zone(frame[name])
        elif name == "time" or kind in _DATES:
            fields[name] = frame[name]
        else:
            fields[name] = frame.select(_text(pl.col(name), kind)).to_series()
        if name == "user" and kind.is_float():
            rounded = (frame[name].abs() >= _exact(kind)) & frame[name].is_not_nan()
            problem = pl.select(pl.when(rounded).then(pl.lit(Rule.ROUNDED.value)).otherwise(problem)).to_series()
    return pl.DataFrame({"line": frame["line"], "fingerprint": frame["fingerprint"], "problem": problem, **fields})


def _text(value: pl.Expr, kind: Any) -> pl.Expr:
    """A plain value as text."""
    if kind.is_float():
        whole = value.is_finite() & (value == value.round()) & (value.abs() < _INTEGERS)
        return (pl.when(whole).then(pl.when(whole).then(value).cast(pl.Int128).cast(pl.String))
                .when(value.is_not_nan()).then(value.cast(pl.String)))
    if kind.is_decimal():
        return value.cast(pl.String).str.replace(r"(\.\d*?)0+$", "$1").str.strip_suffix(".")
    return value.cast(pl.String)


def _exact(kind: Any) -> int:
    """The whole numbers that a type of floats tells apart are below this."""
    return people.EXACT_32 if kind == pl.Float32 else people.EXACT if kind == pl.Float64 else people.EXACT_16


def _known_zone(time: pl.Series) -> pl.Series:
    """Times of a zone that is an offset, or that nobody knows, in UTC: the file counts from there."""
    try:
        time.head(1).dt.replace_time_zone(None)
    except pl.exceptions.PolarsError:
        return time.cast(pl.Datetime(time.dtype.time_unit, "UTC"))
    return time


def _what_bytes_are(scan: pl.LazyFrame, column: str, name: str) -> str:
    """What a column of bytes holds: `text`, or, by their widths, `uuid` or `hex`, which only ids are."""
    value = _field(column, scan.collect_schema())
    sizes = scan.select(least=value.bin.size().min(), most=value.bin.size().max()).collect()
    least, most = sizes.row(0)
    if least != most or (most != 16 and name != "user"):
        return "text"
    some = scan.select(value.alias("value")).filter(pl.col("value").is_not_null()).head(1000).collect().to_series()
    texts = sum(text is not None and text.isprintable() for text in map(utf8, some))
    if texts * 2 >= len(some):
        return "text"
    return "uuid" if most == 16 else "hex"


def _decoded(values: pl.Series, what: str) -> pl.Series:
    """The text of bytes; null where they are none."""
    if what != "text":
        digits = values.bin.encode("hex")
        return digits.str.replace(_UUID, "$1-$2-$3-$4-$5") if what == "uuid" else digits
    try:
        return values.cast(pl.String)
    except pl.exceptions.PolarsError:
        distinct = values.unique()
        texts = pl.Series([None if value is None else utf8(value) for value in distinct], dtype=pl.String)
        return values.replace_strict(distinct, texts, return_dtype=pl.String)


def utf8(value: bytes) -> str | None:
    """The text of bytes; None where they are none."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None
