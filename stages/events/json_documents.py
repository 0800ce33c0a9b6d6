"""Rows of JSON that is no object a line: a list of events, objects over many lines, events deep within a document.

`source.events` is the way to the lists of events: keys with dots between, `*` for each element of a list or field of an
object. A column `/user` is a field of the document around the event, and may have the same stars:
`/users.*.id` beside events `users.*.visits`; where it ends in a star of `events`, it is the key there. `line` is the
number of the event in the file. The text of a file must fit into memory.
"""

import functools
import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from stages.common.errors import UserError
from stages.events import json_values, reading
from stages.events.columns import event_columns, need
from stages.events.rules import Rule
from stages.events.settings import Source

_AT_ONCE = 50_000  # events
LOOKED_AT = 65536  # bytes by which a document is told from JSON Lines
_BLANK = " \t\r\n"
_OUTER = "/"


class Event(NamedTuple):
    """An event, the document around it, and the key or number that each step of `source.events` took."""

    value: Any
    document: Any
    steps: tuple[str, ...]


def is_document(start: bytes) -> bool:
    """Whether a file that begins so is a list, or objects over more than one line, rather than JSON Lines."""
    text = start[:LOOKED_AT].decode("utf-8", errors="replace").lstrip("\ufeff" + _BLANK)
    if text.startswith("["):
        return True
    first, _, rest = text.partition("\n")
    opens = text.startswith("{") and first.rstrip().endswith(("{", "[", ","))
    return opens and rest.lstrip(_BLANK).startswith(('"', "}", "]", "[", "{\n", "{\r"))


def read(path: Path, columns: dict[str, str], source: Source) -> Iterator[reading.Piece]:
    """Pieces that make frames with `line`, `fingerprint`, `problem` and the columns of `columns`, as text.

    Raises:
        UserError: the file is no JSON; `source.events` leads to no list; a column stands in none of the first events.
    """
    compared = [name for name in source.event_columns if name not in (columns.get("user"), columns["time"])]
    wanted = Wanted(columns, source.events, compared if source.event_columns else None)

    def check(rows: list[Event]) -> None:
        _need_keys(path, rows, columns, source)

    yield from pieces(path, wanted, check)


class Wanted(NamedTuple):
    """What is wanted of each event.

    Attributes:
        columns: names of fields by ours.
        way: to the lists of events.
        compared: names of the fields that make an event; None for all.
        strict: whether the columns must be text or numbers.
    """

    columns: dict[str, str]
    way: str = ""
    compared: list[str] | None = None
    strict: bool = True


def pieces(path: Path, wanted: Wanted, check: Callable[[list[Event]], None] | None = None) -> Iterator[reading.Piece]:
    """As `read`; `check` is called with the first events."""
    text = document_text(path)
    size, before = path.stat().st_size, 0
    found = events(path, text, wanted.way)
    while batch := list(islice(found, _AT_ONCE)):
        rows = [event for event, _ in batch]
        if not before and check is not None:
            check(rows)
        end = size * batch[-1][1] // max(len(text), 1)
        yield reading.Piece(functools.partial(_frame, rows, before + 1, wanted), end)
        before += len(rows)
    if not before and wanted.way:
        _refuse_path(path, text, wanted.way)


def document_text(path: Path) -> str:
    """A whole file, unpacked.

    Raises:
        UserError: it is no UTF-8; and as `reading.whole`.
    """
    content = reading.whole(path).removeprefix(b"\xef\xbb\xbf")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}: line {line}: byte 0x{content[error.start]:02x} is not UTF-8; save the file as UTF-8"
                        ) from None


def events(path: Path, text: str, way: str) -> Iterator[tuple[Event, int]]:
    """Each event of a text, and how many of its characters are read with it.

    Raises:
        UserError: says where the text is no JSON.
    """
    parts = way.split(".") if way else []
    for value, end in values(path, text):
        for found, steps in _follow(value, parts, ()):
            if parts and isinstance(found, list):
                yield from ((Event(each, value, steps), end) for each in found)
            elif not parts:
                yield Event(found, value, steps), end


def values(path: Path, text: str) -> Iterator[tuple[Any, int]]:
    """The values that stand one after another in a text, the elements of a list one by one; and where each ends."""
    place = _skip(text, 0)
    while place < len(text):
        if text[place] == "[":
            place = _skip(text, place + 1)
            while text[place : place + 1] != "]":
                value, place = _decode(path, text, place)
                yield value, place
                place = _skip(text, place)
                if text[place : place + 1] == ",":
                    place = _skip(text, place + 1)
                elif text[place : place + 1] != "]":
                    _no_json(path, text, place, "a comma or ] is missing")
            place += 1
        else:
            value, place = _decode(path, text, place)
            yield value, place
        place = _skip(text, place)


