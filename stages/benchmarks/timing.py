"""Two sides in turn, several rounds, and what a table says of them."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Literal, TypeVar

import torch

from stages.common.console import console

T = TypeVar("T")
# how a row is judged: a ratio of two rates or of two times, two values side by side, one value against a limit
Rule = Literal["rates", "times", "higher", "at_least", "at_most"]


@dataclass(frozen=True)
class Row:
    """A line of the table: one value a round of ours, and of theirs where there is a rival.

    `target` is the least ratio (rules `rates` and `times`), the least value (`at_least`) or the largest (`at_most`);
    None where the line only informs.
    """

    work: str
    against: str
    unit: str
    ours: list[float]
    theirs: list[float] = field(default_factory=list)
    rule: Rule = "rates"
    target: float | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """How many times better our median is: more of a rate, less of a time. None without a rival."""
        if not self.theirs or not self.ours:
            return None
        ours, theirs = median(self.ours), median(self.theirs)
        above, below = (theirs, ours) if self.rule == "times" else (ours, theirs)
        return above / below if below else None

    @property
    def reached(self) -> bool | None:
        """Whether the target is; None where there is none, or nothing to judge it by."""
        if self.rule == "higher":
            return median(self.ours) > median(self.theirs) if self.ours and self.theirs else None
        if self.target is None or not self.ours:
            return None
        if self.rule == "at_least":
            return median(self.ours) >= self.target
        if self.rule == "at_most":
            return max(self.ours) <= self.target
        return self.ratio >= self.target if self.ratio is not None else None

    def as_dict(self) -> dict[str, Any]:
        """For JSON, numbers unrounded."""
        return {
            "work": self.work, "against": self.against, "unit": self.unit, "ours": _spread(self.ours),
            "theirs": _spread(self.theirs), "ratio": self.ratio, "rule": self.rule, "target": self.target,
            "reached": self.reached, "note": self.note,
        }


@dataclass(frozen=True)
class Comparison:
    """The rows of one comparison, and what else was seen on the way."""

    rows: list[Row]
    details: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return {"rows": [row.as_dict() for row in self.rows], "details": self.details}


def alternate(sides: Mapping[str, Callable[[int], T]], rounds: int) -> dict[str, list[T]]:
    """What each side returned in each round; every round runs all sides, in their order.

    Whatever else a machine is doing then slows down neighbours and not one side alone.
    """
    results: dict[str, list[T]] = {name: [] for name in sides}
    for number in range(rounds):
        for name, run in sides.items():
            results[name].append(run(number))
            if isinstance(value := results[name][-1], float):
                console.print(f"  round {number + 1}, {name}: {value:.4g} a second")
    return results


def now() -> float:
    """Seconds of a clock that only goes forward, after all work handed to an accelerator is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _spread(values: list[float]) -> dict[str, Any] | None:
    if not values:
        return None
    return {"median": median(values), "min": min(values), "max": max(values), "rounds": list(values)}
