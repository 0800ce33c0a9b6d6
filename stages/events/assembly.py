"""Rows of all files of a log become the tables `events` and `quarantine`.

A format (one file each in `formats`) yields pieces that make frames with the columns of ROWS; what follows is the same
for all: users become pseudonyms, labels are cleaned and mapped, each row that breaks a rule is set aside with the
first rule that it breaks, and what is left is sorted, by instant where it is known. Two rows that agree in every
column of the log count once: the later is a duplicate. Until they are sorted, rows are kept as numbers: fifty million
of them take some two gigabytes.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from stages.common import tables
from stages.common.console import track
from stages.common.hashing import pseudonym
from stages.common.parallel import side_by_side
from stages.events import people, reading
from stages.events.direction import middle, newest_first
from stages.events.labels import OTHER, UNKNOWN, settle_behaviors, settle_places, tally
from stages.events.offsets import PER_MINUTE
from stages.events.order import repeated, stable_order
from stages.events.rules import LONGEST, OF_THE_TIME, Rule, clean, label_rule, missing
from stages.events.settings import Source
from stages.events.taxonomy import Taxonomy
from stages.events.values import Values

# What a source's pieces make: `line` from 1 (record, in Parquet), rising; `fingerprint`, a hash of the whole row;
# `problem`, a Rule or null; beside them `written`, a struct of the fields that the time was read from
ROWS = {
    "line": pl.Int64, "fingerprint": pl.UInt64, "problem": pl.String, "user": pl.String, "time": pl.Datetime("us"),
    "offset": pl.Int16, "elsewhere": pl.Boolean, "place": pl.String, "behavior": pl.String,
}
_REFUSED = {"line": pl.Int64, "rule": pl.String, "text": pl.String}
# found before a field is looked at
_OF_THE_ROW = [rule.value for rule in (Rule.EVENT_TYPE, Rule.NO_EVENT, Rule.FIELDS, Rule.QUOTES, Rule.JSON, Rule.NESTED,
                                       Rule.TEXT)]
_TEXT = pl.col("text")
_ABSENT = missing(_TEXT)
_MEGABYTE = 1e6
_UNKNOWN = np.iinfo(np.int16).min  # offset


@dataclass(frozen=True)
class Format:
    """A log's format.

    Attributes:
        read: a file's rows, in pieces that make frames of ROWS.
        finish: called once on all events (sorted, with every column of the table), for what needs the whole log.
    """

    read: Callable[[Path, Source], Iterator[reading.Piece]]
    finish: Callable[[pl.DataFrame], pl.DataFrame] = lambda events: events


@dataclass
class Log:
    """A log that was read: `rows` = events + quarantined.

    Attributes:
        newest_first: files that were read from their end.
        elsewhere: events that were written with another offset than the time zone has then.
        across: events of the person and time of the one before them, which is of another file.
        changed: behaviours and places whose names did not stay as they were, as stages.events.labels lists them.
    """

    events: pl.DataFrame
    quarantine: pl.DataFrame
    rows: int
    files: int
    newest_first: int = 0
    elsewhere: int = 0
    across: int = 0
    changed: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)


def _is_known(offset: np.ndarray) -> bool:
    """Whether rows, of which all or none know it, know their offset from UTC."""
    return bool(len(offset)) and offset[0] != _UNKNOWN


@dataclass
class _Accepted:
    """The rows that break no rule, by column and piece, and the file of each piece."""

    columns: dict[str, list[np.ndarray]] = field(default_factory=dict)
    files: list[int] = field(default_factory=list)
    newest_first: int = 0
    elsewhere: int = 0

    def add(self, columns: dict[str, np.ndarray], file: int) -> None:
        for name, values in columns.items():
            self.columns.setdefault(name, []).append(values)
        self.files.append(file)

    def order_file(self, first: int, order: str) -> None:
        """Put the rows of a file, whose pieces begin at `first`, oldest first; `order` as in `source.order`."""
        if order == "oldest_first" or (order == "auto" and not newest_first(self.columns["user"][first:],
                                                                            self.columns["time"][first:])):
            return
        for pieces in self.columns.values():
            pieces[first:] = [piece[::-1] for piece in reversed(pieces[first:])]
        self.newest_first += 1

    def order_files(self) -> None:
        """Put the files in the order of their times; those of one time stay in the order of their names."""
        pieces: dict[int, list[int]] = {}
        for place, file in enumerate(self.files):
            pieces.setdefault(file, []).append(place)
        if len(pieces) > 1:
            ordered = sorted(pieces.values(), key=lambda own: middle([self._instants(place) for place in own]))
            places = [place for own in ordered for place in own]
            self.columns = {name: [column[place] for place in places] for name, column in self.columns.items()}
            self.files = [self.files[place] for place in places]

    def _instants(self, piece: int) -> np.ndarray:
        time, offset = self.columns["time"][piece], self.columns["offset"][piece]
        return time - offset.astype(np.int64) * PER_MINUTE if _is_known(offset) else time

    def pop(self, name: str, kind: np.dtype | None = None) -> np.ndarray:
        """A whole column, of another kind if one is given; its pieces are let go."""
        return np.concatenate(self.columns.pop(name), dtype=kind, casting="unsafe")


def read_log(log_format: Format, source: Source, names: pl.DataFrame | None, key: bytes = b"") -> Log:
    """Read all files of a log.

    Args:
        names: a taxonomy (columns `raw`, `behavior`), or None.
        key: the secret with which users become pseudonyms; none where their ids are no secret.

    Raises:
        UserError: a file cannot be read at all; refused rows raise nothing.
    """
    files = reading.find_files(Path(source.path), source.files)
    values = {"user": Values(functools.partial(_check_users, key=key)), "place": Values(_check_places),
              "behavior": Values(functools.partial(_check_behaviors, taxonomy=Taxonomy(names),
                                                   unlisted="keep" if names is None else source.unlisted))}
    accepted, refused, rows = _Accepted(), [], 0
    with track("reading the log, MB", sum(file.stat().st_size for file in files) / _MEGABYTE) as bar:
        for number, file in enumerate(files):
            before, first = 0, len(accepted.files)
            jobs = (functools.partial(_check_piece, piece, values) for piece in log_format.read(file, source))
            for good, bad, height, end in side_by_side(jobs):
                accepted.elsewhere += int(good.pop("elsewhere").sum())
                accepted.add(good, number)
                refused.append(bad.with_columns(file=pl.lit(number, pl.UInt32)))
                rows += height
                bar.advance((end - before) / _MEGABYTE)
                before = end
            if first < len(accepted.files):
                accepted.order_file(first, source.order)
    accepted.order_files()
    if not rows:
        none, refusals = (pl.DataFrame(schema=tables.SCHEMAS[name]) for name in ("events", "quarantine"))
        return Log(none, refusals, 0, len(files))
    events, again, across, changed = _sorted(
        accepted, {name: found.known() for name, found in values.items()}, source.top)
    if source.event_columns:
        again = again.with_columns(rule=pl.lit(Rule.COPY.value))
    events = log_format.finish(events)
    quarantine = pl.concat([*refused, again]).sort("file", "line")
    paths = pl.Series([file.as_posix() for file in files])
    quarantine = quarantine.select(paths.gather(quarantine["file"]).alias("file"), "line", "rule", "text")
    assert rows == events.height + quarantine.height
    return Log(events, quarantine, rows, len(files), accepted.newest_first, accepted.elsewhere, across,
               changed)


def _check_piece(
    piece: reading.Piece, values: dict[str, Values]
) -> tuple[dict[str, np.ndarray], pl.DataFrame, int, int]:
    """Accepted rows (by column), refused ones (line, rule, text), how many rows there are, and the piece's end.

    Strings of accepted rows are numbers of `values`, times are microseconds.
    """
    frame = piece.parse()
    height, written = frame.height, frame["written"]
    frame = frame.select(pl.col(name).cast(kind) for name, kind in ROWS.items())
    numbers = {name: found.numbers(frame[name]) for name, found in values.items()}
    bad = frame["problem"].is_not_null().to_numpy()
    for name, found in values.items():
        bad = bad | found.refused(numbers[name])
    columns = numbers | {"fingerprint": frame["fingerprint"].to_numpy(), "line": _short(frame["line"].to_numpy()),
                         "time": frame["time"].to_physical().fill_null(0).to_numpy(),
                         "offset": frame["offset"].fill_null(_UNKNOWN).to_numpy(),
                         "elsewhere": frame["elsewhere"].to_numpy()}
    if not bad.any():
        return columns, pl.DataFrame(schema=_REFUSED), height, piece.end
    rules = {name: found.known()["rule"].gather(numbers[name][bad]) for name, found in values.items()}
    mask = pl.Series(bad)
    refused = _refused(frame.filter(mask), written.filter(mask), rules)
    return {name: column[~bad] for name, column in columns.items()}, refused, height, piece.end


def _refused(rows: pl.DataFrame, written: pl.Series, rules: dict[str, pl.Series]) -> pl.DataFrame:
    """Refused rows as the quarantine shows them: of a row no more than the field at fault, and never the user's."""
    problem, of_the_row = pl.col("problem"), pl.col("problem").is_in(_OF_THE_ROW)
    time = pl.concat_str(pl.all().cast(pl.String), separator=" | ", ignore_nulls=True)
    rows = rows.with_columns(
        written.struct.unnest().select(time.alias("written")).to_series(),
        rule=pl.when(of_the_row).then("problem")
        .otherwise(pl.coalesce(rules["user"], "problem", rules["behavior"], rules["place"])),
        of_user=rules["user"], of_behavior=rules["behavior"],
    )
    text = (
        pl.when(of_the_row | pl.col("of_user").is_not_null()).then(None)
        .when(problem == Rule.TIME.value).then(_shape(pl.col("written")))
        .when(problem.is_in(OF_THE_TIME)).then("written").when(problem.is_not_null()).then(None)
        .when(pl.col("of_behavior").is_not_null()).then("behavior").otherwise("place").fill_null("")
    )
    cut = pl.when(text.str.len_chars() > LONGEST).then(text.str.slice(0, LONGEST) + "…").otherwise(text)
    return rows.select("line", "rule", cut.alias("text"))


