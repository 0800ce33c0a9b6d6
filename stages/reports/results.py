"""What the tables of metrics and of studies hold; the tables themselves stand in the templates."""

from stages.reports.inputs import MODELS, Inputs
from stages.reports.labels import capitalised, row_names
from stages.studies.compare import LOWER_IS_BETTER, Summary
from stages.studies.table import MISSING, number
from stages.studies.way import share

Column = tuple[str, str]
"""A decision and a metric."""

_BALANCED = [f"balanced.{key}" for key in ("overall", "head", "medium", "tail", "hr_at_3")]
_SURE = ["natural.log_loss", "natural.ece"]
COLUMNS: dict[str, list[Column]] = {
    "natural": [("plain", f"natural.{key}") for key in ("rec_w", "prec_w", "hr_at_3", "mrr")],
    "balanced": [("plain", name) for name in _BALANCED],
    "adjusted": [("adjusted", name) for name in ["natural.rec_w", *_BALANCED]],
    "confidence": [
        *(("plain", name) for name in _SURE), *(("calibrated", name) for name in _SURE),
        *(("plain", f"natural.{key}") for key in ("accuracy_at_50", "accuracy_at_80", "aurc"))],
    "differences": [("plain", name) for name in ["natural.rec_w", *_BALANCED]],
    "shares": [("plain", "natural.rec_w"), ("plain", "balanced.overall"), ("adjusted", "balanced.overall")],
}


def columns(inputs: Inputs) -> dict[str, list[Column]]:
    """`COLUMNS`, less those in which no row has a value."""
    return {name: [column for column in given
                   if any(inputs.metric(row, *column).value is not None for row in inputs.metrics)]
            for name, given in COLUMNS.items()}


def best_rows(inputs: Inputs, column: Column) -> set[str]:
    """The rows that are best as printed, the oracle left out; none where there is only one."""
    known = {row: round(value, 3) for row in inputs.metrics
             if row != "oracle" and (value := inputs.metric(row, *column).value) is not None}
    if len(known) < 2:
        return set()
    best = (min if column[1] in LOWER_IS_BETTER else max)(known.values())
    return {row for row, value in known.items() if value == best}


def ceiling_shares(inputs: Inputs) -> list[list[str]]:
    """How far models come from Markov to the oracle in `COLUMNS["shares"]`; empty without the two."""
    if not {"markov", "oracle"} <= inputs.metrics.keys():
        return []
    names = row_names(inputs)
    ends = {column: [inputs.metric(row, *column).value for row in ("markov", "oracle")] for column in COLUMNS["shares"]}

    def cell(row: str, column: Column) -> str:
        gone = share(inputs.metric(row, *column).value, *ends[column])
        return MISSING if gone is None else f"{100 * gone:.0f} %".replace("-", "−")

    apart = [MISSING if None in sides else number(sides[1] - sides[0], sign=True) for sides in ends.values()]
    return [*([capitalised(names[row]), *(cell(row, column) for column in ends)] for row in MODELS if row in inputs.metrics),
            ["The way itself: oracle less Markov", *apart]]


def in_paper(summary: Summary, metric: str) -> bool:
    """Whether the paper has a figure of it for any row."""
    return any(row.metrics[metric].paper is not None for row in summary.rows)


def parsed(markdown: str) -> tuple[str, list[str], list[list[str]]] | str:
    """A line and a table of Markdown as words, heads and rows; what is no such table stays as it is."""
    lines = [line.strip() for line in markdown.splitlines() if line.strip()]
    words = " ".join(line for line in lines if not line.startswith("|"))
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines
             if line.startswith("|") and set(line) - set("|-: ")]
    return (words, cells[0], cells[1:]) if cells and len({len(row) for row in cells}) == 1 else markdown
