"""Weighted sums over windows, many weightings at once: what metrics and their bootstrap are made of."""

import numpy as np


def sums_by(weights: np.ndarray, code: np.ndarray, size: int) -> np.ndarray:
    """Sum `weights` `(R, N)` over the windows of each code, codes `(N,)` in [0, size): `(R, size)`."""
    sums = np.zeros((len(weights), size))
    if len(code):
        order = np.argsort(code, kind="stable")
        # only codes that occur: reduceat would give an empty code the weight of its neighbour
        present, start = np.unique(code[order], return_index=True)
        sums[:, present] = np.add.reduceat(weights[:, order], start, axis=1)
    return sums


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """`part / whole`, NaN where `whole` is 0: nothing there to measure."""
    return np.divide(part, whole, out=np.full(np.broadcast_shapes(part.shape, whole.shape), np.nan), where=whole != 0)


def mean(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Weighted mean of `values` `(N,)` under each row of `weights` `(R, N)`: `(R,)`."""
    return ratio(weights @ values, weights.sum(axis=1))
