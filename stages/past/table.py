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
        cells, count = np.unique(context[known] * size + label[known], return_counts=True)
        contexts, behavior = np.divmod(cells, size)
        start = np.flatnonzero(np.diff(contexts, prepend=-1))
        return cls(contexts[start], np.append(start, len(cells)), behavior, count, size)

    def of(self, context: np.ndarray) -> np.ndarray:
        """Counts `(N, V)` of the contexts `(N,)`; zeros for one never seen."""
        found = np.zeros((len(context), self.size))
        self.add_to(found, context)
        return found

    def add_to(self, found: np.ndarray, context: np.ndarray) -> np.ndarray:
        """Add the counts of the contexts `(N,)` to `found` `(N, V)`; how many events each has seen `(N,)`."""
        row = np.searchsorted(self.context, context)
        seen = np.flatnonzero(row < len(self.context))
        seen = seen[self.context[row[seen]] == context[seen]]
        first, stop = self.start[row[seen]], self.start[row[seen] + 1]
        lengths = stop - first
        entry = np.arange(lengths.sum()) + np.repeat(first - np.cumsum(lengths) + lengths, lengths)
        row = np.repeat(seen, lengths)
        found[row, self.behavior[entry]] += self.count[entry]
        return np.bincount(row, weights=self.count[entry], minlength=len(context))
