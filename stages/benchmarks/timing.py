"""Ours and a baseline in turn, several rounds, and the table of what came out."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Literal, TypeVar

import torch
from rich.table import Table
from rich.text import Text

from stages.common.console import console

T = TypeVar("T")
# how a row is judged: a ratio of two rates or of two times, two values side by side, one value against a limit
Rule = Literal["rates", "times", "higher", "at_least", "at_most"]
_TARGETS = {"rates": "≥ {:g} x", "times": "≥ {:g} x", "at_least": "≥ {:g}", "at_most": "≤ {:g}"}


@dataclass(frozen=True)
class Row:
    """A row of the table: one value a round of ours, and of the baseline where there is one.

    `against` names the baseline. `target` is the least ratio (rules `rates` and `times`), the least value (`at_least`)
    or the largest (`at_most`); None where the row only informs.
    """

    work: str
    against: str
    unit: str
    ours: list[float]
    baseline: list[float] = field(default_factory=list)
    rule: Rule = "rates"
    target: float | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """How many times better our median is: more of a rate, less of a time. None without a baseline."""
        if not self.baseline or not self.ours:
            return None
        ours, baseline = median(self.ours), median(self.baseline)
        above, below = (baseline, ours) if self.rule == "times" else (ours, baseline)
        return above / below if below else None

    @property
    def reached(self) -> bool | None:
        """Whether the target is; None where there is none, or nothing to judge it by."""
        if self.rule == "higher":
            return median(self.ours) > median(self.baseline) if self.ours and self.baseline else None
        if self.target is None or not self.ours:
            return None
        if self.rule == "at_most":
            return max(self.ours) <= self.target
        value = median(self.ours) if self.rule == "at_least" else self.ratio
        return None if value is None else value >= self.target

    def as_dict(self) -> dict[str, Any]:
        """For JSON, numbers unrounded."""
        return vars(self) | {"ours": _spread(self.ours), "baseline": _spread(self.baseline), "ratio": self.ratio,
                             "reached": self.reached}


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


def table(comparisons: Mapping[str, Comparison]) -> Table:
    """A line for each row of each comparison."""
    result = Table(show_lines=False, pad_edge=False)
    for name in ("work", "against", "ours (min–max)", "baseline", "ratio", "target", "reached"):
        left = name in ("work", "against", "reached")
        result.add_column(name, justify="left" if left else "right", overflow="fold")
    for comparison in comparisons.values():
        for row in comparison.rows:
            result.add_row(*cells(row))
        result.add_section()
    return result


def cells(row: Row) -> tuple[str | Text, ...]:
    """Work with its unit, baseline, both medians with their spread, ratio, target, and whether it is reached."""
    ratio = "" if row.ratio is None or row.rule in ("at_least", "at_most") else f"{row.ratio:.1f} x"
    target = "higher" if row.rule == "higher" else "" if row.target is None else _TARGETS[row.rule].format(row.target)
    reached = "" if row.reached is None else Text("yes", "green") if row.reached else Text("no", "red")
    against = f"{row.against} ({row.note})" if row.note else row.against
    spreads = [
        "–" if not (spread := _spread(values)) else f"{spread['median']:.3g}" + (
            f" ({spread['min']:.3g}–{spread['max']:.3g})" if len(values) > 1 else "")
        for values in (row.ours, row.baseline)
    ]
    return f"{row.work}, {row.unit}", against, *spreads, ratio, target, reached


def rate(units: float, work: Callable[[], Any]) -> float:
    """Units a second of `work`, called once."""
    start = now()
    work()
    return units / (now() - start)


def now() -> float:
    """Seconds of a clock that only goes forward, after all work handed to an accelerator is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _spread(values: list[float]) -> dict[str, Any] | None:
    return {"median": median(values), "min": min(values), "max": max(values), "rounds": values} if values else None