def _shape(text: pl.Expr) -> pl.Expr:
    """Letters as `a` and digits as `9`: what is no time may be an id, where a wrong column is named."""
    return text.str.replace_all(r"\p{L}", "a").str.replace_all(r"\p{Nd}", "9")


def _short(lines: np.ndarray) -> np.ndarray:
    """Line numbers in half the memory, where they fit."""
    return lines.astype(np.uint32) if len(lines) and lines[-1] < 2**32 else lines


def _check_users(users: pl.Series, key: bytes) -> pl.DataFrame:
    ids = users.str.strip_chars()
    numbers = pl.Series([pseudonym(people.canonical(each), key) for each in ids], dtype=pl.UInt64)
    rounded = pl.Series([people.is_rounded(each) for each in ids], dtype=pl.Boolean)
    return users.to_frame("text").select(
        rule=pl.when(_ABSENT).then(pl.lit(Rule.NO_USER.value)).when(rounded).then(pl.lit(Rule.ROUNDED.value)),
        user=numbers)


def _check_behaviors(behaviors: pl.Series, taxonomy: Taxonomy, unlisted: str) -> pl.DataFrame:
    frame = behaviors.to_frame("text").with_columns(name=clean(_TEXT))
    frame = frame.hstack(taxonomy.look_up(frame["name"]))
    label = {"keep": pl.col("name"), "refuse": pl.lit(None, pl.String), "other": pl.lit(OTHER)}[unlisted]
    rule = {"keep": label_rule(_TEXT), "refuse": pl.lit(Rule.TAXONOMY.value), "other": pl.lit(None)}[unlisted]
    return frame.select(
        "name", "listed", "unlisted", label=pl.coalesce("behavior", label),
        rule=pl.when(_ABSENT).then(pl.lit(Rule.NO_BEHAVIOR.value)).when(pl.col("behavior").is_null()).then(rule),
    )


