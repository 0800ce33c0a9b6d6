"""When a line's event was: its local time, and the instants that it may have been.

A time is read by the params that read the log's, so that a line means what a row means. Order goes by instant, since
local time goes back an hour in one night of the year:

- a time with an offset is one instant;
- a local time in a known zone is one too, or in the hour that comes twice two: then the first of them that is not
  before the person's last event, so that 02:50 and 02:10 behind it are twenty minutes apart;
- of a local time in no known zone only the order of the lines is known: it may be up to an hour before the latest.
"""

import re
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta, timezone

from stages.common.errors import UserError
from stages.events import zones
from stages.events.offsets import EARLIEST, LATEST
from stages.events.rules import FIRST_YEAR, LAST_YEAR
from stages.events.settings import Source
from stages.events.times import WRITTEN, Written

_HOUR = timedelta(hours=1)
_EXAMPLE = "2024-05-06T16:20"
_OFFSET = re.compile(r"\s*(?:(?P<utc>z|utc)|(?P<hours>[+-]\d\d)(?::?(?P<minutes>\d\d))?)$", re.IGNORECASE)
_DAY = re.compile(r"\d{4}-\d\d-\d\d")
_EARLIEST, _LATEST = (timedelta(minutes=minutes) for minutes in (EARLIEST, LATEST))


@dataclass(frozen=True)
class Moment:
    """A local time, and the instants (naive, in UTC) that it may be, the earlier first; none where nobody knows."""

    local: datetime
    instants: tuple[datetime, ...] = ()

    def after(self, latest: "Moment | None") -> "Moment":
        """This moment, at the first of its instants that is not before the latest; how a person's next event is kept.

        Raises:
            UserError: it is before the latest.
        """
        if latest is None:
            return replace(self, instants=self.instants[:1])
        if self.instants and latest.instants:
            if later := [instant for instant in self.instants if instant >= latest.instants[0]]:
                return replace(self, instants=(later[0],))
        elif self.local >= latest.local - _HOUR:
            # the later of the two stays the mark, or the clock could go back hour by hour
            return self if self.local >= latest.local else latest
        raise UserError(f"time {self.local.isoformat()!r}: before the last event's, {latest.local.isoformat()!r}")


class TimeReader:
    """Reads the times of lines as stage `ingest` reads those of the log."""

    def __init__(self, source: Source):
        """Of a log's params.

        Raises:
            UserError: there is no such time zone, or keys contradict each other.
        """
        written = Written.of(source)
        self.zone, self.named, self.by_row = written.zone, written.named, written.offset
        self.utc, self.midnight = written.naive == "utc", written.dates == "midnight"

    def read(self, written: object) -> Moment:
        """The moment of a time: an ISO text or a datetime, local or with an offset.

        Raises:
            UserError: it is no such time, has an offset where the log's time zone is not set, or none where each time
                stays as it is written.
        """
        time = parsed(written, self.midnight)
        if self.utc and time.tzinfo is None:
            time = time.replace(tzinfo=UTC)
        if time.tzinfo is not None and not self.zone and not self.by_row:
            raise UserError(f"time {time.isoformat()!r}: has an offset; give local time, or set source.time_zone")
        if time.tzinfo is None and self.zone == WRITTEN and not self.by_row:
            raise UserError(f"time {time.isoformat()!r}: without an offset, and source.time_zone is written; give it, "
                            "as in 2024-05-06T16:20+02:00")
        return self._moment(time)

    def _moment(self, time: datetime) -> Moment:
        if time.tzinfo is not None:
            instant = time.astimezone(UTC).replace(tzinfo=None)
            local = zones.local_time(time, self.zone)[0] if self.named else time.replace(tzinfo=None)
            return Moment(local, (instant,))
        if not self.named:
            return Moment(time)
        both = (time.replace(tzinfo=zones.zone(self.zone), fold=fold).utcoffset() for fold in (0, 1))
        return Moment(time, tuple(sorted({time - offset for offset in both if offset is not None})))


def shown(value: object) -> str:
    """A value for a message, on one line and no longer than that."""
    text = repr(value) if isinstance(value, str | int | float | datetime | date | None) else type(value).__name__
    return text if len(text) <= 80 else f"{text[:77]}…"


def parsed(written: object, midnight: bool = False) -> datetime:
    """The datetime of an ISO text, or that is given; of a day without an hour its `midnight`, if that is wanted.

    Raises:
        UserError: there is none, or no year of a log.
    """
    try:
        time = written if isinstance(written, datetime) else _from_text(written, midnight)
    except ValueError:
        raise UserError(f"time {shown(written)}: not an ISO time such as {_EXAMPLE}") from None
    if not FIRST_YEAR <= time.year <= LAST_YEAR:
        raise UserError(f"time {shown(written)}: not between {FIRST_YEAR} and {LAST_YEAR}")
    return time


def _from_text(written: object, midnight: bool) -> datetime:
    if not isinstance(written, str):
        raise ValueError("no time")
    text = written.strip()
    offset = _OFFSET.search(text, len("2024-05-06T"))
    time = datetime.fromisoformat(text[: offset.start()] if offset else text)
    if midnight and _DAY.fullmatch(text):
        return time
    if len(text) <= len("2024-05-06") or time.tzinfo is not None:
        raise ValueError("a day without an hour, or an offset of another form")
    if offset is None:
        return time
    if offset["utc"]:
        return time.replace(tzinfo=UTC)
    minutes = int(offset["minutes"] or 0)
    shift = timedelta(hours=int(offset["hours"][1:]), minutes=minutes)
    shift = -shift if offset["hours"].startswith("-") else shift
    if minutes > 59 or not _EARLIEST <= shift <= _LATEST:
        raise ValueError("no offset")
    return time.replace(tzinfo=timezone(shift))
