"""The strings of a column as numbers: values are few and rows are many, so what holds for a value is found out once."""

import threading
from collections.abc import Callable

import numpy as np
import polars as pl


class Values:
    """The distinct strings of a column, over all pieces of a log, in the order in which they turn up.

    Threads may share it; the numbers then differ from run to run, and nothing but the strings may be kept.
    """

    def __init__(self, judge: Callable[[pl.Series], pl.DataFrame]):
        """`judge` says what holds for each of some distinct strings, and in `rule` which rule it breaks, or null."""
        self._judge = judge
        self._strings = pl.Categories.random()
        # Polars forgets the numbers when the last column that has them goes
        self._kept = pl.Series([], dtype=pl.Categorical(self._strings))
        self._known = judge(pl.Series([], dtype=pl.String))
        self._refused = np.zeros(0, bool)
        self._lock = threading.Lock()

    def numbers(self, strings: pl.Series) -> np.ndarray:
        """The number of each string, as uint32; null counts as the empty string."""
        return strings.fill_null("").cast(self._kept.dtype).to_physical().to_numpy()

    def refused(self, numbers: np.ndarray) -> np.ndarray:
        """Whether each value, by its number, breaks a rule."""
        self._know(numbers)
        return self._refused[numbers]

    def known(self) -> pl.DataFrame:
        """What `judge` said of each value that `refused` was asked about, by its number."""
        return self._known

    def _know(self, numbers: np.ndarray) -> None:
        with self._lock:
            if len(numbers) and numbers.max() >= self._known.height:
                said = self._judge(self._strings.to_series()[self._known.height :])
                self._known = self._known.vstack(said)
                self._refused = np.concatenate([self._refused, said["rule"].is_not_null().to_numpy()])
