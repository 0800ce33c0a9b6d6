"""How often the answer is right: over all windows, and over behaviours and their groups."""

import numpy as np
import polars as pl

from stages.metrics.outcomes import OUTSIDE, Outcomes
from stages.metrics.sums import mean, ratio, sums_by


def ranked(weights: np.ndarray, windows: Outcomes) -> dict[str, np.ndarray]:
    """`rec_w`, `hr_at_3`, `hr_at_5` and `mrr` under each row of `weights` `(R, N)`, each `(R,)`.

    `rec_w` is recall weighted by support, which is accuracy and HR@1. HR@k is how often the label is among the k most
    likely, `mrr` the mean of 1 / rank. A label outside the vocabulary counts as missed.
    """
    return {
        "rec_w": mean(weights, windows.hit),
        "hr_at_3": mean(weights, windows.hit_at(3)),
        "hr_at_5": mean(weights, windows.hit_at(5)),
        "mrr": mean(weights, 1 / windows.rank),
    }


def weighted_precision(weights: np.ndarray, windows: Outcomes, size: int) -> np.ndarray:
    """Precision of each behaviour averaged by support, `(R,)`: scikit-learn's `average="weighted"`.

    A behaviour that is never predicted has precision 0. Eq. 5 of the paper weights by predictions instead, which
    cancels to accuracy; its printed figures (a constant predictor's is its share squared) are these.
    """
    predicted = sums_by(weights, windows.predicted, size)
    right = sums_by(weights * windows.hit, windows.predicted, size)
    known = windows.label != OUTSIDE
    support = sums_by(weights[:, known], windows.label[known], size)
    precision = np.nan_to_num(ratio(right, predicted))
    return ratio((support * precision).sum(axis=1), weights.sum(axis=1))


def by_behavior(weights: np.ndarray, windows: Outcomes, size: int, top: int = 1) -> np.ndarray:
    """HR@`top` over the windows of each behaviour, `(R, size)`, for 1 its accuracy; NaN where one has no weight."""
    return mean_by_behavior(weights, windows.label, windows.hit_at(top), size)


def mean_by_behavior(weights: np.ndarray, label: np.ndarray, values: np.ndarray, size: int) -> np.ndarray:
    """Mean of `values` `(N,)` over the windows of each behaviour, `(R, size)`; NaN where one has no weight."""
    known = label != OUTSIDE
    label, weights = label[known], weights[:, known]
    return ratio(sums_by(weights * values[known], label, size), sums_by(weights, label, size))


def groups(vocabulary: pl.DataFrame) -> dict[str, np.ndarray]:
    """The behaviours that each balanced metric averages over, as masks `(V,)`."""
    group, anchor = vocabulary["group"].to_numpy(), vocabulary["is_anchor"].to_numpy()
    return {
        "overall": np.ones(len(group), dtype=bool),
        "head": group == "head",
        "medium": group == "medium",
        "tail": group == "tail",
        "anchors": anchor,
        "non_anchors": ~anchor,
    }


def group_means(accuracy: np.ndarray, members: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Mean over a group's behaviours of `accuracy` `(R, V)`, NaNs left out; NaN for a group with nothing left."""
    return {
        name: ratio(np.nansum(accuracy[:, member], axis=1), np.isfinite(accuracy[:, member]).sum(axis=1))
        for name, member in members.items()
    }
