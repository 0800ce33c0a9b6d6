"""When and where simulated people use their phones: sessions, working days, evenings out and trips.

Nothing here depends on what they do: the simulator draws the time and the place of an event before its behaviour.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from stages.common.hashing import spread, uniform

PLACES = (
    "home", "workplace", "campus", "on the way", "restaurant", "café", "shopping mall", "gym", "park", "karaoke bar",
    "airport", "hotel", "tourist spot",
)
_PLACE = {name: number for number, name in enumerate(PLACES)}

START = np.datetime64("2024-03-01T00:00:00", "us")
_START_WEEKDAY = 4  # Monday is 0

MEAN_SESSION = 3.0  # events
_LONGEST_SESSION = 15
_GAP_SECONDS = 240.0  # mean, between the events of a session

# Sessions started in each hour of a working day and of a day off, in proportion
_WORKDAY = np.array([2, 1, .4, .2, .2, .6, 2.5, 6, 6.5, 4.5, 4, 4, 6, 4.5, 4, 4, 4, 5, 6.5, 6, 6.5, 7, 6, 4])
_DAY_OFF = np.array([3, 1.6, .6, .3, .2, .3, 1, 2.5, 4.5, 5.5, 6, 6, 6, 5.5, 5.5, 5.5, 5.5, 5.5, 6, 6.5, 7, 7, 6.5, 5])

_EVENINGS = {"restaurant": .30, "shopping mall": .25, "gym": .22, "park": .15, "karaoke bar": .08}
_OUTINGS = {"shopping mall": .36, "park": .28, "café": .16, "restaurant": .14, "gym": .06}

# What a random number is for: the second key after the seed
(_GAP, _SIZE, _INNER, _FREE, _TIMES, _OUT, _WHERE, _TRIP) = range(8)
# How people differ: the dimensions of `spread`
(_RATE, _CLOCK, _WORK, _COMMUTE) = range(4)


@dataclass
class Outline:
    """All events of some users, before their behaviours are known; one entry an event, ordered by (user, time)."""

    user: np.ndarray  # position among the users asked for
    seconds: np.ndarray  # since START, whole
    place: np.ndarray  # number in PLACES
    weekend: np.ndarray  # bool
    trip_soon: np.ndarray  # bool: a trip begins within five days


def outline(seed: int, users: np.ndarray, days: int, events_per_day: float) -> Outline:
    """Times and places of the events of `users` (their numbers): each user's depend on the seed and number alone."""
    chronotype = np.clip(0.9 * ndtri(spread(seed, _CLOCK, users)), -2, 2.5)  # hours later than usual
    user, seconds = _times(seed, users, days, events_per_day, chronotype)
    plan = _Days(seed, users, days, chronotype)
    day, hour = seconds // 86400, seconds % 86400 / 3600
    return Outline(user, seconds, plan.place(user, day, hour), plan.weekend[day], plan.trip_soon[user, day])


