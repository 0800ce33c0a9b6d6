"""Tables of the metrics and of the studies."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from stages.reports.differences import Differences
from stages.reports.gather import Material, StudyResult
from stages.reports.labels import BALANCED, METRIC, NATURAL, change, measured, number, rows, shorts, simulated_mark
from stages.reports.markup import Html, code, join, paragraph, table, tag
from stages.metrics.registry import LOWER_IS_BETTER
from stages.studies.compare import Summary
from stages.studies.table import difference as difference_text
from stages.studies.table import estimate, legend, metric_name

_ORACLES = ("oracle", "oracle_adjusted")
_LOWER = {metric.partition(".")[2] for metric in LOWER_IS_BETTER}

Column = tuple[str, Callable[[dict[str, Any]], dict[str, Any] | None], str]
"""Heading, where in a row's metrics the column's values lie, and their key."""


def metric_tables(material: Material) -> list[Html]:
    """Plain, adjusted and calibrated decisions, each row with its intervals."""
    table_of = partial(_table, material)

    def natural(values: dict[str, Any]) -> dict[str, Any]:
        return values["natural"]

    def balanced(values: dict[str, Any]) -> dict[str, Any]:
        return values["balanced"]

    plain_natural = [(head, natural, key) for key, head in NATURAL.items()]
    sure = [("log-loss", natural, "log_loss"), ("calibration error", natural, "ece")]
    scaled = [(f"{head}, calibrated", lambda v: v["calibrated"]["natural"], key) for head, _, key in sure]
    covered = [("accuracy, surest half", natural, "accuracy_at_50"), ("surest 80 %", natural, "accuracy_at_80"),
               ("area under risk–coverage", natural, "aurc")]
    moved = [("accuracy, natural", lambda v: v["adjusted"]["natural"], "rec_w")] + [
        (f"{head}, balanced", lambda v: v["adjusted"]["balanced"], key) for key, head in BALANCED.items()
    ]
    parts = [
        tag("h3", "The likeliest behaviour, natural test set"),
        table_of("Windows as they come.", plain_natural),
        tag("h3", "The likeliest behaviour, balanced test set"),
        table_of("Means over behaviours, each counted alike: head are above 5 % of the training events, tail below "
                 "1 %.", [(head, balanced, key) for key, head in BALANCED.items()]),
        tag("h3", "Logits adjusted"),
        table_of(f"argmax of log p(y|x) − τ log π(y), each row with {_chosen(material, 'τ', 'evaluate.tau')}.", moved,
                 extra=("τ", _tau)),
        tag("h3", "How sure, and how rightly so"),
        table_of("Natural test set; lower is better in log-loss, calibration error and area. T is "
                 f"{_chosen(material, 'temperature', 'evaluate.temperature')}.", sure + scaled + covered,
                 extra=("T", lambda _, values: f"{values['calibrated']['temperature']:g}")),
    ]
    return [paragraph("Below each value stands its 95 % interval, a bootstrap over users. Bold is the best of a "
                      "column, the oracle left out.", cls="muted"), *parts]


def _chosen(material: Material, name: str, key: str) -> str:
    """Where the param `key` says that τ or the temperature comes from."""
    value = material.used[key]
    if value == "validation":
        return f"the {name} that was best on validation windows"
    return f"the {name} of {key}, {value:g}"


def _table(
    material: Material, caption: str, columns: Sequence[Column],
    extra: tuple[str, Callable[[str, dict[str, Any]], str]] | None = None,
) -> Html:
    of, names = material.metrics, rows(material)
    columns = [column for column in columns if any(_value(values, column) is not None for values in of.values())]
    best = {column[0]: _best(of, column) for column in columns}

    def cell(name: str, column: Column) -> Html:
        found = column[1](of[name]) or {}
        bounds = found.get("interval", {}).get(column[2], {})
        return measured(found.get(column[2]), bounds.get("low"), bounds.get("high"), name in best[column[0]])

    heads = ["row", *([extra[0]] if extra else []), *(column[0] for column in columns)]
    body = [
        [names[name], *([extra[1](name, of[name])] if extra else []), *(cell(name, column) for column in columns)]
        for name in of
    ]
    return table(join([caption, simulated_mark(material.simulated)]), heads, body)


def _tau(name: str, values: dict[str, Any]) -> str:
    # its probabilities are adjusted already, and not again
    return "1" if name == "oracle_adjusted" else f"{values['adjusted']['tau']:g}"


def _value(values: dict[str, Any], column: Column) -> float | None:
    return (column[1](values) or {}).get(column[2])


def _best(of: dict[str, dict[str, Any]], column: Column) -> set[str]:
    values = {name: round(value, 3) for name, metrics in of.items()
              if name not in _ORACLES and (value := _value(metrics, column)) is not None}
    if len(values) < 2:
        return set()
    best = min(values.values()) if column[2] in _LOWER else max(values.values())
    return {name for name, value in values.items() if value == best}


def difference_table(material: Material, found: Differences) -> list[Html]:
    """Paired differences under both decisions; what to run where there are none."""
    if not found:
        return [paragraph("Paired differences need the predictions in ", tag("code", "data/predictions"), ": run ",
                          tag("code", "dvc pull"), " or ", tag("code", "dvc repro"), ".", cls="muted")]
    called = shorts(material)
    names = [name for name in METRIC if any(name in values for values in found.values())]
    body = [
        [f"{called[first]} less {called[second]}", decision, *(change(values.get(name)) for name in names)]
        for (decision, first, second), values in found.items()
    ]
    caption = join(["The first row less the second on the same windows, with the 95 % interval of that difference; "
                    "bold where it excludes 0.", simulated_mark(material.simulated)])
    return [tag("h3", "Paired differences"), table(caption, ["rows", "decision", *(METRIC[name] for name in names)],
                                                   body, words=2)]


def study_tables(studies: Sequence[StudyResult]) -> list[Html]:
    """A table for each study that has been run."""
    return [part for study in studies for part in _study(study)]


def _study(study: StudyResult) -> list[Html]:
    summary = study.summary
    label = next((row.label for row in summary.rows if row.name == summary.reference), summary.reference)
    heads, columns = ["row"], [[row.label for row in summary.rows]]
    scores = _validation(summary) if study.show_validation else []
    if any(value is not None for value in scores):
        heads.append("validation")
        columns.append([number(value) for value in scores])
    for name in summary.metrics:
        measured_ = [row.metrics[name] for row in summary.rows]
        heads.append(metric_name(name) + (" (lower is better)" if name in LOWER_IS_BETTER else ""))
        columns.append([_split(estimate(value.mean)) for value in measured_])
        if len(summary.rows) > 1:
            heads.append(f"… less {label}")
            columns.append([_split(difference_text(value.difference)) for value in measured_])
        if any(value.paper is not None for value in measured_):
            heads.append("… in the paper")
            columns.append([number(value.paper) for value in measured_])
    told = [f"Log: {study.log}." if study.log else "", f"Commit {study.commit}." if study.commit else "",
            legend(summary, "validation" in heads)]
    caption = join([tag("code", study.command), ". ", " ".join(part for part in told if part),
                    simulated_mark(study.simulated)])
    return [
        tag("h3", study.title), table(caption, heads, zip(*columns, strict=True)),
        *([_way(study.way, study.simulated)] if study.way else []),
        *([paragraph(_inline(study.note))] if study.note else []),
    ]


def _validation(summary: Summary) -> list[float | None]:
    """Each row's mean over repetitions of its score on validation windows."""
    scores = []
    for row in summary.rows:
        found = [value for facts in row.facts if (value := facts.get("valid", {}).get("overall")) is not None]
        scores.append(sum(found) / len(found) if found else None)
    return scores


def _way(markdown: str, simulated: bool) -> Html:
    """A line and a table of Markdown; what is no such table stays as it is."""
    lines = [line.strip() for line in markdown.splitlines() if line.strip()]
    words = " ".join(line for line in lines if not line.startswith("|"))
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines
             if line.startswith("|") and set(line) - set("|-: ")]
    if not cells or len({len(row) for row in cells}) > 1:
        return code(markdown)
    return table(join([words, simulated_mark(simulated)]), cells[0], cells[1:])


def _inline(markdown: str) -> Html:
    """A line of Markdown, of which backticks are understood."""
    return join(tag("code", part) if place % 2 else part for place, part in enumerate(markdown.split("`")))


def _split(value: str) -> Html:
    """`.413 (.331–.512)` with what follows the value below it."""
    first, _, rest = value.partition(" ")
    return join([tag("span", first), tag("span", rest, cls="interval") if rest else ""])
