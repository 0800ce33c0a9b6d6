"""The network of habits with the weights that training left, in NumPy: who only asks it needs no PyTorch.

It computes what `stages.past.network` does, which says what is computed and why.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Inputs:
    """What the network reads of W windows with C candidates.

    Attributes:
        numbers: of each candidate `(W, C, F)`.
        moments: of each window `(W, M)`.
        allowed, outside: as in stages.past.counted `(W, C)`.
        label: what was done `(W,)`, `NONE` where it is no candidate.
    """

    numbers: np.ndarray
    moments: np.ndarray
    allowed: np.ndarray
    outside: np.ndarray
    label: np.ndarray


class Weights:
    """Fixed weights, by the names that `stages.past.network.Network` gives them."""

    def __init__(self, arrays: Mapping[str, np.ndarray]):
        self.arrays = dict(arrays)
        mean, scale = self.arrays["mean"], self.arrays["scale"]
        # (x - mean) / scale is part of the first layers, so that one product does
        first = np.concatenate([self.arrays["linear.weight"], self.arrays["network.0.weight"]]) / scale
        bias = np.concatenate([[0], self.arrays["network.0.bias"]]) - first @ mean
        self._first, self._bias = np.ascontiguousarray(first.T), bias.astype(np.float32)

    @property
    def hidden(self) -> int:
        """Width of the small network."""
        return len(self.arrays["network.0.weight"])

    def log_p(self, inputs: Inputs) -> np.ndarray:
        """Log-probabilities `(W, C)` float32, -inf where a candidate is not the window's."""
        arrays = self.arrays
        windows, width, features = inputs.numbers.shape
        first = inputs.numbers.reshape(-1, features) @ self._first + self._bias
        second = np.maximum(first[:, 1:], 0) @ arrays["network.2.weight"].T + arrays["network.2.bias"]
        utility = first[:, 0] + np.maximum(second, 0) @ arrays["network.4.weight"][0]
        utility = utility.reshape(windows, width)
        moment = arrays["moment.weight"][inputs.moments].sum(axis=1)
        own = moment @ arrays["behavior.weight"].T + arrays["behavior.bias"]
        size = own.shape[1]
        utility[:, :size] += np.where(inputs.outside[:, :size], 0, own)
        utility[~inputs.allowed] = -np.inf
        utility -= utility.max(axis=1, keepdims=True)
        return utility - np.log(np.exp(utility).sum(axis=1, keepdims=True))
