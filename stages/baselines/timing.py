"""What one window takes our own models, measured as every baseline's is: by itself, its whole prompt read.

Baselines' counts say so themselves. Those of the default run do not, so that it gives the same bytes twice.
"""

from pathlib import Path
from typing import Any

import polars as pl

from stages.baselines.fitting.stage import MODEL, PIPELINE, READS, latency_ms
from stages.common.stage import COUNTS, Stage
from stages.model.likelihood import score
from stages.model.load import load_merged, load_tokenizer
from stages.prompts.layout import prompts
from stages.prompts.layouts import layout_of
from stages.prompts.log import EventLog
from stages.prompts.settings import PromptParams
from stages.windows.settings import Predictions
from stages.windows.tested import tested


class Params(PromptParams):
    predictions: Predictions


def timing(
    events: pl.DataFrame, windows: pl.DataFrame, vocabulary: pl.DataFrame, model: Path, params: Params
) -> dict[str, Any]:
    """Milliseconds a window of the model in a folder with base.json, and an adapter if it has one."""
    rows = tested(events, windows, params.predictions, params.data_seed)["row"].to_list()
    layout = layout_of(load_tokenizer(model), EventLog.from_tables(events, vocabulary), params)
    merged = load_merged(model)
    found = latency_ms(lambda row: score(merged, prompts(layout, [row]), layout.answers, ""), rows)
    return {"layout": params.prompt.layout, "context": params.prompt.context, "latency_ms": found}


STAGE = Stage(
    "baselines.timing", __doc__, timing, Params, reads=READS | MODEL, writes={"counts": COUNTS}, pipeline=PIPELINE,
    message=lambda args, counts: f"{args.model.name}: {counts['latency_ms']:.1f} ms a window",
)

if __name__ == "__main__":
    STAGE.run()
