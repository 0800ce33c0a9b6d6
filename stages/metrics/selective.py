"""Selective prediction: how good the answers are when only the surest are given.

Functions take the weight of the windows at each different confidence, the highest first, and that of the right ones:
both `(R, G)`, in R weightings. Windows of equal confidence have no order: accuracies are expectations over a random
one, so no result depends on the order of the windows.
"""

import numpy as np
from scipy.special import digamma

from stages.metrics.means import ratio


def accuracy_at(windows: np.ndarray, right: np.ndarray, coverage: np.ndarray) -> np.ndarray:
    """Accuracy over the surest share `coverage` `(C,)`, above 0 to 1, of the windows: `(R, C)`; NaN without windows.

    Where the share cuts through a window, that window counts in part. A coverage of 1 gives the plain accuracy.
    """
    if not windows.shape[1]:
        return np.full((len(windows), len(coverage)), np.nan)
    covered, right = _cumulative(windows), _cumulative(right)
    columns = []
    for until in (covered[:, -1:] * coverage).T:
        above = np.maximum((covered < until[:, None]).sum(axis=1), 1)[:, None]
        (low, high), (fewer, more) = (
            [np.take_along_axis(array, index, axis=1)[:, 0] for index in (above - 1, above)]
            for array in (covered, right)
        )
        columns.append(ratio(fewer + (more - fewer) * ratio(until - low, high - low), until))
    return np.stack(columns, axis=1)


def area_under_risk_coverage(windows: np.ndarray, right: np.ndarray) -> np.ndarray:
    """AURC, `(R,)`, 0 to 1, less is better: the error rate over the k surest windows, averaged over k = 1 … N.

    After Geifman, Uziel and El-Yaniv 2019 (arXiv 1805.08206). A random order has the plain error rate. A window of
    weight w counts as w windows of the same confidence.
    """
    covered = _cumulative(windows)
    accuracy = np.nan_to_num(ratio(right, windows))
    # among windows of equal confidence, k - covered of them in, the expected hits are right + accuracy (k - covered);
    # divided by k and summed over k that is a difference of harmonic numbers, and H_n = digamma(n + 1) + γ
    harmonic = np.diff(digamma(covered + 1))
    precision = right + (_cumulative(right)[:, :-1] - accuracy * covered[:, :-1]) * harmonic
    return 1 - ratio(precision.sum(axis=1), covered[:, -1])


def _cumulative(sums: np.ndarray) -> np.ndarray:
    """Running sum `(R, G + 1)`, after a 0."""
    return np.concatenate([np.zeros((len(sums), 1)), sums.cumsum(axis=1)], axis=1)
