"""The baselines that count: majority, last behaviour, most frequent in the history, and a first-order Markov chain.

Each gives whole distributions without zeros, so that log-loss and calibration mean something for them too.
"""

from abc import ABC, abstractmethod
from typing import Self

import numpy as np
import polars as pl

from stages.past.table import Table
from stages.windows.past import NONE, Past


_MOST_PLACES = 1000
_CELLS = 250_000  # of a window and a behaviour at once: what fits a processor's cache


class _Counting(ABC):
    """What all four know: the vocabulary's size and the behaviours' shares of the training events."""

    def fit(self, past: Past, windows: pl.DataFrame, vocabulary: pl.DataFrame) -> Self:
        self.share = (vocabulary["train_events"] / vocabulary["train_events"].sum()).to_numpy()  # (V,)
        return self

    @abstractmethod
    def log_p(self, past: Past, rows: np.ndarray) -> np.ndarray:
        """Log-probabilities `(N, V)` float32 of what is done at `rows` `(N,)`, from what was done before."""

    def _behaviors(self, past: Past, rows: np.ndarray) -> np.ndarray:
        """Numbers of the behaviours at `rows`, same shape; `NONE` outside the vocabulary and where a row is."""
        number = past.behavior[rows]
        return np.where((rows == NONE) | (number >= past.size), NONE, number).astype(np.int64)

    def _last(self, past: Past, rows: np.ndarray) -> np.ndarray:
        return self._behaviors(past, past.before(rows, 1))[:, 0]


class Majority(_Counting):
    """The behaviours' shares of the training events, whatever came before."""

    def log_p(self, past: Past, rows: np.ndarray) -> np.ndarray:
        return np.tile(np.log(self.share).astype(np.float32), (len(rows), 1))


class LastBehavior(_Counting):
    """The user's previous behaviour again; the rest of the probability goes by share.

    The weight of the repetition is how often training windows repeat, but at least one half: below that the share of
    a frequent behaviour could outweigh it, and the baseline would no longer be what its name says.
    """

    def fit(self, past: Past, windows: pl.DataFrame, vocabulary: pl.DataFrame) -> Self:
        super().fit(past, windows, vocabulary)
        rows = rows_of(windows, "train")
        repeated = self._behaviors(past, rows) == self._last(past, rows)
        # one imagined window that does not repeat keeps the weight below 1
        self.weight = max(0.5, repeated.sum() / (len(repeated) + 1))
        return self

    def log_p(self, past: Past, rows: np.ndarray) -> np.ndarray:
        last = self._last(past, rows)
        known = np.flatnonzero(last != NONE)
        p = np.tile(self.share, (len(rows), 1))
        p[known] *= 1 - self.weight
        p[known, last[known]] += self.weight
        return np.log(p).astype(np.float32)


class MostFrequent(_Counting):
    """The behaviours' shares of the last `history` events, with one imagined event spread by training share.

    That one event breaks ties by training share and cannot overturn a difference of counts.
    """

    def __init__(self, history: int):
        self.history = history

    def log_p(self, past: Past, rows: np.ndarray) -> np.ndarray:
        done = self._behaviors(past, past.before(rows, self.history))
        counts = np.tile(self.share, (len(rows), 1))
        window, position = np.nonzero(done != NONE)
        np.add.at(counts, (window, done[window, position]), 1)
        return np.log(counts / counts.sum(axis=1, keepdims=True)).astype(np.float32)


