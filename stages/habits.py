"""Stage `habits`: a small model of the person's own past, without a language model, and its predictions.

A conditional logit over a window's candidates, made of how often, when and where this person did each before; see
stages/past. It trains in seconds on one core.
"""

from typing import Any

import polars as pl

from stages.common import tables
from stages.common.params import Section, Seed
from stages.common.stage import COUNTS, Kind, Stage, table
from stages.past import saved
from stages.past.fitting import fit
from stages.past.habits import Habits
from stages.past.settings import Habits as Settings
from stages.windows.past import Past
from stages.windows.settings import Predictions
from stages.windows.tested import tested


class Params(Section):
    seed: Seed
    data_seed: Seed
    habits: Settings
    predictions: Predictions


def habits(
    events: pl.LazyFrame, windows: pl.DataFrame, vocabulary: pl.DataFrame, params: Params
) -> tuple[pl.DataFrame, dict[str, Any], tuple[Habits, list[str]]]:
    """Table `predictions` of the windows that every model answers, what it took, and the model with its behaviours.

    Raises:
        UserError: there is no test window, or no validation window.
    """
    past = Past.from_tables(events, vocabulary)
    behaviors = events.select("behavior").collect(engine="streaming")
    wanted = tested(behaviors, windows, params.predictions, params.data_seed)
    fitted, facts = fit(past, windows, vocabulary, params.habits, params.seed)
    log_p = pl.Series([row.tolist() for row in fitted.log_p(past, wanted["row"].to_numpy())], dtype=tables.FLOATS)
    counts = {"layout": "past", "context": "next", "events_dropped": 0, "windows": len(wanted), **facts}
    return wanted.with_columns(log_p=log_p), counts, (fitted, vocabulary["behavior"].to_list())


STAGE = Stage(
    "habits", __doc__, habits, Params,
    reads={"events": table("events", lazy=True), "windows": table("windows"), "vocabulary": table("vocabulary")},
    writes={"out": table("predictions"), "counts": COUNTS,
            "weights": Kind("folder for the model", write=lambda made, path: saved.write(made[0], made[1], path))},
    message=lambda args, frame, counts, model:
        f"habits: {counts['trained_targets']:,} training windows, {len(frame):,} predicted; log-loss on validation "
        f"users {counts['valid_log_loss']:.3f}",
)

if __name__ == "__main__":
    STAGE.run()
