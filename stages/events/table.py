"""Any table with a column each for user, time, behaviour and (optionally) place: CSV and its kin, JSON Lines, Parquet.

What a file is shows in its first bytes. Text may be gzip-compressed; separators are comma, tab, semicolon or bar.
"""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from stages.common.errors import UserError
from stages.common.params import Source
from stages.events import delimited, reading, times
from stages.events.rules import Rule

_ROWS_OF_PARQUET = 1_000_000  # read at once


def read(path: Path, source: Source) -> Iterator[pl.DataFrame]:
    """Rows of a file.

    Raises:
        UserError: a column is missing or mapped twice, a time zone is missing, or the file cannot be read.
    """
    columns = _columns(source)
    times.check(source.time_format, source.time_zone)
    start = _start(path)
    if start.startswith(b"PAR1"):
        frames = _parquet(path, columns)
    elif start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
        frames = _json_lines(path, columns)
    elif start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
        raise UserError(f"{path}: a JSON array; one object a line is needed (JSON Lines), for example `jq -c '.[]'`")
    else:
        frames = _delimited(path, columns)
    for frame in frames:
        yield _rows(frame, columns, source)


def _columns(source: Source) -> dict[str, str]:
    """Column of the log for each of ours, `place` only where the log knows places."""
    columns = {ours: theirs for ours, theirs in source.columns.model_dump().items() if theirs}
    for ours in ("user", "time", "behavior"):
        if ours not in columns:
            raise UserError(f"source.columns.{ours}: empty; name the log's column")
    if len(set(columns.values())) < len(columns):
        raise UserError(f"source.columns: {', '.join(columns.values())}: each must be another column")
    return columns


def _start(path: Path) -> bytes:
    """The first bytes, unpacked; empty where that fails, which the reading proper reports."""
    try:
        with gzip.open(path) if reading.is_gzip(path) else open(path, "rb") as file:
            start = file.read(4096)
    except (gzip.BadGzipFile, EOFError):
        return b""
    if start.startswith(b"PAR1") and reading.is_gzip(path):
        raise UserError(f"{path}: Parquet within gzip; unpack it with `gunzip` (Parquet is compressed already)")
    return start


def _need(path: Path, columns: dict[str, str], found: list[str]) -> None:
    for ours, theirs in columns.items():
        if theirs not in found:
            some = ", ".join(found[:30]) + (" …" if len(found) > 30 else "")
            extra = ", or to '' if the log knows no places" if ours == "place" else ""
            raise UserError(
                f"{path}: no column {theirs!r}, which source.columns.{ours} names; the file has: {some}. Set "
                f"source.columns.{ours} in params.yaml to one of them{extra}"
            )
        if found.count(theirs) > 1:
            raise UserError(f"{path}: column {theirs!r} (source.columns.{ours}) stands {found.count(theirs)} times in "
                            "the header; rename one")


def _delimited(path: Path, columns: dict[str, str]) -> Iterator[pl.DataFrame]:
    separator, names = delimited.header(path, list(columns.values()))
    _need(path, columns, names)
    unique = [f"{number}" for number in range(len(names))]
    ours = {name: unique[names.index(theirs)] for name, theirs in columns.items()}
    for frame in delimited.records(path, unique, separator, quotes=True, header=True):
        others = [name for name in unique if name != ours["user"]]
        yield frame.select(
            "line", "fingerprint", "problem", *(pl.col(theirs).alias(name) for name, theirs in ours.items()),
            text=pl.concat_str(others, separator=" | ", ignore_nulls=True),
        )


def _json_lines(path: Path, columns: dict[str, str]) -> Iterator[pl.DataFrame]:
    for number, block in enumerate(reading.lines(path)):
        text = pl.col("text")
        block = block.with_columns(object=_is_object(text))
        if not block["object"].all():
            # Python writes NaN where JSON has null
            mended = text.str.replace_all(r":\s*(?:NaN|-?Infinity)\b", ": null")
            block = block.with_columns(text=pl.when("object").then(text).otherwise(mended))
            block = block.with_columns(object=_is_object(text))
        frame = block.select(
            "line", fingerprint=text.hash(), problem=pl.when(~pl.col("object")).then(pl.lit(Rule.JSON.value)),
            **{ours: text.str.json_path_match(f"$[{json.dumps(theirs)}]") for ours, theirs in columns.items()},
        )
        if number == 0:
            absent = [theirs for ours, theirs in columns.items() if frame[ours].null_count() == frame.height]
            _need_keys(path, block.filter("object")["text"], columns, absent)
        shown = [name for name in columns if name != "user"]
        yield frame.with_columns(text=pl.concat_str(shown, separator=" | ", ignore_nulls=True))


def _is_object(text: pl.Expr) -> pl.Expr:
    return text.str.json_path_match("$").str.starts_with("{").fill_null(False)


def _need_keys(path: Path, objects: pl.Series, columns: dict[str, str], absent: list[str]) -> None:
    """Refuse a file in whose first block a column never stands, not even as null."""
    if not absent or objects.is_empty():
        return
    keys = list(json.loads(objects[0]))
    never = [name for name in absent if not objects.str.contains(json.dumps(name), literal=True).any()]
    _need(path, columns, keys + [name for name in columns.values() if name not in keys and name not in never])


def _parquet(path: Path, columns: dict[str, str]) -> Iterator[pl.DataFrame]:
    try:
        scan = pl.scan_parquet(path, glob=False)
        schema = scan.collect_schema()
        _need(path, columns, schema.names())
        if schema[columns["time"]] == pl.Date:
            raise UserError(f"{path}: column {columns['time']!r} (source.columns.time) holds dates without a time of "
                            "day; name a column of datetimes")
        flat = [name for name, kind in schema.items() if not kind.is_nested()]
        offset = 0
        while (frame := scan.slice(offset, _ROWS_OF_PARQUET).select(flat).collect()).height:
            yield frame.select(
                pl.int_range(offset + 1, offset + frame.height + 1, dtype=pl.Int64).alias("line"),
                frame.hash_rows().alias("fingerprint"), pl.lit(None, pl.String).alias("problem"),
                *(pl.col(theirs).alias(ours) for ours, theirs in columns.items()),
                pl.concat_str([pl.col(theirs).cast(pl.String) for ours, theirs in columns.items() if ours != "user"],
                              separator=" | ", ignore_nulls=True).alias("text"),
            )
            offset += frame.height
    except (pl.exceptions.PolarsError, OSError) as error:
        raise UserError(f"{path}: not a readable Parquet file ({error}); export or copy it again") from None


def _rows(frame: pl.DataFrame, columns: dict[str, str], source: Source) -> pl.DataFrame:
    time = times.local_times(frame["time"], source.time_format, source.time_zone)
    place = pl.col("place") if "place" in columns else pl.lit(None, pl.String)
    return frame.with_columns(
        time["time"], pl.coalesce("problem", time["problem"]).alias("problem"),
        *(pl.col(name).cast(pl.String) for name in ("user", "behavior")), place.cast(pl.String).alias("place"),
    )
