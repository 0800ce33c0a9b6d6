"""A few predictions, right and wrong, as a person would look at them.

No user and no date is in them, and of a real log no place: weekday, hour, place and behaviour of a few events in a row
may be enough to know a person again.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from stages.common.draws import stream
from stages.metrics.splits import OpenTable
from stages.reports.inputs import Inputs

GROUPS = ("head", "medium", "tail")
SHOWN_EVENTS = 4
TOP = 3



@dataclass(frozen=True)
class Example:
    """A test window.

    Attributes:
        history: the latest events before it: when (weekday and hour), place, behaviour.
        when, place: of the event that is predicted; places are blank where the log is real.
        answers: the likeliest behaviours with their probabilities.
        truth, p_truth, rank: what happened, its probability and its place among the candidates.
        group: `head`, `medium` or `tail`.
    """

    history: list[tuple[str, str, str]]
    when: str
    place: str
    answers: list[tuple[str, float]]
    truth: str
    p_truth: float
    rank: int
    group: str

    @property
    def right(self) -> bool:
        return self.rank == 1


def examples(inputs: Inputs) -> list[Example]:
    """For each group of behaviours a window of the balanced test set predicted rightly, and one wrongly.

    A seeded choice. Empty without predictions of a model.
    """
    predictions = inputs.predictions.get(inputs.model)
    if predictions is None:
        return []
    number = {name: place for place, name in enumerate(inputs.vocabulary["behavior"])}
    table = OpenTable.of(predictions, inputs.events, inputs.vocabulary)
    windows = table.frame().with_columns(place=np.arange(predictions.height)).filter(
        pl.col("behavior").is_in(list(number)), split="balanced").sort("row")
    order = stream(inputs.params.data_seed, "report examples").permutation(windows.height)
    wanted = {(group, right) for group in GROUPS for right in (True, False)}
    found: dict[tuple[str, bool], Example] = {}
    for place in order.tolist():
        if len(found) == len(wanted):
            break
        row, _, behavior, log_p, window = windows.row(place)
        own = table.windows.own.names(window) if table.windows.own else []
        example = _example(inputs, row, np.array(log_p), number[behavior], own)
        found.setdefault((example.group, example.right), example)
    return [found[key] for key in sorted(found, key=lambda key: (GROUPS.index(key[0]), not key[1]))]


def _example(inputs: Inputs, row: int, log_p: np.ndarray, truth: int, own: list[str]) -> Example:
    first = max(0, row - min(SHOWN_EVENTS, inputs.params.windowing.history))
    place = pl.col("place").fill_null("") if inputs.simulated else pl.lit("")
    part = inputs.events.slice(first, row - first + 1).filter(pl.col("user") == pl.col("user").last()).select(
        pl.col("time").dt.strftime("%A, %H h"), place.alias("place"), "behavior")
    order = np.argsort(-log_p, kind="stable")
    names, groups = [*inputs.vocabulary["behavior"], *own], inputs.vocabulary["group"]
    *history, (when, where, _) = part.iter_rows()
    return Example(
        history=history, when=when, place=where, truth=names[truth],
        answers=[(names[int(n)], float(np.exp(log_p[n]))) for n in order[:TOP]], p_truth=float(np.exp(log_p[truth])),
        rank=1 + int(np.flatnonzero(order == truth)[0]), group=groups[truth],
    )
