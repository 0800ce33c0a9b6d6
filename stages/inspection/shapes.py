"""Any file as columns of text under names that `source.columns` would use, and the keys of `source` that read it so."""

import csv
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl

from stages.common.errors import UserError
from stages.events import json_documents, json_values, parquet, reading
from stages.events.columns import is_value
from stages.events.sample import Sample

_ROWS = 20_000
_LINES = 400
_ALIKE = 0.9  # share of the lines that have the usual width
_PREAMBLE = 5  # lines before the table that do not count against its width
_SEPARATORS = (",", "\t", ";", "|", "^", "~")
_VALUE = re.compile(r"-?\d+([.,]\d+)?|\d{1,2}:\d{2}(:\d{2})?")
_BLANKS = re.compile(r'"(?:[^"]|"")*"|\S+')


@dataclass
class Table:
    """A file's columns.

    Attributes:
        columns: values by name; text, or as a Parquet file has them.
        settings: keys of `source` other than columns.
        notes: what was found out, in words.
    """

    columns: dict[str, pl.Series]
    settings: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def table(path: Path, sample: Sample) -> Table:
    """Find out how a file is to be read.

    Raises:
        UserError: it is no table that can be read.
    """
    if sample.schema:
        return _parquet(path)
    text = sample.content
    if text.startswith("[") or (text.startswith("{") and (
            json_documents.is_document(text.encode()) or _is_one_document(sample))):
        return _document(path)
    if text.startswith("{"):
        return _json_lines(path)
    if not sample.lines:
        raise UserError(f"{path}: no text that could be a table, and no Parquet file; what can be read stands in "
                        "data/raw/README.md")
    return _delimited(path, sample)


def _parquet(path: Path) -> Table:
    with parquet.readable(path):
        frame = pl.scan_parquet(path, glob=False).head(_ROWS).collect()
    while nested := [name for name, kind in frame.schema.items() if isinstance(kind, pl.Struct)]:
        frame = frame.with_columns(pl.col(nested[0]).struct.rename_fields(
            [f"{nested[0]}.{each.name}" for each in frame.schema[nested[0]].fields])).unnest(nested[0])
    columns = {}
    for name, values in frame.to_dict().items():
        if isinstance(values.dtype, pl.List):
            name, values = f"{name}.*", values.list.first()
        if values.dtype == pl.Binary:
            texts = [None if value is None else parquet.utf8(value) for value in values]
            values = values.bin.encode("hex") if any(
                value is not None and text is None for value, text in zip(values, texts, strict=True)
            ) else pl.Series(texts, dtype=pl.String)
        if not (values.dtype.is_nested() or values.dtype in (pl.Duration, pl.Object)):  # of which none has a role
            columns[name] = values
    return Table(columns, notes=[f"Parquet, {frame.width} columns"])


def _json_lines(path: Path) -> Table:
    found: list[dict[str, Any]] = []
    for block in reading.blocks(path):
        lines = reading.block_lines(path, block)["text"].head(_ROWS)
        found = [each for each in map(json_values.parse_object, lines) if each is not None]
        break
    return Table(_columns(found), notes=["JSON Lines"])


def _columns(found: list[dict[str, Any]]) -> dict[str, pl.Series]:
    """The fields of objects, and the first elements of lists of text."""
    names = list(dict.fromkeys(name for each in found[:200] for name in json_values.names(each)))
    columns = {}
    for name in names:
        values = [json_values.field(each, name) for each in found]
        if any(isinstance(value, list) for value in values):
            if any(isinstance(value, list) and value and isinstance(value[0], dict | list) for value in values):
                continue
            name, values = f"{name}.*", [value[0] if isinstance(value, list) and value else None for value in values]
        columns[name] = pl.Series([value if json_values.is_text(value) else None for value in values], dtype=pl.String)
    return columns


def _is_one_document(sample: Sample) -> bool:
    """Whether the first line is an object that holds lists of objects, and no object stands on the second."""
    return len(sample.lines) == 1 and bool(json_values.lists_of_objects(sample.value) or _ways(sample.value))


def _document(path: Path) -> Table:
    text = json_documents.document_text(path)
    values = [value for value, _ in islice(json_documents.values(path, text), _ROWS)]
    if not values:
        raise UserError(f"{path}: a JSON document without a value in it; export it again")
    ways = Counter({way: count for value in values[:50] for way, count in _ways(value).items()})
    flat = not ways or (len(values) > 5 and len(_columns([v for v in values[:50] if isinstance(v, dict)])) >= 2
                        and not _mostly_lists(values))
    if flat:
        return Table(_columns([value for value in values if isinstance(value, dict)]),
                     notes=["JSON, a list of objects" if text.lstrip("\ufeff \n").startswith("[") else "JSON, objects"])
    way = max(ways, key=lambda each: (ways[each], -each.count("*")))
    events = [event for event, _ in islice(json_documents.events(path, text, way), _ROWS)]
    columns = _columns([event.value for event in events if isinstance(event.value, dict)])
    for name in _outer(values[0], way):
        found = [json_documents.field(event, name, way) for event in events]
        columns[name] = pl.Series([each if json_values.is_text(each) else None for each in found], dtype=pl.String)
    return Table(columns, {"events": way}, [f"JSON, a document with {len(events):,} objects under {way}"])


def _mostly_lists(values: list[Any]) -> bool:
    return all(_ways(value) for value in values[:5])


