"""The table that people read."""

from collections.abc import Mapping
from statistics import median
from typing import Any

from rich.table import Table

from stages.benchmarks.timing import Comparison, Row


def table(comparisons: Mapping[str, Comparison]) -> Table:
    """A line for each row of each comparison."""
    result = Table(show_lines=False, pad_edge=False)
    for name, justify in (("work", "left"), ("against", "left"), ("ours (min–max)", "right"), ("theirs", "right"),
                          ("ratio", "right"), ("target", "right"), ("reached", "left")):
        result.add_column(name, justify=justify, overflow="fold")
    for comparison in comparisons.values():
        for row in comparison.rows:
            result.add_row(*cells(row))
        result.add_section()
    return result


def cells(row: Row) -> tuple[str, ...]:
    """Work with its unit, rival, both medians with their spread, ratio, target, and whether it is reached."""
    ratio = "" if row.ratio is None or row.rule in ("at_least", "at_most") else f"{row.ratio:.1f} x"
    reached = {True: "[green]yes[/]", False: "[red]no[/]", None: ""}[row.reached]
    against = f"{row.against} ({row.note})" if row.note else row.against
    return (f"{row.work}, {row.unit}", against, spread(row.ours), spread(row.theirs), ratio, target(row), reached)


def spread(values: list[float]) -> str:
    """Median, and smallest to largest where there are several."""
    if not values:
        return "–"
    text = f"{median(values):.3g}"
    return text if len(values) == 1 else f"{text} ({min(values):.3g}–{max(values):.3g})"


def target(row: Row) -> str:
    """What the row is to reach."""
    if row.rule == "higher":
        return "higher"
    if row.target is None:
        return ""
    return {"at_least": "≥ ", "at_most": "≤ "}.get(row.rule, "≥ ") + f"{row.target:g}" + (
        " x" if row.rule in ("rates", "times") else ""
    )


def heading(machine: Mapping[str, Any], versions: Mapping[str, str | None]) -> str:
    """The machine, the threads and the versions in two lines."""
    memory = f", {machine['memory_bytes'] / 2**30:.0f} GiB" if machine["memory_bytes"] else ""
    where = f"{machine['accelerator']}; " if machine["accelerator"] else ""
    packages = ", ".join(f"{name} {number or '(not installed)'}" for name, number in versions.items())
    return (
        f"{where}{machine['processor']}, {machine['cores']} cores{memory}; {machine['threads']} threads, "
        f"{machine['dtype']}\n{packages}"
    )
