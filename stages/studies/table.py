"""A study's summary for people: Markdown tables for files, tables for the terminal that fit its width."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from stages.common.console import console as standard_console
from stages.common.errors import UserError
from stages.metrics.caveats import of_outside, of_users, sentence
from stages.metrics.registry import LOWER_IS_BETTER, find
from stages.studies.compare import Difference, Estimate, Summary
from stages.studies.definitions import Gap
from stages.studies.results import COSTS

MISSING = "—"

_BETWEEN, _NARROWEST = 2, 12  # cells between columns of the terminal, and of the narrowest label
_SHORTEST_GAP = 0.01  # of a shorter one, a share says nothing


@dataclass(frozen=True)
class _Column:
    """`heading` for the terminal, `beside` for Markdown, where the metric's name stands in the column before."""

    heading: str
    beside: str
    cells: list[Text]
    compares: bool = False

    @property
    def width(self) -> int:
        """What it needs: a heading may break at its spaces, a cell may not."""
        return max([cell_len(word) for word in self.heading.split()] + [cell_len(cell.plain) for cell in self.cells])


def number(value: float | None, sign: bool = False) -> str:
    """Three decimals without the leading zero and with a true minus (`.413`, `−.083`); `sign` marks a plus as well."""
    if value is None:
        return MISSING
    text = f"{abs(value):.3f}"
    text = text[1:] if text.startswith("0.") else text
    if text == ".000":
        return text
    return ("−" if value < 0 else "+" if sign else "") + text


def best(values: Sequence[float | None], metric: str = "") -> set[int]:
    """Places of the best values, as printed; none where there is only one."""
    there = {place: round(value, 3) for place, value in enumerate(values) if value is not None}
    wanted = (min if metric in LOWER_IS_BETTER else max)(there.values()) if len(there) > 1 else None
    return {place for place, value in there.items() if value == wanted}


def estimate(value: Estimate) -> str:
    """`.413 (.331–.512)`; without an interval the value alone."""
    if value.value is None or value.low is None:
        return number(value.value)
    return f"{number(value.value)} ({number(value.low)}–{number(value.high)})"


def difference(value: Difference | None) -> str:
    """`+.083 (.042 to .110) p=.002`, with the corrected p; blank parts are left out."""
    if value is None or value.value is None:
        return MISSING
    parts = [number(value.value, sign=True)]
    if value.low is not None:
        parts.append(f"({number(value.low)} to {number(value.high)})")
    if value.p_holm is not None:
        parts.append("p<.001" if value.p_holm < 0.001 else f"p={number(value.p_holm)}")
    return " ".join(parts)


def metric_name(metric: str) -> str:
    """`natural.rec_w` as people read it: `accuracy, natural`."""
    found = find(metric)
    return f"{found.label}, {found.split}"


def legend(summary: Summary, validation: bool = False) -> str:
    """One paragraph: what the numbers, intervals and p are, and the column of the validation score if there is one."""
    count, level = len(summary.repetitions), f"{100 * summary.level:g} %"
    drawn = "users and repetitions" if summary.resample_repetitions and count > 1 else "users"
    ranges = [(min(counts), max(counts), split) for split, counts in summary.windows.items()]
    windows = " and ".join(f"{low:,} {split}" if low == high else f"{low:,} to {high:,} {split}"
                           for low, high, split in ranges)
    text = (f"{count} repetition{'s' * (count != 1)}, {summary.users:,} test users, {windows} windows"
            f"{' each' * (count > 1)}. ")
    text += "".join(f"{sentence(said)} " for said in _said(summary))
    if summary.resamples:
        text += f"Intervals: {level}, {summary.resamples:,} bootstrap resamples of {drawn}, the same for all rows. "
    text += ("p: the trained models as they are, users' predictions swapped between the two rows, corrected after Holm "
             "over the rows; what another training would have changed is in the interval only.")
    if any(metric in LOWER_IS_BETTER for metric in summary.metrics):
        text += " Lower is better in log-loss and calibration error."
    if validation:
        text += (" validation: mean accuracy over behaviours on the balanced validation windows, for adjusted logits "
                 "cross-fitted (each half of the users under the τ of the other); to choose by, not to believe.")
    return text


