"""The time of day where it stands in a column of its own."""

import polars as pl

from stages.events import offsets

_PARTS = r"^(\d{1,2}):(\d{1,2})(?::(\d{1,2})(?:[.,](\d{1,9}))?)?\s*([aApP])?[mM]?$"


def since_midnight(clock: pl.Series) -> tuple[pl.Series, pl.Series]:
    """What has passed of the day (a duration in microseconds, null where it is no time of day), and an offset's text.

    Args:
        clock: times of day of a Parquet file, or text such as 7:05, 07:05:09.25, 7:05 PM or 07:05:09+02:00.
    """
    if clock.dtype == pl.Time:
        return clock.cast(pl.Duration("us")), pl.repeat(None, len(clock), dtype=pl.String, eager=True)
    text = clock.cast(pl.String).str.strip_chars()
    bare, suffix = offsets.split(text)
    found = bare.str.extract_groups(_PARTS).struct.unnest()
    hour, minute, second = (found[name].cast(pl.Int64, strict=False) for name in "123")
    second, half = second.fill_null(0), found["5"].str.to_lowercase()
    micros = found["4"].fill_null("").str.pad_end(9, "0").str.slice(0, 6).cast(pl.Int64, strict=False)
    twelve = half.is_not_null()
    sound = (minute < 60) & (second < 60) & ((~twelve & (hour < 24)) | (twelve & hour.is_between(1, 12)))
    hours = pl.select(pl.when(twelve).then(hour % 12 + pl.when(half == "p").then(12).otherwise(0)).otherwise(hour))
    since = ((hours.to_series() * 60 + minute) * 60 + second) * 1_000_000 + micros
    return pl.select(pl.when(sound).then(since)).to_series().cast(pl.Duration("us")), suffix
