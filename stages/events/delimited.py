"""Lines become fields, separated by a character, with or without quotes. A record is a line."""

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import polars as pl

from stages.common.errors import UserError
from stages.events import reading
from stages.events.rules import Rule

SEPARATORS = (",", "\t", ";", "|")
_NAMED = {"tab": "\t", "blanks": None}


class Header(NamedTuple):
    """The first line that is not blank: its number, its separator (None for blanks), and the names in it."""

    line: int
    separator: str | None
    names: list[str]


def header(path: Path, wanted: list[str], separator: str = "auto", skip: int = 0) -> Header:
    """The file's header below `skip` lines, or its first row.

    Args:
        separator: as in `source.separator`; of the usual ones it is the one that finds most of `wanted`.

    Raises:
        UserError: the lines end as on old Macs, or all are blank; and as `reading.blocks`.
    """
    line, first = reading.first_line(path, skip=skip)
    if "\r" in first:
        raise UserError(f"{path}: line {line}: lines that end in a carriage return alone; write line feeds, for "
                        "example with `tr '\\r' '\\n'`")
    tried = SEPARATORS if separator == "auto" else (_NAMED.get(separator, separator),)
    options = [Header(line, each, _names(first, each)) for each in tried]
    return max(options, key=lambda option: (len(set(option.names) & set(wanted)), len(option.names)))


def _names(line: str, separator: str | None) -> list[str]:
    text = pl.Series([line])
    fields, problem = _fields(text, separator, quotes=True)
    quotes = problem.item() is None
    fields = fields if quotes else _fields(text, separator, quotes=False)[0]
    return _unquote(fields.explode(), quotes).str.strip_chars().to_list()


def check_width(
    path: Path, names: list[str], separator: str | None, log_format: str, encodings: tuple[str, ...] = ("utf-8",),
) -> None:
    """Refuse a file whose first line has another number of fields than the format's `names`.

    Raises:
        UserError: says how many it has.
    """
    line, text = reading.first_line(path, encodings)
    if text and (found := len(text.split(separator))) != len(names):
        raise UserError(
            f"{path}: line {line}: {found} fields separated by {'tabs' if separator else 'spaces'}, and source.format "
            f"{log_format} has {len(names)}: {', '.join(names)}; for another layout set source.format to table"
        )


def records(
    path: Path, names: list[str], separator: str | None, *, event: list[str] | None = None, quotes: bool = False,
    header: int = 0, encodings: tuple[str, ...] = ("utf-8",),
) -> Iterator[reading.Piece]:
    """The file's records, as strings.

    Args:
        separator: a character, or None for any run of white space.
        event: the names of the fields that make an event; None for all.
        quotes: whether a field may stand in double quotes, a quote within it doubled. A line break within quotes is
            not understood: the lines of such a record get a problem each.
        header: the number of the line below which the records stand: that of the header, if there is one.

    Returns:
        Pieces that make frames with the columns `names`, and `line`, `fingerprint` (a hash of the fields of `event`),
        `problem` (null, or a Rule: then all fields are null).
    """
    hashed = [f"{i}" for i, name in enumerate(names) if event is None or name in event]
    for block in reading.blocks(path):
        yield reading.Piece(functools.partial(_records, path, block, names, separator, hashed, quotes, header,
                                              encodings), block.end)


def _records(
    path: Path, block: reading.Block, names: list[str], separator: str | None, hashed: list[str], quotes: bool,
    header: int, encodings: tuple[str, ...],
) -> pl.DataFrame:
    """The block's records; `hashed` are the places of the fields that make an event."""
    fields, skip = None, max(header - block.first + 1, 0)
    if separator is not None and not (quotes and b'"' in block.text):
        fields = _parse_plain(block, len(names), separator, skip)
    if separator is None or fields is None:
        lines = reading.block_lines(path, block, encodings).filter(pl.col("line") > header)
        return _parse_any(lines, names, separator, hashed, quotes)
    first = block.first + skip
    return pl.DataFrame({
        "line": pl.int_range(first, first + fields.height, dtype=pl.Int64, eager=True),
        "fingerprint": reading.fingerprints(fields, hashed),
        "problem": pl.repeat(None, fields.height, dtype=pl.String, eager=True),
        **{name: fields[f"{i}"] for i, name in enumerate(names)},
    })


