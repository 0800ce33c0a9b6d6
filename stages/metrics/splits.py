"""A table of predictions, taken apart into the arrays that metrics are made of.

A table is closed, with a value for each behaviour of the vocabulary, or open, with one for each candidate of the
window: the vocabulary, then what its person did before (`stages.metrics.candidates`). A closed one is opened as it is
read.
"""

from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from stages.common import tables
from stages.common.draws import positions
from stages.common.errors import UserError
from stages.metrics.candidates import OUTSIDE, OwnCandidates
from stages.metrics.opening import choose_share, opened
from stages.metrics.outcomes import Outcomes, outcomes

TEST = ("natural", "balanced")
VALID = ("valid_natural", "valid_balanced")


@dataclass(frozen=True)
class Split:
    """The windows of one split.

    Attributes:
        log_p: log-probabilities `(N, V + E)`, rows normalised, -inf in a slot that is no candidate of that window.
        label: slots of the true behaviours `(N,)`, `OUTSIDE` for one that no candidate is.
        user: pseudonyms `(N,)`.
        own: the candidates behind the vocabulary; None where there are none.
        known: how many events of the person stand before each window `(N,)`; None where nobody counted them.
    """

    log_p: np.ndarray
    label: np.ndarray
    user: np.ndarray
    own: OwnCandidates | None = None
    known: np.ndarray | None = None

    @property
    def size(self) -> int:
        """V."""
        return self.log_p.shape[1] - (self.own.width if self.own else 0)

    def outcomes(self) -> Outcomes:
        return outcomes(self.log_p, self.label, self.own, self.known)

    def part(self, where: np.ndarray) -> "Split":
        """The windows at `where`, a mask or numbers."""
        own = self.own and self.own.part(where)
        width = self.size + (own.width if own else 0)
        known = None if self.known is None else self.known[where]
        log_p = np.ascontiguousarray(self.log_p[where][:, :width])
        return Split(log_p, self.label[where], self.user[where], own, known)

    def moved(self, log_p: np.ndarray) -> "Split":
        """The same windows with other log-probabilities."""
        return replace(self, log_p=log_p)


@dataclass(frozen=True)
class OpenTable:
    """A table of predictions with numbers for all candidates.

    Attributes:
        predictions: as it was read.
        windows: all of them, in its order.
        share: what opened it (see `stages.metrics.opening`); None of a table that had all numbers.
    """

    predictions: pl.DataFrame
    windows: Split
    share: float | None

    @classmethod
    def of(cls, predictions: pl.DataFrame, events: pl.DataFrame, vocabulary: pl.DataFrame) -> "OpenTable":
        """From a table `predictions`, which is opened where it is closed and a window has own candidates.

        Raises:
            UserError: the predictions were made from other events or another vocabulary.
        """
        row, size = predictions["row"], vocabulary.height
        there = not len(row) or row.max() < events.height
        if not there or not events["behavior"].gather(row).equals(predictions["behavior"]):
            raise UserError("the predictions were made from another log than the events; run `dvc repro`")
        own = OwnCandidates.of(events, vocabulary, row.to_numpy())
        label = slots(predictions["behavior"], vocabulary["behavior"], own)
        log_p, share, lengths = read_log_p(predictions, size), None, predictions["log_p"].list.len().to_numpy()
        if own.width and (lengths == size).all():
            valid = (predictions["split"] == "valid_natural").to_numpy()
            share = choose_share(own.part(valid), label[valid] != OUTSIDE)
            log_p = opened(log_p, own, share)
        elif (wrong := lengths != size + own.size).any():
            first = int(wrong.argmax())
            raise UserError(
                f"the predictions were made with another vocabulary than this one of {size} (the window of row "
                f"{row[first]} has {lengths[first]} values; expected {size}, or {size + own.size[first]} with what the "
                "person did before); run `dvc repro`"
            )
        user = events["user"].gather(row).to_numpy()
        known = positions(events["user"].to_numpy())[row.to_numpy()]
        return cls(predictions, Split(log_p, label, user, own if own.width else None, known), share)

    def splits(self) -> dict[str, Split]:
        """The windows of each test and validation split, an absent split with none."""
        return {split: self.windows.part((self.predictions["split"] == split).to_numpy()) for split in TEST + VALID}

    def frame(self) -> pl.DataFrame:
        """The table with the numbers of all candidates."""
        return self.predictions if self.share is None else with_log_p(self.predictions, self.windows.log_p)


def read_splits(predictions: pl.DataFrame, events: pl.DataFrame, vocabulary: pl.DataFrame) -> dict[str, Split]:
    """The windows of each test and validation split of a table `predictions`, an absent split with none.

    Raises:
        UserError: the predictions were made from other events or another vocabulary.
    """
    return OpenTable.of(predictions, events, vocabulary).splits()


def slots(behavior: pl.Series, names: pl.Series, own: OwnCandidates | None) -> np.ndarray:
    """Slots of what was done in each window `(N,)` among its candidates, `names` of the vocabulary first; `OUTSIDE`."""
    label = behavior.replace_strict(names, np.arange(len(names)), default=OUTSIDE, return_dtype=pl.Int64).to_numpy()
    return np.where(label == OUTSIDE, own.truth, label) if own else label


def read_log_p(predictions: pl.DataFrame, least: int = 1) -> np.ndarray:
    """Column `log_p` as `(N, W)`, -inf behind the end of a shorter row; W is the longest row's length, or `least`."""
    lengths = predictions["log_p"].list.len().to_numpy()
    width = int(lengths.max(initial=least))
    if not len(lengths):  # an empty column may explode into a null
        return np.empty((0, width), dtype=np.float32)
    flat = predictions["log_p"].explode().to_numpy()
    if (lengths == width).all():
        return flat.reshape(-1, width)
    log_p = np.full((len(lengths), width), -np.inf, dtype=flat.dtype)
    log_p[np.arange(width) < lengths[:, None]] = flat
    return log_p


def with_log_p(predictions: pl.DataFrame, log_p: np.ndarray) -> pl.DataFrame:
    """The table with other log-probabilities `(N, W)`, -inf behind the end of a row."""
    if np.isfinite(log_p[:, -1:]).all():
        rows = pl.Series(values=np.ascontiguousarray(log_p))
    else:
        lengths = np.isfinite(log_p).sum(axis=1)
        rows = pl.Series(values=[row[:length].tolist() for row, length in zip(log_p, lengths, strict=True)])
    return predictions.with_columns(log_p=rows).cast(tables.SCHEMAS["predictions"])