def _ways(value: Any, deep: int = 4) -> dict[str, int]:
    """Ways to lists of objects within an object, with how many objects lie there; alike ones have a star."""
    if deep == 0 or not isinstance(value, dict):
        return {}
    found: Counter[str] = Counter()
    inner = {key: each for key, each in value.items() if isinstance(each, dict | list)}
    lists = {key: each for key, each in inner.items() if isinstance(each, list) and
             json_values.is_list_of_objects(each)}
    for key, each in lists.items():
        found[key] += len(each)
        for rest, count in _merged(each, deep).items():
            found[f"{key}.*.{rest}"] += count
    objects = {key: each for key, each in inner.items() if isinstance(each, dict)}
    if len(lists) > 1 and len(lists) == len(value) and _alike(list(lists.values())):
        return {"*": sum(map(len, lists.values()))}
    ways = {key: _ways(each, deep - 1) for key, each in objects.items()}
    ways = {key: each for key, each in ways.items() if each}
    # several objects with the same lists in them are one kind of thing
    common = set.intersection(*map(set, ways.values())) if len(ways) > 1 else set()
    for way in common:
        found[f"*.{way}"] = sum(each[way] for each in ways.values())
    for key, inner_ways in ways.items():
        for way, count in inner_ways.items():
            if way not in common:
                found[f"{key}.{way}"] += count
    return dict(found)


def _merged(elements: list[Any], deep: int) -> Counter[str]:
    found: Counter[str] = Counter()
    for element in elements[:20]:
        found.update(_ways(element, deep - 1))
    return found


def _alike(lists: list[list[Any]]) -> bool:
    keys = [set(each[0]) for each in lists if each and isinstance(each[0], dict)]
    return bool(keys) and all(each == keys[0] for each in keys)


def _outer(value: Any, way: str) -> Iterator[str]:
    """Plain fields of the objects around the events, and the keys at the stars, as columns name them."""
    parts = way.split(".")
    for length in range(len(parts)):
        inner = value
        for part in parts[:length]:
            if part == "*":
                inner = next(iter(inner.values() if isinstance(inner, dict) else inner), None)
            else:
                inner = inner.get(part) if isinstance(inner, dict) else None
        above = "".join(f"{part}." for part in parts[:length])
        if isinstance(inner, dict) and parts[length] == "*":
            yield f"/{above}*"
        elif isinstance(inner, dict):
            yield from (f"/{above}{key}" for key, each in inner.items() if isinstance(each, str))


def _delimited(path: Path, sample: Sample) -> Table:
    lines = [line.rstrip("\r") for line in sample.text.split("\n")]
    filled = [(number, line) for number, line in enumerate(lines) if line.strip()][:_LINES]
    name, rows = _separated(path, [line for _, line in filled])
    width = Counter(map(len, rows)).most_common(1)[0][0]
    first = next((place for place in range(len(rows)) if all(
        len(row) == width for row in rows[place : place + 3])), 0)
    skip = filled[first][0] if first else 0
    rows = [row for row in rows[first:] if len(row) == width]
    header = _has_header(rows)
    names = [field.strip() for field in rows[0]] if header else [str(number) for number in range(1, width + 1)]
    settings: dict[str, Any] = {}
    if name not in (",", "\t", ";", "|"):
        settings["separator"] = name
    if skip:
        settings["skip"] = skip
    if not header:
        settings["header"] = False
    body = _body(path, name, width, skip + header)
    words = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars", "blanks": "blanks"}.get(name, repr(name))
    notes = [f"{width} fields with {words} between, " + ("a header" if header else "no header")]
    notes += [f"{skip} lines before it"] * bool(skip)
    return Table({each: body[:, i] for i, each in enumerate(names)}, settings, notes)


def _separated(path: Path, lines: list[str]) -> tuple[str, list[list[str]]]:
    """The separator, as `source.separator` names it, and the fields of the lines."""
    found = []
    for name in (*_SEPARATORS, "blanks"):
        rows = [_fields(line, name) for line in lines]
        width, count = Counter(map(len, rows)).most_common(1)[0]
        if width > 1 and count >= _ALIKE * len(rows) - min(_PREAMBLE, len(rows) // 5):
            # blanks separate anything that has words in it: only where nothing else does
            found.append((name != "blanks" or width > 2, name != "blanks", width, count, name, rows))
    if not found:
        raise UserError(f"{path}: no separator gives its lines the same number of fields; say how it is separated with "
                        "source.separator, or see the formats in data/raw/README.md")
    found.sort(key=lambda each: each[:4])
    return found[-1][4], found[-1][5]


def _fields(line: str, name: str) -> list[str]:
    if name == "blanks":
        return [field.strip('"') for field in _BLANKS.findall(line)]
    if '"' not in line:
        return line.split(name)
    try:
        return next(csv.reader([line], delimiter=name), [])
    except csv.Error:  # a line of a table that ingest would refuse
        return line.split(name)


def _has_header(rows: list[list[str]]) -> bool:
    """Whether the first row names the columns: it has no value among its fields, and none that stands below it."""
    first, others = rows[0], rows[1:]
    if any(is_value(field) or _VALUE.fullmatch(field.strip()) for field in first):
        return False
    if not all(field.strip() for field in first) or len(set(first)) < len(first):
        return False
    return not any(field in {row[i] for row in others} for i, field in enumerate(first) if others)


def _body(path: Path, name: str, width: int, first: int) -> pl.DataFrame:
    rows: list[list[str]] = []
    for block in reading.blocks(path):
        lines = reading.block_lines(path, block, ("utf-8", "latin-1")).filter(pl.col("line") > first)["text"]
        lines = lines.gather_every(max(len(lines) // _ROWS, 1)) if len(lines) else lines
        rows = [row for row in (_fields(line, name) for line in lines) if len(row) == width]
        break
    return pl.DataFrame(rows, {str(i): pl.String for i in range(width)}, orient="row")
