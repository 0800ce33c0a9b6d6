"""One model or baseline less another on the same windows, each as it decides, with that difference's interval."""

import math
from collections.abc import Iterable

import polars as pl

from stages.common.errors import UserError
from stages.metrics.decisions import decided
from stages.metrics.splits import OpenTable
from stages.metrics.summary import difference
from stages.reports.inputs import Inputs
from stages.studies.compare import Estimate

DECISIONS = ("plain", "adjusted")
PAIRS = tuple(((first, decision), (second, decision)) for decision in DECISIONS for first, second in (
    ("dpo", "base"), ("sft", "base"), ("dpo", "sft"), ("dpo", "markov"), ("habits", "past"), ("fusion", "habits"),
    ("fusion", "sft"), ("fusion", "dpo")))

_SLACK = 2e-5  # between a difference of metrics, written with six digits, and the one measured again

Option = tuple[str, str]
"""A model or baseline, and its decision."""


class Difference(Estimate):
    """`low` and `high` bound the 95 % interval; None where nothing was resampled."""

    @property
    def sign(self) -> int | None:
        """1 or -1 where the interval excludes 0, 0 where it does not, None without an interval."""
        if self.low is None or self.high is None:
            return None
        return 1 if self.low > 0 else -1 if self.high < 0 else 0


Differences = dict[tuple[Option, Option], dict[str, Difference]]
"""By the two options; then by metric, such as `balanced.tail`."""


def differences(inputs: Inputs, pairs: Iterable[tuple[Option, Option]] = PAIRS) -> Differences:
    """The pairs of which both predictions are there.

    Raises:
        UserError: predictions and metrics are of different runs.
    """
    known = inputs.predictions.keys() & inputs.metrics.keys()
    there = dict.fromkeys(pair for pair in pairs if {row for row, _ in pair} <= known)
    frames = {option: _decided(inputs, *option) for option in {option for pair in there for option in pair}}
    return {(first, second): _difference(inputs, first, second, frames) for first, second in there}


def _decided(inputs: Inputs, row: str, decision: str) -> pl.DataFrame:
    frame = OpenTable.of(inputs.predictions[row], inputs.events, inputs.vocabulary).frame()
    tau = 0.0 if decision == "plain" else inputs.metrics[row]["adjusted"]["tau"]
    return decided(frame, inputs.vocabulary["share"].to_numpy(), tau)


def _difference(
    inputs: Inputs, first: Option, second: Option, frames: dict[Option, pl.DataFrame]
) -> dict[str, Difference]:
    made = difference(frames[first], frames[second], inputs.events, inputs.vocabulary, inputs.params.evaluate,
                      inputs.params.data_seed)
    found = {}
    for name, value in ((f"{split}.{key}", value) for split, values in made.items() for key, value in values.items()):
        if value["difference"] is None:
            continue
        ours, theirs = (inputs.metric(*option, name).value for option in (first, second))
        written = None if ours is None or theirs is None else ours - theirs
        if written is not None and not math.isclose(written, value["difference"], abs_tol=_SLACK):
            raise UserError(
                f"the predictions of {first[0]} and {second[0]} are not those that the metrics are of ({name}: "
                f"{value['difference']:.4f} against {written:.4f}); run `dvc repro`, or `dvc checkout`"
            )
        found[name] = Difference(value["difference"], value["low"], value["high"])
    return found
