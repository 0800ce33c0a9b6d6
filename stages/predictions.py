"""Stage `predictions`: one model's log-probabilities of every candidate, on the test and the validation windows.

The only stage of the evaluation that runs a language model: `evaluate` makes decisions and metrics of its table.

Candidates are the vocabulary, which a prompt names, and behind it what else the person did before (`windows.past`): the
model scores those by their names as it does all, and nothing need be trained. A name that cannot stand in a prompt is
refused before any window is read, for histories hold it too (`prompts.labels`).
"""

from functools import cache
from pathlib import Path

import polars as pl

from stages.common import tables
from stages.common.stage import COUNTS, Stage, optional, place, table
from stages.model.likelihood import score
from stages.model.load import load_merged, load_tokenizer
from stages.model.prior import told
from stages.prompts.layout import prompts
from stages.prompts.layouts import layout_of
from stages.prompts.log import EventLog
from stages.prompts.settings import PromptParams
from stages.windows.past import Past
from stages.windows.settings import Predictions
from stages.windows.tested import tested


class Params(PromptParams):
    predictions: Predictions


def predictions(
    events: pl.DataFrame, windows: pl.DataFrame, vocabulary: pl.DataFrame, params: Params, model: Path,
    prior: pl.DataFrame | None = None,
) -> tuple[pl.DataFrame, dict]:
    """Table `predictions` of the model in `model` (a base, or an adapter), open, and what it saw.

    Raises:
        UserError: there is no test window, or no validation window; a behaviour or a place cannot stand in a prompt.
    """
    wanted = tested(events, windows, params.predictions, params.data_seed)
    tokenizer = load_tokenizer(model)
    layout = layout_of(tokenizer, EventLog.from_tables(events, vocabulary), params)
    rows, past, answer = wanted["row"].to_list(), Past.from_tables(events, vocabulary), cache(layout.answer)
    own = [[answer(label) for label in past.labels_outside(row)] for row in rows]
    merged = load_merged(model)
    log_prior = told(merged, tokenizer, vocabulary, prior, params.prompt.prior, rows)
    result = score(merged, prompts(layout, rows), layout.answers, f"predictions of {model.name}", own, log_prior)
    log_p = [each[: vocabulary.height + len(further)].tolist() for each, further in zip(result.log_p, own, strict=True)]
    frame = wanted.with_columns(log_p=pl.Series(log_p, dtype=tables.FLOATS))
    return frame, {"layout": params.prompt.layout, "context": params.prompt.context, "windows": len(frame),
                   "events_dropped": layout.dropped}


STAGE = Stage(
    "predictions", __doc__, predictions, Params,
    reads={name: table(name) for name in ("events", "windows", "vocabulary")}
    | {"prior": optional(table("prior")), "model": place("folder with base.json, and an adapter if it has one")},
    writes={"out": table("predictions"), "counts": COUNTS}, shares=True,
    message=lambda args, frame, counts: f"{args.model.name}: {counts['windows']:,} windows",
)

if __name__ == "__main__":
    STAGE.run()
