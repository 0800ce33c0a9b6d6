"""Written times become local wall-clock time.

Offsets and daylight saving are resolved at the instant: 01:30 comes twice in the night in which clocks go back, and
events of the two hours then stand interleaved, since the table of events knows the wall clock only.
"""

import difflib
import functools
from datetime import datetime
from zoneinfo import available_timezones

import polars as pl

from stages.common.errors import UserError
from stages.events.rules import Rule, missing

_OFFSET = r"(?i)[:\d]\s*(z|[+-]\d{2}:?\d{2}|[+-]\d{2})$"
_ISO = "%Y-%m-%d %H:%M:%S%.f"
_SECONDS = "%Y-%m-%d %H:%M:%S"  # what most logs write, and Polars reads several times as fast
_FIRST, _AFTER_LAST = datetime(1990, 1, 1), datetime(2101, 1, 1)
_UNIX = {"unix": 1_000_000, "unix_ms": 1_000}  # microseconds in a unit


def check(time_format: str, time_zone: str) -> None:
    """Refuse an unknown time zone, and unix times without one.

    Raises:
        UserError: says which key of params.yaml to change.
    """
    if time_zone and not _known(time_zone):
        close = difflib.get_close_matches(time_zone, sorted(available_timezones()), n=1)
        hint = f"did you mean {close[0]!r}?" if close else "an IANA name such as Europe/Berlin would do"
        raise UserError(f"source.time_zone: {time_zone!r}: no such time zone; {hint}")
    if time_format in _UNIX and not time_zone:
        raise UserError(
            f"source.time_zone: empty, and source.time_format {time_format!r} counts from UTC: set the people's time "
            "zone, such as Europe/Berlin (or UTC, if hours of the day are not to be right)"
        )
    if time_format not in ("iso", *_UNIX) and "%" not in time_format:
        raise UserError(
            f"source.time_format: {time_format!r}: iso, unix, unix_ms or a pattern such as '%d.%m.%Y %H:%M:%S'"
        )


@functools.cache
def _known(time_zone: str) -> bool:
    return time_zone in available_timezones()


def local_times(values: pl.Series, time_format: str, time_zone: str) -> pl.DataFrame:
    """Columns `time` (Datetime in microseconds, naive) and `problem` (a Rule or null), a row for each value.

    Args:
        values: strings, numbers or datetimes. Datetimes (of Parquet) need no format.
    """
    if values.dtype == pl.Datetime and values.dtype.time_zone is None:
        quick = values.cast(pl.Datetime("us"))
    elif values.dtype == pl.String and time_format == "iso":
        quick = values.str.to_datetime(_SECONDS, time_unit="us", strict=False)
    else:
        return _parse_any(values, time_format, time_zone)
    within = quick.is_between(_FIRST, _AFTER_LAST, closed="left").fill_null(False)
    problem = pl.repeat(None, len(values), dtype=pl.String, eager=True)
    if not within.all():
        others = (~within).arg_true()
        found = _parse_any(values.gather(others), time_format, time_zone)
        quick, problem = quick.scatter(others, found["time"]), problem.scatter(others, found["problem"])
    return pl.DataFrame({"time": quick, "problem": problem})


