"""Rows of all files of a log become the tables `events` and `quarantine`.

A source (one file each in this folder) yields pieces that make frames with the columns of ROWS; what follows is the
same for all: users become pseudonyms, labels are cleaned and mapped, each row that breaks a rule is set aside with the
first rule that it breaks, and what is left is sorted. Two rows that agree in every column of the log count once: the
later is a duplicate. Until they are sorted, rows are kept as numbers: fifty million of them take some two gigabytes.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from stages.common.console import track
from stages.common.hashing import pseudonym
from stages.common.parallel import side_by_side
from stages.events.settings import Source
from stages.events import reading
from stages.events.order import repeated, stable_order
from stages.events.rules import Rule, clean, label_rule, missing
from stages.events.values import Values

# What a source's pieces make: `line` from 1 (record, in Parquet), rising; `fingerprint`, a hash of the whole row;
# `problem`, a Rule or null; beside them `text`, a struct of the row's fields but the user's, in their order
ROWS = {
    "line": pl.Int64, "fingerprint": pl.UInt64, "problem": pl.String, "user": pl.String, "time": pl.Datetime("us"),
    "place": pl.String, "behavior": pl.String,
}
_EVENTS = ("user", "time", "place", "behavior")
_MEGABYTE = 1e6


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
    """A log that was read: `rows` = events + quarantined."""

    events: pl.DataFrame
    quarantine: pl.DataFrame
    rows: int
    files: int


@dataclass
class _Accepted:
    """The rows that break no rule, by column and piece, and the file of each piece."""

    columns: dict[str, list[np.ndarray]] = field(default_factory=dict)
    files: list[int] = field(default_factory=list)

    def add(self, columns: dict[str, np.ndarray], file: int) -> None:
        for name, values in columns.items():
            self.columns.setdefault(name, []).append(values)
        self.files.append(file)

    def pop(self, name: str, kind: np.dtype | None = None) -> np.ndarray:
        """A whole column, of another kind if one is given; its pieces are let go."""
        return np.concatenate(self.columns.pop(name), dtype=kind, casting="unsafe")


def read_log(log_format: Format, source: Source, names: pl.DataFrame | None) -> Log:
    """Read all files of a log.

    Args:
        names: a taxonomy (columns `raw`, `behavior`), or None.

    Raises:
        UserError: a file cannot be read at all; refused rows raise nothing.
    """
    files = reading.find_files(Path(source.path), source.files)
    values = {"user": Values(_users), "place": Values(_places), "behavior": Values(_behaviors(names))}
    accepted, refused, rows = _Accepted(), [], 0
    with track("reading the log, MB", sum(file.stat().st_size for file in files) / _MEGABYTE) as bar:
        for number, file in enumerate(files):
            before = 0
            jobs = (functools.partial(_judge, piece, values) for piece in log_format.read(file, source))
            for good, bad, height, end in side_by_side(jobs):
                accepted.add(good, number)
                refused.append(bad.with_columns(file=pl.lit(number, pl.UInt32)))
                rows += height
                bar.advance((end - before) / _MEGABYTE)
                before = end
    if not rows:
        return Log(_empty(*_EVENTS), _empty("file", "line", "rule", "text"), 0, len(files))
    events, again = _sorted(accepted, {name: found.known() for name, found in values.items()})
    events = log_format.finish(events)
    quarantine = pl.concat([*refused, again]).sort("file", "line")
    paths = pl.Series([file.as_posix() for file in files])
    quarantine = quarantine.select(paths.gather(quarantine["file"]).alias("file"), "line", "rule", "text")
    assert rows == events.height + quarantine.height
    return Log(events, quarantine, rows, len(files))


def _empty(*columns: str) -> pl.DataFrame:
    kinds = {"user": pl.UInt64, "time": pl.Datetime("us"), "line": pl.Int64}
    return pl.DataFrame(schema={name: kinds.get(name, pl.String) for name in columns})


def _judge(
    piece: reading.Piece, values: dict[str, Values]
) -> tuple[dict[str, np.ndarray], pl.DataFrame, int, int]:
    """Good rows (by column: line, fingerprint, user, time, place, behavior), bad ones (line, rule, text), how many rows
    there are, and the piece's end. Strings of good rows are numbers of `values`, times are microseconds."""
    frame = piece.parse()
    height, text = frame.height, frame["text"]
    frame = frame.select(pl.col(name).cast(kind) for name, kind in ROWS.items())
    numbers = {name: found.numbers(frame[name]) for name, found in values.items()}
    bad = frame["problem"].is_not_null().to_numpy()
    for name, found in values.items():
        bad = bad | found.refused(numbers[name])
    columns = numbers | {"fingerprint": frame["fingerprint"].to_numpy(), "line": _short(frame["line"].to_numpy()),
                         "time": frame["time"].to_physical().to_numpy()}
    if not bad.any():
        return columns, _empty("line", "rule", "text"), height, piece.end
    good = ~bad
    rules = {name: found.known()["rule"].gather(numbers[name][bad]) for name, found in values.items()}
    mask = pl.Series(bad)
    set_aside = frame.filter(mask).select(
        "line",
        rule=pl.when(pl.col("problem") == Rule.EVENT_TYPE.value).then(pl.col("problem"))
        .when(pl.col("problem").is_in([Rule.FIELDS.value, Rule.QUOTES.value, Rule.JSON.value])).then(pl.col("problem"))
        .when(rules["user"].is_not_null()).then(pl.lit(Rule.NO_USER.value))
        .otherwise(pl.coalesce("problem", rules["behavior"], rules["place"])),
        text=text.filter(mask).struct.unnest().select(
            pl.concat_str(pl.all().cast(pl.String), separator=" | ", ignore_nulls=True)).to_series().fill_null(""),
    )
    return {name: column[good] for name, column in columns.items()}, set_aside, height, piece.end


