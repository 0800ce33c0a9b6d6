"""The baselines that count: majority, last behaviour, most frequent in the history, and a first-order Markov chain.

Each gives whole distributions without zeros, so that log-loss and calibration mean something for them too.
"""

from abc import ABC, abstractmethod
from typing import Self

import numpy as np
import polars as pl
from scipy.sparse import csr_array

from stages.common.draws import positions

_NONE = -1


def history_rows(user: np.ndarray, rows: np.ndarray, length: int) -> np.ndarray:
    """The `length` rows before each of `rows` `(N,)`, latest first: `(N, length)`, -1 where the user had none."""
    step = np.arange(1, length + 1)
    return np.where(step <= positions(user)[rows][:, None], rows[:, None] - step, _NONE)


class _Counting(ABC):
    """What all four know: the vocabulary's names and the behaviours' shares of the training events."""

    def fit(self, events: pl.DataFrame, windows: pl.DataFrame, vocabulary: pl.DataFrame) -> Self:
        self.names = vocabulary["behavior"]
        self.share = (vocabulary["train_events"] / vocabulary["train_events"].sum()).to_numpy()  # (V,)
        return self

    @abstractmethod
    def log_p(self, events: pl.DataFrame, rows: np.ndarray) -> np.ndarray:
        """Log-probabilities `(N, V)` float32 of what is done at `rows` `(N,)`, from what was done before."""

    def _behaviors(self, events: pl.DataFrame, rows: np.ndarray) -> np.ndarray:
        """Numbers of the behaviours at `rows`, same shape; -1 outside the vocabulary and where a row is -1."""
        flat = rows.ravel()
        names = events["behavior"].gather(np.maximum(flat, 0))
        numbers = names.replace_strict(self.names, np.arange(len(self.names)), default=_NONE, return_dtype=pl.Int64)
        return np.where(flat == _NONE, _NONE, numbers.to_numpy()).reshape(rows.shape)


class Majority(_Counting):
    """The behaviours' shares of the training events, whatever came before."""

    def log_p(self, events: pl.DataFrame, rows: np.ndarray) -> np.ndarray:
        return np.tile(np.log(self.share).astype(np.float32), (len(rows), 1))


class LastBehavior(_Counting):
    """The user's previous behaviour again; the rest of the probability goes by share.

    The weight of the repetition is how often training windows repeat, but at least one half: below that the share of
    a frequent behaviour could outweigh it, and the baseline would no longer be what its name says.
    """

    def fit(self, events: pl.DataFrame, windows: pl.DataFrame, vocabulary: pl.DataFrame) -> Self:
        super().fit(events, windows, vocabulary)
        rows = _rows(windows, "train")
        repeated = self._behaviors(events, rows) == self._last(events, rows)
        # one imagined window that does not repeat keeps the weight below 1
        self.weight = max(0.5, repeated.sum() / (len(repeated) + 1))
        return self

    def log_p(self, events: pl.DataFrame, rows: np.ndarray) -> np.ndarray:
        last = self._last(events, rows)
        known = np.flatnonzero(last != _NONE)
        p = np.tile(self.share, (len(rows), 1))
        p[known] *= 1 - self.weight
        p[known, last[known]] += self.weight
        return np.log(p).astype(np.float32)

    def _last(self, events: pl.DataFrame, rows: np.ndarray) -> np.ndarray:
        return self._behaviors(events, history_rows(events["user"].to_numpy(), rows, 1))[:, 0]