def _times(
    seed: int, users: np.ndarray, days: int, events_per_day: float, chronotype: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Users and times of events: sessions as an inhomogeneous Poisson process, a few events in each."""
    rate = events_per_day / MEAN_SESSION * np.exp(np.clip(0.4 * ndtri(spread(seed, _RATE, users)), -1, 1) - 0.07)
    most = rate.max() * days
    sessions = np.arange(int(most + 8 * np.sqrt(most) + 20))
    gaps = -np.log(uniform(seed, _GAP, users[:, None], sessions))
    operational = np.cumsum(gaps, axis=1) / rate[:, None]  # in days of even intensity
    who, which = np.nonzero(operational < days)
    start = _real_hours(operational[who, which]) + chronotype[who]

    size = 1 + np.floor(np.log(uniform(seed, _SIZE, users[who], which)) / np.log(1 - 1 / MEAN_SESSION))
    size = np.minimum(size, _LONGEST_SESSION).astype(np.int64)
    session = np.repeat(np.arange(len(size)), size)
    place_in_session = np.arange(len(session)) - np.repeat(np.cumsum(size) - size, size)
    inner = -np.log(uniform(seed, _INNER, users[who[session]], which[session], place_in_session)) * _GAP_SECONDS
    inner = np.where(place_in_session == 0, 0, inner + 5)
    passed = np.cumsum(inner)
    passed -= np.repeat(passed[np.cumsum(size) - size], size)
    seconds = np.floor(start[session] * 3600 + passed).astype(np.int64)

    user = who[session]
    inside = (seconds >= 0) & (seconds < days * 86400)
    user, seconds = user[inside], seconds[inside]
    order = np.lexsort((seconds, user))
    return user[order], seconds[order]


def _real_hours(operational: np.ndarray) -> np.ndarray:
    """Hours since START at which `operational` days of even intensity have passed: busy hours pass slower."""
    week = np.concatenate([_DAY_OFF if (_START_WEEKDAY + day) % 7 >= 5 else _WORKDAY for day in range(7)])
    passed = np.concatenate([[0], np.cumsum(week)]) / week.sum() * 7
    return operational // 7 * 168 + np.interp(operational % 7, passed, np.arange(169))


class _Days:
    """The plan of every user's every day, as intervals in which the user is not at home."""

    def __init__(self, seed: int, users: np.ndarray, days: int, chronotype: np.ndarray):
        self._shape = (len(users), days)
        self._intervals: list[tuple[np.ndarray, np.ndarray, np.ndarray | int]] = []
        day = np.arange(days)
        self.weekend = (_START_WEEKDAY + day) % 7 >= 5
        self._keys = (seed, users[:, None], day[None, :])
        on_trip, arrival, departure = self._trips()
        self._go_to_work(chronotype, on_trip)
        self._go_out(chronotype, on_trip)
        self._travel(on_trip, arrival, departure)

    def place(self, user: np.ndarray, day: np.ndarray, hour: np.ndarray) -> np.ndarray:
        """Numbers in PLACES for moments; where intervals overlap, the later added wins."""
        place = np.full(len(user), _PLACE["home"], np.int8)
        for start, end, where in self._intervals:
            inside = (hour >= start[user, day]) & (hour < end[user, day])
            place[inside] = where if isinstance(where, int) else where[user[inside], day[inside]]
        return place

    def _random(self, purpose: int, number: int = 0) -> np.ndarray:
        seed, users, day = self._keys
        return uniform(seed, purpose, users, day, number)

    def _add(self, when: np.ndarray, start: np.ndarray, end: np.ndarray, where: str | np.ndarray) -> None:
        place = _PLACE[where] if isinstance(where, str) else where
        self._intervals.append((np.where(when, start, 99.0), np.broadcast_to(end, self._shape), place))

    def _go_to_work(self, chronotype: np.ndarray, on_trip: np.ndarray) -> None:
        seed, users, _ = self._keys
        kind = spread(seed, _WORK, users)
        student = (kind >= .62) & (kind < .84)
        base = np.where(student, _PLACE["campus"], _PLACE["workplace"])
        works = (kind < .84) & ~self.weekend & ~on_trip & (self._random(_FREE) > .06)
        commute = .4 + .7 * spread(seed, _COMMUTE, users)
        leaves = 7.9 + .5 * chronotype[:, None] + .5 * self._random(_TIMES)
        ends = np.where(student, 16.2, 17.6) + .3 * chronotype[:, None] + 1.6 * self._random(_TIMES, 1) ** 2
        self._add(works, leaves, ends + commute, "on the way")
        self._add(works, leaves + commute, ends, np.broadcast_to(base, self._shape))
        lunch, coffee = works & (self._random(_OUT, 0) < .35), works & (self._random(_OUT, 1) < .12)
        self._add(lunch, 12 + .3 * self._random(_TIMES, 2), np.array(12.9), "restaurant")
        self._add(coffee, 14.3 + .5 * self._random(_TIMES, 3), np.array(15.2), "café")
        self._home_at = np.where(works, ends + commute, 0)

    def _go_out(self, chronotype: np.ndarray, on_trip: np.ndarray) -> None:
        friday = (_START_WEEKDAY + np.arange(self._shape[1])) % 7 == 4
        evening = ~on_trip & (self._random(_OUT, 2) < np.where(self.weekend | friday, .42, .25))
        start = np.maximum(18.6 + 1.4 * self._random(_TIMES, 4), self._home_at + .3)
        end = np.minimum(start + 1.2 + 2 * self._random(_TIMES, 5), 23.2)
        self._outing(evening, start, end, _draw(_EVENINGS, self._random(_WHERE, 0)))
        daytime = ~on_trip & self.weekend & (self._random(_OUT, 3) < .5)
        start = 10 + .5 * chronotype[:, None] + 3 * self._random(_TIMES, 6)
        end = start + 1.5 + 2 * self._random(_TIMES, 7)
        self._outing(daytime, start, end, _draw(_OUTINGS, self._random(_WHERE, 1)))

    def _outing(self, when: np.ndarray, start: np.ndarray, end: np.ndarray, where: np.ndarray) -> None:
        way = np.where(where == _PLACE["karaoke bar"], .75, .4)  # hours to get there and back
        self._add(when, start - way, end + way, "on the way")
        self._add(when, start, end, where)

    def _trips(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Whether a user is on a trip on a day, and whether that day is its first or last; sets `trip_soon`."""
        seed, users, _ = self._keys
        days = self._shape[1]
        on_trip, first, last, soon = (np.zeros((self._shape[0], days + 45), bool) for _ in range(4))
        row = np.arange(self._shape[0])
        for month in range(days // 30 + 1):  # at most one trip begins in each thirty days
            goes = row[uniform(seed, _TRIP, users[:, 0], month, 0) < .4]
            start = month * 30 + (uniform(seed, _TRIP, users[:, 0], month, 1) * 26).astype(int)[goes]
            length = 2 + (uniform(seed, _TRIP, users[:, 0], month, 2) * 3).astype(int)[goes]
            for day in range(4):
                on_trip[goes[day < length], (start + day)[day < length]] = True
            first[goes, start], last[goes, start + length - 1] = True, True
            for day in range(1, 6):
                soon[goes[start >= day], (start - day)[start >= day]] = True
        self.trip_soon = soon[:, :days] & ~on_trip[:, :days]
        return on_trip[:, :days], first[:, :days], last[:, :days]

    def _travel(self, on_trip: np.ndarray, first: np.ndarray, last: np.ndarray) -> None:
        morning, evening = 9.5 + self._random(_TIMES, 8), 18 + 2 * self._random(_TIMES, 9)
        self._add(on_trip, np.array(0.0), np.array(24.0), "hotel")
        self._add(on_trip, morning, evening, "tourist spot")
        self._add(first, np.array(0.0), morning - 2, "home")
        self._add(first, morning - 2, morning + 2.5, "airport")
        self._add(last, evening - 1, evening + 2, "airport")
        self._add(last, evening + 2, np.array(24.0), "home")


def _draw(shares: dict[str, float], random: np.ndarray) -> np.ndarray:
    """Numbers in PLACES drawn with `shares`, which sum to 1."""
    numbers = np.array([_PLACE[name] for name in shares])
    return numbers[np.searchsorted(np.cumsum(list(shares.values()))[:-1], random, side="right")]
