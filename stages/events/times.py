"""Written times become local wall-clock time and its offset from UTC, so that the instant is known where it can be.

A time is written with an offset or without one. `source.time_zone` says what becomes of the first kind, and
`source.naive_times` what the second is; an offset of each row (`source.columns.offset`) goes before the zone.
"""

import re
from dataclasses import dataclass
from datetime import datetime, time
from typing import Literal

import numpy as np
import polars as pl

from stages.common.errors import UserError
from stages.events import offsets, zones
from stages.events.clocks import since_midnight
from stages.events.rules import FIRST_YEAR, LAST_YEAR, Rule, missing
from stages.events.settings import Source

WRITTEN = "written"
"""The time zone of those who keep each time as it is written."""

COLUMNS = {"time": pl.Datetime("us"), "offset": pl.Int16, "elsewhere": pl.Boolean, "problem": pl.String}
"""What is made of times: local, minutes from UTC or null, whether it was written with another offset than the zone
has then, and the Rule that is broken or null."""

_ISO = "%Y-%m-%d %H:%M:%S%.f"
_SECONDS = "%Y-%m-%d %H:%M:%S"  # what most logs write, and Polars reads several times as fast
_DAY = r"^\d{4}-\d{2}-\d{2}$"
_FIRST, _AFTER_LAST = datetime(FIRST_YEAR, 1, 1), datetime(LAST_YEAR + 1, 1, 1)
_PER_SECOND = {"unix": 1, "unix_ms": 1_000, "unix_us": 1_000_000, "unix_ns": 1_000_000_000}
_HOURS = set("HIklTRrXc")  # directives that hold an hour


@dataclass(frozen=True)
class Written:
    """How a log writes its times: the keys of `source`, and which columns stand beside that of the time."""

    format: str = "iso"
    zone: str = ""
    naive: Literal["local", "utc"] = "local"
    dates: Literal["refuse", "midnight"] = "refuse"
    clock: bool = False
    offset: bool = False

    @classmethod
    def of(cls, source: Source) -> "Written":
        """As `source` says.

        Raises:
            UserError: two keys contradict each other, or one has no such value; says which to change.
        """
        found = cls(source.time_format, source.time_zone, source.naive_times, source.dates,
                    bool(source.columns.clock), bool(source.columns.offset))
        found.check()
        return found

    def check(self) -> None:
        """Raises: UserError: as `of`."""
        if self.zone not in ("", WRITTEN):
            zones.zone(self.zone)
        if not self.offset and self.zone in ("", WRITTEN):
            utc = (f"source.time_format {self.format!r} counts from UTC" if self.format in _PER_SECOND else
                   "source.naive_times is utc" if self.naive == "utc" else "")
            if utc:
                raise UserError(
                    f"source.time_zone: {self.zone or 'empty'}, and {utc}: set the people's time zone, such as "
                    "Europe/Berlin (or UTC, if hours of the day are not to be right), or name the column with each "
                    "row's offset in source.columns.offset"
                )
        if self.naive == "utc" and self.dates == "midnight" and not self.clock:
            raise UserError("source.naive_times: utc, and source.dates is midnight: a day without an hour is no moment "
                            "that another zone could tell; set source.naive_times to local, or source.dates to refuse")
        if self.format in ("iso", *_PER_SECOND):
            return
        letters = _directives(self.format)
        if not letters:
            raise UserError(f"source.time_format: {self.format!r}: iso, {', '.join(_PER_SECOND)} or a pattern such "
                            "as '%d.%m.%Y %H:%M:%S'")
        for letter, instead in (("s", "unix"), ("+", "iso")):
            if letter in letters:
                raise UserError(f"source.time_format: {self.format!r}: %{letter} cannot be read; set it to {instead}")
        if "Z" in letters:
            raise UserError(
                f"source.time_format: {self.format!r}: %Z cannot be read: a name such as CST is another offset in "
                "other places. Write offsets in the log and %z; or, where all rows have one name, spell it out (as in "
                "'%Y-%m-%d %H:%M:%S UTC') and set source.naive_times (utc) or source.time_zone"
            )
        if not letters & _HOURS and not self.clock and self.dates == "refuse":
            raise UserError(f"source.time_format: {self.format!r} is of days without an hour: name the column with the "
                            "time of day in source.columns.clock, or set source.dates to midnight")

    @property
    def named(self) -> bool:
        """Whether one zone is given."""
        return self.zone not in ("", WRITTEN)


