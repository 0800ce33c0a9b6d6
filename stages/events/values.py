"""The strings of a column as numbers: values are few and rows are many, so what holds for a value is found out once."""

import threading
from collections.abc import Callable

import numpy as np
import polars as pl


class Values:
    """The distinct strings of a column, over all pieces of a log, in the order in which they turn up.

    Threads may share it; the numbers then differ from run to run, and nothing but the strings may be kept.
    """

    def __init__(self, check: Callable[[pl.Series], pl.DataFrame]):
        """`check` says what each of some distinct strings stands for, and in `rule` which rule it breaks, or null."""
        self._check = check
        self._strings = pl.Categories.random()
        # Polars forgets the numbers when the last column that has them goes
        self._kept = pl.Series([], dtype=pl.Categorical(self._strings))
        self._known = check(pl.Series([], dtype=pl.String))
        self._refused = np.zeros(0, bool)
        self._lock = threading.Lock()

    def numbers(self, strings: pl.Series) -> np.ndarray:
        """The number of each string, as uint32; null counts as the empty string."""
        return strings.fill_null("").cast(self._kept.dtype).to_physical().to_numpy()

    def refused(self, numbers: np.ndarray) -> np.ndarray:
        """Whether each value, by its number, breaks a rule."""
        with self._lock:
            if len(numbers) and numbers.max() >= self._known.height:
                new = self._check(self._strings.to_series()[self._known.height :])
                self._known = self._known.vstack(new)
                self._refused = np.concatenate([self._refused, new["rule"].is_not_null().to_numpy()])
        return self._refused[numbers]

    def known(self) -> pl.DataFrame:
        """What `check` said of each value that `refused` was asked about, by its number."""
        return self._known