class MostFrequent(_Counting):
    """The behaviours' shares of the last `history` events, with one imagined event spread by training share.

    That one event breaks ties by training share and cannot overturn a difference of counts.
    """

    def __init__(self, history: int):
        self.history = history

    def log_p(self, events: pl.DataFrame, rows: np.ndarray) -> np.ndarray:
        past = self._behaviors(events, history_rows(events["user"].to_numpy(), rows, self.history))
        counts = np.tile(self.share, (len(rows), 1))
        window, position = np.nonzero(past != _NONE)
        np.add.at(counts, (window, past[window, position]), 1)
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

    def fit(self, events: pl.DataFrame, windows: pl.DataFrame, vocabulary: pl.DataFrame) -> Self:
        super().fit(events, windows, vocabulary)
        train, valid = _rows(windows, "train"), _rows(windows, "valid")
        self.places = events["place"].gather(train).drop_nulls().unique(maintain_order=True)
        known = [level for level in self.levels if len(self.places) or "place" not in level]
        contexts, label = self._contexts(events, train), self._behaviors(events, train)
        self.counts = {level: _Counts(self._key(contexts, level), label, len(self.names)) for level in known}
        valid = valid[np.linspace(0, len(valid) - 1, min(len(valid), self.valid_windows)).astype(np.int64)]
        self._choose(self._contexts(events, valid), self._behaviors(events, valid))
        return self

    def log_p(self, events: pl.DataFrame, rows: np.ndarray) -> np.ndarray:
        contexts = self._contexts(events, rows)
        p = np.tile(self.share, (len(rows), 1))
        for level, concentration in self.concentration.items():
            if np.isfinite(concentration):
                p = _smoothed(self.counts[level].of(self._key(contexts, level)), p, concentration)
        return np.log(p).astype(np.float32)

    def _choose(self, contexts: dict[str, np.ndarray], label: np.ndarray) -> None:
        window = np.flatnonzero(label != _NONE)
        if not len(window):
            self.concentration = dict.fromkeys(self.counts, self.unchosen)
            return
        p, self.concentration = np.tile(self.share, (len(label), 1)), {}
        for level, table in self.counts.items():
            counts = table.of(self._key(contexts, level))
            options = {a: p if np.isinf(a) else _smoothed(counts, p, a) for a in self.concentrations}
            loss = {a: -np.log(option[window, label[window]]).mean() for a, option in options.items()}
            self.concentration[level] = min(loss, key=loss.__getitem__)
            p = options[self.concentration[level]]

    def _contexts(self, events: pl.DataFrame, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Codes `(N,)` of what is known about each event, 0 and up."""
        time, place = events["time"].gather(rows), events["place"].gather(rows)
        numbers = np.arange(len(self.places))
        code = place.replace_strict(self.places, numbers, default=len(numbers) + 1, return_dtype=pl.Int64)
        return {
            "hour": time.dt.hour().to_numpy().astype(np.int64),
            "weekend": (time.dt.weekday() >= 6).to_numpy().astype(np.int64),
            # no place is a context of its own; an unseen one matches no training window
            "place": np.where(place.is_null().to_numpy(), len(numbers), code.to_numpy()),
            "last": 1 + self._behaviors(events, history_rows(events["user"].to_numpy(), rows, 1))[:, 0],
        }

    def _key(self, contexts: dict[str, np.ndarray], level: tuple[str, ...]) -> np.ndarray:
        sizes = {"hour": 24, "weekend": 2, "place": len(self.places) + 2, "last": len(self.names) + 1}
        return np.ravel_multi_index([contexts[name] for name in level], [sizes[name] for name in level])


class _Counts:
    """How often each behaviour followed each context, kept sparse: most contexts have seen few behaviours."""

    def __init__(self, context: np.ndarray, label: np.ndarray, size: int):
        known = label != _NONE
        self.context, row = np.unique(context[known], return_inverse=True)
        # the last row stands for contexts never seen
        self.counts = csr_array((np.ones(len(row)), (row, label[known])), shape=(len(self.context) + 1, size))

    def of(self, context: np.ndarray) -> np.ndarray:
        """Counts `(N, V)` of the contexts `(N,)`; zeros for one never seen."""
        row = np.searchsorted(self.context, context)
        seen = np.append(self.context, -1)[row] == context
        return self.counts[np.where(seen, row, len(self.context))].toarray()


def _smoothed(counts: np.ndarray, p: np.ndarray, concentration: float) -> np.ndarray:
    return (counts + concentration * p) / (counts.sum(axis=1, keepdims=True) + concentration)


def _rows(windows: pl.DataFrame, split: str) -> np.ndarray:
    return windows.filter(pl.col("split") == split)["row"].sort().to_numpy()
