"""A logarithmic opinion pool: the weighted geometric mean of several predictors' distributions, normalised.

Genest and Zidek 1986 (Statistical Science 1(1)). Its log-loss is convex in the weights, which are not below 0.
"""

from collections.abc import Sequence

import numpy as np

FORMAT = 1
"""Of `fusion.json`."""

_GAIN = 1e-9


def pooled(log_p: Sequence[np.ndarray], weights: np.ndarray) -> np.ndarray:
    """Log-probabilities `(N, C)` float32 of the pool, -inf where the parts have it.

    Args:
        log_p: of each part `(N, C)`; all are -inf for the same candidates, and finite for the others.
        weights: of each part, 0 or more; where all are 0 every candidate of a window is as likely.
    """
    mixed = np.zeros(log_p[0].shape)
    absent = np.isneginf(log_p[0])
    for each, weight in zip(log_p, weights, strict=True):
        mixed += weight * np.where(absent, 0, each.astype(np.float64))
    mixed[absent] = -np.inf
    mixed -= mixed.max(axis=1, keepdims=True)
    return (mixed - np.log(np.exp(mixed).sum(axis=1, keepdims=True))).astype(np.float32)


def fit_weights(log_p: Sequence[np.ndarray], label: np.ndarray) -> np.ndarray:
    """The weights of least log-loss of `label` `(N,)`, a candidate in each window; `log_p` as in `pooled`.

    Each part alone is a pool too, so that the fitted one is never worse than the best of its parts on these windows.
    Four digits are kept. Equal weights that sum to 1 where there is no window.
    """
    from scipy.optimize import minimize  # who only asks a pool starts half a second sooner without

    parts = len(log_p)
    if not len(label):
        return np.full(parts, 1 / parts)
    absent = np.isneginf(log_p[0])
    values = np.stack([np.where(absent, 0, each) for each in log_p]).astype(np.float64)  # (K, N, C)
    truth = values[:, np.arange(len(label)), label]  # (K, N)

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        mixed = np.where(absent, -np.inf, np.tensordot(weights, values, axes=1))
        top = mixed.max(axis=1, keepdims=True)
        p = np.exp(mixed - top)
        total = p.sum(axis=1, keepdims=True)
        value = (np.log(total) + top)[:, 0] - weights @ truth
        return value.mean(), ((values * (p / total)).sum(axis=2) - truth).mean(axis=1)

    found = minimize(loss, np.full(parts, 1 / parts), jac=True, method="L-BFGS-B", bounds=[(0, None)] * parts,
                     options={"ftol": 1e-12, "maxiter": 500})
    best = min([found.x, *np.eye(parts)], key=lambda weights: loss(weights)[0] - _GAIN * (weights is found.x))
    return np.round(best, 4)