def _parse_any(values: pl.Series, time_format: str, time_zone: str) -> pl.DataFrame:
    """What `local_times` says, of any values."""
    if isinstance(values.dtype, pl.Datetime):
        instant = values.cast(pl.Datetime("us", values.dtype.time_zone))
        return _result(values.is_null(), *_localise(instant, time_zone))
    text = values.cast(pl.String).str.strip_chars()
    absent = text.to_frame("text").select(missing(pl.col("text"))).to_series()
    if time_format in _UNIX:
        # integers first: a float has not the digits for microseconds
        scale = _UNIX[time_format]
        whole = text.cast(pl.Int64, strict=False)
        whole = pl.select(pl.when(whole.abs() < 2**62 // scale).then(whole * scale)).to_series()
        number = text.cast(pl.Float64, strict=False)
        fits = number.is_finite() & (number.abs() < 2.0**62 / scale)
        number = pl.select(pl.when(fits).then(number * scale)).to_series()
        instant = whole.fill_null(number.cast(pl.Int64)).cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
        return _result(absent, *_localise(instant, time_zone))
    if time_format == "iso":
        return _result(absent, *_iso(text, time_zone))
    try:
        read = text.str.to_datetime(time_format, time_unit="us", strict=False)
    except pl.exceptions.PolarsError as error:
        raise UserError(f"source.time_format: {time_format!r}: {error}") from None
    return _result(absent, *_localise(read, time_zone))


def _iso(text: pl.Series, time_zone: str) -> tuple[pl.Series, pl.Series]:
    """Wall-clock times, and whether a row is refused for its offset."""
    plain = text.str.to_datetime(_ISO, time_unit="us", strict=False)
    if plain.null_count() == text.null_count():
        return plain, pl.repeat(False, len(text), eager=True)
    text = text.str.replace(r"(?i)\s*utc$", "Z")
    offset = text.str.extract(_OFFSET)
    bare = text.str.replace(r"(?i)([:\d])\s*(?:z|[+-]\d{2}:?\d{2}|[+-]\d{2})$", "$1")
    dated = text.str.contains(r"^\d{4}-\d{2}-\d{2}$")  # its last part looks like an offset
    bare = bare.str.replace(r"(?i)^(\S{10})(?:t|\s+)", "$1 ")
    read = bare.str.to_datetime(_ISO, time_unit="us", strict=False)
    if read.null_count():
        read = read.fill_null(bare.str.to_datetime("%Y-%m-%d %H:%M", time_unit="us", strict=False))
    aware = offset.is_not_null() & ~dated
    if not time_zone or not aware.any():
        return read, aware
    digits = offset.str.replace_all(r"[^\d]", "")
    minutes = (digits.str.slice(0, 2).cast(pl.Int64, strict=False).fill_null(0) * 60
               + digits.str.slice(2, 2).cast(pl.Int64, strict=False).fill_null(0))
    minutes = minutes * pl.select(pl.when(offset.str.starts_with("-")).then(-1).otherwise(1)).to_series()
    instant = (read - pl.select(pl.duration(minutes=minutes)).to_series()).dt.replace_time_zone("UTC")
    local, _ = _localise(instant, time_zone)
    return pl.select(pl.when(aware).then(local).otherwise(read)).to_series(), pl.repeat(False, len(text), eager=True)


def _localise(instant: pl.Series, time_zone: str) -> tuple[pl.Series, pl.Series]:
    """Wall-clock times, and whether a row is refused for want of a time zone."""
    none = pl.repeat(False, len(instant), eager=True)
    if instant.dtype.time_zone is None:
        return instant, none
    if not time_zone:
        return instant.dt.replace_time_zone(None), instant.is_not_null()
    return instant.dt.convert_time_zone(time_zone).dt.replace_time_zone(None), none


def time_rule(absent: pl.Expr, offset: pl.Expr | bool = False) -> pl.Expr:
    """The rule that the column `time` breaks, or null: whether it was written at all, and with an `offset` too many."""
    return (
        pl.when(absent).then(pl.lit(Rule.NO_TIME.value))
        .when(pl.col("time").is_null()).then(pl.lit(Rule.TIME.value))
        .when(offset).then(pl.lit(Rule.OFFSET.value))
        .when(~pl.col("time").dt.year().is_between(1990, 2100)).then(pl.lit(Rule.TIME_RANGE.value))
    )


def _result(absent: pl.Series, time: pl.Series, refused: pl.Series) -> pl.DataFrame:
    frame = pl.DataFrame({"absent": absent, "time": time, "refused": refused})
    rule = time_rule(pl.col("absent"), pl.col("refused"))
    return frame.select(pl.when(rule.is_null()).then("time").alias("time"), problem=rule)
