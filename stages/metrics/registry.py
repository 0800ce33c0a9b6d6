"""Every metric: what it adds up over windows, and what it makes of the sums. A new metric is one entry of `METRICS`.

Evaluation, its bootstrap, studies, the report and the model cards all read this table.

A natural window may be of a behaviour that no training user has, outside the vocabulary. Where the person did it
before, it is a candidate in that person's windows (`stages.metrics.candidates`) and counts as any other, under its own
name: two persons who did it did the same. Else no model has a probability for it. It counts as missed, whatever was
answered, in all that asks how often an answer is right: accuracy, HR@k, MRR (rank infinite, so 0), calibration error
(confidence in a wrong answer) and the accuracies and area of the surest. In the support-weighted precision it has a
behaviour of its own that is never predicted, as scikit-learn counts it. Log-loss alone leaves it out, since -log 0
would be infinite for every model: it is of the windows whose behaviour is a candidate. The share of the others stands
beside the figures, as `outside_candidates_share` and, where it is not 0, as `outside` in the headline;
`own_candidates_share` is of the windows that only what the person did before names. The balanced set holds behaviours
of the vocabulary only.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import polars as pl

from stages.metrics.means import mean, ratio
from stages.metrics.candidates import OUTSIDE
from stages.metrics.outcomes import Outcomes
from stages.metrics.selective import accuracy_at, area_under_risk_coverage

Column = Callable[[Outcomes, int], tuple[np.ndarray, int]]
"""Windows, and the bins of the calibration error, to each window's column `(N,)`, -1 for none, and how many."""


def by_bin(windows: Outcomes, bins: int) -> tuple[np.ndarray, int]:
    """Equal-width bins of confidence."""
    return np.minimum((windows.confidence * bins).astype(np.int64), bins - 1), bins


def by_confidence(windows: Outcomes, bins: int) -> tuple[np.ndarray, int]:
    """A column for each different confidence, the highest first."""
    values, column = np.unique(-windows.confidence, return_inverse=True)
    return column, len(values)


COLUMNS: dict[str, Column] = {
    "one": lambda windows, bins: (np.zeros(len(windows.label), dtype=np.int64), 1),
    "label": lambda windows, bins: (windows.label, windows.size),
    "answer": lambda windows, bins: (windows.predicted, windows.size),
    "bin": by_bin,
    "confidence": by_confidence,
}


@dataclass(frozen=True)
class Part:
    """What is summed over a user's windows: `value` of each window `(N,)`, apart by a column of `COLUMNS`."""

    value: Callable[[Outcomes], np.ndarray]
    column: str = "one"


@dataclass(frozen=True)
class Metric:
    """A metric of one test set.

    Attributes:
        name: the test set and the key in the JSON, such as `natural.rec_w`.
        label: what people read.
        parts: what is summed.
        combine: the metric `(R,)` of the sums of each part over the users `(R, K)`, in R weightings of them; NaN where
            there is nothing to measure.
        group: of `groups`, where `combine` sees the columns of its behaviours only.
        headline: short name in `metrics/<model>.json`; not there without one.
        adjusted: whether the headline has it after logit adjustment too.
    """

    name: str
    label: str
    parts: tuple[Part, ...]
    combine: Callable[..., np.ndarray] = mean
    group: str | None = None
    lower_is_better: bool = False
    headline: str | None = None
    adjusted: bool = False

    @property
    def split(self) -> str:
        return self.name.partition(".")[0]

    @property
    def key(self) -> str:
        return self.name.partition(".")[2]

    @property
    def linear(self) -> bool:
        """Whether a difference of two models, on the same windows, is a sum over users."""
        return self.combine is mean

    @property
    def whole(self) -> Part:
        """The part that counts the windows behind it."""
        return next((part for part in reversed(self.parts) if part.value in (count, known)), self.parts[-1])

    @property
    def comparable(self) -> bool:
        """Whether the columns are the same for all models, so that two models' sums can be subtracted."""
        return all(part.column != "confidence" for part in self.parts)


def count(windows: Outcomes) -> np.ndarray:
    return np.ones(len(windows.label))


def known(windows: Outcomes) -> np.ndarray:
    return (windows.label != OUTSIDE).astype(np.float64)


