"""What one person did, in a few kilobytes, and what stands before a question counted over it.

An event takes 14 bytes. When `MOST_EVENTS` are kept, or `MOST_OWN` behaviours outside the vocabulary, the oldest
quarter of the events is forgotten, as if it had never been. So an answer is always that of `Habits.log_p` for a log
that has the events which are kept.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np

from stages.events.labels import UNKNOWN
from stages.events.zones import FIRST
from stages.past.counted import CONTEXTS, RECENT, Counted
from stages.windows.past import NONE

MOST_EVENTS = 4096
MOST_OWN = 256

_EVENT = np.dtype([("second", np.uint32), ("place", np.int32), ("number", np.int32), ("hour", np.int8),
                   ("weekday", np.int8)])
_SECOND = timedelta(seconds=1)
_ELSEWHERE = -2  # a place where neither the person nor anybody in training has been
_FIRST_ROOM = 8  # events
_NEAR = (np.arange(24)[:, None] - np.arange(24) + 1) % 24 <= 2  # an hour, the one before and the one after
_NO_LABEL = np.array([NONE])


class Known:
    """What all people share: numbers of the vocabulary's behaviours, in its order, and of the places of training."""

    def __init__(self, behaviors: Sequence[str], places: Sequence[str] = ()):
        self.numbers = {behavior: number for number, behavior in enumerate(behaviors)}
        # as stage ingest does: spellings that differ in case are one place
        self.places = {place.casefold(): code for code, place in enumerate(places)}


@dataclass(frozen=True)
class Circumstances:
    """When and where an event is.

    Attributes:
        second: since 1989, of the instant, or of local time where nobody knows the instant.
        hour: 0 to 23, of local time.
        weekday: 0 to 6, 0 is Monday.
        place: as it is written, "unknown" where it is not known.
    """

    second: int
    hour: int
    weekday: int
    place: str

    @classmethod
    def of(cls, instant: datetime, local: datetime, place: str | None) -> "Circumstances":
        return cls((instant - FIRST) // _SECOND, local.hour, local.weekday(), place or UNKNOWN)


class PersonalPast:
    """A person's events, numbered as `stages.windows.past` numbers them."""

    __slots__ = ("_events", "_folded", "_known", "_names", "_places", "count", "own")

    def __init__(self, known: Known):
        self._known = known
        self._events = np.empty(0, _EVENT)  # with room behind the first `count`
        self._places: dict[str, int] = {}  # those that nobody in training has been at
        self._names = 0  # bytes of the names
        self.count = 0
        self.own: dict[str, int] = {}  # numbers of the behaviours outside the vocabulary, in their order
        self._folded: dict[str, int] = {}  # the same: spellings that differ in case are one, as stage `ingest` has it

    @property
    def bytes(self) -> int:
        """What all this takes."""
        return sum(map(sys.getsizeof, (self, self._events, self._places, self.own, self._folded))) + self._names

    def append(self, at: Circumstances, behavior: str) -> int:
        """The person did something; its number among the person's candidates."""
        if self.count == MOST_EVENTS or len(self.own) == MOST_OWN:
            self._forget()
        number = self._known.numbers.get(behavior)
        if number is None:
            number = self._folded.get(behavior.casefold())
        if number is None:
            number = self._folded[behavior.casefold()] = self.own[behavior] = len(self._known.numbers) + len(self.own)
            self._names += sys.getsizeof(behavior)
        place = self._place(at.place)
        if place == _ELSEWHERE:
            place = self._places[at.place.casefold()] = len(self._known.places) + len(self._places)
            self._names += sys.getsizeof(at.place)
        if self.count == len(self._events):
            room = min(self.count + self.count // 4 + _FIRST_ROOM, MOST_EVENTS)
            self._events = np.concatenate([self._events, np.empty(room - self.count, _EVENT)])
        self._events[self.count] = (at.second, place, number, at.hour, at.weekday)
        self.count += 1
        return number

    def candidates(self) -> int:
        """How many there are."""
        return len(self._known.numbers) + len(self.own)

    def counted(self, at: Circumstances) -> Counted:
        """As `stages.past.counted.count` counts, what stands before an event there and then: one window."""
        events, width = self._events[: self.count], self.candidates()
        number, place = events["number"].astype(np.int64), events["place"]
        here, elapsed = self._place(at.place), np.maximum(at.second - events["second"].astype(np.int64), 0)
        weekend = at.weekday >= 5
        alike = {
            "hour": _NEAR[at.hour][events["hour"]], "place": place == here, "weekday": events["weekday"] == at.weekday,
            "weekend": (events["weekday"] >= 5) == weekend, "last": _follows(number, 1), "second": _follows(number, 2),
        }
        of_context = {name: number[np.logical_and.reduce([alike[part] for part in parts])] if parts else number
                      for name, parts in CONTEXTS.items()}
        since = np.full(width, np.inf)
        since[number] = elapsed  # of equal numbers the last one stays, as NumPy promises
        outside = np.arange(width) >= len(self._known.numbers)
        return Counted(
            allowed=np.ones((1, width), bool), outside=outside[None], label=_NO_LABEL,
            contexts={name: np.bincount(done, minlength=width)[None] for name, done in of_context.items()},
            recent={many: np.bincount(number[-many:], minlength=width)[None] for many in RECENT}, since=since[None],
            gap=elapsed[-1:] if self.count else np.array([np.inf]), last=number[-1:] if self.count else _NO_LABEL,
            hour=np.array([at.hour]), weekday=np.array([at.weekday]),
            stays=place[-1:] == here if self.count else np.zeros(1, bool),
        )

    def contexts(self, at: Circumstances) -> dict[str, np.ndarray]:
        """As `Markov.contexts` gives them, of one event."""
        places, size = len(self._known.places), len(self._known.numbers)
        code = self._known.places.get(at.place.casefold(), places + 1)
        last = int(self._events["number"][self.count - 1]) if self.count else NONE
        codes = {"hour": at.hour, "weekend": at.weekday >= 5, "place": code, "last": 1 + last if last < size else 0}
        return {name: np.array([value], np.int64) for name, value in codes.items()}

    def _place(self, name: str) -> int:
        name = name.casefold()
        code = self._known.places.get(name)
        return self._places.get(name, _ELSEWHERE) if code is None else code

    def _forget(self) -> None:
        """Forget the oldest quarter of the events, and the names that only those had."""
        while self.count == MOST_EVENTS or len(self.own) == MOST_OWN:
            self._events = self._events[-(-self.count // 4) : self.count].copy()
            self.count = len(self._events)
            self.own = _kept(self.own, self._events["number"], len(self._known.numbers))
            self._folded = {name.casefold(): number for name, number in self.own.items()}
            self._places = _kept(self._places, self._events["place"], len(self._known.places))
        self._names = sum(map(sys.getsizeof, (*self.own, *self._places)))


def _follows(number: np.ndarray, behind: int) -> np.ndarray:
    """Which events `(N,)` have, so many before them, the behaviour that the next event will have there."""
    found = np.zeros(len(number), bool)
    if len(number) > behind:
        found[behind:] = number[:-behind] == number[-behind]
    return found


def _kept(names: dict[str, int], codes: np.ndarray, first: int) -> dict[str, int]:
    """Of names with codes from `first` on those that `codes` `(N,)` still have; both get new ones in their order."""
    found, turn = np.unique(codes[codes >= first], return_inverse=True)
    codes[codes >= first] = first + turn
    by_code = {code: name for name, code in names.items()}
    return {by_code[code]: first + number for number, code in enumerate(found.tolist())}
