"""A study's rows beside each other: means over repetitions, differences from a reference, how sure each is.

A row's figure is the mean over its repetitions (seeds or folds) of a metric. It varies for two crossed reasons, the
test users and the repetitions, so the bootstrap draws both: each user and each repetition, with replacement, the same
for all rows (Owen 2007, "The pigeonhole bootstrap", Annals of Applied Statistics 1(2), arXiv 0712.1111). That is
conservative: a single prediction's luck is counted with its user and again with its repetition, so an interval is wider
than need be where trainings differ by nothing else. It is too narrow with few repetitions (two, three) of a noisy
training; with one, or without drawing repetitions, it says nothing of the training's noise.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from stages.metrics.bootstrap import effective_users, interval
from stages.metrics.means import ratio
from stages.metrics.registry import find
from stages.metrics.sums import UserSums
from stages.studies.permutation import holm, paired_test, random_signs
from stages.studies.repetitions import Groups, Prepared, RowResult, Vocabularies, check, prepare

LEVEL = 0.95
"""Of the intervals."""


@dataclass(frozen=True)
class Comparison:
    """What to compare and how.

    Attributes:
        metrics: names such as `natural.rec_w` and `balanced.tail`, or `balanced.<one of groups>`.
        groups: further groups of behaviours, masks over the vocabulary `(V,)`.
        resamples: of the bootstrap; 0 leaves the intervals null.
        resample_repetitions: whether repetitions are drawn too.
        flips: random swaps of the paired test, where there are too many users to try all.
    """

    metrics: Sequence[str]
    groups: Groups | None = None
    resamples: int = 2000
    resample_repetitions: bool = True
    flips: int = 10_000


@dataclass(frozen=True)
class Estimate:
    """A mean over repetitions with its interval; None where there is nothing to measure."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Difference(Estimate):
    """A row minus the reference, over the repetitions that both have.

    Attributes:
        relative: the difference as a share of the reference's mean.
        p: two-sided, from `permutation.paired_test`: over users, the trained models as they are.
        p_holm: corrected for the rows of the study compared in the same metric.
    """

    relative: float | None
    p: float | None
    p_holm: float | None


@dataclass(frozen=True)
class Measured:
    """One metric of one row.

    Attributes:
        by_repetition: the value at each of the row's repetitions, in their order.
        difference: None for the reference itself.
        paper: the paper's figure.
    """

    mean: Estimate
    by_repetition: list[float | None]
    difference: Difference | None
    paper: float | None


@dataclass(frozen=True)
class RowSummary:
    """A row; `repetitions` are its numbers, ascending, and `facts` what was handed in for each."""

    name: str
    label: str
    repetitions: list[int]
    facts: list[dict[str, Any]]
    metrics: dict[str, Measured]


@dataclass(frozen=True)
class Summary:
    """A study in numbers, without any user's id.

    Attributes:
        repetitions: the numbers of all rows' repetitions, ascending.
        users: test users over all repetitions.
        windows: test windows of each split at each of `repetitions`.
        outside: natural windows outside the vocabulary, likewise; None where they were left out, as they were once.
    """

    reference: str
    metrics: list[str]
    level: float
    resamples: int
    resample_repetitions: bool
    flips: int
    repetitions: list[int]
    users: int
    windows: dict[str, list[int]]
    rows: list[RowSummary]
    outside: list[int] | None = None

    def to_json(self) -> dict[str, Any]:
        """Nested dicts and lists that JSON knows; what could not be measured is null."""
        text = json.dumps(asdict(self), default=lambda value: value.tolist())  # of NumPy
        return json.loads(text, parse_constant=lambda name: None)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Summary":
        """The summary that `to_json` made `content` of."""
        return TypeAdapter(cls).validate_python(content)


