"""A model's predictions become the nested dict that stands in `metrics/eval/<model>.json`."""

import math
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from stages.common.errors import UserError
from stages.metrics.settings import Evaluate
from stages.metrics.accuracy import by_behavior, group_means, groups, ranked, weighted_precision
from stages.metrics.adjust import adjusted, tempered
from stages.metrics.bootstrap import Metrics, interval, paired_difference, resampled
from stages.metrics.calibration import calibration_error, log_loss
from stages.metrics.decisions import cross_fitted, tau_of, temperature_of
from stages.metrics.outcomes import OUTSIDE, Outcomes, outcomes
from stages.metrics.selective import accuracy_at, area_under_risk_coverage
from stages.metrics.splits import TEST, Split, splits_of

COVERAGES = {"accuracy_at_50": 0.5, "accuracy_at_80": 0.8}
"""Accuracy over the surest half and the surest four fifths of the natural windows."""


def natural_metrics(weights: np.ndarray, windows: Outcomes, size: int, bins: int) -> dict[str, np.ndarray]:
    """The metrics of the natural test set under each row of `weights` `(R, N)`; `size` is V."""
    covered = accuracy_at(weights, windows, np.array(list(COVERAGES.values())))
    return {
        "prec_w": weighted_precision(weights, windows, size),
        **ranked(weights, windows),
        **calibration_metrics(weights, windows, bins),
        **dict(zip(COVERAGES, covered.T, strict=True)),
        "aurc": area_under_risk_coverage(weights, windows),
    }


def calibration_metrics(weights: np.ndarray, windows: Outcomes, bins: int) -> dict[str, np.ndarray]:
    """What a temperature changes, under each row of `weights` `(R, N)`."""
    return {"log_loss": log_loss(weights, windows), "ece": calibration_error(weights, windows, bins)}


