"""The log as compact arrays: what a person's past is counted from."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl

NONE = -1


@dataclass(frozen=True)
class Past:
    """N events, sorted by (user, instant), without anything that identifies a user; about 20 bytes an event.

    A person's candidates are numbered: the V behaviours of the vocabulary in its order, then those outside it that the
    person has done, in the order in which they first did them. So what a person can do next at a row, and its numbers,
    follow from the rows before it alone.

    Attributes:
        first: row of the same user's first event `(N,)`.
        behavior: number of the event's behaviour among the person's candidates `(N,)`.
        own: how many behaviours outside the vocabulary the person did before the row `(N,)`.
        outside: their labels, as numbers into `labels`, `(K,)`; those of one person stand together, in their order.
        outside_first: row in which each was first done `(K,)`, increasing.
        hour: 0 to 23 `(N,)`.
        weekday: 0 to 6, 0 is Monday `(N,)`.
        place: number into `places` `(N,)`, `NONE` where there is none.
        seconds: since 1970, of the instant where the log knows it, else of local time `(N,)`.
        labels: the distinct behaviours.
        places: the distinct places.
        size: V.
    """

    first: np.ndarray
    behavior: np.ndarray
    own: np.ndarray
    outside: np.ndarray
    outside_first: np.ndarray
    hour: np.ndarray
    weekday: np.ndarray
    place: np.ndarray
    seconds: np.ndarray
    labels: pl.Series
    places: pl.Series
    size: int

    @classmethod
    def from_tables(cls, events: pl.DataFrame | pl.LazyFrame, vocabulary: pl.DataFrame) -> "Past":
        """From the tables `events` and `vocabulary`; of a lazy table one column at a time is in memory."""
        events, size = events.lazy(), vocabulary.height
        lengths = _column(events, pl.col("user")).rle().struct.field("len").to_numpy().astype(np.int64)
        first = np.repeat((np.cumsum(lengths) - lengths).astype(np.int32), lengths)
        label, labels = _codes(events, "behavior")
        place, places = _codes(events, "place")
        number = labels.replace_strict(vocabulary["behavior"], np.arange(size), default=NONE, return_dtype=pl.Int64)
        known = number.to_numpy()
        behavior = known[label].astype(np.int32)
        rows = np.flatnonzero(behavior == NONE)
        user = np.repeat(np.arange(len(lengths)), lengths)[rows] if len(rows) else rows
        # each (user, label) outside the vocabulary by its first row, then its turn among the user's
        _, at, pair = np.unique(user * (len(labels) + 1) + label[rows], return_index=True, return_inverse=True)
        order = np.argsort(at)
        turn = np.empty(len(order), np.int64)
        turn[order] = np.arange(len(order))
        starts = np.searchsorted(user[at[order]], np.arange(len(lengths)))
        behavior[rows] = size + turn[pair] - starts[user]
        new = np.zeros(len(behavior) + 1, np.int32)
        new[rows[at] + 1] = 1
        own = np.cumsum(new, dtype=np.int32)[:-1]
        own -= own[first]
        return cls(
            first=first, behavior=behavior, own=own, outside=label[rows[at[order]]], outside_first=rows[at[order]],
            hour=_column(events, pl.col("time").dt.hour().cast(pl.Int8)).to_numpy(),
            weekday=_column(events, pl.col("time").dt.weekday().cast(pl.Int8) - 1).to_numpy(),
            place=place, labels=labels, places=places, size=size,
            seconds=_column(events, pl.col("time").dt.epoch("s") - 60 * pl.col("offset").fill_null(0)).to_numpy(),
        )

    def labels_outside(self, row: int) -> list[str]:
        """The labels outside the vocabulary that the person of `row` did before it, in their numbers' order."""
        start = np.searchsorted(self.outside_first, self.first[row])
        return self.labels.gather(self.outside[start : start + self.own[row]]).to_list()

    @cached_property
    def weekend(self) -> np.ndarray:
        """Whether the event is on a Saturday or Sunday `(N,)`."""
        return (self.weekday >= 5).astype(np.int8)

    def before(self, rows: np.ndarray, length: int) -> np.ndarray:
        """The `length` rows before each of `rows` `(W,)`, latest first: `(W, length)`, `NONE` where there was none."""
        found = rows[:, None] - np.arange(1, length + 1)
        return np.where(found >= self.first[rows][:, None], found, NONE)


def _column(events: pl.LazyFrame, expression: pl.Expr) -> pl.Series:
    return events.select(expression).collect(engine="streaming").to_series()


def _codes(events: pl.LazyFrame, name: str) -> tuple[np.ndarray, pl.Series]:
    """A column of text as numbers `(N,)` int32 into its distinct values, `NONE` for null."""
    categories = pl.Categories.random()
    values = _column(events, pl.col(name).cast(pl.Categorical(categories)))
    numbers = values.to_physical().cast(pl.Int32).fill_null(NONE).to_numpy()
    return numbers, categories.to_series()
