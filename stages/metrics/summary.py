"""A model's predictions become the nested dict that stands in `data/evaluation/<model>.json`."""

import math
from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from stages.common.draws import stream
from stages.common.errors import UserError
from stages.metrics.adjust import adjusted, tempered
from stages.metrics.bootstrap import effective_users, interval, paired_difference, resampled
from stages.metrics.decisions import choose_tau, choose_temperature, cross_fitted
from stages.metrics.candidates import OUTSIDE
from stages.metrics.registry import BY_BEHAVIOR, METRICS, Metric, groups, of_split
from stages.metrics.settings import Evaluate
from stages.metrics.splits import TEST, OpenTable, Split, read_splits
from stages.metrics.sums import UserSums

CALIBRATION = (METRICS["natural.log_loss"], METRICS["natural.ece"])
"""What a temperature changes."""


def evaluate_natural(split: Split, bins: int, resamples: int, rng: np.random.Generator) -> dict[str, Any]:
    """Metrics of the natural test set, their 95 % intervals under `interval`, and the sizes.

    Args:
        split: its windows.
        bins: equal-width bins of the calibration error.
        resamples: bootstrap resamples over users; 0 leaves the intervals null.
        rng: draws the users.
    """
    return _sizes(split) | _with_intervals(*_measure("natural", split, {}, of_split("natural"), bins, resamples, rng))


