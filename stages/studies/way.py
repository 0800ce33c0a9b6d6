"""How far each row of a study comes from one row to another, such as from counting to the oracle."""

from stages.common.errors import UserError
from stages.studies.compare import Summary
from stages.studies.definitions import Way
from stages.studies.table import MISSING, metric_name, number

_SHORTEST = 0.01  # of a way; on less, a share of it says nothing


def share(value: float | None, start: float | None, end: float | None) -> float | None:
    """How much of a way `value` has gone; None where one is missing, or the way is shorter than .01 or leads down."""
    if None in (value, start, end) or end - start < _SHORTEST:
        return None
    return (value - start) / (end - start)


def shares(summary: Summary, way: Way) -> dict[str, float | None]:
    """The `share` of each row's mean in `way.metric`.

    Without an interval: a ratio of two uncertain differences has none worth printing.
    """
    means = {row.name: row.metrics[way.metric].mean.value for row in summary.rows}
    return {name: share(value, means.get(way.start), means.get(way.end)) for name, value in means.items()}


def markdown(summary: Summary, way: Way) -> str:
    """The shares as a Markdown table with a line that says between which rows.

    Raises:
        UserError: the metric is none of the study's.
    """
    if way.metric not in summary.metrics:
        raise UserError(f"way.metric: {way.metric!r} is none of the study's metrics: {', '.join(summary.metrics)}")
    labels = {row.name: row.label for row in summary.rows}
    means = {row.name: row.metrics[way.metric].mean.value for row in summary.rows}
    lines = [f"Share of the way from {labels.get(way.start, way.start)} ({number(means.get(way.start))}) to "
             f"{labels.get(way.end, way.end)} ({number(means.get(way.end))}), {metric_name(way.metric)}:", "",
             "| row | share |", "|---|---|"]
    for name, share in shares(summary, way).items():
        lines.append(f"| {labels[name]} | {MISSING if share is None else f'{share:.0%}'.replace('-', '−')} |")
    return "\n".join(lines) + "\n"
