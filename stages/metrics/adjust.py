"""Other distributions of the same model, without training: logit adjustment and temperature."""

import numpy as np


def adjusted(log_p: np.ndarray, share: np.ndarray, tau: float) -> np.ndarray:
    """log p(y|x) - τ log π(y), renormalised: float32 (Menon et al. 2021, arXiv 2007.07314, Eq. 9).

    It trades the frequent behaviours' advantage for the rare ones'. A person's own candidates, behind the vocabulary,
    have no share of the training events, and -log 0 would lift them above all: their π is the rarest behaviour's.

    Args:
        log_p: log-probabilities `(N, V)`, or `(N, V + E)` with own candidates, -inf in a slot that is none.
        share: π, each behaviour's share of the training events `(V,)`, above 0.
        tau: 0 changes nothing; 1 is optimal for the mean accuracy over behaviours, if `log_p` is calibrated.

    Raises:
        ValueError: a share is not above 0.
    """
    if not (share > 0).all():
        raise ValueError(f"share {share.min()} of behaviour {int(share.argmin())}: expected above 0")
    if tau == 0:  # renormalising would round
        return log_p
    share = np.pad(share, (0, log_p.shape[1] - len(share)), constant_values=share.min())
    return _normalised(log_p.astype(np.float64) - tau * np.log(share)).astype(np.float32)


def tempered(log_p: np.ndarray, temperature: float) -> np.ndarray:
    """log p(y|x) / T, renormalised, of the same shape: float64 (Guo et al. 2017, arXiv 1706.04599, Eq. 9).

    Temperature scaling: T above 1 makes every answer less sure, below 1 surer; the order of the candidates stays. Hence
    float64: in float32 two candidates that differ in their last bit could become equal.
    """
    if temperature == 1:
        return log_p.astype(np.float64)
    return _normalised(log_p.astype(np.float64) / temperature)


def _normalised(scores: np.ndarray) -> np.ndarray:
    scores = scores - scores.max(axis=1, keepdims=True)
    return scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