def _short(lines: np.ndarray) -> np.ndarray:
    """Line numbers in half the memory, where they fit."""
    return lines.astype(np.uint32) if len(lines) and lines[-1] < 2**32 else lines


def _users(names: pl.Series) -> pl.DataFrame:
    rule = pl.when(missing(pl.col("name"))).then(pl.lit(Rule.NO_USER.value))
    known = [pseudonym(name) for name in names.str.strip_chars()]
    return names.to_frame("name").select(rule=rule, user=pl.Series(known, dtype=pl.UInt64))


def _behaviors(names: pl.DataFrame | None) -> Callable[[pl.Series], pl.DataFrame]:
    def judge(values: pl.Series) -> pl.DataFrame:
        text = pl.col("behavior")
        frame = values.to_frame("behavior").select(
            label=clean(text), rule=pl.when(missing(text)).then(pl.lit(Rule.NO_BEHAVIOR.value))
            .otherwise(label_rule(text)),
        )
        if names is None:
            return frame
        mapped = frame.join(names.rename({"behavior": "mapped"}), left_on="label", right_on="raw", how="left",
                            maintain_order="left")
        return mapped.select(label="mapped", rule=pl.when(pl.col("rule") == Rule.NO_BEHAVIOR.value).then("rule")
                             .when(pl.col("mapped").is_null()).then(pl.lit(Rule.TAXONOMY.value)))
    return judge


def _places(values: pl.Series) -> pl.DataFrame:
    place = pl.col("place")
    absent = missing(place)
    return values.to_frame("place").select(
        label=pl.when(absent).then(pl.lit("unknown")).otherwise(clean(place)),
        rule=pl.when(~absent).then(label_rule(clean(place))),
    )


def _sorted(accepted: _Accepted, known: dict[str, pl.DataFrame]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The events, sorted, and the duplicates as rows of the quarantine (line, rule, text, file)."""
    ends = np.cumsum([len(values) for values in accepted.columns["user"]])
    pseudonyms, rank = np.unique(known["user"]["user"].to_numpy(), return_inverse=True)
    time = accepted.pop("time")
    order, user = stable_order(rank.astype(np.uint32)[accepted.pop("user")], time)
    # the fewer bytes a value has, the more of them the caches hold while they are put in order
    labels = (accepted.pop(name, np.min_scalar_type(known[name].height)) for name in ("place", "behavior"))
    time, place, behavior = side_by_side(functools.partial(np.take, column, order) for column in (time, *labels))
    again = repeated(user, time, accepted.pop("fingerprint"), order)
    rows = order[again]  # as they came
    twice = _strings(known, place[again], behavior[again]).select(
        pl.Series("line", accepted.pop("line")[rows].astype(np.int64)),
        pl.lit(Rule.DUPLICATE.value).alias("rule"),
        pl.concat_str(pl.Series("time", time[again]).cast(pl.Datetime("us")).dt.to_string(), "place", "behavior",
                      separator=" | ").alias("text"),
        pl.Series("file", np.array(accepted.files)[np.searchsorted(ends, rows, side="right")], dtype=pl.UInt32),
    )
    del order
    if len(again):
        user, time, place, behavior = (np.delete(column, again) for column in (user, time, place, behavior))
    events = _strings(known, place, behavior).select(
        pl.Series("user", pseudonyms[user]), pl.Series("time", time).cast(pl.Datetime("us")), "place", "behavior")
    return events, twice


def _strings(known: dict[str, pl.DataFrame], place: np.ndarray, behavior: np.ndarray) -> pl.DataFrame:
    """Columns `place` and `behavior`: the labels of their numbers."""
    columns = {"place": place, "behavior": behavior}
    jobs = (functools.partial(known[name]["label"].gather, numbers) for name, numbers in columns.items())
    return pl.DataFrame(dict(zip(columns, side_by_side(jobs), strict=True)))