def hit(windows: Outcomes) -> np.ndarray:
    return windows.hit


def surprise(windows: Outcomes) -> np.ndarray:
    return np.where(windows.label != OUTSIDE, windows.surprise, 0)


def of_known(windows: Outcomes, least: int, below: float) -> np.ndarray:
    """1.0 where so many events of the person are known, 0.0 where others are, or nobody counted them."""
    if windows.known is None:
        return np.zeros(len(windows.label))
    return ((windows.known >= least) & (windows.known < below)).astype(np.float64)


def of_new(windows: Outcomes) -> np.ndarray:
    """1.0 where the behaviour is none of the vocabulary."""
    return ((windows.label >= windows.vocabulary) | (windows.label == OUTSIDE)).astype(np.float64)


def by_known(least: int, below: float) -> tuple[Metric, Metric]:
    """Accuracy and log-loss on windows of people of whom at least so many events are known, and fewer than that."""
    inside = partial(of_known, least=least, below=below)
    name = f"known_{least}" + ("" if below == np.inf else f"_to_{below - 1:.0f}")
    people = f"{least} or more events known" if below == np.inf else f"{least} to {below - 1:.0f} events known"
    return (
        Metric(f"natural.rec_w_{name}", f"accuracy, {people}", (Part(lambda windows: windows.hit * inside(windows)),
                                                                Part(inside))),
        Metric(f"natural.log_loss_{name}", f"log-loss, {people}",
               (Part(lambda windows: surprise(windows) * inside(windows)),
                Part(lambda windows: known(windows) * inside(windows))), lower_is_better=True),
    )


def weighted_precision(predicted: np.ndarray, right: np.ndarray, support: np.ndarray, all_: np.ndarray) -> np.ndarray:
    """Precision of each behaviour averaged by support: scikit-learn's `average="weighted"`.

    A behaviour that is never predicted has precision 0. Eq. 5 of the paper weights by predictions instead, which
    cancels to accuracy; its printed figures (a constant predictor's is its share squared) are these.
    """
    return ratio((support * np.nan_to_num(ratio(right, predicted))).sum(axis=1), all_[:, 0])


def calibration_error(gap: np.ndarray, all_: np.ndarray) -> np.ndarray:
    """Expected calibration error of the answer's probability, 0 to 1 (Guo et al. 2017, arXiv 1706.04599).

    Sum over equal-width bins of |confidence - accuracy|, weighted by the windows in the bin. It is biased upwards
    where bins hold few windows, in a resample more than in the sample: an interval may lie above the value.
    """
    return ratio(np.abs(gap).sum(axis=1), all_[:, 0])


def covered_accuracy(covered: np.ndarray, right: np.ndarray, share: float) -> np.ndarray:
    return accuracy_at(covered, right, np.array([share]))[:, 0]


_OVER_WINDOWS, _SUREST_FIRST = Part(count), (Part(count, "confidence"), Part(hit, "confidence"))
# accuracy of each behaviour, or its HR@3, averaged over a group of them; one without a window is left out
_BY_BEHAVIOR = (Part(hit, "label"), Part(count, "label"))