def summarise(
    rows: Sequence[RowResult], vocabulary: Vocabularies, reference: str, comparison: Comparison,
    rng: np.random.Generator,
) -> Summary:
    """Every row's metrics with intervals, and its differences from the row named `reference`.

    The order of rows and of windows changes nothing but the order of the result. A repetition in which a metric cannot
    be measured (no window of the group) is left out of that metric's mean, in resamples too.

    Raises:
        UserError: rows hold other test windows at the same repetition; the reference is no row; a row has no
            repetition; a metric is unknown; see `repetitions.check` and `prepare`.
    """
    check(rows, vocabulary, reference, comparison.metrics, comparison.groups)
    data = prepare(rows, vocabulary, comparison.groups)
    users, repetitions = _draws(data, comparison, rng)
    signs = random_signs(comparison.flips, data.users, rng)
    cube = {name: _cube(sums, data.numbers, users, comparison.metrics) for name, sums in data.sums.items()}
    measured: dict[str, dict[str, Measured]] = {row.name: {} for row in rows}
    for column, metric in enumerate(comparison.metrics):
        values = {name: numbers[:, :, column] for name, numbers in cube.items()}
        differences = _differences(metric, values, data, reference, repetitions, signs)
        for row in rows:
            number = [data.numbers.index(repetition) for repetition in sorted(data.sums[row.name])]
            measured[row.name][metric] = Measured(
                mean=Estimate(**_estimate(_combined(values[row.name], repetitions),
                                          _users(metric, data.sums[row.name].values(), data.users))),
                by_repetition=[_or_null(value) for value in values[row.name][number, 0]],
                difference=differences.get(row.name),
                paper=(row.paper or {}).get(metric),
            )
    return Summary(
        reference, list(comparison.metrics), LEVEL, comparison.resamples, comparison.resample_repetitions,
        comparison.flips, data.numbers, data.users, data.windows,
        [RowSummary(row.name, row.label or row.name, [each.number for each in ordered],
                    [dict(each.facts) for each in ordered], measured[row.name])
         for row in rows for ordered in [sorted(row.repetitions, key=lambda repetition: repetition.number)]],
        data.outside,
    )


def _draws(data: Prepared, comparison: Comparison, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """How often each user `(1 + R, U)` and each repetition `(1 + R, S)` counts; first, in the sample itself, once."""
    def drawn(count: int) -> np.ndarray:
        times = rng.multinomial(count, np.full(count, 1 / count), size=comparison.resamples)
        return np.concatenate([np.ones((1, count)), times])

    users = drawn(data.users) if data.users else np.ones((1 + comparison.resamples, 0))
    if comparison.resample_repetitions:
        return users, drawn(len(data.numbers))
    return users, np.ones((1 + comparison.resamples, len(data.numbers)))


def _cube(
    sums: Mapping[int, UserSums], numbers: Sequence[int], weights: np.ndarray, metrics: Sequence[str]
) -> np.ndarray:
    """A row's metrics at each repetition under each weighting of the users, `(S, 1 + R, M)`; NaN without it."""
    cube = np.full((len(numbers), len(weights), len(metrics)), np.nan)
    found = [find(metric) for metric in metrics]
    for place, number in enumerate(numbers):
        if number in sums:
            of = sums[number]
            totals = of.totals(weights[:, of.user], found)
            for column, metric in enumerate(found):
                cube[place, :, column] = of.values(totals, metric)
    return cube


def _combined(values: np.ndarray, repetitions: np.ndarray) -> np.ndarray:
    """Weighted mean over the repetitions `(1 + R, S)` of `values` `(S, 1 + R)`, NaNs left out: `(1 + R,)`."""
    there = np.isfinite(values)
    return ratio((np.where(there, values, 0) * repetitions.T).sum(axis=0), (there * repetitions.T).sum(axis=0))


def _users(metric: str, sums: Iterable[UserSums], users: int) -> float:
    """As how many of the study's `users` those count that the repetitions measure."""
    weight = np.zeros(users)
    for each in sums:
        weight[each.user] += each.weight(find(metric))
    return float(effective_users(weight))


def _estimate(values: np.ndarray, users: float) -> dict[str, float | None]:
    """The value in the sample, which is the first of `values` `(1 + R,)`, and the interval of the others."""
    bounds = interval(values[1:], users, LEVEL)
    return {"value": _or_null(values[0]), "low": _or_null(bounds["low"]), "high": _or_null(bounds["high"])}


def _differences(
    metric: str, values: Mapping[str, np.ndarray], data: Prepared, reference: str, repetitions: np.ndarray,
    signs: np.ndarray,
) -> dict[str, Difference]:
    """Each other row's difference from the reference in one metric; `values` are `(S, 1 + R)` by row."""
    base, found = data.sums[reference], {}
    for name, sums in data.sums.items():
        if name == reference:
            continue
        both = values[name] - values[reference]
        beside = np.where(np.isfinite(both), values[reference], np.nan)
        relative = ratio(_combined(both[:, :1], repetitions[:1]), _combined(beside[:, :1], repetitions[:1]))
        pairs = [(sums[number], base[number]) for number in data.numbers if number in sums and number in base]
        estimate = _estimate(_combined(both, repetitions), _users(metric, (pair[0] for pair in pairs), data.users))
        found[name] = Difference(
            **estimate, relative=_or_null(relative[0]), p=paired_test(find(metric), pairs, signs), p_holm=None
        )
    corrected = holm([difference.p for difference in found.values()])
    return {name: replace(difference, p_holm=p) for (name, difference), p in zip(found.items(), corrected, strict=True)}


def _or_null(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
