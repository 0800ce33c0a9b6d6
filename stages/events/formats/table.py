"""Any table with a column each for user, time, behaviour and (optionally) place: CSV and its kin, JSON Lines, Parquet.

What a file is shows in its first bytes. Text may be gzip-compressed; separators are comma, tab, semicolon or bar.
"""

import functools
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from stages.common.errors import UserError
from stages.events import delimited, json_lines, parquet, reading, times
from stages.events.columns import chosen, event_columns, is_value, need
from stages.events.reading import Piece
from stages.events.settings import Source


def read(path: Path, source: Source) -> Iterator[Piece]:
    """Rows of a file.

    Raises:
        UserError: a column is missing or mapped twice, a time zone is missing, or the file cannot be read.
    """
    columns = chosen(source)
    written = times.Written.of(source)
    start = reading.start(path)
    if start.startswith(b"PAR1") and reading.is_gzip(path):
        raise UserError(f"{path}: Parquet within gzip; unpack it with `gunzip` (Parquet is compressed already)")
    if start.startswith(b"PAR1"):
        pieces = parquet.read(path, columns, source)
    elif start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
        pieces = json_lines.read(path, columns, source)
    elif start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
        raise UserError(f"{path}: a JSON array; one object a line is needed (JSON Lines), for example `jq -c '.[]'`")
    else:
        pieces = _delimited(path, columns, source)
    for piece in pieces:
        yield piece.then(functools.partial(_rows, written=written))


def _delimited(path: Path, columns: dict[str, str], source: Source) -> Iterator[Piece]:
    line, separator, names = delimited.header(path, list(columns.values()))
    values = [name for name in names if is_value(name)]
    if is_value(columns["time"]) or (values and not set(columns.values()) <= set(names)):
        raise UserError(f"{path}: line {line} is no header but a row, it seems: {len(values)} of its {len(names)} "
                        "fields are numbers, times or JSON. Put a line with the names of the columns above it, and set "
                        "source.columns to those names")
    need(path, columns, names)
    unique = [f"{number}" for number in range(len(names))]
    ours = {name: unique[names.index(theirs)] for name, theirs in columns.items()}
    event = event_columns(path, source, names)
    if event is not None:  # user and time are compared as what they mean, not as they are written
        event = [unique[names.index(name)] for name in event if name not in (columns["user"], columns["time"])]

    def named(frame: pl.DataFrame) -> pl.DataFrame:
        return frame.select(
            "line", "fingerprint", "problem", *(pl.col(theirs).alias(name) for name, theirs in ours.items()),
        )

    for piece in delimited.records(path, unique, separator, event=event, quotes=True, header=line):
        yield piece.then(named)


def _rows(frame: pl.DataFrame, written: times.Written) -> pl.DataFrame:
    time = times.read(frame, written)
    problem = time["problem"]
    if frame["problem"].null_count() < frame.height:
        problem = frame.select(pl.coalesce("problem", problem)).to_series()
    place = pl.col("place") if "place" in frame.columns else pl.lit(None, pl.String)
    fields = [pl.col(name) for name in ("time", "clock", "offset") if name in frame.columns]
    if isinstance(kind := frame["time"].dtype, pl.Datetime):  # Polars panics over the text of some zones
        fields[0] = pl.col("time").cast(pl.Int64).cast(pl.Datetime(kind.time_unit))
    return frame.with_columns(
        *time.drop("problem"), problem.alias("problem"), pl.struct(fields).alias("written"),
        *(pl.col(name).cast(pl.String) for name in ("user", "behavior")), place.cast(pl.String).alias("place"),
    )
