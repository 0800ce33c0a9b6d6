"""How often each behaviour followed each context: compressed sparse rows, in plain arrays that open quickly."""

from dataclasses import dataclass

import numpy as np

from stages.windows.past import NONE


@dataclass(frozen=True)
class Table:
    """Most contexts have seen few behaviours, so only what was seen is kept.

    Attributes:
        context: codes of the contexts `(K,)`, increasing.
        start: where each context's entries start, and where the last one's end `(K + 1,)`.
        behavior: numbers of behaviours, increasing within a context `(M,)`.
        count: how often `(M,)`, above 0.
        size: V.
    """

    context: np.ndarray
    start: np.ndarray
    behavior: np.ndarray
    count: np.ndarray
    size: int

    @classmethod
    def counted(cls, context: np.ndarray, label: np.ndarray, size: int) -> "Table":
        """Of events' contexts and labels `(N,)`, `NONE` for a label that does not count."""
        known = label != NONE
        contexts, row = np.unique(context[known], return_inverse=True)
        cells, count = np.unique(row * size + label[known], return_counts=True)
        start = np.searchsorted(cells, np.arange(len(contexts) + 1) * size)
        return cls(contexts, start, cells % size, count, size)

    def of(self, context: np.ndarray) -> np.ndarray:
        """Counts `(N, V)` of the contexts `(N,)`; zeros for one never seen."""
        found = np.zeros((len(context), self.size))
        row = np.searchsorted(self.context, context)
        seen = np.flatnonzero(row < len(self.context))
        seen = seen[self.context[row[seen]] == context[seen]]
        first, stop = self.start[row[seen]], self.start[row[seen] + 1]
        lengths = stop - first
        entry = np.arange(lengths.sum()) + np.repeat(first - np.cumsum(lengths) + lengths, lengths)
        found[np.repeat(seen, lengths), self.behavior[entry]] = self.count[entry]
        return found
