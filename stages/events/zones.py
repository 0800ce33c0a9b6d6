"""Local time and its offset from UTC, by the rules of the installed package `tzdata`.

Neither the system's table nor the one that Polars has compiled in: rules change every year, and a log must give the
same events on every machine. The package is pinned in pyproject.toml.
"""

import difflib
import functools
from datetime import datetime, timedelta
from importlib import resources
from typing import NamedTuple
from zoneinfo import ZoneInfo

import numpy as np

from stages.common.errors import UserError
from stages.events.offsets import PER_MINUTE

# Where times may lie (rules.py: 1990 to 2100), and a day before and after
FIRST, LAST = datetime(1989, 12, 31), datetime(2101, 1, 2)
_EPOCH = datetime(1970, 1, 1)
_STEP = 6 * 86_400  # seconds; tests hold that no zone has two changes within them
_MICROSECONDS = 1_000_000


@functools.cache
def zone(name: str) -> ZoneInfo:
    """The zone of an IANA name.

    Raises:
        UserError: there is none; names the one that was meant.
    """
    if name not in names():
        close = difflib.get_close_matches(name, sorted(names()), n=1)
        hint = f"did you mean {close[0]!r}?" if close else "an IANA name such as Europe/Berlin would do"
        raise UserError(f"source.time_zone: {name!r}: no such time zone; {hint}")
    with resources.files("tzdata").joinpath("zoneinfo", *name.split("/")).open("rb") as file:
        return ZoneInfo.from_file(file, key=name)


@functools.cache
def names() -> frozenset[str]:
    """The IANA names that the package knows."""
    return frozenset(resources.files("tzdata").joinpath("zones").read_text().split())


def local_time(moment: datetime, name: str) -> tuple[datetime, int]:
    """The wall-clock time (naive) in the zone `name` and its offset in minutes, of a moment that knows its own offset.

    >>> local_time(datetime.fromisoformat("2026-12-01T12:00Z"), "America/Vancouver")
    (datetime.datetime(2026, 12, 1, 5, 0), -420)
    """
    there = moment.astimezone(zone(name))
    return there.replace(tzinfo=None), _minutes(there.utcoffset())


def local_offset(wall: datetime, name: str) -> int:
    """The offset in minutes of a wall-clock time (naive) in the zone `name`, as `wall_offsets` takes it."""
    return _minutes(wall.replace(tzinfo=zone(name), fold=0).utcoffset())


def offsets(instants: np.ndarray, name: str) -> np.ndarray:
    """The offset in minutes, int16 `(N,)`, of each instant (microseconds since 1970 in UTC, int64) in the zone `name`.

    Right from FIRST to LAST; what lies outside gets the offset of the nearest of these.
    """
    table = _table(name)
    return table.offset[np.searchsorted(table.instant, instants, side="right")]


def wall_offsets(walls: np.ndarray, name: str) -> np.ndarray:
    """The offset in minutes, int16 `(N,)`, of each wall-clock time (microseconds since 1970, int64) in the zone `name`.

    A time that comes twice, when clocks go back, is taken as the first of the two. A time that no clock showed, when
    clocks go forward, is taken by the offset before: 02:30 is what was half an hour after the change.
    """
    table = _table(name)
    return table.offset[np.searchsorted(table.wall, walls, side="right")]


class _Table(NamedTuple):
    """A zone's changes `(C,)`, in microseconds, and the offsets `(C + 1,)` before, between and after them."""

    instant: np.ndarray
    wall: np.ndarray  # as a clock shows that knows of the change only when it cannot help it
    offset: np.ndarray


@functools.cache
def _table(name: str) -> _Table:
    """Looked up step by step; where a step's two ends differ, to the second."""
    found, first, last = zone(name), *((moment - _EPOCH) // timedelta(seconds=1) for moment in (FIRST, LAST))
    steps = range(first, last + 1, _STEP)
    at_steps = [_offset(found, second) for second in steps]
    changes, offset = [], [at_steps[0]]
    for step, before, after in zip(steps, at_steps, at_steps[1:], strict=False):
        if before == after:
            continue
        low, high = step, step + _STEP  # the change comes after `low`, and at `high` or before
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if _offset(found, middle) == before else (low, middle)
        changes.append(high)
        offset.append(after)
    instant, shift = np.array(changes, np.int64) * _MICROSECONDS, np.array(offset, np.int16)
    wall = instant + np.maximum(shift[:-1], shift[1:]).astype(np.int64) * PER_MINUTE
    return _Table(instant, wall, shift)


def _offset(found: ZoneInfo, second: int) -> int:
    moment = _EPOCH.replace(tzinfo=found) + timedelta(seconds=second)  # the time of day in UTC, as `fromutc` wants it
    return _minutes(found.fromutc(moment).utcoffset())


def _minutes(offset: timedelta | None) -> int:
    assert offset is not None and not offset % timedelta(minutes=1), offset  # since 1972 no zone has seconds
    return offset // timedelta(minutes=1)
