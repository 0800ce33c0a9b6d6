"""Metrics under weights of single windows, by making each window a user of its own."""

import numpy as np

from stages.metrics.registry import BY_BEHAVIOR, METRICS
from stages.metrics.sums import UserSums


def sums(windows, members=None, bins=10):
    every = {"overall": np.ones(windows.size, dtype=bool)}
    user = np.arange(len(windows.label))
    metrics = [metric for metric in (*METRICS.values(), BY_BEHAVIOR)
               if metric.group is None or metric.group in (members or every)]
    return UserSums.of({"natural": (windows, user), "balanced": (windows, user)}, members or every, bins, metrics)


def weighted(name, windows, weights=None, members=None, bins=10):
    """A metric by its name under each row of `weights` `(R, N)`; the metric itself without weights."""
    metric = BY_BEHAVIOR if name == BY_BEHAVIOR.name else METRICS[name]
    plain = np.ones((1, len(windows.label)))
    found = sums(windows, members, bins).measure(plain if weights is None else weights, [metric])[metric.key]
    return found[0] if weights is None else found
