"""What formats of exports share: how their files are read, what a layout's columns mean, what has to be asked.

A format says how the file is read (`headless`, `headed`, `lines`, `document`), then what its columns mean: `rows` makes
the log's rows of them. What a layout does not say is no guess: whose the rows are (`source.person`), and where people
live whose times are in UTC (`source.time_zone`), is asked for by an error.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from stages.common.errors import UserError
from stages.events import delimited, json_documents, person, reading, times
from stages.events.columns import event_columns, shown
from stages.events.reading import Piece
from stages.events.rules import Rule
from stages.events.settings import Source


@dataclass(frozen=True)
class Meaning:
    """What the columns of a layout mean.

    Attributes:
        written: how its times are written; from `utc` or `local`.
        user: None where no row says it.
        clock: the time of day, where `time` is the day.
        offset: of each row, from UTC.
        ignored: whether a row is no event by the layout's own definition.
    """

    time: pl.Expr
    behavior: pl.Expr
    written: times.Written
    user: pl.Expr | None = None
    place: pl.Expr | None = None
    clock: pl.Expr | None = None
    offset: pl.Expr | None = None
    ignored: pl.Expr | None = None


def utc(source: Source, pattern: str = "iso") -> times.Written:
    """Times in UTC, whether they say so or not.

    Raises:
        UserError: `source.time_zone` does not say where the people live.
    """
    if source.time_zone in ("", times.WRITTEN):
        raise UserError(f"source.time_zone: {source.time_zone or 'empty'}, and source.format {source.format} has times "
                        "in UTC: set the people's time zone, such as Europe/Berlin (or UTC, if hours of the day are "
                        "not to be right)")
    return _checked(times.Written(pattern, source.time_zone, "utc", source.dates))


def local(source: Source, pattern: str = "iso", *, clock: bool = False, offset: bool = False) -> times.Written:
    """Times of the place where the people are, with an offset or without."""
    return _checked(times.Written(pattern, source.time_zone, "local", source.dates, clock, offset))


def _checked(written: times.Written) -> times.Written:
    written.check()
    return written


def rows(pieces: Iterator[Piece], path: Path, source: Source, meaning: Meaning) -> Iterator[Piece]:
    """Pieces that make frames as a format yields them (assembly.ROWS), of such as make frames of the layout's columns.

    Raises:
        UserError: no row says whose it is, and `source.person` does not either.
    """
    whose = person.need(path, source) if meaning.user is None else None
    for piece in pieces:
        yield piece.then(functools.partial(_meant, meaning=meaning, whose=whose))


def _meant(frame: pl.DataFrame, meaning: Meaning, whose: str | None) -> pl.DataFrame:
    beside = {"clock": meaning.clock, "offset": meaning.offset}
    fields = frame.select(meaning.time.alias("time"),
                          *(column.alias(name) for name, column in beside.items() if column is not None))
    time = times.read(fields, meaning.written)
    ignored = pl.lit(False) if meaning.ignored is None else meaning.ignored.fill_null(False)
    problem = pl.when(pl.col("problem").is_null() & ignored).then(pl.lit(Rule.NO_EVENT.value)).otherwise(
        pl.coalesce("problem", time["problem"]))
    return frame.select(
        "line", "fingerprint", problem.alias("problem"), *time.drop("problem"), fields.to_struct("written"),
        (pl.lit(whose) if meaning.user is None else meaning.user).cast(pl.String).alias("user"),
        (pl.lit(None) if meaning.place is None else meaning.place).cast(pl.String).alias("place"),
        meaning.behavior.cast(pl.String).alias("behavior"),
    )


def headless(
    path: Path, source: Source, names: list[str], separator: str, encodings: tuple[str, ...] = ("utf-8",)
) -> Iterator[Piece]:
    """Records of a file without a header or quotes, columns `names`.

    Raises:
        UserError: its first line has another number of fields.
    """
    delimited.check_width(path, names, separator, source.format, encodings)
    yield from delimited.records(path, names, separator, event=event_columns(path, source, names), encodings=encodings)


def headed(path: Path, source: Source, needed: list[str], name: Callable[[str], str] = str) -> Iterator[Piece]:
    """Records of a file with a header, fields in quotes or not.

    Args:
        needed: columns that must be there.
        name: what a column is called here, of its name in the file.

    Raises:
        UserError: a column is not there.
    """
    head = delimited.header(path, needed)
    found = [name(each) for each in head.names]
    if absent := [each for each in needed if each not in found]:
        raise UserError(f"{path}: no column {absent[0]!r}; source.format {source.format} has {', '.join(needed)}, the "
                        f"file has {shown(head.names)}. For another layout set source.format to table")
    unique = [each if found.count(each) == 1 else f"{each} {i}" for i, each in enumerate(found)]
    yield from delimited.records(path, unique, head.separator, event=event_columns(path, source, unique), quotes=True,
                                 header=head.line)


def lines(path: Path, pattern: str, names: list[str]) -> Iterator[Piece]:
    """Lines that agree with a pattern, its groups as columns `names`; a line that does not is no record."""
    for block in reading.blocks(path):
        yield Piece(functools.partial(_lines, path, block, pattern, names), block.end)


def _lines(path: Path, block: reading.Block, pattern: str, names: list[str]) -> pl.DataFrame:
    found = reading.block_lines(path, block)
    groups = found.select(pl.col("text").str.extract_groups(pattern).struct.rename_fields(names).alias("_")).unnest("_")
    agrees = pl.col("text").str.contains(pattern)
    return found.select(
        "line", pl.col("text").hash().alias("fingerprint"),
        pl.when(~agrees).then(pl.lit(Rule.FIELDS.value)).alias("problem")).hstack(groups)


def document(path: Path, source: Source, names: dict[str, str], way: str = "") -> Iterator[Piece]:
    """Events of a JSON document, where `way` leads, with the fields that `names` gives by ours, as text.

    Raises:
        UserError: the file is no JSON, or its first events have none of the fields.
    """
    def check(found: list[json_documents.Event]) -> None:
        if all(json_documents.field(event, name, way) is None for event in found for name in names.values()):
            raise UserError(f"{path}: source.format {source.format} has {', '.join(names.values())}; none of them is "
                            "in the file. For another layout set source.format to table")

    wanted = json_documents.Wanted(names, way, source.event_columns or None, strict=False)
    return json_documents.pieces(path, wanted, check)


def beside(path: Path, source: Source, is_it: Callable[[Path], bool], what: str) -> Path:
    """The other file of a layout of two, in the same folder.

    Raises:
        UserError: there is none; or `source.path` is the one file, so that DVC would not see the other change.
    """
    if Path(source.path).is_file():
        raise UserError(f"source.path: {source.path}: source.format {source.format} reads {what} beside it; set "
                        "source.path to the folder of both")
    for file in reading.find_files(path.parent, "*"):
        if file != path and is_it(file):
            return file
    raise UserError(f"{path}: no {what} beside it, which source.format {source.format} needs; put both into one folder")


def meant(code: pl.Expr, names: Mapping[Any, str]) -> pl.Expr:
    """What codes mean; nothing where no name is known."""
    return code.replace_strict(names, default=None, return_dtype=pl.String)


def names_of(path: Path, frames: Iterable[pl.DataFrame], key: pl.Expr, value: pl.Expr) -> dict[str, str]:
    """A small table as a dictionary; the first of several values of a key counts."""
    found: dict[str, str] = {}
    for frame in frames:
        for name, meaning in frame.select(key.alias("key"), value.alias("value")).drop_nulls().iter_rows():
            found.setdefault(name, meaning)
    if not found:
        raise UserError(f"{path}: no row can be read in it; export or copy it again")
    return found