def _directives(pattern: str) -> set[str]:
    return set(re.findall(r"%[-_0^#.:\d]*([A-Za-z+])", pattern.replace("%%", "")))


def read(fields: pl.DataFrame, written: Written) -> pl.DataFrame:
    """The frame of `COLUMNS`, a row for each row.

    Args:
        fields: `time` (text, numbers or datetimes, which need no format), and `clock` and `offset` where the log has
            them.
    """
    values = fields["time"]
    if written.clock or written.offset:
        moments = _parse_any(fields, written)
    elif isinstance(values.dtype, pl.Datetime) and values.dtype.time_zone is None:
        moments = _quick(values.cast(pl.Datetime("us")), fields, written)
    elif values.dtype == pl.String and written.format == "iso":
        moments = _quick(values.str.to_datetime(_SECONDS, time_unit="us", strict=False), fields, written)
    else:
        moments = _parse_any(fields, written)
    return _localised(moments, fields, written)


def _moments(wall: pl.Series, shift: pl.Series | None = None, problem: pl.Series | None = None) -> pl.DataFrame:
    """Times as they are written: `wall`, the offset behind it (`shift`, minutes, or null), and the `problem`."""
    none = pl.repeat(None, len(wall), dtype=pl.Int16, eager=True)
    return pl.DataFrame({
        "wall": wall.cast(pl.Datetime("us")), "shift": none if shift is None else shift.cast(pl.Int16),
        "problem": none.cast(pl.String) if problem is None else problem.cast(pl.String),
    })


def _quick(wall: pl.Series, fields: pl.DataFrame, written: Written) -> pl.DataFrame:
    """Most times are plain: only the others ask for care."""
    within = wall.is_between(_FIRST, _AFTER_LAST, closed="left").fill_null(False)
    if within.all():
        return _moments(wall)
    others = (~within).arg_true()
    careful, plain = _parse_any(fields[others], written), _moments(wall)
    return plain.with_columns(plain[name].scatter(others, careful[name]) for name in plain.columns)


def _parse_any(fields: pl.DataFrame, written: Written) -> pl.DataFrame:
    """The moments of any values."""
    values = fields["time"]
    if written.clock:
        moments = _with_clock(fields, written)
    elif isinstance(values.dtype, pl.Datetime):
        moments = _typed(values)
    elif values.dtype == pl.Date:
        moments = _moments(values.cast(pl.Datetime("us")))
    else:
        if values.dtype == pl.Float32 and written.format in _PER_SECOND:
            raise UserError("source.columns.time: a column of 32-bit floats tells a time of today to two minutes only; "
                            "export it as whole numbers or 64-bit floats")
        moments = _from_text(values.cast(pl.String).str.strip_chars(), written)
    absent = _absent(values)
    if written.clock:
        absent |= _absent(fields["clock"])
    return moments.with_columns(problem=pl.when(absent).then(pl.lit(Rule.NO_TIME.value))
                                .when(pl.col("problem").is_null() & pl.col("wall").is_null())
                                .then(pl.lit(Rule.TIME.value)).otherwise("problem"))


def _absent(values: pl.Series) -> pl.Series:
    if values.dtype.is_temporal():  # which no text stands in; Polars panics over that of some zones
        return values.is_null()
    return values.to_frame("value").select(missing(pl.col("value").cast(pl.String))).to_series()


def _from_text(text: pl.Series, written: Written) -> pl.DataFrame:
    if written.format in _PER_SECOND:
        wall = _unix(text, _PER_SECOND[written.format])
        return _moments(wall, pl.repeat(0, len(wall), dtype=pl.Int16, eager=True))
    if written.format == "iso":
        return _iso(text, written.dates)
    return _by_pattern(text, written.format)


def _typed(values: pl.Series) -> pl.DataFrame:
    """Datetimes of a Parquet file."""
    unit, zone = values.dtype.time_unit, values.dtype.time_zone
    instant = values.to_physical().cast(pl.Datetime(unit)).cast(pl.Datetime("us"))
    if zone is None:
        return _moments(instant)
    if zone in zones.names():
        known = instant.to_physical().fill_null(0).to_numpy()
        shift = pl.Series(zones.offsets(known, zone), dtype=pl.Int16)
    else:  # a zone that is an offset, or that nobody knows: the file counts from UTC
        named = pl.select(offsets.minutes(pl.lit(zone))).item()
        shift = pl.repeat(named or 0, len(values), dtype=pl.Int16, eager=True)
    wall = instant + pl.select(pl.duration(minutes=shift.cast(pl.Int64))).to_series()
    return _moments(wall, shift)


