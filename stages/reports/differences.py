"""One row less another on the same windows, with the interval of that difference, under both decisions."""

import math
from dataclasses import dataclass
from typing import Any

import polars as pl

from stages.common.errors import UserError
from stages.metrics.decisions import decided
from stages.metrics.summary import difference
from stages.reports.gather import Material

PAIRS = (("dpo", "base"), ("sft", "base"), ("dpo", "sft"), ("dpo", "markov"))
DECISIONS = ("plain", "adjusted")

_SLACK = 2e-5  # between a difference of metrics, written with six digits, and the one measured again


@dataclass(frozen=True)
class Difference:
    """`low` and `high` bound the 95 % interval; None where nothing was resampled."""

    value: float
    low: float | None
    high: float | None

    @property
    def sign(self) -> int | None:
        """1 or -1 where the interval excludes 0, 0 where it does not, None without an interval."""
        if self.low is None or self.high is None:
            return None
        return 1 if self.low > 0 else -1 if self.high < 0 else 0


Differences = dict[tuple[str, str, str], dict[str, Difference]]
"""By decision and the two rows; then by metric, such as `balanced.tail`."""


def differences(material: Material) -> Differences:
    """The pairs of `PAIRS` of which both predictions are there.

    Raises:
        UserError: predictions and metrics are of different runs.
    """
    found: Differences = {}
    for decision in DECISIONS:
        moved = {name: _decided(material, name, decision) for name in {name for pair in PAIRS for name in pair}
                 if name in material.predictions}
        for first, second in PAIRS:
            if first in moved and second in moved:
                made = difference(moved[first], moved[second], material.events, material.vocabulary,
                                     material.params.evaluate, material.params.data_seed)
                found[decision, first, second] = _checked(made, material, decision, first, second)
    return found


def metric(values: dict[str, Any], decision: str, name: str) -> float | None:
    """A metric of a row, such as `balanced.tail`, under a decision."""
    split, key = name.split(".")
    return (values if decision == "plain" else values["adjusted"])[split].get(key)


def _decided(material: Material, name: str, decision: str) -> pl.DataFrame:
    frame, tau = material.predictions[name], material.metrics[name]["adjusted"]["tau"]
    if decision == "plain" or (frame["log_p"].list.len() != material.vocabulary.height).any():
        return frame  # another vocabulary the comparison itself refuses
    return decided(frame, material.vocabulary["share"].to_numpy(), tau)


def _checked(
    made: dict[str, Any], material: Material, decision: str, first: str, second: str
) -> dict[str, Difference]:
    found = {}
    for split, values in made.items():
        for key, value in values.items():
            name = f"{split}.{key}"
            if value["difference"] is None:
                continue
            sides = [metric(material.metrics[row], decision, name) for row in (first, second)]
            if None not in sides and not math.isclose(sides[0] - sides[1], value["difference"], abs_tol=_SLACK):
                raise UserError(
                    f"the predictions of {first} and {second} are not those that metrics/eval is of ({name}: "
                    f"{value['difference']:.4f} against {sides[0] - sides[1]:.4f}); run `dvc repro`, or `dvc checkout`"
                )
            found[name] = Difference(value["difference"], value["low"], value["high"])
    return found
