"""What the plots draw of one model, as small tables without any user in them."""

from typing import Any

import numpy as np
import polars as pl

from stages.metrics.adjust import tempered
from stages.metrics.outcomes import Outcomes
from stages.metrics.registry import by_bin, by_confidence
from stages.metrics.selective import accuracy_at
from stages.metrics.settings import Evaluate
from stages.metrics.splits import read_splits

POINTS = 100
"""Most points of a curve."""

OWN = "(what only this person did)"
"""An answer outside the vocabulary."""


def curves(
    predictions: pl.DataFrame, events: pl.DataFrame, vocabulary: pl.DataFrame, evaluate: Evaluate,
    metrics: dict[str, Any],
) -> dict[str, pl.DataFrame]:
    """The tables `confusion`, `behaviors`, `reliability` and `coverage` of a table of `predictions`.

    Args:
        predictions: what `metrics` are of, with `events`, `vocabulary` and `evaluate`.
        metrics: the result of `measure`.

    Raises:
        UserError: as `measure`.
    """
    splits = read_splits(predictions, events, vocabulary)
    natural, balanced = splits["natural"], splits["balanced"]
    plain = natural.outcomes()
    calibrated = natural.moved(tempered(natural.log_p, metrics["calibrated"]["temperature"])).outcomes()
    parts = {"plain": plain, "calibrated": calibrated}
    return {
        "confusion": confusion(predictions.filter(split="balanced")["behavior"], balanced.log_p.argmax(axis=1),
                               vocabulary),
        "behaviors": behaviors(metrics, vocabulary),
        "reliability": pl.concat(
            reliability(windows, evaluate.calibration_bins).select(pl.lit(which).alias("which"), pl.all())
            for which, windows in parts.items()
        ),
        "coverage": coverage(plain),
    }


def confusion(actual: pl.Series, predicted: np.ndarray, vocabulary: pl.DataFrame) -> pl.DataFrame:
    """Columns `actual` and `predicted`, behaviours' names, a row for each balanced window.

    Sorted as the vocabulary is: the order of the log would show which windows are of one user. What a person alone did
    before is `OWN`, for its name could tell who that is.

    Args:
        predicted: slots `(N,)`.
    """
    names = vocabulary["behavior"]
    answer = pl.concat([names, pl.Series([OWN])]).gather(np.minimum(predicted, len(names)))
    place = {name: pl.col(name).replace_strict(names, np.arange(len(names)), default=len(names))
             for name in ("actual", "predicted")}
    frame = pl.DataFrame({"actual": actual, "predicted": answer})
    return frame.sort(place["actual"], "actual", place["predicted"])


def behaviors(metrics: dict[str, Any], vocabulary: pl.DataFrame) -> pl.DataFrame:
    """Each behaviour's balanced accuracy with its interval, and after logit adjustment, most frequent first.

    Columns `behavior`, `share` (of the training events), `group`, `anchor`, `windows`, `accuracy`, `low`, `high` and
    `adjusted`; empty where there is no window.
    """
    plain, moved = (decided["balanced"]["by_behavior"] for decided in (metrics, metrics["adjusted"]))

    def column(values: dict[str, Any], key: str) -> pl.Series:
        return pl.Series([values[name][key] for name in vocabulary["behavior"]], dtype=pl.Float64)

    return vocabulary.select("behavior", "share", "group", anchor="is_anchor").with_columns(
        windows=column(plain, "windows").cast(pl.Int64), accuracy=column(plain, "accuracy"),
        low=column(plain, "low"), high=column(plain, "high"), adjusted=column(moved, "accuracy"),
    )


def reliability(windows: Outcomes, bins: int) -> pl.DataFrame:
    """Mean `confidence`, `accuracy` and number of `windows` of each equal-width bin of confidence that holds any."""
    frame = pl.DataFrame({"bin": by_bin(windows, bins)[0], "confidence": windows.confidence, "accuracy": windows.hit})
    return frame.group_by("bin").agg(
        pl.col("confidence", "accuracy").mean(), windows=pl.len().cast(pl.Int64)
    ).sort("bin").drop("bin")


def coverage(windows: Outcomes) -> pl.DataFrame:
    """`accuracy` over the surest share `coverage` of the windows, at `POINTS` shares, or one for each window."""
    points = min(POINTS, len(windows.label))
    share = np.arange(1, points + 1) / max(points, 1)
    column, columns = by_confidence(windows, 0)
    covered, right = (np.bincount(column, weights=value, minlength=columns)[None] for value in (None, windows.hit))
    return pl.DataFrame({"coverage": share, "accuracy": accuracy_at(covered, right, share)[0]})
