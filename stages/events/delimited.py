"""Lines become fields, separated by a character, with or without quotes. A record is a line."""

import csv
import re
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from stages.events import reading
from stages.events.rules import Rule

_SEPARATORS = ",\t;|"


def header(path: Path, wanted: list[str]) -> tuple[str, list[str]]:
    """Separator and column names of the file's first line: the usual separator that finds most of `wanted`."""
    for block in reading.lines(path):
        if block.height:
            break
    first = block["text"][0]
    options = [(separator, [name.strip() for name in next(csv.reader([first], delimiter=separator))])
               for separator in _SEPARATORS]
    return max(options, key=lambda option: (len(set(option[1]) & set(wanted)), len(option[1])))


def records(
    path: Path, names: list[str], separator: str | None, *, quotes: bool = False, header: bool = False,
    encodings: tuple[str, ...] = ("utf-8",),
) -> Iterator[pl.DataFrame]:
    """The file's records, as strings.

    Args:
        separator: a character, or None for any run of white space.
        quotes: whether a field may stand in double quotes, a quote within it doubled. A line break within quotes is
            not understood: the lines of such a record get a problem each.
        header: whether the first line is no record.

    Returns:
        Frames with the columns `names`, and `line`, `fingerprint` (a hash of the whole line), `problem` (null, or a
        Rule: then all fields are null).
    """
    for number, block in enumerate(reading.lines(path, encodings)):
        if header and number == 0:
            block = block.slice(1)
        fields, problem = _fields(block["text"], separator, quotes)
        wrong = (fields.list.len() != len(names)) & problem.is_null()
        problem = pl.select(pl.when(wrong).then(pl.lit(Rule.FIELDS.value)).otherwise(problem)).to_series()
        columns = {name: _unquote(fields.list.get(i, null_on_oob=True), quotes) for i, name in enumerate(names)}
        yield pl.DataFrame({
            "line": block["line"], "fingerprint": block["text"].hash(), "problem": problem,
        }).with_columns(
            pl.when(pl.col("problem").is_null()).then(column).alias(name) for name, column in columns.items()
        )


def _fields(text: pl.Series, separator: str | None, quotes: bool) -> tuple[pl.Series, pl.Series]:
    """Lists of fields, and the lines' problems."""
    sound = pl.repeat(None, len(text), dtype=pl.String, eager=True)
    if separator is None:
        return text.str.strip_chars().str.replace_all(r"\s+", " ").str.split(" "), sound
    if not quotes or not text.str.contains('"', literal=True).any():
        return text.str.split(separator), sound
    mark = re.escape(separator)
    # a separator before every field, then a field in quotes, or one that does not begin with a quote, or an empty one
    text = separator + text
    pieces = text.str.extract_all(rf'{mark}(?:[ ]*"(?:[^"]|"")*"[ ]*|[^{mark}"][^{mark}]*|)')
    broken = pieces.list.join("") != text
    problem = pl.select(pl.when(broken).then(pl.lit(Rule.QUOTES.value))).to_series()
    return pieces.list.eval(pl.element().str.strip_prefix(separator)), problem


def _unquote(field: pl.Series, quotes: bool) -> pl.Series:
    if not quotes:
        return field
    inner = field.str.strip_chars(" ")
    quoted = inner.str.starts_with('"') & inner.str.ends_with('"')
    bare = inner.str.strip_prefix('"').str.strip_suffix('"').str.replace_all('""', '"', literal=True)
    return pl.select(pl.when(quoted).then(bare).otherwise(field)).to_series()