def _said(summary: Summary) -> list[str]:
    """What must be said beside the figures."""
    if summary.outside is None:
        outside = ["made before windows of behaviours that no training user has were measured: they are left out"]
    else:
        outside = of_outside(summary.outside, summary.windows["natural"])
    return outside + of_users({"combined": summary.users})


def markdown(summary: Summary, title: str, caption: str, validation: bool = False) -> str:
    """A heading, what was run, and a GitHub table with a line a row; the best mean of a column is bold.

    The columns of a metric are its mean, its difference from the reference (if there are other rows) and the paper's
    figure (if the paper has any). With `validation` the first column is the rows' score on validation windows. What
    rows took comes last, where it is known (`COSTS`), as a mean over repetitions.
    """
    columns = [_validation(summary)] if validation else []
    columns += [column for metric in summary.metrics for column in _columns(summary, metric)] + _costs(summary)
    lines = [["row", *(column.beside for column in columns)]]
    for place, row in enumerate(summary.rows):
        lines.append([row.label, *(_marked(column.cells[place]) for column in columns)])
    table = _github([[_escaped(cell) for cell in line] for line in lines])
    return "\n\n".join(part for part in (f"# {title}", caption, table, legend(summary, validation)) if part) + "\n"


def gap_closed(value: float | None, baseline: float | None, ceiling: float | None) -> float | None:
    """How much of the way from `baseline` to `ceiling` `value` has gone; None where one is missing, or the gap is below
    .01."""
    if value is None or baseline is None or ceiling is None or ceiling - baseline < _SHORTEST_GAP:
        return None
    return (value - baseline) / (ceiling - baseline)


def gaps_closed(summary: Summary, gap: Gap) -> dict[str, float | None]:
    """The share of each row's mean in `gap.metric`.

    Without an interval: a ratio of two uncertain differences has none worth printing.

    Raises:
        UserError: the metric is none of the study's.
    """
    if gap.metric not in summary.metrics:
        raise UserError(f"gap.metric: {gap.metric!r} is none of the study's metrics: {', '.join(summary.metrics)}")
    means = {row.name: row.metrics[gap.metric].mean.value for row in summary.rows}
    return {name: gap_closed(value, means.get(gap.baseline), means.get(gap.ceiling)) for name, value in means.items()}


def gap_table(summary: Summary, gap: Gap) -> str:
    """The `gaps_closed` as a Markdown table with a line that says between which rows."""
    closed = gaps_closed(summary, gap)
    labels = {row.name: row.label for row in summary.rows}
    ends = [f"{labels[end]} ({number(row.metrics[gap.metric].mean.value)})"
            for end in (gap.baseline, gap.ceiling) for row in summary.rows if row.name == end]
    lines = [["row", "share"], *([labels[name], MISSING if share is None else f"{share:.0%}".replace("-", "−")]
                                 for name, share in closed.items())]
    return f"Share of the way from {' to '.join(ends)}, {metric_name(gap.metric)}:\n\n{_github(lines)}\n"


def terminal(summary: Summary, title: str, width: int, validation: bool = False) -> list[Table]:
    """Tables of at most `width` cells: one if all fits, else means and differences apart, by as many metrics as fit.

    A label that takes more than a third of the width is folded, and so is a column that does not fit beside it on its
    own. Nothing is cut off.
    """
    first = [_validation(summary)] if validation else []
    together = first + [column for metric in summary.metrics for column in _columns(summary, metric)]
    means, others = ([column for column in together if column.compares == which] for which in (False, True))
    against = f"differences from {_reference_label(summary)}"
    if len(_runs(summary, together, width)) == 1:
        return [_table(summary, f"{title} ({against})" if len(summary.rows) > 1 else title, together, width)]
    parts = [(title, means), (f"{title}: {against}", others)]
    return [_table(summary, heading, run, width) for heading, columns in parts
            for run in _runs(summary, columns, width) if run]


