"""A log like the paper's, of people whose p*(behaviour | everything before) is known exactly.

The time and the place of an event are drawn first (`days`). Then its behaviour is drawn from p*, the normalised
product of non-negative factors (`habits`): a base rate, the person's taste, the hour and the kind of day, the
place, and what the person did before. People do not influence each other.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy.special import ndtri

from stages.common.hashing import pseudonym, spread, uniform
from stages.common.parallel import side_by_side
from stages.events.simulator.days import PLACES, START, Outline, outline
from stages.events.simulator.habits import CONDITIONS, HABITS, TRIGGERS

BEHAVIORS = tuple(habit.name for habit in HABITS)

_NUMBER = {name: number for number, name in enumerate(BEHAVIORS)}
_SHARES = np.array([habit.share for habit in HABITS]) / sum(habit.share for habit in HABITS)
_MINUTES_OF_SESSION = 30
_PARCEL_HOURS = (20.0, 110.0)  # after the payment
_PHASES = {"learns to drive": (.15, 25), "looks for a home": (.14, 20), "looks for a job": (.32, 30)}  # people, days

_BLOCK = 2048  # people simulated at once: bounds the memory, changes nothing else
_CHOICE = 100  # the purpose of the numbers that behaviours are drawn with, beside those of `days`
_PHASE, _DOES, _TASTE = 4, 10, 10 + len(HABITS)  # dimensions of `spread`, behind those of `days`

# Log base rates that `calibrate()` found. Any change to the factors asks for new ones: a test holds the shares.
BASE = np.array([
    0, -1.788, -2.314, -2.326, -2.78, -3.05, -2.708, -3.03, -3.671, -3.35, -3.101, -3.253, -3.774, -3.89, -4.106,
    -6.381, -6.023, -5.552, -5.832, -8.357, -7.045, -6.706, -7.04, -6.115, -6.376, -10.033, -10.312, -7.4, -11.411,
    -8.637, -9.925, -12.88, -10.399, -9.211, -11.111,
])


def _log(values) -> np.ndarray:
    return np.log(np.asarray(values, float))


def _tables() -> tuple[np.ndarray, np.ndarray]:
    """Log factors of (weekend, hour, place) as (2 * 24 * places, behaviours), and of the bits of CONDITIONS."""
    hours = np.array([[next((f for (a, b), f in h.hours.items() if a <= hour < b), h.other_hours) for h in HABITS]
                      for hour in range(24)])
    weekend = np.array([[1.0] * len(HABITS), [h.weekend for h in HABITS]])
    places = np.array([[h.places.get(place, h.elsewhere) for h in HABITS] for place in PLACES])
    moment = _log(weekend)[:, None, None] + _log(hours)[None, :, None] + _log(places)[None, None]
    state = np.arange(2 ** len(CONDITIONS))[:, None]
    bit = np.array([CONDITIONS.index(h.when) if h.when else 0 for h in HABITS])
    holds = ((state >> bit) & 1).astype(bool)
    condition = np.where(holds, _log([h.factor for h in HABITS]), 0)
    return moment.reshape(-1, len(HABITS)), condition


_MOMENT, _CONDITION = _tables()
_AGAIN = _log([habit.again for habit in HABITS])
_TODAY = _log([habit.today for habit in HABITS])
_REST = np.array([habit.rest for habit in HABITS]) * 3600
_RESTING = np.log(0.01)


@dataclass
class State:
    """What p* knows of some users at their next event. Arrays are (users,) or (users, behaviours)."""

    taste: np.ndarray  # log weights
    moment: np.ndarray  # row of the table of (weekend, hour, place)
    condition: np.ndarray  # bits of CONDITIONS
    last: np.ndarray  # the behaviour before, -1 for none
    gap: np.ndarray  # seconds since it
    age: np.ndarray  # seconds since each behaviour was done last, infinite for never


def probabilities(state: State, base: np.ndarray = BASE) -> np.ndarray:
    """p*: shape (users, behaviours), float32, rows sum to 1 up to rounding."""
    logits = base + state.taste + _MOMENT[state.moment] + _CONDITION[state.condition]
    logits += np.where(state.age < 86400, _TODAY, 0)
    logits += np.where(state.age < _REST, _RESTING, 0)
    for trigger in TRIGGERS:
        age = state.age[:, _NUMBER[trigger.cause]]
        active = (age >= trigger.after * 3600) & (age < trigger.until * 3600)
        logits[:, _NUMBER[trigger.effect]] += np.log(trigger.factor) * active
    repeats = np.flatnonzero((state.last >= 0) & (state.gap < _MINUTES_OF_SESSION * 60))
    logits[repeats, state.last[repeats]] += _AGAIN[state.last[repeats]]
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def sample(p: np.ndarray, random: np.ndarray) -> np.ndarray:
    """One behaviour of each row of `p` (users, behaviours) for a `random` number of each row, in (0, 1)."""
    below = np.cumsum(p, axis=1, dtype=np.float64)
    return (below < (random * below[:, -1])[:, None]).sum(axis=1)


def simulate(
    seed: int, users: np.ndarray, days: int, events_per_day: float, base: np.ndarray = BASE
) -> tuple[Outline, np.ndarray, np.ndarray]:
    """The events of `users` (their numbers) and the p* that each was drawn from.

    Returns:
        An Outline, the behaviours (numbers in BEHAVIORS) and p* of shape (events, behaviours), float32. A user's
        events depend on the seed and the user's number, on nothing else.
    """
    plan = outline(seed, users, days, events_per_day)
    behavior = np.zeros(len(plan.user), np.int64)
    p = np.zeros((len(plan.user), len(HABITS)), np.float32)
    counts = np.bincount(plan.user, minlength=len(users))
    first = np.cumsum(counts) - counts
    order = np.argsort(-counts, kind="stable")  # busiest first: those with a k-th event are always the first ones
    moment = (plan.weekend * 24 + plan.seconds % 86400 // 3600) * len(PLACES) + plan.place
    condition = _conditions(seed, users, plan)
    random = uniform(seed, _CHOICE, users[plan.user], np.arange(len(plan.user)) - first[plan.user])

    taste = _tastes(seed, users)[order]
    done = np.full((len(users), len(HABITS)), -np.inf)
    paid = np.full(len(users), np.inf)  # when a parcel was paid for that was not yet picked up
    last, last_time = np.full(len(users), -1), np.full(len(users), -np.inf)
    live_until = np.searchsorted(-counts[order], -np.arange(counts.max(initial=0)), side="left")
    for step, live in enumerate(live_until):
        at = first[order[:live]] + step
        now = plan.seconds[at].astype(float)
        waits = (now - paid[:live] >= _PARCEL_HOURS[0] * 3600) & (now - paid[:live] < _PARCEL_HOURS[1] * 3600)
        state = State(taste[:live], moment[at], condition[at] | waits << CONDITIONS.index("parcel waits"), last[:live],
                      now - last_time[:live], now[:, None] - done[:live])
        p[at] = chances = probabilities(state, base)
        chosen = sample(chances, random[at])
        behavior[at] = chosen
        _remember(chosen, now, done, paid, last, last_time)
    return plan, behavior, p


def blocks(seed: int, users: int, days: int, events_per_day: float) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
    """The tables `events` and `oracle` of a simulated log, some thousand users after another.

    The oracle's p follows the order of BEHAVIORS.
    """
    numbers = np.arange(users)
    names = np.array([pseudonym(f"simulated {number}") for number in numbers], np.uint64)
    in_order = np.argsort(names)  # the table is sorted by user: people are simulated in that order
    groups = (in_order[start : start + _BLOCK] for start in range(0, users, _BLOCK))
    labels, row = (pl.Series(BEHAVIORS), pl.Series(PLACES)), 0

    def simulated(members: np.ndarray) -> tuple[pl.DataFrame, pl.Series]:
        plan, behavior, p = simulate(seed, numbers[members], days, events_per_day)
        return pl.DataFrame({
            "user": names[members][plan.user], "time": START + plan.seconds * np.timedelta64(1_000_000, "us"),
            "place": labels[1].gather(plan.place.astype(np.uint32)),
            "behavior": labels[0].gather(behavior.astype(np.uint32)),
            "offset": pl.repeat(None, len(behavior), dtype=pl.Int16, eager=True),
        }), pl.Series("p", p).cast(pl.List(pl.Float32))

    for events, p in side_by_side(functools.partial(simulated, members) for members in groups):
        yield events, pl.DataFrame({"row": np.arange(row, row + events.height), "p": p})
        row += events.height


def calibrate(users: int = 3000, days: int = 45, events_per_day: float = 12, rounds: int = 16) -> np.ndarray:
    """Log base rates that give the behaviours the shares of the table: what BASE holds.

    Fixed-point iteration on the mean of p* over simulated logs, each round with another seed.
    """
    base = _log(_SHARES)
    for seed in range(rounds):
        _, _, p = simulate(seed, np.arange(users), days, events_per_day, base)
        base += (1.0 if seed < rounds // 2 else 0.4) * np.log(_SHARES / p.mean(axis=0, dtype=np.float64))
    return base - base[0]


def _remember(chosen, now, done, paid, last, last_time) -> None:
    """Update the state of the first `len(chosen)` users in place."""
    live = len(chosen)
    bought = (chosen == _NUMBER["Making payments"]) & (last[:live] == _NUMBER["Shopping online"])
    overdue = now - paid[:live] > _PARCEL_HOURS[1] * 3600
    paid[:live][bought & (np.isinf(paid[:live]) | overdue)] = now[bought & (np.isinf(paid[:live]) | overdue)]
    paid[:live][chosen == _NUMBER["Picking up a parcel"]] = np.inf
    done[np.arange(live), chosen] = now
    last[:live], last_time[:live] = chosen, now


def _tastes(seed: int, users: np.ndarray) -> np.ndarray:
    """Log weights of the behaviours for each user: shape (users, behaviours)."""
    behavior = np.arange(len(HABITS))
    scale = np.array([habit.taste for habit in HABITS])
    does = spread(seed, _DOES + behavior, users[:, None]) < np.array([habit.people for habit in HABITS])
    return scale * ndtri(spread(seed, _TASTE + behavior, users[:, None])) + np.where(does, 0, np.log(0.02))


def _conditions(seed: int, users: np.ndarray, plan: Outline) -> np.ndarray:
    """Bits of CONDITIONS that do not depend on behaviours, for each event."""
    same = (plan.user[1:] == plan.user[:-1]) & (plan.place[1:] == plan.place[:-1])
    arrived = ~np.concatenate([[False], same]) if len(plan.user) else np.zeros(0, bool)
    bits = arrived * 1 | plan.trip_soon * (1 << CONDITIONS.index("trip soon"))
    day = plan.seconds / 86400
    for dimension, (name, (share, length)) in enumerate(_PHASES.items()):
        number = CONDITIONS.index(name)
        # a phase may have begun before the log does, and one in 60 days is enough
        has = spread(seed, _PHASE + 2 * dimension, users) < share
        start = spread(seed, _PHASE + 2 * dimension + 1, users) * (60 + length) - length
        inside = has[plan.user] & (day >= start[plan.user]) & (day < (start + length)[plan.user])
        bits = bits | inside * (1 << number)
    return bits
