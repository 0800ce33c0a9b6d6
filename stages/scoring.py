"""Stage `scoring`: the SFT model scores every candidate for a pool of training windows (paper 3.3, step 2.1)."""

from pathlib import Path

import numpy as np
import polars as pl

from stages.common import tables
from stages.common.draws import first_of_each, stream
from stages.common.errors import UserError
from stages.common.params import Seed
from stages.common.stage import COUNTS, Stage, optional, place
from stages.common.stage import table as table_file
from stages.model.likelihood import Scores, score
from stages.model.load import load_merged, load_tokenizer
from stages.model.prior import told
from stages.prompts.layout import prompts
from stages.prompts.layouts import layout_of
from stages.prompts.log import EventLog
from stages.prompts.settings import PromptParams
from stages.windows.settings import Scoring


class Params(PromptParams):
    seed: Seed
    scoring: Scoring


def scoring(
    events: pl.DataFrame, windows: pl.DataFrame, vocabulary: pl.DataFrame, params: Params, model: Path,
    prior: pl.DataFrame | None = None,
) -> tuple[pl.DataFrame, dict]:
    """Score at most `pool_per_behavior` training windows of each behaviour; table `scores` and the counts.

    Raises:
        UserError: there is no training window.
    """
    rows = pool(events, windows, params.scoring.pool_per_behavior, params.seed)
    log = EventLog.from_tables(events, vocabulary)
    tokenizer, merged = load_tokenizer(model), load_merged(model)
    layout = layout_of(tokenizer, log, params)
    log_prior = [each[: vocabulary.height] for each in told(
        merged, tokenizer, vocabulary, prior, params.prompt.prior, rows)]
    result = score(merged, prompts(layout, rows), layout.answers, "scoring training windows", log_prior=log_prior)
    frame = table(rows, log.behavior[rows], result, vocabulary)
    counts = {
        "windows": len(frame), "behaviors": frame["behavior"].n_unique(),
        "accuracy": float((frame["behavior"] == frame["predicted"]).mean()),
        "confused_within_category": float(frame["within_category"].mean()),
        "mean_p_true": float(frame["p_true"].mean()), "events_dropped": layout.dropped,
    }
    return frame, counts


def pool(events: pl.DataFrame, windows: pl.DataFrame, per_behavior: int, seed: int) -> np.ndarray:
    """Rows of at most `per_behavior` training windows of each behaviour, ascending; a seeded choice.

    Drawn by behaviour from rows in order, so the order of the table `windows` does not matter.
    """
    train = windows.filter(pl.col("split") == "train").select("row").sort("row")
    if not len(train):
        raise UserError("windows: none of split train; the log has too few users, or too short ones")
    train = train.with_columns(behavior=events["behavior"].gather(train["row"])).sort("behavior", "row")
    # a draw of its own for each behaviour
    drawn = pl.concat(
        group[stream(seed, "scoring pool", number).permutation(len(group))]
        for number, group in enumerate(train.partition_by("behavior", maintain_order=True))
    )
    groups = drawn["behavior"].rank("dense").to_numpy()
    return np.sort(drawn["row"].to_numpy()[first_of_each(groups, per_behavior)])


def table(rows: np.ndarray, behavior: np.ndarray, result: Scores, vocabulary: pl.DataFrame) -> pl.DataFrame:
    """Table `scores`.

    `predicted` is the argmax, ties by candidate order; `runner_up` the most likely behaviour that is not `predicted`;
    `within_category` is 1 where a wrong prediction lies in the true behaviour's category (anchor or tail), else 0:
    1 - d of Eq. 2.
    """
    names = vocabulary["behavior"].to_numpy()
    anchor = vocabulary["is_anchor"].to_numpy()
    p = np.exp(result.log_p)
    at = np.arange(len(rows))
    predicted = p.argmax(axis=1)
    others = p.copy()
    others[at, predicted] = -1
    runner_up = others.argmax(axis=1)
    confused = (predicted != behavior) & (anchor[predicted] == anchor[behavior])
    return pl.DataFrame(
        {
            "row": rows, "behavior": names[behavior], "predicted": names[predicted], "runner_up": names[runner_up],
            "p_true": p[at, behavior], "p_predicted": p[at, predicted], "p_runner_up": p[at, runner_up],
            "within_category": confused.astype(np.int8), "embedding": result.embedding,
        },
        schema_overrides={"embedding": tables.FLOATS},
    )


STAGE = Stage(
    "scoring", __doc__, scoring, Params,
    reads={name: table_file(name) for name in ("events", "windows", "vocabulary")}
    | {"prior": optional(table_file("prior")), "model": place("folder of the SFT adapter")},
    writes={"out": table_file("scores"), "counts": COUNTS}, shares=True,
    message=lambda args, frame, counts:
        f"scored {counts['windows']:,} windows, {counts['accuracy']:.1%} predicted right",
)

if __name__ == "__main__":
    STAGE.run()