METRICS = {metric.name: metric for metric in (
    # recall weighted by support, which is accuracy and HR@1
    Metric("natural.rec_w", "accuracy", (Part(hit), _OVER_WINDOWS), headline="acc", adjusted=True),
    Metric("natural.prec_w", "precision", (Part(count, "answer"), Part(hit, "answer"), Part(known, "label"),
                                           _OVER_WINDOWS), weighted_precision),
    # how often the label is among the k most likely
    Metric("natural.hr_at_3", "HR@3", (Part(lambda windows: windows.hit_at(3)), _OVER_WINDOWS)),
    Metric("natural.hr_at_5", "HR@5", (Part(lambda windows: windows.hit_at(5)), _OVER_WINDOWS)),
    # mean of 1 / rank
    Metric("natural.mrr", "MRR", (Part(lambda windows: 1 / windows.rank), _OVER_WINDOWS)),
    # mean -log p of the label in nats, over the windows whose behaviour is a candidate
    Metric("natural.log_loss", "log-loss", (Part(surprise), Part(known)), lower_is_better=True, headline="loss"),
    Metric("natural.ece", "calibration error", (Part(lambda windows: windows.confidence - windows.hit, "bin"),
                                                _OVER_WINDOWS), calibration_error, lower_is_better=True),
    Metric("natural.accuracy_at_50", "accuracy, surest half", _SUREST_FIRST, partial(covered_accuracy, share=0.5)),
    Metric("natural.accuracy_at_80", "accuracy, surest 80 %", _SUREST_FIRST, partial(covered_accuracy, share=0.8)),
    Metric("natural.aurc", "area under risk–coverage", _SUREST_FIRST, area_under_risk_coverage, lower_is_better=True),
    *by_known(0, 10), *by_known(10, 30), *by_known(30, 100), *by_known(100, np.inf),
    # windows of behaviours that nobody in training has done
    Metric("natural.new", "accuracy, new behaviours", (Part(lambda windows: windows.hit * of_new(windows)),
                                                       Part(of_new))),
    Metric("natural.new_hr_at_5", "HR@5, new behaviours", (Part(lambda windows: windows.hit_at(5) * of_new(windows)),
                                                           Part(of_new))),
    Metric("balanced.overall", "overall", _BY_BEHAVIOR, group="overall", headline="all", adjusted=True),
    Metric("balanced.head", "head", _BY_BEHAVIOR, group="head", headline="head"),
    Metric("balanced.medium", "medium", _BY_BEHAVIOR, group="medium", headline="medium"),
    Metric("balanced.tail", "tail", _BY_BEHAVIOR, group="tail", headline="tail", adjusted=True),
    Metric("balanced.anchors", "anchors", _BY_BEHAVIOR, group="anchors"),
    Metric("balanced.non_anchors", "non-anchors", _BY_BEHAVIOR, group="non_anchors"),
    Metric("balanced.hr_at_3", "HR@3", (Part(lambda windows: windows.hit_at(3), "label"), Part(count, "label")),
           group="overall"),
)}

LOWER_IS_BETTER = frozenset(metric.name for metric in METRICS.values() if metric.lower_is_better)

BY_BEHAVIOR = Metric("balanced.by_behavior", "accuracy", _BY_BEHAVIOR, ratio)
"""Each behaviour's accuracy, `(R, V)`."""


def groups(vocabulary: pl.DataFrame) -> dict[str, np.ndarray]:
    """The behaviours that each balanced metric averages over, as masks `(V,)`."""
    group, anchor = vocabulary["group"].to_numpy(), vocabulary["is_anchor"].to_numpy()
    return {
        "overall": np.ones(len(group), dtype=bool),
        "head": group == "head",
        "medium": group == "medium",
        "tail": group == "tail",
        "anchors": anchor,
        "non_anchors": ~anchor,
    }


def find(name: str) -> Metric:
    """The entry of that name; `balanced.<a group of a study's own>` is the accuracy over that group's behaviours."""
    group = name.removeprefix("balanced.")
    return METRICS.get(name) or replace(METRICS["balanced.overall"], name=name, label=group, group=group)


def of_split(split: str) -> tuple[Metric, ...]:
    return tuple(metric for metric in METRICS.values() if metric.split == split)


def headline(evaluation: Mapping, adjusted: bool = True) -> dict[str, float | None]:
    """The few figures of a model that DVC lists, and τ, out of what `measure` makes: three digits behind the point.

    `outside` is among them where natural windows are of behaviours that no candidate is: their share.

    Args:
        adjusted: whether those after logit adjustment, `<name>_τ`, and τ are among them.
    """
    shown = [(metric.headline, metric) for metric in METRICS.values() if metric.headline]
    found = {name: evaluation[metric.split][metric.key] for name, metric in shown}
    if adjusted:
        moved = evaluation["adjusted"]
        found |= {f"{name}_τ": moved[metric.split][metric.key] for name, metric in shown if metric.adjusted}
        found["τ"] = moved["tau"]
    if share := evaluation["natural"].get("outside_candidates_share"):
        found["outside"] = share
    return {name: value if value is None else round(value, 3) for name, value in found.items()}


def headline_text(figures: Mapping[str, float | None]) -> str:
    """A headline in a line."""
    return ", ".join(f"{name} {'none' if value is None else f'{value:.3f}'}" for name, value in figures.items())
