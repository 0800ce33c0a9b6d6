"""A table of predictions, taken apart into the arrays that metrics are made of."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from stages.common.errors import UserError
from stages.metrics.outcomes import OUTSIDE

TEST = ("natural", "balanced")
VALID = ("valid_natural", "valid_balanced")


@dataclass(frozen=True)
class Split:
    """The windows of one split.

    Attributes:
        log_p: log-probabilities `(N, V)`, rows normalised.
        label: numbers of the true behaviours `(N,)`, `OUTSIDE` for one that is not in the vocabulary.
        user: pseudonyms `(N,)`.
    """

    log_p: np.ndarray
    label: np.ndarray
    user: np.ndarray


def read_splits(predictions: pl.DataFrame, events: pl.DataFrame, vocabulary: pl.DataFrame) -> dict[str, Split]:
    """The windows of each test and validation split of a table `predictions`, an absent split with none.

    Raises:
        UserError: the predictions were made from other events or another vocabulary.
    """
    row, size = predictions["row"], vocabulary.height
    if (len(row) and row.max() >= events.height) or not events["behavior"].gather(row).equals(predictions["behavior"]):
        raise UserError("the predictions were made from another log than the events; run `dvc repro`")
    if (predictions["log_p"].list.len() != size).any():
        raise UserError(f"the predictions were made with another vocabulary than this one of {size}; run `dvc repro`")
    return {split: _split(predictions.filter(split=split), events, vocabulary) for split in TEST + VALID}


def _split(part: pl.DataFrame, events: pl.DataFrame, vocabulary: pl.DataFrame) -> Split:
    names, size = vocabulary["behavior"], vocabulary.height
    label = part["behavior"].replace_strict(names, np.arange(size), default=OUTSIDE, return_dtype=pl.Int64)
    log_p = part["log_p"].explode().to_numpy().reshape(-1, size)
    return Split(log_p, label.to_numpy(), events["user"].gather(part["row"]).to_numpy())