class Markov(_Counting):
    """First-order Markov chain that knows the hour, the kind of day and the place of the event to predict.

    The language model's prompt names these (`[next-intent-info]`), so a fair baseline gets them too. From general to
    specific, each context's counts are smoothed by the distribution of the level before, as by a Dirichlet prior of a
    certain concentration (MacKay and Peto 1995):

        p_k(y) = (n_k(y) + a_k p_{k-1}(y)) / (n_k + a_k)

    A context never seen thus falls back on the level before. Each a_k is the one of least log-loss on validation
    windows, level after level; infinity leaves a level out. Levels of place are left out where the log knows none.
    """

    levels: tuple[tuple[str, ...], ...] = (
        ("hour",), ("hour", "weekend"), ("place",), ("place", "hour"), ("last",), ("last", "hour"), ("last", "place"),
        ("last", "place", "hour"),
    )
    concentrations = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, np.inf)
    unchosen = 10.0
    """Concentration of every level where there is no validation window."""
    valid_windows = 10_000
    """More would not change the choice, and a large log has millions."""
    valid_cells = 4_000_000
    """Of a window and a behaviour, likewise: a few arrays of 32 MB."""

    def fit(self, past: Past, windows: pl.DataFrame, vocabulary: pl.DataFrame) -> Self:
        super().fit(past, windows, vocabulary)
        train, valid = rows_of(windows, "train"), rows_of(windows, "valid")
        self.places = past.places.gather(_shared_places(past, train))
        known = [level for level in self.levels if len(self.places) or "place" not in level]
        contexts, label = self.contexts(past, train), self._behaviors(past, train)
        self.counts = {level: Table.counted(self._key(contexts, level), label, past.size) for level in known}
        valid = evenly(valid, self.windows_that_choose(past.size))
        self._choose(self.contexts(past, valid), self._behaviors(past, valid))
        return self

    @classmethod
    def windows_that_choose(cls, size: int) -> int:
        """Validation windows that choose concentrations, at most, for V behaviours."""
        return max(1, min(cls.valid_windows, cls.valid_cells // size))

    def log_p(self, past: Past, rows: np.ndarray) -> np.ndarray:
        contexts = self.contexts(past, rows)
        # many events have one context
        _, first, which = np.unique(self._key(contexts, tuple(contexts)), return_index=True, return_inverse=True)
        found, step = np.empty((len(first), len(self.share)), np.float32), max(1, _CELLS // len(self.share))
        for start in range(0, len(first), step):
            piece = slice(start, start + step)
            found[piece] = self.log_p_in({name: codes[first[piece]] for name, codes in contexts.items()})
        return found[which]

    def log_p_in(self, contexts: dict[str, np.ndarray]) -> np.ndarray:
        """As `log_p`, of events in `contexts`, as the function `contexts` gives them."""
        p = np.tile(self.share, (len(contexts["hour"]), 1))
        for level, concentration in self.concentration.items():
            if np.isfinite(concentration):  # as `smoothed`, in place
                p *= concentration
                total = self.counts[level].add_to(p, self._key(contexts, level))
                p /= (total + concentration)[:, None]
        return np.log(p).astype(np.float32)

    def contexts(self, past: Past, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Codes `(N,)` of what is known about each event, 0 and up.

        A place is its number among `places`; none is a context of its own, the number behind them, and every other
        place has the number behind that.
        """
        count = len(self.places)
        code = past.places.replace_strict(self.places, np.arange(count), default=count + 1, return_dtype=pl.Int64)
        return {
            "hour": past.hour[rows].astype(np.int64), "weekend": past.weekend[rows].astype(np.int64),
            "place": np.append(code.to_numpy(), count)[past.place[rows]],  # none is -1: the last
            "last": 1 + self._last(past, rows),
        }

    def _choose(self, contexts: dict[str, np.ndarray], label: np.ndarray) -> None:
        window = np.flatnonzero(label != NONE)
        if not len(window):
            self.concentration = dict.fromkeys(self.counts, self.unchosen)
            return
        p, self.concentration = np.tile(self.share, (len(label), 1)), {}
        for level, table in self.counts.items():
            counts = table.of(self._key(contexts, level))
            self.concentration[level], p = least_loss(counts, p, window, label[window], self.concentrations)

    def _key(self, contexts: dict[str, np.ndarray], level: tuple[str, ...]) -> np.ndarray:
        sizes = {"hour": 24, "weekend": 2, "place": len(self.places) + 2, "last": len(self.share) + 1}
        return np.ravel_multi_index([contexts[name] for name in level], [sizes[name] for name in level])


def _shared_places(past: Past, rows: np.ndarray) -> np.ndarray:
    """Numbers of the places at which two or more people have been in `rows`, the most frequent, by their first events.

    A place of one person says nothing of others, and a model that is given away shall not name it. The numbers' own
    order is another in every run: several threads of Polars give them.
    """
    place, first = past.place[rows].astype(np.int64), past.first[rows]
    place, first = place[place != NONE], first[place != NONE]
    pairs = np.unique(place * len(past.first) + first)
    places, people = np.unique(pairs // max(1, len(past.first)), return_counts=True)
    first_row = np.empty(len(past.places) + 1, np.int64)  # of each place; the last is of none
    first_row[past.place[::-1]] = np.arange(len(past.place))[::-1]  # the earliest is written last
    shared = places[people > 1]
    shared = shared[np.argsort(first_row[shared])]
    times = np.bincount(place, minlength=len(past.places))[shared]
    return shared[np.sort(np.argsort(-times, kind="stable")[:_MOST_PLACES])]


def least_loss(
    counts: np.ndarray, prior: np.ndarray, window: np.ndarray, label: np.ndarray, concentrations: tuple[float, ...]
) -> tuple[float, np.ndarray]:
    """The concentration with which `counts` `(N, C)`, smoothed by `prior` `(N, C)`, tell `label` of `window` best.

    And the distributions that it gives. Infinity is `prior` itself.
    """
    found, total = counts[window, label], counts.sum(axis=1)[window]
    before = prior[window, label]

    def loss(concentration: float) -> float:
        p = before if np.isinf(concentration) else (found + concentration * before) / (total + concentration)
        return float(-np.log(p).mean())

    best = min(concentrations, key=loss)
    return best, prior if np.isinf(best) else smoothed(counts, prior, best)


def smoothed(counts: np.ndarray, p: np.ndarray, concentration: float) -> np.ndarray:
    """Shares `(N, C)` of `counts` with `concentration` imagined events spread by `p`, as by a Dirichlet prior."""
    return (counts + concentration * p) / (counts.sum(axis=1, keepdims=True) + concentration)


def rows_of(windows: pl.DataFrame, split: str) -> np.ndarray:
    """Rows of the windows of a split, sorted."""
    return windows.filter(pl.col("split") == split)["row"].sort().to_numpy()


def evenly(values: np.ndarray, most: int) -> np.ndarray:
    """At most so many of the values, evenly from the first to the last."""
    return values[np.linspace(0, len(values) - 1, min(len(values), most)).astype(np.int64)]
