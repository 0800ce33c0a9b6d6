"""The columns of a log that params.yaml names: found among those of a file, or said to be missing."""

import re
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from stages.common.errors import UserError
from stages.events.settings import Source

_SHOWN = 30  # names in a message
_LONGEST = 60  # characters of each


def chosen(source: Source) -> dict[str, str]:
    """Column of the log for each of ours that `source.columns` names.

    Raises:
        UserError: user (unless `source.person` says whose the rows are), time or behaviour is not named, or a column is
            named twice.
    """
    columns = {ours: theirs for ours, theirs in source.columns.model_dump().items() if theirs}
    if source.person != "column":
        columns.pop("user", None)
    elif "user" not in columns:
        raise UserError("source.columns.user: empty; name the log's column, or set source.person to file, folder or "
                        "one")
    for ours in ("time", "behavior"):
        if ours not in columns:
            raise UserError(f"source.columns.{ours}: empty; name the log's column")
    if len(set(columns.values())) < len(columns):
        raise UserError(f"source.columns: {', '.join(columns.values())}: each must be another column")
    return columns


def need(path: Path, columns: dict[str, str], found: Sequence[str], hint: str = "") -> None:
    """Refuse a file without one of the columns that `source.columns` names.

    Args:
        columns: theirs by ours.
        found: the file's.
        hint: what the file may be instead.

    Raises:
        UserError: says which column is missing, or stands twice.
    """
    for ours, theirs in columns.items():
        if theirs not in found:
            extra = ", or to '' if the log knows no places" if ours == "place" else ""
            raise UserError(
                f"{path}: no column {theirs!r}, which source.columns.{ours} names; the file has: {shown(found)}. "
                f"{hint or f'Set source.columns.{ours} in params.yaml to one of them{extra}'}"
            )
        if found.count(theirs) > 1:
            raise UserError(f"{path}: column {theirs!r} (source.columns.{ours}) stands {found.count(theirs)} times in "
                            "the header; rename one")


def within(name: str) -> pl.Expr:
    """The field that a dotted name means: `data.app` is the field `app` of the struct `data`."""
    first, *others = name.split(".")
    expression = pl.col(first)
    for other in others:
        expression = expression.struct.field(other)
    return expression


def event_columns(path: Path, source: Source, found: Sequence[str]) -> list[str] | None:
    """The file's columns that make an event, by `source.event_columns`; None for all.

    Raises:
        UserError: one of them is missing, or stands twice.
    """
    for name in source.event_columns:
        if found.count(name) != 1:
            what = f"column {name!r} stands {found.count(name)} times" if name in found else f"no column {name!r}"
            raise UserError(f"{path}: {what}, which source.event_columns names; the file has: {shown(found)}. Name "
                            "some of them, or none ([]) where all make an event")
    return source.event_columns or None


def one_each(frame: pl.DataFrame) -> pl.DataFrame:
    """Rows whose column `behavior` is a list become a row an element; an empty list stays a row.

    The column `fingerprint` then tells the elements of a row apart, by their places.
    """
    place = pl.int_ranges(pl.col("behavior").list.len().fill_null(1).clip(1)).alias("_place")
    frame = frame.with_columns(place, pl.when(pl.col("behavior").list.len() > 0).then("behavior").otherwise(
        pl.lit(None, frame.schema["behavior"])).fill_null([None])).explode("behavior", "_place")
    return frame.with_columns(pl.when(pl.col("_place") == 0).then("fingerprint").otherwise(
        pl.struct("fingerprint", "_place").hash()).alias("fingerprint")).drop("_place")


def shown(names: Sequence[str]) -> str:
    """The names for a message: not all of very many, nor the whole of very long ones."""
    short = [name if len(name) <= _LONGEST else f"{name[:_LONGEST]}…" for name in names[:_SHOWN]]
    return ", ".join(short) + (" …" if len(names) > _SHOWN else "")


def is_value(name: str) -> bool:
    """Whether what should be a column's name is a number of some length, a date, a time, or a piece of JSON."""
    return '":' in name or bool(re.fullmatch(r"[-+]?\d{6,}(\.\d*)?|(?=.*\d.*\d.*\d)\d[\d\s./:+TZ-]{5,}", name.strip()))
