"""What windows have for candidates behind the vocabulary: what their persons did before that no training user does.

As `stages.windows.past` numbers them: slots 0 to V - 1 of a window are the vocabulary, then come the person's own, in
the order in which they were first done. A slot behind V is another behaviour in another person's window. What compares
windows goes by the label: its number among the sorted labels of all these windows, which no order of persons changes.
"""

from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from stages.windows.past import Past

OUTSIDE = -1
"""Label of a window whose behaviour is none of its candidates."""

NO_CANDIDATE = -1
"""In place of a number, in a slot that is none."""


@dataclass(frozen=True)
class OwnCandidates:
    """Of N windows, E at most in one; those of a window stand first in its row.

    Attributes:
        number: of each slot's label among `labels` `(N, E)`, `NO_CANDIDATE` behind the window's last.
        count: how often the person did it before `(N, E)`.
        before: how many events the person had before the window `(N,)`; 0 where there is no slot.
        truth: slot of the window's behaviour, from V on `(N,)`; `OUTSIDE` where none of these is it.
        labels: of all these windows, sorted `(K,)`.
    """

    number: np.ndarray
    count: np.ndarray
    before: np.ndarray
    truth: np.ndarray
    labels: pl.Series

    @classmethod
    def of(cls, events: pl.DataFrame, vocabulary: pl.DataFrame, rows: np.ndarray) -> "OwnCandidates":
        """Of the windows whose targets are `rows` `(N,)` of `events`; only the persons in question are read."""
        known = vocabulary["behavior"].implode()
        persons = events["user"].gather(rows).unique()
        strange = events.lazy().filter(~pl.col("behavior").is_in(known), pl.col("user").is_in(persons.implode()))
        persons = strange.select(pl.col("user").unique()).collect().to_series()
        if not len(persons):
            nothing, none = np.empty((len(rows), 0), dtype=np.int64), np.zeros(len(rows), dtype=np.int64)
            return cls(nothing, nothing, none, none + OUTSIDE, pl.Series("behavior", [], dtype=pl.String))
        kept = events["user"].is_in(persons.implode()).arg_true().to_numpy()
        past = Past.from_tables(events[kept], vocabulary)
        row = np.minimum(np.searchsorted(kept, rows), len(kept) - 1)
        window = np.flatnonzero(kept[row] == rows)
        row = row[window]
        own = past.own[row]
        first = np.searchsorted(past.outside_first, past.first[row])  # of the person's among all persons' candidates
        slot = np.arange(own.max(initial=0))
        there = slot < own[:, None]
        which = (first[:, None] + slot)[there]
        number, count = (np.full((len(rows), len(slot)), value) for value in (NO_CANDIDATE, 0))
        inside = np.zeros_like(number, dtype=bool)
        inside[window] = there
        number[inside] = past.outside[which]
        count[inside] = _times_before(past, which, np.repeat(row, own))
        before, truth = np.zeros(len(rows), dtype=np.int64), np.full(len(rows), OUTSIDE)
        before[window] = np.where(own > 0, row - past.first[row], 0)
        done = past.behavior[row]
        truth[window] = np.where((done >= past.size) & (done < past.size + own), done, OUTSIDE)
        return cls(number, count, before, truth, past.labels.alias("behavior"))._renumbered()

    @property
    def width(self) -> int:
        """E."""
        return self.number.shape[1]

    @property
    def there(self) -> np.ndarray:
        """Which slots are candidates `(N, E)`."""
        return self.number != NO_CANDIDATE

    @property
    def size(self) -> np.ndarray:
        """How many each window has `(N,)`."""
        return self.there.sum(axis=1)

    def part(self, where: np.ndarray) -> "OwnCandidates":
        """Of the windows at `where`, a mask or numbers, as if there were no others."""
        number = self.number[where]
        width = (number != NO_CANDIDATE).sum(axis=1).max(initial=0)
        return replace(self, number=number[:, :width], count=self.count[where, :width], before=self.before[where],
                       truth=self.truth[where])._renumbered()

    def names(self, window: int) -> list[str]:
        """The candidates of one window, in their order."""
        return self.labels.gather(self.number[window][self.there[window]]).to_list()

    def behavior(self, slot: np.ndarray, size: int) -> np.ndarray:
        """Numbers of the behaviours in a slot of each window `(N,)`: V + k for label k; `size` is V."""
        own = np.flatnonzero(slot >= size)
        found = slot.copy()
        found[own] = size + self.number[own, slot[own] - size]
        return found

    def _renumbered(self) -> "OwnCandidates":
        inside = self.there
        present, turn = np.unique(self.number[inside], return_inverse=True)
        labels = self.labels.gather(present)
        order = labels.arg_sort().to_numpy()
        place = np.empty(len(order), dtype=np.int64)
        place[order] = np.arange(len(order))
        number = self.number.copy()
        number[inside] = place[turn]
        return replace(self, number=number, labels=labels.gather(order))


def same(first: OwnCandidates | None, second: OwnCandidates | None) -> bool:
    """Whether windows have the same candidates in both; None: there are none behind the vocabulary."""
    if first is None or second is None:
        return first is second
    return np.array_equal(first.number, second.number) and first.labels.equals(second.labels)


def _times_before(past: Past, which: np.ndarray, row: np.ndarray) -> np.ndarray:
    """How often each candidate `which` `(M,)` of `past.outside` was done by its person before `row` `(M,)`."""
    done = np.flatnonzero(past.behavior >= past.size)
    candidate = np.searchsorted(past.outside_first, past.first[done]) + past.behavior[done] - past.size
    rows = len(past.behavior) + 1
    order = np.sort(candidate * rows + done)
    return np.searchsorted(order, which * rows + row) - np.searchsorted(order, which * rows)
