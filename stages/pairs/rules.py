"""How difficult a window is, and the rules by which some are selected. A new rule is one function in `RULES`."""

from collections.abc import Callable
from typing import Annotated, Literal

import numpy as np
import polars as pl
from pydantic import Field

from stages.common.params import Positive, Section, Share, key_of

_LEAST_WEIGHT = 1e-6


class Selection(Section):
    method: Annotated[str, key_of(lambda: RULES)]
    per_behavior: Positive
    tail_factor: Annotated[float, Field(ge=1, le=1000)]
    lambda_: Annotated[Share, Field(alias="lambda")]
    confusion_term: Literal["intended", "literal"]


def difficulty(scores: pl.DataFrame, params: Selection) -> np.ndarray:
    """D(x) (N,) in 0 to 1: λ (1 - p(y|x)) + (1 - λ) times the confusion term (Eq. 3).

    The paper's text wants confusions within the category (d = 0) to be hard, its formula makes them easy:
    `confusion_term` `intended` uses 1 - d, `literal` d.
    """
    within = scores["within_category"].to_numpy().astype(np.float32)
    term = within if params.confusion_term == "intended" else 1 - within
    return (params.lambda_ * (1 - scores["p_true"].to_numpy()) + (1 - params.lambda_) * term).astype(np.float32)


def _kmeans(group: pl.DataFrame, size: int, rng: np.random.Generator) -> np.ndarray:
    """Difficulty-weighted k-means++ seeding over the embeddings: hard windows, far from each other."""
    from sklearn.cluster import kmeans_plusplus  # a second of start-up that the other rules need not pay

    weight = group["difficulty"].to_numpy().astype(np.float64)
    # weights of zero would leave nothing to draw from once all others are taken
    weight = np.maximum(weight / max(weight.max(), _LEAST_WEIGHT), _LEAST_WEIGHT)
    points = np.stack(group["embedding"].to_numpy()).astype(np.float64)
    _, chosen = kmeans_plusplus(points, min(size, len(group)), sample_weight=weight, n_local_trials=1,
                                random_state=int(rng.integers(2**31)))
    return _distinct(chosen, weight, size)


def _distinct(chosen: np.ndarray, weight: np.ndarray, size: int) -> np.ndarray:
    """Windows with the same embedding can be drawn twice; the hardest of those left out take their place."""
    chosen = np.unique(chosen)
    left = np.setdiff1d(np.arange(len(weight)), chosen)
    missing = min(size, len(weight)) - len(chosen)
    return np.concatenate([chosen, left[np.argsort(-weight[left], kind="stable")][:missing]])


def _difficulty(group: pl.DataFrame, size: int, rng: np.random.Generator) -> np.ndarray:
    """The most difficult ("w/o KMeans")."""
    return _top(group["difficulty"].to_numpy(), size)


def _uniform(group: pl.DataFrame, size: int, rng: np.random.Generator) -> np.ndarray:
    """Any ("w/o DDS")."""
    return rng.permutation(len(group))[:size]


def _hard(group: pl.DataFrame, size: int, rng: np.random.Generator) -> np.ndarray:
    """Mispredicted within the category (the paper's first version), any of those; a behaviour may have none."""
    return rng.permutation(np.flatnonzero(group["within_category"].to_numpy() == 1))[:size]


def _uncertainty(group: pl.DataFrame, size: int, rng: np.random.Generator) -> np.ndarray:
    """Least probability of the truth."""
    return _top(1 - group["p_true"].to_numpy(), size)


def _margin(group: pl.DataFrame, size: int, rng: np.random.Generator) -> np.ndarray:
    """Least distance between the two most likely candidates, as in active learning: the truth plays no part."""
    return _top((group["p_runner_up"] - group["p_predicted"]).to_numpy(), size)


def _top(values: np.ndarray, size: int) -> np.ndarray:
    return np.argsort(-values, kind="stable")[:size]


# One behaviour's windows (rows of `scores` with `difficulty`), how many to keep, and a generator -> their numbers.
RULES: dict[str, Callable[[pl.DataFrame, int, np.random.Generator], np.ndarray]] = {
    "kmeans": _kmeans, "difficulty": _difficulty, "uniform": _uniform, "hard": _hard, "uncertainty": _uncertainty,
    "margin": _margin,
}
