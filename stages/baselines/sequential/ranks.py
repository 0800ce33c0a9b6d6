"""What chooses between settings of all baselines: the mean reciprocal rank on validation windows."""

import numpy as np


def mean_reciprocal_rank(log_p: np.ndarray, label: np.ndarray) -> float:
    """Of the labels `(N,)` among the V of `log_p` `(N, V)`; not a number where a value is not finite, or N is 0.

    Ties count against the label, so that a constant earns nothing.
    """
    if not len(label) or not np.isfinite(log_p).all():
        return float("nan")
    own = log_p[np.arange(len(label)), label]
    return float((1 / (log_p >= own[:, None]).sum(axis=1)).mean())
