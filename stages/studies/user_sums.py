"""What the metrics of one repetition need, summed by user: to resample or to swap users is then a matrix product."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stages.metrics.accuracy import group_means
from stages.metrics.calibration import bin_of
from stages.metrics.outcomes import OUTSIDE, Outcomes
from stages.metrics.sums import ratio

Totals = Mapping[str, np.ndarray]

# The sums behind each metric of the natural test set. The first is what a mean adds up, the second what it is divided
# by; `prec_w` and `ece` are no means of values of the windows.
_NATURAL = {
    "rec_w": ("hit", "windows"),
    "hr_at_3": ("among_3", "windows"),
    "mrr": ("reciprocal", "windows"),
    "log_loss": ("surprise", "known"),
    "prec_w": ("predicted", "right", "support", "windows"),
    "ece": ("gap", "windows"),
}
_BALANCED = ("hits", "labels")
_NOT_LINEAR = ("natural.prec_w", "natural.ece")

NATURAL_METRICS = tuple(f"natural.{name}" for name in _NATURAL)


@dataclass(frozen=True)
class UserSums:
    """One repetition of one row.

    Attributes:
        user: numbers of its users in the study `(U,)`, ascending.
        parts: sums over each user's windows, by name, each `(U, K)`: K is 1, the vocabulary's size or the bins of the
            calibration error.
        members: the groups of behaviours, as masks `(V,)`.
    """

    user: np.ndarray
    parts: dict[str, np.ndarray]
    members: dict[str, np.ndarray]

    def totals(self, weights: np.ndarray, parts: Sequence[str]) -> Totals:
        """The named `parts` summed over the users under each row of `weights` `(R, U)`: each `(R, K)`."""
        return {name: weights @ self.parts[name] for name in parts}


def user_sums(
    natural: Outcomes,
    natural_user: np.ndarray,
    balanced: Outcomes,
    balanced_user: np.ndarray,
    members: dict[str, np.ndarray],
    bins: int,
) -> UserSums:
    """Sum both test sets' outcomes by user; `natural_user` and `balanced_user` are the users' numbers `(N,)`."""
    user, code = np.unique(np.concatenate([natural_user, balanced_user]), return_inverse=True)
    count, size = len(user), len(next(iter(members.values())))
    owner, other = code[: len(natural_user)], code[len(natural_user) :]
    known, labelled = natural.label != OUTSIDE, balanced.label != OUTSIDE
    whole = np.zeros(len(owner), dtype=np.int64)

    def by_user(value: np.ndarray, column: np.ndarray, columns: int, keep: np.ndarray | slice = slice(None)):
        return _sums(owner[keep], column[keep], value[keep], count, columns)

    one = np.ones(len(owner))
    label, of = balanced.label[labelled], other[labelled]
    return UserSums(user, {
        "windows": by_user(one, whole, 1),
        "known": by_user(one, whole, 1, known),
        "hit": by_user(natural.hit, whole, 1),
        "among_3": by_user((natural.rank <= 3).astype(np.float64), whole, 1),
        "reciprocal": by_user(1 / natural.rank, whole, 1),
        "surprise": by_user(natural.surprise, whole, 1, known),
        "gap": by_user(natural.confidence - natural.hit, bin_of(natural, bins), bins),
        "predicted": by_user(one, natural.predicted, size),
        "right": by_user(natural.hit, natural.predicted, size),
        "support": by_user(one, natural.label, size, known),
        "hits": _sums(of, label, balanced.hit[labelled], count, size),
        "labels": _sums(of, label, np.ones(len(of)), count, size),
    }, members)


def parts_of(metric: str) -> tuple[str, ...]:
    """The parts that `metric_of` needs."""
    split, name = metric.split(".", 1)
    return _NATURAL[name] if split == "natural" else _BALANCED


def metric_of(metric: str, totals: Totals, members: dict[str, np.ndarray]) -> np.ndarray:
    """A metric `(R,)` from totals over users, each `(R, K)`; NaN where there is nothing to measure.

    The definitions are those of `stages.metrics.accuracy` and `calibration`, to which a test holds them.
    """
    split, name = metric.split(".", 1)
    if split == "balanced":
        return group_means(ratio(totals["hits"], totals["labels"]), {name: members[name]})[name]
    windows = totals[_NATURAL[name][-1]]
    if name == "prec_w":
        precision = np.nan_to_num(ratio(totals["right"], totals["predicted"]))
        return ratio((totals["support"] * precision).sum(axis=1), windows[:, 0])
    if name == "ece":
        return ratio(np.abs(totals["gap"]).sum(axis=1), windows[:, 0])
    return ratio(totals[_NATURAL[name][0]], windows)[:, 0]


def is_linear(metric: str) -> bool:
    """Whether the difference of two rows in `metric` is a sum over users, on the same windows."""
    return metric not in _NOT_LINEAR


def contributions(metric: str, first: UserSums, second: UserSums) -> np.ndarray | None:
    """What each user adds to `first` minus `second` in a linear metric, `(U,)`; None where nothing is measured.

    Both are of the same windows. A window of behaviour b counts 1 / (V n_b) in a balanced metric, V behaviours of the
    group being in the test set and n_b windows of b.
    """
    split, name = metric.split(".", 1)
    if split == "natural":
        part, whole = _NATURAL[name]
        weight = ratio(np.ones(1), first.parts[whole].sum(axis=0))
    else:
        part, windows = "hits", first.parts["labels"].sum(axis=0)
        measured = first.members[name] & (windows > 0)
        weight = np.where(measured, ratio(np.ones(1), windows * measured.sum()), 0.0 if measured.any() else np.nan)
    return None if np.isnan(weight).any() else (first.parts[part] - second.parts[part]) @ weight


def swapped(metric: str, first: UserSums, second: UserSums, swap: np.ndarray) -> np.ndarray:
    """`first` minus `second` in `metric` after the users of each row of `swap` `(F, U)`, 0 or 1, changed sides."""
    needed, plain = parts_of(metric), np.ones((1, len(first.user)))
    moved = {name: swap @ (second.parts[name] - first.parts[name]) for name in needed}
    ours, theirs = first.totals(plain, needed), second.totals(plain, needed)
    left = metric_of(metric, {name: ours[name] + moved[name] for name in needed}, first.members)
    return left - metric_of(metric, {name: theirs[name] - moved[name] for name in needed}, second.members)


def differing(metric: str, first: UserSums, second: UserSums) -> np.ndarray:
    """Which users have other sums behind `metric` in the one than in the other, `(U,)`."""
    return np.any([(first.parts[name] != second.parts[name]).any(axis=1) for name in parts_of(metric)], axis=0)


def _sums(user: np.ndarray, column: np.ndarray, value: np.ndarray, users: int, columns: int) -> np.ndarray:
    """`value` `(N,)` summed into `(users, columns)`."""
    return np.bincount(user * columns + column, weights=value, minlength=users * columns).reshape(users, columns)
