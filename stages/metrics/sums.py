"""Windows summed by user: to resample users, or to swap two models' answers for some, is then a product of matrices."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from stages.metrics.means import ratio
from stages.metrics.outcomes import Outcomes
from stages.metrics.registry import COLUMNS, METRICS, Metric, Part

Parts = Mapping[tuple[str, Part], csr_array | np.ndarray]
"""By test set and part: sums by user `(U, K)`, or totals over users in R weightings of them `(R, K)`."""


@dataclass(frozen=True)
class UserSums:
    """One model's answers.

    Attributes:
        user: its users `(U,)`, ascending.
        parts: the sums over each user's windows.
        members: the groups of behaviours, as masks `(V,)`.
    """

    user: np.ndarray
    parts: Parts
    members: Mapping[str, np.ndarray]

    @classmethod
    def of(
        cls, splits: Mapping[str, tuple[Outcomes, np.ndarray]], members: Mapping[str, np.ndarray], bins: int,
        metrics: Iterable[Metric] = tuple(METRICS.values()),
    ) -> "UserSums":
        """Sum what the `metrics` need of each test set in `splits`, of which windows and their users `(N,)` are given.

        Args:
            bins: equal-width bins of the calibration error.
        """
        users = np.unique(np.concatenate([user for _, user in splits.values()]))
        row = {split: np.searchsorted(users, user) for split, (_, user) in splits.items()}
        needed = _needed(metric for metric in metrics if metric.split in splits)
        return cls(users, {(split, part): _summed(part, splits[split][0], row[split], len(users), bins)
                           for split, part in needed}, members)

    @property
    def width(self) -> int:
        """Columns of the widest part."""
        return max(each.shape[1] for each in self.parts.values())

    def totals(self, weights: np.ndarray, metrics: Iterable[Metric]) -> Parts:
        """What the `metrics` need, summed over the users under each row of `weights` `(R, U)`."""
        return {key: weights @ self.parts[key] for key in _needed(metrics)}

    def values(self, totals: Parts, metric: Metric) -> np.ndarray:
        """`metric` `(R,)` of the `totals`; NaN where there is nothing to measure."""
        return metric.combine(*self._columns(totals, metric))

    def measure(self, weights: np.ndarray, metrics: Iterable[Metric]) -> dict[str, np.ndarray]:
        """Each of the `metrics` by its key under each row of `weights` `(R, U)`."""
        metrics = tuple(metrics)
        totals = self.totals(weights, metrics)
        return {metric.key: self.values(totals, metric) for metric in metrics}

    def weight(self, metric: Metric, apart: bool = False) -> np.ndarray:
        """How much each user counts in `metric` `(U,)`, 0 where not at all; `apart`, in each of its columns `(U, K)`.

        By windows; in a mean over behaviours, by their share of each behaviour's windows.
        """
        of_whole = metric.parts.index(metric.whole)
        windows = self.columns(metric)[of_whole]
        if apart:
            return windows.toarray()
        each = ratio(np.ones(1), windows.sum(axis=0), empty=0) if metric.linear else np.ones(windows.shape[1])
        return np.asarray(windows @ each)

    def columns(self, metric: Metric) -> list[csr_array]:
        """The sums `(U, K)` that `metric` is made of."""
        return self._columns(self.parts, metric)

    def _columns(self, parts: Parts, metric: Metric) -> list:
        """What `metric` is made of, of its group's behaviours."""
        found = [parts[metric.split, part] for part in metric.parts]
        return [each[:, np.flatnonzero(self.members[metric.group])] for each in found] if metric.group else found


def contributions(metric: Metric, first: UserSums, second: UserSums) -> np.ndarray | None:
    """What each user adds to `first` minus `second` in a linear metric, `(U,)`; None where nothing is measured.

    Both are of the same windows. A window in column k counts 1 / (K n_k), n_k being the windows there and K the columns
    with any: a natural metric has one column, a balanced one a column for each behaviour of the group.
    """
    (part, whole), (other, _) = first.columns(metric), second.columns(metric)
    windows = whole.sum(axis=0)
    measured = windows > 0
    if not measured.any():
        return None
    return (part - other) @ np.where(measured, ratio(np.ones(1), windows * measured.sum()), 0)


def swapped(metric: Metric, first: UserSums, second: UserSums, swap: np.ndarray) -> np.ndarray:
    """`first` minus `second` in `metric` after the users of each row of `swap` `(F, U)`, 0 or 1, changed sides."""
    plain = np.ones((1, len(first.user)))
    ours, theirs = first.totals(plain, [metric]), second.totals(plain, [metric])
    moved = {key: swap @ (second.parts[key] - first.parts[key]) for key in ours}
    return (first.values({key: ours[key] + moved[key] for key in ours}, metric)
            - second.values({key: theirs[key] - moved[key] for key in ours}, metric))


def differing(metric: Metric, first: UserSums, second: UserSums) -> np.ndarray | None:
    """Users `(U,)` who have other sums behind `metric` in the one than in the other; None where nothing is measured."""
    if metric.linear:
        added = contributions(metric, first, second)
        return None if added is None else added != 0
    if np.isnan(first.measure(np.ones((1, len(first.user))), [metric])[metric.key]).any():
        return None
    pairs = zip(first.columns(metric), second.columns(metric), strict=True)
    return np.any([(one != other).sum(axis=1) > 0 for one, other in pairs], axis=0)


def _needed(metrics: Iterable[Metric]) -> set[tuple[str, Part]]:
    return {(metric.split, part) for metric in metrics for part in metric.parts}


def _summed(part: Part, windows: Outcomes, user: np.ndarray, users: int, bins: int) -> csr_array:
    column, columns = COLUMNS[part.column](windows, bins)
    there = column >= 0
    return csr_array((part.value(windows)[there], (user[there], column[there])), shape=(users, columns))
