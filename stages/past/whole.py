"""A baseline that counts a person's whole past, smoothed level by level onto the population's Markov chain."""

from typing import Self

import numpy as np
import polars as pl

from stages.past.counted import Counted, count, of_candidates, pieces
from stages.past.counting import Markov, evenly, least_loss, smoothed
from stages.windows.cut import VALID_OUTSIDE
from stages.windows.past import Past


class WholePast:
    """From what people do to what this person does: in all, at this hour, after this behaviour, at this place and hour.

    The chain's concentrations and these are chosen as the chain's are, level after level, by log-loss on validation
    windows. A candidate outside the vocabulary, which only who did it before has, begins with less than one event of
    all people's.

    Attributes:
        markov: the chain.
        concentration: of each level.
        events: training events of all people.
    """

    levels = ("all", "hour", "after", "place and hour")

    def fit(self, past: Past, windows: pl.DataFrame, vocabulary: pl.DataFrame) -> Self:
        return self.fit_on(Markov().fit(past, windows, vocabulary), past, windows, vocabulary)

    def fit_on(self, markov: Markov, past: Past, windows: pl.DataFrame, vocabulary: pl.DataFrame) -> Self:
        """As `fit`, on a chain that is fitted."""
        self.markov, self.events = markov, int(vocabulary["train_events"].sum())
        self.concentration = dict.fromkeys(self.levels, Markov.unchosen)
        rows = windows.filter(pl.col("split").is_in(["valid", VALID_OUTSIDE]))["row"].sort().to_numpy()
        # with those that only their person's candidates name: smoothing that suits the others alone would forget them
        rows = rows[past.behavior[rows] < past.size + past.own[rows]]
        if not len(rows):
            return self
        rows = evenly(rows, Markov.windows_that_choose(past.size))
        prior, counts = [], []
        for piece in pieces(past, rows):
            counted = count(past, rows[piece])
            prior.append(self.prior(counted, markov.log_p(past, rows[piece])))
            counts.append({level: counted.contexts[level] for level in self.levels})
        width = max(each.shape[1] for each in prior)
        p = np.concatenate([_wide(each, width) for each in prior])
        window, label = np.arange(len(rows)), past.behavior[rows]
        for level in self.levels:
            of_level = np.concatenate([_wide(each.pop(level), width) for each in counts])
            self.concentration[level], p = least_loss(of_level, p, window, label, Markov.concentrations)
        return self

    def log_p(self, past: Past, rows: np.ndarray) -> list[np.ndarray]:
        """Log-probabilities of each window's candidates, V and the person's own: float32 each, for `rows` `(W,)`."""
        return of_candidates(past, rows, lambda counted, at: self.log_p_of(counted, self.markov.log_p(past, at)))

    def log_p_of(self, counted: Counted, log_markov: np.ndarray) -> np.ndarray:
        """Log-probabilities `(W, C)` float32, -inf where a candidate is not the window's."""
        p = self.prior(counted, log_markov)
        for level, concentration in self.concentration.items():
            if np.isfinite(concentration):
                p = smoothed(counted.contexts[level], p, concentration)
        with np.errstate(divide="ignore"):
            return np.log(p).astype(np.float32)

    def prior(self, counted: Counted, log_markov: np.ndarray) -> np.ndarray:
        """Where the levels start: the chain's distribution `(W, C)`, of float64."""
        spare = counted.outside.shape[1] - log_markov.shape[1]
        p = np.pad(np.exp(log_markov.astype(np.float64)), ((0, 0), (0, spare)), constant_values=1 / (self.events + 1))
        p = np.where(counted.allowed, p, 0)
        return p / p.sum(axis=1, keepdims=True)


def _wide(values: np.ndarray, width: int) -> np.ndarray:
    return np.pad(values, ((0, 0), (0, width - values.shape[1])))
