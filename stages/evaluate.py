"""Stage `evaluate`: one model's predictions become decisions, metrics and the data of plots."""

import argparse
from pathlib import Path
from typing import Any

import polars as pl

from stages.common.console import console
from stages.common.errors import UserError, run
from stages.common.files import atomic_folder, read_json, write_json
from stages.common.inputs import TABLES, read_tables
from stages.common.params import Params, read_params
from stages.metrics.curves import curves_of
from stages.metrics.summary import metrics_of

READ = ("events", "vocabulary", "predictions")
_FACTS = ("layout", "context", "events_dropped")
_DIGITS = 6


def evaluate(
    events: pl.DataFrame, vocabulary: pl.DataFrame, predictions: pl.DataFrame, facts: dict[str, Any], params: Params
) -> tuple[dict[str, Any], dict[str, pl.DataFrame]]:
    """The metrics of a table of `predictions`, and the tables that plots draw, by name.

    Args:
        facts: what stage `predictions` wrote beside the table; `layout`, `context` and `events_dropped` head the
            metrics.

    Raises:
        UserError: the predictions are of another log, another vocabulary or other windows than the facts say.
    """
    if facts["windows"] != len(predictions):
        raise UserError(f"the facts are of {facts['windows']} windows, the predictions of {len(predictions)}; run "
                        "`dvc repro`")
    metrics = metrics_of(predictions, events, vocabulary, params.evaluate, params.data_seed)
    plots = curves_of(predictions, events, vocabulary, params.evaluate, metrics)
    return {key: facts[key] for key in _FACTS} | metrics, plots


def write_plots(plots: dict[str, pl.DataFrame], folder: Path) -> None:
    """Write each table as `folder/<name>.csv`, all or none."""
    with atomic_folder(folder) as part:
        for name, frame in plots.items():
            frame.with_columns(pl.col(pl.Float64).round(_DIGITS)).write_csv(part / f"{name}.csv")


def _read_facts(path: Path) -> dict[str, Any]:
    try:
        facts = read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable ({error}); `dvc repro` makes it") from None
    if missing := [key for key in (*_FACTS, "windows") if key not in facts]:
        raise UserError(f"{path}: no {', '.join(missing)}; it must be what stage predictions wrote")
    return facts


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.evaluate", description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="the settings (default: %(default)s)")
    for name in READ:
        parser.add_argument(f"--{name}", type=Path, required=True, help=f"table: {TABLES[name]}")
    parser.add_argument("--facts", type=Path, required=True, help="JSON that stage predictions wrote beside its table")
    parser.add_argument("--metrics", type=Path, required=True, help="JSON file for the metrics")
    parser.add_argument("--plots", type=Path, required=True, help="folder for the CSV files that plots draw")
    args = parser.parse_args()
    metrics, plots = evaluate(*read_tables(args, READ), _read_facts(args.facts), read_params(args.params))
    write_plots(plots, args.plots)
    write_json(args.metrics, metrics)
    natural, balanced, adjusted = metrics["natural"], metrics["balanced"], metrics["adjusted"]
    shown = [("accuracy", natural["rec_w"])] + [(key, balanced[key]) for key in ("overall", "head", "medium", "tail")]
    shown.append((f"overall (logits adjusted, τ {adjusted['tau']:g})", adjusted["balanced"]["overall"]))
    text = ", ".join(f"{key} {value:.3f}" for key, value in shown if value is not None)
    console.print(f"{args.predictions.stem}: {text}", soft_wrap=True)


if __name__ == "__main__":
    run(main)
