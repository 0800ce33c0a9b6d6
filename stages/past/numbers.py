"""Each candidate of a window in numbers, made of what its person did before and of what people do.

None is of a number in the vocabulary, so a behaviour that no training person has done has them too, once this person
has done it. All shares are smoothed by the population's Markov chain, so that a person of whom nothing is known is
taken for anybody. The moment that a window is of, for a model that does know the vocabulary, stands in `moments`.
"""

import numpy as np

from stages.past.counted import CONTEXTS, RECENT, Counted
from stages.windows.past import NONE

_DAY = 86400.0
_PERSON, _CONTEXT, _RECENT = 10.0, 5.0, 2.0  # imagined events of the level before
_NEVER = np.float32(np.log1p(8000.0))  # log of hours, about a year

NAMES = (
    *(f"log share, {name}" for name in CONTEXTS), *(f"log events, {name}" for name in CONTEXTS),
    *(f"log share, last {many}" for many in RECENT),
    "log count", "ever", "the last", "log hours since", "within a day", "off a whole day", "off a whole week",
    "log hours since the last", "log share of people", "log Markov", "outside",
)
"""Of the numbers, in their order."""

_AGES = 3600 * np.array([0.1, 0.5, 1, 2, 4, 8, 12, 20, 28, 44, 72, 110, 170, 340])
_GAPS = 60 * np.array([1, 5, 15, 30, 60, 120, 240, 480, 960, 1800])


def numbers(counted: Counted, log_markov: np.ndarray, log_share: np.ndarray, floor: float) -> np.ndarray:
    """`(W, C, len(NAMES))` float32.

    Args:
        log_markov: log-probabilities of the population's Markov chain `(W, V)`.
        log_share: the behaviours' log shares of the training events `(V,)`.
        floor: what both are for a candidate outside the vocabulary.
    """
    windows, width = counted.outside.shape
    spare = width - len(log_share)
    # single precision, of which the network gets no more: half the time
    none = np.float32(floor)
    markov = np.where(counted.outside, none, np.pad(log_markov, ((0, 0), (0, spare))))
    people = np.where(counted.outside, none, np.pad(log_share.astype(np.float32), (0, spare)))
    prior = np.exp(markov)
    counts = {name: found.astype(np.float32) for name, found in counted.contexts.items()}
    totals = {name: found.sum(axis=1, keepdims=True) for name, found in counts.items()}
    person = (counts["all"] + _PERSON * prior) / (totals["all"] + _PERSON)
    of_person, of_prior = _CONTEXT * person, _RECENT * prior
    ever = np.isfinite(counted.since)
    hours = (np.where(ever, counted.since, 0) / 3600).astype(np.float32)
    gap = np.minimum(counted.gap / 3600, 8000)
    columns = (
        np.log(person),
        *(np.log(counts[name] + of_person) - np.log(totals[name] + _CONTEXT) for name in counts if name != "all"),
        *map(np.log1p, totals.values()),
        *(np.log(found + of_prior) - np.log(found.sum(axis=1, keepdims=True, dtype=np.float32) + _RECENT)
          for found in (recent.astype(np.float32) for recent in counted.recent.values())),
        np.log1p(counts["all"]), ever, counted.last[:, None] == np.arange(width),
        np.where(ever, np.log1p(hours), _NEVER), ever & (hours < 24),
        np.where(ever, _off(hours / 24), 1), np.where(ever, _off(hours / 168), 1),
        np.log1p(gap)[:, None], people, markov, counted.outside,
    )
    made = np.empty((windows, width, len(NAMES)), np.float32)
    for number, column in enumerate(columns):
        made[:, :, number] = column
    return made


def moment_sizes(size: int, places: int) -> list[int]:
    """How many values each column of `moments` has, for V behaviours and P places."""
    return [2 * 24, 7, 2 * (places + 1), (len(_GAPS) + 2) * (size + 2), *[len(_AGES) + 2] * size]


def moments(counted: Counted, place: np.ndarray, size: int, places: int) -> np.ndarray:
    """The moment of each window in whole numbers `(W, 4 + V)` int32, each column's apart from the others'.

    The kind of day and hour; the weekday; the place, and whether the event before was there; how long ago that was and
    what it was; and how long ago each behaviour was done.

    Args:
        place: number among the P places of training, P for any other `(W,)`.
    """
    never = np.isinf(counted.since[:, :size])
    age = np.where(never, len(_AGES) + 1, np.searchsorted(_AGES, counted.since[:, :size], side="right"))
    # what may not be known of a behaviour in the vocabulary that is taken for one outside it
    age = np.where(counted.outside[:, :size], len(_AGES) + 1, age)
    gap = np.where(np.isinf(counted.gap), len(_GAPS) + 1, np.searchsorted(_GAPS, counted.gap, side="right"))
    last = np.where(counted.last == NONE, size + 1, np.minimum(counted.last, size))
    columns = [
        counted.hour + 24 * (counted.weekday >= 5), counted.weekday, 2 * place + counted.stays, gap * (size + 2) + last,
    ]
    starts = np.cumsum([0, *moment_sizes(size, places)[:-1]])
    return (np.concatenate([np.stack(columns, axis=1), age], axis=1) + starts).astype(np.int32)


def _off(value: np.ndarray) -> np.ndarray:
    """How far from a whole number, 0 to 1."""
    return 2 * np.abs(value - np.round(value))
