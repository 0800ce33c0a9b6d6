"""How a column's times are written, found by reading them with each way that is usual."""

import re
from typing import NamedTuple

import polars as pl

from stages.events import offsets, times
from stages.events.rules import missing

_LOOKED_AT = 400  # values
_ENOUGH = 0.9  # of them
_MANY_MORE = 3  # times
_NUMBERS = {"unix": (9e8, 2.5e9), "unix_ms": (9e11, 2.5e12), "unix_us": (9e14, 2.5e15), "unix_ns": (9e17, 2.5e18)}
_PATTERNS = [
    "%Y/%m/%d %H:%M:%S", "%Y/%m/%d %H:%M", "%d.%m.%Y %H:%M:%S", "%d.%m.%Y %H:%M", "%d.%m.%Y, %H:%M",
    "%d/%m/%Y %H:%M:%S", "%m/%d/%Y %H:%M:%S", "%d/%m/%Y %H:%M", "%m/%d/%Y %H:%M", "%d-%m-%Y %H:%M:%S",
    "%m-%d-%Y %H:%M:%S", "%d-%m-%Y %H:%M", "%m-%d-%Y %H:%M", "%d/%m/%Y %I:%M:%S %p", "%m/%d/%Y %I:%M:%S %p",
    "%d/%m/%Y %I:%M %p", "%m/%d/%Y %I:%M %p", "%d %b %Y %H:%M:%S", "%d %b %Y %H:%M", "%d %b %Y, %H:%M",
    "%b %d, %Y %H:%M:%S", "%b %d, %Y %I:%M:%S %p", "%a %b %d %H:%M:%S %z %Y", "%Y%m%d%H%M%S", "%Y%m%d %H%M%S",
    "%Y-%m-%dT%H:%M:%S%z", "%Y%m%dT%H%M%SZ",
]
_DAYS = ["%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%m-%d-%Y", "%Y/%m/%d", "%Y%m%d", "%d %b %Y"]
_CLOCK = r"^\d{1,2}:\d{1,2}(?::\d{1,2}(?:[.,]\d+)?)?\s*(?:[aApP][mM])?$"


class Way(NamedTuple):
    """A way in which times are written.

    Attributes:
        format: as in `source.time_format`.
        days: whether they are days without an hour.
        aware: whether they say how far from UTC they are, or count from there.
        offsets: the different offsets that they say.
    """

    format: str
    days: bool = False
    aware: bool = False
    offsets: tuple[int, ...] = ()


def ways(values: pl.Series) -> list[Way]:
    """The ways in which nine tenths of the values can be read, the likeliest first; none where they are no times."""
    if isinstance(values.dtype, pl.Datetime):
        return [Way("iso", aware=values.dtype.time_zone is not None)]
    if values.dtype == pl.Date:
        return [Way("iso", days=True)]
    text = values.cast(pl.String).to_frame("text").filter(~missing(pl.col("text")))["text"]
    text = text.gather_every(max(len(text) // _LOOKED_AT, 1)).str.strip_chars()
    if len(text) < 1 or text.str.contains(r"\d").mean() < _ENOUGH:
        return []
    if text.str.contains(r"^-?\d+(\.\d+)?$").mean() >= _ENOUGH:
        numbers = text.cast(pl.Float64, strict=False)
        found = [Way(name, aware=True) for name, (least, most) in _NUMBERS.items()
                 if (numbers.is_between(least, most)).mean() >= _ENOUGH]
        packed = [Way(pattern, days=len(pattern) < 9) for pattern in ("%Y%m%d%H%M%S", "%Y%m%d")
                  if _fits(text, pattern) and text.str.contains(r"^(?:19|20)\d+$").mean() >= _ENOUGH]
        return found + packed
    found = []
    read = times.read(text.to_frame("time"), times.Written("iso", times.WRITTEN, dates="midnight", naive="local"))
    without = times.read(text.to_frame("time"), times.Written("iso", "", dates="midnight"))
    aware = read["problem"].is_null()
    if (aware | without["problem"].is_null()).mean() >= _ENOUGH:
        days = text.str.contains(r"^\d{4}-\d\d-\d\d$").mean() >= _ENOUGH
        own = tuple(sorted(set(read["offset"].drop_nulls())))
        found.append(Way("iso", days, bool(aware.mean() >= _ENOUGH), own))
    elif text.str.contains(r"\d[:\d]").mean() >= _ENOUGH:
        found += [Way(pattern, days=pattern in _DAYS, aware="%z" in pattern) for pattern in [*_PATTERNS, *_DAYS]
                  if _fits(text, pattern)]
    return found


def _fits(text: pl.Series, pattern: str) -> bool:
    written = times.Written(pattern, "UTC", dates="midnight")
    return bool(times.read(text.to_frame("time"), written)["problem"].is_null().mean() >= _ENOUGH)


def is_clock(values: pl.Series) -> bool:
    """Whether the values are times of day."""
    if values.dtype == pl.Time or values.dtype.is_temporal():
        return values.dtype == pl.Time
    text = values.cast(pl.String).drop_nulls().head(_LOOKED_AT).str.strip_chars()
    return len(text) > 0 and bool(text.str.contains(_CLOCK).mean() >= _ENOUGH)


def is_offset(values: pl.Series) -> bool:
    """Whether the values can be offsets from UTC."""
    if values.dtype.is_temporal():
        return False
    text = values.cast(pl.String).drop_nulls().head(_LOOKED_AT)
    found = text.to_frame("text").select(offsets.minutes(pl.col("text")).is_not_null()).to_series()
    return len(text) > 0 and bool(found.mean() >= _ENOUGH)


def day_of(values: pl.Series, alike: list[Way]) -> Way | None:
    """The way of two that differ in which number is the day in which the day takes many more values than the month."""
    numbers = values.cast(pl.String).str.extract_groups(r"^\s*(\d{1,2})\D(\d{1,2})\D").struct.unnest()
    first, second = (numbers[name].n_unique() for name in numbers.columns)
    if max(first, second) < _MANY_MORE * min(first, second):
        return None
    return next((way for way in alike if way.format.startswith("%d" if first > second else "%m")), None)


def twins(found: list[Way]) -> list[Way]:
    """The ways among those found that differ in which of two numbers is the day: what is 3/4/2024?"""
    plain = re.compile(r"%[dm]")
    first = plain.sub("%?", found[0].format) if found else ""
    return [way for way in found if plain.sub("%?", way.format) == first]
