"""Logit adjustment: trade the frequent behaviours' advantage for the rare ones', without training."""

import numpy as np


def adjusted(log_p: np.ndarray, share: np.ndarray, tau: float) -> np.ndarray:
    """log p(y|x) - τ log π(y), renormalised: `(N, V)` float32 (Menon et al. 2021, arXiv 2007.07314, Eq. 9).

    Args:
        log_p: log-probabilities `(N, V)`.
        share: π, each behaviour's share of the training events `(V,)`, above 0.
        tau: 0 changes nothing; 1 is optimal for the mean accuracy over behaviours, if `log_p` is calibrated.

    Raises:
        ValueError: a share is not above 0.
    """
    if not (share > 0).all():
        raise ValueError(f"share {share.min()} of behaviour {int(share.argmin())}: expected above 0")
    scores = log_p.astype(np.float64) - tau * np.log(share)
    scores -= scores.max(axis=1, keepdims=True)
    return (scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))).astype(np.float32)
