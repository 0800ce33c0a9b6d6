"""Rows of all files of a log become the tables `events` and `quarantine`.

A source (one file each in this folder) yields frames with the columns of ROWS; what follows is the same for all: users
become pseudonyms, labels are cleaned and mapped, each row that breaks a rule is set aside with the first rule that it
breaks, and what is left is sorted. Two rows that agree in every column of the log count once: the later is a duplicate.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from stages.common.params import Source
from stages.events import reading
from stages.events.hashing import pseudonym
from stages.events.rules import Rule, clean, label_rule, missing

# What a source yields: `line` from 1 (record, in Parquet); `fingerprint`, a hash of the whole row; `problem`, a Rule or
# null; `text`, the row without the user
ROWS = {
    "line": pl.Int64, "fingerprint": pl.UInt64, "problem": pl.String, "user": pl.String, "time": pl.Datetime("us"),
    "place": pl.String, "behavior": pl.String, "text": pl.String,
}


@dataclass(frozen=True)
class Format:
    """A log's format.

    Attributes:
        read: a file's rows, in frames of ROWS.
        finish: called once on all events (sorted, with every column of the table), for what needs the whole log.
    """

    read: Callable[[Path, Source], Iterator[pl.DataFrame]]
    finish: Callable[[pl.DataFrame], pl.DataFrame] = lambda events: events


@dataclass
class Log:
    """A log that was read: `rows` = events + quarantined."""

    events: pl.DataFrame
    quarantine: pl.DataFrame
    rows: int
    files: int


def read_log(log_format: Format, source: Source, names: pl.DataFrame | None) -> Log:
    """Read all files of a log.

    Args:
        names: a taxonomy (columns `raw`, `behavior`), or None.

    Raises:
        UserError: a file cannot be read at all; refused rows raise nothing.
    """
    files = reading.find_files(Path(source.path), source.files)
    accepted, refused, rows, users = [], [], 0, {}
    for number, file in enumerate(files):
        for frame in log_format.read(file, source):
            good, bad = _judge(frame.select(pl.col(name).cast(kind) for name, kind in ROWS.items()), names, users)
            accepted.append(good.with_columns(file=pl.lit(number, pl.UInt32)))
            refused.append(bad.with_columns(file=pl.lit(number, pl.UInt32)))
            rows += frame.height
    if not rows:
        return Log(_empty("user", "time", "place", "behavior"), _empty("file", "line", "rule", "text"), 0, len(files))
    events = pl.concat(accepted).sort("user", "time", maintain_order=True)
    first = events.select(pl.struct("user", "time", "fingerprint").is_first_distinct()).to_series()
    again = events.filter(~first).select(
        "line", pl.lit(Rule.DUPLICATE.value).alias("rule"),
        pl.concat_str(pl.col("time").dt.to_string(), "place", "behavior", separator=" | ").alias("text"), "file",
    )
    events = log_format.finish(events.filter(first).select("user", "time", "place", "behavior"))
    quarantine = pl.concat([*refused, again]).sort("file", "line")
    paths = pl.Series([file.as_posix() for file in files])
    quarantine = quarantine.select(paths.gather(quarantine["file"]).alias("file"), "line", "rule", "text")
    assert rows == events.height + quarantine.height
    return Log(events, quarantine, rows, len(files))


def _empty(*columns: str) -> pl.DataFrame:
    kinds = {"user": pl.UInt64, "time": pl.Datetime("us"), "line": pl.Int64}
    return pl.DataFrame(schema={name: kinds.get(name, pl.String) for name in columns})


def _judge(frame: pl.DataFrame, names: pl.DataFrame | None, users: dict[str, int]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Good rows (line, fingerprint, user, time, place, behavior) and bad ones (line, rule, text)."""
    frame = _map_unique(frame, "behavior", _behaviors(names), ["label", "label_rule"])
    frame = _map_unique(frame, "place", _places, ["area", "area_rule"])
    frame = frame.with_columns(
        rule=pl.when(pl.col("problem") == Rule.EVENT_TYPE.value).then(pl.col("problem"))
        .when(pl.col("problem").is_in([Rule.FIELDS.value, Rule.QUOTES.value, Rule.JSON.value])).then(pl.col("problem"))
        .when(missing(pl.col("user"))).then(pl.lit(Rule.NO_USER.value))
        .otherwise(pl.coalesce("problem", "label_rule", "area_rule"))
    )
    bad = frame.filter(pl.col("rule").is_not_null()).select("line", "rule", pl.col("text").fill_null(""))
    good = frame.filter(pl.col("rule").is_null())
    return good.select(
        "line", "fingerprint", _pseudonyms(good["user"].str.strip_chars(), users), "time",
        pl.col("area").alias("place"), pl.col("label").alias("behavior"),
    ), bad


def _map_unique(frame: pl.DataFrame, column: str, mapping: Callable, results: list[str]) -> pl.DataFrame:
    """Add `results`, computed once for each value of `column`: values are few and rows are many."""
    table = mapping(frame.select(column).unique()).select(column, *results)
    return frame.join(table, on=column, how="left", nulls_equal=True, maintain_order="left")


def _behaviors(names: pl.DataFrame | None) -> Callable[[pl.DataFrame], pl.DataFrame]:
    def judge(values: pl.DataFrame) -> pl.DataFrame:
        text = pl.col("behavior")
        values = values.with_columns(label=clean(text), label_rule=pl.when(missing(text)).then(
            pl.lit(Rule.NO_BEHAVIOR.value)).otherwise(label_rule(text)))
        if names is None:
            return values
        mapped = values.join(names.rename({"behavior": "mapped"}), left_on="label", right_on="raw", how="left")
        return mapped.with_columns(label="mapped", label_rule=pl.when(pl.col("label_rule") == Rule.NO_BEHAVIOR.value)
                                   .then("label_rule").when(pl.col("mapped").is_null())
                                   .then(pl.lit(Rule.TAXONOMY.value)))
    return judge


def _places(values: pl.DataFrame) -> pl.DataFrame:
    text = clean(pl.col("place"))
    absent = missing(pl.col("place"))
    return values.with_columns(
        area=pl.when(absent).then(pl.lit("unknown")).otherwise(text), area_rule=pl.when(~absent).then(label_rule(text)),
    )


def _pseudonyms(names: pl.Series, known: dict[str, int]) -> pl.Series:
    unique = names.unique()
    for name in unique:
        if name not in known:
            known[name] = pseudonym(name)
    table = pl.DataFrame({"name": unique, "user": pl.Series([known[name] for name in unique], dtype=pl.UInt64)})
    return names.to_frame("name").join(table, on="name", how="left", maintain_order="left")["user"]
