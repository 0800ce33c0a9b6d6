"""What the tables and cards hold; what is said of it stands in the templates.

Neither users nor dates nor paths of the machine are in the cards.
"""

import json
from datetime import datetime
from pathlib import PurePath
from typing import Any

from stages.reports.inputs import Inputs
from stages.studies.compare import Summary
from stages.studies.table import best
from stages.studies.view import public

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
    rows = [row for row in inputs.metrics if row != "oracle"]
    return {rows[place] for place in best([inputs.metric(row, *column).value for row in rows], column[1])}


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


def days(inputs: Inputs) -> int:
    """How many days the log covers."""
    first, last = (datetime.fromisoformat(inputs.counts["ingest"][end]).date() for end in ("first", "last"))
    return (last - first).days + 1


def model_card(inputs: Inputs) -> dict[str, Any]:
    """The base model, all params by key as YAML's readers expect them, and those changed since the pipeline ran."""
    base, used = inputs.base, public(inputs.used)
    if base is not None and base.get("source") == "folder":
        base = base | {"name": PurePath(str(base.get("name", ""))).name}
        used["model.name"] = PurePath(used["model.name"]).name
    params = {key: value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
              for key, value in used.items()}
    changed = [key for key, value in inputs.ran_with.items() if inputs.now.get(key, value) != value]
    return {"base": base, "params": params, "changed": changed}
