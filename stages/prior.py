"""Stage `prior`: what the model of habits finds of events before they happen, for a language model to be told.

It runs once for vector and once for logits (`--how`), and the table has rows only for the one that `prompt.prior`
names, which the language model's stages read. What training people are told comes from models that were fitted without
them, in two halves: habits look surer about people whom they were fitted on.
"""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from stages.common import tables
from stages.common.draws import stream
from stages.common.params import Section, Seed
from stages.common.stage import COUNTS, Stage, place, table
from stages.past import saved
from stages.past.settings import Habits as Settings
from stages.prompts.settings import Prompt
from stages.windows.past import Past


class Params(Section):
    seed: Seed
    habits: Settings
    prompt: Prompt


def prior(
    events: pl.LazyFrame, windows: pl.DataFrame, vocabulary: pl.DataFrame, params: Params, habits: Path, how: str
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Table `prior`: for vector every event, since histories are told too; for logits every target.

    Raises:
        UserError: the model of habits is of another vocabulary.
    """
    if how != params.prompt.prior:
        return pl.DataFrame(schema=tables.SCHEMAS["prior"]), {"rows": 0}
    from stages.past.fitting import fit  # seconds of PyTorch, which a table without rows does not need

    past = Past.from_tables(events, vocabulary)
    rows = np.arange(len(past.first)) if how == "vector" else windows["row"].unique().sort().to_numpy()
    model = saved.read_for(vocabulary, habits)
    train = windows.filter(split="train")["row"].to_numpy()
    users = np.unique(past.first[train])
    half = stream(params.seed, "prior halves").permutation(len(users)) % 2
    parts = [(rows[~np.isin(past.first[rows], users)], model)]
    for number in range(min(2, len(users))):
        own = users[half == number]
        others = windows.filter(~pl.Series(np.isin(past.first[windows["row"].to_numpy()], own)))
        fitted = fit(past, others, vocabulary, params.habits, params.seed)[0] if len(users) > 1 else model
        parts.append((rows[np.isin(past.first[rows], own)], fitted))
    found = [(at, fitted.log_p(past, at)) for at, fitted in parts if len(at)]
    lengths = np.concatenate([[len(each) for each in log_p] for _, log_p in found])
    long = pl.DataFrame({"row": np.repeat(np.concatenate([at for at, _ in found]), lengths),
                         "log_p": np.concatenate([each for _, log_p in found for each in log_p])},
                        schema={"row": pl.Int64, "log_p": pl.Float32})
    return long.group_by("row", maintain_order=True).agg("log_p").sort("row"), {"rows": len(rows)}


STAGE = Stage(
    "prior", __doc__, prior, Params,
    reads={"events": table("events", lazy=True), "windows": table("windows"), "vocabulary": table("vocabulary"),
           "habits": place("folder of the model of habits")},
    writes={"out": table("prior"), "counts": COUNTS},
    options={"how": {"choices": ["vector", "logits"], "required": True,
                     "help": "the value of prompt.prior that this table is for"}},
    message=lambda args, frame, counts: f"prior: {counts['rows']:,} events" if counts["rows"] else
        f"prior: no table for {args.how}, since prompt.prior is another or none",
)

if __name__ == "__main__":
    STAGE.run()
