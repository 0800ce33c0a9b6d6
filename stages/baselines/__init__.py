"""Rivals: one file per system of the paper's Table 3, and the trivial ones that every learned row must beat."""

from typing import Protocol, Self

import numpy as np
import polars as pl


class Baseline(Protocol):
    """A system that is fitted on training windows and gives a distribution over the vocabulary."""

    def fit(self, events: pl.DataFrame, windows: pl.DataFrame, vocabulary: pl.DataFrame) -> Self:
        """Learn from the windows of split `train`; choose what has to be chosen on split `valid`."""
        ...

    def log_p(self, events: pl.DataFrame, rows: np.ndarray) -> np.ndarray:
        """Log-probabilities `(N, V)` float32 of the events at `rows` `(N,)`, finite, in the vocabulary's order."""
        ...
