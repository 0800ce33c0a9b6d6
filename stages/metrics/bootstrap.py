"""Intervals from a bootstrap over users: windows of one user are alike, so users are drawn, not windows."""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from scipy.stats import norm, t

from stages.metrics.means import ratio

Metrics = Callable[[np.ndarray], dict[str, np.ndarray]]
"""Weights `(R, N)` of windows, or of sums by user, to each metric `(R,)`; weights of 1 give it plain."""

_ONE = 1 + 1e-9  # user, and rounding
# numbers in a block of weights: 32 MB
_BLOCK = 4_000_000


def user_weights(
    user: np.ndarray, resamples: int, rng: np.random.Generator, width: int = 0
) -> Iterator[np.ndarray]:
    """Weights of what is of each of `user` `(N,)`, windows or sums: `(R, N)` in blocks, R adding up to `resamples`.

    A weight is how often the user was drawn when as many users are drawn, with replacement, as there are. Depends on
    the users present and not on their order. `width` is of the widest array `(R, width)` that is made of a block.
    """
    users, code = np.unique(user, return_inverse=True)
    block = max(1, _BLOCK // max(1, len(user), width))
    for first in range(0, resamples, block):
        rows = min(block, resamples - first)
        drawn = rng.integers(len(users), size=(rows, len(users)))
        drawn += np.arange(rows)[:, None] * len(users)
        times = np.bincount(drawn.ravel(), minlength=rows * len(users)).reshape(rows, len(users))
        yield times[:, code].astype(np.float64)


def resampled(
    metrics: Metrics, user: np.ndarray, resamples: int, rng: np.random.Generator, width: int = 0
) -> dict[str, np.ndarray]:
    """Values of each metric in each resample of the users `(N,)`: `(resamples,)`; none where there is no user.

    A metric of several values, `(R, V)`, keeps them: `(resamples, V)`. `width` as in `user_weights`.
    """
    if not len(user) or not resamples:
        return {name: value[:0] for name, value in metrics(np.ones((1, len(user)))).items()}
    blocks = [metrics(weights) for weights in user_weights(user, resamples, rng, width)]
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def effective_users(weight: np.ndarray) -> np.ndarray:
    """As how many users of equal weight those of `weight` `(U,)` or `(U, V)` count: `()` or `(V,)`; 0 where none does.

    The square of the sum over the sum of squares (Kish 1965, "Survey Sampling"): one user with all windows is one.
    """
    return ratio(weight.sum(axis=0) ** 2, (weight**2).sum(axis=0), empty=0)


def interval(values: np.ndarray, users: float, level: float = 0.95) -> dict[str, float]:
    """Expanded percentile interval of the resampled values, NaNs (nothing to measure in a resample) left out.

    Plain percentiles are too narrow where users are few: of a dozen, 95 % intervals hold the truth 89 to 93 times in a
    hundred. So the level is raised until a normal interval would be as wide as Student's (Hesterberg 2015, "What
    Teachers Should Know About the Bootstrap", arXiv 1411.5279).

    Args:
        users: as `effective_users` counts them. Of one user nothing says how much users differ: both bounds are NaN.
    """
    values = values[np.isfinite(values)]
    if not len(values) or not users > _ONE:
        return {"low": float("nan"), "high": float("nan")}
    tail = norm.cdf(t.ppf((1 - level) / 2, users - 1) * np.sqrt(users / (users - 1)))
    low, high = np.quantile(values, [tail, 1 - tail])
    return {"low": float(low), "high": float(high)}


def paired_difference(
    first: Metrics, second: Metrics, user: np.ndarray, resamples: int, rng: np.random.Generator, width: int = 0,
    users: Mapping[str, float] | None = None,
) -> dict[str, dict[str, float]]:
    """Each metric of `first` minus that of `second` on the same windows, with the interval of that difference.

    Both see the same users in every resample, so what makes a user hard for both cancels. `users` is what `interval`
    wants, by metric; else they are counted by their windows.
    """
    of_all = float(effective_users(np.unique(user, return_counts=True)[1].astype(np.float64)))

    def difference(weights: np.ndarray) -> dict[str, np.ndarray]:
        left, right = first(weights), second(weights)
        return {name: left[name] - right[name] for name in left}

    plain = difference(np.ones((1, len(user))))
    drawn = resampled(difference, user, resamples, rng, width)
    return {name: {"difference": float(plain[name][0]), **interval(drawn[name], (users or {}).get(name, of_all))}
            for name in plain}
