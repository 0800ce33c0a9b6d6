"""Quotients of sums, many weightings at once: what metrics are made of."""

import numpy as np


def ratio(part: np.ndarray, whole: np.ndarray, empty: float = np.nan) -> np.ndarray:
    """`part / whole`, `empty` where `whole` is 0: nothing there to measure."""
    return np.divide(part, whole, out=np.full(np.broadcast_shapes(part.shape, whole.shape), float(empty)),
                     where=whole != 0)


def mean(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Mean over the columns of `part / whole`, both `(R, K)`: `(R,)`. A column with nothing to measure is left out."""
    each = ratio(part, whole)
    return ratio(np.nansum(each, axis=1), np.isfinite(each).sum(axis=1))