def balanced_metrics(weights: np.ndarray, windows: Outcomes, members: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The metrics of the balanced test set under each row of `weights` `(R, N)`; `members` are the `groups`.

    A behaviour without a window in a resample is left out of that resample's means. `hr_at_3` is the mean over
    behaviours too.
    """
    size = len(members["overall"])
    top_3 = group_means(by_behavior(weights, windows, size, top=3), {"hr_at_3": members["overall"]})
    return group_means(by_behavior(weights, windows, size), members) | top_3


def evaluate_natural(split: Split, bins: int, resamples: int, rng: np.random.Generator) -> dict[str, Any]:
    """Metrics of the natural test set, their 95 % intervals under `interval`, and the sizes.

    Args:
        split: its windows.
        bins: equal-width bins of the calibration error.
        resamples: bootstrap resamples over users; 0 leaves the intervals null.
        rng: draws the users.
    """
    windows = outcomes(split.log_p, split.label)
    metrics = partial(natural_metrics, windows=windows, size=split.log_p.shape[1], bins=bins)
    return _sizes(split) | _values(metrics, split.user, resamples, rng)


def evaluate_balanced(
    split: Split, vocabulary: pl.DataFrame, resamples: int, rng: np.random.Generator
) -> dict[str, Any]:
    """As `evaluate_natural`, for the balanced test set: means over behaviours of per-behaviour accuracy.

    `behaviors` counts the behaviours behind each mean, `by_behavior` has each one's accuracy, its interval and its
    windows. A group without a behaviour in the test set is null.
    """
    windows = outcomes(split.log_p, split.label)
    members = groups(vocabulary)

    def metrics(weights: np.ndarray) -> dict[str, np.ndarray]:
        each = by_behavior(weights, windows, vocabulary.height)
        return balanced_metrics(weights, windows, members) | {"by_behavior": each}

    plain, drawn = _plain(metrics, split.user), resampled(metrics, split.user, resamples, rng)
    accuracy, draws = plain.pop("by_behavior"), drawn.pop("by_behavior")
    count = np.bincount(split.label[split.label != OUTSIDE], minlength=vocabulary.height)
    return _sizes(split) | _with_intervals(plain, drawn) | {
        "behaviors": {name: int((count[member] > 0).sum()) for name, member in members.items()},
        "by_behavior": {
            name: {"accuracy": _or_null(accuracy[number]), **_bounds(draws[:, number]), "windows": int(count[number])}
            for number, name in enumerate(vocabulary["behavior"])
        },
    }


def evaluate_valid(
    natural: Split, balanced: Split, vocabulary: pl.DataFrame, resamples: int, seed: int
) -> dict[str, Any]:
    """How well a decision does on the validation windows, which recipes are chosen by.

    `overall` is the mean accuracy over behaviours on `balanced`; `rec_w` and `log_loss` are of `natural`. Intervals
    take the decision as it is: what other users would have made of τ is not in them.
    """
    windows = outcomes(balanced.log_p, balanced.label)
    overall = {"overall": np.ones(vocabulary.height, dtype=bool)}
    first = _values(
        lambda weights: group_means(by_behavior(weights, windows, vocabulary.height), overall),
        balanced.user, resamples, _generator(seed, "valid_balanced"),
    )
    seen = outcomes(natural.log_p, natural.label)
    second = _values(
        lambda weights: {"rec_w": ranked(weights, seen)["rec_w"], "log_loss": log_loss(weights, seen)},
        natural.user, resamples, _generator(seed, "valid_natural"),
    )
    bounds = first.pop("interval") | second.pop("interval")
    return first | second | {"interval": bounds}


def metrics_of(
    predictions: pl.DataFrame, events: pl.DataFrame, vocabulary: pl.DataFrame, evaluate: Evaluate, seed: int
) -> dict[str, Any]:
    """All metrics of a table of `predictions`, the same keys always, null where there is nothing to measure.

    `natural` and `balanced` are of the plain decision, the most likely behaviour. `adjusted` has `tau` and the same
    two of the distribution after logit adjustment; `calibrated` has `temperature` and what it changes.

    `valid` has scores on the validation windows. `valid.plain` is of the plain decision. `valid.adjusted` is
    cross-fitted: each half of the validation users is decided with the τ that the other half's windows chose (see
    `cross_fitted`), so that it may be below `valid.plain`. It is of no single τ; `adjusted.tau` is chosen on all of
    them. Where `evaluate.tau` is a number, it is that number everywhere.

    The same `seed` draws the same users for every model, and every decision, of the same windows.

    Raises:
        UserError: the predictions were made from other events or another vocabulary.
    """
    splits = splits_of(predictions, events, vocabulary)
    share, bins, resamples = vocabulary["share"].to_numpy(), evaluate.calibration_bins, evaluate.resamples
    tau = tau_of(splits["valid_balanced"], share, evaluate)
    temperature = temperature_of(splits["valid_natural"], evaluate)
    moved = {name: Split(adjusted(splits[name].log_p, share, tau), splits[name].label, splits[name].user)
             for name in TEST}

    def test(decided: dict[str, Split]) -> dict[str, Any]:
        return {
            "natural": evaluate_natural(decided["natural"], bins, resamples, _generator(seed, "natural")),
            "balanced": evaluate_balanced(decided["balanced"], vocabulary, resamples, _generator(seed, "balanced")),
        }

    valid = partial(evaluate_valid, vocabulary=vocabulary, resamples=resamples, seed=seed)
    validation = splits["valid_natural"], splits["valid_balanced"]
    natural = splits["natural"]
    calibrated = outcomes(tempered(natural.log_p, temperature), natural.label)
    calibration = partial(calibration_metrics, windows=calibrated, bins=bins)
    return test(splits) | {
        "adjusted": {"tau": tau} | test(moved),
        "calibrated": {
            "temperature": temperature,
            "natural": _values(calibration, natural.user, resamples, _generator(seed, "natural")),
        },
        "valid": {
            "natural": _sizes(splits["valid_natural"]),
            "balanced": _sizes(splits["valid_balanced"]),
            "plain": valid(*validation),
            "adjusted": valid(*cross_fitted(*validation, share, evaluate)),
        },
    }


def difference_of(
    first: pl.DataFrame,
    second: pl.DataFrame,
    events: pl.DataFrame,
    vocabulary: pl.DataFrame,
    evaluate: Evaluate,
    seed: int,
) -> dict[str, Any]:
    """Every test metric of `first` minus that of `second`, two tables of `predictions` on the same windows.

    Both decide plainly. Returns `{"natural": {"rec_w": {"difference": …, "low": …, "high": …}, …}, "balanced": …}`.

    Raises:
        UserError: the two do not hold the same windows, or fit neither the events nor the vocabulary.
    """
    keys = ["split", "row"]
    first, second = first.sort(keys), second.sort(keys)
    if not first.select(keys).equals(second.select(keys)):
        raise UserError("the two tables of predictions hold different windows; evaluate both models on the same log")
    pairs = [splits_of(predictions, events, vocabulary) for predictions in (first, second)]
    differences = {}
    for split in TEST:
        if split == "natural":
            bound = partial(natural_metrics, size=vocabulary.height, bins=evaluate.calibration_bins)
        else:
            bound = partial(balanced_metrics, members=groups(vocabulary))
        metrics = [partial(bound, windows=outcomes(splits[split].log_p, splits[split].label)) for splits in pairs]
        values = paired_difference(*metrics, pairs[0][split].user, evaluate.resamples, _generator(seed, split))
        differences[split] = {
            name: {key: _or_null(number) for key, number in value.items()} for name, value in values.items()
        }
    return differences


def _generator(seed: int, split: str) -> np.random.Generator:
    """One for each split, so that what is measured of one does not change the users drawn of another."""
    return np.random.default_rng([seed, *split.encode()])


def _sizes(split: Split) -> dict[str, int]:
    return {
        "windows": len(split.user),
        "users": len(np.unique(split.user)),
        "outside_vocabulary": int((split.label == OUTSIDE).sum()),
    }


def _values(metrics: Metrics, user: np.ndarray, resamples: int, rng: np.random.Generator) -> dict[str, Any]:
    return _with_intervals(_plain(metrics, user), resampled(metrics, user, resamples, rng))


def _plain(metrics: Metrics, user: np.ndarray) -> dict[str, Any]:
    return {name: value[0] for name, value in metrics(np.ones((1, len(user)))).items()}


def _with_intervals(plain: dict[str, float], drawn: dict[str, np.ndarray]) -> dict[str, Any]:
    values = {name: _or_null(value) for name, value in plain.items()}
    return values | {"interval": {name: _bounds(draws) for name, draws in drawn.items()}}


def _bounds(draws: np.ndarray) -> dict[str, float | None]:
    return {key: _or_null(bound) for key, bound in interval(draws).items()}


def _or_null(value: float) -> float | None:
    """JSON has no NaN: what could not be measured is null."""
    return float(value) if math.isfinite(value) else None