def show(
    summary: Summary, title: str, caption: str, console: Console = standard_console, validation: bool = False
) -> None:
    """Print the tables, with what was run above and the legend below."""
    if caption:
        console.print(Text(caption))
    for table in terminal(summary, title, console.width, validation):
        console.print(table)
    console.print(Text(legend(summary, validation), style="dim"))


def _columns(summary: Summary, metric: str) -> list[_Column]:
    """A metric's mean, and where there are any, differences from the reference and the paper's figures."""
    values, name = [row.metrics[metric] for row in summary.rows], metric_name(metric)
    bold = best([value.mean.value for value in values], metric)
    columns = [_Column(name, name, _cells((estimate(value.mean) for value in values), bold))]
    if len(values) > 1:
        columns.append(_Column(f"{name}, difference", f"… against {_reference_label(summary)}",
                               _cells(difference(value.difference) for value in values), compares=True))
    if any(value.paper is not None for value in values):
        columns.append(_Column(f"{name}, paper", "… in the paper", _cells(number(value.paper) for value in values)))
    return columns


def _validation(summary: Summary) -> _Column:
    """Each row's score on validation windows, among its facts."""
    means = [_mean([facts.get("valid", {}).get("overall") for facts in row.facts]) for row in summary.rows]
    return _Column("validation", "validation", _cells(map(number, means), best(means)))


def _costs(summary: Summary) -> list[_Column]:
    means = {heading: [_mean([facts.get(key) for facts in row.facts]) for row in summary.rows]
             for key, heading in COSTS.items()}
    return [_Column(heading, heading, _cells(map(_amount, values)))
            for heading, values in means.items() if any(value is not None for value in values)]


def _mean(values: Sequence[float | None]) -> float | None:
    """Over the repetitions in which it is known; None where it is in none."""
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None


def _amount(value: float | None) -> str:
    """Whole from 10 on; small ones with two digits: .04 ms is not 0."""
    if value is None:
        return MISSING
    return f"{value:,.0f}" if value >= 10 or value == round(value) else f"{value:.2g}"


def _cells(texts: Iterable[str], bold: Iterable[int] = ()) -> list[Text]:
    return [Text(text, style="bold" if place in set(bold) else "") for place, text in enumerate(texts)]


def _reference_label(summary: Summary) -> str:
    return next(row.label for row in summary.rows if row.name == summary.reference)


def _marked(cell: Text) -> str:
    """In Markdown, with the value bold, not what follows it."""
    value, space, rest = cell.plain.partition(" ")
    return f"**{value}**{space}{rest}" if cell.style else cell.plain


def _github(lines: Sequence[Sequence[str]]) -> str:
    ruled = [lines[0], ["---"] * len(lines[0]), *lines[1:]]
    return "\n".join("| " + " | ".join(line) + " |" for line in ruled)


def _escaped(text: str) -> str:
    """Fit for a cell of a Markdown table."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|")


def _label_width(summary: Summary, width: int) -> int:
    longest = max(cell_len(row.label) for row in summary.rows)
    return min(longest, max(_NARROWEST, width // 3), width - _BETWEEN - 1)


def _runs(summary: Summary, columns: Sequence[_Column], width: int) -> list[list[_Column]]:
    """The columns in as few runs as fit beside the labels, at least one column each."""
    runs: list[list[_Column]] = [[]]
    used = _label_width(summary, width)
    for column in columns:
        if runs[-1] and used + _BETWEEN + column.width > width:
            runs.append([])
            used = _label_width(summary, width)
        runs[-1].append(column)
        used += _BETWEEN + column.width
    return runs


def _table(summary: Summary, title: str, columns: Sequence[_Column], width: int) -> Table:
    label = _label_width(summary, width)
    table = Table(title=Text(title), title_justify="left", box=None, padding=(0, _BETWEEN, 0, 0), pad_edge=False)
    table.add_column("row", overflow="fold", width=label)
    for column in columns:
        table.add_column(Text(column.heading), overflow="fold", width=min(column.width, width - label - _BETWEEN))
    for place, row in enumerate(summary.rows):
        table.add_row(Text(row.label), *(column.cells[place] for column in columns))
    return table