def _unix(text: pl.Series, per_second: int) -> pl.Series:
    """Times counted from 1970 in UTC: integers first, since a float has not the digits for microseconds."""
    times, over = max(1, 1_000_000 // per_second), max(1, per_second // 1_000_000)
    whole, number = text.cast(pl.Int64, strict=False), text.cast(pl.Float64, strict=False)
    whole = pl.select(pl.when(whole.abs() < 2**62 // times).then(whole * times // over)).to_series()
    fits = number.is_finite() & (number.abs() < 2.0**62 / times)
    number = pl.select(pl.when(fits).then((number * times / over).round())).to_series()
    return whole.fill_null(number.cast(pl.Int64, strict=False)).cast(pl.Datetime("us"))


def _iso(text: pl.Series, dates: str) -> pl.DataFrame:
    plain = text.str.to_datetime(_ISO, time_unit="us", strict=False)
    if plain.null_count() == text.null_count():
        return _moments(plain)
    dated = text.str.contains(_DAY)  # its last part looks like an offset
    bare, suffix = offsets.split(text, whole=dated)
    bare = bare.str.replace(r"(?i)^(\S{10})(?:t|\s+)", "$1 ")
    wall = bare.str.to_datetime(_ISO, time_unit="us", strict=False)
    if wall.null_count():
        wall = wall.fill_null(bare.str.to_datetime("%Y-%m-%d %H:%M", time_unit="us", strict=False))
    days = text.str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("us"))
    if dates == "midnight":
        wall = wall.fill_null(pl.select(pl.when(dated).then(days)).to_series())
    return _with_suffix(wall, suffix).with_columns(
        problem=pl.when(dated & days.is_not_null() & (dates == "refuse")).then(pl.lit(Rule.DATE.value))
        .otherwise("problem"))


def _with_suffix(wall: pl.Series, suffix: pl.Series) -> pl.DataFrame:
    """Times and the offsets written behind them, null where there is none."""
    frame = pl.DataFrame({"wall": wall, "suffix": suffix})
    shift = pl.when(pl.col("suffix").is_not_null()).then(offsets.of_suffix(pl.col("suffix")))
    frame = frame.with_columns(shift=shift)
    wrong = pl.col("wall").is_not_null() & pl.col("suffix").is_not_null() & pl.col("shift").is_null()
    problem = frame.select(pl.when(wrong).then(pl.lit(Rule.NO_OFFSET.value))).to_series()
    return _moments(frame["wall"], frame["shift"], problem)


def _by_pattern(text: pl.Series, pattern: str) -> pl.DataFrame:
    letters, suffix = _directives(pattern), None
    if "z" in letters:  # Polars would turn the time into UTC and drop the offset
        parts = text.str.extract_groups(r"^(.*)([+-]\d{2}:?\d{2}|[zZ])(.*)$").struct.unnest()
        suffix, text = parts["2"], pl.select(pl.concat_str(parts["1"], parts["3"]).str.strip_chars()).to_series()
        pattern = re.sub(r"%[:#]*z", "", pattern).strip()
    try:
        if letters & _HOURS:
            wall = text.str.to_datetime(pattern, time_unit="us", strict=False)
        else:
            wall = text.str.to_date(pattern, strict=False).cast(pl.Datetime("us"))
    except pl.exceptions.PolarsError as error:
        raise UserError(f"source.time_format: {pattern!r}: {error}") from None
    return _moments(wall) if suffix is None else _with_suffix(wall, suffix)


def _with_clock(fields: pl.DataFrame, written: Written) -> pl.DataFrame:
    """Moments whose day and time of day stand in two columns."""
    day, clock = fields["time"], fields["clock"]
    if day.dtype.is_temporal():
        wall = (_typed(day)["wall"] if isinstance(day.dtype, pl.Datetime) else day).cast(pl.Date)
        if day.dtype == pl.Datetime:  # a day that has an hour of its own is no day
            midnight = day.dt.time() == time(0)
            wall = pl.select(pl.when(midnight).then(wall)).to_series()
    elif written.format in _PER_SECOND:
        raise UserError(f"source.time_format: {written.format}, and source.columns.clock names a column: a time that "
                        "counts from 1970 holds the time of day; set source.columns.clock to ''")
    elif written.format != "iso" and _directives(written.format) & _HOURS:
        joined = fields.select(pl.concat_str(pl.col("time", "clock").cast(pl.String).str.strip_chars(), separator=" "))
        return _by_pattern(joined.to_series(), written.format)
    else:
        pattern = "%Y-%m-%d" if written.format == "iso" else written.format
        wall = day.cast(pl.String).str.strip_chars().str.to_date(pattern, strict=False)
    since, suffix = since_midnight(clock)
    return _with_suffix(wall.cast(pl.Datetime("us")) + since, suffix)


def _localised(moments: pl.DataFrame, fields: pl.DataFrame, written: Written) -> pl.DataFrame:
    """The frame of `COLUMNS` of the moments."""
    shift, problem = moments["shift"], moments["problem"]
    if written.naive == "utc":
        shift = shift.fill_null(0)
    aware = shift.is_not_null().to_numpy()
    if not written.zone and not written.offset:  # nothing is known of instants
        none = pl.repeat(None, len(shift), dtype=pl.Int16, eager=True)
        return _result(moments["wall"], none, _first_of(problem, aware, Rule.OFFSET))
    wall, shifted = moments["wall"].to_physical().fill_null(0).to_numpy(), shift.fill_null(0).to_numpy()
    instant = wall - shifted.astype(np.int64) * offsets.PER_MINUTE
    there, known = _there(wall, instant, aware, shifted, written)
    elsewhere = aware & (shifted != 0) & (shifted != there)
    if written.offset:
        own = fields.select(offsets.minutes(pl.col("offset").cast(pl.String))).to_series()
        blank = _absent(fields["offset"]).to_numpy()
        problem = _first_of(problem, ~blank & own.is_null().to_numpy(), Rule.NO_OFFSET)
        of_zone, there, known = there, np.where(blank, there, own.fill_null(0).to_numpy()), known | ~blank
        elsewhere = ~blank & (there != of_zone)
    problem = _first_of(problem, ~known, Rule.WITHOUT_OFFSET)
    local = np.where(aware, instant + there.astype(np.int64) * offsets.PER_MINUTE, wall)
    local = pl.select(pl.when(moments["wall"].is_not_null()).then(pl.Series(local).cast(pl.Datetime("us")))).to_series()
    return _result(local, pl.Series(there, dtype=pl.Int16), problem, pl.Series(elsewhere & written.named))


def _there(
    wall: np.ndarray, instant: np.ndarray, aware: np.ndarray, shift: np.ndarray, written: Written
) -> tuple[np.ndarray, np.ndarray]:
    """The offset of each time where the person was, int16, without a look at the row's own; and whether it is known."""
    if not written.named:
        return shift, aware & (written.zone == WRITTEN)
    there = zones.offsets(instant, written.zone)
    if not aware.all():
        there = np.where(aware, there, zones.wall_offsets(wall, written.zone))
    return there, np.ones(len(wall), bool)


def _first_of(problem: pl.Series, broken: np.ndarray, rule: Rule) -> pl.Series:
    """The problems, and `rule` where it is broken and there is none."""
    if not broken.any():
        return problem
    first = pl.when(problem.is_null() & pl.Series(broken)).then(pl.lit(rule.value)).otherwise(problem)
    return pl.select(first).to_series()


def _result(time: pl.Series, offset: pl.Series, problem: pl.Series, elsewhere: pl.Series | None = None) -> pl.DataFrame:
    frame = pl.DataFrame({"time": time, "offset": offset, "problem": problem}).with_columns(
        elsewhere=pl.lit(False) if elsewhere is None else elsewhere)
    rule = pl.coalesce("problem", time_rule())
    return frame.with_columns(problem=rule).with_columns(
        pl.when(pl.col("problem").is_null()).then("time").alias("time"),
        pl.when(pl.col("problem").is_null()).then("offset").alias("offset"),
        elsewhere=pl.col("elsewhere") & pl.col("problem").is_null(),
    ).select(list(COLUMNS))


def time_rule(absent: pl.Expr | bool = False) -> pl.Expr:
    """The rule that the column `time` breaks, or null; `absent` says whether it was written at all."""
    return (
        pl.when(absent).then(pl.lit(Rule.NO_TIME.value))
        .when(pl.col("time").is_null()).then(pl.lit(Rule.TIME.value))
        .when(~pl.col("time").dt.year().is_between(FIRST_YEAR, LAST_YEAR)).then(pl.lit(Rule.TIME_RANGE.value))
    )
