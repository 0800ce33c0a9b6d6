"""Selective prediction: how good the answers are when only the surest are given.

A window's confidence is the probability of its answer. Windows of equal confidence have no order: accuracies are
expectations over a random one, so no result depends on the order of the windows.
"""

import numpy as np
from scipy.special import digamma

from stages.metrics.outcomes import Outcomes
from stages.metrics.sums import ratio, sums_by


def accuracy_at(weights: np.ndarray, windows: Outcomes, coverage: np.ndarray) -> np.ndarray:
    """Accuracy over the surest share `coverage` `(C,)`, above 0 to 1, of the windows: `(R, C)`; NaN without windows.

    Where the share cuts through a window, that window counts in part. A coverage of 1 gives the plain accuracy.
    """
    covered, right = _cumulative(weights, windows)
    if covered.shape[1] == 1:
        return np.full((len(weights), len(coverage)), np.nan)
    wanted = covered[:, -1:] * coverage
    columns = []
    for until in wanted.T:
        above = np.maximum((covered < until[:, None]).sum(axis=1), 1)[:, None]
        (low, high), (fewer, more) = (
            [np.take_along_axis(array, index, axis=1)[:, 0] for index in (above - 1, above)]
            for array in (covered, right)
        )
        columns.append(ratio(fewer + (more - fewer) * ratio(until - low, high - low), until))
    return np.stack(columns, axis=1)


def area_under_risk_coverage(weights: np.ndarray, windows: Outcomes) -> np.ndarray:
    """AURC, `(R,)`, 0 to 1, less is better: the error rate over the k surest windows, averaged over k = 1 … N.

    After Geifman, Uziel and El-Yaniv 2019 (arXiv 1805.08206). A random order has the plain error rate. A window of
    weight w counts as w windows of the same confidence.
    """
    covered, right = _cumulative(weights, windows)
    count, hits = np.diff(covered), np.diff(right)
    accuracy = np.nan_to_num(ratio(hits, count))
    # among windows of equal confidence, k - covered of them in, the expected hits are right + accuracy (k - covered);
    # divided by k and summed over k that is a difference of harmonic numbers, and H_n = digamma(n + 1) + γ
    harmonic = np.diff(digamma(covered + 1))
    precision = hits + (right[:, :-1] - accuracy * covered[:, :-1]) * harmonic
    return 1 - ratio(precision.sum(axis=1), covered[:, -1])


def _cumulative(weights: np.ndarray, windows: Outcomes) -> tuple[np.ndarray, np.ndarray]:
    """Weight of all windows, and of the right ones, down to each confidence, the highest first, after a 0.

    Both `(R, G + 1)` for G different confidences.
    """
    values, code = np.unique(-windows.confidence, return_inverse=True)
    start = np.zeros((len(weights), 1))
    parts = (sums_by(weights, code, len(values)), sums_by(weights * windows.hit, code, len(values)))
    return tuple(np.concatenate([start, part.cumsum(axis=1)], axis=1) for part in parts)
