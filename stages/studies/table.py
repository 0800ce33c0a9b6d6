"""A study's summary for people: a Markdown table for files, tables for the terminal that fit its width."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from stages.common.console import console as standard_console
from stages.metrics.registry import LOWER_IS_BETTER, find
from stages.studies.compare import Difference, Estimate, Summary
from stages.studies.costs import COSTS

MISSING = "—"

# of a table in the terminal, in cells
_BETWEEN = 2
_NARROWEST = 12


@dataclass(frozen=True)
class _Column:
    heading: str
    cells: list[Text]

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
    text = f"{count} repetition{'s' * (count != 1)}, {summary.users:,} test users, {_windows(summary)}. "
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


def markdown(summary: Summary, title: str, caption: str, validation: bool = False) -> str:
    """A heading, what was run, and a GitHub table with a line a row; the best mean of a column is bold.

    The columns of a metric are its mean, its difference from the reference (if there are other rows) and the paper's
    figure (if the paper has any). With `validation` the first column is the rows' score on validation windows. What
    rows took comes last, where it is known (`COSTS`), as a mean over repetitions.
    """
    header, columns = ["row"], [[_escaped(row.label) for row in summary.rows]]
    if validation:
        column = _validation(summary)
        header.append(column.heading)
        columns.append([f"**{cell.plain}**" if cell.style else cell.plain for cell in column.cells])
    for metric in summary.metrics:
        best = _best(summary, metric)
        means = [estimate(row.metrics[metric].mean) for row in summary.rows]
        header.append(metric_name(metric))
        columns.append([_bold(text) if place in best else text for place, text in enumerate(means)])
        if len(summary.rows) > 1:
            header.append(f"… against {_label(summary)}")
            columns.append([difference(row.metrics[metric].difference) for row in summary.rows])
        if _has_paper(summary, metric):
            header.append("… in the paper")
            columns.append([number(row.metrics[metric].paper) for row in summary.rows])
    for key, heading in COSTS.items():
        values = [[facts[key] for facts in row.facts if key in facts] for row in summary.rows]
        if any(values):
            header.append(heading)
            columns.append([_amount(sum(each) / len(each)) if each else MISSING for each in values])
    header = [_escaped(name) for name in header]
    lines = [header, ["---"] * len(header), *zip(*columns)]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return "\n\n".join(part for part in (f"# {title}", caption, table, legend(summary, validation)) if part) + "\n"


def _amount(value: float) -> str:
    """Whole from 10 on; small ones with two digits, which tell .4 ms from .04."""
    return f"{value:,.0f}" if value >= 10 or value == round(value) else f"{value:.2g}"


def terminal(summary: Summary, title: str, width: int, validation: bool = False) -> list[Table]:
    """Tables of at most `width` cells: one if all fits, else means and differences apart, by as many metrics as fit.

    A label that takes more than a third of the width is folded, and so is a column that does not fit beside it on its
    own. Nothing is cut off.
    """
    scores = [_validation(summary)] if validation else []
    means = [(metric, _means(summary, metric)) for metric in summary.metrics]
    differences = [(metric, _differences(summary, metric)) for metric in summary.metrics]
    together = scores + [column for metric in summary.metrics for name, columns in means + differences
                         if name == metric for column in columns]
    against = f"differences from {_label(summary)}"
    runs = _runs(summary, together, width)
    if len(runs) == 1:
        compared = len(summary.rows) > 1
        return [_table(summary, f"{title} ({against})" if compared else title, runs[0], width)]
    apart = ((title, [("", scores), *means]), (f"{title}: {against}", differences))
    return [
        _table(summary, heading, run, width)
        for heading, parts in apart
        if (columns := [column for _, part in parts for column in part])
        for run in _runs(summary, columns, width)
    ]


def show(
    summary: Summary, title: str, caption: str, console: Console = standard_console, validation: bool = False
) -> None:
    """Print the tables, with what was run above and the legend below."""
    if caption:
        console.print(Text(caption))
    for table in terminal(summary, title, console.width, validation):
        console.print(table)
    console.print(Text(legend(summary, validation), style="dim"))


def _validation(summary: Summary) -> _Column:
    """Each row's mean over repetitions of the validation score among its facts."""
    means = []
    for row in summary.rows:
        found = [facts.get("valid", {}).get("overall") for facts in row.facts]
        there = [value for value in found if value is not None]
        means.append(sum(there) / len(there) if there else None)
    best = _highest(means)
    return _Column("validation", [Text(number(mean), style="bold" if place in best else "")
                                  for place, mean in enumerate(means)])


def _means(summary: Summary, metric: str) -> list[_Column]:
    best = _best(summary, metric)
    columns = [_Column(metric_name(metric), [
        Text(estimate(row.metrics[metric].mean), style="bold" if place in best else "")
        for place, row in enumerate(summary.rows)
    ])]
    if _has_paper(summary, metric):
        cells = [Text(number(row.metrics[metric].paper)) for row in summary.rows]
        columns.append(_Column(f"{metric_name(metric)}, paper", cells))
    return columns


def _differences(summary: Summary, metric: str) -> list[_Column]:
    if len(summary.rows) < 2:
        return []
    return [_Column(f"{metric_name(metric)}, difference",
                    [Text(difference(row.metrics[metric].difference)) for row in summary.rows])]


def _best(summary: Summary, metric: str) -> set[int]:
    """Places of the rows whose mean, as printed, is the best; of none if there is nothing to be better than."""
    means = [row.metrics[metric].mean.value for row in summary.rows]
    if metric in LOWER_IS_BETTER:
        means = [None if value is None else -value for value in means]
    return _highest(means)


def _highest(values: Sequence[float | None]) -> set[int]:
    """Places of the highest, as printed; of none if there is only one."""
    there = [round(value, 3) for value in values if value is not None]
    if len(there) < 2:
        return set()
    return {place for place, value in enumerate(values) if value is not None and round(value, 3) == max(there)}


def _has_paper(summary: Summary, metric: str) -> bool:
    return any(row.metrics[metric].paper is not None for row in summary.rows)


def _label(summary: Summary) -> str:
    return next(row.label for row in summary.rows if row.name == summary.reference)


def _windows(summary: Summary) -> str:
    def count(split: str) -> str:
        low, high = min(summary.windows[split]), max(summary.windows[split])
        return f"{low:,} {split}" if low == high else f"{low:,} to {high:,} {split}"

    return f"{count('natural')} and {count('balanced')} windows" + " each" * (len(summary.repetitions) > 1)


def _bold(text: str) -> str:
    value, space, rest = text.partition(" ")
    return f"**{value}**{space}{rest}"


def _escaped(text: str) -> str:
    """Fit for a cell of a Markdown table."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|")


def _label_width(summary: Summary, width: int) -> int:
    longest = max(cell_len(row.label) for row in summary.rows)
    return min(longest, max(_NARROWEST, width // 3), width - _BETWEEN - 1)


def _runs(summary: Summary, columns: Sequence[_Column], width: int) -> list[list[_Column]]:
    """The columns in as few runs as fit beside the labels, at least one column each."""
    runs, used = [[]], _label_width(summary, width)
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