def _parse_plain(block: reading.Block, width: int, separator: str, skip: int) -> pl.DataFrame | None:
    """The fields of lines that ask for no care, several times as fast; None where a line may ask for it.

    Such lines have `width` fields each, no quotes that mean anything, no marks of an encoding, and none is blank.
    """
    text, marks = block.text, (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")
    if (block.first == 1 and text.startswith(marks)) or not text.endswith(b"\n") or b"\r\r" in text:
        return None
    for _ in range(skip):
        text = text.partition(b"\n")[2]
    if not text:
        return None
    rows = reading.count(text, b"\n")
    if reading.count(text, separator.encode()) != rows * (width - 1):
        return None
    try:  # refuses lines with more fields; with the right sum, then, no line has fewer
        fields = pl.read_csv(text, has_header=False, schema={f"{i}": pl.String for i in range(width)},
                             separator=separator, quote_char=None, empty_string_is_null=False)
    except pl.exceptions.PolarsError:  # among them bytes that are no UTF-8
        return None
    blank = separator.isspace() and (fields["0"].str.strip_chars() == "").any()
    return None if blank or fields.height != rows else fields


def _parse_any(
    block: pl.DataFrame, names: list[str], separator: str | None, hashed: list[str], quotes: bool
) -> pl.DataFrame:
    """The records of any lines."""
    fields, problem = _fields(block["text"], separator, quotes)
    wrong = (fields.list.len() != len(names)) & problem.is_null()
    problem = pl.select(pl.when(wrong).then(pl.lit(Rule.FIELDS.value)).otherwise(problem)).to_series()
    read = pl.DataFrame({f"{i}": _unquote(fields.list.get(i, null_on_oob=True), quotes) for i in range(len(names))})
    fingerprint = reading.fingerprints(read, hashed)
    return pl.DataFrame({"line": block["line"], "fingerprint": fingerprint, "problem": problem}).with_columns(
        pl.when(pl.col("problem").is_null()).then(read[f"{i}"]).alias(name) for i, name in enumerate(names)
    )


def _fields(text: pl.Series, separator: str | None, quotes: bool) -> tuple[pl.Series, pl.Series]:
    """Lists of fields, and the lines' problems."""
    sound = pl.repeat(None, len(text), dtype=pl.String, eager=True)
    quoted = quotes and text.str.contains('"', literal=True).any()
    if separator is None and not quoted:
        return text.str.strip_chars().str.replace_all(r"\s+", " ").str.split(" "), sound
    if not quoted:
        return text.str.split(separator), sound
    # a separator before every field, then a field in quotes, or one that does not begin with a quote, or an empty one
    if separator is None:
        text = " " + text.str.strip_chars()
        pieces = text.str.extract_all(r'\s+(?:"(?:[^"]|"")*"|[^\s"]\S*)')
        fields = pieces.list.eval(pl.element().str.strip_chars_start())
    else:
        mark, text = re.escape(separator), separator + text
        pieces = text.str.extract_all(rf'{mark}(?:[ ]*"(?:[^"]|"")*"[ ]*|[^{mark}"][^{mark}]*|)')
        fields = pieces.list.eval(pl.element().str.strip_prefix(separator))
    broken = pieces.list.join("") != text
    problem = pl.select(pl.when(broken).then(pl.lit(Rule.QUOTES.value))).to_series()
    return fields, problem


def _unquote(field: pl.Series, quotes: bool) -> pl.Series:
    if not quotes:
        return field
    inner = field.str.strip_chars(" ")
    quoted = inner.str.starts_with('"') & inner.str.ends_with('"')
    bare = inner.str.strip_prefix('"').str.strip_suffix('"').str.replace_all('""', '"', literal=True)
    return pl.select(pl.when(quoted).then(bare).otherwise(field)).to_series()
