"""Rows of JSON Lines, an object a line: most are read many at a time, those that ask for care one by one.

A field becomes text: a number the shortest text of it (101.0 and 101 are one number), null and NaN nothing. An object,
a list, `true` and `false` are no text. An integer has all its digits; a float of 2^53 and more is no user's id.
`data.app` names the field `app` of the object `data`, unless a key is spelt so.
"""

import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from stages.events import json_values, reading
from stages.events.columns import event_columns, need, within
from stages.events.rules import Rule
from stages.events.settings import Source

_LOOKED_AT = 1000  # objects that may hold a column, at most
_LONE = r"\\u[dD][89a-fA-F]"  # half a character, where none of the pairs below is left
_PAIR = r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"


def read(path: Path, columns: dict[str, str], source: Source) -> Iterator[reading.Piece]:
    """Pieces that make frames with `line`, `fingerprint`, `problem` and the columns of `columns`, as text.

    Raises:
        UserError: in the first block a column stands in no object, not even as null; and as `reading.blocks`.
    """
    for number, block in enumerate(reading.blocks(path)):
        yield reading.Piece(functools.partial(_rows, path, block, columns, source, number == 0), block.end)


def _rows(path: Path, block: reading.Block, columns: dict[str, str], source: Source, is_first: bool) -> pl.DataFrame:
    lines = reading.block_lines(path, block)
    names = list(dict.fromkeys([*columns.values(), *source.event_columns]))
    fields = _parse(lines["text"], names, columns)
    if is_first:
        _need_keys(path, lines["text"], fields, columns, source)
    # user and time are compared as what they mean, not as they are written
    compared = [name for name in source.event_columns if name not in (columns.get("user"), columns["time"])]
    prints = reading.fingerprints(fields, compared) if source.event_columns else lines["text"].hash()
    return fields.select(
        lines["line"], prints.alias("fingerprint"), "problem",
        *(pl.col(theirs).alias(ours) for ours, theirs in columns.items()),
    )


def _parse(text: pl.Series, names: list[str], columns: dict[str, str]) -> pl.DataFrame:
    """The fields `names` of each line, as text, and its `problem`."""
    rows = pl.int_range(len(text), eager=True)
    try:
        easy, fields = rows, _many(text, names)
    except pl.exceptions.PolarsError:
        easy = text.str.json_path_match("$").str.starts_with("{").fill_null(False).arg_true()
        try:
            fields = _many(text.gather(easy), names)
        except pl.exceptions.PolarsError:
            easy, fields = rows.clear(), pl.DataFrame(schema=dict.fromkeys(names, pl.String))
    fields = fields.with_columns(easy.cast(pl.Int64).alias("_row"), pl.lit(None, pl.String).alias("problem"))
    fields = fields.filter(~_asks_for_care(fields, text.gather(easy), names, columns.get("user")))
    if fields.height < len(text):
        careful = rows.filter(~rows.is_in(fields["_row"].implode()))
        exact = [_exactly(line, names, columns) for line in text.gather(careful)]
        one_by_one = pl.DataFrame(exact, {**dict.fromkeys(names, pl.String), "problem": pl.String}, orient="row")
        fields = pl.concat([fields, one_by_one.with_columns(careful.cast(pl.Int64).alias("_row"))],
                           how="diagonal").sort("_row")
    return fields.drop("_row")


def _many(text: pl.Series, names: list[str]) -> pl.DataFrame:
    """The fields `names` of lines that all are objects.

    Raises:
        PolarsError: a line is none, or a field's type is another than its neighbours'.
    """
    schema: dict[str, Any] = {}
    for name in names:
        schema.setdefault(name, pl.String)
        *parents, last = name.split(".")
        if parents:
            kind = pl.Struct({last: pl.String})
            for parent in reversed(parents[1:]):
                kind = pl.Struct({parent: kind})
            schema[parents[0]] = _merged(schema.get(parents[0]), kind)
    frame = pl.read_ndjson("\n".join(text).encode(), schema=schema)
    if frame.height != len(text):
        raise pl.exceptions.ComputeError("another number of objects than of lines")
    return frame.select(pl.coalesce(name, within(name)).alias(name) if "." in name else name for name in names)


def _merged(one: Any, other: pl.Struct) -> pl.Struct:
    """A struct with the fields of both.

    Raises:
        PolarsError: one of them is text where the other is a struct.
    """
    if one is None:
        return other
    if not isinstance(one, pl.Struct):
        raise pl.exceptions.SchemaError("a field that is wanted itself and for what is within it")
    fields = {field.name: field.dtype for field in one.fields}
    for field in other.fields:
        inner = isinstance(field.dtype, pl.Struct)
        fields[field.name] = _merged(fields.get(field.name), field.dtype) if inner else field.dtype
    return pl.Struct(fields)


def _asks_for_care(fields: pl.DataFrame, text: pl.Series, names: list[str], user: str | None) -> pl.Series:
    """Whether a line may say something else than what many at a time are read as: a mask."""
    # an object, a list or a truth value, or text that looks like one
    care = fields.select(pl.any_horizontal(
        pl.col(names).str.contains(r"^(?:[\[{]|true$|false$)").fill_null(False))).to_series()
    for name in names:  # a key that stands twice: the last counts, as in most readers
        care |= text.str.count_matches(_key(name), literal=True) > 1
    if text.str.contains(_LONE).any():
        care |= text.str.replace_all(_PAIR, "").str.contains(_LONE)
    if user is None:
        return care
    if (long := fields[user].str.contains(r"^-?(?:\d{16,}|\d{16,}\.\d*|\d*\.\d{15,})$").fill_null(False)).any():
        # a number that is no integer has lost its last digits
        care |= long & text.str.contains(re.escape(_key(user)) + r"\s*:\s*-?\d+[.eE]")
    return care


def _key(name: str) -> str:
    """How a field's key is written in JSON."""
    return json.dumps(name.rpartition(".")[2], ensure_ascii=False)


def _exactly(line: str, names: list[str], columns: dict[str, str]) -> list[str | None]:
    """The fields `names` of a line and its problem; what is no text is one where the field is one of our `columns`."""
    found = json_values.parse_object(line)
    if found is None:
        return [*([None] * len(names)), Rule.JSON.value]
    return json_values.texts([json_values.field(found, name) for name in names], names, set(columns.values()),
                             columns.get("user"))


def _need_keys(
    path: Path, text: pl.Series, fields: pl.DataFrame, columns: dict[str, str], source: Source
) -> None:
    """Refuse a file in whose first block a column never stands, not even as null."""
    objects = text.filter(fields["problem"].ne_missing(Rule.JSON.value))
    names = fields.columns[:-1]
    absent = [name for name in names if fields[name].null_count() == fields.height]
    absent = [name for name in absent if not _stands(objects, name)]
    if not absent or objects.is_empty():
        return
    first = json_values.parse_object(objects[0]) or {}
    found = list(dict.fromkeys([*json_values.names(first), *(name for name in names if name not in absent)]))
    need(path, columns, found, json_values.where_events_are(first))
    event_columns(path, source, found)


def _stands(objects: pl.Series, name: str) -> bool:
    some = objects.filter(objects.str.contains(_key(name), literal=True)).head(_LOOKED_AT)
    *parents, last = name.split(".")
    for found in map(json_values.parse_object, some):
        inner = json_values.field(found or {}, ".".join(parents)) if parents else found
        if name in (found or {}) or (isinstance(inner, dict) and last in inner):
            return True
    return False