def _check_places(places: pl.Series) -> pl.DataFrame:
    return places.to_frame("text").select(
        label=pl.when(_ABSENT).then(pl.lit(UNKNOWN)).otherwise(clean(_TEXT)),
        rule=pl.when(~_ABSENT).then(label_rule(clean(_TEXT))),
    )


def _sorted(
    accepted: _Accepted, known: dict[str, pl.DataFrame], top: int
) -> tuple[pl.DataFrame, pl.DataFrame, int, dict[str, Any]]:
    """The events, sorted; the duplicates as rows of the quarantine (line, rule, text, file); ties; the names changed.

    The ties are those of rows of different files.
    """
    ends = np.cumsum([len(values) for values in accepted.columns["user"]])
    pseudonyms, rank = np.unique(known["user"]["user"].to_numpy(), return_inverse=True)
    time, offset = accepted.pop("time"), accepted.pop("offset")
    known_at = _is_known(offset)
    if known_at:
        time -= offset.astype(np.int64) * PER_MINUTE  # the instant, until it is sorted
    order, user = stable_order(rank.astype(np.uint32)[accepted.pop("user")], time)
    # the fewer bytes a value has, the more of them the caches hold while they are put in order
    labels = (accepted.pop(name, np.min_scalar_type(known[name].height)) for name in ("place", "behavior"))
    time, offset, place, behavior = side_by_side(
        functools.partial(np.take, column, order) for column in (time, offset, *labels))
    again = repeated(user, time, accepted.pop("fingerprint"), order)
    rows = order[again]  # as they came
    twice = pl.DataFrame({"line": accepted.pop("line")[rows].astype(np.int64)}).with_columns(
        pl.lit(Rule.DUPLICATE.value).alias("rule"), pl.lit("").alias("text"),
        pl.Series("file", np.array(accepted.files)[np.searchsorted(ends, rows, side="right")], dtype=pl.UInt32),
    )
    if len(again):
        user, time, offset, place, behavior, order = (
            np.delete(column, again) for column in (user, time, offset, place, behavior, order))
    across = _across(user, time, order, ends, np.array(accepted.files))
    del order
    if known_at:
        time += offset.astype(np.int64) * PER_MINUTE
    places = settle_places(known["place"], tally(place, known["place"].height))
    behaviors = settle_behaviors(known["behavior"], tally(behavior, known["behavior"].height), top)
    columns = {"place": (places, place), "behavior": (behaviors, behavior)}
    jobs = (functools.partial(settled.labels.gather, numbers) for settled, numbers in columns.values())
    events = pl.DataFrame(dict(zip(columns, side_by_side(jobs), strict=True))).select(
        pl.Series("user", pseudonyms[user]), pl.Series("time", time).cast(pl.Datetime("us")), "place", "behavior",
        offset=pl.Series(offset) if known_at else pl.lit(None, pl.Int16))
    return events, twice, across, {"behaviors": behaviors.changed, "places": places.changed}


def _across(user: np.ndarray, time: np.ndarray, order: np.ndarray, ends: np.ndarray, files: np.ndarray) -> int:
    """How many rows have the user and the time of the one before them, which is of another file.

    Args:
        user: numbers `(N,)`, sorted.
        time: microseconds `(N,)`, sorted.
        order: which row each is, as they came `(N,)`.
        ends: of the pieces, in rows `(P,)`.
        files: of the pieces `(P,)`.
    """
    if len(ends) < 2 or (files == files[0]).all():
        return 0
    ties = np.flatnonzero((user[1:] == user[:-1]) & (time[1:] == time[:-1]))
    before, after = (files[np.searchsorted(ends, order[ties + step], side="right")] for step in (0, 1))
    return int((before != after).sum())