def _decode(path: Path, text: str, place: int) -> tuple[Any, int]:
    try:
        return json_values.DECODER.raw_decode(text, place)
    except json.JSONDecodeError as error:
        return _no_json(path, text, error.pos, error.msg)
    except RecursionError:
        return _no_json(path, text, place, "nested too deeply")


def _no_json(path: Path, text: str, place: int, why: str) -> Any:
    line = text.count("\n", 0, place) + 1
    what = "the file ends there: it was cut off" if place >= len(text.rstrip()) else why
    raise UserError(f"{path}: line {line}: no JSON ({what}); export or copy it again")


def _skip(text: str, place: int) -> int:
    while place < len(text) and text[place] in _BLANK:
        place += 1
    return place


def _follow(value: Any, parts: list[str], steps: tuple[str, ...]) -> Iterator[tuple[Any, tuple[str, ...]]]:
    """What lies at the end of a way, and the steps that were taken."""
    if not parts:
        yield value, steps
        return
    first, rest = parts[0], parts[1:]
    if first != "*":
        if isinstance(value, dict) and first in value:
            yield from _follow(value[first], rest, (*steps, first))
    elif isinstance(value, dict | list):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _follow(each, rest, (*steps, str(key)))


def field(event: Event, name: str, way: str) -> Any:
    """A field of an event, or of the document around it."""
    if not name.startswith(_OUTER):
        return json_values.field(event.value, name)
    found, along = event.document, way.split(".") if way else []
    parts = name.removeprefix(_OUTER).split(".")
    for i, part in enumerate(parts):
        if part == "*" and parts[: i + 1] == along[: i + 1]:
            part = event.steps[i]
            if i == len(parts) - 1:
                return part
        found = json_values.field(found, part)
    return found


def _frame(rows: list[Event], first: int, wanted: Wanted) -> pl.DataFrame:
    columns, compared = wanted.columns, wanted.compared or []
    several = columns.get("behavior", "").endswith(".*")
    names = [name.removesuffix(".*") if ours == "behavior" else name for ours, name in columns.items()] + compared
    labels = set(names[: len(columns)]) if wanted.strict else set()
    behavior = list(columns).index("behavior") if several else 0
    made: list[list[Any]] = []
    for line, event in enumerate(rows, start=first):
        if not isinstance(event.value, dict):
            made.append([line, "", *([None] * len(names)), Rule.JSON.value])
            continue
        values = [field(event, name, wanted.way) for name in names]
        whole = "" if wanted.compared is not None else json.dumps(event.value, sort_keys=True)
        each = values[behavior] if several and isinstance(values[behavior], list) else None
        for number, one in enumerate(each or [None]):
            if each is not None:
                values[behavior] = one
            row = json_values.texts(values, names, labels, columns.get("user"))
            made.append([line, f"{number} {whole}", *row])
    ours = list(columns)
    schema = {"line": pl.Int64, "whole": pl.String, **dict.fromkeys(ours, pl.String),
              **{f"event {i}": pl.String for i in range(len(compared))}, "problem": pl.String}
    frame = pl.DataFrame(made, schema, orient="row")
    prints = frame.select("whole", "^event .*$", *(name for name in ours if columns[name].startswith(_OUTER)))
    return frame.select("line", prints.hash_rows().alias("fingerprint"), "problem", *ours)


def _need_keys(path: Path, rows: list[Event], columns: dict[str, str], source: Source) -> None:
    """Refuse a file in whose first events a column never stands, not even as null."""
    objects = [event for event in rows if isinstance(event.value, dict)]
    if not objects:
        lists = f"; set source.events to the list of events, such as {source.events or 'data'}.*"
        raise UserError(f"{path}: {source.events or 'the list'} holds no objects{lists if rows else ''}")
    wanted = [*columns.values(), *source.event_columns]
    stands = [name for name in wanted
              if any(_stands(event, name.removesuffix(".*"), source.events) for event in objects)]
    found = list(dict.fromkeys([*json_values.names(objects[0].value), *stands]))
    need(path, columns, found, json_values.where_events_are(objects[0].value))
    event_columns(path, source, found)


def _stands(event: Event, name: str, way: str) -> bool:
    if field(event, name, way) is not None:
        return True
    *parents, last = name.split(".")
    inner = field(event, ".".join(parents), way) if parents else event.value
    return isinstance(inner, dict) and (last in inner or name in event.value)


def _refuse_path(path: Path, text: str, way: str) -> None:
    first: Any = next(values(path, text), ({}, 0))[0]
    lists = json_values.lists_of_objects(first)
    there = f"lists of objects in it: {', '.join(lists[:5])}" if lists else "no list of objects was found in it"
    raise UserError(f"{path}: source.events: {way!r} leads to no list with an event; {there}")
