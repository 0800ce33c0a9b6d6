"""Stage `evaluate`: one model on both test sets; its log-probabilities and its metrics."""

from pathlib import Path

import polars as pl

from stages.common import tables
from stages.common.console import console
from stages.common.errors import UserError, run
from stages.common.files import write_json
from stages.common.inputs import read_tables, stage_parser
from stages.common.params import Params, read_params
from stages.lm.likelihood import score
from stages.lm.load import load_merged, load_tokenizer
from stages.prompts.layouts import make_layout, prompts
from stages.prompts.log import EventLog
from stages.ranking.summary import metrics_of

CONTEXT = "next"
TABLES = ("events", "windows", "vocabulary")


def evaluate(
    events: pl.DataFrame, windows: pl.DataFrame, vocabulary: pl.DataFrame, params: Params, model: Path
) -> tuple[pl.DataFrame, dict]:
    """Table `predictions` of the model in `model` (a base, or an adapter) on the test windows, and the metrics.

    Raises:
        UserError: there is no test window.
    """
    test = windows.filter(pl.col("split").is_in(["natural", "balanced"])).sort("split", "row", descending=[True, False])
    if not len(test):
        raise UserError("windows: none of split natural or balanced; the log has too few users, or too short ones")
    log = EventLog.of(events, vocabulary)
    layout = make_layout(
        load_tokenizer(model), log, params.prompt, params.windowing.history, params.windowing.min_history, params.seed
    )
    result = score(
        load_merged(model), prompts(layout, test["row"].to_list()), layout.answers, f"evaluating {model.name}"
    )
    predictions = test.with_columns(
        behavior=events["behavior"].gather(test["row"]),
        log_p=pl.Series(result.log_p.tolist(), dtype=tables.FLOATS),
    )
    metrics = metrics_of(predictions, events, vocabulary, params.evaluate, params.seed)
    head = {"layout": params.prompt.layout, "context": CONTEXT, "events_dropped": layout.dropped}
    return predictions, head | metrics


def main() -> None:
    args = stage_parser(
        "evaluate", __doc__, TABLES, model="folder with base.json, and an adapter if it has one",
        out="file for the table of predictions",
    ).parse_args()
    predictions, metrics = evaluate(*read_tables(args, TABLES), read_params(args.params), args.model)
    tables.write(predictions, "predictions", args.out)
    write_json(args.metrics, metrics)
    natural, balanced = metrics["natural"], metrics["balanced"]
    shown = [("accuracy", natural["rec_w"])] + [(key, balanced[key]) for key in ("overall", "head", "medium", "tail")]
    console.print(f"{args.model.name}: " + ", ".join(f"{key} {value:.3f}" for key, value in shown if value is not None))


if __name__ == "__main__":
    run(main)
