"""The stage of every baseline: tables in, something fitted, its predictions and weights, and what it took."""

import statistics
import time
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import numpy as np
import polars as pl

from stages.baselines.fitting.settings import Context, FitParams
from stages.baselines.fitting.task import Task
from stages.common import tables
from stages.common.console import console
from stages.common.params import Section
from stages.common.stage import COUNTS, Kind, Stage, optional, place, table

PIPELINE, SETTINGS = "stages/baselines/dvc.yaml", Path("stages/baselines/params.yaml")

READS = {name: table(name) for name in ("events", "windows", "vocabulary")}
OPTIONS: dict[str, dict[str, Any]] = {
    "settings": {"type": Path, "default": SETTINGS,
                 "help": "what baselines are tuned over, a section each (default: %(default)s)"},
    "context": {"choices": get_args(Context), "required": True,
                "help": "what it sees: behaviours alone, each event's time and place too, or the next one's as well"},
}
LONG: dict[str, dict[str, Any]] = {
    "long": {"action": "store_true",
             "help": "see the last long.history events of the settings, not windowing.history of params.yaml"},
}
MODEL = {"model": place("folder with base.json of the language model (from stage base)")}

_TIMED_WINDOWS = 50

Fitted = TypeVar("Fitted")


def baseline(
    name: str, description: str, fit: Callable[..., Fitted],
    predict: Callable[[Fitted, Task, pl.DataFrame], tuple[pl.DataFrame, dict[str, Any]]],
    write: Callable[[Fitted, Path], None], params: type[Section] = FitParams, reads: Mapping[str, Kind] | None = None,
    objectives: Sequence[str] = (), histories: bool = False,
) -> Stage:
    """The stage of a baseline that is fitted; `fit_seconds` of its counts is all that `fit` took.

    Args:
        name: of its module in stages/baselines/systems, whose docstring is `description`.
        fit: makes what is fitted from the task, what the further `reads` gave, and the objective if there is a choice.
        predict: its table of the windows given, and what stands beside it.
        objectives: what --objective may be; none for a baseline that has one only.
        histories: whether it may be told a long history.
    """
    def compute(
        events: pl.DataFrame, windows: pl.DataFrame, vocabulary: pl.DataFrame, params: FitParams, settings: Path,
        context: Context, long: bool = False, **given: Any,
    ) -> tuple[pl.DataFrame, dict[str, Any], Fitted]:
        task = Task(events, windows, vocabulary, params, settings, context, long)
        wanted = task.tested()  # before hours of training: there may be none
        began = time.monotonic()
        fitted = fit(task, **given)
        seconds = time.monotonic() - began
        frame, counts = predict(fitted, task, wanted)
        told = {"history": task.history} if long else {}
        return frame, counts | told | {"fit_seconds": round(seconds, 1)}, fitted

    objective = {"objective": {"choices": objectives, "required": True, "help": "what it is trained by"}}
    options = OPTIONS | (objective if objectives else {}) | (LONG if histories else {})
    return Stage(
        f"baselines.systems.{name}", description, compute, params, reads=READS | dict(reads or {}),
        writes={"out": table("predictions"), "counts": COUNTS,
                "weights": optional(Kind("folder for the weights, if they are wanted", write=write))},
        options=options, message=_message, pipeline=PIPELINE,
    )


def predictions_of(wanted: pl.DataFrame, log_p: np.ndarray) -> pl.DataFrame:
    """Table `predictions` of the windows `wanted` with their log-probabilities `(N, V)`."""
    return wanted.with_columns(log_p=pl.Series(values=log_p)).cast(tables.SCHEMAS["predictions"])


def latency_ms(predict_one: Callable[[int], Any], rows: Sequence[int]) -> float:
    """Median time of a window by itself, in milliseconds, over the first of `rows`: what a user waits."""
    seconds = []
    console.quiet = True  # each window would say that it is done
    try:
        for row in rows[:_TIMED_WINDOWS]:
            began = time.perf_counter()
            predict_one(row)
            seconds.append(time.perf_counter() - began)
    finally:
        console.quiet = False
    return 1000 * statistics.median(seconds)


def _message(args: Namespace, frame: pl.DataFrame, counts: dict[str, Any], fitted: Any) -> str:
    return (f"{args.out.stem}: {counts['trained_parameters']:,} parameters, validation MRR "
            f"{counts['tuning']['score']:.4f}, {counts['latency_ms']:.1f} ms a window")
