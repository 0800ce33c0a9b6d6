"""How far the probabilities can be trusted."""

import numpy as np

from stages.metrics.outcomes import OUTSIDE, Outcomes
from stages.metrics.sums import mean, ratio, sums_by


def log_loss(weights: np.ndarray, windows: Outcomes) -> np.ndarray:
    """Mean -log p of the label in nats, `(R,)`, over the windows whose label is in the vocabulary."""
    known = windows.label != OUTSIDE
    return mean(weights[:, known], windows.surprise[known])


def calibration_error(weights: np.ndarray, windows: Outcomes, bins: int) -> np.ndarray:
    """Expected calibration error of the answer's probability, `(R,)`, 0 to 1 (Guo et al. 2017, arXiv 1706.04599).

    Sum over equal-width bins of |confidence - accuracy|, weighted by the windows in the bin. It is biased upwards
    where bins hold few windows, in a resample more than in the sample: an interval may lie above the value.
    """
    gap = sums_by(weights * (windows.confidence - windows.hit), bin_of(windows, bins), bins)
    return ratio(np.abs(gap).sum(axis=1), weights.sum(axis=1))


def bin_of(windows: Outcomes, bins: int) -> np.ndarray:
    """The equal-width bin `(N,)` that each window's confidence falls into, 0 to `bins` - 1."""
    return np.minimum((windows.confidence * bins).astype(np.int64), bins - 1)