def evaluate_balanced(
    split: Split, vocabulary: pl.DataFrame, resamples: int, rng: np.random.Generator
) -> dict[str, Any]:
    """As `evaluate_natural`, for the balanced test set: means over behaviours of per-behaviour accuracy.

    `behaviors` counts the behaviours behind each mean, `by_behavior` has each one's accuracy, its interval and its
    windows. A group without a behaviour in the test set is null.
    """
    members = groups(vocabulary)
    metrics = (*of_split("balanced"), BY_BEHAVIOR)
    plain, drawn, users = _measure("balanced", split, members, metrics, 1, resamples, rng)
    accuracy, draws, of_each = (found.pop(BY_BEHAVIOR.key) for found in (plain, drawn, users))
    count = np.bincount(split.label[split.label != OUTSIDE], minlength=vocabulary.height)[: vocabulary.height]
    return _sizes(split) | _with_intervals(plain, drawn, users) | {
        "behaviors": {name: int((count[member] > 0).sum()) for name, member in members.items()},
        "by_behavior": {
            name: {"accuracy": _or_null(accuracy[number]), **_bounds(draws[:, number], of_each[number]),
                   "windows": int(count[number])}
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
    found: dict[str, Any] = {}
    bounds: dict[str, Any] = {}
    for name, split, keys in (("balanced", balanced, ["overall"]), ("natural", natural, ["rec_w", "log_loss"])):
        metrics = [METRICS[f"{name}.{key}"] for key in keys]
        rng = _generator(seed, f"valid_{name}")
        found |= _with_intervals(*_measure(name, split, groups(vocabulary), metrics, 1, resamples, rng))
        bounds |= found.pop("interval")
    return found | {"interval": bounds}


def measure(
    predictions: pl.DataFrame, events: pl.DataFrame, vocabulary: pl.DataFrame, evaluate: Evaluate, seed: int
) -> dict[str, Any]:
    """All metrics of a table of `predictions`, the same keys always, null where there is nothing to measure.

    `natural` and `balanced` are of the plain decision, the most likely behaviour. `adjusted` has `tau` and the same
    two of the distribution after logit adjustment; `calibrated` has `temperature` and what it changes. `opened` has the
    `share` that validation windows chose for what persons did before (`stages.metrics.opening`), null where the table
    has numbers for that, or no window has any of it.

    `valid` has scores on the validation windows. `valid.plain` is of the plain decision. `valid.adjusted` is
    cross-fitted: each half of the validation users is decided with the τ that the other half's windows chose (see
    `cross_fitted`), so that it may be below `valid.plain`. It is of no single τ; `adjusted.tau` is chosen on all of
    them. Where `evaluate.tau` is a number, it is that number everywhere.

    The same `seed` draws the same users for every model, and every decision, of the same windows.

    Raises:
        UserError: the predictions were made from other events or another vocabulary.
    """
    table = OpenTable.of(predictions, events, vocabulary)
    splits = table.splits()
    share, bins, resamples = vocabulary["share"].to_numpy(), evaluate.calibration_bins, evaluate.resamples
    tau = choose_tau(splits["valid_balanced"], share, evaluate)
    temperature = choose_temperature(splits["valid_natural"], evaluate)
    moved = {name: splits[name].moved(adjusted(splits[name].log_p, share, tau)) for name in TEST}

    def test(decided: dict[str, Split]) -> dict[str, Any]:
        return {
            "natural": evaluate_natural(decided["natural"], bins, resamples, _generator(seed, "natural")),
            "balanced": evaluate_balanced(decided["balanced"], vocabulary, resamples, _generator(seed, "balanced")),
        }

    valid = partial(evaluate_valid, vocabulary=vocabulary, resamples=resamples, seed=seed)
    validation = splits["valid_natural"], splits["valid_balanced"]
    natural = splits["natural"]
    calibrated = natural.moved(tempered(natural.log_p, temperature))
    calibration = _measure("natural", calibrated, {}, CALIBRATION, bins, resamples, _generator(seed, "natural"))
    return test(splits) | {
        "opened": {"share": table.share},
        "adjusted": {"tau": tau} | test(moved),
        "calibrated": {"temperature": temperature, "natural": _with_intervals(*calibration)},
        "valid": {
            "natural": _sizes(splits["valid_natural"]),
            "balanced": _sizes(splits["valid_balanced"]),
            "plain": valid(*validation),
            "adjusted": valid(*cross_fitted(*validation, share, evaluate)),
        },
    }


def difference(
    first: pl.DataFrame, second: pl.DataFrame, events: pl.DataFrame, vocabulary: pl.DataFrame, evaluate: Evaluate,
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
    pairs = [read_splits(predictions, events, vocabulary) for predictions in (first, second)]
    members, differences = groups(vocabulary), {}
    for split in TEST:
        sums = [_sums(split, splits[split], members, of_split(split), evaluate.calibration_bins) for splits in pairs]
        left, right = (partial(each.measure, metrics=of_split(split)) for each in sums)
        users = {metric.key: float(effective_users(sums[0].weight(metric))) for metric in of_split(split)}
        values = paired_difference(left, right, sums[0].user, evaluate.resamples, _generator(seed, split),
                                   max(each.width for each in sums), users)
        differences[split] = {
            name: {key: _or_null(number) for key, number in value.items()} for name, value in values.items()
        }
    return differences


def _generator(seed: int, split: str) -> np.random.Generator:
    """One for each split, so that what is measured of one does not change the users drawn of another."""
    return stream(seed, f"bootstrap {split}")


def _sizes(split: Split) -> dict[str, Any]:
    """Windows and users; `outside_candidates`: windows of behaviours that no candidate is, which every model misses;
    `own_candidates`: of behaviours outside the vocabulary that the person did before."""
    found: dict[str, Any] = {"windows": len(split.user), "users": len(np.unique(split.user))}
    for name, there in (("outside_candidates", split.label == OUTSIDE), ("own_candidates", split.label >= split.size)):
        found |= {name: int(there.sum()), f"{name}_share": float(there.mean()) if len(there) else None}
    return found


def _sums(name: str, split: Split, members: dict, metrics: Iterable[Metric], bins: int) -> UserSums:
    return UserSums.of({name: (split.outcomes(), split.user)}, members, bins, metrics)


def _measure(
    name: str, split: Split, members: dict[str, np.ndarray], metrics: Iterable[Metric], bins: int, resamples: int,
    rng: np.random.Generator,
) -> tuple[dict[str, Any], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The `metrics` of a split by key, their values in each resample of its users, and as how many these count."""
    metrics = tuple(metrics)
    sums = _sums(name, split, members, metrics, bins)
    values = partial(sums.measure, metrics=metrics)
    plain = {key: value[0] for key, value in values(np.ones((1, len(sums.user)))).items()}
    users = {metric.key: effective_users(sums.weight(metric, apart=metric is BY_BEHAVIOR)) for metric in metrics}
    return plain, resampled(values, sums.user, resamples, rng, sums.width), users


def _with_intervals(
    plain: dict[str, float], drawn: dict[str, np.ndarray], users: dict[str, np.ndarray]
) -> dict[str, Any]:
    values = {name: _or_null(value) for name, value in plain.items()}
    return values | {"interval": {name: _bounds(draws, users[name]) for name, draws in drawn.items()}}


def _bounds(draws: np.ndarray, users: np.ndarray) -> dict[str, float | None]:
    return {key: _or_null(bound) for key, bound in interval(draws, float(users)).items()}


def _or_null(value: float) -> float | None:
    """JSON has no NaN: what could not be measured is null."""
    return float(value) if math.isfinite(value) else None
