"""Any table with a column each for user, time, behaviour and (optionally) place: CSV and its kin, JSON Lines, Parquet.

What a file is shows in its first bytes. Text may be gzip-compressed; separators are comma, tab, semicolon or bar.
"""

import functools
import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from stages.common.errors import UserError
from stages.events import delimited, reading, times
from stages.events.reading import Piece
from stages.events.rules import Rule
from stages.events.settings import Source

_ROWS_OF_PARQUET = 1_000_000  # read at once


def read(path: Path, source: Source) -> Iterator[Piece]:
    """Rows of a file.

    Raises:
        UserError: a column is missing or mapped twice, a time zone is missing, or the file cannot be read.
    """
    columns = _columns(source)
    times.check(source.time_format, source.time_zone)
    start = _start(path)
    if start.startswith(b"PAR1"):
        pieces = _parquet(path, columns)
    elif start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
        pieces = _json_lines(path, columns)
    elif start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
        raise UserError(f"{path}: a JSON array; one object a line is needed (JSON Lines), for example `jq -c '.[]'`")
    else:
        pieces = _delimited(path, columns)
    for piece in pieces:
        yield piece.then(functools.partial(_rows, columns=columns, source=source))


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


def _delimited(path: Path, columns: dict[str, str]) -> Iterator[Piece]:
    separator, names = delimited.header(path, list(columns.values()))
    _need(path, columns, names)
    unique = [f"{number}" for number in range(len(names))]
    ours = {name: unique[names.index(theirs)] for name, theirs in columns.items()}

    def named(frame: pl.DataFrame) -> pl.DataFrame:
        return frame.select(
            "line", "fingerprint", "problem", *(pl.col(theirs).alias(name) for name, theirs in ours.items()),
            written=pl.struct(ours["time"]),
        )

    for piece in delimited.records(path, unique, separator, quotes=True, header=True):
        yield piece.then(named)


def _json_lines(path: Path, columns: dict[str, str]) -> Iterator[Piece]:
    for number, block in enumerate(reading.blocks(path)):
        yield Piece(functools.partial(_objects, path, block, columns, number == 0), block.end)


def _objects(path: Path, block: reading.Block, columns: dict[str, str], is_first: bool) -> pl.DataFrame:
    text = pl.col("text")
    rows = reading.block_lines(path, block).with_columns(object=_is_object(text))
    if not rows["object"].all():
        # Python writes NaN where JSON has null
        mended = text.str.replace_all(r":\s*(?:NaN|-?Infinity)\b", ": null")
        rows = rows.with_columns(text=pl.when("object").then(text).otherwise(mended))
        rows = rows.with_columns(object=_is_object(text))
    frame = rows.select(
        "line", fingerprint=text.hash(), problem=pl.when(~pl.col("object")).then(pl.lit(Rule.JSON.value)),
        **{ours: text.str.json_path_match(f"$[{json.dumps(theirs)}]") for ours, theirs in columns.items()},
    )
    if is_first:
        absent = [theirs for ours, theirs in columns.items() if frame[ours].null_count() == frame.height]
        _need_keys(path, rows.filter("object")["text"], columns, absent)
    return frame.with_columns(written=pl.struct("time"))


def _is_object(text: pl.Expr) -> pl.Expr:
    return text.str.json_path_match("$").str.starts_with("{").fill_null(False)


def _need_keys(path: Path, objects: pl.Series, columns: dict[str, str], absent: list[str]) -> None:
    """Refuse a file in whose first block a column never stands, not even as null."""
    if not absent or objects.is_empty():
        return
    keys = list(json.loads(objects[0]))
    never = [name for name in absent if not objects.str.contains(json.dumps(name), literal=True).any()]
    _need(path, columns, keys + [name for name in columns.values() if name not in keys and name not in never])


def _parquet(path: Path, columns: dict[str, str]) -> Iterator[Piece]:
    try:
        scan = pl.scan_parquet(path, glob=False)
        schema = scan.collect_schema()
        _need(path, columns, schema.names())
        if schema[columns["time"]] == pl.Date:
            raise UserError(f"{path}: column {columns['time']!r} (source.columns.time) holds dates without a time of "
                            "day; name a column of datetimes")
        flat = [name for name, kind in schema.items() if not kind.is_nested()]
        size, rows, first = path.stat().st_size, scan.select(pl.len()).collect().item(), 1
        for frame in scan.select(flat).collect_batches(chunk_size=_ROWS_OF_PARQUET, maintain_order=True):
            read = frame.select(
                pl.int_range(first, first + frame.height, dtype=pl.Int64).alias("line"),
                frame.hash_rows().alias("fingerprint"), pl.lit(None, pl.String).alias("problem"),
                *(pl.col(theirs).alias(ours) for ours, theirs in columns.items()),
                pl.struct(columns["time"]).alias("written"),
            )
            yield Piece(functools.partial(pl.DataFrame.clone, read), size * (first - 1 + frame.height) // rows)
            first += frame.height
    except (pl.exceptions.PolarsError, OSError) as error:
        raise UserError(f"{path}: not a readable Parquet file ({error}); export or copy it again") from None


def _rows(frame: pl.DataFrame, columns: dict[str, str], source: Source) -> pl.DataFrame:
    time = times.local_times(frame["time"], source.time_format, source.time_zone)
    problem = time["problem"]
    if frame["problem"].null_count() < frame.height:
        problem = frame.select(pl.coalesce("problem", problem)).to_series()
    place = pl.col("place") if "place" in columns else pl.lit(None, pl.String)
    return frame.with_columns(
        time["time"], problem.alias("problem"),
        *(pl.col(name).cast(pl.String) for name in ("user", "behavior")), place.cast(pl.String).alias("place"),
    )
