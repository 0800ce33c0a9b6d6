"""Any table with a column each for time, behaviour, and (optionally) user and place: CSV and its kin, JSON, Parquet.

What a file is shows in its first bytes. Text may be gzip-compressed. Separators, lines before the table, tables without
a header, events within JSON documents, and whose the rows are where no column says it: `source`'s keys in params.yaml.
"""

import functools
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from stages.common.errors import UserError
from stages.events import delimited, json_documents, json_lines, parquet, person, reading, times
from stages.events.columns import chosen, event_columns, is_value, need, one_each
from stages.events.reading import Piece
from stages.events.settings import Source


def read(path: Path, source: Source) -> Iterator[Piece]:
    """Rows of a file.

    Raises:
        UserError: a column is missing or mapped twice, a time zone is missing, or the file cannot be read.
    """
    columns = chosen(source)
    written, whose = times.Written.of(source), person.of_file(path, source)
    start = reading.start(path, json_documents.LOOKED_AT)
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n")
    several = columns["behavior"].endswith(".*")
    if start.startswith(b"PAR1") and reading.is_gzip(path):
        raise UserError(f"{path}: Parquet within gzip; unpack it with `gunzip` (Parquet is compressed already)")
    if start.startswith(b"PAR1"):
        pieces = parquet.read(path, columns, source)
    elif text.startswith(b"{") and not (source.events or several or json_documents.is_document(text)):
        pieces = json_lines.read(path, columns, source)
    elif text.startswith((b"{", b"[")) and source.header:  # a line of a table may begin so, but no header
        pieces = json_documents.read(path, columns, source)
    else:
        pieces = _delimited(path, columns, source)
    for piece in pieces:
        if source.split:
            piece = piece.then(functools.partial(_split, mark=source.split))
        yield piece.then(functools.partial(_rows, written=written, whose=whose))


def _delimited(path: Path, columns: dict[str, str], source: Source) -> Iterator[Piece]:
    line, separator, names = delimited.header(path, list(columns.values()), source.separator, source.skip)
    if source.header:
        _check_header(path, line, names, columns)
        hint = ""
    else:
        line = source.skip
        names = [f"{number}" for number in range(1, len(names) + 1)]
        hint = f"source.header is false, so source.columns must hold numbers from 1 to {len(names)}"
    need(path, columns, names, hint)
    unique = [f"{number}" for number in range(len(names))]
    ours = {name: unique[names.index(theirs)] for name, theirs in columns.items()}
    event = event_columns(path, source, names)
    if event is not None:  # user and time are compared as what they mean, not as they are written
        event = [unique[names.index(name)] for name in event if name not in (columns.get("user"), columns["time"])]

    def named(frame: pl.DataFrame) -> pl.DataFrame:
        return frame.select(
            "line", "fingerprint", "problem", *(pl.col(theirs).alias(name) for name, theirs in ours.items()),
        )

    for piece in delimited.records(path, unique, separator, event=event, quotes=True, header=line):
        yield piece.then(named)


def _check_header(path: Path, line: int, names: list[str], columns: dict[str, str]) -> None:
    values = [name for name in names if is_value(name)]
    if is_value(columns["time"]) or (values and not set(columns.values()) <= set(names)):
        raise UserError(f"{path}: line {line} is no header but a row, it seems: {len(values)} of its {len(names)} "
                        "fields are numbers, times or JSON. Set source.header to false and source.columns to the "
                        "columns' numbers from 1, or put a line with the names of the columns above it")


def _split(frame: pl.DataFrame, mark: str) -> pl.DataFrame:
    """A row for each behaviour of a field; a field of none stays a row. All of a row are told apart by their places."""
    parts = pl.col("behavior").str.split(mark).list.eval(
        pl.element().filter(pl.element().str.strip_chars() != ""))
    return one_each(frame.with_columns(pl.when(parts.list.len() > 0).then(parts).alias("behavior")))


def _rows(frame: pl.DataFrame, written: times.Written, whose: str | None) -> pl.DataFrame:
    time = times.read(frame, written)
    problem = time["problem"]
    if frame["problem"].null_count() < frame.height:
        problem = frame.select(pl.coalesce("problem", problem)).to_series()
    place = pl.col("place") if "place" in frame.columns else pl.lit(None, pl.String)
    user = pl.col("user") if whose is None else pl.lit(whose)
    fields = [pl.col(name) for name in ("time", "clock", "offset") if name in frame.columns]
    if isinstance(kind := frame["time"].dtype, pl.Datetime):  # Polars panics over the text of some zones
        fields[0] = pl.col("time").cast(pl.Int64).cast(pl.Datetime(kind.time_unit))
    return frame.with_columns(
        *time.drop("problem"), problem.alias("problem"), pl.struct(fields).alias("written"),
        user.cast(pl.String).alias("user"), pl.col("behavior").cast(pl.String), place.cast(pl.String).alias("place"),
    )
