"""A model's predictions become the nested dict that stands in `metrics/eval/<model>.json`."""

import math
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from stages.common.errors import UserError
from stages.common.params import Evaluate
from stages.ranking.accuracy import by_behavior, group_means, groups, ranked, weighted_precision
from stages.ranking.bootstrap import Metrics, interval, paired_difference, resampled
from stages.ranking.calibration import calibration_error, log_loss
from stages.ranking.outcomes import OUTSIDE, Outcomes, outcomes

SPLITS = ("natural", "balanced")


def natural_metrics(weights: np.ndarray, windows: Outcomes, size: int, bins: int) -> dict[str, np.ndarray]:
    """The metrics of the natural test set under each row of `weights` `(R, N)`; `size` is V."""
    return {
        "prec_w": weighted_precision(weights, windows, size),
        **ranked(weights, windows),
        "log_loss": log_loss(weights, windows),
        "ece": calibration_error(weights, windows, bins),
    }


def balanced_metrics(weights: np.ndarray, windows: Outcomes, members: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The metrics of the balanced test set under each row of `weights` `(R, N)`; `members` are the `groups`.

    A behaviour without a window in a resample is left out of that resample's means.
    """
    return group_means(by_behavior(weights, windows, len(members["overall"])), members)


def evaluate_natural(
    log_p: np.ndarray, label: np.ndarray, user: np.ndarray, bins: int, resamples: int, rng: np.random.Generator
) -> dict[str, Any]:
    """Metrics of the natural test set, their 95 % intervals under `interval`, and the sizes.

    Args:
        log_p: log-probabilities `(N, V)`, rows normalised.
        label: numbers of the true behaviours `(N,)`, `OUTSIDE` for one that is not in the vocabulary.
        user: pseudonyms `(N,)`.
        bins: equal-width bins of the calibration error.
        resamples: bootstrap resamples over users; 0 leaves the intervals null.
    """
    windows = outcomes(log_p, label)
    metrics = partial(natural_metrics, windows=windows, size=log_p.shape[1], bins=bins)
    return _sizes(windows, user) | _values(metrics, user, resamples, rng)


def evaluate_balanced(
    log_p: np.ndarray,
    label: np.ndarray,
    user: np.ndarray,
    vocabulary: pl.DataFrame,
    resamples: int,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """As `evaluate_natural`, for the balanced test set: means over behaviours of per-behaviour accuracy.

    `behaviors` counts the behaviours behind each mean, `by_behavior` has each one's accuracy and windows. A group
    without a behaviour in the test set is null.
    """
    windows = outcomes(log_p, label)
    members = groups(vocabulary)
    metrics = partial(balanced_metrics, windows=windows, members=members)
    accuracy = by_behavior(np.ones((1, len(user))), windows, vocabulary.height)[0]
    count = np.bincount(windows.label[windows.label != OUTSIDE], minlength=vocabulary.height)
    return _sizes(windows, user) | _values(metrics, user, resamples, rng) | {
        "behaviors": {name: int((count[member] > 0).sum()) for name, member in members.items()},
        "by_behavior": {
            name: {"accuracy": _or_null(accuracy[number]), "windows": int(count[number])}
            for number, name in enumerate(vocabulary["behavior"])
        },
    }


def metrics_of(
    predictions: pl.DataFrame, events: pl.DataFrame, vocabulary: pl.DataFrame, evaluate: Evaluate, seed: int
) -> dict[str, Any]:
    """Both test sets' metrics of a table of `predictions`: `{"natural": …, "balanced": …}`, the same keys always.

    The same `seed` draws the same users for every model of the same test sets.

    Raises:
        UserError: the predictions were made from other events or another vocabulary.
    """
    rng = np.random.default_rng(seed)
    natural, balanced = (_arrays(predictions, split, events, vocabulary) for split in SPLITS)
    return {
        "natural": evaluate_natural(*natural, evaluate.calibration_bins, evaluate.resamples, rng),
        "balanced": evaluate_balanced(*balanced, vocabulary, evaluate.resamples, rng),
    }


def difference_of(
    first: pl.DataFrame,
    second: pl.DataFrame,
    events: pl.DataFrame,
    vocabulary: pl.DataFrame,
    evaluate: Evaluate,
    seed: int,
) -> dict[str, Any]:
    """Every metric of `first` minus that of `second`, two tables of `predictions` on the same windows.

    Returns `{"natural": {"rec_w": {"difference": …, "low": …, "high": …}, …}, "balanced": …}`.

    Raises:
        UserError: the two do not hold the same windows, or fit neither the events nor the vocabulary.
    """
    rng = np.random.default_rng(seed)
    keys = ["split", "row"]
    first, second = first.sort(keys), second.sort(keys)
    if not first.select(keys).equals(second.select(keys)):
        raise UserError("the two tables of predictions hold different windows; evaluate both models on the same log")
    differences = {}
    for split in SPLITS:
        metrics = []
        for predictions in (first, second):
            log_p, label, user = _arrays(predictions, split, events, vocabulary)
            windows = outcomes(log_p, label)
            if split == "natural":
                bound = partial(natural_metrics, size=vocabulary.height, bins=evaluate.calibration_bins)
            else:
                bound = partial(balanced_metrics, members=groups(vocabulary))
            metrics.append(partial(bound, windows=windows))
        values = paired_difference(*metrics, user, evaluate.resamples, rng)
        differences[split] = {
            name: {key: _or_null(number) for key, number in value.items()} for name, value in values.items()
        }
    return differences


def _arrays(
    predictions: pl.DataFrame, split: str, events: pl.DataFrame, vocabulary: pl.DataFrame
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """log_p `(N, V)`, label `(N,)` and user `(N,)` of one split's windows."""
    part = predictions.filter(pl.col("split") == split)
    row, size = part["row"], vocabulary.height
    if len(row) and row.max() >= events.height or not events["behavior"].gather(row).equals(part["behavior"]):
        raise UserError("the predictions were made from another log than the events; run `dvc repro`")
    if (part["log_p"].list.len() != size).any():
        raise UserError(f"the predictions were made with another vocabulary than this one of {size}; run `dvc repro`")
    log_p = part["log_p"].explode().to_numpy().reshape(-1, size)
    names = vocabulary["behavior"]
    label = part["behavior"].replace_strict(names, np.arange(size), default=OUTSIDE, return_dtype=pl.Int64)
    return log_p, label.to_numpy(), events["user"].gather(row).to_numpy()


def _sizes(windows: Outcomes, user: np.ndarray) -> dict[str, int]:
    return {
        "windows": len(user),
        "users": len(np.unique(user)),
        "outside_vocabulary": int((windows.label == OUTSIDE).sum()),
    }


def _values(metrics: Metrics, user: np.ndarray, resamples: int, rng: np.random.Generator) -> dict[str, Any]:
    plain = metrics(np.ones((1, len(user))))
    drawn = resampled(metrics, user, resamples, rng)
    return {name: _or_null(value[0]) for name, value in plain.items()} | {
        "interval": {
            name: {key: _or_null(bound) for key, bound in interval(values).items()} for name, values in drawn.items()
        }
    }


def _or_null(value: float) -> float | None:
    """JSON has no NaN: what could not be measured is null."""
    return float(value) if math.isfinite(value) else None
