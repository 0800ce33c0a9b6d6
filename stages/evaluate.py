"""Stage `evaluate`: one model's predictions become decisions, metrics and the data of plots."""

from pathlib import Path
from typing import Any

import polars as pl

from stages.common.errors import UserError
from stages.common.files import read_json
from stages.common.params import Section, Seed
from stages.common.stage import Kind, Stage, csv_folder, json, table
from stages.metrics.caveats import caveats
from stages.metrics.curves import curves
from stages.metrics.registry import headline, headline_text
from stages.metrics.settings import Evaluate
from stages.metrics.summary import measure

_FACTS = ("layout", "context", "events_dropped")


class Params(Section):
    data_seed: Seed
    evaluate: Evaluate


def evaluate(
    events: pl.DataFrame, vocabulary: pl.DataFrame, predictions: pl.DataFrame, facts: dict[str, Any], params: Params
) -> tuple[dict[str, float | None], dict[str, Any], dict[str, pl.DataFrame]]:
    """The headline and all metrics of a table of `predictions`, and the tables that plots draw, by name.

    Args:
        facts: what stage `predictions` wrote beside the table; `layout`, `context` and `events_dropped` head the
            metrics.

    Raises:
        UserError: the predictions are of another log, another vocabulary or other windows than the facts say.
    """
    if facts["windows"] != len(predictions):
        raise UserError(f"the facts are of {facts['windows']} windows, the predictions of {len(predictions)}; run "
                        "`dvc repro`")
    evaluation = measure(predictions, events, vocabulary, params.evaluate, params.data_seed)
    plots = curves(predictions, events, vocabulary, params.evaluate, evaluation)
    return headline(evaluation), {key: facts[key] for key in _FACTS} | evaluation, plots


def _read_facts(path: Path) -> dict[str, Any]:
    try:
        facts = read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable ({error}); `dvc repro` makes it") from None
    if missing := [key for key in (*_FACTS, "windows") if key not in facts]:
        raise UserError(f"{path}: no {', '.join(missing)}; it must be what stage predictions wrote")
    return facts


STAGE = Stage(
    "evaluate", __doc__, evaluate, Params,
    reads={name: table(name) for name in ("events", "vocabulary", "predictions")}
    | {"facts": Kind("what stage predictions counted beside its table (JSON)", read=_read_facts)},
    writes={"metrics": json("the few figures that DVC lists (JSON)"), "evaluation": json("all metrics (JSON)"),
            "plots": csv_folder("folder for the CSV files that plots draw")},
    message=lambda args, metrics, evaluation, plots:
        "\n".join([f"{args.predictions.stem}: {headline_text(metrics)}", *caveats(evaluation)]),
)

if __name__ == "__main__":
    STAGE.run()
