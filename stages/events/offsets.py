"""Offsets from UTC as logs write them."""

import polars as pl

EARLIEST, LATEST = -12 * 60, 14 * 60
"""The offsets that places have, in minutes."""

PER_MINUTE = 60_000_000
"""Microseconds."""

_SUFFIX = r"(?i)\s*(z|utc|[+-]\d{2}:?\d{2}|[+-]\d{2})$"


def split(text: pl.Series, whole: pl.Series | None = None) -> tuple[pl.Series, pl.Series]:
    """Times without the offset behind them, and that offset as it is written, null where there is none.

    Args:
        whole: where text has no offset, whatever its end looks like.
    """
    suffix = text.str.extract(r"[:\d]" + _SUFFIX)
    if whole is not None:
        suffix = pl.select(pl.when(~whole).then(suffix)).to_series()
    bare = pl.when(suffix.is_null()).then(text).otherwise(text.str.replace(_SUFFIX, ""))
    return pl.select(bare).to_series(), suffix


def minutes(text: pl.Expr) -> pl.Expr:
    """The minutes, Int16, of offsets written as Z, UTC, +05:30, +0530, hours (5.5, -7) or minutes (330, -420).

    Null where it is none: no place is more than 12 hours behind or 14 hours ahead, a number between these hours and 60
    is neither hours nor minutes, and all minutes are quarters of an hour (530 is +05:30 that lost its form).
    """
    text = text.str.strip_chars().str.replace("−", "-", literal=True)
    text = pl.when(text.str.contains(r"(?i)^(?:utc|gmt)[+-]")).then(text.str.slice(3)).otherwise(text)
    clock = text.str.extract_groups(r"^([+-]?)(\d{1,2}):(\d{2})$").struct
    plain = text.str.extract_groups(r"^([+-])(\d{2})(\d{2})$").struct
    number = text.cast(pl.Float64, strict=False)
    hours = number.abs() <= LATEST // 60
    return _real(
        pl.when(text.str.contains(r"(?i)^(?:z|utc|gmt)$")).then(0.0)
        .when(clock.field("2").is_not_null()).then(_of_parts(clock))
        .when(plain.field("2").is_not_null()).then(_of_parts(plain))
        .when(hours).then(number * 60)
        .when((number.abs() >= 60) & (number % 15 == 0) & ~text.str.contains(r"^[+-]?0\d")).then(number)
    )


def of_suffix(suffix: pl.Expr) -> pl.Expr:
    """The minutes, Int16, of what `split` found; null where no place has such an offset, as +99:99 or -30."""
    parts = suffix.str.extract_groups(r"^([+-])(\d{2}):?(\d{2})?$").struct
    return _real(pl.when(parts.field("2").is_null()).then(0.0).otherwise(_of_parts(parts)))


def _of_parts(parts) -> pl.Expr:
    """Minutes of the groups sign, hours and minutes of a match; null where the minutes are more than 59."""
    rest = parts.field("3").cast(pl.Float64).fill_null(0)
    whole = parts.field("2").cast(pl.Float64) * 60 + rest
    return pl.when(rest < 60).then(pl.when(parts.field("1") == "-").then(-whole).otherwise(whole))


def _real(found: pl.Expr) -> pl.Expr:
    whole = found.is_finite() & (found == found.round()) & found.is_between(EARLIEST, LATEST)
    return pl.when(whole).then(found).cast(pl.Int16, strict=False)
